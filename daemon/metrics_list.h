/* daemon/metrics_list.h - private to metrics_series.c: the ids of all series that are exported, and where
 * their definitions stand (metrics_list.c).
 *
 * Thread: any; constants. */
#ifndef DAEMON_METRICS_LIST_H
#define DAEMON_METRICS_LIST_H

#include <stdint.h>

#include "daemon/metrics.h"

enum series_id {
    S_BUILD,
    S_REQUESTS,
    S_RESUMED,
    S_TTFT,
    S_TBT,
    S_QUEUE,
    S_WORKER_QUEUE,
    S_PREFILL,
    S_DECODE,
    S_E2E,
    S_WIRE,
    S_EXPOSED,
    S_VERIFY,
    S_HANDOVERS,
    S_ATTAINED,
    S_MISSED,
    S_TTFT_TARGET,
    S_TBT_TARGET,
    S_ARRIVALS,
    S_ADMITTED,
    S_PROMISES,
    S_REFUSALS,
    S_MARGIN,
    S_FORECAST,
    S_PREDICTIONS,
    S_P_BIAS,
    S_P_MAPE,
    S_P_COVERAGE,
    S_P_WORST,
    S_P_DRIFT,
    S_FALLBACK,
    S_WANT,
    S_HAVE,
    S_FLIPS,
    S_REVERSALS,
    S_RECORDS,
    S_RECORDS_LOST,
    S_PROMPT,
    S_GENERATED,
    S_QUEUED,
    S_QUEUED_TOKENS,
    S_RUNNING,
    S_UP,
    S_W_TP,
    S_BLOCKS,
    S_W_WAITING,
    S_W_RUNNING,
    S_W_PARKED,
    S_W_PARKS,
    S_W_LOCAL,
    S_W_BACKLOG,
    S_W_BIAS,
    S_W_STEP,
    S_W_STEPS,
    S_W_TOKENS,
    S_W_BYTES,
    S_W_MESSAGES,
    S_LINK_SPEED,
    S_LINK_TRIP,
    S_LIVE,
    S_RESUMES,
    S_IGNORED,
    S_HTTP,
    S_HTTP_SECONDS,
    S_HTTP_BYTES,
    S_HTTP_CONNS,
    S_HTTP_BAD,
    S_V_RUNNING,
    S_V_WAITING,
    S_V_KV,
    S_V_CONFIG,
    S_V_PREEMPTED,
    S_V_PROMPT,
    S_V_GENERATED,
    S_V_SUCCESS,
    S_V_TTFT,
    S_V_ITL,
    S_V_TPOT,
    S_V_E2E,
    S_V_QUEUE,
    S_V_INFERENCE,
    S_V_PREFILL,
    S_V_DECODE,
    S_V_PROMPT_SIZE,
    S_V_OUTPUT_SIZE,
    S_V_MAX_TOKENS,
    S_COUNT
};

struct daemon_series_def {
    const char *name;
    enum daemon_metric_kind kind;
    const char *help;
    const char *labels[DAEMON_METRICS_LABELS_MAX];
    const double *buckets;
    uint32_t n_buckets;
};

extern const struct daemon_series_def daemon_series_defs[S_COUNT];

#endif
