/* engine/engine_model_config.c - config.json and generation_config.json: what is read, what is
 * refused.
 *
 * A feature that would change the result and is not built is refused by name: a model that runs with
 * a part left out gives fluent nonsense, which is worse than an error. */
#include "engine/engine_model_internal.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum {
    HIDDEN_MAX = 1 << 17,
    LAYERS_MAX = 1024,
    HEADS_MAX = 1024,
    HEAD_DIM_MAX = 1024,
    FFN_MAX = 1 << 20,
    VOCAB_MAX = 1 << 22,
    POSITIONS_MAX = 1 << 24
};

static const char file_name[] = "config.json";
static const char generation_name[] = "generation_config.json";

static bool present(const json_t *v)
{
    return v != NULL && !json_is_null(v);
}

/* An absent or null key leaves *out as it was. */
static enum err get_u32(const json_t *o, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                        struct err_msg *msg)
{
    const json_t *v = json_object_get(o, key);

    if (!present(v))
        return ERR_OK;
    if (!json_is_integer(v) || json_integer_value(v) < (json_int_t)min ||
        json_integer_value(v) > (json_int_t)max)
        return err_set(msg, ERR_INVALID, "%s: %s must be an integer from %u to %u", file_name, key,
                       min, max);
    *out = (uint32_t)json_integer_value(v);
    return ERR_OK;
}

static enum err get_double(const json_t *o, const char *file, const char *key, double min,
                           double max, double *out, bool *given, struct err_msg *msg)
{
    const json_t *v = json_object_get(o, key);
    double d;

    if (given != NULL)
        *given = false;
    if (!present(v))
        return ERR_OK;
    d = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(d >= min && d <= max))
        return err_set(msg, ERR_INVALID, "%s: %s must be a number from %g to %g", file, key, min,
                       max);
    *out = d;
    if (given != NULL)
        *given = true;
    return ERR_OK;
}

static enum err get_bool(const json_t *o, const char *key, bool *out, struct err_msg *msg)
{
    const json_t *v = json_object_get(o, key);

    if (!present(v))
        return ERR_OK;
    if (!json_is_boolean(v))
        return err_set(msg, ERR_INVALID, "%s: %s must be true or false", file_name, key);
    *out = json_is_true(v);
    return ERR_OK;
}

static enum err require_u32(const json_t *o, const char *key, uint32_t max, uint32_t *out,
                            struct err_msg *msg)
{
    if (!present(json_object_get(o, key)))
        return err_set(msg, ERR_INVALID, "%s: %s is missing", file_name, key);
    return get_u32(o, key, 1, max, out, msg);
}

/* ---- architecture ---- */

static enum err read_architecture(const json_t *o, struct engine_model_config *c,
                                  struct err_msg *msg)
{
    static const char *const known[] = {"LlamaForCausalLM", "MistralForCausalLM",
                                        "Qwen2ForCausalLM"};
    const char *name = json_string_value(json_array_get(json_object_get(o, "architectures"), 0));

    if (name == NULL)
        return err_set(msg, ERR_INVALID, "%s: architectures must be a list that names the model",
                       file_name);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(name, known[i]) == 0) {
            memcpy(c->architecture, name, strlen(name) + 1);
            return ERR_OK;
        }
    }
    return err_set(msg, ERR_UNSUPPORTED,
                   "%s: architecture '%.80s' is not supported; supported are LlamaForCausalLM, "
                   "MistralForCausalLM and Qwen2ForCausalLM",
                   file_name, name);
}

static enum err refuse_quantization(const json_t *o, struct err_msg *msg)
{
    const json_t *q = json_object_get(o, "quantization_config");
    const char *method;

    if (!present(q))
        return ERR_OK;
    method = json_string_value(json_object_get(q, "quant_method"));
    return err_set(msg, ERR_UNSUPPORTED,
                   "%s: quantization_config (%.40s) is not supported; use the F32, F16 or BF16 "
                   "release of the model",
                   file_name, method != NULL ? method : "no quant_method");
}

/* A window at least as long as the context masks nothing, so only a shorter one is refused. */
static enum err refuse_sliding_window(const json_t *o, const struct engine_model_config *c,
                                      struct err_msg *msg)
{
    const json_t *types = json_object_get(o, "layer_types");
    const json_t *window = json_object_get(o, "sliding_window");
    bool used = true;
    size_t i;
    json_t *t;
    enum err err;

    json_array_foreach(types, i, t)
    {
        const char *name = json_string_value(t);

        if (name == NULL || strcmp(name, "full_attention") != 0)
            return err_set(msg, ERR_UNSUPPORTED,
                           "%s: layer_types names '%.40s'; only full_attention is supported",
                           file_name, name != NULL ? name : "(not a string)");
    }
    if (strcmp(c->architecture, "Qwen2ForCausalLM") == 0)
        used = false; /* its configuration class turns the window off unless told otherwise */
    err = get_bool(o, "use_sliding_window", &used, msg);
    if (err != ERR_OK || !used || !present(window) ||
        strcmp(c->architecture, "LlamaForCausalLM") == 0)
        return err;
    if (!json_is_integer(window) || json_integer_value(window) < (json_int_t)c->max_positions)
        return err_set(msg, ERR_UNSUPPORTED,
                       "%s: sliding_window is shorter than max_position_embeddings (%u); sliding "
                       "window attention is not supported",
                       file_name, c->max_positions);
    return ERR_OK;
}

/* ---- dimensions ---- */

static enum err read_head_dim(const json_t *o, struct engine_model_config *c, struct err_msg *msg)
{
    enum err err;

    c->n_kv_heads = c->n_heads;
    c->head_dim = 0;
    if ((err = get_u32(o, "num_key_value_heads", 1, HEADS_MAX, &c->n_kv_heads, msg)) != ERR_OK ||
        (err = get_u32(o, "head_dim", 1, HEAD_DIM_MAX, &c->head_dim, msg)) != ERR_OK)
        return err;
    if (c->n_heads % c->n_kv_heads != 0)
        return err_set(msg, ERR_INVALID,
                       "%s: num_attention_heads (%u) is not a multiple of num_key_value_heads (%u)",
                       file_name, c->n_heads, c->n_kv_heads);
    if (c->head_dim == 0) {
        if (c->hidden % c->n_heads != 0 || c->hidden / c->n_heads > HEAD_DIM_MAX)
            return err_set(msg, ERR_INVALID,
                           "%s: hidden_size (%u) over num_attention_heads (%u) gives no usable "
                           "head_dim",
                           file_name, c->hidden, c->n_heads);
        c->head_dim = c->hidden / c->n_heads;
    }
    if (c->head_dim % 2 != 0)
        return err_set(msg, ERR_INVALID, "%s: head_dim %u is odd; rotary embedding needs pairs",
                       file_name, c->head_dim);
    return ERR_OK;
}

static enum err read_dimensions(const json_t *o, struct engine_model_config *c, struct err_msg *msg)
{
    double eps = 1e-6;
    enum err err;

    c->max_positions = 2048;
    if ((err = require_u32(o, "hidden_size", HIDDEN_MAX, &c->hidden, msg)) != ERR_OK ||
        (err = require_u32(o, "num_hidden_layers", LAYERS_MAX, &c->n_layers, msg)) != ERR_OK ||
        (err = require_u32(o, "num_attention_heads", HEADS_MAX, &c->n_heads, msg)) != ERR_OK ||
        (err = require_u32(o, "intermediate_size", FFN_MAX, &c->ffn, msg)) != ERR_OK ||
        (err = require_u32(o, "vocab_size", VOCAB_MAX, &c->vocab, msg)) != ERR_OK ||
        (err = get_u32(o, "max_position_embeddings", 1, POSITIONS_MAX, &c->max_positions, msg)) !=
            ERR_OK ||
        (err = read_head_dim(o, c, msg)) != ERR_OK ||
        (err = get_double(o, file_name, "rms_norm_eps", 0, 1, &eps, NULL, msg)) != ERR_OK)
        return err;
    c->norm_eps = (float)eps;
    return ERR_OK;
}

static enum err read_switches(const json_t *o, struct engine_model_config *c, struct err_msg *msg)
{
    const json_t *act = json_object_get(o, "hidden_act");
    bool llama = strcmp(c->architecture, "LlamaForCausalLM") == 0;
    bool bias = false;
    enum err err;

    if (present(act) && (!json_is_string(act) || (strcmp(json_string_value(act), "silu") != 0 &&
                                                  strcmp(json_string_value(act), "swish") != 0)))
        return err_set(msg, ERR_UNSUPPORTED,
                       "%s: hidden_act '%.40s' is not supported; only silu is", file_name,
                       json_is_string(act) ? json_string_value(act) : "(not a string)");
    if ((err = get_bool(o, "tie_word_embeddings", &c->tied_embeddings, msg)) != ERR_OK ||
        (err = get_bool(o, "attention_bias", &bias, msg)) != ERR_OK)
        return err;
    if (llama && (err = get_bool(o, "mlp_bias", &c->mlp_bias, msg)) != ERR_OK)
        return err;
    c->attention_out_bias = llama && bias;
    c->attention_bias = (llama && bias) || strcmp(c->architecture, "Qwen2ForCausalLM") == 0;
    return ERR_OK;
}

/* ---- rotary embedding ---- */

static enum err require_rope(const json_t *o, const char *key, double min, double max, double *out,
                             struct err_msg *msg)
{
    bool given;
    enum err err = get_double(o, file_name, key, min, max, out, &given, msg);

    if (err == ERR_OK && !given)
        err = err_set(msg, ERR_INVALID, "%s: the rope parameters lack %s", file_name, key);
    return err;
}

static enum err read_rope_llama3(const json_t *r, struct engine_model_config *c,
                                 struct err_msg *msg)
{
    double original = 0;
    enum err err;

    c->rope_kind = ENGINE_ROPE_LLAMA3;
    if ((err = require_rope(r, "factor", 1, 1e6, &c->rope_factor, msg)) != ERR_OK ||
        (err = require_rope(r, "low_freq_factor", 1e-6, 1e6, &c->rope_low_freq_factor, msg)) !=
            ERR_OK ||
        (err = require_rope(r, "high_freq_factor", 1e-6, 1e6, &c->rope_high_freq_factor, msg)) !=
            ERR_OK ||
        (err = require_rope(r, "original_max_position_embeddings", 1, POSITIONS_MAX, &original,
                            msg)) != ERR_OK)
        return err;
    c->rope_original_positions = (uint32_t)original;
    if (c->rope_high_freq_factor <= c->rope_low_freq_factor)
        return err_set(msg, ERR_INVALID, "%s: rope high_freq_factor must exceed low_freq_factor",
                       file_name);
    return ERR_OK;
}

/* Older files say rope_theta and rope_scaling, newer ones put both into rope_parameters. */
static enum err read_rope(const json_t *o, struct engine_model_config *c, struct err_msg *msg)
{
    const json_t *r = json_object_get(o, "rope_parameters");
    const json_t *kind;
    const char *name;
    double partial = 1;
    enum err err;

    c->rope_theta = 10000;
    c->rope_kind = ENGINE_ROPE_PLAIN;
    c->rope_factor = 1;
    if (!present(r))
        r = json_object_get(o, "rope_scaling");
    if (present(r) && !json_is_object(r))
        return err_set(msg, ERR_INVALID, "%s: the rope parameters must be an object", file_name);
    if ((err = get_double(o, file_name, "rope_theta", 1, 1e12, &c->rope_theta, NULL, msg)) !=
            ERR_OK ||
        (err = get_double(r, file_name, "rope_theta", 1, 1e12, &c->rope_theta, NULL, msg)) !=
            ERR_OK ||
        (err = get_double(o, file_name, "partial_rotary_factor", 0, 1, &partial, NULL, msg)) !=
            ERR_OK ||
        (err = get_double(r, file_name, "partial_rotary_factor", 0, 1, &partial, NULL, msg)) !=
            ERR_OK)
        return err;
    if (partial < 1)
        return err_set(msg, ERR_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported",
                       file_name, partial);
    if (!present(r))
        return ERR_OK;
    kind = json_object_get(r, "rope_type");
    if (!present(kind))
        kind = json_object_get(r, "type");
    name = present(kind) ? json_string_value(kind) : "default";
    if (name == NULL)
        return err_set(msg, ERR_INVALID, "%s: rope_type must be a string", file_name);
    if (strcmp(name, "default") == 0)
        return ERR_OK;
    if (strcmp(name, "linear") == 0) {
        c->rope_kind = ENGINE_ROPE_LINEAR;
        return require_rope(r, "factor", 1e-6, 1e6, &c->rope_factor, msg);
    }
    if (strcmp(name, "llama3") == 0)
        return read_rope_llama3(r, c, msg);
    return err_set(msg, ERR_UNSUPPORTED,
                   "%s: rope_type '%.40s' is not supported; supported are default, linear and "
                   "llama3",
                   file_name, name);
}

/* ---- special tokens ---- */

static enum err add_eos(struct engine_model_config *c, const char *file, const json_t *v,
                        struct err_msg *msg)
{
    json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;

    if (id < 0 || id >= (json_int_t)c->vocab)
        return err_set(msg, ERR_INVALID,
                       "%s: eos_token_id must hold token ids below vocab_size (%u)", file,
                       c->vocab);
    for (uint32_t i = 0; i < c->n_eos; i++) {
        if (c->eos[i] == (int32_t)id)
            return ERR_OK;
    }
    if (c->n_eos == ENGINE_MODEL_EOS_MAX)
        return err_set(msg, ERR_UNSUPPORTED, "%s: more than %d end-of-text tokens", file,
                       ENGINE_MODEL_EOS_MAX);
    c->eos[c->n_eos++] = (int32_t)id;
    return ERR_OK;
}

static enum err read_eos(const json_t *o, const char *file, struct engine_model_config *c,
                         struct err_msg *msg)
{
    const json_t *v = json_object_get(o, "eos_token_id");
    enum err err;
    size_t i;
    json_t *item;

    if (!present(v))
        return ERR_OK;
    if (!json_is_array(v))
        return add_eos(c, file, v, msg);
    json_array_foreach(v, i, item)
    {
        err = add_eos(c, file, item, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err read_bos(const json_t *o, struct engine_model_config *c, struct err_msg *msg)
{
    const json_t *v = json_object_get(o, "bos_token_id");

    if (!present(v))
        return ERR_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) >= (json_int_t)c->vocab)
        return err_set(msg, ERR_INVALID,
                       "%s: bos_token_id must be a token id below vocab_size (%u)", file_name,
                       c->vocab);
    c->bos = (int32_t)json_integer_value(v);
    return ERR_OK;
}

/* ---- the two files ---- */

static enum err load_object(const char *json, size_t len, const char *file, json_t **out,
                            struct err_msg *msg)
{
    json_error_t error;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &error);

    if (root == NULL)
        return err_set(msg, ERR_INVALID, "%s: not valid JSON, line %d column %d: %.120s", file,
                       error.line, error.column, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(msg, ERR_INVALID, "%s: must hold a JSON object", file);
    }
    *out = root;
    return ERR_OK;
}

static enum err read_config(const json_t *o, struct engine_model_config *c, struct err_msg *msg)
{
    enum err err;

    if ((err = read_architecture(o, c, msg)) != ERR_OK ||
        (err = refuse_quantization(o, msg)) != ERR_OK ||
        (err = read_dimensions(o, c, msg)) != ERR_OK ||
        (err = read_switches(o, c, msg)) != ERR_OK ||
        (err = refuse_sliding_window(o, c, msg)) != ERR_OK ||
        (err = read_rope(o, c, msg)) != ERR_OK || (err = read_bos(o, c, msg)) != ERR_OK)
        return err;
    return read_eos(o, file_name, c, msg);
}

enum err engine_model_parse_config(const char *json, size_t len, struct engine_model_config *out,
                                   struct err_msg *msg)
{
    struct engine_model_config c = {
        .bos = -1, .temperature = 1, .top_p = 1, .top_k = 0, .repetition_penalty = 1};
    json_t *root;
    enum err err = load_object(json, len, file_name, &root, msg);

    if (err != ERR_OK)
        return err;
    err = read_config(root, &c, msg);
    json_decref(root);
    if (err == ERR_OK)
        *out = c;
    return err;
}

enum err engine_model_parse_generation(const char *json, size_t len, struct engine_model_config *c,
                                       struct err_msg *msg)
{
    double temperature = 1, top_p = 1, top_k = 0, penalty = 1;
    json_t *root;
    enum err err = load_object(json, len, generation_name, &root, msg);

    if (err != ERR_OK)
        return err;
    if ((err = read_eos(root, generation_name, c, msg)) == ERR_OK &&
        (err = get_double(root, generation_name, "temperature", 0, 100, &temperature,
                          &c->has_temperature, msg)) == ERR_OK &&
        (err = get_double(root, generation_name, "top_p", 0, 1, &top_p, &c->has_top_p, msg)) ==
            ERR_OK &&
        (err = get_double(root, generation_name, "top_k", -1, INT32_MAX, &top_k, &c->has_top_k,
                          msg)) == ERR_OK)
        err = get_double(root, generation_name, "repetition_penalty", 1e-6, 1e6, &penalty,
                         &c->has_repetition_penalty, msg);
    json_decref(root);
    c->temperature = (float)temperature;
    c->top_p = (float)top_p;
    c->top_k = (int32_t)top_k;
    c->repetition_penalty = (float)penalty;
    return err;
}
