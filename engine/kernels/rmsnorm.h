/* engine/kernels/rmsnorm.h - y[r,c] = x[r,c] * w[c] / sqrt(mean_c(x[r,c]^2) + eps), or of a sum that is kept.
 *
 *   x, y      16-bit [rows][cols], row-major, 16-byte aligned; y may be x
 *   w         16-bit [cols], 16-byte aligned; not written by the kernel before on the stream, which may still run
 *   residual  NULL, or 16-bit [rows][cols], overlapping neither x nor y: then residual += x, rounded once to the type,
 *             and y is the norm of the rounded sum, which is what the next layers see of it
 *
 * Sums are fp32, y is rounded to nearest even once.  A row's bits depend on its values and on cols alone, not on
 * the other rows of the launch.
 *
 * rmsnorm() only enqueues.  ERR_INVALID: cols outside 8 .. 32768 or no multiple of 8, a wrong dtype; rows 0 does
 * nothing.  ERR_DEVICE: the launch was refused.
 * Moves 4 * rows * cols + 2 * cols bytes, with the residual 8 * rows * cols + 2 * cols; bound by memory. */
#ifndef ENGINE_KERNELS_RMSNORM_H
#define ENGINE_KERNELS_RMSNORM_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rmsnorm_args {
    void *y;
    void *residual; /* NULL: the plain form */
    const void *x, *w;
    uint32_t rows, cols;
    float eps;
    enum gpu_dtype dtype;
};

MUST_USE enum err rmsnorm(const struct rmsnorm_args *a, gpu_stream stream);

/* The definition, in host memory: of x as given (the residual form norms its rounded sum). */
void rmsnorm_ref(float *y, const float *x, const float *w, uint32_t rows, uint32_t cols, float eps);

#ifdef __cplusplus
}
#endif
#endif
