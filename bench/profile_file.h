/* bench/profile_file.h - the class file: what a class of workers can do, as `baton perf profile --out` writes
 * it and the daemon, the simulator and people read it.
 *
 *   name: h100-8b
 *   prefill:                        # optional: not known, learned from nothing
 *     step_us: 2668                 # c[0] of scheduler/sched_law.h
 *     token_us: 20.51               # c[1], per new token
 *     token_pair_us: 0.00038491     # c[2], per n (n + 2 past); default 0
 *     below_knee_us: 12.22          # c[3], per token that n is below the knee; default 0
 *     knee_tokens: 448              # default 0
 *   decode:                         # optional
 *     step_us: 7141                 # c[0]
 *     sequence_us: 8.88             # c[1], per sequence
 *     context_token_us: 0.043198    # c[2], per token of context in all; default 0
 *     above_knee_us: 4.78           # c[3], per sequence above the knee; default 0
 *     knee_sequences: 128           # default 0
 *   kv_bytes_per_token: 131072      # these four may be left out, as struct sched_class says
 *   link_bytes_per_s: 46e9
 *   link_setup_us: 2000
 *   park_bytes_per_s: 55e9
 *
 * The same keys make one class inside the simulator's cluster file: bench_profile_class() reads them there.
 *
 * Thread: any.  Errors: those of bench/yaml_tree.h; msg names file, line, key and range. */
#ifndef BENCH_PROFILE_FILE_H
#define BENCH_PROFILE_FILE_H

#include "base/err.h"
#include "bench/yaml_tree.h"
#include "scheduler/sched_config.h"

/* *out is written whole (frozen: false), and only on ERR_OK. */
MUST_USE enum err bench_profile_read(const char *path, struct sched_class *out,
                                     struct err_msg *msg);
/* The mapping `node` of an open file.  more: keys of the mapping that the caller reads itself, ended by NULL;
 * may be NULL. */
MUST_USE enum err bench_profile_class(const struct bench_yaml *y, int node, const char *const *more,
                                      struct sched_class *out, struct err_msg *msg);
/* Whether a class file could be written there; for those who measure for long first.  ERR_IO, ERR_INVALID. */
MUST_USE enum err bench_profile_writable(const char *path, struct err_msg *msg);
/* comment: lines put first, each after a '#'; may be NULL.  Written beside the path and renamed, so a reader
 * never sees half of it.  ERR_IO; ERR_INVALID: no name, or a value that could not be read back. */
MUST_USE enum err bench_profile_write(const char *path, const struct sched_class *c,
                                      const char *comment, struct err_msg *msg);

#endif
