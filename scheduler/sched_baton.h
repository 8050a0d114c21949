/* scheduler/sched_baton.h - private to scheduler/: what the policy "baton" keeps in the objects of the core.
 * Only sched_baton*.c look inside. */
#ifndef SCHEDULER_SCHED_BATON_H
#define SCHEDULER_SCHED_BATON_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/sched_config.h"

struct sched_baton; /* sched.policy_state */
struct sched_worker;

struct sched_baton_request {
    struct sched_worker *on;   /* decode worker whose load counts it; NULL: none */
    struct sched_worker *from; /* prefill worker whose KV for `on` has not come; NULL: none */
    uint32_t slot;             /* in that load */
    float weight;              /* at which it was bound: what evicting it costs */
    float out;                 /* predicted tokens */
    bool counted : 1;          /* seen as an arrival */
    bool was_held : 1;
    bool over : 1;     /* its tenant asked for more than its fair share when it arrived */
    bool starving : 1; /* bound by its tier's right, reserved or starving: not to be evicted */
    bool large : 1;    /* of the largest tenth of prompts, when it arrived */
    bool slow : 1;     /* a decode promise was broken by waiting or slow steps */
    uint8_t held_tier; /* was_held: where it is counted */
    uint64_t ready_ns; /* when its KV is expected on the decode worker */
};

struct sched_baton_worker {
    void *load;       /* decode: expected KV and batch; owned by the policy */
    uint64_t seen_ns; /* its last step, or when it joined */
    double coming
        [SCHED_TIERS_MAX]; /* tokens of KV that were promised to it, or from it, and have not come */
    uint64_t work_ns;      /* when it was given work for the first time; 0: never */
};

#endif
