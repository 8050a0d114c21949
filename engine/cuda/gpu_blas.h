/* engine/cuda/gpu_blas.h - products of rows of activations with weight matrices:
 *
 *   y[m][n] = (sum_k x[m][k] * w[n][k]) * scale[n] + bias[n] + (add ? y[m][n] : 0)
 *
 *   gpu_blas_open -> gpu_blas_plan for every matrix shape -> gpu_blas_run ... -> gpu_blas_plan_free -> gpu_blas_close
 *
 * A plan serves every number of rows up to its limit.  For classes of row counts (1, 2, 4, ... max_rows) it
 * holds a way, chosen once when it is made, by time where it is given something to time:
 *
 *   gemv         up to 16 rows, 64 with 8-bit weights                    engine/kernels/gemv.h
 *   library      16-bit weights: cuBLASLt, the fastest of its candidates
 *   quantized    e4m3 weights: rows become e4m3 with a scale each, and cuBLASLt multiplies 8-bit by 8-bit
 *   widened      8-bit weights that have no other way: they become 16-bit in scratch memory, then as "library"
 *
 * Sums are fp32; y is rounded once.  "quantized" rounds x to 8 bits besides (about 2.5 % of each value), "widened" the
 * scaled weights to 16 bits.  A row's bits depend on the class of the row count, since another way may add in another
 * order, and two processes may choose differently; where the way is gemv they do not depend on the other rows.
 *
 * Thread     one at a time.  All runs of a struct gpu_blas are ordered: one stream, or streams with events between,
 *            because they share its memory.
 * Ownership  the caller owns all device memory and frees it after gpu_blas_close.
 * Blocking   gpu_blas_plan waits for its trials, at most some seconds.  gpu_blas_run only enqueues, allocates nothing
 *            and may be captured in a graph.
 * Errors     ERR_DEVICE as in engine/gpu.h; others are named where they come from. */
#ifndef ENGINE_CUDA_GPU_BLAS_H
#define ENGINE_CUDA_GPU_BLAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"
#include "engine/kernels/quantize.h" /* enum gpu_weight */

#ifdef __cplusplus
extern "C" {
#endif

struct gpu_blas;
struct gpu_blas_plan;

/* A weight matrix in device memory, 16-byte aligned. */
struct gpu_matrix {
    const void *w;        /* [n][k] dense */
    const float *scale;   /* [n], of 8-bit weights; else NULL */
    const uint16_t *bias; /* [n] or NULL, as the shape says */
};

struct gpu_blas_shape {
    uint32_t n, k, max_rows;
    size_t x_stride, y_stride; /* elements from row to row */
    enum gpu_dtype dtype;      /* of x, bias, y and of 16-bit weights */
    enum gpu_weight weight;
    bool y_f32; /* y is float; with a bias only up to 16 rows */
    bool add, bias;
};

/* What plans are timed with: the matrices of this shape (of all layers: together larger than the second-level cache)
 * and room for x and y of max_rows.  What is in x is read, what is in y is lost. */
struct gpu_blas_trial {
    gpu_stream stream;
    const struct gpu_matrix *matrices;
    uint32_t n_matrices;
    const void *x;
    void *y;
};

/* Device memory that products of these shapes share: the library's workspace (32 MiB), rows in 8 bits, a widened
 * matrix.  The caller takes it from its arena, 256-byte aligned. */
size_t gpu_blas_bytes(const struct gpu_blas_shape *shapes, uint32_t n);

/* ERR_NOT_FOUND, ERR_UNSUPPORTED: no cuBLASLt that fits (engine/cuda/gpu_lib.h; msg says where it was looked for).
 * ERR_NOMEM. */
MUST_USE enum err gpu_blas_open(struct gpu *g, void *memory, size_t bytes, struct err_msg *msg,
                                struct gpu_blas **out);
void gpu_blas_close(struct gpu_blas *b); /* NULL is fine; plans are freed before */

/* trial may be NULL: then gemv up to 16 rows where it can, else the library's first candidate, untimed.
 * ERR_INVALID: a zero, or a stride below the width.  ERR_UNSUPPORTED: no way for this shape (8-bit weights need
 * k % 16 == 0 and aligned rows).  ERR_LIMIT: memory of gpu_blas_open is too small.  ERR_NOMEM.  ERR_TIMEOUT: a trial
 * took longer than 30 s. */
MUST_USE enum err gpu_blas_plan(struct gpu_blas *b, const struct gpu_blas_shape *shape,
                                const struct gpu_blas_trial *trial, struct err_msg *msg,
                                struct gpu_blas_plan **out);
void gpu_blas_plan_free(struct gpu_blas_plan *p); /* NULL is fine */

/* rows 1 .. max_rows; 0 does nothing.  x and y are 16-byte aligned and do not overlap.  ERR_INVALID: more rows, no bias
 * where the shape has one. */
MUST_USE enum err gpu_blas_run(struct gpu_blas_plan *p, uint32_t rows, void *y, const void *x,
                               const struct gpu_matrix *m, gpu_stream stream);

/* The way for this number of rows and, where it was timed, its microseconds: "gemv 11.4 us", "library 3 of 8 52 us".
 * Returns text. */
const char *gpu_blas_describe(const struct gpu_blas_plan *p, uint32_t rows, char *text, size_t cap);

/* ---- what quantizing weights cost ---- */

/* Of one model: errors of its matrices, relative to the matrix: sqrt(sum (w' - w)^2 / sum w^2). */
struct gpu_quantize_report {
    uint32_t n;
    double wrong, size; /* sums of squares over all */
    double worst;       /* relative error of the worst matrix */
    char worst_name[96];
};

/* error: [rows][2], quantize()'s, in host memory.  Returns the relative error of this matrix. */
double gpu_quantize_report_add(struct gpu_quantize_report *r, const char *name, const float *error,
                               size_t rows);
/* Of all matrices together; 0 for none. */
double gpu_quantize_report_total(const struct gpu_quantize_report *r);

#ifdef __cplusplus
}
#endif
#endif
