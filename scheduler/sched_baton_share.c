/* scheduler/sched_baton_share.c - what tenants that ask for more than their fair share leave to those that do not.
 *
 * Weights alone do not hold a surge back: they sink for the one that surges, but what is in time and makes nobody late
 * comes in, fills the decode pool, and a looser tier of somebody else finds no room.  So, max-min: the work that
 * tenants within their shares ask for comes off the time of the pools first; one that asks for more and has had more than
 * its share gets what is left, dearer tiers first.  How much time that is, is steered by those within their shares that
 * are turned away all the same: predicted work is not exactly what it takes.  Tiers stay above shares: work of a tier counts against a request only if it weighs more
 * than that request with its weight sunk by what its tenant asks for too much, and tenants that all ask for about the same
 * do not hold each other back for what chance gives one of them. */
#include "scheduler/sched_baton_parts.h"

#include <math.h>

static double share_kept(uint64_t from, uint64_t now)
{
    return now > from ? exp(-(double)(now - from) / (baton_c.share_s * 1e9)) : 1;
}

static void share_add(struct baton_share *u, uint64_t now, const double work[2], double sign)
{
    double keep = share_kept(u->at, now);

    for (int side = 0; side < 2; side++) {
        u->work[side] = u->work[side] * keep + sign * work[side];
        u->work[side] = u->work[side] > 0 ? u->work[side] : 0;
    }
    u->at = now;
}

/* Without a tenant there are no shares; a tenant that is alone has all of it. */
static double share_asked(const struct sched *s, const struct sched_request *r, uint32_t tier)
{
    return r->tenant == 0
               ? 1
               : sched_tenants_claimed(s->tenants, r->tenant, tier, s->now, SCHED_TENANT_ASKED);
}

void baton_share_arrive(struct sched *s, struct sched_request *r, double prefill, double decode)
{
    double work[2] = {prefill, decode};

    if (r->tenant == 0)
        return;
    sched_tenants_claim(s->tenants, r->tenant, r->tier, s->now, SCHED_TENANT_ASKED,
                        (double)r->cost);
    r->baton.over = share_asked(s, r, r->tier) <= baton_c.share_odds;
    share_add(r->baton.over ? &baton_of(s)->over_asked[r->tier] : &baton_of(s)->within[r->tier],
              s->now, work, 1);
}

void baton_share_bound(struct sched *s, const struct sched_request *r, bool undo)
{
    double work[2] = {(double)r->forecast.prefill, 0};

    if (r->tenant == 0)
        return;
    sched_tenants_claim(s->tenants, r->tenant, r->tier, s->now, SCHED_TENANT_GRANTED,
                        undo ? -(double)r->cost : (double)r->cost);
    if (!r->baton.over)
        return;
    if (s->pool[SCHED_ROLE_DECODE].n > 0)
        work[1] = baton_decode_cost(s, s->pool[SCHED_ROLE_DECODE].v[0], (double)r->n_prompt,
                                    (double)r->cast.mean);
    share_add(&baton_of(s)->over[r->tier], s->now, work, undo ? -1 : 1);
}

void baton_share_hurt(struct sched *s, const struct sched_request *r, bool refused)
{
    struct sched_baton *b = baton_of(s);

    if (r->tenant == 0 || r->baton.over)
        return;
    b->share_full += baton_c.share_step * (baton_c.share_hurt - (refused ? 1 : 0));
    b->share_full = b->share_full < baton_c.share_least  ? baton_c.share_least
                    : b->share_full > baton_c.share_most ? baton_c.share_most
                                                         : b->share_full;
}

static double tier_weight(const struct sched *s, uint32_t tier)
{
    return s->cfg.tiers[tier].weight > 0 ? s->cfg.tiers[tier].weight : 1;
}

static void share_sum(const struct sched *s, const struct baton_share *u, double sum[2])
{
    double keep = share_kept(u->at, s->now);

    for (int side = 0; side < 2; side++)
        sum[side] += keep * u->work[side];
}

bool baton_share_ok(const struct sched *s, const struct sched_request *r, uint32_t tier,
                    const struct baton_bill *bill)
{
    const struct sched_baton *b = baton_of(s);
    double need[2] = {bill->prefill, bill->decode}, full = tier_weight(s, tier), sunk;

    if (!r->baton.over ||
        sched_tenants_claimed(s->tenants, r->tenant, tier, s->now, SCHED_TENANT_GRANTED) >= 1)
        return true;
    sunk = full * share_asked(s, r, tier);
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        double weight = tier_weight(s, t);

        if (t == tier || weight > sunk)
            share_sum(s, weight > full ? &b->over_asked[t] : &b->over[t], need);
        if (weight > sunk)
            share_sum(s, &b->within[t], need);
    }
    for (int side = 0; side < 2; side++)
        if (baton_price_scarce(s, side) &&
            need[side] > b->share_full * baton_c.share_s * 1e9 * (double)s->pool[side + 1].n)
            return false;
    return true;
}

double baton_share_eases(const struct sched *s, const struct sched_request *r, uint32_t tier)
{
    double asked = share_asked(s, r, tier);

    return asked > 0 && asked < baton_c.share_odds
               ? baton_c.share_s * 1e9 * log(baton_c.share_odds / asked)
               : 0;
}
