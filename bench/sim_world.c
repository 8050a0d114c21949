/* bench/sim_world.c - workers come, report, change and go. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "bench/sim_impl.h"

enum { REPORT_MS = 100 };

void sim_worker_join(struct sim *m, struct sim_worker *w)
{
    const struct bench_sim_class *c = sim_class(m, w);
    struct sched_event *e = sim_say(m, SCHED_EV_WORKER_JOIN, 0, w->id, 0);

    w->alive = true;
    w->block_tokens = c->block_tokens;
    w->n_blocks = w->free_blocks = c->kv_tokens / c->block_tokens;
    w->tx = w->rx = (struct sim_list){SIM_NONE, SIM_NONE};
    w->tx_slot = w->rx_slot = SIM_NONE;
    w->plan_wake_ns = SIM_NEVER;
    w->joined_ns = m->now;
    e->u.join.role = w->role;
    e->u.join.n_blocks = w->n_blocks;
    e->u.join.block_tokens = c->block_tokens;
    e->u.join.max_batch = c->max_batch;
    e->u.join.max_context = c->max_context;
    e->u.join.klass = m->class_id[w->klass];
    e->u.join.max_step_tokens = c->max_step_tokens;
    e->u.join.can_flip = true;
    e->u.join.can_prefill = w->role == SCHED_ROLE_DECODE;
    sim_at(m, m->now + (REPORT_MS + w->id % REPORT_MS) * SIM_MS, SIM_EV_REPORT, w->id, w->gen);
}

/* All it held is gone; the front end tells what each client has. */
void sim_worker_leave(struct sim *m, struct sim_worker *w)
{
    for (uint32_t i = 0; i < m->n_req; i++) {
        struct sim_req *r = &m->req[i];

        if (r->id == 0)
            continue;
        if (r->d_state != SIM_D_NONE && r->d_worker == w->id) {
            uint32_t had = sim_delivered(m, r);

            sim_decode_drop(m, r);
            r->n0 = had;
            sim_say_tokens(m, r);
        }
        if (r->p_state != SIM_P_NONE && r->p_worker == w->id) {
            sim_prefill_drop(m, r);
            sim_say_tokens(m, r);
        }
        sim_settle(m, r);
    }
    m->result->busy[w->role] += w->busy_ns;
    m->there_ns[w->role] += (double)(m->now - w->joined_ns);
    sim_worker_clear(w);
    sim_say(m, SCHED_EV_WORKER_LEAVE, 0, w->id, 0);
}

void sim_worker_clear(struct sim_worker *w)
{
    struct sim_worker kept = {.id = w->id,
                              .klass = w->klass,
                              .gen = w->gen + 1,
                              .role = w->role,
                              .factor = w->factor,
                              .rng = w->rng};

    sim_heap_free(&w->ready);
    sim_heap_free(&w->finish);
    sim_peak_free(&w->gaps);
    for (uint32_t i = 0; i < w->n_tbt; i++) {
        sim_heap_free(&w->tbt[i].theta);
        sim_heap_free(&w->tbt[i].late);
        sim_heap_free(&w->tbt[i].mean);
        sim_peak_free(&w->tbt[i].peak);
        mem_free(w->tbt[i].young);
    }
    mem_free(w->part);
    mem_free(w->member);
    mem_free(w->joiner);
    *w = kept;
}

/* A worker tells with every report how far each stream is.  Those that were in every step are where the scheduler
 * takes them to be anyway: the others alone are news. */
static void tell_progress(struct sim *m, struct sim_worker *w)
{
    if (w->n_skipped + w->n_parked == 0)
        return;
    w->n_skipped = 0;
    for (uint32_t i = 0; i < w->n_member; i++) {
        struct sim_req *r = &m->req[w->member[i]];

        if (r->d_skipped || r->d_state == SIM_D_PARKED)
            sim_say_tokens(m, r);
        r->d_skipped = false;
    }
}

void sim_worker_report(struct sim *m, struct sim_worker *w)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_REPORT, .worker = w->id};

    e.u.report.free_blocks = w->free_blocks;
    e.u.report.waiting = w->role == SCHED_ROLE_PREFILL ? w->ready.n : w->n_wait;
    e.u.report.running = w->role == SCHED_ROLE_PREFILL ? w->n_part : w->n_res;
    e.u.report.parked = w->n_parked;
    e.u.report.step_ns = (uint64_t)w->step_ns;
    e.u.report.steps = w->steps;
    e.u.report.context = w->ctx;
    sim_at(m, m->now + REPORT_MS * SIM_MS, SIM_EV_REPORT, w->id, w->gen);
    if (m->setup->stale_s > 0) {
        uint32_t i, cap = m->cap_late;
        void *p = m->late, *q = m->late_free;

        if (m->n_late_free > 0) {
            i = m->late_free[--m->n_late_free];
        } else {
            if (!sim_grow(m, &q, m->n_late + 1, &cap, sizeof(*m->late_free)))
                return;
            m->late_free = q;
            if (!sim_grow(m, &p, m->n_late + 1, &m->cap_late, sizeof(*m->late)))
                return;
            m->late = p;
            i = m->n_late++;
        }
        m->late[i] = e;
        sim_at(m, m->now + (uint64_t)(m->setup->stale_s * 1e9), SIM_EV_DELAYED, i, w->gen);
    } else {
        *sim_say(m, e.kind, 0, 0, 0) = e;
    }
    tell_progress(m, w);
}

void sim_worker_delayed(struct sim *m, uint32_t i, uint32_t gen)
{
    struct sched_event e = m->late[i];

    m->late_free[m->n_late_free++] = i;
    if (m->worker[e.worker].gen == gen)
        *sim_say(m, e.kind, 0, 0, 0) = e;
}

void sim_worker_fault(struct sim *m, const struct bench_sim_fault *f, bool begins)
{
    struct sim_worker *w = &m->worker[f->worker];

    if (f->factor > 0) {
        w->factor = begins ? w->factor * f->factor : w->factor / f->factor;
    } else if (begins && w->alive) {
        sim_worker_leave(m, w);
    } else if (!w->alive) {
        w->gen++; /* where it was about to change its role, it will not come back from that */
        if (!begins)
            sim_worker_join(m, w);
    }
}
/* What the scheduler is told of a law: a factor. */
static double law_told(const struct bench_sim_setup *o)
{
    if (o->clairvoyant)
        return o->bias; /* perfect knowledge knows of the lie */
    if (o->cold)
        return 0;
    return o->told > 0 ? o->told : 1;
}

enum err sim_add_classes(struct sim *m)
{
    for (uint32_t i = 0; i < m->cluster->n_classes; i++) {
        struct sched_class c = m->cluster->klass[i].sched;
        uint32_t id = 0;
        enum err err;

        c.frozen = m->setup->no_learning || m->setup->clairvoyant;
        for (int k = 0; k < 4; k++) {
            double told = law_told(m->setup);

            c.prefill.c[k] *= told;
            c.decode.c[k] *= told;
        }
        err = sched_add_class(m->sched, &c, m->msg, &id);
        if (err != ERR_OK)
            return err;
        m->class_id[i] = id;
    }
    return ERR_OK;
}

enum err sim_add_workers(struct sim *m)
{
    uint32_t n = bench_cluster_count(m->cluster, SCHED_ROLE_PREFILL) +
                 bench_cluster_count(m->cluster, SCHED_ROLE_DECODE);

    m->worker = mem_try_calloc((size_t)n + 1, sizeof(*m->worker));
    if (m->worker == NULL)
        return err_set(m->msg, ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < m->cluster->n_pools; i++) {
        for (uint32_t k = 0; k < m->cluster->pool[i].count; k++) {
            struct sim_worker *w = &m->worker[++m->n_workers];

            w->id = m->n_workers;
            w->klass = m->cluster->pool[i].klass;
            w->role = m->cluster->pool[i].role;
            w->factor = 1;
            w->rng = (struct bench_rng){m->setup->seed * 0x9e3779b97f4a7c15u + w->id};
            sim_worker_join(m, w);
        }
    }
    for (uint32_t i = 0; i < m->setup->n_faults; i++) {
        const struct bench_sim_fault *f = &m->setup->fault[i];

        if (f->worker == 0 || f->worker > m->n_workers)
            return err_set(m->msg, ERR_INVALID, "there is no worker %u: they are 1 to %u",
                           f->worker, m->n_workers);
        sim_at(m, (uint64_t)(f->at_s * 1e9), SIM_EV_FAULT, i, 0);
        if (f->until_s > f->at_s)
            sim_at(m, (uint64_t)(f->until_s * 1e9), SIM_EV_UNFAULT, i, 0);
    }
    return ERR_OK;
}
