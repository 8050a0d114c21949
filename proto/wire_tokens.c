/* proto/wire_tokens.c - see the header for the contract.
 *
 * A frame keeps parallel arrays, because that is what the message is made of.  Log probabilities fill
 * arrays of their own only in a step where somebody wants them. */
#include "proto/wire_tokens.h"

#include <string.h>

#include "base/mem.h"

struct wire_tokens_top {
    Baton__TopLogprobs m;
    uint32_t token[WIRE_TOKENS_TOP_MAX];
    float logprob[WIRE_TOKENS_TOP_MAX];
};

struct wire_tokens_frame {
    uint32_t frontend;
    uint32_t n, cap;
    bool has_logprobs;
    uint64_t *request;
    uint32_t *epoch, *index, *token, *finish;
    float *logprob;
    uint32_t n_top_cap;
    struct wire_tokens_top *top;
    Baton__TopLogprobs **top_ptr;
};

/* *array, whatever its type, becomes cap elements long. */
static bool grow(void *array, uint32_t cap, size_t elem)
{
    void *p;
    size_t bytes;

    memcpy(&p, array, sizeof(p));
    if (!mem_mul(cap, elem, &bytes))
        return false;
    p = mem_try_realloc(p, bytes);
    if (p == NULL)
        return false;
    memcpy(array, &p, sizeof(p));
    return true;
}

/* A failed growth leaves some arrays longer than cap says, which is harmless. */
static enum err reserve(struct wire_tokens_frame *f)
{
    uint32_t cap = f->cap > 0 ? f->cap * 2 : 64;

    if (f->n < f->cap)
        return ERR_OK;
    if (!grow(&f->request, cap, sizeof(*f->request)) || !grow(&f->epoch, cap, sizeof(*f->epoch)) ||
        !grow(&f->index, cap, sizeof(*f->index)) || !grow(&f->token, cap, sizeof(*f->token)) ||
        !grow(&f->finish, cap, sizeof(*f->finish)) || !grow(&f->logprob, cap, sizeof(*f->logprob)))
        return ERR_NOMEM;
    f->cap = cap;
    return ERR_OK;
}

static void clear_top(struct wire_tokens_top *t)
{
    baton__top_logprobs__init(&t->m);
}

/* From here on every item of this frame has a (possibly empty) entry. */
static enum err reserve_top(struct wire_tokens_frame *f)
{
    if (f->n_top_cap < f->cap) {
        if (!grow(&f->top, f->cap, sizeof(*f->top)) ||
            !grow(&f->top_ptr, f->cap, sizeof(Baton__TopLogprobs *)))
            return ERR_NOMEM;
        f->n_top_cap = f->cap;
    }
    for (uint32_t i = 0; !f->has_logprobs && i < f->n; i++)
        clear_top(&f->top[i]);
    f->has_logprobs = true;
    return ERR_OK;
}

static struct wire_tokens_frame *frame_of(struct wire_tokens *t, uint32_t frontend)
{
    struct wire_tokens_frame *f;

    for (uint32_t i = 0; i < t->n; i++) {
        if (t->frames[i].frontend == frontend)
            return &t->frames[i];
    }
    if (t->n == t->cap) {
        uint32_t cap = t->cap > 0 ? t->cap * 2 : 4;

        if (!grow(&t->frames, cap, sizeof(*t->frames)))
            return NULL;
        memset(t->frames + t->cap, 0, (cap - t->cap) * sizeof(*t->frames));
        t->cap = cap;
    }
    f = &t->frames[t->n++];
    f->frontend = frontend;
    f->n = 0;
    f->has_logprobs = false;
    return f;
}

static void fill_top(struct wire_tokens_top *t, const struct wire_token *item)
{
    uint32_t n = item->n_top < WIRE_TOKENS_TOP_MAX ? item->n_top : WIRE_TOKENS_TOP_MAX;

    clear_top(t);
    t->m.n_token = n;
    t->m.n_logprob = n;
    for (uint32_t i = 0; i < n; i++) {
        t->token[i] = item->top_token[i];
        t->logprob[i] = item->top_logprob[i];
    }
}

enum err wire_tokens_add(struct wire_tokens *t, uint32_t frontend, const struct wire_token *item)
{
    struct wire_tokens_frame *f = frame_of(t, frontend);
    uint32_t i;

    if (f == NULL || reserve(f) != ERR_OK)
        return ERR_NOMEM;
    if ((item->want_logprobs || f->has_logprobs) && reserve_top(f) != ERR_OK)
        return ERR_NOMEM;
    i = f->n++;
    f->request[i] = item->request;
    f->epoch[i] = item->epoch;
    f->index[i] = item->index;
    f->token[i] = item->token;
    f->finish[i] = item->finish;
    f->logprob[i] = item->want_logprobs ? item->logprob : 0;
    if (item->want_logprobs)
        fill_top(&f->top[i], item);
    else if (f->has_logprobs)
        clear_top(&f->top[i]);
    return ERR_OK;
}

/* The arrays may have moved while the frame grew, so pointers between them are set only now. */
static void link_top(struct wire_tokens_frame *f, Baton__Tokens *m)
{
    for (uint32_t i = 0; i < f->n; i++) {
        f->top[i].m.token = f->top[i].token;
        f->top[i].m.logprob = f->top[i].logprob;
        f->top_ptr[i] = &f->top[i].m;
    }
    m->n_logprob = f->n;
    m->logprob = f->logprob;
    m->n_top = f->n;
    m->top = f->top_ptr;
}

void wire_tokens_each(struct wire_tokens *t,
                      void (*fn)(void *arg, uint32_t frontend, const Baton__Tokens *m), void *arg)
{
    for (uint32_t i = 0; i < t->n; i++) {
        struct wire_tokens_frame *f = &t->frames[i];
        Baton__Tokens m = BATON__TOKENS__INIT;

        if (f->n == 0)
            continue;
        m.n_request = m.n_epoch = m.n_index = m.n_token = m.n_finish = f->n;
        m.request = f->request;
        m.epoch = f->epoch;
        m.index = f->index;
        m.token = f->token;
        m.finish = f->finish;
        if (f->has_logprobs)
            link_top(f, &m);
        fn(arg, f->frontend, &m);
    }
    t->n = 0;
}

void wire_tokens_free(struct wire_tokens *t)
{
    for (uint32_t i = 0; i < t->cap; i++) {
        struct wire_tokens_frame *f = &t->frames[i];

        mem_free(f->request);
        mem_free(f->epoch);
        mem_free(f->index);
        mem_free(f->token);
        mem_free(f->finish);
        mem_free(f->logprob);
        mem_free(f->top);
        mem_free(f->top_ptr);
    }
    mem_free(t->frames);
    memset(t, 0, sizeof(*t));
}
