/* daemon/http_conn.c - one client connection: reading, one exchange at a time, sending, deadlines, end.
 *
 * Reading goes on while an exchange runs, because that is how a client that leaves is noticed; what it
 * sends meanwhile is kept up to HTTP_PIPELINE_MAX and then left in the kernel.
 *
 * Output is collected in `out` and sent once per loop turn, by a plain write if the socket takes it all.
 * Only what it does not take goes to libuv, in `sending`, so that no buffer moves under a running write. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/http_internal.h"

enum { PUMP_BUDGET = 32, PUMP_OUT_MAX = 65536 };

/* clang-format off */
static const bool may_move[CONN_STATE_COUNT][CONN_STATE_COUNT] = {
    /* from            READING RUNNING ENDING LINGER CLOSED */
    [CONN_READING] = {false,  true,   true,  false, true},
    [CONN_RUNNING] = {true,   false,  true,  false, true},
    [CONN_ENDING]  = {false,  false,  false, true,  true},
    [CONN_LINGER]  = {false,  false,  false, false, true},
    [CONN_CLOSED]  = {false,  false,  false, false, false},
};
/* clang-format on */

static void conn_set_state(struct http_conn *c, enum http_conn_state next)
{
    (void)may_move; /* where asserts are off */
    assert(may_move[c->state][next]);
    c->state = next;
}

/* ---- the turn list ---- */
void http_conn_wake(struct http_conn *c)
{
    struct http_conn *list = &c->server->turn;

    if (c->turn_next != NULL || c->state == CONN_CLOSED)
        return;
    c->turn_next = list;
    c->turn_prev = list->turn_prev;
    list->turn_prev->turn_next = c;
    list->turn_prev = c;
    c->server->n_turn++;
}

static void leave_turn_list(struct http_conn *c)
{
    if (c->turn_next == NULL)
        return;
    c->turn_prev->turn_next = c->turn_next;
    c->turn_next->turn_prev = c->turn_prev;
    c->turn_prev = c->turn_next = NULL;
    c->server->n_turn--;
}

/* ---- deadlines ---- */
static uint64_t now_ms(const struct http_conn *c)
{
    return uv_now(c->server->config.loop);
}

static void arm(struct http_conn *c)
{
    uint64_t a = c->state_deadline, b = c->write_deadline;

    http_timer_set(&c->server->wheel, &c->timer, a == 0 || (b != 0 && b < a) ? b : a);
}

static void set_deadline(struct http_conn *c, uint32_t in_ms)
{
    c->state_deadline = in_ms > 0 ? now_ms(c) + in_ms : 0;
    arm(c);
}

static void set_write_deadline(struct http_conn *c, bool on)
{
    c->write_deadline = on ? now_ms(c) + c->server->limits.body_timeout_ms : 0;
    c->queue_seen = on ? uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) : 0;
    arm(c);
}

/* ---- the end ---- */
struct ip_count {
    uint64_t key;
    uint32_t n;
};

static void uncount_ip(struct http_conn *c)
{
    struct ip_count *count = c->ip_key != 0 ? map_get(&c->server->by_ip, c->ip_key) : NULL;

    if (count != NULL && --count->n == 0) {
        map_del(&c->server->by_ip, c->ip_key);
        mem_free(count);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct http_conn *c = handle->data;
    struct http_server *s = c->server;

    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    if (c->refused)
        s->n_refused--;
    else
        s->stats.connections--;
    uncount_ip(c);
    http_parse_fini(&c->parse);
    buf_free(&c->pending);
    buf_free(&c->out);
    buf_free(&c->sending);
    buf_free(&c->x.headers);
    mem_free(c);
    http_server_handle_closed(s);
}

static void conn_close(struct http_conn *c)
{
    conn_set_state(c, CONN_CLOSED);
    http_timer_stop(&c->timer);
    leave_turn_list(c);
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

static void report_done(struct http_exchange *x)
{
    const struct http_config *config = &x->conn->server->config;

    if (config->on_done != NULL)
        config->on_done(config->arg, x, x->status, x->bytes_out, clock_now_ns() - x->begun_ns);
}

void http_conn_kill(struct http_conn *c)
{
    struct http_exchange *x = &c->x;

    if (c->state == CONN_CLOSED)
        return;
    conn_close(c);
    if (!x->live)
        return;
    x->live = false;
    c->server->stats.exchanges--;
    if (x->on_close != NULL)
        x->on_close(x, x->context);
    x->status = 499;
    report_done(x);
}

/* Send what is left, then half-close. */
static void begin_end(struct http_conn *c)
{
    conn_set_state(c, CONN_ENDING);
    set_deadline(c, 0);
    buf_free(&c->pending);
    http_conn_wake(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct http_conn *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->server->read_buf, sizeof(c->server->read_buf));
}

static void pause_reading(struct http_conn *c)
{
    uv_read_stop((uv_stream_t *)&c->tcp);
    c->read_paused = true;
}

static void resume_reading(struct http_conn *c)
{
    if (!c->read_paused || c->eof)
        return;
    c->read_paused = false;
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        http_conn_kill(c);
}

/* The response is out.  Closing now, with bytes of the client unread, would reset the connection and could
 * take the response with it; so say that we are done and wait a little for the client's own close. */
static void begin_linger(struct http_conn *c)
{
    if (c->eof || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, NULL) != 0) {
        conn_close(c);
        return;
    }
    conn_set_state(c, CONN_LINGER);
    set_deadline(c, HTTP_LINGER_MS);
    resume_reading(c);
}

/* ---- exchanges ---- */
static bool request_id_ok(const char *id)
{
    size_t n = 0;

    for (; id[n] != '\0' && n <= HTTP_REQUEST_ID_MAX; n++) {
        char ch = id[n];

        if (!((ch >= '0' && ch <= '9') || ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'z') || ch == '.' ||
              ch == '_' || ch == ':' || ch == '-'))
            return false;
    }
    return n > 0 && n <= HTTP_REQUEST_ID_MAX;
}

static void name_exchange(struct http_exchange *x)
{
    const char *id = http_parse_field(&x->conn->parse, "x-request-id");

    if (id != NULL && request_id_ok(id))
        memcpy(x->request_id, id, strlen(id) + 1);
    else
        snprintf(x->request_id, sizeof(x->request_id), "req-%016llx%016llx",
                 (unsigned long long)http_server_random(x->conn->server),
                 (unsigned long long)http_server_random(x->conn->server));
}

static void prepare_exchange(struct http_conn *c)
{
    struct http_exchange *x = &c->x;
    struct buf headers = x->headers;
    uint64_t begun = x->begun_ns;

    buf_clear(&headers);
    *x = (struct http_exchange){.conn = c, .headers = headers, .begun_ns = begun};
    x->head_only = strcmp(c->parse.method, "HEAD") == 0;
    name_exchange(x);
    c->requests++;
    c->keep_alive = c->parse.keep_alive && !c->server->draining &&
                    c->requests < c->server->limits.requests_per_connection;
}

/* The request is complete, or refused before its body: answer it or hand it over. */
static void begin_exchange(struct http_conn *c)
{
    struct http_exchange *x = &c->x;

    conn_set_state(c, CONN_RUNNING);
    set_deadline(c, 0);
    x->live = true;
    x->received_ns = clock_now_ns();
    c->server->stats.requests_total++;
    c->server->stats.exchanges++;
    if (x->refusal != NULL)
        http_reply_refusal(c, x->refusal);
    else if (x->preflight)
        http_reply_preflight(c);
    else
        x->route->handler(x, c->server->config.arg);
    /* A handler that waits, for a client that has closed its side before: nobody would tell it. */
    if (c->eof && c->state == CONN_RUNNING) {
        c->cut = true;
        http_conn_wake(c);
    }
}

void http_conn_finish(struct http_conn *c, bool may_keep)
{
    struct http_exchange *x = &c->x;

    x->live = false;
    c->server->stats.exchanges--;
    if (c->cut) /* it ends in the same turn in which it is cut off: no on_close, and no answer */
        x->status = 499;
    report_done(x);
    if (c->cut)
        return;
    if (!may_keep || !c->keep_alive || c->server->draining) {
        begin_end(c);
        return;
    }
    http_parse_next(&c->parse);
    conn_set_state(c, CONN_READING);
    set_deadline(c, c->server->limits.idle_timeout_ms);
    http_conn_wake(c);
}

static void refuse_bytes(struct http_conn *c, int status, const char *why)
{
    c->server->stats.bad_requests_total++;
    http_reply_bad(c, status, why);
    begin_end(c);
}

/* ---- bytes in ---- */
/* The head is there.  Returns false if the request was answered without its body. */
static bool take_head(struct http_conn *c, bool more_is_here)
{
    const struct http_parse *p = &c->parse;

    prepare_exchange(c);
    http_route_head(c);
    c->body_since_ms = now_ms(c);
    if (p->has_body)
        set_deadline(c, c->server->limits.body_timeout_ms);
    if (c->x.refusal != NULL && p->has_body) {
        if (p->chunked || p->expects_continue || p->content_length > HTTP_EARLY_BODY) {
            c->keep_alive = false;
            begin_exchange(c);
            return false;
        }
        c->parse.discard_body = true;
    } else if (p->expects_continue && !more_is_here) {
        http_reply_continue(c);
    }
    return true;
}

/* Parse up to the end of one request; returns the bytes used. */
static size_t step(struct http_conn *c, const char *bytes, size_t len)
{
    bool idle = http_parse_idle(&c->parse);
    size_t used = 0, n;
    enum http_parse_event event;

    do {
        event = http_parse_feed(&c->parse, bytes + used, len - used, &n);
        used += n;
        if (event == HTTP_PARSE_HEAD && !take_head(c, used < len))
            return used;
    } while (event == HTTP_PARSE_HEAD);
    if (event == HTTP_PARSE_ERROR)
        refuse_bytes(c, c->parse.status, c->parse.why);
    else if (event == HTTP_PARSE_MESSAGE)
        begin_exchange(c);
    else if (idle && !c->parse.in_body && !http_parse_idle(&c->parse))
        set_deadline(c, c->server->limits.header_timeout_ms);
    return used;
}

static bool may_parse(const struct http_conn *c)
{
    return c->state == CONN_READING && !c->cut && http_conn_waiting(c) < PUMP_OUT_MAX;
}

/* The client has closed its side and everything before that was read. */
static void end_of_input(struct http_conn *c)
{
    if (http_parse_idle(&c->parse))
        begin_end(c);
    else
        refuse_bytes(c, 400, "The request ends too early.");
}

/* Bytes that were kept while an exchange ran or the client did not read. */
static void pump(struct http_conn *c)
{
    for (unsigned budget = PUMP_BUDGET; budget > 0 && c->pending.len > 0 && may_parse(c);
         budget--) {
        size_t n;

        c->x.begun_ns = http_parse_idle(&c->parse) ? clock_now_ns() : c->x.begun_ns;
        n = step(c, buf_bytes(&c->pending), c->pending.len);
        if (c->pending.data != NULL) /* begin_end drops them */
            buf_consume(&c->pending, n);
    }
    if (c->state != CONN_READING)
        return;
    if (c->pending.len > 0) {
        if (may_parse(c))
            http_conn_wake(c);
        return;
    }
    buf_free(&c->pending);
    if (c->eof)
        end_of_input(c);
}

static void keep_pending(struct http_conn *c, const char *bytes, size_t len)
{
    if (buf_append(&c->pending, bytes, len) != ERR_OK) {
        c->cut = true;
        http_conn_wake(c);
    } else if (c->pending.len >= HTTP_PIPELINE_MAX) {
        pause_reading(c);
    }
}

static void take_bytes(struct http_conn *c, const char *bytes, size_t len)
{
    size_t used = 0;

    for (unsigned budget = PUMP_BUDGET;
         budget > 0 && used < len && c->pending.len == 0 && may_parse(c); budget--) {
        c->x.begun_ns = http_parse_idle(&c->parse) ? clock_now_ns() : c->x.begun_ns;
        used += step(c, bytes + used, len - used);
    }
    if (used == len || (c->state != CONN_READING && c->state != CONN_RUNNING))
        return;
    keep_pending(c, bytes + used, len - used);
    if (c->state == CONN_READING)
        http_conn_wake(c);
}

static void take_eof(struct http_conn *c)
{
    c->eof = true;
    switch (c->state) {
    case CONN_READING:
        if (c->pending.len == 0)
            end_of_input(c);
        break;
    case CONN_RUNNING:
    case CONN_LINGER:
        http_conn_kill(c);
        break;
    case CONN_ENDING: /* let the rest of the response out first */
    case CONN_CLOSED:
    case CONN_STATE_COUNT:
        break;
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct http_conn *c = stream->data;

    if (n > 0)
        take_bytes(c, buf->base, (size_t)n);
    else if (n == UV_EOF)
        take_eof(c);
    else if (n < 0)
        http_conn_kill(c);
}

/* ---- bytes out ---- */
size_t http_conn_waiting(const struct http_conn *c)
{
    return c->out.len +
           (c->writing ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) : 0);
}

static void release(struct buf *b)
{
    if (b->cap > HTTP_KEEP_OUT)
        buf_free(b);
    else
        buf_clear(b);
}

static void on_written(uv_write_t *req, int status)
{
    struct http_conn *c = req->data;

    c->writing = false;
    release(&c->sending);
    if (c->state == CONN_CLOSED)
        return;
    set_write_deadline(c, false);
    if (status < 0)
        http_conn_kill(c);
    else
        http_conn_wake(c);
}

static void send_out(struct http_conn *c)
{
    uv_buf_t bytes;
    struct buf swap;
    int n;

    if (c->writing || c->out.len == 0)
        return;
    bytes = uv_buf_init(buf_bytes(&c->out), (unsigned)c->out.len);
    n = uv_try_write((uv_stream_t *)&c->tcp, &bytes, 1);
    if (n < 0 && n != UV_EAGAIN) {
        http_conn_kill(c);
        return;
    }
    if (n > 0)
        buf_consume(&c->out, (size_t)n);
    if (c->out.len == 0) {
        release(&c->out);
        return;
    }
    swap = c->sending;
    c->sending = c->out;
    c->out = swap;
    bytes = uv_buf_init(buf_bytes(&c->sending), (unsigned)c->sending.len);
    c->write.data = c;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &bytes, 1, on_written) != 0) {
        http_conn_kill(c);
        return;
    }
    c->writing = true;
    set_write_deadline(c, true);
}

void http_conn_turn(struct http_conn *c)
{
    leave_turn_list(c);
    if (c->cut) {
        http_conn_kill(c);
        return;
    }
    send_out(c);
    if (c->state == CONN_READING && (c->pending.len > 0 || c->eof))
        pump(c);
    if (c->state == CONN_READING && c->pending.len < HTTP_PIPELINE_MAX / 2)
        resume_reading(c);
    if (c->state == CONN_ENDING && http_conn_waiting(c) == 0)
        begin_linger(c);
}

/* ---- deadlines passed ---- */
static void state_deadline_passed(struct http_conn *c)
{
    const struct http_parse *p = &c->parse;

    c->state_deadline = 0;
    if (c->state == CONN_LINGER) {
        conn_close(c);
    } else if (c->state == CONN_READING && http_parse_idle(p) && c->pending.len == 0) {
        begin_end(c);
    } else if (c->state == CONN_READING) {
        uint64_t elapsed = now_ms(c) - c->body_since_ms;

        if (p->in_body && p->body_bytes >= elapsed) { /* 1 kB/s is one byte a millisecond */
            set_deadline(c, 1000);
            return;
        }
        refuse_bytes(c, 408, "The request did not arrive in time.");
    }
}

void http_conn_timer(struct http_timer *t, void *server)
{
    struct http_conn *c =
        (struct http_conn *)(void *)((char *)t - offsetof(struct http_conn, timer));
    uint64_t now = now_ms(c);

    (void)server;
    if (c->state_deadline != 0 && c->state_deadline <= now)
        state_deadline_passed(c);
    if (c->state == CONN_CLOSED)
        return;
    if (c->write_deadline != 0 && c->write_deadline <= now) {
        if (uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) >= c->queue_seen) {
            http_conn_kill(c); /* not one byte taken for the whole time */
            return;
        }
        set_write_deadline(c, true);
    }
    arm(c);
}

void http_conn_drain(struct http_conn *c)
{
    c->keep_alive = false;
    if (c->state == CONN_READING && http_parse_idle(&c->parse) && c->pending.len == 0)
        begin_end(c);
}

/* ---- the beginning ---- */
/* What connections are counted by: an IPv4 address, or the /64 that an IPv6 client owns; 0 for loopback. */
static uint64_t ip_key_of(const struct http_conn *c)
{
    struct sockaddr_storage addr;
    int len = sizeof(addr);
    uint64_t key = 0;

    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&addr, &len) != 0)
        return 0;
    if (addr.ss_family == AF_INET) {
        uint32_t ip = ntohl(((const struct sockaddr_in *)(const void *)&addr)->sin_addr.s_addr);

        return ip >> 24 == 127 ? 0 : 0xffff000000000000ull | ip;
    }
    if (addr.ss_family == AF_INET6) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *)(const void *)&addr)->sin6_addr;

        if (IN6_IS_ADDR_LOOPBACK(ip))
            return 0;
        if (IN6_IS_ADDR_V4MAPPED(ip)) {
            uint32_t v4 = ntohl(ip->s6_addr32[3]);

            return v4 >> 24 == 127 ? 0 : 0xffff000000000000ull | v4;
        }
        memcpy(&key, ip->s6_addr, sizeof(key));
        key = key != 0 ? key : 1;
    }
    return key;
}

/* false: this address has too many.  Out of memory counts nothing, and says so by ip_key 0. */
static bool count_ip(struct http_conn *c)
{
    struct http_server *s = c->server;
    uint64_t key = ip_key_of(c);
    struct ip_count *count;

    if (key == 0)
        return true;
    count = map_get(&s->by_ip, key);
    if (count == NULL) {
        count = mem_try_calloc(1, sizeof(*count));
        if (count == NULL)
            return true;
        count->key = key;
        if (map_put(&s->by_ip, key, count) != ERR_OK) {
            mem_free(count);
            return true;
        }
    }
    count->n++;
    c->ip_key = key;
    return count->n <= s->limits.connections_per_ip;
}

static void refuse_conn(struct http_conn *c, int status, const char *why)
{
    struct http_server *s = c->server;

    c->refused = true;
    s->stats.connections--;
    if (++s->n_refused > HTTP_REFUSED_MAX) {
        conn_close(c);
        return;
    }
    http_reply_bad(c, status, why);
    begin_end(c);
}

static struct http_conn *new_conn(struct http_server *s)
{
    struct http_conn *c = mem_try_calloc(1, sizeof(*c));

    if (c == NULL)
        return NULL;
    c->server = s;
    c->x.conn = c;
    http_parse_init(&c->parse, &s->limits);
    if (uv_tcp_init(s->config.loop, &c->tcp) != 0) {
        http_parse_fini(&c->parse);
        mem_free(c);
        return NULL;
    }
    c->tcp.data = c;
    s->handles++;
    c->next = s->conns;
    if (s->conns != NULL)
        s->conns->prev = c;
    s->conns = c;
    s->stats.connections++;
    return c;
}

void http_conn_open(struct http_server *s, uv_stream_t *listener)
{
    struct http_conn *c = new_conn(s);

    if (c == NULL) {
        /* libuv holds the socket until it is accepted: try again at the next tick. */
        s->stalled = listener;
        http_server_tick(s);
        return;
    }
    s->stats.connections_total++;
    http_server_tick(s);
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0) {
        conn_close(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    uv_tcp_keepalive(&c->tcp, 1, 60);
    set_deadline(c, s->limits.idle_timeout_ms);
    if (!count_ip(c))
        refuse_conn(c, 429, "There are too many connections from this address.");
    else if (s->stats.connections > s->limits.connections)
        refuse_conn(c, 503, "The server has too many connections.");
}
