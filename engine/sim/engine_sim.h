/* engine/sim/engine_sim.h - the closed form of the sim backend: what it generates, and what stands in
 * its KV.  tests/e2e/sim_model.py is the same in Python; tests/e2e/sim_golden.txt binds the two.
 *
 * A sequence is a chain of 64-bit states: it starts at ENGINE_SIM_START, and every token, of the prompt
 * or generated, pushes it on.  The next token is a function of the state alone, so it depends on the
 * whole prefix, in order, and on nothing else: one lost, doubled or foreign token changes all that
 * follow.  Temperature, seed, penalties and bias have no say.
 *
 * KV (dtype U64): at position p of layer l, with before = state ahead of the token there and
 * after = state behind it, element i of all heads (head * head_dim + d) is
 *
 *   K = (after                             ^ engine_sim_mix(2l + 1)) + i * ENGINE_SIM_STEP
 *   V = ((before ^ engine_sim_mix(after))  ^ engine_sim_mix(2l + 2)) + i * ENGINE_SIM_STEP
 *
 * So K gives the state back, V ties it to the one before, and every element can be checked: blocks
 * that were lost, doubled, swapped, left stale or mixed with another sequence's break the chain.
 *
 * Pure code.  Thread: any. */
#ifndef ENGINE_SIM_ENGINE_SIM_H
#define ENGINE_SIM_ENGINE_SIM_H

#include <stdbool.h>
#include <stdint.h>

#define ENGINE_SIM_START UINT64_C(0x6a09e667f3bcc908)
#define ENGINE_SIM_STEP UINT64_C(0x9e3779b97f4a7c15)
#define ENGINE_SIM_FACTOR UINT64_C(0xd6e8feb86659fd93)
#define ENGINE_SIM_DRAW UINT64_C(0xbb67ae8584caa73b)
#define ENGINE_SIM_END UINT64_C(0x3c6ef372fe94f82b)

/* A bijection that spreads every bit over all others. */
static inline uint64_t engine_sim_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= ENGINE_SIM_FACTOR;
    x ^= x >> 32;
    x *= ENGINE_SIM_FACTOR;
    return x ^ (x >> 32);
}

/* The state after one more token. */
static inline uint64_t engine_sim_push(uint64_t state, int32_t token)
{
    return engine_sim_mix(state + ENGINE_SIM_STEP * ((uint64_t)(uint32_t)token + 1));
}

/* The token ids that are generated: [first, first + count). */
struct engine_sim_range {
    uint32_t first, count;
};

/* The range for a vocabulary: ids below the guard are left out (bytes and special tokens stand there:
 * 300 if the vocabulary has more than 600, else 3), and so is all from the lowest of the special ids
 * that lie in the upper half on. */
struct engine_sim_range engine_sim_range(uint32_t vocab, const int32_t *special,
                                         uint32_t n_special);

/* The token that follows a prefix in this state. */
static inline int32_t engine_sim_next(uint64_t state, struct engine_sim_range r)
{
    return (int32_t)(r.first + engine_sim_mix(state ^ ENGINE_SIM_DRAW) % r.count);
}

/* Does the stop token follow instead?  Never if mean_output is 0. */
static inline bool engine_sim_ends(uint64_t state, uint32_t mean_output)
{
    return mean_output > 0 && engine_sim_mix(state ^ ENGINE_SIM_END) % mean_output == 0;
}

/* What is reported as the log probability of the next token; alternative i of top has i less. */
static inline float engine_sim_logprob(uint64_t state)
{
    return -(float)(engine_sim_mix(state ^ ENGINE_SIM_STEP) & 1023) / 1024.0f;
}

#endif
