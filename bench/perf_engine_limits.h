/* bench/perf_engine_limits.h - what this machine can do at best: arithmetic and reading memory.
 *
 * Thread: the caller's; starts n_threads threads and joins them.  Blocking: about a second each. */
#ifndef BENCH_PERF_ENGINE_LIMITS_H
#define BENCH_PERF_ENGINE_LIMITS_H

#include <stdint.h>

#include "base/err.h"

struct bench_limits {
    double read_bytes_per_s; /* of a working set beyond all caches */
    double f32_flops;        /* multiply-adds counted as two */
    double bf16_flops;       /* 0: the processor has no such instruction */
};

/* ERR_NOMEM: no memory or no thread. */
MUST_USE enum err bench_limits_measure(uint32_t n_threads, struct bench_limits *out);

/* Cores this process may run on. */
uint32_t bench_limits_cores(void);

#endif
