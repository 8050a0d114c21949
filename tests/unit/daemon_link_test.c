/* daemon/link.h over real sockets: who gets in, what closes a link, and that nobody is told twice. */
#include "daemon/link.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "base/mem.h"
#include "daemon/link_addr.h"

struct end {
    struct daemon_link *link;
    int ready, frames, closed;
    uint64_t last_seq;
    enum err why;
    bool close_on_frame;
};

struct world {
    uv_loop_t loop;
    struct wire_secret good, wrong;
    struct daemon_listener *listener;
    struct end client, server;
    enum wire_role role;
    bool refuse;
    char path[64], address[80];
    uv_timer_t limit;
    bool timed_out;
};

static struct world w;

static void end_ready(struct daemon_link *l, void *arg)
{
    (void)l;
    ((struct end *)arg)->ready++;
}

static void end_frame(struct daemon_link *l, void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    struct end *e = arg;

    assert_int_equal(t, WIRE_PING);
    e->frames++;
    e->last_seq = ((const Baton__Ping *)m)->seq;
    if (e->close_on_frame)
        daemon_link_close(l);
}

static void end_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct end *e = arg;

    (void)l, (void)detail;
    e->closed++;
    e->why = why;
    e->link = NULL;
}

static const struct daemon_link_hooks hooks = {end_ready, end_frame, end_closed};

static bool on_accept(void *arg, struct daemon_link *l, enum wire_role role,
                      const struct daemon_link_hooks **h, void **link_arg)
{
    (void)arg;
    if (w.refuse)
        return false;
    w.role = role;
    w.server.link = l;
    *h = &hooks;
    *link_arg = &w.server;
    return true;
}

static void on_limit(uv_timer_t *t)
{
    (void)t;
    w.timed_out = true;
}

/* Turn the loop until *what reaches n; a hang fails the test. */
static void run_until(const int *what, int n)
{
    w.timed_out = false;
    uv_timer_start(&w.limit, on_limit, 8000, 0);
    while (*what < n && !w.timed_out)
        uv_run(&w.loop, UV_RUN_ONCE);
    uv_timer_stop(&w.limit);
    assert_false(w.timed_out);
}

static void start(bool tcp)
{
    struct err_msg msg = {""};
    struct daemon_link_options o = {.loop = &w.loop, .secret = &w.good};

    memset(&w, 0, sizeof(w));
    uv_loop_init(&w.loop);
    uv_timer_init(&w.loop, &w.limit);
    assert_int_equal(wire_secret_parse("0123456789abcdef\n", 17, &w.good, &msg), ERR_OK);
    assert_int_equal(wire_secret_parse("fedcba9876543210", 16, &w.wrong, &msg), ERR_OK);
    snprintf(w.path, sizeof(w.path), "/tmp/baton-link-test-%d", (int)getpid());
    if (tcp)
        snprintf(w.address, sizeof(w.address), "127.0.0.1:0");
    else
        snprintf(w.address, sizeof(w.address), "unix:%s", w.path);
    assert_int_equal(daemon_link_listen(&o, w.address, on_accept, NULL, &msg, &w.listener), ERR_OK);
    snprintf(w.address, sizeof(w.address), "%s", daemon_listener_address(w.listener));
}

static void connect_with(const struct wire_secret *secret)
{
    struct err_msg msg = {""};
    struct daemon_link_options o = {.loop = &w.loop, .secret = secret};

    assert_int_equal(daemon_link_connect(&o, w.address, WIRE_ROLE_DECODE, &hooks, &w.client, &msg,
                                         &w.client.link),
                     ERR_OK);
}

static void finish(void)
{
    if (w.client.link != NULL)
        daemon_link_close(w.client.link);
    if (w.server.link != NULL)
        daemon_link_close(w.server.link);
    daemon_listener_close(w.listener);
    uv_close((uv_handle_t *)&w.limit, NULL);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w.loop), 0);
    unlink(w.path);
    assert_true(w.client.closed <= 1);
    assert_true(w.server.closed <= 1);
    assert_int_equal(mem_live(), 0);
}

static void ping(struct daemon_link *l, uint64_t seq)
{
    Baton__Ping m = BATON__PING__INIT;

    m.seq = seq;
    daemon_link_send(l, WIRE_PING, &m.base);
}

static void frames_go_both_ways_in_order(void **state)
{
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        start(tcp);
        connect_with(&w.good);
        run_until(&w.client.ready, 1);
        for (uint64_t i = 1; i <= 1000; i++)
            ping(w.client.link, i);
        run_until(&w.server.frames, 1000);
        assert_int_equal(w.server.last_seq, 1000);
        assert_int_equal(w.role, WIRE_ROLE_DECODE);
        ping(w.server.link, 5);
        run_until(&w.client.frames, 1);
        daemon_link_close(w.client.link);
        run_until(&w.server.closed, 1);
        assert_int_equal(w.server.why, ERR_PEER_LOST);
        run_until(&w.client.closed, 1);
        assert_int_equal(w.client.why, ERR_CANCELED);
        finish();
    }
}

static void wrong_secret_is_refused_on_both_sides(void **state)
{
    (void)state;
    start(false);
    connect_with(&w.wrong);
    run_until(&w.client.closed, 1);
    assert_int_equal(w.client.why,
                     ERR_AUTH); /* the client sees it first: the server's proof is not ours */
    assert_int_equal(w.client.ready, 0);
    assert_null(w.server.link); /* nobody above the link heard of it */
    finish();
}

static void refused_role_is_closed(void **state)
{
    (void)state;
    start(false);
    w.refuse = true;
    connect_with(&w.good);
    run_until(&w.client.closed, 1);
    assert_null(w.server.link);
    finish();
}

static void close_from_inside_a_frame_is_safe(void **state)
{
    (void)state;
    start(false);
    connect_with(&w.good);
    run_until(&w.client.ready, 1);
    w.server.close_on_frame = true;
    for (uint64_t i = 1; i <= 10; i++)
        ping(w.client.link, i);
    run_until(&w.server.closed, 1);
    assert_int_equal(w.server.frames, 1); /* none after the close */
    run_until(&w.client.closed, 1);
    finish();
}

static void silence_closes_a_link(void **state)
{
    (void)state;
    start(false);
    connect_with(&w.good);
    run_until(&w.client.ready, 1);
    while (w.server.link == NULL)
        uv_run(&w.loop, UV_RUN_ONCE);
    daemon_link_set_timeout(w.server.link, 50 * 1000 * 1000);
    run_until(&w.server.closed, 1);
    assert_int_equal(w.server.why, ERR_TIMEOUT);
    run_until(&w.client.closed, 1);
    finish();
}

/* A plain TCP client that sends these bytes; the listener must cut it and stay useful. */
static void on_raw_connect(uv_connect_t *req, int status)
{
    assert_int_equal(status, 0);
    *(int *)req->data = 1;
}

static void on_raw_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    (void)b;
    if (n < 0)
        ++*(int *)s->data;
}

static void raw_alloc(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    static char space[4096];

    (void)h, (void)n;
    *b = uv_buf_init(space, sizeof(space));
}

static void garbage_is_cut_and_harms_nobody(void **state)
{
    static const char junk[][64] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "BTN1\x01\x00\x01\x00\x09zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        "BTN1\xff\x00\x00\x00\x01zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"};

    (void)state;
    start(true);
    for (size_t i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {
        struct daemon_addr at;
        struct sockaddr_in to;
        uv_tcp_t raw;
        uv_connect_t connecting;
        int connected = 0, ended = 0;
        uv_buf_t b = uv_buf_init((char *)(uintptr_t)junk[i], 62);

        assert_int_equal(daemon_addr_parse(w.address, &at, NULL), ERR_OK);
        uv_ip4_addr(at.host, at.port, &to);
        uv_tcp_init(&w.loop, &raw);
        connecting.data = &connected;
        raw.data = &ended;
        uv_tcp_connect(&connecting, &raw, (struct sockaddr *)&to, on_raw_connect);
        run_until(&connected, 1);
        assert_int_equal(uv_try_write((uv_stream_t *)&raw, &b, 1), 62);
        uv_read_start((uv_stream_t *)&raw, raw_alloc, on_raw_read);
        run_until(&ended, 1);
        uv_close((uv_handle_t *)&raw, NULL);
        uv_run(&w.loop, UV_RUN_NOWAIT);
    }
    connect_with(&w.good);
    run_until(&w.client.ready, 1);
    finish();
}

static void on_late_prepare(uv_prepare_t *h)
{
    uv_prepare_stop(h);
    ping(w.client.link, 9);
}

/* Nothing else may be needed to wake the loop: the timer of the test is seconds away. */
static void a_frame_sent_just_before_the_loop_sleeps_leaves_at_once(void **state)
{
    uv_prepare_t late;
    uint64_t before;

    (void)state;
    start(false);
    connect_with(&w.good);
    run_until(&w.client.ready, 1);
    while (w.server.link == NULL)
        uv_run(&w.loop, UV_RUN_ONCE);
    uv_prepare_init(&w.loop, &late);
    uv_prepare_start(&late, on_late_prepare);
    before = uv_hrtime();
    run_until(&w.server.frames, 1);
    assert_true(uv_hrtime() - before < 1000 * 1000 * 1000);
    uv_close((uv_handle_t *)&late, NULL);
    finish();
}

/* A process that was held up must first look what lies in its sockets before it calls a peer silent. */
static void being_held_up_is_not_the_silence_of_the_peer(void **state)
{
    (void)state;
    start(false);
    connect_with(&w.good);
    run_until(&w.client.ready, 1);
    while (w.server.link == NULL)
        uv_run(&w.loop, UV_RUN_ONCE);
    daemon_link_set_timeout(w.server.link, 80 * 1000 * 1000);
    ping(w.client.link, 1);
    uv_run(&w.loop, UV_RUN_NOWAIT);
    ping(w.client.link, 2);
    usleep(300 * 1000);
    run_until(&w.server.frames, 2);
    assert_int_equal(w.server.closed, 0);
    finish();
}

static void a_listener_takes_no_place_that_is_not_its_own(void **state)
{
    struct err_msg msg = {""};
    struct daemon_link_options o = {.loop = &w.loop, .secret = &w.good};
    struct daemon_listener *second = NULL;
    char file[80], address[96];
    FILE *f;

    (void)state;
    start(false);
    assert_int_equal(daemon_link_listen(&o, w.address, on_accept, NULL, &msg, &second), ERR_IO);
    assert_non_null(strstr(msg.text, "in use"));
    snprintf(file, sizeof(file), "%s.txt", w.path);
    f = fopen(file, "w");
    assert_non_null(f);
    fclose(f);
    snprintf(address, sizeof(address), "unix:%s", file);
    assert_int_equal(daemon_link_listen(&o, address, on_accept, NULL, &msg, &second), ERR_IO);
    assert_int_equal(access(file, F_OK), 0);
    unlink(file);
    connect_with(&w.good); /* the first one still works */
    run_until(&w.client.ready, 1);
    finish();
}

static void addresses_are_taken_apart_or_refused(void **state)
{
    static const char *const bad[] = {"",        "host",  ":80",     "host:", "host:99999",
                                      "host:8x", "[::1]", "[::1:80", "unix:", "host:-1"};
    struct daemon_addr at;
    struct err_msg msg;

    (void)state;
    assert_int_equal(daemon_addr_parse("[::1]:80", &at, &msg), ERR_OK);
    assert_string_equal(at.host, "::1");
    assert_int_equal(at.port, 80);
    assert_int_equal(daemon_addr_parse("unix:/a/b", &at, &msg), ERR_OK);
    assert_true(at.is_unix);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (daemon_addr_parse(bad[i], &at, &msg) == ERR_OK)
            fail_msg("accepted '%s'", bad[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_go_both_ways_in_order),
        cmocka_unit_test(wrong_secret_is_refused_on_both_sides),
        cmocka_unit_test(refused_role_is_closed),
        cmocka_unit_test(close_from_inside_a_frame_is_safe),
        cmocka_unit_test(silence_closes_a_link),
        cmocka_unit_test(garbage_is_cut_and_harms_nobody),
        cmocka_unit_test(a_frame_sent_just_before_the_loop_sleeps_leaves_at_once),
        cmocka_unit_test(being_held_up_is_not_the_silence_of_the_peer),
        cmocka_unit_test(a_listener_takes_no_place_that_is_not_its_own),
        cmocka_unit_test(addresses_are_taken_apart_or_refused),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
