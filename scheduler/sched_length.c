/* scheduler/sched_length.c - see the header.
 *
 * Histograms do not decay bin by bin: new observations weigh more and more instead, and the weights are scaled
 * down together once in a while.  A forecast is one pass over 80 bins of up to four histograms, about a
 * quarter of a microsecond. */
#include "scheduler/sched_length.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"

enum {
    LENGTH_BINS = 80,
    LENGTH_FINE = 68,    /* from 4,066 tokens on the bins are half octaves, up to 2^18 tokens */
    LENGTH_BUCKETS = 40, /* half octaves of prompt length: up to 2^20 tokens */
    LENGTH_SESSIONS = 4096,
    LENGTH_TENANTS = 1024,
    LENGTH_TARGETS =
        SCHED_LENGTH_POINTS + 3, /* the points, and three bounds in their places among them */
    LENGTH_LOW = 1,              /* 5 % */
    LENGTH_LOW_CUT = 3, /* 10 %: all that may be missed, where max_new is the bound above */
    LENGTH_HIGH = LENGTH_TARGETS - 2, /* 95 % */
    LENGTH_NO_LIMIT = 1 << 18,
    LIVES_SOME = 16, /* forecasts that say nothing yet, however short lives are */
    LIVES_HELD = 1500,
    LIVES_STEERED = 3, /* longest lives, after which intervals are steered by what ended */
    LIVES_SETTLED = 8  /* and after which it stands for all */
};
static const double LENGTH_RATIO = 1.13, LENGTH_COARSE = 1.41421356237;
static const double PRIOR_LOG_MEDIAN = 4.8675, PRIOR_LOG_SD = 1; /* 130 tokens */
static const float KEEP_SESSION = 0.9f, KEEP_TENANT = 0.99f, KEEP_BUCKET = 0.995f,
                   KEEP_GLOBAL = 0.999f;
static const float HIST_SCALE_AT = 1e6f;
static const double STEER_ALL = 0.03, STEER_BUCKET = 0.02, LENGTH_STEER_MAX = 2; /* of a log */

struct length_hist {
    float bin[LENGTH_BINS];
    float sum;
    float weight; /* of the next observation; 0: none yet, so 1 */
};
struct length_entry {
    uint64_t key;
    uint16_t next;         /* in its chain, + 1 */
    uint16_t older, newer; /* in order of use, + 1 */
    struct length_hist hist;
};
/* Hash table with chains, and a list in order of use.  Indices are one more than the entry, 0: none. */
struct length_table {
    struct length_entry *entry;
    uint16_t *chain;
    uint32_t cap, n;
    uint16_t newest, oldest;
};
/* Of the log: what is added to the mixture's 5 % and 95 %. */
struct length_steer {
    double low, high;
};
struct length_bucket {
    struct length_hist hist;
    struct length_steer steer;
};
/* Who could have ended yet.  Lives are counted in forecasts made from birth to end. */
struct length_lives {
    uint32_t born, longest;
    uint32_t gone; /* of them, turned away after others were born: they will never end */
    int last;      /* highest bin seen */
    float lag[LENGTH_BINS], seen[LENGTH_BINS];
};
struct sched_length {
    float edge[LENGTH_BINS + 1], middle[LENGTH_BINS], prior[LENGTH_BINS];
    struct length_lives lives;
    struct length_hist global;
    struct length_steer
        steer; /* of all, beside the buckets' own: quick where a bucket sees little */
    struct length_bucket bucket[LENGTH_BUCKETS];
    struct length_table sessions, tenants;
};

/* ---- histograms ---- */

static void hist_scale(struct length_hist *h)
{
    float down = 1 / h->weight;

    h->sum = 0;
    for (int i = 0; i < LENGTH_BINS; i++) {
        h->bin[i] *= down;
        h->sum += h->bin[i];
    }
    h->weight = 1;
}

/* beyond: the observation is somewhere from `bin` on, as what was seen there is; prior: where nothing was. */
static void hist_add(struct length_hist *h, int bin, bool beyond, const float *prior, float keep)
{
    float w;

    if (h->weight <= 0)
        h->weight = 1;
    w = h->weight;
    if (beyond) {
        float sum = 0;

        for (int i = bin; i < LENGTH_BINS; i++)
            sum += h->bin[i] + w * prior[i];
        for (int i = bin; i < LENGTH_BINS && sum > 0; i++)
            h->bin[i] += w * (h->bin[i] + w * prior[i]) / sum;
    } else {
        h->bin[bin] += w;
    }
    h->sum += w;
    h->weight = w / keep;
    if (h->weight > HIST_SCALE_AT)
        hist_scale(h);
}

/* Observations that it is worth. */
static float hist_n(const struct length_hist *h)
{
    return h->weight > 0 ? h->sum / h->weight : 0;
}

/* ---- tables ---- */

static enum err table_create(struct length_table *t, uint32_t cap)
{
    t->cap = cap;
    t->entry = mem_try_calloc(cap, sizeof(t->entry[0]));
    t->chain = mem_try_calloc(cap, sizeof(t->chain[0]));
    return t->entry != NULL && t->chain != NULL ? ERR_OK : ERR_NOMEM;
}

static void table_free(struct length_table *t)
{
    mem_free(t->entry);
    mem_free(t->chain);
}

/* cap is a power of two; keys may be small numbers or hashes. */
static uint16_t *table_chain(const struct length_table *t, uint64_t key)
{
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return &t->chain[(key >> 40) & (t->cap - 1)];
}

static uint16_t table_find(const struct length_table *t, uint64_t key)
{
    uint16_t at = *table_chain(t, key);

    while (at != 0 && t->entry[at - 1].key != key)
        at = t->entry[at - 1].next;
    return at;
}

static void table_unlink_use(struct length_table *t, uint16_t at)
{
    const struct length_entry *e = &t->entry[at - 1];

    if (e->newer != 0)
        t->entry[e->newer - 1].older = e->older;
    else
        t->newest = e->older;
    if (e->older != 0)
        t->entry[e->older - 1].newer = e->newer;
    else
        t->oldest = e->newer;
}

static void table_link_use(struct length_table *t, uint16_t at)
{
    struct length_entry *e = &t->entry[at - 1];

    e->newer = 0;
    e->older = t->newest;
    if (t->newest != 0)
        t->entry[t->newest - 1].newer = at;
    t->newest = at;
    if (t->oldest == 0)
        t->oldest = at;
}

static void table_unchain(struct length_table *t, uint16_t at)
{
    uint16_t *p = table_chain(t, t->entry[at - 1].key);

    while (*p != at)
        p = &t->entry[*p - 1].next;
    *p = t->entry[at - 1].next;
}

/* The entry of the key, made if it was not there, and now the newest. */
static struct length_hist *table_take(struct length_table *t, uint64_t key)
{
    uint16_t at = table_find(t, key), *chain;

    if (at != 0) {
        table_unlink_use(t, at);
    } else {
        if (t->n < t->cap) {
            at = (uint16_t)++t->n;
        } else {
            at = t->oldest;
            table_unlink_use(t, at);
            table_unchain(t, at);
            memset(&t->entry[at - 1], 0, sizeof(t->entry[0]));
        }
        chain = table_chain(t, key);
        t->entry[at - 1].key = key;
        t->entry[at - 1].next = *chain;
        *chain = at;
    }
    table_link_use(t, at);
    return &t->entry[at - 1].hist;
}

static const struct length_hist *table_look(const struct length_table *t, uint64_t key)
{
    uint16_t at = key != 0 ? table_find(t, key) : 0;

    return at != 0 ? &t->entry[at - 1].hist : NULL;
}

/* ---- life ---- */

static void length_fill_bins(struct sched_length *l)
{
    double sum = 0, mass[LENGTH_BINS];

    for (int i = 0; i <= LENGTH_BINS; i++) {
        int fine = i < LENGTH_FINE ? i : LENGTH_FINE;

        l->edge[i] = (float)(pow(LENGTH_RATIO, fine) * pow(LENGTH_COARSE, i - fine));
    }
    for (int i = 0; i < LENGTH_BINS; i++) {
        double z;

        l->middle[i] = (l->edge[i] + l->edge[i + 1]) / 2;
        z = (log(l->middle[i]) - PRIOR_LOG_MEDIAN) / PRIOR_LOG_SD;
        mass[i] = (exp(-z * z / 2) + 1e-6) * /* nothing is impossible */
                  log(l->edge[i + 1] / l->edge[i]) / log(LENGTH_RATIO);
        sum += mass[i];
    }
    for (int i = 0; i < LENGTH_BINS; i++)
        l->prior[i] = (float)(mass[i] / sum);
}

enum err sched_length_create(struct sched_length **out)
{
    struct sched_length *l = mem_try_calloc(1, sizeof(*l));

    if (l == NULL)
        return ERR_NOMEM;
    length_fill_bins(l);
    l->lives.last = -1;
    if (table_create(&l->sessions, LENGTH_SESSIONS) != ERR_OK ||
        table_create(&l->tenants, LENGTH_TENANTS) != ERR_OK) {
        sched_length_free(l);
        return ERR_NOMEM;
    }
    *out = l;
    return ERR_OK;
}

void sched_length_free(struct sched_length *l)
{
    if (l == NULL)
        return;
    table_free(&l->sessions);
    table_free(&l->tenants);
    mem_free(l);
}

/* ---- who could have ended yet ---- */

static bool lives_settled(const struct length_lives *v, uint32_t times)
{
    return v->born > times * ((uint64_t)v->longest + LIVES_SOME);
}

static void lives_end(struct length_lives *v, uint32_t born, int bin)
{
    uint32_t lag = v->born - born;

    if (born == 0)
        return;
    v->longest = lag > v->longest ? lag : v->longest;
    v->last = bin > v->last ? bin : v->last;
    v->lag[bin] += ((float)lag - v->lag[bin]) / (v->seen[bin] < 10 ? v->seen[bin] + 1 : 10);
    v->seen[bin]++;
}

static float fmin_of(float a, float b)
{
    return a < b ? a : b;
}

/* Of those born, only those as old as an answer of the bin takes can have shown one. */
static void lives_correct(const struct sched_length *l, float *mix, float *sum)
{
    const struct length_lives *v = &l->lives;
    float born = (float)v->born, lag = 0, visible = 0, total = 0, beyond = 0, missing;

    for (int i = 0; i < LENGTH_BINS; i++) {
        float old;

        lag = v->seen[i] > 0 && v->lag[i] > lag ? v->lag[i] : lag; /* longer answers live longer */
        old = born - lag > 0.05f * born ? born - lag : 0.05f * born;
        visible += born / old * v->seen[i];
        /* Histograms hold the last thousand or two; a kind that has ended all along is in them in full. */
        mix[i] *= fmin_of(born, LIVES_HELD) / fmin_of(old, LIVES_HELD);
        total += mix[i];
        beyond += i > v->last ? l->prior[i] : 0;
    }
    born -= (float)v->gone;
    missing = born > visible && beyond > 0 ? (born - visible) / born : 0;
    born = (float)v->born;
    /* Refused and canceled ones never end; they may not count for ever. */
    if (v->last >= 0)
        missing *= fmaxf(0, 1 - born / (LIVES_SETTLED * ((float)v->longest + LIVES_SOME)));
    missing = fminf(missing, 0.9f);
    for (int i = v->last + 1; i < LENGTH_BINS && missing > 0; i++)
        mix[i] += total * missing / (1 - missing) * l->prior[i] / beyond;
    *sum = total / (1 - missing);
}

/* ---- forecasts ---- */

static uint32_t length_bucket_of(uint32_t n_prompt)
{
    double b = n_prompt > 1 ? 2 * log2((double)n_prompt) : 0;

    return b < LENGTH_BUCKETS - 1 ? (uint32_t)b : LENGTH_BUCKETS - 1;
}

/* Share of each histogram in a mixture, over its sum; nothing for one that is empty. */
static float mix_weight(const struct length_hist *h, float weight)
{
    return h->sum > 0 && weight > 0 ? weight / h->sum : 0;
}

static void mix_bins(float *restrict mix, const float *restrict prior,
                     const struct length_hist *const *h, const float *w)
{
    const float *restrict a = h[0]->bin, *restrict b = h[1]->bin, *restrict c = h[2]->bin,
                          *restrict d = h[3]->bin;

    for (int i = 0; i < LENGTH_BINS; i++)
        mix[i] = w[4] * prior[i] + w[0] * a[i] + w[1] * b[i] + w[2] * c[i] + w[3] * d[i];
}

/* What a request of this kind is like, from the nearest relatives that have been seen; each stands back behind
 * its child as the child has seen more.  Returns the sum. */
static float mixture(const struct sched_length *l, const struct sched_length_of *of,
                     uint32_t bucket, float *mix)
{
    static const struct length_hist none;
    const struct length_hist *h[4] = {&l->global, &l->bucket[bucket].hist,
                                      table_look(&l->tenants, of->tenant),
                                      table_look(&l->sessions, of->key)};
    float n_global = hist_n(h[0]), n_bucket = hist_n(h[1]), n_tenant, n_session, w[5];
    float of_bucket, of_tenant, of_global, of_prior;

    h[2] = h[2] != NULL ? h[2] : &none;
    h[3] = h[3] != NULL ? h[3] : &none;
    n_tenant = hist_n(h[2]);
    n_session = hist_n(h[3]);
    of_bucket = 8 * n_bucket / (n_bucket + 10);
    of_tenant = 2 * n_tenant / (n_tenant + 50);
    of_global = 0.5f + (8 - of_bucket);
    of_prior = of_global * 5 / (5 + n_global);
    w[0] = mix_weight(h[0], of_global - of_prior);
    w[1] = mix_weight(h[1], of_bucket);
    w[2] = mix_weight(h[2], of_tenant);
    w[3] = mix_weight(h[3], n_session);
    w[4] = of_prior;
    mix_bins(mix, l->prior, h, w);
    return of_global + of_bucket + of_tenant + n_session;
}

static bool mix_is_bound(int i)
{
    return i == LENGTH_LOW || i == LENGTH_LOW_CUT || i == LENGTH_HIGH;
}

/* The quantiles at (i + 0.5) / POINTS, and the bounds between them. */
static void mix_quantiles(const struct sched_length *l, const float *mix, float sum, float *q)
{
    float below = 0;
    int bin = 0, point = 0;

    for (int i = 0; i < LENGTH_TARGETS; i++) {
        float target = i == LENGTH_LOW       ? 0.05f
                       : i == LENGTH_LOW_CUT ? 0.1f
                       : i == LENGTH_HIGH    ? 0.95f
                                             : ((float)point++ + 0.5f) / SCHED_LENGTH_POINTS;

        target *= sum;
        while (bin < LENGTH_BINS - 1 && below + mix[bin] < target)
            below += mix[bin++];
        q[i] = mix[bin] > target - below ? (target - below) / mix[bin] : 1;
        q[i] = l->edge[bin] + q[i] * (l->edge[bin + 1] - l->edge[bin]);
    }
}

/* Times the mixture's sum.  Four sums side by side: they do not wait for each other. */
static float mix_mean(const struct sched_length *l, const float *mix, float most)
{
    float sum[4] = {0};

    for (int i = 0; i < LENGTH_BINS; i += 4) {
        for (int k = 0; k < 4; k++) {
            float m = l->middle[i + k];

            sum[k] += mix[i + k] * (m < most ? m : most);
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static uint32_t cast_in_limit(double tokens, uint32_t most)
{
    return !(tokens >= 1) ? 1 : tokens >= most ? most : (uint32_t)(tokens + 0.5);
}

void sched_length_forecast(struct sched_length *l, const struct sched_length_of *of,
                           struct sched_length_cast *out)
{
    uint32_t bucket = length_bucket_of(of->n_prompt);
    float mix[LENGTH_BINS], q[LENGTH_TARGETS], sum = mixture(l, of, bucket, mix), mean;
    uint32_t most = of->max_new > 0 ? of->max_new : LENGTH_NO_LIMIT;
    const struct length_steer *own = &l->bucket[bucket].steer;

    l->lives.born++;
    out->born = l->lives.born;
    if (!lives_settled(&l->lives, LIVES_SETTLED))
        lives_correct(l, mix, &sum);
    mix_quantiles(l, mix, sum, q);
    for (int i = 0, k = 0; i < LENGTH_TARGETS; i++) {
        if (!mix_is_bound(i))
            out->q[k++] = (uint16_t)cast_in_limit(q[i], most < UINT16_MAX ? most : UINT16_MAX);
    }
    mean = mix_mean(l, mix, (float)most) / sum;
    out->mean = mean < 1 ? 1 : mean > (float)most ? (float)most : mean;
    out->most = most;
    out->raw_high = q[LENGTH_HIGH];
    out->high = cast_in_limit(out->raw_high * exp(l->steer.high + own->high), most);
    out->raw_low = q[out->high < most ? LENGTH_LOW : LENGTH_LOW_CUT];
    out->low = cast_in_limit(out->raw_low * exp(l->steer.low + own->low), most);
    if (out->low > out->high)
        out->low = out->high;
}

void sched_length_unasked(struct sched_length *l, const struct sched_length_cast *cast)
{
    if (cast->born != 0 && cast->born == l->lives.born)
        l->lives.born--;
    else if (cast->born != 0) /* the numbers of those that came later stay */
        l->lives.gone++;
}

/* Probability of the points, with 0 before the first: looked up, since this is asked some 20 times per request and a
 * division takes longer than all the rest. */
#define POINT_P(i) (((i) + 0.5) / SCHED_LENGTH_POINTS)
#define POINTS_P(i) POINT_P(i), POINT_P(i + 1), POINT_P(i + 2), POINT_P(i + 3)
static const double point_p[] = {
    0, POINTS_P(0), POINTS_P(4), POINTS_P(8), POINTS_P(12), POINTS_P(16), POINTS_P(20)};

/* Probability that the length is at most x, straight lines between the points.  rank: points <= x. */
static double cast_below(const struct sched_length_cast *c, double x, uint32_t rank)
{
    double left_x = rank > 0 ? c->q[rank - 1] : 0, left_p = point_p[rank], p;

    if (rank == SCHED_LENGTH_POINTS)
        return left_p;
    p = point_p[rank + 1];
    return left_p + (p - left_p) * (x - left_x) / (c->q[rank] - left_x);
}

static double cast_at(const struct sched_length_cast *c, double p)
{
    double at = p * SCHED_LENGTH_POINTS - 0.5;
    int i;

    if (at < 0)
        return c->q[0] * (at + 0.5) * 2;
    i = (int)at;
    return c->q[i] + (at - i) * ((double)c->q[i + 1] - c->q[i]);
}

double sched_length_given_at(const struct sched_length_cast *c, double so_far, uint32_t rank,
                             double p)
{
    static const double last = (SCHED_LENGTH_POINTS - 0.5) / SCHED_LENGTH_POINTS;
    double from, q, before, known;

    before = so_far > 0 ? so_far : 0;
    p = p > 0.999 ? 0.999 : p > 0 ? p : 0;
    from = cast_below(c, before, rank);
    q = from + p * (1 - from);
    /* Beyond the last point few have been seen: lengths there fall off with the fourth power. */
    if (q < last) {
        known = cast_at(c, q);
    } else {
        double start = fmax(c->q[SCHED_LENGTH_POINTS - 1], before);
        double rest = fmin(1 - from, 1 - last);

        known = start * pow(fmax((1 - q) / rest, 1e-3), -0.25);
    }
    known = known < c->most ? known : c->most;
    return known > before + 1 ? known : before + 1;
}

double sched_length_given(const struct sched_length_cast *c, double so_far, double p)
{
    return sched_length_given_at(c, so_far, sched_length_rank(c, so_far), p);
}

/* ---- learning ---- */

static int length_bin_of(const struct sched_length *l, uint32_t tokens)
{
    int bin = (int)(log((double)tokens) / log(LENGTH_RATIO));

    if (bin >= LENGTH_FINE)
        bin = LENGTH_FINE + (int)(log(tokens / (double)l->edge[LENGTH_FINE]) / log(LENGTH_COARSE));
    bin = bin >= LENGTH_BINS ? LENGTH_BINS - 1 : bin;
    /* The edges are rounded; which side is theirs to say. */
    if (bin > 0 && (float)tokens < l->edge[bin])
        bin--;
    else if (bin < LENGTH_BINS - 1 && (float)tokens >= l->edge[bin + 1])
        bin++;
    return bin;
}

static void steer_add(struct length_steer *b, double low, double high, double gain)
{
    b->low = fmin(fmax(b->low + gain * low, -LENGTH_STEER_MAX), LENGTH_STEER_MAX);
    b->high = fmin(fmax(b->high + gain * high, -LENGTH_STEER_MAX), LENGTH_STEER_MAX);
}

/* Against the bounds as they would be now, not as they were given: an answer comes thousands of requests after its
 * forecast, and steering by what has long been corrected would swing for ever.  A bound that the limit cuts says
 * nothing when it holds. */
static void steer(struct length_steer *all, struct length_steer *own,
                  const struct sched_length_cast *cast, uint32_t tokens)
{
    double high = cast->raw_high * exp(all->high + own->high);
    double low = fmin(cast->raw_low * exp(all->low + own->low), cast->most);
    double tail = cast->high < cast->most ? 0.05 : 0.1, up = 0, down = 0;

    if (tokens > high)
        up = 1 - 0.05;
    else if (high < cast->most)
        up = -0.05;
    if (tokens < low)
        down = -(1 - tail);
    else if (low < cast->most)
        down = tail;
    steer_add(all, down, up, STEER_ALL);
    steer_add(own, down, up, STEER_BUCKET);
}

void sched_length_observe(struct sched_length *l, const struct sched_length_of *of,
                          const struct sched_length_cast *cast, uint32_t tokens,
                          struct sched_score *score)
{
    struct length_bucket *b = &l->bucket[length_bucket_of(of->n_prompt)];
    bool cut = of->max_new > 0 && tokens >= of->max_new;
    int bin;

    if (tokens == 0)
        return;
    bin = length_bin_of(l, tokens);
    if (score != NULL)
        sched_score_add(score, tokens, sched_length_given(cast, 0, 0.5), cast->low, cast->high);
    lives_end(&l->lives, cast->born, bin);
    if (cast->born != 0 && lives_settled(&l->lives, LIVES_STEERED))
        steer(&l->steer, &b->steer, cast, tokens);
    hist_add(&l->global, bin, cut, l->prior, KEEP_GLOBAL);
    hist_add(&b->hist, bin, cut, l->prior, KEEP_BUCKET);
    if (of->tenant != 0)
        hist_add(table_take(&l->tenants, of->tenant), bin, cut, l->prior, KEEP_TENANT);
    if (of->key != 0)
        hist_add(table_take(&l->sessions, of->key), bin, cut, l->prior, KEEP_SESSION);
}
