/* tests/gpu/engine_cuda_trouble_test.c - the CUDA backend where something is wrong: the emulated device fails or hangs,
 * memory is too small, a model or an option is none for it. */
#include "tests/gpu/engine_rig.h"

#include <stdatomic.h>

#include "tests/gpu/emu/gpu_emu.h"

static const struct fixture_shape shape = {.hidden = 64,
                                           .layers = 2,
                                           .heads = 2,
                                           .kv_heads = 1,
                                           .head_dim = 64,
                                           .ffn = 64,
                                           .vocab = 100,
                                           .positions = 128,
                                           .dtype = ENGINE_BF16};

static void a_failure_anywhere_in_a_step_breaks_the_engine(void **state)
{
    (void)state;
    for (uint32_t i = 1; i < 40; i += 3) {
        struct rig r;
        struct seq s;
        struct engine_slot slot;
        uint8_t block[1 << 16];

        rig_open(&r, &shape, NULL);
        s = seq_random(&r, 20);
        slot = slot_of(&r, &s, 20);
        gpu_emu_fail_after(i < 27 ? i : 27); /* the step has a few more pieces */
        assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_DEVICE);
        assert_non_null(strstr(gpu_trouble(), "illegal memory access"));
        assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_DEVICE);
        assert_true(wire_kv_block_bytes(&engine_info(r.device)->kv) <= sizeof(block));
        assert_int_equal(engine_kv_copy(r.device, 0, block, ENGINE_KV_OUT), ERR_DEVICE);
        rig_close(&r);
        gpu_emu_reset();
    }
}

static void a_device_that_hangs_is_given_up_at_the_deadline(void **state)
{
    (void)state;
    for (int recorded = 0; recorded < 2; recorded++) {
        struct rig r;
        struct seq s;
        struct engine_slot slot;
        uint64_t started;

        rig_open(&r, &shape, NULL);
        cuda_engine_deadline(r.device, 200 * CLOCK_NS_PER_MS);
        s = seq_random(&r, recorded ? 1 : 20);
        slot = slot_of(&r, &s, s.n);
        gpu_emu_hang_after(2);
        started = clock_now_ns();
        assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_DEVICE);
        assert_in_range((clock_now_ns() - started) / CLOCK_NS_PER_MS, 150, 5000);
        assert_int_equal(engine_step(r.device, &slot, 1, 0, NULL, NULL), ERR_DEVICE);
        rig_close(&r);
        gpu_emu_reset();
    }
}

/* ---- jobs ---- */

static atomic_int job_ended; /* 1 - err */

static void on_job(struct kv_memory_job *job, enum err err)
{
    (void)job;
    atomic_store(&job_ended, 1 - (int)err);
}

static void jobs_on_a_failed_or_hung_device_end_at_the_latest_with_it(void **state)
{
    (void)state;
    for (int hang = 0; hang < 2; hang++) {
        struct kv_memory_run run = {.len = 256};
        struct kv_memory_job job = {.runs = &run, .n_runs = 1, .done = on_job};
        const struct kv_memory *m;
        struct rig r;

        job.host = mem_try_aligned(64, 256);
        rig_open(&r, &shape, NULL);
        m = engine_kv_memory(r.device);
        atomic_store(&job_ended, 0);
        cuda_engine_deadline(r.device, 50 * CLOCK_NS_PER_MS);
        if (hang)
            gpu_emu_hang_after(1);
        else
            gpu_emu_fail_after(1);
        assert_int_equal(m->copy_out(m->arg, &job), ERR_OK);
        for (int i = 0; i < 500 && !engine_failed(r.device); i++)
            usleep(10000);
        assert_true(engine_failed(r.device)); /* though no step was asked for */
        if (hang) /* the device may still write: the buffer is not given back */
            assert_int_equal(atomic_load(&job_ended), 0);
        rig_close(&r);
        assert_int_equal(atomic_load(&job_ended), 1 - (int)ERR_DEVICE);
        mem_free(job.host);
        gpu_emu_reset();
    }
}

static void a_job_that_does_not_start_says_why(void **state)
{
    struct kv_memory_run run = {.len = 256};
    struct kv_memory_job job = {.runs = &run, .n_runs = 1, .done = on_job}, empty = {.runs = &run};
    const struct kv_memory *m;
    FILE *log = tmpfile();
    char text[4096] = "";
    enum err started, refused;
    struct rig r;
    int real;

    (void)state;
    assert_non_null(log);
    job.host = mem_try_aligned(64, 256);
    rig_open(&r, &shape, NULL);
    m = engine_kv_memory(r.device);
    gpu_emu_fail_after(1);
    atomic_store(&job_ended, 0);
    assert_int_equal(m->copy_out(m->arg, &job), ERR_OK);
    for (int i = 0; i < 20000 && atomic_load(&job_ended) == 0; i++)
        usleep(1000);
    assert_int_not_equal(atomic_load(&job_ended), 0);
    real = dup(STDERR_FILENO);
    dup2(fileno(log), STDERR_FILENO);
    started = m->copy_out(m->arg, &job);
    refused = m->copy_out(m->arg, &empty);
    dup2(real, STDERR_FILENO);
    close(real);
    assert_int_equal(started, ERR_OK);
    assert_int_equal(refused, ERR_DEVICE);
    assert_true(pread(fileno(log), text, sizeof(text) - 1, 0) > 0);
    fclose(log);
    assert_non_null(strstr(text, "why="));
    assert_non_null(strstr(text, "illegal memory access"));
    assert_non_null(strstr(text, "why=no runs"));
    rig_close(&r);
    mem_free(job.host);
    gpu_emu_reset();
}

static void copies_of_kv_go_before_the_work_of_steps(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, &shape, NULL);
    uint32_t high = gpu_emu_streams(((struct cuda_engine *)r.device)->ranks[0].gpu, true);
    rig_close(&r);
    assert_int_equal(high, 2); /* what leaves and what comes, and not the steps */
}

/* ---- opening ---- */

static enum err open_with(const struct fixture_shape *s, struct engine_config c,
                          struct err_msg *msg)
{
    char dir[FIXTURE_PATH];
    struct engine *e = NULL;
    enum err err;

    fixture_model(s, dir);
    c.model_dir = dir;
    msg->text[0] = '\0';
    err = engine_open_backend(&engine_backend_cuda, &c, msg, &e);
    engine_close(e);
    fixture_remove(dir);
    return err;
}

static void too_little_memory_says_what_is_needed_and_what_to_lower(void **state)
{
    struct err_msg msg;
    struct engine_config c = rig_config(NULL);

    (void)state;
    gpu_emu_memory(8 << 20);
    assert_int_equal(open_with(&shape, c, &msg), ERR_NOMEM);
    assert_non_null(strstr(msg.text, "MiB needed"));
    assert_non_null(strstr(msg.text, "of its 8 MiB free"));
    assert_non_null(strstr(msg.text, "--max-step-tokens"));
    gpu_emu_memory(1 << 30);
    c.kv_blocks = 1u << 20;
    assert_int_equal(open_with(&shape, c, &msg), ERR_NOMEM);
    assert_non_null(strstr(msg.text, "1048576 blocks"));
    c.kv_blocks = 0;
    c.device_memory = 0.001;
    assert_int_equal(open_with(&shape, c, &msg), ERR_NOMEM);
    assert_non_null(strstr(msg.text, "--gpu-memory"));
    gpu_emu_reset();
}

/* Without a number the pool has what is left, but no more than the largest batch can use. */
static void the_pool_gets_what_is_left(void **state)
{
    struct engine_config c = rig_config(NULL);
    struct err_msg msg = {""};
    struct engine *e;
    char dir[FIXTURE_PATH];
    uint32_t small;

    (void)state;
    fixture_model(&shape, dir);
    c.model_dir = dir;
    c.max_batch = 256;
    gpu_emu_memory(42 << 20);
    if (engine_open_backend(&engine_backend_cuda, &c, &msg, &e) != ERR_OK)
        fail_msg("%s", msg.text);
    small = engine_kv_memory(e)->n_blocks;
    assert_in_range(small, 8, 256 * 8 - 1);
    engine_close(e);
    gpu_emu_memory(1 << 30);
    assert_int_equal(engine_open_backend(&engine_backend_cuda, &c, &msg, &e), ERR_OK);
    assert_int_equal(engine_kv_memory(e)->n_blocks, 256 * 8);
    engine_close(e);
    fixture_remove(dir);
    gpu_emu_reset();
}

static void a_device_that_fails_while_opening_is_reported(void **state)
{
    struct err_msg msg;

    (void)state;
    for (uint32_t i = 1; i < 20; i += 3) {
        gpu_emu_fail_after(i);
        assert_int_equal(open_with(&shape, rig_config(NULL), &msg), ERR_DEVICE);
        assert_non_null(strstr(msg.text, "illegal memory access"));
        gpu_emu_reset();
    }
}

static void no_memory_on_the_host_is_an_error_wherever_it_strikes(void **state)
{
    struct err_msg msg;
    bool failed = true;

    (void)state;
    for (long i = 30; failed && i < 2000; i += 23) {
        size_t live = mem_live();
        enum err err;
        char dir[FIXTURE_PATH];
        struct engine_config c = rig_config(dir);
        struct engine *e = NULL;

        fixture_model(&shape, dir);
        mem_fail_at(i);
        err = engine_open_backend(&engine_backend_cuda, &c, &msg, &e);
        mem_fail_at(-1);
        failed = err != ERR_OK;
        if (failed && err != ERR_NOMEM)
            fail_msg("allocation %ld: %s: %s", i, err_name(err), msg.text);
        engine_close(e);
        fixture_remove(dir);
        assert_int_equal(mem_live(), live);
    }
    assert_false(failed);
}

static void what_the_kernels_do_not_take_is_refused_by_name(void **state)
{
    struct err_msg msg;
    struct fixture_shape odd = shape;
    struct engine_config c = rig_config(NULL);

    (void)state;
    odd.head_dim = 32;
    assert_int_equal(open_with(&odd, c, &msg), ERR_UNSUPPORTED);
    assert_non_null(strstr(msg.text, "head_dim 32"));
    odd = shape;
    odd.ffn = 60;
    assert_int_equal(open_with(&odd, c, &msg), ERR_UNSUPPORTED);
    assert_non_null(strstr(msg.text, "intermediate_size 60"));
    c.block_tokens = 24;
    assert_int_equal(open_with(&shape, c, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "blocks of 24"));
    c = rig_config(NULL);
    c.max_batch = 2000;
    assert_int_equal(open_with(&shape, c, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "max_batch is 2000"));
    c = rig_config(NULL);
    c.max_context = 4096;
    assert_int_equal(open_with(&shape, c, &msg), ERR_INVALID);
    gpu_emu_devices(0);
    assert_int_equal(open_with(&shape, rig_config(NULL), &msg), ERR_NOT_FOUND);
    gpu_emu_reset();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_anywhere_in_a_step_breaks_the_engine),
        cmocka_unit_test(a_device_that_hangs_is_given_up_at_the_deadline),
        cmocka_unit_test(jobs_on_a_failed_or_hung_device_end_at_the_latest_with_it),
        cmocka_unit_test(a_job_that_does_not_start_says_why),
        cmocka_unit_test(copies_of_kv_go_before_the_work_of_steps),
        cmocka_unit_test(too_little_memory_says_what_is_needed_and_what_to_lower),
        cmocka_unit_test(the_pool_gets_what_is_left),
        cmocka_unit_test(a_device_that_fails_while_opening_is_reported),
        cmocka_unit_test(no_memory_on_the_host_is_an_error_wherever_it_strikes),
        cmocka_unit_test(what_the_kernels_do_not_take_is_refused_by_name),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
