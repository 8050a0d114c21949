/* tests/fuzz/model_config_fuzz.c - config.json: whatever is accepted is within the ranges that the rest
 * of the engine counts on. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct engine_model_config c;
    struct err_msg msg = {""};

    if (engine_model_parse_config((const char *)data, size, &c, &msg) != ERR_OK) {
        require(msg.text[0] != '\0');
        return 0;
    }
    require(c.architecture[0] != '\0' && memchr(c.architecture, 0, sizeof(c.architecture)) != NULL);
    require(c.hidden >= 1 && c.n_layers >= 1 && c.ffn >= 1 && c.vocab >= 1 && c.max_positions >= 1);
    require(c.n_layers <= 1024 && c.n_kv_heads >= 1 && c.n_heads <= 1024);
    require(c.n_heads % c.n_kv_heads == 0 && c.head_dim % 2 == 0 && c.head_dim <= 1024);
    require(c.norm_eps >= 0 && c.rope_theta >= 1 && c.rope_factor > 0);
    require(c.n_eos <= ENGINE_MODEL_EOS_MAX && c.bos >= -1 && c.bos < (int32_t)c.vocab);
    for (uint32_t i = 0; i < c.n_eos; i++)
        require(c.eos[i] >= 0 && (uint32_t)c.eos[i] < c.vocab);
    return 0;
}
