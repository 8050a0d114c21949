/* engine/kernels/attention_decode.h - attention of rows that stand alone: one new token per slot (attention.h).
 *
 * Every row of the batch is one query over its slot's keys; several rows of one slot are fine.  Filler rows (slot -1)
 * cost nothing and their output is not touched.  Positions and tables are read on the device when the kernel runs,
 * so a launch may stand in a graph; the launch depends only on n_rows, max_blocks and the operands.
 *
 * A row's keys are cut into splits of at least ATTENTION_DECODE_KEYS, which blocks take one after the other; the one that
 * finishes a row's last split adds them up.  Where the cuts lie depends on the row's position, the window and the
 * heads, never on the other rows, the slot's blocks or the device: a row has the same bits in every batch.
 *
 * Workspace: attention_decode_workspace() bytes, 256-byte aligned, zero before its first launch (a launch leaves its
 * counters zero again).  It serves launches of up to that many rows, with the same heads; two launches that may run at
 * once need two.
 *
 * Moves 4 * head_dim * n_kv_heads bytes per visible key (K and V, once per 16 query heads of a group) and q and out;
 * besides, per split and query head, 4 * head_dim bytes of partial sums to and from the second cache. */
#ifndef ENGINE_KERNELS_ATTENTION_DECODE_H
#define ENGINE_KERNELS_ATTENTION_DECODE_H

#include <stddef.h>

#include "engine/kernels/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ATTENTION_DECODE_KEYS \
    256u /* of a split, while a row needs no more splits than there may be */
#define ATTENTION_DECODE_MAX_ROWS 1024u

/* For up to n_rows rows of a table of max_blocks blocks of a.kv.block_tokens (their product is the longest context).
 * 0: outside the limits. */
size_t attention_decode_workspace(const struct attention *a, uint32_t n_rows, uint32_t max_blocks);

/* Enqueue.  n_rows 0 does nothing.  n_multiprocessors: of the device (gpu_info).
 * ERR_INVALID: outside the limits above; ERR_DEVICE: the launch was refused. */
MUST_USE enum err attention_decode(const struct attention *a, const struct gpu_batch *b,
                                   void *workspace, uint32_t n_multiprocessors, gpu_stream stream);

/* The plain definition on host memory: out is dense, [n_rows][n_q_heads * head_dim]; filler rows are not touched. */
void attention_decode_ref(float *out, const struct attention *a, const struct gpu_batch *b);

#ifdef __cplusplus
}
#endif
#endif
