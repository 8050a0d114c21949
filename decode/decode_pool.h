/* decode/decode_pool.h - private: the blocks of the worker's KV pool, and the host memory beside it in which
 * requests are parked.  Both threads of the role use the blocks, so they are behind a lock.
 *
 * While somebody waits for room (decode_pool_publish says so) only the engine thread, which plans, takes
 * blocks; else the loop may take them for a new hand-over at once, as long as it leaves the head-room
 * that the running ones need for their next step.
 *
 * Park memory is allocated as it is first used, up to its bound, and kept until the pool goes.
 *
 * Thread: any for take, move, count and stats; engine thread for park, resume, drop.  Units: blocks; a
 * place is an index into the park memory. */
#ifndef DECODE_DECODE_POOL_H
#define DECODE_DECODE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "engine/engine_blocks.h"

struct decode_pool;

/* What the engine thread says of itself, for reports. */
struct decode_stats {
    uint32_t parked; /* requests */
    uint32_t blocks_parked;
    uint64_t context; /* tokens of KV of those that run */
    uint64_t parks, resumes, gave_up;
};

MUST_USE enum err decode_pool_create(struct engine *engine, uint32_t n_blocks, uint64_t park_bytes,
                                     struct decode_pool **out);
void decode_pool_destroy(struct decode_pool *p); /* NULL is fine */

uint32_t decode_pool_places(const struct decode_pool *p); /* all of them, taken or not */
/* ERR_LIMIT: fewer are free, nothing changed. */
MUST_USE enum err decode_pool_take(struct decode_pool *p, uint32_t n, enum engine_block_state to,
                                   uint32_t *slots);
/* The loop's short cut: the same, if nobody waits and the head-room stays. */
bool decode_pool_try(struct decode_pool *p, uint32_t n, enum engine_block_state to,
                     uint32_t *slots);
void decode_pool_move(struct decode_pool *p, const uint32_t *slots, uint32_t n,
                      enum engine_block_state from, enum engine_block_state to);
uint32_t decode_pool_count(struct decode_pool *p, enum engine_block_state s);
/* All of them at one moment: their sum is the pool. */
void decode_pool_counts(struct decode_pool *p, uint32_t n[ENGINE_BLOCK_N_STATES]);

/* Copies OWNED blocks out and frees them; slots then holds places.  ERR_LIMIT: the park memory is full;
 * ERR_NOMEM; ERR_UNSUPPORTED: the backend cannot, and never will.  On an error nothing changed. */
MUST_USE enum err decode_pool_park(struct decode_pool *p, uint32_t *slots, uint32_t n);
/* Back into OWNED blocks; slots had places and then holds blocks.  ERR_LIMIT: too few are free. */
MUST_USE enum err decode_pool_resume(struct decode_pool *p, uint32_t *slots, uint32_t n);
void decode_pool_drop(struct decode_pool *p, const uint32_t *places, uint32_t n);
uint64_t decode_pool_park_room(const struct decode_pool *p); /* blocks */
double decode_pool_park_ns(const struct decode_pool *p);     /* per block and way, as measured */

/* Engine thread, once per turn: somebody waits for room; blocks that the next step of all may need. */
void decode_pool_publish(struct decode_pool *p, bool wanted, uint32_t headroom,
                         const struct decode_stats *s);
struct decode_stats decode_pool_stats(struct decode_pool *p);

#endif
