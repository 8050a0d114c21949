/* engine/kernels/gemv_ref.c - see gemv.h. */
#include "engine/kernels/gemv.h"

void gemv_ref(const struct gemv_ref_args *a)
{
    for (size_t m = 0; m < a->rows; m++) {
        for (size_t n = 0; n < a->n; n++) {
            double sum = 0, *y = &a->y[m * a->n + n];

            for (size_t k = 0; k < a->k; k++)
                sum += (double)a->x[m * a->k + k] * (double)a->w[n * a->k + k];
            sum *= a->scale != NULL ? (double)a->scale[n] : 1;
            sum += a->bias != NULL ? (double)a->bias[n] : 0;
            *y = sum + (a->add ? *y : 0);
        }
    }
}
