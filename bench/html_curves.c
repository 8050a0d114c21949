/* bench/html_curves.c - curves over the offered rate, and policies side by side at one rate. */
#include "bench/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { SERIES_MAX = 24, POINTS_MAX = 64 };
static const double SAME_RATE = 0.02;

enum figure { ATTAINMENT, GOODPUT, TTFT_P90, TTFT_P99, TBT_P90, TBT_P99, BOUND, REFUSED };

bool html_same_load(const struct bench_run *a, const struct bench_run *b)
{
    return strcmp(a->trace, b->trace) == 0 &&
           fabs(a->rate - b->rate) <= SAME_RATE * fmax(fabs(a->rate), fabs(b->rate));
}

/* Runs of one series: same trace, source, policy and label. */
static bool same_series(const struct bench_run *a, const struct bench_run *b)
{
    return strcmp(a->trace, b->trace) == 0 && strcmp(a->source, b->source) == 0 &&
           strcmp(a->policy, b->policy) == 0 && strcmp(a->label, b->label) == 0;
}

static bool mixed_sources(const struct bench_run *const *runs, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (strcmp(runs[i]->source, runs[0]->source) != 0)
            return true;
    }
    return false;
}

static double figure_of(const struct bench_run *r, uint32_t tier, enum figure f)
{
    const struct bench_tier_figures *t = tier < r->n_tiers ? &r->tier[tier] : &r->all;

    if (tier >= r->n_tiers && tier != BENCH_TIERS_MAX)
        return NAN; /* another run has more tiers */
    switch (f) {
    case ATTAINMENT:
        return t->n > 0 ? bench_run_attainment(r, tier) : NAN;
    case REFUSED:
        return t->n > 0 ? (double)t->refused / (double)t->n : NAN;
    case GOODPUT:
        return bench_run_goodput(r);
    case BOUND:
        return r->bound_weight > 0 ? bench_run_bound_share(r) : NAN;
    case TTFT_P90:
        return t->ttft.n > 0 ? bench_hist_quantile(&t->ttft, 0.9) : NAN;
    case TTFT_P99:
        return t->ttft.n > 0 ? bench_hist_quantile(&t->ttft, 0.99) : NAN;
    case TBT_P90:
        return t->tbt.n > 0 ? bench_hist_quantile(&t->tbt, 0.9) : NAN;
    case TBT_P99:
        return t->tbt.n > 0 ? bench_hist_quantile(&t->tbt, 0.99) : NAN;
    }
    return NAN;
}

struct curves {
    struct html_out *o;
    const struct bench_run *series[SERIES_MAX][POINTS_MAX]; /* by rate */
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
    for (; at > 0 && v[at - 1]->rate > r->rate; at--)
        v[at] = v[at - 1];
    v[at] = r;
    (*n)++;
}

static void collect(struct curves *c, const struct bench_run *const *runs, size_t n,
                    const char *trace)
{
    c->n = 0;
    memset(c->n_points, 0, sizeof(c->n_points));
    for (size_t i = 0; i < n; i++) {
        size_t s = 0;

        if (strcmp(runs[i]->trace, trace) != 0)
            continue;
        while (s < c->n && !same_series(c->series[s][0], runs[i]))
            s++;
        if (s == SERIES_MAX)
            continue;
        c->n += s == c->n;
        insert_by_rate(c->series[s], &c->n_points[s], runs[i]);
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
static void draw_curve(struct curves *c, const char *title, uint32_t tier, enum figure f,
                       const struct html_mark *marks, size_t n_marks)
{
    bool share = f == ATTAINMENT || f == BOUND || f == REFUSED, plain = f == GOODPUT;
    struct html_chart chart = {.title = title,
                               .x_name = "offered rate, requests/s",
                               .y_name = share   ? f == BOUND ? "share of the bound" : "of requests"
                                         : plain ? "kept weight per second"
                                                 : "time",
                               .y_unit = share   ? HTML_SHARE
                                         : plain ? HTML_PLAIN
                                                 : HTML_SECONDS,
                               .y_log = !share && !plain,
                               .dots = true,
                               .series = c->line,
                               .n_series = c->n,
                               .marks = marks,
                               .n_marks = n_marks};
    double low = 1;
    bool any = false;

    for (size_t s = 0; s < c->n; s++) {
        for (size_t i = 0; i < c->n_points[s]; i++) {
            c->x[s][i] = c->series[s][i]->rate;
            c->y[s][i] = figure_of(c->series[s][i], tier, f);
            any = any || isfinite(c->y[s][i]);
            low = fmin(low, isfinite(c->y[s][i]) ? c->y[s][i] : 1);
        }
        c->line[s] = (struct html_series){
            .style = (unsigned)s, .x = c->x[s], .y = c->y[s], .n = c->n_points[s]};
        html_name(c->series[s][0], c->with_source, c->line[s].name, HTML_NAME_MAX);
    }
    if (f == ATTAINMENT || f == BOUND)
        chart.y_low = fmin(floor(low * 10) / 10, 0.8), chart.y_high = 1;
    if (f == REFUSED)
        chart.y_low = 0, chart.y_high = 1;
    if (any)
        html_draw(c->o, &chart);
}

static void tier_curves(struct curves *c, uint32_t tier)
{
    static const struct html_mark ninety[] = {{0.9, "90 %"}, {0.99, ""}};
    const struct bench_tier_figures *t = &c->series[0][0]->tier[tier];
    struct html_mark first = {t->ttft_s, "target"}, next = {t->tbt_s, "target"};
    size_t marked = t->ttft_s > 0 ? 1 : 0;
    char title[80];

    snprintf(title, sizeof(title), "%s: requests kept", t->name);
    draw_curve(c, title, tier, ATTAINMENT, ninety, 2);
    snprintf(title, sizeof(title), "%s: time to first token, p90", t->name);
    draw_curve(c, title, tier, TTFT_P90, &first, marked);
    snprintf(title, sizeof(title), "%s: time to first token, p99", t->name);
    draw_curve(c, title, tier, TTFT_P99, &first, marked);
    marked = t->tbt_s > 0 ? 1 : 0;
    snprintf(title, sizeof(title), "%s: time between tokens, p90", t->name);
    draw_curve(c, title, tier, TBT_P90, &next, marked);
    snprintf(title, sizeof(title), "%s: time between tokens, p99", t->name);
    draw_curve(c, title, tier, TBT_P99, &next, marked);
    snprintf(title, sizeof(title), "%s: requests refused", t->name);
    draw_curve(c, title, tier, REFUSED, NULL, 0);
}

static void trace_curves(struct curves *c, const char *trace)
{
    html_put(c->o, "<section><h2>Over the offered rate: ");
    html_text(c->o, trace);
    html_put(c->o, "</h2>\n<div class=\"charts\">\n");
    draw_curve(c, "All tiers: kept weight per second", 0, GOODPUT, NULL, 0);
    draw_curve(c, "All tiers: requests kept", BENCH_TIERS_MAX, ATTAINMENT, NULL, 0);
    draw_curve(c, "All tiers: share of the clairvoyant bound", 0, BOUND, NULL, 0);
    html_put(c->o, "</div>\n");
    html_legend(c->o, c->line, c->n);
    for (uint32_t t = 0; t < c->series[0][0]->n_tiers; t++) {
        html_put(c->o, "<h3>");
        html_text(c->o, c->series[0][0]->tier[t].name);
        html_put(c->o, "</h3>\n<div class=\"charts\">\n");
        tier_curves(c, t);
        html_put(c->o, "</div>\n");
    }
    html_legend(c->o, c->line, c->n);
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
    c->with_source = mixed_sources(runs, n);
    for (size_t i = 0; i < n; i++) {
        if (seen_trace(runs, i))
            continue;
        collect(c, runs, n, runs[i]->trace);
        if (has_curve(c))
            trace_curves(c, runs[i]->trace);
    }
    mem_free(c);
}

static void bar(struct html_out *o, double share, unsigned style, const char *text)
{
    html_fmt(o,
             "<td class=\"bar\"><svg viewBox=\"0 0 100 14\" preserveAspectRatio=\"none\"><path "
             "class=\"b s%u\" d=\"M0 1h%.1fv12h-%.1fZ\"/></svg><span>%s</span></td>",
             style, fmin(fmax(share, 0), 1) * 100, fmin(fmax(share, 0), 1) * 100, text);
}

static void bar_row(struct html_out *o, const struct bench_run *r, uint32_t n_tiers,
                    bool with_source, double most)
{
    char name[HTML_NAME_MAX], text[48];

    html_name(r, with_source, name, sizeof(name));
    html_put(o, "<tr><th>");
    html_text(o, name);
    html_put(o, "</th>");
    for (uint32_t t = 0; t < n_tiers; t++) {
        double v = figure_of(r, t, ATTAINMENT);

        html_number(text, sizeof(text), v, HTML_SHARE);
        bar(o, isfinite(v) ? v : 0, t, text);
    }
    html_number(text, sizeof(text), bench_run_goodput(r), HTML_PLAIN);
    bar(o, most > 0 ? bench_run_goodput(r) / most : 0, 9, text);
    html_number(text, sizeof(text), figure_of(r, 0, BOUND), HTML_SHARE);
    bar(o, bench_run_bound_share(r), 10, text);
    html_number(text, sizeof(text), r->all.n > 0 ? (double)r->all.broken / (double)r->all.n : NAN,
                HTML_SHARE);
    html_fmt(o, "<td>%s</td>", text);
    html_number(text, sizeof(text), r->all.n > 0 ? r->large_kept : NAN, HTML_SHARE);
    html_fmt(o, "<td>%s</td></tr>\n", text);
}

static void bars_of_load(struct html_out *o, const struct bench_run *const *runs, size_t n,
                         size_t i, bool with_source)
{
    double most = 0;
    char rate[48];

    for (size_t k = 0; k < n; k++) {
        if (html_same_load(runs[i], runs[k]))
            most = fmax(most, bench_run_goodput(runs[k]));
    }
    html_number(rate, sizeof(rate), runs[i]->rate, HTML_PLAIN);
    html_put(o, "<h3>");
    html_text(o, runs[i]->trace);
    html_fmt(
        o, ", %s requests/s</h3><div class=\"wide\"><table class=\"bars\"><thead><tr><th>Run</th>",
        rate);
    for (uint32_t t = 0; t < runs[i]->n_tiers; t++) {
        html_put(o, "<th>");
        html_text(o, runs[i]->tier[t].name);
        html_put(o, " kept</th>");
    }
    html_put(o, "<th>kept weight/s</th><th>share of bound</th><th>broken promises</th>"
                "<th>largest prompts kept</th></tr></thead><tbody>\n");
    for (size_t k = 0; k < n; k++) {
        if (html_same_load(runs[i], runs[k]))
            bar_row(o, runs[k], runs[i]->n_tiers, with_source, most);
    }
    html_put(o, "</tbody></table></div>\n");
}

void html_bars(struct html_out *o, const struct bench_run *const *runs, size_t n)
{
    bool with_source = mixed_sources(runs, n), headed = false;

    for (size_t i = 0; i < n; i++) {
        size_t same = 0;
        bool seen = false;

        for (size_t k = 0; k < n; k++) {
            same += html_same_load(runs[i], runs[k]);
            seen = seen || (k < i && html_same_load(runs[i], runs[k]));
        }
        if (seen || same < 2)
            continue;
        if (!headed)
            html_put(o, "<section><h2>Side by side</h2>\n");
        headed = true;
        bars_of_load(o, runs, n, i, with_source);
    }
    if (headed)
        html_put(o, "</section>\n");
}
