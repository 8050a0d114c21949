/* engine/engine_tok_load.c - from tokenizer.json to the frozen tables.
 *
 * Everything in the file is checked before a table is sized from it: ids against a cap, merges against
 * the vocabulary.  The sections "truncation" and "padding" are ignored on purpose: a server never cuts
 * or pads a prompt, and the published files carry leftovers of training there. */
#include "engine/engine_tok_impl.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_tok_file.h"
#include "engine/engine_tok_utf8.h"

static enum err invalid(struct err_msg *msg, const char *what)
{
    return err_set(msg, ERR_INVALID, "tokenizer.json: %s", what);
}

/* Append s to the arena and say where it stands. */
static enum err arena_add(struct buf *arena, const char *s, size_t len, uint32_t *off, uint32_t *n)
{
    enum err err;

    if (arena->len + len > UINT32_MAX)
        return ERR_LIMIT;
    err = buf_append(arena, s, len);
    if (err != ERR_OK)
        return err;
    *off = (uint32_t)(arena->len - len);
    *n = (uint32_t)len;
    return ERR_OK;
}

static bool id_ok(const json_t *j)
{
    return json_is_integer(j) && json_integer_value(j) >= 0 &&
           json_integer_value(j) < (json_int_t)TOK_VOCAB_MAX;
}

/* The highest id of vocabulary and added tokens, all of them checked. */
static enum err size_vocab(const json_t *vocab, const json_t *added, uint32_t *n_tokens,
                           struct err_msg *msg)
{
    json_int_t top = -1;
    const char *name;
    json_t *value;
    size_t i;

    if (!json_is_object(vocab))
        return invalid(msg, "model.vocab must be an object");
    if (added != NULL && !json_is_null(added) && !json_is_array(added))
        return invalid(msg, "added_tokens must be a list");
    if (json_object_size(vocab) > TOK_VOCAB_MAX || json_array_size(added) > TOK_ADDED_MAX)
        return err_set(msg, ERR_LIMIT, "tokenizer.json: more than %d tokens, or %d added tokens",
                       TOK_VOCAB_MAX, TOK_ADDED_MAX);
    json_object_foreach((json_t *)(uintptr_t)vocab, name, value)
    {
        if (!id_ok(value))
            return err_set(msg, ERR_INVALID, "tokenizer.json: token \"%.60s\" has no id in 0..%d",
                           name, TOK_VOCAB_MAX - 1);
        top = json_integer_value(value) > top ? json_integer_value(value) : top;
    }
    json_array_foreach(added, i, value)
    {
        const json_t *content = json_object_get(value, "content"),
                     *id = json_object_get(value, "id");

        if (!json_is_string(content) || json_string_length(content) > TOK_ADDED_LEN_MAX ||
            !id_ok(id))
            return err_set(msg, ERR_INVALID,
                           "tokenizer.json: added_tokens[%zu] needs a content of at most %d bytes "
                           "and an id in 0..%d",
                           i, TOK_ADDED_LEN_MAX, TOK_VOCAB_MAX - 1);
        top = json_integer_value(id) > top ? json_integer_value(id) : top;
    }
    if (top < 0)
        return invalid(msg, "the vocabulary is empty");
    *n_tokens = (uint32_t)top + 1;
    return ERR_OK;
}

static enum err read_vocab(struct engine_tok *t, const json_t *vocab, struct buf *arena,
                           struct err_msg *msg)
{
    const char *name;
    size_t len;
    json_t *value;

    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, name, len, value)
    {
        struct tok_token *token = &t->tokens[json_integer_value(value)];
        enum err err;

        if ((token->flags & TOK_PRESENT) != 0)
            return err_set(msg, ERR_INVALID, "tokenizer.json: id %lld belongs to two tokens",
                           (long long)json_integer_value(value));
        err = arena_add(arena, name, len, &token->name_off, &token->name_len);
        if (err != ERR_OK)
            return err;
        token->flags = TOK_PRESENT | TOK_IN_MODEL;
    }
    return ERR_OK;
}

/* Names of added tokens, which may repeat the vocabulary's but must agree with it. */
static enum err read_added_names(struct engine_tok *t, const json_t *vocab, const json_t *added,
                                 struct buf *arena, struct err_msg *msg)
{
    size_t i;
    json_t *j;

    json_array_foreach(added, i, j)
    {
        const json_t *content = json_object_get(j, "content");
        const char *name = json_string_value(content);
        json_int_t id = json_integer_value(json_object_get(j, "id"));
        const json_t *known = json_object_getn(vocab, name, json_string_length(content));
        struct tok_token *token = &t->tokens[id];

        if ((known != NULL && json_integer_value(known) != id) ||
            (known == NULL && (token->flags & TOK_PRESENT) != 0))
            return err_set(msg, ERR_INVALID,
                           "tokenizer.json: added token \"%.60s\" and the vocabulary do not agree "
                           "on id %lld",
                           name, (long long)id);
        if (known == NULL) {
            enum err err = arena_add(arena, name, json_string_length(content), &token->name_off,
                                     &token->name_len);

            if (err != ERR_OK)
                return err;
        }
        token->flags |= TOK_PRESENT | TOK_ADDED;
        if (json_is_true(json_object_get(j, "special")))
            token->flags |= TOK_SPECIAL;
    }
    return ERR_OK;
}

static enum err index_names(struct engine_tok *t, struct err_msg *msg)
{
    enum err err = tok_index_init(&t->names, t->n_tokens);

    for (uint32_t id = 0; id < t->n_tokens && err == ERR_OK; id++)
        if ((t->tokens[id].flags & TOK_PRESENT) != 0 && !tok_index_add(&t->names, t, false, id))
            err = err_set(msg, ERR_INVALID, "tokenizer.json: the name of id %u is used twice", id);
    return err;
}

/* Byte level: the bytes that the characters of a name stand for; false: one stands for none. */
static bool name_bytes(const char *name, size_t len, struct buf *out, enum err *err)
{
    const char *p = name, *end = name + len;

    buf_clear(out);
    *err = buf_reserve(out, len);
    while (p < end && *err == ERR_OK) {
        uint32_t cp = 0;
        size_t n = tok_utf8_get(p, end, &cp);
        int byte = n > 0 ? tok_char_to_byte(cp) : -1;

        if (byte < 0)
            return false;
        buf_bytes(out)[out->len] = (char)byte;
        buf_added(out, 1);
        p += n;
    }
    return *err == ERR_OK;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* <0x00> to <0xFF>, or -1. */
static int fallback_byte(const char *s, size_t len)
{
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>' || hex(s[3]) < 0 || hex(s[4]) < 0)
        return -1;
    return hex(s[3]) * 16 + hex(s[4]);
}

/* What decoding makes of one token of a model that is not byte level. */
static enum err piece_of_chars(const struct engine_tok *t, const char *name, size_t len,
                               struct buf *out, struct buf *spare)
{
    int byte = t->dec_byte_fallback ? fallback_byte(name, len) : -1;
    char c = (char)byte;
    enum err err;

    buf_clear(out);
    if (byte >= 0)
        return buf_append(out, &c, 1);
    err = buf_append(out, name, len);
    for (uint32_t i = 0; i < t->n_dec_replace && err == ERR_OK; i++) {
        struct buf swap = *out;

        buf_clear(spare);
        err = tok_replace(buf_bytes(out), out->len, &t->dec_replace[i].from, &t->dec_replace[i].to,
                          spare);
        *out = *spare;
        *spare = swap;
    }
    return err;
}

/* Fill raw and piece of every token.  An added token is its name. */
static enum err make_pieces(struct engine_tok *t, struct buf *arena)
{
    struct buf out = BUF_INIT, spare = BUF_INIT, name = BUF_INIT;
    enum err err = ERR_OK;

    for (uint32_t id = 0; id < t->n_tokens && err == ERR_OK; id++) {
        struct tok_token *token = &t->tokens[id];
        bool added = (token->flags & TOK_ADDED) != 0, bytes = false;

        if (token->name_len == 0)
            continue;
        buf_clear(&name); /* the arena moves as it grows */
        err = buf_append(&name, buf_bytes(arena) + token->name_off, token->name_len);
        if (err == ERR_OK && t->byte_level) {
            bytes = name_bytes(buf_bytes(&name), name.len, &out, &err);
        } else if (err == ERR_OK) {
            err = piece_of_chars(t, buf_bytes(&name), name.len, &out, &spare);
            if ((token->flags & TOK_IN_MODEL) != 0) {
                token->raw_off = token->name_off;
                token->raw_len = token->name_len;
            }
        }
        token->piece_off = token->name_off;
        token->piece_len = token->name_len;
        if (err == ERR_OK && (t->byte_level ? bytes : !added))
            err = arena_add(arena, out.len > 0 ? buf_bytes(&out) : "", out.len, &token->piece_off,
                            &token->piece_len);
        if (bytes && (token->flags & TOK_IN_MODEL) != 0) {
            token->raw_off = token->piece_off;
            token->raw_len = token->piece_len;
        }
        if (added) {
            token->piece_off = token->name_off;
            token->piece_len = token->name_len;
        }
    }
    buf_free(&out);
    buf_free(&spare);
    buf_free(&name);
    return err;
}

static enum err index_raws(struct engine_tok *t)
{
    enum err err = tok_index_init(&t->raws, t->n_tokens);

    for (uint32_t id = 0; id < t->n_tokens && err == ERR_OK; id++)
        if (t->tokens[id].raw_len > 0)
            (void)tok_index_add(&t->raws, t, true, id);
    return err;
}

/* The tokens of single bytes and ASCII characters, which the merger starts from. */
static enum err find_alphabet(struct engine_tok *t, struct err_msg *msg)
{
    for (unsigned b = 0; b < 256; b++) {
        char name[8];
        size_t len = t->byte_level ? tok_utf8_put(tok_byte_to_char((unsigned char)b), name)
                                   : (size_t)snprintf(name, sizeof(name), "<0x%02X>", b);

        t->byte_ids[b] = tok_find_model(t, name, len);
        /* C0, C1 and F5 on never occur in UTF-8. */
        if (t->byte_level && t->byte_ids[b] == TOK_NONE && b != 0xc0 && b != 0xc1 && b < 0xf5)
            return err_set(msg, ERR_INVALID,
                           "tokenizer.json: the byte-level vocabulary has no token for byte 0x%02X",
                           b);
    }
    for (unsigned c = 0; c < 128; c++) {
        char name = (char)c;

        t->ascii_ids[c] = tok_find_model(t, &name, 1);
    }
    return ERR_OK;
}

/* The two halves of a merge, as "a b" or ["a", "b"]. */
static bool merge_halves(const json_t *j, const char **a, size_t *a_len, const char **b,
                         size_t *b_len)
{
    if (json_is_string(j)) {
        const char *s = json_string_value(j), *space = strchr(s, ' ');

        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return false;
        *a = s;
        *a_len = (size_t)(space - s);
        *b = space + 1;
        *b_len = json_string_length(j) - *a_len - 1;
    } else {
        const json_t *left = json_array_get(j, 0), *right = json_array_get(j, 1);

        if (json_array_size(j) != 2 || !json_is_string(left) || !json_is_string(right))
            return false;
        *a = json_string_value(left);
        *a_len = json_string_length(left);
        *b = json_string_value(right);
        *b_len = json_string_length(right);
    }
    return *a_len > 0 && *b_len > 0;
}

static enum err read_merges(struct engine_tok *t, const json_t *merges, struct err_msg *msg)
{
    size_t n = json_array_size(merges);
    struct buf both = BUF_INIT;
    enum err err;

    if (!json_is_array(merges))
        return invalid(msg, "model.merges must be a list");
    if (n > TOK_MERGES_MAX)
        return err_set(msg, ERR_LIMIT, "tokenizer.json: more than %d merges", TOK_MERGES_MAX);
    err = tok_merges_init(t, n);
    for (size_t i = 0; i < n && err == ERR_OK; i++) {
        const char *a, *b;
        size_t a_len, b_len;
        uint32_t left, right, product;

        if (!merge_halves(json_array_get(merges, i), &a, &a_len, &b, &b_len)) {
            err = err_set(msg, ERR_INVALID, "tokenizer.json: model.merges[%zu] is not a pair", i);
            break;
        }
        buf_clear(&both);
        err = buf_append(&both, a, a_len);
        if (err == ERR_OK)
            err = buf_append(&both, b, b_len);
        if (err != ERR_OK)
            break;
        left = tok_find_model(t, a, a_len);
        right = tok_find_model(t, b, b_len);
        product = tok_find_model(t, buf_bytes(&both), both.len);
        if (left == TOK_NONE || right == TOK_NONE || product == TOK_NONE)
            err = err_set(msg, ERR_INVALID,
                          "tokenizer.json: model.merges[%zu] names a token that is not in the "
                          "vocabulary",
                          i);
        else
            tok_merges_put(t, left, right, (uint32_t)i, product);
    }
    buf_free(&both);
    t->n_merges = (uint32_t)n;
    return err;
}

/* true if no merge joins another character with a U+2581 behind it: then a text may be cut before each
 * such mark without changing its ids, and pieces are words instead of whole texts. */
static bool can_cut_before_mark(const struct engine_tok *t)
{
    static const char mark[] = "\xe2\x96\x81";

    if (t->byte_level || t->n_stages > 0 || t->ignore_merges ||
        tok_find_model(t, mark, sizeof(mark) - 1) == TOK_NONE)
        return false;
    for (uint32_t i = 0; i < t->n_merges; i++) {
        const struct tok_token *token = &t->tokens[t->products[i]];
        const char *s = t->arena + token->name_off, *p = s, *end = s + token->name_len;

        while ((p = memmem(p, (size_t)(end - p), mark, sizeof(mark) - 1)) != NULL) {
            if (p != s && (p - s < 3 || memcmp(p - 3, mark, 3) != 0))
                return false;
            p += 3;
        }
    }
    return true;
}

static enum err unsupported_option(struct err_msg *msg, const char *name)
{
    return err_set(msg, ERR_UNSUPPORTED, "tokenizer.json: model.%s is not supported", name);
}

static enum err read_model_options(struct engine_tok *t, const json_t *model, struct err_msg *msg)
{
    const json_t *type = json_object_get(model, "type");
    const json_t *dropout = json_object_get(model, "dropout");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};

    if (!json_is_object(model))
        return invalid(msg, "\"model\" must be an object");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: model type \"%.60s\" is not supported",
                       json_is_string(type) ? json_string_value(type) : "?");
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return unsupported_option(msg, "dropout");
    for (size_t i = 0; i < 2; i++)
        if (json_string_length(json_object_get(model, affixes[i])) > 0)
            return unsupported_option(msg, affixes[i]);
    t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return ERR_OK;
}

static enum err read_unk(struct engine_tok *t, const json_t *model, struct err_msg *msg)
{
    const json_t *unk = json_object_get(model, "unk_token");

    t->unk = TOK_NONE;
    if (!json_is_string(unk))
        return ERR_OK;
    t->unk = tok_find_model(t, json_string_value(unk), json_string_length(unk));
    return t->unk != TOK_NONE ? ERR_OK : invalid(msg, "model.unk_token is not in the vocabulary");
}

static enum err read_tokens(struct engine_tok *t, const json_t *root, struct buf *arena,
                            struct err_msg *msg)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *added = json_object_get(root, "added_tokens");
    enum err err = size_vocab(vocab, added, &t->n_tokens, msg);

    if (err != ERR_OK)
        return err;
    t->tokens = mem_try_calloc(t->n_tokens, sizeof(*t->tokens));
    if (t->tokens == NULL)
        return ERR_NOMEM;
    err = read_vocab(t, vocab, arena, msg);
    if (err == ERR_OK)
        err = read_added_names(t, vocab, added, arena, msg);
    if (err == ERR_OK)
        err = make_pieces(t, arena);
    t->arena = arena->data; /* head is 0: nothing was consumed */
    *arena = (struct buf)BUF_INIT;
    if (err == ERR_OK)
        err = index_names(t, msg);
    if (err == ERR_OK && t->byte_level)
        err = index_raws(t);
    return err;
}

static enum err build(struct engine_tok *t, const json_t *root, struct err_msg *msg)
{
    const json_t *model = json_object_get(root, "model");
    struct buf arena = BUF_INIT;
    enum err err;

    if (!json_is_object(root))
        return invalid(msg, "not an object");
    err = read_model_options(t, model, msg);
    if (err == ERR_OK)
        err = tok_read_normalizer(t, json_object_get(root, "normalizer"), msg);
    if (err == ERR_OK)
        err = tok_read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), msg);
    if (err == ERR_OK)
        err = tok_read_decoder(t, json_object_get(root, "decoder"), msg);
    if (err == ERR_OK)
        err = read_tokens(t, root, &arena, msg);
    buf_free(&arena);
    if (err == ERR_OK)
        err = find_alphabet(t, msg);
    if (err == ERR_OK)
        err = read_unk(t, model, msg);
    if (err == ERR_OK)
        err = read_merges(t, json_object_get(model, "merges"), msg);
    if (err == ERR_OK)
        err = tok_read_added(t, json_object_get(root, "added_tokens"), msg);
    if (err == ERR_OK)
        err = tok_read_post_processor(t, json_object_get(root, "post_processor"), msg);
    if (err == ERR_OK) {
        t->cuts_before_mark = can_cut_before_mark(t);
        err = tok_bpe_mark_whole(t);
    }
    return err;
}

enum err engine_tok_open_json(const char *json, size_t len, struct err_msg *msg,
                              struct engine_tok **out)
{
    struct engine_tok *t;
    json_error_t bad;
    json_t *root;
    enum err err;

    if (len > TOK_FILE_MAX)
        return err_set(msg, ERR_LIMIT, "tokenizer.json: larger than %d MiB", TOK_FILE_MAX >> 20);
    root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &bad);
    if (root == NULL) {
        if (json_error_code(&bad) == json_error_out_of_memory)
            return err_set(msg, ERR_NOMEM, "tokenizer.json: out of memory");
        return err_set(msg, ERR_INVALID, "tokenizer.json:%d:%d: %s", bad.line, bad.column,
                       bad.text);
    }
    t = mem_try_calloc(1, sizeof(*t));
    if (t == NULL) {
        err = ERR_NOMEM;
    } else {
        if (getrandom(&t->seed, sizeof(t->seed), GRND_NONBLOCK) != (ssize_t)sizeof(t->seed))
            t->seed = clock_now_ns() * 0x9e3779b97f4a7c15ull;
        err = build(t, root, msg);
    }
    json_decref(root);
    if (err == ERR_NOMEM)
        err_set(msg, err, "tokenizer.json: out of memory");
    if (err == ERR_OK)
        *out = t;
    else
        engine_tok_close(t);
    return err;
}

static void free_norms(struct tok_norm *norms, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        mem_free(norms[i].from.s);
        mem_free(norms[i].to.s);
    }
}

void engine_tok_close(struct engine_tok *t)
{
    if (t == NULL)
        return;
    free_norms(t->norms, t->n_norms);
    free_norms(t->dec_replace, t->n_dec_replace);
    mem_free(t->mark.s);
    mem_free(t->arena);
    mem_free(t->tokens);
    mem_free(t->names.slots);
    mem_free(t->raws.slots);
    mem_free(t->merges);
    mem_free(t->products);
    mem_free(t->added);
    mem_free(t->raw_trie.nodes);
    mem_free(t->norm_trie.nodes);
    mem_free(t);
}

static bool is_llama_class(const char *name)
{
    return name != NULL &&
           (strcmp(name, "LlamaTokenizer") == 0 || strcmp(name, "LlamaTokenizerFast") == 0);
}

/* The Llama tokenizer classes take "add_bos_token" from tokenizer_config.json and put it above the
 * post-processor of tokenizer.json; other classes do not look at it. */
static enum err apply_config(struct engine_tok *t, const json_t *config, struct err_msg *msg)
{
    const json_t *add_bos = json_object_get(config, "add_bos_token");
    const char *bos = engine_tok_config_name(config, "bos_token");
    int32_t id;

    if (!is_llama_class(json_string_value(json_object_get(config, "tokenizer_class"))))
        return ERR_OK;
    if (json_is_true(json_object_get(config, "add_eos_token")))
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer_config.json: \"add_eos_token\": true is not supported");
    if (json_is_false(add_bos)) {
        t->n_prefix = 0;
    } else if (json_is_true(add_bos) && t->n_prefix == 0) {
        id = bos != NULL ? engine_tok_find(t, bos) : -1;
        if (id < 0)
            return err_set(msg, ERR_INVALID,
                           "tokenizer_config.json: \"add_bos_token\" is true, but \"bos_token\" is "
                           "not in the vocabulary");
        t->prefix_ids[t->n_prefix++] = id;
    }
    return ERR_OK;
}

enum err engine_tok_open(const char *dir, struct err_msg *msg, struct engine_tok **out)
{
    struct buf file = BUF_INIT;
    struct engine_tok *t = NULL;
    json_t *config = NULL;
    enum err err = engine_tok_read_file(dir, "tokenizer.json", TOK_FILE_MAX, &file, msg);

    if (err == ERR_OK)
        err = engine_tok_open_json(file.len > 0 ? buf_bytes(&file) : "", file.len, msg, &t);
    buf_free(&file);
    if (err == ERR_OK)
        err = engine_tok_read_config(dir, &config, msg);
    if (err == ERR_OK)
        err = apply_config(t, config, msg);
    else if (err == ERR_NOT_FOUND && t != NULL)
        err = ERR_OK;
    json_decref(config);
    if (err == ERR_OK)
        *out = t;
    else
        engine_tok_close(t);
    return err;
}

uint32_t engine_tok_vocab(const struct engine_tok *t)
{
    return t->n_tokens;
}

const char *engine_tok_piece(const struct engine_tok *t, int32_t id, bool with_special, size_t *len)
{
    const struct tok_token *token;

    *len = 0;
    if (id < 0 || (uint32_t)id >= t->n_tokens)
        return "";
    token = &t->tokens[id];
    if ((token->flags & TOK_SPECIAL) != 0 && !with_special)
        return "";
    *len = token->piece_len;
    return t->arena + token->piece_off;
}

bool engine_tok_is_special(const struct engine_tok *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n_tokens && (t->tokens[id].flags & TOK_SPECIAL) != 0;
}

int32_t engine_tok_find(const struct engine_tok *t, const char *name)
{
    return (int32_t)tok_find_name(t, name, strlen(name));
}

bool engine_tok_strips_first_space(const struct engine_tok *t)
{
    return t->dec_strip;
}
