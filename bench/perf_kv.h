/* bench/perf_kv.h - `baton perf kv`: the KV hand-over between two processes of this machine, beside a
 * bare UCX loop on the same path in the same run.
 *
 * For each transport (shm, tcp) and piece size in bytes:
 *
 *   kv.put.shm.SIZE.bandwidth     GB/s  bytes / time with a piece in flight; reference: bare UCX put + flush.
 *                                       Above 1 where the digest has just read the piece into the cache
 *   kv.am.tcp.SIZE.bandwidth      GB/s  the same for messages; reference: bare UCX active messages
 *   kv.PATH.SIZE.verified         GB/s  bytes / time from the first piece to the acknowledgement, so
 *                                       digests on both sides, notify and answer included; same reference
 *   kv.PATH.SIZE.minus_wire       us    of a hand-over of one piece: that time less the wire time
 *   kv.PATH.SIZE.latency          us    one piece, from kvt_send_piece to the acknowledgement;
 *                                       reference: bare UCX, the bytes and an answer, busy polling
 *
 *   kv.PATH.SIZE.2_to_1.verified  GB/s  the same where the sender's pool is 2 parts and the receiver's 1: blocks of
 *                                       4 layers and 8 heads, re-sharded on the way; also 1_to_1, 2_to_4
 *
 * where PATH is put.shm or am.tcp.  Thread: the caller's; it must not have initialised UCX, because the
 * work is done in forked children.  Blocking: for seconds. */
#ifndef BENCH_PERF_KV_H
#define BENCH_PERF_KV_H

#include <stdbool.h>

#include "base/err.h"

struct bench_perf_kv_options {
    const char *transport; /* "shm", "tcp"; NULL: both */
    unsigned rounds;       /* of bare and ours by turns, the best of each counts; 0 = 3 */
};

/* Prints the report.  ERR_INVALID: an unknown transport.  ERR_IO, ERR_TIMEOUT: a child failed; msg says
 * where. */
MUST_USE enum err bench_perf_kv(const struct bench_perf_kv_options *options, bool json,
                                struct err_msg *msg);

#endif
