/* decode/decode.c - see the header for the contract.
 *
 * All blocks that a request can ever need are set aside when it is reserved: those that the hand-over fills
 * are GRANTED until it is verified, the rest is OWNED from the start.  So a running request never waits
 * for a block, and nothing has to be preempted.
 *
 * maybe_release is the only place where blocks come back and RELEASED is sent; it waits until neither the
 * engine thread nor the KV node has anything of the request.  A cancel is a latch: results of a step that was
 * running when it came are dropped.
 */
#include "decode/decode.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "decode/decode_batch.h"
#include "engine/engine_attempts.h"
#include "engine/engine_blocks.h"
#include "engine/engine_params.h"
#include "proto/wire_meta.h"
#include "proto/wire_tokens.h"

/* What each state waits for; who ends the wait when it never comes. */
#define DECODE_STATE_MAP(X)                                                        \
    X(GRANTED)     /* a verified hand-over; the grant's deadline */                \
    X(RUNNING)     /* its last token; the scheduler's decode timeout cancels it */ \
    X(LEAVING)     /* canceled: the running step; ends by itself */                \
    X(QUARANTINED) /* ended: proof that nothing can write to its blocks; the KV node guarantees it */

enum decode_state {
#define X(NAME) DECODE_##NAME,
    DECODE_STATE_MAP(X)
#undef X
};

#define TO(NAME) (1u << DECODE_##NAME)
static const unsigned legal[] = {
    [DECODE_GRANTED] = TO(RUNNING) | TO(QUARANTINED),
    [DECODE_RUNNING] = TO(LEAVING) | TO(QUARANTINED),
    [DECODE_LEAVING] = TO(QUARANTINED),
    [DECODE_QUARANTINED] = 0,
};
#undef TO

enum { PROGRESS_MAX = 65536 };

static const uint64_t handover_default_ns = 30 * CLOCK_NS_PER_S;
static const uint64_t handover_most_ns = 600 * CLOCK_NS_PER_S;

struct decode_request {
    struct engine_attempt at;
    struct decode *owner; /* NULL: the role is gone, only the grant's end is awaited */
    enum decode_state state;
    uint32_t frontend;
    uint32_t n_tokens, n_prompt, max_new;
    uint32_t *blocks;
    uint32_t n_blocks, n_granted; /* the first n_granted of them take the hand-over */
    enum engine_block_state granted_state;
    int32_t *tokens; /* NULL unless a penalty needs them */
    struct engine_params params;
    struct kvt_grant *grant; /* NULL once safe */
    struct decode_run run;
    bool in_engine;
    uint32_t holds; /* callers up the stack */
    uint32_t index; /* of the latest token that went out */
    uint32_t generated;
    uint64_t running_ns;
    enum err end; /* first cause, once QUARANTINED or LEAVING */
    char why[160];
};

struct decode {
    struct decode_config c;
    const struct engine_info *info;
    struct decode_batch *batch;
    struct engine_blocks *blocks;
    struct engine_attempts table;
    struct wire_tokens frames;
    bool closing, broken;
    uint64_t next_transfer;
    uint64_t steps, step_ns, generated_tokens, late_messages;
    uint64_t *progress_request;
    uint32_t *progress_tokens;
    uint32_t progress_cap;
};

static const char *state_name(enum decode_state s)
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

static bool set_state(struct decode_request *r, enum decode_state to)
{
    if ((legal[r->state] & 1u << to) == 0) {
        LOG_ERROR("decode", "illegal state change", "req=%" PRIx64 " epoch=%u %s -> %s",
                  r->at.request, r->at.epoch, state_name(r->state), state_name(to));
        return false;
    }
    LOG_DEBUG("decode", "state", "req=%" PRIx64 " epoch=%u %s -> %s", r->at.request, r->at.epoch,
              state_name(r->state), state_name(to));
    r->state = to;
    return true;
}

static struct decode_request *find(const struct decode *d, uint64_t request, uint32_t epoch)
{
    return (struct decode_request *)engine_attempts_find(&d->table, request, epoch);
}

static struct decode_request *first(const struct decode *d)
{
    return (struct decode_request *)d->table.first;
}

static struct decode_request *after(const struct decode_request *r)
{
    return (struct decode_request *)r->at.next;
}

/* ---- messages out ---- */

static void send_released(struct decode *d, uint64_t request, uint32_t epoch, enum err err,
                          const char *why, uint32_t tokens, uint64_t decode_ns)
{
    Baton__Released m = BATON__RELEASED__INIT;

    m.request = request;
    m.epoch = epoch;
    m.err = err;
    m.error = (char *)(uintptr_t)why;
    m.tokens = tokens;
    m.decode_ns = decode_ns;
    d->c.to_scheduler(d->c.arg, WIRE_RELEASED, &m.base);
}

static void send_refused(struct decode *d, const Baton__Reserve *m, enum err err, const char *why)
{
    Baton__Granted g = BATON__GRANTED__INIT;

    g.request = m->request;
    g.epoch = m->epoch;
    g.error = (char *)(uintptr_t)why;
    d->c.to_scheduler(d->c.arg, WIRE_GRANTED, &g.base);
    send_released(d, m->request, m->epoch, err, why, 0, 0);
}

static void send_granted(struct decode *d, const struct decode_request *r, uint64_t transfer,
                         uint8_t *bytes)
{
    Baton__Granted g = BATON__GRANTED__INIT;

    for (uint32_t i = 0; i < r->n_granted; i++) {
        for (int k = 0; k < 4; k++)
            bytes[i * 4 + (uint32_t)k] = (uint8_t)(r->blocks[i] >> (8 * k));
    }
    g.request = r->at.request;
    g.epoch = r->at.epoch;
    g.ok = true;
    g.transfer = transfer;
    g.blocks.data = bytes;
    g.blocks.len = (size_t)r->n_granted * 4;
    d->c.to_scheduler(d->c.arg, WIRE_GRANTED, &g.base);
}

static void send_handover(const struct decode_request *r, enum err err, const struct kvt_arrival *a)
{
    Baton__HandoverDone m = BATON__HANDOVER_DONE__INIT;

    m.request = r->at.request;
    m.epoch = r->at.epoch;
    m.from_decode = true;
    m.err = err;
    m.bytes = a->bytes;
    m.wire_ns = a->last_ns > a->first_ns ? a->last_ns - a->first_ns : 0;
    m.verify_ns = a->verify_ns;
    m.path = a->path;
    r->owner->c.to_scheduler(r->owner->c.arg, WIRE_HANDOVER_DONE, &m.base);
}

/* ---- end of a request ---- */

static void destroy_request(struct decode_request *r)
{
    decode_run_clear(&r->run);
    engine_params_free(&r->params);
    mem_free(r->blocks);
    mem_free(r->tokens);
    mem_free(r);
}

static void move_blocks(struct decode_request *r, uint32_t from_index, uint32_t n,
                        enum engine_block_state from, enum engine_block_state to)
{
    if (n > 0 &&
        engine_blocks_move(r->owner->blocks, r->blocks + from_index, n, from, to) != ERR_OK)
        LOG_ERROR("decode", "blocks of a request were not its own", "req=%" PRIx64 " %s -> %s",
                  r->at.request, engine_block_state_name(from), engine_block_state_name(to));
}

static void set_granted_state(struct decode_request *r, enum engine_block_state to)
{
    if (r->granted_state == to)
        return;
    move_blocks(r, 0, r->n_granted, r->granted_state, to);
    r->granted_state = to;
}

static void free_blocks(struct decode_request *r)
{
    move_blocks(r, 0, r->n_granted, r->granted_state, ENGINE_BLOCK_FREE);
    move_blocks(r, r->n_granted, r->n_blocks - r->n_granted, ENGINE_BLOCK_OWNED, ENGINE_BLOCK_FREE);
}

static void maybe_release(struct decode_request *r)
{
    struct decode *d = r->owner;
    uint64_t decode_ns = r->running_ns != 0 ? clock_now_ns() - r->running_ns : 0;

    if (r->state != DECODE_QUARANTINED || r->holds > 0 || r->grant != NULL || r->in_engine)
        return;
    engine_attempts_remove(&d->table, &r->at);
    free_blocks(r);
    send_released(d, r->at.request, r->at.epoch, r->end, r->why, r->generated, decode_ns);
    destroy_request(r);
}

/* The batch has let go of it, or never had it. */
static void quarantine(struct decode_request *r)
{
    if (set_state(r, DECODE_QUARANTINED) && r->grant != NULL)
        set_granted_state(r, ENGINE_BLOCK_QUARANTINED);
    maybe_release(r);
}

static void set_end(struct decode_request *r, enum err err, const char *why)
{
    r->end = err;
    snprintf(r->why, sizeof(r->why), "%s", why);
}

/* From outside: cancel, loss.  The first cause counts.  r may be gone when this returns. */
static void end_request(struct decode_request *r, enum err err, const char *why)
{
    if (r->state == DECODE_LEAVING || r->state == DECODE_QUARANTINED)
        return;
    set_end(r, err, why);
    if (r->state == DECODE_RUNNING && r->in_engine) {
        if (set_state(r, DECODE_LEAVING))
            decode_batch_leave(r->owner->batch, &r->run);
        return;
    }
    r->holds++;
    if (r->grant != NULL)
        kvt_grant_cancel(r->grant);
    r->holds--;
    quarantine(r);
}

/* ---- hand-over ---- */

static enum err check_meta(const struct decode_request *r, const struct kvt_arrival *a,
                           struct wire_meta *meta)
{
    if (wire_meta_decode(a->meta, a->meta_len, meta) != ERR_OK)
        return ERR_CORRUPT;
    if (meta->request != r->at.request || meta->epoch != r->at.epoch ||
        meta->n_tokens != r->n_tokens || meta->index != r->n_tokens - r->n_prompt ||
        meta->token >= r->owner->info->vocab)
        return ERR_CORRUPT;
    return ERR_OK;
}

static void start_running(struct decode_request *r, const struct wire_meta *meta)
{
    struct decode_run *run = &r->run;

    if (!set_state(r, DECODE_RUNNING))
        return;
    set_granted_state(r, ENGINE_BLOCK_OWNED);
    r->running_ns = clock_now_ns();
    r->index = meta->index;
    if (engine_params_finish(&r->params, (int32_t)meta->token, meta->index, r->max_new) !=
        ENGINE_FINISH_NO) {
        quarantine(r); /* the first token was the last */
        return;
    }
    run->params = &r->params;
    run->blocks = r->blocks;
    run->n_blocks = r->n_blocks;
    run->known = r->tokens;
    run->n_known = r->n_tokens;
    run->n_prompt = r->n_prompt;
    run->max_new = r->max_new;
    run->token = (int32_t)meta->token;
    run->position = r->n_tokens;
    run->index = meta->index;
    r->in_engine = true;
    decode_batch_join(r->owner->batch, run);
}

static void on_arrival(void *arg, const struct kvt_arrival *a)
{
    struct decode_request *r = arg;
    struct wire_meta meta;
    enum err err = a->err;

    if (r->owner == NULL || r->state != DECODE_GRANTED)
        return; /* ended already; on_safe follows */
    if (err == ERR_OK)
        err = check_meta(r, a, &meta);
    send_handover(r, err, a);
    if (err == ERR_OK) {
        start_running(r, &meta);
        return;
    }
    set_end(r, err, "the hand-over failed");
    quarantine(r);
}

static void on_safe(void *arg)
{
    struct decode_request *r = arg;

    r->grant = NULL;
    if (r->owner == NULL)
        destroy_request(r);
    else
        maybe_release(r);
}

/* ---- reservation ---- */

static enum err check(const struct decode *d, const Baton__Reserve *m, struct err_msg *msg)
{
    uint64_t end = (uint64_t)m->n_prompt + m->max_new;

    if (d->broken)
        return err_set(msg, ERR_DEVICE, "the engine is broken");
    if (end > d->info->max_context)
        return err_set(msg, ERR_INVALID, "%" PRIu64 " tokens, this worker's context holds %u", end,
                       d->info->max_context);
    if (m->n_tokens >= end)
        return err_set(msg, ERR_INVALID, "%u tokens after a prompt of %u leave none of %u",
                       m->n_tokens, m->n_prompt, m->max_new);
    return ERR_OK;
}

static enum err fill(struct decode *d, struct decode_request *r, const Baton__Reserve *m,
                     struct err_msg *msg)
{
    uint32_t block_tokens = d->info->kv.block_tokens;
    enum err err;

    r->owner = d;
    r->at.request = m->request;
    r->at.epoch = m->epoch;
    r->frontend = m->frontend;
    r->n_tokens = m->n_tokens;
    r->n_prompt = m->n_prompt;
    r->max_new = m->max_new;
    r->granted_state = ENGINE_BLOCK_GRANTED;
    r->n_blocks =
        (uint32_t)(((uint64_t)m->n_prompt + m->max_new + block_tokens - 1) / block_tokens);
    r->n_granted = (uint32_t)(((uint64_t)m->n_tokens + block_tokens - 1) / block_tokens);
    r->blocks = mem_try_calloc(r->n_blocks, sizeof(*r->blocks));
    if (r->blocks == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    err = engine_params_read(&r->params, m->sampling, d->info->vocab, msg);
    if (err != ERR_OK || !engine_sampling_uses_history(&r->params.sampling))
        return err;
    if (wire_u32_count(&m->tokens) != m->n_tokens)
        return err_set(msg, ERR_INVALID, "a penalty needs the tokens, which did not come");
    r->tokens = mem_try_calloc(r->n_tokens, sizeof(*r->tokens));
    if (r->tokens == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    if (engine_params_tokens(&m->tokens, d->info->vocab, r->tokens) != ERR_OK)
        return err_set(msg, ERR_INVALID, "a token is outside the vocabulary of %u", d->info->vocab);
    return ERR_OK;
}

static enum err take_blocks(struct decode *d, struct decode_request *r, struct err_msg *msg)
{
    enum err err = engine_blocks_take(d->blocks, r->n_blocks, ENGINE_BLOCK_OWNED, r->blocks);

    if (err != ERR_OK)
        return err_set(msg, err, "%u blocks are needed, %u are free", r->n_blocks,
                       engine_blocks_count(d->blocks, ENGINE_BLOCK_FREE));
    return engine_blocks_move(d->blocks, r->blocks, r->n_granted, ENGINE_BLOCK_OWNED,
                              ENGINE_BLOCK_GRANTED);
}

static enum err open_grant(struct decode *d, struct decode_request *r, const Baton__Reserve *m,
                           uint64_t transfer)
{
    uint64_t limit = m->deadline_ns != 0 ? m->deadline_ns : handover_default_ns;
    struct kvt_grant_config c = {.transfer = transfer,
                                 .epoch = m->epoch,
                                 .peer = m->prefill_worker,
                                 .slots = r->blocks,
                                 .n_slots = r->n_granted,
                                 .arg = r,
                                 .on_arrival = on_arrival,
                                 .on_safe = on_safe};

    c.deadline_ns = clock_now_ns() + (limit < handover_most_ns ? limit : handover_most_ns);
    return kvt_grant_open(d->c.kvt, &c, &r->grant);
}

/* Blocks taken, found by its id, and open for the hand-over; or nothing of it stays. */
static enum err admit(struct decode *d, struct decode_request *r, const Baton__Reserve *m,
                      uint64_t transfer, struct err_msg *msg)
{
    enum err err = take_blocks(d, r, msg);

    if (err != ERR_OK)
        return err;
    err = engine_attempts_add(&d->table, &r->at);
    if (err == ERR_OK) {
        err = open_grant(d, r, m, transfer);
        if (err == ERR_OK)
            return ERR_OK;
        engine_attempts_remove(&d->table, &r->at);
    }
    free_blocks(r);
    return err_set(msg, err, "the grant could not be opened: %s", err_text(err));
}

static enum err reserve(struct decode *d, const Baton__Reserve *m, struct err_msg *msg)
{
    struct decode_request *r;
    uint64_t transfer = d->next_transfer++;
    uint8_t *bytes;
    enum err err = check(d, m, msg);

    if (err != ERR_OK)
        return err;
    r = mem_try_calloc(1, sizeof(*r));
    if (r == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for a request");
    err = fill(d, r, m, msg);
    bytes = err == ERR_OK ? mem_try_alloc((size_t)r->n_granted * 4) : NULL;
    if (err == ERR_OK && bytes == NULL)
        err = err_set(msg, ERR_NOMEM, "no memory for a request");
    if (err == ERR_OK)
        err = admit(d, r, m, transfer, msg);
    if (err == ERR_OK)
        send_granted(d, r, transfer, bytes);
    else
        destroy_request(r);
    mem_free(bytes);
    return err;
}

void decode_on_reserve(struct decode *d, const Baton__Reserve *m)
{
    struct err_msg msg = {""};
    enum err err;

    if (find(d, m->request, m->epoch) != NULL) {
        d->late_messages++;
        return;
    }
    err = reserve(d, m, &msg);
    if (err != ERR_OK) {
        msg.text[255] = '\0'; /* what a message may carry */
        send_refused(d, m, err, msg.text);
    }
}

/* ---- steps ---- */

static struct decode_request *request_of(struct decode_run *run)
{
    return (struct decode_request *)((char *)run - offsetof(struct decode_request, run));
}

static bool add_token(struct decode *d, struct decode_request *r, const struct engine_slot *slot,
                      uint8_t finish)
{
    uint32_t top_token[ENGINE_TOP_LOGPROBS_MAX];
    float top_logprob[ENGINE_TOP_LOGPROBS_MAX];
    struct wire_token item = {.request = r->at.request,
                              .epoch = r->at.epoch,
                              .index = slot->sample_index,
                              .token = (uint32_t)slot->out.token,
                              .finish = finish,
                              .want_logprobs = r->params.sampling.want_logprobs};

    if (item.want_logprobs) {
        item.logprob = slot->out.logprob;
        item.n_top = slot->out.n_top;
        item.top_token = top_token;
        item.top_logprob = top_logprob;
        for (uint32_t i = 0; i < item.n_top && i < ENGINE_TOP_LOGPROBS_MAX; i++) {
            top_token[i] = (uint32_t)slot->out.top[i].token;
            top_logprob[i] = slot->out.top[i].logprob;
        }
    }
    return wire_tokens_add(&d->frames, r->frontend, &item) == ERR_OK;
}

/* The tokens of one step, in one frame per front end. */
static void send_tokens(struct decode *d, const struct decode_result *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct decode_request *r = request_of(s->runs[i]);

        /* r->end is the latch: a token that could not be sent ends the stream, later ones included. */
        if (r->state != DECODE_RUNNING || s->slots[i].result != ERR_OK || r->end != ERR_OK)
            continue;
        if (!add_token(d, r, &s->slots[i], s->finish[i])) {
            set_end(r, ERR_NOMEM, "no memory for a token");
            continue;
        }
        r->index = s->slots[i].sample_index;
        r->generated++;
        d->generated_tokens++;
    }
    wire_tokens_each(&d->frames, d->c.to_frontend, d->c.arg);
}

/* After the frames, so that a request's tokens are out before its RELEASED. */
static void settle(const struct decode_result *s, uint32_t i)
{
    struct decode_request *r = request_of(s->runs[i]);
    bool left = s->finish[i] != ENGINE_FINISH_NO || s->slots[i].result != ERR_OK;

    if (r->state != DECODE_RUNNING)
        return; /* canceled: on_left ends it */
    if (left) {
        r->in_engine = false;
        if (s->slots[i].result != ERR_OK)
            set_end(r, s->slots[i].result, "the engine refused the step");
        quarantine(r);
    } else if (r->end != ERR_OK && set_state(r, DECODE_LEAVING)) {
        decode_batch_leave(r->owner->batch, &r->run);
    }
}

static void break_engine(struct decode *d, enum err err)
{
    char why[128];

    if (d->broken)
        return;
    d->broken = true;
    snprintf(why, sizeof(why), "a decode step failed: %s", err_text(err));
    if (d->c.on_broken != NULL)
        d->c.on_broken(d->c.arg, why);
    for (struct decode_request *r = first(d), *next; r != NULL; r = next) {
        next = after(r);
        end_request(r, ERR_DEVICE, "the engine is broken");
    }
}

static void on_step(void *arg, const struct decode_result *s)
{
    struct decode *d = arg;

    if (d->closing)
        return;
    if (s->err != ERR_OK) {
        break_engine(d, s->err);
        return;
    }
    d->steps++;
    d->step_ns = s->ended_ns - s->started_ns;
    send_tokens(d, s);
    for (uint32_t i = 0; i < s->n; i++)
        settle(s, i);
}

static void on_left(void *arg, struct decode_run *run)
{
    struct decode *d = arg;
    struct decode_request *r = request_of(run);

    if (d->closing)
        return;
    r->in_engine = false;
    quarantine(r);
}

static const struct decode_batch_hooks batch_hooks = {.on_step = on_step, .on_left = on_left};

/* ---- public ---- */

enum err decode_create(const struct decode_config *c, struct decode **out)
{
    struct decode *d = mem_try_calloc(1, sizeof(*d));
    enum err err;

    if (d == NULL)
        return ERR_NOMEM;
    d->c = *c;
    d->info = engine_info(c->engine);
    /* Not the numbers of an earlier life of this worker: a late notify must not fit by chance. */
    d->next_transfer = clock_wall_ns() | 1;
    if ((err = engine_blocks_create(c->n_blocks, &d->blocks)) != ERR_OK ||
        (err = decode_batch_start(c->engine, c->loop, &batch_hooks, d, &d->batch)) != ERR_OK) {
        engine_blocks_destroy(d->blocks);
        mem_free(d);
        return err;
    }
    *out = d;
    return ERR_OK;
}

void decode_on_cancel(struct decode *d, const Baton__Cancel *m)
{
    struct decode_request *r = find(d, m->request, m->epoch);

    if (r == NULL)
        d->late_messages++;
    else
        end_request(r, ERR_CANCELED, "");
}

void decode_cancel_all(struct decode *d)
{
    for (struct decode_request *r = first(d), *next; r != NULL; r = next) {
        next = after(r);
        end_request(r, ERR_CANCELED, "");
    }
}

void decode_cancel_frontend(struct decode *d, uint32_t frontend)
{
    for (struct decode_request *r = first(d), *next; r != NULL; r = next) {
        next = after(r);
        if (r->frontend == frontend)
            end_request(r, ERR_CANCELED, "the front end is gone");
    }
}

void decode_report(const struct decode *d, Baton__Report *m)
{
    m->waiting = 0;
    m->running = 0;
    m->live_grants = 0;
    for (const struct decode_request *r = first(d); r != NULL; r = after(r)) {
        m->waiting += r->state == DECODE_GRANTED;
        m->running += r->state == DECODE_RUNNING;
        m->live_grants += r->grant != NULL;
    }
    m->free_blocks = engine_blocks_count(d->blocks, ENGINE_BLOCK_FREE);
    m->blocks_owned = engine_blocks_count(d->blocks, ENGINE_BLOCK_OWNED);
    m->blocks_granted = engine_blocks_count(d->blocks, ENGINE_BLOCK_GRANTED);
    m->blocks_quarantined = engine_blocks_count(d->blocks, ENGINE_BLOCK_QUARANTINED);
    m->step_ns = d->step_ns;
    m->steps = d->steps;
    m->live_requests = d->table.n;
    m->late_messages += d->late_messages;
    m->generated_tokens = d->generated_tokens;
}

static bool reserve_progress(struct decode *d, uint32_t n)
{
    uint64_t *request;
    uint32_t *tokens;

    if (n <= d->progress_cap)
        return true;
    request = mem_try_realloc(d->progress_request, n * sizeof(*request));
    if (request == NULL)
        return false;
    d->progress_request = request;
    tokens = mem_try_realloc(d->progress_tokens, n * sizeof(*tokens));
    if (tokens == NULL)
        return false;
    d->progress_tokens = tokens;
    d->progress_cap = n;
    return true;
}

void decode_progress(struct decode *d, Baton__DecodeProgress *m)
{
    uint32_t n = 0;

    m->n_request = m->n_tokens = 0;
    if (!reserve_progress(d, d->table.n))
        return; /* the next heartbeat tries again */
    for (const struct decode_request *r = first(d); r != NULL && n < PROGRESS_MAX; r = after(r)) {
        if (r->state != DECODE_RUNNING)
            continue;
        d->progress_request[n] = r->at.request;
        d->progress_tokens[n++] = r->index + 1;
    }
    m->n_request = m->n_tokens = n;
    m->request = d->progress_request;
    m->tokens = d->progress_tokens;
}

uint32_t decode_live(const struct decode *d)
{
    return d->table.n;
}

void decode_destroy(struct decode *d)
{
    struct decode_request *r;

    if (d == NULL)
        return;
    d->closing = true;
    decode_batch_stop(d->batch);
    while ((r = first(d)) != NULL) {
        engine_attempts_remove(&d->table, &r->at);
        r->owner = NULL;
        if (r->grant == NULL)
            destroy_request(r);
        else
            kvt_grant_cancel(r->grant); /* on_safe frees it */
    }
    engine_attempts_free(&d->table);
    wire_tokens_free(&d->frames);
    mem_free(d->progress_request);
    mem_free(d->progress_tokens);
    engine_blocks_destroy(d->blocks);
    mem_free(d);
}
