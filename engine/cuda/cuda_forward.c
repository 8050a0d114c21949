/* engine/cuda/cuda_forward.c - the kernels of one step, enqueued on a rank's stream.
 *
 *   x = embedding; y = norm(x)
 *   per layer: y -> q k v -> rotate, store k v in the blocks -> [event] -> attention -> o -> sum over ranks
 *              x += it, y = norm(x) -> gate up -> silu(gate) * up -> down -> sum over ranks
 *              x += it, y = norm(x) with the next layer's weight
 *   y -> logits -> [gather over ranks] -> sample
 *
 * In the last layer, once keys and values are stored, only the rows that will be sampled go on.  Nothing
 * here waits, allocates or reads the host's memory, so the same calls become a graph. */
#include <math.h>

#include "engine/cuda/cuda_engine.h"
#include "engine/kernels/attention_decode.h"
#include "engine/kernels/attention_prefill.h"
#include "engine/kernels/gather_rows.h"
#include "engine/kernels/rmsnorm.h"
#include "engine/kernels/rope_kv.h"
#include "engine/kernels/sample.h"
#include "engine/kernels/swiglu.h"

/* A pass over the layers: what the rows are at the moment. */
struct pass {
    struct cuda_rank *r;
    const struct cuda_batch *b;
    const struct engine_model_config *m;
    uint32_t n_rows;
    uint16_t *x; /* residual stream of the rows */
    uint16_t *qkv;
    uint32_t qkv_width;
};

/* ---- operands ---- */

static const void *meta(const struct pass *p, size_t at)
{
    return p->r->metadata + at;
}

static struct gpu_batch step_rows(const struct pass *p)
{
    const struct cuda_meta *m = &p->b->meta;

    return (struct gpu_batch){.token = meta(p, m->token),
                              .position = meta(p, m->position),
                              .slot = meta(p, m->slot),
                              .blocks = meta(p, m->blocks),
                              .max_blocks = p->b->max_blocks,
                              .n_rows = p->b->n_rows,
                              .n_slots = p->b->n_slots};
}

/* The sampled rows alone. */
static struct gpu_batch last_rows(const struct pass *p)
{
    struct gpu_batch b = step_rows(p);

    b.position = meta(p, p->b->meta.last_position);
    b.slot = meta(p, p->b->meta.last_slot);
    b.n_rows = p->b->n_sampled;
    return b;
}

static struct gpu_kv layer_kv(const struct pass *p, uint32_t layer)
{
    const struct wire_kv_layout *kv = &p->r->engine->base.info.kv;
    uint64_t bytes = wire_kv_layer_bytes(kv) / kv->parts;

    return (struct gpu_kv){.k = p->r->kv + layer * bytes,
                           .v_offset = bytes / 2,
                           .block_stride = wire_kv_part_block_bytes(kv),
                           .n_blocks = p->r->arena.kv_blocks,
                           .block_tokens = kv->block_tokens,
                           .n_kv_heads = p->r->shard.kv_heads.n,
                           .head_dim = kv->head_dim,
                           .dtype = p->r->engine->dtype};
}

/* ---- steps of a layer ---- */

/* A profiled step has a mark after each operation. */
static enum err note(const struct pass *p, const char *what, enum err err)
{
    return err == ERR_OK && p->r->marks != NULL ? cuda_marks_add(p->r->marks, what, p->r->stream)
                                                : err;
}

static enum err multiply(const struct pass *p, enum cuda_product which, const struct cuda_matrix *w,
                         const uint16_t *x, void *y)
{
    static const char *const names[CUDA_PRODUCTS] = {[CUDA_QKV] = "qkv",
                                                     [CUDA_O] = "o",
                                                     [CUDA_GATE_UP] = "gate_up",
                                                     [CUDA_DOWN] = "down",
                                                     [CUDA_HEAD] = "head"};
    const struct gpu_matrix m = {.w = w->w, .scale = w->scale, .bias = w->bias};

    return note(p, names[which],
                gpu_blas_run(p->r->plan[which], p->n_rows, y, x, &m, p->r->stream));
}

/* x += what o or down gave, if `add`; y = norm(x) * w. */
static enum err norm(const struct pass *p, const uint16_t *w, bool add)
{
    const struct rmsnorm_args a = {.y = p->r->y,
                                   .residual = add ? p->x : NULL,
                                   .x = add ? p->r->out : p->x,
                                   .w = w,
                                   .rows = p->n_rows,
                                   .cols = p->m->hidden,
                                   .eps = p->m->norm_eps,
                                   .dtype = p->r->engine->dtype};

    return note(p, "norm", rmsnorm(&a, p->r->stream));
}

/* The ranks' parts of a row are added up. */
static enum err reduce(const struct pass *p, uint16_t *rows)
{
    if (p->r->comm == NULL)
        return ERR_OK;
    return note(p, "all_reduce",
                gpu_comm_all_reduce(p->r->comm, rows, (size_t)p->n_rows * p->m->hidden,
                                    p->r->engine->dtype, p->r->stream));
}

static enum err embed(const struct pass *p)
{
    const struct gather_rows_args a = {.out = p->x,
                                       .table = p->r->weights.embedding,
                                       .index = meta(p, p->b->meta.token),
                                       .rows = p->n_rows,
                                       .cols = p->m->hidden,
                                       .count = p->m->vocab,
                                       .total = p->m->vocab};

    return note(p, "embed", gather_rows(&a, p->r->stream));
}

static enum err store_kv(const struct pass *p, uint32_t layer)
{
    const struct rope_kv_args a = {.qkv = p->qkv,
                                   .row_stride = p->qkv_width,
                                   .n_heads = p->r->shard.heads.n,
                                   .angles = p->r->rope,
                                   .n_positions = p->r->engine->base.info.max_context,
                                   .batch = step_rows(p),
                                   .kv = layer_kv(p, layer)};

    return note(p, "rope_kv", rope_kv(&a, p->r->stream));
}

static enum err take_rows(const struct pass *p, void *out, const void *table, uint32_t cols)
{
    const struct gather_rows_args a = {.out = out,
                                       .table = table,
                                       .index = meta(p, p->b->meta.last_row),
                                       .rows = p->b->n_sampled,
                                       .cols = cols,
                                       .count = p->b->n_rows,
                                       .total = p->b->n_rows};

    return note(p, "rows", gather_rows(&a, p->r->stream));
}

/* From here on only the sampled rows. */
static enum err keep_sampled(struct pass *p)
{
    enum err err = take_rows(p, p->r->x_last, p->x, p->m->hidden);

    if (err == ERR_OK)
        err = take_rows(p, p->r->q_last, p->qkv, p->qkv_width);
    p->x = p->r->x_last;
    p->qkv = p->r->q_last;
    p->n_rows = p->b->n_sampled;
    return err;
}

static enum err attend(const struct pass *p, uint32_t layer, bool sampled_only)
{
    struct attention a = {.kv = layer_kv(p, layer),
                          .q = p->qkv,
                          .out = p->r->y,
                          .q_stride = p->qkv_width,
                          .out_stride = p->r->shard.heads.n * p->m->head_dim,
                          .n_q_heads = p->r->shard.heads.n,
                          .scale = 1.0f / sqrtf((float)p->m->head_dim)};
    struct gpu_batch rows = sampled_only ? last_rows(p) : step_rows(p);
    uint32_t sms = gpu_info(p->r->gpu)->n_multiprocessors;
    enum err err;

    if (!sampled_only)
        rows.n_rows = p->b->n_single;
    err = note(p, "attention_decode",
               attention_decode(&a, &rows, p->r->attend_scratch, sms, p->r->stream));
    if (err != ERR_OK || sampled_only || p->b->n_tiles == 0)
        return err;
    rows = step_rows(p);
    return note(
        p, "attention_prefill",
        attention_prefill(&a, &rows, meta(p, p->b->meta.tiles), p->b->n_tiles, p->r->stream));
}

static enum err feed_forward(const struct pass *p, const struct cuda_layer *l)
{
    const struct swiglu_args a = {.out = p->r->act,
                                  .gate_up = p->r->wide,
                                  .rows = p->n_rows,
                                  .ffn = p->r->shard.ffn.n,
                                  .dtype = p->r->engine->dtype};
    enum err err = multiply(p, CUDA_GATE_UP, &l->gate_up, p->r->y, p->r->wide);

    if (err == ERR_OK)
        err = note(p, "swiglu", swiglu(&a, p->r->stream));
    if (err == ERR_OK)
        err = multiply(p, CUDA_DOWN, &l->down, p->r->act, p->r->out);
    return err == ERR_OK ? reduce(p, p->r->out) : err;
}

/* ---- layers ---- */

/* The keys and values of a group of layers are in their blocks: a mark for who sends them. */
static enum err mark_layers(const struct pass *p, uint32_t layer)
{
    const struct cuda_batch *b = p->b;
    uint64_t ticket;

    if (b->group_layers == 0 || ((layer + 1) % b->group_layers != 0 && layer + 1 != p->m->n_layers))
        return ERR_OK;
    ticket = b->first_ticket + layer / b->group_layers;
    return gpu_event_record(p->r->layers[ticket % p->r->engine->n_tickets], p->r->stream);
}

static enum err run_layer(struct pass *p, uint32_t i)
{
    const struct cuda_weights *w = &p->r->weights;
    const struct cuda_layer *l = &w->layers[i];
    bool last = i + 1 == p->m->n_layers, compact = last && p->b->compact;
    enum err err = multiply(p, CUDA_QKV, &l->qkv, p->r->y, p->qkv);

    if (err == ERR_OK)
        err = store_kv(p, i);
    if (err == ERR_OK)
        err = mark_layers(p, i);
    if (err == ERR_OK && compact) {
        if (p->b->n_sampled == 0)
            return ERR_OK;
        err = keep_sampled(p);
    }
    if (err == ERR_OK)
        err = attend(p, i, compact);
    if (err == ERR_OK)
        err = multiply(p, CUDA_O, &l->o, p->r->y, p->r->out);
    if (err == ERR_OK)
        err = reduce(p, p->r->out);
    if (err == ERR_OK)
        err = norm(p, l->mlp_norm, true);
    if (err == ERR_OK)
        err = feed_forward(p, l);
    if (err == ERR_OK)
        err = norm(p, last ? w->final_norm : w->layers[i + 1].attention_norm, true);
    return err;
}

/* ---- logits ---- */

/* The ranks' columns side by side, on the rank that samples. */
static enum err gather_logits(const struct pass *p)
{
    struct cuda_rank *r = p->r;
    size_t share = r->engine->part_stride, part = (size_t)p->n_rows * share;
    enum err err = gpu_comm_all_gather(r->comm, r->logits_all, r->logits_part, part * sizeof(float),
                                       r->stream);

    if (r->index != 0)
        return err;
    for (uint32_t i = 0; i < r->engine->n_ranks && err == ERR_OK; i++) {
        struct tp_range v = r->engine->ranks[i].shard.vocab;

        err = gpu_copy_2d(r->logits + v.first, r->engine->logits_stride * sizeof(float),
                          r->logits_all + i * part, share * sizeof(float), v.n * sizeof(float),
                          p->n_rows, GPU_ON_DEVICE, r->stream);
    }
    return err;
}

static enum err draw(const struct pass *p)
{
    struct cuda_rank *r = p->r;
    const struct sample_args a = {.logits = r->logits,
                                  .rows = meta(p, p->b->meta.sample),
                                  .edits = meta(p, p->b->meta.edits),
                                  .tokens = r->tokens,
                                  .workspace = r->sample_scratch,
                                  .n_rows = p->n_rows,
                                  .vocab = p->m->vocab,
                                  .row_stride = r->engine->logits_stride};

    return note(p, "sample", sample(&a, r->stream));
}

static enum err finish(const struct pass *p)
{
    struct cuda_rank *r = p->r;
    enum err err = multiply(p, CUDA_HEAD, &r->weights.head, r->y, r->logits_part);

    if (err == ERR_OK && r->comm != NULL)
        err = gather_logits(p);
    if (err == ERR_OK && r->index == 0)
        err = draw(p);
    return err;
}

enum err cuda_forward(struct cuda_rank *r, const struct cuda_batch *b)
{
    struct pass p = {.r = r,
                     .b = b,
                     .m = &r->engine->config,
                     .n_rows = b->n_rows,
                     .x = r->x,
                     .qkv = r->wide,
                     .qkv_width =
                         (r->shard.heads.n + 2 * r->shard.kv_heads.n) * r->engine->config.head_dim};
    enum err err = note(&p, NULL, ERR_OK);

    if (err == ERR_OK)
        err = embed(&p);

    if (err == ERR_OK)
        err = norm(&p, r->weights.layers[0].attention_norm, false);
    for (uint32_t i = 0; i < p.m->n_layers && err == ERR_OK; i++)
        err = run_layer(&p, i);
    return err == ERR_OK && b->n_sampled > 0 ? finish(&p) : err;
}
