/* bench/perf_http.c - see the header.  The reference of each row is the figure Baton aims at; the machine's own
 * limit for small writes on loopback is measured beside it. */
#include "bench/perf_http.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <unistd.h>
#include <uv.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "bench/http_load.h"
#include "bench/perf_report.h"

enum { STREAMS = 64, STREAM_TOKENS = 900, START_LIMIT_S = 60, STOP_LIMIT_S = 15 };
static const double PACE_MS = 0.4;

struct server {
    pid_t pid;
    uint16_t port;
};

static void pin(pid_t pid, unsigned core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(core, &set);
    sched_setaffinity(pid, sizeof(set), &set);
}

static uint16_t free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint16_t port = 0;

    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        port = ntohs(at.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

/* Workers are children of the server: move them, with all their threads, off its core. */
static void pin_workers(pid_t parent, unsigned core)
{
    char path[64], line[512];
    DIR *dir = opendir("/proc");
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        long pid = strtol(entry->d_name, NULL, 10);
        int ppid = 0;
        const char *close_paren;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
        f = pid > 0 ? fopen(path, "r") : NULL;
        if (f == NULL)
            continue;
        if (fgets(line, sizeof(line), f) != NULL && (close_paren = strrchr(line, ')')) != NULL)
            ppid = (int)strtol(close_paren + 4, NULL, 10);
        fclose(f);
        if (ppid == parent) {
            DIR *tasks;
            struct dirent *task;

            snprintf(path, sizeof(path), "/proc/%ld/task", pid);
            tasks = opendir(path);
            while (tasks != NULL && (task = readdir(tasks)) != NULL) {
                if (task->d_name[0] != '.')
                    pin((pid_t)strtol(task->d_name, NULL, 10), core);
            }
            if (tasks != NULL)
                closedir(tasks);
        }
    }
    if (dir != NULL)
        closedir(dir);
}

static bool is_ready(uint16_t port)
{
    static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct http_load l = {.port = port,
                          .connections = 1,
                          .requests = 1,
                          .request = request,
                          .request_len = sizeof(request) - 1,
                          .limit_s = 2};
    struct http_load_result r;
    bool ok = http_load_run(&l, &r, NULL) == ERR_OK && r.answered == 1;

    mem_free(r.first_ms);
    return ok;
}

/* profile: modelled times, NULL for none. */
static enum err start_server(const char *model_dir, const char *profile, struct server *s,
                             struct err_msg *msg)
{
    char exe[512], port[16];
    size_t len = sizeof(exe) - 1;

    *s = (struct server){0};

    s->port = free_port();
    snprintf(port, sizeof(port), "%u", s->port);
    if (s->port == 0 || uv_exepath(exe, &len) != 0)
        return err_set(msg, ERR_IO, "no free port, or no path to this program");
    s->pid = fork();
    if (s->pid == 0) {
        char *argv[] = {exe,
                        "serve",
                        (char *)(uintptr_t)model_dir,
                        "--backend=sim",
                        "--log-level=error",
                        "--served-name=perf",
                        "--max-batch=256",
                        "--port",
                        port,
                        profile != NULL ? "--sim-profile" : NULL,
                        (char *)(uintptr_t)profile,
                        NULL};

        pin(0, 0);
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execv(exe, argv);
        _exit(127);
    }
    for (int i = 0; s->pid > 0 && i < START_LIMIT_S * 10; i++) {
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
            break;
        if (is_ready(s->port)) {
            long cores = sysconf(_SC_NPROCESSORS_ONLN);

            if (cores > 1) {
                pin_workers(s->pid, 1);
                pin(0, 1);
            }
            return ERR_OK;
        }
        usleep(100 * 1000);
    }
    return err_set(msg, ERR_IO, "baton serve did not become ready; see its messages above");
}

static void stop_server(const struct server *s)
{
    kill(s->pid, SIGTERM);
    for (int i = 0; i < STOP_LIMIT_S * 20; i++) {
        if (waitpid(s->pid, NULL, WNOHANG) != 0)
            return;
        usleep(50 * 1000);
    }
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
}

/* A request to /v1/completions with n prompt ids. */
static enum err build(struct buf *out, unsigned n_ids, const char *rest)
{
    struct buf body = BUF_INIT;
    enum err err = buf_puts(&body, "{\"model\":\"perf\",\"prompt\":[");

    for (unsigned i = 0; err == ERR_OK && i < n_ids; i++)
        err = buf_printf(&body, "%s%u", i == 0 ? "" : ",", 300 + i % 1000);
    if (err == ERR_OK)
        err = buf_printf(&body, "],%s}", rest);
    buf_clear(out);
    if (err == ERR_OK)
        err = buf_printf(out,
                         "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                         "application/json\r\nContent-Length: %zu\r\n\r\n",
                         body.len);
    if (err == ERR_OK)
        err = buf_append(out, buf_bytes(&body), body.len);
    buf_free(&body);
    return err;
}

static enum err load(const struct server *s, const struct buf *request, uint32_t connections,
                     uint32_t requests, double rate, struct http_load_result *r,
                     struct err_msg *msg)
{
    struct http_load l = {.port = s->port,
                          .connections = connections,
                          .requests = requests,
                          .rate = rate,
                          .request = buf_bytes(request),
                          .request_len = request->len,
                          .limit_s = 60};
    enum err err = http_load_run(&l, r, msg);

    if (err == ERR_OK && r->failed > 0)
        err = err_set(msg, ERR_IO, "%u of %u requests failed", r->failed, requests);
    return err;
}

/* STREAMS streams at once, each connection one after the other. */
static enum err run_streams(const struct server *s, struct buf *request, uint32_t requests,
                            struct http_load_result *r, struct err_msg *msg)
{
    char rest[160];
    enum err err;

    snprintf(rest, sizeof(rest), "\"max_tokens\":%d,\"stream\":true,\"ignore_eos\":true",
             STREAM_TOKENS);
    err = build(request, 16, rest);
    return err == ERR_OK ? load(s, request, STREAMS, requests, 0, r, msg) : err;
}

/* Tokens as fast as they come: where the front end is behind, several go into one event. */
static enum err measure_streams(const struct server *s, struct buf *request,
                                struct bench_report *report, struct err_msg *msg)
{
    struct http_load_result r = {0};
    uint32_t requests = STREAMS * 10;
    enum err err = run_streams(s, request, requests, &r, msg);

    if (err == ERR_OK) {
        bench_report_add(report, "http.stream.tokens", (double)requests * STREAM_TOKENS / r.seconds,
                         "tokens/s", BENCH_HIGHER);
        bench_report_reference(report, "target", 100000);
    }
    mem_free(r.first_ms);
    return err;
}

/* A step every PACE_MS, so that a front end that keeps up writes one event per token. */
static enum err measure_events(const char *model_dir, struct buf *request,
                               struct bench_report *report, struct err_msg *msg)
{
    struct http_load_result r = {0};
    struct server s = {0};
    char profile[] = "/tmp/baton-perf-XXXXXX";
    uint32_t requests = STREAMS * 5;
    int fd = mkstemp(profile);
    bool ok = fd >= 0 && dprintf(fd, "decode_base_ms: %g\n", PACE_MS) > 0;
    enum err err;

    if (fd >= 0)
        close(fd);
    err = ok ? start_server(model_dir, profile, &s, msg)
             : err_set(msg, ERR_IO, "cannot write a sim profile under /tmp");
    if (err == ERR_OK)
        err = run_streams(&s, request, requests, &r, msg);
    if (s.pid > 0)
        stop_server(&s);
    unlink(profile);
    if (err == ERR_OK) {
        bench_report_add(report, "http.paced.tokens", (double)requests * STREAM_TOKENS / r.seconds,
                         "tokens/s", BENCH_HIGHER);
        bench_report_reference(report, "target", 100000);
        bench_report_add(report, "http.paced.events_per_token",
                         (double)r.events / ((double)requests * STREAM_TOKENS), "1", BENCH_HIGHER);
        bench_report_reference(report, "one event for each token", 1);
    }
    mem_free(r.first_ms);
    return err;
}

static enum err measure_completions(const struct server *s, struct buf *request,
                                    struct bench_report *report, struct err_msg *msg)
{
    struct http_load_result r = {0};
    uint32_t requests = 20000;
    enum err err = build(request, 1000, "\"max_tokens\":1,\"ignore_eos\":true");

    if (err == ERR_OK)
        err = load(s, request, 32, requests, 0, &r, msg);
    if (err == ERR_OK) {
        bench_report_add(report, "http.completion.ids1000", requests / r.seconds, "req/s",
                         BENCH_HIGHER);
        bench_report_reference(report, "target", 5000);
    }
    mem_free(r.first_ms);
    return err;
}

static enum err measure_ttft(const struct server *s, struct buf *request,
                             struct bench_report *report, struct err_msg *msg)
{
    struct http_load_result r = {0};
    enum err err = build(request, 16, "\"max_tokens\":8,\"stream\":true,\"ignore_eos\":true");

    if (err == ERR_OK)
        err = load(s, request, 128, 5000, 1000, &r, msg);
    if (err == ERR_OK) {
        bench_report_add(report, "http.ttft.p50", http_load_percentile(r.first_ms, r.n_first, 0.5),
                         "ms", BENCH_LOWER);
        bench_report_reference(report, "target", 0.5);
        bench_report_add(report, "http.ttft.p99", http_load_percentile(r.first_ms, r.n_first, 0.99),
                         "ms", BENCH_LOWER);
        bench_report_reference(report, "target", 2);
    }
    mem_free(r.first_ms);
    return err;
}

enum err bench_perf_http(const char *model_dir, bool json, struct err_msg *msg)
{
    struct bench_report report;
    struct buf request = BUF_INIT;
    struct server s = {0};
    enum err err = start_server(model_dir, NULL, &s, msg);

    bench_report_init(&report, "perf http");
    if (err == ERR_OK)
        err = measure_streams(&s, &request, &report, msg);
    if (err == ERR_OK)
        err = measure_completions(&s, &request, &report, msg);
    if (err == ERR_OK)
        err = measure_ttft(&s, &request, &report, msg);
    if (s.pid > 0)
        stop_server(&s);
    if (err == ERR_OK)
        err = measure_events(model_dir, &request, &report, msg);
    if (err == ERR_OK)
        err = bench_report_print(&report, json);
    bench_report_free(&report);
    buf_free(&request);
    return err;
}
