/* bench/load_sse.h - server-sent events of an OpenAI-style stream: bytes, split anywhere, to what each chunk says.
 *
 *   load_sse all zero -> load_sse_feed ... -> load_sse_fini
 *
 * Accepts LF, CR and CRLF, comments, and several data lines per event.  An event may have LOAD_EVENT_MAX bytes and
 * nest LOAD_DEPTH_MAX deep; the server's bytes are never trusted further.
 *
 * Thread: the owner's.  Blocking: nothing. */
#ifndef BENCH_LOAD_SSE_H
#define BENCH_LOAD_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { LOAD_EVENT_MAX = 1 << 20, LOAD_DEPTH_MAX = 32, LOAD_TEXT_MAX = 160 };

/* What one JSON object of a stream, or an error body, says. */
struct load_chunk {
    bool is_end;   /* [DONE] */
    bool is_error; /* has a member error; its text is in `error` */
    bool has_choice;
    bool has_text;  /* text, content, reasoning or a tool call, not empty */
    bool finished;  /* a finish_reason */
    bool has_usage; /* with the counts below */
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    char error[LOAD_TEXT_MAX]; /* printable ASCII */
};

/* ERR_BAD_FRAME: not one JSON object, or nested too deeply. */
MUST_USE enum err load_chunk_read(const char *json, size_t len, struct load_chunk *out);

typedef void (*load_chunk_fn)(void *arg, const struct load_chunk *chunk);

struct load_sse {
    struct buf line, data;
    bool after_cr; /* an LF that follows belongs to it */
    bool has_data;
};

/* Calls on_chunk for each event that is complete.  ERR_LIMIT: a line or an event is too long; ERR_BAD_FRAME: an
 * event is no JSON object; ERR_NOMEM.  After an error nothing more may be fed. */
MUST_USE enum err load_sse_feed(struct load_sse *s, const char *bytes, size_t len,
                                load_chunk_fn on_chunk, void *arg);
void load_sse_fini(struct load_sse *s);

#endif
