/* scheduler/sched.h - who does what and when: a pure state machine over requests and workers.
 *
 *   sched_create -> sched_apply(event, now) -> actions ... -> sched_destroy
 *
 * No I/O, no clock, no thread, no randomness: the same events at the same times give the same actions.
 * The daemon, the simulator and the tests run these object files.
 *
 * Life of a request (enum sched_state):
 *
 *   QUEUED ------> PREFILLING ------> HANDOVER ------> DECODING ------> gone
 *     ^  place         |  first token     |  verified      |
 *     '----------------+------------------+----------------'   next epoch: worker lost, attempt failed
 *
 * An attempt is one placement (prefill worker, decode worker) and has an epoch, counted from 1;
 * messages of older epochs are ignored.  The blocks of an attempt are claimed on both workers in the
 * ledger here before anything is sent, and stay claimed until that worker says RELEASED (or left),
 * whatever became of the request: so the ledger never promises a block that a transfer may still write
 * to.  A decode claim covers prompt and max_new in full, so nothing placed is ever preempted; an attempt
 * with one token left to generate has no decode worker.
 *
 * Order: tier rank, priority, deadline, arrival, id.  A request that was running before a failure keeps
 * its arrival and so goes to the front of its tier.  Who may pass whom: sched_place.c.
 *
 * Attempts: one that failed counts 1 of max_attempts; one lost with its worker counts a half, or 1 if
 * the request was alone there, or nothing if it had delivered 16 tokens.  A failed attempt is followed
 * by a pause of 10 ms, doubled each time up to 1 s, and other workers are preferred; after a lost worker
 * there is no pause.
 *
 * What the caller owes: TOKENS with the exact count before WORKER_LEAVE and on every RESUME action, since
 * the next attempt computes prompt + delivered.  Request ids are never used twice.  A request may be
 * finished here while the front end still works on its last tokens, so FINISH for an unknown request is
 * normal.
 *
 * Thread: one.  Ownership: everything inside belongs to the sched; action arrays to the caller.
 * Units: nanoseconds of any one monotonic clock; tokens; blocks. */
#ifndef SCHEDULER_SCHED_H
#define SCHEDULER_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { SCHED_TIERS_MAX = 16, SCHED_NAME_MAX = 32 };

enum sched_role { SCHED_ROLE_PREFILL = 1, SCHED_ROLE_DECODE = 2 };

/* A tier is a contract; its index in the config is its rank, 0 first. */
struct sched_tier {
    char name[SCHED_NAME_MAX];
    uint64_t ttft_ns; /* deadline of the first token, from arrival */
    uint64_t tbt_ns;
};

struct sched_config {
    struct sched_tier tiers[SCHED_TIERS_MAX];
    uint32_t n_tiers;
    uint32_t max_queued;        /* requests waiting to be placed; beyond it arrivals are rejected */
    uint64_t max_queued_tokens; /* their prompt tokens */
    uint32_t prefill_window_tokens; /* tokens given to a prefill worker ahead of what it has done */
    uint32_t max_attempts;          /* placements of one request before it fails */
    uint64_t queue_timeout_ns;      /* longest wait in QUEUED */
    uint64_t request_timeout_ns;    /* from arrival to the last token */
    uint64_t grant_timeout_ns;      /* RESERVE to GRANTED */
    uint64_t prefill_timeout_ns;    /* longest time in PREFILLING without progress */
    uint64_t handover_timeout_ns;   /* longest time in HANDOVER */
    uint64_t decode_timeout_ns;     /* longest time in DECODING without a new token */
    uint64_t release_timeout_ns;    /* CANCEL is said again while RELEASED does not come */
};
/* gold, silver, bronze (500/30, 2000/100, 10000/200 ms) and the default limits. */
void sched_config_defaults(struct sched_config *c);

enum sched_event_kind {
    SCHED_EV_ARRIVE = 1, /* a request, validated and tokenized */
    SCHED_EV_CANCEL,     /* the client is gone, or the front end has all it wants */
    SCHED_EV_WORKER_JOIN,
    SCHED_EV_WORKER_LEAVE, /* lost or gone; its claims end with it */
    SCHED_EV_WORKER_DRAIN, /* place nothing new on it */
    SCHED_EV_WORKER_REPORT,
    SCHED_EV_GRANTED, /* decode worker: blocks set aside, or refused */
    SCHED_EV_PREFILL_PROGRESS,
    SCHED_EV_PREFILL_DONE,  /* first token sampled */
    SCHED_EV_HANDOVER_DONE, /* verified by the decode worker, or failed on either side */
    SCHED_EV_TOKENS,   /* so many tokens delivered; before every event that may end an attempt */
    SCHED_EV_RELEASED, /* the worker holds nothing of (request, epoch) any more */
    SCHED_EV_FINISH,   /* the front end has the last token; epoch of that token, or 0 */
    SCHED_EV_STOP,     /* admit nothing new: the process drains */
    SCHED_EV_TIMER     /* sched_next_timer() has come */
};

struct sched_event {
    enum sched_event_kind kind;
    uint64_t request; /* non-zero where a request is meant */
    uint32_t epoch;
    uint32_t worker; /* non-zero where a worker is meant */
    union {
        struct {
            uint32_t tier;
            int32_t priority; /* inside the tier, smaller first */
            uint32_t n_prompt;
            uint32_t max_new;    /* >= 1 */
            uint64_t arrived_ns; /* when the front end had read it; <= now */
        } arrive;
        struct {
            enum sched_role role;
            uint32_t n_blocks, block_tokens, max_batch, max_context;
        } join;
        struct {
            uint32_t free_blocks, waiting, running;
            uint64_t step_ns;
        } report;
        struct {
            bool ok;
        } granted;
        struct {
            uint32_t tokens_done;
            uint64_t step_ns;
            uint32_t step_tokens;
        } progress;
        struct {
            bool finished; /* nothing is left to decode */
        } prefilled;
        struct {
            enum err err;
            bool from_decode;
        } handover;
        struct {
            uint32_t delivered; /* in all */
        } tokens;
        struct {
            enum err err;
        } released;
    } u;
};

enum sched_action_kind {
    SCHED_ACT_RESERVE =
        1,               /* tell decode `worker` to set blocks aside for a hand-over from `peer` */
    SCHED_ACT_PREFILL,   /* tell prefill `worker` to compute; decode `peer` (0: none) gets the KV */
    SCHED_ACT_CANCEL,    /* tell `worker` to drop (request, epoch) */
    SCHED_ACT_INTRODUCE, /* prefill `worker` and decode `peer` may talk KV */
    SCHED_ACT_RESUME, /* front end: attempt `epoch` replaces the one before; send what was delivered
                              as part of the prompt when the next PREFILL action comes */
    SCHED_ACT_REJECT, /* front end: never started; reason, retry_after_ns */
    SCHED_ACT_FAIL    /* front end: given up after it started or waited; reason */
};

enum sched_reason {
    SCHED_REASON_NONE = 0,
    SCHED_REASON_QUEUE_FULL,
    SCHED_REASON_TOO_LARGE, /* no worker of the pool could ever hold it */
    SCHED_REASON_STOPPING,
    SCHED_REASON_QUEUE_TIMEOUT,
    SCHED_REASON_REQUEST_TIMEOUT,
    SCHED_REASON_ATTEMPTS /* max_attempts placements failed */
};
const char *sched_reason_name(enum sched_reason r);

struct sched_action {
    enum sched_action_kind kind;
    uint64_t request;
    uint32_t epoch;
    uint32_t worker;
    uint32_t peer;
    uint64_t order;           /* PREFILL: smaller first */
    uint64_t retry_after_ns;  /* REJECT with QUEUE_FULL: queue / measured rate, 1 .. 60 s; else 0 */
    enum sched_reason reason; /* REJECT, FAIL */
};

/* Zero-initialise; sched_apply appends; the caller clears n and finally calls sched_actions_free. */
struct sched_actions {
    struct sched_action *v;
    size_t n;
    size_t cap; /* private */
};
void sched_actions_free(struct sched_actions *a);

struct sched; /* opaque */

/* ERR_INVALID (field and range in msg), ERR_NOMEM. */
MUST_USE enum err sched_create(const struct sched_config *c, struct err_msg *msg,
                               struct sched **out);
void sched_destroy(struct sched *s);

/* Apply one event; now never goes back.  Events that name something unknown or old are counted and
 * ignored: they are normal in a distributed system.  ERR_INVALID: a field out of range, an id that is
 * taken, or a time before the last one (a bug of the caller); ERR_NOMEM: state and actions are as before.
 * Placement that runs out of memory is no error: it is tried again at the next timer. */
MUST_USE enum err sched_apply(struct sched *s, const struct sched_event *e, uint64_t now_ns,
                              struct sched_actions *out);

/* When SCHED_EV_TIMER is due; UINT64_MAX: never. */
uint64_t sched_next_timer(const struct sched *s);

enum sched_state {
    SCHED_STATE_QUEUED = 1,
    SCHED_STATE_PREFILLING,
    SCHED_STATE_HANDOVER,
    SCHED_STATE_DECODING
};
const char *sched_state_name(enum sched_state st);

struct sched_stats {
    uint32_t queued[SCHED_TIERS_MAX];  /* by tier */
    uint32_t running[SCHED_TIERS_MAX]; /* PREFILLING, HANDOVER or DECODING */
    uint32_t requests;                 /* live */
    uint32_t claims;                   /* live (worker, request, epoch) claims: 0 at rest */
    uint64_t queued_tokens;
    uint32_t workers[3]; /* by role */
    uint64_t ignored_events;
    uint64_t resumes;
};
void sched_get_stats(const struct sched *s, struct sched_stats *out);

struct sched_worker_view {
    uint32_t worker;
    enum sched_role role;
    bool draining;
    uint32_t n_blocks, claimed_blocks;
    uint32_t requests;
    uint64_t outstanding_tokens; /* prefill: given and not yet done */
};
/* ERR_NOT_FOUND. */
MUST_USE enum err sched_get_worker(const struct sched *s, uint32_t worker,
                                   struct sched_worker_view *out);
/* ERR_NOT_FOUND. */
MUST_USE enum err sched_get_request(const struct sched *s, uint64_t request,
                                    enum sched_state *state, uint32_t *epoch,
                                    uint32_t *prefill_worker, uint32_t *decode_worker);

/* The requests whose current attempt has a part on this worker: *ids is allocated (mem_free it), n may
 * be 0.  ERR_NOT_FOUND, ERR_NOMEM.  The daemon reports what they delivered before WORKER_LEAVE. */
MUST_USE enum err sched_worker_requests(const struct sched *s, uint32_t worker, uint64_t **ids,
                                        size_t *n);

/* Tests and the simulator: walk everything and check the invariants (each claim belongs to a live or
 * canceled attempt, sums match, queue order holds, every waiting state has a timer, nothing waits that
 * fits).  ERR_BAD_STATE with the first violation. */
MUST_USE enum err sched_check(const struct sched *s, struct err_msg *msg);

#endif
