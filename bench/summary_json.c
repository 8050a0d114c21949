/* bench/summary_json.c - see the header. */
#include "bench/summary_json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "base/buf.h"
#include "base/clock.h"
#include "bench/perf_report.h"

static void put(json_t *o, const char *name, double v)
{
    json_object_set_new(o, name, json_real(v));
}

static void put_count(json_t *o, const char *name, uint64_t v)
{
    json_object_set_new(o, name, json_integer((json_int_t)v));
}

static void put_text(json_t *o, const char *name, const char *s)
{
    json_t *v = json_string(s);

    json_object_set_new(o, name, v != NULL ? v : json_string("?")); /* NULL: not UTF-8 */
}

/* What nobody saw is null, not 0: the times of tokens of an answer that came in one piece. */
static void put_unknown(json_t *o, const char *name)
{
    static const char *const what[] = {"mean", "median", "std", "p99"};
    char key[32];

    for (size_t i = 0; i < 4; i++) {
        snprintf(key, sizeof(key), "%s_%s_ms", what[i], name);
        json_object_set_new(o, key, json_null());
    }
}

static void put_hist(json_t *o, const char *name, const struct bench_hist *h)
{
    char key[32];

    snprintf(key, sizeof(key), "mean_%s_ms", name);
    put(o, key, bench_hist_mean(h) * 1e3);
    snprintf(key, sizeof(key), "median_%s_ms", name);
    put(o, key, bench_hist_quantile(h, 0.5) * 1e3);
    snprintf(key, sizeof(key), "std_%s_ms", name);
    put(o, key, bench_hist_sd(h) * 1e3);
    snprintf(key, sizeof(key), "p99_%s_ms", name);
    put(o, key, bench_hist_quantile(h, 0.99) * 1e3);
}

static json_t *build(const struct bench_summary *s)
{
    const struct load_stats *st = s->stats;
    double duration = st->seconds > 0 ? st->seconds : 1;
    time_t wall = (time_t)(s->wall_ns / CLOCK_NS_PER_S);
    struct tm tm = {0};
    char date[32] = "";
    json_t *o = json_object();

    gmtime_r(&wall, &tm);
    strftime(date, sizeof(date), "%Y%m%d-%H%M%S", &tm);
    put_text(o, "date", date);
    put_text(o, "backend", s->o->chat ? "openai-chat" : "openai");
    put_text(o, "label", s->o->label != NULL ? s->o->label : "baton");
    put_text(o, "model_id", s->server->model);
    put_text(o, "tokenizer_id", s->server->model);
    put_count(o, "num_prompts", st->sent);
    put(o, "request_rate", s->plan->rate);
    put(o, "burstiness", s->o->burstiness);
    json_object_set_new(o, "max_concurrency",
                        s->o->concurrency > 0 ? json_integer(s->o->concurrency) : json_null());
    put(o, "duration", st->seconds);
    put_count(o, "completed", st->done);
    put_count(o, "failed", st->failed + st->refused + st->timeout);
    put_count(o, "total_input_tokens", st->tokens_in);
    put_count(o, "total_output_tokens", st->tokens_out);
    put(o, "request_throughput", (double)st->done / duration);
    put(o, "request_goodput",
        s->run->window_s > 0 ? (double)s->run->all.kept / s->run->window_s : 0);
    put(o, "output_throughput", (double)st->tokens_out / duration);
    put(o, "total_token_throughput", (double)(st->tokens_in + st->tokens_out) / duration);
    if (s->o->no_stream) {
        put_unknown(o, "ttft");
        put_unknown(o, "tpot");
        put_unknown(o, "itl");
    } else {
        put_hist(o, "ttft", &st->ttft);
        put_hist(o, "tpot", &st->tpot);
        put_hist(o, "itl", &st->itl);
    }
    put_hist(o, "e2el", &st->e2e);
    put(o, "max_output_tokens_per_s", st->peak_tokens);
    put_count(o, "max_concurrent_requests", st->peak_in_flight);
    return o;
}

enum err bench_summary_add(json_t **list, const struct bench_summary *s)
{
    json_t *o = build(s);

    if (*list == NULL)
        *list = json_array();
    return o != NULL && json_array_append_new(*list, o) == 0 ? ERR_OK : ERR_NOMEM;
}

enum { REPEATS_MAX = 1000 };

/* Numbers become means; texts and null are the first run's. */
static json_t *pool(const json_t *list)
{
    json_t *out = json_deep_copy(json_array_get(list, 0)), *ci = json_object();
    const json_t *first = json_array_get(list, 0);
    void *at = json_object_iter((json_t *)(uintptr_t)first);
    double v[REPEATS_MAX], half;

    for (; at != NULL; at = json_object_iter_next((json_t *)(uintptr_t)first, at)) {
        const char *key = json_object_iter_key(at);
        size_t n = 0;

        for (size_t i = 0; i < json_array_size(list) && i < REPEATS_MAX; i++) {
            const json_t *x = json_object_get(json_array_get(list, i), key);

            if (json_is_number(x))
                v[n++] = json_number_value(x);
        }
        if (n < json_array_size(list) || strcmp(key, "burstiness") == 0 ||
            strcmp(key, "max_concurrency") == 0)
            continue;
        put(out, key, bench_mean_ci95(v, n, &half));
        put(ci, key, half);
    }
    put_count(out, "repeats", json_array_size(list));
    json_object_set_new(out, "ci95", ci);
    return out;
}

static enum err add_members(json_t *o, const char *members)
{
    struct buf b = BUF_INIT;
    enum err err = buf_printf(&b, "{%s}", members);
    json_t *more = err == ERR_OK ? json_loadb(buf_bytes(&b), b.len, 0, NULL) : NULL;

    if (more == NULL || json_object_update(o, more) != 0)
        err = ERR_NOMEM;
    json_decref(more);
    buf_free(&b);
    return err;
}

enum err bench_summary_write(const char *path, const json_t *list, const char *members,
                             struct err_msg *msg)
{
    json_t *o = json_array_size(list) > 1 ? pool(list) : json_deep_copy(json_array_get(list, 0));
    enum err err = o != NULL ? ERR_OK : ERR_NOMEM;

    if (err == ERR_OK && members != NULL)
        err = add_members(o, members);
    if (err != ERR_OK)
        err = err_set(msg, err, "no memory for the summary");
    else if (json_dump_file(o, path, JSON_INDENT(1)) != 0)
        err = err_set(msg, ERR_IO, "cannot write the summary %.200s: %s", path, strerror(errno));
    json_decref(o);
    return err;
}
