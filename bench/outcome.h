/* bench/outcome.h - what became of each request of a run, simulated or live, and the figures made of it.
 *
 *   bench_run_init -> bench_run_add (one per request) ... -> bench_run_finish -> figures, JSON, report
 *
 * The simulator and `baton bench` fill the same struct, so that their reports lie side by side.
 * kept = finished, first token by its target, mean time per output token within tbt, and no token later
 * than deadline + k * tbt.  Refused, failed and timed out requests count in the denominator; those that
 * the client canceled on purpose do not.  Only requests sent inside the measuring window count.
 *
 * Thread: the caller's.  Units: s in doubles.  Ownership: the run owns its arrays.  The struct is large
 * (about 0.8 MB): allocate it. */
#ifndef BENCH_OUTCOME_H
#define BENCH_OUTCOME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "bench/histogram.h"

struct bench_report;

enum { BENCH_TIERS_MAX = 16, BENCH_TENANTS_MAX = 64, BENCH_BINS_MAX = 2048 };

enum bench_fate {
    BENCH_DONE = 1, /* finished */
    BENCH_REFUSED,  /* 429 or 503, nothing was run */
    BENCH_FAILED,   /* error, or ended early */
    BENCH_TIMEOUT,
    BENCH_CANCELED /* by the client, on purpose */
};

struct bench_outcome {
    uint32_t tier;
    uint32_t tenant; /* 1 .. n_tenants of the run; 0: none */
    enum bench_fate fate;
    bool measured; /* sent inside the window */
    bool admitted; /* the server began to work on it */
    bool whole;    /* the answer came in one piece: only e2e_s is known, and it is judged by
                    * ttft_target_s + tbt_target_s * (n_out - 1) */
    uint32_t n_prompt, n_out;
    double intended_s, sent_s; /* from the start of the run */
    double ttft_s, e2e_s;      /* from intended_s; ttft_s 0: no token came */
    double max_gap_s,
        late_s; /* worst gap; worst lateness against deadline + k * tbt, <= 0: never */
    double retry_after_s;
    double ttft_target_s, tbt_target_s;
    double predicted_ttft_s; /* 0: unknown */
};

struct bench_tier_figures {
    char name[32];
    double weight, ttft_s, tbt_s;
    /* n: measured, without the canceled; broken: admitted, not kept */
    uint64_t n, done, kept, refused, failed, timeout, canceled, broken;
    /* ttft: of all that got a token (less the canceled); tbt (mean per request), gap (worst per request)
     * and e2e: of the finished */
    struct bench_hist ttft, tbt, gap, e2e;
};
/* Of all tiers; refused ones and such count as in a tier. */
struct bench_tenant_figures {
    char name[32];
    uint64_t n, kept, refused, broken;
};
struct bench_run {
    /* set by the caller after init and before the report; names and weights of tiers before finish */
    char source[16]; /* "simulate" or "bench" */
    char policy[32], trace[64], label[64];
    char note[200]; /* shown beside the run: why it is invalid, what was scaled */
    double speedup;
    uint64_t seed;
    double rate;       /* offered, 1/s */
    double asked_rate; /* of drawn arrivals: repeats offer a little more or less; 0: unknown */
    bool whole;        /* no streams: of first tokens and times between tokens nothing is known */
    /* filled here */
    uint32_t n_tiers;
    struct bench_tier_figures tier[BENCH_TIERS_MAX], all;
    double window_s;
    uint64_t tokens_in, tokens_out;                   /* of the finished */
    double weight_offered, weight_kept, bound_weight; /* bound_weight 0: no bound was computed */
    double large_kept,
        rest_kept;              /* attainment of the largest tenth of prompts, and of the others */
    struct bench_hist lag;      /* sent - intended */
    struct bench_hist refusal;  /* intended to the answer, of the refused */
    struct bench_hist decision; /* scheduler time per arrival, s; the caller adds */
    /* per bin_s of intended time and tier: arrivals, then kept (2 * n_tiers columns).  A bin is 1 s until
     * BENCH_BINS_MAX of them are full, then twice as long, and so on. */
    double *bins;
    double bin_s;
    uint32_t n_bins;
    uint32_t n_tenants; /* 0: nobody told them apart */
    struct bench_tenant_figures *tenant;
    /* private */
    struct bench_hist *tenant_ttft; /* n_tenants x n_tiers */
    uint32_t *sizes;                /* counts by prompt length: all, kept */
};

/* Zeroes all.  ERR_INVALID: n_tiers is not 1 .. BENCH_TIERS_MAX.  ERR_NOMEM. */
MUST_USE enum err bench_run_init(struct bench_run *r, uint32_t n_tiers);
/* Once, before the first add: figures of n tenants too; the caller names them.  ERR_INVALID: n is 0 or over
 * BENCH_TENANTS_MAX.  ERR_NOMEM. */
MUST_USE enum err bench_run_tenants(struct bench_run *r, uint32_t n);
/* Quantile of a tenant's (from 0) times to first token in one tier, or in all (BENCH_TIERS_MAX); 0: no token came. */
double bench_tenant_ttft(const struct bench_run *r, uint32_t tenant, uint32_t tier, double q);
/* A tier out of range counts as the last. */
void bench_run_add(struct bench_run *r, const struct bench_outcome *o);
/* Makes the figures; window_s is the length of the measuring window.  May be called again after more adds. */
void bench_run_finish(struct bench_run *r, double window_s);
bool bench_outcome_kept(const struct bench_outcome *o);
/* Of those admitted, what share was not kept; 0 if none was admitted. */
double bench_broken_share(uint64_t kept, uint64_t broken);
/* kept / n; BENCH_TIERS_MAX: all tiers.  0 without requests: look at n where that matters. */
double bench_run_attainment(const struct bench_run *r, uint32_t tier);
double bench_run_goodput(const struct bench_run *r);     /* kept weight per second */
double bench_run_bound_share(const struct bench_run *r); /* kept weight / bound; 0: none */
/* Rows <prefix>.attainment.<tier>, .goodput.weighted, .bound.share, .broken_promises, .rejected.<tier>,
 * .ttft.p90.<tier> and so on (.e2e.p90.<tier> instead if the run is whole),
 * and .refusal.p50|p99 if any was refused.  What nothing was measured of is left out: times where no token came, shares of
 * a tier or tenant without requests.  prefix NULL:
 * <policy>.<trace>.x<speedup>.  Shares are of the measured requests, .broken_promises of those admitted. */
void bench_run_rows(const struct bench_run *r, const char *prefix, struct bench_report *report);
void bench_run_free(struct bench_run *r);

struct bench_page {
    const char *title;   /* what was measured: trace, cluster or server, seeds */
    const char *command; /* how; NULL: not said */
    const char *machine; /* on what; NULL: not said */
    bool interrupted;    /* not all that was asked for was measured */
};
/* One self-contained page: policies side by side, curves over rate where several runs of one policy differ in rate,
 * tables and time lines.  No script from elsewhere, no network. */
MUST_USE enum err bench_html_write(const char *path, const struct bench_page *page,
                                   const struct bench_run *const *runs, size_t n,
                                   struct err_msg *msg);

#endif
