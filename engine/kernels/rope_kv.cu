/* engine/kernels/rope_kv.cu - one block per row; a thread has 8 pairs of up to HEADS heads at a time.
 *
 * Thread t works on the pairs 8 * (t % chunks) .. + 7, of the heads t / chunks, t / chunks + groups, ...: the 8
 * angles (64 bytes) are read once per thread and stay in registers.  The row's values are asked for before its
 * slot and block are known, so that the two latencies overlap.  What limits it: memory. */
#include "engine/kernels/rope_kv.h"

#include "engine/kernels/gpu_kernel.cuh"

namespace
{

constexpr uint32_t VALUES = 8, HEADS = 2, THREADS = 512;

struct shape {
    uint32_t vecs_per_row, n_heads, n_kv_heads, chunks, groups;
};

struct angle8 {
    float cos[VALUES], sin[VALUES];
};

__device__ angle8 load_angles(const float *angles, size_t position, uint32_t chunk, uint32_t chunks)
{
    const vec16 *from = (const vec16 *)angles + (position * chunks + chunk) * 4;
    angle8 out;

    for (int i = 0; i < 4; i++) {
        vec16 v = from[i];
        out.cos[2 * i] = __uint_as_float(v.w[0]);
        out.sin[2 * i] = __uint_as_float(v.w[1]);
        out.cos[2 * i + 1] = __uint_as_float(v.w[2]);
        out.sin[2 * i + 1] = __uint_as_float(v.w[3]);
    }
    return out;
}

template <class T> __device__ void rotate(vec16 &lo, vec16 &hi, const angle8 &turn)
{
    for (int k = 0; k < 4; k++) {
        float a0 = low2<T>(lo.w[k]), a1 = high2<T>(lo.w[k]), b0 = low2<T>(hi.w[k]),
              b1 = high2<T>(hi.w[k]);
        float c0 = turn.cos[2 * k], c1 = turn.cos[2 * k + 1], s0 = turn.sin[2 * k],
              s1 = turn.sin[2 * k + 1];
        lo.w[k] = pack2<T>(a0 * c0 - b0 * s0, a1 * c1 - b1 * s1);
        hi.w[k] = pack2<T>(b0 * c0 + a0 * s0, b1 * c1 + a1 * s1);
    }
}

/* Where the row's token stands in K of kv head 0, or NULL if it has no place. */
__device__ uint8_t *place(const gpu_batch &batch, const gpu_kv &kv, int32_t slot, uint32_t position)
{
    uint32_t entry = position / kv.block_tokens;

    if (entry >= batch.max_blocks)
        return nullptr;
    uint32_t block = batch.blocks[(size_t)slot * batch.max_blocks + entry];
    if (block >= kv.n_blocks)
        return nullptr;
    return kv.k + block * kv.block_stride + (size_t)(position % kv.block_tokens) * kv.head_dim * 2;
}

/* The heads first, first + groups, ... of the row. */
__device__ void load(vec16 *lo, vec16 *hi, const vec16 *in, uint32_t first, uint32_t total,
                     const shape &s)
{
    for (uint32_t j = 0; j < HEADS; j++) {
        uint32_t h = first + j * s.groups;
        if (h < total) {
            lo[j] = load_fresh(in + h * 2 * s.chunks);
            hi[j] = load_fresh(in + (h * 2 + 1) * s.chunks);
        }
    }
}

/* Grid: rows. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    rope_kv_kernel(vec16 *qkv, const float *angles, uint32_t n_positions, gpu_batch batch,
                   gpu_kv kv, shape s)
{
    uint32_t chunk = threadIdx.x % s.chunks, group = threadIdx.x / s.chunks;
    uint32_t rotated = s.n_heads + s.n_kv_heads, total = rotated + s.n_kv_heads;
    vec16 *row = qkv + (size_t)blockIdx.x * s.vecs_per_row + chunk;
    int32_t slot = batch.slot[blockIdx.x];
    uint32_t position = (uint32_t)batch.position[blockIdx.x];
    vec16 lo[HEADS], hi[HEADS];

    gpu_wait_previous();
    if (group >= s.groups)
        return;
    load(lo, hi, row, group, total, s);
    if ((uint32_t)slot >= batch.n_slots || position >= n_positions) /* filler is negative */
        return;
    angle8 turn = load_angles(angles, position, chunk, s.chunks);
    uint8_t *token = place(batch, kv, slot, position);
    size_t head_bytes = (size_t)kv.block_tokens * kv.head_dim * 2;
    for (uint32_t first = group; first < total;) {
        for (uint32_t j = 0; j < HEADS; j++) {
            uint32_t h = first + j * s.groups;
            vec16 *to = row + h * 2 * s.chunks;
            if (h >= total || (h >= s.n_heads && token == nullptr))
                continue;
            if (h < rotated)
                rotate<T>(lo[j], hi[j], turn);
            if (h >= rotated)
                to = (vec16 *)(token + kv.v_offset + (h - rotated) * head_bytes) + chunk;
            else if (h >= s.n_heads)
                to = (vec16 *)(token + (h - s.n_heads) * head_bytes) + chunk;
            to[0] = lo[j];
            to[s.chunks] = hi[j];
        }
        first += HEADS * s.groups;
        load(lo, hi, row, first, total, s);
    }
}

template <class T> enum err launch(const struct rope_kv_args *a, gpu_stream stream)
{
    struct shape s = {a->row_stride / VALUES, a->n_heads, a->kv.n_kv_heads,
                      a->kv.head_dim / (2 * VALUES), 0};
    uint32_t total = s.n_heads + 2 * s.n_kv_heads;
    /* Every thread gets HEADS heads, or more where that would be too many threads. */
    uint32_t threads = ((total + HEADS - 1) / HEADS * s.chunks + 31) / 32 * 32;

    threads = threads > THREADS ? THREADS : threads;
    s.groups = threads / s.chunks;
    return gpu_launch_early<rope_kv_kernel<T>>({a->batch.n_rows, 1, 1, threads, 0}, stream,
                                               (vec16 *)a->qkv, a->angles, a->n_positions, a->batch,
                                               a->kv, s);
}

} // namespace

extern "C" enum err rope_kv(const struct rope_kv_args *a, gpu_stream stream)
{
    const struct gpu_kv *kv = &a->kv;
    uint64_t heads = (uint64_t)a->n_heads + 2ull * kv->n_kv_heads;

    if (kv->head_dim < 16 || kv->head_dim > 256 || kv->head_dim % 16 != 0 || a->n_heads == 0 ||
        kv->n_kv_heads == 0 || heads > 4096 || a->row_stride % VALUES != 0 ||
        a->row_stride < heads * kv->head_dim || kv->v_offset % 16 != 0 ||
        kv->block_stride % 16 != 0 || kv->block_tokens == 0 ||
        (kv->block_tokens & (kv->block_tokens - 1)) != 0 || a->batch.n_rows > INT32_MAX ||
        (kv->dtype != GPU_BF16 && kv->dtype != GPU_F16))
        return ERR_INVALID;
    if (a->batch.n_rows == 0)
        return ERR_OK;
    return kv->dtype == GPU_BF16 ? launch<bf16>(a, stream) : launch<f16>(a, stream);
}

extern "C" void rope_kv_angles(float *angles, const double *inv_freq, uint32_t head_dim,
                               uint32_t first, uint32_t n)
{
    for (uint32_t p = 0; p < n; p++) {
        for (uint32_t i = 0; i < head_dim / 2; i++) {
            double angle = (double)(first + p) * inv_freq[i];
            *angles++ = (float)cos(angle);
            *angles++ = (float)sin(angle);
        }
    }
}
