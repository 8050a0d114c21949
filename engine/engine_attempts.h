/* engine/engine_attempts.h - finds what a worker holds by (request, epoch), and lists it.
 *
 * A worker may hold several attempts of one request at once, because blocks of a failed one can stay in
 * use while the next begins.  Intrusive: embed a struct engine_attempt as the first member.
 *
 * Thread: the owner's. */
#ifndef ENGINE_ENGINE_ATTEMPTS_H
#define ENGINE_ENGINE_ATTEMPTS_H

#include <stdint.h>

#include "base/err.h"
#include "base/map.h"

struct engine_attempt {
    uint64_t request; /* set before add; non-zero */
    uint32_t epoch;
    /* private */
    struct engine_attempt *next, *prev, *older;
};

/* All zero is empty. */
struct engine_attempts {
    struct engine_attempt *first; /* read-only: walk with ->next */
    uint32_t n;                   /* read-only */
    /* private */
    struct map by_request; /* the one added last; others chained behind it */
};

struct engine_attempt *engine_attempts_find(const struct engine_attempts *t, uint64_t request,
                                            uint32_t epoch); /* NULL: absent */
MUST_USE enum err engine_attempts_add(struct engine_attempts *t, struct engine_attempt *a);
void engine_attempts_remove(struct engine_attempts *t, struct engine_attempt *a);
void engine_attempts_free(struct engine_attempts *t); /* must be empty */

#endif
