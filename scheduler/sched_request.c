/* scheduler/sched_request.c - the life of a request: states, attempts, deadlines.
 *
 * request_set_state() alone writes the state, so the table below is the whole truth about which
 * moves are legal, and what each state waits for is armed with the move.
 *
 *   state       waits for                                deadline, else
 *   QUEUED      its turn; after a failure first a pause  queue timeout: FAIL
 *   PREFILLING  progress, the first token, the grant     prefill or grant timeout: next attempt
 *   HANDOVER    the grant, then the decode worker's word grant, then hand-over timeout: next attempt
 *   DECODING    tokens, FINISH                           decode timeout: next attempt
 *   (attempt)   RELEASED of both sides                   release timeout: CANCEL again
 *
 * and every live request has the request timeout.  A prompt that others go before makes no progress
 * and is not to blame while its worker does; a stream that is ahead of its line may be parked until
 * the line catches up; a decode worker may keep a hand-over waiting as long as its tokens would not
 * be late.
 *
 * How many attempts: a failed attempt costs 2 points, and a request with 2 * max_attempts is given
 * up. An attempt that ended because a worker went away costs 1: most requests on a crashed worker
 * are innocent.  It costs 2 when the request was alone on that worker, since then nobody else can
 * be to blame; so a request that kills what it touches is stopped after max_attempts workers at the
 * latest when the pool is idle and twice that when it is busy.  It costs nothing when the attempt
 * had delivered SCHED_FORGIVE_TOKENS tokens: long streams outlive any number of restarts. */
#include "scheduler/sched_core.h"

#include <stddef.h>

#include "base/mem.h"

_Static_assert(offsetof(struct sched_request, cast.most) / 64 -
                       offsetof(struct sched_request, baton.ready_ns) / 64 ==
                   1,
               "what a load model reads of a request is spread over more lines");
/* As seen from the allocator: classes are 512, 640 and 768 bytes. */
_Static_assert(sizeof(struct sched_request) + sizeof(struct sched_prefix) <= 640,
               "a queued request costs a size class more");

enum { POINTS_FAILED = 2, POINTS_LOST = 1, POINTS_LOST_ALONE = 2 };

/* clang-format off */
static const bool may_move[SCHED_REQ_STATES][SCHED_REQ_STATES] = {
    /* to                        NEW    QUEUED PREFILLING HANDOVER DECODING ENDED */
    [SCHED_REQ_NEW]          = {false, true,  false,     false,   false,   false},
    [SCHED_STATE_QUEUED]     = {false, false, true,      false,   false,   true},
    [SCHED_STATE_PREFILLING] = {false, true,  false,     true,    true,    true},
    [SCHED_STATE_HANDOVER]   = {false, true,  false,     false,   true,    true},
    [SCHED_STATE_DECODING]   = {false, true,  false,     false,   false,   true},
    [SCHED_REQ_ENDED]        = {false, false, false,     false,   false,   false},
};
/* clang-format on */

const char *sched_state_name(enum sched_state st)
{
    switch (st) {
    case SCHED_STATE_QUEUED:
        return "queued";
    case SCHED_STATE_PREFILLING:
        return "prefilling";
    case SCHED_STATE_HANDOVER:
        return "handover";
    case SCHED_STATE_DECODING:
        return "decoding";
    }
    return "?";
}

struct sched_need sched_request_need(const struct sched_request *r)
{
    return (struct sched_need){.prefill_tokens = (uint64_t)r->n_prompt + r->delivered,
                               .total_tokens = (uint64_t)r->n_prompt + r->max_new,
                               .decode = r->max_new - r->delivered > 1};
}

struct sched_side *sched_attempt_prefill(struct sched_attempt *a)
{
    return &a->side[a->local ? SCHED_SIDE_DECODE : SCHED_SIDE_PREFILL];
}

static struct sched_terms request_terms(const struct sched *s, const struct sched_request *r)
{
    const struct sched_tier *t = &s->cfg.tiers[r->tier];

    return (struct sched_terms){.tier = r->tier,
                                .deadline_ns = r->deadline_ns,
                                .tbt_ns = r->tbt_ns,
                                .weight = t->weight > 0 ? t->weight : 1,
                                .transfer_class = t->transfer_class};
}

static bool is_running(int state)
{
    return state == SCHED_STATE_PREFILLING || state == SCHED_STATE_HANDOVER ||
           state == SCHED_STATE_DECODING;
}

static uint64_t min_ns(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void sched_request_arm(struct sched *s, struct sched_request *r)
{
    uint64_t at = min_ns(sched_request_give_up(s, r), r->state_deadline_ns);

    if (r->state == SCHED_REQ_ENDED || (SCHED_PLANTED(4) && r->state == SCHED_STATE_HANDOVER))
        at = SCHED_NEVER;
    else if (r->waits_in == SCHED_WAITS_BACKOFF)
        at = min_ns(at, r->wake_ns);
    else if (r->waits_in == SCHED_WAITS_HELD && !SCHED_PLANTED(25))
        at = min_ns(at, r->wake_ns);
    else if (r->state != SCHED_STATE_QUEUED)
        at = min_ns(at, r->grant_deadline_ns);
    sched_timer_set(&s->timers, &r->timer, at);
}

/* When token `k` (0: the first) is due. */
static uint64_t due_of(const struct sched_request *r, uint32_t k)
{
    uint64_t line;

    if (r->tbt_ns != 0 && k > SCHED_NEVER / r->tbt_ns)
        return SCHED_NEVER;
    line = k * r->tbt_ns;
    return sched_after(r->deadline_ns, line);
}

static uint64_t max_ns(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t state_deadline(const struct sched *s, const struct sched_request *r, int state)
{
    switch (state) {
    case SCHED_STATE_QUEUED:
        return sched_after(s->now, s->cfg.queue_timeout_ns);
    case SCHED_STATE_PREFILLING:
        return sched_after(s->now, s->cfg.prefill_timeout_ns);
    case SCHED_STATE_HANDOVER:
        return sched_after(s->now, s->cfg.handover_timeout_ns);
    case SCHED_STATE_DECODING:
        return sched_after(max_ns(s->now, due_of(r, r->delivered)), s->cfg.decode_timeout_ns);
    default:
        return SCHED_NEVER;
    }
}

/* A decode worker that has no room now keeps the hand-over waiting as long as that makes nobody
 * late, and we the blocks; after that, and what a message takes, nothing will come. */
static uint64_t grant_deadline(const struct sched *s, const struct sched_request *r)
{
    return sched_after(max_ns(s->now, due_of(r, r->max_new)), s->cfg.grant_timeout_ns);
}

/* Requests in DECODING on their worker, by tier: whose steps those are that it reports. */
static void count_decoding(struct sched_request *r, int next)
{
    bool was = r->state == SCHED_STATE_DECODING, will = next == SCHED_STATE_DECODING;
    struct sched_worker *d = r->mate;

    if (was == will || d == NULL)
        return;
    if (will) {
        r->steps_joined = d->steps;
        d->decoding++;
        d->decoding_tier[r->tier]++;
    } else {
        d->decoding--;
        d->decoding_tier[r->tier]--;
    }
}

void sched_request_mate_gone(struct sched_request *r)
{
    if (r->state == SCHED_STATE_DECODING) {
        r->mate->decoding--;
        r->mate->decoding_tier[r->tier]--;
    }
    r->mate = NULL;
}

/* The one place that moves a request, with the counts and the deadline that go with the state. */
static void request_set_state(struct sched *s, struct sched_request *r, int next)
{
    if (!may_move[r->state][next])
        s->illegal_moves++; /* a bug here, not in the outside: sched_check() names it */
    if (r->state == SCHED_STATE_QUEUED) {
        sched_queue_take(s, r);
        s->wake |= next == SCHED_REQ_ENDED;
        s->stats.queued[r->tier]--;
        s->stats.queued_tokens -= r->n_prompt;
        s->n_queued--;
    } else if (is_running(r->state) && !is_running(next)) {
        s->stats.running[r->tier]--;
    }
    if (next == SCHED_STATE_QUEUED) {
        s->stats.queued[r->tier]++;
        s->stats.queued_tokens += r->n_prompt;
        s->n_queued++;
    } else if (is_running(next) && !is_running(r->state)) {
        s->stats.running[r->tier]++;
    } else if (next == SCHED_REQ_ENDED) {
        s->stats.requests--;
    }
    count_decoding(r, next);
    r->state = (uint8_t)next;
    r->state_deadline_ns = state_deadline(s, r, next);
}

void sched_request_arrive(struct sched *s, struct sched_request *r)
{
    s->stats.requests++;
    request_set_state(s, r, SCHED_STATE_QUEUED);
    sched_queue_put(s, r, SCHED_WAITS_PLACE);
    sched_request_arm(s, r);
}

void sched_request_retier(struct sched *s, struct sched_request *r, uint32_t tier,
                          struct sched_actions *out)
{
    struct sched_action *act;

    if (r->state == SCHED_STATE_QUEUED) {
        s->stats.queued[r->tier]--;
        s->stats.queued[tier]++;
    }
    r->deadline_ns = sched_deadline_at(s, r, tier);
    r->tbt_ns = sched_tbt_at(s, r, tier);
    r->tier = (uint8_t)tier;
    act = sched_act(out, SCHED_ACT_TIER, r);
    act->terms = request_terms(s, r);
}

/* ---- attempts ---- */

static void attempt_free(struct sched *s, struct sched_attempt *a)
{
    struct sched_attempt **at = &a->request->attempts;

    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    sched_timer_set(&s->timers, &a->timer, SCHED_NEVER);
    s->timers.owners--;
    s->attempts--;
    mem_free(a);
}

static void request_free_if_over(struct sched *s, struct sched_request *r)
{
    if (r->state != SCHED_REQ_ENDED || r->attempts != NULL)
        return;
    sched_timer_set(&s->timers, &r->timer, SCHED_NEVER);
    s->timers.owners--;
    map_del(&s->requests, r->id);
    mem_free(r);
}

static bool attempt_holds(const struct sched_attempt *a)
{
    return a->side[SCHED_SIDE_PREFILL].claimed || a->side[SCHED_SIDE_DECODE].claimed;
}

void sched_request_settle(struct sched *s, struct sched_attempt *a)
{
    struct sched_request *r = a->request;

    if (a->current)
        return;
    for (int i = 0; i < 2; i++) {
        if (!a->side[i].claimed)
            sched_ledger_unlist(&a->side[i]);
    }
    if (attempt_holds(a))
        return;
    attempt_free(s, a);
    request_free_if_over(s, r);
}

static void attempt_tell(struct sched *s, struct sched_attempt *a, int i, struct sched_actions *out)
{
    struct sched_side *side = &a->side[i];
    struct sched_action *act;

    if (!side->claimed)
        return;
    if (!side->told && !SCHED_PLANTED(27)) { /* it knows nothing of it and will release nothing */
        sched_ledger_release(s, side);
        return;
    }
    act = sched_act(out, SCHED_ACT_CANCEL, a->request);
    act->epoch = a->epoch;
    act->worker = side->worker_id;
    if (SCHED_PLANTED(3))
        sched_ledger_release(s, side);
}

/* The attempt is no longer what the request runs on; its claims stay until RELEASED. */
static void attempt_retire(struct sched *s, struct sched_request *r, unsigned tell,
                           struct sched_actions *out)
{
    struct sched_attempt *a = r->current;
    struct sched_side *prefill;

    if (a == NULL)
        return;
    prefill = sched_attempt_prefill(a);
    if (prefill->worker != NULL)
        sched_ledger_outstanding(s, prefill->worker, 0, a->given - a->done);
    a->done = a->given;
    sched_queue_done(s, r);
    if (tell & SCHED_TELL_PREFILL)
        attempt_tell(s, a, SCHED_SIDE_PREFILL, out);
    if ((tell & SCHED_TELL_DECODE || !a->side[SCHED_SIDE_DECODE].told) && !SCHED_PLANTED(9))
        attempt_tell(s, a, SCHED_SIDE_DECODE, out);
    a->current = false;
    r->current = NULL;
    r->grant_deadline_ns = SCHED_NEVER;
    sched_timer_set(&s->timers, &a->timer, sched_after(s->now, s->cfg.release_timeout_ns));
    s->wake = true;
}

static struct sched_attempt *attempt_make(struct sched *s, struct sched_request *r)
{
    struct sched_attempt *a = mem_try_calloc(1, sizeof(*a));

    if (a == NULL)
        return NULL;
    s->timers.owners++;
    s->attempts++;
    a->request = r;
    a->epoch = r->epoch;
    a->base = r->delivered;
    a->given = (uint64_t)r->n_prompt + r->delivered;
    a->current = true;
    a->side[0].attempt = a->side[1].attempt = a;
    sched_timer_init(&a->timer, SCHED_TIMER_RELEASE);
    a->next = r->attempts;
    r->attempts = r->current = a;
    return a;
}

void sched_request_reserve(struct sched *s, struct sched_request *r, bool now,
                           struct sched_actions *out)
{
    struct sched_attempt *a = r->current;
    struct sched_side *d = &a->side[SCHED_SIDE_DECODE];
    const struct sched_worker *p = a->side[SCHED_SIDE_PREFILL].worker;
    struct sched_action *act;

    if (a->reserved || a->local || d->worker == NULL || (SCHED_PLANTED(26) && a->done > a->cached))
        return;
    if (!now && !sched_reserve_is_due(s, r, p, d->worker))
        return;
    a->reserved = d->told = true;
    r->grant_deadline_ns = grant_deadline(s, r);
    act = sched_act(out, SCHED_ACT_RESERVE, r);
    act->worker = d->worker_id;
    act->peer = a->side[SCHED_SIDE_PREFILL].worker_id;
    act->terms = request_terms(s, r);
}

static void attempt_claim(struct sched *s, struct sched_attempt *a, struct sched_worker *w,
                          struct sched_worker *d)
{
    struct sched_request *r = a->request;

    a->local = w == d;
    if (!a->local) {
        sched_ledger_claim(s, &a->side[SCHED_SIDE_PREFILL], w, r);
        a->side[SCHED_SIDE_PREFILL].told = true;
    }
    if (d != NULL)
        sched_ledger_claim(s, &a->side[SCHED_SIDE_DECODE], d, r);
    if (a->local)
        a->side[SCHED_SIDE_DECODE].told = true;
    sched_ledger_outstanding(s, w, a->given - a->done, 0);
}

/* Its promise has just been taken back, so that it does not count against the worker that gave it. */
static void redecide(struct sched *s, struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);
    struct sched_worker *d;

    if (s->policy->redecide == NULL || r->mate == NULL || r->mate == r->home)
        return;
    d = s->policy->redecide(s, r);
    if (d == NULL || d == r->mate)
        return;
    if (d->shape->role != SCHED_ROLE_DECODE || !sched_worker_fits(d, &need))
        s->illegal_moves++; /* a bug of the policy: sched_check() names it */
    else
        r->mate = d;
}

bool sched_request_dispatch(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    struct sched_worker *w = r->home, *d;
    struct sched_action *act;
    struct sched_attempt *a;

    if (!sched_timers_reserve(&s->timers) || !sched_actions_reserve(out, 2))
        return false;
    a = attempt_make(s, r);
    if (a == NULL)
        return false;
    sched_queue_dispatched(s, r);
    redecide(s, r);
    d = r->mate;
    (void)sched_prompt_ns(s, r, w, &a->cached);
    a->done = r->cached = a->cached;
    attempt_claim(s, a, w, d);
    if (!r->admitted)
        s->tier_stats[r->tier_asked].admitted++;
    r->admitted = true;
    r->dispatched_ns = s->now;
    r->granted_ns = r->first_ns = r->decoding_ns = 0;
    request_set_state(s, r, SCHED_STATE_PREFILLING);
    sched_request_reserve(s, r, a->given - a->done <= s->cfg.prefill_window_tokens, out);
    act = sched_act(out, SCHED_ACT_PREFILL, r);
    act->worker = w->id;
    act->peer = d == NULL ? 0 : d->id;
    act->order = r->item.key;
    act->terms = request_terms(s, r);
    sched_request_arm(s, r);
    sched_queue_count_placed(s);
    sched_tell(s, r, SCHED_FACT_DISPATCHED);
    return true;
}

/* ---- moves ---- */

void sched_request_progress(struct sched *s, struct sched_request *r)
{
    if (r->current == NULL || r->current->finished)
        return;
    r->state_deadline_ns = state_deadline(s, r, r->state);
    sched_request_arm(s, r);
}

void sched_request_late(struct sched *s, struct sched_request *r)
{
    if (r->late)
        return;
    r->late = true;
    sched_tell(s, r, SCHED_FACT_LATE);
}

void sched_request_granted(struct sched *s, struct sched_request *r)
{
    r->current->granted = true;
    r->granted_ns = s->now;
    r->grant_deadline_ns = SCHED_NEVER;
    if (r->state == SCHED_STATE_HANDOVER)
        r->state_deadline_ns = state_deadline(s, r, r->state);
    sched_request_arm(s, r);
}

static void to_decoding(struct sched *s, struct sched_request *r)
{
    request_set_state(s, r, SCHED_STATE_DECODING);
    r->decoding_ns = s->now;
    if (r->mate != NULL)
        sched_tell(s, r, SCHED_FACT_DECODING);
}

void sched_request_verified(struct sched *s, struct sched_request *r)
{
    r->current->verified = true;
    r->grant_deadline_ns = SCHED_NEVER;
    if (r->state == SCHED_STATE_HANDOVER)
        to_decoding(s, r);
    sched_request_arm(s, r);
}

/* The hand-over of a prompt whose decode worker has not yet given its blocks is not late: the grant
 * is. */
static void to_handover(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    request_set_state(s, r, SCHED_STATE_HANDOVER);
    sched_request_reserve(s, r, true, out);
    if (!a->granted)
        r->state_deadline_ns = SCHED_PLANTED(24) ? SCHED_NEVER : r->grant_deadline_ns;
    if ((a->verified && !SCHED_PLANTED(13)) || SCHED_PLANTED(7))
        to_decoding(s, r);
}

void sched_request_prefilled(struct sched *s, struct sched_request *r, bool finished,
                             struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    sched_ledger_outstanding(s, sched_attempt_prefill(a)->worker, 0, a->given - a->done);
    a->done = a->given;
    sched_queue_done(s, r);
    s->wake = true;
    r->first_ns = s->now;
    if (a->base == 0)
        sched_record_first(s, r);
    sched_tell(s, r, SCHED_FACT_PREFILLED);
    if (a->base == 0 && s->now > r->deadline_ns)
        sched_request_late(s, r);
    if (finished || a->side[SCHED_SIDE_DECODE].worker_id == 0) {
        a->finished = true;
        r->grant_deadline_ns = SCHED_NEVER;
        if (!a->local)
            attempt_tell(s, a, SCHED_SIDE_DECODE, out);
        to_decoding(s, r);
    } else if (a->local) {
        a->verified = true;
        to_decoding(s, r);
    } else {
        to_handover(s, r, out);
    }
    if (a->finished) /* nothing is computed any more: FINISH is all that is missing */
        r->state_deadline_ns = sched_after(s->now, s->cfg.handover_timeout_ns);
    sched_request_arm(s, r);
}

/* The caller has set outcome and reason. */
void sched_request_end(struct sched *s, struct sched_request *r, unsigned cancel,
                       struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    if (r->waits_in == SCHED_WAITS_BOUND)
        sched_queue_take(s, r);
    sched_record_end(s, r);
    sched_tell(s, r, SCHED_FACT_ENDED);
    attempt_retire(s, r, cancel, out);
    request_set_state(s, r, SCHED_REQ_ENDED);
    r->mate = NULL;
    sched_request_arm(s, r);
    if (a != NULL)
        sched_request_settle(s, a);
    else
        request_free_if_over(s, r);
}

static void request_fail(struct sched *s, struct sched_request *r, enum sched_reason reason,
                         struct sched_actions *out)
{
    sched_act(out, SCHED_ACT_FAIL, r)->reason = reason;
    r->reason = reason;
    r->outcome = r->admitted ? SCHED_OUT_FAILED : SCHED_OUT_REFUSED;
    sched_request_end(s, r, SCHED_TELL_BOTH, out);
}

void sched_request_refuse(struct sched *s, struct sched_request *r, const struct sched_offer *why,
                          struct sched_actions *out)
{
    struct sched_action *act = sched_act(out, SCHED_ACT_REJECT, r);

    act->reason = why->reason;
    act->refusal = why->refusal;
    act->terms = request_terms(s, r);
    act->retry_after_ns = sched_queue_jitter(
        s, r->id, why->retry_after_ns != 0 ? why->retry_after_ns : sched_queue_retry_after(s));
    r->reason = why->reason;
    sched_request_lacks(r, &why->refusal);
    r->outcome = SCHED_OUT_REFUSED;
    sched_length_unasked(s->lengths, &r->cast); /* as one that its quota refuses */
    sched_request_end(s, r, SCHED_TELL_NONE, out);
}

static uint64_t backoff(uint32_t fails)
{
    uint64_t wait = SCHED_BACKOFF_MIN;

    while (--fails > 0 && wait < SCHED_BACKOFF_MAX)
        wait *= 2;
    return min_ns(wait, SCHED_BACKOFF_MAX);
}

/* Next attempt, with the pause that was set in wake_ns; or the end. */
static void attempt_replace(struct sched *s, struct sched_request *r, uint32_t points,
                            struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    if (r->delivered >= r->max_new) { /* the front end has every token: its FINISH is on the way */
        sched_record_judge(s, r, NULL);
        sched_request_end(s, r, SCHED_TELL_BOTH, out);
        return;
    }
    r->points = (uint16_t)(r->points + points);
    if (r->points >= 2 * s->cfg.max_attempts && !SCHED_PLANTED(14)) {
        request_fail(s, r, SCHED_REASON_ATTEMPTS, out);
        return;
    }
    sched_tell(s, r, SCHED_FACT_ATTEMPT_OVER);
    attempt_retire(s, r, SCHED_TELL_BOTH, out);
    r->epoch++;
    r->lost = true;
    sched_act(out, SCHED_ACT_RESUME, r);
    s->stats.resumes++;
    if (SCHED_PLANTED(12))
        r->deadline_ns = sched_after(s->now, s->cfg.tiers[r->tier].ttft_ns);
    request_set_state(s, r, SCHED_STATE_QUEUED);
    r->mate = NULL;
    sched_queue_put(s, r, r->wake_ns > s->now ? SCHED_WAITS_BACKOFF : SCHED_WAITS_PLACE);
    sched_request_arm(s, r);
    sched_request_settle(s, a);
}

/* A pause, and other workers if there are any: the cause is likely still there. */
void sched_request_attempt_failed(struct sched *s, struct sched_request *r,
                                  struct sched_actions *out)
{
    r->fails++;
    r->wake_ns = sched_after(s->now, backoff(r->fails));
    for (int i = 0; i < 2; i++)
        r->avoid[i] = r->current->side[i].worker_id;
    attempt_replace(s, r, POINTS_FAILED, out);
}

void sched_request_worker_lost(struct sched *s, struct sched_request *r, bool alone,
                               struct sched_actions *out)
{
    uint32_t points = alone ? POINTS_LOST_ALONE : POINTS_LOST;

    if (r->delivered - r->current->base >= SCHED_FORGIVE_TOKENS)
        points = 0;
    r->wake_ns = s->now;
    attempt_replace(s, r, points, out);
}

/* ---- deadlines ---- */

static void queued_timer(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    if (s->now >= r->state_deadline_ns) {
        request_fail(s, r, SCHED_REASON_QUEUE_TIMEOUT, out);
        return;
    }
    if ((r->waits_in == SCHED_WAITS_BACKOFF && s->now >= r->wake_ns) ||
        (r->waits_in == SCHED_WAITS_HELD && s->now >= r->wake_ns && !SCHED_PLANTED(25))) {
        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_PLACE);
    }
    sched_request_arm(s, r);
}

/* Others go before it and the worker gets on with them. */
static bool is_overtaken(const struct sched *s, const struct sched_request *r)
{
    const struct sched_worker *w = r->home;

    return r->state == SCHED_STATE_PREFILLING && w != NULL && s->now < r->grant_deadline_ns &&
           sched_edf_first(&w->edf) != &r->item &&
           s->now < sched_after(w->since_ns, s->cfg.prefill_timeout_ns);
}

void sched_request_timer(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    if (s->now >= sched_request_give_up(s, r)) {
        request_fail(s, r, SCHED_REASON_REQUEST_TIMEOUT, out);
    } else if (r->state == SCHED_STATE_QUEUED) {
        queued_timer(s, r, out);
    } else if (s->now < r->state_deadline_ns && s->now < r->grant_deadline_ns) {
        sched_request_arm(s, r);
    } else if (is_overtaken(s, r)) {
        r->state_deadline_ns = sched_after(r->home->since_ns, s->cfg.prefill_timeout_ns);
        sched_request_arm(s, r);
    } else {
        sched_request_attempt_failed(s, r, out);
    }
}

void sched_attempt_timer(struct sched *s, struct sched_attempt *a, struct sched_actions *out)
{
    if (!SCHED_PLANTED(19)) {
        attempt_tell(s, a, SCHED_SIDE_PREFILL, out);
        attempt_tell(s, a, SCHED_SIDE_DECODE, out);
    }
    sched_timer_set(&s->timers, &a->timer, sched_after(s->now, s->cfg.release_timeout_ns));
}
