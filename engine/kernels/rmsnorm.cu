/* engine/kernels/rmsnorm.cu - one block per row, which stays in registers between the sum and the scaling.
 *
 * A thread holds VECS times 16 bytes, so that a row is read once: 2 up to 16,384 columns (an SM then has up to 64 KiB
 * of loads in flight, enough to cover the latency of memory), 4 above.  A row of up to 512 columns is one warp's and
 * needs no barrier.  What limits it: memory; for the few rows of a decode step, the latency of one load, one
 * reduction and the launch (2 to 3 us). */
#include "engine/kernels/rmsnorm.h"

#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr uint32_t COLS_MAX = 32768, VALUES = 8; /* of 16 bytes */

/* The same in every thread. */
__device__ float block_sum(float v)
{
    GPU_SHARED(float, sums, 32);
    unsigned warps = blockDim.x / 32, lane = threadIdx.x % 32;

    v = warp_sum(v);
    if (warps == 1)
        return v;
    if (lane == 0)
        sums[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane < warps ? sums[lane] : 0.0f);
}

/* residual + x, rounded to the type. */
template <class T> __device__ vec16 add(vec16 a, vec16 b)
{
    vec16 sum;

    for (int k = 0; k < 4; k++)
        sum.w[k] = pack2<T>(low2<T>(a.w[k]) + low2<T>(b.w[k]), high2<T>(a.w[k]) + high2<T>(b.w[k]));
    return sum;
}

template <class T> __device__ float squares(vec16 v)
{
    float sum = 0.0f;

    for (int k = 0; k < 4; k++) {
        float lo = low2<T>(v.w[k]), hi = high2<T>(v.w[k]);
        sum += lo * lo + hi * hi;
    }
    return sum;
}

template <class T> __device__ vec16 scaled(vec16 v, vec16 w, float scale)
{
    vec16 out;

    for (int k = 0; k < 4; k++)
        out.w[k] = pack2<T>(low2<T>(v.w[k]) * scale * low2<T>(w.w[k]),
                            high2<T>(v.w[k]) * scale * high2<T>(w.w[k]));
    return out;
}

/* Grid: rows.  y may be x: a thread writes only what it has read itself. */
template <class T, int VECS, bool ADD>
__global__ void __launch_bounds__(1024)
    rmsnorm_kernel(vec16 *y, vec16 *residual, const vec16 *x, const vec16 *w, uint32_t vecs_per_row,
                   float inv_cols, float eps)
{
    size_t row = (size_t)blockIdx.x * vecs_per_row;
    vec16 v[VECS] = {}, before[VECS] = {}, weight[VECS] = {};
    constexpr bool AHEAD = VECS <= 2; /* registers have room for the weights from the start */
    float sum = 0.0f;

    /* All loads first: they are on their way together, and the weights before the row is there. */
    for (int i = 0; i < VECS && AHEAD; i++) {
        uint32_t c = threadIdx.x + i * blockDim.x;
        if (c < vecs_per_row)
            weight[i] = w[c];
    }
    gpu_wait_previous();
    for (int i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * blockDim.x;
        if (c >= vecs_per_row)
            continue;
        v[i] = load_fresh(x + row + c);
        if (ADD)
            before[i] = load_fresh(residual + row + c);
    }
    for (int i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * blockDim.x;
        if (ADD) {
            v[i] = add<T>(before[i], v[i]);
            if (c < vecs_per_row)
                residual[row + c] = v[i];
        }
        sum += squares<T>(v[i]);
    }
    float scale = rsqrtf(block_sum(sum) * inv_cols + eps);
    for (int i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * blockDim.x;
        if (c < vecs_per_row)
            y[row + c] = scaled<T>(v[i], AHEAD ? weight[i] : w[c], scale);
    }
}

template <class T, int VECS> enum err launch(const struct rmsnorm_args *a, gpu_stream stream)
{
    uint32_t vecs = a->cols / VALUES;
    unsigned threads = ((vecs + VECS - 1) / VECS + 31) / 32 * 32;
    struct gpu_dims d = {a->rows, 1, 1, threads, 0};
    auto *y = (vec16 *)a->y, *residual = (vec16 *)a->residual;
    auto *x = (const vec16 *)a->x, *w = (const vec16 *)a->w;
    float inv_cols = 1.0f / (float)a->cols;

    if (residual != nullptr)
        return gpu_launch_early<rmsnorm_kernel<T, VECS, true>>(d, stream, y, residual, x, w, vecs,
                                                               inv_cols, a->eps);
    return gpu_launch_early<rmsnorm_kernel<T, VECS, false>>(d, stream, y, residual, x, w, vecs,
                                                            inv_cols, a->eps);
}

template <class T> enum err launch(const struct rmsnorm_args *a, gpu_stream stream)
{
    return a->cols <= 16384 ? launch<T, 2>(a, stream) : launch<T, 4>(a, stream);
}

} // namespace

extern "C" enum err rmsnorm(const struct rmsnorm_args *a, gpu_stream stream)
{
    if (a->cols < VALUES || a->cols > COLS_MAX || a->cols % VALUES != 0 || a->rows > INT32_MAX ||
        (a->dtype != GPU_BF16 && a->dtype != GPU_F16))
        return ERR_INVALID;
    if (a->rows == 0)
        return ERR_OK;
    return a->dtype == GPU_BF16 ? launch<bf16>(a, stream) : launch<f16>(a, stream);
}
