/* bench/html_glance.c - what a planner looks for first: up to which load each policy keeps what was promised, and
 * policies side by side at each load. */
#include "bench/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS_MAX = 10, SERIES_MAX = 64, LOADS_OPEN = 4 };
static const double TIER90 = 0.9, GOLD99 = 0.99;

/* ---- at a glance ---- */

struct verdict {
    double all, least; /* kept */
    uint32_t tier;     /* that kept least */
    int grade;         /* 2: every tier TIER90; 1: the first tier GOLD99; 0: neither */
    bool known;
};

static struct verdict verdict_of(const struct bench_run *const *runs, size_t n,
                                 const struct bench_run *r)
{
    struct verdict v = {.least = INFINITY};
    double half, first;

    v.all = html_mean(runs, n, r, html_kept, BENCH_TIERS_MAX, &half);
    first = html_mean(runs, n, r, html_kept, 0, &half);
    for (uint32_t t = 0; t < r->n_tiers; t++) {
        double x = html_mean(runs, n, r, html_kept, t, &half);

        if (isfinite(x) && x < v.least) {
            v.least = x;
            v.tier = t;
        }
    }
    v.known = isfinite(v.all);
    v.grade = v.known && v.least >= TIER90 ? 2 : v.known && first >= GOLD99 ? 1 : 0;
    return v;
}

struct glance {
    struct html_out *o;
    const struct bench_run *const *runs; /* all; of one trace: */
    size_t n;
    const struct bench_run *load[COLUMNS_MAX + 1]; /* one run of each, by rate */
    size_t n_loads;
    bool with_source;
};

static void find_loads(struct glance *g, const char *trace)
{
    g->n_loads = 0;
    for (size_t i = 0; i < g->n && g->n_loads <= COLUMNS_MAX; i++) {
        bool seen = strcmp(g->runs[i]->trace, trace) != 0;

        for (size_t k = 0; k < g->n_loads && !seen; k++)
            seen = html_same_load(g->load[k], g->runs[i]);
        if (!seen)
            g->load[g->n_loads++] = g->runs[i];
    }
}

static void put_rate(struct html_out *o, const struct bench_run *r)
{
    char text[48];

    html_number(text, sizeof(text), r->asked_rate > 0 ? r->asked_rate : r->rate, HTML_PLAIN);
    html_put(o, text);
}

/* The highest load of this series that got the grade, and whether none higher was tried. */
static void limit_cell(const struct glance *g, const struct bench_run *of, int grade)
{
    const struct bench_run *best = NULL;
    double tried = 0;
    char text[48];

    for (size_t i = 0; i < g->n; i++) {
        const struct bench_run *r = g->runs[i];
        struct verdict v;

        if (!html_same_series(r, of))
            continue;
        tried = fmax(tried, r->rate);
        v = verdict_of(g->runs, g->n, r);
        if ((grade == 2 ? v.grade == 2 : v.grade >= 1) && (best == NULL || r->rate > best->rate) &&
            (grade == 2 || html_kept(r, 0) >= GOLD99))
            best = r;
    }
    if (best == NULL) {
        html_put(g->o, "<td>none</td>");
        return;
    }
    html_number(text, sizeof(text), best->asked_rate > 0 ? best->asked_rate : best->rate,
                HTML_PLAIN);
    html_fmt(g->o, "<td>%s%s</td>", best->rate < tried ? "" : "&#8805; ", text);
}

static void verdict_cell(const struct glance *g, const struct bench_run *of,
                         const struct bench_run *load)
{
    static const char *const marks[] = {"&#9675;", "&#9680;", "&#9679;"};
    char all[48], least[48];

    for (size_t i = 0; i < g->n; i++) {
        struct verdict v;

        if (!html_same_series(g->runs[i], of) || !html_same_load(g->runs[i], load))
            continue;
        v = verdict_of(g->runs, g->n, g->runs[i]);
        if (!v.known)
            break;
        html_number(all, sizeof(all), v.all, HTML_SHARE);
        html_number(least, sizeof(least), v.least, HTML_SHARE);
        html_fmt(g->o, "<td class=\"g%d\">%s %s<small>", v.grade, marks[v.grade], all);
        if (g->runs[i]->n_tiers > 1) {
            html_text(g->o, g->runs[i]->tier[v.tier].name);
            html_fmt(g->o, " %s", least);
        }
        html_put(g->o, "</small></td>");
        return;
    }
    html_put(g->o, "<td>-</td>");
}

static void glance_row(const struct glance *g, const struct bench_run *of)
{
    char name[HTML_NAME_MAX];

    html_name(g->o, of, g->with_source, name, sizeof(name));
    html_fmt(g->o, "<tr%s><th>", html_is_reference(of) ? " class=\"reference\"" : "");
    html_text(g->o, name);
    html_put(g->o, "</th>");
    for (size_t k = 0; g->n_loads <= COLUMNS_MAX && k < g->n_loads; k++)
        verdict_cell(g, of, g->load[k]);
    limit_cell(g, of, 2);
    limit_cell(g, of, 1);
    html_put(g->o, "</tr>\n");
}

static void glance_head(const struct glance *g)
{
    const struct bench_run *first = g->load[0];
    size_t columns = g->n_loads <= COLUMNS_MAX ? g->n_loads : 0;

    html_put(g->o,
             "<div class=\"wide\"><table class=\"glance\"><thead><tr><th rowspan=\"2\">Run</th>");
    if (columns > 0)
        html_fmt(g->o, "<th colspan=\"%zu\">requests kept, at an offered load of (requests/s)</th>",
                 columns);
    html_put(g->o, "<th colspan=\"2\">highest load shown (requests/s) with</th></tr><tr>");
    for (size_t k = 0; k < columns; k++) {
        html_put(g->o, "<th>");
        put_rate(g->o, g->load[k]);
        html_put(g->o, "</th>");
    }
    html_put(g->o, "<th>every tier<br>at 90 %</th><th>");
    html_text(g->o, first->tier[0].name);
    html_put(g->o, "<br>at 99 %</th></tr></thead><tbody>\n");
}

/* One row per series, by rank. */
static void glance_rows(const struct glance *g, const char *trace)
{
    const struct bench_run *series[SERIES_MAX];
    size_t n = 0;

    for (size_t i = 0; i < g->n && n < SERIES_MAX; i++) {
        const struct bench_run *r = g->runs[i];
        bool seen = strcmp(r->trace, trace) != 0;
        size_t at = n;

        for (size_t k = 0; k < n && !seen; k++)
            seen = html_same_series(series[k], r);
        if (seen)
            continue;
        for (; at > 0 && html_ranks_before(g->runs, g->n, r, series[at - 1]); at--)
            series[at] = series[at - 1];
        series[at] = r;
        n++;
    }
    for (size_t k = 0; k < n; k++)
        glance_row(g, series[k]);
}

static bool first_of_trace(const struct bench_run *const *runs, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (strcmp(runs[k]->trace, runs[i]->trace) == 0)
            return false;
    }
    return true;
}

void html_glance(struct html_out *o, const struct bench_run *const *runs, size_t n)
{
    struct glance g = {.o = o, .runs = runs, .n = n, .with_source = html_mixed_sources(runs, n)};

    if (n < 2)
        return;
    html_put(o, "<section><h2>At a glance</h2>\n<p class=\"hint\">Baton first, then what knows the "
                "future (no "
                "policy to run: a limit), then by kept weight.");
    find_loads(&g, runs[0]->trace);
    if (g.n_loads <= COLUMNS_MAX)
        html_put(o, " Large: of all requests; small: the tier that kept least. <span "
                    "class=\"g2\">&#9679; every "
                    "tier keeps 90 %</span> <span class=\"g1\">&#9680; the first tier keeps 99 %, "
                    "another less "
                    "than 90 %</span> <span class=\"g0\">&#9675; neither</span>");
    html_put(o, "</p>\n");
    for (size_t i = 0; i < n; i++) {
        if (!first_of_trace(runs, i))
            continue;
        find_loads(&g, runs[i]->trace);
        html_put(o, "<h3>");
        html_text(o, runs[i]->trace);
        html_put(o, "</h3>\n");
        glance_head(&g);
        glance_rows(&g, runs[i]->trace);
        html_put(o, "</tbody></table></div>\n");
    }
    html_put(o, "</section>\n");
}

/* ---- side by side ---- */

struct bars {
    struct html_out *o;
    const struct bench_run *const *runs;
    size_t n;
    bool with_source;
    bool folded; /* many loads: each in a fold of its own */
    double most; /* weight per second of this load */
};

static void bar(struct html_out *o, double share, bool low, const char *text, const char *spread)
{
    double part = isfinite(share) ? fmin(fmax(share, 0), 1) * 100 : 0;

    html_fmt(o,
             "<td class=\"bar%s\"><svg viewBox=\"0 0 100 14\" preserveAspectRatio=\"none\"><path "
             "d=\"M0 1h%.1fv12h-%.1fZ\"/></svg><span>%s</span>%s</td>",
             low ? " low" : "", part, part, text, spread);
}

static void spread_text(char *out, size_t room, double half, enum html_unit unit)
{
    char text[48];

    out[0] = '\0';
    if (!(half > 0))
        return;
    html_number(text, sizeof(text), half, unit);
    snprintf(out, room, "<small>&#177; %s</small>", text);
}

static void share_bar(const struct bars *b, const struct bench_run *r, html_figure_fn figure,
                      uint32_t tier, double wanted)
{
    double half, v = html_mean(b->runs, b->n, r, figure, tier, &half);
    char text[48], spread[80];

    html_number(text, sizeof(text), v, HTML_SHARE);
    if (!isfinite(v)) {
        html_put(b->o, "<td>-</td>");
        return;
    }
    spread_text(spread, sizeof(spread), half, HTML_SHARE);
    bar(b->o, v, v < wanted, text, spread);
}

static double broken(const struct bench_run *r, uint32_t tier)
{
    (void)tier;
    return r->all.n > 0 ? bench_broken_share(r->all.kept, r->all.broken) : NAN;
}

static double large(const struct bench_run *r, uint32_t tier)
{
    (void)tier;
    return r->all.n > 0 ? r->large_kept : NAN;
}

static void plain_share(const struct bars *b, const struct bench_run *r, html_figure_fn figure)
{
    double half, v = html_mean(b->runs, b->n, r, figure, BENCH_TIERS_MAX, &half);
    char text[48];

    html_number(text, sizeof(text), v, HTML_SHARE);
    html_fmt(b->o, "<td>%s</td>", text);
}

static bool has_bound(const struct bars *b, const struct bench_run *load)
{
    for (size_t i = 0; i < b->n; i++) {
        if (html_same_load(load, b->runs[i]) && b->runs[i]->bound_weight > 0)
            return true;
    }
    return false;
}

static void bar_row(const struct bars *b, const struct bench_run *r, const struct bench_run *load)
{
    char name[HTML_NAME_MAX], text[48], spread[80];
    double half, v;

    html_name(b->o, r, b->with_source, name, sizeof(name));
    html_fmt(b->o, "<tr%s><th>", html_is_reference(r) ? " class=\"reference\"" : "");
    html_text(b->o, name);
    html_put(b->o, "</th>");
    share_bar(b, r, html_kept, BENCH_TIERS_MAX, 0);
    for (uint32_t t = 0; t < load->n_tiers; t++)
        share_bar(b, r, html_kept, t, TIER90);
    v = html_mean(b->runs, b->n, r, html_goodput, BENCH_TIERS_MAX, &half);
    html_number(text, sizeof(text), v, HTML_PLAIN);
    spread_text(spread, sizeof(spread), half, HTML_PLAIN);
    bar(b->o, b->most > 0 ? v / b->most : 0, false, text, spread);
    if (has_bound(b, load))
        share_bar(b, r, html_bound, BENCH_TIERS_MAX, 0);
    plain_share(b, r, html_refused);
    plain_share(b, r, broken);
    plain_share(b, r, large);
    html_put(b->o, "</tr>\n");
}

static bool is_repeat(const struct bench_run *const *runs, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (html_same_series(runs[k], runs[i]) && html_same_load(runs[k], runs[i]))
            return true;
    }
    return false;
}

static void bars_of_load(struct bars *b, const struct bench_run *load)
{
    b->most = 0;
    for (size_t k = 0; k < b->n; k++) {
        if (html_same_load(load, b->runs[k]))
            b->most = fmax(b->most, bench_run_goodput(b->runs[k]));
    }
    html_put(b->o, b->folded ? "<details><summary>" : "<h3>");
    html_text(b->o, load->trace);
    html_put(b->o, ", ");
    put_rate(b->o, load);
    html_put(b->o, b->folded ? " requests/s</summary>" : " requests/s</h3>");
    html_put(b->o,
             "<div class=\"wide\"><table class=\"bars\"><thead><tr><th>Run</th><th>all kept</th>");
    for (uint32_t t = 0; t < load->n_tiers; t++) {
        html_put(b->o, "<th>");
        html_text(b->o, load->tier[t].name);
        html_put(b->o, " kept</th>");
    }
    html_put(b->o, "<th>kept weight/s</th>");
    if (has_bound(b, load))
        html_put(b->o, "<th>share of the bound</th>");
    html_put(b->o, "<th>refused</th><th>broken<br>promises</th><th>largest tenth<br>of prompts "
                   "kept</th></tr></thead><tbody>\n");
    for (size_t k = 0; k < b->n; k++) {
        if (html_same_load(load, b->runs[k]) && !is_repeat(b->runs, k))
            bar_row(b, b->runs[k], load);
    }
    html_put(b->o, b->folded ? "</tbody></table></div></details>\n" : "</tbody></table></div>\n");
}

/* Nobody before it has the load of run i, and somebody after it has. */
static bool opens_load(const struct bench_run *const *runs, size_t n, size_t i)
{
    size_t same = 0;

    for (size_t k = 0; k < n; k++) {
        if (!html_same_load(runs[i], runs[k]))
            continue;
        if (k < i)
            return false;
        same++;
    }
    return same >= 2;
}

void html_bars(struct html_out *o, const struct bench_run *const *runs, size_t n, bool many)
{
    struct bars b = {.o = o, .runs = runs, .n = n, .with_source = html_mixed_sources(runs, n)};
    size_t loads = 0;

    for (size_t i = 0; i < n; i++)
        loads += opens_load(runs, n, i);
    b.folded = loads > LOADS_OPEN;
    if (loads == 0 || b.folded != many)
        return;
    html_put(
        o,
        "<section><h2>Side by side</h2>\n<p class=\"hint\">Kept: shares of requests; red: a tier "
        "below "
        "90 %. Weight: the tiers' weights of kept requests. Broken: begun, then not kept.</p>\n");
    for (size_t i = 0; i < n; i++) {
        if (opens_load(runs, n, i))
            bars_of_load(&b, runs[i]);
    }
    html_put(o, "</section>\n");
}
