/* The clairvoyant bound: never below what a schedule can do, and close to it where the optimum is known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench/bound.h"
#include "bench/trace.h"

static double bound_of(const struct bench_bound_item *v, size_t n, double prefill, double decode,
                       bool local)
{
    struct bench_bound_problem p = {.v = v,
                                    .n = n,
                                    .prefill_machines = prefill,
                                    .decode_machines = decode,
                                    .local = local,
                                    .slot_s = 0.05};
    struct err_msg msg = {""};
    double b = 0;

    if (bench_bound(&p, &msg, &b) != ERR_OK)
        fail_msg("%s", msg.text);
    return b;
}

/* ---- brute force: prompts whole, one after the other, on one prefill machine; then each request's decode work
 * flows into one decode machine, fractional, earliest deadline first ---- */

enum { TINY = 6 };

static bool decode_fits(const struct bench_bound_item *v, const uint32_t *order, uint32_t n,
                        const double *ready)
{
    double left[TINY], now = 0;
    uint32_t open = n;

    for (uint32_t i = 0; i < n; i++) {
        left[i] = v[order[i]].decode_s;
        open -= left[i] <= 0;
    }
    while (open > 0) {
        double next = INFINITY, run;
        uint32_t best = n;

        for (uint32_t i = 0; i < n; i++) {
            if (left[i] > 0 && ready[i] > now)
                next = fmin(next, ready[i]);
            else if (left[i] > 0 &&
                     (best == n || v[order[i]].decode_until < v[order[best]].decode_until))
                best = i;
        }
        if (best == n) {
            now = next;
            continue;
        }
        run = fmin(left[best], next - now);
        now += run;
        left[best] -= run;
        if (now > v[order[best]].decode_until + 1e-9)
            return false;
        if (left[best] < 1e-12) {
            left[best] = 0;
            open--;
        }
    }
    return true;
}

static bool schedule_fits(const struct bench_bound_item *v, const uint32_t *order, uint32_t n)
{
    double now = 0, ready[TINY];

    for (uint32_t i = 0; i < n; i++) {
        const struct bench_bound_item *x = &v[order[i]];

        now = fmax(now, x->at) + x->prefill_s;
        if (now > x->prefill_until + 1e-9)
            return false;
        ready[i] = now;
    }
    return decode_fits(v, order, n, ready);
}

static void every_order(const struct bench_bound_item *v, uint32_t *order, uint32_t n, uint32_t at,
                        double value, double *best)
{
    if (schedule_fits(v, order, at))
        *best = fmax(*best, value);
    else
        return; /* a longer one fails too */
    for (uint32_t i = at; i < n; i++) {
        uint32_t keep = order[at];

        order[at] = order[i];
        order[i] = keep;
        every_order(v, order, n, at + 1, value + v[order[at]].value, best);
        order[i] = order[at];
        order[at] = keep;
    }
}

static void no_schedule_beats_the_bound(void **state)
{
    struct bench_rng rng = {11};
    double sum = 0;
    uint32_t binding = 0;

    (void)state;
    for (int round = 0; round < 300; round++) {
        struct bench_bound_item v[TINY];
        uint32_t order[TINY];
        double best = 0, all = 0, b;

        for (uint32_t i = 0; i < TINY; i++) {
            order[i] = i;
            v[i] = (struct bench_bound_item){.value = 1 + (double)(bench_rng_next(&rng) % 4),
                                             .at = 2 * bench_rng_unit(&rng),
                                             .prefill_s = 0.1 + 0.9 * bench_rng_unit(&rng),
                                             .decode_s = 0.8 * bench_rng_unit(&rng),
                                             .local_s = 1};
            v[i].prefill_until = v[i].at + v[i].prefill_s + bench_rng_unit(&rng);
            v[i].decode_from = v[i].at + v[i].prefill_s;
            v[i].decode_until = v[i].prefill_until + v[i].decode_s + bench_rng_unit(&rng);
            all += v[i].value;
        }
        every_order(v, order, TINY, 0, 0, &best);
        b = bound_of(v, TINY, 1, 1, false);
        assert_true(b >= best - 1e-9);
        assert_true(b <= all + 1e-9);
        sum += best / b;
        binding += b < 0.98 * all;
    }
    assert_true(binding > 150);   /* the bound says something more than "all of them" */
    assert_true(sum / 300 > 0.8); /* and is not far from what can be done, whole and in one piece */
}

/* ---- known optima ---- */

static void with_one_window_it_is_the_knapsack(void **state)
{
    struct bench_bound_item v[100];

    (void)state;
    for (int i = 0; i < 100; i++)
        v[i] = (struct bench_bound_item){.value = i < 50 ? 4 : 1,
                                         .at = 0,
                                         .prefill_until = 9.9999,
                                         .decode_from = 0,
                                         .decode_until = 9.9999,
                                         .prefill_s = 0.4};
    /* 20 machine seconds: 50 requests, all of them worth 4 */
    assert_true(fabs(bound_of(v, 100, 2, 1, false) - 200) < 2);
    /* 30 machine seconds: 25 of the cheap ones more */
    assert_true(fabs(bound_of(v, 100, 3, 1, false) - 225) < 2.25);
}

static void a_burst_is_bounded_by_its_own_window_not_by_the_mean(void **state)
{
    struct bench_bound_item v[40];

    (void)state;
    for (int i = 0; i < 40; i++) {
        double at = i < 39 ? 5 : 90;

        v[i] = (struct bench_bound_item){.value = 1,
                                         .at = at,
                                         .prefill_until = at + 1,
                                         .decode_from = at,
                                         .decode_until = at + 2,
                                         .prefill_s = 0.1,
                                         .decode_s = 0.01};
    }
    /* one second of one machine (and a slot at its edge) holds about 10 of the 39 */
    assert_in_range((int)bound_of(v, 40, 1, 1, false), 11, 12);
}

static void either_stage_can_be_the_narrow_one(void **state)
{
    struct bench_bound_item v[100];

    (void)state;
    for (int i = 0; i < 100; i++)
        v[i] = (struct bench_bound_item){.value = 1,
                                         .at = 0,
                                         .prefill_until = 9.9999,
                                         .decode_from = 0,
                                         .decode_until = 9.9999,
                                         .prefill_s = 0.1,
                                         .decode_s = 0.5,
                                         .local_s = 0.1};
    assert_true(fabs(bound_of(v, 100, 1, 2, false) - 40) < 0.6);   /* decode */
    assert_true(fabs(bound_of(v, 100, 0.2, 9, false) - 20) < 0.4); /* prefill */
    /* decode machines may compute prompts: 0.6 each of 90 seconds, and all fit */
    assert_true(fabs(bound_of(v, 100, 0, 9, true) - 100) < 0.5);
    assert_true(fabs(bound_of(v, 100, 0, 3, true) - 50) < 0.8);
}

static void broken_input_is_refused_and_nothing_is_left_behind(void **state)
{
    struct bench_bound_item v = {.value = NAN};
    struct bench_bound_problem p = {.v = &v, .n = 1, .prefill_machines = 1, .decode_machines = 1};
    struct err_msg msg = {""};
    size_t live = mem_live();
    double b;

    (void)state;
    assert_int_equal(bench_bound(&p, &msg, &b), ERR_INVALID);
    v = (struct bench_bound_item){.value = 1, .at = 3, .prefill_until = 2};
    assert_int_equal(bench_bound(&p, &msg, &b), ERR_INVALID);
    v.prefill_until = 4;
    v.decode_from = v.decode_until = 5;
    for (long at = 0; at < 3; at++) {
        mem_fail_at(at);
        assert_int_equal(bench_bound(&p, &msg, &b), ERR_NOMEM);
        mem_fail_at(-1);
        assert_int_equal(mem_live(), live);
    }
    assert_int_equal(bench_bound(&p, &msg, &b), ERR_OK);
    assert_true(fabs(b - 1) < 1e-9);
    p.n = 0;
    assert_int_equal(bench_bound(&p, &msg, &b), ERR_OK);
    assert_true(b == 0);
    assert_int_equal(mem_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_schedule_beats_the_bound),
        cmocka_unit_test(with_one_window_it_is_the_knapsack),
        cmocka_unit_test(a_burst_is_bounded_by_its_own_window_not_by_the_mean),
        cmocka_unit_test(either_stage_can_be_the_narrow_one),
        cmocka_unit_test(broken_input_is_refused_and_nothing_is_left_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
