/* tests/unit/sched_price_test.c - what a kept promise is worth to the policy "baton". */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/sched_baton_parts.h"

enum { GOLD = 0, BRONZE = 2 };
static const double WEIGHT[3] = {4, 2, 1};

struct world {
    struct sched *s;
    struct sched_baton b;
    struct sched_request *small, *large;
};

/* Nine prompts of 100 tokens for one of 5,000. */
static int setup(void **state)
{
    struct world *w = mem_try_calloc(1, sizeof(*w));

    assert_non_null(w);
    w->s = mem_try_calloc(1, sizeof(*w->s));
    w->small = mem_try_calloc(1, sizeof(*w->small));
    w->large = mem_try_calloc(1, sizeof(*w->large));
    assert_true(w->s != NULL && w->small != NULL && w->large != NULL);
    w->s->policy_state = &w->b;
    w->s->now = SCHED_SECOND;
    w->s->cfg.n_tiers = 3;
    for (int t = 0; t < 3; t++)
        w->s->cfg.tiers[t].weight = WEIGHT[t];
    baton_price_init(&w->b);
    w->small->n_prompt = 100;
    w->large->n_prompt = 5000;
    for (int i = 0; i < 1000; i++)
        baton_price_arrive(w->s, i % 10 == 0 ? w->large : w->small, 1e6, 1e6);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;

    mem_free(w->small);
    mem_free(w->large);
    mem_free(w->s);
    mem_free(w);
    return 0;
}

/* So many of each hundred of either size are kept, for so long. */
static void outcomes(struct world *w, int small, int large, int seconds)
{
    for (int t = 0; t < seconds; t++) {
        w->s->now += SCHED_SECOND;
        for (int i = 0; i < 100; i++) {
            baton_floor(w->s, w->small, i < small);
            baton_floor(w->s, w->large, i < large);
        }
    }
}

static void test_sizes_are_worth_the_same_while_none_lags(void **state)
{
    struct world *w = *state;

    outcomes(w, 80, 80, 100);
    assert_true(baton_value(w->s, w->large, 4, 2) == 16);
    assert_true(baton_value(w->s, w->small, 4, 2) == 16);
    outcomes(w, 50, 90, 100);
    assert_true(baton_value(w->s, w->large, 4, 2) == 16);
}

static void test_large_prompts_that_lag_are_worth_more_in_loose_tiers_above_all(void **state)
{
    struct world *w = *state;
    double gold, bronze;

    outcomes(w, 95, 65, 100);
    gold = baton_value(w->s, w->large, WEIGHT[GOLD], 2) / (WEIGHT[GOLD] * WEIGHT[GOLD]);
    bronze = baton_value(w->s, w->large, WEIGHT[BRONZE], 2);
    assert_true(bronze > 1.4);
    assert_true(gold > 1 && gold < 1.05);
    assert_true(baton_value(w->s, w->small, WEIGHT[BRONZE], 2) == 1);
    /* However much they lag, they stay below the next tier. */
    outcomes(w, 100, 0, 1000);
    assert_true(baton_value(w->s, w->large, WEIGHT[BRONZE], 2) < 4);
}

static void test_a_lag_that_is_over_is_forgotten(void **state)
{
    struct world *w = *state;

    outcomes(w, 95, 65, 100);
    outcomes(w, 90, 95, 1000);
    assert_true(baton_value(w->s, w->large, WEIGHT[BRONZE], 2) == 1);
}

/* Work arrives at `load` of what one worker of each side can do, for ten minutes; then a bronze request asks that
 * needs ten times the mean, with both pools as full as can be. */
static bool worth_it(struct world *w, double prefill_load, double decode_load)
{
    struct baton_bill full = {
        .prefill = 1e8 * prefill_load, .decode = 1e8 * decode_load, .backlog = 1, .room = 1.3};

    w->s->pool[SCHED_ROLE_PREFILL].n = w->s->pool[SCHED_ROLE_DECODE].n = 1;
    w->small->tier = BRONZE;
    for (int i = 0; i < 60000; i++) {
        w->s->now += SCHED_SECOND / 100;
        baton_price_arrive(w->s, w->small, 1e7 * prefill_load, 1e7 * decode_load);
        baton_price_look(w->s, &full);
        baton_price_hurt(w->s, w->small, true);
    }
    return baton_price_over(w->s, w->small, WEIGHT[BRONZE], &full) <= 0;
}

static void test_a_pool_has_no_price_while_less_arrives_than_it_can_do(void **state)
{
    assert_true(worth_it(*state, 0.8, 0.8));
}

static void test_either_pool_has_a_price_when_too_much_arrives_for_it(void **state)
{
    assert_false(worth_it(*state, 1.3, 0.5));
    assert_false(worth_it(*state, 0.5, 1.3));
}

static void test_of_a_price_twice_as_high_half_as_much_is_not_too_much(void **state)
{
    struct world *w = *state;
    struct baton_bill bill = {.prefill = 1.3e8, .decode = 5e7, .backlog = 1, .room = 1.3};
    double over, twice;

    assert_false(worth_it(w, 1.3, 0.5));
    over = baton_price_over(w->s, w->small, WEIGHT[BRONZE], &bill);
    bill.prefill *= 2;
    bill.decode *= 2;
    twice = baton_price_over(w->s, w->small, WEIGHT[BRONZE], &bill);
    assert_true(over > 0 && over < 1);
    assert_true(fabs((1 - twice) - (1 - over) / 2) < 1e-9);
}

/* Half full queues, ten minutes of arrivals of one tier and of another one that is turned away; is gold then worth two and
 * a half times the mean work? */
static bool gold_is_worth_it(struct world *w, uint8_t arrives, uint8_t turned_away)
{
    struct baton_bill half = {.prefill = 2.5e7, .decode = 0, .backlog = 0.6, .room = 0.5};

    w->s->pool[SCHED_ROLE_PREFILL].n = w->s->pool[SCHED_ROLE_DECODE].n = 1;
    for (int i = 0; i < 60000; i++) {
        w->s->now += SCHED_SECOND / 130;
        w->small->tier = arrives;
        baton_price_arrive(w->s, w->small, 1e7, 1e6);
        baton_price_look(w->s, &half);
        w->small->tier = turned_away;
        baton_price_hurt(w->s, w->small, true);
    }
    w->small->tier = GOLD;
    return baton_price_over(w->s, w->small, WEIGHT[GOLD], &half) <= 0;
}

static void test_where_all_are_worth_the_same_dear_ones_give_way_to_cheap_ones(void **state)
{
    assert_false(gold_is_worth_it(*state, GOLD, GOLD));
}

static void test_not_so_where_those_turned_away_are_worth_less(void **state)
{
    assert_true(gold_is_worth_it(*state, GOLD, BRONZE));
}

/* Predicted waits of 0 cannot be stretched by a margin: room left free can. */
static void test_broken_promises_leave_room_free_and_kept_ones_give_it_back(void **state)
{
    struct world *w = *state;

    for (int i = 0; i < 50; i++)
        baton_margin_decode(w->s, GOLD, true);
    assert_true(w->b.tier[GOLD].spare > 0.02 && w->b.tier[GOLD].spare < 0.1);
    assert_true(w->b.tier[BRONZE].spare <= 0);
    for (int i = 0; i < 5000; i++)
        baton_margin_decode(w->s, GOLD, true);
    assert_true(w->b.tier[GOLD].spare < 0.5);
    for (int i = 0; i < 50000; i++)
        baton_margin_decode(w->s, GOLD, false);
    assert_true(w->b.tier[GOLD].spare <= 0);
}

/* Waves that fill the KV room for a moment, while prompts are what is short: they cost nothing. */
static void test_one_pool_in_need_puts_no_price_on_the_other(void **state)
{
    struct world *w = *state;
    struct baton_bill bill = {.prefill = 0, .decode = 5e7, .backlog = 1, .room = 1.3};

    assert_false(worth_it(w, 1.3, 0.5));
    assert_true(baton_price_over(w->s, w->small, WEIGHT[BRONZE], &bill) <= 0);
}

static void test_where_all_prompts_are_long_the_longest_tenth_counts_as_large(void **state)
{
    struct world *w = *state;

    w->small->n_prompt = 70000;
    w->large->n_prompt = 300000;
    for (int i = 0; i < 20000; i++)
        baton_price_arrive(w->s, i % 10 == 0 ? w->large : w->small, 1e6, 1e6);
    assert_true(w->large->baton.large);
    assert_false(w->small->baton.large);
}

/* A step whose time nobody knows yet is no reason to divide by it. */
static void test_inflow_is_a_number_before_any_step_time_is_known(void **state)
{
    struct world *w = *state;
    double kv, stay;

    w->small->tier = GOLD;
    w->small->baton.out = 100;
    w->small->forecast.step = 0;
    baton_price_bound(w->s, w->small, false);
    baton_inflow(w->s, BRONZE, &kv, &stay);
    assert_true(stay > 0);
    assert_true(kv / stay >= 0);
}

/* Ten streams of 100 tokens after 900, in a fifth of what the window remembers: each has 95,000 tokens of KV in its steps.
 * What they will hold, and one standard deviation of ten, and of as many as are there at a time. */
static void test_steps_keep_room_for_what_tighter_tiers_will_bring_and_for_its_chance(void **state)
{
    struct world *w = *state;
    double kv, twice, stay, there, mean = 10 * 95000.0 * 30e6 / 1e9;

    w->s->pool[SCHED_ROLE_DECODE].n = 1;
    w->s->cfg.tiers[GOLD].tbt_ns = 30 * SCHED_MS;
    w->small->tier = GOLD;
    w->small->n_prompt = 900;
    w->small->baton.out = 100;
    for (int i = 0; i < SCHED_LENGTH_POINTS; i++)
        w->small->cast.q[i] = 100;
    for (int i = 0; i < 10; i++)
        baton_price_bound(w->s, w->small, false);
    baton_inflow_in_time(w->s, BRONZE, 30e6, &kv, &stay);
    assert_true(fabs(stay - 3e9) < 1e6);
    there = 10 * stay / 5e9;
    assert_true(fabs(kv / (mean * (1 + baton_c.inflow_swing * sqrt(2 / 10.0 + 2 / there))) - 1) <
                1e-3);
    baton_inflow_in_time(w->s, BRONZE, 60e6, &twice, &stay);
    assert_true(fabs(twice / kv - 2) < 1e-6);
    baton_inflow_in_time(w->s, GOLD, 30e6, &kv, &stay);
    assert_true(kv == 0); /* none is tighter */
    for (int i = 0; i < 10; i++)
        baton_price_bound(w->s, w->small, true);
    baton_inflow_in_time(w->s, BRONZE, 30e6, &kv, &stay);
    assert_true(kv == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sizes_are_worth_the_same_while_none_lags, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_large_prompts_that_lag_are_worth_more_in_loose_tiers_above_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_pool_has_no_price_while_less_arrives_than_it_can_do,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_either_pool_has_a_price_when_too_much_arrives_for_it,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_of_a_price_twice_as_high_half_as_much_is_not_too_much,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_where_all_are_worth_the_same_dear_ones_give_way_to_cheap_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_so_where_those_turned_away_are_worth_less, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_broken_promises_leave_room_free_and_kept_ones_give_it_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_pool_in_need_puts_no_price_on_the_other, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_lag_that_is_over_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_where_all_prompts_are_long_the_longest_tenth_counts_as_large, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_steps_keep_room_for_what_tighter_tiers_will_bring_and_for_its_chance, setup,
            teardown),
        cmocka_unit_test_setup_teardown(test_inflow_is_a_number_before_any_step_time_is_known,
                                        setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
