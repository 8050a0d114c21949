/* tests/unit/proto_kv_plan_test.c - re-sharding: every byte reaches its place, once, and what is said of it
 * does not depend on who holds it in how many parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "proto/wire_kv_plan.h"

static const struct wire_kv_layout eight = {.n_layers = 3,
                                            .n_kv_heads = 8,
                                            .head_dim = 6,
                                            .block_tokens = 2,
                                            .dtype = WIRE_KV_F16,
                                            .model_id = 1,
                                            .parts = 1};

enum { SALT = 77, BLOCK_MAX = 65536 };

/* The offset of byte `at` of part `part` in the block as one part holds it, from the definition in
 * wire_kv.h: [layer][k|v][head][token][dim]. */
static size_t canonical_of(const struct wire_kv_layout *l, uint32_t part, size_t at)
{
    size_t head = (size_t)l->block_tokens * l->head_dim * wire_kv_elem_bytes(l);
    size_t heads = l->n_kv_heads / l->parts;
    size_t byte = at % head, h = at / head % heads, kv = at / head / heads % 2;
    size_t layer = at / head / heads / 2;

    return ((layer * 2 + kv) * l->n_kv_heads + part * heads + h) * head + byte;
}

static struct wire_kv_layout in_parts(const struct wire_kv_layout *l, uint32_t parts)
{
    struct wire_kv_layout p = *l;

    p.parts = parts;
    assert_int_equal(wire_kv_layout_check(&p, NULL), ERR_OK);
    return p;
}

/* Fill the parts of a block so that each byte says where it belongs canonically. */
static void fill(uint8_t *block, const struct wire_kv_layout *l)
{
    size_t bytes = wire_kv_part_block_bytes(l);

    for (uint32_t p = 0; p < l->parts; p++) {
        for (size_t i = 0; i < bytes; i++) {
            size_t c = canonical_of(l, p, i);

            block[p * bytes + i] = (uint8_t)(c * 131 + (c >> 8) * 17);
        }
    }
}

typedef bool (*next_fn)(struct wire_kv_walk *w, struct wire_kv_run *run);

/* Move a block from one layout to the other in ranges of `step` bytes; returns the number of runs. */
static uint32_t move(const struct wire_kv_layout *from, const struct wire_kv_layout *to,
                     size_t step, next_fn next)
{
    static uint8_t here[BLOCK_MAX], there[BLOCK_MAX], want[BLOCK_MAX], written[BLOCK_MAX];
    size_t part_from = wire_kv_part_block_bytes(from), part_to = wire_kv_part_block_bytes(to);
    struct wire_kv_walk w;
    struct wire_kv_run r;
    uint32_t runs = 0;

    assert_true(wire_kv_block_bytes(from) <= BLOCK_MAX);
    memset(written, 0, sizeof(written));
    fill(here, from);
    fill(want, to);
    wire_kv_walk_init(&w, from, to);
    for (uint32_t p = 0; p < from->parts; p++) {
        for (size_t at = 0; at < part_from; at += step) {
            size_t end = part_from - at < step ? part_from : at + step, expect = at;

            wire_kv_walk_over(&w, p, at, end);
            for (; next(&w, &r); runs++) {
                assert_int_equal(r.from, expect);
                assert_in_range(r.part, 0, to->parts - 1);
                assert_true(r.len > 0 && r.len <= end - at && r.to + r.len <= part_to);
                assert_int_equal(r.canonical, canonical_of(from, p, r.from));
                memcpy(there + r.part * part_to + r.to, here + p * part_from + r.from, r.len);
                for (size_t i = 0; i < r.len; i++)
                    written[r.part * part_to + r.to + i]++;
                expect += r.len;
            }
            assert_int_equal(expect, end);
            assert_false(next(&w, &r));
        }
    }
    for (size_t i = 0; i < wire_kv_block_bytes(to); i++)
        assert_int_equal(written[i], 1);
    assert_memory_equal(there, want, wire_kv_block_bytes(to));
    return runs;
}

static void every_byte_moves_to_its_place_exactly_once_whatever_the_parts(void **state)
{
    static const uint32_t parts[] = {1, 2, 4, 8};

    (void)state;
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            struct wire_kv_layout from = in_parts(&eight, parts[a]),
                                  to = in_parts(&eight, parts[b]);

            for (size_t step = 4; step < 2 * wire_kv_block_bytes(&from);
                 step += step < 64 ? 4 : 52) {
                (void)move(&from, &to, step, wire_kv_walk_move);
                (void)move(&from, &to, step, wire_kv_walk_run);
            }
        }
    }
}

/* 12 heads in 4 and in 6 parts: a part of one side shares heads with two of the other. */
static void parts_that_do_not_divide_each_other_are_fine(void **state)
{
    struct wire_kv_layout twelve = eight, from, to;

    (void)state;
    twelve.n_kv_heads = 12;
    from = in_parts(&twelve, 4);
    to = in_parts(&twelve, 6);
    (void)move(&from, &to, 100, wire_kv_walk_move);
    (void)move(&to, &from, 1000, wire_kv_walk_run);
}

static void equal_parts_move_whole_ranges(void **state)
{
    (void)state;
    for (uint32_t parts = 1; parts <= 8; parts *= 2) {
        struct wire_kv_layout l = in_parts(&eight, parts);

        assert_int_equal(move(&l, &l, SIZE_MAX / 2, wire_kv_walk_move), parts);
    }
}

static void other_parts_move_in_one_run_per_row_and_pair_of_parts(void **state)
{
    struct wire_kv_layout one = eight, two = in_parts(&eight, 2), four = in_parts(&eight, 4);

    (void)state;
    assert_int_equal(move(&two, &one, SIZE_MAX / 2, wire_kv_walk_move), 2 * 3 * 2);
    assert_int_equal(move(&one, &two, SIZE_MAX / 2, wire_kv_walk_move), 2 * 3 * 2);
    assert_int_equal(move(&two, &four, SIZE_MAX / 2, wire_kv_walk_move), 2 * 3 * 4);
}

/* As a sender folds it over its parts, record by record, and as a receiver does over its own. */
static uint64_t digest(const struct wire_kv_layout *from, const struct wire_kv_layout *to,
                       size_t step, bool of_receiver)
{
    static uint8_t block[BLOCK_MAX];
    size_t part_from = wire_kv_part_block_bytes(from), part_to = wire_kv_part_block_bytes(to);
    struct wire_kv_walk w;
    struct wire_kv_run r;
    uint64_t sum = 0;

    fill(block, of_receiver ? to : from);
    wire_kv_walk_init(&w, from, to);
    for (uint32_t p = 0; p < from->parts; p++) {
        for (size_t at = 0; at < part_from; at += step) {
            wire_kv_walk_over(&w, p, at, part_from - at < step ? part_from : at + step);
            while (wire_kv_walk_run(&w, &r))
                sum += wire_kv_digest(of_receiver ? block + r.part * part_to + r.to
                                                  : block + p * part_from + r.from,
                                      r.len, r.canonical, SALT);
        }
    }
    return sum;
}

static void both_sides_come_to_the_digest_of_the_canonical_block(void **state)
{
    static const uint32_t parts[] = {1, 2, 4, 8};
    static uint8_t block[BLOCK_MAX];
    uint64_t want;

    (void)state;
    fill(block, &eight);
    want = wire_kv_digest(block, wire_kv_block_bytes(&eight), 0, SALT);
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            struct wire_kv_layout from = in_parts(&eight, parts[a]),
                                  to = in_parts(&eight, parts[b]);

            assert_int_equal(digest(&from, &to, 40, false), want);
            assert_int_equal(digest(&from, &to, 40, true), want);
            assert_int_equal(digest(&from, &to, SIZE_MAX / 2, false), want);
            assert_int_equal(digest(&from, &to, SIZE_MAX / 2, true), want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_moves_to_its_place_exactly_once_whatever_the_parts),
        cmocka_unit_test(parts_that_do_not_divide_each_other_are_fine),
        cmocka_unit_test(equal_parts_move_whole_ranges),
        cmocka_unit_test(other_parts_move_in_one_run_per_row_and_pair_of_parts),
        cmocka_unit_test(both_sides_come_to_the_digest_of_the_canonical_block),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
