/* scheduler/sched_elastic.c - how busy the two pools are, how many workers of each role the load
 * needs, and the change of a worker's role: drained first, told when nothing is left on it, back in
 * service if that takes too long.
 *
 * Use of the prefill pool: the share of time its workers had something to compute, or the offered
 * load.  Use of the decode pool: KV that is claimed, or how far a step is from the fixed cost to
 * the tightest target.  A refusal for want of a stage says more than its use: admission keeps use
 * below 1. */
#include <math.h>

#include "scheduler/sched_core.h"

#define DRAIN_LIMIT (30 * SCHED_SECOND) /* for its claims to go, and then for the worker to leave */
static const double SMOOTH = 0.5;       /* per interval */
static const double LATE_SHARE =
    0.01; /* of arrivals that missed or were refused for want of a stage */

static uint64_t elastic_interval(const struct sched *s)
{
    return s->cfg.elastic.interval_ns != 0 ? s->cfg.elastic.interval_ns : SCHED_SECOND;
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

/* ---- what was seen ---- */

void sched_elastic_arrive(struct sched *s, const struct sched_request *r)
{
    s->elastic.arrived++;
    if (r->isolated_ns != 0)
        sched_moments_arrive(&s->elastic.moments, seconds(s->now), seconds(r->isolated_ns));
}

/* A price is asked for the work of both stages: the fuller pool is what makes it high. */
static enum sched_role short_of(const struct sched *s, const struct sched_request *r)
{
    if (r->reason == SCHED_REASON_PRICE)
        return s->elastic.use[SCHED_ROLE_DECODE] > s->elastic.use[SCHED_ROLE_PREFILL]
                   ? SCHED_ROLE_DECODE
                   : SCHED_ROLE_PREFILL;
    switch (r->lacks) {
    case SCHED_RES_PREFILL_TIME:
        return SCHED_ROLE_PREFILL;
    case SCHED_RES_DECODE_ROOM:
    case SCHED_RES_DECODE_TIME:
        return SCHED_ROLE_DECODE;
    case SCHED_RES_NONE:
    case SCHED_RES_LINK_TIME:
    case SCHED_RES_QUEUE:
    case SCHED_RES_TENANT:
        break;
    }
    switch (r->cause) {
    case SCHED_CAUSE_QUEUE:
    case SCHED_CAUSE_PREFILL:
        return SCHED_ROLE_PREFILL;
    case SCHED_CAUSE_DECODE_WAIT:
    case SCHED_CAUSE_DECODE:
        return SCHED_ROLE_DECODE;
    case SCHED_CAUSE_NONE:
    case SCHED_CAUSE_HANDOVER:
    case SCHED_CAUSE_FAILURE:
        break;
    }
    return (enum sched_role)0;
}

void sched_elastic_end(struct sched *s, const struct sched_request *r)
{
    if (r->outcome == SCHED_OUT_KEPT || r->outcome == SCHED_OUT_MISSED)
        sched_moments_end(&s->elastic.moments, r->n_prompt, r->delivered);
    if (r->outcome == SCHED_OUT_REFUSED || r->outcome == SCHED_OUT_MISSED)
        s->elastic.missed[short_of(s, r)]++;
}

/* Called before w->outstanding changes. */
void sched_elastic_busy(struct sched *s, struct sched_worker *w)
{
    if (w->outstanding > 0)
        s->elastic.busy_ns[w->shape->role] += (double)(s->now - w->busy_ns);
    w->busy_ns = s->now;
}

/* ---- use ---- */

static double prefill_use(struct sched *s, double dt)
{
    struct sched_load_moments m;
    uint32_t n = s->pool[SCHED_ROLE_PREFILL].n;
    double busy;

    for (struct sched_worker *w = s->first_worker[SCHED_ROLE_PREFILL]; w != NULL; w = w->next)
        sched_elastic_busy(s, w);
    busy = s->elastic.busy_ns[SCHED_ROLE_PREFILL];
    s->elastic.busy_ns[SCHED_ROLE_PREFILL] = 0;
    if (n == 0)
        return 1;
    sched_moments_get(&s->elastic.moments, seconds(s->now), &m);
    return fmax(busy / (dt * n), m.rate * m.service_s / n);
}

static uint64_t tightest_tbt(const struct sched *s, const struct sched_worker *w)
{
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        if (w->decoding_tier[t] > 0)
            return s->cfg.tiers[t].tbt_ns;
    }
    return s->cfg.tiers[s->cfg.n_tiers - 1].tbt_ns;
}

static double decode_time_use(const struct sched *s, const struct sched_worker *w, double more)
{
    struct sched_law law = sched_decode_law(s, w);
    double fixed = law.c[0], limit = 0.95 * (double)tightest_tbt(s, w), step;

    if (!sched_law_known(&law) || limit <= fixed)
        return 0;
    step = sched_law_decode(&law, more * w->claims,
                            more * w->claimed_blocks * (double)w->shape->block_tokens);
    return (step - fixed) / (limit - fixed);
}

/* Mean over the pool; more: how much larger each one's load would be with fewer workers. */
static double decode_use(const struct sched *s, double more)
{
    uint32_t n = s->pool[SCHED_ROLE_DECODE].n;
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct sched_worker *w = s->pool[SCHED_ROLE_DECODE].v[i];
        double room = more * ((double)w->claimed_blocks + w->promised_blocks) / w->shape->n_blocks;

        sum += fmax(room, decode_time_use(s, w, more));
    }
    return n == 0 ? 1 : sum / n;
}

static double smooth(double *is, double now)
{
    *is += SMOOTH * (now - *is);
    return *is;
}

static bool is_late(const struct sched *s, enum sched_role role)
{
    double missed = s->elastic.missed[role];

    return missed >= 2 && missed > LATE_SHARE * s->elastic.arrived;
}

/* ---- who changes its role ---- */

static struct sched_worker *giver(const struct sched *s, enum sched_role role)
{
    struct sched_worker *best = NULL;

    for (struct sched_worker *w = s->first_worker[role]; w != NULL; w = w->next) {
        if (w->draining || !w->can_flip)
            continue;
        if (best == NULL || w->claims + w->waiting.count < best->claims + best->waiting.count)
            best = w;
    }
    return best;
}

/* Decode workers may compute prompts themselves: then a lost prefill pool is not the end. */
static bool others_prefill(const struct sched *s)
{
    for (uint32_t i = 0; i < s->pool[SCHED_ROLE_DECODE].n; i++) {
        if (s->cfg.local_prefill && s->pool[SCHED_ROLE_DECODE].v[i]->can_prefill)
            return true;
    }
    return false;
}

static bool is_gone(const struct sched *s, enum sched_role role)
{
    return s->pool[role].n == 0 && s->had[role] &&
           (role == SCHED_ROLE_DECODE || !others_prefill(s));
}

static struct sched_plan_pool pool_of(const struct sched *s, enum sched_role role)
{
    uint32_t n = s->pool[role].n;
    double more = n > 1 ? (double)n / (n - 1) : 1e9;

    return (struct sched_plan_pool){.n = n,
                                    .use = s->elastic.use[role],
                                    .use_if_less = s->elastic.use[role] * more,
                                    .can_give = giver(s, role) != NULL,
                                    .late = is_late(s, role),
                                    .gone = is_gone(s, role)};
}

static void begin_flip(struct sched *s, enum sched_role to)
{
    enum sched_role from = to == SCHED_ROLE_PREFILL ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL;
    struct sched_worker *w = giver(s, from);

    if (w == NULL) {
        sched_plan_flipped(&s->elastic.plan, seconds(s->now), false);
        return;
    }
    w->flipping = true;
    s->elastic.flipping = w->id;
    s->elastic.told = false;
    s->elastic.flip_until_ns = sched_after(s->now, DRAIN_LIMIT);
    sched_ledger_drain(s, w);
    sched_queue_unbind_all(s, w);
    if (s->policy->worker != NULL)
        s->policy->worker(s, w, SCHED_EV_WORKER_DRAIN);
}

static void end_flip(struct sched *s, bool done)
{
    s->elastic.flipping = 0;
    s->elastic.told = false;
    sched_plan_flipped(&s->elastic.plan, seconds(s->now), done);
}

void sched_elastic_gone(struct sched *s, struct sched_worker *w)
{
    if (w->flipping) {
        w->flipping = false;
        end_flip(s, s->elastic.told);
    }
}

/* Nothing is left on it: now.  What it computed and others decode by now does not need it any more.
 * Too long, or it is the last of its role by now: back into service. */
static void go_on_flipping(struct sched *s, struct sched_actions *out)
{
    struct sched_worker *w = sched_ledger_worker(s, s->elastic.flipping);

    if (w == NULL)
        return;
    if (s->now >= s->elastic.flip_until_ns || (!s->elastic.told && is_gone(s, w->shape->role))) {
        w->flipping = false;
        end_flip(s, false);
        sched_ledger_undrain(s, w);
        sched_queue_recall_unfit(s);
        s->wake = true;
    } else if (!s->elastic.told && w->claims == 0) {
        s->elastic.told = true;
        s->elastic.flip_until_ns = sched_after(s->now, DRAIN_LIMIT);
        s->stats.flips++;
        s->stats.reversals = s->elastic.plan.reversals;
        sched_act(out, SCHED_ACT_FLIP, NULL)->worker = w->id;
    }
}

/* ---- how many there should be ---- */

static uint32_t want_prefill(const struct sched *s, const struct sched_load_moments *m)
{
    double target = 0, arrived = 0;

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        double n = (double)s->tier_stats[t].arrived;

        target += n * seconds(s->cfg.tiers[t].ttft_ns);
        arrived += n;
    }
    if (m->rate <= 0 || m->service_s <= 0 || arrived <= 0)
        return 0;
    return sched_plan_prefill_workers(m->rate + m->rate_sd, m->service_s, m->ca2, m->cs2,
                                      target / arrived - m->service_s, 0.05);
}

static uint32_t want_decode(const struct sched *s, const struct sched_load_moments *m)
{
    const struct sched_worker *w = s->first_worker[SCHED_ROLE_DECODE];
    struct sched_law law;
    double room, rate, n;

    if (w == NULL || m->rate <= 0 || m->out <= 0)
        return 0;
    law = sched_decode_law(s, w);
    room = (double)w->shape->n_blocks * w->shape->block_tokens;
    rate = sched_plan_decode_rate(&law, m->out, m->context, seconds(s->cfg.tiers[0].tbt_ns), room);
    n = rate > 0 ? ceil((m->rate + m->rate_sd) / rate) : 0;
    return n < SCHED_PLAN_WORKERS_MAX ? (uint32_t)n : SCHED_PLAN_WORKERS_MAX;
}

static uint32_t at_least(uint32_t n, uint32_t low)
{
    low = low == 0 ? 1 : low;
    return n == 0 ? 0 : n < low ? low : n;
}

static void count_wanted(struct sched *s, struct sched_actions *out)
{
    struct sched_load_moments m;
    uint32_t p, d;

    sched_moments_get(&s->elastic.moments, seconds(s->now), &m);
    p = at_least(want_prefill(s, &m), s->cfg.elastic.min_prefill);
    d = at_least(want_decode(s, &m), s->cfg.elastic.min_decode);
    if (p == s->stats.want[SCHED_ROLE_PREFILL] && d == s->stats.want[SCHED_ROLE_DECODE])
        return;
    s->stats.want[SCHED_ROLE_PREFILL] = p;
    s->stats.want[SCHED_ROLE_DECODE] = d;
    if (s->cfg.elastic.on && p > 0 && d > 0) {
        struct sched_action *act = sched_act(out, SCHED_ACT_SCALE, NULL);

        act->scale.want[SCHED_ROLE_PREFILL] = p;
        act->scale.want[SCHED_ROLE_DECODE] = d;
    }
}

/* ---- once per interval ---- */

void sched_elastic_tick(struct sched *s, struct sched_actions *out)
{
    const struct sched_elastic *c = &s->cfg.elastic;
    struct sched_plan_config pc = {
        .interval_s = seconds(elastic_interval(s)),
        .cooldown_s = c->cooldown_ns != 0 ? seconds(c->cooldown_ns) : 10,
        .high = 0.9,
        .low = 0.8,
        .min = {0, c->min_prefill > 0 ? c->min_prefill : 1, c->min_decode > 0 ? c->min_decode : 1}};
    struct sched_plan_pool p, d;
    double dt = seconds(s->now - s->elastic.last_ns);
    bool first = s->elastic.last_ns == 0;
    int to;

    if (!sched_actions_reserve(out, 2))
        return; /* at the next event */
    s->next_plan = sched_after(s->now, elastic_interval(s));
    s->elastic.last_ns = s->now;
    if (first)
        return; /* nothing was measured yet */
    smooth(&s->elastic.use[SCHED_ROLE_PREFILL], prefill_use(s, dt * 1e9));
    smooth(&s->elastic.use[SCHED_ROLE_DECODE], decode_use(s, 1));
    count_wanted(s, out);
    if (c->on) {
        go_on_flipping(s, out);
        p = pool_of(s, SCHED_ROLE_PREFILL);
        d = pool_of(s, SCHED_ROLE_DECODE);
        to = sched_plan_tick(&s->elastic.plan, &pc, &p, &d, seconds(s->now));
        if (to != 0 && s->elastic.flipping == 0)
            begin_flip(s, (enum sched_role)to);
    }
    s->elastic.arrived = 0;
    s->elastic.missed[0] = s->elastic.missed[1] = s->elastic.missed[2] = 0;
}
