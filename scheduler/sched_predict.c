/* scheduler/sched_predict.c - see the header.
 *
 * The law is fitted to time / bias of the worker that took it, the bias to time / law: together they could
 * wander off in opposite directions.  Three things hold them: both aim at the same centre (the mean of the log),
 * the bias leaks towards 0, and the law is tied to its seed by the weight of a fraction of a sample.
 *
 * Weights are relative (rows over their own time), so a decode step of 7 ms counts as much as a prefill step of
 * one second. */
#include "scheduler/sched_predict.h"

#include <math.h>
#include <string.h>

#include "scheduler/sched_num.h"

static const double NS_HIGH = 1e16;      /* four months: no step takes longer */
static const double COUNT_HIGH = 1e15;   /* of tokens, sequences and their products */
static const double EXACT = 1e-6;        /* relative error below which there is nothing to learn */
static const double CELL_KEEP = 0.99;    /* what a new observation leaves of its cell */
static const double CELL_FAMILIAR = 8;   /* observations from which an operating point is known */
static const double SEED_WEIGHT = 0.25;  /* observations that the seed counts for */
static const double SEED_SCALE = 0.01;   /* gain of what it is off by on the whole */
static const double WEAK_PRIOR = 0.0025; /* the same where nothing is known: only breaks ties */
static const double DEFAULT_KNEE[2] = {128, 448};
enum { SOLVE_EACH = 64, SOLVE_EVERY = 8, SUM_EVERY = 4096 };

static double law_clamp(double v, double bound)
{
    return v > bound ? bound : v < -bound ? -bound : v;
}

/* ---- features ---- */

/* x[i] is the factor of c[i]. */
static bool step_features(const struct sched_predict *p, const struct sched_step *did, double *x)
{
    double size = p->prefill ? did->n : did->b, mass = p->prefill ? did->n2 : did->ctx;
    double knee = p->law.knee;

    if (!(size > 0 && size < COUNT_HIGH && mass >= 0 && mass < COUNT_HIGH))
        return false;
    x[0] = 1;
    x[1] = size;
    x[2] = mass;
    x[3] = p->prefill ? num_max(0, knee - size) : num_max(0, size - knee);
    return true;
}

static uint32_t cell_octave(double v, double first)
{
    int e = 0;

    (void)frexp(v / first, &e);
    return e < 0 ? 0 : e >= SCHED_PREDICT_ROWS ? SCHED_PREDICT_ROWS - 1 : (uint32_t)e;
}

/* Which cell: octaves of size (from 32 tokens or 2 sequences up) and of what lies behind each of them. */
static uint32_t cell_of(const struct sched_predict *p, const double *x)
{
    uint32_t row = cell_octave(x[1], p->prefill ? 32 : 2);
    double past = p->prefill ? (x[2] / x[1] - x[1]) / 2 : x[2] / x[1];

    return row * SCHED_PREDICT_ROWS + (past > 0 ? cell_octave(past, p->prefill ? 512 : 256) : 0);
}

static double law_product(const double *c, const double *x)
{
    return c[0] * x[0] + c[1] * x[1] + c[2] * x[2] + c[3] * x[3];
}

/* ---- the fit ---- */

/* Index of element (i, j), i <= j, of a symmetric 4 x 4 matrix kept as its upper half. */
static const uint8_t sym_at[4][4] = {{0, 1, 2, 3}, {1, 4, 5, 6}, {2, 5, 7, 8}, {3, 6, 8, 9}};

/* Solve a c = b over the coefficients in `on` (a bit each); the rest are 0.  a: positive definite there, diagonal
 * near 1.  false: it is not, in numbers. */
static bool sym_solve(const double a[10], const double b[4], unsigned on, double c[4])
{
    double l[4][4] = {{0}}, y[4] = {0};

    for (int i = 0; i < 4; i++) {
        c[i] = 0;
        if ((on >> i & 1) == 0)
            continue;
        for (int j = 0; j <= i; j++) {
            double s = a[sym_at[i][j]];

            if ((on >> j & 1) == 0)
                continue;
            for (int k = 0; k < j; k++)
                s -= l[i][k] * l[j][k];
            if (i == j && !(s > 1e-13))
                return false;
            l[i][j] = i == j ? sqrt(s) : s / l[j][j];
        }
        y[i] = b[i];
        for (int k = 0; k < i; k++)
            y[i] -= l[i][k] * y[k];
        y[i] /= l[i][i];
    }
    for (int i = 3; i >= 0; i--) {
        if ((on >> i & 1) == 0)
            continue;
        c[i] = y[i];
        for (int k = i + 1; k < 4; k++)
            c[i] -= l[k][i] * c[k];
        c[i] /= l[i][i];
    }
    return true;
}

/* As solve, but no coefficient below 0: the most negative one is left out until none is. */
static bool sym_solve_nonnegative(const double a[10], const double b[4], double c[4])
{
    unsigned on = 15;

    while (on != 0) {
        int worst = -1;

        if (!sym_solve(a, b, on, c))
            return false;
        for (int i = 0; i < 4; i++) {
            if (c[i] < 0 && (worst < 0 || c[i] < c[worst]))
                worst = i;
        }
        if (worst < 0)
            return true;
        on &= ~(1u << worst);
    }
    return false;
}

/* How much of a step's time a coefficient is thought to explain before anything is known: prompts are mostly
 * linear, decode steps mostly constant.  Smaller: held nearer to 0. */
static const double law_share[2][4] = {{1, 0.3, 0.3, 0.1}, {0.3, 1, 0.2, 0.1}};

/* The operating point from which that holds.  Where all that was seen is far below it (one-token prompts of a
 * health check), a step is all constant: its time laid on tokens would make a real prompt take minutes. */
static const double law_reach[2][4] = {{1, 16, 16384, 1}, {1, 512, 262144, 1}};

/* Root mean square of feature i in what was seen, as a share of law_reach. */
static double law_reached(const struct sched_predict *p, int i)
{
    double seen = p->all.a[sym_at[i][i]] / p->all.a[0];

    return fmin(1, sqrt(seen) / law_reach[p->prefill][i]);
}

/* Scaled so that the diagonal of `a` is 1 (features differ by nine orders of magnitude), with the prior added. */
static void law_refit(struct sched_predict *p)
{
    bool seeded = sched_law_known(&p->seed);
    double scale[4], a[10], b[4], c[4], slower = exp(p->seed_scale);

    if (!(p->all.n > 0))
        return;
    for (int i = 0; i < 4; i++) {
        double d = p->all.a[sym_at[i][i]];

        scale[i] = d > 0 ? 1 / sqrt(d) : 0;
    }
    for (int i = 0; i < 4; i++) {
        double weight, share, prior = 0;

        for (int j = i; j < 4; j++)
            a[sym_at[i][j]] = p->all.a[sym_at[i][j]] * scale[i] * scale[j];
        b[i] = p->all.b[i] * scale[i];
        /* In these units a coefficient that explains everything is sqrt(n), so weights are over n. */
        share = scale[i] > 0 ? law_share[p->prefill][i] * law_reached(p, i) : 1;
        weight = WEAK_PRIOR / (share * share) / p->all.n;
        if (seeded && scale[i] > 0) {
            prior = p->seed.c[i] * slower / scale[i];
            weight = prior > 0 ? fmax(SEED_WEIGHT / (prior * prior), SEED_WEIGHT / p->all.n)
                               : SEED_WEIGHT / p->all.n;
        }
        a[sym_at[i][i]] = scale[i] > 0 ? 1 + weight : 1;
        b[i] = scale[i] > 0 ? b[i] + weight * prior : 0;
    }
    if (!sym_solve_nonnegative(a, b, c))
        return;
    for (int i = 0; i < 4; i++) {
        if (!isfinite(c[i] * scale[i]))
            return;
        /* A feature that was never there (no step below the knee yet) says nothing against the seed. */
        c[i] = scale[i] > 0 ? c[i] * scale[i] : p->seed.c[i] * slower;
    }
    if (c[0] > 0 || c[1] > 0)
        memcpy(p->law.c, c, sizeof(c));
}

static void sums_take(struct sched_predict_sums *all, struct sched_predict_sums *cell,
                      const double *row, double target)
{
    double lose = CELL_KEEP - 1;

    for (int i = 0; i < 4; i++) {
        double d = lose * cell->b[i] + row[i] * target;

        cell->b[i] += d;
        all->b[i] += d;
        for (int j = i; j < 4; j++) {
            int k = sym_at[i][j];

            d = lose * cell->a[k] + row[i] * row[j];
            cell->a[k] += d;
            all->a[k] += d;
        }
    }
    all->n += lose * cell->n + 1;
    cell->n += lose * cell->n + 1;
}

/* Adding differences for ever would let rounding pile up. */
static void sums_again(struct sched_predict *p)
{
    memset(&p->all, 0, sizeof(p->all));
    for (int c = 0; c < SCHED_PREDICT_CELLS; c++) {
        for (int k = 0; k < 10; k++)
            p->all.a[k] += p->cell[c].a[k];
        for (int k = 0; k < 4; k++)
            p->all.b[k] += p->cell[c].b[k];
        p->all.n += p->cell[c].n;
    }
}

/* ns: with the worker's bias taken out.  Near the law, rows are over the predicted time and the target is 1 plus
 * the log error, so that the fit centres the log error as the bias does; far from it (nothing learned yet, or
 * an outlier) over the measured time, which gives a stalled step next to no weight. */
static void law_learn(struct sched_predict *p, const double *x, uint32_t cell, double ns)
{
    double now = law_product(p->law.c, x), error = now > 0 ? log(ns / now) : 1e9;
    bool near = fabs(error) <= num_max(0.15, 4 * p->spread.sd);
    double over = near ? now : ns, row[4];

    p->n++;
    if (fabs(error) < EXACT)
        return;
    if (sched_law_known(&p->seed))
        p->seed_scale += num_max(SEED_SCALE, 1 / ((double)p->n + 2)) *
                         law_clamp(log(ns / law_product(p->seed.c, x)) - p->seed_scale, 0.7);
    for (int i = 0; i < 4; i++)
        row[i] = x[i] / over;
    sums_take(&p->all, &p->cell[cell], row, near ? 1 + error : 1);
    if (p->n % SUM_EVERY == 0)
        sums_again(p);
    if (p->n <= SOLVE_EACH || p->n % SOLVE_EVERY == 0)
        law_refit(p);
}

/* ---- bias ---- */

static const double BIAS_SLOW = 0.02, BIAS_FAST = 0.15, BIAS_LEAK = 0.0002;
static const double BIAS_PRIOR = 4; /* how slowly the gain falls from its start: 2 / (age + this) */
static const double BIAS_UNFAMILIAR = 0.04, BIAS_HINT = 0.01;
static const double MIXED_GAIN = 0.05;
enum { MIXED_SOME = 20 };
static const double BIAS_MAX = 9; /* e^9: beyond it is no speed but a fault */
enum { BIAS_STREAK = 3 };

/* One more observation that is far off (beyond 1 either way) on the same side, or none any more. */
static int8_t bias_streak(int8_t streak, double off)
{
    if (off > 1)
        return (int8_t)(streak < 0 ? 1 : streak < BIAS_STREAK ? streak + 1 : streak);
    if (off < -1)
        return (int8_t)(streak > 0 ? -1 : streak > -BIAS_STREAK ? streak - 1 : streak);
    return 0;
}

/* familiar: the law is known where this was observed, so the error is the worker's; else mostly the law's. */
static void bias_learn(struct sched_bias *b, double log_error, bool familiar)
{
    double raw, off, sd, gain, bound;
    bool sudden;

    if (!isfinite(log_error) || fabs(log_error) < EXACT)
        return;
    if (b->n == 0 && b->var <= 0)
        b->var = 0.05 * 0.05;
    raw = law_clamp(b->log_factor + law_clamp(log_error, BIAS_MAX), BIAS_MAX);
    off = raw - b->fast;
    sd = num_max(sqrt(b->var), 0.005);
    b->streak = bias_streak(b->streak, off / (3 * sd));
    b->n++;
    b->age += familiar && b->age < UINT32_MAX;
    gain = num_max(2 / ((double)b->age + BIAS_PRIOR), BIAS_SLOW);
    if (!familiar)
        gain = num_min(gain, BIAS_UNFAMILIAR);
    /* One stalled step is no news about the worker; the third in a row is. */
    bound = num_max(4 * sd, 0.1);
    sudden = b->streak >= BIAS_STREAK || b->streak <= -BIAS_STREAK;
    b->fast += sudden ? 0.4 * off : num_max(BIAS_FAST, gain) * law_clamp(off, bound);
    b->log_factor += gain * law_clamp(raw - b->log_factor, bound);
    if (!sudden)
        b->var += 0.03 * (num_min(off * off, 9 * b->var) - b->var);
    /* The fast average of unchanged observations stays within a third of their spread, mostly.  After a change it is
     * worth a few observations, and the slow one goes on from there. */
    if (familiar && fabs(b->fast - b->log_factor) > sd + 0.01) {
        b->log_factor = b->fast;
        b->age = 6;
    }
    b->log_factor -= BIAS_LEAK * b->log_factor;
    b->factor = exp(b->log_factor);
}

/* From a step that says little about it. */
static void bias_hint(struct sched_bias *b, double log_error)
{
    double step = BIAS_HINT * law_clamp(log_error, 0.2);

    b->log_factor = law_clamp(b->log_factor + step, BIAS_MAX);
    b->factor = exp(b->log_factor);
    b->fast = law_clamp(b->fast + step, BIAS_MAX);
}

void sched_bias_add(struct sched_bias *b, double log_error)
{
    bias_learn(b, log_error, true);
}

/* ---- steps ---- */

void sched_predict_init(struct sched_predict *p, const struct sched_law *seed, bool prefill,
                        bool frozen)
{
    memset(p, 0, sizeof(*p));
    p->prefill = prefill;
    p->frozen = frozen;
    for (int i = 0; i < 4; i++) {
        if (seed->c[i] > 0 && seed->c[i] < NS_HIGH)
            p->seed.c[i] = seed->c[i];
    }
    if (sched_law_known(&p->seed))
        p->seed.knee = seed->knee > 0 && seed->knee < COUNT_HIGH ? seed->knee : 0;
    else
        p->seed = (struct sched_law){.knee = DEFAULT_KNEE[prefill]};
    p->law = p->seed;
    sched_spread_init(&p->spread, sched_law_known(&p->seed) ? 0.03 : 0.1);
    sched_spread_init(&p->mixed, 0.1);
}

static struct sched_estimate spread_around(const struct sched_spread *s, double ns)
{
    struct sched_estimate e = {ns, ns, ns};

    if (ns > 0) {
        e.low = ns * exp(s->low);
        e.high = ns * exp(s->high);
    }
    return e;
}

static bool ns_usable(double ns)
{
    return ns > 0 && ns < NS_HIGH;
}

struct sched_estimate sched_predict_step(const struct sched_predict *p,
                                         const struct sched_bias *bias,
                                         const struct sched_step *did)
{
    double x[4], ns;

    if (!sched_law_known(&p->law) || !step_features(p, did, x))
        return (struct sched_estimate){0};
    ns = law_product(p->law.c, x) * (bias != NULL ? sched_bias_factor(bias) : 1);
    return spread_around(&p->spread, ns);
}

struct sched_scored sched_predict_observe(struct sched_predict *p, struct sched_bias *bias,
                                          struct sched_score *score, const struct sched_step *did,
                                          double ns)
{
    struct sched_scored o = {.ok = false};
    struct sched_estimate e;
    double x[4];
    uint32_t cell;

    if (!ns_usable(ns) || (p->prefill ? did->b : did->n) > 0 || !step_features(p, did, x))
        return o;
    e = sched_predict_step(p, bias, did);
    cell = cell_of(p, x);
    if (ns_usable(e.ns)) {
        o = sched_scored(ns, e.ns, e.low, e.high);
        if (score != NULL)
            sched_score_take(score, &o);
        sched_spread_add(&p->spread, o.error);
        if (bias != NULL && !p->frozen)
            bias_learn(bias, o.error, p->cell[cell].n >= CELL_FAMILIAR);
    }
    if (!p->frozen)
        law_learn(p, x, cell, bias != NULL ? ns / sched_bias_factor(bias) : ns);
    return o;
}

/* Each half alone. */
static void mixed_parts(const struct sched_predict *prefill, const struct sched_bias *prefill_bias,
                        const struct sched_predict *decode, const struct sched_bias *decode_bias,
                        const struct sched_step *did, double *a, double *b)
{
    *a = sched_predict_step(prefill, prefill_bias, did).ns;
    *b = sched_predict_step(decode, decode_bias, did).ns;
}

/* Until one was seen: the smaller constant part, which is all that two laws can say. */
static double mixed_overlap(const struct sched_predict *prefill,
                            const struct sched_bias *prefill_bias,
                            const struct sched_predict *decode,
                            const struct sched_bias *decode_bias)
{
    if (decode->n_mixed > 0)
        return decode->overlap;
    return fmin(prefill->law.c[0] * (prefill_bias != NULL ? sched_bias_factor(prefill_bias) : 1),
                decode->law.c[0] * (decode_bias != NULL ? sched_bias_factor(decode_bias) : 1));
}

struct sched_estimate sched_predict_mixed(const struct sched_predict *prefill,
                                          const struct sched_bias *prefill_bias,
                                          const struct sched_predict *decode,
                                          const struct sched_bias *decode_bias,
                                          const struct sched_step *did)
{
    double a, b;

    if (!(did->b > 0))
        return sched_predict_step(prefill, prefill_bias, did);
    if (!(did->n > 0))
        return sched_predict_step(decode, decode_bias, did);
    mixed_parts(prefill, prefill_bias, decode, decode_bias, did, &a, &b);
    if (!ns_usable(a) || !ns_usable(b))
        return (struct sched_estimate){0};
    return spread_around(
        &decode->mixed, b + fmax(0, a - mixed_overlap(prefill, prefill_bias, decode, decode_bias)));
}

/* What the two alone would take and this took less; how much that says about a worker's speed is little, since
 * how far they overlap differs from engine to engine. */
static void mixed_learn(struct sched_predict *prefill, struct sched_bias *prefill_bias,
                        struct sched_predict *decode, struct sched_bias *decode_bias,
                        const struct sched_step *did, double ns, double error)
{
    double a, b, saved;

    if (fabs(error) < EXACT)
        return;
    mixed_parts(prefill, prefill_bias, decode, decode_bias, did, &a, &b);
    saved = fmin(fmax(a + b - ns, 0), a);
    if (decode->n_mixed++ == 0)
        decode->overlap = mixed_overlap(prefill, prefill_bias, decode, decode_bias);
    decode->overlap +=
        fmax(MIXED_GAIN, 1 / ((double)decode->n_mixed + 2)) * (saved - decode->overlap);
    if (decode->n_mixed < MIXED_SOME)
        return;
    if (prefill_bias != NULL)
        bias_hint(prefill_bias, error);
    if (decode_bias != NULL)
        bias_hint(decode_bias, error);
}

struct sched_scored
sched_predict_observe_mixed(struct sched_predict *prefill, struct sched_bias *prefill_bias,
                            struct sched_predict *decode, struct sched_bias *decode_bias,
                            struct sched_score *score, const struct sched_step *did, double ns)
{
    struct sched_scored o = {.ok = false};
    struct sched_estimate e;

    if (!(did->b > 0))
        return sched_predict_observe(prefill, prefill_bias, score, did, ns);
    if (!(did->n > 0))
        return sched_predict_observe(decode, decode_bias, score, did, ns);
    e = sched_predict_mixed(prefill, prefill_bias, decode, decode_bias, did);
    if (!ns_usable(ns) || !ns_usable(e.ns))
        return o;
    o = sched_scored(ns, e.ns, e.low, e.high);
    if (score != NULL)
        sched_score_take(score, &o);
    sched_spread_add(&decode->mixed, o.error);
    if (!decode->frozen)
        mixed_learn(prefill, prefill_bias, decode, decode_bias, did, ns, o.error);
    return o;
}

/* ---- links ---- */

static const double LINK_KEEP = 0.97, LINK_PRIOR = 0.5;

void sched_link_init(struct sched_link_predict *l, double bytes_per_s, uint64_t setup_ns)
{
    memset(l, 0, sizeof(*l));
    l->prior_setup_ns = l->setup_ns = (double)setup_ns < NS_HIGH ? (double)setup_ns : 0;
    if (bytes_per_s > 0 && isfinite(bytes_per_s))
        l->prior_ns_per_byte = l->ns_per_byte = 1e9 / bytes_per_s;
    sched_spread_init(&l->spread, 0.2);
}

double sched_link_ns(const struct sched_link_predict *l, double bytes)
{
    return l->setup_ns + l->ns_per_byte * (bytes > 0 && bytes < COUNT_HIGH ? bytes : 0);
}

struct sched_estimate sched_link_time(const struct sched_link_predict *l, double bytes)
{
    return spread_around(&l->spread, sched_link_ns(l, bytes));
}

/* Two coefficients by relative least squares, each held to its prior by half an observation; a negative one is
 * set to 0 and the other fitted alone. */
static void link_fit(struct sched_link_predict *l)
{
    double w0 = 0, w1 = 0, det, setup, rate, a00, a11, b0, b1;

    if (l->prior_setup_ns > 0)
        w0 = LINK_PRIOR / (l->prior_setup_ns * l->prior_setup_ns);
    if (l->prior_ns_per_byte > 0)
        w1 = LINK_PRIOR / (l->prior_ns_per_byte * l->prior_ns_per_byte);
    a00 = l->a[0] + fmax(w0, 1e-3 * l->a[0]);
    a11 = l->a[2] + fmax(fmin(w1, LINK_PRIOR * l->a[2]), 1e-6 * l->a[2]);
    b0 = l->b[0] + fmax(w0, 1e-3 * l->a[0]) * l->prior_setup_ns;
    b1 = l->b[1] + fmin(w1, LINK_PRIOR * l->a[2]) * l->prior_ns_per_byte;
    det = a00 * a11 - l->a[1] * l->a[1];
    if (!(det > 0) || !(a00 > 0) || !(a11 > 0))
        return;
    setup = (b0 * a11 - b1 * l->a[1]) / det;
    rate = (b1 * a00 - b0 * l->a[1]) / det;
    if (setup < 0) {
        setup = 0;
        rate = b1 / a11;
    } else if (rate < 0) {
        rate = 0;
        setup = b0 / a00;
    }
    if (isfinite(setup) && isfinite(rate)) {
        l->setup_ns = setup;
        l->ns_per_byte = rate;
    }
}

void sched_link_observe(struct sched_link_predict *l, struct sched_score *score, double bytes,
                        double ns)
{
    double over = ns, target = 1, expected = sched_link_ns(l, bytes), x0, x1;

    if (!ns_usable(ns) || !(bytes > 0 && bytes < COUNT_HIGH))
        return;
    if (ns_usable(expected)) {
        double error = log(ns / expected);

        if (score != NULL) {
            struct sched_estimate e = spread_around(&l->spread, expected);

            sched_score_add(score, ns, e.ns, e.low, e.high);
        }
        sched_spread_add(&l->spread, error);
        if (fabs(error) < EXACT)
            return;
        if (fabs(error) <= num_max(0.15, 4 * l->spread.sd)) { /* as law_learn says */
            over = expected;
            target = 1 + error;
        }
    }
    x0 = 1 / over;
    x1 = bytes / over;
    for (int i = 0; i < 3; i++)
        l->a[i] *= LINK_KEEP;
    l->a[0] += x0 * x0;
    l->a[1] += x0 * x1;
    l->a[2] += x1 * x1;
    l->b[0] = l->b[0] * LINK_KEEP + x0 * target;
    l->b[1] = l->b[1] * LINK_KEEP + x1 * target;
    l->weight = l->weight * LINK_KEEP + 1;
    link_fit(l);
}
