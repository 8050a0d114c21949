/* engine/cuda/gpu_blas_lib.h - private to gpu_blas: what it needs of a library of matrix products.
 *
 *   y[m][n] = (sum_k x[m][k] * w[n][k]) * x_scale[m] * w_scale[n] + bias[n] + (add ? y[m][n] : 0)
 *
 * gpu_blas_lt.c asks cuBLASLt; tests/gpu/emu has plain loops.  Thread, ownership, blocking: as gpu_blas.h. */
#ifndef ENGINE_CUDA_GPU_BLAS_LIB_H
#define ENGINE_CUDA_GPU_BLAS_LIB_H

#include "engine/cuda/gpu_blas.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GPU_BLAS_WORKSPACE = 32 << 20 };

struct gpu_blas_lib;
struct gpu_blas_call; /* one product for one class of row counts */

struct gpu_blas_product {
    uint32_t n, k, rows; /* rows: for which candidates are asked */
    size_t x_stride, y_stride;
    enum gpu_dtype dtype;
    bool fp8; /* x and w are e4m3, with x_scale and w_scale */
    bool y_f32, add, bias;
};

struct gpu_blas_operands {
    void *y;
    const void *x, *w;
    const float *x_scale, *w_scale; /* fp8 only */
    const uint16_t *bias;
};

/* workspace: GPU_BLAS_WORKSPACE bytes of device memory. */
MUST_USE enum err gpu_blas_lib_open(struct gpu *g, void *workspace, struct err_msg *msg,
                                    struct gpu_blas_lib **out);
void gpu_blas_lib_close(struct gpu_blas_lib *l); /* NULL is fine */

/* Sets *n to the number of candidates, the likely best first; ERR_UNSUPPORTED: there is none. */
MUST_USE enum err gpu_blas_call_create(struct gpu_blas_lib *l, const struct gpu_blas_product *p,
                                       struct err_msg *msg, struct gpu_blas_call **out,
                                       uint32_t *n);
void gpu_blas_call_free(struct gpu_blas_call *c); /* NULL is fine */
/* Which candidate runs from now on; 0 at first. */
void gpu_blas_call_choose(struct gpu_blas_call *c, uint32_t candidate);
MUST_USE enum err gpu_blas_call_run(struct gpu_blas_call *c, uint32_t rows,
                                    const struct gpu_blas_operands *o, gpu_stream stream);

#ifdef __cplusplus
}
#endif
#endif
