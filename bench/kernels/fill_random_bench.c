/* bench/kernels/fill_random_bench.c - random numbers for a weight matrix. */
#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/fill_random.h"

struct state {
    uint16_t *y;
    uint64_t n;
};

static enum err launch(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;

    return fill_random(s->y, s->n, 0.0f, 1.0f, 1 + i, GPU_BF16, stream);
}

static enum err verify(struct gpu_bench_run *r, struct state *s)
{
    enum { N = 1024 };
    double exact[N];
    float want[N];
    enum err err = launch(s, 0, r->stream);

    fill_random_ref(exact, N, 0, 1, 1);
    for (int i = 0; i < N; i++)
        want[i] = (float)exact[i];
    return err == ERR_OK
               ? gpu_bench_check(r, "fill_random", GPU_BF16, s->y, want, N, 0x1p-8 * 1.01, 1e-30)
               : err;
}

static enum err run(struct gpu_bench_run *r)
{
    struct state s = {.n = r->small ? 4096 : 1ull << 28};
    double seconds;
    enum err err = gpu_bench_alloc(r, s.n * 2, (void **)&s.y);

    if (err != ERR_OK || (err = verify(r, &s)) != ERR_OK ||
        (err = gpu_bench_time(r, launch, &s, &seconds)) != ERR_OK)
        return err;
    gpu_bench_report_bytes(r, "fill_random", 2 * (double)s.n, seconds);
    return ERR_OK;
}

const struct gpu_bench fill_random_bench = {"fill_random", run};
