/* engine/kernels/rmsnorm_ref.c - the definition, in double. */
#include "engine/kernels/rmsnorm.h"

#include <math.h>
#include <stddef.h>

void rmsnorm_ref(float *y, const float *x, const float *w, uint32_t rows, uint32_t cols, float eps)
{
    for (uint32_t r = 0; r < rows; r++) {
        const float *in = x + (size_t)r * cols;
        double sum = 0;

        for (uint32_t c = 0; c < cols; c++)
            sum += (double)in[c] * (double)in[c];
        for (uint32_t c = 0; c < cols; c++)
            y[(size_t)r * cols + c] =
                (float)((double)in[c] * (double)w[c] / sqrt(sum / (double)cols + (double)eps));
    }
}
