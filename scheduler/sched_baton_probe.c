/* scheduler/sched_baton_probe.c - what nobody knows yet, and what was believed too long: slow start and probes.
 *
 * A class of workers without a profile is learned from its first requests.  What was seen of small batches says
 * little about large ones, so a decode worker takes no more than twice the context that its class was seen with,
 * and a prefill worker two prompts before eight steps were seen; the rest waits, which takes a second or two.
 *
 * What is refused is not run, and what is not run teaches nothing: a belief that is too slow (the class file of
 * another machine, a worker that has recovered) would refuse for ever.  So a request that times alone would
 * refuse goes, now and then, to a worker that has nothing to do and was not heard of for a while: a probe.  It
 * delays nobody.  Its promise counts like any other; margins do not learn from it, since it was not made by
 * what they steer.
 *
 * One at a time per stage.  One that shows that the belief was right doubles the pause before the next, so that
 * requests which can never be in time cost next to nothing; one that was surprised makes it short again. */
#include "scheduler/sched_baton_plan.h"

static struct baton_probe *probe_of(const struct sched *s, enum sched_stage stage)
{
    struct sched_baton *b = baton_of(s);

    return &b->probe[stage == SCHED_STAGE_DECODE];
}

/* Nothing runs there, nothing is bound there, and no step was reported lately. */
static bool probe_unseen(const struct sched *s, const struct sched_worker *w)
{
    bool busy = sched_edf_count(&w->edf) > 0 || w->claims > 0 || w->promised > 0;

    return !busy && !w->klass->c.frozen &&
           (double)(s->now - w->baton.seen_ns) >= baton_c.probe_idle;
}

static bool probe_due(const struct sched *s, const struct sched_worker *w, enum sched_stage stage)
{
    const struct baton_probe *p = probe_of(s, stage);

    return p->request == 0 && s->now >= p->next_ns && probe_unseen(s, w);
}

static void probe_start(struct sched *s, struct sched_request *r, enum sched_stage stage,
                        double predicted)
{
    struct baton_probe *p = probe_of(s, stage);

    p->request = r->id;
    p->predicted = predicted;
    r->probe = true;
    s->tier_stats[r->tier_asked].probes++;
}

bool baton_probe_plan(struct baton_ask *a, struct baton_plan *plan, enum sched_reason why)
{
    enum sched_stage stage = why == SCHED_REASON_TTFT ? SCHED_STAGE_PREFILL : SCHED_STAGE_DECODE;
    struct baton_prefill p;

    if ((why != SCHED_REASON_TTFT && why != SCHED_REASON_TBT) || !plan->have || a->r->evicted > 0)
        return false;
    for (uint32_t i = 0; stage == SCHED_STAGE_PREFILL && i < a->n_p; i++) {
        if (!probe_due(a->s, a->p[i], stage))
            continue;
        baton_prefill_try(a->s, a->r, a->p[i], a->tier, a->key, a->late, &p);
        baton_plan_decode(a, p.w, p.finish, &plan->d);
        plan->p = p;
        plan->victims.n = 0;
        plan->have_second = false;
        if (plan->d.ok || (plan->d.w != NULL && plan->d.w->claims + plan->d.w->promised == 0)) {
            probe_start(a->s, a->r, stage, p.work);
            return true;
        }
    }
    if (!plan->in_time || plan->victims.n > 0 || plan->p.local)
        return false;
    for (uint32_t i = 0; stage == SCHED_STAGE_DECODE && i < a->n_d; i++) {
        if (!probe_due(a->s, a->d[i], stage))
            continue;
        baton_ask_decode(a, plan->p.w, plan->p.finish, a->d[i], &plan->d);
        probe_start(a->s, a->r, stage, plan->d.step);
        return true;
    }
    return false;
}

/* actual <= 0: it ended without an answer. */
static void probe_over(struct sched *s, struct baton_probe *p, double actual)
{
    bool right = actual > baton_c.probe_right * p->predicted;

    if (actual > 0) {
        p->wait = right ? 2 * p->wait : 0;
        p->wait = p->wait < baton_c.probe_idle ? baton_c.probe_idle : p->wait;
        p->wait = p->wait > baton_c.probe_wait ? baton_c.probe_wait : p->wait;
    }
    p->next_ns = sched_after(s->now, (uint64_t)p->wait);
    p->request = 0;
}

void baton_probe_end(struct sched *s, const struct sched_request *r)
{
    struct sched_baton *b = baton_of(s);
    double first = r->first_ns > r->dispatched_ns ? (double)(r->first_ns - r->dispatched_ns) : 0;
    double step = r->delivered > 1 && r->first_ns != 0 && s->now > r->first_ns
                      ? (double)(s->now - r->first_ns) / (r->delivered - 1)
                      : 0;

    if (b->probe[0].request == r->id)
        probe_over(s, &b->probe[0], first);
    if (b->probe[1].request == r->id)
        probe_over(s, &b->probe[1], step);
}

/* Told nothing, and not known by experience to be exact. */
static bool cold_class(const struct sched_law *seed, const struct sched_worker *w)
{
    return !w->klass->c.frozen && !sched_law_known(seed);
}

/* It has had work for long, and nobody of its class ever said how long a step took. */
static bool cold_mute(const struct sched *s, const struct sched_worker *w,
                      const struct sched_predict *of)
{
    return of->n == 0 && w->baton.work_ns != 0 &&
           (double)(s->now - w->baton.work_ns) > baton_c.cold_mute;
}

static double cold_tightest(const struct sched *s)
{
    uint64_t least = s->cfg.tiers[0].tbt_ns;

    for (uint32_t t = 1; t < s->cfg.n_tiers; t++)
        least = s->cfg.tiers[t].tbt_ns < least ? s->cfg.tiers[t].tbt_ns : least;
    return (double)least;
}

/* Steps that were seen to come near the tightest time between tokens say all there is to know: longer ones are
 * not run. */
bool baton_cold(const struct sched *s, const struct sched_worker *p, const struct sched_worker *d,
                double tokens)
{
    double reach = d != NULL ? baton_c.cold_reach * d->klass->most_context : 0;
    struct sched_law law;
    uint32_t n;

    if (p->shape->role == SCHED_ROLE_PREFILL && cold_class(&p->klass->prefill.seed, p) &&
        !cold_mute(s, p, &p->klass->prefill) && p->klass->prefill.n < BATON_COLD_STEPS &&
        sched_edf_count(&p->edf) >= BATON_COLD_PROMPTS)
        return true;
    if (d == NULL || !cold_class(&d->klass->decode.seed, d) || cold_mute(s, d, &d->klass->decode))
        return false;
    tokens += baton_load_total(d, &n);
    law = sched_decode_law(s, d);
    return n >= BATON_COLD_STREAMS && tokens > reach &&
           sched_law_decode(&law, n, reach) < baton_c.tbt_share * cold_tightest(s);
}
