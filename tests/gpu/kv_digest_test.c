/* tests/gpu/kv_digest_test.c - engine/kernels/kv_digest.h: the digests that hosts compute, to the bit. */
#include "engine/kernels/kv_digest.h"

#include "tests/gpu/gpu_test.h"

enum { POOL = 1 << 20, PIECE = 16384 };

static uint8_t *random_pool(void)
{
    uint8_t *pool = test_alloc(POOL);

    for (size_t i = 0; i < POOL; i += 8) {
        uint64_t v = test_random();
        memcpy(pool + i, &v, 8);
    }
    return pool;
}

static uint64_t digest(const void *dev_pool, const struct kv_memory_run *runs, uint32_t n,
                       uint64_t longest, uint32_t blocks)
{
    uint64_t got = 0;
    void *dev_runs = n > 0 ? test_upload(runs, n * sizeof(*runs)) : NULL,
         *dev_digest = test_device(8);

    TEST_OK(kv_digest(&(struct kv_digest_args){.base = dev_pool,
                                               .runs = dev_runs,
                                               .n_runs = n,
                                               .blocks = blocks,
                                               .longest = longest,
                                               .digest = dev_digest},
                      test_stream));
    test_to_host(&got, dev_digest, 8);
    if (n > 0)
        test_device_free(dev_runs, n * sizeof(*runs));
    test_device_free(dev_digest, 8);
    return got;
}

static struct kv_memory_run random_run(uint32_t unit, uint32_t len_max)
{
    struct kv_memory_run run = {.len = (1 + test_below(len_max / unit)) * unit,
                                .canonical = (test_random() >> 24) / unit * unit,
                                .salt = test_random()};

    run.at = test_below((uint32_t)(POOL - run.len) / unit + 1) * unit;
    return run;
}

static void random_runs_have_the_digest_of_the_host(void **state)
{
    uint8_t *pool = random_pool();
    void *dev = test_upload(pool, POOL);
    struct kv_memory_run runs[KV_MEMORY_RUNS_MAX];

    (void)state;
    for (uint32_t round = 0; round < 12; round++) {
        /* Whole 16 bytes, words, and both among each other; shorter than a piece, and many pieces long. */
        uint32_t n = 1 + test_below(round % 2 == 0 ? 40 : 6),
                 len_max = round % 2 == 0 ? 3000 : 200000;
        uint64_t longest = 0;
        for (uint32_t i = 0; i < n; i++) {
            runs[i] =
                random_run(round % 3 == 0 || (round % 3 == 1 && i % 2 == 0) ? 16 : 4, len_max);
            longest = runs[i].len > longest ? runs[i].len : longest;
        }
        uint64_t want = kv_digest_ref(pool, runs, n);
        assert_true(digest(dev, runs, n, longest, 0) == want);
        assert_true(digest(dev, runs, n, longest, 1) == want);
        assert_true(digest(dev, runs, n, longest + 100000, 3) == want);
    }
    test_device_free(dev, POOL);
    mem_free(pool);
}

static void lengths_around_a_piece_lose_no_word(void **state)
{
    static const uint32_t lens[] = {4,     8,         12,         16,         20,
                                    4080,  4096,      4100,       PIECE - 16, PIECE - 4,
                                    PIECE, PIECE + 4, PIECE + 16, 2 * PIECE,  2 * PIECE + 4};
    uint8_t *pool = random_pool();
    void *dev = test_upload(pool, POOL);

    (void)state;
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        for (uint32_t at = 0; at <= 16; at += 4) {
            struct kv_memory_run run = {.at = at, .len = lens[i], .canonical = 12, .salt = 7};
            assert_true(digest(dev, &run, 1, lens[i], 0) == kv_digest_ref(pool, &run, 1));
        }
    }
    /* The last bytes of the part. */
    struct kv_memory_run run = {
        .at = POOL - PIECE - 4, .len = PIECE + 4, .canonical = UINT64_C(1) << 34, .salt = 1};
    assert_true(digest(dev, &run, 1, run.len, 0) == kv_digest_ref(pool, &run, 1));
    test_device_free(dev, POOL);
    mem_free(pool);
}

static void pieces_of_a_block_add_up_to_its_digest_wherever_they_stand(void **state)
{
    /* A block of 2 layers x k, v x 4 heads, cut by heads into two parts that lie one behind the other. */
    enum { HEAD = 4096, BLOCK = 2 * 2 * 4 * HEAD };
    uint8_t *block = random_pool(), *parts = test_alloc(BLOCK);
    struct kv_memory_run runs[8];
    const uint64_t salt = test_random();

    (void)state;
    for (uint64_t part = 0; part < 2; part++) {
        for (uint64_t i = 0; i < 4; i++) {
            struct kv_memory_run r = {.at = (part * 4 + i) * 2 * HEAD,
                                      .len = 2 * HEAD,
                                      .canonical = (i * 4 + part * 2) * HEAD,
                                      .salt = salt};
            memcpy(parts + r.at, block + r.canonical, r.len);
            runs[part * 4 + i] = r;
        }
    }
    void *dev = test_upload(parts, BLOCK);
    assert_true(digest(dev, runs, 8, 2 * HEAD, 0) == wire_kv_digest(block, BLOCK, 0, salt));
    test_device_free(dev, BLOCK);
    mem_free(block), mem_free(parts);
}

static void no_runs_are_zero_and_runs_without_length_are_refused(void **state)
{
    struct kv_digest_args a = {.n_runs = 1};

    (void)state;
    assert_true(digest(NULL, NULL, 0, 0, 0) == 0);
    assert_int_equal(kv_digest(&a, test_stream), ERR_INVALID);
    a.n_runs = 1 << 20, a.longest = UINT64_C(1) << 40;
    assert_int_equal(kv_digest(&a, test_stream), ERR_INVALID);
    a.n_runs = 1, a.longest = UINT64_MAX;
    assert_int_equal(kv_digest(&a, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_runs_have_the_digest_of_the_host),
        cmocka_unit_test(lengths_around_a_piece_lose_no_word),
        cmocka_unit_test(pieces_of_a_block_add_up_to_its_digest_wherever_they_stand),
        cmocka_unit_test(no_runs_are_zero_and_runs_without_length_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
