/* engine/kernels/gather_rows_ref.c - the definition. */
#include "engine/kernels/gather_rows.h"

#include <stddef.h>
#include <string.h>

void gather_rows_ref(const struct gather_rows_args *a)
{
    size_t bytes = (size_t)a->cols * 2;

    for (uint32_t r = 0; r < a->rows; r++) {
        uint8_t *out = (uint8_t *)a->out + r * bytes;
        int64_t i = a->index[r];

        if ((i < -1 || i >= a->total) && a->bad != NULL)
            *a->bad = r + 1;
        if (i >= 0 && i >= a->first && i < (int64_t)a->first + a->count)
            memcpy(out, (const uint8_t *)a->table + (size_t)(i - a->first) * bytes, bytes);
        else
            memset(out, 0, bytes);
    }
}
