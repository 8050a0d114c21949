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
 * On arrival the policy (sched_config.policy) binds a request to a prefill worker's queue and promises a
 * decode worker, holds it back, or refuses it.  The first of a worker's queue are dispatched to it: an
 * attempt, with an epoch counted from 1; messages of older epochs are ignored.  Where prefill and decode
 * worker are the same, that decode worker computes the prompt itself between its decode steps.
 *
 * Claims: what an attempt may hold on a worker is in the ledger here before anything is sent, and stays
 * until that worker says RELEASED (or left), whatever became of the request.  On a prefill worker the claim
 * is a hard bound.  A decode worker has its own wait list and parks looser KV when room is short
 * (sched_batch.h), so there the claim is what is expected, not a bound.
 *
 * Attempts: one that failed counts 1 of max_attempts; one lost with its worker counts a half, or 1 if
 * the request was alone there, or nothing if it had delivered 16 tokens.  A failed attempt is followed
 * by a pause of 10 ms, doubled each time up to 1 s, and other workers are preferred; after a lost worker
 * there is no pause.  What was admitted once is never refused by the policy afterwards.
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
#include "scheduler/sched_config.h"

enum sched_role { SCHED_ROLE_PREFILL = 1, SCHED_ROLE_DECODE = 2 };
enum { SCHED_PREFIX_MAX = 4 };

enum sched_event_kind {
    SCHED_EV_ARRIVE = 1, /* a request, validated and tokenized */
    SCHED_EV_CANCEL,     /* the client is gone, or the front end has all it wants */
    SCHED_EV_WORKER_JOIN,
    SCHED_EV_WORKER_LEAVE, /* lost or gone; its claims end with it */
    SCHED_EV_WORKER_DRAIN, /* place nothing new on it */
    SCHED_EV_WORKER_REPORT,
    SCHED_EV_STEP,    /* `worker` measured one step: what it did and how long it took */
    SCHED_EV_LINK,    /* the KV link from prefill `worker` to decode `link.peer` was measured */
    SCHED_EV_GRANTED, /* decode worker: blocks set aside, or refused for good */
    SCHED_EV_PREFILL_PROGRESS,
    SCHED_EV_PREFILL_DONE,  /* first token sampled */
    SCHED_EV_HANDOVER_DONE, /* verified by the decode worker, or failed on either side */
    SCHED_EV_TOKENS,   /* so many tokens delivered; before every event that may end an attempt */
    SCHED_EV_RELEASED, /* the worker holds nothing of (request, epoch) any more */
    SCHED_EV_FINISH,   /* the front end has the last token; epoch of that token, or 0 */
    SCHED_EV_STOP,     /* admit nothing new: the process drains */
    SCHED_EV_TIMER     /* sched_next_timer() has come */
};

/* KV of the first `tokens` of the prompt lies on this prefill worker; worker 0: in the pool, from where
 * any can fetch it at bytes_per_s. */
struct sched_prefix {
    uint32_t worker;
    uint32_t tokens;
    double bytes_per_s;
};

struct sched_event {
    enum sched_event_kind kind;
    uint64_t request; /* non-zero where a request is meant */
    uint32_t epoch;
    uint32_t worker; /* non-zero where a worker is meant */
    union {
        struct {
            uint32_t tier;    /* to be served at: no better than the key's */
            int32_t priority; /* inside the tier, smaller first */
            uint32_t n_prompt;
            uint32_t max_new;    /* >= 1 */
            uint64_t arrived_ns; /* when the front end had read it; <= now */
            uint32_t tenant;     /* 0: none */
            uint64_t length_key; /* prompts of one conversation or template; 0: none */
            uint64_t ttft_ns,
                tbt_ns;        /* this request's own targets; 0: the tier's.  Tighter than the
                                         tier's count as the tier's. */
            uint32_t true_new; /* simulator: how many tokens it will have; 0: nobody knows */
            uint32_t n_prefix;
            struct sched_prefix prefix[SCHED_PREFIX_MAX];
        } arrive;
        struct {
            enum sched_role role;
            uint32_t n_blocks, block_tokens, max_batch, max_context;
            uint32_t klass;           /* of sched_add_class; 0: the class "default" */
            uint32_t max_step_tokens; /* prompt tokens in one step; 0 = 512 */
            bool can_flip;            /* can change its role */
            bool can_prefill;         /* decode worker: can compute prompts between its steps */
        } join;
        struct {
            uint32_t free_blocks, waiting, running, parked;
            uint64_t step_ns;
            uint64_t steps;   /* decode steps since it joined */
            uint64_t context; /* tokens of KV of its running requests */
        } report;
        struct {
            struct sched_step did;
            uint64_t ns;
        } step;
        struct {
            uint32_t peer;
            double bytes_per_s;
            uint64_t setup_ns;
        } link;
        struct {
            bool ok;
        } granted;
        struct {
            uint32_t tokens_done;
            uint64_t step_ns; /* 0: unknown.  SCHED_EV_STEP carries what the step did */
            uint32_t step_tokens;
        } progress;
        struct {
            bool finished; /* nothing is left to decode */
            uint64_t queue_ns,
                prefill_ns; /* in the worker: before its first step; first step to end */
        } prefilled;
        struct {
            enum err err;
            bool from_decode;
            uint64_t bytes, wire_ns, exposed_ns; /* 0: unknown */
        } handover;
        struct {
            uint32_t delivered; /* in all */
        } tokens;
        struct {
            enum err err;
        } released;
        struct {
            /* What the client saw; all 0: unknown.  late_ns: the largest lateness of any token against
             * deadline + k * tbt, negative when all were early. */
            uint64_t first_token_ns, last_token_ns; /* absolute */
            int64_t late_ns;
            uint32_t tokens;
        } finish;
    } u;
};

enum sched_action_kind {
    SCHED_ACT_RESERVE =
        1,             /* tell decode `worker` to set blocks aside for a hand-over from `peer` */
    SCHED_ACT_PREFILL, /* tell `worker` to compute; decode `peer` (0: none; `worker`: itself) gets the KV */
    SCHED_ACT_CANCEL,    /* tell `worker` to drop (request, epoch) */
    SCHED_ACT_INTRODUCE, /* prefill `worker` and decode `peer` may talk KV */
    SCHED_ACT_RESUME, /* front end: attempt `epoch` replaces the one before; send what was delivered
                              as part of the prompt when the next PREFILL action comes */
    SCHED_ACT_TIER,   /* front end: the request is served at terms.tier from now on */
    SCHED_ACT_REJECT, /* front end: never started; reason, refusal, retry_after_ns */
    SCHED_ACT_FAIL,   /* front end: given up after it started or waited; reason */
    SCHED_ACT_FLIP, /* tell `worker`, which is idle and drained, to take the other role: it leaves and
                              joins anew */
    SCHED_ACT_SCALE /* operator: scale.want workers of each role would be right */
};

enum sched_reason {
    SCHED_REASON_NONE = 0,
    SCHED_REASON_QUEUE_FULL,
    SCHED_REASON_TOO_LARGE, /* no worker of the pool could ever hold it */
    SCHED_REASON_STOPPING,
    SCHED_REASON_QUEUE_TIMEOUT,
    SCHED_REASON_REQUEST_TIMEOUT,
    SCHED_REASON_ATTEMPTS, /* max_attempts placements failed */
    SCHED_REASON_TTFT,     /* the first token would come too late */
    SCHED_REASON_TBT,      /* decode could not keep up: steps too long or no room in time */
    SCHED_REASON_PRICE,    /* it would cost more promises than it keeps */
    SCHED_REASON_QUOTA,    /* of the tenant */
    SCHED_REASON_SHARE,    /* the tenant has more than its share of a full tier */
    SCHED_REASON_DISPLACED /* it waited, and room went to requests that are worth more */
};
const char *sched_reason_name(enum sched_reason r);

/* Which resource of which stage a refusal is about. */
enum sched_resource {
    SCHED_RES_NONE = 0,
    SCHED_RES_PREFILL_TIME,
    SCHED_RES_LINK_TIME,
    SCHED_RES_DECODE_ROOM, /* KV blocks */
    SCHED_RES_DECODE_TIME, /* iteration time */
    SCHED_RES_QUEUE,
    SCHED_RES_TENANT
};
const char *sched_resource_name(enum sched_resource r); /* "prefill_time" ... */
const char *
sched_resource_stage(enum sched_resource r); /* "prefill", "handover", "decode", "queue" */

struct sched_refusal {
    enum sched_resource resource;
    uint64_t predicted_ns, target_ns; /* of the target that would be missed; 0: does not apply */
};

/* What the workers and the front end must know of the contract. */
struct sched_terms {
    uint32_t tier;
    uint64_t deadline_ns; /* of the first token, absolute */
    uint64_t tbt_ns;
    double weight;
    uint32_t transfer_class;
};

struct sched_action {
    enum sched_action_kind kind;
    uint64_t request;
    uint32_t epoch;
    uint32_t worker;
    uint32_t peer;
    uint64_t order;               /* PREFILL: smaller first */
    uint64_t retry_after_ns;      /* REJECT: 0: do not come back */
    enum sched_reason reason;     /* REJECT, FAIL */
    struct sched_refusal refusal; /* REJECT */
    struct sched_terms terms;     /* RESERVE, PREFILL, TIER */
    struct {
        uint32_t want[3]; /* by role */
    } scale;              /* SCALE */
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

/* Before the first worker of it joins.  A name that is there gives its id again, laws unchanged.
 * ERR_INVALID, ERR_NOMEM, ERR_LIMIT: SCHED_CLASSES_MAX. */
MUST_USE enum err sched_add_class(struct sched *s, const struct sched_class *c, struct err_msg *msg,
                                  uint32_t *id);
/* Add or replace.  A tenant nobody described has weight 1 and no quota.  ERR_INVALID, ERR_NOMEM. */
MUST_USE enum err sched_set_tenant(struct sched *s, const struct sched_tenant *t,
                                   struct err_msg *msg);

/* Apply one event; now never goes back.  Events that name something unknown or old are counted and
 * ignored: they are normal in a distributed system.  ERR_INVALID: a field out of range, an id that is
 * taken, or a time before the last one (a bug of the caller); ERR_NOMEM: state and actions are as before.
 * Placement that runs out of memory is no error: it is tried again at the next timer. */
MUST_USE enum err sched_apply(struct sched *s, const struct sched_event *e, uint64_t now_ns,
                              struct sched_actions *out);

/* When SCHED_EV_TIMER is due; UINT64_MAX: never. */
uint64_t sched_next_timer(const struct sched *s);

/* Comma-separated, for help and errors. */
const char *sched_policy_names(void);
/* Those that decide by what a live system can know; the others need the future, which a simulator has. */
const char *sched_policy_live_names(void);

#endif
