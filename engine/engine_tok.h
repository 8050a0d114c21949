/* engine/engine_tok.h - text to token ids and back, from a Hugging Face tokenizer.json.
 *
 * Two kinds of BPE: SentencePiece style (normaliser Prepend/Replace, byte fallback) and byte level
 * with a known pre-tokenizer pattern (GPT-2, Llama 3, Qwen2).  Anything else in the file that would
 * change the ids is refused at load, by name.
 *
 *   engine_tok_open -> encode / decode from any thread -> engine_tok_close
 *
 * Added tokens that the file does not call special are ordinary vocabulary: they are recognised with
 * every flag.  Special ones need ENGINE_TOK_PARSE_SPECIAL.
 *
 * Limits     file 64 MiB, 1,048,576 ids, 4,194,304 merges, 65,536 added tokens: beyond them ERR_LIMIT.
 * Thread     an open tokenizer is immutable: any number of threads may encode with it.
 * Ownership  results are appended to the caller's array.
 * Cost       encode is O(n log n) in the text for every input, also for one repeated character. */
#ifndef ENGINE_ENGINE_TOK_H
#define ENGINE_ENGINE_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct engine_tok; /* opaque */

/* A growable array of ids; zero-initialise, free with engine_ids_free. */
struct engine_ids {
    int32_t *ids;
    size_t n;
    size_t cap; /* private */
};
void engine_ids_free(struct engine_ids *ids);

/* dir: the model directory with tokenizer.json (and tokenizer_config.json if there).
 * ERR_NOT_FOUND, ERR_IO, ERR_INVALID (malformed: where), ERR_UNSUPPORTED (feature named), ERR_LIMIT,
 * ERR_NOMEM. */
MUST_USE enum err engine_tok_open(const char *dir, struct err_msg *msg, struct engine_tok **out);
/* The same from memory, for tests and fuzzing. */
MUST_USE enum err engine_tok_open_json(const char *json, size_t len, struct err_msg *msg,
                                       struct engine_tok **out);
void engine_tok_close(struct engine_tok *t); /* NULL is fine */

uint32_t engine_tok_vocab(const struct engine_tok *t); /* highest id + 1 */

enum engine_tok_flags {
    ENGINE_TOK_ADD_SPECIAL = 1, /* add what the post-processor adds (BOS) */
    ENGINE_TOK_PARSE_SPECIAL =
        2, /* recognise special tokens in the text; without it they are text */
};
/* Append the ids of text[len] (must be UTF-8; else ERR_INVALID).  ERR_NOMEM: ids keeps what it had.
 * Invalid only by the text: never by its length. */
MUST_USE enum err engine_tok_encode(const struct engine_tok *t, const char *text, size_t len,
                                    unsigned flags, struct engine_ids *ids);
/* The same where parts of the text are a client's: spans[2*i], spans[2*i+1] are begin and end offsets,
 * ascending.  A special token is recognised only where it touches none of them; apart from that the
 * borders of the spans leave no trace in the ids.  ERR_INVALID also: spans out of order or range. */
MUST_USE enum err engine_tok_encode_spans(const struct engine_tok *t, const char *text, size_t len,
                                          unsigned flags, const size_t *spans, size_t n_spans,
                                          struct engine_ids *ids);

/* The raw bytes of one token as they stand in running text (a piece may be part of a UTF-8
 * character).  Special tokens give their name if with_special, else nothing.  An id outside the
 * vocabulary gives nothing.  The bytes belong to the tokenizer. */
const char *engine_tok_piece(const struct engine_tok *t, int32_t id, bool with_special,
                             size_t *len);
bool engine_tok_is_special(const struct engine_tok *t, int32_t id);
/* The id of an added or plain token by its exact name; -1 if there is none. */
int32_t engine_tok_find(const struct engine_tok *t, const char *name);
/* SentencePiece-style models put a space before the first word; the first piece of a text that starts
 * a sequence loses it.  true: strip one leading space from the first decoded piece. */
bool engine_tok_strips_first_space(const struct engine_tok *t);

/* Stream decoder: pieces in, whole UTF-8 out; incomplete characters are held back.  Bytes that can
 * never become UTF-8 come out as U+FFFD. */
struct engine_detok {
    /* private */
    char held[4];
    uint8_t n_held;
    bool at_start;
};
/* continues: the text goes on after a prompt, so a first space is kept. */
void engine_detok_init(struct engine_detok *d, const struct engine_tok *t, bool continues);
/* Append what became certain.  last: flush what is held (as U+FFFD if incomplete). */
struct buf;
MUST_USE enum err engine_detok_push(struct engine_detok *d, const struct engine_tok *t, int32_t id,
                                    bool with_special, struct buf *out);
MUST_USE enum err engine_detok_finish(struct engine_detok *d, struct buf *out);

#endif
