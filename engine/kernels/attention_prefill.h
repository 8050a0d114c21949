/* engine/kernels/attention_prefill.h - attention of chunks of prompts over paged KV (attention.h).
 *
 * A chunk is a run of rows of one slot at rising positions, anywhere in its sequence; what came before it and the
 * chunk's own keys and values are in the blocks already.  The host cuts the chunks of a step into tiles with
 * attention_prefill_tiles(); the list goes to the device with the step's other metadata.
 *
 * A row has the same bits however its prompt is cut into chunks, whatever the other chunks are and in whatever order
 * the tiles run: its sums run over key tiles at fixed places in the sequence.
 *
 * Does 4 * head_dim * n_q_heads operations per row and visible key; each tile reads its keys and values once. */
#ifndef ENGINE_KERNELS_ATTENTION_PREFILL_H
#define ENGINE_KERNELS_ATTENTION_PREFILL_H

#include "engine/kernels/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows first_row .. first_row + n_rows - 1 of the step, of one slot, the first at `position`. */
struct attention_chunk {
    uint32_t slot, first_row, n_rows, position;
};

/* Most rows of a tile: it holds all heads of a group, at most 16, beside each other.  0: outside the limits. */
uint32_t attention_prefill_tile_rows(uint32_t n_q_heads, uint32_t n_kv_heads);

/* Cut the chunks into tiles of at most tile_rows rows, those with most keys first (they take longest, so that the
 * short ones fill the end), in tiles[max_tiles].  Returns how many, which is at most the sum of
 * n_rows / tile_rows rounded up; 0: none, or more than max_tiles.  Thread: any; host memory. */
uint32_t attention_prefill_tiles(const struct attention_chunk *chunks, uint32_t n_chunks,
                                 uint32_t tile_rows, struct attention_chunk *tiles,
                                 uint32_t max_tiles);

/* Enqueue.  tiles[n_tiles] in device memory, 16-byte aligned, none with more than attention_prefill_tile_rows() rows
 * (more are not computed) and none with keys beyond the table; at most 65,536.  Of b only the tables count.  n_tiles 0 does nothing.
 * ERR_INVALID: outside the limits; ERR_DEVICE: the launch was refused. */
MUST_USE enum err attention_prefill(const struct attention *a, const struct gpu_batch *b,
                                    const struct attention_chunk *tiles, uint32_t n_tiles,
                                    gpu_stream stream);

/* The plain definition on host memory, of chunks of any length: out is dense, [rows][n_q_heads * head_dim]; rows of
 * no chunk are not touched. */
void attention_prefill_ref(float *out, const struct attention *a, const struct gpu_batch *b,
                           const struct attention_chunk *chunks, uint32_t n_chunks);

#ifdef __cplusplus
}
#endif
#endif
