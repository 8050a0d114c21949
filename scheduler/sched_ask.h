/* scheduler/sched_ask.h - private to scheduler/: what a policy may ask the core: predicted times,
 * deadlines, candidates.  Pure: nothing here changes anything.
 *
 * Thread: the scheduler's.  Units: ns, tokens. */
#ifndef SCHEDULER_SCHED_ASK_H
#define SCHEDULER_SCHED_ASK_H

#include "scheduler/sched_impl.h"

/* ---- for policies: predictions (sched_predictor.c) ---------------------------------------------- */

/* All in ns.  0: nothing is known yet. */

/* n prompt tokens behind `past` ones on this worker, alone, in its chunks: class law x the worker's
 * bias. */
double sched_prefill_ns(const struct sched *s, const struct sched_worker *w, uint32_t n,
                        uint32_t past);
/* The prompt of r (and what was delivered) on w: fetching what is in the pool and computing the
 * rest, whichever prefix is best there; *cached: tokens that are not computed. */
double sched_prompt_ns(const struct sched *s, const struct sched_request *r,
                       const struct sched_worker *w, uint32_t *cached);
/* As sched_prompt_ns, but never 0: tokens times a nominal value when nothing is known. */
double sched_work_ns(const struct sched *s, const struct sched_request *r,
                     const struct sched_worker *w, uint32_t *cached);
/* The law of this worker: that of its class, scaled by its bias. */
struct sched_law sched_decode_law(const struct sched *s, const struct sched_worker *w);
/* Factor on a predicted time of w that is not exceeded with probability p; 1: unknown. */
double sched_prefill_factor(const struct sched *s, const struct sched_worker *w, double p);
double sched_decode_factor(const struct sched *s, const struct sched_worker *w, double p);
/* The upper end of the 90 % interval of a first token forecast `ttft` after its arrival. */
double sched_ttft_high(const struct sched *s, uint32_t tier, double ttft);
/* KV of so many tokens from p to d: the time, and with its 90 % interval. */
double sched_handover_ns(const struct sched *s, const struct sched_worker *p,
                         const struct sched_worker *d, uint64_t tokens);
struct sched_estimate sched_handover_estimate(const struct sched *s, const struct sched_worker *p,
                                              const struct sched_worker *d, uint64_t tokens);
/* What is known of the link from p to d. */
const struct sched_link_predict *sched_link(const struct sched *s, const struct sched_worker *p,
                                            const struct sched_worker *d);
/* Prefill time of r alone on an idle worker of the best class here. */
uint64_t sched_isolated_ns(const struct sched *s, const struct sched_request *r);
/* Deadline of the first token and time between tokens if it were served at `tier`. */
uint64_t sched_deadline_at(const struct sched *s, const struct sched_request *r, uint32_t tier);
uint64_t sched_tbt_at(const struct sched *s, const struct sched_request *r, uint32_t tier);
/* The time from which the work in w->edf counts: all of it is done at start + sched_edf_work. */
double sched_worker_start(const struct sched *s, const struct sched_worker *w);
/* Tokens generated so far: exact where told, else estimated from the steps of its decode worker. */
double sched_tokens_so_far(const struct sched *s, const struct sched_request *r);

/* ---- for policies: candidates (sched_ledger.c) -------------------------------------------------- */

/* What a request needs of a worker. */
struct sched_need {
    uint64_t prefill_tokens; /* prompt and what was delivered */
    uint64_t total_tokens;   /* prompt and all that may be generated */
    bool decode;             /* more than one token is missing */
};
struct sched_need sched_request_need(const struct sched_request *r);
/* Open, and could hold it if it were empty. */
bool sched_worker_fits(const struct sched_worker *w, const struct sched_need *need);
/* May it compute the prompt and decode it too? */
bool sched_worker_local(const struct sched *s, const struct sched_worker *w,
                        const struct sched_need *need);
/* Open workers of the role that could hold r, least loaded first within a shape (prefill: by the
 * time when its work is done; decode: by claimed blocks); for prefill those that hold a prefix of
 * it come first. Workers of its failed attempt are left out while there are others.  At most
 * SCHED_CANDIDATES_MAX. */
uint32_t sched_candidates(const struct sched *s, enum sched_role role,
                          const struct sched_request *r,
                          struct sched_worker *v[SCHED_CANDIDATES_MAX]);

#endif
