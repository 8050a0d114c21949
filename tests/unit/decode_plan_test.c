/* tests/unit/decode_plan_test.c - what the next step of a decode worker holds: the pace of young streams, the slot
 * of a prompt, and prompts beside streams that are late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "decode/decode_plan.h"
#include "tests/unit/roles_fake.h"

enum { RUNS = 8, TBT_MS = 10 };

static struct decode_pool *pool;
static struct decode_plan plan;
static struct decode_run runs[RUNS + 1];
static uint64_t now;
static uint32_t headroom;

/* Steps take 1 ms, and 1 ms more for each sequence; prompts 0.2 ms for each token. */
static int setup(void **state)
{
    (void)state;
    fake_engine_reset(64, 64);
    plan = (struct decode_plan){.block_tokens = FAKE_BLOCK_TOKENS,
                                .step_max = RUNS,
                                .step_tokens = 64,
                                .fit.decode.c = {1e6, 1e6},
                                .fit.prefill.c = {1e6, 2e5}};
    for (uint32_t i = 0; i <= RUNS; i++)
        runs[i] = (struct decode_run){.n_blocks = 2};
    return decode_pool_create(fake_engine(), FAKE_BLOCKS, 0, &pool) == ERR_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    decode_plan_free(&plan);
    decode_pool_destroy(pool);
    return mem_live() == 0 ? 0 : -1;
}

/* It had its first token `age_ms` ago and none since; slack_ms: of its next token. */
static void stream(uint32_t i, int64_t age_ms, int64_t slack_ms)
{
    struct decode_run *r = &runs[i];

    r->entered_as = DECODE_RUN_RESIDENT;
    r->n_tokens = r->n_prompt = 4;
    r->position = 4;
    r->has_terms = true;
    r->tbt_ns = TBT_MS * CLOCK_NS_PER_MS;
    r->due_ns = (int64_t)now + (slack_ms - TBT_MS) * (int64_t)CLOCK_NS_PER_MS;
    r->first_ns = now - (uint64_t)(age_ms * (int64_t)CLOCK_NS_PER_MS);
    assert_int_equal(decode_plan_add(&plan, r), ERR_OK);
}

/* It is far ahead of its line: nobody hurries for it. */
static void old_stream(uint32_t i)
{
    stream(i, -1000, 1000);
    runs[i].position = 7;
}

static void prompt(uint32_t i, uint32_t n_tokens)
{
    struct decode_run *r = &runs[i];

    r->entered_as = DECODE_RUN_PROMPT;
    r->local = true;
    r->n_tokens = r->n_prompt = n_tokens;
    assert_int_equal(decode_plan_add(&plan, r), ERR_OK);
}

static uint32_t steps(void)
{
    uint32_t n = 0;

    decode_plan_decide(&plan, pool, now, &headroom);
    for (uint32_t i = 0; i < plan.n; i++)
        n += plan.runs[i]->what == SCHED_DO_STEP;
    return n;
}

/* A step with all seven is within the target of each, but one that is 6 ms old and may have only one more token
 * would end above its mean. */
static void young_stream_gets_shorter_steps_once_short_answers_are_usual(void **state)
{
    (void)state;
    now = clock_now_ns();
    for (uint32_t i = 1; i < RUNS - 1; i++)
        old_stream(i);
    stream(0, 6, 1000);
    assert_int_equal(steps(), RUNS - 1); /* nothing is known of lengths */
    for (int i = 0; i < 64; i++)
        decode_plan_note_length(&plan, 3);
    assert_in_range(steps(), 1, 6); /* 1 + 6 ms, of the 7 ms that it has for each of two */
    assert_int_equal(runs[0].what, SCHED_DO_STEP);
}

static void stream_within_its_mean_hurries_nobody(void **state)
{
    (void)state;
    now = clock_now_ns();
    for (uint32_t i = 1; i < RUNS; i++)
        old_stream(i);
    stream(0, 0, 1000);
    for (int i = 0; i < 64; i++)
        decode_plan_note_length(&plan, 3);
    assert_int_equal(steps(), RUNS);
}

static void full_batch_leaves_a_slot_to_a_prompt(void **state)
{
    (void)state;
    now = clock_now_ns();
    for (uint32_t i = 0; i < RUNS; i++)
        old_stream(i);
    assert_int_equal(steps(), RUNS);
    prompt(RUNS, 8);
    assert_int_equal(steps(), RUNS - 1);
    assert_int_equal(runs[RUNS].what, SCHED_DO_NOTHING); /* a prompt is cut by decode_plan_prompt */
}

/* Nothing mends a stream that is late; a prompt beside it may take half of its time between tokens, not all. */
static void prompt_goes_on_beside_a_stream_that_is_late(void **state)
{
    struct sched_step beside = {.b = 1, .ctx = 4};
    uint32_t chunk = 0;

    (void)state;
    now = clock_now_ns();
    stream(0, 5000, -5000);
    prompt(1, 64);
    now = clock_now_ns();
    assert_ptr_equal(decode_plan_prompt(&plan, &beside, now, &chunk), &runs[1]);
    assert_in_range(chunk, 2 * FAKE_BLOCK_TOKENS, 15); /* 2 ms for the step, 3 ms for 15 tokens */
}

/* A prompt gets its blocks while a step is planned: later than that plan began. */
static void prompt_that_only_just_came_waits_for_its_turn(void **state)
{
    struct sched_step beside = {.b = 1, .ctx = 4};
    uint32_t chunk = 1;

    (void)state;
    now = clock_now_ns() - CLOCK_NS_PER_MS;
    stream(0, 0, 2); /* no longer than its own step takes */
    prompt(1, 64);
    assert_ptr_equal(decode_plan_prompt(&plan, &beside, now, &chunk), &runs[1]);
    assert_int_equal(chunk, 0);
    now += 10 * CLOCK_NS_PER_S;
    stream(2, 0, 2);
    assert_ptr_equal(decode_plan_prompt(&plan, &beside, now, &chunk), &runs[1]);
    assert_true(chunk > 0);
}

/* The prompt's blocks are what the stream waits for: if both waited, the stream would be given up. */
static void prompt_goes_on_at_once_where_no_stream_can_step(void **state)
{
    struct sched_step nobody = {.b = 0};
    uint32_t chunk = 0;

    (void)state;
    now = clock_now_ns() - CLOCK_NS_PER_MS;
    stream(0, 0, 1);
    prompt(1, 64);
    assert_ptr_equal(decode_plan_prompt(&plan, &nobody, now, &chunk), &runs[1]);
    assert_true(chunk > 0);
}

/* Short steps are promised to those that come, but none can come before the prompt's blocks are free. */
static void prompt_goes_on_at_once_where_hand_overs_wait_for_its_blocks(void **state)
{
    struct sched_step nobody = {.b = 0};
    uint32_t chunk = 0;

    (void)state;
    now = clock_now_ns() - CLOCK_NS_PER_MS;
    for (int i = 0; i < 64; i++)
        decode_plan_note_length(&plan, 3);
    plan.fit.decode.c[0] = plan.fit.prefill.c[0] = TBT_MS * 1e6; /* no step is short enough */
    prompt(1, 64);
    stream(0, 0, 1000);
    decode_plan_set_state(&plan, &runs[0], DECODE_RUN_WAITING);
    assert_ptr_equal(decode_plan_prompt(&plan, &nobody, now, &chunk), &runs[1]);
    assert_true(chunk > 0);
    decode_plan_set_state(&plan, &runs[0], DECODE_RUN_ARRIVING);
    assert_ptr_equal(decode_plan_prompt(&plan, &nobody, now, &chunk), &runs[1]);
    assert_int_equal(chunk, 0);
}

#define PLAN_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLAN_TEST(young_stream_gets_shorter_steps_once_short_answers_are_usual),
        PLAN_TEST(stream_within_its_mean_hurries_nobody),
        PLAN_TEST(full_batch_leaves_a_slot_to_a_prompt),
        PLAN_TEST(prompt_goes_on_beside_a_stream_that_is_late),
        PLAN_TEST(prompt_that_only_just_came_waits_for_its_turn),
        PLAN_TEST(prompt_goes_on_at_once_where_no_stream_can_step),
        PLAN_TEST(prompt_goes_on_at_once_where_hand_overs_wait_for_its_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
