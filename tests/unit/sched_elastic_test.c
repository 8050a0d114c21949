/* Role changes of scheduler/sched.h: who is asked, when, and what becomes of a worker that cannot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, D = 2, D2 = 3, D3 = 4 };
#define S (1000 * RIG_MS)

static void join(struct rig *r, uint32_t id, enum sched_role role, uint32_t klass, bool can_flip)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = id};

    e.u.join.role = role;
    e.u.join.n_blocks = 4000;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = 64;
    e.u.join.max_context = 8192;
    e.u.join.klass = klass;
    e.u.join.can_flip = can_flip;
    rig_apply(r, &e);
}

/* One prefill worker, three decode workers. */
static void open_with(struct rig *r, bool can_flip, double token_ns)
{
    struct sched_class slow = {
        .name = "slow", .prefill = {.c = {0, token_ns, 0, 0}}, .decode = {.c = {5e6, 1e5, 0, 0}}};
    struct sched_config cfg;
    uint32_t klass;

    rig_config(&cfg);
    cfg.elastic.on = true;
    rig_open(r, &cfg);
    assert_int_equal(sched_add_class(r->s, &slow, NULL, &klass), ERR_OK);
    join(r, P, SCHED_ROLE_PREFILL, klass, can_flip);
    for (uint32_t d = D; d <= D3; d++)
        join(r, d, SCHED_ROLE_DECODE, klass, can_flip);
}

/* 1 ms per prompt token. */
static void open_elastic(struct rig *r, bool can_flip)
{
    open_with(r, can_flip, 1e6);
}

/* So many seconds of one prompt of a second per second and a half a second more, none of which gets done.
 * The time at which a FLIP was said, 0: never. */
static uint64_t overload(struct rig *r, uint32_t seconds, uint64_t first_id)
{
    uint64_t end = r->now + seconds * S, at = 0;

    for (uint64_t id = first_id; r->now < end; id++) {
        rig_arrive(r, id, 2, 750, 1);
        for (uint64_t stop = r->now + S / 2; r->now < stop;) {
            uint64_t next = sched_next_timer(r->s) < stop ? sched_next_timer(r->s) : stop;

            rig_timer(r, next > r->now ? next : r->now + 1);
            if (rig_find(r, SCHED_ACT_FLIP) != NULL && at == 0)
                at = r->now;
        }
    }
    return at;
}

static uint32_t flipping(const struct rig *r)
{
    for (uint32_t d = D; d <= D3; d++) {
        struct sched_worker_view v;

        if (sched_get_worker(r->s, d, &v) == ERR_OK && v.flipping)
            return d;
    }
    return 0;
}

static void an_idle_decode_worker_is_asked_to_help_out(void **state)
{
    struct rig r;
    uint32_t who;

    (void)state;
    open_elastic(&r, true);
    assert_true(overload(&r, 10, 100) != 0);
    who = flipping(&r);
    assert_int_not_equal(who, 0);
    assert_true(rig_worker(&r, who).draining);
    assert_int_equal(rig_stats(&r).flips, 1); /* one at a time */
    rig_leave(&r, who);
    join(&r, 10, SCHED_ROLE_PREFILL, 1, true);
    assert_true(rig_worker(&r, 10).requests > 0 || rig_worker(&r, 10).queued == 0);
    assert_int_equal(flipping(&r), 0);
    assert_true(rig_stats(&r).want[SCHED_ROLE_PREFILL] >= 2);
    rig_close(&r);
}

static void a_worker_that_stays_is_taken_back_into_service(void **state)
{
    struct rig r;
    uint32_t who;

    (void)state;
    open_elastic(&r, true);
    assert_true(overload(&r, 10, 100) != 0);
    who = flipping(&r);
    overload(&r, 30, 1000); /* it never leaves */
    assert_false(rig_worker(&r, who).draining);
    rig_close(&r);
}

static void a_worker_with_requests_is_told_when_they_are_gone(void **state)
{
    struct rig r;

    (void)state;
    open_elastic(&r, true);
    for (uint64_t id = 1; id <= 3; id++) { /* one on each decode worker */
        rig_arrive(&r, id, 2, 16, 400);
        rig_prefilled(&r, id, 1, P, false);
        rig_handover(&r, id, 1, rig_decode_of(&r, id), true, ERR_OK);
        rig_released(&r, id, 1, P, ERR_OK);
    }
    assert_int_equal(overload(&r, 8, 100), 0);
    assert_int_not_equal(flipping(&r), 0);
    for (uint64_t id = 1; id <= 3; id++) {
        uint32_t d = rig_decode_of(&r, id);

        rig_finish(&r, id);
        rig_released(&r, id, 1, d, ERR_OK);
    }
    assert_true(overload(&r, 2, 1000) != 0);
    rig_close(&r);
}

static void a_prefill_worker_does_not_wait_for_streams_that_others_decode(void **state)
{
    uint32_t klass = 1, who = 0;
    struct rig r;

    (void)state;
    open_with(&r, true, 1e4);
    join(&r, 11, SCHED_ROLE_PREFILL, klass, true);
    join(&r, 12, SCHED_ROLE_PREFILL, klass, true);
    rig_leave(&r, D2);
    rig_leave(&r, D3);
    for (uint64_t id = 1; id <= 45; id++) { /* the last decode worker is full of long streams */
        uint32_t p;

        rig_arrive(&r, id, 2, 3000, 4000);
        p = rig_prefill_of(&r, id);
        rig_prefilled(&r, id, 1, p, false);
        rig_handover(&r, id, 1, D, true, ERR_OK);
        rig_released(&r, id, 1, p, ERR_OK);
        rig_timer(&r, r.now + S / 3);
        if (rig_find(&r, SCHED_ACT_FLIP) != NULL)
            who = rig_find(&r, SCHED_ACT_FLIP)->worker;
    }
    assert_true(who == P || who == 11 || who == 12);
    rig_leave(&r, who); /* and its streams go on */
    for (uint64_t id = 1; id <= 45; id++)
        assert_int_equal(rig_epoch(&r, id), 1);
    rig_close(&r);
}

static void who_joins_meets_a_worker_that_may_come_back_into_service(void **state)
{
    bool met = false;
    struct rig r;
    uint32_t who;

    (void)state;
    open_elastic(&r, true);
    assert_true(overload(&r, 10, 100) != 0);
    who = flipping(&r);
    assert_int_not_equal(who, 0);
    join(&r, 10, SCHED_ROLE_PREFILL, 1, true);
    for (size_t i = 0; i < r.act.n; i++)
        met |= r.act.v[i].kind == SCHED_ACT_INTRODUCE && r.act.v[i].peer == who;
    assert_true(met);
    rig_close(&r);
}

static void nobody_is_asked_who_cannot(void **state)
{
    struct rig r;

    (void)state;
    open_elastic(&r, false);
    assert_int_equal(overload(&r, 20, 100), 0);
    assert_int_equal(flipping(&r), 0);
    rig_close(&r);
}

static void a_quiet_pool_changes_nothing_and_wanted_counts_are_said_once(void **state)
{
    struct rig r;
    uint32_t said = 0;

    (void)state;
    open_elastic(&r, true);
    for (uint64_t id = 1; id <= 40; id++) {
        r.now += S;
        rig_arrive(&r, id, 2, 100, 1);
        said += (uint32_t)rig_count(&r, SCHED_ACT_SCALE);
        assert_int_equal(rig_count(&r, SCHED_ACT_FLIP), 0);
        rig_prefilled(&r, id, 1, P, true);
        rig_finish(&r, id);
        rig_released(&r, id, 1, P, ERR_OK);
    }
    assert_int_equal(flipping(&r), 0);
    assert_true(said <= 3);
    rig_close(&r);
}

/* The time until a worker is asked, 0: within `seconds` nobody was; nothing arrives. */
static uint64_t asked_after(struct rig *r, uint32_t seconds, uint32_t *who)
{
    uint64_t start = r->now;

    for (*who = 0; r->now < start + seconds * S;) {
        rig_timer(r, sched_next_timer(r->s) > r->now ? sched_next_timer(r->s) : r->now + 1);
        if (rig_find(r, SCHED_ACT_FLIP) != NULL) {
            *who = rig_find(r, SCHED_ACT_FLIP)->worker;
            return r->now - start;
        }
    }
    return 0;
}

static void open_pools(struct rig *r, bool local_prefill, uint32_t prefill, uint32_t decode)
{
    struct sched_class k = {
        .name = "k", .prefill = {.c = {0, 1e6, 0, 0}}, .decode = {.c = {5e6, 1e5, 0, 0}}};
    struct sched_config cfg;
    uint32_t klass;

    rig_config(&cfg);
    cfg.elastic.on = true;
    cfg.local_prefill = local_prefill;
    rig_open(r, &cfg);
    assert_int_equal(sched_add_class(r->s, &k, NULL, &klass), ERR_OK);
    for (uint32_t i = 0; i < prefill; i++)
        join(r, 11 + i, SCHED_ROLE_PREFILL, klass, true);
    for (uint32_t i = 0; i < decode; i++)
        join(r, 21 + i, SCHED_ROLE_DECODE, klass, true);
}

static void a_pool_whose_last_worker_is_lost_is_refilled_by_the_other(void **state)
{
    struct rig r;
    uint32_t who;
    uint64_t at;

    (void)state;
    open_pools(&r, false, 2, 1);
    (void)overload(&r, 5, 100); /* prefill is busy far beyond what lets it give */
    rig_leave(&r, 21);
    (void)overload(&r, 1, 1000);
    assert_false(rig_worker(&r, 11).draining || rig_worker(&r, 12).draining);
    (void)overload(&r, 3, 2000);
    assert_true(rig_worker(&r, 11).draining !=
                rig_worker(&r, 12).draining); /* told when it is free */
    rig_close(&r);
    open_pools(&r, false, 1, 2);
    rig_leave(&r, 11);
    at = asked_after(&r, 10, &who);
    assert_true(at >= 2 * S && at <= 4 * S);
    assert_true(who == 21 || who == 22);
    rig_close(&r);
}

static void a_worker_that_starts_again_at_once_is_not_replaced(void **state)
{
    struct rig r;
    uint32_t who;

    (void)state;
    open_pools(&r, false, 3, 1);
    assert_int_equal(asked_after(&r, 5, &who), 0);
    rig_leave(&r, 21);
    assert_int_equal(asked_after(&r, 1, &who), 0);
    join(&r, 22, SCHED_ROLE_DECODE, 1, true);
    assert_int_equal(asked_after(&r, 30, &who), 0);
    rig_close(&r);
}

static void the_last_of_its_role_stops_leaving_it(void **state)
{
    struct rig r;
    uint32_t who;

    (void)state;
    open_elastic(&r, true);
    for (uint64_t id = 1; id <= 3; id++) { /* one on each decode worker */
        rig_arrive(&r, id, 2, 16, 400);
        rig_prefilled(&r, id, 1, P, false);
        rig_handover(&r, id, 1, rig_decode_of(&r, id), true, ERR_OK);
        rig_released(&r, id, 1, P, ERR_OK);
    }
    assert_int_equal(overload(&r, 8, 100), 0);
    who = flipping(&r);
    assert_int_not_equal(who, 0);
    for (uint32_t d = D; d <= D3; d++) {
        if (d != who)
            rig_leave(&r, d);
    }
    (void)overload(&r, 2, 1000);
    assert_false(rig_worker(&r, who).draining);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_decode_worker_is_asked_to_help_out),
        cmocka_unit_test(a_worker_that_stays_is_taken_back_into_service),
        cmocka_unit_test(a_worker_with_requests_is_told_when_they_are_gone),
        cmocka_unit_test(a_prefill_worker_does_not_wait_for_streams_that_others_decode),
        cmocka_unit_test(who_joins_meets_a_worker_that_may_come_back_into_service),
        cmocka_unit_test(nobody_is_asked_who_cannot),
        cmocka_unit_test(a_quiet_pool_changes_nothing_and_wanted_counts_are_said_once),
        cmocka_unit_test(a_pool_whose_last_worker_is_lost_is_refilled_by_the_other),
        cmocka_unit_test(a_worker_that_starts_again_at_once_is_not_replaced),
        cmocka_unit_test(the_last_of_its_role_stops_leaving_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
