/* bench/html.h - pieces of the report page: text, numbers and charts.  Private to bench/html*.c.
 *
 *   html_out all zero -> html_put ... html_chart ... -> its bytes, unless err is set; then buf_free
 *
 * Thread: the caller's.  Errors stick in html_out.err, so that callers check once.  The same input gives the
 * same bytes: no dates, no random names. */
#ifndef BENCH_HTML_H
#define BENCH_HTML_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "bench/outcome.h"

struct html_out {
    struct buf b;
    enum err err;
    bool with_labels; /* names of simulated runs need their cluster: it is not the same for all */
};

enum html_unit { HTML_PLAIN = 0, HTML_SECONDS, HTML_SHARE /* 1 = 100 % */ };
/* Styles 0 to 11 have colours; HTML_FAINT is thin and grey: one of many. */
enum { HTML_STYLES = 13, HTML_FAINT = 12, HTML_NAME_MAX = 112 };

struct html_series {
    char name[HTML_NAME_MAX];
    unsigned style;      /* colour and dash */
    bool filled;         /* as a stepped area down to 0 */
    const double *x, *y; /* NaN in y: a hole */
    size_t n;
};
struct html_mark { /* a horizontal line: a target */
    double y;
    const char *name;
};
struct html_chart {
    const char *title, *x_name, *y_name;
    enum html_unit x_unit, y_unit;
    bool x_log, y_log;
    bool dots;                        /* a dot with a tip at each point */
    double y_low, y_high;             /* fixed ends; equal: from the data */
    const struct html_series *series; /* the first is drawn last, on top */
    size_t n_series;
    const struct html_mark *marks;
    size_t n_marks;
};

void html_put(struct html_out *o, const char *raw);
void html_fmt(struct html_out *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
void html_text(struct html_out *o,
               const char *text); /* escaped; control characters become spaces */
/* "0.42 ms", "37 ms", "1.2 s"; "97.3 %"; "1.5k" */
void html_number(char *out, size_t room, double v, enum html_unit unit);
void html_draw(struct html_out *o, const struct html_chart *c); /* a <figure> */
void html_legend(struct html_out *o, const struct html_series *series, size_t n);

/* html_order.c */
/* All runs in the order they are shown.  ERR_NOMEM. */
MUST_USE enum err html_sort(const struct bench_run *const *runs, size_t n,
                            const struct bench_run **out);
/* o NULL: with everything that tells it from others. */
void html_name(const struct html_out *o, const struct bench_run *r, bool with_source, char *out,
               size_t room);
/* Runs of one load: same trace, rates within 2 %. */
bool html_same_load(const struct bench_run *a, const struct bench_run *b);
/* Runs of one curve: same trace, source, policy and label.  At one load they are repeats. */
bool html_same_series(const struct bench_run *a, const struct bench_run *b);
/* Does series a come before series b on the page? */
bool html_ranks_before(const struct bench_run *const *runs, size_t n, const struct bench_run *a,
                       const struct bench_run *b);
bool html_is_reference(const struct bench_run *r); /* knows the future */
bool html_mixed_sources(const struct bench_run *const *runs, size_t n);
bool html_labels_differ(const struct bench_run *const *runs, size_t n); /* of simulated runs */
/* tier BENCH_TIERS_MAX: of all; NaN: the run does not have it. */
typedef double (*html_figure_fn)(const struct bench_run *r, uint32_t tier);
double html_kept(const struct bench_run *r, uint32_t tier);
double html_goodput(const struct bench_run *r, uint32_t tier);
double html_bound(const struct bench_run *r, uint32_t tier);
double html_refused(const struct bench_run *r, uint32_t tier);
/* Of `of` and its repeats; NaN: none has it.  *half: half width of the 95 % confidence interval, 0 for one run. */
double html_mean(const struct bench_run *const *runs, size_t n, const struct bench_run *of,
                 html_figure_fn figure, uint32_t tier, double *half);

/* Sections of the page; runs come sorted. */
void html_glance(struct html_out *o, const struct bench_run *const *runs,
                 size_t n); /* html_glance.c */
/* Nothing unless there are `many` loads, or not: many come folded, behind the curves. */
void html_bars(struct html_out *o, const struct bench_run *const *runs, size_t n, bool many);
void html_curves(struct html_out *o, const struct bench_run *const *runs,
                 size_t n); /* html_curves.c */
void html_tables(struct html_out *o, const struct bench_run *const *runs,
                 size_t n); /* html_runs.c */
void html_time_lines(struct html_out *o, const struct bench_run *const *runs, size_t n);
void html_pairs(struct html_out *o, const struct bench_run *const *runs, size_t n);

#endif
