/* daemon/simulate.c - see the header. */
#include "daemon/simulate.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bench/environment.h"
#include "bench/interrupt.h"
#include "bench/sim_study.h"
#include "scheduler/sched.h"

/* In two parts: C promises strings of 4095 bytes only. */
static const char usage[] =
    "Usage: baton simulate --cluster FILE --trace FILE [options]\n"
    "\n"
    "Runs the scheduler's own code in virtual time over models of workers and links.\n"
    "\n"
    "Load\n"
    "  --cluster FILE         workers, laws, links, tiers: deploy/clusters/*.yaml\n"
    "  --prefill N --decode M other counts of workers than the file's\n"
    "  --trace FILE           Azure CSV, Mooncake JSONL, vLLM or ShareGPT JSON, BurstGPT (.gz "
    "too), or\n"
    "  --trace synthetic      lengths by --in and --out: MEAN, MEAN:SIGMA, MEAN:pareto:SHAPE\n"
    "  --arrivals KIND        poisson, constant, ramp or gamma:CV in place of the trace's own, at "
    "--rate\n"
    "  --speedup X[,X...]     the trace's time compressed by X (default 1), or\n"
    "  --rate R[,R...]        so that R requests a second arrive on average; a list runs one after "
    "another, for curves\n"
    "  --duration S           of arrivals; a shorter trace is repeated (default: whole passes, 300 "
    "s at least)\n"
    "  --warmup S             not counted at the start (30)\n"
    "  --tiers 20/30/50       shares of arrivals; --weights 4/2/1: value of a kept promise\n"
    "  --tenants A:W:S[:Q[:B]],...   each request is of one of these tenants: name, weight in fair "
    "shares, share of\n"
    "                         the requests, quota in tokens/s (prompt + 2 x output; 0: none), "
    "seconds of it that its\n"
    "                         bucket holds (10)\n"
    "  --surge A:N,...        these send N times as much, on top of a load that stays as it is for "
    "the others\n"
    "  --max-new N|exact      tokens that clients ask for (the longest answer, rounded up to 256); "
    "exact: as many as\n"
    "                         they will get, which the scheduler then knows; so does `baton "
    "bench`\n"
    "\n"
    "Study\n"
    "  --policy a,b,c|all     default baton\n"
    "  --seed N --seeds K     seeds N .. N+K-1 (1, 1); their requests are pooled\n"
    "  --find-rate WHAT       highest rate at which tier90 (every tier at least 90 %), gold99 (the "
    "first\n"
    "                         tier 99 %, all 90 %) or all90 holds\n"
    "  --noise SIGMA          scatter of step times (sd of the logarithm; default: the cluster "
    "file's)\n"
    "  --bias F               steps take F times what the scheduler was told at the start\n"
    "  --told F               the scheduler is told laws F times as slow as they are; --cold: "
    "none\n"
    "  --no-learning          laws stay what they were told; --stale S: reports come S seconds "
    "late\n"
    "  --kill W@T[-U]         worker W dies at T s, and is back at U s\n"
    "  --slow W@TxF[-U]       its steps take F times as long from T s on, until U s\n"
    "  --elastic              workers may change their role; --no-local-prefill: decode workers "
    "compute no prompts\n"
    "\n"
    "Output\n"
    "  --json                 one object; --report FILE.html: a page with curves\n"
    "  --records FILE         a JSON line per request\n"
    "  --timing               also what the wall clock says: it differs from run to run, the rest "
    "does not\n"
    "  --no-bound --quiet     leave out the clairvoyant bound; the progress on standard error\n"
    "  --check                the scheduler's invariants after every event (slow)\n";

static const char usage_results[] =
    "\n"
    "Results, by name (policy.trace.xSPEEDUP first):\n"
    "  .attainment.TIER|all         share of arrivals whose promises were kept; refused ones count "
    "as missed\n"
    "  .goodput.weighted            kept weight per second; .goodput.TIER: kept requests per "
    "second\n"
    "  .bound.share                 of the weight that no schedule that knows the future could "
    "exceed\n"
    "  .bound.offered               that weight as a share of all that was offered\n"
    "  .broken_promises[.TIER]      of those admitted: then a target missed; .rejected.TIER: "
    "refused\n"
    "  .refusal.p50|p99             s from arrival to the refusal, those that waited too\n"
    "  .attainment.large_prompts, .other_prompts, .large_gap   the largest tenth of prompts and "
    "the rest\n"
    "  .ttft.p50|p90|p99.TIER, .tbt.p90|p99.TIER               s\n"
    "  .tenant.NAME.attainment, .goodput, .rejected, .broken_promises, .ttft.p99[.TIER]   with "
    "--tenants\n"
    "  .coverage.STAGE[.TIER], .mape.STAGE[.TIER], .bias.STAGE, .coverage.worst.STAGE\n"
    "                               of the 90 % intervals of predictions; worst: of any 500 in a "
    "row\n"
    "  .recovery.TIER               s from the last fault to 30 s in which the first tier is above "
    "98 %\n"
    "  .busy.ROLE, .parked, .resumes, .flips, .unfinished, .events\n"
    "  .decision.p99, .events.rate (per s of CPU), .wall, .cpu, .scheduler.share, .scheduler.mean  "
    "  with --timing\n"
    "  policy.trace.rate.tier90|gold99|all90                   with --find-rate, req/s\n"
    "\n"
    "Exit status: 0 done; 1 failed; 2 wrong options; 130 or 143: interrupted by Ctrl-C or SIGTERM, "
    "after printing "
    "and\n"
    "writing what had ended.\n"
    "\n"
    "Policies: ";

/* ---- values ---- */

static bool number(const char *text, double low, double high, double *out)
{
    char *end;

    errno = 0;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && *out >= low && *out <= high;
}

/* X[,X...] */
static bool take_speeds(const char *text, double low, double high, struct bench_study *s)
{
    char one[64];

    for (s->n_at = 0; s->n_at < BENCH_SPEEDS_MAX; text++) {
        size_t len = strcspn(text, ",");

        if (len >= sizeof(one))
            return false;
        snprintf(one, sizeof(one), "%.*s", (int)len, text);
        if (!number(one, low, high, &s->at[s->n_at++]))
            return false;
        text += len;
        if (*text == '\0')
            return true;
    }
    return false;
}

/* W@T or W@TxF, then -U */
static bool fault(const char *text, bool slow, struct bench_sim_fault *f)
{
    char *end;
    unsigned long w = strtoul(text, &end, 10);

    *f = (struct bench_sim_fault){.worker = (uint32_t)w};
    if (end == text || *end != '@' || w == 0 || w > BENCH_WORKERS_MAX)
        return false;
    f->at_s = strtod(end + 1, &end);
    if (slow) {
        if (*end != 'x')
            return false;
        f->factor = strtod(end + 1, &end);
        if (!(f->factor > 0 && f->factor < 1e6))
            return false;
    }
    if (*end == '-') {
        f->until_s = strtod(end + 1, &end);
        if (!(f->until_s > f->at_s && f->until_s < 1e8))
            return false;
    }
    return *end == '\0' && f->at_s >= 0 && f->at_s < 1e8;
}

struct option {
    const char *name;
    const char **text;
    double *value;
    double low, high;
    bool *flag;
};

static enum err take(const struct option *o, const char *value, struct err_msg *msg)
{
    if (o->text != NULL)
        *o->text = value;
    else if (!number(value, o->low, o->high, o->value))
        return err_set(msg, ERR_INVALID, "%s '%.40s': expected a number from %g to %g", o->name,
                       value, o->low, o->high);
    return ERR_OK;
}

static enum err take_fault(struct bench_study *s, const char *name, const char *value,
                           struct err_msg *msg)
{
    bool slow = strcmp(name, "--slow") == 0;

    if (s->n_faults == BENCH_FAULTS_MAX)
        return err_set(msg, ERR_LIMIT, "over %d faults", BENCH_FAULTS_MAX);
    if (!fault(value, slow, &s->fault[s->n_faults]))
        return err_set(msg, ERR_INVALID, "%s '%.40s': expected %s", name, value,
                       slow ? "WORKER@FROMxFACTOR[-UNTIL], in seconds, UNTIL after FROM"
                            : "WORKER@FROM[-UNTIL], in seconds, UNTIL after FROM");
    s->n_faults++;
    return ERR_OK;
}

static bool take_max_new(const char *text, struct bench_study *s)
{
    double n = 0;

    s->exact_new = strcmp(text, "exact") == 0;
    if (!s->exact_new && !number(text, 1, 1 << 24, &n))
        return false;
    s->max_new = (uint32_t)n;
    return true;
}

static enum err parse(int argc, char **argv, struct bench_study *s, struct err_msg *msg)
{
    const char *speedup = NULL, *rate = NULL, *max_new = NULL;
    double seed = 1, seeds = 1, prefill = 0, decode = 0;
    const struct option options[] = {
        {"--cluster", &s->cluster, NULL, 0, 0, NULL},
        {"--trace", &s->trace, NULL, 0, 0, NULL},
        {"--policy", &s->policies, NULL, 0, 0, NULL},
        {"--arrivals", &s->arrivals, NULL, 0, 0, NULL},
        {"--arrival", &s->arrivals, NULL, 0, 0, NULL}, /* as `baton bench` has it */
        {"--in", &s->in, NULL, 0, 0, NULL},
        {"--out", &s->out, NULL, 0, 0, NULL},
        {"--tiers", &s->tiers, NULL, 0, 0, NULL},
        {"--weights", &s->weights, NULL, 0, 0, NULL},
        {"--tenants", &s->tenants, NULL, 0, 0, NULL},
        {"--surge", &s->surge, NULL, 0, 0, NULL},
        {"--find-rate", &s->find, NULL, 0, 0, NULL},
        {"--report", &s->report, NULL, 0, 0, NULL},
        {"--records", &s->records, NULL, 0, 0, NULL},
        {"--speedup", &speedup, NULL, 0, 0, NULL},
        {"--rate", &rate, NULL, 0, 0, NULL},
        {"--duration", NULL, &s->duration_s, 1e-3, 1e8, NULL},
        {"--warmup", NULL, &s->warmup_s, 0, 1e8, NULL},
        {"--noise", NULL, &s->noise, 0, 2, NULL},
        {"--bias", NULL, &s->bias, 1e-3, 1e3, NULL},
        {"--told", NULL, &s->told, 1e-3, 1e3, NULL},
        {"--stale", NULL, &s->stale_s, 0, 3600, NULL},
        {"--seed", NULL, &seed, 0, 9e15, NULL},
        {"--seeds", NULL, &seeds, 1, 1000, NULL},
        {"--prefill", NULL, &prefill, 1, BENCH_WORKERS_MAX, NULL},
        {"--decode", NULL, &decode, 1, BENCH_WORKERS_MAX, NULL},
        {"--max-new", &max_new, NULL, 0, 0, NULL},
        {"--cold", NULL, NULL, 0, 0, &s->cold},
        {"--no-learning", NULL, NULL, 0, 0, &s->no_learning},
        {"--no-local-prefill", NULL, NULL, 0, 0, &s->no_local},
        {"--no-bound", NULL, NULL, 0, 0, &s->no_bound},
        {"--elastic", NULL, NULL, 0, 0, &s->elastic},
        {"--json", NULL, NULL, 0, 0, &s->json},
        {"--timing", NULL, NULL, 0, 0, &s->timing},
        {"--check", NULL, NULL, 0, 0, &s->check},
        {"--quiet", NULL, NULL, 0, 0, &s->quiet},
    };
    enum { N = sizeof(options) / sizeof(options[0]) };

    for (int i = 0; i < argc; i++) {
        bool is_fault = strcmp(argv[i], "--kill") == 0 || strcmp(argv[i], "--slow") == 0;
        const struct option *o = NULL;
        enum err err;

        for (size_t k = 0; k < N && o == NULL; k++)
            o = strcmp(argv[i], options[k].name) == 0 ? &options[k] : NULL;
        if (o == NULL && !is_fault)
            return err_set(msg, ERR_INVALID, "unknown option %.60s; see baton simulate --help",
                           argv[i]);
        if (o != NULL && o->flag != NULL) {
            *o->flag = true;
            continue;
        }
        if (i + 1 == argc)
            return err_set(msg, ERR_INVALID, "%s needs a value", argv[i]);
        err = is_fault ? take_fault(s, argv[i], argv[i + 1], msg) : take(o, argv[i + 1], msg);
        if (err != ERR_OK)
            return err;
        i++;
    }
    if (speedup != NULL && rate != NULL)
        return err_set(msg, ERR_INVALID, "--speedup and --rate exclude each other");
    if (speedup != NULL && !take_speeds(speedup, 1e-6, 1e9, s))
        return err_set(msg, ERR_INVALID,
                       "--speedup '%.40s': expected a number from 1e-06 to 1e+09, or up to %d of "
                       "them with commas",
                       speedup, BENCH_SPEEDS_MAX);
    s->at_rates = rate != NULL;
    if (rate != NULL && !take_speeds(rate, 1e-6, 1e7, s))
        return err_set(msg, ERR_INVALID,
                       "--rate '%.40s': expected a number from 1e-06 to 1e+07, or up to %d of them "
                       "with commas",
                       rate, BENCH_SPEEDS_MAX);
    s->seed = (uint64_t)seed;
    s->seeds = (uint32_t)seeds;
    s->prefill = (uint32_t)prefill;
    s->decode = (uint32_t)decode;
    if (max_new != NULL && !take_max_new(max_new, s))
        return err_set(msg, ERR_INVALID,
                       "--max-new '%.40s': expected a number from 1 to 16777216, or exact",
                       max_new);
    return ERR_OK;
}

int daemon_simulate_run(int argc, char **argv)
{
    static const char *const files[] = {"--cluster", "--trace", "--report", "--records", NULL};
    static const char *const no_secrets[] = {NULL};
    char line[1024];
    struct bench_study s;
    struct err_msg msg = {""};
    bool wrong_words = false;
    enum err err;

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "simulate");
    bench_study_defaults(&s);
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            printf("%s%s%s.\n", usage, usage_results, sched_policy_names());
            return 0;
        }
    }
    bench_command_line("baton simulate", argc, argv, files, no_secrets, line, sizeof(line));
    s.command = line;
    if (parse(argc, argv, &s, &msg) != ERR_OK) {
        fprintf(stderr, "baton simulate: %s\n", msg.text);
        return 2;
    }
    err = bench_study_run(&s, &wrong_words, &msg);
    if (err == ERR_CANCELED)
        return 128 + bench_interrupted();
    if (err != ERR_OK)
        fprintf(stderr, "baton simulate: %s\n", msg.text[0] != '\0' ? msg.text : err_text(err));
    return err == ERR_OK ? 0 : wrong_words ? 2 : 1;
}
