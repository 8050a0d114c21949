/* tests/http/http_echo.c - a small program around daemon/http.h for the tests that speak to a real socket:
 * it echoes requests, reads bodies as the OpenAI endpoints do, and streams on demand.
 *
 *   http_echo [name=value ...]     limits of struct http_limits by name, cors=1, key=SECRET, host=H
 *
 * It prints "listening PORT" and runs until its standard input ends; then it drains, prints the live
 * counts and exits 0 if all are back at zero. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include "base/buf.h"
#include "base/mem.h"
#include "daemon/api_render.h"
#include "daemon/api_request.h"
#include "daemon/http.h"

struct echo {
    uv_loop_t loop;
    uv_pipe_t input;
    uv_timer_t timer;
    struct http_server *server;
    const char *key;
    struct http_exchange *slow; /* the exchange of /slow or /flood, one at a time */
    bool flood;
    bool closing;
    uint32_t left; /* /slow was abandoned by its client */
    uint32_t done, client_left;
};

static void echo(struct http_exchange *x, void *arg)
{
    struct buf out = BUF_INIT;
    size_t len;
    const char *body = http_body(x, &len);
    enum err err =
        buf_printf(&out, "%s %s?%s %zu ", http_method(x), http_path(x), http_query(x), len);

    (void)arg;
    if (err == ERR_OK)
        err = buf_append(&out, body, len);
    if (err == ERR_OK)
        http_respond(x, 200, "text/plain", buf_bytes(&out), out.len);
    else
        http_respond_error(x, 503, "overloaded_error", NULL, NULL, "out of memory");
    buf_free(&out);
}

static enum api_kind kind_of(const char *path)
{
    if (strcmp(path, "/v1/chat/completions") == 0)
        return API_CHAT;
    if (strcmp(path, "/v1/completions") == 0)
        return API_COMPLETION;
    return strcmp(path, "/tokenize") == 0 ? API_TOKENIZE : API_DETOKENIZE;
}

static void api(struct http_exchange *x, void *arg)
{
    struct api_limits limits = {.vocab = 512};
    struct api_request *r;
    struct api_error e;
    struct buf out = BUF_INIT;
    size_t len;
    const char *body = http_body(x, &len);

    (void)arg;
    if (api_request_parse(kind_of(http_path(x)), body, len, &limits, &r, &e)) {
        if (!api_request_check(r, &limits))
            abort();
        http_respond(x, 200, "application/json", "{}", 2);
        api_request_free(r);
        return;
    }
    if (api_render_error(&out, &e) == ERR_OK)
        http_respond(x, e.status, "application/json", buf_bytes(&out), out.len);
    buf_free(&out);
}

static void health(struct http_exchange *x, void *arg)
{
    (void)arg;
    http_respond(x, 200, "application/json", "{\"status\":\"ok\"}", 15);
}

static void stream(struct http_exchange *x, void *arg)
{
    (void)arg;
    http_stream_begin(x, 200, "text/event-stream; charset=utf-8");
    for (int i = 0; i < 3; i++) {
        char line[32];
        int n = snprintf(line, sizeof(line), "data: %d\n\n", i);

        if (http_stream_write(x, line, (size_t)n) != ERR_OK)
            return;
    }
    http_stream_end(x);
}

static void slow_left(struct http_exchange *x, void *context)
{
    struct echo *e = context;

    (void)x;
    e->slow = NULL;
    e->left++;
}

static void slow(struct http_exchange *x, void *arg)
{
    struct echo *e = arg;

    if (e->slow != NULL) {
        http_respond_error(x, 409, "invalid_request_error", NULL, NULL, "one at a time");
        return;
    }
    e->slow = x;
    e->flood = strcmp(http_path(x), "/flood") == 0;
    http_set_context(x, e, slow_left);
    http_stream_begin(x, 200, "text/event-stream");
}

static void left(struct http_exchange *x, void *arg)
{
    struct echo *e = arg;
    char text[96];
    const struct http_stats *s = http_server_stats(e->server);
    int n = snprintf(text, sizeof(text), "%u %u %u %u", e->left, s->exchanges, s->connections,
                     e->client_left);

    http_respond(x, 200, "text/plain", text, (size_t)n);
}

static void on_timer(uv_timer_t *timer)
{
    static char block[16384];
    struct echo *e = timer->data;

    if (e->slow == NULL)
        return;
    if (!e->flood)
        (void)!http_stream_write(e->slow, ": tick\n\n", 8);
    else
        (void)!http_stream_write(e->slow, block, sizeof(block));
}

static bool authorize(void *arg, const char *key, size_t len, void **principal)
{
    struct echo *e = arg;

    *principal = NULL;
    return e->key == NULL ||
           (key != NULL && strlen(e->key) == len && memcmp(key, e->key, len) == 0);
}

static void on_done(void *arg, const struct http_exchange *x, int status, uint64_t bytes,
                    uint64_t duration_ns)
{
    struct echo *e = arg;

    (void)x, (void)bytes, (void)duration_ns;
    e->done++;
    e->client_left += status == 499;
}

static const struct http_route routes[] = {
    {"GET", "/echo", false, echo},          {"POST", "/echo", false, echo},
    {"GET", "/items/*", true, echo},        {"POST", "/v1/chat/completions", true, api},
    {"POST", "/v1/completions", true, api}, {"POST", "/tokenize", true, api},
    {"POST", "/detokenize", true, api},     {"GET", "/health", false, health},
    {"GET", "/stream", false, stream},      {"GET", "/slow", false, slow},
    {"GET", "/flood", false, slow},         {"GET", "/left", false, left},
};

static bool set_limit(struct http_limits *l, const char *name, unsigned long value)
{
#define FIELD(field)                            \
    if (strcmp(name, #field) == 0) {            \
        l->field = (__typeof__(l->field))value; \
        return true;                            \
    }
    FIELD(request_line)
    FIELD(header)
    FIELD(headers)
    FIELD(header_count)
    FIELD(body)
    FIELD(chunk_extensions)
    FIELD(trailers)
    FIELD(header_timeout_ms)
    FIELD(body_timeout_ms)
    FIELD(idle_timeout_ms)
    FIELD(requests_per_connection)
    FIELD(connections)
    FIELD(connections_per_ip)
    FIELD(max_output)
#undef FIELD
    return false;
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct echo *e = stream->data;

    (void)buf;
    if (n >= 0 || e->closing)
        return;
    e->closing = true;
    uv_close((uv_handle_t *)stream, NULL);
    uv_close((uv_handle_t *)&e->timer, NULL);
    http_server_drain(e->server);
    http_server_close(e->server, NULL, NULL);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[256];

    (void)handle, (void)suggested;
    *buf = uv_buf_init(bytes, sizeof(bytes));
}

static int run(struct echo *e, struct http_config *config, const char *host)
{
    struct err_msg msg = {""};
    uint16_t port = 0;

    config->loop = &e->loop;
    if (http_server_create(config, &e->server) != ERR_OK ||
        http_server_listen(e->server, host, 0, &port, &msg) != ERR_OK) {
        fprintf(stderr, "cannot listen: %s\n", msg.text);
        return 1;
    }
    uv_timer_init(&e->loop, &e->timer);
    e->timer.data = e;
    uv_timer_start(&e->timer, on_timer, 10, 10);
    uv_pipe_init(&e->loop, &e->input, 0);
    e->input.data = e;
    uv_pipe_open(&e->input, 0);
    uv_read_start((uv_stream_t *)&e->input, on_alloc, on_input);
    printf("listening %u\n", port);
    fflush(stdout);
    uv_run(&e->loop, UV_RUN_DEFAULT);
    uv_loop_close(&e->loop);
    printf("done %u blocks %zu\n", e->done, mem_live());
    return mem_live() == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct echo e;

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    struct http_config config = {.routes = routes,
                                 .n_routes = sizeof(routes) / sizeof(routes[0]),
                                 .arg = &e,
                                 .authorize = authorize,
                                 .on_done = on_done};
    const char *host = "127.0.0.1";

    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');

        if (value == NULL)
            return 2;
        *value++ = '\0';
        if (strcmp(argv[i], "cors") == 0)
            config.cors = value[0] == '1';
        else if (strcmp(argv[i], "key") == 0)
            e.key = value;
        else if (strcmp(argv[i], "host") == 0)
            host = value;
        else if (!set_limit(&config.limits, argv[i], strtoul(value, NULL, 10)))
            return 2;
    }
    uv_loop_init(&e.loop);
    return run(&e, &config, host);
}
