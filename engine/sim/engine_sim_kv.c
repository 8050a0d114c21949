/* engine/sim/engine_sim_kv.c - tags in paged blocks; the formulas are in engine_sim.h. */
#include "engine/sim/engine_sim_kv.h"

#include "engine/sim/engine_sim.h"

/* Multiplicative inverses modulo 2^64, to get a token back from two states. */
#define STEP_INVERSE UINT64_C(0xf1de83e19937733d)
#define FACTOR_INVERSE UINT64_C(0xcfee444d8b59a89b)

enum { SIM_TOKENS_MAX = 1024 }; /* of a block: the layout's limit */

static uint64_t key_mask(uint32_t layer)
{
    return engine_sim_mix(2 * (uint64_t)layer + 1);
}

static uint64_t value_mask(uint32_t layer)
{
    return engine_sim_mix(2 * (uint64_t)layer + 2);
}

static uint64_t unmix(uint64_t x)
{
    x ^= x >> 32;
    x *= FACTOR_INVERSE;
    x ^= x >> 32;
    x *= FACTOR_INVERSE;
    return x ^ (x >> 32);
}

/* Is there a token of the vocabulary that leads from one state to the other? */
static bool token_leads(uint64_t before, uint64_t after, uint32_t vocab)
{
    return (unmix(after) - before) * STEP_INVERSE - 1 < vocab;
}

static uint64_t link_of(uint64_t before, uint64_t after)
{
    return before ^ engine_sim_mix(after);
}

void sim_kv_link(uint64_t before, const uint64_t *states, uint64_t *links, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        links[i] = link_of(before, states[i]);
        before = states[i];
    }
}

/* The K half of a layer of a block; the V half follows it. */
static uint64_t *layer_of(const struct sim_kv *kv, uint32_t block, uint32_t layer)
{
    return (uint64_t *)(void *)(kv->base + block * kv->block_bytes + layer * kv->layer_bytes);
}

/* n tags of one half, from token t of the block on. */
static void write_half(const struct sim_kv *kv, uint64_t *half, uint32_t t, const uint64_t *tags,
                       uint32_t n, uint64_t mask)
{
    uint32_t dim = kv->layout.head_dim;

    if (dim == 1 && kv->layout.n_kv_heads == 1) {
        for (uint32_t i = 0; i < n; i++)
            half[t + i] = tags[i] ^ mask;
        return;
    }
    for (uint32_t head = 0; head < kv->layout.n_kv_heads; head++) {
        uint64_t *row = half + ((size_t)head * kv->layout.block_tokens + t) * dim;

        for (uint32_t i = 0; i < n; i++) {
            uint64_t tag = (tags[i] ^ mask) + (uint64_t)head * dim * ENGINE_SIM_STEP;

            for (uint32_t d = 0; d < dim; d++)
                row[(size_t)i * dim + d] = tag + d * ENGINE_SIM_STEP;
        }
    }
}

void sim_kv_write(const struct sim_kv *kv, const struct sim_run *run, uint32_t layer)
{
    uint32_t per_block = kv->layout.block_tokens;
    size_t half_elems = kv->layer_bytes / 2 / sizeof(uint64_t);
    uint64_t key = key_mask(layer), value = value_mask(layer);

    for (uint32_t done = 0; done < run->n;) {
        uint32_t p = run->first + done, t = p % per_block;
        uint32_t n = per_block - t < run->n - done ? per_block - t : run->n - done;
        uint64_t *half = layer_of(kv, run->blocks[p / per_block], layer);

        write_half(kv, half, t, run->states + done, n, key);
        write_half(kv, half + half_elems, t, run->links + done, n, value);
        done += n;
    }
}

uint64_t sim_kv_state(const struct sim_kv *kv, const uint32_t *blocks, uint32_t p)
{
    uint32_t per_block = kv->layout.block_tokens;
    const uint64_t *row =
        layer_of(kv, blocks[p / per_block], 0) + (size_t)(p % per_block) * kv->layout.head_dim;

    return row[0] ^ key_mask(0);
}

/* The differences of all elements from what they should be, or-ed. */
static uint64_t half_differs(const struct sim_kv *kv, const uint64_t *half, const uint64_t *tags,
                             uint32_t n, uint64_t mask)
{
    uint32_t dim = kv->layout.head_dim;
    uint64_t differs = 0;

    if (dim == 1 && kv->layout.n_kv_heads == 1) {
        for (uint32_t i = 0; i < n; i++)
            differs |= half[i] ^ tags[i] ^ mask;
        return differs;
    }
    for (uint32_t head = 0; head < kv->layout.n_kv_heads; head++) {
        const uint64_t *row = half + (size_t)head * kv->layout.block_tokens * dim;

        for (uint32_t i = 0; i < n; i++) {
            uint64_t tag = (tags[i] ^ mask) + (uint64_t)head * dim * ENGINE_SIM_STEP;

            for (uint32_t d = 0; d < dim; d++)
                differs |= row[(size_t)i * dim + d] ^ (tag + d * ENGINE_SIM_STEP);
        }
    }
    return differs;
}

bool sim_kv_block_holds(const struct sim_kv *kv, const uint32_t *blocks, uint32_t i, uint32_t end)
{
    uint32_t per_block = kv->layout.block_tokens, first = i * per_block;
    uint32_t n = end - first < per_block ? end - first : per_block;
    size_t half_elems = kv->layer_bytes / 2 / sizeof(uint64_t);
    uint64_t before = i == 0 ? ENGINE_SIM_START : sim_kv_state(kv, blocks, first - 1);
    uint64_t states[SIM_TOKENS_MAX], links[SIM_TOKENS_MAX], differs = 0;

    for (uint32_t t = 0; t < n; t++) {
        states[t] = sim_kv_state(kv, blocks, first + t);
        links[t] = link_of(before, states[t]);
        if (!token_leads(before, states[t], kv->vocab))
            return false;
        before = states[t];
    }
    for (uint32_t layer = 0; layer < kv->layout.n_layers; layer++) {
        const uint64_t *half = layer_of(kv, blocks[i], layer);

        differs |= half_differs(kv, half, states, n, key_mask(layer));
        differs |= half_differs(kv, half + half_elems, links, n, value_mask(layer));
    }
    return differs == 0;
}
