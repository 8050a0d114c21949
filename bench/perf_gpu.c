/* bench/perf_gpu.c - see the header for the contract. */
#include "bench/perf_gpu.h"

#ifdef BATON_CUDA

#include "bench/kernels/gpu_bench.h"
#include "bench/perf_report.h"
#include "engine/gpu.h"

enum err bench_perf_gpu(const struct bench_perf_gpu_options *options, bool json,
                        struct err_msg *msg)
{
    struct bench_report report;
    struct gpu *g;
    enum err err, printed;

    if ((err = gpu_open(options->device, msg, &g)) != ERR_OK)
        return err;
    bench_report_init(&report, "perf gpu");
    err = gpu_benches_run(g, false, options->only, &report, msg);
    printed = bench_report_print(&report, json);
    bench_report_free(&report);
    gpu_close(g);
    return err != ERR_OK ? err : printed;
}

#else

enum err bench_perf_gpu(const struct bench_perf_gpu_options *options, bool json,
                        struct err_msg *msg)
{
    (void)options, (void)json;
    return err_set(msg, ERR_UNSUPPORTED,
                   "this build has no CUDA backend; configure with -DBATON_CUDA=ON (preset cuda)");
}

#endif
