/* scheduler/sched_core.h - private to scheduler/: what the files of the core do for each other.
 *
 * Thread: the scheduler's.  Nothing here can fail but where it says so. */
#ifndef SCHEDULER_SCHED_CORE_H
#define SCHEDULER_SCHED_CORE_H

#include "scheduler/sched_ask.h"
#include "scheduler/sched_impl.h"

/* ---- sched_queue.c: who waits, in which order -------------------------------------------------- */

void sched_queue_init(struct sched *s);
void sched_worker_init_queue(struct sched_worker *w);
/* PLACE, HELD, BACKOFF or WORKER; BOUND is sched_queue_bind's. */
void sched_queue_put(struct sched *s, struct sched_request *r, enum sched_waits_in where);
/* Out of wherever it waits.  BOUND: out of its worker's queue, and the policy is told. */
void sched_queue_take(struct sched *s, struct sched_request *r);
void sched_queue_bind(struct sched *s, struct sched_request *r, const struct sched_offer *offer);
/* To another worker, with its promise of a decode worker. */
void sched_queue_move(struct sched *s, struct sched_request *r, struct sched_worker *to,
                      double work);
/* No longer waiting; its work stays in the queue of its worker. */
void sched_queue_dispatched(struct sched *s, struct sched_request *r);
/* It is no longer part of the work before its worker: prompt computed, or attempt over. */
void sched_queue_done(struct sched *s, struct sched_request *r);
/* Work left of a dispatched one. */
void sched_queue_work(struct sched *s, struct sched_request *r, double work);
struct sched_request *sched_queue_first_waiting(const struct sched_worker *w);
bool sched_queue_before(const struct sched_request *a, const struct sched_request *b);
struct sched_request *sched_queue_first_held(const struct sched *s);
struct sched_request *sched_queue_next_held(const struct sched_request *r);
void sched_queue_recall_unfit(struct sched *s); /* a worker joined */
void sched_queue_recall_held(struct sched *s);  /* ... of a role that had none */
/* What the request needs has changed. */
void sched_queue_reconsider(struct sched *s, struct sched_request *r);
/* All that is bound to w, or promised to it, is placed again: it drains or leaves. */
void sched_queue_unbind_all(struct sched *s, struct sched_worker *w);
void sched_queue_count_placed(struct sched *s);
uint64_t sched_queue_retry_after(struct sched *s);
uint64_t sched_queue_jitter(const struct sched *s, uint64_t request, uint64_t wait_ns);

/* ---- sched_ledger.c: workers, shapes, claims --------------------------------------------------- */

struct sched_worker *sched_ledger_worker(const struct sched *s, uint32_t id);
MUST_USE enum err sched_ledger_join(struct sched *s, const struct sched_event *e,
                                    struct sched_worker **out);
void sched_ledger_remove(struct sched *s, struct sched_worker *w); /* no sides left */
void sched_ledger_drain(struct sched *s, struct sched_worker *w);
void sched_ledger_undrain(struct sched *s, struct sched_worker *w);
bool sched_ledger_room(const struct sched_worker *w,
                       uint64_t tokens); /* prefill: blocks are free */
void sched_ledger_claim(struct sched *s, struct sched_side *side, struct sched_worker *w,
                        const struct sched_request *r);
uint32_t sched_ledger_expected(const struct sched_worker *w, const struct sched_request *r);
void sched_ledger_release(struct sched *s, struct sched_side *side);
void sched_ledger_unlist(struct sched_side *side);
void sched_ledger_outstanding(struct sched *s, struct sched_worker *w, uint64_t add, uint64_t sub);
/* Its load has changed. */
void sched_ledger_reindex(struct sched_worker *w);
double sched_ledger_load(const struct sched_worker *w);
/* Something changed that may let it take work. */
void sched_ledger_dirty(struct sched *s, struct sched_worker *w);
/* Could a worker of each role hold it, if it were empty?  A role of which none is open may get one. */
bool sched_ledger_could_fit(const struct sched *s, const struct sched_need *need);
/* There is one of each role that could. */
bool sched_ledger_ready(const struct sched *s, const struct sched_need *need);

/* ---- sched_place.c: asking the policy, dispatching ---------------------------------------------- */

void sched_place_all(struct sched *s, struct sched_actions *out);
enum { SCHED_ACTIONS_PER_PLACE = 3 }; /* TIER, or REJECT; RESERVE and PREFILL */
/* Would the first of w's queue be dispatched now? */
bool sched_place_may_dispatch(const struct sched *s, const struct sched_worker *w,
                              const struct sched_request *r);

/* ---- sched_predictor.c: what events teach ------------------------------------------------------- */

MUST_USE enum err sched_predictor_init(struct sched *s); /* ERR_NOMEM */
void sched_predictor_free(struct sched *s);
void sched_predictor_arrive(struct sched *s, struct sched_request *r); /* forecasts and deadlines */
void sched_predictor_step(struct sched *s, struct sched_worker *w, const struct sched_event *e);
MUST_USE enum err sched_predictor_link(struct sched *s, struct sched_worker *p,
                                       struct sched_worker *d, const struct sched_event *e);
void sched_predictor_handover(struct sched *s, const struct sched_request *r,
                              const struct sched_event *e);
/* Is it time to ask d for blocks, so that they are there when p has computed the prompt? */
bool sched_reserve_is_due(const struct sched *s, const struct sched_request *r,
                          const struct sched_worker *p, const struct sched_worker *d);
/* What is left of the prompt of r, which w computes; > 0. */
double sched_rest_ns(const struct sched *s, const struct sched_request *r,
                     const struct sched_worker *w);
void sched_predictor_end(struct sched *s, const struct sched_request *r, uint32_t tokens);
void sched_predictor_forget(struct sched *s, struct sched_worker *w); /* it leaves */

/* ---- sched_record.c ----------------------------------------------------------------------------- */

MUST_USE enum err sched_record_init(struct sched *s); /* ERR_NOMEM */
void sched_record_free(struct sched *s);
/* First token as the offer forecasts it, centred, and its interval. */
void sched_record_forecast(const struct sched *s, struct sched_request *r,
                           const struct sched_offer *o);
/* Its first token is there: the forecast learns. */
void sched_record_first(struct sched *s, const struct sched_request *r);
/* The front end says it is finished (finish NULL: we know that it must be): outcome, from what was
 * seen. */
void sched_record_judge(struct sched *s, struct sched_request *r, const struct sched_event *finish);
/* It ends: outcome and reason are set. */
void sched_record_end(struct sched *s, struct sched_request *r);
/* Refused on arrival, before there was a request. */
struct sched_refused {
    enum sched_reason reason;
    struct sched_refusal refusal;
    uint64_t retry_after_ns;
};
void sched_record_reject(struct sched *s, const struct sched_event *e,
                         const struct sched_refused *why);

/* ---- sched_elastic.c ---------------------------------------------------------------------------- */

void sched_elastic_arrive(struct sched *s, const struct sched_request *r);
void sched_elastic_end(struct sched *s, const struct sched_request *r);
void sched_elastic_busy(struct sched *s,
                        struct sched_worker *w); /* before w->outstanding changes */
void sched_elastic_gone(struct sched *s,
                        struct sched_worker *w); /* it leaves, or drains for good */
void sched_elastic_tick(struct sched *s, struct sched_actions *out);

/* ---- sched_request.c: the life of a request ---------------------------------------------------- */

void sched_request_arrive(struct sched *s, struct sched_request *r); /* to QUEUED */
/* Claims, RESERVE, PREFILL for a bound one.  false: out of memory, nothing changed. */
bool sched_request_dispatch(struct sched *s, struct sched_request *r, struct sched_actions *out);
void sched_request_prefilled(struct sched *s, struct sched_request *r, bool finished,
                             struct sched_actions *out);
void sched_request_verified(struct sched *s, struct sched_request *r);
void sched_request_granted(struct sched *s, struct sched_request *r);
void sched_request_progress(struct sched *s, struct sched_request *r);
/* Says RESERVE if it is time for it; `now`: in any case. */
void sched_request_reserve(struct sched *s, struct sched_request *r, bool now,
                           struct sched_actions *out);
/* Serve it at another tier from now on. */
void sched_request_retier(struct sched *s, struct sched_request *r, uint32_t tier,
                          struct sched_actions *out);
/* The attempt is over without an end of the request: next attempt, or FAIL. */
void sched_request_attempt_failed(struct sched *s, struct sched_request *r,
                                  struct sched_actions *out);
void sched_request_worker_lost(struct sched *s, struct sched_request *r, bool alone,
                               struct sched_actions *out);
/* cancel: bit 0 tells the prefill worker, bit 1 the decode worker, where they still hold claims. */
enum { SCHED_TELL_NONE = 0, SCHED_TELL_PREFILL = 1, SCHED_TELL_DECODE = 2, SCHED_TELL_BOTH = 3 };
void sched_request_end(struct sched *s, struct sched_request *r, unsigned cancel,
                       struct sched_actions *out);
/* It waited and was never dispatched. */
void sched_request_refuse(struct sched *s, struct sched_request *r, const struct sched_offer *why,
                          struct sched_actions *out);
/* Its decode worker left, and it goes on: its last token was sampled. */
void sched_request_mate_gone(struct sched_request *r);
void sched_request_late(struct sched *s, struct sched_request *r);
void sched_request_arm(struct sched *s, struct sched_request *r);
/* A side lost its claim: free the attempt, and the request, if that was the last thing that held
 * them. */
void sched_request_settle(struct sched *s, struct sched_attempt *a);
void sched_request_timer(struct sched *s, struct sched_request *r, struct sched_actions *out);
void sched_attempt_timer(struct sched *s, struct sched_attempt *a, struct sched_actions *out);
static inline uint64_t sched_request_give_up(const struct sched *s, const struct sched_request *r)
{
    return sched_after(r->arrived_ns, s->cfg.request_timeout_ns);
}
/* What was said when it was refused or held. */
static inline void sched_request_lacks(struct sched_request *r, const struct sched_refusal *why)
{
    r->lacks = why->resource;
    r->lacks_predicted_ns = why->predicted_ns;
    r->lacks_target_ns = why->target_ns;
}
/* The side that computes the prompt. */
struct sched_side *sched_attempt_prefill(struct sched_attempt *a);

/* ---- sched_events.c: what workers and front ends say ------------------------------------------- */

/* The caller has checked the fields and reserved room for the actions. */
void sched_event_request(struct sched *s, const struct sched_event *e, struct sched_actions *out);
void sched_event_released(struct sched *s, const struct sched_event *e, struct sched_actions *out);
void sched_event_leave(struct sched *s, struct sched_worker *w, struct sched_actions *out);

/* ---- sched.c ----------------------------------------------------------------------------------- */

/* false: out of memory, nothing changed. */
bool sched_actions_reserve(struct sched_actions *a, size_t more);
/* Room was reserved before. */
struct sched_action *sched_act(struct sched_actions *a, enum sched_action_kind kind,
                               const struct sched_request *r);

static inline void sched_tell(struct sched *s, struct sched_request *r, enum sched_fact f)
{
    if (s->policy->request != NULL)
        s->policy->request(s, r, f);
}

#endif
