/* tests/unit/kvt_transfer_test.c - KV blocks between two nodes, over shared memory and over TCP. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/kvt/kvt_pair.h"

static const char *const paths[] = {NULL, "tcp"}; /* shared memory, TCP */

static void transfer(const char *transports, uint32_t heads, uint32_t n)
{
    struct wire_kv_layout layout = pair_layout(heads);
    uint32_t remote[PAIR_BLOCKS], local[PAIR_BLOCKS];
    struct pair p;
    struct pair_grant g;
    struct pair_send s;

    pair_open(&p, transports, &layout);
    for (uint32_t i = 0; i < n; i++) {
        remote[i] = (i * 7 + 3) % PAIR_BLOCKS;
        local[i] = (i * 5 + 1) % PAIR_BLOCKS;
        pair_fill(&p, 0, local[i], i + 1);
    }
    assert_int_equal(ERR_OK, pair_grant(&p, &g, 1001, 1, remote, n, 5000));
    assert_int_equal(ERR_OK, pair_send(&p, &s, 1001, 1, remote, local, n, 5000));
    pair_pieces(&s, n, layout.n_layers);
    kvt_send_finish(s.send, "meta", 4);
    assert_true(pair_run(&p, &s.dones, 1, 5000));
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    assert_int_equal(ERR_OK, s.result.err);
    assert_int_equal(1, g.arrivals);
    assert_int_equal(ERR_OK, g.arrival.err);
    assert_int_equal(4, g.arrival.meta_len);
    assert_memory_equal("meta", g.arrival.meta, 4);
    assert_int_equal(n * pair_block_bytes(&p), g.arrival.bytes);
    assert_int_equal(n * pair_block_bytes(&p), s.result.bytes);
    assert_int_equal(transports == NULL ? KVT_PATH_SHM : KVT_PATH_TCP, g.arrival.path);
    assert_int_equal(transports == NULL, p.link[0].one_sided);
    assert_int_equal(1, p.links[0]);
    assert_int_equal(1, p.links[1]);
    assert_true(p.link[1].bytes_per_s > 0);
    for (uint32_t i = 0; i < n; i++)
        assert_true(pair_same(&p, local[i], remote[i]));
    pair_close(&p);
}

static void blocks_arrive_verified_on_either_path(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        transfer(paths[i], 1, 1);
        transfer(paths[i], 1, PAIR_BLOCKS);  /* 8 KiB blocks: several share a message */
        transfer(paths[i], 32, PAIR_BLOCKS); /* 256 KiB blocks in 64 KiB layers */
    }
}

/* The layouts of real and of odd models: what is in flight at once is bounded by bytes, not blocks. */
static void any_layout_arrives_whole(void **state)
{
    static const struct wire_kv_layout layouts[] = {
        {1, 1, 1, 1, WIRE_KV_U64, 1, 1},     /* the sim backend's smallest: 16 bytes */
        {5, 4, 8, 16, WIRE_KV_F32, 1, 1},    /* stories260K */
        {3, 3, 5, 7, WIRE_KV_F32, 1, 1},     /* nothing is a power of two */
        {2, 1, 1, 3, WIRE_KV_F16, 1, 1},     /* 12 bytes per layer */
        {2, 8, 128, 256, WIRE_KV_F32, 1, 1}, /* 2 MiB per layer: larger than any piece */
    };

    (void)state;
    for (size_t k = 0; k < sizeof(layouts) / sizeof(layouts[0]); k++) {
        for (int i = 0; i < 2; i++) {
            uint32_t slots[PAIR_BLOCKS], n = k == 4 ? 6 : PAIR_BLOCKS;
            struct pair p;
            struct pair_grant g;
            struct pair_send s;

            pair_open(&p, paths[i], &layouts[k]);
            for (uint32_t b = 0; b < n; b++) {
                slots[b] = n - 1 - b;
                pair_fill(&p, 0, b, b + 1);
            }
            assert_int_equal(ERR_OK, pair_grant(&p, &g, 1, 1, slots, n, 5000));
            assert_int_equal(ERR_OK, pair_send(&p, &s, 1, 1, slots, slots, n, 5000));
            kvt_send_piece(s.send, 0, n, 0, layouts[k].n_layers, 0);
            kvt_send_finish(s.send, NULL, 0);
            assert_true(pair_run(&p, &s.dones, 1, 5000));
            assert_true(pair_run(&p, &g.safes, 1, 1000));
            assert_int_equal(ERR_OK, s.result.err);
            for (uint32_t b = 0; b < n; b++)
                assert_true(pair_same(&p, slots[b], slots[b]));
            pair_close(&p);
        }
    }
}

enum { CROWD = 16 };

static void many_transfers_share_a_connection(void **state)
{
    static struct pair_grant g[CROWD];
    static struct pair_send s[CROWD];
    struct wire_kv_layout layout = pair_layout(32);

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct pair p;
        uint32_t slots[4];

        pair_open(&p, paths[i], &layout);
        assert_int_equal(ERR_OK, kvt_node_connect(p.node[0], PAIR_RECEIVER));
        assert_true(pair_run(&p, &p.links[0], 1, 2000));
        for (uint32_t b = 0; b < PAIR_BLOCKS; b++)
            pair_fill(&p, 0, b, b + 500);
        for (uint32_t k = 0; k < CROWD; k++) {
            for (uint32_t b = 0; b < 4; b++)
                slots[b] = k * 4 + b;
            assert_int_equal(ERR_OK, pair_grant(&p, &g[k], 100 + k, k, slots, 4, 5000));
            assert_int_equal(ERR_OK, pair_send(&p, &s[k], 100 + k, k, slots, slots, 4, 5000));
        }
        pair_settle(&p); /* all claims are accepted */
        for (uint32_t layer = 0; layer < 4; layer++) {
            for (uint32_t k = 0; k < CROWD; k++)
                kvt_send_piece(s[k].send, 0, 4, layer, 1, 0);
            if (layer > 0) /* two pieces of 256 KiB each from all of them: more than a window */
                pair_run_for(&p, 3);
        }
        for (uint32_t k = 0; k < CROWD; k++)
            kvt_send_finish(s[k].send, &k, sizeof(k));
        for (uint32_t k = 0; k < CROWD; k++) {
            assert_true(pair_run(&p, &s[k].dones, 1, 5000));
            assert_true(pair_run(&p, &g[k].safes, 1, 1000));
            assert_int_equal(ERR_OK, s[k].result.err);
            assert_memory_equal(&k, g[k].arrival.meta, sizeof(k));
        }
        for (uint32_t b = 0; b < PAIR_BLOCKS; b++)
            assert_true(pair_same(&p, b, b));
        /* pair_settle sent one more, of one block */
        assert_int_equal(CROWD + 1, kvt_node_counters(p.node[0])->sends_done);
        assert_int_equal(CROWD + 1, kvt_node_counters(p.node[1])->grants_verified);
        assert_int_equal((PAIR_BLOCKS + 1) * pair_block_bytes(&p),
                         kvt_node_counters(p.node[1])->bytes_received[p.link[1].path]);
        assert_int_equal((PAIR_BLOCKS + 1) * pair_block_bytes(&p),
                         kvt_node_counters(p.node[0])->bytes_sent[p.link[0].path]);
        pair_close(&p);
    }
}

enum { BRONZE = 15, PART = PAIR_BLOCKS / (BRONZE + 1) };

struct race {
    struct pair p;
    struct pair_grant g[BRONZE + 1];
    struct pair_send s[BRONZE + 1]; /* the last one is the late one */
};

static void open_race(struct race *r, const char *transports)
{
    struct wire_kv_layout layout = pair_layout(32);

    pair_open(&r->p, transports, &layout);
    for (uint32_t b = 0; b < PAIR_BLOCKS; b++)
        pair_fill(&r->p, 0, b, b);
    assert_int_equal(ERR_OK, kvt_node_connect(r->p.node[0], PAIR_RECEIVER));
    assert_true(pair_run(&r->p, &r->p.links[0], 1, 2000));
}

/* Blocks [first, first + n), granted and claimed. */
static void enter(struct race *r, uint32_t k, uint32_t class, uint32_t first, uint32_t n)
{
    uint32_t slots[PAIR_BLOCKS];

    for (uint32_t b = 0; b < n; b++)
        slots[b] = first + b;
    r->p.transfer_class = class;
    assert_int_equal(ERR_OK, pair_grant(&r->p, &r->g[k], 100 + k, 1, slots, n, 20000));
    assert_int_equal(ERR_OK, pair_send(&r->p, &r->s[k], 100 + k, 1, slots, slots, n, 20000));
}

static void finish(struct race *r, uint32_t k, uint32_t n)
{
    kvt_send_piece(r->s[k].send, 0, n, 0, 4, 0);
    kvt_send_finish(r->s[k].send, NULL, 0);
}

static uint32_t done_of_bronze(const struct race *r)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < BRONZE; k++)
        n += (uint32_t)r->s[k].dones;
    return n;
}

static void end_race(struct race *r, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        assert_true(pair_run(&r->p, &r->s[k].dones, 1, 10000));
        assert_true(pair_run(&r->p, &r->g[k].safes, 1, 1000));
        assert_int_equal(ERR_OK, r->s[k].result.err);
    }
    pair_close(&r->p);
}

/* Time of the gold hand-over alone. */
static double idle_ms(struct race *r)
{
    uint64_t began;

    enter(r, BRONZE, 0, BRONZE * PART, PART);
    pair_settle(&r->p);
    began = uv_hrtime();
    finish(r, BRONZE, PART);
    assert_true(pair_run(&r->p, &r->s[BRONZE].dones, 1, 5000));
    assert_true(pair_run(&r->p, &r->g[BRONZE].safes, 1, 1000));
    return (double)(uv_hrtime() - began) / 1e6;
}

/* All bronze pieces are queued before the gold ones; of one class they would take turns and end together. */
static void gold_hand_over_behind_many_bronze_ones_ends_before_most_of_them(void **state)
{
    static struct race r;

    (void)state;
    for (int i = 0; i < 2; i++) {
        uint64_t began;
        double idle, busy;

        open_race(&r, paths[i]);
        idle = idle_ms(&r);
        for (uint32_t k = 0; k < BRONZE; k++)
            enter(&r, k, 2, k * PART, PART);
        enter(&r, BRONZE, 0, BRONZE * PART, PART);
        pair_settle(&r.p); /* all claims are accepted */
        began = uv_hrtime();
        for (uint32_t k = 0; k <= BRONZE; k++)
            finish(&r, k, PART);
        assert_true(pair_run(&r.p, &r.s[BRONZE].dones, 1, 5000));
        busy = (double)(uv_hrtime() - began) / 1e6;
        print_message("%s: gold took %.2f ms, %.2f ms alone; %u of %d bronze hand-overs ended\n",
                      kvt_path_name(r.p.link[0].path), busy, idle, done_of_bronze(&r), BRONZE);
        assert_in_range(done_of_bronze(&r), 0, BRONZE / 3);
        end_race(&r, BRONZE + 1);
    }
}

static void bronze_does_not_stand_still_behind_gold(void **state)
{
    static struct race r;

    (void)state;
    for (int i = 0; i < 2; i++) {
        open_race(&r, paths[i]);
        enter(&r, 0, 0, 0, 60);
        enter(&r, 1, 7, 60, 2);
        pair_settle(&r.p);
        finish(&r, 0, 60);
        finish(&r, 1, 2);
        assert_true(pair_run(&r.p, &r.s[1].dones, 1, 5000));
        assert_int_equal(0, r.s[0].dones); /* thirty times as much, and most of the turns */
        end_race(&r, 2);
    }
}

static void wrong_arguments_are_refused(void **state)
{
    static const uint32_t slots[2] = {0, 1}, outside[2] = {0, PAIR_BLOCKS};
    struct wire_kv_layout layout = pair_layout(1);
    struct pair p;
    struct pair_grant g, g2;
    struct pair_send s;

    (void)state;
    pair_open(&p, NULL, &layout);
    assert_int_equal(ERR_INVALID, pair_grant(&p, &g, 1, 1, outside, 2, 100));
    assert_int_equal(ERR_INVALID, pair_grant(&p, &g, 1, 1, slots, 0, 100));
    assert_int_equal(ERR_INVALID, pair_grant(&p, &g, 0, 1, slots, 2, 100));
    assert_int_equal(ERR_INVALID, pair_send(&p, &s, 1, 1, slots, outside, 2, 100));
    assert_int_equal(ERR_INVALID, pair_send(&p, &s, 1, 1, slots, slots, 0, 100));
    assert_int_equal(ERR_OK, pair_grant(&p, &g, 1, 1, slots, 2, 200));
    assert_int_equal(ERR_BAD_STATE, pair_grant(&p, &g2, 1, 2, slots, 2, 200));
    assert_int_equal(ERR_OK, pair_send(&p, &s, 1, 1, slots, slots, 2, 5000));
    kvt_send_piece(s.send, 1, 2, 0, 1, 0); /* past the end of the list */
    assert_true(pair_run(&p, &s.dones, 1, 1000));
    assert_int_equal(ERR_INVALID, s.result.err);
    assert_true(pair_run(&p, &g.safes, 1, 1000));
    pair_close(&p);
}

static void another_layout_is_refused_with_the_difference_named(void **state)
{
    static const uint8_t token[KVT_TOKEN_BYTES] = {1};
    struct wire_kv_layout layout = pair_layout(1);
    struct kvt_node *other;
    struct kvt_node_config config;
    struct pair p;
    int closed = 0;

    (void)state;
    pair_open(&p, NULL, &layout);
    config = p.config[1];
    config.layout.model_id++;
    config.on_peer_lost = NULL;
    assert_int_equal(ERR_OK, kvt_node_create(&config, NULL, &other));
    assert_int_equal(ERR_OK, kvt_node_introduce(other, 30, PAIR_SENDER, token, NULL, 0));
    assert_int_equal(ERR_OK, kvt_node_introduce(p.node[0], PAIR_SENDER, 30, token, "127.0.0.1",
                                                kvt_node_port(other)));
    assert_int_equal(ERR_OK, kvt_node_connect(p.node[0], 30));
    assert_true(pair_run(&p, &p.losts[0], 1, 900));
    assert_int_equal(ERR_INVALID, p.lost_err[0]);
    assert_int_equal(0, p.links[0]);
    kvt_node_close(other, NULL, NULL);
    (void)pair_run(&p, &closed, 1, 50);
    pair_close(&p);
}

/* Fail the k-th allocation after the set-up, for every k: both sides still end, and nothing leaks. */
static void memory_that_runs_out_fails_a_transfer_and_nothing_else(void **state)
{
    static const uint32_t slots[3] = {4, 2, 0};
    struct wire_kv_layout layout = pair_layout(2);
    int failures = 0;

    (void)state;
    for (int i = 0; i < 2; i++) {
        for (long k = 0; k < 40; k++) {
            struct pair p;
            struct pair_grant g;
            struct pair_send s = {0};
            enum err granted, sent;

            pair_open(&p, paths[i], &layout);
            mem_fail_at(k);
            granted = pair_grant(&p, &g, 1, 1, slots, 3, 400);
            sent = pair_send(&p, &s, 1, 1, slots, slots, 3, 400);
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
            pair_close(&p);
        }
    }
    assert_true(failures > 10);
    assert_int_equal(0, mem_live());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_arrive_verified_on_either_path),
        cmocka_unit_test(any_layout_arrives_whole),
        cmocka_unit_test(many_transfers_share_a_connection),
        cmocka_unit_test(gold_hand_over_behind_many_bronze_ones_ends_before_most_of_them),
        cmocka_unit_test(bronze_does_not_stand_still_behind_gold),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(another_layout_is_refused_with_the_difference_named),
        cmocka_unit_test(memory_that_runs_out_fails_a_transfer_and_nothing_else),
    };

    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
