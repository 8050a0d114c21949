/* engine/engine_tok_split.h - the pre-tokenizer patterns of the published byte-level models, as
 * hand-written scanners: linear in the text, no backtracking, no regular expression at run time.
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 *             ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   Qwen2    as Llama 3 with \p{N} for \p{N}{1,3}
 *
 * Thread: any.  Letters and numbers are the Unicode categories L* and N* of utf8proc. */
#ifndef ENGINE_ENGINE_TOK_SPLIT_H
#define ENGINE_ENGINE_TOK_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

enum engine_tok_pattern { ENGINE_TOK_GPT2 = 1, ENGINE_TOK_LLAMA3, ENGINE_TOK_QWEN2 };

/* Which pattern a regular expression of a tokenizer.json is; false: none that is known. */
bool engine_tok_pattern_known(const char *regex, enum engine_tok_pattern *out);

/* The length of the piece at the start of s[len], which is valid UTF-8 with len > 0.  The pieces cover
 * the text without gaps: 1 <= result <= len. */
size_t engine_tok_split_next(enum engine_tok_pattern pattern, const char *s, size_t len);

#endif
