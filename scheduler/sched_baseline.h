/* scheduler/sched_baseline.h - private to scheduler/: what other systems do, on the same core, to
 * compare with.
 *
 * Each has its published behaviour and its published constants; where it uses predicted times it
 * gets those of the core.  They are first come first served unless they say otherwise, never evict,
 * and choose the decode worker again when the prompt starts, as systems do whose decode side pulls. */
#ifndef SCHEDULER_SCHED_BASELINE_H
#define SCHEDULER_SCHED_BASELINE_H

#include "scheduler/sched_ask.h"
#include "scheduler/sched_policy.h"

extern const struct sched_policy sched_policy_round_robin, sched_policy_least_loaded,
    sched_policy_power_of_two, sched_policy_distserve, sched_policy_strict_priority,
    sched_policy_edf, sched_policy_llmd_token_load, sched_policy_llmd_predicted,
    sched_policy_mooncake, sched_policy_always_local, sched_policy_always_disaggregate;

#define SCHED_BASELINES                                                                      \
    &sched_policy_round_robin, &sched_policy_least_loaded, &sched_policy_power_of_two,       \
        &sched_policy_distserve, &sched_policy_strict_priority, &sched_policy_edf,           \
        &sched_policy_llmd_token_load, &sched_policy_llmd_predicted, &sched_policy_mooncake, \
        &sched_policy_always_local, &sched_policy_always_disaggregate

/* Bind r to p and d; NULL d where none is needed.  HOLD when there is no p or no d. */
void sched_baseline_bind(const struct sched *s, const struct sched_request *r,
                         struct sched_worker *p, struct sched_worker *d, uint64_t key,
                         struct sched_offer *out);
/* The first candidate, least loaded; NULL: none. */
struct sched_worker *sched_baseline_least(const struct sched *s, enum sched_role role,
                                          const struct sched_request *r);
/* NULL where none is needed: is there one that it lacks? */
bool sched_baseline_needs_decode(const struct sched_request *r);

#endif
