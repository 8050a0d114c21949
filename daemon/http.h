/* daemon/http.h - an HTTP/1.1 server on libuv and llhttp: limits, routes, keep-alive, streaming.
 *
 *   http_server_create -> http_server_listen -> handlers run, each ends its exchange exactly once by
 *   http_respond, http_stream_end or http_stream_abort -> http_server_close
 *
 * An exchange is one request and its response.  It is handed to its route's handler when the whole
 * body has been read and every limit held; requests pipelined behind it wait until it has ended.
 *
 * Bytes that are no strictly well-formed request (http_scan.h, http_head.c) are answered 400, 408, 413, 414,
 * 417, 431, 501 or 505 with Connection: close; they become no exchange, and nothing behind them is read.
 * A request that is well-formed but not wanted (404, 405, 401, 415) is an exchange that the server ends
 * itself.  A client that closes its side while an exchange runs counts as gone, a half-close too; it is
 * noticed at once unless more than 64 KiB of pipelined requests wait behind the exchange (reading pauses
 * then, and a failed write tells).
 *
 * Thread     the loop's.  Ownership: an exchange belongs to the server and is gone once ended, or once
 *            on_close has run (the client left first); strings and the body live as long as it does.
 * Blocking   nothing.  Writes of one loop turn are sent together at its end.  A client that does not
 *            read is cut off when max_output bytes wait for it (on_close runs). */
#ifndef DAEMON_HTTP_H
#define DAEMON_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct uv_loop_s;
struct http_server;
struct http_exchange;

/* Zero in a field means the default, given in brackets. */
struct http_limits {
    uint32_t request_line;            /* without its CRLF [8 KiB] 414 */
    uint32_t header;                  /* one header line, without its CRLF [8 KiB] 431 */
    uint32_t headers;                 /* all header lines, with their CRLFs [16 KiB] 431 */
    uint32_t header_count;            /* [100] 431 */
    uint64_t body;                    /* [8 MiB] 413 */
    uint32_t chunk_extensions;        /* bytes per request [4 KiB] 400 */
    uint32_t trailers;                /* [8 KiB] 431 */
    uint32_t header_timeout_ms;       /* [10 s] 408; the clock starts with the first byte */
    uint32_t body_timeout_ms;         /* [30 s] 408, and at least 1 kB/s after it */
    uint32_t idle_timeout_ms;         /* keep-alive [120 s] close */
    uint32_t requests_per_connection; /* [100000] then Connection: close */
    uint32_t connections;             /* [16384] 503 and close */
    uint32_t connections_per_ip;      /* [1024; loopback is not counted] 429 and close */
    uint64_t max_output; /* waiting for one slow reader [256 KiB + the largest single write] */
};

typedef void (*http_handler_fn)(struct http_exchange *x, void *arg);

struct http_route {
    const char *method;
    const char *path; /* exact, or a prefix if it ends in "/" + "*" */
    bool needs_key;   /* keys are configured: a valid one is required.  An open route says false. */
    http_handler_fn handler;
};

struct http_config {
    struct uv_loop_s *loop;
    struct http_limits limits;
    const struct http_route *routes; /* must outlive the server; HEAD follows GET */
    uint32_t n_routes;
    bool cors; /* reflect Origin and requested headers; without it OPTIONS is 405 like any other */
    void *arg; /* for handlers and hooks */
    /* Is this key good?  key is NULL where none was sent.  *principal is kept with the exchange.  NULL hook:
     * every route is open. */
    bool (*authorize)(void *arg, const char *key, size_t len, void **principal);
    /* May a page of this origin use routes that need a key?  Asked only where a request names one.  NULL
     * hook: any may. */
    bool (*origin_ok)(void *arg, const char *origin);
    /* May routes that need a key be asked for under this name (the Host field, NAME or NAME:PORT)?  Asked only
     * where a request names one.  NULL hook: under any. */
    bool (*host_ok)(void *arg, const char *host);
    /* Called once per exchange when it has ended, for metrics and the access log; the exchange can still be
     * asked about.  status 499: the client left, or was cut off.  duration: since the first byte. */
    void (*on_done)(void *arg, const struct http_exchange *x, int status, uint64_t bytes_out,
                    uint64_t duration_ns);
};

struct http_stats {
    uint64_t connections_total, requests_total, bad_requests_total;
    uint32_t connections, exchanges; /* live */
};

MUST_USE enum err http_server_create(const struct http_config *config, struct http_server **out);
/* ERR_INVALID address, ERR_IO with "port in use" said in so many words.  port 0: any; *bound gets it. */
MUST_USE enum err http_server_listen(struct http_server *s, const char *host, uint16_t port,
                                     uint16_t *bound, struct err_msg *msg);
/* Take no new connections, close idle ones, answer running ones with Connection: close. */
void http_server_drain(struct http_server *s);
/* Cut everything (on_close runs for live exchanges), free in a later loop turn, then call closed. */
void http_server_close(struct http_server *s, void (*closed)(void *arg), void *arg);
const struct http_stats *http_server_stats(const struct http_server *s);
/* Bytes of responses that wait for their clients; http_server_close would cut them off. */
uint64_t http_server_unsent(const struct http_server *s);

/* ---- the request ---- */
const char *http_method(const struct http_exchange *x);
const char *http_path(const struct http_exchange *x);  /* decoded, without query */
const char *http_query(const struct http_exchange *x); /* raw, "" if none */
const struct http_route *http_route_of(const struct http_exchange *x);
/* NULL if absent; name in lower case. */
const char *http_header(const struct http_exchange *x, const char *name);
const char *http_body(const struct http_exchange *x, size_t *len); /* NUL-terminated behind len */
/* The client's X-Request-Id if it is well-formed (1..128 of [A-Za-z0-9._:-]), else a new random one.  It is
 * echoed in every response. */
const char *http_request_id(const struct http_exchange *x);
void *http_principal(const struct http_exchange *x);
uint64_t
http_received_ns(const struct http_exchange *x); /* clock_now_ns() when the last byte was read */

/* Per-exchange pointer of the handler, and its notice that the client has left (or a limit cut it):
 * the exchange is dead when fn returns.  Not called for an exchange that ended. */
void http_set_context(struct http_exchange *x, void *context,
                      void (*on_close)(struct http_exchange *x, void *context));
void *http_context(const struct http_exchange *x);

/* ---- the response ---- */
/* Before respond or stream_begin.  ERR_NOMEM; ERR_INVALID: CR or LF inside.  Not needed for Date,
 * Content-*, Transfer-Encoding, Connection, X-Request-Id, CORS, and for text/event-stream Cache-Control and
 * X-Accel-Buffering: those are there. */
MUST_USE enum err http_add_header(struct http_exchange *x, const char *name, const char *value);
/* The whole response; copies body.  Ends the exchange. */
void http_respond(struct http_exchange *x, int status, const char *content_type, const void *body,
                  size_t len);
/* OpenAI error object with this status; param and code may be NULL.  Ends the exchange. */
void http_respond_error(struct http_exchange *x, int status, const char *type, const char *param,
                        const char *code, const char *message);
/* A chunked response in pieces (identity and close for HTTP/1.0 clients). */
void http_stream_begin(struct http_exchange *x, int status, const char *content_type);
/* Copies.  ERR_LIMIT or ERR_NOMEM: the exchange is being cut, on_close will come in a later turn. */
MUST_USE enum err http_stream_write(struct http_exchange *x, const void *bytes, size_t len);
void http_stream_end(struct http_exchange *x);
/* Close without the final chunk, so that the client sees a broken body.  Ends the exchange. */
void http_stream_abort(struct http_exchange *x);

#endif
