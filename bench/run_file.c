/* bench/run_file.c - runs to JSON and back.  What is read is checked: a file may come from anywhere. */
#include "bench/run_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"

static const char page_mark[] = "id=\"baton-runs\">";

/* ---- writing; the first failed append sticks ---- */

struct pen {
    struct buf *b;
    enum err err;
};

static void put(struct pen *p, const char *s)
{
    if (p->err == ERR_OK)
        p->err = buf_puts(p->b, s);
}

static void put_name(struct pen *p, const char *name)
{
    if (p->err == ERR_OK)
        p->err = buf_printf(p->b, "\"%s\":", name);
}

static void put_text(struct pen *p, const char *name, const char *s)
{
    put_name(p, name);
    put(p, "\"");
    for (; *s != '\0' && p->err == ERR_OK; s++) {
        unsigned char c = (unsigned char)*s;

        /* other than plain ASCII would have to be checked as UTF-8: names here have no need of it */
        if (c < 0x20 || c > 0x7e || strchr("<>&\"\\'", c) != NULL)
            p->err = buf_printf(p->b, "\\u%04x", c);
        else
            p->err = buf_append(p->b, s, 1);
    }
    put(p, "\",");
}

static void put_number(struct pen *p, const char *name, double v)
{
    put_name(p, name);
    if (p->err == ERR_OK)
        p->err = buf_printf(p->b, "%.17g,", isfinite(v) ? v : 0);
}

/* The comma behind the last member goes. */
static void close_with(struct pen *p, const char *end)
{
    if (p->err == ERR_OK && p->b->len > 0 && buf_bytes(p->b)[p->b->len - 1] == ',')
        p->b->len--;
    put(p, end);
}

static void put_hist(struct pen *p, const char *name, const struct bench_hist *h)
{
    put_name(p, name);
    put(p, "{");
    put_number(p, "sum", h->sum);
    put_number(p, "sum2", h->sum2);
    put_number(p, "min", h->min);
    put_number(p, "max", h->max);
    put(p, "\"count\":[");
    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS && p->err == ERR_OK; i++) {
        if (h->count[i] > 0)
            p->err = buf_printf(p->b, "%u,%u,", i, h->count[i]);
    }
    close_with(p, "]},");
}

static void put_tier(struct pen *p, const struct bench_tier_figures *t)
{
    put(p, "{");
    put_text(p, "name", t->name);
    put_number(p, "weight", t->weight);
    put_number(p, "ttft_s", t->ttft_s);
    put_number(p, "tbt_s", t->tbt_s);
    put_number(p, "n", (double)t->n);
    put_number(p, "done", (double)t->done);
    put_number(p, "kept", (double)t->kept);
    put_number(p, "refused", (double)t->refused);
    put_number(p, "failed", (double)t->failed);
    put_number(p, "timeout", (double)t->timeout);
    put_number(p, "canceled", (double)t->canceled);
    put_number(p, "broken", (double)t->broken);
    put_hist(p, "ttft", &t->ttft);
    put_hist(p, "tbt", &t->tbt);
    put_hist(p, "gap", &t->gap);
    put_hist(p, "e2e", &t->e2e);
    close_with(p, "},");
}

static void put_tenants(struct pen *p, const struct bench_run *r)
{
    put(p, "\"tenants\":[");
    for (uint32_t i = 0; i < r->n_tenants; i++) {
        const struct bench_tenant_figures *t = &r->tenant[i];

        put(p, "{");
        put_text(p, "name", t->name);
        put_number(p, "n", (double)t->n);
        put_number(p, "kept", (double)t->kept);
        put_number(p, "refused", (double)t->refused);
        put_number(p, "broken", (double)t->broken);
        put(p, "\"ttft\":[");
        for (uint32_t k = 0; k < r->n_tiers; k++) {
            put(p, "{");
            put_hist(p, "of", &r->tenant_ttft[(size_t)i * r->n_tiers + k]);
            close_with(p, "},");
        }
        close_with(p, "]},");
    }
    close_with(p, "],");
}

static void put_run(struct pen *p, const struct bench_run *r)
{
    put(p, "\n{");
    put_text(p, "source", r->source);
    put_text(p, "policy", r->policy);
    put_text(p, "trace", r->trace);
    put_text(p, "label", r->label);
    put_text(p, "note", r->note);
    put_number(p, "speedup", r->speedup);
    put_number(p, "seed", (double)r->seed);
    put_number(p, "rate", r->rate);
    put_number(p, "window_s", r->window_s);
    put_number(p, "tokens_in", (double)r->tokens_in);
    put_number(p, "tokens_out", (double)r->tokens_out);
    put_number(p, "bound_weight", r->bound_weight);
    put_number(p, "large_kept", r->large_kept);
    put_number(p, "rest_kept", r->rest_kept);
    put_hist(p, "lag", &r->lag);
    put_hist(p, "decision", &r->decision);
    put_number(p, "bin_s", r->bin_s);
    put(p, "\"bins\":[");
    for (size_t i = 0; i < (size_t)r->n_bins * 2 * r->n_tiers && p->err == ERR_OK; i++)
        p->err = buf_printf(p->b, "%.0f,", r->bins[i]);
    close_with(p, "],\"tiers\":[");
    for (uint32_t i = 0; i < r->n_tiers; i++)
        put_tier(p, &r->tier[i]);
    close_with(p, "],");
    if (r->asked_rate > 0)
        put_number(p, "asked_rate", r->asked_rate);
    if (r->whole)
        put_number(p, "whole", 1);
    if (r->n_tenants > 0)
        put_tenants(p, r);
    close_with(p, "},");
}

enum err bench_runs_encode(const struct bench_run *const *runs, size_t n, struct buf *out)
{
    struct pen p = {.b = out};

    put(&p, "{\"runs\":[");
    for (size_t i = 0; i < n; i++)
        put_run(&p, runs[i]);
    close_with(&p, "]}\n");
    return p.err;
}

enum err bench_runs_save(const char *path, const struct bench_run *const *runs, size_t n,
                         struct err_msg *msg)
{
    struct buf b = BUF_INIT;
    FILE *f = fopen(path, "we");
    enum err err = ERR_OK;

    if (f == NULL)
        return err_set(msg, ERR_IO, "cannot write %.200s: %s", path, strerror(errno));
    err = bench_runs_encode(runs, n, &b);
    if (err == ERR_OK && fwrite(buf_bytes(&b), 1, b.len, f) != b.len)
        err = ERR_IO;
    if (fclose(f) != 0 && err == ERR_OK)
        err = ERR_IO;
    buf_free(&b);
    return err == ERR_OK ? err : err_set(msg, err, "cannot write all of %.200s", path);
}

/* ---- reading ---- */

static double number(const json_t *o, const char *name)
{
    double v = json_number_value(json_object_get(o, name));

    return isfinite(v) ? v : 0;
}

static uint64_t count(const json_t *o, const char *name)
{
    double v = number(o, name);

    return v > 0 && v < 9e15 ? (uint64_t)v : 0;
}

static void text(const json_t *o, const char *name, char *out, size_t room)
{
    const char *s = json_string_value(json_object_get(o, name));

    snprintf(out, room, "%s", s != NULL ? s : "");
}

static bool read_hist(const json_t *o, const char *name, struct bench_hist *h)
{
    const json_t *from = json_object_get(o, name), *v = json_object_get(from, "count");

    *h = (struct bench_hist){.sum = number(from, "sum"),
                             .sum2 = number(from, "sum2"),
                             .min = number(from, "min"),
                             .max = number(from, "max")};
    for (size_t i = 0; i + 1 < json_array_size(v); i += 2) {
        json_int_t bucket = json_integer_value(json_array_get(v, i));
        json_int_t n = json_integer_value(json_array_get(v, i + 1));

        if (bucket < 0 || bucket >= BENCH_HIST_BUCKETS || n < 0 || n > UINT32_MAX)
            return false;
        h->count[bucket] = (uint32_t)n;
        h->n += (uint64_t)n;
    }
    return true;
}

static bool read_tier(const json_t *o, struct bench_tier_figures *t)
{
    text(o, "name", t->name, sizeof(t->name));
    t->weight = number(o, "weight");
    t->ttft_s = number(o, "ttft_s");
    t->tbt_s = number(o, "tbt_s");
    t->n = count(o, "n");
    t->done = count(o, "done");
    t->kept = count(o, "kept");
    t->refused = count(o, "refused");
    t->failed = count(o, "failed");
    t->timeout = count(o, "timeout");
    t->canceled = count(o, "canceled");
    t->broken = count(o, "broken");
    return t->kept <= t->n && read_hist(o, "ttft", &t->ttft) && read_hist(o, "tbt", &t->tbt) &&
           read_hist(o, "gap", &t->gap) && read_hist(o, "e2e", &t->e2e);
}

static void add_to_all(struct bench_tier_figures *all, const struct bench_tier_figures *t)
{
    all->n += t->n;
    all->done += t->done;
    all->kept += t->kept;
    all->refused += t->refused;
    all->failed += t->failed;
    all->timeout += t->timeout;
    all->canceled += t->canceled;
    all->broken += t->broken;
}

static bool read_bins(const json_t *o, struct bench_run *r)
{
    const json_t *bins = json_object_get(o, "bins");
    size_t columns = (size_t)2 * r->n_tiers, n = json_array_size(bins);

    r->bin_s = number(o, "bin_s");
    if (n % columns != 0 || n / columns > BENCH_BINS_MAX || !(r->bin_s > 0))
        return false;
    r->n_bins = (uint32_t)(n / columns);
    for (size_t i = 0; i < n; i++) {
        double v = json_number_value(json_array_get(bins, i));

        r->bins[i] = v > 0 && isfinite(v) ? v : 0;
    }
    return true;
}

static bool read_tenants(const json_t *list, struct bench_run *r)
{
    size_t n = json_array_size(list);

    if (n == 0)
        return true;
    if (n > BENCH_TENANTS_MAX || bench_run_tenants(r, (uint32_t)n) != ERR_OK)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(list, i), *ttft = json_object_get(o, "ttft");
        struct bench_tenant_figures *t = &r->tenant[i];

        text(o, "name", t->name, sizeof(t->name));
        t->n = count(o, "n");
        t->kept = count(o, "kept");
        t->refused = count(o, "refused");
        t->broken = count(o, "broken");
        for (uint32_t k = 0; k < r->n_tiers; k++) {
            if (!read_hist(json_array_get(ttft, k), "of",
                           &r->tenant_ttft[(size_t)i * r->n_tiers + k]))
                return false;
        }
        if (t->kept > t->n)
            return false;
    }
    return true;
}

static bool read_figures(const json_t *o, struct bench_run *r)
{
    double large = number(o, "large_kept"), rest = number(o, "rest_kept");

    text(o, "source", r->source, sizeof(r->source));
    text(o, "policy", r->policy, sizeof(r->policy));
    text(o, "trace", r->trace, sizeof(r->trace));
    text(o, "label", r->label, sizeof(r->label));
    text(o, "note", r->note, sizeof(r->note));
    r->speedup = number(o, "speedup");
    r->seed = count(o, "seed");
    r->rate = number(o, "rate");
    for (uint32_t i = 0; i < r->n_tiers; i++) {
        if (!read_tier(json_array_get(json_object_get(o, "tiers"), i), &r->tier[i]))
            return false;
        add_to_all(&r->all, &r->tier[i]);
    }
    bench_run_finish(r, number(o, "window_s"));
    r->large_kept = large;
    r->rest_kept = rest;
    r->tokens_in = count(o, "tokens_in");
    r->tokens_out = count(o, "tokens_out");
    r->bound_weight = number(o, "bound_weight");
    r->asked_rate = number(o, "asked_rate");
    r->whole = number(o, "whole") > 0;
    if (!read_tenants(json_object_get(o, "tenants"), r))
        return false;
    return read_hist(o, "lag", &r->lag) && read_hist(o, "decision", &r->decision) &&
           read_bins(o, r);
}

static enum err read_run(const char *path, const json_t *o, struct bench_run **out,
                         struct err_msg *msg)
{
    size_t n_tiers = json_array_size(json_object_get(o, "tiers"));
    struct bench_run *r = mem_try_calloc(1, sizeof(*r));
    enum err err = ERR_NOMEM;

    if (r != NULL)
        err = n_tiers > BENCH_TIERS_MAX ? ERR_INVALID : bench_run_init(r, (uint32_t)n_tiers);
    if (err == ERR_OK && !read_figures(o, r)) {
        bench_run_free(r);
        err = ERR_INVALID;
    }
    if (err == ERR_OK) {
        *out = r;
        return ERR_OK;
    }
    mem_free(r);
    return err_set(msg, err, "%.200s: a run in it %s", path,
                   err == ERR_NOMEM ? "does not fit into memory" : "is damaged");
}

static enum err read_file(const char *path, struct buf *out, struct err_msg *msg)
{
    FILE *f = fopen(path, "re");
    enum err err = ERR_OK;
    size_t got = 1;

    if (f == NULL)
        return err_set(msg, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot read %.200s: %s",
                       path, strerror(errno));
    while (err == ERR_OK && got > 0) {
        err = out->len > BENCH_RUN_FILE_MAX ? ERR_LIMIT : buf_reserve(out, 1 << 16);
        if (err != ERR_OK)
            break;
        got = fread(buf_bytes(out) + out->len, 1, 1 << 16, f);
        buf_added(out, got);
    }
    if (err == ERR_OK && ferror(f))
        err = ERR_IO;
    fclose(f);
    return err == ERR_OK ? err : err_set(msg, err, "cannot read %.200s: %s", path, err_text(err));
}

enum err bench_runs_load(const char *path, struct bench_run **runs, size_t max, size_t *n,
                         struct err_msg *msg)
{
    struct buf b = BUF_INIT;
    enum err err = read_file(path, &b, msg);
    const char *from, *mark;
    json_t *root = NULL, *list;

    if (err == ERR_OK) {
        from = buf_bytes(&b);
        mark = memmem(from, b.len, page_mark, sizeof(page_mark) - 1);
        if (mark != NULL)
            from = mark + sizeof(page_mark) - 1;
        root =
            json_loadb(from, b.len - (size_t)(from - buf_bytes(&b)), JSON_DISABLE_EOF_CHECK, NULL);
        list = json_object_get(root, "runs");
        if (!json_is_array(list))
            err = err_set(msg, ERR_INVALID,
                          "%.200s holds no runs; give a file of --out-run, or a page of --report",
                          path);
        for (size_t i = 0; err == ERR_OK && i < json_array_size(list); i++) {
            if (*n == max)
                err = err_set(msg, ERR_LIMIT, "%.200s: more than %zu runs to compare", path, max);
            else
                err = read_run(path, json_array_get(list, i), &runs[*n], msg);
            *n += err == ERR_OK;
        }
    }
    json_decref(root);
    buf_free(&b);
    return err;
}
