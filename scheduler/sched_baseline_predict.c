/* scheduler/sched_baseline_predict.c - baselines that predict: llm-d's token load and predicted
 * latency, Mooncake's early rejection.
 *
 * Sources: scheduler plugin pages of llm-d (2026) and its blog of 2026-08-17; Mooncake (FAST'25),
 * algorithm 1. */
#include <math.h>

#include "scheduler/sched_baseline.h"
#include "scheduler/sched_core.h"

/* ---- llm-d: sticky until saturated ---- */

/* A worker with the prefix keeps its session until its uncached tokens in flight take so long to
 * compute. */
static const double STICKY_NS = 14e9;

static uint32_t prefix_on(const struct sched_request *r, const struct sched_worker *w)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < r->n_prefix; i++) {
        if (r->prefix[i].worker == w->id && r->prefix[i].tokens > most)
            most = r->prefix[i].tokens;
    }
    return most;
}

/* The open worker with the longest prefix of r; NULL: none has any. */
static struct sched_worker *holder(const struct sched *s, const struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);
    struct sched_worker *best = NULL;

    for (uint32_t i = 0; i < r->n_prefix; i++) {
        struct sched_worker *w =
            r->prefix[i].worker == 0 ? NULL : sched_ledger_worker(s, r->prefix[i].worker);

        if (w != NULL && w->shape->role == SCHED_ROLE_PREFILL && sched_worker_fits(w, &need) &&
            (best == NULL || prefix_on(r, w) > prefix_on(r, best)))
            best = w;
    }
    return best;
}

static struct sched_worker *decode_least(const struct sched *s, const struct sched_request *r)
{
    return sched_baseline_needs_decode(r) ? sched_baseline_least(s, SCHED_ROLE_DECODE, r) : NULL;
}

static void place_token_load(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct sched_worker *p = holder(s, r);

    if (p == NULL || sched_edf_work(&p->edf) > STICKY_NS)
        p = sched_baseline_least(s, SCHED_ROLE_PREFILL, r);
    sched_baseline_bind(s, r, p, decode_least(s, r), r->arrived_ns, out);
}

static struct sched_worker *redecide_least(struct sched *s, struct sched_request *r)
{
    return sched_baseline_least(s, SCHED_ROLE_DECODE, r);
}

const struct sched_policy sched_policy_llmd_token_load = {
    .name = "llmd-token-load",
    .baseline = true,
    .what = "llm-d: the worker with the prefix until its tokens in flight "
            "exceed 14 s, else the least loaded",
    .place = place_token_load,
    .redecide = redecide_least};

/* ---- what a pair would give ---- */

static double ttft_on(const struct sched *s, const struct sched_request *r,
                      const struct sched_worker *p, uint64_t key)
{
    return sched_worker_start(s, p) + sched_edf_before(&p->edf, key, r->id) +
           sched_work_ns(s, r, p, NULL) - (double)r->arrived_ns;
}

/* Iteration time of d with r in its batch. */
static double step_on(const struct sched *s, const struct sched_request *r,
                      const struct sched_worker *d)
{
    struct sched_law law = sched_decode_law(s, d);
    double batch = (double)d->claims + d->promised + 1;
    double ctx = ((double)d->claimed_blocks + d->promised_blocks) * d->shape->block_tokens +
                 (double)r->n_prompt;

    return sched_law_known(&law) ? sched_law_decode(&law, batch, ctx) : 0;
}

/* Blocks that it would lack. */
static double lacks(const struct sched_worker *d, const struct sched_request *r)
{
    return (double)d->claimed_blocks + d->promised_blocks + sched_ledger_expected(d, r) -
           d->shape->n_blocks;
}

/* ---- llm-d: predicted latency ---- */

/* Its flow control serves strict bands of priority, deadlines inside a band. */
static uint64_t band_key(const struct sched_request *r)
{
    const uint64_t us_max = ((uint64_t)1 << 60) - 1;
    uint64_t us = r->deadline_ns / 1000;

    return (uint64_t)r->tier << 60 | (us < us_max ? us : us_max);
}

/* Least headroom first, so that workers are filled to the edge of the target; without any, the one
 * that misses by least.  *valid: it keeps the target. */
struct best {
    struct sched_worker *w;
    double room;
};

static void consider(struct best *b, struct sched_worker *w, double room)
{
    bool better = b->w == NULL || (b->room >= 0 && room >= 0 ? room < b->room : room > b->room);

    if (better)
        *b = (struct best){w, room};
}

static struct best prefill_by_headroom(const struct sched *s, const struct sched_request *r)
{
    double target = (double)(r->deadline_ns - r->arrived_ns);
    struct sched_worker *sticky = holder(s, r);
    struct sched_need need = sched_request_need(r);
    struct best b = {NULL, 0};

    for (struct sched_worker *w = s->first_worker[SCHED_ROLE_PREFILL]; w != NULL; w = w->next) {
        if (sched_worker_fits(w, &need))
            consider(&b, w, target - ttft_on(s, r, w, band_key(r)));
    }
    /* affinity: a worker with four fifths of the prompt, unless that costs more than 5 s */
    if (sticky != NULL && prefix_on(r, sticky) >= 0.8 * r->n_prompt) {
        double room = target - ttft_on(s, r, sticky, band_key(r));

        if (b.room - room < 5e9)
            b = (struct best){sticky, room};
    }
    return b;
}

/* A worker without room for it keeps it waiting: that is a predicted miss, the worse the more it lacks. */
static double decode_headroom(const struct sched *s, const struct sched_request *r,
                              const struct sched_worker *w)
{
    double short_of = lacks(w, r);

    return short_of > 0 ? -short_of * 1e6 : (double)r->tbt_ns - step_on(s, r, w);
}

static struct best decode_by_headroom(const struct sched *s, const struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);
    struct best b = {NULL, 0};

    for (struct sched_worker *w = s->first_worker[SCHED_ROLE_DECODE]; w != NULL; w = w->next) {
        if (sched_worker_fits(w, &need))
            consider(&b, w, decode_headroom(s, r, w));
    }
    return b;
}

static bool any_idle(const struct sched *s)
{
    for (const struct sched_worker *w = s->first_worker[SCHED_ROLE_PREFILL]; w != NULL;
         w = w->next) {
        if (!w->draining && sched_edf_count(&w->edf) == 0)
            return true;
    }
    return false;
}

static void refuse(struct sched_offer *out, enum sched_reason why, enum sched_resource what,
                   double predicted, uint64_t target)
{
    out->verdict = SCHED_REFUSE;
    out->reason = why;
    out->refusal.resource = what;
    out->refusal.predicted_ns = predicted > 0 && predicted < 1e18 ? (uint64_t)predicted : 0;
    out->refusal.target_ns = target;
}

/* The score 0.8 x TTFT + 0.2 x TPOT is a sum over the two workers: each side has its own best.
 * Only the lowest tier is shed, and only when nothing would keep its targets and nothing is idle. */
static void place_predicted(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct best p = prefill_by_headroom(s, r), d = {NULL, 0};
    bool decode = sched_baseline_needs_decode(r), valid;

    if (decode)
        d = decode_by_headroom(s, r);
    if (p.w == NULL || (decode && d.w == NULL))
        return;
    valid = p.room >= 0 && d.room >= 0;
    if (!valid && r->tier + 1u == s->cfg.n_tiers && !r->admitted && !any_idle(s)) {
        uint64_t target = r->deadline_ns - r->arrived_ns;

        if (p.room < 0)
            refuse(out, SCHED_REASON_TTFT, SCHED_RES_PREFILL_TIME, (double)target - p.room, target);
        else
            refuse(out, SCHED_REASON_TBT, SCHED_RES_DECODE_TIME, (double)r->tbt_ns - d.room,
                   r->tbt_ns);
        return;
    }
    sched_baseline_bind(s, r, p.w, d.w, band_key(r), out);
}

const struct sched_policy sched_policy_llmd_predicted = {
    .name = "llmd-predicted",
    .baseline = true,
    .what = "llm-d: deadline order, least predicted headroom, sheds the lowest "
            "tier alone",
    .place = place_predicted};

/* ---- Mooncake ---- */

static struct sched_worker *quickest(const struct sched *s, const struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);
    struct sched_worker *best = NULL;
    double least = INFINITY;

    for (struct sched_worker *w = s->first_worker[SCHED_ROLE_PREFILL]; w != NULL; w = w->next) {
        double ttft = sched_worker_fits(w, &need) ? ttft_on(s, r, w, r->arrived_ns) : INFINITY;

        if (ttft < least) {
            best = w;
            least = ttft;
        }
    }
    return best;
}

/* Refused on arrival when the prefill or the decode side is predicted to miss, whatever the tier. */
static void place_mooncake(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct sched_worker *p = quickest(s, r), *d = decode_least(s, r);
    uint64_t target = r->deadline_ns - r->arrived_ns;
    double ttft, step;

    if (p == NULL || (d == NULL && sched_baseline_needs_decode(r)))
        return;
    ttft = ttft_on(s, r, p, r->arrived_ns);
    step = d == NULL ? 0 : step_on(s, r, d);
    if (r->admitted || r->waits_in == SCHED_WAITS_HELD)
        ttft = step = 0; /* decided once, on arrival */
    if (ttft > (double)target)
        refuse(out, SCHED_REASON_TTFT, SCHED_RES_PREFILL_TIME, ttft, target);
    else if (step > (double)r->tbt_ns)
        refuse(out, SCHED_REASON_TBT, SCHED_RES_DECODE_TIME, step, r->tbt_ns);
    else if (d != NULL && !r->admitted && lacks(d, r) > 0)
        refuse(out, SCHED_REASON_TBT, SCHED_RES_DECODE_ROOM, 0, 0);
    else
        sched_baseline_bind(s, r, p, d, r->arrived_ns, out);
}

const struct sched_policy sched_policy_mooncake = {
    .name = "mooncake-early-reject",
    .baseline = true,
    .what = "Mooncake: least predicted TTFT; refuses on arrival what would "
            "miss, blind to tiers",
    .place = place_mooncake,
    .redecide = redecide_least};
