/* bench/kernels/products_bench.c - products with weights: gemv by itself, and what plans make of cuBLASLt and it.
 *
 * Up to 64 rows a figure is of the bytes of the weights, which are what must be read; above it of operations. */
#include <stdio.h>

#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/cuda/gpu_blas.h"
#include "engine/kernels/gemv.h"

enum { CHECKED = 48, COPIES = 64, BY_BYTES = 64 };

static const char *const weight_names[] = {"bf16", "e4m3", "int8"};

struct state {
    struct gpu_blas_shape s;
    uint32_t rows, copies;
    uint8_t *x, *y, *w;
    float *scale;
    struct gpu_matrix matrices[COPIES];
    struct gpu_blas_plan *plan; /* NULL: gemv */
};

static size_t weight_bytes(const struct state *s)
{
    return (size_t)s->s.n * s->s.k * (s->s.weight == GPU_WEIGHT_16 ? 2 : 1);
}

static enum err launch_gemv(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    const struct gpu_matrix *m = &s->matrices[i % s->copies];

    return gemv(&(struct gemv_args){.y = s->y,
                                    .x = (const uint16_t *)(void *)s->x,
                                    .w = m->w,
                                    .scale = m->scale,
                                    .x_stride = s->s.k,
                                    .y_stride = s->s.n,
                                    .rows = s->rows,
                                    .n = s->s.n,
                                    .k = s->s.k,
                                    .dtype = GPU_BF16,
                                    .weight = s->s.weight},
                stream);
}

static enum err launch_plan(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;

    return gpu_blas_run(s->plan, s->rows, s->y, s->x, &s->matrices[i % s->copies], stream);
}

/* Copies of the matrix, more than the cache holds; 8-bit ones are made on the device as a model's are. */
static enum err make(struct gpu_bench_run *r, struct state *s)
{
    size_t n = (size_t)s->s.n * s->s.k, bytes = weight_bytes(s);
    void *source = NULL;
    enum err err;

    s->copies = gpu_bench_copies(r, bytes);
    if ((err = gpu_bench_alloc(r, bytes * s->copies, (void **)&s->w)) != ERR_OK ||
        (err = gpu_bench_alloc(r, s->s.n * sizeof(float), (void **)&s->scale)) != ERR_OK ||
        (err = gpu_bench_alloc(r, (size_t)s->s.max_rows * s->s.k * 2, (void **)&s->x)) != ERR_OK ||
        (err = gpu_bench_alloc(r, (size_t)s->s.max_rows * s->s.n * 2, (void **)&s->y)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s->x, (size_t)s->s.max_rows * s->s.k, 1)) != ERR_OK)
        return err;
    if (s->s.weight != GPU_WEIGHT_16 &&
        ((err = gpu_bench_alloc(r, n * 2, &source)) != ERR_OK ||
         (err = gpu_bench_random(r, GPU_BF16, source, n, 0.02f)) != ERR_OK))
        return err;
    for (uint32_t i = 0; i < s->copies && err == ERR_OK; i++) {
        uint8_t *w = s->w + i * bytes;

        s->matrices[i] = (struct gpu_matrix){w, source == NULL ? NULL : s->scale, NULL};
        err = source == NULL ? gpu_bench_random(r, GPU_BF16, w, n, 0.02f)
                             : quantize(&(struct quantize_args){.q = w,
                                                                .scale = s->scale,
                                                                .x = source,
                                                                .x_stride = s->s.k,
                                                                .rows = s->s.n,
                                                                .cols = s->s.k,
                                                                .dtype = GPU_BF16,
                                                                .format = s->s.weight},
                                        r->stream);
    }
    return err;
}

/* The first results of the first row.  e4m3 on both sides is another rounding of x: only its size is looked at. */
static enum err verify(struct gpu_bench_run *r, struct state *s)
{
    uint32_t n = s->s.n < CHECKED ? s->s.n : CHECKED, k = s->s.k;
    size_t unit = s->s.weight == GPU_WEIGHT_16 ? 2 : 1, bytes = (size_t)n * k * unit;
    float *x = mem_try_alloc(k * sizeof(float)), *w = mem_try_alloc((size_t)n * k * sizeof(float));
    double *sums = mem_try_alloc(n * sizeof(double));
    void *host = NULL;
    float want[CHECKED], scale[CHECKED];
    enum err err = x == NULL || w == NULL || sums == NULL
                       ? ERR_NOMEM
                       : gpu_bench_host(r, bytes + k * 2ull, &host);

    if (err == ERR_OK && (err = gpu_bench_copy(r, host, s->x, k * 2ull, GPU_TO_HOST)) == ERR_OK) {
        for (uint32_t i = 0; i < k; i++)
            x[i] = gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i]);
        err = gpu_bench_copy(r, host, s->scale, n * sizeof(float), GPU_TO_HOST);
    }
    for (uint32_t i = 0; i < n && err == ERR_OK; i++)
        scale[i] = ((float *)host)[i];
    if (err == ERR_OK && (err = gpu_bench_copy(r, host, s->w, bytes, GPU_TO_HOST)) == ERR_OK) {
        for (size_t i = 0; i < (size_t)n * k; i++)
            w[i] = unit == 2 ? gpu_bench_widen(GPU_BF16, ((uint16_t *)host)[i])
                             : (float)quantize_value(((uint8_t *)host)[i], s->s.weight);
        gemv_ref(&(struct gemv_ref_args){.y = sums,
                                         .x = x,
                                         .w = w,
                                         .scale = unit == 2 ? NULL : scale,
                                         .rows = 1,
                                         .n = n,
                                         .k = k});
        for (uint32_t i = 0; i < n; i++)
            want[i] = (float)sums[i];
        err = s->plan != NULL ? launch_plan(s, 0, r->stream) : launch_gemv(s, 0, r->stream);
    }
    if (err == ERR_OK) {
        bool rounded = s->plan != NULL && s->s.weight == GPU_WEIGHT_E4M3;
        double typical = 0.02 * __builtin_sqrt((double)k);
        err = gpu_bench_check(r, s->plan != NULL ? "product" : "gemv", GPU_BF16, s->y, want, n,
                              0x1p-8 * 1.01,
                              typical * (rounded           ? 0.2
                                         : s->plan != NULL ? 0.02
                                                           : 1e-3));
    }
    mem_free(x), mem_free(w), mem_free(sums);
    return err;
}

static void report(struct gpu_bench_run *r, const struct state *s, const char *what, double seconds)
{
    double operations = 2.0 * s->rows * s->s.n * s->s.k;
    char name[96];

    snprintf(name, sizeof(name), "%s.%s.%ux%ux%u", what, weight_names[s->s.weight], s->rows, s->s.n,
             s->s.k);
    if (s->rows <= BY_BYTES)
        gpu_bench_report_bytes(r, name, (double)weight_bytes(s), seconds);
    else
        gpu_bench_report(r, name, seconds > 0 ? operations / seconds / 1e12 : 0, "TFLOP/s");
}

static struct state state_of(enum gpu_weight weight, uint32_t n, uint32_t k, uint32_t max_rows)
{
    return (struct state){.s = {.n = n,
                                .k = k,
                                .max_rows = max_rows,
                                .x_stride = k,
                                .y_stride = n,
                                .dtype = GPU_BF16,
                                .weight = weight}};
}

static enum err run_gemv(struct gpu_bench_run *r, enum gpu_weight weight, uint32_t n, uint32_t k)
{
    static const uint32_t rows[] = {1, 8, 16};
    struct state s = state_of(weight, n, k, 16);
    double seconds;
    enum err err = make(r, &s);

    for (size_t i = 0; i < 3 && err == ERR_OK; i++) {
        s.rows = rows[i];
        if ((err = verify(r, &s)) == ERR_OK &&
            (err = gpu_bench_time(r, launch_gemv, &s, &seconds)) == ERR_OK)
            report(r, &s, "gemv", seconds);
    }
    return err;
}

static enum err run_plan(struct gpu_bench_run *r, struct state *s, struct gpu_blas *b,
                         const uint32_t *rows, uint32_t n)
{
    struct gpu_blas_trial trial = {r->stream, s->matrices, s->copies, s->x, s->y};
    double seconds;
    enum err err = gpu_blas_plan(b, &s->s, &trial, r->msg, &s->plan);

    for (uint32_t i = 0; i < n && err == ERR_OK; i++) {
        s->rows = rows[i];
        if ((err = verify(r, s)) == ERR_OK &&
            (err = gpu_bench_time(r, launch_plan, s, &seconds)) == ERR_OK)
            report(r, s, "product", seconds);
    }
    gpu_blas_plan_free(s->plan);
    return err;
}

static enum err run_product(struct gpu_bench_run *r, struct state s, const uint32_t *rows,
                            uint32_t n)
{
    struct gpu_blas *b = NULL;
    void *memory = NULL;
    size_t bytes = gpu_blas_bytes(&s.s, 1);
    enum err err = make(r, &s);

    if (err == ERR_OK)
        err = gpu_bench_alloc(r, bytes, &memory);
    if (err == ERR_OK)
        err = gpu_blas_open(r->gpu, memory, bytes, r->msg, &b);
    if (err == ERR_OK)
        err = run_plan(r, &s, b, rows, n);
    gpu_blas_close(b);
    return err;
}

static enum err run_small(struct gpu_bench_run *r)
{
    static const uint32_t rows[] = {1, 20, 70};
    enum err err = ERR_OK;

    for (int w = 0; w < 3 && err == ERR_OK; w++) {
        if ((err = run_gemv(r, (enum gpu_weight)w, 64, 128)) == ERR_OK)
            err = run_product(r, state_of((enum gpu_weight)w, 64, 128, 70), rows, 3);
    }
    return err;
}

/* The matrices of Llama 3.1 8B. */
static enum err run(struct gpu_bench_run *r)
{
    static const uint32_t ns[] = {6144, 4096, 28672, 4096}, ks[] = {4096, 4096, 4096, 14336};
    static const uint32_t rows[] = {1, 64, 2048, 8192};
    enum err err;

    if (r->small)
        return run_small(r);
    for (int i = 0; i < 4; i++)
        if ((err = run_gemv(r, GPU_WEIGHT_16, ns[i], ks[i])) != ERR_OK)
            return err;
    for (int w = 1; w < 3; w++)
        if ((err = run_gemv(r, (enum gpu_weight)w, 28672, 4096)) != ERR_OK)
            return err;
    for (int i = 0; i < 4; i++)
        if ((err = run_product(r, state_of(GPU_WEIGHT_16, ns[i], ks[i], 8192), rows, 4)) != ERR_OK)
            return err;
    for (int w = 1; w < 3; w++)
        if ((err = run_product(r, state_of((enum gpu_weight)w, 28672, 4096, 8192), rows, 4)) !=
            ERR_OK)
            return err;
    return ERR_OK;
}

const struct gpu_bench products_bench = {"products", run};
