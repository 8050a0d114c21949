/* engine/kernels/swiglu.cu - a piece of a row per block, VECS times 8 results per thread.
 *
 * All loads of a thread are on their way before the first is used: 64 bytes each, 128 KiB per full SM.  What limits
 * it: memory.  With the fast exponential and reciprocal, 6 bytes cost some ten instructions: a fifth of what the SMs
 * could issue in that time (an exact division would make it a half). */
#include "engine/kernels/swiglu.h"

#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr uint32_t VALUES = 8, VECS = 2, THREADS = 256;

__device__ float silu_times(float gate, float up)
{
    constexpr float LOG2E = 1.4426950408889634f;

    return gate * reciprocal_fast(1.0f + exp2_fast(-gate * LOG2E)) * up;
}

/* Grid: rows * pieces, a piece being the columns of one block. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    swiglu_kernel(vec16 *out, const vec16 *gate_up, uint32_t vecs_per_row, uint32_t pieces)
{
    size_t row = blockIdx.x / pieces;
    uint32_t first = blockIdx.x % pieces * VECS * blockDim.x + threadIdx.x;
    const vec16 *gate = gate_up + row * 2 * vecs_per_row, *up = gate + vecs_per_row;
    vec16 g[VECS], u[VECS];

    gpu_wait_previous();
    for (uint32_t i = 0; i < VECS; i++) {
        uint32_t c = first + i * blockDim.x;
        if (c < vecs_per_row) {
            g[i] = load_streaming(gate + c);
            u[i] = load_streaming(up + c);
        }
    }
    for (uint32_t i = 0; i < VECS; i++) {
        uint32_t c = first + i * blockDim.x;
        vec16 v;
        if (c >= vecs_per_row)
            continue;
        for (int k = 0; k < 4; k++)
            v.w[k] = pack2<T>(silu_times(low2<T>(g[i].w[k]), low2<T>(u[i].w[k])),
                              silu_times(high2<T>(g[i].w[k]), high2<T>(u[i].w[k])));
        out[row * vecs_per_row + c] = v;
    }
}

template <class T> enum err launch(const struct swiglu_args *a, gpu_stream stream)
{
    uint32_t vecs = a->ffn / VALUES, each = (vecs + VECS - 1) / VECS;
    unsigned threads = each < THREADS ? (each + 31) / 32 * 32 : THREADS;
    uint32_t pieces = (vecs + VECS * threads - 1) / (VECS * threads);

    if ((uint64_t)a->rows * pieces > INT32_MAX)
        return ERR_INVALID;
    return gpu_launch_early<swiglu_kernel<T>>({a->rows * pieces, 1, 1, threads, 0}, stream,
                                              (vec16 *)a->out, (const vec16 *)a->gate_up, vecs,
                                              pieces);
}

} // namespace

extern "C" enum err swiglu(const struct swiglu_args *a, gpu_stream stream)
{
    if (a->ffn < VALUES || a->ffn > 1 << 20 || a->ffn % VALUES != 0 ||
        (a->dtype != GPU_BF16 && a->dtype != GPU_F16))
        return ERR_INVALID;
    if (a->rows == 0)
        return ERR_OK;
    return a->dtype == GPU_BF16 ? launch<bf16>(a, stream) : launch<f16>(a, stream);
}
