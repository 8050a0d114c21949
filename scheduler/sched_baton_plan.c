/* scheduler/sched_baton_plan.c - one question to all workers, at one tier: where would it be in time?
 *
 * In the order of what it costs others: a queue where it is late for nobody; one where those that make way weigh less; for
 * a tier that is owed work, one where anybody makes way.  Beside these a decode worker may compute the prompt itself.
 * Then its decode room, then what the pools' time is worth: share and price. */
#include "scheduler/sched_baton_plan.h"

#include <math.h>

#include "scheduler/sched_num.h"

static uint64_t baton_key(const struct sched *s, const struct sched_request *r, uint32_t tier,
                          uint64_t deadline)
{
    int32_t p = r->priority < -16 ? -16 : r->priority > 16 ? 16 : r->priority;
    uint64_t unit = s->cfg.tiers[tier].ttft_ns / 32;

    if (p < 0)
        return deadline > unit * (uint64_t)-p ? deadline - unit * (uint64_t)-p : 0;
    return sched_after(deadline, unit * (uint64_t)p);
}

/* ns that computing all of the prompt takes there. */
static double ask_alone(const struct baton_ask *a, const struct sched_worker *w)
{
    return sched_prefill_ns(a->s, w, (uint32_t)a->need.prefill_tokens, 0);
}

/* KV of what is asked about, from one worker to another. */
struct ask_wire {
    double move;       /* ns until it is there */
    double token, own; /* ns on the wire: of one token's KV, of all */
    double alone;      /* of `from` */
    bool
        slow; /* hand-overs queue: prefill workers make KV nearly as fast as links to decode workers take it, or faster */
};

static struct ask_wire ask_wire(const struct baton_ask *a, const struct sched_worker *from,
                                double alone, const struct sched_worker *to)
{
    const struct sched_link_predict *link = sched_link(a->s, from, to);
    double tokens = (double)a->need.prefill_tokens, bytes = from->klass->c.kv_bytes_per_token;
    uint32_t n_p = a->s->pool[SCHED_ROLE_PREFILL].n, n_d = a->s->pool[SCHED_ROLE_DECODE].n;
    double fan = n_d > 0 && n_p > n_d ? (double)n_p / n_d : 1;
    struct ask_wire w = {.move = sched_link_ns(link, tokens * bytes), .alone = alone};

    w.token = link->ns_per_byte * bytes;
    w.own = tokens * w.token;
    w.slow = alone > 0 && w.own * fan > baton_c.link_slow * alone;
    return w;
}

/* ns until the card of w, one of n, has moved what comes before the KV of a->r, of which `token` ns each: what is promised
 * at tiers of its transfer class and of tighter ones, and what those bring in meanwhile, if it goes on like that. */
static double link_ahead(const struct baton_ask *a, const struct sched_worker *w, uint32_t n,
                         double token)
{
    const struct sched_tier *tiers = a->s->cfg.tiers, *own = &tiers[a->tier];
    double ahead = 0, busy = 0;

    for (uint32_t t = 0; t < a->s->cfg.n_tiers; t++) {
        if (tiers[t].transfer_class <= own->transfer_class)
            ahead += token * w->baton.coming[t];
        if (tiers[t].transfer_class < own->transfer_class)
            busy += token * baton_sent(a->s, t) / n;
    }
    return ahead / (1 - num_min(busy, baton_c.link_busy));
}

/* How much later than p computes it its card is free for the KV. */
static double link_out(const struct baton_ask *a, const struct baton_prefill *p)
{
    struct ask_wire l;

    if (a->n_d == 0)
        return 0;
    l = ask_wire(a, p->w, ask_alone(a, p->w), a->d[0]);
    if (!l.slow)
        return 0;
    return num_max(0, (double)a->s->now +
                          link_ahead(a, p->w, a->s->pool[SCHED_ROLE_PREFILL].n, l.token) -
                          p->finish);
}

/* How much later than `ready` the KV would be on w because links are slow: cards take one hand-over at a time. */
static double ask_link(const struct baton_ask *a, const struct sched_worker *from,
                       const struct ask_wire *l, double ready, const struct sched_worker *w)
{
    double out, in;

    if (!l->slow)
        return 0;
    out = link_ahead(a, from, a->s->pool[SCHED_ROLE_PREFILL].n, l->token);
    in = link_ahead(a, w, a->s->pool[SCHED_ROLE_DECODE].n, l->token);
    return num_max(num_max((double)a->s->now + num_max(out, in), ready - l->alone) + l->own - ready,
                   0);
}

/* How long before its deadline the first token must be there: the next one leaves with the second step that
 * starts after the hand-over, if that is unlucky, and is due one time between tokens later. */
static double ask_guard(const struct baton_ask *a)
{
    double guard = baton_c.guard_ns, next = 0;

    if (a->n_d > 0 && a->n_p > 0) {
        struct ask_wire l = ask_wire(a, a->p[0], ask_alone(a, a->p[0]), a->d[0]);
        double move = l.move;

        if (l.slow && move > l.alone)
            move = l.alone; /* the rest is a wait that who computes it where it decodes has not */
        next = 2 * baton_load_step(a->s, a->d[0]) - a->tbt + baton_c.exposed * move;
    }
    return guard > next ? guard : next;
}

void baton_ask_terms(struct baton_ask *a, uint32_t tier)
{
    a->tier = tier;
    a->deadline = sched_deadline_at(a->s, a->r, tier);
    a->tbt = (double)sched_tbt_at(a->s, a->r, tier);
    baton_inflow(a->s, tier, &a->inflow, &a->stay);
}

void baton_ask_tier(struct baton_ask *a, uint32_t tier)
{
    double guard;

    baton_ask_terms(a, tier);
    a->key = baton_key(a->s, a->r, tier, a->deadline);
    guard = ask_guard(a);
    a->late = guard < (double)a->deadline ? a->deadline - (uint64_t)guard : 0;
    if (a->r->isolated_ns == 0 && sched_isolated_ns(a->s, a->r) == 0)
        a->late = SCHED_NEVER; /* nothing is known: nothing can be promised or denied */
    a->weight = baton_weight(a->s, a->r, tier);
}

void baton_ask_init(struct baton_ask *a, struct sched *s, struct sched_request *r)
{
    *a = (struct baton_ask){.s = s, .r = r, .need = sched_request_need(r)};
    a->out = baton_left(s, r, (double)r->delivered, 0.5);
    if (a->need.decode)
        a->n_d = sched_candidates(s, SCHED_ROLE_DECODE, r, a->d);
}

/* ---- decode side ---- */

/* alone: of `from`, ask_alone. */
static void ask_decode(const struct baton_ask *a, const struct sched_worker *from, double alone,
                       double ready, struct sched_worker *w, struct baton_decode *out)
{
    struct baton_need need = {.tier = a->tier,
                              .ready = ready,
                              .deadline = (double)a->deadline,
                              .tbt = a->tbt,
                              .tokens = (double)a->need.prefill_tokens,
                              .out = a->out,
                              .inflow = a->inflow,
                              .stay = a->stay};

    if (from != w) {
        struct ask_wire wire = ask_wire(a, from, alone, w);

        need.ready += wire.move * baton_c.exposed;
        need.link = ask_link(a, from, &wire, need.ready, w);
    }
    baton_load_ask(a->s, w, &need, out);
}

void baton_ask_decode(const struct baton_ask *a, const struct sched_worker *from, double ready,
                      struct sched_worker *w, struct baton_decode *out)
{
    ask_decode(a, from, ask_alone(a, from), ready, w, out);
}

static bool decode_better(const struct baton_decode *x, const struct baton_decode *y)
{
    if (x->ok != y->ok)
        return x->ok;
    if (x->wait < y->wait || x->wait > y->wait)
        return x->wait < y->wait;
    return x->used < y->used;
}

void baton_plan_decode(const struct baton_ask *a, const struct sched_worker *from, double ready,
                       struct baton_decode *best)
{
    struct baton_decode v[SCHED_CANDIDATES_MAX];
    uint32_t first = 0;
    double alone;

    *best = (struct baton_decode){.ok = !a->need.decode};
    if (!a->need.decode || a->n_d == 0)
        return;
    alone = ask_alone(a, from);
    for (uint32_t i = 0; i < a->n_d; i++) {
        ask_decode(a, from, alone, ready, a->d[i], &v[i]);
        first = i > 0 && decode_better(&v[i], &v[first]) ? i : first;
    }
    *best = v[first];
}

/* ---- prefill side ---- */

/* A decode worker computes the prompt in what its steps leave of the tightest time between tokens.  only: no link takes
 * it in time; then it may be of any length, one at a time. */
static bool try_local(const struct baton_ask *a, struct sched_worker *w, bool only,
                      struct baton_prefill *out)
{
    struct sched_law law = sched_decode_law(a->s, w);
    struct sched_edf_item c = {.key = a->key, .id = a->r->id, .deadline_ns = a->late};
    struct sched_edf_answer answer;
    double tbt = a->tbt, step, share;

    if (!sched_worker_local(a->s, w, &a->need) || !sched_law_known(&law) ||
        baton_load_use(a->s, w) > baton_c.local_use)
        return false;
    for (uint32_t t = 0; t < a->s->cfg.n_tiers; t++)
        if (w->decoding_tier[t] > 0 && (double)a->s->cfg.tiers[t].tbt_ns < tbt)
            tbt = (double)a->s->cfg.tiers[t].tbt_ns;
    step = sched_law_decode(&law, (double)w->decoding, (double)w->context);
    share = w->decoding == 0 ? 1 : 1 - step / (baton_c.local_tbt * tbt);
    if (share < 0.1)
        return false;
    *out = (struct baton_prefill){.w = w, .late_ns = a->late, .local = true};
    out->work = sched_work_ns(a->s, a->r, w, NULL) / share;
    out->begin = sched_worker_start(a->s, w);
    c.work = out->work;
    answer = sched_edf_try(&w->edf, &c, out->begin);
    out->finish = answer.finish;
    out->self = answer.self;
    out->others = answer.others;
    if (only && sched_edf_count(&w->edf) == 0)
        return true;
    return out->begin + sched_edf_work(&w->edf) + out->work <=
           (double)a->s->now + baton_c.local_ahead;
}

static void plan_offer(struct baton_plan *plan, const struct baton_prefill *p, double score)
{
    if (!plan->have || score < plan->score) {
        plan->have_second = plan->have;
        plan->second = plan->p;
        plan->second_score = plan->score;
        plan->p = *p;
        plan->score = score;
        plan->have = true;
    } else if (!plan->have_second || score < plan->second_score) {
        plan->have_second = true;
        plan->second = *p;
        plan->second_score = score;
    }
}

/* Those that fit first; then, for each missing promise, a finish that is later by a day.  Work that another worker would
 * have spared is paid for twice: it also delays who comes next. */
static double prefill_score(const struct baton_prefill *p, double least)
{
    double late = 86400e9;

    return p->finish + p->link + (p->work - least) + (p->self ? 0 : late) +
           (p->others ? 0 : late / 2);
}

uint32_t baton_plan_queues(const struct baton_ask *a, struct baton_prefill *v,
                           struct baton_plan *plan)
{
    uint32_t n = 0;
    double least = INFINITY;

    for (uint32_t i = 0; i < a->n_p; i++) {
        baton_prefill_try(a->s, a->r, a->p[i], a->tier, a->key, a->late, &v[n]);
        v[n].link = link_out(a, &v[n]);
        least = v[n].work < least ? v[n].work : least;
        n++;
    }
    for (uint32_t i = 1; i < n; i++) {
        struct baton_prefill p = v[i];
        uint32_t k = i;

        for (; k > 0 && prefill_score(&p, least) < prefill_score(&v[k - 1], least); k--)
            v[k] = v[k - 1];
        v[k] = p;
    }
    for (uint32_t i = 0; i < n && i < 2; i++)
        plan_offer(plan, &v[i], prefill_score(&v[i], least));
    plan->in_time = n > 0 && v[0].self && v[0].others;
    return n;
}

/* In place of whatever was found; nobody makes way in a queue that it does not join. */
static void plan_local(struct baton_plan *plan, const struct baton_prefill *p,
                       const struct baton_decode *d)
{
    plan->have_second = plan->have;
    plan->second = plan->p;
    plan->second_score = plan->score;
    plan->p = *p;
    plan->d = *d;
    plan->score = p->finish;
    plan->have = plan->in_time = true;
    plan->victims.n = 0;
}

/* Where links are slow, its KV comes later than its first token. */
static double remote_score(const struct baton_plan *plan)
{
    return num_max(plan->score, plan->p.finish + plan->d.link);
}

static void try_locals(const struct baton_ask *a, struct baton_plan *plan)
{
    bool only = plan->d.w != NULL && !plan->d.ok && plan->d.lacks == SCHED_RES_LINK_TIME;

    for (uint32_t i = 0; a->s->cfg.local_prefill && i < a->n_d; i++) {
        struct baton_prefill p;
        struct baton_decode d;

        if (!try_local(a, a->d[i], only, &p) || !p.self || !p.others)
            continue;
        baton_ask_decode(a, p.w, p.finish, p.w, &d);
        if (!d.ok ||
            (plan->in_time && plan->d.ok && remote_score(plan) <= p.finish + baton_c.local_gain))
            continue;
        plan_local(plan, &p, &d);
    }
}

static void try_evict(const struct baton_ask *a, const struct baton_prefill *v, uint32_t n,
                      struct baton_plan *plan)
{
    double worth = a->entitled ? 1e30 : a->weight;

    for (uint32_t i = 0; i < n && i < BATON_TRY_MAX; i++) {
        struct baton_victims victims;

        if (!baton_prefill_evict(a->s, a->r, &v[i], a->key, worth, &victims))
            continue;
        worth = victims.cost;
        plan->victims = victims;
        plan->p = v[i];
        plan->score = v[i].finish;
        plan->in_time = true;
    }
}

static bool plan_idle(const struct baton_plan *plan)
{
    return sched_edf_count(&plan->p.w->edf) == 0 && plan->d.wait <= 0;
}

static double loosest(const struct sched *s)
{
    uint64_t most = 1;

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        most = s->cfg.tiers[t].ttft_ns > most ? s->cfg.tiers[t].ttft_ns : most;
    return (double)most;
}

bool baton_plan_find(struct baton_ask *a, struct baton_plan *plan, enum sched_reason *why)
{
    struct baton_prefill v[SCHED_CANDIDATES_MAX];
    struct baton_bill *bill = &plan->bill;
    uint32_t n;
    double cost, full;
    bool starving = baton_starves(a->s, a->tier);

    *plan = (struct baton_plan){.have = false};
    a->entitled = false;
    n = baton_plan_queues(a, v, plan);
    if (n > 0) {
        if (!plan->in_time)
            try_evict(a, v, n, plan);
        if (!plan->in_time && (starving || baton_entitled(a->s, a->tier, v[0].work))) {
            a->entitled = true;
            try_evict(a, v, n, plan);
        }
        baton_plan_decode(a, plan->p.w, plan->p.finish, &plan->d);
    }
    try_locals(a, plan);
    if (starving && plan->in_time && !plan->d.ok && plan->d.w != NULL && !plan->d.hopeless)
        a->entitled = plan->d.ok = true;
    *why = !plan->in_time ? SCHED_REASON_TTFT : !plan->d.ok ? SCHED_REASON_TBT : SCHED_REASON_NONE;
    if (!plan->have || *why != SCHED_REASON_NONE)
        return false;
    cost = plan->d.w == NULL
               ? 0
               : baton_decode_cost(a->s, plan->d.w, (double)a->need.prefill_tokens, a->out);
    *bill = (struct baton_bill){.prefill = plan->p.work,
                                .decode = cost,
                                .backlog = sched_edf_work(&plan->p.w->edf) / loosest(a->s),
                                .room = plan->d.used};
    baton_price_look(a->s, bill);
    if (!plan_idle(plan) && !starving && !baton_share_ok(a->s, a->r, a->tier, bill)) {
        *why = SCHED_REASON_SHARE;
        return false;
    }
    a->entitled = a->entitled || starving;
    if (a->entitled || plan_idle(plan) || baton_price_over(a->s, a->r, a->weight, bill) <= 0)
        return true;
    full = a->s->cfg.tiers[a->tier].weight;
    *why = full > a->weight && baton_price_over(a->s, a->r, full, bill) <= 0 ? SCHED_REASON_SHARE
                                                                             : SCHED_REASON_PRICE;
    return false;
}
