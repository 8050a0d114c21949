/* Step and link times: what is learned, how soon, and whether the intervals keep their promise.  The truth is the
 * H100 laws of deploy/clusters with noise; every draw comes from a seed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "scheduler/sched_predict.h"
#include "tests/unit/cpu_time.h"

static const struct sched_law PREFILL = {{2668e3, 20510, 0.38491, 12220}, 448};
static const struct sched_law DECODE = {{7141e3, 8880, 43.198, 4780}, 128};
static const struct sched_law UNKNOWN = {{0}, 0};
enum { WORKERS = 4 };

/* ---- drawing ---- */

static uint64_t state;

static double uniform(void)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* A chunk of a prompt: lognormal lengths, cut into chunks of 2048. */
static struct sched_step chunk(void)
{
    double n = floor(exp(6.63 + 0.99 * normal())) + 1, past = 0;

    if (n > 2048) {
        past = 2048 * floor(n / 2048 * uniform());
        n = 2048;
    }
    return (struct sched_step){.n = n, .n2 = n * (n + 2 * past)};
}

/* A batch that grows and shrinks slowly. */
static struct sched_step batch(double *size)
{
    double b;

    *size = fmin(fmax(*size + 2 * normal(), 1), 200);
    b = floor(*size);
    return (struct sched_step){.b = b, .ctx = floor(b * 1300 * exp(0.1 * normal()))};
}

static double truth(const struct sched_step *s)
{
    return s->n > 0 ? sched_law_prefill(&PREFILL, s->n, s->n2)
                    : sched_law_decode(&DECODE, s->b, s->ctx);
}

/* ---- a stream of one class's steps, over its workers in turn ---- */

struct stream {
    struct sched_predict p;
    struct sched_bias bias[WORKERS];
    struct sched_score score;
    double speed[WORKERS], size[WORKERS]; /* factor on time; batch */
    double sigma;
    /* of the predictions against the truth without noise, since the last clear */
    double error, absolute;
    uint32_t n;
};

static void stream_open(struct stream *t, const struct sched_law *seed, bool prefill, double sigma)
{
    memset(t, 0, sizeof(*t));
    sched_predict_init(&t->p, seed, prefill, false);
    t->sigma = sigma;
    for (int w = 0; w < WORKERS; w++) {
        t->speed[w] = 1;
        t->size[w] = 10 + 35 * w;
    }
    state = 42;
}

static void stream_one(struct stream *t, int w, const struct sched_step *s)
{
    double ns = truth(s) * t->speed[w];
    struct sched_estimate e = sched_predict_step(&t->p, &t->bias[w], s);

    if (e.ns > 0) {
        t->error += log(e.ns / ns);
        t->absolute += fabs(log(e.ns / ns));
        t->n++;
    }
    sched_predict_observe(&t->p, &t->bias[w], &t->score, s, ns * exp(t->sigma * normal()));
}

static void stream_run(struct stream *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int w = (int)(i % WORKERS);
        struct sched_step s = t->p.prefill ? chunk() : batch(&t->size[w]);

        stream_one(t, w, &s);
    }
}

static void stream_clear(struct stream *t)
{
    t->error = t->absolute = 0;
    t->n = 0;
}

#define assert_within(value, low, high)                                            \
    do {                                                                           \
        double value_ = (value);                                                   \
        if (!(value_ >= (low) && value_ <= (high)))                                \
            fail_msg("%s is %g, not from %g to %g", #value, value_, (double)(low), \
                     (double)(high));                                              \
    } while (0)

static struct sched_health health(const struct stream *t)
{
    struct sched_health h;

    sched_score_health(&t->score, &h);
    return h;
}

/* ---- laws ---- */

static void steady_noise_leaves_small_errors_and_true_intervals(void **arg)
{
    (void)arg;
    for (int prefill = 0; prefill < 2; prefill++) {
        for (int noise = 3; noise <= 5; noise++) {
            struct stream t;

            stream_open(&t, prefill ? &PREFILL : &DECODE, prefill, noise / 100.0);
            stream_run(&t, 20000);
            assert_within(t.error / t.n, -0.005, 0.005);
            assert_within(t.absolute / t.n, 0, 0.01);
            assert_within(health(&t).bias, -0.025, 0.025);
            assert_within(health(&t).mape, 0, 0.05);
            assert_within(health(&t).coverage, 0.88, 0.92);
            assert_within(health(&t).worst, 0.84, 0.90);
            assert_false(health(&t).drift);
            assert_false(health(&t).lost);
        }
    }
}

static void an_unknown_law_predicts_nothing_and_is_learned_within_30_steps(void **arg)
{
    (void)arg;
    for (int prefill = 0; prefill < 2; prefill++) {
        struct stream t;
        struct sched_step s = {
            .n = prefill ? 512 : 0, .n2 = 512 * 512, .b = prefill ? 0 : 8, .ctx = 9000};

        stream_open(&t, &UNKNOWN, prefill, 0.04);
        assert_true(sched_predict_step(&t.p, NULL, &s).ns == 0);
        assert_true(sched_predict_step(&t.p, NULL, &s).high == 0);
        stream_run(&t, 30);
        stream_clear(&t);
        stream_run(&t, 200);
        assert_within(t.absolute / t.n, 0, 0.05);
        stream_run(&t, 5000);
        stream_clear(&t);
        stream_run(&t, 5000);
        assert_within(t.absolute / t.n, 0, 0.015);
        assert_within(health(&t).coverage, 0.88, 0.92);
    }
}

/* What a health check leaves behind: without care one-token prompts teach that a prompt of 800 takes minutes. */
static void tiny_steps_teach_no_absurd_times_of_large_ones(void **arg)
{
    struct sched_step prompt = {.n = 1, .n2 = 1}, token = {.b = 1, .ctx = 3};
    struct sched_step long_prompt = {.n = 2048, .n2 = 2048 * 2048};
    struct sched_step full_batch = {.b = 64, .ctx = 64 * 1300};

    (void)arg;
    for (uint32_t n = 1; n <= 1000; n *= 10) {
        struct stream pre, dec;

        stream_open(&pre, &UNKNOWN, true, 0.02);
        stream_open(&dec, &UNKNOWN, false, 0.02);
        for (uint32_t i = 0; i < n; i++) {
            stream_one(&pre, (int)(i % WORKERS), &prompt);
            stream_one(&dec, (int)(i % WORKERS), &token);
        }
        assert_true(sched_predict_step(&pre.p, NULL, &long_prompt).ns < 3 * truth(&long_prompt));
        assert_true(sched_predict_step(&dec.p, NULL, &full_batch).ns < 3 * truth(&full_batch));
        for (uint32_t i = 0; i < 30; i++) {
            struct sched_step s = chunk();

            stream_one(&pre, (int)(i % WORKERS), &s);
        }
        assert_true(fabs(log(sched_predict_step(&pre.p, NULL, &long_prompt).ns /
                             truth(&long_prompt))) < 0.15);
    }
}

static void a_wrong_seed_is_unlearned(void **arg)
{
    static const double off[4] = {1.3, 0.7, 1.4, 0.5};

    (void)arg;
    for (int prefill = 0; prefill < 2; prefill++) {
        struct sched_law seed = prefill ? PREFILL : DECODE;
        struct stream t;

        for (int i = 0; i < 4; i++)
            seed.c[i] *= off[i];
        stream_open(&t, &seed, prefill, 0.05);
        stream_run(&t, 2000);
        stream_clear(&t);
        stream_run(&t, 2000);
        assert_within(t.absolute / t.n, 0, 0.02);
        assert_within(health(&t).coverage, 0.87, 0.92);
    }
}

static void hours_at_one_operating_point_do_not_erase_another(void **arg)
{
    const struct sched_step far = {.n = 2048, .n2 = 2048.0 * (2048 + 2 * 60000)};
    const struct sched_step near = {.n = 256, .n2 = 256 * 256};
    struct sched_law seed = PREFILL;
    struct stream t;

    (void)arg;
    seed.c[2] *= 2; /* what only the far point can tell */
    stream_open(&t, &seed, true, 0.04);
    for (int i = 0; i < 200; i++)
        stream_one(&t, i % WORKERS, i % 2 ? &far : &near);
    for (int i = 0; i < 200000; i++)
        stream_one(&t, i % WORKERS, &near);
    assert_within(sched_predict_step(&t.p, &t.bias[0], &far).ns / truth(&far), 0.94, 1.06);
    assert_within(sched_predict_step(&t.p, &t.bias[0], &near).ns / truth(&near), 0.98, 1.02);
}

static void samples_at_one_point_keep_the_law_finite_and_right_there(void **arg)
{
    const struct sched_step only = {.b = 32, .ctx = 40000}, other = {.b = 64, .ctx = 80000};
    struct stream t;

    (void)arg;
    stream_open(&t, &UNKNOWN, false, 0.03);
    for (int i = 0; i < 20000; i++)
        stream_one(&t, i % WORKERS, &only);
    assert_within(sched_predict_step(&t.p, &t.bias[0], &only).ns / truth(&only), 0.97, 1.03);
    assert_within(sched_predict_step(&t.p, &t.bias[0], &other).ns / truth(&only), 1, 2);
}

static void no_coefficient_is_ever_negative(void **arg)
{
    struct stream t;

    (void)arg;
    /* Times that fall with size: the least squares of these have a negative slope. */
    stream_open(&t, &UNKNOWN, true, 0);
    for (int i = 0; i < 3000; i++) {
        double n = 1 + floor(3000 * uniform());
        struct sched_step s = {.n = n, .n2 = n * (n + 1000 * floor(8 * uniform()))};

        sched_predict_observe(&t.p, &t.bias[0], &t.score, &s, 1e9 / (1 + n / 100) * exp(normal()));
        for (int c = 0; c < 4; c++)
            assert_true(t.p.law.c[c] >= 0);
    }
}

static void an_exact_law_stays_as_it_is_to_the_last_bit(void **arg)
{
    (void)arg;
    for (int prefill = 0; prefill < 2; prefill++) {
        const struct sched_law *law = prefill ? &PREFILL : &DECODE;
        struct sched_predict frozen;
        struct stream t;

        sched_predict_init(&frozen, law, prefill, true);
        stream_open(&t, law, prefill, 0);
        for (int i = 0; i < 5000; i++) {
            struct sched_step s = prefill ? chunk() : batch(&t.size[0]);
            double ns = floor(truth(&s));
            struct sched_estimate a, b;

            sched_predict_observe(&t.p, &t.bias[0], &t.score, &s, ns);
            sched_predict_observe(&frozen, NULL, NULL, &s, ns);
            a = sched_predict_step(&t.p, &t.bias[0], &s);
            b = sched_predict_step(&frozen, NULL, &s);
            assert_memory_equal(&a, &b, sizeof(a));
        }
        assert_memory_equal(&t.p.law, law, sizeof(*law));
        assert_within(fabs(t.p.spread.high), 0, 1e-4); /* and its interval closes */
    }
}

static void a_frozen_law_learns_nothing_but_its_interval(void **arg)
{
    struct stream t;
    struct sched_law before;

    (void)arg;
    stream_open(&t, &DECODE, false, 0.2);
    t.p.frozen = true;
    before = t.p.law;
    stream_run(&t, 5000);
    assert_memory_equal(&before, &t.p.law, sizeof(before));
    assert_true(sched_bias_factor(&t.bias[0]) == 1);
    assert_within(health(&t).coverage, 0.88, 0.92);
}

/* ---- bias ---- */

/* Observations of worker 1 until its predictions are within 3 % for good (10 in a row). */
static uint32_t removal(bool prefill, double speed)
{
    struct stream t;
    uint32_t good = 0;

    stream_open(&t, prefill ? &PREFILL : &DECODE, prefill, 0.05);
    stream_run(&t, 8000);
    t.speed[1] = speed;
    for (uint32_t i = 0; i < 400; i++) {
        struct sched_step probe = prefill ? chunk() : batch(&t.size[1]);
        double off = log(sched_predict_step(&t.p, &t.bias[1], &probe).ns / (truth(&probe) * speed));

        good = fabs(off) < 0.03 ? good + 1 : 0;
        if (good == 10)
            return i - 9;
        stream_run(&t, WORKERS);
    }
    return 400;
}

static void a_slower_worker_is_known_within_50_steps(void **arg)
{
    (void)arg;
    for (int prefill = 0; prefill < 2; prefill++) {
        assert_within(removal(prefill, 1.2), 1, 50);
        assert_within(removal(prefill, 1.5), 1, 50);
        assert_within(removal(prefill, 1 / 1.5), 1, 50);
    }
}

static void a_class_that_is_20_percent_slower_than_its_profile_is_known_within_50_steps(void **arg)
{
    struct stream t;

    (void)arg;
    stream_open(&t, &DECODE, false, 0.05);
    for (int w = 0; w < WORKERS; w++)
        t.speed[w] = 1.2;
    stream_run(&t, 50 * WORKERS);
    stream_clear(&t);
    stream_run(&t, 1000);
    assert_within(t.error / t.n, -0.02, 0.02);
    stream_run(&t, 20000);
    assert_within(health(&t).bias, -0.025, 0.025);
    assert_within(health(&t).coverage, 0.88, 0.92);
}

static void shifts_of_single_workers_leave_coverage_and_the_others_alone(void **arg)
{
    struct stream t;

    (void)arg;
    stream_open(&t, &DECODE, false, 0.05);
    for (int round = 0; round < 20; round++) {
        t.speed[round % WORKERS] = round % 3 == 0 ? 1.5 : round % 3 == 1 ? 1.2 : 1;
        stream_run(&t, 2000);
    }
    assert_within(health(&t).coverage, 0.88, 0.92);
    assert_within(health(&t).mape, 0, 0.055);
    assert_within(t.absolute / t.n, 0, 0.02);
}

static void one_stalled_step_is_forgotten(void **arg)
{
    const struct sched_step s = {.b = 32, .ctx = 40000};
    struct stream t;
    double before;

    (void)arg;
    stream_open(&t, &DECODE, false, 0.02);
    stream_run(&t, 4000);
    before = sched_predict_step(&t.p, &t.bias[0], &s).ns;
    sched_predict_observe(&t.p, &t.bias[0], &t.score, &s, 100 * truth(&s));
    assert_within(sched_predict_step(&t.p, &t.bias[0], &s).ns / before, 0.99, 1.02);
    assert_within(sched_predict_step(&t.p, &t.bias[0], &s).high / before, 1, 1.1);
}

static void a_mixed_step_teaches_how_far_the_two_overlap_and_no_law(void **arg)
{
    struct sched_predict p, d;
    struct sched_bias pb = {0}, db = {0};
    struct sched_score score = {0};
    struct sched_health h;
    const struct sched_step mixed = {.n = 512, .n2 = 512 * 512, .b = 32, .ctx = 40000};
    double ns = sched_law_step(&PREFILL, &DECODE, &mixed);

    (void)arg;
    state = 21;
    sched_predict_init(&p, &PREFILL, true, false);
    sched_predict_init(&d, &DECODE, false, false);
    assert_within(sched_predict_mixed(&p, NULL, &d, NULL, &mixed).ns / ns, 0.9999, 1.0001);
    /* Chunks ride along on what the batch reads anyway: 8 ms less than the two alone. */
    for (int i = 0; i < 2000; i++) {
        double n = 300 + floor(1500 * uniform());
        struct sched_step m = {.n = n, .n2 = n * n, .b = 32, .ctx = 40000};
        struct sched_step alone = {.b = 32, .ctx = 40000};
        double took = sched_law_prefill(&PREFILL, n, n * n) + truth(&alone) - 8e6;

        sched_predict_observe_mixed(&p, &pb, &d, &db, &score, &m, took * exp(0.02 * normal()));
        sched_predict_observe_mixed(&p, &pb, &d, &db, NULL, &alone,
                                    truth(&alone) * exp(0.02 * normal()));
        if (i > 200) /* what is pure stays predicted: the batch's speed is not to blame */
            assert_within(sched_predict_step(&d, &db, &alone).ns / truth(&alone), 0.97, 1.03);
    }
    sched_score_health(&score, &h);
    assert_within(h.mape, 0, 0.03);
    assert_within(h.coverage, 0.88, 0.92);
    assert_memory_equal(&p.law, &PREFILL, sizeof(PREFILL));
    sched_predict_observe(&p, &pb, &score, &mixed, ns); /* neither half alone explains it */
    assert_int_equal(score.n, 2000);
}

static void a_worker_that_only_runs_mixed_steps_is_known_too(void **arg)
{
    struct sched_predict p, d;
    struct sched_bias pb = {0}, db = {0};
    const struct sched_step mixed = {.n = 512, .n2 = 512 * 512, .b = 32, .ctx = 40000};
    double ns = sched_law_step(&PREFILL, &DECODE, &mixed);

    (void)arg;
    sched_predict_init(&p, &PREFILL, true, false);
    sched_predict_init(&d, &DECODE, false, false);
    for (int i = 0; i < 300; i++)
        sched_predict_observe_mixed(&p, &pb, &d, &db, NULL, &mixed, 1.3 * ns);
    assert_within(sched_predict_mixed(&p, &pb, &d, &db, &mixed).ns / ns, 1.25, 1.35);
}

/* ---- drift, loss of trust ---- */

/* A law that was far off for its first steps is not called drifting long after it is learned. */
static void drift_of_a_start_is_over_soon_after_it_is_learned(void **arg)
{
    struct sched_score s = {0};
    uint32_t x = 1;
    int said = 0;

    (void)arg;
    for (int i = 0; i < 5000; i++) {
        double noise, ns;

        x = x * 1664525u + 1013904223u;
        noise = ((double)(x >> 8) / 16777216.0 - 0.5) * 0.1;
        ns = 1e6 * exp(i < 80 ? 1 : noise);
        sched_score_add(&s, ns, 1e6, 1e6 * exp(-0.08), 1e6 * exp(0.08));
        if (s.drift)
            said = i;
    }
    assert_in_range(said, 80, 80 + 2 * SCHED_SCORE_RECENT);
}

static void drift_is_said_and_taken_back(void **arg)
{
    struct stream t;
    bool said = false;

    (void)arg;
    stream_open(&t, &DECODE, false, 0.03);
    stream_run(&t, 20000);
    assert_false(t.score.drift);
    for (int w = 0; w < WORKERS; w++)
        t.speed[w] = 1.5;
    for (int i = 0; i < 100; i++) {
        stream_run(&t, WORKERS);
        said = said || t.score.drift;
    }
    assert_true(said);
    stream_run(&t, 2000);
    assert_false(t.score.drift);
}

static void trust_is_lost_under_70_and_back_over_85_percent(void **arg)
{
    struct sched_score s = {0};
    struct sched_health h;
    int i;

    (void)arg;
    for (i = 0; i < 1000; i++)
        sched_score_add(&s, 100, 100, 90, i % 10 == 0 ? 95 : 110);
    assert_false(s.lost);
    for (i = 0; i < SCHED_SCORE_RECENT && !s.lost; i++)
        sched_score_add(&s, 100, 100, 90, i % 2 == 0 ? 95 : 110);
    assert_true(s.lost);
    for (i = 0; i < 2 * SCHED_SCORE_RECENT && s.lost; i++)
        sched_score_add(&s, 100, 100, 90, 110);
    assert_within(i, 2, SCHED_SCORE_RECENT);
    assert_false(s.lost);
    sched_score_health(&s, &h);
    assert_true(h.worst < 0.9);
}

static void the_worst_window_is_the_worst_of_all_windows_of_500(void **arg)
{
    enum { N = 5000 };
    static bool inside[N];
    struct sched_score s = {0};
    struct sched_health h;
    double worst = 1;

    (void)arg;
    state = 7;
    for (int i = 0; i < N; i++) {
        double share = i > 2000 && i < 2300 ? 0.6 : 0.9;

        inside[i] = uniform() < share;
        sched_score_add(&s, 100, 100, 90, inside[i] ? 110 : 95);
        sched_score_health(&s, &h);
        assert_int_equal(h.windowed, i + 1 >= SCHED_SCORE_WINDOW);
    }
    for (int i = 0; i + SCHED_SCORE_WINDOW <= N; i++) {
        int n = 0;

        for (int k = 0; k < SCHED_SCORE_WINDOW; k++)
            n += inside[i + k];
        worst = fmin(worst, n / (double)SCHED_SCORE_WINDOW);
    }
    sched_score_health(&s, &h);
    assert_within(h.worst, worst - 1e-9, worst + 1e-9);
}

/* ---- spread ---- */

static void factors_bound_what_they_say(void **arg)
{
    static const double levels[] = {0.5, 0.8, 0.95, 0.98, 0.99};
    struct sched_spread s;
    int over[5] = {0}, n = 0;

    (void)arg;
    state = 3;
    sched_spread_init(&s, 0.03);
    for (int i = 0; i < 60000; i++) {
        double e = 0.1 * normal();

        for (int k = 0; i > 1000 && k < 5; k++)
            over[k] += exp(e) > sched_spread_factor(&s, levels[k]);
        n += i > 1000;
        sched_spread_add(&s, e);
    }
    for (int k = 0; k < 5; k++)
        assert_within(1 - over[k] / (double)n, levels[k] - 0.02, levels[k] + 0.02);
    assert_true(sched_spread_factor(&s, 0.99) > sched_spread_factor(&s, 0.95));
    assert_true(isfinite(sched_spread_factor(&s, 1)));
}

static void an_interval_follows_when_the_noise_changes_thirtyfold(void **arg)
{
    struct sched_spread s;
    struct sched_score score = {0};
    struct sched_health h;

    (void)arg;
    state = 9;
    sched_spread_init(&s, 0.03);
    for (int i = 0; i < 40000; i++) {
        double e = ((i / 2000) % 2 == 0 ? 0.002 : 0.06) * normal();

        sched_score_add(&score, exp(e), 1, exp(s.low), exp(s.high));
        sched_spread_add(&s, e);
    }
    sched_score_health(&score, &h);
    assert_within(h.coverage, 0.88, 0.92);
    assert_within(h.worst, 0.8, 0.92);
    assert_false(h.lost);
}

/* ---- links ---- */

static void a_link_is_learned_from_what_hand_overs_took(void **arg)
{
    struct sched_link_predict l;
    struct sched_score score = {0};
    struct sched_health h;
    double off = 0;

    (void)arg;
    state = 11;
    sched_link_init(&l, 46e9, 2000000); /* said to be 46 GB/s; under load it does 20 */
    for (int i = 0; i < 4000; i++) {
        double bytes = 131072 * floor(exp(6.6 + normal())), ns = 3e6 + bytes / 20;

        if (i >= 100)
            off += fabs(log(sched_link_time(&l, bytes).ns / ns));
        sched_link_observe(&l, &score, bytes, ns * exp(0.1 * normal()));
    }
    assert_within(off / 3900, 0, 0.05);
    sched_score_health(&score, &h);
    assert_within(h.coverage, 0.88, 0.92);
    assert_true(l.setup_ns >= 0 && l.ns_per_byte >= 0);
}

static void a_link_that_nobody_knows_starts_from_its_first_hand_over(void **arg)
{
    struct sched_link_predict l;

    (void)arg;
    sched_link_init(&l, 0, 0);
    assert_true(sched_link_time(&l, 1e6).ns == 0);
    sched_link_observe(&l, NULL, 1e6, 5e6);
    assert_within(sched_link_time(&l, 1e6).ns, 4.5e6, 5.5e6);
}

/* ---- what comes in ---- */

static void values_that_make_no_sense_change_nothing(void **arg)
{
    static const double bad[] = {0, -1, NAN, INFINITY, -INFINITY, 1e300};
    struct stream t, before;
    struct sched_link_predict l, l_before;
    struct sched_step s;

    (void)arg;
    stream_open(&t, &PREFILL, true, 0.05);
    stream_run(&t, 100);
    sched_link_init(&l, 1e9, 1000);
    before = t;
    l_before = l;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        s = (struct sched_step){.n = 100, .n2 = 10000};
        sched_predict_observe(&t.p, &t.bias[0], &t.score, &s, bad[i]);
        s = (struct sched_step){.n = bad[i], .n2 = 10000};
        sched_predict_observe(&t.p, &t.bias[0], &t.score, &s, 1e6);
        assert_true(sched_predict_step(&t.p, NULL, &s).ns == 0);
        if (bad[i] != 0) {
            s = (struct sched_step){.n = 100, .n2 = bad[i]};
            sched_predict_observe(&t.p, &t.bias[0], &t.score, &s, 1e6);
        }
        sched_link_observe(&l, NULL, bad[i], 1e6);
        sched_link_observe(&l, NULL, 1e6, bad[i]);
    }
    assert_memory_equal(&before, &t, sizeof(t));
    assert_memory_equal(&l_before, &l, sizeof(l));
}

static void any_order_of_sane_values_leaves_sane_predictions(void **arg)
{
    struct stream t;

    (void)arg;
    stream_open(&t, &UNKNOWN, true, 0);
    for (int i = 0; i < 20000; i++) {
        double n = floor(exp(15 * uniform())), past = floor(exp(15 * uniform()));
        struct sched_step s = {.n = n, .n2 = n * (n + 2 * past)};
        struct sched_estimate e;

        sched_predict_observe(&t.p, &t.bias[i % WORKERS], &t.score, &s, exp(36 * uniform()));
        e = sched_predict_step(&t.p, &t.bias[i % WORKERS], &s);
        assert_true(isfinite(e.ns) && e.ns > 0);
        assert_true(isfinite(e.high) && e.low >= 0 && e.low <= e.high);
    }
}

static void an_observation_costs_well_under_a_microsecond(void **arg)
{
    enum { N = 200000 };
    struct stream t;
    struct sched_step s[256];
    uint64_t best = UINT64_MAX;

    (void)arg;
    stream_open(&t, &PREFILL, true, 0.05);
    for (int i = 0; i < 256; i++)
        s[i] = chunk();
    for (int round = 0; round < 3; round++) { /* the machine may be busy: the best of three */
        uint64_t start = cpu_time_ns(), took;

        for (int i = 0; i < N; i++)
            sched_predict_observe(&t.p, &t.bias[0], &t.score, &s[i % 256],
                                  truth(&s[i % 256]) * (0.9 + 0.01 * (i % 20)));
        took = (cpu_time_ns() - start) / N;
        best = took < best ? took : best;
    }
    print_message("observe: %u ns\n", (unsigned)best);
#if !defined(BATON_SANITIZED) && defined(NDEBUG)
    assert_in_range(best, 1, 1000);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steady_noise_leaves_small_errors_and_true_intervals),
        cmocka_unit_test(an_unknown_law_predicts_nothing_and_is_learned_within_30_steps),
        cmocka_unit_test(tiny_steps_teach_no_absurd_times_of_large_ones),
        cmocka_unit_test(a_wrong_seed_is_unlearned),
        cmocka_unit_test(hours_at_one_operating_point_do_not_erase_another),
        cmocka_unit_test(samples_at_one_point_keep_the_law_finite_and_right_there),
        cmocka_unit_test(no_coefficient_is_ever_negative),
        cmocka_unit_test(an_exact_law_stays_as_it_is_to_the_last_bit),
        cmocka_unit_test(a_frozen_law_learns_nothing_but_its_interval),
        cmocka_unit_test(a_slower_worker_is_known_within_50_steps),
        cmocka_unit_test(
            a_class_that_is_20_percent_slower_than_its_profile_is_known_within_50_steps),
        cmocka_unit_test(shifts_of_single_workers_leave_coverage_and_the_others_alone),
        cmocka_unit_test(one_stalled_step_is_forgotten),
        cmocka_unit_test(a_mixed_step_teaches_how_far_the_two_overlap_and_no_law),
        cmocka_unit_test(a_worker_that_only_runs_mixed_steps_is_known_too),
        cmocka_unit_test(drift_of_a_start_is_over_soon_after_it_is_learned),
        cmocka_unit_test(drift_is_said_and_taken_back),
        cmocka_unit_test(trust_is_lost_under_70_and_back_over_85_percent),
        cmocka_unit_test(the_worst_window_is_the_worst_of_all_windows_of_500),
        cmocka_unit_test(factors_bound_what_they_say),
        cmocka_unit_test(an_interval_follows_when_the_noise_changes_thirtyfold),
        cmocka_unit_test(a_link_is_learned_from_what_hand_overs_took),
        cmocka_unit_test(a_link_that_nobody_knows_starts_from_its_first_hand_over),
        cmocka_unit_test(values_that_make_no_sense_change_nothing),
        cmocka_unit_test(any_order_of_sane_values_leaves_sane_predictions),
        cmocka_unit_test(an_observation_costs_well_under_a_microsecond),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
