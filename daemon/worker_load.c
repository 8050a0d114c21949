/* daemon/worker_load.c - see the header. */
#include "daemon/worker_load.h"

#include <stddef.h>
#include <stdio.h>
#include <uv.h>

#include "base/clock.h"
#include "base/mbox.h"
#include "base/mem.h"

enum { PHASE_LEN = 64 };

static const uint64_t progress_gap_ns = 50 * CLOCK_NS_PER_MS;

struct daemon_load {
    struct engine_config config;
    const struct daemon_load_hooks *hooks;
    void *arg;
    struct mbox *to_loop;
    uv_thread_t thread;
    struct mbox_msg done;
    /* loading thread's until done */
    uint64_t reported_ns;
    enum err err;
    struct err_msg why;
    struct engine *engine;
};

struct progress {
    struct mbox_msg msg;
    struct daemon_load *load;
    char phase[PHASE_LEN];
    uint64_t done, total;
};

static void run_progress(struct mbox_msg *msg)
{
    struct progress *p = (struct progress *)msg;

    p->load->hooks->on_progress(p->load->arg, p->phase, p->done, p->total);
    mem_free(p);
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct daemon_load *l = arg;
    uint64_t now = clock_now_ns();
    struct progress *p;

    if (now - l->reported_ns < progress_gap_ns && done < total)
        return;
    p = mem_try_calloc(1, sizeof(*p));
    if (p == NULL)
        return; /* only news are lost */
    l->reported_ns = now;
    p->load = l;
    snprintf(p->phase, sizeof(p->phase), "%s", phase);
    p->done = done;
    p->total = total;
    p->msg.run = run_progress;
    mbox_post(l->to_loop, &p->msg);
}

static void run_done(struct mbox_msg *msg)
{
    struct daemon_load *l =
        (struct daemon_load *)((char *)msg - offsetof(struct daemon_load, done));

    uv_thread_join(&l->thread);
    mbox_close(l->to_loop);
    l->hooks->on_loaded(l->arg, l->err, l->why.text, l->engine);
    mem_free(l);
}

static void load_thread(void *arg)
{
    struct daemon_load *l = arg;

    l->err = engine_open(&l->config, &l->why, &l->engine);
    mbox_post(l->to_loop, &l->done);
}

enum err daemon_load_start(const struct engine_config *config, struct uv_loop_s *loop,
                           const struct daemon_load_hooks *hooks, void *arg,
                           struct daemon_load **out)
{
    struct daemon_load *l = mem_try_calloc(1, sizeof(*l));

    if (l == NULL)
        return ERR_NOMEM;
    l->config = *config;
    l->config.progress = on_progress;
    l->config.progress_arg = l;
    l->hooks = hooks;
    l->arg = arg;
    l->done.run = run_done;
    if (mbox_create_on_loop(loop, &l->to_loop) != ERR_OK) {
        mem_free(l);
        return ERR_NOMEM;
    }
    if (uv_thread_create(&l->thread, load_thread, l) != 0) {
        mbox_close(l->to_loop);
        mem_free(l);
        return ERR_NOMEM;
    }
    *out = l;
    return ERR_OK;
}
