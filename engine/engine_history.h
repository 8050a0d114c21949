/* engine/engine_history.h - private to engine: what a history holds, for the sampler to walk.
 *
 * Entries stand in the order in which their token was first added; a token has one entry.
 * Thread: the owner's. */
#ifndef ENGINE_ENGINE_HISTORY_H
#define ENGINE_ENGINE_HISTORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/map.h"
#include "engine/engine_sample.h"

struct engine_history_entry {
    int32_t token;
    uint32_t n_output; /* times generated; 0: only in the prompt */
};

struct engine_history {
    struct engine_history_entry *entries;
    size_t n, cap;
    struct map index; /* token + 1 -> entry number + 1; seeded, as ids come from clients */
};

#endif
