/* tests/unit/worker_test.c - worker processes with the sim backend, seen from the scheduler and the front
 * end, which this test plays over a Unix socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <uv.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/link.h"
#include "daemon/worker.h"
#include "engine/sim/engine_sim.h"

enum {
    PREFILL = 0,
    DECODE = 1,
    N_PROMPT = 100,
    WAIT_S = 20,
    VOCAB = 32000,
    BLOCKS = 128,
    LEAKED = 99
};

static const char secret_text[] = "a secret of the test";

struct side {
    pid_t pid;
    int status; /* exit status, -1 while it runs */
    struct daemon_link *control, *tokens;
    uint32_t welcomes, joins, attaches, loadings, links, released, granted;
    enum err end;
    uint32_t free_blocks, n_blocks, kv_port, live;
    uint32_t reports, joined_pid;
    bool can_flip, can_prefill;
    uint32_t park_blocks;
    char klass[64];
};

static uv_loop_t loop;
static uv_timer_t alive;
static struct daemon_listener *listener;
static struct wire_secret secret;
static char dir[64], address[96], secret_file[96], profile[96];
static struct side sides[2];
static uint32_t unattached;
static int32_t out[4096];
static uint32_t n_out, finish;

/* ---- scheduler and front end ---- */

static struct side *other(struct side *s)
{
    return s == &sides[PREFILL] ? &sides[DECODE] : &sides[PREFILL];
}

static void relay_grant(const Baton__Granted *g)
{
    Baton__Grant m = BATON__GRANT__INIT;

    m.request = g->request;
    m.epoch = g->epoch;
    m.decode_worker = DECODE + 1;
    m.transfer = g->transfer;
    m.blocks = g->blocks;
    if (g->ok && sides[PREFILL].control != NULL)
        daemon_link_send(sides[PREFILL].control, WIRE_GRANT, &m.base);
}

static void on_report(struct side *s, const Baton__Report *m)
{
    s->reports++;
    s->free_blocks = m->free_blocks;
    s->live = m->live_requests;
}

static void on_join(struct side *s, const Baton__Join *m)
{
    s->joins++;
    s->n_blocks = m->n_blocks;
    s->kv_port = m->kv_port;
    s->joined_pid = m->pid;
    s->can_flip = m->can_flip;
    s->can_prefill = m->can_prefill;
    s->park_blocks = m->park_blocks;
    snprintf(s->klass, sizeof(s->klass), "%s", m->worker_class);
    assert_string_equal(m->kv_host, "127.0.0.1");
    assert_true(m->pid == (uint32_t)sides[PREFILL].pid || m->pid == (uint32_t)sides[DECODE].pid);
}

static void on_control(struct daemon_link *l, void *arg, enum wire_type t,
                       const ProtobufCMessage *m)
{
    struct side *s = arg;

    (void)l;
    if (t == WIRE_JOIN) {
        on_join(s, (const Baton__Join *)m);
    } else if (t == WIRE_REPORT) {
        on_report(s, (const Baton__Report *)m);
    } else if (t == WIRE_GRANTED) {
        s->granted += ((const Baton__Granted *)m)->ok ? 1 : 0;
        relay_grant((const Baton__Granted *)m);
    } else if (t == WIRE_RELEASED) {
        s->released++;
        s->end = (enum err)((const Baton__Released *)m)->err;
    } else {
        s->loadings += t == WIRE_LOADING;
        s->links += t == WIRE_LINK;
    }
}

static void on_control_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct side *s = arg;

    (void)why;
    (void)detail;
    if (s->control == l) /* not one that took this role meanwhile */
        s->control = NULL;
}

static void on_tokens(const Baton__Tokens *m)
{
    for (size_t i = 0; i < m->n_request; i++) {
        assert_int_equal(m->index[i], n_out);
        assert_int_equal(finish, 0);
        out[n_out++] = (int32_t)m->token[i];
        finish = m->finish[i];
    }
}

static void on_token_frame(struct daemon_link *l, void *arg, enum wire_type t,
                           const ProtobufCMessage *m)
{
    (void)arg;
    if (t == WIRE_ATTACH) {
        uint32_t id = ((const Baton__Attach *)m)->worker;

        assert_in_range(id, 1, 2);
        sides[id - 1].tokens = l;
        sides[id - 1].attaches++;
        unattached--;
    } else if (t == WIRE_TOKENS) {
        on_tokens((const Baton__Tokens *)m);
    }
}

static void on_tokens_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    (void)arg;
    (void)why;
    (void)detail;
    for (int i = 0; i < 2; i++) {
        if (sides[i].tokens == l)
            sides[i].tokens = NULL;
    }
}

static const struct daemon_link_hooks control_hooks = {.on_frame = on_control,
                                                       .on_closed = on_control_closed};
static const struct daemon_link_hooks token_hooks = {.on_frame = on_token_frame,
                                                     .on_closed = on_tokens_closed};

static bool on_accept(void *arg, struct daemon_link *l, enum wire_role role,
                      const struct daemon_link_hooks **hooks, void **link_arg)
{
    struct side *s = &sides[role == WIRE_ROLE_PREFILL ? PREFILL : DECODE];
    Baton__Welcome m = BATON__WELCOME__INIT;
    Baton__Frontend frontend = BATON__FRONTEND__INIT, *list[1] = {&frontend};

    (void)arg;
    if (role == WIRE_ROLE_TOKENS) {
        *hooks = &token_hooks;
        unattached++;
        return true;
    }
    *hooks = &control_hooks;
    *link_arg = s;
    s->control = l;
    s->welcomes++;
    frontend.id = 7;
    frontend.address = address;
    m.worker = role == WIRE_ROLE_PREFILL ? PREFILL + 1 : DECODE + 1;
    m.heartbeat_ns = 20 * CLOCK_NS_PER_MS;
    m.peer_timeout_ns = WAIT_S * CLOCK_NS_PER_S;
    m.n_frontends = 1;
    m.frontends = list;
    daemon_link_send(l, WIRE_WELCOME, &m.base);
    return true;
}

/* ---- processes ---- */

static void start(int which, bool by_hand, const char *backend)
{
    struct daemon_worker_config c = {
        .role = which == PREFILL ? DAEMON_WORKER_PREFILL : DAEMON_WORKER_DECODE,
        .name = which == PREFILL ? "prefill-0" : "decode-0",
        .backend = backend,
        .sim_profile = access(profile, R_OK) == 0 ? profile : NULL,
        .scheduler = address,
        .secret_file = secret_file,
        .served_name = "sim",
        .block_tokens = 16,
        .max_context = 2048,
        .max_batch = 4,
        .kv_bytes = BLOCKS * 16 * 64, /* of 64 bytes a token: 4 layers of K and V of 8 bytes */
        .exit_with_parent = !by_hand};
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        size_t before = mem_live();
        int status;

        log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, c.name);
        status = daemon_worker_run(&c);
        if (mem_live() != before)
            fprintf(stderr, "%zu blocks of memory were not freed\n", mem_live() - before);
        _exit(mem_live() == before ? status : LEAKED);
    }
    memset(&sides[which], 0, sizeof(sides[which]));
    sides[which].pid = pid;
    sides[which].status = -1;
}

static void reap(void)
{
    for (int i = 0; i < 2; i++) {
        int status;

        if (sides[i].pid == 0 || sides[i].status >= 0 ||
            waitpid(sides[i].pid, &status, WNOHANG) != sides[i].pid)
            continue;
        sides[i].status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

static bool run_until(bool (*done)(void))
{
    uint64_t until = clock_now_ns() + WAIT_S * CLOCK_NS_PER_S;

    while (!done() && clock_now_ns() < until) {
        uv_run(&loop, UV_RUN_ONCE);
        reap();
    }
    return done();
}

static void on_alive(uv_timer_t *t)
{
    (void)t;
}

static void open_listener(void)
{
    struct daemon_link_options o = {
        .loop = &loop, .secret = &secret, .peer_timeout_ns = WAIT_S * CLOCK_NS_PER_S};
    struct err_msg msg = {""};

    if (daemon_link_listen(&o, address, on_accept, NULL, &msg, &listener) != ERR_OK)
        fail_msg("%s", msg.text);
}

static int setup(void **state)
{
    FILE *f;

    (void)state;
    memset(sides, 0, sizeof(sides));
    n_out = finish = unattached = 0;
    snprintf(dir, sizeof(dir), "/tmp/baton_worker_XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(address, sizeof(address), "unix:%s/control", dir);
    snprintf(secret_file, sizeof(secret_file), "%s/secret", dir);
    snprintf(profile, sizeof(profile), "%s/profile.yaml", dir);
    f = fopen(secret_file, "w");
    assert_non_null(f);
    fputs(secret_text, f);
    fclose(f);
    chmod(secret_file, 0600);
    assert_int_equal(wire_secret_parse(secret_text, strlen(secret_text), &secret, NULL), ERR_OK);
    uv_loop_init(&loop);
    uv_timer_init(&loop, &alive);
    uv_timer_start(&alive, on_alive, 5, 5);
    open_listener();
    return 0;
}

static void close_links(void)
{
    for (int i = 0; i < 2; i++) {
        if (sides[i].control != NULL)
            daemon_link_close(sides[i].control);
        if (sides[i].tokens != NULL)
            daemon_link_close(sides[i].tokens);
    }
}

static int teardown(void **state)
{
    char path[128];

    (void)state;
    for (int i = 0; i < 2; i++) {
        if (sides[i].pid != 0 && sides[i].status < 0) {
            kill(sides[i].pid, SIGKILL);
            waitpid(sides[i].pid, NULL, 0);
        }
    }
    daemon_listener_close(listener);
    close_links();
    uv_close((uv_handle_t *)&alive, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    unlink(secret_file);
    unlink(profile);
    snprintf(path, sizeof(path), "%s/control", dir);
    unlink(path);
    rmdir(dir);
    return 0;
}

/* ---- steps of a run ---- */

static bool both_joined(void)
{
    return sides[PREFILL].joins == 1 && sides[DECODE].joins == 1;
}
static bool decode_joined(void)
{
    return sides[DECODE].joins == 1;
}
static bool decode_joined_again(void)
{
    return sides[DECODE].joins == 2;
}
static bool decode_attached_again(void)
{
    return sides[DECODE].attaches == 2;
}
static bool both_linked(void)
{
    return sides[PREFILL].links == 1 && sides[DECODE].links == 1;
}
static bool both_released(void)
{
    return sides[PREFILL].released == 1 && sides[DECODE].released == 1;
}
static bool decode_released(void)
{
    return sides[DECODE].released == 1;
}
static bool decode_granted(void)
{
    return sides[DECODE].granted == 1;
}
static bool both_gone(void)
{
    return sides[PREFILL].status >= 0 && sides[DECODE].status >= 0;
}
static bool decode_gone(void)
{
    return sides[DECODE].status >= 0;
}
static bool finished(void) /* the tokens come over another connection than RELEASED */
{
    return finish != 0;
}
static bool some_tokens(void)
{
    return n_out >= 20;
}
static bool at_rest(void)
{
    for (int i = 0; i < 2; i++) {
        if (sides[i].free_blocks != sides[i].n_blocks || sides[i].live != 0)
            return false;
    }
    return true;
}
static bool several_reports(void)
{
    return sides[DECODE].reports >= 5;
}
static bool reported_after_release(void)
{
    return sides[DECODE].reports >= 3 && at_rest();
}

static void introduce(void)
{
    Baton__Introduce m = BATON__INTRODUCE__INIT;
    uint8_t token[16] = "sixteen letters";

    m.host = "127.0.0.1";
    m.token.data = token;
    m.token.len = sizeof(token);
    for (int i = DECODE; i >= PREFILL; i--) {
        m.peer = other(&sides[i]) == &sides[DECODE] ? DECODE + 1 : PREFILL + 1;
        m.port = other(&sides[i])->kv_port;
        m.connect = i == PREFILL;
        daemon_link_send(sides[i].control, WIRE_INTRODUCE, &m.base);
    }
}

/* A prefill worker that will never connect. */
static void introduce_nobody(void)
{
    Baton__Introduce m = BATON__INTRODUCE__INIT;
    uint8_t token[16] = "sixteen letters";

    m.peer = PREFILL + 1;
    m.token.data = token;
    m.token.len = sizeof(token);
    daemon_link_send(sides[DECODE].control, WIRE_INTRODUCE, &m.base);
}

static void submit(uint32_t max_new)
{
    Baton__Reserve r = BATON__RESERVE__INIT;
    Baton__Prefill p = BATON__PREFILL__INIT;
    Baton__Sampling s = BATON__SAMPLING__INIT;
    uint8_t tokens[4 * N_PROMPT] = {0};

    for (uint32_t i = 0; i < N_PROMPT; i++)
        tokens[4 * i] = (uint8_t)i;
    s.top_p = s.repetition_penalty = 1;
    p.request = r.request = 77;
    p.epoch = r.epoch = 1;
    p.frontend = r.frontend = 7;
    p.n_prompt = r.n_prompt = r.n_tokens = N_PROMPT;
    p.max_new = r.max_new = max_new;
    p.sampling = r.sampling = &s;
    p.decode_worker = DECODE + 1;
    r.prefill_worker = PREFILL + 1;
    p.tokens.data = tokens;
    p.tokens.len = sizeof(tokens);
    p.deadline_ns = r.deadline_ns = 10 * CLOCK_NS_PER_S;
    if (sides[PREFILL].control != NULL)
        daemon_link_send(sides[PREFILL].control, WIRE_PREFILL, &p.base);
    daemon_link_send(sides[DECODE].control, WIRE_RESERVE, &r.base);
}

static void check_closed_form(void)
{
    struct engine_sim_range range = engine_sim_range(VOCAB, NULL, 0);
    uint64_t chain = ENGINE_SIM_START;

    for (uint32_t i = 0; i < N_PROMPT; i++)
        chain = engine_sim_push(chain, (int32_t)i);
    for (uint32_t i = 0; i < n_out; i++) {
        assert_int_equal(out[i], engine_sim_next(chain, range));
        chain = engine_sim_push(chain, out[i]);
    }
}

static void send_drain(void)
{
    Baton__Drain m = BATON__DRAIN__INIT;

    daemon_link_send(sides[PREFILL].control, WIRE_DRAIN, &m.base);
    daemon_link_send(sides[DECODE].control, WIRE_DRAIN, &m.base);
}

/* ---- tests ---- */

static void two_processes_serve_a_stream_and_leave_when_drained(void **state)
{
    (void)state;
    start(PREFILL, true, "sim");
    start(DECODE, true, "sim");
    assert_true(run_until(both_joined));
    assert_int_equal(sides[DECODE].n_blocks, BLOCKS);
    assert_true(sides[DECODE].loadings > 0);
    introduce();
    assert_true(run_until(both_linked));
    submit(500);
    assert_true(run_until(some_tokens));
    send_drain(); /* what runs is finished first */
    assert_true(run_until(both_gone));
    assert_int_equal(sides[PREFILL].status, 0);
    assert_int_equal(sides[DECODE].status, 0);
    assert_true(run_until(both_released)); /* their last words may still be in the sockets */
    assert_true(run_until(finished));
    assert_int_equal(n_out, 500);
    assert_int_equal(finish, 2);
    check_closed_form();
}

static void worker_of_a_parent_ends_with_its_connection(void **state)
{
    (void)state;
    start(DECODE, false, "sim");
    assert_true(run_until(decode_joined));
    daemon_link_close(sides[DECODE].control);
    assert_true(run_until(decode_gone));
    assert_int_equal(sides[DECODE].status, 0);
}

static void worker_started_by_hand_comes_back_with_all_its_blocks(void **state)
{
    (void)state;
    start(DECODE, true, "sim");
    assert_true(run_until(decode_joined));
    introduce_nobody();
    submit(500); /* reserved, and no hand-over will ever come */
    assert_true(run_until(decode_granted));
    daemon_link_close(sides[DECODE].control);
    assert_true(run_until(decode_joined_again));
    assert_int_equal(sides[DECODE].welcomes, 2);
    sides[DECODE].reports = 0;
    assert_true(run_until(reported_after_release));
}

static void lost_token_link_cancels_its_requests_and_is_made_again(void **state)
{
    FILE *f = fopen(profile, "w");

    (void)state;
    assert_non_null(f);
    fputs("decode_base_ms: 10\n", f); /* it must not end before it is cancelled */
    fclose(f);
    start(PREFILL, true, "sim");
    start(DECODE, true, "sim");
    assert_true(run_until(both_joined));
    introduce();
    assert_true(run_until(both_linked));
    submit(1900);
    assert_true(run_until(some_tokens));
    daemon_link_close(sides[DECODE].tokens);
    assert_true(run_until(decode_released));
    assert_int_equal(sides[DECODE].end, ERR_CANCELED);
    assert_true(run_until(decode_attached_again));
    assert_int_equal(sides[DECODE].joins, 1); /* the control connection stayed */
    assert_true(run_until(at_rest));
}

static bool has_400(void)
{
    return n_out == 400;
}

static void termination_ends_an_idle_worker_and_finishes_a_busy_one(void **state)
{
    (void)state;
    start(PREFILL, true, "sim");
    start(DECODE, true, "sim");
    assert_true(run_until(both_joined));
    introduce();
    assert_true(run_until(both_linked));
    submit(400);
    assert_true(run_until(some_tokens));
    kill(sides[PREFILL].pid, SIGTERM);
    kill(sides[DECODE].pid, SIGTERM);
    assert_true(run_until(both_gone));
    (void)run_until(has_400); /* what they sent last may still lie in our socket */
    assert_int_equal(sides[PREFILL].status, 0);
    assert_int_equal(sides[DECODE].status, 0);
    assert_int_equal(n_out, 400);
    check_closed_form();
}

static bool prefill_joined(void)
{
    return sides[PREFILL].joins == 1;
}
static bool both_joined_again(void)
{
    return sides[PREFILL].joins == 2 && sides[DECODE].joins == 2;
}

static void flip(struct daemon_link *l, enum daemon_worker_role to)
{
    Baton__Flip m = BATON__FLIP__INIT;

    m.role = to;
    daemon_link_send(l, WIRE_FLIP, &m.base);
}

static void idle_worker_changes_its_role_and_back_in_the_same_process(void **state)
{
    (void)state;
    start(DECODE, false, "sim"); /* of a parent: leaving that connection must not end it */
    assert_true(run_until(decode_joined));
    assert_true(sides[DECODE].can_flip);
    assert_true(sides[DECODE].can_prefill);
    assert_int_equal(sides[DECODE].park_blocks, BLOCKS);
    assert_string_equal(sides[DECODE].klass, "sim/sim");
    flip(sides[DECODE].control, DAEMON_WORKER_PREFILL);
    assert_true(run_until(prefill_joined));
    assert_int_equal(sides[PREFILL].joined_pid, sides[DECODE].pid);
    assert_int_equal(sides[PREFILL].n_blocks, BLOCKS);
    assert_false(sides[PREFILL].can_prefill);
    assert_int_equal(sides[PREFILL].park_blocks, 0);
    assert_int_equal(sides[PREFILL].kv_port, sides[DECODE].kv_port); /* its KV node stayed */
    flip(sides[PREFILL].control, DAEMON_WORKER_DECODE);
    assert_true(run_until(decode_joined_again));
    assert_int_equal(sides[DECODE].status, -1);
}

/* Each in the role of the other, over the pools that they had before. */
static void two_workers_swap_their_roles_and_serve_a_stream(void **state)
{
    struct daemon_link *first;
    uint32_t prefill_pid;

    (void)state;
    start(PREFILL, true, "sim");
    start(DECODE, true, "sim");
    assert_true(run_until(both_joined));
    introduce();
    assert_true(run_until(both_linked));
    submit(100);
    assert_true(run_until(both_released));
    assert_true(run_until(finished));
    assert_int_equal(n_out, 100);
    n_out = finish = 0;
    for (int i = 0; i < 2; i++)
        sides[i].links = sides[i].released = sides[i].granted = 0;
    first = sides[PREFILL].control;
    prefill_pid = sides[PREFILL].joined_pid;
    flip(sides[DECODE].control, DAEMON_WORKER_PREFILL);
    flip(first, DAEMON_WORKER_DECODE);
    assert_true(run_until(both_joined_again));
    assert_int_equal(sides[DECODE].joined_pid, prefill_pid);
    introduce();
    assert_true(run_until(both_linked));
    submit(300);
    assert_true(run_until(both_released));
    assert_true(run_until(finished));
    assert_int_equal(n_out, 300);
    check_closed_form();
    assert_true(run_until(at_rest));
}

static void busy_worker_keeps_its_role(void **state)
{
    (void)state;
    start(PREFILL, true, "sim");
    start(DECODE, true, "sim");
    assert_true(run_until(both_joined));
    introduce();
    assert_true(run_until(both_linked));
    submit(400);
    assert_true(run_until(some_tokens));
    flip(sides[DECODE].control, DAEMON_WORKER_PREFILL);
    assert_true(run_until(both_released));
    assert_true(run_until(finished));
    assert_int_equal(n_out, 400);
    assert_int_equal(sides[DECODE].welcomes, 1);
    assert_int_equal(sides[PREFILL].welcomes, 1);
    check_closed_form();
}

/* PREFILL with its own id: one worker, and no hand-over. */
static void decode_worker_serves_a_stream_alone(void **state)
{
    Baton__Prefill p = BATON__PREFILL__INIT;
    Baton__Sampling s = BATON__SAMPLING__INIT;
    uint8_t tokens[4 * N_PROMPT] = {0};

    (void)state;
    start(DECODE, true, "sim");
    assert_true(run_until(decode_joined));
    for (uint32_t i = 0; i < N_PROMPT; i++)
        tokens[4 * i] = (uint8_t)i;
    s.top_p = s.repetition_penalty = 1;
    p.request = 78;
    p.epoch = 1;
    p.frontend = 7;
    p.n_prompt = N_PROMPT;
    p.max_new = 50;
    p.sampling = &s;
    p.decode_worker = DECODE + 1;
    p.tokens = (ProtobufCBinaryData){sizeof(tokens), tokens};
    daemon_link_send(sides[DECODE].control, WIRE_PREFILL, &p.base);
    assert_true(run_until(decode_released));
    assert_int_equal(sides[DECODE].end, ERR_OK);
    assert_true(run_until(finished));
    assert_int_equal(n_out, 50);
    check_closed_form();
}

static void second_interrupt_ends_a_worker_that_still_waits(void **state)
{
    (void)state;
    start(DECODE, true, "sim");
    assert_true(run_until(decode_joined));
    introduce_nobody();
    submit(500); /* no hand-over will come */
    assert_true(run_until(decode_granted));
    kill(sides[DECODE].pid, SIGINT);
    sides[DECODE].reports = 0;
    assert_true(run_until(several_reports)); /* still there */
    assert_int_equal(sides[DECODE].status, -1);
    kill(sides[DECODE].pid, SIGINT);
    assert_true(run_until(decode_gone));
    assert_int_equal(sides[DECODE].status, 130);
}

static void worker_that_cannot_work_says_so_by_its_status(void **state)
{
    FILE *f;

    (void)state;
    start(DECODE, true, "no-such-backend");
    assert_true(run_until(decode_gone));
    assert_int_equal(sides[DECODE].status, 1);
    f = fopen(secret_file, "w");
    fputs("another secret entirely", f);
    fclose(f);
    start(DECODE, true, "sim");
    assert_true(run_until(decode_gone));
    assert_int_equal(sides[DECODE].status, 1);
    chmod(secret_file, 0644);
    start(DECODE, true, "sim");
    assert_true(run_until(decode_gone));
    assert_int_equal(sides[DECODE].status, 1);
}

static void worker_that_the_scheduler_refuses_ends_with_an_error(void **state)
{
    Baton__Drain m = BATON__DRAIN__INIT;

    (void)state;
    m.why = (char *)(uintptr_t) "(test) another model";
    start(DECODE, true, "sim");
    assert_true(run_until(decode_joined));
    daemon_link_send(sides[DECODE].control, WIRE_DRAIN, &m.base);
    assert_true(run_until(decode_gone));
    assert_int_equal(sides[DECODE].status, 1);
    assert_int_equal(sides[DECODE].welcomes, 1); /* it does not come back to hear it again */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(two_processes_serve_a_stream_and_leave_when_drained),
        TEST(worker_of_a_parent_ends_with_its_connection),
        TEST(worker_started_by_hand_comes_back_with_all_its_blocks),
        TEST(lost_token_link_cancels_its_requests_and_is_made_again),
        TEST(termination_ends_an_idle_worker_and_finishes_a_busy_one),
        TEST(second_interrupt_ends_a_worker_that_still_waits),
        TEST(idle_worker_changes_its_role_and_back_in_the_same_process),
        TEST(two_workers_swap_their_roles_and_serve_a_stream),
        TEST(busy_worker_keeps_its_role),
        TEST(decode_worker_serves_a_stream_alone),
        TEST(worker_that_cannot_work_says_so_by_its_status),
        TEST(worker_that_the_scheduler_refuses_ends_with_an_error),
    };

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "test");
    signal(SIGPIPE, SIG_IGN); /* as daemon/main.c does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
