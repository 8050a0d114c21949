/* engine/cpu/cpu_backend.c - opening a model on the CPU: choosing kernels, binding weights where they
 * lie in the mapping, dealing them out to the ranks.
 *
 * Weights are used in the type and the order they are stored in: no packed copy, so that all worker
 * processes of a machine share one set of pages, and a decode step reads each weight once, in order.
 * Only norms and biases are widened into memory of our own. */
#include "engine/cpu/cpu_engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_rope.h"

/* Ranks wait for each other no longer than this: far above the longest stretch that a rank computes between
 * two collectives, and all that a stuck one can cost. */
enum { COLLECTIVE_MS = 120000 };

/* ---- weights ---- */

static const struct engine_tensor *layer_tensor(const struct cpu_engine *c, uint32_t layer,
                                                const char *name)
{
    char full[96];

    snprintf(full, sizeof(full), "model.layers.%u.%s", layer, name);
    return engine_model_tensor(c->model, full);
}

static size_t vector_floats(const struct engine_model_config *m)
{
    size_t q = (size_t)m->n_heads * m->head_dim, kv = (size_t)m->n_kv_heads * m->head_dim;

    return (size_t)m->n_layers *
               (3 * (size_t)m->hidden + q + 2 * kv + 2 * (size_t)m->ffn + m->hidden) +
           m->hidden;
}

/* Widen a norm or bias to float at *at and move *at behind it. */
static const float *take_vector(const struct engine_tensor *t, float **at)
{
    float *dst = *at;

    cpu_to_float(dst, t->data, t->dtype, (size_t)t->dims[0]);
    *at += t->dims[0];
    return dst;
}

static cpu_gemm_fn pick_gemm(const struct cpu_engine *c, enum engine_dtype dtype)
{
    switch (dtype) {
    case ENGINE_F16:
        return c->kernels->gemm_f16;
    case ENGINE_BF16:
        return c->bf16_activations ? c->kernels->gemm_bf16_bf16 : c->kernels->gemm_bf16;
    case ENGINE_F32:
        break;
    }
    return c->kernels->gemm_f32;
}

static void bind_matrix(const struct cpu_engine *c, struct cpu_matrix *m,
                        const struct engine_tensor *t)
{
    m->w = t->data;
    m->n = (uint32_t)t->dims[0];
    m->k = (uint32_t)t->dims[1];
    m->ldw = m->k;
    m->dtype = t->dtype;
    m->gemm = pick_gemm(c, t->dtype);
    m->bias = NULL;
}

static void bind_layer(struct cpu_engine *c, uint32_t i, float **at)
{
    const struct engine_model_config *m = c->config;
    struct cpu_layer *l = &c->layers[i];

    l->attention_norm = take_vector(layer_tensor(c, i, "input_layernorm.weight"), at);
    l->mlp_norm = take_vector(layer_tensor(c, i, "post_attention_layernorm.weight"), at);
    bind_matrix(c, &l->q, layer_tensor(c, i, "self_attn.q_proj.weight"));
    bind_matrix(c, &l->k, layer_tensor(c, i, "self_attn.k_proj.weight"));
    bind_matrix(c, &l->v, layer_tensor(c, i, "self_attn.v_proj.weight"));
    bind_matrix(c, &l->o, layer_tensor(c, i, "self_attn.o_proj.weight"));
    bind_matrix(c, &l->gate, layer_tensor(c, i, "mlp.gate_proj.weight"));
    bind_matrix(c, &l->up, layer_tensor(c, i, "mlp.up_proj.weight"));
    bind_matrix(c, &l->down, layer_tensor(c, i, "mlp.down_proj.weight"));
    if (m->attention_bias) {
        l->q.bias = take_vector(layer_tensor(c, i, "self_attn.q_proj.bias"), at);
        l->k.bias = take_vector(layer_tensor(c, i, "self_attn.k_proj.bias"), at);
        l->v.bias = take_vector(layer_tensor(c, i, "self_attn.v_proj.bias"), at);
    }
    if (m->attention_out_bias)
        l->o.bias = take_vector(layer_tensor(c, i, "self_attn.o_proj.bias"), at);
    if (m->mlp_bias) {
        l->gate.bias = take_vector(layer_tensor(c, i, "mlp.gate_proj.bias"), at);
        l->up.bias = take_vector(layer_tensor(c, i, "mlp.up_proj.bias"), at);
        l->down.bias = take_vector(layer_tensor(c, i, "mlp.down_proj.bias"), at);
    }
}

/* The bf16 instruction multiplies bf16 by bf16 only, so it is used only where every matrix is bf16:
 * then the activations are rounded as other engines of such models do. */
static bool all_bf16(const struct cpu_engine *c)
{
    static const char *const names[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight", "self_attn.o_proj.weight",
                                        "mlp.gate_proj.weight",    "mlp.up_proj.weight",
                                        "mlp.down_proj.weight"};

    for (uint32_t i = 0; i < c->config->n_layers; i++) {
        for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
            if (layer_tensor(c, i, names[k])->dtype != ENGINE_BF16)
                return false;
        }
    }
    return engine_model_tensor(c->model, c->config->tied_embeddings ? "model.embed_tokens.weight"
                                                                    : "lm_head.weight")
               ->dtype == ENGINE_BF16;
}

static enum err bind_weights(struct cpu_engine *c, struct err_msg *msg)
{
    const struct engine_tensor *embedding =
        engine_model_tensor(c->model, "model.embed_tokens.weight");
    float *at;

    c->layers = mem_try_calloc(c->config->n_layers, sizeof(c->layers[0]));
    c->vectors = mem_try_calloc(vector_floats(c->config), sizeof(float));
    c->inv_freq = mem_try_calloc(c->config->head_dim / 2, sizeof(double));
    if (c->layers == NULL || c->vectors == NULL || c->inv_freq == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory for the layer table");
    c->bf16_activations = c->kernels->gemm_bf16_bf16 != NULL && all_bf16(c);
    at = c->vectors;
    for (uint32_t i = 0; i < c->config->n_layers; i++)
        bind_layer(c, i, &at);
    c->final_norm = take_vector(engine_model_tensor(c->model, "model.norm.weight"), &at);
    c->embedding = embedding->data;
    c->embedding_dtype = embedding->dtype;
    bind_matrix(c, &c->head,
                c->config->tied_embeddings ? embedding
                                           : engine_model_tensor(c->model, "lm_head.weight"));
    engine_rope_inv_freq(c->config, c->inv_freq);
    return ERR_OK;
}

/* ---- open and close ---- */

static void cpu_close(struct engine *e)
{
    struct cpu_engine *c = (struct cpu_engine *)e;
    void *const blocks[] = {c->layers,       c->vectors,  c->inv_freq, c->ranks,  c->row_token,
                            c->row_position, c->row_span, c->spans,    c->sampled};

    cpu_pool_destroy(c->launcher);
    for (uint32_t i = 0; c->ranks != NULL && i < c->tp; i++)
        cpu_rank_close(&c->ranks[i]);
    tp_comm_destroy(c->comm);
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++)
        mem_free(blocks[i]);
    engine_model_close(c->model);
    mem_free(c);
}

static enum err fill_info(struct cpu_engine *c, const struct engine_config *config,
                          struct err_msg *msg)
{
    const struct engine_model_config *m = c->config;
    struct engine_info *info = &c->base.info;

    if (config->max_context > m->max_positions)
        return err_set(msg, ERR_INVALID, "engine: max_context %u exceeds the model's %u",
                       config->max_context, m->max_positions);
    snprintf(info->backend, sizeof(info->backend), "cpu");
    info->kv = (struct wire_kv_layout){.n_layers = m->n_layers,
                                       .n_kv_heads = m->n_kv_heads,
                                       .head_dim = m->head_dim,
                                       .block_tokens = config->block_tokens,
                                       .dtype = WIRE_KV_F32,
                                       .model_id = engine_model_id(c->model),
                                       .parts = c->tp};
    info->vocab = m->vocab;
    info->max_context = config->max_context != 0 ? config->max_context : m->max_positions;
    info->max_batch = config->max_batch;
    info->max_step_tokens = config->max_step_tokens;
    info->weight_bytes = engine_model_weight_bytes(c->model);
    info->n_params = engine_model_n_params(c->model);
    return wire_kv_layout_check(&info->kv, msg);
}

static void report_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct engine_config *config = arg;

    if (config->progress != NULL)
        config->progress(config->progress_arg, "loading weights", done, total);
}

/* What the rows of a step are, and which of them are sampled. */
static enum err allocate_lists(struct cpu_engine *c, const struct engine_config *config)
{
    size_t rows = config->max_step_tokens;

    c->max_rows = config->max_step_tokens;
    c->logit_rows = config->max_batch < CPU_LOGIT_ROWS ? config->max_batch : CPU_LOGIT_ROWS;
    c->row_token = mem_try_calloc(rows, sizeof(c->row_token[0]));
    c->row_position = mem_try_calloc(rows, sizeof(c->row_position[0]));
    c->row_span = mem_try_calloc(rows, sizeof(c->row_span[0]));
    c->spans = mem_try_calloc(rows, sizeof(c->spans[0]));
    c->sampled = mem_try_calloc(rows, sizeof(c->sampled[0]));
    return c->row_token != NULL && c->row_position != NULL && c->row_span != NULL &&
                   c->spans != NULL && c->sampled != NULL
               ? ERR_OK
               : ERR_NOMEM;
}

/* The shards alone: tells whether the model can be split so before a weight is read. */
static enum err deal_shards(struct cpu_engine *c, const struct engine_config *config,
                            struct err_msg *msg)
{
    const struct tp_grain any = {1, 1}; /* these kernels take any width */

    c->ranks = mem_try_calloc(config->tp, sizeof(c->ranks[0]));
    if (c->ranks == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory");
    c->tp = config->tp;
    for (uint32_t i = 0; i < c->tp; i++) {
        enum err err = tp_shard_of(c->config, any, i, c->tp, &c->ranks[i].shard, msg);

        if (err != ERR_OK)
            return err;
        c->ranks[i].engine = c;
    }
    return ERR_OK;
}

/* With more ranks than threads asked for, each has one: they must all run at once. */
static enum err open_ranks(struct cpu_engine *c, uint32_t threads, uint64_t *scratch)
{
    const struct tp_comm_config comm = {
        .n_ranks = c->tp, .deadline_ms = COLLECTIVE_MS, .spin = c->tp <= cpu_pool_cores()};
    enum err err = ERR_OK;

    if (c->tp > 1 && ((err = tp_comm_create(&comm, &c->comm)) != ERR_OK ||
                      (err = cpu_pool_create(c->tp, &c->launcher)) != ERR_OK))
        return err;
    for (uint32_t i = 0; i < c->tp && err == ERR_OK; i++) {
        uint32_t n = threads / c->tp + (i < threads % c->tp);

        err = cpu_rank_open(&c->ranks[i], n > 0 ? n : 1, scratch);
    }
    return err;
}

static enum err open_parts(struct cpu_engine *c, const struct engine_config *config,
                           struct err_msg *msg)
{
    uint32_t threads = config->threads != 0 ? config->threads : cpu_pool_cores();
    struct engine_config progress = *config;
    uint64_t scratch = 0;
    enum err err = engine_model_open(config->model_dir, msg, &c->model);

    if (err != ERR_OK)
        return err;
    c->config = engine_model_config(c->model);
    if ((err = deal_shards(c, config, msg)) != ERR_OK ||
        (err = fill_info(c, config, msg)) != ERR_OK || (err = bind_weights(c, msg)) != ERR_OK)
        return err;
    if ((err = allocate_lists(c, config)) != ERR_OK ||
        (err = open_ranks(c, threads, &scratch)) != ERR_OK)
        return err_set(msg, err,
                       "engine: no memory, or no threads, for the work space of %u tokens per step "
                       "on %u ranks with %u threads; lower max_step_tokens or threads",
                       config->max_step_tokens, c->tp, threads);
    LOG_INFO("engine", "work space", "bytes=%" PRIu64 " rows=%u threads=%u", scratch, c->max_rows,
             threads);
    engine_model_prefault(c->model, report_progress, &progress);
    LOG_INFO("engine", "model loaded",
             "backend=cpu kernels=%s activations=%s tp=%u threads=%u params=%" PRIu64
             " weight_bytes=%" PRIu64,
             c->kernels->name, c->bf16_activations ? "bf16" : "f32", c->tp, threads,
             c->base.info.n_params, c->base.info.weight_bytes);
    return ERR_OK;
}

static enum err open_with(const struct engine_config *config, const struct cpu_kernels *kernels,
                          struct err_msg *msg, struct engine **out)
{
    struct cpu_engine *c = mem_try_calloc(1, sizeof(*c));
    enum err err;

    if (c == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory");
    c->kernels = kernels;
    err = open_parts(c, config, msg);
    if (err != ERR_OK) {
        cpu_close(&c->base);
        return err;
    }
    *out = &c->base;
    return ERR_OK;
}

static enum err cpu_open(const struct engine_config *config, struct err_msg *msg,
                         struct engine **out)
{
    return open_with(config, cpu_kernels_best(), msg, out);
}

const struct engine_backend engine_backend_cpu = {.name = "cpu",
                                                  .open = cpu_open,
                                                  .attached = NULL,
                                                  .step = cpu_engine_step,
                                                  .kv_copy = engine_kv_copy_host,
                                                  .close = cpu_close};

/* One backend per instruction set, for cpu_engine_open_isa. */
#define ISA_BACKEND(isa)                                                                \
    static enum err open_##isa(const struct engine_config *config, struct err_msg *msg, \
                               struct engine **out)                                     \
    {                                                                                   \
        return open_with(config, cpu_kernels_get(isa), msg, out);                       \
    }                                                                                   \
    static const struct engine_backend backend_##isa = {.name = "cpu",                  \
                                                        .open = open_##isa,             \
                                                        .step = cpu_engine_step,        \
                                                        .kv_copy = engine_kv_copy_host, \
                                                        .close = cpu_close};
ISA_BACKEND(CPU_ISA_PORTABLE)
ISA_BACKEND(CPU_ISA_AVX2)
ISA_BACKEND(CPU_ISA_AVX512)
ISA_BACKEND(CPU_ISA_AVX512_BF16)

enum err cpu_engine_open_isa(const struct engine_config *config, enum cpu_isa isa,
                             struct err_msg *msg, struct engine **out)
{
    static const struct engine_backend *const table[CPU_ISA_COUNT] = {
        &backend_CPU_ISA_PORTABLE, &backend_CPU_ISA_AVX2, &backend_CPU_ISA_AVX512,
        &backend_CPU_ISA_AVX512_BF16};

    if (cpu_kernels_get(isa) == NULL)
        return err_set(msg, ERR_UNSUPPORTED, "engine: this processor lacks the instructions");
    return engine_open_backend(table[isa], config, msg, out);
}
