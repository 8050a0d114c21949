/* engine/kernels/sample.cu - see sample.h for the contract and engine_sample.c for the definition.
 *
 *   scan   every block a part of a row: edits, then the largest logit of each run of 128 tokens
 *   weigh  the same parts, rows that draw without top_k: the weight of each run
 *   pick   a block per row: thresholds of top_k and top_p, weights of what is kept, the draw
 *
 * scan reads the logits once and is bound by that; weigh reads them from the second-level cache and is bound by the 30
 * instructions of a weight, spread over the device.  pick would be slow if one block read a whole row often, so it
 * looks at a run only if its largest logit can matter.  A threshold is found by its digits, 8 bits a time, from a
 * histogram of the candidates; the first candidates are the runs' largest logits: when those of some runs already
 * reach the target, no token below them can be the threshold, which usually leaves a few dozen runs to read.  For flat
 * distributions it leaves all of them: about five passes of one block, some 100 us by the count of instructions.
 *
 * Sums are of integers and every key is distinct, so no order of threads or blocks shows in a token. */
#include "engine/kernels/gpu_kernel.cuh"

#include <float.h>

#include "engine/engine_philox.h"
#include "engine/engine_sample_math.h"
#include "engine/kernels/sample.h"

namespace
{

constexpr unsigned RUN = 128;          /* tokens that share a maximum: 4 of each lane */
constexpr unsigned PART_THREADS = 256; /* of scan and weigh */
constexpr unsigned PICK_THREADS = 512;
constexpr unsigned BATCH = 4; /* runs that a warp has in flight */
constexpr unsigned BLOCKS =
    528; /* wanted of scan and weigh: four for each of 132 multiprocessors */
constexpr unsigned DIGITS = 256; /* of a key, 8 bits */
constexpr unsigned COPIES = 8;   /* of a histogram, so that lanes seldom add to the same word */
constexpr unsigned ALL = 0xffffffffu;

static_assert(PICK_THREADS >= DIGITS, "a thread folds the copies of one digit");

/* A key orders tokens: larger logit first, then lower id.  56 bits, distinct. */
constexpr int ID_BITS = 24;
constexpr uint64_t ID_MASK = (1u << ID_BITS) - 1;

__device__ __forceinline__ uint64_t key_of(float logit, uint32_t id)
{
    return (uint64_t)engine_rank(logit) << ID_BITS | (ID_MASK - id);
}
__device__ __forceinline__ float logit_of(uint64_t key)
{
    uint32_t rank = (uint32_t)(key >> ID_BITS);

    return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}

struct workspace {
    unsigned long long *run_sum; /* [n_rows][n_runs] */
    float *run_max;              /* [n_rows][n_runs] */
};

__host__ __device__ __forceinline__ unsigned run_count(uint32_t vocab)
{
    return (vocab + RUN - 1) / RUN;
}
__device__ __forceinline__ workspace row_workspace(const sample_args &a, unsigned row)
{
    size_t n = run_count(a.vocab);
    auto *sums = (unsigned long long *)a.workspace;

    return {sums + row * n, (float *)(sums + a.n_rows * n) + row * n};
}

/* ---- reading ---- */

/* The four tokens of a lane in a run: NaN counts as -inf, +inf as the largest float, what is past the end as -inf. */
__device__ __forceinline__ void load_run(const float *logits, uint32_t vocab, unsigned run,
                                         unsigned lane, float v[4])
{
    uint32_t id = run * RUN + lane * 4;
    vec16 bits = {};

    if (id < vocab)
        bits = *(const vec16 *)(logits + id);
    for (unsigned j = 0; j < 4; j++)
        v[j] = id + j < vocab ? fminf(fmaxf(__uint_as_float(bits.w[j]), -INFINITY), FLT_MAX)
                              : -INFINITY;
}

/* ---- reductions: the result is the same in every thread ---- */

__device__ __forceinline__ unsigned long long warp_add(unsigned long long v)
{
    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(ALL, v, o);
    return v;
}
/* The sum over the lanes up to this one. */
__device__ __forceinline__ unsigned long long warp_scan(unsigned long long v, unsigned lane)
{
    for (unsigned o = 1; o < 32; o *= 2) {
        unsigned long long before = __shfl_up_sync(ALL, v, o);
        if (lane >= o)
            v += before;
    }
    return v;
}

/* space: a word per warp; it may be used again at once. */
template <unsigned THREADS> __device__ float block_max(float v, float *space)
{
    v = warp_max(v);
    if (threadIdx.x % 32 == 0)
        space[threadIdx.x / 32] = v;
    __syncthreads();
    for (unsigned w = 0; w < THREADS / 32; w++)
        v = fmaxf(v, space[w]);
    __syncthreads();
    return v;
}

/* Also `before`: the sum over the threads before this one. */
template <unsigned THREADS>
__device__ unsigned long long block_sum(unsigned long long v, unsigned long long *space,
                                        unsigned long long *before)
{
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned long long total = 0, upto = warp_scan(v, lane);

    if (lane == 31)
        space[warp] = upto;
    __syncthreads();
    *before = upto - v;
    for (unsigned w = 0; w < THREADS / 32; w++) {
        *before += w < warp ? space[w] : 0;
        total += space[w];
    }
    __syncthreads();
    return total;
}

/* ---- scan ---- */

/* Several biases of one token are added by the thread of the first of them, in their order. */
__device__ void add_bias(float *logits, const sample_edit *bias, unsigned n, unsigned i)
{
    float l = logits[bias[i].token];

    for (unsigned j = 0; j < n; j++) {
        if (bias[j].token != bias[i].token)
            continue;
        if (j < i)
            return;
        l += bias[j].value;
    }
    logits[bias[i].token] = l;
}

/* Those of tokens first .. end - 1.  A token may stand in all three lists, so a barrier stands between them. */
__device__ void apply_edits(float *logits, uint32_t first, uint32_t end, const sample_row &row,
                            const sample_edit *edits)
{
    const sample_edit *history = edits + row.first_edit, *bias = history + row.n_history,
                      *bans = bias + row.n_bias;
    auto mine = [=](const sample_edit &e) { return (uint32_t)e.token - first < end - first; };

    for (unsigned i = threadIdx.x; i < row.n_history; i += PART_THREADS) {
        if (!mine(history[i]))
            continue;
        float l = logits[history[i].token];
        l = l > 0 ? l / row.repetition_penalty : engine_mul(l, row.repetition_penalty);
        logits[history[i].token] = l - history[i].value;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < row.n_bias; i += PART_THREADS) {
        if (mine(bias[i]))
            add_bias(logits, bias, row.n_bias, i);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < row.n_bans; i += PART_THREADS) {
        if (mine(bans[i]))
            logits[bans[i].token] = -INFINITY;
    }
    __syncthreads();
}

/* The block's part of a row. */
struct part {
    unsigned first, end; /* runs */
};
__device__ __forceinline__ part part_of(unsigned n_runs)
{
    unsigned each = (n_runs + gridDim.x - 1) / gridDim.x, first = min(blockIdx.x * each, n_runs);

    return {first, min(first + each, n_runs)};
}

__global__ void __launch_bounds__(PART_THREADS) scan(sample_args a)
{
    const sample_row &row = a.rows[blockIdx.y];
    float *logits = a.logits + (size_t)blockIdx.y * a.row_stride,
          *run_max = row_workspace(a, blockIdx.y).run_max;
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    part p = part_of(run_count(a.vocab));

    gpu_wait_previous();
    if (row.mode == SAMPLE_SKIP)
        return;
    if (row.n_history + row.n_bias + row.n_bans > 0)
        apply_edits(logits, p.first * RUN, min(p.end * RUN, a.vocab), row, a.edits);
    for (unsigned r = p.first + warp * BATCH; r < p.end; r += PART_THREADS / 32 * BATCH) {
        float most[BATCH];
        for (unsigned b = 0; b < BATCH; b++) {
            float v[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
            if (r + b < p.end)
                load_run(logits, a.vocab, r + b, lane, v);
            most[b] = fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]));
        }
        for (unsigned b = 0; b < BATCH; b++)
            most[b] = warp_max(most[b]);
        for (unsigned b = 0; b < BATCH; b++) {
            if (lane == b && r + b < p.end)
                run_max[r + b] = most[b];
        }
    }
}

/* ---- weigh ---- */

/* What the draws of a row weigh with. */
struct scale {
    float max, scale;
};
/* The weight of the tokens that lane has of the run and whose key is at least `from` and weight at least `least`. */
__device__ __forceinline__ unsigned long long lane_weight(const float *logits, uint32_t vocab,
                                                          unsigned run, unsigned lane, scale s,
                                                          uint64_t from, uint64_t least,
                                                          uint64_t w[4])
{
    float v[4];
    unsigned long long sum = 0;

    load_run(logits, vocab, run, lane, v);
    for (unsigned j = 0; j < 4; j++) {
        w[j] = engine_weight(v[j], s.max, s.scale);
        if (w[j] < least || key_of(v[j], run * RUN + lane * 4 + j) < from)
            w[j] = 0;
        sum += w[j];
    }
    return sum;
}

__global__ void __launch_bounds__(PART_THREADS) weigh(sample_args a)
{
    const sample_row &row = a.rows[blockIdx.y];
    const float *logits = a.logits + (size_t)blockIdx.y * a.row_stride;
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_runs = run_count(a.vocab);
    workspace w = row_workspace(a, blockIdx.y);
    part p = part_of(n_runs);
    GPU_SHARED(float, space, PART_THREADS / 32);

    gpu_wait_previous();
    if (row.mode != SAMPLE_DRAW || row.top_k > 0)
        return;
    float max = -INFINITY;
    for (unsigned r = threadIdx.x; r < n_runs; r += PART_THREADS)
        max = fmaxf(max, w.run_max[r]);
    max = block_max<PART_THREADS>(max, space);
    if (max == -INFINITY)
        return;
    uint64_t least = row.share != 0 ? 0 : row.least; /* min_p comes after top_p */
    for (unsigned r = p.first + warp; r < p.end; r += PART_THREADS / 32) {
        uint64_t each[4];
        unsigned long long sum =
            warp_add(lane_weight(logits, a.vocab, r, lane, {max, row.scale}, 0, least, each));
        if (lane == 0)
            w.run_sum[r] = sum;
    }
}

/* ---- pick ---- */

/* Shared memory of a block, with the row's runs in it. */
struct pick_state {
    const float *logits;
    uint32_t vocab;
    unsigned n_runs, lane, warp;
    scale s;
    unsigned long long *run_sum; /* [n_runs] */
    uint32_t *hist[2];           /* [DIGITS][COPIES] low and high halves */
    unsigned long long *folded;  /* [DIGITS] */
    unsigned long long *space;   /* [SPACE] */
    float *run_max;              /* [n_runs] */
};
constexpr unsigned SPACE = PICK_THREADS / 32;

__host__ __device__ __forceinline__ size_t pick_shared(unsigned n_runs)
{
    return (n_runs + DIGITS * COPIES + DIGITS + SPACE) * sizeof(unsigned long long) +
           n_runs * sizeof(float);
}

/* visit(key, logit) of every token above -inf whose key is at least `from`. */
template <class Visit>
__device__ __forceinline__ void each_token(const pick_state &p, uint64_t from, Visit visit)
{
    for (unsigned r = p.warp; r < p.n_runs; r += PICK_THREADS / 32) {
        if (engine_rank(p.run_max[r]) < from >> ID_BITS)
            continue;
        float v[4];
        load_run(p.logits, p.vocab, r, p.lane, v);
        for (unsigned j = 0; j < 4; j++) {
            uint64_t key = key_of(v[j], r * RUN + p.lane * 4 + j);
            if (v[j] > -INFINITY && key >= from)
                visit(key, v[j]);
        }
    }
}
/* The same of the runs, each standing for its largest logit, as if its number were an id. */
template <class Visit>
__device__ __forceinline__ void each_run(const pick_state &p, uint64_t from, Visit visit)
{
    for (unsigned r = threadIdx.x; r < p.n_runs; r += PICK_THREADS) {
        uint64_t key = key_of(p.run_max[r], r);
        if (p.run_max[r] > -INFINITY && key >= from)
            visit(key, p.run_max[r]);
    }
}

/* What a histogram says of a target: the first digit, from the top, at which the sum reaches it. */
struct digit {
    bool reached;
    unsigned value;
    unsigned long long above, at; /* sums over the digits above it, and of its own */
};

/* In warp 0, each lane having 8 digits; told to the others through `space`. */
__device__ __forceinline__ digit find_digit(const pick_state &p, unsigned long long target)
{
    if (threadIdx.x < DIGITS) {
        unsigned long long sum = 0;
        for (unsigned c = 0; c < COPIES; c++)
            sum += p.hist[0][threadIdx.x * COPIES + c] +
                   ((unsigned long long)p.hist[1][threadIdx.x * COPIES + c] << 32);
        p.folded[threadIdx.x] = sum;
    }
    if (threadIdx.x == 0)
        p.space[0] = DIGITS; /* not reached */
    __syncthreads();
    if (p.warp == 0) {
        constexpr unsigned EACH = DIGITS / 32;
        unsigned top = DIGITS - 1 - p.lane * EACH;
        unsigned long long sum = 0, above;
        for (unsigned i = 0; i < EACH; i++)
            sum += p.folded[top - i];
        above = warp_scan(sum, p.lane) - sum;
        if (above < target && target <= above + sum) {
            unsigned d = top;
            while (above + p.folded[d] < target)
                above += p.folded[d--];
            p.space[0] = d;
            p.space[1] = above;
            p.space[2] = p.folded[d];
        }
    }
    __syncthreads();
    digit found = {p.space[0] < DIGITS, (unsigned)p.space[0], p.space[1], p.space[2]};
    __syncthreads();
    return found;
}

/* In halves, because shared memory adds 32 bits in one instruction and 64 in a loop.  Each add that wraps the low half
 * is the one to carry. */
__device__ __forceinline__ void add_to_digit(const pick_state &p, unsigned digit, uint64_t v)
{
    unsigned at = digit * COPIES + p.lane % COPIES;
    uint32_t low = (uint32_t)v, high = (uint32_t)(v >> 32), old = atomicAdd(&p.hist[0][at], low);

    high += old + low < low;
    if (high != 0)
        atomicAdd(&p.hist[1][at], high);
}

enum class amount { count, weight };

/* The threshold: the largest key such that what `each` visits from it on amounts to target; `from` if all from there on
 * does not.  Digits that need not be told apart stay 0, so the result may lie below the last key it takes in. */
template <amount A, class Each>
__device__ __forceinline__ uint64_t select(const pick_state &p, uint64_t from,
                                           unsigned long long target, int last_shift, Each each)
{
    uint64_t prefix = 0, top = key_of(p.s.max, 0);

    for (int shift = 48; shift >= last_shift; shift -= 8) {
        if ((from ^ top) >> shift == 0) { /* all candidates begin like this */
            prefix = top >> shift << shift;
            continue;
        }
        for (unsigned i = threadIdx.x; i < DIGITS * COPIES; i += PICK_THREADS)
            p.hist[0][i] = p.hist[1][i] = 0;
        __syncthreads();
        each(prefix > from ? prefix : from, [&](uint64_t key, float logit) {
            if ((key ^ prefix) >> shift >= DIGITS)
                return; /* another leading part */
            add_to_digit(p, key >> shift & (DIGITS - 1),
                         A == amount::count ? 1 : engine_weight(logit, p.s.max, p.s.scale));
        });
        __syncthreads();
        digit d = find_digit(p, target);
        if (!d.reached)
            return from;
        prefix |= (uint64_t)d.value << shift;
        target -= d.above;
        if (target == d.at)
            break; /* every key that begins like this */
        if (A == amount::weight && shift == ID_BITS &&
            d.at - target < engine_weight(logit_of(prefix), p.s.max, p.s.scale))
            break; /* equal logits, of which not one can be left out */
    }
    return prefix > from ? prefix : from;
}

constexpr int RANK_ONLY = ID_BITS; /* last_shift where ids do not matter */

/* The key that the k most likely tokens begin at. */
__device__ __forceinline__ uint64_t threshold_top(const pick_state &p, uint64_t lowest, unsigned k)
{
    auto runs = [&](uint64_t least, auto visit) { each_run(p, least, visit); };
    auto tokens = [&](uint64_t least, auto visit) { each_token(p, least, visit); };
    uint64_t bound = select<amount::count>(p, lowest, k, RANK_ONLY, runs);

    return select<amount::count>(p, bound & ~ID_MASK, k, 0, tokens);
}

/* The key that the most likely tokens begin at that together weigh target, which those from `from` on do.  Where from
 * tells equal logits apart, a run may count whose largest logit lies just below it: it is equal to that of from, so the
 * bound stays at or below the threshold. */
__device__ __forceinline__ uint64_t threshold_mass(const pick_state &p, uint64_t from,
                                                   unsigned long long target)
{
    auto runs = [&](uint64_t least, auto visit) { each_run(p, least, visit); };
    auto tokens = [&](uint64_t least, auto visit) { each_token(p, least, visit); };
    uint64_t bound = select<amount::weight>(p, from & ~ID_MASK, target, RANK_ONLY, runs) & ~ID_MASK;

    return select<amount::weight>(p, bound > from ? bound : from, target, 0, tokens);
}

/* Fill run_sum with what is kept. */
__device__ __forceinline__ void weigh_kept(const pick_state &p, uint64_t from, uint64_t least)
{
    for (unsigned r = p.warp; r < p.n_runs; r += PICK_THREADS / 32) {
        unsigned long long sum = 0;
        if (engine_rank(p.run_max[r]) >= from >> ID_BITS) {
            uint64_t w[4];
            sum = warp_add(lane_weight(p.logits, p.vocab, r, p.lane, p.s, from, least, w));
        }
        if (p.lane == 0)
            p.run_sum[r] = sum;
    }
    __syncthreads();
}

/* Walk to share `random` of the kept weight, by id: over threads, a thread's runs, the lanes of that run, a lane's. */
__device__ __forceinline__ void walk(const pick_state &p, uint64_t from, uint64_t least,
                                     uint64_t random, int32_t *token)
{
    unsigned each = (p.n_runs + PICK_THREADS - 1) / PICK_THREADS, first = threadIdx.x * each;
    unsigned end = min(first + each, p.n_runs);
    unsigned long long sum = 0, before, total, left;

    for (unsigned r = first; r < end; r++)
        sum += p.run_sum[r];
    total = block_sum<PICK_THREADS>(sum, p.space, &before);
    left = engine_mul_high(random, total);
    if (before <= left && left < before + sum) {
        unsigned r = first;
        for (left -= before; left >= p.run_sum[r]; r++)
            left -= p.run_sum[r];
        p.space[0] = r;
        p.space[1] = left;
    }
    __syncthreads();
    if (p.warp != 0)
        return;
    uint64_t w[4];
    unsigned run = (unsigned)p.space[0];
    left = p.space[1];
    sum = lane_weight(p.logits, p.vocab, run, p.lane, p.s, from, least, w);
    before = warp_scan(sum, p.lane) - sum;
    if (left < before || left >= before + sum)
        return;
    left -= before;
    for (unsigned j = 0; j < 4; j++) {
        if (left < w[j]) {
            *token = (int32_t)(run * RUN + p.lane * 4 + j);
            return;
        }
        left -= w[j];
    }
}

__device__ __forceinline__ void draw(const pick_state &p, const sample_row &row,
                                     const unsigned long long *run_sum, int32_t *token)
{
    uint64_t from = key_of(-FLT_MAX, 0) & ~ID_MASK;
    uint64_t least = row.share != 0 ? 0 : row.least; /* min_p comes after top_p */

    if (row.top_k > 0) {
        from = threshold_top(p, from, row.top_k);
        weigh_kept(p, from, least);
    } else {
        for (unsigned r = threadIdx.x; r < p.n_runs; r += PICK_THREADS)
            p.run_sum[r] = run_sum[r];
        __syncthreads();
    }
    if (row.share != 0) {
        unsigned long long sum = 0, before;
        for (unsigned r = threadIdx.x; r < p.n_runs; r += PICK_THREADS)
            sum += p.run_sum[r];
        sum = block_sum<PICK_THREADS>(sum, p.space, &before);
        from = threshold_mass(p, from, engine_share_of(sum, row.share));
        least = row.least;
        weigh_kept(p, from, least);
    }
    walk(p, from, least, engine_philox_draw(row.seed, row.sample_index), token);
}

/* The lowest id that has the largest logit. */
__device__ __forceinline__ void pick_largest(const pick_state &p, int32_t *token)
{
    float lowest =
        -INFINITY; /* the negated number of the first run that has it: exact, and there is a maximum */

    for (unsigned r = threadIdx.x; r < p.n_runs; r += PICK_THREADS) {
        if (p.run_max[r] == p.s.max)
            lowest = fmaxf(lowest, -(float)r);
    }
    unsigned run = (unsigned)-block_max<PICK_THREADS>(lowest, (float *)p.space);
    if (p.warp != 0)
        return;
    float v[4];
    load_run(p.logits, p.vocab, run, p.lane, v);
    unsigned j = 0;
    while (j < 4 && v[j] != p.s.max)
        j++;
    unsigned having = __ballot_sync(ALL, j < 4);
    if ((int)p.lane == __ffs((int)having) - 1)
        *token = (int32_t)(run * RUN + p.lane * 4 + j);
}

__global__ void __launch_bounds__(PICK_THREADS) pick(sample_args a)
{
    GPU_SHARED_DYNAMIC(shared);
    const sample_row &row = a.rows[blockIdx.x];
    workspace w = row_workspace(a, blockIdx.x);
    unsigned n_runs = run_count(a.vocab);
    pick_state p;

    gpu_wait_previous();
    if (row.mode == SAMPLE_SKIP)
        return;
    p.logits = a.logits + (size_t)blockIdx.x * a.row_stride;
    p.vocab = a.vocab;
    p.n_runs = n_runs;
    p.lane = threadIdx.x % 32;
    p.warp = threadIdx.x / 32;
    p.run_sum = (unsigned long long *)shared;
    p.folded = p.run_sum + n_runs;
    p.space = p.folded + DIGITS;
    p.hist[0] = (uint32_t *)(p.space + SPACE);
    p.hist[1] = p.hist[0] + DIGITS * COPIES;
    p.run_max = (float *)(p.hist[1] + DIGITS * COPIES);
    float max = -INFINITY;
    for (unsigned r = threadIdx.x; r < n_runs; r += PICK_THREADS) {
        p.run_max[r] = w.run_max[r];
        max = fmaxf(max, p.run_max[r]);
    }
    max = block_max<PICK_THREADS>(max, (float *)p.space); /* a barrier: run_max is there for all */
    p.s = {max, row.scale};
    if (max == -INFINITY) {
        if (threadIdx.x == 0)
            a.tokens[blockIdx.x] = row.fallback;
    } else if (row.mode == SAMPLE_GREEDY) {
        pick_largest(p, &a.tokens[blockIdx.x]);
    } else {
        draw(p, row, w.run_sum, &a.tokens[blockIdx.x]);
    }
}

} // namespace

extern "C" size_t sample_workspace_bytes(uint32_t n_rows, uint32_t vocab)
{
    return (size_t)n_rows * run_count(vocab) * (sizeof(unsigned long long) + sizeof(float));
}

extern "C" enum err sample(const struct sample_args *a, gpu_stream stream)
{
    enum err err;

    if (a->n_rows > 65535 || a->vocab == 0 || a->vocab > SAMPLE_VOCAB_MAX ||
        a->row_stride < a->vocab || a->row_stride % 4 != 0 || (uintptr_t)a->logits % 16 != 0 ||
        (uintptr_t)a->workspace % 16 != 0)
        return ERR_INVALID;
    if (a->n_rows == 0)
        return ERR_OK;
    unsigned n_runs = run_count(a->vocab),
             most = (n_runs + PART_THREADS / 32 - 1) / (PART_THREADS / 32);
    unsigned parts = (BLOCKS + a->n_rows - 1) / a->n_rows;
    gpu_dims part_dims = {parts < most ? parts : most, a->n_rows, 1, PART_THREADS, 0};
    if ((err = gpu_launch_early<scan>(part_dims, stream, *a)) != ERR_OK ||
        (err = gpu_launch_early<weigh>(part_dims, stream, *a)) != ERR_OK)
        return err;
    return gpu_launch_early<pick>({a->n_rows, 1, 1, PICK_THREADS, pick_shared(n_runs)}, stream, *a);
}
