/* bench/html_chart.c - text, numbers and one kind of chart, as SVG inside HTML.
 *
 * A chart is drawn in its own units of 440 x 250 and scaled by the page.  Colours are classes, so that light and
 * dark pages share one drawing. */
#include "bench/html.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { WIDE = 440, HIGH = 250, LEFT = 70, RIGHT = 14, TOP = 10, BOTTOM = 42, TICKS_MAX = 24 };

struct axis {
    double low, high; /* in log10 if log */
    bool log;
    double from, to; /* drawing units */
    double tick[TICKS_MAX];
    size_t n_ticks;
};

void html_put(struct html_out *o, const char *raw)
{
    if (o->err == ERR_OK)
        o->err = buf_puts(&o->b, raw);
}

void html_fmt(struct html_out *o, const char *format, ...)
{
    char text[640];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    html_put(o, text);
}

void html_text(struct html_out *o, const char *text)
{
    for (const char *p = text; *p != '\0' && o->err == ERR_OK; p++) {
        char one[2] = {(unsigned char)*p < 0x20 ? ' ' : *p, '\0'};

        switch (*p) {
        case '&':
            html_put(o, "&amp;");
            break;
        case '<':
            html_put(o, "&lt;");
            break;
        case '>':
            html_put(o, "&gt;");
            break;
        case '"':
            html_put(o, "&quot;");
            break;
        case '\'':
            html_put(o, "&#39;");
            break;
        default:
            html_put(o, one);
        }
    }
}

/* Three digits that count, no exponent, no zeros behind the point. */
static void three_digits(char *out, size_t room, double v)
{
    double size = fabs(v);
    int digits = size >= 100 || size == 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
    size_t len;

    snprintf(out, room, "%.*f", digits, v);
    len = strlen(out);
    if (strchr(out, '.') == NULL)
        return;
    while (len > 1 && out[len - 1] == '0')
        out[--len] = '\0';
    if (out[len - 1] == '.')
        out[len - 1] = '\0';
}

void html_number(char *out, size_t room, double v, enum html_unit unit)
{
    char digits[48];

    if (!isfinite(v)) {
        snprintf(out, room, "-");
    } else if (unit == HTML_SHARE) {
        bool whole = fabs(v * 100 - round(v * 100)) < 1e-9;

        snprintf(out, room, "%.*f %%", whole ? 0 : 1, v * 100);
    } else if (unit == HTML_SECONDS) {
        bool small = fabs(v) < 1;

        three_digits(digits, sizeof(digits), small ? v * 1e3 : v);
        snprintf(out, room, "%s %s", digits, small && v != 0 ? "ms" : "s");
    } else {
        double size = fabs(v);

        three_digits(digits, sizeof(digits), size >= 1e6 ? v / 1e6 : size >= 1e4 ? v / 1e3 : v);
        snprintf(out, room, "%s%s", digits, size >= 1e6 ? "M" : size >= 1e4 ? "k" : "");
    }
}

static double place(const struct axis *a, double v)
{
    double at = a->log ? log10(fmax(v, 1e-12)) : v;
    double share = a->high > a->low ? (at - a->low) / (a->high - a->low) : 0.5;

    return a->from + fmin(fmax(share, 0), 1) * (a->to - a->from);
}

static void add_tick(struct axis *a, double v)
{
    if (a->n_ticks < TICKS_MAX)
        a->tick[a->n_ticks++] = v;
}

/* Ends and ticks at 1, 2, 5 times a power of ten. */
static void linear_ticks(struct axis *a, int about, bool keep_ends)
{
    double span = a->high - a->low, raw = span / about;
    double power = pow(10, floor(log10(raw))), step = power;

    if (raw / power > 7)
        step = 10 * power;
    else if (raw / power > 3)
        step = 5 * power;
    else if (raw / power > 1.5)
        step = 2 * power;
    if (!keep_ends) {
        a->low = floor(a->low / step + 1e-9) * step;
        a->high = ceil(a->high / step - 1e-9) * step;
    }
    for (double i = ceil(a->low / step - 1e-9); i * step <= a->high + step * 1e-6; i++)
        add_tick(a, i * step + 0.0); /* no minus zero */
}

static void log_ticks(struct axis *a)
{
    static const double coarse[] = {1, 2, 5}, fine[] = {1, 1.5, 2, 3, 4, 6, 8};
    const double *within = coarse;
    size_t n_within = 3;
    double decades;

    a->low = log10(a->low);
    a->high = log10(a->high);
    if (a->high - a->low < 0.5) { /* at least half a decade, or the ticks crowd */
        double middle = (a->high + a->low) / 2;

        a->low = middle - 0.25;
        a->high = middle + 0.25;
    }
    decades = a->high - a->low;
    if (decades < 1) {
        within = fine;
        n_within = sizeof(fine) / sizeof(fine[0]);
    }
    for (double d = floor(a->low); d <= ceil(a->high); d++) {
        for (size_t i = 0; i < n_within; i++) {
            double v = pow(10, d) * within[i], at = log10(v);

            if (at < a->low - 1e-9 || at > a->high + 1e-9 || (decades > 2.5 && i > 0))
                continue;
            if (decades > 6 && fmod(fabs(d), 2) > 0.5)
                continue;
            add_tick(a, v);
        }
    }
}

static void widen(double v, bool log, double *low, double *high)
{
    if (!isfinite(v) || (log && v <= 0))
        return;
    *low = fmin(*low, v);
    *high = fmax(*high, v);
}

static struct axis make_axis(const struct html_chart *c, bool is_x)
{
    struct axis a = {.log = is_x ? c->x_log : c->y_log,
                     .from = is_x ? LEFT : HIGH - BOTTOM,
                     .to = is_x ? WIDE - RIGHT : TOP};
    double low = INFINITY, high = -INFINITY;

    for (size_t s = 0; s < c->n_series; s++) {
        for (size_t i = 0; i < c->series[s].n; i++)
            widen(is_x ? c->series[s].x[i] : c->series[s].y[i], a.log, &low, &high);
    }
    for (size_t i = 0; !is_x && i < c->n_marks; i++)
        widen(c->marks[i].y, a.log, &low, &high);
    if (!(low <= high))
        low = a.log ? 0.1 : 0, high = 1;
    if (!is_x && c->y_high > c->y_low)
        low = c->y_low, high = c->y_high;
    else if (!is_x && !a.log)
        low = fmin(low, 0);
    if (!(high > low))
        high = low + (low != 0 ? fabs(low) * 0.1 : 1);
    a.low = low;
    a.high = high;
    if (a.log)
        log_ticks(&a);
    else
        linear_ticks(&a, is_x ? 6 : 5, is_x || c->y_high > c->y_low);
    return a;
}

static void draw_axes(struct html_out *o, const struct html_chart *c, const struct axis *x,
                      const struct axis *y)
{
    char label[48];
    double before = -1e9;

    for (size_t i = 0; i < y->n_ticks; i++) {
        double at = place(y, y->tick[i]);

        html_number(label, sizeof(label), y->tick[i], c->y_unit);
        html_fmt(o, "<path class=\"g\" d=\"M%d %.1fH%d\"/>", LEFT, at, WIDE - RIGHT);
        html_fmt(o, "<text class=\"e\" x=\"%d\" y=\"%.1f\">%s</text>", LEFT - 6, at + 4, label);
    }
    for (size_t i = 0; i < x->n_ticks; i++) {
        double at = place(x, x->tick[i]);

        if (at - before < 40)
            continue; /* its label would run into the last one */
        before = at;
        html_number(label, sizeof(label), x->tick[i], c->x_unit);
        html_fmt(o, "<path class=\"g\" d=\"M%.1f %dv4\"/>", at, HIGH - BOTTOM);
        html_fmt(o, "<text class=\"m\" x=\"%.1f\" y=\"%d\">%s</text>", at, HIGH - BOTTOM + 17,
                 label);
    }
    html_fmt(o, "<path class=\"a\" d=\"M%d %dV%dH%d\"/>", LEFT, TOP, HIGH - BOTTOM, WIDE - RIGHT);
    html_fmt(o, "<text class=\"m n\" x=\"%d\" y=\"%d\">", (LEFT + WIDE - RIGHT) / 2, HIGH - 6);
    html_text(o, c->x_name);
    html_fmt(o, "</text><text class=\"m n\" transform=\"translate(12 %d) rotate(-90)\">",
             (TOP + HIGH - BOTTOM) / 2);
    html_text(o, c->y_name);
    html_put(o, "</text>");
}

static void draw_marks(struct html_out *o, const struct html_chart *c, const struct axis *y)
{
    for (size_t i = 0; i < c->n_marks; i++) {
        double at = place(y, c->marks[i].y);

        html_fmt(o, "<path class=\"t\" d=\"M%d %.1fH%d\"/>", LEFT, at, WIDE - RIGHT);
        /* below the line where there is no room above it */
        html_fmt(o, "<text class=\"t\" x=\"%d\" y=\"%.1f\">", LEFT + 4,
                 at < TOP + 14 ? at + 12 : at - 4);
        html_text(o, c->marks[i].name);
        html_put(o, "</text>");
    }
}

static void draw_line(struct html_out *o, const struct html_series *s, const struct axis *x,
                      const struct axis *y)
{
    bool pen_down = false;

    html_fmt(o, "<path class=\"l s%u\" d=\"", s->style % HTML_STYLES);
    for (size_t i = 0; i < s->n; i++) {
        if (!isfinite(s->y[i])) {
            pen_down = false;
            continue;
        }
        html_fmt(o, "%c%.1f %.1f", pen_down ? 'L' : 'M', place(x, s->x[i]), place(y, s->y[i]));
        pen_down = true;
    }
    html_put(o, "\"/>");
}

static void draw_area(struct html_out *o, const struct html_series *s, const struct axis *x,
                      const struct axis *y)
{
    double base = place(y, 0);

    if (s->n == 0)
        return;
    html_fmt(o, "<path class=\"f s%u\" d=\"M%.1f %.1f", s->style % HTML_STYLES, place(x, s->x[0]),
             base);
    for (size_t i = 0; i < s->n; i++) {
        html_fmt(o, "V%.1f", place(y, isfinite(s->y[i]) ? s->y[i] : 0));
        if (i + 1 < s->n)
            html_fmt(o, "H%.1f", place(x, s->x[i + 1]));
    }
    html_fmt(o, "V%.1fZ\"/>", base);
}

static void draw_dots(struct html_out *o, const struct html_chart *c, const struct html_series *s,
                      const struct axis *x, const struct axis *y)
{
    char at_x[48], at_y[48];

    for (size_t i = 0; i < s->n; i++) {
        if (!isfinite(s->y[i]))
            continue;
        html_number(at_x, sizeof(at_x), s->x[i], c->x_unit);
        html_number(at_y, sizeof(at_y), s->y[i], c->y_unit);
        html_fmt(o, "<circle class=\"d s%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"><title>",
                 s->style % HTML_STYLES, place(x, s->x[i]), place(y, s->y[i]),
                 s->style == HTML_FAINT ? 2 : 3);
        html_text(o, s->name);
        html_fmt(o, ": %s at %s", at_y, at_x);
        html_put(o, "</title></circle>");
    }
}

void html_draw(struct html_out *o, const struct html_chart *c)
{
    struct axis x = make_axis(c, true), y = make_axis(c, false);

    html_put(o, "<figure><figcaption>");
    html_text(o, c->title);
    html_fmt(o, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDE, HIGH);
    draw_axes(o, c, &x, &y);
    for (size_t i = 0; i < c->n_series; i++) {
        if (c->series[i].filled)
            draw_area(o, &c->series[i], &x, &y);
    }
    for (size_t i = c->n_series; i-- > 0;) {
        if (!c->series[i].filled)
            draw_line(o, &c->series[i], &x, &y);
        if (c->dots)
            draw_dots(o, c, &c->series[i], &x, &y);
    }
    draw_marks(o, c, &y);
    html_put(o, "</svg></figure>\n");
}

static void legend_key(struct html_out *o, const struct html_series *s)
{
    html_fmt(o,
             "<span><svg class=\"key\" viewBox=\"0 0 26 10\"><path class=\"%s s%u\" "
             "d=\"%s\"/></svg>",
             s->filled ? "f" : "l", s->style % HTML_STYLES, s->filled ? "M2 1h22v8H2Z" : "M1 5h24");
}

void html_legend(struct html_out *o, const struct html_series *series, size_t n)
{
    bool faint = false;

    html_put(o, "<p class=\"legend\">");
    for (size_t i = 0; i < n; i++) {
        if (series[i].style == HTML_FAINT)
            continue;
        legend_key(o, &series[i]);
        html_text(o, series[i].name);
        html_put(o, "</span>");
    }
    for (size_t i = 0; i < n; i++) { /* all under one key */
        if (series[i].style != HTML_FAINT)
            continue;
        if (faint)
            html_put(o, ", ");
        else
            legend_key(o, &series[i]);
        faint = true;
        html_text(o, series[i].name);
    }
    html_put(o, faint ? "</span></p>\n" : "</p>\n");
}
