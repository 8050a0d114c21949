/* bench/sim_link.c - KV on its way from a prefill to a decode worker.
 *
 * Layers go while later ones compute, as soon as the decode worker has set blocks aside; what is left when the
 * prompt is done needs both network cards for itself:
 *     left = max(0, t - overlap (1 - 1/L)) + t/L + setup,     t: all bytes at the rate of the link
 * Cards take one at a time, lowest transfer class first, then first come.  Real ones send pieces, and after each the most
 * urgent next one: so one of a looser class stops where a tighter one needs its card, and goes on with its rest
 * later. */
#include "bench/sim_impl.h"

static bool precedes(const struct sim_req *a, const struct sim_req *b)
{
    if (a->transfer_class != b->transfer_class)
        return a->transfer_class < b->transfer_class;
    return a->link_seq < b->link_seq;
}

/* Two intrusive lists with the same code: which = 0 at the sender, 1 at the receiver. */
static uint32_t *next_of(struct sim_req *r, int which)
{
    return which == 0 ? &r->tx_next : &r->rx_next;
}
static uint32_t *prev_of(struct sim_req *r, int which)
{
    return which == 0 ? &r->tx_prev : &r->rx_prev;
}

static void list_add(struct sim *m, struct sim_list *l, struct sim_req *r, int which)
{
    uint32_t after = l->last, slot = sim_slot(m, r);

    while (after != SIM_NONE && precedes(r, &m->req[after]))
        after = *prev_of(&m->req[after], which);
    *prev_of(r, which) = after;
    *next_of(r, which) = after == SIM_NONE ? l->first : *next_of(&m->req[after], which);
    if (*next_of(r, which) == SIM_NONE)
        l->last = slot;
    else
        *prev_of(&m->req[*next_of(r, which)], which) = slot;
    if (after == SIM_NONE)
        l->first = slot;
    else
        *next_of(&m->req[after], which) = slot;
}

static void list_remove(struct sim *m, struct sim_list *l, struct sim_req *r, int which)
{
    uint32_t prev = *prev_of(r, which), next = *next_of(r, which);

    if (prev == SIM_NONE)
        l->first = next;
    else
        *next_of(&m->req[prev], which) = next;
    if (next == SIM_NONE)
        l->last = prev;
    else
        *prev_of(&m->req[next], which) = prev;
}

static uint32_t *sending(struct sim *m, struct sim_req *r, int which)
{
    return which == 0 ? &m->worker[r->p_worker].tx_slot : &m->worker[r->d_worker].rx_slot;
}

static void lists_add(struct sim *m, struct sim_req *r)
{
    list_add(m, &m->worker[r->p_worker].tx, r, 0);
    list_add(m, &m->worker[r->d_worker].rx, r, 1);
    r->p_state = SIM_P_LINK;
}

static void lists_remove(struct sim *m, struct sim_req *r)
{
    list_remove(m, &m->worker[r->p_worker].tx, r, 0);
    list_remove(m, &m->worker[r->d_worker].rx, r, 1);
}

static void start(struct sim *m, struct sim_req *r)
{
    lists_remove(m, r);
    *sending(m, r, 0) = *sending(m, r, 1) = sim_slot(m, r);
    r->p_state = SIM_P_SEND;
    r->sent_ns = m->now + (uint64_t)r->exposed_ns;
    sim_at(m, r->sent_ns, SIM_EV_SENT, sim_slot(m, r), r->p_gen);
}

/* Off the cards, with what is left of it. */
static void stop(struct sim *m, struct sim_req *r)
{
    *sending(m, r, 0) = *sending(m, r, 1) = SIM_NONE;
    r->exposed_ns = (double)(r->sent_ns - m->now);
    r->p_gen++; /* the event of its end is of another time */
}

/* Is the card free for r, or does it send one of a looser class? */
static bool free_for(struct sim *m, struct sim_req *r, int which)
{
    uint32_t slot = *sending(m, r, which);

    return slot == SIM_NONE || r->transfer_class < m->req[slot].transfer_class;
}

static void next(struct sim *m, struct sim_worker *w, int which);

/* Each card that this takes from a looser class may leave another one free, for looser ones yet or as many: what is
 * taken in turn is looser each time, so this ends. */
static void send(struct sim *m, struct sim_req *r)
{
    uint32_t other[2] = {*sending(m, r, 0), *sending(m, r, 1)};

    for (int which = 0; which < 2; which++)
        if (other[which] != SIM_NONE && m->req[other[which]].p_state == SIM_P_SEND) {
            stop(m, &m->req[other[which]]);
            lists_add(m, &m->req[other[which]]);
        }
    start(m, r);
    for (int which = 0; which < 2; which++)
        if (other[which] != SIM_NONE) {
            next(m, &m->worker[m->req[other[which]].p_worker], 0);
            next(m, &m->worker[m->req[other[which]].d_worker], 1);
        }
}

/* The first of a card's list that gets both its cards. */
static void next(struct sim *m, struct sim_worker *w, int which)
{
    struct sim_list *l = which == 0 ? &w->tx : &w->rx;

    for (uint32_t i = l->first; i != SIM_NONE; i = *next_of(&m->req[i], which)) {
        struct sim_req *r = &m->req[i];

        if (!free_for(m, r, which))
            return;
        if (free_for(m, r, 1 - which)) {
            send(m, r);
            return;
        }
    }
}

void sim_link_ready(struct sim *m, struct sim_req *r)
{
    struct sim_worker *p = &m->worker[r->p_worker], *d = &m->worker[r->d_worker];
    const struct bench_sim_class *a = sim_class(m, p), *b = sim_class(m, d);
    double rate = a->sched.link_bytes_per_s < b->sched.link_bytes_per_s ? a->sched.link_bytes_per_s
                                                                        : b->sched.link_bytes_per_s;
    double t = r->c0 * a->sched.kv_bytes_per_token / (rate > 0 ? rate : 1e9) * 1e9;
    uint64_t from = r->d_granted_ns > r->p_start_ns ? r->d_granted_ns : r->p_start_ns;
    double overlap = r->p_end_ns > from ? (double)(r->p_end_ns - from) : 0;
    double part = 1.0 / a->layers, left = t - overlap * (1 - part);

    left = (left > 0 ? left : 0) + t * part;
    left = left < t ? left : t;
    r->wire_ns = t;
    r->exposed_ns = left + (double)a->sched.link_setup_ns;
    r->link_seq = m->link_seq++;
    lists_add(m, r);
    if (free_for(m, r, 0) && free_for(m, r, 1))
        send(m, r);
}

void sim_link_sent(struct sim *m, struct sim_req *r)
{
    struct sim_worker *p = &m->worker[r->p_worker], *d = &m->worker[r->d_worker];
    uint64_t asked = r->p_end_ns > r->d_granted_ns ? r->p_end_ns : r->d_granted_ns;
    struct sched_event *e = sim_say(m, SCHED_EV_HANDOVER_DONE, r->id, r->d_worker, r->d_epoch);
    uint32_t epoch = r->p_epoch;

    e->u.handover.from_decode = true;
    e->u.handover.bytes = (uint64_t)(r->c0 * sim_class(m, p)->sched.kv_bytes_per_token);
    e->u.handover.wire_ns = (uint64_t)r->wire_ns;
    e->u.handover.exposed_ns = m->now - asked;
    stop(m, r);
    r->p_state = SIM_P_GRANT;
    next(m, p, 0);
    next(m, d, 1);
    sim_prefill_drop(m, r);
    sim_say_released(m, r, p->id, epoch, ERR_OK);
    sim_decode_arrived(m, r);
}

/* The sender or the receiver gave it up. */
void sim_link_drop(struct sim *m, struct sim_req *r)
{
    if (r->p_state == SIM_P_LINK) {
        lists_remove(m, r);
        r->p_state = SIM_P_GRANT;
        return;
    }
    stop(m, r);
    r->p_state = SIM_P_GRANT;
    next(m, &m->worker[r->p_worker], 0);
    next(m, &m->worker[r->d_worker], 1);
}
