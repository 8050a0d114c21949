/* tests/unit/sched_baton_test.c - the policy "baton" by hand: who is promised what, who makes way, and what a refusal
 * says.  One token of prompt takes a millisecond, a decode step ten, so that every number below is plain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, P2 = 2, D = 11, D2 = 12, GOLD = 0, SILVER = 1, BRONZE = 2 };

/* Gold 500 ms, silver 2 s, bronze 10 s to the first token, whatever the prompt; each refuses. */
static void plain_config(struct sched_config *cfg)
{
    sched_config_defaults(cfg);
    snprintf(cfg->policy, sizeof(cfg->policy), "baton");
    cfg->prefill_window_tokens = 100;
    for (uint32_t t = 0; t < cfg->n_tiers; t++) {
        cfg->tiers[t].ttft_factor = 0;
        cfg->tiers[t].reserved = 0;
        cfg->tiers[t].on_miss = SCHED_MISS_REFUSE;
    }
}

static uint32_t add_class(struct rig *r, double step_ms)
{
    struct sched_class c = {.name = "test", .frozen = true};
    struct err_msg msg;
    uint32_t id = 0;

    c.prefill.c[1] = 1e6;
    c.decode.c[0] = step_ms * 1e6;
    c.kv_bytes_per_token = 1;
    assert_int_equal(sched_add_class(r->s, &c, &msg, &id), ERR_OK);
    return id;
}

/* One prefill and one decode worker. */
static void open_with(struct rig *r, const struct sched_config *cfg, double step_ms)
{
    uint32_t k;

    rig_open(r, cfg);
    k = add_class(r, step_ms);
    rig_join_can(r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(r, D, SCHED_ROLE_DECODE, k, false);
}

static void open_plain(struct rig *r)
{
    struct sched_config cfg;

    plain_config(&cfg);
    open_with(r, &cfg, 10);
}

static const struct sched_action *refusal(const struct rig *r, uint64_t id)
{
    for (size_t i = 0; i < r->act.n; i++)
        if (r->act.v[i].kind == SCHED_ACT_REJECT && r->act.v[i].request == id)
            return &r->act.v[i];
    return NULL;
}

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
    struct sched_class c = {.name = "fast", .frozen = true, .kv_bytes_per_token = 1};
    struct sched_config cfg;
    struct err_msg msg;
    uint32_t k = 0;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    cfg.local_prefill = false;
    c.prefill.c[1] = 1e3;
    c.decode.c[0] = 10e6;
    rig_open(&r, &cfg);
    assert_int_equal(sched_add_class(r.s, &c, &msg, &k), ERR_OK);
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, k, false);
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
    struct sched_class c = {.name = "room", .frozen = true, .kv_bytes_per_token = 1};
    uint64_t vain = 0, took = 0;
    struct sched_config cfg;
    struct err_msg msg;
    uint32_t k = 0;
    struct rig r;

    plain_config(&cfg);
    cfg.tiers[BRONZE].starvation_ns = bound_ms * RIG_MS;
    cfg.tiers[BRONZE].ttft_ns = patience_ms * RIG_MS;
    c.prefill.c[1] = 1e3;
    c.decode.c[0] = 10e6;
    rig_open(&r, &cfg);
    assert_int_equal(sched_add_class(r.s, &c, &msg, &k), ERR_OK);
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, k, false);
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
    rig_arrive(&r, 3, BRONZE, 200, 1); /* worth its price */
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
    struct sched_class c = {.name = "room", .frozen = true, .kv_bytes_per_token = 1};
    struct sched_config cfg;
    struct err_msg msg;
    uint32_t k = 0;
    struct rig r;

    (void)state;
    plain_config(&cfg);
    c.prefill.c[1] = 1e3;
    c.decode.c[0] = 10e6;
    rig_open(&r, &cfg);
    assert_int_equal(sched_add_class(r.s, &c, &msg, &k), ERR_OK);
    rig_join_can(&r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(&r, D, SCHED_ROLE_DECODE, k, false);
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
        cmocka_unit_test(a_full_queue_has_no_price_before_somebody_was_turned_away),
        cmocka_unit_test(after_that_a_price_refuses_what_costs_more_than_it_is_worth),
        cmocka_unit_test(who_a_price_refuses_is_told_when_it_will_have_sunk),
        cmocka_unit_test(a_price_for_decode_names_the_room_and_arms_itself),
        cmocka_unit_test(who_is_turned_away_is_seen_however_late_it_is_told),
        cmocka_unit_test(who_goes_to_a_decode_worker_pushes_nobody_out_of_a_queue),
        cmocka_unit_test(who_waited_at_another_tier_and_went_is_counted_no_more),
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
