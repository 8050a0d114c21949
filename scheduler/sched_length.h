/* scheduler/sched_length.h - how many tokens will this request generate?
 *
 * Decayed histograms of the logarithm of output length, one per half octave of prompt length, one per
 * session (length_key), one per tenant and one over all; a forecast is their mixture, shrunk towards the
 * parent where a child has seen little, conditional on the tokens generated so far, and cut at max_new.
 * The 90 % interval is calibrated online (adaptive conformal inference).  Sessions and tenants live in tables of
 * fixed size: the least recently seen one is forgotten.  Before anything was seen: a median of 130 tokens, two
 * thirds between 48 and 350.
 *
 * At first only short answers have ended, however many long ones are on their way: until the forecasts count many times
 * the longest life (in forecasts made meanwhile), what was seen is weighted by how many of its kind could have ended
 * yet, and those that are missing are taken for longer than any that was seen.
 *
 * A request that ran into its max_new says only that it would have gone on: it counts for what lies beyond, in
 * the proportions seen there.
 *
 * Source: scheduling by online sketches needs no text model; perfect knowledge of the length was worth 0 to 2 points of
 * attainment over these in simulation.
 *
 * Thread: none.  Ownership: the struct owns its tables.  Units: tokens. */
#ifndef SCHEDULER_SCHED_LENGTH_H
#define SCHEDULER_SCHED_LENGTH_H

#include <stdint.h>

#include "base/err.h"
#include "scheduler/sched_predict.h"

struct sched_length; /* opaque */

MUST_USE enum err sched_length_create(struct sched_length **out); /* ERR_NOMEM */
void sched_length_free(struct sched_length *l);

/* What a request is like. */
struct sched_length_of {
    uint32_t n_prompt, max_new, tenant;
    uint64_t key; /* 0: none */
};
/* A forecast is asked for once per request and kept: 24 quantiles of its own mixture. */
enum { SCHED_LENGTH_POINTS = 24 };
struct sched_length_cast {
    /* tokens at probability (i + 0.5) / POINTS, ascending, 1 .. 65535; what is longer shows in mean, low and high, up
     * to 2^18 */
    uint16_t q[SCHED_LENGTH_POINTS];
    float mean;
    uint32_t high; /* calibrated 95 % quantile; with low the 90 % interval */
    uint32_t low;
    uint32_t most;           /* max_new; no quantile lies beyond */
    float raw_low, raw_high; /* the bounds before calibration: what it learns from */
    uint32_t born;           /* number of this forecast; 0: made by other means */
};
/* max_new 0: no limit. */
void sched_length_forecast(struct sched_length *l, const struct sched_length_of *of,
                           struct sched_length_cast *out);
/* Once: the request is turned away, at once or after a wait, and will never show a length.  Otherwise it would count
 * as one that still runs, and what ends would be taken for the short part of what there is. */
void sched_length_unasked(struct sched_length *l, const struct sched_length_cast *cast);
/* Quantile p (0 .. 1) of the whole length, given that `so_far` tokens are there and it goes on; > so_far, and not
 * past `most` unless so_far is. */
double sched_length_given(const struct sched_length_cast *c, double so_far, double p);
/* Points of the cast that are at most x.  All are compared: that takes no branch and a few instructions. */
static inline uint32_t sched_length_rank(const struct sched_length_cast *c, double x)
{
    uint16_t limit = !(x > 0) ? 0 : x < UINT16_MAX ? (uint16_t)x : UINT16_MAX, n = 0;

    for (int i = 0; i < SCHED_LENGTH_POINTS; i++)
        n = (uint16_t)(n + (c->q[i] <= limit));
    return n;
}
/* The same for one who knows rank = sched_length_rank(c, so_far). */
double sched_length_given_at(const struct sched_length_cast *c, double so_far, uint32_t rank,
                             double p);
/* It has ended with `tokens` by itself or at max_new; canceled ones are not shown.  cast: what had been forecast;
 * score may be NULL.  0 tokens are ignored. */
void sched_length_observe(struct sched_length *l, const struct sched_length_of *of,
                          const struct sched_length_cast *cast, uint32_t tokens,
                          struct sched_score *score);

#endif
