/* tests/unit/kvt_cancel_test.c - transfers that end early: canceled by either side at every stage, past
 * their deadline, or with a peer that is forgotten; and when a slot may be used again. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "tests/kvt/kvt_rogue.h"

enum { E = 3, N = 8 };

static struct pair p;
static struct rogue r;
static struct pair_grant g;
static struct pair_send s;
static uint32_t slots[N];
static uint64_t transfer_id = 900;
static const char *const paths[] = {NULL, "tcp"};

static void open_pair(const char *transports)
{
    struct wire_kv_layout layout = pair_layout(8);

    pair_open(&p, transports, &layout);
    for (uint32_t i = 0; i < N; i++) {
        slots[i] = N - 1 - i;
        pair_fill(&p, 0, i, i + 100);
    }
}

static void start(unsigned deadline_ms)
{
    transfer_id++;
    assert_int_equal(ERR_OK, pair_grant(&p, &g, transfer_id, E, slots, N, deadline_ms));
    assert_int_equal(ERR_OK, pair_send(&p, &s, transfer_id, E, slots, slots, N, deadline_ms));
}

/* Both sides have ended, each told once, and the slots carry a whole new transfer. */
static void expect_both_over_and_slots_usable(enum err sender, enum err receiver)
{
    assert_true(pair_run(&p, &s.dones, 1, 3000));
    assert_true(pair_run(&p, &g.safes, 1, 3000));
    assert_int_equal(1, g.arrivals);
    assert_false(g.safe_before_arrival);
    assert_int_equal(sender, s.result.err);
    assert_int_equal(receiver, g.arrival.err);
    pair_run_for(&p, 30);
    assert_int_equal(1, s.dones);
    assert_int_equal(1, g.safes);

    start(5000);
    pair_pieces(&s, N, 4);
    kvt_send_finish(s.send, NULL, 0);
    assert_true(pair_run(&p, &s.dones, 1, 5000));
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    assert_int_equal(ERR_OK, s.result.err);
    assert_int_equal(ERR_OK, g.arrival.err);
    for (uint32_t i = 0; i < N; i++)
        assert_true(pair_same(&p, slots[i], slots[i]));
}

/* Stage 0: nothing is connected.  1: connected and accepted.  2: half of the pieces.  3: all pieces.
 * 4: finished. */
static void advance(int stage)
{
    if (stage >= 1)
        pair_settle(&p);
    if (stage >= 2)
        pair_pieces(&s, N, 2);
    if (stage >= 3) {
        pair_run_for(&p, 5);
        for (uint32_t layer = 2; layer < 4; layer++)
            kvt_send_piece(s.send, 0, N, layer, 1, 0);
    }
    if (stage >= 4)
        kvt_send_finish(s.send, NULL, 0);
}

static void the_sender_can_cancel_at_every_stage(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int stage = 0; stage < 5; stage++) {
            open_pair(paths[path]);
            start(stage == 0 ? 300 : 5000);
            advance(stage);
            kvt_send_cancel(s.send);
            /* Not connected, the receiver hears nothing: its deadline speaks. */
            expect_both_over_and_slots_usable(ERR_CANCELED,
                                              stage == 0 ? ERR_TIMEOUT : ERR_CANCELED);
            pair_close(&p);
        }
    }
}

static void the_receiver_can_cancel_at_every_stage(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int stage = 0; stage < 5; stage++) {
            open_pair(paths[path]);
            start(5000);
            advance(stage);
            kvt_grant_cancel(g.grant);
            /* Not claimed yet, the grant is unknown to the claim that comes. */
            expect_both_over_and_slots_usable(stage == 0 ? ERR_NOT_FOUND : ERR_CANCELED,
                                              ERR_CANCELED);
            pair_close(&p);
        }
    }
}

static void both_sides_can_cancel_at_once(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int stage = 1; stage < 5; stage++) {
            open_pair(paths[path]);
            start(5000);
            advance(stage);
            kvt_grant_cancel(g.grant);
            kvt_send_cancel(s.send);
            expect_both_over_and_slots_usable(ERR_CANCELED, ERR_CANCELED);
            pair_close(&p);
        }
    }
}

static void a_deadline_ends_both_sides_when_pieces_never_come(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        open_pair(paths[path]);
        pair_settle(&p);
        start(1000);
        advance(2);
        expect_both_over_and_slots_usable(ERR_TIMEOUT, ERR_TIMEOUT);
        pair_close(&p);
    }
}

static void the_deadline_of_the_sender_alone_ends_both_sides(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        open_pair(paths[path]);
        pair_settle(&p);
        transfer_id++;
        assert_int_equal(ERR_OK, pair_grant(&p, &g, transfer_id, E, slots, N, 60000));
        assert_int_equal(ERR_OK, pair_send(&p, &s, transfer_id, E, slots, slots, N, 1000));
        advance(2);
        expect_both_over_and_slots_usable(ERR_TIMEOUT, ERR_TIMEOUT);
        pair_close(&p);
    }
}

static void a_grant_that_nobody_claims_ends_at_its_deadline_and_is_safe_at_once(void **state)
{
    uint64_t begin;

    (void)state;
    open_pair(NULL);
    assert_int_equal(ERR_OK, pair_grant(&p, &g, 5, E, slots, N, 100));
    begin = clock_now_ns();
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    assert_true(clock_now_ns() - begin < 1000 * CLOCK_NS_PER_MS);
    assert_int_equal(ERR_TIMEOUT, g.arrival.err);
    pair_close(&p);
}

static void forgetting_a_peer_fails_its_transfers_on_both_sides(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int side = 0; side < 2; side++) {
            open_pair(paths[path]);
            start(5000);
            advance(3);
            kvt_node_forget(p.node[side], side == 0 ? PAIR_RECEIVER : PAIR_SENDER, false);
            assert_true(pair_run(&p, &s.dones, 1, 3000));
            assert_true(pair_run(&p, &g.safes, 1, 3000));
            assert_int_equal(ERR_PEER_LOST, s.result.err);
            assert_int_equal(ERR_PEER_LOST, g.arrival.err);
            assert_int_equal(ERR_NOT_FOUND, side == 0
                                                ? pair_send(&p, &s, 1, E, slots, slots, N, 100)
                                                : pair_grant(&p, &g, 1, E, slots, N, 100));
            pair_introduce(&p);
            pair_run_for(&p, 30);
            start(5000);
            advance(4);
            assert_true(pair_run(&p, &s.dones, 1, 5000));
            assert_int_equal(ERR_OK, s.result.err);
            pair_run_for(&p, 20);
            pair_close(&p);
        }
    }
}

static void an_unreachable_peer_fails_the_send_within_the_connect_limit(void **state)
{
    (void)state;
    open_pair(NULL);
    assert_int_equal(
        ERR_OK, kvt_node_introduce(p.node[0], PAIR_SENDER, PAIR_RECEIVER, p.token, "127.0.0.1", 1));
    assert_int_equal(ERR_OK, pair_send(&p, &s, 5, E, slots, slots, N, 60000));
    assert_true(pair_run(&p, &s.dones, 1, 3000));
    assert_int_equal(ERR_PEER_LOST, s.result.err);
    assert_int_equal(1, p.losts[0]);
    pair_close(&p);
}

static void a_peer_that_is_introduced_late_is_still_reached(void **state)
{
    struct kvt_node *receiver;

    (void)state;
    open_pair(NULL);
    receiver = p.node[1];
    kvt_node_forget(receiver, PAIR_SENDER, false);
    assert_int_equal(ERR_OK, kvt_node_connect(p.node[0], PAIR_RECEIVER));
    pair_run_for(&p, 100);
    assert_int_equal(0, p.links[0]);
    assert_int_equal(ERR_OK,
                     kvt_node_introduce(receiver, PAIR_RECEIVER, PAIR_SENDER, p.token, NULL, 0));
    assert_true(pair_run(&p, &p.links[0], 1, 900));
    pair_close(&p);
}

/* ---- quarantine, with a sender that does not confirm ---- */

static void rogue_claims(bool one_sided)
{
    open_pair(one_sided ? NULL : "tcp");
    transfer_id++;
    assert_int_equal(ERR_OK, pair_grant(&p, &g, transfer_id, E, slots, N, 60000));
    rogue_connect(&r, &p);
    assert_true(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
    rogue_link(&r, one_sided ? NULL : "tcp");
    assert_int_equal(KVT_WIRE_ACCEPT, rogue_claim(&r, transfer_id, E, slots, N, one_sided));
    kvt_grant_cancel(g.grant);
    assert_true(pair_run(&p, &g.arrivals, 1, 1000));
    assert_int_equal(KVT_WIRE_ABORT, rogue_read(&r, 1000, NULL));
    pair_run_for(&p, 300);
}

static void expect_quarantined(void)
{
    assert_int_equal(0, g.safes);
    assert_int_equal(N, kvt_node_counters(p.node[1])->slots_quarantined);
}

static void over(void)
{
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    assert_int_equal(0, kvt_node_counters(p.node[1])->slots_quarantined);
    rogue_close(&r);
    pair_run_for(&p, 30);
    pair_close(&p);
}

static void slots_stay_quarantined_until_a_writer_confirms(void **state)
{
    (void)state;
    rogue_claims(true);
    expect_quarantined();
    rogue_stopped(&r, transfer_id, E);
    over();
}

static void slots_stay_quarantined_until_a_writer_is_seen_to_end(void **state)
{
    (void)state;
    rogue_claims(true);
    expect_quarantined();
    rogue_close(&r);
    over();
}

static void slots_stay_quarantined_until_the_writers_process_is_known_to_be_gone(void **state)
{
    (void)state;
    rogue_claims(true);
    kvt_node_forget(p.node[1], PAIR_SENDER, false);
    pair_run_for(&p, 50);
    expect_quarantined(); /* forgotten is not gone */
    kvt_node_forget(p.node[1], PAIR_SENDER, true);
    over();
}

static void a_forgotten_writer_can_still_confirm(void **state)
{
    (void)state;
    rogue_claims(true);
    kvt_node_forget(p.node[1], PAIR_SENDER, false);
    pair_run_for(&p, 50);
    expect_quarantined();
    rogue_stopped(&r, transfer_id, E);
    over();
}

static void a_reconnect_of_the_same_process_frees_what_its_old_connection_held(void **state)
{
    struct rogue second;

    (void)state;
    rogue_claims(true);
    expect_quarantined();
    rogue_connect(&second, &p);
    assert_true(rogue_greet(&second, PAIR_SENDER, PAIR_RECEIVER, p.token));
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    rogue_close(&second);
    over();
}

static void on_the_message_path_nothing_is_quarantined(void **state)
{
    (void)state;
    rogue_claims(false);
    assert_int_equal(1, g.safes);
    over();
}

static void a_malformed_frame_does_not_free_what_its_sender_may_still_write(void **state)
{
    static const uint8_t garbage[64] = {0xff};

    (void)state;
    open_pair(NULL);
    assert_int_equal(ERR_OK, pair_grant(&p, &g, 7, E, slots, N, 60000));
    rogue_connect(&r, &p);
    assert_true(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
    rogue_link(&r, NULL);
    assert_int_equal(KVT_WIRE_ACCEPT, rogue_claim(&r, 7, E, slots, N, true));
    rogue_write(&r, garbage, sizeof(garbage));
    assert_true(pair_run(&p, &g.arrivals, 1, 1000));
    assert_int_equal(ERR_PEER_LOST, g.arrival.err);
    pair_run_for(&p, 100);
    expect_quarantined();
    rogue_close(&r);
    over();
}

static void closing_the_node_ends_everything_in_it(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int first = 0; first < 2; first++) {

            open_pair(paths[path]);
            start(5000);
            advance(3);
            kvt_node_close(p.node[first], NULL, NULL);
            kvt_node_close(p.node[1 - first], NULL, NULL);
            assert_true(pair_run(&p, &s.dones, 1, 1000));
            assert_true(pair_run(&p, &g.safes, 1, 1000));
            pair_run_for(&p, 20);
            assert_int_equal(1, s.dones);
            assert_int_equal(1, g.arrivals);
            assert_int_equal(1, g.safes);
            uv_run(&p.loop, UV_RUN_DEFAULT);
            assert_int_equal(0, uv_loop_close(&p.loop));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sender_can_cancel_at_every_stage),
        cmocka_unit_test(the_receiver_can_cancel_at_every_stage),
        cmocka_unit_test(both_sides_can_cancel_at_once),
        cmocka_unit_test(a_deadline_ends_both_sides_when_pieces_never_come),
        cmocka_unit_test(the_deadline_of_the_sender_alone_ends_both_sides),
        cmocka_unit_test(a_grant_that_nobody_claims_ends_at_its_deadline_and_is_safe_at_once),
        cmocka_unit_test(forgetting_a_peer_fails_its_transfers_on_both_sides),
        cmocka_unit_test(an_unreachable_peer_fails_the_send_within_the_connect_limit),
        cmocka_unit_test(a_peer_that_is_introduced_late_is_still_reached),
        cmocka_unit_test(slots_stay_quarantined_until_a_writer_confirms),
        cmocka_unit_test(slots_stay_quarantined_until_a_writer_is_seen_to_end),
        cmocka_unit_test(slots_stay_quarantined_until_the_writers_process_is_known_to_be_gone),
        cmocka_unit_test(a_forgotten_writer_can_still_confirm),
        cmocka_unit_test(a_reconnect_of_the_same_process_frees_what_its_old_connection_held),
        cmocka_unit_test(on_the_message_path_nothing_is_quarantined),
        cmocka_unit_test(a_malformed_frame_does_not_free_what_its_sender_may_still_write),
        cmocka_unit_test(closing_the_node_ends_everything_in_it),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
