/* tests/sim/sim_oracle.c - what the scheduler owes, worked out from the messages alone.
 *
 * The oracle keeps its own picture of every attempt (which of the messages that count were applied) and
 * of every claim (promised by an action, ended by RELEASED or a leaving worker).  Before an event it works
 * out which requests must change attempt, which must end and which must stay; afterwards it compares. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/sim_impl.h"

struct seen {
    bool live;
    enum sched_state state;
    uint32_t epoch, prefill, decode;
};

static struct seen look(const struct sim *m, uint64_t id)
{
    struct seen v = {0};

    v.live = sched_get_request(m->s, id, &v.state, &v.epoch, &v.prefill, &v.decode) == ERR_OK;
    return v;
}

/* ---- claims ---- */

static struct sim_claim *claim_of(struct sim *m, uint64_t request, uint32_t epoch, uint32_t worker)
{
    for (uint32_t i = 0; i < m->n_claim; i++) {
        struct sim_claim *c = &m->claim[i];

        if (c->used && c->request == request && c->epoch == epoch && c->worker == worker)
            return c;
    }
    return NULL;
}

static void claim_add(struct sim *m, const struct sched_action *a, uint32_t worker, uint32_t tokens,
                      bool silent)
{
    struct sim_claim *c = claim_of(m, a->request, a->epoch, worker);
    uint32_t i = 0;

    if (c != NULL && c->silent && !silent) { /* what was promised is asked for now */
        c->silent = false;
        return;
    }
    if (c != NULL)
        sim_violation(m, "request %" PRIu64 " is given to worker %u twice", a->request, worker);
    while (i < m->n_claim && m->claim[i].used)
        i++;
    if (i == m->n_claim)
        m->n_claim += m->n_claim < SIM_HOLDS - 1;
    m->claim[i] = (struct sim_claim){.request = a->request,
                                     .epoch = a->epoch,
                                     .worker = worker,
                                     .blocks = (tokens + SIM_BLOCK - 1) / SIM_BLOCK,
                                     .silent = silent,
                                     .used = true};
}

/* A claim of an attempt that is over must have been called back, unless its worker stops by itself. */
static void check_claims(struct sim *m)
{
    uint32_t blocks[SIM_WORKERS + 1] = {0}, claims[SIM_WORKERS + 1] = {0}, total = 0;
    struct sched_stats st;

    for (uint32_t i = 0; i < m->n_claim; i++) {
        struct sim_claim *c = &m->claim[i];
        const struct sim_request *r;
        bool over;

        if (!c->used)
            continue;
        r = sim_request_of(m, c->request);
        over = !r->known || !r->at.active || r->at.epoch != c->epoch;
        if (over && c->silent) {
            c->used = false;
            continue;
        }
        total++;
        claims[c->worker]++;
        blocks[c->worker] += c->blocks;
        if (over && !c->told && !c->excused)
            sim_violation(m, "request %" PRIu64 " epoch %u is over and worker %u was not told",
                          c->request, c->epoch, c->worker);
    }
    sched_get_stats(m->s, &st);
    if (st.claims != total)
        sim_violation(m, "%u claims in the ledger, %u are owed", st.claims, total);
    for (uint32_t w = 1; w <= m->n_worker; w++) {
        struct sched_worker_view v;

        if (!m->worker[w].joined)
            continue;
        if (sched_get_worker(m->s, w, &v) != ERR_OK || v.requests != claims[w] ||
            (m->worker[w].role == SCHED_ROLE_PREFILL && v.claimed_blocks != blocks[w]))
            sim_violation(m, "worker %u: the ledger and what is owed differ by blocks", w);
    }
}

static uint32_t queued(const struct sim *m)
{
    struct sched_stats st;
    uint32_t n = 0;

    sched_get_stats(m->s, &st);
    for (uint32_t t = 0; t < m->cfg.n_tiers; t++)
        n += st.queued[t];
    return n;
}

/* ---- before ---- */

/* Is the event about the current attempt, from the worker on that side, and is that worker known? */
static bool current(const struct sim *m, const struct sim_request *r, const struct sched_event *e,
                    bool decode_side)
{
    uint32_t worker = decode_side ? r->at.decode : r->at.prefill;

    return r->at.active && r->at.epoch == e->epoch && worker == e->worker && worker != 0 &&
           m->worker[worker].joined;
}

static bool decoding(const struct sim_request *r)
{
    return r->at.prefilled && (r->at.finished || r->at.verified);
}

static void failed(struct sim_request *r)
{
    r->expect = SIM_CHANGE;
    r->counts = true;
}

static void before_granted(struct sim *m, struct sim_request *r, const struct sched_event *e)
{
    struct sim_attempt *a = &r->at;

    struct sim_claim *c = claim_of(m, e->request, e->epoch, e->worker);

    if (!current(m, r, e, true) || a->local || a->granted || a->finished || a->verified ||
        c == NULL || c->silent)
        return;
    if (e->u.granted.ok)
        a->granted = true;
    else
        failed(r);
}

static void before_prefilled(struct sim *m, struct sim_request *r, const struct sched_event *e)
{
    if (!current(m, r, e, false) || r->at.prefilled)
        return;
    r->at.prefilled = true;
    if (r->at.local) {
        r->at.verified = true;
        r->at.finished = e->u.prefilled.finished;
    } else if (e->u.prefilled.finished || r->at.decode == 0) {
        struct sim_claim *c = claim_of(m, r->id, r->at.epoch, r->at.decode);

        r->at.finished = true;
        if (c != NULL)
            c->excused = false; /* nobody else would tell it */
    }
}

static void before_handover(struct sim *m, struct sim_request *r, const struct sched_event *e)
{
    struct sim_attempt *a = &r->at;

    if (!current(m, r, e, e->u.handover.from_decode) || a->decode == 0 || a->verified ||
        a->finished || a->local)
        return;
    if (e->u.handover.err != ERR_OK)
        failed(r);
    else if (e->u.handover.from_decode)
        a->verified = true;
}

static void before_released(struct sim *m, struct sim_request *r, const struct sched_event *e)
{
    struct sim_claim *c = claim_of(m, e->request, e->epoch, e->worker);
    bool ok = e->u.released.err == ERR_OK;

    if (c == NULL || c->silent)
        return;
    c->used = false;
    if (!r->known || !r->at.active || r->at.epoch != e->epoch || r->at.finished)
        return;
    if (e->worker == r->at.prefill && !r->at.local) {
        if (!decoding(r) && (!r->at.prefilled || !ok))
            failed(r);
    } else if (ok && r->at.verified) {
        r->at.finished = true;
    } else {
        failed(r);
    }
}

static void before_leave(struct sim *m, uint32_t worker)
{
    for (uint32_t i = 0; i < m->n_req; i++) {
        struct sim_request *r = &m->req[i];
        bool held = claim_of(m, r->id, r->at.epoch, worker) != NULL;

        if (!r->known || !r->at.active || r->at.finished)
            continue;
        if (r->at.decode == worker || (r->at.prefill == worker && held && !decoding(r)))
            r->expect = SIM_CHANGE;
    }
    for (uint32_t i = 0; i < m->n_claim; i++)
        m->claim[i].used &= m->claim[i].worker != worker;
    m->worker[worker].joined = false;
}

static void excuse(struct sim *m, const struct sim_request *r, uint32_t worker)
{
    struct sim_claim *c = claim_of(m, r->id, r->at.epoch, worker);

    if (c != NULL)
        c->excused = true;
}

static void before_end(struct sim *m, struct sim_request *r, const struct sched_event *e)
{
    r->expect = SIM_END;
    if (e->kind == SCHED_EV_CANCEL || !r->at.active)
        return;
    if (e->epoch != 0 && e->epoch != r->at.epoch)
        return; /* the present attempt knows nothing of an end */
    excuse(m, r, r->at.prefill);
    if (r->at.prefilled)
        excuse(m, r, r->at.decode);
}

void sim_oracle_before(struct sim *m, const struct sched_event *e)
{
    struct sim_request *r = e->request == 0 ? NULL : sim_request_of(m, e->request);

    m->queued_before = queued(m);
    for (uint32_t i = 0; i < m->n_req; i++) {
        m->req[i].expect = e->kind == SCHED_EV_TIMER ? SIM_MAY : SIM_KEEP;
        m->req[i].counts = e->kind == SCHED_EV_TIMER;
        m->req[i].was_known = m->req[i].known;
    }
    if (e->kind == SCHED_EV_WORKER_LEAVE) {
        before_leave(m, e->worker);
    } else if (e->kind == SCHED_EV_WORKER_JOIN) {
        m->worker[e->worker].joined = true;
    } else if (e->kind == SCHED_EV_WORKER_DRAIN) {
        m->worker[e->worker].draining = true;
    } else if (e->kind == SCHED_EV_RELEASED && r != NULL) {
        before_released(m, r, e);
    } else if (e->kind == SCHED_EV_ARRIVE && r != NULL) {
        r->known = true;
    } else if (r != NULL && r->known) {
        if (e->kind == SCHED_EV_GRANTED)
            before_granted(m, r, e);
        else if (e->kind == SCHED_EV_PREFILL_DONE)
            before_prefilled(m, r, e);
        else if (e->kind == SCHED_EV_HANDOVER_DONE)
            before_handover(m, r, e);
        else if (e->kind == SCHED_EV_CANCEL || e->kind == SCHED_EV_FINISH)
            before_end(m, r, e);
        else if (e->kind == SCHED_EV_TOKENS && !r->at.active && r->delivered == r->max_new)
            r->expect = SIM_END;
    }
}

/* ---- actions ---- */

static void after_place(struct sim *m, const struct sched_action *a, struct sim_request *r)
{
    const struct sim_worker *w = &m->worker[a->worker];
    bool prefill = a->kind == SCHED_ACT_PREFILL;

    if (!w->joined || (w->draining && (prefill || !r->at.active)))
        sim_violation(m, "request %" PRIu64 " is placed on worker %u, which is gone or draining",
                      a->request, a->worker);
    if (!prefill) {
        bool late = r->at.active && r->at.epoch == a->epoch && r->at.decode == a->worker;

        if (!r->known || (r->at.active && !late))
            sim_violation(m, "request %" PRIu64 " is reserved for and does not run", a->request);
        claim_add(m, a, a->worker, r->n_prompt + r->max_new, false);
        return;
    }
    if (!r->known || r->at.active)
        sim_violation(m, "request %" PRIu64 " is placed and does not wait", a->request);
    claim_add(m, a, a->worker, r->n_prompt + r->delivered, false);
    if (a->peer != 0 && a->peer != a->worker) {
        if (!m->introduced[a->worker][a->peer])
            sim_violation(m, "request %" PRIu64 ": worker %u was not introduced", a->request,
                          a->peer);
        if (claim_of(m, a->request, a->epoch, a->peer) == NULL)
            claim_add(m, a, a->peer, 0, true);
    }
    /* while predictions are lost, "edf" gives the order in place of baton */
    if (r->order != 0 && r->order != a->order && strncmp(m->cfg.policy, "baton", 5) != 0)
        sim_violation(m, "request %" PRIu64 " lost its place in the order", a->request);
    r->order = a->order;
    if (!r->dispatched)
        m->promised[r->tenant] += r->n_prompt;
    r->dispatched = true;
    r->at = (struct sim_attempt){.active = true,
                                 .epoch = a->epoch,
                                 .prefill = a->worker,
                                 .decode = a->peer,
                                 .local = a->worker == a->peer};
}

static void after_resume(struct sim *m, const struct sched_action *a, struct sim_request *r)
{
    struct sched_event e = {.kind = SCHED_EV_TOKENS, .request = r->id};

    m->out->resumes++;
    if (a->epoch != r->epoch + 1)
        sim_violation(m, "request %" PRIu64 ": epoch %u after %u", a->request, a->epoch, r->epoch);
    if (r->expect == SIM_KEEP)
        sim_violation(m, "request %" PRIu64 " loses an attempt for no reason", a->request);
    r->fails += r->counts;
    if (r->fails >= m->cfg.max_attempts)
        sim_violation(m, "request %" PRIu64 ": attempts without end", a->request);
    r->epoch = a->epoch;
    r->at.active = false;
    e.u.tokens.delivered = r->delivered;
    sim_soon(m, &e);
}

static void after_final(struct sim *m, const struct sched_action *a, struct sim_request *r)
{
    bool reject = a->kind == SCHED_ACT_REJECT;

    if (!r->known)
        sim_violation(m, "request %" PRIu64 " ends twice", a->request);
    if (reject ? r->dispatched : !r->was_known)
        sim_violation(m, "request %" PRIu64 " is refused after it was admitted", a->request);
    r->known = r->at.active = false;
    r->expect = SIM_END;
    if (r->over)
        return; /* the front end was faster: its own end counts */
    r->over = true;
    if (reject)
        m->out->rejected++;
    else
        m->out->failed++;
}

static void after_flip(struct sim *m, uint32_t worker)
{
    struct sched_worker_view v;

    for (uint32_t i = 0; i < m->n_claim; i++) {
        if (m->claim[i].used && m->claim[i].worker == worker)
            sim_violation(m, "worker %u is to change its role and has claims", worker);
    }
    if (!m->worker[worker].joined || sched_get_worker(m->s, worker, &v) != ERR_OK || !v.flipping)
        sim_violation(m, "worker %u is to change its role and was not drained for it", worker);
    m->out->flips++;
}

void sim_oracle_action(struct sim *m, const struct sched_action *a)
{
    struct sim_request *r = a->request == 0 ? NULL : sim_request_of(m, a->request);
    struct sim_claim *c;

    switch (a->kind) {
    case SCHED_ACT_RESERVE:
    case SCHED_ACT_PREFILL:
        after_place(m, a, r);
        break;
    case SCHED_ACT_CANCEL:
        c = claim_of(m, a->request, a->epoch, a->worker);
        if (c == NULL || c->silent)
            sim_violation(m, "worker %u is told to drop what it does not hold", a->worker);
        else
            c->told = true;
        break;
    case SCHED_ACT_INTRODUCE:
        if (m->introduced[a->worker][a->peer])
            sim_violation(m, "%u and %u are introduced twice", a->worker, a->peer);
        m->introduced[a->worker][a->peer] = true;
        break;
    case SCHED_ACT_RESUME:
        after_resume(m, a, r);
        break;
    case SCHED_ACT_REJECT:
    case SCHED_ACT_FAIL:
        after_final(m, a, r);
        break;
    case SCHED_ACT_TIER:
        r->tier = a->terms.tier;
        r->order = 0;
        break;
    case SCHED_ACT_FLIP:
        after_flip(m, a->worker);
        break;
    case SCHED_ACT_SCALE:
        break;
    }
}

/* ---- after ---- */

/* I10: no tenant has more than its share of requests or of tokens at any time. */
static void check_tenants(struct sim *m)
{
    uint32_t live[SIM_TENANTS + 1] = {0};

    for (uint32_t i = 0; i < m->n_req; i++)
        live[m->req[i].tenant] += m->req[i].known;
    for (uint32_t t = 1; t <= SIM_TENANTS; t++) {
        const struct sched_tenant *q = &m->tenant[t];
        double since_s = (double)(m->now - 1000 * SIM_MS) / 1e9;

        if (q->max_live != 0 && live[t] > q->max_live)
            sim_violation(m, "tenant %u has %u requests, %u are allowed", t, live[t], q->max_live);
        if (q->tokens_per_s > 0 && m->promised[t] > q->tokens_per_s * (q->burst_s + since_s) + 1)
            sim_violation(m, "tenant %u got %g tokens in %g s", t, m->promised[t], since_s);
    }
}

static enum sched_state state_of(const struct sim_request *r)
{
    if (!r->at.active)
        return SCHED_STATE_QUEUED;
    if (!r->at.prefilled)
        return SCHED_STATE_PREFILLING;
    return decoding(r) ? SCHED_STATE_DECODING : SCHED_STATE_HANDOVER;
}

static void check_request(struct sim *m, struct sim_request *r, uint32_t epoch_before)
{
    struct seen v = look(m, r->id);
    bool done = r->delivered == r->max_new; /* then a change may end it without a word */

    if (v.live && !r->known)
        sim_violation(m, "request %" PRIu64 " lives on after its end", r->id);
    if (!r->known)
        return;
    if (!v.live) {
        if (r->expect == SIM_KEEP || (r->expect != SIM_END && !done))
            sim_violation(m, "request %" PRIu64 " is gone without an end", r->id);
        r->known = r->at.active = false;
        return;
    }
    if (r->expect == SIM_END)
        sim_violation(m, "request %" PRIu64 " should have ended", r->id);
    if (r->expect == SIM_CHANGE && r->epoch == epoch_before)
        sim_violation(m, "request %" PRIu64 " in %s: the failure of its attempt is ignored", r->id,
                      sched_state_name(v.state));
    if (v.epoch != r->epoch || v.state != state_of(r))
        sim_violation(m, "request %" PRIu64 " is %s in epoch %u, should be %s in %u", r->id,
                      sched_state_name(v.state), v.epoch, sched_state_name(state_of(r)), r->epoch);
    if (r->at.active && (v.prefill != r->at.prefill || v.decode != r->at.decode))
        sim_violation(m, "request %" PRIu64 " is on other workers than was said", r->id);
}

void sim_oracle_after(struct sim *m, const struct sched_event *e)
{
    uint32_t before[SIM_REQUESTS];

    if (e->kind == SCHED_EV_ARRIVE && m->queued_before >= m->cfg.max_queued &&
        queued(m) > m->queued_before)
        sim_violation(m, "%u requests wait, %u may", queued(m), m->cfg.max_queued);
    for (uint32_t i = 0; i < m->n_req; i++)
        before[i] = m->req[i].epoch;
    for (size_t i = 0; i < m->act.n; i++)
        sim_oracle_action(m, &m->act.v[i]);
    for (uint32_t i = 0; i < m->n_req; i++)
        check_request(m, &m->req[i], before[i]);
    check_claims(m);
    check_tenants(m);
}

void sim_oracle_rest(struct sim *m)
{
    struct sched_stats st;

    sched_get_stats(m->s, &st);
    if (st.requests != 0 || st.claims != 0 || st.queued_tokens != 0)
        sim_violation(m, "at rest: %u requests, %u claims", st.requests, st.claims);
    for (uint32_t i = 0; i < m->n_req; i++) {
        if (!m->req[i].over)
            sim_violation(m, "request %" PRIu64 " never got its end", m->req[i].id);
    }
    for (uint32_t w = 1; w <= m->n_worker; w++) {
        struct sched_worker_view v;

        if (m->worker[w].joined && (sched_get_worker(m->s, w, &v) != ERR_OK || v.requests != 0 ||
                                    v.claimed_blocks != 0 || v.outstanding_tokens != 0))
            sim_violation(m, "at rest: worker %u still counts work", w);
    }
}
