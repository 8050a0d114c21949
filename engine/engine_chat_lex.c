/* engine/engine_chat_lex.c - template source to tokens.
 *
 * White space control is all here, and is what the transformers library sets up: trim_blocks (the line
 * break after a block tag goes), lstrip_blocks (blanks before a block tag on its own line go), and the
 * last line break of the source goes. */
#include "engine/engine_chat_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine_tok_utf8.h"

struct lexer {
    struct chat_arena *arena;
    struct chat_tokens *out;
    struct err_msg *msg;
    const char *s, *end; /* source with \n line ends */
    const char *p;
    const char *line_from; /* up to where lines were counted */
    int line;
    bool line_start; /* the text at p begins a line */
};

/* The line that p is on; p never goes back. */
static int line_at(struct lexer *x, const char *p)
{
    for (; x->line_from < p; x->line_from++)
        x->line += *x->line_from == '\n';
    return x->line;
}

static enum err push(struct lexer *x, struct chat_token token)
{
    if (x->out->n == x->out->cap) {
        size_t cap = x->out->cap == 0 ? 256 : x->out->cap * 2;
        struct chat_token *grown = mem_try_realloc(x->out->v, cap * sizeof(*grown));

        if (grown == NULL)
            return ERR_NOMEM;
        x->out->v = grown;
        x->out->cap = cap;
    }
    token.line = x->line;
    x->out->v[x->out->n++] = token;
    return ERR_OK;
}

static bool space_at(const char *p, const char *end, size_t *n)
{
    uint32_t cp = 0;

    *n = tok_utf8_get(p, end, &cp);
    return *n > 0 && chat_is_space(cp);
}

static const char *skip_space(const char *p, const char *end)
{
    size_t n;

    while (space_at(p, end, &n))
        p += n;
    return p;
}

/* The text [from, tag) before a tag, cut as the tag's sign and kind ask for. */
static enum err push_text(struct lexer *x, const char *from, const char *tag, char sign, bool block)
{
    struct chat_str s = {from, (size_t)(tag - from), NULL};
    size_t line = s.n;

    if (sign == '-') {
        s = chat_strip(s, NULL, CHAT_STRIP_RIGHT);
    } else if (block && sign != '+') {
        while (line > 0 && s.p[line - 1] != '\n')
            line--;
        if ((line > 0 || x->line_start) && skip_space(s.p + line, tag) == tag)
            s.n = line;
    }
    line_at(x, from);
    return s.n > 0 ? push(x, (struct chat_token){.type = CHAT_T_TEXT, .str = s}) : ERR_OK;
}

/* After the closing characters of a tag: what of the white space behind it goes.  print tags keep a
 * plain line break. */
static void after_tag(struct lexer *x, char sign, bool print)
{
    const char *from = x->p;

    if (sign == '-')
        x->p = skip_space(x->p, x->end);
    else if (!print && sign != '+' && x->p < x->end && *x->p == '\n')
        x->p++;
    x->line_start = x->p > from && x->p[-1] == '\n';
}

static enum err lex_comment(struct lexer *x)
{
    const char *close = memmem(x->p, (size_t)(x->end - x->p), "#}", 2);
    char sign;

    if (close == NULL)
        return err_set(x->msg, ERR_INVALID, "chat template line %d: a comment is not closed",
                       line_at(x, x->p));
    sign = close > x->p && (close[-1] == '-' || close[-1] == '+') ? close[-1] : '\0';
    x->p = close + 2;
    after_tag(x, sign, false);
    return ERR_OK;
}

static int hex_digits(const char *p, const char *end, int n, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < n; i++) {
        char c = p + i < end ? (char)(p[i] | 0x20) : '\0';

        if (c >= '0' && c <= '9')
            *out = *out * 16 + (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *out = *out * 16 + (uint32_t)(c - 'a' + 10);
        else
            return 0;
    }
    return n;
}

/* The escape whose backslash stands before p: its text to out[4], *took bytes of source.  false: bad. */
static bool escape(const char *p, const char *end, char *out, size_t *n_out, size_t *took)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *known = *p != '\0' ? strchr(from, *p) : NULL;
    uint32_t cp = 0;

    *took = 1;
    *n_out = 1;
    if (*p == '\n') { /* the line goes on */
        *n_out = 0;
        return true;
    }
    if (known != NULL) {
        *out = to[known - from];
        return true;
    }
    if (*p == 'x' || *p == 'u' || *p == 'U') {
        int n = *p == 'x' ? 2 : *p == 'u' ? 4 : 8;

        if (hex_digits(p + 1, end, n, &cp) == 0)
            return false;
        *took = (size_t)n + 1;
    } else if (*p >= '0' && *p <= '7') {
        for (*took = 0; *took < 3 && p + *took < end && p[*took] >= '0' && p[*took] <= '7'; ++*took)
            cp = cp * 8 + (uint32_t)(p[*took] - '0');
    } else { /* not an escape: the backslash stays */
        *out = '\\';
        *took = 0;
        return *p != 'N';
    }
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return false;
    *n_out = tok_utf8_put(cp, out);
    return true;
}

static enum err lex_string(struct lexer *x)
{
    char quote = *x->p;
    const char *p = x->p + 1;
    char *text;
    size_t n = 0;

    while (p < x->end && *p != quote)
        p += *p == '\\' && p + 1 < x->end ? 2 : 1;
    if (p >= x->end)
        return err_set(x->msg, ERR_INVALID, "chat template line %d: a string is not closed",
                       line_at(x, x->p));
    text = chat_alloc(x->arena, (size_t)(p - x->p) + 4);
    if (text == NULL)
        return x->arena->err;
    line_at(x, x->p);
    for (const char *q = x->p + 1; q < p;) {
        size_t took, n_out;

        if (*q != '\\') {
            text[n++] = *q++;
            continue;
        }
        if (!escape(q + 1, p, text + n, &n_out, &took))
            return err_set(x->msg, ERR_INVALID,
                           "chat template line %d: a bad escape sequence in a string", x->line);
        q += 1 + took;
        n += n_out;
    }
    x->p = p + 1;
    return push(x, (struct chat_token){.type = CHAT_T_STRING, .str = {text, n, NULL}});
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

/* Past decimal digits, with single underscores between them. */
static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && (is_digit(*p) || (*p == '_' && p + 1 < end && is_digit(p[1]))))
        p++;
    return p;
}

static enum err lex_number(struct lexer *x)
{
    struct chat_token token = {.type = CHAT_T_INT};
    const char *p = skip_digits(x->p, x->end);
    char text[64];
    size_t n = 0;

    if (p + 1 < x->end && *p == '.' && is_digit(p[1])) {
        token.type = CHAT_T_FLOAT;
        p = skip_digits(p + 1, x->end);
    }
    if (p + 1 < x->end && (*p | 0x20) == 'e' &&
        (is_digit(p[1]) || (p + 2 < x->end && (p[1] == '-' || p[1] == '+') && is_digit(p[2])))) {
        token.type = CHAT_T_FLOAT;
        p = skip_digits(p + 2, x->end);
    }
    for (const char *q = x->p; q < p && n + 1 < sizeof(text); q++)
        if (*q != '_')
            text[n++] = *q;
    text[n] = '\0';
    line_at(x, x->p);
    errno = 0;
    if (token.type == CHAT_T_FLOAT)
        token.f = strtod(text, NULL);
    else
        token.i = strtoll(text, NULL, 10);
    if (errno != 0 || n + 1 >= sizeof(text) || (p < x->end && is_name_char(*p)))
        return err_set(x->msg, ERR_INVALID, "chat template line %d: a bad number", x->line);
    x->p = p;
    return push(x, token);
}

static enum err lex_op(struct lexer *x, int *depth)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//", "**"};
    char c = *x->p;
    struct chat_token token = {.type = CHAT_T_OP, .op = (unsigned char)c};

    line_at(x, x->p);
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if (x->end - x->p >= 2 && memcmp(x->p, pairs[i], 2) == 0) {
            token.op = c * 256 + pairs[i][1];
            x->p += 2;
            return push(x, token);
        }
    }
    if (c == '\0' || strchr("+-*/%~()[]{},.:|=<>", c) == NULL)
        return err_set(x->msg, ERR_INVALID, "chat template line %d: unexpected character 0x%02x",
                       x->line, (unsigned)(unsigned char)c);
    if (c == '(' || c == '[' || c == '{')
        ++*depth;
    if (c == ')' || c == ']' || c == '}')
        --*depth;
    x->p++;
    return push(x, token);
}

/* Is the tag closed at p?  sign: its '-' or '+', if there. */
static bool closes(const struct lexer *x, const char *close, char *sign)
{
    const char *p = x->p;

    *sign = '\0';
    if (p < x->end && (*p == '-' || (*p == '+' && close[0] == '%')))
        *sign = *p++;
    return x->end - p >= 2 && memcmp(p, close, 2) == 0;
}

/* Inside {{ }} or {% %}. */
static enum err lex_tag(struct lexer *x, bool print)
{
    const char *close = print ? "}}" : "%}";
    int depth = 0;
    char sign;

    for (;;) {
        x->p = skip_space(x->p, x->end);
        if (x->p >= x->end)
            return err_set(x->msg, ERR_INVALID, "chat template line %d: a tag is not closed",
                           line_at(x, x->p));
        if (depth <= 0 && closes(x, close, &sign)) {
            x->p += 2 + (sign != '\0');
            CHAT_TRY(
                push(x, (struct chat_token){.type = print ? CHAT_T_PRINT_END : CHAT_T_BLOCK_END}));
            after_tag(x, sign, print);
            return ERR_OK;
        }
        if (*x->p == '"' || *x->p == '\'') {
            CHAT_TRY(lex_string(x));
        } else if (is_digit(*x->p)) {
            CHAT_TRY(lex_number(x));
        } else if (is_name_char(*x->p)) {
            struct chat_token token = {.type = CHAT_T_NAME, .str = {x->p, 0, NULL}};

            line_at(x, x->p);
            while (x->p < x->end && is_name_char(*x->p))
                x->p++;
            token.str.n = (size_t)(x->p - token.str.p);
            CHAT_TRY(push(x, token));
        } else {
            CHAT_TRY(lex_op(x, &depth));
        }
    }
}

static enum err lex_all(struct lexer *x)
{
    while (x->p < x->end) {
        const char *from = x->p, *tag = from;
        char kind = '\0', sign;

        while (tag + 1 < x->end &&
               !(tag[0] == '{' && (tag[1] == '{' || tag[1] == '%' || tag[1] == '#')))
            tag++;
        if (tag + 1 >= x->end)
            tag = x->end;
        else
            kind = tag[1];
        sign = kind != '\0' && x->end - tag > 2 && (tag[2] == '-' || tag[2] == '+') ? tag[2] : '\0';
        CHAT_TRY(push_text(x, from, tag, sign, kind == '%' || kind == '#'));
        if (kind == '\0')
            break;
        x->p = tag + 2 + (sign != '\0');
        line_at(x, tag);
        if (kind == '#') {
            CHAT_TRY(lex_comment(x));
        } else {
            CHAT_TRY(push(x, (struct chat_token){.type = kind == '{' ? CHAT_T_PRINT_BEGIN
                                                                     : CHAT_T_BLOCK_BEGIN}));
            CHAT_TRY(lex_tag(x, kind == '{'));
        }
    }
    return push(x, (struct chat_token){.type = CHAT_T_END});
}

enum err chat_lex(struct chat_arena *arena, const char *source, size_t len, struct chat_tokens *out,
                  struct err_msg *msg)
{
    char *s = chat_alloc(arena, len + 1);
    size_t n = 0;
    struct lexer x;

    if (s == NULL)
        return arena->err;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n')
            continue;
        s[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n > 0 && s[n - 1] == '\n')
        n--;
    x = (struct lexer){.arena = arena,
                       .out = out,
                       .msg = msg,
                       .s = s,
                       .end = s + n,
                       .p = s,
                       .line_from = s,
                       .line = 1,
                       .line_start = true};
    return lex_all(&x);
}
