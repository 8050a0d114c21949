/* bench/histogram.c - bucket i holds [1.01^i, 1.01^(i+1)) us; exact extremes are kept beside, so that the
 * ends of a distribution are not rounded. */
#include "bench/histogram.h"

#include <math.h>

static const double FLOOR_S = 1e-6;
static const double LOG_STEP = 0.00995033085316808285; /* ln 1.01 */

static uint32_t bucket_of(double s)
{
    double at = s <= FLOOR_S ? 0 : log(s / FLOOR_S) / LOG_STEP;

    return at >= BENCH_HIST_BUCKETS - 1 ? BENCH_HIST_BUCKETS - 1 : (uint32_t)at;
}

void bench_hist_add(struct bench_hist *h, double s)
{
    if (isnan(s))
        return;
    if (s < FLOOR_S)
        s = FLOOR_S;
    if (h->n == 0 || s < h->min)
        h->min = s;
    if (h->n == 0 || s > h->max)
        h->max = s;
    h->n++;
    h->sum += s;
    h->sum2 += s * s;
    h->count[bucket_of(s)]++;
}

void bench_hist_merge(struct bench_hist *h, const struct bench_hist *other)
{
    if (other->n == 0)
        return;
    if (h->n == 0 || other->min < h->min)
        h->min = other->min;
    if (h->n == 0 || other->max > h->max)
        h->max = other->max;
    h->n += other->n;
    h->sum += other->sum;
    h->sum2 += other->sum2;
    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS; i++)
        h->count[i] += other->count[i];
}

double bench_hist_quantile(const struct bench_hist *h, double q)
{
    double rank = q * (double)h->n, below = 0, at = h->max;

    if (h->n == 0)
        return 0;
    if (!(q > 0))
        return h->min;
    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS; i++) {
        double here = h->count[i];

        if (here > 0 && below + here >= rank) {
            at = FLOOR_S * exp(((double)i + (rank - below) / here) * LOG_STEP);
            break;
        }
        below += here;
    }
    return fmin(fmax(at, h->min), h->max);
}

double bench_hist_mean(const struct bench_hist *h)
{
    return h->n > 0 ? h->sum / (double)h->n : 0;
}

double bench_hist_sd(const struct bench_hist *h)
{
    double mean = bench_hist_mean(h);
    double var = h->n > 1 ? (h->sum2 - (double)h->n * mean * mean) / (double)(h->n - 1) : 0;

    return var > 0 ? sqrt(var) : 0;
}
