/* bench/kernels/kv_digest_bench.c - digests of KV as it is handed over: by whole layers, and by heads. */
#include <stdio.h>
#include <string.h>

#include "bench/kernels/gpu_bench.h"
#include "engine/kernels/kv_digest.h"

struct state {
    struct kv_digest_args a;
    uint8_t *pool;
    size_t bytes;
    uint32_t copies;
};

static enum err launch(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    struct kv_digest_args a = s->a;

    a.base = s->pool + (i % s->copies) * s->bytes;
    return kv_digest(&a, stream);
}

static enum err verify(struct gpu_bench_run *r, struct state *s, const struct kv_memory_run *runs)
{
    struct kv_memory_run at_zero;
    uint64_t want = 0, got;
    void *host, *result;
    enum err err;

    if ((err = gpu_bench_host(r, s->a.longest, &host)) != ERR_OK ||
        (err = gpu_bench_host(r, 8, &result)) != ERR_OK ||
        (err = launch(s, 0, r->stream)) != ERR_OK ||
        (err = gpu_bench_copy(r, result, s->a.digest, 8, GPU_TO_HOST)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < s->a.n_runs; i++) {
        if ((err = gpu_bench_copy(r, host, s->pool + runs[i].at, runs[i].len, GPU_TO_HOST)) !=
            ERR_OK)
            return err;
        at_zero = runs[i];
        at_zero.at = 0;
        want += kv_digest_ref(host, &at_zero, 1);
    }
    memcpy(&got, result, 8);
    return got == want ? ERR_OK
                       : err_set(r->msg, ERR_CORRUPT, "kv_digest: not the digest of the host");
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t n_runs, size_t len)
{
    struct state s = {.bytes = n_runs * len};
    struct kv_memory_run *runs;
    void *host, *device;
    char name[96];
    double seconds;
    enum err err;

    s.copies = gpu_bench_copies(r, s.bytes);
    if ((err = gpu_bench_alloc(r, s.copies * s.bytes, (void **)&s.pool)) != ERR_OK ||
        (err = gpu_bench_random(r, GPU_BF16, s.pool, s.copies * s.bytes / 2, 1)) != ERR_OK ||
        (err = gpu_bench_alloc(r, n_runs * sizeof(*runs), &device)) != ERR_OK ||
        (err = gpu_bench_host(r, n_runs * sizeof(*runs), &host)) != ERR_OK ||
        (err = gpu_bench_alloc(r, 8, (void **)&s.a.digest)) != ERR_OK)
        return err;
    runs = host;
    for (uint32_t i = 0; i < n_runs; i++)
        runs[i] =
            (struct kv_memory_run){.at = i * len, .len = len, .canonical = i * len, .salt = 5};
    s.a.runs = device;
    s.a.n_runs = n_runs;
    s.a.longest = len;
    if ((err = gpu_bench_copy(r, device, host, n_runs * sizeof(*runs), GPU_TO_DEVICE)) != ERR_OK ||
        (err = verify(r, &s, runs)) != ERR_OK ||
        (err = gpu_bench_time(r, launch, &s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "kv_digest.%ux%zuKiB", n_runs, len / 1024);
    gpu_bench_report_bytes(r, name, (double)s.bytes, seconds);
    return ERR_OK;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 3, 20 << 10);
    if ((err = run_shape(r, KV_MEMORY_RUNS_MAX, 256 << 10)) != ERR_OK)
        return err;
    return run_shape(r, KV_MEMORY_RUNS_MAX, 16 << 10);
}

const struct gpu_bench kv_digest_bench = {"kv_digest", run};
