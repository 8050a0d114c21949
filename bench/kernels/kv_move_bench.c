/* bench/kernels/kv_move_bench.c - KV runs to pinned host memory and back, with few blocks, beside the copy engine. */
#include <stdio.h>
#include <string.h>

#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/kv_move.h"

struct state {
    struct kv_move_args a;
    uint8_t *pool; /* twice the bytes: runs with gaps */
    void *linear;
    size_t bytes;
};

static enum err gather(void *arg, uint32_t i, gpu_stream stream)
{
    (void)i;
    return kv_gather(&((struct state *)arg)->a, stream);
}

static enum err scatter(void *arg, uint32_t i, gpu_stream stream)
{
    (void)i;
    return kv_scatter(&((struct state *)arg)->a, stream);
}

static enum err engine_out(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;

    (void)i;
    return gpu_copy(s->a.dense, s->linear, s->bytes, GPU_TO_HOST, stream);
}

static enum err engine_in(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;

    (void)i;
    return gpu_copy(s->linear, s->a.dense, s->bytes, GPU_TO_DEVICE, stream);
}

/* Every run comes out as it stands in the pool. */
static enum err verify(struct gpu_bench_run *r, struct state *s, const struct kv_memory_run *runs)
{
    void *host;
    enum err err = gpu_bench_host(r, s->a.longest, &host);

    if (err != ERR_OK)
        return err;
    memset(s->a.dense, 0xff, s->bytes);
    if ((err = gather(s, 0, r->stream)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < s->a.n_runs; i++) {
        if ((err = gpu_bench_copy(r, host, s->pool + runs[i].at, runs[i].len, GPU_TO_HOST)) !=
            ERR_OK)
            return err;
        if (memcmp(host, (uint8_t *)s->a.dense + runs[i].host, runs[i].len) != 0)
            return err_set(r->msg, ERR_CORRUPT, "kv_gather: run %u differs", i);
    }
    return ERR_OK;
}

static enum err report(struct gpu_bench_run *r, struct state *s, const char *way, const char *what,
                       enum err (*launch)(void *, uint32_t, gpu_stream),
                       enum err (*engine)(void *, uint32_t, gpu_stream))
{
    static const uint32_t blocks[] = {4, KV_MOVE_BLOCKS, 24};
    double seconds, reference;
    char name[96];
    enum err err = gpu_bench_time(r, engine, s, &reference);

    for (size_t i = 0; err == ERR_OK && i < sizeof(blocks) / sizeof(*blocks); i++) {
        s->a.blocks = blocks[i];
        err = gpu_bench_time(r, launch, s, &seconds);
        if (err != ERR_OK || seconds <= 0 || reference <= 0)
            return err;
        snprintf(name, sizeof(name), "kv_move.%s.%s.%u_blocks", way, what, blocks[i]);
        gpu_bench_report(r, name, (double)s->bytes / seconds / 1e9, "GB/s");
        bench_report_reference(r->report, "the copy engine, of contiguous bytes",
                               (double)s->bytes / reference / 1e9);
    }
    return err;
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t n_runs, size_t len, const char *what)
{
    struct state s = {.bytes = n_runs * len};
    struct kv_memory_run *runs;
    void *host, *device;
    enum err err;

    (void)gpu_bench_copies(r, SIZE_MAX); /* the bus is the limit: no cache hides it */
    if ((err = gpu_bench_alloc(r, 2 * s.bytes, (void **)&s.pool)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.pool, s.bytes, 1)) != ERR_OK ||
        (err = gpu_bench_alloc(r, s.bytes, &s.linear)) != ERR_OK ||
        (err = gpu_bench_host(r, s.bytes, &s.a.dense)) != ERR_OK ||
        (err = gpu_bench_alloc(r, n_runs * sizeof(*runs), &device)) != ERR_OK ||
        (err = gpu_bench_host(r, n_runs * sizeof(*runs), &host)) != ERR_OK)
        return err;
    runs = host;
    for (uint32_t i = 0; i < n_runs; i++)
        runs[i] = (struct kv_memory_run){.at = i * 2 * len, .host = i * len, .len = len};
    s.a = (struct kv_move_args){
        .base = s.pool, .dense = s.a.dense, .runs = device, .n_runs = n_runs, .longest = len};
    if ((err = gpu_bench_copy(r, device, host, n_runs * sizeof(*runs), GPU_TO_DEVICE)) != ERR_OK ||
        (err = gpu_fill(s.linear, 0, s.bytes, r->stream)) != ERR_OK ||
        (err = verify(r, &s, runs)) != ERR_OK ||
        (err = report(r, &s, "gather", what, gather, engine_out)) != ERR_OK)
        return err;
    return report(r, &s, "scatter", what, scatter, engine_in);
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 3, 20 << 10, "20KiB");
    if ((err = run_shape(r, KV_MEMORY_RUNS_MAX, 128 << 10, "128KiB")) != ERR_OK)
        return err;
    return run_shape(r, KV_MEMORY_RUNS_MAX, 16 << 10, "16KiB");
}

const struct gpu_bench kv_move_bench = {"kv_move", run};
