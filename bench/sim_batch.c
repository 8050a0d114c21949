/* bench/sim_batch.c - the residents of a decode worker, counted by its steps.
 *
 * Token number n0 + i (i from 1) of a resident leaves with step join + i, and is the k-th after its first token
 * with k = n0 + i - 1.  It is late if  T(s) > deadline + k tbt,  that is if
 *     T(s) - s tbt  >  deadline + (n0 - 1 - join) tbt  =  theta.
 * The left side is one number per step and tbt, theta one number per resident: the smallest theta in a heap tells
 * in O(1) whether a step made anybody late, and the largest left side since `join` how late one ever was. */
#include "bench/sim_impl.h"

enum { FORGET_EVERY = 256 /* steps */ };

uint32_t sim_batch_done(const struct sim_worker *w, const struct sim_req *r)
{
    return w->steps > r->join ? (uint32_t)(w->steps - r->join) : 0;
}

static int64_t theta_of(const struct sim_req *r)
{
    return (int64_t)r->d_deadline_ns +
           ((int64_t)r->n0 - 1 - (int64_t)r->join) * (int64_t)r->d_tbt_ns;
}

/* The same for its mean time per token: as if the first token had been due when it came. */
static int64_t theta_mean(const struct sim_req *r)
{
    return (int64_t)r->first_ns + ((int64_t)r->n0 - 1 - (int64_t)r->join) * (int64_t)r->d_tbt_ns;
}

static uint32_t group_of(struct sim *m, struct sim_worker *w, uint64_t tbt_ns)
{
    for (uint32_t i = 0; i < w->n_tbt; i++) {
        if (w->tbt[i].tbt_ns == tbt_ns)
            return i;
    }
    if (w->n_tbt == SIM_TBTS) {
        sim_fail(m, ERR_LIMIT, "over %d different targets of time per token", SIM_TBTS);
        return 0;
    }
    w->tbt[w->n_tbt].tbt_ns = tbt_ns;
    return w->n_tbt++;
}

static bool add_part(struct sim *m, struct sim_part **list, uint32_t *n, uint32_t *cap,
                     const struct sim_req *r)
{
    void *p = *list;

    if (!sim_grow(m, &p, *n + 1, cap, sizeof(**list)))
        return false;
    *list = p;
    (*list)[(*n)++] = (struct sim_part){.slot = sim_slot(m, r), .gen = r->d_gen};
    return true;
}

/* From the next step that starts on; r->n0, c0 and last_ns are right. */
bool sim_batch_open(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    uint32_t bt = w->block_tokens;
    struct sim_tbt *g;

    r->join = w->steps + (w->busy ? 1 : 0);
    r->group = group_of(m, w, r->d_tbt_ns);
    r->phase = (uint32_t)(((uint64_t)r->c0 % bt + bt - r->join % bt) % bt);
    r->d_gen++;
    g = &w->tbt[r->group];
    if (g->count++ == 0) {
        sim_peak_forget(&g->peak, w->steps);
        g->theta.n = g->late.n = g->mean.n = g->n_young = 0;
    }
    w->phase[r->phase]++;
    if (!sim_heap_push(r->late_told ? &g->late : &g->theta, sim_key_of(theta_of(r)), sim_slot(m, r),
                       r->d_gen) ||
        !sim_heap_push(&g->mean, sim_key_of(theta_mean(r)), sim_slot(m, r), r->d_gen)) {
        sim_fail(m, ERR_NOMEM, "out of memory");
        return false;
    }
    if (!sim_heap_push(&w->finish, r->join + (r->n_out - r->n0), sim_slot(m, r), r->d_gen)) {
        sim_fail(m, ERR_NOMEM, "out of memory");
        return false;
    }
    return (r->n0 >= SCHED_PACE_YOUNG || add_part(m, &g->young, &g->n_young, &g->cap_young, r)) &&
           add_part(m, &w->joiner, &w->n_joiner, &w->cap_joiner, r);
}

/* Writes down what the segment did.  A step that runs has not given its token yet. */
void sim_batch_close(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    struct sim_tbt *g = &w->tbt[r->group];
    uint32_t done = sim_batch_done(w, r);

    (void)m;
    if (done > 0) {
        int64_t late = sim_peak_since(&g->peak, r->join) - theta_of(r);
        int64_t gap = done > 1 ? sim_peak_since(&w->gaps, r->join + 1) : 0;

        r->late_ns = late > r->late_ns ? late : r->late_ns;
        r->gap_ns = gap > (int64_t)r->gap_ns ? (uint64_t)gap : r->gap_ns;
        r->last_ns = w->last_end_ns;
        r->n0 += done;
        r->c0 += done;
    }
    w->phase[r->phase]--;
    g->count--;
    r->d_gen++;
}

/* Drops stale entries on the way. */
static const struct sim_key *top_of(struct sim *m, struct sim_heap *h)
{
    while (h->n > 0 && m->req[h->v[0].slot].d_gen != h->v[0].gen)
        sim_heap_pop(h);
    return h->n > 0 ? &h->v[0] : NULL;
}

static int64_t slack_of(const struct sim *m, const struct sim_worker *w, const struct sim_tbt *g,
                        const struct sim_key *top)
{
    return sim_key_value(top->key) + (int64_t)((w->steps + 1) * g->tbt_ns) - (int64_t)m->now;
}

double sim_batch_rest(const struct sim_worker *w)
{
    return w->mean_tokens > 0 ? 0.1 * w->mean_tokens : 10;
}

/* One that is late counts half its tbt, as in the decode role: nothing would mend it. */
int64_t sim_batch_slack(struct sim *m, struct sim_worker *w, double step_ns)
{
    int64_t least = INT64_MAX;

    for (uint32_t i = 0; i < w->n_tbt; i++) {
        struct sim_tbt *g = &w->tbt[i];
        struct sim_heap *heaps[] = {&g->theta, &g->late, &g->mean};
        double gain = (double)g->tbt_ns - step_ns;

        for (int k = 0; k < 3 && g->count > 0; k++) {
            const struct sim_key *top = top_of(m, heaps[k]);
            int64_t slack = top == NULL ? INT64_MAX : slack_of(m, w, g, top);

            if (k == 2 && top != NULL && gain > 0)
                slack += (int64_t)(gain * sim_batch_rest(w));
            slack = slack <= 0 ? (int64_t)g->tbt_ns / 2 : slack;
            least = slack < least ? slack : least;
        }
    }
    return least;
}

/* The worst mean of all tells for most steps; else the young ones are asked one by one. */
bool sim_batch_hurried(struct sim *m, struct sim_worker *w, double step_ns)
{
    for (uint32_t i = 0; i < w->n_tbt; i++) {
        struct sim_tbt *g = &w->tbt[i];
        const struct sim_key *top;
        bool hurried = false;
        uint32_t kept = 0;

        if (g->count == 0 || sched_pace_least(g->tbt_ns) >= step_ns ||
            (top = top_of(m, &g->mean)) == NULL || 0.9 * (double)slack_of(m, w, g, top) >= step_ns)
            continue;
        for (uint32_t y = 0; y < g->n_young; y++) {
            const struct sim_req *r = &m->req[g->young[y].slot];
            uint32_t k = r->n0 + sim_batch_done(w, r);
            double pace;

            if (r->d_gen != g->young[y].gen || k >= SCHED_PACE_YOUNG)
                continue;
            g->young[kept++] = g->young[y];
            pace = sched_pace_of(&w->pace, r->first_ns, k, g->tbt_ns, m->now);
            hurried = hurried || (pace > 0 && pace < step_ns);
        }
        g->n_young = kept;
        if (hurried)
            return true;
    }
    return false;
}

uint64_t sim_batch_tightest(const struct sim_worker *w)
{
    uint64_t least = 0;

    for (uint32_t i = 0; i < w->n_tbt; i++) {
        if (w->tbt[i].count > 0 && (least == 0 || w->tbt[i].tbt_ns < least))
            least = w->tbt[i].tbt_ns;
    }
    return least;
}

static void tell_late(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    r->late_told = true;
    sim_say(m, SCHED_EV_TOKENS, r->id, 0, 0)->u.tokens.delivered = r->n0 + sim_batch_done(w, r);
}

static void forget_stale(struct sim *m, struct sim_heap *h)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < h->n; i++) {
        if (m->req[h->v[i].slot].d_gen == h->v[i].gen)
            h->v[n++] = h->v[i];
    }
    sim_heap_keep(h, n);
}

/* Now and then, what nobody asks for any more.  While steps are faster than tokens are due, keys become smaller and
 * smaller: stale entries would never come to the top, and peaks would keep all steps of the run. */
static void forget(struct sim *m, struct sim_worker *w)
{
    uint64_t oldest[SIM_TBTS], of_all = w->steps;

    for (uint32_t i = 0; i < w->n_tbt; i++)
        oldest[i] = w->steps;
    for (uint32_t i = 0; i < w->n_member; i++) {
        const struct sim_req *r = &m->req[w->member[i]];

        if (r->d_state != SIM_D_RESIDENT)
            continue;
        oldest[r->group] = r->join < oldest[r->group] ? r->join : oldest[r->group];
        of_all = r->join < of_all ? r->join : of_all;
    }
    for (uint32_t i = 0; i < w->n_tbt; i++) {
        sim_peak_forget(&w->tbt[i].peak, oldest[i]);
        forget_stale(m, &w->tbt[i].theta);
        forget_stale(m, &w->tbt[i].late);
        forget_stale(m, &w->tbt[i].mean);
    }
    sim_peak_forget(&w->gaps, of_all);
}

void sim_batch_stepped(struct sim *m, struct sim_worker *w, uint64_t before_ns)
{
    if (w->steps % FORGET_EVERY == 0)
        forget(m, w);
    for (uint32_t i = 0; i < w->n_tbt; i++) {
        struct sim_tbt *g = &w->tbt[i];
        int64_t f = (int64_t)m->now - (int64_t)(w->steps * g->tbt_ns);
        const struct sim_key *top;

        if (g->count == 0)
            continue;
        if (!sim_peak_push(&g->peak, w->steps, f))
            sim_fail(m, ERR_NOMEM, "out of memory");
        while ((top = top_of(m, &g->theta)) != NULL && sim_key_value(top->key) < f) {
            struct sim_key late = *top;

            tell_late(m, w, &m->req[late.slot]);
            sim_heap_pop(&g->theta);
            if (!sim_heap_push(&g->late, late.key, late.slot, late.gen))
                sim_fail(m, ERR_NOMEM, "out of memory");
        }
    }
    if (!sim_peak_push(&w->gaps, w->steps, (int64_t)(m->now - before_ns)))
        sim_fail(m, ERR_NOMEM, "out of memory");
}

void sim_batch_joined(struct sim *m, struct sim_worker *w, uint64_t end_ns)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < w->n_joiner; i++) {
        struct sim_part j = w->joiner[i];
        struct sim_req *r = &m->req[j.slot];

        if (r->d_gen != j.gen)
            continue;
        if (r->join > w->steps) {
            w->joiner[kept++] = j;
            continue;
        }
        if (end_ns - r->last_ns > r->gap_ns)
            r->gap_ns = end_ns - r->last_ns;
    }
    w->n_joiner = kept;
}
