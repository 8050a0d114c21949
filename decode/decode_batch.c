/* decode/decode_batch.c - see the header. */
#include "decode/decode_batch.h"

#include <stddef.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"

struct decode_batch {
    struct engine *engine;
    const struct decode_batch_hooks *hooks;
    void *arg;
    uint32_t step_max; /* sequences in one step */
    struct mbox *to_engine, *to_loop;
    uv_thread_t thread;
    struct mbox_msg stop;
    struct decode_result results[DECODE_RESULTS];
    /* engine thread's */
    bool stopping, broken;
    struct decode_run *head, *tail; /* whose turn is next, first */
    struct decode_result *free;
};

#define OWNER(msg, type, member) ((type *)((char *)(msg)-offsetof(type, member)))

/* ---- engine thread ---- */

static void append(struct decode_batch *b, struct decode_run *run)
{
    run->next = NULL;
    run->prev = b->tail;
    if (b->tail != NULL)
        b->tail->next = run;
    else
        b->head = run;
    b->tail = run;
    run->in_batch = true;
}

static void unlink_run(struct decode_batch *b, struct decode_run *run)
{
    if (run->prev != NULL)
        run->prev->next = run->next;
    else
        b->head = run->next;
    if (run->next != NULL)
        run->next->prev = run->prev;
    else
        b->tail = run->prev;
    run->in_batch = false;
}

/* Where memory is short the run stays without a history, and the engine refuses its slot. */
static void build_history(struct decode_run *run)
{
    struct engine_history *h;
    bool ok = true;

    if (!engine_sampling_uses_history(&run->params->sampling) ||
        engine_history_create(&h) != ERR_OK)
        return;
    for (uint32_t i = 0; ok && run->known != NULL && i < run->n_known; i++)
        ok = engine_history_add(h, run->known[i], i >= run->n_prompt) == ERR_OK;
    if (!ok || engine_history_add(h, run->token, true) != ERR_OK) {
        engine_history_destroy(h);
        return;
    }
    run->history = h;
}

static void run_join(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, join);

    build_history(run);
    append(run->batch, run);
}

static void run_left(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, leave);

    run->batch->hooks->on_left(run->batch->arg, run);
}

static void run_leave(struct mbox_msg *msg)
{
    struct decode_run *run = OWNER(msg, struct decode_run, leave);

    if (run->in_batch)
        unlink_run(run->batch, run);
    msg->run = run_left;
    mbox_post(run->batch->to_loop, msg);
}

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

static void add_slot(struct decode_result *r, struct decode_run *run)
{
    struct engine_slot *slot = &r->slots[r->n];

    slot->tokens = &run->token;
    slot->n_tokens = 1;
    slot->position = run->position;
    slot->blocks = run->blocks;
    slot->n_blocks = run->n_blocks;
    slot->sample = true;
    slot->sampling = &run->params->sampling;
    slot->history = run->history;
    slot->sample_index = run->index + 1;
    slot->out.n_top = 0;
    slot->result = ERR_OK;
    r->runs[r->n++] = run;
}

/* Who goes on goes to the back, behind those that had no turn. */
static void take_outcome(struct decode_batch *b, struct decode_result *r, uint32_t i)
{
    struct decode_run *run = r->runs[i];
    struct engine_slot *slot = &r->slots[i];

    r->finish[i] = ENGINE_FINISH_NO;
    if (slot->result != ERR_OK)
        return;
    run->token = slot->out.token;
    run->position++;
    run->index++;
    r->finish[i] = (uint8_t)engine_params_finish(run->params, run->token, run->index, run->max_new);
    if (r->finish[i] != ENGINE_FINISH_NO)
        return;
    if (run->history != NULL && engine_history_add(run->history, run->token, true) != ERR_OK)
        slot->result = ERR_NOMEM;
    else
        append(b, run);
}

static void step(struct decode_batch *b)
{
    struct decode_result *r = b->free;

    b->free = r->next_free;
    r->n = 0;
    while (b->head != NULL && r->n < b->step_max) {
        struct decode_run *run = b->head;

        unlink_run(b, run);
        add_slot(r, run);
    }
    r->started_ns = clock_now_ns();
    r->err = engine_step(b->engine, r->slots, r->n, 0, NULL, NULL);
    r->ended_ns = clock_now_ns();
    b->broken = r->err != ERR_OK;
    for (uint32_t i = 0; !b->broken && i < r->n; i++)
        take_outcome(b, r, i);
    r->msg.run = run_result;
    mbox_post(b->to_loop, &r->msg);
}

static void engine_thread(void *arg)
{
    struct decode_batch *b = arg;

    while (!b->stopping) {
        bool can_step = b->head != NULL && b->free != NULL && !b->broken;

        mbox_wait(b->to_engine, can_step ? 0 : UINT64_MAX);
        if (!b->stopping && b->head != NULL && b->free != NULL && !b->broken)
            step(b);
    }
}

static void run_stop(struct mbox_msg *msg)
{
    OWNER(msg, struct decode_batch, stop)->stopping = true;
}

/* ---- loop thread ---- */

static void free_batch(struct decode_batch *b)
{
    for (int i = 0; i < DECODE_RESULTS; i++) {
        mem_free(b->results[i].slots);
        mem_free(b->results[i].runs);
        mem_free(b->results[i].finish);
    }
    mem_free(b);
}

static enum err create_results(struct decode_batch *b)
{
    for (int i = 0; i < DECODE_RESULTS; i++) {
        struct decode_result *r = &b->results[i];

        r->batch = b;
        r->next_free = b->free;
        b->free = r;
        r->slots = mem_try_calloc(b->step_max, sizeof(*r->slots));
        r->runs = mem_try_calloc(b->step_max, sizeof(struct decode_run *));
        r->finish = mem_try_calloc(b->step_max, sizeof(*r->finish));
        if (r->slots == NULL || r->runs == NULL || r->finish == NULL)
            return ERR_NOMEM;
    }
    return ERR_OK;
}

enum err decode_batch_start(struct engine *engine, struct uv_loop_s *loop,
                            const struct decode_batch_hooks *hooks, void *arg,
                            struct decode_batch **out)
{
    const struct engine_info *info = engine_info(engine);
    struct decode_batch *b = mem_try_calloc(1, sizeof(*b));

    if (b == NULL)
        return ERR_NOMEM;
    b->engine = engine;
    b->hooks = hooks;
    b->arg = arg;
    b->step_max = info->max_batch < info->max_step_tokens ? info->max_batch : info->max_step_tokens;
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

void decode_batch_join(struct decode_batch *b, struct decode_run *run)
{
    run->batch = b;
    run->join.run = run_join;
    mbox_post(b->to_engine, &run->join);
}

void decode_batch_leave(struct decode_batch *b, struct decode_run *run)
{
    run->leave.run = run_leave;
    mbox_post(b->to_engine, &run->leave);
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
