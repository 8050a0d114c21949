/* scheduler/sched_predict.h - how long steps and hand-overs take: laws learned online, with an interval.
 *
 *   sched_predict_init(law) -> sched_predict_observe(step, ns) ... ; sched_predict_step(...) any time
 *
 * One struct per (class, prefill or decode): relative least squares with forgetting on the features of
 * sched_law.h, seeded by a profile or learned from nothing.  Forgetting happens inside each of 64 cells of the
 * operating range (size x past), so hours at one operating point do not erase what was learned at another.
 * Coefficients never go below 0.  One struct per worker: a multiplicative bias, learned from log(actual /
 * predicted).  What the two may not both explain: a sudden change at an operating point that was known well is
 * the worker's, not the law's.  The interval comes from online quantiles of the residual, steered so that it
 * covers what it says (adaptive conformal inference, Gibbs & Candes 2021).  Drift: Page-Hinkley on the residual.
 *
 * Thread: none.  Ownership: values; no allocation.  Units: ns.  Values that make no sense (not finite, not
 * above 0) are ignored wherever they come in.  Zeroed structs are valid: nothing known. */
#ifndef SCHEDULER_SCHED_PREDICT_H
#define SCHEDULER_SCHED_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/sched_law.h"
#include "scheduler/sched_view.h"

enum { SCHED_SCORE_WINDOW = 500, SCHED_SCORE_RECENT = 128 };

/* Error and coverage of one stream of predictions, as struct sched_health says. */
struct sched_score {
    uint64_t n, inside;
    double bias, mape;
    uint32_t window_n, window_inside; /* of the last SCHED_SCORE_WINDOW */
    double worst;                     /* coverage of any such window; 1 until one was full */
    uint64_t last[8];                 /* a bit for each of the last 512: inside */
    uint32_t recent_inside;           /* of the last SCHED_SCORE_RECENT */
    double ph_mean, ph_up, ph_down;   /* Page-Hinkley on log(actual / predicted) over its spread */
    uint32_t ph_n;                    /* observations since the last alarm */
    uint32_t calm;                    /* observations since those sums were last high */
    bool drift; /* until the residual has been quiet again for SCHED_SCORE_RECENT observations */
    bool lost;  /* from under 70 % until over 85 % inside of the last SCHED_SCORE_RECENT */
};
/* One prediction and what came of it, worked out once for all the scores that take it. */
struct sched_scored {
    bool ok;       /* both are above 0 and finite; else nothing takes it */
    bool inside;   /* of the interval */
    double error;  /* log(actual / predicted) */
    double off;    /* distance as a share of what it was */
    double spread; /* sd of the log that the interval claims; 0: it claims none */
};
/* low and high: the 90 % interval that had been given. */
struct sched_scored sched_scored(double actual, double predicted, double low, double high);
void sched_score_take(struct sched_score *s, const struct sched_scored *o);
void sched_score_add(struct sched_score *s, double actual, double predicted, double low,
                     double high);
void sched_score_health(const struct sched_score *s, struct sched_health *out);

/* Quantiles of log(actual / predicted), calibrated online. */
struct sched_spread {
    double low, high; /* of the 90 % interval: exp(low) .. exp(high) times the prediction */
    double sd;        /* of the residual, decayed; single outliers count little */
    double missed;    /* share outside the interval, of the last 20 or so */
    uint64_t n;
};
void sched_spread_init(struct sched_spread *s, double sd);
void sched_spread_add(struct sched_spread *s, double log_error);
/* Factor on the prediction that is not exceeded with probability p, 0.5 <= p <= 0.999. */
double sched_spread_factor(const struct sched_spread *s, double p);

/* The speed of one worker against its class. */
struct sched_bias {
    double log_factor;
    double factor; /* exp(log_factor), made when it changes: it is read far more often; 0: 1 */
    uint64_t n;
    double fast;   /* a faster average beside it: their gap shows a sudden change */
    double var;    /* of single observations around it */
    uint32_t age;  /* observations since the start or the last sudden change */
    int8_t streak; /* observations in a row far above (+) or below (-) it */
};
static inline double sched_bias_factor(const struct sched_bias *b)
{
    return b->factor > 0 ? b->factor : 1;
}
/* log_error: of a prediction that had this bias applied.  20 % are gone within 50 observations, a jump within
 * about 10. */
void sched_bias_add(struct sched_bias *b, double log_error);

enum { SCHED_PREDICT_ROWS = 8, SCHED_PREDICT_CELLS = 64 };
/* Decayed sums of one cell: a = sum x x', b = sum x t, with x = features / time and t = 1. */
struct sched_predict_sums {
    double a[10], b[4];
    double n; /* how many observations it is worth */
};
struct sched_predict {
    struct sched_law law; /* the present one */
    struct sched_law seed;
    double seed_scale; /* log: how much slower than the seed the class is on the whole */
    bool prefill;      /* else decode: which half of sched_step counts */
    bool frozen;       /* law and bias stay; the interval is learned all the same */
    struct sched_predict_sums all, cell[SCHED_PREDICT_CELLS];
    struct sched_spread spread;
    uint64_t n;
    /* Decode only: what prefill beside decode saves against the two alone, ns, and the spread of mixed steps. */
    double overlap;
    uint64_t n_mixed;
    struct sched_spread mixed;
};
void sched_predict_init(struct sched_predict *p, const struct sched_law *seed, bool prefill,
                        bool frozen);

struct sched_estimate {
    double ns, low, high; /* 90 % interval */
};
/* bias may be NULL.  Unknown law, or a step that does nothing of its half: all 0. */
struct sched_estimate sched_predict_step(const struct sched_predict *p,
                                         const struct sched_bias *bias,
                                         const struct sched_step *did);
/* One measured step of one worker: score it, learn bias, spread and law.  bias and score may be NULL.  Ignored:
 * ns <= 0, a step that did nothing of its half, and mixed steps, which neither half explains.  Returns what the
 * score took, for others that want it. */
struct sched_scored sched_predict_observe(struct sched_predict *p, struct sched_bias *bias,
                                          struct sched_score *score, const struct sched_step *did,
                                          double ns);

/* Steps of any kind of one worker: prefill, decode, or both at once: decode + max(0, prefill - overlap), with an
 * overlap that starts as sched_law_step has it.  All 0 while a law that is needed is unknown. */
struct sched_estimate sched_predict_mixed(const struct sched_predict *prefill,
                                          const struct sched_bias *prefill_bias,
                                          const struct sched_predict *decode,
                                          const struct sched_bias *decode_bias,
                                          const struct sched_step *did);
/* As sched_predict_observe for the half it is; a mixed one teaches the overlap, and both biases a little, and is
 * scored. */
struct sched_scored
sched_predict_observe_mixed(struct sched_predict *prefill, struct sched_bias *prefill_bias,
                            struct sched_predict *decode, struct sched_bias *decode_bias,
                            struct sched_score *score, const struct sched_step *did, double ns);

/* One link: setup + bytes / rate, learned from finished hand-overs; the rate under load is lower than the
 * probed one, and that is what counts. */
struct sched_link_predict {
    double setup_ns, ns_per_byte;
    double weight; /* how many observations the present values are worth */
    double prior_setup_ns, prior_ns_per_byte;
    double a[3], b[2]; /* decayed sums */
    struct sched_spread spread;
};
void sched_link_init(struct sched_link_predict *l, double bytes_per_s, uint64_t setup_ns);
struct sched_estimate sched_link_time(const struct sched_link_predict *l, double bytes);
double sched_link_ns(const struct sched_link_predict *l, double bytes); /* without the interval */
void sched_link_observe(struct sched_link_predict *l, struct sched_score *score, double bytes,
                        double ns);

#endif
