/* engine/kernels/gpu_batch.h - the rows of a step and a layer's KV blocks, as kernels see them.
 *
 * Plain structs passed by value; every pointer is device memory and belongs to the caller, who keeps it until
 * the stream has passed.  Counts are of the launch: a step captured in a graph runs with the same counts each
 * time and reads the rest from the arrays, so a row that is there only to fill the graph has slot -1: kernels
 * leave KV alone for it, and what they write to its own outputs is read by nobody.
 *
 * Copies write the arrays, never kernels: a kernel may read them while the one before it on the stream still runs. */
#ifndef ENGINE_KERNELS_GPU_BATCH_H
#define ENGINE_KERNELS_GPU_BATCH_H

#include <stdint.h>

#include "engine/gpu.h"

struct gpu_batch {
    const int32_t *token;    /* [n_rows] in 0 .. vocab - 1 */
    const int32_t *position; /* [n_rows] of the row's token in its sequence */
    const int32_t *slot;     /* [n_rows] 0 .. n_slots - 1, or -1: filler */
    const uint32_t *blocks;  /* [n_slots][max_blocks]: the slot's block table */
    uint32_t max_blocks;     /* entries per slot in it */
    uint32_t n_rows, n_slots;
};

/* One layer of the pool: element (block, kv head, token, d) of K is at
 * k + block * block_stride + ((head * block_tokens + token) * head_dim + d) * 2 bytes; V is v_offset bytes on. */
struct gpu_kv {
    uint8_t *k; /* of the layer, in block 0; 16-byte aligned, as are all runs of a head */
    uint64_t v_offset, block_stride; /* bytes */
    uint32_t n_blocks;               /* of the pool: every entry of a block table is below it */
    uint32_t block_tokens;           /* a power of two, 16 .. 256 */
    uint32_t n_kv_heads, head_dim;   /* of this device's part */
    enum gpu_dtype dtype;
};

#endif
