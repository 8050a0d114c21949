/* engine/cpu/cpu_rank.c - one rank of the CPU backend: its slices of the weights, where they lie in the
 * mapping, its threads and its scratch. */
#include <string.h>

#include "base/mem.h"
#include "engine/cpu/cpu_engine.h"

/* ---- weights ---- */

static struct cpu_matrix cut(const struct cpu_rank *r, const struct cpu_matrix *whole,
                             enum tp_tensor tensor)
{
    struct tp_slice s = tp_slice_of(&r->shard, r->engine->config, tensor);
    size_t first = s.rows.first * whole->ldw + s.columns.first;
    struct cpu_matrix m = *whole;

    m.w = (const uint8_t *)whole->w + first * (whole->dtype == ENGINE_F32 ? 4 : 2);
    m.n = s.rows.n;
    m.k = s.columns.n;
    if (whole->bias != NULL)
        m.bias = tp_adds_bias(&r->shard, tensor) ? whole->bias + s.rows.first : NULL;
    return m;
}

static void cut_layer(const struct cpu_rank *r, uint32_t i)
{
    const struct cpu_layer *whole = &r->engine->layers[i];

    r->layers[i] = (struct cpu_layer){.attention_norm = whole->attention_norm,
                                      .mlp_norm = whole->mlp_norm,
                                      .q = cut(r, &whole->q, TP_Q),
                                      .k = cut(r, &whole->k, TP_K),
                                      .v = cut(r, &whole->v, TP_V),
                                      .o = cut(r, &whole->o, TP_O),
                                      .gate = cut(r, &whole->gate, TP_GATE),
                                      .up = cut(r, &whole->up, TP_UP),
                                      .down = cut(r, &whole->down, TP_DOWN)};
}

/* ---- scratch ---- */

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Zeroed, so that the padding of activation rows is zero and stays it. */
static bool take(void *slot, size_t count, size_t size, uint64_t *total)
{
    void **out = slot;
    size_t bytes;

    if (!mem_mul(count, size, &bytes) || !mem_add(bytes, CPU_ALIGN, &bytes))
        return false;
    *out = mem_try_aligned(CPU_ALIGN, bytes);
    if (*out == NULL)
        return false;
    memset(*out, 0, bytes);
    *total += bytes;
    return true;
}

static bool allocate_rows(struct cpu_rank *r, uint64_t *total)
{
    const struct cpu_engine *c = r->engine;
    const struct engine_model_config *m = c->config;
    size_t rows = c->max_rows, ffn = r->shard.ffn.n;
    size_t q = (size_t)r->shard.heads.n * m->head_dim;
    size_t kv = (size_t)r->shard.kv_heads.n * m->head_dim;
    uint32_t widest = max_u32(max_u32(m->hidden, r->shard.ffn.n), (uint32_t)q);

    r->act_stride = (widest + CPU_K_PAD - 1) / CPU_K_PAD * CPU_K_PAD;
    return take(&r->x, rows * m->hidden, sizeof(float), total) &&
           take(&r->act, rows * r->act_stride, c->bf16_activations ? 2 : 4, total) &&
           take(&r->q, rows * q, sizeof(float), total) &&
           take(&r->att, rows * q, sizeof(float), total) &&
           take(&r->k, rows * kv, sizeof(float), total) &&
           take(&r->v, rows * kv, sizeof(float), total) &&
           take(&r->gate, rows * ffn, sizeof(float), total) &&
           take(&r->up, rows * ffn, sizeof(float), total) &&
           take(&r->rope, rows * m->head_dim, sizeof(float), total) &&
           (c->tp == 1 || take(&r->part, rows * m->hidden, sizeof(float), total));
}

static bool allocate_logits(struct cpu_rank *r, uint64_t *total)
{
    const struct cpu_engine *c = r->engine;
    size_t rows = c->logit_rows, share = (rows + c->tp - 1) / c->tp;

    return take(&r->logits, rows * r->shard.vocab.n, sizeof(float), total) &&
           (c->tp == 1 || take(&r->gathered, share * c->config->vocab, sizeof(float), total));
}

static bool allocate_threads(struct cpu_rank *r, uint64_t *total)
{
    const struct engine_model_config *m = r->engine->config;
    size_t threads = cpu_pool_threads(r->pool);

    r->tmp_stride = r->act_stride;
    r->attend_stride = (cpu_attend_scratch(m->head_dim) + 15) / 16 * 16;
    r->sample_stride = (engine_sample_scratch_bytes(m->vocab) + 63) / 64 * 64;
    return take(&r->thread_tmp, threads * r->tmp_stride, sizeof(float), total) &&
           take(&r->thread_attend, threads * r->attend_stride, sizeof(float), total) &&
           take(&r->thread_sample, threads, r->sample_stride, total);
}

/* ---- open and close ---- */

enum err cpu_rank_open(struct cpu_rank *r, uint32_t n_threads, uint64_t *scratch)
{
    const struct cpu_engine *c = r->engine;
    size_t jobs;
    enum err err = cpu_pool_create(n_threads, &r->pool);

    if (err != ERR_OK)
        return err;
    r->layers = mem_try_calloc(c->config->n_layers, sizeof(r->layers[0]));
    if (r->layers == NULL)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < c->config->n_layers; i++)
        cut_layer(r, i);
    r->head = cut(r, &c->head, TP_HEAD);
    /* one job per span, token and head at most */
    if (!mem_mul(c->max_rows, r->shard.heads.n, &jobs) || jobs >= UINT32_MAX ||
        !take(&r->jobs, jobs, sizeof(r->jobs[0]), scratch) || !allocate_rows(r, scratch) ||
        !allocate_logits(r, scratch) || !allocate_threads(r, scratch))
        return ERR_NOMEM;
    return ERR_OK;
}

void cpu_rank_close(struct cpu_rank *r)
{
    void *const blocks[] = {r->layers,
                            r->x,
                            r->part,
                            r->act,
                            r->q,
                            r->att,
                            r->k,
                            r->v,
                            r->gate,
                            r->up,
                            r->rope,
                            r->logits,
                            r->gathered,
                            r->jobs,
                            r->thread_tmp,
                            r->thread_attend,
                            r->thread_sample};

    cpu_pool_destroy(r->pool);
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++)
        mem_free(blocks[i]);
}
