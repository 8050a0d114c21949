/* scheduler/sched_plan.h - how many workers of each role the measured load needs, and when one should change
 * its role.  Formulas are pure; the flip controller is a small value with no clock of its own.
 *
 * Prefill: a G/G/k queue; Erlang C for the chance to wait, of a pool shrunk by the peakedness of the arrivals
 * (Hayward), Allen-Cunneen with Kimura's correction for many servers, exponential tail.  Decode:
 * closed form for the iteration time under processor sharing with KV room.  Sources: Erlang 1917; Allen (1990) /
 * Cunneen approximation; flips like a Smith predictor: one in flight at most, counted as done.
 *
 * Thread: none.  Units: ns as double, rates per second, tokens. */
#ifndef SCHEDULER_SCHED_PLAN_H
#define SCHEDULER_SCHED_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/sched_law.h"

/* ---- formulas ---- */

enum { SCHED_PLAN_WORKERS_MAX = 100000 };

/* P(wait) of `servers` under `offered` = rate x service; 1 when offered >= servers.  O(servers). */
double sched_plan_erlang_c(double offered, uint32_t servers);
/* Played out against lognormal service (the unit test prints the table), 1 to 20 servers that are 0.7 to 0.9
 * busy, the P99 of the wait comes out -8 .. +10 % for Poisson arrivals and Cs^2 0.85, -9 .. +12 % for gamma
 * gaps of cv 2, and -31 .. -7 % for Cs^2 7 cut at 25 times the mean; the mean -8 .. +12 % and -17 .. 0 %.
 *
 * Mean wait in s; rate 1/s, mean service s, squared coefficients of variation of gaps and service.  INFINITY
 * when the servers cannot keep up. */
double sched_plan_wait(double rate, double service_s, uint32_t servers, double ca2, double cs2);
/* P(wait > t). */
double sched_plan_tail(double rate, double service_s, uint32_t servers, double ca2, double cs2,
                       double t_s);
/* The wait that a share `miss` of the arrivals exceeds, s; the inverse of the tail. */
double sched_plan_quantile(double rate, double service_s, uint32_t servers, double ca2, double cs2,
                           double miss);
/* Smallest number of servers with P(wait > t) <= miss; at most SCHED_PLAN_WORKERS_MAX.  t below 0 (the service
 * alone takes longer than the target) counts as 0: hardly anybody waits. */
uint32_t sched_plan_prefill_workers(double rate, double service_s, double ca2, double cs2,
                                    double t_s, double miss);
/* Iteration time (s) and batch of one decode worker at `rate` requests/s of `out` tokens over a mean
 * context; false: it cannot keep up, or the law is unknown. */
bool sched_plan_decode(const struct sched_law *law, double rate, double out, double context,
                       double *step_s, double *batch);
/* Highest rate of one decode worker within 0.95 of the tbt and 0.98 of `room` tokens of KV (0: no bound).
 * 0: not even one stream; 1e9 stands for no bound at all. */
double sched_plan_decode_rate(const struct sched_law *law, double out, double context, double tbt_s,
                              double room);

/* ---- measured load: moments over the last minutes ---- */

struct sched_load_moments {
    double rate;    /* arrivals/s, decayed over 10 s and over 60 s: the larger */
    double rate_sd; /* of the rate at that time scale: for head-room */
    double ca2;     /* dispersion of counts at the TTFT scale: per bin of 0.5 s; 1: few seen */
    double service_s, cs2; /* prefill time of one prompt, uncached part */
    double out, context;   /* mean generated tokens; mean context while decoding */
};
/* Zero-initialise.  Decayed sums; private. */
struct sched_moments {
    double t_first, t_last, n10, n60; /* arrivals, decayed over 10 s and 60 s */
    double s1, s2;                    /* their prefill times and squares, over 60 s */
    double bin_start, bins, b1, b2;   /* closed bins, their counts and squares */
    double ends, o1, c1;              /* requests that ended, their tokens, tokens x context */
    uint32_t bin;                     /* arrivals in the open one */
};
void sched_moments_arrive(struct sched_moments *m, double now_s, double prefill_s);
void sched_moments_end(struct sched_moments *m, uint32_t n_prompt, uint32_t tokens);
void sched_moments_get(const struct sched_moments *m, double now_s, struct sched_load_moments *out);

/* ---- the controller ---- */

struct sched_plan_pool {
    uint32_t n;         /* workers of the role, not draining */
    double use;         /* measured share of time (prefill) or of room and time (decode), 0 .. 1+ */
    double use_if_less; /* the same with one worker less */
    bool can_give;      /* one of them can flip and is idle or soon free */
    bool late;          /* the tier targets of this stage are being missed now */
    bool gone;          /* it had workers, has none, and nobody else can do their work */
};
struct sched_plan_config {
    double interval_s, cooldown_s, high, low; /* high 0.9, low 0.8 of use; ticks needed: 3 */
    uint32_t min[3];                          /* by role */
};
/* Zero-initialise or sched_plan_init.  Private but for the counters. */
struct sched_plan {
    uint32_t ticks[3]; /* by the role that is short */
    uint32_t gone[3];  /* ticks in a row without any worker, by role */
    double not_before_s, cooldown_s, last_flip_s, asked_s, quiet_since_s;
    int last_dir; /* role the last flip went to */
    int going;    /* role the one in flight goes to */
    bool in_flight;
    uint64_t flips, reversals;
};
void sched_plan_init(struct sched_plan *p);
/* Once per interval.  Returns the role (1 prefill, 2 decode) that one worker should flip to; 0: none.
 *
 * A role is short while its use is above `high` (above `low` where its targets are missed) and the other one
 * would stay below `low` without one worker (below 1 and a quarter below the short one, where that misses
 * targets), misses none itself, and has more than its minimum.  Three ticks in
 * a row make a flip.  One is in flight at a time; the next comes after the cooldown, or ten times what the flip
 * took.  A flip back within a minute (or two cooldowns) doubles the cooldown, up to 10 minutes; every 5
 * minutes in which one could have come and did not halve it.
 *
 * A role that is gone is served by no request: the other one gives down to its minimum, however busy, as soon
 * as two seconds passed (a restart is quicker than a flip).  No pause holds this up but the plain cooldown after
 * a flip to the same role, whose worker may still be on its way. */
int sched_plan_tick(struct sched_plan *p, const struct sched_plan_config *c,
                    const struct sched_plan_pool *prefill, const struct sched_plan_pool *decode,
                    double now_s);
/* The flip ended, or failed.  One that nobody reports within two minutes counts as failed. */
void sched_plan_flipped(struct sched_plan *p, double now_s, bool done);

#endif
