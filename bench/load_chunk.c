/* bench/load_chunk.c - one pass over a JSON object, keeping a path of known keys and no values.
 *
 * A client that reads thousands of streams cannot afford a tree per chunk, and needs only: is there text, is it the
 * end, how many tokens.  Keys that matter are named in the table; a value is looked at only when the path to it is. */
#include "bench/load_sse.h"

#include <string.h>

enum key {
    K_OTHER = 0,
    K_ITEM, /* an element of an array */
    K_CHOICES,
    K_DELTA,
    K_TEXT,
    K_CALLS,
    K_FINISH,
    K_USAGE,
    K_PROMPT,
    K_COMPLETION,
    K_DETAILS,
    K_CACHED,
    K_ERROR,
    K_MESSAGE
};

static const struct {
    const char *name;
    enum key key;
} keys[] = {{"choices", K_CHOICES},
            {"delta", K_DELTA},
            {"message", K_MESSAGE},
            {"text", K_TEXT},
            {"content", K_TEXT},
            {"reasoning_content", K_TEXT},
            {"reasoning", K_TEXT},
            {"tool_calls", K_CALLS},
            {"finish_reason", K_FINISH},
            {"usage", K_USAGE},
            {"prompt_tokens", K_PROMPT},
            {"completion_tokens", K_COMPLETION},
            {"prompt_tokens_details", K_DETAILS},
            {"cached_tokens", K_CACHED},
            {"error", K_ERROR}};

struct scan {
    const char *p, *end;
    struct load_chunk *out;
    uint32_t depth; /* open brackets */
    bool is_object[LOAD_DEPTH_MAX + 1];
    enum key path[LOAD_DEPTH_MAX +
                  1]; /* path[d]: the member we are in, of the bracket opened at depth d */
};

static void skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

/* At the opening quote; *from, *len is what lies between the quotes, escapes as they are. */
static bool read_string(struct scan *s, const char **from, size_t *len)
{
    const char *p = ++s->p;

    for (; p < s->end && *p != '"'; p++) {
        if ((unsigned char)*p < 0x20)
            return false;
        if (*p == '\\' && ++p == s->end)
            return false;
    }
    if (p >= s->end)
        return false;
    *from = s->p;
    *len = (size_t)(p - s->p);
    s->p = p + 1;
    return true;
}

static enum key key_of(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strlen(keys[i].name) == len && memcmp(keys[i].name, name, len) == 0)
            return keys[i].key;
    }
    return K_OTHER;
}

static bool at(const struct scan *s, uint32_t depth, enum key a, enum key b, enum key c, enum key d)
{
    const enum key want[] = {a, b, c, d};

    if (s->depth != depth)
        return false;
    for (uint32_t i = 0; i < depth && i < 4; i++) {
        if (s->path[i + 1] != want[i])
            return false;
    }
    return true;
}

static void keep_error(struct load_chunk *c, const char *from, size_t len)
{
    size_t n = len < LOAD_TEXT_MAX - 1 ? len : LOAD_TEXT_MAX - 1;

    for (size_t i = 0; i < n; i++)
        c->error[i] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
    c->error[n] = '\0';
}

static void saw_string(struct scan *s, const char *from, size_t len)
{
    struct load_chunk *c = s->out;

    if (len > 0 &&
        (at(s, 3, K_CHOICES, K_ITEM, K_TEXT, 0) || at(s, 4, K_CHOICES, K_ITEM, K_DELTA, K_TEXT) ||
         at(s, 4, K_CHOICES, K_ITEM, K_MESSAGE, K_TEXT)))
        c->has_text = true;
    else if (at(s, 3, K_CHOICES, K_ITEM, K_FINISH, 0))
        c->finished = true;
    else if (at(s, 1, K_ERROR, 0, 0, 0) || at(s, 2, K_ERROR, K_MESSAGE, 0, 0))
        keep_error(c, from, len);
    if (at(s, 1, K_ERROR, 0, 0, 0))
        c->is_error = true;
}

/* Counts are whole numbers of at most nine digits; anything else is no count. */
static void saw_number(struct scan *s, const char *from, size_t len)
{
    uint32_t v = 0;

    if (len == 0 || len > 9)
        return;
    for (size_t i = 0; i < len; i++) {
        if (from[i] < '0' || from[i] > '9')
            return;
        v = v * 10 + (uint32_t)(from[i] - '0');
    }
    if (at(s, 2, K_USAGE, K_PROMPT, 0, 0))
        s->out->prompt_tokens = v;
    else if (at(s, 2, K_USAGE, K_COMPLETION, 0, 0))
        s->out->completion_tokens = v;
    else if (at(s, 3, K_USAGE, K_DETAILS, K_CACHED, 0))
        s->out->cached_tokens = v;
}

static bool open_bracket(struct scan *s)
{
    if (at(s, 1, K_USAGE, 0, 0, 0) && *s->p == '{')
        s->out->has_usage = true;
    else if (at(s, 1, K_ERROR, 0, 0, 0))
        s->out->is_error = true;
    else if (at(s, 2, K_CHOICES, K_ITEM, 0, 0) && *s->p == '{')
        s->out->has_choice = true;
    else if (at(s, 4, K_CHOICES, K_ITEM, K_DELTA, K_CALLS))
        s->out->has_text = true;
    if (s->depth == LOAD_DEPTH_MAX)
        return false;
    s->depth++;
    s->is_object[s->depth] = *s->p == '{';
    s->path[s->depth] = K_ITEM;
    s->p++;
    return true;
}

static bool read_key(struct scan *s)
{
    const char *from;
    size_t len;

    skip_space(s);
    if (s->p >= s->end || *s->p != '"' || !read_string(s, &from, &len))
        return false;
    s->path[s->depth] = key_of(from, len);
    skip_space(s);
    if (s->p >= s->end || *s->p != ':')
        return false;
    s->p++;
    return true;
}

/* A value that is no bracket: string, number, true, false or null. */
static bool read_plain(struct scan *s)
{
    const char *from = s->p;
    size_t len;

    if (*s->p == '"') {
        if (!read_string(s, &from, &len))
            return false;
        saw_string(s, from, len);
        return true;
    }
    while (s->p < s->end && strchr(",]} \t\r\n", *s->p) == NULL)
        s->p++;
    len = (size_t)(s->p - from);
    if (len == 0 || len > 64 || strchr("-0123456789tfn", *from) == NULL)
        return false;
    saw_number(s, from, len);
    return true;
}

/* Behind a value: a comma and the next member, or closing brackets.  *ended: the last one closed. */
static bool after_value(struct scan *s, bool *ended)
{
    for (;;) {
        skip_space(s);
        if (s->p >= s->end)
            return false;
        if (*s->p == ',') {
            s->p++;
            return s->is_object[s->depth] ? read_key(s) : true;
        }
        if (*s->p != (s->is_object[s->depth] ? '}' : ']'))
            return false;
        s->p++;
        if (--s->depth == 0) {
            *ended = true;
            return true;
        }
    }
}

static bool read_value(struct scan *s, bool *ended)
{
    skip_space(s);
    if (s->p >= s->end)
        return false;
    if (*s->p == '{' || *s->p == '[') {
        if (!open_bracket(s))
            return false;
        skip_space(s);
        if (s->p < s->end && *s->p == (s->is_object[s->depth] ? '}' : ']'))
            return after_value(s, ended); /* empty */
        return s->is_object[s->depth] ? read_key(s) : true;
    }
    return read_plain(s) && after_value(s, ended);
}

enum err load_chunk_read(const char *json, size_t len, struct load_chunk *out)
{
    struct scan s = {.p = json, .end = json + len, .out = out};
    bool ended = false;

    *out = (struct load_chunk){0};
    skip_space(&s);
    if (s.p >= s.end || *s.p != '{')
        return ERR_BAD_FRAME;
    while (!ended) {
        if (!read_value(&s, &ended))
            return ERR_BAD_FRAME;
    }
    skip_space(&s);
    return s.p == s.end ? ERR_OK : ERR_BAD_FRAME;
}
