/* bench/load_plan.c - rows of a trace to requests, and requests to bytes.
 *
 * Tokens of a shared block are drawn from the block's id, all others from the request's number, so that two prompts
 * share exactly what the trace says they share. */
#include "bench/load_plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum {
    TRACE_BLOCK = 512,
    VOCAB_DEFAULT = 20000,
    ITEMS_MAX = 10000000,
    TOKENS_MAX = 4000000,
    WINDOWS_MAX = 12,
    WINDOW_S = 3 /* at least: shorter ones would lose bursts */
};

/* ---- which requests ---- */

static uint32_t scaled(uint32_t n, double by)
{
    double v = floor((double)n * by + 0.5);

    return v < 1 ? 1 : v > TOKENS_MAX ? TOKENS_MAX : (uint32_t)v;
}

static struct bench_rng stream(uint64_t seed, uint64_t what, uint64_t which)
{
    struct bench_rng r = {seed * 0x9e3779b97f4a7c15u + what};

    r.s = bench_rng_next(&r) ^ (which * 0xd1342543de82ef95u + 1);
    return r;
}

/* The next item is line `i` of the trace, counted on through its repetitions. */
static void fill_item(struct load_plan *p, size_t i, double at_s, const double *share)
{
    const struct bench_trace_row *row = &p->trace->v[i % p->trace->n];
    struct bench_rng r = stream(p->o->seed, 0x63616e63656cu, i);
    struct load_item *x = &p->v[p->n];

    *x = (struct load_item){.at_s = at_s,
                            .row = (uint32_t)(i % p->trace->n),
                            .line = i,
                            .n_prompt = scaled(row->n_prompt, p->o->length_scale),
                            .n_out = scaled(row->n_out, p->o->length_scale)};
    x->tier = p->o->n_tiers > 1 ? bench_pick_tier(p->o->seed, i, share, p->o->n_tiers) : 0;
    if (p->o->in_max > 0 && x->n_prompt > p->o->in_max)
        x->n_prompt = p->o->in_max;
    if (p->o->out_max > 0 && x->n_out > p->o->out_max)
        x->n_out = p->o->out_max;
    if (bench_rng_unit(&r) < p->o->cancel_rate)
        x->cancel_after = 1 + (uint32_t)(bench_rng_unit(&r) * (double)(x->n_out - 1));
    if (p->server->max_context > 0 && (uint64_t)x->n_prompt + x->n_out > p->server->max_context)
        p->n_too_long++;
    p->n++;
}

/* From the beginning on, again and again. */
static void fill_along(struct load_plan *p, size_t most, double length, double speedup,
                       const double *share)
{
    const struct bench_trace *t = p->trace;

    while (p->n < most) {
        double at_s = (double)(p->n / t->n) * length + t->v[p->n % t->n].at_s / speedup;

        if (at_s >= p->duration_s)
            break;
        fill_item(p, p->n, at_s, share);
    }
}

/* Pieces of the trace from evenly spaced places, one behind the other, the first and the last second of it included. */
static void fill_windows(struct load_plan *p, size_t most, double length, double speedup,
                         const double *share)
{
    const struct bench_trace *t = p->trace;
    double window = p->duration_s / p->n_windows, step = (length - window) / (p->n_windows - 1);
    size_t i = 0;

    for (uint32_t k = 0; k < p->n_windows; k++) {
        double from = k * step;

        while (i < t->n && t->v[i].at_s / speedup < from)
            i++;
        for (; i < t->n && p->n < most && t->v[i].at_s / speedup < from + window; i++)
            fill_item(p, i, k * window + t->v[i].at_s / speedup - from, share);
    }
}

enum err load_plan_make(const struct load_options *o, const struct load_server *server,
                        const struct bench_trace *trace, double speedup, double duration_s,
                        bool spread, struct err_msg *msg, struct load_plan *out)
{
    double length = trace->seconds / speedup, share[BENCH_TIERS_MAX];
    size_t most;

    *out = (struct load_plan){.o = o, .server = server, .trace = trace, .body = BUF_INIT};
    if (duration_s <= 0)
        duration_s = length;
    if (trace->n == 0 || !(length > 0))
        return err_set(msg, ERR_INVALID, "trace %s has no requests", trace->name);
    if ((double)trace->n * (duration_s / length + 1) > ITEMS_MAX)
        return err_set(msg, ERR_LIMIT, "more than %d requests; shorten it with --duration",
                       ITEMS_MAX);
    most = (size_t)((double)trace->n * (duration_s / length + 1)) + 1;
    if (o->max_requests > 0 && most > o->max_requests)
        most = o->max_requests;
    out->v = mem_try_alloc(most * sizeof(*out->v));
    if (out->v == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for %zu requests", most);
    for (uint32_t t = 0; t < o->n_tiers; t++)
        share[t] = o->tier[t].share;
    out->duration_s = duration_s;
    out->n_windows = 1;
    if (spread && length > duration_s)
        out->n_windows = (uint32_t)fmin(WINDOWS_MAX, fmax(2, floor(duration_s / WINDOW_S)));
    if (out->n_windows > 1)
        fill_windows(out, most, length, speedup, share);
    else
        fill_along(out, most, length, speedup, share);
    if (out->n == most && out->n > 0 && out->v[out->n - 1].at_s < duration_s)
        duration_s = fmin(duration_s, out->v[out->n - 1].at_s + length / (double)trace->n);
    out->share = duration_s / length;
    out->duration_s = duration_s;
    out->rate = (double)out->n / duration_s;
    if (out->n > 0)
        return ERR_OK;
    load_plan_free(out);
    return err_set(msg, ERR_INVALID, "no request falls into %.3g s; make it longer or faster",
                   duration_s);
}

void load_plan_free(struct load_plan *p)
{
    mem_free(p->v);
    p->v = NULL;
    buf_free(&p->body);
}

/* ---- their bytes ---- */

struct tokens {
    struct load_plan *p;
    bool text, first;
    uint32_t low, span; /* ids are low .. low + span - 1 */
};

static const char *const words[64] = {
    "the",  "of",    "and",   "to",    "in",    "is",   "that", "for",   "it",   "as",    "was",
    "with", "be",    "by",    "on",    "not",   "he",   "his",  "but",   "at",   "are",   "this",
    "have", "from",  "or",    "had",   "an",    "they", "one",  "you",   "were", "her",   "all",
    "she",  "there", "would", "their", "we",    "him",  "been", "has",   "when", "who",   "will",
    "more", "no",    "if",    "out",   "so",    "said", "what", "up",    "its",  "about", "into",
    "than", "them",  "can",   "only",  "other", "new",  "some", "could", "time"};

static size_t put_number(char *out, uint32_t v)
{
    char digits[10];
    size_t n = 0;

    do {
        digits[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    for (size_t i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    return n;
}

static enum err put_tokens(struct tokens *t, struct bench_rng r, uint32_t n)
{
    struct buf *b = &t->p->body;
    enum err err = buf_reserve(b, (size_t)n * 12);

    for (uint32_t i = 0; i < n && err == ERR_OK; i++) {
        uint64_t v = bench_rng_next(&r) >> 11;
        char *at = buf_bytes(b) + b->len;
        size_t len = 0;

        if (!t->first)
            at[len++] = t->text ? ' ' : ',';
        t->first = false;
        if (t->text) {
            const char *word = words[v % 64];
            size_t chars = strlen(word);

            memcpy(at + len, word, chars);
            len += chars;
        } else {
            len += put_number(at + len, t->low + (uint32_t)(v % t->span));
        }
        buf_added(b, len);
    }
    return err;
}

/* Blocks of the trace, then what is left of it from the request's own stream. */
static enum err put_blocks(struct tokens *t, const struct bench_trace_row *row, uint32_t *left,
                           uint64_t pass)
{
    uint32_t block = scaled(TRACE_BLOCK, t->p->o->length_scale);
    enum err err = ERR_OK;

    for (uint32_t i = 0; i<row->n_blocks && * left> 0 && err == ERR_OK; i++) {
        uint64_t id = t->p->trace->blocks[row->first_block + i];
        uint32_t n = *left < block ? *left : block;

        err = put_tokens(t, stream(t->p->o->seed + pass, 0x626c6f636bu, id), n);
        *left -= n;
    }
    return err;
}

static enum err put_prompt_tokens(struct tokens *t, size_t i)
{
    const struct load_options *o = t->p->o;
    const struct load_item *x = &t->p->v[i];
    const struct bench_trace_row *row = &t->p->trace->v[x->row];
    uint32_t left = x->n_prompt;
    uint64_t line = x->line;
    enum err err = ERR_OK;

    if (o->prefix_tokens > 0) {
        struct bench_rng pick = stream(o->seed, 0x7069636bu, line);
        uint64_t which = bench_rng_next(&pick) % o->n_prefixes;
        uint32_t n = left < o->prefix_tokens ? left : o->prefix_tokens;

        err = put_tokens(t, stream(o->seed, 0x707265666978u, which), n);
        left -= n;
    } else {
        err = put_blocks(t, row, &left, line / t->p->trace->n);
    }
    return err == ERR_OK ? put_tokens(t, stream(o->seed, 0x6f776eu, line), left) : err;
}

static enum err put_escaped(struct buf *b, const char *s, size_t len)
{
    enum err err = ERR_OK;

    for (size_t i = 0; i < len && err == ERR_OK; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c == '"' || c == '\\')
            err = buf_printf(b, "\\%c", c);
        else if (c < 0x20)
            err = buf_printf(b, "\\u%04x", c);
        else
            err = buf_append(b, &s[i], 1);
    }
    return err;
}

static enum err put_prompt(struct load_plan *p, size_t i)
{
    const struct bench_trace_row *row = &p->trace->v[p->v[i].row];
    uint32_t vocab = p->o->vocab > 0        ? p->o->vocab
                     : p->server->vocab > 0 ? p->server->vocab
                                            : VOCAB_DEFAULT;
    struct tokens t = {.p = p, .text = p->o->text, .first = true};
    enum err err = buf_puts(&p->body, p->o->chat ? "\"messages\":[{\"role\":\"user\",\"content\":\""
                                      : p->o->text ? "\"prompt\":\""
                                                   : "\"prompt\":[");

    /* the lowest ids are often control tokens, which a server may treat otherwise */
    t.low = vocab / 4 < 1000 ? vocab / 4 : 1000;
    t.span = vocab - t.low;
    if (err == ERR_OK)
        err = p->o->text && row->text_len > 0
                  ? put_escaped(&p->body, p->trace->text + row->text, row->text_len)
                  : put_prompt_tokens(&t, i);
    if (err == ERR_OK)
        err = buf_puts(&p->body, p->o->chat ? "\"}]," : p->o->text ? "\"," : "],");
    return err;
}

static enum err put_body(struct load_plan *p, size_t i)
{
    const struct load_options *o = p->o;
    const struct load_item *x = &p->v[i];
    const struct load_tier *t = &o->tier[x->tier];
    enum err err;

    buf_clear(&p->body);
    err = buf_puts(&p->body, "{\"model\":\"");
    if (err == ERR_OK)
        err = put_escaped(&p->body, p->server->model, strlen(p->server->model));
    if (err == ERR_OK)
        err = buf_puts(&p->body, "\",");
    if (err == ERR_OK)
        err = put_prompt(p, i);
    if (err == ERR_OK)
        err =
            buf_printf(&p->body, "\"%s\":%u,\"temperature\":0,\"stream\":%s%s",
                       o->chat ? "max_completion_tokens" : "max_tokens", x->n_out,
                       o->no_stream ? "false" : "true,\"stream_options\":{\"include_usage\":true}",
                       o->stop_early ? "" : ",\"ignore_eos\":true");
    if (err == ERR_OK && o->names_tiers && t->key[0] == '\0')
        err = buf_printf(&p->body, ",\"service_tier\":\"%s\"", t->name);
    if (err == ERR_OK && o->extra_body != NULL)
        err = buf_printf(&p->body, ",%.*s", (int)(strlen(o->extra_body) - 2), o->extra_body + 1);
    return err == ERR_OK ? buf_puts(&p->body, "}") : err;
}

enum err load_plan_bytes(struct load_plan *p, size_t i, struct buf *out)
{
    const struct load_options *o = p->o;
    const struct load_tier *t = &o->tier[p->v[i].tier];
    const char *key = t->key[0] != '\0' ? t->key : o->key;
    enum err err = put_body(p, i);

    if (err == ERR_OK)
        err = buf_printf(out,
                         "POST %s/v1/%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: baton-bench\r\n"
                         "Content-Type: application/json\r\nAccept: %s\r\n"
                         "X-Request-Id: bench-%llu-%zu\r\nContent-Length: %zu\r\n",
                         o->url.base, o->chat ? "chat/completions" : "completions",
                         o->url.authority, o->no_stream ? "application/json" : "text/event-stream",
                         (unsigned long long)o->seed, i, p->body.len);
    if (err == ERR_OK && key[0] != '\0')
        err = buf_printf(out, "Authorization: Bearer %s\r\n", key);
    if (err == ERR_OK && o->send_slo)
        err = buf_printf(out, "x-slo-ttft-ms: %.6g\r\nx-slo-tpot-ms: %.6g\r\n", t->ttft_s * 1e3,
                         t->tbt_s * 1e3);
    if (err == ERR_OK)
        err = buf_puts(out, "\r\n");
    return err == ERR_OK ? buf_append(out, buf_bytes(&p->body), p->body.len) : err;
}
