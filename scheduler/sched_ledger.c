/* scheduler/sched_ledger.c - workers and what is claimed on them.
 *
 * The ledger is the reservation: blocks are claimed here before anything is sent, and given back
 * when the worker says RELEASED or leaves, never when somebody merely decides that a request is
 * over.  On a prefill worker the claim is a bound: it covers the tokens it computes, and nothing is
 * dispatched that does not fit.  On a decode worker it is what is expected: that worker has its own
 * wait list and parks.
 *
 * Workers of one shape share an index, least loaded first, so a decision looks at a few workers of
 * each shape.  Draining workers are not in it. */
#include "scheduler/sched_core.h"

#include <assert.h>

#include "base/mem.h"

static const struct sched_worker *worker_of(const struct sched_node *n)
{
    return SCHED_OWNER(n, struct sched_worker, node);
}

static bool worker_less(const struct sched_node *na, const struct sched_node *nb)
{
    const struct sched_worker *a = worker_of(na), *b = worker_of(nb);

    /* No branches: who is less loaded cannot be guessed. */
    return (a->load < b->load) | (!(a->load > b->load) & (a->id < b->id));
}

/* Prefill: when all its work would be done, 0 for none, so that time need not pass in the index.
 * Decode: claimed and promised blocks, then requests. */
double sched_ledger_load(const struct sched_worker *w)
{
    uint32_t claims = w->claims + w->promised;

    if (w->shape->role == SCHED_ROLE_PREFILL)
        return sched_edf_count(&w->edf) == 0 ? 0 : (double)w->since_ns + sched_edf_work(&w->edf);
    return ((double)w->claimed_blocks + w->promised_blocks) * 65536 +
           (claims < 65535 ? claims : 65535);
}

void sched_ledger_reindex(struct sched_worker *w)
{
    double load = sched_ledger_load(w);

    if (!(load < w->load || load > w->load))
        return;
    if (!w->node.linked) {
        w->load = load;
        return;
    }
    sched_tree_remove(&w->shape->index, &w->node);
    w->load = load;
    sched_tree_insert(&w->shape->index, &w->node);
}

void sched_ledger_dirty(struct sched *s, struct sched_worker *w)
{
    if (w->dirty)
        return;
    w->dirty = true;
    w->next_dirty = s->dirty;
    s->dirty = w;
}

/* ---- shapes ---- */

static bool shape_is(const struct sched_shape *h, const struct sched_event *e)
{
    return h->role == e->u.join.role && h->n_blocks == e->u.join.n_blocks &&
           h->block_tokens == e->u.join.block_tokens && h->max_batch == e->u.join.max_batch &&
           h->max_context == e->u.join.max_context && h->klass == e->u.join.klass &&
           h->can_prefill == (e->u.join.role == SCHED_ROLE_PREFILL || e->u.join.can_prefill);
}

static struct sched_shape *shape_find(const struct sched *s, const struct sched_event *e)
{
    struct sched_shape *h = s->shapes;

    while (h != NULL && !shape_is(h, e))
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
    h->klass = e->u.join.klass;
    h->can_prefill = h->role == SCHED_ROLE_PREFILL || e->u.join.can_prefill;
    h->index.less = worker_less;
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

static uint64_t blocks_for(uint64_t tokens, uint32_t block_tokens)
{
    return (tokens + block_tokens - 1) / block_tokens;
}

static bool shape_fits(const struct sched_shape *h, const struct sched_need *need)
{
    uint64_t tokens = h->role == SCHED_ROLE_PREFILL ? need->prefill_tokens : need->total_tokens;

    return need->total_tokens <= h->max_context &&
           blocks_for(tokens, h->block_tokens) <= h->n_blocks;
}

/* May workers of this shape have the part `role` of a request? */
static bool shape_does(const struct sched *s, const struct sched_shape *h, enum sched_role role)
{
    return h->open > 0 && (h->role == role ||
                           (role == SCHED_ROLE_PREFILL && h->can_prefill && s->cfg.local_prefill));
}

struct found {
    bool any, fits;
};

static struct found look_for(const struct sched *s, enum sched_role role,
                             const struct sched_need *need)
{
    struct found f = {false, false};

    for (const struct sched_shape *h = s->shapes; h != NULL && !f.fits; h = h->next) {
        if (!shape_does(s, h, role))
            continue;
        f.any = true;
        f.fits = shape_fits(h, need);
    }
    return f;
}

bool sched_ledger_could_fit(const struct sched *s, const struct sched_need *need)
{
    struct found p = look_for(s, SCHED_ROLE_PREFILL, need), d = {false, false};

    if (need->decode)
        d = look_for(s, SCHED_ROLE_DECODE, need);
    return (p.fits || !p.any) && (d.fits || !d.any);
}

bool sched_ledger_ready(const struct sched *s, const struct sched_need *need)
{
    return look_for(s, SCHED_ROLE_PREFILL, need).fits &&
           (!need->decode || look_for(s, SCHED_ROLE_DECODE, need).fits);
}

/* ---- workers ---- */

struct sched_worker *sched_ledger_worker(const struct sched *s, uint32_t id)
{
    return map_get(&s->workers, id);
}

static bool pool_reserve(struct sched *s, enum sched_role role)
{
    uint32_t cap = s->pool[role].cap;
    struct sched_worker **v;
    size_t bytes;

    /* a worker that drains keeps its place: it may come back into service */
    if (s->stats.workers[role] < cap)
        return true;
    cap = cap == 0 ? 16 : cap * 2;
    if (!mem_mul(cap, sizeof(struct sched_worker *), &bytes))
        return false;
    v = mem_try_realloc(s->pool[role].v, bytes);
    if (v == NULL)
        return false;
    s->pool[role].v = v;
    s->pool[role].cap = cap;
    return true;
}

static void open_worker(struct sched *s, struct sched_worker *w)
{
    enum sched_role role = w->shape->role;

    w->shape->open++;
    w->klass->open[role]++;
    w->pool_pos = s->pool[role].n;
    s->pool[role].v[s->pool[role].n++] = w;
    w->load = sched_ledger_load(w);
    sched_tree_insert(&w->shape->index, &w->node);
    sched_ledger_dirty(s, w);
}

static void close_worker(struct sched *s, struct sched_worker *w)
{
    enum sched_role role = w->shape->role;
    struct sched_worker *last = s->pool[role].v[--s->pool[role].n];

    s->pool[role].v[w->pool_pos] = last;
    last->pool_pos = w->pool_pos;
    w->shape->open--;
    w->klass->open[role]--;
    sched_tree_remove(&w->shape->index, &w->node);
}

static void link_worker(struct sched *s, struct sched_worker *w)
{
    enum sched_role role = w->shape->role;

    w->prev = s->last_worker[role];
    if (w->prev != NULL)
        w->prev->next = w;
    else
        s->first_worker[role] = w;
    s->last_worker[role] = w;
    s->stats.workers[role]++;
}

static void unlink_worker(struct sched *s, struct sched_worker *w)
{
    enum sched_role role = w->shape->role;

    if (w->prev != NULL)
        w->prev->next = w->next;
    else
        s->first_worker[role] = w->next;
    if (w->next != NULL)
        w->next->prev = w->prev;
    else
        s->last_worker[role] = w->prev;
    s->stats.workers[role]--;
}

enum err sched_ledger_join(struct sched *s, const struct sched_event *e, struct sched_worker **out)
{
    struct sched_shape *shape = shape_find(s, e), *made = NULL;
    struct sched_worker *w = mem_try_calloc(1, sizeof(*w));

    if (shape == NULL)
        shape = made = shape_make(e);
    if (w == NULL || shape == NULL || !pool_reserve(s, e->u.join.role) ||
        map_put(&s->workers, e->worker, w) != ERR_OK) {
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
    w->klass = &s->klass[e->u.join.klass];
    w->busy_ns = s->now;
    w->can_flip = e->u.join.can_flip;
    w->can_prefill = shape->can_prefill;
    w->max_step_tokens =
        e->u.join.max_step_tokens == 0 ? SCHED_STEP_TOKENS : e->u.join.max_step_tokens;
    if (w->can_prefill && (shape->role == SCHED_ROLE_PREFILL || w->klass->step_tokens == 0))
        w->klass->step_tokens = w->max_step_tokens;
    shape->refs++;
    sched_worker_init_queue(w);
    sched_node_init(&w->node, w->id);
    link_worker(s, w);
    open_worker(s, w);
    *out = w;
    return ERR_OK;
}

void sched_ledger_drain(struct sched *s, struct sched_worker *w)
{
    if (w->draining)
        return;
    w->draining = true;
    if (!SCHED_PLANTED(21))
        close_worker(s, w);
}

void sched_ledger_undrain(struct sched *s, struct sched_worker *w)
{
    if (!w->draining)
        return;
    w->draining = false;
    open_worker(s, w);
}

static void forget_dirty(struct sched *s, const struct sched_worker *w)
{
    struct sched_worker **at = &s->dirty;

    while (*at != NULL && *at != w)
        at = &(*at)->next_dirty;
    if (*at != NULL)
        *at = w->next_dirty;
}

void sched_ledger_remove(struct sched *s, struct sched_worker *w)
{
    assert(w->n_sides == 0 && w->claims == 0 && sched_edf_count(&w->edf) == 0 && w->mates == NULL);
    sched_ledger_drain(s, w);
    if (SCHED_PLANTED(21))
        close_worker(s, w);
    if (w->dirty)
        forget_dirty(s, w);
    unlink_worker(s, w);
    map_del(&s->workers, w->id);
    shape_unref(s, w->shape);
    mem_free(w);
}

/* ---- claims ---- */

bool sched_ledger_room(const struct sched_worker *w, uint64_t tokens)
{
    return w->shape->role == SCHED_ROLE_DECODE ||
           blocks_for(tokens, w->shape->block_tokens) <= w->shape->n_blocks - w->claimed_blocks;
}

/* What r is expected to hold there in the end. */
uint32_t sched_ledger_expected(const struct sched_worker *w, const struct sched_request *r)
{
    uint64_t most = (uint64_t)r->n_prompt + r->max_new;
    uint64_t is = (uint64_t)r->n_prompt + r->delivered + 1;
    uint64_t mean = r->cast.mean > 0 ? (uint64_t)r->n_prompt + (uint64_t)r->cast.mean : most;

    mean = mean > is ? mean : is;
    return (uint32_t)blocks_for(mean < most ? mean : most, w->shape->block_tokens);
}

void sched_ledger_claim(struct sched *s, struct sched_side *side, struct sched_worker *w,
                        const struct sched_request *r)
{
    uint64_t given = (uint64_t)r->n_prompt + r->delivered;
    uint64_t blocks = w->shape->role == SCHED_ROLE_DECODE
                          ? sched_ledger_expected(w, r)
                          : blocks_for(given, w->shape->block_tokens);

    assert(sched_ledger_room(w, given) && !side->listed);
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
    sched_ledger_reindex(w);
}

void sched_ledger_release(struct sched *s, struct sched_side *side)
{
    struct sched_worker *w = side->worker;

    assert(side->claimed || SCHED_PLANTED(5));
    side->claimed = false;
    w->claimed_blocks -= side->blocks;
    w->claims--;
    s->stats.claims--;
    sched_ledger_reindex(w);
    if (SCHED_PLANTED(11))
        return;
    s->wake = true;
    sched_ledger_dirty(s, w);
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

void sched_ledger_outstanding(struct sched *s, struct sched_worker *w, uint64_t add, uint64_t sub)
{
    sched_elastic_busy(s, w);
    w->outstanding = w->outstanding + add - sub;
    if (sub > 0 && !SCHED_PLANTED(23))
        sched_ledger_dirty(s, w);
}

/* ---- candidates ---- */

bool sched_worker_fits(const struct sched_worker *w, const struct sched_need *need)
{
    return !w->draining && shape_fits(w->shape, need);
}

bool sched_worker_local(const struct sched *s, const struct sched_worker *w,
                        const struct sched_need *need)
{
    return s->cfg.local_prefill && w->shape->role == SCHED_ROLE_DECODE && w->can_prefill &&
           sched_worker_fits(w, need);
}

static bool among(struct sched_worker *const *v, uint32_t n, const struct sched_worker *w)
{
    for (uint32_t i = 0; i < n; i++) {
        if (v[i] == w)
            return true;
    }
    return false;
}

static uint32_t holders(const struct sched *s, const struct sched_request *r,
                        const struct sched_need *need, uint32_t avoid, struct sched_worker **v)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_prefix; i++) {
        struct sched_worker *w =
            r->prefix[i].worker == 0 ? NULL : sched_ledger_worker(s, r->prefix[i].worker);

        if (w != NULL && w->shape->role == SCHED_ROLE_PREFILL && w->id != avoid &&
            sched_worker_fits(w, need) && !among(v, n, w))
            v[n++] = w;
    }
    return n;
}

/* How much there is to do on w, so that workers of different shapes compare. */
static double fullness(const struct sched_worker *w)
{
    return w->shape->role == SCHED_ROLE_PREFILL ? w->load : w->load / w->shape->n_blocks;
}

/* Into v[from .. n), least full first; where there is no place left the fullest goes. */
static uint32_t put_in_order(struct sched_worker **v, uint32_t from, uint32_t n, uint32_t most,
                             struct sched_worker *w)
{
    uint32_t at;

    if (n == most && fullness(w) >= fullness(v[n - 1]))
        return n;
    n += n < most;
    for (at = n - 1; at > from && fullness(v[at - 1]) > fullness(w); at--)
        v[at] = v[at - 1];
    v[at] = w;
    return n;
}

static bool may_serve(const struct sched_shape *h, enum sched_role role,
                      const struct sched_need *need)
{
    return h->role == role && h->open > 0 && shape_fits(h, need);
}

/* Of each shape so many that every shape has its share.  Where machines differ so much that there are more shapes than
 * candidates, the least loaded of each is looked at, and the least full of those are taken. */
static uint32_t gather(const struct sched *s, enum sched_role role, const struct sched_request *r,
                       uint32_t avoid, struct sched_worker **v)
{
    struct sched_need need = sched_request_need(r);
    uint32_t held = role == SCHED_ROLE_PREFILL ? holders(s, r, &need, avoid, v) : 0, n = held;
    uint32_t most = n + SCHED_CANDIDATES, kinds = 0, each;

    for (const struct sched_shape *h = s->shapes; h != NULL; h = h->next)
        kinds += may_serve(h, role, &need);
    each = SCHED_CANDIDATES / (kinds > 0 ? kinds : 1);
    each = each > SCHED_PER_SHAPE ? SCHED_PER_SHAPE : each > 0 ? each : 1;
    for (const struct sched_shape *h = s->shapes; h != NULL; h = h->next) {
        uint32_t of_shape = 0;

        if (!may_serve(h, role, &need))
            continue;
        for (struct sched_node *at = sched_tree_first(&h->index); at != NULL && of_shape < each;
             at = sched_tree_next(at)) {
            struct sched_worker *w = SCHED_OWNER(at, struct sched_worker, node);

            if (w->id == avoid || among(v, n, w))
                continue;
            if (kinds > SCHED_CANDIDATES)
                n = put_in_order(v, held, n, most, w);
            else
                v[n++] = w;
            of_shape++;
        }
    }
    return n;
}

uint32_t sched_candidates(const struct sched *s, enum sched_role role,
                          const struct sched_request *r,
                          struct sched_worker *v[SCHED_CANDIDATES_MAX])
{
    uint32_t avoid = r->avoid[role == SCHED_ROLE_DECODE];
    uint32_t n = gather(s, role, r, avoid, v);

    return n > 0 || avoid == 0 ? n : gather(s, role, r, 0, v);
}
