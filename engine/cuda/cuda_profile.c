/* engine/cuda/cuda_profile.c - a step taken apart: an event after each operation, and the time between two belongs to
 * the operation between them.  The gaps are the launches' too, so the sum is more than a graph takes. */
#include <string.h>

#include "base/mem.h"
#include "engine/cuda/cuda_engine.h"

enum { MARKS_PER_LAYER = 16, MARKS_BESIDE = 32 };

struct cuda_marks {
    uint32_t n, cap;
    gpu_event *event;
    const char **what;
};

enum err cuda_marks_create(struct gpu *g, uint32_t n_layers, struct cuda_marks **out)
{
    struct cuda_marks *m = mem_try_calloc(1, sizeof(*m));
    enum err err = ERR_OK;

    if (m == NULL)
        return ERR_NOMEM;
    m->cap = n_layers * MARKS_PER_LAYER + MARKS_BESIDE;
    m->event = mem_try_calloc(m->cap, sizeof(m->event[0]));
    m->what = mem_try_calloc(m->cap, sizeof(m->what[0]));
    if (m->event == NULL || m->what == NULL)
        err = ERR_NOMEM;
    for (uint32_t i = 0; i < m->cap && err == ERR_OK; i++)
        err = gpu_event_create(g, true, &m->event[i]);
    if (err != ERR_OK) {
        cuda_marks_free(m);
        return err;
    }
    *out = m;
    return ERR_OK;
}

enum err cuda_marks_add(struct cuda_marks *m, const char *what, gpu_stream stream)
{
    if (m->n == m->cap)
        return ERR_OK; /* the rest of the step goes uncounted */
    m->what[m->n] = what;
    return gpu_event_record(m->event[m->n++], stream);
}

/* The place of `what` in the profile, made if it is new; NULL: no room. */
static float *place(struct cuda_profile *p, const char *what)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (strcmp(p->op[i].name, what) == 0)
            return &p->op[i].ms;
    }
    if (p->n == CUDA_PROFILE_OPS)
        return NULL;
    p->op[p->n].name = what;
    p->op[p->n].ms = 0;
    return &p->op[p->n++].ms;
}

enum err cuda_marks_sum(const struct cuda_marks *m, struct cuda_profile *out)
{
    out->n = 0;
    for (uint32_t i = 1; i < m->n; i++) {
        float ms = 0, *sum = m->what[i] != NULL ? place(out, m->what[i]) : NULL;
        enum err err = gpu_event_ms(m->event[i - 1], m->event[i], &ms);

        if (err != ERR_OK)
            return err;
        if (sum != NULL)
            *sum += ms;
    }
    return ERR_OK;
}

void cuda_marks_free(struct cuda_marks *m)
{
    if (m == NULL)
        return;
    for (uint32_t i = 0; m->event != NULL && i < m->cap; i++)
        gpu_event_destroy(m->event[i]);
    mem_free(m->event);
    mem_free((void *)m->what);
    mem_free(m);
}

uint64_t cuda_engine_host_ns(const struct engine *e)
{
    return ((const struct cuda_engine *)e)->host_ns;
}

void cuda_engine_profile_next(struct engine *e)
{
    ((struct cuda_engine *)e)->profile_next = true;
}

const struct cuda_profile *cuda_engine_profile(const struct engine *e)
{
    const struct cuda_engine *c = (const struct cuda_engine *)e;

    return c->has_profile ? &c->profile : NULL;
}
