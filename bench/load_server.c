/* bench/load_server.c - asks a server, before the load, what it serves. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "bench/load_http.h"
#include "bench/load_run.h"

enum { ANSWER_MAX = 1 << 20, ASK_LIMIT_MS = 15000 };

struct question {
    struct load_call call; /* first: callbacks get it */
    struct buf answer;
    int status;
    bool ended;
    enum err err;
    char why[LOAD_ERROR_MAX];
    struct load_client *client;
    uv_timer_t limit;
};

static void on_head(struct load_call *call, int status, double retry_after_s)
{
    (void)retry_after_s;
    ((struct question *)call)->status = status;
}

static void on_body(struct load_call *call, const char *bytes, size_t len)
{
    struct question *q = (struct question *)call;

    if (q->answer.len + len <= ANSWER_MAX)
        (void)!buf_append(&q->answer, bytes, len);
}

static void leave(struct question *q)
{
    if (q->client != NULL)
        load_client_close(q->client);
    q->client = NULL;
    if (!uv_is_closing((uv_handle_t *)&q->limit))
        uv_close((uv_handle_t *)&q->limit, NULL);
}

static void on_end(struct load_call *call, enum err err, const char *why)
{
    struct question *q = (struct question *)call;

    q->ended = true;
    q->err = err;
    snprintf(q->why, sizeof(q->why), "%s", why);
    uv_timer_start(&q->limit, q->limit.timer_cb, 0, 0); /* leave from the loop */
}

static void on_limit(uv_timer_t *t)
{
    struct question *q = t->data;

    if (!q->ended) {
        q->err = ERR_TIMEOUT;
        snprintf(q->why, sizeof(q->why), "no answer within %d s", ASK_LIMIT_MS / 1000);
    }
    leave(q);
}

static enum err ask(const struct load_options *o, struct question *q, struct err_msg *msg)
{
    struct buf request = BUF_INIT;
    uv_loop_t loop;
    enum err err;
    const char *key = o->key[0] != '\0' ? o->key : o->tier[0].key;

    if (uv_loop_init(&loop) != 0)
        return err_set(msg, ERR_IO, "no event loop: too many open files");
    err = load_client_create(&loop, &o->url, msg, &q->client);
    if (err == ERR_OK) {
        uv_timer_init(&loop, &q->limit);
        q->limit.data = q;
        uv_timer_start(&q->limit, on_limit, ASK_LIMIT_MS, 0);
        q->call = (struct load_call){.on_head = on_head, .on_body = on_body, .on_end = on_end};
        err =
            buf_printf(&request, "GET %s/v1/models HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n", o->url.base,
                       o->url.authority, key[0] != '\0' ? "Authorization: Bearer " : "", key,
                       key[0] != '\0' ? "\r\n" : "");
        if (err == ERR_OK)
            err = load_call_start(q->client, &q->call, &request);
        if (err != ERR_OK)
            leave(q);
        uv_run(&loop, UV_RUN_DEFAULT);
    }
    buf_free(&request);
    (void)uv_loop_close(&loop);
    return err;
}

static uint32_t whole(const json_t *v)
{
    json_int_t n = json_integer_value(v);

    return n > 0 && n < 1000000000 ? (uint32_t)n : 0;
}

static void read_model(const json_t *m, struct load_server *out)
{
    const json_t *meta = json_object_get(m, "meta");

    out->max_context = whole(json_object_get(m, "max_model_len"));
    if (out->max_context == 0)
        out->max_context = whole(json_object_get(meta, "n_ctx"));
    out->vocab = whole(json_object_get(meta, "n_vocab"));
}

static enum err read_models(const struct load_options *o, const struct question *q,
                            struct load_server *out, struct err_msg *msg)
{
    json_t *root = json_loadb(buf_bytes(&q->answer), q->answer.len, 0, NULL);
    const json_t *list = json_object_get(root, "data");
    const char *first = NULL;
    bool found = false;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        const char *id = json_string_value(json_object_get(m, "id"));

        if (id == NULL || found || (o->model != NULL && strcmp(id, o->model) != 0))
            continue;
        found = true;
        first = id;
        read_model(m, out);
    }
    if (o->model == NULL && first != NULL)
        snprintf(out->model, sizeof(out->model), "%s", first);
    json_decref(root);
    return out->model[0] != '\0'
               ? ERR_OK
               : err_set(msg, ERR_NOT_FOUND,
                         "%.200s lists no model at /v1/models; name one with --model", o->url.host);
}

enum err load_ask_server(const struct load_options *o, struct load_server *out, struct err_msg *msg)
{
    struct question q = {.answer = BUF_INIT};
    enum err err = ask(o, &q, msg);

    *out = (struct load_server){.vocab = 0};
    snprintf(out->model, sizeof(out->model), "%s", o->model != NULL ? o->model : "");
    if (err == ERR_OK && q.err != ERR_OK)
        err = err_set(msg, ERR_IO, "http://%.270s does not answer: %s", o->url.authority, q.why);
    else if (err == ERR_OK && (q.status == 401 || q.status == 403))
        err = err_set(msg, ERR_AUTH, "http://%.270s wants an API key: --key KEY or --key @FILE",
                      o->url.authority);
    else if (err == ERR_OK && q.status != 200 && o->model == NULL)
        err = err_set(msg, ERR_NOT_FOUND,
                      "http://%.270s%s/v1/models answers %d; is it an OpenAI-compatible server, "
                      "and ready?  --model NAME goes on without it",
                      o->url.authority, o->url.base, q.status);
    else if (err == ERR_OK && q.status == 200)
        err = read_models(o, &q, out, msg);
    buf_free(&q.answer);
    return err;
}
