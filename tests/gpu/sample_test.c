/* tests/gpu/sample_test.c - engine/kernels/sample.h against engine_sample(): the same token, whatever the row. */
#include "engine/kernels/sample.h"

#include <float.h>

#include "engine/engine_sample.h"
#include "tests/gpu/gpu_test.h"

enum { EDITS_MAX = 1 << 16, ROWS_MAX = 64, NOT_WRITTEN = -7 };

#ifdef GPU_EMULATED
#ifdef BATON_SANITIZED
enum { REPEAT = 1 };
#else
enum { REPEAT = 3 };
#endif
#else
enum { REPEAT = 10 }; /* the reference sorts each row: 0.2 s for the largest vocabulary */
#endif

/* ---- a launch and its reference ---- */

struct case_row {
    struct engine_sampling s;
    struct engine_history *h;
    uint32_t index;
    bool skip;
    struct engine_bias bias[ENGINE_BIAS_MAX];
    int32_t stops[ENGINE_STOP_IDS_MAX];
};

static struct case_row cases[ROWS_MAX];
static struct sample_row rows[ROWS_MAX];
static struct sample_edit edits[EDITS_MAX];
static uint32_t rows_compared;

static double share(void) /* 0 .. 1 */
{
    return (test_uniform() + 1) / 2;
}

static void clear_cases(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        engine_history_destroy(cases[i].h);
        cases[i].h = NULL;
        cases[i].skip = false;
        engine_sampling_defaults(&cases[i].s);
        cases[i].s.seed = test_random();
        cases[i].index = test_below(1000);
    }
}

static uint32_t make_rows(uint32_t n_rows, uint32_t vocab)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < n_rows; i++) {
        assert_int_equal(engine_sampling_check(&cases[i].s, vocab, NULL), ERR_OK);
        assert_true(sample_row_make(&rows[i], &cases[i].s, cases[i].h, cases[i].index, vocab, edits,
                                    &n, EDITS_MAX));
        if (cases[i].skip)
            rows[i].mode = SAMPLE_SKIP;
    }
    return n;
}

/* What is wrong with row i, if anything: logits is its copy, which the references edit. */
static void compare(uint32_t i, float *logits, uint32_t vocab, int32_t got)
{
    const struct engine_sampling *s = &cases[i].s;
    void *scratch = test_alloc(engine_sample_scratch_bytes(vocab));
    float *copy = test_alloc(vocab * sizeof(*copy));
    struct engine_sampled want;
    int32_t by_sorting;

    memcpy(copy, logits, vocab * sizeof(*copy));
    by_sorting = sample_ref(copy, vocab, &rows[i], edits);
    engine_sample(logits, vocab, s, cases[i].h, cases[i].index, scratch, &want);
    if (got != want.token || by_sorting != want.token)
        fail_msg("row %u of vocabulary %u: kernel %d, engine_sample %d, sample_ref %d (temperature "
                 "%g top_k %d top_p %g "
                 "min_p %g, %u + %u + %u edits)",
                 i, vocab, got, want.token, by_sorting, (double)s->temperature, s->top_k,
                 (double)s->top_p, (double)s->min_p, rows[i].n_history, rows[i].n_bias,
                 rows[i].n_bans);
    rows_compared++;
    mem_free(copy);
    mem_free(scratch);
}

/* Sample n_rows of logits[n_rows][stride] as cases[] says, compare each. */
static void check_rows(float *logits, uint32_t n_rows, uint32_t vocab, uint32_t stride)
{
    size_t logit_bytes = (size_t)n_rows * stride * 4, row_bytes = n_rows * sizeof(*rows);
    uint32_t n_edits = make_rows(n_rows, vocab);
    size_t edit_bytes = (n_edits + 1) * sizeof(*edits),
           work_bytes = sample_workspace_bytes(n_rows, vocab);
    int32_t tokens[ROWS_MAX];
    void *d_logits = test_upload(logits, logit_bytes), *d_rows = test_upload(rows, row_bytes);
    void *d_edits = test_upload(edits, edit_bytes), *work = test_device(work_bytes), *d_tokens;
    float *after = test_alloc(logit_bytes);

    for (uint32_t i = 0; i < n_rows; i++)
        tokens[i] = NOT_WRITTEN;
    d_tokens = test_upload(tokens, n_rows * 4);
    TEST_OK(sample(&(struct sample_args){.logits = d_logits,
                                         .rows = d_rows,
                                         .edits = d_edits,
                                         .tokens = d_tokens,
                                         .workspace = work,
                                         .n_rows = n_rows,
                                         .vocab = vocab,
                                         .row_stride = stride},
                   test_stream));
    test_to_host(tokens, d_tokens, n_rows * 4);
    test_to_host(after, d_logits, logit_bytes);
    for (uint32_t i = 0; i < n_rows; i++) {
        size_t at = (size_t)i * stride;

        assert_memory_equal(after + at + vocab, logits + at + vocab, (stride - vocab) * 4);
        if (cases[i].skip) {
            assert_int_equal(tokens[i], NOT_WRITTEN);
            assert_memory_equal(after + at, logits + at, vocab * 4);
        } else {
            compare(i, logits + at, vocab, tokens[i]);
        }
    }
    test_device_free(d_logits, logit_bytes);
    test_device_free(d_rows, row_bytes);
    test_device_free(d_edits, edit_bytes);
    test_device_free(work, work_bytes);
    test_device_free(d_tokens, n_rows * 4);
    mem_free(after);
}

/* ---- random rows ---- */

static float odd_float(void)
{
    static const float odd[] = {0,       -0.0f,    1,        -1,       FLT_MAX, -FLT_MAX,
                                FLT_MIN, -FLT_MIN, 1e-42f,   INFINITY, 1e30f,   -INFINITY,
                                NAN,     88.7f,    -103.97f, 3.5f};
    return odd[test_below(16)];
}

enum shape { NORMAL, PEAKED, FLAT, FEW_VALUES, EQUAL, ODD, NOTHING, N_SHAPES };

static void fill_row(float *x, uint32_t vocab, enum shape shape)
{
    static const double spreads[] = {1, 3, 8, 300};
    double spread = spreads[test_below(4)], offset = test_uniform() * 20;
    float one = (float)offset;

    for (uint32_t i = 0; i < vocab; i++) {
        double v = test_normal() * spread + offset;

        if (shape == PEAKED && test_below(vocab / 8 + 2) == 0)
            v += 4 * spread;
        if (shape == FLAT)
            v = test_normal() * 0.01;
        if (shape == FEW_VALUES)
            v = (double)test_below(5) - 2;
        x[i] = (float)v;
        if (shape == EQUAL)
            x[i] = one;
        if (shape == NOTHING)
            x[i] = test_below(2) ? NAN : -INFINITY;
        if (shape == ODD && test_below(3))
            x[i] = odd_float();
    }
    if (shape == NOTHING && test_below(2))
        x[test_below(vocab)] = -FLT_MAX;
}

static void random_filters(struct engine_sampling *s, uint32_t vocab)
{
    static const float temperatures[] = {0, FLT_MIN, 9.9e-6f, 1e-5f, 0.01f, 100};
    static const float ps[] = {FLT_MIN, 1e-20f, 1e-6f, 0.5f, 0.95f, 0.99999994f};

    s->temperature = (float)(0.05 + 2 * share());
    if (test_below(4) == 0)
        s->temperature = temperatures[test_below(6)];
    if (test_below(3) == 0)
        s->top_k = (int32_t)(1 + test_below(test_below(2) ? 8 : vocab + 2));
    if (test_below(20) == 0)
        s->top_k = INT32_MAX;
    if (test_below(2) == 0)
        s->top_p = test_below(3) ? (float)(0.02 + 0.97 * share()) : ps[test_below(6)];
    if (test_below(4) == 0)
        s->min_p = test_below(4) ? (float)(0.5 * share() * share()) : 1.0f;
}

/* Penalties, biases (now and then several of a token) and bans, on tokens near one another so that they meet. */
static void random_edits(struct case_row *c, uint32_t vocab)
{
    uint32_t span = 1 + test_below(vocab), seen = test_below(60);

    c->s.repetition_penalty = test_below(3) ? (float)(0.5 + 1.5 * share()) : 1;
    c->s.presence_penalty = test_below(2) ? (float)(2 * test_uniform()) : 0;
    c->s.frequency_penalty = test_below(2) ? (float)(2 * test_uniform()) : 0;
    TEST_OK(engine_history_create(&c->h));
    for (uint32_t i = 0; i < seen; i++) /* one in ten beyond the vocabulary */
        TEST_OK(engine_history_add(c->h, (int32_t)(test_below(span) + (test_below(10) ? 0 : vocab)),
                                   test_below(2)));
    c->s.n_bias = test_below(2) ? test_below(12) : 0;
    for (uint32_t i = 0; i < c->s.n_bias; i++)
        c->bias[i] = (struct engine_bias){(int32_t)test_below(test_below(2) ? span : vocab),
                                          (float)(5 * test_uniform())};
    c->s.bias = c->bias;
    c->s.n_stop_ids = test_below(5);
    for (uint32_t i = 0; i < c->s.n_stop_ids; i++)
        c->stops[i] = (int32_t)test_below(span);
    c->s.stop_ids = c->stops;
    c->s.min_tokens = test_below(2) ? 2000 : 0;
}

static uint32_t stride_for(uint32_t vocab)
{
    return (vocab + 3) / 4 * 4 + 4 * test_below(3);
}

static void check_random(uint32_t vocab, uint32_t n_rows, bool edited)
{
    uint32_t stride = stride_for(vocab);
    float *logits = test_alloc((size_t)n_rows * stride * 4);

    clear_cases(n_rows);
    for (uint32_t i = 0; i < n_rows; i++) {
        float *row = logits + (size_t)i * stride;

        fill_row(row, vocab, (enum shape)test_below(N_SHAPES));
        for (uint32_t j = vocab; j < stride; j++)
            row[j] = INFINITY; /* what stands behind a row has no part in it */
        if (test_below(5) != 0)
            random_filters(&cases[i].s, vocab);
        if (edited)
            random_edits(&cases[i], vocab);
        cases[i].skip = test_below(12) == 0;
    }
    check_rows(logits, n_rows, vocab, stride);
    mem_free(logits);
}

/* ---- tests ---- */

static void every_mix_of_parameters_gives_the_token_of_the_cpu(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 5, 33, 127, 128, 129, 257, 1000, 4099};

    (void)state;
    for (uint32_t round = 0; round < REPEAT; round++) {
        for (size_t v = 0; v < sizeof(vocabs) / sizeof(*vocabs); v++) {
            check_random(vocabs[v], 1 + test_below(ROWS_MAX), false);
            check_random(vocabs[v], 1 + test_below(16), true);
        }
    }
    print_message("%u rows\n", rows_compared);
}

static void a_large_vocabulary_gives_the_token_of_the_cpu(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < REPEAT; round++)
        check_random(32000, 6, round % 2);
#ifndef GPU_EMULATED
    for (uint32_t round = 0; round < 4; round++)
        check_random(round < 2 ? 128256 : SAMPLE_VOCAB_MAX, 6, round % 2);
#endif
}

/* Many draws from one row: a boundary that is one weight off shows in few of them. */
static void every_draw_of_a_row_is_that_of_the_cpu(void **state)
{
    static const float ps[] = {1, 0.9f, 1, 0.7f};
    static const int32_t ks[] = {0, 0, 40, 200};
    float *logits = test_alloc((size_t)ROWS_MAX * 1000 * 4);

    (void)state;
    for (uint32_t c = 0; c < 4; c++) {
        clear_cases(ROWS_MAX);
        fill_row(logits, 1000, c % 2 ? NORMAL : FLAT);
        for (uint32_t i = 0; i < ROWS_MAX; i++) {
            memcpy(logits + (size_t)i * 1000, logits, 4000);
            cases[i].s.temperature = 1.5f;
            cases[i].s.top_p = ps[c];
            cases[i].s.top_k = ks[c];
            cases[i].s.seed = 99;
            cases[i].index = i;
        }
        check_rows(logits, ROWS_MAX, 1000, 1000);
    }
    mem_free(logits);
}

/* Equal logits in many runs: thresholds are then decided by ids alone, in each of their digits. */
static void ties_go_to_the_lowest_ids(void **state)
{
    enum { VOCAB = 66000, ROWS = 8 };
    static const int32_t ks[ROWS] = {1, 0, 0, 2, 255, 0, 40000, 65999};
    static const float ps[ROWS] = {1, 1, 0.5f, 1, 0.3f, 1e-4f, 0.999f, 1};
    float *logits = test_alloc((size_t)ROWS * VOCAB * 4);

    (void)state;
    clear_cases(ROWS);
    for (uint32_t i = 0; i < ROWS; i++) {
        for (uint32_t j = 0; j < VOCAB; j++)
            logits[(size_t)i * VOCAB + j] = i % 2 || j > 300 ? -1.25f : -1.5f;
        cases[i].s.temperature = i == 0 ? 0 : 1;
        cases[i].s.top_k = ks[i];
        cases[i].s.top_p = ps[i];
    }
    check_rows(logits, ROWS, VOCAB, VOCAB);
    mem_free(logits);
}

/* Shares of equal weights that end exactly between two tokens. */
static void a_share_that_ends_between_equal_tokens_takes_none_too_many(void **state)
{
    enum { ROWS = 60, STRIDE = 300 };
    static const uint32_t vocabs[] = {2, 4, 8, 256};
    float *logits = test_alloc((size_t)ROWS * STRIDE * 4);

    (void)state;
    for (uint32_t v = 0; v < 4; v++) {
        uint32_t n = vocabs[v];

        clear_cases(ROWS);
        for (uint32_t i = 0; i < ROWS * STRIDE; i++)
            logits[i] = 3;
        for (uint32_t i = 0; i < ROWS; i++) {
            cases[i].s.temperature = 1;
            cases[i].s.top_p = (float)(n - 1 - i % (n / 2)) / (float)n;
            cases[i].s.top_k = i % 3 ? 0 : (int32_t)n;
        }
        check_rows(logits, ROWS, n, STRIDE);
    }
    mem_free(logits);
}

static void the_largest_logit_is_found_in_any_run(void **state)
{
    enum { VOCAB = 20000, ROWS = 32 };
    float *logits = test_alloc((size_t)ROWS * VOCAB * 4);

    (void)state;
    clear_cases(ROWS);
    for (uint32_t i = 0; i < ROWS; i++) {
        float *row = logits + (size_t)i * VOCAB, top = i % 2 ? -0.5f : 40;

        for (uint32_t j = 0; j < VOCAB; j++)
            row[j] = (float)(test_uniform() - 2);
        for (uint32_t j = 0; j <= i % 3; j++) /* up to three of them */
            row[test_below(VOCAB)] = top;
    }
    check_rows(logits, ROWS, VOCAB, VOCAB);
    mem_free(logits);
}

static void a_token_that_is_banned_or_penalised_does_not_win_by_its_old_logit(void **state)
{
    enum { VOCAB = 2000, ROWS = 24 };
    float *logits = test_alloc((size_t)ROWS * VOCAB * 4);

    (void)state;
    clear_cases(ROWS);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct case_row *c = &cases[i];
        float *row = logits + (size_t)i * VOCAB;

        fill_row(row, VOCAB, NORMAL);
        TEST_OK(engine_history_create(&c->h));
        for (uint32_t j = 0; j < ENGINE_STOP_IDS_MAX; j++) {
            int32_t banned = (int32_t)test_below(VOCAB), penalised = (int32_t)test_below(VOCAB);

            row[banned] = (float)(2000 + 50 * test_uniform());
            row[penalised] = 1500;
            c->stops[j] = banned;
            for (int times = 0; times < 3; times++)
                TEST_OK(engine_history_add(c->h, penalised, true));
        }
        c->s.repetition_penalty = 1000;
        c->s.presence_penalty = 2;
        c->s.stop_ids = c->stops;
        c->s.n_stop_ids = ENGINE_STOP_IDS_MAX;
        c->s.min_tokens = i % 3 ? 2000 : 0;
        c->s.temperature = i % 2 ? 0 : 1;
    }
    check_rows(logits, ROWS, VOCAB, VOCAB);
    mem_free(logits);
}

static void the_most_edits_a_request_may_have_are_applied_in_order(void **state)
{
    enum { VOCAB = 4099, ROWS = 4, STRIDE = 4100 };
    float *logits = test_alloc((size_t)ROWS * STRIDE * 4);

    (void)state;
    clear_cases(ROWS);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct case_row *c = &cases[i];

        fill_row(logits + i * STRIDE, VOCAB, NORMAL);
        memset(logits + i * STRIDE + VOCAB, 0, 4);
        TEST_OK(engine_history_create(&c->h));
        for (int32_t t = 0; t < VOCAB; t++)
            TEST_OK(engine_history_add(c->h, t, test_below(3) > 0));
        c->s.repetition_penalty = 1.7f;
        c->s.frequency_penalty = 0.3f;
        c->s.n_bias = ENGINE_BIAS_MAX;
        for (uint32_t j = 0; j < ENGINE_BIAS_MAX;
             j++) /* the sum of a token's depends on their order */
            c->bias[j] =
                (struct engine_bias){(int32_t)(i == 0 ? VOCAB - 1 : (int)test_below(i * 100)),
                                     (float)test_uniform() * (j % 7 ? 1 : 1e5f)};
        c->s.bias = c->bias;
        c->s.n_stop_ids = ENGINE_STOP_IDS_MAX;
        for (uint32_t j = 0; j < ENGINE_STOP_IDS_MAX; j++)
            c->stops[j] = (int32_t)(j * 3);
        c->s.stop_ids = c->stops;
        c->s.min_tokens = 2000;
        c->s.temperature = i < 2 ? 0 : 1;
    }
    check_rows(logits, ROWS, VOCAB, STRIDE);
    mem_free(logits);
}

static void a_row_that_the_host_must_sample_is_named_and_has_no_edits(void **state)
{
    struct case_row *c = &cases[0];
    uint32_t n = 3;

    (void)state;
    clear_cases(1);
    TEST_OK(engine_history_create(&c->h));
    for (int32_t t = 0; t < 10; t++)
        TEST_OK(engine_history_add(c->h, t, t < 4));
    c->s.presence_penalty = 1;
    assert_true(sample_row_make(rows, &c->s, c->h, 0, 100, edits, &n, 7)); /* of the output alone */
    assert_int_equal(n, 7);
    assert_int_equal(rows[0].first_edit, 3);
    assert_int_equal(rows[0].n_history, 4);
    n = 3;
    assert_false(sample_row_make(rows, &c->s, c->h, 0, 100, edits, &n, 6));
    assert_int_equal(n, 3);
    assert_int_equal(rows[0].mode, SAMPLE_SKIP);
    assert_int_equal(rows[0].n_history, 0);
    c->s.want_logprobs = true;
    assert_false(sample_row_make(rows, &c->s, c->h, 0, 100, edits, &n, 100));
    assert_int_equal(rows[0].mode, SAMPLE_SKIP);
    assert_int_equal(n, 3);
}

/* One launch, captured; then rows, logits and modes change under it. */
static void a_graph_samples_what_the_rows_say_at_each_launch(void **state)
{
    enum { VOCAB = 257, STRIDE = 260, ROWS = 5 };
    float logits[ROWS * STRIDE];
    int32_t tokens[ROWS];
    size_t work_bytes = sample_workspace_bytes(ROWS, VOCAB);
    void *d_logits = test_device(sizeof(logits)), *d_rows = test_device(ROWS * sizeof(*rows));
    void *d_edits = test_device(sizeof(edits)), *work = test_device(work_bytes),
         *d_tokens = test_device(sizeof(tokens));
    gpu_graph graph;

    (void)state;
    TEST_OK(gpu_capture_begin(test_stream));
    TEST_OK(sample(
        &(struct sample_args){d_logits, d_rows, d_edits, d_tokens, work, ROWS, VOCAB, STRIDE},
        test_stream));
    TEST_OK(gpu_capture_end(test_stream, &graph));
    for (uint32_t round = 0; round < 20; round++) {
        clear_cases(ROWS);
        for (uint32_t i = 0; i < ROWS; i++) {
            fill_row(logits + i * STRIDE, VOCAB, (enum shape)test_below(N_SHAPES));
            random_filters(&cases[i].s, VOCAB);
            random_edits(&cases[i], VOCAB);
            memset(logits + i * STRIDE + VOCAB, 0, (STRIDE - VOCAB) * 4);
        }
        (void)make_rows(ROWS, VOCAB);
        test_to_device(d_logits, logits, sizeof(logits));
        test_to_device(d_rows, rows, ROWS * sizeof(*rows));
        test_to_device(d_edits, edits, sizeof(edits));
        TEST_OK(gpu_graph_launch(graph, test_stream));
        test_to_host(tokens, d_tokens, sizeof(tokens));
        for (uint32_t i = 0; i < ROWS; i++)
            compare(i, logits + i * STRIDE, VOCAB, tokens[i]);
    }
    gpu_graph_destroy(graph);
    test_device_free(d_logits, sizeof(logits));
    test_device_free(d_rows, ROWS * sizeof(*rows));
    test_device_free(d_edits, sizeof(edits));
    test_device_free(work, work_bytes);
    test_device_free(d_tokens, sizeof(tokens));
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    struct sample_args good = {.n_rows = 0, .vocab = 33, .row_stride = 36}, a;

    (void)state;
    TEST_OK(sample(&good, test_stream));
#define REFUSE(field, v) \
    (a = good, a.field = v, assert_int_equal(sample(&a, test_stream), ERR_INVALID))
    REFUSE(vocab, 0);
    REFUSE(vocab, SAMPLE_VOCAB_MAX + 1);
    REFUSE(n_rows, 65536);
    REFUSE(row_stride, 32);
    REFUSE(row_stride, 37);
    REFUSE(logits, (float *)8);
    REFUSE(workspace, (void *)8);
#undef REFUSE
}

static int teardown(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < ROWS_MAX; i++) {
        engine_history_destroy(cases[i].h);
        cases[i].h = NULL;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mix_of_parameters_gives_the_token_of_the_cpu),
        cmocka_unit_test(a_large_vocabulary_gives_the_token_of_the_cpu),
        cmocka_unit_test(every_draw_of_a_row_is_that_of_the_cpu),
        cmocka_unit_test(ties_go_to_the_lowest_ids),
        cmocka_unit_test(a_share_that_ends_between_equal_tokens_takes_none_too_many),
        cmocka_unit_test(the_largest_logit_is_found_in_any_run),
        cmocka_unit_test(a_token_that_is_banned_or_penalised_does_not_win_by_its_old_logit),
        cmocka_unit_test(the_most_edits_a_request_may_have_are_applied_in_order),
        cmocka_unit_test(a_row_that_the_host_must_sample_is_named_and_has_no_edits),
        cmocka_unit_test(a_graph_samples_what_the_rows_say_at_each_launch),
        cmocka_unit_test_teardown(shapes_outside_the_limits_are_refused, teardown),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
