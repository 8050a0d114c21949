/* bench/trace.h - arrivals to replay: read from a file of a known format, or drawn from a seed.
 *
 *   bench_trace_load / bench_trace_draw -> rows in order of time -> bench_trace_free
 *
 * Formats, recognised by content (.gz too): Azure LLM inference CSV (TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake JSONL
 * (timestamp ms, input_length, output_length, hash_ids of 512-token blocks), vLLM/ShareGPT-style JSON (an array
 * of conversations, or JSONL with prompt_len/prompt and output_tokens/output_len), BurstGPT CSV.
 * Coarse time stamps (many equal ones) are spread evenly over their step by the seed.
 *
 * Thread: the caller's.  Ownership: the trace owns its arrays.  Units: s, tokens. */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct bench_trace_row {
    double at_s;          /* from the start of the trace, before any speed-up */
    uint32_t n_prompt;    /* >= 1 */
    uint32_t n_out;       /* >= 1 */
    uint64_t session;     /* rows of one conversation or template share it; 0: unknown */
    uint32_t first_block; /* into blocks: ids of its 512-token blocks; n_blocks 0: unknown */
    uint32_t n_blocks;
    uint32_t text, text_len; /* into text: the prompt itself; 0 length: draw one */
};
struct bench_trace {
    char name[64]; /* short, for result names: azure-conv, mooncake, poisson */
    struct bench_trace_row *v;
    size_t n;
    uint64_t *blocks;
    size_t n_blocks;
    char *text;
    double seconds; /* length: the last arrival and one mean gap */
};

/* ERR_NOT_FOUND, ERR_IO, ERR_INVALID (format, row and field named), ERR_NOMEM, ERR_LIMIT (over 50 million rows). */
MUST_USE enum err bench_trace_load(const char *path, uint64_t seed, struct err_msg *msg,
                                   struct bench_trace *out);

enum bench_arrival {
    BENCH_ARRIVE_POISSON = 0,
    BENCH_ARRIVE_CONSTANT,
    BENCH_ARRIVE_GAMMA, /* burstiness: the shape; cv = 1 / sqrt(shape) */
    BENCH_ARRIVE_RAMP,  /* rate grows linearly from 0.1 to 1.9 of the mean */
    BENCH_ARRIVE_NHPP   /* Poisson whose rate follows piece[] (relative, equal lengths) */
};
struct bench_draw {
    enum bench_arrival arrival;
    double rate, seconds, burstiness;
    const double *piece;
    uint32_t n_pieces;
    double in_mean, in_sigma, out_mean, out_sigma; /* lognormal; sigma 0: constant */
    double in_pareto, out_pareto;                  /* > 1: Pareto with this shape instead */
    uint32_t in_max, out_max;                      /* 0 = 131072, 4096 */
    uint64_t seed;
};
MUST_USE enum err bench_trace_draw(const struct bench_draw *d, struct err_msg *msg,
                                   struct bench_trace *out);
/* Lengths (and blocks) of `from`, arrivals drawn anew. */
MUST_USE enum err bench_trace_redraw(const struct bench_trace *from, const struct bench_draw *d,
                                     struct err_msg *msg, struct bench_trace *out);
void bench_trace_free(struct bench_trace *t);

/* One stream of random numbers: splitmix64; the same seed gives the same numbers on every machine. */
struct bench_rng {
    uint64_t s;
};
uint64_t bench_rng_next(struct bench_rng *r);
double bench_rng_unit(struct bench_rng *r); /* [0, 1) */
double bench_rng_exp(struct bench_rng *r);  /* mean 1 */
double bench_rng_normal(struct bench_rng *r);
double bench_rng_gamma(struct bench_rng *r, double shape); /* mean shape */
/* Tier by share (they need not sum to 1) from a hash of (seed, i): the same for every policy and speed. */
uint32_t bench_pick_tier(uint64_t seed, uint64_t i, const double *share, uint32_t n);

#endif
