/* proto/wire_kv_plan.h - re-sharding: where the bytes of one part of a sender's block stand in the parts of
 * a receiver's.
 *
 * The sender names its bytes by (its part, a range of that part of the block).  A walk over such a range
 * cuts it into runs, each contiguous on both sides:
 *
 *   wire_kv_walk_init -> wire_kv_walk_over(part, begin, end) -> wire_kv_walk_move | _run ... -> false
 *
 * With equal parts the whole range is one run.  With other parts a run is what one layer's K or V has of the
 * heads that the two parts share: half of the heads of a layer for 2 -> 1 and for 2 -> 4.
 *
 * Pure code.  Thread: any. */
#ifndef PROTO_WIRE_KV_PLAN_H
#define PROTO_WIRE_KV_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire_kv.h"

struct wire_kv_run {
    size_t from;      /* in the sender's part of the block */
    uint32_t part;    /* of the receiver */
    size_t to;        /* in that part of the receiver's block */
    size_t canonical; /* of the first byte */
    size_t len;
};

struct wire_kv_walk {
    size_t row_from, row_to,
        row; /* bytes of one layer's K or V: in a part of each side, in all parts */
    size_t at, end;
    uint32_t part; /* of the sender */
};

/* Both layouts are checked and the same, save for parts. */
void wire_kv_walk_init(struct wire_kv_walk *w, const struct wire_kv_layout *from,
                       const struct wire_kv_layout *to);
/* Begin anew with bytes [begin, end) of part `part` of a block of the sender. */
void wire_kv_walk_over(struct wire_kv_walk *w, uint32_t part, size_t begin, size_t end);
/* The next run, as long as it can be; false after the last.  Its bytes beyond one row need not be
 * contiguous canonically. */
bool wire_kv_walk_move(struct wire_kv_walk *w, struct wire_kv_run *run);
/* The next run that is contiguous canonically too: what wire_kv_digest can take at once. */
bool wire_kv_walk_run(struct wire_kv_walk *w, struct wire_kv_run *run);

#endif
