/* engine/kernels/kv_digest.cu - pieces of 16 KiB of the runs, dealt to the blocks in turn.
 *
 * A word costs two multiplications of 32 x 32 -> 64 bits and four additions: a third of what the SMs could do while
 * memory gives them the words, so memory is the limit.  Sums are mod 2^64: their order does not matter. */
#include "engine/kernels/kv_digest.h"

#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr uint32_t THREADS = 256, VECS = 4, PIECE = THREADS * VECS * 16;
constexpr uint32_t BLOCKS = 132 * 8; /* fills the SMs of an H100 */

/* As in proto/wire_kv.c, whose word index counts mod 2^32 alone. */
constexpr uint32_t DIGEST_WORD = 0x9e3779b1u, DIGEST_INDEX = 0x85ebca77u;

__device__ uint64_t scrambled(uint64_t salt)
{
    uint64_t x = salt + 0x9e3779b97f4a7c15ull;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

__device__ uint64_t digest_word(uint64_t start, uint32_t index, uint32_t w)
{
    uint64_t y = start + (uint64_t)w * DIGEST_WORD;
    uint32_t high = (uint32_t)(y >> 32) + index * DIGEST_INDEX;

    return (uint64_t)(uint32_t)y * high;
}

/* This thread's share of `bytes` <= PIECE bytes whose first word has this index. */
__device__ uint64_t digest_vecs(const uint8_t *from, uint32_t bytes, uint32_t index, uint64_t start)
{
    uint32_t n = bytes / 16;
    vec16 v[VECS];
    uint64_t sum = 0;

    for (uint32_t i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * THREADS;
        if (c < n)
            v[i] = load_streaming(from + c * 16);
    }
    for (uint32_t i = 0; i < VECS; i++) {
        uint32_t c = threadIdx.x + i * THREADS;
        for (uint32_t k = 0; k < 4 && c < n; k++)
            sum += digest_word(start, index + c * 4 + k, v[i].w[k]);
    }
    return sum;
}

__device__ uint64_t digest_words(const uint8_t *from, uint32_t bytes, uint32_t index,
                                 uint64_t start)
{
    uint64_t sum = 0;

    for (uint32_t i = threadIdx.x; i < bytes / 4; i += THREADS)
        sum += digest_word(start, index + i, ((const uint32_t *)from)[i]);
    return sum;
}

/* Over the block, in thread 0. */
__device__ uint64_t block_sum(uint64_t v)
{
    GPU_SHARED(uint64_t, sums, THREADS / 32);

    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = v;
    __syncthreads();
    for (uint32_t i = 1; i < THREADS / 32 && threadIdx.x == 0; i++)
        v += sums[i];
    return v;
}

__global__ void __launch_bounds__(THREADS)
    kv_digest_kernel(const uint8_t *base, const struct kv_memory_run *runs, uint32_t n_items,
                     uint32_t pieces_per_run, unsigned long long *digest)
{
    uint64_t sum = 0;

    for (uint32_t i = blockIdx.x; i < n_items; i += gridDim.x) {
        const struct kv_memory_run *run = &runs[i / pieces_per_run];
        uint64_t at = (uint64_t)(i % pieces_per_run) * PIECE, len = run->len;
        if (at >= len)
            continue;
        const uint8_t *from = base + run->at + at;
        uint32_t bytes = len - at < PIECE ? (uint32_t)(len - at) : PIECE;
        uint32_t index = (uint32_t)((run->canonical + at) / 4);
        uint64_t start = scrambled(run->salt);
        if ((((uintptr_t)from | bytes) & 15) == 0)
            sum += digest_vecs(from, bytes, index, start);
        else
            sum += digest_words(from, bytes, index, start);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        atomicAdd(digest, (unsigned long long)sum);
}

} // namespace

extern "C" enum err kv_digest(const struct kv_digest_args *a, gpu_stream stream)
{
    uint64_t pieces = a->longest / PIECE + (a->longest % PIECE != 0);
    uint32_t limit = a->blocks == 0 ? BLOCKS : a->blocks;
    enum err err;

    if (a->n_runs > 0 && (pieces == 0 || pieces > INT32_MAX / a->n_runs))
        return ERR_INVALID;
    if ((err = gpu_fill(a->digest, 0, sizeof(*a->digest), stream)) != ERR_OK || a->n_runs == 0)
        return err;
    uint32_t items = (uint32_t)pieces * a->n_runs;
    return gpu_launch<kv_digest_kernel>({items < limit ? items : limit, 1, 1, THREADS, 0}, stream,
                                        (const uint8_t *)a->base, a->runs, items, (uint32_t)pieces,
                                        (unsigned long long *)a->digest);
}
