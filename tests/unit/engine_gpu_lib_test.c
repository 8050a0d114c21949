/* The loader of NVIDIA's libraries: what it says of one that is missing or too old, and, where the real ones
 * are (cuda preset), that they have every function that will be asked for.  Needs no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cuda/gpu_lib.h"

static const char *const math_names[] = {"cos", "sin"};
static const char *const odd_names[] = {"cos", "no_such_function"};

static void a_table_is_filled_in_the_order_of_the_list(void **state)
{
    const struct gpu_lib lib = {"the C library's mathematics", "libm.so.6", "libc6", math_names, 2};
    struct {
        double (*cos)(double), (*sin)(double);
    } table = {NULL, NULL};
    struct err_msg msg;

    (void)state;
    assert_int_equal(gpu_lib_load(&lib, &table, sizeof(table), &msg), ERR_OK);
    assert_true(table.cos(0) == 1 && table.sin(0) == 0);
}

static void a_library_that_is_not_there_is_named_with_the_places_and_the_package(void **state)
{
    const struct gpu_lib lib = {"Thing 9", "libno-such-thing.so.9", "thing-wheel", math_names, 2};
    void *table[2] = {NULL, NULL};
    struct err_msg msg;

    (void)state;
    assert_int_equal(gpu_lib_load(&lib, table, sizeof(table), &msg), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "Thing 9"));
    assert_non_null(strstr(msg.text, "libno-such-thing.so.9"));
    assert_non_null(strstr(msg.text, "LD_LIBRARY_PATH"));
    assert_non_null(strstr(msg.text, "thing-wheel"));
    assert_null(table[0]);
}

static void a_library_without_a_function_is_refused_by_that_name(void **state)
{
    const struct gpu_lib lib = {"Thing 9", "libm.so.6", "thing-wheel", odd_names, 2};
    void *table[2];
    struct err_msg msg;

    (void)state;
    assert_int_equal(gpu_lib_load(&lib, table, sizeof(table), &msg), ERR_UNSUPPORTED);
    assert_non_null(strstr(msg.text, "no_such_function"));
}

static void a_table_of_another_size_is_not_written(void **state)
{
    const struct gpu_lib lib = {"Thing 9", "libm.so.6", "thing-wheel", math_names, 2};
    void *table[3] = {NULL, NULL, NULL};
    struct err_msg msg;

    (void)state;
    assert_int_equal(gpu_lib_load(&lib, table, sizeof(table), &msg), ERR_INVALID);
    assert_null(table[0]);
}

static void the_real_libraries_have_every_function(void **state)
{
    static const struct gpu_lib *const real[] = {&gpu_lib_cublas_lt, &gpu_lib_nccl};
    void *table[64];
    struct err_msg msg;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_true(real[i]->n <= 64);
        enum err e = gpu_lib_load(real[i], table, real[i]->n * sizeof(table[0]), &msg);
        if (e == ERR_NOT_FOUND) {
#ifdef BATON_CUDA_LIBRARIES /* the toolkit has them: the test may not pass without */
            fail_msg("%s", msg.text);
#else
            print_message("SKIPPED: %s\n", msg.text);
            skip();
#endif
        }
        if (e != ERR_OK)
            fail_msg("%s", msg.text);
        for (size_t f = 0; f < real[i]->n; f++)
            assert_non_null(table[f]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_is_filled_in_the_order_of_the_list),
        cmocka_unit_test(a_library_that_is_not_there_is_named_with_the_places_and_the_package),
        cmocka_unit_test(a_library_without_a_function_is_refused_by_that_name),
        cmocka_unit_test(a_table_of_another_size_is_not_written),
        cmocka_unit_test(the_real_libraries_have_every_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
