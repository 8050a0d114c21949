/* prefill/prefill_step.c - see the header. */
#include "prefill/prefill_step.h"

#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kvtransfer/kvt.h"

/* A mark costs a wake-up of the loop; closer together they would only make the pieces smaller. */
static const uint64_t mark_gap_ns = 200 * CLOCK_NS_PER_US;

struct prefill_engine {
    struct engine *engine;
    const struct prefill_step_hooks *hooks;
    void *arg;
    bool tickets; /* the engine reports all layers at once, before they are computed */
    struct mbox *to_engine, *to_loop;
    uv_thread_t thread;
    struct mbox_msg stop;
    bool stopping; /* engine thread's */
    struct prefill_step steps[PREFILL_STEPS];
};

static void run_mark(struct mbox_msg *msg)
{
    struct prefill_mark *mark = (struct prefill_mark *)msg;
    struct prefill_step *s = mark->step;

    s->owner->hooks->on_layers(s->owner->arg, s, mark->layers, mark->ready);
}

static void run_done(struct mbox_msg *msg)
{
    struct prefill_step *s =
        (struct prefill_step *)((char *)msg - offsetof(struct prefill_step, msg));

    s->owner->hooks->on_done(s->owner->arg, s);
}

static void on_layers_done(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    struct prefill_step *s = arg;
    struct prefill_mark *mark;
    uint64_t now = clock_now_ns();

    s->layers_final = first + n;
    if (s->n_marks == PREFILL_MARKS || (ready == 0 && now - s->marked_ns < mark_gap_ns))
        return;
    s->marked_ns = now;
    mark = &s->marks[s->n_marks++];
    mark->step = s;
    mark->layers = s->layers_final;
    mark->ready = ready;
    mark->msg.run = run_mark;
    mbox_post(s->owner->to_loop, &mark->msg);
}

/* How many layers are reported together: a piece worth a message.  Tickets are not merged by time, so there they have
 * to be few enough for the marks, and the more of them the less is left to send when the last layer is final. */
static uint32_t group_layers(const struct prefill_engine *e, const struct prefill_step *s)
{
    const struct wire_kv_layout *kv = &engine_info(e->engine)->kv;
    uint32_t blocks = s->n_tokens / kv->block_tokens, least, group;

    if (!s->report_layers)
        return 0;
    if (!e->tickets)
        return wire_kv_group_layers(kv, KVT_PIECE_TARGET);
    least = (kv->n_layers + PREFILL_MARKS - 1) / PREFILL_MARKS;
    group = wire_kv_group_layers(kv, KVT_PIECE_TARGET / (blocks > 1 ? blocks : 1));
    return group > least ? group : least;
}

static void run_step(struct mbox_msg *msg)
{
    struct prefill_step *s =
        (struct prefill_step *)((char *)msg - offsetof(struct prefill_step, msg));
    struct prefill_engine *e = s->owner;

    s->started_ns = clock_now_ns();
    s->marked_ns = s->started_ns;
    e->hooks->prepare(s);
    s->err = engine_step(e->engine, s->slots, s->n, group_layers(e, s),
                         s->report_layers ? on_layers_done : NULL, s);
    s->ended_ns = clock_now_ns();
    s->msg.run = run_done;
    mbox_post(e->to_loop, &s->msg);
}

static void run_stop(struct mbox_msg *msg)
{
    struct prefill_engine *e =
        (struct prefill_engine *)((char *)msg - offsetof(struct prefill_engine, stop));

    e->stopping = true;
}

static void engine_thread(void *arg)
{
    struct prefill_engine *e = arg;

    while (!e->stopping)
        mbox_wait(e->to_engine, UINT64_MAX);
}

static void free_engine(struct prefill_engine *e)
{
    for (int i = 0; i < PREFILL_STEPS; i++) {
        mem_free(e->steps[i].slots);
        mem_free(e->steps[i].requests);
    }
    mem_free(e);
}

static enum err create_steps(struct prefill_engine *e, uint32_t max_batch)
{
    for (int i = 0; i < PREFILL_STEPS; i++) {
        struct prefill_step *s = &e->steps[i];

        s->owner = e;
        s->slots = mem_try_calloc(max_batch, sizeof(*s->slots));
        s->requests = mem_try_calloc(max_batch, sizeof(struct prefill_request *));
        if (s->slots == NULL || s->requests == NULL)
            return ERR_NOMEM;
    }
    return ERR_OK;
}

enum err prefill_engine_start(struct engine *engine, struct uv_loop_s *loop,
                              const struct prefill_step_hooks *hooks, void *arg,
                              struct prefill_engine **out)
{
    const struct engine_info *info = engine_info(engine);
    struct prefill_engine *e = mem_try_calloc(1, sizeof(*e));

    if (e == NULL)
        return ERR_NOMEM;
    e->engine = engine;
    e->hooks = hooks;
    e->arg = arg;
    e->tickets = engine_kv_memory(engine) != NULL;
    if (create_steps(e, info->max_batch) != ERR_OK)
        goto fail;
    if (mbox_create(&e->to_engine) != ERR_OK)
        goto fail;
    if (mbox_create_on_loop(loop, &e->to_loop) != ERR_OK)
        goto fail_engine_box;
    if (uv_thread_create(&e->thread, engine_thread, e) != 0)
        goto fail_loop_box;
    *out = e;
    return ERR_OK;
fail_loop_box:
    mbox_close(e->to_loop);
fail_engine_box:
    mbox_close(e->to_engine);
fail:
    free_engine(e);
    return ERR_NOMEM;
}

struct prefill_step *prefill_engine_take(struct prefill_engine *e)
{
    for (int i = 0; i < PREFILL_STEPS; i++) {
        struct prefill_step *s = &e->steps[i];

        if (s->taken)
            continue;
        s->taken = true;
        s->n = 0;
        s->n_tokens = 0;
        s->report_layers = false;
        s->n_marks = 0;
        s->layers_final = 0;
        return s;
    }
    return NULL;
}

void prefill_engine_submit(struct prefill_engine *e, struct prefill_step *s)
{
    s->msg.run = run_step;
    mbox_post(e->to_engine, &s->msg);
}

void prefill_engine_give(struct prefill_engine *e, struct prefill_step *s)
{
    (void)e;
    s->taken = false;
}

void prefill_engine_stop(struct prefill_engine *e)
{
    e->stop.run = run_stop;
    mbox_post(e->to_engine, &e->stop);
    uv_thread_join(&e->thread);
    mbox_close(e->to_engine);
    mbox_close(e->to_loop); /* runs what the thread posted last */
    free_engine(e);
}
