/* daemon/api_render.c - see the header for the contract.
 *
 * Everything is appended through a pen: a buffer with a sticky error and a mark to fall back to, so that
 * the functions below read like the JSON they write.  Room is checked once per piece. */
#include "daemon/api_render.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/api_utf8.h"

struct pen {
    struct buf *out;
    size_t mark;
    enum err err;
};

static struct pen pen_on(struct buf *out)
{
    return (struct pen){.out = out, .mark = out->len};
}

/* ERR_NOMEM leaves the buffer as it was. */
static enum err pen_end(struct pen *p)
{
    if (p->err != ERR_OK)
        p->out->len = p->mark;
    return p->err;
}

/* Room for n more bytes, or NULL once anything has failed. */
static inline char *room(struct pen *p, size_t n)
{
    struct buf *b = p->out;

    if (p->err != ERR_OK)
        return NULL;
    if (b->data == NULL || b->cap - b->head - b->len < n) {
        p->err = buf_reserve(b, n);
        if (p->err != ERR_OK)
            return NULL;
    }
    return b->data + b->head + b->len;
}

static inline void put(struct pen *p, const char *s, size_t n)
{
    char *to = room(p, n);

    if (to != NULL) {
        memcpy(to, s, n);
        p->out->len += n;
    }
}

#define PUT(p, literal) put((p), (literal), sizeof(literal) - 1)

static void put_uint(struct pen *p, uint64_t v)
{
    char digits[20];
    size_t n = sizeof(digits);

    do {
        digits[--n] = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    put(p, digits + n, sizeof(digits) - n);
}

static void put_int(struct pen *p, int64_t v)
{
    if (v < 0)
        PUT(p, "-");
    put_uint(p, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

/* JSON has no infinity; -9999 is what clients know for "impossible". */
static void put_logprob(struct pen *p, float v)
{
    char text[32];
    int n;

    if (!isfinite(v) || v < -9999.0f) {
        PUT(p, "-9999.0");
        return;
    }
    n = snprintf(text, sizeof(text), "%.9g", (double)v);
    put(p, text, (size_t)n);
}

/* ---- strings ---- */
static inline bool stands_for_itself(uint8_t c)
{
    return c >= 0x20 && c != '"' && c != '\\' && c < 0x80;
}

static char *escape(char *to, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    char letter = '\0';

    switch (c) {
    case '"':
    case '\\':
        letter = (char)c;
        break;
    case '\n':
        letter = 'n';
        break;
    case '\r':
        letter = 'r';
        break;
    case '\t':
        letter = 't';
        break;
    case '\b':
        letter = 'b';
        break;
    case '\f':
        letter = 'f';
        break;
    default:
        memcpy(to, "\\u00", 4);
        to[4] = hex[c >> 4];
        to[5] = hex[c & 15];
        return to + 6;
    }
    *to++ = '\\';
    *to++ = letter;
    return to;
}

/* At most 6 bytes of output for one of input. */
static char *escape_all(char *to, const uint8_t *s, const uint8_t *end)
{
    while (s < end) {
        if (stands_for_itself(*s)) {
            *to++ = (char)*s++;
        } else if (*s < 0x80) {
            to = escape(to, *s++);
        } else {
            unsigned n = api_utf8_step(s, end);

            if (n == 0) {
                memcpy(to, "\xef\xbf\xbd", 3);
                to += 3;
                s++;
            } else {
                for (unsigned i = 0; i < n; i++)
                    *to++ = (char)*s++;
            }
        }
    }
    return to;
}

/* The inside of a string.  Long texts go in slices, cut between characters, so that the room asked for
 * stays near to what is needed. */
static void put_escaped(struct pen *p, const char *text, size_t len)
{
    enum { SLICE = 4096 };
    const uint8_t *s = (const uint8_t *)text;
    const uint8_t *end = s + len;

    while (s < end) {
        const uint8_t *stop = (size_t)(end - s) > SLICE ? s + SLICE : end;
        char *to, *from;

        for (int back = 0; stop < end && back < 3 && (*stop & 0xc0) == 0x80; back++)
            stop--;
        to = from = room(p, 6 * (size_t)(stop - s));
        if (to == NULL)
            return;
        to = escape_all(to, s, stop);
        p->out->len += (size_t)(to - from);
        s = stop;
    }
}

static void put_string(struct pen *p, const char *text, size_t len)
{
    PUT(p, "\"");
    put_escaped(p, text, len);
    PUT(p, "\"");
}

static void put_cstring(struct pen *p, const char *text)
{
    if (text == NULL)
        PUT(p, "null");
    else
        put_string(p, text, strlen(text));
}

enum err api_render_string(struct buf *out, const char *s, size_t len)
{
    struct pen p = pen_on(out);

    put_string(&p, s, len);
    return pen_end(&p);
}

static bool is_utf8(const char *text, size_t len)
{
    const uint8_t *s = (const uint8_t *)text, *end = s + len;

    while (s < end) {
        unsigned n = api_utf8_step(s, end);

        if (n == 0)
            return false;
        s += n;
    }
    return true;
}

/* ---- log probabilities, chat form ---- */
static void put_bytes(struct pen *p, const char *piece, size_t len)
{
    PUT(p, "[");
    for (size_t i = 0; i < len; i++) {
        if (i > 0)
            PUT(p, ",");
        put_uint(p, (uint8_t)piece[i]);
    }
    PUT(p, "]");
}

static void put_chat_token(struct pen *p, const char *piece, size_t len, float logprob)
{
    PUT(p, "{\"token\":");
    put_string(p, piece, len);
    PUT(p, ",\"logprob\":");
    put_logprob(p, logprob);
    PUT(p, ",\"bytes\":");
    put_bytes(p, piece, len);
}

static const char *piece_of(const struct api_logprobs *l, int32_t token, size_t *len)
{
    const char *piece = l->piece != NULL ? l->piece(l->piece_arg, token, len) : NULL;

    if (piece == NULL) {
        *len = 0;
        return "";
    }
    return piece;
}

static void put_chat_logprobs(struct pen *p, const struct api_logprobs *l)
{
    PUT(p, "{\"content\":[");
    for (size_t i = 0; i < l->n; i++) {
        const struct api_token_logprob *t = &l->tokens[i];

        if (i > 0)
            PUT(p, ",");
        put_chat_token(p, t->piece, t->piece_len, t->logprob);
        PUT(p, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < t->n_top; k++) {
            size_t len;
            const char *piece = piece_of(l, t->top[k].token, &len);

            if (k > 0)
                PUT(p, ",");
            put_chat_token(p, piece, len, t->top[k].logprob);
            PUT(p, "}");
        }
        PUT(p, "]}");
    }
    PUT(p, "],\"refusal\":null}");
}

/* ---- log probabilities, completions form ---- */
/* This form has no bytes array, so a piece that is not UTF-8 is spelled "bytes:\xe2\x82". */
static void put_piece(struct pen *p, const char *piece, size_t len)
{
    static const char hex[] = "0123456789abcdef";

    if (is_utf8(piece, len)) {
        put_string(p, piece, len);
        return;
    }
    PUT(p, "\"bytes:");
    for (size_t i = 0; i < len; i++) {
        char one[5] = {'\\', '\\', 'x', hex[(uint8_t)piece[i] >> 4], hex[piece[i] & 15]};

        put(p, one, sizeof(one));
    }
    PUT(p, "\"");
}

static bool same_piece(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return a_len == b_len && memcmp(a, b, a_len) == 0;
}

/* {"piece": logprob, ...}, the drawn token among them; of two tokens with one spelling the likelier. */
static void put_top_map(struct pen *p, const struct api_logprobs *l,
                        const struct api_token_logprob *t)
{
    bool drawn = false;

    PUT(p, "{");
    for (uint32_t k = 0; k < t->n_top; k++) {
        size_t len, other_len;
        const char *piece = piece_of(l, t->top[k].token, &len);
        bool twice = false;

        for (uint32_t j = 0; j < k && !twice; j++) {
            const char *other = piece_of(l, t->top[j].token, &other_len);

            twice = same_piece(piece, len, other, other_len);
        }
        if (twice)
            continue;
        drawn = drawn || same_piece(piece, len, t->piece, t->piece_len);
        if (k > 0)
            PUT(p, ",");
        put_piece(p, piece, len);
        PUT(p, ":");
        put_logprob(p, t->top[k].logprob);
    }
    if (!drawn) {
        if (t->n_top > 0)
            PUT(p, ",");
        put_piece(p, t->piece, t->piece_len);
        PUT(p, ":");
        put_logprob(p, t->logprob);
    }
    PUT(p, "}");
}

/* A character counts where its first byte is, so a piece that only continues one counts as none. */
static size_t characters(const char *s, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += (s[i] & 0xc0) != 0x80;
    return n;
}

static void put_completion_logprobs(struct pen *p, const struct api_logprobs *l)
{
    size_t offset = l->text_offset;

    PUT(p, "{\"tokens\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0)
            PUT(p, ",");
        put_piece(p, l->tokens[i].piece, l->tokens[i].piece_len);
    }
    PUT(p, "],\"token_logprobs\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0)
            PUT(p, ",");
        put_logprob(p, l->tokens[i].logprob);
    }
    PUT(p, "],\"top_logprobs\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0)
            PUT(p, ",");
        put_top_map(p, l, &l->tokens[i]);
    }
    PUT(p, "],\"text_offset\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0)
            PUT(p, ",");
        put_uint(p, offset);
        offset += characters(l->tokens[i].piece, l->tokens[i].piece_len);
    }
    PUT(p, "]}");
}

/* ---- the shared parts of a response ---- */
static void put_logprobs(struct pen *p, const struct api_head *head, const struct api_choice *c)
{
    PUT(p, ",\"logprobs\":");
    if (!c->has_logprobs || c->logprobs.tokens == NULL)
        PUT(p, "null");
    else if (head->kind == API_CHAT)
        put_chat_logprobs(p, &c->logprobs);
    else
        put_completion_logprobs(p, &c->logprobs);
}

static void put_ids(struct pen *p, const int32_t *ids, size_t n)
{
    PUT(p, "[");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            PUT(p, ",");
        put_int(p, ids[i]);
    }
    PUT(p, "]");
}

/* From finish_reason to the end of the choice. */
static void put_choice_end(struct pen *p, const struct api_choice *c)
{
    PUT(p, ",\"finish_reason\":");
    put_cstring(p, c->finish_reason);
    if (c->token_ids != NULL) {
        PUT(p, ",\"token_ids\":");
        put_ids(p, c->token_ids, c->n_token_ids);
    }
    PUT(p, "}");
}

static void put_usage(struct pen *p, const struct api_usage *u)
{
    PUT(p, "\"usage\":{\"prompt_tokens\":");
    put_uint(p, u->prompt_tokens);
    PUT(p, ",\"completion_tokens\":");
    put_uint(p, u->completion_tokens);
    PUT(p, ",\"total_tokens\":");
    put_uint(p, u->prompt_tokens + u->completion_tokens);
    PUT(p, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    put_uint(p, u->cached_tokens);
    PUT(p,
        ",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,"
        "\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}");
}

/* {"id":..., up to the opening bracket of choices. */
static void put_head(struct pen *p, const struct api_head *head, const char *object)
{
    PUT(p, "{\"id\":");
    put_cstring(p, head->id);
    PUT(p, ",\"object\":\"");
    put(p, object, strlen(object));
    PUT(p, "\",\"created\":");
    put_int(p, head->created);
    PUT(p, ",\"model\":");
    put_cstring(p, head->model);
    if (head->tier != NULL) {
        PUT(p, ",\"service_tier\":");
        put_cstring(p, head->tier);
    }
    PUT(p, ",\"system_fingerprint\":");
    put_cstring(p, head->fingerprint);
    PUT(p, ",\"choices\":[");
}

static const char *chunk_object(const struct api_head *head)
{
    return head->kind == API_CHAT ? "chat.completion.chunk" : "text_completion";
}

/* ---- streaming ---- */
static void put_delta(struct pen *p, const struct api_choice *c, bool first)
{
    PUT(p, ",\"delta\":{");
    if (first)
        PUT(p, "\"role\":\"assistant\",");
    if (first || c->text_len > 0 || c->finish_reason == NULL) {
        PUT(p, "\"content\":");
        put_string(p, c->text, c->text_len);
    }
    PUT(p, "}");
}

enum err api_render_chunk(struct buf *out, const struct api_head *head,
                          const struct api_choice *choice, bool first,
                          const struct api_usage *usage, bool usage_null)
{
    struct pen p = pen_on(out);

    PUT(&p, "data: ");
    put_head(&p, head, chunk_object(head));
    PUT(&p, "{\"index\":");
    put_uint(&p, choice->index);
    if (head->kind == API_CHAT) {
        put_delta(&p, choice, first);
    } else {
        PUT(&p, ",\"text\":");
        put_string(&p, choice->text, choice->text_len);
    }
    put_logprobs(&p, head, choice);
    put_choice_end(&p, choice);
    PUT(&p, "]");
    if (usage != NULL) {
        PUT(&p, ",");
        put_usage(&p, usage);
    } else if (usage_null) {
        PUT(&p, ",\"usage\":null");
    }
    PUT(&p, "}\n\n");
    return pen_end(&p);
}

enum err api_render_usage_chunk(struct buf *out, const struct api_head *head,
                                const struct api_usage *usage)
{
    struct pen p = pen_on(out);

    PUT(&p, "data: ");
    put_head(&p, head, chunk_object(head));
    PUT(&p, "],");
    put_usage(&p, usage);
    PUT(&p, "}\n\n");
    return pen_end(&p);
}

enum err api_render_done(struct buf *out)
{
    return buf_puts(out, "data: [DONE]\n\n");
}

static void put_error(struct pen *p, const struct api_error *e)
{
    PUT(p, "{\"error\":{\"message\":");
    put_cstring(p, e->message);
    PUT(p, ",\"type\":");
    put_cstring(p, e->type != NULL ? e->type : "server_error");
    PUT(p, ",\"param\":");
    put_cstring(p, e->param[0] != '\0' ? e->param : NULL);
    PUT(p, ",\"code\":");
    put_cstring(p, e->code);
    PUT(p, "}}");
}

enum err api_render_error_event(struct buf *out, const struct api_error *e)
{
    struct pen p = pen_on(out);

    PUT(&p, "data: ");
    put_error(&p, e);
    PUT(&p, "\n\n");
    return pen_end(&p);
}

enum err api_render_error(struct buf *out, const struct api_error *e)
{
    struct pen p = pen_on(out);

    put_error(&p, e);
    return pen_end(&p);
}

/* ---- whole responses ---- */
static void put_choice(struct pen *p, const struct api_head *head, const struct api_choice *c)
{
    PUT(p, "{\"index\":");
    put_uint(p, c->index);
    if (head->kind == API_CHAT) {
        PUT(p, ",\"message\":{\"role\":\"assistant\",\"content\":");
        put_string(p, c->text, c->text_len);
        PUT(p, ",\"refusal\":null}");
    } else {
        PUT(p, ",\"text\":");
        put_string(p, c->text, c->text_len);
    }
    put_logprobs(p, head, c);
    put_choice_end(p, c);
}

enum err api_render_response(struct buf *out, const struct api_head *head,
                             const struct api_choice *choices, size_t n,
                             const struct api_usage *usage)
{
    struct pen p = pen_on(out);

    put_head(&p, head, head->kind == API_CHAT ? "chat.completion" : "text_completion");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            PUT(&p, ",");
        put_choice(&p, head, &choices[i]);
    }
    PUT(&p, "]");
    if (usage != NULL) {
        PUT(&p, ",");
        put_usage(&p, usage);
    }
    PUT(&p, "}");
    return pen_end(&p);
}

/* ---- the small endpoints ---- */
static void put_model(struct pen *p, const struct api_model_card *m)
{
    PUT(p, "{\"id\":");
    put_cstring(p, m->id);
    PUT(p, ",\"object\":\"model\",\"created\":");
    put_int(p, m->created);
    PUT(p, ",\"owned_by\":\"baton\",\"root\":");
    put_cstring(p, m->id);
    PUT(p, ",\"parent\":null,\"max_model_len\":");
    put_uint(p, m->max_context);
    PUT(p, ",\"permission\":[],\"meta\":{\"n_ctx\":");
    put_uint(p, m->max_context);
    PUT(p, ",\"n_ctx_train\":");
    put_uint(p, m->max_context);
    PUT(p, ",\"n_vocab\":");
    put_uint(p, m->vocab);
    PUT(p, "}}");
}

enum err api_render_model(struct buf *out, const struct api_model_card *m)
{
    struct pen p = pen_on(out);

    put_model(&p, m);
    return pen_end(&p);
}

enum err api_render_models(struct buf *out, const struct api_model_card *m, size_t n)
{
    struct pen p = pen_on(out);

    PUT(&p, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            PUT(&p, ",");
        put_model(&p, &m[i]);
    }
    PUT(&p, "]}");
    return pen_end(&p);
}

static void put_pieces(struct pen *p, const int32_t *ids, size_t n, const struct api_logprobs *l)
{
    PUT(p, "[");
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *piece = piece_of(l, ids[i], &len);

        if (i > 0)
            PUT(p, ",");
        put_string(p, piece, len);
    }
    PUT(p, "]");
}

enum err api_render_tokens(struct buf *out, const int32_t *ids, size_t n, uint32_t max_context,
                           bool with_pieces, api_piece_fn piece, void *piece_arg)
{
    struct api_logprobs pieces = {.piece = piece, .piece_arg = piece_arg};
    struct pen p = pen_on(out);

    PUT(&p, "{\"tokens\":");
    put_ids(&p, ids, n);
    PUT(&p, ",\"count\":");
    put_uint(&p, n);
    PUT(&p, ",\"max_model_len\":");
    put_uint(&p, max_context);
    PUT(&p, ",\"token_strs\":");
    if (with_pieces)
        put_pieces(&p, ids, n, &pieces);
    else
        PUT(&p, "null");
    PUT(&p, "}");
    return pen_end(&p);
}

enum err api_render_text(struct buf *out, const char *text, size_t len)
{
    struct pen p = pen_on(out);

    PUT(&p, "{\"prompt\":");
    put_string(&p, text, len);
    PUT(&p, ",\"content\":");
    put_string(&p, text, len);
    PUT(&p, "}");
    return pen_end(&p);
}
