/* engine/kernels/rope_kv.h - after the qkv product: rotate q in place, rotate k, put k and v into the KV blocks.
 *
 *   qkv     16-bit [batch.n_rows][row_stride]: of each row n_heads heads of q, then kv.n_kv_heads of k, then as
 *           many of v, head_dim values each; 16-byte aligned, row_stride (in values) a multiple of 8
 *   angles  float [n_positions][head_dim / 2][2]: cos and sin of position * inv_freq[i], 16-byte aligned, made by
 *           rope_kv_angles() on the host at open: 4 * head_dim bytes per position (64 MiB for 131,072 positions
 *           of head_dim 128)
 *
 * Element i of a head turns with element i + head_dim / 2 (the order of Hugging Face's weights) by the angle of
 * the row's position: (a, b) becomes (a cos - b sin, b cos + a sin), in fp32 and rounded to nearest even once.
 * Row r's k and v go to token position[r] of slot[r]; v's bits are copied as they are.  k and v in qkv stay.
 *
 * A filler row (slot -1) is left alone as a whole, and so is one whose slot or position lies outside n_slots or
 * n_positions; where the block table ends before the position, or names a block that is not in the pool, k and v
 * are not written.  So whatever the arrays hold, nothing outside the blocks is written.  Two rows of one launch may not have the same slot and position.
 *
 * rope_kv() only enqueues.  ERR_INVALID: head_dim no multiple of 16 or outside 16 .. 256, no heads, more than
 * 4,096 of them, strides that are no multiples of 16 bytes, block_tokens no power of two, a wrong dtype;
 * n_rows 0 does nothing.  ERR_DEVICE: the launch was refused.
 * Moves, per row, 2 * head_dim * (2 * n_heads + 4 * n_kv_heads) + 4 * head_dim bytes; bound by memory. */
#ifndef ENGINE_KERNELS_ROPE_KV_H
#define ENGINE_KERNELS_ROPE_KV_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"
#include "engine/kernels/gpu_batch.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rope_kv_args {
    void *qkv;
    uint32_t row_stride; /* values from row to row */
    uint32_t n_heads;    /* of q, on this device */
    const float *angles;
    uint32_t n_positions; /* of angles */
    struct gpu_batch batch;
    struct gpu_kv kv;
};

MUST_USE enum err rope_kv(const struct rope_kv_args *a, gpu_stream stream);

/* Host memory: the angles of positions first .. first + n - 1, to the float nearest; inv_freq[head_dim / 2]. */
void rope_kv_angles(float *angles, const double *inv_freq, uint32_t head_dim, uint32_t first,
                    uint32_t n);

/* The definition of the rotation, of one head in host memory. */
void rope_kv_ref(float *head, const double *inv_freq, uint32_t head_dim, uint32_t position);

#ifdef __cplusplus
}
#endif
#endif
