/* daemon/metrics.c - see the header for the contract.
 *
 * What does not change is made once: the text of a series' labels when it is created, the text of the
 * bucket bounds when the family is added.  A scrape then only prints numbers. */
#include "daemon/metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"

enum { MAX_SERIES_DEFAULT = 512, LE_CAP = 24 };

struct daemon_series_cell {
    struct daemon_series_cell *same_hash;
    const struct daemon_family *family;
    char *labels;     /* a="x",b="y" ready to print; "" without labels */
    char **values;    /* [n_labels] */
    double value;     /* histogram: sum */
    uint64_t *counts; /* histogram: [n_buckets + 1], each by itself */
};

struct daemon_family {
    struct daemon_family_config c;
    struct daemon_series_cell **cells; /* in the order of their label values */
    uint32_t n_cells, cap_cells;
    struct map index;   /* hash of the label values -> cells with it */
    char (*le)[LE_CAP]; /* [n_buckets] bounds as text */
    struct daemon_family *next;
};

struct daemon_metrics {
    struct daemon_family *first, **last;
};

/* ---- families ---------------------------------------------------------------------------------- */

static bool name_is_fine(const char *name, bool colon)
{
    if (*name == '\0' || (*name >= '0' && *name <= '9'))
        return false;
    for (; *name != '\0'; name++) {
        char c = *name;

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || (colon && c == ':')))
            return false;
    }
    return true;
}

static enum err check_family(const struct daemon_metrics *m, const struct daemon_family_config *c,
                             struct err_msg *msg)
{
    if (!name_is_fine(c->name, true))
        return err_set(msg, ERR_INVALID, "metric '%s': not a name", c->name);
    for (const struct daemon_family *f = m->first; f != NULL; f = f->next) {
        if (strcmp(f->c.name, c->name) == 0)
            return err_set(msg, ERR_INVALID, "metric '%s' is there already", c->name);
    }
    if (c->n_labels > DAEMON_METRICS_LABELS_MAX)
        return err_set(msg, ERR_INVALID, "metric '%s': too many labels", c->name);
    for (uint32_t i = 0; i < c->n_labels; i++) {
        if (!name_is_fine(c->labels[i], false) || strcmp(c->labels[i], "le") == 0)
            return err_set(msg, ERR_INVALID, "metric '%s': '%s' is no label name", c->name,
                           c->labels[i]);
    }
    if ((c->kind == DAEMON_HISTOGRAM) != (c->n_buckets > 0) ||
        c->n_buckets > DAEMON_METRICS_BUCKETS_MAX)
        return err_set(msg, ERR_INVALID, "metric '%s': histograms have 1 to %d buckets", c->name,
                       DAEMON_METRICS_BUCKETS_MAX);
    for (uint32_t i = 0; i < c->n_buckets; i++) {
        if (!isfinite(c->buckets[i]) || (i > 0 && c->buckets[i] <= c->buckets[i - 1]))
            return err_set(msg, ERR_INVALID, "metric '%s': bucket %u is not above the last",
                           c->name, i);
    }
    return ERR_OK;
}

enum err daemon_metrics_create(struct daemon_metrics **out)
{
    struct daemon_metrics *m = mem_try_calloc(1, sizeof(*m));

    if (m == NULL)
        return ERR_NOMEM;
    m->last = &m->first;
    *out = m;
    return ERR_OK;
}

/* %g with as few digits as give the number back. */
static void number_text(double v, char *out, size_t room)
{
    if (isnan(v))
        snprintf(out, room, "NaN");
    else if (isinf(v))
        snprintf(out, room, v > 0 ? "+Inf" : "-Inf");
    else if (v == floor(v) && fabs(v) < 1e15)
        snprintf(out, room, "%.0f", v);
    else
        snprintf(out, room, "%.12g", v);
}

enum err daemon_metrics_add(struct daemon_metrics *m, const struct daemon_family_config *c,
                            struct err_msg *msg, struct daemon_family **out)
{
    enum err err = check_family(m, c, msg);
    struct daemon_family *f;

    if (err != ERR_OK)
        return err;
    f = mem_try_calloc(1, sizeof(*f));
    if (f == NULL)
        return ERR_NOMEM;
    f->c = *c;
    if (f->c.max_series == 0)
        f->c.max_series = MAX_SERIES_DEFAULT;
    f->le = mem_try_calloc(c->n_buckets, sizeof(*f->le));
    if (f->le == NULL) {
        mem_free(f);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < c->n_buckets; i++)
        number_text(c->buckets[i], f->le[i], sizeof(f->le[i]));
    *m->last = f;
    m->last = &f->next;
    *out = f;
    return ERR_OK;
}

/* ---- series ------------------------------------------------------------------------------------ */

static void cell_free(struct daemon_series_cell *c)
{
    if (c == NULL)
        return;
    for (uint32_t i = 0; c->values != NULL && i < c->family->c.n_labels; i++)
        mem_free(c->values[i]);
    mem_free(c->values);
    mem_free(c->labels);
    mem_free(c->counts);
    mem_free(c);
}

void daemon_metrics_forget(struct daemon_family *f)
{
    for (uint32_t i = 0; i < f->n_cells; i++)
        cell_free(f->cells[i]);
    f->n_cells = 0;
    map_free(&f->index);
}

void daemon_metrics_destroy(struct daemon_metrics *m)
{
    struct daemon_family *next;

    if (m == NULL)
        return;
    for (struct daemon_family *f = m->first; f != NULL; f = next) {
        next = f->next;
        daemon_metrics_forget(f);
        mem_free(f->cells);
        mem_free(f->le);
        mem_free(f);
    }
    mem_free(m);
}

/* Never 0, which is no key. */
static uint64_t hash_values(const char *const *values, uint32_t n)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (uint32_t i = 0; i < n; i++) {
        for (const char *c = values[i]; *c != '\0'; c++)
            h = (h ^ (unsigned char)*c) * 0x100000001b3u;
        h = (h ^ 0xff) * 0x100000001b3u;
    }
    return h | 1;
}

static int compare_values(char *const *a, const char *const *b, uint32_t n)
{
    int order = 0;

    for (uint32_t i = 0; order == 0 && i < n; i++)
        order = strcmp(a[i], b[i]);
    return order;
}

static enum err put_escaped(struct buf *out, const char *s, bool quotes)
{
    enum err err = ERR_OK;

    for (; *s != '\0' && err == ERR_OK; s++) {
        if (*s == '\n')
            err = buf_append(out, "\\n", 2);
        else if (*s == '\\' || (quotes && *s == '"'))
            err = buf_append(out, (const char[]){'\\', *s}, 2);
        else
            err = buf_append(out, s, 1);
    }
    return err;
}

static char *labels_text(const struct daemon_family *f, const char *const *values)
{
    struct buf text = BUF_INIT;
    enum err err = ERR_OK;
    char *copy = NULL;

    for (uint32_t i = 0; i < f->c.n_labels && err == ERR_OK; i++) {
        err = buf_printf(&text, "%s%s=\"", i > 0 ? "," : "", f->c.labels[i]);
        if (err == ERR_OK)
            err = put_escaped(&text, values[i], true);
        if (err == ERR_OK)
            err = buf_append(&text, "\"", 1);
    }
    if (err == ERR_OK)
        copy = mem_try_strndup(text.len > 0 ? buf_bytes(&text) : "", text.len);
    buf_free(&text);
    return copy;
}

static struct daemon_series_cell *cell_create(const struct daemon_family *f,
                                              const char *const *values)
{
    struct daemon_series_cell *c = mem_try_calloc(1, sizeof(*c));
    bool whole;

    if (c == NULL)
        return NULL;
    c->family = f;
    c->labels = labels_text(f, values);
    c->values = mem_try_calloc(f->c.n_labels, sizeof(*c->values));
    c->counts = mem_try_calloc((size_t)f->c.n_buckets + 1, sizeof(*c->counts));
    whole = c->labels != NULL && c->values != NULL && c->counts != NULL;
    for (uint32_t i = 0; whole && i < f->c.n_labels; i++) {
        c->values[i] = mem_try_strdup(values[i]);
        whole = c->values[i] != NULL;
    }
    if (whole)
        return c;
    cell_free(c);
    return NULL;
}

/* Make room, and enter the cell in the index and at its place in the order. */
static enum err cell_enter(struct daemon_family *f, struct daemon_series_cell *c, uint64_t hash)
{
    uint32_t at = f->n_cells;
    enum err err;

    if (f->n_cells == f->cap_cells) {
        uint32_t cap = f->cap_cells == 0 ? 8 : f->cap_cells * 2;
        struct daemon_series_cell **grown = mem_try_realloc(f->cells, cap * sizeof(*grown));

        if (grown == NULL)
            return ERR_NOMEM;
        f->cells = grown;
        f->cap_cells = cap;
    }
    c->same_hash = map_get(&f->index, hash);
    err = map_put(&f->index, hash, c);
    if (err != ERR_OK)
        return err;
    for (; at > 0 && compare_values(f->cells[at - 1]->values, (const char *const *)c->values,
                                    f->c.n_labels) > 0;
         at--)
        f->cells[at] = f->cells[at - 1];
    f->cells[at] = c;
    f->n_cells++;
    return ERR_OK;
}

static struct daemon_series_cell *cell_find(const struct daemon_family *f, uint64_t hash,
                                            const char *const *values)
{
    struct daemon_series_cell *c = map_get(&f->index, hash);

    while (c != NULL && compare_values(c->values, values, f->c.n_labels) != 0)
        c = c->same_hash;
    return c;
}

struct daemon_series_cell *daemon_metrics_cell(struct daemon_family *f, const char *const *values)
{
    static const char *const others[DAEMON_METRICS_LABELS_MAX] = {
        "other", "other", "other", "other", "other", "other", "other", "other"};
    uint64_t hash = hash_values(values, f->c.n_labels);
    struct daemon_series_cell *c = cell_find(f, hash, values);

    if (c != NULL)
        return c;
    if (f->n_cells + 1 >= f->c.max_series && f->c.n_labels > 0) { /* one place is for the rest */
        values = others;
        hash = hash_values(values, f->c.n_labels);
        c = cell_find(f, hash, values);
        if (c != NULL)
            return c;
    }
    c = cell_create(f, values);
    if (c != NULL && cell_enter(f, c, hash) != ERR_OK) {
        cell_free(c);
        c = NULL;
    }
    return c;
}

/* ---- counting ---------------------------------------------------------------------------------- */

void daemon_metrics_count(struct daemon_series_cell *c, double n)
{
    if (c != NULL)
        c->value += n;
}

void daemon_metrics_set(struct daemon_series_cell *c, double value)
{
    if (c != NULL)
        c->value = value;
}

void daemon_metrics_observe(struct daemon_series_cell *c, double value, uint64_t n)
{
    const double *bounds;
    uint32_t low = 0, high;

    if (c == NULL || isnan(value))
        return;
    bounds = c->family->c.buckets;
    high = c->family->c.n_buckets; /* the first bucket whose bound is >= value, else +Inf */
    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (bounds[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    c->counts[low] += n;
    c->value += value * (double)n;
}

static uint64_t histogram_count(const struct daemon_series_cell *c)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i <= c->family->c.n_buckets; i++)
        n += c->counts[i];
    return n;
}

double daemon_metrics_value(const struct daemon_series_cell *c)
{
    if (c == NULL)
        return 0;
    return c->family->c.kind == DAEMON_HISTOGRAM ? (double)histogram_count(c) : c->value;
}

/* ---- rendering --------------------------------------------------------------------------------- */

static enum err render_plain(const struct daemon_series_cell *c, struct buf *out)
{
    char number[40];

    number_text(c->value, number, sizeof(number));
    if (c->labels[0] == '\0')
        return buf_printf(out, "%s %s\n", c->family->c.name, number);
    return buf_printf(out, "%s{%s} %s\n", c->family->c.name, c->labels, number);
}

static enum err render_histogram(const struct daemon_series_cell *c, struct buf *out)
{
    const struct daemon_family *f = c->family;
    const char *comma = c->labels[0] != '\0' ? "," : "";
    const char *open = c->labels[0] != '\0' ? "{" : "", *end = c->labels[0] != '\0' ? "}" : "";
    uint64_t sum = 0;
    enum err err = ERR_OK;
    char number[40];

    for (uint32_t i = 0; i <= f->c.n_buckets && err == ERR_OK; i++) {
        sum += c->counts[i];
        err = buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %llu\n", f->c.name, c->labels, comma,
                         i < f->c.n_buckets ? f->le[i] : "+Inf", (unsigned long long)sum);
    }
    if (err != ERR_OK)
        return err;
    number_text(c->value, number, sizeof(number));
    err = buf_printf(out, "%s_sum%s%s%s %s\n", f->c.name, open, c->labels, end, number);
    if (err != ERR_OK)
        return err;
    return buf_printf(out, "%s_count%s%s%s %llu\n", f->c.name, open, c->labels, end,
                      (unsigned long long)sum);
}

static enum err render_family(const struct daemon_family *f, struct buf *out)
{
    static const char *const kinds[] = {"", "counter", "gauge", "histogram"};
    enum err err = buf_printf(out, "# HELP %s ", f->c.name);

    if (err == ERR_OK)
        err = put_escaped(out, f->c.help, false);
    if (err == ERR_OK)
        err = buf_printf(out, "\n# TYPE %s %s\n", f->c.name, kinds[f->c.kind]);
    for (uint32_t i = 0; i < f->n_cells && err == ERR_OK; i++)
        err = f->c.kind == DAEMON_HISTOGRAM ? render_histogram(f->cells[i], out)
                                            : render_plain(f->cells[i], out);
    return err;
}

enum err daemon_metrics_render(const struct daemon_metrics *m, struct buf *out)
{
    enum err err = ERR_OK;

    for (const struct daemon_family *f = m->first; f != NULL && err == ERR_OK; f = f->next)
        err = render_family(f, out);
    return err;
}
