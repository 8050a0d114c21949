/* engine/cpu/cpu_kernels_portable.c - the kernels in plain C: what the others are held against, and
 * what runs where none of them can.  Eight partial sums per product let a compiler use whatever
 * vector unit it was told about. */
#include "engine/cpu/cpu_kernels.h"

#include <math.h>
#include <string.h>

enum { LANES = 8, CHUNK = 512 };

static float add_lanes(const float acc[LANES])
{
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

static void dot_chunk(float acc[LANES], const float *x, const float *w, size_t n)
{
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++)
            acc[l] += x[i + l] * w[i + l];
    }
    for (; i < n; i++)
        acc[i % LANES] += x[i] * w[i];
}

static void store(const struct cpu_gemm *g, uint32_t i, uint32_t n, float sum)
{
    float *out = g->out + i * g->ldo + n;

    if (g->bias != NULL)
        sum += g->bias[n];
    *out = g->add ? *out + sum : sum;
}

/* A weight row is widened piece by piece into a buffer that stays in the first-level cache. */
static void gemm(const struct cpu_gemm *g, uint32_t n0, uint32_t n1, enum engine_dtype dtype)
{
    const size_t elem = dtype == ENGINE_F32 ? 4 : 2;
    const float *x = g->x;

    for (uint32_t n = n0; n < n1; n++) {
        const uint8_t *row = (const uint8_t *)g->w + (size_t)n * g->ldw * elem;

        for (uint32_t i = 0; i < g->m; i++) {
            float acc[LANES] = {0};

            for (size_t k = 0; k < g->k; k += CHUNK) {
                size_t len = g->k - k < CHUNK ? g->k - k : CHUNK;
                float w[CHUNK];

                cpu_to_float(w, row + k * elem, dtype, len);
                dot_chunk(acc, x + i * g->ldx + k, w, len);
            }
            store(g, i, n, add_lanes(acc));
        }
    }
}

static void gemm_f32(const struct cpu_gemm *g, uint32_t n0, uint32_t n1)
{
    gemm(g, n0, n1, ENGINE_F32);
}

static void gemm_f16(const struct cpu_gemm *g, uint32_t n0, uint32_t n1)
{
    gemm(g, n0, n1, ENGINE_F16);
}

static void gemm_bf16(const struct cpu_gemm *g, uint32_t n0, uint32_t n1)
{
    gemm(g, n0, n1, ENGINE_BF16);
}

/* One query over its keys in blocks, with the running maximum and total of the softmax. */
static void attend_row(const struct cpu_attend *a, const float *q, float *out, uint32_t n_keys)
{
    float top = -INFINITY, total = 0;
    float *sum = a->scratch, *score = a->scratch + a->head_dim;

    memset(sum, 0, a->head_dim * sizeof(float));
    for (uint32_t first = 0; first < n_keys; first += CPU_KEY_BLOCK) {
        uint32_t n = n_keys - first < CPU_KEY_BLOCK ? n_keys - first : CPU_KEY_BLOCK;
        float block_top = top, shrink;

        for (uint32_t j = 0; j < n; j++) {
            float acc[LANES] = {0};

            dot_chunk(acc, q, cpu_kv_row(a, a->k, first + j), a->head_dim);
            score[j] = add_lanes(acc) * a->scale;
            block_top = score[j] > block_top ? score[j] : block_top;
        }
        shrink = expf(top - block_top);
        total *= shrink;
        for (uint32_t d = 0; d < a->head_dim; d++)
            sum[d] *= shrink;
        for (uint32_t j = 0; j < n; j++) {
            const float *v = cpu_kv_row(a, a->v, first + j);
            float p = expf(score[j] - block_top);

            total += p;
            for (uint32_t d = 0; d < a->head_dim; d++)
                sum[d] += p * v[d];
        }
        top = block_top;
    }
    for (uint32_t d = 0; d < a->head_dim; d++)
        out[d] = sum[d] / total;
}

static void attend(const struct cpu_attend *a)
{
    for (uint32_t t = 0; t < a->n_tokens; t++) {
        for (uint32_t h = 0; h < a->n_heads; h++) {
            size_t at = t * a->ldq + (size_t)h * a->head_dim;

            attend_row(a, a->q + at, a->out + at, a->position + t + 1);
        }
    }
}

static void rmsnorm(float *out, const float *x, const float *w, uint32_t n, float eps)
{
    float acc[LANES] = {0};
    float scale;

    dot_chunk(acc, x, x, n);
    scale = 1.0f / sqrtf(add_lanes(acc) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void silu_mul(float *out, const float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

const struct cpu_kernels cpu_kernels_portable = {
    .name = "portable",
    .gemm_f32 = gemm_f32,
    .gemm_f16 = gemm_f16,
    .gemm_bf16 = gemm_bf16,
    .attend = attend,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .round_bf16 = cpu_round_bf16,
};
