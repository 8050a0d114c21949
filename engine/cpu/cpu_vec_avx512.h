/* engine/cpu/cpu_vec_avx512.h - the vector words that cpu_simd.h is written in, for AVX-512.
 *
 *   vf: 16 floats.  _n variants touch the first n elements only, 0 < n < VEC_LANES. */
#ifndef ENGINE_CPU_CPU_VEC_AVX512_H
#define ENGINE_CPU_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define SIMD(name) cpu_avx512_##name
enum { VEC_LANES = 16, TILE_ROWS = 6, TILE_COLS = 4, WIDE_ROWS = 2, WIDE_COLS = 8 };
typedef __m512 vf;

static inline __mmask16 vmask(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}
static inline vf vzero(void)
{
    return _mm512_setzero_ps();
}
static inline vf vset(float x)
{
    return _mm512_set1_ps(x);
}
static inline vf vload(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline vf vload_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(vmask(n), p);
}
static inline void vstore(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
static inline void vstore_n(float *p, vf a, uint32_t n)
{
    _mm512_mask_storeu_ps(p, vmask(n), a);
}
static inline vf vload_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vf vload_f16_n(const uint16_t *p, uint32_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vmask(n), p));
}
static inline vf vwiden_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
static inline vf vload_bf16(const uint16_t *p)
{
    return vwiden_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vf vload_bf16_n(const uint16_t *p, uint32_t n)
{
    return vwiden_bf16(_mm256_maskz_loadu_epi16(vmask(n), p));
}
static inline vf vadd(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf vsub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf vmul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf vdiv(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
static inline vf vfma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf vfnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* Of two where one is NaN: b. */
static inline vf vmax(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
static inline vf vmin(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
/* Lanes from n on become x. */
static inline vf vfill_from(vf a, uint32_t n, float x)
{
    return _mm512_mask_blend_ps(vmask(n), _mm512_set1_ps(x), a);
}
static inline vf vround(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for whole n. */
static inline vf vscale2(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}
static inline float vreduce_max(vf a)
{
    return _mm512_reduce_max_ps(a);
}

/* The sums of four vectors, by one tree: lanes l and l + 8, then + 4, then + 2, then + 1. */
static inline __m128 vreduce4(vf a, vf b, vf c, vf d)
{
    __m512 lo = _mm512_shuffle_f32x4(a, b, 0x44), hi = _mm512_shuffle_f32x4(a, b, 0xee);
    __m512 ab = _mm512_add_ps(lo, hi), cd, all;
    __m256 low, high, pairs;

    lo = _mm512_shuffle_f32x4(c, d, 0x44);
    hi = _mm512_shuffle_f32x4(c, d, 0xee);
    cd = _mm512_add_ps(lo, hi);
    lo = _mm512_shuffle_f32x4(ab, cd, 0x88);
    hi = _mm512_shuffle_f32x4(ab, cd, 0xdd);
    all = _mm512_add_ps(lo, hi); /* [a b c d], four partial sums each */
    low = _mm512_castps512_ps256(all);
    high = _mm512_extractf32x8_ps(all, 1);
    pairs = _mm256_add_ps(
        _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(low), _mm256_castps_pd(high))),
        _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(low), _mm256_castps_pd(high))));
    /* pairs = [a a c c | b b d d] */
    low = _mm256_shuffle_ps(pairs, pairs, 0x88);
    high = _mm256_shuffle_ps(pairs, pairs, 0xdd);
    low = _mm256_add_ps(low, high); /* [a c a c | b d b d] */
    return _mm_unpacklo_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
}
static inline float vreduce_add(vf a)
{
    return _mm_cvtss_f32(vreduce4(a, a, a, a));
}

static inline vf vpair8(vf a, vf b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
static inline vf vpair4(vf a, vf b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
static inline vf vpair2(vf a, vf b)
{
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);

    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
static inline vf vpair1(vf a, vf b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
/* The sums of the 16 vectors, in order; same tree as vreduce4. */
static inline vf vreduce_all(const vf a[VEC_LANES])
{
    vf v0 = vpair4(vpair8(a[0], a[4]), vpair8(a[8], a[12]));
    vf v1 = vpair4(vpair8(a[1], a[5]), vpair8(a[9], a[13]));
    vf v2 = vpair4(vpair8(a[2], a[6]), vpair8(a[10], a[14]));
    vf v3 = vpair4(vpair8(a[3], a[7]), vpair8(a[11], a[15]));

    return vpair1(vpair2(v0, v1), vpair2(v2, v3));
}

#endif
