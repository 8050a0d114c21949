/* engine/kernels/gemv.cu - few rows of x against w at the speed of reading w once.
 *
 * A block makes kRows output channels; its warps share k between them.  Per load a lane takes 16 bytes of one row of w,
 * four lanes 64 adjacent ones, and a warp has 8 such loads in flight (4 of 8-bit weights): 64 KiB per
 * block (32), where an H100 needs some 20 KiB per multiprocessor to cover the latency of its memory at full speed.
 *
 * The sums run on tensor cores, because then 8 rows cost what one costs.  w is the 16 x 16 operand of mma_16816 (16
 * channels), x the 16 x 8 one (8 rows).  The fragments want k = 2t, 2t+1, 2t+8, 2t+9 in lane t, where 16-byte
 * loads put 8t .. 8t+7 there; since a sum does not ask which k is which, each pair of 32-bit words is simply taken for
 * those four, in w and in x alike:
 *
 *   lane t of row g loads   w[g][8t .. 8t+7]  = words 0 1 | 2 3        x the same of its row
 *   first mma: words 0 and 1 as (2t, 2t+1) and (2t+8, 2t+9); second mma: words 2 and 3
 *
 * x (at most 16 rows) is read straight from the caches by each warp for its share of k.  The warps' sums meet in shared
 * memory and are added in the order of the warps. */
#include "engine/kernels/eight_bit.cuh"
#include "engine/kernels/gemv.h"

namespace
{

constexpr unsigned kWarps = 16, kBlock = 32 * kWarps;
constexpr unsigned kTile = 16, kTiles = 2,
                   kRows = kTile * kTiles; /* channels of an mma, of a block */

/* What 16 bytes of weights are as words of two values of T. */
template <class T, class W> struct weights {
    static constexpr unsigned kPerLoad = 16, kWords = 8;
    static __device__ __forceinline__ void unpack(uint32_t out[kWords], vec16 in)
    {
#pragma unroll
        for (unsigned i = 0; i < kWords; i++)
            out[i] = pack2<T>(W::to_float(in.w[i / 2], i % 2 * 2),
                              W::to_float(in.w[i / 2], i % 2 * 2 + 1));
    }
};
template <class T> struct weights<T, T> {
    static constexpr unsigned kPerLoad = 8, kWords = 4;
    static __device__ __forceinline__ void unpack(uint32_t out[kWords], vec16 in)
    {
#pragma unroll
        for (unsigned i = 0; i < kWords; i++)
            out[i] = in.w[i];
    }
};

template <class T>
__device__ __forceinline__ void finish(const gemv_args &a, unsigned m, unsigned n, float sum)
{
    size_t at = m * a.y_stride + n;

    if (a.scale != nullptr)
        sum *= a.scale[n];
    if (a.bias != nullptr)
        sum += to_float(T{a.bias[n]});
    if (a.y_f32) {
        float *y = (float *)a.y;
        y[at] = a.add ? sum + y[at] : sum;
    } else {
        T *y = (T *)a.y;
        y[at] = from_float<T>(a.add ? sum + to_float(y[at]) : sum);
    }
}

/* One share of k: kUnroll loads along k of 2 * kTiles rows of w, and what belongs to them of kParts * 8 rows of x.
 * All of it is in registers at once: what fits in 64 of them lets two blocks share a multiprocessor. */
template <class T, class W, unsigned kParts> struct share {
    using format = weights<T, W>;
    static constexpr unsigned kBytes = sizeof(W);
    static constexpr unsigned kUnroll = kParts == 1 && kBytes == 1 ? 1 : 2;
    /* Loads of 16-bit weights are taken in pairs that lie side by side, those of 8-bit ones one by one: so a warp's k
     * and their order are the same for few rows and many. */
    static constexpr unsigned kLoad = 4 * format::kPerLoad;
    static constexpr unsigned kNext = kBytes == 1 ? kWarps * kLoad : kLoad; /* from load to load */
    static constexpr unsigned kWarpFirst = kBytes == 1 ? kLoad : 2 * kLoad; /* from warp to warp */

    vec16 w[kUnroll][kTiles][2];
    vec16 x[kUnroll][kParts][format::kWords / 4];

    /* No load depends on a condition, so that all are on their way before the first is waited for: rows that
     * are not there are the last one again, whose results nobody stores; behind the end of k x counts as zero. */
    __device__ __forceinline__ void load_weights(const gemv_args &a, unsigned first_n, unsigned k)
    {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
        for (unsigned u = 0; u < kUnroll; u++) {
            unsigned at = k + u * kNext + t * format::kPerLoad;
            at = at < a.k ? at : 0;
#pragma unroll
            for (unsigned i = 0; i < 2 * kTiles; i++) {
                unsigned n = first_n + i * 8 + g;
                n = n < a.n ? n : a.n - 1;
                w[u][i / 2][i % 2] =
                    load_streaming((const uint8_t *)a.w + ((size_t)n * a.k + at) * kBytes);
            }
        }
    }

    __device__ __forceinline__ void load_rows(const gemv_args &a, unsigned k)
    {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
        for (unsigned u = 0; u < kUnroll; u++) {
            unsigned at = k + u * kNext + t * format::kPerLoad;
            bool there = at < a.k;
            at = there ? at : 0;
#pragma unroll
            for (unsigned p = 0; p < kParts; p++) {
                unsigned m = p * 8 + g;
                const vec16 *row =
                    (const vec16 *)(a.x + (m < a.rows ? m : a.rows - 1) * a.x_stride + at);
#pragma unroll
                for (unsigned i = 0; i < format::kWords / 4; i++) {
                    x[u][p][i] = load_fresh(row + i);
                    for (uint32_t &word : x[u][p][i].w)
                        word = there ? word : 0;
                }
            }
        }
    }

    __device__ __forceinline__ void multiply(float sums[kTiles][kParts][4]) const
    {
#pragma unroll
        for (unsigned u = 0; u < kUnroll; u++) {
#pragma unroll
            for (unsigned r = 0; r < kTiles; r++) {
                uint32_t upper[format::kWords], lower[format::kWords];
                format::unpack(upper, w[u][r][0]);
                format::unpack(lower, w[u][r][1]);
#pragma unroll
                for (unsigned i = 0; i < format::kWords; i += 2) {
                    uint32_t fragment[4] = {upper[i], lower[i], upper[i + 1], lower[i + 1]};
#pragma unroll
                    for (unsigned p = 0; p < kParts; p++)
                        mma_16816<T>(sums[r][p], fragment, &x[u][p][i / 4].w[i % 4]);
                }
            }
        }
    }
};

/* grid: n / kRows.  kParts: 1 for up to 8 rows, 2 for up to 16. */
template <class T, class W, unsigned kParts>
__global__ void __launch_bounds__(kBlock, kParts == 1 ? 2 : 1) gemv_kernel(gemv_args a)
{
    using part = share<T, W, kParts>;
    GPU_SHARED(float, shared, kWarps *kParts * 8 * kRows); /* [warp][row of x][channel] */
    unsigned warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    unsigned first_n = blockIdx.x * kRows;
    float sums[kTiles][kParts][4] = {};

    /* The first weights are on their way while the kernel before still makes x. */
    part s;
    unsigned k = warp * part::kWarpFirst;
    s.load_weights(a, first_n, k);
    gpu_wait_previous();
    while (k < a.k) {
        s.load_rows(a, k);
        s.multiply(sums);
        k += kWarps * part::kUnroll * part::kLoad;
        if (k < a.k)
            s.load_weights(a, first_n, k);
    }
#pragma unroll
    for (unsigned r = 0; r < kTiles; r++)
#pragma unroll
        for (unsigned p = 0; p < kParts; p++)
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
                shared[(warp * kParts * 8 + p * 8 + 2 * t + i % 2) * kRows +
                       ((r * kTile + i / 2 * 8 + g) ^ 8 * t)] = sums[r][p][i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < kParts * 8 * kRows; i += kBlock) {
        unsigned m = i / kRows, n = first_n + (i % kRows ^ m / 2 % 4 * 8);
        float sum = 0.0f;
        for (unsigned s = 0; s < kWarps; s++)
            sum += shared[s * kParts * 8 * kRows + i];
        if (m < a.rows && n < a.n)
            finish<T>(a, m, n, sum);
    }
}

template <class T, class W> enum err launch(const struct gemv_args *a, gpu_stream stream)
{
    struct gpu_dims d = {(a->n + kRows - 1) / kRows, 1, 1, kBlock, 0};

    return a->rows <= 8 ? gpu_launch_early<gemv_kernel<T, W, 1>>(d, stream, *a)
                        : gpu_launch_early<gemv_kernel<T, W, 2>>(d, stream, *a);
}

template <class T> enum err choose(const struct gemv_args *a, gpu_stream stream)
{
    return a->weight == GPU_WEIGHT_16     ? launch<T, T>(a, stream)
           : a->weight == GPU_WEIGHT_E4M3 ? launch<T, e4m3>(a, stream)
           : a->weight == GPU_WEIGHT_INT8 ? launch<T, int8>(a, stream)
                                          : ERR_INVALID;
}

} // namespace

extern "C" enum err gemv(const struct gemv_args *a, gpu_stream stream)
{
    uint32_t unit = a->weight == GPU_WEIGHT_16 ? 8 : 16;

    if (a->rows < 1 || a->rows > GEMV_ROWS || a->n < 1 || a->n > INT32_MAX || a->k < unit ||
        a->k % unit != 0 || a->k > INT32_MAX / 2 || a->x_stride % 8 != 0 ||
        (uintptr_t)a->x % 16 != 0 || (uintptr_t)a->w % 16 != 0 ||
        (a->scale == nullptr) != (a->weight == GPU_WEIGHT_16))
        return ERR_INVALID;
    return a->dtype == GPU_BF16  ? choose<bf16>(a, stream)
           : a->dtype == GPU_F16 ? choose<f16>(a, stream)
                                 : ERR_INVALID;
}
