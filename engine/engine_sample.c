/* engine/engine_sample.c - see the header for the contract.
 *
 * What is computed is exact, so that a stream resumed on another machine draws what it would have drawn from
 * the same logits, and so that the GPU's sampler (engine/kernels/sample.h) can give the same tokens: weights
 * are integers and every share of them is (engine_sample_math.h), candidates have distinct keys, and no
 * result depends on the order of additions or on a library's logarithm.  What lies more than a factor of
 * 2^41 below the most likely token is never drawn.  Bounds here only save work: each leaves more than is
 * needed, and moving it changes no token.
 *
 * The whole vocabulary is read once, for the largest logit of each run of 64.  After that only runs
 * that can hold a candidate are looked at again; the candidates are kept in id order, and the filters
 * shrink the list by a threshold found with a radix selection (linear, also for equal logits).  The draw
 * walks the list in id order, not by likelihood: two neighbours in likelihood that swap through rounding
 * then do not move the other boundaries.
 *
 * Non-finite logits: NaN counts as -inf, because it loses every comparison here (as the run maximum, as
 * a candidate, as a weight); +inf as the largest float.  If nothing is above -inf, the lowest id that is
 * not a banned stop id is the token. */
#include "engine/engine_sample.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/engine_history.h"
#include "engine/engine_philox.h"
#include "engine/engine_sample_math.h"

enum {
    RUN = 64,        /* logits per run */
    LANES = 16,      /* independent maxima and sums, so that the compiler can vectorise */
    DIGIT_BITS = 11, /* of the radix selection */
    DIGITS = 1 << DIGIT_BITS,
    KEY_LOW_SHIFT = 53
};

#define WEIGHT_LOG2_MIN (-42.0f) /* weights that far down are 0 */
#define LOGPROB_MIN (-9999.0f)   /* finite, so that it can be written as JSON */

/* A candidate's rank in one number: larger logit first, then lower id. */
static inline uint64_t key_of(float logit, uint32_t id)
{
    return (uint64_t)engine_rank(logit) << 32 | (uint32_t)~id;
}

static inline uint32_t key_id(uint64_t key)
{
    return ~(uint32_t)key;
}

struct scratch {
    float *run_max;     /* [n_runs] */
    uint64_t *keys;     /* [vocab] candidates, ascending by id */
    uint64_t *weights;  /* [vocab] of the candidates */
    uint64_t *sel_keys; /* [vocab] eaten by a selection */
    uint64_t *sel_weights;
    uint64_t *hist; /* [DIGITS] */
};

static uint32_t run_count(uint32_t vocab)
{
    return vocab / RUN + (vocab % RUN != 0);
}

size_t engine_sample_scratch_bytes(uint32_t vocab)
{
    size_t n = vocab;

    return n * 4 * sizeof(uint64_t) + DIGITS * sizeof(uint64_t) + run_count(vocab) * sizeof(float);
}

static struct scratch lay_out(void *memory, uint32_t vocab)
{
    uint64_t *p = memory;
    size_t n = vocab;

    return (struct scratch){.keys = p,
                            .weights = p + n,
                            .sel_keys = p + 2 * n,
                            .sel_weights = p + 3 * n,
                            .hist = p + 4 * n,
                            .run_max = (float *)(void *)(p + 4 * n + DIGITS)};
}

/* ---- the logits before sampling ---------------------------------------------------------------- */

static void apply_history(float *logits, uint32_t vocab, const struct engine_sampling *s,
                          const struct engine_history *h)
{
    for (size_t i = 0; i < h->n; i++) {
        const struct engine_history_entry *e = &h->entries[i];
        float *l;

        if ((uint32_t)e->token >= vocab)
            continue;
        l = &logits[e->token];
        *l = *l > 0 ? *l / s->repetition_penalty : *l * s->repetition_penalty;
        if (e->n_output > 0)
            *l -= s->presence_penalty + s->frequency_penalty * (float)e->n_output;
    }
}

static void apply_all(float *logits, uint32_t vocab, const struct engine_sampling *s,
                      const struct engine_history *h, uint32_t sample_index)
{
    if (h != NULL && engine_sampling_uses_history(s))
        apply_history(logits, vocab, s, h);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if ((uint32_t)s->bias[i].token < vocab)
            logits[s->bias[i].token] += s->bias[i].bias;
    }
    if (!engine_sampling_bans_stops(s, sample_index))
        return;
    for (uint32_t i = 0; i < s->n_stop_ids; i++) {
        if ((uint32_t)s->stop_ids[i] < vocab)
            logits[s->stop_ids[i]] = -INFINITY;
    }
}

/* The largest of n logits; NaN loses every comparison and so is passed over. */
static float max_of(const float *x, uint32_t n)
{
    float lane[LANES], best = -INFINITY;
    uint32_t i = 0;

    for (int j = 0; j < LANES; j++)
        lane[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++)
            lane[j] = x[i + (uint32_t)j] > lane[j] ? x[i + (uint32_t)j] : lane[j];
    }
    for (int j = 0; j < LANES; j++)
        best = lane[j] > best ? lane[j] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

/* Fills run_max and returns the largest logit. */
static float scan_runs(const float *logits, uint32_t vocab, float *run_max)
{
    float best = -INFINITY;

    for (uint32_t r = 0; r < vocab / RUN; r++) {
        run_max[r] = max_of(logits + (size_t)r * RUN, RUN);
        best = run_max[r] > best ? run_max[r] : best;
    }
    if (vocab % RUN != 0) {
        uint32_t r = vocab / RUN;

        run_max[r] = max_of(logits + (size_t)r * RUN, vocab % RUN);
        best = run_max[r] > best ? run_max[r] : best;
    }
    return best;
}

/* After this no logit is +inf, so that differences from the largest are numbers. */
static void cap_infinite(float *logits, uint32_t vocab)
{
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = logits[i] > FLT_MAX ? FLT_MAX : logits[i];
}

static int32_t lowest_with(const float *logits, uint32_t vocab, const float *run_max, float value)
{
    uint32_t r = 0, id;

    while (run_max[r] != value)
        r++;
    id = r * RUN;
    while (id + 1 < vocab && logits[id] != value)
        id++;
    return (int32_t)id;
}

/* ---- weights ----------------------------------------------------------------------------------- */

/* All weights together: at most 2^40 a token. */
static uint64_t sum_weights(const float *logits, uint32_t vocab, float max, float scale)
{
    uint64_t sum = 0, lane[LANES] = {0};
    uint32_t i = 0;

    for (; i + LANES <= vocab; i += LANES) {
        float x[LANES];

        for (int j = 0; j < LANES; j++) /* in two steps: each is vectorised as a whole */
            x[j] = engine_exp2_weight((logits[i + (uint32_t)j] - max) * scale);
        for (int j = 0; j < LANES; j++)
            lane[j] += engine_to_integer(x[j]);
    }
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    for (; i < vocab; i++)
        sum += engine_weight(logits[i], max, scale);
    return sum;
}

/* ---- selection --------------------------------------------------------------------------------- */

/* The threshold key t such that the keys >= t are the shortest leading part, in falling order, whose
 * weights reach target (at least 1).  Without weights every key counts 1.  The arrays are eaten.  If
 * all together do not reach it, t is the smallest key. */
static uint64_t select_threshold(uint64_t *keys, uint64_t *weights, size_t n, uint64_t target,
                                 uint64_t *hist)
{
    uint64_t above = 0; /* weight of keys that are in the part for certain */

    for (int shift = KEY_LOW_SHIFT; n > 1; shift = shift > DIGIT_BITS ? shift - DIGIT_BITS : 0) {
        size_t kept = 0;
        uint32_t d = DIGITS - 1, low = DIGITS;

        memset(hist, 0, DIGITS * sizeof(*hist));
        for (size_t i = 0; i < n; i++) {
            uint32_t digit = (uint32_t)(keys[i] >> shift) & (DIGITS - 1);

            hist[digit] += weights != NULL ? weights[i] : 1;
            low = digit < low ? digit : low;
        }
        while (d > low && above + hist[d] < target)
            above += hist[d--];
        for (size_t i = 0; i < n; i++) {
            if (((uint32_t)(keys[i] >> shift) & (DIGITS - 1)) != d)
                continue;
            keys[kept] = keys[i];
            if (weights != NULL)
                weights[kept] = weights[i];
            kept++;
        }
        n = kept;
        if (shift == 0)
            break; /* keys are distinct, so one is left */
    }
    return keys[0];
}

/* No candidate for the first k places is below this: k runs have a maximum of at least that. */
static float bound_for_top(uint32_t k, uint32_t n_runs, struct scratch *w)
{
    uint64_t key;

    if (k >= n_runs)
        return -INFINITY;
    for (uint32_t r = 0; r < n_runs; r++)
        w->sel_keys[r] = key_of(w->run_max[r], r);
    key = select_threshold(w->sel_keys, NULL, n_runs, k, w->hist);
    return w->run_max[key_id(key)];
}

/* Collect what is >= bound and above -inf, ascending by id. */
static size_t collect(const float *logits, uint32_t vocab, float bound, struct scratch *w)
{
    size_t n = 0;

    for (uint32_t r = 0; r < run_count(vocab); r++) {
        uint32_t end = vocab - r * RUN < RUN ? vocab : (r + 1) * RUN;

        if (w->run_max[r] < bound)
            continue;
        for (uint32_t id = r * RUN; id < end; id++) {
            w->keys[n] = key_of(logits[id], id);
            n += logits[id] >= bound && logits[id] > -INFINITY;
        }
    }
    return n;
}

/* Drop candidates below the threshold, and their weights if there are any yet. */
static size_t keep_from(uint64_t threshold, struct scratch *w, size_t n, bool weighted)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        if (w->keys[i] < threshold)
            continue;
        w->keys[kept] = w->keys[i];
        if (weighted)
            w->weights[kept] = w->weights[i];
        kept++;
    }
    return kept;
}

static size_t keep_top(uint32_t k, struct scratch *w, size_t n)
{
    uint64_t threshold;

    if (n <= k)
        return n;
    memcpy(w->sel_keys, w->keys, n * sizeof(*w->keys));
    threshold = select_threshold(w->sel_keys, NULL, n, k, w->hist);
    return keep_from(threshold, w, n, false);
}

/* ---- the draw ---------------------------------------------------------------------------------- */

static uint64_t weigh(const float *logits, float max, float scale, struct scratch *w, size_t n)
{
    uint64_t total = 0;

    for (size_t i = 0; i < n; i++) {
        w->weights[i] = engine_weight(logits[key_id(w->keys[i])], max, scale);
        total += w->weights[i];
    }
    return total;
}

/* Keep the most likely ones that together weigh at least target. */
static size_t keep_mass(uint64_t target, struct scratch *w, size_t n)
{
    uint64_t threshold;

    memcpy(w->sel_keys, w->keys, n * sizeof(*w->keys));
    memcpy(w->sel_weights, w->weights, n * sizeof(*w->weights));
    threshold = select_threshold(w->sel_keys, w->sel_weights, n, target, w->hist);
    return keep_from(threshold, w, n, true);
}

/* All tokens below this together weigh no more than left_out, what the share of top_p leaves of the total, so
 * the shortest part that reaches the share has none of them.  A twentieth of an octave covers the roundings
 * of weights and logarithm where an allowed weight is large enough for it to be a few units. */
static float bound_for_mass(uint64_t left_out, uint32_t vocab, float max, float scale)
{
    double each = (double)left_out / vocab;

    if (each < 64)
        return -INFINITY;
    return max + (float)((log2(each) - ENGINE_WEIGHT_BITS - 0.05) / (double)scale);
}

static size_t keep_min(uint64_t least, struct scratch *w, size_t n)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        if (w->weights[i] < least)
            continue;
        w->keys[kept] = w->keys[i];
        w->weights[kept++] = w->weights[i];
    }
    return kept;
}

static int32_t walk(const struct scratch *w, size_t n, uint64_t random)
{
    uint64_t total = 0, left;
    size_t i = 0;

    for (size_t j = 0; j < n; j++)
        total += w->weights[j];
    left = engine_mul_high(random, total); /* below total */
    while (i + 1 < n && left >= w->weights[i])
        left -= w->weights[i++];
    return (int32_t)key_id(w->keys[i]);
}

/* max is finite: so at least the most likely token is a candidate at every stage. */
static int32_t draw(const float *logits, uint32_t vocab, const struct engine_sampling *s,
                    uint32_t sample_index, float max, struct scratch *w)
{
    float scale = ENGINE_LOG2_E / s->temperature;
    float bound = max + WEIGHT_LOG2_MIN / scale, higher = bound;
    uint64_t share = engine_share(s->top_p), total = 0, weight;
    size_t n;

    if (s->top_k > 0) {
        higher = bound_for_top((uint32_t)s->top_k, run_count(vocab), w);
    } else if (share != 0) {
        total = sum_weights(logits, vocab, max, scale);
        higher = bound_for_mass(total - engine_share_of(total, share), vocab, max, scale);
    }
    n = collect(logits, vocab, higher > bound ? higher : bound, w);
    if (s->top_k > 0)
        n = keep_top((uint32_t)s->top_k, w, n);
    weight = weigh(logits, max, scale, w, n);
    if (share != 0)
        n = keep_mass(engine_share_of(s->top_k > 0 ? weight : total, share), w, n);
    if (s->min_p > 0.0f)
        n = keep_min(engine_least(s->min_p), w, n);
    return walk(w, n, engine_philox_draw(s->seed, sample_index));
}

/* ---- log probabilities ------------------------------------------------------------------------- */

static float logprob_of(float logit, float max, double log_sum)
{
    double v = (double)logit - (double)max - log_sum;

    return v > (double)LOGPROB_MIN ? (float)v : LOGPROB_MIN;
}

/* The n_top largest keys, largest first: at most 20, so by repeated search. */
static void list_top(const float *logits, uint32_t vocab, uint32_t n_top, float max, double log_sum,
                     struct scratch *w, struct engine_sampled *out)
{
    size_t n = collect(logits, vocab, bound_for_top(n_top, run_count(vocab), w), w);

    n = keep_top(n_top, w, n);
    for (size_t i = 0; i < n; i++) {
        size_t best = i;
        uint64_t key;
        uint32_t id;

        for (size_t j = i + 1; j < n; j++)
            best = w->keys[j] > w->keys[best] ? j : best;
        key = w->keys[best];
        w->keys[best] = w->keys[i];
        id = key_id(key);
        out->top[i] = (struct engine_top){(int32_t)id, logprob_of(logits[id], max, log_sum)};
    }
    out->n_top = (uint32_t)n;
}

static void report_logprobs(const float *logits, uint32_t vocab, const struct engine_sampling *s,
                            float max, struct scratch *w, struct engine_sampled *out)
{
    uint64_t sum = sum_weights(logits, vocab, max, ENGINE_LOG2_E);
    double log_sum = log(ldexp((double)sum, -ENGINE_WEIGHT_BITS));
    uint32_t n_top = s->n_top < ENGINE_TOP_LOGPROBS_MAX ? s->n_top : ENGINE_TOP_LOGPROBS_MAX;

    out->logprob = logprob_of(logits[out->token], max, log_sum);
    if (n_top > 0)
        list_top(logits, vocab, n_top, max, log_sum, w, out);
}

/* ---- public ------------------------------------------------------------------------------------ */

void engine_sample(float *logits, uint32_t vocab, const struct engine_sampling *s,
                   const struct engine_history *h, uint32_t sample_index, void *memory,
                   struct engine_sampled *out)
{
    struct scratch w = lay_out(memory, vocab);
    bool greedy = !(s->temperature >= ENGINE_GREEDY_BELOW);
    float max;

    out->logprob = 0;
    out->n_top = 0;
    apply_all(logits, vocab, s, h, sample_index);
    max = scan_runs(logits, vocab, w.run_max);
    if (max > FLT_MAX) {
        cap_infinite(logits, vocab);
        max = scan_runs(logits, vocab, w.run_max);
    }
    if (max == -INFINITY) {
        out->token = engine_sampling_fallback(s, vocab, sample_index);
        out->logprob = s->want_logprobs ? LOGPROB_MIN : 0;
        return;
    }
    if (greedy)
        out->token = lowest_with(logits, vocab, w.run_max, max);
    else
        out->token = draw(logits, vocab, s, sample_index, max, &w);
    if (s->want_logprobs)
        report_logprobs(logits, vocab, s, max, &w, out);
}

bool engine_sampling_uses_history(const struct engine_sampling *s)
{
    return s->repetition_penalty != 1.0f || s->presence_penalty != 0.0f ||
           s->frequency_penalty != 0.0f;
}

bool engine_sampling_bans_stops(const struct engine_sampling *s, uint32_t sample_index)
{
    return sample_index < s->min_tokens && s->n_stop_ids > 0;
}

int32_t engine_sampling_fallback(const struct engine_sampling *s, uint32_t vocab,
                                 uint32_t sample_index)
{
    for (uint32_t id = 0; engine_sampling_bans_stops(s, sample_index) && id < vocab; id++) {
        uint32_t i = 0;

        while (i < s->n_stop_ids && (uint32_t)s->stop_ids[i] != id)
            i++;
        if (i == s->n_stop_ids)
            return (int32_t)id;
    }
    return 0;
}

void engine_sampling_defaults(struct engine_sampling *s)
{
    *s = (struct engine_sampling){.top_p = 1.0f, .repetition_penalty = 1.0f};
}

/* Written so that NaN is refused. */
static enum err check_range(const char *name, float value, float low, float high,
                            struct err_msg *msg)
{
    if (value >= low && value <= high)
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "%s is %g, allowed are %g to %g", name, (double)value,
                   (double)low, (double)high);
}

static enum err check_lists(const struct engine_sampling *s, uint32_t vocab, struct err_msg *msg)
{
    if (s->n_top > ENGINE_TOP_LOGPROBS_MAX)
        return err_set(msg, ERR_INVALID, "top_logprobs is %u, at most %d are allowed", s->n_top,
                       ENGINE_TOP_LOGPROBS_MAX);
    if (s->n_stop_ids > ENGINE_STOP_IDS_MAX || (s->n_stop_ids > 0 && s->stop_ids == NULL))
        return err_set(msg, ERR_INVALID, "stop_token_ids has %u entries, at most %d are allowed",
                       s->n_stop_ids, ENGINE_STOP_IDS_MAX);
    if (s->n_bias > ENGINE_BIAS_MAX || (s->n_bias > 0 && s->bias == NULL))
        return err_set(msg, ERR_INVALID, "logit_bias has %u entries, at most %d are allowed",
                       s->n_bias, ENGINE_BIAS_MAX);
    for (uint32_t i = 0; i < s->n_stop_ids; i++) {
        if ((uint32_t)s->stop_ids[i] >= vocab)
            return err_set(msg, ERR_INVALID, "stop_token_ids: %d is outside the vocabulary of %u",
                           s->stop_ids[i], vocab);
    }
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if ((uint32_t)s->bias[i].token >= vocab)
            return err_set(msg, ERR_INVALID, "logit_bias: %d is outside the vocabulary of %u",
                           s->bias[i].token, vocab);
        if (!isfinite(s->bias[i].bias))
            return err_set(msg, ERR_INVALID, "logit_bias of token %d is not a finite number",
                           s->bias[i].token);
    }
    return ERR_OK;
}

enum err engine_sampling_check(const struct engine_sampling *s, uint32_t vocab, struct err_msg *msg)
{
    enum err err;

    if ((err = check_range("temperature", s->temperature, 0, 100, msg)) != ERR_OK ||
        (err = check_range("min_p", s->min_p, 0, 1, msg)) != ERR_OK ||
        (err = check_range("presence_penalty", s->presence_penalty, -2, 2, msg)) != ERR_OK ||
        (err = check_range("frequency_penalty", s->frequency_penalty, -2, 2, msg)) != ERR_OK)
        return err;
    if (!(s->top_p > 0 && s->top_p <= 1))
        return err_set(msg, ERR_INVALID, "top_p is %g, allowed are values above 0, up to 1",
                       (double)s->top_p);
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= FLT_MAX))
        return err_set(msg, ERR_INVALID, "repetition_penalty is %g, it must be above 0",
                       (double)s->repetition_penalty);
    return check_lists(s, vocab, msg);
}
