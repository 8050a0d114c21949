/* engine/engine_tok_added.c - added tokens: names that are found in the text before anything else.
 *
 * Leftmost match, then longest, over a trie.  Tokens marked "normalized" are looked for in the
 * normalised text, the others in the text as it came, and first. */
#include "engine/engine_tok_impl.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

static enum err trie_node(struct tok_trie *trie, unsigned char byte, uint32_t *out)
{
    if (trie->n == trie->cap) {
        size_t cap = trie->cap == 0 ? 64 : trie->cap * 2;
        struct tok_trie_node *grown = mem_try_realloc(trie->nodes, cap * sizeof(*grown));

        if (grown == NULL)
            return ERR_NOMEM;
        trie->nodes = grown;
        trie->cap = cap;
    }
    trie->nodes[trie->n] = (struct tok_trie_node){.byte = byte};
    *out = (uint32_t)trie->n++;
    return ERR_OK;
}

static uint32_t trie_child(const struct tok_trie *trie, uint32_t at, unsigned char byte)
{
    uint32_t child = trie->nodes[at].child;

    while (child != 0 && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

static enum err trie_insert(struct tok_trie *trie, const char *s, size_t len, uint32_t added)
{
    uint32_t at = 0, child;
    enum err err;

    if (trie->n == 0) {
        err = trie_node(trie, 0, &at);
        if (err != ERR_OK)
            return err;
    }
    for (size_t i = 0; i < len; i++) {
        child = trie_child(trie, at, (unsigned char)s[i]);
        if (child == 0) {
            err = trie_node(trie, (unsigned char)s[i], &child);
            if (err != ERR_OK)
                return err;
            trie->nodes[child].sibling = trie->nodes[at].child;
            trie->nodes[at].child = child;
        }
        at = child;
    }
    trie->nodes[at].added_plus_1 = added + 1;
    trie->starts[(unsigned char)s[0]] = true;
    return ERR_OK;
}

static bool flag(const json_t *j, const char *name)
{
    return json_is_true(json_object_get(j, name));
}

/* Enter one added token into the trie of its stage. */
static enum err enter(struct engine_tok *t, const json_t *j, const char *content, size_t len,
                      struct err_msg *msg)
{
    struct tok_added *a = &t->added[t->n_added];
    struct buf normal = BUF_INIT;
    enum err err;

    if (!flag(j, "normalized") || t->n_norms == 0) {
        err = trie_insert(flag(j, "normalized") ? &t->norm_trie : &t->raw_trie, content, len,
                          t->n_added);
    } else if (a->special) {
        /* Where such a token stands is only known after the text was rewritten, so a client's text
         * could not be told from the template's. */
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: special token \"%.60s\" has \"normalized\": true beside a "
                       "normalizer; set it to false",
                       content);
    } else {
        err = tok_normalize(t, content, len, &normal);
        if (err == ERR_OK && normal.len > 0)
            err = trie_insert(&t->norm_trie, buf_bytes(&normal), normal.len, t->n_added);
        buf_free(&normal);
    }
    if (err == ERR_OK)
        t->n_added++;
    return err;
}

/* The ids and names were checked when the vocabulary was read. */
enum err tok_read_added(struct engine_tok *t, const json_t *list, struct err_msg *msg)
{
    size_t n = json_array_size(list);

    if (n == 0)
        return ERR_OK;
    t->added = mem_try_calloc(n, sizeof(*t->added));
    if (t->added == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const json_t *j = json_array_get(list, i), *content = json_object_get(j, "content");
        enum err err;

        if (json_string_length(content) == 0)
            continue;
        t->added[t->n_added] = (struct tok_added){
            .id = (int32_t)json_integer_value(json_object_get(j, "id")),
            .special = flag(j, "special"),
            .lstrip = flag(j, "lstrip"),
            .rstrip = flag(j, "rstrip"),
            .single_word = flag(j, "single_word"),
        };
        err = enter(t, j, json_string_value(content), json_string_length(content), msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static bool is_word(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NO) || c == UTF8PROC_CATEGORY_PC;
}

/* The start of the character that ends at s[at], at > 0. */
static size_t char_before(const char *s, size_t at)
{
    do
        at--;
    while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80);
    return at;
}

static bool touches_word(const char *s, size_t len, size_t start, size_t end)
{
    uint32_t cp;

    if (start > 0) {
        size_t before = char_before(s, start);

        if (tok_utf8_get(s + before, s + start, &cp) > 0 && is_word(cp))
            return true;
    }
    return end < len && tok_utf8_get(s + end, s + len, &cp) > 0 && is_word(cp);
}

static bool allowed(const struct tok_filter *f, const struct tok_added *a, size_t start, size_t end)
{
    size_t low = 0, high = f->n_spans;

    if (!a->special)
        return true;
    if (!f->specials)
        return false;
    start += f->base;
    end += f->base;
    while (low < high) { /* the first span that ends after start */
        size_t mid = low + (high - low) / 2;

        if (f->spans[2 * mid + 1] > start)
            high = mid;
        else
            low = mid + 1;
    }
    return low == f->n_spans || f->spans[2 * low] >= end;
}

static void take(const struct tok_added *a, const char *s, size_t len, size_t floor, size_t start,
                 size_t end, struct tok_match *out)
{
    uint32_t cp;
    size_t n;

    while (a->lstrip && start > floor) {
        size_t before = char_before(s, start);

        if (tok_utf8_get(s + before, s + start, &cp) == 0 || !tok_is_space(cp))
            break;
        start = before;
    }
    while (a->rstrip && (n = tok_utf8_get(s + end, s + len, &cp)) > 0 && tok_is_space(cp))
        end += n;
    *out = (struct tok_match){start, end, end, a->id};
}

/* Match at s[at]: the longest token that counts here, or what to skip if only others do. */
static bool match_at(const struct engine_tok *t, const struct tok_trie *trie,
                     const struct tok_filter *f, const char *s, size_t len, size_t floor, size_t at,
                     struct tok_match *out)
{
    const struct tok_added *best = NULL;
    size_t best_end = 0, refused_end = 0, i = at;
    uint32_t node = 0;

    while (i < len && (node = trie_child(trie, node, (unsigned char)s[i])) != 0) {
        const struct tok_added *a;

        i++;
        if (trie->nodes[node].added_plus_1 == 0)
            continue;
        a = &t->added[trie->nodes[node].added_plus_1 - 1];
        if (!allowed(f, a, at, i)) {
            refused_end = i;
        } else {
            best = a;
            best_end = i;
        }
    }
    if (best != NULL && best->single_word && touches_word(s, len, at, best_end)) {
        refused_end = best_end;
        best = NULL;
    }
    if (best != NULL) {
        take(best, s, len, floor, at, best_end, out);
        return true;
    }
    /* A refused name is passed over whole, as the library does; but where spans decide, a name that
     * the template begins inside of it must still be found. */
    if (refused_end > 0)
        *out = (struct tok_match){at, at, f->n_spans > 0 ? at + 1 : refused_end, -1};
    return refused_end > 0;
}

bool tok_added_next(const struct engine_tok *t, const struct tok_trie *trie,
                    const struct tok_filter *filter, const char *s, size_t len, size_t floor,
                    size_t from, struct tok_match *out)
{
    if (trie->n == 0)
        return false;
    for (size_t at = from; at < len; at++) {
        if (!trie->starts[(unsigned char)s[at]])
            continue;
        if (!match_at(t, trie, filter, s, len, floor, at, out))
            continue;
        if (out->id >= 0)
            return true;
        at = out->resume - 1;
    }
    return false;
}
