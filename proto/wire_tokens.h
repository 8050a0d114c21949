/* proto/wire_tokens.h - builds Tokens messages: the items of one step, one frame per front end.
 *
 *   WIRE_TOKENS_INIT (all zero) -> add ... -> each (hands every frame out, empties) -> free
 *
 * Memory is kept from step to step.  Thread: the owner's. */
#ifndef PROTO_WIRE_TOKENS_H
#define PROTO_WIRE_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/wire_frame.h"

enum { WIRE_TOKENS_TOP_MAX = 20 };

struct wire_token {
    uint64_t request;
    uint32_t epoch;
    uint32_t index;
    uint32_t token;
    uint32_t finish;
    bool want_logprobs;
    float logprob;
    uint32_t n_top; /* up to WIRE_TOKENS_TOP_MAX */
    const uint32_t *top_token;
    const float *top_logprob;
};

struct wire_tokens {
    /* private */
    struct wire_tokens_frame *frames; /* one per front end of this step */
    uint32_t n, cap;
};

/* ERR_NOMEM: the item is not in; what was added stays. */
MUST_USE enum err wire_tokens_add(struct wire_tokens *t, uint32_t frontend,
                                  const struct wire_token *item);
/* Calls fn once per front end that got items since the last call; m ends with the call. */
void wire_tokens_each(struct wire_tokens *t,
                      void (*fn)(void *arg, uint32_t frontend, const Baton__Tokens *m), void *arg);
void wire_tokens_free(struct wire_tokens *t);

#endif
