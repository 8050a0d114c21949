/* bench/perf_sched.h - `baton perf sched`: what a decision of the scheduler costs.
 *
 * Worlds of W workers (half prefill, half decode, the law of an H100 with an 8B model) with Q requests
 * waiting (no tier sends anybody away), kept full: each request that goes through all its events is replaced by a new one, in virtual time
 * at the pace at which such workers would finish them.  A decision is one sched_apply() of an arrival, or
 * of an event that sent a request to a worker; all actions it gives are part of it.
 *
 *   sched.decision.p50.wW.qQ   us
 *   sched.decision.p99.wW.qQ   us
 *   sched.request.wW.qQ        us    all events of one request
 *   sched.memory.wW.qQ         bytes per queued request, where there are most of them
 *
 * for W in 10, 100, 1000 and Q in 0, 1000, 100000, under the default policy; the small world of the same run is
 * the reference of the others.
 *
 * Thread: the caller's.  Blocking: some seconds. */
#ifndef BENCH_PERF_SCHED_H
#define BENCH_PERF_SCHED_H

#include <stdbool.h>

#include "base/err.h"

/* Prints the report.  ERR_NOMEM; ERR_BAD_STATE: the scheduler broke a promise of its own. */
MUST_USE enum err bench_perf_sched(bool json, struct err_msg *msg);

#endif
