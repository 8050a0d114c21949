/* tests/unit/engine_sim_test.c - the sim backend: its closed form, that damaged KV never goes unseen,
 * and that its modelled time passes as the profile says. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sim/engine_sim.h"
#include "engine/sim/engine_sim_profile.h"
#include "tests/unit/cpu_time.h"

enum { POOL_BLOCKS = 512, PROMPT = 70, MANY = 4096 };

struct rig {
    struct engine *engine;
    uint8_t *pool;
    size_t block_bytes;
    struct engine_sim_range range;
    char profile_path[64];
};

static struct engine_sampling greedy;

/* Open a sim engine with a profile given as text. */
static void rig_open(struct rig *r, const char *profile, const char *model_dir,
                     uint32_t block_tokens)
{
    struct engine_config c = {.backend = "sim",
                              .model_dir = model_dir,
                              .block_tokens = block_tokens,
                              .max_step_tokens = MANY};
    struct err_msg msg = {""};
    int fd;

    memset(r, 0, sizeof(*r));
    if (profile != NULL) {
        snprintf(r->profile_path, sizeof(r->profile_path), "/tmp/baton_sim_XXXXXX");
        fd = mkstemp(r->profile_path);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, profile, strlen(profile)), strlen(profile));
        close(fd);
        c.sim_profile = r->profile_path;
    }
    if (engine_open(&c, &msg, &r->engine) != ERR_OK)
        fail_msg("%s", msg.text);
    r->block_bytes = wire_kv_block_bytes(&engine_info(r->engine)->kv);
    r->pool = mem_try_aligned(64, POOL_BLOCKS * r->block_bytes);
    assert_non_null(r->pool);
    memset(r->pool, 0x5a, POOL_BLOCKS * r->block_bytes);
    assert_int_equal(engine_attach_kv(r->engine, (void *[]){r->pool}, POOL_BLOCKS), ERR_OK);
    r->range = engine_sim_range(engine_info(r->engine)->vocab, NULL, 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->engine);
    mem_free(r->pool);
    if (r->profile_path[0] != '\0')
        unlink(r->profile_path);
}

static uint8_t *block_at(const struct rig *r, uint32_t block)
{
    return r->pool + block * r->block_bytes;
}

/* One sequence in one engine. */
struct seq {
    int32_t tokens[1024];
    uint32_t n;     /* tokens known */
    uint32_t in_kv; /* of them in the KV */
    uint32_t n_prompt;
    uint32_t blocks[POOL_BLOCKS];
    uint32_t n_blocks;
};

static void seq_init(struct seq *q, uint32_t n_prompt, uint32_t salt, uint32_t first_block)
{
    memset(q, 0, sizeof(*q));
    for (uint32_t i = 0; i < n_prompt; i++)
        q->tokens[i] = (int32_t)((i * 7919 + salt * 104729) % 500);
    q->n = q->n_prompt = n_prompt;
    q->n_blocks = 64;
    for (uint32_t i = 0; i < q->n_blocks; i++) /* not in order, to catch an index mixed up */
        q->blocks[i] = first_block + (i * 13) % 64;
}

static struct engine_slot seq_slot(const struct seq *q, uint32_t n_new)
{
    struct engine_slot slot = {.tokens = q->tokens + q->in_kv,
                               .n_tokens = n_new,
                               .position = q->in_kv,
                               .blocks = q->blocks,
                               .n_blocks = q->n_blocks,
                               .sample = q->in_kv + n_new == q->n,
                               .sampling = &greedy};

    slot.sample_index = q->n - q->n_prompt;
    return slot;
}

static void seq_accept(struct seq *q, const struct engine_slot *slot)
{
    q->in_kv += slot->n_tokens;
    if (slot->sample)
        q->tokens[q->n++] = slot->out.token;
}

static enum err run_one(struct rig *r, struct seq *q, uint32_t n_new)
{
    struct engine_slot slot = seq_slot(q, n_new);

    assert_int_equal(engine_step(r->engine, &slot, 1, 0, NULL, NULL), ERR_OK);
    if (slot.result == ERR_OK)
        seq_accept(q, &slot);
    return slot.result;
}

static void run_prompt(struct rig *r, struct seq *q, uint32_t chunk)
{
    while (q->in_kv < q->n_prompt) {
        uint32_t left = q->n_prompt - q->in_kv;

        assert_int_equal(run_one(r, q, left < chunk ? left : chunk), ERR_OK);
    }
}

static void run_decode(struct rig *r, struct seq *q, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(run_one(r, q, 1), ERR_OK);
}

static void assert_closed_form(const struct rig *r, const struct seq *q)
{
    uint64_t state = ENGINE_SIM_START;

    for (uint32_t i = 0; i < q->n; i++) {
        if (i >= q->n_prompt)
            assert_int_equal(q->tokens[i], engine_sim_next(state, r->range));
        state = engine_sim_push(state, q->tokens[i]);
    }
}

/* ---- the closed form ---------------------------------------------------------------------------- */

static size_t read_numbers(char *text, long *out, size_t max)
{
    size_t n = 0;

    for (char *at = text, *end = text; n < max; at = end) {
        out[n] = strtol(at, &end, 10);
        if (end == at)
            break;
        n++;
    }
    return n;
}

static void the_golden_file_shared_with_the_python_twin_holds(void **state)
{
    FILE *f = fopen("tests/e2e/sim_golden.txt", "r");
    char line[8192];
    int rows = 0;

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        char *prompt = strchr(line, '|'), *want = prompt != NULL ? strchr(prompt + 1, '|') : NULL;
        long head[2] = {0}, ids[512], tokens[64];
        struct engine_sim_range range;
        size_t n_ids, n_tokens;
        uint64_t chain = ENGINE_SIM_START;
        int32_t special;

        if (line[0] == '#')
            continue;
        assert_non_null(want);
        *prompt = *want = '\0';
        assert_int_equal(read_numbers(line, head, 2), 2);
        n_ids = read_numbers(prompt + 1, ids, 512);
        n_tokens = read_numbers(want + 1, tokens, 64);
        special = (int32_t)head[1];
        range = engine_sim_range((uint32_t)head[0], &special, 1);
        for (size_t i = 0; i < n_ids; i++)
            chain = engine_sim_push(chain, (int32_t)ids[i]);
        for (size_t i = 0; i < n_tokens; i++) {
            assert_int_equal(engine_sim_next(chain, range), tokens[i]);
            chain = engine_sim_push(chain, (int32_t)tokens[i]);
        }
        rows++;
    }
    fclose(f);
    assert_true(rows >= 6);
}

static void generated_ids_leave_out_bytes_and_special_tokens(void **state)
{
    static const int32_t llama3[] = {128001, 128009, 128000}, small[] = {2, 1};
    struct engine_sim_range r = engine_sim_range(128256, llama3, 3);

    (void)state;
    assert_int_equal(r.first, 300);
    assert_int_equal(r.first + r.count, 128000);
    r = engine_sim_range(512, small, 2);
    assert_int_equal(r.first, 3);
    assert_int_equal(r.first + r.count, 512);
}

static void an_engine_generates_the_closed_form_however_the_prompt_is_cut(void **state)
{
    static const uint32_t chunks[] = {1, 2, 7, 16, 17, PROMPT};

    (void)state;
    for (uint32_t bt = 1; bt <= 16; bt += 5) {
        struct rig r;

        rig_open(&r, NULL, NULL, bt);
        for (size_t k = 0; k < sizeof(chunks) / sizeof(chunks[0]); k++) {
            struct seq q;

            seq_init(&q, bt == 1 ? 20 : PROMPT, 3, 64);
            run_prompt(&r, &q, chunks[k]);
            run_decode(&r, &q, bt == 1 ? 30 : 40);
            assert_closed_form(&r, &q);
        }
        rig_close(&r);
    }
}

static void sequences_in_one_batch_do_not_touch_each_other(void **state)
{
    struct rig r;
    struct seq q[6];
    struct engine_slot slots[6];

    (void)state;
    rig_open(&r, NULL, NULL, 16);
    for (uint32_t i = 0; i < 6; i++)
        seq_init(&q[i], 5 + i * 11, i, i * 64);
    for (int step = 0; step < 60; step++) {
        for (uint32_t i = 0; i < 6; i++) {
            uint32_t left = q[i].n - q[i].in_kv;

            slots[i] = seq_slot(&q[i], left < 9 ? left : 9);
        }
        assert_int_equal(engine_step(r.engine, slots, 6, 0, NULL, NULL), ERR_OK);
        for (uint32_t i = 0; i < 6; i++) {
            assert_int_equal(slots[i].result, ERR_OK);
            seq_accept(&q[i], &slots[i]);
        }
    }
    for (uint32_t i = 0; i < 6; i++)
        assert_closed_form(&r, &q[i]);
    rig_close(&r);
}

/* ---- hand-over and damage ----------------------------------------------------------------------- */

/* Copy the blocks of a sequence into another engine, to other places. */
static void hand_over(const struct rig *from, const struct seq *q, const struct rig *to,
                      struct seq *moved)
{
    uint32_t bt = engine_info(from->engine)->kv.block_tokens;

    *moved = *q;
    for (uint32_t i = 0; i < q->n_blocks; i++)
        moved->blocks[i] = 300 + (i * 5) % 64;
    for (uint32_t i = 0; i * bt < q->in_kv; i++)
        memcpy(block_at(to, moved->blocks[i]), block_at(from, q->blocks[i]), from->block_bytes);
}

static void a_handed_over_sequence_goes_on_as_if_it_had_stayed(void **state)
{
    static const char shape[] = "kv_layers: 3\nkv_heads: 2\nkv_head_dim: 3\n";
    struct rig a, b;
    struct seq q, moved;

    (void)state;
    rig_open(&a, shape, NULL, 16);
    rig_open(&b, shape, NULL, 16);
    for (uint32_t n = 1; n < 50; n++) {
        seq_init(&q, n, n, 0);
        run_prompt(&a, &q, 8);
        hand_over(&a, &q, &b, &moved);
        run_decode(&b, &moved, 20);
        assert_closed_form(&b, &moved);
    }
    rig_close(&a);
    rig_close(&b);
}

struct damage_rig {
    struct rig a, b;
    struct seq q, other, moved;
};

/* b holds q, handed over from a, with PROMPT tokens: four full blocks and a part; a's other sequence
 * stands in blocks 64 and up of a. */
static void damage_open(struct damage_rig *d, const char *profile)
{
    rig_open(&d->a, profile, NULL, 16);
    rig_open(&d->b, profile, NULL, 16);
    seq_init(&d->q, PROMPT, 1, 0);
    seq_init(&d->other, PROMPT, 2, 64);
    run_prompt(&d->a, &d->q, MANY);
    run_prompt(&d->a, &d->other, MANY);
    hand_over(&d->a, &d->q, &d->b, &d->moved);
}

static void damage_close(struct damage_rig *d)
{
    rig_close(&d->a);
    rig_close(&d->b);
}

static void a_lost_block_is_found(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 5; i++) {
        struct damage_rig d;

        damage_open(&d, NULL);
        memset(block_at(&d.b, d.moved.blocks[i]), i % 2 ? 0 : 0x5a, d.b.block_bytes);
        assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
        damage_close(&d);
    }
}

static void a_doubled_block_is_found(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        struct damage_rig d;

        damage_open(&d, NULL);
        memcpy(block_at(&d.b, d.moved.blocks[i + 1]), block_at(&d.b, d.moved.blocks[i]),
               d.b.block_bytes);
        assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
        damage_close(&d);
    }
}

static void swapped_blocks_are_found(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 5; i++) {
        for (uint32_t j = 0; j < i; j++) {
            struct damage_rig d;
            uint32_t t;

            damage_open(&d, NULL);
            t = d.moved.blocks[i];
            d.moved.blocks[i] = d.moved.blocks[j];
            d.moved.blocks[j] = t;
            assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
            damage_close(&d);
        }
    }
}

static void a_foreign_block_is_found(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 5; i++) {
        struct damage_rig d;

        damage_open(&d, NULL);
        memcpy(block_at(&d.b, d.moved.blocks[i]), block_at(&d.a, d.other.blocks[i]),
               d.b.block_bytes);
        assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
        damage_close(&d);
    }
}

static void a_block_list_of_another_sequence_gives_other_tokens(void **state)
{
    struct damage_rig d;
    struct seq wrong;
    uint64_t right = ENGINE_SIM_START;

    (void)state;
    damage_open(&d, NULL);
    hand_over(&d.a, &d.other, &d.b, &wrong);
    memcpy(wrong.tokens, d.q.tokens, sizeof(wrong.tokens));
    for (uint32_t i = 0; i < d.q.n; i++)
        right = engine_sim_push(right, d.q.tokens[i]);
    assert_int_equal(run_one(&d.b, &wrong, 1), ERR_OK);
    assert_int_not_equal(wrong.tokens[wrong.n - 1], engine_sim_next(right, d.b.range));
    damage_close(&d);
}

/* A chunk arrives late: the block still holds what an earlier run of the same request, that went
 * another way after `common` tokens, left in it. */
static void a_stale_block_is_found(void **state)
{
    (void)state;
    for (uint32_t common = 0; common < 64; common += 21) {
        struct damage_rig d;
        struct seq old;

        damage_open(&d, NULL);
        old = d.other;
        memcpy(old.tokens, d.q.tokens, common * sizeof(int32_t));
        old.in_kv = 0;
        old.n = PROMPT;
        run_prompt(&d.a, &old, MANY);
        for (uint32_t i = common / 16; i < 4; i++) {
            memcpy(block_at(&d.b, d.moved.blocks[i]), block_at(&d.a, old.blocks[i]),
                   d.b.block_bytes);
            assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
            memcpy(block_at(&d.b, d.moved.blocks[i]), block_at(&d.a, d.q.blocks[i]),
                   d.b.block_bytes);
        }
        damage_close(&d);
    }
}

static void one_wrong_bit_in_any_layer_is_found(void **state)
{
    static const char shape[] = "kv_layers: 3\nkv_heads: 2\nkv_head_dim: 2\n";
    struct damage_rig d;

    (void)state;
    damage_open(&d, shape);
    for (size_t byte = 0; byte < d.b.block_bytes; byte++) {
        uint8_t *at = block_at(&d.b, d.moved.blocks[byte % 4]) + byte;

        *at ^= (uint8_t)(1u << byte % 8);
        assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
        *at ^= (uint8_t)(1u << byte % 8);
    }
    assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_OK);
    assert_closed_form(&d.b, &d.moved);
    damage_close(&d);
}

static void swapped_layers_are_found(void **state)
{
    struct damage_rig d;
    size_t layer;
    uint8_t *block, keep[4096];

    (void)state;
    damage_open(&d, NULL);
    layer = wire_kv_layer_bytes(&engine_info(d.b.engine)->kv);
    block = block_at(&d.b, d.moved.blocks[2]);
    memcpy(keep, block, layer);
    memmove(block, block + layer, layer);
    memcpy(block + layer, keep, layer);
    assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
    damage_close(&d);
}

static void a_wrong_position_never_goes_unseen(void **state)
{
    struct damage_rig d;
    struct seq shifted;
    uint64_t right = ENGINE_SIM_START;

    (void)state;
    damage_open(&d, NULL);
    for (uint32_t i = 0; i < d.q.n; i++)
        right = engine_sim_push(right, d.q.tokens[i]);
    shifted = d.moved; /* one token lost: its position is skipped, so its KV was never written */
    shifted.in_kv++;
    shifted.n = shifted.in_kv + 1;
    shifted.tokens[shifted.in_kv] = 9;
    assert_int_equal(run_one(&d.b, &shifted, 1), ERR_CORRUPT);
    shifted = d.moved; /* one token doubled: it overwrites the last position's neighbour */
    shifted.in_kv--;
    assert_int_equal(run_one(&d.b, &shifted, 2), ERR_OK); /* this is what was there: fine */
    assert_int_equal(shifted.tokens[shifted.n - 1], engine_sim_next(right, d.b.range));
    damage_close(&d);
}

static void a_corrupt_slot_fails_alone_and_is_not_written(void **state)
{
    struct damage_rig d;
    struct seq good;
    struct engine_slot slots[2];
    uint8_t before[4096];

    (void)state;
    damage_open(&d, NULL);
    seq_init(&good, 20, 5, 128);
    memset(block_at(&d.b, d.moved.blocks[1]), 0, d.b.block_bytes);
    memcpy(before, block_at(&d.b, d.moved.blocks[4]), d.b.block_bytes);
    slots[0] = seq_slot(&d.moved, 1);
    slots[1] = seq_slot(&good, 20);
    assert_int_equal(engine_step(d.b.engine, slots, 2, 0, NULL, NULL), ERR_OK);
    assert_int_equal(slots[0].result, ERR_CORRUPT);
    assert_int_equal(slots[1].result, ERR_OK);
    assert_memory_equal(before, block_at(&d.b, d.moved.blocks[4]), d.b.block_bytes);
    seq_accept(&good, &slots[1]);
    run_decode(&d.b, &good, 3);
    assert_closed_form(&d.b, &good);
    damage_close(&d);
}

static void a_foreign_write_into_a_running_sequence_shows_within_one_turn(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        struct damage_rig d;
        uint32_t steps = 0;

        damage_open(&d, NULL);
        run_decode(&d.b, &d.moved, 3);
        memset(block_at(&d.b, d.moved.blocks[i]), 0x77, d.b.block_bytes);
        while (run_one(&d.b, &d.moved, 1) == ERR_OK)
            assert_true(++steps <= 5); /* it has five blocks */
        damage_close(&d);
        damage_open(&d, "verify_all: 1\n");
        run_decode(&d.b, &d.moved, 3);
        memset(block_at(&d.b, d.moved.blocks[i]), 0x77, d.b.block_bytes);
        assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
        damage_close(&d);
    }
}

/* The engine has run sequences of the same length in the same blocks before: that must not make it trust
 * what a hand-over left there. */
static void a_hand_over_into_blocks_used_before_is_checked_whole(void **state)
{
    struct damage_rig d;
    struct seq before, again;

    (void)state;
    damage_open(&d, NULL);
    seq_init(&before, PROMPT, 9, 0); /* another sequence in the same blocks of b */
    memcpy(before.blocks, d.moved.blocks, sizeof(before.blocks));
    run_prompt(&d.b, &before, MANY);
    hand_over(&d.a, &d.q, &d.b, &d.moved);
    memset(block_at(&d.b, d.moved.blocks[3]), 0, d.b.block_bytes); /* not the one in turn, 1 */
    assert_int_equal(run_one(&d.b, &d.moved, 1), ERR_CORRUPT);
    /* A sequence that it computed itself, one of its blocks now in another place, never written. */
    again = d.moved;
    again.n = again.n_prompt;
    again.in_kv = 0;
    run_prompt(&d.b, &again, MANY);
    again.blocks[0] = 400; /* not the one in turn, 3 */
    assert_int_equal(run_one(&d.b, &again, 1), ERR_CORRUPT);
    damage_close(&d);
}

static void kv_of_another_vocabulary_is_found(void **state)
{
    struct rig a, b;
    struct seq q, moved;

    (void)state;
    rig_open(&a, "vocab: 100000\n", NULL, 16);
    rig_open(&b, "vocab: 600\n", NULL, 16);
    seq_init(&q, 20, 1, 0);
    run_prompt(&a, &q, MANY);
    hand_over(&a, &q, &b, &moved);
    assert_int_equal(run_one(&a, &q, 1), ERR_OK); /* a token that b cannot know */
    assert_true(q.tokens[q.in_kv - 1] >= 600);
    hand_over(&a, &q, &b, &moved);
    moved.tokens[moved.n - 1] = 5;
    assert_int_equal(run_one(&b, &moved, 1), ERR_CORRUPT);
    rig_close(&a);
    rig_close(&b);
}

/* ---- sampling ----------------------------------------------------------------------------------- */

static void stop_tokens_come_only_when_the_profile_says_so_and_not_below_min_tokens(void **state)
{
    static const int32_t stops[] = {2};
    struct engine_sampling s;
    struct rig r;
    uint32_t total = 0, runs = 300;

    (void)state;
    engine_sampling_defaults(&s);
    s.stop_ids = stops;
    s.n_stop_ids = 1;
    s.min_tokens = 4;
    rig_open(&r, "mean_output_tokens: 20\n", NULL, 16);
    for (uint32_t i = 0; i < runs; i++) {
        struct seq q;
        struct engine_slot slot;
        uint32_t n = 0;

        seq_init(&q, 3, i, 0);
        do {
            slot = seq_slot(&q, q.n - q.in_kv);
            slot.sampling = &s;
            slot.sample_index = n++;
            assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
            assert_int_equal(slot.result, ERR_OK);
            seq_accept(&q, &slot);
        } while (slot.out.token != 2 && n < 500);
        assert_true(n > 4 || slot.out.token != 2);
        total += n;
    }
    assert_in_range(total / runs, 4 + 15, 4 + 25);
    rig_close(&r);
}

static void a_stop_id_that_would_come_naturally_is_held_back_below_min_tokens(void **state)
{
    struct engine_sampling s;
    struct rig r;
    struct seq q;
    struct engine_slot slot;
    int32_t natural;

    (void)state;
    engine_sampling_defaults(&s);
    rig_open(&r, NULL, NULL, 16);
    seq_init(&q, 10, 1, 0);
    slot = seq_slot(&q, 10);
    assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
    natural = slot.out.token;
    s.stop_ids = &natural;
    s.n_stop_ids = 1;
    s.min_tokens = 1;
    slot.sampling = &s;
    assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_int_not_equal(slot.out.token, natural);
    slot.sample_index = 1;
    assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_int_equal(slot.out.token, natural);
    rig_close(&r);
}

static void log_probabilities_are_given_when_asked_for(void **state)
{
    struct engine_sampling s;
    struct rig r;
    struct seq q;
    struct engine_slot slot;

    (void)state;
    engine_sampling_defaults(&s);
    rig_open(&r, NULL, NULL, 16);
    seq_init(&q, 10, 1, 0);
    slot = seq_slot(&q, 10);
    assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_int_equal(slot.out.n_top, 0);
    assert_true(slot.out.logprob == 0);
    s.want_logprobs = true;
    s.n_top = 5;
    slot.sampling = &s;
    assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_int_equal(slot.out.n_top, 5);
    assert_int_equal(slot.out.top[0].token, slot.out.token);
    for (int i = 1; i < 5; i++) {
        assert_true(slot.out.top[i].logprob < slot.out.top[i - 1].logprob);
        assert_int_not_equal(slot.out.top[i].token, slot.out.token);
    }
    rig_close(&r);
}

/* ---- profile and time --------------------------------------------------------------------------- */

static void check_refused(const char *text, const char *where, const char *what)
{
    struct engine_sim_profile p;
    struct err_msg msg = {""};

    assert_int_equal(engine_sim_profile_parse("p.yaml", text, strlen(text), &p, &msg), ERR_INVALID);
    if (strstr(msg.text, where) == NULL || strstr(msg.text, what) == NULL)
        fail_msg("'%s' names neither %s nor %s", msg.text, where, what);
}

static void a_profile_is_read_and_bad_lines_are_named(void **state)
{
    static const char good[] = "# comment\n\ndecode_base_ms: 7.5 # ms\r\n  kv_layers :\t8\n";
    struct engine_sim_profile p;
    struct err_msg msg;

    (void)state;
    assert_int_equal(engine_sim_profile_parse("p", good, strlen(good), &p, &msg), ERR_OK);
    assert_true(p.decode_base_ms == 7.5 && p.kv_layers == 8 && p.time_scale == 1);
    assert_int_equal(engine_sim_profile_parse("p", "", 0, &p, &msg), ERR_OK);
    check_refused("a: 1\n", "p.yaml:1", "unknown key 'a'");
    check_refused("\n\njitter: 2\n", "p.yaml:3", "0 to 0.9");
    check_refused("jitter: nan\n", "p.yaml:1", "jitter");
    check_refused("jitter:\n", "p.yaml:1", "jitter");
    check_refused("jitter: 0.1x\n", "p.yaml:1", "jitter");
    check_refused("kv_layers: 2.5\n", "p.yaml:1", "whole");
    check_refused("kv_layers: 0\n", "p.yaml:1", "1 to 1024");
    check_refused("kv_layers: 2\nkv_layers: 2\n", "p.yaml:2", "before");
    check_refused("kv_layers 2\n", "p.yaml:1", "key: value");
    check_refused("jitter: 00000000000000000000000000000000000000000000000.1\n", "p.yaml:1",
                  "jitter");
    assert_int_equal(engine_sim_profile_read("/nonexistent/p.yaml", &p, &msg), ERR_NOT_FOUND);
}

static double prefill_ms(const struct engine_sim_profile *p, double n)
{
    struct engine_sim_load l = {.prefill_tokens = (uint32_t)n, .prefill_square = n * n};

    return (double)engine_sim_profile_time(p, &l, 0) / 1e6;
}

static double decode_ms(const struct engine_sim_profile *p, uint32_t slots, double context,
                        uint32_t chunk)
{
    struct engine_sim_load l = {.decode_slots = slots,
                                .decode_context = slots * context,
                                .prefill_tokens = chunk,
                                .prefill_square = (double)chunk * chunk};

    return (double)engine_sim_profile_time(p, &l, 0) / 1e6;
}

static void assert_near(double got, double want, double tolerance)
{
    if (fabs(got - want) > want * tolerance)
        fail_msg("got %.3f ms, want %.3f within %.0f %%", got, want, tolerance * 100);
}

static void the_shipped_profiles_match_the_measured_tables(void **state)
{
    static const double n[] = {128, 512, 1024, 4096, 16384, 65536, 131072};
    static const double ms8[] = {9.2, 13.7, 23.7, 91.0, 451, 3035, 9457};
    static const double ms70[] = {21.5, 38.5, 68.6, 267.9, 1135, 6150, 16550};
    struct engine_sim_profile p;
    struct err_msg msg = {""};

    (void)state;
    assert_int_equal(engine_sim_profile_read("deploy/sim/h100-8b.yaml", &p, &msg), ERR_OK);
    for (int i = 0; i < 7; i++)
        assert_near(prefill_ms(&p, n[i]), ms8[i], 0.085);
    assert_near(decode_ms(&p, 1, 1024, 0), 6.9, 0.08);
    assert_near(decode_ms(&p, 64, 4096, 0), 18.8, 0.08);
    assert_near(decode_ms(&p, 256, 1024, 0), 20.1, 0.08);
    assert_near(decode_ms(&p, 64, 2048, 0), 13.4, 0.08);
    assert_near(decode_ms(&p, 64, 2048, 512), 19.7, 0.08);
    assert_near(decode_ms(&p, 64, 2048, 2048), 51.1, 0.08);
    assert_int_equal(engine_sim_profile_read("deploy/sim/h100-70b-tp4.yaml", &p, &msg), ERR_OK);
    for (int i = 0; i < 7; i++)
        assert_near(prefill_ms(&p, n[i]), ms70[i], 0.085);
    assert_near(decode_ms(&p, 16, 16384, 0), 24.0, 0.08);
    assert_near(decode_ms(&p, 64, 2048, 512), 45.3, 0.08);
    assert_near(decode_ms(&p, 64, 2048, 2048), 141.8, 0.08);
}

static void jitter_is_bounded_centred_and_repeatable(void **state)
{
    struct engine_sim_profile p;
    struct engine_sim_load l = {.decode_slots = 1};
    double sum = 0, low = 1e9, high = 0;

    (void)state;
    engine_sim_profile_defaults(&p);
    p.decode_base_ms = 10;
    p.jitter = 0.2;
    p.jitter_seed = 5;
    for (uint64_t step = 0; step < 10000; step++) {
        double ms = (double)engine_sim_profile_time(&p, &l, step) / 1e6;

        assert_true(engine_sim_profile_time(&p, &l, step) == engine_sim_profile_time(&p, &l, step));
        sum += ms;
        low = ms < low ? ms : low;
        high = ms > high ? ms : high;
    }
    assert_true(low >= 8 && low < 8.1 && high <= 12 && high > 11.9);
    assert_near(sum / 10000, 10, 0.01);
}

struct layer_log {
    uint64_t start, at[8];
    uint32_t first[8], n[8], count;
};

static void on_layers(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    struct layer_log *log = arg;

    assert_int_equal(ready, 0);
    assert_true(log->count < 8);
    log->at[log->count] = clock_now_ns() - log->start;
    log->first[log->count] = first;
    log->n[log->count++] = n;
}

static void layers_are_reported_while_the_modelled_time_passes_and_the_cpu_is_free(void **state)
{
    struct rig r;
    struct seq q;
    struct layer_log log = {0};
    struct engine_slot slot;
    struct timespec cpu0, cpu1;

    (void)state;
    rig_open(&r, "prefill_base_ms: 40\nkv_layers: 5\n", NULL, 16);
    seq_init(&q, 30, 1, 0);
    slot = seq_slot(&q, 30);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu0);
    log.start = clock_now_ns();
    assert_int_equal(engine_step(r.engine, &slot, 1, 2, on_layers, &log), ERR_OK);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu1);
    assert_int_equal(log.count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t due = 40 * CLOCK_NS_PER_MS * (i < 2 ? 2 * (i + 1) : 5) / 5;

        assert_int_equal(log.first[i], 2 * i);
        assert_int_equal(log.n[i], i < 2 ? 2 : 1);
        assert_true(log.at[i] >= due);
        if (log.at[i] > due + 20 * CLOCK_NS_PER_MS)
            print_message("layers %u came %.1f ms late: a busy machine\n", i,
                          (double)(log.at[i] - due) / 1e6);
    }
    assert_true((cpu1.tv_sec - cpu0.tv_sec) * 1000 + (cpu1.tv_nsec - cpu0.tv_nsec) / 1000000 < 10);
    rig_close(&r);
}

static void layers_not_yet_reported_are_not_yet_written(void **state)
{
    struct rig r;
    struct seq q;
    struct engine_slot slot;
    struct layer_log log = {0};
    const uint8_t *last;

    (void)state;
    rig_open(&r, NULL, NULL, 16);
    seq_init(&q, 16, 1, 0);
    slot = seq_slot(&q, 16);
    last = block_at(&r, q.blocks[0]) + r.block_bytes - 8;
    assert_int_equal(last[0], 0x5a);
    assert_int_equal(engine_step(r.engine, &slot, 1, 1, on_layers, &log), ERR_OK);
    assert_int_equal(log.count, 4);
    assert_memory_not_equal(last, "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a", 8);
    rig_close(&r);
}

/* ---- opening ------------------------------------------------------------------------------------ */

static void a_model_directory_gives_vocabulary_and_context(void **state)
{
    const char *shared = getenv("BATON_SHARED");
    char dir[1024];
    struct rig r;
    struct seq q;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models/stories260K", shared != NULL ? shared : "../shared");
    if (access(dir, R_OK) != 0) {
        print_message("SKIPPED: no %s (set BATON_SHARED)\n", dir);
        skip();
    }
    rig_open(&r, NULL, dir, 16);
    assert_int_equal(engine_info(r.engine)->vocab, 512);
    assert_int_equal(engine_info(r.engine)->max_context, 512);
    seq_init(&q, 40, 1, 0);
    run_prompt(&r, &q, 16);
    run_decode(&r, &q, 50);
    for (uint32_t i = q.n_prompt; i < q.n; i++)
        assert_in_range(q.tokens[i], 3, 511);
    rig_close(&r);
}

static void bad_options_are_refused_with_a_reason(void **state)
{
    struct engine_config c = {.backend = "sim", .max_context = 1u << 30};
    struct err_msg msg = {""};
    struct engine *e = NULL;

    (void)state;
    assert_int_equal(engine_open(&c, &msg, &e), ERR_INVALID);
    assert_non_null(strstr(msg.text, "max_context"));
    c.max_context = 0;
    c.sim_profile = "/nonexistent.yaml";
    assert_int_equal(engine_open(&c, &msg, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "/nonexistent.yaml"));
    assert_null(e);
}

static void opening_survives_every_failed_allocation(void **state)
{
    struct engine_config c = {.backend = "sim"};
    size_t live = mem_live();
    static uint8_t pool[1024] __attribute__((aligned(64)));

    (void)state;
    for (long n = 0;; n++) {
        struct engine *e = NULL;
        enum err err;

        mem_fail_at(n);
        err = engine_open(&c, NULL, &e);
        if (err == ERR_OK)
            err = engine_attach_kv(e, (void *[]){pool}, 1);
        mem_fail_at(-1);
        engine_close(e);
        assert_int_equal(mem_live(), live);
        if (err == ERR_OK)
            break;
        assert_int_equal(err, ERR_NOMEM);
        assert_true(n < 100);
    }
}

/* Prints what a step costs; it fails only far from what it should be. */
static void steps_at_zero_modelled_time_cost_next_to_nothing(void **state)
{
    static struct seq q[64];
    static struct engine_slot slots[64];
    struct rig r;
    uint64_t t0, decode = 0, prefill = 0;
    struct seq long_prompt;

    (void)state;
    rig_open(&r, NULL, NULL, 16);
    for (uint32_t i = 0; i < 64; i++) {
        seq_init(&q[i], 60, i, 0);
        for (uint32_t b = 0; b < 8; b++)
            q[i].blocks[b] = i * 8 + b;
        q[i].n_blocks = 8;
        run_prompt(&r, &q[i], 60);
    }
    for (int step = 0; step < 60; step++) {
        for (uint32_t i = 0; i < 64; i++)
            slots[i] = seq_slot(&q[i], 1);
        t0 = cpu_time_ns();
        assert_int_equal(engine_step(r.engine, slots, 64, 0, NULL, NULL), ERR_OK);
        decode += cpu_time_ns() - t0;
        for (uint32_t i = 0; i < 64; i++)
            seq_accept(&q[i], &slots[i]);
    }
    for (int round = 0; round < 50; round++) {
        struct engine_slot slot;

        seq_init(&long_prompt, 1000, 1, 0);
        slot = seq_slot(&long_prompt, 1000);
        t0 = cpu_time_ns();
        assert_int_equal(engine_step(r.engine, &slot, 1, 0, NULL, NULL), ERR_OK);
        prefill += cpu_time_ns() - t0;
    }
    print_message("decode step of 64: %.1f us, prefill of 1,000 tokens: %.1f us\n",
                  (double)decode / 60e3, (double)prefill / 50e3);
    assert_true(decode / 60 < 5 * CLOCK_NS_PER_MS && prefill / 50 < 5 * CLOCK_NS_PER_MS);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_golden_file_shared_with_the_python_twin_holds),
        cmocka_unit_test(generated_ids_leave_out_bytes_and_special_tokens),
        cmocka_unit_test(an_engine_generates_the_closed_form_however_the_prompt_is_cut),
        cmocka_unit_test(sequences_in_one_batch_do_not_touch_each_other),
        cmocka_unit_test(a_handed_over_sequence_goes_on_as_if_it_had_stayed),
        cmocka_unit_test(a_lost_block_is_found),
        cmocka_unit_test(a_doubled_block_is_found),
        cmocka_unit_test(swapped_blocks_are_found),
        cmocka_unit_test(a_foreign_block_is_found),
        cmocka_unit_test(a_block_list_of_another_sequence_gives_other_tokens),
        cmocka_unit_test(a_stale_block_is_found),
        cmocka_unit_test(one_wrong_bit_in_any_layer_is_found),
        cmocka_unit_test(swapped_layers_are_found),
        cmocka_unit_test(a_wrong_position_never_goes_unseen),
        cmocka_unit_test(a_corrupt_slot_fails_alone_and_is_not_written),
        cmocka_unit_test(a_foreign_write_into_a_running_sequence_shows_within_one_turn),
        cmocka_unit_test(stop_tokens_come_only_when_the_profile_says_so_and_not_below_min_tokens),
        cmocka_unit_test(a_hand_over_into_blocks_used_before_is_checked_whole),
        cmocka_unit_test(kv_of_another_vocabulary_is_found),
        cmocka_unit_test(a_stop_id_that_would_come_naturally_is_held_back_below_min_tokens),
        cmocka_unit_test(log_probabilities_are_given_when_asked_for),
        cmocka_unit_test(a_profile_is_read_and_bad_lines_are_named),
        cmocka_unit_test(the_shipped_profiles_match_the_measured_tables),
        cmocka_unit_test(jitter_is_bounded_centred_and_repeatable),
        cmocka_unit_test(layers_are_reported_while_the_modelled_time_passes_and_the_cpu_is_free),
        cmocka_unit_test(layers_not_yet_reported_are_not_yet_written),
        cmocka_unit_test(a_model_directory_gives_vocabulary_and_context),
        cmocka_unit_test(bad_options_are_refused_with_a_reason),
        cmocka_unit_test(opening_survives_every_failed_allocation),
        cmocka_unit_test(steps_at_zero_modelled_time_cost_next_to_nothing),
    };

    engine_sampling_defaults(&greedy);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
