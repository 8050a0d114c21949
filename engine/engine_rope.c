/* engine/engine_rope.c - see the header. */
#include "engine/engine_rope.h"

#include <math.h>

static const double TWO_PI = 6.283185307179586;

void engine_rope_inv_freq(const struct engine_model_config *m, double *inv_freq)
{
    double low = m->rope_original_positions / m->rope_low_freq_factor;
    double high = m->rope_original_positions / m->rope_high_freq_factor;

    for (uint32_t i = 0; i < m->head_dim / 2; i++) {
        double f = pow(m->rope_theta, -2.0 * i / m->head_dim);
        double wavelength = TWO_PI / f;

        if (m->rope_kind == ENGINE_ROPE_LINEAR) {
            f /= m->rope_factor;
        } else if (m->rope_kind == ENGINE_ROPE_LLAMA3 && wavelength > low) {
            f /= m->rope_factor;
        } else if (m->rope_kind == ENGINE_ROPE_LLAMA3 && wavelength > high) {
            double smooth = (m->rope_original_positions / wavelength - m->rope_low_freq_factor) /
                            (m->rope_high_freq_factor - m->rope_low_freq_factor);

            f = (1 - smooth) * f / m->rope_factor + smooth * f;
        }
        inv_freq[i] = f;
    }
}
