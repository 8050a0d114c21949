/* bench/kernels/gather_rows_bench.c - embeddings of a decode step and of a chunk, in no order. */
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/gather_rows.h"

struct state {
    struct gather_rows_args a;
    const int32_t *index; /* [copies][rows] */
    uint8_t *out;
    uint32_t copies;
};

static enum err launch(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    struct gather_rows_args a = s->a;

    a.index = s->index + (size_t)(i % s->copies) * a.rows;
    a.out = s->out + (size_t)(i % s->copies) * a.rows * a.cols * 2;
    return gather_rows(&a, stream);
}

/* The last row of the first launch. */
static enum err verify(struct gpu_bench_run *r, struct state *s, int32_t index)
{
    size_t bytes = (size_t)s->a.cols * 2;
    float *want = mem_try_alloc((size_t)s->a.cols * 4);
    void *host = NULL;
    enum err err = want == NULL ? ERR_NOMEM : gpu_bench_host(r, bytes, &host);

    if (err == ERR_OK)
        err = gpu_bench_copy(r, host, (const uint8_t *)s->a.table + (size_t)index * bytes, bytes,
                             GPU_TO_HOST);
    if (err == ERR_OK)
        err = launch(s, 0, r->stream);
    if (err == ERR_OK) {
        for (uint32_t i = 0; i < s->a.cols; i++)
            want[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
        err = gpu_bench_check(r, "gather_rows", GPU_BF16, s->out + (s->a.rows - 1) * bytes, want,
                              s->a.cols, 0, 0);
    }
    mem_free(want);
    return err;
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t rows, uint32_t cols, uint32_t total)
{
    struct state s = {.a = {.rows = rows, .cols = cols, .count = total, .total = total}};
    size_t bytes = (size_t)rows * cols * 2, n;
    int32_t *index;
    void *host, *device, *table;
    uint64_t state = 7;
    char name[96];
    double seconds;
    enum err err;

    s.copies = gpu_bench_copies(r, 2 * bytes);
    n = (size_t)s.copies * rows;
    if ((err = gpu_bench_alloc(r, s.copies * bytes, (void **)&s.out)) != ERR_OK ||
        (err = gpu_bench_alloc(r, (size_t)total * cols * 2, &table)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, table, (size_t)total * cols, 1)) != ERR_OK ||
        (err = gpu_bench_alloc(r, n * 4, &device)) != ERR_OK ||
        (err = gpu_bench_host(r, n * 4, &host)) != ERR_OK)
        return err;
    index = host;
    for (size_t i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        index[i] = (int32_t)((state >> 32) * total >> 32);
    }
    s.a.table = table;
    s.index = device;
    if ((err = gpu_bench_copy(r, device, host, n * 4, GPU_TO_DEVICE)) != ERR_OK ||
        (err = verify(r, &s, index[rows - 1])) != ERR_OK ||
        (err = gpu_bench_time(r, launch, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "gather_rows.%ux%u", rows, cols);
    gpu_bench_report_bytes(r, name, 2 * (double)bytes + 4.0 * rows, seconds);
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 3, 520, 50);
    if ((err = run_shape(r, 64, 4096, 128256)) != ERR_OK)
        return err;
    return run_shape(r, 8192, 4096, 128256);
}

const struct gpu_bench gather_rows_bench = {"gather_rows", run};
