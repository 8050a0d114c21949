/* tests/unit/engine_sample_test.c - the sampler against a slow double-precision model of its contract. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_philox.h"
#include "engine/engine_sample.h"
#include "tests/unit/cpu_time.h"

enum { VOCAB_MAX = 262144 };
#ifdef BATON_SANITIZED
enum { FEWER = 8 }; /* draws, where each takes ten times as long */
#else
enum { FEWER = 1 };
#endif

static float logits[VOCAB_MAX], input[VOCAB_MAX];
static void *scratch;

static uint64_t rng_state;

static uint64_t rng(void)
{
    uint64_t x = rng_state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double uniform(void)
{
    return (double)(rng() >> 11) * 0x1p-53;
}

static void fill(uint32_t vocab, uint64_t seed, double spread)
{
    rng_state = seed;
    for (uint32_t i = 0; i < vocab; i++) /* about normal */
        input[i] = (float)(spread * (uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7);
}

static struct engine_sampled sample(uint32_t vocab, const struct engine_sampling *s,
                                    const struct engine_history *h, uint32_t index)
{
    struct engine_sampled out;

    memset(&out, 0xee, sizeof(out));
    memcpy(logits, input, vocab * sizeof(float));
    engine_sample(logits, vocab, s, h, index, scratch, &out);
    return out;
}

/* ---- the reference: probabilities after all filters, in double ---------------------------------- */

struct ranked {
    double logit;
    uint32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* prob[id] of the tokens that may be drawn, 0 for the others; x are the logits after penalties. */
static void reference(const float *x, uint32_t vocab, const struct engine_sampling *s, double *prob)
{
    struct ranked *r = mem_try_calloc(vocab, sizeof(*r));
    double total = 0, sum = 0, kept = 0;
    uint32_t n = vocab, cut;

    assert_non_null(r);
    for (uint32_t i = 0; i < vocab; i++)
        r[i] = (struct ranked){(double)x[i], i};
    qsort(r, vocab, sizeof(*r), by_rank);
    if (s->top_k > 0 && (uint32_t)s->top_k < n)
        n = (uint32_t)s->top_k;
    for (uint32_t i = 0; i < n; i++)
        total += exp((r[i].logit - r[0].logit) / (double)s->temperature);
    for (cut = 0; cut < n && sum < (double)s->top_p * total; cut++)
        sum += exp((r[cut].logit - r[0].logit) / (double)s->temperature);
    memset(prob, 0, vocab * sizeof(*prob));
    for (uint32_t i = 0; i < cut; i++) {
        double p = exp((r[i].logit - r[0].logit) / (double)s->temperature);

        if (p < (double)s->min_p)
            break;
        prob[r[i].id] = p;
        kept += p;
    }
    for (uint32_t i = 0; i < vocab; i++)
        prob[i] /= kept;
    mem_free(r);
}

/* Draw many times and compare with the reference: nothing outside the kept set, and a chi-square that
 * a right sampler exceeds once in about 10^5 runs (the seeds are fixed, so it never flickers). */
static void check_draws(uint32_t vocab, struct engine_sampling s, uint32_t draws)
{
    double *prob = mem_try_calloc(vocab, sizeof(double));
    uint32_t *seen = mem_try_calloc(vocab, sizeof(uint32_t));
    double chi = 0, rest_expected = 0, limit;
    uint32_t cells = 0, rest_seen = 0;

    assert_non_null(prob);
    assert_non_null(seen);
    draws /= FEWER;
    reference(input, vocab, &s, prob);
    for (uint32_t i = 0; i < draws; i++) {
        int32_t token = sample(vocab, &s, NULL, i).token;

        assert_in_range(token, 0, vocab - 1);
        if (prob[token] == 0)
            fail_msg("token %d was drawn, which the filters exclude", token);
        seen[token]++;
    }
    for (uint32_t i = 0; i < vocab; i++) {
        double expected = prob[i] * draws;

        if (expected < 8) { /* rare ones together make one cell */
            rest_expected += expected;
            rest_seen += seen[i];
            continue;
        }
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
        cells++;
    }
    if (rest_expected >= 8) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
        cells++;
    }
    limit = cells + 4.5 * sqrt(2.0 * cells) + 10;
    if (chi > limit)
        fail_msg("chi-square %.1f over %u cells, limit %.1f", chi, cells, limit);
    mem_free(prob);
    mem_free(seen);
}

static struct engine_sampling hot(float temperature)
{
    struct engine_sampling s;

    engine_sampling_defaults(&s);
    s.temperature = temperature;
    s.seed = 0x1234567890abcdefu;
    return s;
}

/* ---- the generator ------------------------------------------------------------------------------ */

static void philox_gives_the_published_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    uint32_t out[4];

    (void)state;
    for (size_t i = 0; i < sizeof(kat) / sizeof(kat[0]); i++) {
        engine_philox(kat[i].key, kat[i].counter, out);
        assert_memory_equal(out, kat[i].want, sizeof(out));
    }
}

static void the_same_seed_and_index_draw_the_same_token(void **state)
{
    struct engine_sampling s = hot(1.5f);
    uint32_t same = 0, changed_by_seed = 0;

    (void)state;
    fill(1000, 7, 1);
    for (uint32_t i = 0; i < 100; i++) {
        int32_t first = sample(1000, &s, NULL, i).token, again, other;

        sample(1000, &s, NULL, i + 50); /* draws in between leave no trace */
        again = sample(1000, &s, NULL, i).token;
        assert_int_equal(first, again);
        same += sample(1000, &s, NULL, i + 1).token == first;
        s.seed ^= (uint64_t)1 << 40;
        other = sample(1000, &s, NULL, i).token;
        s.seed ^= (uint64_t)1 << 40;
        changed_by_seed += other != first;
    }
    assert_true(same < 20);
    assert_true(changed_by_seed > 80);
}

/* ---- greedy ------------------------------------------------------------------------------------- */

static void greedy_takes_the_largest_and_the_lowest_id_of_a_tie(void **state)
{
    static const uint32_t sizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 1000, 32000};
    struct engine_sampling s;

    (void)state;
    engine_sampling_defaults(&s);
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        uint32_t n = sizes[k], a, b;

        fill(n, k, 3);
        for (int round = 0; round < 50; round++) {
            a = (uint32_t)(rng() % n);
            b = (uint32_t)(rng() % n);
            input[a] = input[b] = (float)(20 + round);
            assert_int_equal(sample(n, &s, NULL, 0).token, a < b ? a : b);
        }
    }
}

static void greedy_treats_negative_and_positive_zero_as_a_tie(void **state)
{
    struct engine_sampling s;

    (void)state;
    engine_sampling_defaults(&s);
    input[0] = -1;
    input[1] = -0.0f;
    input[2] = 0.0f;
    assert_int_equal(sample(3, &s, NULL, 0).token, 1);
    s.want_logprobs = true;
    s.n_top = 2;
    assert_int_equal(sample(3, &s, NULL, 0).top[0].token, 1);
    assert_int_equal(sample(3, &s, NULL, 0).top[1].token, 2);
}

/* ---- penalties, bias, bans ---------------------------------------------------------------------- */

static void penalties_change_logits_in_the_stated_order(void **state)
{
    struct engine_sampling s;
    struct engine_history *h = NULL;
    struct engine_bias bias[2] = {{2, 0.25f}, {9, 3.0f}};
    struct engine_sampled out;
    double x[10], max = -INFINITY, sum = 0;

    (void)state;
    engine_sampling_defaults(&s);
    s.repetition_penalty = 1.3f;
    s.presence_penalty = 0.5f;
    s.frequency_penalty = 0.25f;
    s.bias = bias;
    s.n_bias = 2;
    s.want_logprobs = true;
    s.n_top = 10;
    assert_int_equal(engine_history_create(&h), ERR_OK);
    assert_int_equal(engine_history_add(h, 1, false), ERR_OK); /* prompt only */
    assert_int_equal(engine_history_add(h, 2, false), ERR_OK); /* prompt, then output twice */
    assert_int_equal(engine_history_add(h, 2, true), ERR_OK);
    assert_int_equal(engine_history_add(h, 2, true), ERR_OK);
    assert_int_equal(engine_history_add(h, 5, true), ERR_OK);    /* output once, negative logit */
    assert_int_equal(engine_history_add(h, 4000, true), ERR_OK); /* outside: no effect */
    assert_int_equal(engine_history_add(h, -1, true), ERR_INVALID);
    for (int i = 0; i < 10; i++)
        x[i] = input[i] = (float)(2.0 - 0.7 * i);
    x[1] /= 1.3;
    x[2] = x[2] / 1.3 - 0.5 - 2 * 0.25 + 0.25;
    x[5] = x[5] * 1.3 - 0.5 - 0.25;
    x[9] += 3.0;
    for (int i = 0; i < 10; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < 10; i++)
        sum += exp(x[i] - max);
    out = sample(10, &s, h, 0);
    assert_int_equal(out.n_top, 10);
    for (uint32_t i = 0; i < out.n_top; i++) {
        double want = x[out.top[i].token] - max - log(sum);

        assert_true(fabs(want - (double)out.top[i].logprob) < 2e-6);
        assert_true(i == 0 || out.top[i].logprob <= out.top[i - 1].logprob);
    }
    engine_history_destroy(h);
}

static void a_repetition_penalty_sees_the_prompt_but_a_presence_penalty_does_not(void **state)
{
    struct engine_sampling s;
    struct engine_history *h = NULL;

    (void)state;
    engine_sampling_defaults(&s);
    assert_false(engine_sampling_uses_history(&s));
    assert_int_equal(engine_history_create(&h), ERR_OK);
    assert_int_equal(engine_history_add(h, 0, false), ERR_OK);
    input[0] = 2.0f;
    input[1] = 1.5f;
    s.presence_penalty = 2;
    s.frequency_penalty = 2;
    assert_true(engine_sampling_uses_history(&s));
    assert_int_equal(sample(2, &s, h, 0).token, 0);
    s.presence_penalty = s.frequency_penalty = 0;
    s.repetition_penalty = 2;
    assert_int_equal(sample(2, &s, h, 0).token, 1);
    engine_history_destroy(h);
}

static void history_counts_many_tokens_and_survives_allocation_failure(void **state)
{
    struct engine_history *h = NULL;
    struct engine_sampling s;
    size_t live = mem_live();

    (void)state;
    for (long n = 0; n < 40; n++) {
        enum err err;

        mem_fail_at(n);
        err = engine_history_create(&h);
        for (int32_t t = 0; err == ERR_OK && t < 2000; t++)
            err = engine_history_add(h, t % 500, true);
        mem_fail_at(-1);
        if (err == ERR_OK)
            break;
        assert_int_equal(err, ERR_NOMEM);
        engine_history_destroy(h);
        h = NULL;
        assert_int_equal(mem_live(), live);
    }
    assert_non_null(h);
    engine_sampling_defaults(&s);
    s.frequency_penalty = 1;
    for (int i = 0; i < 501; i++)
        input[i] = i == 500 ? -3.9f : 0.0f; /* each of the others was seen 4 times */
    assert_int_equal(sample(501, &s, h, 0).token, 500);
    input[500] = -4.1f;
    assert_int_equal(sample(501, &s, h, 0).token, 0);
    engine_history_destroy(h);
    assert_int_equal(mem_live(), live);
}

static void stop_ids_are_banned_below_min_tokens_only(void **state)
{
    static const int32_t stops[] = {3, 1};
    struct engine_sampling s;
    struct engine_bias bias = {3, 100};
    struct engine_sampled out;

    (void)state;
    engine_sampling_defaults(&s);
    s.stop_ids = stops;
    s.n_stop_ids = 2;
    s.min_tokens = 5;
    s.bias = &bias; /* the ban comes after the bias */
    s.n_bias = 1;
    s.want_logprobs = true;
    s.n_top = 4;
    input[0] = 1, input[1] = 9, input[2] = 2, input[3] = 8;
    for (uint32_t i = 0; i < 5; i++) {
        out = sample(4, &s, NULL, i);
        assert_int_equal(out.token, 2);
        assert_int_equal(out.n_top, 2); /* a banned token is no alternative */
    }
    assert_int_equal(sample(4, &s, NULL, 5).token, 3);
    s.temperature = 50;
    for (uint32_t i = 0; i < 5; i++) {
        out = sample(4, &s, NULL, i);
        assert_true(out.token == 0 || out.token == 2);
    }
}

/* ---- filters and draws -------------------------------------------------------------------------- */

static void draws_follow_the_probabilities(void **state)
{
    static const float temperatures[] = {0.3f, 1.0f, 2.5f, 100.0f};

    (void)state;
    for (size_t t = 0; t < 4; t++) {
        fill(77, 100 + t, 2);
        check_draws(77, hot(temperatures[t]), 40000);
        fill(700, 200 + t, 1);
        check_draws(700, hot(temperatures[t]), 30000);
    }
}

static void filters_keep_exactly_the_tokens_of_the_reference(void **state)
{
    static const int32_t ks[] = {0, 1, 2, 7, 40, 299, 100000};
    static const float ps[] = {1.0f, 0.95f, 0.5f, 0.1f, 1e-6f};
    static const float ms[] = {0.0f, 0.02f, 0.3f, 1.0f};
    uint32_t n = 0;

    (void)state;
    for (size_t k = 0; k < 7; k++) {
        for (size_t p = 0; p < 5; p++) {
            for (size_t m = 0; m < 4; m++) {
                struct engine_sampling s = hot(n % 2 ? 0.8f : 1.7f);

                s.top_k = ks[k];
                s.top_p = ps[p];
                s.min_p = ms[m];
                s.seed = n;
                fill(300, 3000 + n++, 2);
                check_draws(300, s, 3000);
            }
        }
    }
}

static void top_k_of_equal_logits_keeps_the_lowest_ids(void **state)
{
    struct engine_sampling s = hot(1);
    bool seen[10] = {false};

    (void)state;
    for (int i = 0; i < 5000; i++)
        input[i] = 1.25f;
    s.top_k = 10;
    for (uint32_t i = 0; i < 400; i++) {
        int32_t t = sample(5000, &s, NULL, i).token;

        assert_in_range(t, 0, 9);
        seen[t] = true;
    }
    for (int i = 0; i < 10; i++)
        assert_true(seen[i]);
    s.top_k = 0;
    s.top_p = 0.002f; /* of 5,000 equal ones: the first ten again (0.002f is a little above) */
    for (uint32_t i = 0; i < 400; i++)
        assert_in_range(sample(5000, &s, NULL, i).token, 0, 10);
}

static void large_vocabularies_follow_the_reference(void **state)
{
    struct engine_sampling s = hot(1);

    (void)state;
    fill(128256, 5, 3);
    s.top_k = 50;
    s.top_p = 0.95f;
    check_draws(128256, s, 2000);
    s.top_k = 0;
    check_draws(128256, s, 600);
    s.top_k = 5000; /* more than there are runs of 64 */
    check_draws(128256, s, 600);
}

static void a_tiny_temperature_is_greedy_and_a_huge_one_is_nearly_flat(void **state)
{
    struct engine_sampling s = hot(FLT_MIN);
    uint32_t low = 0;

    (void)state;
    fill(64, 9, 2);
    input[17] = 30;
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(sample(64, &s, NULL, i).token, 17);
    s.temperature = 0.01f;
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(sample(64, &s, NULL, i).token, 17);
    s.temperature = 100;
    for (uint32_t i = 0; i < 4000; i++)
        low += sample(64, &s, NULL, i).token < 32;
    assert_in_range(low, 1700, 2300);
}

/* ---- log probabilities -------------------------------------------------------------------------- */

static void logprobs_are_the_log_softmax_before_temperature(void **state)
{
    static const uint32_t sizes[] = {5, 64, 1000, 128256};

    (void)state;
    for (size_t k = 0; k < 4; k++) {
        uint32_t n = sizes[k];
        struct engine_sampling s = hot(3);
        double max = -INFINITY, sum = 0;
        struct engine_sampled out;

        fill(n, 40 + k, 4);
        for (uint32_t i = 0; i < n; i++)
            max = (double)input[i] > max ? (double)input[i] : max;
        for (uint32_t i = 0; i < n; i++)
            sum += exp((double)input[i] - max);
        s.want_logprobs = true;
        s.n_top = 20;
        s.top_k = 3; /* filters do not show in logprobs */
        out = sample(n, &s, NULL, 1);
        assert_int_equal(out.n_top, n < 20 ? n : 20);
        assert_true(fabs((double)out.logprob - ((double)input[out.token] - max - log(sum))) < 3e-6);
        for (uint32_t i = 0; i < out.n_top; i++) {
            uint32_t better = 0, id = (uint32_t)out.top[i].token;

            for (uint32_t j = 0; j < n; j++)
                better += input[j] > input[id] || (input[j] == input[id] && j < id);
            assert_int_equal(better, i);
            assert_true(fabs((double)out.top[i].logprob - ((double)input[id] - max - log(sum))) <
                        3e-6);
        }
    }
}

static void logprobs_are_absent_unless_wanted(void **state)
{
    struct engine_sampling s = hot(1);

    (void)state;
    fill(100, 1, 1);
    assert_int_equal(sample(100, &s, NULL, 0).n_top, 0);
    assert_true(sample(100, &s, NULL, 0).logprob == 0);
}

/* ---- bad numbers -------------------------------------------------------------------------------- */

static void nan_and_infinite_logits_give_a_defined_token(void **state)
{
    struct engine_sampling g, s = hot(1);
    uint32_t low = 0;

    (void)state;
    engine_sampling_defaults(&g);
    for (int i = 0; i < 200; i++)
        input[i] = NAN;
    assert_int_equal(sample(200, &g, NULL, 0).token, 0); /* nothing to choose from */
    assert_int_equal(sample(200, &s, NULL, 0).token, 0);
    input[70] = -5;
    assert_int_equal(sample(200, &g, NULL, 0).token, 70);
    assert_int_equal(sample(200, &s, NULL, 0).token, 70);
    input[150] = INFINITY;
    assert_int_equal(sample(200, &g, NULL, 0).token, 150);
    assert_int_equal(sample(200, &s, NULL, 0).token, 150);
    input[3] = INFINITY;
    assert_int_equal(sample(200, &g, NULL, 0).token, 3);
    for (uint32_t i = 0; i < 100; i++) { /* both are drawn */
        int32_t token = sample(200, &s, NULL, i).token;

        assert_true(token == 3 || token == 150);
        low += token == 3;
    }
    assert_in_range(low, 25, 75);
    g.want_logprobs = s.want_logprobs = true;
    assert_true(fabs((double)sample(200, &s, NULL, 0).logprob - log(0.5)) < 1e-5);
    input[3] = 2;
    input[150] = 1;
    assert_true(fabs((double)sample(200, &g, NULL, 0).logprob + log(1 + exp(-1) + exp(-7))) < 1e-5);
    g.want_logprobs = s.want_logprobs = false;
    for (int i = 0; i < 200; i++)
        input[i] = -INFINITY;
    assert_int_equal(sample(200, &g, NULL, 0).token, 0);
    input[11] = -FLT_MAX;
    assert_int_equal(sample(200, &g, NULL, 0).token, 11);
    assert_int_equal(sample(200, &s, NULL, 0).token, 11);
}

static void a_ban_holds_even_when_no_logit_is_left(void **state)
{
    static const int32_t stops[] = {0, 1, 2};
    struct engine_sampling s;
    struct engine_sampled out;

    (void)state;
    engine_sampling_defaults(&s);
    s.stop_ids = stops;
    s.n_stop_ids = 3;
    s.min_tokens = 1;
    s.want_logprobs = true;
    for (int i = 0; i < 10; i++)
        input[i] = -INFINITY;
    out = sample(10, &s, NULL, 0);
    assert_int_equal(out.token, 3);
    assert_true(isfinite(out.logprob));
}

static float odd_float(void)
{
    static const float odd[] = {0,       -0.0f,    1,        -1,       FLT_MAX, -FLT_MAX,
                                FLT_MIN, -FLT_MIN, 1e-42f,   INFINITY, 1e30f,   -INFINITY,
                                NAN,     88.7f,    -103.97f, 3.5f};
    return odd[rng() % 16];
}

static void extreme_parameters_and_logits_never_give_an_undefined_result(void **state)
{
    static const float temps[] = {0, 1e-45f, 1e-5f, 1, 100}, ps[] = {FLT_MIN, 0.5f, 1},
                       ms[] = {0, FLT_MIN, 1}, reps[] = {FLT_MIN, 1, FLT_MAX};
    static const int32_t ks[] = {INT32_MIN, 0, 1, 64, INT32_MAX}, stops[] = {0, 5};
    struct engine_history *h = NULL;
    struct engine_bias bias = {1, FLT_MAX};

    (void)state;
    assert_int_equal(engine_history_create(&h), ERR_OK);
    for (int32_t i = 0; i < 50; i++)
        assert_int_equal(engine_history_add(h, i * 3, i % 2), ERR_OK);
    rng_state = 77;
    for (uint32_t i = 0; i < 20000 / FEWER; i++) {
        uint32_t n = 1 + (uint32_t)(rng() % 200);
        struct engine_sampling s = {.temperature = temps[rng() % 5],
                                    .top_p = ps[rng() % 3],
                                    .min_p = ms[rng() % 3],
                                    .top_k = ks[rng() % 5],
                                    .repetition_penalty = reps[rng() % 3],
                                    .presence_penalty = rng() % 2 ? 2 : -2,
                                    .frequency_penalty = rng() % 2 ? 2 : -2,
                                    .seed = rng(),
                                    .want_logprobs = rng() % 2,
                                    .n_top = 20,
                                    .min_tokens = (uint32_t)(rng() % 3),
                                    .stop_ids = stops,
                                    .n_stop_ids = (uint32_t)(rng() % 3),
                                    .bias = &bias,
                                    .n_bias = (uint32_t)(rng() % 2)};
        struct engine_sampled out;

        for (uint32_t j = 0; j < n; j++)
            input[j] = rng() % 3 ? odd_float() : (float)(uniform() * 10);
        out = sample(n, &s, h, (uint32_t)(rng() % 3));
        assert_in_range(out.token, 0, n - 1);
        assert_true(isfinite(out.logprob) && out.logprob <= 1e-6f);
        assert_in_range(out.n_top, 0, s.want_logprobs ? 20 : 0);
        for (uint32_t j = 0; j < out.n_top; j++) {
            assert_in_range(out.top[j].token, 0, n - 1);
            assert_true(isfinite(out.top[j].logprob));
        }
    }
    engine_history_destroy(h);
}

static void the_sampler_writes_only_the_scratch_it_asked_for(void **state)
{
    static const uint32_t sizes[] = {1, 63, 64, 65, 1000, 4097};

    (void)state;
    for (size_t k = 0; k < 6; k++) {
        uint32_t n = sizes[k];
        size_t len = engine_sample_scratch_bytes(n);
        unsigned char *memory = mem_try_alloc(len + 8);
        struct engine_sampling s = hot(1);
        struct engine_sampled out;

        assert_non_null(memory);
        memset(memory, 0xa5, len + 8);
        fill(n, k, 1);
        s.want_logprobs = true;
        s.n_top = 20;
        s.top_p = 0.9f;
        memcpy(logits, input, n * sizeof(float));
        engine_sample(logits, n, &s, NULL, 0, memory, &out);
        for (size_t i = 0; i < 8; i++)
            assert_int_equal(memory[len + i], 0xa5);
        mem_free(memory);
    }
}

/* ---- the check of parameters -------------------------------------------------------------------- */

static void check_refuses(struct engine_sampling s, const char *field)
{
    struct err_msg msg = {""};

    assert_int_equal(engine_sampling_check(&s, 100, &msg), ERR_INVALID);
    if (strstr(msg.text, field) == NULL)
        fail_msg("the message '%s' does not name %s", msg.text, field);
}

static void the_check_names_the_field_that_is_out_of_range(void **state)
{
    struct engine_sampling ok, s;
    static const int32_t bad_stop[] = {1, 100}, negative[] = {-1};
    static const struct engine_bias bad_bias = {100, 1}, nan_bias = {1, NAN};

    (void)state;
    engine_sampling_defaults(&ok);
    assert_int_equal(engine_sampling_check(&ok, 100, NULL), ERR_OK);
#define REFUSE(field, value) (s = ok, s.field = (value), check_refuses(s, #field))
    REFUSE(temperature, -0.01f);
    REFUSE(temperature, 100.1f);
    REFUSE(temperature, NAN);
    REFUSE(top_p, 0);
    REFUSE(top_p, 1.01f);
    REFUSE(top_p, NAN);
    REFUSE(min_p, -0.1f);
    REFUSE(min_p, 1.1f);
    REFUSE(repetition_penalty, 0);
    REFUSE(repetition_penalty, INFINITY);
    REFUSE(presence_penalty, 2.1f);
    REFUSE(frequency_penalty, -2.1f);
#undef REFUSE
    s = ok, s.n_top = 21, check_refuses(s, "top_logprobs");
    s = ok, s.stop_ids = bad_stop, s.n_stop_ids = 2, check_refuses(s, "stop_token_ids");
    s = ok, s.stop_ids = negative, s.n_stop_ids = 1, check_refuses(s, "stop_token_ids");
    s = ok, s.stop_ids = bad_stop, s.n_stop_ids = 65, check_refuses(s, "stop_token_ids");
    s = ok, s.bias = &bad_bias, s.n_bias = 1, check_refuses(s, "logit_bias");
    s = ok, s.bias = &nan_bias, s.n_bias = 1, check_refuses(s, "logit_bias");
    s = ok, s.bias = &bad_bias, s.n_bias = 1025, check_refuses(s, "logit_bias");
}

/* Prints what a step pays; it fails only far from what it should be. */
static void sampling_stays_cheap_on_a_large_vocabulary(void **state)
{
    struct engine_sampling cases[4] = {hot(0), hot(1), hot(1), hot(1)};
    static const char *const names[] = {"greedy", "temperature", "top_k 50 top_p 0.95",
                                        "top_p 0.95"};
    uint32_t n = 128256;

    (void)state;
    cases[2].top_k = 50;
    cases[2].top_p = cases[3].top_p = 0.95f;
    fill(n, 5, 3);
    for (int c = 0; c < 4; c++) {
        uint64_t spent = 0;

        for (uint32_t i = 0; i < 20; i++) {
            struct engine_sampled out;
            uint64_t t0;

            memcpy(logits, input, n * sizeof(float));
            t0 = cpu_time_ns();
            engine_sample(logits, n, &cases[c], NULL, i, scratch, &out);
            spent += cpu_time_ns() - t0;
        }
        print_message("%s, vocabulary %u: %.1f us\n", names[c], n, (double)spent / 20e3);
        assert_true(spent / 20 < 100 * CLOCK_NS_PER_MS);
    }
}

static int setup(void **state)
{
    (void)state;
    scratch = mem_try_alloc(engine_sample_scratch_bytes(VOCAB_MAX));
    return scratch == NULL;
}

static int teardown(void **state)
{
    (void)state;
    mem_free(scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_known_answers),
        cmocka_unit_test(the_same_seed_and_index_draw_the_same_token),
        cmocka_unit_test(greedy_takes_the_largest_and_the_lowest_id_of_a_tie),
        cmocka_unit_test(greedy_treats_negative_and_positive_zero_as_a_tie),
        cmocka_unit_test(penalties_change_logits_in_the_stated_order),
        cmocka_unit_test(a_repetition_penalty_sees_the_prompt_but_a_presence_penalty_does_not),
        cmocka_unit_test(history_counts_many_tokens_and_survives_allocation_failure),
        cmocka_unit_test(stop_ids_are_banned_below_min_tokens_only),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(filters_keep_exactly_the_tokens_of_the_reference),
        cmocka_unit_test(top_k_of_equal_logits_keeps_the_lowest_ids),
        cmocka_unit_test(large_vocabularies_follow_the_reference),
        cmocka_unit_test(a_tiny_temperature_is_greedy_and_a_huge_one_is_nearly_flat),
        cmocka_unit_test(logprobs_are_the_log_softmax_before_temperature),
        cmocka_unit_test(logprobs_are_absent_unless_wanted),
        cmocka_unit_test(nan_and_infinite_logits_give_a_defined_token),
        cmocka_unit_test(a_ban_holds_even_when_no_logit_is_left),
        cmocka_unit_test(extreme_parameters_and_logits_never_give_an_undefined_result),
        cmocka_unit_test(the_sampler_writes_only_the_scratch_it_asked_for),
        cmocka_unit_test(the_check_names_the_field_that_is_out_of_range),
        cmocka_unit_test(sampling_stays_cheap_on_a_large_vocabulary),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
