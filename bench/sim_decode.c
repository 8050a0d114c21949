/* bench/sim_decode.c - a decode worker: who gets blocks, what the next step does, and its end.
 *
 * Most steps are plain (everybody steps, growth fits, nobody asks for room) and cost O(1); the others are planned
 * by sched_batch_plan() over all that the worker holds. */
#include <string.h>

#include "base/mem.h"
#include "bench/sim_impl.h"

/* ---- what it holds ---- */

static bool member_add(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    void *p = w->member;

    if (!sim_grow(m, &p, w->n_member + 1, &w->cap_member, sizeof(*w->member)))
        return false;
    w->member = p;
    r->d_index = w->n_member;
    w->member[w->n_member++] = sim_slot(m, r);
    return true;
}

static void member_remove(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    uint32_t last = w->member[--w->n_member];

    w->member[r->d_index] = last;
    m->req[last].d_index = r->d_index;
}

/* Tokens of KV it has or will have on arrival. */
static uint32_t context_of(const struct sim_worker *w, const struct sim_req *r)
{
    return r->c0 + (r->d_state == SIM_D_RESIDENT ? sim_batch_done(w, r) : 0);
}

/* Blocks in the pool now; the running step has taken its growth already. */
static uint32_t blocks_of(const struct sim_worker *w, const struct sim_req *r)
{
    uint32_t ctx = context_of(w, r);

    if (r->d_state != SIM_D_RESIDENT)
        return r->d_blocks;
    return sim_blocks(w, (uint64_t)ctx + (w->busy && r->join <= w->steps ? 1 : 0));
}

static void resident_add(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    r->d_state = SIM_D_RESIDENT;
    w->free_blocks +=
        r->d_blocks - sim_blocks(w, r->c0); /* what was set aside for its next token */
    w->n_res++;
    w->ctx += r->c0;
    (void)sim_batch_open(m, w, r);
}

static void resident_remove(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    uint32_t blocks = blocks_of(w, r);

    if (w->busy && r->join <= w->steps)
        w->n_step--;
    w->ctx -= context_of(w, r);
    w->n_res--;
    sim_batch_close(m, w, r);
    r->d_blocks = blocks;
}

void sim_decode_drop(struct sim *m, struct sim_req *r)
{
    struct sim_worker *w = &m->worker[r->d_worker];

    if (r->p_state == SIM_P_LINK || r->p_state == SIM_P_SEND)
        sim_link_drop(m, r);
    switch (r->d_state) {
    case SIM_D_NONE:
        return;
    case SIM_D_WAITING:
        w->n_wait--;
        break;
    case SIM_D_PARKED:
        w->n_parked--;
        break;
    case SIM_D_ARRIVING:
        w->n_arriving--;
        break;
    case SIM_D_LOCAL:
        w->n_arriving--;
        w->n_prompts--;
        r->p_gen++;
        break;
    case SIM_D_RESIDENT:
        resident_remove(m, w, r);
        break;
    }
    if (r->d_state != SIM_D_WAITING && r->d_state != SIM_D_PARKED)
        w->free_blocks += r->d_blocks;
    r->d_blocks = 0;
    r->d_gen++;
    member_remove(m, w, r);
    r->d_state = SIM_D_NONE;
    w->changed = true;
}

/* ---- blocks ---- */

/* Blocks to keep free so that all that hold KV can grow for a while: what the planner keeps. */
static uint32_t growth_room(const struct sim_worker *w)
{
    double holders = w->n_res + w->n_arriving + 1.0;
    double steps = w->step_ns > 0 ? 500e6 / w->step_ns : 1, each;

    each = (steps < 64 ? steps : 64) / w->block_tokens;
    each = each < 1 ? 1 : each;
    each *= holders;
    return (uint32_t)(each < 0.1 * w->n_blocks ? each : 0.1 * w->n_blocks);
}

static void grant(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    r->d_blocks = sim_blocks(w, r->c0);
    w->free_blocks -= r->d_blocks;
    w->n_wait--;
    w->n_arriving++;
    r->d_granted_ns = m->now;
    if (r->d_local) {
        r->d_state = SIM_D_LOCAL;
        w->n_prompts++;
        sim_prefill_fetch(m, w, r);
        return;
    }
    r->d_state = SIM_D_ARRIVING;
    sim_say(m, SCHED_EV_GRANTED, r->id, w->id, r->d_epoch)->u.granted.ok = true;
    if (r->p_state == SIM_P_GRANT)
        sim_link_ready(m, r);
}

void sim_decode_reserve(struct sim *m, struct sim_worker *w, struct sim_req *r,
                        const struct sched_action *a, bool local)
{
    bool first = w->n_wait + w->n_parked == 0;

    if (r->d_state != SIM_D_NONE) {
        uint32_t old = r->d_worker, epoch = r->d_epoch;

        sim_decode_drop(m, r);
        sim_say_released(m, r, old, epoch, ERR_CANCELED);
    }
    r->d_worker = w->id;
    r->d_epoch = a->epoch;
    r->d_local = local;
    r->d_skipped = false;
    r->d_tier = a->terms.tier;
    r->d_deadline_ns = a->terms.deadline_ns != 0 ? a->terms.deadline_ns : r->deadline_ns;
    r->d_tbt_ns = a->terms.tbt_ns != 0 ? a->terms.tbt_ns : r->tbt_ns;
    r->c0 = r->n_prompt + r->n0;
    r->d_state = SIM_D_WAITING;
    r->d_asked_ns = m->now;
    r->d_blocks = 0;
    if (!member_add(m, w, r))
        return;
    w->n_wait++;
    if (sim_blocks(w, r->c0) > w->n_blocks) {
        sim_decode_drop(m, r);
        sim_say(m, SCHED_EV_GRANTED, r->id, w->id, a->epoch)->u.granted.ok = false;
        sim_say_released(m, r, w->id, a->epoch, ERR_NOMEM);
        return;
    }
    if (first && w->free_blocks >= sim_blocks(w, r->c0) + growth_room(w))
        grant(m, w, r);
    else
        w->changed = true;
    sim_decode_start(m, w);
}

/* ---- arrivals in the batch ---- */

void sim_decode_arrived(struct sim *m, struct sim_req *r)
{
    struct sim_worker *w = &m->worker[r->d_worker];

    w->n_arriving--;
    r->c0 = r->n_prompt + r->n0 - 1; /* the token sampled last is not fed yet */
    resident_add(m, w, r);
    sim_decode_start(m, w);
}

void sim_decode_resumed(struct sim *m, struct sim_req *r)
{
    struct sim_worker *w = &m->worker[r->d_worker];

    if (r->d_state != SIM_D_ARRIVING)
        return;
    w->n_arriving--;
    resident_add(m, w, r);
    sim_decode_start(m, w);
}

/* ---- the plan ---- */

static void item_of(struct sim *m, const struct sim_worker *w, const struct sim_req *r,
                    double step_ns, struct sched_batch_item *i)
{
    uint32_t done = r->d_state == SIM_D_RESIDENT ? sim_batch_done(w, r) : 0;
    uint64_t k = r->n0 + done, first = r->first_ns;

    if (first == 0) { /* room is asked for when the first token is about two steps away */
        first = r->d_asked_ns + (uint64_t)(2 * step_ns);
        first = first > m->now ? first : m->now;
        k++;
    }
    i->tier = r->d_tier;
    i->context = context_of(w, r);
    i->blocks = blocks_of(w, r);
    i->need = 0;
    i->tbt_ns = r->d_tbt_ns;
    i->id = r->id;
    i->slack_ns = sched_batch_slack(r->d_deadline_ns, first, k, r->d_tbt_ns, step_ns,
                                    sim_batch_rest(w), m->now);
    i->pace_ns =
        r->d_state == SIM_D_RESIDENT ? sched_pace_of(&w->pace, first, k, r->d_tbt_ns, m->now) : 0;
    switch (r->d_state) {
    case SIM_D_RESIDENT:
        i->state = SCHED_BATCH_RESIDENT;
        i->need = i->context % w->block_tokens == 0;
        break;
    case SIM_D_PARKED:
        i->state = SCHED_BATCH_PARKED;
        i->need = sim_blocks(w, (uint64_t)i->context + 1);
        break;
    case SIM_D_WAITING:
        i->state = SCHED_BATCH_WAITING;
        i->need = sim_blocks(w, i->context);
        break;
    case SIM_D_ARRIVING:
    case SIM_D_LOCAL:
    case SIM_D_NONE:
        i->state = SCHED_BATCH_ARRIVING;
        break;
    }
}

static bool plan_room(struct sim *m, const struct sim_worker *w)
{
    uint32_t cap = m->cap_item;
    void *p = m->item, *q = m->scratch;

    if (w->n_member <= cap)
        return true;
    if (!sim_grow(m, &p, w->n_member, &m->cap_item, sizeof(*m->item)))
        return false;
    m->item = p;
    if (!sim_grow(m, &q, m->cap_item, &cap, sizeof(*m->scratch)))
        return false;
    m->scratch = q;
    return true;
}

/* Of the present worker, as it would know it: its class's law at its own speed. */
static struct sched_law own_law(struct sim *m, const struct sim_worker *w)
{
    struct sched_law law = sim_class(m, w)->sched.decode;

    for (int i = 0; i < 4; i++)
        law.c[i] *= w->factor * m->setup->bias;
    return law;
}

static struct sched_batch_pool pool_of(struct sim *m, const struct sim_worker *w,
                                       const struct sched_law *law)
{
    const struct sched_class *c = &sim_class(m, w)->sched;
    double bytes = c->kv_bytes_per_token * w->block_tokens;

    return (struct sched_batch_pool){
        .free_blocks = w->free_blocks,
        .max_batch = sim_class(m, w)->max_batch,
        .park_ns_per_block = bytes / (c->park_bytes_per_s > 0 ? c->park_bytes_per_s : 10e9) * 1e9,
        .park_room_blocks = UINT64_C(1) << 40,
        .decode = law};
}

static void skip(struct sim *m, struct sim_worker *w, struct sim_req *r)
{
    m->result->skipped++;
    w->n_skipped += !r->d_skipped;
    r->d_skipped = true;
    sim_batch_close(m, w, r);
    (void)sim_batch_open(m, w, r);
    w->n_step--;
}

/* One item of the plan.  w->busy is set: segments that open now begin after the coming step. */
static void follow(struct sim *m, struct sim_worker *w, const struct sched_batch_item *i,
                   double ns_per_block, double *move_ns)
{
    struct sim_req *r = sim_find(m, i->id);

    if (r == NULL)
        return;
    switch (i->what) {
    case SCHED_DO_STEP:
        w->free_blocks -= i->need;
        break;
    case SCHED_DO_NOTHING:
        if (i->state == SCHED_BATCH_RESIDENT)
            skip(m, w, r);
        break;
    case SCHED_DO_PARK:
        w->n_step--;
        w->n_res--;
        w->ctx -= i->context;
        sim_batch_close(m, w, r);
        w->free_blocks += i->blocks;
        r->d_blocks = 0;
        r->d_state = SIM_D_PARKED;
        w->n_parked++;
        m->result->parked++;
        *move_ns += ns_per_block * i->blocks;
        break;
    case SCHED_DO_RESUME:
        w->n_parked--;
        w->n_arriving++;
        w->free_blocks -= i->need;
        r->d_blocks = i->need;
        r->d_state = SIM_D_ARRIVING;
        sim_at(m, m->now + (uint64_t)(ns_per_block * i->need), SIM_EV_RESUMED, sim_slot(m, r),
               r->d_gen);
        break;
    case SCHED_DO_GRANT:
        grant(m, w, r);
        break;
    }
}

/* A resident that does not step has the blocks of its context alone, so parking and stepping are followed
 * first: what they free, the others take. */
static double follow_all(struct sim *m, struct sim_worker *w, double ns_per_block)
{
    uint32_t n = w->n_member;
    double move_ns = 0;

    w->busy = true;
    w->n_step = w->n_res;
    for (uint32_t i = 0; i < n; i++) {
        if (m->item[i].what == SCHED_DO_PARK)
            follow(m, w, &m->item[i], ns_per_block, &move_ns);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (m->item[i].what != SCHED_DO_PARK)
            follow(m, w, &m->item[i], ns_per_block, &move_ns);
    }
    w->busy = false;
    return move_ns;
}

/* Nobody can step and nothing will change that: the loosest resident is given up. */
static void give_up_one(struct sim *m, struct sim_worker *w)
{
    struct sim_req *worst = NULL;

    for (uint32_t i = 0; i < w->n_member; i++) {
        struct sim_req *r = &m->req[w->member[i]];

        if (r->d_state == SIM_D_RESIDENT && (worst == NULL || r->d_tier > worst->d_tier ||
                                             (r->d_tier == worst->d_tier && r->id > worst->id)))
            worst = r;
    }
    if (worst == NULL)
        return;
    {
        uint32_t epoch = worst->d_epoch;

        sim_decode_drop(m, worst);
        sim_say_released(m, worst, w->id, epoch, ERR_NOMEM);
    }
}

static double plan(struct sim *m, struct sim_worker *w, const struct sched_law *law)
{
    struct sched_batch_pool pool = pool_of(m, w, law);
    double step_ns = 0, move_ns;
    int64_t wake;

    if (!plan_room(m, w))
        return 0;
    if (w->n_res > 0)
        step_ns = sched_batch_round_ns(law, w->n_res, (double)w->ctx, pool.max_batch);
    for (uint32_t i = 0; i < w->n_member; i++)
        item_of(m, w, &m->req[w->member[i]], step_ns, &m->item[i]);
    sched_batch_plan(m->item, w->n_member, &pool, m->scratch);
    wake = sched_batch_wake(m->item, w->n_member, &pool);
    move_ns = follow_all(m, w, pool.park_ns_per_block);
    w->changed = false;
    w->plan_free = w->free_blocks;
    w->plan_wake_ns = wake == INT64_MAX ? SIM_NEVER : m->now + (uint64_t)wake;
    return move_ns;
}

/* Is "everybody steps" what a plan would say?  O(1) but for the young: the test of sched_batch_plain, or, where
 * the step is longer than the tightest tbt, that nobody is near its deadline. */
static bool is_plain(struct sim *m, struct sim_worker *w, const struct sched_law *law,
                     uint32_t growth)
{
    struct sched_batch_pool pool = pool_of(m, w, law);
    double step_ns = sched_law_decode(law, w->n_res, (double)w->ctx);
    bool asks = w->n_wait + w->n_parked > 0 &&
                (w->changed || w->free_blocks > w->plan_free || m->now >= w->plan_wake_ns);

    if (sim_batch_hurried(m, w, step_ns))
        return false;
    if (sched_batch_plain(w->n_res, (double)w->ctx, growth, asks, sim_batch_tightest(w), &pool))
        return true;
    return !asks && growth <= w->free_blocks && w->n_res <= pool.max_batch &&
           (double)sim_batch_slack(m, w, step_ns) > 2 * step_ns;
}

/* ---- steps ---- */

/* The prompt of its own that is next; NULL: none. */
static struct sim_req *own_prompt(struct sim *m, struct sim_worker *w)
{
    while (w->ready.n > 0 && m->req[w->ready.v[0].slot].p_gen != w->ready.v[0].gen)
        sim_heap_pop(&w->ready);
    return w->ready.n > 0 ? &m->req[w->ready.v[0].slot] : NULL;
}

/* Slack of those that step, that is there, not what later steps would earn: while prompts fill the steps they earn none;
 * and how long those that are on their way can wait for the end of this step. */
static int64_t chunk_slack(struct sim *m, struct sim_worker *w, const struct sched_law *decode)
{
    double step = sched_law_decode(decode, w->did.b + 1, w->did.ctx);
    int64_t least = sim_batch_slack(m, w, 1e18);

    for (uint32_t i = 0; w->n_wait + w->n_arriving > 0 && i < w->n_member; i++) {
        const struct sim_req *r = &m->req[w->member[i]];
        int64_t before = INT64_MAX;

        if (r->d_state == SIM_D_WAITING || r->d_state == SIM_D_ARRIVING)
            before = sched_pace_before(&w->pace, r->d_tbt_ns, step);
        least = before < least ? before : least;
    }
    return least;
}

static void add_chunk(struct sim *m, struct sim_worker *w, const struct sched_law *decode)
{
    const struct bench_sim_class *c = sim_class(m, w);
    struct sim_req *r = own_prompt(m, w);
    struct sched_law prefill = c->sched.prefill;
    uint32_t left, take, turn;
    uint64_t every;
    void *p = w->part;

    w->n_part = 0;
    if (r == NULL)
        return;
    for (int i = 0; i < 4; i++)
        prefill.c[i] *= w->factor * m->setup->bias;
    left = r->p_total - r->p_done;
    left = left < c->max_step_tokens ? left : c->max_step_tokens;
    take = sched_batch_chunk(&prefill, decode, w->did.b, w->did.ctx, r->p_past + r->p_done, left,
                             chunk_slack(m, w, decode), w->block_tokens);
    turn = sched_batch_turn(&prefill, decode, r->p_past + r->p_done, left, w->block_tokens, &every);
    /* Where no resident can step, or those that come wait for their blocks, the prompts hold what they lack. */
    if (take == 0 && ((w->n_step == 0 && (w->n_res > 0 || w->n_arriving == w->n_prompts)) ||
                      m->now - w->prompt_ns >= every))
        take = turn;
    if (take == 0 || !sim_grow(m, &p, 1, &w->cap_part, sizeof(*w->part)))
        return;
    w->part = p;
    w->part[0] = (struct sim_part){sim_slot(m, r), r->p_gen, take};
    w->n_part = 1;
    w->prompt_ns = m->now;
    w->did.n = take;
    w->did.n2 = (double)take * (take + 2.0 * (r->p_past + r->p_done));
    if (r->p_start_ns == 0)
        r->p_start_ns = m->now;
}

void sim_decode_start(struct sim *m, struct sim_worker *w)
{
    struct sched_law law = own_law(m, w);
    uint32_t growth;
    double move_ns = 0;
    uint64_t end;

    if (w->busy || !w->alive || m->err != ERR_OK || w->n_member == 0)
        return;
    growth = w->phase[(w->block_tokens - w->steps % w->block_tokens) % w->block_tokens];
    if (is_plain(m, w, &law, growth)) {
        w->free_blocks -= growth;
        w->n_step = w->n_res;
        w->did = (struct sched_step){.b = w->n_res, .ctx = (double)w->ctx};
    } else {
        w->did = (struct sched_step){0};
        move_ns = plan(m, w, &law);
        w->did.b = w->n_step;
        for (uint32_t i = 0; i < w->n_member && w->n_step < w->n_res; i++)
            w->did.ctx += m->item[i].what == SCHED_DO_STEP ? m->item[i].context : 0;
        if (w->n_step == w->n_res)
            w->did.ctx = (double)w->ctx;
    }
    if (w->n_step == 0 && w->n_res > 0 && w->n_arriving == 0) {
        give_up_one(m, w);
        return;
    }
    add_chunk(m, w, &law);
    if (w->n_step == 0 && w->n_part == 0) {
        if (w->n_wait + w->n_parked > 0 && w->plan_wake_ns != SIM_NEVER &&
            w->plan_due_ns <= m->now) {
            w->plan_due_ns = w->plan_wake_ns + SIM_MS;
            sim_at(m, w->plan_due_ns, SIM_EV_PLAN, w->id, w->gen);
        }
        return;
    }
    w->busy = true;
    w->step_ns = sim_step_time(m, w, &w->did);
    w->busy_ns += w->step_ns;
    end = m->now + (uint64_t)(w->step_ns + move_ns);
    sim_batch_joined(m, w, end);
    sim_at(m, end, SIM_EV_DECODE, w->id, w->gen);
}

/* A chunk of a prompt of its own is done. */
static void chunk_done(struct sim *m, struct sim_worker *w)
{
    struct sim_part part = w->part[0];
    struct sim_req *r = &m->req[part.slot];

    w->n_part = 0;
    if (r->p_gen != part.gen || r->d_state != SIM_D_LOCAL)
        return;
    r->p_done += part.take;
    if (r->p_done < r->p_total) {
        sim_say_progress(m, w, r, r->d_epoch, part.take);
        return;
    }
    sim_prefill_first_token(m, w, r);
    if (r->d_state == SIM_D_LOCAL) {
        r->p_gen++;
        w->n_prompts--;
        w->n_arriving--;
        r->c0 = r->n_prompt + r->n0 - 1;
        resident_add(m, w, r);
    }
}

void sim_decode_end(struct sim *m, struct sim_worker *w)
{
    uint64_t before = w->last_end_ns;

    w->busy = false;
    w->last_end_ns = m->worked_ns = m->now;
    w->steps++;
    w->ctx += w->n_step;
    w->n_step = 0;
    sim_batch_stepped(m, w, before);
    sim_say_step(m, w);
    while (w->finish.n > 0 && w->finish.v[0].key <= w->steps) {
        struct sim_key top = w->finish.v[0];
        struct sim_req *r = &m->req[top.slot];

        sim_heap_pop(&w->finish);
        if (r->d_gen != top.gen)
            continue;
        {
            uint32_t epoch = r->d_epoch;

            sim_decode_drop(m, r);
            sched_pace_ended(&w->pace, r->n0);
            w->mean_tokens += (r->n0 - w->mean_tokens) * (w->mean_tokens > 0 ? 0.02 : 1);
            sim_finish(m, r);
            sim_say_released(m, r, w->id, epoch, ERR_OK);
            sim_settle(m, r);
        }
    }
    if (w->n_part > 0)
        chunk_done(m, w);
    sim_decode_start(m, w);
}
