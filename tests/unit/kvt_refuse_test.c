/* tests/unit/kvt_refuse_test.c - what a peer may not do: come without introduction, lie about digests,
 * blocks, transfers and bounds, or send garbage. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/kvt/kvt_rogue.h"

enum { T = 500, E = 7 };

static struct pair p;
static struct rogue r;
static struct pair_grant g;
static const uint32_t slots[3] = {5, 9, 2};
static uint8_t block[3][1 << 16];

/* A pair whose node 1 has granted `slots` to the rogue, which has introduced itself rightly. */
static void open_granted(bool one_sided)
{
    struct wire_kv_layout layout = pair_layout(1);

    pair_open(&p, one_sided ? NULL : "tcp", &layout);
    assert_int_equal(ERR_OK, pair_grant(&p, &g, T, E, slots, 3, 5000));
    for (uint32_t i = 0; i < 3; i++)
        memset(block[i], (int)i + 1, pair_block_bytes(&p));
    rogue_connect(&r, &p);
    assert_true(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
    rogue_link(&r, one_sided ? NULL : "tcp");
    assert_int_equal(KVT_WIRE_ACCEPT, rogue_claim(&r, T, E, slots, 3, one_sided));
}

static struct kvt_wire_record record(uint32_t i)
{
    return rogue_record(&p, T, E, i, block[i]);
}

/* Hand block i over, on either path, with a record as given. */
static void hand_over(bool one_sided, uint32_t i, struct kvt_wire_record rec)
{
    if (one_sided) {
        rogue_put(&r, slots[i], block[i]);
        rogue_notify(&r, T, E, &rec, 1);
    } else {
        rogue_data(&r, T, E, &rec, block[i], pair_block_bytes(&p));
    }
}

static void expect_failed(enum err err)
{
    assert_true(pair_run(&p, &g.arrivals, 1, 3000));
    assert_int_equal(err, g.arrival.err);
}

/* The rogue answers an ABORT as it should, so that slots become free. */
static void close_all(void)
{
    if (g.safes == 0)
        rogue_stopped(&r, T, E);
    assert_true(pair_run(&p, &g.safes, 1, 2000));
    assert_int_equal(1, g.arrivals);
    assert_false(g.safe_before_arrival);
    rogue_close(&r);
    pair_run_for(&p, 50);
    pair_close(&p);
}

static void an_honest_peer_is_verified(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        open_granted(one_sided);
        for (uint32_t i = 0; i < 3; i++)
            hand_over(one_sided, i, record(i));
        rogue_done(&r, T, E, 3);
        expect_failed(ERR_OK);
        for (uint32_t i = 0; i < 3; i++)
            assert_memory_equal(block[i], pair_block(&p, 1, slots[i]), pair_block_bytes(&p));
        close_all();
    }
}

static void a_wrong_digest_is_never_delivered(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        open_granted(one_sided);
        struct kvt_wire_record rec = record(0);

        rec.digest ^= 1u << 17;
        hand_over(one_sided, 0, rec);
        expect_failed(ERR_CORRUPT);
        assert_int_equal(KVT_WIRE_ABORT, rogue_read(&r, 1000, NULL));
        close_all();
    }
}

static void two_blocks_that_changed_places_are_noticed(void **state)
{
    (void)state;
    open_granted(true);
    struct kvt_wire_record both = record(0);

    both.n = 2;
    both.digest += record(1).digest;
    rogue_put(&r, slots[0], block[1]);
    rogue_put(&r, slots[1], block[0]);
    rogue_notify(&r, T, E, &both, 1);
    expect_failed(ERR_CORRUPT);
    close_all();
}

static void a_block_named_twice_fails_the_transfer(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        open_granted(one_sided);
        hand_over(one_sided, 0, record(0));
        hand_over(one_sided, 0, record(0));
        expect_failed(ERR_CORRUPT);
        close_all();
    }
}

static void a_missing_block_fails_the_transfer(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        open_granted(one_sided);
        hand_over(one_sided, 0, record(0));
        hand_over(one_sided, 1, record(1));
        rogue_done(&r, T, E, 2);
        expect_failed(ERR_CORRUPT);
        close_all();
    }
}

static void records_that_never_come_fail_the_transfer_in_time(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        open_granted(one_sided);
        hand_over(one_sided, 0, record(0));
        rogue_done(&r, T, E, 3);
        expect_failed(ERR_TIMEOUT);
        close_all();
    }
}

static void data_of_a_foreign_transfer_or_epoch_is_dropped(void **state)
{
    (void)state;
    for (int one_sided = 0; one_sided < 2; one_sided++) {
        open_granted(one_sided);
        const struct kvt_counters *c = kvt_node_counters(p.node[1]);
        struct kvt_wire_record rec = record(0);

        if (one_sided) {
            rogue_notify(&r, T + 1, E, &rec, 1);
            rogue_notify(&r, T, E - 1, &rec, 1);
        } else {
            memset(pair_block(&p, 1, slots[0]), 3, pair_block_bytes(&p)); /* as block[2] is */
            rogue_data(&r, T + 1, E, &rec, block[0], pair_block_bytes(&p));
            rogue_data(&r, T, E - 1, &rec, block[0], pair_block_bytes(&p));
            assert_memory_equal(block[2], pair_block(&p, 1, slots[0]), pair_block_bytes(&p));
        }
        PAIR_UNTIL(&p, c->late_messages == 2);
        assert_int_equal(0, g.arrivals);
        kvt_grant_cancel(g.grant);
        expect_failed(ERR_CANCELED);
        close_all();
    }
}

static void claims_must_match_the_grant(void **state)
{
    static const uint32_t other[3] = {5, 2, 9};
    struct wire_kv_layout layout = pair_layout(1);

    (void)state;
    pair_open(&p, "tcp", &layout);
    assert_int_equal(ERR_OK, pair_grant(&p, &g, T, E, slots, 3, 5000));
    rogue_connect(&r, &p);
    assert_true(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
    rogue_link(&r, "tcp");
    assert_int_equal(KVT_WIRE_REFUSE, rogue_claim(&r, T + 1, E, slots, 3, false));
    assert_int_equal(KVT_WIRE_REFUSE, rogue_claim(&r, T, E + 1, slots, 3, false));
    assert_int_equal(KVT_WIRE_REFUSE, rogue_claim(&r, T, E, slots, 2, false));
    assert_int_equal(KVT_WIRE_REFUSE, rogue_claim(&r, T, E, other, 3, false));
    assert_int_equal(KVT_WIRE_ACCEPT, rogue_claim(&r, T, E, slots, 3, false));
    assert_int_equal(KVT_WIRE_REFUSE, rogue_claim(&r, T, E, slots, 3, false));
    kvt_grant_cancel(g.grant);
    close_all();
}

static void out_of_bounds_records_drop_the_peer(void **state)
{
    struct kvt_wire_record bad[6];

    (void)state;
    for (size_t k = 0; k < 6; k++) {
        for (int one_sided = 0; one_sided < 2; one_sided++) {
            open_granted(one_sided);
            for (size_t i = 0; i < 6; i++)
                bad[i] = record(0);
            bad[0].first = 3;
            bad[1].n = 4;
            bad[2].first = UINT32_MAX;
            bad[3].n_grains++;
            bad[4].grain = UINT32_MAX;
            bad[5].n_grains = UINT32_MAX;
            if (one_sided)
                rogue_notify(&r, T, E, &bad[k], 1);
            else
                rogue_data(&r, T, E, &bad[k], block[0], pair_block_bytes(&p));
            expect_failed(ERR_PEER_LOST);
            assert_true(kvt_node_counters(p.node[1])->bad_messages > 0);
            assert_int_equal(one_sided ? 1 : 0, g.safes == 0);
            rogue_close(&r); /* on the one-sided path only this frees the slots */
            close_all();
        }
    }
}

static void a_message_of_another_length_than_its_record_drops_the_peer(void **state)
{
    (void)state;
    open_granted(false);
    struct kvt_wire_record rec = record(0);

    rogue_data(&r, T, E, &rec, block[0], pair_block_bytes(&p) - 4);
    expect_failed(ERR_PEER_LOST);
    close_all();
}

static void a_peer_without_introduction_or_with_a_wrong_token_is_refused(void **state)
{
    struct wire_kv_layout layout = pair_layout(1);
    uint8_t wrong[KVT_TOKEN_BYTES];

    (void)state;
    pair_open(&p, "tcp", &layout);
    memcpy(wrong, p.token, sizeof(wrong));
    wrong[KVT_TOKEN_BYTES - 1] ^= 1;
    rogue_connect(&r, &p);
    assert_false(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, wrong));
    rogue_close(&r);
    rogue_connect(&r, &p);
    assert_false(rogue_greet(&r, PAIR_SENDER + 1, PAIR_RECEIVER, p.token));
    rogue_close(&r);
    rogue_connect(&r, &p);
    assert_false(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER + 1, p.token));
    rogue_close(&r);
    PAIR_UNTIL(&p, kvt_node_counters(p.node[1])->refused == 3);
    pair_close(&p);
}

static void frames_before_the_greeting_end_the_connection(void **state)
{
    struct wire_kv_layout layout = pair_layout(1);

    (void)state;
    pair_open(&p, "tcp", &layout);
    rogue_connect(&r, &p);
    assert_int_equal(KVT_WIRE_CHALLENGE, rogue_read(&r, 1000, NULL));
    rogue_drop(&r);
    rogue_write(&r, r.frame, kvt_wire_put_u64(r.frame, KVT_WIRE_PING, 1));
    assert_int_equal(0, rogue_read(&r, 1000, NULL));
    rogue_close(&r);
    pair_close(&p);
}

static void garbage_at_the_port_is_harmless(void **state)
{
    struct wire_kv_layout layout = pair_layout(1);
    struct pair_send s;
    uint8_t garbage[4096];
    uint32_t x = 1;

    (void)state;
    pair_open(&p, "tcp", &layout);
    for (int k = 0; k < 100; k++) {
        for (size_t i = 0; i < sizeof(garbage); i++)
            garbage[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
        if (k % 3 == 0) /* a header that promises a long body */
            memcpy(garbage, "\xff\xff\xff\x7f\x02\0\0\0", 8);
        rogue_connect(&r, &p);
        rogue_write(&r, garbage, (size_t)k * 40);
        if (k % 2 == 0)
            pair_run_for(&p, 2);
        rogue_close(&r);
    }
    assert_int_equal(ERR_OK, pair_grant(&p, &g, T, E, slots, 3, 5000));
    assert_int_equal(ERR_OK, pair_send(&p, &s, T, E, slots, slots, 3, 5000));
    pair_pieces(&s, 3, layout.n_layers);
    kvt_send_finish(s.send, NULL, 0);
    assert_true(pair_run(&p, &s.dones, 1, 5000));
    assert_int_equal(ERR_OK, s.result.err);
    pair_run_for(&p, 20);
    pair_close(&p);
}

static void silent_connections_do_not_keep_a_peer_out(void **state)
{
    static struct rogue idle[100];
    struct wire_kv_layout layout = pair_layout(1);

    (void)state;
    pair_open(&p, "tcp", &layout);
    for (size_t i = 0; i < 100; i++)
        rogue_connect(&idle[i], &p);
    assert_int_equal(ERR_OK, kvt_node_connect(p.node[0], PAIR_RECEIVER));
    assert_true(pair_run(&p, &p.links[0], 1, 900));
    for (size_t i = 0; i < 100; i++)
        rogue_close(&idle[i]);
    pair_run_for(&p, 20);
    pair_close(&p);
}

/* The TCP port that UCX opens for itself: listening, and not one of the nodes' own. */
static int ucx_port_of_the_pair(void)
{
    for (int fd = 3; fd < 512; fd++) {
        struct sockaddr_in addr;
        socklen_t len = sizeof(addr), len2 = sizeof(int);
        int listening = 0, port;

        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len2) != 0 || !listening ||
            getsockname(fd, (struct sockaddr *)&addr, &len) != 0 || addr.sin_family != AF_INET)
            continue;
        port = ntohs(addr.sin_port);
        if (port != kvt_node_port(p.node[0]) && port != kvt_node_port(p.node[1]))
            return port;
    }
    return 0;
}

static bool can_connect(int port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct pollfd w = {.events = POLLOUT};
    bool ok;

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    w.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ok = connect(w.fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || poll(&w, 1, 300) == 1;
    close(w.fd);
    return ok;
}

static void ucx_answers_nobody_before_a_proof_from_that_address(void **state)
{
    struct wire_kv_layout layout = pair_layout(1);
    int port;

    (void)state;
    pair_open(&p, NULL, &layout);
    assert_int_equal(0, ucx_port_of_the_pair()); /* shared memory on loopback: no port at all */
    pair_close(&p);
    pair_open(&p, "tcp", &layout);
    port = ucx_port_of_the_pair();
    assert_int_not_equal(0, port);
    assert_true(can_connect(kvt_node_port(p.node[1])));
    assert_false(can_connect(port));
    assert_int_equal(ERR_OK, kvt_node_connect(p.node[0], PAIR_RECEIVER));
    assert_true(pair_run(&p, &p.links[0], 1, 900));
    assert_true(can_connect(port));
    kvt_node_forget(p.node[0], PAIR_RECEIVER, false);
    for (int k = 0; k < 100 && can_connect(port); k++)
        pair_run_for(&p, 50);
    assert_false(can_connect(port));
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_peer_is_verified),
        cmocka_unit_test(a_wrong_digest_is_never_delivered),
        cmocka_unit_test(two_blocks_that_changed_places_are_noticed),
        cmocka_unit_test(a_block_named_twice_fails_the_transfer),
        cmocka_unit_test(a_missing_block_fails_the_transfer),
        cmocka_unit_test(records_that_never_come_fail_the_transfer_in_time),
        cmocka_unit_test(data_of_a_foreign_transfer_or_epoch_is_dropped),
        cmocka_unit_test(claims_must_match_the_grant),
        cmocka_unit_test(out_of_bounds_records_drop_the_peer),
        cmocka_unit_test(a_message_of_another_length_than_its_record_drops_the_peer),
        cmocka_unit_test(a_peer_without_introduction_or_with_a_wrong_token_is_refused),
        cmocka_unit_test(frames_before_the_greeting_end_the_connection),
        cmocka_unit_test(garbage_at_the_port_is_harmless),
        cmocka_unit_test(silent_connections_do_not_keep_a_peer_out),
        cmocka_unit_test(ucx_answers_nobody_before_a_proof_from_that_address),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
