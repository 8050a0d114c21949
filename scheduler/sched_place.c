/* scheduler/sched_place.c - after each event: ask the policy where requests go, give workers what
 * is first in their queues, let idle ones take over, ask held ones again.
 *
 * What a worker has been given and has not computed is bounded by the prefill window, so that what
 * comes later and is more urgent overtakes here, not behind a long line in the worker.  An idle
 * worker takes any one request. Where the policy preempts, only what goes before a request counts:
 * the worker computes the smallest key first and changes over between chunks.
 *
 * No blocks on the prefill worker for the first in its queue: nobody passes it, so a long prompt is
 * not starved by short ones. */
#include "scheduler/sched_core.h"

enum { PLACE_MAX = 512 }; /* placements after one event; the rest a moment later */

/* ---- the policy's answer ---- */

/* A policy that offers what is not there is a bug of ours: sched_check() names it, and nothing
 * breaks. */
static bool offer_holds(const struct sched *s, const struct sched_offer *o,
                        const struct sched_need *need)
{
    const struct sched_worker *p = o->prefill, *d = o->decode;

    if (p == NULL || p->draining || (d != NULL && d->draining) || o->tier >= s->cfg.n_tiers)
        return false;
    if (p->shape->role == SCHED_ROLE_DECODE)
        return d == p && sched_worker_local(s, p, need);
    return sched_worker_fits(p, need) &&
           (need->decode
                ? d != NULL && d->shape->role == SCHED_ROLE_DECODE && sched_worker_fits(d, need)
                : d == NULL);
}

static void hold(struct sched *s, struct sched_request *r, const struct sched_offer *o)
{
    uint64_t soon = sched_after(s->now, SCHED_MS);

    r->wake_ns = o->hold_until_ns > soon ? o->hold_until_ns : soon;
    sched_request_lacks(r, &o->refusal);
    if (r->waits_in != SCHED_WAITS_HELD) {
        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_HELD);
    }
    sched_request_arm(s, r);
}

/* Its prefill workers, or its decode workers, are all gone for the moment: what was predicted from
 * those that are left says nothing about the time when they are back. */
static bool role_is_away(const struct sched *s, const struct sched_need *need)
{
    return (s->pool[SCHED_ROLE_PREFILL].n == 0 && s->had[SCHED_ROLE_PREFILL]) ||
           (need->decode && s->pool[SCHED_ROLE_DECODE].n == 0 && s->had[SCHED_ROLE_DECODE]);
}

/* true: the policy keeps it aside.  r may be gone afterwards. */
static bool place_one(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    struct sched_need need = sched_request_need(r);
    struct sched_offer o = {.verdict = SCHED_HOLD,
                            .tier = r->tier,
                            .late_ns = SCHED_NEVER,
                            .hold_until_ns = sched_after(s->now, SCHED_SECOND)};

    if (!sched_ledger_ready(s, &need)) {
        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_WORKER);
        sched_request_arm(s, r);
        return false;
    }
    s->placing->place(s, r, &o);
    if (o.verdict == SCHED_BIND && !offer_holds(s, &o, &need)) {
        s->illegal_moves++;
        o.verdict = SCHED_HOLD;
    }
    if (o.verdict == SCHED_REFUSE && r->admitted)
        o.verdict = SCHED_HOLD; /* it was promised to be served */
    if (o.verdict == SCHED_REFUSE && s->now < r->deadline_ns && role_is_away(s, &need)) {
        o.verdict = SCHED_HOLD;
        o.hold_until_ns = r->deadline_ns;
    }
    if (o.verdict == SCHED_HOLD) {
        hold(s, r, &o);
        return true;
    }
    sched_queue_take(s, r);
    if (o.verdict == SCHED_REFUSE) {
        sched_request_refuse(s, r, &o, out);
        return false;
    }
    if (o.tier != r->tier)
        sched_request_retier(s, r, o.tier, out);
    sched_queue_bind(s, r, &o);
    sched_request_arm(s, r);
    return false;
}

/* ---- dispatch ---- */

static uint64_t outstanding_of(const struct sched_request *r)
{
    return r->current == NULL ? 0 : r->current->given - r->current->done;
}

static bool window_open(const struct sched *s, const struct sched_worker *w,
                        const struct sched_request *r)
{
    uint64_t tokens = (uint64_t)r->n_prompt + r->delivered, ahead = 0;

    if (!s->policy->preempts)
        return w->outstanding == 0 || w->outstanding + tokens <= s->cfg.prefill_window_tokens;
    /* r is the first that waits: all that go before it have been dispatched */
    for (const struct sched_edf_item *i = sched_edf_first(&w->edf); i != NULL && i != &r->item;
         i = sched_edf_next(i)) {
        ahead += outstanding_of(SCHED_OWNER(i, struct sched_request, item));
        if (ahead + tokens > s->cfg.prefill_window_tokens)
            return ahead == 0;
    }
    return true;
}

bool sched_place_may_dispatch(const struct sched *s, const struct sched_worker *w,
                              const struct sched_request *r)
{
    return sched_ledger_room(w, (uint64_t)r->n_prompt + r->delivered) && window_open(s, w, r);
}

/* The most loaded worker of a shape that has something waiting. */
static struct sched_worker *busiest(const struct sched_shape *h)
{
    struct sched_node *at = sched_tree_last(&h->index);

    for (int i = 0; i < SCHED_PER_SHAPE && at != NULL; i++, at = sched_tree_prev(at)) {
        struct sched_worker *w = SCHED_OWNER(at, struct sched_worker, node);

        if (w->waiting.count > 0)
            return w;
    }
    return NULL;
}

/* When the first waiting one of w would be done there. */
static double done_there(const struct sched *s, const struct sched_worker *w,
                         const struct sched_request *r)
{
    return sched_worker_start(s, w) + sched_edf_before(&w->edf, r->item.key, r->id) + r->item.work;
}

/* w is idle: does somebody wait elsewhere who would be done sooner here? */
static void take_over(struct sched *s, struct sched_worker *w)
{
    struct sched_request *best = NULL;
    double gain = 0, best_work = 0;

    for (const struct sched_shape *h = s->shapes; h != NULL; h = h->next) {
        struct sched_worker *from = h->role == SCHED_ROLE_PREFILL ? busiest(h) : NULL;
        struct sched_request *r = from == NULL ? NULL : sched_queue_first_waiting(from);
        struct sched_need need;
        double work, g;

        if (r == NULL || r->avoid[0] == w->id)
            continue;
        need = sched_request_need(r);
        if (!sched_worker_fits(w, &need) || !sched_ledger_room(w, need.prefill_tokens))
            continue;
        work = sched_work_ns(s, r, w, NULL);
        g = done_there(s, from, r) - ((double)s->now + work);
        if (g > gain) {
            best = r;
            gain = g;
            best_work = work;
        }
    }
    if (best != NULL)
        sched_queue_move(s, best, w, best_work);
}

/* false: out of memory. */
static bool feed(struct sched *s, struct sched_worker *w, struct sched_actions *out)
{
    struct sched_request *r;

    if (w->draining)
        return true;
    if (s->policy->steals && w->shape->role == SCHED_ROLE_PREFILL && sched_edf_count(&w->edf) == 0)
        take_over(s, w);
    while ((r = sched_queue_first_waiting(w)) != NULL && sched_place_may_dispatch(s, w, r)) {
        if (!sched_request_dispatch(s, r, out))
            return false;
    }
    return true;
}

/* ---- held requests ---- */

/* The first in order until some of them have said no; then one more, in turn, so that nobody waits
 * behind others that cannot be served. */
static bool ask_held(struct sched *s, struct sched_actions *out)
{
    struct sched_request *r = sched_queue_first_held(s), *next;
    uint32_t no = 0;

    for (; r != NULL && no < SCHED_ASK_MAX; r = next) {
        next = sched_queue_next_held(r);
        if (!sched_actions_reserve(out, SCHED_ACTIONS_PER_PLACE))
            return false;
        no += place_one(s, r, out);
    }
    if (r == NULL)
        return true;
    next = map_get(&s->requests, s->held_cursor);
    if (next != NULL && next->waits_in == SCHED_WAITS_HELD && sched_queue_next_held(next) != NULL &&
        sched_queue_before(r, next))
        r = sched_queue_next_held(next);
    if (!sched_actions_reserve(out, SCHED_ACTIONS_PER_PLACE))
        return false;
    s->held_cursor = r->id;
    place_one(s, r, out);
    return true;
}

/* ---- after an event ---- */

/* One step; false: nothing is left to do, or no memory for it. */
static bool place_some(struct sched *s, struct sched_actions *out)
{
    struct sched_worker *w = s->dirty;
    bool ok = true;

    if (s->place_first != NULL) {
        ok = sched_actions_reserve(out, SCHED_ACTIONS_PER_PLACE);
        if (ok)
            place_one(s, s->place_first, out);
    } else if (w != NULL) {
        s->dirty = w->next_dirty;
        w->dirty = false;
        ok = feed(s, w, out);
        if (!ok)
            sched_ledger_dirty(s, w);
    } else if (s->wake) {
        s->wake = false;
        ok = ask_held(s, out);
        s->wake |= !ok;
    } else {
        return false;
    }
    s->place_pending = !ok;
    return ok;
}

void sched_place_all(struct sched *s, struct sched_actions *out)
{
    s->place_pending = false;
    for (int n = 0; place_some(s, out); n++) {
        if (n >= PLACE_MAX) {
            s->place_pending = true;
            return;
        }
    }
}
