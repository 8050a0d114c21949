/* bench/html_runs.c - tables of runs, a simulated and a live run of one load compared, and time lines. */
#include "bench/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { OPEN_MAX = 6, LINES_MAX = 24, POINTS = 240, CDF_POINTS = 64, PAIRS_MAX = 6 };

static void cell(struct html_out *o, double v, enum html_unit unit)
{
    char text[48];

    html_number(text, sizeof(text), v, unit);
    html_fmt(o, "<td>%s</td>", text);
}

static double of(uint64_t part, uint64_t all)
{
    return all > 0 ? (double)part / (double)all : NAN;
}

static void quantiles(struct html_out *o, const struct bench_hist *h)
{
    static const double q[] = {0.5, 0.9, 0.99};

    for (size_t i = 0; i < 3; i++)
        cell(o, h->n > 0 ? bench_hist_quantile(h, q[i]) : NAN, HTML_SECONDS);
}

static void tier_row(struct html_out *o, const struct bench_run *r,
                     const struct bench_tier_figures *t)
{
    char first[48], next[48];

    html_put(o, "<tr><th>");
    html_text(o, t->name);
    html_number(first, sizeof(first), t->ttft_s, HTML_SECONDS);
    html_number(next, sizeof(next), t->tbt_s, HTML_SECONDS);
    html_fmt(o, "</th><td>%s</td><td>%s</td>", t->ttft_s > 0 ? first : "-",
             t->tbt_s > 0 ? next : "-");
    html_fmt(o, "<td>%llu</td>", (unsigned long long)t->n);
    html_put(o, t->n > 0 && of(t->kept, t->n) < 0.9 ? "<td class=\"low\">" : "<td>");
    html_number(first, sizeof(first), of(t->kept, t->n), HTML_SHARE);
    html_fmt(o, "%s</td>", first);
    cell(o, r->window_s > 0 ? (double)t->kept / r->window_s : NAN, HTML_PLAIN);
    cell(o, of(t->refused, t->n), HTML_SHARE);
    cell(o, of(t->failed, t->n), HTML_SHARE);
    cell(o, of(t->timeout, t->n), HTML_SHARE);
    cell(o, of(t->broken, t->kept + t->broken), HTML_SHARE);
    quantiles(o, &t->ttft);
    quantiles(o, &t->tbt);
    cell(o, t->gap.n > 0 ? bench_hist_quantile(&t->gap, 0.99) : NAN, HTML_SECONDS);
    cell(o, t->e2e.n > 0 ? bench_hist_quantile(&t->e2e, 0.9) : NAN, HTML_SECONDS);
    if (r->all.canceled > 0)
        html_fmt(o, "<td>%llu</td>", (unsigned long long)t->canceled);
    html_put(o, "</tr>\n");
}

static void fact(struct html_out *o, const char *name, double v, enum html_unit unit,
                 const char *behind)
{
    char text[48];

    html_number(text, sizeof(text), v, unit);
    html_fmt(o, "<span>%s <b>%s%s</b></span>", name, text, behind);
}

static void run_facts(struct html_out *o, const struct bench_run *r)
{
    html_put(o, "<p class=\"facts\">");
    fact(o, "offered", r->rate, HTML_PLAIN, " requests/s");
    fact(o, "window", r->window_s, HTML_SECONDS, "");
    html_fmt(o, "<span>seed <b>%llu</b></span>", (unsigned long long)r->seed);
    fact(o, "kept weight", bench_run_goodput(r), HTML_PLAIN, "/s");
    if (r->bound_weight > 0)
        fact(o, "share of the clairvoyant bound", bench_run_bound_share(r), HTML_SHARE, "");
    fact(o, "largest tenth of prompts kept", r->all.n > 0 ? r->large_kept : NAN, HTML_SHARE, "");
    fact(o, "other prompts kept", r->all.n > 0 ? r->rest_kept : NAN, HTML_SHARE, "");
    if (r->window_s > 0)
        fact(o, "output", (double)r->tokens_out / r->window_s, HTML_PLAIN, " tokens/s");
    if (strcmp(r->source, "bench") == 0 && r->lag.n > 0)
        fact(o, "client lag p99", bench_hist_quantile(&r->lag, 0.99), HTML_SECONDS, "");
    if (r->decision.n > 0)
        fact(o, "decision p99", bench_hist_quantile(&r->decision, 0.99) * 1e6, HTML_PLAIN, " us");
    html_put(o, "</p>\n");
    if (r->note[0] != '\0') {
        bool bad = strstr(r->note, "NOT VALID") != NULL || strstr(r->note, "INTERRUPTED") != NULL;

        html_fmt(o, "<p class=\"%s\">", bad ? "note" : "remark");
        html_text(o, r->note);
        html_put(o, "</p>\n");
    }
}

static void tenant_table(struct html_out *o, const struct bench_run *r)
{
    html_put(o, "<div "
                "class=\"wide\"><table><thead><tr><th>Tenant</th><th>requests</th><th>kept</"
                "th><th>refused</th>"
                "<th>broken<br>promises</th><th>first token<br>p99</th>");
    for (uint32_t k = 0; k < r->n_tiers; k++) {
        html_put(o, "<th>of ");
        html_text(o, r->tier[k].name);
        html_put(o, "</th>");
    }
    html_put(o, "</tr></thead><tbody>\n");
    for (uint32_t i = 0; i < r->n_tenants; i++) {
        const struct bench_tenant_figures *t = &r->tenant[i];

        html_put(o, "<tr><th>");
        html_text(o, t->name);
        html_fmt(o, "</th><td>%llu</td>", (unsigned long long)t->n);
        cell(o, of(t->kept, t->n), HTML_SHARE);
        cell(o, of(t->refused, t->n), HTML_SHARE);
        cell(o, of(t->broken, t->kept + t->broken), HTML_SHARE);
        cell(o, bench_tenant_ttft(r, i, BENCH_TIERS_MAX, 0.99), HTML_SECONDS);
        for (uint32_t k = 0; k < r->n_tiers; k++)
            cell(o, bench_tenant_ttft(r, i, k, 0.99), HTML_SECONDS);
        html_put(o, "</tr>\n");
    }
    html_put(o, "</tbody></table></div>\n");
}

static void run_table(struct html_out *o, const struct bench_run *r, bool open)
{
    char name[HTML_NAME_MAX], rate[48];

    html_name(NULL, r, true, name, sizeof(name));
    html_number(rate, sizeof(rate), r->rate, HTML_PLAIN);
    html_fmt(o, "<details%s><summary>", open ? " open" : "");
    html_text(o, name);
    html_put(o, " on ");
    html_text(o, r->trace);
    html_fmt(o, " x%.4g, %s requests/s</summary>\n", r->speedup, rate);
    run_facts(o, r);
    html_put(
        o,
        "<div class=\"wide\"><table><thead><tr><th rowspan=\"2\">Tier</th><th "
        "colspan=\"2\">target</th><th rowspan=\"2\">requests</th><th rowspan=\"2\">kept</th><th "
        "rowspan=\"2\">kept/s</th><th rowspan=\"2\">refused</th><th rowspan=\"2\">failed</th><th "
        "rowspan=\"2\">timed out</th><th rowspan=\"2\">broken<br>promises</th><th "
        "colspan=\"3\">time to first token</th><th colspan=\"3\">time between tokens</th><th "
        "rowspan=\"2\">longest<br>gap p99</th><th rowspan=\"2\">whole<br>request p90</th>");
    if (r->all.canceled > 0)
        html_put(o, "<th rowspan=\"2\">canceled<br>(not counted)</th>");
    html_put(o, "</tr><tr><th>first</th><th>between</th><th>p50</th><th>p90</th><th>p99</th><th>p50"
                "</th><th>p90</th><th>p99</th></tr></thead><tbody>\n");
    for (uint32_t i = 0; i < r->n_tiers; i++)
        tier_row(o, r, &r->tier[i]);
    if (r->n_tiers > 1)
        tier_row(o, r, &r->all);
    html_put(o, "</tbody></table></div>\n");
    if (r->n_tenants > 0)
        tenant_table(o, r);
    html_put(o, "</details>\n");
}

void html_tables(struct html_out *o, const struct bench_run *const *runs, size_t n)
{
    html_put(o, "<section><h2>Runs</h2>\n<p class=\"hint\">Kept: finished, the first token by its "
                "target, the mean time per token within its target, and no token late. Refused, "
                "failed and timed out requests count as not kept; what the client canceled on "
                "purpose does not count. Broken promises: begun, then not kept.</p>\n");
    for (size_t i = 0; i < n; i++)
        run_table(o, runs[i], n <= OPEN_MAX);
    html_put(o, "</section>\n");
}

/* A simulated and a live run of one load. */

static bool is_live(const struct bench_run *r)
{
    return strcmp(r->source, "simulate") != 0;
}

static void difference(struct html_out *o, double simulated, double live, enum html_unit unit)
{
    bool points = unit == HTML_SHARE, good;
    double d = points          ? (live - simulated) * 100
               : simulated > 0 ? (live / simulated - 1) * 100
                               : NAN;

    cell(o, simulated, unit);
    cell(o, live, unit);
    if (!isfinite(d)) {
        html_put(o, "<td>-</td>");
        return;
    }
    good = fabs(d) <= (points ? 3 : 15);
    html_fmt(o, "<td class=\"%s\">%+.1f %s</td>", good ? "ok" : "low", d, points ? "points" : "%");
}

static double quantile_or_none(const struct bench_hist *h, double q)
{
    return h->n > 0 ? bench_hist_quantile(h, q) : NAN;
}

static void pair_table(struct html_out *o, const struct bench_run *s, const struct bench_run *l)
{
    static const char *const head[] = {"kept", "refused", "first token p50", "first token p90",
                                       "between tokens p90"};

    html_put(o, "<div class=\"wide\"><table><thead><tr><th rowspan=\"2\">Tier</th>");
    for (size_t i = 0; i < 5; i++)
        html_fmt(o, "<th colspan=\"3\">%s</th>", head[i]);
    html_put(o, "</tr><tr>");
    for (size_t i = 0; i < 5; i++)
        html_put(o, "<th>simulated</th><th>live</th><th>difference</th>");
    html_put(o, "</tr></thead><tbody>\n");
    for (uint32_t i = 0; i <= s->n_tiers; i++) {
        const struct bench_tier_figures *a = i < s->n_tiers ? &s->tier[i] : &s->all;
        const struct bench_tier_figures *b = i < s->n_tiers ? &l->tier[i] : &l->all;

        html_put(o, "<tr><th>");
        html_text(o, a->name);
        html_put(o, "</th>");
        difference(o, of(a->kept, a->n), of(b->kept, b->n), HTML_SHARE);
        difference(o, of(a->refused, a->n), of(b->refused, b->n), HTML_SHARE);
        difference(o, quantile_or_none(&a->ttft, 0.5), quantile_or_none(&b->ttft, 0.5),
                   HTML_SECONDS);
        difference(o, quantile_or_none(&a->ttft, 0.9), quantile_or_none(&b->ttft, 0.9),
                   HTML_SECONDS);
        difference(o, quantile_or_none(&a->tbt, 0.9), quantile_or_none(&b->tbt, 0.9), HTML_SECONDS);
        html_put(o, "</tr>\n");
    }
    html_put(o, "</tbody></table></div>\n");
}

static size_t distribution(const struct bench_hist *h, double *x, double *y)
{
    size_t n = 0;

    for (size_t i = 0; h->n > 0 && i < CDF_POINTS; i++) {
        y[n] = i + 1 == CDF_POINTS ? 0.999 : (double)i / (CDF_POINTS - 1);
        x[n] = bench_hist_quantile(h, y[n]);
        n++;
    }
    return n;
}

static void pair_chart(struct html_out *o, const char *title, const struct bench_hist *s,
                       const struct bench_hist *l)
{
    double x[2][CDF_POINTS], y[2][CDF_POINTS];
    struct html_series line[2] = {
        {.name = "simulated", .style = 0, .x = x[0], .y = y[0], .n = distribution(s, x[0], y[0])},
        {.name = "live", .style = 1, .x = x[1], .y = y[1], .n = distribution(l, x[1], y[1])}};
    struct html_chart chart = {.title = title,
                               .x_name = "time",
                               .y_name = "of requests at most",
                               .x_unit = HTML_SECONDS,
                               .x_log = true,
                               .y_unit = HTML_SHARE,
                               .y_high = 1,
                               .series = line,
                               .n_series = 2};

    if (s->n > 0 && l->n > 0)
        html_draw(o, &chart);
}

static void pair(struct html_out *o, const struct bench_run *s, const struct bench_run *l)
{
    static const struct html_series key[2] = {{.name = "simulated", .style = 0},
                                              {.name = "live", .style = 1}};
    char title[96], name[HTML_NAME_MAX], rate[48];

    html_number(rate, sizeof(rate), l->rate, HTML_PLAIN);
    html_put(o, "<h3>");
    html_name(NULL, s, true, name, sizeof(name));
    html_text(o, name);
    html_put(o, " and ");
    html_name(NULL, l, true, name, sizeof(name));
    html_text(o, name);
    html_put(o, " on ");
    html_text(o, l->trace);
    html_fmt(o, ", %s requests/s</h3>\n", rate);
    pair_table(o, s, l);
    html_put(o, "<div class=\"charts\">\n");
    for (uint32_t i = 0; i < s->n_tiers; i++) {
        snprintf(title, sizeof(title), "%s: time to first token", s->tier[i].name);
        pair_chart(o, title, &s->tier[i].ttft, &l->tier[i].ttft);
        snprintf(title, sizeof(title), "%s: time between tokens", s->tier[i].name);
        pair_chart(o, title, &s->tier[i].tbt, &l->tier[i].tbt);
    }
    html_put(o, "</div>\n");
    html_legend(o, key, 2);
}

/* A simulated and a live run that go by one name, or the live one by that of the policy. */
static bool same_name(const struct bench_run *a, const struct bench_run *b)
{
    char x[HTML_NAME_MAX], y[HTML_NAME_MAX];

    html_name(NULL, a, false, x, sizeof(x));
    html_name(NULL, b, false, y, sizeof(y));
    return strcmp(x, y) == 0 || strcmp(a->policy, y) == 0;
}

static bool comparable(const struct bench_run *s, const struct bench_run *l)
{
    return !is_live(s) && is_live(l) && html_same_load(s, l) && s->n_tiers == l->n_tiers;
}

/* A live run is compared with the simulation of its own name; with all of them if none has it. */
static bool has_namesake(const struct bench_run *const *runs, size_t n,
                         const struct bench_run *live)
{
    for (size_t i = 0; i < n; i++) {
        if (comparable(runs[i], live) && same_name(runs[i], live))
            return true;
    }
    return false;
}

void html_pairs(struct html_out *o, const struct bench_run *const *runs, size_t n)
{
    size_t found = 0;

    for (size_t l = 0; l < n; l++) {
        bool namesake = has_namesake(runs, n, runs[l]);

        for (size_t s = 0; s < n && found < PAIRS_MAX; s++) {
            if (!comparable(runs[s], runs[l]) || (namesake && !same_name(runs[s], runs[l])))
                continue;
            if (found++ == 0)
                html_put(o, "<section><h2>Simulated and live</h2>\n<p class=\"hint\">Marked: more "
                            "than 3 points of requests, or 15 % of a time, apart.</p>\n");
            pair(o, runs[s], runs[l]);
        }
    }
    if (found > 0)
        html_put(o, "</section>\n");
}

/* Time lines. */

struct time_line {
    double x[POINTS + 1], arrived[POINTS + 1], kept[POINTS + 1];
    size_t n;
};

/* Per second, averaged over as many bins as it takes to stay within POINTS. */
static void resample(const struct bench_run *r, uint32_t tier, struct time_line *t)
{
    size_t per = (r->n_bins + POINTS - 1) / POINTS, columns = (size_t)2 * r->n_tiers;

    t->n = 0;
    for (size_t i = 0; i < r->n_bins; i += per) {
        size_t end = i + per < r->n_bins ? i + per : r->n_bins;
        double arrived = 0, kept = 0, seconds = (double)(end - i) * r->bin_s;

        for (size_t k = i; k < end; k++) {
            arrived += r->bins[k * columns + tier];
            kept += r->bins[k * columns + r->n_tiers + tier];
        }
        t->x[t->n] = (double)i * r->bin_s;
        t->arrived[t->n] = arrived / seconds;
        t->kept[t->n++] = kept / seconds;
    }
    /* the last step needs an end */
    t->x[t->n] = (double)r->n_bins * r->bin_s;
    t->arrived[t->n] = t->arrived[t->n - 1];
    t->kept[t->n] = t->kept[t->n - 1];
    t->n++;
}

static void draw_time_line(struct html_out *o, const struct bench_run *r, uint32_t tier,
                           struct time_line *t)
{
    char title[80];
    struct html_series area[2] = {
        {.name = "arrived", .style = 11, .filled = true, .x = t->x, .y = t->arrived},
        {.name = "kept", .style = tier, .filled = true, .x = t->x, .y = t->kept}};
    struct html_chart chart = {.title = title,
                               .x_name = "intended send time, s from the start",
                               .y_name = "requests/s",
                               .series = area,
                               .n_series = 2};

    resample(r, tier, t);
    area[0].n = area[1].n = t->n;
    snprintf(title, sizeof(title), "%s: arrived and kept", r->tier[tier].name);
    html_draw(o, &chart);
}

void html_time_lines(struct html_out *o, const struct bench_run *const *runs, size_t n)
{
    struct time_line *t = mem_try_calloc(1, sizeof(*t));
    size_t drawn = 0;

    if (t == NULL) {
        o->err = ERR_NOMEM;
        return;
    }
    for (size_t i = 0; i < n && drawn < LINES_MAX; i++) {
        char name[HTML_NAME_MAX], rate[48];

        if (runs[i]->n_bins < 2)
            continue;
        if (drawn++ == 0)
            html_put(o,
                     "<section><h2>Over time</h2>\n<p class=\"hint\">Grey: arrived. Coloured: of "
                     "these, kept.</p>\n");
        html_name(o, runs[i], true, name, sizeof(name));
        html_number(rate, sizeof(rate), runs[i]->rate, HTML_PLAIN);
        html_fmt(o, "<details%s><summary>", n <= 2 ? " open" : "");
        html_text(o, name);
        html_put(o, " on ");
        html_text(o, runs[i]->trace);
        html_fmt(o, ", %s requests/s</summary>\n<div class=\"charts\">\n", rate);
        for (uint32_t k = 0; k < runs[i]->n_tiers; k++)
            draw_time_line(o, runs[i], k, t);
        html_put(o, "</div></details>\n");
    }
    if (drawn > 0 && n > LINES_MAX)
        html_fmt(o, "<p class=\"hint\">Time lines of the first %d runs of %zu.</p>\n", LINES_MAX,
                 n);
    if (drawn > 0)
        html_put(o, "</section>\n");
    mem_free(t);
}
