/* bench/law_fit.h - a service law (scheduler/sched_law.h) from measured steps.
 *
 * Relative least squares, exactly under "no coefficient below 0" (every subset of the four is tried), over every
 * sensible knee.
 *
 * Thread: any.  Units: ns. */
#ifndef BENCH_LAW_FIT_H
#define BENCH_LAW_FIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "scheduler/sched_law.h"

struct bench_law_point {
    struct sched_step did; /* prefill: n and n2; decode: b and ctx */
    double ns;             /* > 0 */
};
struct bench_law_fit {
    struct sched_law law;
    double mape, max_error; /* of the points, relative to the measured time */
};

/* ERR_INVALID: fewer than two points, or no law fits them. */
MUST_USE enum err bench_law_fit(const struct bench_law_point *v, size_t n, bool prefill,
                                struct bench_law_fit *out);

#endif
