/* engine/kernels/kv_move_ref.c - the definition. */
#include "engine/kernels/kv_move.h"

#include <string.h>

void kv_gather_ref(const struct kv_move_args *a)
{
    for (uint32_t i = 0; i < a->n_runs; i++)
        memcpy((uint8_t *)a->dense + a->runs[i].host, (const uint8_t *)a->base + a->runs[i].at,
               a->runs[i].len);
}

void kv_scatter_ref(const struct kv_move_args *a)
{
    for (uint32_t i = 0; i < a->n_runs; i++)
        memcpy((uint8_t *)a->base + a->runs[i].at, (const uint8_t *)a->dense + a->runs[i].host,
               a->runs[i].len);
}
