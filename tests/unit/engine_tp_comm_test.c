/* tests/unit/engine_tp_comm_test.c - collectives between threads: sums do not depend on timing, and neither a
 * rank that gives up nor one that stays away leaves another waiting. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/tp/tp_comm.h"

enum { RANKS_MAX = 8, MANY = 5000 };

struct rank {
    struct tp_comm *c;
    uint32_t rank, n_ranks;
    void (*run)(struct rank *r);
    const char *trouble; /* what went wrong: cmocka asserts on the main thread only */
    enum err result;
    uint64_t took_ns;
    pthread_t id;
};

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    uint64_t start = clock_now_ns();

    r->run(r);
    r->took_ns = clock_now_ns() - start;
    return NULL;
}

static void run_ranks(struct rank *ranks, uint32_t n, uint32_t deadline_ms, bool spin,
                      void (*run)(struct rank *r))
{
    struct tp_comm_config config = {.n_ranks = n, .deadline_ms = deadline_ms, .spin = spin};
    struct tp_comm *c;

    assert_int_equal(tp_comm_create(&config, &c), ERR_OK);
    for (uint32_t i = 0; i < n; i++) {
        ranks[i] = (struct rank){.c = c, .rank = i, .n_ranks = n, .run = run};
        assert_int_equal(pthread_create(&ranks[i].id, NULL, rank_main, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++)
        pthread_join(ranks[i].id, NULL);
    for (uint32_t i = 0; i < n; i++) {
        if (ranks[i].trouble != NULL)
            fail_msg("rank %u of %u: %s", i, n, ranks[i].trouble);
    }
    tp_comm_destroy(c);
}

/* Numbers whose sum depends on the order it is taken in. */
static float number(uint32_t rank, size_t i)
{
    return (float)(1.0 / (double)(3 + rank * 7 + i)) * (i % 3 == rank % 3 ? 1e6f : 1.0f);
}

static float in_rank_order(uint32_t n_ranks, size_t i)
{
    float sum = number(0, i);

    for (uint32_t r = 1; r < n_ranks; r++)
        sum += number(r, i);
    return sum;
}

static void reduce_all_sizes(struct rank *r)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 129, MANY, 0};
    float *data = mem_try_alloc(MANY * sizeof(float));

    for (size_t s = 0; s < 40; s++) {
        size_t n = sizes[s % 8];

        for (size_t i = 0; i < n; i++)
            data[i] = number(r->rank, i);
        if (tp_all_reduce(r->c, r->rank, data, n) != ERR_OK)
            r->trouble = "a sum failed";
        for (size_t i = 0; i < n; i++) {
            float want = in_rank_order(r->n_ranks, i);

            if (memcmp(&data[i], &want, sizeof(want)) != 0)
                r->trouble = "a sum is not that in rank order";
        }
    }
    mem_free(data);
}

static void sums_are_taken_in_rank_order_whoever_comes_first(void **state)
{
    struct rank ranks[RANKS_MAX];

    (void)state;
    for (uint32_t n = 1; n <= RANKS_MAX; n++)
        run_ranks(ranks, n, 60000, n % 2 == 0, reduce_all_sizes);
}

/* Rank r brings r + 2 columns; each takes other rows. */
static void gather_columns(struct rank *r)
{
    enum { ROWS = 9 };
    size_t mine = r->rank + 2, width = 0, at = 0, first = r->rank % ROWS, n = ROWS - first;
    float piece[ROWS * (RANKS_MAX + 2)], out[ROWS * RANKS_MAX * (RANKS_MAX + 2)];

    for (uint32_t k = 0; k < r->n_ranks; k++)
        width += k + 2;
    for (size_t i = 0; i < ROWS * mine; i++)
        piece[i] = (float)(r->rank * 1000 + i);
    if (tp_all_gather(r->c, r->rank, (struct tp_piece){piece, mine}, first, n, out) != ERR_OK)
        r->trouble = "a gather failed";
    for (uint32_t k = 0; k < r->n_ranks; k++) {
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < k + 2; j++) {
                float want = (float)(k * 1000 + (first + i) * (k + 2) + j), got;

                got = out[i * width + at + j];
                if (got < want || got > want)
                    r->trouble = "a gathered number stands in the wrong place";
            }
        }
        at += k + 2;
    }
}

static void columns_of_all_ranks_are_put_together_in_order(void **state)
{
    struct rank ranks[RANKS_MAX];

    (void)state;
    for (uint32_t n = 1; n <= RANKS_MAX; n++)
        run_ranks(ranks, n, 60000, n % 2 == 1, gather_columns);
}

static void broadcast_from_each(struct rank *r)
{
    for (uint32_t root = 0; root < r->n_ranks; root++) {
        uint32_t data[5];

        for (uint32_t i = 0; i < 5; i++)
            data[i] = r->rank * 10 + i;
        if (tp_broadcast(r->c, r->rank, root, data, sizeof(data)) != ERR_OK)
            r->trouble = "a broadcast failed";
        for (uint32_t i = 0; i < 5; i++) {
            if (data[i] != root * 10 + i)
                r->trouble = "not what the root has";
        }
    }
}

static void everybody_gets_what_the_root_has(void **state)
{
    struct rank ranks[RANKS_MAX];

    (void)state;
    for (uint32_t n = 1; n <= RANKS_MAX; n += 3)
        run_ranks(ranks, n, 60000, false, broadcast_from_each);
}

/* Each round one rank is late; its plain write must be seen by all after the barrier. */
static uint32_t written[RANKS_MAX];

static void meet_often(struct rank *r)
{
    for (uint32_t round = 1; round <= 300; round++) {
        if (round % 50 == 0 && round / 50 % r->n_ranks == r->rank)
            usleep(2000);
        written[r->rank] = round;
        if (tp_barrier(r->c, r->rank) != ERR_OK)
            r->trouble = "a barrier failed";
        for (uint32_t k = 0; k < r->n_ranks; k++) {
            if (written[k] != round)
                r->trouble = "a rank passed the barrier before another had come";
        }
        if (tp_barrier(r->c, r->rank) != ERR_OK)
            r->trouble = "a barrier failed";
    }
}

static void nobody_passes_a_barrier_before_all_have_come(void **state)
{
    struct rank ranks[RANKS_MAX];

    (void)state;
    run_ranks(ranks, 4, 60000, false, meet_often);
    run_ranks(ranks, 3, 60000, true, meet_often);
}

static void give_up_in_the_middle(struct rank *r)
{
    float data[64] = {0};

    for (int i = 0; i < 20; i++) {
        if (i == 10 && r->rank == 1) {
            usleep(20000); /* the others sleep by now */
            tp_comm_abort(r->c);
        }
        r->result = tp_all_reduce(r->c, r->rank, data, 64);
        if (i < 9 && r->result != ERR_OK)
            r->trouble = "failed before anybody gave up";
    }
}

static void one_rank_that_gives_up_releases_all_others_for_good(void **state)
{
    struct rank ranks[4];

    (void)state;
    for (int spin = 0; spin < 2; spin++) {
        run_ranks(ranks, 4, 600000, spin == 1, give_up_in_the_middle);
        for (uint32_t i = 0; i < 4; i++) {
            assert_int_equal(ranks[i].result, ERR_DEVICE);
            assert_true(ranks[i].took_ns < 60 * CLOCK_NS_PER_S);
        }
    }
}

static void rank_two_stays_away(struct rank *r)
{
    float data[64] = {0};

    r->result = ERR_DEVICE;
    if (tp_barrier(r->c, r->rank) != ERR_OK)
        r->trouble = "failed while all were there";
    if (r->rank == 2)
        return;
    r->result = tp_all_reduce(r->c, r->rank, data, 64);
}

static void a_rank_that_stays_away_costs_the_deadline_and_no_more(void **state)
{
    struct rank ranks[4];

    (void)state;
    run_ranks(ranks, 4, 200, true, rank_two_stays_away);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(ranks[i].result, ERR_DEVICE);
        if (i != 2)
            assert_true(ranks[i].took_ns >= 150 * CLOCK_NS_PER_MS);
        assert_true(ranks[i].took_ns < 30 * CLOCK_NS_PER_S);
    }
}

static void rank_one_is_late(struct rank *r)
{
    float data[64] = {0};

    if (r->rank == 1)
        usleep(400000);
    r->result = tp_all_reduce(r->c, r->rank, data, 64);
}

/* In a process of its own, stopped for longer than the deadline while one rank waits for the other. */
static void time_in_which_the_process_is_stopped_does_not_count(void **state)
{
    pid_t child = fork();
    int status = 0;

    (void)state;
    assert_true(child >= 0);
    if (child == 0) {
        struct rank ranks[2];

        run_ranks(ranks, 2, 1600, false, rank_one_is_late);
        _exit(ranks[0].result == ERR_OK && ranks[1].result == ERR_OK ? 0 : 1);
    }
    usleep(150000);
    assert_int_equal(kill(child, SIGSTOP), 0);
    usleep(2500000);
    assert_int_equal(kill(child, SIGCONT), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void bring_different_sizes(struct rank *r)
{
    float data[64] = {0};

    r->result = tp_all_reduce(r->c, r->rank, data, r->rank == 1 ? 63 : 64);
}

static void ranks_that_differ_in_size_touch_no_data(void **state)
{
    struct rank ranks[3];

    (void)state;
    run_ranks(ranks, 3, 60000, false, bring_different_sizes);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(ranks[i].result, ERR_DEVICE);
}

static void a_group_without_ranks_or_deadline_is_refused(void **state)
{
    struct tp_comm_config none = {.n_ranks = 0, .deadline_ms = 1};
    struct tp_comm_config many = {.n_ranks = 65, .deadline_ms = 1};
    struct tp_comm_config endless = {.n_ranks = 2, .deadline_ms = 0};
    struct tp_comm_config good = {.n_ranks = 2, .deadline_ms = 1};
    struct tp_comm *c = NULL;

    (void)state;
    assert_int_equal(tp_comm_create(&none, &c), ERR_INVALID);
    assert_int_equal(tp_comm_create(&many, &c), ERR_INVALID);
    assert_int_equal(tp_comm_create(&endless, &c), ERR_INVALID);
    for (long i = 0; i < 2; i++) {
        mem_fail_at(i);
        assert_int_equal(tp_comm_create(&good, &c), ERR_NOMEM);
    }
    mem_fail_at(-1);
    tp_comm_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_taken_in_rank_order_whoever_comes_first),
        cmocka_unit_test(columns_of_all_ranks_are_put_together_in_order),
        cmocka_unit_test(everybody_gets_what_the_root_has),
        cmocka_unit_test(nobody_passes_a_barrier_before_all_have_come),
        cmocka_unit_test(one_rank_that_gives_up_releases_all_others_for_good),
        cmocka_unit_test(a_rank_that_stays_away_costs_the_deadline_and_no_more),
        cmocka_unit_test(time_in_which_the_process_is_stopped_does_not_count),
        cmocka_unit_test(ranks_that_differ_in_size_touch_no_data),
        cmocka_unit_test(a_group_without_ranks_or_deadline_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
