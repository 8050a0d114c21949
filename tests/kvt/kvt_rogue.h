/* tests/kvt/kvt_rogue.h - a connector that speaks the kvt protocol byte by byte, so that a test can make
 * it lie.  It shares the loop of a struct pair: waiting for an answer runs that loop. */
#ifndef TESTS_KVT_ROGUE_H
#define TESTS_KVT_ROGUE_H

#include "kvtransfer/kvt_ucx.h"
#include "kvtransfer/kvt_wire.h"
#include "tests/kvt/kvt_pair.h"

struct rogue {
    struct pair *pair;
    int fd;
    struct kvt_ucx *ucx;
    struct kvt_ep *ep;
    uint8_t ours[KVT_WIRE_NONCE], theirs[KVT_WIRE_NONCE];
    struct kvt_wire_welcome welcome;
    uint8_t rx[65536];
    size_t rx_len;
    uint8_t frame[KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX];
    int pending;
    uint32_t parts; /* that it says its pool has; 0: as the pair */
};

/* Connect to node 1 of the pair; nothing is said yet.  Clears *r. */
void rogue_connect(struct rogue *r, struct pair *p);
void rogue_write(struct rogue *r, const void *bytes, size_t len);
/* Wait for the next frame; its type, 0 after the end of the stream, -1 after ms without one.  The body
 * is at r->rx + KVT_WIRE_HEADER until rogue_drop. */
int rogue_read(struct rogue *r, unsigned ms, size_t *body_len);
void rogue_drop(struct rogue *r);
/* Greet with these ids and token; true if WELCOME came and its proof is right. */
bool rogue_greet(struct rogue *r, uint32_t self, uint32_t peer, const uint8_t *token);
/* Open a UCX endpoint over `transports` and report the link. */
void rogue_link(struct rogue *r, const char *transports);
/* Claim; returns the type of the answer. */
int rogue_claim(struct rogue *r, uint64_t transfer, uint32_t epoch, const uint32_t *slots,
                uint32_t n, bool one_sided);
void rogue_put(struct rogue *r, uint32_t slot, const uint8_t *block);
void rogue_notify(struct rogue *r, uint64_t transfer, uint32_t epoch,
                  const struct kvt_wire_record *records, uint32_t n);
void rogue_data(struct rogue *r, uint64_t transfer, uint32_t epoch,
                const struct kvt_wire_record *record, const uint8_t *bytes, size_t len);
/* Over shared memory: messages of 1 MiB for no transfer, until one does not fit; its end is not sent. */
void rogue_half(struct rogue *r);
void rogue_done(struct rogue *r, uint64_t transfer, uint32_t epoch, uint32_t n_records);
void rogue_stopped(struct rogue *r, uint64_t transfer, uint32_t epoch);
/* A whole block as one record, with its digest. */
struct kvt_wire_record rogue_record(const struct pair *p, uint64_t transfer, uint32_t epoch,
                                    uint32_t index, const uint8_t *block);
/* Close endpoint and socket. */
void rogue_close(struct rogue *r);

#endif
