/* bench/perf_kv_bare.h - plain UCX loops between two processes: what the machine and UCX give on a path
 * without any protocol of ours.  Each side runs its function in a process of its own, with one end of a
 * socket pair to exchange addresses.  Thread: the only one.  Blocking: until the loop is over. */
#ifndef BENCH_PERF_KV_BARE_H
#define BENCH_PERF_KV_BARE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct perf_kv_cell {
    bool tcp;    /* else shared memory */
    size_t size; /* bytes per piece */
    size_t pool; /* bytes that the pieces walk over, a multiple of size */
    unsigned rounds;
    unsigned from, to; /* parts of the sender's and the receiver's pool; both 0: 1, and one layer */
};

/* Seconds to move the whole pool once (best of the ways a plain loop can do it), and to move one piece
 * and hear back; the median over the rounds. */
struct perf_kv_bare {
    double pool_s;
    double answer_s;
};

MUST_USE enum err perf_kv_bare_send(const struct perf_kv_cell *cell, int fd,
                                    struct perf_kv_bare *out);
MUST_USE enum err perf_kv_bare_receive(const struct perf_kv_cell *cell, int fd);

#endif
