/* engine/engine_params.c - see the header for the contract. */
#include "engine/engine_params.h"

#include <string.h>

#include "base/mem.h"

static enum err copy_arrays(struct engine_params *p, const Baton__Sampling *m)
{
    struct engine_sampling *s = &p->sampling;

    s->n_stop_ids = wire_u32_count(&m->stop_ids);
    s->n_bias = (uint32_t)m->n_bias;
    if (s->n_stop_ids > 0) {
        p->stop_ids = mem_try_calloc(s->n_stop_ids, sizeof(*p->stop_ids));
        if (p->stop_ids == NULL)
            return ERR_NOMEM;
    }
    if (s->n_bias > 0) {
        p->bias = mem_try_calloc(s->n_bias, sizeof(*p->bias));
        if (p->bias == NULL)
            return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < s->n_stop_ids; i++)
        p->stop_ids[i] = (int32_t)wire_u32_at(&m->stop_ids, i);
    for (uint32_t i = 0; i < s->n_bias; i++)
        p->bias[i] = (struct engine_bias){(int32_t)m->bias[i]->token, m->bias[i]->value};
    s->stop_ids = p->stop_ids;
    s->bias = p->bias;
    return ERR_OK;
}

enum err engine_params_read(struct engine_params *p, const Baton__Sampling *m, uint32_t vocab,
                            struct err_msg *msg)
{
    struct engine_sampling *s = &p->sampling;
    enum err err;

    s->temperature = m->temperature;
    s->top_p = m->top_p;
    s->min_p = m->min_p;
    s->top_k = m->top_k;
    s->repetition_penalty = m->repetition_penalty;
    s->presence_penalty = m->presence_penalty;
    s->frequency_penalty = m->frequency_penalty;
    s->seed = m->seed;
    s->want_logprobs = m->want_logprobs;
    s->n_top = m->n_top;
    s->min_tokens = m->min_tokens;
    err = copy_arrays(p, m);
    if (err == ERR_NOMEM)
        err_set(msg, ERR_NOMEM, "no memory for the sampling parameters");
    if (err == ERR_OK)
        err = engine_sampling_check(s, vocab, msg);
    if (err != ERR_OK)
        engine_params_free(p);
    return err;
}

void engine_params_free(struct engine_params *p)
{
    mem_free(p->stop_ids);
    mem_free(p->bias);
    memset(p, 0, sizeof(*p));
}

enum engine_finish engine_params_finish(const struct engine_params *p, int32_t token,
                                        uint32_t index, uint32_t max_new)
{
    const struct engine_sampling *s = &p->sampling;

    for (uint32_t i = 0; i < s->n_stop_ids; i++) {
        if (s->stop_ids[i] == token && (uint64_t)index + 1 >= s->min_tokens)
            return ENGINE_FINISH_STOP;
    }
    return (uint64_t)index + 1 >= max_new ? ENGINE_FINISH_LENGTH : ENGINE_FINISH_NO;
}

enum err engine_params_tokens(const ProtobufCBinaryData *bytes, uint32_t vocab, int32_t *out)
{
    uint32_t n = wire_u32_count(bytes);

    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = wire_u32_at(bytes, i);

        if (token >= vocab)
            return ERR_INVALID;
        out[i] = (int32_t)token;
    }
    return ERR_OK;
}
