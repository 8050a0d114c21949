/* bench/load_impl.h - a run of load from the inside.  Private to load_run.c and load_request.c. */
#ifndef BENCH_LOAD_IMPL_H
#define BENCH_LOAD_IMPL_H

#include <uv.h>

#include "bench/load_http.h"
#include "bench/load_run.h"
#include "bench/load_sse.h"

struct load_request {
    struct load_call call; /* first: callbacks get it */
    struct load_runner *runner;
    struct load_request *next, *prev; /* in flight, in the order sent */
    size_t index;
    uint64_t intended_ns, ready_ns, sent_ns, first_ns, last_ns, previous_ns;
    struct load_sse sse;
    struct buf body; /* of an error, or of an answer in one piece */
    uint32_t *at_us; /* chunks with text, since intended */
    uint32_t n_chunks, cap_chunks;
    struct load_chunk usage;
    uint64_t max_gap_ns;
    double retry_after_s;
    int status;
    bool saw_end, saw_finish, failed, must_cancel;
    char error[LOAD_ERROR_MAX];
};

struct load_runner {
    const struct load_job *job;
    struct load_plan *plan;
    const struct load_options *o;
    struct bench_run *run;
    struct load_stats *stats;
    uv_loop_t loop;
    struct load_client *client;
    uv_poll_t due;
    uv_timer_t tick;
    int timer_fd;
    uint64_t begin_ns, slot_free_ns, last_ns;
    struct load_request *first, *last; /* in flight */
    size_t next;
    uint32_t in_flight;
    bool sending;
    enum err err;
    /* per second of the run: chunks; per tick: requests in flight */
    uint32_t *per_second;
    size_t n_seconds;
    double *sample_x, *sample_y;
    size_t n_samples, cap_samples;
    uint64_t shown_ns;
    struct bench_hist lag, first_token; /* for the progress line */
};

/* load_request.c: starts request `index`; its end calls load_runner_ended. */
void load_request_start(struct load_runner *r, size_t index, uint64_t intended_ns,
                        uint64_t ready_ns);
/* Ends it now, with this fate and text. */
void load_request_stop(struct load_request *q, enum bench_fate fate, const char *why);
/* load_run.c: a slot is free. */
void load_runner_ended(struct load_runner *r);

#endif
