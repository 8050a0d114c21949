/* base/mbox.h - the one way to reach another thread: post a message to its mailbox.
 *
 * A message is embedded in the caller's own struct; it and what it points to change owner with the
 * post.  The receiving thread takes the whole list, drops the lock, then runs each message in the
 * order posted.  Two kinds of receiver: a libuv loop (woken by uv_async), or a thread of its own
 * that blocks in mbox_wait.
 *
 *   create -> post from any thread -> (loop kind: runs by itself | thread kind: mbox_wait) -> close
 *
 * Thread     mbox_post: any.  Everything else: the receiving thread (create may run before it starts).
 * Ownership  the poster gives the message away; its run function frees it.
 * Blocking   only mbox_wait. */
#ifndef BASE_MBOX_H
#define BASE_MBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct mbox;
struct uv_loop_s;

struct mbox_msg {
    struct mbox_msg *next;           /* private */
    void (*run)(struct mbox_msg *m); /* called once, on the receiving thread */
};

/* Loop kind.  The open mailbox does not keep the loop alive.  ERR_NOMEM. */
MUST_USE enum err mbox_create_on_loop(struct uv_loop_s *loop, struct mbox **out);
/* Thread kind.  ERR_NOMEM. */
MUST_USE enum err mbox_create(struct mbox **out);

void mbox_post(struct mbox *m, struct mbox_msg *msg);

/* Thread kind: run what is there; if nothing is, sleep until a post or until timeout_ns has passed
 * (UINT64_MAX: no limit; 0: do not sleep).  Returns true if anything ran. */
bool mbox_wait(struct mbox *m, uint64_t timeout_ns);

/* Run what was posted so far, then free.  No thread may post any more.  The loop kind is freed in a
 * later turn of its loop, which must still run. */
void mbox_close(struct mbox *m);

#endif
