/* tests/unit/engine_cpu_tp_test.c - a model split over ranks: the text and, within rounding, the logits of one
 * rank; bits that depend on nothing but the number of ranks; a pool whose parts hold each rank's heads; and a
 * rank that fails takes the step down at once. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/engine.h"
#include "tests/unit/engine_fixture.h"

static const struct fixture_shape shape = {.hidden = 72,
                                           .layers = 3,
                                           .heads = 8,
                                           .kv_heads = 4,
                                           .head_dim = 20,
                                           .ffn = 132,
                                           .vocab = 307,
                                           .positions = 400,
                                           .dtype = ENGINE_BF16,
                                           .tied = false};

enum { POOL_BLOCKS = 64, BATCH = 8, SEQ_MAX = 200, VOCAB_MAX = 512 };

struct rig {
    struct engine *e;
    uint8_t *pool;
    size_t part_bytes; /* from part to part */
    float logits[BATCH * VOCAB_MAX];
    struct engine_sampling greedy;
};

static void rig_open(struct rig *r, const char *dir, int isa, uint32_t tp, uint32_t threads)
{
    struct engine_config c = {
        .backend = "cpu", .model_dir = dir, .threads = threads, .tp = tp, .max_batch = BATCH};
    const struct wire_kv_layout *kv;
    struct err_msg msg = {""};
    enum err err = isa < 0 ? engine_open(&c, &msg, &r->e)
                           : cpu_engine_open_isa(&c, (enum cpu_isa)isa, &msg, &r->e);

    if (err != ERR_OK)
        fail_msg("%s", msg.text);
    kv = &engine_info(r->e)->kv;
    assert_int_equal(kv->parts, tp);
    assert_true(engine_info(r->e)->vocab <= VOCAB_MAX);
    r->part_bytes = engine_pool_bytes(r->e, POOL_BLOCKS) / tp;
    r->pool = mem_try_aligned(64, tp * r->part_bytes);
    assert_non_null(r->pool);
    memset(r->pool, 0xff, tp * r->part_bytes); /* NaN everywhere */
    assert_int_equal(engine_attach_pool(r->e, r->pool, POOL_BLOCKS), ERR_OK);
    cpu_engine_watch_logits(r->e, r->logits);
    engine_sampling_defaults(&r->greedy);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    mem_free(r->pool);
}

static struct engine_slot slot_of(const struct rig *r, const int32_t *tokens, uint32_t n,
                                  uint32_t position, const uint32_t *blocks, uint32_t n_blocks)
{
    return (struct engine_slot){.tokens = tokens,
                                .n_tokens = n,
                                .position = position,
                                .blocks = blocks,
                                .n_blocks = n_blocks,
                                .sample = true,
                                .sampling = &r->greedy};
}

static void list_blocks(uint32_t blocks[POOL_BLOCKS], uint32_t from)
{
    for (uint32_t i = 0; i < POOL_BLOCKS; i++)
        blocks[i] = (from + i) % POOL_BLOCKS;
}

static void fill_tokens(int32_t *tokens, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((i * 7919u + seed * 104729u) % shape.vocab);
}

/* Tokens [0, n) of one sequence in chunks; the logits after the last stand at slot 0. */
static void prefill(struct rig *r, const int32_t *tokens, uint32_t n, uint32_t chunk)
{
    uint32_t blocks[POOL_BLOCKS];

    list_blocks(blocks, 11);
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t take = n - at < chunk ? n - at : chunk;
        struct engine_slot s = slot_of(r, tokens + at, take, at, blocks, POOL_BLOCKS);

        s.sample = at + take == n;
        assert_int_equal(engine_step(r->e, &s, 1, 0, NULL, NULL), ERR_OK);
        assert_int_equal(s.result, ERR_OK);
    }
}

static void a_real_model_tells_its_story_on_one_two_and_four_ranks(void **state)
{
    static const int32_t story[] = {1,   403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421,
                                    395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411,
                                    322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370,
                                    432, 352, 266, 268, 388, 426, 338, 391, 266, 267, 337, 335, 312,
                                    432, 398, 312, 286, 267, 414, 270, 333, 415, 426};
    enum { N = sizeof(story) / sizeof(story[0]), PROMPT = 5 };
    const char *shared = getenv("BATON_SHARED");
    char dir[512];

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models/stories260K", shared != NULL ? shared : "../shared");
    if (access(dir, R_OK) != 0) {
        print_message("skipped: %s is not there (set BATON_SHARED)\n", dir);
        skip();
    }
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        for (uint32_t tp = 1; tp <= 4 && cpu_kernels_get((enum cpu_isa)isa) != NULL; tp *= 2) {
            static struct rig r;
            uint32_t blocks[POOL_BLOCKS];

            rig_open(&r, dir, isa, tp, 2);
            list_blocks(blocks, 3);
            for (uint32_t at = 0, take = PROMPT; at + take < N; at += take, take = 1) {
                struct engine_slot s = slot_of(&r, story + at, take, at, blocks, POOL_BLOCKS);

                assert_int_equal(engine_step(r.e, &s, 1, 0, NULL, NULL), ERR_OK);
                assert_int_equal(s.result, ERR_OK);
                assert_int_equal(s.out.token, story[at + take]);
            }
            rig_close(&r);
        }
    }
}

static double spread(const float *x, uint32_t n)
{
    double sum = 0, squares = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    return sqrt(squares / n - sum / n * (sum / n));
}

/* In units of the logits' standard deviation: 2e-5 where activations are floats; 2e-2 where they are
 * rounded to bf16 before a product, since a last bit then decides which way one rounds. */
static void logits_agree_with_those_of_one_rank_within_rounding(void **state)
{
    enum { N = 120 };
    static struct rig r;
    int32_t tokens[N];
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, N, 1);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        double bound = isa == CPU_ISA_AVX512_BF16 ? 2e-2 : 2e-5, scale = 1;
        float want[VOCAB_MAX];

        for (uint32_t tp = 1; tp <= 4 && cpu_kernels_get((enum cpu_isa)isa) != NULL; tp *= 2) {
            rig_open(&r, dir, isa, tp, 2);
            prefill(&r, tokens, N, 50);
            if (tp == 1) {
                memcpy(want, r.logits, shape.vocab * sizeof(float));
                scale = spread(want, shape.vocab);
            }
            for (uint32_t i = 0; i < shape.vocab; i++)
                assert_true(fabs((double)r.logits[i] - want[i]) <= bound * scale);
            rig_close(&r);
        }
    }
    fixture_remove(dir);
}

/* The same sequence alone and in company, in one piece and in many, on few threads and many. */
static void bits_do_not_depend_on_chunks_threads_or_company(void **state)
{
    enum { N = 90, COMPANY = 3 };
    static struct rig r;
    int32_t tokens[N], other[N];
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, N, 1);
    fill_tokens(other, N, 2);
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        static const uint32_t chunks[] = {N, 1, 13, 40};
        static const uint32_t threads[] = {1, 4, 5, 9};
        float want[VOCAB_MAX];

        for (int how = 0; how < 4; how++) {
            uint32_t mine[POOL_BLOCKS], theirs[POOL_BLOCKS], chunk = chunks[how];

            rig_open(&r, dir, -1, tp, threads[how]);
            list_blocks(mine, 0);
            list_blocks(theirs, 20);
            for (uint32_t at = 0; at < N; at += chunk) {
                uint32_t take = N - at < chunk ? N - at : chunk, n = how == 0 ? 1 : COMPANY;
                struct engine_slot s[COMPANY];

                s[0] = slot_of(&r, tokens + at, take, at, mine, POOL_BLOCKS);
                s[1] = slot_of(&r, other + at, take, at, theirs, POOL_BLOCKS);
                s[2] = slot_of(&r, other, 1 + at % 7, 0, mine + 40, POOL_BLOCKS - 40);
                assert_int_equal(engine_step(r.e, s, n, 0, NULL, NULL), ERR_OK);
            }
            if (how == 0)
                memcpy(want, r.logits, shape.vocab * sizeof(float));
            assert_memory_equal(r.logits, want, shape.vocab * sizeof(float));
            rig_close(&r);
        }
    }
    fixture_remove(dir);
}

/* What the first layer stores is computed before the first sum over ranks: equal bits, part by part. */
static void each_part_of_the_pool_holds_the_heads_of_its_rank(void **state)
{
    enum { N = 16 };
    static struct rig whole, r;
    uint32_t blocks[POOL_BLOCKS];
    int32_t tokens[N];
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, N, 1);
    list_blocks(blocks, 11);
    rig_open(&whole, dir, -1, 1, 1);
    prefill(&whole, tokens, N, N);
    for (uint32_t tp = 2; tp <= 4; tp *= 2) {
        size_t block = wire_kv_block_bytes(&engine_info(whole.e)->kv);
        size_t k = wire_kv_layer_bytes(&engine_info(whole.e)->kv) / 2, share = k / tp;

        rig_open(&r, dir, -1, tp, tp);
        prefill(&r, tokens, N, N);
        for (uint32_t p = 0; p < tp; p++) {
            const uint8_t *part = r.pool + p * r.part_bytes + blocks[0] * (block / tp);
            const uint8_t *all = whole.pool + blocks[0] * block;

            assert_memory_equal(part, all + p * share, share);             /* keys */
            assert_memory_equal(part + share, all + k + p * share, share); /* values */
        }
        rig_close(&r);
    }
    rig_close(&whole);
    fixture_remove(dir);
}

struct seen_layers {
    const struct rig *r;
    uint32_t block, next, calls;
    pthread_t thread;
    uint8_t copy[1 << 16];
};

/* The bytes of layers [0, end) of the block, all parts. */
static void copy_layers(struct seen_layers *s, uint32_t end, uint8_t *to)
{
    const struct wire_kv_layout *kv = &engine_info(s->r->e)->kv;
    size_t block = wire_kv_part_block_bytes(kv), bytes = block / kv->n_layers * end;

    for (uint32_t p = 0; p < kv->parts; p++)
        memcpy(to + p * bytes, s->r->pool + p * s->r->part_bytes + s->block * block, bytes);
}

static void on_layers(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    struct seen_layers *s = arg;

    assert_int_equal(ready, 0);
    assert_int_equal(first, s->next);
    assert_true(pthread_equal(s->thread, pthread_self()));
    s->next = first + n;
    s->calls++;
    if (s->next == 2)
        copy_layers(s, 2, s->copy);
}

static void layers_are_reported_when_every_rank_has_stored_them(void **state)
{
    static struct seen_layers seen;
    static uint8_t after[sizeof(seen.copy)];
    static struct rig r;
    uint32_t blocks[POOL_BLOCKS];
    int32_t tokens[16];
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, 16, 1);
    list_blocks(blocks, 7);
    rig_open(&r, dir, -1, 4, 4);
    assert_true(wire_kv_block_bytes(&engine_info(r.e)->kv) <= sizeof(after));
    for (uint32_t round = 0; round < 50; round++) {
        struct engine_slot s = slot_of(&r, tokens, 16, 0, blocks, POOL_BLOCKS);
        size_t bytes = wire_kv_layer_bytes(&engine_info(r.e)->kv) * 2;

        s.sample = round % 2 == 0;
        memset(r.pool, 0xff, 4 * r.part_bytes);
        seen = (struct seen_layers){.r = &r, .block = 7, .thread = pthread_self()};
        assert_int_equal(engine_step(r.e, &s, 1, 1, on_layers, &seen), ERR_OK);
        assert_int_equal(seen.next, shape.layers);
        assert_int_equal(seen.calls, shape.layers);
        copy_layers(&seen, 2, after);
        assert_memory_equal(seen.copy, after, bytes);
        for (size_t i = 0; i < bytes / sizeof(float); i++) {
            float f;

            memcpy(&f, seen.copy + i * sizeof(f), sizeof(f));
            assert_true(isfinite(f));
        }
    }
    rig_close(&r);
    fixture_remove(dir);
}

static void more_sampled_rows_than_one_pass_of_logits_holds(void **state)
{
    enum { MANY = 150 };
    struct engine_config c = {
        .backend = "cpu", .max_batch = MANY, .max_step_tokens = MANY, .threads = 2, .tp = 4};
    struct engine_sampling greedy;
    struct engine_slot s[MANY];
    struct err_msg msg = {""};
    uint32_t blocks[MANY];
    int32_t tokens[MANY];
    void *pool;
    struct engine *e;
    char dir[FIXTURE_PATH];
    float *logits = mem_try_calloc((size_t)MANY * shape.vocab, sizeof(float));
    float *want = mem_try_calloc(shape.vocab, sizeof(float));

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_OK);
    pool = mem_try_aligned(64, engine_pool_bytes(e, MANY));
    assert_non_null(pool);
    assert_int_equal(engine_attach_pool(e, pool, MANY), ERR_OK);
    engine_sampling_defaults(&greedy);
    fill_tokens(tokens, MANY, 3);
    for (uint32_t i = 0; i < MANY; i++) {
        blocks[i] = MANY - 1 - i;
        s[i] = (struct engine_slot){.tokens = &tokens[i],
                                    .n_tokens = 1,
                                    .blocks = &blocks[i],
                                    .n_blocks = 1,
                                    .sample = i % 7 != 3,
                                    .sampling = &greedy};
    }
    cpu_engine_watch_logits(e, logits);
    assert_int_equal(engine_step(e, s, MANY, 0, NULL, NULL), ERR_OK);
    cpu_engine_watch_logits(e, want);
    for (uint32_t i = 0; i < MANY; i += 5) {
        int32_t token = s[i].out.token;

        if (!s[i].sample)
            continue;
        assert_int_equal(engine_step(e, &s[i], 1, 0, NULL, NULL), ERR_OK);
        assert_int_equal(s[i].out.token, token);
        assert_memory_equal(want, logits + (size_t)i * shape.vocab, shape.vocab * sizeof(float));
    }
    engine_close(e);
    mem_free(pool);
    mem_free(logits);
    mem_free(want);
    fixture_remove(dir);
}

/* A layer that is called back from a running step fails its engine, as a rank that is in trouble does. */
static void on_layers_fail(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    (void)first, (void)n, (void)ready;
    cpu_engine_abort(arg);
}

static void a_rank_that_fails_breaks_the_engine_and_hangs_nobody(void **state)
{
    static struct rig r;
    uint32_t blocks[POOL_BLOCKS];
    int32_t tokens[16];
    uint64_t start = clock_now_ns();
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, 16, 1);
    list_blocks(blocks, 0);
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        struct engine_slot s;

        rig_open(&r, dir, -1, tp, 4);
        s = slot_of(&r, tokens, 16, 0, blocks, POOL_BLOCKS);
        assert_int_equal(engine_step(r.e, &s, 1, 0, NULL, NULL), ERR_OK);
        assert_int_equal(engine_step(r.e, &s, 1, 2, on_layers_fail, r.e), ERR_DEVICE);
        assert_int_equal(engine_step(r.e, &s, 1, 0, NULL, NULL), ERR_DEVICE);
        rig_close(&r);
    }
    assert_true(clock_now_ns() - start < 60 * CLOCK_NS_PER_S);
    fixture_remove(dir);
}

static void blocks_go_out_of_a_pool_in_parts_and_come_back(void **state)
{
    static struct rig r;
    uint32_t blocks[POOL_BLOCKS];
    int32_t tokens[17];
    float want[VOCAB_MAX];
    struct engine_slot s;
    char dir[FIXTURE_PATH];
    uint8_t *host;

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, 17, 1);
    list_blocks(blocks, 11);
    rig_open(&r, dir, -1, 4, 2);
    host = mem_try_alloc(wire_kv_block_bytes(&engine_info(r.e)->kv));
    prefill(&r, tokens, 17, 16);
    memcpy(want, r.logits, sizeof(want));
    assert_int_equal(engine_kv_copy(r.e, 11, host, ENGINE_KV_OUT), ERR_OK);
    memset(r.pool, 0xff, 4 * r.part_bytes);
    assert_int_equal(engine_kv_copy(r.e, 40, host, ENGINE_KV_IN), ERR_OK);
    list_blocks(blocks, 40);
    s = slot_of(&r, tokens + 16, 1, 16, blocks, POOL_BLOCKS);
    assert_int_equal(engine_step(r.e, &s, 1, 0, NULL, NULL), ERR_OK);
    assert_memory_equal(r.logits, want, shape.vocab * sizeof(float));
    mem_free(host);
    rig_close(&r);
    fixture_remove(dir);
}

static void what_does_not_divide_is_refused_by_name(void **state)
{
    struct engine_config c = {.backend = "cpu", .threads = 1, .tp = 3};
    struct err_msg msg = {""};
    struct engine *e = NULL;
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_INVALID);
    assert_non_null(strstr(msg.text, "tp 3 does not divide the model's 4 key/value heads"));
    assert_non_null(strstr(msg.text, "1, 2, 4"));
    c.tp = 65;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_INVALID);
    assert_non_null(strstr(msg.text, "tp is 65"));
    c.backend = "sim";
    c.tp = 2;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(msg.text, "tp is 2"));
    fixture_remove(dir);
}

static void running_out_of_memory_while_opening_leaks_nothing(void **state)
{
    struct engine_config c = {.backend = "cpu", .threads = 3, .tp = 2};
    char dir[FIXTURE_PATH];
    size_t live = mem_live();
    enum err err = ERR_NOMEM;
    long n = 0;

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    for (; err != ERR_OK; n++) {
        struct engine *e = NULL;
        struct err_msg msg = {""};

        mem_fail_at(n);
        err = engine_open(&c, &msg, &e);
        mem_fail_at(-1);
        assert_true(err == ERR_OK || err == ERR_NOMEM);
        if (err == ERR_OK)
            engine_close(e);
        assert_int_equal(mem_live(), live);
    }
    assert_true(n > 40);
    fixture_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_real_model_tells_its_story_on_one_two_and_four_ranks),
        cmocka_unit_test(logits_agree_with_those_of_one_rank_within_rounding),
        cmocka_unit_test(bits_do_not_depend_on_chunks_threads_or_company),
        cmocka_unit_test(each_part_of_the_pool_holds_the_heads_of_its_rank),
        cmocka_unit_test(layers_are_reported_when_every_rank_has_stored_them),
        cmocka_unit_test(more_sampled_rows_than_one_pass_of_logits_holds),
        cmocka_unit_test(a_rank_that_fails_breaks_the_engine_and_hangs_nobody),
        cmocka_unit_test(blocks_go_out_of_a_pool_in_parts_and_come_back),
        cmocka_unit_test(what_does_not_divide_is_refused_by_name),
        cmocka_unit_test(running_out_of_memory_while_opening_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
