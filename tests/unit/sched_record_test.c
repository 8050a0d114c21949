/* What is remembered of each request: records, counts of tiers, causes, quotas, predictor health, the
 * heuristic that places while predictions are lost, and what a refusal says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2, GOLD = 0, SILVER = 1, BRONZE = 2 };

static const struct sched_class slow = {.name = "slow",
                                        .prefill = {.c = {0, 1e6, 0, 0}}, /* 1 ms per token */
                                        .decode = {.c = {10e6, 0, 0, 0}},
                                        .kv_bytes_per_token = 1000,
                                        .link_bytes_per_s = 1e9};

static void open_world(struct rig *r, const char *policy, uint32_t records)
{
    struct sched_config cfg;
    uint32_t klass;

    rig_config(&cfg);
    snprintf(cfg.policy, sizeof(cfg.policy), "%s", policy);
    cfg.records = records;
    rig_open(r, &cfg);
    assert_int_equal(sched_add_class(r->s, &slow, NULL, &klass), ERR_OK);
    rig_join_can(r, P, SCHED_ROLE_PREFILL, klass, false);
    rig_join_can(r, D, SCHED_ROLE_DECODE, klass, false);
}

static struct sched_record last(const struct rig *r)
{
    struct sched_record rec;

    assert_true(sched_record_next(r->s) > 0);
    assert_int_equal(sched_record_get(r->s, sched_record_next(r->s) - 1, &rec), ERR_OK);
    return rec;
}

static void arrive_of(struct rig *r, uint64_t id, uint32_t tier, uint32_t n_prompt, uint32_t tenant)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = id};

    e.u.arrive.tier = tier;
    e.u.arrive.n_prompt = n_prompt;
    e.u.arrive.max_new = 10;
    e.u.arrive.arrived_ns = r->now;
    e.u.arrive.tenant = tenant;
    rig_apply(r, &e);
}

/* To the end: first token after `first_ms`, the worst token `late_ms` late. */
static void run_one(struct rig *r, uint64_t id, uint64_t first_ms, int64_t late_ms)
{
    struct sched_event e = {.kind = SCHED_EV_FINISH, .request = id};
    uint64_t start = r->now;

    rig_granted(r, id, 1, D, true);
    r->now += first_ms * RIG_MS;
    rig_prefilled(r, id, 1, P, false);
    rig_handover(r, id, 1, D, true, ERR_OK);
    r->now += 90 * RIG_MS;
    rig_tokens(r, id, 10);
    e.u.finish.first_token_ns = start + first_ms * RIG_MS;
    e.u.finish.last_token_ns = r->now;
    e.u.finish.late_ns = late_ms * (int64_t)RIG_MS;
    e.u.finish.tokens = 10;
    rig_apply(r, &e);
    rig_released(r, id, 1, P, ERR_OK);
    rig_released(r, id, 1, D, ERR_OK);
}

static void a_kept_promise_is_recorded_with_its_times(void **state)
{
    struct sched_tier_stats st;
    struct sched_record rec;
    struct rig r;

    (void)state;
    open_world(&r, "distserve", 16);
    arrive_of(&r, 7, GOLD, 100, 3);
    run_one(&r, 7, 100, -50);
    rec = last(&r);
    assert_int_equal(rec.request, 7);
    assert_int_equal(rec.tenant, 3);
    assert_int_equal(rec.outcome, SCHED_OUT_KEPT);
    assert_int_equal(rec.cause, SCHED_CAUSE_NONE);
    assert_int_equal(rec.chosen.prefill, P);
    assert_int_equal(rec.chosen.decode, D);
    assert_int_equal(rec.predicted.prefill / RIG_MS, 100);
    assert_int_equal(rec.actual.ttft / RIG_MS, 100);
    assert_int_equal(rec.actual.step / RIG_MS, 10);
    assert_int_equal(rec.actual.total / RIG_MS, 190);
    /* 500 ms and three times what it takes alone */
    assert_int_equal(rec.ttft_target_ns / RIG_MS, 800);
    assert_int_equal(rec.tokens, 10);
    sched_get_tier_stats(r.s, GOLD, &st);
    assert_true(st.arrived == 1 && st.admitted == 1 && st.kept == 1 && st.broken == 0);
    rig_close(&r);
}

static void a_miss_names_the_stage_that_cost_most(void **state)
{
    struct sched_tier_stats st;
    struct sched_record rec;
    struct rig r;

    (void)state;
    open_world(&r, "distserve", 16);
    arrive_of(&r, 1, GOLD, 100, 0);
    run_one(&r, 1, 2000, -50); /* 100 ms of prefill took 2 s */
    rec = last(&r);
    assert_int_equal(rec.outcome, SCHED_OUT_MISSED);
    assert_int_equal(rec.cause, SCHED_CAUSE_PREFILL);
    arrive_of(&r, 2, GOLD, 100, 0);
    run_one(&r, 2, 100, 20); /* in time at first, then a token too late */
    rec = last(&r);
    assert_int_equal(rec.outcome, SCHED_OUT_MISSED);
    assert_int_equal(rec.cause, SCHED_CAUSE_DECODE);
    assert_int_equal(rec.late_ns, 20 * (int64_t)RIG_MS);
    arrive_of(&r, 3, GOLD, 100, 0);
    rig_granted(&r, 3, 1, D, false);
    rig_timer(&r, r.now + 5000 * RIG_MS);
    rig_prefilled(&r, 3, 2, P, true);
    rig_finish(&r, 3);
    assert_int_equal(last(&r).cause, SCHED_CAUSE_FAILURE);
    sched_get_tier_stats(r.s, GOLD, &st);
    assert_true(st.admitted == 3 && st.kept == 0 && st.broken == 3);
    rig_close(&r);
}

/* The queue made its first token late; its steps were slow too, but that cost no promise. */
static void what_comes_after_a_late_first_token_did_not_make_it_late(void **state)
{
    struct sched_event e = {.kind = SCHED_EV_FINISH, .request = 1};
    struct sched_record rec;
    struct rig r;

    (void)state;
    open_world(&r, "distserve", 16);
    arrive_of(&r, 1, GOLD, 100, 0);
    rig_granted(&r, 1, 1, D, true);
    r.now += 1000 * RIG_MS;
    rig_prefilled(&r, 1, 1, P, false);
    rig_handover(&r, 1, 1, D, true, ERR_OK);
    rig_tokens(&r, 1, 10);
    e.u.finish.first_token_ns = r.now;
    r.now += 9000 * RIG_MS;
    e.u.finish.last_token_ns = r.now;
    e.u.finish.late_ns = 8000 * (int64_t)RIG_MS;
    e.u.finish.tokens = 10;
    rig_apply(&r, &e);
    rec = last(&r);
    assert_int_equal(rec.outcome, SCHED_OUT_MISSED);
    assert_int_equal(rec.cause, SCHED_CAUSE_PREFILL);
    rig_close(&r);
}

static void hand_over(struct rig *r, uint64_t id, double ms)
{
    struct sched_event e = {.kind = SCHED_EV_HANDOVER_DONE, .request = id, .epoch = 1, .worker = D};

    rig_granted(r, id, 1, D, true);
    rig_prefilled(r, id, 1, P, false);
    e.u.handover.from_decode = true;
    e.u.handover.bytes = 100000;
    e.u.handover.wire_ns = (uint64_t)(ms * (double)RIG_MS);
    rig_apply(r, &e);
    rig_released(r, id, 1, P, ERR_OK);
    rig_finish(r, id);
    rig_released(r, id, 1, D, ERR_OK);
}

static void probe(struct rig *r, uint32_t from, uint32_t to, double bytes_per_s)
{
    struct sched_event e = {.kind = SCHED_EV_LINK, .worker = from};

    e.u.link.peer = to;
    e.u.link.bytes_per_s = bytes_per_s;
    rig_apply(r, &e);
}

static void what_hand_overs_have_taught_outlives_another_probe_of_the_link(void **state)
{
    struct rig r;
    uint64_t was;

    (void)state;
    open_world(&r, "baton", 16);
    probe(&r, P, D, 1e9);
    for (uint64_t id = 1; id <= 40; id++) {
        arrive_of(&r, id, GOLD, 100, 0);
        hand_over(&r, id, 5);
    }
    was = last(&r).predicted.handover;
    assert_in_range(was / 1000, 4000, 6000); /* the probe says 0.1 ms */
    probe(&r, P, D, 1e9);
    arrive_of(&r, 50, GOLD, 100, 0);
    hand_over(&r, 50, 5);
    assert_in_range(last(&r).predicted.handover / 1000, 4000, 6000);
    was = rig_stats(&r).ignored_events;
    probe(&r, D, P, 1e9); /* roles of a while ago: nothing is kept of that */
    assert_true(rig_stats(&r).ignored_events == was + 1);
    rig_close(&r);
}

/* Whoever forecasts: first tokens come 4 times later than forecast, give or take. */
static void
forecasts_of_first_tokens_are_centred_and_nine_of_ten_are_in_their_interval(void **state)
{
    struct sched_health h;
    struct sched_record rec;
    struct rig r;
    uint64_t x = 1;

    (void)state;
    open_world(&r, "distserve", 16);
    for (uint64_t id = 1; id <= 4000; id++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        arrive_of(&r, id, SILVER, 100, 0);
        run_one(&r, id, 300 + (x >> 40) % 200, -50);
    }
    rec = last(&r);
    assert_in_range(rec.predicted.ttft / RIG_MS, 360, 440);
    assert_in_range(rec.high.ttft / RIG_MS, 460, 520);
    sched_get_health(r.s, SILVER, SCHED_STAGE_TTFT, &h);
    assert_true(h.n == 4000 && h.coverage > 0.88 && h.coverage < 0.95 && h.worst > 0.85);
    assert_true(h.bias > -0.05 && h.bias < 0.05);
    rig_close(&r);
}

static void the_ring_remembers_the_last_ones(void **state)
{
    struct sched_record rec;
    struct rig r;

    (void)state;
    open_world(&r, "distserve", 4);
    for (uint64_t id = 1; id <= 10; id++) {
        arrive_of(&r, id, BRONZE, 10, 0);
        rig_cancel(&r, id);
    }
    assert_true(sched_record_next(r.s) == 10);
    assert_int_equal(sched_record_get(r.s, 5, &rec), ERR_NOT_FOUND);
    assert_int_equal(sched_record_get(r.s, 10, &rec), ERR_NOT_FOUND);
    assert_int_equal(sched_record_get(r.s, 6, &rec), ERR_OK);
    assert_int_equal(rec.request, 7);
    assert_int_equal(rec.outcome, SCHED_OUT_CANCELED);
    rig_close(&r);
}

static void a_refusal_says_what_was_short(void **state)
{
    const struct sched_action *act;
    struct sched_tier_stats st;
    struct rig r;

    (void)state;
    open_world(&r, "mooncake-early-reject", 16);
    arrive_of(&r, 1, BRONZE, 4000, 0); /* 4 s of work */
    arrive_of(&r, 2, GOLD, 100, 0);    /* behind it: due in 800 ms */
    act = rig_find(&r, SCHED_ACT_REJECT);
    assert_non_null(act);
    assert_int_equal(act->reason, SCHED_REASON_TTFT);
    assert_int_equal(act->refusal.resource, SCHED_RES_PREFILL_TIME);
    assert_string_equal(sched_resource_stage(act->refusal.resource), "prefill");
    assert_int_equal(act->refusal.target_ns / RIG_MS, 800);
    assert_in_range(act->refusal.predicted_ns / RIG_MS, 4000, 4200);
    assert_true(act->retry_after_ns > 0);
    assert_int_equal(last(&r).outcome, SCHED_OUT_REFUSED);
    sched_get_tier_stats(r.s, GOLD, &st);
    assert_true(st.refused[SCHED_REASON_TTFT] == 1 && st.admitted == 0);
    rig_close(&r);
}

static void a_tenant_over_its_quota_is_told_when_to_come_back(void **state)
{
    static const struct sched_tenant small = {.id = 9, .tokens_per_s = 100, .burst_s = 2};
    static const struct sched_tenant two = {.id = 8, .max_live = 2};
    const struct sched_action *act;
    struct rig r;

    (void)state;
    open_world(&r, "distserve", 16);
    assert_int_equal(sched_set_tenant(r.s, &small, NULL), ERR_OK);
    assert_int_equal(sched_set_tenant(r.s, &two, NULL), ERR_OK);
    arrive_of(&r, 1, GOLD, 150, 9);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_PREFILLING);
    arrive_of(&r, 2, GOLD, 150, 9);
    act = rig_find(&r, SCHED_ACT_REJECT);
    assert_non_null(act);
    assert_int_equal(act->reason, SCHED_REASON_QUOTA);
    assert_int_equal(act->refusal.resource, SCHED_RES_TENANT);
    assert_in_range(act->retry_after_ns / RIG_MS, 800, 2500);
    arrive_of(&r, 3, GOLD, 150, 0); /* others do not mind */
    assert_int_equal(rig_state(&r, 3), SCHED_STATE_PREFILLING);
    r.now += 3000 * RIG_MS;
    arrive_of(&r, 4, GOLD, 150, 9);
    assert_int_equal(rig_state(&r, 4), SCHED_STATE_PREFILLING);
    for (uint64_t id = 10; id < 13; id++)
        arrive_of(&r, id, GOLD, 10, 8);
    assert_int_equal(rig_find(&r, SCHED_ACT_REJECT)->reason, SCHED_REASON_QUOTA);
    rig_cancel(&r, 10);
    arrive_of(&r, 13, GOLD, 10, 8);
    assert_int_not_equal(rig_state(&r, 13), 0);
    rig_close(&r);
}

static void step(struct rig *r, uint32_t worker, double n, double b, double ms)
{
    struct sched_event e = {.kind = SCHED_EV_STEP, .worker = worker};

    e.u.step.did = (struct sched_step){.n = n, .n2 = n * n, .b = b, .ctx = b * 100};
    e.u.step.ns = (uint64_t)(ms * (double)RIG_MS);
    rig_apply(r, &e);
}

static void steps_teach_the_class_and_a_slow_worker_is_known_by_its_bias(void **state)
{
    struct sched_health h;
    struct rig r;
    double ratio;

    (void)state;
    open_world(&r, "distserve", 16);
    rig_join_can(&r, 3, SCHED_ROLE_PREFILL, 1, false);
    for (int i = 0; i < 400; i++) {
        double n = 50 + i % 10 * 40;

        step(&r, P, n, 0, n);
        step(&r, 3, n, 0, 1.5 * n);
    }
    ratio = rig_worker(&r, 3).bias / rig_worker(&r, P).bias;
    assert_true(ratio > 1.4 && ratio < 1.6);
    sched_get_health(r.s, SCHED_TIERS_MAX, SCHED_STAGE_PREFILL, &h);
    assert_true(h.n == 800 && h.mape < 0.2);
    sched_get_health(r.s, SCHED_TIERS_MAX, SCHED_STAGE_DECODE, &h);
    assert_true(h.n == 0);
    rig_close(&r);
}

static void lost_predictions_are_said_and_a_heuristic_places_until_they_are_back(void **state)
{
    uint64_t x = 1;
    struct rig r;

    (void)state;
    open_world(&r, "baton", 16);
    assert_string_equal(sched_fallback(r.s), "");
    for (int i = 0; i < 3000 && sched_fallback(r.s)[0] == '\0'; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        step(&r, P, 100, 0, i < 200 ? 100 : i % 40 < 20 ? 10 : 3000 + (double)(x >> 52));
    }
    assert_non_null(strstr(sched_fallback(r.s), "edf+least-loaded: prefill"));
    arrive_of(&r, 1, GOLD, 5000, 0);
    assert_int_not_equal(rig_state(&r, 1), 0); /* not refused on the word of such predictions */
    for (int i = 0; i < 5000 && sched_fallback(r.s)[0] != '\0'; i++)
        step(&r, P, 100, 0, 100);
    assert_string_equal(sched_fallback(r.s), "");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kept_promise_is_recorded_with_its_times),
        cmocka_unit_test(a_miss_names_the_stage_that_cost_most),
        cmocka_unit_test(what_comes_after_a_late_first_token_did_not_make_it_late),
        cmocka_unit_test(what_hand_overs_have_taught_outlives_another_probe_of_the_link),
        cmocka_unit_test(
            forecasts_of_first_tokens_are_centred_and_nine_of_ten_are_in_their_interval),
        cmocka_unit_test(the_ring_remembers_the_last_ones),
        cmocka_unit_test(a_refusal_says_what_was_short),
        cmocka_unit_test(a_tenant_over_its_quota_is_told_when_to_come_back),
        cmocka_unit_test(steps_teach_the_class_and_a_slow_worker_is_known_by_its_bias),
        cmocka_unit_test(lost_predictions_are_said_and_a_heuristic_places_until_they_are_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
