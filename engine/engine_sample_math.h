/* engine/engine_sample_math.h - private to engine: the numbers a draw is made of, the same on CPU and GPU.
 *
 * A token's probability is an integer weight: 2^40 for the most likely one, 2^(40 + x) rounded for a token x octaves
 * below it (x <= 0).  Sums of integers do not depend on their order, and shares of them are taken in integers too, so
 * one thread and a thousand, whatever they add first, draw the same token.  The exponential is our own polynomial in
 * plain float operations, because libraries differ between processors.
 *
 * A rank orders logits as integers.  Pure code.  Thread: any. */
#ifndef ENGINE_ENGINE_SAMPLE_MATH_H
#define ENGINE_ENGINE_SAMPLE_MATH_H

#include <string.h>

#include "engine/engine_pure.h"

#define ENGINE_LOG2_E 1.44269504088896341f
#define ENGINE_GREEDY_BELOW 1e-5f /* temperatures below cannot be told from greedy */

enum { ENGINE_WEIGHT_BITS = 40 };

/* Larger logit, larger rank; -0 and 0 are equal.  Not for NaN. */
ENGINE_PURE uint32_t engine_rank(float logit)
{
    uint32_t bits;

    logit += 0.0f;
    memcpy(&bits, &logit, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* 2^(40 + x) for x <= 0, relative error under 2e-7; for x below -126, and for NaN, it stays at 2^-86. */
ENGINE_PURE float engine_exp2_weight(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float shifted, f, p;
    uint32_t bits, n;

    x = x > -126.0f ? x : -126.0f;
    shifted = x + magic;
    f = x - (shifted - magic);
    memcpy(&n, &shifted, 4);
    p = 1.5252734e-5f;
    p = engine_mul(p, f) + 1.5403530e-4f;
    p = engine_mul(p, f) + 1.3333558e-3f;
    p = engine_mul(p, f) + 9.6181291e-3f;
    p = engine_mul(p, f) + 5.5504109e-2f;
    p = engine_mul(p, f) + 2.4022651e-1f;
    p = engine_mul(p, f) + 6.9314718e-1f;
    p = engine_mul(p, f) + 1.0f;
    memcpy(&bits, &p, 4);
    bits += (n + ENGINE_WEIGHT_BITS) << 23; /* the magic's own bits are shifted out */
    memcpy(&p, &bits, 4);
    return p;
}

/* To the nearest integer, of 0 .. 2^51, by an addition in the range where doubles are integers: compilers do several
 * of these at once, which they cannot do with conversions to 64 bits. */
ENGINE_PURE uint64_t engine_to_integer(float v)
{
    double shifted = (double)v + 0x1p52;
    uint64_t bits;

    memcpy(&bits, &shifted, 8);
    return bits - UINT64_C(0x4330000000000000); /* the bits of 2^52 */
}

ENGINE_PURE uint64_t engine_weight(float logit, float max, float scale)
{
    return engine_to_integer(engine_exp2_weight(engine_mul(logit - max, scale)));
}

/* top_p as a fraction of 2^64, exact from 2^-40 up; 0: all is kept. */
ENGINE_PURE uint64_t engine_share(float top_p)
{
    if (!(top_p < 1.0f))
        return 0;
    return top_p >= 0x1p-64f ? (uint64_t)(top_p * 0x1p64f) : 1;
}

/* The least weight that is that share of total, rounded up; at least 1 of a total of at least 1. */
ENGINE_PURE uint64_t engine_share_of(uint64_t total, uint64_t share)
{
    return engine_mul_high(total, share) + (total * share != 0);
}

/* The weight below which min_p excludes a token. */
ENGINE_PURE uint64_t engine_least(float min_p)
{
    return (uint64_t)(min_p * 0x1p40f);
}

#endif
