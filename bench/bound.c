/* bench/bound.c - see the header.
 *
 * The smooth copy: the soft minimum of prices over a window with weights e_t = exp(-lam_t / tau),
 *     softmin = sum_w lam_t e_t / sum_w e_t   (in the gradient: each slot gets its share e_t / sum_w e_t),
 * needs two prefix sums and one difference array per round, whatever the windows.  The exact minima for the value are
 * taken from a sparse table. */
#include "bench/bound.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { SLOTS_MAX = 4096, LEVELS = 13, ROUNDS = 600, LOOK_EVERY = 5 };

/* One kind of machine. */
struct side {
    double machines;
    double *price, *best;       /* per slot */
    double *e, *sum_e, *sum_pe; /* weights and prefix sums, one longer */
    double *load, *grad;        /* difference array; gradient */
    double *m1, *m2;            /* of the descent */
    double *least[LEVELS];      /* sparse table of minima */
    double scale;
};
struct span {
    uint32_t from, to; /* both included */
};
struct bound {
    const struct bench_bound_problem *p;
    struct side side[2]; /* prefill, decode */
    struct span *prompt, *rest;
    uint32_t slots, levels;
    double start, dt;
    double *arena;
};

/* ---- setting up ---- */

static bool sane(const struct bench_bound_item *i)
{
    return i->value >= 0 && isfinite(i->value) && i->prefill_s >= 0 && isfinite(i->prefill_s) &&
           i->decode_s >= 0 && isfinite(i->decode_s) && i->local_s >= 0 && isfinite(i->local_s) &&
           isfinite(i->at) && isfinite(i->prefill_until) && i->prefill_until >= i->at &&
           isfinite(i->decode_from) && isfinite(i->decode_until) &&
           i->decode_until >= i->decode_from;
}

static struct span span_of(const struct bound *b, double from, double to)
{
    double f = floor((from - b->start) / b->dt), t = floor((to - b->start) / b->dt);
    uint32_t last = b->slots - 1;

    return (struct span){f < 0      ? 0
                         : f > last ? last
                                    : (uint32_t)f,
                         t < 0      ? 0
                         : t > last ? last
                                    : (uint32_t)t};
}

static enum err open_bound(struct bound *b, struct err_msg *msg)
{
    const struct bench_bound_problem *p = b->p;
    double end = -INFINITY, length;
    size_t row, total;

    b->start = INFINITY;
    for (size_t i = 0; i < p->n; i++) {
        const struct bench_bound_item *x = &p->v[i];

        if (!sane(x))
            return err_set(msg, ERR_INVALID, "bound: request %zu has a bad value or window", i);
        b->start = x->at < b->start ? x->at : b->start;
        end = x->decode_until > end ? x->decode_until : end;
        end = x->prefill_until > end ? x->prefill_until : end;
    }
    length = end - b->start;
    b->dt = p->slot_s > 0 ? p->slot_s : 0.25;
    if (length / b->dt > SLOTS_MAX - 1)
        b->dt = length / (SLOTS_MAX - 1);
    b->slots = (uint32_t)(length / b->dt) + 1;
    for (b->levels = 1; (1u << b->levels) <= b->slots; b->levels++)
        continue;
    row = (size_t)b->slots + 1;
    total = 2 * row * (9 + b->levels);
    b->arena = mem_try_calloc(total, sizeof(*b->arena));
    b->prompt = mem_try_calloc(p->n, sizeof(*b->prompt));
    b->rest = mem_try_calloc(p->n, sizeof(*b->rest));
    if (b->arena == NULL || b->prompt == NULL || b->rest == NULL)
        return err_set(msg, ERR_NOMEM, "bound: out of memory");
    for (int k = 0; k < 2; k++) {
        struct side *s = &b->side[k];
        double *at = b->arena + (size_t)k * row * (9 + b->levels);
        double **part[] = {&s->price, &s->best, &s->e,  &s->sum_e, &s->sum_pe,
                           &s->load,  &s->grad, &s->m1, &s->m2};

        for (size_t i = 0; i < 9; i++, at += row)
            *part[i] = at;
        for (uint32_t l = 0; l < b->levels; l++, at += row)
            s->least[l] = at;
        s->machines = k == 0 ? p->prefill_machines : p->decode_machines;
    }
    for (size_t i = 0; i < p->n; i++) {
        b->prompt[i] = span_of(b, p->v[i].at, p->v[i].prefill_until);
        b->rest[i] = span_of(b, p->v[i].decode_from, p->v[i].decode_until);
    }
    return ERR_OK;
}

static void close_bound(struct bound *b)
{
    mem_free(b->arena);
    mem_free(b->prompt);
    mem_free(b->rest);
}

/* ---- the dual itself ---- */

static void build_least(const struct bound *b, struct side *s)
{
    memcpy(s->least[0], s->price, b->slots * sizeof(*s->price));
    for (uint32_t l = 1; l < b->levels; l++) {
        uint32_t half = 1u << (l - 1);

        for (uint32_t i = 0; i + 2 * half <= b->slots; i++)
            s->least[l][i] = fmin(s->least[l - 1][i], s->least[l - 1][i + half]);
    }
}

static double least_in(const struct side *s, struct span w)
{
    uint32_t l = 31u - (uint32_t)__builtin_clz(w.to - w.from + 1);

    return fmin(s->least[l][w.from], s->least[l][w.to + 1 - (1u << l)]);
}

/* Cost of the prompt at exact prices; no machine of a kind: it cannot be done there. */
static double prompt_cost(const struct bound *b, const struct bench_bound_item *x, double lam,
                          double mu)
{
    double there = b->side[0].machines > 0 ? x->prefill_s * lam : INFINITY;

    return b->p->local ? fmin(there, x->local_s * mu) : there;
}

static double dual(struct bound *b)
{
    double f = 0;

    for (int k = 0; k < 2; k++) {
        struct side *s = &b->side[k];

        build_least(b, s);
        for (uint32_t t = 0; t < b->slots; t++)
            f += s->machines * b->dt * s->price[t];
    }
    for (size_t i = 0; i < b->p->n; i++) {
        const struct bench_bound_item *x = &b->p->v[i];
        double lam = least_in(&b->side[0], b->prompt[i]);
        double mu = b->p->local ? least_in(&b->side[1], b->prompt[i]) : 0;
        double left = x->value - prompt_cost(b, x, lam, mu);

        if (left > 0 && x->decode_s > 0)
            left -= x->decode_s * least_in(&b->side[1], b->rest[i]);
        f += left > 0 ? left : 0;
    }
    return f;
}

/* ---- the smooth copy ---- */

static void soften(const struct bound *b, struct side *s, double tau)
{
    for (uint32_t t = 0; t < b->slots; t++) {
        s->e[t] = exp(-s->price[t] / tau) + 1e-30;
        s->sum_e[t + 1] = s->sum_e[t] + s->e[t];
        s->sum_pe[t + 1] = s->sum_pe[t] + s->e[t] * s->price[t];
    }
    memset(s->load, 0, ((size_t)b->slots + 1) * sizeof(*s->load));
}

static double soft_in(const struct side *s, struct span w)
{
    return (s->sum_pe[w.to + 1] - s->sum_pe[w.from]) / (s->sum_e[w.to + 1] - s->sum_e[w.from]);
}

static void put_load(struct side *s, struct span w, double work)
{
    double a = work / (s->sum_e[w.to + 1] - s->sum_e[w.from]);

    s->load[w.from] += a;
    s->load[w.to + 1] -= a;
}

/* How far a request is served at these prices: 1 when it gains clearly, 0 when it loses. */
static double served(double left, double width)
{
    double x = left / width;

    return x > 30 ? 1 : x < -30 ? 0 : 1 / (1 + exp(-x));
}

static void loads(struct bound *b, double sharp)
{
    struct side *pre = &b->side[0], *dec = &b->side[1];

    for (size_t i = 0; i < b->p->n; i++) {
        const struct bench_bound_item *x = &b->p->v[i];
        double here = pre->machines > 0 ? x->prefill_s * soft_in(pre, b->prompt[i]) : INFINITY;
        double there = b->p->local ? x->local_s * soft_in(dec, b->prompt[i]) : INFINITY;
        double rest = x->decode_s > 0 ? x->decode_s * soft_in(dec, b->rest[i]) : 0;
        double width = sharp * x->value, part, y;

        if (!(x->value > 0))
            continue;
        y = served(x->value - fmin(here, there) - rest, width);
        if (y <= 0)
            continue;
        part = !isfinite(there) ? 1 : !isfinite(here) ? 0 : served(there - here, width);
        if (part > 0)
            put_load(pre, b->prompt[i], y * part * x->prefill_s);
        if (part < 1)
            put_load(dec, b->prompt[i], y * (1 - part) * x->local_s);
        if (x->decode_s > 0)
            put_load(dec, b->rest[i], y * x->decode_s);
    }
}

/* One step of Adam, kept at prices >= 0. */
static void descend(const struct bound *b, struct side *s, double rate, uint32_t round)
{
    double sum = 0, fix1 = 1 - pow(0.9, round), fix2 = 1 - pow(0.99, round);

    if (s->machines <= 0)
        return;
    for (uint32_t t = 0; t < b->slots; t++) {
        double g;

        sum += s->load[t];
        g = s->machines * b->dt - s->e[t] * sum;
        g /= s->machines * b->dt;
        s->m1[t] = 0.9 * s->m1[t] + 0.1 * g;
        s->m2[t] = 0.99 * s->m2[t] + 0.01 * g * g;
        s->price[t] -= rate * s->scale * (s->m1[t] / fix1) / (sqrt(s->m2[t] / fix2) + 0.05);
        if (s->price[t] < 0)
            s->price[t] = 0;
    }
}

/* A price at which a second of the machine is worth the mean value of the work it does. */
static void set_scales(struct bound *b)
{
    double value = 0, work[2] = {0};

    for (size_t i = 0; i < b->p->n; i++) {
        value += b->p->v[i].value;
        work[0] += b->side[0].machines > 0 ? b->p->v[i].prefill_s : 0;
        work[1] += b->p->v[i].decode_s + (b->side[0].machines > 0 ? 0 : b->p->v[i].local_s);
    }
    for (int k = 0; k < 2; k++)
        b->side[k].scale = work[k] > 0 ? value / work[k] : 1;
}

static void keep_best(struct bound *b)
{
    for (int k = 0; k < 2; k++)
        memcpy(b->side[k].best, b->side[k].price, b->slots * sizeof(double));
}

/* The best pair of constant prices on a coarse grid: where the descent starts. */
static double start_flat(struct bound *b)
{
    double best = INFINITY;

    for (int i = 0; i <= 8; i++) {
        for (int j = 0; j <= 8; j++) {
            double f;

            for (uint32_t t = 0; t < b->slots; t++) {
                b->side[0].price[t] = b->side[0].scale * i / 4;
                b->side[1].price[t] = b->side[1].scale * j / 4;
            }
            f = dual(b);
            if (f < best) {
                best = f;
                keep_best(b);
            }
        }
    }
    for (int k = 0; k < 2; k++)
        memcpy(b->side[k].price, b->side[k].best, b->slots * sizeof(double));
    return best;
}

static double solve(struct bound *b)
{
    uint32_t rounds = b->p->rounds > 0 ? b->p->rounds : ROUNDS;
    double best;

    set_scales(b);
    best = start_flat(b);
    for (uint32_t r = 1; r <= rounds; r++) {
        double left = 1 - (double)r / rounds, tau = 0.002 + 0.1 * left * left;

        for (int k = 0; k < 2; k++)
            soften(b, &b->side[k], tau * b->side[k].scale);
        loads(b, 0.002 + 0.1 * left * left);
        for (int k = 0; k < 2; k++)
            descend(b, &b->side[k], 0.0005 + 0.05 * left * left, r);
        if (r % LOOK_EVERY == 0 || r == rounds) {
            double f = dual(b);

            best = f < best ? f : best;
        }
    }
    return best;
}

enum err bench_bound(const struct bench_bound_problem *p, struct err_msg *msg, double *bound)
{
    struct bound b = {.p = p};
    enum err err;

    *bound = 0;
    if (p->n == 0)
        return ERR_OK;
    if (!(p->prefill_machines >= 0) || !(p->decode_machines >= 0))
        return err_set(msg, ERR_INVALID, "bound: the machines are less than none");
    err = open_bound(&b, msg);
    if (err == ERR_OK)
        *bound = solve(&b);
    close_bound(&b);
    return err;
}
