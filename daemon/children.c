/* daemon/children.c - see the header for the contract. */
#include "daemon/children.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/device_list.h"
#include "daemon/link_addr.h"
#include "engine/engine.h"

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 10000,
    HEALTHY_MS = 10000,
    ARGS_MAX = 56,
    SECRET_FD = 3 /* in the worker */
};

struct child {
    struct daemon_children *all;
    bool is_prefill;
    unsigned index;
    char name[32];
    uv_process_t process;
    uv_timer_t restart;
    bool running;
    uint64_t started_ns;
    uint32_t backoff_ms;
};

struct daemon_children {
    struct daemon_children_config c;
    struct child *v;
    unsigned n;
    bool stopping, proven;
    uv_timer_t grace; /* after stop: looks every 10 ms whether all have ended */
    uint64_t kill_at_ns;
    unsigned open_handles;
    char exe[4096];
    char **env;
    uint32_t threads;
};

static void start_child(struct child *child);

static void maybe_all_stopped(struct daemon_children *all)
{
    if (!all->stopping || all->open_handles > 0)
        return;
    all->c.on_all_stopped(all->c.arg);
    mem_free(all->env);
    mem_free(all->v);
    mem_free(all);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct daemon_children *all = h->data;

    all->open_handles--;
    maybe_all_stopped(all);
}

static void close_handle(struct daemon_children *all, uv_handle_t *h)
{
    h->data = all;
    uv_close(h, on_handle_closed);
}

static void on_restart(uv_timer_t *t)
{
    start_child(t->data);
}

static void plan_restart(struct child *child)
{
    uint64_t lived_ms = (clock_now_ns() - child->started_ns) / CLOCK_NS_PER_MS;

    if (lived_ms >= HEALTHY_MS)
        child->backoff_ms = BACKOFF_FIRST_MS;
    LOG_INFO("serve", "worker restarts", "name=%s in_ms=%u", child->name, child->backoff_ms);
    child->restart.data = child;
    uv_timer_start(&child->restart, on_restart, child->backoff_ms, 0);
    child->backoff_ms *= 2;
    if (child->backoff_ms > BACKOFF_MAX_MS)
        child->backoff_ms = BACKOFF_MAX_MS;
}

static void on_child_exit(uv_process_t *process, int64_t status, int signal_number)
{
    struct child *child = process->data;
    struct daemon_children *all = child->all;
    uint32_t pid = (uint32_t)process->pid;

    child->running = false;
    close_handle(all, (uv_handle_t *)process);
    if (all->stopping) {
        LOG_DEBUG("serve", "worker ended", "name=%s pid=%u", child->name, pid);
    } else if (signal_number != 0) {
        LOG_WARN("serve", "worker died", "name=%s pid=%u signal=%d", child->name, pid,
                 signal_number);
    } else {
        LOG_WARN("serve", "worker ended", "name=%s pid=%u status=%lld", child->name, pid,
                 (long long)status);
    }
    all->c.on_gone(all->c.arg, pid);
    if (all->stopping)
        return;
    if (status == 1 && !all->proven)
        all->c.on_hopeless(all->c.arg);
    else
        plan_restart(child);
}

/* ---- the command line of a child ---- */

struct args {
    struct buf text;       /* all of them, each with its NUL */
    size_t at[ARGS_MAX];   /* where each begins: the text moves while it grows */
    char *v[ARGS_MAX + 1]; /* once all are there */
    unsigned n;
    enum err err; /* the first failure */
};

static void arg(struct args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void arg(struct args *a, const char *format, ...)
{
    va_list list;
    int len;

    va_start(list, format);
    len = vsnprintf(NULL, 0, format, list);
    va_end(list);
    if (a->err == ERR_OK && (a->n == ARGS_MAX || len < 0))
        a->err = ERR_LIMIT;
    if (a->err == ERR_OK)
        a->err = buf_reserve(&a->text, (size_t)len + 1);
    if (a->err != ERR_OK)
        return;
    va_start(list, format);
    vsnprintf(buf_bytes(&a->text) + a->text.len, (size_t)len + 1, format, list);
    va_end(list);
    a->at[a->n++] = a->text.len;
    buf_added(&a->text, (size_t)len + 1);
}

static void text_arg(struct args *a, const char *flag, const char *value)
{
    if (value != NULL)
        arg(a, "%s=%s", flag, value);
}

/* Workers of other hosts reach ours where they reach the scheduler, unless the operator says otherwise. */
static void kv_host_arg(struct args *a, const struct daemon_config *c)
{
    struct daemon_addr at;

    if (c->kv_host != NULL)
        arg(a, "--kv-host=%s", c->kv_host);
    else if (c->listen_workers != NULL &&
             daemon_addr_parse(c->listen_workers, &at, NULL) == ERR_OK &&
             !daemon_addr_is_wildcard(at.host))
        arg(a, "--kv-host=%s", at.host);
}

static uint32_t pool_tp(const struct daemon_config *c, bool prefill)
{
    uint32_t own = prefill ? c->prefill_tp : c->decode_tp;

    return own > 0 ? own : c->tp;
}

/* Another backend refuses these by name; that is for its workers to say, so it gets them as they are. */
static void device_args(const struct child *child, struct args *a)
{
    const struct daemon_config *c = child->all->c.config;
    uint32_t ranks[128]; /* prefill and decode have 64 workers at most each */
    struct daemon_device_users u = {.ranks = ranks, .share = ENGINE_DEVICE_SHARE};
    struct daemon_device_list given, own;
    char list[DAEMON_DEVICES_MAX * 5];
    double share;

    text_arg(a, "--weights", c->weights);
    arg(a, "--kv-blocks=%u", c->kv_blocks);
    arg(a, "--random-weights=%u", c->random_weights);
    arg(a, "--step-timeout-s=%u", c->step_timeout_s);
    if (strcmp(c->backend, "cuda") != 0) {
        text_arg(a, "--device", c->device);
        text_arg(a, "--gpu-memory", c->gpu_memory);
        return;
    }
    for (; u.n < child->all->n && u.n < sizeof(ranks) / sizeof(ranks[0]); u.n++)
        ranks[u.n] = pool_tp(c, u.n < c->prefill);
    if (a->err == ERR_OK && c->device != NULL) {
        a->err = daemon_device_list_parse(c->device, &given, NULL);
        u.list = &given;
    }
    if (a->err == ERR_OK && c->gpu_memory != NULL)
        a->err = daemon_device_share_parse(c->gpu_memory, &u.share, NULL);
    if (a->err == ERR_OK)
        a->err = daemon_device_deal(&u, (uint32_t)(child - child->all->v), &own, &share, NULL);
    if (a->err != ERR_OK)
        return;
    daemon_device_list_text(&own, list, sizeof(list));
    arg(a, "--device=%s", list);
    arg(a, "--gpu-memory=%.6g", share);
}

static enum err build_args(const struct child *child, struct args *a)
{
    const struct daemon_children *all = child->all;
    const struct daemon_config *c = all->c.config;

    *a = (struct args){.n = 0};
    arg(a, "baton");
    arg(a, "%s", child->is_prefill ? "prefill" : "decode");
    arg(a, "%s", all->c.model_dir);
    arg(a, "--name=%s", child->name);
    text_arg(a, "--scheduler", all->c.control);
    arg(a, "--secret-file=/proc/self/fd/%d", SECRET_FD);
    text_arg(a, "--served-name", c->served_name);
    text_arg(a, "--backend", c->backend);
    text_arg(a, "--sim-profile", c->sim_profile);
    text_arg(a, "--kv-transports", c->kv_transports);
    text_arg(a, "--worker-class", c->worker_class);
    kv_host_arg(a, c);
    text_arg(a, "--log-level", c->log_level);
    text_arg(a, "--log-format", c->log_format);
    arg(a, "--threads=%u", all->threads);
    arg(a, "--tp=%u", pool_tp(c, child->is_prefill));
    arg(a, "--block-tokens=%u", c->block_tokens);
    arg(a, "--max-context=%u", c->max_context);
    arg(a, "--max-batch=%u", c->max_batch);
    arg(a, "--max-step-tokens=%u", c->max_step_tokens);
    arg(a, "--load-timeout-s=%u", c->load_timeout_s);
    arg(a, "--kv-mib=%u", c->kv_mib);
    arg(a, "--park-mib=%u", c->park_mib);
    device_args(child, a);
    arg(a, "--exit-with-parent");
    for (unsigned i = 0; a->err == ERR_OK && i < a->n; i++)
        a->v[i] = buf_bytes(&a->text) + a->at[i];
    return a->err;
}

static void start_child(struct child *child)
{
    struct daemon_children *all = child->all;
    struct args args;
    uv_stdio_container_t stdio[SECRET_FD + 1] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = all->c.secret_fd}};
    uv_process_options_t o = {.exit_cb = on_child_exit,
                              .file = all->exe,
                              .env = all->env,
                              .stdio = stdio,
                              .stdio_count = SECRET_FD + 1};
    int bad;

    if (all->stopping)
        return;
    child->started_ns = clock_now_ns();
    if (build_args(child, &args) != ERR_OK) {
        LOG_ERROR("serve", "cannot start worker", "name=%s why=%s", child->name,
                  err_text(args.err));
        buf_free(&args.text);
        plan_restart(child);
        return;
    }
    o.args = args.v;
    bad = uv_spawn(all->c.loop, &child->process, &o);
    buf_free(&args.text);
    child->process.data = child;
    all->open_handles++;
    if (bad != 0) {
        LOG_ERROR("serve", "cannot start worker", "name=%s why=%s", child->name, uv_strerror(bad));
        close_handle(all, (uv_handle_t *)&child->process);
        plan_restart(child);
        return;
    }
    child->running = true;
    LOG_INFO("serve", "worker started", "name=%s pid=%d", child->name, child->process.pid);
}

/* Workers get flags alone: variables meant for this process would reach them too. */
static char **filtered_environment(void)
{
    size_t n = 0, kept = 0;
    char **env;

    while (environ[n] != NULL)
        n++;
    env = mem_try_calloc(n + 1, sizeof(*env));
    for (size_t i = 0; env != NULL && i < n; i++) {
        if (strncmp(environ[i], "BATON_", 6) != 0)
            env[kept++] = environ[i];
    }
    return env;
}

/* A lone pair works in turns, so each may use every core; more workers share them. */
static uint32_t share_threads(const struct daemon_config *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = c->prefill + c->decode, share;

    if (c->threads > 0 || cores < 1 || n == 0)
        return c->threads;
    share = (uint32_t)(2 * cores) / n;
    if (share > (uint32_t)cores)
        share = (uint32_t)cores;
    return share > 0 ? share : 1;
}

enum err daemon_children_start(const struct daemon_children_config *c, struct err_msg *msg,
                               struct daemon_children **out)
{
    struct daemon_children *all = mem_try_calloc(1, sizeof(*all));
    size_t len = sizeof(all->exe) - 1;

    if (all != NULL) {
        all->v = mem_try_calloc(c->config->prefill + c->config->decode + 1, sizeof(*all->v));
        all->env = filtered_environment();
    }
    if (all == NULL || all->v == NULL || all->env == NULL || uv_exepath(all->exe, &len) != 0) {
        if (all != NULL) {
            mem_free(all->v);
            mem_free(all->env);
        }
        mem_free(all);
        return err_set(msg, ERR_NOMEM, "cannot prepare the worker processes");
    }
    all->c = *c;
    all->threads = share_threads(c->config);
    all->n = c->config->prefill + c->config->decode;
    uv_timer_init(c->loop, &all->grace);
    all->open_handles++;
    for (unsigned i = 0; i < all->n; i++) {
        struct child *child = &all->v[i];

        child->all = all;
        child->is_prefill = i < c->config->prefill;
        child->index = child->is_prefill ? i : i - c->config->prefill;
        child->backoff_ms = BACKOFF_FIRST_MS;
        if (c->config->elastic) /* its role may change */
            snprintf(child->name, sizeof(child->name), "worker-%u", i);
        else
            snprintf(child->name, sizeof(child->name), "%s-%u",
                     child->is_prefill ? "prefill" : "decode", child->index);
        uv_timer_init(c->loop, &child->restart);
        all->open_handles++;
        start_child(child);
    }
    *out = all;
    return ERR_OK;
}

void daemon_children_proven(struct daemon_children *c)
{
    c->proven = true;
}

void daemon_children_kill(struct daemon_children *c, uint32_t pid)
{
    for (unsigned i = 0; i < c->n; i++) {
        if (c->v[i].running && (uint32_t)c->v[i].process.pid == pid)
            uv_process_kill(&c->v[i].process, SIGKILL);
    }
}

static void on_grace(uv_timer_t *t)
{
    struct daemon_children *all = t->data;

    for (unsigned i = 0; i < all->n; i++) {
        if (all->v[i].running)
            uv_process_kill(&all->v[i].process, SIGKILL);
    }
    close_handle(all, (uv_handle_t *)t);
}

static void poll_stopped(uv_timer_t *t)
{
    struct daemon_children *all = t->data;
    bool running = false;

    for (unsigned i = 0; i < all->n; i++)
        running |= all->v[i].running;
    if (!running || clock_now_ns() >= all->kill_at_ns)
        on_grace(t);
}

void daemon_children_stop(struct daemon_children *c, uint32_t grace_ms)
{
    if (c->stopping)
        return;
    c->stopping = true;
    for (unsigned i = 0; i < c->n; i++) {
        close_handle(c, (uv_handle_t *)&c->v[i].restart);
        if (c->v[i].running)
            uv_process_kill(&c->v[i].process, SIGTERM);
    }
    c->kill_at_ns = clock_now_ns() + (uint64_t)grace_ms * CLOCK_NS_PER_MS;
    c->grace.data = c;
    uv_timer_start(&c->grace, poll_stopped, 10, 10);
}
