/* bench/sim_study_rows.c - results by name, and as a table for people. */
#include <math.h>
#include <stdio.h>

#include "bench/sim_study_impl.h"

void study_prefix(const struct study *s, const struct bench_run *r, char *out, size_t room)
{
    char rate[32] = "";

    if (s->name_rates)
        snprintf(rate, sizeof(rate), "-r%.4g", s->rate);
    snprintf(out, room, "%.31s.%.31s%s.x%g", r->policy, r->trace, rate, r->speedup);
}

static void row(struct study *s, const struct bench_run *r, const char *what, const char *which,
                double value, const char *unit, enum bench_better better)
{
    char name[200], prefix[120];

    study_prefix(s, r, prefix, sizeof(prefix));
    snprintf(name, sizeof(name), "%s.%s%s%s", prefix, what, which[0] != '\0' ? "." : "", which);
    bench_report_add(&s->report, name, value, unit, better);
}

/* What the scheduler costs, by kind of event: mean, and part of the whole run. */
static void add_timing(struct study *s, const struct pooled *p)
{
    static const char *const kinds[SCHED_EV_TIMER + 1] = {[SCHED_EV_ARRIVE] = "arrive",
                                                          [SCHED_EV_WORKER_REPORT] = "report",
                                                          [SCHED_EV_STEP] = "step",
                                                          [SCHED_EV_GRANTED] = "granted",
                                                          [SCHED_EV_PREFILL_PROGRESS] = "progress",
                                                          [SCHED_EV_PREFILL_DONE] = "prefilled",
                                                          [SCHED_EV_HANDOVER_DONE] = "handover",
                                                          [SCHED_EV_RELEASED] = "released",
                                                          [SCHED_EV_FINISH] = "finish",
                                                          [SCHED_EV_TIMER] = "timer"};
    const struct bench_run *r = p->run;

    row(s, r, "events.rate", "", (double)p->sum.events / p->sum.cpu_s, "1/s", BENCH_HIGHER);
    row(s, r, "wall", "", p->sum.wall_s / s->o->seeds, "s", BENCH_LOWER);
    row(s, r, "cpu", "", p->sum.cpu_s / s->o->seeds, "s", BENCH_LOWER);
    row(s, r, "scheduler.share", "", p->sum.sched_s / p->sum.wall_s, "1", BENCH_LOWER);
    row(s, r, "scheduler.mean", "", p->sum.sched_s / (double)p->sum.sched_events * 1e6, "us",
        BENCH_LOWER);
    for (int i = 0; i <= SCHED_EV_TIMER; i++) {
        if (kinds[i] == NULL || p->sum.kind_n[i] == 0)
            continue;
        row(s, r, "scheduler.mean", kinds[i], p->sum.kind_s[i] / (double)p->sum.kind_n[i] * 1e6,
            "us", BENCH_LOWER);
        row(s, r, "scheduler.share", kinds[i], p->sum.kind_s[i] / p->sum.wall_s, "1", BENCH_LOWER);
    }
}

/* Means over the seeds; the worst window is the worst of all. */
static void add_health(struct study *s, const struct pooled *p)
{
    for (uint32_t t = 0; t <= SCHED_TIERS_MAX; t++) {
        for (int i = 0; i < SCHED_STAGES; i++) {
            const struct pooled_health *h = &p->health[t][i];
            const char *tier = t < s->cluster.n_tiers ? s->cluster.tiers[t].name : "";
            char which[64];

            if (h->seen == 0)
                continue;
            snprintf(which, sizeof(which), "%s%s%s", sched_stage_name((enum sched_stage)i),
                     tier[0] != '\0' ? "." : "", tier);
            row(s, p->run, "coverage", which, h->coverage / h->seen, "1", BENCH_HIGHER);
            row(s, p->run, "mape", which, h->mape / h->seen, "1", BENCH_LOWER);
            if (t < SCHED_TIERS_MAX)
                continue;
            row(s, p->run, "bias", which, h->bias / h->seen, "1", BENCH_LOWER);
            if (h->windowed)
                row(s, p->run, "coverage.worst", which, h->worst, "1", BENCH_HIGHER);
        }
    }
}

/* Seconds from the last fault's beginning until a window of 30 s begins (by time of arrival) in which the
 * first tier is above 98 %; none: all that was left. */
static void add_recovery(struct study *s, const struct pooled *p)
{
    const struct bench_run *r = p->run;
    double at = 0, found = -1;
    uint32_t bins = (uint32_t)(30 / r->bin_s), first;

    for (uint32_t i = 0; i < s->o->n_faults; i++)
        at = s->o->fault[i].at_s > at ? s->o->fault[i].at_s : at;
    if (s->o->n_faults == 0 || bins == 0)
        return;
    first = (uint32_t)ceil(at / r->bin_s);
    for (uint32_t i = first; i + bins <= r->n_bins && found < 0; i++) {
        double n = 0, kept = 0;

        for (uint32_t k = i; k < i + bins; k++) {
            n += r->bins[(size_t)k * 2 * r->n_tiers];
            kept += r->bins[(size_t)k * 2 * r->n_tiers + r->n_tiers];
        }
        if (n > 0 && kept >= 0.98 * n)
            found = i * r->bin_s - at;
    }
    row(s, r, "recovery", r->tier[0].name, found >= 0 ? found : r->n_bins * r->bin_s - at, "s",
        BENCH_LOWER);
}

void study_add_rows(struct study *s, const struct pooled *p)
{
    const struct bench_run *r = p->run;
    double n = s->o->seeds;

    char prefix[120];

    study_prefix(s, r, prefix, sizeof(prefix));
    bench_run_rows(r, prefix, &s->report);
    if (r->bound_weight > 0 && r->weight_offered > 0)
        row(s, r, "bound.offered", "", r->bound_weight / r->weight_offered, "1", BENCH_HIGHER);
    row(s, r, "attainment.large_gap", "", r->rest_kept - r->large_kept, "1", BENCH_LOWER);
    add_health(s, p);
    add_recovery(s, p);
    row(s, r, "busy", "prefill", p->sum.busy[SCHED_ROLE_PREFILL] / n, "1", BENCH_HIGHER);
    row(s, r, "busy", "decode", p->sum.busy[SCHED_ROLE_DECODE] / n, "1", BENCH_HIGHER);
    row(s, r, "parked", "", (double)p->sum.parked / n, "1", BENCH_LOWER);
    row(s, r, "resumes", "", (double)p->sum.resumes / n, "1", BENCH_LOWER);
    if (s->o->elastic)
        row(s, r, "flips", "", (double)p->sum.flips / n, "1", BENCH_LOWER);
    row(s, r, "unfinished", "", (double)p->sum.unfinished / n, "1", BENCH_LOWER);
    row(s, r, "events", "", (double)p->sum.events / n, "1", BENCH_LOWER);
    if (s->o->timing)
        add_timing(s, p);
}

/* With all workers of a kind dead some wait until the end of time: neither kept, broken nor refused. */
static void print_stranded(const struct bench_run *r)
{
    uint64_t settled = r->all.kept + r->all.broken + r->all.refused;

    if (r->note[0] == '\0' && r->all.n > settled)
        printf("%s, %.1f req/s: %llu of %llu requests were neither served nor refused: they waited "
               "for a worker until they were given up\n",
               r->policy, r->rate, (unsigned long long)(r->all.n - settled),
               (unsigned long long)r->all.n);
}

void study_print_table(const struct study *s)
{
    printf("%-22s %-16s %9s %8s", "policy", "trace", "req/s", "all");
    for (uint32_t i = 0; i < s->cluster.n_tiers; i++)
        printf(" %8.8s", s->cluster.tiers[i].name);
    printf(" %9s %8s %8s %8s %10s\n", "goodput", "of bound", "broken", "refused", "ttft p99");
    for (size_t k = 0; k < s->n_runs; k++) {
        const struct bench_run *r = s->run[k];
        double n = r->all.n > 0 ? (double)r->all.n : 1;

        printf("%-22s %-16s %9.1f ", r->policy, r->trace, r->rate);
        if (r->note[0] != '\0') { /* of a run cut short no figure is one of the whole */
            printf(" %s\n", r->note);
            continue;
        }
        printf("%7.2f%%", 100 * bench_run_attainment(r, BENCH_TIERS_MAX));
        for (uint32_t i = 0; i < r->n_tiers; i++) {
            if (r->tier[i].n > 0)
                printf(" %7.2f%%", 100 * bench_run_attainment(r, i));
            else
                printf(" %8s", "-");
        }
        printf(" %9.2f", bench_run_goodput(r));
        if (r->bound_weight > 0)
            printf(" %7.2f%%", 100 * bench_run_bound_share(r));
        else
            printf(" %8s", "-");
        printf(" %7.2f%% %7.2f%%", 100 * bench_broken_share(r->all.kept, r->all.broken),
               100 * (double)r->all.refused / n);
        if (r->tier[0].ttft.n > 0)
            printf(" %8.0f ms\n", 1000 * bench_hist_quantile(&r->tier[0].ttft, 0.99));
        else
            printf(" %11s\n", "-");
    }
    for (size_t k = 0; k < s->n_runs; k++)
        print_stranded(s->run[k]);
}
