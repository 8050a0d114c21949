/* Contract tests for opening devices through engine/gpu.h: they pass with a device and without one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/gpu.h"

/* What gpu_count has to say here; NULL: whatever is true of this machine. */
static const char *expected;

static void
a_machine_without_a_usable_device_says_which_part_is_missing_and_what_to_do(void **state)
{
    static const char *const starts[] = {"no CUDA driver: ", "the CUDA driver is too old: ",
                                         "no CUDA device: ", "no usable CUDA device: "};
    static const char *const remedies[] = {"install the NVIDIA driver", "update the NVIDIA driver",
                                           "CUDA_VISIBLE_DEVICES", "nvidia-smi"};
    struct err_msg msg = {""}, open_msg = {""};
    struct gpu *g = NULL;
    bool explained = false;

    (void)state;
    if (gpu_count(&msg) != 0) {
        assert_null(expected);
        print_message("this machine has a device: nothing to explain\n");
        return;
    }
    print_message("%s\n", msg.text);
    for (size_t i = 0; i < 4; i++)
        explained |= strncmp(msg.text, starts[i], strlen(starts[i])) == 0 &&
                     strstr(msg.text, remedies[i]) != NULL;
    assert_true(explained);
    if (expected != NULL)
        assert_memory_equal(msg.text, expected, strlen(expected));
    assert_int_equal(gpu_open(0, &open_msg, &g), ERR_NOT_FOUND);
    assert_string_equal(open_msg.text, msg.text);
    assert_null(g);
    assert_int_equal(mem_live(), 0);
}

static void a_device_number_beyond_the_last_is_refused_with_the_number_there_are(void **state)
{
    struct err_msg msg = {""};
    struct gpu *g = NULL;
    uint32_t count = gpu_count(&msg);
    char want[32];

    (void)state;
    assert_int_equal(gpu_open(count + 7, &msg, &g), ERR_NOT_FOUND);
    assert_null(g);
    snprintf(want, sizeof(want), "GPU %u: ", count + 7);
    if (count != 0)
        assert_non_null(strstr(msg.text, want));
}

static void a_missing_device_is_no_failure_of_a_device(void **state)
{
    (void)state;
    (void)gpu_count(NULL);
    assert_string_equal(gpu_trouble(), "");
}

static void the_first_failure_is_the_one_that_is_kept(void **state)
{
    (void)state;
    assert_int_equal(gpu_fail("first", "an illegal address"), ERR_DEVICE);
    assert_int_equal(gpu_fail("second", "whatever follows from it"), ERR_DEVICE);
    assert_string_equal(gpu_trouble(), "first: an illegal address");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            a_machine_without_a_usable_device_says_which_part_is_missing_and_what_to_do),
        cmocka_unit_test(a_device_number_beyond_the_last_is_refused_with_the_number_there_are),
        cmocka_unit_test(a_missing_device_is_no_failure_of_a_device),
        cmocka_unit_test(the_first_failure_is_the_one_that_is_kept),
    };

    expected = argc > 1 ? argv[1] : NULL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
