/* engine/kernels/swiglu_ref.c - the definition, in double. */
#include "engine/kernels/swiglu.h"

#include <math.h>
#include <stddef.h>

void swiglu_ref(float *out, const float *gate_up, uint32_t rows, uint32_t ffn)
{
    for (uint32_t r = 0; r < rows; r++) {
        const float *gate = gate_up + (size_t)r * 2 * ffn, *up = gate + ffn;

        for (uint32_t c = 0; c < ffn; c++)
            out[(size_t)r * ffn + c] =
                (float)((double)gate[c] / (1 + exp(-(double)gate[c])) * (double)up[c]);
    }
}
