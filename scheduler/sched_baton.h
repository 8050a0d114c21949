/* scheduler/sched_baton.h - private to scheduler/: what the policy "baton" keeps in the objects of the core.
 * Only sched_baton*.c look inside. */
#ifndef SCHEDULER_SCHED_BATON_H
#define SCHEDULER_SCHED_BATON_H

#include <stdint.h>

struct sched_baton; /* sched.policy_state */

struct sched_baton_request {
    uint32_t slot; /* in the decode worker's load, from 1; 0: none */
};

struct sched_baton_worker {
    void *load; /* decode: expected KV and batch; owned by the policy */
};

#endif
