/* engine/kernels/attention_prefill_ref.c - row after row by the definition. */
#include "engine/kernels/attention_prefill.h"

#include <stddef.h>

void attention_prefill_ref(float *out, const struct attention *a, const struct gpu_batch *b,
                           const struct attention_chunk *chunks, uint32_t n_chunks)
{
    for (uint32_t c = 0; c < n_chunks; c++) {
        for (uint32_t i = 0; i < chunks[c].n_rows; i++) {
            uint32_t row = chunks[c].first_row + i;

            attention_row_ref(out + (size_t)row * a->n_q_heads * a->kv.head_dim, a,
                              b->blocks + (size_t)chunks[c].slot * b->max_blocks, row,
                              chunks[c].position + i);
        }
    }
}
