/* engine/cuda/cuda_backend.c - opening a model on one or more devices.
 *
 *   the model's files and the shape checked -> a thread per rank -> on each: device, collectives, sizes ->
 *   as many blocks as the smallest device has room for -> on each: arena, weights, tables, plans, graphs
 *
 * Every step runs on all ranks before the next begins, so that a rank that fails is known before the others
 * wait for it. */
#include "engine/cuda/cuda_open.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/cuda/cuda_kv.h"
#include "engine/kernels/attention_decode.h"

enum { MIN_BLOCK_TOKENS = 16, MAX_BLOCK_TOKENS = 256 };

static const uint64_t step_deadline_ns = 60 * CLOCK_NS_PER_S;

/* ---- the model ---- */

static enum err refuse(struct err_msg *msg, const char *what, uint32_t value, const char *can)
{
    return err_set(msg, ERR_UNSUPPORTED,
                   "engine: the cuda backend cannot run a model with %s %u: %s", what, value, can);
}

static enum err check_model(const struct engine_model_config *m, struct err_msg *msg)
{
    if (m->head_dim != 64 && m->head_dim != 96 && m->head_dim != 128)
        return refuse(msg, "head_dim", m->head_dim, "its attention has 64, 96 and 128");
    if (m->hidden % 8 != 0 || m->hidden > 32768)
        return refuse(msg, "hidden_size", m->hidden, "it takes multiples of 8 up to 32,768");
    if (m->ffn % 8 != 0)
        return refuse(msg, "intermediate_size", m->ffn, "it takes multiples of 8");
    if (m->vocab > SAMPLE_VOCAB_MAX)
        return refuse(msg, "vocab_size", m->vocab, "it samples from at most 524,288");
    return ERR_OK;
}

static enum err check_options(const struct engine_config *c, struct err_msg *msg)
{
    uint32_t bt = c->block_tokens;

    if (bt < MIN_BLOCK_TOKENS || bt > MAX_BLOCK_TOKENS || (bt & (bt - 1)) != 0)
        return err_set(msg, ERR_INVALID,
                       "engine: blocks of %u tokens; the cuda backend takes 16, 32, 64, 128 or 256",
                       bt);
    if (c->max_batch > ATTENTION_DECODE_MAX_ROWS)
        return err_set(msg, ERR_INVALID, "engine: max_batch is %u; the cuda backend takes up to %u",
                       c->max_batch, ATTENTION_DECODE_MAX_ROWS);
    if (c->device_memory < 0 || c->device_memory > 1)
        return err_set(msg, ERR_INVALID, "engine: --gpu-memory is %g, a share is from 0 to 1",
                       c->device_memory);
    return ERR_OK;
}

static enum err open_model(struct cuda_engine *e, const struct engine_config *c,
                           struct err_msg *msg)
{
    enum err err;

    if (c->random_seed != 0) {
        e->dtype = GPU_BF16;
        return engine_model_read_config(c->model_dir, &e->config, msg);
    }
    err = engine_model_open(c->model_dir, msg, &e->model);
    if (err != ERR_OK)
        return err;
    e->config = *engine_model_config(e->model);
    e->dtype = cuda_weights_dtype(e->model);
    return ERR_OK;
}

/* Equal on two workers that made the same random weights. */
static uint64_t random_id(const struct engine_model_config *m, uint64_t seed)
{
    const uint32_t shape[] = {m->hidden,   m->n_layers, m->n_heads, m->n_kv_heads,
                              m->head_dim, m->ffn,      m->vocab};

    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++)
        seed = (seed ^ shape[i]) * 0x9e3779b97f4a7c15ull;
    return seed;
}

static uint64_t count_params(const struct engine_model_config *m)
{
    uint64_t q = (uint64_t)m->n_heads * m->head_dim, kv = (uint64_t)m->n_kv_heads * m->head_dim;
    uint64_t layer = m->hidden * (2 * q + 2 * kv + 3ull * m->ffn + 2);

    return m->n_layers * layer + (m->tied_embeddings ? 1ull : 2ull) * m->vocab * m->hidden +
           m->hidden;
}

static enum err fill_info(struct cuda_engine *e, const struct engine_config *c, struct err_msg *msg)
{
    const struct engine_model_config *m = &e->config;
    struct engine_info *info = &e->base.info;

    if (c->max_context > m->max_positions)
        return err_set(msg, ERR_INVALID, "engine: max_context is %u, the model was made for %u",
                       c->max_context, m->max_positions);
    snprintf(info->backend, sizeof(info->backend), "cuda");
    info->kv = (struct wire_kv_layout){.n_layers = m->n_layers,
                                       .n_kv_heads = m->n_kv_heads,
                                       .head_dim = m->head_dim,
                                       .block_tokens = c->block_tokens,
                                       .dtype = e->dtype == GPU_BF16 ? WIRE_KV_BF16 : WIRE_KV_F16,
                                       .model_id = e->model != NULL ? engine_model_id(e->model)
                                                                    : random_id(m, c->random_seed),
                                       .parts = e->n_ranks};
    info->vocab = m->vocab;
    info->max_context = c->max_context != 0 ? c->max_context : m->max_positions;
    info->max_batch = c->max_batch;
    info->max_step_tokens = c->max_step_tokens;
    info->n_params = e->model != NULL ? engine_model_n_params(e->model) : count_params(m);
    return wire_kv_layout_check(&info->kv, msg);
}

/* ---- ranks ---- */

static enum gpu_weight weight_of(const struct engine_config *c)
{
    switch (c->weights) {
    case ENGINE_WEIGHTS_FP8:
        return GPU_WEIGHT_E4M3;
    case ENGINE_WEIGHTS_INT8:
        return GPU_WEIGHT_INT8;
    case ENGINE_WEIGHTS_STORED:
        break;
    }
    return GPU_WEIGHT_16;
}

static enum err make_ranks(struct cuda_engine *e, const struct engine_config *c,
                           struct err_msg *msg)
{
    struct tp_grain grain = {.ffn = c->weights == ENGINE_WEIGHTS_STORED ? 8 : 16, .vocab = 8};

    e->ranks = mem_try_calloc(e->n_ranks, sizeof(e->ranks[0]));
    if (e->ranks == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory");
    for (uint32_t i = 0; i < e->n_ranks; i++) {
        struct cuda_rank *r = &e->ranks[i];
        enum err err = tp_shard_of(&e->config, grain, i, e->n_ranks, &r->shard, msg);

        if (err != ERR_OK)
            return err;
        r->engine = e;
        r->index = i;
        r->device = c->devices != NULL ? c->devices[i] : i;
        r->weights.weight = weight_of(c);
    }
    return ERR_OK;
}

static void fill_limits(struct cuda_engine *e, const struct engine_config *c)
{
    const struct cuda_rank *r = &e->ranks[0];
    uint32_t bt = c->block_tokens;

    e->limits = (struct cuda_limits){
        .max_rows = c->max_step_tokens > c->max_batch ? c->max_step_tokens : c->max_batch,
        .max_slots = c->max_batch,
        .max_blocks = (e->base.info.max_context + bt - 1) / bt,
        .block_tokens = bt,
        .vocab = e->config.vocab,
        .n_heads = r->shard.heads.n,
        .n_kv_heads = r->shard.kv_heads.n};
    e->part_stride = (r->shard.vocab.n + 3) / 4 * 4;
    e->logits_stride = (e->config.vocab + 3) / 4 * 4;
    e->n_tickets = 2 * e->config.n_layers;
    e->next_ticket = 1;
}

/* ---- the host's memory ---- */

/* Pinned memory of one device is pinned for all of them. */
static enum err make_host_memory(struct cuda_engine *e, struct err_msg *msg)
{
    struct gpu *g = e->ranks[0].gpu;
    size_t metadata = cuda_meta_bytes_max(&e->limits);
    enum err err = cuda_batch_create(&e->batch, &e->limits);

    for (int i = 0; i < 2 && err == ERR_OK; i++)
        err = gpu_host_alloc(g, metadata, (void **)&e->metadata[i]);
    if (err == ERR_OK)
        err = gpu_host_alloc(g, e->limits.max_slots * sizeof(int32_t), (void **)&e->tokens);
    if (err == ERR_OK)
        err = gpu_host_alloc(g, e->config.vocab * sizeof(float), (void **)&e->logits);
    e->sample_scratch = mem_try_alloc(engine_sample_scratch_bytes(e->config.vocab));
    if (err == ERR_OK && e->sample_scratch == NULL)
        err = ERR_NOMEM;
    return err == ERR_OK
               ? ERR_OK
               : err_set(msg, err,
                         "engine: no host memory for the metadata of a step (2 x %zu bytes)",
                         metadata);
}

static void free_host_memory(struct cuda_engine *e)
{
    struct gpu *g = e->ranks != NULL ? e->ranks[0].gpu : NULL;

    if (g != NULL) {
        gpu_host_free(g, e->metadata[0]);
        gpu_host_free(g, e->metadata[1]);
        gpu_host_free(g, e->tokens);
        gpu_host_free(g, e->logits);
    }
    mem_free(e->sample_scratch);
    cuda_batch_free(&e->batch);
}

/* ---- open and close ---- */

static uint32_t smallest_pool(const struct cuda_engine *e)
{
    uint32_t blocks = UINT32_MAX;

    for (uint32_t i = 0; i < e->n_ranks; i++)
        blocks = e->ranks[i].need.kv_blocks < blocks ? e->ranks[i].need.kv_blocks : blocks;
    return blocks;
}

/* Run one part of the opening on every rank; the message is the first failed rank's own. */
static enum err on_ranks(struct cuda_engine *e, cuda_rank_fn fn, struct err_msg *msg)
{
    enum err err = cuda_crew_run(e, fn, NULL);

    for (uint32_t i = 0; i < e->n_ranks && err != ERR_OK; i++) {
        if (e->ranks[i].err == err) {
            *msg = e->ranks[i].msg;
            break;
        }
    }
    return err;
}

static enum err open_ranks(struct cuda_engine *e, struct err_msg *msg)
{
    enum err err;
    uint32_t blocks;

    if (cuda_crew_start(e) != ERR_OK)
        return err_set(msg, ERR_NOMEM, "engine: no thread for every device");
    if ((err = on_ranks(e, cuda_open_device, msg)) != ERR_OK ||
        (err = cuda_open_group(e, msg)) != ERR_OK ||
        (err = on_ranks(e, cuda_open_comm, msg)) != ERR_OK ||
        (err = on_ranks(e, cuda_open_sizes, msg)) != ERR_OK)
        return err;
    blocks = smallest_pool(e);
    for (uint32_t i = 0; i < e->n_ranks; i++) {
        e->ranks[i].need.kv_blocks = blocks;
        e->base.info.weight_bytes += e->ranks[i].need.bytes[CUDA_WEIGHTS];
    }
    if ((err = on_ranks(e, cuda_open_memory, msg)) != ERR_OK ||
        (err = make_host_memory(e, msg)) != ERR_OK ||
        (err = on_ranks(e, cuda_open_weights, msg)) != ERR_OK ||
        (err = on_ranks(e, cuda_open_tables, msg)) != ERR_OK)
        return err;
    return on_ranks(e, cuda_open_graphs, msg);
}

static void log_open(const struct cuda_engine *e, uint64_t started)
{
    const struct cuda_rank *r = &e->ranks[0];
    const char *weights = r->weights.weight == GPU_WEIGHT_16     ? "16-bit"
                          : r->weights.weight == GPU_WEIGHT_E4M3 ? "fp8"
                                                                 : "int8";
    double seconds = (double)(clock_now_ns() - started) * 1e-9;

    LOG_INFO("engine", "model loaded",
             "backend=cuda device=\"%s\" tp=%u weights=%s type=%s params=%" PRIu64
             " weight_bytes=%" PRIu64 " seconds=%.1f kv_blocks=%u",
             gpu_info(r->gpu)->name, e->n_ranks, weights, e->dtype == GPU_BF16 ? "bf16" : "f16",
             e->base.info.n_params, e->base.info.weight_bytes, seconds, r->arena.kv_blocks);
    if (r->weights.weight != GPU_WEIGHT_16)
        LOG_INFO("engine", "rounded weights", "relative_error=%.4f worst=%.4f matrix=%s",
                 gpu_quantize_report_total(&r->quantized), r->quantized.worst,
                 r->quantized.worst_name);
}

static void cuda_close(struct engine *base)
{
    struct cuda_engine *e = (struct cuda_engine *)base;
    enum err err = ERR_OK;

    if (e->group !=
        NULL) /* first: a collective that waits for a rank that is gone keeps its device busy */
        err = cuda_crew_run(e, cuda_close_comm, NULL);
    (void)err; /* it is over either way */
    gpu_comm_group_destroy(e->group);
    for (uint32_t i = 0; i < e->n_ranks && e->ranks != NULL; i++)
        cuda_settle(e->ranks[i].gpu, e->ranks[i].stream);
    cuda_kv_close(e->kv);
    for (uint32_t i = 0; i < e->n_ranks && e->ranks != NULL; i++)
        cuda_open_undo(&e->ranks[i]);
    cuda_crew_stop(e);
    free_host_memory(e);
    for (uint32_t i = 0; i < e->n_ranks && e->ranks != NULL; i++)
        gpu_close(e->ranks[i].gpu);
    mem_free(e->ranks);
    engine_model_close(e->model);
    mem_free(e);
}

static enum err open_parts(struct cuda_engine *e, const struct engine_config *c,
                           struct err_msg *msg)
{
    uint64_t started = clock_now_ns();
    enum err err;

    if ((err = check_options(c, msg)) != ERR_OK || (err = open_model(e, c, msg)) != ERR_OK ||
        (err = check_model(&e->config, msg)) != ERR_OK || (err = make_ranks(e, c, msg)) != ERR_OK ||
        (err = fill_info(e, c, msg)) != ERR_OK)
        return err;
    fill_limits(e, c);
    if ((err = open_ranks(e, msg)) != ERR_OK || (err = cuda_kv_open(e, &e->kv, msg)) != ERR_OK)
        return err;
    engine_model_close(e->model); /* everything is on the devices */
    e->model = NULL;
    log_open(e, started);
    return ERR_OK;
}

static enum err cuda_open(const struct engine_config *config, struct err_msg *msg,
                          struct engine **out)
{
    struct cuda_engine *e = mem_try_calloc(1, sizeof(*e));
    struct err_msg unused;
    enum err err;

    if (e == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory");
    e->n_ranks = config->tp != 0 ? config->tp : 1;
    e->deadline_ns =
        config->step_timeout_ms != 0 ? config->step_timeout_ms * CLOCK_NS_PER_MS : step_deadline_ns;
    e->open_config = config;
    e->share = config->device_memory != 0 ? config->device_memory : ENGINE_DEVICE_SHARE;
    err = open_parts(e, config, msg != NULL ? msg : &unused);
    e->open_config = NULL;
    if (err != ERR_OK) {
        cuda_close(&e->base);
        return err;
    }
    *out = &e->base;
    return ERR_OK;
}

static const struct kv_memory *cuda_kv(const struct engine *e)
{
    return cuda_kv_memory(((const struct cuda_engine *)e)->kv);
}

static bool cuda_failed(const struct engine *e)
{
    return cuda_engine_is_broken((const struct cuda_engine *)e) || gpu_lost();
}

const struct engine_backend engine_backend_cuda = {.name = "cuda",
                                                   .open = cuda_open,
                                                   .kv_memory = cuda_kv,
                                                   .step = cuda_engine_step,
                                                   .kv_copy = cuda_kv_copy,
                                                   .failed = cuda_failed,
                                                   .close = cuda_close};
