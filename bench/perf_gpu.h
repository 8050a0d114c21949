/* bench/perf_gpu.h - `baton perf gpu`: what the CUDA backend makes of a card, as shares of what the card can do,
 * measured in the same run.
 *
 *   NAME.*                     GB/s, TFLOP/s   every benchmark of bench/kernels (ceiling.copy and ceiling.product first;
 *                                              ceiling.product.sustained is what the card holds for a second)
 *   gpu.prefill.N              tokens/s        one prompt of N tokens (2048, 8192) in one step; reference: all the
 *                                              model's operations at the measured peak of 16-bit products.  Of the
 *                                              head only the last token's count; of the last layer all do, though
 *                                              the engine leaves out what no one reads (2.8 % of the whole)
 *   gpu.decode.B.C             tokens/s        B streams of C tokens of context (1 and 64 of 2048); reference: the bytes
 *                                              that a step must read, at the measured copy bandwidth
 *   gpu.decode.B.C.host        1               the host's share of a step: planning, enqueuing, reading results
 *   gpu.profile.STEP.OP        ms              what each kind of kernel takes of one such step, run one by one
 *   gpu.load                   GB/s            bytes of weights by the time of the whole opening,
 *                                              trials of products included (not with random weights)
 *   gpu.kv.tokens              tokens          room of the pool with 0.9 of the card
 *
 * Weights are random, of the shape of the model's config.json; without a model that of Llama 3.1 8B in bf16.
 * On the emulated device of the tests prompts are tiny and the figures mean nothing.
 *
 * Thread     the caller's; the engine starts threads of its own.
 * Blocking   one to three minutes. */
#ifndef BENCH_PERF_GPU_H
#define BENCH_PERF_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"

struct bench_perf_gpu_options {
    const char *model_dir; /* NULL: the shape of Llama 3.1 8B; "-": none, the kernels alone */
    const char
        *only; /* comma-separated beginnings of names of kernel benchmarks; NULL: all, "-": none */
    uint32_t device;
    enum engine_weights weights;
    uint64_t seed; /* of random weights; 0: the weights of model_dir */
};

/* Prints the report, also of what was measured before a failure; a kernel's does not keep the model from being timed.
 * ERR_UNSUPPORTED: this build has no CUDA backend.  Errors of gpu_open, gpu_benches_run and engine_open are passed on;
 * ERR_DEVICE: a step failed. */
MUST_USE enum err bench_perf_gpu(const struct bench_perf_gpu_options *options, bool json,
                                 struct err_msg *msg);

#endif
