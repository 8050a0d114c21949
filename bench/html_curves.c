/* bench/html_curves.c - curves over the offered rate.
 *
 * Thirteen lines in as many colours are none to tell apart: the first few by rank have one, all others are thin and
 * grey, and a dot says its name. */
#include "bench/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { SERIES_MAX = 24, POINTS_MAX = 64, COLOURED = 7, REFERENCE = 8 /* its style */ };

/* ---- figures ---- */

static const struct bench_tier_figures *tier_of(const struct bench_run *r, uint32_t tier)
{
    static const struct bench_tier_figures none;

    return tier < r->n_tiers ? &r->tier[tier] : tier == BENCH_TIERS_MAX ? &r->all : &none;
}

static double quantile(const struct bench_hist *h, double q)
{
    return h->n > 0 ? bench_hist_quantile(h, q) : NAN;
}

double html_kept(const struct bench_run *r, uint32_t tier)
{
    const struct bench_tier_figures *t = tier_of(r, tier);

    return t->n > 0 ? (double)t->kept / (double)t->n : NAN;
}

double html_refused(const struct bench_run *r, uint32_t tier)
{
    const struct bench_tier_figures *t = tier_of(r, tier);

    return t->n > 0 ? (double)t->refused / (double)t->n : NAN;
}

double html_goodput(const struct bench_run *r, uint32_t tier)
{
    (void)tier;
    return bench_run_goodput(r);
}

double html_bound(const struct bench_run *r, uint32_t tier)
{
    (void)tier;
    return r->bound_weight > 0 ? bench_run_bound_share(r) : NAN;
}

static double ttft_p90(const struct bench_run *r, uint32_t tier)
{
    return quantile(&tier_of(r, tier)->ttft, 0.9);
}

static double ttft_p99(const struct bench_run *r, uint32_t tier)
{
    return quantile(&tier_of(r, tier)->ttft, 0.99);
}

static double tbt_p90(const struct bench_run *r, uint32_t tier)
{
    return quantile(&tier_of(r, tier)->tbt, 0.9);
}

static double tbt_p99(const struct bench_run *r, uint32_t tier)
{
    return quantile(&tier_of(r, tier)->tbt, 0.99);
}

static double e2e_p90(const struct bench_run *r, uint32_t tier)
{
    return r->whole ? quantile(&tier_of(r, tier)->e2e, 0.9) : NAN;
}

/* ---- curves ---- */

struct curves {
    struct html_out *o;
    const struct bench_run *const *runs;
    size_t n_runs;
    const struct bench_run *series[SERIES_MAX][POINTS_MAX]; /* by rate; one of all repeats */
    size_t n_points[SERIES_MAX], n;
    bool with_source;
    double x[SERIES_MAX][POINTS_MAX], y[SERIES_MAX][POINTS_MAX];
    struct html_series line[SERIES_MAX];
};

static void insert_by_rate(const struct bench_run **v, size_t *n, const struct bench_run *r)
{
    size_t at = *n;

    if (*n == POINTS_MAX)
        return;
    for (size_t i = 0; i < *n; i++) {
        if (r->asked_rate > 0 && html_same_load(v[i], r))
            return; /* a repeat: means are drawn */
    }
    for (; at > 0 && v[at - 1]->rate > r->rate; at--)
        v[at] = v[at - 1];
    v[at] = r;
    (*n)++;
}

/* A place for the series of r, in order of rank; SERIES_MAX: there is none. */
static size_t series_of(struct curves *c, const struct bench_run *r)
{
    size_t at = 0;

    while (at < c->n && !html_same_series(c->series[at][0], r))
        at++;
    if (at < c->n || c->n == SERIES_MAX)
        return at;
    while (at > 0 && html_ranks_before(c->runs, c->n_runs, r, c->series[at - 1][0])) {
        memcpy(c->series[at], c->series[at - 1], sizeof(c->series[at]));
        c->n_points[at] = c->n_points[at - 1];
        at--;
    }
    c->n_points[at] = 0;
    c->n++;
    return at;
}

static void collect(struct curves *c, const char *trace)
{
    c->n = 0;
    memset(c->n_points, 0, sizeof(c->n_points));
    for (size_t i = 0; i < c->n_runs; i++) {
        size_t s;

        if (strcmp(c->runs[i]->trace, trace) != 0)
            continue;
        s = series_of(c, c->runs[i]);
        if (s < SERIES_MAX)
            insert_by_rate(c->series[s], &c->n_points[s], c->runs[i]);
    }
}

static void dress(struct curves *c)
{
    unsigned next = 0;

    for (size_t s = 0; s < c->n; s++) {
        unsigned style = HTML_FAINT;

        if (html_is_reference(c->series[s][0]))
            style = REFERENCE;
        else if (next < COLOURED || c->n <= COLOURED + 1)
            style = next++;
        c->line[s] =
            (struct html_series){.style = style, .x = c->x[s], .y = c->y[s], .n = c->n_points[s]};
        html_name(c->o, c->series[s][0], c->with_source, c->line[s].name, HTML_NAME_MAX);
    }
}

static bool has_curve(const struct curves *c)
{
    for (size_t s = 0; s < c->n; s++) {
        if (c->n_points[s] > 1 &&
            !html_same_load(c->series[s][0], c->series[s][c->n_points[s] - 1]))
            return true;
    }
    return false;
}

/* A chart of one figure of one tier over rate; nothing if no run has it. */
static void draw_curve(struct curves *c, struct html_chart *chart, uint32_t tier,
                       html_figure_fn figure)
{
    bool any = false;
    double low = 1, half;

    chart->x_name = "offered rate, requests/s";
    chart->dots = true;
    chart->series = c->line;
    chart->n_series = c->n;
    for (size_t s = 0; s < c->n; s++) {
        for (size_t i = 0; i < c->n_points[s]; i++) {
            const struct bench_run *r = c->series[s][i];

            c->x[s][i] = r->asked_rate > 0 ? r->asked_rate : r->rate;
            c->y[s][i] = html_mean(c->runs, c->n_runs, r, figure, tier, &half);
            any = any || isfinite(c->y[s][i]);
            low = fmin(low, isfinite(c->y[s][i]) ? c->y[s][i] : 1);
        }
    }
    if (chart->y_unit == HTML_SHARE) { /* kept: from below the lowest on; refused: from 0 */
        chart->y_high = 1;
        chart->y_low = figure == html_refused ? 0 : fmin(floor(low * 10) / 10, 0.8);
    }
    if (any)
        html_draw(c->o, chart);
}

static void draw_share(struct curves *c, const char *title, const char *what, uint32_t tier,
                       html_figure_fn figure, bool marked)
{
    static const struct html_mark ninety[] = {{0.9, "90 %"}, {0.99, ""}};
    struct html_chart chart = {.title = title,
                               .y_name = what,
                               .y_unit = HTML_SHARE,
                               .marks = ninety,
                               .n_marks = marked ? 2 : 0};

    draw_curve(c, &chart, tier, figure);
}

static void draw_time(struct curves *c, const char *tier_name, const char *what, uint32_t tier,
                      html_figure_fn figure, double target)
{
    struct html_mark mark = {target, "target"};
    char title[112];
    struct html_chart chart = {.title = title,
                               .y_name = "time",
                               .y_unit = HTML_SECONDS,
                               .y_log = true,
                               .marks = &mark,
                               .n_marks = target > 0 ? 1 : 0};

    snprintf(title, sizeof(title), "%.40s: %s", tier_name, what);
    draw_curve(c, &chart, tier, figure);
}

static void tier_curves(struct curves *c, uint32_t tier)
{
    const struct bench_tier_figures *t = &c->series[0][0]->tier[tier];
    char title[80];

    snprintf(title, sizeof(title), "%s: requests kept", t->name);
    draw_share(c, title, "of requests", tier, html_kept, true);
    draw_time(c, t->name, "time to first token, p90", tier, ttft_p90, t->ttft_s);
    draw_time(c, t->name, "time to first token, p99", tier, ttft_p99, t->ttft_s);
    draw_time(c, t->name, "time between tokens, p90", tier, tbt_p90, t->tbt_s);
    draw_time(c, t->name, "time between tokens, p99", tier, tbt_p99, t->tbt_s);
    draw_time(c, t->name, "whole answer, p90", tier, e2e_p90, 0);
    snprintf(title, sizeof(title), "%s: requests refused", t->name);
    draw_share(c, title, "of requests", tier, html_refused, false);
}

static void trace_curves(struct curves *c, const char *trace)
{
    struct html_chart goodput = {.title = "All tiers: kept weight per second",
                                 .y_name = "kept weight per second"};

    dress(c);
    html_put(c->o, "<section><h2>Over the offered rate: ");
    html_text(c->o, trace);
    html_put(c->o, "</h2>\n<p class=\"hint\">Best first. Dots say their figures.</p>\n<div "
                   "class=\"keys\">");
    html_legend(c->o, c->line, c->n);
    html_put(c->o, "</div>\n<div class=\"charts\">\n");
    draw_curve(c, &goodput, BENCH_TIERS_MAX, html_goodput);
    draw_share(c, "All tiers: requests kept", "of requests", BENCH_TIERS_MAX, html_kept, true);
    draw_share(c, "All tiers: share of the clairvoyant bound", "share of the bound",
               BENCH_TIERS_MAX, html_bound, false);
    html_put(c->o, "</div>\n");
    for (uint32_t t = 0; t < c->series[0][0]->n_tiers; t++) {
        html_put(c->o, "<h3>");
        html_text(c->o, c->series[0][0]->tier[t].name);
        html_put(c->o, "</h3>\n<div class=\"charts\">\n");
        tier_curves(c, t);
        html_put(c->o, "</div>\n");
    }
    html_put(c->o, "</section>\n");
}

static bool seen_trace(const struct bench_run *const *runs, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (strcmp(runs[k]->trace, runs[i]->trace) == 0)
            return true;
    }
    return false;
}

void html_curves(struct html_out *o, const struct bench_run *const *runs, size_t n)
{
    struct curves *c = mem_try_calloc(1, sizeof(*c));

    if (c == NULL) {
        o->err = ERR_NOMEM;
        return;
    }
    c->o = o;
    c->runs = runs;
    c->n_runs = n;
    c->with_source = html_mixed_sources(runs, n);
    for (size_t i = 0; i < n; i++) {
        if (seen_trace(runs, i))
            continue;
        collect(c, runs[i]->trace);
        if (has_curve(c))
            trace_curves(c, runs[i]->trace);
    }
    mem_free(c);
}
