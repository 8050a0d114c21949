/* bench/outcome.c - counts and distributions of a run.
 *
 * Attainment by prompt size needs the size below which nine tenths of the prompts lie, known only at the end;
 * counts per size (exact to 64 tokens, then 64 steps per doubling) answer that without keeping requests. */
#include "bench/outcome.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "bench/perf_report.h"

enum { SIZE_STEPS = 64, SIZE_BUCKETS = SIZE_STEPS * 28 };
static const double SAME_S = 1e-9; /* rounding of sums of doubles is no miss */

enum err bench_run_init(struct bench_run *r, uint32_t n_tiers)
{
    memset(r, 0, sizeof(*r));
    if (n_tiers == 0 || n_tiers > BENCH_TIERS_MAX)
        return ERR_INVALID;
    r->n_tiers = n_tiers;
    r->bin_s = 1;
    r->speedup = 1;
    r->bins = mem_try_calloc((size_t)BENCH_BINS_MAX * 2 * n_tiers, sizeof(*r->bins));
    r->sizes = mem_try_calloc(2 * SIZE_BUCKETS, sizeof(*r->sizes));
    if (r->bins == NULL || r->sizes == NULL) {
        bench_run_free(r);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < n_tiers; i++)
        r->tier[i].weight = 1;
    snprintf(r->all.name, sizeof(r->all.name), "all");
    return ERR_OK;
}

enum err bench_run_tenants(struct bench_run *r, uint32_t n)
{
    if (n == 0 || n > BENCH_TENANTS_MAX || r->n_tenants > 0)
        return ERR_INVALID;
    r->tenant = mem_try_calloc(n, sizeof(*r->tenant));
    r->tenant_ttft = mem_try_calloc((size_t)n * r->n_tiers, sizeof(*r->tenant_ttft));
    if (r->tenant == NULL || r->tenant_ttft == NULL)
        return ERR_NOMEM; /* bench_run_free takes what is there */
    r->n_tenants = n;
    return ERR_OK;
}

double bench_tenant_ttft(const struct bench_run *r, uint32_t tenant, uint32_t tier, double q)
{
    struct bench_hist all = {0};

    if (tier < r->n_tiers)
        return bench_hist_quantile(&r->tenant_ttft[(size_t)tenant * r->n_tiers + tier], q);
    for (uint32_t i = 0; i < r->n_tiers; i++)
        bench_hist_merge(&all, &r->tenant_ttft[(size_t)tenant * r->n_tiers + i]);
    return bench_hist_quantile(&all, q);
}

void bench_run_free(struct bench_run *r)
{
    mem_free(r->tenant);
    mem_free(r->tenant_ttft);
    r->tenant = NULL;
    r->tenant_ttft = NULL;
    r->n_tenants = 0;
    mem_free(r->bins);
    mem_free(r->sizes);
    r->bins = NULL;
    r->sizes = NULL;
}

static double mean_tbt(const struct bench_outcome *o)
{
    return o->n_out > 1 ? (o->e2e_s - o->ttft_s) / (double)(o->n_out - 1) : 0;
}

bool bench_outcome_kept(const struct bench_outcome *o)
{
    if (o->whole) {
        double rest = o->n_out > 1 ? (double)(o->n_out - 1) : 0;

        return o->fate == BENCH_DONE &&
               o->e2e_s <= o->ttft_target_s + rest * o->tbt_target_s + SAME_S;
    }
    return o->fate == BENCH_DONE && o->ttft_s <= o->ttft_target_s + SAME_S &&
           mean_tbt(o) <= o->tbt_target_s + SAME_S && o->late_s <= SAME_S;
}

static uint32_t size_bucket(uint32_t tokens)
{
    uint32_t doublings = 0, top = tokens;

    while (top >= 2 * SIZE_STEPS) {
        top >>= 1;
        doublings++;
    }
    /* top is now below 64 (exact) or 64 .. 127 (its step within the doubling) */
    return doublings * SIZE_STEPS + top;
}

/* Twice as long bins: neighbours are added up. */
static void fold_bins(struct bench_run *r)
{
    size_t columns = (size_t)2 * r->n_tiers;

    for (size_t i = 0; i < BENCH_BINS_MAX; i++) {
        for (size_t c = 0; c < columns; c++) {
            double sum = i < BENCH_BINS_MAX / 2
                             ? r->bins[2 * i * columns + c] + r->bins[(2 * i + 1) * columns + c]
                             : 0;

            r->bins[i * columns + c] = sum;
        }
    }
    r->bin_s *= 2;
    r->n_bins = (r->n_bins + 1) / 2;
}

static void add_to_bin(struct bench_run *r, uint32_t tier, double at_s, bool kept)
{
    size_t row;

    if (!(at_s >= 0) || !(at_s < 1e9))
        return; /* not a time of a run */
    while (at_s / r->bin_s >= BENCH_BINS_MAX)
        fold_bins(r);
    row = (size_t)(at_s / r->bin_s);
    if (row >= r->n_bins)
        r->n_bins = (uint32_t)row + 1;
    r->bins[row * 2 * r->n_tiers + tier] += 1;
    if (kept)
        r->bins[row * 2 * r->n_tiers + r->n_tiers + tier] += 1;
}

static void count(struct bench_tier_figures *t, const struct bench_outcome *o, bool kept)
{
    t->n++;
    t->done += o->fate == BENCH_DONE;
    t->kept += kept;
    t->refused += o->fate == BENCH_REFUSED;
    t->failed += o->fate == BENCH_FAILED;
    t->timeout += o->fate == BENCH_TIMEOUT;
    t->broken += o->admitted && !kept;
}

static void count_tenant(struct bench_run *r, const struct bench_outcome *o, uint32_t tier,
                         bool kept)
{
    struct bench_tenant_figures *t;

    if (o->tenant == 0 || o->tenant > r->n_tenants)
        return;
    t = &r->tenant[o->tenant - 1];
    t->n++;
    t->kept += kept;
    t->refused += o->fate == BENCH_REFUSED;
    t->broken += o->admitted && !kept;
    if (o->ttft_s > 0)
        bench_hist_add(&r->tenant_ttft[(size_t)(o->tenant - 1) * r->n_tiers + tier], o->ttft_s);
}

void bench_run_add(struct bench_run *r, const struct bench_outcome *o)
{
    uint32_t tier = o->tier < r->n_tiers ? o->tier : r->n_tiers - 1;
    struct bench_tier_figures *t = &r->tier[tier];
    bool kept = bench_outcome_kept(o);
    uint32_t size = size_bucket(o->n_prompt);

    if (!o->measured)
        return;
    bench_hist_add(&r->lag, o->sent_s - o->intended_s);
    if (o->fate == BENCH_CANCELED) {
        t->canceled++;
        r->all.canceled++;
        return;
    }
    count(t, o, kept);
    count(&r->all, o, kept);
    count_tenant(r, o, tier, kept);
    r->sizes[size]++;
    r->sizes[SIZE_BUCKETS + size] += kept;
    add_to_bin(r, tier, o->intended_s, kept);
    if (o->ttft_s > 0)
        bench_hist_add(&t->ttft, o->ttft_s);
    if (o->fate == BENCH_REFUSED)
        bench_hist_add(&r->refusal, o->e2e_s);
    if (o->fate != BENCH_DONE)
        return;
    r->tokens_in += o->n_prompt;
    r->tokens_out += o->n_out;
    bench_hist_add(&t->e2e, o->e2e_s);
    if (o->n_out > 1 && !o->whole) {
        bench_hist_add(&t->tbt, mean_tbt(o));
        bench_hist_add(&t->gap, o->max_gap_s);
    }
}

/* The largest tenth: whole size buckets from the top until they hold at least a tenth. */
static void split_by_size(struct bench_run *r)
{
    uint64_t n = 0, kept = 0, all = r->all.n, all_kept = r->all.kept;

    for (uint32_t i = SIZE_BUCKETS; i-- > 0 && n * 10 < all;) {
        n += r->sizes[i];
        kept += r->sizes[SIZE_BUCKETS + i];
    }
    r->large_kept = n > 0 ? (double)kept / (double)n : 0;
    r->rest_kept = all > n ? (double)(all_kept - kept) / (double)(all - n) : r->large_kept;
}

void bench_run_finish(struct bench_run *r, double window_s)
{
    struct bench_tier_figures *all = &r->all;

    r->window_s = window_s;
    r->weight_offered = r->weight_kept = 0;
    all->ttft = all->tbt = all->gap = all->e2e = (struct bench_hist){0};
    for (uint32_t i = 0; i < r->n_tiers; i++) {
        const struct bench_tier_figures *t = &r->tier[i];

        r->weight_offered += t->weight * (double)t->n;
        r->weight_kept += t->weight * (double)t->kept;
        bench_hist_merge(&all->ttft, &t->ttft);
        bench_hist_merge(&all->tbt, &t->tbt);
        bench_hist_merge(&all->gap, &t->gap);
        bench_hist_merge(&all->e2e, &t->e2e);
    }
    split_by_size(r);
}

double bench_broken_share(uint64_t kept, uint64_t broken)
{
    return broken > 0 ? (double)broken / (double)(kept + broken) : 0;
}

double bench_run_attainment(const struct bench_run *r, uint32_t tier)
{
    const struct bench_tier_figures *t = tier < r->n_tiers ? &r->tier[tier] : &r->all;

    return t->n > 0 ? (double)t->kept / (double)t->n : 0;
}

double bench_run_goodput(const struct bench_run *r)
{
    return r->window_s > 0 ? r->weight_kept / r->window_s : 0;
}

double bench_run_bound_share(const struct bench_run *r)
{
    return r->bound_weight > 0 ? r->weight_kept / r->bound_weight : 0;
}

/* Names of results are compared by programs: letters, digits, '.', '-' and '_' alone. */
static void clean(char *s)
{
    for (; *s != '\0'; s++) {
        bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
                     (*s >= '0' && *s <= '9') || *s == '.' || *s == '-' || *s == '_';

        if (!plain)
            *s = '-';
    }
}

static void row(struct bench_report *report, const char *prefix, const char *what, const char *tier,
                double value, const char *unit, enum bench_better better)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.%s%s%s", prefix, what, tier[0] != '\0' ? "." : "", tier);
    clean(name);
    bench_report_add(report, name, value, unit, better);
}

/* What was never measured has no row: 0 s would be the best of all. */
static void quantile_row(struct bench_report *report, const char *prefix, const char *what,
                         const char *tier, const struct bench_hist *h, double q)
{
    if (h->n > 0)
        row(report, prefix, what, tier, bench_hist_quantile(h, q), "s", BENCH_LOWER);
}

static void tier_rows(const struct bench_run *r, const struct bench_tier_figures *t,
                      const char *prefix, struct bench_report *report)
{
    double n = (double)t->n;

    if (t->n > 0)
        row(report, prefix, "attainment", t->name, (double)t->kept / n, "1", BENCH_HIGHER);
    row(report, prefix, "goodput", t->name, r->window_s > 0 ? (double)t->kept / r->window_s : 0,
        "req/s", BENCH_HIGHER);
    if (t->n > 0)
        row(report, prefix, "rejected", t->name, (double)t->refused / n, "1", BENCH_LOWER);
    row(report, prefix, "broken_promises", t->name, bench_broken_share(t->kept, t->broken), "1",
        BENCH_LOWER);
    if (r->whole) {
        quantile_row(report, prefix, "e2e.p50", t->name, &t->e2e, 0.5);
        quantile_row(report, prefix, "e2e.p90", t->name, &t->e2e, 0.9);
        quantile_row(report, prefix, "e2e.p99", t->name, &t->e2e, 0.99);
        return;
    }
    quantile_row(report, prefix, "ttft.p50", t->name, &t->ttft, 0.5);
    quantile_row(report, prefix, "ttft.p90", t->name, &t->ttft, 0.9);
    quantile_row(report, prefix, "ttft.p99", t->name, &t->ttft, 0.99);
    quantile_row(report, prefix, "tbt.p90", t->name, &t->tbt, 0.9);
    quantile_row(report, prefix, "tbt.p99", t->name, &t->tbt, 0.99);
}

static void tenant_rows(const struct bench_run *r, uint32_t i, const char *prefix,
                        struct bench_report *report)
{
    const struct bench_tenant_figures *t = &r->tenant[i];
    double n = (double)t->n, first = bench_tenant_ttft(r, i, BENCH_TIERS_MAX, 0.99);
    char head[112];

    snprintf(head, sizeof(head), "%.70s.tenant.%.31s", prefix, t->name);
    if (t->n > 0)
        row(report, head, "attainment", "", (double)t->kept / n, "1", BENCH_HIGHER);
    row(report, head, "goodput", "", r->window_s > 0 ? (double)t->kept / r->window_s : 0, "req/s",
        BENCH_HIGHER);
    if (t->n > 0)
        row(report, head, "rejected", "", (double)t->refused / n, "1", BENCH_LOWER);
    row(report, head, "broken_promises", "", bench_broken_share(t->kept, t->broken), "1",
        BENCH_LOWER);
    if (first > 0)
        row(report, head, "ttft.p99", "", first, "s", BENCH_LOWER);
    for (uint32_t k = 0; k < r->n_tiers; k++)
        quantile_row(report, head, "ttft.p99", r->tier[k].name,
                     &r->tenant_ttft[(size_t)i * r->n_tiers + k], 0.99);
}

void bench_run_rows(const struct bench_run *r, const char *prefix, struct bench_report *report)
{
    char made[sizeof(r->policy) + sizeof(r->trace) + 32];

    if (prefix == NULL) {
        snprintf(made, sizeof(made), "%s.%s.x%g", r->policy, r->trace, r->speedup);
        prefix = made;
    }
    for (uint32_t i = 0; i < r->n_tiers; i++)
        tier_rows(r, &r->tier[i], prefix, report);
    row(report, prefix, "attainment", "all", bench_run_attainment(r, BENCH_TIERS_MAX), "1",
        BENCH_HIGHER);
    row(report, prefix, "goodput.weighted", "", bench_run_goodput(r), "1/s", BENCH_HIGHER);
    if (r->bound_weight > 0)
        row(report, prefix, "bound.share", "", bench_run_bound_share(r), "1", BENCH_HIGHER);
    row(report, prefix, "broken_promises", "", bench_broken_share(r->all.kept, r->all.broken), "1",
        BENCH_LOWER);
    if (r->refusal.n > 0) {
        row(report, prefix, "refusal.p50", "", bench_hist_quantile(&r->refusal, 0.5), "s",
            BENCH_LOWER);
        row(report, prefix, "refusal.p99", "", bench_hist_quantile(&r->refusal, 0.99), "s",
            BENCH_LOWER);
    }
    row(report, prefix, "attainment.large_prompts", "", r->large_kept, "1", BENCH_HIGHER);
    row(report, prefix, "attainment.other_prompts", "", r->rest_kept, "1", BENCH_HIGHER);
    for (uint32_t i = 0; i < r->n_tenants; i++)
        tenant_rows(r, i, prefix, report);
    if (r->decision.n > 0)
        row(report, prefix, "decision.p99", "", bench_hist_quantile(&r->decision, 0.99) * 1e6, "us",
            BENCH_LOWER);
}
