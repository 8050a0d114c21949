/* engine/engine_tok_detok.c - token pieces in, whole UTF-8 out. */
#include "base/buf.h"
#include "engine/engine_tok.h"
#include "engine/engine_tok_utf8.h"

#include <string.h>

static const char REPLACEMENT[] = "\xef\xbf\xbd";

void engine_detok_init(struct engine_detok *d, const struct engine_tok *t, bool continues)
{
    *d = (struct engine_detok){.at_start = !continues && engine_tok_strips_first_space(t)};
}

/* How many bytes at p are bad together: the longest start of a character that then breaks off, or one
 * byte.  One U+FFFD stands for each such group, as the Unicode standard recommends. */
static size_t bad_group(const char *p, size_t left)
{
    size_t n = 1;

    while (n < left && n < 3 && tok_utf8_partial(p, n + 1) == n + 1)
        n++;
    return n;
}

/* Write the certain part of s[len] to out; what may still become a character goes to d->held. */
static enum err put(struct engine_detok *d, const char *s, size_t len, struct buf *out)
{
    const char *p = s, *end = s + len, *good = s;
    enum err err = ERR_OK;

    d->n_held = 0;
    while (p < end && err == ERR_OK) {
        uint32_t cp;
        size_t n = tok_utf8_get(p, end, &cp);

        if (n > 0) {
            p += n;
            continue;
        }
        err = buf_append(out, good, (size_t)(p - good));
        n = tok_utf8_partial(p, (size_t)(end - p));
        if (n > 0) {
            memcpy(d->held, p, n);
            d->n_held = (uint8_t)n;
            return err;
        }
        if (err == ERR_OK)
            err = buf_append(out, REPLACEMENT, 3);
        p += bad_group(p, (size_t)(end - p));
        good = p;
    }
    return err == ERR_OK ? buf_append(out, good, (size_t)(p - good)) : err;
}

enum err engine_detok_push(struct engine_detok *d, const struct engine_tok *t, int32_t id,
                           bool with_special, struct buf *out)
{
    struct engine_detok before = *d;
    char joined[64];
    size_t len, at_most;
    const char *piece = engine_tok_piece(t, id, with_special, &len);
    enum err err;

    if (len == 0)
        return ERR_OK;
    if (d->at_start && piece[0] == ' ') {
        piece++;
        len--;
    }
    d->at_start = false;
    /* Room for the worst case first, so that a failure leaves both sides as they were. */
    err = buf_reserve(out, 3 * (len + sizeof(d->held)));
    while (err == ERR_OK && len > 0) {
        at_most = sizeof(joined) - d->n_held;
        if (d->n_held == 0) {
            err = put(d, piece, len, out);
            break;
        }
        if (at_most > len)
            at_most = len;
        memcpy(joined, d->held, d->n_held);
        memcpy(joined + d->n_held, piece, at_most);
        piece += at_most;
        len -= at_most;
        err = put(d, joined, d->n_held + at_most, out);
    }
    if (err != ERR_OK)
        *d = before;
    return err;
}

enum err engine_detok_finish(struct engine_detok *d, struct buf *out)
{
    enum err err = d->n_held > 0 ? buf_append(out, REPLACEMENT, 3) : ERR_OK;

    if (err == ERR_OK)
        d->n_held = 0;
    return err;
}
