/* decode/decode_fit.h - private: the service law of this worker, learned from its own steps, for the plan of the
 * next one.  Decode, prompt and mixed steps are one model, c0 + a b + c ctx + d n + e n2, which is what
 * sched_law_step says of the two laws below when they share c0; so a mixed step teaches both.
 *
 * The scheduler learns its own laws, with intervals; this one is only for the next few milliseconds.
 *
 * Thread: the engine's.  Units: ns, tokens. */
#ifndef DECODE_DECODE_FIT_H
#define DECODE_DECODE_FIT_H

#include <stdint.h>

#include "scheduler/sched_law.h"

enum { DECODE_FIT_TERMS = 5 };

/* All zero knows nothing. */
struct decode_fit {
    struct sched_law decode, prefill; /* all zero until enough steps of the kind were seen */
    /* private */
    double a[DECODE_FIT_TERMS][DECODE_FIT_TERMS], rhs[DECODE_FIT_TERMS];
    uint64_t n_decode, n_prefill;
};

void decode_fit_add(struct decode_fit *f, const struct sched_step *did, uint64_t ns);

#endif
