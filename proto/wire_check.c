/* proto/wire_check.c - the rules of wire_check.h.  A rule lives here if the code that uses a message
 * would otherwise have to test it: counts, lengths, ids that may not be zero, numbers that must be
 * finite.  What depends on state (is this worker known?) is the receiver's to judge. */
#include "proto/wire_check.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "proto/wire_kv.h"

enum { KV_TOKEN_BYTES = 16, KV_PATHS = 9 };

static const uint64_t hour_ns = 3600 * UINT64_C(1000000000);
static const uint64_t context_max = UINT64_C(1) << 40;

static enum err bad(struct err_msg *msg, enum wire_type t, const char *field)
{
    return err_set(msg, ERR_BAD_FRAME, "%s: field %s is out of range", wire_type_name(t), field);
}

#define NEED(condition, field)            \
    do {                                  \
        if (!(condition))                 \
            return bad(msg, type, field); \
    } while (0)

static bool text_ok(const char *s)
{
    return s != NULL && strnlen(s, WIRE_NAME_MAX + 1) <= WIRE_NAME_MAX;
}

static bool u32s_ok(const ProtobufCBinaryData *b, size_t max)
{
    return b->len % 4 == 0 && b->len / 4 <= max;
}

/* Token ids are non-negative in the engine's signed type. */
static bool tokens_ok(const ProtobufCBinaryData *b, size_t max)
{
    if (!u32s_ok(b, max))
        return false;
    for (size_t i = 3; i < b->len; i += 4) {
        if (b->data[i] & 0x80)
            return false;
    }
    return true;
}

static enum err check_layout(enum wire_type type, const Baton__KvLayout *l, struct err_msg *msg)
{
    struct wire_kv_layout layout;

    NEED(l != NULL, "layout");
    layout = (struct wire_kv_layout){.n_layers = l->n_layers,
                                     .n_kv_heads = l->n_kv_heads,
                                     .head_dim = l->head_dim,
                                     .block_tokens = l->block_tokens,
                                     .dtype = l->dtype,
                                     .model_id = l->model_id,
                                     .parts = l->parts == 0 ? 1 : l->parts};
    return wire_kv_layout_check(&layout, msg) == ERR_OK ? ERR_OK : ERR_BAD_FRAME;
}

static enum err check_sampling(enum wire_type type, const Baton__Sampling *s, struct err_msg *msg)
{
    NEED(s != NULL, "sampling");
    NEED(s->temperature >= 0 && s->temperature <= 100, "temperature");
    NEED(s->top_p > 0 && s->top_p <= 1, "top_p");
    NEED(s->min_p >= 0 && s->min_p <= 1, "min_p");
    NEED(s->repetition_penalty > 0 && s->repetition_penalty <= 100, "repetition_penalty");
    NEED(s->presence_penalty >= -2 && s->presence_penalty <= 2, "presence_penalty");
    NEED(s->frequency_penalty >= -2 && s->frequency_penalty <= 2, "frequency_penalty");
    NEED(s->n_top <= WIRE_TOP_MAX, "n_top");
    NEED(tokens_ok(&s->stop_ids, WIRE_STOP_IDS_MAX), "stop_ids");
    NEED(s->n_bias <= WIRE_BIAS_MAX, "bias");
    for (size_t i = 0; i < s->n_bias; i++) {
        NEED(s->bias[i]->token <= INT32_MAX, "bias.token");
        NEED(s->bias[i]->value >= -100 && s->bias[i]->value <= 100, "bias.value");
    }
    return ERR_OK;
}

/* Absent is fine: no target. */
static enum err check_terms(enum wire_type type, const Baton__Terms *m, struct err_msg *msg)
{
    int64_t day_ns = (int64_t)(24 * hour_ns);

    if (m == NULL)
        return ERR_OK;
    NEED(m->first_deadline_ns >= -day_ns && m->first_deadline_ns <= day_ns,
         "terms.first_deadline_ns");
    NEED(m->tbt_ns <= hour_ns, "terms.tbt_ns");
    NEED(m->tier < WIRE_TIERS_MAX, "terms.tier");
    NEED(m->weight >= 0 && m->weight <= 1e9, "terms.weight");
    NEED(m->transfer_class < WIRE_TRANSFER_CLASSES, "terms.transfer_class");
    return ERR_OK;
}

static enum err check_join(enum wire_type type, const Baton__Join *m, struct err_msg *msg)
{
    NEED(text_ok(m->name) && text_ok(m->model) && text_ok(m->backend), "name");
    NEED(text_ok(m->kv_host) && m->kv_port <= 65535, "kv_host");
    NEED(m->n_blocks >= 1 && m->n_blocks <= 1u << 28, "n_blocks");
    NEED(m->max_batch >= 1 && m->max_batch <= WIRE_ITEMS_MAX, "max_batch");
    NEED(m->max_context >= 1 && m->max_context <= 1u << 24, "max_context");
    NEED(m->max_step_tokens >= 1 && m->max_step_tokens <= 1u << 24, "max_step_tokens");
    NEED(m->vocab >= 1 && m->vocab <= INT32_MAX, "vocab");
    NEED(text_ok(m->worker_class), "worker_class");
    NEED(m->park_blocks <= 1u << 28, "park_blocks");
    return check_layout(type, m->layout, msg);
}

/* Sums that a double holds exactly, so that nobody who fits them gets infinity or loses a count. */
static bool sample_ok(const Baton__StepSample *s)
{
    return (s->n > 0 || s->b > 0) && s->n <= 1u << 24 && s->n2 >= s->n && s->n2 <= 1ull << 50 &&
           s->b <= WIRE_ITEMS_MAX && s->ctx <= context_max && s->ns >= 1 && s->ns <= hour_ns;
}

static enum err check_report(enum wire_type type, const Baton__Report *m, struct err_msg *msg)
{
    NEED(m->n_bytes_sent <= KV_PATHS && m->n_bytes_received <= KV_PATHS, "bytes_sent");
    NEED(m->parked <= WIRE_ITEMS_MAX && m->blocks_parked <= 1u << 28, "parked");
    NEED(m->context <= context_max, "context");
    NEED(m->n_sample <= WIRE_SAMPLES_MAX, "sample");
    for (size_t i = 0; i < m->n_sample; i++)
        NEED(sample_ok(m->sample[i]), "sample");
    return ERR_OK;
}

static enum err check_granted(enum wire_type type, const Baton__Granted *m, struct err_msg *msg)
{
    NEED(m->request != 0, "request");
    NEED(text_ok(m->error), "error");
    NEED(u32s_ok(&m->blocks, WIRE_TOKENS_MAX), "blocks");
    NEED(!m->ok || (m->blocks.len > 0 && m->transfer != 0), "blocks");
    return ERR_OK;
}

static enum err check_reserve(enum wire_type type, const Baton__Reserve *m, struct err_msg *msg)
{
    NEED(m->request != 0 && m->epoch != 0, "request");
    NEED(m->prefill_worker != 0, "prefill_worker");
    NEED(m->n_tokens >= 1 && m->n_tokens <= WIRE_TOKENS_MAX, "n_tokens");
    NEED(m->n_prompt >= 1 && m->n_prompt <= m->n_tokens, "n_prompt");
    NEED(m->max_new >= 1 && m->max_new <= 1u << 24, "max_new");
    NEED(tokens_ok(&m->tokens, WIRE_TOKENS_MAX), "tokens");
    NEED(m->tokens.len == 0 || m->tokens.len / 4 == m->n_tokens, "tokens");
    if (check_terms(type, m->terms, msg) != ERR_OK)
        return ERR_BAD_FRAME;
    return check_sampling(type, m->sampling, msg);
}

static enum err check_prefill(enum wire_type type, const Baton__Prefill *m, struct err_msg *msg)
{
    NEED(m->request != 0 && m->epoch != 0, "request");
    NEED(m->tokens.len > 0 && tokens_ok(&m->tokens, WIRE_TOKENS_MAX), "tokens");
    NEED(m->n_prompt >= 1 && m->n_prompt <= m->tokens.len / 4, "n_prompt");
    NEED(m->max_new >= 1 && m->max_new <= 1u << 24, "max_new");
    if (check_terms(type, m->terms, msg) != ERR_OK)
        return ERR_BAD_FRAME;
    return check_sampling(type, m->sampling, msg);
}

static enum err check_tokens(enum wire_type type, const Baton__Tokens *m, struct err_msg *msg)
{
    size_t n = m->n_request;

    NEED(n >= 1 && n <= WIRE_ITEMS_MAX, "request");
    NEED(m->n_epoch == n && m->n_index == n && m->n_token == n && m->n_finish == n, "epoch");
    NEED(m->n_logprob == 0 || m->n_logprob == n, "logprob");
    NEED(m->n_top == 0 || m->n_top == n, "top");
    for (size_t i = 0; i < n; i++) {
        NEED(m->token[i] <= INT32_MAX, "token");
        NEED(m->finish[i] <= 2, "finish");
    }
    for (size_t i = 0; i < m->n_top; i++)
        NEED(m->top[i]->n_token <= WIRE_TOP_MAX && m->top[i]->n_token == m->top[i]->n_logprob,
             "top");
    return ERR_OK;
}

static enum err check_welcome(enum wire_type type, const Baton__Welcome *m, struct err_msg *msg)
{
    NEED(m->worker != 0, "worker");
    NEED(m->heartbeat_ns >= 1000000 && m->heartbeat_ns <= 60000000000ull, "heartbeat_ns");
    NEED(m->peer_timeout_ns >= m->heartbeat_ns && m->peer_timeout_ns <= 600000000000ull,
         "peer_timeout_ns");
    NEED(m->n_frontends <= WIRE_FRONTENDS_MAX, "frontends");
    for (size_t i = 0; i < m->n_frontends; i++)
        NEED(m->frontends[i]->id != 0 && text_ok(m->frontends[i]->address), "frontends");
    return ERR_OK;
}

static enum err check_introduce(enum wire_type type, const Baton__Introduce *m, struct err_msg *msg)
{
    NEED(m->peer != 0, "peer");
    NEED(text_ok(m->host) && m->port <= 65535, "host");
    NEED(m->token.len == KV_TOKEN_BYTES, "token");
    return ERR_OK;
}

static enum err check_link(enum wire_type type, const Baton__Link *m, struct err_msg *msg)
{
    NEED(m->path < KV_PATHS, "path");
    NEED(text_ok(m->lanes), "lanes");
    NEED(isfinite(m->bytes_per_s) && m->bytes_per_s >= 0, "bytes_per_s");
    return ERR_OK;
}

static enum err check_loading(enum wire_type type, const Baton__Loading *m, struct err_msg *msg)
{
    NEED(text_ok(m->phase), "phase");
    return ERR_OK;
}

static enum err check_request(enum wire_type type, uint64_t request, struct err_msg *msg)
{
    NEED(request != 0, "request");
    return ERR_OK;
}

enum err wire_check(enum wire_type type, const ProtobufCMessage *m, struct err_msg *msg)
{
    switch (type) {
    case WIRE_LOADING:
        return check_loading(type, (const Baton__Loading *)m, msg);
    case WIRE_JOIN:
        return check_join(type, (const Baton__Join *)m, msg);
    case WIRE_REPORT:
        return check_report(type, (const Baton__Report *)m, msg);
    case WIRE_GRANTED:
        return check_granted(type, (const Baton__Granted *)m, msg);
    case WIRE_PREFILL_PROGRESS:
        return check_request(type, ((const Baton__PrefillProgress *)m)->request, msg);
    case WIRE_PREFILL_DONE:
        return check_request(type, ((const Baton__PrefillDone *)m)->request, msg);
    case WIRE_HANDOVER_DONE:
        NEED(((const Baton__HandoverDone *)m)->path < KV_PATHS, "path");
        return check_request(type, ((const Baton__HandoverDone *)m)->request, msg);
    case WIRE_DECODE_PROGRESS: {
        const Baton__DecodeProgress *p = (const Baton__DecodeProgress *)m;

        NEED(p->n_request == p->n_tokens && p->n_request <= WIRE_ITEMS_MAX, "tokens");
        return ERR_OK;
    }
    case WIRE_RELEASED:
        NEED(text_ok(((const Baton__Released *)m)->error), "error");
        return check_request(type, ((const Baton__Released *)m)->request, msg);
    case WIRE_LINK:
        return check_link(type, (const Baton__Link *)m, msg);
    case WIRE_WELCOME:
        return check_welcome(type, (const Baton__Welcome *)m, msg);
    case WIRE_INTRODUCE:
        return check_introduce(type, (const Baton__Introduce *)m, msg);
    case WIRE_FORGET:
        NEED(((const Baton__Forget *)m)->peer != 0, "peer");
        return ERR_OK;
    case WIRE_RESERVE:
        return check_reserve(type, (const Baton__Reserve *)m, msg);
    case WIRE_PREFILL:
        return check_prefill(type, (const Baton__Prefill *)m, msg);
    case WIRE_GRANT: {
        const Baton__Grant *g = (const Baton__Grant *)m;

        NEED(g->transfer != 0 && g->blocks.len > 0 && u32s_ok(&g->blocks, WIRE_TOKENS_MAX),
             "blocks");
        return check_request(type, g->request, msg);
    }
    case WIRE_CANCEL:
        return check_request(type, ((const Baton__Cancel *)m)->request, msg);
    case WIRE_FLIP:
        NEED(((const Baton__Flip *)m)->role == 1 || ((const Baton__Flip *)m)->role == 2, "role");
        return ERR_OK;
    case WIRE_DRAIN:
        NEED(text_ok(((const Baton__Drain *)m)->why), "why");
        return ERR_OK;
    case WIRE_PING:
        return ERR_OK;
    case WIRE_ATTACH:
        NEED(((const Baton__Attach *)m)->worker != 0, "worker");
        return ERR_OK;
    case WIRE_TOKENS:
        return check_tokens(type, (const Baton__Tokens *)m, msg);
    }
    return ERR_BAD_FRAME;
}
