/* bench/http_load.h - a small HTTP load on keep-alive connections to loopback, for `baton perf http`.
 *
 * Closed loop: every connection sends its next request when the answer to the last is complete.  Open loop:
 * requests are due at fixed times and go out on the first idle connection; latency counts from the time due,
 * so that a server that is late cannot hide it.
 *
 * Thread: the caller's.  Blocking: until all requests are answered, or limit_s has passed. */
#ifndef BENCH_HTTP_LOAD_H
#define BENCH_HTTP_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct http_load {
    uint16_t port;
    uint32_t connections;
    uint32_t requests;   /* in all */
    double rate;         /* per second; 0 = closed loop */
    const char *request; /* header and body, sent as it is */
    size_t request_len;
    double limit_s;
};

struct http_load_result {
    uint32_t answered, failed; /* failed: another status than 200, or a broken connection */
    uint32_t n_first;          /* entries of first_ms */
    uint64_t events;           /* "data: " seen */
    double seconds;            /* first send to last answer */
    double *first_ms; /* per request: first byte of the body, from the time due; mem_free */
};

/* ERR_IO: no connection; ERR_TIMEOUT: limit_s passed (the result holds what was done); ERR_NOMEM. */
MUST_USE enum err http_load_run(const struct http_load *l, struct http_load_result *out,
                                struct err_msg *msg);
/* Sorts v. */
double http_load_percentile(double *v, size_t n, double p);

#endif
