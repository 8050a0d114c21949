/* tests/gpu/kv_move_test.c - engine/kernels/kv_move.h: runs to a dense buffer and back, and nothing besides. */
#include "engine/kernels/kv_move.h"

#include "tests/gpu/gpu_test.h"

enum { POOL = 1 << 20, PIECE = 16384, RUNS = 40 };

struct rig {
    struct kv_memory_run runs[RUNS];
    uint32_t n;
    uint64_t longest, dense_bytes;
};

/* Disjoint runs in the order of the pool, at places of the dense buffer in another order, gaps between both. */
static void draw(struct rig *t, uint32_t n, uint32_t unit, uint32_t len_max)
{
    uint32_t order[RUNS];

    *t = (struct rig){.n = n};
    for (uint64_t i = 0, at = 0; i < n; i++) {
        uint64_t room = (POOL - at) / (n - i), len = (1 + test_below(len_max / unit)) * unit;
        len = len < room ? len : room / unit * unit;
        uint64_t gap = test_below((uint32_t)((room - len) / unit) + 1) * unit;
        t->runs[i] = (struct kv_memory_run){.at = at + gap, .len = len};
        at += gap + len;
        t->longest = len > t->longest ? len : t->longest;
        order[i] = (uint32_t)i;
    }
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = test_below(i + 1), keep = order[i];
        order[i] = order[j];
        order[j] = keep;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct kv_memory_run *r = &t->runs[order[i]];
        r->host = t->dense_bytes + test_below(3) * unit;
        t->dense_bytes = r->host + r->len;
    }
}

static uint8_t *random_bytes(size_t n)
{
    uint8_t *bytes = test_alloc(n);

    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)test_random();
    return bytes;
}

/* The dense buffer in pinned host memory or on the device; out of the pool or into it. */
static void check(struct rig *t, bool on_device, bool out, uint32_t blocks)
{
    uint8_t *pool = random_bytes(POOL), *dense = random_bytes(t->dense_bytes);
    uint8_t *got_pool = test_alloc(POOL), *got_dense = test_alloc(t->dense_bytes);
    void *dev_pool = test_upload(pool, POOL), *dev_runs = test_upload(t->runs, sizeof(t->runs)),
         *buffer;
    struct kv_move_args a = {.base = dev_pool,
                             .runs = dev_runs,
                             .n_runs = t->n,
                             .blocks = blocks,
                             .longest = t->longest};

    if (on_device) {
        buffer = test_upload(dense, t->dense_bytes);
    } else {
        TEST_OK(gpu_host_alloc(test_gpu, t->dense_bytes, &buffer));
        memcpy(buffer, dense, t->dense_bytes);
    }
    a.dense = buffer;
    TEST_OK(out ? kv_gather(&a, test_stream) : kv_scatter(&a, test_stream));
    test_to_host(got_pool, dev_pool, POOL);
    if (on_device)
        test_to_host(got_dense, buffer, t->dense_bytes);
    else
        memcpy(got_dense, buffer, t->dense_bytes);
    struct kv_move_args host = {.base = pool, .dense = dense, .runs = t->runs, .n_runs = t->n};
    if (out)
        kv_gather_ref(&host);
    else
        kv_scatter_ref(&host);
    assert_memory_equal(got_pool, pool, POOL);
    assert_memory_equal(got_dense, dense, t->dense_bytes);
    if (on_device)
        test_device_free(buffer, t->dense_bytes);
    else
        gpu_host_free(test_gpu, buffer);
    test_device_free(dev_pool, POOL);
    test_device_free(dev_runs, sizeof(t->runs));
    mem_free(pool), mem_free(dense), mem_free(got_pool), mem_free(got_dense);
}

static void runs_of_any_length_are_gathered_and_scattered_byte_for_byte(void **state)
{
    static const uint32_t units[] = {16, 4}, lens[] = {2000, PIECE, 60000};
    static const uint32_t blocks[] = {0, 1, 5};
    struct rig t;

    (void)state;
    for (uint32_t round = 0; round < 6; round++) {
        draw(&t, 1 + test_below(RUNS), units[round % 2], lens[round % 3]);
        for (int way = 0; way < 4; way++)
            check(&t, way % 2 == 0, way / 2 == 0, blocks[round % 3]);
    }
}

static void lengths_around_a_piece_lose_no_word(void **state)
{
    static const uint32_t lens[] = {4,     16,        20,         PIECE - 16, PIECE - 4,
                                    PIECE, PIECE + 4, PIECE + 16, 3 * PIECE};
    struct rig t = {.n = sizeof(lens) / sizeof(*lens), .longest = 3 * PIECE};

    (void)state;
    for (uint32_t i = 0; i < t.n; i++) {
        t.runs[i] =
            (struct kv_memory_run){.at = i * 4 * PIECE, .len = lens[i], .host = t.dense_bytes};
        t.dense_bytes += (lens[i] + 31) / 16 * 16;
    }
    check(&t, false, true, 0);
    check(&t, false, false, 0);
}

static void what_was_gathered_and_scattered_elsewhere_is_the_same(void **state)
{
    enum { N = 12, LEN = 4096 };
    struct kv_memory_run from[N], to[N];
    uint8_t *pool = random_bytes(POOL), *got = test_alloc(POOL);
    void *dev_pool = test_upload(pool, POOL), *dense = test_device(N * LEN);

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        from[i] = (struct kv_memory_run){.at = i * 5 * LEN, .host = i * LEN, .len = LEN};
        to[i] = (struct kv_memory_run){.at = (N - i) * 7 * LEN + LEN, .host = i * LEN, .len = LEN};
    }
    void *dev_from = test_upload(from, sizeof(from)), *dev_to = test_upload(to, sizeof(to));
    struct kv_move_args a = {
        .base = dev_pool, .dense = dense, .runs = dev_from, .n_runs = N, .longest = LEN};
    TEST_OK(kv_gather(&a, test_stream));
    a.runs = dev_to;
    TEST_OK(kv_scatter(&a, test_stream)); /* after it, in stream order */
    test_to_host(got, dev_pool, POOL);
    for (uint32_t i = 0; i < N; i++)
        assert_memory_equal(got + to[i].at, pool + from[i].at, LEN);
    test_device_free(dev_pool, POOL);
    test_device_free(dense, N * LEN);
    test_device_free(dev_from, sizeof(from));
    test_device_free(dev_to, sizeof(to));
    mem_free(pool), mem_free(got);
}

static void no_runs_do_nothing_and_runs_without_length_are_refused(void **state)
{
    struct kv_move_args a = {.n_runs = 0};

    (void)state;
    TEST_OK(kv_gather(&a, test_stream));
    TEST_OK(kv_scatter(&a, test_stream));
    a.n_runs = 1;
    assert_int_equal(kv_gather(&a, test_stream), ERR_INVALID);
    a.n_runs = 1 << 20, a.longest = UINT64_C(1) << 40;
    assert_int_equal(kv_scatter(&a, test_stream), ERR_INVALID);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_of_any_length_are_gathered_and_scattered_byte_for_byte),
        cmocka_unit_test(lengths_around_a_piece_lose_no_word),
        cmocka_unit_test(what_was_gathered_and_scattered_elsewhere_is_the_same),
        cmocka_unit_test(no_runs_do_nothing_and_runs_without_length_are_refused),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
