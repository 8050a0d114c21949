/* tests/gpu/fill_random_test.c - engine/kernels/fill_random.h against its definition. */
#include "engine/kernels/fill_random.h"

#include "tests/gpu/gpu_test.h"

static const enum gpu_dtype dtypes[] = {GPU_BF16, GPU_F16};

static void numbers_are_those_of_the_seed_and_the_place(void **state)
{
    /* Around a thread's eight, a block's and a grid's. */
    static const uint64_t counts[] = {8, 2048, 2056, 8000, 4000000};

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        enum gpu_dtype dtype = dtypes[i % 2];
        uint64_t n = counts[i], seed = test_random();
        double *want = test_alloc(n * sizeof(*want));
        float *narrow = test_alloc(n * sizeof(*narrow));
        uint16_t *got = test_alloc(n * 2);
        void *out = test_device(n * 2);

        TEST_OK(fill_random(out, n, 1.0f, 0.5f, seed, dtype, test_stream));
        test_to_host(got, out, n * 2);
        fill_random_ref(want, n, 1.0, 0.5, seed);
        for (uint64_t k = 0; k < n; k++)
            narrow[k] = (float)want[k];
        (void)test_close16("y", dtype, got, narrow, n, test_rounding(dtype) * 1.001, 1e-7);
        test_device_free(out, n * 2);
        mem_free(want), mem_free(narrow), mem_free(got);
    }
}

static void the_reference_is_uniform(void **state)
{
    enum { N = 100000 };
    double *y = test_alloc(N * sizeof(*y)), mean = 0, square = 0;

    (void)state;
    fill_random_ref(y, N, 0, 1, test_random());
    for (int i = 0; i < N; i++) {
        assert_true(y[i] >= -1 && y[i] < 1);
        mean += y[i] / N;
        square += y[i] * y[i] / N;
    }
    assert_true(fabs(mean) < 0.01);
    assert_true(fabs(square - 1.0 / 3) < 0.01);
    mem_free(y);
}

static void nothing_and_odd_places_are_refused(void **state)
{
    uint16_t *out = test_device(64);

    (void)state;
    assert_int_equal(fill_random(NULL, 8, 0, 1, 1, GPU_BF16, test_stream), ERR_INVALID);
    assert_int_equal(fill_random(out, 0, 0, 1, 1, GPU_BF16, test_stream), ERR_INVALID);
    assert_int_equal(fill_random(out + 1, 8, 0, 1, 1, GPU_BF16, test_stream), ERR_INVALID);
    test_device_free(out, 64);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_the_seed_and_the_place),
        cmocka_unit_test(the_reference_is_uniform),
        cmocka_unit_test(nothing_and_odd_places_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
