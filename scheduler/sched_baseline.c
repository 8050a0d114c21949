/* scheduler/sched_baseline.c - baselines that look at load: round robin, least loaded, two choices,
 * DistServe, strict priority, earliest deadline, and the two fixed answers to "who computes the
 * prompt". */
#include "scheduler/sched_baseline.h"

#include "scheduler/sched_core.h"

bool sched_baseline_needs_decode(const struct sched_request *r)
{
    return sched_request_need(r).decode;
}

struct sched_worker *sched_baseline_least(const struct sched *s, enum sched_role role,
                                          const struct sched_request *r)
{
    struct sched_worker *v[SCHED_CANDIDATES_MAX], *best = NULL;
    uint32_t n = sched_candidates(s, role, r, v);

    for (uint32_t i = 0; i < n; i++) {
        if (best == NULL || v[i]->load < best->load ||
            (!(v[i]->load > best->load) && v[i]->id < best->id))
            best = v[i];
    }
    return best;
}

static uint64_t ns_of(double x)
{
    return x > 0 && x < 1e18 ? (uint64_t)x : 0;
}

void sched_baseline_bind(const struct sched *s, const struct sched_request *r,
                         struct sched_worker *p, struct sched_worker *d, uint64_t key,
                         struct sched_offer *out)
{
    double wait;

    if (p == NULL || (d == NULL && sched_baseline_needs_decode(r)))
        return; /* SCHED_HOLD is what the offer says already */
    out->verdict = SCHED_BIND;
    out->prefill = p;
    out->decode = d;
    out->key = key;
    out->work_ns = sched_work_ns(s, r, p, NULL);
    wait = sched_worker_start(s, p) + sched_edf_before(&p->edf, key, r->id) - (double)s->now;
    out->forecast.queue = ns_of(wait);
    out->forecast.prefill = ns_of(out->work_ns);
    out->forecast.ttft = s->now - r->arrived_ns + ns_of(wait) + ns_of(out->work_ns);
    out->chosen.prefill = p->id;
    out->chosen.decode = d == NULL ? 0 : d->id;
    out->chosen.score = wait;
}

static struct sched_worker *decode_for(const struct sched *s, const struct sched_request *r)
{
    return sched_baseline_needs_decode(r) ? sched_baseline_least(s, SCHED_ROLE_DECODE, r) : NULL;
}

/* Choosing again when the prompt starts: least KV. */
static struct sched_worker *redecide_least(struct sched *s, struct sched_request *r)
{
    return sched_baseline_least(s, SCHED_ROLE_DECODE, r);
}

/* ---- round robin ---- */

static struct sched_worker *next_in_turn(struct sched *s, enum sched_role role,
                                         const struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);
    struct sched_worker *last = s->rr[role] == 0 ? NULL : sched_ledger_worker(s, s->rr[role]);
    /* the one of last time may have come back in the other role */
    struct sched_worker *w = last != NULL && last->shape->role == role ? last->next : NULL;

    for (uint32_t i = 0; i < s->stats.workers[role]; i++, w = w->next) {
        if (w == NULL)
            w = s->first_worker[role];
        if (sched_worker_fits(w, &need)) {
            s->rr[role] = w->id;
            return w;
        }
    }
    return NULL;
}

static void place_round_robin(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct sched_worker *p = next_in_turn(s, SCHED_ROLE_PREFILL, r), *d = NULL;

    if (sched_baseline_needs_decode(r))
        d = next_in_turn(s, SCHED_ROLE_DECODE, r);
    sched_baseline_bind(s, r, p, d, r->arrived_ns, out);
}

const struct sched_policy sched_policy_round_robin = {
    .name = "round-robin",
    .baseline = true,
    .what = "each worker in turn, first come first served",
    .place = place_round_robin};

/* ---- join the shortest queue ---- */

static uint32_t queue_length(const struct sched_worker *w)
{
    return w->shape->role == SCHED_ROLE_PREFILL ? sched_edf_count(&w->edf)
                                                : w->claims + w->promised;
}

static struct sched_worker *shortest(const struct sched *s, enum sched_role role,
                                     const struct sched_request *r)
{
    struct sched_need need = sched_request_need(r);
    struct sched_worker *best = NULL;

    for (struct sched_worker *w = s->first_worker[role]; w != NULL; w = w->next) {
        if (sched_worker_fits(w, &need) && (best == NULL || queue_length(w) < queue_length(best)))
            best = w;
    }
    return best;
}

static void place_least_loaded(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct sched_worker *d =
        sched_baseline_needs_decode(r) ? shortest(s, SCHED_ROLE_DECODE, r) : NULL;

    sched_baseline_bind(s, r, shortest(s, SCHED_ROLE_PREFILL, r), d, r->arrived_ns, out);
}

static struct sched_worker *redecide_shortest(struct sched *s, struct sched_request *r)
{
    return shortest(s, SCHED_ROLE_DECODE, r);
}

const struct sched_policy sched_policy_least_loaded = {
    .name = "least-loaded",
    .baseline = true,
    .what = "the workers with fewest requests, first come first served",
    .place = place_least_loaded,
    .redecide = redecide_shortest};

/* ---- the better of two ---- */

/* A worker drawn by hash, and not `but`. */
static struct sched_worker *one_of(const struct sched *s, enum sched_role role,
                                   const struct sched_request *r, uint64_t salt,
                                   const struct sched_worker *but)
{
    struct sched_need need = sched_request_need(r);
    uint32_t n = s->pool[role].n;
    uint64_t x =
        r->id * 0x9e3779b97f4a7c15u + (s->cfg.seed ^ salt * 0xbf58476d1ce4e5b9u) + r->epoch;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    for (uint32_t i = 0; i < n; i++) {
        struct sched_worker *w = s->pool[role].v[(x + i) % n];

        if (w != but && sched_worker_fits(w, &need))
            return w;
    }
    return NULL;
}

static struct sched_worker *better_of_two(const struct sched *s, enum sched_role role,
                                          const struct sched_request *r)
{
    struct sched_worker *a = one_of(s, role, r, 2 * (uint64_t)role, NULL);
    struct sched_worker *b = one_of(s, role, r, 2 * (uint64_t)role + 1, a);

    return b == NULL || queue_length(a) <= queue_length(b) ? a : b;
}

static void place_power_of_two(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct sched_worker *d =
        sched_baseline_needs_decode(r) ? better_of_two(s, SCHED_ROLE_DECODE, r) : NULL;

    sched_baseline_bind(s, r, better_of_two(s, SCHED_ROLE_PREFILL, r), d, r->arrived_ns, out);
}

const struct sched_policy sched_policy_power_of_two = {
    .name = "power-of-two",
    .baseline = true,
    .what = "of two different workers drawn by hash the one with fewer requests",
    .place = place_power_of_two};

/* ---- DistServe: least token backlog, least KV ---- */

static void place_distserve(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    sched_baseline_bind(s, r, sched_baseline_least(s, SCHED_ROLE_PREFILL, r), decode_for(s, r),
                        r->arrived_ns, out);
}

const struct sched_policy sched_policy_distserve = {
    .name = "distserve",
    .baseline = true,
    .what = "DistServe: least prefill backlog, least KV, first come first served",
    .place = place_distserve,
    .redecide = redecide_least};

const struct sched_policy sched_policy_always_disaggregate = {
    .name = "always-disaggregate",
    .baseline = true,
    .what = "least loaded, and never a prompt on a decode worker",
    .place = place_distserve,
    .redecide = redecide_least};

/* ---- order by tier, order by deadline ---- */

static void place_strict(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    const uint64_t us_max = ((uint64_t)1 << 52) - 1;
    int32_t p = r->priority < -128 ? -128 : r->priority > 127 ? 127 : r->priority;
    uint64_t us = r->arrived_ns / 1000;
    uint64_t key =
        (uint64_t)r->tier << 60 | (uint64_t)(p + 128) << 52 | (us < us_max ? us : us_max);

    sched_baseline_bind(s, r, sched_baseline_least(s, SCHED_ROLE_PREFILL, r), decode_for(s, r), key,
                        out);
}

const struct sched_policy sched_policy_strict_priority = {
    .name = "strict-priority",
    .baseline = true,
    .what = "the stricter tier first, then priority, then arrival; least loaded",
    .place = place_strict,
    .redecide = redecide_least};

static void place_edf(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    sched_baseline_bind(s, r, sched_baseline_least(s, SCHED_ROLE_PREFILL, r), decode_for(s, r),
                        r->deadline_ns, out);
}

const struct sched_policy sched_policy_edf = {
    .name = "edf",
    .baseline = true,
    .what = "earliest deadline first, interrupting prompts between chunks; "
            "least loaded; admits all",
    .preempts = true,
    .place = place_edf,
    .redecide = redecide_least};

/* ---- who computes the prompt: always the decode worker ---- */

static void place_always_local(struct sched *s, struct sched_request *r, struct sched_offer *out)
{
    struct sched_need need = sched_request_need(r);
    struct sched_worker *best = NULL;

    for (struct sched_worker *w = s->first_worker[SCHED_ROLE_DECODE]; w != NULL; w = w->next) {
        if (sched_worker_local(s, w, &need) && (best == NULL || w->load < best->load))
            best = w;
    }
    if (best != NULL)
        sched_baseline_bind(s, r, best, best, r->arrived_ns, out);
    else
        place_distserve(s, r, out);
}

const struct sched_policy sched_policy_always_local = {
    .name = "always-local",
    .baseline = true,
    .what = "every decode worker that can computes its prompts itself, beside "
            "its batch",
    .place = place_always_local};
