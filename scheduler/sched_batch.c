/* scheduler/sched_batch.c - one plan of a decode worker: steps, then room for growth, then who comes in.
 *
 * The list is sorted a few times in the caller's scratch: residents first, those that ask for room behind
 * them.  Every pass walks it once, so a plan costs O(n log n) whatever the input.
 *
 * Why nobody is parked and brought back in turns: coming back needs room for the growth of all residents over
 * GROWTH_NS; a tier never displaces a tighter one; inside a tier the victim has more slack than both
 * moves cost plus a spare time, which it has to use up before it can ask to come back; the spare time grows
 * with what is parked already, so that moving takes a bounded share of time.
 *
 * Why nobody starves: one that is about to be late and finds no room keeps the rest of its tier and all
 * looser ones from taking what gets free, until it fits; one whose promise is lost gives way to those of
 * its tier that can still be kept, but only for AGED_NS. */
#include "scheduler/sched_batch.h"

#include <assert.h>
#include <math.h>

enum {
    SPARE_NS = 300 * 1000 * 1000,
    MOVE_PART = 10, /* inside a tier at most 1/MOVE_PART of the time goes into moving KV */
    GROWTH_NS = 500 * 1000 * 1000,
    GROWTH_STEPS_MAX = 64,
    BATCH_TIERS = 16,
    WAKE_NS = 100 * 1000 * 1000,
    TURN_SHARE = 50, /* turns of prompts take one part in so many of a batch's time */
    TURN_LEAST_NS = 100 * 1000 * 1000,
    TURN_MOST_NS = 2000 * 1000 * 1000,
    DRAIN_STEPS =
        200 /* mean life of a request in the batch, in steps: how long room takes to get free */
};
static const int64_t AGED_NS = INT64_C(3000) * 1000 * 1000;
static const uint32_t STUCK = UINT32_C(1) << 31; /* flag in scratch: wants to step, has no block */
static const double TIGHTER_PART = 0.2, TIGHTER_MOST = 0.02;
static const double BUSY_MOST =
    0.9; /* of the time between tokens, that short steps may need for one token of everybody */
static const double PART_OF_TBT = 0.97; /* of the tightest tbt that one step may take */

/* By what becomes of it if it is left alone; smaller is more urgent. */
enum urgency { BATCH_AGED = 0, BATCH_DANGER, BATCH_LOST, BATCH_RICH };

struct batch {
    struct sched_batch_item *v;
    const struct sched_batch_pool *pool;
    bool timed;            /* the law is known */
    double step_ns;        /* of a step with everybody */
    double limit_ns;       /* of this step, because of those in danger; 0: none */
    uint64_t blocks, room; /* of the whole pool; free now */
    uint64_t park_room;
    double spare_ns;          /* slack beyond the moves that a victim needs inside its own tier */
    uint64_t holders;         /* RESIDENT + ARRIVING, less those parked */
    double held[BATCH_TIERS]; /* blocks by tier; the last one: that and all looser ones */
    double growth;            /* blocks each of them wants kept free */
    double b, ctx;            /* of this step so far */
    uint32_t *r, n_r;         /* residents */
    uint32_t *a, n_a;         /* those that ask: PARKED and WAITING */
    uint32_t from_end;        /* victims: r[from_end ..] were looked at */
};

static int64_t batch_ns(double ns)
{
    return ns < 0 ? 0 : ns > 9e17 ? INT64_C(900000000000000000) : (int64_t)ns;
}

static double batch_move_ns(const struct batch *p, uint64_t blocks)
{
    return p->pool->park_ns_per_block > 0 ? p->pool->park_ns_per_block * (double)blocks : 0;
}

/* Within what can be added to. */
static int64_t batch_slack(const struct sched_batch_item *i)
{
    int64_t most = INT64_C(4000000000000000000);

    return i->slack_ns > most ? most : i->slack_ns < -most ? -most : i->slack_ns;
}

/* Slack below which an item has to act now. */
static int64_t batch_near_ns(const struct batch *p, const struct sched_batch_item *i)
{
    double near = p->timed ? 2 * p->step_ns : 2 * (double)i->tbt_ns;

    if (i->state == SCHED_BATCH_PARKED || i->state == SCHED_BATCH_WAITING)
        near += (double)SPARE_NS + batch_move_ns(p, i->need);
    return batch_ns(near);
}

/* Slack below which one that asks keeps others from the room that gets free: the larger it is, the longer
 * it takes until so much is free at once. */
static int64_t batch_hoard_ns(const struct batch *p, const struct sched_batch_item *i)
{
    double part = p->blocks > 0 ? (double)i->need / (double)p->blocks : 1;

    return batch_near_ns(p, i) + batch_ns(DRAIN_STEPS * p->step_ns * (part < 1 ? part : 1));
}

static bool batch_hurried(const struct batch *p, const struct sched_batch_item *i)
{
    return p->timed && i->pace_ns > 0 && i->pace_ns < p->step_ns;
}

static enum urgency batch_urgency(const struct batch *p, const struct sched_batch_item *i)
{
    int64_t tbt = batch_ns((double)i->tbt_ns);

    if (batch_hurried(p, i))
        return BATCH_DANGER;
    if (i->slack_ns < -AGED_NS)
        return BATCH_AGED;
    if (i->slack_ns < -tbt)
        return BATCH_LOST;
    return i->slack_ns < batch_near_ns(p, i) ? BATCH_DANGER : BATCH_RICH;
}

/* ---- orders ---- */

enum order {
    ORDER_STEP,   /* in danger by tier, then by slack whatever the tier */
    ORDER_NESTED, /* by tier, then urgency: the last one is the first to go */
    ORDER_ASK     /* in danger by tier, then the others by tier */
};

static bool batch_before(const struct batch *p, enum order o, uint32_t x, uint32_t y)
{
    const struct sched_batch_item *i = &p->v[x & ~STUCK], *j = &p->v[y & ~STUCK];
    enum urgency ui = batch_urgency(p, i), uj = batch_urgency(p, j);
    bool ri = ui == BATCH_RICH, rj = uj == BATCH_RICH;

    if (o != ORDER_NESTED && ri != rj)
        return rj;
    if (i->tier != j->tier && !(o == ORDER_STEP && ri))
        return i->tier < j->tier;
    if (ui != uj)
        return ui < uj;
    if (i->slack_ns != j->slack_ns)
        return i->slack_ns < j->slack_ns;
    if (i->tier != j->tier)
        return i->tier < j->tier;
    if (i->id != j->id)
        return i->id < j->id;
    return (x & ~STUCK) < (y & ~STUCK);
}

static void batch_sift(const struct batch *p, enum order o, uint32_t *h, uint32_t at, uint32_t n)
{
    uint32_t x = h[at];

    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && batch_before(p, o, h[child], h[child + 1]))
            child++;
        if (!batch_before(p, o, x, h[child]))
            break;
        h[at] = h[child];
    }
    h[at] = x;
}

/* Heap sort: in place, and no input makes it slow. */
static void batch_sort(const struct batch *p, enum order o, uint32_t *h, uint32_t n)
{
    for (uint32_t at = n / 2; at-- > 0;)
        batch_sift(p, o, h, at, n);
    for (uint32_t end = n; end > 1; end--) {
        uint32_t last = h[0];

        h[0] = h[end - 1];
        batch_sift(p, o, h, 0, end - 1);
        h[end - 1] = last;
    }
}

/* ---- steps ---- */

static struct sched_batch_item *batch_at(const struct batch *p, const uint32_t *list, uint32_t k)
{
    return &p->v[list[k] & ~STUCK];
}

static void batch_step_on(struct batch *p, struct sched_batch_item *i)
{
    i->what = SCHED_DO_STEP;
    p->room -= i->need;
    p->b += 1;
    p->ctx += i->context;
}

/* Those that would get late, by tier. */
struct batch_danger {
    double b[BATCH_TIERS], ctx[BATCH_TIERS];
    double
        busy; /* share of the time that all residents' tokens take, the fixed part of steps apart */
};

/* To hurry one does not make its like late: the step has time for all of its tier and of tighter ones that would
 * be.  Nor does it make all others late in the long run: each step costs its fixed part c0, so that shorter ones than
 * c0 / (1 - busy) do less than one token per time between tokens for everybody, and those that are left out would have to
 * be hurried next. */
static double batch_pace(const struct batch *p, const struct batch_danger *d,
                         const struct sched_batch_item *i)
{
    double b = 0, ctx = 0;

    for (uint32_t q = 0; q <= i->tier && q < BATCH_TIERS; q++) {
        b += d->b[q];
        ctx += d->ctx[q];
    }
    if (d->busy >= BUSY_MOST)
        return INFINITY;
    return fmax(fmax(i->pace_ns, sched_law_decode(p->pool->decode, b, ctx)),
                p->pool->decode->c[0] / (1 - d->busy / BUSY_MOST));
}

/* The tightest tbt or pace of those that would get late; one whose promise is lost hurries nobody. */
static double batch_limit(const struct batch *p)
{
    struct batch_danger d = {{0}, {0}, 0};
    const double *c = p->pool->decode->c;
    double limit = 0;

    for (uint32_t k = 0; k < p->n_r; k++) {
        const struct sched_batch_item *i = batch_at(p, p->r, k);
        uint32_t q = i->tier < BATCH_TIERS ? i->tier : BATCH_TIERS - 1;

        if (i->tbt_ns > 0)
            d.busy += (c[1] + c[2] * i->context) / (double)i->tbt_ns;
        if (i->tbt_ns == 0 || batch_urgency(p, i) != BATCH_DANGER)
            continue;
        d.b[q] += 1;
        d.ctx[q] += i->context;
        if (limit == 0 || PART_OF_TBT * (double)i->tbt_ns < limit)
            limit = PART_OF_TBT * (double)i->tbt_ns;
    }
    for (uint32_t k = 0; k < p->n_r && limit > 0; k++) {
        const struct sched_batch_item *i = batch_at(p, p->r, k);

        if (i->tbt_ns > 0 && batch_hurried(p, i))
            limit = fmin(limit, batch_pace(p, &d, i));
    }
    return limit;
}

static bool batch_fits_time(const struct batch *p, const struct sched_batch_item *i)
{
    return !p->timed || p->limit_ns <= 0 || p->b <= 0 ||
           sched_law_decode(p->pool->decode, p->b + 1, p->ctx + i->context) <= p->limit_ns;
}

/* Most urgent first, while the step stays short enough; blocks are not given past one that lacks them. */
static void batch_steps(struct batch *p)
{
    bool short_of_blocks = false;

    for (uint32_t k = 0; k < p->n_r && p->b < p->pool->max_batch; k++) {
        struct sched_batch_item *i = batch_at(p, p->r, k);

        if (!batch_fits_time(p, i))
            continue;
        if (i->need > 0 && (short_of_blocks || i->need > p->room)) {
            p->r[k] |= STUCK;
            short_of_blocks = true;
        } else {
            batch_step_on(p, i);
        }
    }
}

/* ---- parking ---- */

static void batch_park(struct batch *p, struct sched_batch_item *i)
{
    if (i->what == SCHED_DO_STEP) {
        p->room += i->need;
        p->b -= 1;
        p->ctx -= i->context;
    }
    i->what = SCHED_DO_PARK;
    p->room += i->blocks;
    p->park_room -= i->blocks;
    p->holders--;
}

/* May `i` go so that `x` has room?  A looser tier always; its own only with time for both moves. */
static bool batch_may_go(const struct batch *p, const struct sched_batch_item *i,
                         const struct sched_batch_item *x)
{
    double own = x->slack_ns > 0 ? (double)x->slack_ns : 0;

    if (i == x || i->what == SCHED_DO_PARK || i->blocks == 0)
        return false;
    return i->tier > x->tier ||
           (i->tier == x->tier &&
            (double)i->slack_ns > p->spare_ns + 2 * batch_move_ns(p, i->blocks) + own);
}

/* Blocks to be kept free when so many hold KV: one alone needs none but its own. */
static double batch_reserve(const struct batch *p, uint64_t holders)
{
    return holders > 1 ? p->growth * (double)holders : 0;
}

/* Room that looser tiers leave for the next requests of tighter ones: what those ask for comes in lumps, and to
 * park for it costs everybody's time.  A fifth of what tighter tiers hold, so nothing where there are none; at most a
 * fiftieth of the pool: a twentieth left a twentieth of the room empty for as long as anybody waited. */
static double batch_ladder(const struct batch *p, const struct sched_batch_item *x)
{
    double tighter = 0;

    for (uint32_t q = 0; q < x->tier && q < BATCH_TIERS; q++)
        tighter += p->held[q];
    return fmin(TIGHTER_PART * tighter, TIGHTER_MOST * (double)p->blocks);
}

/* Is there room for x with `more` blocks gained and `gone` parked? */
static bool batch_fits(const struct batch *p, const struct sched_batch_item *x, uint64_t more,
                       uint64_t gone)
{
    uint64_t room = p->room + more, after = p->holders - gone + 1;

    if (x->state == SCHED_BATCH_RESIDENT)
        return x->need <= room;
    if (p->pool->max_resident > 0 && after > p->pool->max_resident)
        return false;
    return (double)x->need + batch_reserve(p, after) + batch_ladder(p, x) <= (double)room;
}

/* Parks as few as make room for x, loosest first; nobody if they would not be enough.  Victims that were
 * passed over stay so: whoever asks later is less urgent. */
static bool batch_make_room(struct batch *p, const struct sched_batch_item *x)
{
    uint64_t more = 0, gone = 0, moved = 0;
    uint32_t end = p->from_end;

    while (!batch_fits(p, x, more, gone)) {
        const struct sched_batch_item *i;

        if (end == 0 || (i = batch_at(p, p->r, end - 1))->tier < x->tier)
            return false;
        end--;
        if (batch_may_go(p, i, x) && moved + i->blocks <= p->park_room) {
            more += (uint64_t)i->blocks + (i->what == SCHED_DO_STEP ? i->need : 0);
            moved += i->blocks;
            gone++;
        }
    }
    for (moved = 0; p->from_end > end; p->from_end--) {
        uint32_t *slot = &p->r[p->from_end - 1];
        struct sched_batch_item *i = &p->v[*slot & ~STUCK];

        if (batch_may_go(p, i, x) && i->blocks <= p->park_room) {
            batch_park(p, i);
            *slot &= ~STUCK;
        }
    }
    return true;
}

/* Residents in danger that have no block for their next token displace others. */
static void batch_grow_by_parking(struct batch *p)
{
    p->from_end = p->n_r;
    for (uint32_t k = 0; k < p->n_r; k++) {
        struct sched_batch_item *i = batch_at(p, p->r, k);

        if (!(p->r[k] & STUCK) || batch_urgency(p, i) == BATCH_RICH)
            continue;
        if (p->b >= p->pool->max_batch || !batch_make_room(p, i))
            return;
        batch_step_on(p, i);
        p->r[k] &= ~STUCK;
    }
}

/* Parks stuck residents behind `k` until r[k] can step; none if that cannot be reached. */
static bool batch_take_from_stuck(struct batch *p, uint32_t k, uint32_t *end)
{
    uint32_t need = batch_at(p, p->r, k)->need, to = *end;
    uint64_t more = 0;

    while (p->room + more < need) {
        const struct sched_batch_item *last;

        if (--to <= k)
            return false;
        last = batch_at(p, p->r, to);
        if ((p->r[to] & STUCK) && more + last->blocks <= p->park_room)
            more += last->blocks;
    }
    while (*end > to) {
        uint32_t *slot = &p->r[--*end];

        if ((*slot & STUCK) && p->v[*slot & ~STUCK].blocks <= p->park_room &&
            p->v[*slot & ~STUCK].blocks > 0) {
            *slot &= ~STUCK;
            batch_park(p, &p->v[*slot]);
        }
    }
    return true;
}

/* Those that are still stuck hold blocks that move nobody.  The loosest of them goes so that the others
 * step; a single one waits for somebody to end.  While others step, only those in danger get this. */
static void batch_grow_by_lot(struct batch *p)
{
    bool idle = p->b <= 0;
    uint32_t end = p->n_r;

    for (uint32_t k = 0; k < end && p->b < p->pool->max_batch; k++) {
        struct sched_batch_item *i = batch_at(p, p->r, k);

        if (!(p->r[k] & STUCK) || (!idle && batch_urgency(p, i) == BATCH_RICH))
            continue;
        if (!batch_take_from_stuck(p, k, &end))
            return;
        batch_step_on(p, i);
        p->r[k] &= ~STUCK;
    }
}

/* ---- who comes in ---- */

static void batch_take_in(struct batch *p, struct sched_batch_item *i)
{
    i->what = i->state == SCHED_BATCH_PARKED ? SCHED_DO_RESUME : SCHED_DO_GRANT;
    p->room -= i->need;
    p->holders++;
}

static void batch_asks(struct batch *p)
{
    uint64_t closed = UINT64_MAX; /* tiers from this one on wait for one of them to fit */

    p->from_end = p->n_r;
    for (uint32_t k = 0; k < p->n_a; k++) {
        struct sched_batch_item *i = batch_at(p, p->a, k);

        if (i->tier >= closed)
            continue;
        if (batch_fits(p, i, 0, 0) || (batch_urgency(p, i) != BATCH_RICH && batch_make_room(p, i)))
            batch_take_in(p, i);
        else if (i->slack_ns < batch_hoard_ns(p, i))
            closed = i->tier;
    }
}

/* ---- the plan ---- */

/* Blocks that one resident grows by in GROWTH_NS; at least one, and all together not a tenth of the pool. */
static double batch_growth(const struct batch *p, double blocks, double ctx)
{
    double block_tokens = blocks > 0 && ctx > blocks ? ctx / blocks : 1;
    double steps = p->step_ns > 0 ? GROWTH_NS / p->step_ns : 1;
    double each = (steps < GROWTH_STEPS_MAX ? steps : GROWTH_STEPS_MAX) / block_tokens;
    double most = p->holders > 0 ? 0.1 * (double)p->blocks / (double)p->holders : 1;

    each = each < most ? each : most;
    return each > 1 ? each : 1;
}

static void batch_open(struct batch *p, struct sched_batch_item *v, uint32_t n,
                       const struct sched_batch_pool *pool)
{
    double ctx = 0, blocks = 0, b = 0;
    uint64_t parked = 0;

    *p = (struct batch){.v = v, .pool = pool, .room = pool->free_blocks};
    p->park_room = pool->park_room_blocks;
    p->timed = pool->decode != NULL && sched_law_known(pool->decode);
    for (uint32_t k = 0; k < n; k++) {
        v[k].what = SCHED_DO_NOTHING;
        if (v[k].state == SCHED_BATCH_RESIDENT) {
            p->n_r++;
            b += 1;
            ctx += v[k].context;
            blocks += v[k].blocks;
            p->held[v[k].tier < BATCH_TIERS ? v[k].tier : BATCH_TIERS - 1] += v[k].blocks;
        } else if (v[k].state == SCHED_BATCH_ARRIVING) {
            p->holders++;
            p->blocks += v[k].blocks;
        } else if (v[k].state == SCHED_BATCH_PARKED) {
            parked += v[k].need;
        }
    }
    /* Each stays away for its spare time at least, so this much is parked at a rate of parked / spare. */
    p->spare_ns = MOVE_PART * 2 * batch_move_ns(p, parked);
    p->spare_ns = p->spare_ns > SPARE_NS ? p->spare_ns : SPARE_NS;
    p->holders += p->n_r;
    p->blocks += pool->free_blocks + (uint64_t)blocks;
    if (p->timed && b > 0) {
        double part = b > pool->max_batch ? pool->max_batch / b : 1;

        p->step_ns = sched_law_decode(pool->decode, part * b, part * ctx);
    }
    p->growth = batch_growth(p, blocks, ctx);
}

static void batch_fill(struct batch *p, uint32_t n, uint32_t *scratch)
{
    uint32_t r = 0, a = p->n_r;

    p->r = scratch;
    p->a = scratch + p->n_r;
    for (uint32_t k = 0; k < n; k++) {
        if (p->v[k].state == SCHED_BATCH_RESIDENT)
            scratch[r++] = k;
        else if (p->v[k].state == SCHED_BATCH_PARKED || p->v[k].state == SCHED_BATCH_WAITING)
            scratch[a++] = k;
    }
    p->n_a = a - p->n_r;
}

void sched_batch_plan(struct sched_batch_item *v, uint32_t n, const struct sched_batch_pool *pool,
                      uint32_t *scratch)
{
    struct batch p;
    uint64_t growth = 0;
    bool stuck = false;

    assert(n < STUCK);
    batch_open(&p, v, n, pool);
    batch_fill(&p, n, scratch);
    for (uint32_t k = 0; k < p.n_r; k++)
        growth += batch_at(&p, p.r, k)->need;
    p.limit_ns = p.timed ? batch_limit(&p) : 0;
    /* The order of those who all step anyway is no question worth a sort. */
    if (growth > p.room || p.n_r > pool->max_batch || (p.limit_ns > 0 && p.step_ns > p.limit_ns))
        batch_sort(&p, ORDER_STEP, p.r, p.n_r);
    batch_steps(&p);
    for (uint32_t k = 0; k < p.n_r && !stuck; k++)
        stuck = p.r[k] & STUCK;
    if (!stuck && p.n_a == 0)
        return;
    batch_sort(&p, ORDER_NESTED, p.r, p.n_r);
    if (stuck) {
        batch_grow_by_parking(&p);
        batch_grow_by_lot(&p);
    }
    batch_sort(&p, ORDER_ASK, p.a, p.n_a);
    batch_asks(&p);
}

bool sched_batch_plain(uint32_t residents, double context, uint32_t growth_blocks,
                       uint32_t not_resident, uint64_t min_tbt_ns,
                       const struct sched_batch_pool *pool)
{
    if (not_resident > 0 || growth_blocks > pool->free_blocks || residents > pool->max_batch)
        return false;
    if (pool->decode == NULL || !sched_law_known(pool->decode) || min_tbt_ns == 0)
        return true;
    return sched_law_decode(pool->decode, residents, context) <= PART_OF_TBT * (double)min_tbt_ns;
}

int64_t sched_batch_wake(const struct sched_batch_item *v, uint32_t n,
                         const struct sched_batch_pool *pool)
{
    struct batch p = {.pool = pool, .blocks = pool->free_blocks};
    double ctx = 0, b = 0;
    int64_t wake = INT64_MAX;

    p.timed = pool->decode != NULL && sched_law_known(pool->decode);
    for (uint32_t k = 0; k < n; k++) {
        p.blocks += v[k].blocks;
        b += v[k].state == SCHED_BATCH_RESIDENT;
        ctx += v[k].state == SCHED_BATCH_RESIDENT ? v[k].context : 0;
    }
    p.step_ns = p.timed && b > 0 ? sched_law_decode(pool->decode, b, ctx) : 0;
    for (uint32_t k = 0; k < n; k++) {
        int64_t until[3], slack = batch_slack(&v[k]);

        if (v[k].state != SCHED_BATCH_PARKED && v[k].state != SCHED_BATCH_WAITING)
            continue;
        until[0] = slack - batch_near_ns(&p, &v[k]); /* from then on it may displace others */
        until[1] = slack + batch_ns((double)v[k].tbt_ns);
        until[2] = slack + AGED_NS;
        wake = wake < WAKE_NS ? wake : WAKE_NS;
        for (int u = 0; u < 3; u++)
            wake = until[u] >= 0 && until[u] < wake ? until[u] : wake;
    }
    return wake;
}

/* ---- prompt tokens beside the batch ---- */

/* Largest n of c1 n + c2 n (n + 2p) <= room: the positive root, in the form that does not cancel. */
static double batch_root(double c1, double c2, double past, double room)
{
    double lin = c1 + 2 * c2 * past;

    if (room <= 0)
        return 0;
    if (lin <= 0 && c2 <= 0)
        return UINT32_MAX;
    return 2 * room / (lin + sqrt(lin * lin + 4 * c2 * room));
}

static double batch_tokens_in(const struct sched_law *l, double past, double room)
{
    double above = batch_root(l->c[1], l->c[2], past, room), c1 = l->c[1] - l->c[3];

    if (above >= l->knee || l->c[3] <= 0)
        return above;
    if (c1 + 2 * l->c[2] * past <= 0) /* time falls towards the knee, and the knee does not fit */
        return 0;
    /* Below the knee every token also saves c3: the same form with another start and slope. */
    return batch_root(c1, l->c[2], past, room - l->c[3] * l->knee);
}

uint32_t sched_batch_chunk(const struct sched_law *prefill, const struct sched_law *decode,
                           double b, double ctx, uint32_t past, uint32_t want, int64_t min_slack_ns,
                           uint32_t block_tokens)
{
    uint32_t block = block_tokens > 0 ? block_tokens : 1, chunk;
    double step, fixed, n, least;

    if (want == 0 || (b <= 0 && min_slack_ns == INT64_MAX))
        return want; /* nobody to be late */
    if (min_slack_ns <= 0)
        return 0;
    if (!sched_law_known(prefill) || !sched_law_known(decode))
        return want < block ? want : block;
    step = sched_law_decode(decode, b, ctx);
    fixed = prefill->c[0] > decode->c[0] ? prefill->c[0] - decode->c[0] : 0;
    n = batch_tokens_in(prefill, past, PART_OF_TBT * (double)min_slack_ns - step - fixed);
    if (n >= want)
        return want;
    chunk = (uint32_t)n / block * block;
    /* Short chunks cost nearly as much as those at the knee: while somebody is close to being late they
     * wait until there is time for a good one.  Slack grows with every step that is shorter than the tbt. */
    least = prefill->knee / 2 < want ? prefill->knee / 2 : want;
    return (double)min_slack_ns < 2 * step && chunk < least ? 0 : chunk;
}

uint32_t sched_batch_turn(const struct sched_law *prefill, const struct sched_law *decode,
                          uint32_t past, uint32_t want, uint32_t block_tokens, uint64_t *every_ns)
{
    double piece = fmax(prefill->knee, block_tokens > 0 ? block_tokens : 1);
    double n = fmin(piece, want);
    double cost =
        sched_law_prefill(prefill, n, n * (n + 2.0 * past)) - fmin(prefill->c[0], decode->c[0]);
    double every = TURN_SHARE * cost;

    *every_ns = every < TURN_LEAST_NS  ? TURN_LEAST_NS
                : every < TURN_MOST_NS ? (uint64_t)every
                                       : TURN_MOST_NS;
    return (uint32_t)n;
}
