/* bench/kernels/attention_bench.c - attention over paged KV of one layer: decode rows, and chunks of prompts.
 *
 * The heads are Llama-3.1-8B's: 32 query heads on 8 KV heads of 128, blocks of 16 tokens, which lie scattered in the pool. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/attention_decode.h"
#include "engine/kernels/attention_prefill.h"

enum { N_KV_HEADS = 8, GROUP = 4, HEAD_DIM = 128, BLOCK_TOKENS = 16 };

struct state {
    struct attention a; /* over the first copy of the pool */
    struct gpu_batch b;
    uint8_t *pool;
    size_t pool_bytes; /* of one copy */
    uint32_t copies, n_multiprocessors;
    uint32_t *table; /* host memory of the run */
    void *workspace;
    struct attention_chunk *tiles;
    uint32_t n_tiles;
};

/* Slot after slot takes every 40,507th block (a prime, so each once): neighbours in a sequence are none in memory. */
static enum err make_tables(struct gpu_bench_run *r, struct state *s)
{
    uint32_t n = s->b.n_slots * s->b.max_blocks;
    void *device;
    enum err err;

    if ((err = gpu_bench_host(r, (size_t)n * 4, (void **)&s->table)) != ERR_OK ||
        (err = gpu_bench_alloc(r, (size_t)n * 4, &device)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < n; i++)
        s->table[i] = (uint32_t)(UINT64_C(40507) * i % n);
    s->b.blocks = device;
    return gpu_bench_copy(r, device, s->table, (size_t)n * 4, GPU_TO_DEVICE);
}

/* n_slots of `context` keys each, and n_rows rows of queries. */
static enum err make(struct gpu_bench_run *r, struct state *s, uint32_t n_slots, uint32_t context,
                     uint32_t n_rows)
{
    struct gpu_kv *kv = &s->a.kv;
    size_t run = (size_t)N_KV_HEADS * BLOCK_TOKENS * HEAD_DIM * 2, rows;
    enum err err;

    s->b.n_slots = n_slots;
    s->b.n_rows = n_rows;
    s->b.max_blocks = (context + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    *kv = (struct gpu_kv){.v_offset = run,
                          .block_stride = 2 * run,
                          .n_blocks = n_slots * s->b.max_blocks,
                          .block_tokens = BLOCK_TOKENS,
                          .n_kv_heads = N_KV_HEADS,
                          .head_dim = HEAD_DIM,
                          .dtype = GPU_BF16};
    s->a.n_q_heads = N_KV_HEADS * GROUP;
    s->a.q_stride = (GROUP + 2) * N_KV_HEADS * HEAD_DIM;
    s->a.out_stride = GROUP * N_KV_HEADS * HEAD_DIM;
    s->a.scale = (float)(1 / sqrt(HEAD_DIM));
    s->pool_bytes = kv->n_blocks * 2 * run;
    s->copies = gpu_bench_copies(r, s->pool_bytes);
    s->n_multiprocessors = gpu_info(r->gpu)->n_multiprocessors;
    rows = (size_t)n_rows * s->a.q_stride;
    if ((err = make_tables(r, s)) != ERR_OK ||
        (err = gpu_bench_alloc(r, s->copies * s->pool_bytes, (void **)&s->pool)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s->pool, s->copies * s->pool_bytes / 2, 1)) !=
            ERR_OK ||
        (err = gpu_bench_alloc(r, rows * 2, (void **)&s->a.q)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, (void *)(uintptr_t)s->a.q, rows, 2)) != ERR_OK)
        return err;
    kv->k = s->pool;
    return gpu_bench_alloc(r, (size_t)n_rows * s->a.out_stride * 2, (void **)&s->a.out);
}

/* One row of the last launch against the definition, over a copy of its slot's blocks. */
static enum err check_row(struct gpu_bench_run *r, const struct state *s, uint32_t slot,
                          uint32_t row, uint32_t position)
{
    struct attention host = s->a;
    size_t block = s->a.kv.block_stride, n = s->a.out_stride;
    uint32_t n_blocks = position / BLOCK_TOKENS + 1;
    uint32_t *table = mem_try_alloc(n_blocks * sizeof(*table));
    float *want = mem_try_alloc(n * sizeof(*want));
    void *q, *k;
    enum err err = table == NULL || want == NULL ? ERR_NOMEM : ERR_OK;

    if (err != ERR_OK || (err = gpu_bench_host(r, n * 2, &q)) != ERR_OK ||
        (err = gpu_bench_host(r, n_blocks * block, &k)) != ERR_OK)
        goto done;
    err = gpu_bench_copy(r, q, s->a.q + (size_t)row * s->a.q_stride, n * 2, GPU_TO_HOST);
    for (uint32_t i = 0; i < n_blocks && err == ERR_OK; i++) {
        table[i] = i;
        err = gpu_bench_copy(r, (uint8_t *)k + i * block,
                             s->pool + s->table[slot * s->b.max_blocks + i] * block, block,
                             GPU_TO_HOST);
    }
    if (err == ERR_OK) {
        host.q = q;
        host.kv.k = k;
        attention_row_ref(want, &host, table, 0, position);
        err = gpu_bench_check(r, "attention", GPU_BF16, s->a.out + (size_t)row * n, want, n, 0x1p-8,
                              0x1p-8);
    }
done:
    mem_free(table), mem_free(want);
    return err;
}

static struct attention with_copy(const struct state *s, uint32_t i)
{
    struct attention a = s->a;

    a.kv.k = s->pool + i % s->copies * s->pool_bytes;
    return a;
}

/* ---- decode ---- */

static enum err launch_decode(void *arg, uint32_t i, gpu_stream stream)
{
    struct state *s = arg;
    struct attention a = with_copy(s, i);

    return attention_decode(&a, &s->b, s->workspace, s->n_multiprocessors, stream);
}

static enum err decode(struct gpu_bench_run *r, uint32_t n_rows, uint32_t context)
{
    struct state s = {0};
    int32_t *host;
    void *rows;
    size_t workspace;
    double seconds, bytes = 4.0 * HEAD_DIM * N_KV_HEADS * n_rows * context;
    char name[64];
    enum err err;

    if ((err = make(r, &s, n_rows, context, n_rows)) != ERR_OK ||
        (err = gpu_bench_host(r, (size_t)n_rows * 8, (void **)&host)) != ERR_OK ||
        (err = gpu_bench_alloc(r, (size_t)n_rows * 8, &rows)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < n_rows; i++) {
        host[i] = (int32_t)i;
        host[n_rows + i] = (int32_t)context - 1;
    }
    s.b.slot = rows;
    s.b.position = (int32_t *)rows + n_rows;
    workspace = attention_decode_workspace(&s.a, n_rows, s.b.max_blocks);
    if ((err = gpu_bench_copy(r, rows, host, (size_t)n_rows * 8, GPU_TO_DEVICE)) != ERR_OK ||
        (err = gpu_bench_alloc(r, workspace, &s.workspace)) != ERR_OK ||
        (err = gpu_fill(s.workspace, 0, workspace, r->stream)) != ERR_OK ||
        (err = launch_decode(&s, 0, r->stream)) != ERR_OK ||
        (err = check_row(r, &s, n_rows - 1, n_rows - 1, context - 1)) != ERR_OK ||
        (err = gpu_bench_time(r, launch_decode, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "attention.decode.%ux%u", n_rows, context);
    bytes += 2.0 * 2 * n_rows * s.a.out_stride; /* q and out */
    gpu_bench_report_bytes(r, name, bytes, seconds);
    return ERR_OK;
}

/* ---- prefill ---- */

static enum err launch_prefill(void *arg, uint32_t i, gpu_stream stream)
{
    struct state *s = arg;
    struct attention a = with_copy(s, i);

    return attention_prefill(&a, &s->b, s->tiles, s->n_tiles, stream);
}

/* n_chunks chunks of n_rows rows, each the last of its slot's `context` tokens. */
static enum err prefill(struct gpu_bench_run *r, uint32_t n_chunks, uint32_t n_rows,
                        uint32_t context)
{
    struct state s = {0};
    uint32_t tile_rows = attention_prefill_tile_rows(GROUP * N_KV_HEADS, N_KV_HEADS);
    uint32_t most = n_chunks * ((n_rows + tile_rows - 1) / tile_rows), row = n_rows - 1;
    struct attention_chunk *chunks, *tiles;
    double seconds, pairs = 0;
    char name[64];
    enum err err;

    if ((err = make(r, &s, n_chunks, context, n_chunks * n_rows)) != ERR_OK ||
        (err = gpu_bench_host(r, n_chunks * sizeof(*chunks), (void **)&chunks)) != ERR_OK ||
        (err = gpu_bench_host(r, most * sizeof(*tiles), (void **)&tiles)) != ERR_OK ||
        (err = gpu_bench_alloc(r, most * sizeof(*tiles), (void **)&s.tiles)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < n_chunks; i++) {
        chunks[i] = (struct attention_chunk){i, i * n_rows, n_rows, context - n_rows};
        pairs += n_rows * (context - n_rows + (n_rows + 1) / 2.0);
    }
    s.n_tiles = attention_prefill_tiles(chunks, n_chunks, tile_rows, tiles, most);
    if ((err = gpu_bench_copy(r, s.tiles, tiles, most * sizeof(*tiles), GPU_TO_DEVICE)) != ERR_OK ||
        (err = launch_prefill(&s, 0, r->stream)) != ERR_OK ||
        (err = check_row(r, &s, 0, row, context - 1)) != ERR_OK ||
        (err = check_row(r, &s, 0, row / 2, context - n_rows + row / 2)) != ERR_OK ||
        (err = gpu_bench_time(r, launch_prefill, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "attention.prefill.%ux%u_of_%u", n_chunks, n_rows, context);
    gpu_bench_report(r, name, 4.0 * HEAD_DIM * GROUP * N_KV_HEADS * pairs / seconds / 1e12,
                     "TFLOP/s");
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return (err = decode(r, 3, 300)) != ERR_OK ? err : prefill(r, 2, 10, 70);
    if ((err = decode(r, 64, 2048)) != ERR_OK || (err = decode(r, 1, 2048)) != ERR_OK ||
        (err = decode(r, 8, 16384)) != ERR_OK || (err = decode(r, 256, 512)) != ERR_OK)
        return err;
    if ((err = prefill(r, 1, 2048, 2048)) != ERR_OK ||
        (err = prefill(r, 1, 8192, 8192)) != ERR_OK || (err = prefill(r, 8, 64, 4096)) != ERR_OK)
        return err;
    return prefill(r, 1, 2048, 32768);
}

const struct gpu_bench attention_bench = {"attention", run};
