/* bench/sim_engine.h - one simulated run: the scheduler's own code in virtual time, with models of the workers and
 * links around it.
 *
 *   bench_sim_run(setup, run) -> figures in *run and in struct bench_sim_result
 *
 * Prefill worker: the smallest `order` first at each step, up to max_step_tokens from several prompts; time by the
 * law.  Hand-over: layer by layer while the rest computes; what remains after the prompt waits for both network
 * cards in order of transfer class.  Decode worker: one continuous batch, KV that grows block by block, waiting,
 * parking and skipping by scheduler/sched_batch.h, prompts of its own in chunks between its steps.  Messages take
 * no time.  The same setup gives the same run, on every machine.
 *
 * Thread: one run per thread.  Blocking: as long as it takes.  Ownership: nothing is kept. */
#ifndef BENCH_SIM_ENGINE_H
#define BENCH_SIM_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "bench/outcome.h"
#include "bench/sim_cluster.h"
#include "bench/sim_load.h"
#include "scheduler/sched_view.h"

enum { BENCH_FAULTS_MAX = 32 };

struct bench_sim_fault {
    uint32_t worker; /* from 1, in the order of the cluster file */
    double at_s;
    double factor;  /* time of its steps from then on; 0: it dies */
    double until_s; /* back, or as fast as before; 0: never */
};
struct bench_sim_setup {
    const struct bench_cluster *cluster;
    const struct bench_load *load;
    struct sched_config config;         /* policy and tiers included */
    const struct sched_tenant *tenants; /* ids 1 .. n_tenants, as the load has them */
    uint32_t n_tenants;
    uint64_t seed;
    double warmup_s;
    uint32_t max_new; /* what clients ask for; 0: the longest answer, rounded up */
    bool exact_new;   /* they ask for exactly what they get instead */
    bool clairvoyant; /* the scheduler is told the true lengths */
    bool no_learning; /* laws are what they are seeded with */
    double bias;      /* steps take so much more than the laws told; 1: no lie */
    double told;      /* the scheduler is told laws so many times as slow; 0: as they are */
    bool cold;        /* it is told no laws at all */
    double noise;     /* sd of the logarithm of step times; < 0: as the cluster file says */
    double stale_s;   /* reports come so late */
    struct bench_sim_fault fault[BENCH_FAULTS_MAX];
    uint32_t n_faults;
    bool timing;   /* measure the scheduler with the wall clock */
    bool check;    /* sched_check() after every event: slow */
    FILE *records; /* JSON lines of what became of each request; NULL: none */
    /* The run ends early when more of the tier's measured requests were missed (last: of all); 0: never. */
    uint64_t give_up[SCHED_TIERS_MAX + 1];
};
struct bench_sim_result {
    uint64_t events, sched_events; /* all; of them, given to the scheduler */
    double virtual_s;
    double wall_s, cpu_s, sched_s;     /* sched_s: with timing */
    double kind_s[SCHED_EV_TIMER + 1]; /* of it, by enum sched_event_kind */
    uint64_t kind_n[SCHED_EV_TIMER + 1];
    uint64_t flips, resumes, parked, skipped, unfinished;
    double busy[3]; /* of the time that workers of a role were there, what share they computed */
    struct sched_health health[SCHED_TIERS_MAX + 1][SCHED_STAGES]; /* last: all tiers */
    uint64_t late_mean; /* requests that missed by their mean time per token alone */
    bool gave_up;
};

/* Time of the prompt (less what is cached) alone on an idle worker, in its chunks: what deadlines grow with. */
double bench_sim_isolated_ns(const struct bench_cluster *c, const struct bench_arrival_row *a);

/* run: initialised by the caller with names and weights of tiers; outcomes are added and finished here.
 * ERR_INVALID: setup; ERR_BAD_STATE: the scheduler broke a rule (msg says which); ERR_NOMEM; ERR_CANCELED: a signal
 * came (bench/interrupt.h). */
MUST_USE enum err bench_sim_run(const struct bench_sim_setup *setup, struct bench_run *run,
                                struct bench_sim_result *result, struct err_msg *msg);

#endif
