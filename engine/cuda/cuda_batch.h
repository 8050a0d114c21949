/* engine/cuda/cuda_batch.h - the rows of a step, and its metadata as one piece of memory for the device.
 *
 * Slots with one new token come first: their rows are decode rows.  Those of longer chunks follow, each
 * slot's together.  A step of decode rows alone that all sample is filled up to a bucket, so that few
 * shapes occur and each can be a graph; what fills it has slot -1.
 *
 * The block table has as many columns as the context class of the step: powers of four blocks from
 * CUDA_BLOCKS_MIN on, for the same reason.
 *
 * In the last layer only the sampled rows go on; `compact` says that they are fewer than all.
 *
 * Pure code.  Thread: the stepping one.  Ownership: the metadata is the caller's memory. */
#ifndef ENGINE_CUDA_CUDA_BATCH_H
#define ENGINE_CUDA_CUDA_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "engine/kernels/attention_prefill.h"
#include "engine/kernels/sample.h"

enum {
    CUDA_BLOCKS_MIN = 128,
    CUDA_META_ALIGN = 256,
    CUDA_EDITS_MAX = 65536 /* of logits, in a step: rows with more are sampled by the host */
};

struct cuda_limits {
    uint32_t max_rows, max_slots; /* of a step, buckets' filling included */
    uint32_t max_blocks;          /* of a sequence */
    uint32_t block_tokens, vocab;
    uint32_t n_heads, n_kv_heads; /* of one rank: they say how many rows a tile has */
};

struct cuda_span {
    uint32_t slot; /* in the caller's array */
    uint32_t row, n_rows;
    uint32_t position; /* of the first */
};

/* Where each array stands in the metadata, in bytes. */
struct cuda_meta {
    size_t token, position, slot, blocks, tiles;
    size_t last_row, last_position, last_slot; /* of the sampled rows */
    size_t sample;                             /* struct sample_row of each */
    size_t edits; /* their edits: as many as the step has, at the end */
    size_t bytes; /* without the edits */
};

struct cuda_batch {
    struct cuda_span *spans; /* [max_slots] */
    uint32_t n_spans;
    struct attention_chunk *chunks; /* [max_slots] */
    struct attention_chunk *tiles;  /* [tiles_max] */
    uint32_t tiles_max;
    uint32_t n_single; /* decode rows, filling included: rows 0 .. n_single - 1 */
    uint32_t n_rows, n_slots, n_tiles, max_blocks;
    uint32_t n_sampled; /* rows of logits, filling included */
    uint32_t *sampled;  /* [max_slots]: the span of each, UINT32_MAX for filling */
    bool *on_host;      /* [max_slots]: the host samples it, from a copy of its logits */
    uint32_t n_edits;   /* known once written */
    bool compact, bucket;
    struct cuda_meta meta;

    /* reports of finished layers */
    uint32_t group_layers; /* 0: none */
    uint64_t first_ticket;
};

MUST_USE enum err cuda_batch_create(struct cuda_batch *b,
                                    const struct cuda_limits *l); /* ERR_NOMEM */
void cuda_batch_free(struct cuda_batch *b);

/* Slots whose result is not ERR_OK are left out. */
void cuda_batch_plan(struct cuda_batch *b, const struct cuda_limits *l,
                     const struct engine_slot *slots, uint32_t n);
/* The arrays, at b->meta's places; then b->n_edits and b->on_host are known. */
void cuda_batch_write(struct cuda_batch *b, const struct cuda_limits *l,
                      const struct engine_slot *slots, uint8_t *metadata);
/* The plan of a graph: a full bucket of decode rows of that class. */
void cuda_batch_plan_bucket(struct cuda_batch *b, const struct cuda_limits *l, uint32_t rows,
                            uint32_t max_blocks);

/* The smallest bucket of at least n rows; n itself above the largest. */
uint32_t cuda_bucket(uint32_t n, uint32_t max_slots);
/* The smallest class of at least n blocks. */
uint32_t cuda_blocks_class(uint32_t n, uint32_t max_blocks);
/* The most that any step within the limits needs. */
size_t cuda_meta_bytes_max(const struct cuda_limits *l);

#endif
