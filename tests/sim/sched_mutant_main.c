/* tests/sim/sched_mutant_main.c - is the simulator able to see a bug?  The argument is the number of one of the
 * bugs planted in the build with SCHED_MUTANTS: it must be found.  0 is no bug, and none must be found.
 *
 * The bugs are those that others shipped in disaggregated serving, and their like here. */
#include <stdio.h>
#include <stdlib.h>

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
    "a draining worker keeps what is bound to it",
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
    "progress of a worker lets nobody in behind it",
    "a hand-over whose decode worker never answers waits for ever",
    "a request that was kept aside is never looked at again",
    "the decode worker of a long prompt is never asked for room",
    "a claim that was never told to its worker outlives its attempt",
    "a worker that computes its own prompt is lost: nobody notices",
    "a request that was kept aside and left is counted among those that wait",
    "the load of a decode worker keeps what left it",
    "a tier's reserved share is overdrawn",
};

extern int sched_mutant;
int sched_mutant;

int main(int argc, char **argv)
{
    const long n = (long)(sizeof(planted) / sizeof(planted[0]));
    long bug = argc == 2 ? strtol(argv[1], NULL, 10) : -1;
    struct sched_sim_result r;

    if (bug < 0 || bug >= n) {
        fprintf(stderr, "usage: %s 0..%ld\n", argv[0], n - 1);
        return 2;
    }
    sched_mutant = (int)bug;
    printf("bug %ld: %s\n", bug, planted[bug]);
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        if (!sched_sim_run(seed, &r)) {
            printf("found with seed %u: %s\n", seed, r.why);
            return bug == 0;
        }
    }
    printf("not found with %d seeds\n", SEEDS);
    return bug != 0;
}
