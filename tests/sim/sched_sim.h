/* tests/sim/sched_sim.h - a random world around scheduler/sched.h: fake workers, a fake front end, a
 * network that delays, doubles and reorders, and an oracle that knows what the scheduler owes.
 *
 * One seed is one world: how many workers and requests, how tight the blocks are, which faults happen and
 * how often.  After every event sched_check() and the oracle (sim_oracle.c) must be content; when the
 * faults end, everything must come to rest with one end per request and no claim left.
 *
 * Thread: one world per thread.  The same seed gives the same events and actions. */
#ifndef TESTS_SIM_SCHED_SIM_H
#define TESTS_SIM_SCHED_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sched_sim_result {
    uint64_t seed;
    uint64_t hash; /* over every action */
    uint64_t events;
    uint32_t requests, finished, canceled, rejected, failed;
    uint32_t resumes, lost_workers, flips;
    char why[320]; /* the first violation, with time and event number; empty: none */
};

/* true: no violation. */
bool sched_sim_run(uint64_t seed, struct sched_sim_result *out);

#endif
