/* prefill/prefill_request.c - see the header. */
#include "prefill/prefill_request.h"

#include <inttypes.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"

const char *prefill_state_name(enum prefill_state s)
{
    switch (s) {
#define X(NAME)          \
    case PREFILL_##NAME: \
        return #NAME;
        PREFILL_STATE_MAP(X)
#undef X
    }
    return "?";
}

#define TO(NAME) (1u << PREFILL_##NAME)
static const unsigned legal[] = {
    [PREFILL_QUEUED] = TO(COMPUTING) | TO(CLOSING),
    [PREFILL_COMPUTING] = TO(WAIT_GRANT) | TO(SENDING) | TO(CLOSING),
    [PREFILL_WAIT_GRANT] = TO(SENDING) | TO(CLOSING),
    [PREFILL_SENDING] = TO(CLOSING),
    [PREFILL_CLOSING] = 0,
};
#undef TO

bool prefill_request_set_state(struct prefill_request *r, enum prefill_state to)
{
    if ((legal[r->state] & 1u << to) == 0) {
        LOG_ERROR("prefill", "illegal state change", "req=%" PRIx64 " epoch=%u %s -> %s",
                  r->at.request, r->at.epoch, prefill_state_name(r->state), prefill_state_name(to));
        return false;
    }
    LOG_DEBUG("prefill", "state", "req=%" PRIx64 " epoch=%u %s -> %s", r->at.request, r->at.epoch,
              prefill_state_name(r->state), prefill_state_name(to));
    r->state = to;
    return true;
}

static enum err check(const Baton__Prefill *m, const struct engine_info *info, struct err_msg *msg)
{
    uint32_t n = wire_u32_count(&m->tokens);

    if (n > info->max_context)
        return err_set(msg, ERR_INVALID, "%u tokens, this worker's context holds %u", n,
                       info->max_context);
    if (m->n_prompt > n || n - m->n_prompt >= m->max_new)
        return err_set(msg, ERR_INVALID, "%u tokens after a prompt of %u leave none of %u", n,
                       m->n_prompt, m->max_new);
    return ERR_OK;
}

static enum err fill(struct prefill_request *r, const Baton__Prefill *m,
                     const struct engine_info *info, struct err_msg *msg)
{
    uint32_t block_tokens = info->kv.block_tokens;

    r->at.request = m->request;
    r->at.epoch = m->epoch;
    r->frontend = m->frontend;
    r->decode_worker = m->decode_worker;
    r->n_tokens = wire_u32_count(&m->tokens);
    r->n_prompt = m->n_prompt;
    r->max_new = m->max_new;
    r->order = m->order;
    r->handover_ns = m->deadline_ns;
    r->transfer_class = m->terms != NULL ? m->terms->transfer_class : 0;
    r->queue_at = PREFILL_NOT_QUEUED;
    r->n_blocks = (uint32_t)(((uint64_t)r->n_tokens + block_tokens - 1) / block_tokens);
    r->tokens = mem_try_calloc(r->n_tokens, sizeof(*r->tokens));
    r->blocks = mem_try_calloc(r->n_blocks, sizeof(*r->blocks));
    if (r->tokens == NULL || r->blocks == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for %u tokens", r->n_tokens);
    if (engine_params_tokens(&m->tokens, info->vocab, r->tokens) != ERR_OK)
        return err_set(msg, ERR_INVALID, "a token is outside the vocabulary of %u", info->vocab);
    return engine_params_read(&r->params, m->sampling, info->vocab, msg);
}

enum err prefill_request_create(const Baton__Prefill *m, const struct engine_info *info,
                                struct err_msg *msg, struct prefill_request **out)
{
    struct prefill_request *r;
    enum err err = check(m, info, msg);

    if (err != ERR_OK)
        return err;
    r = mem_try_calloc(1, sizeof(*r));
    if (r == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    err = fill(r, m, info, msg);
    if (err != ERR_OK) {
        prefill_request_destroy(r);
        return err;
    }
    *out = r;
    return ERR_OK;
}

void prefill_request_destroy(struct prefill_request *r)
{
    engine_params_free(&r->params);
    engine_history_destroy(r->history);
    mem_free(r->tokens);
    mem_free(r->blocks);
    mem_free(r);
}
