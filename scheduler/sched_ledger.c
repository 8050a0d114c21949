/* scheduler/sched_ledger.c - workers and what is claimed on them.
 *
 * The ledger is the reservation: blocks and decode slots are claimed here before anything is sent, and
 * given back when the worker says RELEASED or leaves, never when somebody merely decides that a request
 * is over.  A decode claim covers the prompt and all tokens that may be generated, so nothing that was
 * placed ever has to be preempted for want of a block; a prefill claim covers the tokens it computes.
 *
 * Workers of one shape share an index, least loaded first.  Full and draining workers are not in it, and
 * inside a shape the first one has most room, so a decision looks at a few workers of each shape. */
#include <assert.h>

#include "base/mem.h"
#include "scheduler/sched_old.h"

static const struct sched_worker *worker_of(const struct sched_node *n)
{
    return SCHED_OWNER(n, struct sched_worker, node);
}

static uint32_t free_blocks(const struct sched_worker *w)
{
    return w->shape->n_blocks - w->claimed_blocks;
}

/* Prefill: least outstanding tokens, then most free blocks. */
static bool prefill_less(const struct sched_node *na, const struct sched_node *nb)
{
    const struct sched_worker *a = worker_of(na), *b = worker_of(nb);

    if (a->outstanding != b->outstanding)
        return a->outstanding < b->outstanding;
    if (a->claimed_blocks != b->claimed_blocks)
        return a->claimed_blocks < b->claimed_blocks;
    return a->id < b->id;
}

/* Decode: most free blocks, then fewest requests. */
static bool decode_less(const struct sched_node *na, const struct sched_node *nb)
{
    const struct sched_worker *a = worker_of(na), *b = worker_of(nb);

    if (a->claimed_blocks != b->claimed_blocks)
        return a->claimed_blocks < b->claimed_blocks;
    if (a->claims != b->claims)
        return a->claims < b->claims;
    return a->id < b->id;
}

bool sched_ledger_may_index(const struct sched_worker *w)
{
    if ((w->draining && !SCHED_PLANTED(21)) || w->claimed_blocks >= w->shape->n_blocks)
        return false;
    return w->shape->role == SCHED_ROLE_PREFILL || w->claims < w->shape->max_batch;
}

/* A node may not change its key while it is in the tree: close, change, open. */
static void index_close(struct sched_worker *w)
{
    sched_tree_remove(&w->shape->index, &w->node);
}

static void index_open(struct sched_worker *w)
{
    if (sched_ledger_may_index(w))
        sched_tree_insert(&w->shape->index, &w->node);
}

/* ---- shapes ---- */

static struct sched_shape *shape_find(const struct sched *s, const struct sched_event *e)
{
    struct sched_shape *h = s->shapes;

    while (h != NULL &&
           (h->role != e->u.join.role || h->n_blocks != e->u.join.n_blocks ||
            h->block_tokens != e->u.join.block_tokens || h->max_batch != e->u.join.max_batch ||
            h->max_context != e->u.join.max_context))
        h = h->next;
    return h;
}

static struct sched_shape *shape_make(const struct sched_event *e)
{
    struct sched_shape *h = mem_try_calloc(1, sizeof(*h));

    if (h == NULL)
        return NULL;
    h->role = e->u.join.role;
    h->n_blocks = e->u.join.n_blocks;
    h->block_tokens = e->u.join.block_tokens;
    h->max_batch = e->u.join.max_batch;
    h->max_context = e->u.join.max_context;
    h->index.less = h->role == SCHED_ROLE_PREFILL ? prefill_less : decode_less;
    return h;
}

static void shape_unref(struct sched *s, struct sched_shape *h)
{
    struct sched_shape **at = &s->shapes;

    if (--h->refs > 0)
        return;
    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    mem_free(h);
}

static uint64_t need_of(enum sched_role role, const struct sched_need *need)
{
    return role == SCHED_ROLE_PREFILL ? need->prefill_tokens : need->total_tokens;
}

static uint64_t blocks_for(uint64_t tokens, uint32_t block_tokens)
{
    return (tokens + block_tokens - 1) / block_tokens;
}

static bool shape_fits(const struct sched_shape *h, const struct sched_need *need)
{
    return need->total_tokens <= h->max_context &&
           blocks_for(need_of(h->role, need), h->block_tokens) <= h->n_blocks;
}

static bool role_could_fit(const struct sched *s, enum sched_role role,
                           const struct sched_need *need)
{
    if (s->open_workers[role] == 0)
        return true; /* none known: it may come */
    for (const struct sched_shape *h = s->shapes; h != NULL; h = h->next) {
        if (h->role == role && h->open > 0 && shape_fits(h, need))
            return true;
    }
    return false;
}

bool sched_ledger_known(const struct sched *s, const struct sched_need *need)
{
    return s->open_workers[SCHED_ROLE_PREFILL] > 0 &&
           (!need->decode || s->open_workers[SCHED_ROLE_DECODE] > 0);
}

bool sched_ledger_could_fit(const struct sched *s, const struct sched_need *need)
{
    return role_could_fit(s, SCHED_ROLE_PREFILL, need) &&
           (!need->decode || role_could_fit(s, SCHED_ROLE_DECODE, need));
}

/* ---- workers ---- */

struct sched_worker *sched_ledger_worker(const struct sched *s, uint32_t id)
{
    return map_get(&s->workers, id);
}

enum err sched_ledger_join(struct sched *s, const struct sched_event *e, struct sched_worker **out)
{
    enum sched_role role = e->u.join.role;
    struct sched_shape *shape = shape_find(s, e), *made = NULL;
    struct sched_worker *w = mem_try_calloc(1, sizeof(*w));

    if (shape == NULL)
        shape = made = shape_make(e);
    if (w == NULL || shape == NULL || map_put(&s->workers, e->worker, w) != ERR_OK) {
        mem_free(made);
        mem_free(w);
        return ERR_NOMEM;
    }
    if (made != NULL) {
        made->next = s->shapes;
        s->shapes = made;
    }
    w->id = e->worker;
    w->shape = shape;
    shape->refs++;
    shape->open++;
    s->open_workers[role]++;
    s->stats.workers[role]++;
    w->prev = s->last_worker[role];
    if (w->prev != NULL)
        w->prev->next = w;
    else
        s->first_worker[role] = w;
    s->last_worker[role] = w;
    sched_node_init(&w->node, w->id);
    index_open(w);
    *out = w;
    return ERR_OK;
}

void sched_ledger_drain(struct sched *s, struct sched_worker *w)
{
    if (w->draining)
        return;
    if (!SCHED_PLANTED(21))
        index_close(w);
    w->draining = true;
    w->shape->open--;
    s->open_workers[w->shape->role]--;
    if (s->kept_worker == w->id) {
        s->kept_for = NULL;
        s->kept_worker = 0;
    }
}

void sched_ledger_remove(struct sched *s, struct sched_worker *w)
{
    enum sched_role role = w->shape->role;

    assert(w->n_sides == 0 && w->claims == 0);
    sched_ledger_drain(s, w);
    index_close(w);
    if (w->prev != NULL)
        w->prev->next = w->next;
    else
        s->first_worker[role] = w->next;
    if (w->next != NULL)
        w->next->prev = w->prev;
    else
        s->last_worker[role] = w->prev;
    s->stats.workers[role]--;
    map_del(&s->workers, w->id);
    shape_unref(s, w->shape);
    mem_free(w);
}

/* ---- claims ---- */

void sched_ledger_claim(struct sched *s, struct sched_side *side, struct sched_worker *w,
                        uint64_t tokens)
{
    uint64_t blocks = blocks_for(tokens, w->shape->block_tokens);

    assert(blocks <= free_blocks(w) && !side->listed);
    index_close(w);
    side->worker = w;
    side->worker_id = w->id;
    side->blocks = (uint32_t)blocks;
    side->claimed = true;
    side->listed = true;
    w->claimed_blocks += side->blocks;
    w->claims++;
    s->stats.claims++;
    side->prev = w->last;
    side->next = NULL;
    if (side->prev != NULL)
        side->prev->next = side;
    else
        w->first = side;
    w->last = side;
    w->n_sides++;
    index_open(w);
}

void sched_ledger_release(struct sched *s, struct sched_side *side)
{
    struct sched_worker *w = side->worker;

    assert(side->claimed || SCHED_PLANTED(5));
    index_close(w);
    side->claimed = false;
    w->claimed_blocks -= side->blocks;
    w->claims--;
    s->stats.claims--;
    index_open(w);
    s->wake = !SCHED_PLANTED(11);
}

void sched_ledger_unlist(struct sched_side *side)
{
    struct sched_worker *w = side->worker;

    if (!side->listed)
        return;
    if (side->prev != NULL)
        side->prev->next = side->next;
    else
        w->first = side->next;
    if (side->next != NULL)
        side->next->prev = side->prev;
    else
        w->last = side->prev;
    side->prev = side->next = NULL;
    side->listed = false;
    w->n_sides--;
}

void sched_ledger_outstanding(struct sched_worker *w, uint64_t add, uint64_t sub)
{
    index_close(w);
    w->outstanding = w->outstanding + add - sub;
    index_open(w);
}

/* ---- candidates ---- */

static struct sched_candidate candidate_of(const struct sched_worker *w, uint32_t avoid)
{
    return (struct sched_candidate){.worker = w->id,
                                    .avoid = w->id == avoid,
                                    .outstanding = w->outstanding,
                                    .free_tokens =
                                        (uint64_t)free_blocks(w) * w->shape->block_tokens,
                                    .requests = w->claims,
                                    .step_ns = w->step_ns};
}

/* An idle worker takes any one request; a busy one no more than the window, so that what comes later
 * and is more urgent overtakes here, not behind a long line in the worker. */
static bool window_open(const struct sched *s, const struct sched_worker *w,
                        const struct sched_need *need)
{
    return w->outstanding == 0 ||
           w->outstanding + need->prefill_tokens <= s->cfg.prefill_window_tokens;
}

/* The least loaded workers of one shape with room now, at most SCHED_PER_SHAPE. */
static uint32_t shape_candidates(const struct sched *s, const struct sched_shape *h,
                                 const struct sched_need *need, struct sched_candidate *v,
                                 uint32_t max)
{
    uint64_t blocks = blocks_for(need_of(h->role, need), h->block_tokens);
    uint32_t avoid = need->avoid[h->role == SCHED_ROLE_DECODE];
    uint32_t n = 0, probes = 0;

    max = max < SCHED_PER_SHAPE ? max : SCHED_PER_SHAPE;
    for (const struct sched_node *at = sched_tree_first(&h->index);
         at != NULL && n < max && probes < SCHED_PROBE_MAX; at = sched_tree_next(at), probes++) {
        const struct sched_worker *w = worker_of(at);
        bool room = blocks <= free_blocks(w);

        if (h->role == SCHED_ROLE_PREFILL ? !window_open(s, w, need) : !room)
            break; /* the index is in this order: those behind it are no better */
        if (room && w->id != need->closed)
            v[n++] = candidate_of(w, avoid);
    }
    return n;
}

uint32_t sched_ledger_candidates(const struct sched *s, enum sched_role role,
                                 const struct sched_need *need,
                                 struct sched_candidate v[SCHED_CANDIDATES])
{
    uint32_t n = 0;

    for (const struct sched_shape *h = s->shapes; h != NULL && n < SCHED_CANDIDATES; h = h->next) {
        if (h->role == role && shape_fits(h, need))
            n += shape_candidates(s, h, need, v + n, SCHED_CANDIDATES - n);
    }
    return n;
}

uint32_t sched_ledger_roomiest(const struct sched *s, const struct sched_need *need)
{
    uint64_t most = 0;
    uint32_t worker = 0;

    for (const struct sched_shape *h = s->shapes; h != NULL; h = h->next) {
        const struct sched_node *first = sched_tree_first(&h->index);
        uint64_t room;

        if (h->role != SCHED_ROLE_DECODE || first == NULL || !shape_fits(h, need))
            continue;
        room = (uint64_t)free_blocks(worker_of(first)) * h->block_tokens;
        if (room > most) {
            most = room;
            worker = worker_of(first)->id;
        }
    }
    return worker;
}
