/* scheduler/sched.c - create, apply, look: the entry points of sched.h.
 *
 * Each event is checked, then room is made for everything its handler may append or create, and only
 * then is anything changed: so ERR_NOMEM always means "as before".  Placement comes after the handler; if
 * it runs out of memory the event still counts and placement is tried again a moment later. */
#include "scheduler/sched.h"

#include <string.h>

#include "base/mem.h"
#include "scheduler/sched_old.h"

enum { ACTIONS_PER_MOVE = 3 }; /* CANCEL to both sides, and RESUME or FAIL */
#define PLACE_RETRY SCHED_MS
#define WAIT_MIN SCHED_MS
#define WAIT_MAX (30 * 24 * 3600 * SCHED_SECOND)

void sched_config_defaults(struct sched_config *c)
{
    *c = (struct sched_config){
        .tiers = {{.name = "gold",
                   .ttft_ns = 500 * SCHED_MS,
                   .ttft_factor = 3,
                   .tbt_ns = 30 * SCHED_MS,
                   .percentile = 0.99,
                   .weight = 4,
                   .on_miss = SCHED_MISS_REFUSE,
                   .transfer_class = 0},
                  {.name = "silver",
                   .ttft_ns = 2000 * SCHED_MS,
                   .ttft_factor = 5,
                   .tbt_ns = 100 * SCHED_MS,
                   .percentile = 0.98,
                   .weight = 2,
                   .on_miss = SCHED_MISS_REFUSE,
                   .transfer_class = 1},
                  {.name = "bronze",
                   .ttft_ns = 10000 * SCHED_MS,
                   .ttft_factor = 10,
                   .tbt_ns = 200 * SCHED_MS,
                   .percentile = 0.95,
                   .weight = 1,
                   .reserved = 0.05,
                   .on_miss = SCHED_MISS_WAIT,
                   .transfer_class = 2}},
        .n_tiers = 3,
        .max_queued = 100000,
        .max_queued_tokens = 400000000,
        .prefill_window_tokens = 8192,
        .max_attempts = 5,
        .queue_timeout_ns = 60 * SCHED_SECOND,
        .request_timeout_ns = 3600 * SCHED_SECOND,
        .grant_timeout_ns = 5 * SCHED_SECOND,
        .prefill_timeout_ns = 60 * SCHED_SECOND,
        .handover_timeout_ns = 10 * SCHED_SECOND,
        .decode_timeout_ns = 30 * SCHED_SECOND,
        .release_timeout_ns = 5 * SCHED_SECOND,
    };
}

const char *sched_reason_name(enum sched_reason r)
{
    switch (r) {
    case SCHED_REASON_NONE:
        return "none";
    case SCHED_REASON_QUEUE_FULL:
        return "queue_full";
    case SCHED_REASON_TOO_LARGE:
        return "too_large";
    case SCHED_REASON_STOPPING:
        return "stopping";
    case SCHED_REASON_QUEUE_TIMEOUT:
        return "queue_timeout";
    case SCHED_REASON_REQUEST_TIMEOUT:
        return "request_timeout";
    case SCHED_REASON_ATTEMPTS:
        return "attempts";
    case SCHED_REASON_TTFT:
        return "ttft";
    case SCHED_REASON_TBT:
        return "tbt";
    case SCHED_REASON_PRICE:
        return "price";
    case SCHED_REASON_QUOTA:
        return "quota";
    case SCHED_REASON_SHARE:
        return "share";
    case SCHED_REASON_DISPLACED:
        return "displaced";
    }
    return "?";
}

/* ---- create, destroy ---- */

static enum err check_wait(const char *name, uint64_t ns, struct err_msg *msg)
{
    if (ns >= WAIT_MIN && ns <= WAIT_MAX)
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "%s: %llu ns is not in 1 ms .. 30 days", name,
                   (unsigned long long)ns);
}

static enum err check_tiers(const struct sched_config *c, struct err_msg *msg)
{
    enum err err = ERR_OK;

    if (c->n_tiers < 1 || c->n_tiers > SCHED_TIERS_MAX)
        return err_set(msg, ERR_INVALID, "tiers: %u given, must be 1 .. %d", c->n_tiers,
                       SCHED_TIERS_MAX);
    for (uint32_t i = 0; i < c->n_tiers && err == ERR_OK; i++) {
        const struct sched_tier *t = &c->tiers[i];

        if (t->name[0] == '\0' || memchr(t->name, '\0', sizeof(t->name)) == NULL)
            return err_set(msg, ERR_INVALID, "tiers[%u].name: must have 1 .. %d characters", i,
                           SCHED_NAME_MAX - 1);
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(t->name, c->tiers[j].name) == 0)
                return err_set(msg, ERR_INVALID, "tiers[%u].name: %s is there twice", i, t->name);
        }
        err = check_wait("tier ttft", t->ttft_ns, msg);
        if (err == ERR_OK)
            err = check_wait("tier tbt", t->tbt_ns, msg);
    }
    return err;
}

static enum err check_config(const struct sched_config *c, struct err_msg *msg)
{
    const struct {
        const char *name;
        uint64_t ns;
    } waits[] = {
        {"queue_timeout", c->queue_timeout_ns},       {"request_timeout", c->request_timeout_ns},
        {"grant_timeout", c->grant_timeout_ns},       {"prefill_timeout", c->prefill_timeout_ns},
        {"handover_timeout", c->handover_timeout_ns}, {"decode_timeout", c->decode_timeout_ns},
        {"release_timeout", c->release_timeout_ns}};
    enum err err = check_tiers(c, msg);

    if (err != ERR_OK)
        return err;
    if (c->max_queued < 1 || c->max_queued > 10000000)
        return err_set(msg, ERR_INVALID, "max_queued: %u is not in 1 .. 10000000", c->max_queued);
    if (c->max_queued_tokens < 1)
        return err_set(msg, ERR_INVALID, "max_queued_tokens: must be at least 1");
    if (c->prefill_window_tokens < 1)
        return err_set(msg, ERR_INVALID, "prefill_window_tokens: must be at least 1");
    if (c->max_attempts < 1 || c->max_attempts > 1000)
        return err_set(msg, ERR_INVALID, "max_attempts: %u is not in 1 .. 1000", c->max_attempts);
    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]) && err == ERR_OK; i++)
        err = check_wait(waits[i].name, waits[i].ns, msg);
    return err;
}

enum err sched_create(const struct sched_config *c, struct err_msg *msg, struct sched **out)
{
    enum err err = check_config(c, msg);
    struct sched *s;

    if (err != ERR_OK)
        return err;
    s = mem_try_calloc(1, sizeof(*s));
    if (s == NULL)
        return err_set(msg, ERR_NOMEM, "scheduler: out of memory");
    s->cfg = *c;
    sched_queue_init(s);
    *out = s;
    return ERR_OK;
}

void sched_destroy(struct sched *s)
{
    struct sched_request *r;
    size_t at = 0;

    if (s == NULL)
        return;
    while ((r = map_next(&s->requests, &at)) != NULL) {
        struct sched_attempt *a = r->attempts, *next;

        for (; a != NULL; a = next) {
            next = a->next;
            mem_free(a);
        }
        mem_free(r);
    }
    for (int role = 1; role <= 2; role++) {
        struct sched_worker *w = s->first_worker[role], *next;

        for (; w != NULL; w = next) {
            next = w->next;
            mem_free(w);
        }
    }
    for (struct sched_shape *h = s->shapes, *next; h != NULL; h = next) {
        next = h->next;
        mem_free(h);
    }
    map_free(&s->requests);
    map_free(&s->workers);
    mem_free(s->timers.v);
    mem_free(s);
}

/* ---- actions ---- */

void sched_actions_free(struct sched_actions *a)
{
    mem_free(a->v);
    *a = (struct sched_actions){0};
}

bool sched_actions_reserve(struct sched_actions *a, size_t more)
{
    size_t need, cap = a->cap < 16 ? 16 : a->cap, bytes;
    struct sched_action *v;

    if (!mem_add(a->n, more, &need))
        return false;
    if (need <= a->cap)
        return true;
    while (cap < need) {
        if (!mem_mul(cap, 2, &cap))
            return false;
    }
    if (!mem_mul(cap, sizeof(*v), &bytes))
        return false;
    v = mem_try_realloc(a->v, bytes);
    if (v == NULL)
        return false;
    a->v = v;
    a->cap = cap;
    return true;
}

struct sched_action *sched_act(struct sched_actions *a, enum sched_action_kind kind,
                               const struct sched_request *r)
{
    struct sched_action *act = &a->v[a->n++];

    *act = (struct sched_action){.kind = kind};
    if (r != NULL) {
        act->request = r->id;
        act->epoch = r->epoch;
    }
    return act;
}

/* ---- events ---- */

static bool valid_worker_event(const struct sched_event *e)
{
    return e->request != 0 && e->epoch != 0 && e->worker != 0;
}

static bool valid(const struct sched *s, const struct sched_event *e)
{
    switch (e->kind) {
    case SCHED_EV_ARRIVE:
        return e->request != 0 && e->u.arrive.tier < s->cfg.n_tiers && e->u.arrive.n_prompt >= 1 &&
               e->u.arrive.max_new >= 1 && e->u.arrive.arrived_ns <= s->now &&
               map_get(&s->requests, e->request) == NULL;
    case SCHED_EV_WORKER_JOIN:
        return e->worker != 0 && sched_ledger_worker(s, e->worker) == NULL &&
               (e->u.join.role == SCHED_ROLE_PREFILL || e->u.join.role == SCHED_ROLE_DECODE) &&
               e->u.join.n_blocks >= 1 && e->u.join.block_tokens >= 1 && e->u.join.max_batch >= 1 &&
               e->u.join.max_context >= 1;
    case SCHED_EV_WORKER_LEAVE:
    case SCHED_EV_WORKER_DRAIN:
    case SCHED_EV_WORKER_REPORT:
    case SCHED_EV_STEP:
    case SCHED_EV_LINK:
        return e->worker != 0;
    case SCHED_EV_CANCEL:
    case SCHED_EV_TOKENS:
    case SCHED_EV_FINISH:
        return e->request != 0;
    case SCHED_EV_GRANTED:
    case SCHED_EV_PREFILL_PROGRESS:
    case SCHED_EV_PREFILL_DONE:
    case SCHED_EV_HANDOVER_DONE:
    case SCHED_EV_RELEASED:
        return valid_worker_event(e);
    case SCHED_EV_STOP:
    case SCHED_EV_TIMER:
        return true;
    }
    return false;
}

static void reject(struct sched_actions *out, const struct sched_event *e, enum sched_reason reason,
                   uint64_t retry_after_ns)
{
    struct sched_action *act = sched_act(out, SCHED_ACT_REJECT, NULL);

    act->request = e->request;
    act->reason = reason;
    act->retry_after_ns = retry_after_ns;
}

/* One prompt longer than the bound is let in when nobody waits: it may well start at once. */
static bool queue_full(const struct sched *s, const struct sched_event *e)
{
    uint64_t tokens = s->stats.queued_tokens;

    if (SCHED_PLANTED(16))
        return false;
    return s->n_queued >= s->cfg.max_queued ||
           (tokens > 0 && tokens + e->u.arrive.n_prompt > s->cfg.max_queued_tokens);
}

static struct sched_request *request_make(struct sched *s, const struct sched_event *e)
{
    struct sched_request *r = mem_try_calloc(1, sizeof(*r));

    if (r == NULL)
        return NULL;
    *r = (struct sched_request){.id = e->request,
                                .state = SCHED_REQ_NEW,
                                .tier = e->u.arrive.tier,
                                .priority = e->u.arrive.priority,
                                .n_prompt = e->u.arrive.n_prompt,
                                .max_new = e->u.arrive.max_new,
                                .epoch = 1,
                                .arrived_ns = e->u.arrive.arrived_ns};
    r->deadline_ns = sched_after(r->arrived_ns, s->cfg.tiers[r->tier].ttft_ns);
    r->give_up_ns = sched_after(r->arrived_ns, s->cfg.request_timeout_ns);
    r->grant_deadline_ns = SCHED_NEVER;
    sched_node_init(&r->node, r->id);
    sched_timer_init(&r->timer, SCHED_TIMER_REQUEST);
    return r;
}

/* The admission seam: what is decided here from bounds and shapes, a predictor decides from deadlines. */
static bool admit(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_need need = {.prefill_tokens = e->u.arrive.n_prompt,
                              .total_tokens = (uint64_t)e->u.arrive.n_prompt + e->u.arrive.max_new,
                              .decode = e->u.arrive.max_new > 1};

    if (s->stopping)
        reject(out, e, SCHED_REASON_STOPPING, 0);
    else if (sched_ledger_known(s, &need) && !sched_ledger_could_fit(s, &need))
        reject(out, e, SCHED_REASON_TOO_LARGE, 0);
    else if (queue_full(s, e))
        reject(out, e, SCHED_REASON_QUEUE_FULL, sched_queue_retry_after(s));
    else
        return true;
    return false;
}

static enum err on_arrive(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_request *r;

    if (!admit(s, e, out))
        return ERR_OK;
    if (!sched_timers_reserve(&s->timers))
        return ERR_NOMEM;
    r = request_make(s, e);
    if (r == NULL)
        return ERR_NOMEM;
    if (map_put(&s->requests, r->id, r) != ERR_OK) {
        mem_free(r);
        return ERR_NOMEM;
    }
    s->timers.owners++;
    sched_request_arrive(s, r);
    return ERR_OK;
}

static enum err on_join(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    bool prefill = e->u.join.role == SCHED_ROLE_PREFILL;
    enum sched_role other = prefill ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL;
    struct sched_worker *w;
    enum err err;

    if (!sched_actions_reserve(out, s->open_workers[other]))
        return ERR_NOMEM;
    err = sched_ledger_join(s, e, &w);
    if (err != ERR_OK)
        return err;
    for (const struct sched_worker *p = s->first_worker[other]; p != NULL; p = p->next) {
        struct sched_action *act;

        if (p->draining)
            continue;
        act = sched_act(out, SCHED_ACT_INTRODUCE, NULL);
        act->worker = prefill ? w->id : p->id;
        act->peer = prefill ? p->id : w->id;
    }
    if (!SCHED_PLANTED(18))
        sched_queue_recall_unfit(s);
    s->wake = !SCHED_PLANTED(10);
    return ERR_OK;
}

static enum err on_worker(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_worker *w = sched_ledger_worker(s, e->worker);

    if (w == NULL) {
        s->stats.ignored_events++;
        return ERR_OK;
    }
    if (e->kind == SCHED_EV_WORKER_LEAVE) {
        if (!sched_actions_reserve(out, (size_t)w->n_sides * ACTIONS_PER_MOVE))
            return ERR_NOMEM;
        sched_event_leave(s, w, out);
    } else if (e->kind == SCHED_EV_WORKER_DRAIN) {
        sched_ledger_drain(s, w);
        s->wake = true; /* what fits only there now waits apart */
    } else {
        w->reported_free = e->u.report.free_blocks;
        w->reported_waiting = e->u.report.waiting;
        w->reported_running = e->u.report.running;
        w->step_ns = e->u.report.step_ns;
    }
    return ERR_OK;
}

/* Fires all that are due; where memory runs out the rest stays due. */
static enum err on_timer(struct sched *s, struct sched_actions *out)
{
    size_t fired = 0;

    if (s->place_pending)
        s->wake = true;
    for (; s->timers.n > 0 && s->timers.v[0]->at <= s->now; fired++) {
        struct sched_timer *t = s->timers.v[0];

        if (!sched_actions_reserve(out, ACTIONS_PER_MOVE))
            return fired > 0 ? ERR_OK : ERR_NOMEM;
        if (t->kind == SCHED_TIMER_REQUEST)
            sched_request_timer(s, SCHED_OWNER(t, struct sched_request, timer), out);
        else
            sched_attempt_timer(s, SCHED_OWNER(t, struct sched_attempt, timer), out);
    }
    return ERR_OK;
}

static enum err dispatch(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    switch (e->kind) {
    case SCHED_EV_ARRIVE:
        return on_arrive(s, e, out);
    case SCHED_EV_WORKER_JOIN:
        return on_join(s, e, out);
    case SCHED_EV_WORKER_LEAVE:
    case SCHED_EV_WORKER_DRAIN:
    case SCHED_EV_WORKER_REPORT:
        return on_worker(s, e, out);
    case SCHED_EV_STEP:
    case SCHED_EV_LINK:
        return ERR_OK;
    case SCHED_EV_TIMER:
        return on_timer(s, out);
    case SCHED_EV_RELEASED:
        sched_event_released(s, e, out);
        return ERR_OK;
    case SCHED_EV_STOP:
        s->stopping = true;
        return ERR_OK;
    case SCHED_EV_CANCEL:
    case SCHED_EV_GRANTED:
    case SCHED_EV_PREFILL_PROGRESS:
    case SCHED_EV_PREFILL_DONE:
    case SCHED_EV_HANDOVER_DONE:
    case SCHED_EV_TOKENS:
    case SCHED_EV_FINISH:
        sched_event_request(s, e, out);
        return ERR_OK;
    }
    return ERR_INVALID;
}

enum err sched_apply(struct sched *s, const struct sched_event *e, uint64_t now_ns,
                     struct sched_actions *out)
{
    uint64_t before = s->now;
    enum err err;

    if (now_ns < s->now)
        return ERR_INVALID;
    s->now = now_ns;
    if (!valid(s, e))
        err = ERR_INVALID;
    else if (!sched_actions_reserve(out, ACTIONS_PER_MOVE))
        err = ERR_NOMEM;
    else
        err = dispatch(s, e, out);
    if (err != ERR_OK) {
        s->now = before;
        return err;
    }
    if (s->wake)
        sched_place_queue(s, out);
    return ERR_OK;
}

uint64_t sched_next_timer(const struct sched *s)
{
    uint64_t at = s->timers.n > 0 ? s->timers.v[0]->at : SCHED_NEVER;
    uint64_t retry = s->place_pending ? sched_after(s->now, PLACE_RETRY) : SCHED_NEVER;

    return at < retry ? at : retry;
}

/* ---- looking ---- */

void sched_get_stats(const struct sched *s, struct sched_stats *out)
{
    *out = s->stats;
}

enum err sched_get_worker(const struct sched *s, uint32_t worker, struct sched_worker_view *out)
{
    const struct sched_worker *w = sched_ledger_worker(s, worker);

    if (w == NULL)
        return ERR_NOT_FOUND;
    *out = (struct sched_worker_view){.worker = w->id,
                                      .role = w->shape->role,
                                      .draining = w->draining,
                                      .n_blocks = w->shape->n_blocks,
                                      .claimed_blocks = w->claimed_blocks,
                                      .requests = w->claims,
                                      .outstanding_tokens = w->outstanding};
    return ERR_OK;
}

enum err sched_get_request(const struct sched *s, uint64_t request, enum sched_state *state,
                           uint32_t *epoch, uint32_t *prefill_worker, uint32_t *decode_worker)
{
    const struct sched_request *r = map_get(&s->requests, request);
    const struct sched_attempt *a;

    if (r == NULL || r->state == SCHED_REQ_ENDED)
        return ERR_NOT_FOUND;
    a = r->current;
    *state = (enum sched_state)r->state;
    *epoch = r->epoch;
    *prefill_worker = a == NULL ? 0 : a->side[SCHED_SIDE_PREFILL].worker_id;
    *decode_worker = a == NULL ? 0 : a->side[SCHED_SIDE_DECODE].worker_id;
    return ERR_OK;
}

enum err sched_worker_requests(const struct sched *s, uint32_t worker, uint64_t **ids, size_t *n)
{
    const struct sched_worker *w = sched_ledger_worker(s, worker);
    uint64_t *v;
    size_t bytes, count = 0;

    if (w == NULL)
        return ERR_NOT_FOUND;
    if (!mem_mul(w->n_sides, sizeof(*v), &bytes))
        return ERR_NOMEM;
    v = mem_try_alloc(bytes);
    if (v == NULL)
        return ERR_NOMEM;
    for (const struct sched_side *side = w->first; side != NULL; side = side->next) {
        if (side->attempt->current)
            v[count++] = side->attempt->request->id;
    }
    *ids = v;
    *n = count;
    return ERR_OK;
}
