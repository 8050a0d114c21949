/* engine/engine_blocks.h - who has each block of a worker's KV pool: a free list over slot indices with
 * a state per block.
 *
 *   create -> take (FREE -> ...) / move (between states, back to FREE) -> destroy
 *
 * A block is in exactly one state.  FREE means that nothing reads or writes it: no step, no transfer.
 * Only the owner's view is kept here, never the bytes.
 *
 * Thread: the owner's.  Units: blocks; a slot is a block's index in the pool. */
#ifndef ENGINE_ENGINE_BLOCKS_H
#define ENGINE_ENGINE_BLOCKS_H

#include <stdint.h>

#include "base/err.h"

/*    NAME         what it waits for */
#define ENGINE_BLOCK_STATES(X)                              \
    X(FREE)        /* a taker */                            \
    X(OWNED)       /* its request to end */                 \
    X(GRANTED)     /* a hand-over into it to be verified */ \
    X(QUARANTINED) /* proof that no transfer can write to it */

enum engine_block_state {
#define X(NAME) ENGINE_BLOCK_##NAME,
    ENGINE_BLOCK_STATES(X)
#undef X
};
enum { ENGINE_BLOCK_N_STATES = ENGINE_BLOCK_QUARANTINED + 1 };
const char *engine_block_state_name(enum engine_block_state s);

struct engine_blocks;

MUST_USE enum err engine_blocks_create(uint32_t n_blocks,
                                       struct engine_blocks **out); /* ERR_NOMEM */
void engine_blocks_destroy(struct engine_blocks *b);                /* NULL is fine */

/* n FREE blocks become `to` and are written to slots.  ERR_LIMIT: fewer are free, nothing changed. */
MUST_USE enum err engine_blocks_take(struct engine_blocks *b, uint32_t n,
                                     enum engine_block_state to, uint32_t *slots);
/* All n slots go from one state to another.  ERR_BAD_STATE: one of them is not in `from` or no block
 * of the pool; nothing changed. */
MUST_USE enum err engine_blocks_move(struct engine_blocks *b, const uint32_t *slots, uint32_t n,
                                     enum engine_block_state from, enum engine_block_state to);

uint32_t engine_blocks_count(const struct engine_blocks *b, enum engine_block_state s);
/* Tests: walk everything.  ERR_BAD_STATE with the first violation. */
MUST_USE enum err engine_blocks_check(const struct engine_blocks *b, struct err_msg *msg);

#endif
