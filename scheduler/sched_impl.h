/* scheduler/sched_impl.h - private to scheduler/: the objects behind sched.h and who changes them.
 *
 *   request  --attempts-->  attempt  --side[2]-->  worker
 *
 * A request is live from ARRIVE to its end; what is left of it then (state SCHED_REQ_ENDED) is only
 * the holder of attempts whose workers have not said RELEASED.  An attempt is current while its
 * request runs on it, and stays afterwards as long as one side is claimed.  A side is on its
 * worker's list while it is claimed or its attempt is current: so a worker that leaves finds all
 * that depended on it.
 *
 * Queues: a bound request is in two sets of its worker `home`: `waiting` until it is dispatched,
 * and `edf` until its prompt is computed.  So edf holds all the prefill work that the worker has
 * before it, dispatched or not, with what is left of each.
 *
 * Allocation: a request is allocated at ARRIVE, an attempt when it is dispatched, and both reserve
 * their place in the timer heap then; every later step works with what is there and cannot fail.
 *
 * Order: nothing here depends on addresses or on map iteration. */
#ifndef SCHEDULER_SCHED_IMPL_H
#define SCHEDULER_SCHED_IMPL_H

#include "base/map.h"
#include "scheduler/sched.h"
#include "scheduler/sched_baton.h"
#include "scheduler/sched_edf.h"
#include "scheduler/sched_length.h"
#include "scheduler/sched_limits.h"
#include "scheduler/sched_plan.h"
#include "scheduler/sched_policy.h"
#include "scheduler/sched_predict.h"
#include "scheduler/sched_tenant.h"
#include "scheduler/sched_timer.h"
#include "scheduler/sched_tree.h"
#include "scheduler/sched_view.h"

/* A build of the same sources with planted bugs, one of them at a time; tests/sim shows that the
 * simulator sees them all.  Nothing that ships has them. */
#ifdef SCHED_MUTANTS
extern int sched_mutant;
#define SCHED_PLANTED(n) (sched_mutant == (n))
#else
#define SCHED_PLANTED(n) (0)
#endif

#define SCHED_OWNER(p, type, field) ((type *)(void *)((char *)(p)-offsetof(type, field)))

static inline uint64_t sched_after(uint64_t now, uint64_t wait)
{
    return wait > SCHED_NEVER - now ? SCHED_NEVER : now + wait;
}

/* ---- the objects ------------------------------------------------------------------------------- */

enum { SCHED_SIDE_PREFILL = 0, SCHED_SIDE_DECODE = 1 };
/* Private states beside enum sched_state. */
enum { SCHED_REQ_NEW = 0, SCHED_REQ_ENDED = SCHED_STATE_DECODING + 1, SCHED_REQ_STATES };

enum sched_waits_in {
    SCHED_WAITS_NOWHERE = 0, /* not QUEUED */
    SCHED_WAITS_PLACE,       /* the policy is asked after the present event */
    SCHED_WAITS_BOUND,       /* in the queue of `home` */
    SCHED_WAITS_HELD,        /* the policy keeps it aside: until wake_ns, asked when room appears */
    SCHED_WAITS_BACKOFF,     /* after a failed attempt: until wake_ns */
    SCHED_WAITS_WORKER       /* no worker here could hold it: until one joins */
};

struct sched_side {
    struct sched_attempt *attempt;
    struct sched_worker *worker; /* NULL: none needed, or it left */
    uint32_t worker_id;          /* 0: none needed */
    uint32_t blocks;
    bool claimed;
    bool told; /* the worker has heard of it: only then it will say RELEASED */
    bool listed;
    struct sched_side *prev, *next; /* on worker */
};

struct sched_attempt {
    struct sched_request *request;
    struct sched_attempt *next; /* of the request, newest first */
    struct sched_side side[2];  /* local: side[DECODE] alone */
    struct sched_timer timer;   /* armed while it waits for RELEASED */
    uint64_t given, done; /* prompt tokens: outstanding on the computing worker is given - done */
    uint32_t cached;      /* of the given, not to be computed */
    uint32_t epoch;
    uint32_t base; /* tokens delivered before this attempt */
    bool current;
    bool local;    /* the decode worker computes the prompt itself */
    bool reserved; /* RESERVE was said */
    bool granted;
    bool verified; /* the decode worker has the whole KV */
    bool finished; /* the last token was sampled; only FINISH is missing */
};

/* struct sched_times in half the room. */
struct sched_cast {
    float queue, prefill, handover, decode_wait, ttft, step, total;
};

/* Most of what a scheduler holds are these, and most of the time they are cold: their size is what a queued request
 * costs, and their order decides how many cache lines an event has to wait for.  A load model reads those from
 * baton.ready_ns to cast.most of many requests per decision; they share two lines. */
struct sched_request {
    uint64_t id;
    uint64_t length_key;
    uint64_t own_ttft_ns, own_tbt_ns; /* asked for; 0: the tier's */
    struct sched_baton_request baton; /* ends with ready_ns */
    uint8_t state;            /* enum sched_state or SCHED_REQ_*; written by request_set_state
                                         alone */
    uint8_t tier_asked, tier; /* at arrival; served at */
    uint8_t n_prefix;
    uint32_t n_prompt, max_new, delivered;
    struct sched_worker *mate; /* the decode worker promised or in use; NULL: none needed */
    uint64_t steps_joined;     /* its step counter when the request began to decode there */
    struct sched_length_cast cast;

    uint32_t epoch; /* of the current attempt, or of the next one while QUEUED */
    struct sched_attempt *attempts, *current;
    struct sched_worker *home; /* while item is in its edf */
    uint16_t points, fails;
    uint8_t evicted;
    bool admitted : 1; /* was dispatched once: never refused any more */
    bool late : 1;     /* a token was late */
    bool lost : 1;     /* an attempt failed or lost its worker */
    bool probe : 1;    /* run to see how long it takes */
    enum sched_waits_in waits_in : 8;
    enum sched_outcome outcome : 8; /* from the end on */
    enum sched_reason reason : 8;
    enum sched_cause cause : 8;
    enum sched_resource
        lacks : 8; /* with the times below, what was said when it was refused or held */
    uint64_t arrived_ns;
    uint64_t
        isolated_ns; /* its uncached prompt alone on an idle worker, predicted at arrival; 0: unknown */
    uint64_t deadline_ns, tbt_ns; /* of the first token, absolute; of each after it */
    uint64_t state_deadline_ns, grant_deadline_ns;
    uint64_t wake_ns; /* BACKOFF: the end of the pause; HELD: asked again at the latest */
    struct sched_timer timer;

    struct sched_edf_item item;        /* in home->edf from BOUND until the prompt is computed */
    struct sched_node node;            /* HELD: sched.held; BOUND: home->waiting */
    struct sched_request *prev, *next; /* WORKER, PLACE: those lists; BOUND: mate->mates */
    uint32_t mate_blocks;              /* BOUND: expected on mate */
    uint32_t cached;                   /* prompt tokens that were not to be computed */
    int32_t priority;
    uint32_t tenant;
    float cost;        /* charged to the tenant */
    uint32_t true_new; /* 0: nobody knows */
    uint32_t avoid[2]; /* workers of the attempt that failed last */

    /* of the last offer that bound it, and what became of it */
    struct sched_cast forecast, high;
    float ttft_raw,
        ttft_low; /* as the policy forecast it, to the client; low end of the interval */
    struct {
        uint32_t prefill, decode;
        float score;
    } chosen, runner_up;
    uint64_t worker_queue_ns, worker_prefill_ns;               /* as the worker said */
    uint64_t dispatched_ns, first_ns, granted_ns, decoding_ns; /* of the last attempt; 0: not yet */
    uint64_t lacks_predicted_ns, lacks_target_ns;
    struct sched_prefix prefix[]; /* n_prefix */
};

/* Workers that differ in nothing that decides whether a request could ever fit, or how fast it is. */
struct sched_shape {
    struct sched_shape *next;
    enum sched_role role;
    uint32_t n_blocks, block_tokens, max_batch, max_context;
    uint32_t klass;
    bool can_prefill;
    uint32_t refs;           /* workers */
    uint32_t open;           /* of them, not draining */
    struct sched_tree index; /* of them, the open ones; least loaded first */
};

struct sched_worker {
    uint32_t id;
    struct sched_shape *shape;
    struct sched_klass *klass;
    bool draining, flipping, can_flip;
    bool can_prefill; /* prefill worker, or a decode worker that can compute prompts */
    uint32_t max_step_tokens;
    uint32_t claimed_blocks, claims; /* decode: expectations, may be more than there is */
    uint64_t outstanding;            /* prompt tokens dispatched to it and not yet computed */
    uint32_t pool_pos;               /* in sched.pool[role] while open */

    /* its prefill work */
    struct sched_edf edf;               /* bound, dispatched or not, prompt not computed */
    struct sched_tree waiting;          /* bound, not dispatched */
    uint64_t since_ns;                  /* the work in edf is counted from here: last progress, or
                        when it came */
    uint32_t promised, promised_blocks; /* decode: to those */
    struct sched_request *mates;        /* decode: bound elsewhere and promised to it */

    /* what it reported */
    uint32_t reported_free, reported_waiting, reported_running, reported_parked;
    uint64_t step_ns, steps, context;
    uint64_t busy_ns;                        /* its time with prompts is counted up to here */
    uint32_t decoding;                       /* requests in DECODING here */
    uint32_t decoding_tier[SCHED_TIERS_MAX]; /* of them, by tier */
    struct sched_bias prefill_bias, decode_bias;

    double load; /* key of the index; see sched_ledger_reindex */
    struct sched_node node;
    struct sched_side *first, *last;
    uint32_t n_sides;
    struct sched_worker *prev, *next; /* of the role, in the order of joining */
    bool dirty;
    struct sched_worker *next_dirty;
    struct sched_baton_worker baton;
};

/* A class and what was learned of it. */
struct sched_klass {
    struct sched_class c;
    struct sched_predict prefill, decode;
    struct sched_link_predict link; /* of all its links: what a new one starts from */
    double most_context;            /* tokens of KV in one decode step: the most that was seen */
    uint32_t step_tokens;           /* of the worker that joined last */
    uint32_t open[3];               /* workers, by role */
};

struct sched {
    struct sched_config cfg;
    const struct sched_policy *policy;
    const struct sched_policy *placing; /* the same, or the heuristic while predictions are lost */
    void *policy_state;
    uint64_t now;
    struct map requests, workers, links;
    struct sched_klass klass[SCHED_CLASSES_MAX]; /* [0]: "default" */
    uint32_t n_klass;

    struct sched_tree held;
    struct sched_request *place_first, *place_last;
    struct sched_request *unfit_first, *unfit_last;
    uint64_t held_cursor;       /* id of the held request that was asked last out of turn */
    struct sched_worker *dirty; /* something changed that may let it take work */
    bool wake;                  /* room appeared: ask held ones */
    bool place_pending;         /* placement ran out of memory: try again soon */

    struct sched_timers timers;
    uint64_t next_tick; /* of the policy; counts while a request is live */
    uint64_t next_plan; /* of the planner */
    struct sched_shape *shapes;
    struct sched_worker *first_worker[3], *last_worker[3];
    struct {
        struct sched_worker **v; /* open workers of the role, in no particular order */
        uint32_t n, cap;
    } pool[3];
    bool had[3]; /* a worker of the role was there once */
    struct sched_stats stats;
    uint32_t n_queued;
    uint32_t attempts, illegal_moves; /* attempts: objects */
    bool stopping;
    uint32_t placed[SCHED_DRAIN_SECONDS];
    uint64_t placed_second; /* the second that the newest bucket counts */
    uint32_t rr[3];         /* round robin: the worker taken last, by role */
    char fallback[160];
    struct sched_record *records; /* ring of cfg.records */
    uint64_t next_record;
    struct {
        struct sched_moments moments;
        struct sched_plan plan;
        double use[3], busy_ns[3];   /* by role: smoothed; of its workers since the last tick */
        uint32_t arrived, missed[3]; /* since the last tick; missed or refused for want of a role */
        uint32_t flipping;           /* worker that drains to change its role; 0: none */
        bool told;                   /* FLIP was said: it has to leave now */
        uint64_t flip_until_ns, last_ns;
    } elastic;
    struct sched_length *lengths;
    struct sched_tenants *tenants;
    struct sched_tier_stats tier_stats[SCHED_TIERS_MAX];
    struct sched_score score[SCHED_TIERS_MAX + 1][SCHED_STAGES];
    struct sched_ttft { /* of log(actual / forecast) of first tokens */
        uint64_t n;
        double low, median, high; /* quantiles */
        double scale, missed;     /* mean distance from the median; share outside */
        double recent;            /* the same of the last 20 or so */
    } ttft[SCHED_TIERS_MAX];      /* by tier served */
    double front_ns;              /* from the worker's first token to the client's, smoothed */
    /* What the client saw of the request that ends now: from sched_record_judge to sched_record_end. */
    struct {
        uint64_t ttft, step;
        int64_t late_ns;
    } seen;
};

#endif
