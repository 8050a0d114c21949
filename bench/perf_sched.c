/* bench/perf_sched.c - fills a scheduler, then walks requests through their lives and times each event. */
#include "bench/perf_sched.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/perf_report.h"
#include "scheduler/sched.h"
#include "scheduler/sched_view.h"

enum { CYCLES = 20000, EVENTS = 8, SAMPLES = CYCLES * EVENTS };

struct world {
    uint32_t workers, queued;
    bool decode_bound;
};

struct running {
    uint64_t id;
    uint32_t prefill, decode;
};

struct driver {
    struct sched *s;
    struct sched_actions act;
    struct running *ring; /* placed and not yet walked through */
    size_t head, n, cap;
    uint64_t next_id, rng;
    double *all, *placing; /* microseconds */
    size_t n_all, n_placing;
    bool timed;
};

struct figures {
    double requests, mean, p50, p99, placement;
};

static uint32_t draw(struct driver *d, uint32_t low, uint32_t high)
{
    uint64_t x = d->rng += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x ^= x >> 31;
    return low + (uint32_t)(x % (high - low + 1));
}

static enum err ring_push(struct driver *d, const struct sched_action *a)
{
    if (d->n == d->cap)
        return ERR_BAD_STATE; /* cannot be: there is a place for every request that lives */
    d->ring[(d->head + d->n++) % d->cap] = (struct running){a->request, a->worker, a->peer};
    return ERR_OK;
}

static enum err apply(struct driver *d, const struct sched_event *e)
{
    uint64_t start, took;
    bool placed = false;
    enum err err;

    d->act.n = 0;
    start = clock_now_ns();
    err = sched_apply(d->s, e, start, &d->act);
    took = clock_now_ns() - start;
    for (size_t i = 0; i < d->act.n && err == ERR_OK; i++) {
        if (d->act.v[i].kind == SCHED_ACT_PREFILL) {
            placed = true;
            err = ring_push(d, &d->act.v[i]);
        }
    }
    if (d->timed && d->n_all < SAMPLES) {
        d->all[d->n_all++] = (double)took / 1000;
        if (placed)
            d->placing[d->n_placing++] = (double)took / 1000;
    }
    return err;
}

static enum err arrive(struct driver *d)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = ++d->next_id};

    e.u.arrive.tier = draw(d, 0, 2);
    e.u.arrive.n_prompt = draw(d, 100, 3000);
    e.u.arrive.max_new = draw(d, 2, 500);
    e.u.arrive.arrived_ns = clock_now_ns();
    return apply(d, &e);
}

static enum err join(struct driver *d, const struct world *w, uint32_t id, enum sched_role role)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = id};

    e.u.join.role = role;
    e.u.join.n_blocks = 8192;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = w->decode_bound ? 4 : 64;
    e.u.join.max_context = 8192;
    return apply(d, &e);
}

/* All that one request goes through, and a new one in its place. */
static enum err walk(struct driver *d)
{
    struct running r = d->ring[d->head];
    struct sched_event e[EVENTS - 1] = {
        {.kind = SCHED_EV_GRANTED, .worker = r.decode, .u.granted = {true}},
        {.kind = SCHED_EV_PREFILL_DONE, .worker = r.prefill},
        {.kind = SCHED_EV_HANDOVER_DONE, .worker = r.decode, .u.handover = {ERR_OK, true}},
        {.kind = SCHED_EV_RELEASED, .worker = r.prefill},
        {.kind = SCHED_EV_TOKENS, .u.tokens = {2}},
        {.kind = SCHED_EV_RELEASED, .worker = r.decode},
        {.kind = SCHED_EV_FINISH}};
    enum err err = ERR_OK;

    d->head = (d->head + 1) % d->cap;
    d->n--;
    for (size_t i = 0; i < EVENTS - 1 && err == ERR_OK; i++) {
        e[i].request = r.id;
        e[i].epoch = 1;
        err = apply(d, &e[i]);
    }
    return err == ERR_OK ? arrive(d) : err;
}

static enum err fill(struct driver *d, const struct world *w)
{
    enum err err = ERR_OK;
    struct sched_stats st = {0};

    for (uint32_t i = 0; i < w->workers && err == ERR_OK; i++)
        err = join(d, w, i + 1, i % 2 == 0 ? SCHED_ROLE_PREFILL : SCHED_ROLE_DECODE);
    while (err == ERR_OK && st.queued[0] + st.queued[1] + st.queued[2] < w->queued) {
        err = arrive(d);
        sched_get_stats(d->s, &st);
    }
    return err;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double percentile(double *v, size_t n, double p)
{
    if (n == 0)
        return 0;
    qsort(v, n, sizeof(*v), by_value);
    return v[(size_t)((double)(n - 1) * p)];
}

static enum err measure(struct driver *d, const struct world *w, struct figures *out,
                        struct err_msg *msg)
{
    enum err err = fill(d, w);
    uint64_t start;
    double sum = 0;

    d->timed = true;
    start = clock_now_ns();
    for (int i = 0; i < CYCLES && err == ERR_OK; i++)
        err = d->n > 0 ? walk(d) : err_set(msg, ERR_BAD_STATE, "perf sched: nothing is placed");
    if (err != ERR_OK)
        return err;
    out->requests = CYCLES / ((double)(clock_now_ns() - start) / 1e9);
    for (size_t i = 0; i < d->n_all; i++)
        sum += d->all[i];
    out->mean = sum / (double)d->n_all;
    out->p50 = percentile(d->all, d->n_all, 0.5);
    out->p99 = percentile(d->all, d->n_all, 0.99);
    out->placement = percentile(d->placing, d->n_placing, 0.99);
    return sched_check(d->s, msg);
}

static enum err run_world(const struct world *w, struct figures *out, struct err_msg *msg)
{
    struct driver d = {.rng = 1, .cap = (size_t)w->queued + 64 * (size_t)w->workers};
    struct sched_config c;
    enum err err;

    sched_config_defaults(&c);
    c.max_queued = w->queued + 1;
    c.max_queued_tokens = UINT64_MAX;
    if (w->decode_bound)
        c.prefill_window_tokens = 1 << 20;
    d.ring = mem_try_calloc(d.cap, sizeof(*d.ring));
    d.all = mem_try_calloc(SAMPLES, sizeof(*d.all));
    d.placing = mem_try_calloc(SAMPLES, sizeof(*d.placing));
    if (d.ring == NULL || d.all == NULL || d.placing == NULL)
        err = err_set(msg, ERR_NOMEM, "perf sched: out of memory");
    else
        err = sched_create(&c, msg, &d.s);
    if (err == ERR_OK)
        err = measure(&d, w, out, msg);
    sched_destroy(d.s);
    sched_actions_free(&d.act);
    mem_free(d.ring);
    mem_free(d.all);
    mem_free(d.placing);
    return err;
}

static void add(struct bench_report *r, const struct world *w, const char *what, double value,
                const char *unit, const double *reference)
{
    char name[96];

    snprintf(name, sizeof(name), "sched.w%u.q%u.%s.%s", w->workers, w->queued,
             w->decode_bound ? "decode" : "prefill", what);
    bench_report_add(r, name, value, unit, unit[0] == 'r' ? BENCH_HIGHER : BENCH_LOWER);
    if (reference != NULL)
        bench_report_reference(r, "10 workers, 100 queued, same run", *reference);
}

enum err bench_perf_sched(bool json, struct err_msg *msg)
{
    struct bench_report report;
    enum err err = ERR_OK;

    bench_report_init(&report, "perf sched");
    for (int bound = 0; bound < 2 && err == ERR_OK; bound++) {
        struct figures small = {0};

        for (int size = 0; size < 2 && err == ERR_OK; size++) {
            struct world w = {size == 0 ? 10 : 1000, size == 0 ? 100 : 100000, bound == 1};
            const struct figures *ref = size == 0 ? NULL : &small;
            struct figures f = {0};

            err = run_world(&w, &f, msg);
            if (err != ERR_OK)
                break;
            add(&report, &w, "requests", f.requests, "req/s", ref ? &ref->requests : NULL);
            add(&report, &w, "decision.mean", f.mean, "us", ref ? &ref->mean : NULL);
            add(&report, &w, "decision.p50", f.p50, "us", ref ? &ref->p50 : NULL);
            add(&report, &w, "decision.p99", f.p99, "us", ref ? &ref->p99 : NULL);
            add(&report, &w, "placement.p99", f.placement, "us", ref ? &ref->placement : NULL);
            if (size == 0)
                small = f;
        }
    }
    if (err == ERR_OK)
        err = bench_report_print(&report, json);
    bench_report_free(&report);
    return err;
}
