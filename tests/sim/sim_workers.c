/* tests/sim/sim_workers.c - fake prefill and decode workers and a fake front end.
 *
 * A worker holds blocks from the command until it says RELEASED; if it is ever handed more than it has,
 * the ledger promised what it did not own.  Tokens go straight to the front end, which takes those of
 * its present epoch alone and insists on every index once. */
#include "tests/sim/sim_impl.h"

static uint32_t blocks_of(uint32_t tokens)
{
    return (tokens + SIM_BLOCK - 1) / SIM_BLOCK;
}

static struct sim_hold *hold_of(struct sim *m, uint32_t worker, uint64_t request, uint32_t epoch)
{
    for (uint32_t i = 0; i < m->n_hold; i++) {
        struct sim_hold *h = &m->hold[i];

        if (h->used && h->worker == worker && h->request == request && h->epoch == epoch)
            return h;
    }
    return NULL;
}

static uint32_t blocks_held(const struct sim *m, uint32_t worker)
{
    uint32_t blocks = 0;

    for (uint32_t i = 0; i < m->n_hold; i++) {
        if (m->hold[i].used && m->hold[i].worker == worker && m->hold[i].granted)
            blocks += m->hold[i].blocks;
    }
    return blocks;
}

static struct sim_hold *hold_make(struct sim *m, uint32_t worker, const struct sched_action *a,
                                  uint32_t tokens)
{
    const struct sim_worker *w = &m->worker[worker];
    uint32_t slot = 0;

    while (slot < m->n_hold && m->hold[slot].used)
        slot++;
    if (slot == m->n_hold)
        m->n_hold += m->n_hold < SIM_HOLDS - 1;
    m->hold[slot] = (struct sim_hold){.worker = worker,
                                      .request = a->request,
                                      .epoch = a->epoch,
                                      .blocks = blocks_of(tokens),
                                      .peer = a->peer,
                                      .since = m->seq++,
                                      .granted = w->role == SCHED_ROLE_PREFILL || a->peer == worker,
                                      .used = true};
    if (w->role == SCHED_ROLE_PREFILL && blocks_held(m, worker) > w->n_blocks)
        sim_violation(m, "worker %u was given %u blocks, it has %u", worker, blocks_held(m, worker),
                      w->n_blocks);
    return &m->hold[slot];
}

/* ---- messages ---- */

void sim_send(struct sim *m, uint32_t worker, const struct sched_event *e)
{
    struct sim_worker *w = &m->worker[worker];
    struct sim_item item = {.kind = SIM_EVENT, .worker = worker, .event = *e};

    item.at = m->now + sim_pick(m, 2000) * 1000;
    if (sim_fault(m, SIM_REORDER)) {
        item.at += sim_pick(m, 100) * SIM_MS;
    } else {
        if (item.at < w->last_out)
            item.at = w->last_out;
        w->last_out = item.at;
    }
    sim_push(m, &item);
    if (sim_fault(m, SIM_DOUBLE)) {
        item.at += sim_pick(m, 300) * SIM_MS;
        sim_push(m, &item);
    }
}

static struct sched_event say(enum sched_event_kind kind, const struct sim_hold *h)
{
    return (struct sched_event){
        .kind = kind, .request = h->request, .epoch = h->epoch, .worker = h->worker};
}

/* A decode worker with room gives it to those on its wait list, first come first served. */
static void grant_waiting(struct sim *m, uint32_t worker)
{
    for (;;) {
        struct sim_hold *first = NULL;
        struct sched_event e;

        for (uint32_t i = 0; i < m->n_hold; i++) {
            struct sim_hold *h = &m->hold[i];

            if (h->used && h->worker == worker && !h->granted && !h->hangs &&
                (first == NULL || h->since < first->since))
                first = h;
        }
        if (first == NULL || blocks_held(m, worker) + first->blocks > m->worker[worker].n_blocks)
            return;
        first->granted = true;
        e = say(SCHED_EV_GRANTED, first);
        e.u.granted.ok = true;
        sim_send(m, worker, &e);
    }
}

static void say_released(struct sim *m, struct sim_hold *h, enum err err)
{
    struct sched_event e = say(SCHED_EV_RELEASED, h);

    e.u.released.err = err;
    h->used = false;
    sim_send(m, e.worker, &e);
    grant_waiting(m, e.worker);
}

static void say_handover(struct sim *m, const struct sim_hold *h, bool from_decode, enum err err)
{
    struct sched_event e = say(SCHED_EV_HANDOVER_DONE, h);

    e.u.handover.err = err;
    e.u.handover.from_decode = from_decode;
    e.u.handover.bytes = h->blocks * 16000u;
    e.u.handover.wire_ns = sim_pick(m, 20) * SIM_MS;
    sim_send(m, h->worker, &e);
}

static void later(struct sim *m, const struct sim_hold *h, int task, uint32_t arg, uint32_t ms)
{
    struct sim_item item = {.kind = SIM_TASK,
                            .what = task,
                            .worker = h->worker,
                            .request = h->request,
                            .epoch = h->epoch,
                            .arg = arg};

    item.at = m->now + (1 + sim_pick(m, ms * 1000)) * 1000ull;
    sim_push(m, &item);
}

/* ---- the front end ---- */

static void tell_delivered(struct sim *m, const struct sim_request *r)
{
    struct sched_event e = {.kind = SCHED_EV_TOKENS, .request = r->id};

    e.u.tokens.delivered = r->delivered;
    sim_soon(m, &e);
}

static void take_token(struct sim *m, uint64_t request, uint32_t epoch, uint32_t index)
{
    struct sim_request *r = sim_request_of(m, request);
    struct sim_item item = {.kind = SIM_EVENT};

    if (r->over || r->epoch != epoch)
        return;
    if (index != r->delivered + 1)
        sim_violation(m, "request %u: token %u comes after %u", (unsigned)r->id, index,
                      r->delivered);
    r->delivered = index;
    if (!sim_fault(m, SIM_LATE_TOKENS))
        tell_delivered(m, r);
    if (index < r->stop_at)
        return;
    r->over = true;
    m->out->finished++;
    item.event = (struct sched_event){.kind = SCHED_EV_FINISH, .request = r->id};
    if (sim_pick(m, 2)) {
        item.event.u.finish.first_token_ns = r->arrived + sim_pick(m, 3000) * SIM_MS;
        item.event.u.finish.last_token_ns = m->now;
        item.event.u.finish.tokens = r->delivered;
        item.event.u.finish.late_ns = (int64_t)sim_pick(m, 200) - 150;
    }
    item.event.epoch = sim_pick(m, 2) ? epoch : 0;
    if (sim_fault(m, SIM_LATE_FINISH)) {
        item.at = m->now + sim_pick(m, 1000) * SIM_MS;
        sim_push(m, &item);
    } else {
        sim_soon(m, &item.event);
    }
}

void sim_client_leaves(struct sim *m, struct sim_request *r)
{
    struct sched_event e = {.kind = SCHED_EV_CANCEL, .request = r->id};

    if (r->over)
        return;
    r->over = true;
    m->out->canceled++;
    sim_soon(m, &e);
}

/* ---- commands ---- */

static void on_reserve(struct sim *m, uint32_t worker, const struct sched_action *a)
{
    const struct sim_request *r = sim_request_of(m, a->request);
    struct sim_hold *h = hold_make(m, worker, a, r->n_prompt + r->max_new);
    struct sched_event e = say(SCHED_EV_GRANTED, h);

    h->hangs = sim_fault(m, SIM_GRANT_HANG);
    if (sim_fault(m, SIM_REFUSE)) {
        sim_send(m, worker, &e);
        say_released(m, h, ERR_NOMEM);
        return;
    }
    grant_waiting(m, worker);
}

/* base is what the front end had delivered when the scheduler said PREFILL. */
static void on_prefill(struct sim *m, uint32_t worker, const struct sched_action *a, uint32_t base)
{
    const struct sim_request *r = sim_request_of(m, a->request);
    struct sim_hold *h = hold_make(m, worker, a, r->n_prompt + base);

    h->base = base;
    if (!sim_fault(m, SIM_PREFILL_HANG))
        later(m, h, SIM_STEP, 0, 10);
}

void sim_command(struct sim *m, const struct sim_item *item)
{
    const struct sched_action *a = &item->command;
    struct sim_hold *h;

    if (!m->worker[a->worker].alive)
        return;
    switch (a->kind) {
    case SCHED_ACT_RESERVE:
        on_reserve(m, a->worker, a);
        break;
    case SCHED_ACT_PREFILL:
        on_prefill(m, a->worker, a, item->arg);
        break;
    case SCHED_ACT_CANCEL:
        h = hold_of(m, a->worker, a->request, a->epoch);
        if (h != NULL && !sim_fault(m, SIM_LOSE_CANCEL))
            say_released(m, h, ERR_CANCELED);
        break;
    case SCHED_ACT_FLIP:
        sim_flip(m, a->worker);
        break;
    case SCHED_ACT_INTRODUCE:
    case SCHED_ACT_RESUME:
    case SCHED_ACT_REJECT:
    case SCHED_ACT_FAIL:
    case SCHED_ACT_TIER:
    case SCHED_ACT_SCALE:
        break;
    }
}

/* ---- work ---- */

/* What a step took, as its worker tells it: mostly near the law, sometimes nonsense. */
static void tell_step(struct sim *m, uint32_t worker, double n, double b, double ctx)
{
    struct sched_event e = {.kind = SCHED_EV_STEP, .worker = worker};
    struct sched_event report = {.kind = SCHED_EV_WORKER_REPORT, .worker = worker};

    e.u.step.did = (struct sched_step){.n = n, .n2 = n * n, .b = b, .ctx = ctx};
    e.u.step.ns = (uint64_t)(1e6 + 1e5 * n + 2e5 * b) * (50 + sim_pick(m, 100)) / 100;
    if (sim_pick(m, 50) == 0)
        e.u.step.ns = sim_random(m) >> sim_pick(m, 64);
    sim_soon(m, &e);
    if (b <= 0 || sim_pick(m, 4) != 0)
        return;
    m->worker[worker].steps += sim_pick(m, 20);
    report.u.report.steps = m->worker[worker].steps;
    report.u.report.context = (uint64_t)ctx;
    sim_soon(m, &report);
}

static void on_step(struct sim *m, struct sim_hold *h, uint32_t done)
{
    const struct sim_request *r = sim_request_of(m, h->request);
    struct sched_event e = say(SCHED_EV_PREFILL_PROGRESS, h);
    uint32_t total = r->n_prompt + h->base;

    if (sim_fault(m, SIM_PREFILL_FAIL)) {
        say_released(m, h, ERR_DEVICE);
        return;
    }
    done += sim_between(m, 16, 64);
    e.u.progress.tokens_done = done < total ? done : total;
    sim_send(m, h->worker, &e);
    tell_step(m, h->worker, 32, 0, 0);
    if (done < total)
        later(m, h, SIM_STEP, done, 10);
    else
        later(m, h, SIM_FIRST, 0, 2);
}

static void on_first(struct sim *m, struct sim_hold *h)
{
    const struct sim_request *r = sim_request_of(m, h->request);
    struct sched_event e = say(SCHED_EV_PREFILL_DONE, h);

    e.u.prefilled.finished = h->base + 1 >= r->stop_at || h->peer == 0 || h->base + 1 >= r->max_new;
    sim_send(m, h->worker, &e);
    take_token(m, h->request, h->epoch, h->base + 1);
    if (e.u.prefilled.finished) {
        say_released(m, h, ERR_OK);
    } else if (h->peer == h->worker) { /* it goes on by itself */
        h->next = h->base + 2;
        if (!sim_fault(m, SIM_DECODE_HANG))
            later(m, h, SIM_DECODE, 0, 5);
    } else if (!sim_fault(m, SIM_HANDOVER_HANG)) {
        h->patience = m->now + 20 * SIM_MS;
        later(m, h, SIM_HANDOVER, 0, 10);
    }
}

static void on_handover(struct sim *m, struct sim_hold *h)
{
    struct sim_hold *d = hold_of(m, h->peer, h->request, h->epoch);
    enum err late;

    if (d != NULL && !d->granted && m->worker[h->peer].alive) { /* waits for its blocks */
        later(m, h, SIM_HANDOVER, 0, 10);
        return;
    }
    if (d == NULL && m->worker[h->peer].alive && m->now < h->patience) {
        later(m, h, SIM_HANDOVER, 0, 5); /* RESERVE is on its way to the other */
        return;
    }
    if (d == NULL || !m->worker[h->peer].alive || sim_fault(m, SIM_SEND_FAIL)) {
        say_handover(m, h, false, ERR_PEER_LOST);
        say_released(m, h, ERR_PEER_LOST);
        return;
    }
    late = sim_fault(m, SIM_LATE_ERROR) ? ERR_PEER_LOST : ERR_OK;
    say_handover(m, h, false, late);
    if (sim_fault(m, SIM_VERIFY_FAIL)) {
        say_handover(m, d, true, ERR_CORRUPT);
        say_released(m, d, ERR_CORRUPT);
    } else {
        say_handover(m, d, true, ERR_OK);
        d->next = h->base + 2;
        if (!sim_fault(m, SIM_DECODE_HANG))
            later(m, d, SIM_DECODE, 0, 5);
    }
    say_released(m, h, late);
}

static void on_decode(struct sim *m, struct sim_hold *h)
{
    const struct sim_request *r = sim_request_of(m, h->request);

    if (sim_fault(m, SIM_DECODE_FAIL)) {
        say_released(m, h, ERR_DEVICE);
        return;
    }
    tell_step(m, h->worker, 0, 1 + sim_pick(m, 4), h->blocks * SIM_BLOCK);
    for (uint32_t n = sim_between(m, 1, 12); n > 0 && h->next <= r->stop_at; n--)
        take_token(m, h->request, h->epoch, h->next++);
    if (h->next > r->stop_at)
        say_released(m, h, ERR_OK);
    else
        later(m, h, SIM_DECODE, 0, sim_fault(m, SIM_PARK) ? 400 : 20);
}

void sim_task(struct sim *m, const struct sim_item *item)
{
    struct sim_hold *h = hold_of(m, item->worker, item->request, item->epoch);

    if (h == NULL || !m->worker[item->worker].alive)
        return; /* canceled meanwhile */
    switch ((enum sim_task)item->what) {
    case SIM_STEP:
        on_step(m, h, item->arg);
        break;
    case SIM_FIRST:
        on_first(m, h);
        break;
    case SIM_HANDOVER:
        on_handover(m, h);
        break;
    case SIM_DECODE:
        on_decode(m, h);
        break;
    }
}

/* ---- coming and going ---- */

void sim_join(struct sim *m, enum sched_role role)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN};
    struct sim_worker *w;

    if (m->n_worker == SIM_WORKERS)
        return;
    e.worker = ++m->n_worker;
    w = &m->worker[e.worker];
    /* three shapes of blocks, so that some requests fit on some workers alone */
    *w = (struct sim_worker){.role = role,
                             .n_blocks = 12 + 8 * sim_pick(m, 3),
                             .max_batch = 2 + 2 * sim_pick(m, 2),
                             .can_prefill = role == SCHED_ROLE_DECODE && sim_pick(m, 2) == 0,
                             .alive = true};
    e.u.join.role = role;
    e.u.join.n_blocks = w->n_blocks;
    e.u.join.block_tokens = SIM_BLOCK;
    e.u.join.max_batch = w->max_batch;
    e.u.join.max_context = 300;
    e.u.join.can_prefill = w->can_prefill;
    e.u.join.max_step_tokens = 64;
    e.u.join.can_flip = sim_pick(m, 2);
    e.u.join.klass = sim_pick(m, 3) == 0 ? 0 : m->klass;
    sim_soon(m, &e);
}

/* It holds nothing and takes the other role: it leaves and joins anew. */
void sim_flip(struct sim *m, uint32_t worker)
{
    struct sim_worker *w = &m->worker[worker];

    if (!w->alive || sim_fault(m, SIM_LOSE_CANCEL))
        return;
    for (uint32_t i = 0; i < m->n_hold; i++) {
        if (m->hold[i].used && m->hold[i].worker == worker)
            sim_violation(m, "worker %u is to change its role and holds a request", worker);
    }
    w->alive = false;
    sim_soon(m, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = worker});
    sim_join(m, w->role == SCHED_ROLE_PREFILL ? SCHED_ROLE_DECODE : SCHED_ROLE_PREFILL);
}

/* Dead at once; what it had on the way comes, or does not; the scheduler is told a little later. */
void sim_die(struct sim *m, uint32_t worker)
{
    struct sim_worker *w = &m->worker[worker];
    struct sim_item leave = {.kind = SIM_WORLD, .what = SIM_LEAVE, .worker = worker};
    struct sim_item again = {.kind = SIM_WORLD, .what = SIM_REJOIN, .worker = worker};

    w->alive = false;
    m->out->lost_workers++;
    for (uint32_t i = 0; i < m->n_hold; i++)
        m->hold[i].used &= m->hold[i].worker != worker;
    if (!sim_fault(m, SIM_AFTER_LEAVE)) {
        for (size_t i = 0; i < m->n_heap; i++) {
            if (m->heap[i].kind == SIM_EVENT && m->heap[i].worker == worker)
                m->heap[i].event.kind = SCHED_EV_TIMER; /* never sent; a timer is harmless */
        }
    }
    leave.at = m->now + sim_pick(m, 50) * SIM_MS;
    again.at = leave.at + sim_pick(m, 400) * SIM_MS;
    sim_push(m, &leave);
    sim_push(m, &again);
}
