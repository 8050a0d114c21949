/* Tests of engine/cuda/gpu_comm.h: sums and rows are those of all ranks, and no trouble of one leaves another waiting. */
#include "tests/gpu/gpu_test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "engine/cuda/gpu_comm.h"
#ifdef GPU_EMULATED
#include "tests/gpu/emu/gpu_emu.h"
#endif

enum { MAX_RANKS = 4, WORK = 24, LONGEST = 5000, DEADLINE_MS = 20000 };

static uint32_t n_ranks; /* of this run: all devices, at most MAX_RANKS */

static uint64_t in_ms(uint64_t ms)
{
    return clock_now_ns() + ms * CLOCK_NS_PER_MS;
}

/* What a rank's thread holds.  Checks fail the test from the main thread: cmocka's may not run in others. */
struct rank {
    uint32_t rank;
    struct gpu_comm_group *group;
    struct gpu *gpu;
    gpu_stream stream;
    gpu_event event;
    struct gpu_comm *comm;
    uint8_t *host, *device; /* BUFFER bytes each */
    enum err err;           /* of what it did */
    const char *what;       /* the first thing that was not as it should be */
    uint64_t took_ns;
    pthread_t thread;
};
enum { BUFFER = LONGEST * 4 * (MAX_RANKS + 1) };

static bool rank_open(struct rank *r)
{
    struct err_msg msg = {""};

    r->err = gpu_open(r->rank, &msg, &r->gpu);
    if (r->err != ERR_OK || (r->err = gpu_stream_create(r->gpu, false, &r->stream)) != ERR_OK ||
        (r->err = gpu_event_create(r->gpu, false, &r->event)) != ERR_OK ||
        (r->err = gpu_host_alloc(r->gpu, BUFFER, (void **)&r->host)) != ERR_OK ||
        (r->err = gpu_alloc(r->gpu, BUFFER, (void **)&r->device)) != ERR_OK ||
        (r->err = gpu_comm_open(r->group, r->rank, r->gpu, &msg, &r->comm)) != ERR_OK)
        r->what = msg.text[0] != '\0' ? "did not open, with a text" : "did not open";
    return r->err == ERR_OK;
}

static void rank_close(struct rank *r)
{
    gpu_comm_close(r->comm);
    gpu_event_destroy(r->event);
    gpu_stream_destroy(r->stream);
    if (r->gpu != NULL) {
        gpu_free(r->gpu, r->device);
        gpu_host_free(r->gpu, r->host);
    }
    gpu_close(r->gpu);
}

/* Every rank runs fn in its own thread, between open and close. */
static void run_ranks(struct rank ranks[MAX_RANKS], struct gpu_comm_group *group,
                      void *(*fn)(void *))
{
    for (uint32_t i = 0; i < n_ranks; i++) {
        ranks[i] = (struct rank){.rank = i, .group = group};
        assert_int_equal(0, pthread_create(&ranks[i].thread, NULL, fn, &ranks[i]));
    }
    for (uint32_t i = 0; i < n_ranks; i++)
        pthread_join(ranks[i].thread, NULL);
}

static struct gpu_comm_group *new_group(uint32_t deadline_ms)
{
    struct err_msg msg = {""};
    struct gpu_comm_group *group = NULL;

#ifdef GPU_EMULATED
    gpu_emu_reset();
    gpu_emu_devices(MAX_RANKS);
#endif
    if (gpu_comm_group_create(n_ranks, deadline_ms, &msg, &group) != ERR_OK)
        fail_msg("%s", msg.text);
    return group;
}

/* ---- results ---- */

/* The same on every rank without a word between them. */
static uint16_t input(uint32_t turn, uint32_t rank, size_t i, enum gpu_dtype dtype)
{
    uint64_t z =
        (turn * 131u + rank + 1) * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xbf58476d1ce4e5b9);

    z ^= z >> 29;
    return test_to16(dtype, (double)(int64_t)(z * UINT64_C(0x94d049bb133111eb)) * 0x1p-63);
}

static bool reduce_once(struct rank *r, uint32_t turn)
{
    size_t n = turn == 0 ? 1 : 1 + turn * 977 % LONGEST;
    enum gpu_dtype dtype = turn % 2 == 0 ? GPU_BF16 : GPU_F16;
    uint16_t *x = (uint16_t *)(void *)r->host;

    for (size_t i = 0; i < n; i++)
        x[i] = input(turn, r->rank, i, dtype);
    if ((r->err = gpu_copy(r->device, x, n * 2, GPU_TO_DEVICE, r->stream)) != ERR_OK ||
        (r->err = gpu_comm_all_reduce(r->comm, r->device, n, dtype, r->stream)) != ERR_OK ||
        (r->err = gpu_copy(x, r->device, n * 2, GPU_TO_HOST, r->stream)) != ERR_OK ||
        (r->err = gpu_event_record(r->event, r->stream)) != ERR_OK ||
        (r->err = gpu_comm_wait(r->comm, r->event, in_ms(DEADLINE_MS))) != ERR_OK)
        return false;
    for (size_t i = 0; i < n; i++) {
        double sum = 0, got = (double)test_from16(dtype, x[i]);

        for (uint32_t k = 0; k < n_ranks; k++)
            sum += (double)test_from16(dtype, input(turn, k, i, dtype));
        /* a rounding of up to MAX_RANKS partial sums, each below MAX_RANKS */
        if (!(fabs(got - sum) <= test_rounding(dtype) * MAX_RANKS * (double)n_ranks))
            r->what = "a sum is not that of the ranks";
    }
    return r->what == NULL;
}

static bool gather_once(struct rank *r, uint32_t turn)
{
    size_t n = turn == 1 ? 2 : 2 + turn * 577 % LONGEST / 2 * 2, bytes = n * 2;
    uint16_t *x = (uint16_t *)(void *)r->host;
    uint8_t *in = turn % 2 == 0 ? r->device + r->rank * bytes : r->device + MAX_RANKS * LONGEST * 4;

    for (size_t i = 0; i < n; i++)
        x[i] = input(turn, r->rank, i, GPU_BF16);
    if ((r->err = gpu_copy(in, x, bytes, GPU_TO_DEVICE, r->stream)) != ERR_OK ||
        (r->err = gpu_comm_all_gather(r->comm, r->device, in, bytes, r->stream)) != ERR_OK ||
        (r->err = gpu_copy(x, r->device, bytes * n_ranks, GPU_TO_HOST, r->stream)) != ERR_OK ||
        (r->err = gpu_event_record(r->event, r->stream)) != ERR_OK ||
        (r->err = gpu_comm_wait(r->comm, r->event, in_ms(DEADLINE_MS))) != ERR_OK)
        return false;
    for (size_t i = 0; i < n * n_ranks; i++) {
        if (x[i] != input(turn, (uint32_t)(i / n), i % n, GPU_BF16))
            r->what = "a gathered row is not its rank's";
    }
    return r->what == NULL;
}

static void *compute(void *arg)
{
    struct rank *r = arg;

    if (rank_open(r))
        for (uint32_t i = 0; i < WORK; i++)
            if (!(i % 3 == 2 ? gather_once(r, i) : reduce_once(r, i)))
                break;
    rank_close(r);
    return NULL;
}

static void every_rank_gets_the_sums_and_the_rows_of_all(void **state)
{
    struct gpu_comm_group *group = new_group(DEADLINE_MS);
    struct rank ranks[MAX_RANKS];

    (void)state;
    run_ranks(ranks, group, compute);
    gpu_comm_group_destroy(group);
    for (uint32_t i = 0; i < n_ranks; i++) {
        if (ranks[i].err != ERR_OK || ranks[i].what != NULL)
            fail_msg("rank %u: %s %s", i, err_name(ranks[i].err),
                     ranks[i].what ? ranks[i].what : "");
    }
}

/* A graph of two sums, launched twice on new data: x becomes n * n * x where all ranks bring the same. */
static void *capture(void *arg)
{
    struct rank *r = arg;
    uint16_t *x;
    gpu_graph graph = NULL;

    if (!rank_open(r) || !reduce_once(r, 0)) {
        rank_close(r);
        return NULL;
    }
    x = (uint16_t *)(void *)r->host;
    if ((r->err = gpu_capture_begin(r->stream)) == ERR_OK &&
        (r->err = gpu_comm_all_reduce(r->comm, r->device, 64, GPU_F16, r->stream)) == ERR_OK &&
        (r->err = gpu_comm_all_reduce(r->comm, r->device, 64, GPU_F16, r->stream)) == ERR_OK)
        r->err = gpu_capture_end(r->stream, &graph);
    for (int turn = 1; turn <= 2 && r->err == ERR_OK; turn++) {
        for (int i = 0; i < 64; i++)
            x[i] = test_to16(GPU_F16, turn * i);
        if ((r->err = gpu_copy(r->device, x, 128, GPU_TO_DEVICE, r->stream)) == ERR_OK &&
            (r->err = gpu_graph_launch(graph, r->stream)) == ERR_OK &&
            (r->err = gpu_copy(x, r->device, 128, GPU_TO_HOST, r->stream)) == ERR_OK &&
            (r->err = gpu_event_record(r->event, r->stream)) == ERR_OK)
            r->err = gpu_comm_wait(r->comm, r->event, in_ms(DEADLINE_MS));
        for (int i = 0; i < 64 && r->err == ERR_OK; i++) {
            if (test_from16(GPU_F16, x[i]) != (float)((uint32_t)(turn * i) * n_ranks * n_ranks))
                r->what = "a replayed sum is not that of its data";
        }
    }
    gpu_graph_destroy(graph);
    rank_close(r);
    return NULL;
}

static void captured_collectives_run_again_with_each_launch(void **state)
{
    struct gpu_comm_group *group = new_group(DEADLINE_MS);
    struct rank ranks[MAX_RANKS];

    (void)state;
    run_ranks(ranks, group, capture);
    gpu_comm_group_destroy(group);
    for (uint32_t i = 0; i < n_ranks; i++) {
        if (ranks[i].err != ERR_OK || ranks[i].what != NULL)
            fail_msg("rank %u: %s %s", i, err_name(ranks[i].err),
                     ranks[i].what ? ranks[i].what : "");
    }
}

/* ---- trouble ---- */

static atomic_uint waiting; /* ranks about to wait */
#ifdef FAKE_NCCL_FAILS
static atomic_bool lost;

/* Keep the stream busy until it has been noticed. */
static void hold(void *arg)
{
    (void)arg;
    while (!atomic_load(&lost))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}
#endif

/* All but the last rank enqueue a sum and wait for it; the wait's end is what is looked at. */
static void wait_in_vain(struct rank *r, uint64_t deadline_ms)
{
    uint64_t begun;

    if ((r->err = gpu_comm_all_reduce(r->comm, r->device, 100, GPU_BF16, r->stream)) != ERR_OK ||
        (r->err = gpu_event_record(r->event, r->stream)) != ERR_OK) {
        r->what = "enqueueing failed";
        return;
    }
    atomic_fetch_add(&waiting, 1);
    begun = clock_now_ns();
    r->err = gpu_comm_wait(r->comm, r->event, in_ms(deadline_ms));
    r->took_ns = clock_now_ns() - begun;
    if (gpu_comm_all_reduce(r->comm, r->device, 100, GPU_BF16, r->stream) != ERR_DEVICE ||
        gpu_comm_wait(r->comm, r->event, in_ms(DEADLINE_MS)) != ERR_DEVICE)
        r->what = "the group went on after its end";
}

static void *stay_away(void *arg)
{
    struct rank *r = arg;

    if (rank_open(r) && r->rank != n_ranks - 1)
        wait_in_vain(r, 300);
    while (r->rank == n_ranks - 1 && r->err == ERR_OK && gpu_trouble()[0] == '\0')
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    rank_close(r);
    return NULL;
}

static void a_rank_that_stays_away_ends_the_others_waits_at_their_deadline(void **state)
{
    struct gpu_comm_group *group = new_group(DEADLINE_MS);
    struct rank ranks[MAX_RANKS];

    (void)state;
    run_ranks(ranks, group, stay_away);
    gpu_comm_group_destroy(group);
    for (uint32_t i = 0; i < n_ranks - 1; i++) {
        assert_int_equal(ERR_DEVICE, ranks[i].err);
        assert_null(ranks[i].what);
        assert_true(ranks[i].took_ns < 10 * CLOCK_NS_PER_S); /* not the group's 20 s */
    }
    assert_string_not_equal(gpu_trouble(), "");
}

#ifdef FAKE_NCCL_FAILS
atomic_int fake_nccl_graphs;
#else
static atomic_int fake_nccl_graphs;
#endif

/* A graph with a sum in it is alive until after the end: who waits for the library to forget it waits for ever. */
static gpu_graph keep_graph(struct rank *r)
{
    gpu_graph graph = NULL;

    if (!reduce_once(r, 0))
        return NULL;
    if ((r->err = gpu_capture_begin(r->stream)) != ERR_OK ||
        (r->err = gpu_comm_all_reduce(r->comm, r->device, 64, GPU_F16, r->stream)) != ERR_OK ||
        (r->err = gpu_capture_end(r->stream, &graph)) != ERR_OK)
        r->what = "capturing failed";
    atomic_fetch_add(&fake_nccl_graphs, graph != NULL);
    return graph;
}

static void *abort_others(void *arg)
{
    struct rank *r = arg;
    gpu_graph graph = rank_open(r) ? keep_graph(r) : NULL;
    uint64_t until = in_ms(DEADLINE_MS);

    if (graph != NULL && r->rank != n_ranks - 1)
        wait_in_vain(r, DEADLINE_MS);
    while (r->rank == n_ranks - 1 && r->err == ERR_OK && clock_now_ns() < until &&
           atomic_load(&waiting) < n_ranks - 1)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (r->rank == n_ranks - 1)
        gpu_comm_abort(r->group); /* as a rank does whose own work has failed */
    gpu_graph_destroy(graph);
    atomic_fetch_sub(&fake_nccl_graphs, graph != NULL);
    rank_close(r);
    return NULL;
}

static void an_abort_releases_every_rank_at_once_while_graphs_are_alive(void **state)
{
    struct gpu_comm_group *group = new_group(DEADLINE_MS);
    struct rank ranks[MAX_RANKS];

    (void)state;
    atomic_store(&waiting, 0);
    run_ranks(ranks, group, abort_others);
    gpu_comm_group_destroy(group);
    for (uint32_t i = 0; i < n_ranks - 1; i++) {
        assert_int_equal(ERR_DEVICE, ranks[i].err);
        assert_null(ranks[i].what);
        assert_true(ranks[i].took_ns < 5 * CLOCK_NS_PER_S);
    }
}

#ifdef FAKE_NCCL_FAILS
/* The library tells of a lost peer some time after the call: rank 0 hears it, the others wait for a sum with it. */
static void *lose_peer(void *arg)
{
    struct rank *r = arg;

    if (rank_open(r)) {
        if (r->rank > 0)
            wait_in_vain(r, DEADLINE_MS);
        else if ((r->err = gpu_stream_call(r->stream, hold, r)) == ERR_OK &&
                 (r->err = gpu_comm_all_reduce(r->comm, r->device, FAKE_NCCL_FAILS, GPU_BF16,
                                               r->stream)) == ERR_OK &&
                 (r->err = gpu_event_record(r->event, r->stream)) == ERR_OK)
            r->err = gpu_comm_wait(r->comm, r->event, in_ms(DEADLINE_MS));
    }
    atomic_store(&lost, true);
    rank_close(r);
    return NULL;
}

static void an_error_that_the_library_reports_later_ends_the_waits_of_all(void **state)
{
    struct gpu_comm_group *group = new_group(DEADLINE_MS);
    struct rank ranks[MAX_RANKS];
    uint64_t begun = clock_now_ns();

    (void)state;
    run_ranks(ranks, group, lose_peer);
    gpu_comm_group_destroy(group);
    assert_true(clock_now_ns() - begun < 10 * CLOCK_NS_PER_S);
    for (uint32_t i = 0; i < n_ranks; i++) {
        assert_int_equal(ERR_DEVICE, ranks[i].err);
        assert_null(ranks[i].what);
    }
    assert_non_null(strstr(gpu_trouble(), "remote process exited (fake) (details (fake))"));
}
#endif

static void *open_unless_last(void *arg)
{
    struct rank *r = arg;

    if (r->rank != n_ranks - 1)
        (void)rank_open(r);
    rank_close(r);
    return NULL;
}

static void opening_without_one_rank_ends_at_the_deadline(void **state)
{
    struct gpu_comm_group *group = new_group(400);
    struct rank ranks[MAX_RANKS];

    (void)state;
    run_ranks(ranks, group, open_unless_last);
    gpu_comm_group_destroy(group);
    for (uint32_t i = 0; i < n_ranks - 1; i++) {
        assert_int_equal(ERR_DEVICE, ranks[i].err);
        assert_string_equal(ranks[i].what, "did not open, with a text");
    }
}

static void one_rank_alone_needs_no_other(void **state)
{
    uint32_t all = n_ranks;
    struct rank ranks[MAX_RANKS];
    struct gpu_comm_group *group;

    (void)state;
    n_ranks = 1;
    group = new_group(DEADLINE_MS);
    run_ranks(ranks, group, compute);
    gpu_comm_group_destroy(group);
    n_ranks = all;
    assert_int_equal(ERR_OK, ranks[0].err);
    assert_null(ranks[0].what);
}

static void groups_and_ranks_outside_the_limits_are_refused(void **state)
{
    struct err_msg msg = {""};
    struct gpu_comm_group *group = NULL;
    struct gpu_comm *c = NULL;

    (void)state;
    assert_int_equal(ERR_INVALID, gpu_comm_group_create(0, 1000, &msg, &group));
    assert_int_equal(ERR_INVALID, gpu_comm_group_create(GPU_COMM_MAX + 1, 1000, &msg, &group));
    assert_int_equal(ERR_INVALID, gpu_comm_group_create(2, 0, &msg, &group));
    assert_null(group);
    group = new_group(1000);
    assert_int_equal(ERR_INVALID, gpu_comm_open(group, n_ranks, NULL, &msg, &c));
    assert_null(c);
    gpu_comm_group_destroy(group);
    gpu_comm_group_destroy(NULL);
    gpu_comm_abort(NULL);
    gpu_comm_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_the_sums_and_the_rows_of_all),
        cmocka_unit_test(captured_collectives_run_again_with_each_launch),
        cmocka_unit_test(one_rank_alone_needs_no_other),
        cmocka_unit_test(groups_and_ranks_outside_the_limits_are_refused),
        cmocka_unit_test(an_abort_releases_every_rank_at_once_while_graphs_are_alive),
#ifdef FAKE_NCCL_FAILS
        cmocka_unit_test(an_error_that_the_library_reports_later_ends_the_waits_of_all),
#endif
        cmocka_unit_test(opening_without_one_rank_ends_at_the_deadline),
        cmocka_unit_test(a_rank_that_stays_away_ends_the_others_waits_at_their_deadline),
    };
    struct err_msg msg = {""};

#ifdef GPU_EMULATED
    gpu_emu_devices(MAX_RANKS);
#endif
    n_ranks = gpu_count(&msg);
    if (n_ranks < 2) {
        printf("SKIP: %s\n",
               n_ranks == 0 ? msg.text : "collectives need two CUDA devices, there is one");
        return 77;
    }
    n_ranks = n_ranks < MAX_RANKS ? n_ranks : MAX_RANKS;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
