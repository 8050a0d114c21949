/* daemon/http_internal.h - the server's own types, shared by its sources and nobody else.
 *
 * A connection is in one state; conn_set_state (http_conn.c) alone changes it.  All sending happens in
 * http_conn_turn, once per loop turn for each connection that has something to do (the turn list). */
#ifndef DAEMON_HTTP_INTERNAL_H
#define DAEMON_HTTP_INTERNAL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "base/buf.h"
#include "base/map.h"
#include "daemon/api_request.h"
#include "daemon/http.h"
#include "daemon/http_parse.h"
#include "daemon/http_wheel.h"

enum {
    HTTP_READ_SIZE = 65536,    /* one read */
    HTTP_PIPELINE_MAX = 65536, /* bytes kept behind a running exchange; then reading pauses */
    HTTP_KEEP_OUT = 16384,     /* output buffers above this are given back when empty */
    HTTP_EARLY_BODY =
        65536,             /* a refused request with a longer body is answered without reading it */
    HTTP_LINGER_MS = 2000, /* for the client to read the last response */
    HTTP_REQUEST_ID_MAX = 128,
    HTTP_LISTENERS_MAX = 4,
    HTTP_REFUSED_MAX = 256 /* connections beyond the limit that are told so */
};

enum http_conn_state {
    CONN_READING, /* waits for a request, or for the rest of one */
    CONN_RUNNING, /* waits for the handler to end the exchange */
    CONN_ENDING,  /* waits for the output to leave, then half-closes */
    CONN_LINGER,  /* half-closed; waits for the client to close, or HTTP_LINGER_MS */
    CONN_CLOSED,  /* waits for libuv to let go of the handle */
    CONN_STATE_COUNT
};

/* A response that the server itself gives; constant texts. */
struct http_refusal {
    int status;
    const char *type;
    const char *code;
    const char *message;
};

struct http_conn;

struct http_exchange {
    struct http_conn *conn;
    const struct http_route *route;
    const struct http_refusal *refusal; /* decided at the head, given when the body has been read */
    bool live;                          /* handed over, not ended */
    bool streaming;                     /* http_stream_begin was called */
    bool head_only;                     /* HEAD: no body in the answer */
    bool chunked;                       /* the answer is */
    bool preflight;
    char request_id[HTTP_REQUEST_ID_MAX + 1];
    void *principal;
    void *context;
    void (*on_close)(struct http_exchange *x, void *context);
    int status;
    uint64_t bytes_out;
    uint64_t begun_ns, received_ns;
    struct buf headers; /* added by the handler, as they go on the wire */
};

struct http_conn {
    uv_tcp_t tcp;
    struct http_server *server;
    struct http_conn *prev, *next;           /* all connections */
    struct http_conn *turn_prev, *turn_next; /* the turn list; NULL: not in it */
    enum http_conn_state state;
    struct http_timer timer;
    uint64_t state_deadline, write_deadline; /* ms; 0 = none */
    struct http_parse parse;
    struct http_exchange x;
    struct buf pending; /* read, not parsed yet */
    struct buf out;     /* to be sent */
    struct buf sending; /* libuv is sending it */
    uv_write_t write;
    uv_shutdown_t shutdown;
    size_t queue_seen; /* libuv's write queue when the write deadline was set */
    uint64_t body_since_ms;
    uint64_t ip_key; /* 0: not counted */
    uint32_t requests;
    bool writing, read_paused, cut, keep_alive, eof, refused;
};

struct http_server {
    struct http_config config;
    struct http_limits limits;
    struct http_stats stats;
    uv_tcp_t listeners[HTTP_LISTENERS_MAX];
    uint32_t n_listeners;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* keeps the loop turning while the turn list is not empty */
    uv_timer_t timer;
    uint32_t handles; /* open; at zero a closed server is freed */
    struct http_wheel wheel;
    struct http_conn *conns;
    struct http_conn turn; /* head of the turn list; only the links are used */
    struct map by_ip;
    uint32_t n_refused;
    uint32_t n_turn;      /* length of the turn list */
    uv_stream_t *stalled; /* a listener that waits for memory to accept with */
    uint64_t random[2];
    uint64_t date_s;
    char date[40];
    bool draining, closing, ticking;
    void (*closed)(void *arg);
    void *closed_arg;
    char read_buf[HTTP_READ_SIZE];
};

/* http_conn.c */
void http_conn_open(struct http_server *s, uv_stream_t *listener);
void http_conn_drain(struct http_conn *c); /* end it now if it is idle, else after its exchange */
void http_conn_wake(struct http_conn *c);  /* onto the turn list */
void http_conn_turn(struct http_conn *c);  /* send, read on, close: whatever is due */
void http_conn_kill(struct http_conn *c);  /* the client is gone, or must go */
void http_conn_timer(struct http_timer *t, void *server);
/* The exchange has ended; the response lies in out. */
void http_conn_finish(struct http_conn *c, bool may_keep);
/* Bytes that wait for the client. */
size_t http_conn_waiting(const struct http_conn *c);

/* http_reply.c */
void http_reply_refusal(struct http_conn *c, const struct http_refusal *r);
void http_reply_continue(struct http_conn *c);
void http_reply_preflight(struct http_conn *c);
/* A response to bytes that are no request: no exchange, no headers but the needed, close. */
void http_reply_bad(struct http_conn *c, int status, const char *message);

/* http_route.c: what becomes of a request, decided at its head.  Sets route, refusal, preflight. */
void http_route_head(struct http_conn *c);
/* "GET, HEAD, POST": what the path allows. */
void http_route_methods(const struct http_server *s, const char *path, char *out, size_t size);

/* http_server.c */
void http_server_handle_closed(struct http_server *s);
void http_server_tick(struct http_server *s); /* make sure that the timer runs */
const char *http_server_date(struct http_server *s);
uint64_t http_server_random(struct http_server *s);

#endif
