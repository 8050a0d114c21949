/* scheduler/sched_baton_plan.h - private to sched_baton*.c: can one request be promised a tier, and by which workers.
 *
 *   baton_ask_init -> (candidates of the prefill role) -> baton_ask_tier -> baton_plan_find, tier by tier
 *
 * The plan names the prefill worker, who would have to make way there, and the decode worker, with all that was
 * predicted of them; nothing changes but what prices see (baton_price_look).  Who has it done is sched_baton.c.
 *
 * Thread: the scheduler's.  Ownership: the caller's, on its stack; workers and victims stay what they are while no event
 * is applied.  Units: ns, tokens. */
#ifndef SCHEDULER_SCHED_BATON_PLAN_H
#define SCHEDULER_SCHED_BATON_PLAN_H

#include "scheduler/sched_baton_parts.h"

/* One question: r, at one tier. */
struct baton_ask {
    struct sched *s;
    struct sched_request *r;
    struct sched_need need;
    uint32_t tier;
    uint64_t deadline, late, key; /* of the first token; for the queue; order */
    double tbt, weight, out;      /* out: median of tokens to come */
    double inflow, stay;          /* what tighter tiers bring in: see baton_inflow */
    bool entitled;                /* found by its tier's right: not to be evicted */
    struct sched_worker *p[SCHED_CANDIDATES_MAX], *d[SCHED_CANDIDATES_MAX];
    uint32_t n_p, n_d;
};

/* What is found at one tier. */
struct baton_plan {
    struct baton_prefill p, second;
    struct baton_decode d;
    struct baton_victims victims;
    struct baton_bill bill; /* if it is in time */
    double score, second_score;
    bool have, in_time; /* a prefill worker; it and all others are in time, victims gone */
    bool have_second;
};

/* What r needs, and the decode workers that may be asked; p is the caller's to fill. */
void baton_ask_init(struct baton_ask *a, struct sched *s, struct sched_request *r);
/* What a decode worker is asked about at the tier; baton_ask_tier: all that it stands for. */
void baton_ask_terms(struct baton_ask *a, uint32_t tier);
void baton_ask_tier(struct baton_ask *a, uint32_t tier);
/* One decode worker, for a prompt that is computed at `ready` on `from`. */
void baton_ask_decode(const struct baton_ask *a, const struct sched_worker *from, double ready,
                      struct sched_worker *w, struct baton_decode *out);

/* The best decode worker; ok without one (w NULL) where r needs none. */
void baton_plan_decode(const struct baton_ask *a, const struct sched_worker *from, double ready,
                       struct baton_decode *best);
/* Asks all prefill queues as they are.  v: SCHED_CANDIDATES_MAX, best first afterwards.  Returns how many. */
uint32_t baton_plan_queues(const struct baton_ask *a, struct baton_prefill *v,
                           struct baton_plan *plan);
/* Can it be promised at a->tier?  To one of a tier that starves neither price nor share applies, and it need not find its
 * decode room in time: looser streams are parked for it.  Only what could not be kept on idle workers is refused.
 * false: *why, and the plan is the nearest to it. */
bool baton_plan_find(struct baton_ask *a, struct baton_plan *plan, enum sched_reason *why);

/* ---- sched_baton_probe.c ------------------------------------------------------------------------ */

/* Refused for what was predicted, with workers that nobody has asked for long: run it, to see.  true: the plan is that. */
bool baton_probe_plan(struct baton_ask *a, struct baton_plan *plan, enum sched_reason why);

#endif
