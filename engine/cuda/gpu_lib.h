/* engine/cuda/gpu_lib.h - NVIDIA's libraries, opened when the backend starts instead of linked.
 *
 * The program that is shipped then also runs on machines that have none of them, and a missing one is an
 * error of the backend that says what to install.  The types come from the library's own header:
 *
 *   #include <cublasLt.h>
 *   static struct { GPU_LIB_CUBLAS_LT(GPU_LIB_MEMBER) } lt;
 *   e = gpu_lib_load(&gpu_lib_cublas_lt, &lt, sizeof(lt), msg);
 *   ... lt.cublasLtMatmul(...)
 *
 * A function that is needed is added to its list below and nowhere else; a test of the cuda preset asks the
 * real libraries for all of them.
 *
 * Thread     any; the caller loads a table once.
 * Ownership  a library that was opened stays open as long as the process lives. */
#ifndef ENGINE_CUDA_GPU_LIB_H
#define ENGINE_CUDA_GPU_LIB_H

#include <stddef.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define GPU_LIB_CUBLAS_LT(F)                                                            \
    F(cublasLtGetVersion) F(cublasLtGetStatusString) F(cublasLtCreate) F(cublasLtDestroy) \
    F(cublasLtMatmulDescCreate) F(cublasLtMatmulDescDestroy) F(cublasLtMatmulDescSetAttribute) \
    F(cublasLtMatrixLayoutCreate) F(cublasLtMatrixLayoutDestroy) F(cublasLtMatrixLayoutSetAttribute) \
    F(cublasLtMatmulPreferenceCreate) F(cublasLtMatmulPreferenceDestroy) \
    F(cublasLtMatmulPreferenceSetAttribute) F(cublasLtMatmulAlgoGetHeuristic) F(cublasLtMatmul)

#define GPU_LIB_NCCL(F)                                                                 \
    F(ncclGetVersion) F(ncclGetErrorString) F(ncclGetLastError) F(ncclGetUniqueId)      \
    F(ncclCommInitRankConfig) F(ncclCommGetAsyncError) F(ncclCommAbort) F(ncclCommFinalize) \
    F(ncclCommDestroy) F(ncclAllReduce) F(ncclAllGather)
/* clang-format on */

#define GPU_LIB_MEMBER(f) __typeof__(&f) f;

struct gpu_lib {
    const char *what, *file,
        *package; /* "cuBLASLt of CUDA 13", its soname, the Python package it comes in */
    const char *const *names;
    size_t n;
};

extern const struct gpu_lib gpu_lib_cublas_lt, gpu_lib_nccl;

/* Fill table, n function pointers in the order of the list.  ERR_INVALID: bytes is not the size of that.
 * ERR_NOT_FOUND: no such library where it was looked for (msg names the places and what to do).
 * ERR_UNSUPPORTED: the library is there and lacks a function, so it is of another version.  Blocking: reads
 * the library's file. */
MUST_USE enum err gpu_lib_load(const struct gpu_lib *lib, void *table, size_t bytes,
                               struct err_msg *msg);

#ifdef __cplusplus
}
#endif
#endif
