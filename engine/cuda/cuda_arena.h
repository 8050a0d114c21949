/* engine/cuda/cuda_arena.h - one allocation per device, cut into named regions.
 *
 *   name every region and its size -> cuda_arena_fit -> _take -> cuda_arena_at ... -> cuda_arena_free
 *
 * Everything that the backend holds on a device stands in it, so what a worker takes is known at start and
 * never grows.  The last region, the KV pool, gets what is left, in whole blocks.
 *
 * Thread     the device's owner.
 * Ownership  the regions belong to the arena.
 * Units      bytes. */
#ifndef ENGINE_CUDA_CUDA_ARENA_H
#define ENGINE_CUDA_CUDA_ARENA_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

enum cuda_region {
    CUDA_WEIGHTS,
    CUDA_ROPE,     /* cosines and sines by position */
    CUDA_WORK,     /* activations of a step */
    CUDA_SCRATCH,  /* of products, attention, sampling and collectives */
    CUDA_METADATA, /* of a step: tokens, positions, block tables, sampling */
    CUDA_LOGITS,
    CUDA_KV,
    CUDA_REGIONS
};

struct cuda_arena {
    uint8_t *base; /* NULL until taken */
    uint64_t offset[CUDA_REGIONS], bytes[CUDA_REGIONS];
    uint64_t total;
    uint32_t kv_blocks;
};

struct cuda_arena_need {
    uint64_t bytes[CUDA_REGIONS]; /* the KV pool's is not read */
    uint64_t kv_block_bytes;      /* of this device's part */
    uint32_t kv_blocks_min; /* one sequence of the longest context: below it nothing is taken */
    uint32_t kv_blocks;     /* 0: as many as there is room for */
    uint32_t kv_blocks_max; /* what the largest batch can use */
    double share;    /* of the device's memory, above 0, at most 1, but no more than is free */
    uint32_t device; /* for messages */
};

/* Set need->kv_blocks to what fits.  ERR_NOMEM: the message says how much is needed, how much there is, and
 * what to lower. */
MUST_USE enum err cuda_arena_fit(struct cuda_arena_need *need, struct gpu *g, struct err_msg *msg);
/* ERR_NOMEM: it does not come in one piece. */
MUST_USE enum err cuda_arena_take(struct cuda_arena *a, struct gpu *g,
                                  const struct cuda_arena_need *need, struct err_msg *msg);
void *cuda_arena_at(const struct cuda_arena *a, enum cuda_region region, uint64_t offset);
void cuda_arena_free(struct cuda_arena *a, struct gpu *g);

#endif
