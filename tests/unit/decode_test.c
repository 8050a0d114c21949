/* tests/unit/decode_test.c - the decode role over a fake engine and a fake KV node: reservations, hand-overs,
 * streams, ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tests/unit/roles_decode.h"

static void reservation_takes_the_blocks_of_the_prompt_and_no_more(void **state)
{
    Baton__Report m;

    (void)state;
    dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 20});
    assert_true(dt_granted(0)->ok);
    assert_int_not_equal(dt_granted(0)->transfer, 0);
    assert_int_equal(dt_granted(0)->blocks.len, 3 * 4);
    assert_int_equal(fake_grant_at(0)->c.peer, DT_PREFILL_WORKER);
    assert_int_equal(fake_grant_at(0)->c.transfer, dt_granted(0)->transfer);
    assert_int_equal(fake_grant_at(0)->c.n_slots, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(wire_u32_at(&dt_granted(0)->blocks, i), fake_grant_at(0)->slots[i]);
    m = dt_report();
    assert_int_equal(m.blocks_granted, 3);
    assert_int_equal(m.blocks_owned, 0);
    assert_int_equal(m.free_blocks, FAKE_BLOCKS - 3);
    assert_int_equal(m.waiting, 1);
    dt_cancel(5);
    dt_end_grants();
    dt_check_at_rest(1);
}

static void nothing_is_decoded_before_the_hand_over_is_verified(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 4};

    (void)state;
    dt_reserve(a);
    fake_run_some(&dt_loop);
    assert_int_equal(fake_engine_steps(), 0);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    dt_arrive(0, a);
    assert_int_equal(dt_handover(0)->err, ERR_OK);
    assert_true(dt_handover(0)->from_decode);
    assert_int_equal(dt_handover(0)->path, KVT_PATH_SHM);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(fake_engine_step_at(0).slots[0].position, 10);
    assert_int_equal(fake_engine_step_at(0).slots[0].first_token, 100);
    assert_int_equal(fake_engine_step_at(0).slots[0].sample_index, 1);
    assert_int_equal(dt_check_stream(5, 1), 3);
    assert_int_equal(dt_released(0)->err, ERR_OK);
    assert_int_equal(dt_released(0)->tokens, 3);
    assert_true(fake_where(WIRE_TOKENS, 2) < fake_where(WIRE_RELEASED, 0));
    assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, 2))->finish[0], 2);
    dt_check_at_rest(1);
}

static void resumed_request_goes_on_with_the_next_index(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 13, .n_prompt = 10, .max_new = 6};

    (void)state;
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_check_stream(5, 4), 2);
    dt_check_at_rest(1);
}

static void stop_token_ends_the_stream(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 50, .stop_id = 103};

    (void)state;
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_check_stream(5, 1), 3);
    assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, 2))->finish[0], 1);
    dt_check_at_rest(1);
}

static void reservation_that_can_never_be_served_is_refused_at_once(void **state)
{
    (void)state;
    dt_reserve(
        (struct dt_ask){.request = 3, .n_tokens = 10, .max_new = 91}); /* beyond the context */
    assert_false(dt_granted(0)->ok);
    assert_int_equal(dt_released(0)->err, ERR_INVALID);
    dt_reserve((struct dt_ask){.request = 4, .n_tokens = 4, .max_new = 4, .stop_id = FAKE_VOCAB});
    assert_int_equal(dt_released(1)->err, ERR_INVALID);
    dt_reserve((struct dt_ask){
        .request = 5, .n_tokens = 4, .max_new = 4, .penalty = true, .no_tokens = 1});
    assert_int_equal(dt_released(2)->err, ERR_INVALID);
    dt_reserve((struct dt_ask){.request = 6, .n_tokens = 8, .n_prompt = 4, .max_new = 4});
    assert_int_equal(dt_released(3)->err, ERR_INVALID);
    fake_kvt_refuse(ERR_NOT_FOUND);
    dt_reserve((struct dt_ask){.request = 7, .n_tokens = 4, .max_new = 4});
    assert_true(fake_run_until(&dt_loop, dt_nothing_live));
    assert_int_equal(dt_released(4)->err, ERR_NOT_FOUND);
    assert_non_null(strstr(dt_granted(4)->error, "could not be opened"));
    dt_check_at_rest(5);
}

static void hand_over_of_something_else_is_not_decoded(void **state)
{
    static const struct wire_meta wrong[] = {
        {.request = 6, .epoch = 1, .n_tokens = 10, .token = 100, .index = 0},
        {.request = 5, .epoch = 2, .n_tokens = 10, .token = 100, .index = 0},
        {.request = 5, .epoch = 1, .n_tokens = 9, .token = 100, .index = 0},
        {.request = 5, .epoch = 1, .n_tokens = 10, .token = FAKE_VOCAB, .index = 0},
        {.request = 5, .epoch = 1, .n_tokens = 10, .token = 100, .index = 1},
    };
    uint32_t n = sizeof(wrong) / sizeof(wrong[0]);

    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 4});
        dt_arrive_with(i, wrong[i]);
        assert_int_equal(dt_handover(i)->err, ERR_CORRUPT);
        assert_true(fake_run_until(&dt_loop, dt_nothing_live));
        assert_int_equal(dt_released(i)->err, ERR_CORRUPT);
    }
    dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 4});
    fake_grant_arrive(fake_grant_at(n), ERR_OK, "short", 5);
    fake_grant_safe(fake_grant_at(n));
    assert_true(fake_run_until(&dt_loop, dt_nothing_live));
    assert_int_equal(dt_released(n)->err, ERR_CORRUPT);
    dt_check_at_rest(n + 1);
    assert_int_equal(fake_engine_steps(), 0);
}

static void failed_hand_over_keeps_its_blocks_until_nothing_can_write_to_them(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 20});
    fake_grant_arrive(fake_grant_at(0), ERR_TIMEOUT, NULL, 0);
    assert_int_equal(dt_handover(0)->err, ERR_TIMEOUT);
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(dt_report().blocks_quarantined, 3);
    dt_cancel(5); /* changes nothing: the first cause counts */
    fake_grant_safe(fake_grant_at(0));
    assert_int_equal(dt_released(0)->err, ERR_TIMEOUT);
    dt_check_at_rest(1);
}

static void cancel_before_the_hand_over_waits_until_its_blocks_are_safe(void **state)
{
    (void)state;
    dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 20});
    dt_cancel(5);
    dt_cancel(5);
    assert_true(fake_grant_at(0)->canceled);
    assert_int_equal(dt_report().blocks_quarantined, 3);
    fake_grant_arrive(fake_grant_at(0), ERR_CANCELED, NULL, 0);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(fake_count(WIRE_HANDOVER_DONE), 0);
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    fake_grant_safe(fake_grant_at(0));
    assert_int_equal(dt_released(0)->err, ERR_CANCELED);
    dt_check_at_rest(1);
}

static void hand_over_that_wins_the_race_with_a_cancel_is_not_decoded(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 20};

    (void)state;
    dt_reserve(a);
    dt_cancel(5);
    dt_arrive(0, a); /* verified, but nobody wants it any more */
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->err, ERR_CANCELED);
    dt_check_at_rest(1);
    assert_int_equal(fake_engine_steps(), 0);
}

static void cancel_while_a_step_runs_waits_for_it_and_sends_nothing_more(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 20};

    (void)state;
    fake_engine_hold(true);
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    dt_cancel(5);
    dt_cancel(5);
    fake_run_some(&dt_loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(dt_report().free_blocks, FAKE_BLOCKS - 3);
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->err, ERR_CANCELED);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    dt_check_at_rest(1);
}

static bool has_quarantined(void)
{
    return dt_report().blocks_quarantined > 0;
}

/* While a step runs its blocks are the engine's, which may take one more or park them: the loop that moved them aside
 * under its hands lost them for good. */
static void
cancel_of_one_that_runs_leaves_its_blocks_to_the_step_and_then_waits_until_they_are_safe(
    void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 20};
    struct wire_meta meta = {.request = 5, .epoch = 1, .n_tokens = 10, .token = 100};
    uint8_t bytes[WIRE_META_LEN];

    (void)state;
    wire_meta_encode(&meta, bytes);
    fake_engine_hold(true);
    dt_reserve(a);
    fake_grant_arrive(fake_grant_at(0), ERR_OK, bytes, sizeof(bytes));
    assert_true(fake_run_until(&dt_loop, fake_engine_in_step));
    dt_cancel(5);
    fake_run_some(&dt_loop);
    assert_int_equal(dt_report().blocks_owned, 3);
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, has_quarantined));
    assert_int_equal(dt_report().blocks_quarantined, 3);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    fake_grant_safe(fake_grant_at(0));
    assert_int_equal(dt_released(0)->err, ERR_CANCELED);
    dt_check_at_rest(1);
}

static void cancel_during_the_last_step_still_releases_once(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 2};

    (void)state;
    fake_engine_hold(true);
    dt_reserve(a);
    dt_arrive(0, a);
    fake_run_some(&dt_loop);
    dt_cancel(5);
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->err, ERR_CANCELED);
    dt_check_at_rest(1);
}

static void first_token_that_was_the_last_needs_no_step(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 20, .stop_id = 100};

    (void)state;
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->err, ERR_OK);
    assert_int_equal(dt_released(0)->tokens, 0);
    dt_check_at_rest(1);
    assert_int_equal(fake_engine_steps(), 0);
}

static void tokens_of_a_step_go_out_in_one_frame_per_front_end(void **state)
{
    struct dt_ask a[4] = {
        {.request = 1, .n_tokens = 4, .max_new = 5, .frontend = 1},
        {.request = 2, .n_tokens = 4, .max_new = 5, .frontend = 2, .logprobs = true},
        {.request = 3, .n_tokens = 4, .max_new = 5, .frontend = 1},
        {.request = 4, .n_tokens = 4, .max_new = 5, .frontend = 2}};
    uint32_t full = 0;

    (void)state;
    fake_engine_hold(true);
    for (uint32_t i = 0; i < 4; i++) {
        dt_reserve(a[i]);
        dt_arrive(i, a[i]);
    }
    fake_run_some(&dt_loop);
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, dt_has_three_released));
    fake_run_some(&dt_loop);
    for (uint32_t i = 0; i < fake_msgs(); i++) {
        const Baton__Tokens *t = (const Baton__Tokens *)fake_msg_at(i)->m;

        if (fake_msg_at(i)->type != WIRE_TOKENS)
            continue;
        for (size_t k = 0; k < t->n_request; k++)
            assert_int_equal(fake_msg_at(i)->frontend, a[t->request[k] - 1].frontend);
        full += t->n_request == 2;
        if (fake_msg_at(i)->frontend == 1 || t->request[0] != 2)
            continue;
        assert_int_equal(t->n_top, t->n_request); /* parallel, empty for who did not ask */
        assert_int_equal(t->top[0]->n_token, 1);
        if (t->n_request == 2)
            assert_int_equal(t->top[1]->n_token, 0);
    }
    assert_in_range(full, 6, 8); /* two per step, save where one joined a step late */
    for (uint32_t i = 1; i <= 4; i++)
        assert_int_equal(dt_check_stream(i, 1), 4);
    dt_check_at_rest(4);
}

static void more_sequences_than_a_step_holds_take_turns(void **state)
{
    struct dt_ask a[3] = {{.request = 1, .n_tokens = 4, .max_new = 12},
                          {.request = 2, .n_tokens = 4, .max_new = 12},
                          {.request = 3, .n_tokens = 4, .max_new = 12}};
    uint32_t turns[4] = {0};

    (void)state;
    fake_engine_hold(true);
    for (uint32_t i = 0; i < 3; i++) {
        dt_reserve(a[i]);
        dt_arrive(i, a[i]);
    }
    fake_run_some(&dt_loop);
    fake_engine_hold(false);
    assert_true(fake_run_until(&dt_loop, dt_has_three_released));
    for (uint32_t i = 1; i <= 3; i++)
        assert_int_equal(dt_check_stream(i, 1), 11);
    for (uint32_t i = 0; i < 12; i++) { /* nobody starves among the first tokens out */
        const Baton__Tokens *t = fake_nth(WIRE_TOKENS, i);

        assert_in_range(t->n_request, 1, DT_MAX_BATCH);
        for (size_t k = 0; k < t->n_request; k++)
            turns[t->request[k]]++;
    }
    for (uint32_t i = 1; i <= 3; i++)
        assert_in_range(turns[i], 6, 9);
    dt_check_at_rest(3);
}

static void penalty_sees_every_generated_token_and_no_other(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 4, .n_prompt = 2, .max_new = 6, .penalty = true};
    static const uint32_t want[] = {1, 2, 5}; /* 5 and 6 are of the prompt, 3 and 4 came before */

    (void)state;
    dt_reserve(a);
    dt_arrive_with(0, (struct wire_meta){5, 1, 4, 0, 2});
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(fake_count(WIRE_TOKENS), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, i))->token[0], want[i]);
    dt_check_at_rest(1);
}

static void sequence_that_fails_in_a_step_ends_alone(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 4};

    (void)state;
    fake_engine_fail(ERR_OK, ERR_CORRUPT);
    dt_reserve(a);
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_released(0)->err, ERR_CORRUPT);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    fake_engine_fail(ERR_OK, ERR_OK);
    a.request = 6;
    dt_reserve(a);
    dt_arrive(1, a);
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    assert_int_equal(dt_released(1)->err, ERR_OK);
    dt_check_at_rest(2);
}

static void broken_engine_is_told_once_and_everything_is_released(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 4};

    (void)state;
    fake_engine_fail(ERR_DEVICE, ERR_OK);
    dt_reserve(a);
    dt_reserve((struct dt_ask){.request = 6, .n_tokens = 10, .max_new = 4});
    dt_arrive(0, a);
    assert_true(fake_run_until(&dt_loop, dt_is_broken));
    dt_end_grants();
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    assert_int_equal(dt_released(0)->err, ERR_DEVICE);
    dt_reserve((struct dt_ask){.request = 7, .n_tokens = 10, .max_new = 4});
    assert_false(dt_granted(2)->ok);
    assert_int_equal(fake_broken(), 1);
    dt_check_at_rest(3);
}

static void late_and_unknown_messages_are_counted_and_ignored(void **state)
{
    (void)state;
    dt_cancel(77);
    dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 4});
    dt_reserve((struct dt_ask){.request = 5, .n_tokens = 10, .max_new = 4});
    assert_int_equal(dt_report().late_messages, 2);
    assert_int_equal(fake_grants(), 1);
    dt_cancel(5);
    dt_reserve((struct dt_ask){.request = 5, .epoch = 2, .n_tokens = 10, .max_new = 4});
    assert_int_equal(fake_grants(), 2);
    assert_int_not_equal(fake_grant_at(0)->c.transfer, fake_grant_at(1)->c.transfer);
    assert_false(fake_grant_at(1)->canceled);
    decode_cancel_all(dt_role);
    dt_end_grants();
    dt_check_at_rest(2);
}

static void progress_names_running_requests_with_their_token_counts(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 10, .max_new = 40};
    Baton__DecodeProgress m = BATON__DECODE_PROGRESS__INIT;

    (void)state;
    fake_engine_hold(true);
    dt_reserve((struct dt_ask){.request = 4, .n_tokens = 4, .max_new = 4}); /* waits: not listed */
    dt_reserve(a);
    dt_arrive(1, a);
    decode_progress(dt_role, &m);
    assert_int_equal(m.n_request, 1);
    assert_int_equal(m.request[0], 5);
    assert_int_equal(m.tokens[0], 1);
    decode_cancel_frontend(dt_role, DT_FRONTEND);
    fake_engine_hold(false);
    dt_end_grants();
    assert_true(fake_run_until(&dt_loop, dt_has_two_released));
    decode_progress(dt_role, &m);
    assert_int_equal(m.n_request, 0);
    dt_check_at_rest(2);
}

static void slow_loop_holds_the_engine_back(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 4, .max_new = 90};

    (void)state;
    dt_reserve(a);
    dt_arrive(0, a);
    for (int ms = 0; ms < 5000 && fake_engine_steps() < 4; ms++)
        uv_sleep(1); /* the loop does not run */
    uv_sleep(20);
    assert_int_equal(fake_engine_steps(), 4);
    assert_true(fake_run_until(&dt_loop, dt_has_released));
    assert_int_equal(dt_check_stream(5, 1), 89);
    dt_check_at_rest(1);
}

static void role_can_go_while_a_step_and_a_grant_are_open(void **state)
{
    struct dt_ask a = {.request = 5, .n_tokens = 4, .max_new = 90};

    (void)state;
    dt_reserve((struct dt_ask){.request = 4, .n_tokens = 4, .max_new = 4});
    dt_reserve(a);
    dt_arrive(1, a);
    /* dt_teardown destroys the dt_role, then ends the grants, and counts what stays allocated */
}

/* The request that a grant is for: the answers to RESERVE say it. */
static uint64_t request_of_grant(const struct fake_grant *g)
{
    for (uint32_t i = 0; i < fake_count(WIRE_GRANTED); i++) {
        if (dt_granted(i)->transfer == g->c.transfer)
            return dt_granted(i)->request;
    }
    return 0;
}

static void random_grant_event(const struct dt_ask *asks, uint32_t r)
{
    uint32_t i = r % fake_grants();
    struct fake_grant *g = fake_grant_at(i);

    if (g->safe)
        return;
    if (g->arrived)
        fake_grant_safe(g);
    else if (r % 7 == 0)
        fake_grant_arrive(g, ERR_PEER_LOST, NULL, 0);
    else
        dt_arrive(i, asks[request_of_grant(g)]);
}

/* Any order of events: each request is answered once and released once, and no block is lost. */
static void random_events_leave_nothing_behind(void **state)
{
    static struct dt_ask asks[600];
    uint32_t seed = 4242, given = 0;

    (void)state;
    for (uint32_t i = 0; i < 1500 && fake_grants() < 200 && given < 500; i++) {
        uint32_t r;

        seed = seed * 1664525u + 1013904223u;
        r = seed >> 16;
        switch ((r >> 8) % 6) {
        case 0:
        case 1:
            given++;
            asks[given] = (struct dt_ask){.request = given,
                                          .n_tokens = 1 + r % 50,
                                          .max_new = 1 + r % 40,
                                          .penalty = r % 3 == 0,
                                          .stop_id = r % 4 == 0 ? 104 : 0,
                                          .deadline_ms = r % 16 == 0 ? 1 : 0,
                                          .tier = r % 3,
                                          .tbt_ms = r % 5 * 10,
                                          .due_ms = (int32_t)(r % 1000) - 200};
            if (r % 4 == 0)
                dt_prefill(asks[given]);
            else
                dt_reserve(asks[given]);
            break;
        case 2:
            if (given > 0 && r % 3 == 0)
                dt_cancel(1 + r % given);
            break;
        case 3:
        case 4:
            if (fake_grants() > 0)
                random_grant_event(asks, r);
            break;
        default:
            uv_run(&dt_loop, UV_RUN_NOWAIT);
            break;
        }
        dt_report();
    }
    decode_cancel_all(dt_role);
    for (int i = 0; i < 100 && decode_live(dt_role) > 0; i++) {
        dt_end_grants();
        fake_run_some(&dt_loop);
    }
    dt_check_at_rest(given);
}

/* One allocation fails, each in turn: the request it belongs to may end, nothing else does. */
static void every_failed_allocation_ends_one_request_at_most(void **state)
{
    for (long fail = 0; fail < 60; fail++) {
        struct dt_ask a = {
            .request = 1, .n_tokens = 10, .max_new = 8, .penalty = true, .stop_id = 9};
        struct dt_ask b = {.request = 2, .n_tokens = 10, .max_new = 8, .logprobs = true};
        Baton__DecodeProgress m = BATON__DECODE_PROGRESS__INIT;
        bool bad = fail > 0 && dt_setup(state) != 0; /* the first one ran already */

        assert_false(bad);
        fake_short_of_memory();
        mem_fail_at(fail);
        dt_reserve(a);
        dt_reserve(b);
        for (uint32_t i = 0; i < fake_grants(); i++)
            dt_arrive(i, fake_grants() == 2 && i == 0 ? a : b);
        decode_progress(dt_role, &m);
        fake_run_some(&dt_loop);
        mem_fail_at(-1);
        decode_cancel_all(dt_role);
        assert_true(fake_run_until(&dt_loop, dt_nothing_live));
        assert_int_equal(dt_report().free_blocks, FAKE_BLOCKS);
        assert_int_equal(decode_live(dt_role), 0);
        assert_int_equal(fake_released(), 2);
        if (fail < 59)
            dt_teardown(state);
    }
}

static void role_that_cannot_start_says_so_and_leaves_nothing(void **state)
{
    struct decode_config c = {.loop = &dt_loop,
                              .engine = fake_engine(),
                              .kvt = fake_kvt(),
                              .n_blocks = FAKE_BLOCKS,
                              .to_scheduler = fake_to_scheduler,
                              .to_frontend = fake_to_frontend};
    enum err err = ERR_NOMEM;

    (void)state;
    for (long fail = 0; err != ERR_OK; fail++) {
        struct decode *d;

        assert_true(fail < 100);
        mem_fail_at(fail);
        err = decode_create(&c, &d);
        mem_fail_at(-1);
        assert_true(err == ERR_OK || err == ERR_NOMEM);
        if (err == ERR_OK) {
            assert_true(fail > 5);
            decode_destroy(d);
        }
    }
    fake_run_some(&dt_loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(more_sequences_than_a_step_holds_take_turns, dt_setup_small,
                                        dt_teardown),
        DT_TEST(reservation_takes_the_blocks_of_the_prompt_and_no_more),
        DT_TEST(nothing_is_decoded_before_the_hand_over_is_verified),
        DT_TEST(resumed_request_goes_on_with_the_next_index),
        DT_TEST(stop_token_ends_the_stream),
        DT_TEST(reservation_that_can_never_be_served_is_refused_at_once),
        DT_TEST(hand_over_of_something_else_is_not_decoded),
        DT_TEST(failed_hand_over_keeps_its_blocks_until_nothing_can_write_to_them),
        DT_TEST(cancel_before_the_hand_over_waits_until_its_blocks_are_safe),
        DT_TEST(hand_over_that_wins_the_race_with_a_cancel_is_not_decoded),
        DT_TEST(cancel_while_a_step_runs_waits_for_it_and_sends_nothing_more),
        DT_TEST(
            cancel_of_one_that_runs_leaves_its_blocks_to_the_step_and_then_waits_until_they_are_safe),
        DT_TEST(cancel_during_the_last_step_still_releases_once),
        DT_TEST(first_token_that_was_the_last_needs_no_step),
        DT_TEST(tokens_of_a_step_go_out_in_one_frame_per_front_end),
        DT_TEST(penalty_sees_every_generated_token_and_no_other),
        DT_TEST(sequence_that_fails_in_a_step_ends_alone),
        DT_TEST(broken_engine_is_told_once_and_everything_is_released),
        DT_TEST(late_and_unknown_messages_are_counted_and_ignored),
        DT_TEST(progress_names_running_requests_with_their_token_counts),
        DT_TEST(slow_loop_holds_the_engine_back),
        DT_TEST(role_can_go_while_a_step_and_a_grant_are_open),
        DT_TEST(random_events_leave_nothing_behind),
        DT_TEST(every_failed_allocation_ends_one_request_at_most),
        DT_TEST(role_that_cannot_start_says_so_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
