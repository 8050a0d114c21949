/* bench/kernels/ceiling_bench.c - what the card can do, for the shares of the others: a copy on the device, and a large
 * 16-bit product by the library.  The product's ceiling is the best of a second's samples; the last of them stands
 * beside it, since a card that has come to its power limit by then holds no more. */
#include "base/clock.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/cuda/gpu_blas.h"

static const uint64_t SUSTAINED_NS = CLOCK_NS_PER_S;

struct product {
    struct gpu_blas_plan *plan;
    struct gpu_matrix w;
    void *x, *y;
    uint32_t n;
};

static enum err launch(void *arg, uint32_t i, gpu_stream s)
{
    const struct product *p = arg;

    (void)i;
    return gpu_blas_run(p->plan, p->n, p->y, p->x, &p->w, s);
}

static enum err measure(struct gpu_bench_run *r, struct gpu_blas *blas,
                        const struct gpu_blas_shape *shape, struct product *p)
{
    const struct gpu_blas_trial trial = {
        .stream = r->stream, .matrices = &p->w, .n_matrices = 1, .x = p->x, .y = p->y};
    double seconds, least, flops = 2.0 * p->n * p->n * p->n;
    uint64_t begin;
    enum err err = gpu_blas_plan(blas, shape, &trial, r->msg, &p->plan);

    if (err == ERR_OK)
        err = gpu_bench_time(r, launch, p, &least);
    if (err != ERR_OK)
        return err;
    seconds = least;
    begin = clock_now_ns();
    while (err == ERR_OK && !r->small && clock_now_ns() - begin < SUSTAINED_NS) {
        err = gpu_bench_time(r, launch, p, &seconds);
        least = seconds < least ? seconds : least;
    }
    gpu_bench_report(r, "ceiling.product", flops / least / 1e12, "TFLOP/s");
    gpu_bench_report(r, "ceiling.product.sustained", flops / seconds / 1e12, "TFLOP/s");
    return err;
}

static enum err run_product(struct gpu_bench_run *r)
{
    struct product p = {.n = r->small ? 64 : 8192};
    size_t elements = (size_t)p.n * p.n, bytes;
    const struct gpu_blas_shape shape = {.n = p.n,
                                         .k = p.n,
                                         .max_rows = p.n,
                                         .x_stride = p.n,
                                         .y_stride = p.n,
                                         .dtype = GPU_BF16,
                                         .weight = GPU_WEIGHT_16};
    struct gpu_blas *blas = NULL;
    void *w, *memory;
    enum err err;

    bytes = gpu_blas_bytes(&shape, 1);
    if ((err = gpu_bench_alloc(r, 2 * elements, &w)) != ERR_OK ||
        (err = gpu_bench_alloc(r, 2 * elements, &p.x)) != ERR_OK ||
        (err = gpu_bench_alloc(r, 2 * elements, &p.y)) != ERR_OK ||
        (err = gpu_bench_alloc(r, bytes, &memory)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, w, elements, 1)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, p.x, elements, 1)) != ERR_OK)
        return err;
    p.w.w = w;
    err = gpu_blas_open(r->gpu, memory, bytes, r->msg, &blas);
    if (err == ERR_OK)
        err = measure(r, blas, &shape, &p);
    gpu_blas_plan_free(p.plan);
    gpu_blas_close(blas);
    return err;
}

static enum err run(struct gpu_bench_run *r)
{
    double copy = gpu_bench_copy_rate(r);

    if (copy <= 0)
        return err_set(r->msg, ERR_DEVICE, "a copy on the device could not be timed");
    gpu_bench_report(r, "ceiling.copy", copy / 1e9, "GB/s");
    return run_product(r);
}

const struct gpu_bench ceiling_bench = {.name = "ceiling", .run = run};
