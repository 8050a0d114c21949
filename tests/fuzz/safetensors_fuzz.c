/* tests/fuzz/safetensors_fuzz.c - the header of a weight file.
 *
 * Beyond "no crash": the tensors tile the data exactly, so of all file sizes at most one is right for a
 * header; and the verdict does not depend on what lies behind the header. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err_msg msg = {""};
    uint64_t header = 0, right = 0;
    enum err err;

    err = engine_model_check_header(data, size, size, &msg);
    require(err == ERR_OK || msg.text[0] != '\0');
    if (size < 8)
        return 0;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | data[i];
    if (header > size - 8)
        return 0;
    /* Only the header is in memory, the data is pretended. */
    for (uint64_t extra = 0; extra <= 24; extra++) {
        if (engine_model_check_header(data, 8 + (size_t)header, 8 + header + extra, &msg) == ERR_OK)
            right++;
    }
    require(right <= 1);
    return 0;
}
