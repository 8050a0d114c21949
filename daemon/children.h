/* daemon/children.h - the worker processes of `baton serve`: start, restart with back-off, stop.
 *
 * Thread: the loop's.  A child that dies is started again after a pause that doubles from 100 ms to 10 s and
 * starts over once a child has lived for 10 s.  A child that ends with status 1 before any worker of this
 * run was ready has a config or model error: that ends the run, see on_hopeless. */
#ifndef DAEMON_CHILDREN_H
#define DAEMON_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "daemon/config.h"

struct uv_loop_s;
struct daemon_children;

struct daemon_children_config {
    struct uv_loop_s *loop;
    const struct daemon_config *config;
    const char *model_dir;
    const char *control; /* address of the hub */
    int secret_fd; /* a file that holds the secret; the caller's, open until all have stopped */
    void *arg;
    void (*on_gone)(void *arg, uint32_t pid);
    void (*on_hopeless)(void *arg);
    void (*on_all_stopped)(
        void *arg); /* after daemon_children_stop; then everything here is freed */
};

MUST_USE enum err daemon_children_start(const struct daemon_children_config *c, struct err_msg *msg,
                                        struct daemon_children **out);
/* From now on a failing child is restarted, whatever its status. */
void daemon_children_proven(struct daemon_children *c);
/* SIGKILL to this child, if it is one of ours. */
void daemon_children_kill(struct daemon_children *c, uint32_t pid);
/* SIGTERM to all, SIGKILL after grace_ms; no restarts. */
void daemon_children_stop(struct daemon_children *c, uint32_t grace_ms);

#endif
