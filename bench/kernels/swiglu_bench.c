/* bench/kernels/swiglu_bench.c - swiglu of a decode step's rows and of a chunk's. */
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/swiglu.h"

struct state {
    uint8_t *in, *out;
    uint32_t rows, ffn, copies;
};

static enum err launch(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    size_t at = (size_t)(i % s->copies) * s->rows * s->ffn * 2;
    struct swiglu_args a = {s->out + at, s->in + 2 * at, s->rows, s->ffn, GPU_BF16};

    return swiglu(&a, stream);
}

/* The first row. */
static enum err verify(struct gpu_bench_run *r, struct state *s)
{
    uint32_t n = s->ffn;
    float *in = mem_try_alloc((size_t)n * 8), *want = mem_try_alloc((size_t)n * 4);
    void *host = NULL;
    enum err err = in == NULL || want == NULL ? ERR_NOMEM : gpu_bench_host(r, (size_t)n * 4, &host);

    if (err == ERR_OK)
        err = gpu_bench_copy(r, host, s->in, (size_t)n * 4, GPU_TO_HOST);
    if (err == ERR_OK)
        err = launch(s, 0, r->stream);
    if (err == ERR_OK) {
        for (uint32_t i = 0; i < 2 * n; i++)
            in[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
        swiglu_ref(want, in, 1, n);
        err = gpu_bench_check(r, "swiglu", GPU_BF16, s->out, want, n, 0x1p-8 * 1.01, 1e-30);
    }
    mem_free(in), mem_free(want);
    return err;
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t rows, uint32_t ffn)
{
    struct state s = {.rows = rows, .ffn = ffn};
    size_t bytes = (size_t)rows * ffn * 2;
    char name[96];
    double seconds;
    enum err err;

    s.copies = gpu_bench_copies(r, 3 * bytes);
    if ((err = gpu_bench_alloc(r, s.copies * bytes, (void **)&s.out)) != ERR_OK ||
        (err = gpu_bench_alloc(r, s.copies * bytes * 2, (void **)&s.in)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.in, s.copies * bytes, 2)) != ERR_OK ||
        (err = verify(r, &s)) != ERR_OK ||
        (err = gpu_bench_time(r, launch, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "swiglu.%ux%u", rows, ffn);
    gpu_bench_report_bytes(r, name, 3 * (double)bytes, seconds);
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 3, 520);
    if ((err = run_shape(r, 64, 14336)) != ERR_OK)
        return err;
    return run_shape(r, 8192, 14336);
}

const struct gpu_bench swiglu_bench = {"swiglu", run};
