/* bench/kernels/sample_bench.c - sampling the rows of a decode step: greedy, and by the filters that requests use.
 *
 * Every figure is over the bytes of the logits, read once; rows that draw read some of them again, from the cache. */
#include <stdio.h>
#include <string.h>

#include "bench/kernels/gpu_bench.h"
#include "engine/engine_sample_math.h"
#include "engine/kernels/sample.h"

enum { CHECKED_ROWS = 2, LIKELY = 60 /* tokens of a row that stand out */ };

struct kind {
    const char *name;
    float temperature, top_p;
    uint32_t top_k;
    bool flat; /* logits of which none stands out: the filters' worst case */
};

static const struct kind kinds[] = {
    {"greedy", 0, 1, 0, false},        {"temperature", 1, 1, 0, false},
    {"top_p", 1, 0.95f, 0, false},     {"top_k_top_p", 1, 0.95f, 50, false},
    {"flat_top_p", 1, 0.95f, 0, true},
};

struct state {
    struct sample_args a;
    void *rows; /* a.rows, to write */
    uint32_t copies;
};

static enum err launch(void *arg, uint32_t i, gpu_stream stream)
{
    const struct state *s = arg;
    struct sample_args a = s->a;

    a.logits += (size_t)(i % s->copies) * a.n_rows * a.row_stride;
    return sample(&a, stream);
}

static uint32_t next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

/* About normal with a deviation of 1 (flat) or 2.5, and some tokens 8 to 14 above. */
static void fill(float *logits, uint32_t rows, uint32_t vocab, bool flat)
{
    uint64_t state = 7;

    for (size_t i = 0; i < (size_t)rows * vocab; i++) {
        float sum = 0;

        for (int j = 0; j < 3; j++)
            sum += (float)(next(&state) >> 8) * 0x1p-23f - 1;
        logits[i] = flat ? sum : 2.5f * sum;
    }
    for (size_t i = 0; !flat && i < (size_t)rows * LIKELY; i++) {
        size_t at = i / LIKELY * vocab + next(&state) % vocab;

        logits[at] += 8 + 6 * (float)(next(&state) >> 8) * 0x1p-24f;
    }
}

static void describe(struct sample_row *rows, uint32_t n, const struct kind *k)
{
    memset(rows, 0, n * sizeof(*rows));
    for (uint32_t i = 0; i < n; i++) {
        rows[i].mode = k->temperature > 0 ? SAMPLE_DRAW : SAMPLE_GREEDY;
        rows[i].sample_index = i;
        rows[i].seed = 1234 + i;
        rows[i].share = engine_share(k->top_p);
        rows[i].top_k = k->top_k;
        rows[i].scale = k->temperature > 0 ? ENGINE_LOG2_E / k->temperature : 0;
        rows[i].repetition_penalty = 1;
    }
}

static enum err verify(struct gpu_bench_run *r, struct state *s, float *logits,
                       const struct sample_row *rows)
{
    uint32_t n = s->a.n_rows < CHECKED_ROWS ? s->a.n_rows : CHECKED_ROWS;
    void *host = NULL;
    enum err err = gpu_bench_host(r, n * 4, &host);

    if (err != ERR_OK || (err = launch(s, 0, r->stream)) != ERR_OK ||
        (err = gpu_bench_copy(r, host, s->a.tokens, n * 4, GPU_TO_HOST)) != ERR_OK)
        return err;
    for (uint32_t i = 0; i < n; i++) {
        int32_t want = sample_ref(logits + (size_t)i * s->a.vocab, s->a.vocab, &rows[i], NULL);

        if (((int32_t *)host)[i] != want)
            return err_set(r->msg, ERR_CORRUPT, "sample: row %u is token %d, not %d", i,
                           ((int32_t *)host)[i], want);
    }
    return ERR_OK;
}

static enum err run_kind(struct gpu_bench_run *r, struct state *s, const struct kind *k,
                         float *logits, struct sample_row *rows)
{
    size_t bytes = (size_t)s->a.n_rows * s->a.vocab * 4;
    char name[96];
    double seconds;
    enum err err = ERR_OK;

    fill(logits, s->a.n_rows, s->a.vocab, k->flat);
    describe(rows, s->a.n_rows, k);
    for (uint32_t c = 0; c < s->copies && err == ERR_OK; c++)
        err = gpu_bench_copy(r, (uint8_t *)s->a.logits + c * bytes, logits, bytes, GPU_TO_DEVICE);
    if (err != ERR_OK ||
        (err = gpu_bench_copy(r, s->rows, rows, s->a.n_rows * sizeof(*rows), GPU_TO_DEVICE)) !=
            ERR_OK ||
        (err = verify(r, s, logits, rows)) != ERR_OK ||
        (err = gpu_bench_time(r, launch, s, &seconds)) != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "sample.%s.%ux%u", k->name, s->a.n_rows, s->a.vocab);
    gpu_bench_report_bytes(r, name, (double)bytes, seconds);
    return ERR_OK;
}

static enum err run_shape(struct gpu_bench_run *r, uint32_t n_rows, uint32_t vocab)
{
    struct state s = {.a = {.n_rows = n_rows, .vocab = vocab, .row_stride = vocab}};
    size_t bytes = (size_t)n_rows * vocab * 4;
    void *logits, *rows, *device, *device_rows, *tokens;
    enum err err;

    s.copies = gpu_bench_copies(r, bytes);
    if ((err = gpu_bench_host(r, bytes, &logits)) != ERR_OK ||
        (err = gpu_bench_host(r, n_rows * sizeof(*s.a.rows), &rows)) != ERR_OK ||
        (err = gpu_bench_alloc(r, s.copies * bytes, &device)) != ERR_OK ||
        (err = gpu_bench_alloc(r, n_rows * sizeof(*s.a.rows), &device_rows)) != ERR_OK ||
        (err = gpu_bench_alloc(r, n_rows * 4, &tokens)) != ERR_OK ||
        (err = gpu_bench_alloc(r, sample_workspace_bytes(n_rows, vocab), &s.a.workspace)) != ERR_OK)
        return err;
    s.a.logits = device;
    s.a.rows = s.rows = device_rows;
    s.a.tokens = tokens;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds) && err == ERR_OK; k++)
        err = run_kind(r, &s, &kinds[k], logits, rows);
    return err;
}

static enum err run(struct gpu_bench_run *r)
{
    enum err err;

    if (r->small)
        return run_shape(r, 2, 1000);
    if ((err = run_shape(r, 1, 128256)) != ERR_OK)
        return err;
    return run_shape(r, 64, 128256);
}

const struct gpu_bench sample_bench = {"sample", run};
