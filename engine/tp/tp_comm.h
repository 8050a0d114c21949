/* engine/tp/tp_comm.h - collectives between the ranks of one process: threads that share its memory.
 *
 *   tp_comm_create -> (every rank, the same calls in the same order) ... -> tp_comm_destroy
 *
 * Sums are taken in the order of the ranks, so a result does not depend on which rank came first.
 *
 * One rank's trouble is everybody's: tp_comm_abort, or a rank that stays away longer than the deadline,
 * makes every call that waits and every later one return ERR_DEVICE.  That is final; the engine is broken
 * and its worker starts anew.  Nothing hangs.
 *
 * Thread     each rank calls from one thread at a time; tp_comm_abort from any.
 * Ownership  buffers belong to the callers.  A rank that got ERR_DEVICE must not free or reuse a buffer
 *            that it passed until all ranks have returned: another may still be reading it.
 * Blocking   every collective, until all ranks came, at most until the deadline.  Ranks spin for some
 *            microseconds, if there is a core for each and it has paid lately, then sleep in the kernel. */
#ifndef ENGINE_TP_TP_COMM_H
#define ENGINE_TP_TP_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct tp_comm; /* opaque */

struct tp_comm_config {
    uint32_t n_ranks; /* 1 .. TP_MAX */
    /* How long a rank waits for the others in one collective, in milliseconds.  Time in which the whole
     * process was stopped does not count. */
    uint32_t deadline_ms;
    bool spin; /* there is a core for every rank's thread */
};

/* ERR_INVALID: no ranks, too many, or no deadline; ERR_NOMEM. */
MUST_USE enum err tp_comm_create(const struct tp_comm_config *config, struct tp_comm **out);

/* data[i] = data[i] of rank 0 + of rank 1 + ..., on every rank.  n is the same on all, or the call aborts. */
MUST_USE enum err tp_all_reduce(struct tp_comm *c, uint32_t rank, float *data, size_t n);

/* Rows that lie in columns over the ranks are put together: row i of `out` is row i of rank 0's piece, then
 * row i of rank 1's, and so on.  Each rank chooses the rows that it takes; n_rows may be 0. */
struct tp_piece {
    const float *data; /* row i at data + i * n_columns */
    size_t n_columns;
};
MUST_USE enum err tp_all_gather(struct tp_comm *c, uint32_t rank, struct tp_piece mine,
                                size_t first_row, size_t n_rows, float *out);

/* Every rank's `data` becomes what rank `root` has there.  Sizes that differ abort. */
MUST_USE enum err tp_broadcast(struct tp_comm *c, uint32_t rank, uint32_t root, void *data,
                               size_t bytes);

/* Return once every rank is here; what they wrote before is seen by all after. */
MUST_USE enum err tp_barrier(struct tp_comm *c, uint32_t rank);

void tp_comm_abort(struct tp_comm *c);

/* No rank is inside a call.  NULL is fine. */
void tp_comm_destroy(struct tp_comm *c);

#endif
