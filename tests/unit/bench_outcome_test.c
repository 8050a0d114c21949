/* tests/unit/bench_outcome_test.c - figures of a run: bench/outcome.h and bench/histogram.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "bench/histogram.h"
#include "bench/outcome.h"
#include "bench/perf_report.h"

static bool near(double a, double b, double share)
{
    return fabs(a - b) <= share * fabs(b) + 1e-12;
}

/* 11 tokens, the first after 0.4 s, then one each 20 ms; targets 0.5 s and 30 ms. */
static struct bench_outcome good(void)
{
    return (struct bench_outcome){.tier = 0,
                                  .fate = BENCH_DONE,
                                  .measured = true,
                                  .admitted = true,
                                  .n_prompt = 100,
                                  .n_out = 11,
                                  .intended_s = 1.5,
                                  .sent_s = 1.501,
                                  .ttft_s = 0.4,
                                  .e2e_s = 0.6,
                                  .max_gap_s = 0.02,
                                  .late_s = -0.1,
                                  .ttft_target_s = 0.5,
                                  .tbt_target_s = 0.03};
}

static struct bench_run *make(uint32_t n_tiers)
{
    struct bench_run *r = mem_try_calloc(1, sizeof(*r));

    assert_non_null(r);
    assert_int_equal(bench_run_init(r, n_tiers), ERR_OK);
    return r;
}

static void drop(struct bench_run *r)
{
    bench_run_free(r);
    mem_free(r);
    assert_int_equal(mem_live(), 0);
}

static void quantiles_are_within_one_percent(void **state)
{
    struct bench_hist h = {0};

    (void)state;
    for (int i = 1; i <= 10000; i++)
        bench_hist_add(&h, i * 1e-4);
    assert_true(near(bench_hist_quantile(&h, 0.5), 0.5, 0.01));
    assert_true(near(bench_hist_quantile(&h, 0.9), 0.9, 0.01));
    assert_true(near(bench_hist_quantile(&h, 0.99), 0.99, 0.01));
    assert_true(near(bench_hist_mean(&h), 0.50005, 1e-9));
    assert_true(near(bench_hist_sd(&h), 0.288689, 1e-4));
}

static void extremes_are_exact_and_nothing_is_out_of_range(void **state)
{
    struct bench_hist h = {0};

    (void)state;
    assert_true(bench_hist_quantile(&h, 0.99) == 0);
    bench_hist_add(&h, NAN);
    assert_int_equal(h.n, 0);
    bench_hist_add(&h, 0.123456);
    assert_true(bench_hist_quantile(&h, 0) == 0.123456);
    assert_true(bench_hist_quantile(&h, 0.5) == 0.123456);
    assert_true(bench_hist_quantile(&h, 1) == 0.123456);
    bench_hist_add(&h, -3);
    bench_hist_add(&h, INFINITY);
    bench_hist_add(&h, 1e30);
    assert_true(bench_hist_quantile(&h, 0) == 1e-6);
    assert_int_equal(h.n, 4);
}

static void merged_histograms_equal_one_that_saw_all(void **state)
{
    struct bench_hist a = {0}, b = {0}, all = {0};

    (void)state;
    for (int i = 1; i < 500; i++) {
        bench_hist_add(i % 3 == 0 ? &a : &b, i * 1e-3);
        bench_hist_add(&all, i * 1e-3);
    }
    bench_hist_merge(&a, &b);
    assert_int_equal(a.n, all.n);
    assert_true(bench_hist_quantile(&a, 0.9) == bench_hist_quantile(&all, 0.9));
    assert_true(a.min == all.min && a.max == all.max);
}

static void a_request_is_kept_only_if_every_target_holds(void **state)
{
    struct bench_outcome o = good();

    (void)state;
    assert_true(bench_outcome_kept(&o));
    o.ttft_s = 0.5, o.e2e_s = 0.7; /* exactly on time is on time */
    assert_true(bench_outcome_kept(&o));
    o.ttft_s = 0.501;
    assert_false(bench_outcome_kept(&o));
    o = good(), o.e2e_s = 0.4 + 10 * 0.031;
    assert_false(bench_outcome_kept(&o));
    o = good(), o.late_s = 0.001; /* mean in time, one token late */
    assert_false(bench_outcome_kept(&o));
    for (int f = BENCH_REFUSED; f <= BENCH_CANCELED; f++) {
        o = good(), o.fate = (enum bench_fate)f;
        assert_false(bench_outcome_kept(&o));
    }
    o = good(), o.n_out = 1, o.e2e_s = o.ttft_s; /* no gap, no target for it */
    assert_true(bench_outcome_kept(&o));
}

/* Nobody knows when its first token was there: all of it has the time that all of its tokens have. */
static void an_answer_in_one_piece_is_judged_as_a_whole(void **state)
{
    struct bench_run *r = make(1);
    struct bench_outcome o = good();

    (void)state;
    o.whole = r->whole = true;
    o.ttft_s = 0;
    o.e2e_s = 0.5 + 10 * 0.03;
    assert_true(bench_outcome_kept(&o));
    bench_run_add(r, &o);
    o.e2e_s += 0.001;
    assert_false(bench_outcome_kept(&o));
    o.fate = BENCH_FAILED;
    o.e2e_s = 0.1;
    assert_false(bench_outcome_kept(&o));
    bench_run_finish(r, 1);
    assert_int_equal(r->all.ttft.n + r->all.tbt.n, 0);
    assert_int_equal(r->all.e2e.n, 1);
    drop(r);
}

static void tenants_are_told_apart_where_a_run_has_them(void **state)
{
    struct bench_run *r = make(2);
    struct bench_outcome o = good();

    (void)state;
    assert_int_equal(bench_run_tenants(r, 0), ERR_INVALID);
    assert_int_equal(bench_run_tenants(r, BENCH_TENANTS_MAX + 1), ERR_INVALID);
    assert_int_equal(bench_run_tenants(r, 2), ERR_OK);
    assert_int_equal(bench_run_tenants(r, 2), ERR_INVALID);
    o.tenant = 1;
    bench_run_add(r, &o);
    o.tenant = 2;
    o.tier = 1;
    o.ttft_s = 0.45;
    bench_run_add(r, &o);
    o.fate = BENCH_REFUSED;
    o.admitted = false;
    o.ttft_s = 0;
    bench_run_add(r, &o);
    o.tenant = 0; /* nobody's */
    bench_run_add(r, &o);
    o.tenant = 3; /* nobody that was named */
    bench_run_add(r, &o);
    bench_run_finish(r, 1);
    assert_true(r->tenant[0].n == 1 && r->tenant[0].kept == 1 && r->tenant[0].refused == 0);
    assert_true(r->tenant[1].n == 2 && r->tenant[1].kept == 1 && r->tenant[1].refused == 1);
    assert_true(near(bench_tenant_ttft(r, 0, 0, 0.99), 0.4, 0.01));
    assert_true(bench_tenant_ttft(r, 0, 1, 0.99) == 0);
    assert_true(near(bench_tenant_ttft(r, 1, BENCH_TIERS_MAX, 0.99), 0.45, 0.01));
    drop(r);
}

/* 1, 2, 3, 4: the mean is 2.5, its standard error 0.6455, t of three degrees of freedom 3.182. */
static void repeats_fold_into_means_with_an_interval(void **state)
{
    struct bench_report report;
    double v[40], half;

    (void)state;
    bench_report_init(&report, "x");
    bench_report_add(&report, "before", 7, "1", BENCH_HIGHER);
    for (int i = 1; i <= 4; i++) {
        bench_report_add(&report, "a", i, "1", BENCH_HIGHER);
        bench_report_add(&report, "b", 5, "1", BENCH_LOWER);
    }
    bench_report_fold(&report, 1);
    assert_int_equal(report.n, 3);
    assert_true(report.v[0].repeats == 0 && report.v[0].value == 7);
    assert_true(report.v[1].repeats == 4 && report.v[1].value == 2.5);
    assert_true(near(report.v[1].ci95, 3.182 * 0.6454972, 1e-4));
    assert_true(report.v[2].value == 5 && report.v[2].ci95 == 0);
    bench_report_free(&report);
    for (int i = 0; i < 40; i++)
        v[i] = i % 2;
    assert_true(bench_mean_ci95(v, 40, &half) == 0.5); /* t of 39: 2.0227 */
    assert_true(near(half, 2.0227 * sqrt(0.25 * 40 / 39 / 40), 1e-3));
    assert_true(bench_mean_ci95(v, 1, &half) == 0 && half == 0);
    assert_int_equal(mem_live(), 0);
}

static void refused_failed_and_late_count_in_the_denominator_and_canceled_do_not(void **state)
{
    static const enum bench_fate fate[] = {BENCH_DONE, BENCH_REFUSED, BENCH_FAILED, BENCH_TIMEOUT,
                                           BENCH_CANCELED};
    struct bench_run *r = make(1);

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        struct bench_outcome o = good();

        o.fate = fate[i];
        o.admitted = o.fate != BENCH_REFUSED;
        bench_run_add(r, &o);
        o.measured = false; /* outside the window: as if it had not been */
        bench_run_add(r, &o);
    }
    bench_run_finish(r, 10);
    assert_int_equal(r->tier[0].n, 4);
    assert_int_equal(r->tier[0].canceled, 1);
    assert_int_equal(r->tier[0].refused, 1);
    assert_int_equal(r->tier[0].broken, 2);
    assert_true(near(bench_broken_share(r->tier[0].kept, r->tier[0].broken), 2.0 / 3, 1e-9));
    assert_true(near(bench_broken_share(0, 0), 0, 0)); /* nobody was admitted */
    assert_true(near(bench_run_attainment(r, 0), 0.25, 0));
    assert_true(near(bench_run_attainment(r, BENCH_TIERS_MAX), 0.25, 0));
    assert_int_equal(r->tokens_out, 11);
    drop(r);
}

static void goodput_weighs_tiers(void **state)
{
    struct bench_run *r = make(3);

    (void)state;
    r->tier[0].weight = 4, r->tier[1].weight = 2, r->tier[2].weight = 1;
    for (uint32_t t = 0; t < 3; t++) {
        for (int i = 0; i < 10; i++) {
            struct bench_outcome o = good();

            o.tier = t;
            o.fate = i < 5 ? BENCH_DONE : BENCH_REFUSED;
            bench_run_add(r, &o);
        }
    }
    r->bound_weight = 70;
    bench_run_finish(r, 5);
    assert_true(near(r->weight_offered, 70, 0));
    assert_true(near(bench_run_goodput(r), 7, 0));
    assert_true(near(bench_run_bound_share(r), 0.5, 0));
    bench_run_finish(r, 5); /* again: nothing is counted twice */
    assert_int_equal(r->all.ttft.n, 30);
    assert_true(near(bench_run_goodput(r), 7, 0));
    drop(r);
}

static void the_largest_tenth_of_prompts_is_told_apart(void **state)
{
    struct bench_run *r = make(1);

    (void)state;
    for (uint32_t i = 0; i < 1000; i++) {
        struct bench_outcome o = good();

        o.n_prompt = 100 + i * 50;
        if (i >= 900 && i % 2 == 0)
            o.fate = BENCH_REFUSED;
        bench_run_add(r, &o);
    }
    bench_run_finish(r, 1);
    assert_true(near(r->large_kept, 0.5, 0.1));
    assert_true(near(r->rest_kept, 1, 0.005));
    drop(r);
}

static void prompts_of_one_size_have_no_largest_tenth_that_does_better(void **state)
{
    struct bench_run *r = make(1);

    (void)state;
    for (int i = 0; i < 20; i++) {
        struct bench_outcome o = good();

        bench_run_add(r, &o);
    }
    bench_run_finish(r, 1);
    assert_true(r->large_kept == 1 && r->rest_kept == 1);
    drop(r);
}

static void bins_hold_arrivals_and_kept_per_second_and_grow_longer_on_long_runs(void **state)
{
    struct bench_run *r = make(2);
    double sum = 0;

    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct bench_outcome o = good();

        o.tier = (uint32_t)i % 2;
        o.fate = i % 4 < 2 ? BENCH_DONE : BENCH_REFUSED;
        o.intended_s = i;
        bench_run_add(r, &o);
        if (i == 100) {
            assert_true(r->bin_s == 1);
            assert_int_equal(r->n_bins, 101);
            assert_true(r->bins[7 * 4 + 1] == 1 && r->bins[7 * 4 + 3] == 0);
            assert_true(r->bins[9 * 4 + 1] == 1 && r->bins[9 * 4 + 3] == 1);
        }
    }
    assert_true(r->bin_s == 4);
    assert_int_equal(r->n_bins, 1250);
    for (uint32_t i = 0; i < r->n_bins; i++)
        sum += r->bins[i * 4] + r->bins[i * 4 + 1];
    assert_true(sum == 5000);
    drop(r);
}

static void a_run_without_requests_gives_numbers_and_no_times(void **state)
{
    struct bench_run *r = make(2);
    struct bench_report report;

    (void)state;
    snprintf(r->policy, sizeof(r->policy), "bench");
    snprintf(r->trace, sizeof(r->trace), "a b\"c");
    snprintf(r->tier[0].name, sizeof(r->tier[0].name), "gold");
    r->speedup = 2.5;
    bench_run_finish(r, 0);
    bench_report_init(&report, "bench");
    bench_run_rows(r, NULL, &report);
    assert_string_equal(report.v[0].name, "bench.a-b-c.x2.5.goodput.gold");
    for (size_t i = 0; i < report.n; i++) {
        assert_true(isfinite(report.v[i].value));
        assert_null(strstr(report.v[i].name, ".attainment.gold"));
        assert_null(strstr(report.v[i].name, ".ttft."));
        assert_null(strstr(report.v[i].name, ".tbt."));
    }
    bench_report_free(&report);
    drop(r);
}

static void a_tier_count_out_of_range_and_no_memory_are_errors(void **state)
{
    struct bench_run *r = mem_try_calloc(1, sizeof(*r));

    (void)state;
    assert_int_equal(bench_run_init(r, 0), ERR_INVALID);
    assert_int_equal(bench_run_init(r, BENCH_TIERS_MAX + 1), ERR_INVALID);
    for (int i = 0; i < 2; i++) {
        mem_fail_at(i);
        assert_int_equal(bench_run_init(r, 3), ERR_NOMEM);
        mem_fail_at(-1);
    }
    drop(r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_are_within_one_percent),
        cmocka_unit_test(extremes_are_exact_and_nothing_is_out_of_range),
        cmocka_unit_test(merged_histograms_equal_one_that_saw_all),
        cmocka_unit_test(a_request_is_kept_only_if_every_target_holds),
        cmocka_unit_test(an_answer_in_one_piece_is_judged_as_a_whole),
        cmocka_unit_test(tenants_are_told_apart_where_a_run_has_them),
        cmocka_unit_test(repeats_fold_into_means_with_an_interval),
        cmocka_unit_test(refused_failed_and_late_count_in_the_denominator_and_canceled_do_not),
        cmocka_unit_test(goodput_weighs_tiers),
        cmocka_unit_test(the_largest_tenth_of_prompts_is_told_apart),
        cmocka_unit_test(prompts_of_one_size_have_no_largest_tenth_that_does_better),
        cmocka_unit_test(bins_hold_arrivals_and_kept_per_second_and_grow_longer_on_long_runs),
        cmocka_unit_test(a_run_without_requests_gives_numbers_and_no_times),
        cmocka_unit_test(a_tier_count_out_of_range_and_no_memory_are_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
