/* daemon/worker.h - `baton prefill` and `baton decode`: a worker process around one role.
 *
 * Opens the model, joins the scheduler, attaches to its front ends, carries messages between links, role
 * and KV node, and reports every heartbeat.  When the scheduler asks an idle worker for it, it takes the other
 * role: it keeps model, pool and KV node, and joins anew over a new connection.  A worker that was started by `baton serve` (exit_with_parent)
 * ends with it; one started by hand reconnects with back-off when the scheduler goes away, after it has
 * canceled everything it held.
 *
 * Threads: one loop thread (links, role, KV), one engine thread inside the role, the engine's own. */
#ifndef DAEMON_WORKER_H
#define DAEMON_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum daemon_worker_role { DAEMON_WORKER_PREFILL = 1, DAEMON_WORKER_DECODE = 2 };

struct daemon_worker_config {
    enum daemon_worker_role role;
    const char *name; /* "prefill-0" */
    const char *model_dir;
    const char *served_name;
    const char *backend;     /* "cpu", "sim", "cuda" */
    const char *sim_profile; /* NULL: zero modelled time */
    const char *scheduler;   /* address of the control connection */
    const char *secret_file;
    const char *kv_host;       /* address for the KV listener; NULL: derived (see .c) */
    uint16_t kv_port;          /* 0: any */
    const char *kv_transports; /* UCX transports, NULL: default */
    uint32_t threads;          /* 0: default */
    uint32_t tp;               /* ranks of the engine; 0: 1 */
    /* Backends with devices; the words of the configuration, NULL or 0: default. */
    const char *device, *gpu_memory, *weights;
    uint32_t kv_blocks, random_weights, step_timeout_s;
    uint64_t kv_bytes; /* size of the KV pool in host memory */
    uint64_t park_bytes; /* decode: host memory for parked KV, at most; 0: as much as the pool, and
                                  no more than an eighth of the machine's memory */
    const char *worker_class; /* NULL or "": "<served name>/<backend>" */
    uint32_t block_tokens, max_context, max_batch, max_step_tokens; /* 0: default */
    uint32_t load_timeout_s;                                        /* 0: none */
    bool exit_with_parent;
};

/* Runs until told to leave.  Returns the exit status of the process: 0 drained or parent gone, 1 config or
 * model error or refused by the scheduler (already printed to standard error), 3 the engine broke, 4 the load of the model stood still for load_timeout_s. */
int daemon_worker_run(const struct daemon_worker_config *c);

#endif
