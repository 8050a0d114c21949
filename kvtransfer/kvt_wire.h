/* kvtransfer/kvt_wire.h - the bytes that two kvt nodes exchange: control frames on a TCP stream of
 * their own, and the header of a data message inside UCX.
 *
 *   frame: body_len u32 (0 .. KVT_WIRE_BODY_MAX), type u16, zero u16, body      all little-endian
 *
 *   connector                          acceptor
 *                      <-  CHALLENGE   nonce
 *   HELLO              ->              who is calling, layout, nonce, proof of the token
 *                      <-  WELCOME     pool address and key, UCX address, proof of the token
 *   PING, PROBE        <-> PONG, PROBE_DONE
 *   LINK               ->              what the probe measured
 *   CLAIM              ->              (transfer, epoch, slot list digest) of a send
 *                      <-  ACCEPT | REFUSE
 *   NOTIFY ...         ->              records that were put and flushed (one-sided path)
 *   DONE               ->              how many records there are; meta
 *                      <-  ACK         every block verified, or why not
 *                      <-  ABORT       stop: the grant has ended
 *   STOPPED            ->              nothing of this transfer will be written any more
 *
 * A record says that a run of bytes is final in n consecutive blocks of the transfer: blocks [first,
 * first + n) as indices into the claimed slot list, bytes [grain, grain + n_grains) of the sender's part
 * `part` of each (proto/wire_kv.h) in units of the sender's grain, and the sum of their digests, which are
 * over canonical offsets.  HELLO and WELCOME say how many parts each side has; where the bytes stand in its own
 * parts is for the receiver to work out (messages), or for the sender (puts), by proto/wire_kv_plan.h.
 *
 * Before a proof has been checked nothing longer than KVT_WIRE_GREETING_MAX is read, and UCX has seen
 * no byte of the peer.  A version below or above KVT_WIRE_VERSION is refused; unknown frame types are
 * malformed.
 *
 * Pure code: decoders take input cut anywhere, never allocate; after an error
 * what *out holds means nothing.
 * Thread: any. */
#ifndef KVTRANSFER_KVT_WIRE_H
#define KVTRANSFER_KVT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/wire_kv.h"

enum {
    KVT_WIRE_MAGIC = 0x31564b42, /* "BKV1" */
    KVT_WIRE_VERSION = 3,        /* 3: parts, device memory */
    KVT_WIRE_HEADER = 8,
    KVT_WIRE_BODY_MAX = 16 * 1024,
    KVT_WIRE_GREETING_MAX = 256,
    KVT_WIRE_NONCE = 32,
    KVT_WIRE_PROOF = 32,
    KVT_WIRE_RKEY_MAX = 2048, /* and of all parts together */
    KVT_WIRE_ADDRESS_MAX = 8192,
    KVT_WIRE_LANES_MAX = 160,
    KVT_WIRE_META_MAX = 256,
    KVT_WIRE_PATHS = 9,        /* KVT_PATHS */
    KVT_WIRE_RECORDS_MAX = 64, /* per NOTIFY */
    KVT_WIRE_NOTIFY_BLOCKS = 512,
    KVT_WIRE_DATA_HEADER = 44
};

enum kvt_wire_type {
    KVT_WIRE_CHALLENGE = 1,
    KVT_WIRE_HELLO = 2,
    KVT_WIRE_WELCOME = 3,
    KVT_WIRE_PING = 4,
    KVT_WIRE_PONG = 5,
    KVT_WIRE_PROBE = 6,
    KVT_WIRE_PROBE_DONE = 7,
    KVT_WIRE_LINK = 8,
    KVT_WIRE_CLAIM = 9,
    KVT_WIRE_ACCEPT = 10,
    KVT_WIRE_REFUSE = 11,
    KVT_WIRE_NOTIFY = 12,
    KVT_WIRE_DONE = 13,
    KVT_WIRE_ACK = 14,
    KVT_WIRE_ABORT = 15,
    KVT_WIRE_STOPPED = 16
};

struct kvt_wire_hello {
    uint32_t self;     /* the connector */
    uint32_t peer;     /* whom it wants to reach */
    uint64_t instance; /* random per node: tells a reconnect from a restarted process */
    struct wire_kv_layout layout;
    uint8_t nonce[KVT_WIRE_NONCE];
    uint8_t proof[KVT_WIRE_PROOF];
};

/* Where a pool is, and who can reach it. */
enum kvt_wire_memory {
    KVT_WIRE_HOST = 0,
    KVT_WIRE_STAGED,   /* device memory: messages only, and pool[] says nothing */
    KVT_WIRE_CUDA,     /* device memory, each part with a key of its own; messages too */
    KVT_WIRE_COHERENT, /* the same, as host memory */
    KVT_WIRE_MEMORIES
};

struct kvt_wire_welcome {
    uint64_t instance;
    uint64_t cookie; /* goes into every data message of this connection */
    uint64_t probe;  /* address of the probe area */
    uint32_t probe_len;
    uint32_t n_blocks;
    enum kvt_wire_memory memory;
    struct wire_kv_layout layout;
    uint64_t pool[WIRE_KV_PARTS_MAX]; /* address of block 0 of each part at its owner */
    uint16_t rkey_len, address_len;
    uint8_t rkey[KVT_WIRE_RKEY_MAX];
    uint16_t part_rkey_len[WIRE_KV_PARTS_MAX]; /* CUDA, COHERENT */
    uint8_t part_rkeys[KVT_WIRE_RKEY_MAX];     /* one after the other */
    uint8_t address[KVT_WIRE_ADDRESS_MAX];
    uint8_t proof[KVT_WIRE_PROOF];
};

struct kvt_wire_link {
    uint8_t path; /* enum kvt_path */
    bool one_sided;
    uint64_t bytes_per_s;
    uint64_t round_trip_ns;
    char lanes[KVT_WIRE_LANES_MAX]; /* printable ASCII, NUL-terminated */
};

/* CLAIM, ACCEPT, REFUSE, ACK, ABORT, STOPPED share one body. */
struct kvt_wire_transfer {
    uint64_t transfer;
    uint32_t epoch;
    uint32_t n_slots;      /* CLAIM */
    uint64_t slots_digest; /* CLAIM */
    bool one_sided;        /* CLAIM */
    enum err err;          /* REFUSE, ACK, ABORT, STOPPED */
};

struct kvt_wire_record {
    uint32_t first;
    uint16_t n, part;
    uint32_t grain, n_grains;
    uint64_t digest;
};

struct kvt_wire_notify {
    uint64_t transfer;
    uint32_t epoch;
    uint32_t n_records; /* 1 .. KVT_WIRE_RECORDS_MAX */
    struct kvt_wire_record record[KVT_WIRE_RECORDS_MAX];
};

struct kvt_wire_done {
    uint64_t transfer;
    uint32_t epoch;
    uint32_t n_records; /* of the whole transfer */
    uint16_t meta_len;
    uint8_t meta[KVT_WIRE_META_MAX];
};

struct kvt_wire_data {
    uint64_t cookie;
    uint64_t transfer; /* 0: probe bytes */
    uint32_t epoch;
    struct kvt_wire_record record;
};

/* ERR_BAD_FRAME: a length or type that no frame has, or a nonzero reserved field. */
MUST_USE enum err kvt_wire_get_header(const uint8_t bytes[KVT_WIRE_HEADER], uint16_t *type,
                                      uint32_t *body_len);

/* Each writes a whole frame to dst, which has room for KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX bytes, and
 * returns its length.  Lengths inside the structs must be within their limits. */
size_t kvt_wire_put_challenge(uint8_t *dst, const uint8_t nonce[KVT_WIRE_NONCE]);
size_t kvt_wire_put_hello(uint8_t *dst, const struct kvt_wire_hello *h);
size_t kvt_wire_put_welcome(uint8_t *dst, const struct kvt_wire_welcome *w);
size_t kvt_wire_put_u64(uint8_t *dst, enum kvt_wire_type type,
                        uint64_t value); /* PING .. PROBE_DONE */
size_t kvt_wire_put_link(uint8_t *dst, const struct kvt_wire_link *l);
size_t kvt_wire_put_transfer(uint8_t *dst, enum kvt_wire_type type,
                             const struct kvt_wire_transfer *t);
size_t kvt_wire_put_notify(uint8_t *dst, const struct kvt_wire_notify *n);
size_t kvt_wire_put_done(uint8_t *dst, const struct kvt_wire_done *d);
void kvt_wire_put_data(uint8_t dst[KVT_WIRE_DATA_HEADER], const struct kvt_wire_data *d);

/* Each reads a whole body.  ERR_BAD_FRAME: wrong length, magic, version, range or reserved bytes. */
MUST_USE enum err kvt_wire_get_challenge(const uint8_t *body, size_t len,
                                         uint8_t nonce[KVT_WIRE_NONCE]);
MUST_USE enum err kvt_wire_get_hello(const uint8_t *body, size_t len, struct kvt_wire_hello *out);
MUST_USE enum err kvt_wire_get_welcome(const uint8_t *body, size_t len,
                                       struct kvt_wire_welcome *out);
MUST_USE enum err kvt_wire_get_u64(const uint8_t *body, size_t len, uint64_t *out);
MUST_USE enum err kvt_wire_get_link(const uint8_t *body, size_t len, struct kvt_wire_link *out);
MUST_USE enum err kvt_wire_get_transfer(const uint8_t *body, size_t len,
                                        struct kvt_wire_transfer *out);
MUST_USE enum err kvt_wire_get_notify(const uint8_t *body, size_t len, struct kvt_wire_notify *out);
MUST_USE enum err kvt_wire_get_done(const uint8_t *body, size_t len, struct kvt_wire_done *out);
MUST_USE enum err kvt_wire_get_data(const uint8_t *bytes, size_t len, struct kvt_wire_data *out);

/* proof = HMAC-SHA256(token, side || challenge nonce || frame up to its proof).  frame_len counts the
 * proof, which is the frame's last KVT_WIRE_PROOF bytes.  sign writes them, check compares in constant
 * time (ERR_AUTH).  side: 'C' for HELLO, 'S' for WELCOME, whose challenge is the nonce of HELLO. */
MUST_USE enum err kvt_wire_sign(uint8_t *frame, size_t frame_len, char side, const uint8_t *token,
                                size_t token_len, const uint8_t challenge[KVT_WIRE_NONCE]);
MUST_USE enum err kvt_wire_check(const uint8_t *frame, size_t frame_len, char side,
                                 const uint8_t *token, size_t token_len,
                                 const uint8_t challenge[KVT_WIRE_NONCE]);

/* The digest salt of block `index` of a transfer: two blocks with equal bytes that changed places, or
 * bytes of another transfer or epoch, give another digest. */
uint64_t kvt_wire_salt(uint64_t transfer, uint32_t epoch, uint32_t index);
/* The digest of a slot list, for CLAIM. */
uint64_t kvt_wire_slots_digest(const uint32_t *slots, uint32_t n, uint64_t transfer,
                               uint32_t epoch);
/* Bytes per grain: the largest power of two up to 4096 that divides the bytes of a layer in a part. */
uint32_t kvt_wire_grain(const struct wire_kv_layout *l);

#endif
