/* engine/engine_samples.h - what the steps of a worker did and how long they took, a few per report: evenly
 * drawn, so that a scheduler that learns from them sees every kind of step and not only the last ones.
 *
 * Thread: the owner's. */
#ifndef ENGINE_ENGINE_SAMPLES_H
#define ENGINE_ENGINE_SAMPLES_H

#include <stdint.h>

#include "proto/wire_check.h"
#include "proto/wire_frame.h"

/* All zero is empty. */
struct engine_samples {
    /* private */
    uint32_t n, stride, skip;
    Baton__StepSample kept[WIRE_SAMPLES_MAX], out[WIRE_SAMPLES_MAX];
    Baton__StepSample *list[WIRE_SAMPLES_MAX];
};

/* Sums over the sequences of the step: prompt tokens n, n2 of n (n + 2 past), b decoded, ctx their context.
 * A step that did nothing, or more than a report may say, is left out. */
void engine_samples_add(struct engine_samples *s, uint64_t n, uint64_t n2, uint64_t b, uint64_t ctx,
                        uint64_t ns);
/* Moves what was drawn since the last call into m; its arrays are valid until the next call. */
void engine_samples_take(struct engine_samples *s, Baton__Report *m);

#endif
