/* scheduler/sched_baton_decode.c - the load model of one decode worker: how much KV each tier will hold at
 * which time, how fast that drains, and so how long one more would wait for its room.
 *
 * Every request that decodes there or was promised to it is an entry with its expected KV at a few
 * horizons: context then, times the chance that it still runs then, given the tokens so far.  The sums per
 * tier are kept as entries come and go; entries are counted anew in turn, a few per question, so that a question
 * costs a walk over the horizons and a bounded number of entries.
 *
 * Nested: a decode worker parks looser KV for tighter (sched_batch.h), so a tier is asked only about the
 * room and the step time that it and the tighter ones need.
 *
 * Two rooms: blocks, and time.  Steps must stay within the tightest time between tokens there, T, and a stream
 * with a looser one, B, need not be in each: it is skipped while it has slack.  So its KV counts T / B against
 * the KV that steps of T can carry.  Which of the two is short depends on the machine and the contexts.  The first is
 * asked how long one more would wait, which its slack may bridge.  The second is not: T / B has spent that slack already,
 * so those that must step at any moment to come, tighter ones that will be admitted until then included, must fit. */
#include "scheduler/sched_baton_parts.h"

#include <math.h>

#include "base/mem.h"
#include "scheduler/sched_batch.h"
#include "scheduler/sched_num.h"

enum {
    LOAD_TURN = 32, /* entries counted anew by one question */
    LOAD_FETCH = 4, /* of them, fetched so far ahead */
    LOAD_FAR = 2,   /* times the horizons, for room in time: streams that take turns live long */
    LOAD_SOON = 4   /* horizon up to which use is looked at */
};
static const double load_horizon[BATON_HORIZONS] = {0, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9, 32e9};

struct load_entry {
    struct sched_request *r;
    float kv[BATON_HORIZONS];  /* expected tokens of context, from the load's `at` */
    float due[BATON_HORIZONS]; /* the same while it must step, were it never ahead of its line */
    float full, drain;         /* context at half its life; tokens per ns that get free */
    uint32_t tier;
};

struct load_sums {
    double kv[BATON_HORIZONS], due[BATON_HORIZONS], full, drain, n;
};

struct baton_load {
    struct load_entry *v;
    uint32_t n, cap, turn;        /* turn: counted anew last */
    uint64_t at;                  /* horizons count from here */
    double step;                  /* present step time */
    double room;                  /* tokens of KV in its blocks */
    double slots;                 /* sequences in one step, at most */
    double pace[SCHED_TIERS_MAX]; /* ns per token of a stream of the tier */
    struct sched_law law;
    struct load_sums tier[SCHED_TIERS_MAX];
};

enum err baton_load_create(struct sched_worker *w)
{
    struct baton_load *l = mem_try_calloc(1, sizeof *l);

    if (l == NULL)
        return ERR_NOMEM;
    w->baton.load = l;
    return ERR_OK;
}

void baton_load_free(struct sched_worker *w)
{
    struct baton_load *l = w->baton.load;

    if (l == NULL)
        return;
    while (l->n > 0)
        baton_load_drop(l->v[l->n - 1].r);
    mem_free(l->v);
    mem_free(l);
    w->baton.load = NULL;
}

/* ---- chance to be still running ---- */

/* Share of outputs longer than x, times the number of points.  rank: of x among them. */
static double load_survivors(const struct sched_length_cast *c, double x, uint32_t rank)
{
    double low, share, last = c->q[SCHED_LENGTH_POINTS - 1];

    if (rank == SCHED_LENGTH_POINTS) { /* behind all that was seen: a long tail */
        double behind = 1 + 4 * (x - last) / (last + 1);

        return 0.5 / (behind * behind);
    }
    low = rank == 0 ? 0 : c->q[rank - 1];
    share = (x - low) / (c->q[rank] - low);
    return SCHED_LENGTH_POINTS - (rank == 0 ? 0.5 * share : rank - 0.5 + share);
}

static double load_left(const struct sched *s, const struct sched_request *r, double so_far,
                        uint32_t rank, double p)
{
    double cap = r->max_new > so_far ? (double)r->max_new - so_far : 1;
    double left = s->policy->clairvoyant && r->true_new > 0
                      ? (double)r->true_new - so_far
                      : sched_length_given_at(&r->cast, so_far, rank, p) - so_far;

    left = left < cap ? left : cap;
    return left > 1 ? left : 1;
}

double baton_left(const struct sched *s, const struct sched_request *r, double so_far, double p)
{
    return load_left(s, r, so_far, sched_length_rank(&r->cast, so_far), p);
}

/* ---- one entry ---- */

static void load_count(struct baton_load *l, const struct load_entry *e)
{
    struct load_sums *t = &l->tier[e->tier];

    for (int h = 0; h < BATON_HORIZONS; h++) {
        t->kv[h] += (double)e->kv[h];
        t->due[h] += (double)e->due[h];
    }
    t->full += (double)e->full;
    t->drain += (double)e->drain;
    t->n += 1;
}

static void load_uncount(struct baton_load *l, const struct load_entry *e)
{
    struct load_sums *t = &l->tier[e->tier];

    for (int h = 0; h < BATON_HORIZONS; h++) {
        t->kv[h] -= (double)e->kv[h];
        t->due[h] -= (double)e->due[h];
    }
    t->full -= (double)e->full;
    t->drain -= (double)e->drain;
    t->n -= 1;
}

/* How one stream goes on. */
struct load_course {
    double so_far, start, pace; /* tokens; ns behind l->at; ns per token */
    uint32_t rank;              /* of so_far */
    double far;                 /* times the horizons */
};

/* Expected KV of one that may go on from `start` on. */
static void load_ahead(const struct sched_request *r, const struct load_course *c, float *kv)
{
    double per_ns = 1 / (c->pace > 1 ? c->pace : 1), context = (double)r->n_prompt + c->so_far;
    double over = 1 / load_survivors(&r->cast, c->so_far, c->rank);
    double end = (double)r->max_new - c->so_far;
    uint32_t rank = c->rank;
    int h = 0;

    for (; h < BATON_HORIZONS && c->far * load_horizon[h] < c->start; h++)
        kv[h] = 0;
    if (h < BATON_HORIZONS && c->far * load_horizon[h] <= c->start && end > 0)
        kv[h++] = (float)context;
    for (; h < BATON_HORIZONS; h++) {
        double k = (c->far * load_horizon[h] - c->start) * per_ns, x = c->so_far + k;

        if (k >= end)
            break;
        if (rank < SCHED_LENGTH_POINTS) /* horizons ascend: behind the last point it stays there */
            rank = sched_length_rank(&r->cast, x);
        kv[h] = (float)((context + k) * over * load_survivors(&r->cast, x, rank));
    }
    for (; h < BATON_HORIZONS; h++)
        kv[h] = 0;
}

/* As load_ahead, for one whose end is known. */
static void load_ahead_known(const struct sched_request *r, const struct load_course *c,
                             double left, float *kv)
{
    double step = c->pace > 1 ? c->pace : 1, context = (double)r->n_prompt + c->so_far;

    for (int h = 0; h < BATON_HORIZONS; h++) {
        double k = (c->far * load_horizon[h] - c->start) / step;

        kv[h] = k >= 0 && k < left && c->so_far + k < r->max_new ? (float)(context + k) : 0;
    }
}

static void load_fill(const struct sched *s, const struct baton_load *l, struct load_entry *e)
{
    const struct sched_request *r = e->r;
    bool runs = r->state == SCHED_STATE_DECODING, known = s->policy->clairvoyant && r->true_new > 0;
    double at = (double)l->at, tbt = (double)r->tbt_ns, left;
    double ready = (double)r->baton.ready_ns - at, slack;
    struct load_course c = {.far = 1};

    c.so_far = runs ? sched_tokens_so_far(s, r) : (double)r->delivered;
    c.start = runs || ready <= 0 ? 0 : ready;
    c.rank = sched_length_rank(&r->cast, c.so_far);
    c.pace = l->pace[r->tier] > 1 ? l->pace[r->tier] : 1;
    left = load_left(s, r, c.so_far, c.rank, 0.5);
    e->full = (float)((double)r->n_prompt + c.so_far + 0.5 * left);
    e->drain = (float)(((double)r->n_prompt + c.so_far) / (left * c.pace));
    e->tier = r->tier;
    c.start -= 0.5 * baton_c.refresh_ns; /* the age at which it is asked about, on average */
    if (known)
        load_ahead_known(r, &c, left, e->kv);
    else
        load_ahead(r, &c, e->kv);
    slack = runs ? (double)r->first_ns + c.so_far * tbt - at : ready;
    c.start = slack > 0 ? slack : 0;
    c.pace = tbt;
    c.far = LOAD_FAR;
    if (known)
        load_ahead_known(r, &c, left, e->due);
    else
        load_ahead(r, &c, e->due);
}

static void load_recount(const struct sched *s, struct baton_load *l, struct load_entry *e)
{
    load_uncount(l, e);
    load_fill(s, l, e);
    load_count(l, e);
}

/* What load_fill will read of an entry that comes soon: requests lie scattered, and most are cold. */
static void load_fetch(const struct baton_load *l, uint32_t i)
{
    const struct sched_request *r = l->v[i % l->n].r;

    __builtin_prefetch(&r->baton.ready_ns);
    __builtin_prefetch(&r->cast.most);
}

static double load_now(const struct baton_load *l, uint32_t n_tiers)
{
    double sum = 0;

    for (uint32_t t = 0; t < n_tiers; t++)
        sum += l->tier[t].kv[0];
    return sum;
}

/* KV of all that are there or promised, each at half its life.  *n: how many. */
static double load_full(const struct sched *s, const struct baton_load *l, double *n)
{
    double full = 0;

    *n = 0;
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        *n += l->tier[t].n;
        full += l->tier[t].full;
    }
    return full;
}

/* Tokens of KV that steps have slots for: so many sequences of the mean KV there.  Where full steps are that much shorter
 * than `tbt`, looser tiers may take turns of two to ride out a burst: in longer turns they would end no sooner, and in an
 * overload they would stay in the way of tighter ones. */
static double load_span_slots(const struct sched *s, const struct baton_load *l, double tbt)
{
    double n, full = load_full(s, l, &n), tightest = 0, span, turn;

    if (l->slots <= 0 || n < 0.5 * l->slots)
        return INFINITY;
    span = l->slots * full / n;
    if (baton_price_scarce(s, 1))
        return span;
    for (uint32_t t = 0; t < s->cfg.n_tiers && tightest < 0.5; t++)
        tightest = l->tier[t].n;
    turn = baton_c.tbt_share * tbt / sched_law_decode(&l->law, l->slots, span);
    return span * num_max(1, num_min(turn, 2 - tightest / n));
}

/* Tokens of KV that b sequences may have for steps of `tbt`, were there slots for all; INFINITY: context costs no time, or
 * nothing is known. */
static double load_span_time(const struct baton_load *l, double tbt, double b)
{
    double left = baton_c.tbt_share * tbt - sched_law_decode(&l->law, b, 0);

    if (!sched_law_known(&l->law) || l->law.c[2] <= 0)
        return INFINITY;
    return left > 0 ? left / l->law.c[2] : 0;
}

/* The same with the slots that there are. */
static double load_span(const struct sched *s, const struct baton_load *l, double tbt, double b)
{
    double span = load_span_time(l, tbt, b), slots;

    if (!sched_law_known(&l->law))
        return INFINITY;
    slots = load_span_slots(s, l, tbt);
    return span < slots ? span : slots;
}

/* The same if all of them are as long as the mean there, however many these are.  Where a machine computes one sequence
 * after another it is their number that fills a step: what b of them leave is much until the last one, and nothing then. */
static double load_span_alike(const struct sched *s, const struct baton_load *l, double tbt)
{
    double n, full = load_full(s, l, &n), slots = load_span_slots(s, l, tbt), span;
    double token = l->law.c[2] + (full > 0 ? l->law.c[1] * n / full : 0);

    if (token <= 0)
        return slots;
    span = fmax(baton_c.tbt_share * tbt - l->law.c[0], 0) / token;
    return span < slots ? span : slots;
}

static double load_tier_tbt(const struct sched *s, uint32_t tier)
{
    return (double)s->cfg.tiers[tier].tbt_ns;
}

/* Tokens of KV that step together within the tightest time between tokens of those that decode here.  With more, looser
 * tiers are skipped: they hold their blocks for longer and get no more done.  Not below half of the blocks: bursts pass,
 * and the room in time bounds the rest.  Blocks for more than a few steps carry are no room: streams would come in until
 * all fall behind together, and none of them would end. */
static double load_room_together(const struct sched *s, const struct sched_worker *w,
                                 const struct baton_load *l)
{
    double tbt = 0, span, most, room = l->room;

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        if (w->decoding_tier[t] > 0 && (tbt <= 0 || load_tier_tbt(s, t) < tbt))
            tbt = load_tier_tbt(s, t);
    if (tbt <= 0)
        return room;
    most = baton_c.turn_room * load_span_alike(s, l, tbt);
    room = most > 0 && most < room ? most : room;
    span = load_span(s, l, tbt, (double)w->decoding);
    return span > room ? room : span > baton_c.room_least * room ? span : baton_c.room_least * room;
}

/* How long its steps are, and how fast streams get on: all of them with every step while that is short enough for the
 * tightest, else the looser tiers with what the tighter ones leave. */
static void load_pace(const struct sched *s, const struct sched_worker *w, struct baton_load *l)
{
    double held = load_now(l, s->cfg.n_tiers), tbt = 0, b = 0, span;

    l->step = (double)w->step_ns;
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        if (w->decoding_tier[t] > 0 && (tbt <= 0 || load_tier_tbt(s, t) < tbt))
            tbt = load_tier_tbt(s, t);
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        b += w->decoding_tier[t] * (tbt / load_tier_tbt(s, t));
    held = held < l->room ? held : l->room;
    span = tbt > 0 ? load_span(s, l, tbt, b) : INFINITY;
    if (sched_law_known(&l->law))
        l->step = held <= span
                      ? sched_batch_round_ns(&l->law, (double)w->decoding, held, (uint32_t)l->slots)
                      : baton_c.tbt_share * tbt;
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        double kv = l->tier[t].kv[0], slow = 2 * load_tier_tbt(s, t);

        l->pace[t] = l->step;
        if (kv > span && held > span)
            l->pace[t] = span * slow > l->step * kv ? l->step * kv / span : slow;
        l->pace[t] = l->pace[t] > l->step ? l->pace[t] : l->step;
        span -= kv < span ? kv : span;
    }
}

/* A few entries at a time, so that no question pays for all of them: each comes round within refresh_ns while
 * questions are frequent.  An entry is counted as it will be halfway to its next turn: not behind, on average. */
static void load_refresh(struct sched *s, struct sched_worker *w, struct baton_load *l)
{
    double due = (double)(s->now - l->at) * l->n / baton_c.refresh_ns;
    uint32_t n = due < LOAD_TURN ? (uint32_t)due : LOAD_TURN;

    if (l->at != 0 && (double)(s->now - l->at) < baton_c.refresh_ns && n == 0)
        return;
    n = n < l->n ? n : l->n;
    l->room = (double)w->shape->n_blocks * (double)w->shape->block_tokens;
    l->slots = (double)w->shape->max_batch;
    l->law = sched_decode_law(s, w);
    load_pace(s, w, l);
    l->room = load_room_together(s, w, l);
    l->at = s->now > 0 ? s->now : 1;
    for (uint32_t i = 1; i <= LOAD_FETCH && i <= n; i++)
        load_fetch(l, l->turn + i);
    for (; n > 0; n--) {
        if (n > LOAD_FETCH)
            load_fetch(l, l->turn + 1 + LOAD_FETCH);
        l->turn = l->turn + 1 < l->n ? l->turn + 1 : 0;
        load_recount(s, l, &l->v[l->turn]);
    }
}

/* ---- who is counted ---- */

/* Whole numbers: nothing is left of what comes and goes. */
static void load_coming(struct sched_request *r, double sign)
{
    r->baton.on->baton.coming[r->tier] += sign * r->n_prompt;
    r->baton.from->baton.coming[r->tier] += sign * r->n_prompt;
}

void baton_load_add(struct sched *s, struct sched_worker *w, struct sched_request *r)
{
    struct baton_load *l = w->baton.load;

    baton_load_drop(r);
    if (l == NULL)
        return;
    if (l->n == l->cap) {
        uint32_t cap = l->cap + l->cap / 8 + 8;
        struct load_entry *v = mem_try_realloc(l->v, cap * sizeof *v);

        if (v == NULL)
            return; /* one expectation less; the worker's own wait list still bounds it */
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n] = (struct load_entry){.r = r};
    r->baton.on = w;
    r->baton.slot = l->n;
    load_fill(s, l, &l->v[l->n]);
    load_count(l, &l->v[l->n]);
    l->n++;
    if (r->home != w && r->state != SCHED_STATE_DECODING)
        r->baton.from = r->home;
    if (r->baton.from != NULL)
        load_coming(r, 1);
}

void baton_load_came(struct sched_request *r)
{
    if (r->baton.from != NULL)
        load_coming(r, -1);
    r->baton.from = NULL;
}

/* It has sent all that it had: hand-overs may end after it has left. */
void baton_load_gone(struct sched *s, const struct sched_worker *from)
{
    for (struct sched_worker *w = s->first_worker[SCHED_ROLE_DECODE]; w != NULL; w = w->next) {
        struct baton_load *l = w->baton.load;

        for (uint32_t i = 0; l != NULL && i < l->n; i++)
            if (l->v[i].r->baton.from == from)
                baton_load_came(l->v[i].r);
    }
}

void baton_load_drop(struct sched_request *r)
{
    struct baton_load *l;
    uint32_t at = r->baton.slot;

    if (r->baton.on == NULL)
        return;
    baton_load_came(r);
    l = r->baton.on->baton.load;
    if (!SCHED_PLANTED(30))
        load_uncount(l, &l->v[at]);
    l->v[at] = l->v[--l->n];
    l->v[at].r->baton.slot = at;
    r->baton.on = NULL;
}

void baton_load_touch(struct sched *s, struct sched_request *r)
{
    struct baton_load *l;

    if (r->baton.on == NULL)
        return;
    l = r->baton.on->baton.load;
    load_recount(s, l, &l->v[r->baton.slot]);
}

/* ---- questions ---- */

struct load_ask {
    double ahead, life, need, room, inflow, stay;
};

static void load_sum(struct load_sums *to, const struct load_sums *from, double share)
{
    for (int h = 0; h < BATON_HORIZONS; h++)
        to->kv[h] += share * from->kv[h];
    to->full += share * from->full;
    to->drain += share * from->drain;
    to->n += share * from->n;
}

/* The first horizon at or behind `ahead`, 1 at least; the last one: ahead may be behind it. */
static int load_next(double ahead)
{
    int h = 1;

    while (h < BATON_HORIZONS - 1 && load_horizon[h] < ahead)
        h++;
    return h;
}

/* Between two horizons, of which h is the later. */
static double load_between(double before, double after, int h, double ahead)
{
    if (ahead <= 0)
        return before;
    if (ahead >= load_horizon[h])
        return after;
    return before + (after - before) * (ahead - load_horizon[h - 1]) /
                        (load_horizon[h] - load_horizon[h - 1]);
}

static double load_kv_at(const double kv[BATON_HORIZONS], double ahead)
{
    int h = load_next(ahead);

    return load_between(kv[h - 1], kv[h], h, ahead);
}

/* Tokens held by all tiers, of which `upto` has those up to `tier`. */
static double load_all_at(const struct baton_load *l, const struct load_sums *upto, uint32_t tier,
                          uint32_t n_tiers, double ahead)
{
    int h = load_next(ahead);
    double before = upto->kv[h - 1], after = upto->kv[h];

    for (uint32_t t = tier + 1; t < n_tiers; t++) {
        before += l->tier[t].kv[h - 1];
        after += l->tier[t].kv[h];
    }
    return load_between(before, after, h, ahead);
}

static bool load_never_full(const struct load_sums *v, const struct load_ask *a)
{
    for (int h = 0; h < BATON_HORIZONS; h++)
        if (v->kv[h] + a->need - a->room + a->inflow > 0)
            return false;
    return true;
}

/* How long one more of this tier would be without its room, were it there from `ahead` on for `life`: at every
 * moment what is too much is parked, and its share of that falls on each of the tier.  Tighter tiers hold what
 * they hold now and what will come as it came lately. */
static double load_squeezed(const struct load_sums *v, const struct load_sums *own,
                            const struct load_ask *a)
{
    double sum = 0, last_share = 0, last = a->ahead;

    if (load_never_full(v, a))
        return 0;
    for (int h = 0; h <= BATON_HORIZONS; h++) {
        double at = h < BATON_HORIZONS ? load_horizon[h] : a->ahead + a->life, share, excess, mine;

        if (h < BATON_HORIZONS && at <= a->ahead)
            continue;
        if (at > a->ahead + a->life)
            at = a->ahead + a->life;
        excess = load_kv_at(v->kv, at) + a->need - a->room;
        if (a->inflow > 0)
            excess += a->inflow * (1 - exp(-at / a->stay));
        mine = load_kv_at(own->kv, at) + a->need;
        share = excess <= 0 ? 0 : excess < mine ? excess / mine : 1;
        sum += 0.5 * (share + last_share) * (at - last);
        last_share = share;
        last = at;
        if (at >= a->ahead + a->life)
            break;
    }
    return sum;
}

static double load_step_with(const struct baton_load *l, const struct load_sums *v, double kv,
                             double need)
{
    double mean = v->n > 0 ? v->full / v->n : need, batch = mean > 1 ? kv / mean : 0;
    double held = kv + need < l->room ? kv + need : l->room;

    return sched_law_known(&l->law)
               ? sched_batch_round_ns(&l->law, batch + 1, held, (uint32_t)l->slots)
               : l->step;
}

/* Until there is room, and how long it would be without it afterwards. */
static double load_wait(const struct load_sums *v, const struct load_sums *own,
                        const struct load_ask *q)
{
    double excess = load_kv_at(v->kv, q->ahead) + q->need - q->room, squeezed, wait = 0;

    if (excess > 0)
        wait = v->drain > 0 ? excess / v->drain : 1e12;
    squeezed = load_squeezed(v, own, q);
    return wait > squeezed ? wait : squeezed;
}

/* The tightest time between tokens of those that are there or promised; at most `tbt`. */
static double load_tightest(const struct sched *s, const struct baton_load *l, double tbt)
{
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        if (l->tier[t].n > 0.5 && load_tier_tbt(s, t) < tbt)
            tbt = load_tier_tbt(s, t);
    return tbt;
}

/* KV that has to be in steps, a looser time between tokens counting for less: see above. */
struct load_demand {
    double due[BATON_HORIZONS]; /* of tiers up to the one that is asked about */
    double all;                 /* at `ahead`, of everybody */
    double n, inflow, stay;
};

/* Tokens of KV that are too many for the room of a step at the worst moment from `ahead` on, with one more for `life`.  Those
 * that are there will still be when it has gone: they have to be in time as well. */
static double load_excess(const struct load_demand *d, double ahead, double life, double need,
                          double room)
{
    double worst = 0;

    for (int h = 1; h < BATON_HORIZONS; h++) {
        double at = LOAD_FAR * load_horizon[h], kv;

        if (at < ahead)
            continue;
        kv = d->due[h] + d->inflow * (1 - exp(-at / d->stay));
        kv += at < ahead + life ? need : 0;
        worst = fmax(worst, kv - room);
    }
    return worst;
}

/* By what part of it the room in time would be too small. */
static double load_over_in_time(const struct sched *s, const struct baton_load *l,
                                const struct baton_need *need, const struct load_ask *blocks,
                                struct baton_decode *out)
{
    double tight = load_tightest(s, l, need->tbt), share[SCHED_TIERS_MAX], room, own;
    struct load_demand d = {.n = 0};

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        share[t] = load_tier_tbt(s, t) > tight ? tight / load_tier_tbt(s, t) : 1;
        d.all += share[t] * load_kv_at(l->tier[t].due, blocks->ahead / LOAD_FAR);
        if (t > need->tier)
            continue;
        d.n += share[t] * l->tier[t].n;
        for (int h = 0; h < BATON_HORIZONS; h++)
            d.due[h] += share[t] * l->tier[t].due[h];
    }
    room = baton_c.time_share *
           (baton_price_scarce(s, 1) ? load_span(s, l, tight, d.n) : load_span_time(l, tight, d.n));
    if (room >= blocks->room)
        return 0; /* blocks or slots run out first: none of them counts more here than there */
    room = room > 1 ? room : 1;
    own = blocks->need * tight / need->tbt;
    d.all = (d.all + own) / room;
    if (d.all > out->used) {
        out->used = d.all;
        out->scarce = SCHED_RES_DECODE_TIME;
    }
    baton_inflow_in_time(s, need->tier, tight, &d.inflow, &d.stay);
    return load_excess(&d, blocks->ahead > 0 ? blocks->ahead : 0, need->out * need->tbt, own,
                       room) /
           room;
}

static void load_answer(struct sched *s, const struct baton_load *l, const struct baton_need *need,
                        struct baton_decode *out)
{
    struct load_sums v = l->tier[0];
    struct load_ask q = {.ahead = need->ready - (double)l->at,
                         .need = need->tokens + need->out,
                         .room =
                             (baton_c.room_share - baton_of(s)->tier[need->tier].spare) * l->room,
                         .inflow = need->inflow,
                         .stay = need->stay};
    double kv, by_line, by_mean;

    for (uint32_t t = 1; t <= need->tier; t++)
        load_sum(&v, &l->tier[t], 1);
    kv = load_kv_at(v.kv, q.ahead);
    out->used = 1;
    if (l->room > 0)
        out->used = (load_all_at(l, &v, need->tier, s->cfg.n_tiers, q.ahead) + q.need) / l->room;
    out->step = load_step_with(l, &v, kv, q.need);
    q.life = need->out * out->step;
    if (q.ahead > 0 && q.inflow > 0)
        out->used += q.inflow * (1 - exp(-q.ahead / q.stay)) / (l->room + 1);
    out->wait = load_wait(&v, &l->tier[need->tier], &q);
    out->lacks = out->scarce = SCHED_RES_DECODE_ROOM;
    out->link = need->link;
    out->over = load_over_in_time(s, l, need, &q, out);
    if (need->link > out->wait) {
        out->wait = need->link;
        out->lacks = SCHED_RES_LINK_TIME;
    }
    by_line = need->deadline + need->tbt - need->ready - out->step;
    by_mean = baton_c.wait_share * (need->tbt - out->step) * need->out;
    out->limit = by_line < by_mean ? by_line : by_mean;
}

/* Share of its room that is in use, or will be within LOAD_SOON by what is promised: of blocks, or of time where that is
 * more. */
static double load_use(const struct sched *s, const struct baton_load *l)
{
    double tight = load_tightest(s, l, INFINITY), share[SCHED_TIERS_MAX], b = 0, span, most = 0;

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        share[t] = isfinite(tight) ? tight / load_tier_tbt(s, t) : 0;
        b += share[t] * l->tier[t].n;
    }
    span = isfinite(tight) ? load_span(s, l, tight, b) : INFINITY;
    for (int h = 0; h <= LOAD_SOON; h++) {
        double kv = 0, timed = 0, use;

        for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
            kv += l->tier[t].kv[h];
            timed += share[t] * l->tier[t].kv[h];
        }
        use = l->room > 0 ? kv / l->room : 1;
        use = timed > use * span ? timed / (span > 1 ? span : 1) : use;
        most = use > most ? use : most;
    }
    return most;
}

/* Too long a step, or too little room, were it alone there. */
static bool load_hopeless(const struct sched_worker *w, const struct baton_load *l,
                          const struct baton_need *need)
{
    double kv = need->tokens + need->out, tbt = baton_c.tbt_share * need->tbt;

    return kv > (double)w->shape->n_blocks * (double)w->shape->block_tokens ||
           (sched_law_known(&l->law) && sched_law_decode(&l->law, 1, kv) > tbt);
}

void baton_load_ask(struct sched *s, struct sched_worker *w, const struct baton_need *need,
                    struct baton_decode *out)
{
    const struct sched_baton *b = baton_of(s);
    struct baton_load *l = w->baton.load;

    *out = (struct baton_decode){
        .w = w, .ok = true, .lacks = SCHED_RES_NONE, .scarce = SCHED_RES_DECODE_ROOM};
    if (l == NULL)
        return;
    load_refresh(s, w, l);
    load_answer(s, l, need, out);
    if (out->step > baton_c.tbt_share * need->tbt || out->over > 0) {
        out->ok = false;
        out->lacks = SCHED_RES_DECODE_TIME;
    } else if (out->wait > 0 && out->wait * (1 + b->tier[need->tier].margin) > out->limit) {
        out->ok = false;
    } else {
        out->lacks = SCHED_RES_NONE;
    }
    out->hopeless = !out->ok && load_hopeless(w, l, need);
    /* Of an empty worker one request may take the share that is always left free: it would never get it else. */
    if (out->lacks == SCHED_RES_DECODE_ROOM && l->n == 0 && !out->hopeless &&
        need->tokens + need->out > (baton_c.room_share - b->tier[need->tier].spare) * l->room) {
        out->ok = true;
        out->wait = 0;
        out->lacks = SCHED_RES_NONE;
    }
}

double baton_load_use(struct sched *s, struct sched_worker *w)
{
    struct baton_load *l = w->baton.load;

    if (l == NULL)
        return 0;
    load_refresh(s, w, l);
    return load_use(s, l);
}

double baton_load_total(const struct sched_worker *w, uint32_t *n)
{
    const struct baton_load *l = w->baton.load;
    double sum = 0;

    *n = l != NULL ? l->n : 0;
    for (uint32_t t = 0; l != NULL && t < SCHED_TIERS_MAX; t++)
        sum += l->tier[t].full;
    return sum;
}

double baton_load_step(struct sched *s, struct sched_worker *w)
{
    struct baton_load *l = w->baton.load;

    if (l == NULL)
        return 0;
    load_refresh(s, w, l);
    return l->step;
}

double baton_decode_cost(const struct sched *s, const struct sched_worker *w, double n_prompt,
                         double out)
{
    struct sched_law law = sched_decode_law(s, w);
    double room = (double)w->shape->n_blocks * (double)w->shape->block_tokens;
    double per_token = law.c[2] + (room > 0 ? law.c[0] / room : 0);

    return law.c[1] * out + per_token * (out * n_prompt + 0.5 * out * out);
}

/* ---- the sums, made again ---- */

/* Adding and taking away leaves rounding of what was there at most. */
static bool load_near(double v, double sum, double all)
{
    return fabs(v - sum) <= 1e-6 * all + 1e-9;
}

static bool load_same(const struct load_sums *v, const struct load_sums *sum)
{
    bool same = load_near(v->full, sum->full, sum->full) &&
                load_near(v->drain, sum->drain, sum->drain) && load_near(v->n, sum->n, 0);

    for (int h = 0; h < BATON_HORIZONS; h++)
        same = same && load_near(v->kv[h], sum->kv[h], sum->full);
    return same;
}

enum err baton_load_check(const struct sched_worker *w, uint32_t *n, struct err_msg *msg)
{
    const struct baton_load *l = w->baton.load;
    struct baton_load sum = {.n = 0};
    double coming[SCHED_TIERS_MAX] = {0};

    *n = l != NULL ? l->n : 0;
    for (uint32_t i = 0; i < *n; i++) {
        const struct sched_baton_request *r = &l->v[i].r->baton;

        if (r->on != w || r->slot != i)
            return err_set(msg, ERR_BAD_STATE, "worker %u: its load lists what is not its own",
                           w->id);
        load_count(&sum, &l->v[i]);
        if (r->from != NULL)
            coming[l->v[i].r->tier] += l->v[i].r->n_prompt;
    }
    for (uint32_t t = 0; l != NULL && t < SCHED_TIERS_MAX; t++)
        if (fabs(w->baton.coming[t] - coming[t]) > 0.5)
            return err_set(msg, ERR_BAD_STATE,
                           "worker %u, tier %u: %g tokens are to come, counted %g", w->id, t,
                           coming[t], w->baton.coming[t]);
    for (uint32_t t = 0; l != NULL && t < SCHED_TIERS_MAX; t++)
        if (!load_same(&l->tier[t], &sum.tier[t]))
            return err_set(msg, ERR_BAD_STATE,
                           "worker %u, tier %u: %g tokens of %g requests, counted %g of %g", w->id,
                           t, sum.tier[t].full, sum.tier[t].n, l->tier[t].full, l->tier[t].n);
    return ERR_OK;
}
