/* tests/unit/decode_room_test.c - the decode role when room is short: who waits, who is parked, who is given up; and
 * the prompts that it computes itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tests/unit/roles_decode.h"

static void reservation_without_room_waits_and_is_granted_when_blocks_come_free(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 1, .n_tokens = 60, .max_new = 40});
    dt_reserve((struct dt_ask){.request = 2, .n_tokens = 60, .max_new = 40});
    dt_reserve((struct dt_ask){.request = 3, .n_tokens = 60, .max_new = 40});
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_GRANTED), 2);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(dt_report().waiting, 3);
    dt_cancel(1);
    fake_grant_arrive(fake_grant_at(0), ERR_CANCELED, NULL, 0);
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_GRANTED), 2); /* quarantined blocks are not free */
    fake_grant_safe(fake_grant_at(0));
    assert_true(fake_run_until(&dt_loop, dt_has_three_granted));
    assert_int_equal(dt_granted(2)->request, 3);
    assert_true(dt_granted(2)->ok);
    decode_cancel_all(dt_role);
    dt_end_grants();
    dt_check_at_rest(3);
}

static void most_urgent_of_the_tightest_tier_gets_the_room_first(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 1, .n_tokens = 100 - 8, .max_new = 8});
    dt_reserve((struct dt_ask){
        .request = 2, .n_tokens = 70, .max_new = 8, .tier = 2, .tbt_ms = 200, .due_ms = 50});
    dt_reserve((struct dt_ask){
        .request = 3, .n_tokens = 70, .max_new = 8, .tier = 0, .tbt_ms = 30, .due_ms = 250});
    dt_reserve((struct dt_ask){
        .request = 4, .n_tokens = 70, .max_new = 8, .tier = 0, .tbt_ms = 30, .due_ms = 100});
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_GRANTED), 1);
    dt_cancel(1);
    dt_end_grants();
    assert_true(fake_run_until(&dt_loop, dt_has_two_granted));
    assert_int_equal(dt_granted(1)->request, 4);
    dt_cancel(4);
    dt_end_grants();
    assert_true(fake_run_until(&dt_loop, dt_has_three_granted));
    assert_int_equal(dt_granted(2)->request, 3);
    decode_cancel_all(dt_role);
    dt_end_grants();
    dt_check_at_rest(4);
}

static void reservation_whose_time_passes_without_room_is_refused(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 1, .n_tokens = 90, .max_new = 10});
    dt_reserve((struct dt_ask){.request = 2, .n_tokens = 60, .max_new = 10, .deadline_ms = 80});
    assert_int_equal(fake_count(WIRE_GRANTED), 1);
    assert_true(fake_run_until(&dt_loop, dt_has_two_granted));
    assert_false(dt_granted(1)->ok);
    assert_int_equal(dt_released(0)->request, 2);
    assert_int_equal(dt_released(0)->err, ERR_LIMIT);
    dt_cancel(1);
    dt_end_grants();
    dt_check_at_rest(2);
}

static void cancel_of_one_that_waits_for_room_answers_and_releases_it(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 1, .n_tokens = 90, .max_new = 10});
    dt_reserve((struct dt_ask){.request = 2, .n_tokens = 60, .max_new = 10});
    dt_cancel(2);
    dt_cancel(2);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->request, 2);
    assert_int_equal(dt_released(0)->err, ERR_CANCELED);
    assert_false(dt_granted(1)->ok);
    /* Nothing waits any more: the next one gets the rest at once. */
    fake_run_some(&dt_loop);
    dt_reserve((struct dt_ask){.request = 3, .n_tokens = 12, .max_new = 10});
    assert_true(dt_granted(2)->ok);
    decode_cancel_all(dt_role);
    dt_end_grants();
    dt_check_at_rest(3);
}

/* ---- growth and parking: the pool holds 128 tokens ---- */

static void text_takes_one_block_more_whenever_it_needs_one(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 7, .max_new = 20};

    (void)state;
    fake_engine_hold_step(1);
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    assert_int_equal(dt_report().blocks_owned, 3); /* positions 0 .. 8 */
    fake_engine_hold_step(5);
    fake_run_some(&dt_loop);
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    assert_int_equal(dt_report().blocks_owned, 4); /* 0 .. 12 */
    fake_engine_hold_step(UINT32_MAX);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_check_stream(5, 1), 19);
    dt_check_at_rest(1);
}

static void looser_one_is_parked_for_a_tighter_one_and_goes_on_later(void **state)
{
    struct dt_ask gold = {.request = 1, .n_tokens = 60, .max_new = 40, .tbt_ms = 1, .due_ms = -1};
    struct dt_ask bronze = {
        .request = 2, .n_tokens = 60, .max_new = 40, .tier = 2, .tbt_ms = 200, .due_ms = 10000};
    Baton__Report m;

    (void)state;
    dt_reserve(bronze);
    dt_reserve(gold);
    dt_arrive(0, bronze);
    dt_arrive(1, gold);
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    assert_int_equal(dt_released(0)->request, 1); /* gold was not held back */
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(dt_released(i)->err, ERR_OK);
        assert_int_equal(dt_check_stream(i + 1, 1), 39);
    }
    m = dt_report();
    assert_true(m.parks >= 1);
    assert_int_equal(m.parks, m.resumes);
    assert_int_equal(m.gave_up, 0);
    dt_check_at_rest(2);
}

/* Leaves request 2 parked: 3 holds the room it had, and its hand-over does not come. */
static void park_one(void)
{
    struct dt_ask bronze = {
        .request = 2, .n_tokens = 60, .max_new = 40, .tier = 2, .tbt_ms = 200, .due_ms = 10000};

    dt_reserve(
        (struct dt_ask){.request = 1, .n_tokens = 60, .max_new = 40, .tbt_ms = 30, .due_ms = 50});
    fake_engine_hold_step(0);
    dt_reserve(bronze);
    dt_arrive(1, bronze);
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    dt_reserve(
        (struct dt_ask){.request = 3, .n_tokens = 60, .max_new = 40, .tbt_ms = 30, .due_ms = 50});
    fake_engine_hold_step(UINT32_MAX);
    assert_true(fake_run_until(&dt_loop, dt_has_three_granted));
    assert_true(fake_run_until(&dt_loop, dt_one_is_parked));
    assert_true(dt_report().blocks_parked >= 15);
}

static void parked_one_can_be_canceled(void **state)
{
    (void)state;
    park_one();
    dt_cancel(2);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->request, 2);
    assert_int_equal(dt_report().blocks_parked, 0);
    decode_cancel_all(dt_role);
    dt_end_grants();
    dt_check_at_rest(3);
}

static void role_can_go_while_one_is_parked(void **state)
{
    (void)state;
    park_one();
    /* dt_teardown destroys the dt_role, then ends the grants, and counts what stays allocated */
}

static void parked_one_comes_back_when_there_is_room(void **state)
{
    (void)state;
    park_one();
    dt_cancel(3);
    dt_end_grants(); /* of 1 too: that one is lost */
    assert_true(fake_run_until(&dt_loop, dt_has_three_released));
    assert_int_equal(dt_check_stream(2, 1), 39);
    assert_int_equal(dt_report().resumes, 1);
    dt_check_at_rest(3);
}

static void two_that_cannot_grow(struct dt_ask *tight, struct dt_ask *loose)
{
    *tight =
        (struct dt_ask){.request = 1, .n_tokens = 60, .max_new = 40, .tbt_ms = 30, .due_ms = 50};
    *loose = *tight;
    loose->request = 2;
    loose->tier = 2;
    dt_reserve(*loose);
    dt_reserve(*tight);
    dt_arrive(0, *loose);
    dt_arrive(1, *tight);
}

static void loosest_one_is_given_up_when_nobody_can_grow_or_be_parked(void **state)
{
    struct dt_ask tight, loose;

    (void)state;
    two_that_cannot_grow(&tight, &loose);
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    assert_int_equal(dt_released(0)->request, 2);
    assert_int_equal(dt_released(0)->err, ERR_LIMIT); /* to be tried elsewhere */
    assert_int_equal(dt_released(1)->err, ERR_OK);
    assert_int_equal(dt_check_stream(1, 1), 39);
    assert_int_equal(dt_report().gave_up, 1);
    dt_check_at_rest(2);
}

static void engine_that_cannot_copy_blocks_parks_nobody(void **state)
{
    struct dt_ask tight, loose;

    (void)state;
    fake_engine_fail_copy(ERR_UNSUPPORTED);
    two_that_cannot_grow(&tight, &loose);
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    assert_int_equal(dt_released(0)->err, ERR_LIMIT);
    assert_int_equal(dt_released(1)->err, ERR_OK);
    assert_int_equal(dt_report().parks, 0);
    dt_check_at_rest(2);
}

static void block_that_does_not_come_back_ends_its_request_alone(void **state)
{
    (void)state;
    park_one();
    fake_engine_fail_copy(ERR_DEVICE);
    dt_cancel(3);
    dt_end_grants();
    assert_true(fake_run_until(&dt_loop, dt_has_three_released));
    assert_int_equal(dt_report().resumes, 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(dt_released(i)->err,
                         dt_released(i)->request == 2 ? ERR_DEVICE : ERR_CANCELED);
    dt_check_at_rest(3);
}

/* ---- prompts computed here ---- */

static const Baton__PrefillDone *prompt_done(uint32_t i)
{
    return fake_nth(WIRE_PREFILL_DONE, i);
}

static void prompt_of_its_own_is_computed_then_decoded(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 80, .max_new = 6};
    const Baton__PrefillProgress *p;

    (void)state;
    dt_prefill(a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_check_stream(5, 0), 6);
    assert_int_equal(fake_engine_step_at(0).slots[0].n_tokens, 64); /* all that a step takes */
    assert_false(fake_engine_step_at(0).slots[0].sample);
    assert_int_equal(fake_engine_step_at(1).slots[0].position, 64);
    assert_true(fake_engine_step_at(1).slots[0].sample);
    assert_int_equal(prompt_done(0)->request, 5);
    assert_false(prompt_done(0)->finished);
    assert_true(prompt_done(0)->prefill_ns > 0);
    p = fake_nth(WIRE_PREFILL_PROGRESS, fake_count(WIRE_PREFILL_PROGRESS) - 1);
    assert_int_equal(p->tokens_done, 80);
    assert_true(fake_where(WIRE_TOKENS, 0) < fake_where(WIRE_PREFILL_DONE, 0));
    assert_int_equal(dt_released(0)->err, ERR_OK);
    assert_int_equal(dt_released(0)->tokens, 6);
    assert_int_equal(dt_report().local_prefills, 1);
    dt_check_at_rest(1);
}

static void resumed_prompt_of_its_own_goes_on_with_the_next_index(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 13, .n_prompt = 10, .max_new = 6};

    (void)state;
    dt_prefill(a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_check_stream(5, 3), 3);
    dt_check_at_rest(1);
}

static void first_token_of_its_own_prompt_may_be_the_last(void **state)
{
    (void)state;
    dt_prefill((struct dt_ask){.request = 5, .n_tokens = 13, .max_new = 1});
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_true(prompt_done(0)->finished);
    assert_int_equal(dt_check_stream(5, 0), 1);
    dt_check_at_rest(1);
}

static void penalty_of_its_own_prompt_sees_generated_tokens_alone(void **state)
{
    /* 3 and 4 came before; 5 and 6 are of the prompt */
    static const uint32_t want[] = {0, 1, 2, 5};

    (void)state;
    dt_prefill(
        (struct dt_ask){.request = 5, .n_tokens = 4, .n_prompt = 2, .max_new = 6, .penalty = 1});
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(fake_count(WIRE_TOKENS), 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, i))->token[0], want[i]);
    dt_check_at_rest(1);
}

/* A prompt is cut small beside a batch, so that nobody's next token gets late; the batch steps on. */
static void prompt_is_computed_in_pieces_beside_the_batch(void **state)
{
    struct dt_ask a = {.request = 4, .n_tokens = 10, .max_new = 80};
    uint32_t beside = 0, largest = 0;

    (void)state;
    fake_engine_hold(true);
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    dt_prefill((struct dt_ask){.request = 5, .n_tokens = 20, .max_new = 4});
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    for (uint32_t i = 0; i < fake_engine_steps(); i++) {
        struct fake_step s = fake_engine_step_at(i);

        for (uint32_t k = 0; s.n == 2 && k < 2; k++) {
            if (s.slots[k].n_tokens > largest)
                largest = s.slots[k].n_tokens;
        }
        beside += s.n == 2;
    }
    assert_true(beside >= 3);
    assert_in_range(largest, 2, 20);
    assert_int_equal(dt_check_stream(4, 1), 79);
    assert_int_equal(dt_check_stream(5, 0), 4);
    dt_check_at_rest(2);
}

static void prompt_without_room_waits_and_can_be_canceled_in_every_state(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 1, .n_tokens = 90, .max_new = 10});
    dt_prefill((struct dt_ask){.request = 2, .n_tokens = 60, .max_new = 10});
    dt_prefill((struct dt_ask){.request = 3, .n_tokens = 60, .max_new = 10});
    fake_run_some(&dt_loop);
    assert_int_equal(fake_engine_steps(), 0);
    dt_cancel(2); /* WAITING */
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    fake_engine_hold(true);
    dt_cancel(1);
    dt_end_grants();
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    dt_cancel(3); /* COMPUTING */
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 2);
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, dt_has_three_released));
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(dt_released(i)->err, ERR_CANCELED);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    dt_check_at_rest(3);
}

static void prompt_that_the_engine_refuses_ends_alone(void **state)
{
    (void)state;
    fake_engine_fail(ERR_OK, ERR_INVALID);
    dt_prefill((struct dt_ask){.request = 5, .n_tokens = 20, .max_new = 4});
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->err, ERR_INVALID);
    assert_int_equal(fake_count(WIRE_PREFILL_DONE), 0);
    dt_check_at_rest(1);
}

static void report_holds_samples_of_the_steps_since_the_last_one(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 80};
    Baton__Report m;

    (void)state;
    dt_prefill(a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    m = dt_report();
    assert_int_equal(m.steps, 80);
    assert_int_equal(m.decode_steps, 79); /* the first computed the prompt */
    assert_in_range(m.n_sample, 9, 16);
    assert_int_equal(m.sample[0]->n, 10);
    assert_int_equal(m.sample[0]->n2, 100);
    for (size_t i = 1; i < m.n_sample; i++) {
        assert_int_equal(m.sample[i]->b, 1);
        assert_true(m.sample[i]->ctx > m.sample[i - 1]->ctx);
        assert_true(m.sample[i]->ns > 0);
    }
    assert_true(m.sample[m.n_sample - 1]->ctx > 70); /* of the whole time */
    assert_int_equal(dt_report().n_sample, 0);
    dt_check_at_rest(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loosest_one_is_given_up_when_nobody_can_grow_or_be_parked,
                                        dt_setup_no_park, dt_teardown),
        DT_TEST(reservation_without_room_waits_and_is_granted_when_blocks_come_free),
        DT_TEST(most_urgent_of_the_tightest_tier_gets_the_room_first),
        DT_TEST(reservation_whose_time_passes_without_room_is_refused),
        DT_TEST(cancel_of_one_that_waits_for_room_answers_and_releases_it),
        DT_TEST(text_takes_one_block_more_whenever_it_needs_one),
        DT_TEST(looser_one_is_parked_for_a_tighter_one_and_goes_on_later),
        DT_TEST(parked_one_can_be_canceled),
        DT_TEST(role_can_go_while_one_is_parked),
        DT_TEST(parked_one_comes_back_when_there_is_room),
        DT_TEST(engine_that_cannot_copy_blocks_parks_nobody),
        DT_TEST(block_that_does_not_come_back_ends_its_request_alone),
        DT_TEST(prompt_of_its_own_is_computed_then_decoded),
        DT_TEST(resumed_prompt_of_its_own_goes_on_with_the_next_index),
        DT_TEST(first_token_of_its_own_prompt_may_be_the_last),
        DT_TEST(penalty_of_its_own_prompt_sees_generated_tokens_alone),
        DT_TEST(prompt_is_computed_in_pieces_beside_the_batch),
        DT_TEST(prompt_without_room_waits_and_can_be_canceled_in_every_state),
        DT_TEST(prompt_that_the_engine_refuses_ends_alone),
        DT_TEST(report_holds_samples_of_the_steps_since_the_last_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
