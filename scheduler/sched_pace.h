/* scheduler/sched_pace.h - how fast a young stream needs its steps so that the mean time between its tokens is
 * kept even if it ends soon.
 *
 * The first gap is the longest: the hand-over, and what was left of the step that ran when it came.  A long answer
 * makes up for it by itself, one of three tokens does not.  So for its first tokens a stream asks for steps
 * so short that it is within its mean by the time at which one in a hundred answers as old as it would end; what
 * lengths are usual a decode worker learns from the answers that end there.
 *
 * Thread: the owner's.  Units: ns, tokens. */
#ifndef SCHEDULER_SCHED_PACE_H
#define SCHEDULER_SCHED_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { SCHED_PACE_YOUNG = 64 /* tokens; behind them no stream is hurried for its mean */ };

/* All zero: no answer has ended yet. */
struct sched_pace {
    float count[SCHED_PACE_YOUNG]; /* answers of so many tokens, decayed */
    float longer;
    bool learned;   /* `rest` was made; before, no stream is hurried */
    uint32_t fresh; /* answers since */
    uint8_t rest
        [SCHED_PACE_YOUNG]; /* tokens that nearly all still have behind the one with this index */
};

/* An answer of so many tokens ended. */
void sched_pace_ended(struct sched_pace *p, uint32_t tokens);

/* The longest step that a stream can have now whose next token is the k-th after its first (first_ns, != 0);
 * 0: any, because it is within its mean, or too far behind to catch up while it is young. */
double sched_pace_of(const struct sched_pace *p, uint64_t first_ns, uint64_t k, uint64_t tbt_ns,
                     uint64_t now_ns);
/* The longest step that may run when a stream comes whose own take step_ns: it waits for the rest of that one, its
 * hand-over took as long, and it is to be within its mean all the same; INT64_MAX: any. */
int64_t sched_pace_before(const struct sched_pace *p, uint64_t tbt_ns, double step_ns);
/* No pace is shorter: steps of a few streams alone would slow the others down more than they help. */
double sched_pace_least(uint64_t tbt_ns);

#endif
