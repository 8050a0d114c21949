/* engine/engine_tok_split.c - see the header for the contract.
 *
 * Each function tries the alternatives of its pattern in order, as a leftmost-first engine would.
 * Whitespace is the only place where such an engine steps back: \s+(?!\S) gives its last character
 * up when a word follows, and \s*[\r\n]+ ends after the last line break of the run.  A run is looked at
 * no more than three times, so the whole stays linear. */
#include "engine/engine_tok_split.h"

#include <stdint.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/engine_tok_utf8.h"

enum class { OTHER = 0, LETTER, NUMBER, SPACE };

static enum class class_wide(uint32_t cp) {
    utf8proc_category_t category;

    if (tok_is_space(cp)) return SPACE;
    category = utf8proc_category((utf8proc_int32_t)cp);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) return LETTER;
    if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) return NUMBER;
    return OTHER;
}

/* The class of the character at s[at] and its length. */
static inline enum class class_at(const char *s, size_t len, size_t at, size_t *n) {
    unsigned char c = (unsigned char)s[at]; uint32_t cp = 0;

    if (c < 0x80){ *n = 1; if ((unsigned char)((c | 0x20) - 'a') < 26) return LETTER;
                   if (c == ' ' || (c >= 9 && c <= 13)) return SPACE;
                   return (unsigned char)(c - '0') < 10 ? NUMBER : OTHER;}
*n = tok_utf8_get(s + at, s + len, &cp);
if (*n == 0) {
    *n = 1;
    return OTHER;
}
return class_wide(cp);
}

static size_t run_end(const char *s, size_t len, size_t at, enum class want)
{
    size_t n;

    while (at < len && class_at(s, len, at, &n) == want)
        at += n;
    return at;
}

static size_t run_end_newlines(const char *s, size_t len, size_t at)
{
    while (at < len && (s[at] == '\r' || s[at] == '\n'))
        at++;
    return at;
}

/* 's 't 'm 'd 're 've 'll at s, or 0.  any_case follows Unicode folding, so U+017F counts as s. */
static size_t contraction(const char *s, size_t len, bool any_case)
{
    char a, b;

    if (len < 2 || s[0] != '\'')
        return 0;
    a = s[1];
    b = len > 2 ? s[2] : '\0';
    if (any_case) {
        if (len > 2 && memcmp(s + 1, "\xc5\xbf", 2) == 0)
            return 3;
        a = (char)(a >= 'A' && a <= 'Z' ? a + 32 : a);
        b = (char)(b >= 'A' && b <= 'Z' ? b + 32 : b);
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    return 0;
}

/* \s+(?!\S)|\s+ at a space. */
static size_t space_run(const char *s, size_t len)
{
    size_t at = 0, last = 0, n;

    while (at < len && class_at(s, len, at, &n) == SPACE) {
        last = at;
        at += n;
    }
    return at == len || last == 0 ? at : last;
}

static size_t next_gpt2(const char *s, size_t len)
{
    size_t n = contraction(s, len, false), m;
    enum class class;

    if (n > 0)
        return n;
    class = class_at(s, len, 0, &n);
    if (s[0] == ' ' && len > 1) {
        enum class after = class_at(s, len, 1, &m);

        if (after != SPACE)
            return run_end(s, len, 1 + m, after);
    }
    return class == SPACE ? space_run(s, len) : run_end(s, len, n, class);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at a space. */
static size_t space_run_lines(const char *s, size_t len)
{
    size_t at = 0, last = 0, line_end = 0, n;

    while (at < len && class_at(s, len, at, &n) == SPACE) {
        last = at;
        at += n;
        if (s[last] == '\r' || s[last] == '\n')
            line_end = at;
    }
    if (line_end > 0)
        return line_end;
    return at == len || last == 0 ? at : last;
}

static size_t next_llama3(const char *s, size_t len, unsigned max_digits)
{
    size_t n = contraction(s, len, true), m, at;
    enum class class, after = SPACE;

    if (n > 0)
        return n;
    class = class_at(s, len, 0, &n);
    if (class == LETTER)
        return run_end(s, len, n, LETTER);
    if (class == NUMBER) {
        at = n;
        for (unsigned k = 1; k < max_digits && at < len; k++) {
            if (class_at(s, len, at, &m) != NUMBER)
                break;
            at += m;
        }
        return at;
    }
    if (n < len)
        after = class_at(s, len, n, &m);
    if (n < len && after == LETTER && s[0] != '\r' && s[0] != '\n')
        return run_end(s, len, n + m, LETTER);
    if (class == OTHER)
        return run_end_newlines(s, len, run_end(s, len, n, OTHER));
    if (s[0] == ' ' && n < len && after == OTHER)
        return run_end_newlines(s, len, run_end(s, len, n + m, OTHER));
    return space_run_lines(s, len);
}

bool engine_tok_pattern_known(const char *regex, enum engine_tok_pattern *out)
{
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define WORDS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
    static const struct {
        const char *regex;
        enum engine_tok_pattern pattern;
    } known[] = {
        {"'s|'t|'re|'ve|'m|'ll|'d" WORDS, ENGINE_TOK_GPT2},
        {"'(?:[sdmt]|ll|ve|re)" WORDS, ENGINE_TOK_GPT2},
        {HEAD "\\p{N}{1,3}" TAIL, ENGINE_TOK_LLAMA3},
        {HEAD "\\p{N}" TAIL, ENGINE_TOK_QWEN2},
    };
#undef TAIL
#undef HEAD
#undef WORDS

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(regex, known[i].regex) == 0) {
            *out = known[i].pattern;
            return true;
        }
    }
    return false;
}

size_t engine_tok_split_next(enum engine_tok_pattern pattern, const char *s, size_t len)
{
    switch (pattern) {
    case ENGINE_TOK_GPT2:
        return next_gpt2(s, len);
    case ENGINE_TOK_LLAMA3:
        return next_llama3(s, len, 3);
    case ENGINE_TOK_QWEN2:
        return next_llama3(s, len, 1);
    }
    return len;
}
