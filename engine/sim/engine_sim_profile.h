/* engine/sim/engine_sim_profile.h - how long things take in the sim backend, and its KV shape.
 *
 * A profile file has one `key: value` a line, `#` comments and blank lines (so it is YAML, of the
 * simplest kind).  A key that is not in the table, comes twice, or whose value is out of range is
 * refused with its line and the allowed range.  What is not given is 0, save where noted.
 *
 * The time of a step, in ms (n new tokens of a prefill chunk, p tokens before it, b decoding slots, S
 * the sum of their contexts):
 *
 *   prefill = prefill_base + prefill_token * sum n + prefill_square * sum n (n + 2p)
 *             + prefill_short * max(0, prefill_short_tokens - sum n)
 *   decode  = decode_base + decode_slot * b + decode_context * S
 *             + decode_wide * max(0, b - decode_wide_slots)
 *   mixed   = decode + max(0, prefill - prefill_base - mixed_overlap)
 *
 * times time_scale, times 1 + jitter * u with u uniform in [-1, 1] from jitter_seed and the number of
 * the step.  A slot with one new token behind position 0 counts as decoding.
 *
 * Thread: any. */
#ifndef ENGINE_SIM_ENGINE_SIM_PROFILE_H
#define ENGINE_SIM_ENGINE_SIM_PROFILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct engine_sim_profile {
    double prefill_base_ms, prefill_token_ms, prefill_square_ms, prefill_short_ms,
        prefill_short_tokens;
    double decode_base_ms, decode_slot_ms, decode_context_ms, decode_wide_ms, decode_wide_slots;
    double mixed_overlap_ms;
    double jitter, jitter_seed;
    double time_scale;         /* 1 if not given */
    double load_ms;            /* what opening takes */
    double kv_layers;          /* 4 */
    double kv_heads;           /* 1 */
    double kv_head_dim;        /* 1; elements of 8 bytes */
    double vocab, max_context; /* 0: from config.json, else 32,000 and 32,768 */
    double mean_output_tokens; /* 0: never ends by itself; else geometric, needs a stop id */
    double verify_all;         /* 1: check a sequence's whole KV in every step, not a part */
};

/* The work of one step. */
struct engine_sim_load {
    uint32_t prefill_tokens, decode_slots;
    double prefill_square; /* sum of n (n + 2p) */
    double decode_context; /* sum of contexts */
};

void engine_sim_profile_defaults(struct engine_sim_profile *p);
/* ERR_NOT_FOUND: no such file; ERR_IO; ERR_INVALID with file, line, and what is allowed. */
MUST_USE enum err engine_sim_profile_read(const char *path, struct engine_sim_profile *out,
                                          struct err_msg *msg);
/* The same from memory; `name` stands in messages. */
MUST_USE enum err engine_sim_profile_parse(const char *name, const char *text, size_t len,
                                           struct engine_sim_profile *out, struct err_msg *msg);

/* Nanoseconds that step number `step` takes. */
uint64_t engine_sim_profile_time(const struct engine_sim_profile *p,
                                 const struct engine_sim_load *load, uint64_t step);

#endif
