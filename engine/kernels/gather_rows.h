/* engine/kernels/gather_rows.h - out[r] = table[index[r]]: embeddings by token, and the rows that will be sampled.
 *
 *   out    16-bit [rows][cols], row-major, 16-byte aligned, not overlapping the table
 *   table  16-bit [count][cols], 16-byte aligned: rows first .. first + count - 1 of a table of `total`
 *   index  [rows] in 0 .. total - 1
 *
 *   embedding           table = the weights, index = gpu_batch.token, total = the vocabulary
 *   embedding, a share  of the vocabulary: first and count say which; other rows are zeros, to be summed over ranks
 *   rows to sample      table = the hidden states, index = the last row of each slot, total = rows of the step
 *
 * An index of -1 is filler: zeros.  Any other index outside gives zeros too, nothing outside the table is read,
 * and *bad (if not NULL) becomes the greatest such row + 1; the caller sets it to 0 before and looks at it when it
 * likes.  The bits of the rows are copied as they are.
 *
 * gather_rows() only enqueues.  ERR_INVALID: cols outside 8 .. 2^20 or no multiple of 8, first + count above total;
 * rows 0 does nothing.  ERR_DEVICE: the launch was refused.
 * Moves 4 * rows * cols bytes and 4 * rows; bound by memory, for few rows by the latency of two loads. */
#ifndef ENGINE_KERNELS_GATHER_ROWS_H
#define ENGINE_KERNELS_GATHER_ROWS_H

#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gather_rows_args {
    void *out;
    const void *table;
    const int32_t *index;
    uint32_t *bad; /* may be NULL */
    uint32_t rows, cols;
    uint32_t first, count, total;
};

MUST_USE enum err gather_rows(const struct gather_rows_args *a, gpu_stream stream);

/* The same, of host memory. */
void gather_rows_ref(const struct gather_rows_args *a);

#ifdef __cplusplus
}
#endif
#endif
