/* tests/gpu/engine_rig.h - a random model opened on the CPU backend and on the CUDA backend, which go through the same
 * steps.  One file per program. */
#ifndef TESTS_GPU_ENGINE_RIG_H
#define TESTS_GPU_ENGINE_RIG_H

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

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/engine.h"
#include "proto/kv_memory.h"
#include "tests/unit/engine_fixture.h"

enum { RIG_BATCH = 12, RIG_STEP_TOKENS = 96, RIG_BLOCKS = 96, RIG_SEQ_MAX = 512 };

struct rig {
    char dir[FIXTURE_PATH];
    struct engine *host, *device;
    uint8_t *pool;                      /* of host */
    float *host_logits, *device_logits; /* [RIG_BATCH][vocab] */
    struct engine_sampling greedy;
    uint32_t next_block, bt; /* bt: tokens of a block */
};

/* A sequence with blocks of its own, the same in both pools. */
struct seq {
    int32_t tokens[RIG_SEQ_MAX];
    uint32_t n, at; /* known tokens, those with KV */
    uint32_t blocks[RIG_SEQ_MAX / 16];
};

static uint64_t rig_state;

static inline uint32_t rig_random(uint32_t below)
{
    rig_state = rig_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((rig_state >> 33) % below);
}

static inline struct engine_config rig_config(const char *dir)
{
    return (struct engine_config){.model_dir = dir,
                                  .threads = 1,
                                  .block_tokens = 16,
                                  .max_batch = RIG_BATCH,
                                  .max_step_tokens = RIG_STEP_TOKENS};
}

/* options: of the CUDA backend, NULL for none.  Blocks are dealt out from the end of the pool. */
static inline void rig_open(struct rig *r, const struct fixture_shape *shape,
                            const struct engine_config *options)
{
    struct engine_config c;
    struct err_msg msg = {""};
    size_t bytes, vocab = shape->vocab;

    *r = (struct rig){.next_block = 0};
    fixture_model(shape, r->dir);
    c = rig_config(r->dir);
    if (options != NULL)
        c.block_tokens = options->block_tokens;
    r->bt = c.block_tokens;
    if (cpu_engine_open_isa(&c, CPU_ISA_PORTABLE, &msg, &r->host) != ERR_OK)
        fail_msg("%s", msg.text);
    if (options != NULL)
        c = *options;
    c.model_dir = r->dir;
    c.kv_blocks = RIG_BLOCKS;
    if (engine_open_backend(&engine_backend_cuda, &c, &msg, &r->device) != ERR_OK)
        fail_msg("%s", msg.text);
    bytes = RIG_BLOCKS * wire_kv_block_bytes(&engine_info(r->host)->kv);
    r->pool = (uint8_t *)mem_try_aligned(64, bytes);
    r->host_logits = (float *)mem_try_alloc(RIG_BATCH * vocab * sizeof(float));
    r->device_logits = (float *)mem_try_alloc(RIG_BATCH * vocab * sizeof(float));
    assert_non_null(r->pool);
    assert_non_null(r->host_logits);
    assert_non_null(r->device_logits);
    memset(r->pool, 0xff, bytes);
    assert_int_equal(engine_attach_kv(r->host, (void **)&r->pool, RIG_BLOCKS), ERR_OK);
    cpu_engine_watch_logits(r->host, r->host_logits);
    cuda_engine_watch_logits(r->device, r->device_logits);
    engine_sampling_defaults(&r->greedy);
}

static inline void rig_close(struct rig *r)
{
    engine_close(r->device);
    engine_close(r->host);
    mem_free(r->pool);
    mem_free(r->host_logits);
    mem_free(r->device_logits);
    fixture_remove(r->dir);
}

/* With room for `more` tokens beside the n random ones. */
static inline struct seq seq_random_room(struct rig *r, uint32_t n, uint32_t more)
{
    struct seq s = {.n = n};

    for (uint32_t i = 0; i < n; i++)
        s.tokens[i] = (int32_t)rig_random(engine_info(r->host)->vocab);
    for (uint32_t i = 0; i * r->bt < n + more; i++) {
        assert_true(r->next_block < RIG_BLOCKS);
        s.blocks[i] = RIG_BLOCKS - 1 - r->next_block++;
    }
    return s;
}

static inline struct seq seq_random(struct rig *r, uint32_t n)
{
    return seq_random_room(r, n, 32);
}

static inline struct engine_slot slot_of(const struct rig *r, const struct seq *s, uint32_t take)
{
    return (struct engine_slot){.tokens = s->tokens + s->at,
                                .n_tokens = take,
                                .position = s->at,
                                .blocks = s->blocks,
                                .n_blocks = (s->at + take + r->bt - 1) / r->bt,
                                .sample = s->at + take == s->n,
                                .sampling = &r->greedy,
                                .sample_index = s->n};
}

/* Relative L2 distance. */
static inline double rig_off(const float *got, const float *want, size_t n)
{
    double wrong = 0, size = 0;

    for (size_t i = 0; i < n; i++) {
        wrong += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
    }
    return sqrt(wrong / size);
}

/* The token must be one that could be the largest of the host's logits, off by no more than the rest. */
static inline void rig_check_token(const float *host, size_t vocab, int32_t token, double off)
{
    double size = 0, most = -INFINITY;

    for (size_t i = 0; i < vocab; i++) {
        size += (double)host[i] * (double)host[i];
        most = fmax(most, (double)host[i]);
    }
    assert_true(token >= 0 && (size_t)token < vocab);
    assert_true((double)host[token] >= most - 8 * off * sqrt(size / (double)vocab) - 1e-6);
}

/* One step of up to take[i] tokens of each sequence on both; the host's choice goes on.  Returns the largest
 * distance of the sampled rows' logits. */
static inline double rig_step_each(struct rig *r, struct seq *seqs, const uint32_t *take,
                                   uint32_t n, uint32_t group_layers, engine_layers_fn fn,
                                   void *arg)
{
    struct engine_slot host[RIG_BATCH], device[RIG_BATCH];
    size_t vocab = engine_info(r->host)->vocab;
    double worst = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t left = seqs[i].n - seqs[i].at;
        host[i] = device[i] = slot_of(r, &seqs[i], take[i] < left ? take[i] : left);
    }
    assert_int_equal(engine_step(r->host, host, n, 0, NULL, NULL), ERR_OK);
    assert_int_equal(engine_step(r->device, device, n, group_layers, fn, arg), ERR_OK);
    for (uint32_t i = 0; i < n; i++) {
        double off;

        assert_int_equal(host[i].result, ERR_OK);
        assert_int_equal(device[i].result, ERR_OK);
        seqs[i].at += host[i].n_tokens;
        if (!host[i].sample)
            continue;
        off = rig_off(r->device_logits + i * vocab, r->host_logits + i * vocab, vocab);
        rig_check_token(r->host_logits + i * vocab, vocab, device[i].out.token, off);
        worst = fmax(worst, isfinite(off) ? off : INFINITY);
        seqs[i].tokens[seqs[i].n++] = host[i].out.token;
    }
    return worst;
}

static inline double rig_step(struct rig *r, struct seq *seqs, uint32_t n, uint32_t take)
{
    uint32_t each[RIG_BATCH];

    for (uint32_t i = 0; i < n; i++)
        each[i] = take;
    return rig_step_each(r, seqs, each, n, 0, NULL, NULL);
}

/* The cuda backend alone with random weights of this shape. */
static inline enum err rig_open_random(const struct fixture_shape *shape, struct engine_config c,
                                       struct err_msg *msg, struct engine **out)
{
    char dir[FIXTURE_PATH], text[4096];
    enum err err;

    fixture_dir(dir);
    fixture_config(shape, text, sizeof(text));
    fixture_write(dir, "config.json", text, strlen(text));
    c.model_dir = dir;
    err = engine_open_backend(&engine_backend_cuda, &c, msg, out);
    fixture_remove(dir);
    return err;
}

static inline int rig_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n)
{
    struct err_msg msg = {0};
    int failed;

    if (gpu_count(&msg) == 0) {
        printf("SKIP: no CUDA device: %s\n", msg.text);
        return 77;
    }
    rig_state = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    cuda_engine_time_products(false);
    log_setup(LOG_LEVEL_WARN, LOG_FORMAT_TEXT, "test");
    printf("seed %llu\n", (unsigned long long)rig_state);
    failed = _cmocka_run_group_tests(argv[0], tests, n, NULL, NULL);
    if (failed != 0) { /* what a failed test left open would hold the exit handlers */
        fflush(NULL);
        _exit(1);
    }
    return 0;
}

#endif
