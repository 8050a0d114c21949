/* bench/load_command.c - one run per rate, or a search for the highest rate that holds. */
#include "bench/load_command.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "bench/environment.h"
#include "bench/interrupt.h"
#include "bench/load_output.h"
#include "bench/load_run.h"
#include "bench/out_file.h"
#include "bench/run_file.h"
#include "bench/summary_json.h"

enum {
    RUNS_MAX = 192,
    PROBES_MAX = 24,
    CLOSED_ROWS_PER_S = 1000,
    CLOSED_REQUESTS = 200000,
    PROBE_REQUESTS = 20
};
static const double DURATION_S = 30, RATE_MAX = 1e5;

struct command {
    struct load_options o;
    struct load_server server;
    struct bench_trace file; /* --trace */
    struct bench_run *runs[RUNS_MAX];
    size_t n_runs, n_compared; /* the compared ones come first */
    struct bench_report report;
    FILE *requests;
    bool closed, invalid, interrupted;
    double reached;          /* rate of the probe that ran last */
    struct load_stats stats; /* of the last run */
    uint64_t sent, lost;     /* in all runs, without the canceled; lost: failed or timed out */
    json_t *summaries;       /* of the repeats of the last rate */
    struct bench_environment environment;
    char line[1024];    /* the command */
    struct buf members; /* of the JSON: the environment, and whether it was interrupted */
};

static void on_record(void *arg, const struct load_record *r)
{
    struct command *c = arg;

    if (c->requests != NULL)
        load_output_record(c->requests, &c->o, r);
}

/* ---- what to send ---- */

static double duration_of(const struct load_options *o, double rate)
{
    if (o->duration_s > 0)
        return o->duration_s;
    if (o->max_requests > 0 && rate > 0)
        return 2 * (double)o->max_requests / rate + 10; /* the number ends it */
    return DURATION_S;
}

static struct bench_draw draw_of(const struct load_options *o, double rate, double seconds)
{
    return (struct bench_draw){.arrival = o->arrival,
                               .rate = rate,
                               .seconds = seconds,
                               .burstiness = o->burstiness,
                               .in_mean = o->in_mean,
                               .in_sigma = o->in_sigma,
                               .out_mean = o->out_mean,
                               .out_sigma = o->out_sigma,
                               .seed = o->seed};
}

/* rate 0: as the trace says.  *own: the trace was made for this run. */
static enum err make_plan(struct command *c, double rate, struct bench_trace *own, double *speedup,
                          struct load_plan *plan, struct err_msg *msg)
{
    const struct load_options *o = &c->o;
    double seconds = duration_of(o, rate), duration = o->duration_s;
    struct bench_draw d = draw_of(o, rate, seconds);
    enum err err = ERR_OK;

    *speedup = 1;
    if (c->closed) {
        seconds =
            (o->max_requests > 0 ? (double)o->max_requests : CLOSED_REQUESTS) / CLOSED_ROWS_PER_S;
        d = draw_of(o, CLOSED_ROWS_PER_S, fmax(seconds, 1));
        d.arrival = BENCH_ARRIVE_CONSTANT;
        err = bench_trace_draw(&d, msg, own);
        duration = fmax(seconds, 1);
    } else if (o->trace_path == NULL) {
        err = bench_trace_draw(&d, msg, own);
        duration = seconds;
    } else if (o->has_arrival) {
        err = bench_trace_redraw(&c->file, &d, msg, own);
        duration = seconds;
    } else {
        *speedup = rate > 0 ? rate * c->file.seconds / (double)c->file.n : o->speedup;
        if (o->find != LOAD_FIND_NONE && duration <= 0)
            duration = DURATION_S;
    }
    if (err == ERR_OK)
        err = load_plan_make(o, &c->server, own->n > 0 ? own : &c->file, *speedup, duration,
                             o->find != LOAD_FIND_NONE && own->n == 0, msg, plan);
    if (err == ERR_OK && c->closed)
        plan->duration_s = o->duration_s > 0     ? o->duration_s
                           : o->max_requests > 0 ? 86400
                                                 : DURATION_S;
    return err;
}

/* ---- one run ---- */

static void name_run(const struct command *c, const struct load_plan *plan, double rate,
                     double speedup, struct bench_run *run)
{
    const struct load_options *o = &c->o;

    snprintf(run->source, sizeof(run->source), "bench");
    snprintf(run->policy, sizeof(run->policy), "bench");
    snprintf(run->trace, sizeof(run->trace), "%.60s", c->closed ? "closed" : plan->trace->name);
    snprintf(run->label, sizeof(run->label), "%s", o->label != NULL ? o->label : "");
    run->speedup = speedup;
    run->seed = o->seed;
    run->rate = plan->rate;
    run->asked_rate = o->trace_path == NULL || o->has_arrival ? rate : 0;
    run->whole = o->no_stream;
    for (uint32_t i = 0; i < o->n_tiers; i++) {
        snprintf(run->tier[i].name, sizeof(run->tier[i].name), "%s", o->tier[i].name);
        run->tier[i].weight = o->tier[i].weight;
        run->tier[i].ttft_s = o->tier[i].ttft_s;
        run->tier[i].tbt_s = o->tier[i].tbt_s;
    }
}

static void note(struct bench_run *run, const char *text)
{
    size_t len = strlen(run->note);

    snprintf(run->note + len, sizeof(run->note) - len, "%s%s", len > 0 ? "  " : "", text);
}

static void judge(struct command *c, const struct load_plan *plan, struct bench_run *run)
{
    const struct load_stats *s = &c->stats;
    double lag = bench_hist_quantile(&run->lag, 0.99);
    char text[160];

    if (lag > c->o.lag_bound_s) {
        c->invalid = true;
        snprintf(
            text, sizeof(text),
            "NOT VALID: this client sent late (lag p99 %.1f ms, bound %.3g ms); lower the load or "
            "give it more processor.",
            lag * 1e3, c->o.lag_bound_s * 1e3);
        note(run, text);
    }
    if (s->no_socket > 0) {
        c->invalid = true;
        snprintf(text, sizeof(text),
                 "NOT VALID: this client had no socket for %llu requests; raise its limit of open "
                 "files.",
                 (unsigned long long)s->no_socket);
        note(run, text);
    }
    if (s->saturated)
        note(run, "Stopped early: requests in flight kept growing.");
    if (s->interrupted) {
        snprintf(text, sizeof(text),
                 "INTERRUPTED after %.4g s; what was still in flight is not counted.", s->seconds);
        note(run, text);
    }
    if (plan->n_too_long > 0) {
        snprintf(text, sizeof(text), "%u of %zu requests exceed the server's context of %u tokens.",
                 plan->n_too_long, plan->n, c->server.max_context);
        note(run, text);
    }
    if (plan->n_windows > 1) {
        snprintf(text, sizeof(text),
                 "Sent %u windows of %.3g s from all over the trace: %.2g %% of it.",
                 plan->n_windows, plan->duration_s / plan->n_windows, 100 * plan->share);
        note(run, text);
    }
    if (c->closed)
        run->rate = s->seconds > 0 ? (double)s->sent / s->seconds : 0;
    c->sent += s->sent - s->canceled;
    c->lost += s->failed + s->timeout;
    c->interrupted = c->interrupted || s->interrupted;
}

static void name_rows(const struct command *c, const struct bench_run *run, char *out, size_t room)
{
    bool several = c->o.n_rates > 1 && (c->o.trace_path == NULL || c->o.has_arrival);
    char rate[32] = "";

    if (several)
        snprintf(rate, sizeof(rate), "-r%.6g", run->rate);
    snprintf(out, room, "bench.%s%s.x%.4g", run->trace, rate, run->speedup);
}

static enum err add_summary(struct command *c, const struct load_plan *plan,
                            const struct bench_run *run)
{
    struct bench_summary s = {.o = &c->o,
                              .server = &c->server,
                              .plan = plan,
                              .stats = &c->stats,
                              .run = run,
                              .wall_ns = clock_wall_ns()};

    return c->o.out_summary != NULL ? bench_summary_add(&c->summaries, &s) : ERR_OK;
}

/* A run at this rate, kept in c->runs. */
static enum err run_at(struct command *c, double rate, struct err_msg *msg)
{
    struct bench_trace own = {.n = 0};
    struct load_plan plan = {.v = NULL};
    struct load_job job = {.plan = &plan,
                           .closed = c->closed,
                           .stop_saturated = c->o.find != LOAD_FIND_NONE,
                           .progress = !c->o.quiet,
                           .on_record = on_record,
                           .arg = c};
    struct bench_run *run = NULL;
    double speedup;
    enum err err = make_plan(c, rate, &own, &speedup, &plan, msg);

    if (err == ERR_OK && c->n_runs < RUNS_MAX)
        run = mem_try_calloc(1, sizeof(*run));
    if (err == ERR_OK && (run == NULL || bench_run_init(run, c->o.n_tiers) != ERR_OK)) {
        mem_free(run);
        err = err_set(msg, ERR_NOMEM, "no memory for another run");
    } else if (err == ERR_OK) {
        c->runs[c->n_runs++] = run;
        name_run(c, &plan, rate, speedup, run);
        err = load_run(&job, run, &c->stats, msg);
    }
    if (err == ERR_OK) {
        judge(c, &plan, run);
        c->reached = run->rate;
        if (!c->o.json)
            load_output_table(&c->o, &plan, &c->stats, run);
        err = add_summary(c, &plan, run);
    }
    load_plan_free(&plan);
    bench_trace_free(&own);
    return err;
}

/* ---- the highest rate that holds ---- */

static bool holds(const struct command *c, const struct bench_run *run)
{
    if (c->stats.saturated || run->all.n == 0)
        return false;
    if (c->o.find == LOAD_FIND_ALL90)
        return bench_run_attainment(run, BENCH_TIERS_MAX) >= 0.9;
    if (c->o.find == LOAD_FIND_GOLD99)
        return run->tier[0].n > 0 && bench_run_attainment(run, 0) >= 0.99;
    for (uint32_t i = 0; i < run->n_tiers; i++) {
        if (run->tier[i].n > 0 && bench_run_attainment(run, i) < 0.9)
            return false;
    }
    return true;
}

/* What was canceled or left over leaves the server before the next probe.  A signal ends the wait. */
static void settle(struct command *c)
{
    struct timespec second = {.tv_sec = 1};

    nanosleep(&second, NULL);
    c->interrupted = c->interrupted || bench_interrupted() != 0;
}

static enum err find_rate(struct command *c, struct err_msg *msg)
{
    static const char *const names[] = {"", "tier90", "gold99", "all90"};
    double low = 0, high = 0, best = 0, rate = c->o.n_rates > 0 ? c->o.rate[0] : 1;
    enum err err = ERR_OK;
    char name[160];

    for (int probe = 0; probe < PROBES_MAX && !c->interrupted && !c->invalid; probe++) {
        const struct bench_run *run;
        bool good;

        if (probe > 0)
            settle(c);
        if (c->interrupted)
            break;
        json_decref(c->summaries);
        c->summaries = NULL;
        err = run_at(c, rate, msg);
        if (err != ERR_OK)
            return err;
        run = c->runs[c->n_runs - 1];
        if (c->interrupted)
            break;
        if (run->all.n < PROBE_REQUESTS && !c->stats.saturated)
            return err_set(msg, ERR_INVALID,
                           "a probe at %.4g requests/s counted only %llu requests; make --duration "
                           "longer, or begin "
                           "with a higher --rate",
                           run->rate, (unsigned long long)run->all.n);
        good = !c->invalid && holds(c, run);
        if (!c->o.quiet)
            fprintf(stderr, "%.4g requests/s: %s\n", run->rate, good ? "holds" : "does not hold");
        if (good) {
            low = rate;
            best = run->rate;
        } else {
            high = rate;
        }
        if (high > 0 && (high - low <= c->o.tolerance * high || high < 1e-3))
            break;
        rate = high > 0 ? (low > 0 ? (low + high) / 2 : high / 2) : rate * 2;
        if (rate > RATE_MAX)
            break;
    }
    if (c->interrupted) { /* no result: the search has not ended */
        if (!c->o.json)
            printf("\ninterrupted: %s holds at %.4g requests/s at least\n", names[c->o.find], best);
        return ERR_OK;
    }
    snprintf(name, sizeof(name), "bench.%s.rate.%s", c->runs[c->n_runs - 1]->trace,
             names[c->o.find]);
    bench_report_add(&c->report, name, best, "req/s", BENCH_HIGHER);
    if (!c->o.json)
        printf("\nhighest rate at which %s holds: %.4g requests/s%s\n", names[c->o.find], best,
               high == 0 ? " (no rate was found at which it does not)" : "");
    return ERR_OK;
}

/* ---- the command ---- */

/* A rate as often as asked for, each time with the next seed; its rows become means. */
static enum err run_repeats(struct command *c, double rate, struct err_msg *msg)
{
    uint64_t seed = c->o.seed;
    size_t from = c->report.n;
    char prefix[160] = "";
    enum err err = ERR_OK;

    json_decref(c->summaries);
    c->summaries = NULL;
    for (uint32_t k = 0; k < c->o.repeats && err == ERR_OK && !c->interrupted; k++) {
        if (k > 0)
            settle(c);
        if (c->interrupted)
            break;
        c->o.seed = seed + k;
        err = run_at(c, rate, msg);
        if (err != ERR_OK)
            break;
        if (k == 0)
            name_rows(c, c->runs[c->n_runs - 1], prefix, sizeof(prefix));
        load_output_rows(prefix, &c->stats, c->runs[c->n_runs - 1], &c->report);
    }
    c->o.seed = seed;
    if (err != ERR_OK || c->o.repeats == 1)
        return err;
    bench_report_fold(&c->report, from);
    if (!c->o.json && c->report.n > from)
        load_output_repeats(&c->o, prefix, &c->report, from);
    return ERR_OK;
}

static enum err run_all(struct command *c, struct err_msg *msg)
{
    enum err err = ERR_OK;

    if (c->o.find != LOAD_FIND_NONE)
        return find_rate(c, msg);
    for (uint32_t i = 0; (i == 0 || i < c->o.n_rates) && err == ERR_OK && !c->interrupted; i++) {
        if (i > 0)
            settle(c);
        if (!c->interrupted)
            err = run_repeats(c, c->o.n_rates > 0 ? c->o.rate[i] : 0, msg);
    }
    return err;
}

static enum err write_page(const struct command *c, struct err_msg *msg)
{
    const struct bench_run *const *runs = (const struct bench_run *const *)c->runs;
    const struct bench_environment *e = &c->environment;
    char title[240], machine[480], seeds[64], cores[32];
    struct bench_page page = {
        .title = title, .command = c->line, .machine = machine, .interrupted = c->interrupted};

    snprintf(seeds, sizeof(seeds), c->o.repeats > 1 ? "seeds %llu to %llu" : "seed %llu",
             (unsigned long long)c->o.seed, (unsigned long long)c->o.seed + c->o.repeats - 1);
    snprintf(title, sizeof(title), "baton bench: %.60s on %.60s%s%.60s, %s",
             c->runs[c->n_runs - 1]->trace, c->server.model, c->o.label != NULL ? ", " : "",
             c->o.label != NULL ? c->o.label : "", seeds);
    snprintf(cores, sizeof(cores), "%u core%s", e->cores, e->cores == 1 ? "" : "s");
    snprintf(machine, sizeof(machine), "%s, %s; %s; %s; %s", e->cpu, cores, e->kernel, e->versions,
             e->date);
    return bench_html_write(c->o.report, &page, runs, c->n_runs, msg);
}

static enum err write_out(struct command *c, struct err_msg *msg)
{
    const struct bench_run *const *runs = (const struct bench_run *const *)c->runs;
    enum err err = bench_environment_json(&c->environment, c->line, &c->members);

    if (err == ERR_OK && c->interrupted)
        err = buf_puts(&c->members, ", \"interrupted\": true");
    if (err == ERR_OK)
        err = buf_append(&c->members, "", 1);
    if (err != ERR_OK)
        return err;
    c->report.members = buf_bytes(&c->members);
    if (c->o.json)
        err = bench_report_print(&c->report, true);
    if (c->n_runs == c->n_compared)
        return err; /* interrupted before the first one */
    if (err == ERR_OK && c->o.out_run != NULL)
        err = bench_runs_save(c->o.out_run, runs + c->n_compared, c->n_runs - c->n_compared, msg);
    if (err == ERR_OK && c->summaries != NULL)
        err = bench_summary_write(c->o.out_summary, c->summaries, c->report.members, msg);
    return err == ERR_OK && c->o.report != NULL ? write_page(c, msg) : err;
}

/* Before any load is sent: what was measured and cannot be written is lost. */
static enum err check_files(const struct load_options *o, struct err_msg *msg)
{
    enum err err = bench_out_check("--report", o->report, msg);

    if (err == ERR_OK)
        err = bench_out_check("--out-run", o->out_run, msg);
    if (err == ERR_OK)
        err = bench_out_check("--out-summary", o->out_summary, msg);
    return err == ERR_OK ? bench_out_check("--out-requests", o->out_requests, msg) : err;
}

static enum err prepare(struct command *c, struct err_msg *msg)
{
    enum err err = check_files(&c->o, msg);

    for (uint32_t i = 0; i < c->o.n_compare && err == ERR_OK; i++)
        err = bench_runs_load(c->o.compare[i], c->runs, RUNS_MAX / 2, &c->n_runs, msg);
    c->n_compared = c->n_runs;
    if (err == ERR_OK && c->o.trace_path != NULL)
        err = bench_trace_load(c->o.trace_path, c->o.seed, msg, &c->file);
    if (err == ERR_OK && c->o.out_requests != NULL) {
        c->requests = fopen(c->o.out_requests, "we");
        if (c->requests == NULL)
            err =
                err_set(msg, ERR_IO, "cannot write %.200s: %s", c->o.out_requests, strerror(errno));
    }
    return err == ERR_OK ? load_ask_server(&c->o, &c->server, msg) : err;
}

static void clean_up(struct command *c)
{
    for (size_t i = 0; i < c->n_runs; i++) {
        bench_run_free(c->runs[i]);
        mem_free(c->runs[i]);
    }
    bench_trace_free(&c->file);
    bench_report_free(&c->report);
    json_decref(c->summaries);
    buf_free(&c->members);
    mem_free(c);
}

static enum err run_command(struct command *c, struct err_msg *msg)
{
    enum err err = prepare(c, msg);

    if (err == ERR_OK) {
        if (!c->o.json)
            printf("baton bench http://%s%s, model %s\n", c->o.url.authority, c->o.url.base,
                   c->server.model);
        fflush(stdout);
        bench_interrupt_catch();
        err = run_all(c, msg);
    }
    if (c->requests != NULL && fclose(c->requests) != 0 && err == ERR_OK)
        err = err_set(msg, ERR_IO, "cannot write all of %.200s", c->o.out_requests);
    return err == ERR_OK ? write_out(c, msg) : err;
}

/* Nothing came of any request: figures of it measure nothing.  (A refusal is an answer.) */
static bool all_lost(const struct command *c)
{
    return c->lost > 0 && c->lost == c->sent;
}

int bench_load_command(int argc, char **argv)
{
    struct command *c = mem_try_calloc(1, sizeof(*c));
    struct err_msg msg = {""};
    enum err err = c == NULL ? ERR_NOMEM : load_options_parse(argc, argv, &msg, &c->o);
    int status = err == ERR_OK || err == ERR_CANCELED ? 0 : err == ERR_NOMEM ? 1 : 2;

    if (err == ERR_OK) {
        bench_report_init(&c->report, "bench");
        bench_environment_read(clock_wall_ns(), &c->environment);
        load_options_line(argc, argv, c->line, sizeof(c->line));
        c->closed = c->o.concurrency > 0 && c->o.trace_path == NULL && c->o.n_rates == 0 &&
                    c->o.find == LOAD_FIND_NONE;
        err = run_command(c, &msg);
        status = err != ERR_OK    ? 1
                 : c->interrupted ? 128 + bench_interrupted()
                 : c->invalid     ? 3
                 : all_lost(c)    ? 1
                                  : 0;
        if (err == ERR_OK && c->interrupted)
            fprintf(stderr, "baton bench: interrupted; what was measured until then was written\n");
        if (err == ERR_OK && !c->interrupted && all_lost(c))
            fprintf(stderr, "baton bench: each of the %llu requests failed or timed out\n",
                    (unsigned long long)c->lost);
        if (err == ERR_OK && c->invalid)
            fprintf(stderr,
                    "baton bench: not valid, because of this client; see the note of the run\n");
    }
    if (err != ERR_OK && err != ERR_CANCELED)
        fprintf(stderr, "baton bench: %s\n", msg.text[0] != '\0' ? msg.text : err_text(err));
    if (c != NULL)
        clean_up(c);
    return status;
}
