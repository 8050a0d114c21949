/* daemon/serve.c - see the header for the contract.
 *
 * Stopping goes through three stages, each with a deadline: DRAINING (no new work; running calls end or
 * drain_timeout_s passes), STOPPING (calls cut, workers told to end, killed after 5 s), STOPPED (handles
 * close, the loop ends). */
#include "daemon/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/children.h"
#include "daemon/frontend.h"
#include "daemon/hub.h"
#include "daemon/hangup.h"
#include "daemon/link_addr.h"
#include "daemon/model_dir.h"
#include "daemon/scale.h"
#include "daemon/secret.h"

enum serve_stage { SERVE_RUNNING = 0, SERVE_DRAINING, SERVE_STOPPING };
enum {
    CHILD_GRACE_MS = 5000,
    DRAIN_LOOK_MS = 50,
    RECORDS_AT_ONCE = 16384 /* requests that one event may end: the loss of a worker, say */
};

struct serve {
    struct daemon_config *c;
    uv_loop_t loop;
    struct engine_model_config model;
    struct engine_tok *tok;
    struct engine_chat *chat;
    struct err_msg chat_why;
    struct wire_secret secret;
    char dir[128]; /* private run-time directory: the workers' socket */
    char socket[160];
    int secret_fd;
    char model_dir[1024];
    struct daemon_frontend *frontend;
    struct daemon_hub *hub;
    struct daemon_children *children;
    struct daemon_scale *scale; /* NULL: no command */
    struct sched_class classes[SCHED_CLASSES_MAX];
    uint32_t n_classes;
    uv_signal_t term, interrupt, hangup;
    enum daemon_hangup hangup_means;
    uv_timer_t drain;
    enum serve_stage stage;
    uint64_t drain_until_ns;
    uint16_t port;
    bool announced;
    int status;
    unsigned last_percent[2];
};

/* ---- stopping ---- */

static void on_scale_closed(void *arg)
{
    struct serve *s = arg;

    s->scale = NULL;
}

static void serve_stop(struct serve *s)
{
    if (s->stage == SERVE_STOPPING)
        return;
    s->stage = SERVE_STOPPING;
    uv_close((uv_handle_t *)&s->drain, NULL);
    daemon_frontend_close(s->frontend);
    if (s->children != NULL)
        daemon_children_stop(s->children, CHILD_GRACE_MS);
    if (s->scale != NULL)
        daemon_scale_close(s->scale, on_scale_closed, s);
    daemon_hub_close(s->hub);
}

static void on_drain_look(uv_timer_t *t)
{
    struct serve *s = t->data;
    uint32_t left = daemon_frontend_calls(s->frontend);

    if ((left > 0 || daemon_frontend_unsent(s->frontend) > 0) && clock_now_ns() < s->drain_until_ns)
        return;
    if (left > 0)
        LOG_WARN("serve", "drain limit reached", "requests_cut=%u limit_s=%u", left,
                 s->c->drain_timeout_s);
    serve_stop(s);
}

static void serve_drain(struct serve *s)
{
    s->stage = SERVE_DRAINING;
    LOG_INFO("serve", "draining", "requests=%u limit_s=%u", daemon_frontend_calls(s->frontend),
             s->c->drain_timeout_s);
    daemon_frontend_drain(s->frontend);
    daemon_hub_stop(s->hub);
    s->drain_until_ns = clock_now_ns() + (uint64_t)s->c->drain_timeout_s * CLOCK_NS_PER_S;
    uv_timer_start(&s->drain, on_drain_look, 0, DRAIN_LOOK_MS);
}

static void on_signal(uv_signal_t *h, int number)
{
    struct serve *s = h->data;

    if (s->stage == SERVE_RUNNING) {
        serve_drain(s);
    } else if (number == SIGINT && s->stage == SERVE_DRAINING) {
        s->status = 130;
        serve_stop(s);
    }
}

static void on_hangup(uv_signal_t *h, int number)
{
    struct serve *s = h->data;

    if (s->hangup_means == DAEMON_HANGUP_ENDS) {
        on_signal(h, number);
        return;
    }
    LOG_INFO("serve", "hangup",
             "the records file is opened anew; all options are read at the start only");
    if (s->stage != SERVE_STOPPING)
        daemon_frontend_reopen(s->frontend);
}

/* ---- hooks ---- */

static void print_ready(const struct serve *s)
{
    const char *host = daemon_addr_is_wildcard(s->c->host) ? "127.0.0.1" : s->c->host;
    bool v6 = strchr(host, ':') != NULL;

    printf(
        "\nReady: %s on http://%s%s%s:%u\n\nTry:\n  curl http://%s%s%s:%u/v1/chat/completions \\\n"
        "    -H 'Content-Type: application/json'%s \\\n"
        "    -d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"What is "
        "TTFT?\"}]}'\n\n",
        s->c->served_name, v6 ? "[" : "", host, v6 ? "]" : "", s->port, v6 ? "[" : "", host,
        v6 ? "]" : "", s->port, s->c->n_keys > 0 ? " -H 'Authorization: Bearer YOUR_KEY'" : "",
        s->c->served_name);
    fflush(stdout);
}

/* One line per tenth of the weights, for the first worker of each role. */
static void print_progress(struct serve *s)
{
    struct daemon_worker_view w;
    size_t at = 0;

    while (daemon_hub_next_worker(s->hub, &at, &w)) {
        unsigned *last = &s->last_percent[w.role == SCHED_ROLE_PREFILL ? 0 : 1];
        unsigned percent;

        if (w.joined || w.total_bytes == 0)
            continue;
        percent = (unsigned)(w.loaded_bytes * 10 / w.total_bytes) * 10;
        if (percent <= *last)
            continue;
        *last = percent;
        LOG_INFO("serve", "loading", "role=%s phase=%s done=%u%% of %.1f MB",
                 w.role == SCHED_ROLE_PREFILL ? "prefill" : "decode", w.phase, percent,
                 (double)w.total_bytes / 1e6);
    }
}

static void on_pool_change(void *arg)
{
    struct serve *s = arg;

    if (s->hub == NULL || s->stage == SERVE_STOPPING)
        return;
    daemon_frontend_pool_changed(s->frontend);
    if (daemon_hub_ready(s->hub)) {
        if (s->children != NULL)
            daemon_children_proven(s->children);
        if (!s->announced)
            print_ready(s);
        s->announced = true;
    } else {
        print_progress(s);
    }
}

static void on_worker_lost(void *arg, uint32_t pid, enum err why)
{
    struct serve *s = arg;

    (void)why;
    if (s->children != NULL)
        daemon_children_kill(s->children, pid);
}

static void on_scale(void *arg, const uint32_t want[3])
{
    struct serve *s = arg;
    struct sched_stats now;

    daemon_hub_stats(s->hub, &now);
    LOG_INFO("serve", "planner", "want_prefill=%u want_decode=%u have_prefill=%u have_decode=%u",
             want[SCHED_ROLE_PREFILL], want[SCHED_ROLE_DECODE], now.workers[SCHED_ROLE_PREFILL],
             now.workers[SCHED_ROLE_DECODE]);
    if (s->scale != NULL && s->stage == SERVE_RUNNING)
        daemon_scale_want(s->scale, want, now.workers);
}

static void on_gone(void *arg, uint32_t pid)
{
    struct serve *s = arg;

    if (s->stage != SERVE_STOPPING)
        daemon_hub_process_gone(s->hub, pid);
}

static void on_hopeless(void *arg)
{
    struct serve *s = arg;

    LOG_ERROR("serve", "giving up", "a worker could not start; its message is above");
    s->status = 1;
    serve_stop(s);
}

static void on_all_stopped(void *arg)
{
    struct serve *s = arg;

    s->children = NULL;
}

/* ---- starting ---- */

static enum err check_exposure(const struct daemon_config *c, struct err_msg *msg)
{
    if (c->n_keys > 0)
        return ERR_OK;
    if (!daemon_addr_is_loopback(c->host) && !c->allow_open)
        return err_set(
            msg, ERR_INVALID,
            "refusing to listen on %s without API keys: anybody who reaches it could use it.  "
            "Configure keys (see the README), or say --allow-open",
            c->host);
    if (daemon_addr_is_loopback(c->host))
        LOG_INFO("serve", "no API keys",
                 "listening on loopback only; every user of this machine may use it");
    else
        LOG_WARN("serve", "no API keys", "--allow-open: everybody who reaches %s may use it",
                 c->host);
    return ERR_OK;
}

/* Options that are right one by one, but not together. */
static enum err check_options(const struct daemon_config *c, struct err_msg *msg)
{
    struct daemon_addr at;
    enum err err = check_exposure(c, msg);

    if (err == ERR_OK && c->listen_workers != NULL)
        err = daemon_addr_parse(c->listen_workers, &at, msg);
    if (err != ERR_OK)
        return err;
    if (c->listen_workers != NULL && c->secret_file == NULL)
        return err_set(msg, ERR_INVALID,
                       "--listen-workers needs --secret-file: workers prove that secret");
    return ERR_OK;
}

/* A default of the model's that takes no token at all is none. */
static void check_sampling(struct engine_model_config *m)
{
    if (m->top_p <= 0)
        m->has_top_p = false;
    if (m->repetition_penalty <= 0)
        m->has_repetition_penalty = false;
}

static enum err load_text(struct serve *s, struct err_msg *msg)
{
    bool is_sim = strcmp(s->c->backend, "sim") == 0;
    enum err err = engine_model_read_config(s->model_dir, &s->model, msg);

    if (err != ERR_OK)
        return err;
    check_sampling(&s->model);
    err = engine_tok_open(s->model_dir, msg, &s->tok);
    if (err == ERR_NOT_FOUND && is_sim) {
        LOG_WARN("serve", "no tokenizer", "%s: only token-id prompts can be served", msg->text);
        err = ERR_OK;
    }
    if (err != ERR_OK)
        return err;
    err = engine_chat_open(s->model_dir, &s->chat_why, &s->chat);
    if (err == ERR_NOT_FOUND) {
        LOG_WARN("serve", "no chat template", "%s", s->chat_why.text);
        return ERR_OK;
    }
    if (err != ERR_OK)
        *msg = s->chat_why;
    return err;
}

/* The numbers that spread retry times must differ between servers. */
static uint64_t random_seed(void)
{
    uint64_t seed = 0;

    if (RAND_bytes((unsigned char *)&seed, sizeof(seed)) != 1)
        seed = clock_wall_ns();
    return seed;
}

/* The step that runs and a whole one behind it: a worker starts its next step before we hear of the last one's end,
 * and what is not there by then has to wait for the one after, alone in a step of its own. */
static uint32_t prefill_window(const struct daemon_config *c)
{
    uint32_t two_steps = 2 * c->max_step_tokens;

    return c->prefill_window_tokens > two_steps ? c->prefill_window_tokens : two_steps;
}

static void sched_options(const struct daemon_config *c, struct sched_config *out)
{
    sched_config_defaults(out);
    snprintf(out->policy, sizeof(out->policy), "%s", c->policy);
    out->local_prefill = c->local_prefill;
    out->elastic = (struct sched_elastic){.on = c->elastic,
                                          .interval_ns = c->elastic_interval_ms * CLOCK_NS_PER_MS,
                                          .cooldown_ns = c->elastic_cooldown_ms * CLOCK_NS_PER_MS,
                                          .min_prefill = c->elastic_min_prefill,
                                          .min_decode = c->elastic_min_decode};
    out->records = RECORDS_AT_ONCE; /* they are handed on after every event */
    out->seed = random_seed();
    memcpy(out->tiers, c->tiers, sizeof(out->tiers));
    out->n_tiers = c->n_tiers;
    out->max_queued = c->max_queued;
    out->max_queued_tokens = c->max_queued_tokens;
    out->prefill_window_tokens = prefill_window(c);
    out->queue_timeout_ns = c->queue_timeout_s * CLOCK_NS_PER_S;
    out->request_timeout_ns = c->request_timeout_s * CLOCK_NS_PER_S;
    out->handover_timeout_ns = c->handover_timeout_s * CLOCK_NS_PER_S;
}

/* What is known of worker classes before any worker has said a word. */
static enum err load_classes(struct serve *s, struct err_msg *msg)
{
    enum err err = daemon_config_classes(s->c, s->classes, &s->n_classes, msg);

    for (uint32_t i = 0; err == ERR_OK && i < s->n_classes; i++)
        LOG_INFO("serve", "class of workers", "name=%s", s->classes[i].name);
    return err;
}

static enum err create_parts(struct serve *s, struct err_msg *msg)
{
    struct daemon_frontend_config f = {
        .loop = &s->loop,
        .config = s->c,
        .tok = s->tok,
        .chat = s->chat,
        .chat_why = s->chat_why.text,
        .model = &s->model,
        .max_context = s->c->max_context > 0 ? s->c->max_context : s->model.max_positions,
        .vocab = s->model.vocab};
    struct daemon_hub_config h = {.loop = &s->loop,
                                  .secret = &s->secret,
                                  .heartbeat_ns = s->c->heartbeat_ms * CLOCK_NS_PER_MS,
                                  .peer_timeout_ns = s->c->peer_timeout_ms * CLOCK_NS_PER_MS};
    enum err err;

    if (f.max_context > WIRE_TOKENS_MAX) {
        LOG_WARN("serve", "context is limited", "to %d tokens instead of %u", WIRE_TOKENS_MAX,
                 f.max_context);
        f.max_context = WIRE_TOKENS_MAX;
    }
    err = daemon_frontend_create(&f, msg, &s->frontend);
    if (err != ERR_OK)
        return err;
    sched_options(s->c, &h.sched);
    daemon_frontend_hooks(&h.hooks);
    h.arg = s->frontend;
    h.hooks.on_pool_change = on_pool_change;
    h.hooks.on_worker_lost = on_worker_lost;
    h.hooks.on_scale = on_scale;
    h.supervisor_arg = s;
    h.classes = s->classes;
    h.n_classes = s->n_classes;
    err = daemon_hub_create(&h, msg, &s->hub);
    if (err != ERR_OK)
        return err;
    daemon_frontend_set_hub(s->frontend, s->hub);
    for (uint32_t i = 0; err == ERR_OK && i < s->c->n_tenants; i++)
        err = daemon_hub_set_tenant(s->hub, &s->c->tenants[i].t, msg);
    if (err == ERR_OK && s->c->scale_command != NULL)
        err = daemon_scale_create(&s->loop, s->c->scale_command, msg, &s->scale);
    return err;
}

static enum err listen_all(struct serve *s, struct err_msg *msg)
{
    const char *bound;
    enum err err;

    err = daemon_frontend_listen(s->frontend, s->c->host, (uint16_t)s->c->port, &s->port, msg);
    if (err != ERR_OK)
        return err;
    LOG_INFO("serve", "listening", "http://%s:%u model=%s; loading", s->c->host, s->port,
             s->c->served_name);
    err = daemon_hub_listen(s->hub, s->socket, NULL, msg);
    if (err != ERR_OK || s->c->listen_workers == NULL)
        return err;
    err = daemon_hub_listen(s->hub, s->c->listen_workers, &bound, msg);
    if (err == ERR_OK)
        LOG_INFO("serve", "taking workers", "address=%s", bound);
    return err;
}

static enum err start_children(struct serve *s, struct err_msg *msg)
{
    struct daemon_children_config c = {.loop = &s->loop,
                                       .config = s->c,
                                       .model_dir = s->model_dir,
                                       .control = s->socket,
                                       .secret_fd = s->secret_fd,
                                       .arg = s,
                                       .on_gone = on_gone,
                                       .on_hopeless = on_hopeless,
                                       .on_all_stopped = on_all_stopped};

    return daemon_children_start(&c, msg, &s->children);
}

static void start_signals(struct serve *s)
{
    uv_signal_init(&s->loop, &s->term);
    uv_signal_init(&s->loop, &s->interrupt);
    uv_signal_init(&s->loop, &s->hangup);
    uv_timer_init(&s->loop, &s->drain);
    s->term.data = s->interrupt.data = s->hangup.data = s->drain.data = s;
    uv_signal_start(&s->term, on_signal, SIGTERM);
    uv_signal_start(&s->interrupt, on_signal, SIGINT);
    s->hangup_means = daemon_hangup_meaning();
    if (s->hangup_means != DAEMON_HANGUP_IGNORED)
        uv_signal_start(&s->hangup, on_hangup, SIGHUP);
    /* They stay until the end: a signal while workers are being stopped must not end us before them. */
    uv_unref((uv_handle_t *)&s->term);
    uv_unref((uv_handle_t *)&s->interrupt);
    uv_unref((uv_handle_t *)&s->hangup);
}

static void raise_file_limit(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

static int serve_loop(struct serve *s, struct err_msg *msg)
{
    enum err err = create_parts(s, msg);

    start_signals(s);
    if (err == ERR_OK)
        err = listen_all(s, msg);
    if (err == ERR_OK)
        err = start_children(s, msg);
    if (err != ERR_OK) {
        fprintf(stderr, "baton serve: %s\n", msg->text);
        s->status = 1;
        if (s->hub == NULL)
            return 1;
        serve_stop(s);
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->interrupt, NULL);
    uv_close((uv_handle_t *)&s->hangup, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    return s->status;
}

static void remove_run_directory(const struct serve *s)
{
    if (s->dir[0] == '\0')
        return;
    if (s->socket[0] != '\0')
        unlink(s->socket + strlen("unix:"));
    rmdir(s->dir);
}

int daemon_serve_run(struct daemon_config *c)
{
    struct serve s = {.c = c, .secret_fd = -1};
    struct err_msg msg = {""};
    enum err err;
    int status;

    raise_file_limit();
    if (check_options(c, &msg) != ERR_OK) {
        fprintf(stderr, "baton serve: %s\n", msg.text);
        return 2;
    }
    err = daemon_model_dir_find(c->model_dir, s.model_dir, sizeof(s.model_dir), &msg);
    if (err == ERR_OK && c->served_name == NULL)
        err = daemon_model_dir_name(s.model_dir, &c->served_name, &msg);
    if (err == ERR_OK)
        err = load_text(&s, &msg);
    if (err == ERR_OK)
        err = load_classes(&s, &msg);
    if (err == ERR_OK)
        err = daemon_run_directory(c->secret_file, s.dir, sizeof(s.dir), &s.secret, &s.secret_fd,
                                   &msg);
    if (err != ERR_OK) {
        fprintf(stderr, "baton serve: %s\n", msg.text);
        status = 1;
    } else {
        snprintf(s.socket, sizeof(s.socket), "unix:%s/control", s.dir);
        uv_loop_init(&s.loop);
        status = serve_loop(&s, &msg);
        uv_loop_close(&s.loop);
    }
    remove_run_directory(&s);
    if (s.secret_fd >= 0)
        close(s.secret_fd);
    engine_chat_close(s.chat);
    engine_tok_close(s.tok);
    explicit_bzero(&s.secret, sizeof(s.secret));
    return status;
}
