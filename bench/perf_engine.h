/* bench/perf_engine.h - `baton perf engine`: prefill and decode speed of the CPU engine on a model,
 * beside the machine's limits measured in the same run.
 *
 * Names: engine.prefill.512, engine.prefill.2048 (a prompt of so many tokens), engine.decode.1, .8, .32
 * (so many streams at once from a context of 32), all in tokens/s; machine.read (GB/s),
 * machine.flops.f32, machine.flops.bf16 (GFLOP/s).  A reference of a prefill is arithmetic alone at the
 * measured peak of the type in use; of a decode, the larger of that time and of reading all weights
 * once at the measured bandwidth.
 *
 * Thread     the caller's; starts threads of its own and ends them.
 * Blocking   half a minute to a few minutes, by model size. */
#ifndef BENCH_PERF_ENGINE_H
#define BENCH_PERF_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Prints to standard output: a table, or with json one object.  threads: 0 = all cores the process may
 * use; tp: ranks that share the model, 0 = 1.  Errors of engine_open are passed on; ERR_NOMEM; ERR_DEVICE: a step failed. */
MUST_USE enum err bench_perf_engine(const char *model_dir, uint32_t threads, uint32_t tp, bool json,
                                    struct err_msg *msg);

#endif
