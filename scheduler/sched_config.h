/* scheduler/sched_config.h - what the scheduler is told before it starts: tiers, tenants, worker classes,
 * limits, policy.
 *
 * A tier is a contract: one row binds a name to the targets, to what happens when they cannot be met, and
 * to its share when not everybody can be served.  The TTFT deadline of a request is
 *     arrival + ttft_ns + ttft_factor * (predicted time of its prompt alone on an idle worker)
 * and token k (k >= 1 after the first) is due k * tbt_ns later: a stream that is early has slack.
 *
 * Thread: none.  Units: ns, tokens, shares of 1. */
#ifndef SCHEDULER_SCHED_CONFIG_H
#define SCHEDULER_SCHED_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "scheduler/sched_law.h"

enum {
    SCHED_TIERS_MAX = 16,
    SCHED_NAME_MAX = 32,
    SCHED_CLASSES_MAX = 16,
    SCHED_CLASS_NAME_MAX = 64
};

/* What a tier promises that does not say. */
#define SCHED_PERCENTILE 0.98

/* What happens to a request of the tier whose targets are predicted to be missed. */
enum sched_miss_rule {
    SCHED_MISS_REFUSE = 0, /* 429 at once */
    SCHED_MISS_WAIT,       /* it waits for room until its deadline cannot be met any more */
    SCHED_MISS_DOWNGRADE   /* it is served at the next looser tier that can promise; else refused */
};

/* Its index in the config is its rank, 0 the strictest. */
struct sched_tier {
    char name[SCHED_NAME_MAX];
    uint64_t ttft_ns;
    double ttft_factor; /* >= 0 */
    uint64_t tbt_ns;
    double
        percentile; /* share of admitted requests that keep both targets: sets the margin of admission;
                          0 < p < 1; 0 = SCHED_PERCENTILE */
    double weight;   /* value of one request that keeps them; > 0; 0 = 1 */
    double reserved; /* share of prefill and decode capacity that is its own if it asks; sum < 1 */
    uint64_t starvation_ns; /* longest time without any admission while some ask; 0 = 10 s */
    enum sched_miss_rule on_miss;
    uint32_t transfer_class; /* KV hand-over: 0 first */
};

/* Fair shares inside a tier, and a quota over all tiers.  Service is counted in tokens: prompt + 2 x
 * generated.  All zero: weight 1, no quota. */
struct sched_tenant {
    uint32_t id;         /* 1 .. 2^32-1; 0 is "no tenant" */
    double weight;       /* share inside a tier when tenants compete; 0 = 1 */
    double tokens_per_s; /* quota; 0: none */
    double burst_s;      /* the bucket holds so many seconds of it; 0 = 10 */
    uint32_t max_live;   /* requests at a time; 0: no limit */
};

/* Workers that run one model on one kind of machine.  The laws seed the predictor, which learns on. */
struct sched_class {
    char name[SCHED_CLASS_NAME_MAX];
    struct sched_law prefill, decode;
    double kv_bytes_per_token; /* 0: hand-over time is learned from nothing */
    double link_bytes_per_s;   /* what a link is taken for until it was measured; 0 = 1e9 */
    uint64_t link_setup_ns;
    double park_bytes_per_s; /* KV out of and back into the pool of a decode worker; 0 = 10e9 */
    bool frozen; /* the laws are exact: learn nothing (simulator with perfect knowledge) */
};

struct sched_elastic {
    bool on;
    uint64_t interval_ns; /* 0 = 1 s */
    uint64_t cooldown_ns; /* 0 = 10 s: shortest time between flips; doubled by each reversal */
    uint32_t min_prefill, min_decode; /* 0 = 1 */
};

struct sched_config {
    struct sched_tier tiers[SCHED_TIERS_MAX];
    uint32_t n_tiers;
    char policy[SCHED_NAME_MAX]; /* sched_policy_names(); "" = baton */
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
    bool local_prefill; /* a decode worker may compute a prompt itself where that is better */
    struct sched_elastic elastic;
    uint32_t records; /* how many finished requests sched_record_* remembers; 0 = 1024 */
    uint64_t seed;    /* spreads retry times; decisions do not depend on it */
};
/* gold, silver, bronze (500/30, 2000/100, 10000/200 ms) and the default limits. */
void sched_config_defaults(struct sched_config *c);

#endif
