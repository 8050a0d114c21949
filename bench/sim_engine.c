/* bench/sim_engine.c - virtual time: the next arrival, timer or event, the scheduler's answer, and what it
 * makes the workers do. */
#include "bench/sim_engine.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/interrupt.h"
#include "bench/sim_impl.h"

enum { SLOT_BITS = 24, LOOK_EVERY = 4096 /* events, between looks for Ctrl-C */ };
static const double DRAIN_S =
    3600; /* after the last arrival; what is not done then has timed out */

/* ---- small things ---- */

void sim_fail(struct sim *m, enum err err, const char *format, ...)
{
    char text[300];
    va_list args;

    if (m->err != ERR_OK)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    m->err = err_set(m->msg, err, "at %.6f s of virtual time: %s", (double)m->now / 1e9, text);
}

/* *p holds *cap items of that size; room for `need` of them afterwards. */
bool sim_grow(struct sim *m, void **p, uint32_t need, uint32_t *cap, size_t size)
{
    uint32_t want = *cap < 16 ? 16 : *cap;
    void *q;

    if (need <= *cap)
        return true;
    while (want < need)
        want *= 2;
    q = mem_try_realloc(*p, want * size);
    if (q == NULL) {
        sim_fail(m, ERR_NOMEM, "out of memory");
        return false;
    }
    *p = q;
    *cap = want;
    return true;
}

static bool due_before(const struct sim_due *a, const struct sim_due *b)
{
    return a->at < b->at || (a->at == b->at && a->seq < b->seq);
}

void sim_at(struct sim *m, uint64_t at, enum sim_event kind, uint32_t arg, uint32_t gen)
{
    struct sim_due x = {at, m->seq++, (uint32_t)kind, arg, gen};
    void *p = m->due;
    uint32_t i = m->n_due;

    if (!sim_grow(m, &p, m->n_due + 1, &m->cap_due, sizeof(*m->due)))
        return;
    m->due = p;
    m->n_due++;
    while (i > 0 && due_before(&x, &m->due[(i - 1) / 4])) {
        m->due[i] = m->due[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    m->due[i] = x;
}

static struct sim_due due_pop(struct sim *m)
{
    struct sim_due top = m->due[0], x = m->due[--m->n_due];
    uint32_t i = 0;

    for (;;) {
        uint32_t first = 4 * i + 1, best = first, end = first + 4 < m->n_due ? first + 4 : m->n_due;

        if (first >= m->n_due)
            break;
        for (uint32_t c = first + 1; c < end; c++) {
            if (due_before(&m->due[c], &m->due[best]))
                best = c;
        }
        if (!due_before(&m->due[best], &x))
            break;
        m->due[i] = m->due[best];
        i = best;
    }
    m->due[i] = x;
    return top;
}

/* ---- events for the scheduler ---- */

struct sched_event *sim_say(struct sim *m, enum sched_event_kind kind, uint64_t request,
                            uint32_t worker, uint32_t epoch)
{
    void *p = m->say;
    struct sched_event *e = &m->unsaid;

    if (sim_grow(m, &p, m->n_say + 1, &m->cap_say, sizeof(*m->say))) {
        m->say = p;
        e = &m->say[m->n_say++];
    }
    memset(e, 0, offsetof(struct sched_event, u.arrive.prefix)); /* arrivals are never said */
    e->kind = kind;
    e->request = request;
    e->worker = worker;
    e->epoch = epoch;
    return e;
}

void sim_say_released(struct sim *m, const struct sim_req *r, uint32_t worker, uint32_t epoch,
                      enum err err)
{
    sim_say(m, SCHED_EV_RELEASED, r->id, worker, epoch)->u.released.err = err;
}

void sim_say_progress(struct sim *m, const struct sim_worker *w, const struct sim_req *r,
                      uint32_t epoch, uint32_t tokens)
{
    struct sched_event *e = sim_say(m, SCHED_EV_PREFILL_PROGRESS, r->id, w->id, epoch);

    e->u.progress.tokens_done = r->p_past + r->p_done;
    e->u.progress.step_ns = (uint64_t)w->step_ns;
    e->u.progress.step_tokens = tokens;
}

void sim_say_step(struct sim *m, const struct sim_worker *w)
{
    struct sched_event *e = sim_say(m, SCHED_EV_STEP, 0, w->id, 0);

    e->u.step.did = w->did;
    e->u.step.ns = (uint64_t)w->step_ns;
}

double sim_step_time(struct sim *m, struct sim_worker *w, const struct sched_step *did)
{
    const struct bench_sim_class *c = sim_class(m, w);
    double noise = m->setup->noise >= 0 ? m->setup->noise : c->noise;
    double ns = sched_law_step(&c->sched.prefill, &c->sched.decode, did);

    ns *= w->factor * m->setup->bias;
    if (noise > 0)
        ns *= rint(exp(noise * bench_rng_normal(&w->rng) - noise * noise / 2) * 0x1p24) * 0x1p-24;
    return ns < 1000 ? 1000 : ns;
}

/* ---- requests ---- */

struct sim_req *sim_find(struct sim *m, uint64_t id)
{
    uint32_t slot = (uint32_t)(id & ((UINT64_C(1) << SLOT_BITS) - 1));

    return slot < m->n_req && m->req[slot].id == id ? &m->req[slot] : NULL;
}

static struct sim_req *req_make(struct sim *m)
{
    uint32_t slot;
    struct sim_req *r;

    if (m->n_req_free > 0) {
        slot = m->req_free[--m->n_req_free];
    } else {
        uint32_t cap = m->cap_req;
        void *p = m->req, *q = m->req_free;

        if (m->n_req >= (1u << SLOT_BITS) - 1) {
            sim_fail(m, ERR_LIMIT, "over %u requests at a time", m->n_req);
            return NULL;
        }
        if (!sim_grow(m, &q, m->n_req + 1, &cap, sizeof(*m->req_free)))
            return NULL;
        m->req_free = q;
        if (!sim_grow(m, &p, m->n_req + 1, &m->cap_req, sizeof(*m->req)))
            return NULL;
        m->req = p;
        slot = m->n_req++;
        m->req[slot] = (struct sim_req){0};
    }
    r = &m->req[slot];
    /* generations go on, so that nothing that is left of the former tenant is taken for this one's */
    *r = (struct sim_req){.p_gen = r->p_gen + 1, .d_gen = r->d_gen + 1};
    r->id = (++m->serial << SLOT_BITS) | slot;
    m->live++;
    return r;
}

void sim_settle(struct sim *m, struct sim_req *r)
{
    if (r->id == 0 || !r->over || r->p_state != SIM_P_NONE || r->d_state != SIM_D_NONE)
        return;
    r->id = 0;
    r->p_gen++;
    r->d_gen++;
    m->live--;
    m->req_free[m->n_req_free++] = sim_slot(m, r);
}

void sim_over(struct sim *m, struct sim_req *r, enum bench_fate fate, uint64_t retry_after_ns)
{
    struct bench_outcome o = {.tier = r->tier, .tenant = r->tenant, .fate = fate};

    if (r->over)
        return;
    r->over = true;
    o.measured = r->measured;
    o.admitted = r->admitted;
    o.n_prompt = r->n_prompt;
    o.n_out = r->n0;
    o.intended_s = o.sent_s = (double)r->arrived_ns / 1e9;
    o.ttft_s = r->first_ns > 0 ? (double)(r->first_ns - r->arrived_ns) / 1e9 : 0;
    o.e2e_s = (double)(m->now - r->arrived_ns) / 1e9;
    o.max_gap_s = (double)r->gap_ns / 1e9;
    o.late_s = (double)r->late_ns / 1e9;
    o.retry_after_s = (double)retry_after_ns / 1e9;
    o.ttft_target_s = (double)r->ask_ttft_ns / 1e9;
    o.tbt_target_s = (double)r->ask_tbt_ns / 1e9;
    if (fate == BENCH_DONE && r->measured && o.late_s <= 0 && o.ttft_s <= o.ttft_target_s &&
        !bench_outcome_kept(&o))
        m->result->late_mean++;
    if (r->measured && !bench_outcome_kept(&o)) {
        const uint32_t counts[] = {r->tier, SCHED_TIERS_MAX};

        for (int i = 0; i < 2; i++) {
            uint64_t most = m->setup->give_up[counts[i]];

            if (++m->missed[counts[i]] > most && most > 0)
                m->result->gave_up = true;
        }
    }
    bench_run_add(m->run, &o);
    if (m->setup->records != NULL)
        sim_record_over(m, r, r->id >> SLOT_BITS, &o);
}

void sim_finish(struct sim *m, struct sim_req *r)
{
    struct sched_event *e;
    int64_t over; /* what the mean time between tokens is over its target, all together */

    if (r->over)
        return;
    over = r->n0 > 1 ? (int64_t)(m->now - r->first_ns) - (int64_t)((r->n0 - 1) * r->tbt_ns)
                     : INT64_MIN;
    e = sim_say(m, SCHED_EV_FINISH, r->id, 0, r->epoch);
    e->u.finish.first_token_ns = r->first_ns;
    e->u.finish.last_token_ns = m->now;
    e->u.finish.late_ns = r->late_ns > over ? r->late_ns : over;
    e->u.finish.tokens = r->n0;
    sim_over(m, r, BENCH_DONE, 0);
}

/* What the client has now, to the token. */
uint32_t sim_delivered(struct sim *m, const struct sim_req *r)
{
    return r->n0 + (r->d_state == SIM_D_RESIDENT ? sim_batch_done(&m->worker[r->d_worker], r) : 0);
}

void sim_say_tokens(struct sim *m, const struct sim_req *r)
{
    sim_say(m, SCHED_EV_TOKENS, r->id, 0, 0)->u.tokens.delivered = sim_delivered(m, r);
}

/* ---- arrivals ---- */

/* By whose law a prompt's own time is told. */
static const struct bench_sim_class *prompt_class(const struct bench_cluster *c)
{
    for (uint32_t i = 0; i < c->n_pools; i++) {
        if (c->pool[i].role == SCHED_ROLE_PREFILL)
            return &c->klass[c->pool[i].klass];
    }
    return &c->klass[c->pool[0].klass];
}

double bench_sim_isolated_ns(const struct bench_cluster *cluster, const struct bench_arrival_row *a)
{
    const struct bench_sim_class *c = prompt_class(cluster);
    const struct sched_law *l = &c->sched.prefill;
    uint32_t n = a->n_prompt - a->n_hit, chunk = c->max_step_tokens, rest = n % chunk;
    double ns = l->c[1] * n + l->c[2] * (double)n * (n + 2.0 * a->n_hit);

    ns += l->c[0] * (n / chunk + (rest > 0));
    if (rest > 0 && rest < l->knee)
        ns += l->c[3] * (l->knee - rest);
    return ns;
}

static void feed(struct sim *m, const struct sched_event *e);

static void arrive(struct sim *m, const struct bench_arrival_row *a)
{
    const struct sched_tier *t = &m->cluster->tiers[a->tier];
    uint32_t asked = m->setup->exact_new ? a->n_out : m->max_new;
    uint32_t room;
    struct sched_event e = {.kind = SCHED_EV_ARRIVE};
    struct sim_req *r = req_make(m);

    if (r == NULL)
        return;
    r->arrived_ns = a->at_ns;
    r->n_prompt = a->n_prompt;
    r->n_out = a->n_out < asked ? a->n_out : asked;
    r->n_hit = a->n_hit;
    r->tier = a->tier;
    r->tenant = a->tenant;
    r->measured = (double)a->at_ns / 1e9 >= m->setup->warmup_s;
    r->late_ns = INT64_MIN;
    r->ask_ttft_ns = t->ttft_ns + (uint64_t)(t->ttft_factor * bench_sim_isolated_ns(m->cluster, a));
    r->ask_tbt_ns = r->tbt_ns = t->tbt_ns;
    r->deadline_ns = r->arrived_ns + r->ask_ttft_ns;
    if (a->too_large) { /* as a server does before its scheduler hears of it */
        r->reason = SCHED_REASON_TOO_LARGE;
        sim_over(m, r, BENCH_REFUSED, 0);
        sim_settle(m, r);
        return;
    }
    room = prompt_class(m->cluster)->max_context - a->n_prompt;
    e.request = r->id;
    e.u.arrive.tier = a->tier;
    e.u.arrive.tenant = a->tenant;
    e.u.arrive.n_prompt = a->n_prompt;
    e.u.arrive.max_new = asked < room ? asked : room;
    e.u.arrive.arrived_ns = a->at_ns;
    e.u.arrive.length_key = a->session;
    e.u.arrive.true_new = m->setup->clairvoyant ? r->n_out : 0;
    if (a->n_hit > 0) {
        e.u.arrive.n_prefix = 1;
        e.u.arrive.prefix[0] = (struct sched_prefix){.tokens = a->n_hit,
                                                     .bytes_per_s = m->cluster->prefix_bytes_per_s};
    }
    feed(m, &e);
}

/* ---- actions ---- */

static void on_cancel(struct sim *m, const struct sched_action *a)
{
    struct sim_req *r = sim_find(m, a->request);

    if (r == NULL)
        return;
    if (r->p_state != SIM_P_NONE && r->p_worker == a->worker && r->p_epoch == a->epoch) {
        sim_prefill_drop(m, r);
        sim_say_released(m, r, a->worker, a->epoch, ERR_CANCELED);
    }
    if (r->d_state != SIM_D_NONE && r->d_worker == a->worker && r->d_epoch == a->epoch) {
        uint32_t had = sim_delivered(m, r);

        sim_decode_drop(m, r);
        r->n0 = had;
        sim_say_released(m, r, a->worker, a->epoch, ERR_CANCELED);
        sim_decode_start(m, &m->worker[a->worker]);
    }
    sim_settle(m, r);
}

static bool is_timeout(enum sched_reason reason)
{
    return reason == SCHED_REASON_QUEUE_TIMEOUT || reason == SCHED_REASON_REQUEST_TIMEOUT;
}

static void on_end(struct sim *m, const struct sched_action *a)
{
    struct sim_req *r = sim_find(m, a->request);

    if (r == NULL)
        return;
    r->reason = a->reason;
    if (a->kind == SCHED_ACT_REJECT)
        sim_over(m, r, BENCH_REFUSED, a->retry_after_ns);
    else
        sim_over(m, r, is_timeout(a->reason) ? BENCH_TIMEOUT : BENCH_FAILED, 0);
    sim_settle(m, r);
}

static void on_flip(struct sim *m, struct sim_worker *w)
{
    if (!w->alive)
        return;
    m->result->flips++;
    sim_worker_leave(m, w);
    w->role = w->role == SCHED_ROLE_PREFILL ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL;
    sim_at(m, m->now + (uint64_t)(m->cluster->flip_s * 1e9), SIM_EV_FLIPPED, w->id, w->gen);
}

static void act(struct sim *m, const struct sched_action *a)
{
    struct sim_worker *w = a->worker <= m->n_workers ? &m->worker[a->worker] : NULL;
    struct sim_req *r = a->request != 0 ? sim_find(m, a->request) : NULL;

    switch (a->kind) {
    case SCHED_ACT_RESERVE:
        if (r != NULL && w != NULL && w->alive)
            sim_decode_reserve(m, w, r, a, false);
        break;
    case SCHED_ACT_PREFILL:
        if (r != NULL && w != NULL && w->alive)
            sim_prefill_command(m, w, r, a);
        break;
    case SCHED_ACT_CANCEL:
        on_cancel(m, a);
        break;
    case SCHED_ACT_RESUME:
        m->result->resumes++;
        if (r != NULL) {
            r->n0 = sim_delivered(m, r);
            sim_say_tokens(m, r);
        }
        break;
    case SCHED_ACT_TIER:
        if (r != NULL) {
            r->deadline_ns = a->terms.deadline_ns;
            r->tbt_ns = a->terms.tbt_ns;
        }
        break;
    case SCHED_ACT_REJECT:
    case SCHED_ACT_FAIL:
        on_end(m, a);
        break;
    case SCHED_ACT_FLIP:
        if (w != NULL)
            on_flip(m, w);
        break;
    case SCHED_ACT_INTRODUCE:
    case SCHED_ACT_SCALE:
        break;
    }
}

static void check(struct sim *m, enum sched_event_kind kind)
{
    struct err_msg why = {""};

    if (sched_check(m->sched, &why) != ERR_OK)
        sim_fail(m, ERR_BAD_STATE, "after event %d (number %llu): %s", (int)kind,
                 (unsigned long long)m->result->sched_events, why.text);
}

/* `started` on the clock. */
static void time_event(struct sim *m, enum sched_event_kind kind, uint64_t started)
{
    double took = (double)(clock_now_ns() - started) / 1e9;

    m->result->sched_s += took;
    m->result->kind_s[kind] += took;
    m->result->kind_n[kind]++;
    if (kind == SCHED_EV_ARRIVE)
        bench_hist_add(&m->run->decision, took);
}

/* One event and all that follows from it at once.  e may be gone when the actions are carried out. */
static void feed(struct sim *m, const struct sched_event *e)
{
    uint64_t start = m->setup->timing ? clock_now_ns() : 0;
    enum sched_event_kind kind = e->kind;
    enum err err;

    if (m->err != ERR_OK)
        return;
    m->act.n = 0;
    m->result->sched_events++;
    err = sched_apply(m->sched, e, m->now, &m->act);
    if (m->setup->timing)
        time_event(m, kind, start);
    if (err != ERR_OK)
        sim_fail(m, err, "the scheduler refused event %d about request %llu, worker %u: %s",
                 (int)kind, (unsigned long long)e->request, e->worker, err_text(err));
    for (size_t i = 0; i < m->act.n && m->err == ERR_OK; i++)
        act(m, &m->act.v[i]);
    if (m->setup->check)
        check(m, kind);
}

static void drain(struct sim *m)
{
    for (m->say_head = 0; m->say_head < m->n_say; m->say_head++) {
        feed(m, &m->say[m->say_head]);
    }
    m->n_say = 0;
    if (m->n_line > 0)
        sim_record_write(m);
}

/* ---- the loop ---- */

static void dispatch(struct sim *m, const struct sim_due *d)
{
    struct sim_worker *w = d->arg <= m->n_workers ? &m->worker[d->arg] : NULL;

    switch ((enum sim_event)d->kind) {
    case SIM_EV_PREFILL:
        if (w->gen == d->gen)
            sim_prefill_end(m, w);
        break;
    case SIM_EV_DECODE:
        if (w->gen == d->gen)
            sim_decode_end(m, w);
        break;
    case SIM_EV_PLAN:
        if (w->gen == d->gen)
            sim_decode_start(m, w);
        break;
    case SIM_EV_FETCHED:
        if (m->req[d->arg].p_gen == d->gen)
            sim_prefill_fetched(m, &m->req[d->arg]);
        break;
    case SIM_EV_SENT:
        if (m->req[d->arg].p_gen == d->gen)
            sim_link_sent(m, &m->req[d->arg]);
        break;
    case SIM_EV_RESUMED:
        if (m->req[d->arg].d_gen == d->gen)
            sim_decode_resumed(m, &m->req[d->arg]);
        break;
    case SIM_EV_REPORT:
        if (w->gen == d->gen)
            sim_worker_report(m, w);
        break;
    case SIM_EV_DELAYED:
        sim_worker_delayed(m, d->arg, d->gen);
        break;
    case SIM_EV_FAULT:
        sim_worker_fault(m, &m->setup->fault[d->arg], true);
        break;
    case SIM_EV_UNFAULT:
        sim_worker_fault(m, &m->setup->fault[d->arg], false);
        break;
    case SIM_EV_FLIPPED:
        if (w->gen == d->gen)
            sim_worker_join(m, w);
        break;
    }
}

/* false: nothing is left to do. */
static bool step(struct sim *m)
{
    const struct bench_load *l = m->setup->load;
    bool more = m->next_arrival < l->n;
    uint64_t arrival = more ? l->v[m->next_arrival].at_ns : SIM_NEVER;
    uint64_t event = m->n_due > 0 ? m->due[0].at : SIM_NEVER;
    uint64_t timer = sched_next_timer(m->sched);

    if (!more && (m->live == 0 || (double)m->now / 1e9 > l->duration_s + DRAIN_S))
        return false;
    m->result->events++;
    if (event <= arrival && event <= timer) {
        struct sim_due d;

        if (event == SIM_NEVER)
            return false;
        d = due_pop(m);
        m->now = d.at;
        dispatch(m, &d);
    } else if (timer <= arrival) {
        struct sched_event e = {.kind = SCHED_EV_TIMER};

        m->now = timer > m->now ? timer : m->now;
        feed(m, &e);
    } else {
        m->now = arrival;
        arrive(m, &l->v[m->next_arrival++]);
    }
    drain(m);
    return m->err == ERR_OK && !m->result->gave_up;
}
/* ---- start and end ---- */

/* What a client asks for at most: the longest answer of the load, in steps that people choose. */
static uint32_t longest(const struct bench_sim_setup *s)
{
    uint32_t n = s->max_new;

    if (n == 0)
        n = (s->load->max_out + 255) / 256 * 256;
    return n;
}

static enum err open_world(struct sim *m)
{
    struct sched_config c = m->setup->config;
    enum err err;

    memcpy(c.tiers, m->cluster->tiers, sizeof(c.tiers));
    c.n_tiers = m->cluster->n_tiers;
    c.seed = m->setup->seed;
    if (m->cluster->n_classes == 0 || m->setup->load->n == 0)
        return err_set(m->msg, ERR_INVALID, "nothing to simulate: no class or no arrival");
    for (uint32_t i = 0; i < m->cluster->n_classes; i++) {
        if (m->cluster->klass[i].block_tokens > SIM_BLOCK_MAX)
            return err_set(m->msg, ERR_INVALID, "block_tokens is over %d", SIM_BLOCK_MAX);
    }
    m->max_new = longest(m->setup);
    err = sched_create(&c, m->msg, &m->sched);
    for (uint32_t i = 0; i < m->setup->n_tenants && err == ERR_OK; i++)
        err = sched_set_tenant(m->sched, &m->setup->tenants[i], m->msg);
    if (err == ERR_OK)
        err = sim_add_classes(m);
    if (err == ERR_OK)
        err = sim_add_workers(m);
    if (err == ERR_OK)
        drain(m);
    return err == ERR_OK ? m->err : err;
}

static void close_world(struct sim *m)
{
    for (uint32_t i = 1; i <= m->n_workers; i++)
        sim_worker_clear(&m->worker[i]);
    sched_destroy(m->sched);
    sched_actions_free(&m->act);
    mem_free(m->worker);
    mem_free(m->due);
    mem_free(m->say);
    mem_free(m->late);
    mem_free(m->late_free);
    mem_free(m->req);
    mem_free(m->req_free);
    mem_free(m->item);
    mem_free(m->scratch);
    mem_free(m->line);
    buf_free(&m->lines);
}

static void figures(struct sim *m)
{
    double window = m->setup->load->duration_s - m->setup->warmup_s;
    double until = fmax(m->setup->load->duration_s * 1e9, (double)m->worked_ns);

    for (uint32_t i = 0; i < m->n_req; i++) {
        if (m->req[i].id != 0 && !m->req[i].over) {
            m->result->unfinished++;
            sim_over(m, &m->req[i], BENCH_TIMEOUT, 0);
        }
    }
    if (m->n_line > 0)
        sim_record_write(m);
    for (uint32_t i = 1; i <= m->n_workers; i++) {
        const struct sim_worker *w = &m->worker[i];

        m->result->busy[w->role] += w->busy_ns;
        if (w->alive)
            m->there_ns[w->role] += fmax(until - (double)w->joined_ns, 0);
    }
    for (int i = 1; i < 3; i++)
        m->result->busy[i] /= fmax(m->there_ns[i], 1);
    m->result->virtual_s = (double)m->now / 1e9;
    for (uint32_t t = 0; t <= SCHED_TIERS_MAX; t++) {
        for (int s = 0; s < SCHED_STAGES; s++) {
            if (t < m->cluster->n_tiers || t == SCHED_TIERS_MAX)
                sched_get_health(m->sched, t, (enum sched_stage)s, &m->result->health[t][s]);
        }
    }
    bench_run_finish(m->run, window > 0 ? window : 1);
}

static double cpu_s(void)
{
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

enum err bench_sim_run(const struct bench_sim_setup *setup, struct bench_run *run,
                       struct bench_sim_result *result, struct err_msg *msg)
{
    struct sim m = {
        .setup = setup, .cluster = setup->cluster, .run = run, .result = result, .msg = msg};
    uint64_t start = clock_now_ns();
    double cpu = cpu_s();
    enum err err;

    *result = (struct bench_sim_result){0};
    err = open_world(&m);
    while (err == ERR_OK && step(&m)) {
        err = m.err;
        if (m.result->events % LOOK_EVERY == 0 && bench_interrupted() != 0)
            err = err_set(msg, ERR_CANCELED, "interrupted");
    }
    if (err == ERR_OK)
        err = m.err;
    if (err == ERR_OK)
        figures(&m);
    close_world(&m);
    result->events += result->sched_events;
    result->cpu_s = cpu_s() - cpu;
    result->wall_s = (double)(clock_now_ns() - start) / 1e9;
    return err;
}
