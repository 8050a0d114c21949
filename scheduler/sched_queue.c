/* scheduler/sched_queue.c - the order of waiting requests, and the measured rate at which they leave.
 *
 * Order: tier rank, priority, deadline of the first token, arrival, id.  The first difference decides,
 * so a stricter tier always goes first; what bounds the wait of the others is the queue timeout until
 * admission exists.
 *
 * A request waits in one of three places: the tree; a back-off after a failed attempt, woken by its
 * timer; or the list of those that no present worker could ever hold, woken by a join.  The last two are
 * kept out of the tree so that they hold up nobody and cost nothing per decision. */
#include <assert.h>

#include "scheduler/sched_old.h"

static const struct sched_request *request_of(const struct sched_node *n)
{
    return SCHED_OWNER(n, struct sched_request, node);
}

bool sched_queue_before(const struct sched_request *a, const struct sched_request *b)
{
    if (a->tier != b->tier)
        return a->tier < b->tier;
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    if (a->arrived_ns != b->arrived_ns)
        return a->arrived_ns < b->arrived_ns;
    return a->id < b->id;
}

static bool request_less(const struct sched_node *a, const struct sched_node *b)
{
    return sched_queue_before(request_of(a), request_of(b));
}

void sched_queue_init(struct sched *s)
{
    s->queue.less = request_less;
}

void sched_queue_put(struct sched *s, struct sched_request *r, enum sched_waits_in where)
{
    assert(r->waits_in == SCHED_WAITS_NOWHERE);
    r->waits_in = where;
    if (where == SCHED_WAITS_TREE) {
        sched_tree_insert(&s->queue, &r->node);
    } else if (where == SCHED_WAITS_WORKER) {
        r->prev = s->unfit_last;
        r->next = NULL;
        if (r->prev != NULL)
            r->prev->next = r;
        else
            s->unfit_first = r;
        s->unfit_last = r;
    }
}

void sched_queue_take(struct sched *s, struct sched_request *r)
{
    if (r->waits_in == SCHED_WAITS_TREE) {
        sched_tree_remove(&s->queue, &r->node);
    } else if (r->waits_in == SCHED_WAITS_WORKER) {
        if (r->prev != NULL)
            r->prev->next = r->next;
        else
            s->unfit_first = r->next;
        if (r->next != NULL)
            r->next->prev = r->prev;
        else
            s->unfit_last = r->prev;
        r->prev = r->next = NULL;
    }
    r->waits_in = SCHED_WAITS_NOWHERE;
    if (s->kept_for == r && !SCHED_PLANTED(23)) {
        s->kept_for = NULL;
        s->kept_worker = 0;
        s->wake = true;
    }
}

struct sched_request *sched_queue_first(const struct sched *s)
{
    struct sched_node *n = sched_tree_first(&s->queue);

    return n == NULL ? NULL : SCHED_OWNER(n, struct sched_request, node);
}

struct sched_request *sched_queue_next(const struct sched_request *r)
{
    struct sched_node *n = sched_tree_next(&r->node);

    return n == NULL ? NULL : SCHED_OWNER(n, struct sched_request, node);
}

void sched_queue_reconsider(struct sched *s, struct sched_request *r)
{
    s->wake = true;
    if (r->waits_in != SCHED_WAITS_WORKER)
        return;
    sched_queue_take(s, r);
    sched_queue_put(s, r, SCHED_WAITS_TREE);
}

void sched_queue_recall_unfit(struct sched *s)
{
    while (s->unfit_first != NULL) {
        struct sched_request *r = s->unfit_first;

        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_TREE);
    }
}

/* 4 bits of tier, 8 of priority (clamped), 52 of deadline in microseconds (142 years): coarser than the
 * order here, which is fine for the few requests that a worker has at a time. */
uint64_t sched_queue_order(const struct sched_request *r)
{
    const uint64_t us_max = ((uint64_t)1 << 52) - 1;
    int32_t p = r->priority < -128 ? -128 : r->priority > 127 ? 127 : r->priority;
    uint64_t us = r->deadline_ns / 1000;

    return (uint64_t)r->tier << 60 | (uint64_t)(p + 128) << 52 | (us < us_max ? us : us_max);
}

/* Empty the buckets of the seconds that have passed since the last call. */
static void drain_advance(struct sched *s)
{
    uint64_t second = s->now / SCHED_SECOND, gone = second - s->placed_second;

    if (gone > SCHED_DRAIN_SECONDS)
        gone = SCHED_DRAIN_SECONDS;
    for (uint64_t i = 0; i < gone; i++)
        s->placed[(second - i) % SCHED_DRAIN_SECONDS] = 0;
    s->placed_second = second;
}

void sched_queue_count_placed(struct sched *s)
{
    drain_advance(s);
    s->placed[s->placed_second % SCHED_DRAIN_SECONDS]++;
}

/* How long the present queue would take at the rate measured over the last seconds.  This is what was
 * seen, not what will come: a forecast per request is the predictor's. */
uint64_t sched_queue_retry_after(struct sched *s)
{
    const uint64_t most = 60 * SCHED_SECOND;
    uint64_t placed = 0, wait;

    drain_advance(s);
    for (int i = 0; i < SCHED_DRAIN_SECONDS; i++)
        placed += s->placed[i];
    if (placed == 0)
        return most;
    wait = (uint64_t)s->n_queued * (SCHED_DRAIN_SECONDS * SCHED_SECOND / placed);
    return wait < SCHED_SECOND ? SCHED_SECOND : wait > most ? most : wait;
}
