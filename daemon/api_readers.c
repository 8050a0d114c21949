/* daemon/api_readers.c - the readers of request fields that are more than one number or string. */
#include <stdio.h>
#include <string.h>

#include "daemon/api_read.h"

/* ---- token ids ---- */
static int64_t id_limit(const struct api_read *c)
{
    return c->limits->vocab > 0 ? (int64_t)c->limits->vocab : (int64_t)INT32_MAX + 1;
}

static bool id_in_range(struct api_read *c, const char *param, uint32_t node, int32_t *out)
{
    int64_t id;
    int64_t limit = id_limit(c);

    if (api_read_type(c, node) != API_JSON_INT && api_read_type(c, node) != API_JSON_REAL)
        return api_read_wrong_type(c, param, "an array of token ids", node);
    if (!api_read_whole(c, node, &id) || id < 0 || id >= limit)
        return api_read_bad(c, param, "invalid_value",
                            "'%s' has a token id outside the vocabulary of %lld tokens.", param,
                            (long long)limit);
    *out = (int32_t)id;
    return true;
}

bool api_read_ids(struct api_read *c, const char *param, uint32_t node, size_t max, int32_t **ids,
                  size_t *n)
{
    const struct api_node *array = &c->doc.nodes[node];
    int64_t limit = id_limit(c);

    if (array->type != API_JSON_ARRAY)
        return api_read_wrong_type(c, param, "an array of token ids", node);
    if (array->n > max)
        return api_read_bad(c, param, "invalid_value", "'%s' must have at most %zu token ids.",
                            param, max);
    *ids = api_read_alloc(c, array->n, sizeof(**ids));
    if (*ids == NULL)
        return false;
    *n = array->n;
    for (size_t k = 0; k < *n; k++) { /* one node each: what has more is no id, and ends this */
        const struct api_node *id = &array[1 + k];

        if (id->type == API_JSON_INT && id->i >= 0 && id->i < limit)
            (*ids)[k] = (int32_t)id->i;
        else if (!id_in_range(c, param, node + 1 + (uint32_t)k, &(*ids)[k]))
            return false;
    }
    return true;
}

bool api_read_stop_ids(struct api_read *c, const struct api_field *f, uint32_t node)
{
    int32_t *ids;
    size_t n;

    if (!api_read_ids(c, f->name, node, API_STOP_IDS_MAX, &ids, &n))
        return false;
    c->r->sampling.stop_ids = ids;
    c->r->sampling.n_stop_ids = (uint32_t)n;
    return true;
}

/* A decimal token id as an object key: no sign, no leading zero. */
static bool key_to_id(struct api_read *c, const char *param, uint32_t node, int32_t *out)
{
    size_t len;
    const char *s = api_json_string(&c->doc, node, &len);
    int64_t id = 0;
    bool ok = len >= 1 && len <= 10 && (len == 1 || s[0] != '0');

    for (size_t i = 0; ok && i < len; i++) {
        ok = s[i] >= '0' && s[i] <= '9';
        id = id * 10 + (s[i] - '0');
    }
    if (!ok || id > INT32_MAX || (c->limits->vocab > 0 && id >= (int64_t)c->limits->vocab))
        return api_read_bad(c, param, "invalid_value",
                            "'%s' has the key '%s', which is no token id.", param,
                            api_read_quote(c, node).text);
    *out = (int32_t)id;
    return true;
}

bool api_read_logit_bias(struct api_read *c, const struct api_field *f, uint32_t node)
{
    const struct api_node *object = &c->doc.nodes[node];
    struct engine_bias *bias;
    uint32_t n = 0;

    if (object->type != API_JSON_OBJECT)
        return api_read_wrong_type(c, f->name, "an object", node);
    if (object->n > ENGINE_BIAS_MAX)
        return api_read_bad(c, f->name, "invalid_value", "'%s' must have at most %d token ids.",
                            f->name, ENGINE_BIAS_MAX);
    bias = api_read_alloc(c, object->n, sizeof(*bias));
    if (bias == NULL)
        return false;
    for (uint32_t i = node + 1; n < object->n; i = api_json_next(&c->doc, i + 1), n++) {
        double value;

        if (!key_to_id(c, f->name, i, &bias[n].token))
            return false;
        if (api_json_double(&c->doc, i + 1, &value) != ERR_OK || value < -100 || value > 100)
            return api_read_bad(c, f->name, "invalid_value",
                                "'%s' must have numbers from -100 to 100 as values.", f->name);
        bias[n].bias = (float)value;
    }
    c->r->sampling.bias = bias;
    c->r->sampling.n_bias = n;
    return true;
}

/* ---- prompts ---- */
static bool one_input(struct api_read *c, const char *name)
{
    if (c->input != NULL)
        return api_read_bad(c, name, "invalid_value", "'%s' and '%s' cannot both be given.",
                            c->input, name);
    c->input = name;
    return true;
}

static bool prompt_text(struct api_read *c, const char *param, uint32_t node, struct api_prompt *p)
{
    p->text = api_read_text(c, param, node, &p->text_len);
    return p->text != NULL;
}

static bool prompt_ids(struct api_read *c, const char *param, uint32_t node, struct api_prompt *p)
{
    if (c->doc.nodes[node].n == 0)
        return api_read_bad(c, param, "invalid_value", "'%s' must not be empty.", param);
    return api_read_ids(c, param, node, SIZE_MAX, &p->ids, &p->n_ids);
}

/* An array of strings or of arrays of ids: all of one kind. */
static bool prompt_list(struct api_read *c, const char *param, uint32_t node)
{
    enum api_json_type kind = api_read_type(c, node + 1);
    uint32_t n = c->doc.nodes[node].n, i = node + 1;

    if (n > API_PROMPTS_MAX)
        return api_read_bad(c, param, "invalid_value", "'%s' must have at most %d prompts.", param,
                            API_PROMPTS_MAX);
    c->r->prompts = api_read_alloc(c, n, sizeof(*c->r->prompts));
    if (c->r->prompts == NULL)
        return false;
    memset(c->r->prompts, 0, n * sizeof(*c->r->prompts));
    for (uint32_t k = 0; k < n; k++, i = api_json_next(&c->doc, i)) {
        if (api_read_type(c, i) != kind)
            return api_read_wrong_type(
                c, param, kind == API_JSON_STRING ? "all strings" : "all arrays of token ids", i);
        if (kind == API_JSON_STRING ? !prompt_text(c, param, i, &c->r->prompts[k])
                                    : !prompt_ids(c, param, i, &c->r->prompts[k]))
            return false;
    }
    c->r->n_prompts = n;
    return true;
}

static bool single_prompt(struct api_read *c, const char *param, uint32_t node)
{
    struct api_prompt *p = api_read_alloc(c, 1, sizeof(*p));

    if (p == NULL)
        return false;
    *p = (struct api_prompt){0};
    c->r->prompts = p;
    c->r->n_prompts = 1;
    return api_read_type(c, node) == API_JSON_STRING ? prompt_text(c, param, node, p)
                                                     : prompt_ids(c, param, node, p);
}

bool api_read_prompt(struct api_read *c, const struct api_field *f, uint32_t node)
{
    enum api_json_type type = api_read_type(c, node), first;

    if (!one_input(c, f->name))
        return false;
    c->from_content = f->name[0] == 'c';
    if (type == API_JSON_STRING)
        return single_prompt(c, f->name, node);
    if (c->kind != API_COMPLETION)
        return api_read_wrong_type(c, f->name, "a string", node);
    if (type != API_JSON_ARRAY)
        return api_read_wrong_type(c, f->name, "a string or an array", node);
    if (c->doc.nodes[node].n == 0)
        return api_read_bad(c, f->name, "invalid_value", "'%s' must not be empty.", f->name);
    first = api_read_type(c, node + 1);
    if (first == API_JSON_STRING || first == API_JSON_ARRAY)
        return prompt_list(c, f->name, node);
    return single_prompt(c, f->name, node);
}

bool api_read_tokens(struct api_read *c, const struct api_field *f, uint32_t node)
{
    struct api_prompt *p = api_read_alloc(c, 1, sizeof(*p));

    if (p == NULL)
        return false;
    *p = (struct api_prompt){0};
    c->r->prompts = p;
    c->r->n_prompts = 1;
    return api_read_ids(c, f->name, node, SIZE_MAX, &p->ids, &p->n_ids);
}

/* ---- messages ---- */
struct message_path {
    char text[64];
};

static struct message_path path_of(uint32_t message, const char *field)
{
    struct message_path p;

    snprintf(p.text, sizeof(p.text), "messages[%u].%s", message, field);
    return p;
}

static struct message_path path_of_part(uint32_t message, uint32_t part, const char *field)
{
    struct message_path p;

    snprintf(p.text, sizeof(p.text), "messages[%u].content[%u].%s", message, part, field);
    return p;
}

static bool read_role(struct api_read *c, uint32_t message, uint32_t node, const char **role)
{
    /* Templates know system, not developer; in the API the second replaced the first. */
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"},
                                           {"tool", "tool"}};
    struct message_path path = path_of(message, "role");

    if (node == 0 || api_read_is_null(c, node))
        return api_read_bad(c, path.text, "missing_required_field", "'%s' is required.", path.text);
    if (api_read_type(c, node) != API_JSON_STRING)
        return api_read_wrong_type(c, path.text, "a string", node);
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (api_json_is(&c->doc, node, roles[i][0])) {
            *role = roles[i][1];
            return true;
        }
    }
    return api_read_bad(
        c, path.text, "invalid_value",
        "'%s' must be one of developer, system, user, assistant and tool, not '%s'.", path.text,
        api_read_quote(c, node).text);
}

static bool bad_part(struct api_read *c, uint32_t message, uint32_t part, const char *field,
                     const char *code, const char *what)
{
    struct message_path path = path_of_part(message, part, field);

    return api_read_bad(c, path.text, code, "'%s' %s.", path.text, what);
}

static bool other_part(struct api_read *c, uint32_t message, uint32_t part, uint32_t type)
{
    struct message_path path = path_of_part(message, part, "type");

    return api_read_bad(
        c, path.text, "unsupported_parameter",
        "Content parts of type '%s' are not supported by this server: only 'text' is.",
        api_read_quote(c, type).text);
}

/* The text node of one content part. */
static bool part_text(struct api_read *c, uint32_t message, uint32_t part, uint32_t node,
                      uint32_t *text)
{
    uint32_t type = api_json_get(&c->doc, node, "type");

    if (api_read_type(c, node) != API_JSON_OBJECT)
        return bad_part(c, message, part, "type", "invalid_type",
                        "is missing: a part is an object");
    if (type == 0 || api_read_type(c, type) != API_JSON_STRING)
        return bad_part(c, message, part, "type", "invalid_type", "must be a string");
    if (!api_json_is(&c->doc, type, "text"))
        return other_part(c, message, part, type);
    *text = api_json_get(&c->doc, node, "text");
    if (*text == 0 || api_read_type(c, *text) != API_JSON_STRING)
        return bad_part(c, message, part, "text", "invalid_type", "must be a string");
    if (c->doc.nodes[*text].has_nul)
        return bad_part(c, message, part, "text", "invalid_value",
                        "must not contain the character U+0000");
    return true;
}

static bool read_parts(struct api_read *c, uint32_t message, uint32_t node,
                       struct engine_chat_message *out)
{
    uint32_t n = c->doc.nodes[node].n, i = node + 1, text = 0;
    size_t total = 0, len;
    char *to;

    if (n == 0) {
        struct message_path path = path_of(message, "content");

        return api_read_bad(c, path.text, "invalid_value", "'%s' must not be empty.", path.text);
    }
    for (uint32_t k = 0; k < n; k++, i = api_json_next(&c->doc, i)) {
        if (!part_text(c, message, k, i, &text))
            return false;
        total += c->doc.nodes[text].n + 1;
    }
    to = api_read_alloc(c, total, 1);
    if (to == NULL)
        return false;
    out->content = to;
    out->content_len = total - 1;
    i = node + 1;
    for (uint32_t k = 0; k < n; k++, i = api_json_next(&c->doc, i)) {
        const char *bytes = api_json_string(&c->doc, api_json_get(&c->doc, i, "text"), &len);

        memcpy(to, bytes, len);
        to += len;
        *to++ = k + 1 < n ? '\n' : '\0';
    }
    return true;
}

static bool read_content(struct api_read *c, uint32_t message, uint32_t node,
                         struct engine_chat_message *out)
{
    struct message_path path = path_of(message, "content");

    if (node == 0 || api_read_is_null(c, node)) {
        if (strcmp(out->role, "assistant") != 0)
            return api_read_bad(c, path.text, "missing_required_field", "'%s' is required.",
                                path.text);
        out->content = "";
        out->content_len = 0;
        return true;
    }
    if (api_read_type(c, node) == API_JSON_ARRAY)
        return read_parts(c, message, node, out);
    if (api_read_type(c, node) != API_JSON_STRING)
        return api_read_wrong_type(c, path.text, "a string or an array of text parts", node);
    out->content = api_read_text(c, path.text, node, &out->content_len);
    return out->content != NULL;
}

/* Parts of a message that a template without tools would drop in silence. */
static bool read_unsupported(struct api_read *c, uint32_t message, uint32_t node)
{
    static const char *const names[] = {"tool_calls", "function_call", "audio"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        uint32_t value = api_json_get(&c->doc, node, names[i]);

        if (value != 0 && !api_read_is_null(c, value) &&
            !(api_read_type(c, value) == API_JSON_ARRAY && c->doc.nodes[value].n == 0)) {
            struct message_path path = path_of(message, names[i]);

            return api_read_bad(c, path.text, "unsupported_parameter",
                                "'%s' is not supported by this server.", path.text);
        }
    }
    return true;
}

bool api_read_messages(struct api_read *c, const struct api_field *f, uint32_t node)
{
    uint32_t n = c->doc.nodes[node].n, i = node + 1;
    struct engine_chat_message *messages;

    if (!one_input(c, f->name))
        return false;
    if (api_read_type(c, node) != API_JSON_ARRAY)
        return api_read_wrong_type(c, f->name, "an array", node);
    if (n == 0 || n > API_MESSAGES_MAX)
        return api_read_bad(c, f->name, "invalid_value", "'%s' must have 1 to %d messages.",
                            f->name, API_MESSAGES_MAX);
    messages = api_read_alloc(c, n, sizeof(*messages));
    if (messages == NULL)
        return false;
    for (uint32_t k = 0; k < n; k++, i = api_json_next(&c->doc, i)) {
        if (api_read_type(c, i) != API_JSON_OBJECT) {
            char path[32];

            snprintf(path, sizeof(path), "messages[%u]", k);
            return api_read_wrong_type(c, path, "an object", i);
        }
        if (!read_role(c, k, api_json_get(&c->doc, i, "role"), &messages[k].role) ||
            !read_content(c, k, api_json_get(&c->doc, i, "content"), &messages[k]) ||
            !read_unsupported(c, k, i))
            return false;
    }
    c->r->messages = messages;
    c->r->n_messages = n;
    return true;
}

/* ---- stop strings ---- */
static bool add_stop(struct api_read *c, const char *param, uint32_t node)
{
    struct api_request *r = c->r;
    size_t len = c->doc.nodes[node].n;

    if (api_read_type(c, node) != API_JSON_STRING)
        return api_read_wrong_type(c, param, "a string or an array of strings", node);
    if (len == 0 || len > API_STOP_BYTES_MAX)
        return api_read_bad(c, param, "invalid_value",
                            "'%s' must have strings of 1 to %d bytes, not of %zu.", param,
                            API_STOP_BYTES_MAX, len);
    r->stop[r->n_stop] = api_read_text(c, param, node, &r->stop_len[r->n_stop]);
    if (r->stop[r->n_stop] == NULL)
        return false;
    r->n_stop++;
    return true;
}

bool api_read_stop(struct api_read *c, const struct api_field *f, uint32_t node)
{
    uint32_t i = node + 1;

    if (api_read_type(c, node) != API_JSON_ARRAY)
        return add_stop(c, f->name, node);
    if (c->doc.nodes[node].n > API_STOP_MAX)
        return api_read_bad(c, f->name, "invalid_value", "'%s' must have at most %d strings.",
                            f->name, API_STOP_MAX);
    for (uint32_t k = 0; k < c->doc.nodes[node].n; k++, i = api_json_next(&c->doc, i)) {
        if (!add_stop(c, f->name, i))
            return false;
    }
    return true;
}

/* ---- the rest ---- */
static bool sub_bool(struct api_read *c, const char *object_name, uint32_t object, const char *name,
                     bool *out)
{
    uint32_t node = api_json_get(&c->doc, object, name);
    char path[64];

    if (node == 0 || api_read_is_null(c, node))
        return true;
    snprintf(path, sizeof(path), "%s.%s", object_name, name);
    if (api_read_type(c, node) != API_JSON_BOOL)
        return api_read_wrong_type(c, path, "a boolean", node);
    *out = c->doc.nodes[node].i != 0;
    return true;
}

bool api_read_stream_options(struct api_read *c, const struct api_field *f, uint32_t node)
{
    bool unused;

    if (api_read_type(c, node) != API_JSON_OBJECT)
        return api_read_wrong_type(c, f->name, "an object", node);
    return sub_bool(c, f->name, node, "include_usage", &c->r->include_usage) &&
           sub_bool(c, f->name, node, "continuous_usage_stats", &c->r->continuous_usage) &&
           sub_bool(c, f->name, node, "include_obfuscation", &unused);
}

static bool read_uint(struct api_read *c, const char *param, uint32_t node, int64_t min,
                      int64_t max, uint32_t *out)
{
    int64_t value;

    if (api_read_type(c, node) != API_JSON_INT && api_read_type(c, node) != API_JSON_REAL)
        return api_read_wrong_type(c, param, "an integer", node);
    if (!api_read_whole(c, node, &value) || value < min || value > max)
        return api_read_bad(c, param, "invalid_value",
                            "'%s' must be an integer between %lld and %lld.", param, (long long)min,
                            (long long)max);
    *out = (uint32_t)value;
    return true;
}

bool api_read_best_of(struct api_read *c, const struct api_field *f, uint32_t node)
{
    c->has_best_of = true;
    return read_uint(c, f->name, node, 1, API_N_MAX, &c->best_of);
}

bool api_read_max_completion_tokens(struct api_read *c, const struct api_field *f, uint32_t node)
{
    c->has_max_completion_tokens = true;
    return read_uint(c, f->name, node, 1, INT32_MAX, &c->max_completion_tokens);
}

static bool read_flag(struct api_read *c, const struct api_field *f, uint32_t node, bool *out,
                      bool *has)
{
    if (api_read_type(c, node) != API_JSON_BOOL)
        return api_read_wrong_type(c, f->name, "a boolean", node);
    *out = c->doc.nodes[node].i != 0;
    *has = true;
    return true;
}

bool api_read_generation_prompt(struct api_read *c, const struct api_field *f, uint32_t node)
{
    return read_flag(c, f, node, &c->r->add_generation_prompt, &c->has_generation_prompt);
}

bool api_read_add_special(struct api_read *c, const struct api_field *f, uint32_t node)
{
    return read_flag(c, f, node, &c->r->add_special, &c->has_add_special);
}

bool api_read_response_format(struct api_read *c, const struct api_field *f, uint32_t node)
{
    uint32_t type;

    if (api_read_type(c, node) != API_JSON_OBJECT)
        return api_read_wrong_type(c, f->name, "an object", node);
    type = api_json_get(&c->doc, node, "type");
    if (type == 0 || api_read_type(c, type) != API_JSON_STRING)
        return api_read_bad(c, "response_format.type", "invalid_type",
                            "'response_format.type' must be a string.");
    if (!api_json_is(&c->doc, type, "text"))
        return api_read_bad(c, f->name, "unsupported_parameter",
                            "'%s' of type '%s' is not supported by this server: only 'text' is.",
                            f->name, api_read_quote(c, type).text);
    return true;
}

bool api_read_tool_choice(struct api_read *c, const struct api_field *f, uint32_t node)
{
    if (api_json_is(&c->doc, node, "none") || api_json_is(&c->doc, node, "auto"))
        return true;
    return api_read_bad(c, f->name, "unsupported_parameter",
                        "'%s' other than 'none' and 'auto' is not supported by this server.",
                        f->name);
}

bool api_read_modalities(struct api_read *c, const struct api_field *f, uint32_t node)
{
    uint32_t i = node + 1;

    if (api_read_type(c, node) != API_JSON_ARRAY)
        return api_read_wrong_type(c, f->name, "an array", node);
    for (uint32_t k = 0; k < c->doc.nodes[node].n; k++, i = api_json_next(&c->doc, i)) {
        if (!api_json_is(&c->doc, i, "text"))
            return api_read_bad(c, f->name, "unsupported_parameter",
                                "'%s' other than [\"text\"] is not supported by this server.",
                                f->name);
    }
    return true;
}

bool api_read_template_kwargs(struct api_read *c, const struct api_field *f, uint32_t node)
{
    const struct api_node *object = &c->doc.nodes[node];

    if (object->type != API_JSON_OBJECT)
        return api_read_wrong_type(c, f->name, "an object", node);
    for (uint32_t i = node + 1; i < object->end; i = api_json_next(&c->doc, i + 1)) {
        if (!api_json_is(&c->doc, i, "enable_thinking"))
            return api_read_bad(c, f->name, "unsupported_parameter",
                                "'%s' with the key '%s' is not supported by this server.", f->name,
                                api_read_quote(c, i).text);
    }
    return true;
}
