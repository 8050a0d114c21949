/* bench/perf_gpu.h - `baton perf gpu`: every GPU kernel of this build on one device: checked against its reference,
 * then timed, beside the copy bandwidth of the same device in the same run.
 *
 *   KERNEL.what.shape        GB/s or TFLOP/s  against the bytes or operations that the kernel's header declares
 *   KERNEL.failed            errors           it computed something else than its reference, or did not run
 *
 * Thread: the caller's.  Blocking: for seconds. */
#ifndef BENCH_PERF_GPU_H
#define BENCH_PERF_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct bench_perf_gpu_options {
    uint32_t device;
    const char *only; /* kernels whose names begin so, comma-separated; NULL: all */
};

/* Prints the report, also where a kernel failed.  ERR_UNSUPPORTED: a build without the CUDA backend.
 * ERR_NOT_FOUND: no such device.  ERR_CORRUPT: a kernel is wrong; msg says which, and where. */
MUST_USE enum err bench_perf_gpu(const struct bench_perf_gpu_options *options, bool json,
                                 struct err_msg *msg);

#endif
