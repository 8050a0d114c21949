/* engine/engine_philox.h - Philox 4x32 with 10 rounds, a counter-based random generator: the same
 * (key, counter) gives the same 128 bits on every machine and device, in any order.
 *
 * Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * Pure code, integers only; kernels include it.  Thread: any. */
#ifndef ENGINE_ENGINE_PHILOX_H
#define ENGINE_ENGINE_PHILOX_H

#include "engine/engine_pure.h"

ENGINE_PURE void engine_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0;
        uint64_t b = (uint64_t)0xCD9E8D57u * c2;

        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The 64 random bits that choose generated token `index` of a stream with this seed. */
ENGINE_PURE uint64_t engine_philox_draw(uint64_t seed, uint32_t index)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {index, 0, 0, 0};
    uint32_t out[4];

    engine_philox(key, counter, out);
    return (uint64_t)out[1] << 32 | out[0];
}

#endif
