/* bench/perf_profile.h - `baton perf profile`: what a class of workers takes for a step, measured and fitted to the
 * law that the scheduler predicts with.
 *
 * Prefill steps over a grid of (new tokens, tokens before them) and decode steps over (sequences, context of each);
 * the lower quartile of repeated steps is fitted by relative least squares.  The engine keeps nothing between steps, so all
 * sequences share one prompt whose KV is computed once and copied.
 *
 *   profile.prefill.mape       1         mean relative error of the law over the grid
 *   profile.prefill.max_error  1
 *   profile.prefill.points     1         grid points measured
 *   profile.prefill.step, .token, .token_pair, .below_knee   us   the coefficients, as bench/profile_file.h names them
 *   profile.prefill.knee       tokens
 *   profile.decode.mape, .max_error, .points
 *   profile.decode.step, .sequence, .context_token, .above_knee   us
 *   profile.decode.knee        sequences
 *   profile.kv.bytes_per_token B
 *   profile.kv.copy            GB/s      block by block within this machine's memory (of device memory: out of it and
 *                                        in again, the slower): what a hand-over over shared memory can reach; links
 *                                        learn their own rate in service
 *   profile.park               GB/s      the slower of a pool's blocks out to host memory and back
 *   profile.seconds            s         what it took
 *
 * Thread     the caller's; the engine starts threads of its own.
 * Blocking   up to the time given, and one step more; with the default 20 s, under 30 s in all for a model that
 *            takes at most a second or two a step. */
#ifndef BENCH_PERF_PROFILE_H
#define BENCH_PERF_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct bench_perf_profile_options {
    const char *model_dir;    /* may be NULL for backend sim */
    const char *backend;      /* NULL: "cpu" */
    const char *sim_profile;  /* backend sim: its profile; NULL: steps of no time */
    const char *name;         /* of the class; NULL: the backend's */
    const char *out;          /* class file to write; NULL: none */
    uint32_t threads;         /* 0: as many as cores the process may use */
    uint32_t tp;              /* ranks that share the model; 0: 1 */
    uint32_t max_step_tokens; /* 0: 512 */
    uint32_t max_batch;       /* 0: 64 */
    double seconds;           /* to spend on steps; 0: 20 */
};

/* Prints the report.  Errors of engine_open and bench_profile_write are passed on; ERR_NOMEM; ERR_DEVICE: a step failed;
 * ERR_TIMEOUT: not even the smallest steps could be measured in the time. */
MUST_USE enum err bench_perf_profile(const struct bench_perf_profile_options *options, bool json,
                                     struct err_msg *msg);

#endif
