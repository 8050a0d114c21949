/* engine/cuda/cuda_weights.c - where each weight stands on the device, and what is loaded into it. */
#include "engine/cuda/cuda_weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/cuda/cuda_weights_copy.h"
#include "engine/kernels/fill_random.h"

enum { WEIGHT_ALIGN = 256, ELEM = 2 };

enum gpu_dtype cuda_weights_dtype(const struct engine_model *m)
{
    const struct engine_tensor *t =
        engine_model_tensor(m, "model.layers.0.self_attn.q_proj.weight");

    return t != NULL && t->dtype == ENGINE_F16 ? GPU_F16 : GPU_BF16;
}

/* ---- placing ---- */

/* With base NULL only `at` counts. */
struct placing {
    uint8_t *base;
    uint64_t at;
};

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + WEIGHT_ALIGN - 1) / WEIGHT_ALIGN * WEIGHT_ALIGN;
}

static void *place(struct placing *p, uint64_t n, uint64_t elem)
{
    void *out = p->base != NULL ? p->base + p->at : NULL;

    p->at += aligned(n * elem);
    return out;
}

static void place_matrix(struct placing *p, struct cuda_matrix *m, struct cuda_matrix shape)
{
    *m = shape;
    m->w = place(p, (uint64_t)m->n * m->k, m->weight == GPU_WEIGHT_16 ? ELEM : 1);
    m->scale = m->weight == GPU_WEIGHT_16 ? NULL : place(p, m->n, sizeof(float));
    m->bias = m->has_bias ? place(p, m->n, ELEM) : NULL;
}

static void place_layer(struct placing *p, struct cuda_layer *l, enum gpu_weight weight,
                        const struct engine_model_config *m, const struct tp_shard *s)
{
    uint32_t q = s->heads.n * m->head_dim, kv = s->kv_heads.n * m->head_dim;
    const struct cuda_matrix to_hidden = {.n = m->hidden, .weight = weight},
                             of_hidden = {.k = m->hidden, .weight = weight};
    struct cuda_matrix shape = of_hidden;

    l->attention_norm = place(p, m->hidden, ELEM);
    l->mlp_norm = place(p, m->hidden, ELEM);
    shape.n = q + 2 * kv;
    shape.has_bias = m->attention_bias;
    place_matrix(p, &l->qkv, shape);
    shape.n = 2 * s->ffn.n;
    shape.has_bias = m->mlp_bias;
    place_matrix(p, &l->gate_up, shape);
    shape = to_hidden;
    shape.k = q;
    shape.has_bias = m->attention_out_bias && tp_adds_bias(s, TP_O);
    place_matrix(p, &l->o, shape);
    shape.k = s->ffn.n;
    shape.has_bias = m->mlp_bias && tp_adds_bias(s, TP_DOWN);
    place_matrix(p, &l->down, shape);
}

static void place_all(struct placing *p, struct cuda_weights *w,
                      const struct engine_model_config *m, const struct tp_shard *s)
{
    w->embedding = place(p, (uint64_t)m->vocab * m->hidden, ELEM);
    w->final_norm = place(p, m->hidden, ELEM);
    for (uint32_t i = 0; i < m->n_layers; i++)
        place_layer(p, &w->layers[i], w->weight, m, s);
    w->head = (struct cuda_matrix){.n = s->vocab.n, .k = m->hidden};
    if (!m->tied_embeddings)
        place_matrix(p, &w->head, w->head);
    else if (w->embedding != NULL)
        w->head.w = w->embedding + (uint64_t)s->vocab.first * m->hidden;
}

enum err cuda_weights_shape(struct cuda_weights *w, const struct engine_model_config *m,
                            const struct tp_shard *s)
{
    struct placing p = {NULL, 0};

    w->layers = mem_try_calloc(m->n_layers, sizeof(w->layers[0]));
    if (w->layers == NULL)
        return ERR_NOMEM;
    place_all(&p, w, m, s);
    return ERR_OK;
}

uint64_t cuda_weights_bytes(struct cuda_weights *w, const struct engine_model_config *m,
                            const struct tp_shard *s)
{
    struct placing p = {NULL, 0};

    place_all(&p, w, m, s);
    return p.at;
}

/* A matrix with 16 bits, and the errors of its rows. */
uint64_t cuda_weights_scratch_bytes(const struct cuda_weights *w)
{
    const struct cuda_layer *l = &w->layers[0];
    const struct cuda_matrix *const all[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
    uint64_t most = 0;

    if (w->weight == GPU_WEIGHT_16)
        return 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        uint64_t bytes =
            aligned((uint64_t)all[i]->n * all[i]->k * ELEM) + all[i]->n * 2ull * sizeof(float);

        most = bytes > most ? bytes : most;
    }
    return most;
}

void cuda_weights_place(struct cuda_weights *w, const struct engine_model_config *m,
                        const struct tp_shard *s, void *memory)
{
    struct placing p = {memory, 0};

    place_all(&p, w, m, s);
}

void cuda_weights_free(struct cuda_weights *w)
{
    mem_free(w->layers);
    *w = (struct cuda_weights){.layers = NULL};
}

/* ---- loading ---- */

struct part {
    const char *name;
    enum tp_tensor kind;
};

static const struct part qkv_parts[] = {
    {"self_attn.q_proj", TP_Q}, {"self_attn.k_proj", TP_K}, {"self_attn.v_proj", TP_V}, {NULL, 0}};
static const struct part o_parts[] = {{"self_attn.o_proj", TP_O}, {NULL, 0}};
static const struct part gate_up_parts[] = {
    {"mlp.gate_proj", TP_GATE}, {"mlp.up_proj", TP_UP}, {NULL, 0}};
static const struct part down_parts[] = {{"mlp.down_proj", TP_DOWN}, {NULL, 0}};

/* From files: what is to be copied is listed, and run at the end or before the scratch is used again.
 * Random: enqueued at once. */
struct loader {
    const struct cuda_weights_load *l;
    struct gpu_quantize_report *report;
    struct cuda_staging *staging;
    struct cuda_copies copies;
    float *row_errors; /* pinned */
    uint32_t layer;
    struct err_msg *msg;
};

static enum err device_failed(struct loader *g, enum err err)
{
    if (err == ERR_OK)
        return ERR_OK;
    return err_set(g->msg, err == ERR_INVALID ? ERR_INVALID : ERR_DEVICE, "engine: weights: %s",
                   err == ERR_INVALID   ? "a shape that the kernels do not take"
                   : err == ERR_TIMEOUT ? "the device does not answer"
                                        : gpu_trouble());
}

static enum err run_copies(struct loader *g)
{
    enum err err = ERR_OK;

    if (g->l->model != NULL)
        err = cuda_copies_run(&g->copies, g->staging, g->msg);
    g->copies.n = 0;
    return err;
}

/* Where the numbers of a tensor begin, by its name (FNV-1a), so that every split of a model has the same. */
static uint64_t random_start(const char *name)
{
    uint64_t h = 0xcbf29ce484222325ull;

    for (; *name != '\0'; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3ull;
    return h;
}

/* Uniform in mean +- spread: n elements of a tensor from `first` on.  fill_random counts in steps of this constant. */
static enum err fill(struct loader *g, const char *name, uint64_t first, uint64_t n, float mean,
                     float spread, void *to)
{
    uint64_t seed = g->l->seed + (random_start(name) + first) * 0x9e3779b97f4a7c15ull;
    enum err err = fill_random(to, n, mean, spread, seed, g->l->dtype, g->l->stream);

    (void)__atomic_fetch_add(g->l->loaded, n * ELEM, __ATOMIC_RELAXED);
    return device_failed(g, err);
}

/* The slice s of a tensor that is `width` wide, dense at `to`. */
static enum err copy_slice(struct loader *g, const struct engine_tensor *t, struct tp_slice s,
                           uint64_t width, void *to)
{
    uint64_t elem = t->dtype == ENGINE_F32 ? 4 : 2;
    struct cuda_copy c = {.from = (const uint8_t *)t->data +
                                  (s.rows.first * width + s.columns.first) * elem,
                          .from_stride = width * elem,
                          .from_dtype = t->dtype,
                          .rows = s.rows.n,
                          .columns = s.columns.n,
                          .to = to};
    enum err err = cuda_copies_add(&g->copies, &c);

    return err == ERR_OK ? ERR_OK
                         : err_set(g->msg, err, "engine: no memory for the list of weights");
}

/* A vector is one row of a matrix. */
static enum err load_vector(struct loader *g, const char *name, struct tp_range part, uint16_t *to,
                            float mean)
{
    if (g->l->model == NULL)
        return fill(g, name, part.first, part.n, mean, 0.1f, to);
    return copy_slice(g, engine_model_tensor(g->l->model, name), (struct tp_slice){{0, 1}, part},
                      part.n, to);
}

static enum err load_layer_vector(struct loader *g, const char *name, const char *suffix,
                                  struct tp_range part, uint16_t *to, float mean)
{
    char full[96];

    snprintf(full, sizeof(full), "model.layers.%u.%s.%s", g->layer, name, suffix);
    return load_vector(g, full, part, to, mean);
}

/* A slice of the columns is filled row by row: its width is a multiple of 8 elements, as fill_random wants it. */
static enum err fill_rows(struct loader *g, const char *name, struct tp_slice s, uint64_t width,
                          uint16_t *to)
{
    bool whole = s.columns.n == width;
    uint64_t n = whole ? s.rows.n * width : s.columns.n;
    float spread = sqrtf(3.0f / (float)width);
    enum err err = ERR_OK;

    for (uint32_t i = 0; i < (whole ? 1 : s.rows.n) && err == ERR_OK; i++)
        err = fill(g, name, (s.rows.first + i) * width + s.columns.first, n, 0.0f, spread,
                   to + i * n);
    return err;
}

static enum err load_rows(struct loader *g, const char *name, struct tp_slice s, uint64_t width,
                          void *to)
{
    if (g->l->model == NULL)
        return fill_rows(g, name, s, width, to);
    return copy_slice(g, engine_model_tensor(g->l->model, name), s, width, to);
}

/* Width of a matrix in its file. */
static uint64_t file_width(const struct engine_model_config *m, enum tp_tensor kind)
{
    return kind == TP_O ? (uint64_t)m->n_heads * m->head_dim : kind == TP_DOWN ? m->ffn : m->hidden;
}

static enum err load_parts(struct loader *g, const struct part *parts, uint16_t *to, uint16_t *bias)
{
    for (; parts->name != NULL; parts++) {
        struct tp_slice s = tp_slice_of(g->l->shard, g->l->config, parts->kind);
        char full[96];
        enum err err;

        snprintf(full, sizeof(full), "model.layers.%u.%s.weight", g->layer, parts->name);
        err = load_rows(g, full, s, file_width(g->l->config, parts->kind), to);
        if (err == ERR_OK && bias != NULL)
            err = load_layer_vector(g, parts->name, "bias", s.rows, bias, 0.0f);
        if (err != ERR_OK)
            return err;
        to += (uint64_t)s.rows.n * s.columns.n;
        bias = bias != NULL ? bias + s.rows.n : NULL;
    }
    return ERR_OK;
}

/* The scratch holds the matrix with 16 bits. */
static enum err round_matrix(struct loader *g, const struct cuda_matrix *m, const char *name)
{
    uint64_t bytes16 = aligned((uint64_t)m->n * m->k * ELEM);
    float *errors = (float *)(void *)((uint8_t *)g->l->scratch + bytes16);
    struct quantize_args q = {.q = m->w,
                              .scale = m->scale,
                              .error = errors,
                              .x = g->l->scratch,
                              .x_stride = m->k,
                              .rows = m->n,
                              .cols = m->k,
                              .dtype = g->l->dtype,
                              .format = m->weight};
    enum err err = quantize(&q, g->l->stream);
    char full[96];

    if (err == ERR_OK)
        err =
            gpu_copy(g->row_errors, errors, m->n * 2ull * sizeof(float), GPU_TO_HOST, g->l->stream);
    if (err == ERR_OK)
        err = gpu_stream_wait(g->l->stream, clock_now_ns() + g->l->deadline_ns);
    snprintf(full, sizeof(full), "layers.%u.%s", g->layer, name);
    if (err == ERR_OK)
        (void)gpu_quantize_report_add(g->report, full, g->row_errors, m->n);
    return device_failed(g, err);
}

static enum err load_matrix(struct loader *g, const struct cuda_matrix *m, const struct part *parts)
{
    bool rounded = m->weight != GPU_WEIGHT_16;
    enum err err = load_parts(g, parts, rounded ? g->l->scratch : m->w, m->bias);

    if (err != ERR_OK || !rounded)
        return err;
    err = run_copies(g);
    return err == ERR_OK ? round_matrix(g, m, parts->name) : err;
}

static enum err load_layer(struct loader *g, const struct cuda_layer *l)
{
    const struct tp_range hidden = {0, g->l->config->hidden};
    enum err err;

    if ((err = load_layer_vector(g, "input_layernorm", "weight", hidden, l->attention_norm,
                                 1.0f)) != ERR_OK ||
        (err = load_layer_vector(g, "post_attention_layernorm", "weight", hidden, l->mlp_norm,
                                 1.0f)) != ERR_OK ||
        (err = load_matrix(g, &l->qkv, qkv_parts)) != ERR_OK ||
        (err = load_matrix(g, &l->o, o_parts)) != ERR_OK ||
        (err = load_matrix(g, &l->gate_up, gate_up_parts)) != ERR_OK)
        return err;
    return load_matrix(g, &l->down, down_parts);
}

static enum err load_all(struct loader *g, const struct cuda_weights *w)
{
    const struct engine_model_config *m = g->l->config;
    enum err err = load_rows(g, "model.embed_tokens.weight",
                             tp_slice_of(g->l->shard, m, TP_EMBEDDING), m->hidden, w->embedding);

    if (err == ERR_OK)
        err = load_vector(g, "model.norm.weight", (struct tp_range){0, m->hidden}, w->final_norm,
                          1.0f);
    if (err == ERR_OK && !m->tied_embeddings)
        err = load_rows(g, "lm_head.weight", tp_slice_of(g->l->shard, m, TP_HEAD), m->hidden,
                        w->head.w);
    for (g->layer = 0; g->layer < m->n_layers && err == ERR_OK; g->layer++)
        err = load_layer(g, &w->layers[g->layer]);
    if (err == ERR_OK)
        err = run_copies(g);
    if (err == ERR_OK)
        err = device_failed(g, gpu_stream_wait(g->l->stream, clock_now_ns() + g->l->deadline_ns));
    return err;
}

static enum err open_loader(struct loader *g, const struct cuda_weights *w)
{
    size_t rows = w->weight == GPU_WEIGHT_16                    ? 0
                  : w->layers[0].gate_up.n > w->layers[0].qkv.n ? w->layers[0].gate_up.n
                                                                : w->layers[0].qkv.n;

    rows = rows > 0 && rows < g->l->config->hidden ? g->l->config->hidden : rows;
    if (rows > 0 &&
        gpu_host_alloc(g->l->gpu, rows * 2 * sizeof(float), (void **)&g->row_errors) != ERR_OK)
        return err_set(g->msg, ERR_NOMEM, "engine: no pinned host memory to load the weights");
    return g->l->model != NULL ? cuda_staging_open(g->l, &g->staging, g->msg) : ERR_OK;
}

enum err cuda_weights_load(struct cuda_weights *w, const struct cuda_weights_load *l,
                           struct gpu_quantize_report *report, struct err_msg *msg)
{
    struct loader g = {.l = l, .report = report, .msg = msg};
    enum err err = open_loader(&g, w);

    *report = (struct gpu_quantize_report){.n = 0};
    if (err == ERR_OK)
        err = load_all(&g, w);
    cuda_staging_close(g.staging);
    gpu_host_free(l->gpu, g.row_errors);
    mem_free(g.copies.list);
    return err;
}
