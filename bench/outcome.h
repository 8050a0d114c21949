/* bench/outcome.h - what became of each request of a run, simulated or live, and the figures made of it.
 *
 *   bench_run_init -> bench_run_add (one per request) ... -> bench_run_finish -> figures, JSON, report
 *
 * The simulator and `baton bench` fill the same struct, so that their reports lie side by side.
 * kept = finished, first token by its target, mean time per output token within tbt, and no token later
 * than deadline + k * tbt.  Refused, failed and canceled-by-deadline requests count in the denominator; those
 * that the client canceled on purpose do not.  Only requests sent inside the measuring window count.
 *
 * Thread: the caller's.  Units: s in doubles.  Ownership: the run owns its arrays. */
#ifndef BENCH_OUTCOME_H
#define BENCH_OUTCOME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "bench/histogram.h"

enum { BENCH_TIERS_MAX = 16 };

enum bench_fate {
    BENCH_DONE = 1, /* finished */
    BENCH_REFUSED,  /* 429 or 503, nothing was run */
    BENCH_FAILED,   /* error, or ended early */
    BENCH_TIMEOUT,
    BENCH_CANCELED /* by the client, on purpose */
};

struct bench_outcome {
    uint32_t tier;
    enum bench_fate fate;
    bool measured; /* sent inside the window */
    bool admitted; /* the server began to work on it */
    uint32_t n_prompt, n_out;
    double intended_s, sent_s; /* from the start of the run */
    double ttft_s, e2e_s;      /* from intended_s */
    double max_gap_s, late_s;  /* worst gap; worst lateness against deadline + k * tbt */
    double retry_after_s;
    double ttft_target_s, tbt_target_s;
    double predicted_ttft_s; /* 0: unknown */
};

struct bench_tier_figures {
    char name[32];
    double weight, ttft_s, tbt_s;
    uint64_t n, done, kept, refused, failed, timeout, canceled,
        broken; /* broken: admitted, not kept */
    struct bench_hist ttft, tbt, gap, e2e;
};
struct bench_run {
    /* set by the caller before init, or any time before the report */
    char source[16]; /* "simulate" or "bench" */
    char policy[32], trace[64], label[64];
    double speedup;
    uint64_t seed;
    double rate; /* offered, 1/s */
    /* filled here */
    uint32_t n_tiers;
    struct bench_tier_figures tier[BENCH_TIERS_MAX], all;
    double window_s;
    uint64_t tokens_in, tokens_out;
    double weight_offered, weight_kept, bound_weight; /* bound_weight 0: no bound was computed */
    double large_kept,
        rest_kept;              /* attainment of the largest tenth of prompts, and of the others */
    struct bench_hist lag;      /* sent - intended */
    struct bench_hist decision; /* scheduler time per arrival, s */
    double *bins; /* per second of the window and tier: arrivals, kept (2 * n_tiers columns) */
    uint32_t n_bins;
};

MUST_USE enum err bench_run_init(struct bench_run *r, uint32_t n_tiers);
void bench_run_add(struct bench_run *r, const struct bench_outcome *o);
void bench_run_finish(struct bench_run *r, double window_s);
bool bench_outcome_kept(const struct bench_outcome *o);
double bench_run_attainment(const struct bench_run *r, uint32_t tier); /* BENCH_TIERS_MAX: all */
double bench_run_goodput(const struct bench_run *r);                   /* kept weight per second */
double bench_run_bound_share(const struct bench_run *r); /* kept weight / bound; 0: none */
void bench_run_free(struct bench_run *r);

/* One self-contained page: a table, and curves over rate where several runs of one policy differ in rate, policies
 * side by side, and time lines.  No script from elsewhere, no network. */
MUST_USE enum err bench_html_write(const char *path, const char *title,
                                   const struct bench_run *const *runs, size_t n,
                                   struct err_msg *msg);

#endif
