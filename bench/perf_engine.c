/* bench/perf_engine.c - see the header.  Every figure is the median of several rounds, so that one
 * stall of the machine does not decide it. */
#include "bench/perf_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/perf_engine_limits.h"
#include "bench/perf_report.h"
#include "engine/engine.h"
#include "engine/engine_model.h"

enum {
    CHUNK = 512,
    STREAMS_MAX = 32,
    DECODE_CONTEXT = 32,
    DECODE_STEPS_MAX = 200,
    ROUNDS_MAX = 15,
    BLOCK_TOKENS = 16
};
static const uint64_t FIGURE_NS = 4 * CLOCK_NS_PER_S; /* time spent on one figure */

struct perf {
    struct engine *engine;
    const struct engine_info *info;
    struct bench_limits limits;
    double flops;      /* the limit of the type the model's products use */
    double prompt_ops; /* operations per prompt token: all matrices but embedding and output */
    double token_ops;  /* per generated token: the output matrix too */
    double step_bytes; /* weights that a decode step reads */
    void *pool;
    uint32_t *blocks;
    uint32_t blocks_per_stream;
    int32_t tokens[CHUNK];
    struct bench_report report;
};

/* what: NULL if nothing is held beside it. */
static void add(struct perf *p, const char *name, const char *unit, double value, const char *what,
                double reference)
{
    bench_report_add(&p->report, name, value, unit, BENCH_HIGHER);
    if (what != NULL)
        bench_report_reference(&p->report, what, reference);
}

/* ---- the steps ---- */

static enum err prefill(struct perf *p, uint32_t stream, uint32_t n_tokens, bool sample)
{
    struct engine_sampling greedy;

    engine_sampling_defaults(&greedy);
    for (uint32_t at = 0; at < n_tokens; at += CHUNK) {
        uint32_t n = n_tokens - at < CHUNK ? n_tokens - at : CHUNK;
        struct engine_slot slot = {.tokens = p->tokens,
                                   .n_tokens = n,
                                   .position = at,
                                   .blocks = p->blocks + (size_t)stream * p->blocks_per_stream,
                                   .n_blocks = p->blocks_per_stream,
                                   .sample = sample && at + n == n_tokens,
                                   .sampling = &greedy};
        enum err err = engine_step(p->engine, &slot, 1, 0, NULL, NULL);

        if (err != ERR_OK || slot.result != ERR_OK)
            return ERR_DEVICE;
    }
    return ERR_OK;
}

static enum err measure_prefill(struct perf *p, uint32_t n_tokens, double *rate)
{
    double rates[ROUNDS_MAX];
    uint64_t begin = clock_now_ns();
    uint32_t n = 0;

    while (n < ROUNDS_MAX && (n < 3 || clock_now_ns() - begin < FIGURE_NS)) {
        uint64_t start = clock_now_ns();
        enum err err = prefill(p, 0, n_tokens, true);

        if (err != ERR_OK)
            return err;
        rates[n++] = n_tokens * 1e9 / (double)(clock_now_ns() - start);
    }
    *rate = bench_median(rates, n);
    return ERR_OK;
}

static enum err decode_step(struct perf *p, struct engine_slot *slots, int32_t *next, uint32_t n,
                            uint32_t position)
{
    for (uint32_t i = 0; i < n; i++) {
        slots[i].tokens = &next[i];
        slots[i].n_tokens = 1;
        slots[i].position = position;
        slots[i].sample_index = position - DECODE_CONTEXT;
    }
    if (engine_step(p->engine, slots, n, 0, NULL, NULL) != ERR_OK)
        return ERR_DEVICE;
    for (uint32_t i = 0; i < n; i++) {
        if (slots[i].result != ERR_OK)
            return ERR_DEVICE;
        next[i] = slots[i].out.token;
    }
    return ERR_OK;
}

/* Time of the median step. */
static enum err measure_decode(struct perf *p, uint32_t streams, double *rate)
{
    struct engine_slot slots[STREAMS_MAX];
    int32_t next[STREAMS_MAX];
    double times[DECODE_STEPS_MAX];
    struct engine_sampling greedy;
    uint64_t begin;
    uint32_t n = 0;

    engine_sampling_defaults(&greedy);
    for (uint32_t i = 0; i < streams; i++) {
        slots[i] = (struct engine_slot){.blocks = p->blocks + (size_t)i * p->blocks_per_stream,
                                        .n_blocks = p->blocks_per_stream,
                                        .sample = true,
                                        .sampling = &greedy};
        next[i] = p->tokens[i];
        if (prefill(p, i, DECODE_CONTEXT, false) != ERR_OK)
            return ERR_DEVICE;
    }
    begin = clock_now_ns();
    while (n < DECODE_STEPS_MAX && (n < 5 || clock_now_ns() - begin < FIGURE_NS)) {
        uint64_t start = clock_now_ns();
        enum err err = decode_step(p, slots, next, streams, DECODE_CONTEXT + n);

        if (err != ERR_OK)
            return err;
        times[n++] = (double)(clock_now_ns() - start);
    }
    *rate = streams * 1e9 / bench_median(times, n);
    return ERR_OK;
}

/* ---- the figures ---- */

/* A model that fits the last cache is not read from memory at each step.  From the kernel, since the C
 * library's figure on some processors is that of all sockets and dies together. */
static double cache_bytes(void)
{
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    char line[32] = "";
    double kib = 0;

    if (f == NULL)
        return 0;
    if (fgets(line, sizeof(line), f) != NULL)
        kib = strtod(line, NULL);
    fclose(f);
    return kib * 1024;
}

static double decode_limit(const struct perf *p, uint32_t streams)
{
    double read = p->step_bytes > cache_bytes() ? p->step_bytes / p->limits.read_bytes_per_s : 0;
    double compute = p->token_ops * streams / p->flops;

    return streams / (read > compute ? read : compute);
}

static enum err measure_all(struct perf *p)
{
    static const uint32_t prompts[] = {512, 2048}, streams[] = {1, 8, 32};
    static const char *const prefill_names[] = {"engine.prefill.512", "engine.prefill.2048"};
    static const char *const decode_names[] = {"engine.decode.1", "engine.decode.8",
                                               "engine.decode.32"};
    double rate;
    enum err err;

    add(p, "machine.read", "GB/s", p->limits.read_bytes_per_s / 1e9, NULL, 0);
    add(p, "machine.flops.f32", "GFLOP/s", p->limits.f32_flops / 1e9, NULL, 0);
    if (p->limits.bf16_flops > 0)
        add(p, "machine.flops.bf16", "GFLOP/s", p->limits.bf16_flops / 1e9, NULL, 0);
    for (size_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        if (prompts[i] + 1 > p->info->max_context)
            continue;
        err = measure_prefill(p, prompts[i], &rate);
        if (err != ERR_OK)
            return err;
        add(p, prefill_names[i], "tokens/s", rate, "arithmetic peak, same run",
            p->flops / p->prompt_ops);
    }
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        err = measure_decode(p, streams[i], &rate);
        if (err != ERR_OK)
            return err;
        add(p, decode_names[i], "tokens/s", rate, "memory and arithmetic limit, same run",
            decode_limit(p, streams[i]));
    }
    return ERR_OK;
}

/* ---- set-up ---- */

static enum err attach(struct perf *p, struct err_msg *msg)
{
    uint32_t context =
        p->info->max_context < 2048 + BLOCK_TOKENS ? p->info->max_context : 2048 + BLOCK_TOKENS;
    size_t n_blocks, bytes;

    p->blocks_per_stream = (context + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    n_blocks = (size_t)p->blocks_per_stream * STREAMS_MAX;
    p->blocks = mem_try_calloc(n_blocks, sizeof(uint32_t));
    /* Stream 0 has room for the long prompt; the others share one pool of decode blocks. */
    n_blocks = p->blocks_per_stream +
               (size_t)STREAMS_MAX * ((DECODE_CONTEXT + DECODE_STEPS_MAX) / BLOCK_TOKENS + 2);
    bytes = engine_pool_bytes(p->engine, (uint32_t)n_blocks);
    if (bytes > 0)
        p->pool = mem_try_aligned(64, bytes);
    if (p->blocks == NULL || p->pool == NULL)
        return err_set(msg, ERR_NOMEM, "perf engine: no memory for %zu KV blocks", n_blocks);
    memset(p->pool, 0, bytes);
    for (uint32_t i = 0; i < p->blocks_per_stream; i++)
        p->blocks[i] = i;
    for (uint32_t s = 1; s < STREAMS_MAX; s++) {
        uint32_t own = (DECODE_CONTEXT + DECODE_STEPS_MAX) / BLOCK_TOKENS + 2;

        for (uint32_t i = 0; i < p->blocks_per_stream; i++)
            p->blocks[s * p->blocks_per_stream + i] =
                p->blocks_per_stream + (s - 1) * own + (i < own ? i : own - 1);
    }
    return engine_attach_pool(p->engine, p->pool, (uint32_t)n_blocks);
}

/* The embedding is looked up, one row per token; the output matrix (the same one, if tied) is used for
 * sampled tokens only. */
static enum err find_limits(struct perf *p, const char *model_dir, struct err_msg *msg)
{
    double params = (double)p->info->n_params;
    double bytes_each = (double)p->info->weight_bytes / params;
    struct engine_model_config c;
    enum err err = engine_model_read_config(model_dir, &c, msg);

    if (err != ERR_OK)
        return err;
    p->token_ops = 2 * (params - (c.tied_embeddings ? 0.0 : (double)c.vocab * c.hidden));
    p->prompt_ops = p->token_ops - 2 * (double)c.vocab * c.hidden;
    p->step_bytes = p->token_ops / 2 * bytes_each;
    p->flops =
        bytes_each < 3 && p->limits.bf16_flops > 0 ? p->limits.bf16_flops : p->limits.f32_flops;
    return ERR_OK;
}

static enum err run(struct perf *p, const char *model_dir, uint32_t threads, uint32_t tp,
                    struct err_msg *msg)
{
    struct engine_config config = {.backend = "cpu",
                                   .model_dir = model_dir,
                                   .threads = threads,
                                   .tp = tp,
                                   .block_tokens = BLOCK_TOKENS,
                                   .max_batch = STREAMS_MAX,
                                   .max_step_tokens = CHUNK};
    enum err err = engine_open(&config, msg, &p->engine);

    if (err != ERR_OK)
        return err;
    p->info = engine_info(p->engine);
    err = attach(p, msg);
    if (err != ERR_OK)
        return err;
    for (uint32_t i = 0; i < CHUNK; i++)
        p->tokens[i] = (int32_t)(i * 7919u % p->info->vocab);
    err = find_limits(p, model_dir, msg);
    if (err != ERR_OK)
        return err;
    err = measure_all(p);
    return err == ERR_OK ? ERR_OK : err_set(msg, err, "perf engine: a step failed");
}

enum err bench_perf_engine(const char *model_dir, uint32_t threads, uint32_t tp, bool json,
                           struct err_msg *msg)
{
    struct perf *p = mem_try_calloc(1, sizeof(*p));
    enum err err;

    if (p == NULL)
        return err_set(msg, ERR_NOMEM, "perf engine: no memory");
    bench_report_init(&p->report, "perf engine");
    if (threads == 0)
        threads = bench_limits_cores();
    err = bench_limits_measure(threads, &p->limits);
    if (err != ERR_OK)
        (void)err_set(msg, err, "perf engine: no memory to measure the machine's limits");
    else
        err = run(p, model_dir, threads, tp, msg);
    if (err == ERR_OK)
        err = bench_report_print(&p->report, json);
    bench_report_free(&p->report);
    engine_close(p->engine);
    mem_free(p->blocks);
    mem_free(p->pool);
    mem_free(p);
    return err;
}
