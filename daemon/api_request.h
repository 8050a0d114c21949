/* daemon/api_request.h - an OpenAI request body, read against one table of fields into typed, bounded
 * values.  Nothing behind this header sees client JSON.
 *
 * Thread: any (no globals).  Ownership: api_request belongs to the caller, freed with
 * api_request_free. */
#ifndef DAEMON_API_REQUEST_H
#define DAEMON_API_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine_chat.h"
#include "engine/engine_sample.h"

enum {
    API_N_MAX = 16,
    API_STOP_MAX = 16,
    API_STOP_BYTES_MAX = 256,
    API_MESSAGES_MAX = 1024,
    API_PROMPTS_MAX = 64,
    API_CHOICES_MAX = 128, /* prompts x n */
    API_STOP_IDS_MAX = 32, /* leaves room for the model's own in ENGINE_STOP_IDS_MAX */
    API_NAME_MAX = 256
};

enum api_kind { API_CHAT = 1, API_COMPLETION, API_TOKENIZE, API_DETOKENIZE };

/* What a refused request gets: every text is ours, never a library's.  Codes given by the parser:
 * "invalid_json", "duplicate_key" and "json_too_complex" (JSON or not, beyond what api_json.h allows),
 * "invalid_type", "invalid_value", "missing_required_field", "unsupported_parameter". */
struct api_error {
    int status;
    const char *type; /* "invalid_request_error", ... */
    const char *code; /* or NULL */
    char param[64];   /* "" = null */
    char message[480];
};

/* Fill *e; param and code may be NULL.  Too long a text is cut. */
void api_error_set(struct api_error *e, int status, const char *type, const char *param,
                   const char *code, const char *format, ...) __attribute__((format(printf, 6, 7)));
/* The prompt and what was asked for do not fit: 400, in the words that clients look for. */
void api_error_context(enum api_kind kind, uint64_t context_max, uint64_t prompt,
                       uint64_t completion, struct api_error *e);

struct api_prompt {
    char *text; /* or NULL if ids */
    size_t text_len;
    int32_t *ids;
    size_t n_ids;
};

/* What the deployment allows; zero-initialise for the defaults of reliability limits. */
struct api_limits {
    uint32_t n_max; /* 0 = API_N_MAX */
    uint32_t
        max_new_default; /* 0 = 16; for completions only: has_max_tokens is then true.  Chat without
                                 max_tokens has has_max_tokens false: what the context leaves. */
    uint32_t vocab;      /* bounds token ids in prompt, logit_bias, stop_token_ids */
    bool has_temperature, has_top_p, has_top_k,
        has_repetition_penalty; /* model's generation defaults */
    float temperature, top_p, repetition_penalty;
    int32_t top_k;
};

struct api_request {
    enum api_kind kind;
    char model[API_NAME_MAX]; /* "" if absent where optional */
    /* chat */
    struct engine_chat_message *messages;
    size_t n_messages;
    bool add_generation_prompt;
    bool continue_final_message;
    /* completion, tokenize (text or messages), detokenize (ids) */
    struct api_prompt *prompts;
    size_t n_prompts;
    bool echo;
    bool add_special; /* tokenize */
    bool with_pieces; /* tokenize: return token strings */
    /* generation */
    uint32_t n;
    bool has_max_tokens;
    uint32_t max_tokens;
    bool
        default_max_tokens; /* the client gave none: what does not fit the context is cut, not refused */
    uint32_t min_tokens;
    bool ignore_eos;
    bool skip_special_tokens; /* default true */
    bool include_stop_str_in_output;
    bool return_token_ids;
    char *stop[API_STOP_MAX];
    size_t stop_len[API_STOP_MAX];
    uint32_t n_stop;
    struct engine_sampling sampling; /* stop_ids and bias point into this request */
    bool has_seed;
    bool logprobs;
    uint32_t top_logprobs;
    bool stream;
    bool include_usage;
    bool continuous_usage;
    char service_tier[32]; /* "" = absent; else as the client spelled it, checked by the caller */
    bool has_priority;
    int32_t priority;
    char user[API_NAME_MAX];
    /* private: storage of all that points inside */
    void *arena;
};

/* false: *error is filled, nothing is allocated.  limits may be NULL.  The body need not outlive the
 * call.  Roles are developer (handed on as system), system, user, assistant and tool; the text parts of
 * one message are joined by a line feed. */
bool api_request_parse(enum api_kind kind, const char *body, size_t len,
                       const struct api_limits *limits, struct api_request **out,
                       struct api_error *error);
void api_request_free(struct api_request *r); /* NULL is fine */

/* Does every invariant that this header promises hold?  For tests and fuzzing. */
bool api_request_check(const struct api_request *r, const struct api_limits *limits);

/* The field table (api_fields.h) as a Markdown table, appended to out. */
MUST_USE enum err api_request_describe(struct buf *out);

#endif
