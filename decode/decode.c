/* decode/decode.c - see the header for the contract.
 *
 * The loop thread speaks to scheduler, front ends and KV node; the engine thread (decode_batch.c) decides
 * who has room and who steps.  Blocks of a hand-over are GRANTED until it is verified, then OWNED.
 *
 * maybe_release is the only place where blocks come back and RELEASED is sent; it waits until neither the
 * engine thread nor the KV node has anything of the request.  An end is a latch: results of a step that was
 * running when it came are dropped.
 */
#include "decode/decode.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "decode/decode_batch.h"
#include "decode/decode_pool.h"
#include "decode/decode_request.h"
#include "engine/engine_samples.h"
#include "proto/wire_meta.h"
#include "proto/wire_tokens.h"

enum { PROGRESS_MAX = 65536, WAITING_MAX = 4096, TICK_MS = 20 };

static const uint64_t progress_gap_ns = 20 * CLOCK_NS_PER_MS;

struct decode {
    struct decode_config c;
    const struct engine_info *info;
    struct decode_batch *batch;
    struct decode_pool *pool;
    struct engine_attempts table;
    struct wire_tokens frames;
    struct engine_samples samples;
    uv_timer_t *tick; /* runs while somebody waits for blocks */
    bool ticking, closing, broken;
    uint32_t waiting;
    uint64_t next_transfer;
    uint64_t steps, decode_steps, step_ns, generated_tokens, prompt_tokens, local_prefills,
        late_messages;
    uint64_t *progress_request;
    uint32_t *progress_tokens;
    uint32_t progress_cap;
};

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

/* Waiting ones are counted: while there are any, nobody else takes the short cut to blocks. */
static bool set_state(struct decode_request *r, enum decode_state to)
{
    bool waited = r->state == DECODE_WAITING;

    if (!decode_request_set_state(r, to))
        return false;
    r->owner->waiting -= waited;
    return true;
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

static void send_refused(struct decode *d, uint64_t request, uint32_t epoch, const char *why)
{
    Baton__Granted g = BATON__GRANTED__INIT;

    g.request = request;
    g.epoch = epoch;
    g.error = (char *)(uintptr_t)why;
    d->c.to_scheduler(d->c.arg, WIRE_GRANTED, &g.base);
}

static void send_granted(struct decode *d, const struct decode_request *r, uint64_t transfer,
                         uint8_t *bytes)
{
    Baton__Granted g = BATON__GRANTED__INIT;

    for (uint32_t i = 0; i < r->run.n_blocks; i++) {
        for (int k = 0; k < 4; k++)
            bytes[i * 4 + (uint32_t)k] = (uint8_t)(r->run.blocks[i] >> (8 * k));
    }
    g.request = r->at.request;
    g.epoch = r->at.epoch;
    g.ok = true;
    g.transfer = transfer;
    g.blocks.data = bytes;
    g.blocks.len = (size_t)r->run.n_blocks * 4;
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

static void send_prompt_progress(struct decode_request *r, const struct decode_result *s,
                                 const struct engine_slot *slot)
{
    Baton__PrefillProgress m = BATON__PREFILL_PROGRESS__INIT;

    if (!slot->sample && s->ended_ns - r->progress_ns < progress_gap_ns)
        return;
    r->progress_ns = s->ended_ns;
    m.request = r->at.request;
    m.epoch = r->at.epoch;
    m.tokens_done = slot->position + slot->n_tokens;
    m.step_ns = s->ended_ns - s->started_ns;
    m.step_tokens = (uint32_t)s->did.n;
    r->owner->c.to_scheduler(r->owner->c.arg, WIRE_PREFILL_PROGRESS, &m.base);
}

static void send_prompt_done(struct decode_request *r, uint64_t ended_ns, bool finished)
{
    Baton__PrefillDone m = BATON__PREFILL_DONE__INIT;

    m.request = r->at.request;
    m.epoch = r->at.epoch;
    m.queue_ns = r->started_ns - r->arrived_ns;
    m.prefill_ns = ended_ns - r->started_ns;
    m.finished = finished;
    r->owner->c.to_scheduler(r->owner->c.arg, WIRE_PREFILL_DONE, &m.base);
}

/* ---- end of a request ---- */

static void set_block_state(struct decode_request *r, enum engine_block_state to)
{
    decode_pool_move(r->owner->pool, r->run.blocks, r->run.n_blocks, r->block_state, to);
    r->block_state = to;
}

static void maybe_release(struct decode_request *r)
{
    struct decode *d = r->owner;
    uint64_t decode_ns = r->running_ns != 0 ? clock_now_ns() - r->running_ns : 0;

    if (r->state != DECODE_QUARANTINED || r->holds > 0 || r->grant != NULL || r->in_engine)
        return;
    engine_attempts_remove(&d->table, &r->at);
    set_block_state(r, ENGINE_BLOCK_FREE);
    decode_batch_poke(d->batch);
    if (!r->local && !r->answered)
        send_refused(d, r->at.request, r->at.epoch, r->why);
    send_released(d, r->at.request, r->at.epoch, r->end, r->why, r->generated, decode_ns);
    decode_request_destroy(r);
}

/* The batch has let go of it, or never had it. */
static void quarantine(struct decode_request *r)
{
    (void)set_state(r, DECODE_QUARANTINED);
    if (r->grant != NULL)
        set_block_state(r, ENGINE_BLOCK_QUARANTINED);
    maybe_release(r);
}

static void set_end(struct decode_request *r, enum err err, const char *why)
{
    r->end = err;
    snprintf(r->why, sizeof(r->why), "%s", why);
}

/* Whatever it is doing.  The first cause counts.  r may be gone when this returns. */
static void end_request(struct decode_request *r, enum err err, const char *why)
{
    if (r->state == DECODE_LEAVING || r->state == DECODE_QUARANTINED)
        return;
    set_end(r, err, why);
    r->holds++;
    if (r->grant != NULL) {
        /* the engine thread takes and parks blocks of those that run: quarantine() will */
        if (r->state != DECODE_RUNNING)
            set_block_state(r, ENGINE_BLOCK_QUARANTINED);
        kvt_grant_cancel(r->grant);
    }
    r->holds--;
    if (!r->in_engine)
        quarantine(r);
    else if (set_state(r, DECODE_LEAVING))
        decode_batch_leave(r->owner->batch, &r->run);
}

static void end_all(struct decode *d, enum err err, const char *why)
{
    for (struct decode_request *r = first(d), *next; r != NULL; r = next) {
        next = after(r);
        end_request(r, err, why);
    }
}

/* ---- hand-over ---- */

static enum err check_meta(const struct decode_request *r, const struct kvt_arrival *a,
                           struct wire_meta *meta)
{
    if (wire_meta_decode(a->meta, a->meta_len, meta) != ERR_OK)
        return ERR_CORRUPT;
    if (meta->request != r->at.request || meta->epoch != r->at.epoch ||
        meta->n_tokens != r->run.n_tokens || meta->index != r->run.n_tokens - r->run.n_prompt ||
        meta->token >= r->owner->info->vocab)
        return ERR_CORRUPT;
    return ERR_OK;
}

/* came_ns: of the last word of the hand-over, which left when the first token did. */
static void start_running(struct decode_request *r, const struct wire_meta *meta, uint64_t came_ns)
{
    struct decode_run *run = &r->run;

    if (!set_state(r, DECODE_RUNNING))
        return;
    set_block_state(r, ENGINE_BLOCK_OWNED);
    r->running_ns = clock_now_ns();
    r->index = meta->index;
    if (engine_params_finish(&r->params, (int32_t)meta->token, meta->index, run->max_new) !=
        ENGINE_FINISH_NO) {
        end_request(r, ERR_OK, ""); /* the first token was the last */
        return;
    }
    run->token = (int32_t)meta->token;
    run->position = run->n_tokens;
    run->index = meta->index;
    if (meta->index == 0)
        run->first_ns =
            came_ns > r->arrived_ns && came_ns < r->running_ns ? came_ns : r->running_ns;
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
    if (err == ERR_OK)
        start_running(r, &meta, a->last_ns);
    else
        end_request(r, err, "the hand-over failed");
}

static void on_safe(void *arg)
{
    struct decode_request *r = arg;

    r->grant = NULL;
    if (r->owner == NULL)
        decode_request_destroy(r);
    else
        maybe_release(r);
}

static enum err open_grant(struct decode_request *r, uint64_t transfer)
{
    struct kvt_grant_config c = {.transfer = transfer,
                                 .epoch = r->at.epoch,
                                 .peer = r->prefill_worker,
                                 .slots = r->run.blocks,
                                 .n_slots = r->run.n_blocks,
                                 .deadline_ns = r->deadline_ns,
                                 .arg = r,
                                 .on_arrival = on_arrival,
                                 .on_safe = on_safe};

    return kvt_grant_open(r->owner->c.kvt, &c, &r->grant);
}

/* It has its blocks: the prefill worker may write. */
static void grant(struct decode_request *r)
{
    struct decode *d = r->owner;
    uint64_t transfer = d->next_transfer++;
    uint8_t *bytes = mem_try_alloc((size_t)r->run.n_blocks * 4);
    enum err err = bytes != NULL ? open_grant(r, transfer) : ERR_NOMEM;
    char why[128];

    if (err == ERR_OK && set_state(r, DECODE_GRANTED)) {
        r->answered = true;
        send_granted(d, r, transfer, bytes);
    } else {
        snprintf(why, sizeof(why), "the grant could not be opened: %s", err_text(err));
        end_request(r, err, why);
    }
    mem_free(bytes);
}

/* ---- new requests ---- */

static void start_tick(struct decode *d);

/* Its blocks at once where there are plenty, else in its turn. */
static void admit(struct decode *d, struct decode_request *r)
{
    struct decode_run *run = &r->run;
    uint32_t bt = d->info->kv.block_tokens;
    uint32_t need = (run->n_tokens + bt - 1) / bt;
    bool at_once = d->waiting == 0 && decode_pool_try(d->pool, need, r->block_state, run->blocks);

    r->owner = d;
    r->state = DECODE_WAITING;
    d->waiting++;
    d->local_prefills += r->local;
    r->in_engine = true;
    if (!at_once) {
        decode_batch_enter(d->batch, run, DECODE_RUN_WAITING);
        start_tick(d);
        return;
    }
    run->n_blocks = need;
    decode_batch_enter(d->batch, run, r->local ? DECODE_RUN_PROMPT : DECODE_RUN_ARRIVING);
    if (!r->local)
        grant(r);
    else
        (void)set_state(r, DECODE_COMPUTING);
}

/* What can be refused before it is anything. */
static enum err check_room(struct decode *d, struct decode_request *r, struct err_msg *msg)
{
    enum err err;

    if (d->broken)
        return err_set(msg, ERR_DEVICE, "the engine is broken");
    if (d->waiting >= WAITING_MAX)
        return err_set(msg, ERR_LIMIT, "%u requests wait for KV room already", d->waiting);
    err = engine_attempts_add(&d->table, &r->at);
    return err == ERR_OK ? ERR_OK : err_set(msg, err, "no memory for a request");
}

static void take_in(struct decode *d, struct decode_request *r, enum err err, struct err_msg *msg,
                    uint64_t request, uint32_t epoch, bool local)
{
    if (err == ERR_OK) {
        err = check_room(d, r, msg);
        if (err == ERR_OK) {
            admit(d, r);
            return;
        }
        decode_request_destroy(r);
    }
    msg->text[255] = '\0'; /* what a message may carry */
    if (!local)
        send_refused(d, request, epoch, msg->text);
    send_released(d, request, epoch, err, msg->text, 0, 0);
}

void decode_on_reserve(struct decode *d, const Baton__Reserve *m)
{
    struct err_msg msg = {""};
    struct decode_request *r = NULL;
    enum err err;

    if (find(d, m->request, m->epoch) != NULL) {
        d->late_messages++;
        return;
    }
    err = decode_request_from_reserve(m, d->info, d->c.n_blocks, &msg, &r);
    take_in(d, r, err, &msg, m->request, m->epoch, false);
}

void decode_on_prefill(struct decode *d, uint32_t self, const Baton__Prefill *m)
{
    struct err_msg msg = {""};
    struct decode_request *r = NULL;
    enum err err;

    if (find(d, m->request, m->epoch) != NULL) {
        d->late_messages++;
        return;
    }
    if (m->decode_worker != 0 && m->decode_worker != self)
        err = err_set(&msg, ERR_INVALID, "a decode worker hands nothing over");
    else
        err = decode_request_from_prefill(m, d->info, d->c.n_blocks, &msg, &r);
    take_in(d, r, err, &msg, m->request, m->epoch, true);
}

/* ---- steps ---- */

static struct decode_request *request_of(struct decode_run *run)
{
    return (struct decode_request *)((char *)run - offsetof(struct decode_request, run));
}

static void on_room(void *arg, struct decode_run *run)
{
    struct decode *d = arg;
    struct decode_request *r = request_of(run);

    if (d->closing || r->state != DECODE_WAITING)
        return; /* ended meanwhile: on_left gives the blocks back */
    if (r->local)
        (void)set_state(r, DECODE_COMPUTING);
    else
        grant(r);
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

static bool runs(const struct decode_request *r)
{
    return r->state == DECODE_RUNNING || r->state == DECODE_COMPUTING;
}

static void take_token(struct decode *d, struct decode_request *r, const struct engine_slot *slot,
                       uint8_t finish)
{
    /* r->end is the latch: a token that could not be sent ends the stream, later ones included. */
    if (!add_token(d, r, slot, finish)) {
        set_end(r, ERR_NOMEM, "no memory for a token");
        return;
    }
    r->index = slot->sample_index;
    r->generated++;
    d->generated_tokens++;
}

/* The tokens of one step, in one frame per front end. */
static void send_tokens(struct decode *d, const struct decode_result *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct decode_request *r = request_of(s->runs[i]);
        const struct engine_slot *slot = &s->slots[i];

        if (slot->position == 0)
            r->started_ns = s->started_ns;
        if (!runs(r) || slot->result != ERR_OK || r->end != ERR_OK)
            continue;
        if (slot->position < r->run.n_tokens)
            d->prompt_tokens += slot->n_tokens;
        if (slot->sample)
            take_token(d, r, slot, s->finish[i]);
    }
    wire_tokens_each(&d->frames, d->c.to_frontend, d->c.arg);
}

/* The first token is out: from here on it is like one whose hand-over came. */
static void prompt_done(struct decode_request *r, const struct decode_result *s, uint32_t i)
{
    bool finished = s->finish[i] != ENGINE_FINISH_NO || r->one_only;

    send_prompt_done(r, s->ended_ns, finished);
    r->running_ns = s->ended_ns;
    (void)set_state(r, DECODE_RUNNING);
    if (finished && s->finish[i] == ENGINE_FINISH_NO)
        end_request(r, ERR_OK, "");
}

/* After the frames, so that a request's tokens are out before its RELEASED. */
static void settle(const struct decode_result *s, uint32_t i)
{
    struct decode_request *r = request_of(s->runs[i]);
    const struct engine_slot *slot = &s->slots[i];
    bool left = s->finish[i] != ENGINE_FINISH_NO || slot->result != ERR_OK;

    if (!runs(r))
        return; /* ended before: on_left releases it */
    if (r->state == DECODE_COMPUTING && slot->result == ERR_OK && r->end == ERR_OK) {
        send_prompt_progress(r, s, slot);
        if (slot->sample)
            prompt_done(r, s, i);
        if (r->state == DECODE_LEAVING)
            return;
    }
    if (left) {
        r->in_engine = false;
        if (slot->result != ERR_OK)
            set_end(r, slot->result, "the engine refused the step");
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
    end_all(d, ERR_DEVICE, "the engine is broken");
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
    d->decode_steps += s->did.b > 0;
    d->step_ns = s->pace_ns;
    engine_samples_add(&d->samples, (uint64_t)s->did.n, (uint64_t)s->did.n2, (uint64_t)s->did.b,
                       (uint64_t)s->did.ctx, d->step_ns);
    send_tokens(d, s);
    for (uint32_t i = 0; i < s->n; i++)
        settle(s, i);
}

static void on_gone(void *arg, struct decode_run *run)
{
    struct decode *d = arg;

    if (!d->closing)
        end_request(request_of(run), run->gone, run->why);
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

static const struct decode_batch_hooks batch_hooks = {
    .on_room = on_room, .on_step = on_step, .on_gone = on_gone, .on_left = on_left};

/* ---- deadlines ---- */

static void on_tick(uv_timer_t *tick)
{
    struct decode *d = tick->data;
    uint64_t now = clock_now_ns();

    for (struct decode_request *r = first(d), *next; r != NULL; r = next) {
        next = after(r);
        if (r->state == DECODE_WAITING && now >= r->deadline_ns)
            end_request(r, ERR_LIMIT, "no KV room came free in time");
    }
    if (d->waiting == 0) {
        uv_timer_stop(tick);
        d->ticking = false;
    }
}

static void start_tick(struct decode *d)
{
    if (!d->ticking)
        uv_timer_start(d->tick, on_tick, TICK_MS, TICK_MS);
    d->ticking = true;
}

static void free_timer(uv_handle_t *h)
{
    mem_free(h);
}

static enum err create_timer(struct decode *d)
{
    d->tick = mem_try_calloc(1, sizeof(*d->tick));
    if (d->tick == NULL)
        return ERR_NOMEM;
    if (uv_timer_init(d->c.loop, d->tick) != 0) {
        mem_free(d->tick);
        d->tick = NULL;
        return ERR_NOMEM;
    }
    d->tick->data = d;
    return ERR_OK;
}

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
    if ((err = decode_pool_create(c->engine, c->n_blocks, c->park_bytes, &d->pool)) != ERR_OK ||
        (err = create_timer(d)) != ERR_OK ||
        (err = decode_batch_start(c->engine, d->pool, c->loop, &batch_hooks, d, &d->batch)) !=
            ERR_OK) {
        if (d->tick != NULL)
            uv_close((uv_handle_t *)d->tick, free_timer);
        decode_pool_destroy(d->pool);
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
    end_all(d, ERR_CANCELED, "");
}

void decode_cancel_frontend(struct decode *d, uint32_t frontend)
{
    for (struct decode_request *r = first(d), *next; r != NULL; r = next) {
        next = after(r);
        if (r->frontend == frontend)
            end_request(r, ERR_CANCELED, "the front end is gone");
    }
}

static void report_requests(const struct decode *d, Baton__Report *m)
{
    m->waiting = 0;
    m->running = 0;
    m->live_grants = 0;
    for (const struct decode_request *r = first(d); r != NULL; r = after(r)) {
        m->waiting += r->state == DECODE_WAITING || r->state == DECODE_GRANTED;
        m->running += runs(r);
        m->live_grants += r->grant != NULL;
    }
    m->running -= m->parked < m->running ? m->parked : m->running;
    m->live_requests = d->table.n;
}

void decode_report(struct decode *d, Baton__Report *m)
{
    struct decode_stats s = decode_pool_stats(d->pool);
    uint32_t n[ENGINE_BLOCK_N_STATES];

    decode_pool_counts(d->pool, n);
    m->parked = s.parked;
    m->blocks_parked = s.blocks_parked;
    m->context = s.context;
    m->parks = s.parks;
    m->resumes = s.resumes;
    m->gave_up = s.gave_up;
    report_requests(d, m);
    m->free_blocks = n[ENGINE_BLOCK_FREE];
    m->blocks_owned = n[ENGINE_BLOCK_OWNED];
    m->blocks_granted = n[ENGINE_BLOCK_GRANTED];
    m->blocks_quarantined = n[ENGINE_BLOCK_QUARANTINED];
    m->step_ns = d->step_ns;
    m->steps = d->steps;
    m->decode_steps = d->decode_steps;
    m->late_messages += d->late_messages;
    m->generated_tokens = d->generated_tokens;
    m->prompt_tokens = d->prompt_tokens;
    m->local_prefills = d->local_prefills;
    engine_samples_take(&d->samples, m);
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

uint32_t decode_park_blocks(const struct decode *d)
{
    return decode_pool_places(d->pool);
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
            decode_request_destroy(r);
        else
            kvt_grant_cancel(r->grant); /* on_safe frees it */
    }
    uv_close((uv_handle_t *)d->tick, free_timer);
    engine_attempts_free(&d->table);
    wire_tokens_free(&d->frames);
    mem_free(d->progress_request);
    mem_free(d->progress_tokens);
    decode_pool_destroy(d->pool);
    mem_free(d);
}
