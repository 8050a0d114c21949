/* daemon/main.c - the command word picks the role. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "bench/load_command.h"
#include "daemon/config.h"
#include "daemon/link_addr.h"
#include "daemon/model_dir.h"
#include "daemon/perf.h"
#include "daemon/serve.h"
#include "daemon/simulate.h"
#include "daemon/status.h"
#include "daemon/worker.h"
#include "engine/engine.h"

static const char usage[] =
    "Usage: baton COMMAND [options]\n"
    "\n"
    "Serve\n"
    "  serve [MODEL_DIR]      front end, scheduler and workers on this machine\n"
    "  prefill [MODEL_DIR]    a prefill worker for a scheduler elsewhere\n"
    "  decode [MODEL_DIR]     a decode worker for a scheduler elsewhere\n"
    "\n"
    "Tools\n"
    "  status [URL]           tiers, predictions and workers of a running server\n"
    "  top [URL]              the same, live\n"
    "  simulate               a trace through the scheduler in virtual time, policies side by "
    "side\n"
    "  bench URL              load for any OpenAI-compatible server: what share kept its targets\n"
    "  perf WHAT              measure a part: kv, http, engine, tok, sched, gpu; profile: this "
    "machine, for predictions\n"
    "  config check FILE      check a configuration file\n"
    "  config print [options] the effective configuration of serve\n"
    "  config reference       every option, as a Markdown table\n"
    "  version                what this program is\n"
    "\n"
    "baton COMMAND --help says more.  Not built yet: frontend, scheduler, pool.\n";

static enum err start_log(const struct daemon_config *c, const char *who, struct err_msg *msg)
{
    enum log_level level;
    enum err err = log_level_parse(c->log_level, &level);

    if (err != ERR_OK)
        return err_set(msg, err, "log_level '%.60s' is unknown", c->log_level);
    log_setup(level, strcmp(c->log_format, "json") == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT, who);
    return ERR_OK;
}

/* Prompts and outputs are in our memory: no core dumps.  A process that also holds keys may not be read by
 * others at all; workers must stay readable to each other, since UCX shares memory through /proc. */
static void protect_memory(bool holds_keys)
{
    struct rlimit none = {0, 0};

    setrlimit(RLIMIT_CORE, &none);
    if (holds_keys)
        prctl(PR_SET_DUMPABLE, 0);
}

/* 2: what was asked for is wrong; 1: it could not be done. */
static int complain(const char *who, const struct err_msg *msg, int status)
{
    fprintf(stderr, "baton %s: %s\n", who, msg->text);
    return status;
}

static int load_config(const char *who, enum daemon_command command, int argc, char **argv,
                       struct daemon_config **c)
{
    struct err_msg msg = {""};
    enum err err = daemon_config_load(command, argc, argv, &msg, c);

    *c = err == ERR_OK ? *c : NULL;
    if (err == ERR_OK || err == ERR_CANCELED)
        return 0;
    return complain(who, &msg, err == ERR_INVALID ? 2 : 1);
}

static int run_serve(int argc, char **argv)
{
    struct err_msg msg = {""};
    struct daemon_config *c = NULL;
    int status = load_config("serve", DAEMON_CMD_SERVE, argc, argv, &c);

    if (c == NULL)
        return status;
    if (start_log(c, "serve", &msg) == ERR_OK)
        status = daemon_serve_run(c);
    else
        status = complain("serve", &msg, 2);
    daemon_config_free(c);
    return status;
}

/* UCX reads these before main() runs, so a process that was started without them starts itself again: its
 * memory hooks, which every process that is linked with it gets, are of no use without device memory and
 * leak (and crash under ThreadSanitizer when a thread ends), and its log belongs on standard error. */
static void settle_ucx_environment(char **whole_argv)
{
    char exe[1024];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1); /* by name, so that ps shows it */

    if (getenv("UCX_MEM_MMAP_HOOK_MODE") != NULL && getenv("UCX_LOG_FILE") != NULL)
        return;
    exe[n > 0 ? n : 0] = '\0';
    if (n > 0 && setenv("UCX_MEM_MMAP_HOOK_MODE", "none", 0) == 0 &&
        setenv("UCX_LOG_FILE", "stderr", 0) == 0)
        execv(exe, whole_argv);
    fprintf(stderr, "baton: cannot set the UCX environment; going on without\n");
}

/* The default name of a model is that of its directory. */
static enum err name_model(struct daemon_config *c, char *dir, size_t room, struct err_msg *msg)
{
    enum err err = daemon_model_dir_find(c->model_dir, dir, room, msg);

    if (err == ERR_OK && c->served_name == NULL)
        err = daemon_model_dir_name(dir, &c->served_name, msg);
    return err;
}

static int run_worker(enum daemon_worker_role role, int argc, char **argv)
{
    bool is_prefill = role == DAEMON_WORKER_PREFILL;
    const char *word = is_prefill ? "prefill" : "decode";
    struct err_msg msg = {""};
    struct daemon_config *c = NULL;
    struct daemon_addr at;
    char dir[1024];
    int status =
        load_config(word, is_prefill ? DAEMON_CMD_PREFILL : DAEMON_CMD_DECODE, argc, argv, &c);

    if (c == NULL)
        return status;
    if (c->scheduler == NULL || c->secret_file == NULL) {
        err_set(&msg, ERR_INVALID,
                "needs --scheduler HOST:PORT and --secret-file FILE: the address that `baton serve "
                "--listen-workers` takes workers at, and the secret it was given");
        status = complain(word, &msg, 2);
    } else if (daemon_addr_parse(c->scheduler, &at, &msg) != ERR_OK) {
        status = complain(word, &msg, 2);
    } else if (start_log(c, c->name != NULL ? c->name : word, &msg) != ERR_OK) {
        status = complain(word, &msg, 2);
    } else if (name_model(c, dir, sizeof(dir), &msg) != ERR_OK) {
        status = complain(word, &msg, 1);
    } else {
        struct daemon_worker_config w = {.role = role,
                                         .name = c->name != NULL ? c->name : word,
                                         .model_dir = dir,
                                         .served_name = c->served_name,
                                         .backend = c->backend,
                                         .sim_profile = c->sim_profile,
                                         .scheduler = c->scheduler,
                                         .secret_file = c->secret_file,
                                         .kv_host = c->kv_host,
                                         .kv_port = (uint16_t)c->kv_port,
                                         .kv_transports = c->kv_transports,
                                         .threads = c->threads,
                                         .tp = c->tp,
                                         .device = c->device,
                                         .gpu_memory = c->gpu_memory,
                                         .weights = c->weights,
                                         .kv_blocks = c->kv_blocks,
                                         .random_weights = c->random_weights,
                                         .step_timeout_s = c->step_timeout_s,
                                         .kv_bytes = (uint64_t)c->kv_mib << 20,
                                         .park_bytes = (uint64_t)c->park_mib << 20,
                                         .worker_class = c->worker_class,
                                         .block_tokens = c->block_tokens,
                                         .max_context = c->max_context,
                                         .max_batch = c->max_batch,
                                         .max_step_tokens = c->max_step_tokens,
                                         .load_timeout_s = c->load_timeout_s,
                                         .exit_with_parent = c->exit_with_parent};

        status = daemon_worker_run(&w);
    }
    daemon_config_free(c);
    return status;
}

static int run_config(int argc, char **argv)
{
    struct err_msg msg = {""};
    struct daemon_config *c = NULL;
    enum err err;

    if (argc == 2 && strcmp(argv[0], "check") == 0) {
        err = daemon_config_check_file(argv[1], &msg);
        if (err != ERR_OK)
            return complain("config check", &msg, 1);
        printf("%s: ok\n", argv[1]);
        return 0;
    }
    if (argc >= 1 && strcmp(argv[0], "print") == 0) {
        int status = load_config("config print", DAEMON_CMD_SERVE, argc - 1, argv + 1, &c);

        if (c == NULL)
            return status;
        daemon_config_print(c, stdout);
        daemon_config_free(c);
        return 0;
    }
    if (argc == 1 && strcmp(argv[0], "reference") == 0) {
        daemon_config_reference(stdout);
        return 0;
    }
    fputs("Usage: baton config check FILE\n       baton config print [serve options]\n       baton "
          "config "
          "reference\n",
          argc >= 1 && strcmp(argv[0], "--help") == 0 ? stdout : stderr);
    return argc >= 1 && strcmp(argv[0], "--help") == 0 ? 0 : 2;
}

static int not_built(const char *word)
{
    static const char *const later[] = {"frontend", "scheduler", "pool"};

    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        if (strcmp(word, later[i]) == 0) {
            fprintf(stderr,
                    "baton %s: this part is not built yet; `baton serve` runs front end and "
                    "scheduler in one process\n",
                    word);
            return 2;
        }
    }
    fprintf(stderr, "baton: there is no command '%.60s'\n\n%s", word, usage);
    return 2;
}

static bool is_role(const char *word)
{
    return strcmp(word, "serve") == 0 || strcmp(word, "prefill") == 0 ||
           strcmp(word, "decode") == 0;
}

static int run_command(const char *word, int argc, char **argv)
{
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (strcmp(word, "version") == 0 || strcmp(word, "--version") == 0) {
        printf("baton %s (backends: %s)\n", BATON_VERSION, engine_backends());
        return 0;
    }
    if (is_role(word) || strcmp(word, "perf") == 0)
        settle_ucx_environment(argv);
    if (strcmp(word, "serve") == 0)
        return run_serve(argc - 2, argv + 2);
    if (strcmp(word, "prefill") == 0)
        return run_worker(DAEMON_WORKER_PREFILL, argc - 2, argv + 2);
    if (strcmp(word, "decode") == 0)
        return run_worker(DAEMON_WORKER_DECODE, argc - 2, argv + 2);
    if (strcmp(word, "config") == 0)
        return run_config(argc - 2, argv + 2);
    if (strcmp(word, "status") == 0)
        return daemon_status_run(argc - 2, argv + 2);
    if (strcmp(word, "top") == 0)
        return daemon_top_run(argc - 2, argv + 2);
    if (strcmp(word, "perf") == 0)
        return daemon_perf_run(argc - 2, argv + 2);
    if (strcmp(word, "bench") == 0)
        return bench_load_command(argc - 2, argv + 2);
    if (strcmp(word, "simulate") == 0)
        return daemon_simulate_run(argc - 2, argv + 2);
    return not_built(word);
}

/* Results that never reached the reader are no success: a full disk, a pipe whose reader has gone. */
static int flush_results(const char *word, int status)
{
    bool lost;

    errno = 0;
    lost = fflush(stdout) != 0;
    if (!lost && !ferror(stdout))
        return status;
    fprintf(stderr, "baton %s: cannot write to standard output%s%s\n", word, errno != 0 ? ": " : "",
            errno != 0 ? strerror(errno) : "");
    return status != 0 ? status : 1;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    int status;

    signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error of a write, not the end of us */
    protect_memory(strcmp(word, "serve") == 0);
    if (argc < 2) {
        fputs(usage, stderr);
        return 2;
    }
    status = run_command(word, argc, argv);
    /* Those that serve have nothing to say there but that they are ready. */
    return is_role(word) ? status : flush_results(word, status);
}
