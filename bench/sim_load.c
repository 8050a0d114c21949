/* bench/sim_load.c - see the header. */
#include "bench/sim_load.h"

#include <math.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/mem.h"

enum { BLOCK_TOKENS = 512, ARRIVALS_MAX = 50000000 };
static const uint64_t TENANT_SALT = 0x74656e616e74u; /* tenants are drawn apart from tiers */
static const double SURGE_S = 2.5;

/* ---- the pool of prefixes ---- */

struct pool_node {
    uint64_t id;
    uint32_t prev, next; /* 0: none; the list starts at 1 */
};
struct pool {
    struct map where; /* id -> node */
    struct pool_node *v;
    uint32_t n, cap, first, last; /* first: used last */
};

static void pool_unlink(struct pool *p, uint32_t i)
{
    struct pool_node *x = &p->v[i];

    if (x->prev != 0)
        p->v[x->prev].next = x->next;
    else
        p->first = x->next;
    if (x->next != 0)
        p->v[x->next].prev = x->prev;
    else
        p->last = x->prev;
}

static void pool_to_front(struct pool *p, uint32_t i)
{
    p->v[i].prev = 0;
    p->v[i].next = p->first;
    if (p->first != 0)
        p->v[p->first].prev = i;
    else
        p->last = i;
    p->first = i;
}

/* Was it there?  It is now. */
static enum err pool_touch(struct pool *p, uint64_t id, bool *hit)
{
    struct pool_node *x = map_get(&p->where, id);
    uint32_t i;
    enum err err;

    *hit = x != NULL;
    if (x != NULL) {
        i = (uint32_t)(x - p->v);
        pool_unlink(p, i);
    } else if (p->n < p->cap) {
        i = ++p->n;
    } else {
        i = p->last;
        pool_unlink(p, i);
        (void)map_del(&p->where, p->v[i].id);
    }
    if (x == NULL) {
        p->v[i].id = id;
        err = map_put(&p->where, id, &p->v[i]);
        if (err != ERR_OK)
            return err;
    }
    pool_to_front(p, i);
    return ERR_OK;
}

static uint64_t mix(uint64_t x, uint64_t pass)
{
    struct bench_rng r = {x * 0x9e3779b97f4a7c15u + pass};

    return bench_rng_next(&r) | 1;
}

static enum err pool_prompt(struct pool *p, const struct bench_trace *t,
                            const struct bench_trace_row *row, uint64_t pass, uint32_t *hit)
{
    uint64_t tokens = 0;
    bool all = true, there;

    for (uint32_t i = 0; i < row->n_blocks && p->cap > 0; i++) {
        enum err err = pool_touch(p, mix(t->blocks[row->first_block + i], pass), &there);

        if (err != ERR_OK)
            return err;
        all = all && there;
        tokens += all ? BLOCK_TOKENS : 0;
    }
    *hit = tokens < row->n_prompt ? (uint32_t)tokens : row->n_prompt - 1;
    return ERR_OK;
}

static enum err pool_open(struct pool *p, const struct bench_load_plan *plan, size_t passes)
{
    double blocks = plan->prefix_tokens / BLOCK_TOKENS;
    double most = (double)plan->trace->n_blocks * (double)passes;

    *p = (struct pool){.n = 0};
    blocks = blocks < most ? blocks : most;
    if (blocks < 1)
        return ERR_OK;
    p->cap = blocks < 4e9 ? (uint32_t)blocks : 4000000000u;
    p->v = mem_try_alloc(((size_t)p->cap + 1) * sizeof(*p->v));
    return p->v == NULL ? ERR_NOMEM : ERR_OK;
}

static void pool_close(struct pool *p)
{
    map_free(&p->where);
    mem_free(p->v);
}

/* ---- arrivals ---- */

static enum err check(const struct bench_load_plan *p, struct err_msg *msg)
{
    double n;

    if (!(p->speedup > 0 && p->speedup < 1e9))
        return err_set(msg, ERR_INVALID, "the speed-up must be above 0");
    if (!(p->duration_s > 0 && p->duration_s < 1e8))
        return err_set(msg, ERR_INVALID, "the duration must be between 0 and 10^8 s");
    n = (double)p->trace->n / p->trace->seconds * p->speedup * p->duration_s;
    if (n > ARRIVALS_MAX)
        return err_set(msg, ERR_LIMIT, "%.0f arrivals are over the limit of %d", n, ARRIVALS_MAX);
    return ERR_OK;
}

static enum err add(const struct bench_load_plan *p, struct bench_load *l, struct pool *pool,
                    size_t i, double at_s)
{
    const struct bench_trace_row *row = &p->trace->v[i % p->trace->n];
    struct bench_arrival_row *a = &l->v[l->n];
    uint64_t pass = i / p->trace->n;

    a->at_ns = (uint64_t)(at_s * 1e9);
    a->session = row->session == 0 ? 0 : mix(row->session, pass);
    a->n_out = row->n_out;
    a->n_prompt = row->n_prompt;
    a->n_hit = 0;
    a->too_large = (uint64_t)row->n_prompt + row->n_out > p->max_context;
    a->tier = (uint16_t)bench_pick_tier(p->seed, i, p->share, p->n_tiers);
    a->tenant = p->n_tenants == 0 ? 0
                                  : (uint16_t)(1 + bench_pick_tier(p->seed ^ TENANT_SALT, i,
                                                                   p->tenant_share, p->n_tenants));
    l->n++;
    if (a->too_large)
        return ERR_OK; /* a server refuses it unread: none of its blocks come to lie in the pool */
    l->max_out = a->n_out > l->max_out ? a->n_out : l->max_out;
    if (pool_prompt(pool, p->trace, row, pass, &a->n_hit) != ERR_OK)
        return ERR_NOMEM;
    if (a->n_hit >= a->n_prompt)
        a->n_hit = a->n_prompt - 1;
    return ERR_OK;
}

static enum err fill(const struct bench_load_plan *p, struct bench_load *l, struct pool *pool)
{
    const struct bench_trace *t = p->trace;
    double tokens = 0, hits = 0;
    size_t cap = 0;

    for (size_t i = 0;; i++) {
        double at = (t->v[i % t->n].at_s + (double)(i / t->n) * t->seconds) / p->speedup;

        if (at >= p->duration_s)
            break;
        if (l->n == cap) {
            struct bench_arrival_row *v;

            cap = cap == 0 ? 4096 : 2 * cap;
            v = mem_try_realloc(l->v, cap * sizeof(*v));
            if (v == NULL)
                return ERR_NOMEM;
            l->v = v;
        }
        if (add(p, l, pool, i, at) != ERR_OK)
            return ERR_NOMEM;
        if (!l->v[l->n - 1].too_large)
            tokens += l->v[l->n - 1].n_prompt;
        hits += l->v[l->n - 1].n_hit;
    }
    l->hit_share = tokens > 0 ? hits / tokens : 0;
    return ERR_OK;
}

/* ---- a tenant that sends more than it should ---- */

struct copy {
    uint64_t at_ns;
    uint32_t of, nth; /* row, and which copy: a total order */
};

static int copy_order(const void *a, const void *b)
{
    const struct copy *x = a, *y = b;

    if (x->at_ns != y->at_ns)
        return x->at_ns < y->at_ns ? -1 : 1;
    if (x->of != y->of)
        return x->of < y->of ? -1 : 1;
    return x->nth < y->nth ? -1 : x->nth > y->nth;
}

static size_t draw_copies(const struct bench_load_plan *p, const struct bench_load *l,
                          struct copy *out)
{
    size_t n = 0;

    for (size_t i = 0; i < l->n; i++) {
        uint32_t times = p->surge[l->v[i].tenant - 1];

        for (uint32_t k = 1; k < times; k++) {
            struct bench_rng r = {(p->seed ^ TENANT_SALT) * 0x9e3779b97f4a7c15u + i * 1024 + k};
            double at = (double)l->v[i].at_ns / 1e9 + (2 * bench_rng_unit(&r) - 1) * SURGE_S;

            if (out != NULL && at >= 0 && at < p->duration_s)
                out[n] = (struct copy){(uint64_t)(at * 1e9), (uint32_t)i, k};
            n += at >= 0 && at < p->duration_s;
        }
    }
    return n;
}

static enum err add_surge(const struct bench_load_plan *p, struct bench_load *l,
                          struct err_msg *msg)
{
    size_t n = draw_copies(p, l, NULL), from = 0, next = 0;
    struct bench_arrival_row *v;
    struct copy *copy;

    if (n == 0)
        return ERR_OK;
    if (l->n + n > ARRIVALS_MAX)
        return err_set(msg, ERR_LIMIT, "%zu arrivals are over the limit of %d", l->n + n,
                       ARRIVALS_MAX);
    copy = mem_try_alloc(n * sizeof(*copy));
    v = mem_try_alloc((l->n + n) * sizeof(*v));
    if (copy == NULL || v == NULL) {
        mem_free(copy);
        mem_free(v);
        return err_set(msg, ERR_NOMEM, "out of memory for the arrivals");
    }
    (void)draw_copies(p, l, copy);
    qsort(copy, n, sizeof(*copy), copy_order);
    for (size_t i = 0; i < l->n + n; i++) {
        if (next == n || (from < l->n && l->v[from].at_ns <= copy[next].at_ns)) {
            v[i] = l->v[from++];
        } else {
            v[i] = l->v[copy[next].of];
            v[i].at_ns = copy[next++].at_ns;
            v[i].session = 0;
            v[i].n_hit = 0;
        }
    }
    mem_free(copy);
    mem_free(l->v);
    l->v = v;
    l->n += n;
    return ERR_OK;
}

enum err bench_load_make(const struct bench_load_plan *p, struct err_msg *msg,
                         struct bench_load *out)
{
    struct bench_load l = {.duration_s = p->duration_s};
    struct pool pool;
    enum err err = check(p, msg);

    if (err != ERR_OK)
        return err;
    err = pool_open(&pool, p, (size_t)ceil(p->duration_s * p->speedup / p->trace->seconds) + 1);
    if (err == ERR_OK)
        err = fill(p, &l, &pool);
    pool_close(&pool);
    if (err != ERR_OK) {
        bench_load_free(&l);
        return err_set(msg, ERR_NOMEM, "out of memory for the arrivals");
    }
    err = p->n_tenants > 0 ? add_surge(p, &l, msg) : ERR_OK;
    if (err != ERR_OK) {
        bench_load_free(&l);
        return err;
    }
    for (size_t i = 0; i < l.n; i++)
        l.n_too_large += l.v[i].too_large;
    l.rate = (double)l.n / p->duration_s;
    *out = l;
    return ERR_OK;
}

void bench_load_free(struct bench_load *l)
{
    mem_free(l->v);
    *l = (struct bench_load){.n = 0};
}
