/* engine/kernels/kv_move.cu - pieces of 16 KiB of the runs, dealt to few blocks in turn. */
#include "engine/kernels/kv_move.h"

#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr uint32_t THREADS = 256, VECS = 4, PIECE = THREADS * VECS * 16;

/* All loads before the first store: the latency of the bus is paid once per piece. */
__device__ void move_vecs(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    uint32_t n = bytes / 16;
    vec16 v[VECS];

    for (uint32_t i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * THREADS;
        if (c < n)
            v[i] = load_streaming(from + c * 16);
    }
    for (uint32_t i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * THREADS;
        if (c < n)
            ((vec16 *)to)[c] = v[i];
    }
}

__device__ void move_words(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += THREADS)
        ((uint32_t *)to)[i] = ((const uint32_t *)from)[i];
}

template <bool OUT>
__global__ void __launch_bounds__(THREADS)
    kv_move_kernel(uint8_t *base, uint8_t *dense, const struct kv_memory_run *runs,
                   uint32_t n_items, uint32_t pieces_per_run)
{
    for (uint32_t i = blockIdx.x; i < n_items; i += gridDim.x) {
        const struct kv_memory_run *run = &runs[i / pieces_per_run];
        uint64_t at = (uint64_t)(i % pieces_per_run) * PIECE, len = run->len;
        if (at >= len)
            continue;
        uint8_t *in_pool = base + run->at + at, *in_dense = dense + run->host + at;
        uint8_t *to = OUT ? in_dense : in_pool;
        const uint8_t *from = OUT ? in_pool : in_dense;
        uint32_t bytes = len - at < PIECE ? (uint32_t)(len - at) : PIECE;
        if ((((uintptr_t)to | (uintptr_t)from | bytes) & 15) == 0)
            move_vecs(to, from, bytes);
        else
            move_words(to, from, bytes);
    }
}

template <bool OUT> enum err launch(const struct kv_move_args *a, gpu_stream stream)
{
    uint64_t pieces = a->longest / PIECE + (a->longest % PIECE != 0);
    uint32_t limit = a->blocks == 0 ? (uint32_t)KV_MOVE_BLOCKS : a->blocks;

    if (a->n_runs == 0)
        return ERR_OK;
    if (pieces == 0 || pieces > INT32_MAX / a->n_runs)
        return ERR_INVALID;
    uint32_t items = (uint32_t)pieces * a->n_runs;
    return gpu_launch<kv_move_kernel<OUT>>({items < limit ? items : limit, 1, 1, THREADS, 0},
                                           stream, (uint8_t *)a->base, (uint8_t *)a->dense, a->runs,
                                           items, (uint32_t)pieces);
}

} // namespace

extern "C" enum err kv_gather(const struct kv_move_args *a, gpu_stream stream)
{
    return launch<true>(a, stream);
}

extern "C" enum err kv_scatter(const struct kv_move_args *a, gpu_stream stream)
{
    return launch<false>(a, stream);
}
