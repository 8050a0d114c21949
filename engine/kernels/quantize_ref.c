/* engine/kernels/quantize_ref.c - quantize.h by search: the byte whose value is nearest. */
#include "engine/kernels/quantize.h"

#include <math.h>

double quantize_value(uint8_t q, enum gpu_weight format)
{
    int exponent = q >> 3 & 15, fraction = q & 7;
    double size;

    if (format == GPU_WEIGHT_INT8)
        return (double)(int8_t)q;
    size = exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10);
    return (q & 0x80) != 0 ? -size : size;
}

/* Distances closer than this are a tie: the device's quotient is rounded, and rounded again. */
static const double tie_width = 1e-5;

/* Of the bytes of v's sign the nearest, the even one at a tie, then in *other its neighbour. */
static uint8_t nearest(double v, enum gpu_weight format, uint8_t *other)
{
    int last = format == GPU_WEIGHT_E4M3 ? 0x7e : 0x7f;
    uint8_t best = 0;
    double off = INFINITY;

    *other = 0;
    for (int code = 0; code <= last; code++) {
        int negative = format == GPU_WEIGHT_E4M3 ? code | 0x80 : -code & 0xff;
        uint8_t q = (uint8_t)(signbit(v) ? negative : code);
        double d = fabs(quantize_value(q, format) - v);
        int tie = fabs(d - off) <= tie_width * fabs(v);

        if (tie)
            *other = code % 2 == 0 ? best : q;
        if (tie ? code % 2 == 0 : d < off)
            best = q;
        if (!tie && d < off)
            *other = q;
        off = d < off ? d : off;
    }
    return best;
}

void quantize_ref(uint8_t *q, float *scale, double *error, const float *x, size_t rows, size_t cols,
                  enum gpu_weight format, uint8_t *tie)
{
    for (size_t r = 0; r < rows; r++) {
        double largest = 0, wrong = 0, size = 0, s;

        for (size_t c = 0; c < cols; c++)
            largest = fmax(largest, fabs((double)x[r * cols + c]));
        s = largest < 0x1p-100 ? 0 : largest / (format == GPU_WEIGHT_E4M3 ? 448 : 127);
        for (size_t c = 0; c < cols; c++) {
            double v = (double)x[r * cols + c], off;
            uint8_t other, best = nearest(s > 0 ? v / s : copysign(0, v), format, &other);

            q[r * cols + c] = best;
            if (tie != NULL)
                tie[r * cols + c] = other;
            off = quantize_value(best, format) * s - v;
            wrong += off * off;
            size += v * v;
        }
        scale[r] = (float)s;
        if (error != NULL) {
            error[2 * r] = wrong;
            error[2 * r + 1] = size;
        }
    }
}
