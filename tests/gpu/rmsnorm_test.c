/* tests/gpu/rmsnorm_test.c - engine/kernels/rmsnorm.h against its definition. */
#include "engine/kernels/rmsnorm.h"

#include "tests/gpu/gpu_test.h"

static const enum gpu_dtype dtypes[] = {GPU_BF16, GPU_F16};
static const float EPS = 1e-5f;

/* One rounding of the result, and sums in fp32. */
static double tolerance(enum gpu_dtype dtype)
{
    return test_rounding(dtype) * 1.001 + 1e-5;
}

static void check_plain(enum gpu_dtype dtype, uint32_t rows, uint32_t cols, bool in_place)
{
    size_t n = (size_t)rows * cols, bytes = n * 2;
    uint16_t *x = test_random16(dtype, n, 3), *w = test_random16(dtype, cols, 1);
    uint16_t *got = test_alloc(bytes);
    float *fx = test_widen(dtype, x, n), *fw = test_widen(dtype, w, cols);
    float *want = test_alloc(n * sizeof(*want));
    void *dx = test_upload(x, bytes), *dw = test_upload(w, cols * 2);
    void *dy = in_place ? dx : test_device(bytes);

    TEST_OK(rmsnorm(
        &(struct rmsnorm_args){
            .y = dy, .x = dx, .w = dw, .rows = rows, .cols = cols, .eps = EPS, .dtype = dtype},
        test_stream));
    test_to_host(got, dy, bytes);
    rmsnorm_ref(want, fx, fw, rows, cols, EPS);
    (void)test_close16("y", dtype, got, want, n, tolerance(dtype), 1e-7);
    if (!in_place) {
        test_to_host(got, dx, bytes);
        assert_memory_equal(got, x, bytes);
        test_device_free(dy, bytes);
    }
    test_device_free(dx, bytes);
    test_device_free(dw, cols * 2);
    mem_free(x), mem_free(w), mem_free(got), mem_free(fx), mem_free(fw), mem_free(want);
}

static void check_residual(enum gpu_dtype dtype, uint32_t rows, uint32_t cols, bool in_place)
{
    size_t n = (size_t)rows * cols, bytes = n * 2;
    uint16_t *x = test_random16(dtype, n, 1), *w = test_random16(dtype, cols, 1);
    uint16_t *residual = test_random16(dtype, n, 5), *got = test_alloc(bytes);
    uint16_t *sum = test_alloc(bytes);
    float *fw = test_widen(dtype, w, cols), *want = test_alloc(n * sizeof(*want)), *fsum;
    void *dx = test_upload(x, bytes), *dw = test_upload(w, cols * 2);
    void *dr = test_upload(residual, bytes), *dy = in_place ? dx : test_device(bytes);

    TEST_OK(rmsnorm(&(struct rmsnorm_args){.y = dy,
                                           .residual = dr,
                                           .x = dx,
                                           .w = dw,
                                           .rows = rows,
                                           .cols = cols,
                                           .eps = EPS,
                                           .dtype = dtype},
                    test_stream));
    for (size_t i = 0; i < n; i++)
        sum[i] = test_to16(dtype, (double)test_from16(dtype, x[i]) +
                                      (double)test_from16(dtype, residual[i]));
    test_to_host(got, dr, bytes);
    assert_memory_equal(got, sum, bytes);
    test_to_host(got, dy, bytes);
    fsum = test_widen(dtype, sum, n);
    rmsnorm_ref(want, fsum, fw, rows, cols, EPS);
    (void)test_close16("y", dtype, got, want, n, tolerance(dtype), 1e-7);
    if (!in_place)
        test_device_free(dy, bytes);
    test_device_free(dx, bytes);
    test_device_free(dw, cols * 2);
    test_device_free(dr, bytes);
    mem_free(x), mem_free(w), mem_free(residual), mem_free(got), mem_free(sum), mem_free(fw);
    mem_free(want), mem_free(fsum);
}

/* The ends of each launch shape: one warp or several, full and not, two or four pieces per thread. */
static const uint32_t widths[] = {8,    16,   504,   512,   520,   2040,
                                  4096, 4104, 16384, 16392, 32760, 32768};

static void the_norm_follows_its_definition_for_every_width(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(*widths); i++) {
        for (size_t d = 0; d < 2; d++) {
            check_plain(dtypes[d], 1, widths[i], true);
            check_plain(dtypes[d], 3, widths[i], false);
        }
    }
    check_plain(GPU_BF16, 131, 64, false);
}

static void the_residual_is_rounded_once_and_its_rounded_value_is_normed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(*widths); i++) {
        for (size_t d = 0; d < 2; d++) {
            check_residual(dtypes[d], 1, widths[i], false);
            check_residual(dtypes[d], 3, widths[i], true);
        }
    }
}

static void a_row_has_the_same_bits_alone_and_among_others(void **state)
{
    enum { ROWS = 9, COLS = 1032 };
    uint16_t *x = test_random16(GPU_BF16, ROWS * COLS, 1), *w = test_random16(GPU_BF16, COLS, 1);
    uint16_t all[ROWS][COLS], one[COLS];
    void *dx = test_upload(x, sizeof(all)), *dw = test_upload(w, COLS * 2);
    void *dy = test_device(sizeof(all));
    struct rmsnorm_args a = {
        .y = dy, .x = dx, .w = dw, .rows = ROWS, .cols = COLS, .eps = EPS, .dtype = GPU_BF16};

    (void)state;
    TEST_OK(rmsnorm(&a, test_stream));
    test_to_host(all, dy, sizeof(all));
    for (uint32_t r = 0; r < ROWS; r++) {
        a.x = (uint8_t *)dx + r * sizeof(one);
        a.rows = 1;
        TEST_OK(rmsnorm(&a, test_stream));
        test_to_host(one, dy, sizeof(one));
        assert_memory_equal(one, all[r], sizeof(one));
    }
    test_device_free(dx, sizeof(all));
    test_device_free(dw, COLS * 2);
    test_device_free(dy, sizeof(all));
    mem_free(x), mem_free(w);
}

static void a_row_of_zeros_stays_zero(void **state)
{
    enum { COLS = 64 };
    uint16_t x[COLS] = {0}, y[COLS];
    uint16_t *w = test_random16(GPU_F16, COLS, 1);
    void *dx = test_upload(x, sizeof(x)), *dw = test_upload(w, sizeof(x));

    (void)state;
    TEST_OK(rmsnorm(
        &(struct rmsnorm_args){
            .y = dx, .x = dx, .w = dw, .rows = 1, .cols = COLS, .eps = EPS, .dtype = GPU_F16},
        test_stream));
    test_to_host(y, dx, sizeof(y));
    for (int c = 0; c < COLS; c++)
        assert_int_equal(y[c] & 0x7fff, 0);
    test_device_free(dx, sizeof(x));
    test_device_free(dw, sizeof(x));
    mem_free(w);
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    struct rmsnorm_args good = {.rows = 0, .cols = 64, .eps = EPS, .dtype = GPU_F16}, a;
    static const uint32_t bad[] = {0, 4, 12, 32776, 0xfffffff8u};

    (void)state;
    TEST_OK(rmsnorm(&good, test_stream)); /* nothing to do, nothing touched */
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        a = good;
        a.cols = bad[i];
        assert_int_equal(rmsnorm(&a, test_stream), ERR_INVALID);
    }
    a = good;
    a.dtype = (enum gpu_dtype)0;
    assert_int_equal(rmsnorm(&a, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_norm_follows_its_definition_for_every_width),
        cmocka_unit_test(the_residual_is_rounded_once_and_its_rounded_value_is_normed),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_among_others),
        cmocka_unit_test(a_row_of_zeros_stays_zero),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
