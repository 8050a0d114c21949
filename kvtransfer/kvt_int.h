/* kvtransfer/kvt_int.h - what the files of kvtransfer share: the node, its peers and connections, and
 * who calls whom.
 *
 *   kvt_node.c   create, close, introductions, the loop turn
 *   kvt_conn.c   one control connection: frames, handshake, failure
 *   kvt_link.c   the probe, and the endpoint of an outgoing connection
 *   kvt_send*.c  sender's side of a transfer        kvt_grant.c  receiver's side
 *   kvt_stage.c  copies between device memory and pinned buffers
 *
 * A connection is directed: its connector sends, its acceptor receives; only the connector holds a UCX
 * endpoint.  User callbacks run from node_turn() alone, never inside an API call.
 *
 * Thread: the loop thread. */
#ifndef KVTRANSFER_KVT_INT_H
#define KVTRANSFER_KVT_INT_H

#include <uv.h>

#include "base/map.h"
#include "kvtransfer/kvt.h"
#include "kvtransfer/kvt_fence.h"
#include "kvtransfer/kvt_stage.h"
#include "kvtransfer/kvt_ucx.h"
#include "kvtransfer/kvt_wire.h"
#include "proto/wire_kv_plan.h"

enum {
    KVT_MESSAGE_MAX = 256 * 1024, /* bytes of one message */
    KVT_PUT_MAX = 512 * 1024,     /* bytes of one put record: about 100 us of memcpy and digest */
    KVT_BATCH_RECORDS = 8,        /* put records that share a flush */
    KVT_WINDOW_BYTES = 4 * 1024 * 1024, /* outstanding per connection */
    KVT_PROBE_BYTES = 1024 * 1024,
    KVT_LOOSE_TURN = 8,    /* one record in so many is of a class that has to wait else */
    KVT_GREETINGS_MAX = 64 /* connections that have not proved anything yet */
};
#define KVT_TURN_NS (300 * 1000ull) /* for each of the three kinds of work in a loop turn */
#define KVT_GREETING_NS (5 * 1000000000ull)
#define KVT_STOP_NS (250 * 1000000ull) /* outstanding operations get this long after a failure */

/* How a side of a transfer holds a block: what its records count in. */
struct kvt_shape {
    struct wire_kv_layout layout;
    size_t block_bytes;                                 /* of one part */
    uint32_t grain, grains_per_layer, grains_per_block; /* of one part */
};

/* Intrusive list; an unlinked item points at itself. */
struct kvt_item {
    struct kvt_item *next, *prev;
};

static inline void item_init(struct kvt_item *i)
{
    i->next = i->prev = i;
}

static inline bool item_linked(const struct kvt_item *i)
{
    return i->next != i;
}

static inline void item_unlink(struct kvt_item *i)
{
    i->prev->next = i->next;
    i->next->prev = i->prev;
    item_init(i);
}

static inline void item_append(struct kvt_item *list, struct kvt_item *i)
{
    i->prev = list->prev;
    i->next = list;
    list->prev->next = i;
    list->prev = i;
}

#define KVT_OF(item, type, field) ((type *)(void *)((char *)(item)-offsetof(type, field)))

struct kvt_peer {
    uint32_t id;   /* the peer's */
    uint32_t self; /* ours, at the peer */
    uint8_t token[KVT_TOKEN_BYTES];
    char host[64]; /* empty: only the peer connects */
    uint16_t port;
    struct kvt_conn *out;                               /* NULL: not connected */
    uint64_t connect_until_ns, retry_at_ns, backoff_ns; /* while a connection is wanted; else 0 */
};

enum kvt_conn_state {
    CONN_CONNECTING = 0, /* outgoing: waits for TCP */
    CONN_GREETING,       /* waits for CHALLENGE, WELCOME or HELLO */
    CONN_PROBING,        /* outgoing: measures */
    CONN_READY,
    CONN_MUTE,   /* incoming, failed or retired: kept to learn that its process has let go */
    CONN_CLOSING /* waits for UCX and libuv to let go */
};

struct kvt_conn {
    struct kvt_item item; /* node->conns */
    struct kvt_node *node;
    struct kvt_peer *peer; /* NULL: unknown yet, or forgotten */
    uint32_t peer_id;      /* for logs, valid after the greeting */
    uint64_t instance;
    uint64_t cookie; /* incoming: goes into every data message */
    enum kvt_conn_state state;
    bool out;
    bool was_ready;
    bool allowed; /* remote may reach UCX's TCP port */
    struct sockaddr_storage remote;
    bool greeted; /* outgoing: the challenge has been answered */
    bool failing; /* the next turn ends it, with: */
    bool fail_proof;
    enum err fail_err;
    const char *fail_why;
    const char *ep_failed; /* UCX's text once the endpoint has failed */
    uint64_t deadline_ns;  /* of the greeting and the probe */
    uint64_t last_rx_ns;
    uint64_t progress_ns; /* when an operation last ended */
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_shutdown_t shutdown;
    uint8_t nonce_ours[KVT_WIRE_NONCE], nonce_theirs[KVT_WIRE_NONCE];
    uint8_t *rx; /* KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX bytes */
    size_t rx_len;
    /* outgoing */
    struct kvt_ep *ep;
    uint64_t remote_cookie, remote_probe;
    uint64_t remote_pool[WIRE_KV_PARTS_MAX];
    size_t remote_block_bytes; /* of a part */
    size_t put_max;            /* bytes of one put record */
    uint32_t remote_probe_len, remote_blocks;
    enum kvt_wire_memory remote_memory;
    struct kvt_link link;
    size_t inflight; /* bytes handed to UCX and not yet over */
    struct kvt_probe *probe;
    struct kvt_shape from;    /* of the connector */
    struct wire_kv_walk walk; /* from the connector's parts to the acceptor's */
    /* incoming */
    uint64_t probe_bytes;
    uint64_t probe_asked;
    uint32_t quarantined; /* grants that wait for this connection to end */
};

struct kvt_node {
    struct kvt_node_config config;
    struct kvt_ucx *ucx;
    struct kvt_fence fence;
    uint8_t *part[WIRE_KV_PARTS_MAX]; /* of the pool; device addresses if there is a stage */
    struct kvt_stage *stage;          /* NULL: the pool is host memory */
    bool poll_stopped;                /* no room for messages: UCX has to wait */
    uint8_t *probe;                   /* KVT_PROBE_BYTES */
    uint64_t instance;
    struct kvt_shape shape;        /* our own */
    struct wire_kv_walk canonical; /* from our parts to the one of a whole block */
    struct map peers;              /* id + 1 -> struct kvt_peer */
    struct map cookies;            /* cookie -> incoming struct kvt_conn */
    struct map grants;             /* transfer -> struct kvt_grant */
    struct map sends;              /* transfer -> struct kvt_send */
    struct kvt_item conns;
    struct kvt_item active_sends[KVT_CLASSES]; /* with pieces to issue, in turn */
    uint32_t send_turn, loose_class;           /* whose turn it is between the classes */
    struct kvt_item active_grants;             /* with records to verify, in turn */
    struct kvt_item ended_sends, ended_grants; /* with callbacks to run */
    struct kvt_item events;                    /* link and peer callbacks to run */
    struct kvt_counters counters;
    char host[64];
    uint16_t port;
    char device[128];
    uint32_t greetings; /* connections that have not proved anything yet */
    uint32_t wanted;    /* peers that a connection is being tried to */
    uint8_t frame[KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX];
    union {
        struct kvt_wire_welcome welcome;
        struct kvt_wire_notify notify;
        struct kvt_wire_done done;
    } scratch;
    uv_tcp_t listener;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_poll_t poll;
    uv_timer_t sweep;
    uint32_t handles; /* open libuv handles of the node itself */
    void (*on_idle)(uv_idle_t *h);
    void (*on_readable)(uv_poll_t *h, int status, int events);
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* kvt_node.c */
void kvt_shape_init(struct kvt_shape *s, const struct wire_kv_layout *l);
/* Numeric IPv4 or IPv6 only: nothing here resolves names.  ERR_INVALID. */
MUST_USE enum err kvt_address_parse(const char *host, uint16_t port, struct sockaddr_storage *out);
struct kvt_peer *kvt_peer_find(const struct kvt_node *n, uint32_t id);
bool kvt_address_any(const struct sockaddr_storage *a);      /* a wildcard */
bool kvt_address_loopback(const struct sockaddr_storage *a); /* 127.0.0.0/8 or ::1 */
/* Queue config.on_link or config.on_peer_lost for this turn. */
void kvt_node_say_link(struct kvt_node *n, const struct kvt_link *link);
void kvt_node_say_lost(struct kvt_node *n, uint32_t peer, enum err err);
/* Make sure that a connection to p exists or is being tried; and that it need not be any more. */
void kvt_peer_want(struct kvt_node *n, struct kvt_peer *p);
void kvt_peer_connected(struct kvt_node *n, struct kvt_peer *p);
/* No connection to p will come: fail what waits for it. */
void kvt_peer_give_up(struct kvt_node *n, struct kvt_peer *p, enum err err);
/* Something with a deadline has been opened. */
void kvt_node_hurry(struct kvt_node *n);

/* kvt_conn.c */
MUST_USE enum err kvt_conn_connect(struct kvt_node *n, struct kvt_peer *p);
void kvt_conn_accept(struct kvt_node *n);
/* frame: made with kvt_wire_put_*, usually in node->frame.  A full socket fails the connection. */
void kvt_conn_write(struct kvt_conn *c, const uint8_t *frame, size_t len);
void kvt_conn_write_transfer(struct kvt_conn *c, enum kvt_wire_type type, uint64_t transfer,
                             uint32_t epoch, enum err err);
/* Let the next turn end the connection and everything on it.  proof: the peer has closed it or its
 * process has ended, so nothing that came through it can write any more.  The first error counts.
 * why: a string that stays. */
void kvt_conn_fail(struct kvt_conn *c, enum err err, bool proof, const char *why);
void kvt_conn_malformed(struct kvt_conn *c, const char *what);
/* One quarantined grant less. */
void kvt_conn_unquarantine(struct kvt_conn *c);
void kvt_conn_reap_all(struct kvt_node *n);
void kvt_conn_sweep(struct kvt_node *n, uint64_t now);

/* kvt_link.c */
void kvt_link_start(struct kvt_conn *c, const struct kvt_wire_welcome *w);
void kvt_link_answer(struct kvt_conn *c, uint16_t type, uint64_t value);
void kvt_link_free(struct kvt_conn *c);
/* What our pool is, as WELCOME says it: HOST, STAGED, or what UCX reaches. */
enum kvt_wire_memory kvt_link_our_memory(const struct kvt_node *n);
void kvt_link_probe_bytes(struct kvt_conn *c, const void *bytes, size_t len); /* acceptor */

/* kvt_send.c */
void kvt_send_connected(struct kvt_conn *c);
void kvt_send_accepted(struct kvt_conn *c, const struct kvt_wire_transfer *t);
void kvt_send_refused(struct kvt_conn *c, const struct kvt_wire_transfer *t);
void kvt_send_acked(struct kvt_conn *c, const struct kvt_wire_transfer *t);
void kvt_send_aborted(struct kvt_conn *c, const struct kvt_wire_transfer *t);
void kvt_send_fail_conn(struct kvt_conn *c, enum err err);
void kvt_send_fail_waiting(struct kvt_node *n, struct kvt_peer *p, enum err err);
void kvt_send_fail_peer(struct kvt_node *n, uint32_t peer);
void kvt_send_close_all(struct kvt_node *n);
/* Returns true if there is more to do at once. */
bool kvt_send_work(struct kvt_node *n, uint64_t until_ns);
bool kvt_send_callbacks(struct kvt_node *n);
void kvt_send_sweep(struct kvt_node *n, uint64_t now);

/* kvt_grant.c */
void kvt_grant_claimed(struct kvt_conn *c, const struct kvt_wire_transfer *t);
void kvt_grant_notified(struct kvt_conn *c, const struct kvt_wire_notify *m);
void kvt_grant_done(struct kvt_conn *c, const struct kvt_wire_done *d);
void kvt_grant_stopped(struct kvt_conn *c, const struct kvt_wire_transfer *t);
void kvt_grant_data(struct kvt_conn *c, const struct kvt_wire_data *d, const uint8_t *bytes,
                    size_t len);
/* The connection has failed; proof as in kvt_conn_fail. */
void kvt_grant_fail_conn(struct kvt_conn *c, enum err err, bool proof);
/* c goes away: quarantined grants forget it. */
void kvt_grant_detach(struct kvt_conn *c);
/* The process `instance` of a peer (0: any) has let go of all connections but `except`. */
void kvt_grant_release(struct kvt_node *n, uint32_t peer, uint64_t instance,
                       const struct kvt_conn *except);
void kvt_grant_fail_peer(struct kvt_node *n, uint32_t peer, enum err err);
void kvt_grant_close_all(struct kvt_node *n);
bool kvt_grant_work(struct kvt_node *n, uint64_t until_ns);
bool kvt_grant_callbacks(struct kvt_node *n);
void kvt_grant_sweep(struct kvt_node *n, uint64_t now);

/* True if the record lies inside n_slots blocks of the sender's shape. */
bool kvt_record_fits(const struct kvt_shape *from, const struct kvt_wire_record *r,
                     uint32_t n_slots);

#endif
