/* tests/unit/kvt_staged_test.c - hand-over where one pool or both are in device memory: through pinned buffers,
 * with a device (tests/kvt/kvt_device.h) that is late, fails, lies or hangs. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tests/kvt/kvt_rogue.h"

enum {
    E = 5,
    N = 12,
    DELAY_US = 300,
    SMALL_STAGING = 1 << 20 /* two buffers for each direction */
};

static const char *const paths[] = {NULL, "tcp"}; /* shared memory, TCP */
static struct pair p;
static struct pair_grant g;
static struct pair_send s;
static uint32_t local[N], remote[N];
static uint64_t transfer_id = 700;

static const struct pair_side device = {.parts = 1, .device = true, .delay_us = DELAY_US};
static const struct pair_side host = {.parts = 1};

static void open_pair(int path, uint32_t heads, struct pair_side from, struct pair_side to)
{
    const struct pair_side sides[2] = {from, to};
    struct wire_kv_layout layout = pair_layout(heads);

    pair_open_sides(&p, paths[path], &layout, sides);
    for (uint32_t i = 0; i < N; i++) {
        local[i] = (i * 5 + 1) % PAIR_BLOCKS;
        remote[i] = i % 3 == 0 ? i + 20 : N - i;
        pair_fill(&p, 0, local[i], i + 1);
    }
}

static void start(unsigned deadline_ms)
{
    transfer_id++;
    assert_int_equal(ERR_OK, pair_grant(&p, &g, transfer_id, E, remote, N, deadline_ms));
    assert_int_equal(ERR_OK, pair_send(&p, &s, transfer_id, E, remote, local, N, deadline_ms));
}

static void both_end(enum err sender, enum err receiver)
{
    assert_true(pair_run(&p, &s.dones, 1, 5000));
    assert_true(pair_run(&p, &g.safes, 1, 5000));
    assert_int_equal(sender, s.result.err);
    assert_int_equal(receiver, g.arrival.err);
    assert_int_equal(1, g.arrivals);
    assert_false(g.safe_before_arrival);
}

static void whole_transfer(void)
{
    start(20000);
    pair_pieces(&s, N, 4);
    kvt_send_finish(s.send, "meta", 4);
    both_end(ERR_OK, ERR_OK);
    assert_memory_equal("meta", g.arrival.meta, 4);
    assert_int_equal(N * pair_block_bytes(&p), g.arrival.bytes);
    assert_int_equal(N * pair_block_bytes(&p), s.result.bytes);
    for (uint32_t i = 0; i < N; i++)
        assert_true(pair_same(&p, local[i], remote[i]));
}

static void close_pair(void)
{
    pair_close(&p);
}

#define DEVICE(n)                                          \
    {                                                      \
        .parts = (n), .device = true, .delay_us = DELAY_US \
    }
#define HOST(n)      \
    {                \
        .parts = (n) \
    }

static void blocks_move_between_devices_and_host_memory_on_either_path(void **state)
{
    static const struct {
        struct pair_side from, to;
    } cases[] = {
        {DEVICE(1), DEVICE(1)},
        {DEVICE(1), HOST(1)},
        {HOST(1), DEVICE(1)},
        {DEVICE(2), DEVICE(1)},
        {DEVICE(2), HOST(1)},
        {HOST(2), DEVICE(4)},
        {{.parts = 2, .device = true}, {.parts = 2, .device = true}}, /* whose jobs end at once */
    };

    (void)state;
    for (int path = 0; path < 2; path++) {
        for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
            enum kvt_path want = path == 0 ? KVT_PATH_STAGED_SHM : KVT_PATH_STAGED_TCP;

            open_pair(path, 8, cases[k].from, cases[k].to);
            whole_transfer();
            whole_transfer();
            for (int i = 0; i < 2; i++) {
                assert_int_equal(want, p.link[i].path);
                assert_false(p.link[i].one_sided);
            }
            assert_int_equal(want, g.arrival.path);
            assert_int_equal(want, s.result.path);
            assert_int_equal(2 * N * pair_block_bytes(&p),
                             kvt_node_counters(p.node[1])->bytes_received[want]);
            assert_int_equal(2 * N * pair_block_bytes(&p),
                             kvt_node_counters(p.node[0])->bytes_sent[want]);
            if (p.device[0] != NULL)
                assert_int_equal(2 * N * pair_block_bytes(&p),
                                 device_counts(p.device[0]).bytes[DEVICE_OUT]);
            if (p.device[1] != NULL)
                assert_int_equal(2 * N * pair_block_bytes(&p),
                                 device_counts(p.device[1]).bytes[DEVICE_IN]);
            close_pair();
        }
    }
}

static void paths_have_names(void **state)
{
    (void)state;
    assert_string_equal("staged-shm", kvt_path_name(KVT_PATH_STAGED_SHM));
    assert_string_equal("staged-tcp", kvt_path_name(KVT_PATH_STAGED_TCP));
    assert_string_equal("staged-rdma", kvt_path_name(KVT_PATH_STAGED_RDMA));
    assert_string_equal("cuda", kvt_path_name(KVT_PATH_CUDA));
    assert_string_equal("none", kvt_path_name(KVT_PATHS));
}

/* Layers above a message and heads of 4 bytes: a message of one is many runs, and so many jobs. */
static void any_layout_is_staged_whole(void **state)
{
    static const struct {
        struct wire_kv_layout layout;
        uint32_t from, to, n;
    } cases[] = {
        {{5, 4, 8, 16, WIRE_KV_F32, 1, 1}, 2, 4, N},    /* stories260K */
        {{1, 1, 1, 1, WIRE_KV_U64, 1, 1}, 1, 1, N},     /* the sim backend's smallest */
        {{20, 512, 1, 1, WIRE_KV_F32, 1, 1}, 2, 1, 3},  /* 40 runs of 1 KiB */
        {{20, 64, 1, 1, WIRE_KV_F32, 1, 1}, 64, 1, 12}, /* runs of 4 bytes */
        {{2, 8, 128, 256, WIRE_KV_F32, 1, 1}, 2, 1, 3}, /* 2 MiB per layer */
    };

    (void)state;
    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        const struct pair_side sides[2] = {{.parts = cases[k].from, .device = true},
                                           {.parts = cases[k].to, .device = true}};
        uint32_t n = cases[k].n;

        pair_open_sides(&p, NULL, &cases[k].layout, sides);
        for (uint32_t i = 0; i < n; i++) {
            local[i] = i;
            remote[i] = n - i;
            pair_fill(&p, 0, i, i + 1);
        }
        transfer_id++;
        assert_int_equal(ERR_OK, pair_grant(&p, &g, transfer_id, E, remote, n, 20000));
        assert_int_equal(ERR_OK, pair_send(&p, &s, transfer_id, E, remote, local, n, 20000));
        kvt_send_piece(s.send, 0, n, 0, cases[k].layout.n_layers, 0);
        kvt_send_finish(s.send, NULL, 0);
        both_end(ERR_OK, ERR_OK);
        for (uint32_t i = 0; i < n; i++)
            assert_true(pair_same(&p, local[i], remote[i]));
        close_pair();
    }
}

/* Many times more than there are buffers, with a slow device at either end. */
static void what_is_more_than_the_buffers_waits_its_turn(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int slow = 0; slow < 2; slow++) {
            struct pair_side from = device, to = device;

            from.staging = to.staging = SMALL_STAGING;
            from.delay_us = slow == 0 ? 1000 : 10;
            to.delay_us = slow == 1 ? 1000 : 10;
            open_pair(path, 64, from, to); /* 512 KiB per block */
            whole_transfer();
            assert_in_range(device_counts(p.device[0]).most, 1, 2);
            assert_in_range(device_counts(p.device[1]).most, 1, 2);
            close_pair();
        }
    }
}

static void a_piece_leaves_only_when_its_ticket_has_passed(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        open_pair(path, 8, device, path == 0 ? device : host);
        device_pass(p.device[0], 1);
        start(20000);
        for (uint32_t layer = 0; layer < 4; layer++)
            kvt_send_piece(s.send, 0, N, layer, 1, layer + 1);
        kvt_send_finish(s.send, NULL, 0);
        PAIR_UNTIL(&p,
                   device_counts(p.device[0]).bytes[DEVICE_OUT] >= N * pair_block_bytes(&p) / 4);
        pair_run_for(&p, 50); /* and no more */
        assert_int_equal(N * pair_block_bytes(&p) / 4,
                         device_counts(p.device[0]).bytes[DEVICE_OUT]);
        assert_int_equal(0, s.dones);
        /* What the layers become before the engine is done with them. */
        for (uint32_t i = 0; i < N; i++)
            assert_int_equal(0, g.arrivals);
        device_pass(p.device[0], 3);
        pair_run_for(&p, 100);
        assert_int_equal(0, s.dones);
        device_pass(p.device[0], 4);
        both_end(ERR_OK, ERR_OK);
        for (uint32_t i = 0; i < N; i++)
            assert_true(pair_same(&p, local[i], remote[i]));
        close_pair();
    }
}

/* One with more pieces than it may hold buffers for, all waiting for the engine; another one is complete. */
static void a_transfer_that_waits_for_its_ticket_does_not_stop_another(void **state)
{
    static const uint32_t slots[2] = {60, 61};
    struct pair_grant g2;
    struct pair_send s2;

    (void)state;
    open_pair(0, 64, device, device);
    device_pass(p.device[0], 0);
    start(20000);
    for (uint32_t layer = 0; layer < 4; layer++)
        kvt_send_piece(s.send, 0, N, layer, 1, 1);
    kvt_send_finish(s.send, NULL, 0);
    pair_run_for(&p, 50);
    assert_int_equal(ERR_OK, pair_grant(&p, &g2, 5000, E, slots, 2, 20000));
    assert_int_equal(ERR_OK, pair_send(&p, &s2, 5000, E, slots, slots, 2, 20000));
    pair_pieces(&s2, 2, 4);
    kvt_send_finish(s2.send, NULL, 0);
    assert_true(pair_run(&p, &s2.dones, 1, 1000));
    assert_int_equal(ERR_OK, s2.result.err);
    assert_true(pair_run(&p, &g2.safes, 1, 1000));
    assert_int_equal(0, s.dones);
    device_pass(p.device[0], 1);
    both_end(ERR_OK, ERR_OK);
    close_pair();
}

/* ---- early ends ---- */

static void paint(void)
{
    for (uint32_t i = 0; i < N; i++)
        pair_fill(&p, 1, remote[i], 4000 + i);
}

static void paint_is_intact(void)
{
    size_t len = pair_block_bytes(&p);
    uint8_t *now = mem_try_alloc(len), *then = mem_try_alloc(len);

    assert_true(now != NULL && then != NULL);
    for (uint32_t i = 0; i < N; i++) {
        pair_load(&p, 1, remote[i], now);
        pair_fill(&p, 1, remote[i], 4000 + i);
        pair_load(&p, 1, remote[i], then);
        assert_memory_equal(now, then, len);
    }
    mem_free(now);
    mem_free(then);
}

/* Stage 0: accepted.  1: some pieces, none has ended.  2: some are on their way.  3: all, finished. */
static void advance(int stage)
{
    pair_settle(&p);
    if (stage >= 1)
        pair_pieces(&s, N, 2);
    if (stage >= 2)
        pair_run_for(&p, 3);
    if (stage >= 3) {
        for (uint32_t layer = 2; layer < 4; layer++)
            kvt_send_piece(s.send, 0, N, layer, 1, 0);
        kvt_send_finish(s.send, NULL, 0);
    }
}

static void either_side_can_cancel_at_every_stage_and_nothing_is_written_late(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int stage = 0; stage < 4; stage++) {
            for (int side = 0; side < 3; side++) {
                struct pair_side from = device, to = device;

                from.parts = stage % 2 == 0 ? 1 : 2;
                from.delay_us = to.delay_us = 2000;
                open_pair(path, 8, from, to);
                start(20000);
                advance(stage);
                if (side != 0)
                    kvt_grant_cancel(g.grant);
                if (side != 1)
                    kvt_send_cancel(s.send);
                both_end(ERR_CANCELED, ERR_CANCELED);
                paint();
                pair_run_for(&p, 10);
                paint_is_intact();
                whole_transfer();
                close_pair();
            }
        }
    }
}

static void slots_are_not_safe_while_a_copy_writes_to_them(void **state)
{
    (void)state;
    open_pair(0, 8, host, device);
    start(20000);
    pair_settle(&p);
    device_hang(p.device[1], DEVICE_IN, true);
    pair_pieces(&s, N, 4);
    PAIR_UNTIL(&p, device_counts(p.device[1]).open > 0);
    kvt_grant_cancel(g.grant);
    assert_true(pair_run(&p, &g.arrivals, 1, 1000));
    assert_int_equal(ERR_CANCELED, g.arrival.err);
    PAIR_UNTIL(&p, kvt_node_counters(p.node[1])->slots_quarantined == N);
    pair_run_for(&p, 50);
    assert_int_equal(0, g.safes);
    device_hang(p.device[1], DEVICE_IN, false);
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    assert_true(pair_run(&p, &s.dones, 1, 1000));
    assert_true(device_counts(p.device[1]).aborted > 0);
    whole_transfer();
    close_pair();
}

static void a_deadline_ends_both_sides(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        open_pair(path, 8, device, device);
        device_pass(p.device[0], 0);
        start(600);
        for (uint32_t layer = 0; layer < 4; layer++)
            kvt_send_piece(s.send, 0, N, layer, 1, 1);
        kvt_send_finish(s.send, NULL, 0);
        both_end(ERR_TIMEOUT, ERR_TIMEOUT);
        device_pass(p.device[0], 1);
        whole_transfer();
        close_pair();
    }
}

/* ---- a device that fails ---- */

static uint64_t quarantined(int node)
{
    return kvt_node_counters(p.node[node])->buffers_quarantined;
}

static void a_copy_out_that_never_ends_fails_its_transfer_and_keeps_its_buffers(void **state)
{
    (void)state;
    open_pair(1, 8, device, host);
    start(60000);
    pair_settle(&p);
    device_hang(p.device[0], DEVICE_OUT, true);
    pair_pieces(&s, N, 4);
    kvt_send_finish(s.send, NULL, 0);
    both_end(ERR_DEVICE, ERR_DEVICE); /* after transfer_timeout_ns */
    PAIR_UNTIL(&p, quarantined(0) > 0);
    device_hang(p.device[0], DEVICE_OUT, false);
    PAIR_UNTIL(&p, quarantined(0) == 0); /* the sweep of an idle node */
    whole_transfer();
    close_pair();
}

static void a_copy_in_that_never_ends_fails_its_transfer_and_keeps_its_slots(void **state)
{
    (void)state;
    open_pair(0, 8, host, device);
    start(60000);
    pair_settle(&p);
    device_hang(p.device[1], DEVICE_IN, true);
    pair_pieces(&s, N, 4);
    assert_true(pair_run(&p, &g.arrivals, 1, 5000));
    assert_int_equal(ERR_DEVICE, g.arrival.err);
    assert_true(pair_run(&p, &s.dones, 1, 1000));
    assert_int_equal(ERR_DEVICE, s.result.err);
    PAIR_UNTIL(&p, quarantined(1) > 0);
    pair_run_for(&p, 50);
    assert_int_equal(0, g.safes);
    device_hang(p.device[1], DEVICE_IN, false);
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    whole_transfer();
    close_pair();
}

/* All buffers are with a device that is dead: the rest of the transfers fails, and quickly. */
static void a_dead_device_fails_what_comes_after(void **state)
{
    (void)state;
    for (int side = 0; side < 2; side++) {
        struct pair_side from = device, to = device;
        uint64_t began;

        from.staging = to.staging = SMALL_STAGING;
        open_pair(0, 32, from, to);
        start(60000);
        pair_settle(&p);
        device_hang(p.device[side], side == 0 ? DEVICE_OUT : DEVICE_IN, true);
        pair_pieces(&s, N, 4);
        assert_true(pair_run(&p, &s.dones, 1, 5000));
        assert_true(pair_run(&p, &g.arrivals, 1, 1000));
        assert_int_equal(ERR_DEVICE, side == 0 ? s.result.err : g.arrival.err);
        PAIR_UNTIL(&p, quarantined(side) == 2);
        for (uint32_t i = 0; i < N; i++)
            remote[i] += 30;
        began = clock_now_ns();
        start(60000);
        pair_pieces(&s, N, 4);
        assert_true(pair_run(&p, &s.dones, 1, 1000));
        assert_true(pair_run(&p, &g.arrivals, 1, 1000));
        assert_int_equal(ERR_DEVICE, s.result.err);
        assert_int_equal(ERR_DEVICE, g.arrival.err);
        assert_true(clock_now_ns() - began < 2000 * CLOCK_NS_PER_MS);
        device_hang(p.device[side], side == 0 ? DEVICE_OUT : DEVICE_IN, false);
        pair_run_for(&p, 300);
        whole_transfer();
        close_pair();
    }
}

static void a_job_that_fails_or_is_refused_fails_its_transfer_alone(void **state)
{
    (void)state;
    for (int how = 0; how < 2; how++) {
        for (int side = 0; side < 2; side++) {
            for (unsigned k = 0; k < 6; k++) {
                enum device_op op = side == 0 ? DEVICE_OUT : DEVICE_IN;

                open_pair((int)k % 2, 32, device, device);
                start(20000);
                (how == 0 ? device_fail : device_refuse)(p.device[side], op, k);
                pair_pieces(&s, N, 4);
                kvt_send_finish(s.send, NULL, 0);
                both_end(ERR_DEVICE, ERR_DEVICE);
                whole_transfer();
                close_pair();
            }
        }
    }
}

static void bytes_that_change_on_the_way_are_noticed_by_the_device(void **state)
{
    (void)state;
    for (int side = 0; side < 2; side++) {
        open_pair(0, 8, device, device);
        start(20000);
        device_corrupt(p.device[side], side == 0 ? DEVICE_OUT : DEVICE_IN, 1);
        pair_pieces(&s, N, 4);
        kvt_send_finish(s.send, NULL, 0);
        both_end(ERR_CORRUPT, ERR_CORRUPT);
        whole_transfer();
        close_pair();
    }
}

/* ---- devices that UCX can reach ---- */

static const struct pair_side near = {
    .parts = 2, .device = true, .delay_us = DELAY_US, .coherent = true};

static void a_device_that_ucx_reaches_needs_no_buffers(void **state)
{
    static const struct pair_side one = {
        .parts = 1, .device = true, .delay_us = DELAY_US, .coherent = true};
    const struct pair_side cases[][2] = {
        {near, host}, {near, one}, {one, host}, {host, one}, {near, near}};

    (void)state;
    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        open_pair(0, 8, cases[k][0], cases[k][1]);
        whole_transfer();
        whole_transfer();
        assert_true(p.link[0].one_sided);
        assert_int_equal(KVT_PATH_SHM, g.arrival.path);
        for (int i = 0; i < 2; i++) {
            if (p.device[i] == NULL)
                continue;
            struct device_counts c = device_counts(p.device[i]);

            assert_int_equal(0, c.bytes[DEVICE_OUT] + c.bytes[DEVICE_IN]);
            assert_int_equal(2 * N * pair_block_bytes(&p), c.bytes[DEVICE_DIGEST]);
        }
        close_pair();
    }
}

static void a_device_that_ucx_does_not_reach_is_staged_beside_one_that_it_does(void **state)
{
    (void)state;
    open_pair(0, 8, near, device);
    whole_transfer();
    assert_int_equal(KVT_PATH_STAGED_SHM, g.arrival.path);
    close_pair();
    open_pair(0, 8, device, near);
    whole_transfer();
    assert_int_equal(KVT_PATH_STAGED_SHM, g.arrival.path);
    close_pair();
}

static void puts_wait_for_tickets_and_end_early_like_copies(void **state)
{
    (void)state;
    for (int how = 0; how < 6; how++) {
        open_pair(0, 8, near, near);
        device_pass(p.device[0], how == 0 ? 0 : 1);
        start(20000);
        pair_settle(&p);
        if (how == 3)
            device_fail(p.device[0], DEVICE_DIGEST, 1);
        if (how == 4)
            device_fail(p.device[1], DEVICE_DIGEST, 1);
        if (how == 5)
            device_corrupt(p.device[1], DEVICE_DIGEST, 1);
        for (uint32_t layer = 0; layer < 4; layer++)
            kvt_send_piece(s.send, 0, N, layer, 1, 1);
        kvt_send_finish(s.send, NULL, 0);
        if (how == 0) {
            pair_run_for(&p, 100);
            assert_int_equal(0, g.arrivals);
            device_pass(p.device[0], 1);
        }
        if (how == 1)
            kvt_send_cancel(s.send);
        if (how == 2)
            kvt_grant_cancel(g.grant);
        if (how == 0)
            both_end(ERR_OK, ERR_OK);
        else if (how < 3)
            both_end(ERR_CANCELED, ERR_CANCELED);
        else if (how < 5)
            both_end(ERR_DEVICE, ERR_DEVICE);
        else
            both_end(ERR_CORRUPT, ERR_CORRUPT);
        whole_transfer();
        close_pair();
    }
}

/* ---- life ---- */

static void closing_a_node_waits_for_its_copies(void **state)
{
    (void)state;
    for (int path = 0; path < 2; path++) {
        for (int side = 0; side < 2; side++) {
            open_pair(path, 32, device, device);
            start(20000);
            advance(2);
            kvt_node_close(p.node[side], NULL, NULL);
            kvt_node_close(p.node[1 - side], NULL, NULL);
            assert_true(pair_run(&p, &s.dones, 1, 1000));
            assert_true(pair_run(&p, &g.safes, 1, 1000));
            pair_run_for(&p, 20);
            assert_int_equal(1, s.dones);
            assert_int_equal(1, g.arrivals);
            assert_int_equal(1, g.safes);
            uv_run(&p.loop, UV_RUN_DEFAULT);
            assert_int_equal(0, uv_loop_close(&p.loop));
            assert_false(device_counts(p.device[0]).pinned);
            assert_false(device_counts(p.device[1]).pinned);
            device_close(p.device[0]);
            device_close(p.device[1]);
        }
    }
}

static void memory_that_does_not_fit_is_refused(void **state)
{
    struct wire_kv_layout layout = pair_layout(4);
    struct kvt_node_config config;
    struct kvt_node *n;
    struct err_msg msg;
    struct device *d;

    (void)state;
    open_pair(0, 4, host, host);
    config = p.config[0];
    d = device_open(&layout, 8, 0);
    config.memory = device_memory(d);
    config.n_blocks = 9;
    assert_int_equal(ERR_INVALID, kvt_node_create(&config, &msg, &n));
    assert_non_null(strstr(msg.text, "9 blocks"));
    config.n_blocks = 8;
    config.layout.parts = 2;
    assert_int_equal(ERR_INVALID, kvt_node_create(&config, &msg, &n));
    config.layout.parts = 1;
    config.staging_bytes = 1000;
    assert_int_equal(ERR_INVALID, kvt_node_create(&config, &msg, &n));
    assert_non_null(strstr(msg.text, "staging"));
    config.staging_bytes = SIZE_MAX;
    assert_int_equal(ERR_NOMEM, kvt_node_create(&config, &msg, &n));
    config.staging_bytes = 0;
    device_refuse_pin(d);
    assert_int_equal(ERR_DEVICE, kvt_node_create(&config, &msg, &n));
    assert_non_null(strstr(msg.text, "pins"));
    pair_run_for(&p, 10);
    device_close(d);
    close_pair();
}

static void puts_into_a_staged_pool_are_not_granted(void **state)
{
    struct rogue r;

    (void)state;
    open_pair(0, 8, host, device);
    assert_int_equal(ERR_OK, pair_grant(&p, &g, 1, E, remote, N, 5000));
    rogue_connect(&r, &p);
    assert_true(rogue_greet(&r, PAIR_SENDER, PAIR_RECEIVER, p.token));
    assert_int_equal(KVT_WIRE_STAGED, r.welcome.memory);
    assert_int_equal(0, r.welcome.pool[0]);
    rogue_link(&r, NULL);
    assert_int_equal(KVT_WIRE_REFUSE, rogue_claim(&r, 1, E, remote, N, true));
    assert_int_equal(KVT_WIRE_ACCEPT, rogue_claim(&r, 1, E, remote, N, false));
    kvt_grant_cancel(g.grant);
    pair_run_for(&p, 20);
    rogue_close(&r);
    pair_run_for(&p, 50);
    close_pair();
}

/* With two buffers most of them wait in UCX, and some are there with all their fragments when they are asked for: a
 * receive that was lost with each of these was missed after 32. */
static void messages_that_wait_in_ucx_do_not_use_up_what_receives(void **state)
{
    struct pair_side to = device;

    (void)state;
    to.staging = SMALL_STAGING;
    to.delay_us = 300;
    open_pair(0, 16, device, to); /* 128 KiB per block */
    for (int i = 0; i < 150; i++)
        whole_transfer();
    close_pair();
}

/* UCX does not say that the rest of a message will never come: more of them than there are receives. */
static void half_messages_of_the_dead_do_not_use_up_what_receives(void **state)
{
    struct rogue r;

    (void)state;
    open_pair(0, 8, host, device);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(ERR_OK,
                         kvt_node_introduce(p.node[1], PAIR_RECEIVER, 100 + i, p.token, NULL, 0));
        rogue_connect(&r, &p);
        assert_true(rogue_greet(&r, 100 + i, PAIR_RECEIVER, p.token));
        rogue_link(&r, NULL);
        pair_run_for(&p, 5);
        rogue_half(&r);
        rogue_close(&r);
    }
    pair_run_for(&p, 8000); /* twice the transfer_timeout_ns of 3 s, and a sweep */
    whole_transfer();
    close_pair();
}

/* Fail the k-th allocation after the set-up, for every k: both sides still end, and nothing leaks. */
static void memory_that_runs_out_fails_a_transfer_and_nothing_else(void **state)
{
    int failures = 0;

    (void)state;
    for (long k = 0; k < 60; k++) {
        enum err granted, sent;

        open_pair((int)k % 2, 2, device, device);
        s.result.err = ERR_OK;
        mem_fail_at(k);
        granted = pair_grant(&p, &g, 1, 1, remote, 3, 400);
        sent = pair_send(&p, &s, 1, 1, remote, local, 3, 400);
        if (sent == ERR_OK) {
            pair_pieces(&s, 3, 4);
            kvt_send_finish(s.send, NULL, 0);
            assert_true(pair_run(&p, &s.dones, 1, 3000));
        }
        if (granted == ERR_OK)
            assert_true(pair_run(&p, &g.safes, 1, 3000));
        mem_fail_at(-1);
        failures += granted != ERR_OK || sent != ERR_OK || s.result.err != ERR_OK;
        pair_run_for(&p, 20);
        close_pair();
    }
    assert_true(failures > 10);
    assert_int_equal(0, mem_live());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_move_between_devices_and_host_memory_on_either_path),
        cmocka_unit_test(paths_have_names),
        cmocka_unit_test(any_layout_is_staged_whole),
        cmocka_unit_test(what_is_more_than_the_buffers_waits_its_turn),
        cmocka_unit_test(a_piece_leaves_only_when_its_ticket_has_passed),
        cmocka_unit_test(a_transfer_that_waits_for_its_ticket_does_not_stop_another),
        cmocka_unit_test(either_side_can_cancel_at_every_stage_and_nothing_is_written_late),
        cmocka_unit_test(slots_are_not_safe_while_a_copy_writes_to_them),
        cmocka_unit_test(a_deadline_ends_both_sides),
        cmocka_unit_test(a_copy_out_that_never_ends_fails_its_transfer_and_keeps_its_buffers),
        cmocka_unit_test(a_copy_in_that_never_ends_fails_its_transfer_and_keeps_its_slots),
        cmocka_unit_test(a_dead_device_fails_what_comes_after),
        cmocka_unit_test(a_job_that_fails_or_is_refused_fails_its_transfer_alone),
        cmocka_unit_test(bytes_that_change_on_the_way_are_noticed_by_the_device),
        cmocka_unit_test(a_device_that_ucx_reaches_needs_no_buffers),
        cmocka_unit_test(a_device_that_ucx_does_not_reach_is_staged_beside_one_that_it_does),
        cmocka_unit_test(puts_wait_for_tickets_and_end_early_like_copies),
        cmocka_unit_test(closing_a_node_waits_for_its_copies),
        cmocka_unit_test(memory_that_does_not_fit_is_refused),
        cmocka_unit_test(puts_into_a_staged_pool_are_not_granted),
        cmocka_unit_test(messages_that_wait_in_ucx_do_not_use_up_what_receives),
        cmocka_unit_test(half_messages_of_the_dead_do_not_use_up_what_receives),
        cmocka_unit_test(memory_that_runs_out_fails_a_transfer_and_nothing_else),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
