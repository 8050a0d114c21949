/* proto/wire_kv_plan.c - see the header for the contract.
 *
 * A block is rows: K of layer 0, V of layer 0, K of layer 1, ...; a row is its heads, one after the other.
 * A part holds an equal share of every row.  So byte x of a row of the sender's part p is byte
 * p * row_from + x of the whole row, and that is where everything else follows from. */
#include "proto/wire_kv_plan.h"

static size_t row_of(const struct wire_kv_layout *l)
{
    return wire_kv_layer_bytes(l) / 2 / l->parts;
}

void wire_kv_walk_init(struct wire_kv_walk *w, const struct wire_kv_layout *from,
                       const struct wire_kv_layout *to)
{
    *w = (struct wire_kv_walk){
        .row_from = row_of(from), .row_to = row_of(to), .row = wire_kv_layer_bytes(from) / 2};
}

void wire_kv_walk_over(struct wire_kv_walk *w, uint32_t part, size_t begin, size_t end)
{
    w->part = part;
    w->at = begin;
    w->end = end;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* whole: rows follow each other without a gap in all that matters to the caller. */
static bool next(struct wire_kv_walk *w, bool whole, struct wire_kv_run *run)
{
    size_t row = w->at / w->row_from;
    size_t in_row = w->part * w->row_from + w->at % w->row_from; /* of the whole row */

    if (w->at >= w->end)
        return false;
    run->from = w->at;
    run->part = (uint32_t)(in_row / w->row_to);
    run->to = row * w->row_to + in_row % w->row_to;
    run->canonical = row * w->row + in_row;
    run->len = w->end - w->at;
    if (!whole)
        run->len = least(run->len,
                         least(w->row_from - w->at % w->row_from, w->row_to - in_row % w->row_to));
    w->at += run->len;
    return true;
}

bool wire_kv_walk_move(struct wire_kv_walk *w, struct wire_kv_run *run)
{
    return next(w, w->row_from == w->row_to, run);
}

bool wire_kv_walk_run(struct wire_kv_walk *w, struct wire_kv_run *run)
{
    return next(w, w->row_from == w->row_to && w->row_from == w->row, run);
}
