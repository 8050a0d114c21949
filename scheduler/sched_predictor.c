/* scheduler/sched_predictor.c - classes, what their predictors say about one worker, link or
 * request, and what events teach them.
 *
 * A prompt is computed in chunks of the worker's max_step_tokens; the quadratic term of the law
 * telescopes over chunks, so the time of any number of them is a closed form. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "scheduler/sched_core.h"

/* ---- classes ---- */

static void klass_init(struct sched_klass *k, const struct sched_class *c)
{
    k->c = *c;
    if (k->c.link_bytes_per_s <= 0)
        k->c.link_bytes_per_s = 1e9;
    if (k->c.park_bytes_per_s <= 0)
        k->c.park_bytes_per_s = 10e9;
    sched_predict_init(&k->prefill, &c->prefill, true, c->frozen);
    sched_predict_init(&k->decode, &c->decode, false, c->frozen);
    sched_link_init(&k->link, k->c.link_bytes_per_s, k->c.link_setup_ns);
}

enum err sched_predictor_init(struct sched *s)
{
    struct sched_class none = {.name = "default"};

    klass_init(&s->klass[0], &none);
    s->n_klass = 1;
    return sched_length_create(&s->lengths);
}

void sched_predictor_free(struct sched *s)
{
    struct sched_link_predict *l;
    size_t at = 0;

    while ((l = map_next(&s->links, &at)) != NULL)
        mem_free(l);
    map_free(&s->links);
    sched_length_free(s->lengths);
}

static bool law_ok(const struct sched_law *l)
{
    for (int i = 0; i < 4; i++) {
        if (!(l->c[i] >= 0 && l->c[i] < 1e15))
            return false;
    }
    return l->knee >= 0 && l->knee < 1e9;
}

enum err sched_add_class(struct sched *s, const struct sched_class *c, struct err_msg *msg,
                         uint32_t *id)
{
    if (c->name[0] == '\0' || memchr(c->name, '\0', sizeof(c->name)) == NULL)
        return err_set(msg, ERR_INVALID, "worker class: its name must have 1 .. %d characters",
                       SCHED_CLASS_NAME_MAX - 1);
    if (!law_ok(&c->prefill) || !law_ok(&c->decode))
        return err_set(msg, ERR_INVALID,
                       "worker class %s: the coefficients of a law must be finite "
                       "and not negative",
                       c->name);
    if (!(c->kv_bytes_per_token >= 0) || !(c->link_bytes_per_s >= 0) || !(c->park_bytes_per_s >= 0))
        return err_set(msg, ERR_INVALID, "worker class %s: rates must not be negative", c->name);
    for (uint32_t i = 0; i < s->n_klass; i++) {
        if (strcmp(s->klass[i].c.name, c->name) != 0)
            continue;
        if (i == 0 && s->klass[0].open[1] + s->klass[0].open[2] == 0)
            klass_init(&s->klass[0], c); /* "default" can be described like any other */
        *id = i;
        return ERR_OK;
    }
    if (s->n_klass == SCHED_CLASSES_MAX)
        return err_set(msg, ERR_LIMIT, "worker class %s: there are %d already", c->name,
                       SCHED_CLASSES_MAX);
    klass_init(&s->klass[s->n_klass], c);
    *id = s->n_klass++;
    return ERR_OK;
}

/* ---- prefill ---- */

static double hinge(const struct sched_law *l, double n)
{
    return n < l->knee ? l->c[3] * (l->knee - n) : 0;
}

/* n tokens behind past ones, in chunks.  Counts fit an integer, which is rounded without a call. */
static double chunks_ns(const struct sched_law *l, double n, double past, double chunk)
{
    double full = (double)(uint64_t)(n / chunk), rest = n - full * chunk;
    double ns = l->c[1] * n + l->c[2] * n * (n + 2 * past) + full * (l->c[0] + hinge(l, chunk));

    return rest > 0 ? ns + l->c[0] + hinge(l, rest) : ns;
}

double sched_prefill_ns(const struct sched *s, const struct sched_worker *w, uint32_t n,
                        uint32_t past)
{
    (void)s;
    if (!sched_law_known(&w->klass->prefill.law) || n == 0)
        return 0;
    return chunks_ns(&w->klass->prefill.law, n, past, w->max_step_tokens) *
           sched_bias_factor(&w->prefill_bias);
}

static double fetch_ns(const struct sched_worker *w, const struct sched_prefix *p, uint32_t tokens)
{
    double rate = p->bytes_per_s > 0 ? p->bytes_per_s : w->klass->c.link_bytes_per_s;

    return p->worker != 0 ? 0 : tokens * w->klass->c.kv_bytes_per_token / rate * 1e9;
}

double sched_prompt_ns(const struct sched *s, const struct sched_request *r,
                       const struct sched_worker *w, uint32_t *cached)
{
    uint32_t total = r->n_prompt + r->delivered, have = 0;
    double best = sched_prefill_ns(s, w, total, 0);

    for (uint32_t i = 0; i < r->n_prefix; i++) {
        const struct sched_prefix *p = &r->prefix[i];
        uint32_t tokens = p->tokens < total ? p->tokens : total - 1;
        double ns;

        if ((p->worker != 0 && p->worker != w->id) || tokens <= have)
            continue;
        ns = sched_prefill_ns(s, w, total - tokens, tokens) + fetch_ns(w, p, tokens);
        if (ns <= best) {
            best = ns;
            have = tokens;
        }
    }
    if (cached != NULL)
        *cached = have;
    return best;
}

double sched_work_ns(const struct sched *s, const struct sched_request *r,
                     const struct sched_worker *w, uint32_t *cached)
{
    uint32_t have;
    double ns = sched_prompt_ns(s, r, w, &have);

    if (cached != NULL)
        *cached = have;
    return ns > 0 ? ns : (double)(r->n_prompt + r->delivered - have) * SCHED_NOMINAL_NS;
}

double sched_rest_ns(const struct sched *s, const struct sched_request *r,
                     const struct sched_worker *w)
{
    const struct sched_attempt *a = r->current;
    uint64_t n = a->given - a->done;
    double ns = sched_prefill_ns(s, w, (uint32_t)n, (uint32_t)a->done);

    return ns > 0 ? ns : (double)n * SCHED_NOMINAL_NS;
}

static struct sched_law scaled(const struct sched_law *l, double factor)
{
    struct sched_law out = *l;

    for (int i = 0; i < 4; i++)
        out.c[i] *= factor;
    return out;
}

struct sched_law sched_decode_law(const struct sched *s, const struct sched_worker *w)
{
    (void)s;
    return scaled(&w->klass->decode.law, sched_bias_factor(&w->decode_bias));
}

double sched_prefill_factor(const struct sched *s, const struct sched_worker *w, double p)
{
    (void)s;
    return sched_law_known(&w->klass->prefill.law)
               ? sched_spread_factor(&w->klass->prefill.spread, p)
               : 1;
}

double sched_decode_factor(const struct sched *s, const struct sched_worker *w, double p)
{
    (void)s;
    return sched_law_known(&w->klass->decode.law) ? sched_spread_factor(&w->klass->decode.spread, p)
                                                  : 1;
}

/* ---- where a worker stands ---- */

/* The whole of the chunk that runs; 0: none. */
static double running_chunk(const struct sched *s, const struct sched_worker *w)
{
    const struct sched_edf_item *i = sched_edf_first(&w->edf);
    const struct sched_request *r;
    double chunk;
    uint64_t n;

    if (w->outstanding == 0)
        return 0;
    while (i != NULL && SCHED_OWNER(i, struct sched_request, item)->current == NULL)
        i = sched_edf_next(i);
    if (i == NULL)
        return 0;
    r = SCHED_OWNER(i, struct sched_request, item);
    n = r->current->given - r->current->done;
    n = n < w->max_step_tokens ? n : w->max_step_tokens;
    chunk = sched_prefill_ns(s, w, (uint32_t)n, (uint32_t)r->current->done);
    return chunk > 0 ? chunk : (double)n * SCHED_NOMINAL_NS;
}

/* The work is counted from since_ns; of what has passed no more than one chunk was spent on it. */
double sched_worker_start(const struct sched *s, const struct sched_worker *w)
{
    if (w->outstanding == 0)
        return (double)s->now;
    return fmax((double)w->since_ns, (double)s->now - running_chunk(s, w));
}

/* ---- deadlines ---- */

static double isolated_on(const struct sched_klass *k, double n, double past)
{
    double chunk = k->step_tokens == 0 ? SCHED_STEP_TOKENS : k->step_tokens;

    return sched_law_known(&k->prefill.law) ? chunks_ns(&k->prefill.law, n, past, chunk) : 0;
}

uint64_t sched_isolated_ns(const struct sched *s, const struct sched_request *r)
{
    uint32_t past = 0;
    double best = 0;

    for (uint32_t i = 0; i < r->n_prefix; i++)
        past = r->prefix[i].tokens > past ? r->prefix[i].tokens : past;
    past = past < r->n_prompt ? past : r->n_prompt - 1;
    /* classes that are here; before any is, those that were described */
    for (int here = 1; here >= 0 && best <= 0; here--) {
        for (uint32_t i = 0; i < s->n_klass; i++) {
            const struct sched_klass *k = &s->klass[i];
            double ns;

            if (here && k->open[SCHED_ROLE_PREFILL] == 0)
                continue;
            ns = isolated_on(k, r->n_prompt - past, past);
            if (ns > 0 && (best <= 0 || ns < best))
                best = ns;
        }
    }
    return (uint64_t)best;
}

uint64_t sched_deadline_at(const struct sched *s, const struct sched_request *r, uint32_t tier)
{
    const struct sched_tier *t = &s->cfg.tiers[tier];
    uint64_t base = r->own_ttft_ns > t->ttft_ns ? r->own_ttft_ns : t->ttft_ns;
    double extra = t->ttft_factor * (double)r->isolated_ns;

    return sched_after(sched_after(r->arrived_ns, base), extra < 1e18 ? (uint64_t)extra : 0);
}

uint64_t sched_tbt_at(const struct sched *s, const struct sched_request *r, uint32_t tier)
{
    const struct sched_tier *t = &s->cfg.tiers[tier];

    return r->own_tbt_ns > t->tbt_ns ? r->own_tbt_ns : t->tbt_ns;
}

static struct sched_length_of length_of(const struct sched_request *r)
{
    return (struct sched_length_of){
        .n_prompt = r->n_prompt, .max_new = r->max_new, .tenant = r->tenant, .key = r->length_key};
}

static void cast_exact(struct sched_request *r)
{
    uint16_t q = r->true_new < 65535 ? (uint16_t)r->true_new : 65535;

    for (int i = 0; i < SCHED_LENGTH_POINTS; i++)
        r->cast.q[i] = q;
    r->cast.mean = (float)r->true_new;
    r->cast.low = r->cast.high = r->true_new;
    r->cast.most = r->max_new;
}

void sched_predictor_arrive(struct sched *s, struct sched_request *r)
{
    struct sched_length_of of = length_of(r);

    r->isolated_ns = sched_isolated_ns(s, r);
    r->deadline_ns = sched_deadline_at(s, r, r->tier);
    r->tbt_ns = sched_tbt_at(s, r, r->tier);
    if (s->policy->clairvoyant && r->true_new != 0)
        cast_exact(r);
    else
        sched_length_forecast(s->lengths, &of, &r->cast);
}

double sched_tokens_so_far(const struct sched *s, const struct sched_request *r)
{
    (void)s;
    if (r->state != SCHED_STATE_DECODING || r->mate == NULL || r->mate->steps < r->steps_joined)
        return r->delivered;
    return (double)r->delivered + (double)(r->mate->steps - r->steps_joined);
}

/* ---- links ---- */

static uint64_t link_key(const struct sched_worker *p, const struct sched_worker *d)
{
    return (uint64_t)p->id << 32 | d->id;
}

const struct sched_link_predict *sched_link(const struct sched *s, const struct sched_worker *p,
                                            const struct sched_worker *d)
{
    const struct sched_link_predict *l = map_get(&s->links, link_key(p, d));

    return l != NULL ? l : &p->klass->link;
}

double sched_handover_ns(const struct sched *s, const struct sched_worker *p,
                         const struct sched_worker *d, uint64_t tokens)
{
    return sched_link_ns(sched_link(s, p, d), (double)tokens * p->klass->c.kv_bytes_per_token);
}

struct sched_estimate sched_handover_estimate(const struct sched *s, const struct sched_worker *p,
                                              const struct sched_worker *d, uint64_t tokens)
{
    return sched_link_time(sched_link(s, p, d), (double)tokens * p->klass->c.kv_bytes_per_token);
}

static struct sched_link_predict *link_make(struct sched *s, const struct sched_worker *p,
                                            const struct sched_worker *d)
{
    struct sched_link_predict *l = map_get(&s->links, link_key(p, d));

    if (l != NULL)
        return l;
    l = mem_try_calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    *l = p->klass->link;
    if (map_put(&s->links, link_key(p, d), l) == ERR_OK)
        return l;
    mem_free(l);
    return NULL;
}

enum err sched_predictor_link(struct sched *s, struct sched_worker *p, struct sched_worker *d,
                              const struct sched_event *e)
{
    struct sched_link_predict *l;

    if (!(e->u.link.bytes_per_s > 0))
        return ERR_OK;
    l = map_get(&s->links, link_key(p, d));
    if (l != NULL && l->weight > 0)
        return ERR_OK; /* hand-overs have taught more than a probe of an idle link can */
    l = link_make(s, p, d);
    if (l == NULL)
        return ERR_NOMEM;
    sched_link_init(l, e->u.link.bytes_per_s, e->u.link.setup_ns);
    return ERR_OK;
}

/* Without memory for a link of its own the class learns all the same. */
void sched_predictor_handover(struct sched *s, const struct sched_request *r,
                              const struct sched_event *e)
{
    const struct sched_side *side = r->current->side;
    struct sched_worker *p = side[SCHED_SIDE_PREFILL].worker, *d = side[SCHED_SIDE_DECODE].worker;
    double bytes = (double)e->u.handover.bytes, ns = (double)e->u.handover.wire_ns;
    struct sched_link_predict *l;
    struct sched_estimate was;
    struct sched_scored o;

    if (p == NULL || d == NULL || bytes <= 0 || ns <= 0)
        return;
    l = p->klass->c.frozen ? NULL : link_make(s, p, d);
    was = sched_link_time(l != NULL ? l : &p->klass->link, bytes);
    o = sched_scored(ns, was.ns, was.low, was.high);
    sched_score_take(&s->score[r->tier][SCHED_STAGE_HANDOVER], &o);
    sched_score_take(&s->score[SCHED_TIERS_MAX][SCHED_STAGE_HANDOVER], &o);
    if (l != NULL)
        sched_link_observe(l, NULL, bytes, ns);
    if (!p->klass->c.frozen)
        sched_link_observe(&p->klass->link, NULL, bytes, ns);
}

void sched_predictor_forget(struct sched *s, struct sched_worker *w)
{
    bool prefill = w->shape->role == SCHED_ROLE_PREFILL;
    enum sched_role other = prefill ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL;

    if (s->links.count == 0)
        return;
    for (struct sched_worker *o = s->first_worker[other]; o != NULL; o = o->next)
        mem_free(map_del(&s->links, prefill ? link_key(w, o) : link_key(o, w)));
}

/* ---- steps ---- */

#define HEALTH_MAPE 0.1

/* While a stage cannot be predicted, requests are placed by a rule that needs no times. */
static void look_at_health(struct sched *s)
{
    static const enum sched_stage stages[] = {SCHED_STAGE_PREFILL, SCHED_STAGE_DECODE,
                                              SCHED_STAGE_HANDOVER};
    const struct sched_score *bad = NULL;
    struct sched_health h;
    enum sched_stage which = SCHED_STAGE_PREFILL;

    if (s->policy->baseline || s->policy->clairvoyant)
        return;
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]) && bad == NULL; i++) {
        const struct sched_score *one = &s->score[SCHED_TIERS_MAX][stages[i]];

        /* Times that are right to a few percent serve, whatever their intervals claim. */
        if (one->lost && one->mape > HEALTH_MAPE) {
            bad = one;
            which = stages[i];
        }
    }
    if (bad == NULL) {
        s->placing = s->policy;
        s->fallback[0] = '\0';
        return;
    }
    if (s->placing != s->policy)
        return;
    sched_score_health(bad, &h);
    s->placing = sched_policy_find("edf");
    snprintf(s->fallback, sizeof(s->fallback),
             "edf+least-loaded: %s %s not predicted (coverage %.0f %% at worst, "
             "MAPE %.0f %%)",
             sched_stage_name(which), which == SCHED_STAGE_HANDOVER ? "times are" : "steps are",
             100 * h.worst, 100 * h.mape);
}

static void score_tiers(struct sched *s, const struct sched_worker *w, enum sched_stage stage,
                        const struct sched_scored *o)
{
    if (stage == SCHED_STAGE_PREFILL) {
        const struct sched_edf_item *i = sched_edf_first(&w->edf);

        if (i != NULL)
            sched_score_take(&s->score[SCHED_OWNER(i, struct sched_request, item)->tier][stage], o);
        return;
    }
    for (uint32_t t = 0; t < s->cfg.n_tiers; t++) {
        if (w->decoding_tier[t] > 0)
            sched_score_take(&s->score[t][stage], o);
    }
}

void sched_predictor_step(struct sched *s, struct sched_worker *w, const struct sched_event *e)
{
    const struct sched_step *did = &e->u.step.did;
    enum sched_stage stage = did->b > 0 ? SCHED_STAGE_DECODE : SCHED_STAGE_PREFILL;
    struct sched_klass *k = w->klass;
    struct sched_scored o =
        sched_predict_observe_mixed(&k->prefill, &w->prefill_bias, &k->decode, &w->decode_bias,
                                    &s->score[SCHED_TIERS_MAX][stage], did, (double)e->u.step.ns);

    k->most_context = fmax(k->most_context, did->ctx);
    score_tiers(s, w, stage, &o);
    look_at_health(s);
}

/* ---- when a prompt is nearly done ---- */

bool sched_reserve_is_due(const struct sched *s, const struct sched_request *r,
                          const struct sched_worker *p, const struct sched_worker *d)
{
    const struct sched_attempt *a = r->current;
    uint64_t left = a->given - a->done;
    uint64_t step = left < p->max_step_tokens ? left : p->max_step_tokens;
    double rest = sched_prefill_ns(s, p, (uint32_t)left, (uint32_t)a->done);

    if (rest <= 0)
        return left <= 2 * (uint64_t)p->max_step_tokens;
    return rest <= 2 * sched_prefill_ns(s, p, (uint32_t)step, (uint32_t)a->done) +
                       2 * sched_handover_ns(s, p, d, a->given);
}

/* ---- ends ---- */

void sched_predictor_end(struct sched *s, const struct sched_request *r, uint32_t tokens)
{
    struct sched_length_of of = length_of(r);

    if (tokens == 0)
        return;
    if (r->cast.mean > 0)
        sched_score_add(&s->score[r->tier_asked][SCHED_STAGE_LENGTH], tokens,
                        r->cast.q[SCHED_LENGTH_POINTS / 2], r->cast.low, r->cast.high);
    sched_length_observe(s->lengths, &of, &r->cast, tokens,
                         &s->score[SCHED_TIERS_MAX][SCHED_STAGE_LENGTH]);
}
