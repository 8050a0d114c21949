/* bench/sim_prefill.c - a prefill worker: smallest order first, one step of up to max_step_tokens from several
 * prompts; what is in a running step is not interrupted. */
#include "bench/sim_impl.h"

static bool take(struct sim *m, struct sim_worker *w, struct sim_req *r, uint32_t n)
{
    double past = r->p_past + r->p_done;
    void *p = w->part;

    if (!sim_grow(m, &p, w->n_part + 1, &w->cap_part, sizeof(*w->part)))
        return false;
    w->part = p;
    w->part[w->n_part++] = (struct sim_part){sim_slot(m, r), r->p_gen, n};
    w->did.n += n;
    w->did.n2 += (double)n * (n + 2 * past);
    if (r->p_start_ns == 0)
        r->p_start_ns = m->now;
    return true;
}

static void start(struct sim *m, struct sim_worker *w)
{
    uint32_t left = sim_class(m, w)->max_step_tokens;

    if (w->busy || !w->alive)
        return;
    w->n_part = 0;
    w->did = (struct sched_step){0};
    while (left > 0 && w->ready.n > 0) {
        struct sim_key top = w->ready.v[0];
        struct sim_req *r = &m->req[top.slot];
        uint32_t rest, n;

        if (r->p_gen != top.gen) {
            sim_heap_pop(&w->ready);
            continue;
        }
        rest = r->p_total - r->p_done;
        n = rest < left ? rest : left;
        if (!take(m, w, r, n))
            return;
        left -= n;
        if (n == rest)
            sim_heap_pop(&w->ready);
    }
    if (w->n_part == 0)
        return;
    w->busy = true;
    w->step_ns = sim_step_time(m, w, &w->did);
    w->busy_ns += w->step_ns;
    sim_at(m, m->now + (uint64_t)w->step_ns, SIM_EV_PREFILL, w->id, w->gen);
}

void sim_prefill_command(struct sim *m, struct sim_worker *w, struct sim_req *r,
                         const struct sched_action *a)
{
    uint32_t tokens = r->n_prompt + r->n0;
    bool local = a->peer == a->worker;

    if (r->p_state != SIM_P_NONE) {
        uint32_t old = r->p_worker, epoch = r->p_epoch;

        sim_prefill_drop(m, r);
        sim_say_released(m, r, old, epoch, ERR_CANCELED);
    }
    r->admitted = true;
    r->epoch = a->epoch;
    r->p_worker = w->id;
    r->p_epoch = a->epoch;
    r->p_order = a->order;
    r->p_gen++;
    r->p_past = r->n_hit;
    r->p_total = tokens - r->n_hit;
    r->p_done = 0;
    r->p_given_ns = m->now;
    r->p_start_ns = r->p_end_ns = 0;
    r->transfer_class = a->terms.transfer_class;
    if (a->terms.deadline_ns != 0) {
        r->deadline_ns = a->terms.deadline_ns;
        r->tbt_ns = a->terms.tbt_ns;
    }
    if (local) {
        sim_decode_reserve(m, w, r, a, true);
        return;
    }
    r->p_blocks = sim_blocks(w, tokens);
    if (r->p_blocks > w->free_blocks)
        sim_fail(m, ERR_BAD_STATE,
                 "prefill worker %u was given request %llu of %u blocks and has %u free", w->id,
                 (unsigned long long)r->id, r->p_blocks, w->free_blocks);
    w->free_blocks -= r->p_blocks;
    w->n_prompts++;
    w->prompt_tokens += tokens;
    sim_prefill_fetch(m, w, r);
}

void sim_prefill_fetch(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    double bytes = r->p_past * sim_class(m, w)->sched.kv_bytes_per_token;

    if (r->d_state != SIM_D_LOCAL)
        r->p_state = SIM_P_FETCH;
    if (bytes > 0 && m->cluster->prefix_bytes_per_s > 0)
        sim_at(m, m->now + (uint64_t)(bytes / m->cluster->prefix_bytes_per_s * 1e9), SIM_EV_FETCHED,
               sim_slot(m, r), r->p_gen);
    else
        sim_prefill_fetched(m, r);
}

void sim_prefill_fetched(struct sim *m, struct sim_req *r)
{
    bool local = r->d_state == SIM_D_LOCAL;
    struct sim_worker *w = &m->worker[local ? r->d_worker : r->p_worker];

    if (!sim_heap_push(&w->ready, local ? r->d_deadline_ns : r->p_order, sim_slot(m, r), r->p_gen))
        sim_fail(m, ERR_NOMEM, "out of memory");
    if (local && w->n_prompts == 1)
        w->prompt_ns = m->now;
    if (local) {
        sim_decode_start(m, w);
        return;
    }
    r->p_state = SIM_P_READY;
    start(m, w);
}

void sim_prefill_drop(struct sim *m, struct sim_req *r)
{
    struct sim_worker *w = &m->worker[r->p_worker];

    if (r->p_state == SIM_P_NONE)
        return;
    if (r->p_state == SIM_P_LINK || r->p_state == SIM_P_SEND)
        sim_link_drop(m, r);
    w->free_blocks += r->p_blocks;
    w->n_prompts--;
    w->prompt_tokens -= r->p_past + r->p_total;
    r->p_blocks = 0;
    r->p_gen++;
    r->p_state = SIM_P_NONE;
}

void sim_prefill_first_token(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    bool local = r->d_state == SIM_D_LOCAL;
    uint32_t epoch = local ? r->d_epoch : r->p_epoch;
    struct sched_event *e = sim_say(m, SCHED_EV_PREFILL_DONE, r->id, w->id, epoch);
    uint64_t due = r->deadline_ns + (uint64_t)r->n0 * r->tbt_ns;
    int64_t late = (int64_t)m->now - (int64_t)due;

    r->p_end_ns = m->now;
    if (r->n0 == 0)
        r->first_ns = m->now;
    else if (m->now - r->last_ns > r->gap_ns)
        r->gap_ns = m->now - r->last_ns;
    r->last_ns = m->now;
    r->n0++;
    r->late_ns = late > r->late_ns ? late : r->late_ns;
    r->late_told = r->late_told || late > 0;
    e->u.prefilled.finished = r->n0 >= r->n_out;
    e->u.prefilled.queue_ns = r->p_start_ns - r->p_given_ns;
    e->u.prefilled.prefill_ns = m->now - r->p_start_ns;
    if (r->n0 < r->n_out)
        return;
    sim_finish(m, r);
    if (local) {
        sim_decode_drop(m, r);
    } else {
        sim_prefill_drop(m, r);
    }
    sim_say_released(m, r, w->id, epoch, ERR_OK);
    sim_settle(m, r);
}

static void part_done(struct sim *m, struct sim_worker *w, struct sim_part part)
{
    struct sim_req *r = &m->req[part.slot];

    if (r->p_gen != part.gen)
        return; /* canceled meanwhile */
    r->p_done += part.take;
    if (r->p_done < r->p_total) {
        sim_say_progress(m, w, r, r->p_epoch, part.take);
        return;
    }
    sim_prefill_first_token(m, w, r);
    if (r->p_state == SIM_P_NONE)
        return;
    r->p_state = SIM_P_GRANT;
    if (r->d_state == SIM_D_ARRIVING && r->d_epoch == r->p_epoch)
        sim_link_ready(m, r);
}

void sim_prefill_end(struct sim *m, struct sim_worker *w)
{
    w->busy = false;
    m->worked_ns = m->now;
    w->steps++;
    sim_say_step(m, w);
    for (uint32_t i = 0; i < w->n_part; i++)
        part_done(m, w, w->part[i]);
    start(m, w);
}
