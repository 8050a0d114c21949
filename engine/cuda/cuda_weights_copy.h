/* engine/cuda/cuda_weights_copy.h - private to cuda_weights: many slices of mapped files to the device. */
#ifndef ENGINE_CUDA_CUDA_WEIGHTS_COPY_H
#define ENGINE_CUDA_CUDA_WEIGHTS_COPY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/cuda/cuda_weights.h"

/* Rows of a matrix in a file, dense on the device. */
struct cuda_copy {
    const uint8_t *from;
    uint64_t from_stride; /* bytes from row to row */
    enum engine_dtype from_dtype;
    uint32_t rows, columns;
    void *to;
};

struct cuda_copies {
    struct cuda_copy *list; /* mem_free */
    size_t n, cap;
};

/* Cut into pieces that fit a staging buffer.  ERR_NOMEM. */
MUST_USE enum err cuda_copies_add(struct cuda_copies *c, const struct cuda_copy *copy);

struct cuda_staging; /* streams, events and pinned buffers, for any number of runs */
/* ERR_NOMEM, ERR_DEVICE. */
MUST_USE enum err cuda_staging_open(const struct cuda_weights_load *l, struct cuda_staging **out,
                                    struct err_msg *msg);
/* Blocks until all of c is on the device. */
MUST_USE enum err cuda_copies_run(const struct cuda_copies *c, struct cuda_staging *s,
                                  struct err_msg *msg);
void cuda_staging_close(struct cuda_staging *s); /* NULL is fine */

#endif
