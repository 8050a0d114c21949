/* bench/bound.h - the clairvoyant bound: more kept weight than any schedule could reach that knows all
 * arrivals and lengths beforehand.
 *
 * Relaxation: work may be split at will over the machines of its kind and over time, inside its window.
 *     max  sum v_j x_j,  0 <= x_j <= 1
 *     prefill work p_j x_j inside [at_j, prefill_until_j], on M machines
 *     decode work  d_j x_j inside [decode_from_j, decode_until_j], on N machines
 * Its Lagrangian dual, with a price per second for each slot of time,
 *     M sum lam_t dt + N sum mu_t dt + sum_j max(0, v_j - p_j min lam - d_j min mu)     (min over the window)
 * is above the optimum for any prices >= 0, so the prices may be found by any means: here by descent on a
 * smooth copy (minima replaced by soft ones, sharper from round to round), and the value that is returned is the
 * dual itself at the best prices seen.  Where a decode machine may compute a prompt, p_j min lam becomes
 * min(p_j min lam, local_j min mu over the prefill window).
 *
 * Thread: any.  Units: s; values in any unit. */
#ifndef BENCH_BOUND_H
#define BENCH_BOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct bench_bound_item {
    double value;
    double at, prefill_until;         /* window of the prompt */
    double decode_from, decode_until; /* window of the rest */
    double prefill_s, decode_s;       /* machine time: no more than it really needs */
    double local_s;                   /* of the prompt, on a decode machine */
};
struct bench_bound_problem {
    const struct bench_bound_item *v;
    size_t n;
    double prefill_machines, decode_machines;
    bool local;      /* prompts may be computed on decode machines */
    double slot_s;   /* length of a slot; 0: 0.25 s, more for long runs */
    uint32_t rounds; /* 0: 600 */
};
/* ERR_INVALID: a value, window or work that is negative or not finite.  ERR_NOMEM. */
MUST_USE enum err bench_bound(const struct bench_bound_problem *p, struct err_msg *msg,
                              double *bound);

#endif
