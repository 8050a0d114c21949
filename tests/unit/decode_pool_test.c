/* tests/unit/decode_pool_test.c - the room of a decode worker: what moves to host memory and back, and what a new
 * hand-over may take while others run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "decode/decode_pool.h"
#include "tests/unit/roles_fake.h"

enum { PLACES = 8, HELD = 5 };

static struct decode_pool *pool;

static int setup(void **state)
{
    uint64_t block;

    (void)state;
    fake_engine_reset(64, 64);
    block = wire_kv_block_bytes(&engine_info(fake_engine())->kv);
    return decode_pool_create(fake_engine(), FAKE_BLOCKS, PLACES * block, &pool) == ERR_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    decode_pool_destroy(pool);
    return mem_live() == 0 ? 0 : -1;
}

static void park_memory_is_free_again_when_its_blocks_came_back(void **state)
{
    uint32_t slots[HELD];

    (void)state;
    assert_int_equal(decode_pool_take(pool, HELD, ENGINE_BLOCK_OWNED, slots), ERR_OK);
    for (uint32_t round = 0; round < 2 * PLACES; round++) {
        assert_int_equal(decode_pool_park(pool, slots, HELD), ERR_OK);
        assert_int_equal(decode_pool_park_room(pool), PLACES - HELD);
        assert_int_equal(decode_pool_count(pool, ENGINE_BLOCK_FREE), FAKE_BLOCKS);
        assert_int_equal(decode_pool_resume(pool, slots, HELD), ERR_OK);
        assert_int_equal(decode_pool_park_room(pool), PLACES);
        assert_int_equal(decode_pool_count(pool, ENGINE_BLOCK_OWNED), HELD);
    }
}

static void what_cannot_come_back_yet_keeps_its_park_memory(void **state)
{
    uint32_t slots[HELD], others[FAKE_BLOCKS];

    (void)state;
    assert_int_equal(decode_pool_take(pool, HELD, ENGINE_BLOCK_OWNED, slots), ERR_OK);
    assert_int_equal(decode_pool_park(pool, slots, HELD), ERR_OK);
    assert_int_equal(decode_pool_take(pool, FAKE_BLOCKS, ENGINE_BLOCK_OWNED, others), ERR_OK);
    assert_int_equal(decode_pool_resume(pool, slots, HELD), ERR_LIMIT);
    assert_int_equal(decode_pool_park_room(pool), PLACES - HELD);
    decode_pool_drop(pool, slots, HELD);
    assert_int_equal(decode_pool_park_room(pool), PLACES);
}

static void new_hand_over_leaves_those_that_run_the_room_for_their_next_step(void **state)
{
    const struct decode_stats none = {0};
    uint32_t slots[FAKE_BLOCKS];

    (void)state;
    decode_pool_publish(pool, false, HELD, &none);
    assert_false(decode_pool_try(pool, FAKE_BLOCKS - HELD + 1, ENGINE_BLOCK_GRANTED, slots));
    assert_int_equal(decode_pool_count(pool, ENGINE_BLOCK_FREE), FAKE_BLOCKS);
    assert_true(decode_pool_try(pool, FAKE_BLOCKS - HELD, ENGINE_BLOCK_GRANTED, slots));
    assert_int_equal(decode_pool_count(pool, ENGINE_BLOCK_FREE), HELD);
    /* They themselves may take it. */
    assert_int_equal(decode_pool_take(pool, HELD, ENGINE_BLOCK_OWNED, slots), ERR_OK);
}

static void new_hand_over_does_not_pass_those_that_wait_for_room(void **state)
{
    const struct decode_stats none = {0};
    uint32_t slot;

    (void)state;
    decode_pool_publish(pool, true, 0, &none);
    assert_false(decode_pool_try(pool, 1, ENGINE_BLOCK_GRANTED, &slot));
    decode_pool_publish(pool, false, 0, &none);
    assert_true(decode_pool_try(pool, 1, ENGINE_BLOCK_GRANTED, &slot));
}

#define POOL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        POOL_TEST(park_memory_is_free_again_when_its_blocks_came_back),
        POOL_TEST(what_cannot_come_back_yet_keeps_its_park_memory),
        POOL_TEST(new_hand_over_leaves_those_that_run_the_room_for_their_next_step),
        POOL_TEST(new_hand_over_does_not_pass_those_that_wait_for_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
