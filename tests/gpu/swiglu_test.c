/* tests/gpu/swiglu_test.c - engine/kernels/swiglu.h against its definition. */
#include "engine/kernels/swiglu.h"

#include "tests/gpu/gpu_test.h"

static const enum gpu_dtype dtypes[] = {GPU_BF16, GPU_F16};

/* One rounding, the fast exponential; below the smallest normal value steps are absolute. */
static void check(enum gpu_dtype dtype, const uint16_t *gate_up, uint32_t rows, uint32_t ffn)
{
    size_t n = (size_t)rows * ffn, bytes = n * 2;
    uint16_t *got = test_alloc(bytes);
    float *in = test_widen(dtype, gate_up, 2 * n), *want = test_alloc(n * sizeof(*want));
    void *from = test_upload(gate_up, 2 * bytes), *out = test_device(bytes);

    TEST_OK(swiglu(&(struct swiglu_args){out, from, rows, ffn, dtype}, test_stream));
    test_to_host(got, out, bytes);
    swiglu_ref(want, in, rows, ffn);
    (void)test_close16("out", dtype, got, want, n, test_rounding(dtype) * 1.001 + 1e-5,
                       dtype == GPU_F16 ? 0x1.01p-25 : 4e-36);
    test_device_free(from, 2 * bytes);
    test_device_free(out, bytes);
    mem_free(got), mem_free(in), mem_free(want);
}

static void the_product_follows_its_definition_for_every_width(void **state)
{
    /* Around a warp, a block and several blocks of a row. */
    static const uint32_t widths[] = {8, 248, 512, 520, 4088, 4096, 4104, 14336};

    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(*widths); i++) {
        for (uint32_t rows = 1; rows <= 3; rows += 2) {
            for (size_t d = 0; d < 2; d++) {
                uint16_t *in = test_random16(dtypes[d], (size_t)rows * 2 * widths[i], 4);
                check(dtypes[d], in, rows, widths[i]);
                mem_free(in);
            }
        }
    }
}

static void gates_at_the_ends_of_the_range_give_what_the_formula_gives(void **state)
{
    static const double gates[] = {0,        -0.0,      1e-30, -1e-30, 20,  -20,  88,   -88,
                                   89,       -89,       104,   -104,   3e4, -3e4, 1e38, -1e38,
                                   INFINITY, -INFINITY, NAN,   1,      -1,  60,   -60,  11};
    enum { FFN = sizeof(gates) / sizeof(*gates) };
    uint16_t in[2][2 * FFN];

    (void)state;
    for (size_t d = 0; d < 2; d++) {
        for (size_t c = 0; c < FFN; c++) {
            in[0][c] = in[1][c] = test_to16(dtypes[d], gates[c]);
            in[0][FFN + c] = test_to16(dtypes[d], 1.5);
            in[1][FFN + c] = test_to16(dtypes[d], -0.25);
        }
        check(dtypes[d], in[0], 2, FFN);
    }
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    static const uint32_t bad[] = {0, 4, 12, (1 << 20) + 8, 0xfffffff8u};
    struct swiglu_args a = {.rows = 0, .ffn = 64, .dtype = GPU_F16};

    (void)state;
    TEST_OK(swiglu(&a, test_stream));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        a.ffn = bad[i];
        assert_int_equal(swiglu(&a, test_stream), ERR_INVALID);
    }
    a = (struct swiglu_args){.rows = 0xffffffffu, .ffn = 64, .dtype = GPU_F16};
    assert_int_equal(swiglu(&a, test_stream), ERR_INVALID);
    a = (struct swiglu_args){.ffn = 64, .dtype = (enum gpu_dtype)3};
    assert_int_equal(swiglu(&a, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_product_follows_its_definition_for_every_width),
        cmocka_unit_test(gates_at_the_ends_of_the_range_give_what_the_formula_gives),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
