/* daemon/api_render.h - OpenAI response objects as JSON text, appended to a buffer.  No JSON library on
 * the token path: strings are escaped straight into the output.
 *
 * Thread: any.  All functions: ERR_NOMEM leaves out as it was. */
#ifndef DAEMON_API_RENDER_H
#define DAEMON_API_RENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "daemon/api_request.h"

/* Constant over one response; the strings outlive it. */
struct api_head {
    enum api_kind kind; /* API_CHAT or API_COMPLETION */
    const char *id;     /* "chatcmpl-..." or "cmpl-..." */
    int64_t created;    /* seconds */
    const char *model;
    const char *tier; /* service_tier really used, as the client expects it spelled */
    const char *fingerprint;
};

struct api_token_logprob {
    const char *piece; /* raw bytes */
    size_t piece_len;
    float logprob;
    const struct engine_top *top;
    uint32_t n_top;
};
/* Bytes of a token, for alternatives. */
typedef const char *(*api_piece_fn)(void *arg, int32_t token, size_t *len);

struct api_logprobs {
    const struct api_token_logprob *tokens; /* NULL: "logprobs": null */
    size_t n;
    size_t text_offset; /* completions: offset of the first token's text, in characters */
    api_piece_fn piece;
    void *piece_arg;
};

struct api_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
};

struct api_choice {
    uint32_t index;
    const char *text;
    size_t text_len;
    const char *finish_reason; /* NULL = null */
    struct api_logprobs logprobs;
    bool has_logprobs;        /* asked for: the key appears even if null */
    const int32_t *token_ids; /* return_token_ids */
    size_t n_token_ids;
};

MUST_USE enum err api_render_string(struct buf *out, const char *s,
                                    size_t len); /* quoted, escaped */

/* One SSE event "data: {...}\n\n" of a streamed choice; first: with delta.role.  usage may be NULL. */
MUST_USE enum err api_render_chunk(struct buf *out, const struct api_head *head,
                                   const struct api_choice *choice, bool first,
                                   const struct api_usage *usage, bool usage_null);
/* The extra last event with choices [] and usage. */
MUST_USE enum err api_render_usage_chunk(struct buf *out, const struct api_head *head,
                                         const struct api_usage *usage);
/* "data: [DONE]\n\n" */
MUST_USE enum err api_render_done(struct buf *out);
/* "data: {"error":{...}}\n\n" */
MUST_USE enum err api_render_error_event(struct buf *out, const struct api_error *e);
/* The whole, not streamed, response. */
MUST_USE enum err api_render_response(struct buf *out, const struct api_head *head,
                                      const struct api_choice *choices, size_t n,
                                      const struct api_usage *usage);
/* {"error":{"message","type","param","code"}} */
MUST_USE enum err api_render_error(struct buf *out, const struct api_error *e);

struct api_model_card {
    const char *id;
    int64_t created;
    uint32_t max_context;
    uint32_t vocab;
};
MUST_USE enum err api_render_model(struct buf *out, const struct api_model_card *m);
MUST_USE enum err api_render_models(struct buf *out, const struct api_model_card *m, size_t n);
/* Union of the vLLM and llama.cpp keys: tokens, count, max_model_len, token_strs. */
MUST_USE enum err api_render_tokens(struct buf *out, const int32_t *ids, size_t n,
                                    uint32_t max_context, bool with_pieces, api_piece_fn piece,
                                    void *piece_arg);
/* {"prompt": text, "content": text} */
MUST_USE enum err api_render_text(struct buf *out, const char *text, size_t len);

#endif
