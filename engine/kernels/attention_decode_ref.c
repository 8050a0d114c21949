/* engine/kernels/attention_decode_ref.c - attention by its definition, in double. */
#include "engine/kernels/attention_decode.h"

#include <math.h>
#include <string.h>

static double from_half(uint16_t h)
{
    int exponent = h >> 10 & 31, rest = h & 1023;
    double v = exponent == 31  ? (rest != 0 ? (double)NAN : (double)INFINITY)
               : exponent == 0 ? ldexp(rest, -24)
                               : ldexp(1024 + rest, exponent - 25);

    return h & 0x8000 ? -v : v;
}

static double value(enum gpu_dtype dtype, const uint16_t *p)
{
    uint32_t word = (uint32_t)*p << 16;
    float f;

    if (dtype == GPU_F16)
        return from_half(*p);
    memcpy(&f, &word, sizeof(f));
    return (double)f;
}

static const uint16_t *key_of(const struct gpu_kv *kv, const uint32_t *blocks, uint32_t head,
                              uint32_t key)
{
    size_t run = (size_t)head * kv->block_tokens + key % kv->block_tokens;

    return (const uint16_t *)(const void *)(kv->k +
                                            blocks[key / kv->block_tokens] * kv->block_stride) +
           run * kv->head_dim;
}

static double score(const struct attention *a, const uint16_t *q, const uint16_t *k)
{
    double sum = 0.0;

    for (uint32_t d = 0; d < a->kv.head_dim; d++)
        sum += value(a->kv.dtype, q + d) * value(a->kv.dtype, k + d);
    return sum * (double)a->scale;
}

static void head_ref(float *out, const struct attention *a, const uint32_t *blocks,
                     const uint16_t *q, uint32_t kv_head, uint32_t position)
{
    uint32_t first = a->window != 0 && position >= a->window ? position - a->window + 1 : 0;
    double highest = (double)-INFINITY, weights = 0.0, sums[128] = {0};

    for (uint32_t key = first; key <= position; key++)
        highest = fmax(highest, score(a, q, key_of(&a->kv, blocks, kv_head, key)));
    for (uint32_t key = first; key <= position; key++) {
        const uint16_t *k = key_of(&a->kv, blocks, kv_head, key), *v = k + a->kv.v_offset / 2;
        double w = exp(score(a, q, k) - highest);

        weights += w;
        for (uint32_t d = 0; d < a->kv.head_dim; d++)
            sums[d] += w * value(a->kv.dtype, v + d);
    }
    for (uint32_t d = 0; d < a->kv.head_dim; d++)
        out[d] = (float)(sums[d] / weights);
}

void attention_row_ref(float *out, const struct attention *a, const uint32_t *blocks, uint32_t row,
                       uint32_t position)
{
    uint32_t group = a->n_q_heads / a->kv.n_kv_heads, dim = a->kv.head_dim;

    for (uint32_t h = 0; h < a->n_q_heads; h++)
        head_ref(out + (size_t)h * dim, a, blocks, a->q + (size_t)row * a->q_stride + h * dim,
                 h / group, position);
}

void attention_decode_ref(float *out, const struct attention *a, const struct gpu_batch *b)
{
    for (uint32_t r = 0; r < b->n_rows; r++) {
        if (b->slot[r] >= 0)
            attention_row_ref(out + (size_t)r * a->n_q_heads * a->kv.head_dim, a,
                              b->blocks + (size_t)b->slot[r] * b->max_blocks, r,
                              (uint32_t)b->position[r]);
    }
}
