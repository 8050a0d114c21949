/* tests/unit/base_map_test.c - the hash map against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/map.h"
#include "base/mem.h"

enum { KEYS = 3000, OPS = 1000000 };

static uint64_t rng_state = 9;

static uint64_t rng(void)
{
    uint64_t x = rng_state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Keys of all kinds: dense, strided, large. */
static uint64_t key_of(size_t i)
{
    switch (i % 3) {
    case 0:
        return i + 1;
    case 1:
        return (uint64_t)(i + 1) << 32;
    default:
        return UINT64_MAX - i;
    }
}

static char things[KEYS * 2];
static void *model[KEYS];

static void check_whole(const struct map *m, size_t count)
{
    size_t at = 0, seen = 0;

    assert_int_equal(m->count, count);
    for (size_t i = 0; i < KEYS; i++)
        assert_ptr_equal(map_get(m, key_of(i)), model[i]);
    while (map_next(m, &at) != NULL)
        seen++;
    assert_int_equal(seen, count);
}

static void a_million_puts_and_deletes_agree_with_a_plain_array(void **state)
{
    struct map m = MAP_INIT;
    size_t count = 0;

    (void)state;
    memset(model, 0, sizeof(model));
    for (int op = 0; op < OPS; op++) {
        /* Waves: the live set grows, shrinks and moves, so that tombstones pile up. */
        size_t i = (size_t)(rng() % 500 + (unsigned)op / 500) % KEYS;

        if (rng() % 2) {
            void *value = &things[rng() % sizeof(things)];

            assert_int_equal(map_put(&m, key_of(i), value), ERR_OK);
            count += model[i] == NULL;
            model[i] = value;
        } else {
            assert_ptr_equal(map_del(&m, key_of(i)), model[i]);
            count -= model[i] != NULL;
            model[i] = NULL;
        }
        assert_int_equal(m.count, count);
        if (op % 50000 == 0)
            check_whole(&m, count);
    }
    check_whole(&m, count);
    map_free(&m);
    assert_int_equal(m.count, 0);
    assert_null(map_get(&m, 1));
    assert_int_equal(mem_live(), 0);
}

static void endless_put_and_delete_of_new_keys_does_not_grow_the_map(void **state)
{
    struct map m = MAP_INIT;

    (void)state;
    for (uint64_t k = 1; k < 300000; k++) {
        assert_int_equal(map_put(&m, k, &m), ERR_OK);
        if (k > 10)
            assert_ptr_equal(map_del(&m, k - 10), &m);
    }
    assert_true(m.cap <= 64);
    map_free(&m);
}

static void entries_may_be_deleted_during_a_walk(void **state)
{
    struct map m = MAP_INIT;
    size_t at = 0, seen = 0;
    char *value;

    (void)state;
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(map_put(&m, i + 1, &things[i]), ERR_OK);
    while ((value = map_next(&m, &at)) != NULL) {
        uint64_t key = (uint64_t)(value - things) + 1;

        seen++;
        if (key % 2)
            assert_ptr_equal(map_del(&m, key), value);
    }
    assert_int_equal(seen, 1000);
    assert_int_equal(m.count, 500);
    map_free(&m);
}

static void zero_keys_and_null_values_are_refused(void **state)
{
    struct map m = MAP_INIT;

    (void)state;
    assert_int_equal(map_put(&m, 0, &m), ERR_INVALID);
    assert_int_equal(map_put(&m, 1, NULL), ERR_INVALID);
    assert_null(map_get(&m, 0));
    assert_null(map_del(&m, 0));
    assert_null(map_del(&m, 1));
    assert_int_equal(map_put(&m, 1, &m), ERR_OK);
    assert_null(map_get(&m, 0));
    map_free(&m);
}

static void without_memory_a_put_fails_and_the_map_stays_whole(void **state)
{
    struct map m = MAP_INIT;
    uint32_t failed = 0;

    (void)state;
    for (uint64_t k = 1; k <= 200; k++) {
        mem_fail_at(0);
        if (map_put(&m, k, &things[k]) == ERR_NOMEM) {
            failed++;
            assert_null(map_get(&m, k));
            for (uint64_t j = 1; j < k; j++)
                assert_ptr_equal(map_get(&m, j), &things[j]);
            assert_int_equal(map_put(&m, k, &things[k]), ERR_OK);
        }
        mem_fail_at(-1);
    }
    assert_true(failed >= 4);
    assert_int_equal(m.count, 200);
    map_free(&m);
    assert_int_equal(mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_million_puts_and_deletes_agree_with_a_plain_array),
        cmocka_unit_test(endless_put_and_delete_of_new_keys_does_not_grow_the_map),
        cmocka_unit_test(entries_may_be_deleted_during_a_walk),
        cmocka_unit_test(zero_keys_and_null_values_are_refused),
        cmocka_unit_test(without_memory_a_put_fails_and_the_map_stays_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
