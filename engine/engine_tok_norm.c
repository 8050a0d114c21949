/* engine/engine_tok_norm.c - the normalisers that tokenizer.json files use: NFC, Prepend, Replace.
 *
 * NFC is put together from utf8proc's tables instead of its one-call form, which sorts combining marks
 * by exchange: quadratic in the length of a run of marks, and such a run may be a whole request. */
#include "engine/engine_tok_impl.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

enum { FIRST_UNSTABLE = 0x300 }; /* below it every character is its own NFC and starts afresh */

static utf8proc_int16_t combining(utf8proc_int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* Order one run of marks by class, keeping the order within a class; spare has room for n. */
static void sort_marks(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *spare)
{
    size_t count[257] = {0};

    for (size_t i = 0; i < n; i++)
        count[(combining(run[i]) & 0xff) + 1]++;
    for (size_t c = 1; c < 257; c++)
        count[c] += count[c - 1];
    for (size_t i = 0; i < n; i++)
        spare[count[combining(run[i]) & 0xff]++] = run[i];
    memcpy(run, spare, n * sizeof(*run));
}

static void order_marks(utf8proc_int32_t *cps, size_t n, utf8proc_int32_t *spare)
{
    size_t i = 0;

    while (i < n) {
        size_t start = i;
        bool ordered = true;

        if (combining(cps[i]) == 0) {
            i++;
            continue;
        }
        for (i++; i < n && combining(cps[i]) != 0; i++)
            ordered &= combining(cps[i - 1]) <= combining(cps[i]);
        if (!ordered)
            sort_marks(cps + start, i - start, spare);
    }
}

static enum err append_cps(const utf8proc_int32_t *cps, size_t n, struct buf *out)
{
    enum err err = buf_reserve(out, n * 4);

    if (err != ERR_OK)
        return err;
    for (size_t i = 0; i < n; i++)
        buf_added(out, tok_utf8_put((uint32_t)cps[i], buf_bytes(out) + out->len));
    return ERR_OK;
}

/* Append the NFC of s, which starts with a character that composes with nothing before it. */
static enum err nfc_run(const char *s, size_t len, struct buf *out)
{
    const char *p = s, *end = s + len;
    const int how = UTF8PROC_COMPOSE | UTF8PROC_STABLE;
    size_t cap, n = 0;
    utf8proc_int32_t *cps, *spare;
    utf8proc_ssize_t composed;
    enum err err = ERR_OK;

    /* A character of two bytes or more comes apart into four at most. */
    if (!mem_mul(len, 2, &cap) || !mem_add(cap, 8, &cap) || cap > SIZE_MAX / 2 / sizeof(*cps))
        return ERR_NOMEM;
    cps = mem_try_alloc(2 * cap * sizeof(*cps));
    if (cps == NULL)
        return ERR_NOMEM;
    spare = cps + cap;
    while (p < end && err == ERR_OK) {
        uint32_t cp = 0;
        utf8proc_ssize_t got;
        int boundary = 0;

        p += tok_utf8_get(p, end, &cp);
        got = utf8proc_decompose_char((utf8proc_int32_t)cp, cps + n, (utf8proc_ssize_t)(cap - n),
                                      (utf8proc_option_t)how, &boundary);
        if (got < 0 || (size_t)got > cap - n)
            err = ERR_INVALID;
        else
            n += (size_t)got;
    }
    if (err == ERR_OK) {
        order_marks(cps, n, spare);
        composed = utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)n, (utf8proc_option_t)how);
        err = composed < 0 ? ERR_INVALID : append_cps(cps, (size_t)composed, out);
    }
    mem_free(cps);
    return err;
}

static enum err nfc(const char *s, size_t len, struct buf *out)
{
    const char *p = s, *end = s + len, *plain = s, *last = s;
    enum err err = ERR_OK;

    while (p < end && err == ERR_OK) {
        uint32_t cp = 0;
        size_t n = tok_utf8_get(p, end, &cp);

        if (n == 0)
            return ERR_INVALID;
        if (cp < FIRST_UNSTABLE) {
            last = p;
            p += n;
            continue;
        }
        /* The run begins with the character before, which the first mark may join. */
        err = buf_append(out, plain, (size_t)(last - plain));
        plain = p;
        while (plain < end && (n = tok_utf8_get(plain, end, &cp)) > 0 && cp >= FIRST_UNSTABLE)
            plain += n;
        if (err == ERR_OK)
            err = nfc_run(last, (size_t)(plain - last), out);
        p = last = plain;
    }
    return err == ERR_OK ? buf_append(out, plain, (size_t)(end - plain)) : err;
}

enum err tok_replace(const char *s, size_t len, const struct tok_str *from,
                     const struct tok_str *to, struct buf *out)
{
    const char *end = s + len;
    enum err err = ERR_OK;

    while (err == ERR_OK) {
        const char *hit = memmem(s, (size_t)(end - s), from->s, from->len);

        if (hit == NULL)
            return buf_append(out, s, (size_t)(end - s));
        err = buf_append(out, s, (size_t)(hit - s));
        if (err == ERR_OK)
            err = buf_append(out, to->s, to->len);
        s = hit + from->len;
    }
    return err;
}

static enum err step(const struct tok_norm *norm, const char *s, size_t len, struct buf *out)
{
    enum err err;

    switch (norm->kind) {
    case TOK_NORM_NFC:
        return nfc(s, len, out);
    case TOK_NORM_REPLACE:
        return tok_replace(s, len, &norm->from, &norm->to, out);
    case TOK_NORM_PREPEND:
        if (len == 0)
            return ERR_OK;
        err = buf_append(out, norm->to.s, norm->to.len);
        return err == ERR_OK ? buf_append(out, s, len) : err;
    }
    return ERR_INVALID;
}

enum err tok_normalize(const struct engine_tok *t, const char *s, size_t len, struct buf *out)
{
    struct buf a = BUF_INIT, b = BUF_INIT;
    enum err err = ERR_OK;

    for (uint32_t i = 0; i < t->n_norms && err == ERR_OK; i++) {
        struct buf *into = i + 1 == t->n_norms ? out : i % 2 == 0 ? &a : &b;

        if (into != out)
            buf_clear(into);
        err = step(&t->norms[i], s, len, into);
        if (into != out) {
            s = into->data != NULL ? buf_bytes(into) : "";
            len = into->len;
        }
    }
    if (t->n_norms == 0)
        err = buf_append(out, s, len);
    buf_free(&a);
    buf_free(&b);
    return err;
}
