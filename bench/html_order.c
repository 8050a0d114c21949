/* bench/html_order.c - in which order runs are shown, which of them belong together, and what they are called.
 *
 * By trace, by load, then baton, what runs live, the reference that knows the future, and all others by what they kept
 * over all loads: so that a policy stands in one place and has one colour on the whole page. */
#include "bench/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "bench/perf_report.h"

enum { REPEATS_MAX = 128 };
static const double SAME_RATE = 0.02;

static bool is_simulated(const struct bench_run *r)
{
    return strcmp(r->source, "simulate") == 0;
}

bool html_is_reference(const struct bench_run *r)
{
    return is_simulated(r) && strstr(r->policy, "clairvoyant") != NULL;
}

bool html_same_load(const struct bench_run *a, const struct bench_run *b)
{
    bool asked = a->asked_rate > 0 && b->asked_rate > 0;
    double x = asked ? a->asked_rate : a->rate, y = asked ? b->asked_rate : b->rate;

    return strcmp(a->trace, b->trace) == 0 && fabs(x - y) <= SAME_RATE * fmax(fabs(x), fabs(y));
}

bool html_same_series(const struct bench_run *a, const struct bench_run *b)
{
    return strcmp(a->trace, b->trace) == 0 && strcmp(a->source, b->source) == 0 &&
           strcmp(a->policy, b->policy) == 0 && strcmp(a->label, b->label) == 0;
}

bool html_mixed_sources(const struct bench_run *const *runs, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (strcmp(runs[i]->source, runs[0]->source) != 0)
            return true;
    }
    return false;
}

bool html_labels_differ(const struct bench_run *const *runs, size_t n)
{
    const char *first = NULL;

    for (size_t i = 0; i < n; i++) {
        if (!is_simulated(runs[i]))
            continue;
        if (first != NULL && strcmp(first, runs[i]->label) != 0)
            return true;
        first = runs[i]->label;
    }
    return false;
}

void html_name(const struct html_out *o, const struct bench_run *r, bool with_source, char *out,
               size_t room)
{
    bool simulated = is_simulated(r), labelled = r->label[0] != '\0';
    /* The label of a simulation is its cluster: said once, in the title, where all share it. */
    bool show = labelled && (!simulated || o == NULL || o->with_labels);

    snprintf(out, room, "%s%s%s%s", simulated || !labelled ? r->policy : "",
             simulated && show ? ", " : "", show ? r->label : "",
             !with_source ? ""
             : simulated  ? " (simulated)"
                          : " (live)");
}

double html_mean(const struct bench_run *const *runs, size_t n, const struct bench_run *of,
                 html_figure_fn figure, uint32_t tier, double *half)
{
    double v[REPEATS_MAX];
    size_t seen = 0;

    for (size_t i = 0; i < n && seen < REPEATS_MAX; i++) {
        double x = html_same_series(runs[i], of) && html_same_load(runs[i], of)
                       ? figure(runs[i], tier)
                       : NAN;

        if (isfinite(x))
            v[seen++] = x;
    }
    *half = 0;
    return seen > 0 ? bench_mean_ci95(v, seen, half) : NAN;
}

/* ---- order ---- */

struct place {
    const struct bench_run *run;
    size_t trace, index; /* where it first stood */
    double rate;         /* of the first run of its load */
    int rank;            /* of its kind */
    double kept;         /* by its series, over all loads; all by weight */
};

static int rank_of(const struct bench_run *r)
{
    if (html_is_reference(r))
        return 3;
    if (is_simulated(r))
        return strcmp(r->policy, "baton") == 0 ? 0 : 4;
    return strncmp(r->label, "baton", 5) == 0 ? 1 : 2;
}

static double kept_by(const struct bench_run *const *runs, size_t n, const struct bench_run *series)
{
    double kept = 0, offered = 0;

    for (size_t i = 0; i < n; i++) {
        if (!html_same_series(runs[i], series))
            continue;
        kept += runs[i]->weight_kept;
        offered += runs[i]->weight_offered;
    }
    return offered > 0 ? kept / offered : 0;
}

bool html_ranks_before(const struct bench_run *const *runs, size_t n, const struct bench_run *a,
                       const struct bench_run *b)
{
    if (rank_of(a) != rank_of(b))
        return rank_of(a) < rank_of(b);
    return kept_by(runs, n, a) > kept_by(runs, n, b);
}

static struct place place_of(const struct bench_run *const *runs, size_t n, size_t i)
{
    struct place p = {.run = runs[i],
                      .trace = n,
                      .index = i,
                      .rank = rank_of(runs[i]),
                      .kept = kept_by(runs, n, runs[i])};

    for (size_t k = n; k-- > 0;) {
        if (strcmp(runs[k]->trace, runs[i]->trace) != 0)
            continue;
        p.trace = k;
        if (html_same_load(runs[k], runs[i]))
            p.rate = runs[k]->asked_rate > 0 ? runs[k]->asked_rate : runs[k]->rate;
    }
    return p;
}

static bool before(const struct place *a, const struct place *b)
{
    if (a->trace != b->trace)
        return a->trace < b->trace;
    if (a->rate < b->rate || a->rate > b->rate)
        return a->rate < b->rate;
    if (a->rank != b->rank)
        return a->rank < b->rank;
    if (a->kept < b->kept || a->kept > b->kept)
        return a->kept > b->kept;
    return a->index < b->index;
}

enum err html_sort(const struct bench_run *const *runs, size_t n, const struct bench_run **out)
{
    struct place *v = mem_try_calloc(n > 0 ? n : 1, sizeof(*v));

    if (v == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        struct place p = place_of(runs, n, i);
        size_t at = i;

        for (; at > 0 && before(&p, &v[at - 1]); at--)
            v[at] = v[at - 1];
        v[at] = p;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = v[i].run;
    mem_free(v);
    return ERR_OK;
}
