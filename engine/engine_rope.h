/* engine/engine_rope.h - private to engine: the frequencies of rotary positions, for every backend.
 *
 * Pure code.  Thread: any. */
#ifndef ENGINE_ENGINE_ROPE_H
#define ENGINE_ENGINE_ROPE_H

#include "engine/engine_model.h"

/* inv_freq[head_dim / 2]: the angle by which a pair turns from one position to the next.  In double: at
 * position 100,000 a float angle is off by hundredths of a radian. */
void engine_rope_inv_freq(const struct engine_model_config *m, double *inv_freq);

#endif
