/* scheduler/sched_plan.c - how many workers: queueing formulas, the moments they are fed with, and the
 * controller that moves one worker at a time. */
#include "scheduler/sched_plan.h"

#include <math.h>

/* ---- prefill: M/G/k ---- */

double sched_plan_erlang_c(double offered, uint32_t servers)
{
    double blocked = 1, use;

    if (servers == 0 || !(offered < servers))
        return 1;
    if (!(offered > 0))
        return 0;
    /* Erlang B by its recursion: every term lies in 0 .. 1, nothing cancels, and what underflows is 0. */
    for (uint32_t k = 1; k <= servers; k++)
        blocked = offered * blocked / (k + offered * blocked);
    use = offered / servers;
    return blocked / (1 - use * (1 - blocked));
}

/* Mean wait under Poisson arrivals and service of this cs2, as a multiple of that under exponential service:
 * Kimura's mean of the exponential and the constant case, the latter by Cosmetatos.  (1 + cs2) / 2 for one server;
 * with many servers a few huge jobs block less than that says. */
static double plan_service_factor(double use, uint32_t servers, double cs2)
{
    double k = servers;
    double fixed = 0.5 * (1 + (1 - use) * (k - 1) * (sqrt(4 + 5 * k) - 2) / (16 * k * use));

    return (1 + cs2) / (2 * cs2 + (1 - cs2) / fmin(fixed, 1));
}

/* Of the exponential that the wait of those who wait is taken for. */
static double plan_drain(double rate, double service_s, uint32_t servers, double ca2, double cs2)
{
    double s2 = fmin(fmax(cs2, 0), 1e6), a2 = fmin(fmax(ca2, 0), 1e6);
    double factor = plan_service_factor(rate * service_s / servers, servers, s2);

    return (servers / service_s - rate) / fmax(factor * (a2 + s2) / (1 + s2), 1e-9);
}

static bool plan_no_load(double rate, double service_s)
{
    return !(rate > 0) || !(service_s > 0);
}

/* Erlang B at a number of servers that only grows: at n, and at n + 1. */
struct plan_blocked {
    double offered, at, next;
    uint32_t n;
};

/* How much more the number of busy servers varies than under Poisson arrivals, on servers without end.  A queue
 * with peakedness z behaves like one of 1/z the size under Poisson arrivals (Hayward); without this the
 * wait of large pools under bursts comes out 25 to 70 % too small. */
static double plan_peakedness(double ca2)
{
    double z = 1 + (ca2 - 1) / 2;

    return z > 0.5 ? fmin(z, 50) : 0.5;
}

static struct plan_blocked plan_blocked(double offered, double ca2)
{
    double a = offered / plan_peakedness(ca2);

    return (struct plan_blocked){.offered = a, .at = 1, .next = a / (1 + a)};
}

/* P(wait) of `servers`, which is never smaller than in the call before. */
static double plan_waits(struct plan_blocked *e, double use, double servers, double ca2)
{
    double x = servers / plan_peakedness(ca2), blocked;

    for (; e->n + 1 <= x; e->n++) {
        double more = e->offered * e->next;

        e->at = e->next;
        e->next = more / (e->n + 2 + more);
    }
    blocked = e->at > 0 ? e->at * pow(e->next / e->at, x - e->n) : 0;
    return blocked / (1 - use * (1 - blocked));
}

static double plan_p_wait(double rate, double service_s, uint32_t servers, double ca2)
{
    struct plan_blocked e = plan_blocked(rate * service_s, ca2);

    return plan_waits(&e, rate * service_s / servers, servers, ca2);
}

double sched_plan_wait(double rate, double service_s, uint32_t servers, double ca2, double cs2)
{
    double p_wait;

    if (plan_no_load(rate, service_s))
        return 0;
    if (!(rate * service_s < servers))
        return INFINITY;
    p_wait = plan_p_wait(rate, service_s, servers, ca2);
    return p_wait > 0 ? p_wait / plan_drain(rate, service_s, servers, ca2, cs2) : 0;
}

double sched_plan_tail(double rate, double service_s, uint32_t servers, double ca2, double cs2,
                       double t_s)
{
    if (plan_no_load(rate, service_s))
        return 0;
    if (!(rate * service_s < servers))
        return 1;
    return plan_p_wait(rate, service_s, servers, ca2) *
           exp(-fmax(t_s, 0) * plan_drain(rate, service_s, servers, ca2, cs2));
}

double sched_plan_quantile(double rate, double service_s, uint32_t servers, double ca2, double cs2,
                           double miss)
{
    double p_wait;

    if (plan_no_load(rate, service_s))
        return 0;
    if (!(rate * service_s < servers))
        return INFINITY;
    p_wait = plan_p_wait(rate, service_s, servers, ca2);
    if (p_wait <= miss)
        return 0;
    return log(p_wait / fmax(miss, 1e-300)) / plan_drain(rate, service_s, servers, ca2, cs2);
}

uint32_t sched_plan_prefill_workers(double rate, double service_s, double ca2, double cs2,
                                    double t_s, double miss)
{
    double offered = rate * service_s, least = floor(offered) + 1;
    struct plan_blocked e = plan_blocked(offered, ca2);

    if (plan_no_load(rate, service_s))
        return 0;
    if (!(least < SCHED_PLAN_WORKERS_MAX))
        return SCHED_PLAN_WORKERS_MAX;
    for (uint32_t k = (uint32_t)least; k < SCHED_PLAN_WORKERS_MAX; k++) {
        double slow = fmax(t_s, 0) * plan_drain(rate, service_s, k, ca2, cs2);

        if (plan_waits(&e, offered / k, k, ca2) * exp(-slow) <= miss)
            return k;
    }
    return SCHED_PLAN_WORKERS_MAX;
}

/* ---- decode: processor sharing ---- */

/* The step t solves t = d0 + (d1 + d2 c) b with b = rate x out x t: the batch that is there on average.  Above
 * the knee the same with another start and slope; the law is continuous there, so the second solution lies
 * above the knee whenever the first one does. */
bool sched_plan_decode(const struct sched_law *law, double rate, double out, double context,
                       double *step_s, double *batch)
{
    double tokens_ns = fmax(rate, 0) * fmax(out, 0) * 1e-9;
    double each = law->c[1] + law->c[2] * fmax(context, 0), use = tokens_ns * each, t;

    *step_s = *batch = 0;
    if (!sched_law_known(law) || !(use < 1))
        return false;
    t = law->c[0] / (1 - use);
    if (tokens_ns * t > law->knee && law->c[3] > 0) {
        use = tokens_ns * (each + law->c[3]);
        if (!(use < 1))
            return false;
        t = (law->c[0] - law->c[3] * law->knee) / (1 - use);
    }
    *step_s = t * 1e-9;
    *batch = tokens_ns * t;
    return true;
}

static bool plan_decode_holds(const struct sched_law *law, double rate, double out, double context,
                              double tbt_s, double room)
{
    double step, batch;

    return sched_plan_decode(law, rate, out, context, &step, &batch) &&
           (tbt_s <= 0 || step <= 0.95 * tbt_s) && (room <= 0 || batch * context <= 0.98 * room);
}

double sched_plan_decode_rate(const struct sched_law *law, double out, double context, double tbt_s,
                              double room)
{
    double low = 0, high = 1e9;

    if (!(out > 0) || !plan_decode_holds(law, 0, out, context, tbt_s, room))
        return 0;
    if (plan_decode_holds(law, high, out, context, tbt_s, room))
        return high;
    /* Step and batch only grow with the rate.  100 halvings of 1e9 leave nothing. */
    for (int k = 0; k < 100; k++) {
        double mid = (low + high) / 2;

        if (plan_decode_holds(law, mid, out, context, tbt_s, room))
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* ---- moments ---- */

static const double PLAN_BIN_S = 0.5;
static const double PLAN_BIN_KEEP = 0.99170; /* exp(-0.5 / 60): bins are remembered for a minute */
static const double PLAN_END_KEEP = 0.998;
static const double PLAN_PRIOR =
    20; /* so many arrivals outweigh the assumption of 1 for ca2, cs2 */

/* `n` bins without arrivals at once. */
static void plan_empty_bins(struct sched_moments *m, double n)
{
    double keep = pow(PLAN_BIN_KEEP, n);

    m->b1 *= keep;
    m->b2 *= keep;
    m->bins = m->bins * keep + (1 - keep) / (1 - PLAN_BIN_KEEP);
}

static void plan_close_bins(struct sched_moments *m, double now_s)
{
    double n = floor((now_s - m->bin_start) / PLAN_BIN_S), count = m->bin;

    if (!(n >= 1))
        return;
    m->b1 = m->b1 * PLAN_BIN_KEEP + count;
    m->b2 = m->b2 * PLAN_BIN_KEEP + count * count;
    m->bins = m->bins * PLAN_BIN_KEEP + 1;
    if (n >= 2)
        plan_empty_bins(m, n - 1);
    m->bin = 0;
    m->bin_start += n * PLAN_BIN_S;
}

static void plan_decay(struct sched_moments *m, double now_s)
{
    double dt = now_s - m->t_last, keep60;

    if (!(dt > 0))
        return;
    keep60 = exp(-dt / 60);
    m->n10 *= exp(-dt / 10);
    m->n60 *= keep60;
    m->s1 *= keep60;
    m->s2 *= keep60;
    m->t_last = now_s;
}

void sched_moments_arrive(struct sched_moments *m, double now_s, double prefill_s)
{
    double s = prefill_s > 0 ? prefill_s : 0;

    if (m->n60 <= 0 && m->bins <= 0 && m->bin == 0)
        m->t_first = m->t_last = m->bin_start = now_s;
    plan_decay(m, now_s);
    plan_close_bins(m, now_s);
    m->bin++;
    m->n10 += 1;
    m->n60 += 1;
    m->s1 += s;
    m->s2 += s * s;
}

void sched_moments_end(struct sched_moments *m, uint32_t n_prompt, uint32_t tokens)
{
    m->ends = m->ends * PLAN_END_KEEP + 1;
    m->o1 = m->o1 * PLAN_END_KEEP + tokens;
    m->c1 = m->c1 * PLAN_END_KEEP + (double)tokens * (n_prompt + 0.5 * tokens);
}

/* Decayed count into a rate: while less than the window was seen, what was seen counts. */
static double plan_rate(double n, double window_s, double seen_s)
{
    return n / (window_s * -expm1(-fmax(seen_s, 1) / window_s));
}

static double plan_shrunk(double value, double n)
{
    return (value * n + PLAN_PRIOR) / (n + PLAN_PRIOR);
}

void sched_moments_get(const struct sched_moments *m, double now_s, struct sched_load_moments *out)
{
    struct sched_moments at = *m;
    double r10, r60, mean, window = 10;

    *out = (struct sched_load_moments){.ca2 = 1, .cs2 = 1};
    if (at.ends > 0)
        out->out = at.o1 / at.ends;
    if (at.o1 > 0)
        out->context = at.c1 / at.o1;
    if (at.n60 <= 0)
        return;
    plan_decay(&at, now_s);
    plan_close_bins(&at, now_s);
    r10 = plan_rate(at.n10, 10, now_s - at.t_first);
    r60 = plan_rate(at.n60, 60, now_s - at.t_first);
    window = r10 >= r60 ? 10 : 60;
    out->rate = fmax(r10, r60);
    if (at.bins > 1 && at.b1 > 0) {
        mean = at.b1 / at.bins;
        out->ca2 = plan_shrunk(fmax(at.b2 / at.bins - mean * mean, 0) / mean, at.b1);
    }
    /* Of an exponentially weighted count of a process with this dispersion. */
    out->rate_sd = sqrt(out->rate * out->ca2 / (2 * window));
    out->service_s = at.n60 > 0 ? at.s1 / at.n60 : 0;
    if (out->service_s > 0) {
        mean = out->service_s;
        out->cs2 = plan_shrunk(fmax(at.s2 / at.n60 / (mean * mean) - 1, 0), at.n60);
    }
}

/* ---- the controller ---- */

enum { PLAN_TICKS = 3, PLAN_PREFILL = 1, PLAN_DECODE = 2 };
static const double PLAN_REVERSAL_S = 60, PLAN_QUIET_S = 300, PLAN_COOLDOWN_MAX_S = 600;
static const double PLAN_GONE_S = 2;  /* for a worker that was lost to start again */
static const double PLAN_GAIN = 0.25; /* of use, that a flip into a pool that misses has to bring */
static const double PLAN_FLIGHT_MAX_S = 120, PLAN_FLIP_COST_MAX_S = 60;

void sched_plan_init(struct sched_plan *p)
{
    *p = (struct sched_plan){.in_flight = false};
}

static bool plan_short(const struct sched_plan_config *c, const struct sched_plan_pool *needs,
                       const struct sched_plan_pool *gives, uint32_t keep)
{
    double high = c->high > 0 ? c->high : 0.9, low = c->low > 0 ? c->low : 0.8;

    if (!(needs->use > (needs->late ? low : high)))
        return false;
    if (gives->late || !gives->can_give || gives->n <= keep)
        return false;
    /* Where the need is great, a pool that is left busy is better than one that misses: the way back asks for the
     * opposite difference, so this does not swing. */
    return gives->use_if_less < low ||
           (needs->late && gives->use_if_less < 1 && gives->use_if_less + PLAN_GAIN < needs->use);
}

static void plan_calm(struct sched_plan *p, double base, double now_s)
{
    if (p->cooldown_s < base)
        p->cooldown_s = base;
    if (now_s - p->quiet_since_s < PLAN_QUIET_S)
        return;
    p->quiet_since_s = now_s;
    p->cooldown_s = fmax(base, p->cooldown_s / 2);
}

/* A role without any worker: the one under way to it is waited for, no other pause is. */
static bool plan_refills(struct sched_plan *p, const struct sched_plan_config *c, int to, bool can,
                         double now_s)
{
    double base = c->cooldown_s > 0 ? c->cooldown_s : 10,
           interval = c->interval_s > 0 ? c->interval_s : 1;

    p->gone[to] = can ? p->gone[to] + 1 : 0;
    if (p->in_flight || p->gone[to] < PLAN_TICKS || p->gone[to] * interval < PLAN_GONE_S)
        return false;
    return p->flips == 0 || p->last_dir != to || now_s - p->last_flip_s >= base;
}

static int plan_ask(struct sched_plan *p, int to, double now_s)
{
    for (int role = PLAN_PREFILL; role <= PLAN_DECODE; role++)
        p->ticks[role] = p->gone[role] = 0;
    p->in_flight = true;
    p->going = to;
    p->asked_s = now_s;
    return to;
}

int sched_plan_tick(struct sched_plan *p, const struct sched_plan_config *c,
                    const struct sched_plan_pool *prefill, const struct sched_plan_pool *decode,
                    double now_s)
{
    const struct sched_plan_pool *pool[3] = {prefill, prefill, decode};

    plan_calm(p, c->cooldown_s > 0 ? c->cooldown_s : 10, now_s);
    if (p->in_flight && now_s - p->asked_s > PLAN_FLIGHT_MAX_S)
        sched_plan_flipped(p, now_s, false);
    for (int to = PLAN_PREFILL; to <= PLAN_DECODE; to++) {
        int from = PLAN_PREFILL + PLAN_DECODE - to;
        uint32_t least = c->min[from] > 0 ? c->min[from] : 1;

        /* A flip under way is taken for done: what is measured until then asks for nothing. */
        if (p->in_flight || !plan_short(c, pool[to], pool[from], least))
            p->ticks[to] = 0;
        else
            p->ticks[to]++;
        if (plan_refills(p, c, to, pool[to]->gone && pool[from]->can_give && pool[from]->n > least,
                         now_s))
            return plan_ask(p, to, now_s);
    }
    if (p->in_flight || now_s < p->not_before_s)
        return 0;
    for (int to = PLAN_PREFILL; to <= PLAN_DECODE; to++) {
        if (p->ticks[to] >= PLAN_TICKS)
            return plan_ask(p, to, now_s);
    }
    return 0;
}

void sched_plan_flipped(struct sched_plan *p, double now_s, bool done)
{
    double took = fmin(10 * (now_s - p->asked_s), PLAN_FLIP_COST_MAX_S);

    if (!p->in_flight)
        return;
    p->in_flight = false;
    if (done) {
        bool back = p->flips > 0 && p->last_dir != p->going;

        if (back && now_s - p->last_flip_s < fmax(PLAN_REVERSAL_S, 2 * p->cooldown_s)) {
            p->reversals++;
            p->cooldown_s = fmin(2 * p->cooldown_s, PLAN_COOLDOWN_MAX_S);
        }
        p->flips++;
        p->last_dir = p->going;
        p->last_flip_s = now_s;
    }
    p->not_before_s = p->quiet_since_s = now_s + fmax(p->cooldown_s, took);
}
