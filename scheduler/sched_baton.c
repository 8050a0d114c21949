/* scheduler/sched_baton.c - the policy "baton": every request gets a promise over both stages that can be kept,
 * or an answer at once.
 *
 * One question per tier it may be served at: is there a prefill worker where it is in time and makes nobody
 * late, or where those that would have to make way are worth less; and a decode worker that will have its
 * room and its step time when the prompt is computed.  If several, the triple with the earliest predicted
 * finish.  If none, the tier's rule: wait, the next looser tier, or a refusal that says what was short. */
#include "scheduler/sched_baton_plan.h"

#include <math.h>

#include "base/mem.h"
#include "scheduler/sched_num.h"

/* One set for all loads.  [ref]: from published or measured rules for such pools, kept as it was;
 * [sim]: chosen by simulation over several traces and seeds. */
const struct baton_constants baton_c = {
    .room_share = 0.98, /* [ref] of the KV room that promises may fill */
    .room_least = 0.5,  /* of it that counts though it makes steps too long for the tightest */
    .time_share = 0.95, /* of the KV that steps can carry in time */
    .turn_room = 2.5,   /* [sim] steps of the tightest that the room has tokens for, at most */
    .tbt_share = 0.97,  /* [ref] of the time between tokens that a step may take */
    .wait_share = 0.8,  /* [ref] of the slack that a stream builds up, for its wait */
    .refresh_ns = 3e8,  /* [sim] age at which a load is counted anew: more often gains no share */

    .guard_ns = 3e6,      /* messages and the end of the running step */
    .density_power = 1.5, /* [sim] of the weight in work per weight: who is evicted first */
    .local_gain =
        1e8, /* [sim] ns that a prompt must be done earlier there to leave a prefill worker that is in time */
    .local_use =
        0.85, /* room of a decode worker above which it computes no prompts of its own: below, it has no price */
    .local_ahead =
        3e8, /* [sim] ns ahead in which its spare time is known: who comes next takes the rest */
    .local_tbt = 0.9, /* of the tightest time between tokens there, for steps with prompt chunks */
    .exposed = 0.2,   /* part of a hand-over that is not hidden behind the prompt */
    .link_slow =
        0.5, /* hand-overs may keep a decode worker's link busy for so long, per time that its prompts take */

    .link_busy = 0.9, /* part of a link's time that tighter tiers are taken to need, at most */

    .margin_step = 0.05,  /* [ref] of the conformal margin on decode waits */
    .margin_max = 8,      /* [ref] */
    .spare_step = 0.0015, /* [sim] of a decode worker's room, per broken promise there */
    .spare_max = 0.3,
    .broken_part =
        0.75, /* of the broken promises that a tier's percentile allows: what margins steer to */
    .stretch_start = 1.08, /* [ref] of predicted prefill work */
    .stretch_min = 1.02,
    .stretch_max = 1.5,
    .stretch_step = 0.01,
    .pad_start = 1, /* of a step that a first token waits for prompts beside its own */
    .pad_max = 2,   /* the step that runs, and all of its own */
    .pad_step = 0.25,
    .pad_share = 0.1, /* of the time to first token, that it may take at most */

    .rate_s = 10,         /* decay of arriving work */
    .load_free = 0.95,    /* [sim] arriving work per capacity below which nothing has a price */
    .load_full = 1.05,    /* [sim] and from which on prices are whole */
    .inflow_seen = 0.2,   /* part of that time from which on its start is made up for */
    .inflow_swing = 0.7,  /* standard deviations of that and of its estimate, kept free */
    .inflow_s = 5,        /* [ref] decay of what tighter tiers bring in */
    .mean_step = 0.002,   /* decay of mean work and value, per arrival */
    .value_power = 2,     /* [sim] of the weight, where prices decide: tiers before sizes */
    .price_s = 0.5,       /* [sim] decay of what prices see of the queues */
    .price_prefill = 0.6, /* [sim] price when the loosest tier's whole time lies before a worker */
    .price_decode = 0.15, /* [sim] price when all room is asked for */
    .price_alike = 6,  /* [sim] times the price where those turned away are worth as much as all */
    .room_free = 0.85, /* [sim] part of the room that is free of charge */
    .hurt_share = 0.005, /* [sim] of new requests turned away that shows that prices are needed */
    .hurt_s = 30,        /* decay of that share */
    .hurt_crowd = 1.5,   /* [sim] crowd that shows it before anybody is */

    .share_odds =
        0.6, /* [sim] odds of a share over those of what is asked: not above that is no chance */
    .share_s = 5, /* [sim] decay of what tenants ask for and get */
    .share_full =
        1.05, /* of the pools' time that those above their shares may fill up to, at the start */
    .share_least = 0.9, /* [sim] */
    .share_most = 1.2,  /* [sim] predicted work is about that much more than it takes */
    .share_step = 0.02,
    .share_hurt = 0.01, /* of requests within their shares that may be turned away meanwhile */

    .floor_gain = 20, /* of a large prompt's lift, per share by which their attainment lags */
    .floor_max =
        0.5, /* [sim] of that lift; six times that: gap 47 to 31, goodput 2 points less (long prompts at 27/s) */
    .floor_s = 300,     /* decay of attainment by size */
    .floor_least = 10,  /* requests of either size before they are compared */
    .size_decay = 0.98, /* of the length histogram, per 64 requests */
    .credit_s = 2,      /* a tier's reserved share can be saved up for so long */

    .held_s = 5,        /* decay of the rate at which held ones get in */
    .held_hope = 30,    /* held ones may be so many times what that rate will take in */
    .held_trial = 0.05, /* of what a newcomer could wait: until then that rate says nothing */

    .probe_idle = 3e9,  /* ns without a step after which an idle worker may be asked again */
    .probe_wait = 60e9, /* longest pause between probes that were answered as predicted */
    .probe_right = 0.8, /* of the predicted time: taken for right */

    .cold_reach = 2,   /* times the context in a step that was seen, for what was never told */
    .cold_mute = 10e9, /* after so long a class that reports no steps is taken as it is */
};

/* ---- the answer ---- */

static uint64_t at_least_0(double ns)
{
    return ns > 0 ? (ns < 1e18 ? (uint64_t)ns : UINT64_C(1000000000000000000)) : 0;
}

static void fill_forecast(const struct baton_ask *a, const struct baton_plan *plan,
                          struct sched_offer *out)
{
    const struct sched_request *r = a->r;
    double now = (double)a->s->now, waited = now - (double)r->arrived_ns, move, f, ttft;
    struct sched_estimate wire = {0};
    struct sched_times *t = &out->forecast, *h = &out->high;

    if (plan->d.w != NULL && plan->d.w != plan->p.w)
        wire = sched_handover_estimate(a->s, plan->p.w, plan->d.w, a->need.prefill_tokens);
    move = wire.ns;
    ttft = plan->p.finish - (double)r->arrived_ns;
    t->queue = at_least_0(plan->p.finish - plan->p.work - now + waited);
    t->prefill = at_least_0(plan->p.work);
    t->handover = at_least_0(move);
    t->decode_wait = at_least_0(plan->d.wait);
    t->ttft = at_least_0(ttft);
    t->step = at_least_0(plan->d.step);
    t->total =
        at_least_0(ttft + move * baton_c.exposed + plan->d.wait + plan->d.step * (a->out - 1));
    f = sched_prefill_factor(a->s, plan->p.w, 0.95);
    h->prefill = at_least_0(plan->p.work * f);
    h->ttft = at_least_0(sched_ttft_high(a->s, a->tier, ttft));
    h->queue = h->ttft > t->prefill ? h->ttft - t->prefill : 0;
    h->handover = at_least_0(wire.high);
    h->decode_wait = at_least_0(plan->d.wait * (1 + baton_of(a->s)->tier[a->tier].margin));
    f = plan->d.w != NULL ? sched_decode_factor(a->s, plan->d.w, 0.95) : 1;
    h->step = at_least_0(plan->d.step * f);
    h->total = h->ttft + at_least_0(move * baton_c.exposed) + h->decode_wait +
               at_least_0(plan->d.step * f * (double)r->cast.high);
}

static void fill_bind(const struct baton_ask *a, const struct baton_plan *plan, bool promised,
                      struct sched_offer *out)
{
    struct sched_request *r = a->r;
    double idle = (double)a->s->now + plan->p.work;

    out->verdict = SCHED_BIND;
    out->prefill = plan->p.w;
    out->decode = plan->d.w;
    out->tier = a->tier;
    out->key = a->key;
    out->work_ns = plan->p.work;
    out->density = plan->p.work / baton_value(a->s, r, a->weight, baton_c.density_power);
    out->late_ns = promised ? plan->p.late_ns : SCHED_NEVER;
    if (a->entitled || r->admitted || r->probe || r->evicted >= SCHED_EVICTED_MAX)
        out->density = 0;
    out->chosen = (struct sched_pick){plan->p.w->id, plan->d.w != NULL ? plan->d.w->id : 0,
                                      plan->p.finish + plan->d.wait - idle};
    if (plan->have_second)
        out->runner_up = (struct sched_pick){plan->second.w->id, out->chosen.decode,
                                             plan->second.finish + plan->d.wait - idle};
    fill_forecast(a, plan, out);
    r->baton.weight = (float)a->weight;
    r->baton.starving = a->entitled;
    r->baton.ready_ns =
        at_least_0(plan->p.finish + (double)out->forecast.handover * baton_c.exposed);
    r->baton.out = (float)a->out;
    for (uint32_t i = 0; i < plan->victims.n; i++)
        sched_queue_evict(a->s, plan->victims.v[i]);
}

/* ns until its price has sunk to what it is worth, if nothing comes meanwhile: what the price is read off, prompts before
 * a worker or streams that end one after the other, gets less by the part that is too much. */
static double price_eases(const struct baton_ask *a, const struct baton_plan *plan)
{
    double drain =
        baton_price_of(a->s, &plan->bill) ? plan->d.step * a->out : sched_edf_work(&plan->p.w->edf);

    return baton_price_over(a->s, a->r, a->weight, &plan->bill) * drain;
}

static void fill_refusal(const struct baton_ask *a, const struct baton_plan *plan,
                         enum sched_reason why, struct sched_offer *out)
{
    double arrived = (double)a->r->arrived_ns, until = 0;

    out->verdict = SCHED_REFUSE;
    out->tier = a->tier;
    out->reason = a->r->evicted > 0 ? SCHED_REASON_DISPLACED : why;
    if (why == SCHED_REASON_TBT ||
        (why == SCHED_REASON_PRICE && baton_price_of(a->s, &plan->bill))) {
        out->refusal.resource = why == SCHED_REASON_PRICE ? plan->d.scarce : plan->d.lacks;
        out->refusal.predicted_ns = at_least_0(
            plan->d.over > 0 ? a->tbt * (1 + plan->d.over) : plan->d.step + plan->d.wait / a->out);
        out->refusal.target_ns = at_least_0(a->tbt);
        until = plan->d.over > 0 ? 1e9 : plan->d.wait - plan->d.limit;
    } else if (why == SCHED_REASON_SHARE) {
        out->refusal.resource = SCHED_RES_TENANT;
        until = num_max(baton_share_eases(a->s, a->r, a->tier), price_eases(a, plan));
    } else {
        out->refusal.resource = SCHED_RES_PREFILL_TIME;
        out->refusal.predicted_ns = plan->have ? at_least_0(plan->p.finish - arrived) : 0;
        out->refusal.target_ns = a->deadline - a->r->arrived_ns;
        until = plan->have ? plan->p.finish - (double)a->deadline : 0;
    }
    if (why == SCHED_REASON_PRICE)
        until = price_eases(a, plan);
    until = until < 1e8 ? 1e8 : until > 6e10 ? 6e10 : until;
    out->retry_after_ns = (uint64_t)until;
}

/* Among those that wait at the tier it was asked about: a downgrade may have led there. */
static void count_held(const struct baton_ask *a)
{
    struct sched_baton_request *r = &a->r->baton;

    if (r->was_held)
        return;
    r->was_held = true;
    r->held_tier = (uint8_t)a->tier;
    if (baton_of(a->s)->tier[a->tier].held++ == 0)
        baton_of(a->s)->tier[a->tier].held_since_ns = a->s->now;
}

/* Wait for room?  Not where those that wait already are more than will get in by then, once they have waited long enough
 * to tell: a burst that comes at one instant has seen none get in. */
static bool may_hold(const struct baton_ask *a, const struct baton_plan *plan,
                     struct sched_offer *out)
{
    struct sched_baton *b = baton_of(a->s);
    struct baton_tier *t = &b->tier[a->tier];
    double start, left;

    if (!plan->have || a->late == SCHED_NEVER)
        return false;
    start = (double)a->late - b->stretch * plan->p.work;
    left = start - (double)a->s->now;
    if (left <= 1e6)
        return false;
    if (!a->r->baton.was_held && t->held > 2 &&
        (double)(a->s->now - t->held_since_ns) > baton_c.held_trial * left &&
        (double)t->held > baton_c.held_hope * t->held_rate * left * 1e-9)
        return false;
    out->verdict = SCHED_HOLD;
    out->hold_until_ns = at_least_0(start);
    count_held(a);
    return true;
}

/* It could be promised, by what little is known: wait for more. */
static bool hold_cold(const struct baton_ask *a, const struct baton_plan *plan,
                      struct sched_offer *out)
{
    if (!baton_cold(a->s, plan->p.w, plan->d.w, (double)a->need.prefill_tokens) ||
        a->deadline <= sched_after(a->s->now, SCHED_MS))
        return false;
    out->verdict = SCHED_HOLD;
    out->hold_until_ns = a->deadline;
    count_held(a);
    return true;
}

/* It was admitted once: it is served, as soon as may be without spoiling what others were promised. */
static void place_again(struct baton_ask *a, struct sched_offer *out)
{
    struct baton_prefill v[SCHED_CANDIDATES_MAX];
    struct baton_plan plan = {.have = false};

    if (baton_plan_queues(a, v, &plan) == 0 || (a->need.decode && a->n_d == 0)) {
        out->verdict = SCHED_HOLD;
        out->hold_until_ns = sched_after(a->s->now, SCHED_SECOND);
        return;
    }
    if (!plan.in_time)
        a->key = sched_after(a->deadline > a->s->now ? a->deadline : a->s->now,
                             a->s->cfg.tiers[a->tier].ttft_ns);
    baton_plan_decode(a, plan.p.w, plan.p.finish, &plan.d);
    fill_bind(a, &plan, plan.in_time, out);
}

static void baton_place(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct baton_ask a;
    struct baton_plan plan = {.have = false};
    enum sched_reason why = SCHED_REASON_TTFT;
    bool first = !r->baton.counted, found = false;

    *out = (struct sched_offer){.tier = r->tier};
    baton_ask_init(&a, s, r);
    a.n_p = sched_candidates(s, SCHED_ROLE_PREFILL, r, a.p);
    if (first) {
        double decode =
            a.n_d > 0 ? baton_decode_cost(s, a.d[0], (double)r->n_prompt, (double)r->cast.mean) : 0;

        r->baton.counted = true;
        baton_share_arrive(s, r, (double)r->isolated_ns, decode);
        baton_price_arrive(s, r, (double)r->isolated_ns, decode);
    }
    baton_ask_tier(&a, r->tier);
    if (r->admitted) {
        place_again(&a, out);
        return;
    }
    for (uint32_t tier = r->tier; !found && tier < s->cfg.n_tiers; tier++) {
        if (tier != a.tier)
            baton_ask_tier(&a, tier);
        found = baton_plan_find(&a, &plan, &why);
        if (s->cfg.tiers[tier].on_miss != SCHED_MISS_DOWNGRADE)
            break;
    }
    if (first) {
        baton_price_hurt(s, r, !found);
        baton_share_hurt(s, r, !found);
    }
    if (!found)
        baton_in_vain(s, r->tier);
    if (found && hold_cold(&a, &plan, out))
        return;
    if (found || baton_probe_plan(&a, &plan, why)) {
        fill_bind(&a, &plan, found, out);
        return;
    }
    out->reason = why;
    fill_refusal(&a, &plan, why, out);
    if (s->cfg.tiers[a.tier].on_miss == SCHED_MISS_WAIT && why != SCHED_REASON_SHARE)
        may_hold(&a, &plan, out);
}

static struct sched_worker *baton_redecide(struct sched *s, struct sched_request *r)
{
    struct baton_ask a;
    struct baton_decode best;

    if (sched_request_need(r).decode == false || r->home == NULL || r->probe)
        return NULL;
    if (r->arrived_ns == s->now) /* placed just now: loads have not moved on */
        return NULL;
    baton_ask_init(&a, s, r);
    baton_ask_terms(&a, r->tier);
    if (a.n_d > 0) /* as when it was placed: one load is brought up to now with it counted */
        (void)baton_load_step(s, a.d[0]);
    baton_load_drop(r); /* it must not count against itself */
    baton_plan_decode(&a, r->home, (double)s->now + r->item.work, &best);
    baton_load_add(s, best.w != NULL ? best.w : r->mate, r);
    return best.w;
}

/* ---- what happens to requests ---- */

static void held_no_more(struct sched *s, struct sched_request *r, bool got_in)
{
    struct baton_tier *t = &baton_of(s)->tier[r->baton.held_tier];

    if (!r->baton.was_held)
        return;
    r->baton.was_held = false;
    if (t->held > 0 && (got_in || !SCHED_PLANTED(29)))
        t->held--;
    if (got_in)
        t->held_rate += 1 / baton_c.held_s;
}

static void fact_bound(struct sched *s, struct sched_request *r)
{
    struct sched_worker *d = r->mate;

    if (d == NULL && r->home != NULL && r->home->shape->role == SCHED_ROLE_DECODE)
        d = r->home;
    if (d != NULL)
        baton_load_add(s, d, r);
    baton_price_bound(s, r, false);
    baton_share_bound(s, r, false);
    held_no_more(s, r, !r->baton.starving); /* a trickle is no hope for those that wait */
}

static void fact_dispatched(struct sched *s, struct sched_request *r)
{
    struct sched_worker *d = r->current->side[SCHED_SIDE_DECODE].worker;

    baton_got_in(s, r);
    for (int side = 0; side < 2; side++) {
        struct sched_worker *w = r->current->side[side].worker;

        if (w != NULL && w->baton.work_ns == 0)
            w->baton.work_ns = s->now > 0 ? s->now : 1;
    }
    if (d != NULL && d != r->baton.on)
        baton_load_add(s, d, r);
}

static void fact_prefilled(struct sched *s, struct sched_request *r)
{
    r->baton.ready_ns = s->now;
    baton_load_touch(s, r);
    if (r->delivered > 1 || r->lost || r->probe)
        return;
    baton_margin_prefill(s, r->tier, s->now > r->deadline_ns);
}

static void fact_late(struct sched *s, struct sched_request *r)
{
    if (r->first_ns == 0 || r->first_ns > r->deadline_ns || r->lost || r->probe)
        return; /* the queue was to blame; margin_prefill has seen it */
    r->baton.slow = true;
    baton_margin_decode(s, r->tier, true);
}

static void fact_ended(struct sched *s, struct sched_request *r)
{
    bool in_time = r->first_ns != 0 && r->first_ns <= r->deadline_ns;

    baton_load_drop(r);
    held_no_more(s, r, false);
    if (r->probe)
        baton_probe_end(s, r);
    if (r->outcome == SCHED_OUT_CANCELED || r->probe)
        return;
    baton_floor(s, r, r->outcome == SCHED_OUT_KEPT);
    if (r->admitted && in_time && !r->lost && !r->baton.slow && r->max_new > 1)
        baton_margin_decode(s, r->tier, r->outcome == SCHED_OUT_MISSED);
}

static void baton_request(struct sched *s, struct sched_request *r, enum sched_fact f)
{
    switch (f) {
    case SCHED_FACT_BOUND:
        fact_bound(s, r);
        break;
    case SCHED_FACT_UNBOUND:
        baton_load_drop(r);
        baton_price_bound(s, r, true);
        baton_share_bound(s, r, true);
        break;
    case SCHED_FACT_DISPATCHED:
        fact_dispatched(s, r);
        break;
    case SCHED_FACT_PREFILLED:
        fact_prefilled(s, r);
        break;
    case SCHED_FACT_DECODING:
        baton_load_came(r);
        baton_load_touch(s, r);
        break;
    case SCHED_FACT_LATE:
        fact_late(s, r);
        break;
    case SCHED_FACT_ATTEMPT_OVER:
        baton_load_drop(r);
        break;
    case SCHED_FACT_ENDED:
        fact_ended(s, r);
        break;
    case SCHED_FACT_TOKENS: /* loads are counted anew often enough */
        break;
    }
}

static void baton_worker(struct sched *s, struct sched_worker *w, enum sched_event_kind e)
{
    if (e == SCHED_EV_WORKER_JOIN || e == SCHED_EV_STEP)
        w->baton.seen_ns = s->now;
    if (e == SCHED_EV_WORKER_JOIN) {
        sched_edf_stretch(&w->edf, baton_of(s)->stretch);
        if (w->shape->role == SCHED_ROLE_DECODE && baton_load_create(w) != ERR_OK)
            w->baton.load = NULL; /* asked as if it were empty; its own wait list bounds it */
    } else if (e == SCHED_EV_WORKER_LEAVE) {
        baton_load_gone(s, w);
        baton_load_free(w);
    }
}

static void baton_tick(struct sched *s)
{
    struct sched_baton *b = baton_of(s);
    double keep = exp(-0.1 / baton_c.held_s);

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        b->tier[t].held_rate *= keep;
    for (uint32_t i = 0; i < s->pool[SCHED_ROLE_PREFILL].n; i++)
        baton_prefill_mend(s, s->pool[SCHED_ROLE_PREFILL].v[i]);
}

static enum err baton_create(struct sched *s)
{
    struct sched_baton *b = mem_try_calloc(1, sizeof *b);

    if (b == NULL)
        return ERR_NOMEM;
    baton_price_init(b);
    s->policy_state = b;
    return ERR_OK;
}

static void baton_destroy(struct sched *s)
{
    for (int role = SCHED_ROLE_PREFILL; role <= SCHED_ROLE_DECODE; role++)
        for (struct sched_worker *w = s->first_worker[role]; w != NULL; w = w->next)
            baton_load_free(w);
    mem_free(s->policy_state);
    s->policy_state = NULL;
}

#define BATON_HOOKS                                                                     \
    .preempts = true, .steals = true, .create = baton_create, .destroy = baton_destroy, \
    .place = baton_place, .redecide = baton_redecide, .request = baton_request,         \
    .worker = baton_worker, .tick = baton_tick, .check = baton_check

const struct sched_policy sched_policy_baton = {
    .name = "baton",
    .what = "promises over both stages, kept by prediction: deadlines, eviction, margins, prices",
    BATON_HOOKS};

const struct sched_policy sched_policy_baton_clairvoyant = {
    .name = "baton-clairvoyant",
    .what = "baton that knows every output length (simulation only)",
    .clairvoyant = true,
    BATON_HOOKS};
