/* bench/perf_http.h - `baton perf http`: what the front end costs, with sim workers at zero modelled time.
 *
 * Starts `baton serve --backend sim` pinned to one core with its workers on another, and loads it from this
 * process, a second one.  Names: http.stream.tokens (tokens/s over 64 streams, as fast as they come),
 * http.completion.ids1000 (1-token completions of 1,000-token id prompts, req/s), http.ttft.p50 and .p99 (ms, at
 * 1,000 requests per second, from the intended send time), http.paced.tokens and .events_per_token (64 streams
 * that get a token each 0.4 ms: tokens/s, and how many SSE events each token takes; below 1 the front end was
 * behind and put several tokens into one event).
 *
 * Thread     the caller's.  Blocking: about half a minute. */
#ifndef BENCH_PERF_HTTP_H
#define BENCH_PERF_HTTP_H

#include <stdbool.h>

#include "base/err.h"

/* ERR_IO: the server did not start (its output is on standard error). */
MUST_USE enum err bench_perf_http(const char *model_dir, bool json, struct err_msg *msg);

#endif
