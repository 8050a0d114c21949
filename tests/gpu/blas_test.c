/* Tests of engine/cuda/gpu_blas.h: every way of a product against its double-precision definition, plans with and
 * without trials, and what is refused. */
#include "tests/gpu/gpu_test.h"

#include "engine/cuda/gpu_blas.h"
#include "engine/kernels/gemv.h"

enum { SAMPLES = 600 }; /* elements of a result that are compared */

/* What a way rounds besides sums and results. */
enum rounding { NOTHING, ROWS_TO_E4M3, WEIGHTS_TO_16 };

struct operands { /* of one shape: host data, and device memory of max_rows */
    struct gpu_blas_shape s;
    uint16_t *x, *bias, *w16;
    uint8_t *w8;
    float *scale;
    struct gpu_matrix m;
    void *d_x, *d_y;
    size_t x_bytes, y_bytes, w_bytes;
};

static void make(struct operands *o, struct gpu_blas_shape s)
{
    size_t n_w = (size_t)s.n * s.k;

    *o = (struct operands){.s = s,
                           .x_bytes = (size_t)s.max_rows * s.x_stride * 2,
                           .y_bytes = (size_t)s.max_rows * s.y_stride * (s.y_f32 ? 4 : 2),
                           .w_bytes = n_w * (s.weight == GPU_WEIGHT_16 ? 2 : 1)};
    o->x = test_random16(s.dtype, o->x_bytes / 2, 1);
    o->bias = test_random16(s.dtype, s.n, 2);
    o->w16 = test_random16(s.dtype, n_w, 0.05);
    o->d_x = test_upload(o->x, o->x_bytes);
    o->d_y = test_device(o->y_bytes);
    o->m.bias = s.bias ? test_upload(o->bias, s.n * 2ull) : NULL;
    o->m.w = test_device(o->w_bytes);
    if (s.weight == GPU_WEIGHT_16) {
        test_to_device((void *)o->m.w, o->w16, o->w_bytes);
    } else { /* as a model's weights are: made on the device */
        void *source = test_upload(o->w16, n_w * 2);

        o->m.scale = test_device(s.n * 4ull);
        TEST_OK(quantize(&(struct quantize_args){.q = (uint8_t *)o->m.w,
                                                 .scale = (float *)o->m.scale,
                                                 .x = source,
                                                 .x_stride = s.k,
                                                 .rows = s.n,
                                                 .cols = s.k,
                                                 .dtype = s.dtype,
                                                 .format = s.weight},
                         test_stream));
        o->w8 = test_alloc(o->w_bytes);
        o->scale = test_alloc(s.n * 4ull);
        test_to_host(o->w8, o->m.w, o->w_bytes);
        test_to_host(o->scale, o->m.scale, s.n * 4ull);
        test_device_free(source, n_w * 2);
    }
}

static void discard(struct operands *o)
{
    test_device_free(o->d_x, o->x_bytes), test_device_free(o->d_y, o->y_bytes);
    test_device_free((void *)o->m.w, o->w_bytes);
    if (o->m.bias != NULL)
        test_device_free((void *)o->m.bias, o->s.n * 2ull);
    if (o->m.scale != NULL)
        test_device_free((void *)o->m.scale, o->s.n * 4ull);
    mem_free(o->x), mem_free(o->bias), mem_free(o->w16), mem_free(o->w8), mem_free(o->scale);
}

/* Element (m, n) from the definition; x as given, the sum of what it holds before taken from `before`. */
static double element(const struct operands *o, const float *x, uint32_t n, double before,
                      enum rounding also)
{
    const struct gpu_blas_shape *s = &o->s;
    bool scaled = s->weight != GPU_WEIGHT_16 && also != WEIGHTS_TO_16;
    float *w = test_alloc(s->k * 4ull), bias = test_from16(s->dtype, o->bias[n]);
    double y = before;

    for (uint32_t k = 0; k < s->k; k++) {
        size_t at = (size_t)n * s->k + k;
        w[k] = s->weight == GPU_WEIGHT_16 ? test_from16(s->dtype, o->w16[at])
                                          : (float)quantize_value(o->w8[at], s->weight);
        if (also == WEIGHTS_TO_16)
            w[k] = test_from16(s->dtype, test_to16(s->dtype, (double)(w[k] * o->scale[n])));
    }
    gemv_ref(&(struct gemv_ref_args){.y = &y,
                                     .x = x,
                                     .w = w,
                                     .scale = scaled ? &o->scale[n] : NULL,
                                     .bias = s->bias ? &bias : NULL,
                                     .rows = 1,
                                     .n = 1,
                                     .k = s->k,
                                     .add = s->add});
    mem_free(w);
    return y;
}

/* x of row m, through e4m3 and back if the way does that. */
static float *row_of(const struct operands *o, uint32_t m, bool rounded)
{
    const struct gpu_blas_shape *s = &o->s;
    float *x = test_widen(s->dtype, o->x + m * s->x_stride, s->k), scale;
    uint8_t *q = test_alloc(s->k);

    if (rounded) {
        quantize_ref(q, &scale, NULL, x, 1, s->k, GPU_WEIGHT_E4M3, NULL);
        for (uint32_t k = 0; k < s->k; k++)
            x[k] = (float)quantize_value(q[k], GPU_WEIGHT_E4M3) * scale;
    }
    mem_free(q);
    return x;
}

static float value_at(const struct operands *o, const void *y, uint32_t m, uint32_t n)
{
    size_t at = m * o->s.y_stride + n;

    return o->s.y_f32 ? ((const float *)y)[at] : test_from16(o->s.dtype, ((const uint16_t *)y)[at]);
}

static void check_run(struct gpu_blas_plan *p, struct operands *o, uint32_t rows)
{
    const struct gpu_blas_shape *s = &o->s;
    char text[64];
    enum rounding also;
    uint16_t *before = test_random16(s->dtype, o->y_bytes / 2, 1);
    void *after = test_alloc(o->y_bytes);
    float got[SAMPLES], want[SAMPLES];

    gpu_blas_describe(p, rows, text, sizeof(text));
    also = strncmp(text, "quantized", 9) == 0 ? ROWS_TO_E4M3
           : strncmp(text, "widened", 7) == 0 ? WEIGHTS_TO_16
                                              : NOTHING;
    if (s->y_f32) /* the same memory as floats */
        for (size_t i = 0; i < o->y_bytes / 4; i++)
            ((float *)(void *)before)[i] = (float)test_normal();
    test_to_device(o->d_y, before, o->y_bytes);
    TEST_OK(gpu_blas_run(p, rows, o->d_y, o->d_x, &o->m, test_stream));
    test_to_host(after, o->d_y, o->y_bytes);
    for (int i = 0; i < SAMPLES; i++) {
        uint32_t m = i < 4 ? rows - 1 : test_below(rows),
                 n = i % 4 == 0 ? s->n - 1 : test_below(s->n);
        float *x = row_of(o, m, also == ROWS_TO_E4M3);

        want[i] = (float)element(o, x, n, (double)value_at(o, before, m, n), also);
        got[i] = value_at(o, after, m, n);
        mem_free(x);
    }
    /* Roundings of the sum and one of the result; and in e4m3, where a tie may go the other way, a step of the largest
     * values, a fourteenth of 4, times a weight of 0.2. */
    double off =
        test_close(text, got, want, SAMPLES, s->y_f32 ? 1e-5 : test_rounding(s->dtype) * 1.01,
                   1e-6 * sqrt(s->k) + (also == ROWS_TO_E4M3 ? 0.06 : 1e-4));
    assert_true(off < 5e-3);
    for (size_t i = (rows - 1) * s->y_stride + s->n; i < o->y_bytes / (s->y_f32 ? 4 : 2); i++)
        assert_memory_equal((char *)after + i * (s->y_f32 ? 4 : 2),
                            (char *)before + i * (s->y_f32 ? 4 : 2), s->y_f32 ? 4 : 2);
    mem_free(before), mem_free(after);
}

static struct gpu_blas *open_for(const struct gpu_blas_shape *s, void **memory, size_t *bytes)
{
    struct err_msg msg = {""};
    struct gpu_blas *b = NULL;

    *bytes = gpu_blas_bytes(s, 1);
    TEST_OK(gpu_alloc(test_gpu, *bytes, memory));
    if (gpu_blas_open(test_gpu, *memory, *bytes, &msg, &b) != ERR_OK)
        fail_msg("%s", msg.text);
    return b;
}

/* A plan for s, run with each number of rows. */
static void check_shape(struct gpu_blas_shape s, bool timed, const uint32_t *rows, size_t n_rows)
{
    struct operands o;
    void *memory;
    size_t bytes;
    struct err_msg msg = {""};
    struct gpu_blas *b = open_for(&s, &memory, &bytes);
    struct gpu_blas_plan *p = NULL;

    make(&o, s);
    struct gpu_blas_trial trial = {test_stream, &o.m, 1, o.d_x, o.d_y};
    if (gpu_blas_plan(b, &s, timed ? &trial : NULL, &msg, &p) != ERR_OK)
        fail_msg("%u x %u: %s", s.n, s.k, msg.text);
    for (size_t i = 0; i < n_rows; i++)
        check_run(p, &o, rows[i]);
    gpu_blas_plan_free(p);
    gpu_blas_close(b);
    gpu_free(test_gpu, memory);
    discard(&o);
}

/* 37: where the fake library's first candidate refuses. */
static const uint32_t some_rows[] = {1, 2, 7, 16, 17, 37, 64, 65, 100};

static void every_weight_type_and_result_agrees_with_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        bool f32 = i % 4 == 3;
        check_shape((struct gpu_blas_shape){.n = 96 + 16 * test_below(4),
                                            .k = 64 + 16 * test_below(20),
                                            .max_rows = 100,
                                            .x_stride = 64 + 16 * 20 + 8,
                                            .y_stride = 96 + 16 * 4 + (i % 4 == 1 ? 8 : 0),
                                            .dtype = i % 2 == 0 ? GPU_BF16 : GPU_F16,
                                            .weight = (enum gpu_weight)(i % 3),
                                            .y_f32 = f32,
                                            .add = !f32 && (i / 4) % 2 == 0,
                                            .bias = !f32 && i % 4 >= 1},
                    false, some_rows, sizeof(some_rows) / sizeof(some_rows[0]));
    }
}

static void a_plan_that_was_timed_computes_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        check_shape((struct gpu_blas_shape){.n = 64,
                                            .k = 128,
                                            .max_rows = 40,
                                            .x_stride = 128,
                                            .y_stride = 64,
                                            .dtype = GPU_BF16,
                                            .weight = (enum gpu_weight)i},
                    true, some_rows, 6);
}

/* As the smallest models have them: no 16 bytes, no tile. */
static void odd_shapes_with_16_bit_weights_have_a_way(void **state)
{
    (void)state;
    check_shape(
        (struct gpu_blas_shape){
            .n = 33, .k = 172, .max_rows = 20, .x_stride = 172, .y_stride = 33, .dtype = GPU_BF16},
        false, some_rows, 5);
}

/* 33 MiB in 16 bits: widened in two parts. */
static void a_large_8_bit_matrix_is_widened_in_parts(void **state)
{
    static const uint32_t rows[] = {66};

    (void)state;
    check_shape((struct gpu_blas_shape){.n = 4112,
                                        .k = 4096,
                                        .max_rows = 66,
                                        .x_stride = 4096,
                                        .y_stride = 4112,
                                        .dtype = GPU_BF16,
                                        .weight = GPU_WEIGHT_INT8,
                                        .bias = true},
                false, rows, 1);
}

static void a_captured_product_reads_its_operands_at_every_launch(void **state)
{
    static const enum gpu_weight weights[] = {GPU_WEIGHT_16, GPU_WEIGHT_E4M3, GPU_WEIGHT_INT8};

    (void)state;
    for (int i = 0; i < 6; i++) {
        uint32_t rows = i < 3 ? 4 : 70;
        struct gpu_blas_shape s = {.n = 64,
                                   .k = 96,
                                   .max_rows = 80,
                                   .x_stride = 96,
                                   .y_stride = 64,
                                   .dtype = GPU_F16,
                                   .weight = weights[i % 3]};
        struct operands o;
        void *memory;
        size_t bytes;
        struct gpu_blas *b = open_for(&s, &memory, &bytes);
        struct gpu_blas_plan *p = NULL;
        gpu_graph graph = NULL;
        uint16_t *direct = test_alloc(rows * 128), *replayed = test_alloc(rows * 128);

        make(&o, s);
        TEST_OK(gpu_blas_plan(b, &s, NULL, NULL, &p));
        TEST_OK(gpu_capture_begin(test_stream));
        TEST_OK(gpu_blas_run(p, rows, o.d_y, o.d_x, &o.m, test_stream));
        TEST_OK(gpu_capture_end(test_stream, &graph));
        for (int turn = 0; turn < 2; turn++) {
            uint16_t *x = test_random16(s.dtype, o.x_bytes / 2, 1);

            test_to_device(o.d_x, x, o.x_bytes);
            TEST_OK(gpu_graph_launch(graph, test_stream));
            test_to_host(replayed, o.d_y, rows * 128);
            TEST_OK(gpu_fill(o.d_y, 0, o.y_bytes, test_stream));
            TEST_OK(gpu_blas_run(p, rows, o.d_y, o.d_x, &o.m, test_stream));
            test_to_host(direct, o.d_y, rows * 128);
            assert_memory_equal(replayed, direct, rows * 128);
            mem_free(x);
        }
        gpu_graph_destroy(graph);
        gpu_blas_plan_free(p);
        gpu_blas_close(b);
        gpu_free(test_gpu, memory);
        discard(&o);
        mem_free(direct), mem_free(replayed);
    }
}

static void what_cannot_be_planned_is_refused_with_its_numbers(void **state)
{
    struct gpu_blas_shape good = {
        .n = 64, .k = 64, .max_rows = 70, .x_stride = 64, .y_stride = 64, .dtype = GPU_BF16};
    struct gpu_blas_shape wrong[8] = {good, good, good, good, good, good, good, good};
    static const enum err errors[8] = {ERR_INVALID, ERR_INVALID,     ERR_INVALID,     ERR_INVALID,
                                       ERR_INVALID, ERR_UNSUPPORTED, ERR_UNSUPPORTED, ERR_LIMIT};
    struct err_msg msg = {""};
    struct gpu_blas_plan *p = NULL;
    void *memory;
    size_t bytes;
    struct gpu_blas *b = open_for(&good, &memory, &bytes), *none = NULL;

    (void)state;
    wrong[0].n = 0;
    wrong[1].max_rows = 0;
    wrong[2].x_stride = 63;
    wrong[3].y_stride = 63;
    wrong[4].dtype = 0;
    wrong[5].y_f32 = wrong[5].bias = true;
    wrong[6].weight = GPU_WEIGHT_INT8, wrong[6].k = 40, wrong[6].n = 0 + 8;
    wrong[7].weight = GPU_WEIGHT_INT8, wrong[7].k = 4096, wrong[7].x_stride = 4096;
    gpu_blas_close(b); /* 48 KiB of scratch: for [6], not for [7] */
    gpu_free(test_gpu, memory);
    bytes = gpu_blas_bytes(&good, 1) + (48 << 10);
    TEST_OK(gpu_alloc(test_gpu, bytes, &memory));
    TEST_OK(gpu_blas_open(test_gpu, memory, bytes, &msg, &b));
    for (int i = 0; i < 8; i++) {
        msg.text[0] = '\0';
        assert_int_equal(errors[i], gpu_blas_plan(b, &wrong[i], NULL, &msg, &p));
        assert_non_null(strstr(msg.text, "products"));
        assert_null(p);
    }
    TEST_OK(gpu_blas_plan(b, &good, NULL, &msg, &p));
    assert_int_equal(
        ERR_INVALID,
        gpu_blas_run(p, 71, memory, memory, &(struct gpu_matrix){memory, NULL, NULL}, test_stream));
    TEST_OK(gpu_blas_run(p, 0, NULL, NULL, &(struct gpu_matrix){NULL, NULL, NULL}, test_stream));
    gpu_blas_plan_free(p);
    gpu_blas_close(b);
    assert_int_equal(ERR_LIMIT, gpu_blas_open(test_gpu, memory, 1000, &msg, &none));
    assert_null(none);
    gpu_free(test_gpu, memory);
}

static void the_error_of_quantized_weights_names_the_worst_matrix(void **state)
{
    struct gpu_quantize_report r = {0};
    const float first[] = {1, 100, 0, 100}, second[] = {4, 50, 4, 50}, third[] = {0, 0};

    (void)state;
    assert_true(gpu_quantize_report_total(&r) == 0);
    assert_true(fabs(gpu_quantize_report_add(&r, "layer 0 qkv", first, 2) - sqrt(1.0 / 200)) <
                1e-12);
    assert_true(fabs(gpu_quantize_report_add(&r, "layer 1 down", second, 2) - sqrt(8.0 / 100)) <
                1e-12);
    assert_true(gpu_quantize_report_add(&r, "all zeros", third, 1) == 0);
    assert_int_equal(r.n, 3);
    assert_string_equal(r.worst_name, "layer 1 down");
    assert_true(fabs(r.worst - sqrt(0.08)) < 1e-12);
    assert_true(fabs(gpu_quantize_report_total(&r) - sqrt(9.0 / 300)) < 1e-12);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_weight_type_and_result_agrees_with_the_definition),
        cmocka_unit_test(a_plan_that_was_timed_computes_the_same),
        cmocka_unit_test(odd_shapes_with_16_bit_weights_have_a_way),
        cmocka_unit_test(a_large_8_bit_matrix_is_widened_in_parts),
        cmocka_unit_test(a_captured_product_reads_its_operands_at_every_launch),
        cmocka_unit_test(what_cannot_be_planned_is_refused_with_its_numbers),
        cmocka_unit_test(the_error_of_quantized_weights_names_the_worst_matrix),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
