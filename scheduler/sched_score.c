/* scheduler/sched_score.c - errors, intervals and alarms of one stream of predictions: sched_score_ and
 * sched_spread_ of scheduler/sched_predict.h. */
#include <math.h>
#include <string.h>

#include "scheduler/sched_num.h"
#include "scheduler/sched_predict.h"

/* ---- spread ---- */

static const double SPREAD_TAIL = 0.05;  /* on either side of the 90 % interval */
static const double Z_TAIL = 1.6449;     /* the normal distribution's quantile there */
static const double SD_FLOOR = 1e-9;     /* so that exact laws keep exact intervals */
static const double ERROR_MAX = 20;      /* of a log: e^20 off is off */
static const double SPREAD_STEER = 0.05; /* of its half width, moved per observation */
static const double SPREAD_FAR = 4;      /* sd beyond which a bound is drawn in */
static const double SPREAD_ALARM = 0.25,
                    SPREAD_IDLE = 0.01; /* shares of misses that no luck explains */
enum { SPREAD_EARLY = 50 };             /* observations while the first guess of sd still matters */

void sched_spread_init(struct sched_spread *s, double sd)
{
    *s = (struct sched_spread){
        .low = -Z_TAIL * sd, .high = Z_TAIL * sd, .sd = sd, .missed = 2 * SPREAD_TAIL};
}

void sched_spread_add(struct sched_spread *s, double log_error)
{
    double was = num_max(s->sd, SD_FLOOR), bound = SPREAD_FAR * was, e, gain, rate, step;

    if (!isfinite(log_error))
        return;
    e = num_min(num_max(log_error, -ERROR_MAX), ERROR_MAX);
    s->n++;
    gain = num_max(s->missed > SPREAD_ALARM ? 0.1 : 0.02, 1 / ((double)s->n + 10));
    /* Steering first: against the interval that stood when the observation came.  In parts of its own width, because
     * sd says little about it where a few outliers make most of sd; in large ones at first, when it is a guess, and
     * when misses come in rows, since then the noise itself has changed. */
    s->missed += 0.05 * ((e > s->high || e < s->low ? 1 : 0) - s->missed);
    rate = num_max(SPREAD_STEER, num_min(0.25, 30 / ((double)s->n + 20)));
    if (s->missed > SPREAD_ALARM)
        rate = num_min(0.5, rate * s->missed * s->missed / (8 * SPREAD_TAIL * SPREAD_TAIL));
    else if (s->missed < SPREAD_IDLE)
        rate *= 3;
    step = num_max((s->high - s->low) / 2 * rate, 0.01 * was);
    s->high += e > s->high ? step * (1 - SPREAD_TAIL) : -step * SPREAD_TAIL;
    s->low += e < s->low ? -step * (1 - SPREAD_TAIL) : step * SPREAD_TAIL;
    /* One outlier may not blow the spread up; a lasting change gets through in a few steps. */
    s->sd = sqrt(was * was + gain * (num_min(e * e, bound * bound) - was * was));
    s->sd = num_max(s->sd, SD_FLOOR);
    if (s->n < SPREAD_EARLY) {
        s->high *= s->sd / was;
        s->low *= s->sd / was;
    }
    s->high -= 0.02 * num_max(0, s->high - SPREAD_FAR * s->sd);
    s->low += 0.02 * num_max(0, -SPREAD_FAR * s->sd - s->low);
    if (s->low > s->high)
        s->low = s->high = (s->low + s->high) / 2;
}

/* The normal quantile, 0.5 <= p < 1: Abramowitz and Stegun 26.2.23, good to 4.5e-4. */
static double normal_quantile(double p)
{
    double t = sqrt(-2 * log(1 - p));

    return num_max(0, t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                              (1 + t * (1.432788 + t * (0.189269 + t * 0.001308))));
}

double sched_spread_factor(const struct sched_spread *s, double p)
{
    double middle = (s->low + s->high) / 2;

    if (!(p > 0.5))
        return exp(middle);
    return exp(middle + (s->high - middle) * normal_quantile(num_min(p, 0.999)) / Z_TAIL);
}

/* ---- score ---- */

static const double LOST_BELOW = 0.70, TRUSTED_ABOVE = 0.85;
static const double PH_SLACK = 0.5, PH_ALARM = 15; /* in spreads; false alarms: one in about 10^6 */
static const double PH_CLIP = 4;                   /* one outlier is no drift */
enum { SCORE_BITS = 512 };

/* Was the observation `ago` before the newest inside?  ago < BITS. */
static uint32_t score_was_inside(const struct sched_score *s, uint64_t ago)
{
    uint64_t at = (s->n - 1 - ago) % SCORE_BITS;

    return (uint32_t)(s->last[at / 64] >> (at % 64) & 1);
}

/* Counts of the last SCHED_SCORE_WINDOW and SCHED_SCORE_RECENT; s->n already counts this one. */
static void score_slide(struct sched_score *s, bool inside)
{
    uint64_t at = (s->n - 1) % SCORE_BITS, bit = UINT64_C(1) << (at % 64);
    double recent;

    s->last[at / 64] = inside ? s->last[at / 64] | bit : s->last[at / 64] & ~bit;
    s->window_inside += inside;
    s->recent_inside += inside;
    if (s->n > SCHED_SCORE_RECENT)
        s->recent_inside -= score_was_inside(s, SCHED_SCORE_RECENT);
    if (s->n > SCHED_SCORE_WINDOW)
        s->window_inside -= score_was_inside(s, SCHED_SCORE_WINDOW);
    s->window_n = s->n < SCHED_SCORE_WINDOW ? (uint32_t)s->n : SCHED_SCORE_WINDOW;
    if (s->n == SCHED_SCORE_WINDOW)
        s->worst = 1;
    if (s->n >= SCHED_SCORE_WINDOW)
        s->worst = num_min(s->worst, (double)s->window_inside / SCHED_SCORE_WINDOW);
    if (s->n < SCHED_SCORE_RECENT / 2)
        return;
    recent = (double)s->recent_inside / num_min((double)s->n, SCHED_SCORE_RECENT);
    if (recent < LOST_BELOW)
        s->lost = true;
    else if (recent > TRUSTED_ABOVE)
        s->lost = false;
}

/* error over its spread, so that one threshold serves steps (5 %) and lengths (a factor of 3). */
static void score_watch_drift(struct sched_score *s, double z)
{
    z = num_min(num_max(z, -PH_CLIP), PH_CLIP);
    s->ph_up = num_max(0, s->ph_up + z - s->ph_mean - PH_SLACK);
    s->ph_down = num_max(0, s->ph_down - z + s->ph_mean - PH_SLACK);
    s->ph_n += s->ph_n < UINT32_MAX;
    s->ph_mean += (s->ph_n < 980 ? 1 / ((double)s->ph_n + 20) : 0.001) * (z - s->ph_mean);
    s->calm = num_max(s->ph_up, s->ph_down) > PH_ALARM / 2 ? 0
              : s->calm < UINT32_MAX                       ? s->calm + 1
                                                           : s->calm;
    if (s->ph_up > PH_ALARM || s->ph_down > PH_ALARM) {
        s->drift = true;
        s->ph_up = s->ph_down = 0;
        s->ph_n =
            0; /* the mean of before says little now: an old law's errors are no drift of the new one */
    } else if (s->calm >= SCHED_SCORE_RECENT) {
        s->drift = false;
    }
}

struct sched_scored sched_scored(double actual, double predicted, double low, double high)
{
    struct sched_scored o = {.ok = false};

    if (!(actual > 0) || !(predicted > 0) || !isfinite(actual) || !isfinite(predicted))
        return o;
    o.ok = true;
    o.error = log(actual / predicted);
    o.off = fabs(actual - predicted) / actual;
    /* Half a rounding of the clock is no miss of an exact law. */
    o.inside = actual >= low * (1 - 1e-6) && actual <= high * (1 + 1e-6);
    if (low > 0 && high > low)
        o.spread = log(high / low) / (2 * Z_TAIL);
    return o;
}

void sched_score_take(struct sched_score *s, const struct sched_scored *o)
{
    double error = num_min(num_max(o->error, -ERROR_MAX), ERROR_MAX), gain;

    if (!o->ok)
        return;
    s->n++;
    s->inside += o->inside;
    score_slide(s, o->inside);
    gain = 1 / num_min((double)s->n, SCHED_SCORE_WINDOW);
    s->bias += gain * (error - s->bias);
    s->mape += gain * (o->off - s->mape);
    score_watch_drift(s, error / num_max(o->spread, 1e-3));
}

void sched_score_add(struct sched_score *s, double actual, double predicted, double low,
                     double high)
{
    struct sched_scored o = sched_scored(actual, predicted, low, high);

    sched_score_take(s, &o);
}

void sched_score_health(const struct sched_score *s, struct sched_health *out)
{
    *out = (struct sched_health){.n = s->n,
                                 .bias = s->bias,
                                 .mape = s->mape,
                                 .coverage = s->n > 0 ? (double)s->inside / (double)s->n : 0,
                                 .worst = s->n >= SCHED_SCORE_WINDOW ? s->worst : 1,
                                 .windowed = s->n >= SCHED_SCORE_WINDOW,
                                 .drift = s->drift,
                                 .lost = s->lost};
}
