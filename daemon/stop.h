/* daemon/stop.h - text on its way to the client: holds back what could be the start of a stop string, and
 * cuts at the first one that is complete, wherever token borders fall.
 *
 * Thread: any.  Cost: linear in the text times the number of stop strings (at most 16 of 256 bytes). */
#ifndef DAEMON_STOP_H
#define DAEMON_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct daemon_stop {
    /* The strings belong to the caller and outlive this. */
    char *const *strings;
    const size_t *lens;
    size_t n;
    bool keep; /* the stop string itself is part of the output */
    /* private */
    struct buf held;
};

/* Append len bytes; what is certain moves to out.  *hit: a stop string is complete, everything before it
 * (and itself if keep) is in out, and nothing more may be pushed.  ERR_NOMEM. */
MUST_USE enum err daemon_stop_push(struct daemon_stop *s, const char *text, size_t len,
                                   struct buf *out, bool *hit);
/* The text ends: what was held is certain now. */
MUST_USE enum err daemon_stop_finish(struct daemon_stop *s, struct buf *out);
void daemon_stop_free(struct daemon_stop *s);

#endif
