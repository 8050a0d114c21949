/* engine/kernels/gemv.h - products of few rows with a weight matrix:
 *
 *   y[m][n] = (sum_k x[m][k] * w[n][k]) * scale[n] + bias[n] + (add ? y[m][n] : 0)      m < rows <= 16
 *
 *   x      [rows][k] of dtype, x_stride elements from row to row
 *   w      [n][k] dense: of dtype, or 8-bit as quantize.h says
 *   scale  [n] float; must be NULL for 16-bit weights and given for 8-bit ones
 *   bias   [n] of dtype, or NULL
 *   y      [rows][n], y_stride elements from row to row: of dtype, or float if y_f32
 *   sums   fp32 on tensor cores, each of k products in an order that depends on k and the format alone: a row's
 *          result does not depend on the other rows.  8-bit weights are exact in dtype, so nothing else is
 *          rounded; everything after the sum is fp32, and the result is rounded to nearest even once
 *
 * y and x do not overlap.  gemv() only enqueues.  Of w some is read while the kernel before on the stream may still run:
 * where that one makes w, something that is no kernel (a copy, a wait of the host) stands between the two.
 * Limits: rows 1 .. GEMV_ROWS, n >= 1, k >= 8 (16 with 8 bits) and a multiple of that, x and w 16-byte aligned,
 * x_stride % 8 == 0; else ERR_INVALID.  ERR_DEVICE.
 * Moves n * k * (2 or 1) bytes for the weights and is bound by them; beside them rows * (k + n) * 2. */
#ifndef ENGINE_KERNELS_GEMV_H
#define ENGINE_KERNELS_GEMV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GEMV_ROWS = 16 };

struct gemv_args {
    void *y;
    const uint16_t *x;
    const void *w;
    const float *scale;
    const uint16_t *bias;
    size_t x_stride, y_stride;
    uint32_t rows, n, k;
    enum gpu_dtype dtype;
    enum gpu_weight weight;
    bool y_f32, add;
};

MUST_USE enum err gemv(const struct gemv_args *a, gpu_stream stream);

/* The definition: every operand host memory, 16-bit values given as floats; w as the values of the bytes or 16-bit
 * words, without the scale; x [rows][k], w [n][k] and y [rows][n] dense.  y holds what `add` adds to. */
struct gemv_ref_args {
    double *y;
    const float *x, *w, *scale, *bias; /* scale and bias may be NULL */
    size_t rows, n, k;
    bool add;
};
void gemv_ref(const struct gemv_ref_args *a);

#ifdef __cplusplus
}
#endif
#endif
