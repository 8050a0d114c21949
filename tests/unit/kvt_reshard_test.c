/* tests/unit/kvt_reshard_test.c - hand-over between pools of different numbers of parts: every pair of them
 * on either path, ended early in the middle, and with a sender that lies about parts. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "proto/wire_kv_plan.h"
#include "tests/kvt/kvt_rogue.h"

enum { T = 600, E = 4, N = 12 };

static const char *const paths[] = {NULL, "tcp"}; /* shared memory, TCP */
static struct pair p;
static struct pair_grant g;
static struct pair_send s;
static struct rogue r;
static uint32_t local[N], remote[N];

static void open_pair(int path, const struct wire_kv_layout *layout, uint32_t from, uint32_t to)
{
    pair_open_parts(&p, paths[path], layout, from, to);
    for (uint32_t i = 0; i < N; i++) {
        local[i] = (i * 5 + 1) % PAIR_BLOCKS;
        remote[i] = i % 3 == 0 ? i + 20 : N - i;
        pair_fill(&p, 0, local[i], i + 1);
    }
}

static void start(uint64_t transfer, uint32_t n)
{
    assert_int_equal(ERR_OK, pair_grant(&p, &g, transfer, E, remote, n, 20000));
    assert_int_equal(ERR_OK, pair_send(&p, &s, transfer, E, remote, local, n, 20000));
}

static void whole_transfer(uint64_t transfer, uint32_t n, uint32_t n_layers, uint32_t group)
{
    start(transfer, n);
    for (uint32_t layer = 0; layer < n_layers; layer += group)
        kvt_send_piece(s.send, 0, n, layer, n_layers - layer < group ? n_layers - layer : group, 0);
    kvt_send_finish(s.send, NULL, 0);
    assert_true(pair_run(&p, &s.dones, 1, 5000));
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    assert_int_equal(ERR_OK, s.result.err);
    assert_int_equal(ERR_OK, g.arrival.err);
    assert_int_equal(n * pair_block_bytes(&p), g.arrival.bytes);
    assert_int_equal(n * pair_block_bytes(&p), s.result.bytes);
    for (uint32_t i = 0; i < n; i++)
        assert_true(pair_same(&p, local[i], remote[i]));
}

static void a_prompt_moves_from_any_number_of_parts_to_any_other(void **state)
{
    static const uint32_t parts[] = {1, 2, 4};
    struct wire_kv_layout layout = pair_layout(8);

    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int a = 0; a < 3; a++) {
            for (int b = 0; b < 3; b++) {
                open_pair(path, &layout, parts[a], parts[b]);
                whole_transfer(T, N, 4, 1);
                whole_transfer(T + 1, N, 4, 3);
                pair_close(&p);
            }
        }
    }
}

/* Heads of a few bytes, parts that share heads with two of the other side, layers above any message. */
static void any_layout_can_be_re_sharded(void **state)
{
    static const struct {
        struct wire_kv_layout layout;
        uint32_t from, to, n;
    } cases[] = {
        {{5, 4, 8, 16, WIRE_KV_F32, 1, 1}, 2, 4, N},     /* stories260K */
        {{2, 4, 1, 1, WIRE_KV_F32, 1, 1}, 4, 1, N},      /* 4 bytes per head */
        {{3, 12, 5, 6, WIRE_KV_F16, 1, 1}, 4, 6, N},     /* neither divides the other */
        {{2, 8, 128, 256, WIRE_KV_F32, 1, 1}, 2, 1, 4},  /* 2 MiB per layer */
        {{2, 8, 128, 256, WIRE_KV_F32, 1, 1}, 1, 8, 4},  /* the same, from whole blocks */
        {{1, 64, 2, 1, WIRE_KV_BF16, 1, 1}, 64, 64, N},  /* as many parts as there can be */
        {{1, 64, 128, 16, WIRE_KV_BF16, 1, 1}, 1, 64, 3} /* and many puts per record */
    };

    (void)state;
    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        for (int path = 0; path < 2; path++) {
            open_pair(path, &cases[k].layout, cases[k].from, cases[k].to);
            whole_transfer(T, cases[k].n, cases[k].layout.n_layers, 2);
            pair_close(&p);
        }
    }
}

/* In the middle: side 0 the sender, 1 the receiver, 2 both. */
static void either_side_can_cancel_in_the_middle(void **state)
{
    struct wire_kv_layout layout = pair_layout(8);

    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int side = 0; side < 3; side++) {
            open_pair(path, &layout, side == 1 ? 4 : 2, side == 1 ? 2 : 4);
            start(T, N);
            pair_settle(&p);
            pair_pieces(&s, N, 2);
            if (side == 0)
                pair_run_for(&p, 5);
            if (side != 0)
                kvt_grant_cancel(g.grant);
            if (side != 1)
                kvt_send_cancel(s.send);
            assert_true(pair_run(&p, &s.dones, 1, 3000));
            assert_true(pair_run(&p, &g.safes, 1, 3000));
            assert_int_equal(ERR_CANCELED, s.result.err);
            assert_int_equal(ERR_CANCELED, g.arrival.err);
            assert_false(g.safe_before_arrival);
            whole_transfer(T + 1, N, 4, 4);
            pair_close(&p);
        }
    }
}

/* ---- a sender that lies ---- */

enum { ROGUE_PARTS = 2, BLOCK = 16384 };

static uint8_t block[BLOCK];

/* The receiver holds its blocks in 4 parts; the rogue says that it holds its own in ROGUE_PARTS, of a
 * layout with 2 heads of each. */
static void open_rogue(bool one_sided)
{
    struct wire_kv_layout layout = pair_layout(4);

    layout.n_layers = 1;
    pair_open_parts(&p, one_sided ? NULL : "tcp", &layout, 1, 4);
    assert_true(pair_block_bytes(&p) <= BLOCK);
    memset(block, 7, sizeof(block));
    assert_int_equal(ERR_OK, pair_grant(&p, &g, T, E, remote, 1, 5000));
    rogue_connect(&r, &p);
    r.parts = ROGUE_PARTS;
    assert_true(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
    assert_int_equal(4, r.welcome.layout.parts);
    rogue_link(&r, one_sided ? NULL : "tcp");
    assert_int_equal(KVT_WIRE_ACCEPT, rogue_claim(&r, T, E, remote, 1, one_sided));
}

/* What the rogue says of its part `part` of the block: all bytes are alike, so that only offsets matter. */
static struct kvt_wire_record part_record(uint16_t part)
{
    struct wire_kv_layout whole = p.config[1].layout, theirs = whole;
    size_t len = pair_block_bytes(&p) / ROGUE_PARTS;
    struct kvt_wire_record rec = {.n = 1, .part = part};
    struct wire_kv_walk walk;
    struct wire_kv_run run;

    theirs.parts = ROGUE_PARTS;
    whole.parts = 1;
    rec.n_grains = (uint32_t)(len / kvt_wire_grain(&theirs));
    wire_kv_walk_init(&walk, &theirs, &whole);
    wire_kv_walk_over(&walk, part % ROGUE_PARTS, 0, len);
    while (wire_kv_walk_run(&walk, &run))
        rec.digest += wire_kv_digest(block, run.len, run.canonical, kvt_wire_salt(T, E, 0));
    return rec;
}

static void hand_over(bool one_sided, const struct kvt_wire_record *rec)
{
    if (one_sided) {
        for (uint32_t part = 0; part < 4; part++)
            memset((uint8_t *)kvt_node_pool(p.node[1], part) +
                       remote[0] * wire_kv_part_block_bytes(&p.config[1].layout),
                   7, wire_kv_part_block_bytes(&p.config[1].layout));
        rogue_notify(&r, T, E, rec, 1);
    } else {
        rogue_data(&r, T, E, rec, block, pair_block_bytes(&p) / ROGUE_PARTS);
    }
}

static void expect(enum err err)
{
    assert_true(pair_run(&p, &g.arrivals, 1, 3000));
    assert_int_equal(err, g.arrival.err);
    if (g.safes == 0)
        rogue_stopped(&r, T, E);
    pair_run_for(&p, 20);
    rogue_close(&r);
    assert_true(pair_run(&p, &g.safes, 1, 2000));
    pair_run_for(&p, 50);
    pair_close(&p);
}

static void a_block_counts_only_with_all_parts_of_its_sender(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        struct kvt_wire_record first, second;

        open_rogue(one_sided);
        first = part_record(0);
        second = part_record(1);
        hand_over(one_sided, &first);
        hand_over(one_sided, &second);
        rogue_done(&r, T, E, 2);
        expect(ERR_OK);

        open_rogue(one_sided);
        hand_over(one_sided, &first);
        rogue_done(&r, T, E, 1);
        expect(ERR_CORRUPT);
    }
}

static void a_part_that_comes_twice_fails_the_transfer(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        struct kvt_wire_record first;

        open_rogue(one_sided);
        first = part_record(0);
        hand_over(one_sided, &first);
        hand_over(one_sided, &first);
        expect(ERR_CORRUPT);
    }
}

static void a_part_under_the_name_of_another_is_noticed(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        struct kvt_wire_record rec;

        open_rogue(one_sided);
        rec = part_record(0);
        rec.part = 1;
        hand_over(one_sided, &rec);
        expect(ERR_CORRUPT);
    }
}

static void a_part_that_the_sender_does_not_have_drops_it(void **state)
{
    static const uint16_t parts[] = {ROGUE_PARTS, 3, 63, UINT16_MAX};

    (void)state;
    for (size_t k = 0; k < 4; k++) {
        for (int one_sided = 0; one_sided < 2; one_sided++) {
            struct kvt_wire_record rec;

            open_rogue(one_sided);
            rec = part_record(parts[k]);
            if (k == 3 &&
                !one_sided) { /* not even a data header: it names nobody, and is dropped */
                rogue_data(&r, T, E, &rec, block, pair_block_bytes(&p) / ROGUE_PARTS);
                assert_int_equal(1, kvt_node_counters(p.node[1])->bad_messages);
                kvt_grant_cancel(g.grant);
                expect(ERR_CANCELED);
                continue;
            }
            hand_over(one_sided, &rec);
            expect(ERR_PEER_LOST);
        }
    }
}

/* Its bytes end where the part does, not where the block would. */
static void a_range_beyond_the_part_drops_its_sender(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        struct kvt_wire_record rec;

        open_rogue(one_sided);
        rec = part_record(0);
        rec.n_grains *= ROGUE_PARTS;
        if (one_sided)
            rogue_notify(&r, T, E, &rec, 1);
        else
            rogue_data(&r, T, E, &rec, block, pair_block_bytes(&p));
        expect(ERR_PEER_LOST);
    }
}

static void a_number_of_parts_that_cannot_be_is_refused(void **state)
{
    static const uint32_t parts[] = {3, 8, UINT32_MAX};
    struct wire_kv_layout layout = pair_layout(4);

    (void)state;
    pair_open(&p, NULL, &layout);
    for (size_t k = 0; k < 3; k++) {
        rogue_connect(&r, &p);
        r.parts = parts[k];
        assert_false(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
        rogue_close(&r);
    }
    PAIR_UNTIL(&p, kvt_node_counters(p.node[1])->bad_messages == 3);
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_moves_from_any_number_of_parts_to_any_other),
        cmocka_unit_test(any_layout_can_be_re_sharded),
        cmocka_unit_test(either_side_can_cancel_in_the_middle),
        cmocka_unit_test(a_block_counts_only_with_all_parts_of_its_sender),
        cmocka_unit_test(a_part_that_comes_twice_fails_the_transfer),
        cmocka_unit_test(a_part_under_the_name_of_another_is_noticed),
        cmocka_unit_test(a_part_that_the_sender_does_not_have_drops_it),
        cmocka_unit_test(a_range_beyond_the_part_drops_its_sender),
        cmocka_unit_test(a_number_of_parts_that_cannot_be_is_refused),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
