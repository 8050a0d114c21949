/* scheduler/sched.c - create, apply: the entry points of sched.h.
 *
 * Each event is checked, then room is made for everything its handler may append or create, and
 * only then is anything changed: so ERR_NOMEM always means "as before".  Placement comes after the
 * handler; if it runs out of memory the event still counts and placement is tried again a moment
 * later. */
#include "scheduler/sched.h"

#include <string.h>

#include "base/mem.h"
#include "scheduler/sched_core.h"

enum { ACTIONS_PER_MOVE = 4 }; /* CANCEL to both sides, and RESUME or FAIL; RESERVE */
enum { RECORDS_MAX = 10000000 };
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
                   .starvation_ns = 10 * SCHED_SECOND,
                   .percentile = 0.99,
                   .weight = 4,
                   .on_miss = SCHED_MISS_REFUSE,
                   .transfer_class = 0},
                  {.name = "silver",
                   .ttft_ns = 2000 * SCHED_MS,
                   .ttft_factor = 5,
                   .tbt_ns = 100 * SCHED_MS,
                   .starvation_ns = 10 * SCHED_SECOND,
                   .percentile = SCHED_PERCENTILE,
                   .weight = 2,
                   .on_miss = SCHED_MISS_REFUSE,
                   .transfer_class = 1},
                  {.name = "bronze",
                   .ttft_ns = 10000 * SCHED_MS,
                   .ttft_factor = 10,
                   .tbt_ns = 200 * SCHED_MS,
                   .starvation_ns = 10 * SCHED_SECOND,
                   .percentile = SCHED_PERCENTILE,
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
        .local_prefill = true,
    };
}

/* ---- create, destroy ---- */

static enum err check_wait(const char *name, uint64_t ns, struct err_msg *msg)
{
    if (ns >= WAIT_MIN && ns <= WAIT_MAX)
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "%s: %llu ns is not in 1 ms .. 30 days", name,
                   (unsigned long long)ns);
}

static enum err check_share(const char *tier, const char *name, double v, double low, double high,
                            struct err_msg *msg)
{
    if (v >= low && v <= high)
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "tiers: %s of %s is not in %g .. %g", name, tier, low, high);
}

static enum err check_shares(const struct sched_tier *t, struct err_msg *msg)
{
    enum err err = check_share(t->name, "ttft_factor", t->ttft_factor, 0, 1000, msg);

    if (err == ERR_OK)
        err = check_share(t->name, "percentile", t->percentile, 0, 0.9999, msg);
    if (err == ERR_OK)
        err = check_share(t->name, "weight", t->weight, 0, 1e6, msg);
    if (err == ERR_OK)
        err = check_share(t->name, "reserved", t->reserved, 0, 0.999, msg);
    if (err == ERR_OK && (t->on_miss < SCHED_MISS_REFUSE || t->on_miss > SCHED_MISS_DOWNGRADE))
        err = err_set(msg, ERR_INVALID, "tiers: on_miss of %s is unknown", t->name);
    return err;
}

static enum err check_tiers(const struct sched_config *c, struct err_msg *msg)
{
    enum err err = ERR_OK;
    double reserved = 0;

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
        if (err == ERR_OK)
            err = check_shares(t, msg);
        reserved += t->reserved;
    }
    if (err == ERR_OK && !(reserved < 1))
        err = err_set(msg, ERR_INVALID, "tiers: the reserved shares must sum up to less than 1");
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
    if (memchr(c->policy, '\0', sizeof(c->policy)) == NULL || sched_policy_find(c->policy) == NULL)
        return err_set(msg, ERR_INVALID, "policy: %.*s is none of %s", SCHED_NAME_MAX - 1,
                       c->policy, sched_policy_names());
    if (c->records > RECORDS_MAX)
        return err_set(msg, ERR_INVALID, "records: %u is more than %d", c->records, RECORDS_MAX);
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
    s->policy = s->placing = sched_policy_find(c->policy);
    s->next_tick = SCHED_NEVER;
    sched_plan_init(&s->elastic.plan);
    sched_queue_init(s);
    err = sched_predictor_init(s);
    if (err == ERR_OK)
        err = sched_tenants_create(&s->tenants);
    if (err == ERR_OK)
        err = sched_record_init(s);
    if (err == ERR_OK && s->policy->create != NULL)
        err = s->policy->create(s);
    if (err != ERR_OK) {
        s->policy = NULL;
        sched_destroy(s);
        return err_set(msg, err, "scheduler: out of memory");
    }
    *out = s;
    return ERR_OK;
}

static void free_request(struct sched_request *r)
{
    struct sched_attempt *a = r->attempts, *next;

    for (; a != NULL; a = next) {
        next = a->next;
        mem_free(a);
    }
    mem_free(r);
}

static void free_workers(struct sched *s)
{
    for (int role = 1; role <= 2; role++) {
        struct sched_worker *w = s->first_worker[role], *next;

        for (; w != NULL; w = next) {
            next = w->next;
            mem_free(w);
        }
        mem_free(s->pool[role].v);
    }
    for (struct sched_shape *h = s->shapes, *next; h != NULL; h = next) {
        next = h->next;
        mem_free(h);
    }
}

void sched_destroy(struct sched *s)
{
    struct sched_request *r;
    size_t at = 0;

    if (s == NULL)
        return;
    if (s->policy != NULL && s->policy->destroy != NULL)
        s->policy->destroy(s);
    free_workers(s);
    while ((r = map_next(&s->requests, &at)) != NULL)
        free_request(r);
    sched_predictor_free(s);
    sched_record_free(s);
    sched_tenants_free(s->tenants);
    map_free(&s->requests);
    map_free(&s->workers);
    mem_free(s->timers.v);
    mem_free(s);
}

enum err sched_set_tenant(struct sched *s, const struct sched_tenant *t, struct err_msg *msg)
{
    enum err err = sched_tenants_set(s->tenants, t);

    if (err == ERR_INVALID)
        return err_set(msg, err, "tenant %u: the id must not be 0, weight and quota not negative",
                       t->id);
    return err == ERR_OK ? err : err_set(msg, err, "tenant %u: out of memory", t->id);
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
               e->u.arrive.n_prefix <= SCHED_PREFIX_MAX &&
               map_get(&s->requests, e->request) == NULL;
    case SCHED_EV_WORKER_JOIN:
        return e->worker != 0 && sched_ledger_worker(s, e->worker) == NULL &&
               (e->u.join.role == SCHED_ROLE_PREFILL || e->u.join.role == SCHED_ROLE_DECODE) &&
               e->u.join.n_blocks >= 1 && e->u.join.block_tokens >= 1 && e->u.join.max_batch >= 1 &&
               e->u.join.max_context >= 1 && e->u.join.klass < s->n_klass;
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

static void reject(struct sched *s, struct sched_actions *out, const struct sched_event *e,
                   const struct sched_refused *why)
{
    struct sched_action *act = sched_act(out, SCHED_ACT_REJECT, NULL);

    act->request = e->request;
    act->reason = why->reason;
    act->refusal = why->refusal;
    act->retry_after_ns = sched_queue_jitter(s, e->request, why->retry_after_ns);
    sched_record_reject(s, e, why);
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

static struct sched_request *request_make(const struct sched_event *e)
{
    size_t prefixes = e->u.arrive.n_prefix * sizeof(struct sched_prefix);
    struct sched_request *r = mem_try_calloc(1, sizeof(*r) + prefixes);

    if (r == NULL)
        return NULL;
    r->id = e->request;
    r->state = SCHED_REQ_NEW;
    r->tier = r->tier_asked = (uint8_t)e->u.arrive.tier;
    r->priority = e->u.arrive.priority;
    r->n_prompt = e->u.arrive.n_prompt;
    r->max_new = e->u.arrive.max_new;
    r->true_new = e->u.arrive.true_new;
    r->tenant = e->u.arrive.tenant;
    r->length_key = e->u.arrive.length_key;
    r->own_ttft_ns = e->u.arrive.ttft_ns;
    r->own_tbt_ns = e->u.arrive.tbt_ns;
    r->n_prefix = (uint8_t)e->u.arrive.n_prefix;
    for (uint32_t i = 0; i < r->n_prefix; i++)
        r->prefix[i] = e->u.arrive.prefix[i];
    r->epoch = 1;
    r->arrived_ns = e->u.arrive.arrived_ns;
    r->grant_deadline_ns = SCHED_NEVER;
    sched_node_init(&r->node, r->id);
    sched_timer_init(&r->timer, SCHED_TIMER_REQUEST);
    return r;
}

/* What is decided before the policy is asked: bounds and shapes. */
static bool admit(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_need need = {.prefill_tokens = e->u.arrive.n_prompt,
                              .total_tokens = (uint64_t)e->u.arrive.n_prompt + e->u.arrive.max_new,
                              .decode = e->u.arrive.max_new > 1};
    struct sched_refused why = {0};

    if (s->stopping) {
        why.reason = SCHED_REASON_STOPPING;
    } else if (!sched_ledger_could_fit(s, &need)) {
        why.reason = SCHED_REASON_TOO_LARGE;
    } else if (queue_full(s, e)) {
        why.reason = SCHED_REASON_QUEUE_FULL;
        why.refusal.resource = SCHED_RES_QUEUE;
        why.retry_after_ns = sched_queue_retry_after(s);
    } else {
        return true;
    }
    reject(s, out, e, &why);
    return false;
}

/* Its tenant pays for what it is expected to use; what it really used is settled at the end. */
static enum err charge(struct sched *s, struct sched_request *r, struct sched_refused *why)
{
    double tokens = r->cast.mean > 0 ? (double)r->cast.mean : (double)r->max_new;
    enum err err;

    r->cost = (float)(r->n_prompt + 2 * tokens);
    err = sched_tenants_take(s->tenants, r->tenant, s->now, r->cost, &why->retry_after_ns);
    why->refusal.resource = SCHED_RES_TENANT;
    if (why->retry_after_ns == UINT64_MAX)
        why->retry_after_ns = 0; /* more than its bucket ever holds */
    else if (why->retry_after_ns == 0)
        why->retry_after_ns = SCHED_SECOND; /* when one of its requests ends */
    return err;
}

static enum err on_arrive(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_refused why = {.reason = SCHED_REASON_QUOTA};
    struct sched_request *r;
    enum err err;

    if (!admit(s, e, out))
        return ERR_OK;
    if (!sched_timers_reserve(&s->timers))
        return ERR_NOMEM;
    r = request_make(e);
    if (r == NULL)
        return ERR_NOMEM;
    if (map_put(&s->requests, r->id, r) != ERR_OK) {
        mem_free(r);
        return ERR_NOMEM;
    }
    sched_predictor_arrive(s, r);
    err = charge(s, r, &why);
    if (err != ERR_OK) {
        sched_length_unasked(s->lengths, &r->cast);
        map_del(&s->requests, r->id);
        mem_free(r);
        if (err == ERR_LIMIT)
            reject(s, out, e, &why);
        return err == ERR_LIMIT ? ERR_OK : err;
    }
    s->timers.owners++;
    s->tier_stats[r->tier].arrived++;
    sched_elastic_arrive(s, r);
    sched_request_arrive(s, r);
    if (s->policy->tick != NULL && (s->next_tick == SCHED_NEVER || s->next_tick <= s->now))
        s->next_tick = sched_after(s->now, SCHED_TICK);
    return ERR_OK;
}

static enum err on_join(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    bool prefill = e->u.join.role == SCHED_ROLE_PREFILL;
    enum sched_role other = prefill ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL;
    struct sched_worker *w;
    enum err err;

    if (!sched_actions_reserve(out, s->pool[other].n))
        return ERR_NOMEM;
    err = sched_ledger_join(s, e, &w);
    if (err != ERR_OK)
        return err;
    for (const struct sched_worker *p = s->first_worker[other]; p != NULL; p = p->next) {
        struct sched_action *act;

        if (p->draining && !p->flipping)
            continue; /* for good; one that was to change its role may come back into service */
        act = sched_act(out, SCHED_ACT_INTRODUCE, NULL);
        act->worker = prefill ? w->id : p->id;
        act->peer = prefill ? p->id : w->id;
    }
    s->had[e->u.join.role] = true;
    if (s->pool[e->u.join.role].n == 1)
        sched_queue_recall_held(s); /* the role is back: that changes the answer to all of them */
    if (s->policy->worker != NULL)
        s->policy->worker(s, w, SCHED_EV_WORKER_JOIN);
    if (!SCHED_PLANTED(18))
        sched_queue_recall_unfit(s);
    s->wake = true;
    return ERR_OK;
}

static void on_report(struct sched_worker *w, const struct sched_event *e)
{
    w->reported_free = e->u.report.free_blocks;
    w->reported_waiting = e->u.report.waiting;
    w->reported_running = e->u.report.running;
    w->reported_parked = e->u.report.parked;
    w->step_ns = e->u.report.step_ns;
    if (e->u.report.steps > w->steps)
        w->steps = e->u.report.steps;
    w->context = e->u.report.context;
}

static void on_drain(struct sched *s, struct sched_worker *w)
{
    sched_elastic_gone(s, w); /* it was told by somebody else: for good */
    sched_ledger_drain(s, w);
    if (!SCHED_PLANTED(10))
        sched_queue_unbind_all(s, w);
    s->wake = true;
}

static enum err on_worker(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_worker *w = sched_ledger_worker(s, e->worker), *peer;

    if (w == NULL) {
        s->stats.ignored_events++;
        return ERR_OK;
    }
    if (e->kind == SCHED_EV_WORKER_LEAVE) {
        if (!sched_actions_reserve(out, (size_t)w->n_sides * ACTIONS_PER_MOVE))
            return ERR_NOMEM;
        sched_event_leave(s, w, out);
        return ERR_OK; /* the policy was told before it was gone */
    }
    if (e->kind == SCHED_EV_LINK) {
        peer = sched_ledger_worker(s, e->u.link.peer);
        if (peer != NULL && w->shape->role == SCHED_ROLE_PREFILL &&
            peer->shape->role == SCHED_ROLE_DECODE)
            return sched_predictor_link(s, w, peer, e);
        s->stats.ignored_events++;
        return ERR_OK;
    }
    if (e->kind == SCHED_EV_WORKER_DRAIN)
        on_drain(s, w);
    else if (e->kind == SCHED_EV_STEP)
        sched_predictor_step(s, w, e);
    else
        on_report(w, e);
    if (s->policy->worker != NULL)
        s->policy->worker(s, w, e->kind);
    return ERR_OK;
}

static void on_tick(struct sched *s)
{
    if (s->now < s->next_tick || s->stats.requests == 0)
        return;
    s->next_tick = sched_after(s->now, SCHED_TICK);
    s->policy->tick(s);
    s->wake = true;
}

/* Fires all that are due; where memory runs out the rest stays due. */
static enum err on_timer(struct sched *s, struct sched_actions *out)
{
    size_t fired = 0;

    on_tick(s);
    for (; s->timers.n > 0 && s->timers.v[0].at <= s->now; fired++) {
        struct sched_timer *t = s->timers.v[0].timer;

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
    case SCHED_EV_STEP:
    case SCHED_EV_LINK:
        return on_worker(s, e, out);
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
    if (s->now >= s->next_plan && s->workers.count > 0)
        sched_elastic_tick(s, out);
    sched_place_all(s, out);
    return ERR_OK;
}

uint64_t sched_next_timer(const struct sched *s)
{
    uint64_t at = s->timers.n > 0 ? s->timers.v[0].at : SCHED_NEVER;
    uint64_t retry = s->place_pending ? sched_after(s->now, PLACE_RETRY) : SCHED_NEVER;

    if (s->stats.requests > 0 && s->next_tick < at)
        at = s->next_tick;
    if (s->cfg.elastic.on && s->workers.count > 0 && s->next_plan < at)
        at = s->next_plan;
    return at < retry ? at : retry;
}
