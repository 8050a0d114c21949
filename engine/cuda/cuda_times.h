/* engine/cuda/cuda_times.h - where the time of the CUDA backend's steps goes, for measurements.
 *
 * Thread: the stepping one, between steps. */
#ifndef ENGINE_CUDA_CUDA_TIMES_H
#define ENGINE_CUDA_CUDA_TIMES_H

#include <stdint.h>

struct engine;

enum { CUDA_PROFILE_OPS = 24 };

/* Milliseconds of the device by kind of operation, over all layers of one step. */
struct cuda_profile {
    uint32_t n;
    struct {
        const char *name; /* "qkv", "attention", ... */
        float ms;
    } op[CUDA_PROFILE_OPS];
};

/* Of the last step: what the host did while the device had nothing of this step to do (planning, enqueuing, reading
 * the results), in nanoseconds. */
uint64_t cuda_engine_host_ns(const struct engine *e);

/* The next step is enqueued kernel by kernel, with an event after each: slower than it would be. */
void cuda_engine_profile_next(struct engine *e);
/* Of the last profiled step of rank 0; NULL if there was none. */
const struct cuda_profile *cuda_engine_profile(const struct engine *e);

#endif
