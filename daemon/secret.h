/* daemon/secret.h - the shared secret of scheduler and workers, and the private run-time directory. */
#ifndef DAEMON_SECRET_H
#define DAEMON_SECRET_H

#include <stddef.h>

#include "base/err.h"
#include "proto/wire_auth.h"

/* Read a file with one secret; messages call it `what` ("secret file", "key file").  ERR_NOT_FOUND;
 * ERR_INVALID: too short or long, or readable by others (mode). */
MUST_USE enum err daemon_secret_read(const char *what, const char *path, struct wire_secret *out,
                                     struct err_msg *msg);

/* Make a directory of mode 0700 under XDG_RUNTIME_DIR, TMPDIR or /tmp, for the workers' socket; and take
 * the secret: the content of secret_file, or a random one if that is NULL.  *secret_fd holds a copy in
 * memory for the workers to inherit and to read by a path under /proc/self/fd, so that no file of ours
 * holds it and a change of secret_file does not part them from us.  On an error dir is "" or to be removed
 * all the same. */
MUST_USE enum err daemon_run_directory(const char *secret_file, char *dir, size_t room,
                                       struct wire_secret *out, int *secret_fd,
                                       struct err_msg *msg);

#endif
