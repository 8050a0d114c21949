/* bench/load_options.h - what `baton bench` was asked to do.
 *
 *   load_options_parse -> read; nothing to free
 *
 * Thread: the caller's.  Ownership: paths and names point into argv.  Units: s in doubles, tokens. */
#ifndef BENCH_LOAD_OPTIONS_H
#define BENCH_LOAD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "bench/load_http.h"
#include "bench/outcome.h"
#include "bench/trace.h"

enum {
    LOAD_RATES_MAX = 32,
    LOAD_KEY_MAX = 512,
    LOAD_REPORT_RUNS_MAX = 64,
    LOAD_REPEATS_MAX = 96,
    LOAD_RUNS_MAX = 96
};

enum load_criterion { LOAD_FIND_NONE = 0, LOAD_FIND_TIER90, LOAD_FIND_GOLD99, LOAD_FIND_ALL90 };

struct load_tier {
    char name[32];
    double share, weight, ttft_s, tbt_s;
    double ttft_factor;     /* times the prompt's undisturbed prefill, added to ttft_s */
    char key[LOAD_KEY_MAX]; /* "": none of its own */
};

struct load_options {
    struct load_url url;
    /* arrivals */
    const char *trace_path;
    bool has_arrival;
    enum bench_arrival arrival;
    double rate[LOAD_RATES_MAX]; /* 1/s; with a trace: its mean is brought there */
    uint32_t n_rates;
    double speedup, burstiness;
    double duration_s; /* 0: of the whole trace */
    uint64_t max_requests;
    uint32_t concurrency; /* 0: no bound, nothing waits in the client */
    uint64_t seed;
    /* prompts */
    bool chat, text;
    double in_mean, in_sigma, out_mean, out_sigma, length_scale;
    uint32_t in_max, out_max;
    uint32_t prefix_tokens, n_prefixes;
    uint32_t vocab; /* 0: what the server says */
    const char *model;
    bool no_stream;  /* answers in one piece */
    bool stop_early; /* an end-of-text token may end the answer */
    const char *extra_body;
    /* tiers */
    struct load_tier tier[BENCH_TIERS_MAX];
    uint32_t n_tiers;
    bool names_tiers; /* --tiers was given: the tier is sent */
    char key[LOAD_KEY_MAX];
    double isolated_s[3]; /* base, per token, per token squared */
    bool send_slo;
    /* run */
    double warmup_s, cooldown_s, timeout_s, cancel_rate, lag_bound_s;
    uint32_t repeats; /* of each rate, with seed, seed + 1, ... */
    enum load_criterion find;
    double tolerance;
    /* output */
    bool json, quiet;
    const char *label, *out_summary, *out_requests, *out_run, *report;
    const char *compare[LOAD_REPORT_RUNS_MAX]; /* runs written before, to show beside this one */
    uint32_t n_compare;
};

/* argv behind the command word.  ERR_INVALID and ERR_UNSUPPORTED: msg says which option and what it takes.
 * ERR_CANCELED: --help was asked for and printed. */
MUST_USE enum err load_options_parse(int argc, char **argv, struct err_msg *msg,
                                     struct load_options *out);
/* The command line as it may be shown to others: no keys, folders or hosts. */
void load_options_line(int argc, char **argv, char *out, size_t room);
void load_options_help(FILE *to);
/* Target of the first token of a prompt of n tokens. */
double load_ttft_target(const struct load_options *o, const struct load_tier *t, uint32_t n_prompt);

#endif
