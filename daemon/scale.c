/* daemon/scale.c - see the header for the contract. */
#include "daemon/scale.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "base/mem.h"
#include "scheduler/sched.h"

enum { LIMIT_MS = 30000 };

struct wish {
    uint32_t want[3], have[3];
};

struct daemon_scale {
    const char *program;
    uv_loop_t *loop;
    uv_process_t process;
    uv_timer_t limit;
    bool running, pending, closing;
    struct wish next;
    unsigned open_handles;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void run(struct daemon_scale *s);

static void on_handle_closed(uv_handle_t *h)
{
    struct daemon_scale *s = h->data;

    s->open_handles--;
    if (s->closing && s->open_handles == 0) {
        s->closed(s->closed_arg);
        mem_free(s);
    } else if (!s->closing && s->pending && !s->running) {
        run(s);
    }
}

static void on_limit(uv_timer_t *t)
{
    struct daemon_scale *s = t->data;

    LOG_WARN("scale", "command takes too long", "program=%s limit_s=%d; it is killed", s->program,
             LIMIT_MS / 1000);
    uv_process_kill(&s->process, SIGKILL);
}

static void on_exit_of(uv_process_t *p, int64_t status, int signal_number)
{
    struct daemon_scale *s = p->data;

    s->running = false;
    if (!s->closing)
        uv_timer_stop(&s->limit);
    if (status != 0 || signal_number != 0)
        LOG_WARN("scale", "command failed", "program=%s status=%lld signal=%d", s->program,
                 (long long)status, signal_number);
    uv_close((uv_handle_t *)p, on_handle_closed);
}

static void run(struct daemon_scale *s)
{
    const struct wish *w = &s->next;
    char n[4][16];
    const uint32_t v[4] = {w->want[SCHED_ROLE_PREFILL], w->want[SCHED_ROLE_DECODE],
                           w->have[SCHED_ROLE_PREFILL], w->have[SCHED_ROLE_DECODE]};
    char *args[6] = {(char *)(uintptr_t)s->program, n[0], n[1], n[2], n[3], NULL};
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE},
                                     {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
                                     {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO}};
    uv_process_options_t o = {
        .exit_cb = on_exit_of, .file = s->program, .args = args, .stdio_count = 3, .stdio = stdio};
    int bad;

    for (int i = 0; i < 4; i++)
        snprintf(n[i], sizeof(n[i]), "%u", v[i]);
    s->pending = false;
    s->open_handles++;
    s->process.data = s;
    bad = uv_spawn(s->loop, &s->process, &o);
    if (bad != 0) {
        LOG_WARN("scale", "command cannot be started", "program=%s why=%s", s->program,
                 uv_strerror(bad));
        s->process.data = s;
        uv_close((uv_handle_t *)&s->process, on_handle_closed);
        return;
    }
    s->running = true;
    uv_timer_start(&s->limit, on_limit, LIMIT_MS, 0);
}

enum err daemon_scale_create(uv_loop_t *loop, const char *program, struct err_msg *msg,
                             struct daemon_scale **out)
{
    struct daemon_scale *s;

    if (access(program, X_OK) != 0)
        return err_set(msg, ERR_NOT_FOUND,
                       "scale_command %.200s cannot be run: %s (give the path of a program; its "
                       "arguments are the counts)",
                       program, strerror(errno));
    s = mem_try_calloc(1, sizeof(*s));
    if (s == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the scale command");
    s->program = program;
    s->loop = loop;
    uv_timer_init(loop, &s->limit);
    s->limit.data = s;
    s->open_handles = 1;
    *out = s;
    return ERR_OK;
}

void daemon_scale_want(struct daemon_scale *s, const uint32_t want[3], const uint32_t have[3])
{
    if (s->closing)
        return;
    memcpy(s->next.want, want, sizeof(s->next.want));
    memcpy(s->next.have, have, sizeof(s->next.have));
    s->pending = true;
    if (s->open_handles == 1) /* the limit timer alone: nothing runs, nothing is being closed */
        run(s);
}

void daemon_scale_close(struct daemon_scale *s, void (*closed)(void *arg), void *arg)
{
    s->closing = true;
    s->closed = closed;
    s->closed_arg = arg;
    if (s->running)
        uv_process_kill(&s->process, SIGKILL);
    uv_close((uv_handle_t *)&s->limit, on_handle_closed);
}
