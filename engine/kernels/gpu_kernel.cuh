/* engine/kernels/gpu_kernel.cuh - what every kernel file includes: types, launch, warp and matrix steps.
 *
 * Kernels use these names and the CUDA built-ins listed below, and nothing else of CUDA, so that the same
 * file also compiles for the host (GPU_EMULATED, see tests/gpu/emu), where its barriers, indices and bounds
 * are tested on machines without a device:
 *
 *   threadIdx blockIdx blockDim gridDim  __syncthreads __syncthreads_or __syncwarp  __shfl_sync __shfl_xor_sync
 *   __shfl_up_sync __shfl_down_sync __ballot_sync __any_sync __activemask is not offered
 *   atomicAdd (int, unsigned, unsigned long long, float) atomicMax (int, unsigned) atomicExch atomicCAS __threadfence
 *   __popc __popcll __clz __ffs __umulhi __umul64hi __float_as_uint __uint_as_float __fmul_rn __fadd_rn __fmaf_rn
 *   fmaxf fminf sqrtf rsqrtf expf exp2f logf log2f sinf cosf sincosf, double arithmetic
 *
 * __shared__ variables are declared through GPU_SHARED (poisoned between blocks when emulated).
 *
 * A kernel that gpu_launch_early() starts may run beside the end of the kernel before it on the stream: its blocks come
 * as soon as all blocks of that one have started and there is room.  So every thread of it calls gpu_wait_previous()
 * once, before it reads what an earlier kernel may have written, before its first write, and before it returns; ahead of
 * that stands only what reads weights and a step's metadata (gpu_batch.h), which no kernel writes.  When the wait
 * returns, all kernels before are complete, since each of them has waited so itself.  What an earlier kernel wrote is not
 * read through ld.global.nc, nor through the first level of the cache if others read its place before: load_fresh. */
#ifndef ENGINE_KERNELS_GPU_KERNEL_CUH
#define ENGINE_KERNELS_GPU_KERNEL_CUH

#include <math.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/gpu.h"

struct gpu_dims {
    unsigned x, y, z; /* blocks */
    unsigned threads; /* of a block, a multiple of 32 */
    size_t shared;    /* bytes of dynamic shared memory */
};

/* 16-bit floats as they stand in memory. */
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
/* 16 bytes: what a thread loads and stores at once. */
struct alignas(16) vec16 {
    uint32_t w[4];
};

#ifdef GPU_EMULATED
#include <gpu_emulated.cuh>
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* `GPU_SHARED(float, sums, 8);`: a shared array.  GPU_SHARED_DYNAMIC(name): the dynamic bytes, 128-aligned. */
#define GPU_SHARED(type, name, count) __shared__ type name[count]
#define GPU_SHARED_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]

/* Starting early is an ability of 9.0; a build that is for older devices too does without it. */
constexpr int kBuiltFor[] = {__CUDA_ARCH_LIST__}; /* rising */
/* false: every kernel waits for the end of the one before it, as if gpu_launch_early() were gpu_launch(). */
#ifdef BATON_CUDA_NO_EARLY
constexpr bool kLaunchEarly = false;
#else
constexpr bool kLaunchEarly = kBuiltFor[0] >= 900;
#endif

/* Dynamic shared memory beyond 48 KiB has to be asked for, once per kernel and device: all there is beside the
 * static. */
template <auto *kernel> static cudaError_t gpu_raise_shared()
{
    static unsigned long long raised; /* devices on which it is done */
    cudaFuncAttributes attributes;
    int device = 0, most = 0;
    cudaError_t e = cudaGetDevice(&device);
    unsigned long long bit = 1ull << (device & 63);

    if (e != cudaSuccess || (__atomic_load_n(&raised, __ATOMIC_RELAXED) & bit) != 0)
        return e;
    e = cudaFuncGetAttributes(&attributes, kernel);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 most - (int)attributes.sharedSizeBytes);
    if (e == cudaSuccess)
        __atomic_fetch_or(&raised, bit, __ATOMIC_RELAXED);
    return e;
}

template <auto *kernel, class... Args>
static enum err gpu_enqueue(bool early, struct gpu_dims d, gpu_stream stream, Args... args)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute overlap = {};
    cudaError_t e = cudaSuccess;

    if (d.x == 0 || d.y == 0 || d.z == 0 || d.threads == 0 || d.threads > 1024)
        return ERR_INVALID;
    config.gridDim = dim3(d.x, d.y, d.z);
    config.blockDim = dim3(d.threads);
    config.dynamicSmemBytes = d.shared;
    config.stream = stream;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = early ? 1 : 0;
    if (d.shared > 0)
        e = gpu_raise_shared<kernel>();
    if (e == cudaSuccess)
        e = cudaLaunchKernelEx(&config, kernel, args...);
    if (e == cudaSuccess)
        return ERR_OK;
    (void)cudaGetLastError();
    return gpu_fail(__PRETTY_FUNCTION__, cudaGetErrorString(e));
}

/* Enqueue kernel<<<...>>>(args...).  ERR_INVALID: an empty grid or too many threads.  ERR_DEVICE. */
template <auto *kernel, class... Args>
static enum err gpu_launch(struct gpu_dims d, gpu_stream stream, Args... args)
{
    return gpu_enqueue<kernel>(false, d, stream, args...);
}
/* The same of a kernel that calls gpu_wait_previous(). */
template <auto *kernel, class... Args>
static enum err gpu_launch_early(struct gpu_dims d, gpu_stream stream, Args... args)
{
    return gpu_enqueue<kernel>(kLaunchEarly, d, stream, args...);
}
/* The kernel after this one may start to come; then wait for the one before (at once if there is nothing to wait
 * for). */
static __device__ __forceinline__ void gpu_wait_previous()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ float to_float(bf16 v)
{
    return __uint_as_float((uint32_t)v.bits << 16);
}
static __device__ __forceinline__ float to_float(f16 v)
{
    return __half2float(__ushort_as_half(v.bits));
}
/* Round to nearest even. */
template <class T> static __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v)
{
    return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
}
template <> __device__ __forceinline__ f16 from_float<f16>(float v)
{
    return {__half_as_ushort(__float2half_rn(v))};
}
/* Two values in one word, lo in the low half. */
template <class T> static __device__ __forceinline__ uint32_t pack2(float lo, float hi);
template <> __device__ __forceinline__ uint32_t pack2<bf16>(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&v;
}
template <> __device__ __forceinline__ uint32_t pack2<f16>(float lo, float hi)
{
    __half2 v = __floats2half2_rn(lo, hi);
    return *(uint32_t *)&v;
}
template <class T> static __device__ __forceinline__ float low2(uint32_t w)
{
    return to_float(T{(uint16_t)w});
}
template <class T> static __device__ __forceinline__ float high2(uint32_t w)
{
    return to_float(T{(uint16_t)(w >> 16)});
}

/* 2^x, the fast instruction: relative error about 2e-7, flushes denormal results. */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x, the fast instruction: relative error about 1e-7, flushes denormal arguments and results. */
static __device__ __forceinline__ float reciprocal_fast(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* d += a b for one warp: a 16 x 16 (row-major), b 16 x 8 (column-major), d 16 x 8 fp32, in the fragments of
 * the PTX ISA's mma.m16n8k16: lane = 4 * g + t holds a[0] = A[g][2t..], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..],
 * a[3] = A[g+8][2t+8..]; b[0] = B[2t..][g], b[1] = B[2t+8..][g]; d[0..1] = D[g][2t..], d[2..3] = D[g+8][2t..]. */
template <class T>
static __device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4],
                                                 const uint32_t b[2]);
template <>
__device__ __forceinline__ void mma_16816<bf16>(float d[4], const uint32_t a[4],
                                                const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_16816<f16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit values from shared memory: lane l gives the address of row l % 8 of matrix l / 8
 * (16 bytes, aligned); lane 4 * g + t receives of matrix i, in r[i], its row g, columns 2t and 2t + 1.
 * _trans: of each matrix transposed. */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* 16 bytes from global to shared memory in the background, zeros if !valid (then src is not read).  They are there
 * for this thread after cp_async_wait<n>() has left at most n newer groups open; for others after a barrier more. */
static __device__ __forceinline__ void cp_async16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n> static __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* 16 bytes that are read once: they need not stay in the first level of the cache.  Not by ld.global.nc, which
 * takes them to be constant from the start of the kernel on: one that starts early may be there before they are. */
static __device__ __forceinline__ vec16 load_streaming(const void *p)
{
    vec16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
                 : "l"(p)
                 : "memory");
    return v;
}

/* What an earlier kernel of a step wrote, past the first level of the cache.  That level is emptied where a kernel starts; one
 * that starts early does so while the one before the last may still be reading a buffer that the last will write again, and
 * nothing but the wording of griddepcontrol.wait ("made visible") says that its lines are gone after the wait. */
static __device__ __forceinline__ vec16 load_fresh(const vec16 *p)
{
    vec16 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
                 : "l"(p)
                 : "memory");
    return v;
}
static __device__ __forceinline__ uint32_t load_fresh(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

#endif /* GPU_EMULATED */

/* The sum over a warp, in every lane, always added in the same order. */
static __device__ __forceinline__ float warp_sum(float v)
{
    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
static __device__ __forceinline__ float warp_max(float v)
{
    for (int o = 16; o > 0; o /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

#endif
