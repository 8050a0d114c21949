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
};

enum html_unit { HTML_PLAIN = 0, HTML_SECONDS, HTML_SHARE /* 1 = 100 % */ };
enum { HTML_STYLES = 12, HTML_NAME_MAX = 96 };

struct html_series {
    char name[HTML_NAME_MAX];
    unsigned style;      /* colour and dash: any number */
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
    bool dots;            /* a dot with a tip at each point */
    double y_low, y_high; /* fixed ends; equal: from the data */
    const struct html_series *series;
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

/* html_runs.c: sections of the page */
void html_name(const struct bench_run *r, bool with_source, char *out, size_t room);
void html_tables(struct html_out *o, const struct bench_run *const *runs, size_t n);
void html_time_lines(struct html_out *o, const struct bench_run *const *runs, size_t n);
void html_pairs(struct html_out *o, const struct bench_run *const *runs, size_t n);
/* html_curves.c */
void html_curves(struct html_out *o, const struct bench_run *const *runs, size_t n);
void html_bars(struct html_out *o, const struct bench_run *const *runs, size_t n);
/* Runs of one load: same trace, rates within 2 %. */
bool html_same_load(const struct bench_run *a, const struct bench_run *b);

#endif
