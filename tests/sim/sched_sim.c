/* tests/sim/sched_sim.c - virtual time, the random world of a seed, and the loop. */
#include "tests/sim/sched_sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "tests/sim/sim_impl.h"

enum { EVENTS_MAX = 60000 };

/* ---- chance ---- */

uint64_t sim_random(struct sim *m)
{
    uint64_t x = m->rng += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint32_t sim_pick(struct sim *m, uint32_t below)
{
    return below == 0 ? 0 : (uint32_t)(sim_random(m) % below);
}

uint32_t sim_between(struct sim *m, uint32_t low, uint32_t high)
{
    return low + sim_pick(m, high - low + 1);
}

bool sim_fault(struct sim *m, enum sim_fault f)
{
    return m->now < m->horizon && m->rate[f] > 0 && sim_pick(m, 1000) < m->rate[f];
}

void sim_violation(struct sim *m, const char *format, ...)
{
    struct sched_sim_result *out = m->out;
    va_list ap;
    int n;

    if (out->why[0] != '\0')
        return;
    n = snprintf(out->why, sizeof(out->why),
                 "event %llu at %llu us: ", (unsigned long long)out->events,
                 (unsigned long long)(m->now / 1000));
    va_start(ap, format);
    if (n > 0 && (size_t)n < sizeof(out->why))
        vsnprintf(out->why + n, sizeof(out->why) - (size_t)n, format, ap);
    va_end(ap);
}

struct sim_request *sim_request_of(struct sim *m, uint64_t id)
{
    return &m->req[id - 1];
}

/* ---- what is to come ---- */

static bool item_before(const struct sim_item *a, const struct sim_item *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

void sim_push(struct sim *m, const struct sim_item *item)
{
    size_t at = m->n_heap;

    if (m->n_heap == m->cap_heap) {
        size_t cap = m->cap_heap == 0 ? 256 : m->cap_heap * 2;
        struct sim_item *grown = mem_try_realloc(m->heap, cap * sizeof(*grown));

        if (grown == NULL) {
            sim_violation(m, "the simulator ran out of memory");
            return;
        }
        m->heap = grown;
        m->cap_heap = cap;
    }
    m->heap[m->n_heap++] = *item;
    m->heap[at].seq = m->seq++;
    while (at > 0 && item_before(&m->heap[at], &m->heap[(at - 1) / 2])) {
        struct sim_item t = m->heap[at];

        m->heap[at] = m->heap[(at - 1) / 2];
        m->heap[(at - 1) / 2] = t;
        at = (at - 1) / 2;
    }
}

static struct sim_item pop(struct sim *m)
{
    struct sim_item top = m->heap[0], last = m->heap[--m->n_heap];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= m->n_heap)
            break;
        if (child + 1 < m->n_heap && item_before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!item_before(&m->heap[child], &last))
            break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = last;
    return top;
}

void sim_soon(struct sim *m, const struct sched_event *e)
{
    if (m->n_soon < sizeof(m->soon) / sizeof(m->soon[0]))
        m->soon[m->n_soon++] = *e;
    else
        sim_violation(m, "the simulator's list of events is full");
}

/* ---- applying ---- */

static void hash_in(struct sim *m, uint64_t v)
{
    m->out->hash = (m->out->hash ^ v) * 0x100000001b3u;
    m->out->hash ^= m->out->hash >> 29;
}

static void deliver(struct sim *m, const struct sched_action *a)
{
    struct sim_worker *w = &m->worker[a->worker];
    struct sim_item item = {.kind = SIM_COMMAND, .worker = a->worker, .command = *a};

    hash_in(m, (uint64_t)a->kind << 56 ^ a->request << 32 ^ a->epoch);
    hash_in(m, (uint64_t)a->worker << 32 ^ a->peer);
    hash_in(m, a->order ^ a->retry_after_ns ^ (uint64_t)a->reason << 60);
    if (a->kind != SCHED_ACT_RESERVE && a->kind != SCHED_ACT_PREFILL &&
        a->kind != SCHED_ACT_CANCEL && a->kind != SCHED_ACT_FLIP)
        return;
    if (a->kind == SCHED_ACT_PREFILL)
        item.arg = sim_request_of(m, a->request)->delivered;
    item.at = m->now + sim_pick(m, 1000) * 1000;
    if (item.at < w->last_in)
        item.at = w->last_in;
    w->last_in = item.at;
    sim_push(m, &item);
}

static void apply_one(struct sim *m, const struct sched_event *e)
{
    struct err_msg msg = {""};
    enum err err;

    m->out->events++;
    m->act.n = 0;
    sim_oracle_before(m, e);
    err = sched_apply(m->s, e, m->now, &m->act);
    if (err != ERR_OK)
        sim_violation(m, "event %d is refused: %s", (int)e->kind, err_name(err));
    if (sched_check(m->s, &msg) != ERR_OK)
        sim_violation(m, "after event %d: %s", (int)e->kind, msg.text);
    for (size_t i = 0; i < m->act.n && m->out->why[0] == '\0'; i++)
        deliver(m, &m->act.v[i]);
    if (m->out->why[0] == '\0')
        sim_oracle_after(m, e);
    if (m->out->why[0] == '\0' && e->kind == SCHED_EV_TIMER && sched_next_timer(m->s) <= m->now)
        sim_violation(m, "a timer that is due stays due");
}

/* An event, and those it caused at once. */
static void apply(struct sim *m, const struct sched_event *e)
{
    sim_soon(m, e);
    for (size_t i = 0; i < m->n_soon && m->out->why[0] == '\0'; i++) {
        struct sched_event next = m->soon[i];

        apply_one(m, &next);
    }
    m->n_soon = 0;
}

static void apply_soon(struct sim *m)
{
    if (m->n_soon > 0) {
        struct sched_event nothing = {.kind = SCHED_EV_WORKER_REPORT, .worker = SIM_WORKERS + 1};

        apply(m, &nothing);
    }
}

/* ---- the world ---- */

static void arrival(struct sim *m)
{
    struct sim_request *r = &m->req[m->n_req];
    struct sched_event e = {.kind = SCHED_EV_ARRIVE};
    struct sim_item next = {.kind = SIM_WORLD, .what = SIM_ARRIVAL};

    *r = (struct sim_request){.id = ++m->n_req,
                              .tier = sim_pick(m, 3),
                              .priority = (int32_t)sim_pick(m, 3) - 1,
                              .n_prompt = sim_between(m, 1, 150),
                              .max_new = sim_pick(m, 6) == 0 ? 1 : sim_between(m, 1, 120),
                              .arrived = m->now,
                              .epoch = 1};
    r->tenant = sim_pick(m, SIM_TENANTS + 1);
    r->stop_at = sim_pick(m, 2) ? r->max_new : sim_between(m, 1, r->max_new);
    e.request = r->id;
    e.u.arrive.tier = r->tier;
    e.u.arrive.priority = r->priority;
    e.u.arrive.n_prompt = r->n_prompt;
    e.u.arrive.max_new = r->max_new;
    e.u.arrive.arrived_ns = m->now - sim_pick(m, 3) * SIM_MS;
    e.u.arrive.tenant = r->tenant;
    e.u.arrive.length_key = sim_pick(m, 4);
    e.u.arrive.true_new = sim_pick(m, 2) ? r->stop_at : 0;
    e.u.arrive.ttft_ns = sim_pick(m, 3) == 0 ? sim_pick(m, 5000) * SIM_MS : 0;
    e.u.arrive.tbt_ns = sim_pick(m, 3) == 0 ? sim_pick(m, 500) * SIM_MS : 0;
    e.u.arrive.n_prefix = sim_pick(m, SCHED_PREFIX_MAX);
    for (uint32_t i = 0; i < e.u.arrive.n_prefix; i++)
        e.u.arrive.prefix[i] = (struct sched_prefix){
            .worker = sim_pick(m, 6), .tokens = sim_pick(m, 200), .bytes_per_s = 1e8};
    sim_soon(m, &e);
    next.at = m->now + sim_pick(m, sim_pick(m, 4) == 0 ? 60 : 4) * SIM_MS;
    if (m->n_req < m->arrivals)
        sim_push(m, &next);
}

/* Tell what was delivered, then that the worker is gone. */
static void leave(struct sim *m, uint32_t worker)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_LEAVE, .worker = worker};
    uint64_t *ids = NULL;
    size_t n = 0;

    if (!m->worker[worker].joined)
        return;
    if (sched_worker_requests(m->s, worker, &ids, &n) == ERR_OK) {
        for (size_t i = 0; i < n; i++) {
            struct sched_event t = {.kind = SCHED_EV_TOKENS, .request = ids[i]};

            t.u.tokens.delivered = sim_request_of(m, ids[i])->delivered;
            sim_soon(m, &t);
        }
        mem_free(ids);
    }
    sim_soon(m, &e);
}

static void fault_tick(struct sim *m)
{
    struct sim_item next = {.kind = SIM_WORLD, .what = SIM_FAULT_TICK, .at = m->now + 5 * SIM_MS};
    uint32_t w = 1 + sim_pick(m, m->n_worker);

    if (m->worker[w].alive && m->worker[w].joined) {
        if (sim_fault(m, SIM_KILL)) {
            sim_die(m, w);
        } else if (sim_fault(m, SIM_DRAIN) && !m->worker[w].draining) {
            struct sim_item gone = {.kind = SIM_WORLD, .what = SIM_FAULT_TICK + 10, .worker = w};

            sim_soon(m, &(struct sched_event){.kind = SCHED_EV_WORKER_DRAIN, .worker = w});
            gone.at = m->now + sim_pick(m, 500) * SIM_MS;
            sim_push(m, &gone);
        }
    }
    if (m->n_req > 0 && sim_fault(m, SIM_CANCEL))
        sim_client_leaves(m, &m->req[sim_pick(m, m->n_req)]);
    if (m->now < m->horizon)
        sim_push(m, &next);
}

static void world(struct sim *m, const struct sim_item *item)
{
    switch (item->what) {
    case SIM_ARRIVAL:
        arrival(m);
        break;
    case SIM_FAULT_TICK:
        fault_tick(m);
        break;
    case SIM_LEAVE:
        leave(m, item->worker);
        break;
    case SIM_REJOIN:
        sim_join(m, m->worker[item->worker].role);
        break;
    default: /* a drained worker's end */
        if (m->worker[item->worker].alive)
            sim_die(m, item->worker);
        break;
    }
    apply_soon(m);
}

static void step(struct sim *m)
{
    uint64_t timer = sched_next_timer(m->s);

    if (timer != UINT64_MAX && sim_fault(m, SIM_LATE_TIMER))
        timer += sim_pick(m, 50) * SIM_MS;
    if (m->n_heap == 0 || timer < m->heap[0].at) {
        struct sched_event e = {.kind = SCHED_EV_TIMER};

        m->now = timer > m->now ? timer : m->now;
        apply(m, &e);
    } else {
        struct sim_item item = pop(m);

        m->now = item.at > m->now ? item.at : m->now;
        if (sim_fault(m, SIM_CLOCK_JUMP))
            m->now += sim_pick(m, 3000) * SIM_MS;
        if (item.kind == SIM_EVENT) {
            apply(m, &item.event);
        } else if (item.kind == SIM_COMMAND) {
            sim_command(m, &item);
            apply_soon(m);
        } else if (item.kind == SIM_TASK) {
            sim_task(m, &item);
            apply_soon(m);
        } else {
            world(m, &item);
        }
    }
}

/* ---- one seed ---- */

/* Each fault is there in one world of two (swarm testing): a world with all of them hides the rare ones. */
static void choose_faults(struct sim *m)
{
    static const uint32_t most[SIM_FAULTS] = {
        [SIM_KILL] = 120,         [SIM_DRAIN] = 60,        [SIM_CANCEL] = 250,
        [SIM_REFUSE] = 150,       [SIM_GRANT_HANG] = 60,   [SIM_PREFILL_FAIL] = 80,
        [SIM_PREFILL_HANG] = 40,  [SIM_SEND_FAIL] = 150,   [SIM_VERIFY_FAIL] = 150,
        [SIM_HANDOVER_HANG] = 60, [SIM_DECODE_FAIL] = 60,  [SIM_DECODE_HANG] = 60,
        [SIM_LOSE_CANCEL] = 200,  [SIM_DOUBLE] = 200,      [SIM_REORDER] = 200,
        [SIM_LATE_TIMER] = 300,   [SIM_LATE_TOKENS] = 900, [SIM_LATE_FINISH] = 500,
        [SIM_AFTER_LEAVE] = 500,  [SIM_LATE_ERROR] = 300,  [SIM_PARK] = 300,
        [SIM_CLOCK_JUMP] = 4};

    for (int f = 0; f < SIM_FAULTS; f++)
        m->rate[f] = sim_pick(m, 2) ? 1 + sim_pick(m, most[f]) : 0;
}

/* Contracts, quotas and laws of all kinds; the laws may be wrong by a factor of three. */
static void choose_contracts(struct sim *m)
{
    struct sched_config *c = &m->cfg;

    for (uint32_t t = 0; t < c->n_tiers; t++) {
        c->tiers[t].on_miss = (enum sched_miss_rule)sim_pick(m, 3);
        c->tiers[t].ttft_ns = sim_between(m, 50, 3000) * SIM_MS;
        c->tiers[t].tbt_ns = sim_between(m, 5, 300) * SIM_MS;
        c->tiers[t].reserved = sim_pick(m, 3) * 0.1;
    }
    c->elastic.on = sim_pick(m, 2);
    c->elastic.interval_ns = sim_between(m, 20, 100) * SIM_MS;
    c->elastic.cooldown_ns = sim_between(m, 50, 1000) * SIM_MS;
}

static void add_parties(struct sim *m)
{
    double wrong = 0.3 + sim_pick(m, 27) * 0.1;
    struct sched_class k = {.name = "sim",
                            .prefill = {.c = {1e6 * wrong, 1e5 * wrong, 0, 0}},
                            .decode = {.c = {1e6 * wrong, 2e5 * wrong, 0, 0}},
                            .kv_bytes_per_token = 1000,
                            .link_bytes_per_s = 1e8};

    if (sched_add_class(m->s, &k, NULL, &m->klass) != ERR_OK)
        sim_violation(m, "no class");
    for (uint32_t t = 1; t <= SIM_TENANTS; t++) {
        m->tenant[t] = (struct sched_tenant){.id = t,
                                             .weight = 1 + sim_pick(m, 4),
                                             .max_live = sim_pick(m, 2) * sim_between(m, 1, 8),
                                             .burst_s = 0.5,
                                             .tokens_per_s = sim_pick(m, 2) *
                                                             (double)sim_between(m, 500, 5000)};
        if (sched_set_tenant(m->s, &m->tenant[t], NULL) != ERR_OK)
            sim_violation(m, "no tenant");
    }
}

static void choose_policy(struct sim *m)
{
    char names[512];
    const char *at = names;
    uint32_t n = 1;

    snprintf(names, sizeof(names), "%s", sched_policy_names());
    for (const char *c = names; *c != '\0'; c++)
        n += *c == ',';
    for (n = sim_pick(m, n); n > 0; n--)
        at = strchr(at, ',') + 2;
    snprintf(m->cfg.policy, sizeof(m->cfg.policy), "%.*s", (int)strcspn(at, ","), at);
}

static void open_world(struct sim *m)
{
    struct sched_config *c = &m->cfg;
    struct sim_item first = {.kind = SIM_WORLD, .what = SIM_ARRIVAL, .at = m->now};
    uint32_t n_prefill = sim_between(m, 1, 3), n_decode = sim_between(m, 1, 3);

    sched_config_defaults(c);
    c->max_queued = sim_between(m, 4, 60);
    c->max_queued_tokens = sim_between(m, 300, 6000);
    c->prefill_window_tokens = sim_between(m, 32, 400);
    c->max_attempts = sim_between(m, 2, 5);
    c->queue_timeout_ns = sim_between(m, 500, 4000) * SIM_MS;
    c->request_timeout_ns = sim_between(m, 2000, 20000) * SIM_MS;
    c->grant_timeout_ns = sim_between(m, 20, 200) * SIM_MS;
    c->prefill_timeout_ns = sim_between(m, 200, 1000) * SIM_MS;
    c->handover_timeout_ns = sim_between(m, 50, 300) * SIM_MS;
    c->decode_timeout_ns = sim_between(m, 100, 500) * SIM_MS;
    c->release_timeout_ns = sim_between(m, 50, 500) * SIM_MS;
    m->arrivals = sim_between(m, 10, SIM_REQUESTS);
    m->horizon = m->now + sim_between(m, 300, 2500) * SIM_MS;
    c->seed = sim_random(m);
    c->records = sim_between(m, 1, 40);
    c->local_prefill = sim_pick(m, 2);
    choose_policy(m);
    choose_contracts(m);
    choose_faults(m);
    if (sched_create(c, NULL, &m->s) != ERR_OK) {
        sim_violation(m, "the scheduler cannot be made");
        return;
    }
    add_parties(m);
    for (uint32_t i = 0; i < n_prefill; i++)
        sim_join(m, SCHED_ROLE_PREFILL);
    for (uint32_t i = 0; i < n_decode; i++)
        sim_join(m, SCHED_ROLE_DECODE);
    apply_soon(m);
    sim_push(m, &first);
    first.what = SIM_FAULT_TICK;
    sim_push(m, &first);
}

/* The planner looks on for ever; that is no unrest. */
static bool at_rest(const struct sim *m)
{
    struct sched_stats st;

    if (m->n_heap > 0)
        return false;
    sched_get_stats(m->s, &st);
    return sched_next_timer(m->s) == UINT64_MAX ||
           (m->cfg.elastic.on && st.requests == 0 && st.claims == 0);
}

bool sched_sim_run(uint64_t seed, struct sched_sim_result *out)
{
    struct sim *m = mem_try_calloc(1, sizeof(*m));

    *out = (struct sched_sim_result){.seed = seed, .hash = 0xcbf29ce484222325u};
    if (m == NULL)
        return false;
    m->out = out;
    m->rng = seed * 0x9e3779b97f4a7c15u;
    m->now = 1000 * SIM_MS;
    open_world(m);
    while (out->why[0] == '\0' && !at_rest(m)) {
        step(m);
        if (out->events > EVENTS_MAX)
            sim_violation(m, "it does not come to rest");
    }
    if (out->why[0] == '\0')
        sim_oracle_rest(m);
    out->requests = m->n_req;
    sched_destroy(m->s);
    sched_actions_free(&m->act);
    mem_free(m->heap);
    mem_free(m);
    return out->why[0] == '\0';
}
