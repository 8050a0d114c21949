/* tests/unit/sched_tenant_test.c - quotas hold in every window, slots come back once, and a greedy tenant lowers
 * nobody's share but its own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/sched_tenant.h"

#define MS UINT64_C(1000000)
#define S UINT64_C(1000000000)

static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 20) % below);
}

static struct sched_tenants *table(void)
{
    struct sched_tenants *t;

    assert_int_equal(sched_tenants_create(&t), ERR_OK);
    return t;
}

static void describe(struct sched_tenants *t, struct sched_tenant c)
{
    assert_int_equal(sched_tenants_set(t, &c), ERR_OK);
}

static bool take(struct sched_tenants *t, uint32_t id, uint64_t now, double cost)
{
    uint64_t wait;
    enum err e = sched_tenants_take(t, id, now, cost, &wait);

    assert_true(e == ERR_OK || e == ERR_LIMIT);
    return e == ERR_OK;
}

/* ---- quota ---- */

static void test_a_bucket_gives_its_burst_then_its_rate(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    uint64_t wait;

    describe(t, (struct sched_tenant){.id = 7, .tokens_per_s = 100, .burst_s = 10});
    for (int k = 0; k < 10; k++)
        assert_true(take(t, 7, 5 * S, 100));
    assert_int_equal(sched_tenants_take(t, 7, 5 * S, 50, &wait), ERR_LIMIT);
    assert_true(wait >= 500 * MS && wait <= 501 * MS);
    assert_false(take(t, 7, 5 * S + wait - 2 * MS, 50));
    assert_true(take(t, 7, 5 * S + wait, 50));
    assert_int_equal(sched_tenants_live(t, 7), 11);
    /* More than the bucket can ever hold is no question of waiting. */
    assert_int_equal(sched_tenants_take(t, 7, 900 * S, 1001, &wait), ERR_LIMIT);
    assert_true(wait == UINT64_MAX);
    assert_int_equal(sched_tenants_live(t, 7), 11);
    assert_true(take(t, 7, 900 * S, 1000));
    sched_tenants_free(t);
}

static void test_what_was_not_used_comes_back_and_what_was_used_more_is_owed(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    uint64_t wait;

    describe(t, (struct sched_tenant){.id = 1, .tokens_per_s = 10, .burst_s = 10});
    assert_true(take(t, 1, S, 100));
    assert_false(take(t, 1, S, 1));
    sched_tenants_end(t, 1, 0, S, 100, 40);
    assert_true(take(t, 1, S, 60));
    assert_false(take(t, 1, S, 1));
    sched_tenants_end(t, 1, 0, S, 60, 160); /* 100 tokens in debt */
    assert_int_equal(sched_tenants_take(t, 1, S, 10, &wait), ERR_LIMIT);
    assert_true(wait >= 11 * S && wait <= 11 * S + MS);
    sched_tenants_free(t);
}

static void test_no_window_holds_more_than_the_quota_and_one_burst(void **state)
{
    (void)state;
    enum { N = 600 };
    static double cost[N], used[N];
    static uint64_t at[N];

    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct sched_tenants *t = table();
        double rate, burst, room;
        uint64_t now = 1;
        int n = 0, open = 0;

        rng_state = seed * UINT64_C(0x9e3779b97f4a7c15);
        rate = 50 + rnd(2000);
        burst = 1 + rnd(20);
        room = rate * burst;
        describe(t, (struct sched_tenant){.id = 3, .tokens_per_s = rate, .burst_s = burst});
        for (int tries = 0; tries < 6000 && n < N; tries++) {
            double want = 1 + rnd((uint32_t)(room * 1.2));

            now += rnd(4) ? rnd(50) * MS : rnd(20) * rnd(300) * MS;
            if (rnd(50) == 0) /* the operator writes the same quota again: no fresh bucket */
                describe(t, (struct sched_tenant){.id = 3, .tokens_per_s = rate, .burst_s = burst});
            if (take(t, 3, now, want)) {
                cost[n] = used[n] = want;
                at[n++] = now;
                open++;
            } else if (open > 0 && rnd(2)) {
                sched_tenants_end(t, 3, 0, now, cost[n - open], used[n - open]);
                open--;
            }
        }
        assert_true(n > 50);
        for (int from = 0; from < n; from++) {
            double sum = 0;

            for (int to = from; to < n; to++) {
                sum += cost[to];
                assert_true(sum <= room + rate * (double)(at[to] - at[from]) * 1e-9 + 1e-3);
            }
        }
        sched_tenants_free(t);
    }
}

static void test_a_quota_that_comes_late_gives_nothing_back_that_it_did_not_charge(void **state)
{
    (void)state;
    struct sched_tenants *t = table();

    for (int k = 0; k < 50; k++)
        assert_true(take(t, 1, S, 1000));
    describe(t, (struct sched_tenant){.id = 1, .tokens_per_s = 1, .burst_s = 100});
    assert_true(take(t, 1, S, 100));
    for (int k = 0; k < 50; k++) {
        sched_tenants_end(t, 1, 0, S, 1000, 0);
        /* The 100 that were charged may come back, once. */
    }
    assert_true(take(t, 1, S, 100));
    assert_false(take(t, 1, S, 1));
    sched_tenants_free(t);
}

static void test_live_requests_are_bounded_and_a_slot_comes_back_once(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    uint64_t wait = 1;

    describe(t, (struct sched_tenant){.id = 9, .max_live = 3});
    for (int k = 0; k < 3; k++)
        assert_true(take(t, 9, S, 10));
    assert_int_equal(sched_tenants_take(t, 9, S, 10, &wait), ERR_LIMIT);
    assert_int_equal(wait, 0);
    sched_tenants_end(t, 9, 0, S, 10, 10);
    assert_true(take(t, 9, S, 10));
    assert_false(take(t, 9, S, 10));
    for (int k = 0; k < 3; k++)
        sched_tenants_end(t, 9, 0, S, 10, 10);
    assert_int_equal(sched_tenants_live(t, 9), 0);
    sched_tenants_end(t, 9, 0, S, 10, 10); /* once too often, and of somebody unknown */
    sched_tenants_end(t, 1234, 0, S, 10, 10);
    assert_int_equal(sched_tenants_live(t, 9), 0);
    for (int k = 0; k < 3; k++)
        assert_true(take(t, 9, S, 10));
    assert_false(take(t, 9, S, 10));
    sched_tenants_free(t);
}

static void test_live_counts_are_right_after_any_history(void **state)
{
    (void)state;
    static uint32_t live[20], most[20];
    struct sched_tenants *t = table();
    uint64_t now = 0;

    rng_state = 77;
    for (uint32_t id = 1; id < 20; id++) {
        live[id] = 0;
        most[id] = id % 3 ? 0 : 1 + rnd(5);
        if (most[id] > 0)
            describe(t, (struct sched_tenant){.id = id, .max_live = most[id]});
    }
    for (int k = 0; k < 200000; k++) {
        uint32_t id = 1 + rnd(19);

        now += rnd(100) ? rnd(5) * MS : rnd(100) * S;
        if (rnd(2)) {
            bool ok = take(t, id, now, rnd(1000));

            assert_int_equal(ok, most[id] == 0 || live[id] < most[id]);
            live[id] += ok;
        } else {
            sched_tenants_end(t, id, rnd(18), now, rnd(1000), rnd(2000));
            live[id] -= live[id] > 0;
        }
        assert_int_equal(sched_tenants_live(t, id), live[id]);
        double f = sched_tenants_share(t, id, rnd(18), now);
        assert_true(f >= 0.05 && f <= 1);
    }
    sched_tenants_free(t);
}

static void test_no_tenant_is_always_taken(void **state)
{
    (void)state;
    struct sched_tenants *t = table();

    assert_true(take(t, 0, 1, 1e12));
    sched_tenants_end(t, 0, 0, 1, 1e12, 1e12);
    assert_int_equal(sched_tenants_live(t, 0), 0);
    assert_int_equal(sched_tenants_rows(t), 0);
    assert_true(sched_tenants_share(t, 0, 0, 1) == 1);
    sched_tenants_free(t);
}

static void test_settings_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    const struct sched_tenant bad[] = {{.id = 0},
                                       {.id = 1, .weight = -1},
                                       {.id = 1, .weight = NAN},
                                       {.id = 1, .tokens_per_s = INFINITY},
                                       {.id = 1, .burst_s = -0.5}};

    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        assert_int_equal(sched_tenants_set(t, &bad[k]), ERR_INVALID);
    assert_int_equal(sched_tenants_rows(t), 0);
    assert_true(take(t, 1, S, NAN)); /* a prediction gone wrong costs nothing, and breaks nothing */
    assert_true(take(t, 1, S, -5));
    sched_tenants_free(t);
}

/* ---- shares ---- */

static void serve(struct sched_tenants *t, uint32_t id, uint32_t tier, uint64_t now, double tokens)
{
    assert_true(take(t, id, now, tokens));
    sched_tenants_end(t, id, tier, now, tokens, tokens);
}

static void test_a_greedy_tenant_lowers_its_own_factor_only(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sched_tenants *t = table();
        double least = 1, greedy = 0;
        int n = 0;

        rng_state = seed * UINT64_C(0x9e3779b97f4a7c15);
        for (uint64_t now = S; now < 120 * S; now += 20 * MS) {
            serve(t, 1, 1, now, 100 + rnd(2000)); /* ten for one */
            if (rnd(10) == 0)
                serve(t, 2, 1, now, 100 + rnd(2000));
            if (now > 3 * S) /* before that one request can be most of all there was */
                least = fmin(least, sched_tenants_share(t, 2, 1, now));
            if (now > 60 * S) {
                greedy += sched_tenants_share(t, 1, 1, now);
                n++;
            }
        }
        assert_true(least == 1);
        assert_true(greedy / n > 0.05 &&
                    greedy / n < 0.2); /* odds of 1/2 over odds of 10/11: 0.1 */
        assert_true(sched_tenants_share(t, 1, 0, 120 * S) ==
                    1); /* another tier is another matter */
        sched_tenants_free(t);
    }
}

static void test_a_tenant_alone_has_all_it_asks_for(void **state)
{
    (void)state;
    struct sched_tenants *t = table();

    for (uint64_t now = S; now < 100 * S; now += 100 * MS) {
        serve(t, 1, 0, now, 5000);
        assert_true(sched_tenants_share(t, 1, 0, now) == 1);
    }
    sched_tenants_free(t);
}

/* Everybody always asks; who has the largest factor is served.  Tokens have to follow the weights. */
static void test_tokens_follow_the_weights_when_all_ask(void **state)
{
    (void)state;
    static const double weight[4] = {0, 1, 2, 4};
    double got[4] = {0}, all = 0;
    struct sched_tenants *t = table();

    rng_state = 5;
    for (uint32_t id = 1; id <= 3; id++)
        describe(t, (struct sched_tenant){.id = id, .weight = weight[id]});
    for (uint64_t now = S; now < 600 * S; now += 5 * MS) {
        double best = 0, tokens = 100 + rnd(3000);
        uint32_t who = 0, from = rnd(3);

        for (uint32_t k = 0; k < 3; k++) {
            uint32_t id = 1 + (from + k) % 3;
            double f = sched_tenants_share(t, id, 2, now);

            if (f > best) {
                best = f;
                who = id;
            }
        }
        serve(t, who, 2, now, tokens);
        got[who] += tokens;
        all += tokens;
    }
    for (uint32_t id = 1; id <= 3; id++) {
        print_message("  weight %.0f: %.4f of the tokens, fair %.4f\n", weight[id], got[id] / all,
                      weight[id] / 7);
        assert_true(fabs(got[id] / all - weight[id] / 7) < 0.02 * weight[id] / 7);
    }
    sched_tenants_free(t);
}

static void test_a_new_weight_counts_at_once(void **state)
{
    (void)state;
    struct sched_tenants *t = table();

    for (uint64_t now = S; now < 60 * S; now += 100 * MS) {
        serve(t, 1, 0, now, 1000);
        serve(t, 1, 0, now, 1000);
        serve(t, 2, 0, now, 1000);
    }
    assert_true(sched_tenants_share(t, 1, 0, 60 * S) < 0.6);
    describe(t, (struct sched_tenant){.id = 1, .weight = 3});
    assert_true(sched_tenants_share(t, 1, 0, 60 * S) == 1);
    assert_true(sched_tenants_share(t, 2, 0, 60 * S) <
                0.8); /* a third, where a quarter is its due */
    sched_tenants_free(t);
}

static void test_one_that_comes_back_has_no_credit_for_its_absence(void **state)
{
    (void)state;
    double got[3] = {0};
    struct sched_tenants *t = table();
    uint64_t now = S;

    rng_state = 6;
    for (; now < 200 * S; now += 5 * MS)
        serve(t, 1, 0, now, 1000);
    for (uint64_t end = now + 5 * S; now < end; now += 5 * MS) { /* both ask from now on */
        uint32_t who =
            sched_tenants_share(t, 2, 0, now) > sched_tenants_share(t, 1, 0, now) ? 2 : 1;

        if (sched_tenants_share(t, 2, 0, now) == sched_tenants_share(t, 1, 0, now))
            who = 1 + rnd(2);
        serve(t, who, 0, now, 1000);
        got[who] += 1000;
    }
    print_message("  after a long absence: %.2f of the first 5 s\n", got[2] / (got[1] + got[2]));
    assert_true(got[2] / (got[1] + got[2]) < 0.6);
    assert_true(got[2] / (got[1] + got[2]) > 0.4);
    sched_tenants_free(t);
}

static void test_tenants_that_are_gone_are_forgotten_and_those_with_a_row_are_not(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    uint64_t now = S;
    size_t before;

    describe(t, (struct sched_tenant){.id = 5, .weight = 3});
    before = mem_live();
    assert_true(take(t, 999999, now, 1)); /* stays live all the time */
    for (uint32_t id = 1000; id < 51000; id++) {
        now += 10 * MS;
        serve(t, id, id % 5, now, 500);
        assert_true(sched_tenants_rows(t) <= 6000 + 3);
    }
    now += 100 * S;
    serve(t, 1, 0, now, 1);
    assert_int_equal(sched_tenants_rows(t), 3);
    sched_tenants_end(t, 999999, 0, now, 1, 0);
    now += 100 * S;
    serve(t, 5, 0, now, 1);
    assert_int_equal(sched_tenants_rows(t), 1);
    assert_true(mem_live() <= before + 1);
    /* The one that remains is alone again. */
    assert_true(sched_tenants_share(t, 5, 0, now) == 1);
    sched_tenants_free(t);
}

static void test_what_is_asked_for_counts_though_nothing_is_served(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    uint64_t now = S;

    serve(t, 1, 0, now, 100);
    serve(t, 2, 0, now, 100);
    assert_true(take(t, 1, now, 1) && take(t, 2, now, 1));
    sched_tenants_claim(t, 1, 0, now, SCHED_TENANT_ASKED, 900);
    sched_tenants_claim(t, 2, 0, now, SCHED_TENANT_ASKED, 100);
    assert_true(fabs(sched_tenants_claimed(t, 1, 0, now, SCHED_TENANT_ASKED) - 1.0 / 9) < 1e-6);
    assert_true(sched_tenants_claimed(t, 2, 0, now, SCHED_TENANT_ASKED) >= 1);
    /* Asking takes nothing from what is granted or was served, nor from other tiers. */
    assert_true(sched_tenants_claimed(t, 1, 0, now, SCHED_TENANT_GRANTED) >= 1);
    assert_true(sched_tenants_claimed(t, 1, 1, now, SCHED_TENANT_ASKED) >= 1);
    assert_true(sched_tenants_share(t, 1, 0, now) >= 1);
    /* What is taken back does not count. */
    sched_tenants_claim(t, 1, 0, now, SCHED_TENANT_GRANTED, 900);
    sched_tenants_claim(t, 2, 0, now, SCHED_TENANT_GRANTED, 100);
    assert_true(sched_tenants_claimed(t, 1, 0, now, SCHED_TENANT_GRANTED) < 0.2);
    sched_tenants_claim(t, 1, 0, now, SCHED_TENANT_GRANTED, -850);
    assert_true(sched_tenants_claimed(t, 1, 0, now, SCHED_TENANT_GRANTED) >= 1);
    /* It is forgotten as service is: others that go on asking are soon all that counts. */
    now += 50 * S;
    sched_tenants_claim(t, 2, 0, now, SCHED_TENANT_ASKED, 100);
    assert_true(sched_tenants_claimed(t, 1, 0, now, SCHED_TENANT_ASKED) >= 1);
    sched_tenants_free(t);
}

static void test_running_out_of_memory_changes_nothing(void **state)
{
    (void)state;
    struct sched_tenants *t = table();
    uint64_t wait;

    for (long k = 0; k < 2; k++) {
        mem_fail_at(k);
        enum err e = sched_tenants_take(t, 42, S, 10, &wait);
        mem_fail_at(-1);
        assert_int_equal(e, ERR_NOMEM);
        assert_int_equal(sched_tenants_rows(t), 0);
    }
    assert_true(take(t, 42, S, 10));
    sched_tenants_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_bucket_gives_its_burst_then_its_rate),
        cmocka_unit_test(test_what_was_not_used_comes_back_and_what_was_used_more_is_owed),
        cmocka_unit_test(test_no_window_holds_more_than_the_quota_and_one_burst),
        cmocka_unit_test(test_a_quota_that_comes_late_gives_nothing_back_that_it_did_not_charge),
        cmocka_unit_test(test_live_requests_are_bounded_and_a_slot_comes_back_once),
        cmocka_unit_test(test_live_counts_are_right_after_any_history),
        cmocka_unit_test(test_no_tenant_is_always_taken),
        cmocka_unit_test(test_settings_that_make_no_sense_are_refused),
        cmocka_unit_test(test_a_greedy_tenant_lowers_its_own_factor_only),
        cmocka_unit_test(test_a_tenant_alone_has_all_it_asks_for),
        cmocka_unit_test(test_tokens_follow_the_weights_when_all_ask),
        cmocka_unit_test(test_a_new_weight_counts_at_once),
        cmocka_unit_test(test_one_that_comes_back_has_no_credit_for_its_absence),
        cmocka_unit_test(test_tenants_that_are_gone_are_forgotten_and_those_with_a_row_are_not),
        cmocka_unit_test(test_what_is_asked_for_counts_though_nothing_is_served),
        cmocka_unit_test(test_running_out_of_memory_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
