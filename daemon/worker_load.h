/* daemon/worker_load.h - opens the engine on a thread of its own, so that the loop can connect and tell the
 * scheduler how far loading has come.
 *
 * Thread: loop.  The config must outlive the load.  A load cannot be stopped: a process that has to leave
 * while one runs ends without waiting for it. */
#ifndef DAEMON_WORKER_LOAD_H
#define DAEMON_WORKER_LOAD_H

#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"

struct uv_loop_s;
struct daemon_load;

struct daemon_load_hooks {
    /* At most 20 times a second. */
    void (*on_progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
    /* Once; the load is gone when it returns.  engine is NULL unless err is ERR_OK. */
    void (*on_loaded)(void *arg, enum err err, const char *why, struct engine *engine);
};

MUST_USE enum err daemon_load_start(const struct engine_config *config, struct uv_loop_s *loop,
                                    const struct daemon_load_hooks *hooks, void *arg,
                                    struct daemon_load **out);

#endif
