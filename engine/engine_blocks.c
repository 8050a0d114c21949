/* engine/engine_blocks.c - see the header for the contract.
 *
 * The free list is a stack: the block freed last is taken first, while its bytes may still be in cache. */
#include "engine/engine_blocks.h"

#include "base/mem.h"

struct engine_blocks {
    uint32_t n;
    uint32_t count[ENGINE_BLOCK_N_STATES];
    uint8_t *state; /* enum engine_block_state per block */
    uint32_t *free; /* stack of count[FREE] slots */
};

const char *engine_block_state_name(enum engine_block_state s)
{
    switch (s) {
#define X(NAME)               \
    case ENGINE_BLOCK_##NAME: \
        return #NAME;
        ENGINE_BLOCK_STATES(X)
#undef X
    }
    return "?";
}

enum err engine_blocks_create(uint32_t n_blocks, struct engine_blocks **out)
{
    struct engine_blocks *b = mem_try_calloc(1, sizeof(*b));

    if (b == NULL)
        return ERR_NOMEM;
    b->n = n_blocks;
    b->state = mem_try_calloc(n_blocks, sizeof(*b->state));
    b->free = mem_try_calloc(n_blocks, sizeof(*b->free));
    if (b->state == NULL || b->free == NULL) {
        engine_blocks_destroy(b);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < n_blocks; i++)
        b->free[i] = n_blocks - 1 - i;
    b->count[ENGINE_BLOCK_FREE] = n_blocks;
    *out = b;
    return ERR_OK;
}

void engine_blocks_destroy(struct engine_blocks *b)
{
    if (b == NULL)
        return;
    mem_free(b->state);
    mem_free(b->free);
    mem_free(b);
}

enum err engine_blocks_take(struct engine_blocks *b, uint32_t n, enum engine_block_state to,
                            uint32_t *slots)
{
    if (n > b->count[ENGINE_BLOCK_FREE])
        return ERR_LIMIT;
    if (to == ENGINE_BLOCK_FREE)
        return ERR_BAD_STATE;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = b->free[--b->count[ENGINE_BLOCK_FREE]];

        b->state[slot] = (uint8_t)to;
        slots[i] = slot;
    }
    b->count[to] += n;
    return ERR_OK;
}

enum err engine_blocks_move(struct engine_blocks *b, const uint32_t *slots, uint32_t n,
                            enum engine_block_state from, enum engine_block_state to)
{
    uint32_t done;

    if (from == ENGINE_BLOCK_FREE || from == to)
        return ERR_BAD_STATE;
    for (done = 0; done < n; done++) {
        if (slots[done] >= b->n || b->state[slots[done]] != from)
            break;
        b->state[slots[done]] = (uint8_t)to;
    }
    if (done < n) {
        /* A slot named twice is found too, because its first mention has moved it. */
        while (done-- > 0)
            b->state[slots[done]] = (uint8_t)from;
        return ERR_BAD_STATE;
    }
    b->count[from] -= n;
    for (uint32_t i = n; to == ENGINE_BLOCK_FREE && i-- > 0;)
        b->free[b->count[ENGINE_BLOCK_FREE]++] = slots[i];
    if (to != ENGINE_BLOCK_FREE)
        b->count[to] += n;
    return ERR_OK;
}

uint32_t engine_blocks_count(const struct engine_blocks *b, enum engine_block_state s)
{
    return b->count[s];
}

enum err engine_blocks_check(const struct engine_blocks *b, struct err_msg *msg)
{
    uint32_t seen[ENGINE_BLOCK_N_STATES] = {0};

    for (uint32_t i = 0; i < b->n; i++) {
        if (b->state[i] >= ENGINE_BLOCK_N_STATES)
            return err_set(msg, ERR_BAD_STATE, "block %u has no state", i);
        seen[b->state[i]]++;
    }
    for (uint32_t s = 0; s < ENGINE_BLOCK_N_STATES; s++) {
        if (seen[s] != b->count[s])
            return err_set(msg, ERR_BAD_STATE, "%u blocks are %s, %u are counted", seen[s],
                           engine_block_state_name((enum engine_block_state)s), b->count[s]);
    }
    for (uint32_t i = 0; i < b->count[ENGINE_BLOCK_FREE]; i++) {
        if (b->free[i] >= b->n || b->state[b->free[i]] != ENGINE_BLOCK_FREE)
            return err_set(msg, ERR_BAD_STATE, "free list entry %u is not a free block", i);
    }
    return ERR_OK;
}
