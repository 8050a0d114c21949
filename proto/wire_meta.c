/* proto/wire_meta.c - see the header for the contract. */
#include "proto/wire_meta.h"

#include <string.h>

enum { VERSION = 1 };

static const uint8_t magic[4] = {'B', 'T', 'N', 'M'};

static void put_le(uint8_t *dst, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        dst[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *src, int bytes)
{
    uint64_t v = 0;

    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)src[i] << (8 * i);
    return v;
}

void wire_meta_encode(const struct wire_meta *m, uint8_t out[WIRE_META_LEN])
{
    memcpy(out, magic, sizeof(magic));
    put_le(out + 4, VERSION, 2);
    put_le(out + 6, 0, 2);
    put_le(out + 8, m->request, 8);
    put_le(out + 16, m->epoch, 4);
    put_le(out + 20, m->n_tokens, 4);
    put_le(out + 24, m->token, 4);
    put_le(out + 28, m->index, 4);
}

enum err wire_meta_decode(const uint8_t *src, size_t len, struct wire_meta *out)
{
    struct wire_meta m;

    if (len != WIRE_META_LEN || memcmp(src, magic, sizeof(magic)) != 0 ||
        get_le(src + 4, 2) != VERSION || get_le(src + 6, 2) != 0)
        return ERR_BAD_FRAME;
    m.request = get_le(src + 8, 8);
    m.epoch = (uint32_t)get_le(src + 16, 4);
    m.n_tokens = (uint32_t)get_le(src + 20, 4);
    m.token = (uint32_t)get_le(src + 24, 4);
    m.index = (uint32_t)get_le(src + 28, 4);
    if (m.request == 0 || m.epoch == 0 || m.n_tokens == 0 || m.token > INT32_MAX)
        return ERR_BAD_FRAME;
    *out = m;
    return ERR_OK;
}
