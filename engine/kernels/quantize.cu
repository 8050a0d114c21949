/* engine/kernels/quantize.cu - a block per row; its largest value, then the bytes.
 *
 * A thread takes 8 values (16 bytes) at a time.  The row is read a second time for the bytes: at most 64 KiB, so from
 * the second level of the cache (not the first: see load_fresh).  Bound by memory; little work per row, so several
 * blocks share a multiprocessor. */
#include "engine/kernels/eight_bit.cuh"
#include "engine/kernels/quantize.h"

namespace
{

constexpr unsigned kBlock = 256, kVec = 8;
constexpr float kTiny = 0x1p-100f;

struct alignas(8) bytes8 {
    uint32_t w[2];
};

/* The same value in every thread. */
template <class Op> __device__ __forceinline__ float block_reduce(float v, float *shared, Op op)
{
    for (int o = 16; o > 0; o /= 2)
        v = op(v, __shfl_xor_sync(0xffffffffu, v, o));
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
    for (unsigned i = 1; i < kBlock / 32; i++)
        v = op(v, shared[i]);
    __syncthreads(); /* before shared is written again */
    return v;
}

template <class T, class Q>
__global__ void __launch_bounds__(kBlock) quantize_kernel(quantize_args a)
{
    GPU_SHARED(float, shared, kBlock / 32);
    const uint16_t *x = a.x + (size_t)blockIdx.x * a.x_stride;
    uint8_t *q = a.q + (size_t)blockIdx.x * a.cols;
    unsigned vecs = a.cols / kVec;
    float largest = 0.0f, wrong = 0.0f, size = 0.0f;
    auto sum = [](float l, float r) { return l + r; };

    gpu_wait_previous();
    for (unsigned i = threadIdx.x; i < vecs; i += kBlock) {
        vec16 in = load_fresh((const vec16 *)x + i);
        for (unsigned k = 0; k < 4; k++)
            largest = fmaxf(largest, fmaxf(fabsf(low2<T>(in.w[k])), fabsf(high2<T>(in.w[k]))));
    }
    largest = block_reduce(largest, shared, [](float l, float r) { return fmaxf(l, r); });
    float scale = largest < kTiny ? 0.0f : largest / Q::kLargest;
    float inverse = largest < kTiny ? 0.0f : Q::kLargest / largest;
    for (unsigned i = threadIdx.x; i < vecs; i += kBlock) {
        vec16 in = load_fresh((const vec16 *)x + i);
        bytes8 out = {};
        for (unsigned k = 0; k < kVec; k++) {
            float v = k % 2 == 0 ? low2<T>(in.w[k / 2]) : high2<T>(in.w[k / 2]);
            uint32_t byte = Q::from_float(v * inverse);
            out.w[k / 4] |= byte << (8 * (k % 4));
            float off = Q::to_float(byte, 0) * scale - v;
            wrong += off * off;
            size += v * v;
        }
        ((bytes8 *)q)[i] = out;
    }
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = scale;
    if (a.error == nullptr)
        return;
    wrong = block_reduce(wrong, shared, sum);
    size = block_reduce(size, shared, sum);
    if (threadIdx.x == 0) {
        a.error[2 * (size_t)blockIdx.x] = wrong;
        a.error[2 * (size_t)blockIdx.x + 1] = size;
    }
}

template <class T> enum err launch(const struct quantize_args *a, gpu_stream stream)
{
    struct gpu_dims d = {a->rows, 1, 1, kBlock, 0};

    return a->format == GPU_WEIGHT_E4M3 ? gpu_launch_early<quantize_kernel<T, e4m3>>(d, stream, *a)
                                        : gpu_launch_early<quantize_kernel<T, int8>>(d, stream, *a);
}

} // namespace

extern "C" enum err quantize(const struct quantize_args *a, gpu_stream stream)
{
    if (a->cols < kVec || a->cols % kVec != 0 || a->x_stride % kVec != 0 || a->rows > INT32_MAX ||
        (uintptr_t)a->x % 16 != 0 || (uintptr_t)a->q % 8 != 0 ||
        (a->format != GPU_WEIGHT_E4M3 && a->format != GPU_WEIGHT_INT8))
        return ERR_INVALID;
    if (a->rows == 0)
        return ERR_OK;
    return a->dtype == GPU_BF16  ? launch<bf16>(a, stream)
           : a->dtype == GPU_F16 ? launch<f16>(a, stream)
                                 : ERR_INVALID;
}
