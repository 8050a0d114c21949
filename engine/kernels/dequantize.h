/* engine/kernels/dequantize.h - y[r][c] = q[r][c] * scale[r]: 8-bit rows back to 16 bits.
 *
 *   q      [rows][cols] bytes, dense, as quantize.h says
 *   scale  [rows] float
 *   y      [rows][cols] of dtype, dense; the fp32 product is rounded to nearest even once
 *
 * dequantize() only enqueues.  Limits: cols >= 16, cols % 16 == 0, q and y 16-byte aligned; else ERR_INVALID.
 * rows == 0 does nothing.  ERR_DEVICE.
 * Moves 3 * rows * cols + 4 * rows bytes and is bound by them. */
#ifndef ENGINE_KERNELS_DEQUANTIZE_H
#define ENGINE_KERNELS_DEQUANTIZE_H

#include <stdint.h>

#include "engine/kernels/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dequantize_args {
    uint16_t *y;
    const uint8_t *q;
    const float *scale;
    uint32_t rows, cols;
    enum gpu_dtype dtype;
    enum gpu_weight format; /* E4M3 or INT8 */
};

MUST_USE enum err dequantize(const struct dequantize_args *a, gpu_stream stream);

void dequantize_ref(float *y, const uint8_t *q, const float *scale, size_t rows, size_t cols,
                    enum gpu_weight format);

#ifdef __cplusplus
}
#endif
#endif
