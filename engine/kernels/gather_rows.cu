/* engine/kernels/gather_rows.cu - one block per row, 16 bytes per thread and step. */
#include "engine/kernels/gather_rows.h"

#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr uint32_t VALUES = 8, THREADS = 512;

/* Grid: rows. */
__global__ void __launch_bounds__(THREADS)
    gather_rows_kernel(vec16 *out, const vec16 *table, const int32_t *index, uint32_t *bad,
                       uint32_t vecs_per_row, uint32_t first, uint32_t count, uint32_t total)
{
    gpu_wait_previous();
    int32_t i = index[blockIdx.x];
    vec16 *to = out + (size_t)blockIdx.x * vecs_per_row;
    /* Wraps where i is below first, or negative: then it is above any count. */
    uint32_t at = (uint32_t)i - first;
    bool here = at < count;

    if (threadIdx.x == 0 && bad != nullptr && i != -1 && (uint32_t)i >= total)
        atomicMax(bad, blockIdx.x + 1);
    for (uint32_t c = threadIdx.x; c < vecs_per_row; c += blockDim.x)
        to[c] = here ? load_streaming(table + (size_t)at * vecs_per_row + c) : vec16{};
}

} // namespace

extern "C" enum err gather_rows(const struct gather_rows_args *a, gpu_stream stream)
{
    uint32_t vecs = a->cols / VALUES;
    unsigned threads = vecs < THREADS ? (vecs + 31) / 32 * 32 : THREADS;

    if (a->cols < VALUES || a->cols > 1 << 20 || a->cols % VALUES != 0 || a->rows > INT32_MAX ||
        a->total > INT32_MAX || a->first > a->total || a->count > a->total - a->first)
        return ERR_INVALID;
    if (a->rows == 0)
        return ERR_OK;
    return gpu_launch_early<gather_rows_kernel>({a->rows, 1, 1, threads, 0}, stream,
                                                (vec16 *)a->out, (const vec16 *)a->table, a->index,
                                                a->bad, vecs, a->first, a->count, a->total);
}
