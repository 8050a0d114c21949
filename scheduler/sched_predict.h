/* scheduler/sched_predict.h - how long steps and hand-overs take: laws learned online, with an interval.
 *
 *   sched_predict_init(law) -> sched_predict_observe(step, ns) ... ; sched_predict_step(...) any time
 *
 * One struct per (class, prefill or decode): relative recursive least squares with forgetting on the
 * features of sched_law.h, seeded by a profile.  Coefficients never go below 0; a ring of samples stratified
 * over the operating range keeps one operating point from erasing the rest.  One struct per worker: a
 * multiplicative bias, learned from log(actual / predicted).  The interval comes from online quantiles of
 * that residual, steered so that it covers what it says (adaptive conformal inference, Gibbs & Candes 2021).
 * Drift: Page-Hinkley on the residual.
 *
 * Thread: none.  Ownership: values; no allocation.  Units: ns. */
#ifndef SCHEDULER_SCHED_PREDICT_H
#define SCHEDULER_SCHED_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/sched_law.h"
#include "scheduler/sched_view.h"

/* Error and coverage of one stream of predictions, as struct sched_health says. */
struct sched_score {
    uint64_t n, inside;
    double bias, mape;
    uint32_t window_n, window_inside;
    double worst;
    double ph_mean, ph_up, ph_down; /* Page-Hinkley */
    bool drift, lost;
};
/* low and high: the 90 % interval that had been given. */
void sched_score_add(struct sched_score *s, double actual, double predicted, double low,
                     double high);
void sched_score_health(const struct sched_score *s, struct sched_health *out);

/* Quantiles of log(actual / predicted), calibrated online. */
struct sched_spread {
    double low, high; /* of the 90 % interval: exp(low) .. exp(high) times the prediction */
    double sd;        /* of the residual, decayed */
    uint64_t n;
};
void sched_spread_init(struct sched_spread *s, double sd);
void sched_spread_add(struct sched_spread *s, double log_error);
/* Factor on the prediction that is not exceeded with probability p, 0.5 <= p <= 0.999. */
double sched_spread_factor(const struct sched_spread *s, double p);

enum { SCHED_PREDICT_RING = 64 };
struct sched_predict {
    struct sched_law law; /* the present one */
    struct sched_law seed;
    bool prefill; /* else decode: which half of sched_step counts */
    bool frozen;
    double p[4][4]; /* RLS covariance */
    struct {
        struct sched_step did;
        double ns;
        bool used;
    } ring[SCHED_PREDICT_RING];
    struct sched_spread spread;
    uint64_t n;
};
void sched_predict_init(struct sched_predict *p, const struct sched_law *seed, bool prefill,
                        bool frozen);
/* The speed of one worker against its class. */
struct sched_bias {
    double log_factor;
    uint64_t n;
    double fast; /* a faster average beside it: their gap shows a sudden change */
};
double sched_bias_factor(const struct sched_bias *b);
void sched_bias_add(struct sched_bias *b, double log_error);

struct sched_estimate {
    double ns, low, high; /* 90 % interval */
};
/* bias may be NULL.  Unknown law: all 0. */
struct sched_estimate sched_predict_step(const struct sched_predict *p,
                                         const struct sched_bias *bias,
                                         const struct sched_step *did);
/* One measured step of one worker: score it, learn bias, spread and law.  ns <= 0 or a step that did
 * nothing is ignored.  Mixed steps teach the bias alone. */
void sched_predict_observe(struct sched_predict *p, struct sched_bias *bias,
                           struct sched_score *score, const struct sched_step *did, double ns);

/* One link: setup + bytes / rate, learned from finished hand-overs; the rate under load is lower than the
 * probed one, and that is what counts. */
struct sched_link_predict {
    double setup_ns, ns_per_byte;
    double weight; /* how many observations the present values are worth */
    struct sched_spread spread;
};
void sched_link_init(struct sched_link_predict *l, double bytes_per_s, uint64_t setup_ns);
struct sched_estimate sched_link_time(const struct sched_link_predict *l, double bytes);
void sched_link_observe(struct sched_link_predict *l, struct sched_score *score, double bytes,
                        double ns);

#endif
