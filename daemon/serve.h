/* daemon/serve.h - `baton serve`: front end and scheduler in this process, N + M worker processes under it.
 *
 * Listens before the model is loaded, restarts workers that die, drains on SIGTERM, and takes the workers
 * down with it. */
#ifndef DAEMON_SERVE_H
#define DAEMON_SERVE_H

#include "daemon/config.h"

/* Runs until told to stop.  Returns the exit status: 0 drained, 1 config or model error (already printed),
 * 130 after a second SIGINT. */
int daemon_serve_run(struct daemon_config *c);

#endif
