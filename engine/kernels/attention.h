/* engine/kernels/attention.h - what the two attention kernels share: the rule, the operands, the reference.
 *
 *   out[r][h] = sum_j p[j] V[j],   p = softmax over j of scale * (q[r][h] . K[j])
 *
 * over the keys j of the row's slot with  position - window < j <= position  (window 0: 0 <= j <= position), where
 * query head h reads KV head h / (n_q_heads / n_kv_heads).
 *
 *   q, out  [rows][n_q_heads][head_dim] of kv.dtype; a row's heads lie together, rows are q_stride and out_stride
 *           elements apart (q may stand inside rows of q, k and v); both 16-byte aligned, strides a multiple of 8
 *   K, V    in the paged blocks (gpu_batch.h), the rows' own keys already written
 *   sums    fp32, weights rounded to kv.dtype before they meet V, the result rounded once
 *
 * Limits: head_dim 64, 96 or 128; n_q_heads a multiple of n_kv_heads, at most 8,192, any group; scale > 0; at most
 * ATTENTION_MAX_CONTEXT keys in a slot's table.  Only keys that a row may see are read: the rest of a block, and the
 * blocks that lie wholly before a window, may hold anything. */
#ifndef ENGINE_KERNELS_ATTENTION_H
#define ENGINE_KERNELS_ATTENTION_H

#include <stdint.h>

#include "engine/kernels/gpu_batch.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ATTENTION_MAX_CONTEXT (1u << 24)

struct attention {
    struct gpu_kv kv; /* of one layer */
    const uint16_t *q;
    uint16_t *out;
    uint32_t q_stride, out_stride; /* elements from row to row */
    uint32_t n_q_heads;
    uint32_t window; /* keys a row sees, its own included; 0: all */
    float scale;     /* 1 / sqrt(head_dim), as a rule */
};

/* One row by the definition above, in double: out[n_q_heads * head_dim], all pointers of a and blocks (the row's
 * table) in host memory, row and position the row's.  Serves the references of both kernels. */
void attention_row_ref(float *out, const struct attention *a, const uint32_t *blocks, uint32_t row,
                       uint32_t position);

#ifdef __cplusplus
}
#endif
#endif
