/* bench/perf_sched.c - fills a scheduler, then walks requests through their lives and times each event. */
#include "bench/perf_sched.h"

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/perf_report.h"
#include "scheduler/sched.h"
#include "scheduler/sched_view.h"

enum { CYCLES = 20000, EVENTS = 8, SAMPLES = CYCLES * 4, RING = 1 << 17 };
static const double PROMPT_NS = 36e6; /* of the mean prompt on one worker */

struct world {
    uint32_t workers, queued;
};

struct running {
    uint64_t id;
    uint32_t prefill, decode;
};

struct driver {
    struct sched *s;
    struct sched_actions act;
    struct running *ring; /* dispatched and not yet walked through */
    size_t head, n;
    uint64_t next_id, rng, now;
    uint64_t refused;
    double *decision; /* microseconds */
    size_t n_decision;
    uint64_t spent; /* in sched_apply, ns */
    bool timed;
};

struct figures {
    double p50, p99, request, memory;
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
    if (d->n == RING)
        return ERR_BAD_STATE; /* cannot be: workers have fewer windows than that */
    d->ring[(d->head + d->n++) % RING] = (struct running){a->request, a->worker, a->peer};
    return ERR_OK;
}

static enum err apply(struct driver *d, const struct sched_event *e)
{
    bool decided = e->kind == SCHED_EV_ARRIVE;
    uint64_t start, took;
    enum err err;

    d->act.n = 0;
    start = clock_now_ns();
    err = sched_apply(d->s, e, d->now, &d->act);
    took = clock_now_ns() - start;
    for (size_t i = 0; i < d->act.n && err == ERR_OK; i++) {
        const struct sched_action *a = &d->act.v[i];

        d->refused += a->kind == SCHED_ACT_REJECT || a->kind == SCHED_ACT_FAIL;
        if (a->kind == SCHED_ACT_PREFILL) {
            decided = true;
            err = ring_push(d, a);
        }
    }
    if (!d->timed)
        return err;
    d->spent += took;
    if (decided && d->n_decision < SAMPLES)
        d->decision[d->n_decision++] = (double)took / 1000;
    return err;
}

/* Targets so far off that a long queue is feasible: the cost of a promise is the same. */
static enum err arrive(struct driver *d)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = ++d->next_id};

    e.u.arrive.tier = draw(d, 0, 2);
    e.u.arrive.n_prompt = draw(d, 100, 3000);
    e.u.arrive.max_new = draw(d, 2, 500);
    e.u.arrive.arrived_ns = d->now;
    e.u.arrive.ttft_ns = (uint64_t)draw(d, 100000, 400000) * CLOCK_NS_PER_S;
    return apply(d, &e);
}

static enum err join(struct driver *d, uint32_t klass, uint32_t id, enum sched_role role)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = id};

    e.u.join.role = role;
    e.u.join.n_blocks = 25000;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = 256;
    e.u.join.max_context = 131072;
    e.u.join.klass = klass;
    e.u.join.max_step_tokens = 2048;
    e.u.join.can_prefill = true;
    return apply(d, &e);
}

/* What is due by now. */
static enum err fire(struct driver *d)
{
    struct sched_event e = {.kind = SCHED_EV_TIMER};

    return sched_next_timer(d->s) <= d->now ? apply(d, &e) : ERR_OK;
}

/* All that one request goes through, and a new one in its place. */
static enum err walk(struct driver *d, const struct world *w)
{
    struct running r = d->ring[d->head];
    bool local = r.prefill == r.decode;
    struct sched_event e[] = {
        {.kind = SCHED_EV_GRANTED, .worker = r.decode, .u.granted = {true}},
        {.kind = SCHED_EV_PREFILL_DONE, .worker = r.prefill},
        {.kind = SCHED_EV_HANDOVER_DONE, .worker = r.decode, .u.handover = {.from_decode = true}},
        {.kind = SCHED_EV_RELEASED, .worker = r.prefill},
        {.kind = SCHED_EV_TOKENS, .u.tokens = {2}},
        {.kind = SCHED_EV_RELEASED, .worker = r.decode},
        {.kind = SCHED_EV_FINISH}};
    enum err err = fire(d);

    d->head = (d->head + 1) % RING;
    d->n--;
    d->now += (uint64_t)(PROMPT_NS / (w->workers / 2));
    for (size_t i = 0; i < sizeof(e) / sizeof(e[0]) && err == ERR_OK; i++) {
        if (local && (i == 0 || i == 2 || i == 3))
            continue;
        e[i].request = r.id;
        e[i].epoch = 1;
        err = apply(d, &e[i]);
    }
    return err == ERR_OK ? arrive(d) : err;
}

static uint32_t queued(const struct driver *d)
{
    struct sched_stats st;

    sched_get_stats(d->s, &st);
    return st.queued[0] + st.queued[1] + st.queued[2];
}

static enum err add_workers(struct driver *d, const struct world *w, struct err_msg *msg)
{
    static const struct sched_class h100 = {
        .name = "h100-8b",
        .prefill = {{2.668e6, 0.02051e6, 0.38491, 0.01222e6}, 448},
        .decode = {{7.141e6, 0.00888e6, 43.198, 0.00478e6}, 128},
        .kv_bytes_per_token = 131072,
        .link_bytes_per_s = 46e9,
        .link_setup_ns = 2000000};
    uint32_t klass;
    enum err err = sched_add_class(d->s, &h100, msg, &klass);

    for (uint32_t i = 0; i < w->workers && err == ERR_OK; i++)
        err = join(d, klass, i + 1, i % 2 == 0 ? SCHED_ROLE_PREFILL : SCHED_ROLE_DECODE);
    return err;
}

/* There where jemalloc is linked in place of the C library's allocator. */
extern int mallctl(const char *name, void *old, size_t *old_size, void *now, size_t now_size)
    __attribute__((weak));

static size_t heap_bytes(void)
{
    uint64_t epoch = 1;
    size_t bytes = 0, size = sizeof(bytes);

    if (mallctl == NULL)
        return mallinfo2().uordblks + mallinfo2().hblkhd;
    if (mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)) != 0 ||
        mallctl("stats.allocated", &bytes, &size, NULL, 0) != 0)
        return 0;
    return bytes;
}

/* What a request costs once the tables are there: over the second half of them. */
static enum err fill(struct driver *d, const struct world *w, double *memory, struct err_msg *msg)
{
    size_t half = 0;
    uint64_t tries = 0;
    enum err err = ERR_OK;

    while (err == ERR_OK && (queued(d) < w->queued || d->n < w->workers / 2)) {
        err = arrive(d);
        if (half == 0 && queued(d) >= w->queued / 2)
            half = heap_bytes();
        if (err == ERR_OK && ++tries > 3 * (uint64_t)w->queued + 100 * (uint64_t)w->workers)
            return err_set(msg, ERR_BAD_STATE, "perf sched: %u of %u requests wait, %llu refused",
                           queued(d), w->queued, (unsigned long long)d->refused);
    }
    if (w->queued > 0)
        *memory = (double)(heap_bytes() - half) / (w->queued - w->queued / 2);
    return err;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double percentile(const double *v, size_t n, double p)
{
    return n == 0 ? 0 : v[(size_t)((double)(n - 1) * p)];
}

static enum err measure(struct driver *d, const struct world *w, struct figures *out,
                        struct err_msg *msg)
{
    enum err err = add_workers(d, w, msg);

    if (err == ERR_OK)
        err = fill(d, w, &out->memory, msg);
    d->timed = true;
    for (int i = 0; i < CYCLES && err == ERR_OK; i++)
        err = d->n > 0 ? walk(d, w) : arrive(d);
    if (err != ERR_OK)
        return err;
    qsort(d->decision, d->n_decision, sizeof(*d->decision), by_value);
    out->p50 = percentile(d->decision, d->n_decision, 0.5);
    out->p99 = percentile(d->decision, d->n_decision, 0.99);
    out->request = (double)d->spent / 1000 / CYCLES;
    return sched_check(d->s, msg);
}

static enum err run_world(const struct world *w, struct figures *out, struct err_msg *msg)
{
    struct driver d = {.rng = 1, .now = CLOCK_NS_PER_S};
    struct sched_config c;
    enum err err;

    sched_config_defaults(&c);
    for (uint32_t t = 0; t < c.n_tiers; t++)
        c.tiers[t].on_miss =
            SCHED_MISS_WAIT; /* nobody is sent away: queues grow as long as wanted */
    c.max_queued = w->queued + 100 * w->workers;
    c.max_queued_tokens = UINT64_MAX;
    c.queue_timeout_ns = c.request_timeout_ns = 20 * 24 * 3600 * CLOCK_NS_PER_S;
    d.ring = mem_try_calloc(RING, sizeof(*d.ring));
    d.decision = mem_try_calloc(SAMPLES, sizeof(*d.decision));
    if (d.ring == NULL || d.decision == NULL)
        err = err_set(msg, ERR_NOMEM, "perf sched: out of memory");
    else
        err = sched_create(&c, msg, &d.s);
    if (err == ERR_OK)
        err = measure(&d, w, out, msg);
    sched_destroy(d.s);
    sched_actions_free(&d.act);
    mem_free(d.ring);
    mem_free(d.decision);
    return err;
}

static void add(struct bench_report *r, const struct world *w, const char *what, double value,
                const char *unit, const double *reference)
{
    char name[96];

    snprintf(name, sizeof(name), "sched.%s.w%u.q%u", what, w->workers, w->queued);
    bench_report_add(r, name, value, unit, BENCH_LOWER);
    if (reference != NULL)
        bench_report_reference(r, "10 workers, none queued, same run", *reference);
}

enum err bench_perf_sched(bool json, struct err_msg *msg)
{
    static const uint32_t workers[] = {10, 100, 1000}, waiting[] = {0, 1000, 100000};
    struct bench_report report;
    struct figures first = {0};
    enum err err = ERR_OK;

    bench_report_init(&report, "perf sched");
    for (int i = 0; i < 9 && err == ERR_OK; i++) {
        struct world w = {workers[i / 3], waiting[i % 3]};
        struct figures f = {0};

        err = run_world(&w, &f, msg);
        if (err != ERR_OK)
            break;
        add(&report, &w, "decision.p50", f.p50, "us", i > 0 ? &first.p50 : NULL);
        add(&report, &w, "decision.p99", f.p99, "us", i > 0 ? &first.p99 : NULL);
        add(&report, &w, "request", f.request, "us", i > 0 ? &first.request : NULL);
        if (w.queued == waiting[2])
            add(&report, &w, "memory", f.memory, "bytes", NULL);
        if (i == 0)
            first = f;
    }
    if (err == ERR_OK)
        err = bench_report_print(&report, json);
    bench_report_free(&report);
    return err;
}
