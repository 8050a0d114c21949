/* engine/engine_pure.h - for arithmetic that C code and GPU kernels share to the last bit.
 *
 * ENGINE_PURE functions compile for both.  A product that is added to something must be written with engine_mul: a
 * device would fuse the two and round once where C code (built with -ffp-contract=off) rounds twice.
 * Thread: any. */
#ifndef ENGINE_ENGINE_PURE_H
#define ENGINE_ENGINE_PURE_H

#include <stdint.h>

#ifdef __CUDACC__
#define ENGINE_PURE static __host__ __device__ __forceinline__
#else
#define ENGINE_PURE static inline
#endif

ENGINE_PURE float engine_mul(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

/* The high half of the product. */
ENGINE_PURE uint64_t engine_mul_high(uint64_t a, uint64_t b)
{
#ifdef __CUDA_ARCH__
    return __umul64hi(a, b);
#else
    __extension__ typedef unsigned __int128 wide;

    return (uint64_t)((wide)a * b >> 64);
#endif
}

#endif
