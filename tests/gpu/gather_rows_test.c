/* tests/gpu/gather_rows_test.c - engine/kernels/gather_rows.h against its definition, bit for bit. */
#include "engine/kernels/gather_rows.h"

#include "tests/gpu/gpu_test.h"

/* Runs both and compares rows and *bad. */
static uint32_t check(const int32_t *index, uint32_t rows, uint32_t cols, uint32_t first,
                      uint32_t count, uint32_t total, bool with_bad)
{
    size_t bytes = (size_t)rows * cols * 2, table_bytes = (size_t)count * cols * 2;
    uint16_t *table = test_random16(GPU_BF16, (size_t)count * cols, 1);
    void *want = test_alloc(bytes), *got = test_alloc(bytes);
    uint32_t want_bad = 0, got_bad = 0;
    struct gather_rows_args a = {.out = want,
                                 .table = table,
                                 .index = index,
                                 .bad = with_bad ? &want_bad : NULL,
                                 .rows = rows,
                                 .cols = cols,
                                 .first = first,
                                 .count = count,
                                 .total = total};

    gather_rows_ref(&a);
    void *dev_table = test_upload(table, table_bytes), *dev_out = test_device(bytes);
    void *dev_index = test_upload(index, rows * sizeof(*index)),
         *dev_bad = test_upload(&got_bad, 4);
    a.out = dev_out;
    a.table = dev_table;
    a.index = dev_index;
    a.bad = with_bad ? dev_bad : NULL;
    TEST_OK(gather_rows(&a, test_stream));
    test_to_host(got, dev_out, bytes);
    test_to_host(&got_bad, dev_bad, 4);
    assert_memory_equal(got, want, bytes);
    assert_int_equal(got_bad, want_bad);
    test_device_free(dev_table, table_bytes);
    test_device_free(dev_out, bytes);
    test_device_free(dev_index, rows * sizeof(*index));
    test_device_free(dev_bad, 4);
    mem_free(table), mem_free(want), mem_free(got);
    return got_bad;
}

static void rows_come_in_the_order_of_their_indices(void **state)
{
    static const uint32_t widths[] = {8, 248, 256, 264, 4096, 4104, 8200};
    int32_t index[23];

    (void)state;
    for (size_t w = 0; w < sizeof(widths) / sizeof(*widths); w++) {
        for (size_t i = 0; i < 23; i++)
            index[i] = (int32_t)test_below(17);
        index[0] = 16, index[1] = 0;
        assert_int_equal(check(index, 23, widths[w], 0, 17, 17, true), 0);
        assert_int_equal(check(index, 1, widths[w], 0, 17, 17, false), 0);
    }
}

static void rows_of_another_share_of_the_vocabulary_are_zeros(void **state)
{
    int32_t index[] = {0, 9, 10, 11, 19, 20, 21, 29, 15};

    (void)state;
    assert_int_equal(check(index, 9, 64, 10, 10, 30, true), 0);
    assert_int_equal(check(index, 9, 64, 20, 10, 30, true), 0);
    assert_int_equal(check(index, 9, 64, 30, 0, 30, true), 0);
}

static void filler_is_zeros_and_an_index_outside_is_reported(void **state)
{
    static const int32_t outside[] = {30, 31, -2, INT32_MAX, INT32_MIN};
    int32_t index[] = {3, -1, 7, -1, 29};

    (void)state;
    assert_int_equal(check(index, 5, 40, 0, 30, 30, true), 0);
    for (size_t i = 0; i < sizeof(outside) / sizeof(*outside); i++) {
        index[2] = outside[i];
        assert_int_equal(check(index, 5, 40, 0, 30, 30, true), 3);
        assert_int_equal(check(index, 5, 40, 10, 5, 30, true), 3);
        assert_int_equal(check(index, 5, 40, 0, 30, 30, false), 0);
    }
    index[1] = 1000;
    assert_int_equal(check(index, 5, 40, 0, 30, 30, true), 3); /* the last of several */
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    const struct gather_rows_args good = {.cols = 64, .count = 4, .total = 4};
    struct gather_rows_args a = good;

    (void)state;
    TEST_OK(gather_rows(&a, test_stream));
    a.cols = 12;
    assert_int_equal(gather_rows(&a, test_stream), ERR_INVALID);
    a.cols = 0;
    assert_int_equal(gather_rows(&a, test_stream), ERR_INVALID);
    a = good, a.first = 1;
    assert_int_equal(gather_rows(&a, test_stream), ERR_INVALID);
    a = good, a.first = 0xffffffffu, a.count = 2;
    assert_int_equal(gather_rows(&a, test_stream), ERR_INVALID);
    a = good, a.rows = 0x80000000u;
    assert_int_equal(gather_rows(&a, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_in_the_order_of_their_indices),
        cmocka_unit_test(rows_of_another_share_of_the_vocabulary_are_zeros),
        cmocka_unit_test(filler_is_zeros_and_an_index_outside_is_reported),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
