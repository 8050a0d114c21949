/* bench/load_http.h - an HTTP/1.1 client for load: many connections to one server, kept alive between requests.
 *
 *   load_url_parse -> load_client_create -> load_call_start ... -> load_client_close -> run the loop once more
 *
 * A call ends exactly once: by on_end, or by load_call_cancel, after which nothing is called.  No request is sent
 * twice.  What a server may send ahead of a body is bounded (LOAD_HEAD_MAX); bodies go to the caller as they come.
 *
 * Thread     the loop's.  Ownership: a call belongs to the caller, and must live until it has ended.
 * Blocking   load_client_create resolves the name; nothing else does. */
#ifndef BENCH_LOAD_HTTP_H
#define BENCH_LOAD_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "base/buf.h"
#include "base/err.h"

enum { LOAD_HEAD_MAX = 64 * 1024, LOAD_INFORMATIONAL_MAX = 16, LOAD_IDLE_MS = 2000 };

struct load_url {
    char host[256]; /* without brackets */
    char port[8];
    char base[256];      /* path before /v1, no slash at its end */
    char authority[272]; /* HOST:PORT as URLs and the Host header have it: IPv6 in brackets */
};
/* http://HOST[:PORT][/BASE][/v1]; an IPv6 address stands in brackets.  ERR_UNSUPPORTED: https.  ERR_INVALID. */
MUST_USE enum err load_url_parse(const char *text, struct load_url *out, struct err_msg *msg);

struct load_client;
struct load_conn;

struct load_call {
    /* set by the caller */
    void (*on_head)(struct load_call *call, int status, double retry_after_s); /* < 0: none */
    void (*on_body)(struct load_call *call, const char *bytes, size_t len);
    void (*on_end)(struct load_call *call, enum err err, const char *why); /* err OK: all came */
    /* private */
    struct load_conn *conn;
};

/* ERR_NOT_FOUND: the name has no address.  ERR_NOMEM. */
MUST_USE enum err load_client_create(uv_loop_t *loop, const struct load_url *url,
                                     struct err_msg *msg, struct load_client **out);
/* Cancels all calls and closes all connections; the client is gone when the loop has run. */
void load_client_close(struct load_client *c);
uint64_t load_client_opened(const struct load_client *c); /* connections opened so far */

/* Sends the bytes of `request` (head and body) on an idle connection or a new one.  On ERR_OK they are taken over
 * and the buffer is empty.  ERR_IO: no socket; ERR_NOMEM: nothing was sent. */
MUST_USE enum err load_call_start(struct load_client *c, struct load_call *call,
                                  struct buf *request);
void load_call_cancel(struct load_call *call); /* closes its connection; no-op when it has ended */

#endif
