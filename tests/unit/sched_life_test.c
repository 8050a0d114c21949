/* One request from arrival to its end through scheduler/sched.h, and what each deadline does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2, P2 = 3, D2 = 4, REQ = 100 };

static void open_pair(struct rig *r, const struct sched_config *cfg)
{
    rig_open(r, cfg);
    rig_join(r, P, SCHED_ROLE_PREFILL, 64, 8);
    rig_join(r, D, SCHED_ROLE_DECODE, 64, 8);
}

static void open_two_pairs(struct rig *r, const struct sched_config *cfg)
{
    open_pair(r, cfg);
    rig_join(r, P2, SCHED_ROLE_PREFILL, 64, 8);
    rig_join(r, D2, SCHED_ROLE_DECODE, 64, 8);
}

static void to_decoding(struct rig *r, uint64_t id)
{
    uint32_t epoch = rig_epoch(r, id);

    rig_granted(r, id, epoch, rig_decode_of(r, id), true);
    rig_prefilled(r, id, epoch, rig_prefill_of(r, id), false);
    rig_handover(r, id, epoch, rig_decode_of(r, id), true, ERR_OK);
    assert_int_equal(rig_state(r, id), SCHED_STATE_DECODING);
}

static void assert_at_rest(const struct rig *r)
{
    struct sched_stats st = rig_stats(r);

    assert_int_equal(st.requests, 0);
    assert_int_equal(st.claims, 0);
    assert_int_equal(st.queued_tokens, 0);
    for (int i = 0; i < SCHED_TIERS_MAX; i++)
        assert_int_equal(st.queued[i] + st.running[i], 0);
    assert_true(sched_next_timer(r->s) == UINT64_MAX);
}

static void a_request_runs_through_all_states_and_leaves_nothing(void **state)
{
    size_t live = mem_live();
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    assert_int_equal(r.act.n, 2);
    assert_int_equal(r.act.v[0].kind, SCHED_ACT_RESERVE); /* the decode side first */
    assert_int_equal(r.act.v[0].worker, D);
    assert_int_equal(r.act.v[0].peer, P);
    assert_int_equal(r.act.v[1].kind, SCHED_ACT_PREFILL);
    assert_int_equal(r.act.v[1].worker, P);
    assert_int_equal(r.act.v[1].peer, D);
    assert_int_equal(r.act.v[1].epoch, 1);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_PREFILLING);
    assert_int_equal(rig_worker(&r, P).claimed_blocks, 3); /* 40 tokens in blocks of 16 */
    assert_int_equal(rig_worker(&r, D).claimed_blocks, 4); /* 50 */
    rig_granted(&r, REQ, 1, D, true);
    rig_progress(&r, REQ, 1, P, 32);
    assert_int_equal(rig_worker(&r, P).outstanding_tokens, 8);
    rig_prefilled(&r, REQ, 1, P, false);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_HANDOVER);
    assert_int_equal(rig_worker(&r, P).outstanding_tokens, 0);
    rig_handover(&r, REQ, 1, P, false, ERR_OK);
    assert_int_equal(rig_state(&r, REQ),
                     SCHED_STATE_HANDOVER); /* the sender's word is not enough */
    rig_handover(&r, REQ, 1, D, true, ERR_OK);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_DECODING);
    rig_released(&r, REQ, 1, P, ERR_OK);
    rig_tokens(&r, REQ, 10);
    rig_released(&r, REQ, 1, D, ERR_OK);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_DECODING);
    rig_finish(&r, REQ);
    assert_int_equal(r.act.n, 0);
    assert_int_equal(rig_state(&r, REQ), 0);
    assert_at_rest(&r);
    rig_close(&r);
    assert_int_equal(mem_live(), live);
}

static void one_token_needs_no_decode_worker(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 64, 8); /* and no decode worker at all */
    rig_arrive(&r, REQ, 0, 40, 1);
    assert_int_equal(rig_count(&r, SCHED_ACT_RESERVE), 0);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->peer, 0);
    rig_prefilled(&r, REQ, 1, P, true);
    rig_tokens(&r, REQ, 1);
    rig_finish(&r, REQ);
    assert_int_equal(r.act.n, 0);
    rig_released(&r, REQ, 1, P, ERR_OK);
    assert_at_rest(&r);
    rig_close(&r);
}

static void finish_may_overtake_the_first_token_report(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    rig_finish(&r, REQ); /* the first token was a stop token; PREFILL_DONE is still on its way */
    assert_int_equal(rig_state(&r, REQ), 0);
    assert_true(rig_told(&r, D, REQ, 1)); /* or it would wait for the hand-over */
    assert_false(rig_told(&r, P, REQ, 1));
    rig_prefilled(&r, REQ, 1, P, true);
    assert_int_equal(rig_stats(&r).ignored_events, 1);
    rig_released(&r, REQ, 1, P, ERR_OK);
    rig_released(&r, REQ, 1, D, ERR_CANCELED);
    assert_at_rest(&r);
    rig_close(&r);
}

static void first_token_that_ends_the_request_frees_the_decode_worker(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    rig_prefilled(&r, REQ, 1, P, true);
    assert_true(rig_told(&r, D, REQ, 1));
    rig_released(&r, REQ, 1, D, ERR_CANCELED);
    rig_leave(&r, P); /* all it had to give is given */
    assert_int_equal(r.act.n, 0);
    rig_finish(&r, REQ);
    assert_at_rest(&r);
    rig_close(&r);
}

static void verified_before_first_token_report_goes_on_to_decoding(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    rig_handover(&r, REQ, 1, D, true, ERR_OK);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_PREFILLING);
    rig_prefilled(&r, REQ, 1, P, false);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_DECODING);
    rig_close(&r);
}

static void decode_worker_may_finish_before_the_first_token_report(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 3);
    rig_granted(&r, REQ, 1, D, true);
    rig_handover(&r, REQ, 1, D, true, ERR_OK);
    rig_released(&r, REQ, 1, D, ERR_OK);
    assert_int_equal(r.act.n, 0); /* not a failure: FINISH comes from the front end */
    rig_prefilled(&r, REQ, 1, P, false);
    rig_released(&r, REQ, 1, P, ERR_OK);
    rig_finish(&r, REQ);
    assert_at_rest(&r);
    rig_close(&r);
}

static void refused_grant_moves_to_another_decode_worker_after_a_pause(void **state)
{
    struct rig r;
    uint32_t first;

    (void)state;
    open_two_pairs(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    first = rig_decode_of(&r, REQ);
    rig_granted(&r, REQ, 1, first, false);
    assert_true(rig_told(&r, rig_find(&r, SCHED_ACT_CANCEL)->worker, REQ, 1));
    assert_int_equal(rig_count(&r, SCHED_ACT_CANCEL), 2);
    assert_int_equal(rig_find(&r, SCHED_ACT_RESUME)->epoch, 2);
    assert_int_equal(rig_count(&r, SCHED_ACT_PREFILL), 0);
    rig_timer(&r, sched_next_timer(r.s));
    assert_int_equal(rig_find(&r, SCHED_ACT_RESERVE)->epoch, 2);
    assert_int_not_equal(rig_decode_of(&r, REQ), first);
    rig_close(&r);
}

static void attempts_are_bounded(void **state)
{
    struct sched_config cfg;
    struct rig r;
    uint32_t epoch = 0;

    (void)state;
    rig_config(&cfg);
    cfg.max_attempts = 3;
    open_two_pairs(&r, &cfg);
    rig_arrive(&r, REQ, 0, 40, 10);
    while (rig_state(&r, REQ) != 0) {
        epoch = rig_epoch(&r, REQ);
        rig_handover(&r, REQ, epoch, rig_prefill_of(&r, REQ), false, ERR_PEER_LOST);
        if (rig_state(&r, REQ) != 0)
            rig_timer(&r, sched_next_timer(r.s));
    }
    assert_int_equal(epoch, 3);
    assert_int_equal(rig_find(&r, SCHED_ACT_FAIL)->reason, SCHED_REASON_ATTEMPTS);
    rig_close(&r);
}

/* Kill the decode worker of REQ again and again; how many times does the request come back? */
static uint32_t losses_survived(uint32_t bystanders, uint32_t tokens_each)
{
    uint32_t next_worker = 10, delivered = 0, losses = 0;
    struct rig r;

    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(&r, next_worker, SCHED_ROLE_DECODE, 1000, 8);
    rig_arrive(&r, REQ, 0, 40, 2000);
    for (uint32_t i = 0; i < bystanders; i++)
        rig_arrive(&r, REQ + 1 + i, 0, 40, 2000);
    while (losses < 40) {
        uint32_t victim = rig_decode_of(&r, REQ);

        to_decoding(&r, REQ);
        for (uint32_t i = 0; i < bystanders && rig_state(&r, REQ + 1 + i) != 0; i++)
            to_decoding(&r, REQ + 1 + i);
        delivered += tokens_each;
        rig_tokens(&r, REQ, delivered);
        rig_join(&r, ++next_worker, SCHED_ROLE_DECODE, 1000, 8);
        rig_leave(&r, victim);
        if (rig_state(&r, REQ) == 0)
            break;
        losses++;
        /* the prefill worker lets go of the old attempts */
        for (uint32_t i = 0; i <= bystanders; i++)
            rig_released(&r, REQ + i, losses, P, ERR_CANCELED);
    }
    rig_close(&r);
    return losses;
}

static void lost_workers_are_blamed_mildly_unless_nobody_else_was_there(void **state)
{
    (void)state;
    assert_int_equal(losses_survived(0, 0), 4);   /* alone: as a failed attempt, of 5 */
    assert_int_equal(losses_survived(1, 0), 9);   /* in company: half */
    assert_int_equal(losses_survived(0, 16), 40); /* it gets on: no blame */
}

/* Streams that a prefill worker has handed over long ago were not there when it died. */
static void a_prompt_is_alone_on_a_worker_whose_other_prompts_others_decode(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    rig_config(&cfg);
    cfg.max_attempts = 2;
    open_pair(&r, &cfg);
    rig_arrive(&r, 1, 0, 40, 10);
    to_decoding(&r, 1);
    rig_released(&r, 1, 1, P, ERR_OK);
    rig_arrive(&r, REQ, 0, 40, 10);
    rig_leave(&r, P);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 64, 8);
    assert_int_equal(rig_epoch(&r, REQ), 2);
    rig_leave(&r, P);
    assert_non_null(rig_find(&r, SCHED_ACT_FAIL)); /* the second one that it killed */
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_DECODING);
    rig_close(&r);
}

static void request_that_has_all_its_tokens_is_not_computed_again(void **state)
{
    struct rig r;

    (void)state;
    open_two_pairs(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    to_decoding(&r, REQ);
    rig_tokens(&r, REQ, 10);
    rig_leave(&r, rig_decode_of(&r, REQ));
    assert_int_equal(rig_count(&r, SCHED_ACT_RESUME), 0);
    assert_int_equal(rig_count(&r, SCHED_ACT_PREFILL), 0);
    assert_int_equal(rig_state(&r, REQ), 0);
    rig_finish(&r, REQ); /* late, and harmless */
    rig_close(&r);
}

static void resumed_with_one_token_left_needs_no_decode_worker(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    to_decoding(&r, REQ);
    rig_tokens(&r, REQ, 9);
    rig_leave(&r, D);
    assert_int_equal(rig_find(&r, SCHED_ACT_RESUME)->epoch, 2);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->peer, 0);
    rig_released(&r, REQ, 1, P, ERR_OK);
    assert_int_equal(rig_worker(&r, P).claimed_blocks, 4); /* 40 + 9 tokens */
    rig_close(&r);
}

static void cancel_keeps_blocks_until_the_workers_let_go(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    to_decoding(&r, REQ);
    rig_cancel(&r, REQ);
    assert_true(rig_told(&r, P, REQ, 1) && rig_told(&r, D, REQ, 1));
    assert_int_equal(rig_state(&r, REQ), 0);
    assert_int_equal(rig_worker(&r, D).claimed_blocks, 4);
    assert_int_equal(rig_stats(&r).claims, 2);
    rig_released(&r, REQ, 1, D, ERR_CANCELED);
    assert_int_equal(rig_worker(&r, D).claimed_blocks, 0);
    rig_released(&r, REQ, 1, D, ERR_CANCELED); /* doubled */
    assert_int_equal(rig_worker(&r, D).claimed_blocks, 0);
    assert_int_equal(rig_stats(&r).ignored_events, 1);
    rig_leave(&r, P);
    assert_at_rest(&r);
    rig_close(&r);
}

static void cancel_is_said_again_while_a_worker_keeps_its_claim(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    rig_cancel(&r, REQ);
    rig_released(&r, REQ, 1, P, ERR_CANCELED);
    rig_timer(&r, sched_next_timer(r.s));
    assert_int_equal(r.act.n, 1);
    assert_true(rig_told(&r, D, REQ, 1));
    assert_true(sched_next_timer(r.s) > r.now);
    rig_close(&r);
}

/* ---- deadlines: what becomes of a request when nothing comes any more ---- */

static void each_waiting_state_ends_by_its_deadline(void **state)
{
    const struct {
        int in;
        uint64_t wait_ms;
    } rows[] = {/* no grant: 10 tokens of 30 ms behind the deadline of 500 ms, and 5 s */
                {SCHED_STATE_PREFILLING, 5800},
                {SCHED_STATE_HANDOVER, 10000},
                /* the next token is due in 500 ms */
                {SCHED_STATE_DECODING, 30500}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rig r;
        uint64_t start;

        open_pair(&r, NULL);
        rig_arrive(&r, REQ, 0, 40, 10);
        start = r.now;
        if (rows[i].in != SCHED_STATE_PREFILLING) {
            rig_granted(&r, REQ, 1, D, true);
            rig_prefilled(&r, REQ, 1, P, false);
        }
        if (rows[i].in == SCHED_STATE_DECODING)
            rig_handover(&r, REQ, 1, D, true, ERR_OK);
        assert_int_equal(rig_state(&r, REQ), rows[i].in);
        assert_int_equal((sched_next_timer(r.s) - start) / RIG_MS, rows[i].wait_ms);
        rig_timer(&r, sched_next_timer(r.s) - 1);
        assert_int_equal(r.act.n, 0); /* a timer that comes early does nothing */
        rig_timer(&r, sched_next_timer(r.s));
        assert_true(rig_told(&r, P, REQ, 1) && rig_told(&r, D, REQ, 1));
        assert_int_equal(rig_find(&r, SCHED_ACT_RESUME)->epoch, 2);
        rig_close(&r);
    }
}

static void prefill_that_makes_progress_is_left_alone(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 400, 10);
    rig_granted(&r, REQ, 1, D, true);
    for (uint32_t i = 1; i <= 10; i++) {
        r.now += 50000 * RIG_MS;
        rig_progress(&r, REQ, 1, P, 16 * i);
        rig_timer(&r, r.now + 1);
        assert_int_equal(rig_epoch(&r, REQ), 1);
    }
    rig_timer(&r, r.now + 60000 * RIG_MS);
    assert_int_equal(rig_epoch(&r, REQ), 2);
    rig_close(&r);
}

static void waiting_for_a_worker_ends_by_the_queue_timeout(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    assert_int_equal(rig_state(&r, REQ), SCHED_STATE_QUEUED);
    rig_timer(&r, sched_next_timer(r.s));
    assert_int_equal(rig_find(&r, SCHED_ACT_FAIL)->reason, SCHED_REASON_QUEUE_TIMEOUT);
    assert_at_rest(&r);
    rig_close(&r);
}

static void request_timeout_ends_even_a_stream_that_gets_on(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    rig_config(&cfg);
    cfg.request_timeout_ns = 100000 * RIG_MS;
    open_pair(&r, &cfg);
    rig_arrive(&r, REQ, 0, 40, 900);
    to_decoding(&r, REQ);
    for (uint32_t i = 1; rig_state(&r, REQ) != 0 && i < 100; i++) {
        rig_timer(&r, r.now + 10000 * RIG_MS);
        if (rig_state(&r, REQ) != 0)
            rig_tokens(&r, REQ, i);
    }
    assert_int_equal(rig_find(&r, SCHED_ACT_FAIL)->reason, SCHED_REASON_REQUEST_TIMEOUT);
    assert_int_equal(r.now, 101000 * RIG_MS);
    rig_close(&r);
}

static void lost_finish_is_found_out_soon_after_the_worker_is_gone(void **state)
{
    struct rig r;

    (void)state;
    open_two_pairs(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    to_decoding(&r, REQ);
    rig_released(&r, REQ, 1, rig_decode_of(&r, REQ), ERR_OK);
    rig_leave(&r, rig_decode_of(&r, REQ));
    assert_int_equal(r.act.n, 0); /* its last tokens are most likely in the front end already */
    assert_true(sched_next_timer(r.s) <= r.now + 500 * RIG_MS);
    rig_timer(&r, sched_next_timer(r.s));
    assert_int_equal(rig_find(&r, SCHED_ACT_RESUME)->epoch, 2);
    rig_close(&r);
}

static void stopping_rejects_new_requests_and_finishes_the_others(void **state)
{
    struct rig r;

    (void)state;
    open_pair(&r, NULL);
    rig_arrive(&r, REQ, 0, 40, 10);
    rig_apply(&r, &(struct sched_event){.kind = SCHED_EV_STOP});
    rig_arrive(&r, REQ + 1, 0, 40, 10);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_STOPPING);
    to_decoding(&r, REQ);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_runs_through_all_states_and_leaves_nothing),
        cmocka_unit_test(one_token_needs_no_decode_worker),
        cmocka_unit_test(finish_may_overtake_the_first_token_report),
        cmocka_unit_test(first_token_that_ends_the_request_frees_the_decode_worker),
        cmocka_unit_test(verified_before_first_token_report_goes_on_to_decoding),
        cmocka_unit_test(decode_worker_may_finish_before_the_first_token_report),
        cmocka_unit_test(refused_grant_moves_to_another_decode_worker_after_a_pause),
        cmocka_unit_test(attempts_are_bounded),
        cmocka_unit_test(lost_workers_are_blamed_mildly_unless_nobody_else_was_there),
        cmocka_unit_test(a_prompt_is_alone_on_a_worker_whose_other_prompts_others_decode),
        cmocka_unit_test(request_that_has_all_its_tokens_is_not_computed_again),
        cmocka_unit_test(resumed_with_one_token_left_needs_no_decode_worker),
        cmocka_unit_test(cancel_keeps_blocks_until_the_workers_let_go),
        cmocka_unit_test(cancel_is_said_again_while_a_worker_keeps_its_claim),
        cmocka_unit_test(each_waiting_state_ends_by_its_deadline),
        cmocka_unit_test(prefill_that_makes_progress_is_left_alone),
        cmocka_unit_test(waiting_for_a_worker_ends_by_the_queue_timeout),
        cmocka_unit_test(request_timeout_ends_even_a_stream_that_gets_on),
        cmocka_unit_test(lost_finish_is_found_out_soon_after_the_worker_is_gone),
        cmocka_unit_test(stopping_rejects_new_requests_and_finishes_the_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
