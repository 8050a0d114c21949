/* bench/kernels/quantize_bench.c - rows to 8 bits and back: a chunk's activations, a matrix's weights. */
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/dequantize.h"
#include "engine/kernels/quantize.h"

struct state {
    uint8_t *x, *q, *y;
    float *scale;
    uint32_t rows, cols, copies;
    enum gpu_weight format;
};

static enum err narrow(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    size_t at = (size_t)(i % s->copies) * s->rows * s->cols;

    return quantize(&(struct quantize_args){.q = s->q + at,
                                            .scale = s->scale,
                                            .x = (const uint16_t *)(void *)(s->x + 2 * at),
                                            .x_stride = s->cols,
                                            .rows = s->rows,
                                            .cols = s->cols,
                                            .dtype = GPU_BF16,
                                            .format = s->format},
                    stream);
}

static enum err widen(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    size_t at = (size_t)(i % s->copies) * s->rows * s->cols;

    return dequantize(&(struct dequantize_args){.y = (uint16_t *)(void *)(s->y + 2 * at),
                                                .q = s->q + at,
                                                .scale = s->scale,
                                                .rows = s->rows,
                                                .cols = s->cols,
                                                .dtype = GPU_BF16,
                                                .format = s->format},
                      stream);
}

/* The first row there and back: within half a step of the format, which for e4m3 is relative. */
static enum err verify(struct gpu_bench_run *r, struct state *s)
{
    uint32_t n = s->cols;
    float *want = mem_try_alloc(n * sizeof(float)), largest = 0;
    void *host = NULL;
    enum err err = want == NULL ? ERR_NOMEM : gpu_bench_host(r, n * 2ull, &host);

    if (err == ERR_OK)
        err = gpu_bench_copy(r, host, s->x, n * 2ull, GPU_TO_HOST);
    for (uint32_t i = 0; i < n && err == ERR_OK; i++) {
        want[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
        largest = __builtin_fmaxf(largest, __builtin_fabsf(want[i]));
    }
    if (err == ERR_OK && (err = narrow(s, 0, r->stream)) == ERR_OK &&
        (err = widen(s, 0, r->stream)) == ERR_OK) {
        bool int8 = s->format == GPU_WEIGHT_INT8;
        err = gpu_bench_check(r, "quantize", GPU_BF16, s->y, want, n, (int8 ? 0 : 0x1p-4) + 0x1p-8,
                              (double)largest * (int8 ? 0.51 / 127 : 0x1p-10 / 448));
    }
    mem_free(want);
    return err;
}

static enum err run_shape(struct gpu_bench_run *r, enum gpu_weight format, uint32_t rows,
                          uint32_t cols)
{
    struct state s = {.rows = rows, .cols = cols, .format = format};
    const char *what = format == GPU_WEIGHT_INT8 ? "int8" : "e4m3";
    size_t n = (size_t)rows * cols, all;
    char name[96];
    double seconds;
    enum err err;

    s.copies = gpu_bench_copies(r, 3 * n);
    all = n * s.copies;
    if ((err = gpu_bench_alloc(r, all * 2, (void **)&s.x)) != ERR_OK ||
        (err = gpu_bench_alloc(r, all, (void **)&s.q)) != ERR_OK ||
        (err = gpu_bench_alloc(r, all * 2, (void **)&s.y)) != ERR_OK ||
        (err = gpu_bench_alloc(r, rows * sizeof(float), (void **)&s.scale)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.x, all, 1)) != ERR_OK ||
        (err = verify(r, &s)) != ERR_OK ||
        (err = gpu_bench_time(r, narrow, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "quantize.%s.%ux%u", what, rows, cols);
    gpu_bench_report_bytes(r, name, 3 * (double)n + 4.0 * rows, seconds);
    if ((err = gpu_bench_time(r, widen, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "dequantize.%s.%ux%u", what, rows, cols);
    gpu_bench_report_bytes(r, name, 3 * (double)n + 4.0 * rows, seconds);
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err = ERR_OK;

    for (int f = 0; f < 2 && err == ERR_OK; f++) {
        enum gpu_weight format = f == 0 ? GPU_WEIGHT_E4M3 : GPU_WEIGHT_INT8;

        err = r->small ? run_shape(r, format, 3, 528) : run_shape(r, format, 8192, 4096);
    }
    return err;
}

const struct gpu_bench quantize_bench = {"quantize", run};
