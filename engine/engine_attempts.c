/* engine/engine_attempts.c - see the header for the contract. */
#include "engine/engine_attempts.h"

#include <stddef.h>

struct engine_attempt *engine_attempts_find(const struct engine_attempts *t, uint64_t request,
                                            uint32_t epoch)
{
    struct engine_attempt *a = request != 0 ? map_get(&t->by_request, request) : NULL;

    while (a != NULL && a->epoch != epoch)
        a = a->older;
    return a;
}

enum err engine_attempts_add(struct engine_attempts *t, struct engine_attempt *a)
{
    struct engine_attempt *older = map_get(&t->by_request, a->request);
    enum err err = map_put(&t->by_request, a->request, a);

    if (err != ERR_OK)
        return err;
    a->older = older;
    a->prev = NULL;
    a->next = t->first;
    if (a->next != NULL)
        a->next->prev = a;
    t->first = a;
    t->n++;
    return ERR_OK;
}

static void unchain(struct engine_attempts *t, struct engine_attempt *a)
{
    struct engine_attempt *at = map_get(&t->by_request, a->request);

    if (at == a) {
        map_del(&t->by_request, a->request);
        /* Without memory for it the older ones cannot be named any more; they still end by themselves. */
        if (a->older == NULL || map_put(&t->by_request, a->request, a->older) != ERR_OK)
            return;
        return;
    }
    while (at != NULL && at->older != a)
        at = at->older;
    if (at != NULL)
        at->older = a->older;
}

void engine_attempts_remove(struct engine_attempts *t, struct engine_attempt *a)
{
    unchain(t, a);
    if (a->prev != NULL)
        a->prev->next = a->next;
    else
        t->first = a->next;
    if (a->next != NULL)
        a->next->prev = a->prev;
    t->n--;
}

void engine_attempts_free(struct engine_attempts *t)
{
    map_free(&t->by_request);
}
