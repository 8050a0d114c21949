/* engine/kernels/fill_random.cu - see the header.  A grid-stride loop, 8 elements per thread and turn. */
#include "engine/kernels/gpu_kernel.cuh"

#include "engine/kernels/fill_random.h"

namespace
{

constexpr int kBlock = 256;
constexpr int kVec = 8;
constexpr uint64_t kBlocksMax = 1024;

/* splitmix64: every bit of the counter reaches every bit of the result. */
__device__ uint32_t hash(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 40);
}

/* 24 bits: exact in a float. */
__device__ float uniform(uint64_t seed, uint64_t i)
{
    return (float)hash(seed, i) * (1.0f / 8388608.0f) - 1.0f;
}

template <class T>
__global__ void fill_kernel(vec16 *y, uint64_t n_vecs, float mean, float spread, uint64_t seed)
{
    uint64_t step = (uint64_t)gridDim.x * kBlock;

    for (uint64_t v = (uint64_t)blockIdx.x * kBlock + threadIdx.x; v < n_vecs; v += step) {
        vec16 out;
        for (int k = 0; k < kVec / 2; k++) {
            uint64_t i = v * kVec + 2 * (uint64_t)k;
            out.w[k] = pack2<T>(__fadd_rn(mean, __fmul_rn(spread, uniform(seed, i))),
                                __fadd_rn(mean, __fmul_rn(spread, uniform(seed, i + 1))));
        }
        y[v] = out;
    }
}

} // namespace

extern "C" enum err fill_random(uint16_t *y, uint64_t n, float mean, float spread, uint64_t seed,
                                enum gpu_dtype dtype, gpu_stream stream)
{
    if (y == nullptr || (uintptr_t)y % 16 != 0 || n == 0)
        return ERR_INVALID;
    uint64_t vecs = (n + kVec - 1) / kVec, blocks = (vecs + kBlock - 1) / kBlock;
    struct gpu_dims d = {(unsigned)(blocks < kBlocksMax ? blocks : kBlocksMax), 1, 1, kBlock, 0};

    if (dtype == GPU_F16)
        return gpu_launch<fill_kernel<f16>>(d, stream, (vec16 *)y, vecs, mean, spread, seed);
    return gpu_launch<fill_kernel<bf16>>(d, stream, (vec16 *)y, vecs, mean, spread, seed);
}
