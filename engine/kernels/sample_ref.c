/* engine/kernels/sample_ref.c - sampling by its definition: edit, sort, cut, walk. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/engine_philox.h"
#include "engine/engine_sample_math.h"
#include "engine/kernels/sample.h"

struct ranked {
    uint64_t key; /* larger logit first, then lower id */
    uint64_t weight;
    uint32_t id;
};

static int by_key(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    return x->key > y->key ? -1 : x->key < y->key;
}

static int by_id(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static void edit(float *logits, uint32_t vocab, const struct sample_row *row,
                 const struct sample_edit *e)
{
    uint32_t n = row->n_history + row->n_bias + row->n_bans;

    for (uint32_t i = 0; i < n; i++) {
        float *l = &logits[e[i].token];

        if ((uint32_t)e[i].token >= vocab)
            continue;
        if (i >= row->n_history + row->n_bias) {
            *l = -INFINITY;
        } else if (i >= row->n_history) {
            *l += e[i].value;
        } else {
            *l = *l > 0 ? *l / row->repetition_penalty : *l * row->repetition_penalty;
            *l -= e[i].value;
        }
    }
}

/* r[0 .. n) in falling order, n > 0: how many of them the filters leave. */
static uint32_t cut(struct ranked *r, uint32_t n, const struct sample_row *row)
{
    uint64_t total = 0, sum = 0, target;
    uint32_t kept = 0;

    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    for (uint32_t i = 0; i < n; i++)
        total += r[i].weight;
    target = row->share != 0 ? engine_share_of(total, row->share) : total;
    while (kept < n && sum < target)
        sum += r[kept++].weight;
    for (uint32_t i = 0; i < kept; i++)
        r[i].weight = r[i].weight >= row->least ? r[i].weight : 0;
    return kept;
}

static int32_t walk(const struct ranked *r, uint32_t n, uint64_t random)
{
    uint64_t total = 0, left;
    uint32_t i = 0;

    for (uint32_t j = 0; j < n; j++)
        total += r[j].weight;
    left = engine_mul_high(random, total);
    while (left >= r[i].weight)
        left -= r[i++].weight;
    return (int32_t)r[i].id;
}

int32_t sample_ref(float *logits, uint32_t vocab, const struct sample_row *row,
                   const struct sample_edit *edits)
{
    struct ranked *r = mem_try_calloc(vocab, sizeof(*r));
    uint32_t n = 0;
    int32_t token = row->fallback;

    if (r == NULL || row->mode == SAMPLE_SKIP) {
        mem_free(r);
        return -1;
    }
    if (edits != NULL)
        edit(logits, vocab, row, edits + row->first_edit);
    for (uint32_t id = 0; id < vocab; id++) {
        float l = logits[id] > FLT_MAX ? FLT_MAX : logits[id];

        if (l > -INFINITY)
            r[n++] = (struct ranked){(uint64_t)engine_rank(l) << 32 | (uint32_t)~id, 0, id};
    }
    qsort(r, n, sizeof(*r), by_key);
    if (n > 0)
        token = (int32_t)r[0].id;
    if (n > 0 && row->mode == SAMPLE_DRAW) {
        float max = logits[r[0].id] > FLT_MAX ? FLT_MAX : logits[r[0].id];

        for (uint32_t i = 0; i < n; i++) {
            float l = logits[r[i].id] > FLT_MAX ? FLT_MAX : logits[r[i].id];

            r[i].weight = engine_weight(l, max, row->scale);
        }
        n = cut(r, n, row);
        qsort(r, n, sizeof(*r), by_id);
        token = walk(r, n, engine_philox_draw(row->seed, row->sample_index));
    }
    mem_free(r);
    return token;
}
