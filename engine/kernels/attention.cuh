/* engine/kernels/attention.cuh - what the two attention kernels share: the checks and rows in shared memory. */
#ifndef ENGINE_KERNELS_ATTENTION_CUH
#define ENGINE_KERNELS_ATTENTION_CUH

#include "engine/kernels/attention.h"
#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr int kHeadsAtOnce = 16; /* query heads of a group that go through a tile together */
constexpr size_t kSharedPerBlock =
    113 * 1024; /* most, for two blocks on a multiprocessor of an H100 */
constexpr float kLog2e = 1.44269504088896340736f;

inline bool power_of_two(uint32_t v)
{
    return v != 0 && (v & (v - 1)) == 0;
}

/* The limits of attention.h, for a table of max_blocks. */
inline bool attention_valid(const struct attention *a, uint32_t max_blocks)
{
    const struct gpu_kv *kv = &a->kv;
    if (kv->head_dim != 64 && kv->head_dim != 96 && kv->head_dim != 128)
        return false;
    if (kv->dtype != GPU_BF16 && kv->dtype != GPU_F16)
        return false;
    if (!power_of_two(kv->block_tokens) || kv->block_tokens < 16 || kv->block_tokens > 256)
        return false;
    if (kv->n_kv_heads == 0 || a->n_q_heads == 0 || a->n_q_heads % kv->n_kv_heads != 0 ||
        a->n_q_heads > 8192)
        return false;
    if (kv->v_offset % 16 != 0 || kv->block_stride % 16 != 0 || a->q_stride % 8 != 0 ||
        a->out_stride % 8 != 0)
        return false;
    if (max_blocks == 0 || (uint64_t)max_blocks * kv->block_tokens > ATTENTION_MAX_CONTEXT)
        return false;
    return a->window <= INT32_MAX && a->scale > 0.0f;
}

/* Parts of at most kHeadsAtOnce query heads that all groups together are cut into. */
inline uint32_t head_tiles(uint32_t n_q_heads, uint32_t n_kv_heads)
{
    uint32_t group = n_q_heads / n_kv_heads;
    return n_kv_heads * ((group + kHeadsAtOnce - 1) / kHeadsAtOnce);
}

/* The query heads of one of those parts. */
struct heads {
    int kv, first, count;
};
__device__ __forceinline__ heads heads_of(int tile, int n_q_heads, int n_kv_heads)
{
    int group = n_q_heads / n_kv_heads, parts = (group + kHeadsAtOnce - 1) / kHeadsAtOnce;
    int kv = tile / parts, part = tile % parts;
    return {kv, kv * group + part * kHeadsAtOnce, min(kHeadsAtOnce, group - part * kHeadsAtOnce)};
}

/* Rows of D 16-bit values in shared memory, as 16-byte vectors.  A row's vectors are exchanged by its number so that
 * the same vector of 8 neighbouring rows, which one ldmatrix reads, lies in all 32 banks.
 *
 * A lane finds its part of a 16 x 16 piece from the offset of its part of piece 0 (as_rows, as_keys) by flipping and
 * adding constants, which costs less than keeping an address for each piece: pieces lie 16 columns apart, and the
 * first row of a piece is a multiple of 16. */
template <int D> struct rows_of {
    static constexpr int kVecs = D / 8, kBytes = D * 2;

    static __device__ __forceinline__ int at(int row, int vec)
    {
        return row * kVecs + (vec ^ (kVecs % 8 == 0 ? row & 7 : row >> 1 & 3));
    }
    /* Bytes from the first row to this lane's row of piece 0: for load_a and load_values, and for load_keys. */
    static __device__ __forceinline__ int as_rows(int lane)
    {
        return at(lane % 16, lane / 16) * 16;
    }
    static __device__ __forceinline__ int as_keys(int lane)
    {
        return at(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
    }
    static __device__ __forceinline__ int piece(int lane_offset, int row, int n)
    {
        constexpr int kFlip =
            kVecs % 8 == 0 ? kBytes - 1 : 63; /* the bits of an offset that rows exchange */
        return (lane_offset ^ (n * 32 & kFlip)) + (n * 32 & ~kFlip) + row * kBytes;
    }

    /* Piece n of rows row .. row + 15 as the a operand of mma_16816; offset: as_rows() from base. */
    static __device__ __forceinline__ void load_a(uint32_t a[4], const unsigned char *base,
                                                  int offset, int row, int n)
    {
        ldmatrix_x4(a, base + piece(offset, row, n));
    }
    /* 16 keys by 16 dimensions as two b operands, b[0..1] of the first 8 keys; offset: as_keys() from base. */
    static __device__ __forceinline__ void load_keys(uint32_t b[4], const unsigned char *base,
                                                     int offset, int row, int n)
    {
        ldmatrix_x4(b, base + piece(offset, row, n));
    }
    /* 16 values by 16 dimensions as two b operands, b[0..1] of the first 8 dimensions; offset: as_rows() from base. */
    static __device__ __forceinline__ void load_values(uint32_t b[4], const unsigned char *base,
                                                       int offset, int row, int n)
    {
        ldmatrix_x4_trans(b, base + piece(offset, row, n));
    }
};

/* K of one token; V is v_offset bytes on. */
__device__ __forceinline__ const uint8_t *key_at(const gpu_kv &kv, uint32_t block, int head,
                                                 uint32_t token)
{
    return kv.k + block * kv.block_stride +
           (uint64_t)((uint32_t)head * kv.block_tokens + token) * kv.head_dim * 2;
}

/* Over the four lanes that hold one row of a matrix step's result. */
__device__ __forceinline__ float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
__device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

} // namespace

#endif
