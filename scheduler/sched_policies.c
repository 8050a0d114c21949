/* scheduler/sched_policies.c - the list of policies, by name. */
#include <stddef.h>
#include <string.h>

#include "scheduler/sched_baseline.h"
#include "scheduler/sched_policy.h"

static const struct sched_policy *const policies[] = {
    &sched_policy_baton,
    &sched_policy_baton_clairvoyant,
    SCHED_BASELINES,
};
enum { N_POLICIES = sizeof(policies) / sizeof(policies[0]) };

const struct sched_policy *sched_policy_find(const char *name)
{
    if (name[0] == '\0')
        return &sched_policy_baton;
    for (int i = 0; i < N_POLICIES; i++) {
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    }
    return NULL;
}

#define LIVE_BASELINES                                                                            \
    "round-robin, least-loaded, power-of-two, distserve, strict-priority, edf, llmd-token-load, " \
    "llmd-predicted, mooncake-early-reject, always-local, always-disaggregate"

const char *sched_policy_names(void)
{
    return "baton, baton-clairvoyant, " LIVE_BASELINES;
}

const char *sched_policy_live_names(void)
{
    return "baton, " LIVE_BASELINES;
}
