/* engine/cpu/cpu_step.c - a step on all ranks: its rows are listed once, then every rank goes through the
 * layers. */
#include "engine/cpu/cpu_engine.h"

static void list_rows(struct cpu_engine *c, struct engine_slot *slots, uint32_t n)
{
    c->slots = slots;
    c->n_rows = c->n_spans = c->n_sampled = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct engine_slot *s = &slots[i];

        if (s->result != ERR_OK)
            continue;
        c->spans[c->n_spans] = (struct cpu_span){i, c->n_rows, s->n_tokens, s->position};
        for (uint32_t t = 0; t < s->n_tokens; t++) {
            c->row_token[c->n_rows] = s->tokens[t];
            c->row_position[c->n_rows] = s->position + t;
            c->row_span[c->n_rows++] = c->n_spans;
        }
        if (s->sample) {
            c->sampled[c->n_sampled] =
                (struct cpu_span){i, c->n_sampled, 1, s->position + s->n_tokens - 1};
            c->n_sampled++;
        }
        c->n_spans++;
    }
}

struct step {
    struct cpu_engine *c;
    const struct cpu_report *report;
    _Atomic int result;
};

/* One task per rank and one thread per rank: a rank waits for the others in its first collective, so no
 * thread takes a second task before every thread has its own, and thread 0, the caller, always has one. */
static void rank_task(void *arg, uint32_t task, uint32_t thread)
{
    struct step *s = arg;
    enum err err = cpu_rank_step(&s->c->ranks[task], s->report, thread == 0);

    if (err != ERR_OK) {
        tp_comm_abort(s->c->comm);
        s->result = err;
    }
}

enum err cpu_engine_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                         uint32_t group_layers, engine_layers_fn layers_done, void *arg)
{
    struct cpu_engine *c = (struct cpu_engine *)e;
    const struct cpu_report report = {group_layers, layers_done, arg};
    struct step s = {.c = c, .report = &report, .result = ERR_OK};

    list_rows(c, slots, n);
    if (c->tp == 1)
        return cpu_rank_step(&c->ranks[0], &report, true);
    cpu_pool_run(c->launcher, rank_task, &s, c->tp);
    return (enum err)s.result;
}

/* ---- for tests ---- */

void cpu_engine_watch_logits(struct engine *e, float *dst)
{
    ((struct cpu_engine *)e)->watch = dst;
}

void cpu_engine_abort(struct engine *e)
{
    tp_comm_abort(((struct cpu_engine *)e)->comm);
}
