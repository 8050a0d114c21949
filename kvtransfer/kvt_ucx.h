/* kvtransfer/kvt_ucx.h - the one place that speaks to UCX: context, worker, pool memory, endpoints and
 * their operations, with UCX statuses translated to enum err.  Internal to kvtransfer.
 *
 *   kvt_ucx_open -> (kvt_ep_open -> put / flush / send -> kvt_ep_close -> closed) ... -> kvt_ucx_close
 *
 * An operation is an embedded struct kvt_op.  KVT_OP_DONE: it is over and `done` will not be called;
 * KVT_OP_PENDING: `done` is called once from kvt_ucx_progress; KVT_OP_FAILED: it was not started.
 * Closing an endpoint ends its pending operations with an error before `closed` runs.
 *
 * Thread: the owner's loop thread; callbacks run inside kvt_ucx_progress and kvt_ep_close only. */
#ifndef KVTRANSFER_KVT_UCX_H
#define KVTRANSFER_KVT_UCX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kvtransfer/kvt.h"

struct kvt_ucx;
struct kvt_ep;
struct kvt_fence;

enum kvt_op_state { KVT_OP_DONE = 0, KVT_OP_PENDING, KVT_OP_FAILED };

struct kvt_op {
    void (*done)(struct kvt_op *op, enum err err);
};

struct kvt_ucx_config {
    const char *transports;             /* UCX_TLS; NULL: chosen for this machine */
    const char *net_device;             /* UCX_NET_DEVICES; NULL: all */
    bool (*user_set)(const char *name); /* may be NULL */
    size_t memory_bytes;
    const struct kv_memory *device; /* NULL: none; its parts are registered if UCX can reach them */
    size_t part_bytes;              /* of each */
    struct kvt_fence *fence;        /* put around UCX's listening sockets; may be NULL */
    void *arg;
    /* How many data messages can be taken now; 0: UCX makes no progress until there is room.  NULL: any
     * number. */
    uint32_t (*room)(void *arg);
    /* A data message: the bytes are valid during the call only. */
    void (*on_data)(void *arg, const void *header, size_t header_len, const void *data, size_t len);
};

/* ERR_IO: UCX refused (its text in msg).  ERR_NOMEM: the memory could not be had. */
MUST_USE enum err kvt_ucx_open(const struct kvt_ucx_config *config, struct err_msg *msg,
                               struct kvt_ucx **out);
/* All endpoints must be closed. */
void kvt_ucx_close(struct kvt_ucx *u);

void *kvt_ucx_memory(const struct kvt_ucx *u);
int kvt_ucx_fd(const struct kvt_ucx *u); /* readable when kvt_ucx_progress has work, once armed */
/* What a peer needs to reach our memory; both live as long as u. */
void kvt_ucx_address(const struct kvt_ucx *u, const void **bytes, size_t *len);
void kvt_ucx_rkey(const struct kvt_ucx *u, const void **bytes, size_t *len);
/* Parts of the device that are registered: all or none; and the key of one. */
uint32_t kvt_ucx_parts(const struct kvt_ucx *u);
void kvt_ucx_part_rkey(const struct kvt_ucx *u, uint32_t part, const void **bytes, size_t *len);

/* Work until nothing is left or until_ns has passed.  Returns true if there may be more. */
bool kvt_ucx_progress(struct kvt_ucx *u, uint64_t until_ns);
/* Now and then: data messages that have not moved for limit_ns are given up. */
void kvt_ucx_sweep(struct kvt_ucx *u, uint64_t now, uint64_t limit_ns);
/* Returns true if the loop may sleep on the descriptor, false if there is work to do first. */
bool kvt_ucx_arm(struct kvt_ucx *u);

/* `failed` is called at most once, when UCX gives the endpoint up; close it later, from elsewhere. */
MUST_USE enum err kvt_ep_open(struct kvt_ucx *u, const void *address, const void *rkey,
                              size_t rkey_len, void (*failed)(void *arg, const char *why),
                              void *arg, struct kvt_ep **out);
/* The key of one more memory of the peer's: its part `part`.  ERR_IO: of no use on this endpoint. */
MUST_USE enum err kvt_ep_add_key(struct kvt_ep *ep, uint32_t part, const void *rkey);
/* Transports and path as UCX chose them; lanes has room for len bytes. */
enum kvt_path kvt_ep_path(const struct kvt_ep *ep, char *lanes, size_t len);
/* From our memory, or with from_part from our device's part from_part - 1; to the peer's memory, or with
 * to_part to its part to_part - 1. */
enum kvt_op_state kvt_ep_put(struct kvt_ep *ep, uint32_t from_part, const void *local, size_t len,
                             uint32_t to_part, uint64_t remote, struct kvt_op *op);
/* Done when every put before it has arrived in the peer's memory. */
enum kvt_op_state kvt_ep_flush(struct kvt_ep *ep, struct kvt_op *op);
/* data stays valid until the operation is done.  Up to 64 bytes of header and 1 MiB of data. */
enum kvt_op_state kvt_ep_send(struct kvt_ep *ep, const void *header, size_t header_len,
                              const void *data, size_t len, struct kvt_op *op);
/* Force the endpoint closed; it may not be used any more.  `closed` runs exactly once, possibly
 * inside this call. */
void kvt_ep_close(struct kvt_ep *ep, void (*closed)(void *arg), void *arg);

#endif
