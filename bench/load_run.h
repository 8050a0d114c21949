/* bench/load_run.h - one run of load: sends each request of a plan at its time and says what became of it.
 *
 * Latencies count from the intended time.  Where the client itself was late (its lag, without the time a request waits
 * for a slot under --concurrency) is measured for every request.
 *
 * Thread: the caller's.  Blocking: until all have ended, or the run was stopped; every request has a time limit.
 * Units: s. */
#ifndef BENCH_LOAD_RUN_H
#define BENCH_LOAD_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "bench/histogram.h"
#include "bench/load_plan.h"
#include "bench/outcome.h"

enum { LOAD_ERROR_MAX = 160 };

struct load_record {
    size_t index;
    const struct load_item *item;
    struct bench_outcome outcome;
    int status;     /* of HTTP; 0: no answer */
    double queue_s; /* in the client, for a slot */
    double mean_gap_s;
    uint32_t n_chunks, n_cached;
    char error[LOAD_ERROR_MAX]; /* "": none; printable ASCII */
};
typedef void (*load_record_fn)(void *arg, const struct load_record *r);

struct load_stats {
    struct bench_hist ttft, tpot, itl, e2e; /* of finished requests inside the window */
    struct bench_hist queue;                /* of all */
    uint64_t sent, done, failed, refused, timeout, canceled, cached_tokens;
    uint64_t tokens_in, tokens_out; /* of all that finished */
    uint64_t cut_short; /* finished with fewer tokens than asked for, against ignore_eos */
    uint64_t connections;
    uint64_t no_socket; /* of the failed: this client could not open a connection */
    uint32_t peak_in_flight;
    double peak_tokens;   /* most output chunks in one second */
    double seconds;       /* first send to last answer */
    double slope;         /* growth of requests in flight over the second half, 1/s */
    double retry_after_s; /* largest seen */
    bool saturated;       /* stopped because they kept growing */
    bool interrupted;
    char first_error[LOAD_ERROR_MAX];
};

struct load_job {
    struct load_plan *plan;
    bool closed;         /* send the next when one ends; times of the plan are not used */
    bool stop_saturated; /* give up early where requests in flight keep growing */
    bool progress;
    load_record_fn on_record; /* NULL: none; may be called in any order of requests */
    void *arg;
};

/* `run` is initialised and named by the caller; it is finished when this returns.
 * ERR_NOT_FOUND: no address; ERR_IO: no timer; ERR_NOMEM.  Requests that fail are no error here. */
MUST_USE enum err load_run(const struct load_job *job, struct bench_run *run,
                           struct load_stats *stats, struct err_msg *msg);

/* GET base/v1/models: model, vocabulary and context.  The model of the options is looked up by name; if the server
 * has no such endpoint, it is believed.  ERR_IO: the server does not answer; ERR_NOT_FOUND: no model. */
MUST_USE enum err load_ask_server(const struct load_options *o, struct load_server *out,
                                  struct err_msg *msg);

/* Least-squares slope of y over x and the half width of its 95 % interval (normal); 0 with fewer than 8 points. */
double load_slope(const double *x, const double *y, size_t n, double *half);

#endif
