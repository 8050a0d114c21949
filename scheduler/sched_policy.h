/* scheduler/sched_policy.h - private to scheduler/: what a policy decides, and what it is told.
 *
 * A policy is one row of functions.  The life of a request, the claims and the queues belong to the core, which
 * is the same for all policies; a policy answers "where, in which order, or why not", and keeps what it
 * wants to know up to date in the hooks.  sched_baton.c is ours; sched_baseline.c holds the others. */
#ifndef SCHEDULER_SCHED_POLICY_H
#define SCHEDULER_SCHED_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "scheduler/sched.h"
#include "scheduler/sched_view.h"

struct sched_request;
struct sched_worker;

enum sched_verdict {
    SCHED_BIND = 1, /* into the queue of worker `prefill`, decode on `decode` */
    SCHED_HOLD, /* keep it aside; asked again when room appears, at hold_until_ns at the latest */
    SCHED_REFUSE
};

struct sched_offer {
    enum sched_verdict verdict;
    struct sched_worker *prefill; /* == decode: that worker computes the prompt itself */
    struct sched_worker *decode;  /* NULL: none needed */
    uint64_t key;                 /* order in the queue, smaller first */
    uint32_t tier;                /* to serve at; != r->tier downgrades */
    uint64_t hold_until_ns;
    double work_ns;                    /* prefill time, for the queue */
    double density;                    /* for eviction; 0: never */
    uint64_t late_ns;                  /* deadline for the queue's feasibility, SCHED_NEVER: none */
    struct sched_times forecast, high; /* for the record */
    struct sched_pick chosen, runner_up;
    enum sched_reason reason; /* HOLD, REFUSE */
    struct sched_refusal refusal;
    uint64_t retry_after_ns;
};

enum sched_fact {
    /* r has been bound: to r->home, decode on r->mate.  As offered, or by the heuristic that places while
     * predictions are lost, or moved to an idle worker. */
    SCHED_FACT_BOUND = 1,
    /* It left the queue before it was dispatched: evicted, canceled, moved, worker gone; home and mate are
     * still what they were. */
    SCHED_FACT_UNBOUND,
    SCHED_FACT_DISPATCHED,   /* sent to the worker */
    SCHED_FACT_PREFILLED,    /* first token */
    SCHED_FACT_DECODING,     /* verified by the decode worker */
    SCHED_FACT_TOKENS,       /* r->delivered has grown */
    SCHED_FACT_LATE,         /* the first token, or one after it, was late: once per request */
    SCHED_FACT_ATTEMPT_OVER, /* the attempt is over; the request goes on */
    SCHED_FACT_ENDED         /* r ends now, in whatever way: r->outcome */
};

struct sched_policy {
    const char *name;
    const char *what; /* one line for help */
    bool
        preempts; /* dispatch an earlier key past a full window: prompts are interrupted between chunks */
    bool
        steals; /* an idle prefill worker takes over what waits for another and would be done sooner here */
    bool baseline;    /* places by itself even while predictions are lost; else "edf" does then */
    bool clairvoyant; /* may use true_new and exact laws */
    enum err (*create)(struct sched *s); /* may be NULL; ERR_NOMEM */
    void (*destroy)(struct sched *s);    /* may be NULL; workers and requests are still there */
    /* May evict others with sched_queue_evict.  Every worker in the offer is open and could hold it. */
    void (*place)(struct sched *s, struct sched_request *r, struct sched_offer *out);
    /* May be NULL: keep r->mate.  Asked right before a bound r with a mate is dispatched: the decode worker it
     * shall go to, open and fit for it, since loads have moved on while it waited.  NULL: keep. */
    struct sched_worker *(*redecide)(struct sched *s, struct sched_request *r);
    /* Each may be NULL. */
    void (*request)(struct sched *s, struct sched_request *r, enum sched_fact f);
    void (*worker)(struct sched *s, struct sched_worker *w,
                   enum sched_event_kind e); /* JOIN, LEAVE, DRAIN, REPORT, STEP */
    void (*tick)(struct sched *s);           /* every 100 ms while anything is live */
    /* For sched_check: ERR_BAD_STATE, and what is wrong, if what it counts is not so. */
    enum err (*check)(const struct sched *s, struct err_msg *msg);
};

extern const struct sched_policy sched_policy_baton, sched_policy_baton_clairvoyant;
const struct sched_policy *sched_policy_find(const char *name); /* NULL: no such */

/* For policies: take a bound, not yet dispatched request out of its queue.  It is placed again after the
 * present event, with r->evicted counted. */
void sched_queue_evict(struct sched *s, struct sched_request *victim);

#endif
