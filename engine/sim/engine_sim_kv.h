/* engine/sim/engine_sim_kv.h - private to the sim backend: writing, reading and checking the tags of
 * engine_sim.h in paged blocks.
 *
 * Thread: the stepping thread.  Block indices are in range and lists long enough: the dispatcher
 * checked them. */
#ifndef ENGINE_SIM_ENGINE_SIM_KV_H
#define ENGINE_SIM_ENGINE_SIM_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire_kv.h"

struct sim_kv {
    uint8_t *base;
    struct wire_kv_layout layout;
    size_t block_bytes, layer_bytes;
    uint32_t vocab;
};

/* A run of positions and the chain through it: states[i] is the state after position first + i, links[i]
 * the tie to the one before. */
struct sim_run {
    const uint32_t *blocks;
    uint32_t first, n;
    const uint64_t *states, *links;
};

/* links[] from states[]; before: the state ahead of the first. */
void sim_kv_link(uint64_t before, const uint64_t *states, uint64_t *links, uint32_t n);
void sim_kv_write(const struct sim_kv *kv, const struct sim_run *run, uint32_t layer);

/* What position p says the state after it is; unchecked. */
uint64_t sim_kv_state(const struct sim_kv *kv, const uint32_t *blocks, uint32_t p);

/* Do the tags of block number i of the list, up to position end, follow from what the block before it
 * says, in every element of every layer, by tokens of the vocabulary? */
bool sim_kv_block_holds(const struct sim_kv *kv, const uint32_t *blocks, uint32_t i, uint32_t end);

#endif
