/* engine/kernels/kv_digest_ref.c - the definition: what the hosts on both sides of a hand-over compute. */
#include "engine/kernels/kv_digest.h"

uint64_t kv_digest_ref(const void *base, const struct kv_memory_run *runs, uint32_t n_runs)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n_runs; i++)
        sum += wire_kv_digest((const uint8_t *)base + runs[i].at, runs[i].len, runs[i].canonical,
                              runs[i].salt);
    return sum;
}
