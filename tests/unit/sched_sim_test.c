/* The scheduler in 2,500 random worlds (tests/sim/sched_sim.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/sched_sim.h"

/* One thread alone runs here: ThreadSanitizer has nothing to find, and a tenth of the worlds shows that. */
#ifdef __SANITIZE_THREAD__
enum { SEEDS = 250, TWICE = 10 };
#else
enum { SEEDS = 2500, TWICE = 100 };
#endif

static void no_world_breaks_a_promise(void **state)
{
    struct sched_sim_result sum = {0}, one;
    size_t live = mem_live();

    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        if (!sched_sim_run(seed, &one))
            fail_msg("seed %u: %s", (unsigned)seed, one.why);
        assert_int_equal(one.requests, one.finished + one.canceled + one.rejected + one.failed);
        sum.events += one.events;
        sum.requests += one.requests;
        sum.finished += one.finished;
        sum.canceled += one.canceled;
        sum.rejected += one.rejected;
        sum.failed += one.failed;
        sum.resumes += one.resumes;
        sum.lost_workers += one.lost_workers;
        sum.flips += one.flips;
    }
    print_message("%llu events, %u requests: %u finished, %u canceled, %u rejected, %u failed; "
                  "%u resumes, %u workers lost, %u role changes\n",
                  (unsigned long long)sum.events, sum.requests, sum.finished, sum.canceled,
                  sum.rejected, sum.failed, sum.resumes, sum.lost_workers, sum.flips);
    assert_int_equal(mem_live(), live);
    /* the worlds are worth something only if much goes well and much goes wrong */
    assert_true(sum.finished > sum.requests / 3);
    assert_true(sum.resumes > SEEDS && sum.lost_workers > SEEDS && sum.failed > 0 &&
                sum.rejected > 0 && sum.canceled > 0 && sum.flips > 0);
}

static void same_seed_gives_the_same_actions(void **state)
{
    struct sched_sim_result a, b;

    (void)state;
    for (uint64_t seed = 1; seed <= TWICE; seed++) {
        sched_sim_run(seed, &a);
        sched_sim_run(seed, &b);
        assert_true(a.hash == b.hash && a.events == b.events);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_world_breaks_a_promise),
        cmocka_unit_test(same_seed_gives_the_same_actions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
