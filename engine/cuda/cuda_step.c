/* engine/cuda/cuda_step.c - one step: planned and written on the host, enqueued on every rank, waited for
 * once, and its tokens read.
 *
 * A failure anywhere breaks the engine: its worker reports the device and starts anew. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/cuda/cuda_engine.h"

/* ---- failures ---- */

enum err cuda_engine_break(struct cuda_engine *e, enum err why, const char *what)
{
    const char *text = gpu_trouble();

    cuda_engine_set_broken(e);
    gpu_comm_abort(e->group);
    LOG_ERROR("engine", "the device failed", "while %s: %s%s%s", what, err_text(why),
              text[0] != '\0' ? ": " : "", text);
    return ERR_DEVICE;
}

/* ---- enqueuing ---- */

static enum err enqueue(struct cuda_rank *r, void *arg)
{
    struct cuda_engine *e = r->engine;
    const struct cuda_batch *b = &e->batch;
    gpu_graph graph = e->ranks[0].marks == NULL ? cuda_graphs_find(r, b) : NULL;
    enum err err = gpu_use(r->gpu);

    (void)arg;
    if (err == ERR_OK)
        err = gpu_copy(r->metadata, e->metadata[e->turn],
                       b->meta.bytes + b->n_edits * sizeof(struct sample_edit), GPU_TO_DEVICE,
                       r->stream);
    if (err == ERR_OK)
        err = graph != NULL ? gpu_graph_launch(graph, r->stream) : cuda_forward(r, b);
    if (err == ERR_OK && r->index == 0 && b->n_sampled > 0)
        err = gpu_copy(e->tokens, r->tokens, b->n_sampled * sizeof(e->tokens[0]), GPU_TO_HOST,
                       r->stream);
    return err == ERR_OK ? gpu_event_record(r->done, r->stream) : err;
}

/* Everything is enqueued: whoever copies from the blocks waits on the device. */
static void report_layers(struct cuda_engine *e, engine_layers_fn layers_done, void *arg)
{
    const struct cuda_batch *b = &e->batch;
    uint64_t ticket = b->first_ticket;

    for (uint32_t i = 0; i < e->config.n_layers && b->group_layers != 0; i += b->group_layers) {
        uint32_t left = e->config.n_layers - i;

        layers_done(arg, i, left < b->group_layers ? left : b->group_layers, ticket++);
    }
}

static enum err await(struct cuda_rank *r, void *arg)
{
    uint64_t deadline = *(const uint64_t *)arg;

    return r->comm != NULL ? gpu_comm_wait(r->comm, r->done, deadline)
                           : gpu_event_wait(r->done, deadline);
}

/* ---- results ---- */

/* One row of the logits to the host. */
static enum err fetch_logits(struct cuda_engine *e, uint32_t row)
{
    struct cuda_rank *r = &e->ranks[0];
    enum err err = gpu_copy(e->logits, r->logits + (size_t)row * e->logits_stride,
                            e->config.vocab * sizeof(float), GPU_TO_HOST, r->stream);

    return err == ERR_OK ? gpu_stream_wait(r->stream, clock_now_ns() + e->deadline_ns) : err;
}

static enum err read_row(struct cuda_engine *e, struct engine_slot *slots, uint32_t i)
{
    uint32_t slot = e->batch.spans[e->batch.sampled[i]].slot;
    struct engine_slot *s = &slots[slot];
    bool on_host = e->batch.on_host[i];
    enum err err = ERR_OK;

    memset(&s->out, 0, sizeof(s->out));
    s->out.token = e->tokens[i];
    if (on_host || e->watch != NULL)
        err = fetch_logits(e, i);
    if (err == ERR_OK && e->watch != NULL)
        memcpy(e->watch + (size_t)slot * e->config.vocab, e->logits,
               e->config.vocab * sizeof(float));
    if (err == ERR_OK && on_host)
        engine_sample(e->logits, e->config.vocab, s->sampling, s->history, s->sample_index,
                      e->sample_scratch, &s->out);
    return err;
}

static enum err read_results(struct cuda_engine *e, struct engine_slot *slots)
{
    enum err err = ERR_OK;

    for (uint32_t i = 0; i < e->batch.n_sampled && err == ERR_OK; i++) {
        if (e->batch.sampled[i] != UINT32_MAX)
            err = read_row(e, slots, i);
    }
    return err;
}

/* ---- the step ---- */

static void plan(struct cuda_engine *e, const struct engine_slot *slots, uint32_t n,
                 uint32_t group_layers)
{
    struct cuda_batch *b = &e->batch;
    uint32_t groups =
        group_layers == 0 ? 0 : (e->config.n_layers + group_layers - 1) / group_layers;

    cuda_batch_plan(b, &e->limits, slots, n);
    b->group_layers = group_layers;
    b->first_ticket = e->next_ticket;
    e->next_ticket += groups;
    e->turn ^= 1;
    cuda_batch_write(b, &e->limits, slots, e->metadata[e->turn]);
}

/* Marks for the next step, if it is to be profiled. */
static enum err take_marks(struct cuda_engine *e)
{
    if (!e->profile_next)
        return ERR_OK;
    e->profile_next = false;
    return cuda_marks_create(e->ranks[0].gpu, e->config.n_layers, &e->ranks[0].marks);
}

static enum err read_marks(struct cuda_engine *e)
{
    struct cuda_marks *m = e->ranks[0].marks;
    enum err err = m == NULL ? ERR_OK : cuda_marks_sum(m, &e->profile);

    e->has_profile = e->has_profile || (m != NULL && err == ERR_OK);
    cuda_marks_free(m);
    e->ranks[0].marks = NULL;
    return err;
}

static enum err run(struct cuda_engine *e, struct engine_slot *slots, engine_layers_fn layers_done,
                    void *arg)
{
    uint64_t start = clock_now_ns(), deadline = start + e->deadline_ns, waited;
    enum err err = cuda_crew_run(e, enqueue, NULL);

    if (err != ERR_OK)
        return cuda_engine_break(e, err, "enqueuing a step");
    report_layers(e, layers_done, arg);
    waited = clock_now_ns();
    e->host_ns += waited - start;
    err = cuda_crew_run(e, await, &deadline);
    if (err != ERR_OK)
        return cuda_engine_break(e, err, "running a step");
    __atomic_store_n(&e->tickets_done, e->next_ticket - 1, __ATOMIC_RELEASE);
    start = clock_now_ns();
    err = read_results(e, slots);
    if (err == ERR_OK)
        err = read_marks(e);
    e->host_ns += clock_now_ns() - start;
    return err == ERR_OK ? ERR_OK : cuda_engine_break(e, err, "reading results");
}

enum err cuda_engine_step(struct engine *engine, struct engine_slot *slots, uint32_t n,
                          uint32_t group_layers, engine_layers_fn layers_done, void *arg)
{
    struct cuda_engine *e = (struct cuda_engine *)engine;
    uint64_t start = clock_now_ns();
    enum err err;

    if (cuda_engine_is_broken(e))
        return ERR_DEVICE;
    err = take_marks(e);
    if (err != ERR_OK)
        return cuda_engine_break(e, err, "preparing a profile");
    plan(e, slots, n, layers_done != NULL ? group_layers : 0);
    e->host_ns = clock_now_ns() - start;
    return run(e, slots, layers_done, arg);
}

void cuda_engine_watch_logits(struct engine *e, float *dst)
{
    ((struct cuda_engine *)e)->watch = dst;
}

void cuda_engine_deadline(struct engine *e, uint64_t ns)
{
    ((struct cuda_engine *)e)->deadline_ns = ns;
}
