/* engine/cpu/cpu_kernels.h - the arithmetic of the CPU backend, one table of functions per
 * instruction set.
 *
 * The rule that all of them keep: the bits of a result row depend on that row's inputs alone.  Not on
 * how many rows are computed together, nor on where a row stands in a tile, nor on which thread does
 * it, nor on how a prompt was cut.  So every sum has one order:
 *   matrix product  lane l of one accumulator takes k = l, l + L, l + 2L ... (L lanes), then the lanes
 *                   are added by a fixed tree;
 *   attention       keys in blocks of CPU_KEY_BLOCK by absolute position, merged in order.
 * Between instruction sets results differ by rounding.
 *
 * Pure code.  Thread: any; scratch belongs to one call.  Layout: row-major. */
#ifndef ENGINE_CPU_CPU_KERNELS_H
#define ENGINE_CPU_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine_model.h"

enum {
    CPU_K_PAD = 32,       /* activations rows are zero-padded to a multiple of this */
    CPU_KEY_BLOCK = 64,   /* keys per step of the running softmax */
    CPU_ATTEND_ROWS = 32, /* most query rows (tokens x heads) in one call */
    CPU_ALIGN = 64
};

/* out[i*ldo + n] = dot(x[i], w[n]) (+ bias[n]) (+ what was there, if add), for i in [0, m). */
struct cpu_gemm {
    const void *x; /* float, or bf16 where the function says so; CPU_ALIGN aligned */
    size_t ldx;    /* elements, a multiple of CPU_K_PAD; zero from k on */
    uint32_t m, k;
    const void *w; /* row n at w + n * ldw elements; aligned to its element only */
    size_t ldw;    /* k, or more where w is some columns of a wider matrix */
    float *out;
    size_t ldo;
    const float *bias; /* or NULL */
    bool add;
};
/* The columns [n0, n1). */
typedef void (*cpu_gemm_fn)(const struct cpu_gemm *g, uint32_t n0, uint32_t n1);

/* Causal attention of n_tokens consecutive tokens x n_heads query heads that share one KV head.
 * Token t stands at `position` + t and sees the keys [0, position + t]. */
struct cpu_attend {
    const float *q; /* head h of token t at q + t*ldq + h*head_dim */
    float *out;     /* same layout; may not overlap q */
    size_t ldq;
    uint32_t n_tokens, n_heads; /* n_tokens * n_heads <= CPU_ATTEND_ROWS */
    uint32_t position, head_dim;
    /* key j: k + blocks[j / block_tokens] * block_bytes, row j % block_tokens; values alike */
    const uint8_t *k, *v;
    const uint32_t *blocks;
    uint32_t block_tokens;
    size_t block_bytes;
    float scale;
    float *scratch; /* cpu_attend_scratch(head_dim) floats, CPU_ALIGN aligned */
};
size_t cpu_attend_scratch(uint32_t head_dim);

struct cpu_kernels {
    const char *name;
    cpu_gemm_fn gemm_f32, gemm_f16, gemm_bf16; /* by weight type; x is float */
    cpu_gemm_fn gemm_bf16_bf16;                /* x and w are bf16; NULL: no such instruction */
    void (*attend)(const struct cpu_attend *a);
    void (*rmsnorm)(float *out, const float *x, const float *w, uint32_t n, float eps);
    void (*silu_mul)(float *out, const float *gate, const float *up, uint32_t n);
    void (*round_bf16)(uint16_t *out, const float *x, uint32_t n); /* to nearest, ties to even */
};

enum cpu_isa {
    CPU_ISA_PORTABLE = 0,
    CPU_ISA_AVX2,
    CPU_ISA_AVX512,
    CPU_ISA_AVX512_BF16,
    CPU_ISA_COUNT
};

/* NULL: not in this build, or not on this processor. */
const struct cpu_kernels *cpu_kernels_get(enum cpu_isa isa);
const struct cpu_kernels *cpu_kernels_best(void);

/* dst[i] = (float)src[i], exact for every type. */
void cpu_to_float(float *dst, const void *src, enum engine_dtype dtype, size_t n);

/* The plain version of cpu_kernels.round_bf16. */
void cpu_round_bf16(uint16_t *out, const float *x, uint32_t n);

extern const struct cpu_kernels cpu_kernels_portable, cpu_kernels_avx2, cpu_kernels_avx512,
    cpu_kernels_avx512bf16;

static inline float cpu_bf16_to_float(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};

    return v.f;
}

static inline const float *cpu_kv_row(const struct cpu_attend *a, const uint8_t *base, uint32_t j)
{
    const uint8_t *block = base + (size_t)a->blocks[j / a->block_tokens] * a->block_bytes;

    return (const float *)(const void *)block + (size_t)(j % a->block_tokens) * a->head_dim;
}

#endif
