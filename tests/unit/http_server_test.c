/* tests/unit/http_server_test.c - the server in this process, on a real loop and real sockets: how exchanges
 * end, what handlers are told, drain, close, and every allocation failing in turn. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <signal.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"
#include "daemon/http.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

struct world {
    uv_loop_t loop;
    struct http_server *server;
    struct http_config config;
    uint16_t port;
    struct http_exchange *held; /* by /hold */
    unsigned closes, dones, handled;
    int last_status;
    bool closed;
    bool respond_in_close;
};

static void on_close(struct http_exchange *x, void *context)
{
    struct world *w = context;

    w->closes++;
    w->held = NULL;
    if (w->respond_in_close) {
        http_respond(x, 200, "text/plain", "late", 4);
        http_stream_end(x);
        http_stream_abort(x);
        assert_int_equal(http_stream_write(x, "x", 1), ERR_LIMIT);
    }
}

static void hold(struct http_exchange *x, void *arg)
{
    struct world *w = arg;

    w->handled++;
    w->held = x;
    http_set_context(x, w, on_close);
}

static void hello(struct http_exchange *x, void *arg)
{
    struct world *w = arg;

    w->handled++;
    http_respond(x, 200, "text/plain", "hello", 5);
}

static void stream(struct http_exchange *x, void *arg)
{
    struct world *w = arg;

    w->handled++;
    http_set_context(x, w, on_close);
    http_stream_begin(x, 200, "text/event-stream");
    for (int i = 0; i < 3; i++)
        (void)!http_stream_write(x, "data: x\n\n", 9);
    http_stream_end(x);
}

static void headers(struct http_exchange *x, void *arg)
{
    (void)arg;
    assert_int_equal(http_add_header(x, "X-Good", "a b"), ERR_OK);
    assert_int_equal(http_add_header(x, "X-Bad", "a\r\nSet-Cookie: b"), ERR_INVALID);
    assert_int_equal(http_add_header(x, "X-Bad", "a\nb"), ERR_INVALID);
    assert_int_equal(http_add_header(x, "X Bad", "a"), ERR_INVALID);
    assert_int_equal(http_add_header(x, "X-Bad\r\nY", "a"), ERR_INVALID);
    assert_int_equal(http_add_header(x, "", "a"), ERR_INVALID);
    http_respond(x, 200, "text/plain", http_header(x, "x-mine"), 4);
}

static void on_done(void *arg, const struct http_exchange *x, int status, uint64_t bytes,
                    uint64_t duration_ns)
{
    struct world *w = arg;

    (void)bytes;
    assert_true(duration_ns < 60 * CLOCK_NS_PER_S);
    assert_true(strlen(http_request_id(x)) > 0);
    assert_true(http_path(x)[0] == '/');
    w->dones++;
    w->last_status = status;
}

static const struct http_route routes[] = {{"GET", "/hold", false, hold},
                                           {"GET", "/hello", false, hello},
                                           {"POST", "/hello", false, hello},
                                           {"GET", "/stream", false, stream},
                                           {"GET", "/headers", false, headers}};

static enum err start(struct world *w)
{
    struct err_msg msg;
    enum err err;

    memset(w, 0, sizeof(*w));
    assert_int_equal(uv_loop_init(&w->loop), 0);
    w->config = (struct http_config){.loop = &w->loop,
                                     .routes = routes,
                                     .n_routes = sizeof(routes) / sizeof(routes[0]),
                                     .arg = w,
                                     .on_done = on_done};
    err = http_server_create(&w->config, &w->server);
    if (err != ERR_OK)
        return err;
    assert_int_equal(http_server_listen(w->server, "127.0.0.1", 0, &w->port, &msg), ERR_OK);
    assert_true(w->port > 0);
    return ERR_OK;
}

static void was_closed(void *arg)
{
    ((struct world *)arg)->closed = true;
}

static void stop(struct world *w)
{
    if (w->server != NULL) {
        http_server_close(w->server, was_closed, w);
        assert_false(w->closed); /* later, never from inside */
        uv_run(&w->loop, UV_RUN_DEFAULT);
        assert_true(w->closed);
    }
    assert_int_equal(uv_loop_close(&w->loop), 0);
}

static int dial(uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Turn the loop until the client has read `want` or the connection is closed, 3 s at most.  Returns true if
 * the wanted text has come; all that was read stays in `got`. */
static bool hear(struct world *w, int fd, char *got, size_t size, const char *want)
{
    uint64_t until = clock_now_ns() + 3 * CLOCK_NS_PER_S;
    size_t n = strlen(got);

    while (clock_now_ns() < until) {
        ssize_t r;

        uv_run(&w->loop, UV_RUN_NOWAIT);
        r = recv(fd, got + n, size - 1 - n, 0);
        if (r > 0)
            got[n += (size_t)r] = '\0';
        if (want != NULL && strstr(got, want) != NULL)
            return true;
        if (r == 0 || (r < 0 && errno != EAGAIN))
            return want == NULL;
        if (r < 0)
            usleep(200);
    }
    return false;
}

static void turn_until(struct world *w, const unsigned *counter, unsigned want)
{
    uint64_t until = clock_now_ns() + 3 * CLOCK_NS_PER_S;

    while (*counter < want && clock_now_ns() < until) {
        uv_run(&w->loop, UV_RUN_NOWAIT);
        usleep(100);
    }
    assert_int_equal(*counter, want);
}

static void requests_behind_a_running_exchange_wait_for_its_end(void **state)
{
    struct world w;
    char got[4096] = "";
    int fd;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    fd = dial(w.port);
    say(fd, GET("/hold") GET("/hello") GET("/hello"));
    turn_until(&w, &w.handled, 1);
    for (int i = 0; i < 20; i++)
        uv_run(&w.loop, UV_RUN_NOWAIT);
    assert_int_equal(w.handled, 1);
    assert_int_equal(http_server_stats(w.server)->exchanges, 1);
    http_respond(w.held, 200, "text/plain", "held", 4);
    assert_true(hear(&w, fd, got, sizeof(got), "hello"));
    turn_until(&w, &w.dones, 3);
    assert_true(strstr(got, "held") < strstr(got, "hello"));
    assert_int_equal(w.closes, 0);
    assert_int_equal(http_server_stats(w.server)->requests_total, 3);
    assert_int_equal(http_server_stats(w.server)->exchanges, 0);
    close(fd);
    stop(&w);
    assert_int_equal(mem_live(), 0);
}

static void handler_is_told_once_when_its_client_leaves_and_cannot_answer_then(void **state)
{
    struct world w;
    int fd;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    w.respond_in_close = true;
    fd = dial(w.port);
    say(fd, GET("/hold"));
    turn_until(&w, &w.handled, 1);
    close(fd);
    turn_until(&w, &w.closes, 1);
    assert_int_equal(w.dones, 1);
    assert_int_equal(w.last_status, 499);
    for (int i = 0; i < 20; i++)
        uv_run(&w.loop, UV_RUN_NOWAIT);
    assert_int_equal(w.closes, 1);
    stop(&w);
    assert_int_equal(w.closes, 1);
    assert_int_equal(mem_live(), 0);
}

static void handler_is_not_told_after_its_exchange_has_ended(void **state)
{
    struct world w;
    char got[4096] = "";
    int fd;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    fd = dial(w.port);
    say(fd, GET("/stream"));
    assert_true(hear(&w, fd, got, sizeof(got), "\r\n0\r\n\r\n"));
    close(fd);
    for (int i = 0; i < 50; i++)
        uv_run(&w.loop, UV_RUN_NOWAIT);
    stop(&w);
    assert_int_equal(w.closes, 0);
    assert_int_equal(w.dones, 1);
    assert_int_equal(w.last_status, 200);
    assert_int_equal(mem_live(), 0);
}

static void abort_leaves_the_body_unfinished(void **state)
{
    struct world w;
    char got[4096] = "";
    int fd;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    fd = dial(w.port);
    say(fd, GET("/hold"));
    turn_until(&w, &w.handled, 1);
    http_stream_begin(w.held, 200, "text/event-stream");
    assert_int_equal(http_stream_write(w.held, "data: x\n\n", 9), ERR_OK);
    http_stream_abort(w.held);
    assert_true(hear(&w, fd, got, sizeof(got), NULL));
    assert_non_null(strstr(got, "9\r\ndata: x\n\n\r\n"));
    assert_null(strstr(got, "\r\n0\r\n\r\n"));
    assert_int_equal(w.closes, 0);
    close(fd);
    stop(&w);
    assert_int_equal(mem_live(), 0);
}

static void close_cuts_live_exchanges_and_tells_their_handlers(void **state)
{
    struct world w;
    int fd[3];

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    for (int i = 0; i < 3; i++) {
        fd[i] = dial(w.port);
        say(fd[i], i == 2 ? "GET /hold HT" : GET("/hold"));
    }
    turn_until(&w, &w.handled, 2);
    stop(&w);
    assert_int_equal(w.closes, 2);
    assert_int_equal(w.dones, 2);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    assert_int_equal(mem_live(), 0);
}

static void drain_lets_running_exchanges_end_and_takes_nothing_new(void **state)
{
    struct world w;
    char got[4096] = "", idle_got[64] = "";
    int fd, idle;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    fd = dial(w.port);
    idle = dial(w.port);
    say(fd, GET("/hold") GET("/hello"));
    turn_until(&w, &w.handled, 1);
    http_server_drain(w.server);
    http_server_drain(w.server);
    assert_true(hear(&w, idle, idle_got, sizeof(idle_got), NULL));
    assert_string_equal(idle_got, "");
    assert_int_equal(dial(w.port), -1);
    http_respond(w.held, 200, "text/plain", "held", 4);
    assert_true(hear(&w, fd, got, sizeof(got), NULL));
    assert_non_null(strstr(got, "Connection: close\r\n"));
    assert_non_null(strstr(got, "held"));
    assert_null(strstr(got, "hello"));
    assert_int_equal(w.handled, 1);
    close(fd);
    close(idle);
    stop(&w);
    assert_int_equal(mem_live(), 0);
}

static void headers_cannot_smuggle_lines_into_a_response(void **state)
{
    struct world w;
    char got[4096] = "";
    int fd;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    fd = dial(w.port);
    say(fd, "GET /headers HTTP/1.1\r\nHost: h\r\nX-MINE: \t mine \t\r\n\r\n");
    assert_true(hear(&w, fd, got, sizeof(got), "mine"));
    assert_non_null(strstr(got, "X-Good: a b\r\n"));
    assert_null(strstr(got, "X-Bad"));
    assert_null(strstr(got, "Cookie"));
    close(fd);
    stop(&w);
    assert_int_equal(mem_live(), 0);
}

static void listen_says_what_is_wrong(void **state)
{
    struct world w;
    struct err_msg msg;
    uint16_t port;

    (void)state;
    assert_int_equal(start(&w), ERR_OK);
    assert_int_equal(http_server_listen(w.server, "127.0.0.1", w.port, &port, &msg), ERR_IO);
    assert_non_null(strstr(msg.text, "port in use"));
    assert_int_equal(http_server_listen(w.server, "nowhere.example", 0, &port, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "nowhere.example"));
    assert_int_equal(http_server_listen(w.server, "localhost", 0, &port, &msg), ERR_OK);
    assert_true(port != 0 && port != w.port);
    assert_int_equal(http_server_listen(w.server, "192.0.2.1", 0, &port, &msg), ERR_INVALID);
    stop(&w);
    assert_int_equal(mem_live(), 0);
}

/* One connection that sees most of the server, with whatever outcome. */
static void exercise(struct world *w)
{
    static const char talk[] = GET(
        "/hello") "POST /hello HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\r\nTransfer-Encoding: "
                  "chunked\r\n\r\n"
                  "4\r\nabcd\r\n0\r\n\r\n" GET("/stream") GET(
                      "/nowhere") "DELETE /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    char got[8192] = "";
    int fd = dial(w->port);

    if (fd < 0)
        return;
    say(fd, talk);
    hear(w, fd, got, sizeof(got), NULL);
    close(fd);
}

static void any_failed_allocation_costs_a_connection_at_most(void **state)
{
    size_t quiet = 0;

    (void)state;
    for (long n = 0; quiet < 3; n++) {
        struct world w;
        enum err err;

        mem_fail_at(n);
        err = start(&w);
        if (err == ERR_OK) {
            exercise(&w);
            /* Once an allocation has failed, the next connection is served again. */
            mem_fail_at(-1);
            {
                char got[4096] = "";
                int fd = dial(w.port);

                assert_true(fd >= 0);
                say(fd, GET("/hello"));
                assert_true(hear(&w, fd, got, sizeof(got), "hello"));
                close(fd);
            }
            quiet += w.handled == 4 ? 1u : 0u;
        }
        mem_fail_at(-1);
        if (err != ERR_OK)
            w.server = NULL;
        stop(&w);
        assert_int_equal(mem_live(), 0);
        assert_true(n < 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_behind_a_running_exchange_wait_for_its_end),
        cmocka_unit_test(handler_is_told_once_when_its_client_leaves_and_cannot_answer_then),
        cmocka_unit_test(handler_is_not_told_after_its_exchange_has_ended),
        cmocka_unit_test(abort_leaves_the_body_unfinished),
        cmocka_unit_test(close_cuts_live_exchanges_and_tells_their_handlers),
        cmocka_unit_test(drain_lets_running_exchanges_end_and_takes_nothing_new),
        cmocka_unit_test(headers_cannot_smuggle_lines_into_a_response),
        cmocka_unit_test(listen_says_what_is_wrong),
        cmocka_unit_test(any_failed_allocation_costs_a_connection_at_most),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
