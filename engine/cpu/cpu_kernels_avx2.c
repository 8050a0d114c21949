/* engine/cpu/cpu_kernels_avx2.c - the kernels for AVX2 with FMA and F16C. */
#include "engine/cpu/cpu_vec_avx2.h"

#include "engine/cpu/cpu_simd.h"
#include "engine/cpu/cpu_simd_rows.h"

#define GEMM_TALL 0
#include "engine/cpu/cpu_simd_float_gemms.h"

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2",
    .gemm_f32 = cpu_avx2_gemm_f32,
    .gemm_f16 = cpu_avx2_gemm_f16,
    .gemm_bf16 = cpu_avx2_gemm_bf16,
    .attend = cpu_avx2_attend,
    .rmsnorm = cpu_avx2_rmsnorm,
    .silu_mul = cpu_avx2_silu_mul,
    .round_bf16 = cpu_round_bf16,
};
