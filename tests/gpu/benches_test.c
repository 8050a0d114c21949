/* tests/gpu/benches_test.c - every kernel benchmark, on tiny shapes: it finds its kernel right, and reports. */
#include "bench/kernels/gpu_bench.h"

#include "tests/gpu/gpu_test.h"
#ifdef GPU_EMULATED
#include "tests/gpu/emu/gpu_emu.h"
#endif

static void every_benchmark_checks_its_kernel_and_reports_figures(void **state)
{
    struct bench_report report;
    struct err_msg msg = {{0}};

    (void)state;
    bench_report_init(&report, "perf gpu");
    if (gpu_benches_run(test_gpu, true, NULL, &report, &msg) != ERR_OK)
        fail_msg("%s", msg.text);
    assert_true(report.n > 0);
    for (size_t i = 0; i < report.n; i++) {
        if (!(report.v[i].value > 0))
            fail_msg("%s is %g", report.v[i].name, report.v[i].value);
    }
    bench_report_free(&report);
}

static void benchmarks_are_chosen_by_the_beginning_of_their_names(void **state)
{
    struct bench_report report;
    struct err_msg msg = {{0}};

    (void)state;
    bench_report_init(&report, "perf gpu");
    assert_int_equal(gpu_benches_run(test_gpu, true, "nothing,,of,this", &report, &msg), ERR_OK);
    assert_int_equal(report.n, 0);
    assert_int_equal(gpu_benches_run(test_gpu, true, "nothing,rms", &report, &msg), ERR_OK);
    assert_true(report.n > 0);
    for (size_t i = 0; i < report.n; i++)
        assert_memory_equal(report.v[i].name, "rmsnorm.", 8);
    bench_report_free(&report);
}

#ifdef GPU_EMULATED /* a device that can be told to break.  The last test: nothing runs after it */
static void on_a_lost_device_no_further_benchmark_is_begun(void **state)
{
    struct bench_report report;
    struct err_msg msg = {{0}};

    (void)state;
    bench_report_init(&report, "perf gpu");
    gpu_emu_fail_after(1);
    assert_int_equal(gpu_benches_run(test_gpu, true, NULL, &report, &msg), ERR_DEVICE);
    assert_int_equal(report.n, 1);
    assert_string_equal(report.v[0].name, "ceiling.failed");
    bench_report_free(&report);
}
#endif

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_benchmark_checks_its_kernel_and_reports_figures),
        cmocka_unit_test(benchmarks_are_chosen_by_the_beginning_of_their_names),
#ifdef GPU_EMULATED
        cmocka_unit_test(on_a_lost_device_no_further_benchmark_is_begun),
#endif
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
