/* proto/wire_kv.h - the KV block descriptor that engine and kvtransfer share, and the block digest.
 *
 * A block holds the keys and values of `block_tokens` consecutive positions of one sequence, for all
 * layers, as [layer][k|v][kv_head][token][head_dim] elements of `dtype`, row-major, without padding.
 * So the bytes of layers [first, first + n) of one block are one contiguous run, and so is one head's
 * share of one layer's K or V.  A block is named by its index (its slot) in the pool of its owner.
 *
 * A pool is `parts` memories, one for each rank of a tensor-parallel worker.  Part p holds the kv heads
 * [p * n_kv_heads / parts, (p + 1) * n_kv_heads / parts) of every block, as [layer][k|v][its heads][token]
 * [head_dim], blocks back to back.  With one part that is the block as described above; offsets into that
 * one are called canonical, and what two sides say to each other (digests, ranges) is in terms of it, so
 * they may differ in parts.
 *
 * Pure code.  Thread: any. */
#ifndef PROTO_WIRE_KV_H
#define PROTO_WIRE_KV_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WIRE_KV_PARTS_MAX = 64 };

enum wire_kv_dtype { WIRE_KV_F32 = 1, WIRE_KV_F16 = 2, WIRE_KV_BF16 = 3, WIRE_KV_U64 = 4 };

struct wire_kv_layout {
    uint32_t n_layers;     /* 1 .. 1024 */
    uint32_t n_kv_heads;   /* 1 .. 1024 */
    uint32_t head_dim;     /* 1 .. 1024 */
    uint32_t block_tokens; /* 1 .. 1024 */
    uint32_t dtype;        /* enum wire_kv_dtype; U64 is the sim backend's tag per position */
    uint64_t model_id;     /* hash of what must be equal on both sides: architecture and weights */
    /* 1 .. WIRE_KV_PARTS_MAX, divides n_kv_heads; more than 1: K of a head is a multiple of 4 bytes, the
     * digest's words. */
    uint32_t parts;
};

/* ERR_INVALID: a field out of range.  A layout that came from a peer is checked before any use. */
MUST_USE enum err wire_kv_layout_check(const struct wire_kv_layout *l, struct err_msg *msg);
/* ERR_OK if blocks of a have the content of blocks of b, however many parts each is held in; else
 * ERR_INVALID with the first difference named. */
MUST_USE enum err wire_kv_layout_same(const struct wire_kv_layout *a,
                                      const struct wire_kv_layout *b, struct err_msg *msg);

/* Of a checked layout; none overflows. */
size_t wire_kv_elem_bytes(const struct wire_kv_layout *l);
size_t wire_kv_layer_bytes(const struct wire_kv_layout *l); /* K and V of one layer of one block */
size_t wire_kv_block_bytes(const struct wire_kv_layout *l);
size_t wire_kv_part_block_bytes(const struct wire_kv_layout *l); /* of one block in one part */
/* Layers per piece so that a piece of one block has at least target_bytes, 1 .. n_layers. */
uint32_t wire_kv_group_layers(const struct wire_kv_layout *l, size_t target_bytes);

/* The digest of len bytes (a multiple of 4) that stand `offset` bytes into their block, for the
 * transfer `salt`.  Digests of the disjoint pieces of a block add up (mod 2^64) to the digest of the
 * block, in any order, so a sender folds it layer by layer and a device computes it in parallel.  It
 * finds lost, stale and foreign data; it is no defence against someone who wants to collide it.
 * d = sum over 32-bit words w at word index i of f(w, i, salt), given in the .c file. */
uint64_t wire_kv_digest(const void *bytes, size_t len, size_t offset, uint64_t salt);

#endif
