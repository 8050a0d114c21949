/* bench/sim_study.c - see the header. */
#include "bench/sim_study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bound.h"
#include "bench/perf_report.h"
#include "bench/trace.h"

enum { POLICIES_MAX = 32, SEEDS_MAX = 1000, RUNS_MAX = 1024, HALVINGS = 8, BOUNDS_MAX = 64 };
static const uint64_t LONG_NS = UINT64_C(3600) * 1000 * 1000 * 1000;

struct study {
    const struct bench_study *o;
    struct err_msg *msg;
    struct bench_cluster cluster;
    struct bench_trace trace; /* of the seed in hand */
    uint64_t trace_seed;
    bool have_trace;
    char policy[POLICIES_MAX][SCHED_NAME_MAX];
    uint32_t n_policies;
    struct bench_load load;
    double load_speedup;
    uint64_t load_seed;
    bool have_load;
    struct known_bound {
        double speedup, weight;
        uint64_t seed;
    } bound[BOUNDS_MAX];
    uint32_t n_bounds;
    FILE *records;
    struct bench_report report;
    struct bench_run *run[RUNS_MAX];
    size_t n_runs;
};

/* What several seeds of one policy at one speed gave. */
struct pooled {
    struct bench_run *run;
    struct bench_sim_result sum;
    double coverage[SCHED_STAGES], mape[SCHED_STAGES];
    uint32_t seen[SCHED_STAGES];
};

void bench_study_defaults(struct bench_study *s)
{
    *s = (struct bench_study){.policies = "baton",
                              .in = "1155:0.99",
                              .out = "211:0.86",
                              .warmup_s = 30,
                              .seed = 1,
                              .seeds = 1,
                              .noise = -1,
                              .bias = 1};
}

/* ---- what was asked for ---- */

static enum err read_list(const char *text, const char *what, double *v, uint32_t n,
                          struct err_msg *msg)
{
    const char *p = text;
    char *end;

    for (uint32_t i = 0; i < n; i++) {
        v[i] = strtod(p, &end);
        if (end == p || !(v[i] > 0) || !isfinite(v[i]) || *end != (i + 1 < n ? '/' : '\0'))
            return err_set(msg, ERR_INVALID,
                           "%s '%.60s': expected %u numbers above 0 between slashes, one per tier",
                           what, text, n);
        p = end + 1;
    }
    return ERR_OK;
}

static enum err read_cluster(struct study *s)
{
    const struct bench_study *o = s->o;
    double weight[SCHED_TIERS_MAX];
    enum err err = bench_cluster_read(o->cluster, &s->cluster, s->msg);

    if (err == ERR_OK)
        err = bench_cluster_resize(&s->cluster, o->prefill, o->decode, s->msg);
    if (err == ERR_OK && o->tiers != NULL)
        err = read_list(o->tiers, "--tiers", s->cluster.share, s->cluster.n_tiers, s->msg);
    if (err == ERR_OK && o->weights != NULL) {
        err = read_list(o->weights, "--weights", weight, s->cluster.n_tiers, s->msg);
        for (uint32_t i = 0; i < s->cluster.n_tiers && err == ERR_OK; i++)
            s->cluster.tiers[i].weight = weight[i];
    }
    return err;
}

static bool known_policy(const char *name, size_t len)
{
    const char *p = sched_policy_names();

    while (*p != '\0') {
        size_t n;

        p += strspn(p, ", ");
        n = strcspn(p, ", ");
        if (n == len && n > 0 && memcmp(p, name, n) == 0)
            return true;
        p += n;
    }
    return false;
}

static enum err read_policies(struct study *s)
{
    const char *p = s->o->policies;

    if (strcmp(p, "all") == 0)
        p = sched_policy_names();
    while (*p != '\0') {
        size_t n;

        p += strspn(p, ", ");
        n = strcspn(p, ", ");
        if (n == 0)
            break;
        if (!known_policy(p, n) || n >= SCHED_NAME_MAX)
            return err_set(s->msg, ERR_INVALID, "there is no policy '%.*s'; there are %s",
                           n < 60 ? (int)n : 60, p, sched_policy_names());
        if (s->n_policies == POLICIES_MAX)
            return err_set(s->msg, ERR_LIMIT, "over %d policies", POLICIES_MAX);
        memcpy(s->policy[s->n_policies++], p, n);
        p += n;
    }
    return s->n_policies > 0 ? ERR_OK : err_set(s->msg, ERR_INVALID, "--policy names none");
}

/* ---- the trace ---- */

/* MEAN, MEAN:SIGMA or MEAN:pareto:SHAPE */
static enum err read_lengths(const char *text, double *mean, double *sigma, double *pareto,
                             struct err_msg *msg)
{
    char *end;

    *mean = strtod(text, &end);
    if (end != text && strncmp(end, ":pareto:", 8) == 0) {
        const char *p = end + 8;

        *pareto = strtod(p, &end);
        if (end == p || !(*pareto > 1))
            end = NULL;
    } else if (end != text && *end == ':') {
        const char *p = end + 1;

        *sigma = strtod(p, &end);
        if (end == p || !(*sigma >= 0))
            end = NULL;
    }
    if (end == NULL || end == text || *end != '\0' || !(*mean >= 1))
        return err_set(msg, ERR_INVALID,
                       "length '%.60s': expected MEAN, MEAN:SIGMA or MEAN:pareto:SHAPE (above 1)",
                       text);
    return ERR_OK;
}

static enum err read_arrivals(const char *text, struct bench_draw *d, struct err_msg *msg)
{
    double cv = 2;

    if (text == NULL || strcmp(text, "poisson") == 0)
        d->arrival = BENCH_ARRIVE_POISSON;
    else if (strcmp(text, "constant") == 0)
        d->arrival = BENCH_ARRIVE_CONSTANT;
    else if (strcmp(text, "ramp") == 0)
        d->arrival = BENCH_ARRIVE_RAMP;
    else if (strcmp(text, "gamma") == 0 ||
             (strncmp(text, "gamma:", 6) == 0 && (cv = strtod(text + 6, NULL)) > 0))
        d->arrival = BENCH_ARRIVE_GAMMA;
    else
        return err_set(msg, ERR_INVALID,
                       "--arrivals '%.60s': expected poisson, constant, ramp or gamma:CV", text);
    d->burstiness = 1 / (cv * cv);
    return ERR_OK;
}

static bool is_drawn(const struct bench_study *o)
{
    return o->arrivals != NULL || strcmp(o->trace, "synthetic") == 0;
}

/* Drawn arrivals get the rate that was asked for, so their speed-up is 1. */
static enum err load_trace(struct study *s, uint64_t seed)
{
    const struct bench_study *o = s->o;
    struct bench_draw d = {.rate = o->rate > 0 ? o->rate : 10,
                           .seconds = o->duration_s > 0 ? o->duration_s : 600};
    struct bench_trace from = {.n = 0};
    bool synthetic = strcmp(o->trace, "synthetic") == 0;
    enum err err = ERR_OK;

    d.seed = seed;
    if (s->have_trace && s->trace_seed == seed)
        return ERR_OK;
    bench_trace_free(&s->trace);
    s->have_trace = s->have_load = false;
    err = read_arrivals(o->arrivals, &d, s->msg);
    if (err == ERR_OK && synthetic) {
        err = read_lengths(o->in, &d.in_mean, &d.in_sigma, &d.in_pareto, s->msg);
        if (err == ERR_OK)
            err = read_lengths(o->out, &d.out_mean, &d.out_sigma, &d.out_pareto, s->msg);
        if (err == ERR_OK)
            err = bench_trace_draw(&d, s->msg, &s->trace);
    } else if (err == ERR_OK && o->arrivals != NULL) {
        err = bench_trace_load(o->trace, seed, s->msg, &from);
        if (err == ERR_OK)
            err = bench_trace_redraw(&from, &d, s->msg, &s->trace);
        bench_trace_free(&from);
    } else if (err == ERR_OK) {
        err = bench_trace_load(o->trace, seed, s->msg, &s->trace);
    }
    s->have_trace = err == ERR_OK;
    s->trace_seed = seed;
    return err;
}

static uint32_t shortest_context(const struct bench_cluster *c)
{
    uint32_t n = UINT32_MAX;

    for (uint32_t i = 0; i < c->n_classes; i++)
        n = c->klass[i].max_context < n ? c->klass[i].max_context : n;
    return n;
}

/* Without a wish: whole passes of the trace, 300 s at least. */
static double duration_of(const struct study *s, double speedup)
{
    double pass = s->trace.seconds / speedup;

    if (s->o->duration_s > 0)
        return s->o->duration_s;
    return pass > 300 ? pass : ceil(300 / pass) * pass;
}

static enum err make_load(struct study *s, double speedup, uint64_t seed)
{
    enum err err = load_trace(s, seed);
    struct bench_load_plan p = {.trace = &s->trace,
                                .speedup = speedup,
                                .duration_s = duration_of(s, speedup),
                                .share = s->cluster.share,
                                .n_tiers = s->cluster.n_tiers,
                                .seed = seed,
                                .prefix_tokens = s->cluster.prefix_tokens,
                                .max_context = shortest_context(&s->cluster)};

    if (err != ERR_OK || (s->have_load && s->load_speedup == speedup && s->load_seed == seed))
        return err;
    bench_load_free(&s->load);
    s->have_load = false;
    err = bench_load_make(&p, s->msg, &s->load);
    s->have_load = err == ERR_OK;
    s->load_speedup = speedup;
    s->load_seed = seed;
    return err;
}

/* ---- the bound ---- */

/* Machine time that the prompt takes at least: its steps are full, and on a decode machine ride on steps
 * that are made anyway. */
static void prompt_work(const struct bench_study *o, const struct bench_sim_class *c,
                        const struct bench_arrival_row *a, struct bench_bound_item *x)
{
    const struct sched_law *p = &c->sched.prefill, *d = &c->sched.decode;
    double n = a->n_prompt - a->n_hit, past = a->n_hit, steps = n / c->max_step_tokens;
    double work = p->c[1] * n + p->c[2] * n * (n + 2 * past);
    double extra = p->c[0] > d->c[0] ? p->c[0] - d->c[0] : 0;

    x->prefill_s = fmin(x->prefill_s, (work + p->c[0] * steps) * o->bias / 1e9);
    x->local_s = fmin(x->local_s, (work + extra * steps) * o->bias / 1e9);
}

/* A step costs c0 whatever it does; the KV of its sequences fills the room at best, so each token of
 * context pays its part of c0. */
static void decode_work(const struct bench_study *o, const struct bench_sim_class *c,
                        const struct bench_arrival_row *a, struct bench_bound_item *x)
{
    const struct sched_law *d = &c->sched.decode;
    double k = a->n_out - 1.0, ctx = k * a->n_prompt + k * (k - 1) / 2;
    double ns = d->c[1] * k + (d->c[2] + d->c[0] / c->kv_tokens) * ctx;

    x->decode_s = fmin(x->decode_s, ns * o->bias / 1e9);
}

static struct bench_bound_item bound_item(const struct study *s, const struct bench_arrival_row *a)
{
    const struct sched_tier *t = &s->cluster.tiers[a->tier];
    struct bench_bound_item x = {.value = t->weight > 0 ? t->weight : 1,
                                 .at = (double)a->at_ns / 1e9,
                                 .prefill_s = INFINITY,
                                 .local_s = INFINITY,
                                 .decode_s = INFINITY};
    double alone = INFINITY;

    for (uint32_t i = 0; i < s->cluster.n_pools; i++) {
        const struct bench_sim_class *c = &s->cluster.klass[s->cluster.pool[i].klass];

        if (s->cluster.pool[i].role == SCHED_ROLE_PREFILL || s->o->elastic)
            prompt_work(s->o, c, a, &x);
        if (s->cluster.pool[i].role == SCHED_ROLE_DECODE || s->o->elastic) {
            struct bench_bound_item y = x;

            prompt_work(s->o, c, a, &y);
            x.local_s = y.local_s;
            decode_work(s->o, c, a, &x);
        }
    }
    alone = bench_sim_isolated_ns(&s->cluster, a) / 1e9;
    x.prefill_until = x.at + (double)t->ttft_ns / 1e9 + t->ttft_factor * alone;
    x.decode_from = fmin(x.at + fmin(x.prefill_s, x.local_s), x.prefill_until);
    x.decode_until = x.prefill_until + (a->n_out - 1.0) * (double)t->tbt_ns / 1e9;
    x.prefill_s = isfinite(x.prefill_s) ? x.prefill_s : x.local_s;
    return x;
}

/* Of the load in hand, requests after the warm-up.  With --elastic all machines are of one kind. */
static enum err solve_bound(struct study *s, double *weight)
{
    struct bench_bound_problem p = {.local = !s->o->no_local};
    struct bench_bound_item *v = mem_try_alloc((s->load.n + 1) * sizeof(*v));
    enum err err;

    if (v == NULL)
        return err_set(s->msg, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < s->load.n; i++) {
        if ((double)s->load.v[i].at_ns / 1e9 >= s->o->warmup_s)
            v[p.n++] = bound_item(s, &s->load.v[i]);
    }
    p.v = v;
    p.prefill_machines = bench_cluster_count(&s->cluster, SCHED_ROLE_PREFILL);
    p.decode_machines = bench_cluster_count(&s->cluster, SCHED_ROLE_DECODE);
    if (s->o->elastic) {
        p.decode_machines += p.prefill_machines;
        p.prefill_machines = 0;
        p.local = true;
    }
    err = bench_bound(&p, s->msg, weight);
    mem_free(v);
    return err;
}

static enum err bound_of_load(struct study *s, double *weight)
{
    uint64_t start = clock_now_ns();
    enum err err;

    *weight = 0;
    if (s->o->no_bound || s->o->find != NULL)
        return ERR_OK;
    for (uint32_t i = 0; i < s->n_bounds; i++) {
        if (s->bound[i].speedup == s->load_speedup && s->bound[i].seed == s->load_seed) {
            *weight = s->bound[i].weight;
            return ERR_OK;
        }
    }
    err = solve_bound(s, weight);
    if (err == ERR_OK && s->n_bounds < BOUNDS_MAX)
        s->bound[s->n_bounds++] = (struct known_bound){s->load_speedup, *weight, s->load_seed};
    if (err == ERR_OK && !s->o->quiet)
        fprintf(stderr, "bound of %zu arrivals, seed %llu: weight %.1f  (%.1f s)\n", s->load.n,
                (unsigned long long)s->load_seed, *weight, (double)(clock_now_ns() - start) / 1e9);
    return err;
}

/* ---- runs ---- */

static struct sched_config config_of(const struct study *s, const char *policy)
{
    struct sched_config c;

    sched_config_defaults(&c);
    snprintf(c.policy, sizeof(c.policy), "%s", policy);
    c.max_queued = 10000000;
    c.max_queued_tokens = UINT64_MAX / 4;
    /* nothing hangs here: a wait is long because a policy lets it be long */
    c.queue_timeout_ns = c.request_timeout_ns = c.grant_timeout_ns = LONG_NS;
    c.prefill_timeout_ns = c.handover_timeout_ns = c.decode_timeout_ns = LONG_NS;
    c.local_prefill = !s->o->no_local;
    c.elastic.on = s->o->elastic;
    return c;
}

static void setup_of(struct study *s, const char *policy, uint64_t seed, struct bench_sim_setup *x)
{
    const struct bench_study *o = s->o;

    *x = (struct bench_sim_setup){.cluster = &s->cluster,
                                  .load = &s->load,
                                  .config = config_of(s, policy),
                                  .seed = seed,
                                  .warmup_s = o->warmup_s,
                                  .max_new = o->max_new,
                                  .clairvoyant = strstr(policy, "clairvoyant") != NULL,
                                  .no_learning = o->no_learning,
                                  .bias = o->bias,
                                  .noise = o->noise,
                                  .stale_s = o->stale_s,
                                  .n_faults = o->n_faults,
                                  .timing = o->timing,
                                  .check = o->check,
                                  .records = s->records};
    memcpy(x->fault, o->fault, sizeof(x->fault));
}

static enum err open_run(struct study *s, const char *policy, double speedup,
                         struct bench_run **out)
{
    struct bench_run *r = mem_try_alloc(sizeof(*r));

    if (r == NULL || bench_run_init(r, s->cluster.n_tiers) != ERR_OK) {
        mem_free(r);
        return err_set(s->msg, ERR_NOMEM, "out of memory");
    }
    snprintf(r->source, sizeof(r->source), "simulate");
    snprintf(r->policy, sizeof(r->policy), "%s", policy);
    snprintf(r->trace, sizeof(r->trace), "%s", s->trace.name);
    snprintf(r->label, sizeof(r->label), "%.40s %uP%uD", s->cluster.name,
             bench_cluster_count(&s->cluster, SCHED_ROLE_PREFILL),
             bench_cluster_count(&s->cluster, SCHED_ROLE_DECODE));
    r->speedup = speedup;
    r->seed = s->o->seed;
    for (uint32_t i = 0; i < r->n_tiers; i++) {
        const struct sched_tier *t = &s->cluster.tiers[i];

        snprintf(r->tier[i].name, sizeof(r->tier[i].name), "%s", t->name);
        r->tier[i].weight = t->weight > 0 ? t->weight : 1;
        r->tier[i].ttft_s = (double)t->ttft_ns / 1e9;
        r->tier[i].tbt_s = (double)t->tbt_ns / 1e9;
    }
    *out = r;
    return ERR_OK;
}

static void close_run(struct bench_run *r)
{
    if (r != NULL)
        bench_run_free(r);
    mem_free(r);
}

static void pool_result(struct pooled *p, const struct bench_sim_result *r)
{
    p->sum.events += r->events;
    p->sum.sched_events += r->sched_events;
    p->sum.virtual_s += r->virtual_s;
    p->sum.wall_s += r->wall_s;
    p->sum.sched_s += r->sched_s;
    for (int i = 0; i <= SCHED_EV_TIMER; i++) {
        p->sum.kind_s[i] += r->kind_s[i];
        p->sum.kind_n[i] += r->kind_n[i];
    }
    p->sum.flips += r->flips;
    p->sum.resumes += r->resumes;
    p->sum.parked += r->parked;
    p->sum.skipped += r->skipped;
    p->sum.unfinished += r->unfinished;
    p->sum.late_mean += r->late_mean;
    p->sum.busy[1] += r->busy[1];
    p->sum.busy[2] += r->busy[2];
    for (int i = 0; i < SCHED_STAGES; i++) {
        const struct sched_health *h = &r->health[SCHED_TIERS_MAX][i];

        if (h->n == 0)
            continue;
        p->coverage[i] += h->coverage;
        p->mape[i] += h->mape;
        p->seen[i]++;
    }
}

static void say_run(const struct study *s, const struct pooled *p, uint64_t seed, double wall_s)
{
    const struct bench_run *r = p->run;

    if (s->o->quiet)
        return;
    fprintf(stderr, "%s %s x%g %.1f/s seed %llu:", r->policy, r->trace, r->speedup, s->load.rate,
            (unsigned long long)seed);
    for (uint32_t i = 0; i < r->n_tiers; i++)
        fprintf(stderr, " %s %.1f%%", r->tier[i].name, 100 * bench_run_attainment(r, i));
    if (r->bound_weight > 0)
        fprintf(stderr, ", %.1f%% of the bound", 100 * bench_run_bound_share(r));
    fprintf(stderr, "  (%.1f s)\n", wall_s);
}

/* All seeds of one policy at one speed. */
static enum err run_policy(struct study *s, const char *policy, double speedup, struct pooled *p)
{
    enum err err = load_trace(s, s->o->seed);

    *p = (struct pooled){.run = NULL};
    if (err == ERR_OK)
        err = open_run(s, policy, speedup, &p->run);
    for (uint32_t k = 0; k < s->o->seeds && err == ERR_OK; k++) {
        uint64_t seed = s->o->seed + k, start = clock_now_ns();
        struct bench_sim_setup x;
        struct bench_sim_result *r = mem_try_alloc(sizeof(*r));
        double bound = 0;

        if (r == NULL)
            return err_set(s->msg, ERR_NOMEM, "out of memory");
        err = make_load(s, speedup, seed);
        if (err == ERR_OK)
            err = bound_of_load(s, &bound);
        if (err == ERR_OK) {
            setup_of(s, policy, seed, &x);
            p->run->rate = s->load.rate;
            err = bench_sim_run(&x, p->run, r, s->msg);
        }
        if (err == ERR_OK) {
            pool_result(p, r);
            p->run->bound_weight += bound;
            bench_run_finish(p->run, (s->load.duration_s - s->o->warmup_s) * (k + 1));
            say_run(s, p, seed, (double)(clock_now_ns() - start) / 1e9);
        }
        mem_free(r);
    }
    return err;
}

/* ---- results ---- */

static void row(struct study *s, const struct bench_run *r, const char *what, const char *which,
                double value, const char *unit, enum bench_better better)
{
    char name[160];

    snprintf(name, sizeof(name), "%.31s.%.31s.x%g.%s%s%s", r->policy, r->trace, r->speedup, what,
             which[0] != '\0' ? "." : "", which);
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

    row(s, r, "events.rate", "", (double)p->sum.events / p->sum.wall_s, "1/s", BENCH_HIGHER);
    row(s, r, "wall", "", p->sum.wall_s / s->o->seeds, "s", BENCH_LOWER);
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

static void add_rows(struct study *s, const struct pooled *p)
{
    const struct bench_run *r = p->run;
    double n = s->o->seeds;

    bench_run_rows(r, NULL, &s->report);
    if (r->bound_weight > 0 && r->weight_offered > 0)
        row(s, r, "bound.offered", "", r->bound_weight / r->weight_offered, "1", BENCH_HIGHER);
    row(s, r, "attainment.large_gap", "", r->rest_kept - r->large_kept, "1", BENCH_LOWER);
    for (int i = 0; i < SCHED_STAGES; i++) {
        const char *stage = sched_stage_name((enum sched_stage)i);

        if (p->seen[i] == 0)
            continue;
        row(s, r, "coverage", stage, p->coverage[i] / p->seen[i], "1", BENCH_HIGHER);
        row(s, r, "mape", stage, p->mape[i] / p->seen[i], "1", BENCH_LOWER);
    }
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

static enum err keep_run(struct study *s, struct bench_run *r)
{
    if (s->n_runs == RUNS_MAX) {
        close_run(r);
        return err_set(s->msg, ERR_LIMIT, "over %d runs", RUNS_MAX);
    }
    s->run[s->n_runs++] = r;
    return ERR_OK;
}

/* Four digits, so that names are short and repeatable. */
static double round_speed(double x)
{
    char text[32];

    snprintf(text, sizeof(text), "%.4g", x);
    return strtod(text, NULL);
}

static enum err speed_for(struct study *s, double rate, double *out)
{
    enum err err = load_trace(s, s->o->seed);

    if (err == ERR_OK)
        *out = round_speed(rate * s->trace.seconds / (double)s->trace.n);
    return err;
}

static bool holds(const struct bench_run *r, const char *what)
{
    double all = bench_run_attainment(r, BENCH_TIERS_MAX), least = 1;

    for (uint32_t i = 0; i < r->n_tiers; i++) {
        if (r->tier[i].n > 0 && bench_run_attainment(r, i) < least)
            least = bench_run_attainment(r, i);
    }
    if (strcmp(what, "tier90") == 0)
        return least >= 0.9;
    if (strcmp(what, "gold99") == 0)
        return bench_run_attainment(r, 0) >= 0.99 && all >= 0.9;
    return all >= 0.9;
}

static enum err try_speed(struct study *s, const char *policy, double speedup, bool *ok)
{
    struct pooled p;
    enum err err = run_policy(s, policy, speedup, &p);

    if (err != ERR_OK) {
        close_run(p.run);
        return err;
    }
    *ok = holds(p.run, s->o->find);
    return keep_run(s, p.run);
}

/* Doubles or halves until one speed holds and one does not, then narrows: 2^(1/2^HALVINGS) is 0.3 %. */
static enum err find_rate(struct study *s, const char *policy, double start)
{
    double low = start, high = start, mean = 0;
    bool ok = false, up;
    char name[160];
    enum err err = try_speed(s, policy, start, &ok);

    up = ok;
    for (int i = 0; err == ERR_OK && ok == up && i < 12; i++) {
        low = up ? high : round_speed(low / 2);
        high = round_speed(2 * low);
        err = try_speed(s, policy, up ? high : low, &ok);
    }
    if (err == ERR_OK && ok == up)
        low = high = up ? high : 0;
    for (int i = 0; err == ERR_OK && i < HALVINGS && high > low * 1.005; i++) {
        double mid = round_speed(sqrt(low * high));

        err = try_speed(s, policy, mid, &ok);
        if (ok)
            low = mid;
        else
            high = mid;
    }
    if (err != ERR_OK)
        return err;
    mean = (double)s->trace.n / s->trace.seconds;
    snprintf(name, sizeof(name), "%.31s.%.31s.rate.%s", policy, s->trace.name, s->o->find);
    bench_report_add(&s->report, name, low * mean, "req/s", BENCH_HIGHER);
    if (!s->o->quiet)
        fprintf(stderr, "%s %s: %s holds up to %.4g req/s\n", policy, s->trace.name, s->o->find,
                low * mean);
    return ERR_OK;
}

static void print_table(const struct study *s)
{
    printf("%-22s %-16s %9s %8s", "policy", "trace", "req/s", "all");
    for (uint32_t i = 0; i < s->cluster.n_tiers; i++)
        printf(" %8.8s", s->cluster.tiers[i].name);
    printf(" %9s %8s %8s %8s %10s\n", "goodput", "of bound", "broken", "refused", "ttft p99");
    for (size_t k = 0; k < s->n_runs; k++) {
        const struct bench_run *r = s->run[k];
        double n = r->all.n > 0 ? (double)r->all.n : 1;

        printf("%-22s %-16s %9.1f %7.2f%%", r->policy, r->trace, r->rate,
               100 * bench_run_attainment(r, BENCH_TIERS_MAX));
        for (uint32_t i = 0; i < r->n_tiers; i++)
            printf(" %7.2f%%", 100 * bench_run_attainment(r, i));
        printf(" %9.2f", bench_run_goodput(r));
        if (r->bound_weight > 0)
            printf(" %7.2f%%", 100 * bench_run_bound_share(r));
        else
            printf(" %8s", "-");
        printf(" %7.2f%% %7.2f%% %8.0f ms\n", 100 * (double)r->all.broken / n,
               100 * (double)r->all.refused / n,
               1000 * bench_hist_quantile(&r->tier[0].ttft, 0.99));
    }
}

static enum err run_all(struct study *s)
{
    const struct bench_study *o = s->o;
    double speed = o->speedup > 0 ? o->speedup : 1;
    enum err err = ERR_OK;

    if (o->rate > 0 && !is_drawn(o)) /* drawn ones have their rate */
        err = speed_for(s, o->rate, &speed);
    for (uint32_t i = 0; i < s->n_policies && err == ERR_OK; i++) {
        struct pooled p = {.run = NULL};

        if (o->find != NULL) {
            err = find_rate(s, s->policy[i], speed);
            continue;
        }
        err = run_policy(s, s->policy[i], speed, &p);
        if (err != ERR_OK) {
            close_run(p.run);
            break;
        }
        add_rows(s, &p);
        err = keep_run(s, p.run);
    }
    return err;
}

static enum err finish(struct study *s)
{
    enum err err = ERR_OK;

    if (s->o->json || s->o->find != NULL)
        err = bench_report_print(&s->report, s->o->json);
    if (!s->o->json)
        print_table(s);
    if (err == ERR_OK && s->o->report != NULL)
        err = bench_html_write(s->o->report, "baton simulate",
                               (const struct bench_run *const *)s->run, s->n_runs, s->msg);
    return err;
}

static enum err check(const struct bench_study *o, struct err_msg *msg)
{
    if (o->cluster == NULL || o->trace == NULL)
        return err_set(msg, ERR_INVALID, "--cluster FILE and --trace FILE are needed");
    if (o->seeds == 0 || o->seeds > SEEDS_MAX)
        return err_set(msg, ERR_INVALID, "--seeds must be 1 to %d", SEEDS_MAX);
    if (o->speedup > 0 && o->rate > 0)
        return err_set(msg, ERR_INVALID, "--speedup and --rate exclude each other");
    if (!(o->warmup_s >= 0) || (o->duration_s > 0 && o->warmup_s >= o->duration_s))
        return err_set(msg, ERR_INVALID, "--warmup must be shorter than --duration");
    if (!(o->bias > 0))
        return err_set(msg, ERR_INVALID, "--bias must be above 0");
    if (o->find != NULL && strcmp(o->find, "tier90") != 0 && strcmp(o->find, "gold99") != 0 &&
        strcmp(o->find, "all90") != 0)
        return err_set(msg, ERR_INVALID, "--find-rate '%.40s': expected tier90, gold99 or all90",
                       o->find);
    return ERR_OK;
}

enum err bench_study_run(const struct bench_study *o, struct err_msg *msg)
{
    struct study *s = mem_try_calloc(1, sizeof(*s));
    enum err err;

    if (s == NULL)
        return err_set(msg, ERR_NOMEM, "out of memory");
    s->o = o;
    s->msg = msg;
    bench_report_init(&s->report, "simulate");
    err = check(o, msg);
    if (err == ERR_OK)
        err = read_cluster(s);
    if (err == ERR_OK)
        err = read_policies(s);
    if (err == ERR_OK && o->records != NULL) {
        s->records = fopen(o->records, "w");
        if (s->records == NULL)
            err = err_set(msg, ERR_IO, "%s: cannot be written", o->records);
    }
    if (err == ERR_OK)
        err = run_all(s);
    if (err == ERR_OK)
        err = finish(s);
    if (s->records != NULL && fclose(s->records) != 0 && err == ERR_OK)
        err = err_set(msg, ERR_IO, "%s: cannot be written", o->records);
    for (size_t i = 0; i < s->n_runs; i++)
        close_run(s->run[i]);
    bench_load_free(&s->load);
    bench_trace_free(&s->trace);
    bench_report_free(&s->report);
    mem_free(s);
    return err;
}
