/* Fail every allocation of a run of scheduler/sched.h, one by one: each event either counts or leaves
 * everything as it was, and the run ends the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/sched_rig.h"

enum { N_REQUESTS = 24 };

struct tally {
    uint32_t reserve, prefill, resume, introduce;
};

static void count(struct tally *t, const struct sched_actions *a)
{
    for (size_t i = 0; i < a->n; i++) {
        t->reserve += a->v[i].kind == SCHED_ACT_RESERVE;
        t->prefill += a->v[i].kind == SCHED_ACT_PREFILL;
        t->resume += a->v[i].kind == SCHED_ACT_RESUME;
        t->introduce += a->v[i].kind == SCHED_ACT_INTRODUCE;
    }
}

/* Apply e; where memory runs out, hold everything that can be seen against what was there before, and
 * apply it again. */
static void apply_retry(struct rig *r, const struct sched_event *e, struct tally *t, bool *hit)
{
    for (;;) {
        struct sched_stats before = rig_stats(r), after;
        uint64_t timer = sched_next_timer(r->s);
        struct err_msg msg;
        enum err err;

        r->act.n = 0;
        err = sched_apply(r->s, e, r->now, &r->act);
        if (sched_check(r->s, &msg) != ERR_OK)
            fail_msg("%s", msg.text);
        if (err == ERR_OK)
            break;
        *hit = true;
        assert_int_equal(err, ERR_NOMEM);
        assert_int_equal(r->act.n, 0);
        after = rig_stats(r);
        assert_memory_equal(&before, &after, sizeof(before));
        assert_true(timer == sched_next_timer(r->s));
    }
    *hit |= sched_next_timer(r->s) <= r->now + RIG_MS; /* a placement waits for memory */
    count(t, &r->act);
}

static struct sched_event join_of(uint32_t id, enum sched_role role)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = id};

    e.u.join.role = role;
    e.u.join.n_blocks = 500;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = 64;
    e.u.join.max_context = 4096;
    return e;
}

/* A placement that found no memory is tried again by the timer; nothing else is due in this run. */
static void settle(struct rig *r, struct tally *t, bool *hit)
{
    while (sched_next_timer(r->s) <= r->now + RIG_MS) {
        r->now = sched_next_timer(r->s);
        apply_retry(r, &(struct sched_event){.kind = SCHED_EV_TIMER}, t, hit);
    }
}

/* *hit: an allocation failed. */
static struct tally run(long fail_at, bool *hit)
{
    struct tally t = {0};
    struct sched_event e;
    struct rig r;

    *hit = false;
    rig_open(&r, NULL);
    mem_fail_at(fail_at);
    for (uint32_t i = 0; i < 2; i++) {
        e = join_of(1 + i, SCHED_ROLE_PREFILL);
        apply_retry(&r, &e, &t, hit);
        e = join_of(11 + i, SCHED_ROLE_DECODE);
        apply_retry(&r, &e, &t, hit);
    }
    for (uint64_t id = 1; id <= N_REQUESTS; id++) {
        e = (struct sched_event){.kind = SCHED_EV_ARRIVE, .request = id};
        e.u.arrive.n_prompt = 100;
        e.u.arrive.max_new = 8;
        apply_retry(&r, &e, &t, hit);
    }
    settle(&r, &t, hit);
    apply_retry(&r, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = 11}, &t, hit);
    settle(&r, &t, hit);
    for (uint64_t id = 1; id <= N_REQUESTS; id++)
        apply_retry(&r, &(struct sched_event){.kind = SCHED_EV_CANCEL, .request = id}, &t, hit);
    apply_retry(&r, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = 1}, &t, hit);
    apply_retry(&r, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = 2}, &t, hit);
    apply_retry(&r, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = 12}, &t, hit);
    mem_fail_at(-1);
    assert_int_equal(rig_stats(&r).claims, 0);
    assert_int_equal(rig_stats(&r).requests, 0);
    rig_close(&r);
    return t;
}

static void every_failed_allocation_leaves_things_as_they_were(void **state)
{
    size_t live = mem_live();
    bool hit = true;
    struct tally want = run(-1, &hit);
    long at = 0;

    (void)state;
    assert_false(hit);
    assert_int_equal(want.prefill, N_REQUESTS + want.resume);
    assert_int_equal(want.introduce, 4);
    for (hit = true; hit; at++) {
        struct tally got = run(at, &hit);

        assert_memory_equal(&got, &want, sizeof(got));
        assert_int_equal(mem_live(), live);
    }
    assert_true(at > N_REQUESTS * 2); /* a request and an attempt each, at the least */
}

static void create_without_memory_says_so(void **state)
{
    struct sched_config c;
    struct sched *s = NULL;

    (void)state;
    sched_config_defaults(&c);
    mem_fail_at(0);
    assert_int_equal(sched_create(&c, NULL, &s), ERR_NOMEM);
    mem_fail_at(-1);
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failed_allocation_leaves_things_as_they_were),
        cmocka_unit_test(create_without_memory_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
