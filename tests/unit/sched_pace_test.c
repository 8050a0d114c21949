/* tests/unit/sched_pace_test.c - how short steps a young stream asks for, and what the plan of a step does about it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/sched_batch.h"
#include "scheduler/sched_pace.h"

#define MS UINT64_C(1000000)

static const uint64_t FIRST = 5000 * MS, TBT = 30 * MS;

/* Of `of` answers one has `tokens`, the others 200. */
static struct sched_pace lengths(uint32_t n, uint32_t of, uint32_t tokens)
{
    struct sched_pace p = {0};

    for (uint32_t i = 0; i < n; i++)
        sched_pace_ended(&p, i % of == 0 ? tokens : 200);
    return p;
}

static void test_nobody_is_hurried_before_lengths_are_known(void **state)
{
    struct sched_pace p = {0};

    (void)state;
    assert_true(sched_pace_of(&p, FIRST, 1, TBT, FIRST + 50 * MS) <= 0);
}

static void test_a_stream_that_may_end_at_three_tokens_is_within_its_mean_by_then(void **state)
{
    struct sched_pace p = lengths(800, 20, 3);
    uint64_t now = FIRST + 25 * MS; /* the hand-over and the rest of a step */
    double pace = sched_pace_of(&p, FIRST, 1, TBT, now), end;

    (void)state;
    assert_true(pace > 0);
    end = (double)now + 2 * pace; /* two tokens follow the first */
    assert_true(end <= (double)(FIRST + 2 * TBT));
    assert_true(end >= (double)(FIRST + 2 * TBT) - 0.05 * 2 * (double)TBT);
}

static void test_a_stream_with_many_tokens_to_come_is_hurried_less(void **state)
{
    struct sched_pace soon = lengths(800, 20, 3), later = lengths(800, 20, 20);
    struct sched_pace rare = lengths(800, 400, 3);
    uint64_t now = FIRST + 25 * MS;
    double at_three = sched_pace_of(&soon, FIRST, 1, TBT, now);
    double at_twenty = sched_pace_of(&later, FIRST, 1, TBT, now);

    (void)state;
    assert_true(at_twenty > at_three);
    /* One short answer in four hundred is too rare to hurry all for it. */
    assert_true(sched_pace_of(&rare, FIRST, 1, TBT, now) > at_twenty);
    /* Once it has outlived the short ones, they do not count. */
    assert_true(sched_pace_of(&soon, FIRST, 3, TBT, now + 60 * MS) >
                sched_pace_of(&soon, FIRST, 2, TBT, now + 30 * MS));
}

static void test_nobody_within_its_mean_or_beyond_help_is_hurried(void **state)
{
    struct sched_pace p = lengths(800, 20, 3);

    (void)state;
    assert_true(sched_pace_of(&p, FIRST, 1, TBT, FIRST) <= 0);
    assert_true(sched_pace_of(&p, FIRST, 30, TBT, FIRST + 20 * TBT) <= 0);
    /* Two seconds behind: 64 short steps would not be enough. */
    assert_true(sched_pace_of(&p, FIRST, 1, TBT, FIRST + 2000 * MS) <= 0);
    /* A little too late for three tokens: as short as steps get, for those answers that go on. */
    assert_true(sched_pace_of(&p, FIRST, 2, TBT, FIRST + 55 * MS) == sched_pace_least(TBT));
    assert_true(sched_pace_of(&p, FIRST, SCHED_PACE_YOUNG, TBT, FIRST + 80 * TBT) <= 0);
}

static void test_lengths_of_long_ago_are_forgotten(void **state)
{
    struct sched_pace p = lengths(4000, 20, 3);
    uint64_t now = FIRST + 25 * MS;
    double before = sched_pace_of(&p, FIRST, 1, TBT, now);

    (void)state;
    for (int i = 0; i < 8000; i++)
        sched_pace_ended(&p, 200);
    assert_true(sched_pace_of(&p, FIRST, 1, TBT, now) > before);
}

static void test_a_step_is_as_short_as_the_one_that_hurries_needs(void **state)
{
    static const struct sched_law law = {.c = {7.141e6, 8880, 43.198, 4780}, .knee = 128};
    struct sched_batch_pool pool = {.free_blocks = 1000, .max_batch = 256, .decode = &law};
    struct sched_batch_item v[41];
    uint32_t scratch[41];
    double b = 0, ctx = 0;

    (void)state;
    for (uint32_t i = 0; i < 41; i++)
        v[i] = (struct sched_batch_item){.state = SCHED_BATCH_RESIDENT,
                                         .tier = i == 40 ? 0 : 1,
                                         .context = 10000,
                                         .blocks = 625,
                                         .slack_ns = 900 * (int64_t)MS,
                                         .tbt_ns = i == 40 ? TBT : 100 * MS,
                                         .id = i + 1};
    v[40].pace_ns = 15.0 * (double)MS;
    sched_batch_plan(v, 41, &pool, scratch);
    assert_int_equal(v[40].what, SCHED_DO_STEP);
    for (int i = 0; i < 41; i++) {
        b += v[i].what == SCHED_DO_STEP;
        ctx += v[i].what == SCHED_DO_STEP ? 10000 : 0;
    }
    assert_true(sched_law_decode(&law, b, ctx) <= 15.0 * (double)MS);
    assert_true(sched_law_decode(&law, b + 1, ctx + 10000) > 15.0 * (double)MS);
}

/* Two tokens within 60 ms: the hand-over, the rest of a prompt's piece, and a step. */
static void test_a_step_leaves_time_for_who_comes_and_ends_soon(void **state)
{
    struct sched_pace none = {0}, soon = lengths(800, 20, 2), later = lengths(800, 20, 40);
    double step = 8 * (double)MS;
    int64_t before = sched_pace_before(&soon, TBT, step);

    (void)state;
    assert_true(before > 0);
    assert_true(2 * (double)before + step <= (double)TBT);
    assert_true(sched_pace_before(&soon, 4 * TBT, step) > 4 * before);
    assert_true(sched_pace_before(&later, TBT, step) > 30 * before);
    /* Steps that are too long already are no reason to stop all prompts. */
    assert_true(sched_pace_before(&soon, TBT, 40 * (double)MS) > 0);
    assert_true(sched_pace_before(&none, TBT, step) == INT64_MAX);
    assert_true(sched_pace_before(&soon, 0, step) == INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_is_hurried_before_lengths_are_known),
        cmocka_unit_test(test_a_stream_that_may_end_at_three_tokens_is_within_its_mean_by_then),
        cmocka_unit_test(test_a_stream_with_many_tokens_to_come_is_hurried_less),
        cmocka_unit_test(test_nobody_within_its_mean_or_beyond_help_is_hurried),
        cmocka_unit_test(test_a_step_leaves_time_for_who_comes_and_ends_soon),
        cmocka_unit_test(test_lengths_of_long_ago_are_forgotten),
        cmocka_unit_test(test_a_step_is_as_short_as_the_one_that_hurries_needs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
