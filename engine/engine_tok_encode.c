/* engine/engine_tok_encode.c - the way of a text through the pipeline.
 *
 * Added tokens are cut out of the text as it came, what lies between is normalised, the added tokens of
 * the normalised kind are cut out of that, and the rest goes through the stages of the pre-tokenizer to
 * the merger, piece by piece. */
#include "engine/engine_tok_impl.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

static const char MARK[] = "\xe2\x96\x81";
enum { MARK_LEN = 3 };

struct enc {
    const struct engine_tok *t;
    struct tok_filter filter;
    struct engine_ids *ids;
    struct tok_bpe bpe;
    struct buf normal; /* the segment after normalising */
    struct buf marked; /* and after the steps that put spaces or marks in */
};

void engine_ids_free(struct engine_ids *ids)
{
    mem_free(ids->ids);
    *ids = (struct engine_ids){0};
}

static bool is_number(const char *s, const char *end, size_t *n)
{
    uint32_t cp = 0;
    utf8proc_category_t c;

    *n = tok_utf8_get(s, end, &cp);
    if (*n == 0)
        *n = 1;
    if (cp < 0x80)
        return cp >= '0' && cp <= '9';
    c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

/* The first piece of s under Digits: one number, a run of numbers, or what is before the next number. */
static size_t next_digits(const char *s, size_t len, bool single)
{
    const char *p = s, *end = s + len;
    size_t n;
    bool number = is_number(p, end, &n);

    p += n;
    if (number && single)
        return n;
    while (p < end && is_number(p, end, &n) == number)
        p += n;
    return (size_t)(p - s);
}

/* Up to the next mark that does not begin s.  after_other: only marks after another character. */
static size_t next_mark(const char *s, size_t len, bool after_other)
{
    const char *p = s, *end = s + len;

    while (after_other && end - p >= MARK_LEN && memcmp(p, MARK, MARK_LEN) == 0)
        p += MARK_LEN;
    if (!after_other)
        p += len < MARK_LEN ? len : (size_t)1;
    p = end - p > 0 ? memmem(p, (size_t)(end - p), MARK, MARK_LEN) : NULL;
    return p == NULL ? len : (size_t)(p - s);
}

static size_t next_piece(const struct tok_stage *stage, const char *s, size_t len)
{
    switch (stage->kind) {
    case TOK_STAGE_PATTERN:
        return engine_tok_split_next(stage->pattern, s, len);
    case TOK_STAGE_DIGITS:
        return next_digits(s, len, true);
    case TOK_STAGE_DIGIT_RUNS:
        return next_digits(s, len, false);
    case TOK_STAGE_MARKS:
        return next_mark(s, len, false);
    }
    return len;
}

/* Depth is at most TOK_STEPS_MAX. */
static enum err encode_stage(struct enc *e, uint32_t stage, const char *s, size_t len)
{
    enum err err = ERR_OK;

    if (stage == e->t->n_stages && !e->t->cuts_before_mark)
        return tok_bpe_piece(e->t, &e->bpe, s, len, e->ids);
    while (len > 0 && err == ERR_OK) {
        size_t n;

        if (stage == e->t->n_stages) {
            n = next_mark(s, len, true);
            err = tok_bpe_piece(e->t, &e->bpe, s, n, e->ids);
        } else {
            n = next_piece(&e->t->stages[stage], s, len);
            err = encode_stage(e, stage + 1, s, n);
        }
        s += n;
        len -= n;
    }
    return err;
}

/* ByteLevel's prefix space, or Metaspace's marks. */
static enum err put_marks(struct enc *e, const char *s, size_t len, bool at_start)
{
    const struct engine_tok *t = e->t;
    static const struct tok_str space = {(char *)(uintptr_t) " ", 1};
    bool prepend =
        t->prepend == TOK_PREPEND_ALWAYS || (t->prepend == TOK_PREPEND_FIRST && at_start);
    enum err err = ERR_OK;

    buf_clear(&e->marked);
    if (t->prefix_space) {
        if (s[0] != ' ')
            err = buf_append(&e->marked, " ", 1);
        return err == ERR_OK ? buf_append(&e->marked, s, len) : err;
    }
    if (prepend && s[0] != ' ' && (len < MARK_LEN || memcmp(s, MARK, MARK_LEN) != 0))
        err = buf_append(&e->marked, t->mark.s, t->mark.len);
    return err == ERR_OK ? tok_replace(s, len, &space, &t->mark, &e->marked) : err;
}

/* Text without added tokens, normalised. */
static enum err encode_plain(struct enc *e, const char *s, size_t len, bool at_start)
{
    enum err err;

    if (len == 0)
        return ERR_OK;
    if (e->t->prefix_space || e->t->mark.len > 0) {
        err = put_marks(e, s, len, at_start);
        if (err != ERR_OK)
            return err;
        s = buf_bytes(&e->marked);
        len = e->marked.len;
    }
    return encode_stage(e, 0, s, len);
}

/* Cut the tokens of trie out of s and hand on what is between; normal: s is already normalised.
 * base: offset of s in the whole text, for the spans and for "first". */
static enum err encode_cut(struct enc *e, const char *s, size_t len, size_t base, bool normal);

static enum err encode_between(struct enc *e, const char *s, size_t len, size_t base, bool normal)
{
    enum err err;

    if (len == 0)
        return ERR_OK;
    if (normal)
        return encode_plain(e, s, len, base == 0);
    if (e->t->n_norms == 0)
        return encode_cut(e, s, len, base, true);
    buf_clear(&e->normal);
    err = tok_normalize(e->t, s, len, &e->normal);
    if (err != ERR_OK || e->normal.len == 0)
        return err;
    return encode_cut(e, buf_bytes(&e->normal), e->normal.len, base, true);
}

static enum err encode_cut(struct enc *e, const char *s, size_t len, size_t base, bool normal)
{
    const struct tok_trie *trie = normal ? &e->t->norm_trie : &e->t->raw_trie;
    struct tok_match m;
    size_t done = 0, from = 0;
    enum err err = ERR_OK;

    e->filter.base = base;
    while (err == ERR_OK && tok_added_next(e->t, trie, &e->filter, s, len, done, from, &m)) {
        uint32_t id = (uint32_t)m.id;

        err = encode_between(e, s + done, m.start - done, base + done, normal);
        if (err == ERR_OK)
            err = tok_ids_push(e->ids, &id, 1);
        done = from = m.end;
        e->filter.base = base; /* an inner cut may have moved it */
    }
    return err == ERR_OK ? encode_between(e, s + done, len - done, base + done, normal) : err;
}

static bool spans_ok(const size_t *spans, size_t n_spans, size_t len)
{
    size_t at = 0;

    for (size_t i = 0; i < n_spans; i++) {
        if (spans[2 * i] < at || spans[2 * i + 1] < spans[2 * i])
            return false;
        at = spans[2 * i + 1];
    }
    return at <= len;
}

enum err engine_tok_encode_spans(const struct engine_tok *t, const char *text, size_t len,
                                 unsigned flags, const size_t *spans, size_t n_spans,
                                 struct engine_ids *ids)
{
    struct enc e = {.t = t, .ids = ids, .filter = {.spans = spans, .n_spans = n_spans}};
    size_t before = ids->n;
    enum err err = ERR_OK;

    if (!tok_utf8_valid(text, len) || !spans_ok(spans, n_spans, len))
        return ERR_INVALID;
    e.filter.specials = (flags & ENGINE_TOK_PARSE_SPECIAL) != 0;
    for (uint32_t i = 0; i < t->n_prefix && (flags & ENGINE_TOK_ADD_SPECIAL) != 0; i++) {
        uint32_t id = (uint32_t)t->prefix_ids[i];

        if (err == ERR_OK)
            err = tok_ids_push(ids, &id, 1);
    }
    if (err == ERR_OK && len > 0)
        err = encode_cut(&e, text, len, 0, false);
    if (err != ERR_OK)
        ids->n = before;
    tok_bpe_free(&e.bpe);
    buf_free(&e.normal);
    buf_free(&e.marked);
    return err;
}

enum err engine_tok_encode(const struct engine_tok *t, const char *text, size_t len, unsigned flags,
                           struct engine_ids *ids)
{
    return engine_tok_encode_spans(t, text, len, flags, NULL, 0, ids);
}
