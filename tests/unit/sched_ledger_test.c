/* Workers and claims of scheduler/sched.h: what is promised, what comes back, who is introduced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2 };

static void decode_slots_and_blocks_are_never_promised_twice(void **state)
{
    struct rig r;
    uint64_t id = 0;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 100, 3);
    for (; id < 5; id++)
        rig_arrive(&r, id + 1, 0, 16, 16);
    assert_int_equal(rig_worker(&r, D).requests, 3); /* slots */
    rig_join(&r, 3, SCHED_ROLE_DECODE, 5, 8);
    assert_int_equal(rig_worker(&r, 3).requests, 2);
    rig_arrive(&r, 6, 0, 16, 16);
    assert_int_equal(rig_worker(&r, 3).claimed_blocks, 4); /* 1 block is left, 2 are needed */
    assert_int_equal(rig_state(&r, 6), SCHED_STATE_QUEUED);
    rig_close(&r);
}

static void request_waits_for_released_blocks_not_for_canceled_ones(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 2, 8);
    rig_arrive(&r, 1, 0, 16, 16);
    rig_arrive(&r, 2, 0, 16, 16);
    rig_cancel(&r, 1);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED); /* a transfer may still write there */
    rig_released(&r, 1, 1, P, ERR_CANCELED);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_released(&r, 1, 1, D, ERR_CANCELED);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_PREFILLING);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_slots_and_blocks_are_never_promised_twice),
        cmocka_unit_test(request_waits_for_released_blocks_not_for_canceled_ones),
        cmocka_unit_test(claims_of_a_worker_end_when_it_leaves),
        cmocka_unit_test(each_pair_is_introduced_once_whoever_comes_first),
        cmocka_unit_test(draining_worker_keeps_what_it_has_and_gets_nothing_new),
        cmocka_unit_test(requests_of_a_worker_are_listed_before_it_leaves),
        cmocka_unit_test(short_context_workers_are_passed_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
