/* Kernels that start early (engine/kernels/gpu_kernel.cuh), one after the other as in the layers of a decode step: whatever
 * overlaps, the bits are those of a run that waits after each.  Only a device overlaps them: there this is the test of early
 * starts alone, where the test of a whole model could not say what is wrong. */
#include "tests/gpu/gpu_test.h"

#include "engine/kernels/fill_random.h"
#include "engine/kernels/gemv.h"
#include "engine/kernels/rmsnorm.h"
#include "engine/kernels/swiglu.h"

#ifdef GPU_EMULATED
enum { ROWS = 2, HIDDEN = 64, FFN = 64, LAYERS = 2, TRIES = 1 };
#else /* products of about two blocks per multiprocessor, so that all of them read what others write */
enum { ROWS = 2, HIDDEN = 4096, FFN = 4096, LAYERS = 24, TRIES = 8 };
#endif

struct chain {
    uint16_t *w_o, *w_gate_up, *w_down, *w_norm; /* of all layers */
    uint16_t *x, *y, *out, *wide, *act;
};

static uint16_t *weights(size_t n, float mean, float spread, uint64_t seed)
{
    uint16_t *w = test_device(n * sizeof(*w));

    TEST_OK(fill_random(w, n, mean, spread, seed, GPU_BF16, test_stream));
    test_wait(); /* a product may read its weights before the kernel ahead of it has ended */
    return w;
}

static void make(struct chain *c)
{
    float spread = 1.7f / sqrtf(HIDDEN); /* uniform: of a variance that keeps sizes as they are */

    c->w_o = weights((size_t)HIDDEN * HIDDEN, 0, spread, 1);
    c->w_gate_up = weights((size_t)2 * FFN * HIDDEN, 0, spread, 2);
    c->w_down = weights((size_t)HIDDEN * FFN, 0, 2 * spread, 3);
    c->w_norm = weights(HIDDEN, 1, 0.5f, 4);
    c->x = test_device((size_t)ROWS * HIDDEN * 2);
    c->y = test_device((size_t)ROWS * HIDDEN * 2);
    c->out = test_device((size_t)ROWS * HIDDEN * 2);
    c->wide = test_device((size_t)ROWS * 2 * FFN * 2);
    c->act = test_device((size_t)ROWS * FFN * 2);
}

static void discard(struct chain *c)
{
    test_device_free(c->w_o, (size_t)HIDDEN * HIDDEN * 2);
    test_device_free(c->w_gate_up, (size_t)2 * FFN * HIDDEN * 2);
    test_device_free(c->w_down, (size_t)HIDDEN * FFN * 2);
    test_device_free(c->w_norm, HIDDEN * 2);
    test_device_free(c->x, (size_t)ROWS * HIDDEN * 2);
    test_device_free(c->y, (size_t)ROWS * HIDDEN * 2);
    test_device_free(c->out, (size_t)ROWS * HIDDEN * 2);
    test_device_free(c->wide, (size_t)ROWS * 2 * FFN * 2);
    test_device_free(c->act, (size_t)ROWS * FFN * 2);
}

static void done(enum err err, bool pause)
{
    TEST_OK(err);
    if (pause)
        test_wait();
}

static void multiply(const uint16_t *w, const uint16_t *x, uint16_t *y, uint32_t n, uint32_t k,
                     bool pause)
{
    const struct gemv_args a = {.y = y,
                                .x = x,
                                .w = w,
                                .x_stride = k,
                                .y_stride = n,
                                .rows = ROWS,
                                .n = n,
                                .k = k,
                                .dtype = GPU_BF16,
                                .weight = GPU_WEIGHT_16};
    done(gemv(&a, test_stream), pause);
}

static void add_and_norm(const struct chain *c, bool pause)
{
    const struct rmsnorm_args a = {.y = c->y,
                                   .residual = c->x,
                                   .x = c->out,
                                   .w = c->w_norm,
                                   .rows = ROWS,
                                   .cols = HIDDEN,
                                   .eps = 1e-5f,
                                   .dtype = GPU_BF16};
    done(rmsnorm(&a, test_stream), pause);
}

/* The residual stream at the end, from the same start. */
static void run(const struct chain *c, const uint16_t *start, bool pause, uint16_t *end)
{
    const struct swiglu_args act = {
        .out = c->act, .gate_up = c->wide, .rows = ROWS, .ffn = FFN, .dtype = GPU_BF16};

    test_to_device(c->x, start, (size_t)ROWS * HIDDEN * 2);
    test_to_device(c->y, start, (size_t)ROWS * HIDDEN * 2);
    for (int layer = 0; layer < LAYERS; layer++) {
        multiply(c->w_o, c->y, c->out, HIDDEN, HIDDEN, pause);
        add_and_norm(c, pause);
        multiply(c->w_gate_up, c->y, c->wide, 2 * FFN, HIDDEN, pause);
        done(swiglu(&act, test_stream), pause);
        multiply(c->w_down, c->act, c->out, HIDDEN, FFN, pause);
        add_and_norm(c, pause);
    }
    test_to_host(end, c->x, (size_t)ROWS * HIDDEN * 2);
}

static void layers_without_a_pause_give_the_bits_of_layers_with_one(void **state)
{
    size_t n = (size_t)ROWS * HIDDEN;
    uint16_t *start = test_random16(GPU_BF16, n, 1), *want = test_alloc(n * 2),
             *got = test_alloc(n * 2);
    struct chain c;

    (void)state;
    make(&c);
    run(&c, start, true, want);
    for (size_t i = 0; i < n; i++)
        assert_true(isfinite(test_from16(GPU_BF16, want[i])));
    assert_memory_not_equal(want, start, n * 2);
    for (int i = 0; i < TRIES; i++) {
        run(&c, start, false, got);
        assert_memory_equal(got, want, n * 2);
    }
    discard(&c);
    mem_free(start), mem_free(want), mem_free(got);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_without_a_pause_give_the_bits_of_layers_with_one),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
