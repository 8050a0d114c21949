/* engine/engine_chat.h - render messages with the chat template of a model: a Jinja subset, compiled
 * at load.  What it cannot render is refused at load, by name and line.
 *
 * Thread     a compiled template is immutable; any number of threads may render with it.
 * Limits     template 64 KiB, nesting 32, 1e6 evaluation steps and 4 MiB of output per render: beyond
 *            them ERR_LIMIT.  Templates come from the operator's model directory, never from a client. */
#ifndef ENGINE_ENGINE_CHAT_H
#define ENGINE_ENGINE_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine_tok.h"

struct engine_chat; /* opaque */

struct engine_chat_message {
    const char *role;
    const char *content;
    size_t content_len;
};

/* Read the template of a model directory: chat_template.jinja, or chat_template in tokenizer_config.json
 * (a string, or a list of named ones of which "default" is taken); bos/eos token names come from
 * tokenizer_config.json.  ERR_NOT_FOUND: the model has none (chat requests then get a clear error);
 * ERR_UNSUPPORTED: a construct outside the subset; ERR_INVALID: syntax. */
MUST_USE enum err engine_chat_open(const char *dir, struct err_msg *msg, struct engine_chat **out);
/* From source, for tests and fuzzing; bos/eos may be NULL. */
MUST_USE enum err engine_chat_compile(const char *source, size_t len, const char *bos,
                                      const char *eos, struct err_msg *msg,
                                      struct engine_chat **out);
void engine_chat_close(struct engine_chat *c); /* NULL is fine */

/* Append the prompt text.  date: what strftime_now sees, seconds since 1970, in UTC.  roles and contents
 * must be UTF-8.  The template sees messages, add_generation_prompt, tools and documents (both none) and
 * the special tokens of the model; every other name is undefined to it, also date_string.
 * The pieces of the output that came from message content are reported through spans, so that special
 * tokens named inside user text can be encoded as plain text: spans[2*i], spans[2*i+1] are begin and
 * end offsets in out (relative to its length at the call), ascending; freed with mem_free; NULL if there
 * are none.  Roles count as content.  On any error out, spans and n_spans are as before.
 * ERR_INVALID: the template raised an exception (its text is in msg) or met a value it cannot use;
 * ERR_LIMIT: see above; ERR_NOMEM. */
MUST_USE enum err engine_chat_render(const struct engine_chat *c,
                                     const struct engine_chat_message *messages, size_t n,
                                     bool add_generation_prompt, long long date, struct buf *out,
                                     size_t **spans, size_t *n_spans, struct err_msg *msg);

/* Append the ids of a rendered prompt: special tokens of the template are recognised, those that a
 * message spells are plain text, and the borders between both leave no other trace.  No BOS is added:
 * templates write their own.  Errors as engine_tok_encode_spans. */
MUST_USE enum err engine_chat_encode(const struct engine_tok *t, const char *text, size_t len,
                                     const size_t *spans, size_t n_spans, struct engine_ids *ids);
#endif
