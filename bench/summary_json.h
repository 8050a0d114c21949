/* bench/summary_json.h - one run as JSON with the keys that `vllm bench serve` writes, for tools that read those.
 *
 * Thread: the caller's.  Times are ms and count from the intended send time; distributions are of the finished requests
 * inside the measuring window; failed counts refusals and time-outs too. */
#ifndef BENCH_SUMMARY_JSON_H
#define BENCH_SUMMARY_JSON_H

#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "bench/load_run.h"

struct bench_summary {
    const struct load_options *o;
    const struct load_server *server;
    const struct load_plan *plan;
    const struct load_stats *stats;
    const struct bench_run *run;
    uint64_t wall_ns; /* when it was done */
};

/* Appends the figures of one run to *list, a JSON array; NULL: made here, by the caller to be released.  ERR_NOMEM. */
MUST_USE enum err bench_summary_add(json_t **list, const struct bench_summary *s);
/* Writes the only summary, or the means of several repeats, with ci95: half widths of their 95 % confidence intervals.
 * members: JSON members to add, or NULL.  ERR_IO: cannot write there; ERR_NOMEM. */
MUST_USE enum err bench_summary_write(const char *path, const json_t *list, const char *members,
                                      struct err_msg *msg);

#endif
