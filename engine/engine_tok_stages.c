/* engine/engine_tok_stages.c - reading the pipelines of a tokenizer.json: normalizer, pre_tokenizer,
 * post_processor, decoder.  What is not known, and what is known but would give other ids than those
 * built here, is refused by name. */
#include "engine/engine_tok_impl.h"

#include <string.h>

#include "base/mem.h"

enum { DEPTH_MAX = 4 };

const char *tok_json_type(const json_t *j)
{
    return json_string_value(json_object_get(j, "type"));
}

static bool flag_or(const json_t *j, const char *name, bool missing)
{
    const json_t *v = json_object_get(j, name);

    return json_is_boolean(v) ? json_is_true(v) : missing;
}

static enum err unknown(struct err_msg *msg, const char *section, const json_t *j)
{
    const char *type = tok_json_type(j);

    if (type == NULL)
        return err_set(msg, ERR_INVALID, "tokenizer.json: a %s without a \"type\"", section);
    return err_set(msg, ERR_UNSUPPORTED, "tokenizer.json: %s \"%.60s\" is not supported", section,
                   type);
}

static enum err copy_str(const json_t *j, struct tok_str *out, struct err_msg *msg,
                         const char *what)
{
    if (!json_is_string(j))
        return err_set(msg, ERR_INVALID, "tokenizer.json: %s must be a string", what);
    out->len = json_string_length(j);
    out->s = mem_try_strndup(json_string_value(j), out->len);
    return out->s != NULL ? ERR_OK : ERR_NOMEM;
}

/* {"type": "Replace", "pattern": {"String": x}, "content": y} */
static enum err read_replace(const json_t *j, struct tok_norm *out, const char *section,
                             struct err_msg *msg)
{
    const json_t *from = json_object_get(json_object_get(j, "pattern"), "String");
    enum err err;

    if (from == NULL)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: %s \"Replace\" with a regular expression is not supported",
                       section);
    out->kind = TOK_NORM_REPLACE;
    err = copy_str(from, &out->from, msg, "the pattern of \"Replace\"");
    if (err == ERR_OK && out->from.len == 0)
        err = err_set(msg, ERR_INVALID, "tokenizer.json: \"Replace\" with an empty pattern");
    if (err == ERR_OK)
        err = copy_str(json_object_get(j, "content"), &out->to, msg, "the content of \"Replace\"");
    return err;
}

static enum err too_many(struct err_msg *msg, const char *section)
{
    return err_set(msg, ERR_LIMIT, "tokenizer.json: %s has more than %d steps or nests too deep",
                   section, TOK_STEPS_MAX);
}

static enum err read_norm(struct engine_tok *t, const json_t *j, int depth, struct err_msg *msg)
{
    const char *type = tok_json_type(j);
    struct tok_norm *norm;

    if (type != NULL && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "normalizers");
        enum err err = ERR_OK;

        for (size_t i = 0; i < json_array_size(list) && err == ERR_OK; i++)
            err = depth < DEPTH_MAX ? read_norm(t, json_array_get(list, i), depth + 1, msg)
                                    : too_many(msg, "normalizer");
        return err;
    }
    if (t->n_norms == TOK_STEPS_MAX)
        return too_many(msg, "normalizer");
    norm = &t->norms[t->n_norms];
    if (type != NULL && strcmp(type, "NFC") == 0) {
        norm->kind = TOK_NORM_NFC;
        t->n_norms++;
        return ERR_OK;
    }
    if (type != NULL && strcmp(type, "Prepend") == 0) {
        norm->kind = TOK_NORM_PREPEND;
        t->n_norms++;
        return copy_str(json_object_get(j, "prepend"), &norm->to, msg, "\"prepend\"");
    }
    if (type != NULL && strcmp(type, "Replace") == 0) {
        t->n_norms++;
        return read_replace(j, norm, "normalizer", msg);
    }
    return unknown(msg, "normalizer", j);
}

enum err tok_read_normalizer(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    return j == NULL || json_is_null(j) ? ERR_OK : read_norm(t, j, 0, msg);
}

static enum err add_stage(struct engine_tok *t, enum tok_stage_kind kind,
                          enum engine_tok_pattern pattern, struct err_msg *msg)
{
    if (t->n_stages == TOK_STEPS_MAX)
        return too_many(msg, "pre_tokenizer");
    t->stages[t->n_stages++] = (struct tok_stage){kind, pattern};
    return ERR_OK;
}

/* Steps that put a character before the text are built for the start of the pipeline only. */
static enum err must_be_first(const struct engine_tok *t, const char *what, struct err_msg *msg)
{
    if (t->n_stages == 0 && !t->byte_level && t->mark.len == 0)
        return ERR_OK;
    return err_set(msg, ERR_UNSUPPORTED,
                   "tokenizer.json: pre_tokenizer %s after another one is not supported", what);
}

static enum err read_byte_level(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    enum err err = ERR_OK;

    if (t->byte_level)
        return err_set(msg, ERR_UNSUPPORTED, "tokenizer.json: pre_tokenizer \"ByteLevel\" twice");
    if (flag_or(j, "add_prefix_space", true)) {
        err = must_be_first(t, "\"ByteLevel\" with \"add_prefix_space\"", msg);
        t->prefix_space = true;
    }
    t->byte_level = true;
    if (err == ERR_OK && flag_or(j, "use_regex", true))
        err = add_stage(t, TOK_STAGE_PATTERN, ENGINE_TOK_GPT2, msg);
    return err;
}

static enum err read_split(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    const char *regex = json_string_value(json_object_get(json_object_get(j, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(j, "behavior"));
    bool invert = flag_or(j, "invert", false);
    enum engine_tok_pattern pattern;

    if (regex == NULL)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: pre_tokenizer \"Split\" without a \"Regex\"");
    if (!engine_tok_pattern_known(regex, &pattern))
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: pre_tokenizer \"Split\" with the pattern %.200s, which is "
                       "none of GPT-2, Llama 3, Qwen2",
                       regex);
    /* The known patterns match every character, so keeping the matches only is the same. */
    if (behavior == NULL || !((strcmp(behavior, "Isolated") == 0 && !invert) ||
                              (strcmp(behavior, "Removed") == 0 && invert)))
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: pre_tokenizer \"Split\" with behavior \"%.40s\"%s",
                       behavior != NULL ? behavior : "", invert ? " inverted" : "");
    if (t->byte_level)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: pre_tokenizer \"Split\" after \"ByteLevel\"");
    return add_stage(t, TOK_STAGE_PATTERN, pattern, msg);
}

static enum err read_metaspace(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    const char *scheme = json_string_value(json_object_get(j, "prepend_scheme"));
    enum err err = must_be_first(t, "\"Metaspace\"", msg);

    if (err == ERR_OK)
        err = copy_str(json_object_get(j, "replacement"), &t->mark, msg, "\"replacement\"");
    if (err != ERR_OK)
        return err;
    if (strcmp(t->mark.s, "\xe2\x96\x81") != 0)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: pre_tokenizer \"Metaspace\" with another mark than U+2581");
    if (scheme == NULL)
        scheme = flag_or(j, "add_prefix_space", true) ? "always" : "never";
    if (strcmp(scheme, "always") == 0)
        t->prepend = TOK_PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        t->prepend = TOK_PREPEND_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: pre_tokenizer \"Metaspace\" with prepend_scheme \"%.40s\"",
                       scheme);
    return flag_or(j, "split", true) ? add_stage(t, TOK_STAGE_MARKS, ENGINE_TOK_GPT2, msg) : ERR_OK;
}

static enum err read_pre(struct engine_tok *t, const json_t *j, int depth, struct err_msg *msg)
{
    const char *type = tok_json_type(j);

    if (type == NULL)
        return unknown(msg, "pre_tokenizer", j);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "pretokenizers");
        enum err err = ERR_OK;

        for (size_t i = 0; i < json_array_size(list) && err == ERR_OK; i++)
            err = depth < DEPTH_MAX ? read_pre(t, json_array_get(list, i), depth + 1, msg)
                                    : too_many(msg, "pre_tokenizer");
        return err;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(t, j, msg);
    if (strcmp(type, "Split") == 0)
        return read_split(t, j, msg);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(t, j, msg);
    if (strcmp(type, "Digits") == 0 && !t->byte_level)
        return add_stage(
            t, flag_or(j, "individual_digits", false) ? TOK_STAGE_DIGITS : TOK_STAGE_DIGIT_RUNS,
            ENGINE_TOK_GPT2, msg);
    return unknown(msg, "pre_tokenizer", j);
}

enum err tok_read_pre_tokenizer(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    return j == NULL || json_is_null(j) ? ERR_OK : read_pre(t, j, 0, msg);
}

static enum err read_strip(struct engine_tok *t, const json_t *j, bool fused, struct err_msg *msg)
{
    const char *content = json_string_value(json_object_get(j, "content"));

    if (!fused || content == NULL || strcmp(content, " ") != 0 ||
        json_integer_value(json_object_get(j, "start")) != 1 ||
        json_integer_value(json_object_get(j, "stop")) != 0)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: decoder \"Strip\" other than one space at the start of the "
                       "whole text");
    t->dec_strip = true;
    return ERR_OK;
}

static enum err read_dec(struct engine_tok *t, const json_t *j, int depth, bool *fused,
                         struct err_msg *msg)
{
    const char *type = tok_json_type(j);

    if (type == NULL)
        return unknown(msg, "decoder", j);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "decoders");
        enum err err = ERR_OK;

        for (size_t i = 0; i < json_array_size(list) && err == ERR_OK; i++)
            err = depth < DEPTH_MAX ? read_dec(t, json_array_get(list, i), depth + 1, fused, msg)
                                    : too_many(msg, "decoder");
        return err;
    }
    if (strcmp(type, "Strip") == 0)
        return read_strip(t, j, *fused, msg);
    if (*fused)
        return err_set(msg, ERR_UNSUPPORTED,
                       "tokenizer.json: decoder \"%.60s\" after \"Fuse\" is not supported", type);
    if (strcmp(type, "Fuse") == 0) {
        *fused = true;
        return ERR_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        t->dec_bytes = true;
        return ERR_OK;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        t->dec_byte_fallback = true;
        return ERR_OK;
    }
    if (t->n_dec_replace == TOK_STEPS_MAX)
        return too_many(msg, "decoder");
    if (strcmp(type, "Replace") == 0)
        return read_replace(j, &t->dec_replace[t->n_dec_replace++], "decoder", msg);
    if (strcmp(type, "Metaspace") == 0) {
        struct tok_norm *r = &t->dec_replace[t->n_dec_replace++];
        const char *scheme = json_string_value(json_object_get(j, "prepend_scheme"));
        enum err err =
            copy_str(json_object_get(j, "replacement"), &r->from, msg, "\"replacement\"");

        if (err == ERR_OK && r->from.len == 0)
            err = err_set(msg, ERR_INVALID, "tokenizer.json: decoder with an empty replacement");
        if (err != ERR_OK)
            return err;
        r->kind = TOK_NORM_REPLACE;
        r->to.s = mem_try_strdup(" ");
        r->to.len = 1;
        t->dec_strip =
            scheme != NULL ? strcmp(scheme, "never") != 0 : flag_or(j, "add_prefix_space", true);
        return r->to.s != NULL ? ERR_OK : ERR_NOMEM;
    }
    return unknown(msg, "decoder", j);
}

enum err tok_read_decoder(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    bool fused = false;
    enum err err;

    if (j == NULL || json_is_null(j)) {
        t->dec_bytes = t->byte_level;
        return ERR_OK;
    }
    err = read_dec(t, j, 0, &fused, msg);
    if (err == ERR_OK && t->dec_bytes != t->byte_level)
        err = err_set(msg, ERR_UNSUPPORTED,
                      "tokenizer.json: the decoder and the pre_tokenizer do not agree on "
                      "\"ByteLevel\"");
    return err;
}

/* The ids of one special token of a TemplateProcessing. */
static enum err read_template_ids(struct engine_tok *t, const json_t *j, const char *name,
                                  struct err_msg *msg)
{
    const json_t *entry = json_object_get(json_object_get(j, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids");

    if (json_array_size(ids) == 0)
        return err_set(msg, ERR_INVALID,
                       "tokenizer.json: post_processor uses \"%.60s\" without giving its ids",
                       name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));

        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= (json_int_t)t->n_tokens)
            return err_set(msg, ERR_INVALID,
                           "tokenizer.json: post_processor: \"%.60s\" has an id outside the "
                           "vocabulary",
                           name);
        if (t->n_prefix == TOK_STEPS_MAX)
            return too_many(msg, "post_processor");
        t->prefix_ids[t->n_prefix++] = (int32_t)id;
    }
    return ERR_OK;
}

static enum err read_template(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    const json_t *list = json_object_get(j, "single");
    bool text_seen = false;

    if (!json_is_array(list))
        return err_set(msg, ERR_INVALID,
                       "tokenizer.json: post_processor without a \"single\" list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i),
                     *special = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        enum err err;

        if (json_object_get(item, "Sequence") != NULL) {
            if (text_seen)
                return err_set(msg, ERR_UNSUPPORTED,
                               "tokenizer.json: post_processor with the text twice");
            text_seen = true;
            continue;
        }
        if (name == NULL)
            return err_set(msg, ERR_INVALID, "tokenizer.json: post_processor: a malformed item");
        if (text_seen)
            return err_set(msg, ERR_UNSUPPORTED,
                           "tokenizer.json: post_processor puts \"%.60s\" after the text; only a "
                           "token before it is supported",
                           name);
        err = read_template_ids(t, j, name, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err read_post(struct engine_tok *t, const json_t *j, int depth, struct err_msg *msg)
{
    const char *type = tok_json_type(j);

    if (type == NULL)
        return unknown(msg, "post_processor", j);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "processors");
        enum err err = ERR_OK;

        for (size_t i = 0; i < json_array_size(list) && err == ERR_OK; i++)
            err = depth < DEPTH_MAX ? read_post(t, json_array_get(list, i), depth + 1, msg)
                                    : too_many(msg, "post_processor");
        return err;
    }
    if (strcmp(type, "ByteLevel") == 0) /* moves offsets only */
        return ERR_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, j, msg);
    return unknown(msg, "post_processor", j);
}

enum err tok_read_post_processor(struct engine_tok *t, const json_t *j, struct err_msg *msg)
{
    return j == NULL || json_is_null(j) ? ERR_OK : read_post(t, j, 0, msg);
}
