/* scheduler/sched_baton_prefill.c - what a prefill queue says to one more prompt: in time or not, and which
 * others would have to make way.
 *
 * Earliest deadline first between chunks, and the eviction rule of Moore (1968) and Hodgson, weighted: of all
 * that come before the first late one, the one that frees most time for the least value goes.  A request
 * that was dispatched is never evicted (density 0): what was spent on it would be lost. */
#include "scheduler/sched_baton_parts.h"

static struct sched_request *queue_request(struct sched_edf_item *i)
{
    return SCHED_OWNER(i, struct sched_request, item);
}

static struct sched_edf_item queue_item(const struct sched_request *r, uint64_t key,
                                        uint64_t late_ns, double work)
{
    return (struct sched_edf_item){.key = key, .id = r->id, .deadline_ns = late_ns, .work = work};
}

/* The margin moves slowly; a queue takes it over when the difference is worth the walk. */
static void queue_stretch(const struct sched *s, struct sched_worker *w)
{
    double want = baton_of(s)->stretch, off = want - w->edf.stretch;

    if (off > 0.01 || off < -0.01 || (sched_edf_count(&w->edf) == 0 && (off > 0 || off < 0)))
        sched_edf_stretch(&w->edf, want);
}

void baton_prefill_try(struct sched *s, const struct sched_request *r, struct sched_worker *w,
                       uint32_t tier, uint64_t key, uint64_t late_ns, struct baton_prefill *out)
{
    struct sched_edf_answer a;
    struct sched_edf_item c;

    *out = (struct baton_prefill){.w = w};
    queue_stretch(s, w);
    out->work = sched_work_ns(s, r, w, NULL);
    out->begin = sched_worker_start(s, w);
    out->late_ns = late_ns;
    if (late_ns != SCHED_NEVER) {
        uint64_t shared = (uint64_t)baton_margin_shared(s, tier, w);

        out->late_ns = late_ns > shared ? late_ns - shared : 0;
    }
    c = queue_item(r, key, out->late_ns, out->work);
    a = sched_edf_try(&w->edf, &c, out->begin);
    out->finish = a.finish;
    out->self = a.self;
    out->others = a.others;
}

/* What it costs, against the plain weight of r.  Among those of its tier and of looser ones large prompts that lag behind
 * count more; that never puts a request over a tighter tier. */
static double queue_cost(const struct sched *s, const struct sched_request *r,
                         const struct sched_request *victim, uint32_t tier)
{
    double w = (double)victim->baton.weight, own;

    if (victim->tier < tier)
        return w;
    own = baton_weight(s, r, tier);
    return baton_value(s, victim, w, 1) * own / baton_value(s, r, own, 1);
}

/* An item that is taken out for a trial: no work, no deadline, not to be found again. */
struct queue_trial {
    struct sched_edf_item *i;
    uint64_t deadline;
    double work, density;
};

bool baton_prefill_evict(struct sched *s, const struct sched_request *r,
                         const struct baton_prefill *at, uint64_t key, double worth,
                         struct baton_victims *out)
{
    struct sched_edf_item c = queue_item(r, key, at->late_ns, at->work), *late;
    struct sched_edf *q = &at->w->edf;
    struct queue_trial t[BATON_EVICT_MAX];
    bool ok = true;

    *out = (struct baton_victims){.n = 0};
    sched_edf_insert(q, &c);
    while ((late = sched_edf_first_late(q, at->begin)) != NULL) {
        struct sched_edf_item *e = sched_edf_densest(q, late);

        ok = e != NULL && out->n < BATON_EVICT_MAX && queue_request(e)->evicted < SCHED_EVICTED_MAX;
        if (ok)
            out->cost += queue_cost(s, r, queue_request(e), r->tier);
        ok = ok && out->cost < worth;
        if (!ok)
            break;
        t[out->n] = (struct queue_trial){e, e->deadline_ns, e->work, e->density};
        out->v[out->n++] = queue_request(e);
        sched_edf_change(q, e, SCHED_NEVER, 0, 0);
    }
    for (uint32_t i = out->n; i-- > 0;)
        sched_edf_change(q, t[i].i, t[i].deadline, t[i].work, t[i].density);
    sched_edf_remove(q, &c);
    return ok;
}

/* Without any margin. */
static bool queue_hopeless(const struct sched_edf *q, const struct sched_edf_item *i, double start)
{
    return start + sched_edf_before(q, i->key, i->id) + i->work > (double)i->deadline_ns;
}

void baton_prefill_mend(struct sched *s, struct sched_worker *w)
{
    double start = sched_worker_start(s, w);

    for (int n = 0; n < BATON_EVICT_MAX; n++) {
        struct sched_edf_item *late = sched_edf_first_late(&w->edf, start), *e;

        if (late == NULL)
            return;
        e = sched_edf_densest(&w->edf, late);
        if (e != NULL && queue_request(e)->evicted < SCHED_EVICTED_MAX)
            sched_queue_evict(s, queue_request(e));
        else if (queue_hopeless(&w->edf, late, start)) /* it must not spoil the answers of others */
            sched_edf_change(&w->edf, late, SCHED_NEVER, late->work, late->density);
        else
            return;
    }
}
