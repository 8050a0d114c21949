/* engine/kernels/attention_prefill.cu - see the header for the contract.
 *
 * Bound by the tensor cores.  A block takes 128 queries and walks over their keys, 64 at a time, keeping for every
 * query the highest score so far, the sum of weights and the weighted sum of values (online softmax).
 *
 *   query m of a tile  is row m / heads of the chunk's tile under query head m % heads of the group: all heads of
 *                      a group share the keys, so a short chunk fills a tile too
 *   warp w             has queries 32 w .. 32 w + 31 as two 16-row matrix operands: each piece of K and V that it
 *                      takes from shared memory serves both, or shared memory would be the limit
 *   key tile j         keys 64 j .. 64 j + 63 of the sequence, whatever the chunk: so a query's sums do not depend
 *                      on how its prompt was cut.  Two are in shared memory: while one is computed, cp.async brings
 *                      the next, and one barrier per tile keeps the two apart.
 *
 * Two blocks fit on a multiprocessor: one computes weights while the other's matrix steps run. */
#include "engine/kernels/attention_prefill.h"

#include "engine/kernels/attention.cuh"

namespace
{

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kQueries = 128, kWarpQueries = kQueries / kWarps;
constexpr int kKeys = 64;               /* of a tile */
constexpr int kTileBlocks = kKeys / 16; /* at most, that a tile of keys lies in */
constexpr int kBlocksPerProcessor = 2;
constexpr uint32_t kMaxTiles = 65536; /* times the heads, a grid that any device takes */

/* One block's tile. */
struct work {
    heads h;
    const uint32_t *table;
    int first_row, n_rows, position;
    int first, end; /* keys that some row sees */
    int all;        /* keys before it may be hidden by some row's window */
};

/* A thread's registers are all in use: what is the same for all threads is here, and so is the offset from which a
 * thread makes the addresses of its pieces of the queries, which otherwise would all be kept. */
template <int D> struct block_memory {
    vec16 q[kQueries * D / 8]; /* in the end, the results */
    vec16 kv[2][2][kKeys * D / 8];
    work w;
    int offset[kThreads];            /* of the thread's queries, for load_a */
    int last[kQueries];              /* visible key of each query; -1: there is no such query */
    int place[kQueries];             /* row in the tile * kHeadsAtOnce + head in the group */
    uint32_t blocks[2][kTileBlocks]; /* of the tile of keys that is loaded next */
};

__device__ __forceinline__ work work_of(const attention &a, const gpu_batch &b,
                                        const attention_chunk *tiles, int head_tiles)
{
    attention_chunk tile = tiles[blockIdx.x / head_tiles];
    work w;

    w.h = heads_of((int)blockIdx.x % head_tiles, (int)a.n_q_heads, (int)a.kv.n_kv_heads);
    w.table = b.blocks + (uint64_t)tile.slot * b.max_blocks;
    w.first_row = (int)tile.first_row;
    w.n_rows = min((int)tile.n_rows, kQueries / w.h.count);
    w.position = (int)tile.position;
    w.first = a.window != 0 ? max(0, w.position - (int)a.window + 1) : 0;
    w.all = a.window != 0 ? max(0, w.position + w.n_rows - (int)a.window) : 0;
    w.end = min(w.position + w.n_rows, (int)(b.max_blocks * a.kv.block_tokens));
    return w;
}

/* Which query each of the kQueries is; a division each, once. */
template <int D>
__device__ __forceinline__ void place_queries(block_memory<D> &shared, const work &w)
{
    static_assert(kQueries == kThreads, "a query to a thread");
    int m = threadIdx.x, row = m / w.h.count;

    shared.place[m] = row * kHeadsAtOnce + m % w.h.count;
    shared.last[m] = row < w.n_rows ? w.position + row : -1;
}

/* A query's first element in rows that are stride apart. */
__device__ __forceinline__ uint64_t query_at(const work &w, int place, uint32_t stride, int dim)
{
    return (uint64_t)(w.first_row + place / kHeadsAtOnce) * stride +
           (uint64_t)((w.h.first + place % kHeadsAtOnce) * dim);
}

template <int D>
__device__ __forceinline__ void load_queries(block_memory<D> &shared, const work &w,
                                             const attention &a)
{
    for (int i = threadIdx.x; i < kQueries * D / 8; i += kThreads) {
        int m = i / (D / 8), vec = i % (D / 8);
        bool there = shared.last[m] >= 0;
        cp_async16(&shared.q[rows_of<D>::at(m, vec)],
                   a.q + (there ? query_at(w, shared.place[m], a.q_stride, D) : 0) + vec * 8,
                   there);
    }
}

/* The number of this thread's block of the key tile at `key`, for the threads that carry one; 0 where no key is seen,
 * for what the table holds there may not even be a block. */
__device__ __forceinline__ uint32_t block_of(const work &w, int key, int block_shift)
{
    int block = (key >> block_shift) + (int)threadIdx.x, first = block << block_shift;
    bool seen = first < w.end && first + (1 << block_shift) > w.first;
    return threadIdx.x < kTileBlocks && seen ? w.table[block] : 0;
}

/* Start loading the keys from `key` on, zeros for those that nobody may see.  A thread's places in memory and in shared
 * memory differ from round to round by constants and by where the 16 keys' block lies: few registers. */
template <int D>
__device__ __forceinline__ void load_keys(vec16 (*to)[kKeys * D / 8], const uint32_t *blocks,
                                          int key, const work &w, const gpu_kv &kv, int block_shift)
{
    constexpr int kAcross = D % 64 == 0 ? 8 : 4,
                  kDown = kThreads / kAcross; /* threads to a row, rows to a round */
    /* The remainders say what the compiler cannot know: how many threads there are. */
    int row = (int)threadIdx.x / kAcross % kDown, vec = (int)threadIdx.x % kAcross,
        at = rows_of<D>::at(row, vec);

#pragma unroll
    for (int round = 0; round < kKeys / kDown; round++) {
        int run = (row + round * kDown) / 16 * 16; /* 16 keys lie in one block */
        uint32_t token = (uint32_t)(key + run) & (kv.block_tokens - 1);
        const uint8_t *from =
            key_at(kv, blocks[run >> block_shift], w.h.kv, token) + row % 16 * (D * 2) + vec * 16;
        bool seen = key + row + round * kDown >= w.first && key + row + round * kDown < w.end;
#pragma unroll
        for (int i = 0; i < D / 8 / kAcross; i++) {
            int place = at + round * kDown * (D / 8) + i * kAcross;
            cp_async16(&to[0][place], from + i * kAcross * 16, seen);
            cp_async16(&to[1][place], from + kv.v_offset + i * kAcross * 16, seen);
        }
    }
}

/* One warp's scores, its operands given by this lane's offsets in the shared memory.
 * s[i][n] is the 16 x 8 result of its queries 16 i .. by keys 8 n .. */
typedef float scores[2][kKeys / 8][4];

template <class T, int D>
__device__ __forceinline__ void score_keys(scores s, const unsigned char *shared, int queries,
                                           int keys)
{
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t rows[2][4];
        rows_of<D>::load_a(rows[0], shared, queries, 0, k);
        rows_of<D>::load_a(rows[1], shared, queries, 16, k);
#pragma unroll
        for (int n = 0; n < kKeys / 16; n++) {
            uint32_t b[4];
            rows_of<D>::load_keys(b, shared, keys, 16 * n, k);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_16816<T>(s[i][2 * n], rows[i], b);
                mma_16816<T>(s[i][2 * n + 1], rows[i], b + 2);
            }
        }
    }
}

/* Of each query, hide the keys after its own and before its window. */
__device__ __forceinline__ void hide_keys(scores s, const int *last, int key, int window)
{
    int lane = threadIdx.x % 32, t = lane % 4, first = threadIdx.x / 32 * kWarpQueries + lane / 4;

#pragma unroll
    for (int r = 0; r < 4; r++) { /* this lane's queries: g, g + 8, g + 16, g + 24 */
        int high = last[first + 8 * r] - key, low = window != 0 ? high - window : -kKeys;
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int at = 8 * n + 2 * t + c;
                if (at > high || at <= low)
                    s[r / 2][n][r % 2 * 2 + c] = -INFINITY;
            }
        }
    }
}

/* The state of this lane's four queries; sum is of its own keys only. */
template <int D> struct running {
    float max[4], sum[4];
    float out[2][D / 8][4];
};

/* Scores to weights relative to the new maxima, after shrinking what is there to them.  A query that has seen no key
 * yet keeps -inf, and zero sums.  Skipping the product with 1 leaves the same bits as doing it. */
template <int D> __device__ __forceinline__ void weigh(running<D> &run, scores s, float scale)
{
    bool moved = false;
    float shrink[4];

#pragma unroll
    for (int r = 0; r < 4; r++) {
        float high = -INFINITY;
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++)
            high = fmaxf(high, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
        high = fmaxf(run.max[r], quad_max(high));
        moved |= high != run.max[r];
        shrink[r] = high == -INFINITY ? 1.0f : exp2_fast((run.max[r] - high) * scale);
        run.max[r] = high;
        run.sum[r] *= shrink[r];
    }
    if (__any_sync(0xffffffffu, moved)) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
#pragma unroll
                for (int c = 0; c < 4; c++)
                    run.out[i][n][c] *= shrink[2 * i + c / 2];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float base = run.max[r] == -INFINITY ? 0.0f : run.max[r] * scale;
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float &v = s[r / 2][n][r % 2 * 2 + c];
                v = exp2_fast(__fmaf_rn(v, scale, -base));
                run.sum[r] += v;
            }
        }
    }
}

template <class T, int D>
__device__ __forceinline__ void add_values(running<D> &run, const scores s,
                                           const unsigned char *shared, int values)
{
#pragma unroll
    for (int k = 0; k < kKeys / 16; k++) {
        uint32_t p[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int c = 0; c < 4; c++)
                p[i][c] =
                    pack2<T>(s[i][2 * k + c / 2][c % 2 * 2], s[i][2 * k + c / 2][c % 2 * 2 + 1]);
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            rows_of<D>::load_values(b, shared, values, 16 * k, n);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_16816<T>(run.out[i][2 * n], p[i], b);
                mma_16816<T>(run.out[i][2 * n + 1], p[i], b + 2);
            }
        }
    }
}

/* Results go where the warp's own queries were, and from there to memory in whole 16 bytes. */
template <class T, int D>
__device__ __forceinline__ void store_results(block_memory<D> &shared, running<D> &run,
                                              const work &w, const attention &a)
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4,
        first = threadIdx.x / 32 * kWarpQueries;

    __syncwarp(); /* all lanes have read their queries */
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float sum = quad_sum(run.sum[r]), share = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            shared.q[rows_of<D>::at(first + 8 * r + g, n)].w[t] = pack2<T>(
                run.out[r / 2][n][r % 2 * 2] * share, run.out[r / 2][n][r % 2 * 2 + 1] * share);
    }
    __syncwarp();
    for (int i = lane; i < kWarpQueries * D / 8; i += 32) {
        int m = first + i / (D / 8), vec = i % (D / 8);
        if (shared.last[m] >= 0)
            *(vec16 *)(a.out + query_at(w, shared.place[m], a.out_stride, D) + vec * 8) =
                shared.q[rows_of<D>::at(m, vec)];
    }
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    prefill_kernel(const attention a, const gpu_batch b, const attention_chunk *tiles,
                   int head_tiles, int block_shift)
{
    GPU_SHARED_DYNAMIC(bytes);
    block_memory<D> &shared = *(block_memory<D> *)bytes;
    static_assert(sizeof(shared) <= kSharedPerBlock, "two blocks fit");
    float scale = a.scale * kLog2e;
    int lane = threadIdx.x % 32;
    int keys = rows_of<D>::as_keys(lane) + (int)sizeof(shared.q);
    int values = rows_of<D>::as_rows(lane) + (int)(sizeof(shared.q) + sizeof(shared.kv[0][0]));
    running<D> run = {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, {}, {}};

    if (threadIdx.x == 0)
        shared.w = work_of(a, b, tiles, head_tiles);
    __syncthreads();
    const work &w = shared.w;
    int key = w.first / kKeys * kKeys, buffer = 0;
    if (threadIdx.x < kTileBlocks)
        shared.blocks[0][threadIdx.x] = block_of(w, key, block_shift);
    shared.offset[threadIdx.x] =
        rows_of<D>::as_rows(lane) + (int)threadIdx.x / 32 * kWarpQueries * D * 2;
    place_queries<D>(shared, w);
    __syncthreads();
    gpu_wait_previous(); /* up to here only the step's metadata was read */
    load_queries<D>(shared, w, a);
    load_keys<D>(shared.kv[0], shared.blocks[0], key, w, a.kv, block_shift);
    cp_async_commit();
    if (threadIdx.x < kTileBlocks)
        shared.blocks[1][threadIdx.x] = block_of(w, key + kKeys, block_shift);

    for (; key < w.end; key += kKeys, buffer ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* this tile is there, and the other buffer has been read by all */
        uint32_t ahead = block_of(w, key + 2 * kKeys, block_shift);
        if (key + kKeys < w.end)
            load_keys<D>(shared.kv[buffer ^ 1], shared.blocks[buffer ^ 1], key + kKeys, w, a.kv,
                         block_shift);
        cp_async_commit();

        scores s = {};
        score_keys<T, D>(s, bytes, shared.offset[threadIdx.x],
                         keys + buffer * (int)sizeof(shared.kv[0]));
        if (key + kKeys > w.position + 1 || key < w.all)
            hide_keys(s, shared.last, key, (int)a.window);
        weigh<D>(run, s, scale);
        add_values<T, D>(run, s, bytes, values + buffer * (int)sizeof(shared.kv[0]));
        if (threadIdx.x < kTileBlocks)
            shared.blocks[buffer][threadIdx.x] = ahead; /* read two tiles on, past a barrier */
    }
    store_results<T, D>(shared, run, w, a);
}
template <class T, int D>
enum err launch(const struct attention *a, const struct gpu_batch *b,
                const struct attention_chunk *tiles, uint32_t n_tiles, gpu_stream stream)
{
    uint32_t parts = head_tiles(a->n_q_heads, a->kv.n_kv_heads);
    int shift = 0;

    while (1u << shift < a->kv.block_tokens)
        shift++;
    return gpu_launch_early<prefill_kernel<T, D>>(
        {n_tiles * parts, 1, 1, kThreads, sizeof(block_memory<D>)}, stream, *a, *b, tiles,
        (int)parts, shift);
}

/* The last key of a tile says how long it takes. */
bool longer(const attention_chunk &x, const attention_chunk &y)
{
    return x.position + x.n_rows > y.position + y.n_rows;
}

/* Heap sort: in place, bounded, no library that allocates. */
void sift(attention_chunk *tiles, uint32_t at, uint32_t n)
{
    while (2 * at + 1 < n) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < n && longer(tiles[child], tiles[child + 1]))
            child++;
        if (!longer(tiles[at], tiles[child]))
            return;
        attention_chunk kept = tiles[at];
        tiles[at] = tiles[child];
        tiles[child] = kept;
        at = child;
    }
}

} // namespace

extern "C" uint32_t attention_prefill_tile_rows(uint32_t n_q_heads, uint32_t n_kv_heads)
{
    if (n_kv_heads == 0 || n_q_heads == 0 || n_q_heads % n_kv_heads != 0)
        return 0;
    uint32_t group = n_q_heads / n_kv_heads;
    return kQueries / (group < kHeadsAtOnce ? group : kHeadsAtOnce);
}

extern "C" uint32_t attention_prefill_tiles(const struct attention_chunk *chunks, uint32_t n_chunks,
                                            uint32_t tile_rows, struct attention_chunk *tiles,
                                            uint32_t max_tiles)
{
    uint32_t n = 0;

    if (tile_rows == 0)
        return 0;
    for (uint32_t c = 0; c < n_chunks; c++) {
        for (uint32_t row = 0; row < chunks[c].n_rows; row += tile_rows) {
            uint32_t left = chunks[c].n_rows - row;
            if (n == max_tiles)
                return 0;
            tiles[n++] = {chunks[c].slot, chunks[c].first_row + row,
                          left < tile_rows ? left : tile_rows, chunks[c].position + row};
        }
    }
    for (uint32_t i = n / 2; i-- > 0;)
        sift(tiles, i, n);
    for (uint32_t i = n; i-- > 1;) {
        attention_chunk shortest = tiles[0];
        tiles[0] = tiles[i];
        tiles[i] = shortest;
        sift(tiles, 0, i);
    }
    return n;
}

extern "C" enum err attention_prefill(const struct attention *a, const struct gpu_batch *b,
                                      const struct attention_chunk *tiles, uint32_t n_tiles,
                                      gpu_stream stream)
{
    if (!attention_valid(a, b->max_blocks) || n_tiles > kMaxTiles)
        return ERR_INVALID;
    if (n_tiles == 0)
        return ERR_OK;

    bool bf = a->kv.dtype == GPU_BF16;
    switch (a->kv.head_dim) {
    case 64:
        return bf ? launch<bf16, 64>(a, b, tiles, n_tiles, stream)
                  : launch<f16, 64>(a, b, tiles, n_tiles, stream);
    case 96:
        return bf ? launch<bf16, 96>(a, b, tiles, n_tiles, stream)
                  : launch<f16, 96>(a, b, tiles, n_tiles, stream);
    default:
        return bf ? launch<bf16, 128>(a, b, tiles, n_tiles, stream)
                  : launch<f16, 128>(a, b, tiles, n_tiles, stream);
    }
}
