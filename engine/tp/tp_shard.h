/* engine/tp/tp_shard.h - tensor parallelism, the part without devices: which heads, columns and rows of a
 * model one of `tp` ranks holds.  Every backend splits by this header, so that they agree.
 *
 *   q k v gate up   by rows (their outputs): the rank's heads, its columns of the feed-forward layer
 *   o down          by columns (their inputs): each rank gets a part of every output; the parts are summed
 *   head            by rows: the rank computes the logits of its part of the vocabulary
 *   norms           whole, on every rank
 *   embedding       whole: a gather reads only the rows it needs, and a split one would cost a sum over
 *                   all ranks at the start of each step.  With tied weights the head is rows of it.
 *
 * So a layer needs two sums over the ranks (after o, after down) and a step one gather (of the logits).
 * Heads and feed-forward columns are dealt out evenly; the vocabulary need not divide, the last rank gets
 * what is left.  A bias follows the rows of its matrix; that of o and down is added once, by rank 0.
 *
 * Pure code.  Thread: any. */
#ifndef ENGINE_TP_TP_SHARD_H
#define ENGINE_TP_TP_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine_model.h"

enum { TP_MAX = 64 };

/* [first, first + n) */
struct tp_range {
    uint32_t first, n;
};

/* What a rank's share must be a multiple of, for the kernels of a backend; 0 means 1.  The last rank's
 * part of the vocabulary is exempt. */
struct tp_grain {
    uint32_t ffn, vocab;
};

struct tp_shard {
    uint32_t rank, tp;
    struct tp_range heads, kv_heads, ffn, vocab;
};

enum tp_tensor { TP_EMBEDDING, TP_NORM, TP_Q, TP_K, TP_V, TP_O, TP_GATE, TP_UP, TP_DOWN, TP_HEAD };

/* The rank's part of a matrix stored as [outputs][inputs] (a norm: one column). */
struct tp_slice {
    struct tp_range rows, columns;
};

/* What rank `rank` of `tp` holds.  ERR_INVALID: tp is 0, above TP_MAX or does not fit the model; the
 * message names the number that does not divide, and what would. */
MUST_USE enum err tp_shard_of(const struct engine_model_config *m, struct tp_grain grain,
                              uint32_t rank, uint32_t tp, struct tp_shard *out,
                              struct err_msg *msg);

struct tp_slice tp_slice_of(const struct tp_shard *s, const struct engine_model_config *m,
                            enum tp_tensor tensor);

/* Whether this rank adds the bias of that matrix. */
bool tp_adds_bias(const struct tp_shard *s, enum tp_tensor tensor);

#endif
