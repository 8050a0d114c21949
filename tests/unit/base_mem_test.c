/* tests/unit/base_mem_test.c - counted allocation, its failure switch, checked sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static void live_blocks_are_counted_whatever_made_them(void **state)
{
    size_t before = mem_live();
    void *p[6];

    (void)state;
    p[0] = mem_try_alloc(0);
    p[1] = mem_try_calloc(3, 5);
    p[2] = mem_try_realloc(NULL, 10);
    p[3] = mem_try_aligned(64, 100);
    p[4] = mem_try_strdup("abc");
    p[5] = mem_try_strndup("abcdef", 2);
    for (int i = 0; i < 6; i++)
        assert_non_null(p[i]);
    assert_int_equal(mem_live(), before + 6);
    p[2] = mem_try_realloc(p[2], 1000);
    assert_int_equal(mem_live(), before + 6);
    assert_int_equal((uintptr_t)p[3] % 64, 0);
    assert_string_equal(p[4], "abc");
    assert_string_equal(p[5], "ab");
    assert_memory_equal(p[1], "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 15);
    for (int i = 0; i < 6; i++)
        mem_free(p[i]);
    mem_free(NULL);
    assert_int_equal(mem_live(), before);
}

static void the_nth_allocation_fails_once_and_leaves_no_trace(void **state)
{
    size_t before = mem_live();
    char *p = mem_try_strdup("keep");
    void *a, *b;

    (void)state;
    mem_fail_at(1);
    a = mem_try_alloc(10);
    b = mem_try_calloc(1, 10);
    assert_non_null(a);
    assert_null(b);
    b = mem_try_alloc(10); /* only the one */
    assert_non_null(b);
    mem_fail_at(0);
    assert_null(mem_try_realloc(p, 4000));
    assert_string_equal(p, "keep"); /* a failed realloc leaves the block as it was */
    mem_fail_at(0);
    assert_null(mem_try_aligned(64, 10));
    mem_fail_at(0);
    assert_null(mem_try_strdup("x"));
    mem_fail_at(0);
    mem_fail_at(-1);
    mem_free(a);
    a = mem_try_alloc(1);
    assert_non_null(a);
    mem_free(a);
    mem_free(b);
    mem_free(p);
    assert_int_equal(mem_live(), before);
}

static void sizes_that_overflow_are_refused(void **state)
{
    volatile size_t huge = SIZE_MAX;
    size_t before = mem_live(), out = 42;

    (void)state;
    assert_null(mem_try_calloc(huge, 2));
    assert_null(mem_try_calloc(huge / 2 + 1, 2));
    assert_null(mem_try_strndup("x", huge));
    assert_false(mem_mul(huge, 2, &out));
    assert_false(mem_add(huge, 1, &out));
    assert_int_equal(out, 42);
    assert_true(mem_mul(huge, 1, &out) && out == huge);
    assert_true(mem_add(huge - 1, 1, &out) && out == huge);
    assert_true(mem_mul(0, huge, &out) && out == 0);
    assert_int_equal(mem_live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_blocks_are_counted_whatever_made_them),
        cmocka_unit_test(the_nth_allocation_fails_once_and_leaves_no_trace),
        cmocka_unit_test(sizes_that_overflow_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
