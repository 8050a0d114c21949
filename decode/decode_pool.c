/* decode/decode_pool.c - see the header. */
#include "decode/decode_pool.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { PLACES_MAX = 1 << 20 };

/* Until it was measured: 4 GB/s. */
static const double park_ns_per_byte = 0.25;

struct decode_pool {
    struct engine *engine;
    size_t block_bytes;
    pthread_mutex_t lock; /* blocks, wanted, headroom, stats */
    struct engine_blocks *blocks;
    bool wanted;
    uint32_t headroom;
    struct decode_stats stats;
    /* engine thread's */
    uint32_t n_places, n_free;
    uint8_t **place; /* memory of each, NULL until first used */
    uint32_t *free;  /* stack of n_free places */
    double copy_ns;  /* per block */
};

enum err decode_pool_create(struct engine *engine, uint32_t n_blocks, uint64_t park_bytes,
                            struct decode_pool **out)
{
    struct decode_pool *p = mem_try_calloc(1, sizeof(*p));
    uint64_t places;

    if (p == NULL)
        return ERR_NOMEM;
    p->engine = engine;
    p->block_bytes = wire_kv_block_bytes(&engine_info(engine)->kv);
    places = park_bytes / p->block_bytes;
    p->n_places = places < PLACES_MAX ? (uint32_t)places : PLACES_MAX;
    p->copy_ns = park_ns_per_byte * (double)p->block_bytes;
    pthread_mutex_init(&p->lock, NULL);
    p->place = mem_try_calloc(p->n_places, sizeof(uint8_t *));
    p->free = mem_try_calloc(p->n_places, sizeof(*p->free));
    if (p->place == NULL || p->free == NULL ||
        engine_blocks_create(n_blocks, &p->blocks) != ERR_OK) {
        decode_pool_destroy(p);
        return ERR_NOMEM;
    }
    while (p->n_free < p->n_places) {
        p->free[p->n_free] = p->n_places - 1 - p->n_free;
        p->n_free++;
    }
    *out = p;
    return ERR_OK;
}

void decode_pool_destroy(struct decode_pool *p)
{
    if (p == NULL)
        return;
    for (uint32_t i = 0; p->place != NULL && i < p->n_places; i++)
        mem_free(p->place[i]);
    mem_free(p->place);
    mem_free(p->free);
    engine_blocks_destroy(p->blocks);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

uint32_t decode_pool_places(const struct decode_pool *p)
{
    return p->n_places;
}

enum err decode_pool_take(struct decode_pool *p, uint32_t n, enum engine_block_state to,
                          uint32_t *slots)
{
    enum err err;

    pthread_mutex_lock(&p->lock);
    err = engine_blocks_take(p->blocks, n, to, slots);
    pthread_mutex_unlock(&p->lock);
    return err;
}

bool decode_pool_try(struct decode_pool *p, uint32_t n, enum engine_block_state to, uint32_t *slots)
{
    bool taken;

    pthread_mutex_lock(&p->lock);
    taken = !p->wanted &&
            (uint64_t)n + p->headroom <= engine_blocks_count(p->blocks, ENGINE_BLOCK_FREE) &&
            engine_blocks_take(p->blocks, n, to, slots) == ERR_OK;
    pthread_mutex_unlock(&p->lock);
    return taken;
}

void decode_pool_move(struct decode_pool *p, const uint32_t *slots, uint32_t n,
                      enum engine_block_state from, enum engine_block_state to)
{
    enum err err;

    if (n == 0 || from == to)
        return;
    pthread_mutex_lock(&p->lock);
    err = engine_blocks_move(p->blocks, slots, n, from, to);
    pthread_mutex_unlock(&p->lock);
    if (err != ERR_OK)
        LOG_ERROR("decode", "blocks of a request were not its own", "%s -> %s",
                  engine_block_state_name(from), engine_block_state_name(to));
}

uint32_t decode_pool_count(struct decode_pool *p, enum engine_block_state s)
{
    uint32_t n;

    pthread_mutex_lock(&p->lock);
    n = engine_blocks_count(p->blocks, s);
    pthread_mutex_unlock(&p->lock);
    return n;
}

void decode_pool_counts(struct decode_pool *p, uint32_t n[ENGINE_BLOCK_N_STATES])
{
    pthread_mutex_lock(&p->lock);
    for (uint32_t s = 0; s < ENGINE_BLOCK_N_STATES; s++)
        n[s] = engine_blocks_count(p->blocks, (enum engine_block_state)s);
    pthread_mutex_unlock(&p->lock);
}

/* ---- park memory ---- */

static enum err take_places(struct decode_pool *p, uint32_t n, uint32_t *places)
{
    if (n > p->n_free)
        return ERR_LIMIT;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = p->free[p->n_free - 1 - i];

        if (p->place[at] == NULL)
            p->place[at] = mem_try_alloc(p->block_bytes);
        if (p->place[at] == NULL)
            return ERR_NOMEM;
        places[i] = at;
    }
    p->n_free -= n;
    return ERR_OK;
}

void decode_pool_drop(struct decode_pool *p, const uint32_t *places, uint32_t n)
{
    for (uint32_t i = n; i-- > 0;)
        p->free[p->n_free++] = places[i];
}

static enum err copy_all(struct decode_pool *p, const uint32_t *blocks, const uint32_t *places,
                         uint32_t n, enum engine_kv_dir dir)
{
    uint64_t started = clock_now_ns();

    for (uint32_t i = 0; i < n; i++) {
        enum err err = engine_kv_copy(p->engine, blocks[i], p->place[places[i]], dir);

        if (err != ERR_OK)
            return err;
    }
    if (n > 0)
        p->copy_ns += 0.2 * ((double)(clock_now_ns() - started) / n - p->copy_ns);
    return ERR_OK;
}

enum err decode_pool_park(struct decode_pool *p, uint32_t *slots, uint32_t n)
{
    uint32_t *places = mem_try_calloc(n, sizeof(*places));
    enum err err = places != NULL ? take_places(p, n, places) : ERR_NOMEM;

    if (err == ERR_OK) {
        err = copy_all(p, slots, places, n, ENGINE_KV_OUT);
        if (err == ERR_OK) {
            decode_pool_move(p, slots, n, ENGINE_BLOCK_OWNED, ENGINE_BLOCK_FREE);
            memcpy(slots, places, n * sizeof(*slots));
        } else {
            decode_pool_drop(p, places, n);
        }
    }
    if (err == ERR_UNSUPPORTED && p->n_free > 0) {
        LOG_WARN("decode", "parking is off", "this backend cannot copy blocks to the host");
        p->n_free = 0;
    }
    mem_free(places);
    return err;
}

enum err decode_pool_resume(struct decode_pool *p, uint32_t *slots, uint32_t n)
{
    uint32_t *blocks = mem_try_calloc(n, sizeof(*blocks));
    enum err err = blocks != NULL ? decode_pool_take(p, n, ENGINE_BLOCK_OWNED, blocks) : ERR_NOMEM;

    if (err == ERR_OK) {
        err = copy_all(p, blocks, slots, n, ENGINE_KV_IN);
        if (err == ERR_OK) {
            decode_pool_drop(p, slots, n);
            memcpy(slots, blocks, n * sizeof(*slots));
        } else {
            decode_pool_move(p, blocks, n, ENGINE_BLOCK_OWNED, ENGINE_BLOCK_FREE);
        }
    }
    mem_free(blocks);
    return err;
}

uint64_t decode_pool_park_room(const struct decode_pool *p)
{
    return p->n_free;
}

double decode_pool_park_ns(const struct decode_pool *p)
{
    return p->copy_ns;
}

/* ---- what the engine thread says ---- */

void decode_pool_publish(struct decode_pool *p, bool wanted, uint32_t headroom,
                         const struct decode_stats *s)
{
    pthread_mutex_lock(&p->lock);
    p->wanted = wanted;
    p->headroom = headroom;
    p->stats = *s;
    pthread_mutex_unlock(&p->lock);
}

struct decode_stats decode_pool_stats(struct decode_pool *p)
{
    struct decode_stats s;

    pthread_mutex_lock(&p->lock);
    s = p->stats;
    pthread_mutex_unlock(&p->lock);
    return s;
}
