/* daemon/hub.c - the scheduler's events and actions, and the public functions; see the header for the
 * contract.
 *
 * Events go through one queue: carrying out an action may call a hook, and the hook may submit or cancel
 * something, which must not re-enter the scheduler half way through the actions of another event.
 */
#include "daemon/hub.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/hub_impl.h"

/* ---- sending ---- */

struct worker *hub_find_worker(struct daemon_hub *h, uint32_t id)
{
    return map_get(&h->workers, id);
}

void hub_send_to(struct daemon_hub *h, uint32_t id, enum wire_type t, const void *m)
{
    struct worker *w = hub_find_worker(h, id);

    if (w != NULL && w->control != NULL)
        daemon_link_send(w->control, t, m);
}

/* An action could not be sent (its request ended meanwhile, or its worker is just leaving): the worker
 * will never release what it never had, so the ledger is told here. */
static void never_sent(struct daemon_hub *h, const struct sched_action *a)
{
    struct sched_event e = {
        .kind = SCHED_EV_RELEASED, .request = a->request, .epoch = a->epoch, .worker = a->worker};

    e.u.released.err = ERR_CANCELED;
    hub_event(h, &e);
}

enum { DAY_S = 86400, HOUR_S = 3600 };

/* Remaining time, since hosts do not share a clock; in the ranges of wire_check.c. */
static Baton__Terms *fill_terms(const struct sched_terms *t, Baton__Terms *m)
{
    const int64_t day = DAY_S * (int64_t)CLOCK_NS_PER_S;
    const uint64_t hour = HOUR_S * CLOCK_NS_PER_S;
    int64_t left = (int64_t)(t->deadline_ns - clock_now_ns());

    if (t->deadline_ns == 0)
        return NULL; /* no target */
    baton__terms__init(m);
    m->first_deadline_ns = left > day ? day : left < -day ? -day : left;
    m->tbt_ns = t->tbt_ns < hour ? t->tbt_ns : hour;
    m->tier = t->tier;
    m->weight = t->weight;
    m->transfer_class =
        t->transfer_class < WIRE_TRANSFER_CLASSES ? t->transfer_class : WIRE_TRANSFER_CLASSES - 1;
    return m;
}

static void act_reserve(struct daemon_hub *h, const struct sched_action *a)
{
    Baton__Reserve m = BATON__RESERVE__INIT;
    Baton__Terms terms;

    m.terms = fill_terms(&a->terms, &terms);
    m.request = a->request;
    m.epoch = a->epoch;
    m.frontend = FRONTEND_ID;
    m.prefill_worker = a->peer;
    /* A prefill that makes progress may take long; what hangs, the scheduler cancels much sooner. */
    m.deadline_ns = h->c.sched.request_timeout_ns;
    if (h->c.hooks.fill_reserve(h->c.arg, a->request, &m))
        hub_send_to(h, a->worker, WIRE_RESERVE, &m);
    else
        never_sent(h, a);
}

static void act_prefill(struct daemon_hub *h, const struct sched_action *a)
{
    Baton__Prefill m = BATON__PREFILL__INIT;
    struct daemon_stage stage = {
        .kind = DAEMON_STAGE_PLACED, .epoch = a->epoch, .worker = a->worker, .peer = a->peer};
    Baton__Terms terms;

    if (a->terms.deadline_ns != 0)
        h->c.hooks.on_terms(h->c.arg, a->request, &a->terms);
    m.terms = fill_terms(&a->terms, &terms);
    m.request = a->request;
    m.epoch = a->epoch;
    m.frontend = FRONTEND_ID;
    m.decode_worker = a->peer;
    m.order = a->order;
    /* A decode worker that computes the prompt itself may have to wait for blocks first. */
    m.deadline_ns =
        a->peer == a->worker ? h->c.sched.request_timeout_ns : h->c.sched.handover_timeout_ns;
    if (!h->c.hooks.fill_prefill(h->c.arg, a->request, &m)) {
        never_sent(h, a);
        return;
    }
    hub_send_to(h, a->worker, WIRE_PREFILL, &m);
    h->c.hooks.on_stage(h->c.arg, a->request, &stage);
}

static void act_introduce(struct daemon_hub *h, const struct sched_action *a)
{
    struct worker *sender = hub_find_worker(h, a->worker), *receiver = hub_find_worker(h, a->peer);
    Baton__Introduce m = BATON__INTRODUCE__INIT;
    uint8_t token[KVT_TOKEN_BYTES];

    if (sender == NULL || receiver == NULL || RAND_bytes(token, sizeof(token)) != 1)
        return;
    m.token.data = token;
    m.token.len = sizeof(token);
    /* The receiver first, so that it knows the token when the sender connects. */
    m.peer = sender->id;
    m.host = sender->join->kv_host;
    m.port = sender->join->kv_port;
    m.connect = false;
    hub_send_to(h, receiver->id, WIRE_INTRODUCE, &m);
    m.peer = receiver->id;
    m.host = receiver->join->kv_host;
    m.port = receiver->join->kv_port;
    m.connect = true;
    hub_send_to(h, sender->id, WIRE_INTRODUCE, &m);
    explicit_bzero(token, sizeof(token));
}

static void act_cancel(struct daemon_hub *h, const struct sched_action *a)
{
    Baton__Cancel m = BATON__CANCEL__INIT;

    m.request = a->request;
    m.epoch = a->epoch;
    hub_send_to(h, a->worker, WIRE_CANCEL, &m);
}

static void act_reject(struct daemon_hub *h, const struct sched_action *a)
{
    struct daemon_refusal r = {
        .reason = a->reason, .what = a->refusal, .retry_after_ns = a->retry_after_ns};

    h->c.hooks.on_reject(h->c.arg, a->request, &r);
}

static double seconds_since(uint64_t ns)
{
    return (double)(clock_now_ns() - ns) / CLOCK_NS_PER_S;
}

/* It leaves and joins anew; if it cannot, it goes on as it was and the scheduler asks again. */
static void act_flip(struct daemon_hub *h, const struct sched_action *a)
{
    struct worker *w = hub_find_worker(h, a->worker);
    Baton__Flip m = BATON__FLIP__INIT;

    if (w == NULL || w->control == NULL)
        return;
    m.role = w->role == SCHED_ROLE_PREFILL ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL;
    w->flipping = true;
    LOG_INFO("hub", "worker changes its role", "worker=%u name=%s to=%s drained_s=%.1f", w->id,
             w->name, m.role == SCHED_ROLE_PREFILL ? "prefill" : "decode",
             h->flipping == w->id ? seconds_since(h->flip_since) : 0);
    hub_send_to(h, w->id, WIRE_FLIP, &m);
}

static void carry_out(struct daemon_hub *h, const struct sched_action *a)
{
    switch (a->kind) {
    case SCHED_ACT_RESERVE:
        act_reserve(h, a);
        break;
    case SCHED_ACT_PREFILL:
        act_prefill(h, a);
        break;
    case SCHED_ACT_CANCEL:
        act_cancel(h, a);
        break;
    case SCHED_ACT_INTRODUCE:
        act_introduce(h, a);
        break;
    case SCHED_ACT_RESUME:
        LOG_INFO("hub", "request resumes", "req=%016llx epoch=%u", (unsigned long long)a->request,
                 a->epoch);
        h->c.hooks.on_resume(h->c.arg, a->request, a->epoch);
        hub_tell_delivered(h,
                           a->request); /* the next attempt computes prompt and delivered tokens */
        break;
    case SCHED_ACT_REJECT:
        act_reject(h, a);
        break;
    case SCHED_ACT_FAIL:
        h->c.hooks.on_fail(h->c.arg, a->request, a->reason);
        break;
    case SCHED_ACT_TIER:
        h->c.hooks.on_terms(h->c.arg, a->request, &a->terms);
        break;
    case SCHED_ACT_FLIP:
        act_flip(h, a);
        break;
    case SCHED_ACT_SCALE:
        h->c.hooks.on_scale(h->c.supervisor_arg, a->scale.want);
        break;
    }
}

/* ---- events ---- */

static void on_timer(uv_timer_t *t)
{
    struct sched_event e = {.kind = SCHED_EV_TIMER};

    hub_event(t->data, &e);
}

static void arm_timer(struct daemon_hub *h)
{
    uint64_t at = sched_next_timer(h->sched), now = clock_now_ns();

    if (h->closing)
        return;
    if (at == UINT64_MAX)
        uv_timer_stop(&h->timer);
    else
        uv_timer_start(&h->timer, on_timer,
                       at <= now ? 1 : (at - now + CLOCK_NS_PER_MS - 1) / CLOCK_NS_PER_MS, 0);
}

static void hand_records_on(struct daemon_hub *h)
{
    uint64_t next = sched_record_next(h->sched);
    struct sched_record r;

    for (; h->records < next; h->records++) {
        if (sched_record_get(h->sched, h->records, &r) == ERR_OK)
            h->c.hooks.on_record(h->c.arg, &r);
    }
}

static void apply_one(struct daemon_hub *h, const struct sched_event *e)
{
    struct sched_actions mine = h->actions;
    enum err err;

    mine.n = 0;
    err = sched_apply(h->sched, e, clock_now_ns(), &mine);
    if (err != ERR_OK) {
        LOG_ERROR("hub", "event refused", "kind=%d req=%016llx worker=%u err=%s", (int)e->kind,
                  (unsigned long long)e->request, e->worker, err_name(err));
        if (e->kind == SCHED_EV_ARRIVE)
            h->c.hooks.on_reject(h->c.arg, e->request,
                                 &(struct daemon_refusal){.reason = SCHED_REASON_QUEUE_FULL,
                                                          .retry_after_ns = CLOCK_NS_PER_S});
    }
    for (size_t i = 0; err == ERR_OK && i < mine.n; i++)
        carry_out(h, &mine.v[i]);
    h->actions = mine;
    hand_records_on(h);
}

/* For minutes such a worker takes nothing new: that is worth a line when it begins, and when it was in vain.  What lies
 * between, act_flip() and the worker's leaving and joining, have their own. */
static void note_role_change(struct daemon_hub *h)
{
    uint32_t now = sched_flipping(h->sched);
    const struct worker *was = hub_find_worker(h, h->flipping), *is = hub_find_worker(h, now);
    struct sched_worker_view v;

    if (now == h->flipping)
        return;
    if (was != NULL && !was->lost)
        LOG_WARN("hub", "worker keeps its role", "worker=%u name=%s tried_s=%.1f: %s", was->id,
                 was->name, seconds_since(h->flip_since),
                 was->flipping ? "it did not come back in time" : "it did not run empty in time");
    if (is != NULL && sched_get_worker(h->sched, now, &v) == ERR_OK)
        LOG_INFO("hub", "worker drains to change its role", "worker=%u name=%s to=%s requests=%u",
                 is->id, is->name, is->role == SCHED_ROLE_PREFILL ? "decode" : "prefill",
                 v.requests);
    h->flipping = now;
    h->flip_since = clock_now_ns();
}

void hub_event(struct daemon_hub *h, const struct sched_event *e)
{
    size_t done = 0;

    if (h->n_events == h->cap_events) {
        size_t cap = h->cap_events == 0 ? 64 : h->cap_events * 2;
        struct sched_event *grown = mem_try_realloc(h->events, cap * sizeof(*grown));

        if (grown == NULL) {
            LOG_ERROR("hub", "event lost", "kind=%d: out of memory", (int)e->kind);
            if (e->kind == SCHED_EV_ARRIVE)
                h->c.hooks.on_reject(h->c.arg, e->request,
                                     &(struct daemon_refusal){.reason = SCHED_REASON_QUEUE_FULL,
                                                              .retry_after_ns = CLOCK_NS_PER_S});
            return;
        }
        h->events = grown;
        h->cap_events = cap;
    }
    h->events[h->n_events++] = *e;
    if (h->applying)
        return;
    h->applying = true;
    while (done < h->n_events) {
        struct sched_event next = h->events[done++]; /* the array may move */

        apply_one(h, &next);
    }
    h->n_events = 0;
    h->applying = false;
    note_role_change(h);
    arm_timer(h);
}

void hub_tell_delivered(struct daemon_hub *h, uint64_t request)
{
    struct sched_event e = {.kind = SCHED_EV_TOKENS, .request = request};

    e.u.tokens.delivered = h->c.hooks.delivered(h->c.arg, request);
    hub_event(h, &e);
}

/* ---- public ---- */

/* Tokens of a worker need its second connection, which it makes as soon as it is welcome. */
#define ATTACH_LIMIT_NS (10 * CLOCK_NS_PER_S)

static void on_beat(uv_timer_t *t)
{
    struct daemon_hub *h = t->data;
    Baton__Ping m = BATON__PING__INIT;
    uint64_t now = clock_now_ns();

    m.seq = ++h->pings;
    for (struct worker *w = h->first; w != NULL; w = w->next) {
        if (w->control == NULL)
            continue;
        if (w->joined && w->tokens == NULL && now - w->joined_at > ATTACH_LIMIT_NS) {
            LOG_WARN("hub", "worker never attached for tokens", "worker=%u name=%s", w->id,
                     w->name);
            daemon_link_close(
                w->control); /* its on_closed runs in a later turn: w stays valid here */
        } else {
            daemon_link_send(w->control, WIRE_PING, &m.base);
        }
    }
}

enum err daemon_hub_create(const struct daemon_hub_config *c, struct err_msg *msg,
                           struct daemon_hub **out)
{
    struct daemon_hub *h = mem_try_calloc(1, sizeof(*h));
    enum err err;

    if (h == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the scheduler");
    h->c = *c;
    h->secret = *c->secret;
    h->c.secret = &h->secret;
    if (h->c.heartbeat_ns == 0)
        h->c.heartbeat_ns = 100 * CLOCK_NS_PER_MS;
    if (h->c.peer_timeout_ns == 0)
        h->c.peer_timeout_ns = 3 * CLOCK_NS_PER_S;
    err = sched_create(&h->c.sched, msg, &h->sched);
    if (err != ERR_OK) {
        mem_free(h);
        return err;
    }
    uv_timer_init(c->loop, &h->timer);
    uv_timer_init(c->loop, &h->beat);
    h->timer.data = h->beat.data = h;
    h->open_parts = 2;
    uv_timer_start(&h->beat, on_beat, h->c.heartbeat_ns / CLOCK_NS_PER_MS,
                   h->c.heartbeat_ns / CLOCK_NS_PER_MS);
    *out = h;
    return ERR_OK;
}

enum err daemon_hub_listen(struct daemon_hub *h, const char *address, const char **bound,
                           struct err_msg *msg)
{
    struct daemon_link_options o = {.loop = h->c.loop,
                                    .secret = &h->secret,
                                    /* Until a worker has joined, loading may take its time between
                                     * reports; afterwards peer_timeout_ns holds. */
                                    .peer_timeout_ns = 30 * CLOCK_NS_PER_S};
    enum err err;

    if (h->n_listeners == LISTENERS_MAX)
        return err_set(msg, ERR_LIMIT, "at most %d addresses to listen on", LISTENERS_MAX);
    err = daemon_link_listen(&o, address, hub_on_accept, h, msg, &h->listeners[h->n_listeners]);
    if (err != ERR_OK)
        return err;
    if (bound != NULL)
        *bound = daemon_listener_address(h->listeners[h->n_listeners]);
    h->n_listeners++;
    return ERR_OK;
}

void daemon_hub_submit(struct daemon_hub *h, const struct daemon_hub_submit *s)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = s->request};

    e.u.arrive.tier = s->tier;
    e.u.arrive.priority = s->priority;
    e.u.arrive.n_prompt = s->n_prompt;
    e.u.arrive.max_new = s->max_new;
    e.u.arrive.arrived_ns = s->arrived_ns;
    e.u.arrive.tenant = s->tenant;
    e.u.arrive.length_key = s->length_key;
    e.u.arrive.ttft_ns = s->ttft_ns;
    e.u.arrive.tbt_ns = s->tbt_ns;
    hub_event(h, &e);
}

static void simple_event(struct daemon_hub *h, enum sched_event_kind kind, uint64_t request)
{
    struct sched_event e = {.kind = kind, .request = request};

    hub_event(h, &e);
}

void daemon_hub_cancel(struct daemon_hub *h, uint64_t request)
{
    simple_event(h, SCHED_EV_CANCEL, request);
}

/* No attempt has this number: its workers do not stop by themselves. */
#define EPOCH_OF_NONE UINT32_MAX

void daemon_hub_finish(struct daemon_hub *h, uint64_t request, const struct daemon_seen *seen)
{
    struct sched_event e = {.kind = SCHED_EV_FINISH, .request = request};

    e.epoch = seen->runs_on ? EPOCH_OF_NONE : 0;
    e.u.finish.first_token_ns = seen->first_token_ns;
    e.u.finish.last_token_ns = seen->last_token_ns;
    e.u.finish.late_ns = seen->late_ns;
    e.u.finish.tokens = seen->tokens;
    hub_event(h, &e);
}

enum err daemon_hub_set_tenant(struct daemon_hub *h, const struct sched_tenant *t,
                               struct err_msg *msg)
{
    return sched_set_tenant(h->sched, t, msg);
}

void daemon_hub_process_gone(struct daemon_hub *h, uint32_t pid)
{
    for (struct worker *w = h->first; w != NULL; w = w->next) {
        if (w->pid == pid) {
            if (w->control != NULL)
                daemon_link_close(w->control);
            hub_worker_leave(w, ERR_PEER_LOST);
        }
    }
    for (unsigned i = 0; i < GRAVES; i++) {
        if (h->graves[i].pid == pid) {
            hub_tell_forget(h, h->graves[i].worker, true);
            h->graves[i] = (struct grave){0, 0};
        }
    }
}

bool daemon_hub_ready(const struct daemon_hub *h)
{
    struct sched_stats s;

    sched_get_stats(h->sched, &s);
    return s.workers[SCHED_ROLE_PREFILL] > 0 && s.workers[SCHED_ROLE_DECODE] > 0;
}

uint32_t daemon_hub_max_context(const struct daemon_hub *h)
{
    uint32_t least = 0;

    for (const struct worker *w = h->first; w != NULL; w = w->next) {
        if (w->joined && !w->lost && (least == 0 || w->join->max_context < least))
            least = w->join->max_context;
    }
    return least < WIRE_TOKENS_MAX ? least : WIRE_TOKENS_MAX; /* no message carries more */
}

void daemon_hub_stats(const struct daemon_hub *h, struct sched_stats *out)
{
    sched_get_stats(h->sched, out);
}

const struct sched *daemon_hub_sched(const struct daemon_hub *h)
{
    return h->sched;
}

void daemon_hub_worker_name(const struct daemon_hub *h, uint32_t worker, char *name, size_t room)
{
    const struct worker *w = map_get(&h->workers, worker);

    if (w != NULL)
        snprintf(name, room, "%s", w->name);
    else if (worker != 0)
        snprintf(name, room, "worker-%u", worker);
    else
        snprintf(name, room, "%s", "");
}

static const struct worker *nth_worker(const struct daemon_hub *h, size_t n)
{
    const struct worker *w = h->first;

    while (w != NULL && n-- > 0)
        w = w->next;
    return w;
}

bool daemon_hub_next_worker(const struct daemon_hub *h, size_t *at, struct daemon_worker_view *out)
{
    const struct worker *w = nth_worker(h, (*at)++);

    if (w == NULL)
        return false;
    *out = (struct daemon_worker_view){.id = w->id,
                                       .role = w->role,
                                       .joined = w->joined && !w->lost,
                                       .name = w->name,
                                       .backend = w->join != NULL ? w->join->backend : "",
                                       .klass = w->join != NULL ? hub_class_name(w->join) : "",
                                       .phase = w->loading != NULL ? w->loading->phase : "starting",
                                       .report = w->report};
    if (w->loading != NULL) {
        out->loaded_bytes = w->loading->done_bytes;
        out->total_bytes = w->loading->total_bytes;
    }
    if (w->report != NULL)
        out->report_age_ns = clock_now_ns() - w->report_at;
    if (w->join != NULL) {
        out->pid = w->join->pid;
        out->n_blocks = w->join->n_blocks;
        out->block_tokens = w->join->layout->block_tokens;
        out->max_context = w->join->max_context;
        out->max_batch = w->join->max_batch;
        out->tp = hub_tp(w->join);
    }
    return true;
}

bool daemon_hub_next_link(const struct daemon_hub *h, size_t *at, const char **from,
                          const char **to, const Baton__Link **link)
{
    size_t n = (*at)++;

    for (const struct worker *w = h->first; w != NULL; w = w->next) {
        if (n < w->n_links) {
            const struct worker *peer = map_get(&h->workers, w->links[n].peer);

            *from = w->name;
            *to = peer != NULL ? peer->name : "gone";
            *link = w->links[n].info;
            return true;
        }
        n -= w->n_links;
    }
    return false;
}

void daemon_hub_stop(struct daemon_hub *h)
{
    simple_event(h, SCHED_EV_STOP, 0);
}

void hub_part_closed(struct daemon_hub *h)
{
    h->open_parts--;
    if (!h->closing || h->open_parts > 0)
        return;
    sched_actions_free(&h->actions);
    sched_destroy(h->sched);
    mem_free(h->events);
    map_free(&h->workers);
    explicit_bzero(&h->secret, sizeof(h->secret));
    mem_free(h);
}

static void on_timer_closed(uv_handle_t *t)
{
    hub_part_closed(t->data);
}

void daemon_hub_close(struct daemon_hub *h)
{
    h->closing = true;
    for (unsigned i = 0; i < h->n_listeners; i++)
        daemon_listener_close(h->listeners[i]);
    hub_close_workers(h);
    uv_close((uv_handle_t *)&h->timer, on_timer_closed);
    uv_close((uv_handle_t *)&h->beat, on_timer_closed);
}
