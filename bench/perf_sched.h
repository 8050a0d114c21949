/* bench/perf_sched.h - `baton perf sched`: what a decision of the scheduler core costs.
 *
 * Worlds of W workers (half prefill, half decode) with Q requests waiting, kept full: each request that
 * goes through all its events is replaced by a new one.  BOUND says what the head of the queue waits for:
 * prefill (the window of the prefill workers) or decode (slots; the walk behind a blocked head is then
 * taken on every event).  A decision is one sched_apply() with all the actions it gives.
 *
 *   sched.wW.qQ.BOUND.requests        req/s  through all their events
 *   sched.wW.qQ.BOUND.decision.mean   us     1e6 / this = decisions per second
 *   sched.wW.qQ.BOUND.decision.p50    us
 *   sched.wW.qQ.BOUND.decision.p99    us
 *   sched.wW.qQ.BOUND.placement.p99   us     of those that placed a request
 *
 * for w10.q100 and w1000.q100000; the small world of the same run is the reference of the large one.
 *
 * Thread: the caller's.  Blocking: a few seconds. */
#ifndef BENCH_PERF_SCHED_H
#define BENCH_PERF_SCHED_H

#include <stdbool.h>

#include "base/err.h"

/* Prints the report.  ERR_NOMEM; ERR_BAD_STATE: the scheduler broke a promise of its own. */
MUST_USE enum err bench_perf_sched(bool json, struct err_msg *msg);

#endif
