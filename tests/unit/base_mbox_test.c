/* tests/unit/base_mbox_test.c - mailboxes between threads: nothing lost, doubled or out of order. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <uv.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mbox.h"
#include "base/mem.h"

enum { POSTERS = 4, EACH = 20000 };

struct note {
    struct mbox_msg msg; /* first */
    struct counts *counts;
    uint32_t poster, number;
};

struct counts {
    uint32_t next[POSTERS]; /* the number due from each poster */
    uint32_t total, out_of_order;
    pthread_t receiver;
    uint32_t wrong_thread;
};

static void on_note(struct mbox_msg *m)
{
    struct note *n = (struct note *)m;
    struct counts *c = n->counts;

    c->out_of_order += n->number != c->next[n->poster];
    c->next[n->poster] = n->number + 1;
    c->wrong_thread += !pthread_equal(pthread_self(), c->receiver);
    c->total++;
    mem_free(n);
}

struct poster {
    struct mbox *box;
    struct counts *counts;
    uint32_t id;
};

static void post_one(const struct poster *p, uint32_t number)
{
    struct note *n = mem_try_calloc(1, sizeof(*n));

    if (n == NULL)
        return; /* the count will be short, which fails the test */
    n->msg.run = on_note;
    n->counts = p->counts;
    n->poster = p->id;
    n->number = number;
    mbox_post(p->box, &n->msg);
}

static void *post_all(void *arg)
{
    for (uint32_t i = 0; i < EACH; i++)
        post_one(arg, i);
    return NULL;
}

static void start(struct mbox *box, struct counts *c, pthread_t threads[POSTERS],
                  struct poster posters[POSTERS])
{
    *c = (struct counts){.receiver = pthread_self()};
    for (uint32_t i = 0; i < POSTERS; i++) {
        posters[i] = (struct poster){box, c, i};
        assert_int_equal(pthread_create(&threads[i], NULL, post_all, &posters[i]), 0);
    }
}

static void assert_all_came(const struct counts *c)
{
    assert_int_equal(c->total, POSTERS * EACH);
    assert_int_equal(c->out_of_order, 0);
    assert_int_equal(c->wrong_thread, 0);
}

static void a_waiting_thread_gets_every_message_in_order(void **state)
{
    struct mbox *box;
    struct counts c;
    struct poster posters[POSTERS];
    pthread_t threads[POSTERS];
    uint64_t limit = clock_now_ns() + 30 * CLOCK_NS_PER_S;

    (void)state;
    assert_int_equal(mbox_create(&box), ERR_OK);
    start(box, &c, threads, posters);
    while (c.total < POSTERS * EACH && clock_now_ns() < limit)
        mbox_wait(box, CLOCK_NS_PER_S);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    assert_all_came(&c);
    mbox_close(box);
    assert_int_equal(mem_live(), 0);
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

static void a_loop_gets_every_message_in_order(void **state)
{
    struct mbox *box;
    struct counts c;
    struct poster posters[POSTERS];
    pthread_t threads[POSTERS];
    uint64_t limit = clock_now_ns() + 30 * CLOCK_NS_PER_S;
    uv_loop_t loop;
    uv_timer_t tick; /* keeps the loop alive, which the mailbox does not */

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_timer_init(&loop, &tick), 0);
    assert_int_equal(uv_timer_start(&tick, on_tick, 100, 100), 0);
    assert_int_equal(mbox_create_on_loop(&loop, &box), ERR_OK);
    start(box, &c, threads, posters);
    while (c.total < POSTERS * EACH && clock_now_ns() < limit)
        uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    assert_all_came(&c);
    mbox_close(box);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(mem_live(), 0);
}

static void an_open_mailbox_does_not_keep_its_loop_alive(void **state)
{
    struct mbox *box;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(mbox_create_on_loop(&loop, &box), ERR_OK);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0); /* returns */
    mbox_close(box);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void closing_runs_what_was_posted(void **state)
{
    struct mbox *box;
    struct counts c = {.receiver = pthread_self()};
    struct poster p;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(mbox_create(&box), ERR_OK);
    p = (struct poster){box, &c, 0};
    post_one(&p, 0);
    post_one(&p, 1);
    mbox_close(box);
    assert_int_equal(c.total, 2);

    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(mbox_create_on_loop(&loop, &box), ERR_OK);
    p.box = box;
    post_one(&p, 2);
    mbox_close(box);
    assert_int_equal(c.total, 3);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(mem_live(), 0);
}

static void waiting_ends_at_its_deadline_and_at_once_for_zero(void **state)
{
    struct mbox *box;
    uint64_t t0;

    (void)state;
    assert_int_equal(mbox_create(&box), ERR_OK);
    t0 = clock_now_ns();
    assert_false(mbox_wait(box, 0));
    assert_true(clock_now_ns() - t0 < CLOCK_NS_PER_S);
    t0 = clock_now_ns();
    assert_false(mbox_wait(box, 30 * CLOCK_NS_PER_MS));
    assert_true(clock_now_ns() - t0 >= 30 * CLOCK_NS_PER_MS);
    mbox_close(box);
}

static void *post_later(void *arg)
{
    struct timespec t = {0, 50 * 1000000};

    nanosleep(&t, NULL);
    post_one(arg, 0);
    return NULL;
}

static void a_post_ends_even_the_longest_wait(void **state)
{
    static const uint64_t waits[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_MAX / 2};
    struct mbox *box;

    (void)state;
    assert_int_equal(mbox_create(&box), ERR_OK);
    for (size_t i = 0; i < 3; i++) {
        struct counts c = {.receiver = pthread_self()};
        struct poster p = {box, &c, 0};
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, post_later, &p), 0);
        assert_true(mbox_wait(box, waits[i])); /* and not before */
        assert_int_equal(c.total, 1);
        pthread_join(thread, NULL);
    }
    mbox_close(box);
}

struct again {
    struct mbox_msg msg; /* first */
    struct mbox *box;
    int runs;
};

static void on_again(struct mbox_msg *m)
{
    struct again *a = (struct again *)m;

    if (++a->runs < 3)
        mbox_post(a->box, m);
}

static void a_message_that_posts_itself_waits_for_the_next_turn(void **state)
{
    struct again a = {.msg = {.run = on_again}};

    (void)state;
    assert_int_equal(mbox_create(&a.box), ERR_OK);
    mbox_post(a.box, &a.msg);
    for (int turn = 1; turn <= 3; turn++) {
        assert_true(mbox_wait(a.box, 0));
        assert_int_equal(a.runs, turn);
    }
    assert_false(mbox_wait(a.box, 0));
    mbox_close(a.box);
}

static void creation_without_memory_fails_cleanly(void **state)
{
    struct mbox *box;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    mem_fail_at(0);
    assert_int_equal(mbox_create(&box), ERR_NOMEM);
    mem_fail_at(0);
    assert_int_equal(mbox_create_on_loop(&loop, &box), ERR_NOMEM);
    mem_fail_at(-1);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_waiting_thread_gets_every_message_in_order),
        cmocka_unit_test(a_loop_gets_every_message_in_order),
        cmocka_unit_test(an_open_mailbox_does_not_keep_its_loop_alive),
        cmocka_unit_test(closing_runs_what_was_posted),
        cmocka_unit_test(waiting_ends_at_its_deadline_and_at_once_for_zero),
        cmocka_unit_test(a_post_ends_even_the_longest_wait),
        cmocka_unit_test(a_message_that_posts_itself_waits_for_the_next_turn),
        cmocka_unit_test(creation_without_memory_fails_cleanly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
