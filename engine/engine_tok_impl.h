/* engine/engine_tok_impl.h - what the files of the tokenizer share.  Not for use outside engine_tok*.
 *
 *   tokenizer.json -> (load) -> tables below -> frozen
 *   text -> added tokens out -> normalise -> added tokens out -> pre-tokenize -> BPE per piece -> ids
 *
 * Thread: after load everything here is read-only. */
#ifndef ENGINE_ENGINE_TOK_IMPL_H
#define ENGINE_ENGINE_TOK_IMPL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine_tok.h"
#include "engine/engine_tok_split.h"

enum {
    TOK_FILE_MAX = 64 << 20,
    TOK_VOCAB_MAX = 1 << 20,
    TOK_MERGES_MAX = 1 << 22,
    TOK_ADDED_MAX = 1 << 16,
    TOK_ADDED_LEN_MAX = 4096,
    TOK_STEPS_MAX = 8, /* normaliser steps, pre-tokenizer stages, decoder replacements, BOS ids */
};
#define TOK_NONE UINT32_MAX

/* IN_MODEL: in the vocabulary of the merges, not only an added token.  WHOLE: a piece of just this text
 * becomes this token. */
enum { TOK_PRESENT = 1, TOK_ADDED = 2, TOK_SPECIAL = 4, TOK_WHOLE = 8, TOK_IN_MODEL = 16 };

/* Offsets point into engine_tok.arena. */
struct tok_token {
    uint32_t name_off, name_len;   /* as in the file */
    uint32_t raw_off, raw_len;     /* the bytes of text it stands for when encoding; 0: none */
    uint32_t piece_off, piece_len; /* what decoding gives */
    uint32_t flags;
};

/* Open-addressing index from bytes to ids. */
struct tok_slot {
    uint32_t tag;
    uint32_t id_plus_1; /* 0: empty */
};
struct tok_index {
    struct tok_slot *slots;
    size_t mask;
};

struct tok_merge {
    uint32_t left, right;
    uint32_t rank; /* TOK_NONE: empty slot */
    uint32_t product;
};

struct tok_added {
    int32_t id;
    bool special, lstrip, rstrip, single_word;
};

/* A trie over the added tokens of one stage; node 0 is the root. */
struct tok_trie_node {
    uint32_t child, sibling; /* 0: none */
    uint32_t added_plus_1;   /* index into engine_tok.added; 0: no token ends here */
    unsigned char byte;
};
struct tok_trie {
    struct tok_trie_node *nodes;
    size_t n, cap;
    bool starts[256]; /* bytes that some token begins with */
};

struct tok_str {
    char *s;
    size_t len;
};

enum tok_norm_kind { TOK_NORM_NFC = 1, TOK_NORM_PREPEND, TOK_NORM_REPLACE };
struct tok_norm {
    enum tok_norm_kind kind;
    struct tok_str from, to; /* PREPEND: to alone */
};

enum tok_stage_kind {
    TOK_STAGE_PATTERN = 1,
    TOK_STAGE_DIGITS,
    TOK_STAGE_DIGIT_RUNS,
    TOK_STAGE_MARKS
};
struct tok_stage {
    enum tok_stage_kind kind;
    enum engine_tok_pattern pattern;
};

enum tok_prepend { TOK_PREPEND_NEVER = 0, TOK_PREPEND_FIRST, TOK_PREPEND_ALWAYS };

struct engine_tok {
    uint64_t seed; /* of every hash here: the tables hold text that others chose */
    char *arena;
    struct tok_token *tokens;
    uint32_t n_tokens; /* highest id + 1 */
    struct tok_index names;
    struct tok_index raws; /* byte level only; otherwise names serves */

    struct tok_merge *merges;
    size_t merges_mask;
    uint32_t *products; /* by rank */
    uint32_t n_merges;

    bool byte_level, byte_fallback, fuse_unk, ignore_merges;
    uint32_t byte_ids[256];  /* byte level: the byte's token; else its <0xXX> token, or TOK_NONE */
    uint32_t ascii_ids[128]; /* not byte level: the token of the character, or TOK_NONE */
    uint32_t unk;            /* TOK_NONE: characters without a token are dropped */
    bool cuts_before_mark;   /* no merge crosses from another character into U+2581 */

    struct tok_norm norms[TOK_STEPS_MAX];
    uint32_t n_norms;
    struct tok_stage stages[TOK_STEPS_MAX];
    uint32_t n_stages;
    bool prefix_space;        /* ByteLevel: a space before the text */
    struct tok_str mark;      /* Metaspace: what a space becomes; len 0: no Metaspace */
    enum tok_prepend prepend; /* Metaspace */

    struct tok_added *added;
    uint32_t n_added;
    struct tok_trie raw_trie, norm_trie;

    int32_t prefix_ids[TOK_STEPS_MAX];
    uint32_t n_prefix;

    /* the decoder, used while the pieces are made */
    bool dec_bytes, dec_byte_fallback, dec_strip;
    struct tok_norm dec_replace[TOK_STEPS_MAX];
    uint32_t n_dec_replace;
};

/* engine_tok_table.c */
uint64_t tok_hash(const char *s, size_t len, uint64_t seed);
MUST_USE enum err tok_index_init(struct tok_index *x, size_t n);
/* key: the bytes of token id; false: they are there already. */
bool tok_index_add(struct tok_index *x, const struct engine_tok *t, bool raw, uint32_t id);
uint32_t tok_find_name(const struct engine_tok *t, const char *s, size_t len); /* or TOK_NONE */
uint32_t tok_find_model(const struct engine_tok *t, const char *s, size_t len);
uint32_t tok_find_raw(const struct engine_tok *t, const char *s, size_t len);
MUST_USE enum err tok_merges_init(struct engine_tok *t, size_t n);
void tok_merges_put(struct engine_tok *t, uint32_t left, uint32_t right, uint32_t rank,
                    uint32_t product);
/* The code point that stands for a byte in byte-level vocabularies, and back (-1: none). */
uint32_t tok_byte_to_char(unsigned char byte);
int tok_char_to_byte(uint32_t cp);

static inline uint64_t tok_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

static inline const struct tok_merge *tok_merge_find(const struct engine_tok *t, uint32_t left,
                                                     uint32_t right)
{
    size_t at = (size_t)tok_mix(((uint64_t)left << 32 | right) ^ t->seed) & t->merges_mask;

    while (t->merges[at].rank != TOK_NONE) {
        if (t->merges[at].left == left && t->merges[at].right == right)
            return &t->merges[at];
        at = (at + 1) & t->merges_mask;
    }
    return NULL;
}

/* engine_tok_stages.c: the four sections of the file that are pipelines. */
MUST_USE enum err tok_read_normalizer(struct engine_tok *t, const json_t *j, struct err_msg *msg);
MUST_USE enum err tok_read_pre_tokenizer(struct engine_tok *t, const json_t *j,
                                         struct err_msg *msg);
MUST_USE enum err tok_read_decoder(struct engine_tok *t, const json_t *j, struct err_msg *msg);
MUST_USE enum err tok_read_post_processor(struct engine_tok *t, const json_t *j,
                                          struct err_msg *msg);
const char *tok_json_type(const json_t *j); /* the "type" member, or NULL */

/* engine_tok_added.c */
MUST_USE enum err tok_read_added(struct engine_tok *t, const json_t *list, struct err_msg *msg);
struct tok_match {
    size_t start, end; /* with the whitespace that lstrip and rstrip take */
    size_t resume;     /* where to look on if id < 0 */
    int32_t id;        /* -1: special tokens stand here, but not for this call */
};
/* Which special tokens count: none, all, or those that touch none of the spans. */
struct tok_filter {
    bool specials;
    const size_t *spans; /* pairs of begin, end; ascending */
    size_t n_spans;
    size_t base; /* offset of the searched text in the one that spans speak of */
};
/* The next added token in s[from, len); start of earlier text that lstrip may take is `floor`.
 * false: none. */
bool tok_added_next(const struct engine_tok *t, const struct tok_trie *trie,
                    const struct tok_filter *filter, const char *s, size_t len, size_t floor,
                    size_t from, struct tok_match *out);

/* engine_tok_norm.c: append the normal form of s to out. */
MUST_USE enum err tok_normalize(const struct engine_tok *t, const char *s, size_t len,
                                struct buf *out);
MUST_USE enum err tok_replace(const char *s, size_t len, const struct tok_str *from,
                              const struct tok_str *to, struct buf *out);

/* engine_tok_bpe.c: merging one piece. */
struct tok_bpe_node;
struct tok_bpe_bucket;
struct tok_bpe {
    uint32_t *ids; /* the symbols of the piece before merging */
    size_t n_ids, cap_ids;
    struct tok_bpe_node *nodes;
    size_t cap_nodes;
    struct tok_bpe_bucket *buckets;
    size_t cap_buckets, mask;
    uint64_t *heap;
    size_t n_heap, cap_heap;
};
void tok_bpe_free(struct tok_bpe *b);
MUST_USE enum err tok_bpe_piece(const struct engine_tok *t, struct tok_bpe *b, const char *s,
                                size_t len, struct engine_ids *out);
/* Mark the tokens that a piece of just their text becomes. */
MUST_USE enum err tok_bpe_mark_whole(struct engine_tok *t);

MUST_USE enum err tok_ids_push(struct engine_ids *ids, const uint32_t *more, size_t n);

#endif
