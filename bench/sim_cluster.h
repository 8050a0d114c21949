/* bench/sim_cluster.h - the cluster file: worker classes, how many workers of each role, links, the pool of
 * prompt prefixes, and the tiers that go with the model.
 *
 *   name: h100-8b
 *   classes:
 *     - name: h100-8b            # laws and links: the keys of bench/profile_file.h, or
 *       profile: FILE            # a class file, relative to this one
 *       kv_tokens: 400000        # KV room of one worker
 *       block_tokens: 16         # default 16
 *       max_batch: 512           # default 256
 *       max_step_tokens: 2048    # prompt tokens in one step; default 2048
 *       max_context: 131072      # default 131072
 *       layers: 32               # the hand-over goes layer by layer; default 32
 *       noise: 0.02              # step times scatter by this much (sd of the logarithm); default 0
 *   workers:
 *     - {role: prefill, class: h100-8b, count: 3}
 *     - {role: decode, class: h100-8b, count: 2}
 *   prefix_pool: {tokens: 30000000, fetch_bytes_per_s: 46e9}      # optional
 *   tiers:                                                        # optional: the scheduler's defaults
 *     - {name: gold, ttft_ms: 500, ttft_factor: 3, tbt_ms: 30, weight: 4, share: 20, transfer_class: 0}
 *   flip_s: 1                                                     # how long a change of role takes
 *
 * Thread: the caller's.  Ownership: a value, nothing to free.  Units: tokens, ns in laws, s. */
#ifndef BENCH_SIM_CLUSTER_H
#define BENCH_SIM_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "scheduler/sched.h"

enum { BENCH_POOLS_MAX = 32, BENCH_WORKERS_MAX = 4096 };

struct bench_sim_class {
    struct sched_class sched; /* the truth; what the scheduler is told may differ */
    uint32_t kv_tokens, block_tokens, max_batch, max_step_tokens, max_context, layers;
    double noise;
};
struct bench_sim_pool {
    enum sched_role role;
    uint32_t klass, count;
};
struct bench_cluster {
    char name[64];
    struct bench_sim_class klass[SCHED_CLASSES_MAX];
    uint32_t n_classes;
    struct bench_sim_pool pool[BENCH_POOLS_MAX];
    uint32_t n_pools;
    struct sched_tier tiers[SCHED_TIERS_MAX];
    double share[SCHED_TIERS_MAX]; /* of arrivals */
    uint32_t n_tiers;
    double prefix_tokens; /* 0: no pool */
    double prefix_bytes_per_s, flip_s;
};

/* ERR_NOT_FOUND, ERR_IO, ERR_INVALID (file, line, key and range named), ERR_NOMEM. */
MUST_USE enum err bench_cluster_read(const char *path, struct bench_cluster *out,
                                     struct err_msg *msg);
/* Other counts of prefill and decode workers, for all pools of the role together; 0: as the file says.
 * ERR_INVALID: the file has no pool of that role, or over BENCH_WORKERS_MAX workers. */
MUST_USE enum err bench_cluster_resize(struct bench_cluster *c, uint32_t prefill, uint32_t decode,
                                       struct err_msg *msg);
uint32_t bench_cluster_count(const struct bench_cluster *c, enum sched_role role);

#endif
