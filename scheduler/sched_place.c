/* scheduler/sched_place.c - where the next request goes.
 *
 * place() is the seam: a pure function from what a request needs and how candidates are loaded to one
 * (prefill worker, decode worker) pair.  Today it compares load; a predictor replaces pair_less() with
 * predicted finish against the deadlines and changes nothing around it.
 *
 * Who goes first when not all can go:
 *   no prefill worker has room: nobody passes the first in order, so a long prompt is not starved by
 *     short ones; the wait is one window of prefill work.
 *   no decode worker has room for the first: requests behind it may be placed where they fit.  When
 *     SCHED_BYPASS_MAX of them have taken decode room before it, the worker with most room is kept for
 *     it: nobody behind it gets a place there until it has one, there or elsewhere.  Requests that
 *     need no decode worker pass freely.
 *   no worker here could ever hold it: it waits apart for one that can, until its queue timeout. */
#include "scheduler/sched_old.h"

/* Is (pa, da) a better pair than (pb, db)?  Both sides were checked for room. */
static bool pair_less(const struct sched_candidate *pa, const struct sched_candidate *da,
                      const struct sched_candidate *pb, const struct sched_candidate *db)
{
    int avoid_a = pa->avoid + da->avoid, avoid_b = pb->avoid + db->avoid;

    if (avoid_a != avoid_b)
        return avoid_a < avoid_b;
    if (pa->outstanding != pb->outstanding)
        return pa->outstanding < pb->outstanding;
    if (da->free_tokens != db->free_tokens)
        return da->free_tokens > db->free_tokens;
    if (pa->free_tokens != pb->free_tokens)
        return pa->free_tokens > pb->free_tokens;
    if (da->requests != db->requests)
        return da->requests < db->requests;
    if (pa->worker != pb->worker)
        return pa->worker < pb->worker;
    return da->worker < db->worker;
}

/* n_p and n_d >= 1; where no decode worker is needed, d is one empty candidate. */
static struct sched_pair place(const struct sched_candidate *p, uint32_t n_p,
                               const struct sched_candidate *d, uint32_t n_d)
{
    uint32_t best_p = 0, best_d = 0;

    for (uint32_t i = 0; i < n_p; i++) {
        for (uint32_t j = 0; j < n_d; j++) {
            if (pair_less(&p[i], &d[j], &p[best_p], &d[best_d])) {
                best_p = i;
                best_d = j;
            }
        }
    }
    return (struct sched_pair){p[best_p].worker, d[best_d].worker};
}

enum sched_place_result sched_place_find(const struct sched *s, const struct sched_request *r,
                                         struct sched_pair *out)
{
    struct sched_candidate p[SCHED_CANDIDATES], d[SCHED_CANDIDATES];
    struct sched_need need = sched_request_need(r);
    uint32_t n_p, n_d = 1;

    if (!sched_ledger_could_fit(s, &need))
        return SCHED_PLACE_UNFIT;
    if (s->kept_for != NULL && sched_queue_before(s->kept_for, r))
        need.closed = s->kept_worker;
    n_p = sched_ledger_candidates(s, SCHED_ROLE_PREFILL, &need, p);
    if (n_p == 0)
        return SCHED_PLACE_NO_PREFILL;
    if (need.decode)
        n_d = sched_ledger_candidates(s, SCHED_ROLE_DECODE, &need, d);
    else
        d[0] = (struct sched_candidate){0};
    if (n_d == 0)
        return SCHED_PLACE_NO_DECODE;
    *out = place(p, n_p, d, n_d);
    return SCHED_PLACE_OK;
}

/* The first in order that was passed too often has the claim to a worker of its own. */
static void keep_worker(struct sched *s, struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);

    if (s->kept_for == r || r->bypassed < SCHED_BYPASS_MAX)
        return;
    s->kept_worker = sched_ledger_roomiest(s, &need);
    s->kept_for = s->kept_worker == 0 ? NULL : r;
}

/* false: stop here. */
static bool place_one(struct sched *s, struct sched_request *r, struct sched_request **blocked,
                      struct sched_actions *out)
{
    bool decode = sched_request_need(r).decode;
    struct sched_pair pair;

    if (*blocked != NULL && decode && (*blocked)->bypassed >= SCHED_BYPASS_MAX &&
        s->kept_for != *blocked)
        return true; /* every decode worker is full: what comes free first is the first's */
    switch (sched_place_find(s, r, &pair)) {
    case SCHED_PLACE_OK:
        if (!sched_request_start(s, r, pair, out)) {
            s->place_pending = true;
            return false;
        }
        if (*blocked != NULL && decode)
            (*blocked)->bypassed++;
        return true;
    case SCHED_PLACE_NO_PREFILL:
        return false;
    case SCHED_PLACE_NO_DECODE:
        if (*blocked == NULL) {
            *blocked = r;
            keep_worker(s, r);
        }
        return true;
    case SCHED_PLACE_UNFIT:
        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_WORKER);
        return true;
    }
    return true;
}

void sched_place_queue(struct sched *s, struct sched_actions *out)
{
    struct sched_request *r = sched_queue_first(s), *next, *blocked = NULL;
    uint32_t behind = 0;

    s->wake = false;
    s->place_pending = false;
    if (s->open_workers[SCHED_ROLE_PREFILL] == 0)
        return;
    for (; r != NULL && behind < SCHED_SCAN_MAX; r = next) {
        next = sched_queue_next(r);
        if (!place_one(s, r, &blocked, out))
            return;
        if (blocked != NULL)
            behind++;
    }
}
