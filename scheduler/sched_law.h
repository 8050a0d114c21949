/* scheduler/sched_law.h - the service law of one class of workers: how long a step takes.
 *
 *   prefill:  c0 + c1 n + c2 n (n + 2p) + c3 max(0, knee - n)      n new tokens behind p past ones
 *   decode:   c0 + c1 b + c2 S + c3 max(0, b - knee)               b sequences, S tokens of context in all
 *   mixed:    prefill + decode - the smaller of the two c0
 *
 * Several prompts in one step: n and n(n+2p) are sums over them.  Source: relative least squares on composed H100
 * kernel tables reproduces prefill to 1.9 % and decode to 2.5 %; DistServe (OSDI'24) uses the form without knee.
 *
 * Thread: none; pure.  Units: ns, tokens. */
#ifndef SCHEDULER_SCHED_LAW_H
#define SCHEDULER_SCHED_LAW_H

#include <stdbool.h>
#include <stdint.h>

struct sched_law {
    double c[4]; /* ns; >= 0; all zero: unknown */
    double knee;
};

/* What one step did: sums over its sequences. */
struct sched_step {
    double n, n2;  /* prompt tokens computed, and sum of n (n + 2p) */
    double b, ctx; /* sequences decoded, and their tokens of context */
};

static inline bool sched_law_known(const struct sched_law *l)
{
    return l->c[0] > 0 || l->c[1] > 0;
}

static inline double sched_law_prefill(const struct sched_law *l, double n, double n2)
{
    return l->c[0] + l->c[1] * n + l->c[2] * n2 + (n < l->knee ? l->c[3] * (l->knee - n) : 0);
}

static inline double sched_law_decode(const struct sched_law *l, double b, double ctx)
{
    return l->c[0] + l->c[1] * b + l->c[2] * ctx + (b > l->knee ? l->c[3] * (b - l->knee) : 0);
}

static inline double sched_law_step(const struct sched_law *prefill, const struct sched_law *decode,
                                    const struct sched_step *s)
{
    double both;

    if (s->n <= 0)
        return s->b > 0 ? sched_law_decode(decode, s->b, s->ctx) : 0;
    if (s->b <= 0)
        return sched_law_prefill(prefill, s->n, s->n2);
    both = sched_law_prefill(prefill, s->n, s->n2) + sched_law_decode(decode, s->b, s->ctx);
    return both - (prefill->c[0] < decode->c[0] ? prefill->c[0] : decode->c[0]);
}

#endif
