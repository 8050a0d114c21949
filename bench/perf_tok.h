/* bench/perf_tok.h - `baton perf tok`: speed of the tokenizer of a model, one thread.
 *
 * Names, all GB/s of text and higher better except the first: tok.load.time (ms, lower better),
 * tok.encode.prose.throughput, tok.encode.repeat_<a|underscore|space|cjk>.throughput (1 MiB of one
 * character) and tok.encode.random_letters.throughput, each with prose as reference, and
 * tok.decode.throughput (the ids of the prose through the stream decoder).
 *
 * Thread     the caller's.
 * Blocking   about three seconds. */
#ifndef BENCH_PERF_TOK_H
#define BENCH_PERF_TOK_H

#include <stdbool.h>

#include "base/err.h"

/* text_file: the prose to encode (UTF-8, at most 64 MiB), or NULL for generated English-like text.
 * Prints to standard output: a table, or with json one object.  Errors of engine_tok_open are passed on;
 * ERR_NOT_FOUND, ERR_IO, ERR_LIMIT, ERR_INVALID: the text file; ERR_NOMEM. */
MUST_USE enum err bench_perf_tok(const char *model_dir, const char *text_file, bool json,
                                 struct err_msg *msg);

#endif
