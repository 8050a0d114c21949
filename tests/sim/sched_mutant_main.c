/* tests/sim/sched_mutant_main.c - is the simulator able to see a bug?  Built once per planted bug
 * (SCHED_MUTANT), and once without any: the first must be found, the last must not.
 *
 * The bugs are those that others shipped in disaggregated serving, and their like here. */
#include <stdio.h>

#include "tests/sim/sched_sim.h"

enum { SEEDS = 400 };

static const char *const planted[] = {
    "none",
    "the failure of the prefill side is dropped, decode waits on",
    "messages of an older attempt are taken for the present one",
    "blocks are free at the cancel, not when the worker lets go",
    "no deadline while waiting for the hand-over",
    "a doubled release is counted twice",
    "decode worker lost during the hand-over: nobody notices",
    "decoding starts before the blocks are verified",
    "a cancel during the hand-over is ignored",
    "a cancel reaches the prefill worker alone",
    "a new worker wakes nobody who waits",
    "released blocks wake nobody who waits",
    "a resumed request goes to the back of the line",
    "a hand-over verified early is forgotten",
    "a request that fails is tried for ever",
    "a refused reservation is dropped",
    "the queue has no bound",
    "a worker lost after the last token starts the request again",
    "a request too large for the present workers never looks again",
    "a lost cancel is never repeated: blocks leak",
    "a late error of the sender ends a stream that runs well",
    "a draining worker still gets requests",
    "end of a request: workers that still compute are not told",
    "a worker stays reserved for a request that is over",
};

int main(void)
{
    struct sched_sim_result r;

    printf("bug %d: %s\n", SCHED_MUTANT, planted[SCHED_MUTANT]);
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        if (!sched_sim_run(seed, &r)) {
            printf("found with seed %u: %s\n", seed, r.why);
            return SCHED_MUTANT == 0;
        }
    }
    printf("not found with %d seeds\n", SEEDS);
    return SCHED_MUTANT != 0;
}
