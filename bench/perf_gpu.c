/* bench/perf_gpu.c - see the header.  First the card and the kernels, each by itself; then an engine of the whole
 * model, whose figures stand beside the ceilings that were just measured. */
#include "bench/perf_gpu.h"

#ifdef BATON_CUDA

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/kernels/gpu_bench.h"
#include "bench/perf_report.h"
#include "engine/cuda/cuda_times.h"
#include "engine/engine_model.h"
#include "engine/gpu.h"
#include "proto/kv_memory.h"

enum { BLOCK_TOKENS = 16, ROUNDS_MAX = 9, STEPS_MAX = 60, STREAMS_MAX = 64 };
static const uint64_t FIGURE_NS = 3 * CLOCK_NS_PER_S; /* time spent on one figure */

/* For the emulation, on which a prompt of thousands of tokens would take hours. */
#ifdef GPU_EMULATED
static const bool SMALL = true;
#else
static const bool SMALL = false;
#endif

static const char LLAMA_3_1_8B[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 4096, \"num_hidden_layers\": 32,"
    " \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"intermediate_size\": 14336,"
    " \"vocab_size\": 128256, \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-5,"
    " \"hidden_act\": \"silu\", \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\","
    " \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0,"
    " \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
    " \"original_max_position_embeddings\": 8192}, \"bos_token_id\": 128000, \"eos_token_id\": "
    "128001}\n";

struct perf {
    const struct bench_perf_gpu_options *o;
    struct bench_report report;
    struct engine *engine;
    const struct engine_info *info;
    struct engine_model_config model;
    double copy_bytes_per_s, flops_per_s; /* the ceilings; 0: not measured */
    double matrix_params, head_params;    /* of all layers; of the output head */
    double weight_bytes_each;             /* of one parameter of the layers; the head has 16 bits */
    uint32_t prompts[2], context, streams[2];
    uint32_t *blocks; /* [STREAMS_MAX][blocks_per_stream] */
    uint32_t blocks_per_stream;
    int32_t *tokens; /* [the longest prompt] */
};

/* ---- steps ---- */

static struct engine_slot slot_of(const struct perf *p, uint32_t stream,
                                  const struct engine_sampling *greedy)
{
    return (struct engine_slot){.blocks = p->blocks + (size_t)stream * p->blocks_per_stream,
                                .n_blocks = p->blocks_per_stream,
                                .sampling = greedy};
}

static enum err step(struct perf *p, struct engine_slot *slots, uint32_t n)
{
    enum err err = engine_step(p->engine, slots, n, 0, NULL, NULL);

    for (uint32_t i = 0; i < n && err == ERR_OK; i++)
        err = slots[i].result == ERR_OK ? ERR_OK : ERR_DEVICE;
    return err;
}

/* The keys and values of n tokens, and the token after them if `sample`. */
static enum err prefill(struct perf *p, uint32_t stream, uint32_t n, bool sample)
{
    struct engine_sampling greedy;
    struct engine_slot slot;

    engine_sampling_defaults(&greedy);
    slot = slot_of(p, stream, &greedy);
    slot.tokens = p->tokens;
    slot.n_tokens = n;
    slot.sample = sample;
    return step(p, &slot, 1);
}

struct decode {
    struct engine_slot slots[STREAMS_MAX];
    int32_t next[STREAMS_MAX];
    struct engine_sampling greedy;
    uint32_t n;
};

static enum err decode_step(struct perf *p, struct decode *d, uint32_t position)
{
    enum err err;

    for (uint32_t i = 0; i < d->n; i++) {
        d->slots[i] = slot_of(p, i, &d->greedy);
        d->slots[i].tokens = &d->next[i];
        d->slots[i].n_tokens = 1;
        d->slots[i].position = position;
        d->slots[i].sample = true;
    }
    err = step(p, d->slots, d->n);
    for (uint32_t i = 0; i < d->n && err == ERR_OK; i++)
        d->next[i] = d->slots[i].out.token;
    return err;
}

/* ---- figures ---- */

static void add(struct perf *p, const char *name, double value, const char *unit,
                enum bench_better better)
{
    bench_report_add(&p->report, name, value, unit, better);
}

/* Multiplications and additions of a prompt: the matrices of the layers for each token, the head for the last,
 * and attention over what each token sees. */
static double prompt_flops(const struct perf *p, uint32_t n)
{
    const struct engine_model_config *m = &p->model;
    double attention = 2.0 * 2 * m->n_layers * m->n_heads * m->head_dim * n * (n + 1.0) / 2;

    return 2 * p->matrix_params * n + 2 * p->head_params + attention;
}

/* A step reads every weight but the embedding once, and the keys and values of all it attends to. */
static double decode_bytes(const struct perf *p, uint32_t streams, uint32_t context)
{
    double token = (double)wire_kv_block_bytes(&p->info->kv) / p->info->kv.block_tokens;

    return p->matrix_params * p->weight_bytes_each + p->head_params * 2 +
           (double)streams * context * token;
}

static void add_profile(struct perf *p, const char *what)
{
    const struct cuda_profile *profile = cuda_engine_profile(p->engine);
    char name[160];

    for (uint32_t i = 0; profile != NULL && i < profile->n; i++) {
        snprintf(name, sizeof(name), "gpu.profile.%s.%s", what, profile->op[i].name);
        add(p, name, profile->op[i].ms, "ms", BENCH_LOWER);
    }
}

static enum err measure_prefill(struct perf *p, uint32_t n)
{
    double seconds[ROUNDS_MAX];
    uint64_t begin = clock_now_ns();
    uint32_t rounds = 0;
    char name[96];
    enum err err = prefill(p, 0, n, true); /* warm */

    while (err == ERR_OK && rounds < ROUNDS_MAX &&
           (rounds < 3 || clock_now_ns() - begin < FIGURE_NS)) {
        uint64_t start = clock_now_ns();

        err = prefill(p, 0, n, true);
        seconds[rounds++] = (double)(clock_now_ns() - start) / 1e9;
    }
    if (err != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "gpu.prefill.%u", n);
    add(p, name, n / bench_median(seconds, rounds), "tokens/s", BENCH_HIGHER);
    if (p->flops_per_s > 0)
        bench_report_reference(&p->report, "all operations at ceiling.product",
                               n * p->flops_per_s / prompt_flops(p, n));
    cuda_engine_profile_next(p->engine);
    err = prefill(p, 0, n, true);
    snprintf(name, sizeof(name), "prefill.%u", n);
    add_profile(p, name);
    return err;
}

static enum err fill_contexts(struct perf *p, uint32_t streams)
{
    enum err err = ERR_OK;

    for (uint32_t i = 0; i < streams && err == ERR_OK; i++)
        err = prefill(p, i, p->context, false);
    return err;
}

static enum err measure_decode(struct perf *p, uint32_t streams)
{
    double seconds[STEPS_MAX], host[STEPS_MAX];
    uint64_t begin;
    uint32_t n = 0;
    struct decode d = {.n = streams};
    char name[96], what[64];
    enum err err = fill_contexts(p, streams);

    engine_sampling_defaults(&d.greedy);
    for (uint32_t i = 0; i < streams; i++)
        d.next[i] = p->tokens[i];
    begin = clock_now_ns();
    for (uint32_t at = 0;
         err == ERR_OK && n < STEPS_MAX && (n < 5 || clock_now_ns() - begin < FIGURE_NS); at++) {
        uint64_t start = clock_now_ns();
        double took;

        err = decode_step(p, &d, p->context + at);
        took = (double)(clock_now_ns() - start);
        if (at < 3)
            continue; /* warm */
        seconds[n] = took / 1e9;
        host[n++] = (double)cuda_engine_host_ns(p->engine) / took;
    }
    if (err != ERR_OK)
        return err;
    snprintf(what, sizeof(what), "decode.%u.%u", streams, p->context);
    snprintf(name, sizeof(name), "gpu.%s", what);
    add(p, name, streams / bench_median(seconds, n), "tokens/s", BENCH_HIGHER);
    if (p->copy_bytes_per_s > 0)
        bench_report_reference(&p->report, "what must be read, at ceiling.copy",
                               streams * p->copy_bytes_per_s /
                                   decode_bytes(p, streams, p->context));
    snprintf(name, sizeof(name), "gpu.%s.host", what);
    add(p, name, bench_median(host, n), "1", BENCH_LOWER);
    cuda_engine_profile_next(p->engine);
    err = decode_step(p, &d, p->context);
    add_profile(p, what);
    return err;
}

static enum err measure(struct perf *p, struct err_msg *msg)
{
    enum err err = ERR_OK;

    for (int i = 0; i < 2 && err == ERR_OK; i++)
        err = measure_prefill(p, p->prompts[i]);
    for (int i = 0; i < 2 && err == ERR_OK; i++)
        err = measure_decode(p, p->streams[i]);
    return err == ERR_OK ? ERR_OK : err_set(msg, err, "perf gpu: a step failed: %s", gpu_trouble());
}

/* ---- set-up ---- */

static void read_ceilings(struct perf *p)
{
    for (size_t i = 0; i < p->report.n; i++) {
        const struct bench_result *row = &p->report.v[i];

        if (strcmp(row->name, "ceiling.copy") == 0)
            p->copy_bytes_per_s = row->value * 1e9;
        if (strcmp(row->name, "ceiling.product") == 0)
            p->flops_per_s = row->value * 1e12;
    }
}

/* The ceilings are measured whatever kernels are chosen. */
static enum err measure_kernels(struct perf *p, struct err_msg *msg)
{
    struct gpu *g = NULL;
    char only[512];
    enum err err = gpu_open(p->o->device, msg, &g);

    if (err != ERR_OK)
        return err;
    snprintf(only, sizeof(only), "ceiling,%s", p->o->only != NULL ? p->o->only : "");
    err = gpu_benches_run(g, SMALL, p->o->only != NULL ? only : NULL, &p->report, msg);
    gpu_close(g);
    read_ceilings(p);
    return err;
}

static void choose_sizes(struct perf *p)
{
    static const uint32_t full[] = {2048, 8192, 2048, 1, 64}, tiny[] = {24, 40, 20, 1, 4};
    const uint32_t *v = SMALL ? tiny : full;

    p->prompts[0] = v[0];
    p->prompts[1] = v[1];
    p->context = v[2];
    p->streams[0] = v[3];
    p->streams[1] = v[4];
}

/* Stream 0 has room for the longest prompt; the others only for their context and the steps after it. */
static enum err give_blocks(struct perf *p, struct err_msg *msg)
{
    const struct kv_memory *pool = engine_kv_memory(p->engine);
    uint32_t longest = p->prompts[1], each = (p->context + STEPS_MAX + 3) / BLOCK_TOKENS + 1, used;

    p->blocks_per_stream = longest / BLOCK_TOKENS + 1;
    if (p->blocks_per_stream < each)
        p->blocks_per_stream = each;
    used = p->blocks_per_stream + (p->streams[1] - 1) * each;
    if (used > pool->n_blocks)
        return err_set(msg, ERR_NOMEM,
                       "perf gpu: the card has room for %u KV blocks of %u tokens beside the "
                       "model, and %u are needed",
                       pool->n_blocks, BLOCK_TOKENS, used);
    p->blocks = mem_try_calloc((size_t)STREAMS_MAX * p->blocks_per_stream, sizeof(p->blocks[0]));
    p->tokens = mem_try_calloc(longest, sizeof(p->tokens[0]));
    if (p->blocks == NULL || p->tokens == NULL)
        return err_set(msg, ERR_NOMEM, "perf gpu: no memory");
    for (uint32_t i = 0; i < p->blocks_per_stream; i++)
        p->blocks[i] = i;
    for (uint32_t s = 1; s < p->streams[1]; s++) {
        for (uint32_t i = 0; i < p->blocks_per_stream; i++)
            p->blocks[s * p->blocks_per_stream + i] =
                p->blocks_per_stream + (s - 1) * each + (i < each ? i : each - 1);
    }
    for (uint32_t i = 0; i < longest; i++)
        p->tokens[i] = (int32_t)(i * 7919u % p->info->vocab);
    return ERR_OK;
}

static void count_params(struct perf *p)
{
    const struct engine_model_config *m = &p->model;
    double q = (double)m->n_heads * m->head_dim, kv = (double)m->n_kv_heads * m->head_dim;

    p->matrix_params =
        m->n_layers * ((double)m->hidden * (2 * q + 2 * kv) + 3.0 * m->hidden * m->ffn);
    p->head_params = (double)m->vocab * m->hidden;
    p->weight_bytes_each = p->o->weights == ENGINE_WEIGHTS_STORED ? 2 : 1;
}

static enum err measure_engine(struct perf *p, const char *dir, struct err_msg *msg)
{
    uint32_t after = p->context + STEPS_MAX + 3;
    uint32_t longest = p->prompts[1] > after ? p->prompts[1] : after;
    struct engine_config config = {.backend = "cuda",
                                   .model_dir = dir,
                                   .devices = &p->o->device,
                                   .weights = p->o->weights,
                                   .random_seed = p->o->seed,
                                   .block_tokens = BLOCK_TOKENS,
                                   .max_batch = p->streams[1],
                                   .max_context = longest + BLOCK_TOKENS,
                                   .max_step_tokens = p->prompts[1]};
    uint64_t start = clock_now_ns();
    enum err err = engine_model_read_config(dir, &p->model, msg);

    if (err == ERR_OK)
        err = engine_open(&config, msg, &p->engine);
    if (err != ERR_OK)
        return err;
    p->info = engine_info(p->engine);
    if (p->o->seed == 0)
        add(p, "gpu.load", (double)p->info->weight_bytes / (double)(clock_now_ns() - start), "GB/s",
            BENCH_HIGHER);
    add(p, "gpu.kv.tokens", (double)engine_kv_memory(p->engine)->n_blocks * BLOCK_TOKENS, "tokens",
        BENCH_HIGHER);
    count_params(p);
    err = give_blocks(p, msg);
    return err == ERR_OK ? measure(p, msg) : err;
}

/* The built-in shape as a model directory, for as long as it is looked at. */
static enum err with_shape(struct perf *p, struct err_msg *msg)
{
    char dir[] = "/tmp/baton-perf-XXXXXX"; /* mkdtemp fills in the X */
    char path[sizeof(dir) + sizeof("/config.json")];
    FILE *f;
    bool ok;
    enum err err;

    if (mkdtemp(dir) == NULL)
        return err_set(
            msg, ERR_IO,
            "perf gpu: cannot make a directory in /tmp for the model's shape: %s; name a "
            "directory with the config.json of a model instead",
            strerror(errno));
    snprintf(path, sizeof(path), "%s/config.json", dir);
    f = fopen(path, "w");
    ok = f != NULL && fputs(LLAMA_3_1_8B, f) >= 0;
    if (f != NULL)
        ok = fclose(f) == 0 && ok;
    err = ok ? measure_engine(p, dir, msg)
             : err_set(msg, ERR_IO, "perf gpu: cannot write %s: %s", path, strerror(errno));
    unlink(path);
    rmdir(dir);
    return err;
}

enum err bench_perf_gpu(const struct bench_perf_gpu_options *options, bool json,
                        struct err_msg *msg)
{
    struct perf p = {.o = options};
    bool kernels_alone = options->model_dir != NULL && strcmp(options->model_dir, "-") == 0;
    struct err_msg later;
    enum err err, printed;

    if (options->model_dir == NULL && options->seed == 0)
        return err_set(msg, ERR_INVALID,
                       "perf gpu: seed 0 is for the weights of a model; name its directory");
    bench_report_init(&p.report, "perf gpu");
    choose_sizes(&p);
    err = measure_kernels(&p, msg);
    /* A kernel that fails is told, and the model is timed all the same if the device is still there. */
    if (!kernels_alone && (err == ERR_OK || (p.report.n > 0 && !gpu_lost()))) {
        struct err_msg *to = err == ERR_OK ? msg : &later;
        enum err model = options->model_dir != NULL ? measure_engine(&p, options->model_dir, to)
                                                    : with_shape(&p, to);

        err = err == ERR_OK ? model : err;
    }
    printed = p.report.n > 0 ? bench_report_print(&p.report, json) : ERR_OK;
    bench_report_free(&p.report);
    engine_close(p.engine);
    mem_free(p.blocks);
    mem_free(p.tokens);
    return err != ERR_OK ? err : printed;
}

#else

enum err bench_perf_gpu(const struct bench_perf_gpu_options *options, bool json,
                        struct err_msg *msg)
{
    (void)options, (void)json;
    return err_set(msg, ERR_UNSUPPORTED,
                   "this build has no CUDA backend; configure with -DBATON_CUDA=ON (preset cuda)");
}

#endif
