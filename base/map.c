/* base/map.c - open addressing with linear probing; deleted entries leave a tombstone that the next
 * growth sweeps away, so that deleting during a walk moves nothing. */
#include "base/map.h"

#include <pthread.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"

struct map_slot {
    uint64_t key;
    void *value; /* NULL with key != 0: tombstone */
};

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void make_seed(void)
{
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        seed = clock_now_ns() * 0x9e3779b97f4a7c15u;
}

static uint64_t mix(uint64_t x)
{
    x ^= seed;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The slot that holds key, or the empty one that ends its probe chain. */
static struct map_slot *find(const struct map *m, uint64_t key)
{
    size_t i = mix(key) & (m->cap - 1);

    while (m->slots[i].key != 0 && m->slots[i].key != key)
        i = (i + 1) & (m->cap - 1);
    return &m->slots[i];
}

static enum err rehash(struct map *m)
{
    struct map next = {.count = m->count, .used = m->count, .cap = 16};
    void *value;

    while (next.cap * 5 < m->count * 16)
        next.cap *= 2;
    next.slots = mem_try_calloc(next.cap, sizeof(*next.slots));
    if (next.slots == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < m->cap; i++) {
        value = m->slots[i].value;
        if (value != NULL)
            *find(&next, m->slots[i].key) = (struct map_slot){m->slots[i].key, value};
    }
    mem_free(m->slots);
    *m = next;
    return ERR_OK;
}

enum err map_put(struct map *m, uint64_t key, void *value)
{
    struct map_slot *slot;
    enum err err;

    if (key == 0 || value == NULL)
        return ERR_INVALID;
    pthread_once(&seed_once, make_seed);
    if (m->used * 8 >= m->cap * 5) { /* tombstones count: a probe must always meet an empty slot */
        err = rehash(m);
        if (err != ERR_OK)
            return err;
    }
    slot = find(m, key);
    if (slot->value == NULL)
        m->count++;
    if (slot->key == 0)
        m->used++;
    *slot = (struct map_slot){key, value};
    return ERR_OK;
}

void *map_get(const struct map *m, uint64_t key)
{
    return m->count == 0 || key == 0 ? NULL : find(m, key)->value;
}

void *map_del(struct map *m, uint64_t key)
{
    struct map_slot *slot;
    void *value;

    if (m->count == 0 || key == 0)
        return NULL;
    slot = find(m, key);
    value = slot->value;
    if (value != NULL) {
        slot->value = NULL;
        m->count--;
    }
    return value;
}

void *map_next(const struct map *m, size_t *at)
{
    while (*at < m->cap) {
        void *value = m->slots[(*at)++].value;

        if (value != NULL)
            return value;
    }
    return NULL;
}

void map_free(struct map *m)
{
    mem_free(m->slots);
    *m = (struct map)MAP_INIT;
}
