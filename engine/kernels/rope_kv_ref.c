/* engine/kernels/rope_kv_ref.c - the definition, in double. */
#include "engine/kernels/rope_kv.h"

#include <math.h>

void rope_kv_ref(float *head, const double *inv_freq, uint32_t head_dim, uint32_t position)
{
    uint32_t half = head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        double angle = position * inv_freq[i], a = (double)head[i], b = (double)head[half + i];

        head[i] = (float)(a * cos(angle) - b * sin(angle));
        head[half + i] = (float)(b * cos(angle) + a * sin(angle));
    }
}
