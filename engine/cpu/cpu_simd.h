/* engine/cpu/cpu_simd.h - what the vector kernels share, written in the words
 * of cpu_vec_*.h and included once per instruction set.
 *
 * An unrolled loop over an array of vectors becomes registers; UNROLL asks for
 * it in both compilers. */
#ifndef ENGINE_CPU_CPU_SIMD_H
#define ENGINE_CPU_CPU_SIMD_H

#include "engine/cpu/cpu_kernels.h"

#define UNROLL_TEXT(x) _Pragma(#x)
#ifdef __clang__
#define UNROLL UNROLL_TEXT(clang loop unroll(full))
#else
#define UNROLL UNROLL_TEXT(GCC unroll 16)
#endif

/* Activation rows that stay in the second-level cache while all weights pass
 * by. */
enum { L2_SHARE = 384 << 10 };

void SIMD(gemm_f32)(const struct cpu_gemm *g, uint32_t n0, uint32_t n1);
void SIMD(gemm_f16)(const struct cpu_gemm *g, uint32_t n0, uint32_t n1);
void SIMD(gemm_bf16)(const struct cpu_gemm *g, uint32_t n0, uint32_t n1);
void SIMD(attend)(const struct cpu_attend *a);
void SIMD(rmsnorm)(float *out, const float *x, const float *w, uint32_t n,
                   float eps);
void SIMD(silu_mul)(float *out, const float *gate, const float *up, uint32_t n);

static inline uint32_t block_rows(size_t row_bytes) {
  size_t rows = L2_SHARE / row_bytes / TILE_ROWS * TILE_ROWS;

  return rows < TILE_ROWS ? TILE_ROWS : (uint32_t)rows;
}

/* count: 1 or 4 sums for row i, columns n on.  The same additions in the same
 * order for both. */
static inline __attribute__((always_inline)) void
store_sums(const struct cpu_gemm *g, uint32_t i, uint32_t n, __m128 sums,
           const int count) {
  float *out = g->out + i * g->ldo + n;

  if (count == 1) {
    float s = _mm_cvtss_f32(sums);

    if (g->bias != NULL)
      s += g->bias[n];
    *out = g->add ? *out + s : s;
    return;
  }
  if (g->bias != NULL)
    sums = _mm_add_ps(sums, _mm_loadu_ps(g->bias + n));
  if (g->add)
    sums = _mm_add_ps(_mm_loadu_ps(out), sums);
  _mm_storeu_ps(out, sums);
}

#endif
