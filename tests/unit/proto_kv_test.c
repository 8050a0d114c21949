/* tests/unit/proto_kv_test.c - the KV layout and the block digest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/wire_kv.h"

static uint64_t rng_state = 3;

static uint64_t rng(void)
{
    uint64_t x = rng_state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static const struct wire_kv_layout llama8b = {.n_layers = 32,
                                              .n_kv_heads = 8,
                                              .head_dim = 128,
                                              .block_tokens = 16,
                                              .dtype = WIRE_KV_BF16,
                                              .model_id = 1,
                                              .parts = 1};

static void sizes_follow_the_layout(void **state)
{
    struct wire_kv_layout l = llama8b;

    (void)state;
    assert_int_equal(wire_kv_elem_bytes(&l), 2);
    assert_int_equal(wire_kv_layer_bytes(&l), 2 * 8 * 16 * 128 * 2);
    assert_int_equal(wire_kv_block_bytes(&l), 16 * 131072); /* 128 KiB a token */
    l.dtype = WIRE_KV_F32;
    assert_int_equal(wire_kv_elem_bytes(&l), 4);
    l.dtype = WIRE_KV_F16;
    assert_int_equal(wire_kv_elem_bytes(&l), 2);
    l.dtype = WIRE_KV_U64;
    assert_int_equal(wire_kv_elem_bytes(&l), 8);
    l = (struct wire_kv_layout){1024, 1024, 1024, 1024, WIRE_KV_U64, 0, 1};
    assert_int_equal(wire_kv_layout_check(&l, NULL), ERR_OK);
    assert_int_equal(wire_kv_block_bytes(&l), (size_t)16 << 40); /* the largest does not overflow */
}

static void a_group_of_layers_is_the_least_that_reaches_the_target(void **state)
{
    (void)state;
    assert_int_equal(wire_kv_group_layers(&llama8b, 0), 1);
    assert_int_equal(wire_kv_group_layers(&llama8b, 1), 1);
    assert_int_equal(wire_kv_group_layers(&llama8b, 65536), 1);
    assert_int_equal(wire_kv_group_layers(&llama8b, 65537), 2);
    assert_int_equal(wire_kv_group_layers(&llama8b, 262144), 4);
    assert_int_equal(wire_kv_group_layers(&llama8b, (size_t)1 << 40), 32);
    assert_int_equal(wire_kv_group_layers(&llama8b, SIZE_MAX), 32);
}

static void a_field_out_of_range_is_named(void **state)
{
    struct wire_kv_layout l;
    struct err_msg msg;

    (void)state;
    assert_int_equal(wire_kv_layout_check(&llama8b, &msg), ERR_OK);
#define REFUSE(field, value)                                           \
    do {                                                               \
        l = llama8b;                                                   \
        l.field = (value);                                             \
        assert_int_equal(wire_kv_layout_check(&l, &msg), ERR_INVALID); \
        assert_non_null(strstr(msg.text, #field));                     \
    } while (0)
    REFUSE(n_layers, 0);
    REFUSE(n_layers, 1025);
    REFUSE(n_kv_heads, 0);
    REFUSE(n_kv_heads, UINT32_MAX);
    REFUSE(head_dim, 0);
    REFUSE(head_dim, 1025);
    REFUSE(block_tokens, 0);
    REFUSE(block_tokens, 1025);
    REFUSE(dtype, 0);
    REFUSE(dtype, 5);
    REFUSE(parts, 0);
    REFUSE(parts, 3);  /* 8 heads */
    REFUSE(parts, 16); /* more than heads */
    REFUSE(parts, UINT32_MAX);
    l = llama8b; /* 30 bytes per head: a word of the digest would lie in two parts */
    l.head_dim = 5;
    l.block_tokens = 3;
    assert_int_equal(wire_kv_layout_check(&l, &msg), ERR_OK);
    l.parts = 2;
    assert_int_equal(wire_kv_layout_check(&l, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "parts"));
#undef REFUSE
}

static void layouts_that_differ_anywhere_are_not_the_same(void **state)
{
    struct wire_kv_layout l;
    struct err_msg msg;

    (void)state;
    assert_int_equal(wire_kv_layout_same(&llama8b, &llama8b, &msg), ERR_OK);
#define DIFFER(field)                                                           \
    do {                                                                        \
        l = llama8b;                                                            \
        l.field++;                                                              \
        assert_int_equal(wire_kv_layout_same(&llama8b, &l, &msg), ERR_INVALID); \
        assert_non_null(strstr(msg.text, #field));                              \
    } while (0)
    DIFFER(n_layers);
    DIFFER(n_kv_heads);
    DIFFER(head_dim);
    DIFFER(block_tokens);
    DIFFER(dtype);
    DIFFER(model_id);
#undef DIFFER
    l = llama8b;
    l.parts = 4; /* how each side holds its blocks is its own affair */
    assert_int_equal(wire_kv_layout_same(&llama8b, &l, &msg), ERR_OK);
}

/* ---- the digest --------------------------------------------------------------------------------- */

static void the_digest_gives_known_answers(void **state)
{
    static const struct {
        size_t len, offset;
        uint64_t salt, want;
    } kat[] = {
        {0, 0x0, UINT64_C(0x0), UINT64_C(0x0)},
        {4, 0x0, UINT64_C(0x0), UINT64_C(0x14061b75651f6448)},
        {4, 0x4, UINT64_C(0x0), UINT64_C(0x4ea8e3bf25cbf2ae)},
        {16, 0x0, UINT64_C(0x0), UINT64_C(0x8bec941c0fc3d6d2)},
        {16, 0x0, UINT64_C(0x1), UINT64_C(0x89e2c0313134ccf8)},
        {1000, 0x0, UINT64_C(0x0), UINT64_C(0xd13331210b17adfc)},
        {1000, 0x40, UINT64_C(0xfeedface12345678), UINT64_C(0x3002dfb698531bae)},
        {64, 0x3fffffff8, UINT64_C(0x5), UINT64_C(0x70ca19e94f488f88)},
        {1000, 0x1000, UINT64_C(0xffffffffffffffff), UINT64_C(0x691a7c4592e69913)},
    };
    uint8_t bytes[1000];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 11);
    for (size_t i = 0; i < sizeof(kat) / sizeof(kat[0]); i++) {
        uint64_t got = wire_kv_digest(bytes, kat[i].len, kat[i].offset, kat[i].salt);

        if (got != kat[i].want)
            fail_msg("row %zu: got %016llx", i, (unsigned long long)got);
    }
}

static void pieces_add_up_to_the_block_in_any_order(void **state)
{
    static uint8_t block[4096];

    (void)state;
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (uint8_t)rng();
    for (int round = 0; round < 200; round++) {
        uint64_t salt = rng(), whole = wire_kv_digest(block, sizeof(block), 0, salt), sum = 0;
        size_t cut[9] = {0, sizeof(block)};

        for (int i = 2; i < 9; i++)
            cut[i] = rng() % (sizeof(block) / 4 + 1) * 4;
        for (int i = 0; i < 9; i++) { /* insertion sort */
            for (int j = i; j > 0 && cut[j] < cut[j - 1]; j--) {
                size_t t = cut[j];

                cut[j] = cut[j - 1];
                cut[j - 1] = t;
            }
        }
        for (int i = 8; i > 0; i--) /* last piece first */
            sum += wire_kv_digest(block + cut[i - 1], cut[i] - cut[i - 1], cut[i - 1], salt);
        assert_true(sum == whole);
    }
}

static void every_changed_bit_changes_the_digest(void **state)
{
    uint8_t block[512] = {0};
    uint64_t want;

    (void)state;
    for (int zero = 0; zero < 2; zero++) {
        want = wire_kv_digest(block, sizeof(block), 64, 5);
        for (size_t bit = 0; bit < sizeof(block) * 8; bit++) {
            block[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_true(wire_kv_digest(block, sizeof(block), 64, 5) != want);
            block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = (uint8_t)rng();
    }
}

static void equal_bytes_in_another_place_or_transfer_have_another_digest(void **state)
{
    uint8_t bytes[256];
    uint64_t want;

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)rng();
    want = wire_kv_digest(bytes, sizeof(bytes), 0, 77);
    for (size_t offset = 4; offset < 100000; offset += 4)
        assert_true(wire_kv_digest(bytes, sizeof(bytes), offset, 77) != want);
    for (uint64_t salt = 0; salt < 20000; salt++)
        assert_true(salt == 77 || wire_kv_digest(bytes, sizeof(bytes), 0, salt) != want);
    memset(bytes, 0, sizeof(bytes)); /* also of a block that is all zero, as a lost one may be */
    want = wire_kv_digest(bytes, sizeof(bytes), 0, 77);
    for (uint64_t salt = 0; salt < 20000; salt++)
        assert_true(salt == 77 || wire_kv_digest(bytes, sizeof(bytes), 0, salt) != want);
    for (size_t len = 0; len < sizeof(bytes); len += 4)
        assert_true(wire_kv_digest(bytes, len, 0, 77) != want);
}

/* Lists of slots are made of small numbers, weights of numbers that share their low bits: what is
 * linear anywhere in the digest shows in pairs of such words. */
static void words_that_change_places_change_the_digest(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4000000; i++) {
        uint32_t shift = i % 3 * 10;
        uint32_t a[2] = {(uint32_t)(rng() % 4096) << shift, (uint32_t)(rng() % 4096) << shift};
        uint32_t b[2] = {a[1], a[0]};
        size_t at = rng() % 1024 * 4, to = at + 4 + rng() % 1024 * 4;
        uint64_t salt = i % 2 ? rng() : i;

        if (a[0] == a[1])
            continue;
        assert_true(wire_kv_digest(&a[0], 4, at, salt) + wire_kv_digest(&a[1], 4, to, salt) !=
                    wire_kv_digest(&b[0], 4, at, salt) + wire_kv_digest(&b[1], 4, to, salt));
        b[0] = a[0] + 1;
        b[1] = a[1] - 1;
        assert_true(wire_kv_digest(&a[0], 4, at, salt) + wire_kv_digest(&a[1], 4, to, salt) !=
                    wire_kv_digest(&b[0], 4, at, salt) + wire_kv_digest(&b[1], 4, to, salt));
    }
}

static void whole_runs_that_change_places_change_the_digest(void **state)
{
    static uint8_t block[8192], other[8192];

    (void)state;
    for (int round = 0; round < 2000; round++) {
        size_t run = (size_t)4 << rng() % 10, a = rng() % (4096 / run) * run, b = 4096 + a;

        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = (uint8_t)(rng() % 4);
        memcpy(other, block, sizeof(block));
        memcpy(other + a, block + b, run);
        memcpy(other + b, block + a, run);
        if (memcmp(other, block, sizeof(block)) != 0)
            assert_true(wire_kv_digest(block, sizeof(block), 0, 1) !=
                        wire_kv_digest(other, sizeof(other), 0, 1));
    }
}

/* Prints the speed; the digest runs over every byte that is handed over. */
static void the_digest_is_fast(void **state)
{
    static uint8_t block[262144];
    uint64_t t0, sum = 0;
    double seconds;

    (void)state;
    t0 = clock_now_ns();
    for (uint64_t i = 0; i < 400; i++)
        sum += wire_kv_digest(block, sizeof(block), 0, i);
    seconds = (double)(clock_now_ns() - t0) / 1e9;
    print_message("digest: %.1f GB/s (%llx)\n", 400.0 * sizeof(block) / seconds / 1e9,
                  (unsigned long long)sum & 15);
    assert_true(seconds < 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_follow_the_layout),
        cmocka_unit_test(a_group_of_layers_is_the_least_that_reaches_the_target),
        cmocka_unit_test(a_field_out_of_range_is_named),
        cmocka_unit_test(layouts_that_differ_anywhere_are_not_the_same),
        cmocka_unit_test(the_digest_gives_known_answers),
        cmocka_unit_test(pieces_add_up_to_the_block_in_any_order),
        cmocka_unit_test(every_changed_bit_changes_the_digest),
        cmocka_unit_test(equal_bytes_in_another_place_or_transfer_have_another_digest),
        cmocka_unit_test(words_that_change_places_change_the_digest),
        cmocka_unit_test(whole_runs_that_change_places_change_the_digest),
        cmocka_unit_test(the_digest_is_fast),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
