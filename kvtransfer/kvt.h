/* kvtransfer/kvt.h - moves the KV blocks of one request from a prefill worker's pool into blocks that
 * a decode worker granted, through UCX, and says when bytes are verified and when blocks are safe.
 *
 * One kvt_node per worker process owns the pool memory, the UCX worker, a listener, and a connection per
 * introduced peer and direction.  A node can send and receive.
 *
 *   receiver: kvt_grant_open -> (data, notifies) -> verified | failed -> safe (blocks may be reused)
 *   sender:   kvt_send_open -> kvt_send_piece ... -> kvt_send_finish -> done (acknowledged | failed)
 *
 * Paths.  Where the endpoint has a one-sided lane (shared memory, RDMA) pieces are puts into the granted
 * slots, then a flush, then a notify.  Where it has not (TCP) pieces are messages that the
 * receiver places after checking (transfer, epoch, slot, bounds).  Either way a block counts only once
 * the sender has named transfer, epoch, block and digest and the receiver has recomputed the digest over
 * its own memory.  A pool in device memory, of either side, is reached through messages and pinned host
 * buffers, or by puts where UCX knows its memory and the lane is RDMA; the device computes the digests.
 *
 * Safety.  Peer error mode always.  A sender writes only after the receiver accepted its claim, so an
 * unclaimed grant is safe as soon as it ends.  On the message path nobody but the receiver writes to its
 * slots: safe at once too.  On the one-sided path slots of a failed or canceled grant are quarantined
 * until the sender confirmed that nothing is outstanding, or its connection ended (it closes its
 * endpoint first; a dead process cannot write), or the same process reconnected, or
 * kvt_node_forget(process_gone).  A connection that only timed out proves nothing.
 *
 * Thread     everything, callbacks too, runs on the loop thread given at creation.
 * Ownership  arrays passed in are copied, pool memory belongs to the node, callbacks' `arg` to the caller.
 * Blocking   nothing blocks; kvt_node_create takes milliseconds (pool allocation).
 * Units      bytes, nanoseconds of clock_now_ns(), slots (block indices). */
#ifndef KVTRANSFER_KVT_H
#define KVTRANSFER_KVT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/kv_memory.h"
#include "proto/wire_kv.h"

struct uv_loop_s;
struct kvt_node;
struct kvt_grant;
struct kvt_send;

enum {
    KVT_TOKEN_BYTES = 16, /* the secret that introduces two peers to each other */
    KVT_META_MAX = 256,   /* bytes that travel with the last notify */
    KVT_CLASSES = 8,      /* transfer classes, 0 goes first */
    KVT_PIECE_TARGET = 256 * 1024
};

/* The staged ones: one side at least has its pool in device memory, and the bytes go through pinned host
 * buffers.  The numbers are on the wire and in the metrics: append only. */
enum kvt_path {
    KVT_PATH_NONE = 0,
    KVT_PATH_SHM,
    KVT_PATH_TCP,
    KVT_PATH_RDMA,
    KVT_PATH_SELF,
    KVT_PATH_STAGED_SHM,
    KVT_PATH_STAGED_TCP,
    KVT_PATH_STAGED_RDMA,
    KVT_PATH_CUDA, /* puts from or to CUDA memory by UCX itself */
    KVT_PATHS
};
/* "none", "shm", "tcp", "rdma", "self", "staged-shm", "staged-tcp", "staged-rdma", "cuda" */
const char *kvt_path_name(enum kvt_path p);

/* What is known of the link to a peer, measured by the probe at connect. */
struct kvt_link {
    uint32_t peer;
    enum kvt_path path;
    bool one_sided;     /* puts, else receiver-placed messages */
    char lanes[160];    /* transports as UCX names them, for the log */
    double bytes_per_s; /* probe: 0 until measured */
    uint64_t round_trip_ns;
};

struct kvt_counters {
    uint64_t bytes_sent[KVT_PATHS], bytes_received[KVT_PATHS];
    uint64_t sends_open, grants_open, slots_quarantined,
        endpoints; /* live objects: 0 at rest, save endpoints */
    uint64_t sends_done, sends_failed, grants_verified, grants_failed;
    uint64_t late_messages; /* for unknown transfers or old epochs: counted and dropped */
    uint64_t bad_messages;  /* malformed or out of bounds: the peer is dropped */
    uint64_t refused;       /* connections that were not introduced or had another token */
    uint64_t
        buffers_quarantined; /* live: staging buffers that a device does not give back in time */
};

struct kvt_node_config {
    struct uv_loop_s *loop;
    const char *host; /* numeric address to listen on; a wildcard only if the operator said so */
    uint16_t port;    /* 0 = any */
    /* UCX_TLS list.  NULL: on loopback shared memory alone, which needs no TCP port of UCX; elsewhere
     * "posix,sysv,tcp", and rc, dc, ud where there is RDMA.  "tcp" forces TCP. */
    const char *transports;
    const char *net_device; /* UCX_NET_DEVICES, NULL = derived from host */
    /* Has the operator set this environment variable ("UCX_...")?  Then it stays.  NULL = none set. */
    bool (*user_set)(const char *name);
    struct wire_kv_layout layout;
    uint32_t n_blocks;
    /* 0 = 10 s: how long a sender waits for the peer, or a receiver after all was announced, without
     * any progress before the transfer fails. */
    uint64_t transfer_timeout_ns;
    uint64_t connect_timeout_ns; /* 0 = 5 s: for all attempts to connect together */
    /* Where the pool is.  NULL: in host memory, which the node allocates.  Else in device memory, which outlives
     * the node; blocks then go through staging_bytes of pinned host memory (0 = 64 MiB), half of it for each
     * direction.  A copy that takes longer than transfer_timeout_ns fails its transfer with ERR_DEVICE. */
    const struct kv_memory *memory;
    size_t staging_bytes;
    void *arg;
    /* All optional.  on_link: connected and probed, either direction.  on_peer_lost: a connection has
     * ended and its transfers have been failed, or none could be made in time (ERR_PEER_LOST), or the
     * peer has another KV layout (ERR_INVALID); the next send tries again. */
    void (*on_link)(void *arg, const struct kvt_link *link);
    void (*on_peer_lost)(void *arg, uint32_t peer, enum err err);
};

/* ERR_INVALID (address, layout, memory that does not fit it), ERR_NOMEM (pool size named), ERR_IO (UCX said no: its
 * text in msg), ERR_DEVICE (staging memory cannot be pinned). */
MUST_USE enum err kvt_node_create(const struct kvt_node_config *config, struct err_msg *msg,
                                  struct kvt_node **out);
/* Part `part` (below layout.parts) of the pool: n_blocks * wire_kv_part_block_bytes(layout) bytes, 64-byte
 * aligned, not cleared.  Of a pool in device memory: the device's address of it. */
void *kvt_node_pool(struct kvt_node *n, uint32_t part);
uint16_t kvt_node_port(const struct kvt_node *n);
const struct kvt_counters *kvt_node_counters(const struct kvt_node *n);
/* Fail what runs, close all endpoints, free; `closed` (may be NULL) runs in a later loop turn, once the device is
 * done with all copies: if it never is, that turn does not come, and only the end of the process helps. */
void kvt_node_close(struct kvt_node *n, void (*closed)(void *arg), void *arg);

/* The scheduler introduced a peer: accept (receiver side) or be able to reach (sender side) it, both
 * proving `token`.  Connecting is lazy: the first kvt_send_open, or kvt_node_connect.  Introducing a
 * known peer again replaces its address and token after closing the old endpoint.
 * self: this node's own id at the peer.  host (numeric) and port are NULL and 0 where only the peer
 * connects.  ERR_INVALID: host or port; nothing changed.  ERR_NOMEM: the peer is forgotten. */
MUST_USE enum err kvt_node_introduce(struct kvt_node *n, uint32_t self, uint32_t peer,
                                     const uint8_t token[KVT_TOKEN_BYTES], const char *host,
                                     uint16_t port);
/* Connect now and probe, so that the link is known before the first request: on_link or on_peer_lost
 * follows.  ERR_NOT_FOUND: not introduced.  ERR_INVALID: introduced without an address. */
MUST_USE enum err kvt_node_connect(struct kvt_node *n, uint32_t peer);
/* The peer is no more.  Fails its transfers, closes its connections.  process_gone: its process is known
 * to have ended, so nothing of it can write to our memory; may be said later for a forgotten peer. */
void kvt_node_forget(struct kvt_node *n, uint32_t peer, bool process_gone);

/* ---- receiver ---- */

struct kvt_arrival {
    /* ERR_OK: every block verified; else ERR_TIMEOUT, ERR_CORRUPT, ERR_PEER_LOST, ERR_CANCELED, ERR_DEVICE, or
     * what the sender failed with. */
    enum err err;
    uint8_t meta[KVT_META_MAX]; /* what the sender passed to kvt_send_finish */
    size_t meta_len;
    uint64_t bytes;
    /* Time spent recomputing digests; device memory: with a copy into it, digest included, under way. */
    uint64_t verify_ns;
    uint64_t first_ns, last_ns; /* when the first and last piece or notify arrived */
    enum kvt_path path;
};

struct kvt_grant_config {
    uint64_t transfer; /* non-zero, unique per node while in use */
    uint32_t epoch;
    uint32_t peer;
    const uint32_t *slots; /* granted, in order of the sequence */
    uint32_t n_slots;
    uint64_t deadline_ns; /* absolute */
    void *arg;
    /* Exactly once, later. */
    void (*on_arrival)(void *arg, const struct kvt_arrival *a);
    /* Exactly once, after on_arrival: nothing can write to the slots any more, no peer and no copy (on ERR_OK
     * it follows at once).  The grant is gone when this returns. */
    void (*on_safe)(void *arg);
};

/* ERR_NOT_FOUND: the peer was not introduced.  ERR_INVALID: slots outside the pool, n_slots or transfer 0.
 * ERR_BAD_STATE: the transfer is in use here, or the node closes.  ERR_NOMEM. */
MUST_USE enum err kvt_grant_open(struct kvt_node *n, const struct kvt_grant_config *config,
                                 struct kvt_grant **out);
/* End early; on_arrival (ERR_CANCELED, unless it ran already) and on_safe still come. */
void kvt_grant_cancel(struct kvt_grant *g);

/* ---- sender ---- */

struct kvt_send_result {
    enum err err; /* ERR_OK: the receiver verified every block */
    uint64_t bytes;
    uint64_t wire_ns;    /* time with at least one piece in flight */
    uint64_t exposed_ns; /* from kvt_send_finish to the acknowledgement */
    enum kvt_path path;
};

struct kvt_send_config {
    uint64_t transfer;
    uint32_t epoch;
    uint32_t peer;
    const uint32_t *remote_slots; /* granted by the peer, in order of the sequence */
    const uint32_t *local_slots;  /* our blocks that hold the data, same order */
    uint32_t n_slots;
    uint64_t deadline_ns; /* absolute */
    /* Pieces of a lower class leave first, whatever peer they go to; one record in eight belongs to the
     * classes behind it, so those never stand still.  KVT_CLASSES and more count as the last class. */
    uint32_t transfer_class;
    void *arg;
    /* Exactly once, later.  Our blocks may be reused when it runs; after a failure a copy out of device memory
     * may still read them, and what it reads is dropped. */
    void (*on_done)(void *arg, const struct kvt_send_result *r);
};

/* ERR_NOT_FOUND: the peer was not introduced.  ERR_INVALID: slots outside the pool, n_slots or transfer 0,
 * no address of the peer.  ERR_BAD_STATE: the transfer is in use here, or the node closes.  ERR_NOMEM. */
MUST_USE enum err kvt_send_open(struct kvt_node *n, const struct kvt_send_config *config,
                                struct kvt_send **out);
/* Layers [first_layer, first_layer + n_layers) of blocks [first, first + n) (indices into the slot
 * arrays) are final: queue them.  Each (layer, block) once.  A failed send ignores it.
 * ready: 0, or the ticket of the engine's that stands for the moment at which they are final in device
 * memory (proto/kv_memory.h); of no meaning for host memory. */
void kvt_send_piece(struct kvt_send *s, uint32_t first, uint32_t n, uint32_t first_layer,
                    uint32_t n_layers, uint64_t ready);
/* All pieces were passed; meta (up to KVT_META_MAX bytes) travels with the last notify. */
void kvt_send_finish(struct kvt_send *s, const void *meta, size_t meta_len);
/* End early; on_done (ERR_CANCELED, unless another error came first) still comes. */
void kvt_send_cancel(struct kvt_send *s);

#endif
