/* engine/kernels/sample_row.c - what the GPU's sampler is told of a row.  Built without contraction, as
 * engine_sample.c is: the penalty of a token is rounded here as it is there. */
#include "engine/engine_history.h"
#include "engine/engine_sample_math.h"
#include "engine/kernels/sample.h"

/* Penalties that change nothing are left out: with no repetition penalty, tokens of the prompt alone. */
static bool counts(const struct engine_sampling *s, const struct engine_history_entry *e,
                   uint32_t vocab)
{
    return (uint32_t)e->token < vocab && (e->n_output > 0 || s->repetition_penalty != 1.0f);
}

static float taken_off(const struct engine_sampling *s, const struct engine_history_entry *e)
{
    if (e->n_output == 0)
        return 0;
    return s->presence_penalty + s->frequency_penalty * (float)e->n_output;
}

static bool add_edit(struct sample_edit *edits, uint32_t *n, uint32_t n_max, int32_t token,
                     float value)
{
    if (*n >= n_max)
        return false;
    edits[(*n)++] = (struct sample_edit){token, value};
    return true;
}

static bool add_edits(struct sample_row *row, const struct engine_sampling *s,
                      const struct engine_history *h, uint32_t vocab, struct sample_edit *edits,
                      uint32_t *n, uint32_t n_max)
{
    size_t n_entries = h != NULL && engine_sampling_uses_history(s) ? h->n : 0;
    uint32_t from = *n;

    for (size_t i = 0; i < n_entries; i++) {
        const struct engine_history_entry *e = &h->entries[i];

        if (counts(s, e, vocab) && !add_edit(edits, n, n_max, e->token, taken_off(s, e)))
            return false;
    }
    row->n_history = *n - from;
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if (!add_edit(edits, n, n_max, s->bias[i].token, s->bias[i].bias))
            return false;
    }
    row->n_bias = s->n_bias;
    if (!engine_sampling_bans_stops(s, row->sample_index))
        return true;
    for (uint32_t i = 0; i < s->n_stop_ids; i++) {
        if (!add_edit(edits, n, n_max, s->stop_ids[i], 0))
            return false;
    }
    row->n_bans = s->n_stop_ids;
    return true;
}

bool sample_row_make(struct sample_row *row, const struct engine_sampling *s,
                     const struct engine_history *h, uint32_t sample_index, uint32_t vocab,
                     struct sample_edit *edits, uint32_t *n, uint32_t n_max)
{
    uint32_t first = *n;

    *row = (struct sample_row){
        .sample_index = sample_index,
        .seed = s->seed,
        .repetition_penalty = s->repetition_penalty,
        .fallback = engine_sampling_fallback(s, vocab, sample_index),
        .first_edit = first,
    };
    if (s->want_logprobs || !add_edits(row, s, h, vocab, edits, n, n_max)) {
        *n = first;
        *row = (struct sample_row){.mode = SAMPLE_SKIP};
        return false;
    }
    if (!(s->temperature >= ENGINE_GREEDY_BELOW)) {
        row->mode = SAMPLE_GREEDY;
        return true;
    }
    row->mode = SAMPLE_DRAW;
    row->scale = ENGINE_LOG2_E / s->temperature;
    row->top_k = s->top_k > 0 ? (uint32_t)s->top_k : 0;
    row->share = engine_share(s->top_p);
    row->least = engine_least(s->min_p);
    return true;
}
