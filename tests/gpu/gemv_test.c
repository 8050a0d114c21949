/* Tests of engine/kernels/gemv.h against its double-precision definition. */
#include "tests/gpu/gpu_test.h"

#include "engine/kernels/gemv.h"

struct shape {
    uint32_t rows, n, k, x_pad, y_pad; /* pads: elements between rows */
    enum gpu_dtype dtype;
    enum gpu_weight weight;
    bool bias, add, y_f32;
};

struct data { /* host and device copies of the operands */
    struct gemv_args a;
    uint8_t *w;
    uint16_t *x, *bias;
    float *scale;
    size_t w_bytes, x_bytes, y_bytes;
};

static void make(struct data *d, struct shape s)
{
    size_t unit = s.weight == GPU_WEIGHT_16 ? 2 : 1, width = s.y_f32 ? 4 : 2;

    *d = (struct data){.w_bytes = (size_t)s.n * s.k * unit,
                       .x_bytes = (size_t)s.rows * (s.k + s.x_pad) * 2,
                       .y_bytes = (size_t)s.rows * (s.n + s.y_pad) * width};
    d->x = test_random16(s.dtype, d->x_bytes / 2, 1);
    d->bias = test_random16(s.dtype, s.n, 4);
    d->scale = test_alloc(s.n * 4ull);
    for (uint32_t i = 0; i < s.n; i++)
        d->scale[i] = (float)(0.01 + 0.01 * fabs(test_uniform()));
    if (s.weight == GPU_WEIGHT_16) {
        d->w = (uint8_t *)test_random16(s.dtype, (size_t)s.n * s.k, 0.1);
    } else {
        d->w = test_alloc(d->w_bytes);
        for (size_t i = 0; i < d->w_bytes; i++) { /* no NaN, no outliers that hide the rest */
            d->w[i] = (uint8_t)test_random();
            d->w[i] = s.weight == GPU_WEIGHT_E4M3 ? d->w[i] & 0xcf : d->w[i];
        }
    }
    d->a = (struct gemv_args){
        .y = test_device(d->y_bytes),
        .x = test_upload(d->x, d->x_bytes),
        .w = test_upload(d->w, d->w_bytes),
        .scale = s.weight == GPU_WEIGHT_16 ? NULL : test_upload(d->scale, s.n * 4ull),
        .bias = s.bias ? test_upload(d->bias, s.n * 2ull) : NULL,
        .x_stride = s.k + s.x_pad,
        .y_stride = s.n + s.y_pad,
        .rows = s.rows,
        .n = s.n,
        .k = s.k,
        .dtype = s.dtype,
        .weight = s.weight,
        .y_f32 = s.y_f32,
        .add = s.add};
}

static void discard(struct data *d)
{
    test_device_free(d->a.y, d->y_bytes);
    test_device_free((void *)d->a.x, d->x_bytes);
    test_device_free((void *)d->a.w, d->w_bytes);
    if (d->a.scale != NULL)
        test_device_free((void *)d->a.scale, d->a.n * 4ull);
    if (d->a.bias != NULL)
        test_device_free((void *)d->a.bias, d->a.n * 2ull);
    mem_free(d->w), mem_free(d->x), mem_free(d->bias), mem_free(d->scale);
}

/* What y must be, and before that what it is: `add` needs values there. */
static float *expected(struct data *d, void *y)
{
    struct gemv_args *a = &d->a;
    size_t n_w = (size_t)a->n * a->k;
    double *sums = test_alloc((size_t)a->rows * a->n * sizeof(*sums));
    float *x = test_alloc((size_t)a->rows * a->k * 4), *w = test_alloc(n_w * 4);
    float *bias = test_widen(a->dtype, d->bias, a->n),
          *want = test_alloc((size_t)a->rows * a->n * 4);

    for (size_t i = 0; i < n_w; i++)
        w[i] = a->weight == GPU_WEIGHT_16 ? test_from16(a->dtype, ((uint16_t *)(void *)d->w)[i])
                                          : (float)quantize_value(d->w[i], a->weight);
    for (uint32_t m = 0; m < a->rows; m++) {
        for (uint32_t k = 0; k < a->k; k++)
            x[m * a->k + k] = test_from16(a->dtype, d->x[m * a->x_stride + k]);
        for (uint32_t n = 0; n < a->n && a->add; n++) {
            double v = test_normal() * 5;
            uint16_t half = test_to16(a->dtype, v);
            size_t at = m * a->y_stride + n;

            sums[m * a->n + n] = a->y_f32 ? (double)(float)v : (double)test_from16(a->dtype, half);
            if (a->y_f32)
                ((float *)y)[at] = (float)v;
            else
                ((uint16_t *)y)[at] = half;
        }
    }
    gemv_ref(&(struct gemv_ref_args){.y = sums,
                                     .x = x,
                                     .w = w,
                                     .scale = a->weight == GPU_WEIGHT_16 ? NULL : d->scale,
                                     .bias = a->bias == NULL ? NULL : bias,
                                     .rows = a->rows,
                                     .n = a->n,
                                     .k = a->k,
                                     .add = a->add});
    for (size_t i = 0; i < (size_t)a->rows * a->n; i++)
        want[i] = (float)sums[i];
    mem_free(sums), mem_free(x), mem_free(w), mem_free(bias);
    return want;
}

static void check(struct shape s)
{
    struct data d;
    uint8_t *y;
    float *want, *got;

    make(&d, s);
    y = test_alloc(d.y_bytes);
    memset(y, TEST_POISON, d.y_bytes);
    want = expected(&d, y);
    test_to_device(d.a.y, y, d.y_bytes);
    TEST_OK(gemv(&d.a, test_stream));
    test_to_host(y, d.a.y, d.y_bytes);
    got = test_alloc((size_t)s.rows * s.n * 4);
    for (uint32_t m = 0; m < s.rows; m++) {
        size_t width = s.y_f32 ? 4 : 2;
        const uint8_t *row = y + m * d.a.y_stride * width;

        for (uint32_t n = 0; n < s.n; n++)
            got[m * s.n + n] = s.y_f32
                                   ? ((const float *)(const void *)row)[n]
                                   : test_from16(s.dtype, ((const uint16_t *)(const void *)row)[n]);
        for (size_t i = s.n * width; i < d.a.y_stride * width; i++)
            assert_int_equal(row[i], TEST_POISON); /* what lies between the rows is not ours */
    }
    /* k sums in fp32 of terms whose squares add up to about k * (x w)^2: their roundings, and one to the type. */
    double term = s.weight == GPU_WEIGHT_16 ? 0.1 : s.weight == GPU_WEIGHT_E4M3 ? 0.05 : 1.5;
    test_close("gemv", got, want, (size_t)s.rows * s.n, s.y_f32 ? 1e-5 : test_rounding(s.dtype),
               1e-6 * term * s.k + 1e-5);
    discard(&d);
    mem_free(y), mem_free(want), mem_free(got);
}

static void products_agree_with_the_definition_for_all_rows_types_and_endings(void **state)
{
    static const uint32_t ns[] = {1, 15, 32, 33, 100}, ks[] = {16, 48, 512, 1040, 2320};

    (void)state;
    for (uint32_t rows = 1; rows <= GEMV_ROWS; rows++) {
        for (int w = 0; w < 3; w++) {
            uint32_t draw = test_below(1u << 20);
            check((struct shape){.rows = rows,
                                 .n = ns[draw % 5],
                                 .k = ks[draw / 5 % 5] + (w == 0 ? 8 * (draw >> 10 & 1) : 0),
                                 .x_pad = 8 * (draw >> 11 & 1),
                                 .y_pad = draw >> 12 & 3,
                                 .dtype = (draw >> 14 & 1) != 0 ? GPU_BF16 : GPU_F16,
                                 .weight = (enum gpu_weight)w,
                                 .bias = (draw >> 15 & 1) != 0,
                                 .add = (draw >> 16 & 1) != 0,
                                 .y_f32 = (draw >> 17 & 1) != 0});
        }
    }
}

static void the_longest_sums_keep_their_precision(void **state)
{
    (void)state;
    check((struct shape){.rows = 3, .n = 40, .k = 14336, .dtype = GPU_BF16, .y_f32 = true});
    check((struct shape){.rows = 9,
                         .n = 33,
                         .k = 14336,
                         .dtype = GPU_F16,
                         .weight = GPU_WEIGHT_E4M3,
                         .y_f32 = true});
}

/* The sum of a row is the same to the bit whatever rows stand beside it. */
static void a_row_does_not_depend_on_the_other_rows(void **state)
{
    static const enum gpu_weight weights[] = {GPU_WEIGHT_16, GPU_WEIGHT_E4M3, GPU_WEIGHT_INT8};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct data d;
        float all[16 * 48], one[48];

        make(&d, (struct shape){.rows = 16,
                                .n = 48,
                                .k = 1040,
                                .dtype = GPU_BF16,
                                .weight = weights[i],
                                .y_f32 = true});
        TEST_OK(gemv(&d.a, test_stream));
        test_to_host(all, d.a.y, sizeof(all));
        for (uint32_t m = 0; m < 16; m += 5) {
            struct gemv_args a = d.a;

            a.rows = 1;
            a.x += m * a.x_stride;
            TEST_OK(gemv(&a, test_stream));
            test_to_host(one, a.y, sizeof(one));
            assert_memory_equal(one, all + m * 48, sizeof(one));
        }
        discard(&d);
    }
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    struct data d;

    (void)state;
    make(&d, (struct shape){.rows = 2, .n = 32, .k = 64, .dtype = GPU_BF16});
    struct gemv_args wrong[10];
    for (int i = 0; i < 10; i++)
        wrong[i] = d.a;
    wrong[0].rows = 0;
    wrong[1].rows = GEMV_ROWS + 1;
    wrong[2].n = 0;
    wrong[3].k = 0;
    wrong[4].k = 60;
    wrong[5].x_stride = 65;
    wrong[6].x += 1;
    wrong[7].dtype = 0;
    wrong[8].scale = (const float *)d.a.w; /* 16-bit weights have none */
    wrong[9].weight = GPU_WEIGHT_INT8;     /* and 8-bit ones need them */
    for (int i = 0; i < 10; i++)
        assert_int_equal(ERR_INVALID, gemv(&wrong[i], test_stream));
    discard(&d);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree_with_the_definition_for_all_rows_types_and_endings),
        cmocka_unit_test(the_longest_sums_keep_their_precision),
        cmocka_unit_test(a_row_does_not_depend_on_the_other_rows),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
