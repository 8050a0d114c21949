/* engine/cpu/cpu_kernels_avx512bf16.c - AVX-512 with the bf16 dot product: models whose matrices are
 * all bf16 get twice the arithmetic, with activations rounded to bf16; all else is as in AVX-512.
 *
 * The instruction adds two products to each float lane and flushes subnormals; it is the same on every
 * row, so results still do not depend on the batch. */
#include "engine/cpu/cpu_vec_avx512.h"

#include "engine/cpu/cpu_simd.h"

enum { PAIR_LANES = 32 };

void cpu_avx512_gemm_bf16_bf16(const struct cpu_gemm *g, uint32_t n0, uint32_t n1);

#define GEMM_TALL 1
#define GEMM_NAME SIMD(gemm_bf16_bf16)
#define GEMM_X uint16_t
#define GEMM_W uint16_t
#define GEMM_XV __m512i
#define GEMM_WV __m512i
#define GEMM_STEP PAIR_LANES
#define GEMM_LOAD_X(p) _mm512_loadu_si512(p)
#define GEMM_LOAD_W(p) _mm512_loadu_si512(p)
#define GEMM_LOAD_W_N(p, n) _mm512_maskz_loadu_epi16((__mmask32)((1u << (n)) - 1), p)
#define GEMM_MAC(acc, x, w) _mm512_dpbf16_ps(acc, (__m512bh)(x), (__m512bh)(w))
#include "engine/cpu/cpu_simd_gemm.h"

static void round_bf16(uint16_t *out, const float *x, uint32_t n)
{
    uint32_t i = 0;

    for (; i + VEC_LANES <= n; i += VEC_LANES)
        _mm256_storeu_si256((__m256i *)(void *)(out + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
    if (i < n)
        _mm256_mask_storeu_epi16(out + i, vmask(n - i),
                                 (__m256i)_mm512_cvtneps_pbh(vload_n(x + i, n - i)));
}

const struct cpu_kernels cpu_kernels_avx512bf16 = {
    .name = "avx512bf16",
    .gemm_f32 = cpu_avx512_gemm_f32,
    .gemm_f16 = cpu_avx512_gemm_f16,
    .gemm_bf16 = cpu_avx512_gemm_bf16,
    .gemm_bf16_bf16 = cpu_avx512_gemm_bf16_bf16,
    .attend = cpu_avx512_attend,
    .rmsnorm = cpu_avx512_rmsnorm,
    .silu_mul = cpu_avx512_silu_mul,
    .round_bf16 = round_bf16,
};
