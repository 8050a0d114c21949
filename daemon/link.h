/* daemon/link.h - one authenticated control connection: handshake, frames in and out, heartbeat timer.
 *
 *   client: daemon_link_connect -> on_ready -> on_frame ... -> on_closed, exactly once
 *   server: daemon_link_listen  -> on_accept(link) after a good handshake -> on_frame ... -> on_closed
 *
 * Nothing but the fixed-size handshake of proto/wire_auth.h is read before the peer has proved the
 * secret; a peer that has not within 5 s is cut.  Frames are validated by proto/wire_frame.h; a bad one
 * closes the link.  Silence for longer than the peer timeout closes it with ERR_TIMEOUT; a peer that does
 * not read is cut when more than max_queued bytes wait for it.  Frames sent in one loop turn leave in
 * one write.
 *
 * Thread     the loop's.
 * Ownership  a link belongs to this module; it is gone when on_closed returns.  Messages given to
 *            on_frame belong to the link and end with the call.
 * Blocking   nothing.  Addresses: "unix:PATH", "HOST:PORT", "[V6]:PORT". */
#ifndef DAEMON_LINK_H
#define DAEMON_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/wire_auth.h"
#include "proto/wire_frame.h"

struct uv_loop_s;
struct daemon_link;
struct daemon_listener;

struct daemon_link_hooks {
    /* Client: the handshake is done, frames may be sent. */
    void (*on_ready)(struct daemon_link *l, void *arg);
    void (*on_frame)(struct daemon_link *l, void *arg, enum wire_type t, const ProtobufCMessage *m);
    /* why: ERR_PEER_LOST (closed by the peer or the network), ERR_TIMEOUT, ERR_AUTH, ERR_BAD_FRAME,
     * ERR_UNSUPPORTED (version), ERR_LIMIT (it does not read), ERR_CANCELED (daemon_link_close). */
    void (*on_closed)(struct daemon_link *l, void *arg, enum err why, const char *detail);
};

struct daemon_link_options {
    struct uv_loop_s *loop;
    const struct wire_secret *secret; /* copied */
    uint64_t peer_timeout_ns;         /* 0 = 5 s until changed by daemon_link_set_timeout */
    size_t max_queued;                /* 0 = 64 MiB */
};

/* Start connecting as `role`.  ERR_INVALID: the address cannot be parsed; then no hook ever runs. */
MUST_USE enum err daemon_link_connect(const struct daemon_link_options *o, const char *address,
                                      enum wire_role role, const struct daemon_link_hooks *hooks,
                                      void *arg, struct err_msg *msg, struct daemon_link **out);

/* Server.  on_accept returns the hooks and arg for the new link, or false to refuse it.
 * ERR_INVALID address, ERR_IO with the reason ("address in use") in msg.  A unix socket is made with mode
 * 0600, replacing a stale one, but neither one that answers nor a file of another kind. */
typedef bool (*daemon_accept_fn)(void *arg, struct daemon_link *l, enum wire_role role,
                                 const struct daemon_link_hooks **hooks, void **link_arg);
MUST_USE enum err daemon_link_listen(const struct daemon_link_options *o, const char *address,
                                     daemon_accept_fn on_accept, void *arg, struct err_msg *msg,
                                     struct daemon_listener **out);
/* The address bound, with the real port. */
const char *daemon_listener_address(const struct daemon_listener *l);
void daemon_listener_close(struct daemon_listener *l);

void daemon_link_set_arg(struct daemon_link *l, void *arg);
void daemon_link_set_timeout(struct daemon_link *l, uint64_t peer_timeout_ns);
/* The process at the other end, as the kernel knows it; 0 where it cannot know: over TCP. */
uint32_t daemon_link_peer_pid(const struct daemon_link *l);
/* The peer's address as text, for the log. */
const char *daemon_link_peer(const struct daemon_link *l);
/* The local end as an address a peer can use ("unix:PATH", "HOST:PORT"). */
enum { DAEMON_LINK_ADDRESS_MAX = 272 };
void daemon_link_local(const struct daemon_link *l, char out[DAEMON_LINK_ADDRESS_MAX]);
/* Queue a frame.  A failure (ERR_NOMEM, ERR_LIMIT) closes the link in a later turn; callers need not look
 * at it, the close is what they act on. */
void daemon_link_send(struct daemon_link *l, enum wire_type t, const ProtobufCMessage *m);
/* on_closed (ERR_CANCELED) comes in a later turn; no other hook runs any more.  What was queued is still
 * sent if the peer takes it within a second. */
void daemon_link_close(struct daemon_link *l);

#endif
