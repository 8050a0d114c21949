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
    if (l->parts < 1 || l->parts > WIRE_KV_PARTS_MAX || l->n_kv_heads % l->parts != 0)
        return err_set(msg, ERR_INVALID,
                       "KV layout: parts is %u, allowed are 1 .. %d that divide the %u kv heads",
                       l->parts, WIRE_KV_PARTS_MAX, l->n_kv_heads);
    if (l->parts > 1 && wire_kv_layer_bytes(l) / 2 / l->n_kv_heads % 4 != 0)
        return err_set(
            msg, ERR_INVALID,
            "KV layout: parts is %u, but a head of %u tokens x %u elements cannot be parted "
            "from the next",
            l->parts, l->block_tokens, l->head_dim);
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

size_t wire_kv_part_block_bytes(const struct wire_kv_layout *l)
{
    return wire_kv_block_bytes(l) / l->parts;
}

uint32_t wire_kv_group_layers(const struct wire_kv_layout *l, size_t target_bytes)
{
    size_t layer = wire_kv_layer_bytes(l);
    size_t n = target_bytes / layer + (target_bytes % layer != 0);

    if (n < 1)
        n = 1;
    return n > l->n_layers ? l->n_layers : (uint32_t)n;
}

/* With a scrambled salt S, word w at index i gives
 *
 *   y = S + 2^32 * (i * DIGEST_INDEX mod 2^32) + w * DIGEST_WORD   (mod 2^64)
 *
 * and adds (y mod 2^32) * (y / 2^32) to the sum.  The product of the halves is what makes words and
 * indices inseparable: a sum of anything linear in either would not see two words change places.
 * Every operation is one of 32 x 32 -> 64 bits or an addition, so compilers vectorise the loop, and a
 * GPU may sum partial results in any order. */
#define DIGEST_WORD UINT64_C(0x9e3779b1)
#define DIGEST_INDEX UINT64_C(0x85ebca77)

static inline uint64_t digest_scramble(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t digest_word(uint64_t start, uint64_t index, uint64_t w)
{
    uint64_t y = start + (index * DIGEST_INDEX << 32) + w * DIGEST_WORD;

    return (y & 0xffffffffu) * (y >> 32);
}

/* Two words at a time: the halves of a 64-bit load need no shuffle to become two 64-bit lanes. */
__attribute__((always_inline)) static inline uint64_t digest_run(const unsigned char *p, size_t n,
                                                                 uint64_t start)
{
    enum { LANES = 16 };
    uint64_t even[LANES] = {0}, odd[LANES] = {0}, sum = 0;
    size_t i = 0;

    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        for (size_t j = 0; j < LANES; j++) {
            uint64_t v;

            memcpy(&v, p + i * 4 + j * 8, 8); /* little-endian, as every machine this runs on */
            even[j] += digest_word(start, i + 2 * j, v & 0xffffffffu);
            odd[j] += digest_word(start, i + 2 * j + 1, v >> 32);
        }
    }
    for (size_t j = 0; j < LANES; j++)
        sum += even[j] + odd[j];
    for (; i < n; i++) {
        uint32_t w;

        memcpy(&w, p + i * 4, 4);
        sum += digest_word(start, i, w);
    }
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t digest_avx2(const unsigned char *p, size_t n,
                                                            uint64_t start)
{
    return digest_run(p, n, start);
}

__attribute__((target("avx512f,avx512dq"))) static uint64_t digest_avx512(const unsigned char *p,
                                                                          size_t n, uint64_t start)
{
    return digest_run(p, n, start);
}
#endif

uint64_t wire_kv_digest(const void *bytes, size_t len, size_t offset, uint64_t salt)
{
    uint64_t start = digest_scramble(salt + UINT64_C(0x9e3779b97f4a7c15)) +
                     ((uint64_t)(offset / 4) * DIGEST_INDEX << 32);

#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return digest_avx512(bytes, len / 4, start);
    if (__builtin_cpu_supports("avx2"))
        return digest_avx2(bytes, len / 4, start);
#endif
    return digest_run(bytes, len / 4, start);
}
