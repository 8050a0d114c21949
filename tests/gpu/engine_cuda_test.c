/* tests/gpu/engine_cuda_test.c - the CUDA backend: whole steps against the CPU backend, on a device or on the emulation.
 *
 * Logits are compared with those of the CPU backend, which keeps activations and KV in fp32.  Here they are rounded to
 * 16 bits after every operation: with three layers that costs about BF16_OFF or F16_OFF of the logits' size. */
#include "tests/gpu/engine_rig.h"

#include <stdatomic.h>

#include "engine/kernels/attention_decode.h"

/* Relative L2 distance of a row of logits; twice what was seen. */
static const double BF16_OFF = 2e-2, F16_OFF = 3e-3;

static double bound(const struct rig *r)
{
    return engine_info(r->device)->kv.dtype == WIRE_KV_BF16 ? BF16_OFF : F16_OFF;
}

static const struct fixture_shape shapes[] = {
    {.hidden = 192,
     .layers = 3,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 64,
     .ffn = 264,
     .vocab = 307,
     .positions = 512,
     .dtype = ENGINE_BF16},
    {.hidden = 128,
     .layers = 2,
     .heads = 6,
     .kv_heads = 1,
     .head_dim = 128,
     .ffn = 200,
     .vocab = 512,
     .positions = 300,
     .dtype = ENGINE_F16,
     .tied = true},
    {.hidden = 64,
     .layers = 2,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 64,
     .ffn = 96,
     .vocab = 100,
     .positions = 300,
     .dtype = ENGINE_BF16,
     .biases = true},
    {.hidden = 96,
     .layers = 2,
     .heads = 3,
     .kv_heads = 3,
     .head_dim = 96,
     .ffn = 128,
     .vocab = 130,
     .positions = 300,
     .dtype = ENGINE_F32},
};

static void a_prompt_and_what_follows_have_the_logits_of_the_cpu_backend(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct rig r;

        struct engine_config c = rig_config(NULL);

        c.block_tokens = 16u << i;
        rig_open(&r, &shapes[i], &c);
        struct seq s = seq_random(&r, 37);
        double off = rig_step(&r, &s, 1, 37);
        for (int step = 0; step < 6; step++) {
            double more = rig_step(&r, &s, 1, 1);
            off = more > off ? more : off;
        }
        printf("head_dim %u: off by %.2e\n", shapes[i].head_dim, off);
        assert_true(off < bound(&r));
        rig_close(&r);
    }
}

static void products_chosen_by_time_give_the_same_logits(void **state)
{
    struct rig r;
    struct seq s;
    double off, next;

    (void)state;
    cuda_engine_time_products(true);
    rig_open(&r, &shapes[3], NULL);
    cuda_engine_time_products(false);
    s = seq_random(&r, 37);
    off = rig_step(&r, &s, 1, 37);
    next = rig_step(&r, &s, 1, 1);
    assert_true(off < bound(&r) && next < bound(&r));
    rig_close(&r);
}

/* A prompt in chunks beside sequences that decode, one of which does not sample. */
static void chunks_beside_decoding_sequences_give_the_same_logits(void **state)
{
    struct rig r;
    struct seq seqs[4];
    double off = 0;

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    for (int i = 0; i < 4; i++)
        seqs[i] = seq_random(&r, i < 3 ? 5 + (uint32_t)i * 20 : 101);
    off = rig_step(&r, seqs, 2, 40);
    for (int step = 0; step < 6; step++) {
        const uint32_t take[] = {1, 1, 17, 33};
        double more = rig_step_each(&r, seqs, take, 4, 0, NULL, NULL);

        off = more > off ? more : off;
    }
    assert_true(seqs[3].n > 101);
    assert_true(off < bound(&r));
    rig_close(&r);
}

/* Logits of the last row of `tokens` after feeding them in chunks. */
static void feed(struct rig *r, const struct seq *prompt, uint32_t chunk, float *logits)
{
    struct seq s = *prompt;

    while (s.at < s.n) {
        struct engine_slot slot = slot_of(r, &s, s.n - s.at < chunk ? s.n - s.at : chunk);

        assert_int_equal(engine_step(r->device, &slot, 1, 0, NULL, NULL), ERR_OK);
        s.at += slot.n_tokens;
    }
    memcpy(logits, r->device_logits, engine_info(r->device)->vocab * sizeof(float));
}

static void a_prompt_in_chunks_has_the_logits_of_the_whole_within_rounding(void **state)
{
    static const uint32_t chunks[] = {9, 16, 31, 50};
    float whole[512], cut[512];

    (void)state;
    for (int shape = 0; shape < 2; shape++) {
        struct rig r;
        struct seq s;

        rig_open(&r, &shapes[shape], NULL);
        s = seq_random(&r, 90);
        feed(&r, &s, 90, whole);
        for (int i = 0; i < 4; i++) {
            feed(&r, &s, chunks[i], cut);
            assert_true(rig_off(cut, whole, shapes[shape].vocab) < bound(&r));
        }
        rig_close(&r);
    }
}

/* ---- batches and graphs ---- */

static void nothing_done(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    (void)arg, (void)first, (void)n, (void)ready;
}

/* Reports of layers need a step that is enqueued kernel by kernel, so it stands beside the recorded one. */
static void a_recorded_step_gives_the_bits_of_one_that_is_not(void **state)
{
    struct rig r;
    struct seq seqs[RIG_BATCH];
    float recorded[RIG_BATCH * 307];

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    for (int i = 0; i < RIG_BATCH; i++)
        seqs[i] = seq_random_room(&r, 1 + (uint32_t)i * 5, 12);
    for (uint32_t i = 0; i < RIG_BATCH; i++)
        rig_step(&r, &seqs[i], 1, 80);
    /* Buckets of 1, 2, 4, 8 and 12, with and without rows that fill them. */
    for (uint32_t n = 1; n <= RIG_BATCH; n += n < 4 ? 1 : 4) {
        struct engine_slot slots[RIG_BATCH];
        size_t bytes = n * 307 * sizeof(float);

        for (uint32_t i = 0; i < n; i++)
            slots[i] = slot_of(&r, &seqs[RIG_BATCH - n + i], 1);
        assert_int_equal(engine_step(r.device, slots, n, 0, NULL, NULL), ERR_OK);
        memcpy(recorded, r.device_logits, bytes);
        assert_int_equal(engine_step(r.device, slots, n, 1, nothing_done, NULL), ERR_OK);
        assert_memory_equal(recorded, r.device_logits, bytes);
    }
    rig_close(&r);
}

/* More heads and rows than one piece of the attention's counters holds, contexts of two splits, and the batch grows. */
static void long_contexts_in_growing_batches_have_the_logits_of_the_cpu_backend(void **state)
{
    const struct fixture_shape shape = {.hidden = 64,
                                        .layers = 1,
                                        .heads = 8,
                                        .kv_heads = 8,
                                        .head_dim = 64,
                                        .ffn = 64,
                                        .vocab = 100,
                                        .positions = 512,
                                        .dtype = ENGINE_BF16};
    struct rig r;
    struct seq seqs[RIG_BATCH];
    double off = 0;

    (void)state;
    rig_open(&r, &shape, NULL);
    for (uint32_t i = 0; i < RIG_BATCH; i++) {
        seqs[i] = seq_random_room(&r, i == 0 ? 300 : 30, i == 0 ? 20 : 16);
        while (seqs[i].at < seqs[i].n - 1)
            rig_step(&r, &seqs[i], 1,
                     seqs[i].n - 1 - seqs[i].at < 90 ? seqs[i].n - 1 - seqs[i].at : 90);
    }
    for (uint32_t n = 1; n <= RIG_BATCH; n++) {
        double more = rig_step(&r, seqs, n, 1);
        off = more > off ? more : off;
    }
    assert_true(off < bound(&r));
    rig_close(&r);
}

static void a_sequence_has_the_same_logits_in_company(void **state)
{
    struct rig r;
    struct seq seqs[3];
    float alone[307];

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    for (int i = 0; i < 3; i++) {
        seqs[i] = seq_random(&r, 20 + (uint32_t)i * 13);
        rig_step(&r, &seqs[i], 1, 80);
    }
    struct engine_slot slots[3];
    for (int i = 0; i < 3; i++)
        slots[i] = slot_of(&r, &seqs[i], 1);
    assert_int_equal(engine_step(r.device, slots, 1, 0, NULL, NULL), ERR_OK);
    memcpy(alone, r.device_logits, sizeof(alone));
    assert_int_equal(engine_step(r.device, slots, 3, 0, NULL, NULL), ERR_OK);
    assert_true(rig_off(r.device_logits, alone, 307) < bound(&r));
    rig_close(&r);
}

/* ---- sampling ---- */

static void drawn_tokens_and_logprobs_are_those_of_the_host_for_the_same_logits(void **state)
{
    struct rig r;
    struct seq s;
    struct engine_slot slots[3];
    struct engine_sampling draw, probs;
    void *scratch = mem_try_alloc(engine_sample_scratch_bytes(307));
    float logits[307];

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    s = seq_random(&r, 30);
    rig_step(&r, &s, 1, 80);
    engine_sampling_defaults(&draw);
    draw.temperature = 0.9f;
    draw.top_p = 0.8f;
    draw.top_k = 40;
    probs = draw;
    probs.want_logprobs = true;
    probs.n_top = 5;
    for (uint32_t i = 0; i < 12; i++) {
        struct engine_sampled want = {.token = 0};

        draw.seed = probs.seed = rig_random(1000);
        for (int k = 0; k < 3; k++)
            slots[k] = slot_of(&r, &s, 1);
        slots[0].sampling = &draw;
        slots[1].sampling = &probs;
        slots[0].sample_index = slots[1].sample_index = i;
        /* the same rows thrice: they write the same KV */
        assert_int_equal(engine_step(r.device, slots, 2, 0, NULL, NULL), ERR_OK);
        memcpy(logits, r.device_logits + 307, sizeof(logits));
        engine_sample(logits, 307, &probs, NULL, i, scratch, &want);
        assert_int_equal(slots[0].out.token, want.token);
        assert_int_equal(slots[1].out.token, want.token);
        assert_int_equal(slots[1].out.n_top, 5);
        assert_memory_equal(&slots[1].out, &want, sizeof(want));
        assert_int_equal(slots[0].out.n_top, 0);
    }
    mem_free(scratch);
    rig_close(&r);
}

static void a_banned_token_is_not_sampled(void **state)
{
    struct rig r;
    struct seq s;
    struct engine_sampling no = {0};
    int32_t first;

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    s = seq_random(&r, 30);
    struct engine_slot slot = slot_of(&r, &s, 30);
    assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_OK);
    first = slot.out.token;
    engine_sampling_defaults(&no);
    no.bias = &(struct engine_bias){first, -100};
    no.n_bias = 1;
    slot.sampling = &no;
    assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_true(slot.out.token != first);
    rig_close(&r);
}

/* ---- blocks ---- */

static void parked_blocks_come_back_elsewhere(void **state)
{
    struct rig r;
    struct seq s;
    float before[307];
    size_t bytes;
    uint8_t *parked;

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    s = seq_random(&r, 40);
    rig_step(&r, &s, 1, 80);
    struct engine_slot slot = slot_of(&r, &s, 1);
    assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_OK);
    memcpy(before, r.device_logits, sizeof(before));
    bytes = wire_kv_block_bytes(&engine_info(r.device)->kv);
    parked = mem_try_alloc(bytes);
    assert_int_equal(engine_kv_copy(r.device, RIG_BLOCKS, parked, ENGINE_KV_OUT), ERR_INVALID);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(engine_kv_copy(r.device, s.blocks[i], parked, ENGINE_KV_OUT), ERR_OK);
        assert_int_equal(engine_kv_copy(r.device, i, parked, ENGINE_KV_IN), ERR_OK);
        memset(parked, 0xff, bytes);
        assert_int_equal(engine_kv_copy(r.device, s.blocks[i], parked, ENGINE_KV_IN), ERR_OK);
        s.blocks[i] = i;
    }
    slot = slot_of(&r, &s, 1);
    assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_memory_equal(before, r.device_logits, sizeof(before));
    mem_free(parked);
    rig_close(&r);
}

struct job {
    struct kv_memory_job job;
    struct kv_memory_run runs[8];
    atomic_int done; /* 1 + -err */
};

static void on_job(struct kv_memory_job *job, enum err err)
{
    atomic_store(&((struct job *)job)->done, 1 - (int)err);
}

static enum err job_wait(struct job *j)
{
    uint64_t until = clock_now_ns() + 20 * CLOCK_NS_PER_S;

    while (atomic_load(&j->done) == 0 && clock_now_ns() < until)
        usleep(200);
    assert_int_not_equal(atomic_load(&j->done), 0);
    return (enum err)(1 - atomic_load(&j->done));
}

/* The prefill side: layers that are sent as soon as they are final. */
struct sending {
    struct rig *r;
    const struct seq *s;
    uint8_t *host;
    struct job *jobs;
    uint32_t n, layers;
};

static void send_layers(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    struct sending *g = arg;
    const struct wire_kv_layout *kv = &engine_info(g->r->device)->kv;
    size_t layer = wire_kv_layer_bytes(kv), block = wire_kv_block_bytes(kv);
    const struct kv_memory *m = engine_kv_memory(g->r->device);
    struct job *j = &g->jobs[g->n++];

    assert_true(ready != 0);
    assert_int_equal(first, g->layers);
    g->layers += n;
    *j = (struct job){
        .job = {.runs = j->runs, .n_runs = 3, .host = g->host, .ready = ready, .done = on_job}};
    for (uint32_t i = 0; i < 3; i++)
        j->runs[i] = (struct kv_memory_run){.at = g->s->blocks[i] * block + first * layer,
                                            .host = i * block + first * layer,
                                            .len = n * layer,
                                            .canonical = first * layer,
                                            .salt = 7 + i};
    assert_int_equal(m->copy_out(m->arg, &j->job), ERR_OK);
}

static void layers_leave_when_they_are_final_and_arrive_whole(void **state)
{
    struct rig r;
    struct seq s;
    struct job jobs[3] = {{.done = 0}}, in = {.done = 0};
    struct sending g = {.r = &r, .s = &s, .jobs = jobs};
    const struct kv_memory *m;
    struct err_msg msg;
    uint64_t digest = 0, sum = 0;

    (void)state;
    rig_open(&r, &shapes[0], NULL);
    m = engine_kv_memory(r.device);
    size_t block = wire_kv_block_bytes(&engine_info(r.device)->kv);
    uint8_t *direct = mem_try_alloc(block);
    s = seq_random_room(&r, 48, 0);
    g.host = mem_try_aligned(4096, 3 * block);
    assert_int_equal(m->pin(m->arg, g.host, 3 * block, &msg), ERR_OK);
    for (int round = 0; round < 3;
         round++) { /* stale blocks of the round before are not the new ones */
        for (uint32_t i = 0; i < s.n; i++)
            s.tokens[i] = (int32_t)rig_random(307);
        g.n = g.layers = 0;
        digest = sum = 0;
        struct engine_slot slot = slot_of(&r, &s, 48);
        assert_int_equal(engine_step(r.device, &slot, 1, 2, send_layers, &g), ERR_OK);
        assert_int_equal(g.n, 2); /* layers 0, 1 and layer 2 */
        assert_int_equal(g.layers, 3);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(job_wait(&jobs[i]), ERR_OK);
            digest += jobs[i].job.digest;
        }
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(engine_kv_copy(r.device, s.blocks[i], direct, ENGINE_KV_OUT), ERR_OK);
            assert_memory_equal(direct, g.host + i * block, block);
            sum += wire_kv_digest(direct, block, 0, 7 + i);
        }
        assert_true(digest == sum);
    }
    /* And in again, to other blocks. */
    in.job = (struct kv_memory_job){.runs = in.runs, .n_runs = 3, .host = g.host, .done = on_job};
    for (uint32_t i = 0; i < 3; i++)
        in.runs[i] =
            (struct kv_memory_run){.at = i * block, .host = i * block, .len = block, .salt = 7 + i};
    assert_int_equal(m->copy_in(m->arg, &in.job), ERR_OK);
    assert_int_equal(job_wait(&in), ERR_OK);
    assert_true(in.job.digest == sum);
    assert_int_equal(engine_kv_copy(r.device, 2, direct, ENGINE_KV_OUT), ERR_OK);
    assert_memory_equal(direct, g.host + 2 * block, block);
    atomic_store(&in.done, 0);
    assert_int_equal(m->digest(m->arg, &in.job), ERR_OK);
    assert_int_equal(job_wait(&in), ERR_OK);
    assert_true(in.job.digest == sum);
    m->unpin(m->arg, g.host, 3 * block);
    mem_free(g.host);
    mem_free(direct);
    rig_close(&r);
}

/* ---- weights ---- */

static void weights_of_8_bits_stay_near(void **state)
{
    static const struct {
        enum engine_weights weights;
        double most;
    } kinds[] = {{ENGINE_WEIGHTS_FP8, 0.15}, {ENGINE_WEIGHTS_INT8, 0.05}};
    const struct fixture_shape shape = {.hidden = 192,
                                        .layers = 2,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = 64,
                                        .ffn = 256,
                                        .vocab = 300,
                                        .positions = 256,
                                        .dtype = ENGINE_BF16};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct rig r;
        struct engine_config c = rig_config(NULL);
        struct seq s;
        double off, next;

        c.weights = kinds[i].weights;
        rig_open(&r, &shape, &c);
        s = seq_random(&r, 40);
        off = rig_step(&r, &s, 1, 40);
        next = rig_step(&r, &s, 1, 1);
        printf("weights %d: off by %.3f, %.3f\n", (int)kinds[i].weights, off, next);
        assert_true(off < kinds[i].most && next < kinds[i].most);
        assert_true(off > 1e-3); /* they are rounded */
        rig_close(&r);
    }
}

static enum err open_random(uint64_t seed, uint32_t kv_blocks, struct err_msg *msg,
                            struct engine **out)
{
    struct engine_config c = rig_config(NULL);

    c.random_seed = seed;
    c.kv_blocks = kv_blocks;
    return rig_open_random(&shapes[0], c, msg, out);
}

#ifndef GPU_EMULATED /* takes as long there as all others together */
/* On its way to 8 bits a matrix that is larger than the work space reaches into what lies behind it. */
static void rounding_a_large_matrix_leaves_the_counters_of_attention_at_zero(void **state)
{
    const struct fixture_shape shape = {.hidden = 8192,
                                        .layers = 1,
                                        .heads = 1,
                                        .kv_heads = 1,
                                        .head_dim = 64,
                                        .ffn = 2064,
                                        .vocab = 8,
                                        .positions = 128,
                                        .dtype = ENGINE_BF16};
    struct engine_config c = rig_config(NULL);
    struct engine *e;
    struct err_msg msg = {""};
    uint32_t *counters;

    (void)state;
    c.random_seed = 5;
    c.weights = ENGINE_WEIGHTS_INT8;
    c.kv_blocks = 4096;
    if (rig_open_random(&shape, c, &msg, &e) != ERR_OK)
        fail_msg("%s", msg.text);
    struct cuda_rank *r = &((struct cuda_engine *)e)->ranks[0];
    size_t n = ATTENTION_DECODE_MAX_ROWS, bytes = n * sizeof(*counters);
    assert_true((uint8_t *)r->attend_scratch < r->arena.base + r->arena.offset[CUDA_WORK] +
                                                   cuda_weights_scratch_bytes(&r->weights));
    assert_int_equal(gpu_host_alloc(r->gpu, bytes, (void **)&counters), ERR_OK);
    assert_int_equal(gpu_copy(counters, r->attend_scratch, bytes, GPU_TO_HOST, r->stream), ERR_OK);
    assert_int_equal(gpu_stream_wait(r->stream, clock_now_ns() + 60 * CLOCK_NS_PER_S), ERR_OK);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(counters[i], 0);
    gpu_host_free(r->gpu, counters);
    engine_close(e);
}
#endif

static void random_weights_need_no_files_and_are_those_of_their_seed(void **state)
{
    struct engine *e;
    struct err_msg msg;
    struct engine_sampling greedy;
    int32_t tokens[20], got[3];
    float logits[307];
    uint32_t blocks[2] = {3, 1};

    (void)state;
    engine_sampling_defaults(&greedy);
    for (int i = 0; i < 20; i++)
        tokens[i] = (int32_t)rig_random(307);
    for (int i = 0; i < 3; i++) {
        struct engine_slot slot = {.tokens = tokens,
                                   .n_tokens = 20,
                                   .blocks = blocks,
                                   .n_blocks = 2,
                                   .sample = true,
                                   .sampling = &greedy};

        assert_int_equal(open_random(i < 2 ? 5 : 6, 40, &msg, &e), ERR_OK);
        cuda_engine_watch_logits(e, logits);
        assert_int_equal(engine_step(e, &slot, 1, 0, NULL, NULL), ERR_OK);
        got[i] = slot.out.token;
        for (int k = 0; k < 307; k++)
            assert_true(isfinite(logits[k]) && fabsf(logits[k]) < 30);
        engine_close(e);
    }
    assert_int_equal(got[0], got[1]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_and_what_follows_have_the_logits_of_the_cpu_backend),
        cmocka_unit_test(products_chosen_by_time_give_the_same_logits),
        cmocka_unit_test(chunks_beside_decoding_sequences_give_the_same_logits),
        cmocka_unit_test(a_prompt_in_chunks_has_the_logits_of_the_whole_within_rounding),
        cmocka_unit_test(a_recorded_step_gives_the_bits_of_one_that_is_not),
        cmocka_unit_test(long_contexts_in_growing_batches_have_the_logits_of_the_cpu_backend),
        cmocka_unit_test(a_sequence_has_the_same_logits_in_company),
        cmocka_unit_test(drawn_tokens_and_logprobs_are_those_of_the_host_for_the_same_logits),
        cmocka_unit_test(a_banned_token_is_not_sampled),
        cmocka_unit_test(parked_blocks_come_back_elsewhere),
        cmocka_unit_test(layers_leave_when_they_are_final_and_arrive_whole),
        cmocka_unit_test(weights_of_8_bits_stay_near),
#ifndef GPU_EMULATED
        cmocka_unit_test(rounding_a_large_matrix_leaves_the_counters_of_attention_at_zero),
#endif
        cmocka_unit_test(random_weights_need_no_files_and_are_those_of_their_seed),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
