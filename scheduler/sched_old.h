/* scheduler/sched_old.h - private to scheduler/: the objects behind sched.h and who changes them.
 *
 *   request  --attempts-->  attempt  --side[2]-->  worker
 *
 * A request is live from ARRIVE to its end; what is left of it then (state SCHED_REQ_ENDED) is only the
 * holder of attempts whose workers have not said RELEASED.  An attempt is current while its request
 * runs on it, and stays afterwards as long as one side is claimed.  A side is on its worker's list
 * while it is claimed or its attempt is current: so a worker that leaves finds all that depended on it.
 *
 * Allocation: a request is allocated at ARRIVE, an attempt when it is placed, and both reserve their
 * place in the timer heap then; every later step works with what is there and cannot fail.
 *
 * Order: nothing here depends on addresses or on map iteration. */
#ifndef SCHEDULER_SCHED_OLD_H
#define SCHEDULER_SCHED_OLD_H

#include "base/map.h"
#include "scheduler/sched.h"
#include "scheduler/sched_view.h"
#include "scheduler/sched_timer.h"
#include "scheduler/sched_tree.h"

/* Builds of the same sources with one planted bug each; tests/sim shows that the simulator sees them
 * all.  0 in everything that ships, so the compiler drops the branches. */
#ifndef SCHED_MUTANT
#define SCHED_MUTANT 0
#endif
#define SCHED_PLANTED(n) (SCHED_MUTANT == (n))

#define SCHED_OWNER(p, type, field) ((type *)(void *)((char *)(p)-offsetof(type, field)))

enum {
    SCHED_SCAN_MAX = 32,   /* requests looked at behind a head that has no decode room */
    SCHED_BYPASS_MAX = 16, /* requests that may take decode room before such a head */
    SCHED_PER_SHAPE = 4,   /* least loaded workers of one shape that placement compares */
    SCHED_CANDIDATES = 16, /* of all shapes */
    SCHED_PROBE_MAX = 8,   /* prefill workers of one shape probed for free blocks */
    SCHED_FORGIVE_TOKENS =
        16,                  /* an attempt that delivered so many is not blamed for a lost worker */
    SCHED_DRAIN_SECONDS = 10 /* window of the measured drain rate */
};
#define SCHED_MS ((uint64_t)1000000)
#define SCHED_SECOND (1000 * SCHED_MS)
#define SCHED_BACKOFF_MIN (10 * SCHED_MS)
#define SCHED_BACKOFF_MAX SCHED_SECOND
#define SCHED_FINISH_GRACE (500 * SCHED_MS)

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
    SCHED_WAITS_TREE,
    SCHED_WAITS_BACKOFF, /* after a failed attempt: until not_before_ns */
    SCHED_WAITS_WORKER   /* no worker here could hold it: until one joins */
};

struct sched_side {
    struct sched_attempt *attempt;
    struct sched_worker *worker; /* NULL: none needed, or it left */
    uint32_t worker_id;          /* 0: none needed */
    uint32_t blocks;
    bool claimed;
    bool listed;
    struct sched_side *prev, *next; /* on worker */
};

struct sched_attempt {
    struct sched_request *request;
    struct sched_attempt *next; /* of the request, newest first */
    struct sched_side side[2];
    struct sched_timer timer; /* armed while it waits for RELEASED */
    uint64_t given, done;     /* prompt tokens: outstanding on the prefill worker is given - done */
    uint32_t epoch;
    uint32_t base; /* tokens delivered before this attempt */
    bool current;
    bool granted;
    bool verified; /* the decode worker has the whole KV */
    bool finished; /* the last token was sampled; only FINISH is missing */
};

struct sched_request {
    uint64_t id;
    int state; /* enum sched_state or SCHED_REQ_*; written by request_set_state alone */
    uint32_t tier;
    int32_t priority;
    uint32_t n_prompt, max_new, delivered;
    uint32_t epoch; /* of the current attempt, or of the next one while QUEUED */
    uint32_t points, fails;
    uint32_t bypassed;
    uint32_t avoid[2]; /* workers of the attempt that failed last */
    uint64_t arrived_ns, deadline_ns, give_up_ns;
    uint64_t state_deadline_ns, grant_deadline_ns, not_before_ns;
    enum sched_waits_in waits_in;
    struct sched_node node;            /* SCHED_WAITS_TREE */
    struct sched_request *prev, *next; /* SCHED_WAITS_WORKER */
    struct sched_timer timer;
    struct sched_attempt *attempts, *current;
};

/* Workers that differ in nothing that decides whether a request could ever fit. */
struct sched_shape {
    struct sched_shape *next;
    enum sched_role role;
    uint32_t n_blocks, block_tokens, max_batch, max_context;
    uint32_t refs;           /* workers */
    uint32_t open;           /* of them, not draining */
    struct sched_tree index; /* of them, with a free slot and a free block; least loaded first */
};

struct sched_worker {
    uint32_t id;
    struct sched_shape *shape;
    bool draining;
    uint32_t claimed_blocks, claims;
    uint64_t outstanding;
    uint32_t reported_free, reported_waiting, reported_running;
    uint64_t step_ns;
    struct sched_node node;
    struct sched_side *first, *last;
    uint32_t n_sides;
    struct sched_worker *prev, *next; /* of the role, in the order of joining */
};

struct sched {
    struct sched_config cfg;
    uint64_t now;
    struct map requests, workers;
    struct sched_tree queue;
    struct sched_request *unfit_first, *unfit_last;
    struct sched_request
        *kept_for; /* passed too often: gets kept_worker, or any that has room first */
    uint32_t kept_worker;
    struct sched_timers timers;
    struct sched_shape *shapes;
    struct sched_worker *first_worker[3], *last_worker[3];
    struct sched_stats stats;
    uint32_t n_queued;
    uint32_t attempts; /* objects */
    uint32_t open_workers[3];
    uint32_t illegal_moves;
    bool stopping;
    bool wake;          /* something changed that may let a queued request be placed */
    bool place_pending; /* placement ran out of memory: try again soon */
    uint32_t placed[SCHED_DRAIN_SECONDS];
    uint64_t placed_second; /* the second that the newest bucket counts */
};

/* ---- sched_queue.c: who waits, in which order -------------------------------------------------- */

void sched_queue_init(struct sched *s);
void sched_queue_put(struct sched *s, struct sched_request *r, enum sched_waits_in where);
void sched_queue_take(struct sched *s, struct sched_request *r);
bool sched_queue_before(const struct sched_request *a, const struct sched_request *b);
struct sched_request *sched_queue_first(const struct sched *s);
struct sched_request *sched_queue_next(const struct sched_request *r);
void sched_queue_recall_unfit(struct sched *s); /* a worker joined */
/* What the request needs has changed. */
void sched_queue_reconsider(struct sched *s, struct sched_request *r);
/* Order as one number for the prefill worker's own queue. */
uint64_t sched_queue_order(const struct sched_request *r);
void sched_queue_count_placed(struct sched *s);
uint64_t sched_queue_retry_after(struct sched *s);

/* ---- sched_ledger.c: workers, shapes, claims --------------------------------------------------- */

struct sched_need {
    uint64_t prefill_tokens; /* prompt and what was delivered */
    uint64_t total_tokens;   /* prompt and all that may be generated */
    bool decode;
    uint32_t avoid[2];
    uint32_t closed; /* decode worker kept for another request; 0: none */
};

/* One worker as placement sees it. */
struct sched_candidate {
    uint32_t worker;
    bool avoid; /* the last attempt failed there */
    uint64_t outstanding;
    uint64_t free_tokens;
    uint32_t requests;
    uint64_t step_ns;
};

struct sched_worker *sched_ledger_worker(const struct sched *s, uint32_t id);
MUST_USE enum err sched_ledger_join(struct sched *s, const struct sched_event *e,
                                    struct sched_worker **out);
void sched_ledger_remove(struct sched *s, struct sched_worker *w); /* no sides left */
void sched_ledger_drain(struct sched *s, struct sched_worker *w);
void sched_ledger_claim(struct sched *s, struct sched_side *side, struct sched_worker *w,
                        uint64_t tokens);
void sched_ledger_release(struct sched *s, struct sched_side *side);
void sched_ledger_unlist(struct sched_side *side);
void sched_ledger_outstanding(struct sched_worker *w, uint64_t add, uint64_t sub);
/* Is there a worker of every role it needs? */
bool sched_ledger_known(const struct sched *s, const struct sched_need *need);
/* Could a worker of each role hold it, if it were empty?  A role of which none is known may get one. */
bool sched_ledger_could_fit(const struct sched *s, const struct sched_need *need);
uint32_t sched_ledger_candidates(const struct sched *s, enum sched_role role,
                                 const struct sched_need *need,
                                 struct sched_candidate v[SCHED_CANDIDATES]);
/* The decode worker with most room of those that could hold it when empty; 0: none has any. */
uint32_t sched_ledger_roomiest(const struct sched *s, const struct sched_need *need);
bool sched_ledger_may_index(const struct sched_worker *w);

/* ---- sched_place.c: the placement decision, and the walk over the queue ------------------------- */

struct sched_pair {
    uint32_t prefill, decode; /* decode 0: none needed */
};
enum sched_place_result {
    SCHED_PLACE_OK = 0,
    SCHED_PLACE_NO_PREFILL,
    SCHED_PLACE_NO_DECODE,
    SCHED_PLACE_UNFIT
};
enum sched_place_result sched_place_find(const struct sched *s, const struct sched_request *r,
                                         struct sched_pair *out);
void sched_place_queue(struct sched *s, struct sched_actions *out);

/* ---- sched_request.c: the life of a request ---------------------------------------------------- */

struct sched_need sched_request_need(const struct sched_request *r);
void sched_request_arrive(struct sched *s, struct sched_request *r); /* to QUEUED */
/* Claims, RESERVE, PREFILL.  false: out of memory, nothing changed. */
bool sched_request_start(struct sched *s, struct sched_request *r, struct sched_pair pair,
                         struct sched_actions *out);
void sched_request_prefilled(struct sched *s, struct sched_request *r, bool finished,
                             struct sched_actions *out);
void sched_request_verified(struct sched *s, struct sched_request *r);
void sched_request_progress(struct sched *s, struct sched_request *r);
/* The attempt is over without an end of the request: next attempt, or FAIL. */
void sched_request_attempt_failed(struct sched *s, struct sched_request *r,
                                  struct sched_actions *out);
void sched_request_worker_lost(struct sched *s, struct sched_request *r, bool alone,
                               struct sched_actions *out);
/* cancel: bit 0 tells the prefill worker, bit 1 the decode worker, where they still hold claims. */
enum { SCHED_TELL_NONE = 0, SCHED_TELL_PREFILL = 1, SCHED_TELL_DECODE = 2, SCHED_TELL_BOTH = 3 };
void sched_request_end(struct sched *s, struct sched_request *r, unsigned cancel,
                       struct sched_actions *out);
void sched_request_fail(struct sched *s, struct sched_request *r, enum sched_reason reason,
                        struct sched_actions *out);
void sched_request_arm(struct sched *s, struct sched_request *r);
/* A side lost its claim: free the attempt, and the request, if that was the last thing that held them. */
void sched_request_settle(struct sched *s, struct sched_attempt *a);
void sched_request_timer(struct sched *s, struct sched_request *r, struct sched_actions *out);
void sched_attempt_timer(struct sched *s, struct sched_attempt *a, struct sched_actions *out);

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

#endif
