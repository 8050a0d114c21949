/* daemon/api_request.c - see the header for the contract: read the body against the table, then settle
 * what needs more than one field.
 *
 * All that a request points to lies in its arena: a chain of blocks, freed at once.  So a reader that
 * fails half way has nothing to undo. */
#include "daemon/api_request.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/api_read.h"

/* ---- errors ---- */
static void error_fill(struct api_error *e, int status, const char *type, const char *param,
                       const char *code, const char *format, va_list args)
    __attribute__((format(printf, 6, 0)));

static void error_fill(struct api_error *e, int status, const char *type, const char *param,
                       const char *code, const char *format, va_list args)
{
    e->status = status;
    e->type = type;
    e->code = code;
    snprintf(e->param, sizeof(e->param), "%s", param != NULL ? param : "");
    vsnprintf(e->message, sizeof(e->message), format, args);
}

void api_error_set(struct api_error *e, int status, const char *type, const char *param,
                   const char *code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    error_fill(e, status, type, param, code, format, args);
    va_end(args);
}

void api_error_context(enum api_kind kind, uint64_t context_max, uint64_t prompt,
                       uint64_t completion, struct api_error *e)
{
    const char *what = kind == API_CHAT ? "messages" : "prompt";

    api_error_set(e, 400, "invalid_request_error", what, "context_length_exceeded",
                  "This model's maximum context length is %llu tokens. However, you requested %llu "
                  "tokens (%llu in the %s, %llu in the completion). Please reduce the length of "
                  "the %s or completion.",
                  (unsigned long long)context_max, (unsigned long long)(prompt + completion),
                  (unsigned long long)prompt, what, (unsigned long long)completion, what);
}

bool api_read_bad(struct api_read *c, const char *param, const char *code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    error_fill(c->error, 400, "invalid_request_error", param, code, format, args);
    va_end(args);
    return false;
}

bool api_read_nomem(struct api_read *c)
{
    api_error_set(c->error, 503, "overloaded_error", NULL, "server_is_overloaded",
                  "The server is out of memory. Please try again later.");
    return false;
}

static const char *type_name(enum api_json_type type)
{
    switch (type) {
    case API_JSON_NULL:
        return "null";
    case API_JSON_BOOL:
        return "a boolean";
    case API_JSON_INT:
        return "an integer";
    case API_JSON_REAL:
        return "a number";
    case API_JSON_STRING:
        return "a string";
    case API_JSON_ARRAY:
        return "an array";
    case API_JSON_OBJECT:
        return "an object";
    }
    return "unknown";
}

bool api_read_wrong_type(struct api_read *c, const char *param, const char *what, uint32_t node)
{
    return api_read_bad(c, param, "invalid_type", "'%s' must be %s, not %s.", param, what,
                        type_name(api_read_type(c, node)));
}

/* ---- what the readers share ---- */
struct block {
    struct block *next;
    size_t used, size;
    _Alignas(16) char bytes[];
};

enum { BLOCK_MIN = 1024 };

void *api_read_alloc(struct api_read *c, size_t count, size_t size)
{
    struct block *b = c->r->arena;
    size_t want, total;

    if (!mem_mul(count, size, &want) || !mem_add(want, 15, &want)) {
        api_read_nomem(c);
        return NULL;
    }
    want &= ~(size_t)15;
    if (b == NULL || b->size - b->used < want) {
        size_t room = want > BLOCK_MIN ? want : BLOCK_MIN;

        b = mem_add(room, sizeof(*b), &total) ? mem_try_alloc(total) : NULL;
        if (b == NULL) {
            api_read_nomem(c);
            return NULL;
        }
        *b = (struct block){.next = c->r->arena, .size = room};
        c->r->arena = b;
    }
    b->used += want;
    return b->bytes + b->used - want;
}

enum api_json_type api_read_type(const struct api_read *c, uint32_t node)
{
    return (enum api_json_type)c->doc.nodes[node].type;
}

bool api_read_is_null(const struct api_read *c, uint32_t node)
{
    return api_read_type(c, node) == API_JSON_NULL;
}

char *api_read_text(struct api_read *c, const char *param, uint32_t node, size_t *len)
{
    const char *bytes = api_json_string(&c->doc, node, len);
    char *copy;

    if (c->doc.nodes[node].has_nul) {
        api_read_bad(c, param, "invalid_value", "'%s' must not contain the character U+0000.",
                     param);
        return NULL;
    }
    copy = api_read_alloc(c, *len + 1, 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, bytes, *len);
    copy[*len] = '\0';
    return copy;
}

struct api_quote api_read_quote(const struct api_read *c, uint32_t node)
{
    struct api_quote q = {""};
    size_t len;
    const char *s = api_json_string(&c->doc, node, &len);
    size_t n = len < 40 ? len : 40;

    for (size_t i = 0; i < n; i++)
        q.text[i] = (char)(s[i] >= 0x20 && s[i] < 0x7f ? s[i] : '?');
    snprintf(q.text + n, sizeof(q.text) - n, "%s", len > n ? "..." : "");
    return q;
}

bool api_read_whole(const struct api_read *c, uint32_t node, int64_t *out)
{
    double value;

    if (api_read_type(c, node) == API_JSON_INT) {
        *out = c->doc.nodes[node].i;
        return true;
    }
    if (api_json_double(&c->doc, node, &value) != ERR_OK || fabs(value) > 9007199254740992.0 ||
        value != floor(value))
        return false;
    *out = (int64_t)value;
    return true;
}

/* ---- one field ---- */
static bool read_bool(struct api_read *c, const struct api_field *f, uint32_t node)
{
    if (api_read_type(c, node) != API_JSON_BOOL)
        return api_read_wrong_type(c, f->name, "a boolean", node);
    *(bool *)((char *)c->r + f->offset) = c->doc.nodes[node].i != 0;
    return true;
}

static bool out_of_range(struct api_read *c, const struct api_field *f)
{
    if (f->type == API_FIELD_FLOAT)
        return api_read_bad(c, f->name, "invalid_value", "'%s' must be %s %g and at most %g.",
                            f->name, f->above_min ? "above" : "at least", f->min, f->max);
    return api_read_bad(c, f->name, "invalid_value", "'%s' must be between %.0f and %.0f.", f->name,
                        f->min, f->max);
}

static bool read_integer(struct api_read *c, const struct api_field *f, uint32_t node)
{
    char *at = (char *)c->r + f->offset;
    int64_t value;

    if (api_read_type(c, node) != API_JSON_INT && api_read_type(c, node) != API_JSON_REAL)
        return api_read_wrong_type(c, f->name, "an integer", node);
    if (!api_read_whole(c, node, &value)) {
        double d;

        /* A whole number beyond int64 or double is out of range; anything else is no integer. */
        if (c->doc.nodes[node].too_big || api_json_double(&c->doc, node, &d) != ERR_OK ||
            fabs(d) > 9007199254740992.0)
            return out_of_range(c, f);
        return api_read_wrong_type(c, f->name, "an integer", node);
    }
    if (f->type == API_FIELD_INT64) {
        *(uint64_t *)at = (uint64_t)value;
        return true;
    }
    if (value < (int64_t)f->min || value > (int64_t)f->max)
        return out_of_range(c, f);
    if (f->type == API_FIELD_UINT)
        *(uint32_t *)at = (uint32_t)value;
    else
        *(int32_t *)at = (int32_t)value;
    return true;
}

static bool read_float(struct api_read *c, const struct api_field *f, uint32_t node)
{
    double value;
    float stored;

    if (api_read_type(c, node) != API_JSON_INT && api_read_type(c, node) != API_JSON_REAL)
        return api_read_wrong_type(c, f->name, "a number", node);
    if (api_json_double(&c->doc, node, &value) != ERR_OK || value < f->min || value > f->max ||
        (f->above_min && value == f->min))
        return out_of_range(c, f);
    stored = (float)value;
    if (f->above_min && stored <= (float)f->min)
        stored = FLT_MIN; /* above the bound as a double, lost in a float */
    *(float *)((char *)c->r + f->offset) = stored;
    return true;
}

static bool read_string(struct api_read *c, const struct api_field *f, uint32_t node)
{
    char *at = (char *)c->r + f->offset;
    const char *bytes;
    size_t len;

    if (api_read_type(c, node) != API_JSON_STRING)
        return api_read_wrong_type(c, f->name, "a string", node);
    bytes = api_json_string(&c->doc, node, &len);
    if (c->doc.nodes[node].has_nul)
        return api_read_bad(c, f->name, "invalid_value",
                            "'%s' must not contain the character U+0000.", f->name);
    if (len > (size_t)f->max)
        return api_read_bad(c, f->name, "invalid_value", "'%s' must be at most %.0f bytes long.",
                            f->name, f->max);
    memcpy(at, bytes, len);
    at[len] = '\0';
    return true;
}

/* Refused fields: values that ask for nothing are fine. */
static bool read_refused(struct api_read *c, const struct api_field *f, uint32_t node)
{
    const struct api_node *v = &c->doc.nodes[node];

    if ((v->type == API_JSON_BOOL && v->i == 0) ||
        ((v->type == API_JSON_STRING || v->type == API_JSON_ARRAY || v->type == API_JSON_OBJECT) &&
         v->n == 0))
        return true;
    return api_read_bad(c, f->name, "unsupported_parameter",
                        "'%s' is not supported by this server.", f->name);
}

static bool read_field(struct api_read *c, const struct api_field *f, uint32_t node)
{
    if (f->offset_has != 0)
        *(bool *)((char *)c->r + f->offset_has) = true;
    switch (f->type) {
    case API_FIELD_BOOL:
        return read_bool(c, f, node);
    case API_FIELD_UINT:
    case API_FIELD_INT:
    case API_FIELD_INT64:
        return read_integer(c, f, node);
    case API_FIELD_FLOAT:
        return read_float(c, f, node);
    case API_FIELD_STRING:
        return read_string(c, f, node);
    case API_FIELD_SPECIAL:
        return f->read(c, f, node);
    case API_FIELD_IGNORED:
        return true;
    case API_FIELD_REFUSED:
        return read_refused(c, f, node);
    }
    return false;
}

static unsigned kind_bit(enum api_kind kind)
{
    switch (kind) {
    case API_CHAT:
        return API_FOR_CHAT;
    case API_COMPLETION:
        return API_FOR_COMPLETION;
    case API_TOKENIZE:
        return API_FOR_TOKENIZE;
    case API_DETOKENIZE:
        return API_FOR_DETOKENIZE;
    }
    return 0;
}

static bool read_fields(struct api_read *c)
{
    size_t n_fields;
    const struct api_field *fields = api_fields(&n_fields);
    unsigned kind = kind_bit(c->kind);

    for (uint32_t i = 1; i < c->doc.nodes[0].end; i = api_json_next(&c->doc, i + 1)) {
        size_t len;
        const char *key = api_json_string(&c->doc, i, &len);

        for (size_t k = 0; k < n_fields && len > 0; k++) {
            const struct api_field *f = &fields[k];

            if (f->name[0] != key[0] || (f->kinds & kind) == 0 || strlen(f->name) != len ||
                memcmp(f->name, key, len) != 0)
                continue;
            if (api_read_is_null(c, i + 1))
                break;
            c->seen[k] = true;
            if (!read_field(c, f, i + 1))
                return false;
            break;
        }
    }
    return true;
}

/* ---- what needs more than one field ---- */
static void set_defaults(struct api_request *r, const struct api_limits *l)
{
    r->n = 1;
    r->skip_special_tokens = true;
    r->add_generation_prompt = true;
    r->sampling.temperature = l->has_temperature ? l->temperature : 1.0f;
    r->sampling.top_p = l->has_top_p ? l->top_p : 1.0f;
    r->sampling.top_k = l->has_top_k ? l->top_k : 0;
    r->sampling.repetition_penalty = l->has_repetition_penalty ? l->repetition_penalty : 1.0f;
}

static bool missing(struct api_read *c, const char *param)
{
    return api_read_bad(c, param, "missing_required_field", "'%s' is required.", param);
}

static bool settle_lengths(struct api_read *c)
{
    struct api_request *r = c->r;

    if (c->has_max_completion_tokens) {
        r->has_max_tokens = true;
        r->max_tokens = c->max_completion_tokens;
    }
    if (!r->has_max_tokens && c->kind == API_COMPLETION) {
        r->has_max_tokens = r->default_max_tokens = true;
        r->max_tokens = c->limits->max_new_default > 0 ? c->limits->max_new_default : 16;
    }
    if (r->has_max_tokens && r->min_tokens > r->max_tokens)
        return api_read_bad(c, "min_tokens", "invalid_value",
                            "'min_tokens' must not be above 'max_tokens', which is %u.",
                            r->max_tokens);
    return true;
}

static bool settle_choices(struct api_read *c)
{
    struct api_request *r = c->r;
    uint32_t n_max = c->limits->n_max > 0 && c->limits->n_max < API_N_MAX ? c->limits->n_max
                                                                          : (uint32_t)API_N_MAX;

    if (r->n > n_max)
        return api_read_bad(c, "n", "invalid_value", "'n' must be between 1 and %u.", n_max);
    if (c->has_best_of && c->best_of != r->n)
        return api_read_bad(c, "best_of", "unsupported_parameter",
                            "'best_of' is supported only with the value of 'n', which is %u.",
                            r->n);
    if (c->kind == API_COMPLETION && r->n_prompts * r->n > API_CHOICES_MAX)
        return api_read_bad(c, "n", "invalid_value",
                            "The number of prompts times 'n' must be at most %d.", API_CHOICES_MAX);
    return true;
}

static bool settle_logprobs(struct api_read *c)
{
    struct api_request *r = c->r;

    if (c->kind == API_CHAT && r->top_logprobs > 0 && !r->logprobs)
        return api_read_bad(c, "top_logprobs", "invalid_value",
                            "'top_logprobs' needs 'logprobs' to be true.");
    if (r->logprobs && r->echo)
        return api_read_bad(c, "logprobs", "unsupported_parameter",
                            "'logprobs' together with 'echo' is not supported by this server.");
    r->sampling.want_logprobs = r->logprobs;
    r->sampling.n_top = r->top_logprobs;
    return true;
}

static bool settle_generation(struct api_read *c)
{
    struct api_request *r = c->r;

    if (!settle_lengths(c) || !settle_choices(c) || !settle_logprobs(c))
        return false;
    if (!r->stream)
        r->include_usage = r->continuous_usage = false;
    r->sampling.min_tokens = r->min_tokens;
    return true;
}

static bool settle_turns(struct api_read *c)
{
    struct api_request *r = c->r;

    if (r->continue_final_message && c->has_generation_prompt && r->add_generation_prompt)
        return api_read_bad(c, "continue_final_message", "invalid_value",
                            "'continue_final_message' and 'add_generation_prompt' cannot both be "
                            "true.");
    if (r->continue_final_message)
        r->add_generation_prompt = false;
    return true;
}

static bool settle(struct api_read *c)
{
    struct api_request *r = c->r;

    switch (c->kind) {
    case API_CHAT:
        if (r->model[0] == '\0')
            return missing(c, "model");
        if (r->n_messages == 0)
            return missing(c, "messages");
        return settle_turns(c) && settle_generation(c);
    case API_COMPLETION:
        if (r->model[0] == '\0')
            return missing(c, "model");
        if (r->n_prompts == 0)
            return missing(c, "prompt");
        return settle_generation(c);
    case API_TOKENIZE:
        if (r->n_prompts == 0 && r->n_messages == 0)
            return missing(c, "prompt");
        if (!c->has_add_special)
            r->add_special = r->n_prompts > 0 && !c->from_content;
        return settle_turns(c);
    case API_DETOKENIZE:
        return r->n_prompts > 0 || missing(c, "tokens");
    }
    return false;
}

static bool read_body(struct api_read *c)
{
    if (api_read_type(c, 0) != API_JSON_OBJECT)
        return api_read_bad(c, NULL, "invalid_type", "The body must be a JSON object, not %s.",
                            type_name(api_read_type(c, 0)));
    return read_fields(c) && settle(c);
}

static bool bad_json(struct api_read *c, const struct api_json_error *e)
{
    switch (e->fault) {
    case API_JSON_DUPLICATE_KEY:
        return api_read_bad(c, NULL, "duplicate_key", "The body is ambiguous: %s (at byte %zu).",
                            e->why, e->at);
    case API_JSON_TOO_COMPLEX:
        return api_read_bad(c, NULL, "json_too_complex",
                            "The body is beyond the limits for JSON: %s (at byte %zu).", e->why,
                            e->at);
    case API_JSON_MALFORMED:
        break;
    }
    return api_read_bad(c, NULL, "invalid_json", "The body is not valid JSON: %s (at byte %zu).",
                        e->why, e->at);
}

bool api_request_parse(enum api_kind kind, const char *body, size_t len,
                       const struct api_limits *limits, struct api_request **out,
                       struct api_error *error)
{
    static const struct api_limits no_limits;
    struct api_read c = {.kind = kind, .limits = limits != NULL ? limits : &no_limits};
    struct api_json_error json_error;
    enum err err;
    bool ok;

    c.error = error;
    memset(error, 0, sizeof(*error));
    err = api_json_parse(body, len, &c.doc, &json_error);
    if (err == ERR_NOMEM)
        return api_read_nomem(&c);
    if (err != ERR_OK)
        return bad_json(&c, &json_error);
    c.r = mem_try_calloc(1, sizeof(*c.r));
    if (c.r == NULL) {
        api_json_free(&c.doc);
        return api_read_nomem(&c);
    }
    c.r->kind = kind;
    set_defaults(c.r, c.limits);
    ok = read_body(&c);
    api_json_free(&c.doc);
    if (!ok) {
        api_request_free(c.r);
        return false;
    }
    *out = c.r;
    return true;
}

void api_request_free(struct api_request *r)
{
    struct block *b, *next;

    if (r == NULL)
        return;
    for (b = r->arena; b != NULL; b = next) {
        next = b->next;
        mem_free(b);
    }
    mem_free(r);
}
