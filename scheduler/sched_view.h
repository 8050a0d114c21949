/* scheduler/sched_view.h - looking at the scheduler: counts, workers, requests, predictor health, and one
 * record per finished request.  Nothing here changes a decision.
 *
 * Thread, units: those of sched.h. */
#ifndef SCHEDULER_SCHED_VIEW_H
#define SCHEDULER_SCHED_VIEW_H

#include "scheduler/sched.h"

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
    uint64_t flips, reversals; /* role changes asked for; of them, back within a minute */
    uint32_t want[3];          /* the planner's counts by role; 0: not known yet */
};
void sched_get_stats(const struct sched *s, struct sched_stats *out);
/* The worker that runs empty, or has been told, to change its role; 0: none. */
uint32_t sched_flipping(const struct sched *s);

/* Since the start, of requests whose tier at arrival this was. */
struct sched_tier_stats {
    uint64_t arrived, admitted, kept; /* kept: finished, and both targets met */
    uint64_t broken;                  /* admitted, then a target missed, or failed */
    uint64_t refused[16];             /* by enum sched_reason */
    uint64_t downgraded, canceled;
    uint64_t probes; /* admitted to see whether a prediction that refuses them is right */
    double margin;   /* of admission, controlled by its own broken promises; 0: none added */
};
void sched_get_tier_stats(const struct sched *s, uint32_t tier, struct sched_tier_stats *out);

/* How well a stage is predicted.  err = log(actual / predicted). */
enum sched_stage {
    SCHED_STAGE_PREFILL = 0, /* one prefill step */
    SCHED_STAGE_DECODE,      /* one decode step */
    SCHED_STAGE_HANDOVER,
    SCHED_STAGE_LENGTH, /* output length */
    SCHED_STAGE_TTFT,   /* arrival to first token, as forecast at admission */
    SCHED_STAGES
};
const char *sched_stage_name(enum sched_stage st);
struct sched_health {
    uint64_t n;
    double bias;     /* mean of err, decayed over about 500 observations */
    double mape;     /* mean of |actual - predicted| / actual, same window */
    double coverage; /* share inside the 90 % interval, since the start */
    double worst;    /* the worst coverage of any window of 500 so far; 1 until one was full */
    bool windowed;   /* one was */
    bool drift;      /* the recent bias does not fit the past: something has changed */
    bool lost;       /* coverage is lost: decisions use the named heuristic */
};
/* tier SCHED_TIERS_MAX: over all tiers. */
void sched_get_health(const struct sched *s, uint32_t tier, enum sched_stage stage,
                      struct sched_health *out);
/* "" while predictions are trusted, else the heuristic in use and why. */
const char *sched_fallback(const struct sched *s);

struct sched_worker_view {
    uint32_t worker;
    enum sched_role role;
    bool draining, flipping;
    uint32_t n_blocks, claimed_blocks;
    uint32_t requests, queued;   /* claimed; bound and not dispatched */
    uint64_t outstanding_tokens; /* prefill: given and not yet done */
    uint64_t backlog_ns;         /* prefill: predicted time of all that is bound or given */
    double bias;                 /* its speed against its class, as a factor on time */
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

/* ---- one record per request, made when it ends ---- */

enum sched_outcome {
    SCHED_OUT_KEPT = 1, /* finished, both targets met */
    SCHED_OUT_MISSED,   /* finished, a target missed */
    SCHED_OUT_REFUSED,
    SCHED_OUT_CANCELED,
    SCHED_OUT_FAILED
};
/* The stage that cost most over its forecast when a target was missed. */
enum sched_cause {
    SCHED_CAUSE_NONE = 0,
    SCHED_CAUSE_QUEUE,
    SCHED_CAUSE_PREFILL,
    SCHED_CAUSE_HANDOVER,
    SCHED_CAUSE_DECODE_WAIT,
    SCHED_CAUSE_DECODE,
    SCHED_CAUSE_FAILURE /* a worker was lost or an attempt failed */
};
const char *sched_outcome_name(enum sched_outcome o);
const char *sched_cause_name(enum sched_cause c);

/* All ns; 0: unknown or did not happen. */
struct sched_times {
    uint64_t queue, prefill, handover, decode_wait, ttft, step, total;
};
struct sched_pick {
    uint32_t prefill, decode;
    double score; /* predicted ns past what an idle pool would need; smaller is better */
};
struct sched_record {
    uint64_t request, arrived_ns, ended_ns;
    uint32_t tenant, tier_asked, tier;
    uint32_t n_prompt, n_cached, max_new, tokens, epochs;
    uint32_t predicted_tokens;                  /* median forecast at admission */
    struct sched_times predicted, high, actual; /* high: upper end of the 90 % interval */
    struct sched_pick chosen, runner_up;
    enum sched_outcome outcome;
    enum sched_reason reason;
    struct sched_refusal refusal;
    enum sched_cause cause;
    uint64_t ttft_target_ns, tbt_target_ns;
    int64_t late_ns;
    bool probe; /* run to see how long it takes: predicted to miss its targets */
};
/* Numbered from 0 without end; the last sched_config.records are kept.  next: how many there were. */
uint64_t sched_record_next(const struct sched *s);
/* ERR_NOT_FOUND: not yet made, or forgotten. */
MUST_USE enum err sched_record_get(const struct sched *s, uint64_t number,
                                   struct sched_record *out);

/* Tests and the simulator: walk everything and check the invariants (each claim belongs to a live or
 * canceled attempt, sums match, queue order holds, every waiting state has a timer, nothing waits that
 * an idle worker could take).  ERR_BAD_STATE with the first violation. */
MUST_USE enum err sched_check(const struct sched *s, struct err_msg *msg);

#endif
