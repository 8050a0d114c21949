/* daemon/hub.h over real sockets, with workers played by this test: who is meant by a process id, whose
 * model may join, and what is said about those that are gone. */
#include "daemon/hub.h"
#include "proto/wire_check.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "daemon/link.h"

struct fake {
    struct daemon_link *control;
    uint32_t id;
    int welcomed, closed, introduced, forgotten, gone, reserved;
    uint64_t reserve_deadline_ns;
    bool has_terms;
    Baton__Terms terms;
    int refused;
    char why[WIRE_NAME_MAX + 1];
};

static struct {
    uv_loop_t loop;
    struct wire_secret secret;
    struct daemon_hub *hub;
    const char *tcp;
    char tcp_copy[80], path[64], near[80];
    struct fake a, b;
    uint32_t lost_pid;
    int lost, filled;
    uv_timer_t limit;
    bool timed_out;
} w;

/* ---- the front end and supervisor that the hub knows ---- */

static uint8_t four_tokens[16] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0};
static Baton__Sampling sampling = BATON__SAMPLING__INIT;

static Baton__Sampling *plain_sampling(void)
{
    sampling.top_p = 1;
    sampling.repetition_penalty = 1;
    return &sampling;
}

static bool fill_prefill(void *arg, uint64_t request, Baton__Prefill *m)
{
    (void)arg, (void)request;
    m->tokens.data = four_tokens;
    m->tokens.len = sizeof(four_tokens);
    m->n_prompt = 4;
    m->max_new = 8;
    m->sampling = plain_sampling();
    w.filled++;
    return true;
}

static bool fill_reserve(void *arg, uint64_t request, Baton__Reserve *m)
{
    (void)arg, (void)request;
    m->n_tokens = m->n_prompt = 4;
    m->max_new = 8;
    m->sampling = plain_sampling();
    return true;
}

static uint32_t delivered(void *arg, uint64_t request)
{
    (void)arg, (void)request;
    return 0;
}

static void on_resume(void *arg, uint64_t request, uint32_t epoch)
{
    (void)arg, (void)request, (void)epoch;
}

static void on_tokens(void *arg, const Baton__Tokens *m)
{
    (void)arg, (void)m;
}

static void on_reject(void *arg, uint64_t request, const struct daemon_refusal *r)
{
    (void)arg, (void)request, (void)r;
}

static void on_terms(void *arg, uint64_t request, const struct sched_terms *t)
{
    (void)arg, (void)request, (void)t;
}

static void on_record(void *arg, const struct sched_record *r)
{
    (void)arg, (void)r;
}

static void on_scale(void *arg, const uint32_t want[3])
{
    (void)arg, (void)want;
}

static void on_fail(void *arg, uint64_t request, enum sched_reason why)
{
    (void)arg, (void)request, (void)why;
}

static void on_stage(void *arg, uint64_t request, const struct daemon_stage *s)
{
    (void)arg, (void)request, (void)s;
}

static void on_worker_lost(void *arg, uint32_t pid, enum err why)
{
    (void)arg, (void)why;
    w.lost++;
    w.lost_pid = pid;
}

static void on_pool_change(void *arg)
{
    (void)arg;
}

/* ---- the workers ---- */

static void fake_frame(struct daemon_link *l, void *arg, enum wire_type t,
                       const ProtobufCMessage *m)
{
    struct fake *f = arg;

    (void)l;
    if (t == WIRE_WELCOME) {
        f->id = ((const Baton__Welcome *)m)->worker;
        f->welcomed++;
    } else if (t == WIRE_INTRODUCE) {
        f->introduced++;
    } else if (t == WIRE_FORGET) {
        f->forgotten++;
        f->gone += ((const Baton__Forget *)m)->process_gone;
    } else if (t == WIRE_DRAIN) {
        f->refused++;
        snprintf(f->why, sizeof(f->why), "%s", ((const Baton__Drain *)m)->why);
    } else if (t == WIRE_RESERVE) {
        f->reserved++;
        f->reserve_deadline_ns = ((const Baton__Reserve *)m)->deadline_ns;
        f->has_terms = ((const Baton__Reserve *)m)->terms != NULL;
        if (f->has_terms)
            f->terms = *((const Baton__Reserve *)m)->terms;
    }
}

static void fake_ready(struct daemon_link *l, void *arg)
{
    (void)l, (void)arg;
}

static void fake_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct fake *f = arg;

    (void)l, (void)why, (void)detail;
    f->control = NULL;
    f->closed++;
}

static const struct daemon_link_hooks fake_hooks = {fake_ready, fake_frame, fake_closed};

static void on_limit(uv_timer_t *t)
{
    (void)t;
    w.timed_out = true;
}

/* Turn the loop until *what reaches n, for at most ms; false: it did not. */
static bool turn_until(const int *what, int n, unsigned ms)
{
    w.timed_out = false;
    uv_timer_start(&w.limit, on_limit, ms, 0);
    while (*what < n && !w.timed_out)
        uv_run(&w.loop, UV_RUN_ONCE);
    uv_timer_stop(&w.limit);
    return *what >= n;
}

static void turn_for(unsigned ms)
{
    static const int never = 0;

    (void)turn_until(&never, 1, ms);
}

static void start(void)
{
    struct daemon_hub_config c = {.loop = &w.loop,
                                  .secret = &w.secret,
                                  .hooks = {fill_prefill, fill_reserve, delivered, on_resume,
                                            on_tokens, on_reject, on_fail, on_stage, on_terms,
                                            on_record, on_worker_lost, on_pool_change, on_scale}};
    struct err_msg msg = {""};

    memset(&w, 0, sizeof(w));
    uv_loop_init(&w.loop);
    uv_timer_init(&w.loop, &w.limit);
    assert_int_equal(wire_secret_parse("0123456789abcdef\n", 17, &w.secret, &msg), ERR_OK);
    sched_config_defaults(&c.sched);
    c.sched.request_timeout_ns = 300 * CLOCK_NS_PER_S;
    assert_int_equal(daemon_hub_create(&c, &msg, &w.hub), ERR_OK);
    snprintf(w.path, sizeof(w.path), "/tmp/baton-hub-test-%d", (int)getpid());
    snprintf(w.near, sizeof(w.near), "unix:%s", w.path);
    assert_int_equal(daemon_hub_listen(w.hub, w.near, NULL, &msg), ERR_OK);
    assert_int_equal(daemon_hub_listen(w.hub, "127.0.0.1:0", &w.tcp, &msg), ERR_OK);
    snprintf(w.tcp_copy, sizeof(w.tcp_copy), "%s", w.tcp);
}

static void finish(void)
{
    struct fake *fakes[] = {&w.a, &w.b};

    for (size_t i = 0; i < 2; i++) {
        if (fakes[i]->control != NULL)
            daemon_link_close(fakes[i]->control);
    }
    daemon_hub_close(w.hub);
    uv_close((uv_handle_t *)&w.limit, NULL);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w.loop), 0);
    unlink(w.path);
    assert_int_equal(mem_live(), 0);
}

static void fake_connect(struct fake *f, const char *address, enum wire_role role)
{
    struct daemon_link_options o = {.loop = &w.loop, .secret = &w.secret};
    struct err_msg msg = {""};

    assert_int_equal(daemon_link_connect(&o, address, role, &fake_hooks, f, &msg, &f->control),
                     ERR_OK);
    assert_true(turn_until(&f->welcomed, 1, 5000));
}

static uint32_t n_joined(void)
{
    struct daemon_worker_view v;
    size_t at = 0;
    uint32_t n = 0;

    while (daemon_hub_next_worker(w.hub, &at, &v))
        n += v.joined;
    return n;
}

static void fake_join(struct fake *f, const char *name, uint32_t pid, uint64_t model)
{
    Baton__Join m = BATON__JOIN__INIT;
    Baton__KvLayout layout = BATON__KV_LAYOUT__INIT;

    layout.n_layers = 2;
    layout.n_kv_heads = 2;
    layout.head_dim = 8;
    layout.block_tokens = 16;
    layout.dtype = 1;
    layout.model_id = model;
    m.name = (char *)(uintptr_t)name;
    m.model = m.backend = m.name;
    m.kv_host = (char *)(uintptr_t) "127.0.0.1";
    m.kv_port = 9;
    m.layout = &layout;
    m.n_blocks = 64;
    m.max_batch = 8;
    m.max_context = 512;
    m.max_step_tokens = 64;
    m.vocab = 100;
    m.pid = pid;
    daemon_link_send(f->control, WIRE_JOIN, &m.base);
    turn_for(50);
}

/* ---- tests ---- */

static void a_worker_elsewhere_with_the_pid_of_a_dead_child_is_not_meant(void **state)
{
    (void)state;
    start();
    fake_connect(&w.a, w.tcp_copy, WIRE_ROLE_PREFILL);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.a, "far-a", 4242, 7);
    fake_join(&w.b, "far-b", 4343, 7);
    assert_int_equal(n_joined(), 2);
    daemon_hub_process_gone(w.hub, 4242);
    turn_for(50);
    assert_int_equal(w.a.closed, 0);
    assert_int_equal(w.b.gone, 0); /* else b would take back memory that a may still write to */
    assert_int_equal(n_joined(), 2);
    /* and when it is lost, no child of that number may be killed */
    daemon_link_close(w.a.control);
    assert_true(turn_until(&w.b.forgotten, 1, 5000));
    turn_for(20);
    assert_int_equal(w.lost, 0);
    finish();
}

static void a_worker_here_is_known_by_its_socket_not_by_what_it_says(void **state)
{
    (void)state;
    start();
    fake_connect(&w.a, w.near, WIRE_ROLE_PREFILL);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.a, "near", 4242, 7);
    fake_join(&w.b, "far", 4343, 7);
    daemon_link_close(w.a.control);
    assert_true(turn_until(&w.lost, 1, 5000));
    assert_int_equal(w.lost_pid, getpid());
    assert_true(turn_until(&w.b.forgotten, 1, 5000));
    assert_int_equal(w.b.gone, 0);
    daemon_hub_process_gone(w.hub, (uint32_t)getpid());
    assert_true(turn_until(&w.b.gone, 1, 5000));
    finish();
}

static void a_worker_with_another_model_gets_no_work_and_is_told_why(void **state)
{
    struct sched_stats s;

    (void)state;
    start();
    fake_connect(&w.a, w.near, WIRE_ROLE_PREFILL);
    fake_join(&w.a, "right", 1, 7);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.b, "wrong", 2, 8);
    assert_int_equal(n_joined(), 1);
    assert_false(daemon_hub_ready(w.hub));
    daemon_hub_stats(w.hub, &s);
    assert_int_equal(s.workers[SCHED_ROLE_DECODE], 0);
    assert_int_equal(w.b.refused, 1);
    assert_non_null(strstr(w.b.why, "differ from those of right"));
    assert_int_equal(w.a.refused, 0);
    finish();
}

static void a_worker_from_elsewhere_gives_way_to_the_model_served_here(void **state)
{
    (void)state;
    start();
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.b, "wrong", 2, 8);
    assert_int_equal(n_joined(), 1);
    fake_connect(&w.a, w.near, WIRE_ROLE_PREFILL);
    fake_join(&w.a, "right", 1, 7);
    assert_true(turn_until(&w.b.closed, 1, 5000));
    assert_int_equal(w.a.closed, 0);
    assert_int_equal(n_joined(), 1);
    finish();
}

static void two_workers_of_one_name_are_told_apart(void **state)
{
    struct daemon_worker_view v;
    char name[2][300];
    size_t at = 0;

    (void)state;
    start();
    fake_connect(&w.a, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.a, "decode", 1, 7);
    fake_join(&w.b, "decode", 1, 7);
    for (int i = 0; i < 2; i++) {
        assert_true(daemon_hub_next_worker(w.hub, &at, &v));
        snprintf(name[i], sizeof(name[i]), "%s", v.name);
    }
    assert_string_equal(name[0], "decode");
    assert_string_not_equal(name[0], name[1]);
    finish();
}

static void links_to_workers_that_left_are_forgotten(void **state)
{
    Baton__Link m = BATON__LINK__INIT;
    const Baton__Link *link;
    const char *from, *to;
    size_t at = 0;

    (void)state;
    start();
    fake_connect(&w.a, w.tcp_copy, WIRE_ROLE_PREFILL);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.a, "a", 1, 7);
    fake_join(&w.b, "b", 1, 7);
    m.peer = w.b.id;
    m.path = 1;
    m.lanes = (char *)(uintptr_t) "tcp";
    daemon_link_send(w.a.control, WIRE_LINK, &m.base);
    turn_for(50);
    assert_true(daemon_hub_next_link(w.hub, &at, &from, &to, &link));
    assert_string_equal(to, "b");
    daemon_link_close(w.b.control);
    assert_true(turn_until(&w.a.forgotten, 1, 5000));
    daemon_link_send(w.a.control, WIRE_LINK, &m.base); /* this one was late */
    turn_for(50);
    at = 0;
    assert_false(daemon_hub_next_link(w.hub, &at, &from, &to, &link));
    finish();
}

static void a_reservation_outlives_a_prefill_that_takes_long(void **state)
{
    struct daemon_hub_submit s = {
        .request = 77, .n_prompt = 4, .max_new = 8, .arrived_ns = clock_now_ns()};

    (void)state;
    start();
    fake_connect(&w.a, w.tcp_copy, WIRE_ROLE_PREFILL);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.a, "a", 1, 7);
    fake_join(&w.b, "b", 1, 7);
    s.arrived_ns = clock_now_ns();
    daemon_hub_submit(w.hub, &s);
    assert_true(turn_until(&w.b.reserved, 1, 5000));
    assert_true(w.b.reserve_deadline_ns >= 300 * CLOCK_NS_PER_S);
    daemon_hub_cancel(w.hub, 77);
    finish();
}

static void workers_hear_the_contract_in_remaining_time(void **state)
{
    struct daemon_hub_submit s = {.request = 78,
                                  .tier = 2, /* bronze */
                                  .n_prompt = 4,
                                  .max_new = 8,
                                  .ttft_ns = 20 * CLOCK_NS_PER_S,
                                  .tbt_ns = 1000 * CLOCK_NS_PER_MS};

    (void)state;
    start();
    fake_connect(&w.a, w.tcp_copy, WIRE_ROLE_PREFILL);
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.a, "a", 1, 7);
    fake_join(&w.b, "b", 1, 7);
    s.arrived_ns = clock_now_ns();
    daemon_hub_submit(w.hub, &s);
    assert_true(turn_until(&w.b.reserved, 1, 5000));
    assert_true(w.b.has_terms);
    assert_int_equal(w.b.terms.tier, 2);
    assert_true(w.b.terms.tbt_ns == 1000 * CLOCK_NS_PER_MS);
    assert_true(w.b.terms.first_deadline_ns > 10 * (int64_t)CLOCK_NS_PER_S);
    assert_true(w.b.terms.first_deadline_ns < 60 * (int64_t)CLOCK_NS_PER_S);
    assert_true(w.b.terms.weight > 0);
    daemon_hub_cancel(w.hub, 78);
    finish();
}

static void steps_that_workers_report_reach_the_predictor(void **state)
{
    Baton__Report m = BATON__REPORT__INIT;
    Baton__StepSample sample = BATON__STEP_SAMPLE__INIT, *list[WIRE_SAMPLES_MAX];
    struct sched_health health;

    (void)state;
    start();
    fake_connect(&w.b, w.tcp_copy, WIRE_ROLE_DECODE);
    fake_join(&w.b, "b", 1, 7);
    sample.b = 4;
    sample.ctx = 400;
    sample.ns = 5000000;
    for (size_t i = 0; i < WIRE_SAMPLES_MAX; i++)
        list[i] = &sample;
    m.n_sample = WIRE_SAMPLES_MAX;
    m.sample = list;
    daemon_link_send(w.b.control, WIRE_REPORT, &m.base);
    daemon_link_send(w.b.control, WIRE_REPORT, &m.base);
    turn_for(50);
    sched_get_health(daemon_hub_sched(w.hub), SCHED_TIERS_MAX, SCHED_STAGE_DECODE, &health);
    assert_true(health.n > 0);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_hear_the_contract_in_remaining_time),
        cmocka_unit_test(steps_that_workers_report_reach_the_predictor),
        cmocka_unit_test(a_worker_elsewhere_with_the_pid_of_a_dead_child_is_not_meant),
        cmocka_unit_test(a_worker_here_is_known_by_its_socket_not_by_what_it_says),
        cmocka_unit_test(a_worker_with_another_model_gets_no_work_and_is_told_why),
        cmocka_unit_test(a_worker_from_elsewhere_gives_way_to_the_model_served_here),
        cmocka_unit_test(two_workers_of_one_name_are_told_apart),
        cmocka_unit_test(links_to_workers_that_left_are_forgotten),
        cmocka_unit_test(a_reservation_outlives_a_prefill_that_takes_long),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
