/* decode/decode_batch.c - see the header.
 *
 * A turn of the thread: messages, plan (decode_plan.c), moves (park, then resume, then grants), one step.  When
 * nothing could be done it sleeps until a message comes or the plan wants to look again. */
#include "decode/decode_batch.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "decode/decode_plan.h"

/* Nobody can move: how long hand-overs and quarantined blocks get to end before somebody is given up. */
static const uint64_t stuck_grace_ns = CLOCK_NS_PER_S;

struct decode_batch {
    struct engine *engine;
    struct decode_pool *pool;
    const struct decode_batch_hooks *hooks;
    void *arg;
    struct mbox *to_engine, *to_loop;
    uv_thread_t thread;
    struct mbox_msg stop, poke;
    atomic_bool poked;
    struct decode_result results[DECODE_RESULTS];
    /* engine thread's */
    bool stopping, broken;
    struct decode_plan plan;
    struct decode_stats stats;
    uint32_t headroom; /* blocks that the next step of all may need */
    struct decode_result *free;
    uint64_t stuck_ns;    /* since when nobody can move; 0: somebody can */
    uint64_t last_end_ns; /* of the step before, if the thread has not slept since; else 0 */
};

#define OWNER(msg, type, member) ((type *)((char *)(msg)-offsetof(type, member)))

/* ---- engine thread: what is known outside ---- */

/* Before the loop hears of a change, so that no report is behind what it was told. */
static void publish(struct decode_batch *b)
{
    const struct decode_plan *p = &b->plan;

    b->stats.parked = p->count[DECODE_RUN_PARKED];
    b->stats.context = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->runs[i]->state == DECODE_RUN_RESIDENT)
            b->stats.context += p->runs[i]->position;
        else if (p->runs[i]->state == DECODE_RUN_PROMPT)
            b->stats.context += p->runs[i]->done;
    }
    decode_pool_publish(
        b->pool, p->count[DECODE_RUN_WAITING] + p->count[DECODE_RUN_PARKED] > 0 || b->stuck_ns != 0,
        b->headroom, &b->stats);
}

/* ---- engine thread: who comes and goes ---- */

static void run_gone(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, out);

    run->batch->hooks->on_gone(run->batch->arg, run);
}

static void drop_parked(struct decode_batch *b, struct decode_run *run)
{
    if (run->n_parked == 0)
        return;
    decode_pool_drop(b->pool, run->blocks, run->n_parked);
    b->stats.blocks_parked -= run->n_parked;
    run->n_parked = 0;
}

/* It leaves unasked. */
static void give_up(struct decode_batch *b, struct decode_run *run, enum err err, const char *why)
{
    drop_parked(b, run);
    if (run->state != DECODE_RUN_OUT)
        decode_plan_remove(&b->plan, run);
    run->gone = err;
    run->why = why;
    publish(b);
    run->out.run = run_gone;
    mbox_post(b->to_loop, &run->out);
}

/* Where memory is short the run stays without a history, and the engine refuses its slot. */
static void build_history(struct decode_run *run, bool with_latest)
{
    struct engine_history *h;
    bool ok = true;

    if (!engine_sampling_uses_history(&run->params->sampling) ||
        engine_history_create(&h) != ERR_OK)
        return;
    for (uint32_t i = 0; ok && run->known != NULL && i < run->n_tokens; i++)
        ok = engine_history_add(h, run->known[i], i >= run->n_prompt) == ERR_OK;
    if (!ok || (with_latest && engine_history_add(h, run->token, true) != ERR_OK)) {
        engine_history_destroy(h);
        return;
    }
    run->history = h;
}

static void run_enter(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, enter);

    if (decode_plan_add(&run->batch->plan, run) != ERR_OK)
        give_up(run->batch, run, ERR_NOMEM, "no memory for one more request");
}

static void run_join(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, join);

    if (run->state == DECODE_RUN_OUT)
        return; /* given up */
    build_history(run, true);
    run->last_ns = clock_now_ns();
    decode_plan_set_state(&run->batch->plan, run, DECODE_RUN_RESIDENT);
}

static void run_left(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, leave);

    run->batch->hooks->on_left(run->batch->arg, run);
}

static void run_leave(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, leave);

    drop_parked(run->batch, run);
    if (run->state != DECODE_RUN_OUT)
        decode_plan_remove(&run->batch->plan, run);
    publish(run->batch);
    msg->run = run_left;
    mbox_post(run->batch->to_loop, msg);
}

static void run_room(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, room);

    run->batch->hooks->on_room(run->batch->arg, run);
}

/* ---- engine thread: moves ---- */

/* Where a move fails nothing has changed, and the next plan sees what there is. */
static bool park(struct decode_batch *b, struct decode_run *run)
{
    enum err err = decode_pool_park(b->pool, run->blocks, run->n_blocks);

    if (err != ERR_OK) {
        if (err == ERR_DEVICE)
            give_up(b, run, err, "its KV could not be copied out");
        return err == ERR_DEVICE;
    }
    run->n_parked = run->n_blocks;
    b->stats.blocks_parked += run->n_parked;
    run->n_blocks = 0;
    decode_plan_set_state(&b->plan, run, DECODE_RUN_PARKED);
    b->stats.parks++;
    return true;
}

static bool resume(struct decode_batch *b, struct decode_run *run)
{
    enum err err = decode_pool_resume(b->pool, run->blocks, run->n_parked);

    if (err != ERR_OK) {
        if (err == ERR_DEVICE)
            give_up(b, run, err, "its KV could not be copied back");
        return err == ERR_DEVICE;
    }
    run->n_blocks = run->n_parked;
    b->stats.blocks_parked -= run->n_parked;
    run->n_parked = 0;
    decode_plan_set_state(&b->plan, run, DECODE_RUN_RESIDENT);
    b->stats.resumes++;
    return true;
}

static bool give_room(struct decode_batch *b, struct decode_run *run)
{
    uint32_t need = decode_plan_need(&b->plan, run);

    if (decode_pool_take(b->pool, need, run->local ? ENGINE_BLOCK_OWNED : ENGINE_BLOCK_GRANTED,
                         run->blocks) != ERR_OK)
        return false;
    run->n_blocks = need;
    decode_plan_set_state(&b->plan, run, run->local ? DECODE_RUN_PROMPT : DECODE_RUN_ARRIVING);
    run->room.run = run_room;
    mbox_post(b->to_loop, &run->room);
    return true;
}

/* The list is walked backwards, since who is given up leaves it. */
static bool move_all(struct decode_batch *b)
{
    static const enum sched_batch_do order[] = {SCHED_DO_PARK, SCHED_DO_RESUME, SCHED_DO_GRANT};
    bool any = false;

    for (size_t k = 0; k < sizeof(order) / sizeof(order[0]); k++) {
        for (uint32_t i = b->plan.n; i-- > 0;) {
            struct decode_run *run = b->plan.runs[i];

            if (run->what != order[k])
                continue;
            if (order[k] == SCHED_DO_PARK)
                any |= park(b, run);
            else if (order[k] == SCHED_DO_RESUME)
                any |= resume(b, run);
            else
                any |= give_room(b, run);
        }
    }
    return any;
}

/* ---- engine thread: the step ---- */

static void recycle(struct mbox_msg *msg)
{
    struct decode_result *r = OWNER(msg, struct decode_result, msg);

    r->next_free = r->batch->free;
    r->batch->free = r;
}

static void run_result(struct mbox_msg *msg)
{
    struct decode_result *r = OWNER(msg, struct decode_result, msg);

    r->batch->hooks->on_step(r->batch->arg, r);
    msg->run = recycle;
    mbox_post(r->batch->to_engine, msg);
}

static struct engine_slot *add_slot(struct decode_result *r, struct decode_run *run)
{
    struct engine_slot *slot = &r->slots[r->n];

    slot->blocks = run->blocks;
    slot->n_blocks = run->n_blocks;
    slot->sampling = &run->params->sampling;
    slot->history = run->history;
    slot->out.n_top = 0;
    slot->result = ERR_OK;
    r->runs[r->n++] = run;
    return slot;
}

static void add_decode(struct decode_result *r, struct decode_run *run)
{
    struct engine_slot *slot = add_slot(r, run);

    slot->tokens = &run->token;
    slot->n_tokens = 1;
    slot->position = run->position;
    slot->sample = true;
    slot->sample_index = run->index + 1;
    r->did.b += 1;
    r->did.ctx += run->position;
}

static void add_prompt(struct decode_result *r, struct decode_run *run, uint32_t chunk)
{
    struct engine_slot *slot;
    double n = chunk;

    if (run->done + chunk == run->n_tokens && run->history == NULL)
        build_history(run, false);
    slot = add_slot(r, run);
    slot->tokens = run->known + run->done;
    slot->n_tokens = chunk;
    slot->position = run->done;
    slot->sample = run->done + chunk == run->n_tokens;
    slot->sample_index = run->n_tokens - run->n_prompt;
    run->what = SCHED_DO_STEP;
    r->did.n += n;
    r->did.n2 += n * (n + 2.0 * run->done);
}

/* The block for its next token; false: there is none. */
static bool has_block(struct decode_batch *b, struct decode_run *run)
{
    uint32_t need = decode_plan_need(&b->plan, run);

    if (need == 0)
        return true;
    if (decode_pool_take(b->pool, need, ENGINE_BLOCK_OWNED, run->blocks + run->n_blocks) != ERR_OK)
        return false;
    run->n_blocks += need;
    return true;
}

static struct sched_step planned(const struct decode_plan *p)
{
    struct sched_step s = {.n = 0};

    for (uint32_t i = 0; i < p->n; i++) {
        if (p->runs[i]->state == DECODE_RUN_RESIDENT && p->runs[i]->what == SCHED_DO_STEP) {
            s.b += 1;
            s.ctx += p->runs[i]->position;
        }
    }
    return s;
}

/* Beside a batch one piece of one prompt; alone, as many as a step takes. */
static uint32_t fill_prompts(struct decode_batch *b, struct decode_result *r, uint64_t now)
{
    struct sched_step beside = planned(&b->plan);
    uint32_t used = 0, room = b->plan.step_tokens;
    uint32_t pieces = beside.b > 0 ? 1 : b->plan.step_max;
    struct decode_run *run;
    uint32_t chunk;

    if (beside.b > 0)
        room = room > beside.b ? room - (uint32_t)beside.b : 1;
    while (pieces-- > 0 && used < room &&
           (run = decode_plan_prompt(&b->plan, &beside, now, &chunk)) != NULL && chunk > 0) {
        chunk = chunk < room - used ? chunk : room - used;
        add_prompt(r, run, chunk);
        used += chunk;
    }
    if (used > 0)
        b->plan.prompt_ns = now;
    return used;
}

static void fill_step(struct decode_batch *b, struct decode_result *r, uint64_t now)
{
    uint32_t used;

    r->n = 0;
    memset(&r->did, 0, sizeof(r->did));
    used = fill_prompts(b, r, now);
    for (uint32_t i = 0; i < b->plan.n; i++) {
        struct decode_run *run = b->plan.runs[i];

        if (r->n == b->plan.step_max || used == b->plan.step_tokens)
            return;
        if (run->state != DECODE_RUN_RESIDENT || run->what != SCHED_DO_STEP || !has_block(b, run))
            continue;
        add_decode(r, run);
        used++;
    }
}

static void after_prompt(struct decode_run *run, const struct engine_slot *slot)
{
    run->done += slot->n_tokens;
    if (!slot->sample)
        return;
    run->token = slot->out.token;
    run->position = run->n_tokens;
    run->index = slot->sample_index;
}

static void take_outcome(struct decode_batch *b, struct decode_result *r, uint32_t i)
{
    struct decode_run *run = r->runs[i];
    struct engine_slot *slot = &r->slots[i];

    r->finish[i] = ENGINE_FINISH_NO;
    if (slot->result == ERR_OK && run->state == DECODE_RUN_PROMPT) {
        after_prompt(run, slot);
    } else if (slot->result == ERR_OK) {
        run->token = slot->out.token;
        run->position++;
        run->index++;
    }
    if (slot->result == ERR_OK && slot->sample) {
        run->turn_ns = run->last_ns;
        run->last_ns = r->ended_ns;
        if (run->state == DECODE_RUN_PROMPT && run->index == 0)
            run->first_ns = r->ended_ns;
        r->finish[i] =
            (uint8_t)engine_params_finish(run->params, run->token, run->index, run->max_new);
        if (r->finish[i] == ENGINE_FINISH_NO && run->history != NULL &&
            engine_history_add(run->history, run->token, true) != ERR_OK)
            slot->result = ERR_NOMEM;
        if (run->state == DECODE_RUN_PROMPT)
            decode_plan_set_state(&b->plan, run, DECODE_RUN_RESIDENT);
    }
    if (r->finish[i] != ENGINE_FINISH_NO)
        decode_plan_note_length(&b->plan, run->index + 1);
    if (slot->result != ERR_OK || r->finish[i] != ENGINE_FINISH_NO)
        decode_plan_remove(&b->plan, run);
}

static void step(struct decode_batch *b, struct decode_result *r)
{
    b->free = r->next_free;
    r->started_ns = clock_now_ns();
    r->err = engine_step(b->engine, r->slots, r->n, 0, NULL, NULL);
    r->ended_ns = clock_now_ns();
    r->pace_ns = r->ended_ns - (b->last_end_ns != 0 ? b->last_end_ns : r->started_ns);
    b->last_end_ns = r->ended_ns;
    b->broken = r->err != ERR_OK;
    if (!b->broken)
        decode_fit_add(&b->plan.fit, &r->did, r->pace_ns);
    for (uint32_t i = 0; !b->broken && i < r->n; i++)
        take_outcome(b, r, i);
    publish(b);
    r->msg.run = run_result;
    mbox_post(b->to_loop, &r->msg);
}

/* ---- engine thread: a turn ---- */

/* Nothing can be done now.  If that is so because all hold blocks and lack one more, and nobody's
 * hand-over or quarantine can change it, one has to go. */
static bool relieve(struct decode_batch *b, uint64_t now)
{
    struct decode_run *victim = decode_plan_victim(&b->plan, b->pool, now);
    uint32_t in_transit = decode_pool_count(b->pool, ENGINE_BLOCK_GRANTED) +
                          decode_pool_count(b->pool, ENGINE_BLOCK_QUARANTINED);

    if (victim == NULL) {
        b->stuck_ns = 0;
        return false;
    }
    if (b->stuck_ns == 0)
        b->stuck_ns = now;
    if (in_transit > 0 && now - b->stuck_ns < stuck_grace_ns)
        return false;
    decode_pool_move(b->pool, victim->blocks, victim->n_blocks, ENGINE_BLOCK_OWNED,
                     ENGINE_BLOCK_FREE);
    victim->n_blocks = 0;
    b->stats.gave_up++;
    b->stuck_ns = 0;
    give_up(b, victim, ERR_LIMIT, "no KV room to go on, and nobody to park");
    return true;
}

/* true: something was done, so it is worth to look again at once. */
static bool turn(struct decode_batch *b)
{
    struct decode_result *r = b->free;
    uint64_t now = clock_now_ns();
    bool moved;

    if (b->broken || r == NULL || b->plan.n == 0)
        return false;
    decode_plan_decide(&b->plan, b->pool, now, &b->headroom);
    moved = move_all(b);
    if (moved)
        b->last_end_ns = 0; /* to copy KV is no part of a step */
    fill_step(b, r, now);
    if (r->n > 0) {
        b->stuck_ns = 0;
        publish(b);
        step(b, r);
        return true;
    }
    moved = moved || relieve(b, now);
    publish(b);
    return moved;
}

static void engine_thread(void *arg)
{
    struct decode_batch *b = arg;

    while (!b->stopping) {
        uint64_t wait = UINT64_MAX;

        if (turn(b))
            wait = 0;
        else if (!b->broken && b->free != NULL) {
            wait = decode_plan_wait(&b->plan, b->pool);
            b->last_end_ns = 0; /* without a free buffer the wait is part of the pace */
        }
        mbox_wait(b->to_engine, wait);
    }
}

static void run_stop(struct mbox_msg *msg)
{
    OWNER(msg, struct decode_batch, stop)->stopping = true;
}

static void run_poke(struct mbox_msg *msg)
{
    atomic_store(&OWNER(msg, struct decode_batch, poke)->poked, false);
}

/* ---- loop thread ---- */

static void free_batch(struct decode_batch *b)
{
    for (int i = 0; i < DECODE_RESULTS; i++) {
        mem_free(b->results[i].slots);
        mem_free(b->results[i].runs);
        mem_free(b->results[i].finish);
    }
    decode_plan_free(&b->plan);
    mem_free(b);
}

static enum err create_results(struct decode_batch *b)
{
    for (int i = 0; i < DECODE_RESULTS; i++) {
        struct decode_result *r = &b->results[i];

        r->batch = b;
        r->next_free = b->free;
        b->free = r;
        r->slots = mem_try_calloc(b->plan.step_max, sizeof(*r->slots));
        r->runs = mem_try_calloc(b->plan.step_max, sizeof(struct decode_run *));
        r->finish = mem_try_calloc(b->plan.step_max, sizeof(*r->finish));
        if (r->slots == NULL || r->runs == NULL || r->finish == NULL)
            return ERR_NOMEM;
    }
    return ERR_OK;
}

enum err decode_batch_start(struct engine *engine, struct decode_pool *pool, struct uv_loop_s *loop,
                            const struct decode_batch_hooks *hooks, void *arg,
                            struct decode_batch **out)
{
    const struct engine_info *info = engine_info(engine);
    struct decode_batch *b = mem_try_calloc(1, sizeof(*b));

    if (b == NULL)
        return ERR_NOMEM;
    b->engine = engine;
    b->pool = pool;
    b->hooks = hooks;
    b->arg = arg;
    b->plan.block_tokens = info->kv.block_tokens;
    b->plan.step_tokens = info->max_step_tokens;
    b->plan.step_max =
        info->max_batch < info->max_step_tokens ? info->max_batch : info->max_step_tokens;
    if (create_results(b) != ERR_OK)
        goto fail;
    if (mbox_create(&b->to_engine) != ERR_OK)
        goto fail;
    if (mbox_create_on_loop(loop, &b->to_loop) != ERR_OK)
        goto fail_engine_box;
    if (uv_thread_create(&b->thread, engine_thread, b) != 0)
        goto fail_loop_box;
    *out = b;
    return ERR_OK;
fail_loop_box:
    mbox_close(b->to_loop);
fail_engine_box:
    mbox_close(b->to_engine);
fail:
    free_batch(b);
    return ERR_NOMEM;
}

void decode_batch_enter(struct decode_batch *b, struct decode_run *run, enum decode_run_state as)
{
    run->batch = b;
    run->entered_as = as;
    run->enter.run = run_enter;
    mbox_post(b->to_engine, &run->enter);
}

void decode_batch_join(struct decode_batch *b, struct decode_run *run)
{
    run->join.run = run_join;
    mbox_post(b->to_engine, &run->join);
}

void decode_batch_leave(struct decode_batch *b, struct decode_run *run)
{
    run->leave.run = run_leave;
    mbox_post(b->to_engine, &run->leave);
}

void decode_batch_poke(struct decode_batch *b)
{
    if (atomic_exchange(&b->poked, true))
        return;
    b->poke.run = run_poke;
    mbox_post(b->to_engine, &b->poke);
}

void decode_run_clear(struct decode_run *run)
{
    engine_history_destroy(run->history);
    run->history = NULL;
}

void decode_batch_stop(struct decode_batch *b)
{
    b->stop.run = run_stop;
    mbox_post(b->to_engine, &b->stop);
    uv_thread_join(&b->thread);
    mbox_close(b->to_loop);   /* runs what the thread posted last, which posts the buffers back */
    mbox_close(b->to_engine); /* and takes them */
    free_batch(b);
}
