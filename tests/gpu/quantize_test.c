/* Tests of engine/kernels/quantize.h and dequantize.h: the bytes are the nearest, the scales those of the rows, and what
 * comes back is what the bytes say. */
#include "tests/gpu/gpu_test.h"

#include "engine/kernels/dequantize.h"
#include "engine/kernels/quantize.h"

struct shape {
    uint32_t rows, cols, stride;
    enum gpu_dtype dtype;
    enum gpu_weight format;
    double size;
};

static void check_quantize(struct shape s)
{
    size_t n = (size_t)s.rows * s.cols;
    uint16_t *x = test_random16(s.dtype, (size_t)s.rows * s.stride, s.size);
    uint16_t *dense = test_alloc(n * 2);
    uint8_t *got = test_alloc(n), *want = test_alloc(n), *tie = test_alloc(n);
    float *got_scale = test_alloc(s.rows * 4), *want_scale = test_alloc(s.rows * 4), *wide;
    float *got_error = test_alloc(s.rows * 8), *want_error = test_alloc(s.rows * 8);
    double *exact_error = test_alloc(s.rows * 16);
    void *d_x, *d_q = test_device(n), *d_scale = test_device(s.rows * 4);
    void *d_error = test_device(s.rows * 8);

    for (uint32_t c = 0; c < s.cols && s.rows > 1;
         c++) /* one row of zeros, one of a single value */
        x[c] = 0, x[s.stride + c] = c == s.cols / 2 ? x[s.stride + c] : 0;
    for (uint32_t r = 0; r < s.rows; r++)
        memcpy(dense + (size_t)r * s.cols, x + (size_t)r * s.stride, s.cols * 2ull);
    wide = test_widen(s.dtype, dense, n);
    quantize_ref(want, want_scale, exact_error, wide, s.rows, s.cols, s.format, tie);
    d_x = test_upload(x, (size_t)s.rows * s.stride * 2);
    TEST_OK(quantize(&(struct quantize_args){.q = d_q,
                                             .scale = d_scale,
                                             .error = d_error,
                                             .x = d_x,
                                             .x_stride = s.stride,
                                             .rows = s.rows,
                                             .cols = s.cols,
                                             .dtype = s.dtype,
                                             .format = s.format},
                     test_stream));
    test_to_host(got, d_q, n);
    test_to_host(got_scale, d_scale, s.rows * 4);
    test_to_host(got_error, d_error, s.rows * 8);
    for (size_t i = 0; i < n; i++) {
        if (got[i] != want[i] && got[i] != tie[i])
            fail_msg("[%zu] of %u x %u: %g becomes %02x, not %02x", i, s.rows, s.cols,
                     (double)wide[i], got[i], want[i]);
    }
    test_close("scale", got_scale, want_scale, s.rows, 2e-7, 0);
    for (uint32_t r = 0; r < s.rows;
         r++) { /* a term that is exactly 0 is one rounding of fp32 on the device */
        double size = exact_error[2 * r + 1];

        want_error[2 * r] = (float)exact_error[2 * r];
        want_error[2 * r + 1] = (float)size;
        test_close("error", got_error + 2 * r, want_error + 2 * r, 2, 2e-3, 1e-12 * size);
    }
    test_device_free(d_x, (size_t)s.rows * s.stride * 2);
    test_device_free(d_q, n);
    test_device_free(d_scale, s.rows * 4);
    test_device_free(d_error, s.rows * 8);
    mem_free(x), mem_free(dense), mem_free(got), mem_free(want), mem_free(tie), mem_free(wide);
    mem_free(got_scale), mem_free(want_scale), mem_free(got_error), mem_free(want_error);
    mem_free(exact_error);
}

static void every_value_becomes_its_nearest_byte_and_every_row_its_own_scale(void **state)
{
    static const uint32_t cols[] = {8, 16, 264, 2056, 4096};

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        for (int v = 0; v < 4; v++) {
            enum gpu_dtype dtype = v % 2 == 0 ? GPU_BF16 : GPU_F16;
            check_quantize(
                (struct shape){1 + test_below(5), cols[i], cols[i] + 8 * test_below(3), dtype,
                               v < 2 ? GPU_WEIGHT_E4M3 : GPU_WEIGHT_INT8,
                               dtype == GPU_BF16 ? ldexp(1, (int)test_below(60) - 30) : 1});
        }
    }
}

/* A row that holds every value of the format, the largest included, has the scale 1. */
static void what_the_format_can_hold_comes_back_unchanged(void **state)
{
    static const enum gpu_weight formats[] = {GPU_WEIGHT_E4M3, GPU_WEIGHT_INT8};

    (void)state;
    for (int f = 0; f < 2; f++) {
        for (int t = 0; t < 2; t++) {
            enum gpu_dtype dtype = t == 0 ? GPU_BF16 : GPU_F16;
            uint16_t x[256], y[256];
            float scale, want = 1;
            void *d_x, *d_q = test_device(256), *d_scale = test_device(4), *d_y = test_device(512);

            for (int i = 0; i < 256; i++) {
                int code =
                    formats[f] == GPU_WEIGHT_INT8 && i == 128 ? 127 : i; /* -128 is not used */
                code = formats[f] == GPU_WEIGHT_E4M3 && (i & 127) == 127 ? i - 1 : code; /* NaN */
                x[i] = test_to16(dtype, quantize_value((uint8_t)code, formats[f]));
            }
            d_x = test_upload(x, sizeof(x));
            TEST_OK(quantize(&(struct quantize_args){.q = d_q,
                                                     .scale = d_scale,
                                                     .x = d_x,
                                                     .x_stride = 256,
                                                     .rows = 1,
                                                     .cols = 256,
                                                     .dtype = dtype,
                                                     .format = formats[f]},
                             test_stream));
            TEST_OK(dequantize(&(struct dequantize_args){.y = d_y,
                                                         .q = d_q,
                                                         .scale = d_scale,
                                                         .rows = 1,
                                                         .cols = 256,
                                                         .dtype = dtype,
                                                         .format = formats[f]},
                               test_stream));
            test_to_host(&scale, d_scale, 4);
            test_to_host(y, d_y, sizeof(y));
            assert_memory_equal(&scale, &want, 4);
            assert_memory_equal(y, x, sizeof(x));
            test_device_free(d_x, 512), test_device_free(d_q, 256);
            test_device_free(d_scale, 4), test_device_free(d_y, 512);
        }
    }
}

/* The largest value makes the scale 1, so these stand exactly between two bytes. */
static void a_value_half_way_goes_to_the_even_byte(void **state)
{
    static const struct {
        enum gpu_weight format;
        float in[8], want[8];
    } cases[] = {
        {GPU_WEIGHT_E4M3,
         {448, 17, 19, -21, -23, 0x1p-10f, 0x3p-10f, -0x5p-10f},
         {448, 16, 20, -20, -24, 0, 0x1p-8f, -0x1p-8f}},
        {GPU_WEIGHT_INT8,
         {-127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 63.5f},
         {-127, 0, 2, 2, 0, -2, -2, 64}},
    };

    (void)state;
    for (int c = 0; c < 2; c++) {
        uint16_t x[8];
        uint8_t q[8];
        void *d_x, *d_q = test_device(8), *d_scale = test_device(4);

        for (int i = 0; i < 8; i++)
            x[i] = test_to16(GPU_F16, (double)cases[c].in[i]);
        d_x = test_upload(x, 16);
        TEST_OK(quantize(&(struct quantize_args){.q = d_q,
                                                 .scale = d_scale,
                                                 .x = d_x,
                                                 .x_stride = 8,
                                                 .rows = 1,
                                                 .cols = 8,
                                                 .dtype = GPU_F16,
                                                 .format = cases[c].format},
                         test_stream));
        test_to_host(q, d_q, 8);
        for (int i = 0; i < 8; i++)
            if (quantize_value(q[i], cases[c].format) != (double)cases[c].want[i])
                fail_msg("%g becomes %g", (double)cases[c].in[i],
                         quantize_value(q[i], cases[c].format));
        test_device_free(d_x, 16), test_device_free(d_q, 8), test_device_free(d_scale, 4);
    }
}

static void any_bytes_are_widened_as_the_reference_says(void **state)
{
    static const uint32_t cols[] = {16, 272, 4112};

    (void)state;
    for (int i = 0; i < 12; i++) {
        uint32_t rows = 1 + test_below(4), c = cols[i % 3];
        enum gpu_dtype dtype = i / 3 % 2 == 0 ? GPU_BF16 : GPU_F16;
        enum gpu_weight format = i < 6 ? GPU_WEIGHT_E4M3 : GPU_WEIGHT_INT8;
        size_t n = (size_t)rows * c;
        uint8_t *q = test_alloc(n);
        float scale[4], *want = test_alloc(n * 4);
        uint16_t *got = test_alloc(n * 2);
        void *d_q, *d_scale, *d_y = test_device(n * 2);

        for (size_t j = 0; j < n; j++) {
            q[j] = (uint8_t)test_random();
            q[j] = format == GPU_WEIGHT_E4M3 && (q[j] & 127) == 127 ? 0 : q[j];
        }
        for (uint32_t r = 0; r < rows; r++)
            scale[r] = (float)(0.001 + 0.01 * fabs(test_uniform()));
        dequantize_ref(want, q, scale, rows, c, format);
        d_q = test_upload(q, n);
        d_scale = test_upload(scale, rows * 4ull);
        TEST_OK(dequantize(&(struct dequantize_args){.y = d_y,
                                                     .q = d_q,
                                                     .scale = d_scale,
                                                     .rows = rows,
                                                     .cols = c,
                                                     .dtype = dtype,
                                                     .format = format},
                           test_stream));
        test_to_host(got, d_y, n * 2);
        test_close16("dequantize", dtype, got, want, n, test_rounding(dtype) * 1.001, 0x1p-25);
        test_device_free(d_q, n), test_device_free(d_scale, rows * 4ull),
            test_device_free(d_y, n * 2);
        mem_free(q), mem_free(want), mem_free(got);
    }
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    void *p = test_device(8192);
    struct quantize_args q = {.q = p,
                              .scale = p,
                              .x = p,
                              .x_stride = 64,
                              .rows = 1,
                              .cols = 64,
                              .dtype = GPU_BF16,
                              .format = GPU_WEIGHT_E4M3};
    struct dequantize_args d = {.y = p,
                                .q = p,
                                .scale = p,
                                .rows = 1,
                                .cols = 64,
                                .dtype = GPU_BF16,
                                .format = GPU_WEIGHT_INT8};
    struct quantize_args wrong_q[6] = {q, q, q, q, q, q};
    struct dequantize_args wrong_d[5] = {d, d, d, d, d};

    (void)state;
    wrong_q[0].cols = 60;
    wrong_q[1].cols = 0;
    wrong_q[2].x_stride = 65;
    wrong_q[3].x = (uint16_t *)p + 1;
    wrong_q[4].dtype = 0;
    wrong_q[5].format = GPU_WEIGHT_16;
    for (int i = 0; i < 6; i++)
        assert_int_equal(ERR_INVALID, quantize(&wrong_q[i], test_stream));
    wrong_d[0].cols = 24;
    wrong_d[1].cols = 0;
    wrong_d[2].y = (uint16_t *)p + 4;
    wrong_d[3].dtype = 0;
    wrong_d[4].format = GPU_WEIGHT_16;
    for (int i = 0; i < 5; i++)
        assert_int_equal(ERR_INVALID, dequantize(&wrong_d[i], test_stream));
    q.rows = d.rows = 0;
    TEST_OK(quantize(&q, test_stream));
    TEST_OK(dequantize(&d, test_stream));
    test_device_free(p, 8192);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_becomes_its_nearest_byte_and_every_row_its_own_scale),
        cmocka_unit_test(what_the_format_can_hold_comes_back_unchanged),
        cmocka_unit_test(a_value_half_way_goes_to_the_even_byte),
        cmocka_unit_test(any_bytes_are_widened_as_the_reference_says),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
