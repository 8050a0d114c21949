/* tests/gpu/attention_prefill_test.c - engine/kernels/attention_prefill.h against its definition and against decode. */
#include "engine/kernels/attention_prefill.h"

#include "engine/kernels/attention_decode.h"
#include "tests/gpu/attention_case.h"

enum { MAX_TILES = 64 };

/* Chunks become tiles on the device; the results come back in c->got. */
static void prefill(struct attention_case *c, const struct attention_chunk *chunks,
                    uint32_t n_chunks)
{
    struct attention_chunk tiles[MAX_TILES];
    uint32_t rows = attention_prefill_tile_rows(c->shape.n_q_heads, c->shape.n_kv_heads);
    uint32_t n = attention_prefill_tiles(chunks, n_chunks, rows, tiles, MAX_TILES);
    void *device;

    assert_true(n > 0);
    device = test_upload(tiles, n * sizeof(*tiles));
    TEST_OK(attention_prefill(&c->device, &c->device_batch, device, n, test_stream));
    test_to_host(c->got, c->device.out, c->out_bytes);
    test_device_free(device, n * sizeof(*tiles));
}

static struct attention_shape shape_of(enum gpu_dtype dtype, uint32_t head_dim, uint32_t group,
                                       uint32_t n_kv_heads, uint32_t block_tokens, uint32_t window)
{
    return (struct attention_shape){.dtype = dtype,
                                    .head_dim = head_dim,
                                    .n_q_heads = group * n_kv_heads,
                                    .n_kv_heads = n_kv_heads,
                                    .block_tokens = block_tokens,
                                    .window = window};
}

/* Chunks one after the other in the rows with a row between them that is nobody's, chunk i of slot n - 1 - i. */
static void lay_out(struct attention_shape *s, struct attention_chunk *chunks, uint32_t n)
{
    s->n_slots = n;
    s->n_rows = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct attention_chunk *k = &chunks[i];
        k->slot = n - 1 - i;
        k->first_row = s->n_rows + 1;
        s->n_rows += k->n_rows + 1;
        s->end[k->slot] = k->position + k->n_rows;
        s->first[k->slot] =
            s->window != 0 && k->position + 1 > s->window ? k->position + 1 - s->window : 0;
    }
}

static void make(struct attention_case *c, const struct attention_shape *s,
                 const struct attention_chunk *chunks, uint32_t n)
{
    case_make(c, s);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        c->slot[r] = -1;
        c->position[r] = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t r = 0; r < chunks[i].n_rows; r++) {
            c->slot[chunks[i].first_row + r] = (int32_t)chunks[i].slot;
            c->position[chunks[i].first_row + r] = (int32_t)(chunks[i].position + r);
        }
    }
    case_upload(c);
}

static void check(struct attention_shape s, struct attention_chunk *chunks, uint32_t n)
{
    struct attention_case c;

    lay_out(&s, chunks, n);
    make(&c, &s, chunks, n);
    attention_prefill_ref(c.want, &c.host, &c.host_batch, chunks, n);
    prefill(&c, chunks, n);
    case_check(&c);
    case_free(&c);
}

static void chunks_follow_the_definition_in_every_head_size_and_type(void **state)
{
    static const uint32_t dims[] = {64, 96, 128};

    (void)state;
    for (size_t d = 0; d < 3; d++) {
        for (int t = GPU_BF16; t <= GPU_F16; t++) {
            struct attention_chunk chunks[] = {
                {.n_rows = 40, .position = 0},
                {.n_rows = 1 + test_below(30), .position = test_below(150)}};
            check(shape_of((enum gpu_dtype)t, dims[d], 4, 1, 16, 0), chunks, 2);
        }
    }
}

static void any_group_of_query_heads_shares_a_tile(void **state)
{
    static const uint32_t groups[] = {1, 2, 3, 7, 16, 20};

    (void)state;
    for (size_t i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
        uint32_t rows = attention_prefill_tile_rows(groups[i], 1);
        struct attention_chunk chunks[] = {{.n_rows = rows, .position = test_below(70)},
                                           {.n_rows = 1, .position = test_below(200)},
                                           {.n_rows = rows < 60 ? rows + 1 : 5, .position = 0}};
        check(shape_of(i % 2 ? GPU_F16 : GPU_BF16, 64, groups[i], 1 + (uint32_t)i % 2, 32, 0),
              chunks, 3);
    }
}

static void blocks_of_every_size_are_followed(void **state)
{
    (void)state;
    for (uint32_t tokens = 16; tokens <= 256; tokens *= 2) {
        struct attention_chunk chunks[] = {{.n_rows = 20, .position = 290 + test_below(64)},
                                           {.n_rows = 10, .position = 55 + test_below(10)}};
        check(shape_of(GPU_BF16, 64, 4, 1, tokens, 0), chunks, 2);
    }
}

static void a_window_hides_what_is_before_it(void **state)
{
    static const uint32_t windows[] = {1, 7, 32, 64, 65, 130, 1000};

    (void)state;
    for (size_t i = 0; i < sizeof(windows) / sizeof(*windows); i++) {
        struct attention_chunk chunks[] = {{.n_rows = 35, .position = test_below(200)},
                                           {.n_rows = 70, .position = 0}};
        check(shape_of(GPU_F16, 64, 4, 1, 16, windows[i]), chunks, 2);
    }
}

/* Around the ends of key tiles and of row tiles. */
static void every_start_around_a_tile_is_right(void **state)
{
    static const uint32_t starts[] = {1, 31, 32, 33, 62, 63, 64, 65, 127, 128, 129};
    struct attention_chunk chunks[sizeof(starts) / sizeof(*starts)];

    (void)state;
    for (size_t i = 0; i < sizeof(starts) / sizeof(*starts); i++)
        chunks[i] = (struct attention_chunk){.n_rows = 1 + (uint32_t)i % 4, .position = starts[i]};
    check(shape_of(GPU_BF16, 64, 8, 1, 16, 0), chunks,
          (uint32_t)(sizeof(starts) / sizeof(*starts)));
}

static void a_row_has_the_same_bits_however_its_prompt_is_cut(void **state)
{
    enum { ROWS = 150 };
    static const uint32_t cuts[] = {1, 20, 64, 37, 28}; /* 150 in all */

    (void)state;
    for (uint32_t window = 0; window <= 50; window += 50) {
        struct attention_shape s = shape_of(GPU_BF16, 64, 2, 1, 16, window);
        struct attention_chunk whole = {.n_rows = ROWS, .position = 0}, parts[5];
        struct attention_case c;
        uint16_t *once;
        uint32_t row = 0;

        lay_out(&s, &whole, 1);
        make(&c, &s, &whole, 1);
        once = test_alloc(c.out_bytes);
        prefill(&c, &whole, 1);
        memcpy(once, c.got, c.out_bytes);
        TEST_OK(gpu_fill(c.device.out, TEST_POISON, c.out_bytes, test_stream));
        for (size_t i = 0; i < 5; i++) {
            parts[i] = (struct attention_chunk){0, whole.first_row + row, cuts[i], row};
            row += cuts[i];
        }
        assert_int_equal(row, ROWS);
        prefill(&c, &parts[3], 2); /* in any order */
        prefill(&c, parts, 3);
        assert_memory_equal(c.got, once, c.out_bytes);
        mem_free(once);
        case_free(&c);
    }
}

/* A row of its own gives what it gives inside its prompt: prefill and decode agree with each other to their roundings,
 * closer than with a wrong mask or key by far. */
static void decode_agrees_with_the_rows_of_a_prompt(void **state)
{
    static const uint32_t dims[] = {64, 128};

    (void)state;
    for (size_t d = 0; d < 2; d++) {
        struct attention_shape s = shape_of(GPU_BF16, dims[d], 4, 1, 16, (uint32_t)d * 100);
        struct attention_chunk chunk = {.n_rows = 34, .position = 270};
        struct attention_case c;
        size_t n = (size_t)4 * dims[d], bytes;
        void *workspace;

        lay_out(&s, &chunk, 1);
        make(&c, &s, &chunk, 1);
        prefill(&c, &chunk, 1);
        for (uint32_t r = 1; r < s.n_rows; r++) {
            float *wide = test_widen(s.dtype, case_row(&c, r), n);
            memcpy(c.want + r * n, wide, n * sizeof(float));
            mem_free(wide);
        }
        bytes = attention_decode_workspace(&c.device, s.n_rows, c.host_batch.max_blocks);
        workspace = test_device(bytes);
        TEST_OK(gpu_fill(workspace, 0, bytes, test_stream));
        TEST_OK(gpu_fill(c.device.out, TEST_POISON, c.out_bytes, test_stream));
        TEST_OK(attention_decode(&c.device, &c.device_batch, workspace, 4, test_stream));
        test_to_host(c.got, c.device.out, c.out_bytes);
        for (uint32_t r = 1; r < s.n_rows; r++)
            (void)test_close16("decode", s.dtype, case_row(&c, r), c.want + r * n, n,
                               2 * test_rounding(s.dtype), 2 * test_rounding(s.dtype));
        test_device_free(workspace, bytes);
        case_free(&c);
    }
}

static void tiles_cover_every_row_once_and_the_longest_come_first(void **state)
{
    struct attention_chunk chunks[40], tiles[512];
    uint8_t seen[4096];

    (void)state;
    for (int round = 0; round < 50; round++) {
        uint32_t n_chunks = 1 + test_below(40), rows = 0, want = 0, tile_rows = 1 + test_below(128),
                 n, covered = 0;
        for (uint32_t i = 0; i < n_chunks; i++) {
            chunks[i] = (struct attention_chunk){i, rows, test_below(100), test_below(9000)};
            rows += chunks[i].n_rows;
            want += (chunks[i].n_rows + tile_rows - 1) / tile_rows;
        }
        if (want > 512 || want == 0)
            continue;
        n = attention_prefill_tiles(chunks, n_chunks, tile_rows, tiles, want);
        assert_int_equal(n, want);
        memset(seen, 0, sizeof(seen));
        for (uint32_t i = 0; i < n; i++) {
            const struct attention_chunk *k = &chunks[tiles[i].slot];
            assert_in_range(tiles[i].n_rows, 1, tile_rows);
            assert_int_equal(tiles[i].position - k->position, tiles[i].first_row - k->first_row);
            if (i > 0)
                assert_true(tiles[i].position + tiles[i].n_rows <=
                            tiles[i - 1].position + tiles[i - 1].n_rows);
            for (uint32_t r = 0; r < tiles[i].n_rows; r++, covered++) {
                assert_in_range(tiles[i].first_row + r, k->first_row, k->first_row + k->n_rows - 1);
                assert_int_equal(seen[tiles[i].first_row + r]++, 0);
            }
        }
        assert_int_equal(covered, rows);
        assert_int_equal(attention_prefill_tiles(chunks, n_chunks, tile_rows, tiles, want - 1), 0);
    }
    assert_int_equal(attention_prefill_tiles(chunks, 1, 0, tiles, 512), 0);
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    struct attention good = {.kv = {.v_offset = 1024,
                                    .block_stride = 4096,
                                    .n_blocks = 8,
                                    .block_tokens = 16,
                                    .n_kv_heads = 2,
                                    .head_dim = 64,
                                    .dtype = GPU_BF16},
                             .q_stride = 512,
                             .out_stride = 256,
                             .n_q_heads = 4,
                             .scale = 0.125f},
                     a;
    struct gpu_batch b = {.max_blocks = 4}, wide = {.max_blocks = ATTENTION_MAX_CONTEXT};

    (void)state;
    TEST_OK(
        attention_prefill(&good, &b, NULL, 0, test_stream)); /* nothing to do, nothing touched */
#define REFUSED(change)                                                                 \
    do {                                                                                \
        a = good;                                                                       \
        change;                                                                         \
        assert_int_equal(attention_prefill(&a, &b, NULL, 0, test_stream), ERR_INVALID); \
    } while (0)
    REFUSED(a.kv.head_dim = 32);
    REFUSED(a.kv.dtype = (enum gpu_dtype)0);
    REFUSED(a.kv.block_tokens = 24);
    REFUSED(a.n_q_heads = 5);
    REFUSED(a.kv.v_offset = 8);
    REFUSED(a.q_stride = 4);
    REFUSED(a.scale = -1);
    REFUSED(a.window = 0x80000000u);
#undef REFUSED
    assert_int_equal(attention_prefill(&good, &wide, NULL, 0, test_stream), ERR_INVALID);
    assert_int_equal(attention_prefill(&good, &b, NULL, 1u << 20, test_stream), ERR_INVALID);
    assert_int_equal(attention_prefill_tile_rows(32, 8), 32);
    assert_int_equal(attention_prefill_tile_rows(7, 1), 18);
    assert_int_equal(attention_prefill_tile_rows(71, 1), 8);
    assert_int_equal(attention_prefill_tile_rows(5, 2), 0);
    assert_int_equal(attention_prefill_tile_rows(4, 0), 0);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_follow_the_definition_in_every_head_size_and_type),
        cmocka_unit_test(any_group_of_query_heads_shares_a_tile),
        cmocka_unit_test(blocks_of_every_size_are_followed),
        cmocka_unit_test(a_window_hides_what_is_before_it),
        cmocka_unit_test(every_start_around_a_tile_is_right),
        cmocka_unit_test(a_row_has_the_same_bits_however_its_prompt_is_cut),
        cmocka_unit_test(decode_agrees_with_the_rows_of_a_prompt),
        cmocka_unit_test(tiles_cover_every_row_once_and_the_longest_come_first),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
