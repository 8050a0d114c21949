/* engine/kernels/quantize.h - rows of 16-bit values as 8-bit ones with one scale per row:
 *
 *   scale[r] = max_c |x[r][c]| / M         M: 448 for E4M3, 127 for INT8
 *   q[r][c]  = round(x[r][c] / scale[r])   to nearest, ties to even
 *   error[r] = {sum_c (q[r][c] * scale[r] - x[r][c])^2, sum_c x[r][c]^2}
 *
 *   x       [rows][cols] of dtype, x_stride elements from row to row
 *   q       [rows][cols] bytes, dense; E4M3 as in the OCP 8-bit formats (bias 7, no infinities, 0x7f is NaN and is
 *           not produced), INT8 two's complement
 *   scale   [rows] float; a row that is all zeros, or all below 2^-100, becomes zeros with scale 0
 *   error   [rows][2] float, or NULL
 *
 * The quotient is taken as x * (M / max) in fp32: at a tie of the exact quotient q may be its other neighbour.
 * A weight matrix [n][k] gets one scale per output channel, activations one per row (token).
 *
 * quantize() only enqueues.  Limits: cols >= 8, cols % 8 == 0, x_stride % 8 == 0, x 16-byte and q 8-byte
 * aligned; else ERR_INVALID.  rows == 0 does nothing.  ERR_DEVICE.
 * Moves rows * (3 * cols + 4) bytes; the second reading of x comes from cache. */
#ifndef ENGINE_KERNELS_QUANTIZE_H
#define ENGINE_KERNELS_QUANTIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a weight matrix is held in: the 16-bit type of the activations, or 8 bits with a scale per row. */
enum gpu_weight { GPU_WEIGHT_16 = 0, GPU_WEIGHT_E4M3, GPU_WEIGHT_INT8 };

struct quantize_args {
    uint8_t *q;
    float *scale, *error;
    const uint16_t *x;
    size_t x_stride;
    uint32_t rows, cols;
    enum gpu_dtype dtype;
    enum gpu_weight format; /* E4M3 or INT8 */
};

MUST_USE enum err quantize(const struct quantize_args *a, gpu_stream stream);

/* The definition, in double and host memory, x as floats [rows][cols] dense.  tie[r * cols + c], if tie is not
 * NULL, is the other value that a rounding of the quotient may lead to, or q itself. */
void quantize_ref(uint8_t *q, float *scale, double *error, const float *x, size_t rows, size_t cols,
                  enum gpu_weight format, uint8_t *tie);
/* The value of one byte without its scale. */
double quantize_value(uint8_t q, enum gpu_weight format);

#ifdef __cplusplus
}
#endif
#endif
