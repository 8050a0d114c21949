/* scheduler/sched_tenant.c - token buckets and decayed service of tenants.
 *
 * Every tier has a list of the tenants that received service there, oldest first: whoever heads it and is a
 * minute old leaves, so the sums over active tenants cost O(1) a call. */
#include "scheduler/sched_tenant.h"

#include <math.h>

#include "base/map.h"
#include "base/mem.h"

static const double TENANT_DECAY_NS = 10e9;
static const uint64_t TENANT_ACTIVE_NS = UINT64_C(60) * 1000 * 1000 * 1000;
static const double TENANT_FACTOR_MIN = 0.05;
static const double TENANT_TOLERANCE = 0.01; /* above the fair share: chance, not greed */
enum { TENANT_LOOK = 64 }; /* so many are asked for the least service when one comes back */

struct tenant_row;
struct tenant_claim {
    double sum; /* at at_ns */
    uint64_t at_ns;
};
struct tenant_use {
    struct tenant_row *prev, *next; /* of the tier, by last_ns */
    double service;                 /* at last_ns */
    uint64_t last_ns;
    struct tenant_claim claim[SCHED_TENANT_CLAIMS];
    bool active; /* in the list */
};
struct tenant_row {
    struct sched_tenant c;
    bool described; /* by the operator: never forgotten */
    uint32_t live, active;
    double level;   /* of the bucket, at level_ns */
    double charged; /* of it, for those that are live */
    uint64_t level_ns;
    struct tenant_use use[SCHED_TIERS_MAX];
};
struct tenant_tier {
    struct tenant_row *first, *last;
    double weights; /* of those in the list */
    double service; /* of all, at last_ns */
    uint64_t last_ns;
    struct tenant_claim claim[SCHED_TENANT_CLAIMS]; /* of all */
};
struct sched_tenants {
    struct map rows;
    struct tenant_tier tier[SCHED_TIERS_MAX];
};

enum err sched_tenants_create(struct sched_tenants **out)
{
    *out = mem_try_calloc(1, sizeof **out);
    return *out ? ERR_OK : ERR_NOMEM;
}

void sched_tenants_free(struct sched_tenants *t)
{
    struct tenant_row *row;
    size_t at = 0;

    if (!t)
        return;
    while ((row = map_next(&t->rows, &at)) != NULL)
        mem_free(row);
    map_free(&t->rows);
    mem_free(t);
}

static double tenant_weight(const struct tenant_row *row)
{
    return row->c.weight > 0 ? row->c.weight : 1;
}

/* What `value` of `from` is worth later. */
static double tenant_decayed(double value, uint64_t from, uint64_t now_ns)
{
    return now_ns > from ? value * exp(-(double)(now_ns - from) / TENANT_DECAY_NS) : value;
}

/* ---- rows ---- */

static struct tenant_row *tenant_find(const struct sched_tenants *t, uint32_t id)
{
    return id > 0 ? map_get(&t->rows, id) : NULL;
}

static struct tenant_row *tenant_add(struct sched_tenants *t, uint32_t id)
{
    struct tenant_row *row = mem_try_calloc(1, sizeof *row);

    if (!row)
        return NULL;
    row->c.id = id;
    if (map_put(&t->rows, id, row) != ERR_OK) {
        mem_free(row);
        return NULL;
    }
    return row;
}

static void tenant_forget_idle(struct sched_tenants *t, struct tenant_row *row)
{
    if (row->described || row->live > 0 || row->active > 0)
        return;
    (void)map_del(&t->rows, row->c.id);
    mem_free(row);
}

/* ---- service ---- */

static void tenant_unlink(struct tenant_tier *tier, uint32_t q, struct tenant_row *row)
{
    struct tenant_use *use = &row->use[q];

    if (use->prev)
        use->prev->use[q].next = use->next;
    else
        tier->first = use->next;
    if (use->next)
        use->next->use[q].prev = use->prev;
    else
        tier->last = use->prev;
    use->prev = use->next = NULL;
}

static void tenant_append(struct tenant_tier *tier, uint32_t q, struct tenant_row *row)
{
    row->use[q].prev = tier->last;
    if (tier->last)
        tier->last->use[q].next = row;
    else
        tier->first = row;
    tier->last = row;
}

static void tenant_tier_to(struct tenant_tier *tier, uint64_t now_ns)
{
    tier->service = tenant_decayed(tier->service, tier->last_ns, now_ns);
    tier->last_ns = now_ns > tier->last_ns ? now_ns : tier->last_ns;
}

/* Those whose service is long gone are no competitors any more. */
static void tenant_expire(struct sched_tenants *t, uint64_t now_ns)
{
    for (uint32_t q = 0; q < SCHED_TIERS_MAX; q++) {
        struct tenant_tier *tier = &t->tier[q];
        struct tenant_row *row;

        while ((row = tier->first) != NULL && now_ns > row->use[q].last_ns &&
               now_ns - row->use[q].last_ns > TENANT_ACTIVE_NS) {
            struct tenant_use *use = &row->use[q];

            tenant_tier_to(tier, now_ns);
            tenant_unlink(tier, q, row);
            tier->service =
                fmax(tier->service - tenant_decayed(use->service, use->last_ns, now_ns), 0);
            tier->weights = tier->first ? fmax(tier->weights - tenant_weight(row), 0) : 0;
            use->prev = use->next = NULL;
            use->service = 0;
            use->active = false;
            row->active--;
            tenant_forget_idle(t, row);
        }
    }
}

/* Service a tenant has with its first request: the least that another one has for its weight, but no more than
 * an even share of all. */
static double tenant_start(const struct tenant_tier *tier, uint32_t q, double weight,
                           uint64_t now_ns)
{
    double least = tier->weights > 0 ? tier->service / tier->weights : 0;
    const struct tenant_row *row = tier->first;

    for (int k = 0; k < TENANT_LOOK && row; k++, row = row->use[q].next) {
        const struct tenant_use *use = &row->use[q];

        least =
            fmin(least, tenant_decayed(use->service, use->last_ns, now_ns) / tenant_weight(row));
    }
    return least * weight;
}

static void tenant_serve(struct sched_tenants *t, struct tenant_row *row, uint32_t q,
                         uint64_t now_ns, double used)
{
    struct tenant_tier *tier = &t->tier[q];
    struct tenant_use *use = &row->use[q];

    tenant_tier_to(tier, now_ns);
    if (use->active) {
        use->service = tenant_decayed(use->service, use->last_ns, now_ns);
        tenant_unlink(tier, q, row);
    } else {
        use->service = fmax(tenant_start(tier, q, tenant_weight(row), now_ns) - used, 0);
        tier->service += use->service;
        tier->weights += tenant_weight(row);
        use->active = true;
        row->active++;
    }
    use->last_ns = now_ns > use->last_ns ? now_ns : use->last_ns;
    use->service += used;
    tier->service += used;
    tenant_append(tier, q, row);
}

/* Of one that has `share` and should have `fair`. */
static double tenant_factor(double share, double fair)
{
    double factor;

    if (!(share > fair * (1 + TENANT_TOLERANCE)))
        return 1;
    factor = share < 1 ? fair / (1 - fair) * (1 - share) / share : 0;
    return fmax(factor, TENANT_FACTOR_MIN);
}

double sched_tenants_share(const struct sched_tenants *t, uint32_t id, uint32_t tier,
                           uint64_t now_ns)
{
    const struct tenant_row *row = tenant_find(t, id);
    const struct tenant_tier *all;

    if (!row || tier >= SCHED_TIERS_MAX || !row->use[tier].active)
        return 1;
    all = &t->tier[tier];
    return tenant_factor(tenant_decayed(row->use[tier].service, row->use[tier].last_ns, now_ns) /
                             tenant_decayed(all->service, all->last_ns, now_ns),
                         tenant_weight(row) / fmax(all->weights, tenant_weight(row)));
}

/* ---- what is asked for, and granted ---- */

static void claim_add(struct tenant_claim *c, uint64_t now_ns, double cost)
{
    c->sum = fmax(tenant_decayed(c->sum, c->at_ns, now_ns) + cost, 0);
    c->at_ns = now_ns > c->at_ns ? now_ns : c->at_ns;
}

void sched_tenants_claim(struct sched_tenants *t, uint32_t id, uint32_t tier, uint64_t now_ns,
                         enum sched_tenant_claim what, double cost)
{
    struct tenant_row *row = tenant_find(t, id);

    if (!row || tier >= SCHED_TIERS_MAX || !isfinite(cost))
        return;
    claim_add(&row->use[tier].claim[what], now_ns, cost);
    claim_add(&t->tier[tier].claim[what], now_ns, cost);
}

double sched_tenants_claimed(const struct sched_tenants *t, uint32_t id, uint32_t tier,
                             uint64_t now_ns, enum sched_tenant_claim what)
{
    const struct tenant_row *row = tenant_find(t, id);
    const struct tenant_claim *own, *all;
    double weights;

    if (!row || tier >= SCHED_TIERS_MAX)
        return 1;
    own = &row->use[tier].claim[what];
    all = &t->tier[tier].claim[what];
    if (!(own->sum > 0) || !(all->sum > 0))
        return 1;
    weights = t->tier[tier].weights + (row->use[tier].active ? 0 : tenant_weight(row));
    return tenant_factor(tenant_decayed(own->sum, own->at_ns, now_ns) /
                             tenant_decayed(all->sum, all->at_ns, now_ns),
                         tenant_weight(row) / fmax(weights, tenant_weight(row)));
}

/* ---- quota ---- */

static double tenant_room(const struct tenant_row *row)
{
    return row->c.tokens_per_s * (row->c.burst_s > 0 ? row->c.burst_s : 10);
}

static void tenant_fill(struct tenant_row *row, uint64_t now_ns)
{
    if (now_ns <= row->level_ns)
        return;
    row->level += row->c.tokens_per_s * (double)(now_ns - row->level_ns) * 1e-9;
    row->level = fmin(row->level, tenant_room(row));
    row->level_ns = now_ns;
}

static uint64_t tenant_wait(const struct tenant_row *row, double cost)
{
    double ns = ceil((cost - row->level) / row->c.tokens_per_s * 1e9);

    return cost > tenant_room(row) || !(ns < 9e18) ? UINT64_MAX : ns < 1 ? 1 : (uint64_t)ns;
}

enum err sched_tenants_set(struct sched_tenants *t, const struct sched_tenant *c)
{
    struct tenant_row *row = tenant_find(t, c->id);
    double had;

    if (c->id == 0 || !(c->weight >= 0) || !(c->tokens_per_s >= 0) || !(c->burst_s >= 0) ||
        isinf(c->weight) || isinf(c->tokens_per_s) || isinf(c->burst_s))
        return ERR_INVALID;
    if (!row && (row = tenant_add(t, c->id)) == NULL)
        return ERR_NOMEM;
    had = tenant_weight(row);
    /* The level is taken over where there was a bucket: else a change of the quota would fill it. */
    if (row->c.tokens_per_s > 0 && c->tokens_per_s > 0) {
        row->c = *c;
        row->level = fmin(row->level, tenant_room(row));
    } else {
        row->c = *c;
        row->level = tenant_room(row);
        row->charged = 0;
    }
    row->described = true;
    for (uint32_t q = 0; q < SCHED_TIERS_MAX; q++)
        if (row->use[q].active)
            t->tier[q].weights += tenant_weight(row) - had;
    return ERR_OK;
}

enum err sched_tenants_take(struct sched_tenants *t, uint32_t id, uint64_t now_ns, double cost,
                            uint64_t *wait_ns)
{
    struct tenant_row *row;

    *wait_ns = 0;
    if (id == 0)
        return ERR_OK;
    cost = cost > 0 ? cost : 0;
    tenant_expire(t, now_ns);
    row = tenant_find(t, id);
    if (!row && (row = tenant_add(t, id)) == NULL)
        return ERR_NOMEM;
    if (row->c.tokens_per_s > 0) {
        tenant_fill(row, now_ns);
        if (cost > row->level) {
            *wait_ns = tenant_wait(row, cost);
            return ERR_LIMIT;
        }
    }
    if (row->c.max_live > 0 && row->live >= row->c.max_live)
        return ERR_LIMIT;
    if (row->c.tokens_per_s > 0) {
        row->level -= cost;
        row->charged += cost;
    }
    row->live++;
    return ERR_OK;
}

void sched_tenants_end(struct sched_tenants *t, uint32_t id, uint32_t tier, uint64_t now_ns,
                       double cost, double used)
{
    struct tenant_row *row = tenant_find(t, id);

    if (!row || row->live == 0)
        return;
    cost = cost > 0 ? cost : 0;
    used = used > 0 && used < 1e18 ? used : 0;
    row->live--;
    if (row->charged > 0) { /* nothing comes back that a bucket did not give */
        double back = fmin(cost, row->charged);

        tenant_fill(row, now_ns);
        row->charged = row->live > 0 ? row->charged - back : 0;
        row->level = fmin(row->level + back - used, tenant_room(row));
    }
    if (tier < SCHED_TIERS_MAX && used > 0)
        tenant_serve(t, row, tier, now_ns, used);
    tenant_forget_idle(t, row);
    tenant_expire(t, now_ns);
}

uint32_t sched_tenants_live(const struct sched_tenants *t, uint32_t id)
{
    const struct tenant_row *row = tenant_find(t, id);

    return row ? row->live : 0;
}

uint32_t sched_tenants_rows(const struct sched_tenants *t)
{
    return (uint32_t)t->rows.count;
}
