/* engine/engine_tok_utf8.h - reading and checking UTF-8, one code point at a time.
 *
 * Thread: any.  Pure functions, no reads at or after `end`. */
#ifndef ENGINE_ENGINE_TOK_UTF8_H
#define ENGINE_ENGINE_TOK_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The length of the well-formed character at p, and the character itself in *cp; 0 if there is none
 * (bad byte, overlong, surrogate, above U+10FFFF, or cut off). */
static inline size_t tok_utf8_get(const char *p, const char *end, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)p;
    size_t left = (size_t)(end - p), n;
    uint32_t c, low;

    if (left == 0)
        return 0;
    c = u[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    if (c < 0xc2 || c > 0xf4)
        return 0;
    n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (left < n)
        return 0;
    low = n == 2 ? 0x80 : n == 3 ? 0x800 : 0x10000;
    c &= 0x7fu >> n;
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (u[i] & 0x3f);
    }
    if (c < low || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    *cp = c;
    return n;
}

/* How many bytes at p could still become one character if more came: 0 if p[0 .. left) is whole or can
 * never be. */
static inline size_t tok_utf8_partial(const char *p, size_t left)
{
    const unsigned char *u = (const unsigned char *)p;
    size_t n;

    if (left == 0 || u[0] < 0xc2 || u[0] > 0xf4)
        return 0;
    n = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    if (left >= n)
        return 0;
    if (left > 1) {
        if ((u[1] & 0xc0) != 0x80 || (u[0] == 0xe0 && u[1] < 0xa0) ||
            (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90) ||
            (u[0] == 0xf4 && u[1] > 0x8f))
            return 0;
    }
    return left < 3 || (u[2] & 0xc0) == 0x80 ? left : 0;
}

static inline bool tok_utf8_valid(const char *s, size_t len)
{
    const char *p = s, *end = s + len;
    uint32_t cp;

    while (p < end) {
        uint64_t word;
        size_t n;

        while ((size_t)(end - p) >= sizeof(word)) {
            memcpy(&word, p, sizeof(word));
            if (word & 0x8080808080808080ull)
                break;
            p += sizeof(word);
        }
        if (p == end)
            break;
        n = tok_utf8_get(p, end, &cp);
        if (n == 0)
            return false;
        p += n;
    }
    return true;
}

/* Write cp (a valid scalar value) to out[4]; returns its length. */
static inline size_t tok_utf8_put(uint32_t cp, char *out)
{
    unsigned char *u = (unsigned char *)out;

    if (cp < 0x80) {
        u[0] = (unsigned char)cp;
        return 1;
    }
    if (cp < 0x800) {
        u[0] = (unsigned char)(0xc0 | cp >> 6);
        u[1] = (unsigned char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        u[0] = (unsigned char)(0xe0 | cp >> 12);
        u[1] = (unsigned char)(0x80 | (cp >> 6 & 0x3f));
        u[2] = (unsigned char)(0x80 | (cp & 0x3f));
        return 3;
    }
    u[0] = (unsigned char)(0xf0 | cp >> 18);
    u[1] = (unsigned char)(0x80 | (cp >> 12 & 0x3f));
    u[2] = (unsigned char)(0x80 | (cp >> 6 & 0x3f));
    u[3] = (unsigned char)(0x80 | (cp & 0x3f));
    return 4;
}

/* Unicode White_Space, which is what \s means in the published pre-tokenizer patterns. */
static inline bool tok_is_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

#endif
