/* engine/cpu/cpu_forward.c - one step: the new tokens of all slots as the rows of one batch.
 *
 * Every product runs over the rows of all slots together, so a weight is read once per step; attention
 * runs per slot over its own blocks.  In the last layer, once the keys and values are stored, only the
 * rows that will be sampled go on.
 *
 *   x = embedding
 *   per layer: norm -> q k v -> rotate, store k v in the blocks -> [report] -> attention -> o, x +=
 *              norm -> gate up -> silu(gate) * up -> down, x +=
 *   norm -> logits -> sample */
#include "engine/cpu/cpu_engine.h"

#include <math.h>
#include <string.h>

enum { ROWS_PER_TASK = 8, GEMM_GRAIN = 8, GEMM_TASKS_PER_THREAD = 4, GEMM_OUTS = 3 };

/* ---- small helpers ---- */

static size_t q_width(const struct cpu_engine *c)
{
    return (size_t)c->config->n_heads * c->config->head_dim;
}

static size_t kv_width(const struct cpu_engine *c)
{
    return (size_t)c->config->n_kv_heads * c->config->head_dim;
}

typedef void (*row_fn)(struct cpu_engine *c, const void *arg, uint32_t row, uint32_t thread);

struct row_loop {
    struct cpu_engine *c;
    row_fn fn;
    const void *arg;
};

static void row_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct row_loop *l = arg;
    uint32_t first = task * ROWS_PER_TASK;
    uint32_t end = first + ROWS_PER_TASK < l->c->n_rows ? first + ROWS_PER_TASK : l->c->n_rows;

    for (uint32_t r = first; r < end; r++)
        l->fn(l->c, l->arg, r, thread);
}

static void for_rows(struct cpu_engine *c, row_fn fn, const void *arg)
{
    struct row_loop l = {c, fn, arg};

    cpu_pool_run(c->pool, row_task, &l, (c->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
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
static void multiply(struct cpu_engine *c, const struct gemm_out *outs, uint32_t n_outs,
                     uint32_t n_rows)
{
    struct gemm_job j = {.chunk = 0};
    uint32_t total = 0, tasks = cpu_pool_threads(c->pool) * GEMM_TASKS_PER_THREAD;

    for (uint32_t i = 0; i < n_outs; i++)
        total += outs[i].m->n;
    j.chunk = (total / tasks + GEMM_GRAIN) / GEMM_GRAIN * GEMM_GRAIN;
    if (cpu_pool_threads(c->pool) == 1)
        j.chunk = total;
    for (uint32_t i = 0; i < n_outs; i++) {
        const struct cpu_matrix *m = outs[i].m;

        j.g[i] = (struct cpu_gemm){.x = c->act,
                                   .ldx = c->act_stride,
                                   .m = n_rows,
                                   .k = m->k,
                                   .w = m->w,
                                   .out = outs[i].out,
                                   .ldo = outs[i].ldo,
                                   .bias = m->bias,
                                   .add = outs[i].add};
        j.fn[i] = m->gemm;
        j.n[i] = m->n;
        j.first_task[i + 1] = j.first_task[i] + (m->n + j.chunk - 1) / j.chunk;
    }
    cpu_pool_run(c->pool, gemm_task, &j, j.first_task[n_outs]);
}

/* Where a row of activations is written before the next product reads it: straight into `act`, or
 * into the thread's own buffer on the way to bf16.  The tail up to act_stride must be zero. */
static float *act_row(struct cpu_engine *c, uint32_t row, uint32_t thread)
{
    if (c->bf16_activations)
        return c->thread_tmp + (size_t)thread * c->tmp_stride;
    return (float *)c->act + (size_t)row * c->act_stride;
}

/* The product reads up to the next multiple of CPU_K_PAD. */
static void act_done(struct cpu_engine *c, uint32_t row, float *values, uint32_t n)
{
    uint32_t padded = (n + CPU_K_PAD - 1) / CPU_K_PAD * CPU_K_PAD;

    memset(values + n, 0, (padded - n) * sizeof(float));
    if (c->bf16_activations)
        c->kernels->round_bf16((uint16_t *)c->act + (size_t)row * c->act_stride, values, padded);
}

/* ---- row-wise parts ---- */

static void embed_row(struct cpu_engine *c, const void *arg, uint32_t row, uint32_t thread)
{
    const struct engine_model_config *m = c->config;
    size_t elem = c->embedding_dtype == ENGINE_F32 ? 4 : 2;
    const uint8_t *src =
        (const uint8_t *)c->embedding + (size_t)c->row_token[row] * m->hidden * elem;
    float *rope = c->rope + (size_t)row * m->head_dim;

    (void)arg, (void)thread;
    cpu_to_float(c->x + (size_t)row * m->hidden, src, c->embedding_dtype, m->hidden);
    for (uint32_t i = 0; i < m->head_dim / 2; i++) {
        double angle = c->row_position[row] * c->inv_freq[i];

        rope[i] = (float)cos(angle);
        rope[m->head_dim / 2 + i] = (float)sin(angle);
    }
}

static void norm_row(struct cpu_engine *c, const void *arg, uint32_t row, uint32_t thread)
{
    const float *weight = arg;
    uint32_t n = c->config->hidden;
    float *dst = act_row(c, row, thread);

    c->kernels->rmsnorm(dst, c->x + (size_t)row * n, weight, n, c->config->norm_eps);
    act_done(c, row, dst, n);
}

static void silu_row(struct cpu_engine *c, const void *arg, uint32_t row, uint32_t thread)
{
    uint32_t n = c->config->ffn;
    float *dst = act_row(c, row, thread);

    (void)arg;
    c->kernels->silu_mul(dst, c->gate + (size_t)row * n, c->up + (size_t)row * n, n);
    act_done(c, row, dst, n);
}

static void attention_out_row(struct cpu_engine *c, const void *arg, uint32_t row, uint32_t thread)
{
    uint32_t n = (uint32_t)q_width(c);
    float *dst = act_row(c, row, thread);

    (void)arg;
    memcpy(dst, c->att + (size_t)row * n, n * sizeof(float));
    act_done(c, row, dst, n);
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

static uint8_t *kv_layer_base(const struct cpu_engine *c, uint32_t layer, uint32_t value)
{
    size_t bytes = wire_kv_layer_bytes(&c->base.info.kv);

    return c->base.kv_base[0] + layer * bytes + value * (bytes / 2);
}

static size_t kv_head_bytes(const struct cpu_engine *c)
{
    return (size_t)c->base.info.kv.block_tokens * c->config->head_dim * sizeof(float);
}

static void store_row(struct cpu_engine *c, const void *arg, uint32_t row, uint32_t thread)
{
    const struct engine_model_config *m = c->config;
    uint32_t layer = *(const uint32_t *)arg, bt = c->base.info.kv.block_tokens;
    const struct engine_slot *s = &c->slots[c->spans[c->row_span[row]].slot];
    uint32_t position = c->row_position[row];
    size_t at = (size_t)s->blocks[position / bt] * wire_kv_block_bytes(&c->base.info.kv) +
                (size_t)(position % bt) * m->head_dim * sizeof(float);
    const float *rope = c->rope + (size_t)row * m->head_dim;
    float *q = c->q + row * q_width(c), *k = c->k + row * kv_width(c);
    const float *v = c->v + row * kv_width(c);

    (void)thread;
    for (uint32_t h = 0; h < m->n_heads; h++)
        rotate(q + (size_t)h * m->head_dim, rope, m->head_dim);
    for (uint32_t h = 0; h < m->n_kv_heads; h++) {
        size_t head = at + h * kv_head_bytes(c), from = (size_t)h * m->head_dim;

        rotate(k + from, rope, m->head_dim);
        memcpy(kv_layer_base(c, layer, 0) + head, k + from, m->head_dim * sizeof(float));
        memcpy(kv_layer_base(c, layer, 1) + head, v + from, m->head_dim * sizeof(float));
    }
}

/* ---- attention ---- */

/* One job: as many tokens of one slot and as many heads that share one KV head as fit. */
static uint32_t heads_per_job(const struct cpu_engine *c)
{
    uint32_t group = c->config->n_heads / c->config->n_kv_heads;

    return group < CPU_ATTEND_ROWS ? group : CPU_ATTEND_ROWS;
}

static uint32_t tokens_per_job(const struct cpu_engine *c)
{
    return CPU_ATTEND_ROWS / heads_per_job(c);
}

/* Long spans first within a slot, from the end: late tokens see the most keys, and the loop ends
 * evenly if the short jobs come last. */
static uint32_t list_jobs(struct cpu_engine *c)
{
    uint32_t group = c->config->n_heads / c->config->n_kv_heads;
    uint32_t tokens = tokens_per_job(c), heads = heads_per_job(c), n = 0;

    for (uint32_t s = 0; s < c->n_spans; s++) {
        for (uint32_t t = (c->spans[s].n_tokens + tokens - 1) / tokens; t-- > 0;) {
            for (uint32_t g = 0; g < c->config->n_kv_heads; g++) {
                for (uint32_t h = 0; h < group; h += heads)
                    c->jobs[n++] = (struct cpu_attend_job){s, g, g * group + h, t * tokens};
            }
        }
    }
    return n;
}

struct attend_loop {
    struct cpu_engine *c;
    uint32_t layer;
};

static void attend_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct attend_loop *l = arg;
    struct cpu_engine *c = l->c;
    const struct engine_model_config *m = c->config;
    const struct cpu_attend_job *job = &c->jobs[task];
    const struct cpu_span *span = &c->spans[job->span];
    uint32_t group = m->n_heads / m->n_kv_heads;
    uint32_t tokens = tokens_per_job(c), heads = heads_per_job(c);
    uint32_t heads_left = (job->kv_head + 1) * group - job->first_head;
    uint32_t tokens_left = span->n_tokens - job->first_token;
    size_t at = (span->row + job->first_token) * q_width(c) + (size_t)job->first_head * m->head_dim;
    struct cpu_attend a = {
        .q = c->q + at,
        .out = c->att + at,
        .ldq = q_width(c),
        .n_tokens = tokens_left < tokens ? tokens_left : tokens,
        .n_heads = heads_left < heads ? heads_left : heads,
        .position = span->position + job->first_token,
        .head_dim = m->head_dim,
        .k = kv_layer_base(c, l->layer, 0) + job->kv_head * kv_head_bytes(c),
        .v = kv_layer_base(c, l->layer, 1) + job->kv_head * kv_head_bytes(c),
        .blocks = c->slots[span->slot].blocks,
        .block_tokens = c->base.info.kv.block_tokens,
        .block_bytes = wire_kv_block_bytes(&c->base.info.kv),
        .scale = 1.0f / sqrtf((float)m->head_dim),
        .scratch = c->thread_attend + thread * c->attend_stride,
    };

    c->kernels->attend(&a);
}

/* ---- layers ---- */

/* Keep only the last row of each sampled slot.  false: none is left. */
static bool keep_sampled_rows(struct cpu_engine *c)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_spans; i++) {
        struct cpu_span s = c->spans[i];
        uint32_t row = s.row + s.n_tokens - 1;

        if (!c->slots[s.slot].sample)
            continue;
        memmove(c->x + (size_t)n * c->config->hidden, c->x + (size_t)row * c->config->hidden,
                c->config->hidden * sizeof(float));
        memmove(c->q + n * q_width(c), c->q + row * q_width(c), q_width(c) * sizeof(float));
        c->spans[n] = (struct cpu_span){s.slot, n, 1, s.position + s.n_tokens - 1};
        n++;
    }
    c->n_spans = n;
    c->n_rows = n;
    return n > 0;
}

static void run_keys_values(struct cpu_engine *c, uint32_t layer)
{
    const struct cpu_layer *l = &c->layers[layer];
    const struct gemm_out outs[] = {{&l->q, c->q, q_width(c), false},
                                    {&l->k, c->k, kv_width(c), false},
                                    {&l->v, c->v, kv_width(c), false}};

    for_rows(c, norm_row, l->attention_norm);
    multiply(c, outs, 3, c->n_rows);
    for_rows(c, store_row, &layer);
}

static void run_rest(struct cpu_engine *c, uint32_t layer)
{
    const struct cpu_layer *l = &c->layers[layer];
    struct attend_loop loop = {c, layer};
    size_t hidden = c->config->hidden, ffn = c->config->ffn;
    const struct gemm_out o = {&l->o, c->x, hidden, true};
    const struct gemm_out gate_up[] = {{&l->gate, c->gate, ffn, false},
                                       {&l->up, c->up, ffn, false}};
    const struct gemm_out down = {&l->down, c->x, hidden, true};

    cpu_pool_run(c->pool, attend_task, &loop, list_jobs(c));
    for_rows(c, attention_out_row, NULL);
    multiply(c, &o, 1, c->n_rows);
    for_rows(c, norm_row, l->mlp_norm);
    multiply(c, gate_up, 2, c->n_rows);
    for_rows(c, silu_row, NULL);
    multiply(c, &down, 1, c->n_rows);
}

/* ---- sampling ---- */

struct sample_loop {
    struct cpu_engine *c;
    uint32_t first;
};

static void sample_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct sample_loop *l = arg;
    struct cpu_engine *c = l->c;
    size_t vocab = c->config->vocab;
    float *logits = c->logits + task * vocab;
    uint32_t slot = c->spans[l->first + task].slot;
    struct engine_slot *s = &c->slots[slot];

    if (c->watch != NULL)
        memcpy(c->watch + slot * vocab, logits, vocab * sizeof(float));
    engine_sample(logits, c->config->vocab, s->sampling, s->history, s->sample_index,
                  c->thread_sample + thread * c->sample_stride, &s->out);
}

static void shift_act(struct cpu_engine *c, uint32_t first, uint32_t n)
{
    size_t bytes = c->act_stride * (c->bf16_activations ? sizeof(uint16_t) : sizeof(float));

    memmove(c->act, (uint8_t *)c->act + first * bytes, n * bytes);
}

static void sample_rows(struct cpu_engine *c)
{
    for_rows(c, norm_row, c->final_norm);
    for (uint32_t first = 0; first < c->n_rows; first += c->logit_rows) {
        uint32_t n = c->n_rows - first < c->logit_rows ? c->n_rows - first : c->logit_rows;
        const struct gemm_out out = {&c->head, c->logits, c->config->vocab, false};
        struct sample_loop loop = {c, first};

        if (first > 0) /* products read from row 0 */
            shift_act(c, c->logit_rows, c->n_rows - first);
        multiply(c, &out, 1, n);
        cpu_pool_run(c->pool, sample_task, &loop, n);
    }
}

/* ---- the step ---- */

void cpu_engine_watch_logits(struct engine *e, float *dst)
{
    ((struct cpu_engine *)e)->watch = dst;
}

static void list_rows(struct cpu_engine *c, struct engine_slot *slots, uint32_t n)
{
    c->slots = slots;
    c->n_rows = 0;
    c->n_spans = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct engine_slot *s = &slots[i];

        if (s->result != ERR_OK)
            continue;
        c->spans[c->n_spans] = (struct cpu_span){i, c->n_rows, s->n_tokens, s->position};
        for (uint32_t t = 0; t < s->n_tokens; t++) {
            c->row_token[c->n_rows] = s->tokens[t];
            c->row_position[c->n_rows] = s->position + t;
            c->row_span[c->n_rows++] = c->n_spans;
        }
        c->n_spans++;
    }
}

enum err cpu_engine_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                         uint32_t group_layers, engine_layers_fn layers_done, void *arg)
{
    struct cpu_engine *c = (struct cpu_engine *)e;
    uint32_t n_layers = c->config->n_layers, group_first = 0;

    list_rows(c, slots, n);
    for_rows(c, embed_row, NULL);
    for (uint32_t i = 0; i < n_layers; i++) {
        run_keys_values(c, i);
        if (layers_done != NULL && (i + 1 - group_first == group_layers || i + 1 == n_layers))
            layers_done(arg, group_first, i + 1 - group_first, 0);
        if (i + 1 - group_first == group_layers)
            group_first = i + 1;
        if (i + 1 == n_layers && !keep_sampled_rows(c))
            return ERR_OK;
        run_rest(c, i);
    }
    sample_rows(c);
    return ERR_OK;
}
