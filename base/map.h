/* base/map.h - a hash map from non-zero 64-bit keys to pointers.
 *
 *   MAP_INIT (or all zero) -> put / get / del -> map_free
 *
 * Thread: the owner's.  Keys may come from outside: they are mixed with a per-process random seed, so
 * nobody can choose colliding ones.  Iteration order means nothing; decisions must not depend on it. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct map {
    size_t count; /* read-only */
    /* private */
    struct map_slot *slots;
    size_t used; /* slots with a key, deleted ones too */
    size_t cap;
};
#define MAP_INIT      \
    {                 \
        0, NULL, 0, 0 \
    }

/* Insert or replace.  ERR_NOMEM: unchanged.  ERR_INVALID: key 0 or value NULL. */
MUST_USE enum err map_put(struct map *m, uint64_t key, void *value);
void *map_get(const struct map *m, uint64_t key); /* NULL: absent */
void *map_del(struct map *m, uint64_t key);       /* the value that was there, or NULL */
/* Walk all entries: *at starts at 0; returns NULL at the end.  No put or del during the walk, save
 * deleting the entry just returned. */
void *map_next(const struct map *m, size_t *at);
void map_free(struct map *m);

#endif
