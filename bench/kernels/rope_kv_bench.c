/* bench/kernels/rope_kv_bench.c - the rows of a decode step and of a chunk, into blocks of 16 tokens in no order. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/rope_kv.h"

enum { TOKENS = 16, HEAD_DIM = 128, LAYERS = 32 };

struct state {
    struct rope_kv_args a;
    uint8_t *qkv;
    uint32_t copies;
};

/* Each launch has its own rows, and writes another layer of the pool. */
static enum err launch(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    struct rope_kv_args a = s->a;

    a.qkv = s->qkv + (size_t)(i % s->copies) * a.batch.n_rows * a.row_stride * 2;
    a.kv.k += i % LAYERS * 2 * a.kv.v_offset;
    return rope_kv(&a, stream);
}

static void fill_inv_freq(double *inv_freq)
{
    for (uint32_t i = 0; i < HEAD_DIM / 2; i++)
        inv_freq[i] = pow(500000, -2.0 * i / HEAD_DIM);
}

/* The first q head of the last row. */
static enum err verify(struct gpu_bench_run *r, struct state *s, int32_t position)
{
    uint8_t *row = s->qkv + (size_t)(s->a.batch.n_rows - 1) * s->a.row_stride * 2;
    double inv_freq[HEAD_DIM / 2];
    float want[HEAD_DIM];
    void *host;
    enum err err;

    if ((err = gpu_bench_host(r, HEAD_DIM * 2, &host)) != ERR_OK ||
        (err = gpu_bench_copy(r, host, row, HEAD_DIM * 2, GPU_TO_HOST)) != ERR_OK ||
        (err = launch(s, 0, r->stream)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < HEAD_DIM; i++)
        want[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
    fill_inv_freq(inv_freq);
    rope_kv_ref(want, inv_freq, HEAD_DIM, (uint32_t)position);
    return gpu_bench_check(r, "rope_kv", GPU_BF16, row, want, HEAD_DIM, 0x1p-8 * 1.01, 1e-5);
}

static enum err make_angles(struct gpu_bench_run *r, struct state *s, uint32_t n_positions)
{
    size_t bytes = (size_t)n_positions * HEAD_DIM * sizeof(float);
    double inv_freq[HEAD_DIM / 2];
    void *host, *device;
    enum err err;

    if ((err = gpu_bench_host(r, bytes, &host)) != ERR_OK ||
        (err = gpu_bench_alloc(r, bytes, &device)) != ERR_OK)
        return err;
    fill_inv_freq(inv_freq);
    rope_kv_angles(host, inv_freq, HEAD_DIM, 0, n_positions);
    s->a.angles = device;
    s->a.n_positions = n_positions;
    return gpu_bench_copy(r, device, host, bytes, GPU_TO_DEVICE);
}

/* Row r is token `start + r % per_slot` of slot r / per_slot; a slot's blocks stand in the pool every `slots`-th. */
static enum err make_batch(struct gpu_bench_run *r, struct state *s, uint32_t slots,
                           uint32_t per_slot, uint32_t start)
{
    uint32_t rows = slots * per_slot, entries = (start + per_slot + TOKENS - 1) / TOKENS;
    size_t n = 2 * (size_t)rows + (size_t)slots * entries;
    void *host, *device;
    int32_t *v;
    enum err err;

    if ((err = gpu_bench_host(r, n * 4, &host)) != ERR_OK ||
        (err = gpu_bench_alloc(r, n * 4, &device)) != ERR_OK)
        return err;
    v = host;
    for (uint32_t i = 0; i < rows; i++) {
        v[i] = (int32_t)(start + i % per_slot);
        v[rows + i] = (int32_t)(i / per_slot);
    }
    for (uint32_t i = 0; i < slots; i++) {
        for (uint32_t e = 0; e < entries; e++)
            v[2 * rows + i * entries + e] = (int32_t)(e * slots + i) % (int32_t)s->a.kv.n_blocks;
    }
    s->a.batch = (struct gpu_batch){.position = device,
                                    .slot = (int32_t *)device + rows,
                                    .blocks = (uint32_t *)device + 2 * (size_t)rows,
                                    .max_blocks = entries,
                                    .n_rows = rows,
                                    .n_slots = slots};
    return gpu_bench_copy(r, device, host, n * 4, GPU_TO_DEVICE);
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t slots, uint32_t per_slot,
                          uint32_t start, uint32_t heads, uint32_t kv_heads)
{
    uint32_t rows = slots * per_slot, stride = (heads + 2 * kv_heads) * HEAD_DIM;
    size_t bytes = (size_t)rows * stride * 2, half = (size_t)kv_heads * TOKENS * HEAD_DIM * 2;
    struct state s = {.a = {.row_stride = stride, .n_heads = heads}};
    char name[96];
    double seconds;
    enum err err;

    s.a.kv = (struct gpu_kv){.v_offset = half,
                             .block_stride = 2 * half * LAYERS,
                             .n_blocks = r->small ? 4 : 1024,
                             .block_tokens = TOKENS,
                             .n_kv_heads = kv_heads,
                             .head_dim = HEAD_DIM,
                             .dtype = GPU_BF16};
    s.copies = gpu_bench_copies(r, bytes);
    if ((err = gpu_bench_alloc(r, s.copies * bytes, (void **)&s.qkv)) != ERR_OK ||
        (err = gpu_bench_alloc(r, s.a.kv.n_blocks * s.a.kv.block_stride, (void **)&s.a.kv.k)) !=
            ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.qkv, s.copies * bytes / 2, 1)) != ERR_OK ||
        (err = make_angles(r, &s, start + per_slot)) != ERR_OK ||
        (err = make_batch(r, &s, slots, per_slot, start)) != ERR_OK ||
        (err = verify(r, &s, (int32_t)(start + per_slot - 1))) != ERR_OK ||
        (err = gpu_bench_time(r, launch, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "rope_kv.%u_slots.%u_rows", slots, rows);
    gpu_bench_report_bytes(
        r, name, (double)rows * (2.0 * HEAD_DIM * (2 * heads + 4 * kv_heads) + 4.0 * HEAD_DIM),
        seconds);
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 2, 3, 14, 4, 2);
    if ((err = run_shape(r, 64, 1, 2048, 32, 8)) != ERR_OK)
        return err;
    return run_shape(r, 1, 8192, 0, 32, 8);
}

const struct gpu_bench rope_kv_bench = {"rope_kv", run};
