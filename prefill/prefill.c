/* prefill/prefill.c - see the header for the contract.
 *
 * The loop thread decides everything: it cuts the most urgent prompts into steps, gives steps to the
 * engine thread (prefill_step.c), and on their return passes first tokens on and feeds the hand-over
 * (prefill_pieces.c).  Where steps are short a second one is queued behind the running one, so that the
 * engine never waits for this thread; where they are long it is not, so that an urgent request waits for
 * one step at most.
 *
 * A request that ends while a step or a transfer uses its blocks becomes CLOSING; maybe_release is the
 * only place where blocks come back and RELEASED is sent.
 */
#include "prefill/prefill.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_blocks.h"
#include "engine/engine_samples.h"
#include "prefill/prefill_queue.h"
#include "prefill/prefill_request.h"
#include "prefill/prefill_step.h"
#include "proto/wire_meta.h"
#include "proto/wire_tokens.h"

enum { TICK_MS = 20 };

static const uint64_t handover_default_ns = 30 * CLOCK_NS_PER_S;
static const uint64_t handover_most_ns = 600 * CLOCK_NS_PER_S;
/* A transfer that opens before its prompt is computed cannot know when that will be; its own limit on
 * time without progress and the request's deadline end it much sooner. */
static const uint64_t transfer_most_ns = 3600 * CLOCK_NS_PER_S;
static const uint64_t progress_gap_ns = 20 * CLOCK_NS_PER_MS;
static const uint64_t short_step_ns = 2 * CLOCK_NS_PER_MS;

struct prefill {
    struct prefill_config c;
    const struct engine_info *info;
    struct prefill_engine *engine;
    struct engine_blocks *blocks;
    struct engine_attempts table;
    struct prefill_queue queue;
    struct wire_tokens frames;
    uv_timer_t *tick; /* runs while there are requests */
    bool ticking, closing, broken;
    uint32_t in_flight; /* steps with the engine */
    uint64_t arrivals;
    uint64_t steps, step_ns, prompt_tokens, generated_tokens, late_messages;
    struct engine_samples samples;
};

static void kick(struct prefill *p);

static struct prefill_request *find(const struct prefill *p, uint64_t request, uint32_t epoch)
{
    return (struct prefill_request *)engine_attempts_find(&p->table, request, epoch);
}

static struct prefill_request *first(const struct prefill *p)
{
    return (struct prefill_request *)p->table.first;
}

static struct prefill_request *after(const struct prefill_request *r)
{
    return (struct prefill_request *)r->at.next;
}

/* ---- messages out ---- */

static void send_released(struct prefill *p, uint64_t id, uint32_t epoch, enum err err,
                          const char *why, uint32_t tokens)
{
    Baton__Released m = BATON__RELEASED__INIT;

    m.request = id;
    m.epoch = epoch;
    m.err = err;
    m.error = (char *)(uintptr_t)why;
    m.tokens = tokens;
    p->c.to_scheduler(p->c.arg, WIRE_RELEASED, &m.base);
}

static void send_handover(struct prefill_request *r, const struct kvt_send_result *result)
{
    Baton__HandoverDone m = BATON__HANDOVER_DONE__INIT;

    m.request = r->at.request;
    m.epoch = r->at.epoch;
    m.err = result->err;
    m.bytes = result->bytes;
    m.wire_ns = result->wire_ns;
    m.exposed_ns = result->exposed_ns;
    m.path = result->path;
    r->owner->c.to_scheduler(r->owner->c.arg, WIRE_HANDOVER_DONE, &m.base);
}

static void send_progress(struct prefill_request *r, const struct prefill_step *s)
{
    Baton__PrefillProgress m = BATON__PREFILL_PROGRESS__INIT;

    if (r->done < r->n_tokens && s->ended_ns - r->progress_ns < progress_gap_ns)
        return;
    r->progress_ns = s->ended_ns;
    m.request = r->at.request;
    m.epoch = r->at.epoch;
    m.tokens_done = r->done;
    m.step_ns = s->ended_ns - s->started_ns;
    m.step_tokens = s->n_tokens;
    r->owner->c.to_scheduler(r->owner->c.arg, WIRE_PREFILL_PROGRESS, &m.base);
}

static void send_done(struct prefill_request *r, uint64_t now, bool finished)
{
    Baton__PrefillDone m = BATON__PREFILL_DONE__INIT;

    m.request = r->at.request;
    m.epoch = r->at.epoch;
    m.queue_ns = r->started_ns - r->arrived_ns;
    m.prefill_ns = now - r->started_ns;
    m.finished = finished;
    r->owner->c.to_scheduler(r->owner->c.arg, WIRE_PREFILL_DONE, &m.base);
}

/* ---- end of a request ---- */

static void maybe_release(struct prefill_request *r)
{
    struct prefill *p = r->owner;
    enum err moved;

    if (r->state != PREFILL_CLOSING || r->holds > 0 || r->send != NULL)
        return;
    engine_attempts_remove(&p->table, &r->at);
    moved = engine_blocks_move(p->blocks, r->blocks, r->n_blocks, ENGINE_BLOCK_OWNED,
                               ENGINE_BLOCK_FREE);
    if (moved != ERR_OK)
        LOG_ERROR("prefill", "blocks of a request were not its own", "req=%" PRIx64, r->at.request);
    send_released(p, r->at.request, r->at.epoch, r->end, r->why, r->sampled ? 1 : 0);
    prefill_request_destroy(r);
}

/* The first cause counts.  r may be gone when this returns. */
static void close_request(struct prefill_request *r, enum err err, const char *why)
{
    if (r->state == PREFILL_CLOSING || !prefill_request_set_state(r, PREFILL_CLOSING))
        return;
    r->end = err;
    snprintf(r->why, sizeof(r->why), "%s", why);
    prefill_queue_remove(&r->owner->queue, r);
    r->holds++;
    if (r->send != NULL)
        kvt_send_cancel(r->send);
    r->holds--;
    maybe_release(r);
}

/* A hand-over that ended without a result from the transfer. */
static void fail_handover(struct prefill_request *r, enum err err, const char *why)
{
    struct kvt_send_result result = {.err = err};

    send_handover(r, &result);
    close_request(r, err, why);
}

/* ---- hand-over ---- */

static void on_send_done(void *arg, const struct kvt_send_result *result)
{
    struct prefill_request *r = arg;

    r->send = NULL;
    if (r->owner == NULL) {
        prefill_request_destroy(r);
        return;
    }
    if (r->state == PREFILL_CLOSING) {
        maybe_release(r);
        return;
    }
    send_handover(r, result);
    close_request(r, result->err, result->err == ERR_OK ? "" : "hand-over failed");
}

static void finish_send(struct prefill_request *r)
{
    struct wire_meta meta = {.request = r->at.request,
                             .epoch = r->at.epoch,
                             .n_tokens = r->n_tokens,
                             .token = (uint32_t)r->first_token,
                             .index = r->first_index};
    uint8_t bytes[WIRE_META_LEN];

    if (!prefill_request_set_state(r, PREFILL_SENDING))
        return;
    r->deadline_ns = clock_now_ns() + r->handover_ns;
    wire_meta_encode(&meta, bytes);
    kvt_send_finish(r->send, bytes, sizeof(bytes));
}

static enum err open_send(struct prefill_request *r, const Baton__Grant *m)
{
    struct kvt_send_config c = {.transfer = m->transfer,
                                .epoch = r->at.epoch,
                                .peer = r->decode_worker,
                                .local_slots = r->blocks,
                                .n_slots = r->n_blocks,
                                .deadline_ns = clock_now_ns() + transfer_most_ns,
                                .transfer_class = r->transfer_class,
                                .arg = r,
                                .on_done = on_send_done};
    uint32_t *remote = mem_try_calloc(r->n_blocks, sizeof(*remote));
    enum err err;

    if (remote == NULL)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < r->n_blocks; i++)
        remote[i] = wire_u32_at(&m->blocks, i);
    c.remote_slots = remote;
    err = kvt_send_open(r->owner->c.kvt, &c, &r->send);
    mem_free(remote);
    return err;
}

void prefill_on_grant(struct prefill *p, const Baton__Grant *m)
{
    struct prefill_request *r = find(p, m->request, m->epoch);
    enum err err;

    if (r == NULL || r->state == PREFILL_CLOSING || r->granted || r->decode_worker == 0 ||
        r->decode_worker != m->decode_worker) {
        p->late_messages++;
        return;
    }
    if (wire_u32_count(&m->blocks) != r->n_blocks) {
        fail_handover(r, ERR_INVALID, "the grant does not cover the prompt");
        return;
    }
    err = open_send(r, m);
    if (err != ERR_OK) {
        fail_handover(r, err, "the hand-over could not be opened");
        return;
    }
    r->granted = true;
    prefill_pieces_open(&r->pieces, p->info->kv.n_layers, r->send);
    if (r->state == PREFILL_WAIT_GRANT)
        finish_send(r);
}

/* ---- steps ---- */

/* The prompt's share of the penalties: too long for the loop thread. */
static void build_history(struct prefill_request *r)
{
    struct engine_history *h;
    enum err err;

    if (r->history != NULL || engine_history_create(&h) != ERR_OK)
        return;
    for (uint32_t i = 0; i < r->n_tokens; i++) {
        err = engine_history_add(h, r->tokens[i], i >= r->n_prompt);
        if (err != ERR_OK) {
            engine_history_destroy(h);
            return;
        }
    }
    r->history = h;
}

/* Engine thread.  Where memory is short the slot stays without its history, and the engine refuses it. */
static void prepare(struct prefill_step *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct engine_slot *slot = &s->slots[i];

        if (!slot->sample || !engine_sampling_uses_history(slot->sampling))
            continue;
        build_history(s->requests[i]);
        slot->history = s->requests[i]->history;
    }
}

/* Blocks that are complete once `tokens` tokens are computed. */
static uint32_t blocks_complete(const struct prefill_request *r, uint32_t tokens)
{
    return tokens == r->n_tokens ? r->n_blocks : tokens / r->owner->info->kv.block_tokens;
}

static void on_layers(void *arg, struct prefill_step *s, uint32_t layers, uint64_t ready)
{
    struct prefill *p = arg;

    for (uint32_t i = 0; !p->closing && i < s->n; i++) {
        struct prefill_request *r = s->requests[i];
        uint32_t end = s->slots[i].position + s->slots[i].n_tokens;

        if (r->state != PREFILL_CLOSING && r->decode_worker != 0)
            prefill_pieces_part(&r->pieces, blocks_complete(r, end), layers, ready, r->send);
    }
}

static void add_slot(struct prefill *p, struct prefill_step *s, struct prefill_request *r,
                     uint32_t chunk)
{
    struct engine_slot *slot = &s->slots[s->n];

    memset(slot, 0, sizeof(*slot));
    slot->tokens = r->tokens + r->submitted;
    slot->n_tokens = chunk;
    slot->position = r->submitted;
    slot->blocks = r->blocks;
    slot->n_blocks = r->n_blocks;
    r->submitted += chunk;
    if (r->submitted == r->n_tokens) {
        slot->sample = true;
        slot->sampling = &r->params.sampling;
        slot->sample_index = r->n_tokens - r->n_prompt;
        prefill_queue_remove(&p->queue, r);
    }
    if (r->state == PREFILL_QUEUED && !prefill_request_set_state(r, PREFILL_COMPUTING))
        return;
    r->holds++;
    s->requests[s->n++] = r;
    s->n_tokens += chunk;
    s->report_layers = s->report_layers || r->decode_worker != 0;
}

static void fill_step(struct prefill *p, struct prefill_step *s)
{
    uint32_t room = p->info->max_step_tokens;
    struct prefill_request *r;

    while (room > 0 && s->n < p->info->max_batch && (r = prefill_queue_first(&p->queue)) != NULL) {
        uint32_t left = r->n_tokens - r->submitted;
        uint32_t chunk = left < room ? left : room;

        add_slot(p, s, r, chunk);
        room -= chunk;
    }
}

static void kick(struct prefill *p)
{
    uint32_t depth = p->step_ns < short_step_ns ? 2 : 1;

    while (!p->broken && !p->closing && p->in_flight < depth && p->queue.n > 0) {
        struct prefill_step *s = prefill_engine_take(p->engine);

        if (s == NULL)
            return;
        fill_step(p, s);
        p->in_flight++;
        prefill_engine_submit(p->engine, s);
    }
}

static void add_first_token(struct prefill *p, struct prefill_request *r,
                            const struct engine_sampled *out)
{
    uint32_t top_token[ENGINE_TOP_LOGPROBS_MAX];
    float top_logprob[ENGINE_TOP_LOGPROBS_MAX];
    struct wire_token item = {.request = r->at.request,
                              .epoch = r->at.epoch,
                              .index = r->first_index,
                              .token = (uint32_t)r->first_token,
                              .finish = r->finish,
                              .want_logprobs = r->params.sampling.want_logprobs,
                              .logprob = out->logprob,
                              .n_top = out->n_top,
                              .top_token = top_token,
                              .top_logprob = top_logprob};

    for (uint32_t i = 0; i < out->n_top && i < ENGINE_TOP_LOGPROBS_MAX; i++) {
        top_token[i] = (uint32_t)out->top[i].token;
        top_logprob[i] = out->top[i].logprob;
    }
    if (wire_tokens_add(&p->frames, r->frontend, &item) != ERR_OK)
        close_request(r, ERR_NOMEM, "no memory for the first token");
}

/* First tokens leave before anything else is done about the step: they are what a client waits for. */
static void take_results(struct prefill *p, struct prefill_step *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct prefill_request *r = s->requests[i];
        const struct engine_slot *slot = &s->slots[i];

        if (slot->position == 0)
            r->started_ns = s->started_ns;
        if (r->state == PREFILL_CLOSING)
            continue;
        if (slot->result != ERR_OK) {
            close_request(r, slot->result, "the engine refused the prompt");
            continue;
        }
        r->done = slot->position + slot->n_tokens;
        p->prompt_tokens += slot->n_tokens;
        if (!slot->sample)
            continue;
        r->sampled = true;
        r->first_token = slot->out.token;
        r->first_index = slot->sample_index;
        r->finish = engine_params_finish(&r->params, r->first_token, r->first_index, r->max_new);
        p->generated_tokens++;
        add_first_token(p, r, &slot->out);
    }
    wire_tokens_each(&p->frames, p->c.to_frontend, p->c.arg);
}

/* The prompt is computed and its first token is out. */
static void complete(struct prefill_request *r, uint64_t now)
{
    bool finished = r->finish != ENGINE_FINISH_NO || r->decode_worker == 0;

    send_done(r, now, finished);
    if (finished) {
        close_request(r, ERR_OK, "");
    } else if (r->send != NULL) {
        finish_send(r);
    } else if (prefill_request_set_state(r, PREFILL_WAIT_GRANT)) {
        uint64_t own = r->owner->c.grant_timeout_ns;

        r->deadline_ns = clock_now_ns() + (own != 0 ? own : r->handover_ns);
    }
}

static void advance(struct prefill *p, struct prefill_step *s, uint32_t i)
{
    struct prefill_request *r = s->requests[i];
    uint32_t end = s->slots[i].position + s->slots[i].n_tokens;

    if (r->state == PREFILL_CLOSING)
        return;
    send_progress(r, s);
    if (r->decode_worker != 0 && r->finish == ENGINE_FINISH_NO)
        prefill_pieces_full(&r->pieces, blocks_complete(r, end), p->info->kv.n_layers, r->send);
    if (r->sampled)
        complete(r, s->ended_ns);
}

static void break_engine(struct prefill *p, enum err err)
{
    char why[128];

    if (p->broken)
        return;
    p->broken = true;
    snprintf(why, sizeof(why), "a prefill step failed: %s", err_text(err));
    if (p->c.on_broken != NULL)
        p->c.on_broken(p->c.arg, why);
}

static void add_sample(struct prefill *p, const struct prefill_step *s)
{
    uint64_t n2 = 0;

    for (uint32_t i = 0; i < s->n; i++)
        n2 += s->slots[i].n_tokens * (s->slots[i].n_tokens + 2 * (uint64_t)s->slots[i].position);
    engine_samples_add(&p->samples, s->n_tokens, n2, 0, 0, p->step_ns);
}

static void on_step_done(void *arg, struct prefill_step *s)
{
    struct prefill *p = arg;

    p->in_flight--;
    if (!p->closing && s->err == ERR_OK) {
        p->steps++;
        p->step_ns = s->ended_ns - s->started_ns;
        add_sample(p, s);
        kick(p);
        take_results(p, s);
        for (uint32_t i = 0; i < s->n; i++)
            advance(p, s, i);
    } else if (!p->closing) {
        break_engine(p, s->err);
    }
    for (uint32_t i = 0; i < s->n; i++) {
        struct prefill_request *r = s->requests[i];

        r->holds--;
        if (s->err != ERR_OK && !p->closing)
            close_request(r, ERR_DEVICE, "the engine is broken");
        else if (!p->closing)
            maybe_release(r);
    }
    prefill_engine_give(p->engine, s);
    kick(p);
}

static const struct prefill_step_hooks step_hooks = {
    .prepare = prepare, .on_layers = on_layers, .on_done = on_step_done};

/* ---- deadlines ---- */

static void on_tick(uv_timer_t *tick)
{
    struct prefill *p = tick->data;
    uint64_t now = clock_now_ns();
    struct prefill_request *next;

    for (struct prefill_request *r = first(p); r != NULL; r = next) {
        next = after(r); /* only r itself can go away below */
        if (now < r->deadline_ns)
            continue;
        if (r->state == PREFILL_WAIT_GRANT)
            fail_handover(r, ERR_TIMEOUT, "no grant came in time");
        else if (r->state == PREFILL_SENDING)
            fail_handover(r, ERR_TIMEOUT, "the hand-over was not acknowledged in time");
    }
    if (p->table.n == 0) {
        uv_timer_stop(tick);
        p->ticking = false;
    }
}

static void start_tick(struct prefill *p)
{
    if (!p->ticking)
        uv_timer_start(p->tick, on_tick, TICK_MS, TICK_MS);
    p->ticking = true;
}

/* ---- public ---- */

static void free_timer(uv_handle_t *h)
{
    mem_free(h);
}

static enum err create_timer(struct prefill *p)
{
    p->tick = mem_try_calloc(1, sizeof(*p->tick));
    if (p->tick == NULL)
        return ERR_NOMEM;
    if (uv_timer_init(p->c.loop, p->tick) != 0) {
        mem_free(p->tick);
        p->tick = NULL;
        return ERR_NOMEM;
    }
    p->tick->data = p;
    return ERR_OK;
}

enum err prefill_create(const struct prefill_config *c, struct prefill **out)
{
    struct prefill *p = mem_try_calloc(1, sizeof(*p));
    enum err err;

    if (p == NULL)
        return ERR_NOMEM;
    p->c = *c;
    p->info = engine_info(c->engine);
    if ((err = engine_blocks_create(c->n_blocks, &p->blocks)) != ERR_OK ||
        (err = create_timer(p)) != ERR_OK ||
        (err = prefill_engine_start(c->engine, c->loop, &step_hooks, p, &p->engine)) != ERR_OK) {
        if (p->tick != NULL)
            uv_close((uv_handle_t *)p->tick, free_timer);
        engine_blocks_destroy(p->blocks);
        mem_free(p);
        return err;
    }
    *out = p;
    return ERR_OK;
}

/* The request gets its place in table, pool and queue, or none at all. */
static enum err admit(struct prefill *p, struct prefill_request *r, struct err_msg *msg)
{
    enum err err = engine_blocks_take(p->blocks, r->n_blocks, ENGINE_BLOCK_OWNED, r->blocks);

    if (err != ERR_OK)
        return err_set(msg, err, "%u blocks are needed, %u are free", r->n_blocks,
                       engine_blocks_count(p->blocks, ENGINE_BLOCK_FREE));
    err = engine_attempts_add(&p->table, &r->at);
    if (err == ERR_OK) {
        err = prefill_queue_push(&p->queue, r);
        if (err == ERR_OK)
            return ERR_OK;
        engine_attempts_remove(&p->table, &r->at);
    }
    if (engine_blocks_move(p->blocks, r->blocks, r->n_blocks, ENGINE_BLOCK_OWNED,
                           ENGINE_BLOCK_FREE) != ERR_OK)
        LOG_ERROR("prefill", "blocks of a request were not its own", "req=%" PRIx64, r->at.request);
    return err_set(msg, err, "no memory for a request");
}

void prefill_on_prefill(struct prefill *p, const Baton__Prefill *m)
{
    struct prefill_request *r = NULL;
    struct err_msg msg = {""};
    enum err err;

    if (find(p, m->request, m->epoch) != NULL) {
        p->late_messages++;
        return;
    }
    err = prefill_request_create(m, p->info, &msg, &r);
    if (err == ERR_OK) {
        r->owner = p;
        r->arrival = ++p->arrivals;
        r->arrived_ns = clock_now_ns();
        if (r->handover_ns == 0)
            r->handover_ns = handover_default_ns;
        if (r->handover_ns > handover_most_ns)
            r->handover_ns = handover_most_ns;
        err = admit(p, r, &msg);
        if (err != ERR_OK)
            prefill_request_destroy(r);
    }
    if (err != ERR_OK) {
        msg.text[255] = '\0'; /* what a message may carry */
        send_released(p, m->request, m->epoch, err, msg.text, 0);
        return;
    }
    start_tick(p);
    if (p->broken)
        close_request(r, ERR_DEVICE, "the engine is broken");
    else
        kick(p);
}

void prefill_on_cancel(struct prefill *p, const Baton__Cancel *m)
{
    struct prefill_request *r = find(p, m->request, m->epoch);

    if (r == NULL)
        p->late_messages++;
    else
        close_request(r, ERR_CANCELED, "");
}

void prefill_cancel_all(struct prefill *p)
{
    struct prefill_request *next;

    for (struct prefill_request *r = first(p); r != NULL; r = next) {
        next = after(r);
        close_request(r, ERR_CANCELED, "");
    }
}

void prefill_cancel_frontend(struct prefill *p, uint32_t frontend)
{
    struct prefill_request *next;

    for (struct prefill_request *r = first(p); r != NULL; r = next) {
        next = after(r);
        if (r->frontend == frontend)
            close_request(r, ERR_CANCELED, "the front end is gone");
    }
}

void prefill_report(struct prefill *p, Baton__Report *m)
{
    m->waiting = 0;
    m->running = 0;
    m->live_sends = 0;
    for (const struct prefill_request *r = first(p); r != NULL; r = after(r)) {
        m->waiting += r->state == PREFILL_QUEUED;
        m->running += r->state != PREFILL_QUEUED;
        m->live_sends += r->send != NULL;
    }
    m->free_blocks = engine_blocks_count(p->blocks, ENGINE_BLOCK_FREE);
    m->blocks_owned = engine_blocks_count(p->blocks, ENGINE_BLOCK_OWNED);
    m->step_ns = p->step_ns;
    m->steps = p->steps;
    m->live_requests = p->table.n;
    m->late_messages += p->late_messages;
    m->prompt_tokens = p->prompt_tokens;
    m->generated_tokens = p->generated_tokens;
    engine_samples_take(&p->samples, m);
}

uint32_t prefill_live(const struct prefill *p)
{
    return p->table.n;
}

/* What a transfer still reads lives on until it says that it is done; see on_send_done. */
static void drop(struct prefill_request *r)
{
    r->owner = NULL;
    if (r->send == NULL)
        prefill_request_destroy(r);
    else
        kvt_send_cancel(r->send);
}

void prefill_destroy(struct prefill *p)
{
    struct prefill_request *r;

    if (p == NULL)
        return;
    p->closing = true;
    prefill_engine_stop(p->engine);
    while ((r = first(p)) != NULL) {
        engine_attempts_remove(&p->table, &r->at);
        drop(r);
    }
    uv_close((uv_handle_t *)p->tick, free_timer);
    prefill_queue_free(&p->queue);
    engine_attempts_free(&p->table);
    wire_tokens_free(&p->frames);
    engine_blocks_destroy(p->blocks);
    mem_free(p);
}
