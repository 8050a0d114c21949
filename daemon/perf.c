/* daemon/perf.c - see the header. */
#include "daemon/perf.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "bench/out_file.h"
#include "bench/perf_engine.h"
#include "bench/perf_gpu.h"
#include "bench/perf_http.h"
#include "bench/perf_kv.h"
#include "bench/perf_profile.h"
#include "bench/perf_sched.h"
#include "bench/perf_tok.h"
#include "daemon/device_list.h"
#include "daemon/model_dir.h"
#include "engine/engine.h"

struct perf_args {
    bool json, help;
    const char *file;
    const char *model; /* NULL: the demo model */
    uint32_t threads, tp;
    struct bench_perf_gpu_options gpu;
    struct bench_perf_profile_options profile;
};

static const char usage[] =
    "Usage: baton perf WHAT [--json]\n"
    "\n"
    "  kv                          KV hand-over per transport and piece size, beside bare UCX\n"
    "  http [MODEL_DIR]            front end cost with sim workers: streamed tokens, short "
    "completions, TTFT\n"
    "  engine [MODEL_DIR] [--threads N] [--tp N]\n"
    "                              prefill and decode speed, beside the machine's limits\n"
    "  gpu [MODEL_DIR] [options]   the CUDA backend: kernels, and prefill and decode of a whole "
    "model, "
    "beside what\n"
    "                              the card can do; its options: baton perf gpu --help\n"
    "  tok [MODEL_DIR] [--file TEXT]      tokenizer speed, prose and one repeated character\n"
    "  sched                       scheduling decisions per second\n"
    "  profile [MODEL_DIR] [options]      what steps take, fitted to the law the scheduler "
    "predicts "
    "with; its\n"
    "                              options: baton perf profile --help\n"
    "\n"
    "Prints a table; with --json one object.  Each result is named; where a limit or a peer was "
    "measured in\n"
    "the same run it is the reference, and ratio says how near the value is to it.\n"
    "\n"
    "Exit status: 0 done; 1 failed; 2 wrong options.\n";

static const char usage_profile[] =
    "Usage: baton perf profile [MODEL_DIR] [options]\n"
    "\n"
    "Runs prefill and decode steps of many sizes on this machine, and fits to their times the law "
    "that "
    "the scheduler\n"
    "predicts with.  Prints the coefficients and how well they fit; --out writes a class file: "
    "what "
    "`baton serve\n"
    "--class-file` starts from, and what a cluster file of `baton simulate` may name as "
    "`profile`.\n"
    "\n"
    "  MODEL_DIR              default: the demo model\n"
    "  --out FILE             class file to write\n"
    "  --name CLASS           its class name (cpu)\n"
    "  --seconds S            to measure, 0.1 to 3600 (20); more where others use the machine too\n"
    "  --max-step-tokens N    of a prefill step, 16 to 65536 (512)\n"
    "  --max-batch N          of a decode step, 1 to 4096 (64)\n"
    "  --threads N            of the cpu backend, 1 to 1024 (all cores)\n"
    "  --tp N                 ranks that share the model, 1 to 64 (1)\n"
    "  --backend cpu|cuda|sim  default cpu; cuda where it is built in\n"
    "  --sim-profile FILE     step times of the sim backend\n"
    "  --json                 one object instead of a table\n"
    "\n"
    "Give --max-step-tokens, --max-batch, --threads and --tp as `baton serve` will have them: the "
    "law "
    "holds for what was "
    "measured\n"
    "only.  .mape in the results is the mean error of the fit: 0.05 is good, above 0.1 the machine "
    "was "
    "not quiet.\n"
    "\n"
    "Example\n"
    "  baton perf profile MODEL_DIR --threads 16 --max-step-tokens 2048 --max-batch 256 --name "
    "my-box "
    "--out my-box.yaml\n";

static const char usage_gpu[] =
    "Usage: baton perf gpu [MODEL_DIR] [options]\n"
    "\n"
    "Checks and times every kernel of the CUDA backend, then prefill and decode of a whole model, "
    "beside "
    "the card's own\n"
    "speed in the same run: a copy in its memory, and a large 16-bit product of cuBLASLt.  With "
    "the cuda "
    "build only.\n"
    "\n"
    "  MODEL_DIR              its config.json gives the shape; - for kernels alone (Llama 3.1 "
    "8B)\n"
    "  --device N             card, 0 to 1023 (0)\n"
    "  --only NAMES           kernels whose names begin so, comma-separated; - for none (all)\n"
    "  --weights KIND         stored, fp8 or int8 (stored)\n"
    "  --seed N               of random weights; 0: those of MODEL_DIR, and the speed of loading "
    "them (1)\n"
    "  --json                 one object instead of a table\n"
    "\n"
    "  ceiling.*                  the card: copy GB/s (read and written), product TFLOP/s\n"
    "  KERNEL.what.shape          GB/s or TFLOP/s of one kernel\n"
    "  gpu.prefill.N              tokens/s of one prompt of N tokens\n"
    "  gpu.decode.B.C             tokens/s of B streams with C tokens of context; .host: the "
    "host's share "
    "of a step\n"
    "  gpu.profile.STEP.OP        ms of a step by kind of kernel: which one to look at\n"
    "  gpu.load, gpu.kv.tokens    weights by the time of opening (--seed 0), room for KV beside "
    "them\n";

/* The options of `profile` that take a number. */
struct number {
    const char *name;
    double low, high;
};
enum { SECONDS, STEP_TOKENS, BATCH, N_NUMBERS };
static const struct number numbers[N_NUMBERS] = {
    {"--seconds", 0.1, 3600}, {"--max-step-tokens", 16, 65536}, {"--max-batch", 1, 4096}};
static const struct number threads = {"--threads", 1, 1024}, tp = {"--tp", 1, 64},
                           device = {"--device", 0, DAEMON_DEVICE_LAST},
                           seed = {"--seed", 0, 4294967295.0};

static bool parse_number(const struct number *n, const char *value, double *out,
                         struct err_msg *msg)
{
    char *end;
    double v = strtod(value, &end);
    bool whole = n->low == (double)(uint32_t)n->low;

    if (end == value || *end != '\0' || !(v >= n->low && v <= n->high) ||
        (whole && v != (double)(uint32_t)v)) {
        (void)err_set(msg, ERR_INVALID, "%s %.40s is not possible; a %snumber from %g to %.10g is",
                      n->name, value, whole ? "whole " : "", n->low, n->high);
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

static bool has_word(const char *const *words, const char *word)
{
    while (*words != NULL && strcmp(*words, word) != 0)
        words++;
    return *words != NULL;
}

/* What each measurement takes besides --json. */
static const struct measure {
    const char *name;
    const char *usage; /* NULL: the common page is all there is */
    bool model;
    bool no_model; /* "-" in the place of the model: without one */
    const char *options[12];
} measures[] = {
    {"kv", NULL, false, false, {NULL}},
    {"http", NULL, true, false, {NULL}},
    {"engine", NULL, true, false, {"--threads", "--tp", NULL}},
    {"gpu", usage_gpu, true, true, {"--device", "--only", "--weights", "--seed", NULL}},
    {"tok", NULL, true, false, {"--file", NULL}},
    {"sched", NULL, false, false, {NULL}},
    {"profile",
     usage_profile,
     true,
     false,
     {"--threads", "--tp", "--out", "--name", "--seconds", "--max-step-tokens", "--max-batch",
      "--backend", "--sim-profile", NULL}},
};

static const struct measure *find_measure(const char *name)
{
    for (size_t i = 0; i < sizeof(measures) / sizeof(measures[0]); i++) {
        if (strcmp(measures[i].name, name) == 0)
            return &measures[i];
    }
    return NULL;
}

static bool parse_weights(const char *value, enum engine_weights *out, struct err_msg *msg)
{
    if (engine_weights_named(value, out))
        return true;
    (void)err_set(msg, ERR_INVALID, "--weights %.40s is not known; stored, fp8 and int8 are",
                  value);
    return false;
}

/* An option of this measurement and its value. */
static bool parse_value(const char *option, const char *value, struct perf_args *a,
                        struct err_msg *msg)
{
    double v;

    if (strcmp(option, "--file") == 0) {
        a->file = value;
        return true;
    }
    if (strcmp(option, "--only") == 0) {
        a->gpu.only = value;
        return true;
    }
    if (strcmp(option, "--weights") == 0)
        return parse_weights(value, &a->gpu.weights, msg);
    if (strcmp(option, "--seed") == 0) {
        if (!parse_number(&seed, value, &v, msg))
            return false;
        a->gpu.seed = (uint64_t)v;
        return true;
    }
    if (strcmp(option, "--device") == 0) {
        if (!parse_number(&device, value, &v, msg))
            return false;
        a->gpu.device = (uint32_t)v;
        return true;
    }
    if (strcmp(option, "--threads") == 0) {
        if (!parse_number(&threads, value, &v, msg))
            return false;
        a->threads = (uint32_t)v;
        return true;
    }
    if (strcmp(option, "--tp") == 0) {
        if (!parse_number(&tp, value, &v, msg))
            return false;
        a->tp = (uint32_t)v;
        return true;
    }
    return parse_profile(option, value, &a->profile, msg);
}

static bool parse(const struct measure *what, int argc, char **argv, struct perf_args *a,
                  struct err_msg *msg)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            a->json = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            a->help = true;
        } else if (has_word(what->options, argv[i])) {
            if (i + 1 == argc) {
                (void)err_set(msg, ERR_INVALID, "%s needs a value", argv[i]);
                return false;
            }
            if (!parse_value(argv[i], argv[i + 1], a, msg))
                return false;
            i++;
        } else if ((argv[i][0] != '-' || (what->no_model && strcmp(argv[i], "-") == 0)) &&
                   what->model && a->model == NULL) {
            a->model = argv[i];
        } else {
            (void)err_set(msg, ERR_INVALID, "%s has no use for %.80s; see baton perf %s%s--help",
                          what->name, argv[i], what->usage != NULL ? what->name : "",
                          what->usage != NULL ? " " : "");
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
    if (strcmp(what, "gpu") == 0) {
        struct bench_perf_gpu_options o = a->gpu;

        o.model_dir = a->model;
        return bench_perf_gpu(&o, a->json, msg);
    }
    if (strcmp(what, "sched") == 0)
        return bench_perf_sched(a->json, msg);
    err = daemon_model_dir_find(a->model, dir, sizeof(dir), msg);
    if (err != ERR_OK)
        return err;
    if (strcmp(what, "profile") == 0) {
        struct bench_perf_profile_options o = a->profile;

        o.model_dir = dir;
        o.threads = a->threads;
        o.tp = a->tp;
        return bench_perf_profile(&o, a->json, msg);
    }
    if (strcmp(what, "engine") == 0)
        return bench_perf_engine(dir, a->threads, a->tp, a->json, msg);
    if (strcmp(what, "tok") == 0)
        return bench_perf_tok(dir, a->file, a->json, msg);
    return bench_perf_http(dir, a->json, msg);
}

int daemon_perf_run(int argc, char **argv)
{
    struct perf_args a = {.gpu = {.seed = 1}};
    struct err_msg msg = {""};
    const struct measure *what;

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "perf");
    if (argc < 1 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        fputs(usage, argc < 1 ? stderr : stdout);
        return argc < 1 ? 2 : 0;
    }
    what = find_measure(argv[0]);
    if (what == NULL) {
        fprintf(stderr, "baton perf: there is no measurement '%.60s'; see baton perf --help\n",
                argv[0]);
        return 2;
    }
    if (!parse(what, argc - 1, argv + 1, &a, &msg)) {
        fprintf(stderr, "baton perf: %s\n", msg.text);
        return 2;
    }
    if (a.help) {
        fputs(what->usage != NULL ? what->usage : usage, stdout);
        return 0;
    }
    if (bench_out_check("--out", a.profile.out, &msg) != ERR_OK ||
        run(what->name, &a, &msg) != ERR_OK) {
        fprintf(stderr, "baton perf %s: %s\n", what->name, msg.text);
        return 1;
    }
    return 0;
}
