/* engine/kernels/sample.h - one token from each row of logits: the token engine_sample() gives, to the last bit.
 *
 *   logits    fp32 [n_rows][vocab], rows row_stride floats apart, 16-byte aligned.  Scratch: edits are made in place.
 *   rows      [n_rows] what to do with each, read on the device, so that a launch in a graph serves every step
 *   edits     the edits of all rows; a row's lie together: history, then bias, then bans (sample_row_make)
 *   tokens    int32 [n_rows]; a row of SAMPLE_SKIP leaves its token and its logits alone
 *   workspace sample_workspace_bytes(n_rows, vocab), 16-byte aligned, contents of no interest; not shared by launches
 *             that may overlap
 *
 * The result is defined by engine/engine_sample.c: edits, largest logit, integer weights (engine_sample_math.h), the
 * threshold keys of top_k and top_p, min_p, a Philox draw that walks the kept tokens by id.  All of it is order-free,
 * so kernels may add and compare in any order and still draw the same token.  Log probabilities are not computed: for
 * rows that want them sample_row_make says that the host has to sample, from a copy of the row.
 *
 * sample() only enqueues (three kernels): it does not wait, allocate or change the device.  Limits, else ERR_INVALID
 * and no launch: n_rows <= 65,535 (0: nothing to do), 1 <= vocab <= SAMPLE_VOCAB_MAX, row_stride >= vocab and a
 * multiple of 4, alignment.  ERR_DEVICE: a launch was refused.  Tokens in edits outside the vocabulary are passed over.
 *
 * Moves 4 * n_rows * vocab bytes once from device memory for any row (64 rows of 128,256: 33 MB), which is what bounds
 * greedy rows.  Rows that draw read them once more for the weights (not with top_k), and then only the runs of 128
 * tokens that can hold a candidate; 33 MB stay in the second-level cache of an H100.
 *
 * Vocabulary-parallel heads: gather first, sample once.  Rank r of tp holds columns [r * vocab / tp, ...) of each row;
 * an all-gather leaves tp such pieces, gpu_copy_2d puts each beside the others as rows of `vocab`, and rank 0 samples
 * and sends n_rows tokens.  Nothing here knows of ranks.
 *
 * Pure C header.  Thread: any, one workspace each.  Ownership: all buffers are the caller's until the stream has
 * passed this point. */
#ifndef ENGINE_KERNELS_SAMPLE_H
#define ENGINE_KERNELS_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct engine_sampling; /* engine/engine_sample.h */
struct engine_history;

enum { SAMPLE_VOCAB_MAX = 1 << 19 };

enum sample_mode {
    SAMPLE_SKIP = 0, /* a row that fills up a graph, or that the host samples */
    SAMPLE_GREEDY,
    SAMPLE_DRAW
};

/* history: repetition penalty, then value is taken off; bias: value is added; ban: -inf.  A token has at most one edit
 * in the history; several biases of one token are added in their order. */
struct sample_edit {
    int32_t token;
    float value;
};

struct sample_row {
    uint32_t mode;         /* enum sample_mode */
    uint32_t sample_index; /* of the generated token: the counter of its draw */
    uint64_t seed;
    uint64_t share; /* engine_share(top_p); 0: off */
    uint64_t least; /* engine_least(min_p); 0: off */
    uint32_t top_k; /* 0: off */
    float scale;    /* log2(e) / temperature */
    float repetition_penalty;
    int32_t fallback; /* the token if no logit is above -inf */
    uint32_t first_edit;
    uint32_t n_history, n_bias, n_bans;
};

struct sample_args {
    float *logits;
    const struct sample_row *rows;
    const struct sample_edit *edits; /* may be NULL if no row has any */
    int32_t *tokens;
    void *workspace;
    uint32_t n_rows, vocab, row_stride;
};

size_t sample_workspace_bytes(uint32_t n_rows, uint32_t vocab);
MUST_USE enum err sample(const struct sample_args *a, gpu_stream stream);

/* ---- on the host ---- */

/* The descriptor of one row.  Its edits are written to edits[*n ..], which has room for n_max in all, and *n is moved
 * on.  A penalised row has an edit for every distinct token that counts (of the output alone if the repetition penalty
 * is 1), then one per bias, then one per banned stop id: 8 bytes each, so n_max bounds what a step copies.  False: the
 * host has to sample this row with engine_sample(), since log probabilities are wanted or the edits do not fit; then
 * the row is SAMPLE_SKIP and has no edits.  h as for engine_sample. */
bool sample_row_make(struct sample_row *row, const struct engine_sampling *s,
                     const struct engine_history *h, uint32_t sample_index, uint32_t vocab,
                     struct sample_edit *edits, uint32_t *n, uint32_t n_max);

/* The definition in terms of a descriptor, by sorting: slow, host memory.  logits are edited in place; edits is the
 * array that first_edit counts in.  -1: SAMPLE_SKIP or no memory. */
int32_t sample_ref(float *logits, uint32_t vocab, const struct sample_row *row,
                   const struct sample_edit *edits);

#ifdef __cplusplus
}
#endif
#endif
