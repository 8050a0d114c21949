/* engine/cpu/cpu_forward.c - one rank's part of a step: the new tokens of all slots as the rows of one
 * batch.
 *
 * Every product runs over the rows of all slots together, so a weight is read once per step; attention
 * runs per slot over its own blocks.  In the last layer, once the keys and values are stored, only the
 * rows that will be sampled go on.
 *
 *   x = embedding
 *   per layer: norm -> q k v -> rotate, store k v in the blocks -> [report] -> attention -> o, x +=
 *              norm -> gate up -> silu(gate) * up -> down, x +=
 *   norm -> logits -> sample
 *
 * With several ranks each has its own heads, feed-forward columns and part of the vocabulary, and all of the
 * residual stream: what o and down give is summed over the ranks before it is added, and the logits are put
 * together before they are sampled from, each rank taking some of the rows. */
#include "engine/cpu/cpu_engine.h"

#include <math.h>
#include <string.h>

enum { ROWS_PER_TASK = 8, GEMM_GRAIN = 8, GEMM_TASKS_PER_THREAD = 4, GEMM_OUTS = 3 };

/* ---- small helpers ---- */

static size_t q_width(const struct cpu_rank *r)
{
    return (size_t)r->shard.heads.n * r->engine->config->head_dim;
}

static size_t kv_width(const struct cpu_rank *r)
{
    return (size_t)r->shard.kv_heads.n * r->engine->config->head_dim;
}

typedef void (*row_fn)(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread);

struct row_loop {
    struct cpu_rank *r;
    row_fn fn;
    const void *arg;
};

static void row_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct row_loop *l = arg;
    uint32_t first = task * ROWS_PER_TASK;
    uint32_t end = first + ROWS_PER_TASK < l->r->n_rows ? first + ROWS_PER_TASK : l->r->n_rows;

    for (uint32_t row = first; row < end; row++)
        l->fn(l->r, l->arg, row, thread);
}

static void for_rows(struct cpu_rank *r, row_fn fn, const void *arg)
{
    struct row_loop l = {r, fn, arg};

    cpu_pool_run(r->pool, row_task, &l, (r->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
}

/* ---- products ---- */

struct gemm_out {
    const struct cpu_matrix *m;
    float *out;
    size_t ldo;
    bool add;
};

struct gemm_job {
    struct cpu_gemm g[GEMM_OUTS];
    cpu_gemm_fn fn[GEMM_OUTS];
    uint32_t n[GEMM_OUTS];
    uint32_t first_task[GEMM_OUTS + 1];
    uint32_t chunk;
};

static void gemm_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct gemm_job *j = arg;
    uint32_t i = 0, n0, n1;

    (void)thread;
    while (task >= j->first_task[i + 1])
        i++;
    n0 = (task - j->first_task[i]) * j->chunk;
    n1 = n0 + j->chunk < j->n[i] ? n0 + j->chunk : j->n[i];
    j->fn[i](&j->g[i], n0, n1);
}

/* Up to GEMM_OUTS products of the activation rows, in one parallel loop over output columns. */
static void multiply(struct cpu_rank *r, const struct gemm_out *outs, uint32_t n_outs,
                     uint32_t n_rows)
{
    struct gemm_job j = {.chunk = 0};
    uint32_t total = 0, tasks = cpu_pool_threads(r->pool) * GEMM_TASKS_PER_THREAD;

    for (uint32_t i = 0; i < n_outs; i++)
        total += outs[i].m->n;
    j.chunk = (total / tasks + GEMM_GRAIN) / GEMM_GRAIN * GEMM_GRAIN;
    if (cpu_pool_threads(r->pool) == 1)
        j.chunk = total;
    for (uint32_t i = 0; i < n_outs; i++) {
        const struct cpu_matrix *m = outs[i].m;

        j.g[i] = (struct cpu_gemm){.x = r->act,
                                   .ldx = r->act_stride,
                                   .m = n_rows,
                                   .k = m->k,
                                   .w = m->w,
                                   .ldw = m->ldw,
                                   .out = outs[i].out,
                                   .ldo = outs[i].ldo,
                                   .bias = m->bias,
                                   .add = outs[i].add};
        j.fn[i] = m->gemm;
        j.n[i] = m->n;
        j.first_task[i + 1] = j.first_task[i] + (m->n + j.chunk - 1) / j.chunk;
    }
    cpu_pool_run(r->pool, gemm_task, &j, j.first_task[n_outs]);
}

/* Where a row of activations is written before the next product reads it: straight into `act`, or
 * into the thread's own buffer on the way to bf16.  The tail up to act_stride must be zero. */
static float *act_row(struct cpu_rank *r, uint32_t row, uint32_t thread)
{
    if (r->engine->bf16_activations)
        return r->thread_tmp + (size_t)thread * r->tmp_stride;
    return (float *)r->act + (size_t)row * r->act_stride;
}

/* The product reads up to the next multiple of CPU_K_PAD. */
static void act_done(struct cpu_rank *r, uint32_t row, float *values, uint32_t n)
{
    uint32_t padded = (n + CPU_K_PAD - 1) / CPU_K_PAD * CPU_K_PAD;

    memset(values + n, 0, (padded - n) * sizeof(float));
    if (r->engine->bf16_activations)
        r->engine->kernels->round_bf16((uint16_t *)r->act + (size_t)row * r->act_stride, values,
                                       padded);
}

/* ---- row-wise parts ---- */

static void embed_row(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread)
{
    const struct engine_model_config *m = r->engine->config;
    size_t elem = r->engine->embedding_dtype == ENGINE_F32 ? 4 : 2;
    const uint8_t *src = (const uint8_t *)r->engine->embedding +
                         (size_t)r->engine->row_token[row] * m->hidden * elem;
    float *rope = r->rope + (size_t)row * m->head_dim;

    (void)arg, (void)thread;
    cpu_to_float(r->x + (size_t)row * m->hidden, src, r->engine->embedding_dtype, m->hidden);
    for (uint32_t i = 0; i < m->head_dim / 2; i++) {
        double angle = r->engine->row_position[row] * r->engine->inv_freq[i];

        rope[i] = (float)cos(angle);
        rope[m->head_dim / 2 + i] = (float)sin(angle);
    }
}

static void norm_row(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread)
{
    const float *weight = arg;
    uint32_t n = r->engine->config->hidden;
    float *dst = act_row(r, row, thread);

    r->engine->kernels->rmsnorm(dst, r->x + (size_t)row * n, weight, n,
                                r->engine->config->norm_eps);
    act_done(r, row, dst, n);
}

static void silu_row(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread)
{
    uint32_t n = r->shard.ffn.n;
    float *dst = act_row(r, row, thread);

    (void)arg;
    r->engine->kernels->silu_mul(dst, r->gate + (size_t)row * n, r->up + (size_t)row * n, n);
    act_done(r, row, dst, n);
}

static void attention_out_row(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread)
{
    uint32_t n = (uint32_t)q_width(r);
    float *dst = act_row(r, row, thread);

    (void)arg;
    memcpy(dst, r->att + (size_t)row * n, n * sizeof(float));
    act_done(r, row, dst, n);
}

/* Pairs are (i, i + head_dim / 2), as Hugging Face stores the weights. */
static void rotate(float *x, const float *rope, uint32_t head_dim)
{
    uint32_t half = head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];

        x[i] = a * rope[i] - b * rope[half + i];
        x[half + i] = b * rope[i] + a * rope[half + i];
    }
}

/* The rank's KV is part `rank` of every block; offsets in it count its own heads from 0. */
static size_t kv_block_bytes(const struct cpu_rank *r)
{
    return wire_kv_part_block_bytes(&r->engine->base.info.kv);
}

static uint8_t *kv_layer_base(const struct cpu_rank *r, uint32_t layer, uint32_t value)
{
    const struct engine *e = &r->engine->base;
    size_t bytes = kv_block_bytes(r) / e->info.kv.n_layers;

    return e->kv_base[r->shard.rank] + layer * bytes + value * (bytes / 2);
}

static size_t kv_head_bytes(const struct cpu_rank *r)
{
    return (size_t)r->engine->base.info.kv.block_tokens * r->engine->config->head_dim *
           sizeof(float);
}

static void store_row(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread)
{
    const struct engine_model_config *m = r->engine->config;
    uint32_t layer = *(const uint32_t *)arg, bt = r->engine->base.info.kv.block_tokens;
    const struct engine_slot *s = &r->engine->slots[r->spans[r->engine->row_span[row]].slot];
    uint32_t position = r->engine->row_position[row];
    size_t at = (size_t)s->blocks[position / bt] * kv_block_bytes(r) +
                (size_t)(position % bt) * m->head_dim * sizeof(float);
    const float *rope = r->rope + (size_t)row * m->head_dim;
    float *q = r->q + row * q_width(r), *k = r->k + row * kv_width(r);
    const float *v = r->v + row * kv_width(r);

    (void)thread;
    for (uint32_t h = 0; h < r->shard.heads.n; h++)
        rotate(q + (size_t)h * m->head_dim, rope, m->head_dim);
    for (uint32_t h = 0; h < r->shard.kv_heads.n; h++) {
        size_t head = at + h * kv_head_bytes(r), from = (size_t)h * m->head_dim;

        rotate(k + from, rope, m->head_dim);
        memcpy(kv_layer_base(r, layer, 0) + head, k + from, m->head_dim * sizeof(float));
        memcpy(kv_layer_base(r, layer, 1) + head, v + from, m->head_dim * sizeof(float));
    }
}

/* ---- attention ---- */

/* One job: as many tokens of one slot and as many heads that share one KV head as fit. */
static uint32_t heads_per_job(const struct cpu_rank *r)
{
    uint32_t group = r->engine->config->n_heads / r->engine->config->n_kv_heads;

    return group < CPU_ATTEND_ROWS ? group : CPU_ATTEND_ROWS;
}

static uint32_t tokens_per_job(const struct cpu_rank *r)
{
    return CPU_ATTEND_ROWS / heads_per_job(r);
}

/* Long spans first within a slot, from the end: late tokens see the most keys, and the loop ends
 * evenly if the short jobs come last. */
static uint32_t list_jobs(struct cpu_rank *r)
{
    uint32_t group = r->engine->config->n_heads / r->engine->config->n_kv_heads;
    uint32_t tokens = tokens_per_job(r), heads = heads_per_job(r), n = 0;

    for (uint32_t s = 0; s < r->n_spans; s++) {
        for (uint32_t t = (r->spans[s].n_tokens + tokens - 1) / tokens; t-- > 0;) {
            for (uint32_t g = 0; g < r->shard.kv_heads.n; g++) {
                for (uint32_t h = 0; h < group; h += heads)
                    r->jobs[n++] = (struct cpu_attend_job){s, g, g * group + h, t * tokens};
            }
        }
    }
    return n;
}

struct attend_loop {
    struct cpu_rank *r;
    uint32_t layer;
};

static void attend_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct attend_loop *l = arg;
    struct cpu_rank *r = l->r;
    const struct engine_model_config *m = r->engine->config;
    const struct cpu_attend_job *job = &r->jobs[task];
    const struct cpu_span *span = &r->spans[job->span];
    uint32_t group = m->n_heads / m->n_kv_heads;
    uint32_t tokens = tokens_per_job(r), heads = heads_per_job(r);
    uint32_t heads_left = (job->kv_head + 1) * group - job->first_head;
    uint32_t tokens_left = span->n_tokens - job->first_token;
    size_t at = (span->row + job->first_token) * q_width(r) + (size_t)job->first_head * m->head_dim;
    struct cpu_attend a = {
        .q = r->q + at,
        .out = r->att + at,
        .ldq = q_width(r),
        .n_tokens = tokens_left < tokens ? tokens_left : tokens,
        .n_heads = heads_left < heads ? heads_left : heads,
        .position = span->position + job->first_token,
        .head_dim = m->head_dim,
        .k = kv_layer_base(r, l->layer, 0) + job->kv_head * kv_head_bytes(r),
        .v = kv_layer_base(r, l->layer, 1) + job->kv_head * kv_head_bytes(r),
        .blocks = r->engine->slots[span->slot].blocks,
        .block_tokens = r->engine->base.info.kv.block_tokens,
        .block_bytes = kv_block_bytes(r),
        .scale = 1.0f / sqrtf((float)m->head_dim),
        .scratch = r->thread_attend + thread * r->attend_stride,
    };

    r->engine->kernels->attend(&a);
}

/* ---- layers ---- */

/* Keep only the last row of each sampled slot.  false: there is none. */
static bool keep_sampled_rows(struct cpu_rank *r)
{
    const struct cpu_engine *c = r->engine;
    size_t hidden = c->config->hidden, q = q_width(r);
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_spans; i++) {
        size_t row = c->spans[i].row + c->spans[i].n_tokens - 1;

        if (!c->slots[c->spans[i].slot].sample)
            continue;
        memmove(r->x + n * hidden, r->x + row * hidden, hidden * sizeof(float));
        memmove(r->q + n * q, r->q + row * q, q * sizeof(float));
        n++;
    }
    r->spans = c->sampled;
    r->n_spans = c->n_sampled;
    r->n_rows = n;
    return n > 0;
}

static void add_row(struct cpu_rank *r, const void *arg, uint32_t row, uint32_t thread)
{
    size_t n = r->engine->config->hidden;
    float *x = r->x + row * n;
    const float *part = r->part + row * n;

    (void)arg, (void)thread;
    for (size_t i = 0; i < n; i++)
        x[i] += part[i];
}

/* x += activations * m, of which each rank has a share of the inputs. */
static enum err add_product(struct cpu_rank *r, const struct cpu_matrix *m)
{
    size_t hidden = r->engine->config->hidden;
    const struct gemm_out alone = {m, r->x, hidden, true}, share = {m, r->part, hidden, false};
    enum err err;

    if (r->engine->tp == 1) {
        multiply(r, &alone, 1, r->n_rows);
        return ERR_OK;
    }
    multiply(r, &share, 1, r->n_rows);
    err = tp_all_reduce(r->engine->comm, r->shard.rank, r->part, r->n_rows * hidden);
    if (err == ERR_OK)
        for_rows(r, add_row, NULL);
    return err;
}

static void run_keys_values(struct cpu_rank *r, uint32_t layer)
{
    const struct cpu_layer *l = &r->layers[layer];
    const struct gemm_out outs[] = {{&l->q, r->q, q_width(r), false},
                                    {&l->k, r->k, kv_width(r), false},
                                    {&l->v, r->v, kv_width(r), false}};

    for_rows(r, norm_row, l->attention_norm);
    multiply(r, outs, 3, r->n_rows);
    for_rows(r, store_row, &layer);
}

static enum err run_rest(struct cpu_rank *r, uint32_t layer)
{
    const struct cpu_layer *l = &r->layers[layer];
    struct attend_loop loop = {r, layer};
    size_t ffn = r->shard.ffn.n;
    const struct gemm_out gate_up[] = {{&l->gate, r->gate, ffn, false},
                                       {&l->up, r->up, ffn, false}};
    enum err err;

    cpu_pool_run(r->pool, attend_task, &loop, list_jobs(r));
    for_rows(r, attention_out_row, NULL);
    err = add_product(r, &l->o);
    if (err != ERR_OK)
        return err;
    for_rows(r, norm_row, l->mlp_norm);
    multiply(r, gate_up, 2, r->n_rows);
    for_rows(r, silu_row, NULL);
    return add_product(r, &l->down);
}

/* ---- sampling ---- */

struct sample_loop {
    struct cpu_rank *r;
    float *logits; /* of row `first` and the rows behind it */
    uint32_t first;
};

static void sample_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct sample_loop *l = arg;
    const struct cpu_engine *c = l->r->engine;
    size_t vocab = c->config->vocab;
    float *logits = l->logits + task * vocab;
    uint32_t slot = l->r->spans[l->first + task].slot;
    struct engine_slot *s = &c->slots[slot];

    if (c->watch != NULL)
        memcpy(c->watch + slot * vocab, logits, vocab * sizeof(float));
    engine_sample(logits, c->config->vocab, s->sampling, s->history, s->sample_index,
                  l->r->thread_sample + thread * l->r->sample_stride, &s->out);
}

static void shift_act(struct cpu_rank *r, uint32_t first, uint32_t n)
{
    size_t elem = r->engine->bf16_activations ? sizeof(uint16_t) : sizeof(float);
    size_t bytes = r->act_stride * elem;

    memmove(r->act, (uint8_t *)r->act + first * bytes, n * bytes);
}

/* The logits of n rows from `first` on, once each rank has computed its columns of them; each samples
 * its share of the rows. */
static enum err sample_share(struct cpu_rank *r, uint32_t first, uint32_t n)
{
    uint32_t share = (n + r->engine->tp - 1) / r->engine->tp;
    uint32_t from = share * r->shard.rank < n ? share * r->shard.rank : n;
    uint32_t count = n - from < share ? n - from : share;
    const struct tp_piece mine = {r->logits, r->shard.vocab.n};
    struct sample_loop loop = {r, r->logits, first + from};

    if (r->engine->tp > 1) {
        enum err err =
            tp_all_gather(r->engine->comm, r->shard.rank, mine, from, count, r->gathered);

        if (err != ERR_OK)
            return err;
        loop.logits = r->gathered;
    }
    cpu_pool_run(r->pool, sample_task, &loop, count);
    return ERR_OK;
}

static enum err sample_rows(struct cpu_rank *r)
{
    const uint32_t most = r->engine->logit_rows;
    const struct gemm_out out = {&r->head, r->logits, r->shard.vocab.n, false};
    enum err err = ERR_OK;

    for_rows(r, norm_row, r->engine->final_norm);
    for (uint32_t first = 0; first < r->n_rows && err == ERR_OK; first += most) {
        uint32_t n = r->n_rows - first < most ? r->n_rows - first : most;

        if (first > 0) /* products read from row 0 */
            shift_act(r, most, r->n_rows - first);
        multiply(r, &out, 1, n);
        err = sample_share(r, first, n);
    }
    return err;
}

/* ---- the step ---- */

/* Layers are finished when every rank has stored its heads of them. */
static enum err report_layers(struct cpu_rank *r, const struct cpu_report *report, bool here,
                              uint32_t first, uint32_t n)
{
    enum err err = ERR_OK;

    if (report->fn == NULL)
        return ERR_OK;
    if (r->engine->tp > 1)
        err = tp_barrier(r->engine->comm, r->shard.rank);
    if (err == ERR_OK && here)
        report->fn(report->arg, first, n, 0);
    return err;
}

enum err cpu_rank_step(struct cpu_rank *r, const struct cpu_report *report, bool here)
{
    uint32_t n_layers = r->engine->config->n_layers, first = 0;
    enum err err = ERR_OK;

    r->n_rows = r->engine->n_rows;
    r->spans = r->engine->spans;
    r->n_spans = r->engine->n_spans;
    for_rows(r, embed_row, NULL);
    for (uint32_t i = 0; i < n_layers && err == ERR_OK; i++) {
        run_keys_values(r, i);
        if (i + 1 - first == report->group_layers || i + 1 == n_layers) {
            err = report_layers(r, report, here, first, i + 1 - first);
            first = i + 1;
        }
        if (err == ERR_OK && i + 1 == n_layers && !keep_sampled_rows(r))
            return ERR_OK;
        if (err == ERR_OK)
            err = run_rest(r, i);
    }
    return err == ERR_OK ? sample_rows(r) : err;
}
