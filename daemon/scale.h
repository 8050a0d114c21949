/* daemon/scale.h - the planner's wish as a command: PROGRAM WANT_PREFILL WANT_DECODE HAVE_PREFILL HAVE_DECODE.
 *
 *   create -> want ... -> close -> closed callback
 *
 * The program is run directly, without a shell.  One runs at a time; of the wishes that come meanwhile the last
 * one follows.  One that does not end within 30 s is killed.  A failure is logged and changes nothing.
 *
 * Thread: the loop's.  Blocking: nothing. */
#ifndef DAEMON_SCALE_H
#define DAEMON_SCALE_H

#include <stdint.h>

#include "base/err.h"

struct uv_loop_s;
struct daemon_scale;

/* program outlives it.  ERR_NOMEM; ERR_NOT_FOUND: it is no program that we may run. */
MUST_USE enum err daemon_scale_create(struct uv_loop_s *loop, const char *program,
                                      struct err_msg *msg, struct daemon_scale **out);
void daemon_scale_want(struct daemon_scale *s, const uint32_t want[3], const uint32_t have[3]);
/* Kills what runs; frees, and calls closed, in a later loop turn. */
void daemon_scale_close(struct daemon_scale *s, void (*closed)(void *arg), void *arg);

#endif
