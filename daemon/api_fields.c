/* daemon/api_fields.c - the table itself, and its printed form. */
#include "daemon/api_fields.h"

#include <stdio.h>

#include "daemon/api_read.h"
#include "daemon/api_request.h"

#define AT(field) offsetof(struct api_request, field)
#define SAMPLING(field) offsetof(struct api_request, sampling.field)
#define INT32_MAX_D 2147483647.0

/* clang-format off */
#define SPECIAL(name, kinds, normal, about, read) \
    {name, kinds, API_FIELD_SPECIAL, 0, 0, false, normal, about, 0, 0, read}
#define BOOLEAN(name, kinds, field, normal, about) \
    {name, kinds, API_FIELD_BOOL, 0, 1, false, normal, about, AT(field), 0, NULL}
#define UINT(name, kinds, field, has, min, max, normal, about) \
    {name, kinds, API_FIELD_UINT, min, max, false, normal, about, AT(field), has, NULL}
#define FLOAT(name, kinds, field, min, max, above, normal, about) \
    {name, kinds, API_FIELD_FLOAT, min, max, above, normal, about, SAMPLING(field), 0, NULL}
#define STRING(name, kinds, field, max, normal, about) \
    {name, kinds, API_FIELD_STRING, 0, max, false, normal, about, AT(field), 0, NULL}
#define IGNORED(name, about) \
    {name, API_FOR_ALL, API_FIELD_IGNORED, 0, 0, false, "", about, 0, 0, NULL}
#define REFUSED(name, kinds, about) \
    {name, kinds, API_FIELD_REFUSED, 0, 0, false, "", about, 0, 0, NULL}

static const struct api_field fields[] = {
    STRING("model", API_FOR_ALL, model, API_NAME_MAX - 1, "required to generate", "a served model or one of its other names"),
    /* what to work on */
    SPECIAL("messages", API_FOR_CHAT | API_FOR_TOKENIZE, "required for chat", "1 to 1024 messages; content is a string or an array of text parts", api_read_messages),
    SPECIAL("prompt", API_FOR_COMPLETION | API_FOR_TOKENIZE, "required for completions", "a string, strings, token ids, or arrays of token ids (tokenize: a string)", api_read_prompt),
    SPECIAL("content", API_FOR_TOKENIZE, "", "the same as prompt, in the llama.cpp dialect", api_read_prompt),
    SPECIAL("tokens", API_FOR_DETOKENIZE, "required", "token ids", api_read_tokens),
    SPECIAL("add_special_tokens", API_FOR_TOKENIZE, "true (messages, content: false)", "boolean: put the model's begin token in front", api_read_add_special),
    SPECIAL("add_special", API_FOR_TOKENIZE, "", "the same, in the llama.cpp dialect", api_read_add_special),
    BOOLEAN("return_token_strs", API_FOR_TOKENIZE, with_pieces, "false", "also return the text of each token"),
    BOOLEAN("with_pieces", API_FOR_TOKENIZE, with_pieces, "false", "the same, in the llama.cpp dialect"),
    SPECIAL("add_generation_prompt", API_FOR_CHAT | API_FOR_TOKENIZE, "true", "boolean: end the prompt with the start of an assistant turn", api_read_generation_prompt),
    BOOLEAN("continue_final_message", API_FOR_CHAT | API_FOR_TOKENIZE, continue_final_message, "false", "go on with the last message instead of a new turn"),
    /* how much */
    UINT("max_tokens", API_FOR_CHAT, max_tokens, AT(has_max_tokens), 1, INT32_MAX_D, "what the context leaves", "most tokens to generate"),
    UINT("max_tokens", API_FOR_COMPLETION, max_tokens, AT(has_max_tokens), 0, INT32_MAX_D, "16", "most tokens to generate"),
    SPECIAL("max_completion_tokens", API_FOR_CHAT, "", "the same as max_tokens, and wins over it", api_read_max_completion_tokens),
    UINT("min_tokens", API_FOR_GENERATION, min_tokens, 0, 0, INT32_MAX_D, "0", "no end before this many tokens"),
    UINT("n", API_FOR_GENERATION, n, 0, 1, API_N_MAX, "1", "choices for each prompt"),
    SPECIAL("best_of", API_FOR_COMPLETION, "n", "only the value of n is supported", api_read_best_of),
    /* when to stop */
    SPECIAL("stop", API_FOR_GENERATION, "null", "a string or up to 16 strings of 1 to 256 bytes", api_read_stop),
    SPECIAL("stop_token_ids", API_FOR_GENERATION, "null", "up to 32 token ids", api_read_stop_ids),
    BOOLEAN("include_stop_str_in_output", API_FOR_GENERATION, include_stop_str_in_output, "false", "keep the stop string in the text"),
    BOOLEAN("ignore_eos", API_FOR_GENERATION, ignore_eos, "false", "generate on behind the model's end token"),
    /* sampling */
    FLOAT("temperature", API_FOR_GENERATION, temperature, 0, 100, false, "the model's, else 1", "0 takes the most likely token"),
    FLOAT("top_p", API_FOR_GENERATION, top_p, 0, 1, true, "the model's, else 1", "keep the most likely tokens up to this mass"),
    {"top_k", API_FOR_GENERATION, API_FIELD_INT, -1, INT32_MAX_D, false, "the model's, else off", "keep this many tokens; 0 and -1: all", SAMPLING(top_k), 0, NULL},
    FLOAT("min_p", API_FOR_GENERATION, min_p, 0, 1, false, "0", "drop tokens below this share of the most likely one"),
    FLOAT("repetition_penalty", API_FOR_GENERATION, repetition_penalty, 0, 100, true, "the model's, else 1", "divides the logits of tokens seen in prompt or output"),
    FLOAT("presence_penalty", API_FOR_GENERATION, presence_penalty, -2, 2, false, "0", "taken off the logits of tokens in the output"),
    FLOAT("frequency_penalty", API_FOR_GENERATION, frequency_penalty, -2, 2, false, "0", "the same, for each time"),
    SPECIAL("logit_bias", API_FOR_GENERATION, "null", "object of up to 1024 token ids, each with a number from -100 to 100", api_read_logit_bias),
    {"seed", API_FOR_GENERATION, API_FIELD_INT64, -9223372036854775808.0, 9223372036854775807.0, false, "random", "the same seed draws the same tokens", SAMPLING(seed), AT(has_seed), NULL},
    /* what to answer */
    BOOLEAN("logprobs", API_FOR_CHAT, logprobs, "false", "report the log probability of each token"),
    UINT("top_logprobs", API_FOR_CHAT, top_logprobs, 0, 0, ENGINE_TOP_LOGPROBS_MAX, "0", "alternatives for each token; needs logprobs"),
    UINT("logprobs", API_FOR_COMPLETION, top_logprobs, AT(logprobs), 0, 5, "null", "report the log probabilities of each token and this many alternatives"),
    BOOLEAN("echo", API_FOR_COMPLETION, echo, "false", "put the prompt in front of the text"),
    BOOLEAN("skip_special_tokens", API_FOR_GENERATION, skip_special_tokens, "true", "leave special tokens out of the text"),
    BOOLEAN("return_token_ids", API_FOR_GENERATION, return_token_ids, "false", "also return the generated token ids"),
    BOOLEAN("stream", API_FOR_GENERATION, stream, "false", "answer with server-sent events"),
    SPECIAL("stream_options", API_FOR_GENERATION, "null", "object of booleans: include_usage, continuous_usage_stats, include_obfuscation (ignored); without stream it has no effect", api_read_stream_options),
    /* who and how urgent */
    STRING("user", API_FOR_GENERATION, user, API_NAME_MAX - 1, "", "the end user, for the log"),
    STRING("service_tier", API_FOR_GENERATION, service_tier, 31, "the key's", "auto, default, flex, priority, or the name of a tier"),
    {"priority", API_FOR_GENERATION, API_FIELD_INT, -2147483648.0, INT32_MAX_D, false, "0", "inside its tier a lower value goes first", AT(priority), AT(has_priority), NULL},
    /* accepted where they ask for what is done anyway */
    SPECIAL("response_format", API_FOR_GENERATION, "text", "only {\"type\": \"text\"} is supported", api_read_response_format),
    SPECIAL("tool_choice", API_FOR_CHAT, "none", "only none and auto are supported", api_read_tool_choice),
    SPECIAL("function_call", API_FOR_CHAT, "none", "only none and auto are supported", api_read_tool_choice),
    SPECIAL("modalities", API_FOR_CHAT, "[\"text\"]", "only [\"text\"] is supported", api_read_modalities),
    SPECIAL("chat_template_kwargs", API_FOR_CHAT | API_FOR_TOKENIZE, "null", "only enable_thinking, which has no effect", api_read_template_kwargs),
    /* accepted without effect */
    IGNORED("metadata", ""), IGNORED("store", ""), IGNORED("prompt_cache_key", ""),
    IGNORED("prompt_cache_retention", ""), IGNORED("safety_identifier", ""),
    IGNORED("parallel_tool_calls", "there are no tools"), IGNORED("reasoning_effort", ""),
    IGNORED("verbosity", ""), IGNORED("prediction", "only a hint"), IGNORED("request_id", "send X-Request-Id"),
    IGNORED("cache_salt", "the server derives its own"), IGNORED("spaces_between_special_tokens", ""),
    /* not built: naming them beats answering something else than was asked for */
    REFUSED("tools", API_FOR_CHAT | API_FOR_TOKENIZE, ""), REFUSED("functions", API_FOR_CHAT, ""),
    REFUSED("echo", API_FOR_CHAT, ""), REFUSED("suffix", API_FOR_COMPLETION, ""),
    REFUSED("guided_json", API_FOR_GENERATION, ""), REFUSED("guided_regex", API_FOR_GENERATION, ""),
    REFUSED("guided_choice", API_FOR_GENERATION, ""), REFUSED("guided_grammar", API_FOR_GENERATION, ""),
    REFUSED("structured_outputs", API_FOR_GENERATION, ""), REFUSED("structural_tag", API_FOR_GENERATION, ""),
    REFUSED("grammar", API_FOR_GENERATION, ""), REFUSED("json_schema", API_FOR_GENERATION, ""),
    REFUSED("regex", API_FOR_GENERATION, ""), REFUSED("ebnf", API_FOR_GENERATION, ""),
    REFUSED("prompt_logprobs", API_FOR_GENERATION, ""), REFUSED("allowed_token_ids", API_FOR_GENERATION, ""),
    REFUSED("bad_words", API_FOR_GENERATION, ""), REFUSED("use_beam_search", API_FOR_GENERATION, ""),
    REFUSED("logits_processors", API_FOR_GENERATION, ""), REFUSED("truncate_prompt_tokens", API_FOR_GENERATION, ""),
    REFUSED("return_tokens_as_token_ids", API_FOR_GENERATION, ""), REFUSED("prompt_embeds", API_FOR_COMPLETION, ""),
    REFUSED("kv_transfer_params", API_FOR_GENERATION, ""),
    REFUSED("audio", API_FOR_CHAT, ""), REFUSED("web_search_options", API_FOR_CHAT, ""),
    REFUSED("documents", API_FOR_CHAT, ""), REFUSED("chat_template", API_FOR_CHAT | API_FOR_TOKENIZE, "templates come from the model directory"),
};
/* clang-format on */

_Static_assert(sizeof(fields) / sizeof(fields[0]) <= API_FIELDS_MAX, "api_read.seen is too small");

const struct api_field *api_fields(size_t *n)
{
    *n = sizeof(fields) / sizeof(fields[0]);
    return fields;
}

static enum err describe_range(struct buf *out, const struct api_field *f)
{
    switch (f->type) {
    case API_FIELD_BOOL:
        return buf_puts(out, "boolean");
    case API_FIELD_UINT:
    case API_FIELD_INT:
        return buf_printf(out, "integer, %.0f to %.0f", f->min, f->max);
    case API_FIELD_INT64:
        return buf_puts(out, "integer of 64 bits");
    case API_FIELD_FLOAT:
        return buf_printf(out, "number, %s%g to %g", f->above_min ? "above " : "", f->min, f->max);
    case API_FIELD_STRING:
        return buf_printf(out, "string of at most %.0f bytes", f->max);
    case API_FIELD_SPECIAL:
        return buf_puts(out, "see the note");
    case API_FIELD_IGNORED:
        return buf_puts(out, "accepted without effect");
    case API_FIELD_REFUSED:
        return buf_puts(out, "not supported: 400 unless empty");
    }
    return ERR_INVALID;
}

static enum err describe_field(struct buf *out, const struct api_field *f)
{
    enum err err;

    err = buf_printf(out, "| `%s` | %s%s%s%s | ", f->name, f->kinds & API_FOR_CHAT ? "C" : "-",
                     f->kinds & API_FOR_COMPLETION ? "P" : "-",
                     f->kinds & API_FOR_TOKENIZE ? "T" : "-",
                     f->kinds & API_FOR_DETOKENIZE ? "D" : "-");
    if (err == ERR_OK)
        err = describe_range(out, f);
    if (err == ERR_OK)
        err = buf_printf(out, " | %s | %s |\n", f->normal, f->about);
    return err;
}

enum err api_request_describe(struct buf *out)
{
    size_t n;
    const struct api_field *all = api_fields(&n);
    enum err err;

    err = buf_puts(out,
                   "C chat completions, P completions, T tokenize, D detokenize.  null is the same "
                   "as absent.\nFields that are not listed are ignored.\n\n"
                   "| field | in | type and range | default | note |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < n && err == ERR_OK; i++)
        err = describe_field(out, &all[i]);
    return err;
}
