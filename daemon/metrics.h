/* daemon/metrics.h - counters, gauges and histograms with labels, rendered as Prometheus text (0.0.4).
 *
 *   create -> add families -> series (one per set of label values) -> count ... -> render -> destroy
 *
 * A family is a name with a help text and label names; a series is one set of label values of it.  Hold
 * on to the series where it is counted often: counting is then an addition, observing a binary search.
 * A family never has more than max_series series: what comes beyond is counted in one whose label values
 * are all "other", so that no client can grow the output.
 *
 * Thread     the loop's; there are no locks.
 * Ownership  names, help texts and bucket bounds are literals and not copied; label values are copied.
 *            Series and families belong to the registry.
 * Memory     where a series cannot be made, NULL stands for it, and every counting function takes NULL
 *            and does nothing: a figure is lost, not a request. */
#ifndef DAEMON_METRICS_H
#define DAEMON_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define DAEMON_METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

enum { DAEMON_METRICS_LABELS_MAX = 8, DAEMON_METRICS_BUCKETS_MAX = 64 };
enum daemon_metric_kind { DAEMON_COUNTER = 1, DAEMON_GAUGE, DAEMON_HISTOGRAM };

struct daemon_metrics;
struct daemon_family;
struct daemon_series_cell; /* one series */

struct daemon_family_config {
    const char *name, *help;
    enum daemon_metric_kind kind;
    const char *const *labels; /* names */
    uint32_t n_labels;
    const double *buckets; /* histograms: upper bounds, ascending, without +Inf */
    uint32_t n_buckets;
    uint32_t max_series; /* 0 = 512 */
};

MUST_USE enum err daemon_metrics_create(struct daemon_metrics **out); /* ERR_NOMEM */
void daemon_metrics_destroy(struct daemon_metrics *m);                /* NULL is fine */

/* ERR_INVALID: a name that Prometheus does not take, one used before, labels or buckets out of order or
 * range (a mistake of ours: msg says which); ERR_NOMEM. */
MUST_USE enum err daemon_metrics_add(struct daemon_metrics *m, const struct daemon_family_config *c,
                                     struct err_msg *msg, struct daemon_family **out);

/* The series with these label values (n_labels of them), made if it is new.  NULL: no memory. */
struct daemon_series_cell *daemon_metrics_cell(struct daemon_family *f, const char *const *values);
/* Drop all series of a family, as for gauges that are set anew for each scrape.  Kept handles die. */
void daemon_metrics_forget(struct daemon_family *f);

void daemon_metrics_count(struct daemon_series_cell *c, double n); /* counter or gauge: add */
/* Gauge: the value.  Counter: the total, where it is kept elsewhere. */
void daemon_metrics_set(struct daemon_series_cell *c, double value);
/* Histogram: one value, or n equal ones.  NaN is dropped. */
void daemon_metrics_observe(struct daemon_series_cell *c, double value, uint64_t n);

/* For tests and the log: counter or gauge value; a histogram's number of values. */
double daemon_metrics_value(const struct daemon_series_cell *c);

/* Append the whole text: families in the order they were added, series in the order of their label
 * values.  ERR_NOMEM: out has a part. */
MUST_USE enum err daemon_metrics_render(const struct daemon_metrics *m, struct buf *out);

#endif
