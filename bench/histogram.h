/* bench/histogram.h - counts of durations in log buckets, 1 us to 10^5 s, each 1 % wide: quantiles without
 * keeping samples.  Thread: the caller's.  Ownership: a value of fixed size.  Units: s. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { BENCH_HIST_BUCKETS = 2560 };
struct bench_hist {
    uint64_t n;
    double sum, sum2, min, max;
    uint32_t count[BENCH_HIST_BUCKETS];
};
void bench_hist_add(struct bench_hist *h, double s); /* below 1 us counts as 1 us; NaN is ignored */
void bench_hist_merge(struct bench_hist *h, const struct bench_hist *other);
double bench_hist_quantile(const struct bench_hist *h, double q); /* 0 without samples */
double bench_hist_mean(const struct bench_hist *h);
double bench_hist_sd(const struct bench_hist *h);

#endif
