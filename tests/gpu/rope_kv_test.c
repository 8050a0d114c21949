/* tests/gpu/rope_kv_test.c - engine/kernels/rope_kv.h against the rotation's definition and the pool's layout. */
#include "engine/kernels/rope_kv.h"

#include "tests/gpu/gpu_test.h"

enum {
    ROWS = 11,
    SLOTS = 3,
    MAX_BLOCKS = 4,
    BLOCKS = 14,
    TOKENS = 16,
    LAYERS = 3,
    LAYER = 1,
    SLACK = 8
};
enum { POSITIONS = MAX_BLOCKS * TOKENS };

/* A launch, and what must come of it. */
struct rig {
    enum gpu_dtype dtype;
    uint32_t head_dim, n_heads, n_kv_heads, row_stride;
    int32_t position[ROWS], slot[ROWS];
    uint32_t blocks[SLOTS][MAX_BLOCKS];
    double inv_freq[128];
    uint16_t *qkv, *pool; /* before; then what must be there after */
    uint16_t *got_qkv, *got_pool;
    size_t qkv_n, pool_n, half_layer; /* values */
};

static void draw(struct rig *t)
{
    bool used[BLOCKS] = {false};

    t->row_stride = (t->n_heads + 2 * t->n_kv_heads) * t->head_dim + SLACK;
    t->half_layer = (size_t)t->n_kv_heads * TOKENS * t->head_dim;
    t->qkv_n = (size_t)ROWS * t->row_stride;
    t->pool_n = 2 * t->half_layer * LAYERS * BLOCKS;
    t->qkv = test_random16(t->dtype, t->qkv_n, 3);
    t->pool = test_random16(t->dtype, t->pool_n, 1);
    t->got_qkv = test_alloc(t->qkv_n * 2);
    t->got_pool = test_alloc(t->pool_n * 2);
    for (uint32_t i = 0; i < t->head_dim / 2; i++)
        t->inv_freq[i] = pow(10000, -2.0 * i / t->head_dim);
    for (uint32_t s = 0; s < SLOTS; s++) {
        for (uint32_t e = 0; e < MAX_BLOCKS; e++) {
            uint32_t b = test_below(BLOCKS - 1); /* the last one is nobody's */
            while (used[b])
                b = (b + 1) % (BLOCKS - 1);
            used[b] = true;
            t->blocks[s][e] = b;
        }
    }
    /* Different places: a stretch over the end of a block, the first and the last token, others apart. */
    for (int32_t r = 0; r < ROWS; r++) {
        t->slot[r] = r < 6 ? 0 : 1 + r % 2;
        t->position[r] = r < 6 ? TOKENS - 3 + r : r * 5;
    }
    t->position[6] = 0;
    t->position[7] = POSITIONS - 1;
    t->slot[9] = -1; /* filler */
}

static void clear(struct rig *t)
{
    mem_free(t->qkv), mem_free(t->pool), mem_free(t->got_qkv), mem_free(t->got_pool);
}

static void run(struct rig *t, uint32_t n_positions, uint32_t n_blocks)
{
    size_t angle_bytes = (size_t)n_positions * t->head_dim * sizeof(float);
    float *angles = test_alloc(angle_bytes);

    rope_kv_angles(angles, t->inv_freq, t->head_dim, 0, 1);
    rope_kv_angles(angles + t->head_dim, t->inv_freq, t->head_dim, 1, n_positions - 1);
    void *dev_angles = test_upload(angles, angle_bytes),
         *dev_qkv = test_upload(t->qkv, t->qkv_n * 2);
    void *dev_pool = test_upload(t->pool, t->pool_n * 2);
    void *dev_position = test_upload(t->position, sizeof(t->position));
    void *dev_slot = test_upload(t->slot, sizeof(t->slot));
    void *dev_blocks = test_upload(t->blocks, sizeof(t->blocks));
    struct rope_kv_args a = {
        .qkv = dev_qkv,
        .row_stride = t->row_stride,
        .n_heads = t->n_heads,
        .angles = dev_angles,
        .n_positions = n_positions,
        .batch = {.position = dev_position,
                  .slot = dev_slot,
                  .blocks = dev_blocks,
                  .max_blocks = MAX_BLOCKS,
                  .n_rows = ROWS,
                  .n_slots = SLOTS},
        .kv = {.k = (uint8_t *)dev_pool + LAYER * 2 * t->half_layer * 2,
               .v_offset = t->half_layer * 2,
               .block_stride = LAYERS * 2 * t->half_layer * 2,
               .n_blocks = n_blocks,
               .block_tokens = TOKENS,
               .n_kv_heads = t->n_kv_heads,
               .head_dim = t->head_dim,
               .dtype = t->dtype},
    };
    TEST_OK(rope_kv(&a, test_stream));
    test_to_host(t->got_qkv, dev_qkv, t->qkv_n * 2);
    test_to_host(t->got_pool, dev_pool, t->pool_n * 2);
    test_device_free(dev_angles, angle_bytes);
    test_device_free(dev_qkv, t->qkv_n * 2);
    test_device_free(dev_pool, t->pool_n * 2);
    test_device_free(dev_position, sizeof(t->position));
    test_device_free(dev_slot, sizeof(t->slot));
    test_device_free(dev_blocks, sizeof(t->blocks));
    mem_free(angles);
}

/* got against the rotation of `from`; then `expected` is made what was found, so that the rest can be compared as
 * bytes.  Products of 3 * 3 in fp32 lose about 1e-6, which the sum may bring out. */
static void check_rotated(const struct rig *t, const uint16_t *got, const uint16_t *from,
                          uint16_t *expected, int32_t position)
{
    float *want = test_widen(t->dtype, from, t->head_dim);

    rope_kv_ref(want, t->inv_freq, t->head_dim, (uint32_t)position);
    (void)test_close16("a rotated head", t->dtype, got, want, t->head_dim,
                       test_rounding(t->dtype) * 1.001, 3e-6);
    memcpy(expected, got, t->head_dim * 2);
    mem_free(want);
}

static bool in(const int32_t *list, int32_t value)
{
    for (; *list >= 0; list++) {
        if (*list == value)
            return true;
    }
    return false;
}

/* Rows of `alone` are left alone, rows of `unplaced` only have their q rotated; lists end with -1. */
static void check(struct rig *t, const int32_t *alone, const int32_t *unplaced)
{
    for (int32_t r = 0; r < ROWS; r++) {
        uint16_t *row = t->qkv + (size_t)r * t->row_stride,
                 *got = t->got_qkv + (size_t)r * t->row_stride;
        const uint16_t *k = row + (size_t)t->n_heads * t->head_dim;
        const uint16_t *v = k + (size_t)t->n_kv_heads * t->head_dim;
        if (in(alone, r))
            continue;
        for (uint32_t h = 0; h < t->n_heads; h++) {
            size_t at = (size_t)h * t->head_dim;
            check_rotated(t, got + at, row + at, row + at, t->position[r]);
        }
        for (uint32_t h = 0; h < t->n_kv_heads && !in(unplaced, r); h++) {
            size_t block = t->blocks[t->slot[r]][t->position[r] / TOKENS];
            size_t at = ((block * LAYERS + LAYER) * 2) * t->half_layer +
                        (h * TOKENS + (size_t)t->position[r] % TOKENS) * t->head_dim;
            check_rotated(t, t->got_pool + at, k + (size_t)h * t->head_dim, t->pool + at,
                          t->position[r]);
            memcpy(t->pool + at + t->half_layer, v + (size_t)h * t->head_dim, t->head_dim * 2);
        }
    }
    assert_memory_equal(t->got_qkv, t->qkv, t->qkv_n * 2);
    assert_memory_equal(t->got_pool, t->pool, t->pool_n * 2);
}

static void q_turns_in_place_and_k_and_v_go_to_their_tokens_and_nowhere_else(void **state)
{
    static const uint32_t shapes[][3] = {{64, 4, 2},  {96, 6, 2},   {128, 32, 8},
                                         {128, 1, 1}, {16, 3, 1},   {256, 8, 8},
                                         {64, 71, 1}, {96, 40, 40}, {80, 5, 5}};
    static const int32_t alone[] = {9, -1}, none[] = {-1};

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        for (int d = GPU_BF16; d <= GPU_F16; d++) {
            struct rig t = {.dtype = (enum gpu_dtype)d,
                            .head_dim = shapes[i][0],
                            .n_heads = shapes[i][1],
                            .n_kv_heads = shapes[i][2]};
            draw(&t);
            run(&t, POSITIONS, BLOCKS);
            check(&t, alone, none);
            clear(&t);
        }
    }
}

static void rows_without_a_place_are_written_nowhere(void **state)
{
    static const int32_t alone[] = {2, 4, 8, 9, -1}, unplaced[] = {1, 3, 5, -1};
    struct rig t = {.dtype = GPU_BF16, .head_dim = 64, .n_heads = 4, .n_kv_heads = 2};

    (void)state;
    draw(&t);
    t.slot[8] = SLOTS;
    t.position[2] = -5;
    t.position[4] = 3 * POSITIONS; /* no angles for it */
    t.position[1] = POSITIONS;     /* the block table ends before it */
    t.slot[3] = t.slot[5] = 2;
    t.position[3] = 16;
    t.position[5] = 63;
    t.position[10] = t.position[7] = t.position[6] = 1;
    t.slot[6] = 0, t.slot[7] = 1, t.slot[10] = 2;
    t.blocks[2][1] = BLOCKS - 1;
    t.blocks[2][3] = 0xffffffffu;
    run(&t, 3 * POSITIONS, BLOCKS - 1);
    check(&t, alone, unplaced);
    clear(&t);
}

static void angles_far_into_a_context_are_exact(void **state)
{
    double inv_freq[2] = {1, 0.1};
    float got[4];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        uint32_t p = test_below(1 << 20);
        rope_kv_angles(got, inv_freq, 4, p, 1);
        assert_true(got[0] == (float)cos(p) && got[1] == (float)sin(p));
        assert_true(got[2] == (float)cos(p * 0.1) && got[3] == (float)sin(p * 0.1));
    }
}

static void shapes_outside_the_limits_are_refused(void **state)
{
    const struct rope_kv_args good = {.row_stride = 256,
                                      .n_heads = 2,
                                      .kv = {.v_offset = 64,
                                             .block_stride = 128,
                                             .block_tokens = 16,
                                             .n_kv_heads = 1,
                                             .head_dim = 64,
                                             .dtype = GPU_F16}};
    struct rope_kv_args a = good;

    (void)state;
    TEST_OK(rope_kv(&a, test_stream));
    a = good, a.kv.head_dim = 72;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.kv.head_dim = 272, a.row_stride = 4096;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.row_stride = 248; /* shorter than its heads */
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.row_stride = 260;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.n_heads = 0;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.kv.n_kv_heads = 0;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.n_heads = 5000, a.row_stride = 1 << 30;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.kv.v_offset = 72;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.kv.block_stride = 8;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.kv.block_tokens = 24;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
    a = good, a.kv.dtype = (enum gpu_dtype)0;
    assert_int_equal(rope_kv(&a, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(q_turns_in_place_and_k_and_v_go_to_their_tokens_and_nowhere_else),
        cmocka_unit_test(rows_without_a_place_are_written_nowhere),
        cmocka_unit_test(angles_far_into_a_context_are_exact),
        cmocka_unit_test(shapes_outside_the_limits_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
