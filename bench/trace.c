/* bench/trace.c - opens a trace, recognises its format, and brings its rows into order.
 *
 * A file is recognised by its first character: '[' is an array of conversations, '{' is one JSON object per
 * line, anything else must be a CSV header. */
#include "bench/trace.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/mem.h"
#include "bench/trace_impl.h"

/* ---- lines ---- */

static enum err text_open(struct trace_text *t, const char *path, struct err_msg *msg)
{
    *t = (struct trace_text){.path = path};
    errno = 0;
    t->gz = gzopen(path, "rb");
    if (t->gz == NULL && errno == 0)
        return err_set(msg, ERR_NOMEM, "%s: out of memory", path);
    if (t->gz == NULL)
        return err_set(msg, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    (void)gzbuffer(t->gz, 1 << 17);
    return ERR_OK;
}

static void text_close(struct trace_text *t)
{
    if (t->gz != NULL)
        (void)gzclose_r(t->gz);
    mem_free(t->buf);
}

static enum err text_more(struct trace_text *t, struct err_msg *msg)
{
    int got, code = 0;

    if (t->head > 0) {
        memmove(t->buf, t->buf + t->head, t->len);
        t->head = 0;
    }
    if (t->len + 1 >= t->cap) {
        size_t cap = t->cap == 0 ? 1 << 16 : 2 * t->cap;
        char *buf;

        if (cap > 2 * (size_t)TRACE_LINE_MAX)
            return err_set(msg, ERR_INVALID, "%s: row %llu is longer than %d bytes", t->path,
                           (unsigned long long)t->row + 1, TRACE_LINE_MAX);
        buf = mem_try_realloc(t->buf, cap);
        if (buf == NULL)
            return err_set(msg, ERR_NOMEM, "%s: out of memory", t->path);
        t->buf = buf;
        t->cap = cap;
    }
    got = gzread(t->gz, t->buf + t->len, (unsigned)(t->cap - 1 - t->len));
    if (got < 0)
        return err_set(msg, ERR_IO, "%s: cannot be read: %s", t->path, gzerror(t->gz, &code));
    if (got == 0 && gzerror(t->gz, &code) != NULL && code != Z_OK && code != Z_STREAM_END)
        return err_set(msg, ERR_IO, "%s: ends in the middle of its compressed data", t->path);
    t->ended = got == 0;
    t->len += (size_t)got;
    return ERR_OK;
}

enum err trace_text_line(struct trace_text *t, char **line, size_t *len, struct err_msg *msg)
{
    size_t seen = 0;

    *line = NULL;
    for (;;) {
        char *start = t->buf + t->head, *nl;
        enum err err;

        nl = t->len > seen ? memchr(start + seen, '\n', t->len - seen) : NULL;
        if (nl == NULL && t->ended && t->len > 0)
            nl = start + t->len;
        if (nl != NULL) {
            size_t n = (size_t)(nl - start), eaten = n < t->len ? n + 1 : n;

            t->head += eaten;
            t->len -= eaten;
            if (n > 0 && start[n - 1] == '\r')
                n--;
            start[n] = '\0';
            t->row++;
            *line = start;
            *len = n;
            return ERR_OK;
        }
        if (t->ended)
            return ERR_OK;
        seen = t->len;
        err = text_more(t, msg);
        if (err != ERR_OK)
            return err;
    }
}

/* ---- rows ---- */

static void *grow(void *p, size_t need, size_t *cap, size_t size)
{
    size_t want = *cap < 1024 ? 1024 : *cap, bytes;
    void *q;

    while (want < need)
        want *= 2;
    if (p != NULL && want == *cap)
        return p;
    if (!mem_mul(want, size, &bytes))
        return NULL;
    q = mem_try_realloc(p, bytes);
    if (q != NULL)
        *cap = want;
    return q;
}

enum err trace_rows_add(struct trace_rows *r, const struct bench_trace_row *row,
                        struct err_msg *msg)
{
    struct bench_trace_row *v;

    if (r->t->n >= TRACE_ROWS_MAX)
        return err_set(msg, ERR_LIMIT, "the trace has over %d rows; cut it", TRACE_ROWS_MAX);
    v = grow(r->t->v, r->t->n + 1, &r->cap, sizeof(*v));
    if (v == NULL)
        return err_set(msg, ERR_NOMEM, "out of memory for %zu rows", r->t->n);
    r->t->v = v;
    v[r->t->n++] = *row;
    return ERR_OK;
}

enum err trace_rows_block(struct trace_rows *r, uint64_t id, struct err_msg *msg)
{
    uint64_t *v;

    if (r->t->n_blocks >= UINT32_MAX)
        return err_set(msg, ERR_LIMIT, "the trace has over 2^32 hash_ids; cut it");
    v = grow(r->t->blocks, r->t->n_blocks + 1, &r->blocks_cap, sizeof(*v));
    if (v == NULL)
        return err_set(msg, ERR_NOMEM, "out of memory for %zu hash_ids", r->t->n_blocks);
    r->t->blocks = v;
    v[r->t->n_blocks++] = id;
    return ERR_OK;
}

enum err trace_rows_text(struct trace_rows *r, const char *s, size_t len, uint32_t *at,
                         struct err_msg *msg)
{
    char *text;

    if (len > UINT32_MAX - 1 - r->text_len)
        return err_set(msg, ERR_LIMIT, "the trace has over 4 GiB of prompts; cut it");
    text = grow(r->t->text, r->text_len + len + 1, &r->text_cap, 1);
    if (text == NULL)
        return err_set(msg, ERR_NOMEM, "out of memory for %zu bytes of prompts", r->text_len);
    r->t->text = text;
    memcpy(text + r->text_len, s, len);
    *at = (uint32_t)r->text_len;
    r->text_len += len;
    return ERR_OK;
}

/* ---- order in time ---- */

static int by_time(const void *a, const void *b)
{
    const struct bench_trace_row *x = a, *y = b;

    if (x->at_s != y->at_s)
        return x->at_s < y->at_s ? -1 : 1;
    return (x->first_block > y->first_block) - (x->first_block < y->first_block);
}

void trace_settle(struct bench_trace *t)
{
    double first;
    bool sorted = true;

    for (size_t i = 1; i < t->n && sorted; i++)
        sorted = t->v[i - 1].at_s <= t->v[i].at_s;
    if (!sorted)
        qsort(t->v, t->n, sizeof(*t->v), by_time);
    first = t->n > 0 ? t->v[0].at_s : 0;
    for (size_t i = 0; i < t->n; i++)
        t->v[i].at_s -= first;
    t->seconds = t->n > 0 ? t->v[t->n - 1].at_s : 0;
    t->seconds += t->n > 1 && t->seconds > 0 ? t->seconds / (double)(t->n - 1) : 1;
}

/* Where most stamps repeat the one before, the clock of the trace was coarse: its tick is the smallest
 * gap, and each arrival happened somewhere inside its tick.  Rows are in order of time. */
static void spread(struct bench_trace *t, uint64_t seed)
{
    struct bench_rng rng = {seed ^ 0x7472616365u};
    size_t same = 0;
    double tick = INFINITY;

    for (size_t i = 1; i < t->n; i++) {
        double gap = t->v[i].at_s - t->v[i - 1].at_s;

        same += gap <= 0;
        if (gap > 0 && gap < tick)
            tick = gap;
    }
    if (2 * same <= t->n || !isfinite(tick))
        return;
    for (size_t i = 0; i < t->n; i++)
        t->v[i].at_s += tick * bench_rng_unit(&rng);
}

/* The reader has named the format; files of one format differ by a word in their name. */
static void name_trace(struct bench_trace *t, const char *path)
{
    static const char *const kinds[] = {"-code", "-conv", "-synthetic", "-toolagent", "-arxiv"};
    const char *base = strrchr(path, '/');
    size_t len = strlen(t->name);

    base = base == NULL ? path : base + 1;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strstr(base, kinds[i] + 1) == NULL)
            continue;
        if (strcmp(t->name, "mooncake") != 0 || strcmp(kinds[i], "-conv") != 0)
            snprintf(t->name + len, sizeof(t->name) - len, "%s", kinds[i]);
        return;
    }
}

/* ---- the whole ---- */

static enum err read_rows(struct trace_text *t, struct trace_rows *r, struct err_msg *msg)
{
    const char *start = NULL;
    char *line = NULL;
    size_t len = 0;
    enum err err = text_more(t, msg);

    if (err != ERR_OK)
        return err;
    start = t->buf + t->head;
    while (t->len > 0 && (*start == ' ' || *start == '\n' || *start == '\r' || *start == '\t')) {
        t->row += *start == '\n';
        t->head++;
        t->len--;
        start++;
    }
    if (t->len > 0 && *start == '[')
        return trace_read_array(t, r, msg);
    err = trace_text_line(t, &line, &len, msg);
    if (err != ERR_OK)
        return err;
    if (line == NULL)
        return err_set(msg, ERR_INVALID, "%s: the file is empty", t->path);
    return line[0] == '{' ? trace_read_jsonl(t, line, len, r, msg)
                          : trace_read_csv(t, line, r, msg);
}

enum err bench_trace_load(const char *path, uint64_t seed, struct err_msg *msg,
                          struct bench_trace *out)
{
    struct bench_trace trace = {.n = 0};
    struct trace_rows rows = {.t = &trace};
    struct trace_text text;
    enum err err = text_open(&text, path, msg);

    if (err == ERR_OK)
        err = read_rows(&text, &rows, msg);
    text_close(&text);
    if (err == ERR_OK && trace.n == 0)
        err = err_set(msg, ERR_INVALID, "%s: no rows", path);
    if (err != ERR_OK) {
        bench_trace_free(&trace);
        return err;
    }
    for (size_t i = 0; i < trace.n && !rows.timed; i++)
        trace.v[i].at_s = (double)i; /* no times in the file: one per second, to be drawn anew */
    trace_settle(&trace);
    spread(&trace, seed);
    trace_settle(&trace);
    name_trace(&trace, path);
    *out = trace;
    return ERR_OK;
}

void bench_trace_free(struct bench_trace *t)
{
    mem_free(t->v);
    mem_free(t->blocks);
    mem_free(t->text);
    *t = (struct bench_trace){.n = 0};
}
