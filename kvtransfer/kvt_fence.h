/* kvtransfer/kvt_fence.h - keeps strangers away from UCX's own TCP port.
 *
 * UCX 1.13 listens on a port of its own for its TCP transport, and believes whoever connects: eight
 * known bytes, then a put to any address of the process, or a malformed length that aborts it.  So the
 * listening sockets that UCX opened get a kernel packet filter that only passes addresses of peers that
 * have proved their token over the control connection; to everyone else the port does not answer.
 *
 *   kvt_fence_before -> (UCX opens its worker) -> kvt_fence_close_all -> allow / disallow ... -> fini
 *
 * It is a fence by address: someone on a host of an introduced peer, or who can speak for its address,
 * passes.  Thread: the owner's. */
#ifndef KVTRANSFER_KVT_FENCE_H
#define KVTRANSFER_KVT_FENCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct sockaddr_storage;
struct kvt_fence_entry;

enum { KVT_FENCE_SOCKETS = 32, KVT_FENCE_PEERS = 512 };

struct kvt_fence {
    int before[256]; /* listening sockets that were there before */
    size_t n_before;
    int fd[KVT_FENCE_SOCKETS]; /* UCX's */
    size_t n_fds;
    struct kvt_fence_entry *entries; /* allowed addresses with a count of users */
    size_t n_entries;
};

/* Remember the listening sockets of this process. */
void kvt_fence_before(struct kvt_fence *f);
/* Find those that have come since and let nobody through.  ERR_IO: a filter was refused. */
MUST_USE enum err kvt_fence_close_all(struct kvt_fence *f, struct err_msg *msg);
/* Addresses count: each allow needs its disallow.  ERR_LIMIT: KVT_FENCE_PEERS addresses.  ERR_NOMEM.
 * ERR_IO. */
MUST_USE enum err kvt_fence_allow(struct kvt_fence *f, const struct sockaddr_storage *addr);
void kvt_fence_disallow(struct kvt_fence *f, const struct sockaddr_storage *addr);
void kvt_fence_fini(struct kvt_fence *f);

#endif
