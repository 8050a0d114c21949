/* tests/unit/sched_plan_test.c - the planner's formulas against a queue that is played out event by event, the
 * measured moments against the process that made them, and the controller against loads that move. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/sched_plan.h"

/* ns */
static const struct sched_law DECODE = {.c = {7.141e6, 8880, 43.198, 4780}, .knee = 128};

/* Within `by`; a NaN is never near. */
#define assert_near(got, want, by) assert_true(fabs((double)(got) - (double)(want)) <= (by))

/* ---- random variables ---- */

static uint64_t rng_state;

static double uniform(void) /* (0, 1) */
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return ((double)(rng_state >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

static double gamma_unit(double shape) /* Marsaglia and Tsang 2000 */
{
    double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / sqrt(9 * d), v, x, u;

    do {
        do {
            x = normal();
            v = 1 + c * x;
        } while (v <= 0);
        v = v * v * v;
        u = uniform();
    } while (log(u) > 0.5 * x * x + d - d * v + d * log(v));
    return shape < 1 ? d * v * pow(uniform(), 1 / shape) : d * v;
}

/* Mean 1, squared coefficient of variation v2. */
static double gap_of(double v2)
{
    return v2 == 1 ? -log(uniform()) : gamma_unit(1 / v2) * v2;
}

/* Cut at 25 times the mean: a context window bounds the longest prompt. */
static double lognormal_of(double v2)
{
    double s2 = log(1 + v2);

    return fmin(v2 > 0 ? exp(sqrt(s2) * normal() - s2 / 2) : 1, 25);
}

/* ---- a queue with k servers, first come first served ---- */

enum { ARRIVALS = 400000, WARM = 20000 };

struct waits {
    double mean, p99, waited, service, cs2; /* the last two as they came out */
};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void sink(double *heap, uint32_t n) /* the smallest on top */
{
    for (uint32_t at = 0, child; (child = 2 * at + 1) < n; at = child) {
        double x;

        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[at] <= heap[child])
            return;
        x = heap[at];
        heap[at] = heap[child];
        heap[child] = x;
    }
}

static struct waits play(uint32_t k, double use, double ca2, double cs2)
{
    static double wait[ARRIVALS], free_at[256];
    struct waits w = {0};
    double now = 0, s1 = 0, s2 = 0, n = ARRIVALS - WARM;

    assert_true(k <= 256);
    memset(free_at, 0, sizeof free_at);
    for (uint32_t j = 0; j < ARRIVALS; j++) {
        double s = lognormal_of(cs2);

        now += gap_of(ca2) / (k * use);
        wait[j] = free_at[0] > now ? free_at[0] - now : 0;
        free_at[0] = now + wait[j] + s;
        sink(free_at, k);
        s1 += s;
        s2 += s * s;
    }
    for (uint32_t j = WARM; j < ARRIVALS; j++) {
        w.mean += wait[j] / n;
        w.waited += (wait[j] > 0) / n;
    }
    qsort(wait + WARM, ARRIVALS - WARM, sizeof *wait, ascending);
    w.p99 = wait[WARM + (uint32_t)(0.99 * n)];
    w.service = s1 / ARRIVALS;
    w.cs2 = s2 / ARRIVALS / (s1 / ARRIVALS) / (s1 / ARRIVALS) - 1;
    return w;
}

struct span {
    double low, high, mean_low, mean_high;
};

/* Errors of the formula for one kind of load over servers and use; prints the table that the docs quote. */
static struct span compare(const char *name, double ca2, double cs2, double scale_ca2)
{
    static const uint32_t SERVERS[] = {1, 2, 3, 5, 10, 20};
    static const double USE[] = {0.7, 0.8, 0.9};
    struct span s = {INFINITY, -INFINITY, INFINITY, -INFINITY};

    for (size_t i = 0; i < sizeof SERVERS / sizeof *SERVERS; i++) {
        for (size_t j = 0; j < sizeof USE / sizeof *USE; j++) {
            uint32_t k = SERVERS[i];
            struct waits w = play(k, USE[j], ca2, cs2);
            double p99 = sched_plan_quantile(k * USE[j], w.service, k, scale_ca2, w.cs2, 0.01);
            double mean = sched_plan_wait(k * USE[j], w.service, k, scale_ca2, w.cs2);
            double e99 = 100 * (p99 / w.p99 - 1), em = 100 * (mean / w.mean - 1);

            print_message(
                "  %-22s k %2u use %.1f  waited %.2f  P99 %7.2f by formula %7.2f: %+4.0f %%"
                "   mean %+4.0f %%\n",
                name, k, USE[j], w.waited, w.p99, p99, e99, em);
            s.low = fmin(s.low, e99);
            s.high = fmax(s.high, e99);
            s.mean_low = fmin(s.mean_low, em);
            s.mean_high = fmax(s.mean_high, em);
        }
    }
    print_message("%s: P99 %+.0f .. %+.0f %%, mean %+.0f .. %+.0f %%\n", name, s.low, s.high,
                  s.mean_low, s.mean_high);
    return s;
}

/* ---- Erlang C ---- */

static void test_erlang_c_gives_the_known_values(void **state)
{
    (void)state;
    assert_near(sched_plan_erlang_c(0.8, 1), 0.8, 1e-12); /* M/M/1: the load itself */
    assert_near(sched_plan_erlang_c(1, 2), 1.0 / 3, 1e-12);
    assert_near(sched_plan_erlang_c(2, 3), 4.0 / 9, 1e-12);
    assert_near(sched_plan_erlang_c(10, 14), 0.17413, 1e-5);
    assert_near(sched_plan_erlang_c(4, 4), 1, 0);
    assert_near(sched_plan_erlang_c(5, 4), 1, 0);
    assert_near(sched_plan_erlang_c(1, 0), 1, 0);
    assert_near(sched_plan_erlang_c(0, 4), 0, 0);
    assert_near(sched_plan_erlang_c(NAN, 4), 1, 0);
}

static void test_erlang_c_holds_for_a_hundred_thousand_servers(void **state)
{
    (void)state;
    double last = 1;

    /* Halfin and Whitt: with k = a + b sqrt(a) the chance tends to 1 / (1 + b F(b) / f(b)). */
    for (double b = 0.25; b <= 2; b += 0.25) {
        double k = 100000, a = k - b * sqrt(k);
        double normal_d = exp(-b * b / 2) / sqrt(6.283185307179586);
        double normal_p = 0.5 * erfc(-b / sqrt(2));
        double want = 1 / (1 + b * normal_p / normal_d), got = sched_plan_erlang_c(a, 100000);

        assert_true(fabs(got / want - 1) < 0.02);
        assert_true(got < last);
        last = got;
    }
    assert_near(sched_plan_erlang_c(1, 100000), 0, 0); /* below what a double holds */
}

static void test_nonsense_gives_bounds_and_no_nan(void **state)
{
    (void)state;
    static const double odd[] = {-1, 0, 1e-300, 1, 1e300, INFINITY, NAN};
    enum { N = sizeof odd / sizeof *odd };

    for (int a = 0; a < N; a++)
        for (int b = 0; b < N; b++)
            for (int c = 0; c < N; c++) {
                double p = sched_plan_tail(odd[a], odd[b], 3, odd[c], 1, 0.5), step, batch;

                assert_true(p >= 0 && p <= 1);
                assert_true(sched_plan_wait(odd[a], odd[b], 3, odd[c], 1) >= 0);
                assert_true(sched_plan_prefill_workers(odd[a], odd[b], odd[c], 1, 0.5, 0.01) <=
                            SCHED_PLAN_WORKERS_MAX);
                if (sched_plan_decode(&DECODE, odd[a], odd[b], odd[c], &step, &batch))
                    assert_true(step >= 0 && batch >= 0);
                assert_true(sched_plan_decode_rate(&DECODE, odd[a], odd[b], odd[c], 4e5) >= 0);
            }
}

/* ---- waits ---- */

static void test_one_server_gives_pollaczek_khinchine_exactly(void **state)
{
    (void)state;
    /* E[W] = rate E[S^2] / (2 (1 - use)) */
    for (double cs2 = 0; cs2 < 8; cs2 += 1.5)
        for (double use = 0.1; use < 1; use += 0.2)
            assert_near(sched_plan_wait(use, 1, 1, 1, cs2), use * (1 + cs2) / (2 * (1 - use)),
                        1e-9);
}

static void test_the_p99_of_lengths_like_azure_is_within_a_sixth(void **state)
{
    (void)state;
    struct span s;

    rng_state = 1;
    s = compare("Poisson, Cs2 0.85", 1, 0.85, 1);
    assert_true(s.low > -15 && s.high < 16);
    assert_true(s.mean_low > -12 && s.mean_high < 12);
}

static void test_the_p99_of_bursty_arrivals_is_as_good(void **state)
{
    (void)state;
    struct span s;

    rng_state = 2;
    s = compare("gamma cv 2, Cs2 0.85", 4, 0.85, 4);
    assert_true(s.low > -14 && s.high < 16);
}

static void test_the_p99_of_heavy_tails_is_within_a_third(void **state)
{
    (void)state;
    struct span s;

    rng_state = 3;
    s = compare("Poisson, Cs2 7", 1, 9.5, 1);
    assert_true(s.low > -35 && s.high < 21);
}

static void test_the_number_of_workers_is_the_smallest_that_keeps_the_target(void **state)
{
    (void)state;
    for (double rate = 0.5; rate < 3000; rate *= 1.7) {
        for (double t = 0.05; t < 4; t *= 3) {
            uint32_t k = sched_plan_prefill_workers(rate, 0.05, 1.2, 0.9, t, 0.01);

            assert_true(k > rate * 0.05);
            assert_true(sched_plan_tail(rate, 0.05, k, 1.2, 0.9, t) <= 0.01);
            if (k > 1)
                assert_true(sched_plan_tail(rate, 0.05, k - 1, 1.2, 0.9, t) > 0.01);
        }
    }
    assert_int_equal(sched_plan_prefill_workers(0, 0.05, 1, 1, 1, 0.01), 0);
    assert_int_equal(sched_plan_prefill_workers(1e9, 1, 1, 1, 1, 0.01), SCHED_PLAN_WORKERS_MAX);
    /* A target that the service alone misses is sized for hardly any wait, not for everything there is. */
    assert_in_range(sched_plan_prefill_workers(10, 0.1, 1, 1, -1, 0.01), 4, 8);
}

static void test_sized_pools_keep_the_target_when_played_out(void **state)
{
    (void)state;
    rng_state = 4;
    for (double rate = 3; rate < 60; rate *= 2.3) {
        uint32_t k = sched_plan_prefill_workers(rate, 1, 1, 0.85, 2, 0.05);
        struct waits w = play(k, rate / k, 1, 0.85);
        struct waits less = play(k - 1, fmin(rate / (k - 1), 0.999), 1, 0.85);

        print_message("  rate %5.1f: %2u workers, P99 of the wait %.2f; one less: %.2f\n", rate, k,
                      w.p99, less.p99);
        assert_true(w.p99 < 2 * log(1 / 0.01) / log(1 / 0.05) * 1.3);
        assert_true(less.p99 > w.p99);
    }
}

/* ---- decode ---- */

/* One worker, step by step: Poisson arrivals that decode at once, fixed lengths. */
static void play_decode(double rate, uint32_t out, uint32_t prompt, double *step_s, double *batch)
{
    static uint32_t left[4096];
    uint32_t n = 0;
    double now = 0, next = 0, busy = 0, members = 0, steps = 0;

    while (now < 400) {
        double ctx = 0, t;

        for (; next <= now && n < 4096; next += -log(uniform()) / rate)
            left[n++] = out;
        if (n == 0) {
            now = next;
            continue;
        }
        for (uint32_t k = 0; k < n; k++)
            ctx += prompt + out - left[k];
        t = sched_law_decode(&DECODE, n, ctx) * 1e-9;
        now += t;
        if (now > 60) {
            busy += t;
            members += n * t;
            steps += 1;
        }
        for (uint32_t k = 0; k < n;)
            if (--left[k] == 0)
                left[k] = left[--n];
            else
                k++;
    }
    *step_s = busy / steps;
    *batch = members / busy;
}

static void test_the_decode_step_is_that_of_a_worker_played_out(void **state)
{
    (void)state;
    rng_state = 5;
    for (double rate = 10; rate <= 60; rate += 10) {
        double step, batch, real_step, real_batch;

        assert_true(sched_plan_decode(&DECODE, rate, 211, 1155 + 105, &step, &batch));
        play_decode(rate, 211, 1155, &real_step, &real_batch);
        print_message("  %2.0f requests/s: step %.1f ms (played %.1f), batch %.0f (%.0f)\n", rate,
                      step * 1e3, real_step * 1e3, batch, real_batch);
        assert_true(fabs(step / real_step - 1) < 0.06);
        assert_true(fabs(batch / real_batch - 1) < 0.10);
    }
}

static void test_decode_is_continuous_over_the_knee_and_ends_where_it_cannot_keep_up(void **state)
{
    (void)state;
    double last = 0, step, batch, rate = 1;
    bool over = false;

    for (; sched_plan_decode(&DECODE, rate, 211, 500, &step, &batch); rate += 0.25) {
        assert_true(step >= last && (last == 0 || step < 1.25 * last || batch > 1000));
        /* It solves its own equation. */
        assert_near(step * 1e9, sched_law_decode(&DECODE, batch, batch * 500), 1e3);
        over = over || batch > 128;
        last = step;
    }
    assert_true(over);
    assert_true(rate > 100 && rate < 1000);
    const struct sched_law unknown = {.knee = 0};
    assert_false(sched_plan_decode(&unknown, 1, 100, 1000, &step, &batch));
}

static void test_the_highest_decode_rate_is_the_reference_value(void **state)
{
    (void)state;
    double step, batch, conv = sched_plan_decode_rate(&DECODE, 211, 1260, 0.030, 400e3);

    /* About 54 requests/s of the Azure conversation trace on an 8B worker, bound by KV. */
    assert_true(conv > 50 && conv < 58);
    assert_true(sched_plan_decode(&DECODE, conv, 211, 1260, &step, &batch));
    assert_true(batch * 1260 <= 0.98 * 400e3 + 1 && step <= 0.0285 + 1e-9);
    assert_near(sched_plan_decode_rate(&DECODE, 211, 1260, 0.007, 400e3), 0, 0);
    assert_true(sched_plan_decode_rate(&DECODE, 211, 1260, 0.2, 0) > conv);
}

/* ---- moments ---- */

static struct sched_load_moments watch(double rate, double ca2, double cs2, double seconds)
{
    struct sched_moments m = {0};
    struct sched_load_moments got;
    double now = 1e6;

    for (double end = now + seconds; now < end; now += gap_of(ca2) / rate) {
        sched_moments_arrive(&m, now, 0.05 * lognormal_of(cs2));
        sched_moments_end(&m, 1000, 200);
    }
    sched_moments_get(&m, now, &got);
    return got;
}

static void test_moments_find_the_process_that_made_the_load(void **state)
{
    (void)state;
    struct sched_load_moments got;

    rng_state = 6;
    got = watch(100, 1, 0.85, 300);
    print_message("  Poisson 100/s: rate %.1f +- %.1f, ca2 %.2f, service %.4f, cs2 %.2f\n",
                  got.rate, got.rate_sd, got.ca2, got.service_s, got.cs2);
    assert_true(fabs(got.rate - 100) < 8);
    assert_true(fabs(got.ca2 - 1) < 0.35);
    assert_true(fabs(got.service_s - 0.05) < 0.003);
    assert_true(fabs(got.cs2 - 0.85) < 0.2);
    assert_near(got.out, 200, 1e-6);
    assert_near(got.context, 1100, 1e-6);
    got = watch(100, 4, 7, 300);
    print_message("  gamma cv 2: rate %.1f +- %.1f, ca2 %.2f, cs2 %.2f\n", got.rate, got.rate_sd,
                  got.ca2, got.cs2);
    assert_true(got.ca2 > 2.5 && got.ca2 < 5.5);
    assert_true(got.cs2 > 3);
}

static void test_moments_count_the_time_in_which_nothing_comes(void **state)
{
    (void)state;
    struct sched_load_moments got;
    double sum = 0;

    rng_state = 8;
    for (int k = 0; k < 40; k++) {
        got = watch(0.5, 1, 0.85, 1000); /* three bins of four are empty */
        sum += got.ca2 / 40;
    }
    print_message("  Poisson 0.5/s: ca2 %.2f on average\n", sum);
    assert_near(sum, 1, 0.06);
}

static void test_moments_see_a_burst_within_seconds_and_forget_it(void **state)
{
    (void)state;
    struct sched_moments m = {0};
    struct sched_load_moments got;
    double now = 50;

    rng_state = 7;
    for (; now < 350; now += gap_of(1) / 20)
        sched_moments_arrive(&m, now, 0.05);
    for (; now < 355; now += gap_of(1) / 80)
        sched_moments_arrive(&m, now, 0.05);
    sched_moments_get(&m, now, &got);
    assert_true(got.rate > 35); /* 5 s of four times the rate */
    sched_moments_get(&m, now + 3600, &got);
    assert_true(got.rate < 1e-3);
    assert_true(isfinite(got.service_s) && isfinite(got.ca2) && isfinite(got.cs2));
}

static void test_moments_of_nothing_and_of_one_request_are_finite(void **state)
{
    (void)state;
    struct sched_moments m = {0};
    struct sched_load_moments got;

    sched_moments_get(&m, 5, &got);
    assert_near(got.rate, 0, 0);
    assert_near(got.ca2, 1, 0);
    sched_moments_arrive(&m, 5, -3);
    sched_moments_get(&m, 5, &got);
    assert_true(got.rate > 0 && got.rate <= 1.1);
    sched_moments_arrive(&m, 4, NAN); /* a clock that goes back, a service that is none */
    sched_moments_arrive(&m, 1e9, 0.1);
    sched_moments_end(&m, UINT32_MAX, UINT32_MAX);
    sched_moments_get(&m, 1e9, &got);
    assert_true(isfinite(got.rate) && isfinite(got.ca2) && isfinite(got.cs2) &&
                isfinite(got.context));
}

/* ---- the controller ---- */

struct plant {
    uint32_t n[3];
    double flip_s; /* how long a flip takes */
    double noise;
    /* results */
    uint64_t flips, reversals;
    double over_s, last_flip_s, first_flip_s;
};
typedef void load_fn(double now, double load[3]);

static void drive(struct plant *p, load_fn *load, double seconds)
{
    struct sched_plan plan;
    const struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10, .high = 0.9, .low = 0.8};
    double done_at = 0;
    int to = 0, asked;

    sched_plan_init(&plan);
    for (double now = 0; now < seconds; now += 1) {
        struct sched_plan_pool pool[3];
        double l[3];

        load(now, l);
        if (to != 0 && now >= done_at) {
            p->n[to]++;
            sched_plan_flipped(&plan, now, true);
            to = 0;
        }
        for (int r = 1; r <= 2; r++) {
            double shared = p->noise * normal();

            pool[r] = (struct sched_plan_pool){.n = p->n[r], .can_give = true};
            pool[r].use = fmax(l[r] / p->n[r] * (1 + shared), 0);
            pool[r].use_if_less = p->n[r] > 1 ? pool[r].use * p->n[r] / (p->n[r] - 1) : INFINITY;
            p->over_s += l[r] > p->n[r];
        }
        asked = sched_plan_tick(&plan, &c, &pool[1], &pool[2], now);
        assert_true(asked == 0 || to == 0); /* one at a time */
        if (asked != 0) {
            to = asked;
            p->n[3 - to]--;
            done_at = now + p->flip_s;
            p->last_flip_s = now;
            p->first_flip_s = p->first_flip_s > 0 ? p->first_flip_s : now;
        }
        assert_true(p->n[1] >= 1 && p->n[2] >= 1);
    }
    p->flips = plan.flips;
    p->reversals = plan.reversals;
}

static void load_step(double now, double load[3])
{
    load[1] = now < 100 ? 5 : 7.6;
    load[2] = now < 100 ? 5 : 2.5;
}

static void load_ramp(double now, double load[3])
{
    double part = fmin(now / 600, 1);

    load[1] = 2.5 + 5 * part;
    load[2] = 6.5 - 5 * part;
}

static void load_sine(double now, double load[3])
{
    double s = sin(now * 6.283185307179586 / 600);

    load[1] = 4.5 + 2.5 * s;
    load[2] = 4.5 - 2.5 * s;
}

static void load_fast_sine(double now, double load[3])
{
    double s = sin(now * 6.283185307179586 / 20);

    load[1] = 5 + 2.6 * s;
    load[2] = 5 - 2.6 * s;
}

static void load_edge(double now, double load[3]) /* both close to the thresholds, for ever */
{
    (void)now;
    load[1] = 5.3;
    load[2] = 4.0;
}

static void load_full(double now, double load[3]) /* more than there is, on both sides */
{
    (void)now;
    load[1] = 9;
    load[2] = 9;
}

static struct plant driven(const char *name, load_fn *load, double noise, double seconds)
{
    struct plant p = {.n = {0, 6, 6}, .flip_s = 2, .noise = noise};

    rng_state = 11;
    drive(&p, load, seconds);
    print_message("  %-22s noise %.2f: %llu flips, %llu reversals, %.0f s overloaded, ends %u:%u, "
                  "first at %.0f, last at %.0f s\n",
                  name, noise, (unsigned long long)p.flips, (unsigned long long)p.reversals,
                  p.over_s, p.n[1], p.n[2], p.first_flip_s, p.last_flip_s);
    return p;
}

static void test_a_step_is_followed_by_one_worker_at_a_time_within_a_minute(void **state)
{
    (void)state;
    struct plant p = driven("step", load_step, 0.03, 600);

    assert_int_equal(p.n[1] + p.n[2], 12);
    assert_in_range(p.n[1], 8, 9);
    assert_true(p.first_flip_s >= 102 && p.first_flip_s <= 106); /* 3 ticks after the step */
    assert_true(p.last_flip_s < 170);
    assert_int_equal(p.reversals, 0);
    assert_true(p.over_s < 60);
}

static void test_a_ramp_is_followed_without_looking_back(void **state)
{
    (void)state;
    struct plant p = driven("ramp", load_ramp, 0.03, 900);

    assert_int_equal(p.reversals, 0);
    assert_true(p.over_s < 30);
    assert_true(p.n[1] >= 9);
}

static void test_a_slow_sine_is_followed_and_a_fast_one_is_not(void **state)
{
    (void)state;
    struct plant slow = driven("sine of 600 s", load_sine, 0.03, 3600);
    struct plant fast = driven("sine of 20 s", load_fast_sine, 0.03, 3600);

    /* 6 periods, each to 8:4 and to 4:8 */
    assert_true(slow.flips >= 24 && slow.flips <= 60);
    assert_true(slow.over_s < 0.05 * 3600);
    assert_true(fast.flips < 30);
    assert_true(fast.reversals <= 12);
}

static void test_noise_alone_makes_no_oscillation(void **state)
{
    (void)state;
    static const double NOISE[] = {0.02, 0.05, 0.1, 0.2};

    for (int k = 0; k < 4; k++) {
        struct plant p = driven("constant, near both", load_edge, NOISE[k], 3600);

        assert_true(p.reversals <= (NOISE[k] < 0.1 ? 0 : 6));
        assert_true(p.flips <= (NOISE[k] < 0.1 ? 1 : 24));
    }
}

static void test_nobody_gives_when_both_are_short(void **state)
{
    (void)state;
    struct plant p = driven("full", load_full, 0.05, 600);

    assert_int_equal(p.flips, 0);
}

static struct sched_plan_pool pool_of(uint32_t n, double use)
{
    return (struct sched_plan_pool){
        .n = n, .use = use, .use_if_less = n > 1 ? use * n / (n - 1) : 1e9, .can_give = true};
}

static int ticks(struct sched_plan *p, const struct sched_plan_config *c, struct sched_plan_pool a,
                 struct sched_plan_pool b, double *now, int n)
{
    int to = 0;

    for (int k = 0; k < n && to == 0; k++)
        to = sched_plan_tick(p, c, &a, &b, *now += 1);
    return to;
}

static void test_a_role_keeps_its_minimum_and_a_worker_that_cannot_give_stays(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10, .min = {0, 1, 3}};
    struct sched_plan_pool giver = pool_of(3, 0.1);
    struct sched_plan p;
    double now = 0;

    sched_plan_init(&p);
    assert_int_equal(ticks(&p, &c, pool_of(2, 1.2), giver, &now, 20), 0);
    c.min[2] = 2;
    giver.can_give = false;
    assert_int_equal(ticks(&p, &c, pool_of(2, 1.2), giver, &now, 20), 0);
    giver.can_give = true;
    giver.late = true; /* it misses targets itself, whatever its use says */
    assert_int_equal(ticks(&p, &c, pool_of(2, 1.2), giver, &now, 20), 0);
    giver.late = false;
    assert_int_equal(ticks(&p, &c, pool_of(2, 1.2), giver, &now, 20), 1);
}

static void test_a_stage_that_misses_its_targets_asks_earlier(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10};
    struct sched_plan_pool needs = pool_of(4, 0.85);
    struct sched_plan p;
    double now = 0;

    sched_plan_init(&p);
    assert_int_equal(ticks(&p, &c, pool_of(4, 0.3), needs, &now, 20), 0);
    needs.late = true;
    assert_int_equal(ticks(&p, &c, pool_of(4, 0.3), needs, &now, 3), 2);
}

static void test_a_pool_far_over_its_limit_is_helped_by_one_that_is_left_busy(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10};
    struct sched_plan_pool needs = pool_of(1, 1.9), gives = pool_of(4, 0.71);
    struct sched_plan p;
    double now = 0;

    sched_plan_init(&p); /* one prefill worker less would be 0.95 busy */
    assert_int_equal(ticks(&p, &c, gives, needs, &now, 20), 0);
    needs.late = true;
    assert_int_equal(ticks(&p, &c, gives, needs, &now, 3), 2);
    sched_plan_flipped(&p, now, true);
    gives = pool_of(3, 0.95); /* nobody wants it back */
    gives.late = true;
    needs = pool_of(2, 0.95);
    assert_int_equal(ticks(&p, &c, gives, needs, &now, 300), 0);
    sched_plan_init(&p); /* a giver that would be over its own limit keeps its workers */
    needs = pool_of(1, 1.9);
    needs.late = true;
    assert_int_equal(ticks(&p, &c, pool_of(4, 0.76), needs, &now, 20), 0);
}

static void test_a_role_without_any_worker_is_refilled_whatever_that_costs(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10, .min = {0, 2, 1}};
    struct sched_plan_pool gives = pool_of(3, 1.5), none = pool_of(0, 0.2);
    struct sched_plan p;
    double now = 0;

    gives.late = true;
    sched_plan_init(&p);
    assert_int_equal(ticks(&p, &c, gives, none, &now, 100), 0); /* not lost: not there yet */
    none.gone = true;
    assert_int_equal(ticks(&p, &c, gives, none, &now, 2), 0); /* it may start again at once */
    none.gone = false;
    assert_int_equal(ticks(&p, &c, gives, none, &now, 1), 0);
    none.gone = true;
    assert_int_equal(ticks(&p, &c, gives, none, &now, 2), 0);
    assert_int_equal(ticks(&p, &c, gives, none, &now, 1), 2);
    assert_int_equal(ticks(&p, &c, gives, none, &now, 20), 0); /* one at a time */
    sched_plan_flipped(&p, now, false);
    assert_int_equal(ticks(&p, &c, gives, none, &now, 3), 2); /* no pause after one that failed */
    sched_plan_flipped(&p, now, true);
    assert_int_equal(ticks(&p, &c, gives, none, &now, 9), 0); /* the first is on its way */
    assert_int_equal(ticks(&p, &c, gives, none, &now, 1), 2);
    sched_plan_flipped(&p, now, true);
    gives.n = 2;
    assert_int_equal(ticks(&p, &c, gives, none, &now, 100), 0); /* its minimum */
    c.interval_s = 0.2;
    gives.n = 3;
    assert_int_equal(ticks(&p, &c, gives, none, &now, 9), 0); /* two seconds */
    assert_int_equal(ticks(&p, &c, gives, none, &now, 1), 2);
}

static void test_one_flip_is_in_flight_and_a_lost_one_does_not_block_for_ever(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10};
    struct sched_plan p;
    double now = 0;

    sched_plan_init(&p);
    assert_int_equal(ticks(&p, &c, pool_of(4, 1.1), pool_of(8, 0.1), &now, 3), 1);
    assert_int_equal(ticks(&p, &c, pool_of(4, 1.1), pool_of(7, 0.1), &now, 100), 0);
    sched_plan_flipped(&p, now, false); /* the worker died on the way */
    assert_int_equal(p.flips, 0);
    now += 60; /* what it took counts: ten times, at most a minute */
    assert_int_equal(ticks(&p, &c, pool_of(4, 1.1), pool_of(7, 0.1), &now, 5), 1);
    assert_int_equal(ticks(&p, &c, pool_of(4, 1.1), pool_of(7, 0.1), &now, 300), 1);
}

static void test_a_flip_that_took_long_is_followed_by_a_long_pause(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10};
    struct sched_plan p;
    double now = 0, done;

    sched_plan_init(&p);
    assert_int_equal(ticks(&p, &c, pool_of(4, 1.1), pool_of(8, 0.1), &now, 3), 1);
    sched_plan_flipped(&p, now += 4, true);
    done = now;
    assert_int_equal(ticks(&p, &c, pool_of(5, 1.1), pool_of(7, 0.1), &now, 100), 1);
    assert_near(now - done, 40, 1);
}

static void test_each_reversal_doubles_the_pause_and_quiet_halves_it(void **state)
{
    (void)state;
    struct sched_plan_config c = {.interval_s = 1, .cooldown_s = 10};
    struct sched_plan p;
    double now = 0, pause = 10;
    uint64_t most;

    sched_plan_init(&p);
    /* The worst load there is: always short on the side that just gave. */
    for (int k = 0; k < 12; k++) {
        struct sched_plan_pool high = pool_of(4, 1.2), low = pool_of(4, 0.2);
        double from = now;
        int to =
            k % 2 ? ticks(&p, &c, high, low, &now, 2000) : ticks(&p, &c, low, high, &now, 2000);

        assert_int_equal(to, k % 2 ? 1 : 2);
        if (k > 0)
            assert_true(now - from >= fmin(pause, 600) - 1);
        sched_plan_flipped(&p, now, true);
        pause = k > 0 ? 2 * pause : pause;
    }
    assert_int_equal(p.reversals, 11);
    most = p.flips;
    print_message("  worst case: 12 flips take %.0f s\n", now);
    assert_true(now > 3600);
    assert_int_equal(ticks(&p, &c, pool_of(4, 0.5), pool_of(4, 0.5), &now, 3600), 0);
    assert_near(p.cooldown_s, 10, 0);
    assert_int_equal(p.flips, most);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_erlang_c_gives_the_known_values),
        cmocka_unit_test(test_erlang_c_holds_for_a_hundred_thousand_servers),
        cmocka_unit_test(test_nonsense_gives_bounds_and_no_nan),
        cmocka_unit_test(test_one_server_gives_pollaczek_khinchine_exactly),
        cmocka_unit_test(test_the_p99_of_lengths_like_azure_is_within_a_sixth),
        cmocka_unit_test(test_the_p99_of_bursty_arrivals_is_as_good),
        cmocka_unit_test(test_the_p99_of_heavy_tails_is_within_a_third),
        cmocka_unit_test(test_the_number_of_workers_is_the_smallest_that_keeps_the_target),
        cmocka_unit_test(test_sized_pools_keep_the_target_when_played_out),
        cmocka_unit_test(test_the_decode_step_is_that_of_a_worker_played_out),
        cmocka_unit_test(test_decode_is_continuous_over_the_knee_and_ends_where_it_cannot_keep_up),
        cmocka_unit_test(test_the_highest_decode_rate_is_the_reference_value),
        cmocka_unit_test(test_moments_find_the_process_that_made_the_load),
        cmocka_unit_test(test_moments_count_the_time_in_which_nothing_comes),
        cmocka_unit_test(test_a_flip_that_took_long_is_followed_by_a_long_pause),
        cmocka_unit_test(test_moments_see_a_burst_within_seconds_and_forget_it),
        cmocka_unit_test(test_moments_of_nothing_and_of_one_request_are_finite),
        cmocka_unit_test(test_a_step_is_followed_by_one_worker_at_a_time_within_a_minute),
        cmocka_unit_test(test_a_ramp_is_followed_without_looking_back),
        cmocka_unit_test(test_a_slow_sine_is_followed_and_a_fast_one_is_not),
        cmocka_unit_test(test_noise_alone_makes_no_oscillation),
        cmocka_unit_test(test_nobody_gives_when_both_are_short),
        cmocka_unit_test(test_a_role_keeps_its_minimum_and_a_worker_that_cannot_give_stays),
        cmocka_unit_test(test_a_stage_that_misses_its_targets_asks_earlier),
        cmocka_unit_test(test_a_pool_far_over_its_limit_is_helped_by_one_that_is_left_busy),
        cmocka_unit_test(test_a_role_without_any_worker_is_refilled_whatever_that_costs),
        cmocka_unit_test(test_one_flip_is_in_flight_and_a_lost_one_does_not_block_for_ever),
        cmocka_unit_test(test_each_reversal_doubles_the_pause_and_quiet_halves_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
