/* engine/engine_sample.h - from logits to a token: penalties, bias, temperature, top-k, top-p, min-p.
 *
 * Order of operations: repetition penalty (prompt and output tokens), presence and frequency penalty
 * (output tokens only), logit bias, ban of stop ids below min_tokens, [logprobs are taken here: log
 * softmax of these logits], temperature, top-k, top-p, min-p, draw.  temperature 0 = greedy (lowest id
 * wins a tie).  The draw uses a counter-based generator keyed by (seed, index of the generated token),
 * so a stream that is resumed elsewhere draws what it would have drawn.
 *
 * Pure code.  Thread: any; a history belongs to its owner. */
#ifndef ENGINE_ENGINE_SAMPLE_H
#define ENGINE_ENGINE_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { ENGINE_TOP_LOGPROBS_MAX = 20, ENGINE_BIAS_MAX = 1024, ENGINE_STOP_IDS_MAX = 64 };

struct engine_bias {
    int32_t token;
    float bias;
};

/* All fields are checked by engine_sampling_check before they reach an engine. */
struct engine_sampling {
    float temperature;        /* 0 = greedy, up to 100 */
    float top_p;              /* (0, 1] */
    float min_p;              /* [0, 1] */
    int32_t top_k;            /* <= 0: off */
    float repetition_penalty; /* > 0, 1 = off */
    float presence_penalty;   /* -2 .. 2 */
    float frequency_penalty;  /* -2 .. 2 */
    uint64_t seed;
    bool want_logprobs;
    uint32_t n_top;      /* alternatives to report, 0 .. ENGINE_TOP_LOGPROBS_MAX */
    uint32_t min_tokens; /* stop ids cannot be drawn before this many tokens were generated */
    const int32_t *
        stop_ids; /* banned while sample_index < min_tokens; sampling one is the caller's cue to end */
    uint32_t n_stop_ids;
    const struct engine_bias *bias;
    uint32_t n_bias;
};

struct engine_top {
    int32_t token;
    float logprob;
};

struct engine_sampled {
    int32_t token;
    float logprob; /* of the token, natural log; 0 unless want_logprobs */
    uint32_t n_top;
    struct engine_top top[ENGINE_TOP_LOGPROBS_MAX]; /* most likely first */
};

/* Token counts for the penalties: create once per sequence, add each token as it becomes part of it. */
struct engine_history;
MUST_USE enum err engine_history_create(struct engine_history **out); /* ERR_NOMEM */
MUST_USE enum err engine_history_add(struct engine_history *h, int32_t token, bool is_output);
void engine_history_destroy(struct engine_history *h); /* NULL is fine */

/* Does this sampling need a history? */
bool engine_sampling_uses_history(const struct engine_sampling *s);
/* Are its stop ids banned from this token? */
bool engine_sampling_bans_stops(const struct engine_sampling *s, uint32_t sample_index);
/* The token where no logit is above -inf: the lowest id that is not a banned stop id. */
int32_t engine_sampling_fallback(const struct engine_sampling *s, uint32_t vocab,
                                 uint32_t sample_index);
/* Greedy, no penalties, seed 0. */
void engine_sampling_defaults(struct engine_sampling *s);
/* ERR_INVALID with the field named; vocab bounds the token ids in stop_ids and bias. */
MUST_USE enum err engine_sampling_check(const struct engine_sampling *s, uint32_t vocab,
                                        struct err_msg *msg);

/* Pick a token.  logits[vocab] is scratch: overwritten.  h may be NULL where no penalty needs it.
 * scratch: engine_sample_scratch_bytes(vocab) bytes, 8-byte aligned. */
size_t engine_sample_scratch_bytes(uint32_t vocab);
void engine_sample(float *logits, uint32_t vocab, const struct engine_sampling *s,
                   const struct engine_history *h, uint32_t sample_index, void *scratch,
                   struct engine_sampled *out);

#endif
