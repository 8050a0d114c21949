/* daemon/status_get.h - one HTTP GET, for the tools that ask a running server.
 *
 * Thread: the caller's.  Blocking: at most 5 s for each of connect, send, and every piece received. */
#ifndef DAEMON_STATUS_GET_H
#define DAEMON_STATUS_GET_H

#include "base/buf.h"
#include "base/err.h"

/* ERR_INVALID: url is no http://HOST:PORT. */
MUST_USE enum err status_check_url(const char *url, struct err_msg *msg);

/* key: NULL for none.  The body is appended to out.  ERR_INVALID: the address; ERR_IO: no answer;
 * ERR_BAD_FRAME: what came is no HTTP; ERR_LIMIT: more than 64 MiB; ERR_NOMEM. */
MUST_USE enum err status_get(const char *url, const char *path, const char *key, int *status,
                             struct buf *out, struct err_msg *msg);

#endif
