/* Who goes first: order of the queue, the prefill window, who may pass whom, and the bounds of the queue. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2, GOLD = 0, SILVER = 1, BRONZE = 2 };

/* A prefill worker of which one request takes the whole window. */
static void open_narrow(struct rig *r)
{
    struct sched_config cfg;

    sched_config_defaults(&cfg);
    cfg.prefill_window_tokens = 100;
    rig_open(r, &cfg);
    rig_join(r, P, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(r, D, SCHED_ROLE_DECODE, 1000, 64);
}

/* Let the prefill worker finish what it has; the request that is placed next. */
static uint64_t next_placed(struct rig *r, uint64_t running)
{
    rig_prefilled(r, running, rig_epoch(r, running), P, false);
    return rig_find(r, SCHED_ACT_PREFILL) == NULL ? 0 : rig_find(r, SCHED_ACT_PREFILL)->request;
}

static void arrive_at(struct rig *r, uint64_t id, uint32_t tier, int32_t priority, uint64_t arrived)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = id};

    e.u.arrive.tier = tier;
    e.u.arrive.priority = priority;
    e.u.arrive.n_prompt = 100;
    e.u.arrive.max_new = 10;
    e.u.arrive.arrived_ns = arrived;
    rig_apply(r, &e);
}

static void order_is_tier_then_priority_then_deadline_then_id(void **state)
{
    static const uint64_t want[] = {5, 9, 4, 3, 2, 6, 8, 7};
    struct rig r;
    uint64_t running = 1;

    (void)state;
    open_narrow(&r);
    arrive_at(&r, 1, BRONZE, 0, r.now); /* takes the window */
    arrive_at(&r, 7, BRONZE, 1, 10 * RIG_MS);
    arrive_at(&r, 8, BRONZE, 0, 30 * RIG_MS);
    arrive_at(&r, 6, BRONZE, -3, 40 * RIG_MS);
    arrive_at(&r, 2, SILVER, 0, 20 * RIG_MS);
    arrive_at(&r, 3, SILVER, 0, 10 * RIG_MS);
    arrive_at(&r, 9, GOLD, 0, 500 * RIG_MS);
    arrive_at(&r, 4, GOLD, 0, 900 * RIG_MS);
    arrive_at(&r, 5, GOLD, 0, 500 * RIG_MS); /* as 9, smaller id */
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        running = next_placed(&r, running);
        assert_int_equal(running, want[i]);
    }
    rig_close(&r);
}

static void prefill_order_numbers_follow_the_queue_order(void **state)
{
    uint64_t last = 0;
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 1000, 64);
    for (uint32_t i = 0; i < 6; i++) {
        arrive_at(&r, i + 1, i / 2, i % 2 == 0 ? -5 : 5, i * RIG_MS);
        assert_true(rig_find(&r, SCHED_ACT_PREFILL)->order > last);
        last = rig_find(&r, SCHED_ACT_PREFILL)->order;
    }
    rig_close(&r);
}

static void resumed_request_goes_before_later_ones_of_its_tier(void **state)
{
    struct rig r;

    (void)state;
    open_narrow(&r);
    rig_arrive(&r, 1, SILVER, 100, 10);
    rig_prefilled(&r, 1, 1, P, false);
    r.now += RIG_MS;
    rig_arrive(&r, 2, SILVER, 100, 10); /* has the window */
    rig_arrive(&r, 3, SILVER, 100, 10);
    rig_arrive(&r, 4, GOLD, 100, 10);
    rig_join(&r, 5, SCHED_ROLE_DECODE, 1000, 64);
    rig_leave(&r, D); /* takes 1 and 2 with it */
    assert_int_equal(rig_count(&r, SCHED_ACT_RESUME), 2);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->request, 4);
    assert_int_equal(next_placed(&r, 4), 1);
    assert_int_equal(next_placed(&r, 1), 2);
    assert_int_equal(next_placed(&r, 2), 3);
    rig_close(&r);
}

static void window_holds_back_what_gold_could_still_overtake(void **state)
{
    struct rig r;

    (void)state;
    open_narrow(&r);
    rig_arrive(&r, 1, BRONZE, 400, 10); /* an idle worker takes any one request */
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_PREFILLING);
    rig_arrive(&r, 2, BRONZE, 50, 10);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_arrive(&r, 3, GOLD, 60, 10);
    rig_progress(&r, 1, 1, P, 350); /* 50 of 400 left: room for 50 more, and gold needs 60 */
    assert_int_equal(rig_state(&r, 3), SCHED_STATE_QUEUED);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED); /* nor does bronze slip through */
    rig_progress(&r, 1, 1, P, 360);
    assert_int_equal(rig_state(&r, 3), SCHED_STATE_PREFILLING);
    assert_int_equal(rig_worker(&r, P).outstanding_tokens, 100);
    rig_cancel(&r, 1); /* its rest is outstanding no more */
    assert_int_equal(rig_worker(&r, P).outstanding_tokens, 60);
    rig_close(&r);
}

static void load_is_spread_over_workers(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    for (uint32_t i = 0; i < 4; i++) {
        rig_join(&r, 10 + i, SCHED_ROLE_PREFILL, 1000, 8);
        rig_join(&r, 20 + i, SCHED_ROLE_DECODE, 1000, 8);
    }
    for (uint64_t id = 1; id <= 16; id++)
        rig_arrive(&r, id, SILVER, 100, 100);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(rig_worker(&r, 10 + i).outstanding_tokens, 400);
        assert_int_equal(rig_worker(&r, 20 + i).requests, 4);
    }
    rig_close(&r);
}

/* A decode worker of 32 blocks that `held` requests of one block each keep partly busy. */
static void open_tight(struct rig *r)
{
    rig_open(r, NULL);
    rig_join(r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(r, D, SCHED_ROLE_DECODE, 32, 64);
}

static void small_requests_pass_a_large_one_only_so_often(void **state)
{
    struct rig r;
    uint32_t passed = 0;
    uint64_t done = 100;

    (void)state;
    open_tight(&r);
    rig_arrive(&r, 100, BRONZE, 8, 8);   /* one block for ever */
    rig_arrive(&r, 1, SILVER, 256, 256); /* needs all 32 blocks */
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_QUEUED);
    for (uint64_t id = 101; id < 200; id++) {
        rig_arrive(&r, id, BRONZE, 8, 8);
        if (rig_state(&r, id) != SCHED_STATE_PREFILLING)
            break;
        passed++;
    }
    assert_int_equal(passed, 16);
    for (; done <= 116; done++) { /* now they go and none takes their place */
        assert_int_equal(rig_state(&r, 1), SCHED_STATE_QUEUED);
        rig_cancel(&r, done);
        rig_released(&r, done, 1, P, ERR_CANCELED);
        rig_released(&r, done, 1, D, ERR_CANCELED);
    }
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_PREFILLING);
    rig_close(&r);
}

static void worker_kept_for_a_large_request_leaves_the_others_open(void **state)
{
    struct rig r;

    (void)state;
    open_tight(&r);
    rig_join(&r, 3, SCHED_ROLE_DECODE, 32, 64);
    rig_arrive(&r, 100, BRONZE, 8, 8); /* one on each */
    rig_arrive(&r, 101, BRONZE, 8, 8);
    rig_arrive(&r, 1, SILVER, 256, 256); /* needs one whole worker */
    for (uint64_t id = 102; id < 130; id++) {
        rig_arrive(&r, id, BRONZE, 8, 8);
        assert_int_equal(rig_state(&r, id), SCHED_STATE_PREFILLING);
    }
    assert_int_equal(rig_worker(&r, 2).requests, 9); /* both, until 16 had passed; then one alone */
    assert_int_equal(rig_worker(&r, 3).requests, 21);
    for (uint64_t id = 100; rig_state(&r, 1) == SCHED_STATE_QUEUED; id++) {
        uint32_t d = rig_decode_of(&r, id);

        assert_true(id < 130);
        if (d != 2)
            continue;
        rig_cancel(&r, id);
        rig_released(&r, id, 1, d, ERR_CANCELED);
    }
    assert_int_equal(rig_decode_of(&r, 1), 2);
    rig_close(&r);
}

static void one_token_requests_pass_freely_when_decode_is_full(void **state)
{
    struct rig r;

    (void)state;
    open_tight(&r);
    rig_arrive(&r, 100, BRONZE, 8, 8);
    rig_arrive(&r, 1, SILVER, 256, 256);
    for (uint64_t id = 200; id < 260; id++) {
        rig_arrive(&r, id, BRONZE, 8, 1);
        assert_int_equal(rig_state(&r, id), SCHED_STATE_PREFILLING);
    }
    rig_close(&r);
}

static void request_that_only_a_lost_worker_could_hold_stands_in_nobodys_way(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 32, 64);
    rig_join(&r, 3, SCHED_ROLE_DECODE, 64, 64);
    rig_arrive(&r, 1, GOLD, 512, 512); /* fits on 3 alone */
    assert_int_equal(rig_decode_of(&r, 1), 3);
    rig_leave(&r, 3);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_QUEUED);
    for (uint64_t id = 10; id < 40; id++) { /* more than may pass a head that could fit */
        rig_arrive(&r, id, BRONZE, 8, 8);
        assert_int_equal(rig_state(&r, id), SCHED_STATE_PREFILLING);
    }
    rig_join(&r, 4, SCHED_ROLE_DECODE, 64, 64);
    assert_int_equal(rig_decode_of(&r, 1), 4);
    rig_close(&r);
}

static void what_no_worker_could_hold_is_rejected_at_once(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, NULL);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    rig_arrive(&r, 1, GOLD, 512, 512); /* no decode worker known: one that fits may come */
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_QUEUED);
    rig_join(&r, D, SCHED_ROLE_DECODE, 32, 64);
    rig_arrive(&r, 2, GOLD, 256, 257);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_TOO_LARGE);
    rig_arrive(&r, 3, GOLD, 256, 256);
    assert_int_equal(rig_state(&r, 3), SCHED_STATE_PREFILLING);
    rig_arrive(&r, 4, GOLD, 4096, 1); /* one more than the longest context */
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_TOO_LARGE);
    rig_arrive(&r, 5, GOLD, UINT32_MAX, UINT32_MAX);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_TOO_LARGE);
    rig_close(&r);
}

static void full_queue_rejects_with_the_measured_wait(void **state)
{
    struct sched_config cfg;
    struct rig r;
    uint64_t id = 1;

    (void)state;
    sched_config_defaults(&cfg);
    cfg.prefill_window_tokens = 1;
    cfg.max_queued = 20;
    rig_open(&r, &cfg);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 4000, 8);
    for (; id <= 21; id++)
        rig_arrive(&r, id, SILVER, 8, 1);
    rig_arrive(&r, 50, GOLD, 8, 1);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_QUEUE_FULL);
    assert_true(rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns >= 1000 * RIG_MS);
    for (uint64_t done = 1; done <= 20; done++) { /* 2 per second for 10 seconds */
        r.now += 500 * RIG_MS;
        rig_prefilled(&r, done, 1, P, true);
        rig_arrive(&r, id++, SILVER, 8, 1);
    }
    rig_arrive(&r, 51, GOLD, 8, 1);
    assert_in_range(rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns / RIG_MS, 9000, 11500);
    r.now += 60000 * RIG_MS; /* nothing was placed for long */
    rig_arrive(&r, 52, GOLD, 8, 1);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns / RIG_MS, 60000);
    rig_close(&r);
}

static void queue_is_bounded_by_tokens_too(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    sched_config_defaults(&cfg);
    cfg.max_queued_tokens = 100;
    rig_open(&r, &cfg);
    rig_arrive(&r, 1, GOLD, 500, 1); /* alone it may wait whatever its length */
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_QUEUED);
    rig_arrive(&r, 2, GOLD, 1, 1);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_QUEUE_FULL);
    rig_cancel(&r, 1);
    rig_arrive(&r, 3, GOLD, 60, 1);
    rig_arrive(&r, 4, GOLD, 40, 1);
    assert_int_equal(rig_state(&r, 4), SCHED_STATE_QUEUED);
    rig_arrive(&r, 5, GOLD, 1, 1);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_QUEUE_FULL);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_tier_then_priority_then_deadline_then_id),
        cmocka_unit_test(prefill_order_numbers_follow_the_queue_order),
        cmocka_unit_test(resumed_request_goes_before_later_ones_of_its_tier),
        cmocka_unit_test(window_holds_back_what_gold_could_still_overtake),
        cmocka_unit_test(load_is_spread_over_workers),
        cmocka_unit_test(small_requests_pass_a_large_one_only_so_often),
        cmocka_unit_test(worker_kept_for_a_large_request_leaves_the_others_open),
        cmocka_unit_test(one_token_requests_pass_freely_when_decode_is_full),
        cmocka_unit_test(request_that_only_a_lost_worker_could_hold_stands_in_nobodys_way),
        cmocka_unit_test(what_no_worker_could_hold_is_rejected_at_once),
        cmocka_unit_test(full_queue_rejects_with_the_measured_wait),
        cmocka_unit_test(queue_is_bounded_by_tokens_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
