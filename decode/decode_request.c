/* decode/decode_request.c - see the header. */
#include "decode/decode_request.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"

static const uint64_t handover_default_ns = 30 * CLOCK_NS_PER_S;
static const uint64_t handover_most_ns = 600 * CLOCK_NS_PER_S;

const char *decode_state_name(enum decode_state s)
{
    switch (s) {
#define X(NAME)         \
    case DECODE_##NAME: \
        return #NAME;
        DECODE_STATE_MAP(X)
#undef X
    }
    return "?";
}

#define TO(NAME) (1u << DECODE_##NAME)
static const unsigned legal[] = {
    [DECODE_WAITING] = TO(GRANTED) | TO(COMPUTING) | TO(LEAVING) | TO(QUARANTINED),
    [DECODE_GRANTED] = TO(RUNNING) | TO(LEAVING) | TO(QUARANTINED),
    [DECODE_COMPUTING] = TO(RUNNING) | TO(LEAVING) | TO(QUARANTINED),
    [DECODE_RUNNING] = TO(LEAVING) | TO(QUARANTINED),
    [DECODE_LEAVING] = TO(QUARANTINED),
    [DECODE_QUARANTINED] = 0,
};
#undef TO

bool decode_request_set_state(struct decode_request *r, enum decode_state to)
{
    if ((legal[r->state] & 1u << to) == 0) {
        LOG_ERROR("decode", "illegal state change", "req=%" PRIx64 " epoch=%u %s -> %s",
                  r->at.request, r->at.epoch, decode_state_name(r->state), decode_state_name(to));
        return false;
    }
    LOG_DEBUG("decode", "state", "req=%" PRIx64 " epoch=%u %s -> %s", r->at.request, r->at.epoch,
              decode_state_name(r->state), decode_state_name(to));
    r->state = to;
    return true;
}

/* What both messages say of a request. */
struct facts {
    uint64_t request, deadline_ns;
    uint32_t epoch, frontend, n_tokens, n_prompt, max_new;
    const Baton__Terms *terms;
    const Baton__Sampling *sampling;
    const ProtobufCBinaryData *tokens;
};

static enum err check(const struct facts *m, const struct engine_info *info, uint32_t n_blocks,
                      struct err_msg *msg)
{
    uint64_t end = (uint64_t)m->n_prompt + m->max_new;
    uint64_t blocks = (end + info->kv.block_tokens - 1) / info->kv.block_tokens;

    if (end > info->max_context)
        return err_set(msg, ERR_INVALID, "%" PRIu64 " tokens, this worker's context holds %u", end,
                       info->max_context);
    if (m->n_tokens >= end)
        return err_set(msg, ERR_INVALID, "%u tokens after a prompt of %u leave none of %u",
                       m->n_tokens, m->n_prompt, m->max_new);
    if (blocks > n_blocks)
        return err_set(msg, ERR_LIMIT, "up to %" PRIu64 " blocks are needed, this worker has %u",
                       blocks, n_blocks);
    return ERR_OK;
}

static void fill_terms(struct decode_request *r, const Baton__Terms *t, uint64_t now)
{
    if (t == NULL)
        return;
    r->run.tier = t->tier;
    r->run.tbt_ns = t->tbt_ns;
    r->run.due_ns = (int64_t)now + t->first_deadline_ns;
    r->run.has_terms = true;
}

static enum err fill_tokens(struct decode_request *r, const struct facts *m,
                            const struct engine_info *info, struct err_msg *msg)
{
    if (!r->local && !engine_sampling_uses_history(&r->params.sampling))
        return ERR_OK;
    if (wire_u32_count(m->tokens) != m->n_tokens)
        return err_set(msg, ERR_INVALID, "a penalty needs the tokens, which did not come");
    r->tokens = mem_try_calloc(m->n_tokens, sizeof(*r->tokens));
    if (r->tokens == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    if (engine_params_tokens(m->tokens, info->vocab, r->tokens) != ERR_OK)
        return err_set(msg, ERR_INVALID, "a token is outside the vocabulary of %u", info->vocab);
    r->run.known = r->tokens;
    return ERR_OK;
}

static enum err fill(struct decode_request *r, const struct facts *m,
                     const struct engine_info *info, struct err_msg *msg)
{
    uint64_t now = clock_now_ns();
    uint64_t limit = m->deadline_ns != 0 ? m->deadline_ns : handover_default_ns;
    uint64_t end = (uint64_t)m->n_prompt + m->max_new;
    enum err err;

    r->at.request = m->request;
    r->at.epoch = m->epoch;
    r->frontend = m->frontend;
    r->arrived_ns = now;
    r->deadline_ns = now + (limit < handover_most_ns ? limit : handover_most_ns);
    r->block_state = r->local ? ENGINE_BLOCK_OWNED : ENGINE_BLOCK_GRANTED;
    r->run.params = &r->params;
    r->run.local = r->local;
    r->run.n_tokens = m->n_tokens;
    r->run.n_prompt = m->n_prompt;
    r->run.max_new = m->max_new;
    fill_terms(r, m->terms, now);
    r->run.blocks =
        mem_try_calloc((size_t)((end + info->kv.block_tokens - 1) / info->kv.block_tokens),
                       sizeof(*r->run.blocks));
    if (r->run.blocks == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    err = engine_params_read(&r->params, m->sampling, info->vocab, msg);
    return err == ERR_OK ? fill_tokens(r, m, info, msg) : err;
}

static enum err create(const struct facts *m, bool local, const struct engine_info *info,
                       uint32_t n_blocks, struct err_msg *msg, struct decode_request **out)
{
    struct decode_request *r;
    enum err err = check(m, info, n_blocks, msg);

    if (err != ERR_OK)
        return err;
    r = mem_try_calloc(1, sizeof(*r));
    if (r == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    r->local = local;
    err = fill(r, m, info, msg);
    if (err != ERR_OK) {
        decode_request_destroy(r);
        return err;
    }
    *out = r;
    return ERR_OK;
}

enum err decode_request_from_reserve(const Baton__Reserve *m, const struct engine_info *info,
                                     uint32_t n_blocks, struct err_msg *msg,
                                     struct decode_request **out)
{
    struct facts f = {.request = m->request,
                      .epoch = m->epoch,
                      .frontend = m->frontend,
                      .n_tokens = m->n_tokens,
                      .n_prompt = m->n_prompt,
                      .max_new = m->max_new,
                      .deadline_ns = m->deadline_ns,
                      .terms = m->terms,
                      .sampling = m->sampling,
                      .tokens = &m->tokens};
    enum err err = create(&f, false, info, n_blocks, msg, out);

    if (err == ERR_OK)
        (*out)->prefill_worker = m->prefill_worker;
    return err;
}

enum err decode_request_from_prefill(const Baton__Prefill *m, const struct engine_info *info,
                                     uint32_t n_blocks, struct err_msg *msg,
                                     struct decode_request **out)
{
    struct facts f = {.request = m->request,
                      .epoch = m->epoch,
                      .frontend = m->frontend,
                      .n_tokens = wire_u32_count(&m->tokens),
                      .n_prompt = m->n_prompt,
                      .max_new = m->max_new,
                      .deadline_ns = m->deadline_ns,
                      .terms = m->terms,
                      .sampling = m->sampling,
                      .tokens = &m->tokens};
    enum err err = create(&f, true, info, n_blocks, msg, out);

    if (err == ERR_OK)
        (*out)->one_only = m->decode_worker == 0;
    return err;
}

void decode_request_destroy(struct decode_request *r)
{
    decode_run_clear(&r->run);
    engine_params_free(&r->params);
    mem_free(r->run.blocks);
    mem_free(r->tokens);
    mem_free(r);
}
