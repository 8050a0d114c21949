/* engine/kernels/dequantize_ref.c - see dequantize.h. */
#include "engine/kernels/dequantize.h"

void dequantize_ref(float *y, const uint8_t *q, const float *scale, size_t rows, size_t cols,
                    enum gpu_weight format)
{
    for (size_t i = 0; i < rows * cols; i++)
        y[i] = (float)(quantize_value(q[i], format) * (double)scale[i / cols]);
}
