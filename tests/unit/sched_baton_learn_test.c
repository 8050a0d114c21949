/* tests/unit/sched_baton_learn_test.c - what the policy "baton" learns from what happens: prices, margins, intervals,
 * beliefs that turn out wrong, machines that nobody knows. */
#include "tests/unit/sched_baton_rig.h"

/* ---- prices ---- */

/* Twice as many prompts as can be computed, none of them hurt: a queue of 16 s for a promise of 20. */
static void crowd_prefill(struct rig *r)
{
    struct sched_config cfg;

    plain_config(&cfg);
    cfg.tiers[BRONZE].ttft_ns = 20000 * RIG_MS;
    open_with(r, &cfg, 10);
    for (uint64_t id = 100; id < 180; id++) {
        rig_arrive(r, id, BRONZE, 200, 1);
        assert_null(refusal(r, id));
        r->now += 100 * RIG_MS;
    }
}

static void a_full_queue_has_no_price_before_somebody_was_turned_away(void **state)
{
    struct rig r;

    (void)state;
    crowd_prefill(&r);
    rig_arrive(&r, 1, BRONZE, 1500, 1); /* costs as much as seven others, and is in time */
    assert_null(refusal(&r, 1));
    rig_close(&r);
}

static void after_that_a_price_refuses_what_costs_more_than_it_is_worth(void **state)
{
    const struct sched_action *no;
    struct rig r;

    (void)state;
    crowd_prefill(&r);
    rig_arrive(&r, 1, GOLD, 800, 1); /* 0.8 s of work within 0.5 s */
    assert_non_null(refusal(&r, 1));
    rig_arrive(&r, 2, BRONZE, 1500, 1);
    no = refusal(&r, 2);
    assert_non_null(no);
    assert_int_equal(no->reason, SCHED_REASON_PRICE);
    assert_int_equal(no->refusal.resource, SCHED_RES_PREFILL_TIME);
    assert_int_equal(no->refusal.target_ns, 20000 * RIG_MS);
    rig_arrive(&r, 3, BRONZE, 60, 1); /* worth its price */
    assert_null(refusal(&r, 3));
    rig_close(&r);
}

/* The queue of 16 s must get shorter by the part of the price that is too much. */
static void who_a_price_refuses_is_told_when_it_will_have_sunk(void **state)
{
    struct rig r;

    (void)state;
    crowd_prefill(&r);
    rig_arrive(&r, 1, GOLD, 800, 1);
    rig_arrive(&r, 2, BRONZE, 1500, 1);
    assert_int_equal(refusal(&r, 2)->reason, SCHED_REASON_PRICE);
    assert_in_range(refusal(&r, 2)->retry_after_ns, 5000 * RIG_MS, 20000 * RIG_MS);
    rig_close(&r);
}

/* Answers that need more KV than there is, prompts that cost next to nothing. */
static void a_price_for_decode_names_the_room_and_arms_itself(void **state)
{
    const struct sched_action *no = NULL;
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    open_quick(&r, &cfg);
    for (uint64_t id = 100; id < 400 && no == NULL; id++) {
        rig_arrive(&r, id, id % 2 == 0 ? BRONZE : SILVER, id % 4 == 0 ? 4000 : 500, 1000);
        no = refusal(&r, id);
        r.now += 50 * RIG_MS;
    }
    assert_non_null(no);
    assert_int_equal(no->reason, SCHED_REASON_PRICE);
    assert_int_equal(no->refusal.resource, SCHED_RES_DECODE_ROOM);
    assert_int_equal(no->refusal.target_ns, 200 * RIG_MS);
    rig_close(&r);
}

/* On a live server a request is older than the event that tells of it. */
static void who_is_turned_away_is_seen_however_late_it_is_told(void **state)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = 1};
    struct rig r;

    (void)state;
    crowd_prefill(&r);
    e.u.arrive.tier = GOLD;
    e.u.arrive.n_prompt = 800;
    e.u.arrive.max_new = 1;
    e.u.arrive.arrived_ns = r.now - RIG_MS;
    rig_apply(&r, &e);
    assert_non_null(refusal(&r, 1));
    rig_arrive(&r, 2, BRONZE, 1500, 1);
    assert_non_null(refusal(&r, 2));
    assert_int_equal(refusal(&r, 2)->reason, SCHED_REASON_PRICE);
    rig_close(&r);
}

/* ---- margins ---- */

static void finish_late(struct rig *r, uint64_t id, bool late)
{
    struct sched_event e = {.kind = SCHED_EV_FINISH, .request = id};

    e.u.finish.first_token_ns = r->now;
    e.u.finish.last_token_ns = r->now + 100 * RIG_MS;
    e.u.finish.tokens = 10;
    e.u.finish.late_ns = late ? (int64_t)RIG_MS : -(int64_t)RIG_MS;
    r->now += 100 * RIG_MS;
    rig_apply(r, &e);
}

/* Prompts of 0.9 s, one in eleven of 1.5 s; late: what comes of the long ones is. */
static void serve_sizes(struct rig *r, bool late)
{
    for (uint64_t id = 1; id <= 264; id++) {
        rig_arrive(r, id, SILVER, id % 11 == 0 ? 1500 : 900, 10);
        assert_null(refusal(r, id));
        r->now += 10 * RIG_MS;
        rig_prefilled(r, id, rig_epoch(r, id), P, false);
        rig_granted(r, id, rig_epoch(r, id), D, true);
        rig_handover(r, id, rig_epoch(r, id), D, true, ERR_OK);
        rig_released(r, id, rig_epoch(r, id), P, ERR_OK);
        rig_released(r, id, rig_epoch(r, id), D, ERR_OK);
        finish_late(r, id, late && id % 11 == 0);
    }
    r->now += 60000 * RIG_MS;
}

/* At most n bronze prompts; how many are in time. */
static uint64_t queue_bronze(struct rig *r, uint64_t from, uint64_t n, uint32_t tokens)
{
    uint64_t k = 0;

    for (; k < n; k++) {
        rig_arrive(r, from + k, BRONZE, tokens, 10);
        if (refusal(r, from + k) != NULL)
            break;
    }
    return k;
}

/* A queue without time to spare and a long silver prompt for which two of bronze would have to go. */
static bool long_silver_gets_in(bool late)
{
    uint64_t n, small;
    struct rig r;
    bool in;

    open_plain(&r);
    serve_sizes(&r, late);
    n = queue_bronze(&r, 1000, 100, 900);
    small = queue_bronze(&r, 2000, 100, 100);
    rig_close(&r);
    open_plain(&r);
    serve_sizes(&r, late);
    assert_int_equal(queue_bronze(&r, 1000, n, 900), n); /* nobody is turned away: no prices */
    assert_int_equal(queue_bronze(&r, 2000, small, 100), small);
    rig_arrive(&r, 3000, SILVER, 1500, 10);
    in = refusal(&r, 3000) == NULL;
    assert_int_equal(rig_count(&r, SCHED_ACT_REJECT), in ? 2 : 1);
    rig_close(&r);
    return in;
}

static void long_prompts_that_lag_behind_may_push_out_more_of_looser_tiers(void **state)
{
    (void)state;
    assert_false(long_silver_gets_in(false)); /* two of weight 1 are worth as much */
    assert_true(long_silver_gets_in(true));
}

/* One in twenty streams gets late, in both tiers alike. */
static void the_percentile_of_a_tier_sets_its_margin(void **state)
{
    struct sched_tier_stats strict, loose;
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[SILVER].percentile = 0.999;
    cfg.tiers[BRONZE].percentile = 0.90;
    open_with(&r, &cfg, 10);
    for (uint64_t id = 1; id <= 400; id++) {
        rig_arrive(&r, id, id % 2 == 0 ? SILVER : BRONZE, 10, 10);
        assert_null(refusal(&r, id));
        r.now += 10 * RIG_MS;
        rig_prefilled(&r, id, rig_epoch(&r, id), P, false);
        rig_granted(&r, id, rig_epoch(&r, id), D, true);
        rig_handover(&r, id, rig_epoch(&r, id), D, true, ERR_OK);
        rig_released(&r, id, rig_epoch(&r, id), P, ERR_OK);
        rig_released(&r, id, rig_epoch(&r, id), D, ERR_OK);
        finish_late(&r, id, id % 40 < 2);
    }
    sched_get_tier_stats(r.s, SILVER, &strict);
    sched_get_tier_stats(r.s, BRONZE, &loose);
    assert_int_equal(strict.broken, 10);
    assert_int_equal(loose.broken, 10);
    assert_true(strict.margin > 0.4);
    assert_true(loose.margin < 0.1);
    rig_close(&r);
}

/* Is a prompt of n tokens promised 2 s, where first tokens of its tier came late before or not, beside others or alone? */
static bool prompt_fits(bool late, bool beside, uint32_t n)
{
    struct rig r;
    bool fits;

    open_plain(&r);
    for (uint64_t id = 1; id <= 300; id++) {
        rig_arrive(&r, id, SILVER, 10, 1);
        assert_null(refusal(&r, id));
        r.now += (late && id > 292 ? 2001 : 10) * RIG_MS;
        rig_prefilled(&r, id, rig_epoch(&r, id), P, true);
        rig_released(&r, id, rig_epoch(&r, id), P, ERR_OK);
    }
    if (beside)
        rig_arrive(&r, 1000, BRONZE, 1000, 10);
    rig_arrive(&r, 1001, SILVER, n, 10);
    fits = refusal(&r, 1001) == NULL;
    rig_close(&r);
    return fits;
}

/* 8 late ones make the margin on work 12 %: 1700 tokens are 1.9 s with it.  A step of 512 ms that others share would
 * make it 2.4 s; a tenth of the 2 s is what such a margin may take. */
static void late_first_tokens_leave_time_for_what_shares_their_step(void **state)
{
    (void)state;
    assert_true(prompt_fits(false, true, 1850));
    assert_true(prompt_fits(true, false, 1700));
    assert_false(prompt_fits(true, true, 1700));
    assert_true(prompt_fits(true, true, 1590));
}

/* ---- intervals ---- */

/* The upper end of the interval, in ms, for a first token that came after `ms`. */
static double first_token_after(struct rig *r, uint64_t id, uint64_t ms)
{
    struct sched_record rec;

    rig_arrive(r, id, BRONZE, 10, 1);
    assert_null(refusal(r, id));
    r->now += ms * RIG_MS;
    rig_prefilled(r, id, rig_epoch(r, id), P, true);
    rig_released(r, id, rig_epoch(r, id), P, ERR_OK);
    rig_finish(r, id);
    assert_int_equal(sched_record_get(r->s, sched_record_next(r->s) - 1, &rec), ERR_OK);
    assert_int_equal(rec.request, id);
    return (double)rec.high.ttft / RIG_MS;
}

/* The load jumps: first tokens come ten times as late as forecast, with some scatter before. */
static void the_interval_of_first_tokens_follows_a_jump(void **state)
{
    uint64_t id = 1, n = 0;
    struct rig r;

    (void)state;
    open_plain(&r);
    for (; id <= 400; id++)
        (void)first_token_after(&r, id, 9 + id % 3);
    assert_true(first_token_after(&r, ++id, 10) < 15);
    while (first_token_after(&r, ++id, 100) < 100)
        n++;
    assert_in_range(n, 1, 40);
    rig_close(&r);
}

/* ---- probes ---- */

/* Steps of 7 ms and a token of prompt in 20 us, told as 30 times that. */
static void open_told_too_slow(struct rig *r)
{
    struct sched_class c = {.name = "slow", .kv_bytes_per_token = 1};
    struct sched_config cfg;
    struct err_msg msg;
    uint32_t k = 0;

    plain_config(&cfg);
    c.prefill.c[1] = 30 * 20e3;
    c.decode.c[0] = 30 * 7e6;
    rig_open(r, &cfg);
    assert_int_equal(sched_add_class(r->s, &c, &msg, &k), ERR_OK);
    rig_join_can(r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(r, D, SCHED_ROLE_DECODE, k, false);
}

static void say_step(struct rig *r, uint32_t worker, double n, double b, double ctx, double ms)
{
    struct sched_event e = {.kind = SCHED_EV_STEP, .worker = worker};

    e.u.step.did = (struct sched_step){.n = n, .n2 = n * n, .b = b, .ctx = ctx};
    e.u.step.ns = (uint64_t)(ms * 1e6);
    rig_apply(r, &e);
}

/* The prompt in one step and `tokens` more, one each, `times` as slow as steps really are; then it ends. */
static void run_alone(struct rig *r, uint64_t id, uint32_t n_prompt, uint32_t tokens, double times)
{
    double prompt = times * 0.02 * n_prompt, step = times * 7;

    r->now += (uint64_t)(prompt * 1e6);
    say_step(r, P, n_prompt, 0, 0, prompt);
    rig_prefilled(r, id, rig_epoch(r, id), P, false);
    rig_granted(r, id, rig_epoch(r, id), D, true);
    rig_handover(r, id, rig_epoch(r, id), D, true, ERR_OK);
    for (uint32_t k = 1; k <= tokens; k++) {
        r->now += (uint64_t)(step * 1e6);
        say_step(r, D, 0, 1, n_prompt + k, step);
    }
    rig_tokens(r, id, tokens + 1);
    rig_released(r, id, rig_epoch(r, id), P, ERR_OK);
    rig_released(r, id, rig_epoch(r, id), D, ERR_OK);
    rig_finish(r, id);
}

static uint64_t probes(const struct rig *r)
{
    struct sched_tier_stats t;
    uint64_t n = 0;

    for (uint32_t i = 0; i < r->cfg.n_tiers; i++) {
        sched_get_tier_stats(r->s, i, &t);
        n += t.probes;
    }
    return n;
}

static void a_belief_that_refuses_everything_is_asked_again_and_heals(void **state)
{
    struct sched_record rec;
    struct rig r;
    uint64_t id = 1;

    (void)state;
    open_told_too_slow(&r);
    for (; id <= 10; id++) { /* the first 2 s */
        rig_arrive(&r, id, GOLD, 1000, 60);
        assert_non_null(refusal(&r, id));
        r.now += 200 * RIG_MS;
    }
    r.now += 2000 * RIG_MS; /* nothing was run for 4 s */
    rig_arrive(&r, ++id, GOLD, 1000, 60);
    assert_null(refusal(&r, id));
    assert_int_equal(probes(&r), 1);
    rig_arrive(&r, id + 1, GOLD, 1000, 60); /* one is enough to find out */
    assert_non_null(refusal(&r, id + 1));
    run_alone(&r, id, 1000, 50, 1);
    assert_int_equal(sched_record_get(r.s, sched_record_next(r.s) - 1, &rec), ERR_OK);
    assert_int_equal(rec.request, id);
    assert_true(rec.probe);
    rig_arrive(&r, 100, GOLD, 1000, 60); /* known now */
    assert_null(refusal(&r, 100));
    assert_int_equal(probes(&r), 1);
    rig_close(&r);
}

/* Machines that really are so slow: the pauses between probes grow, and margins stay as they are. */
static void probes_that_find_the_belief_right_become_rare(void **state)
{
    struct sched_tier_stats t;
    struct rig r;

    (void)state;
    open_told_too_slow(&r);
    for (uint64_t id = 1; id <= 600; id++) { /* two minutes */
        uint64_t now = r.now;

        rig_arrive(&r, id, GOLD, 1000, 60);
        if (refusal(&r, id) == NULL)
            run_alone(&r, id, 1000, 2, 30);
        r.now = r.now > now + 200 * RIG_MS ? r.now : now + 200 * RIG_MS;
    }
    assert_in_range(probes(&r), 3, 8);
    sched_get_tier_stats(r.s, GOLD, &t);
    assert_int_equal(t.broken, t.admitted); /* said as it is */
    assert_true(t.margin <= 0);
    rig_close(&r);
}

/* The belief of a worker with work to do is checked by that work. */
static void busy_workers_are_not_probed(void **state)
{
    struct rig r;

    (void)state;
    open_plain(&r); /* exact laws: nothing to find out either */
    r.now += 10000 * RIG_MS;
    rig_arrive(&r, 1, GOLD, 800, 10);
    assert_non_null(refusal(&r, 1));
    rig_close(&r);
    open_told_too_slow(&r);
    rig_arrive(&r, 1, BRONZE, 10000, 1); /* 6 s as told: in time, and running */
    assert_null(refusal(&r, 1));
    r.now += 5000 * RIG_MS;
    rig_arrive(&r, 2, GOLD, 1000, 1);
    assert_non_null(refusal(&r, 2));
    assert_int_equal(probes(&r), 0);
    rig_close(&r);
}

/* ---- slow start ---- */

static uint32_t in_queue_of(const struct rig *r, uint32_t worker, uint64_t first, uint64_t last)
{
    uint32_t n = 0;

    for (uint64_t id = first; id <= last; id++)
        n += rig_prefill_of(r, id) == worker;
    return n;
}

/* Machines of a kind that nobody knows take two prompts and wait, be it the first day or a later one. */
static void unknown_machines_start_slowly_whenever_they_come(void **state)
{
    struct sched_class c = {.name = "new", .kv_bytes_per_token = 1};
    struct sched_config cfg;
    struct err_msg msg;
    struct rig r;
    uint32_t k = 0;

    (void)state;
    plain_config(&cfg);
    cfg.prefill_window_tokens = 100000; /* who is bound is sent */
    open_with(&r, &cfg, 10);
    rig_arrive(&r, 1, GOLD, 100, 1);
    rig_prefilled(&r, 1, rig_epoch(&r, 1), P, true);
    rig_released(&r, 1, rig_epoch(&r, 1), P, ERR_OK);
    rig_finish(&r, 1);
    rig_leave(&r, P);
    r.now += 3600 * 1000 * RIG_MS;
    assert_int_equal(sched_add_class(r.s, &c, &msg, &k), ERR_OK);
    rig_join_can(&r, P2, SCHED_ROLE_PREFILL, k, true);
    for (uint64_t id = 10; id < 20; id++)
        rig_arrive(&r, id, BRONZE, 1000, 1);
    assert_int_equal(in_queue_of(&r, P2, 10, 19), 2);
    for (int i = 0; i < 2; i++) { /* it says what its first step took; another prompt comes in */
        r.now += 200 * RIG_MS;
        say_step(&r, P2, 1000, 0, 0, 200);
        rig_prefilled(&r, 10 + (uint64_t)i, rig_epoch(&r, 10 + (uint64_t)i), P2, true);
    }
    assert_int_equal(in_queue_of(&r, P2, 12, 19), 2);
    rig_close(&r);
}

/* One that reports no steps is not waited for. */
static void machines_that_never_say_how_long_steps_take_are_taken_as_they_are(void **state)
{
    struct sched_class c = {.name = "mute", .kv_bytes_per_token = 1};
    struct sched_config cfg;
    struct err_msg msg;
    struct rig r;
    uint32_t k = 0;

    (void)state;
    plain_config(&cfg);
    cfg.prefill_window_tokens = 100000; /* who is bound is sent */
    cfg.tiers[BRONZE].ttft_ns = 60000 * RIG_MS;
    rig_open(&r, &cfg);
    assert_int_equal(sched_add_class(r.s, &c, &msg, &k), ERR_OK);
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, k, false);
    for (uint64_t id = 10; id < 20; id++)
        rig_arrive(&r, id, BRONZE, 1000, 1);
    assert_int_equal(in_queue_of(&r, P, 10, 19), 2);
    r.now += 11000 * RIG_MS;
    rig_prefilled(&r, 10, rig_epoch(&r, 10), P, true);
    assert_true(in_queue_of(&r, P, 11, 19) > 2);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_queue_has_no_price_before_somebody_was_turned_away),
        cmocka_unit_test(after_that_a_price_refuses_what_costs_more_than_it_is_worth),
        cmocka_unit_test(who_a_price_refuses_is_told_when_it_will_have_sunk),
        cmocka_unit_test(a_price_for_decode_names_the_room_and_arms_itself),
        cmocka_unit_test(who_is_turned_away_is_seen_however_late_it_is_told),
        cmocka_unit_test(long_prompts_that_lag_behind_may_push_out_more_of_looser_tiers),
        cmocka_unit_test(the_percentile_of_a_tier_sets_its_margin),
        cmocka_unit_test(late_first_tokens_leave_time_for_what_shares_their_step),
        cmocka_unit_test(the_interval_of_first_tokens_follows_a_jump),
        cmocka_unit_test(a_belief_that_refuses_everything_is_asked_again_and_heals),
        cmocka_unit_test(probes_that_find_the_belief_right_become_rare),
        cmocka_unit_test(busy_workers_are_not_probed),
        cmocka_unit_test(unknown_machines_start_slowly_whenever_they_come),
        cmocka_unit_test(machines_that_never_say_how_long_steps_take_are_taken_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
