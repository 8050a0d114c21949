/* bench/sim_study_load.c - what arrives in a simulated run, and the most that could be kept of it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bound.h"
#include "bench/sim_study_impl.h"

/* ---- the trace ---- */

enum { LENGTH_MAX = 10000000 }; /* tokens */
static const double SIGMA_MAX = 4, SHAPE_MAX = 100, CV_MIN = 0.03, CV_MAX = 30;

/* MEAN, MEAN:SIGMA or MEAN:pareto:SHAPE */
static enum err read_lengths(const char *option, const char *text, double *mean, double *sigma,
                             double *pareto, struct err_msg *msg)
{
    char *end;
    bool good;

    *mean = strtod(text, &end);
    good = end != text && *mean >= 1 && *mean <= LENGTH_MAX;
    if (good && strncmp(end, ":pareto:", 8) == 0) {
        const char *p = end + 8;

        *pareto = strtod(p, &end);
        good = end != p && *pareto > 1 && *pareto <= SHAPE_MAX;
    } else if (good && *end == ':') {
        const char *p = end + 1;

        *sigma = strtod(p, &end);
        good = end != p && *sigma >= 0 && *sigma <= SIGMA_MAX;
    }
    if (good && *end == '\0')
        return ERR_OK;
    return err_set(msg, ERR_INVALID,
                   "%s '%.60s': expected MEAN, MEAN:SIGMA or MEAN:pareto:SHAPE; MEAN from 1 to %d "
                   "tokens, SIGMA from "
                   "0 to %g, SHAPE above 1, at most %g",
                   option, text, LENGTH_MAX, SIGMA_MAX, SHAPE_MAX);
}

static bool read_cv(const char *text, double *cv)
{
    char *end;

    *cv = strtod(text, &end);
    return end != text && *end == '\0' && *cv >= CV_MIN && *cv <= CV_MAX;
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
             (strncmp(text, "gamma:", 6) == 0 && read_cv(text + 6, &cv)))
        d->arrival = BENCH_ARRIVE_GAMMA;
    else
        return err_set(
            msg, ERR_INVALID,
            "--arrivals '%.60s': expected poisson, constant, ramp or gamma:CV, CV from %g to %g",
            text, CV_MIN, CV_MAX);
    d->burstiness = 1 / (cv * cv);
    return ERR_OK;
}

enum err study_check_load(const struct bench_study *o, struct err_msg *msg)
{
    struct bench_draw d = {.rate = 1};
    enum err err = read_arrivals(o->arrivals, &d, msg);

    if (err == ERR_OK)
        err = read_lengths("--in", o->in, &d.in_mean, &d.in_sigma, &d.in_pareto, msg);
    return err == ERR_OK
               ? read_lengths("--out", o->out, &d.out_mean, &d.out_sigma, &d.out_pareto, msg)
               : err;
}

bool study_is_drawn(const struct bench_study *o)
{
    return o->arrivals != NULL || strcmp(o->trace, "synthetic") == 0;
}

/* Drawn arrivals get the rate that was asked for, so their speed-up is 1. */
enum err study_load_trace(struct study *s, uint64_t seed)
{
    const struct bench_study *o = s->o;
    struct bench_draw d = {.rate = s->rate > 0 ? s->rate : 10,
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
        err = read_lengths("--in", o->in, &d.in_mean, &d.in_sigma, &d.in_pareto, s->msg);
        if (err == ERR_OK)
            err = read_lengths("--out", o->out, &d.out_mean, &d.out_sigma, &d.out_pareto, s->msg);
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

enum err study_make_load(struct study *s, double speedup, uint64_t seed)
{
    enum err err = study_load_trace(s, seed);
    struct bench_load_plan p = {.trace = &s->trace,
                                .speedup = speedup,
                                .duration_s = duration_of(s, speedup),
                                .share = s->cluster.share,
                                .n_tiers = s->cluster.n_tiers,
                                .tenant_share = s->tenants.share,
                                .surge = s->tenants.surge,
                                .n_tenants = s->tenants.n,
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
    if (s->load.n_too_large > 0 && !s->said_too_large) { /* no progress: said with --quiet too */
        fprintf(stderr, "%zu of %zu requests exceed the context of %u tokens and are refused\n",
                s->load.n_too_large, s->load.n, p.max_context);
        s->said_too_large = true;
    }
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
        if ((double)s->load.v[i].at_ns / 1e9 >= s->o->warmup_s && !s->load.v[i].too_large)
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

enum err study_bound(struct study *s, double *weight)
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
