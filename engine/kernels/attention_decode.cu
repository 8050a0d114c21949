/* engine/kernels/attention_decode.cu - see the header for the contract.
 *
 * Bound by reading K and V once.  The rows' splits, times the KV heads, form one list of items; as many blocks as fit
 * on the device at once take them by turns, so no length costs idle blocks and the launch does not depend on lengths.
 *
 *   item    one split (256 keys as a rule) of one row under the query heads of one KV head
 *   chunk   16 keys of an item, always inside one KV block: warp w takes chunks w, w + 4, ...
 *
 * Each warp feeds itself: it owns a ring of chunks in shared memory that cp.async fills while it computes, and goes on
 * filling it from the next item across the end of this one.  So 64 KiB per block stay under way whatever the block
 * waits for, and the loop over keys has no barrier.  The heads of a group are the rows of a 16-row matrix step; what is
 * left of the 16 is wasted, which the tensor cores can afford: 128 steps per 32 KiB are about a tenth of the time that
 * the memory needs for them.  At the end of an item the four warps' sums meet in shared memory.  A row of one split is
 * then done; otherwise its partial sums go to the workspace, and the block that counts the row's last split adds
 * them up, in the order of the splits. */
#include "engine/kernels/attention_decode.h"

#include "engine/kernels/attention.cuh"

namespace
{

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kChunk = 16;             /* keys */
constexpr int kStep = kWarps * kChunk; /* keys from a warp's chunk to its next */
constexpr int kMergeRows = 4;          /* query heads merged at once: as many as there are warps */
constexpr int kMaxSplits = 128;        /* of a row */
constexpr int kBlocksPerProcessor = 2;

struct alignas(8) weight {
    float max, sum; /* of base-2 exponents, and of 2^(exponent - max) */
};
struct alignas(16) float4x {
    float v[4];
};
struct alignas(8) half4x {
    uint32_t w[2];
};

/* Lies in this order in the caller's workspace. */
struct partials {
    uint32_t *finished; /* [row][head tile]: splits done; zero between launches */
    weight *weights;    /* [row][query head][split] */
    float *sums;        /* [row][query head][split][D], relative to weights */
};

/* The ring is as deep as two blocks on one multiprocessor can have it. */
template <int D> struct block_memory {
    static constexpr int kStages = 384 / D;
    static constexpr int kVectors = kChunk * D / 8; /* of K, and of V, of a chunk */

    vec16 ring[kWarps][kStages][2][kVectors];
    float sums[kWarps][kMergeRows][D + 8]; /* 8 more: rows start in different banks */
    weight weights[kWarps][kHeadsAtOnce];
    float shares[kMergeRows][kMaxSplits]; /* of each split in a row's result */
    int last;
};

/* What a launch is about, beside the operands. */
struct plan {
    int max_splits;    /* room per row in the workspace */
    int splits_wanted; /* no more per row */
    int head_tiles;
    int block_shift; /* of block_tokens */
    int max_context;
    float scale; /* to base-2 exponents */
};

/* A row's keys and how they are cut: by position, window and plan alone. */
struct cut {
    int first, end; /* visible keys */
    int base;       /* first, down to a chunk's start */
    int keys;       /* of a split, the last may have fewer */
    int splits;
};

__device__ __forceinline__ cut cut_of(int position, int window, const plan &p)
{
    cut c;
    c.end = min(position + 1, p.max_context);
    c.first = window != 0 && c.end > window ? c.end - window : 0;
    c.base = c.first / kChunk * kChunk;
    c.keys = (c.end - c.base + p.splits_wanted - 1) / p.splits_wanted;
    c.keys = max((int)ATTENTION_DECODE_KEYS, (c.keys + kStep - 1) / kStep * kStep);
    c.splits = (c.end - c.base + c.keys - 1) / c.keys;
    return c;
}

/* ends[row] = items of rows 0 .. row. */
__device__ __forceinline__ void count_items(int *ends, const attention &a, const gpu_batch &b,
                                            const plan &p)
{
    int n = (int)b.n_rows, lane = threadIdx.x % 32, sum = 0;

#pragma unroll 1
    for (int r = threadIdx.x; r < n; r += kThreads)
        ends[r] = b.slot[r] < 0 || b.position[r] < 0
                      ? 0
                      : cut_of(b.position[r], (int)a.window, p).splits * p.head_tiles;
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int first = 0; first < n; first += 32) {
            int v = first + lane < n ? ends[first + lane] : 0;
            for (int by = 1; by < 32; by *= 2) {
                int below = __shfl_up_sync(0xffffffffu, v, by);
                v += lane >= by ? below : 0;
            }
            if (first + lane < n)
                ends[first + lane] = sum + v;
            sum += __shfl_sync(0xffffffffu, v, 31);
        }
    }
    __syncthreads();
}

struct item {
    int row, slot, tile, split, splits;
    int first, end; /* visible keys of the row in this split */
    int base;       /* key of the split's first chunk */
};

__device__ __forceinline__ item item_of(int index, const int *ends, const attention &a,
                                        const gpu_batch &b, const plan &p)
{
    int row = 0, above = (int)b.n_rows - 1;
    while (row < above) { /* the first row whose end is beyond index */
        int middle = (row + above) / 2;
        if (ends[middle] <= index)
            row = middle + 1;
        else
            above = middle;
    }
    index -= row == 0 ? 0 : ends[row - 1];

    cut c = cut_of(b.position[row], (int)a.window, p);
    item it;
    it.row = row;
    it.slot = b.slot[row];
    it.tile = index % p.head_tiles;
    it.split = index / p.head_tiles;
    it.splits = c.splits;
    it.base = c.base + it.split * c.keys;
    it.first = c.first;
    it.end = min(c.end, it.base + c.keys);
    return it;
}

/* The chunks of one warp, item after item, one chunk ahead of what is being loaded: so the wait for a block's number
 * in the table is over when it is needed. */
struct feed {
    int index, n_items; /* of the item; no chunk is left once index >= n_items */
    const uint32_t *table;
    int kv_head, first, end, key;
    uint32_t block;
};

__device__ __forceinline__ void feed_enter(feed &f, const int *ends, const attention &a,
                                           const gpu_batch &b, const plan &p)
{
    item it = item_of(f.index, ends, a, b, p);
    f.table = b.blocks + (uint64_t)it.slot * b.max_blocks;
    f.kv_head = heads_of(it.tile, (int)a.n_q_heads, (int)a.kv.n_kv_heads).kv;
    f.first = it.first;
    f.end = it.end;
    f.key = it.base + (int)threadIdx.x / 32 * kChunk;
}

/* Pass over items in which this warp has no chunk (left), then ask for the chunk's block. */
__device__ __forceinline__ void feed_settle(feed &f, const int *ends, const attention &a,
                                            const gpu_batch &b, const plan &p)
{
    while (f.index < f.n_items && f.key >= f.end) {
        f.index += gridDim.x;
        if (f.index < f.n_items)
            feed_enter(f, ends, a, b, p);
    }
    if (f.index < f.n_items)
        f.block = f.table[f.key >> p.block_shift];
}

/* Start loading the chunk, zeros for keys that the row may not see, and go on to the next. */
template <int D>
__device__ __forceinline__ void feed_load(feed &f, vec16 (*to)[block_memory<D>::kVectors],
                                          const int *ends, const attention &a, const gpu_batch &b,
                                          const plan &p)
{
    if (f.index < f.n_items) {
        constexpr int kAcross = D % 64 == 0 ? 8 : 4,
                      kDown = 32 / kAcross; /* lanes to a row, rows to a round */
        int lane = threadIdx.x % 32, row = lane / kAcross, vec = lane % kAcross;
        const uint8_t *from =
            key_at(a.kv, f.block, f.kv_head, ((uint32_t)f.key & (a.kv.block_tokens - 1)) + row) +
            vec * 16;
#pragma unroll
        for (int down = 0; down < kChunk; down += kDown) {
            int key = f.key + row + down;
            bool seen = key >= f.first && key < f.end;
#pragma unroll
            for (int across = 0; across < D / 8; across += kAcross) {
                int at = rows_of<D>::at(row + down, vec + across);
                cp_async16(&to[0][at], from + (down * D * 2 + across * 16), seen);
                cp_async16(&to[1][at], from + a.kv.v_offset + (down * D * 2 + across * 16), seen);
            }
        }
        f.key += kStep;
        feed_settle(f, ends, a, b, p);
    }
    cp_async_commit(); /* an empty group keeps the count */
}

/* The item's query heads as the rows of an a operand, straight from memory. */
template <int D>
__device__ __forceinline__ void load_queries(uint32_t q[D / 16][4], const item &it,
                                             const attention &a)
{
    heads h = heads_of(it.tile, (int)a.n_q_heads, (int)a.kv.n_kv_heads);
    const uint16_t *from = a.q + (uint64_t)it.row * a.q_stride + h.first * D;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int head = g + i % 2 * 8;
            q[k][i] =
                head < h.count
                    ? load_fresh((const uint32_t *)(from + head * D + k * 16 + i / 2 * 8 + 2 * t))
                    : 0;
        }
    }
}

/* One warp's sums over its chunks of an item: of rows g (index 0) and g + 8 (1); sum is of this lane's keys only. */
template <int D> struct running {
    float max[2], sum[2];
    float out[D / 8][4];
};

template <class T, int D>
__device__ __forceinline__ void add_chunk(running<D> &run, const uint32_t q[D / 16][4],
                                          const vec16 (*chunk)[block_memory<D>::kVectors], int key,
                                          const item &it, float scale)
{
    int lane = threadIdx.x % 32, t = lane % 4;
    const unsigned char *keys = (const unsigned char *)chunk[0],
                        *values = (const unsigned char *)chunk[1];
    float s[2][4] = {};

#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t b[4];
        rows_of<D>::load_keys(b, keys, rows_of<D>::as_keys(lane), 0, k);
        mma_16816<T>(s[0], q[k], b);
        mma_16816<T>(s[1], q[k], b + 2);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        s[i / 4][i % 4] *= scale;
    if (key < it.first || key + kChunk > it.end) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int at = key + i / 4 * 8 + 2 * t + i % 2;
            if (at < it.first || at >= it.end)
                s[i / 4][i % 4] = -INFINITY;
        }
    }

    /* Every chunk has a visible key, so the new maxima are finite. */
    float high[2], shrink[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
        high[r] = fmaxf(run.max[r], quad_max(m));
    }
    if (__any_sync(0xffffffffu, high[0] != run.max[0] || high[1] != run.max[1])) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            shrink[r] = exp2_fast(run.max[r] - high[r]);
            run.max[r] = high[r];
            run.sum[r] *= shrink[r];
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                run.out[n][i] *= shrink[i / 2];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        s[i / 4][i % 4] = exp2_fast(s[i / 4][i % 4] - high[i % 4 / 2]);
        run.sum[i % 4 / 2] += s[i / 4][i % 4];
    }

    uint32_t p[4] = {pack2<T>(s[0][0], s[0][1]), pack2<T>(s[0][2], s[0][3]),
                     pack2<T>(s[1][0], s[1][1]), pack2<T>(s[1][2], s[1][3])};
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        rows_of<D>::load_values(b, values, rows_of<D>::as_rows(lane), 0, n);
        mma_16816<T>(run.out[2 * n], p, b);
        mma_16816<T>(run.out[2 * n + 1], p, b + 2);
    }
}

template <class T>
__device__ __forceinline__ void store_result(const attention &a, int row, int column,
                                             const float v[4])
{
    *(half4x *)(a.out + (uint64_t)row * a.out_stride +
                column) = {{pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3])}};
}

/* Of the workspace's [row][query head][split]. */
__device__ __forceinline__ uint64_t partial_at(const attention &a, const plan &p, int row, int head,
                                               int split)
{
    return ((uint64_t)row * a.n_q_heads + head) * p.max_splits + split;
}

/* The sums of the four warps to one, kMergeRows query heads at a time; to the output if it is all of the row, else to
 * the workspace. */
template <class T, int D>
__device__ __forceinline__ void merge_warps(block_memory<D> &shared, running<D> &run,
                                            const item &it, const heads &h, const attention &a,
                                            const plan &p, const partials &to)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float sum[2] = {quad_sum(run.sum[0]), quad_sum(run.sum[1])};

#pragma unroll
    for (int pass = 0; pass < kHeadsAtOnce / kMergeRows; pass++) {
        if (pass * kMergeRows >= h.count)
            break;
        __syncthreads(); /* what was there has been read */
        if (pass == 0 && t == 0) {
            shared.weights[warp][g] = {run.max[0], sum[0]};
            shared.weights[warp][g + 8] = {run.max[1], sum[1]};
        }
        if (g / kMergeRows == pass % 2) {
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                float *out = &shared.sums[warp][g % kMergeRows][8 * n + 2 * t];
                out[0] = run.out[n][pass / 2 * 2];
                out[1] = run.out[n][pass / 2 * 2 + 1];
            }
        }
        __syncthreads();

        int r = (int)threadIdx.x / (D / 4), column = threadIdx.x % (D / 4) * 4,
            head = pass * kMergeRows + r;
        if (r < kMergeRows && head < h.count) {
            float4x all = {};
            weight w = {-INFINITY, 0.0f};
            for (int i = 0; i < kWarps; i++)
                w.max = fmaxf(w.max, shared.weights[i][head].max);
            for (int i = 0; i < kWarps; i++) {
                float share = exp2_fast(shared.weights[i][head].max - w.max);
                w.sum += share * shared.weights[i][head].sum;
                for (int k = 0; k < 4; k++)
                    all.v[k] += share * shared.sums[i][r][column + k];
            }
            if (it.splits == 1) {
                float whole = 1.0f / w.sum;
                for (int k = 0; k < 4; k++)
                    all.v[k] *= whole;
                store_result<T>(a, it.row, (h.first + head) * D + column, all.v);
            } else {
                uint64_t at = partial_at(a, p, it.row, h.first + head, it.split);
                *(float4x *)&to.sums[at * D + column] = all;
                if (column == 0)
                    to.weights[at] = w;
            }
        }
    }
}

/* Of the block that finished a row's last split: add up what all of them left. */
template <class T, int D>
__device__ __forceinline__ void add_splits(block_memory<D> &shared, const item &it, const heads &h,
                                           const attention &a, const plan &p, const partials &from)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int r = (int)threadIdx.x / (D / 4), column = threadIdx.x % (D / 4) * 4;

#pragma unroll 1
    for (int head = 0; head < h.count; head += kMergeRows) {
        if (head + warp < h.count) {
            const weight *w = &from.weights[partial_at(a, p, it.row, h.first + head + warp, 0)];
            weight all = {-INFINITY, 0.0f};
#pragma unroll 1
            for (int s = lane; s < it.splits; s += 32)
                all.max = fmaxf(all.max, w[s].max);
            all.max = warp_max(all.max);
#pragma unroll 1
            for (int s = lane; s < it.splits; s += 32)
                all.sum += exp2_fast(w[s].max - all.max) * w[s].sum;
            all.sum = warp_sum(all.sum);
#pragma unroll 1
            for (int s = lane; s < it.splits; s += 32)
                shared.shares[warp][s] = exp2_fast(w[s].max - all.max) / all.sum;
        }
        __syncthreads();
        if (r < kMergeRows && head + r < h.count) {
            const float *sums =
                &from.sums[partial_at(a, p, it.row, h.first + head + r, 0) * D + column];
            float4x all = {};
#pragma unroll 8
            for (int s = 0; s < it.splits; s++) {
                float4x part = *(const float4x *)&sums[s * D];
                for (int k = 0; k < 4; k++)
                    all.v[k] += shared.shares[r][s] * part.v[k];
            }
            store_result<T>(a, it.row, (h.first + head + r) * D + column, all.v);
        }
        __syncthreads();
    }
}

/* True in all threads of the block that counts an item's row complete.  What the others wrote before they counted is
 * then seen by all its threads. */
__device__ __forceinline__ bool count_split(int *last, uint32_t *finished, int splits)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        *last = atomicAdd(finished, 1u) + 1 == (uint32_t)splits;
        if (*last) {
            *finished = 0;
            __threadfence(); /* what the others left is read after they have counted */
        }
    }
    __syncthreads();
    return *last;
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    decode_kernel(const attention a, const gpu_batch b, const plan p, const partials work)
{
    using memory = block_memory<D>;
    static_assert(sizeof(memory) + ATTENTION_DECODE_MAX_ROWS * sizeof(int) <= kSharedPerBlock,
                  "two blocks fit");
    GPU_SHARED_DYNAMIC(bytes);
    memory &shared = *(memory *)bytes;
    int *ends = (int *)(bytes + sizeof(memory));
    int warp = threadIdx.x / 32, index = blockIdx.x, stage = 0;
    feed f = {};

    count_items(ends, a, b, p);
    f.n_items = ends[b.n_rows - 1];
    f.index = index;
    if (index < f.n_items) {
        feed_enter(f, ends, a, b, p);
        feed_settle(f, ends, a, b, p);
    }
    gpu_wait_previous(); /* up to here only the step's metadata was read */
    if (index >= f.n_items)
        return;

    for (int i = 0; i < memory::kStages - 1; i++)
        feed_load<D>(f, shared.ring[warp][i], ends, a, b, p);

    item it = item_of(index, ends, a, b, p);
    uint32_t q[D / 16][4];
    load_queries<D>(q, it, a);
    while (true) {
        running<D> run = {{-INFINITY, -INFINITY}, {}, {}};
        for (int key = it.base + warp * kChunk; key < it.end; key += kStep) {
            cp_async_wait<memory::kStages - 2>();
            __syncwarp(); /* all lanes' parts of this chunk are there, and all are done with the one before it */
            feed_load<D>(f, shared.ring[warp][stage == 0 ? memory::kStages - 1 : stage - 1], ends,
                         a, b, p);
            add_chunk<T, D>(run, q, shared.ring[warp][stage], key, it, p.scale);
            stage = stage + 1 == memory::kStages ? 0 : stage + 1;
        }

        item done = it;
        heads h = heads_of(done.tile, (int)a.n_q_heads, (int)a.kv.n_kv_heads);
        index += gridDim.x;
        if (index < f.n_items) { /* the next queries are under way while this item ends */
            it = item_of(index, ends, a, b, p);
            load_queries<D>(q, it, a);
        }
        merge_warps<T, D>(shared, run, done, h, a, p, work);
        if (done.splits > 1 &&
            count_split(&shared.last, &work.finished[done.row * p.head_tiles + done.tile],
                        done.splits))
            add_splits<T, D>(shared, done, h, a, p, work);
        if (index >= f.n_items)
            return;
    }
}

size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* Enough splits for a row alone to keep a device busy, so few that the workspace stays small. */
plan plan_of(const struct attention *a, uint32_t max_blocks)
{
    plan p = {};
    p.head_tiles = (int)head_tiles(a->n_q_heads, a->kv.n_kv_heads);
    p.splits_wanted = 256 / p.head_tiles;
    p.splits_wanted = p.splits_wanted < 16           ? 16
                      : p.splits_wanted > kMaxSplits ? kMaxSplits
                                                     : p.splits_wanted;
    p.max_context = (int)(max_blocks * a->kv.block_tokens);
    int keys = p.max_context;
    if (a->window != 0 && a->window + kChunk < (uint32_t)keys)
        keys = (int)a->window + kChunk; /* a window starts anywhere in a chunk */
    p.max_splits = (keys + (int)ATTENTION_DECODE_KEYS - 1) / (int)ATTENTION_DECODE_KEYS;
    p.max_splits = p.max_splits > p.splits_wanted ? p.splits_wanted : p.max_splits;
    while (1u << p.block_shift < a->kv.block_tokens)
        p.block_shift++;
    p.scale = a->scale * kLog2e;
    return p;
}

/* Where the parts lie from base; returns the bytes of all.  The counters come first and have room for any number of
 * rows: what one launch leaves as a sum, no other takes for a counter. */
size_t place(partials *to, unsigned char *base, const struct attention *a, const plan &p,
             uint32_t n_rows)
{
    size_t counters =
        aligned((size_t)ATTENTION_DECODE_MAX_ROWS * (size_t)p.head_tiles * sizeof(uint32_t));
    size_t n = (size_t)n_rows * a->n_q_heads * (size_t)p.max_splits;
    size_t weights = aligned(n * sizeof(weight));

    to->finished = (uint32_t *)base;
    to->weights = (weight *)(base + counters);
    to->sums = (float *)(base + counters + weights);
    return counters + weights + n * a->kv.head_dim * sizeof(float);
}

template <class T, int D>
enum err launch(const struct attention *a, const struct gpu_batch *b, const plan &p,
                const partials &work, uint32_t n_multiprocessors, gpu_stream stream)
{
    size_t shared = sizeof(block_memory<D>) + (size_t)b->n_rows * sizeof(int);
    uint64_t items = (uint64_t)b->n_rows * (uint64_t)p.head_tiles * (uint64_t)p.max_splits;
    uint64_t at_once = (uint64_t)n_multiprocessors * kBlocksPerProcessor;
    unsigned blocks = (unsigned)(items < at_once ? items : at_once);

    return gpu_launch_early<decode_kernel<T, D>>({blocks, 1, 1, kThreads, shared}, stream, *a, *b,
                                                 p, work);
}

bool valid(const struct attention *a, uint32_t n_rows, uint32_t max_blocks)
{
    return attention_valid(a, max_blocks) && n_rows <= ATTENTION_DECODE_MAX_ROWS;
}

} // namespace

extern "C" size_t attention_decode_workspace(const struct attention *a, uint32_t n_rows,
                                             uint32_t max_blocks)
{
    partials unused;

    if (!valid(a, n_rows, max_blocks))
        return 0;
    return place(&unused, nullptr, a, plan_of(a, max_blocks), n_rows);
}

extern "C" enum err attention_decode(const struct attention *a, const struct gpu_batch *b,
                                     void *workspace, uint32_t n_multiprocessors, gpu_stream stream)
{
    if (!valid(a, b->n_rows, b->max_blocks) || n_multiprocessors == 0)
        return ERR_INVALID;
    if (b->n_rows == 0)
        return ERR_OK;

    plan p = plan_of(a, b->max_blocks);
    partials work;
    place(&work, (unsigned char *)workspace, a, p, b->n_rows);
    bool bf = a->kv.dtype == GPU_BF16;
    switch (a->kv.head_dim) {
    case 64:
        return bf ? launch<bf16, 64>(a, b, p, work, n_multiprocessors, stream)
                  : launch<f16, 64>(a, b, p, work, n_multiprocessors, stream);
    case 96:
        return bf ? launch<bf16, 96>(a, b, p, work, n_multiprocessors, stream)
                  : launch<f16, 96>(a, b, p, work, n_multiprocessors, stream);
    default:
        return bf ? launch<bf16, 128>(a, b, p, work, n_multiprocessors, stream)
                  : launch<f16, 128>(a, b, p, work, n_multiprocessors, stream);
    }
}
