/* scheduler/sched_request.c - the life of a request: states, attempts, deadlines.
 *
 * request_set_state() alone writes the state, so the table below is the whole truth about which moves
 * are legal, and what each state waits for is armed with the move.
 *
 *   state       waits for                                deadline, else
 *   QUEUED      a place; after a failure first a pause   queue timeout: FAIL
 *   PREFILLING  progress, the first token, the grant     prefill or grant timeout: next attempt
 *   HANDOVER    the decode worker's word; the grant      hand-over or grant timeout: next attempt
 *   DECODING    tokens, FINISH                           decode timeout: next attempt
 *   (attempt)   RELEASED of both sides                   release timeout: CANCEL again
 *
 * and every live request has the request timeout.
 *
 * How many attempts: a failed attempt costs 2 points, and a request with 2 * max_attempts is given up.
 * An attempt that ended because a worker went away costs 1: most requests on a crashed worker are
 * innocent.  It costs 2 when the request was alone on that worker, since then nobody else can be to
 * blame; so a request that kills what it touches is stopped after max_attempts workers at the latest when
 * the pool is idle and twice that when it is busy.  It costs nothing when the attempt had delivered
 * SCHED_FORGIVE_TOKENS tokens: long streams outlive any number of restarts. */
#include "base/mem.h"
#include "scheduler/sched_old.h"

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
                               .decode = r->max_new - r->delivered > 1,
                               .avoid = {r->avoid[0], r->avoid[1]}};
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
    uint64_t at = min_ns(r->give_up_ns, r->state_deadline_ns);

    if (r->state == SCHED_REQ_ENDED || (SCHED_PLANTED(4) && r->state == SCHED_STATE_HANDOVER))
        at = SCHED_NEVER;
    else if (r->state == SCHED_STATE_QUEUED && r->waits_in == SCHED_WAITS_BACKOFF)
        at = min_ns(at, r->not_before_ns);
    else if (r->state != SCHED_STATE_QUEUED)
        at = min_ns(at, r->grant_deadline_ns);
    sched_timer_set(&s->timers, &r->timer, at);
}

static uint64_t state_wait(const struct sched *s, int state)
{
    switch (state) {
    case SCHED_STATE_QUEUED:
        return s->cfg.queue_timeout_ns;
    case SCHED_STATE_PREFILLING:
        return s->cfg.prefill_timeout_ns;
    case SCHED_STATE_HANDOVER:
        return s->cfg.handover_timeout_ns;
    case SCHED_STATE_DECODING:
        return s->cfg.decode_timeout_ns;
    default:
        return SCHED_NEVER;
    }
}

/* The one place that moves a request, with the counts and the deadline that go with the state. */
static void request_set_state(struct sched *s, struct sched_request *r, int next)
{
    if (!may_move[r->state][next])
        s->illegal_moves++; /* a bug here, not in the outside: sched_check() names it */
    if (r->state == SCHED_STATE_QUEUED) {
        sched_queue_take(s, r);
        s->stats.queued[r->tier]--;
        s->stats.queued_tokens -= r->n_prompt;
        s->n_queued--;
        s->wake |= next == SCHED_REQ_ENDED; /* those behind it may have waited for it alone */
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
    r->state = next;
    r->state_deadline_ns = sched_after(s->now, state_wait(s, next));
}

void sched_request_arrive(struct sched *s, struct sched_request *r)
{
    s->stats.requests++;
    request_set_state(s, r, SCHED_STATE_QUEUED);
    sched_queue_put(s, r, SCHED_WAITS_TREE);
    sched_request_arm(s, r);
    s->wake = true;
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
    prefill = &a->side[SCHED_SIDE_PREFILL];
    if (prefill->worker != NULL)
        sched_ledger_outstanding(prefill->worker, 0, a->given - a->done);
    a->done = a->given;
    if (tell & SCHED_TELL_PREFILL)
        attempt_tell(s, a, SCHED_SIDE_PREFILL, out);
    if (tell & SCHED_TELL_DECODE && !SCHED_PLANTED(9))
        attempt_tell(s, a, SCHED_SIDE_DECODE, out);
    a->current = false;
    r->current = NULL;
    r->grant_deadline_ns = SCHED_NEVER;
    sched_timer_set(&s->timers, &a->timer, sched_after(s->now, s->cfg.release_timeout_ns));
    s->wake = true; /* the window of the prefill worker */
}

bool sched_request_start(struct sched *s, struct sched_request *r, struct sched_pair pair,
                         struct sched_actions *out)
{
    struct sched_need need = sched_request_need(r);
    struct sched_action *act;
    struct sched_attempt *a;

    if (!sched_timers_reserve(&s->timers) || !sched_actions_reserve(out, 2))
        return false;
    a = mem_try_calloc(1, sizeof(*a));
    if (a == NULL)
        return false;
    s->timers.owners++;
    s->attempts++;
    a->request = r;
    a->epoch = r->epoch;
    a->base = r->delivered;
    a->given = need.prefill_tokens;
    a->current = true;
    a->side[0].attempt = a->side[1].attempt = a;
    sched_timer_init(&a->timer, SCHED_TIMER_RELEASE);
    a->next = r->attempts;
    r->attempts = r->current = a;
    r->bypassed = 0;

    sched_ledger_claim(s, &a->side[SCHED_SIDE_PREFILL], sched_ledger_worker(s, pair.prefill),
                       need.prefill_tokens);
    sched_ledger_outstanding(a->side[SCHED_SIDE_PREFILL].worker, a->given, 0);
    if (pair.decode != 0) {
        sched_ledger_claim(s, &a->side[SCHED_SIDE_DECODE], sched_ledger_worker(s, pair.decode),
                           need.total_tokens);
        r->grant_deadline_ns = sched_after(s->now, s->cfg.grant_timeout_ns);
        act = sched_act(out, SCHED_ACT_RESERVE, r);
        act->worker = pair.decode;
        act->peer = pair.prefill;
    }
    act = sched_act(out, SCHED_ACT_PREFILL, r);
    act->worker = pair.prefill;
    act->peer = pair.decode;
    act->order = sched_queue_order(r);
    request_set_state(s, r, SCHED_STATE_PREFILLING);
    sched_request_arm(s, r);
    sched_queue_count_placed(s);
    return true;
}

/* ---- moves ---- */

void sched_request_progress(struct sched *s, struct sched_request *r)
{
    if (r->current == NULL || r->current->finished)
        return;
    r->state_deadline_ns = sched_after(s->now, state_wait(s, r->state));
    sched_request_arm(s, r);
}

void sched_request_verified(struct sched *s, struct sched_request *r)
{
    r->current->verified = true;
    r->grant_deadline_ns = SCHED_NEVER;
    if (r->state == SCHED_STATE_HANDOVER)
        request_set_state(s, r, SCHED_STATE_DECODING);
    sched_request_arm(s, r);
}

void sched_request_prefilled(struct sched *s, struct sched_request *r, bool finished,
                             struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    sched_ledger_outstanding(a->side[SCHED_SIDE_PREFILL].worker, 0, a->given - a->done);
    a->done = a->given;
    s->wake = true;
    if (finished || a->side[SCHED_SIDE_DECODE].worker_id == 0) {
        a->finished = true;
        r->grant_deadline_ns = SCHED_NEVER;
        attempt_tell(s, a, SCHED_SIDE_DECODE, out);
        request_set_state(s, r, SCHED_STATE_DECODING);
    } else {
        request_set_state(s, r, SCHED_STATE_HANDOVER);
        if ((a->verified && !SCHED_PLANTED(13)) || SCHED_PLANTED(7))
            request_set_state(s, r, SCHED_STATE_DECODING);
    }
    if (a->finished) /* nothing is computed any more: FINISH is all that is missing */
        r->state_deadline_ns = sched_after(s->now, s->cfg.handover_timeout_ns);
    sched_request_arm(s, r);
}

void sched_request_end(struct sched *s, struct sched_request *r, unsigned cancel,
                       struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    attempt_retire(s, r, cancel, out);
    request_set_state(s, r, SCHED_REQ_ENDED);
    sched_request_arm(s, r);
    if (a != NULL)
        sched_request_settle(s, a);
    else
        request_free_if_over(s, r);
}

void sched_request_fail(struct sched *s, struct sched_request *r, enum sched_reason reason,
                        struct sched_actions *out)
{
    sched_act(out, SCHED_ACT_FAIL, r)->reason = reason;
    sched_request_end(s, r, SCHED_TELL_BOTH, out);
}

static uint64_t backoff(uint32_t fails)
{
    uint64_t wait = SCHED_BACKOFF_MIN;

    while (--fails > 0 && wait < SCHED_BACKOFF_MAX)
        wait *= 2;
    return min_ns(wait, SCHED_BACKOFF_MAX);
}

/* Next attempt, with the pause that was set in not_before_ns; or the end. */
static void attempt_replace(struct sched *s, struct sched_request *r, uint32_t points,
                            struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    if (r->delivered >= r->max_new) { /* the front end has every token: its FINISH is on the way */
        sched_request_end(s, r, SCHED_TELL_BOTH, out);
        return;
    }
    r->points += points;
    if (r->points >= 2 * s->cfg.max_attempts && !SCHED_PLANTED(14)) {
        sched_request_fail(s, r, SCHED_REASON_ATTEMPTS, out);
        return;
    }
    attempt_retire(s, r, SCHED_TELL_BOTH, out);
    r->epoch++;
    sched_act(out, SCHED_ACT_RESUME, r);
    s->stats.resumes++;
    if (SCHED_PLANTED(12))
        r->deadline_ns = sched_after(s->now, s->cfg.tiers[r->tier].ttft_ns);
    request_set_state(s, r, SCHED_STATE_QUEUED);
    sched_queue_put(s, r, r->not_before_ns > s->now ? SCHED_WAITS_BACKOFF : SCHED_WAITS_TREE);
    sched_request_arm(s, r);
    sched_request_settle(s, a);
}

/* A pause, and other workers if there are any: the cause is likely still there. */
void sched_request_attempt_failed(struct sched *s, struct sched_request *r,
                                  struct sched_actions *out)
{
    r->fails++;
    r->not_before_ns = sched_after(s->now, backoff(r->fails));
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
    r->not_before_ns = s->now;
    attempt_replace(s, r, points, out);
}

/* ---- deadlines ---- */

void sched_request_timer(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    uint64_t now = s->now;

    if (now >= r->give_up_ns) {
        sched_request_fail(s, r, SCHED_REASON_REQUEST_TIMEOUT, out);
    } else if (r->state == SCHED_STATE_QUEUED) {
        if (now >= r->state_deadline_ns) {
            sched_request_fail(s, r, SCHED_REASON_QUEUE_TIMEOUT, out);
            return;
        }
        if (r->waits_in == SCHED_WAITS_BACKOFF && now >= r->not_before_ns) {
            sched_queue_take(s, r);
            sched_queue_put(s, r, SCHED_WAITS_TREE);
            s->wake = true;
        }
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
