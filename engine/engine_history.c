/* engine/engine_history.c - token counts of one sequence, for the penalties. */
#include "engine/engine_history.h"

#include <string.h>

#include "base/mem.h"

enum { HISTORY_MIN_CAP = 64 };

enum err engine_history_create(struct engine_history **out)
{
    struct engine_history *h = mem_try_calloc(1, sizeof(*h));

    if (h == NULL)
        return ERR_NOMEM;
    *out = h;
    return ERR_OK;
}

static enum err history_grow(struct engine_history *h)
{
    size_t cap = h->cap == 0 ? HISTORY_MIN_CAP : h->cap * 2;
    struct engine_history_entry *grown;

    grown = mem_try_realloc(h->entries, cap * sizeof(*grown));
    if (grown == NULL)
        return ERR_NOMEM;
    h->entries = grown;
    h->cap = cap;
    return ERR_OK;
}

static enum err history_append(struct engine_history *h, int32_t token, bool is_output)
{
    enum err err;

    if (h->n == h->cap) {
        err = history_grow(h);
        if (err != ERR_OK)
            return err;
    }
    err = map_put(&h->index, (uint64_t)token + 1, (void *)(uintptr_t)(h->n + 1));
    if (err != ERR_OK)
        return err;
    h->entries[h->n++] = (struct engine_history_entry){token, is_output ? 1u : 0u};
    return ERR_OK;
}

enum err engine_history_add(struct engine_history *h, int32_t token, bool is_output)
{
    uintptr_t at;

    if (token < 0)
        return ERR_INVALID;
    at = (uintptr_t)map_get(&h->index, (uint64_t)token + 1);
    if (at == 0)
        return history_append(h, token, is_output);
    if (is_output)
        h->entries[at - 1].n_output++;
    return ERR_OK;
}

void engine_history_destroy(struct engine_history *h)
{
    if (h == NULL)
        return;
    map_free(&h->index);
    mem_free(h->entries);
    mem_free(h);
}
