/* bench/load_http.c - connections on libuv, answers parsed by llhttp.
 *
 * A connection that has been idle for LOAD_IDLE_MS is not used again: servers close theirs after some seconds, and a
 * request that meets such a close would count as a failure of the server.  A callback may cancel its call; the
 * connection then closes, and is freed when libuv says so. */
#include "bench/load_http.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <llhttp.h>

#include "base/clock.h"
#include "base/mem.h"

enum { READ_BYTES = 64 * 1024, FIELD_MAX = 64 };

struct load_conn {
    struct load_client *client;
    struct load_conn *next, *prev;           /* of all */
    struct load_conn *idle_next, *idle_prev; /* of the idle ones, the latest first */
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct buf out;
    struct load_call *call; /* NULL: idle or closing */
    llhttp_t parser;
    size_t head_bytes;
    uint32_t informational;
    uint64_t idle_since_ns;
    double retry_after_s;
    char field[FIELD_MAX], value[FIELD_MAX];
    bool in_value, connected, idle, closing, complete, writing;
};

struct load_client {
    uv_loop_t *loop;
    struct sockaddr_storage to;
    struct load_conn *all, *idle;
    llhttp_settings_t settings;
    uint64_t opened;
    uint32_t n;
    bool closing;
    char space[READ_BYTES];
};

/* ---- url ---- */

enum err load_url_parse(const char *text, struct load_url *out, struct err_msg *msg)
{
    const char *host, *end, *colon;
    size_t len;

    *out = (struct load_url){.port = "80"};
    if (strncmp(text, "https://", 8) == 0)
        return err_set(
            msg, ERR_UNSUPPORTED,
            "%.200s: https is not supported; name the server's plain http port, or put a "
            "local TLS proxy (stunnel, haproxy) before it",
            text);
    if (strncmp(text, "http://", 7) != 0)
        return err_set(msg, ERR_INVALID,
                       "'%.200s' is no URL of a server; write http://HOST:PORT, for example "
                       "http://127.0.0.1:8000",
                       text);
    host = text + 7;
    end = host + strcspn(host, "/?#");
    if (*host == '[') {
        const char *close = memchr(host, ']', (size_t)(end - host));

        if (close == NULL || (close + 1 < end && close[1] != ':'))
            return err_set(msg, ERR_INVALID,
                           "'%.200s': an IPv6 address ends with ], then a colon and the port",
                           text);
        host++;
        len = (size_t)(close - host);
        colon = close + 1 < end ? close + 1 : NULL;
    } else {
        colon = memchr(host, ':', (size_t)(end - host));
        len = (size_t)((colon != NULL ? colon : end) - host);
        if (colon != NULL && memchr(colon + 1, ':', (size_t)(end - colon - 1)) != NULL)
            return err_set(msg, ERR_INVALID,
                           "'%.200s': write an IPv6 address in brackets, as in http://[::1]:8000",
                           text);
    }
    if (len == 0 || len >= sizeof(out->host))
        return err_set(msg, ERR_INVALID, "'%.200s' names no host", text);
    memcpy(out->host, host, len);
    if (colon != NULL) {
        size_t digits = (size_t)(end - colon - 1);

        if (digits == 0 || digits > 5 || strspn(colon + 1, "0123456789") != digits ||
            strtoul(colon + 1, NULL, 10) > 65535 || strtoul(colon + 1, NULL, 10) == 0)
            return err_set(msg, ERR_INVALID, "'%.200s': the port must be 1 to 65535", text);
        snprintf(out->port, sizeof(out->port), "%.*s", (int)digits, colon + 1);
    }
    snprintf(out->authority, sizeof(out->authority),
             strchr(out->host, ':') != NULL ? "[%s]:%s" : "%s:%s", out->host, out->port);
    if (*end == '?' || *end == '#' || strpbrk(end, "?# \r\n") != NULL)
        return err_set(msg, ERR_INVALID, "'%.200s': a query has no place in the URL of a server",
                       text);
    len = strlen(end);
    while (len > 0 && end[len - 1] == '/')
        len--;
    if (len >= 3 && memcmp(end + len - 3, "/v1", 3) == 0)
        len -= 3;
    if (len >= sizeof(out->base))
        return err_set(msg, ERR_INVALID, "'%.200s': the path is too long", text);
    memcpy(out->base, end, len);
    return ERR_OK;
}

/* ---- connections ---- */

static void conn_unlink_idle(struct load_conn *k)
{
    if (!k->idle)
        return;
    if (k->idle_prev != NULL)
        k->idle_prev->idle_next = k->idle_next;
    else
        k->client->idle = k->idle_next;
    if (k->idle_next != NULL)
        k->idle_next->idle_prev = k->idle_prev;
    k->idle = false;
}

static void conn_closed(uv_handle_t *h)
{
    struct load_conn *k = h->data;
    struct load_client *c = k->client;

    if (k->prev != NULL)
        k->prev->next = k->next;
    else
        c->all = k->next;
    if (k->next != NULL)
        k->next->prev = k->prev;
    buf_free(&k->out);
    mem_free(k);
    if (--c->n == 0 && c->closing)
        mem_free(c);
}

static void conn_close(struct load_conn *k)
{
    if (k->closing)
        return;
    conn_unlink_idle(k);
    k->closing = true;
    uv_close((uv_handle_t *)&k->tcp, conn_closed);
}

/* The call's end; the connection may be closed or kept, but belongs to no call any more. */
static void conn_end_call(struct load_conn *k, enum err err, const char *why)
{
    struct load_call *call = k->call;

    k->call = NULL;
    if (call == NULL)
        return;
    call->conn = NULL;
    call->on_end(call, err, why);
}

static void conn_fail(struct load_conn *k, enum err err, const char *why)
{
    conn_close(k);
    conn_end_call(k, err, why);
}

static void conn_make_idle(struct load_conn *k)
{
    struct load_client *c = k->client;

    k->idle = true;
    k->idle_since_ns = clock_now_ns();
    k->idle_prev = NULL;
    k->idle_next = c->idle;
    if (c->idle != NULL)
        c->idle->idle_prev = k;
    c->idle = k;
}

/* ---- parsing ---- */

static int count_head(struct load_conn *k, size_t len)
{
    k->head_bytes += len;
    return k->head_bytes > LOAD_HEAD_MAX ? HPE_USER : 0;
}

static void append(char *to, const char *from, size_t len)
{
    size_t old = strlen(to), room = FIELD_MAX - 1 - old;

    memcpy(to + old, from, len < room ? len : room);
    to[old + (len < room ? len : room)] = '\0';
}

static int on_status(llhttp_t *p, const char *at, size_t len)
{
    (void)at;
    return count_head(p->data, len);
}

static int on_field(llhttp_t *p, const char *at, size_t len)
{
    struct load_conn *k = p->data;

    if (k->in_value) {
        k->in_value = false;
        k->field[0] = k->value[0] = '\0';
    }
    append(k->field, at, len);
    return count_head(k, len);
}

static int on_value(llhttp_t *p, const char *at, size_t len)
{
    struct load_conn *k = p->data;

    k->in_value = true;
    append(k->value, at, len);
    return count_head(k, len + 2);
}

static int on_value_end(llhttp_t *p)
{
    struct load_conn *k = p->data;
    char *end;
    double v;

    if (strcasecmp(k->field, "retry-after") != 0)
        return 0;
    v = strtod(k->value, &end);
    if (end != k->value && isfinite(v) && v >= 0)
        k->retry_after_s = v;
    return 0;
}

static int on_extension(llhttp_t *p, const char *at, size_t len)
{
    (void)at;
    return count_head(p->data, len);
}

static bool is_informational(const struct load_conn *k)
{
    return k->parser.status_code < 200;
}

static int on_head_end(llhttp_t *p)
{
    struct load_conn *k = p->data;

    if (is_informational(k))
        return ++k->informational > LOAD_INFORMATIONAL_MAX ? -1 : 0;
    if (k->call != NULL)
        k->call->on_head(k->call, p->status_code, k->retry_after_s);
    return k->call != NULL ? 0 : -1;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    struct load_conn *k = p->data;

    if (k->call != NULL)
        k->call->on_body(k->call, at, len);
    return k->call != NULL ? 0 : HPE_USER;
}

static int on_message(llhttp_t *p)
{
    struct load_conn *k = p->data;

    if (is_informational(k))
        return 0;
    k->complete = true;
    return HPE_PAUSED;
}

/* ---- reading and writing ---- */

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *out)
{
    struct load_conn *k = h->data;

    (void)want;
    *out = uv_buf_init(k->client->space, READ_BYTES);
}

static void finish_message(struct load_conn *k, bool more_bytes)
{
    bool keep = !more_bytes && !k->writing && llhttp_should_keep_alive(&k->parser) == 1 &&
                !k->client->closing;

    if (keep)
        conn_make_idle(k); /* before on_end: the next request may use it at once */
    else
        conn_close(k);
    conn_end_call(k, ERR_OK, "");
}

static void take_bytes(struct load_conn *k, const char *bytes, size_t len)
{
    llhttp_errno_t code = llhttp_execute(&k->parser, bytes, len);
    const char *end;

    if (k->call == NULL)
        return; /* canceled by a callback */
    if (k->complete) {
        end = llhttp_get_error_pos(&k->parser);
        finish_message(k, end != NULL && end != bytes + len);
        return;
    }
    if (code == HPE_OK)
        return;
    conn_fail(k, ERR_BAD_FRAME,
              k->head_bytes > LOAD_HEAD_MAX ? "the answer's header does not end"
                                            : "the answer is no HTTP");
}

static void take_end(struct load_conn *k)
{
    if (k->connected)
        (void)llhttp_finish(&k->parser); /* may complete a body that ends with the connection */
    if (k->call == NULL)
        return;
    if (k->complete) {
        conn_close(k);
        conn_end_call(k, ERR_OK, "");
        return;
    }
    conn_fail(k, ERR_PEER_LOST, "the server closed the connection before the answer's end");
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct load_conn *k = stream->data;

    if (n == 0 || k->closing)
        return;
    if (k->call == NULL) {
        conn_close(k); /* idle: closed by the server, or bytes that nobody asked for */
        return;
    }
    if (n == UV_EOF)
        take_end(k);
    else if (n < 0)
        conn_fail(k, ERR_PEER_LOST, uv_strerror((int)n));
    else
        take_bytes(k, buf->base, (size_t)n);
}

static void on_written(uv_write_t *w, int status)
{
    struct load_conn *k = w->data;

    k->writing = false;
    buf_clear(&k->out);
    if (status < 0 && !k->closing && k->call != NULL)
        conn_fail(k, ERR_PEER_LOST, uv_strerror(status));
}

static void conn_write(struct load_conn *k)
{
    uv_buf_t b = uv_buf_init(buf_bytes(&k->out), (unsigned)k->out.len);
    int rc = uv_write(&k->write, (uv_stream_t *)&k->tcp, &b, 1, on_written);

    k->writing = rc == 0;
    if (rc != 0)
        conn_fail(k, ERR_PEER_LOST, uv_strerror(rc));
}

static void on_connected(uv_connect_t *r, int status)
{
    struct load_conn *k = r->data;

    if (k->closing)
        return;
    if (status < 0) {
        conn_fail(k, ERR_PEER_LOST, uv_strerror(status));
        return;
    }
    k->connected = true;
    status = uv_read_start((uv_stream_t *)&k->tcp, on_alloc, on_read);
    if (status < 0)
        conn_fail(k, ERR_IO, uv_strerror(status));
    else
        conn_write(k);
}

static struct load_conn *conn_open(struct load_client *c)
{
    struct load_conn *k = mem_try_calloc(1, sizeof(*k));

    if (k == NULL || uv_tcp_init(c->loop, &k->tcp) != 0) {
        mem_free(k);
        return NULL;
    }
    k->client = c;
    k->tcp.data = k->connect.data = k->write.data = k;
    k->next = c->all;
    if (c->all != NULL)
        c->all->prev = k;
    c->all = k;
    c->n++;
    c->opened++;
    uv_tcp_nodelay(&k->tcp, 1);
    if (uv_tcp_connect(&k->connect, &k->tcp, (const struct sockaddr *)&c->to, on_connected) != 0) {
        conn_close(k);
        return NULL;
    }
    return k;
}

/* ---- public ---- */

enum err load_client_create(uv_loop_t *loop, const struct load_url *url, struct err_msg *msg,
                            struct load_client **out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    uv_getaddrinfo_t req;
    struct addrinfo *best;
    struct load_client *c;
    int rc = uv_getaddrinfo(loop, &req, NULL, url->host, url->port, &hints);

    if (rc != 0)
        return err_set(msg, ERR_NOT_FOUND, "no address for host '%.200s': %s", url->host,
                       uv_strerror(rc));
    c = mem_try_calloc(1, sizeof(*c));
    if (c == NULL) {
        uv_freeaddrinfo(req.addrinfo);
        return err_set(msg, ERR_NOMEM, "no memory for a client");
    }
    c->loop = loop;
    /* localhost often has both; servers more often listen on the older one */
    for (best = req.addrinfo; best != NULL && best->ai_family != AF_INET;)
        best = best->ai_next;
    if (best == NULL)
        best = req.addrinfo;
    memcpy(&c->to, best->ai_addr, best->ai_addrlen);
    uv_freeaddrinfo(req.addrinfo);
    llhttp_settings_init(&c->settings);
    c->settings.on_status = on_status;
    c->settings.on_header_field = on_field;
    c->settings.on_header_value = on_value;
    c->settings.on_header_value_complete = on_value_end;
    c->settings.on_chunk_extension_name = on_extension;
    c->settings.on_chunk_extension_value = on_extension;
    c->settings.on_headers_complete = on_head_end;
    c->settings.on_body = on_body;
    c->settings.on_message_complete = on_message;
    *out = c;
    return ERR_OK;
}

void load_client_close(struct load_client *c)
{
    c->closing = true;
    if (c->n == 0) {
        mem_free(c);
        return;
    }
    for (struct load_conn *k = c->all; k != NULL; k = k->next) {
        if (k->call != NULL)
            k->call->conn = NULL;
        k->call = NULL;
        conn_close(k);
    }
}

uint64_t load_client_opened(const struct load_client *c)
{
    return c->opened;
}

/* The idle one used last; those idle for too long are closed, and so are all behind them. */
static struct load_conn *take_idle(struct load_client *c)
{
    struct load_conn *k = c->idle;
    uint64_t now = clock_now_ns();

    if (k != NULL && now - k->idle_since_ns < (uint64_t)LOAD_IDLE_MS * CLOCK_NS_PER_MS) {
        conn_unlink_idle(k);
        return k;
    }
    while (c->idle != NULL)
        conn_close(c->idle);
    return NULL;
}

enum err load_call_start(struct load_client *c, struct load_call *call, struct buf *request)
{
    struct load_conn *k = take_idle(c);

    if (k == NULL)
        k = conn_open(c);
    if (k == NULL)
        return ERR_IO;
    llhttp_init(&k->parser, HTTP_RESPONSE, &c->settings);
    k->parser.data = k;
    k->head_bytes = 0;
    k->informational = 0;
    k->retry_after_s = -1;
    k->field[0] = k->value[0] = '\0';
    k->in_value = k->complete = false;
    buf_free(&k->out);
    k->out = *request;
    *request = (struct buf)BUF_INIT;
    k->call = call;
    call->conn = k;
    if (k->connected)
        conn_write(k); /* a failure reports through on_end */
    return ERR_OK;
}

void load_call_cancel(struct load_call *call)
{
    struct load_conn *k = call->conn;

    if (k == NULL)
        return;
    call->conn = NULL;
    k->call = NULL;
    conn_close(k);
}
