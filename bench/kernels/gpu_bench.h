/* bench/kernels/gpu_bench.h - what the benchmarks of kernels share: memory, random data, time by the device's clock.
 *
 * bench/kernels/NAME_bench.c defines `const struct gpu_bench NAME_bench` and adds NAME to kernels.cmake.  Its run
 * function makes inputs, checks one launch against NAME_ref, times, and reports rows, named "NAME.what.shape".
 *
 * Every timed launch works on another copy of what it reads and writes, so many that they do not stay in the
 * second-level cache: a figure is of device memory, as in a model's step, where other layers lie between.
 * Launches stand in a graph, so the time between them is the device's, not the host's.
 *
 * r->small: on the emulation.  Shapes are then tiny, and the figures mean nothing: only that the code runs.
 *
 * Thread     one.  Ownership  memory of gpu_bench_alloc and gpu_bench_host goes when the run function returns. */
#ifndef BENCH_KERNELS_GPU_BENCH_H
#define BENCH_KERNELS_GPU_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "bench/perf_report.h"
#include "engine/gpu.h"

struct gpu_bench_run {
    struct gpu *gpu;
    gpu_stream stream;
    bool small;
    struct bench_report *report;
    struct err_msg *msg;
    struct gpu_bench_memory *memory; /* gpu_bench.c's */
};

struct gpu_bench {
    const char *name;
    enum err (*run)(struct gpu_bench_run *r);
};

/* Runs those whose name begins with one of the comma-separated prefixes in `only` (NULL: all).  A benchmark that fails
 * is a row "NAME.failed" of unit "errors", and the others go on unless the device is lost; the first failure is returned,
 * with its text. */
MUST_USE enum err gpu_benches_run(struct gpu *g, bool small, const char *only,
                                  struct bench_report *report, struct err_msg *msg);

/* ---- for run functions ---- */

/* Device memory, 256-byte aligned.  ERR_NOMEM, ERR_DEVICE. */
MUST_USE enum err gpu_bench_alloc(struct gpu_bench_run *r, size_t bytes, void **out);
/* Host memory that the device may copy from and to. */
MUST_USE enum err gpu_bench_host(struct gpu_bench_run *r, size_t bytes, void **out);
/* n normal values of this size, in a 16-bit type; the values repeat after a million. */
MUST_USE enum err gpu_bench_random(struct gpu_bench_run *r, enum gpu_dtype dtype, void *device,
                                   size_t n, float size);
/* Copies to host memory of gpu_bench_host, or to the device, and waits. */
MUST_USE enum err gpu_bench_copy(struct gpu_bench_run *r, void *dst, const void *src, size_t bytes,
                                 enum gpu_copy_kind kind);
/* How many copies of a working set of `bytes` are needed to read it from memory each time, 1 .. 64. */
uint32_t gpu_bench_copies(const struct gpu_bench_run *r, size_t bytes);
/* ERR_CORRUPT with the element named unless each of n values of the device is within relative * |want| + absolute. */
MUST_USE enum err gpu_bench_check(struct gpu_bench_run *r, const char *what, enum gpu_dtype dtype,
                                  const void *device, const float *want, size_t n, double relative,
                                  double absolute);
/* One 16-bit value, of and to the host. */
float gpu_bench_widen(enum gpu_dtype dtype, uint16_t bits);
uint16_t gpu_bench_narrow(enum gpu_dtype dtype, float value);

/* Median seconds of one launch; `launch` enqueues the i-th of a row of them on s. */
MUST_USE enum err gpu_bench_time(struct gpu_bench_run *r,
                                 enum err (*launch)(void *arg, uint32_t i, gpu_stream s), void *arg,
                                 double *seconds);
/* A row; higher is better.  Then, where there is a ceiling or a peer of the same run: what the row stands beside. */
void gpu_bench_report(struct gpu_bench_run *r, const char *name, double value, const char *unit);
/* A row of GB/s from the bytes a launch moves, beside the copy bandwidth of this run. */
void gpu_bench_report_bytes(struct gpu_bench_run *r, const char *name, double bytes,
                            double seconds);
/* The bytes per second a device-to-device copy reads and writes, measured at the first call of a run; 0: it failed. */
double gpu_bench_copy_rate(struct gpu_bench_run *r);

#endif
