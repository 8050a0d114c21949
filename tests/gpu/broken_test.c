/* What engine/gpu.h owes after a kernel has broken the device: the error at the next wait, its text, and an end. */
#include "tests/gpu/gpu_test.h"

#include "engine/kernels/dequantize.h"
#ifdef GPU_EMULATED
#include "tests/gpu/emu/gpu_emu.h"
#endif

/* A kernel that writes where no memory is. */
static enum err break_device(void *d)
{
    void *nowhere = (void *)(uintptr_t)256;

#ifdef GPU_EMULATED
    gpu_emu_fail_after(1);
    nowhere = d; /* it would end the whole program here */
#endif
    return dequantize(&(struct dequantize_args){.y = nowhere,
                                                .q = d,
                                                .scale = d,
                                                .rows = 1,
                                                .cols = 256,
                                                .dtype = GPU_BF16,
                                                .format = GPU_WEIGHT_INT8},
                      test_stream);
}

static void a_broken_device_says_so_at_the_next_wait_and_lets_go(void **state)
{
    void *d = NULL, *more = NULL;
    gpu_event e = NULL;
    char first[320];
    enum err recorded;

    (void)state;
    TEST_OK(gpu_alloc(test_gpu, 4096, &d));
    TEST_OK(gpu_fill(d, 0, 4096, test_stream));
    TEST_OK(gpu_event_create(test_gpu, false, &e));
    test_wait();
    TEST_OK(break_device(d));
    recorded = gpu_event_record(e, test_stream);
    assert_true(recorded == ERR_OK || recorded == ERR_DEVICE); /* it may know already */
    assert_int_equal(ERR_DEVICE,
                     gpu_stream_wait(test_stream, clock_now_ns() + 60 * CLOCK_NS_PER_S));
    assert_string_not_equal(gpu_trouble(), "");
    print_message("%s\n", gpu_trouble());
    snprintf(first, sizeof(first), "%s", gpu_trouble());
    assert_int_equal(ERR_DEVICE, gpu_event_query(e));
    assert_int_equal(ERR_DEVICE, gpu_event_wait(e, clock_now_ns() + CLOCK_NS_PER_S));
    assert_int_equal(ERR_DEVICE, gpu_alloc(test_gpu, 4096, &more));
    assert_int_equal(ERR_DEVICE, gpu_fill(d, 0, 4096, test_stream));
    assert_string_equal(first, gpu_trouble()); /* the first failure is the cause */
    gpu_event_destroy(e);
    gpu_free(test_gpu, d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_device_says_so_at_the_next_wait_and_lets_go),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
