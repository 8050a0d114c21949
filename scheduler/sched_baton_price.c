/* scheduler/sched_baton_price.c - what a kept promise is worth, what the pools' time costs, and the margins:
 * everything of the policy that learns from outcomes.
 *
 * Weight: the tier's, less for a tenant above its fair share, more for the largest tenth of prompts while it lags
 * behind the others (so that "work per weight" does not starve it).
 * Margins: conformal; each broken promise widens one by step * (1 - target), each kept one narrows it by
 * step * target, so that the share of broken ones settles at the target whatever the predictor does.  The target
 * is what the tier's percentile leaves.
 * Prices: the dual of "most weight within the time of both pools", read off the queues: a price grows with the work
 * in front of a pool, and counts only while more arrives than the pools can do. */
#include "scheduler/sched_baton_parts.h"

#include <math.h>

#include "scheduler/sched_num.h"

void baton_price_init(struct sched_baton *b)
{
    b->large = UINT32_MAX;
    b->stretch = baton_c.stretch_start;
    for (int t = 0; t < SCHED_TIERS_MAX; t++)
        b->tier[t].pad = baton_c.pad_start;
    b->share_full = baton_c.share_full;
}

static double decayed(double v, uint64_t from, uint64_t now, double seconds)
{
    return v * exp(-((double)(now - from)) / (seconds * 1e9));
}

/* ---- sizes ---- */

static uint32_t size_bin(uint32_t n_prompt)
{
    double bin = 4 * log2((double)n_prompt + 1);

    return bin < BATON_SIZES - 1 ? (uint32_t)bin : BATON_SIZES - 1;
}

static void size_learn(struct sched_baton *b, uint32_t n_prompt)
{
    double sum = 0, seen = 0;
    int i = 0;

    b->hist[size_bin(n_prompt)] += 1;
    if (++b->hist_new < 64)
        return;
    b->hist_new = 0;
    for (i = 0; i < BATON_SIZES; i++) {
        b->hist[i] *= baton_c.size_decay;
        sum += b->hist[i];
    }
    for (i = 0; i < BATON_SIZES - 1 && seen + b->hist[i] < 0.9 * sum; i++)
        seen += b->hist[i];
    b->large = (uint32_t)exp2((i + 1) / 4.0);
}

void baton_floor(struct sched *s, const struct sched_request *r, bool kept)
{
    struct sched_baton *b = baton_of(s);
    double keep = decayed(1, b->sized_at, s->now, baton_c.floor_s), lag;

    for (int k = 0; k < 2; k++) {
        b->ended[k] *= keep;
        b->kept[k] *= keep;
    }
    b->sized_at = s->now;
    b->ended[r->baton.large] += 1;
    b->kept[r->baton.large] += kept;
    if (b->ended[0] < baton_c.floor_least || b->ended[1] < baton_c.floor_least)
        return;
    lag = b->kept[0] / b->ended[0] - b->kept[1] / b->ended[1];
    b->lift = baton_c.floor_gain * lag;
    b->lift = b->lift < 0 ? 0 : b->lift > baton_c.floor_max ? baton_c.floor_max : b->lift;
}

double baton_weight(const struct sched *s, const struct sched_request *r, uint32_t tier)
{
    double w = s->cfg.tiers[tier].weight > 0 ? s->cfg.tiers[tier].weight : 1;

    return r->tenant == 0 ? w : w * sched_tenants_share(s->tenants, r->tenant, tier, s->now);
}

double baton_value(const struct sched *s, const struct sched_request *r, double weight,
                   double power)
{
    const struct sched_baton *b = baton_of(s);
    double least = weight;

    if (!r->baton.large || b->lift <= 0)
        return pow(weight, power);
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        if (s->cfg.tiers[t].weight > 0 && s->cfg.tiers[t].weight < least)
            least = s->cfg.tiers[t].weight;
    return pow(weight, power) + b->lift * pow(least, power);
}

/* ---- what is admitted, and what it costs ---- */

void baton_price_arrive(struct sched *s, struct sched_request *r, double prefill, double decode)
{
    struct sched_baton *b = baton_of(s);
    double keep = 1 - baton_c.mean_step, still;

    if (b->began_at == 0)
        b->began_at = s->now > 0 ? s->now : 1;
    size_learn(b, r->n_prompt);
    r->baton.large = r->n_prompt >= b->large;
    b->mean_n = keep * b->mean_n + 1;
    b->mean_value = keep * b->mean_value + pow(baton_weight(s, r, r->tier), baton_c.value_power);
    still = decayed(1, b->offered_at, s->now, baton_c.rate_s);
    b->offered[0] = b->offered[0] * still + prefill;
    b->offered[1] = b->offered[1] * still + decode;
    b->offered_at = s->now;
    b->mean_work[0] = keep * b->mean_work[0] + prefill;
    b->mean_work[1] = keep * b->mean_work[1] + decode;
}

/* The dual of "most value within the time of both pools", read off the queues themselves: a pool's price grows
 * with what is in front of it, so that admission settles where the queue stays.  At the price of one, the work of
 * a mean request costs the value of a mean request.  Smoothed: a price that follows every gap in the queue would
 * take a costly request in one moment and turn a cheap one away in the next. */
void baton_price_look(struct sched *s, const struct baton_bill *bill)
{
    struct sched_baton *b = baton_of(s);
    double crowd = bill->room > baton_c.room_free ? bill->room - baton_c.room_free : 0;
    double step = 1 - decayed(1, b->looked_at, s->now, baton_c.price_s);

    b->backlog += step * (bill->backlog - b->backlog);
    b->crowd += step * (crowd / (1 - baton_c.room_free) - b->crowd);
    b->looked_at = s->now;
}

void baton_price_hurt(struct sched *s, const struct sched_request *r, bool refused)
{
    struct sched_baton *b = baton_of(s);
    double keep = decayed(1, b->hurt_at, s->now, baton_c.hurt_s);

    b->hurt *= keep;
    b->hurt_value *= keep;
    if (refused) {
        b->hurt += 1;
        b->hurt_value += pow(baton_weight(s, r, r->tier), baton_c.value_power);
    }
    b->asked = b->asked * keep + 1;
    b->hurt_at = s->now;
}

/* From 0, nobody is turned away, to 1.  Work that arrives in bursts passes what the pools can do again and again
 * far below saturation, and streams of loose tiers wait it out: a price would refuse what hurts nobody.  Prices
 * come in when somebody was turned away lately, or when more room is promised than such waits can bridge. */
static double price_shown(const struct sched_baton *b)
{
    double share = b->asked > 0 ? b->hurt / (b->asked * baton_c.hurt_share) : 0;

    return share > 1 || b->crowd > baton_c.hurt_crowd ? 1 : share;
}

/* 0 while less arrives than this pool can do, 1 when it is clearly more: a queue that will empty by itself turns
 * nobody away, even if the other pool has too much. */
static double price_pressure(const struct sched *s, int side)
{
    const struct sched_baton *b = baton_of(s);
    double n = (double)s->pool[side + 1].n * baton_c.rate_s * 1e9;
    double rho = n > 0 ? b->offered[side] / n : 1;

    rho = (rho - baton_c.load_free) / (baton_c.load_full - baton_c.load_free);
    return rho < 0 ? 0 : rho > 1 ? 1 : rho;
}

bool baton_price_scarce(const struct sched *s, int side)
{
    return price_pressure(s, side) > 0 && price_shown(baton_of(s)) > 0;
}

/* What each pool's time costs, in requests of mean work. */
static void price_parts(const struct sched *s, const struct baton_bill *bill, double cost[2])
{
    const struct sched_baton *b = baton_of(s);
    double price[2] = {baton_c.price_prefill * b->backlog, baton_c.price_decode * b->crowd};
    double work[2] = {bill->prefill, bill->decode};

    for (int side = 0; side < 2; side++)
        cost[side] = b->mean_work[side] > 0
                         ? price[side] * price_pressure(s, side) * work[side] / b->mean_work[side]
                         : 0;
}

int baton_price_of(const struct sched *s, const struct baton_bill *bill)
{
    double cost[2];

    price_parts(s, bill, cost);
    return cost[1] > cost[0];
}

/* What the work of a mean request costs at the price of one: the value of a mean request; more where those that are
 * turned away are worth about as much, as with one tier.  With less, it would be full pools that turn away whoever comes,
 * however little he asks for. */
static double price_unit(const struct sched_baton *b)
{
    double part = b->hurt > 0 ? b->hurt_value * b->mean_n / (b->hurt * b->mean_value) : 0;

    part = num_min(part, 1);
    return b->mean_value * num_max(1, baton_c.price_alike * part * part);
}

double baton_price_over(const struct sched *s, const struct sched_request *r, double weight,
                        const struct baton_bill *bill)
{
    const struct sched_baton *b = baton_of(s);
    double value = baton_value(s, r, weight, baton_c.value_power), cost[2], asked;

    price_parts(s, bill, cost);
    asked = (cost[0] + cost[1]) * price_unit(b) * price_shown(b);
    return value >= asked ? 0 : 1 - value / asked;
}

static double inflow_kept(struct baton_kept *k, uint64_t from, uint64_t now)
{
    if (k->from != from || k->now != now || k->share <= 0)
        *k = (struct baton_kept){from, now, decayed(1, from, now, baton_c.inflow_s)};
    return k->share;
}

static void inflow_to_now(const struct sched *s, struct baton_tier *t)
{
    double keep = inflow_kept(&t->kept, t->inflow_at, s->now);

    t->inflow *= keep;
    t->stay *= keep;
    t->sent *= keep;
    t->work *= keep;
    t->streams *= keep;
    t->inflow_at = s->now;
}

/* How much of a decayed sum there is by now: less than all at the start. */
static double inflow_seen(const struct sched *s)
{
    struct sched_baton *b = baton_of(s);

    return num_max(1 - inflow_kept(&b->unseen, b->began_at, s->now), baton_c.inflow_seen);
}

double baton_sent(const struct sched *s, uint32_t tier)
{
    struct baton_tier *t = &baton_of(s)->tier[tier];

    return inflow_kept(&t->kept, t->inflow_at, s->now) * t->sent /
           (inflow_seen(s) * baton_c.inflow_s * 1e9);
}

void baton_inflow(const struct sched *s, uint32_t tier, double *kv, double *stay)
{
    struct sched_baton *b = baton_of(s);
    double in = 0, token_ns = 0;

    for (uint32_t t = 0; t < tier; t++) {
        double keep = inflow_kept(&b->tier[t].kept, b->tier[t].inflow_at, s->now);

        in += keep * b->tier[t].inflow;
        token_ns += keep * b->tier[t].stay;
    }
    *stay = in > 0 && token_ns > 0 ? token_ns / in : 1; /* none: no step time is known yet */
    token_ns /= inflow_seen(s);
    *kv = token_ns / (baton_c.inflow_s * 1e9 * ((double)s->pool[SCHED_ROLE_DECODE].n + 1e-9));
}

/* Tokens of KV in all its steps, as a mean over the lengths it may have. */
static double inflow_work(const struct sched_request *r)
{
    double sum = 0;

    for (int i = 0; i < SCHED_LENGTH_POINTS; i++)
        sum += r->cast.q[i] * (r->n_prompt + 0.5 * r->cast.q[i]);
    return sum / SCHED_LENGTH_POINTS;
}

void baton_inflow_in_time(const struct sched *s, uint32_t tier, double tight, double *kv,
                          double *stay)
{
    struct sched_baton *b = baton_of(s);
    double in = 0, work = 0, life = 0, streams = 0, span = baton_c.inflow_s * 1e9, there;

    for (uint32_t t = 0; t < tier; t++) {
        double keep = inflow_kept(&b->tier[t].kept, b->tier[t].inflow_at, s->now);

        in += keep * b->tier[t].inflow;
        work += keep * b->tier[t].work;
        streams += keep * b->tier[t].streams;
        life += keep * b->tier[t].work * (double)s->cfg.tiers[t].tbt_ns;
    }
    *stay = in > 0 && life > 0 ? life / in : 1;
    there = streams * *stay / span;
    /* Squares of work are about twice the square of its mean, as for streams that end by chance.  What was undone may
     * leave streams without inflow, of which nothing can be said. */
    if (streams > 0 && in > 0)
        work *= 1 + baton_c.inflow_swing * sqrt(2 / streams + 2 / there);
    work /= inflow_seen(s);
    *kv = tight * work / (span * ((double)s->pool[SCHED_ROLE_DECODE].n + 1e-9));
}

void baton_price_bound(struct sched *s, struct sched_request *r, bool undo)
{
    struct sched_baton *b = baton_of(s);
    struct baton_tier *t = &b->tier[r->tier];
    double sign = undo ? -1 : 1, tokens = (double)r->n_prompt + (double)r->baton.out * 0.5;

    inflow_to_now(s, t);
    t->inflow += sign * tokens;
    t->stay += sign * tokens * (double)r->baton.out * (double)r->forecast.step;
    if (r->mate != NULL && r->mate != r->home)
        t->sent += sign * r->n_prompt;
    t->inflow = t->inflow > 0 ? t->inflow : 0;
    t->sent = t->sent > 0 ? t->sent : 0;
    t->streams += sign;
    t->streams = t->streams > 0 ? t->streams : 0;
    t->work += sign * inflow_work(r);
    t->work = t->work > 0 ? t->work : 0;
    t->stay = t->stay > 0 ? t->stay : 0;
    if (!undo && t->short_ns != 0 && r->baton.starving)
        t->short_ns = s->now; /* one at a time; it may still be lost before its turn */
    if (!undo || r->baton.starving)
        t->credit -= sign * (double)r->forecast.prefill;
    if (t->credit < 0 && !SCHED_PLANTED(31))
        t->credit = 0;
}

/* ---- shares of tiers ---- */

static void credit_fill(struct sched *s)
{
    struct sched_baton *b = baton_of(s);
    double gone = (double)(s->now - b->settled_at);

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        double flow = s->cfg.tiers[t].reserved * (double)s->pool[SCHED_ROLE_PREFILL].n;
        double most = flow * baton_c.credit_s * 1e9;

        b->tier[t].credit += flow * gone;
        if (b->tier[t].credit > most)
            b->tier[t].credit = most;
    }
    b->settled_at = s->now;
}

bool baton_entitled(struct sched *s, uint32_t tier, double prefill)
{
    const struct baton_tier *t = &baton_of(s)->tier[tier];

    credit_fill(s);
    return t->credit > 0 && t->credit >= prefill;
}

void baton_in_vain(struct sched *s, uint32_t tier)
{
    struct baton_tier *t = &baton_of(s)->tier[tier];

    if (t->short_ns == 0)
        t->short_ns = s->now > 0 ? s->now : 1;
}

void baton_got_in(struct sched *s, const struct sched_request *r)
{
    baton_of(s)->tier[r->tier].short_ns = baton_of(s)->tier[r->tier_asked].short_ns = 0;
}

bool baton_starves(const struct sched *s, uint32_t tier)
{
    uint64_t since = baton_of(s)->tier[tier].short_ns, bound = s->cfg.tiers[tier].starvation_ns;

    return since != 0 && s->now > sched_after(since, bound > 0 ? bound : 10 * SCHED_SECOND);
}

/* ---- margins ---- */

/* Share of broken promises that margins steer to: below what the tier's percentile allows, since the control swings. */
static double margin_target(const struct sched *s, uint32_t tier)
{
    double p = s->cfg.tiers[tier].percentile;

    return baton_c.broken_part * (1 - (p > 0 ? p : SCHED_PERCENTILE));
}

void baton_margin_decode(struct sched *s, uint32_t tier, bool broken)
{
    double *m = &baton_of(s)->tier[tier].margin;

    *m += baton_c.margin_step * ((broken ? 1 : 0) - margin_target(s, tier));
    *m = *m < 0 ? 0 : *m > baton_c.margin_max ? baton_c.margin_max : *m;
    s->tier_stats[tier].margin = *m;
    m = &baton_of(s)->tier[tier].spare;
    *m += baton_c.spare_step * ((broken ? 1 : 0) - margin_target(s, tier));
    *m = num_min(num_max(*m, 0), baton_c.spare_max);
}

/* Two margins: one grows with the work in the queue, for all tiers, since they share it: each pushes by how far it is
 * from its own target.  The other is what a first token waits for the other prompts of its step, however short its own
 * is: near its deadline little work is left before it, and a part of little is no margin. */
void baton_margin_prefill(struct sched *s, uint32_t tier, bool broken)
{
    struct sched_baton *b = baton_of(s);
    double off = (broken ? 1 : 0) - margin_target(s, tier), *pad = &b->tier[tier].pad;

    b->stretch = num_min(num_max(b->stretch + baton_c.stretch_step * off, baton_c.stretch_min),
                         baton_c.stretch_max);
    *pad = num_min(num_max(*pad + baton_c.pad_step * off, 0), baton_c.pad_max);
}

/* An idle worker has nothing that could share its steps.  Where a step takes as long as the tier's time to first token,
 * a margin of it would refuse everybody. */
double baton_margin_shared(const struct sched *s, uint32_t tier, const struct sched_worker *w)
{
    double beside = sched_edf_work(&w->edf), pad = baton_of(s)->tier[tier].pad;
    double most = baton_c.pad_share * (double)s->cfg.tiers[tier].ttft_ns;

    pad *= beside > 0 ? sched_prefill_ns(s, w, w->max_step_tokens, 0) : 0;
    return num_min(pad, num_min(beside, most));
}
