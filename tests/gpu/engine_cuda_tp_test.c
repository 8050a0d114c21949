/* tests/gpu/engine_cuda_tp_test.c - the CUDA backend with a model split over emulated devices. */
#include "tests/gpu/engine_rig.h"

#include <stdatomic.h>

#include "tests/gpu/emu/gpu_emu.h"

/* As in engine_cuda_test.c; sums over ranks are rounded once more each. */
static const double OFF = 2e-2;

static const struct fixture_shape shape = {.hidden = 128,
                                           .layers = 3,
                                           .heads = 8,
                                           .kv_heads = 4,
                                           .head_dim = 64,
                                           .ffn = 256,
                                           .vocab = 309,
                                           .positions = 256,
                                           .dtype = ENGINE_BF16,
                                           .biases = true};

static struct engine_config split(uint32_t tp)
{
    struct engine_config c = rig_config(NULL);

    c.tp = tp;
    return c;
}

static void a_split_model_has_the_logits_of_the_whole(void **state)
{
    static const uint32_t ranks[] = {2, 4};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct engine_config c = split(ranks[i]);
        struct rig r;
        struct seq seqs[3];
        const uint32_t take[] = {1, 1, 25};
        double off;

        gpu_emu_devices(ranks[i]);
        rig_open(&r, &shape, &c);
        assert_int_equal(engine_info(r.device)->kv.parts, ranks[i]);
        for (int k = 0; k < 3; k++)
            seqs[k] = seq_random(&r, 20 + (uint32_t)k * 16);
        off = rig_step(&r, seqs, 2, 40);
        for (int step = 0; step < 4; step++) {
            double more = rig_step_each(&r, seqs, take, 3, 0, NULL, NULL);
            off = more > off ? more : off;
        }
        for (int step = 0; step < 3; step++) { /* decode rows alone: recorded */
            double more = rig_step(&r, seqs, 3, 1);
            off = more > off ? more : off;
        }
        printf("tp %u: off by %.2e\n", ranks[i], off);
        assert_true(off < OFF);
        rig_close(&r);
        gpu_emu_reset();
    }
}

static void parts_of_blocks_are_parked_together(void **state)
{
    struct engine_config c = split(2);
    struct rig r;
    struct seq s;
    float before[309];
    uint8_t *parked;

    (void)state;
    rig_open(&r, &shape, &c);
    s = seq_random(&r, 16);
    rig_step(&r, &s, 1, 80);
    struct engine_slot slot = slot_of(&r, &s, 1);
    assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_OK);
    memcpy(before, r.device_logits, sizeof(before));
    parked = mem_try_alloc(wire_kv_block_bytes(&engine_info(r.device)->kv));
    assert_int_equal(engine_kv_copy(r.device, s.blocks[0], parked, ENGINE_KV_OUT), ERR_OK);
    assert_int_equal(engine_kv_copy(r.device, 0, parked, ENGINE_KV_IN), ERR_OK);
    s.blocks[0] = 0;
    slot = slot_of(&r, &s, 1);
    assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_OK);
    assert_memory_equal(before, r.device_logits, sizeof(before));
    mem_free(parked);
    rig_close(&r);
    gpu_emu_reset();
}

/* ---- jobs over parts ---- */

struct job {
    struct kv_memory_job job;
    struct kv_memory_run runs[2];
    atomic_int done;
};

static void on_job(struct kv_memory_job *job, enum err err)
{
    atomic_store(&((struct job *)job)->done, 1 - (int)err);
}

static void copy_first_layer(void *arg, uint32_t first, uint32_t n, uint64_t ready)
{
    struct rig *r = ((void **)arg)[0];
    struct job *j = ((void **)arg)[1];
    const struct kv_memory *m = engine_kv_memory(r->device);
    size_t half = wire_kv_layer_bytes(&engine_info(r->device)->kv) / 2;

    if (first != 0)
        return;
    assert_int_equal(n, 1);
    j->job.ready = ready;
    for (uint32_t part = 0; part < 2; part++)
        j->runs[part] =
            (struct kv_memory_run){.part = part,
                                   .at = 5 * wire_kv_part_block_bytes(&engine_info(r->device)->kv),
                                   .host = part * half,
                                   .len = half,
                                   .canonical = part * half, /* any: it is only summed */
                                   .salt = 3};
    assert_int_equal(m->copy_out(m->arg, &j->job), ERR_OK);
}

static void a_job_waits_for_the_layers_of_every_part(void **state)
{
    struct engine_config c = split(2);
    struct rig r;
    struct job j = {.done = 0};
    void *arg[2] = {&r, &j};
    uint32_t block = 5;
    uint8_t *host, *direct;
    size_t layer, part_bytes;

    (void)state;
    rig_open(&r, &shape, &c);
    layer = wire_kv_layer_bytes(&engine_info(r.device)->kv);
    part_bytes = wire_kv_part_block_bytes(&engine_info(r.device)->kv);
    host = mem_try_aligned(64, layer);
    direct = mem_try_alloc(2 * part_bytes);
    j.job = (struct kv_memory_job){.runs = j.runs, .n_runs = 2, .host = host, .done = on_job};
    struct seq s = seq_random(&r, 16);
    struct engine_slot slot = slot_of(&r, &s, 16);
    slot.blocks = &block;
    assert_int_equal(engine_step(r.device, &slot, 1, 1, copy_first_layer, arg), ERR_OK);
    for (int i = 0; i < 100000 && atomic_load(&j.done) == 0; i++)
        usleep(200);
    assert_int_equal(atomic_load(&j.done), 1);
    assert_int_equal(engine_kv_copy(r.device, block, direct, ENGINE_KV_OUT), ERR_OK);
    assert_memory_equal(host, direct, layer / 2);
    assert_memory_equal(host + layer / 2, direct + part_bytes, layer / 2);
    assert_true(j.job.digest == wire_kv_digest(host, layer / 2, 0, 3) +
                                    wire_kv_digest(host + layer / 2, layer / 2, layer / 2, 3));
    mem_free(host);
    mem_free(direct);
    rig_close(&r);
    gpu_emu_reset();
}

/* ---- trouble ---- */

/* Any piece of work of any rank may fail or hang: nobody waits longer than the deadline. */
static void trouble_of_one_rank_ends_the_step_of_all(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        struct engine_config c = split(2);
        struct rig r;
        struct seq s;
        struct engine_slot slot;
        uint64_t started;

        rig_open(&r, &shape, &c);
        cuda_engine_deadline(r.device, 300 * CLOCK_NS_PER_MS);
        s = seq_random(&r, 20);
        slot = slot_of(&r, &s, 20);
        started = clock_now_ns();
        if (i % 2 == 0)
            gpu_emu_fail_after(1 + rig_random(30));
        else
            gpu_emu_hang_after(1 + rig_random(30));
        assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_DEVICE);
        assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_DEVICE);
        assert_true(clock_now_ns() - started < 20 * CLOCK_NS_PER_S);
        rig_close(&r);
        gpu_emu_reset();
    }
}

/* Logits of a prompt with random weights. */
static void random_logits(uint32_t tp, float logits[])
{
    struct engine_config c = split(tp);
    struct engine_sampling greedy;
    struct err_msg msg = {""};
    struct engine *e;
    int32_t tokens[20];
    uint32_t blocks[2] = {3, 1};
    struct engine_slot slot = {.tokens = tokens,
                               .n_tokens = 20,
                               .blocks = blocks,
                               .n_blocks = 2,
                               .sample = true,
                               .sampling = &greedy};

    for (int i = 0; i < 20; i++)
        tokens[i] = 7 * i + 1;
    engine_sampling_defaults(&greedy);
    gpu_emu_devices(tp);
    c.random_seed = 5;
    c.kv_blocks = 40;
    if (rig_open_random(&shape, c, &msg, &e) != ERR_OK)
        fail_msg("%s", msg.text);
    cuda_engine_watch_logits(e, logits);
    assert_int_equal(engine_step(e, &slot, 1, 0, NULL, NULL), ERR_OK);
    engine_close(e);
    gpu_emu_reset();
}

static void random_weights_are_the_same_in_every_split(void **state)
{
    float whole[309], parted[309];
    double off = 0, most = 0;

    (void)state;
    random_logits(1, whole);
    random_logits(2, parted);
    for (uint32_t i = 0; i < shape.vocab; i++) {
        off = fmax(off, fabs((double)whole[i] - (double)parted[i]));
        most = fmax(most, fabs((double)whole[i]));
    }
    printf("random weights of 1 and of 2 ranks: logits up to %.2f, off by %.2e\n", most, off);
    assert_true(off < OFF * most); /* these are larger than the fixture's */
}

static void a_missing_device_ends_the_opening_of_all(void **state)
{
    struct engine_config c = split(2);
    struct engine *e;
    struct err_msg msg;
    char dir[FIXTURE_PATH];

    (void)state;
    gpu_emu_devices(1);
    fixture_model(&shape, dir);
    c.model_dir = dir;
    assert_int_equal(engine_open_backend(&engine_backend_cuda, &c, &msg, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "no device 1"));
    c.tp = 3;
    assert_int_equal(engine_open_backend(&engine_backend_cuda, &c, &msg, &e), ERR_INVALID);
    assert_non_null(strstr(msg.text, "tp 3 does not divide"));
    fixture_remove(dir);
    gpu_emu_reset();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_split_model_has_the_logits_of_the_whole),
        cmocka_unit_test(parts_of_blocks_are_parked_together),
        cmocka_unit_test(a_job_waits_for_the_layers_of_every_part),
        cmocka_unit_test(trouble_of_one_rank_ends_the_step_of_all),
        cmocka_unit_test(random_weights_are_the_same_in_every_split),
        cmocka_unit_test(a_missing_device_ends_the_opening_of_all),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
