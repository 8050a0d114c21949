/* Workers and claims of scheduler/sched.h: what is promised, what comes back, who is introduced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2 };

static void prefill_blocks_are_never_promised_twice(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 5, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 100, 3);
    for (uint64_t id = 1; id <= 3; id++)
        rig_arrive(&r, id, 0, 32, 16);
    assert_int_equal(rig_worker(&r, P).claimed_blocks, 4); /* 1 block is left, 2 are needed */
    assert_int_equal(rig_worker(&r, P).queued, 1);
    assert_int_equal(rig_state(&r, 3), SCHED_STATE_QUEUED);
    rig_arrive(&r, 4, 0, 8, 16); /* it would fit, and does not pass */
    assert_int_equal(rig_state(&r, 4), SCHED_STATE_QUEUED);
    rig_close(&r);
}

static void decode_claims_are_what_is_expected_and_no_bound(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 4, 2);
    for (uint64_t id = 1; id <= 5; id++) {
        rig_arrive(&r, id, 0, 16, 16);
        assert_int_equal(rig_count(&r, SCHED_ACT_RESERVE), 1); /* it has a wait list of its own */
    }
    assert_int_equal(rig_worker(&r, D).requests, 5);
    assert_true(rig_worker(&r, D).claimed_blocks > 4);
    rig_join(&r, 3, SCHED_ROLE_DECODE, 4, 2);
    rig_arrive(&r, 6, 0, 16, 16);
    assert_int_equal(rig_decode_of(&r, 6), 3); /* and yet load is spread */
    rig_close(&r);
}

static void request_waits_for_released_blocks_not_for_canceled_ones(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 2, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 100, 8);
    rig_arrive(&r, 1, 0, 32, 16);
    rig_arrive(&r, 2, 0, 32, 16);
    rig_cancel(&r, 1);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED); /* a transfer may still read there */
    rig_released(&r, 1, 1, D, ERR_CANCELED);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_released(&r, 1, 1, P, ERR_CANCELED);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_PREFILLING);
    rig_close(&r);
}

static void what_is_bound_to_a_worker_that_drains_or_is_lost_goes_elsewhere(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    rig_config(&cfg);
    cfg.prefill_window_tokens = 100;
    rig_open(&r, &cfg);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 1000, 8);
    for (uint64_t id = 1; id <= 5; id++)
        rig_arrive(&r, id, 0, 100, 10);
    assert_int_equal(rig_worker(&r, P).queued, 4);
    rig_join(&r, 3, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(&r, 4, SCHED_ROLE_DECODE, 1000, 8);
    rig_drain(&r, P);
    assert_int_equal(rig_count(&r, SCHED_ACT_RESUME), 0); /* nothing was run for them */
    assert_int_equal(rig_worker(&r, P).queued, 0);
    assert_int_equal(rig_worker(&r, 3).queued, 3);
    assert_int_equal(rig_worker(&r, 3).requests, 1);
    rig_leave(&r, 4); /* promised to some of them */
    assert_int_equal(rig_worker(&r, 3).queued, 3);
    for (uint64_t id = 2; id <= 5; id++)
        assert_true(rig_state(&r, id) != 0 && rig_decode_of(&r, id) != 4);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_PREFILLING);
    rig_close(&r);
}

static void claims_of_a_worker_end_when_it_leaves(void **state)
{
    size_t live = mem_live();
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 100, 8);
    for (uint64_t id = 1; id <= 8; id++)
        rig_arrive(&r, id, 0, 16, 16);
    for (uint64_t id = 1; id <= 4; id++)
        rig_cancel(&r, id);
    assert_int_equal(rig_stats(&r).claims, 16);
    rig_leave(&r, D);
    assert_int_equal(rig_stats(&r).claims, 8);
    assert_int_equal(rig_count(&r, SCHED_ACT_RESUME), 4);
    assert_int_equal(rig_count(&r, SCHED_ACT_CANCEL), 4); /* to P, for the four live ones */
    rig_leave(&r, P);
    assert_int_equal(rig_stats(&r).claims, 0);
    assert_int_equal(rig_stats(&r).requests, 4);
    assert_int_equal(rig_stats(&r).queued[0], 4);
    rig_close(&r);
    assert_int_equal(mem_live(), live);
}

static void each_pair_is_introduced_once_whoever_comes_first(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, 1, SCHED_ROLE_PREFILL, 10, 8);
    rig_join(&r, 2, SCHED_ROLE_PREFILL, 10, 8);
    assert_int_equal(r.act.n, 0);
    rig_join(&r, 3, SCHED_ROLE_DECODE, 10, 8);
    assert_int_equal(rig_count(&r, SCHED_ACT_INTRODUCE), 2);
    assert_int_equal(r.act.v[0].worker, 1);
    assert_int_equal(r.act.v[0].peer, 3);
    assert_int_equal(r.act.v[1].worker, 2);
    rig_drain(&r, 3);
    rig_join(&r, 4, SCHED_ROLE_DECODE, 10, 8);
    rig_join(&r, 5, SCHED_ROLE_PREFILL, 10, 8);
    assert_int_equal(rig_count(&r, SCHED_ACT_INTRODUCE), 1); /* nothing goes to a draining worker */
    assert_int_equal(rig_find(&r, SCHED_ACT_INTRODUCE)->worker, 5);
    assert_int_equal(rig_find(&r, SCHED_ACT_INTRODUCE)->peer, 4);
    rig_close(&r);
}

static void draining_worker_keeps_what_it_has_and_gets_nothing_new(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 100, 8);
    rig_arrive(&r, 1, 0, 16, 16);
    rig_drain(&r, D);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_PREFILLING);
    assert_true(rig_worker(&r, D).draining);
    rig_arrive(&r, 2, 0, 16, 16);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_join(&r, 3, SCHED_ROLE_DECODE, 100, 8);
    assert_int_equal(rig_decode_of(&r, 2), 3);
    rig_prefilled(&r, 1, 1, P, false);
    rig_handover(&r, 1, 1, D, true, ERR_OK);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_DECODING);
    rig_close(&r);
}

static void requests_of_a_worker_are_listed_before_it_leaves(void **state)
{
    uint64_t *ids = NULL;
    size_t n = 0;
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 100, 8);
    for (uint64_t id = 1; id <= 3; id++)
        rig_arrive(&r, id, 0, 16, 16);
    rig_cancel(&r, 2); /* its claim is there, but it is nobody's concern any more */
    assert_int_equal(sched_worker_requests(r.s, D, &ids, &n), ERR_OK);
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 3);
    mem_free(ids);
    assert_int_equal(sched_worker_requests(r.s, 77, &ids, &n), ERR_NOT_FOUND);
    rig_close(&r);
}

static void short_context_workers_are_passed_over(void **state)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = 3};
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 300, 8);
    e.u.join.role = SCHED_ROLE_DECODE; /* more blocks, but a context of 64 */
    e.u.join.n_blocks = 5000;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = 8;
    e.u.join.max_context = 64;
    rig_apply(&r, &e);
    rig_arrive(&r, 1, 0, 60, 5);
    assert_int_equal(rig_decode_of(&r, 1), D);
    rig_arrive(&r, 2, 0, 60, 4);
    assert_int_equal(rig_decode_of(&r, 2), 3);
    rig_close(&r);
}

/* Machines differ in memory, so in blocks: each is then a shape of its own. */
static void however_workers_differ_each_of_them_gets_work(void **state)
{
    enum { KINDS = 30, EACH = 3, FIRST_DECODE = 1000 };
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    for (uint32_t k = 0; k < KINDS; k++) {
        for (uint32_t i = 0; i < EACH; i++) {
            rig_join(&r, 1 + k * EACH + i, SCHED_ROLE_PREFILL, 1000 + k, 8);
            rig_join(&r, FIRST_DECODE + k * EACH + i, SCHED_ROLE_DECODE, 1000 + k, 8);
        }
    }
    for (uint64_t id = 1; id <= KINDS * EACH; id++)
        rig_arrive(&r, id, 0, 512, 16);
    for (uint32_t k = 0; k < KINDS * EACH; k++) {
        assert_int_equal(rig_worker(&r, 1 + k).requests, 1);
        assert_int_equal(rig_worker(&r, FIRST_DECODE + k).requests, 1);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_blocks_are_never_promised_twice),
        cmocka_unit_test(decode_claims_are_what_is_expected_and_no_bound),
        cmocka_unit_test(request_waits_for_released_blocks_not_for_canceled_ones),
        cmocka_unit_test(what_is_bound_to_a_worker_that_drains_or_is_lost_goes_elsewhere),
        cmocka_unit_test(claims_of_a_worker_end_when_it_leaves),
        cmocka_unit_test(each_pair_is_introduced_once_whoever_comes_first),
        cmocka_unit_test(draining_worker_keeps_what_it_has_and_gets_nothing_new),
        cmocka_unit_test(requests_of_a_worker_are_listed_before_it_leaves),
        cmocka_unit_test(short_context_workers_are_passed_over),
        cmocka_unit_test(however_workers_differ_each_of_them_gets_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
