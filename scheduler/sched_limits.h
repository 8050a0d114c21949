/* scheduler/sched_limits.h - private to scheduler/: numbers that several of its files share. */
#ifndef SCHEDULER_SCHED_LIMITS_H
#define SCHEDULER_SCHED_LIMITS_H

#include <stdint.h>

#include "scheduler/sched.h"

enum {
    SCHED_PER_SHAPE = 4,   /* least loaded workers of one shape that placement compares */
    SCHED_CANDIDATES = 16, /* of all shapes, without those that hold a prefix */
    SCHED_CANDIDATES_MAX = SCHED_CANDIDATES + SCHED_PREFIX_MAX,
    SCHED_ASK_MAX =
        2, /* held requests asked again per event that made room: so many of the first */
    SCHED_EVICTED_MAX = 8, /* so often one request may be displaced */
    SCHED_FORGIVE_TOKENS =
        16, /* an attempt that delivered so many is not blamed for a lost worker */
    SCHED_DRAIN_SECONDS = 10, /* window of the measured drain rate */
    SCHED_STEP_TOKENS = 512   /* join.max_step_tokens when it is 0 */
};
#define SCHED_MS ((uint64_t)1000000)
#define SCHED_SECOND (1000 * SCHED_MS)
#define SCHED_BACKOFF_MIN (10 * SCHED_MS)
#define SCHED_BACKOFF_MAX SCHED_SECOND
#define SCHED_FINISH_GRACE (500 * SCHED_MS)
#define SCHED_TICK (100 * SCHED_MS)
/* What a prompt token is taken for while nothing is known of a class: queues still compare by
 * length. */
#define SCHED_NOMINAL_NS 20000.0

#endif
