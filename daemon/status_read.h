/* daemon/status_read.h - the state of a running server as `baton status` and `baton top` show it, asked for over
 * HTTP: /admin/state where there is an admin key, else what /metrics says.
 *
 * Thread: the caller's.  Blocking: until the answer is there, at most 5 s.  Ownership: status_free frees what a
 * status points to. */
#ifndef DAEMON_STATUS_READ_H
#define DAEMON_STATUS_READ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "scheduler/sched_view.h"

enum { STATUS_NAME_MAX = 64, STATUS_STAGES_MAX = (SCHED_TIERS_MAX + 1) * SCHED_STAGES };

/* Names hold printable characters alone. */
struct status_tier {
    char name[STATUS_NAME_MAX];
    double ttft_ms, tbt_ms; /* 0: not known */
    uint32_t queued, running;
    uint64_t arrived, admitted, kept, broken, refused, canceled, downgraded;
    double margin;
};
struct status_stage {
    char tier[STATUS_NAME_MAX], stage[STATUS_NAME_MAX];
    uint64_t n;
    double bias, mape, coverage, worst; /* worst: NAN before there was a window */
    bool drift, lost;
};
struct status_worker {
    char name[STATUS_NAME_MAX], role[STATUS_NAME_MAX], klass[STATUS_NAME_MAX],
        state[STATUS_NAME_MAX];
    char kv_paths[STATUS_NAME_MAX]; /* of its links: shm,staged-tcp */
    uint32_t tp;                    /* 0: not known */
    uint32_t blocks, free_blocks, running, waiting, parked;
    double backlog_ms, step_ms, bias;
};
struct status {
    char model[STATUS_NAME_MAX], version[STATUS_NAME_MAX], policy[STATUS_NAME_MAX];
    char fallback[256]; /* "": predictions are trusted */
    bool whole;         /* of /admin/state */
    bool elastic, draining;
    uint32_t uptime_s; /* 0: not known */
    uint32_t prefill, decode, want_prefill, want_decode;
    uint64_t flips, reversals, records, records_lost;
    struct status_tier tiers[SCHED_TIERS_MAX];
    uint32_t n_tiers;
    struct status_stage stages[STATUS_STAGES_MAX];
    uint32_t n_stages;
    struct status_worker *workers;
    uint32_t n_workers;
};

/* url: http://HOST[:PORT] or HOST:PORT; key: NULL for none.  ERR_INVALID: the address; ERR_IO: nobody answers;
 * ERR_AUTH: the key is missing or wrong; ERR_BAD_FRAME: the answer is not from such a server.  msg says what to
 * do. */
MUST_USE enum err status_read(const char *url, const char *key, struct status *out,
                              struct err_msg *msg);
void status_free(struct status *s);

/* The two readers, for tests.  On an error *out is empty. */
MUST_USE enum err status_parse_state(const char *json, size_t len, struct status *out);
MUST_USE enum err status_parse_metrics(const char *text, size_t len, struct status *out);

/* Kept of all that were judged: kept, broken, refused.  Below 0: none yet. */
double status_attainment(const struct status_tier *t);

#endif
