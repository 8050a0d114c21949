/* daemon/gen.h - one generation (one choice of a response): takes tokens from workers in any order,
 * keeps the token log that a resumed attempt starts from, and turns tokens into certain text.
 *
 *   daemon_gen_init -> daemon_gen_take ... until done -> daemon_gen_fini
 *
 * Token i is accepted once, in order, and only from the current epoch; so nothing is lost, doubled or
 * contradicted however often the request moves between workers.
 *
 * Thread: the loop's.  Ownership: embedded in its call; prompt ids, sampling and stop strings belong to
 * the call's request and outlive it. */
#ifndef DAEMON_GEN_H
#define DAEMON_GEN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "daemon/stop.h"
#include "engine/engine_sample.h"
#include "engine/engine_tok.h"

/* A token as it came in. */
struct daemon_token {
    uint32_t index;
    int32_t id;
    uint8_t finish; /* 0 goes on, 1 stop token, 2 length */
    uint8_t n_top;
    float logprob;
    struct engine_top *top; /* n_top, owned; NULL if none */
};

enum daemon_finish { DAEMON_FINISH_NONE = 0, DAEMON_FINISH_STOP, DAEMON_FINISH_LENGTH };

struct daemon_gen_config {
    const struct engine_tok *tok; /* NULL: no tokenizer, pieces are shown as numbers */
    bool with_special;            /* show special tokens */
    bool continues;               /* the text goes on after a prompt */
    bool keep_stop;               /* include_stop_str_in_output */
    uint32_t min_tokens;          /* no stop string counts before */
    char *const *stop;
    const size_t *stop_len;
    size_t n_stop;
};

struct daemon_gen {
    /* read-only */
    uint64_t id;
    uint32_t epoch;
    enum daemon_finish finish;
    bool by_stop_string;      /* finish STOP, found here: the worker does not know yet */
    struct daemon_token *log; /* accepted tokens */
    uint32_t n_log;
    struct buf text; /* certain and not yet sent; the owner consumes it */
    uint64_t late;   /* tokens dropped: old epoch or already accepted */
    /* private */
    struct daemon_gen_config c;
    uint32_t cap_log;
    struct daemon_token *early; /* came before their turn */
    uint32_t n_early, cap_early;
    struct engine_detok detok;
    struct daemon_stop stop;
};

void daemon_gen_init(struct daemon_gen *g, uint64_t id, const struct daemon_gen_config *c);
/* A new attempt: tokens of older ones count no more. */
void daemon_gen_set_epoch(struct daemon_gen *g, uint32_t epoch);
/* t->top is taken over (or freed).  *accepted: how many tokens joined the log.  ERR_NOMEM: the generation
 * cannot go on. */
MUST_USE enum err daemon_gen_take(struct daemon_gen *g, uint32_t epoch, struct daemon_token *t,
                                  uint32_t *accepted);
/* The piece of a token as text. */
const char *daemon_gen_piece(const struct engine_tok *tok, int32_t id, bool with_special,
                             char scratch[16], size_t *len);
void daemon_gen_fini(struct daemon_gen *g);

#endif
