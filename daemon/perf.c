/* daemon/perf.c - see the header. */
#include "daemon/perf.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "bench/perf_engine.h"
#include "bench/perf_http.h"
#include "bench/perf_kv.h"
#include "bench/perf_profile.h"
#include "bench/perf_sched.h"
#include "bench/perf_tok.h"
#include "daemon/model_dir.h"

struct perf_args {
    bool json, help;
    const char *file;
    const char *model; /* NULL: the demo model */
    uint32_t threads;
    struct bench_perf_profile_options profile;
};

static const char usage[] =
    "Usage: baton perf WHAT [--json]\n"
    "\n"
    "  kv                          KV hand-over per transport and piece size, beside bare UCX\n"
    "  http [MODEL_DIR]            front end cost with sim workers: streamed tokens, short "
    "completions, TTFT\n"
    "  engine [MODEL_DIR] [--threads N]   prefill and decode speed, beside the machine's limits\n"
    "  tok [MODEL_DIR] [--file TEXT]      tokenizer speed, prose and one repeated character\n"
    "  sched                       scheduling decisions per second\n"
    "  profile [MODEL_DIR] [--threads N] [--out FILE] [--name CLASS] [--seconds S] "
    "[--max-step-tokens N]\n"
    "          [--max-batch N] [--backend cpu|sim] [--sim-profile FILE]\n"
    "                              what steps take, fitted to the law the scheduler predicts with; "
    "--out\n"
    "                              writes a class file for baton serve and baton simulate\n"
    "\n"
    "Options of profile: --out FILE to write; --name of the class (cpu); --seconds to measure "
    "(20);\n"
    "--max-step-tokens of a prefill step (512); --max-batch of a decode step (64); --threads (all "
    "cores);\n"
    "--sim-profile times of the sim backend.\n"
    "\n"
    "Prints a table; with --json one object.  Each result is named; where a limit or a peer was "
    "measured in\n"
    "the same run it is the reference, and ratio says how near the value is to it.\n";

/* The options of `profile` that take a number. */
struct number {
    const char *name;
    double low, high;
};
enum { SECONDS, STEP_TOKENS, BATCH, N_NUMBERS };
static const struct number numbers[N_NUMBERS] = {
    {"--seconds", 0.1, 3600}, {"--max-step-tokens", 16, 65536}, {"--max-batch", 1, 4096}};

static bool parse_number(const struct number *n, const char *value, double *out,
                         struct err_msg *msg)
{
    char *end;
    double v = strtod(value, &end);

    if (end == value || *end != '\0' || !(v >= n->low && v <= n->high)) {
        (void)err_set(msg, ERR_INVALID, "%s %.40s is not possible; a number from %g to %g is",
                      n->name, value, n->low, n->high);
        return false;
    }
    *out = v;
    return true;
}

/* An option of `profile` with a value.  false: it is none, or msg says what is wrong with the value. */
static bool parse_profile(const char *option, const char *value,
                          struct bench_perf_profile_options *o, struct err_msg *msg)
{
    const char **text = strcmp(option, "--out") == 0           ? &o->out
                        : strcmp(option, "--name") == 0        ? &o->name
                        : strcmp(option, "--backend") == 0     ? &o->backend
                        : strcmp(option, "--sim-profile") == 0 ? &o->sim_profile
                                                               : NULL;
    double v;

    if (text != NULL) {
        *text = value;
        return true;
    }
    for (int i = 0; i < N_NUMBERS; i++) {
        if (strcmp(option, numbers[i].name) != 0)
            continue;
        if (!parse_number(&numbers[i], value, &v, msg))
            return false;
        if (i == SECONDS)
            o->seconds = v;
        else
            *(i == BATCH ? &o->max_batch : &o->max_step_tokens) = (uint32_t)v;
        return true;
    }
    return false;
}

static bool parse(int argc, char **argv, struct perf_args *a, struct err_msg *msg)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            a->json = true;
        } else if (strcmp(argv[i], "--help") == 0) {
            a->help = true;
        } else if (strcmp(argv[i], "--file") == 0 && i + 1 < argc) {
            a->file = argv[++i];
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
            a->threads = (uint32_t)strtoul(argv[++i], NULL, 10);
        } else if (argv[i][0] == '-' && i + 1 < argc &&
                   parse_profile(argv[i], argv[i + 1], &a->profile, msg)) {
            i++;
        } else if (argv[i][0] != '-' && a->model == NULL) {
            a->model = argv[i];
        } else {
            if (msg->text[0] == '\0')
                (void)err_set(msg, ERR_INVALID, "unknown option %.80s; see baton perf --help",
                              argv[i]);
            return false;
        }
    }
    return true;
}

static enum err run(const char *what, const struct perf_args *a, struct err_msg *msg)
{
    char dir[1024];
    enum err err;

    if (strcmp(what, "kv") == 0) {
        struct bench_perf_kv_options o = {0};

        return bench_perf_kv(&o, a->json, msg);
    }
    if (strcmp(what, "sched") == 0)
        return bench_perf_sched(a->json, msg);
    if (strcmp(what, "engine") != 0 && strcmp(what, "tok") != 0 && strcmp(what, "http") != 0 &&
        strcmp(what, "profile") != 0)
        return err_set(msg, ERR_INVALID, "there is no measurement '%.60s'; see baton perf --help",
                       what);
    err = daemon_model_dir_find(a->model, dir, sizeof(dir), msg);
    if (err != ERR_OK)
        return err;
    if (strcmp(what, "profile") == 0) {
        struct bench_perf_profile_options o = a->profile;

        o.model_dir = dir;
        o.threads = a->threads;
        return bench_perf_profile(&o, a->json, msg);
    }
    if (strcmp(what, "engine") == 0)
        return bench_perf_engine(dir, a->threads, a->json, msg);
    if (strcmp(what, "tok") == 0)
        return bench_perf_tok(dir, a->file, a->json, msg);
    if (strcmp(what, "http") == 0)
        return bench_perf_http(dir, a->json, msg);
    return err_set(msg, ERR_INVALID, "there is no measurement '%.60s'; see baton perf --help",
                   what);
}

int daemon_perf_run(int argc, char **argv)
{
    struct perf_args a = {0};
    struct err_msg msg = {""};

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "perf");
    if (argc < 1 || strcmp(argv[0], "--help") == 0) {
        fputs(usage, argc < 1 ? stderr : stdout);
        return argc < 1 ? 2 : 0;
    }
    if (!parse(argc - 1, argv + 1, &a, &msg)) {
        fprintf(stderr, "baton perf: %s\n", msg.text);
        return 2;
    }
    if (a.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (run(argv[0], &a, &msg) != ERR_OK) {
        fprintf(stderr, "baton perf %s: %s\n", argv[0], msg.text);
        return 1;
    }
    return 0;
}
