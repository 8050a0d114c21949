/* bench/sim_load.h - the arrivals of one simulated run: a trace compressed in time, repeated until the duration is
 * full, with tiers, and with what of each prompt lies in a pool of prefixes of finite size.
 *
 * All of it is fixed before the run and the same for every policy.  The pool is an LRU of 512-token blocks; the blocks
 * of a prompt are in it from its arrival on, whoever computes it (or is refused).  Each repetition of
 * the trace has blocks and conversations of its own.
 *
 * Thread: the caller's.  Units: ns from the start of the run, tokens. */
#ifndef BENCH_SIM_LOAD_H
#define BENCH_SIM_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "bench/trace.h"

struct bench_arrival_row {
    uint64_t at_ns;
    uint64_t session;
    uint32_t n_prompt, n_out;
    uint32_t n_hit;        /* of the prompt, in the pool on arrival; < n_prompt */
    uint16_t tier, tenant; /* tenant: from 1; 0: none */
    bool too_large;        /* for the context: refused on arrival, whatever the policy */
};
struct bench_load {
    struct bench_arrival_row *v;
    size_t n;
    double duration_s, rate; /* offered, mean */
    uint32_t max_out;        /* of those that fit */
    size_t n_too_large;
    double hit_share; /* of prompt tokens */
};
struct bench_load_plan {
    const struct bench_trace *trace;
    double speedup, duration_s;
    const double *share; /* of tiers */
    uint32_t n_tiers;
    /* Tenants, each with a share of the rows; of one with surge N each request comes N times, the further ones within
     * SIM_SURGE_S of it, with its lengths and nothing cached: those of the others stay what they are. */
    const double *tenant_share;
    const uint32_t *surge;
    uint32_t n_tenants; /* 0: none */
    uint64_t seed;
    double prefix_tokens;
    uint32_t max_context; /* prompt and answer over that: too_large */
};

/* ERR_INVALID, ERR_NOMEM, ERR_LIMIT: over 50 million arrivals. */
MUST_USE enum err bench_load_make(const struct bench_load_plan *p, struct err_msg *msg,
                                  struct bench_load *out);
void bench_load_free(struct bench_load *l);

#endif
