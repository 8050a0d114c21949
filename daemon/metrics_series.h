/* daemon/metrics_series.h - every series that Baton exports: its own (baton_) and the ones that
 * dashboards for vLLM read (vllm:), and the few calls that feed them.
 *
 *   create -> first_token / next_tokens / request_done / http_done as things happen
 *          -> for a scrape: workers_begin, worker (each), state, render -> destroy
 *
 * Clocks: time to first token runs from the moment the last byte of the request was read until its first
 * token is handed to the connection.  Time between tokens is taken where tokens reach the front end.
 * The vllm: series keep vLLM's bucket bounds; ours are finer.  vllm: gauges of running sequences and KV
 * are those of the decode workers.  What Baton does not have (prefix cache, LoRA) is not exported.
 *
 * Thread     the loop's.  Ownership: strings in the config are copied.
 * Memory     a figure that cannot be stored is lost; nothing else fails. */
#ifndef DAEMON_METRICS_SERIES_H
#define DAEMON_METRICS_SERIES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { DAEMON_SERIES_TIERS_MAX = 16, DAEMON_SERIES_PATHS = 9 };

struct daemon_series;

struct daemon_series_tier {
    const char *name;
    uint64_t ttft_ns, tbt_ns; /* targets; 0: none, nothing is said about attaining it */
};

struct daemon_series_config {
    const char *model, *version, *backend;
    const struct daemon_series_tier *tiers; /* index = rank, as the scheduler has them */
    uint32_t n_tiers;                       /* 1 .. DAEMON_SERIES_TIERS_MAX */
};

/* ERR_INVALID: tiers; ERR_NOMEM. */
MUST_USE enum err daemon_series_create(const struct daemon_series_config *c, struct err_msg *msg,
                                       struct daemon_series **out);
void daemon_series_destroy(struct daemon_series *s); /* NULL is fine */

/* ---- as things happen ---- */

/* The first token of a generation is out; n_prompt: tokens of its prompt. */
void daemon_series_first_token(struct daemon_series *s, uint32_t tier, uint32_t n_prompt,
                               uint64_t ttft_ns);
/* n >= 1 more tokens of one generation came together, gap_ns after the one before. */
void daemon_series_next_tokens(struct daemon_series *s, uint32_t tier, uint32_t n, uint64_t gap_ns);

/*    NAME        label       vllm finished_reason (NULL: not counted there) */
#define DAEMON_OUTCOMES(X)                                                          \
    X(STOP, "stop", "stop")                                                         \
    X(LENGTH, "length", "length")                                                   \
    X(CANCELED, "canceled", "abort") /* the client left, or an operator ended it */ \
    X(REJECTED, "rejected", NULL)    /* never started */                            \
    X(FAILED, "failed", "error")
enum daemon_outcome {
#define X(NAME, label, reason) DAEMON_OUTCOME_##NAME,
    DAEMON_OUTCOMES(X)
#undef X
};
const char *daemon_outcome_name(enum daemon_outcome o);

/* Everything about one generation when it has ended.  Times are clock_now_ns(), 0: never came to that;
 * durations are 0 where the stage was not reached.  Of several attempts the last one counts. */
struct daemon_request_record {
    uint32_t tier;
    enum daemon_outcome outcome;
    const char *reason; /* REJECTED, FAILED: sched_reason_name() or the like; else NULL */
    uint32_t n_prompt, n_generated, max_new;
    uint32_t attempts; /* placements; 1 if nothing went wrong */
    uint64_t received_at, placed_at, first_token_at, last_token_at, done_at;
    uint64_t worker_queue_ns; /* waited in the prefill worker */
    uint64_t prefill_ns;
    bool handed_over; /* the next five are valid */
    uint64_t handover_wire_ns, handover_exposed_ns, handover_verify_ns, handover_bytes;
    uint32_t path;                          /* enum kvt_path */
    uint64_t ttft_target_ns, tbt_target_ns; /* its own; 0: the tier's */
};
void daemon_series_request_done(struct daemon_series *s, const struct daemon_request_record *r);

/* route: the pattern of the route table, never what the client sent ("other" for no route). */
void daemon_series_http_done(struct daemon_series *s, const char *route, int status,
                             uint64_t duration_ns, uint64_t bytes_out);

/* Time to first token of a request: as it was over as it was forecast. */
void daemon_series_forecast(struct daemon_series *s, uint32_t tier, double ratio);

/* ---- for a scrape ---- */

struct daemon_series_worker {
    const char *name; /* "prefill-0": stable over restarts */
    const char *role; /* "prefill", "decode" */
    bool up, decodes;
    uint32_t tp;
    uint32_t n_blocks, block_tokens, free_blocks, owned_blocks, granted_blocks, quarantined_blocks;
    uint32_t waiting, running, parked, live_requests, live_grants, live_sends;
    uint64_t backlog_ns, parks, local_prefills;
    double bias; /* 0: not known */
    uint64_t step_ns, steps, prompt_tokens, generated_tokens, late_messages, bad_messages;
    uint64_t bytes_sent[DAEMON_SERIES_PATHS], bytes_received[DAEMON_SERIES_PATHS]; /* by kvt_path */
};
/* Forget the workers of the last scrape, then name those there are. */
void daemon_series_workers_begin(struct daemon_series *s);
void daemon_series_worker(struct daemon_series *s, const struct daemon_series_worker *w);

/* A KV link between two workers, as its probe found it; after workers_begin. */
void daemon_series_link(struct daemon_series *s, const char *from, const char *to,
                        const char *transport, const char *lanes, double bytes_per_s,
                        uint64_t round_trip_ns);

/* Totals since the start, of the requests that asked for this tier. */
struct daemon_series_promises {
    uint64_t arrived, admitted, kept, broken, downgraded, canceled;
    double margin;
};
void daemon_series_promises(struct daemon_series *s, uint32_t tier,
                            const struct daemon_series_promises *p);
/* After promises: refusals for one more reason; their sum is the result "refused". */
void daemon_series_refused(struct daemon_series *s, uint32_t tier, const char *reason, uint64_t n);

struct daemon_series_prediction {
    const char *stage;
    uint64_t n;
    double bias, mape, coverage, worst; /* worst: NAN before there was a window */
    bool drift;
};
/* tier DAEMON_SERIES_TIERS_MAX: over all. */
void daemon_series_prediction(struct daemon_series *s, uint32_t tier,
                              const struct daemon_series_prediction *p);

struct daemon_series_state {
    uint32_t queued[DAEMON_SERIES_TIERS_MAX], running[DAEMON_SERIES_TIERS_MAX]; /* by tier */
    uint64_t queued_tokens;
    uint32_t requests, claims, connections, exchanges; /* live */
    uint64_t resumes, ignored_events, connections_total, bad_requests_total;
    uint32_t want_prefill, want_decode, have_prefill, have_decode;
    uint64_t flips, reversals, records, records_lost;
    bool fallback;
};
void daemon_series_state(struct daemon_series *s, const struct daemon_series_state *st);

MUST_USE enum err daemon_series_render(struct daemon_series *s, struct buf *out);

#endif
