/* scheduler/sched_plan.h - how many workers of each role the measured load needs, and when one should change
 * its role.  Formulas are pure; the flip controller is a small value with no clock of its own.
 *
 * Prefill: an M/G/k queue; Erlang C for the chance to wait, Allen-Cunneen for G, exponential tail.  Decode:
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

double sched_plan_erlang_c(double offered,
                           uint32_t servers); /* P(wait); 1 when offered >= servers */
/* Mean wait in s; rate 1/s, mean service s, squared coefficients of variation of gaps and service. */
double sched_plan_wait(double rate, double service_s, uint32_t servers, double ca2, double cs2);
/* P(wait > t). */
double sched_plan_tail(double rate, double service_s, uint32_t servers, double ca2, double cs2,
                       double t_s);
/* Smallest number of servers with P(wait > t) <= miss; at most 100000. */
uint32_t sched_plan_prefill_workers(double rate, double service_s, double ca2, double cs2,
                                    double t_s, double miss);
/* Iteration time (s) and batch of one decode worker at `rate` requests/s of `out` tokens over a mean
 * context; false: it cannot keep up. */
bool sched_plan_decode(const struct sched_law *law, double rate, double out, double context,
                       double *step_s, double *batch);
/* Highest rate of one decode worker within 0.95 of the tbt and 0.98 of `room` tokens of KV. */
double sched_plan_decode_rate(const struct sched_law *law, double out, double context, double tbt_s,
                              double room);

/* ---- measured load: moments over the last minutes ---- */

struct sched_load_moments {
    double rate;           /* arrivals/s, decayed over 10 s and over 60 s: the larger */
    double rate_sd;        /* of the rate at that time scale: for head-room */
    double ca2;            /* dispersion of counts at the TTFT scale */
    double service_s, cs2; /* prefill time of one prompt, uncached part */
    double out, context;   /* mean generated tokens; mean context while decoding */
};
struct sched_moments {
    double t_last, mean_gap;
    double rate10, rate60, count_mean, count_var;
    double s1, s2, o1, c1, w;
    double bin_start;
    uint32_t bin;
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
};
struct sched_plan_config {
    double interval_s, cooldown_s, high, low; /* high 0.9, low 0.8 of use; ticks needed: 3 */
    uint32_t min[3];                          /* by role */
};
struct sched_plan {
    uint32_t ticks[3]; /* by the role that is short */
    double not_before_s, cooldown_s, last_flip_s;
    int last_dir; /* role the last flip went to */
    bool in_flight;
    uint64_t flips, reversals;
};
void sched_plan_init(struct sched_plan *p);
/* Once per interval.  Returns the role (1 prefill, 2 decode) that one worker should flip to; 0: none. */
int sched_plan_tick(struct sched_plan *p, const struct sched_plan_config *c,
                    const struct sched_plan_pool *prefill, const struct sched_plan_pool *decode,
                    double now_s);
void sched_plan_flipped(struct sched_plan *p, double now_s,
                        bool done); /* the flip ended, or failed */

#endif
