/* scheduler/sched_events.c - what workers and front ends say about one request, and a worker's
 * leaving.
 *
 * Messages of one attempt come over several sockets, so any order is possible between the two
 * workers and the front end: the decode worker may say "verified", or even "released", before the
 * prefill worker's "first token sampled" is read.  What is old, doubled or from the wrong worker is
 * counted and changes nothing. */
#include "scheduler/sched_core.h"

static void ignore(struct sched *s)
{
    s->stats.ignored_events++;
}

static struct sched_request *request_live(const struct sched *s, uint64_t id)
{
    struct sched_request *r = map_get(&s->requests, id);

    return r == NULL || r->state == SCHED_REQ_ENDED ? NULL : r;
}

/* The current attempt, if the event is about it and comes from the worker on that side. */
static struct sched_attempt *attempt_named(const struct sched_request *r,
                                           const struct sched_event *e, int side)
{
    struct sched_attempt *a = r->current;

    if (a == NULL || (a->epoch != e->epoch && !SCHED_PLANTED(2)))
        return NULL;
    return a->side[side].worker != NULL && a->side[side].worker_id == e->worker ? a : NULL;
}

/* ... from the worker that computes the prompt. */
static struct sched_attempt *prompt_named(const struct sched_request *r,
                                          const struct sched_event *e)
{
    bool local = r->current != NULL && r->current->local;

    return attempt_named(r, e, local ? SCHED_SIDE_DECODE : SCHED_SIDE_PREFILL);
}

static void on_granted(struct sched *s, struct sched_request *r, const struct sched_event *e,
                       struct sched_actions *out)
{
    struct sched_attempt *a = attempt_named(r, e, SCHED_SIDE_DECODE);

    if (a == NULL || !a->reserved || a->granted || a->finished || a->verified)
        ignore(s);
    else if (e->u.granted.ok)
        sched_request_granted(s, r);
    else if (!SCHED_PLANTED(15))
        sched_request_attempt_failed(s, r, out);
}

static void on_prefill_progress(struct sched *s, struct sched_request *r,
                                const struct sched_event *e, struct sched_actions *out)
{
    struct sched_attempt *a = prompt_named(r, e);
    struct sched_worker *w;
    uint64_t done = e->u.progress.tokens_done;

    if (a == NULL || r->state != SCHED_STATE_PREFILLING) {
        ignore(s);
        return;
    }
    w = sched_attempt_prefill(a)->worker;
    if (e->u.progress.step_ns != 0)
        w->step_ns = e->u.progress.step_ns;
    done = done < a->given ? done : a->given;
    if (done > a->done) {
        sched_ledger_outstanding(s, w, 0, done - a->done);
        a->done = done;
        sched_queue_work(s, r, sched_rest_ns(s, r, w));
        sched_request_reserve(s, r, false, out);
    }
    sched_request_progress(s, r);
}

static void on_prefill_done(struct sched *s, struct sched_request *r, const struct sched_event *e,
                            struct sched_actions *out)
{
    struct sched_attempt *a = prompt_named(r, e);

    if (a == NULL || r->state != SCHED_STATE_PREFILLING) {
        ignore(s);
        return;
    }
    r->worker_queue_ns = e->u.prefilled.queue_ns;
    r->worker_prefill_ns = e->u.prefilled.prefill_ns;
    sched_request_prefilled(s, r, e->u.prefilled.finished, out);
}

static void on_handover_done(struct sched *s, struct sched_request *r, const struct sched_event *e,
                             struct sched_actions *out)
{
    bool from_decode = e->u.handover.from_decode, ok = e->u.handover.err == ERR_OK;
    struct sched_attempt *a =
        attempt_named(r, e, from_decode ? SCHED_SIDE_DECODE : SCHED_SIDE_PREFILL);

    if (a == NULL || a->local || a->side[SCHED_SIDE_DECODE].worker_id == 0 || a->finished ||
        (a->verified && !SCHED_PLANTED(20))) {
        ignore(
            s); /* a sender's late trouble with a hand-over that arrived whole is nobody's problem */
    } else if (ok && from_decode) {
        sched_predictor_handover(s, r, e);
        sched_request_verified(s, r);
    } else if (!ok && !(SCHED_PLANTED(1) && !from_decode)) {
        sched_request_attempt_failed(s, r, out);
    }
}

/* The next token is due and has not come: proof that the stream is late, since the count is exact. */
static void look_for_lateness(struct sched *s, struct sched_request *r)
{
    double due = (double)r->deadline_ns + (double)r->delivered * (double)r->tbt_ns;

    if (!r->late && r->admitted && (double)s->now > due && r->delivered < r->max_new)
        sched_request_late(s, r);
}

/* Tokens of an older attempt count too: the client has them.  Only a new one is a sign of life. */
static void on_tokens(struct sched *s, struct sched_request *r, const struct sched_event *e,
                      struct sched_actions *out)
{
    uint32_t delivered = e->u.tokens.delivered, before = r->delivered;

    if (delivered > r->max_new || delivered < r->delivered) {
        ignore(s);
        return;
    }
    r->delivered = delivered;
    if (r->mate != NULL)
        r->steps_joined = r->mate->steps; /* the estimate of what came since starts here */
    if (delivered > before) {
        if (r->state == SCHED_STATE_DECODING)
            sched_request_progress(s, r);
        sched_tell(s, r, SCHED_FACT_TOKENS);
    }
    look_for_lateness(s, r);
    if (r->state != SCHED_STATE_QUEUED)
        return;
    if (delivered == r->max_new) { /* nothing is left to place */
        sched_record_judge(s, r, NULL);
        sched_request_end(s, r, SCHED_TELL_NONE, out);
    } else if (delivered > before) {
        sched_queue_reconsider(s, r); /* a longer prompt; with one token left no decode worker */
    }
}

/* Whoever sampled the last token stops by itself.  FINISH can overtake PREFILL_DONE; then the
 * decode worker may still wait for a hand-over that never comes.  And it may be about tokens of an
 * attempt that has been replaced; then nobody stops by itself. */
static void on_finish(struct sched *s, struct sched_request *r, const struct sched_event *e,
                      struct sched_actions *out)
{
    const struct sched_attempt *a = r->current;
    unsigned tell = SCHED_TELL_NONE;

    if (SCHED_PLANTED(22))
        tell = SCHED_TELL_NONE;
    else if (e->epoch != 0 && e->epoch != r->epoch)
        tell = SCHED_TELL_BOTH;
    else if (r->state == SCHED_STATE_PREFILLING)
        tell = e->epoch == 0 && r->epoch > 1 ? SCHED_TELL_BOTH
               : a->local                    ? SCHED_TELL_NONE
                                             : SCHED_TELL_DECODE;
    sched_record_judge(s, r, e);
    sched_request_end(s, r, tell, out);
}

static void on_cancel(struct sched *s, struct sched_request *r, struct sched_actions *out)
{
    if (SCHED_PLANTED(8) && r->state == SCHED_STATE_HANDOVER)
        return;
    r->outcome = SCHED_OUT_CANCELED;
    sched_request_end(s, r, SCHED_TELL_BOTH, out);
}

void sched_event_request(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_request *r = request_live(s, e->request);

    if (r == NULL) {
        ignore(s);
        return;
    }
    switch (e->kind) {
    case SCHED_EV_CANCEL:
        on_cancel(s, r, out);
        break;
    case SCHED_EV_GRANTED:
        on_granted(s, r, e, out);
        break;
    case SCHED_EV_PREFILL_PROGRESS:
        on_prefill_progress(s, r, e, out);
        break;
    case SCHED_EV_PREFILL_DONE:
        on_prefill_done(s, r, e, out);
        break;
    case SCHED_EV_HANDOVER_DONE:
        on_handover_done(s, r, e, out);
        break;
    case SCHED_EV_TOKENS:
        on_tokens(s, r, e, out);
        break;
    case SCHED_EV_FINISH:
        on_finish(s, r, e, out);
        break;
    case SCHED_EV_ARRIVE:
    case SCHED_EV_WORKER_JOIN:
    case SCHED_EV_WORKER_LEAVE:
    case SCHED_EV_WORKER_DRAIN:
    case SCHED_EV_WORKER_REPORT:
    case SCHED_EV_STEP:
    case SCHED_EV_LINK:
    case SCHED_EV_RELEASED:
    case SCHED_EV_STOP:
    case SCHED_EV_TIMER:
        break; /* not about one live request */
    }
}

/* ---- RELEASED ---- */

static struct sched_side *side_claimed(const struct sched *s, const struct sched_event *e)
{
    struct sched_request *r = map_get(&s->requests, e->request);

    for (struct sched_attempt *a = r == NULL ? NULL : r->attempts; a != NULL; a = a->next) {
        for (int i = 0; i < 2; i++) {
            if (a->epoch == e->epoch && a->side[i].worker_id == e->worker &&
                a->side[i].worker != NULL && a->side[i].told &&
                (a->side[i].claimed || SCHED_PLANTED(5)))
                return &a->side[i];
        }
    }
    return NULL;
}

/* The prefill worker let go of the current attempt.  In HANDOVER and without an error it has sent
 * all it had: the decode worker's word is still to come. */
static void prefill_released(struct sched *s, struct sched_request *r, enum err err,
                             struct sched_actions *out)
{
    if (r->current->finished || r->state == SCHED_STATE_DECODING)
        return;
    if (r->state == SCHED_STATE_PREFILLING || err != ERR_OK) {
        if (!SCHED_PLANTED(1))
            sched_request_attempt_failed(s, r, out);
    }
}

/* The decode worker let go.  If it had the KV and reports no error it has sampled the last token,
 * and FINISH is on its way from the front end. */
static void decode_released(struct sched *s, struct sched_request *r, enum err err,
                            struct sched_actions *out)
{
    struct sched_attempt *a = r->current;

    if (a->finished)
        return;
    if (err == ERR_OK && a->verified) {
        a->finished = true;
        r->state_deadline_ns = sched_after(s->now, s->cfg.handover_timeout_ns);
        sched_request_arm(s, r);
        return;
    }
    sched_request_attempt_failed(s, r, out);
}

void sched_event_released(struct sched *s, const struct sched_event *e, struct sched_actions *out)
{
    struct sched_side *side = side_claimed(s, e);
    struct sched_attempt *a;

    if (side == NULL) {
        ignore(s);
        return;
    }
    a = side->attempt;
    sched_ledger_release(s, side);
    if (!a->current)
        sched_request_settle(s, a);
    else if (side == &a->side[SCHED_SIDE_PREFILL])
        prefill_released(s, a->request, e->u.released.err, out);
    else
        decode_released(s, a->request, e->u.released.err, out);
}

/* ---- WORKER_LEAVE ---- */

/* Does the current attempt still need the worker that was lost? */
static bool attempt_needs(const struct sched_attempt *a, int side, bool was_claimed)
{
    int state = a->request->state;

    if (a->finished && !SCHED_PLANTED(17))
        return false;
    if (SCHED_PLANTED(28) && a->local)
        return false;
    if (side == SCHED_SIDE_DECODE)
        return !(SCHED_PLANTED(6) && state == SCHED_STATE_HANDOVER);
    return state != SCHED_STATE_DECODING && was_claimed;
}

static void side_lost(struct sched *s, struct sched_side *side, bool alone,
                      struct sched_actions *out)
{
    struct sched_attempt *a = side->attempt;
    struct sched_request *r = a->request;
    bool was_claimed = side->claimed;
    int i = side == &a->side[SCHED_SIDE_DECODE];

    if (a->current && side == sched_attempt_prefill(a)) {
        sched_ledger_outstanding(s, side->worker, 0, a->given - a->done);
        a->done = a->given;
        sched_queue_done(s, r);
    }
    if (was_claimed)
        sched_ledger_release(s, side);
    sched_ledger_unlist(side);
    side->worker = NULL;
    if (!a->current) {
        sched_request_settle(s, a);
    } else if (attempt_needs(a, i, was_claimed)) {
        sched_request_worker_lost(s, r, alone, out);
    } else if (a->finished) {
        /* Its last token is in the front end's socket or lost with it: find out soon. */
        uint64_t soon = sched_after(s->now, SCHED_FINISH_GRACE);

        if (i == SCHED_SIDE_DECODE)
            sched_request_mate_gone(r);
        if (soon < r->state_deadline_ns)
            r->state_deadline_ns = soon;
        sched_request_arm(s, r);
    }
}

void sched_event_leave(struct sched *s, struct sched_worker *w, struct sched_actions *out)
{
    bool alone = w->claims == 1;

    sched_ledger_drain(s, w); /* nothing is placed on it while its requests move away */
    sched_queue_unbind_all(s, w);
    while (w->first != NULL)
        side_lost(s, w->first, alone, out);
    if (s->policy->worker != NULL)
        s->policy->worker(s, w, SCHED_EV_WORKER_LEAVE);
    sched_predictor_forget(s, w);
    sched_elastic_gone(s, w);
    sched_ledger_remove(s, w);
    s->wake = true;
}
