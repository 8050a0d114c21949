/* bench/sim_study.h - what `baton simulate` does: every policy over the same arrivals, for some seeds, at one rate
 * or at the highest that holds, with the clairvoyant bound beside them.
 *
 * Thread: the caller's.  Blocking: as long as it takes; progress goes to standard error. */
#ifndef BENCH_SIM_STUDY_H
#define BENCH_SIM_STUDY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "bench/sim_engine.h"

enum { BENCH_SPEEDS_MAX = 32 };

struct bench_study {
    const char *cluster;  /* file */
    const char *trace;    /* file, or "synthetic" */
    const char *policies; /* a,b,c or "all" */
    const char *arrivals; /* NULL: as in the trace; poisson, constant, gamma:CV, ramp */
    const char *in, *out; /* synthetic lengths: MEAN, MEAN:SIGMA (lognormal), MEAN:pareto:SHAPE */
    const char *tiers;    /* shares, such as 20/30/50; NULL: the cluster file's */
    const char *weights;  /* NULL: the cluster file's */
    const char *tenants;  /* NAME:WEIGHT:SHARE[:TOKENS_PER_S[:BURST_S]],...; NULL: none */
    const char *surge;    /* NAME:TIMES,...: those send so much more; NULL: none */
    const char *find;     /* NULL, "tier90", "gold99" or "all90" */
    const char *report, *records; /* files; NULL: none */
    /* Speed-ups, or rates, one run of each policy at each; none: speed-up 1. */
    double at[BENCH_SPEEDS_MAX];
    uint32_t n_at;
    bool at_rates; /* they are requests per second */
    double duration_s, warmup_s;
    uint32_t prefill, decode; /* other counts of workers; 0: the file's */
    uint64_t seed;
    uint32_t seeds;
    uint32_t max_new; /* as in struct bench_sim_setup */
    bool exact_new;
    double noise, bias, told, stale_s; /* as in struct bench_sim_setup */
    bool cold, no_learning, no_local, elastic, no_bound;
    const char *command; /* as it may be shown in the report; NULL: not */
    bool json, timing, check, quiet;
    struct bench_sim_fault fault[BENCH_FAULTS_MAX];
    uint32_t n_faults;
};
void bench_study_defaults(struct bench_study *s);
/* Prints the results to standard output.  ERR_INVALID and what files and runs say; *wrong_words: what was asked for
 * makes no sense, whatever is in the files.  ERR_IO before anything runs: a file for results cannot be written.
 * ERR_CANCELED: SIGINT or SIGTERM came; the runs that had ended by then were printed and written. */
MUST_USE enum err bench_study_run(const struct bench_study *s, bool *wrong_words,
                                  struct err_msg *msg);

#endif
