/* tests/unit/kvt_transfer_test.c - KV blocks between two nodes, over shared memory and over TCP. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_arrive_verified_on_either_path),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
