/* proto/wire_kv.c - see the header for the contract. */
#include "proto/wire_kv.h"

#include <inttypes.h>
#include <string.h>

enum { FIELD_MAX = 1024 };

static enum err check_field(const char *name, uint32_t value, struct err_msg *msg)
{
    if (value >= 1 && value <= FIELD_MAX)
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "KV layout: %s is %u, allowed are 1 .. %d", name, value,
                   FIELD_MAX);
}

enum err wire_kv_layout_check(const struct wire_kv_layout *l, struct err_msg *msg)
{
    enum err err;

    if ((err = check_field("n_layers", l->n_layers, msg)) != ERR_OK ||
        (err = check_field("n_kv_heads", l->n_kv_heads, msg)) != ERR_OK ||
        (err = check_field("head_dim", l->head_dim, msg)) != ERR_OK ||
        (err = check_field("block_tokens", l->block_tokens, msg)) != ERR_OK)
        return err;
    if (l->dtype < WIRE_KV_F32 || l->dtype > WIRE_KV_U64)
        return err_set(msg, ERR_INVALID, "KV layout: unknown dtype %u", l->dtype);
    return ERR_OK;
}

static enum err compare(const char *name, uint64_t a, uint64_t b, struct err_msg *msg)
{
    if (a == b)
        return ERR_OK;
    return err_set(msg, ERR_INVALID,
                   "KV layouts differ in %s: %" PRIu64 " here, %" PRIu64
                   " there; both sides must serve the same model with the same options",
                   name, a, b);
}

enum err wire_kv_layout_same(const struct wire_kv_layout *a, const struct wire_kv_layout *b,
                             struct err_msg *msg)
{
    enum err err;

    if ((err = compare("n_layers", a->n_layers, b->n_layers, msg)) != ERR_OK ||
        (err = compare("n_kv_heads", a->n_kv_heads, b->n_kv_heads, msg)) != ERR_OK ||
        (err = compare("head_dim", a->head_dim, b->head_dim, msg)) != ERR_OK ||
        (err = compare("block_tokens", a->block_tokens, b->block_tokens, msg)) != ERR_OK ||
        (err = compare("dtype", a->dtype, b->dtype, msg)) != ERR_OK)
        return err;
    return compare("model_id", a->model_id, b->model_id, msg);
}

size_t wire_kv_elem_bytes(const struct wire_kv_layout *l)
{
    switch (l->dtype) {
    case WIRE_KV_F16:
    case WIRE_KV_BF16:
        return 2;
    case WIRE_KV_U64:
        return 8;
    default:
        return 4;
    }
}

size_t wire_kv_layer_bytes(const struct wire_kv_layout *l)
{
    return (size_t)2 * l->n_kv_heads * l->block_tokens * l->head_dim * wire_kv_elem_bytes(l);
}

size_t wire_kv_block_bytes(const struct wire_kv_layout *l)
{
    return wire_kv_layer_bytes(l) * l->n_layers;
}

uint32_t wire_kv_group_layers(const struct wire_kv_layout *l, size_t target_bytes)
{
    size_t layer = wire_kv_layer_bytes(l);
    size_t n = (target_bytes + layer - 1) / layer;

    if (n < 1)
        n = 1;
    return n > l->n_layers ? l->n_layers : (uint32_t)n;
}

/* A 32-bit word and its index make one 64-bit number, which one multiplication with an odd constant
 * and a shift-xor spread before the next; everything is a lane operation, so compilers vectorise the
 * loop and a GPU can sum partial results in any order. */
static inline uint64_t mix(uint32_t w, uint32_t index, uint64_t salt)
{
    uint64_t x = (((uint64_t)index << 32) | w) ^ salt;

    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 32;
    return x * 0xd6e8feb86659fd93u;
}

uint64_t wire_kv_digest(const void *bytes, size_t len, size_t offset, uint64_t salt)
{
    const unsigned char *p = bytes;
    uint32_t base = (uint32_t)(offset / 4);
    uint64_t sum = 0;

    for (size_t i = 0; i < len / 4; i++) {
        uint32_t w;

        memcpy(&w, p + i * 4, 4);
        sum += mix(w, base + (uint32_t)i, salt);
    }
    return sum;
}
