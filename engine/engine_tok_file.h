/* engine/engine_tok_file.h - reading the text files of a model directory, within limits.
 *
 * Thread: any.  Blocking: file reads.  Ownership: results belong to the caller. */
#ifndef ENGINE_ENGINE_TOK_FILE_H
#define ENGINE_ENGINE_TOK_FILE_H

#include <jansson.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

/* Append the whole of dir/name, whose size is checked against cap before a byte is allocated.
 * ERR_NOT_FOUND, ERR_IO, ERR_LIMIT (larger than cap), ERR_INVALID (path too long), ERR_NOMEM. */
MUST_USE enum err engine_tok_read_file(const char *dir, const char *name, size_t cap,
                                       struct buf *out, struct err_msg *msg);
/* tokenizer_config.json, an object of at most 8 MiB; as above, and ERR_INVALID: malformed. */
MUST_USE enum err engine_tok_read_config(const char *dir, json_t **out, struct err_msg *msg);
/* A token name of that file, given as "x" or {"content": "x"}; NULL: none. */
const char *engine_tok_config_name(const json_t *config, const char *key);

#endif
