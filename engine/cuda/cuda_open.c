/* engine/cuda/cuda_open.c - what opening does on each rank: see the header. */
#include "engine/cuda/cuda_open.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_rope.h"
#include "engine/kernels/attention_decode.h"
#include "engine/kernels/fill_random.h"
#include "engine/kernels/rope_kv.h"
#include "proto/kv_memory.h"

enum { ALIGN = 256, ELEM = 2, ANGLE_BYTES = 4 << 20 };

static bool untimed;

static const uint64_t copy_deadline_ns = 60 * CLOCK_NS_PER_S;

/* Fill the rank's message with what the device said, unless there is a better one. */
static enum err failed(struct cuda_rank *r, enum err err, const char *what)
{
    if (err == ERR_OK)
        return ERR_OK;
    return err_set(&r->msg, err == ERR_TIMEOUT ? ERR_DEVICE : err, "engine: device %u: %s: %s",
                   r->device, what,
                   err == ERR_DEVICE    ? gpu_trouble()
                   : err == ERR_TIMEOUT ? "it does not answer"
                                        : err_text(err));
}

/* ---- device and collectives ---- */

enum err cuda_open_device(struct cuda_rank *r, void *unused)
{
    enum err err = gpu_open(r->device, &r->msg, &r->gpu);

    (void)unused;
    if (err != ERR_OK)
        return err;
    r->layers = mem_try_calloc(r->engine->n_tickets, sizeof(r->layers[0]));
    if (r->layers == NULL)
        return failed(r, ERR_NOMEM, "its events");
    err = gpu_stream_create(r->gpu, false, &r->stream);
    if (err == ERR_OK)
        err = gpu_event_create(r->gpu, false, &r->done);
    for (uint32_t i = 0; i < r->engine->n_tickets && err == ERR_OK; i++)
        err = gpu_event_create(r->gpu, false, &r->layers[i]);
    return failed(r, err, "its stream and events");
}

enum err cuda_open_group(struct cuda_engine *e, struct err_msg *msg)
{
    if (e->n_ranks == 1)
        return ERR_OK;
    return gpu_comm_group_create(e->n_ranks, (uint32_t)(e->deadline_ns / CLOCK_NS_PER_MS), msg,
                                 &e->group);
}

enum err cuda_open_comm(struct cuda_rank *r, void *unused)
{
    (void)unused;
    if (r->engine->group == NULL)
        return ERR_OK;
    return gpu_comm_open(r->engine->group, r->index, r->gpu, &r->msg, &r->comm);
}

enum err cuda_close_comm(struct cuda_rank *r, void *unused)
{
    (void)unused;
    cuda_use_anyway(r->gpu);
    cuda_graphs_free(r); /* collectives are part of them */
    gpu_comm_close(r->comm);
    r->comm = NULL;
    return ERR_OK;
}

/* ---- sizes ---- */

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Pieces of a region, one after the other; with base NULL only `at` counts. */
struct cutting {
    uint8_t *base;
    uint64_t at;
};

static void *cut(struct cutting *c, uint64_t count, uint64_t elem)
{
    void *out = c->base != NULL ? c->base + c->at : NULL;

    c->at += (count * elem + ALIGN - 1) / ALIGN * ALIGN;
    return out;
}

static uint32_t qkv_width(const struct cuda_rank *r)
{
    return (r->shard.heads.n + 2 * r->shard.kv_heads.n) * r->engine->config.head_dim;
}

static uint64_t cut_work(struct cuda_rank *r, uint8_t *base)
{
    const struct engine_model_config *m = &r->engine->config;
    uint64_t rows = r->engine->limits.max_rows, slots = r->engine->limits.max_slots;
    uint32_t q = r->shard.heads.n * m->head_dim, ffn = r->shard.ffn.n;
    struct cutting c = {base, 0};

    r->x = cut(&c, rows * m->hidden, ELEM);
    r->y = cut(&c, rows * max_u32(m->hidden, q), ELEM);
    r->wide = cut(&c, rows * max_u32(qkv_width(r), 2 * ffn), ELEM);
    r->act = cut(&c, rows * ffn, ELEM);
    r->out = cut(&c, rows * m->hidden, ELEM);
    r->x_last = cut(&c, slots * m->hidden, ELEM);
    r->q_last = cut(&c, slots * qkv_width(r), ELEM);
    r->tokens = cut(&c, slots, sizeof(int32_t));
    r->kv_digest = cut(&c, KV_MEMORY_JOBS_MAX, sizeof(uint64_t));
    return c.at;
}

static uint64_t cut_logits(struct cuda_rank *r, uint8_t *base)
{
    const struct cuda_engine *e = r->engine;
    uint64_t slots = e->limits.max_slots;
    struct cutting c = {base, 0};

    r->logits = cut(&c, r->index == 0 ? slots * e->logits_stride : 0, sizeof(float));
    r->logits_part = r->logits;
    if (e->n_ranks == 1)
        return c.at;
    r->logits_part = cut(&c, slots * e->part_stride, sizeof(float));
    r->logits_all = cut(&c, e->n_ranks * slots * e->part_stride, sizeof(float));
    return c.at;
}

static struct attention attention_shape(const struct cuda_rank *r)
{
    const struct cuda_engine *e = r->engine;

    return (struct attention){.kv = {.block_tokens = e->limits.block_tokens,
                                     .n_kv_heads = r->shard.kv_heads.n,
                                     .head_dim = e->config.head_dim,
                                     .dtype = e->dtype},
                              .q_stride = qkv_width(r),
                              .out_stride = r->shard.heads.n * e->config.head_dim,
                              .n_q_heads = r->shard.heads.n,
                              .scale = 1};
}

static struct gpu_blas_shape shape_of(const struct cuda_rank *r, enum cuda_product which)
{
    const struct cuda_engine *e = r->engine;
    const struct cuda_layer *l = &r->weights.layers[0];
    const struct cuda_matrix *const m[CUDA_PRODUCTS] = {[CUDA_QKV] = &l->qkv,
                                                        [CUDA_O] = &l->o,
                                                        [CUDA_GATE_UP] = &l->gate_up,
                                                        [CUDA_DOWN] = &l->down,
                                                        [CUDA_HEAD] = &r->weights.head};
    bool head = which == CUDA_HEAD;

    return (struct gpu_blas_shape){.n = m[which]->n,
                                   .k = m[which]->k,
                                   .max_rows = head ? e->limits.max_slots : e->limits.max_rows,
                                   .x_stride = m[which]->k,
                                   .y_stride = !head            ? m[which]->n
                                               : e->n_ranks > 1 ? e->part_stride
                                                                : e->logits_stride,
                                   .dtype = e->dtype,
                                   .weight = m[which]->weight,
                                   .y_f32 = head,
                                   .bias = m[which]->has_bias};
}

static void list_shapes(const struct cuda_rank *r, struct gpu_blas_shape shapes[CUDA_PRODUCTS])
{
    for (int i = 0; i < CUDA_PRODUCTS; i++)
        shapes[i] = shape_of(r, (enum cuda_product)i);
}

static uint64_t cut_scratch(struct cuda_rank *r, uint8_t *base)
{
    const struct cuda_limits *l = &r->engine->limits;
    const struct attention a = attention_shape(r);
    struct gpu_blas_shape shapes[CUDA_PRODUCTS];
    struct cutting c = {base, 0};

    list_shapes(r, shapes);
    r->blas_bytes = gpu_blas_bytes(shapes, CUDA_PRODUCTS);
    r->blas_scratch = cut(&c, r->blas_bytes, 1);
    r->attend_bytes = attention_decode_workspace(&a, l->max_slots, l->max_blocks);
    r->attend_scratch = cut(&c, r->attend_bytes, 1);
    r->sample_scratch =
        cut(&c, r->index == 0 ? sample_workspace_bytes(l->max_slots, l->vocab) : 0, 1);
    return c.at;
}

static uint64_t rope_bytes(const struct cuda_engine *e)
{
    return (uint64_t)e->base.info.max_context * e->config.head_dim * sizeof(float);
}

enum err cuda_open_sizes(struct cuda_rank *r, void *unused)
{
    struct cuda_engine *e = r->engine;
    const struct engine_config *c = e->open_config;
    uint64_t per_request = e->limits.max_blocks;
    enum err err = cuda_weights_shape(&r->weights, &e->config, &r->shard);

    (void)unused;
    if (err != ERR_OK)
        return failed(r, err, "the layer table");
    r->need = (struct cuda_arena_need){
        .bytes = {[CUDA_WEIGHTS] = cuda_weights_bytes(&r->weights, &e->config, &r->shard),
                  [CUDA_ROPE] = rope_bytes(e),
                  [CUDA_WORK] = cut_work(r, NULL),
                  [CUDA_SCRATCH] = cut_scratch(r, NULL),
                  [CUDA_METADATA] = cuda_meta_bytes_max(&e->limits),
                  [CUDA_LOGITS] = cut_logits(r, NULL)},
        .kv_block_bytes = wire_kv_part_block_bytes(&e->base.info.kv),
        .kv_blocks_min = e->limits.max_blocks,
        .kv_blocks = c->kv_blocks,
        .kv_blocks_max = (uint32_t)(per_request * e->limits.max_slots < UINT32_MAX / 2
                                        ? per_request * e->limits.max_slots
                                        : UINT32_MAX / 2),
        .share = e->share,
        .device = r->device};
    if (r->attend_bytes == 0)
        return err_set(&r->msg, ERR_UNSUPPORTED,
                       "engine: attention does not take this shape: %u heads, %u key/value heads, "
                       "head_dim %u, a context of %u",
                       r->shard.heads.n, r->shard.kv_heads.n, e->config.head_dim,
                       e->base.info.max_context);
    return cuda_arena_fit(&r->need, r->gpu, &r->msg);
}

enum err cuda_open_memory(struct cuda_rank *r, void *unused)
{
    struct cuda_arena *a = &r->arena;
    enum err err = cuda_arena_take(a, r->gpu, &r->need, &r->msg);

    (void)unused;
    if (err != ERR_OK)
        return err;
    cuda_weights_place(&r->weights, &r->engine->config, &r->shard,
                       cuda_arena_at(a, CUDA_WEIGHTS, 0));
    r->rope = cuda_arena_at(a, CUDA_ROPE, 0);
    (void)cut_work(r, cuda_arena_at(a, CUDA_WORK, 0));
    (void)cut_scratch(r, cuda_arena_at(a, CUDA_SCRATCH, 0));
    (void)cut_logits(r, cuda_arena_at(a, CUDA_LOGITS, 0));
    r->metadata = cuda_arena_at(a, CUDA_METADATA, 0);
    r->kv = cuda_arena_at(a, CUDA_KV, 0);
    return ERR_OK;
}

/* ---- weights ---- */

static void show_progress(void *arg)
{
    struct cuda_engine *e = arg;
    const struct engine_config *c = e->open_config;

    if (c->progress != NULL)
        c->progress(c->progress_arg, "loading weights",
                    __atomic_load_n(&e->loaded, __ATOMIC_RELAXED), e->base.info.weight_bytes);
}

/* 16-bit matrices on their way to 8 bits stand where the rest of the arena is not used yet. */
static enum err find_scratch(struct cuda_rank *r, void **out)
{
    uint64_t need = cuda_weights_scratch_bytes(&r->weights);
    uint64_t room = r->arena.total - r->arena.offset[CUDA_WORK];

    *out = need > 0 ? cuda_arena_at(&r->arena, CUDA_WORK, 0) : NULL;
    if (need <= room)
        return ERR_OK;
    return err_set(&r->msg, ERR_NOMEM,
                   "engine: rounding weights takes %.0f MiB of the pool and the work space, which "
                   "have %.0f: raise --kv-blocks",
                   (double)need / (1 << 20), (double)room / (1 << 20));
}

enum err cuda_open_weights(struct cuda_rank *r, void *unused)
{
    struct cuda_engine *e = r->engine;
    const struct engine_config *c = e->open_config;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t threads = c->threads != 0 ? c->threads : cores > 0 ? (uint32_t)cores : 1;
    struct cuda_weights_load l = {.gpu = r->gpu,
                                  .stream = r->stream,
                                  .model = e->model,
                                  .seed = c->random_seed,
                                  .config = &e->config,
                                  .shard = &r->shard,
                                  .dtype = e->dtype,
                                  .threads = max_u32(threads / e->n_ranks, 1),
                                  .deadline_ns = copy_deadline_ns,
                                  .loaded = &e->loaded,
                                  .progress = r->index == 0 ? show_progress : NULL,
                                  .arg = e};
    enum err err = find_scratch(r, &l.scratch);

    (void)unused;
    if (err == ERR_OK)
        err = cuda_weights_load(&r->weights, &l, &r->quantized, &r->msg);
    if (err == ERR_OK && l.progress != NULL)
        show_progress(e);
    if (err == ERR_OK) /* attention counts from zero; the matrices may have stood there until now */
        err =
            failed(r, gpu_fill(r->attend_scratch, 0, r->attend_bytes, r->stream), "its work space");
    return err;
}

/* ---- tables ---- */

static enum err fill_angles(struct cuda_rank *r, const double *inv_freq, float *staging)
{
    uint32_t dim = r->engine->config.head_dim, all = r->engine->base.info.max_context;
    uint32_t step = ANGLE_BYTES / (dim * (uint32_t)sizeof(float));
    enum err err = ERR_OK;

    for (uint32_t at = 0; at < all && err == ERR_OK; at += step) {
        uint32_t n = all - at < step ? all - at : step;

        rope_kv_angles(staging, inv_freq, dim, at, n);
        err = gpu_copy(r->rope + (size_t)at * dim, staging, (size_t)n * dim * sizeof(float),
                       GPU_TO_DEVICE, r->stream);
        if (err == ERR_OK)
            err = gpu_stream_wait(r->stream, clock_now_ns() + copy_deadline_ns);
    }
    return err;
}

static enum err make_angles(struct cuda_rank *r)
{
    double *inv_freq = mem_try_calloc(r->engine->config.head_dim / 2, sizeof(inv_freq[0]));
    float *staging = NULL;
    enum err err =
        inv_freq == NULL ? ERR_NOMEM : gpu_host_alloc(r->gpu, ANGLE_BYTES, (void **)&staging);

    if (err == ERR_OK) {
        engine_rope_inv_freq(&r->engine->config, inv_freq);
        err = fill_angles(r, inv_freq, staging);
        gpu_host_free(r->gpu, staging);
    }
    mem_free(inv_freq);
    return failed(r, err, "the table of angles");
}

static const struct cuda_matrix *matrix_of(const struct cuda_rank *r, enum cuda_product which,
                                           uint32_t layer)
{
    const struct cuda_layer *l = &r->weights.layers[layer];

    return which == CUDA_QKV       ? &l->qkv
           : which == CUDA_O       ? &l->o
           : which == CUDA_GATE_UP ? &l->gate_up
           : which == CUDA_DOWN    ? &l->down
                                   : &r->weights.head;
}

/* Timed with the model's own weights: those of all layers, so that they come from memory as in a step. */
static enum err make_plan(struct cuda_rank *r, enum cuda_product which, struct gpu_matrix *matrices)
{
    const struct gpu_blas_shape shape = shape_of(r, which);
    struct gpu_blas_trial t = {.stream = r->stream,
                               .matrices = matrices,
                               .n_matrices = which == CUDA_HEAD ? 1 : r->engine->config.n_layers,
                               .x = which == CUDA_DOWN ? r->act : r->y,
                               .y = which == CUDA_HEAD ? (void *)r->logits_part
                                    : which == CUDA_QKV || which == CUDA_GATE_UP ? r->wide
                                                                                 : r->out};
    enum err err;
    char text[80];

    for (uint32_t i = 0; i < t.n_matrices; i++) {
        const struct cuda_matrix *m = matrix_of(r, which, i);

        matrices[i] = (struct gpu_matrix){.w = m->w, .scale = m->scale, .bias = m->bias};
    }
    err = fill_random((uint16_t *)(uintptr_t)t.x, (uint64_t)shape.max_rows * shape.k, 0, 1, 1,
                      shape.dtype, r->stream);
    if (err != ERR_OK)
        return failed(r, err, "trials of products");
    err = gpu_blas_plan(r->blas, &shape, untimed ? NULL : &t, &r->msg, &r->plan[which]);
    for (uint32_t rows = 1; err == ERR_OK && rows <= shape.max_rows; rows *= 8)
        LOG_DEBUG("engine", "product", "device=%u n=%u k=%u rows=%u way=%s", r->device, shape.n,
                  shape.k, rows, gpu_blas_describe(r->plan[which], rows, text, sizeof(text)));
    return err;
}

enum err cuda_open_tables(struct cuda_rank *r, void *unused)
{
    struct gpu_matrix *matrices = mem_try_calloc(r->engine->config.n_layers, sizeof(matrices[0]));
    enum err err = make_angles(r);

    (void)unused;
    if (err == ERR_OK && matrices == NULL)
        err = failed(r, ERR_NOMEM, "trials of products");
    if (err == ERR_OK)
        err = gpu_blas_open(r->gpu, r->blas_scratch, r->blas_bytes, &r->msg, &r->blas);
    for (int i = 0; i < CUDA_PRODUCTS && err == ERR_OK; i++)
        err = make_plan(r, (enum cuda_product)i, matrices);
    mem_free(matrices);
    return err;
}

/* The first collectives of a kind connect the ranks, which a graph cannot. */
static enum err connect(struct cuda_rank *r)
{
    uint64_t deadline = clock_now_ns() + r->engine->deadline_ns;
    enum err err = gpu_fill(r->x, 0, 256, r->stream);

    if (err == ERR_OK)
        err = gpu_comm_all_reduce(r->comm, r->x, 128, r->engine->dtype, r->stream);
    if (err == ERR_OK)
        err = gpu_comm_all_gather(r->comm, r->logits_all, r->logits_part, 16, r->stream);
    if (err == ERR_OK)
        err = gpu_event_record(r->done, r->stream);
    if (err == ERR_OK)
        err = gpu_comm_wait(r->comm, r->done, deadline);
    return failed(r, err, "its first collective");
}

enum err cuda_open_graphs(struct cuda_rank *r, void *unused)
{
    enum err err = r->comm != NULL ? connect(r) : ERR_OK;

    (void)unused;
    return err == ERR_OK ? cuda_graphs_capture(r, &r->msg) : err;
}

void cuda_engine_time_products(bool on)
{
    untimed = !on;
}

/* ---- the way back ---- */

void cuda_open_undo(struct cuda_rank *r)
{
    if (r->gpu == NULL)
        return;
    cuda_use_anyway(r->gpu);
    cuda_marks_free(r->marks);
    cuda_graphs_free(r);
    for (int i = 0; i < CUDA_PRODUCTS; i++)
        gpu_blas_plan_free(r->plan[i]);
    gpu_blas_close(r->blas);
    cuda_weights_free(&r->weights);
    for (uint32_t i = 0; r->layers != NULL && i < r->engine->n_tickets; i++)
        gpu_event_destroy(r->layers[i]);
    mem_free(r->layers);
    gpu_event_destroy(r->done);
    gpu_stream_destroy(r->stream);
    cuda_arena_free(&r->arena, r->gpu);
}
