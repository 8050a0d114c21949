/* engine/engine_tok_table.c - the hash tables of a tokenizer, built once and then only read.
 *
 * Vocabularies come from files and the looked-up text from clients, so every hash is keyed by a
 * random seed of the tokenizer. */
#include "engine/engine_tok_impl.h"

#include <string.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

uint64_t tok_hash(const char *s, size_t len, uint64_t seed)
{
    uint64_t h = seed ^ (len * 0x9e3779b97f4a7c15ull), word = 0;

    while (len >= sizeof(word)) {
        memcpy(&word, s, sizeof(word));
        h = tok_mix(h ^ word);
        s += sizeof(word);
        len -= sizeof(word);
    }
    word = 0;
    memcpy(&word, s, len);
    return tok_mix(h ^ word);
}

static size_t table_size(size_t n)
{
    size_t size = 16;

    while (size < n * 2)
        size *= 2;
    return size;
}

enum err tok_index_init(struct tok_index *x, size_t n)
{
    size_t size = table_size(n);

    x->slots = mem_try_calloc(size, sizeof(*x->slots));
    if (x->slots == NULL)
        return ERR_NOMEM;
    x->mask = size - 1;
    return ERR_OK;
}

/* The slot of s, or the empty one where it would go. */
static struct tok_slot *index_slot(const struct tok_index *x, const struct engine_tok *t, bool raw,
                                   const char *s, size_t len, uint32_t *tag)
{
    uint64_t h = tok_hash(s, len, t->seed);
    size_t at = (size_t)(h >> 32) & x->mask;

    *tag = (uint32_t)h;
    while (x->slots[at].id_plus_1 != 0) {
        if (x->slots[at].tag == *tag) {
            const struct tok_token *token = &t->tokens[x->slots[at].id_plus_1 - 1];
            uint32_t off = raw ? token->raw_off : token->name_off;
            uint32_t n = raw ? token->raw_len : token->name_len;

            if (n == len && memcmp(t->arena + off, s, len) == 0)
                break;
        }
        at = (at + 1) & x->mask;
    }
    return &x->slots[at];
}

bool tok_index_add(struct tok_index *x, const struct engine_tok *t, bool raw, uint32_t id)
{
    const struct tok_token *token = &t->tokens[id];
    const char *s = t->arena + (raw ? token->raw_off : token->name_off);
    uint32_t tag;
    struct tok_slot *slot = index_slot(x, t, raw, s, raw ? token->raw_len : token->name_len, &tag);

    if (slot->id_plus_1 != 0)
        return false;
    slot->tag = tag;
    slot->id_plus_1 = id + 1;
    return true;
}

uint32_t tok_find_name(const struct engine_tok *t, const char *s, size_t len)
{
    uint32_t tag;

    return index_slot(&t->names, t, false, s, len, &tag)->id_plus_1 - 1;
}

uint32_t tok_find_model(const struct engine_tok *t, const char *s, size_t len)
{
    uint32_t id = tok_find_name(t, s, len);

    return id != TOK_NONE && (t->tokens[id].flags & TOK_IN_MODEL) != 0 ? id : TOK_NONE;
}

uint32_t tok_find_raw(const struct engine_tok *t, const char *s, size_t len)
{
    uint32_t tag;

    if (!t->byte_level)
        return tok_find_model(t, s, len);
    return index_slot(&t->raws, t, true, s, len, &tag)->id_plus_1 - 1;
}

enum err tok_merges_init(struct engine_tok *t, size_t n)
{
    size_t size = table_size(n);

    t->merges = mem_try_alloc(size * sizeof(*t->merges));
    t->products = mem_try_calloc(n, sizeof(*t->products));
    if (t->merges == NULL || t->products == NULL)
        return ERR_NOMEM;
    memset(t->merges, 0xff, size * sizeof(*t->merges));
    t->merges_mask = size - 1;
    return ERR_OK;
}

void tok_merges_put(struct engine_tok *t, uint32_t left, uint32_t right, uint32_t rank,
                    uint32_t product)
{
    size_t at = (size_t)tok_mix(((uint64_t)left << 32 | right) ^ t->seed) & t->merges_mask;

    while (t->merges[at].rank != TOK_NONE &&
           (t->merges[at].left != left || t->merges[at].right != right))
        at = (at + 1) & t->merges_mask;
    /* A pair listed twice has its last rank, as in the library that writes these files. */
    t->merges[at] = (struct tok_merge){left, right, rank, product};
    t->products[rank] = product;
}

static bool byte_is_itself(unsigned b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

/* Printable Latin-1 bytes stand for themselves; the other 68 are numbered from U+0100 on. */
uint32_t tok_byte_to_char(unsigned char byte)
{
    uint32_t rank = 0;

    if (byte_is_itself(byte))
        return byte;
    for (unsigned b = 0; b < byte; b++)
        rank += !byte_is_itself(b);
    return 0x100 + rank;
}

int tok_char_to_byte(uint32_t cp)
{
    if (cp < 0x100)
        return byte_is_itself(cp) ? (int)cp : -1;
    if (cp < 0x121)
        return (int)(cp - 0x100);
    if (cp < 0x143)
        return (int)(cp - 0x121 + 0x7f);
    return cp == 0x143 ? 0xad : -1;
}
