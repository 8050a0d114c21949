/* scheduler/sched_check.c - walk everything and hold it against everything else.
 *
 * Sums are recomputed from the objects they sum up; each link is followed from both ends.  Not on
 * any hot path: the cost is linear in all there is. */
#include <inttypes.h>

#include "scheduler/sched_core.h"

#define FAIL(msg, ...) return err_set(msg, ERR_BAD_STATE, __VA_ARGS__)

struct sums {
    struct sched_stats stats;
    uint32_t waits[SCHED_WAITS_WORKER + 1], in_edf, mates, attempts, owners, sides, armed;
};

static bool timer_armed(const struct sched *s, const struct sched_timer *t)
{
    return t->at != SCHED_NEVER && t->pos < s->timers.n && s->timers.v[t->pos].timer == t;
}

static enum err check_attempt(const struct sched *s, const struct sched_request *r,
                              const struct sched_attempt *a, struct sums *sum, struct err_msg *msg)
{
    bool holds = false;

    sum->attempts++;
    sum->owners++;
    if (a->request != r || a->current != (a == r->current) || a->done > a->given)
        FAIL(msg, "request %" PRIu64 " epoch %u: attempt is linked wrongly", r->id, a->epoch);
    if (a->epoch > r->epoch || (a->current && a->epoch != r->epoch))
        FAIL(msg, "request %" PRIu64 ": attempt %u of epoch %u", r->id, a->epoch, r->epoch);
    for (int i = 0; i < 2; i++) {
        const struct sched_side *side = &a->side[i];

        if (side->claimed && (side->worker == NULL || side->worker->id != side->worker_id))
            FAIL(msg, "request %" PRIu64 ": claim on no worker", r->id);
        if (side->listed != (side->worker != NULL && (side->claimed || a->current)))
            FAIL(msg, "request %" PRIu64 ": side %d listed %d", r->id, i, side->listed);
        if (side->listed && sched_ledger_worker(s, side->worker_id) != side->worker)
            FAIL(msg, "request %" PRIu64 ": worker %u is gone", r->id, side->worker_id);
        if (side->claimed && !side->told && !a->current)
            FAIL(msg, "request %" PRIu64 ": worker %u keeps a claim it never heard of", r->id,
                 side->worker_id);
        holds |= side->claimed;
        sum->stats.claims += side->claimed;
        sum->sides += side->listed;
    }
    if (!a->current && !holds)
        FAIL(msg, "request %" PRIu64 ": attempt %u holds nothing", r->id, a->epoch);
    if (!a->current && !timer_armed(s, &a->timer))
        FAIL(msg, "request %" PRIu64 ": nobody watches for RELEASED of %u", r->id, a->epoch);
    sum->armed += a->timer.at != SCHED_NEVER;
    return ERR_OK;
}

static enum err check_bound(const struct sched *s, const struct sched_request *r,
                            struct err_msg *msg)
{
    struct sched_need need = sched_request_need(r);
    const struct sched_worker *w = r->home, *d = r->mate;

    if (w == NULL || w->draining || !r->node.linked || r->item.count == 0)
        FAIL(msg, "request %" PRIu64 " is bound to a worker that is closed", r->id);
    if (sched_ledger_worker(s, w->id) != w || (d != NULL && sched_ledger_worker(s, d->id) != d))
        FAIL(msg, "request %" PRIu64 " is bound to a worker that is gone", r->id);
    if ((d == NULL && need.decode) || (d != NULL && d->draining))
        FAIL(msg, "request %" PRIu64 " is promised a decode worker that is closed", r->id);
    return ERR_OK;
}

static enum err check_waiting(const struct sched *s, const struct sched_request *r,
                              struct sums *sum, struct err_msg *msg)
{
    bool queued = r->state == SCHED_STATE_QUEUED, bound = r->waits_in == SCHED_WAITS_BOUND;
    bool in_edf = r->item.count > 0;

    if (queued != (r->waits_in != SCHED_WAITS_NOWHERE) ||
        r->node.linked != (bound || r->waits_in == SCHED_WAITS_HELD))
        FAIL(msg, "request %" PRIu64 " in state %d waits in %d", r->id, r->state, r->waits_in);
    if (in_edf != (r->home != NULL) || (in_edf && !bound && r->state != SCHED_STATE_PREFILLING) ||
        (!in_edf && (bound || (r->state == SCHED_STATE_PREFILLING && !r->current->finished))))
        FAIL(msg, "request %" PRIu64 " in state %d: in a worker's queue %d", r->id, r->state,
             in_edf);
    sum->waits[r->waits_in]++;
    sum->in_edf += in_edf;
    sum->mates += bound && r->mate != NULL;
    if (queued) {
        sum->stats.queued[r->tier]++;
        sum->stats.queued_tokens += r->n_prompt;
    }
    return bound ? check_bound(s, r, msg) : ERR_OK;
}

static enum err check_live(const struct sched *s, const struct sched_request *r, struct sums *sum,
                           struct err_msg *msg)
{
    bool queued = r->state == SCHED_STATE_QUEUED;
    uint64_t at = r->timer.at;

    sum->stats.requests++;
    sum->stats.running[r->tier] += !queued;
    if (queued != (r->current == NULL))
        FAIL(msg, "request %" PRIu64 ": state %d and attempt do not match", r->id, r->state);
    if (!timer_armed(s, &r->timer) || at > r->state_deadline_ns || at > sched_request_give_up(s, r))
        FAIL(msg, "request %" PRIu64 " waits in %s without a timer", r->id,
             sched_state_name((enum sched_state)r->state));
    if (r->waits_in == SCHED_WAITS_BACKOFF && at > r->wake_ns)
        FAIL(msg, "request %" PRIu64 ": nobody ends its back-off", r->id);
    if (r->waits_in == SCHED_WAITS_HELD && at > r->wake_ns)
        FAIL(msg, "request %" PRIu64 ": nobody asks for it again", r->id);
    if (!queued && r->state_deadline_ns == SCHED_NEVER)
        FAIL(msg, "request %" PRIu64 " may stay in %s for ever", r->id,
             sched_state_name((enum sched_state)r->state));
    if (!queued && at > r->grant_deadline_ns)
        FAIL(msg, "request %" PRIu64 ": nobody watches for its grant", r->id);
    if (r->state == SCHED_STATE_DECODING && !r->current->verified && !r->current->finished)
        FAIL(msg, "request %" PRIu64 " decodes from unverified blocks", r->id);
    if (r->state == SCHED_STATE_HANDOVER && r->current->verified)
        FAIL(msg, "request %" PRIu64 " waits for a hand-over that is done", r->id);
    if (!queued && !r->current->finished) {
        const struct sched_side *side = r->current->side;
        bool prefill = r->state == SCHED_STATE_PREFILLING;

        if ((prefill && sched_attempt_prefill(r->current)->worker == NULL) ||
            (side[1].worker_id != 0 && side[1].worker == NULL))
            FAIL(msg, "request %" PRIu64 " waits for a worker that left", r->id);
    }
    return ERR_OK;
}

static enum err check_requests(const struct sched *s, struct sums *sum, struct err_msg *msg)
{
    const struct sched_request *r;
    enum err err = ERR_OK;
    size_t at = 0;

    while (err == ERR_OK && (r = map_next(&s->requests, &at)) != NULL) {
        sum->owners++;
        sum->armed += r->timer.at != SCHED_NEVER;
        for (const struct sched_attempt *a = r->attempts; a != NULL && err == ERR_OK; a = a->next)
            err = check_attempt(s, r, a, sum, msg);
        if (err == ERR_OK)
            err = check_waiting(s, r, sum, msg);
        if (err == ERR_OK && r->state != SCHED_REQ_ENDED)
            err = check_live(s, r, sum, msg);
        if (err == ERR_OK && r->state == SCHED_REQ_ENDED &&
            (r->attempts == NULL || r->current != NULL || r->timer.at != SCHED_NEVER))
            FAIL(msg, "request %" PRIu64 " ended but is not released", r->id);
    }
    return err;
}

static enum err check_sides(const struct sched_worker *w, struct err_msg *msg)
{
    uint64_t blocks = 0, outstanding = 0;
    uint32_t claims = 0, sides = 0, decoding = 0;

    for (const struct sched_side *side = w->first; side != NULL; side = side->next) {
        struct sched_attempt *a = side->attempt;

        sides++;
        claims += side->claimed;
        blocks += side->claimed ? side->blocks : 0;
        if (a->current && side == sched_attempt_prefill(a))
            outstanding += a->given - a->done;
        decoding +=
            a->current && a->request->state == SCHED_STATE_DECODING && a->request->mate == w;
        if (side->worker != w || !side->listed)
            FAIL(msg, "worker %u lists a side that is not its own", w->id);
    }
    if (sides != w->n_sides || claims != w->claims || blocks != w->claimed_blocks)
        FAIL(msg, "worker %u: %u claims, %" PRIu64 " blocks; counted %u, %u", w->id, claims, blocks,
             w->claims, w->claimed_blocks);
    if (outstanding != w->outstanding)
        FAIL(msg, "worker %u: %" PRIu64 " tokens outstanding, counted %" PRIu64, w->id, outstanding,
             w->outstanding);
    if (decoding != w->decoding)
        FAIL(msg, "worker %u: %u decode, counted %u", w->id, decoding, w->decoding);
    if (w->shape->role == SCHED_ROLE_PREFILL && w->claimed_blocks > w->shape->n_blocks)
        FAIL(msg, "worker %u has promised more than it has", w->id);
    return ERR_OK;
}

static enum err check_queue(const struct sched *s, const struct sched_worker *w, struct sums *sum,
                            struct err_msg *msg)
{
    const struct sched_request *r = sched_queue_first_waiting(w);
    uint32_t in_edf = 0, mates = 0, blocks = 0;

    if (!sched_edf_valid(&w->edf) || !sched_tree_valid(&w->waiting))
        FAIL(msg, "worker %u: its queue is out of order", w->id);
    for (const struct sched_edf_item *i = sched_edf_first(&w->edf); i != NULL;
         i = sched_edf_next(i), in_edf++) {
        if (SCHED_OWNER(i, struct sched_request, item)->home != w || !(i->work > 0))
            FAIL(msg, "worker %u: its queue holds what is not its own", w->id);
    }
    for (const struct sched_request *m = w->mates; m != NULL; m = m->next, mates++)
        blocks += m->mate_blocks;
    if (mates != w->promised || blocks != w->promised_blocks)
        FAIL(msg, "worker %u: %u promised, counted %u", w->id, mates, w->promised);
    sum->in_edf -= in_edf;
    sum->mates -= mates;
    sum->waits[SCHED_WAITS_BOUND] -= w->waiting.count;
    /* Work must not wait for an event that nobody promised. */
    if (r != NULL && !s->place_pending && sched_place_may_dispatch(s, w, r))
        FAIL(msg, "request %" PRIu64 " waits although worker %u could take it", r->id, w->id);
    return ERR_OK;
}

static enum err check_worker(const struct sched *s, const struct sched_worker *w, struct sums *sum,
                             struct err_msg *msg)
{
    enum err err = check_sides(w, msg);
    double load = sched_ledger_load(w);

    if (err == ERR_OK)
        err = check_queue(s, w, sum, msg);
    if (err != ERR_OK)
        return err;
    if (w->flipping && (!w->draining || s->elastic.flipping != w->id || !s->cfg.elastic.on))
        FAIL(msg, "worker %u changes its role and nobody waits for it", w->id);
    if (w->node.linked == w->draining)
        FAIL(msg, "worker %u: in the index %d", w->id, w->node.linked);
    if (w->node.linked && (load < w->load || load > w->load))
        FAIL(msg, "worker %u stands in the index with load %g, has %g", w->id, w->load, load);
    return ERR_OK;
}

static enum err check_workers(const struct sched *s, struct sums *sum, struct err_msg *msg)
{
    uint32_t sides = 0, indexed = 0, in_shapes = 0, refs = 0;
    enum err err = ERR_OK;

    for (int role = 1; role <= 2; role++) {
        uint32_t open = 0;

        for (const struct sched_worker *w = s->first_worker[role]; w != NULL && err == ERR_OK;
             w = w->next) {
            err = check_worker(s, w, sum, msg);
            sum->stats.workers[role]++;
            open += !w->draining;
            sides += w->n_sides;
            indexed += w->node.linked;
        }
        if (err == ERR_OK && open != s->pool[role].n)
            FAIL(msg, "role %d: %u workers open, counted %u", role, open, s->pool[role].n);
    }
    if (err != ERR_OK)
        return err;
    for (const struct sched_shape *h = s->shapes; h != NULL; h = h->next) {
        if (h->refs == 0 || !sched_tree_valid(&h->index))
            FAIL(msg, "the index of a worker shape is out of order");
        in_shapes += h->index.count;
        refs += h->refs;
    }
    if (sides != sum->sides || indexed != in_shapes || refs != s->workers.count)
        FAIL(msg, "%u sides listed, %u exist; %u workers indexed, %u in trees", sides, sum->sides,
             indexed, in_shapes);
    return ERR_OK;
}

static enum err check_sums(const struct sched *s, const struct sums *sum, struct err_msg *msg)
{
    uint32_t unfit = 0, queued = 0, placing = 0;

    for (const struct sched_request *r = s->unfit_first; r != NULL; r = r->next) {
        struct sched_need need = sched_request_need(r);

        if (sched_ledger_ready(s, &need))
            FAIL(msg, "request %" PRIu64 " waits for a worker that is here", r->id);
        unfit++;
    }
    for (const struct sched_request *r = s->place_first; r != NULL; r = r->next)
        placing++;
    if (unfit != sum->waits[SCHED_WAITS_WORKER] || placing != sum->waits[SCHED_WAITS_PLACE] ||
        s->held.count != sum->waits[SCHED_WAITS_HELD])
        FAIL(msg, "the lists of those that wait do not match");
    if (sum->in_edf != 0 || sum->mates != 0 || sum->waits[SCHED_WAITS_BOUND] != 0)
        FAIL(msg, "the queues of the workers do not hold what is bound to them");
    if (placing > 0 && !s->place_pending)
        FAIL(msg, "%u requests wait to be placed and nobody does it", placing);
    for (int i = 0; i < SCHED_TIERS_MAX; i++) {
        queued += sum->stats.queued[i];
        if (sum->stats.queued[i] != s->stats.queued[i] ||
            sum->stats.running[i] != s->stats.running[i])
            FAIL(msg, "tier %d: %u queued and %u running, counted %u and %u", i,
                 sum->stats.queued[i], sum->stats.running[i], s->stats.queued[i],
                 s->stats.running[i]);
    }
    if (queued != s->n_queued || sum->stats.queued_tokens != s->stats.queued_tokens)
        FAIL(msg, "%u requests queued, counted %u", queued, s->n_queued);
    if (sum->stats.requests != s->stats.requests || sum->stats.claims != s->stats.claims)
        FAIL(msg, "%u requests and %u claims, counted %u and %u", sum->stats.requests,
             sum->stats.claims, s->stats.requests, s->stats.claims);
    if (sum->stats.workers[1] != s->stats.workers[1] ||
        sum->stats.workers[2] != s->stats.workers[2])
        FAIL(msg, "the number of workers is wrong");
    if (sum->attempts != s->attempts)
        FAIL(msg, "%u attempts, counted %u", sum->attempts, s->attempts);
    if (sum->owners != s->timers.owners || sum->armed != s->timers.n)
        FAIL(msg, "%u timers armed, heap has %u", sum->armed, s->timers.n);
    return ERR_OK;
}

enum err sched_check(const struct sched *s, struct err_msg *msg)
{
    struct sums sum = {0};
    enum err err;

    if (s->illegal_moves > 0)
        FAIL(msg, "%u moves that the table of states does not allow", s->illegal_moves);
    if (!sched_timers_valid(&s->timers))
        FAIL(msg, "the timer heap is out of order");
    if (!sched_tree_valid(&s->held))
        FAIL(msg, "the held requests are out of order");
    err = check_requests(s, &sum, msg);
    if (err == ERR_OK)
        err = check_workers(s, &sum, msg);
    if (err == ERR_OK)
        err = check_sums(s, &sum, msg);
    if (err == ERR_OK && s->policy->tick != NULL && s->stats.requests > 0 &&
        s->next_tick == SCHED_NEVER)
        FAIL(msg, "requests live and the policy is not woken");
    if (err == ERR_OK && s->policy->check != NULL)
        err = s->policy->check(s, msg);
    return err;
}
