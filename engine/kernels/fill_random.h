/* engine/kernels/fill_random.h - y[i] = mean + spread * u(seed, i), u uniform in [-1, 1).
 *
 *   y  n elements of dtype, 16-byte aligned, with room for n rounded up to a multiple of 8 (the tail is written)
 *
 * For weights of measurements: a counter-based hash, the same on every device.  Only enqueues.
 * ERR_INVALID: y is NULL or not aligned, or n is 0 (nothing is launched); ERR_DEVICE: the launch was refused.
 * Moves 2 * n bytes. */
#ifndef ENGINE_KERNELS_FILL_RANDOM_H
#define ENGINE_KERNELS_FILL_RANDOM_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

MUST_USE enum err fill_random(uint16_t *y, uint64_t n, float mean, float spread, uint64_t seed,
                              enum gpu_dtype dtype, gpu_stream stream);
/* The same in double, before rounding to dtype: host memory. */
void fill_random_ref(double *y, uint64_t n, double mean, double spread, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
