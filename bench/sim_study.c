/* bench/sim_study.c - see the header: what was asked for, runs, and the search for a rate. */
#include "bench/sim_study.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/interrupt.h"
#include "bench/out_file.h"
#include "bench/sim_study_impl.h"

enum { HALVINGS = 8 };
static const uint64_t LONG_NS = UINT64_C(3600) * 1000 * 1000 * 1000;

void bench_study_defaults(struct bench_study *s)
{
    *s = (struct bench_study){.policies = "baton",
                              .in = "1155:0.99",
                              .out = "211:0.86",
                              .warmup_s = 30,
                              .seed = 1,
                              .seeds = 1,
                              .noise = -1,
                              .bias = 1};
}

/* ---- what was asked for ---- */

static enum err read_list(const char *text, const char *what, double *v, uint32_t n,
                          struct err_msg *msg)
{
    const char *p = text;
    char *end;

    for (uint32_t i = 0; i < n; i++) {
        v[i] = strtod(p, &end);
        if (end == p || !(v[i] > 0) || !isfinite(v[i]) || *end != (i + 1 < n ? '/' : '\0'))
            return err_set(msg, ERR_INVALID,
                           "%s '%.60s': expected %u numbers above 0 between slashes, one per tier",
                           what, text, n);
        p = end + 1;
    }
    return ERR_OK;
}

/* What the options change of the cluster file. */
static enum err change_cluster(struct study *s)
{
    const struct bench_study *o = s->o;
    double weight[SCHED_TIERS_MAX];
    enum err err = bench_cluster_resize(&s->cluster, o->prefill, o->decode, s->msg);
    uint32_t workers = bench_cluster_count(&s->cluster, SCHED_ROLE_PREFILL) +
                       bench_cluster_count(&s->cluster, SCHED_ROLE_DECODE);

    if (err == ERR_OK && o->tiers != NULL)
        err = read_list(o->tiers, "--tiers", s->cluster.share, s->cluster.n_tiers, s->msg);
    if (err == ERR_OK && o->weights != NULL) {
        err = read_list(o->weights, "--weights", weight, s->cluster.n_tiers, s->msg);
        for (uint32_t i = 0; i < s->cluster.n_tiers && err == ERR_OK; i++)
            s->cluster.tiers[i].weight = weight[i];
    }
    for (uint32_t i = 0; i < o->n_faults && err == ERR_OK; i++) {
        if (o->fault[i].worker > workers)
            err = err_set(s->msg, ERR_INVALID,
                          "--kill or --slow: worker %u does not exist; they are 1 to %u",
                          o->fault[i].worker, workers);
    }
    return err;
}

static bool known_policy(const char *name, size_t len)
{
    const char *p = sched_policy_names();

    while (*p != '\0') {
        size_t n;

        p += strspn(p, ", ");
        n = strcspn(p, ", ");
        if (n == len && n > 0 && memcmp(p, name, n) == 0)
            return true;
        p += n;
    }
    return false;
}

static enum err read_policies(struct study *s)
{
    const char *p = s->o->policies;

    if (strcmp(p, "all") == 0)
        p = sched_policy_names();
    while (*p != '\0') {
        size_t n;

        p += strspn(p, ", ");
        n = strcspn(p, ", ");
        if (n == 0)
            break;
        if (!known_policy(p, n) || n >= SCHED_NAME_MAX)
            return err_set(s->msg, ERR_INVALID, "there is no policy '%.*s'; there are %s",
                           n < 60 ? (int)n : 60, p, sched_policy_names());
        if (s->n_policies == POLICIES_MAX)
            return err_set(s->msg, ERR_LIMIT, "over %d policies", POLICIES_MAX);
        memcpy(s->policy[s->n_policies++], p, n);
        p += n;
    }
    return s->n_policies > 0 ? ERR_OK : err_set(s->msg, ERR_INVALID, "--policy names none");
}
/* ---- runs ---- */

/* As `baton serve` has it: the step that runs, and a whole one behind it. */
static uint32_t prefill_window(const struct bench_cluster *c)
{
    uint32_t step = 0;

    for (uint32_t i = 0; i < c->n_classes; i++)
        step = c->klass[i].max_step_tokens > step ? c->klass[i].max_step_tokens : step;
    return 2 * step;
}

static struct sched_config config_of(const struct study *s, const char *policy)
{
    struct sched_config c;

    sched_config_defaults(&c);
    snprintf(c.policy, sizeof(c.policy), "%s", policy);
    c.max_queued = 10000000;
    c.max_queued_tokens = UINT64_MAX / 4;
    /* nothing hangs here: a wait is long because a policy lets it be long */
    c.queue_timeout_ns = c.request_timeout_ns = c.grant_timeout_ns = LONG_NS;
    c.prefill_timeout_ns = c.handover_timeout_ns = c.decode_timeout_ns = LONG_NS;
    c.prefill_window_tokens = prefill_window(&s->cluster);
    c.local_prefill = !s->o->no_local;
    c.elastic.on = s->o->elastic;
    return c;
}

/* While a rate is searched for, a run that has failed its criterion need not be finished; curves need it. */
static void set_give_up(const struct study *s, struct bench_sim_setup *x)
{
    const char *find = s->o->find;
    uint64_t n[SCHED_TIERS_MAX + 1] = {0};

    if (find == NULL || s->o->report != NULL || s->o->seeds > 1)
        return;
    for (size_t i = 0; i < s->load.n; i++) {
        if ((double)s->load.v[i].at_ns / 1e9 >= s->o->warmup_s) {
            n[s->load.v[i].tier]++;
            n[SCHED_TIERS_MAX]++;
        }
    }
    for (uint32_t i = 0; i < s->cluster.n_tiers && strcmp(find, "tier90") == 0; i++)
        x->give_up[i] = n[i] / 10 + 1;
    if (strcmp(find, "gold99") == 0)
        x->give_up[0] = n[0] / 100 + 1;
    if (strcmp(find, "tier90") != 0)
        x->give_up[SCHED_TIERS_MAX] = n[SCHED_TIERS_MAX] / 10 + 1;
}

static void setup_of(struct study *s, const char *policy, uint64_t seed, struct bench_sim_setup *x)
{
    const struct bench_study *o = s->o;

    *x = (struct bench_sim_setup){.cluster = &s->cluster,
                                  .load = &s->load,
                                  .config = config_of(s, policy),
                                  .tenants = s->tenants.row,
                                  .n_tenants = s->tenants.n,
                                  .seed = seed,
                                  .warmup_s = o->warmup_s,
                                  .max_new = o->max_new,
                                  .exact_new = o->exact_new,
                                  .clairvoyant = strstr(policy, "clairvoyant") != NULL,
                                  .no_learning = o->no_learning,
                                  .bias = o->bias,
                                  .told = o->told,
                                  .cold = o->cold,
                                  .noise = o->noise,
                                  .stale_s = o->stale_s,
                                  .n_faults = o->n_faults,
                                  .timing = o->timing,
                                  .check = o->check,
                                  .records = s->records};
    memcpy(x->fault, o->fault, sizeof(x->fault));
    set_give_up(s, x);
}

static void close_run(struct bench_run *r)
{
    if (r != NULL)
        bench_run_free(r);
    mem_free(r);
}

static enum err open_run(struct study *s, const char *policy, double speedup,
                         struct bench_run **out)
{
    struct bench_run *r = mem_try_alloc(sizeof(*r));

    if (r == NULL || bench_run_init(r, s->cluster.n_tiers) != ERR_OK) {
        mem_free(r);
        return err_set(s->msg, ERR_NOMEM, "out of memory");
    }
    if (s->tenants.n > 0 && bench_run_tenants(r, s->tenants.n) != ERR_OK) {
        close_run(r);
        return err_set(s->msg, ERR_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < s->tenants.n; i++)
        snprintf(r->tenant[i].name, sizeof(r->tenant[i].name), "%s", s->tenants.name[i]);
    snprintf(r->source, sizeof(r->source), "simulate");
    snprintf(r->policy, sizeof(r->policy), "%s", policy);
    snprintf(r->trace, sizeof(r->trace), "%s", s->trace.name);
    snprintf(r->label, sizeof(r->label), "%.40s %uP%uD", s->cluster.name,
             bench_cluster_count(&s->cluster, SCHED_ROLE_PREFILL),
             bench_cluster_count(&s->cluster, SCHED_ROLE_DECODE));
    r->speedup = speedup;
    r->seed = s->o->seed;
    for (uint32_t i = 0; i < r->n_tiers; i++) {
        const struct sched_tier *t = &s->cluster.tiers[i];

        snprintf(r->tier[i].name, sizeof(r->tier[i].name), "%s", t->name);
        r->tier[i].weight = t->weight > 0 ? t->weight : 1;
        r->tier[i].ttft_s = (double)t->ttft_ns / 1e9;
        r->tier[i].tbt_s = (double)t->tbt_ns / 1e9;
    }
    *out = r;
    return ERR_OK;
}

static void pool_result(struct pooled *p, const struct bench_sim_result *r)
{
    p->sum.events += r->events;
    p->sum.sched_events += r->sched_events;
    p->sum.virtual_s += r->virtual_s;
    p->sum.wall_s += r->wall_s;
    p->sum.cpu_s += r->cpu_s;
    p->sum.sched_s += r->sched_s;
    for (int i = 0; i <= SCHED_EV_TIMER; i++) {
        p->sum.kind_s[i] += r->kind_s[i];
        p->sum.kind_n[i] += r->kind_n[i];
    }
    p->sum.flips += r->flips;
    p->sum.resumes += r->resumes;
    p->sum.parked += r->parked;
    p->sum.skipped += r->skipped;
    p->sum.unfinished += r->unfinished;
    p->sum.late_mean += r->late_mean;
    p->sum.gave_up = p->sum.gave_up || r->gave_up;
    p->sum.busy[1] += r->busy[1];
    p->sum.busy[2] += r->busy[2];
    for (int k = 0; k < (SCHED_TIERS_MAX + 1) * SCHED_STAGES; k++) {
        const struct sched_health *h = &r->health[k / SCHED_STAGES][k % SCHED_STAGES];
        struct pooled_health *sum = &p->health[k / SCHED_STAGES][k % SCHED_STAGES];

        if (h->n == 0)
            continue;
        sum->coverage += h->coverage;
        sum->mape += h->mape;
        sum->bias += h->bias;
        if (h->windowed)
            sum->worst = sum->windowed && sum->worst < h->worst ? sum->worst : h->worst;
        sum->windowed |= h->windowed;
        sum->seen++;
    }
}

static void say_run(const struct study *s, const struct pooled *p, uint64_t seed, double wall_s)
{
    const struct bench_run *r = p->run;

    if (s->o->quiet)
        return;
    fprintf(stderr, "%s %s x%g %.1f/s seed %llu:", r->policy, r->trace, r->speedup, s->load.rate,
            (unsigned long long)seed);
    for (uint32_t i = 0; i < r->n_tiers; i++) {
        if (r->tier[i].n > 0)
            fprintf(stderr, " %s %.1f%%", r->tier[i].name, 100 * bench_run_attainment(r, i));
    }
    if (r->bound_weight > 0)
        fprintf(stderr, ", %.1f%% of the bound", 100 * bench_run_bound_share(r));
    fprintf(stderr, "  (%.1f s)\n", wall_s);
}

/* All seeds of one policy at one speed. */
static enum err run_policy(struct study *s, const char *policy, double speedup, struct pooled *p)
{
    enum err err = study_load_trace(s, s->o->seed);

    *p = (struct pooled){.run = NULL};
    if (err == ERR_OK)
        err = open_run(s, policy, speedup, &p->run);
    for (uint32_t k = 0; k < s->o->seeds && err == ERR_OK; k++) {
        uint64_t seed = s->o->seed + k, start = clock_now_ns();
        struct bench_sim_setup x;
        struct bench_sim_result *r = mem_try_alloc(sizeof(*r));
        double bound = 0;

        if (r == NULL)
            return err_set(s->msg, ERR_NOMEM, "out of memory");
        err = study_make_load(s, speedup, seed);
        if (err == ERR_OK)
            err = study_bound(s, &bound);
        if (err == ERR_OK) {
            setup_of(s, policy, seed, &x);
            p->run->rate = s->load.rate;
            err = bench_sim_run(&x, p->run, r, s->msg);
        }
        if (err == ERR_OK) {
            pool_result(p, r);
            p->run->bound_weight += bound;
            bench_run_finish(p->run, (s->load.duration_s - s->o->warmup_s) * (k + 1));
            say_run(s, p, seed, (double)(clock_now_ns() - start) / 1e9);
        }
        mem_free(r);
    }
    return err;
}
/* ---- the search for a rate ---- */

static enum err keep_run(struct study *s, struct bench_run *r)
{
    if (s->n_runs == RUNS_MAX) {
        close_run(r);
        return err_set(s->msg, ERR_LIMIT, "over %d runs", RUNS_MAX);
    }
    s->run[s->n_runs++] = r;
    return ERR_OK;
}

/* Four digits, so that names are short and repeatable. */
static double round_speed(double x)
{
    char text[32];

    snprintf(text, sizeof(text), "%.4g", x);
    return strtod(text, NULL);
}

static enum err speed_for(struct study *s, double rate, double *out)
{
    enum err err = study_load_trace(s, s->o->seed);

    if (err == ERR_OK)
        *out = round_speed(rate * s->trace.seconds / (double)s->trace.n);
    return err;
}

static bool holds(const struct bench_run *r, const char *what)
{
    double all = bench_run_attainment(r, BENCH_TIERS_MAX), least = 1;

    for (uint32_t i = 0; i < r->n_tiers; i++) {
        if (r->tier[i].n > 0 && bench_run_attainment(r, i) < least)
            least = bench_run_attainment(r, i);
    }
    if (strcmp(what, "tier90") == 0)
        return least >= 0.9;
    if (strcmp(what, "gold99") == 0)
        return bench_run_attainment(r, 0) >= 0.99 && all >= 0.9;
    return all >= 0.9;
}

static enum err try_speed(struct study *s, const char *policy, double speedup, bool *ok)
{
    struct pooled p;
    enum err err = run_policy(s, policy, speedup, &p);

    if (err != ERR_OK) {
        close_run(p.run);
        return err;
    }
    *ok = !p.sum.gave_up && holds(p.run, s->o->find);
    if (p.sum.gave_up)
        snprintf(p.run->note, sizeof(p.run->note), "stopped: it could not hold %s any more",
                 s->o->find);
    return keep_run(s, p.run);
}

enum { JUDGED_BY = 20 }; /* requests: what does not hold with so few holds at no rate */

/* Doubles or halves until one speed holds and one does not, then narrows: 2^(1/2^HALVINGS) is 0.3 %. */
static enum err find_rate(struct study *s, const char *policy, double start)
{
    double low = start, high = start, mean;
    bool ok = false, up;
    char name[160];
    enum err err = try_speed(s, policy, start, &ok);

    up = ok;
    mean = (double)s->trace.n / s->trace.seconds;
    for (int i = 0; err == ERR_OK && ok == up && i < 12; i++) {
        if (!up && mean * low / 2 * s->load.duration_s < JUDGED_BY)
            break;
        low = up ? high : round_speed(low / 2);
        high = round_speed(2 * low);
        err = try_speed(s, policy, up ? high : low, &ok);
    }
    if (err == ERR_OK && ok == up)
        low = high = up ? high : 0;
    for (int i = 0; err == ERR_OK && i < HALVINGS && high > low * 1.005; i++) {
        double mid = round_speed(sqrt(low * high));

        err = try_speed(s, policy, mid, &ok);
        if (ok)
            low = mid;
        else
            high = mid;
    }
    if (err != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "%.31s.%.31s.rate.%s", policy, s->trace.name, s->o->find);
    bench_report_add(&s->report, name, low * mean, "req/s", BENCH_HIGHER);
    if (!s->o->quiet)
        fprintf(stderr, "%s %s: %s holds up to %.4g req/s\n", policy, s->trace.name, s->o->find,
                low * mean);
    return ERR_OK;
}
/* ---- the whole ---- */

/* Every policy at one speed. */
static enum err run_policies(struct study *s, double speed)
{
    enum err err = ERR_OK;

    for (uint32_t i = 0; i < s->n_policies && err == ERR_OK; i++) {
        struct pooled p = {.run = NULL};

        if (s->o->find != NULL) {
            err = find_rate(s, s->policy[i], speed);
            continue;
        }
        err = run_policy(s, s->policy[i], speed, &p);
        if (err != ERR_OK) {
            close_run(p.run);
            break;
        }
        study_add_rows(s, &p);
        err = keep_run(s, p.run);
    }
    return err;
}

static enum err run_all(struct study *s)
{
    const struct bench_study *o = s->o;
    bool drawn = study_is_drawn(o);
    enum err err = ERR_OK;

    s->name_rates = drawn && o->at_rates && o->n_at > 1;
    for (uint32_t k = 0; (k == 0 || k < o->n_at) && err == ERR_OK; k++) {
        double speed = o->n_at > 0 && !o->at_rates ? o->at[k] : 1;

        if (o->at_rates && drawn) { /* drawn anew, at that rate */
            s->rate = o->at[k];
            s->have_trace = false;
            s->n_bounds = 0;
        } else if (o->at_rates) {
            err = speed_for(s, o->at[k], &speed);
        }
        if (err == ERR_OK)
            err = run_policies(s, speed);
    }
    return err;
}

static enum err write_page(struct study *s)
{
    const struct bench_study *o = s->o;
    char title[240], seeds[64];
    struct bench_page page = {.title = title, .command = o->command, .interrupted = s->interrupted};

    snprintf(seeds, sizeof(seeds), o->seeds > 1 ? "seeds %llu to %llu" : "seed %llu",
             (unsigned long long)o->seed, (unsigned long long)o->seed + o->seeds - 1);
    snprintf(title, sizeof(title), "baton simulate: %.60s on %.60s, %u prefill and %u decode, %s",
             s->trace.name, s->cluster.name, bench_cluster_count(&s->cluster, SCHED_ROLE_PREFILL),
             bench_cluster_count(&s->cluster, SCHED_ROLE_DECODE), seeds);
    return bench_html_write(o->report, &page, (const struct bench_run *const *)s->run, s->n_runs,
                            s->msg);
}

static enum err finish(struct study *s)
{
    enum err err = ERR_OK;

    if (s->o->json || s->o->find != NULL)
        err = bench_report_print(&s->report, s->o->json);
    if (!s->o->json)
        study_print_table(s);
    if (!s->o->json && s->tenants.n > 0)
        study_print_tenants(s);
    return err == ERR_OK && s->o->report != NULL ? write_page(s) : err;
}

static enum err check(const struct bench_study *o, struct err_msg *msg)
{
    if (o->cluster == NULL || o->trace == NULL)
        return err_set(msg, ERR_INVALID, "--cluster FILE and --trace FILE are needed");
    if (o->seeds == 0 || o->seeds > SEEDS_MAX)
        return err_set(msg, ERR_INVALID, "--seeds must be 1 to %d", SEEDS_MAX);
    if (o->find != NULL && o->n_at > 1)
        return err_set(msg, ERR_INVALID,
                       "--find-rate starts from one --rate or --speedup, not from a list");
    if (!(o->warmup_s >= 0) || (o->duration_s > 0 && o->warmup_s >= o->duration_s))
        return err_set(msg, ERR_INVALID, "--warmup must be shorter than --duration");
    if (!(o->bias > 0))
        return err_set(msg, ERR_INVALID, "--bias must be above 0");
    if (o->find != NULL && strcmp(o->find, "tier90") != 0 && strcmp(o->find, "gold99") != 0 &&
        strcmp(o->find, "all90") != 0)
        return err_set(msg, ERR_INVALID, "--find-rate '%.40s': expected tier90, gold99 or all90",
                       o->find);
    return ERR_OK;
}

/* Nothing is read and nothing runs before all that was typed makes sense, and before results can be written. */
static enum err prepare(struct study *s, bool *wrong_words)
{
    const struct bench_study *o = s->o;
    enum err err = check(o, s->msg);

    if (err == ERR_OK)
        err = study_check_load(o, s->msg);
    if (err == ERR_OK)
        err = study_read_tenants(o, &s->tenants, s->msg);
    if (err == ERR_OK)
        err = read_policies(s);
    *wrong_words = err != ERR_OK;
    if (err == ERR_OK)
        err = bench_cluster_read(o->cluster, &s->cluster, s->msg);
    if (err == ERR_OK) {
        err = change_cluster(s);
        *wrong_words = err != ERR_OK;
    }
    if (err == ERR_OK)
        err = bench_out_check("--report", o->report, s->msg);
    if (err == ERR_OK)
        err = bench_out_check("--records", o->records, s->msg);
    return err;
}

/* Ctrl-C: what has ended is shown; a run cut short is no result. */
static enum err run_until_interrupted(struct study *s)
{
    enum err err = run_all(s);

    if (err != ERR_CANCELED)
        return err;
    s->interrupted = true;
    if (!s->o->quiet)
        fprintf(stderr, "interrupted; %zu runs had ended\n", s->n_runs);
    return ERR_OK;
}

enum err bench_study_run(const struct bench_study *o, bool *wrong_words, struct err_msg *msg)
{
    struct study *s = mem_try_calloc(1, sizeof(*s));
    enum err err;

    *wrong_words = false;
    if (s == NULL)
        return err_set(msg, ERR_NOMEM, "out of memory");
    s->o = o;
    s->msg = msg;
    bench_report_init(&s->report, "simulate");
    err = prepare(s, wrong_words);
    if (err == ERR_OK && o->records != NULL) {
        s->records = fopen(o->records, "w");
        if (s->records == NULL)
            err = err_set(msg, ERR_IO, "%s: cannot be written", o->records);
    }
    if (err == ERR_OK) {
        bench_interrupt_catch();
        err = run_until_interrupted(s);
    }
    if (err == ERR_OK)
        err = finish(s);
    if (s->records != NULL) {
        bool lost = ferror(s->records) != 0;

        lost = fclose(s->records) != 0 || lost;
        if (lost && err == ERR_OK)
            err = err_set(msg, ERR_IO, "--records: cannot write all of %.200s: %s", o->records,
                          strerror(errno));
    }
    if (err == ERR_OK && s->interrupted)
        err = ERR_CANCELED;
    for (size_t i = 0; i < s->n_runs; i++)
        close_run(s->run[i]);
    bench_load_free(&s->load);
    bench_trace_free(&s->trace);
    bench_report_free(&s->report);
    mem_free(s);
    return err;
}
