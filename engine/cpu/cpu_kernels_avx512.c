/* engine/cpu/cpu_kernels_avx512.c - the kernels for AVX-512 (F, BW, VL, DQ). */
#include "engine/cpu/cpu_vec_avx512.h"

#include "engine/cpu/cpu_simd.h"
#include "engine/cpu/cpu_simd_rows.h"

#define GEMM_TALL 1
#include "engine/cpu/cpu_simd_float_gemms.h"

const struct cpu_kernels cpu_kernels_avx512 = {
    .name = "avx512",
    .gemm_f32 = cpu_avx512_gemm_f32,
    .gemm_f16 = cpu_avx512_gemm_f16,
    .gemm_bf16 = cpu_avx512_gemm_bf16,
    .attend = cpu_avx512_attend,
    .rmsnorm = cpu_avx512_rmsnorm,
    .silu_mul = cpu_avx512_silu_mul,
    .round_bf16 = cpu_round_bf16,
};
