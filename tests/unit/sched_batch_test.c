/* tests/unit/sched_batch_test.c - the plan of a decode worker: bounds for any input, then a small world where the
 * plans are carried out, to see that nobody is moved to and fro and that nobody starves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/sched_batch.h"

#define MS INT64_C(1000000)

/* The H100 8B law, in ns. */
static const struct sched_law DECODE = {.c = {7.141e6, 8880, 43.198, 4780}, .knee = 128};
static const struct sched_law PREFILL = {.c = {2.668e6, 20510, 0.38491, 12220}, .knee = 448};
static const uint64_t TBT[3] = {30 * MS, 100 * MS, 200 * MS};

static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 20) % below);
}

static struct sched_batch_item resident(uint64_t id, uint32_t tier, uint32_t blocks, uint32_t need,
                                        int64_t slack)
{
    return (struct sched_batch_item){.state = SCHED_BATCH_RESIDENT,
                                     .tier = tier,
                                     .context = blocks * 16,
                                     .blocks = blocks,
                                     .need = need,
                                     .slack_ns = slack,
                                     .tbt_ns = TBT[tier],
                                     .id = id};
}

static struct sched_batch_item asks(enum sched_batch_state state, uint64_t id, uint32_t tier,
                                    uint32_t need, int64_t slack)
{
    struct sched_batch_item i = resident(id, tier, 0, need, slack);

    i.state = state;
    i.context = need * 16;
    return i;
}

static struct sched_batch_pool pool_of(uint32_t free_blocks)
{
    return (struct sched_batch_pool){.free_blocks = free_blocks,
                                     .max_batch = 256,
                                     .park_ns_per_block = 38e3, /* 2 MiB at 55 GB/s */
                                     .park_room_blocks = 1u << 20,
                                     .decode = &DECODE};
}

/* ---- small cases ---- */

static void test_everybody_steps_when_there_is_room_and_time(void **state)
{
    (void)state;
    struct sched_batch_item v[3] = {resident(1, 0, 10, 1, 500 * MS), resident(2, 1, 10, 0, -5 * MS),
                                    resident(3, 2, 10, 1, 20 * MS)};
    struct sched_batch_pool pool = pool_of(2);
    uint32_t scratch[3];

    assert_true(sched_batch_plain(3, 480, 2, 0, 30 * MS, &pool));
    sched_batch_plan(v, 3, &pool, scratch);
    for (int k = 0; k < 3; k++)
        assert_int_equal(v[k].what, SCHED_DO_STEP);
}

static void test_the_last_block_goes_to_the_one_in_danger(void **state)
{
    (void)state;
    struct sched_batch_item v[2] = {resident(1, 0, 10, 1, 5000 * MS),
                                    resident(2, 2, 10, 1, 3 * MS)};
    struct sched_batch_pool pool = pool_of(1);
    uint32_t scratch[2];

    assert_false(sched_batch_plain(2, 320, 2, 0, 30 * MS, &pool));
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_NOTHING); /* it has five seconds, and is not parked */
    assert_int_equal(v[1].what, SCHED_DO_STEP);
}

static void test_blocks_are_not_given_past_one_in_danger_that_lacks_more_of_them(void **state)
{
    (void)state;
    struct sched_batch_item v[3] = {resident(1, 0, 10, 2, 1 * MS), resident(2, 0, 10, 1, 4000 * MS),
                                    resident(3, 0, 10, 0, 4000 * MS)};
    struct sched_batch_pool pool = pool_of(1);
    uint32_t scratch[3];

    pool.park_room_blocks = 0; /* nobody can go */
    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_NOTHING);
    assert_int_equal(v[1].what, SCHED_DO_NOTHING); /* the block stays for the first one */
    assert_int_equal(v[2].what, SCHED_DO_STEP);
}

static void test_slack_rich_ones_sit_out_a_step_that_would_make_a_gold_one_late(void **state)
{
    (void)state;
    struct sched_batch_item v[9];
    struct sched_batch_pool pool = pool_of(100);
    uint32_t scratch[9], steps = 0;
    double ctx = 0;

    /* Eight long bronze streams of 64k tokens make steps of 30 ms; gold has 30 ms a token. */
    for (uint32_t k = 0; k < 8; k++)
        v[k] = resident(k + 1, 2, 4096, 0, (1000 + k) * MS);
    v[8] = resident(9, 0, 64, 0, 20 * MS);
    sched_batch_plan(v, 9, &pool, scratch);
    assert_int_equal(v[8].what, SCHED_DO_STEP);
    for (uint32_t k = 0; k < 9; k++) {
        assert_true(v[k].what == SCHED_DO_STEP || v[k].what == SCHED_DO_NOTHING);
        if (v[k].what == SCHED_DO_STEP) {
            steps++;
            ctx += v[k].context;
        }
    }
    assert_true(steps > 5 && steps < 9); /* as many as fit, not none */
    assert_true(sched_law_decode(&DECODE, steps, ctx) <= 0.97 * 30e6);
    assert_int_equal(v[0].what, SCHED_DO_STEP); /* the one with the least slack is among them */
    assert_int_equal(v[7].what, SCHED_DO_NOTHING);

    v[8].slack_ns = 2000 * MS; /* nobody is in danger: the longest batch is the best use of time */
    sched_batch_plan(v, 9, &pool, scratch);
    for (uint32_t k = 0; k < 9; k++)
        assert_int_equal(v[k].what, SCHED_DO_STEP);
}

/* A pace that even a step with nothing in it would not keep. */
static void test_one_that_is_hurried_does_not_leave_the_rest_of_its_tier_behind(void **state)
{
    (void)state;
    enum { N = 24 };
    struct sched_batch_item v[N];
    struct sched_batch_pool pool = pool_of(1000);
    uint32_t scratch[N], gold = 0, rich = 0;

    for (uint32_t k = 0; k < N; k++)
        v[k] = resident(k + 1, k % 2 == 0 ? 0 : 2, 2500, 0, k % 2 == 0 ? 5 * MS : 5000 * MS);
    v[0].pace_ns = 3e6;
    sched_batch_plan(v, N, &pool, scratch);
    for (uint32_t k = 0; k < N; k++) {
        gold += v[k].tier == 0 && v[k].what == SCHED_DO_STEP;
        rich += v[k].tier == 2 && v[k].what == SCHED_DO_STEP;
    }
    assert_int_equal(gold, N / 2);
    assert_int_equal(rich, 0); /* they have time, and would make the step longer than need be */
}

/* Half of all time goes into tokens: of steps of twice their fixed part at least, or the rest falls behind. */
static void test_one_that_is_hurried_does_not_make_steps_too_short_for_the_many(void **state)
{
    (void)state;
    enum { N = 32 };
    struct sched_batch_item v[N];
    struct sched_batch_pool pool = pool_of(10000);
    uint32_t scratch[N], steps = 0;
    double each = 15e6 / N - DECODE.c[1], ctx = 0;

    for (uint32_t k = 0; k < N; k++)
        v[k] = resident(k + 1, 0, (uint32_t)(each / DECODE.c[2]), 0, k == 0 ? 5 * MS : 100 * MS);
    v[0].pace_ns = 3e6;
    sched_batch_plan(v, N, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_STEP);
    for (uint32_t k = 0; k < N; k++) {
        steps += v[k].what == SCHED_DO_STEP;
        ctx += v[k].what == SCHED_DO_STEP ? v[k].context : 0;
    }
    assert_true(steps < N);
    assert_true(sched_law_decode(&DECODE, steps, ctx) > 1.8 * DECODE.c[0]);
}

static void test_nobody_is_skipped_while_the_law_is_unknown(void **state)
{
    (void)state;
    struct sched_law unknown = {.knee = 0};
    struct sched_batch_item v[64];
    uint32_t scratch[64];

    for (uint32_t k = 0; k < 64; k++)
        v[k] = resident(k + 1, k % 3, 5000, 0, (int64_t)k * MS);
    for (int with = 0; with < 2; with++) {
        struct sched_batch_pool pool = pool_of(0);

        pool.decode = with ? &unknown : NULL;
        sched_batch_plan(v, 64, &pool, scratch);
        for (uint32_t k = 0; k < 64; k++)
            assert_int_equal(v[k].what, SCHED_DO_STEP);
    }
}

static void test_a_gold_hand_over_parks_the_bronze_stream_with_most_slack(void **state)
{
    (void)state;
    struct sched_batch_item v[4] = {
        resident(1, 2, 40, 0, 900 * MS), resident(2, 2, 40, 0, 4000 * MS),
        resident(3, 1, 40, 0, 9000 * MS), asks(SCHED_BATCH_WAITING, 4, 0, 25, 40 * MS)};
    struct sched_batch_pool pool = pool_of(0);
    uint32_t scratch[4];

    sched_batch_plan(v, 4, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_STEP);
    assert_int_equal(v[1].what, SCHED_DO_PARK);
    assert_int_equal(v[2].what,
                     SCHED_DO_STEP); /* a tighter tier stays, however much slack it has */
    assert_int_equal(v[3].what, SCHED_DO_GRANT);

    v[3].slack_ns = 5000 * MS; /* it can wait for room to get free */
    sched_batch_plan(v, 4, &pool, scratch);
    assert_int_equal(v[1].what, SCHED_DO_STEP);
    assert_int_equal(v[3].what, SCHED_DO_NOTHING);
}

static void test_a_bronze_hand_over_parks_nobody_tighter(void **state)
{
    (void)state;
    struct sched_batch_item v[3] = {resident(1, 0, 40, 0, 60000 * MS),
                                    resident(2, 1, 40, 0, 60000 * MS),
                                    asks(SCHED_BATCH_WAITING, 3, 2, 30, -2000 * MS)};
    struct sched_batch_pool pool = pool_of(20);
    uint32_t scratch[3];

    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_STEP);
    assert_int_equal(v[1].what, SCHED_DO_STEP);
    assert_int_equal(v[2].what, SCHED_DO_NOTHING);
}

static void test_inside_a_tier_only_those_with_time_for_both_moves_go(void **state)
{
    (void)state;
    struct sched_batch_item v[2] = {resident(1, 1, 40, 0, 290 * MS),
                                    asks(SCHED_BATCH_WAITING, 2, 1, 30, -20 * MS)};
    struct sched_batch_pool pool = pool_of(0);
    uint32_t scratch[2];

    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_STEP);
    assert_int_equal(v[1].what, SCHED_DO_NOTHING);
    v[0].slack_ns = 310 * MS;
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_PARK);
    assert_int_equal(v[1].what, SCHED_DO_GRANT);
}

static void test_nobody_is_parked_where_it_would_not_help_or_does_not_fit(void **state)
{
    (void)state;
    struct sched_batch_item v[2] = {resident(1, 2, 40, 0, 5000 * MS),
                                    asks(SCHED_BATCH_WAITING, 2, 0, 50, 1 * MS)};
    struct sched_batch_pool pool = pool_of(5);
    uint32_t scratch[2];

    sched_batch_plan(v, 2, &pool, scratch); /* 45 blocks in all */
    assert_int_equal(v[0].what, SCHED_DO_STEP);
    assert_int_equal(v[1].what, SCHED_DO_NOTHING);
    v[1].need = 30;
    pool.park_room_blocks = 39;
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_STEP);
    pool.park_room_blocks = 40;
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[0].what, SCHED_DO_PARK);
    assert_int_equal(v[1].what, SCHED_DO_GRANT);
}

static void test_a_full_pool_where_all_want_to_grow_moves_on(void **state)
{
    (void)state;
    struct sched_batch_item v[4];
    struct sched_batch_pool pool = pool_of(0);
    uint32_t scratch[4], steps = 0, parks = 0;

    for (uint32_t k = 0; k < 4; k++)
        v[k] = resident(k + 1, 1, 25, 1, -(int64_t)k * MS);
    sched_batch_plan(v, 4, &pool, scratch);
    for (uint32_t k = 0; k < 4; k++) {
        steps += v[k].what == SCHED_DO_STEP;
        parks += v[k].what == SCHED_DO_PARK;
    }
    assert_int_equal(parks, 1);
    assert_int_equal(steps, 3);
    assert_int_equal(v[0].what, SCHED_DO_PARK); /* it is the least late */
}

static void test_a_parked_stream_comes_back_only_with_room_to_grow(void **state)
{
    (void)state;
    struct sched_batch_item v[41];
    struct sched_batch_pool pool;
    uint32_t scratch[41], low = 0;

    for (uint32_t k = 0; k < 40; k++)
        v[k] = resident(k + 1, 1, 60, 0, 90 * MS);
    v[40] = asks(SCHED_BATCH_PARKED, 41, 1, 60, 2000 * MS);
    for (uint32_t room = 60; room < 400 && low == 0; room++) {
        pool = pool_of(room);
        sched_batch_plan(v, 41, &pool, scratch);
        low = v[40].what == SCHED_DO_RESUME ? room : 0;
    }
    /* 40 streams at 9 ms a step grow by 3 blocks each in half a second. */
    assert_in_range(low, 60 + 41 * 2, 60 + 41 * 4);
}

static void test_bronze_leaves_room_for_the_next_gold_one(void **state)
{
    (void)state;
    struct sched_batch_item v[3] = {resident(1, 0, 400, 0, 300 * MS),
                                    resident(2, 2, 400, 0, 300 * MS),
                                    asks(SCHED_BATCH_WAITING, 3, 2, 50, 5000 * MS)};
    struct sched_batch_pool pool = pool_of(72);
    uint32_t scratch[3];

    /* 17 blocks are a fiftieth of the pool; growth of three is another dozen. */
    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[2].what, SCHED_DO_NOTHING);
    v[2].tier = 0;
    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[2].what, SCHED_DO_GRANT);
    v[2].tier = 2;
    v[0].tier = 2; /* no gold here: nothing to leave */
    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[2].what, SCHED_DO_GRANT);
}

static void test_one_that_waits_for_much_room_is_not_passed_by_for_ever(void **state)
{
    (void)state;
    struct sched_batch_item v[3] = {resident(1, 1, 500, 0, 50 * MS),
                                    asks(SCHED_BATCH_WAITING, 2, 1, 400, 100 * MS),
                                    asks(SCHED_BATCH_WAITING, 3, 1, 20, 9000 * MS)};
    struct sched_batch_pool pool = pool_of(300);
    uint32_t scratch[3];

    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[1].what, SCHED_DO_NOTHING);
    assert_int_equal(v[2].what,
                     SCHED_DO_NOTHING); /* room is kept for the one that is nearly late */
    v[2].tier = 0;
    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[2].what, SCHED_DO_GRANT); /* but not from a tighter tier */
    v[2].tier = 1;
    v[1].slack_ns = 60000 * MS;
    sched_batch_plan(v, 3, &pool, scratch);
    assert_int_equal(v[2].what, SCHED_DO_GRANT); /* nor while it has plenty of time */
}

/* ---- any input ---- */

static void random_items(struct sched_batch_item *v, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        uint32_t kind = rnd(8), tier = rnd(3), blocks = 1 + rnd(rnd(10) ? 40 : 4000);

        v[k] = resident(rnd(5) ? k + 1 : rnd(4), tier, blocks, rnd(3) == 0, 0);
        if (kind >= 5) {
            v[k].state = kind == 5   ? SCHED_BATCH_PARKED
                         : kind == 6 ? SCHED_BATCH_WAITING
                                     : SCHED_BATCH_ARRIVING;
            v[k].need = kind == 7 ? 0 : blocks;
            v[k].blocks = kind == 7 ? blocks : 0;
        }
        v[k].slack_ns = ((int64_t)rnd(12000) - 6000) * (rnd(2) ? MS : MS / 50);
        if (rnd(50) == 0) {
            v[k].slack_ns = rnd(2) ? INT64_MAX : INT64_MIN / 2;
            v[k].need = rnd(2) ? UINT32_MAX : v[k].need;
            v[k].tbt_ns = rnd(2) ? 0 : UINT64_MAX;
        }
    }
}

static void random_pool(struct sched_batch_pool *pool)
{
    *pool = pool_of(rnd(rnd(4) ? 50 : 5000));
    pool->max_batch = rnd(10) ? 256 : rnd(20);
    pool->max_resident = rnd(3) ? 0 : rnd(60);
    pool->park_room_blocks = rnd(4) ? 1u << 20 : rnd(200);
    pool->decode = rnd(5) ? &DECODE : NULL;
}

static void check_plan(const struct sched_batch_item *v, uint32_t n,
                       const struct sched_batch_pool *pool)
{
    uint64_t taken = 0, freed = 0, steps = 0, holders = 0, in = 0;
    uint32_t tightest_gain = UINT32_MAX;

    for (uint32_t k = 0; k < n; k++) {
        const struct sched_batch_item *i = &v[k];

        switch (i->what) {
        case SCHED_DO_NOTHING:
            break;
        case SCHED_DO_STEP:
            assert_int_equal(i->state, SCHED_BATCH_RESIDENT);
            taken += i->need;
            steps++;
            break;
        case SCHED_DO_PARK:
            assert_int_equal(i->state, SCHED_BATCH_RESIDENT);
            freed += i->blocks;
            break;
        case SCHED_DO_RESUME:
            assert_int_equal(i->state, SCHED_BATCH_PARKED);
            taken += i->need;
            in++;
            break;
        case SCHED_DO_GRANT:
            assert_int_equal(i->state, SCHED_BATCH_WAITING);
            taken += i->need;
            in++;
            break;
        }
        holders += (i->state == SCHED_BATCH_RESIDENT && i->what != SCHED_DO_PARK) ||
                   i->state == SCHED_BATCH_ARRIVING;
        if (i->what != SCHED_DO_NOTHING && i->what != SCHED_DO_PARK && i->need > 0 &&
            i->tier < tightest_gain)
            tightest_gain = i->tier;
    }
    assert_true(taken <= pool->free_blocks + freed);
    assert_true(steps <= pool->max_batch);
    assert_true(freed <= pool->park_room_blocks);
    if (in > 0) {
        assert_true(pool->max_resident == 0 || holders + in <= pool->max_resident);
        if (holders + in > 1) /* all can still grow by one block */
            assert_true(taken + holders + in <= pool->free_blocks + freed);
    }
    for (uint32_t k = 0; k < n;
         k++) /* who is parked makes room for its own tier or a tighter one */
        if (v[k].what == SCHED_DO_PARK)
            assert_true(tightest_gain <= v[k].tier);
}

static void test_the_bounds_hold_for_any_input(void **state)
{
    (void)state;
    static struct sched_batch_item v[200], w[200];
    static uint32_t scratch[200];

    for (uint32_t round = 0; round < 60000; round++) {
        struct sched_batch_pool pool;
        uint32_t n, growth = 0, residents = 0, others = 0;
        uint64_t tbt = UINT64_MAX;
        double ctx = 0;

        rng_state = UINT64_C(0x9e3779b97f4a7c15) * (round + 1);
        n = rnd(round % 10 ? 24 : 200);
        random_items(v, n);
        random_pool(&pool);
        memcpy(w, v, sizeof v);
        sched_batch_plan(v, n, &pool, scratch);
        check_plan(v, n, &pool);
        sched_batch_plan(w, n, &pool, scratch);
        assert_memory_equal(v, w, n * sizeof v[0]);
        for (uint32_t k = 0; k < n; k++) {
            bool here = v[k].state == SCHED_BATCH_RESIDENT;

            residents += here;
            others += v[k].state == SCHED_BATCH_PARKED || v[k].state == SCHED_BATCH_WAITING;
            ctx += here ? v[k].context : 0;
            if (here && __builtin_add_overflow(growth, v[k].need, &growth))
                growth = UINT32_MAX;
            if (here && v[k].tbt_ns > 0 && v[k].tbt_ns < tbt)
                tbt = v[k].tbt_ns;
        }
        if (sched_batch_plain(residents, ctx, growth, others, tbt, &pool))
            for (uint32_t k = 0; k < n; k++)
                assert_int_equal(v[k].what, v[k].state == SCHED_BATCH_RESIDENT ? SCHED_DO_STEP
                                                                               : SCHED_DO_NOTHING);
    }
}

static void test_the_order_of_the_list_does_not_matter(void **state)
{
    (void)state;
    static struct sched_batch_item v[60], w[60];
    static uint32_t scratch[60];

    for (uint32_t round = 0; round < 2000; round++) {
        struct sched_batch_pool pool;

        rng_state = UINT64_C(0xd1342543de82ef95) * (round + 1);
        random_items(v, 60);
        random_pool(&pool);
        for (uint32_t k = 0; k < 60; k++) {
            v[k].id = k + 1;
            w[59 - k] = v[k];
        }
        sched_batch_plan(v, 60, &pool, scratch);
        sched_batch_plan(w, 60, &pool, scratch);
        for (uint32_t k = 0; k < 60; k++)
            assert_int_equal(v[k].what, w[59 - k].what);
    }
}

/* ---- a closed world: so many clients, each asks again when it has been served ---- */

enum { CLIENTS = 120, WORLD_SECONDS = 120 };

struct client {
    uint32_t tier, context, left, moves;
    int64_t due, asked, park_until; /* deadline of its next token; when it came; its KV is moving */
    enum sched_batch_state state;
};
struct world {
    struct client c[CLIENTS];
    uint32_t blocks, tiers;
    int64_t now;
    uint64_t parks, parked_blocks, served[3], requests, max_moves;
    int64_t longest_wait[3], last_step[CLIENTS];
};

static uint32_t blocks_of(uint32_t tokens)
{
    return (tokens + 15) / 16;
}

static void client_asks(struct world *w, struct client *c)
{
    c->tier = rnd(w->tiers);
    c->context = 64 + rnd(rnd(12) ? 2000 : 30000);
    c->left = 1 + rnd(400);
    c->moves = 0;
    c->asked = w->now;
    c->due = w->now + (c->tier == 0 ? 500 : c->tier == 1 ? 2000 : 10000) * MS;
    c->state = SCHED_BATCH_WAITING;
    w->requests++;
}

static void world_look(const struct world *w, struct sched_batch_item *v,
                       struct sched_batch_pool *pool)
{
    uint32_t used = 0;

    for (uint32_t k = 0; k < CLIENTS; k++) {
        const struct client *c = &w->c[k];
        uint32_t held = blocks_of(c->context), next = blocks_of(c->context + 1);

        v[k] = (struct sched_batch_item){.state = c->state,
                                         .tier = c->tier,
                                         .context = c->context,
                                         .tbt_ns = TBT[c->tier],
                                         .slack_ns = c->due - w->now,
                                         .id = k + 1};
        if (c->state == SCHED_BATCH_RESIDENT || c->state == SCHED_BATCH_ARRIVING) {
            v[k].blocks = held;
            v[k].need = c->state == SCHED_BATCH_RESIDENT ? next - held : 0;
            used += held;
        } else {
            v[k].need = held;
        }
    }
    assert_true(used <= w->blocks);
    *pool = pool_of(w->blocks - used);
}

static void world_do(struct world *w, const struct sched_batch_item *v)
{
    double b = 0, ctx = 0;

    for (uint32_t k = 0; k < CLIENTS; k++) {
        struct client *c = &w->c[k];

        if (v[k].what == SCHED_DO_PARK) {
            c->state = SCHED_BATCH_PARKED;
            w->parks++;
            w->parked_blocks += v[k].blocks;
            c->moves++;
            w->max_moves = c->moves > w->max_moves ? c->moves : w->max_moves;
        } else if (v[k].what == SCHED_DO_RESUME || v[k].what == SCHED_DO_GRANT) {
            c->state = SCHED_BATCH_ARRIVING;
            c->park_until = w->now + 20 * MS;
        } else if (v[k].what == SCHED_DO_STEP) {
            b += 1;
            ctx += c->context;
        }
    }
    w->now += b > 0 ? (int64_t)sched_law_decode(&DECODE, b, ctx) : 5 * MS;
    for (uint32_t k = 0; k < CLIENTS; k++) {
        struct client *c = &w->c[k];

        if (c->state == SCHED_BATCH_ARRIVING && c->park_until <= w->now)
            c->state = SCHED_BATCH_RESIDENT;
        if (v[k].what == SCHED_DO_STEP || c->asked > w->last_step[k])
            w->last_step[k] = v[k].what == SCHED_DO_STEP ? w->now : c->asked;
        if (w->now - w->last_step[k] > w->longest_wait[c->tier])
            w->longest_wait[c->tier] = w->now - w->last_step[k];
        if (v[k].what != SCHED_DO_STEP)
            continue;
        c->context++;
        c->due += (int64_t)TBT[c->tier];
        w->served[c->tier]++;
        if (--c->left == 0)
            client_asks(w, c);
    }
}

/* Share of time in which KV is copied out or back. */
static double world_moving(const struct world *w)
{
    return 2 * 38e3 * (double)w->parked_blocks / (WORLD_SECONDS * 1e9);
}

static struct world *world_run(uint32_t blocks, uint32_t tiers, uint64_t seed)
{
    struct world *w = mem_try_calloc(1, sizeof *w);
    static struct sched_batch_item v[CLIENTS];
    static uint32_t scratch[CLIENTS];

    assert_non_null(w);
    rng_state = seed;
    w->blocks = blocks;
    w->tiers = tiers;
    for (uint32_t k = 0; k < CLIENTS; k++)
        client_asks(w, &w->c[k]);
    while (w->now < WORLD_SECONDS * INT64_C(1000) * MS) {
        struct sched_batch_pool pool;

        world_look(w, v, &pool);
        sched_batch_plan(v, CLIENTS, &pool, scratch);
        check_plan(v, CLIENTS, &pool);
        world_do(w, v);
    }
    print_message(
        "  %5u blocks, %u tiers: %7.1f tokens/s, %.1f requests/s, parks/s %.2f (%.1f %% of "
        "time to move), most moves of one %llu, longest wait s %.1f %.1f %.1f\n",
        blocks, tiers, (double)(w->served[0] + w->served[1] + w->served[2]) / WORLD_SECONDS,
        (double)w->requests / WORLD_SECONDS, (double)w->parks / WORLD_SECONDS,
        100 * world_moving(w), (unsigned long long)w->max_moves, (double)w->longest_wait[0] / 1e9,
        (double)w->longest_wait[1] / 1e9, (double)w->longest_wait[2] / 1e9);
    return w;
}

static void test_with_room_for_all_nobody_is_ever_parked(void **state)
{
    (void)state;
    struct world *w = world_run(90000, 3, 7);

    assert_int_equal(w->parks, 0);
    mem_free(w);
}

static void test_a_closed_world_neither_thrashes_nor_starves_anybody(void **state)
{
    (void)state;

    /* 120 clients that want about 21,000 blocks together. */
    for (uint64_t seed = 1; seed <= 3; seed++) {
        for (uint32_t blocks = 2500; blocks <= 20000; blocks *= 2) {
            struct world *w = world_run(blocks, 1, seed);

            /* One tier: bounded by what is served before it, never for ever. */
            assert_true(w->longest_wait[0] < 60 * INT64_C(1000) * MS);
            assert_true(w->parks < 2 * w->requests);
            assert_true(world_moving(w) < 0.10);
            mem_free(w);
            w = world_run(blocks, 3, seed);
            /* Every gold request may park several looser ones; still little time goes into moving. */
            assert_true(world_moving(w) < 0.15);
            assert_true(w->parks < 2 * w->requests);
            assert_true(w->longest_wait[0] < 20 * INT64_C(1000) * MS);
            assert_true(w->longest_wait[0] <= w->longest_wait[2]);
            mem_free(w);
        }
    }
}

/* ---- prompt tokens beside a batch ---- */

static double mixed(double n, double past, double b, double ctx)
{
    struct sched_step s = {.n = n, .n2 = n * (n + 2 * past), .b = b, .ctx = ctx};

    return sched_law_step(&PREFILL, &DECODE, &s);
}

/* Three rounds of eight: a stream that is behind its mean gains a third of what it would with a slot in each step. */
static void test_where_slots_are_few_a_stream_has_a_token_per_round(void **state)
{
    double step = sched_law_decode(&DECODE, 8, 8000);
    double round = sched_batch_round_ns(&DECODE, 24, 24000, 8);

    (void)state;
    assert_true(round > 2.999 * step && round < 3.001 * step);
    assert_true(sched_batch_round_ns(&DECODE, 8, 8000, 8) <= step);
    assert_true(sched_batch_round_ns(&DECODE, 8, 8000, 0) <= step); /* no limit */
    uint64_t tbt = (uint64_t)(4 * step), now = 5 * tbt;             /* 16 steps behind its mean */
    assert_true(sched_batch_slack(10 * now, 1, 1, tbt, step, 10, now) > 0);
    assert_true(sched_batch_slack(10 * now, 1, 1, tbt, round, 10, now) < 0);
}

static void test_a_chunk_fits_the_slack_and_is_as_large_as_that_allows(void **state)
{
    (void)state;
    rng_state = 99;
    for (int round = 0; round < 20000; round++) {
        double b = 1 + rnd(200), ctx = b * (100 + rnd(3000));
        uint32_t past = rnd(3) ? rnd(60000) : 0, want = 1 + rnd(9000);
        int64_t slack = (int64_t)rnd(400000) * 1000;
        uint32_t got = sched_batch_chunk(&PREFILL, &DECODE, b, ctx, past, want, slack, 16);

        assert_true(got <= want && (got == want || got % 16 == 0));
        if (got > 0)
            assert_true(mixed(got, past, b, ctx) <= (double)slack);
        if (got < want && (double)slack >= 2 * sched_law_decode(&DECODE, b, ctx)) {
            uint32_t more = got + 16 < want ? got + 16 : want;

            assert_true(mixed(more, past, b, ctx) > 0.97 * (double)slack - 1);
        }
    }
}

static void test_a_chunk_counts_what_a_prompt_costs_before_its_first_token(void **state)
{
    (void)state;
    const struct sched_law slow_start = {.c = {20e6, 20510, 0.38491, 0}};
    struct sched_step s = {.b = 8, .ctx = 8000};

    for (int64_t slack = 20 * MS; slack < 200 * MS; slack += MS) {
        s.n = sched_batch_chunk(&slow_start, &DECODE, s.b, s.ctx, 0, 100000, slack, 16);
        s.n2 = s.n * s.n;
        if (s.n > 0)
            assert_true(sched_law_step(&slow_start, &DECODE, &s) <= (double)slack);
    }
    assert_true(s.n > 1000);
}

static void test_a_chunk_waits_for_time_that_is_worth_its_fixed_cost(void **state)
{
    (void)state;
    double step = sched_law_decode(&DECODE, 64, 64000);

    assert_int_equal(sched_batch_chunk(&PREFILL, &DECODE, 64, 64000, 0, 4096, -1, 16), 0);
    /* Close to being late: no crumbs. */
    assert_int_equal(sched_batch_chunk(&PREFILL, &DECODE, 64, 64000, 0, 4096,
                                       (int64_t)(mixed(64, 0, 64, 64000) / 0.97), 16),
                     0);
    assert_true(2 * step > mixed(64, 0, 64, 64000));
    /* But the end of a prompt is. */
    assert_int_equal(sched_batch_chunk(&PREFILL, &DECODE, 64, 64000, 0, 40,
                                       (int64_t)(mixed(64, 0, 64, 64000) / 0.97), 16),
                     40);
    /* Nobody beside it: all of it.  Laws unknown: one block at a time. */
    assert_int_equal(sched_batch_chunk(&PREFILL, &DECODE, 0, 0, 0, 4000, INT64_MAX, 16), 4000);
    /* Somebody who comes during the step waits for its end. */
    assert_in_range(sched_batch_chunk(&PREFILL, &DECODE, 0, 0, 0, 4000, 30 * MS, 16), 16, 2000);
    struct sched_law none = {.knee = 0};
    assert_int_equal(sched_batch_chunk(&none, &DECODE, 8, 800, 0, 4000, 50 * MS, 16), 16);
}

static void test_a_slack_that_grows_lets_a_prompt_through_in_the_end(void **state)
{
    (void)state;
    int64_t slack = 5 * MS;
    uint32_t done = 0, steps = 0;

    /* A batch whose steps take 11 ms against a tbt of 30 ms: a prompt of 4096 tokens beside it. */
    for (; done < 4096 && steps < 200; steps++) {
        uint32_t n = sched_batch_chunk(&PREFILL, &DECODE, 64, 64000, done, 4096 - done, slack, 16);
        double t = n > 0 ? mixed(n, done, 64, 64000) : sched_law_decode(&DECODE, 64, 64000);

        slack += 30 * MS - (int64_t)t;
        done += n;
        if (steps > 0)
            assert_true(slack >= 0);
    }
    assert_int_equal(done, 4096);
    assert_true(steps < 20);
}

static void test_a_caller_may_sleep_until_the_wake_of_the_plan(void **state)
{
    (void)state;
    static struct sched_batch_item v[40], w[40];
    static uint32_t scratch[40];
    uint32_t slept = 0;

    for (uint32_t round = 0; round < 20000; round++) {
        struct sched_batch_pool pool;
        int64_t wake;

        rng_state = UINT64_C(0xa0761d6478bd642f) * (round + 1);
        random_items(v, 40);
        random_pool(&pool);
        pool.free_blocks = rnd(30);
        sched_batch_plan(v, 40, &pool, scratch);
        wake = sched_batch_wake(v, 40, &pool);
        assert_true(wake >= 0);
        memcpy(w, v, sizeof v);
        bool still = wake > 0 && wake < INT64_MAX;
        for (uint32_t k = 0; k < 40; k++)
            still = still && (v[k].what == SCHED_DO_STEP || v[k].what == SCHED_DO_NOTHING) &&
                    v[k].slack_ns < INT64_MAX / 2 && v[k].slack_ns > INT64_MIN / 4;
        if (!still)
            continue;
        slept++;
        for (uint32_t k = 0; k < 40; k++) /* the residents keep their slack: they step */
            w[k].slack_ns -= w[k].state == SCHED_BATCH_RESIDENT ? 0 : wake - 1;
        sched_batch_plan(w, 40, &pool, scratch);
        for (uint32_t k = 0; k < 40; k++)
            if (v[k].state != SCHED_BATCH_RESIDENT)
                assert_int_equal(w[k].what, SCHED_DO_NOTHING);
    }
    assert_true(slept > 1000);
}

static void test_the_wake_is_when_one_that_waits_may_displace_others(void **state)
{
    (void)state;
    struct sched_batch_item v[2] = {resident(1, 2, 40, 0, 4000 * MS),
                                    asks(SCHED_BATCH_WAITING, 2, 0, 30, 0)};
    struct sched_batch_pool pool = pool_of(0);
    uint32_t scratch[2];
    int64_t wake;

    v[1].slack_ns = 360 * MS; /* 0.3 s, two steps of 7 ms and the move make 315 ms */
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[1].what, SCHED_DO_NOTHING);
    wake = sched_batch_wake(v, 2, &pool);
    assert_true(wake > 30 * MS && wake < 60 * MS);
    v[1].slack_ns -= wake - MS;
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[1].what, SCHED_DO_NOTHING);
    v[1].slack_ns -= 2 * MS;
    sched_batch_plan(v, 2, &pool, scratch);
    assert_int_equal(v[1].what, SCHED_DO_GRANT);
    assert_true(sched_batch_wake(v, 1, &pool) == INT64_MAX); /* nobody waits */
}

/* Prices of an 8B model on half an H100. */
static void a_turn_of_a_prompt_is_a_whole_piece_and_slows_the_batch_by_a_fiftieth(void **state)
{
    struct sched_law prefill = {.c = {5.336e6, 41020, 0.77, 24440}, .knee = 448};
    struct sched_law decode = {.c = {14.282e6, 17760, 86.4, 0}};
    struct sched_step mixed = {.n = 448, .n2 = 448.0 * 448, .b = 100, .ctx = 100000},
                      alone = {.b = 100, .ctx = 100000};
    uint64_t every;
    double cost;

    (void)state;
    assert_int_equal(sched_batch_turn(&prefill, &decode, 0, 4000, 16, &every), 448);
    cost = sched_law_step(&prefill, &decode, &mixed) - sched_law_step(&prefill, &decode, &alone);
    assert_true(cost <= (double)every / 49);
    assert_int_equal(sched_batch_turn(&prefill, &decode, 0, 30, 16, &every), 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everybody_steps_when_there_is_room_and_time),
        cmocka_unit_test(test_the_last_block_goes_to_the_one_in_danger),
        cmocka_unit_test(test_blocks_are_not_given_past_one_in_danger_that_lacks_more_of_them),
        cmocka_unit_test(test_the_wake_is_when_one_that_waits_may_displace_others),
        cmocka_unit_test(test_a_chunk_counts_what_a_prompt_costs_before_its_first_token),
        cmocka_unit_test(test_slack_rich_ones_sit_out_a_step_that_would_make_a_gold_one_late),
        cmocka_unit_test(test_one_that_is_hurried_does_not_leave_the_rest_of_its_tier_behind),
        cmocka_unit_test(test_one_that_is_hurried_does_not_make_steps_too_short_for_the_many),
        cmocka_unit_test(test_nobody_is_skipped_while_the_law_is_unknown),
        cmocka_unit_test(test_a_gold_hand_over_parks_the_bronze_stream_with_most_slack),
        cmocka_unit_test(test_a_bronze_hand_over_parks_nobody_tighter),
        cmocka_unit_test(test_inside_a_tier_only_those_with_time_for_both_moves_go),
        cmocka_unit_test(test_nobody_is_parked_where_it_would_not_help_or_does_not_fit),
        cmocka_unit_test(test_a_full_pool_where_all_want_to_grow_moves_on),
        cmocka_unit_test(test_a_parked_stream_comes_back_only_with_room_to_grow),
        cmocka_unit_test(test_bronze_leaves_room_for_the_next_gold_one),
        cmocka_unit_test(test_one_that_waits_for_much_room_is_not_passed_by_for_ever),
        cmocka_unit_test(test_the_bounds_hold_for_any_input),
        cmocka_unit_test(test_the_order_of_the_list_does_not_matter),
        cmocka_unit_test(test_with_room_for_all_nobody_is_ever_parked),
        cmocka_unit_test(test_a_closed_world_neither_thrashes_nor_starves_anybody),
        cmocka_unit_test(test_where_slots_are_few_a_stream_has_a_token_per_round),
        cmocka_unit_test(test_a_chunk_fits_the_slack_and_is_as_large_as_that_allows),
        cmocka_unit_test(test_a_chunk_waits_for_time_that_is_worth_its_fixed_cost),
        cmocka_unit_test(test_a_slack_that_grows_lets_a_prompt_through_in_the_end),
        cmocka_unit_test(test_a_caller_may_sleep_until_the_wake_of_the_plan),
        cmocka_unit_test(a_turn_of_a_prompt_is_a_whole_piece_and_slows_the_batch_by_a_fiftieth),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
