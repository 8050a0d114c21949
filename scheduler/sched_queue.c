/* scheduler/sched_queue.c - who waits, where, and in which order; the measured rate at which they
 * leave.
 *
 * A waiting request is in exactly one place (enum sched_waits_in):
 *
 *   PLACE    the list of those the policy is asked about after the present event
 *   BOUND    the queue of one worker, in order of the key the policy gave, then id
 *   HELD     kept aside by the policy, in order of tier, priority, deadline, arrival, id
 *   BACKOFF  nowhere: its timer wakes it after the pause that follows a failed attempt
 *   WORKER   the list of those that no present worker could hold; a join wakes them all
 *
 * The last two are in no tree, so that they hold up nobody and cost nothing per decision. */
#include <assert.h>

#include "scheduler/sched_core.h"

/* ---- order ---- */

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

static bool held_less(const struct sched_node *a, const struct sched_node *b)
{
    return sched_queue_before(request_of(a), request_of(b));
}

static bool waiting_less(const struct sched_node *na, const struct sched_node *nb)
{
    const struct sched_request *a = request_of(na), *b = request_of(nb);

    if (a->item.key != b->item.key)
        return a->item.key < b->item.key;
    return a->id < b->id;
}

void sched_queue_init(struct sched *s)
{
    s->held.less = held_less;
}

void sched_worker_init_queue(struct sched_worker *w)
{
    w->waiting.less = waiting_less;
    w->edf = (struct sched_edf){.stretch = 1};
}

/* ---- the two lists ---- */

static struct sched_request **first_of(struct sched *s, enum sched_waits_in where)
{
    return where == SCHED_WAITS_PLACE ? &s->place_first : &s->unfit_first;
}

static struct sched_request **last_of(struct sched *s, enum sched_waits_in where)
{
    return where == SCHED_WAITS_PLACE ? &s->place_last : &s->unfit_last;
}

static void list_add(struct sched *s, struct sched_request *r, enum sched_waits_in where)
{
    struct sched_request **last = last_of(s, where);

    r->prev = *last;
    r->next = NULL;
    if (r->prev != NULL)
        r->prev->next = r;
    else
        *first_of(s, where) = r;
    *last = r;
}

static void list_remove(struct sched *s, struct sched_request *r, enum sched_waits_in where)
{
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        *first_of(s, where) = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    else
        *last_of(s, where) = r->prev;
    r->prev = r->next = NULL;
}

void sched_queue_put(struct sched *s, struct sched_request *r, enum sched_waits_in where)
{
    assert(r->waits_in == SCHED_WAITS_NOWHERE && where != SCHED_WAITS_BOUND);
    r->waits_in = where;
    if (where == SCHED_WAITS_HELD)
        sched_tree_insert(&s->held, &r->node);
    else if (where == SCHED_WAITS_PLACE || where == SCHED_WAITS_WORKER)
        list_add(s, r, where);
}

/* ---- the queue of a worker ---- */

static void mate_add(struct sched_request *r)
{
    struct sched_worker *d = r->mate;

    if (d == NULL)
        return;
    r->prev = NULL;
    r->next = d->mates;
    if (d->mates != NULL)
        d->mates->prev = r;
    d->mates = r;
    r->mate_blocks = sched_ledger_expected(d, r);
    d->promised_blocks += r->mate_blocks;
    d->promised++;
    sched_ledger_reindex(d);
}

static void mate_remove(struct sched_request *r)
{
    struct sched_worker *d = r->mate;

    if (d == NULL)
        return;
    d->promised_blocks -= r->mate_blocks;
    d->promised--;
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        d->mates = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    r->prev = r->next = NULL;
    sched_ledger_reindex(d);
}

static void bind_to(struct sched *s, struct sched_request *r, struct sched_worker *w)
{
    if (sched_edf_count(&w->edf) == 0)
        w->since_ns = s->now;
    r->home = w;
    r->waits_in = SCHED_WAITS_BOUND;
    sched_edf_insert(&w->edf, &r->item);
    sched_tree_insert(&w->waiting, &r->node);
    mate_add(r);
    sched_ledger_reindex(w);
    sched_ledger_dirty(s, w);
    sched_tell(s, r, SCHED_FACT_BOUND);
}

static struct sched_cast cast_of(const struct sched_times *t)
{
    return (struct sched_cast){.queue = (float)t->queue,
                               .prefill = (float)t->prefill,
                               .handover = (float)t->handover,
                               .decode_wait = (float)t->decode_wait,
                               .ttft = (float)t->ttft,
                               .step = (float)t->step,
                               .total = (float)t->total};
}

void sched_queue_bind(struct sched *s, struct sched_request *r, const struct sched_offer *offer)
{
    assert(r->waits_in == SCHED_WAITS_NOWHERE && r->home == NULL);
    r->mate = offer->decode;
    r->item.key = offer->key;
    r->item.id = r->id;
    r->item.deadline_ns = offer->late_ns;
    r->item.work = offer->work_ns > 0 ? offer->work_ns : 1;
    r->item.density = r->admitted || r->evicted >= SCHED_EVICTED_MAX ? 0 : offer->density;
    r->forecast = cast_of(&offer->forecast);
    r->high = cast_of(&offer->high);
    sched_record_forecast(s, r, offer);
    r->chosen.prefill = offer->chosen.prefill;
    r->chosen.decode = offer->chosen.decode;
    r->chosen.score = (float)offer->chosen.score;
    r->runner_up.prefill = offer->runner_up.prefill;
    r->runner_up.decode = offer->runner_up.decode;
    r->runner_up.score = (float)offer->runner_up.score;
    bind_to(s, r, offer->prefill);
}

static void unbind(struct sched *s, struct sched_request *r)
{
    struct sched_worker *w = r->home;

    sched_tree_remove(&w->waiting, &r->node);
    sched_edf_remove(&w->edf, &r->item);
    mate_remove(r);
    sched_tell(s, r, SCHED_FACT_UNBOUND);
    r->home = r->mate = NULL;
    sched_ledger_reindex(w);
    sched_ledger_dirty(s, w);
    s->wake = true; /* those behind it may have waited for its time alone */
}

void sched_queue_take(struct sched *s, struct sched_request *r)
{
    enum sched_waits_in where = r->waits_in;

    r->waits_in = SCHED_WAITS_NOWHERE;
    if (where == SCHED_WAITS_BOUND)
        unbind(s, r);
    else if (where == SCHED_WAITS_HELD)
        sched_tree_remove(&s->held, &r->node);
    else if (where == SCHED_WAITS_PLACE || where == SCHED_WAITS_WORKER)
        list_remove(s, r, where);
}

void sched_queue_move(struct sched *s, struct sched_request *r, struct sched_worker *to,
                      double work)
{
    struct sched_worker *d = r->mate;

    sched_queue_take(s, r);
    r->mate = d;
    r->item.work = work;
    bind_to(s, r, to);
}

void sched_queue_dispatched(struct sched *s, struct sched_request *r)
{
    struct sched_worker *w = r->home;

    sched_tree_remove(&w->waiting, &r->node);
    mate_remove(r);
    r->waits_in = SCHED_WAITS_NOWHERE;
    if (w->outstanding == 0 && sched_edf_first(&w->edf) == &r->item)
        w->since_ns = s->now; /* it was idle until now */
    sched_edf_change(&w->edf, &r->item, r->item.deadline_ns, r->item.work, 0);
    sched_ledger_reindex(w);
}

void sched_queue_done(struct sched *s, struct sched_request *r)
{
    struct sched_worker *w = r->home;

    if (w == NULL)
        return;
    sched_edf_remove(&w->edf, &r->item);
    r->home = NULL;
    w->since_ns = s->now;
    sched_ledger_reindex(w);
    if (!SCHED_PLANTED(23))
        sched_ledger_dirty(s, w);
}

void sched_queue_work(struct sched *s, struct sched_request *r, double work)
{
    struct sched_worker *w = r->home;

    if (w == NULL)
        return;
    sched_edf_change(&w->edf, &r->item, r->item.deadline_ns, work > 1 ? work : 1, 0);
    w->since_ns = s->now;
    sched_ledger_reindex(w);
    if (!SCHED_PLANTED(23))
        sched_ledger_dirty(s, w);
}

struct sched_request *sched_queue_first_waiting(const struct sched_worker *w)
{
    struct sched_node *n = sched_tree_first(&w->waiting);

    return n == NULL ? NULL : SCHED_OWNER(n, struct sched_request, node);
}

void sched_queue_evict(struct sched *s, struct sched_request *victim)
{
    if (victim->waits_in != SCHED_WAITS_BOUND)
        return;
    sched_queue_take(s, victim);
    victim->evicted++;
    sched_queue_put(s, victim, SCHED_WAITS_PLACE);
}

/* Whose worker drains or leaves did nothing for it: it is placed again like a new one. */
void sched_queue_unbind_all(struct sched *s, struct sched_worker *w)
{
    struct sched_request *r;

    while ((r = sched_queue_first_waiting(w)) != NULL || (r = w->mates) != NULL) {
        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_PLACE);
    }
}

/* ---- the others ---- */

struct sched_request *sched_queue_first_held(const struct sched *s)
{
    struct sched_node *n = sched_tree_first(&s->held);

    return n == NULL ? NULL : SCHED_OWNER(n, struct sched_request, node);
}

struct sched_request *sched_queue_next_held(const struct sched_request *r)
{
    struct sched_node *n = sched_tree_next(&r->node);

    return n == NULL ? NULL : SCHED_OWNER(n, struct sched_request, node);
}

void sched_queue_reconsider(struct sched *s, struct sched_request *r)
{
    if (r->waits_in == SCHED_WAITS_PLACE || r->waits_in == SCHED_WAITS_BACKOFF)
        return;
    sched_queue_take(s, r);
    sched_queue_put(s, r, SCHED_WAITS_PLACE);
}

void sched_queue_recall_unfit(struct sched *s)
{
    while (s->unfit_first != NULL) {
        struct sched_request *r = s->unfit_first;

        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_PLACE);
    }
}

void sched_queue_recall_held(struct sched *s)
{
    struct sched_request *r;

    while ((r = sched_queue_first_held(s)) != NULL) {
        sched_queue_take(s, r);
        sched_queue_put(s, r, SCHED_WAITS_PLACE);
    }
}

/* ---- how fast the queue drains ---- */

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

/* How long the present queue would take at the rate measured over the last seconds. */
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

/* Up to a quarter more, by request: those refused together do not come back together. */
uint64_t sched_queue_jitter(const struct sched *s, uint64_t request, uint64_t wait_ns)
{
    uint64_t x = request ^ (s->cfg.seed + 0x9e3779b97f4a7c15u);

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return sched_after(wait_ns, wait_ns / 4096 * (x % 1024));
}
