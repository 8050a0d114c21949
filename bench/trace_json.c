/* bench/trace_json.c - traces in JSON: Mooncake and vLLM datasets (an object per line), ShareGPT (an array).
 *
 * Where a file has texts and no token counts, a token is taken for four bytes. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "bench/trace_impl.h"

enum { BYTES_PER_TOKEN = 4 };

static enum err bad(const struct trace_text *t, const char *field, const char *why,
                    struct err_msg *msg)
{
    return err_set(msg, ERR_INVALID, "%s: row %llu: field %s %s", t->path,
                   (unsigned long long)t->row, field, why);
}

/* The first of the names that is there. */
static const json_t *field_of(const json_t *o, const char *const *names, const char **found)
{
    for (size_t i = 0; names[i] != NULL; i++) {
        const json_t *v = json_object_get(o, names[i]);

        if (v != NULL && !json_is_null(v)) {
            *found = names[i];
            return v;
        }
    }
    return NULL;
}

static enum err read_tokens(const struct trace_text *t, const char *name, const json_t *v,
                            uint32_t *out, struct err_msg *msg)
{
    double x = json_number_value(v);

    if (!json_is_number(v) || !(x >= 0 && x <= TRACE_TOKENS_MAX) || x != floor(x))
        return bad(t, name, "is not a number of tokens (0 to 2^24)", msg);
    *out = x < 1 ? 1 : (uint32_t)x;
    return ERR_OK;
}

/* A prompt in words: kept, so that a load generator can send it. */
static enum err read_prompt(struct trace_rows *r, const json_t *v, struct bench_trace_row *row,
                            struct err_msg *msg)
{
    size_t len = json_string_length(v), tokens = (len + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN;
    enum err err = trace_rows_text(r, json_string_value(v), len, &row->text, msg);

    if (err != ERR_OK)
        return err;
    row->text_len = (uint32_t)len;
    if (row->n_prompt == 0)
        row->n_prompt = tokens < 1 ? 1 : (uint32_t)tokens;
    return ERR_OK;
}

static uint64_t mix(uint64_t x)
{
    struct bench_rng r = {x};

    return bench_rng_next(&r) | 1;
}

/* Ids of 512-token blocks.  All prompts may share the first (a system prompt); the second names the
 * conversation. */
static enum err read_blocks(const struct trace_text *t, const json_t *v, struct trace_rows *r,
                            struct bench_trace_row *row, struct err_msg *msg)
{
    size_t n = json_array_size(v), keep = ((size_t)row->n_prompt + 511) / 512;

    if (!json_is_array(v))
        return bad(t, "hash_ids", "is not an array", msg);
    if (n > keep)
        n = keep;
    row->first_block = (uint32_t)r->t->n_blocks;
    row->n_blocks = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(v, i);
        enum err err;

        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return bad(t, "hash_ids", "holds something that is no id (an integer from 0)", msg);
        err = trace_rows_block(r, (uint64_t)json_integer_value(id), msg);
        if (err != ERR_OK)
            return err;
        if (i < 2)
            row->session = mix((uint64_t)json_integer_value(id));
    }
    return ERR_OK;
}

static enum err read_object(const struct trace_text *t, const json_t *o, struct trace_rows *r,
                            struct err_msg *msg)
{
    static const char *const in[] = {"input_length", "prompt_len", "input_len", "input_tokens",
                                     NULL};
    static const char *const out[] = {"output_length", "output_tokens", "output_len", NULL};
    struct bench_trace_row row = {.n_prompt = 0};
    const char *name = NULL;
    const json_t *v = field_of(o, in, &name), *prompt = json_object_get(o, "prompt");
    const json_t *stamp = json_object_get(o, "timestamp");
    enum err err = ERR_OK;

    if (v != NULL)
        err = read_tokens(t, name, v, &row.n_prompt, msg);
    if (err == ERR_OK && json_is_string(prompt))
        err = read_prompt(r, prompt, &row, msg);
    else if (err == ERR_OK && v == NULL)
        return bad(t, "input_length", "is missing (nor is there prompt_len or a prompt)", msg);
    if (err != ERR_OK)
        return err;
    v = field_of(o, out, &name);
    if (v == NULL)
        return bad(t, "output_length", "is missing (nor is there output_tokens or output_len)",
                   msg);
    err = read_tokens(t, name, v, &row.n_out, msg);
    if (err == ERR_OK && stamp != NULL) {
        row.at_s = json_number_value(stamp) / 1000;
        if (!json_is_number(stamp) || !(fabs(row.at_s) < 1e12))
            return bad(t, "timestamp", "is not a number of milliseconds", msg);
    }
    if (err == ERR_OK && (stamp != NULL) != r->timed && r->t->n > 0)
        return bad(t, "timestamp", r->timed ? "is missing" : "is here, but not in row 1", msg);
    r->timed = stamp != NULL;
    v = json_object_get(o, "hash_ids");
    if (err == ERR_OK && v != NULL)
        err = read_blocks(t, v, r, &row, msg);
    return err == ERR_OK ? trace_rows_add(r, &row, msg) : err;
}

enum err trace_read_jsonl(struct trace_text *t, char *line, size_t len, struct trace_rows *r,
                          struct err_msg *msg)
{
    enum err err = ERR_OK;

    while (err == ERR_OK && line != NULL) {
        if (len > 0) {
            json_error_t e;
            json_t *o = json_loadb(line, len, 0, &e);

            if (o == NULL)
                return err_set(msg, ERR_INVALID, "%s: row %llu: not JSON: %.160s", t->path,
                               (unsigned long long)t->row, e.text);
            err = json_is_object(o) ? read_object(t, o, r, msg)
                                    : err_set(msg, ERR_INVALID, "%s: row %llu: not an object",
                                              t->path, (unsigned long long)t->row);
            json_decref(o);
        }
        if (err == ERR_OK)
            err = trace_text_line(t, &line, &len, msg);
    }
    snprintf(r->t->name, sizeof(r->t->name), "%s",
             r->timed || r->t->n_blocks > 0 ? "mooncake" : "dataset");
    return err;
}

/* ---- one array ---- */

static size_t feed(void *buffer, size_t room, void *arg)
{
    struct trace_text *t = arg;
    size_t n = t->len < room ? t->len : room;
    int got;

    if (n > 0) {
        memcpy(buffer, t->buf + t->head, n);
        t->head += n;
        t->len -= n;
        return n;
    }
    got = gzread(t->gz, buffer, (unsigned)(room < 1 << 20 ? room : 1 << 20));
    return got < 0 ? (size_t)-1 : (size_t)got;
}

static bool says(const json_t *turn, const char *a, const char *b)
{
    const char *from = json_string_value(json_object_get(turn, "from"));

    return from != NULL && (strcmp(from, a) == 0 || strcmp(from, b) == 0);
}

/* The first question and its answer, as serving benchmarks use them; conversations without are no load. */
static enum err read_conversation(const struct trace_text *t, const json_t *o, struct trace_rows *r,
                                  struct err_msg *msg)
{
    const json_t *turns = json_object_get(o, "conversations"), *ask, *reply;
    struct bench_trace_row row = {.n_prompt = 0};
    size_t len;
    enum err err;

    if (!json_is_array(turns))
        return bad(t, "conversations", "is missing or no array", msg);
    ask = json_array_get(turns, 0);
    reply = json_array_get(turns, 1);
    if (!says(ask, "human", "user") || !says(reply, "gpt", "assistant"))
        return ERR_OK;
    ask = json_object_get(ask, "value");
    reply = json_object_get(reply, "value");
    if (!json_is_string(ask) || !json_is_string(reply))
        return bad(t, "conversations", "has a turn whose value is no text", msg);
    len = json_string_length(reply);
    if (json_string_length(ask) == 0 || len == 0)
        return ERR_OK;
    err = read_prompt(r, ask, &row, msg);
    if (err != ERR_OK)
        return err;
    len = (len + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN;
    if (len > TRACE_TOKENS_MAX || row.n_prompt > TRACE_TOKENS_MAX)
        return bad(t, "conversations", "has a turn over 2^24 tokens", msg);
    row.n_out = (uint32_t)len;
    return trace_rows_add(r, &row, msg);
}

enum err trace_read_array(struct trace_text *t, struct trace_rows *r, struct err_msg *msg)
{
    json_error_t e;
    json_t *all = json_load_callback(feed, t, 0, &e);
    enum err err = ERR_OK;

    if (all == NULL)
        return err_set(msg, ERR_INVALID, "%s: line %d: not JSON: %.160s", t->path, e.line, e.text);
    for (size_t i = 0; i < json_array_size(all) && err == ERR_OK; i++) {
        const json_t *o = json_array_get(all, i);

        t->row = i + 1;
        err = json_object_get(o, "conversations") != NULL ? read_conversation(t, o, r, msg)
                                                          : read_object(t, o, r, msg);
    }
    json_decref(all);
    snprintf(r->t->name, sizeof(r->t->name), "%s", r->timed ? "dataset" : "sharegpt");
    return err;
}
