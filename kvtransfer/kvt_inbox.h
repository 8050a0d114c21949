/* kvtransfer/kvt_inbox.h - data messages as they arrive through UCX: eager tagged messages, read where they
 * lie.
 *
 * A message is a prefix (length of the header u32, length of the data u32, little-endian), the header and
 * the data.  The inbox keeps receives posted for every tag, so nothing that a peer sends piles up.
 *
 * Thread: that of the worker; on_data runs inside ucp_worker_progress and kvt_inbox_post.  Internal to
 * kvtransfer. */
#ifndef KVTRANSFER_KVT_INBOX_H
#define KVTRANSFER_KVT_INBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ucp/api/ucp_def.h>

#include "base/err.h"

struct kvt_inbox;

enum {
    KVT_INBOX_TAG = 1,
    KVT_INBOX_PREFIX = 8,
    KVT_INBOX_HEADER_MAX = 64,
    KVT_INBOX_DATA_MAX = 1024 * 1024
};

/* on_data: header and data are valid during the call only; a malformed message comes as one without any.
 * ERR_NOMEM.  ERR_IO: UCX refused (its text in msg). */
MUST_USE enum err kvt_inbox_open(ucp_worker_h worker,
                                 void (*on_data)(void *arg, const void *header, size_t header_len,
                                                 const void *data, size_t len),
                                 void *arg, struct err_msg *msg, struct kvt_inbox **out);
/* After every ucp_worker_progress.  Returns true if a message was waiting: there may be more.  room: so many
 * messages can be taken (UINT32_MAX: any number); no more receives are posted, and UCX keeps what else
 * arrives. */
bool kvt_inbox_post(struct kvt_inbox *in, uint32_t room);
/* Now and then.  A message in fragments whose sender died is never finished: one that has not moved for limit_ns gives
 * its receive back, and what comes of it later is dropped. */
void kvt_inbox_sweep(struct kvt_inbox *in, uint64_t now, uint64_t limit_ns);
/* Before ucp_worker_destroy: on_data is not called any more.  After it: free. */
void kvt_inbox_stop(struct kvt_inbox *in);
void kvt_inbox_free(struct kvt_inbox *in);

/* Writes prefix and header (up to KVT_INBOX_HEADER_MAX bytes) of a message to dst; returns their length. */
size_t kvt_inbox_head(uint8_t *dst, const void *header, size_t header_len, size_t data_len);

#endif
