/* engine/engine_chat_str.c - the memory and the strings of a template run.
 *
 * Strings follow Python: indices and lengths count code points, strip() knows Unicode white space. */
#include "engine/engine_chat_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

enum { BLOCK_MIN = 16 << 10 };

const unsigned char chat_taint_all[1] = {1};

struct chat_block {
    struct chat_block *next;
    size_t used, size;
    _Alignas(16) char bytes[];
};

void *chat_alloc(struct chat_arena *a, size_t size)
{
    struct chat_block *b = a->blocks;
    size_t want;
    char *p;

    if (size > a->limit - a->total) {
        a->err = ERR_LIMIT;
        return NULL;
    }
    size = (size + 15) & ~(size_t)15;
    if (b == NULL || b->size - b->used < size) {
        want = size > BLOCK_MIN ? size : BLOCK_MIN;
        b = mem_try_alloc(sizeof(*b) + want);
        if (b == NULL) {
            a->err = ERR_NOMEM;
            return NULL;
        }
        *b = (struct chat_block){.next = a->blocks, .size = want};
        a->blocks = b;
    }
    p = b->bytes + b->used;
    b->used += size;
    a->total += size < a->limit - a->total ? size : a->limit - a->total;
    return memset(p, 0, size);
}

void chat_arena_free(struct chat_arena *a)
{
    while (a->blocks != NULL) {
        struct chat_block *next = a->blocks->next;

        mem_free(a->blocks);
        a->blocks = next;
    }
}

bool chat_is_space(uint32_t cp)
{
    return tok_is_space(cp) || (cp >= 0x1c && cp <= 0x1f);
}

struct chat_str chat_lit(const char *s)
{
    return (struct chat_str){s, strlen(s), NULL};
}

struct chat_str chat_sub(struct chat_str s, size_t begin, size_t end)
{
    const unsigned char *taint = s.taint;

    if (taint != NULL && taint != CHAT_TAINT_ALL)
        taint += begin;
    return (struct chat_str){s.p + begin, end - begin, end > begin ? taint : NULL};
}

bool chat_str_equal(struct chat_str a, struct chat_str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static enum err sb_room(struct chat_run *r, struct chat_sb *b, size_t n)
{
    size_t cap = b->cap < 64 ? 64 : b->cap;
    char *p;
    unsigned char *taint = NULL;

    if (b->cap - b->n >= n && b->p != NULL)
        return ERR_OK;
    while (cap - b->n < n)
        if (!mem_mul(cap, 2, &cap))
            return ERR_LIMIT;
    p = chat_alloc(&r->arena, cap);
    if (b->taint != NULL)
        taint = chat_alloc(&r->arena, cap);
    if (p == NULL || (b->taint != NULL && taint == NULL))
        return r->arena.err;
    if (b->n > 0)
        memcpy(p, b->p, b->n);
    if (taint != NULL)
        memcpy(taint, b->taint, b->n);
    b->p = p;
    b->taint = taint;
    b->cap = cap;
    return ERR_OK;
}

enum err chat_sb_add(struct chat_run *r, struct chat_sb *b, struct chat_str s)
{
    if (s.n == 0)
        return ERR_OK;
    CHAT_TRY(chat_charge(r, s.n));
    CHAT_TRY(sb_room(r, b, s.n));
    if (s.taint != NULL && b->taint == NULL) {
        b->taint = chat_alloc(&r->arena, b->cap);
        if (b->taint == NULL)
            return r->arena.err;
    }
    memcpy(b->p + b->n, s.p, s.n);
    if (b->taint != NULL) {
        if (s.taint == NULL || s.taint == CHAT_TAINT_ALL)
            memset(b->taint + b->n, s.taint != NULL, s.n);
        else
            memcpy(b->taint + b->n, s.taint, s.n);
    }
    b->n += s.n;
    return ERR_OK;
}

enum err chat_sb_raw(struct chat_run *r, struct chat_sb *b, const char *s, size_t n)
{
    return chat_sb_add(r, b, (struct chat_str){s, n, NULL});
}

struct chat_str chat_sb_str(const struct chat_sb *b)
{
    return (struct chat_str){b->p != NULL ? b->p : "", b->n, b->taint};
}

enum err chat_concat(struct chat_run *r, struct chat_str a, struct chat_str b, struct chat_str *out)
{
    struct chat_sb sb = {0};

    if (a.n == 0 || b.n == 0) {
        *out = a.n == 0 ? b : a;
        return ERR_OK;
    }
    CHAT_TRY(sb_room(r, &sb, a.n + b.n));
    CHAT_TRY(chat_sb_add(r, &sb, a));
    CHAT_TRY(chat_sb_add(r, &sb, b));
    *out = chat_sb_str(&sb);
    return ERR_OK;
}

size_t chat_code_points(struct chat_str s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

size_t chat_code_point_at(struct chat_str s, size_t i)
{
    size_t at = 0;

    while (at < s.n && i-- > 0)
        do
            at++;
        while (at < s.n && ((unsigned char)s.p[at] & 0xc0) == 0x80);
    return at;
}

static bool in_set(const char *p, size_t n, const struct chat_str *chars)
{
    uint32_t cp = 0;

    if (chars != NULL)
        return memmem(chars->p, chars->n, p, n) != NULL;
    return tok_utf8_get(p, p + n, &cp) == n && chat_is_space(cp);
}

struct chat_str chat_strip(struct chat_str s, const struct chat_str *chars, int sides)
{
    size_t begin = 0, end = s.n;

    while ((sides & CHAT_STRIP_LEFT) != 0 && begin < end) {
        size_t n = chat_code_point_at(chat_sub(s, begin, end), 1);

        if (!in_set(s.p + begin, n, chars))
            break;
        begin += n;
    }
    while ((sides & CHAT_STRIP_RIGHT) != 0 && begin < end) {
        size_t last = end - 1;

        while (last > begin && ((unsigned char)s.p[last] & 0xc0) == 0x80)
            last--;
        if (!in_set(s.p + last, end - last, chars))
            break;
        end = last;
    }
    return chat_sub(s, begin, end);
}

enum err chat_find(struct chat_run *r, struct chat_str s, struct chat_str what, size_t *at)
{
    const char *hit;

    CHAT_TRY(chat_charge(r, s.n));
    hit = what.n <= s.n ? memmem(s.p, s.n, what.p, what.n) : NULL;
    *at = what.n == 0 ? 0 : hit != NULL ? (size_t)(hit - s.p) : s.n + 1;
    return ERR_OK;
}

enum err chat_replace(struct chat_run *r, struct chat_str s, struct chat_str from,
                      struct chat_str to, long long most, struct chat_str *out)
{
    struct chat_sb sb = {0};

    while (most != 0) {
        size_t at;

        if (from.n == 0) { /* between all characters, as Python does */
            at = 0;
            CHAT_TRY(chat_sb_add(r, &sb, to));
            if (s.n == 0)
                break;
            at = chat_code_point_at(s, 1);
            CHAT_TRY(chat_sb_add(r, &sb, chat_sub(s, 0, at)));
            s = chat_sub(s, at, s.n);
        } else {
            CHAT_TRY(chat_find(r, s, from, &at));
            if (at > s.n)
                break;
            CHAT_TRY(chat_sb_add(r, &sb, chat_sub(s, 0, at)));
            CHAT_TRY(chat_sb_add(r, &sb, to));
            s = chat_sub(s, at + from.n, s.n);
        }
        most -= most > 0;
    }
    CHAT_TRY(chat_sb_add(r, &sb, s));
    *out = chat_sb_str(&sb);
    return ERR_OK;
}

/* The run of white space (want) or of other characters at the start of s, in bytes. */
static size_t space_run(struct chat_str s, bool want)
{
    size_t at = 0;

    while (at < s.n) {
        size_t n = chat_code_point_at(chat_sub(s, at, s.n), 1);

        if (in_set(s.p + at, n, NULL) != want)
            break;
        at += n;
    }
    return at;
}

static enum err split_spaces(struct chat_run *r, struct chat_str s, long long most,
                             struct chat_list *out)
{
    for (;;) {
        size_t n;

        s = chat_sub(s, space_run(s, true), s.n);
        if (s.n == 0)
            return ERR_OK;
        if (most-- == 0)
            return chat_list_push(r, out, chat_string(s));
        n = space_run(s, false);
        CHAT_TRY(chat_list_push(r, out, chat_string(chat_sub(s, 0, n))));
        s = chat_sub(s, n, s.n);
    }
}

enum err chat_split(struct chat_run *r, struct chat_str s, const struct chat_str *sep,
                    long long most, struct chat_list *out)
{
    CHAT_TRY(chat_charge(r, s.n));
    if (sep == NULL)
        return split_spaces(r, s, most, out);
    while (most-- != 0) {
        size_t at;

        CHAT_TRY(chat_find(r, s, *sep, &at));
        if (at > s.n)
            break;
        CHAT_TRY(chat_list_push(r, out, chat_string(chat_sub(s, 0, at))));
        s = chat_sub(s, at + sep->n, s.n);
    }
    return chat_list_push(r, out, chat_string(s));
}

/* Character by character: the few characters that change length or depend on their place (the sharp s,
 * the final sigma) keep their simple form. */
enum err chat_recase(struct chat_run *r, struct chat_str s, enum chat_case how,
                     struct chat_str *out)
{
    struct chat_sb sb = {0};
    const char *p = s.p, *end = s.p + s.n;
    bool in_word = false;

    while (p < end) {
        uint32_t cp = 0, to;
        size_t n = tok_utf8_get(p, end, &cp);
        struct chat_str one = chat_sub(s, (size_t)(p - s.p), (size_t)(p - s.p) + n);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
        bool upper = how == CHAT_CASE_UPPER || (how != CHAT_CASE_LOWER && !in_word);
        char bytes[4];

        if (n == 0)
            break;
        to = (uint32_t)(upper ? how == CHAT_CASE_UPPER ? utf8proc_toupper((utf8proc_int32_t)cp)
                                                       : utf8proc_totitle((utf8proc_int32_t)cp)
                              : utf8proc_tolower((utf8proc_int32_t)cp));
        in_word = how == CHAT_CASE_CAPITALIZE ||
                  (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT);
        one.n = tok_utf8_put(to, bytes);
        one.p = bytes;
        one.taint = one.taint == NULL || one.taint == CHAT_TAINT_ALL || *one.taint == 0
                        ? one.taint == CHAT_TAINT_ALL ? one.taint : NULL
                        : CHAT_TAINT_ALL;
        CHAT_TRY(chat_sb_add(r, &sb, one));
        p += n;
    }
    *out = chat_sb_str(&sb);
    return ERR_OK;
}

/* repr() of a float: the shortest digits that read back the same. */
static void float_text(double f, char *out, size_t cap)
{
    char digits[40], *e;
    int exponent, precision = 1;

    if (isnan(f) || isinf(f)) {
        snprintf(out, cap, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(digits, sizeof(digits), "%.*e", precision - 1, f);
    while (strtod(digits, NULL) != f && ++precision <= 17);
    e = strchr(digits, 'e');
    exponent = (int)strtol(e + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16)
        snprintf(out, cap, "%.*se%c%02d", (int)(e - digits), digits, exponent < 0 ? '-' : '+',
                 abs(exponent));
    else if (precision - 1 > exponent)
        snprintf(out, cap, "%.*f", precision - 1 - exponent, f);
    else
        snprintf(out, cap, "%.1f", f);
}

enum err chat_number_str(struct chat_run *r, const struct chat_val *v, struct chat_str *out)
{
    struct chat_sb sb = {0};
    char text[64];

    if (v->type == CHAT_FLOAT)
        float_text(v->u.f, text, sizeof(text));
    else
        snprintf(text, sizeof(text), "%lld", v->u.i);
    CHAT_TRY(chat_sb_raw(r, &sb, text, strlen(text)));
    *out = chat_sb_str(&sb);
    return ERR_OK;
}
