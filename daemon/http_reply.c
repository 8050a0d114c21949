/* daemon/http_reply.c - responses: heads, bodies, chunks, all written straight into the connection's
 * output.  Nothing is sent here; the connection's turn does that. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/api_render.h"
#include "daemon/http_internal.h"

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = {{200, "OK"},
                   {202, "Accepted"},
                   {204, "No Content"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {408, "Request Timeout"},
                   {409, "Conflict"},
                   {413, "Content Too Large"},
                   {414, "URI Too Long"},
                   {415, "Unsupported Media Type"},
                   {417, "Expectation Failed"},
                   {421, "Misdirected Request"},
                   {422, "Unprocessable Content"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {500, "Internal Server Error"},
                   {501, "Not Implemented"},
                   {503, "Service Unavailable"},
                   {504, "Gateway Timeout"},
                   {505, "HTTP Version Not Supported"}};

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (reasons[i].status == status)
            return reasons[i].text;
    }
    return "Status";
}

/* ---- heads ---- */
enum body_form { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_UNTIL_CLOSE };

#define TRY(call)             \
    do {                      \
        enum err e_ = (call); \
        if (e_ != ERR_OK)     \
            return e_;        \
    } while (0)

static enum err put_field(struct buf *out, const char *name, const char *value)
{
    TRY(buf_puts(out, name));
    TRY(buf_append(out, ": ", 2));
    TRY(buf_puts(out, value));
    return buf_append(out, "\r\n", 2);
}

static enum err put_status(struct http_conn *c, int status, bool keep_alive)
{
    struct buf *out = &c->out;
    char line[64];
    int n = snprintf(line, sizeof(line), "HTTP/1.1 %d %s\r\nDate: ", status, reason(status));

    TRY(buf_reserve(out, 512)); /* what most heads need, so that the rest finds room */
    TRY(buf_append(out, line, (size_t)n));
    TRY(buf_puts(out, http_server_date(c->server)));
    TRY(buf_append(out, "\r\n", 2));
    if (!keep_alive)
        return buf_puts(out, "Connection: close\r\n");
    return c->parse.http10 ? buf_puts(out, "Connection: keep-alive\r\n") : ERR_OK;
}

static enum err put_framing(struct http_conn *c, enum body_form form, size_t len)
{
    char line[48];
    int n;

    if (form == BODY_CHUNKED)
        return buf_puts(&c->out, "Transfer-Encoding: chunked\r\n");
    if (form != BODY_LENGTH)
        return ERR_OK;
    n = snprintf(line, sizeof(line), "Content-Length: %zu\r\n", len);
    return buf_append(&c->out, line, (size_t)n);
}

/* A browser may read the answer only if told so. */
static enum err put_cors(struct http_conn *c)
{
    const char *origin = http_parse_field(&c->parse, "origin");

    if (!c->server->config.cors || origin == NULL)
        return ERR_OK;
    TRY(put_field(&c->out, "Access-Control-Allow-Origin", origin));
    TRY(put_field(&c->out, "Access-Control-Expose-Headers", "x-request-id, retry-after"));
    return put_field(&c->out, "Vary", "Origin");
}

static enum err put_head(struct http_exchange *x, int status, const char *content_type,
                         enum body_form form, size_t len)
{
    struct http_conn *c = x->conn;
    struct buf *out = &c->out;

    TRY(put_status(c, status, c->keep_alive));
    if (content_type != NULL && form != BODY_NONE) {
        TRY(put_field(out, "Content-Type", content_type));
        if (strncmp(content_type, "text/event-stream", 17) == 0)
            TRY(buf_puts(out, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"));
    }
    TRY(put_framing(c, form, len));
    TRY(put_field(out, "X-Request-Id", x->request_id));
    TRY(put_cors(c));
    TRY(buf_append(out, x->headers.data != NULL ? buf_bytes(&x->headers) : "", x->headers.len));
    return buf_append(out, "\r\n", 2);
}

/* Out of memory in the middle of a stream: nothing true can be said any more.  on_close follows. */
static void give_up(struct http_exchange *x)
{
    x->conn->cut = true;
    http_conn_wake(x->conn);
}

static bool usable(const struct http_exchange *x)
{
    return x->live && !x->conn->cut;
}

/* ---- whole responses ---- */
enum err http_add_header(struct http_exchange *x, const char *name, const char *value)
{
    size_t before = x->headers.len;
    enum err err;

    if (name[0] == '\0' || name[strcspn(name, "\r\n: \t")] != '\0' ||
        value[strcspn(value, "\r\n")] != '\0')
        return ERR_INVALID;
    err = put_field(&x->headers, name, value);
    if (err != ERR_OK)
        x->headers.len = before;
    return err;
}

static enum err put_response(struct http_exchange *x, int status, const char *content_type,
                             const void *body, size_t len)
{
    enum body_form form = status == 204 || status == 304 ? BODY_NONE : BODY_LENGTH;
    struct buf *out = &x->conn->out;

    TRY(put_head(x, status, content_type, form, len));
    return x->head_only || form == BODY_NONE ? ERR_OK : buf_append(out, body, len);
}

void http_respond(struct http_exchange *x, int status, const char *content_type, const void *body,
                  size_t len)
{
    struct http_conn *c = x->conn;
    size_t before = c->out.len;

    bool said;

    if (!x->live || x->streaming)
        return;
    x->status = status;
    said = !c->cut && put_response(x, status, content_type, body, len) == ERR_OK;
    if (!said)
        c->out.len = before; /* closing without a word is all that is left */
    x->bytes_out += c->out.len - before;
    http_conn_finish(c, said);
}

void http_respond_error(struct http_exchange *x, int status, const char *type, const char *param,
                        const char *code, const char *message)
{
    struct api_error e;
    struct buf body = BUF_INIT;

    api_error_set(&e, status, type, param, code, "%s", message);
    if (api_render_error(&body, &e) == ERR_OK)
        http_respond(x, status, "application/json", buf_bytes(&body), body.len);
    else if (x->live)
        http_conn_finish(x->conn, false);
    buf_free(&body);
}

void http_reply_refusal(struct http_conn *c, const struct http_refusal *r)
{
    struct http_exchange *x = &c->x;
    char methods[128];
    enum err err = ERR_OK;

    if (r->status == 405) {
        http_route_methods(c->server, c->parse.path, methods, sizeof(methods));
        err = http_add_header(x, "Allow", methods);
    } else if (r->status == 401) {
        err = http_add_header(x, "WWW-Authenticate", "Bearer");
    }
    if (err != ERR_OK)
        http_conn_finish(c, false);
    else
        http_respond_error(x, r->status, r->type, NULL, r->code, r->message);
}

void http_reply_preflight(struct http_conn *c)
{
    struct http_exchange *x = &c->x;
    const char *wanted = http_parse_field(&c->parse, "access-control-request-headers");
    char methods[128];
    enum err err;

    http_route_methods(c->server, c->parse.path, methods, sizeof(methods));
    err = http_add_header(x, "Allow", methods);
    if (err == ERR_OK && http_parse_field(&c->parse, "origin") != NULL) {
        err = http_add_header(x, "Access-Control-Allow-Methods", methods);
        if (err == ERR_OK && wanted != NULL)
            err = http_add_header(x, "Access-Control-Allow-Headers", wanted);
        if (err == ERR_OK)
            err = http_add_header(x, "Access-Control-Max-Age", "86400");
    }
    if (err != ERR_OK)
        http_conn_finish(c, false);
    else
        http_respond(x, 204, NULL, NULL, 0);
}

void http_reply_continue(struct http_conn *c)
{
    if (buf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n") == ERR_OK)
        http_conn_wake(c);
}

static enum err put_bad(struct http_conn *c, const struct api_error *e)
{
    struct buf body = BUF_INIT;
    enum err err = api_render_error(&body, e);

    if (err == ERR_OK)
        err = put_status(c, e->status, false);
    if (err == ERR_OK)
        err = put_field(&c->out, "Content-Type", "application/json");
    if (err == ERR_OK && (e->status == 503 || e->status == 429))
        err = put_field(&c->out, "Retry-After", "1");
    if (err == ERR_OK)
        err = put_framing(c, BODY_LENGTH, body.len);
    if (err == ERR_OK)
        err = buf_append(&c->out, "\r\n", 2);
    if (err == ERR_OK)
        err = buf_append(&c->out, buf_bytes(&body), body.len);
    buf_free(&body);
    return err;
}

void http_reply_bad(struct http_conn *c, int status, const char *message)
{
    size_t before = c->out.len;
    struct api_error e;
    const char *type = status == 429   ? "rate_limit_error"
                       : status == 503 ? "overloaded_error"
                                       : "invalid_request_error";

    api_error_set(&e, status, type, NULL,
                  status == 429   ? "rate_limit_exceeded"
                  : status == 503 ? "server_is_overloaded"
                                  : "bad_http",
                  "%s", message);
    if (put_bad(c, &e) != ERR_OK)
        c->out.len = before; /* closing without a word is all that is left */
}

/* ---- streams ---- */
void http_stream_begin(struct http_exchange *x, int status, const char *content_type)
{
    struct http_conn *c = x->conn;
    size_t before = c->out.len;

    if (!usable(x) || x->streaming)
        return;
    x->streaming = true;
    x->status = status;
    x->chunked = !c->parse.http10;
    if (!x->chunked)
        c->keep_alive = false;
    if (put_head(x, status, content_type, x->chunked ? BODY_CHUNKED : BODY_UNTIL_CLOSE, 0) !=
        ERR_OK) {
        c->out.len = before;
        give_up(x);
        return;
    }
    x->bytes_out += c->out.len - before;
    http_conn_wake(c);
}

static enum err put_chunk(struct http_exchange *x, const void *bytes, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    struct buf *out = &x->conn->out;
    char size[18];
    size_t at = sizeof(size), rest = len;

    if (!x->chunked)
        return buf_append(out, bytes, len);
    size[--at] = '\n';
    size[--at] = '\r';
    for (; rest > 0; rest >>= 4)
        size[--at] = hex[rest & 15];
    TRY(buf_reserve(out, len + sizeof(size) + 2));
    TRY(buf_append(out, size + at, sizeof(size) - at));
    TRY(buf_append(out, bytes, len));
    return buf_append(out, "\r\n", 2);
}

enum err http_stream_write(struct http_exchange *x, const void *bytes, size_t len)
{
    struct http_conn *c = x->conn;
    size_t before = c->out.len;
    enum err err;

    if (!usable(x) || !x->streaming)
        return ERR_LIMIT;
    if (x->head_only || len == 0)
        return ERR_OK;
    if (http_conn_waiting(c) > c->server->limits.max_output) {
        LOG_WARN("http", "slow reader cut off", "request=%s waiting=%zu", x->request_id,
                 http_conn_waiting(c));
        give_up(x);
        return ERR_LIMIT;
    }
    err = put_chunk(x, bytes, len);
    if (err != ERR_OK) {
        c->out.len = before;
        give_up(x);
        return err;
    }
    x->bytes_out += c->out.len - before;
    http_conn_wake(c);
    return ERR_OK;
}

void http_stream_end(struct http_exchange *x)
{
    struct http_conn *c = x->conn;

    bool whole = true;

    if (!x->live || !x->streaming)
        return;
    if (x->chunked && !x->head_only) {
        whole = buf_append(&c->out, "0\r\n\r\n", 5) == ERR_OK;
        x->bytes_out += whole ? 5 : 0;
    }
    http_conn_finish(c, whole);
}

void http_stream_abort(struct http_exchange *x)
{
    if (x->live)
        http_conn_finish(x->conn, false);
}

/* ---- the request, as handlers see it ---- */
const char *http_method(const struct http_exchange *x)
{
    return x->conn->parse.method;
}

const char *http_path(const struct http_exchange *x)
{
    return x->conn->parse.path;
}

const char *http_query(const struct http_exchange *x)
{
    return x->conn->parse.query;
}

const struct http_route *http_route_of(const struct http_exchange *x)
{
    return x->route;
}

const char *http_header(const struct http_exchange *x, const char *name)
{
    return http_parse_field(&x->conn->parse, name);
}

const char *http_body(const struct http_exchange *x, size_t *len)
{
    const struct buf *body = &x->conn->parse.body;

    *len = body->len;
    return body->data != NULL ? buf_bytes(body) : "";
}

const char *http_request_id(const struct http_exchange *x)
{
    return x->request_id;
}

void *http_principal(const struct http_exchange *x)
{
    return x->principal;
}

uint64_t http_received_ns(const struct http_exchange *x)
{
    return x->received_ns;
}

void http_set_context(struct http_exchange *x, void *context,
                      void (*on_close)(struct http_exchange *x, void *context))
{
    x->context = context;
    x->on_close = on_close;
}

void *http_context(const struct http_exchange *x)
{
    return x->context;
}
