/* scheduler/sched_baton_decode.c - the load model of one decode worker: how much KV each tier will hold at
 * which time, how fast that drains, and so how long one more would wait for its room.
 *
 * Every request that decodes there or was promised to it is an entry with its expected KV at a few
 * horizons: context then, times the chance that it still runs then, given the tokens so far.  The sums per
 * tier are kept as entries come and go; entries are counted anew in turn, a few per question, so that a question
 * costs a walk over the horizons and a bounded number of entries.
 *
 * Nested: a decode worker parks looser KV for tighter (sched_batch.h), so a tier is asked only about the
 * room and the step time that it and the tighter ones need. */
#include "scheduler/sched_baton_parts.h"

#include <math.h>

#include "base/mem.h"

enum { LOAD_TURN = 32 }; /* entries counted anew by one question */
static const double load_horizon[BATON_HORIZONS] = {0, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9, 32e9};

struct load_entry {
    struct sched_request *r;
    float kv[BATON_HORIZONS]; /* expected tokens of context, from the load's `at` */
    float full, drain;        /* context at half its life; tokens per ns that get free */
    uint32_t tier;
};

struct load_sums {
    double kv[BATON_HORIZONS], full, drain;
    uint32_t n;
};

struct baton_load {
    struct load_entry *v;
    uint32_t n, cap, turn; /* turn: counted anew last */
    uint64_t at;           /* horizons count from here */
    double step;           /* present step time */
    double room;           /* tokens */
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

/* Share of outputs longer than x; *i: a cursor that only goes up. */
static double load_survival(const struct sched_length_cast *c, double x, uint32_t *i)
{
    const double points = SCHED_LENGTH_POINTS;
    double low, span, last = c->q[SCHED_LENGTH_POINTS - 1];

    while (*i < SCHED_LENGTH_POINTS && c->q[*i] <= x)
        ++*i;
    if (*i == SCHED_LENGTH_POINTS) { /* behind all that was seen: a long tail */
        double behind = 1 + 4 * (x - last) / (last + 1);

        return 0.5 / points / (behind * behind);
    }
    low = *i == 0 ? 0 : c->q[*i - 1];
    span = c->q[*i] - low;
    return 1 - (*i == 0 ? 0.5 * (x - low) / span : *i - 0.5 + (x - low) / span) / points;
}

double baton_left(const struct sched *s, const struct sched_request *r, double so_far, double p)
{
    double cap = r->max_new > so_far ? (double)r->max_new - so_far : 1;
    double left = s->policy->clairvoyant && r->true_new > 0
                      ? (double)r->true_new - so_far
                      : sched_length_given(&r->cast, so_far, p) - so_far;

    left = left < cap ? left : cap;
    return left > 1 ? left : 1;
}

/* ---- one entry ---- */

static void load_count(struct baton_load *l, const struct load_entry *e, double sign)
{
    struct load_sums *t = &l->tier[e->tier];

    for (int h = 0; h < BATON_HORIZONS; h++)
        t->kv[h] += sign * (double)e->kv[h];
    t->full += sign * (double)e->full;
    t->drain += sign * (double)e->drain;
    if (sign > 0)
        t->n++;
    else
        t->n--;
}

static void load_fill(const struct sched *s, const struct baton_load *l, struct load_entry *e)
{
    const struct sched_request *r = e->r;
    bool runs = r->state == SCHED_STATE_DECODING;
    double step = l->step > 1 ? l->step : 1, at = (double)l->at;
    double so_far = runs ? sched_tokens_so_far(s, r) : (double)r->delivered;
    double start = runs || (double)r->baton.ready_ns <= at ? 0 : (double)r->baton.ready_ns - at;
    double left = baton_left(s, r, so_far, 0.5), base;
    bool known = s->policy->clairvoyant && r->true_new > 0;
    uint32_t cursor = 0;

    base = known ? 1 : load_survival(&r->cast, so_far, &cursor);
    for (int h = 0; h < BATON_HORIZONS; h++) {
        double k = (load_horizon[h] - start) / step, alive = 1;

        if (k < 0) {
            e->kv[h] = 0;
            continue;
        }
        if (known)
            alive = k < left ? 1 : 0;
        else if (k > 0)
            alive = load_survival(&r->cast, so_far + k, &cursor) / base;
        if (so_far + k >= r->max_new)
            alive = 0;
        e->kv[h] = (float)(((double)r->n_prompt + so_far + k) * alive);
    }
    e->full = (float)((double)r->n_prompt + so_far + 0.5 * left);
    e->drain = (float)(((double)r->n_prompt + so_far) / (left * step));
    e->tier = r->tier;
}

static double load_now(const struct baton_load *l, uint32_t n_tiers)
{
    double sum = 0;

    for (uint32_t t = 0; t < n_tiers; t++)
        sum += l->tier[t].kv[0];
    return sum;
}

/* Tokens of KV that can step together within the tightest time between tokens of those that decode here: more of
 * looser tiers would have to be skipped in every step.  Not below half of what there is. */
static double load_room_in_time(const struct sched *s, const struct sched_worker *w,
                                const struct baton_load *l)
{
    double tbt = 0, left, room = l->room;

    for (uint32_t t = 0; t < s->cfg.n_tiers; t++)
        if (w->decoding_tier[t] > 0 && (tbt <= 0 || (double)s->cfg.tiers[t].tbt_ns < tbt))
            tbt = (double)s->cfg.tiers[t].tbt_ns;
    if (tbt <= 0 || !sched_law_known(&l->law) || l->law.c[2] <= 0)
        return room;
    left = baton_c.tbt_share * tbt - sched_law_decode(&l->law, (double)w->decoding, 0);
    left /= l->law.c[2];
    return left > room ? room : left > 0.5 * room ? left : 0.5 * room;
}

/* A few entries at a time, so that no question pays for all of them: each comes round within refresh_ns while
 * questions are frequent.  An entry that waits for its turn is that much behind, which is little against the
 * horizons. */
static void load_refresh(struct sched *s, struct sched_worker *w, struct baton_load *l)
{
    double held, due = (double)(s->now - l->at) * l->n / baton_c.refresh_ns;
    uint32_t n = due < LOAD_TURN ? (uint32_t)due : LOAD_TURN;

    if (l->at != 0 && (double)(s->now - l->at) < baton_c.refresh_ns && n == 0)
        return;
    n = n < l->n ? n : l->n;
    l->room = (double)w->shape->n_blocks * (double)w->shape->block_tokens;
    l->law = sched_decode_law(s, w);
    l->room = load_room_in_time(s, w, l);
    held = load_now(l, s->cfg.n_tiers);
    held = held < l->room ? held : l->room;
    if (sched_law_known(&l->law))
        l->step = sched_law_decode(&l->law, (double)w->decoding, held);
    else
        l->step = (double)w->step_ns;
    l->at = s->now > 0 ? s->now : 1;
    for (; n > 0; n--) {
        l->turn = l->turn + 1 < l->n ? l->turn + 1 : 0;
        load_count(l, &l->v[l->turn], -1);
        load_fill(s, l, &l->v[l->turn]);
        load_count(l, &l->v[l->turn], 1);
    }
}

/* ---- who is counted ---- */

void baton_load_add(struct sched *s, struct sched_worker *w, struct sched_request *r)
{
    struct baton_load *l = w->baton.load;

    baton_load_drop(r);
    if (l == NULL)
        return;
    if (l->n == l->cap) {
        uint32_t cap = l->cap + l->cap / 4 + 16;
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
    load_count(l, &l->v[l->n], 1);
    l->n++;
}

void baton_load_drop(struct sched_request *r)
{
    struct baton_load *l;
    uint32_t at = r->baton.slot;

    if (r->baton.on == NULL)
        return;
    l = r->baton.on->baton.load;
    load_count(l, &l->v[at], -1);
    l->v[at] = l->v[--l->n];
    l->v[at].r->baton.slot = at;
    r->baton.on = NULL;
}

void baton_load_touch(struct sched *s, struct sched_request *r)
{
    struct baton_load *l;
    struct load_entry *e;

    if (r->baton.on == NULL)
        return;
    l = r->baton.on->baton.load;
    e = &l->v[r->baton.slot];
    load_count(l, e, -1);
    load_fill(s, l, e);
    load_count(l, e, 1);
}

/* ---- questions ---- */

struct load_view {
    double kv[BATON_HORIZONS], full, drain;
    uint32_t n;
};

struct load_ask {
    double ahead, life, need, room, inflow, stay;
};

/* Tiers `from` to `to`. */
static void load_nested(const struct baton_load *l, uint32_t first, uint32_t last,
                        struct load_view *v)
{
    *v = (struct load_view){.n = 0};
    for (uint32_t t = first; t <= last; t++) {
        const struct load_sums *from = &l->tier[t];

        for (int h = 0; h < BATON_HORIZONS; h++)
            v->kv[h] += from->kv[h];
        v->full += from->full;
        v->drain += from->drain;
        v->n += from->n;
    }
}

static double load_kv_at(const double kv[BATON_HORIZONS], double ahead)
{
    int h = 1;

    if (ahead <= 0)
        return kv[0];
    while (h < BATON_HORIZONS - 1 && load_horizon[h] < ahead)
        h++;
    if (ahead >= load_horizon[h])
        return kv[h];
    return kv[h - 1] + (kv[h] - kv[h - 1]) * (ahead - load_horizon[h - 1]) /
                           (load_horizon[h] - load_horizon[h - 1]);
}

/* How long one more of this tier would be without its room, were it there from `ahead` on for `life`: at every
 * moment what is too much is parked, and its share of that falls on each of the tier.  Tighter tiers hold what
 * they hold now and what will come as it came lately. */
static double load_squeezed(const struct load_view *v, const struct load_view *own,
                            const struct load_ask *a)
{
    double sum = 0, last_share = 0, last = a->ahead;

    for (int h = 0; h <= BATON_HORIZONS; h++) {
        double at = h < BATON_HORIZONS ? load_horizon[h] : a->ahead + a->life, share, excess, mine;

        if (h < BATON_HORIZONS && at <= a->ahead)
            continue;
        if (at > a->ahead + a->life)
            at = a->ahead + a->life;
        excess = load_kv_at(v->kv, at) + a->need - a->room + a->inflow * (1 - exp(-at / a->stay));
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

static double load_step_with(const struct baton_load *l, const struct load_view *v, double kv,
                             double need)
{
    double mean = v->n > 0 ? v->full / v->n : need, batch = mean > 1 ? kv / mean : 0;
    double held = kv + need < l->room ? kv + need : l->room;

    return sched_law_known(&l->law) ? sched_law_decode(&l->law, batch + 1, held) : l->step;
}

void baton_load_ask(struct sched *s, struct sched_worker *w, const struct baton_need *need,
                    struct baton_decode *out)
{
    struct baton_load *l = w->baton.load;
    double ahead, kv, own, drain, excess, squeezed, by_line, by_mean;
    struct load_view v, all, tier;
    struct load_ask q;

    *out = (struct baton_decode){.w = w, .ok = true, .lacks = SCHED_RES_NONE};
    if (l == NULL)
        return;
    load_refresh(s, w, l);
    load_nested(l, 0, need->tier, &v);
    load_nested(l, need->tier, need->tier, &tier);
    load_nested(l, 0, s->cfg.n_tiers - 1, &all);
    ahead = need->ready - (double)l->at;
    own = need->tokens + baton_c.need_share * need->out;
    kv = load_kv_at(v.kv, ahead);
    out->used = l->room > 0 ? (load_kv_at(all.kv, ahead) + own) / l->room : 1;
    out->step = load_step_with(l, &v, kv, own);
    q = (struct load_ask){.ahead = ahead,
                          .life = need->out * out->step,
                          .need = own,
                          .room = baton_c.room_share * l->room};
    baton_inflow(s, need->tier, &q.inflow, &q.stay);
    if (ahead > 0)
        out->used += q.inflow * (1 - exp(-ahead / q.stay)) / (l->room + 1);
    drain = v.drain - q.inflow / q.stay;
    if (drain < baton_c.drain_share * v.drain)
        drain = baton_c.drain_share * v.drain;
    excess = kv + own - q.room;
    if (excess > 0)
        out->wait = drain > 0 ? excess / drain : 1e12;
    squeezed = load_squeezed(&v, &tier, &q);
    out->wait = out->wait > squeezed ? out->wait : squeezed;
    by_line = need->deadline + need->tbt - need->ready - out->step;
    by_mean = baton_c.wait_share * (need->tbt - out->step) * need->out;
    out->limit = by_line < by_mean ? by_line : by_mean;
    if (out->step > baton_c.tbt_share * need->tbt) {
        out->ok = false;
        out->lacks = SCHED_RES_DECODE_TIME;
    } else if (out->wait > 0 &&
               out->wait * (1 + ((struct sched_baton *)s->policy_state)->tier[need->tier].margin) >
                   out->limit) {
        out->ok = false;
        out->lacks = SCHED_RES_DECODE_ROOM;
    }
}

double baton_load_use(struct sched *s, struct sched_worker *w)
{
    struct baton_load *l = w->baton.load;

    if (l == NULL)
        return 0;
    load_refresh(s, w, l);
    return l->room > 0 ? load_now(l, s->cfg.n_tiers) / l->room : 1;
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
