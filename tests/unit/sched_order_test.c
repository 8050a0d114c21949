/* Who goes first: order of the queues, the prefill window, who may pass whom, who computes the prompt, and the
 * bounds of the queue. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2, GOLD = 0, SILVER = 1, BRONZE = 2 };

static void config_of(struct sched_config *cfg, const char *policy, uint32_t window)
{
    rig_config(cfg);
    snprintf(cfg->policy, sizeof(cfg->policy), "%s", policy);
    cfg->prefill_window_tokens = window;
}

/* A prefill worker of which one request takes the whole window. */
static void open_narrow(struct rig *r, const char *policy)
{
    struct sched_config cfg;

    config_of(&cfg, policy, 100);
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

static void strict_order_is_tier_then_priority_then_arrival_then_id(void **state)
{
    static const uint64_t want[] = {5, 9, 4, 3, 2, 6, 8, 7};
    struct rig r;
    uint64_t running = 1;

    (void)state;
    open_narrow(&r, "strict-priority");
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

static void deadline_order_mixes_tiers(void **state)
{
    static const uint64_t want[] = {2, 4, 3};
    struct rig r;
    uint64_t running = 1;

    (void)state;
    open_narrow(&r, "edf");
    arrive_at(&r, 1, GOLD, 0, 0);              /* due at 500 ms: first whatever comes */
    arrive_at(&r, 3, BRONZE, 0, 900 * RIG_MS); /* 10900 */
    arrive_at(&r, 2, SILVER, 0, 0);            /* 2000 */
    arrive_at(&r, 4, SILVER, 0, 900 * RIG_MS); /* 2900 */
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        running = next_placed(&r, running);
        assert_int_equal(running, want[i]);
    }
    rig_close(&r);
}

static void prefill_order_numbers_follow_the_queue_order(void **state)
{
    uint64_t last = 0;
    struct sched_config cfg;
    struct rig r;

    (void)state;
    config_of(&cfg, "strict-priority", 100000);
    rig_open(&r, &cfg);
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
    open_narrow(&r, "strict-priority");
    rig_arrive(&r, 1, SILVER, 100, 10);
    rig_prefilled(&r, 1, 1, P, false);
    r.now += RIG_MS;
    rig_arrive(&r, 2, SILVER, 100, 10); /* has the window */
    r.now += RIG_MS;
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
    open_narrow(&r, "strict-priority");
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

static void an_earlier_deadline_interrupts_where_the_policy_preempts(void **state)
{
    struct rig r;
    uint64_t order;

    (void)state;
    open_narrow(&r, "edf");
    rig_arrive(&r, 1, BRONZE, 4000, 10);
    order = rig_find(&r, SCHED_ACT_PREFILL)->order;
    rig_arrive(&r, 2, BRONZE, 50, 10); /* later: waits */
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_arrive(&r, 3, GOLD, 500, 10); /* earlier: past the full window */
    assert_int_equal(rig_state(&r, 3), SCHED_STATE_PREFILLING);
    assert_true(rig_find(&r, SCHED_ACT_PREFILL)->order < order);
    rig_arrive(&r, 4, GOLD, 60, 10); /* behind 3, whose 500 tokens fill the window */
    assert_int_equal(rig_state(&r, 4), SCHED_STATE_QUEUED);
    rig_progress(&r, 3, 1, P, 460);
    assert_int_equal(rig_state(&r, 4), SCHED_STATE_PREFILLING);
    rig_close(&r);
}

static void a_prompt_that_others_go_before_is_not_to_blame(void **state)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = 1};
    struct rig r;

    (void)state;
    open_narrow(&r, "edf");
    e.u.arrive.tier = BRONZE;
    e.u.arrive.n_prompt = 4000;
    e.u.arrive.max_new = 10;
    e.u.arrive.arrived_ns = r.now;
    e.u.arrive.ttft_ns = 1000000 * RIG_MS; /* it has time */
    rig_apply(&r, &e);
    rig_granted(&r, 1, 1, D, true);
    for (uint64_t id = 2; id < 8; id++) { /* gold keeps the worker busy for two minutes */
        r.now += 10000 * RIG_MS;
        rig_arrive(&r, id, GOLD, 400, 10);
        rig_granted(&r, id, 1, D, true);
        rig_timer(&r, r.now + 10000 * RIG_MS);
        rig_prefilled(&r, id, 1, P, false);
        rig_finish(&r, id);
        assert_int_equal(rig_epoch(&r, 1), 1);
    }
    rig_timer(&r, r.now + 60000 * RIG_MS);
    assert_int_equal(rig_epoch(&r, 1), 2); /* now nothing was computed for a minute */
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

static void the_better_of_two_is_of_two_different_workers(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    config_of(&cfg, "power-of-two", 8192);
    rig_open(&r, &cfg);
    rig_join(&r, P, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(&r, 3, SCHED_ROLE_PREFILL, 1000, 8);
    rig_join(&r, D, SCHED_ROLE_DECODE, 1000, 64);
    rig_join(&r, 4, SCHED_ROLE_DECODE, 1000, 64);
    for (uint64_t id = 1; id <= 20; id++)
        rig_arrive(&r, id, BRONZE, 16, 10);
    assert_int_equal(rig_worker(&r, P).requests + rig_worker(&r, P).queued, 10);
    assert_int_equal(rig_worker(&r, D).requests, 10);
    rig_close(&r);
}

/* The decode worker could compute prompts, but not in time beside what it has.  That says nothing about the time
 * when the prefill worker is back. */
static void while_the_only_prefill_worker_is_away_requests_wait_up_to_their_deadline(void **state)
{
    static const struct sched_class slow = {
        .name = "slow", .prefill = {.c = {0, 1e5, 0, 0}}, .decode = {.c = {10e6, 0, 0, 0}}};
    struct sched_config cfg;
    uint32_t klass;
    uint64_t end;
    size_t refused = 0;
    struct rig r;

    (void)state;
    config_of(&cfg, "baton", 8192);
    rig_open(&r, &cfg);
    assert_int_equal(sched_add_class(r.s, &slow, NULL, &klass), ERR_OK);
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, klass, false);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, klass, true);
    rig_leave(&r, P);
    for (uint64_t id = 1; id <= 40; id++) {
        rig_arrive(&r, id, GOLD, 4000, 100);
        assert_null(rig_find(&r, SCHED_ACT_REJECT));
    }
    r.now += 100 * RIG_MS;
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, klass, false);
    assert_true(rig_worker(&r, P).requests + rig_worker(&r, P).queued > 0);
    assert_true(rig_count(&r, SCHED_ACT_REJECT) > 0); /* 400 ms each: not all of them can be met */
    rig_leave(&r, P);
    end = r.now + 1700 * RIG_MS; /* 500 ms and three times the prompt alone */
    for (uint64_t id = 100; id < 120; id++) {
        rig_arrive(&r, id, GOLD, 4000, 100);
        assert_null(rig_find(&r, SCHED_ACT_REJECT));
    }
    while (r.now < end) {
        uint64_t next = sched_next_timer(r.s);

        rig_timer(&r, next > r.now ? next : r.now + 1);
        refused += rig_count(&r, SCHED_ACT_REJECT);
    }
    assert_in_range(refused, 15, 100); /* the decode worker has taken some */
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
    for (uint64_t id = 10; id < 40; id++) {
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
    uint64_t id = 1, later;

    (void)state;
    rig_config(&cfg);
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
    assert_in_range(rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns / RIG_MS, 9000, 14400);
    r.now += 60000 * RIG_MS; /* nothing was placed for long */
    rig_arrive(&r, 52, GOLD, 8, 1);
    assert_in_range(rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns / RIG_MS, 60000, 75000);
    later = rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns;
    rig_arrive(&r, 53, GOLD, 8, 1); /* and not all at the same moment */
    assert_true(rig_find(&r, SCHED_ACT_REJECT)->retry_after_ns != later);
    rig_close(&r);
}

static void queue_is_bounded_by_tokens_too(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    rig_config(&cfg);
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

/* ---- who computes the prompt, and when the decode worker is asked ---- */

static void a_decode_worker_can_compute_the_prompt_itself(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    config_of(&cfg, "always-local", 8192);
    rig_open(&r, &cfg);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, 0, true); /* no prefill worker at all */
    rig_arrive(&r, 1, GOLD, 100, 10);
    assert_int_equal(rig_count(&r, SCHED_ACT_RESERVE), 0);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->worker, D);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->peer, D);
    assert_int_equal(rig_worker(&r, D).requests, 1);
    rig_progress(&r, 1, 1, D, 60);
    assert_int_equal(rig_worker(&r, D).outstanding_tokens, 40);
    rig_prefilled(&r, 1, 1, D, false);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_DECODING); /* no hand-over */
    rig_tokens(&r, 1, 10);
    rig_released(&r, 1, 1, D, ERR_OK);
    rig_finish(&r, 1);
    assert_int_equal(rig_stats(&r).claims, 0);
    rig_close(&r);
}

static void decode_worker_is_asked_when_a_long_prompt_is_nearly_done(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    config_of(&cfg, "distserve", 2048);
    rig_open(&r, &cfg);
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, 0, false);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, 0, false);
    rig_arrive(&r, 1, GOLD, 8000, 10);
    assert_int_equal(rig_count(&r, SCHED_ACT_RESERVE), 0);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->peer, D);
    rig_progress(&r, 1, 1, P, 6500);
    assert_int_equal(r.act.n, 0);
    rig_progress(&r, 1, 1, P, 7012); /* two steps of 512 are left */
    assert_int_equal(rig_find(&r, SCHED_ACT_RESERVE)->worker, D);
    assert_int_equal(rig_find(&r, SCHED_ACT_RESERVE)->peer, P);
    rig_progress(&r, 1, 1, P, 7500);
    assert_int_equal(r.act.n, 0); /* once */

    rig_arrive(&r, 2, GOLD, 8000, 10);
    rig_cancel(&r, 1);
    rig_cancel(&r, 2); /* the decode worker knows nothing of it */
    assert_int_equal(rig_count(&r, SCHED_ACT_CANCEL), 1);
    assert_true(rig_told(&r, P, 2, 1));
    rig_leave(&r, P);
    rig_released(&r, 1, 1, D, ERR_CANCELED);
    assert_int_equal(rig_stats(&r).claims, 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strict_order_is_tier_then_priority_then_arrival_then_id),
        cmocka_unit_test(deadline_order_mixes_tiers),
        cmocka_unit_test(prefill_order_numbers_follow_the_queue_order),
        cmocka_unit_test(resumed_request_goes_before_later_ones_of_its_tier),
        cmocka_unit_test(window_holds_back_what_gold_could_still_overtake),
        cmocka_unit_test(an_earlier_deadline_interrupts_where_the_policy_preempts),
        cmocka_unit_test(a_prompt_that_others_go_before_is_not_to_blame),
        cmocka_unit_test(load_is_spread_over_workers),
        cmocka_unit_test(the_better_of_two_is_of_two_different_workers),
        cmocka_unit_test(while_the_only_prefill_worker_is_away_requests_wait_up_to_their_deadline),
        cmocka_unit_test(request_that_only_a_lost_worker_could_hold_stands_in_nobodys_way),
        cmocka_unit_test(what_no_worker_could_hold_is_rejected_at_once),
        cmocka_unit_test(full_queue_rejects_with_the_measured_wait),
        cmocka_unit_test(queue_is_bounded_by_tokens_too),
        cmocka_unit_test(a_decode_worker_can_compute_the_prompt_itself),
        cmocka_unit_test(decode_worker_is_asked_when_a_long_prompt_is_nearly_done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
