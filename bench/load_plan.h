/* bench/load_plan.h - the requests of one run, all drawn before it starts, and the bytes of each.
 *
 *   load_plan_make -> load_plan_bytes(i) ... -> load_plan_free
 *
 * A trace is compressed in time by the speed-up and repeated until the duration is full; row i has the same tier in
 * the simulator for the same seed.  Where a run is much shorter than the trace and its rate is what is asked about,
 * windows of it, evenly spaced, stand for all of it: a beginning may be far quieter than the rest.  The same seed gives the same bytes.
 *
 * Thread: the caller's.  Ownership: the plan borrows trace and options.  Units: s, tokens. */
#ifndef BENCH_LOAD_PLAN_H
#define BENCH_LOAD_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "bench/load_options.h"
#include "bench/trace.h"

struct load_item {
    double at_s;
    uint64_t line; /* of the trace, counted on through its repetitions */
    uint32_t row;  /* of the trace */
    uint32_t tier;
    uint32_t n_prompt, n_out;
    uint32_t cancel_after; /* chunks with text; 0: not canceled */
};

struct load_server { /* what /v1/models said */
    char model[256];
    uint32_t vocab, max_context; /* 0: unknown */
};

struct load_plan {
    const struct load_options *o;
    const struct load_server *server;
    const struct bench_trace *trace;
    struct load_item *v;
    size_t n;
    double duration_s, rate; /* of sending; offered */
    uint32_t n_too_long;     /* over the server's context */
    uint32_t n_windows;      /* of the trace; 1: from its beginning on */
    double share;            /* of the trace that is sent; over 1: repeated */
    /* private */
    struct buf body;
};

/* ERR_INVALID: nothing to send; ERR_LIMIT: too many requests; ERR_NOMEM.  duration_s 0: of the whole trace.
 * spread: in windows, if the trace is longer than the duration. */
MUST_USE enum err load_plan_make(const struct load_options *o, const struct load_server *server,
                                 const struct bench_trace *trace, double speedup, double duration_s,
                                 bool spread, struct err_msg *msg, struct load_plan *out);
/* HTTP head and body of request i, appended to out. */
MUST_USE enum err load_plan_bytes(struct load_plan *p, size_t i, struct buf *out);
void load_plan_free(struct load_plan *p);

#endif
