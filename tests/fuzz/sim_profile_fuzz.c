/* tests/fuzz/sim_profile_fuzz.c - any text as a profile of the sim backend: refused with a line, or a
 * profile whose every time and size is in range. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sim/engine_sim_profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct engine_sim_load load = {
        .prefill_tokens = 512, .decode_slots = 64, .prefill_square = 1e9, .decode_context = 1e6};
    struct engine_sim_profile p;
    struct err_msg msg = {""};
    enum err err = engine_sim_profile_parse("p", (const char *)data, size, &p, &msg);

    require(err == ERR_OK || err == ERR_INVALID);
    if (err != ERR_OK) {
        require(strncmp(msg.text, "p:", 2) == 0 &&
                memchr(msg.text, '\0', sizeof(msg.text)) != NULL);
        return 0;
    }
    require(p.kv_layers >= 1 && p.kv_layers <= 1024 && p.kv_heads >= 1 && p.kv_heads <= 1024);
    require(p.kv_head_dim >= 1 && p.kv_head_dim <= 1024 && p.jitter >= 0 && p.jitter < 1);
    require(p.vocab >= 0 && p.vocab <= 1e6 && p.max_context >= 0 && p.max_context <= 16e6);
    for (uint64_t step = 0; step < 4; step++) /* at most an hour */
        require(engine_sim_profile_time(&p, &load, step) <= 3600ull * 1000000000ull);
    return 0;
}
