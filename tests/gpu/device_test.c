/* Contract tests for engine/gpu.h: memory, copies, streams, events, graphs and deadlines. */
#include "tests/gpu/gpu_test.h"

#include <stdatomic.h>
#include <time.h>

enum { N = 40000 };

static uint64_t in_ms(uint64_t ms)
{
    return clock_now_ns() + ms * CLOCK_NS_PER_MS;
}

static uint8_t *random_host(void)
{
    uint8_t *p = NULL;

    TEST_OK(gpu_host_alloc(test_gpu, N, (void **)&p));
    for (int i = 0; i < N; i++)
        p[i] = (uint8_t)test_random();
    return p;
}

static void bytes_go_to_the_device_and_back_whole_and_in_rectangles(void **state)
{
    uint8_t *in = random_host(), *out = random_host(), *d = test_device(N), *e = test_device(N);

    (void)state;
    TEST_OK(gpu_copy(d, in, N, GPU_TO_DEVICE, test_stream));
    TEST_OK(gpu_copy(e, d, N, GPU_ON_DEVICE, test_stream));
    TEST_OK(gpu_copy(out, e, N, GPU_TO_HOST, test_stream));
    test_wait();
    assert_memory_equal(in, out, N);
    TEST_OK(gpu_fill(d, 7, N, test_stream));
    TEST_OK(gpu_copy_2d(d + 3, 100, in, 64, 50, 20, GPU_TO_DEVICE, test_stream));
    TEST_OK(gpu_copy(out, d, N, GPU_TO_HOST, test_stream));
    test_wait();
    for (int i = 0; i < N; i++) {
        int row = (i - 3) / 100, column = (i - 3) % 100;
        bool inside = i >= 3 && row < 20 && column < 50;
        assert_int_equal(out[i], inside ? in[row * 64 + column] : 7);
    }
    TEST_OK(gpu_copy(NULL, NULL, 0, GPU_TO_HOST, test_stream));
    test_device_free(d, N), test_device_free(e, N);
    gpu_host_free(test_gpu, in), gpu_host_free(test_gpu, out);
}

static void more_memory_than_there_is_is_refused_and_the_device_works_on(void **state)
{
    uint64_t free_bytes, total;
    void *p = NULL;

    (void)state;
    TEST_OK(gpu_memory(test_gpu, &free_bytes, &total));
    assert_true(free_bytes > 0 && free_bytes <= total);
    assert_int_equal(ERR_NOMEM, gpu_alloc(test_gpu, total * 2, &p));
    TEST_OK(gpu_alloc(test_gpu, 1 << 20, &p));
    assert_int_equal(0, (uintptr_t)p % 256);
    TEST_OK(gpu_fill(p, 1, 1 << 20, test_stream));
    test_wait();
    gpu_free(test_gpu, p);
    gpu_free(test_gpu, NULL);
    assert_string_equal(gpu_trouble(), "");
}

/* ---- order ---- */

static atomic_int gate, passed;

static void hold(void *arg)
{
    (void)arg;
    while (atomic_load(&gate) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    atomic_fetch_add(&passed, 1);
}

static void count(void *arg)
{
    (void)arg;
    atomic_fetch_add(&passed, 1);
}

static void waits_end_at_their_deadline_and_not_before_the_work(void **state)
{
    gpu_event e;
    uint64_t begun;

    (void)state;
    atomic_store(&gate, 0), atomic_store(&passed, 0);
    TEST_OK(gpu_event_create(test_gpu, false, &e));
    TEST_OK(gpu_event_query(e)); /* never recorded: nothing to wait for */
    TEST_OK(gpu_stream_call(test_stream, hold, NULL));
    TEST_OK(gpu_event_record(e, test_stream));
    assert_int_equal(ERR_TIMEOUT, gpu_event_query(e));
    begun = clock_now_ns();
    assert_int_equal(ERR_TIMEOUT, gpu_event_wait(e, in_ms(30)));
    assert_int_equal(ERR_TIMEOUT, gpu_stream_wait(test_stream, in_ms(30)));
    assert_true(clock_now_ns() - begun >= 60 * CLOCK_NS_PER_MS);
    assert_int_equal(0, atomic_load(&passed));
    atomic_store(&gate, 1);
    TEST_OK(gpu_event_wait(e, in_ms(60000)));
    assert_int_equal(1, atomic_load(&passed));
    TEST_OK(gpu_event_query(e));
    TEST_OK(gpu_stream_wait(test_stream, in_ms(60000)));
    gpu_event_destroy(e);
    gpu_event_destroy(NULL);
    assert_string_equal(gpu_trouble(), "");
}

static void a_stream_waits_for_anothers_event_and_for_nothing_else(void **state)
{
    gpu_stream other;
    gpu_event e, last;
    uint8_t *in = random_host(), *out = random_host(), *d = test_device(N);

    (void)state;
    atomic_store(&gate, 0), atomic_store(&passed, 0);
    TEST_OK(gpu_stream_create(test_gpu, true, &other));
    TEST_OK(gpu_event_create(test_gpu, false, &e));
    TEST_OK(gpu_event_create(test_gpu, false, &last));
    TEST_OK(gpu_copy(d, in, N, GPU_TO_DEVICE, test_stream));
    TEST_OK(gpu_event_record(e, test_stream));
    TEST_OK(gpu_stream_call(test_stream, hold, NULL)); /* behind the event: nobody waits for it */
    TEST_OK(gpu_stream_await(other, e));
    TEST_OK(gpu_copy(out, d, N, GPU_TO_HOST, other));
    TEST_OK(gpu_event_record(last, other));
#ifndef GPU_EMULATED /* one thread: what holds one stream holds the device */
    TEST_OK(gpu_event_wait(last, in_ms(60000)));
    assert_memory_equal(in, out, N);
#endif
    atomic_store(&gate, 1);
    TEST_OK(gpu_event_wait(last, in_ms(60000)));
    assert_memory_equal(in, out, N);
    test_wait();
    gpu_event_destroy(e), gpu_event_destroy(last);
    gpu_stream_destroy(other);
    gpu_stream_destroy(NULL);
    test_device_free(d, N);
    gpu_host_free(test_gpu, in), gpu_host_free(test_gpu, out);
}

static void time_between_events_is_the_devices(void **state)
{
    gpu_event from, to;
    void *d = test_device(N);
    float ms = -1;

    (void)state;
    TEST_OK(gpu_event_create(test_gpu, true, &from));
    TEST_OK(gpu_event_create(test_gpu, true, &to));
    TEST_OK(gpu_event_record(from, test_stream));
    TEST_OK(gpu_fill(d, 1, N, test_stream));
    TEST_OK(gpu_event_record(to, test_stream));
    TEST_OK(gpu_event_wait(to, in_ms(60000)));
    TEST_OK(gpu_event_ms(from, to, &ms));
    assert_true(ms >= 0 && ms < 60000);
    gpu_event_destroy(from), gpu_event_destroy(to);
    test_device_free(d, N);
}

/* ---- graphs ---- */

/* Two streams in one capture; host memory is read at each launch. */
static void a_graph_runs_with_each_launch_and_not_while_captured(void **state)
{
    gpu_stream side;
    gpu_event fork, join;
    gpu_graph graph = NULL;
    uint8_t *in = random_host(), *out = random_host(), *d = test_device(2 * N);

    (void)state;
    atomic_store(&passed, 0);
    TEST_OK(gpu_stream_create(test_gpu, false, &side));
    TEST_OK(gpu_event_create(test_gpu, false, &fork));
    TEST_OK(gpu_event_create(test_gpu, false, &join));
    TEST_OK(gpu_capture_begin(test_stream));
    TEST_OK(gpu_copy(d, in, N, GPU_TO_DEVICE, test_stream));
    TEST_OK(gpu_event_record(fork, test_stream));
    TEST_OK(gpu_stream_await(side, fork));
#ifndef GPU_EMULATED /* whose capture is of one stream */
    TEST_OK(gpu_copy(d + N, d, N, GPU_ON_DEVICE, side));
#else
    TEST_OK(gpu_copy(d + N, d, N, GPU_ON_DEVICE, test_stream));
#endif
    TEST_OK(gpu_event_record(join, side));
    TEST_OK(gpu_stream_await(test_stream, join));
    TEST_OK(gpu_copy(out, d + N, N, GPU_TO_HOST, test_stream));
    TEST_OK(gpu_stream_call(test_stream, count, NULL));
    TEST_OK(gpu_capture_end(test_stream, &graph));
    test_wait();
    assert_int_equal(0, atomic_load(&passed));
    for (int turn = 1; turn <= 3; turn++) {
        for (int i = 0; i < N; i++)
            in[i] = (uint8_t)test_random();
        TEST_OK(gpu_graph_launch(graph, test_stream));
        test_wait();
        assert_int_equal(turn, atomic_load(&passed));
        assert_memory_equal(in, out, N);
    }
    gpu_graph_destroy(graph);
    gpu_graph_destroy(NULL);
    gpu_event_destroy(fork), gpu_event_destroy(join);
    gpu_stream_destroy(side);
    test_device_free(d, 2 * N);
    gpu_host_free(test_gpu, in), gpu_host_free(test_gpu, out);
}

static void the_device_says_what_it_is(void **state)
{
    const struct gpu_info *i = gpu_info(test_gpu);
    struct gpu *again = NULL;
    struct err_msg msg = {""};

    (void)state;
    print_message(
        "%s, %s, sm_%u%u, %u multiprocessors, %.1f GiB, L2 %.0f MiB, %u bytes of shared memory\n",
        i->name, i->bus_id, i->major, i->minor, i->n_multiprocessors,
        (double)i->total_bytes / 0x1p30, (double)i->l2_bytes / 0x1p20, i->shared_bytes);
    assert_true(i->major >= 9 && i->n_multiprocessors > 0 && i->shared_bytes >= 99 * 1024);
    TEST_OK(gpu_open(0, &msg, &again)); /* twice is fine: two roles of one process */
    assert_string_equal(gpu_info(again)->bus_id, i->bus_id);
    gpu_close(again);
    TEST_OK(gpu_use(test_gpu));
    assert_int_equal(ERR_NOT_FOUND, gpu_open(gpu_count(&msg), &msg, &again));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_device_says_what_it_is),
        cmocka_unit_test(bytes_go_to_the_device_and_back_whole_and_in_rectangles),
        cmocka_unit_test(more_memory_than_there_is_is_refused_and_the_device_works_on),
        cmocka_unit_test(waits_end_at_their_deadline_and_not_before_the_work),
        cmocka_unit_test(a_stream_waits_for_anothers_event_and_for_nothing_else),
        cmocka_unit_test(time_between_events_is_the_devices),
        cmocka_unit_test(a_graph_runs_with_each_launch_and_not_while_captured),
    };

    return gpu_test_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
