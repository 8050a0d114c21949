/* tests/unit/engine_cpu_test.c - the CPU backend: results do not depend on chunks, threads or company, a
 * real model gives the text it is known for, and a bad slot fails alone. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/engine.h"
#include "tests/unit/engine_fixture.h"

static const struct fixture_shape shape = {.hidden = 72,
                                           .layers = 3,
                                           .heads = 6,
                                           .kv_heads = 2,
                                           .head_dim = 20,
                                           .ffn = 101,
                                           .vocab = 307,
                                           .positions = 400,
                                           .dtype = ENGINE_BF16,
                                           .tied = false};

enum { POOL_BLOCKS = 256, SEQ_MAX = 400 };

static void *must_alloc(size_t bytes)
{
    void *p = mem_try_aligned(64, bytes);

    assert_non_null(p);
    memset(p, 0, bytes);
    return p;
}

struct rig {
    struct engine *e;
    uint8_t *pool;
    size_t block_bytes;
    float *logits; /* by slot */
    struct engine_sampling greedy;
};

static void rig_open(struct rig *r, const char *dir, int isa, uint32_t threads,
                     uint32_t block_tokens)
{
    struct engine_config c = {.backend = "cpu",
                              .model_dir = dir,
                              .threads = threads,
                              .block_tokens = block_tokens,
                              .max_batch = 16};
    struct err_msg msg = {""};
    enum err err = isa < 0 ? engine_open(&c, &msg, &r->e)
                           : cpu_engine_open_isa(&c, (enum cpu_isa)isa, &msg, &r->e);

    if (err != ERR_OK)
        fail_msg("%s", msg.text);
    r->block_bytes = wire_kv_block_bytes(&engine_info(r->e)->kv);
    r->pool = must_alloc(POOL_BLOCKS * r->block_bytes);
    memset(r->pool, 0xff, POOL_BLOCKS * r->block_bytes); /* NaN everywhere */
    assert_int_equal(engine_attach_kv(r->e, (void *[]){r->pool}, POOL_BLOCKS), ERR_OK);
    r->logits = must_alloc((size_t)16 * engine_info(r->e)->vocab * sizeof(float));
    cpu_engine_watch_logits(r->e, r->logits);
    engine_sampling_defaults(&r->greedy);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    mem_free(r->pool);
    mem_free(r->logits);
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

/* Greedy continuation of a prompt given in chunks. */
static void generate(struct rig *r, int32_t *tokens, uint32_t n_prompt, uint32_t n_total,
                     uint32_t chunk)
{
    uint32_t blocks[SEQ_MAX], n_blocks = 0, bt = engine_info(r->e)->kv.block_tokens;

    for (; n_blocks * bt < n_total; n_blocks++)
        blocks[n_blocks] = POOL_BLOCKS - 1 - n_blocks;
    for (uint32_t at = 0, n = n_prompt; n < n_total;) {
        uint32_t take = n - at < chunk ? n - at : chunk;
        struct engine_slot s = slot_of(r, tokens + at, take, at, blocks, n_blocks);

        s.sample = at + take == n;
        assert_int_equal(engine_step(r->e, &s, 1, 0, NULL, NULL), ERR_OK);
        assert_int_equal(s.result, ERR_OK);
        at += take;
        if (s.sample)
            tokens[n++] = s.out.token;
    }
}

static void a_real_model_tells_its_story_token_for_token(void **state)
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
        for (uint32_t chunk = 1; chunk <= PROMPT; chunk += 2) {
            int32_t tokens[N];
            struct rig r;

            if (cpu_kernels_get((enum cpu_isa)isa) == NULL)
                continue;
            rig_open(&r, dir, isa, 2, 16);
            memcpy(tokens, story, PROMPT * sizeof(int32_t));
            generate(&r, tokens, PROMPT, N, chunk);
            assert_memory_equal(tokens, story, sizeof(story));
            rig_close(&r);
        }
    }
}

static void fill_tokens(int32_t *tokens, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((i * 7919u + seed * 104729u) % shape.vocab);
}

/* One sequence of 150 tokens: logits after its last, in every way of getting there. */
static void results_do_not_depend_on_chunks_threads_blocks_or_company(void **state)
{
    enum { N = 150 };
    int32_t tokens[N + 1], other[3][N];
    uint32_t mine[N], theirs[3][N];
    float want[512];
    char dir[FIXTURE_PATH];
    bool first = true;

    (void)state;
    fixture_model(&shape, dir);
    fill_tokens(tokens, N, 1);
    for (uint32_t i = 0; i < 3; i++)
        fill_tokens(other[i], N, i + 2);
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        for (uint32_t bt = 5; bt <= 16; bt += 11) {
            for (uint32_t chunk = 1; chunk <= N; chunk = chunk * 3 + 1) {
                struct rig r;

                rig_open(&r, dir, -1, threads, bt);
                for (uint32_t i = 0; i < N / bt + 1; i++) {
                    mine[i] = i;
                    for (uint32_t k = 0; k < 3; k++)
                        theirs[k][i] = (k + 1) * (N / bt + 1) + i;
                }
                for (uint32_t at = 0; at < N; at += chunk) {
                    uint32_t take = N - at < chunk ? N - at : chunk, n = 4;
                    struct engine_slot s[4];

                    /* The others are at other places: decoding, prefilling, starting late. */
                    s[0] = slot_of(&r, other[0] + at, 1, at, theirs[0], N / bt + 1);
                    s[1] = slot_of(&r, other[1], take, 0, theirs[1], N / bt + 1);
                    s[2] = slot_of(&r, tokens + at, take, at, mine, N / bt + 1);
                    s[3] = slot_of(&r, other[2] + at, take, at, theirs[2], N / bt + 1);
                    if (threads == 1)
                        n = 1, s[0] = s[2];
                    assert_int_equal(engine_step(r.e, s, n, 0, NULL, NULL), ERR_OK);
                    assert_int_equal(s[n == 1 ? 0 : 2].result, ERR_OK);
                }
                {
                    const float *got = r.logits + (threads == 1 ? 0 : 2) * shape.vocab;

                    if (first)
                        memcpy(want, got, shape.vocab * sizeof(float));
                    first = false;
                    assert_true(isfinite(got[0]));
                    assert_memory_equal(got, want, shape.vocab * sizeof(float));
                }
                rig_close(&r);
            }
        }
    }
    fixture_remove(dir);
}

static void a_bad_slot_fails_alone(void **state)
{
    int32_t good[20], negative[1] = {-1}, beyond[1] = {(int32_t)shape.vocab};
    uint32_t blocks[2] = {3, 4}, far[2] = {3, POOL_BLOCKS}, spare[1] = {9};
    struct engine_sampling greedy;
    struct engine_slot s[10];
    struct rig r;
    char dir[FIXTURE_PATH];
    int32_t alone;

    (void)state;
    fixture_model(&shape, dir);
    rig_open(&r, dir, -1, 2, 16);
    engine_sampling_defaults(&greedy);
    greedy.repetition_penalty = 1.5f;
    fill_tokens(good, 20, 1);
    s[0] = slot_of(&r, good, 20, 0, blocks, 2);
    assert_int_equal(engine_step(r.e, s, 1, 0, NULL, NULL), ERR_OK);
    alone = s[0].out.token;

    s[0] = slot_of(&r, negative, 1, 0, spare, 1);
    s[1] = slot_of(&r, beyond, 1, 0, spare, 1);
    s[2] = slot_of(&r, good, 17, 0, spare, 1);              /* one block too few */
    s[3] = slot_of(&r, good, 20, 0, far, 2);                /* a block outside the pool */
    s[4] = slot_of(&r, good, 1, shape.positions, spare, 1); /* beyond the context */
    s[5] = slot_of(&r, good, 1, UINT32_MAX, spare, 1);
    s[6] = slot_of(&r, good, 0, 0, spare, 1);
    s[7] = slot_of(&r, good, 1, 0, spare, 1);
    s[7].sampling = NULL;
    s[8] = slot_of(&r, good, 1, 0, spare, 1);
    s[8].sampling = &greedy; /* penalties without a history */
    s[9] = slot_of(&r, good, 20, 0, blocks, 2);
    assert_int_equal(engine_step(r.e, s, 10, 0, NULL, NULL), ERR_OK);
    for (int i = 0; i < 9; i++)
        assert_int_equal(s[i].result, ERR_INVALID);
    assert_int_equal(s[9].result, ERR_OK);
    assert_int_equal(s[9].out.token, alone);
    assert_int_equal(engine_step(r.e, s, 9, 0, NULL, NULL), ERR_OK); /* only bad ones */
    rig_close(&r);
    fixture_remove(dir);
}

static void a_step_outside_the_limits_is_refused_whole(void **state)
{
    struct engine_config c = {.backend = "cpu", .max_batch = 2, .max_step_tokens = 8, .threads = 1};
    struct err_msg msg = {""};
    struct engine *e = NULL;
    struct engine_slot s[3];
    int32_t tokens[9] = {0};
    uint32_t blocks[1] = {0};
    struct rig r = {.e = NULL};
    char dir[FIXTURE_PATH];
    void *pool;

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_OK);
    engine_sampling_defaults(&r.greedy);
    for (int i = 0; i < 3; i++)
        s[i] = slot_of(&r, tokens, 1, 0, blocks, 1);
    assert_int_equal(engine_step(e, s, 1, 0, NULL, NULL), ERR_BAD_STATE);
    pool = must_alloc(wire_kv_block_bytes(&engine_info(e)->kv));
    assert_int_equal(engine_attach_kv(e, (void *[]){(uint8_t *)pool + 4}, 1), ERR_INVALID);
    assert_int_equal(engine_attach_kv(e, (void *[]){pool}, 1), ERR_OK);
    assert_int_equal(engine_attach_kv(e, (void *[]){pool}, 1), ERR_BAD_STATE);
    assert_int_equal(engine_step(e, s, 0, 0, NULL, NULL), ERR_INVALID);
    assert_int_equal(engine_step(e, s, 3, 0, NULL, NULL), ERR_INVALID);
    s[0].n_tokens = 9;
    assert_int_equal(engine_step(e, s, 1, 0, NULL, NULL), ERR_INVALID);
    s[0].n_tokens = 8;
    assert_int_equal(engine_step(e, s, 1, 0, NULL, NULL), ERR_OK);
    assert_int_equal(s[0].result, ERR_OK);
    engine_close(e);
    mem_free(pool);
    fixture_remove(dir);
}

struct seen_layers {
    const uint8_t *block;
    size_t layer_bytes;
    uint32_t next, calls;
    uint8_t copy[1 << 16];
};

/* What is reported must be there now; it is compared with the block after the step. */
static void on_layers(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    struct seen_layers *s = arg;

    assert_int_equal(ready, 0);
    assert_int_equal(first, s->next);
    memcpy(s->copy + first * s->layer_bytes, s->block + first * s->layer_bytes, n * s->layer_bytes);
    s->next = first + n;
    s->calls++;
}

static void layers_are_reported_in_order_once_their_kv_is_final(void **state)
{
    static struct seen_layers seen;
    int32_t tokens[16];
    uint32_t blocks[1] = {7};
    struct rig r;
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    rig_open(&r, dir, -1, 2, 16);
    fill_tokens(tokens, 16, 1);
    for (uint32_t group = 0; group <= 4; group++) {
        static const uint32_t calls[] = {1, 3, 2, 1, 1};
        struct engine_slot s = slot_of(&r, tokens, 16, 0, blocks, 1);

        s.sample = group % 2 == 0;
        memset(r.pool, 0xff, POOL_BLOCKS * r.block_bytes);
        memset(&seen, 0, sizeof(seen));
        seen.block = r.pool + 7 * r.block_bytes;
        seen.layer_bytes = wire_kv_layer_bytes(&engine_info(r.e)->kv);
        assert_true(r.block_bytes <= sizeof(seen.copy));
        assert_int_equal(engine_step(r.e, &s, 1, group, on_layers, &seen), ERR_OK);
        assert_int_equal(seen.next, shape.layers);
        assert_int_equal(seen.calls, calls[group]);
        assert_memory_equal(seen.copy, seen.block, r.block_bytes);
        for (size_t i = 0; i < r.block_bytes / sizeof(float); i++)
            assert_true(isfinite(((const float *)(const void *)seen.block)[i]));
    }
    rig_close(&r);
    fixture_remove(dir);
}

static void more_sampled_rows_than_one_pass_of_logits_holds(void **state)
{
    enum { MANY = 150 };
    struct engine_config c = {.backend = "cpu", .max_batch = MANY, .threads = 2};
    struct err_msg msg = {""};
    struct engine_slot s[MANY];
    int32_t tokens[MANY];
    uint32_t blocks[MANY];
    struct rig r = {.e = NULL};
    char dir[FIXTURE_PATH];
    float *logits, *want;

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    assert_int_equal(engine_open(&c, &msg, &r.e), ERR_OK);
    r.pool = must_alloc(MANY * wire_kv_block_bytes(&engine_info(r.e)->kv));
    assert_int_equal(engine_attach_kv(r.e, (void *[]){r.pool}, MANY), ERR_OK);
    logits = must_alloc((size_t)MANY * shape.vocab * sizeof(float));
    want = must_alloc(shape.vocab * sizeof(float));
    engine_sampling_defaults(&r.greedy);
    fill_tokens(tokens, MANY, 3);
    for (uint32_t i = 0; i < MANY; i++) {
        blocks[i] = MANY - 1 - i;
        s[i] = slot_of(&r, &tokens[i], 1, 0, &blocks[i], 1);
        s[i].sample = i % 7 != 3;
    }
    cpu_engine_watch_logits(r.e, logits);
    assert_int_equal(engine_step(r.e, s, MANY, 0, NULL, NULL), ERR_OK);
    cpu_engine_watch_logits(r.e, want);
    for (uint32_t i = 0; i < MANY; i += 29) {
        int32_t token = s[i].out.token;

        if (!s[i].sample)
            continue;
        assert_int_equal(engine_step(r.e, &s[i], 1, 0, NULL, NULL), ERR_OK);
        assert_int_equal(s[i].out.token, token);
        assert_memory_equal(want, logits + (size_t)i * shape.vocab, shape.vocab * sizeof(float));
    }
    engine_close(r.e);
    mem_free(r.pool);
    mem_free(logits);
    mem_free(want);
    fixture_remove(dir);
}

struct progress {
    uint64_t done, total;
    uint32_t calls;
};

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct progress *p = arg;

    assert_non_null(phase);
    assert_true(done >= p->done && done <= total);
    p->done = done;
    p->total = total;
    p->calls++;
}

static void opening_reports_progress_and_refuses_what_it_cannot_do(void **state)
{
    struct progress progress = {0};
    struct engine_config c = {
        .backend = "cpu", .threads = 1, .progress = on_progress, .progress_arg = &progress};
    struct err_msg msg = {""};
    struct engine *e = NULL;
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_OK);
    assert_true(progress.calls > 0 && progress.done == progress.total && progress.total > 0);
    assert_string_equal(engine_info(e)->backend, "cpu");
    assert_int_equal(engine_info(e)->max_context, shape.positions);
    engine_close(e);
    c.max_context = shape.positions + 1;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_INVALID);
    assert_non_null(strstr(msg.text, "max_context"));
    c.max_context = 0;
    c.block_tokens = 5000;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_INVALID);
    assert_non_null(strstr(msg.text, "block_tokens"));
    c.block_tokens = 0;
    c.backend = "abacus";
    assert_int_equal(engine_open(&c, &msg, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "cpu"));
    c.backend = "cuda";
    assert_int_equal(engine_open(&c, &msg, &e),
                     strstr(engine_backends(), "cuda") != NULL ? ERR_UNSUPPORTED : ERR_NOT_FOUND);
    fixture_remove(dir);
}

static void running_out_of_memory_while_opening_is_an_error_and_leaks_nothing(void **state)
{
    struct engine_config c = {.backend = "cpu", .threads = 2};
    char dir[FIXTURE_PATH];
    size_t live = mem_live();

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    for (long n = 0;; n++) {
        struct engine *e = NULL;
        struct err_msg msg = {""};
        enum err err;

        mem_fail_at(n);
        err = engine_open(&c, &msg, &e);
        mem_fail_at(-1);
        if (err == ERR_OK) {
            assert_true(n > 20);
            engine_close(e);
            break;
        }
        assert_int_equal(err, ERR_NOMEM);
        assert_int_equal(mem_live(), live);
    }
    assert_int_equal(mem_live(), live);
    fixture_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_real_model_tells_its_story_token_for_token),
        cmocka_unit_test(results_do_not_depend_on_chunks_threads_blocks_or_company),
        cmocka_unit_test(a_bad_slot_fails_alone),
        cmocka_unit_test(a_step_outside_the_limits_is_refused_whole),
        cmocka_unit_test(layers_are_reported_in_order_once_their_kv_is_final),
        cmocka_unit_test(more_sampled_rows_than_one_pass_of_logits_holds),
        cmocka_unit_test(opening_reports_progress_and_refuses_what_it_cannot_do),
        cmocka_unit_test(running_out_of_memory_while_opening_is_an_error_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
