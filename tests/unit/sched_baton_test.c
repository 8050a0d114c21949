/* tests/unit/sched_baton_test.c - the policy "baton" by hand: who is promised what, who makes way, and what a refusal
 * says.  One token of prompt takes a millisecond, a decode step ten, so that every number below is plain. */
#include "tests/unit/sched_baton_rig.h"

/* Bronze prompts of 0.9 s, as many as can be in time; how many those are. */
static uint64_t fill_with_bronze(struct rig *r)
{
    for (uint64_t id = 100;; id++) {
        rig_arrive(r, id, BRONZE, 900, 10);
        if (refusal(r, id) != NULL)
            return id - 100;
        assert_true(id < 130);
    }
}

static void an_idle_pool_serves_at_once(void **state)
{
    struct rig r;

    (void)state;
    open_plain(&r);
    rig_arrive(&r, 1, GOLD, 300, 10);
    assert_non_null(rig_find(&r, SCHED_ACT_PREFILL));
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->worker, P);
    assert_int_equal(rig_decode_of(&r, 1), D);
    rig_close(&r);
}

static void what_cannot_be_in_time_is_refused_at_once_and_says_why(void **state)
{
    const struct sched_action *no;
    struct rig r;

    (void)state;
    open_plain(&r);
    rig_arrive(&r, 1, GOLD, 800, 10); /* 800 ms of work for a promise of 500 */
    no = refusal(&r, 1);
    assert_non_null(no);
    assert_int_equal(no->reason, SCHED_REASON_TTFT);
    assert_int_equal(no->refusal.resource, SCHED_RES_PREFILL_TIME);
    assert_int_equal(no->refusal.target_ns, 500 * RIG_MS);
    assert_true(no->refusal.predicted_ns >= 800 * RIG_MS);
    assert_true(no->retry_after_ns > 0);
    assert_int_equal(rig_stats(&r).claims, 0);
    rig_close(&r);
}

/* A second after the clock began, with decode steps of 5 s: the time to leave for them lies before it. */
static void steps_longer_than_the_clock_is_old_leave_no_time(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    open_with(&r, &cfg, 5000);
    rig_arrive(&r, 1, GOLD, 100, 10);
    assert_non_null(refusal(&r, 1));
    assert_int_equal(refusal(&r, 1)->reason, SCHED_REASON_TTFT);
    rig_close(&r);
}

/* The same beside another prompt, whose step takes what little of the clock is left. */
static void nor_do_shared_steps_beside_them(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.local_prefill = false;
    for (uint32_t t = 0; t < cfg.n_tiers; t++)
        cfg.tiers[t].tbt_ns = 2000 * RIG_MS;
    open_with(&r, &cfg,
              1740); /* 3.48 s for two steps, 2 s of it in hand: 20 ms after the clock began */
    rig_arrive(&r, 1, BRONZE, 900, 10);
    assert_null(refusal(&r, 1));
    rig_arrive(&r, 2, GOLD, 100, 10);
    assert_non_null(refusal(&r, 2));
    assert_int_equal(refusal(&r, 2)->reason, SCHED_REASON_TTFT);
    rig_close(&r);
}

static void no_more_is_promised_than_can_be_kept(void **state)
{
    struct rig r;
    uint64_t n;

    (void)state;
    open_plain(&r);
    n = fill_with_bronze(&r);
    assert_in_range(n, 8, 11); /* 0.9 s each within 10 s, with some margin */
    rig_close(&r);
}

static void a_tighter_promise_overtakes_what_has_time(void **state)
{
    uint64_t bronze;
    struct rig r;

    (void)state;
    open_plain(&r);
    rig_arrive(&r, 1, BRONZE, 900, 10);
    assert_non_null(rig_find(&r, SCHED_ACT_PREFILL));
    bronze = rig_find(&r, SCHED_ACT_PREFILL)->order;
    rig_arrive(&r, 2, GOLD, 100, 10);
    assert_non_null(rig_find(&r, SCHED_ACT_PREFILL));
    assert_true(rig_find(&r, SCHED_ACT_PREFILL)->order < bronze);
    rig_close(&r);
}

static void what_is_worth_less_makes_way_and_is_told(void **state)
{
    const struct sched_action *out;
    struct rig r;

    (void)state;
    open_plain(&r);
    (void)fill_with_bronze(&r);
    for (uint64_t id = 200; refusal(&r, id - 1) == NULL; id++)
        rig_arrive(&r, id, BRONZE, 100, 10);
    rig_arrive(&r, 1, GOLD, 400, 10);
    assert_null(refusal(&r, 1));
    out = rig_find(&r, SCHED_ACT_REJECT);
    assert_non_null(out);
    assert_true(out->request >= 100);
    assert_int_equal(out->reason, SCHED_REASON_DISPLACED);
    assert_int_equal(rig_count(&r, SCHED_ACT_REJECT), 1);
    rig_close(&r);
}

static void what_was_dispatched_never_makes_way(void **state)
{
    struct rig r;

    (void)state;
    open_plain(&r);
    rig_arrive(&r, 1, SILVER, 1700, 10); /* runs, and has no time to spare */
    assert_non_null(rig_find(&r, SCHED_ACT_PREFILL));
    rig_arrive(&r, 2, GOLD, 400, 10);
    assert_non_null(refusal(&r, 2));
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_PREFILLING);
    rig_close(&r);
}

static void a_promise_on_decode_counts_the_step_time(void **state)
{
    struct sched_config cfg;
    const struct sched_action *no;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    open_with(&r, &cfg, 40); /* gold wants a token every 30 ms */
    rig_arrive(&r, 1, GOLD, 100, 10);
    no = refusal(&r, 1);
    assert_non_null(no);
    assert_int_equal(no->reason, SCHED_REASON_TBT);
    assert_int_equal(no->refusal.resource, SCHED_RES_DECODE_TIME);
    assert_int_equal(no->refusal.target_ns, 30 * RIG_MS);
    rig_arrive(&r, 2, SILVER, 100, 10); /* 100 ms are enough for silver */
    assert_null(refusal(&r, 2));
    rig_close(&r);
}

static void tier_rule_downgrade_serves_at_the_next_looser_tier(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[GOLD].on_miss = SCHED_MISS_DOWNGRADE;
    open_with(&r, &cfg, 10);
    rig_arrive(&r, 1, GOLD, 800, 10);
    assert_non_null(rig_find(&r, SCHED_ACT_TIER));
    assert_int_equal(rig_find(&r, SCHED_ACT_TIER)->terms.tier, SILVER);
    assert_non_null(rig_find(&r, SCHED_ACT_PREFILL));
    rig_close(&r);
}

/* What the workers of an idle pair are told that it was promised. */
static struct sched_terms terms_of(uint32_t n_prompt, uint64_t ttft_ms, uint64_t tbt_ms)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = 1};
    struct sched_config cfg;
    struct sched_terms terms;
    struct rig r;

    plain_config(&cfg);
    cfg.tiers[GOLD].on_miss = SCHED_MISS_DOWNGRADE;
    cfg.tiers[GOLD].ttft_ns = 500 * RIG_MS;
    cfg.tiers[GOLD].tbt_ns = 50 * RIG_MS;
    cfg.tiers[SILVER].ttft_ns = 2000 * RIG_MS;
    cfg.tiers[SILVER].tbt_ns = 100 * RIG_MS;
    open_with(&r, &cfg, 10);
    e.u.arrive.tier = GOLD;
    e.u.arrive.n_prompt = n_prompt;
    e.u.arrive.max_new = 10;
    e.u.arrive.arrived_ns = r.now;
    e.u.arrive.ttft_ns = ttft_ms * RIG_MS;
    e.u.arrive.tbt_ns = tbt_ms * RIG_MS;
    rig_apply(&r, &e);
    assert_non_null(rig_find(&r, SCHED_ACT_PREFILL));
    terms = rig_find(&r, SCHED_ACT_PREFILL)->terms;
    terms.deadline_ns -= r.now;
    rig_close(&r);
    return terms;
}

static void own_targets_of_a_request_loosen_those_of_its_tier_and_never_tighten_them(void **state)
{
    struct sched_terms t;

    (void)state;
    t = terms_of(100, 1, 1);
    assert_int_equal(t.deadline_ns, 500 * RIG_MS);
    assert_int_equal(t.tbt_ns, 50 * RIG_MS);
    t = terms_of(100, 1500, 200);
    assert_int_equal(t.deadline_ns, 1500 * RIG_MS);
    assert_int_equal(t.tbt_ns, 200 * RIG_MS);
    t = terms_of(800, 700, 70); /* served at silver: looser than gold's is not enough there */
    assert_int_equal(t.tier, SILVER);
    assert_int_equal(t.deadline_ns, 2000 * RIG_MS);
    assert_int_equal(t.tbt_ns, 100 * RIG_MS);
}

static void tier_rule_wait_holds_until_it_is_hopeless(void **state)
{
    struct sched_config cfg;
    uint64_t first = 0;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[BRONZE].on_miss = SCHED_MISS_WAIT;
    open_with(&r, &cfg, 10);
    for (uint64_t id = 100; id < 111; id++) /* more than fit */
        rig_arrive(&r, id, BRONZE, 900, 10);
    rig_arrive(&r, 200, BRONZE, 900, 10);
    assert_null(refusal(&r, 200));
    assert_int_equal(rig_state(&r, 200), SCHED_STATE_QUEUED);
    for (int k = 0; k < 200 && first == 0;
         k++) { /* nothing moves: 0.9 s before its 10 s are over */
        rig_timer(&r, r.now + 100 * RIG_MS);
        if (refusal(&r, 200) != NULL)
            first = r.now;
    }
    assert_in_range(first, 9500 * RIG_MS, 10200 * RIG_MS); /* arrived at 1000 ms */
    rig_close(&r);
}

static void the_decode_worker_with_more_room_is_chosen(void **state)
{
    struct sched_config cfg;
    uint32_t on_first, on_second;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.prefill_window_tokens = 4096;
    open_with(&r, &cfg, 10);
    rig_join_can(&r, D2, SCHED_ROLE_DECODE, 1, false);
    rig_arrive(&r, 1, BRONZE, 2000, 1000);
    on_first = rig_decode_of(&r, 1);
    rig_arrive(&r, 2, BRONZE, 100, 1000);
    on_second = rig_decode_of(&r, 2);
    assert_int_not_equal(on_first, 0);
    assert_int_not_equal(on_second, 0);
    assert_int_not_equal(on_first, on_second);
    rig_close(&r);
}

/* A stream that steps pass over stays as long as it is; its worker says so with every report. */
static void a_stream_that_got_no_tokens_still_holds_its_room(void **state)
{
    struct sched_event report = {.kind = SCHED_EV_WORKER_REPORT, .worker = D};
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.local_prefill = false;
    open_quick(&r, &cfg);
    rig_arrive(&r, 1, SILVER, 15000, 500); /* of 16,000 */
    rig_granted(&r, 1, rig_epoch(&r, 1), D, true);
    rig_prefilled(&r, 1, rig_epoch(&r, 1), P, false);
    rig_handover(&r, 1, rig_epoch(&r, 1), D, true, ERR_OK);
    assert_int_equal(rig_state(&r, 1), SCHED_STATE_DECODING);
    rig_tokens(&r, 1, 1);
    report.u.report.steps = 600; /* more than it has left, had it been in each */
    report.u.report.running = 1;
    report.u.report.step_ns = 10 * RIG_MS;
    r.now += 6000 * RIG_MS;
    rig_apply(&r, &report);
    rig_tokens(&r, 1, 1);
    rig_arrive(&r, 2, SILVER, 15000, 5);
    assert_non_null(refusal(&r, 2));
    assert_int_equal(refusal(&r, 2)->refusal.resource, SCHED_RES_DECODE_ROOM);
    rig_close(&r);
}

/* To try again later, as a refusal says, would never help it. */
static void a_request_that_fills_the_room_to_the_last_gets_an_empty_worker(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.local_prefill = false;
    open_quick(&r, &cfg);
    rig_arrive(&r, 1, SILVER, 15500, 500); /* of 16,000 */
    assert_int_equal(rig_prefill_of(&r, 1), P);
    rig_arrive(&r, 2, SILVER, 15500, 500);
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_close(&r);
}

static void who_was_admitted_is_served_after_its_worker_died(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    open_with(&r, &cfg, 10);
    rig_arrive(&r, 1, GOLD, 400, 10);
    assert_int_equal(rig_prefill_of(&r, 1), P);
    r.now += 300 * RIG_MS;
    rig_join_can(&r, P2, SCHED_ROLE_PREFILL, 1, true);
    rig_leave(&r, P); /* 400 ms of work and 200 left: late, but promised */
    assert_int_equal(rig_prefill_of(&r, 1), P2);
    rig_close(&r);
}

/* Gold without end: it is worth four times as much, and there is never time for both. */
static void a_tier_that_got_nothing_for_its_bound_gets_in(void **state)
{
    struct sched_config cfg;
    bool in = false;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[BRONZE].ttft_ns = 500 * RIG_MS;
    cfg.tiers[BRONZE].starvation_ns = 2000 * RIG_MS;
    open_with(&r, &cfg, 10);
    for (uint64_t k = 0; k < 60 && !in; k++) {
        uint64_t running = 1000 + 2 * k;

        rig_arrive(&r, running, GOLD, 300, 1);
        rig_arrive(&r, running + 1, GOLD, 150, 1);
        rig_arrive(&r, 5000 + k, BRONZE, 300, 1);
        in = refusal(&r, 5000 + k) == NULL;
        assert_true(k > 15 || !in); /* not before its bound */
        r.now += 150 * RIG_MS;
        for (uint64_t id = 1000; id <= running + 1; id++)
            if (rig_state(&r, id) == SCHED_STATE_PREFILLING)
                rig_prefilled(&r, id, rig_epoch(&r, id), P, true);
    }
    assert_true(in);
    rig_close(&r);
}

/* Nobody of its tier asked for longer than the bound: that is no starving. */
static void a_tier_that_did_not_ask_has_not_starved(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[BRONZE].ttft_ns = 500 * RIG_MS;
    cfg.tiers[BRONZE].starvation_ns = 2000 * RIG_MS;
    open_with(&r, &cfg, 10);
    rig_arrive(&r, 1, BRONZE, 100, 1);
    rig_prefilled(&r, 1, 1, P, true);
    r.now += 60000 * RIG_MS;
    rig_arrive(&r, 2, GOLD, 200, 1); /* runs */
    rig_arrive(&r, 3, GOLD, 200, 1); /* waits, and has no time to spare */
    rig_arrive(&r, 4, BRONZE, 100, 1);
    assert_non_null(refusal(&r, 4));
    assert_null(refusal(&r, 3));
    rig_close(&r);
}

/* Answers that need more KV than there is, without end; how long after the first in vain a bronze one gets in, in ms.
 * patience_ms: bronze's time to first token. */
static uint64_t starves_for(uint64_t bound_ms, uint64_t patience_ms, enum sched_reason *why)
{
    uint64_t vain = 0, took = 0;
    struct sched_config cfg;
    struct rig r;

    plain_config(&cfg);
    cfg.tiers[BRONZE].starvation_ns = bound_ms * RIG_MS;
    cfg.tiers[BRONZE].ttft_ns = patience_ms * RIG_MS;
    open_quick(&r, &cfg);
    for (uint64_t id = 100; id < 1100 && took == 0; id++) {
        const struct sched_action *no;

        rig_arrive(&r, id, SILVER, 2000, 2000);
        if (rig_state(&r, id) == SCHED_STATE_PREFILLING)
            rig_prefilled(&r, id, rig_epoch(&r, id), P, true);
        rig_arrive(&r, 10000 + id, BRONZE, 4000, 2000);
        no = refusal(&r, 10000 + id);
        if (no != NULL && vain == 0)
            vain = r.now;
        if (no != NULL)
            *why = no->reason;
        else if (vain != 0)
            took = r.now - vain;
        if (no == NULL && rig_state(&r, 10000 + id) == SCHED_STATE_PREFILLING)
            rig_prefilled(&r, 10000 + id, rig_epoch(&r, 10000 + id), P, true);
        r.now += 50 * RIG_MS;
    }
    rig_close(&r);
    return took / RIG_MS;
}

static void a_tier_that_a_price_shuts_out_gets_in_after_its_bound(void **state)
{
    enum sched_reason why = SCHED_REASON_NONE;
    uint64_t took;

    (void)state;
    took = starves_for(2000, 10000, &why);
    assert_int_equal(why, SCHED_REASON_PRICE);
    assert_in_range(took, 2000, 2200);
}

/* Its prompts are in time, its answers would wait for room. */
static void a_tier_without_room_to_decode_gets_in_after_its_bound(void **state)
{
    enum sched_reason why = SCHED_REASON_NONE;
    uint64_t took;

    (void)state;
    took = starves_for(2000, 500, &why);
    assert_int_equal(why, SCHED_REASON_TBT);
    assert_in_range(took, 2000, 2200);
}

/* Each bronze one gets a place in the queue, and each is pushed out again by gold. */
static void a_tier_that_is_always_displaced_stays_after_its_bound(void **state)
{
    struct sched_config cfg;
    bool displaced = true;
    uint64_t vain;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[BRONZE].ttft_ns = 500 * RIG_MS;
    cfg.tiers[BRONZE].starvation_ns = 2000 * RIG_MS;
    open_with(&r, &cfg, 10);
    vain = r.now;
    for (uint64_t id = 100; displaced; id += 10) {
        assert_true(id < 200);
        rig_arrive(&r, id, GOLD, 250, 1); /* runs */
        rig_arrive(&r, id + 1, BRONZE, 100, 1);
        assert_null(refusal(&r, id + 1));
        rig_arrive(&r, id + 2, GOLD, 150, 1); /* has time for one of the two */
        displaced = refusal(&r, id + 1) != NULL;
        if (displaced)
            assert_int_equal(refusal(&r, id + 1)->reason, SCHED_REASON_DISPLACED);
        else
            assert_non_null(refusal(&r, id + 2));
        assert_int_equal(displaced, r.now <= vain + 2000 * RIG_MS);
        r.now += 250 * RIG_MS;
        rig_prefilled(&r, id, 1, P, true);
        r.now += 150 * RIG_MS;
        rig_prefilled(&r, displaced ? id + 2 : id + 1, 1, P, true);
    }
    rig_close(&r);
}

/* Nobody could show yet how fast those that wait get in. */
static void a_burst_at_one_instant_is_held_and_those_that_come_later_are_told(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[BRONZE].on_miss = SCHED_MISS_WAIT;
    open_with(&r, &cfg, 10);
    for (uint64_t id = 100; id < 140;
         id++) { /* of 0.9 s each: 10 s are enough for a quarter of them */
        rig_arrive(&r, id, BRONZE, 900, 1);
        assert_null(refusal(&r, id));
    }
    r.now += 500 * RIG_MS;
    rig_arrive(&r, 140, BRONZE, 2000, 1);
    assert_non_null(refusal(&r, 140));
    rig_close(&r);
}

/* Those that a downgrade made wait at a looser tier, and that went, are in nobody's way there. */
static void who_waited_at_another_tier_and_went_is_counted_no_more(void **state)
{
    struct sched_config cfg;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.tiers[GOLD].on_miss = SCHED_MISS_DOWNGRADE;
    cfg.tiers[SILVER].on_miss = SCHED_MISS_WAIT;
    open_with(&r, &cfg, 10);
    rig_arrive(&r, 1, SILVER, 1700, 10); /* runs, and has no time to spare */
    for (uint64_t id = 10; id < 20; id++) {
        rig_arrive(&r, id, GOLD, 600, 10);
        rig_cancel(&r, id);
    }
    rig_arrive(&r, 2, SILVER, 600, 10);
    assert_null(refusal(&r, 2));
    assert_int_equal(rig_state(&r, 2), SCHED_STATE_QUEUED);
    rig_close(&r);
}

/* Silver prompts in front, bronze behind them, no time to spare, and one more silver one. */
static void crowd(struct rig *r, bool local)
{
    struct sched_config cfg;
    uint32_t k;

    plain_config(&cfg);
    rig_open(r, &cfg);
    k = add_class(r, 10);
    rig_join_can(r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(r, D, SCHED_ROLE_DECODE, k, local);
    rig_arrive(r, 1, SILVER, 1200, 10);
    for (uint64_t id = 100; id < 130; id++)
        rig_arrive(r, id, BRONZE, 305, 10);
    rig_arrive(r, 1000, SILVER, 290, 10);
}

/* One that is pushed out too often is left alone; that must not be used up by prompts that go elsewhere. */
static void who_goes_to_a_decode_worker_pushes_nobody_out_of_a_queue(void **state)
{
    struct rig r;

    (void)state;
    crowd(&r, false);
    assert_null(refusal(&r, 1000));
    assert_int_equal(rig_count(&r, SCHED_ACT_REJECT), 1); /* without that way one has to go */
    rig_close(&r);
    crowd(&r, true);
    for (uint64_t id = 1000; id < 1300; id++) {
        if (id > 1000)
            rig_arrive(&r, id, SILVER, 290, 10);
        assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->worker, D);
        rig_prefilled(&r, id, 1, D, true);
        rig_finish(&r, id);
        rig_released(&r, id, 1, D, ERR_OK);
        rig_arrive(&r, id + 1000, BRONZE, 305, 10); /* margins shrink: still no time to spare */
    }
    rig_arrive(&r, 99, GOLD, 310, 1);
    assert_null(refusal(&r, 99));
    rig_close(&r);
}

/* Hand-overs take ten times as long as their prompts: what is promised comes over one after the other. */
/* The KV of a prompt takes ten times as long on the way as it takes to compute. */
static uint32_t open_slow_links(struct rig *r)
{
    struct sched_class c = {.name = "slow", .frozen = true};
    struct sched_config cfg;
    struct err_msg msg;
    uint32_t k;

    plain_config(&cfg);
    rig_open(r, &cfg);
    c.prefill.c[1] = 1e6;
    c.decode.c[0] = 10e6;
    c.kv_bytes_per_token = 1;
    c.link_bytes_per_s = 100;
    assert_int_equal(sched_add_class(r->s, &c, &msg, &k), ERR_OK);
    rig_join_can(r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(r, D, SCHED_ROLE_DECODE, k, false);
    return k;
}

static void a_slow_link_has_a_queue_that_is_promised_away(void **state)
{
    uint64_t last = 1;
    struct rig r;

    (void)state;
    open_slow_links(&r);
    rig_arrive(&r, last, SILVER, 100, 1000); /* there after 1 s */
    assert_null(refusal(&r, last));
    while (refusal(&r, last) == NULL && last < 5)
        rig_arrive(&r, ++last, SILVER, 100, 1000);
    assert_in_range(last, 2, 3); /* two of 2 s, or one with a margin */
    assert_int_equal(refusal(&r, last)->reason, SCHED_REASON_TBT);
    assert_int_equal(refusal(&r, last)->refusal.resource, SCHED_RES_LINK_TIME);
    r.now += 100 * RIG_MS;
    rig_prefilled(&r, 1, 1, P, false);
    rig_granted(&r, 1, 1, D, true);
    r.now += 900 * RIG_MS;
    rig_handover(&r, 1, 1, D, true, ERR_OK);
    rig_arrive(&r, 9, SILVER, 100, 1000);
    assert_null(refusal(&r, 9));
    rig_close(&r);
}

/* Its transfer class goes first; and what it brings makes those behind it late. */
static void gold_does_not_wait_for_the_bytes_of_bronze(void **state)
{
    struct rig r;

    (void)state;
    open_slow_links(&r);
    for (uint64_t id = 100; id < 105; id++) { /* 5 s of 10 */
        rig_arrive(&r, id, BRONZE, 100, 1000);
        assert_null(refusal(&r, id));
    }
    rig_arrive(&r, 1, GOLD, 30, 1000); /* 300 ms of 500 */
    assert_null(refusal(&r, 1));
    rig_arrive(&r, 2, GOLD, 30, 1000);
    assert_non_null(refusal(&r, 2));
    assert_int_equal(refusal(&r, 2)->refusal.resource, SCHED_RES_LINK_TIME);
    rig_arrive(&r, 108, BRONZE, 100, 1000);
    assert_null(refusal(&r, 108));
    for (uint64_t id = 3; id < 7;
         id++) { /* the link is nearly theirs: bronze would come too late */
        r.now += 350 * RIG_MS;
        rig_prefilled(&r, id == 3 ? 1 : id - 1, 1, P, false);
        rig_granted(&r, id == 3 ? 1 : id - 1, 1, D, true);
        rig_handover(&r, id == 3 ? 1 : id - 1, 1, D, true, ERR_OK);
        rig_arrive(&r, id, GOLD, 30, 1000);
        assert_null(refusal(&r, id));
    }
    rig_arrive(&r, 109, BRONZE, 10, 1000);
    assert_non_null(refusal(&r, 109));
    rig_close(&r);
}

static void of_two_idle_prefill_workers_the_one_whose_card_is_free_computes(void **state)
{
    struct rig r;

    (void)state;
    rig_join_can(&r, P2, SCHED_ROLE_PREFILL, open_slow_links(&r), true);
    rig_arrive(&r, 1, BRONZE, 100, 1000);
    rig_prefilled(&r, 1, 1, rig_find(&r, SCHED_ACT_PREFILL)->worker,
                  false); /* its KV is on its way */
    rig_arrive(&r, 2, BRONZE, 100, 1000);
    assert_int_equal(rig_find(&r, SCHED_ACT_PREFILL)->worker, P2);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_pool_serves_at_once),
        cmocka_unit_test(what_cannot_be_in_time_is_refused_at_once_and_says_why),
        cmocka_unit_test(steps_longer_than_the_clock_is_old_leave_no_time),
        cmocka_unit_test(nor_do_shared_steps_beside_them),
        cmocka_unit_test(no_more_is_promised_than_can_be_kept),
        cmocka_unit_test(a_tighter_promise_overtakes_what_has_time),
        cmocka_unit_test(what_is_worth_less_makes_way_and_is_told),
        cmocka_unit_test(what_was_dispatched_never_makes_way),
        cmocka_unit_test(a_promise_on_decode_counts_the_step_time),
        cmocka_unit_test(tier_rule_downgrade_serves_at_the_next_looser_tier),
        cmocka_unit_test(own_targets_of_a_request_loosen_those_of_its_tier_and_never_tighten_them),
        cmocka_unit_test(tier_rule_wait_holds_until_it_is_hopeless),
        cmocka_unit_test(the_decode_worker_with_more_room_is_chosen),
        cmocka_unit_test(a_stream_that_got_no_tokens_still_holds_its_room),
        cmocka_unit_test(a_request_that_fills_the_room_to_the_last_gets_an_empty_worker),
        cmocka_unit_test(who_was_admitted_is_served_after_its_worker_died),
        cmocka_unit_test(a_tier_that_got_nothing_for_its_bound_gets_in),
        cmocka_unit_test(a_tier_that_did_not_ask_has_not_starved),
        cmocka_unit_test(a_slow_link_has_a_queue_that_is_promised_away),
        cmocka_unit_test(gold_does_not_wait_for_the_bytes_of_bronze),
        cmocka_unit_test(of_two_idle_prefill_workers_the_one_whose_card_is_free_computes),
        cmocka_unit_test(a_tier_that_a_price_shuts_out_gets_in_after_its_bound),
        cmocka_unit_test(a_tier_without_room_to_decode_gets_in_after_its_bound),
        cmocka_unit_test(a_tier_that_is_always_displaced_stays_after_its_bound),
        cmocka_unit_test(a_burst_at_one_instant_is_held_and_those_that_come_later_are_told),
        cmocka_unit_test(who_goes_to_a_decode_worker_pushes_nobody_out_of_a_queue),
        cmocka_unit_test(who_waited_at_another_tier_and_went_is_counted_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
