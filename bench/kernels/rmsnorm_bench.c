/* bench/kernels/rmsnorm_bench.c - rmsnorm, plain and with the residual, of a decode step's rows and of a chunk's. */
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/rmsnorm.h"

enum { CHECKED_ROWS = 3 };

struct state {
    uint8_t *x, *y, *residual, *w;
    uint32_t rows, cols, copies;
};

static struct rmsnorm_args args_of(const struct state *s, uint32_t i, bool add)
{
    size_t at = (size_t)(i % s->copies) * s->rows * s->cols * 2;

    return (struct rmsnorm_args){.y = s->y + at,
                                 .residual = add ? s->residual + at : NULL,
                                 .x = s->x + at,
                                 .w = s->w,
                                 .rows = s->rows,
                                 .cols = s->cols,
                                 .eps = 1e-5f,
                                 .dtype = GPU_BF16};
}

static enum err plain(void *arg, uint32_t i, gpu_stream stream)
{
    struct rmsnorm_args a = args_of(arg, i, false);

    return rmsnorm(&a, stream);
}

static enum err residual(void *arg, uint32_t i, gpu_stream stream)
{
    struct rmsnorm_args a = args_of(arg, i, true);

    return rmsnorm(&a, stream);
}

static enum err verify(struct gpu_bench_run *r, struct state *s)
{
    uint32_t rows = s->rows < CHECKED_ROWS ? s->rows : CHECKED_ROWS;
    size_t n = (size_t)rows * s->cols;
    float *want = mem_try_alloc(n * 4), *x = mem_try_alloc(n * 4),
          *w = mem_try_alloc((size_t)s->cols * 4);
    void *host = NULL;
    enum err err =
        want == NULL || x == NULL || w == NULL ? ERR_NOMEM : gpu_bench_host(r, n * 2, &host);

    if (err == ERR_OK &&
        (err = gpu_bench_copy(r, host, s->w, (size_t)s->cols * 2, GPU_TO_HOST)) == ERR_OK) {
        for (size_t i = 0; i < s->cols; i++)
            w[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
        err = gpu_bench_copy(r, host, s->x, n * 2, GPU_TO_HOST);
    }
    if (err == ERR_OK) {
        for (size_t i = 0; i < n; i++)
            x[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
        rmsnorm_ref(want, x, w, rows, s->cols, 1e-5f);
        err = plain(s, 0, r->stream);
    }
    if (err == ERR_OK)
        err = gpu_bench_check(r, "rmsnorm", GPU_BF16, s->y, want, n, 0x1p-8 * 1.01, 1e-7);
    mem_free(want), mem_free(x), mem_free(w);
    return err;
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t rows, uint32_t cols)
{
    struct state s = {.rows = rows, .cols = cols};
    size_t bytes = (size_t)rows * cols * 2, all;
    char name[96];
    double seconds;
    enum err err;

    s.copies = gpu_bench_copies(r, 3 * bytes);
    all = s.copies * bytes;
    if ((err = gpu_bench_alloc(r, all, (void **)&s.x)) != ERR_OK ||
        (err = gpu_bench_alloc(r, all, (void **)&s.y)) != ERR_OK ||
        (err = gpu_bench_alloc(r, all, (void **)&s.residual)) != ERR_OK ||
        (err = gpu_bench_alloc(r, (size_t)cols * 2, (void **)&s.w)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.x, all / 2, 1)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.w, cols, 1)) != ERR_OK ||
        (err = gpu_fill(s.residual, 0, all, r->stream)) != ERR_OK ||
        (err = verify(r, &s)) != ERR_OK || (err = gpu_bench_time(r, plain, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "rmsnorm.plain.%ux%u", rows, cols);
    gpu_bench_report_bytes(r, name, 2 * (double)bytes + 2.0 * cols, seconds);
    if ((err = gpu_bench_time(r, residual, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "rmsnorm.residual.%ux%u", rows, cols);
    gpu_bench_report_bytes(r, name, 4 * (double)bytes + 2.0 * cols, seconds);
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 3, 520);
    if ((err = run_shape(r, 64, 4096)) != ERR_OK)
        return err;
    return run_shape(r, 8192, 4096);
}

const struct gpu_bench rmsnorm_bench = {"rmsnorm", run};
