/* bench/sim_study_impl.h - private to bench/sim_study*.c: one call of `baton simulate`. */
#ifndef BENCH_SIM_STUDY_IMPL_H
#define BENCH_SIM_STUDY_IMPL_H

#include "bench/perf_report.h"
#include "bench/sim_study.h"
#include "bench/trace.h"

enum { POLICIES_MAX = 32, SEEDS_MAX = 1000, RUNS_MAX = 1024, BOUNDS_MAX = 64 };

struct study {
    const struct bench_study *o;
    struct err_msg *msg;
    struct bench_cluster cluster;
    struct bench_trace trace; /* of the seed in hand */
    uint64_t trace_seed;
    bool have_trace;
    double rate;     /* of drawn arrivals */
    bool name_rates; /* several of them: results have the rate in their names */
    char policy[POLICIES_MAX][SCHED_NAME_MAX];
    uint32_t n_policies;
    struct study_tenants {
        uint32_t n;
        char name[BENCH_TENANTS_MAX][32];
        struct sched_tenant row[BENCH_TENANTS_MAX];
        double share[BENCH_TENANTS_MAX];
        uint32_t surge[BENCH_TENANTS_MAX]; /* 1: as usual */
    } tenants;
    struct bench_load load;
    double load_speedup;
    uint64_t load_seed;
    bool have_load, said_too_large;
    struct known_bound {
        double speedup, weight;
        uint64_t seed;
    } bound[BOUNDS_MAX];
    uint32_t n_bounds;
    FILE *records;
    bool interrupted;
    struct bench_report report;
    struct bench_run *run[RUNS_MAX];
    size_t n_runs;
};

/* What several seeds of one policy at one speed gave. */
struct pooled {
    struct bench_run *run;
    struct bench_sim_result sum;
    struct pooled_health {
        double coverage, mape, bias, worst;
        uint32_t seen;
        bool windowed; /* worst is of a window */
    } health[SCHED_TIERS_MAX + 1][SCHED_STAGES]; /* last: all tiers */
};

/* ---- sim_study_load.c: arrivals and their bound ---- */

/* What the options say of arrivals and lengths: ERR_INVALID, with the range. */
MUST_USE enum err study_check_load(const struct bench_study *o, struct err_msg *msg);
/* Arrivals and lengths come from a seed, not from a file's clock. */
bool study_is_drawn(const struct bench_study *o);
MUST_USE enum err study_load_trace(struct study *s, uint64_t seed);
/* s->load for this speed and seed; kept until another is asked for. */
MUST_USE enum err study_make_load(struct study *s, double speedup, uint64_t seed);
/* Of the load in hand; 0 where none was asked for. */
MUST_USE enum err study_bound(struct study *s, double *weight);

/* ---- sim_study_tenants.c ---- */

/* --tenants and --surge.  ERR_INVALID, with what is expected. */
MUST_USE enum err study_read_tenants(const struct bench_study *o, struct study_tenants *out,
                                     struct err_msg *msg);
void study_print_tenants(const struct study *s);

/* ---- sim_study_rows.c: results ---- */

/* POLICY.TRACE[-rRATE].xSPEEDUP, with which its results begin. */
void study_prefix(const struct study *s, const struct bench_run *r, char *out, size_t room);
void study_add_rows(struct study *s, const struct pooled *p);
void study_print_table(const struct study *s);

#endif
