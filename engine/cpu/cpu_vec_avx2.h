/* engine/cpu/cpu_vec_avx2.h - the vector words that cpu_simd.h is written in, for AVX2 with FMA.
 *
 *   vf: 8 floats.  _n variants touch the first n elements only, 0 < n < VEC_LANES. */
#ifndef ENGINE_CPU_CPU_VEC_AVX2_H
#define ENGINE_CPU_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SIMD(name) cpu_avx2_##name
enum { VEC_LANES = 8, TILE_ROWS = 3, TILE_COLS = 4, WIDE_ROWS = 1, WIDE_COLS = 8 };
typedef __m256 vf;

static inline __m256i vmask(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vzero(void)
{
    return _mm256_setzero_ps();
}
static inline vf vset(float x)
{
    return _mm256_set1_ps(x);
}
static inline vf vload(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline vf vload_n(const float *p, uint32_t n)
{
    return _mm256_maskload_ps(p, vmask(n));
}
static inline void vstore(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
static inline void vstore_n(float *p, vf a, uint32_t n)
{
    _mm256_maskstore_ps(p, vmask(n), a);
}
static inline __m128i vload_half_n(const uint16_t *p, uint32_t n)
{
    uint16_t whole[VEC_LANES] = {0};

    memcpy(whole, p, n * sizeof(uint16_t));
    return _mm_loadu_si128((const __m128i *)(const void *)whole);
}
static inline vf vload_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vf vload_f16_n(const uint16_t *p, uint32_t n)
{
    return _mm256_cvtph_ps(vload_half_n(p, n));
}
static inline vf vwiden_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline vf vload_bf16(const uint16_t *p)
{
    return vwiden_bf16(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vf vload_bf16_n(const uint16_t *p, uint32_t n)
{
    return vwiden_bf16(vload_half_n(p, n));
}
static inline vf vadd(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
static inline vf vsub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
static inline vf vmul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
static inline vf vdiv(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
static inline vf vfma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf vfnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/* Of two where one is NaN: b. */
static inline vf vmax(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
static inline vf vmin(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
/* Lanes from n on become x. */
static inline vf vfill_from(vf a, uint32_t n, float x)
{
    return _mm256_blendv_ps(_mm256_set1_ps(x), a, _mm256_castsi256_ps(vmask(n)));
}
static inline vf vround(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for whole n in -200 .. 200: in two factors, since 2^n alone may not be a normal float. */
static inline vf vscale2(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    vf f = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf g = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));

    return _mm256_mul_ps(_mm256_mul_ps(a, f), g);
}
static inline float vreduce_max(vf a)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline vf vpair4(vf a, vf b)
{
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
static inline vf vpair2(vf a, vf b)
{
    __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);

    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
}
static inline vf vpair1(vf a, vf b)
{
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
/* The sums of four vectors, by one tree: lanes l and l + 4, then + 2, then + 1. */
static inline __m128 vreduce4(vf a, vf b, vf c, vf d)
{
    vf pairs = vpair2(vpair4(a, b), vpair4(c, d)); /* [a a c c | b b d d] */
    vf sums = vpair1(pairs, pairs);                /* [a c a c | b d b d] */

    return _mm_unpacklo_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}
static inline float vreduce_add(vf a)
{
    return _mm_cvtss_f32(vreduce4(a, a, a, a));
}
/* The sums of the 8 vectors, in order; same tree as vreduce4. */
static inline vf vreduce_all(const vf a[VEC_LANES])
{
    vf x = vpair2(vpair4(a[0], a[4]), vpair4(a[1], a[5]));
    vf y = vpair2(vpair4(a[2], a[6]), vpair4(a[3], a[7]));

    return vpair1(x, y);
}

#endif
