/* The simulator: times of a lone request are those of the laws, what runs out is waited for, what dies is
 * replaced, and the same seed gives the same run. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench/sim_engine.h"
#include "bench/sim_heap.h"

static const char cluster_text[] =
    "name: small\n"
    "classes:\n"
    "  - name: small\n"
    "    prefill: {step_us: 2668, token_us: 20.51, token_pair_us: 0.00038491, below_knee_us: "
    "12.22,\n"
    "              knee_tokens: 448}\n"
    "    decode: {step_us: 7141, sequence_us: 8.88, context_token_us: 0.043198}\n"
    "    kv_bytes_per_token: 131072\n"
    "    link_bytes_per_s: 46e9\n"
    "    link_setup_us: 2000\n"
    "    kv_tokens: 40000\n"
    "    max_step_tokens: 2048\n"
    "    layers: 32\n"
    "workers:\n"
    "  - {role: prefill, class: small, count: 1}\n"
    "  - {role: decode, class: small, count: 1}\n";

static const char *put(const char *text)
{
    static char path[64] = "/tmp/bench_sim_XXXXXX";
    static int made;
    FILE *f;

    if (!made) {
        int fd = mkstemp(path);

        assert_true(fd >= 0);
        close(fd);
        made = 1;
    }
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    return path;
}

static struct bench_cluster read_cluster(const char *text)
{
    struct bench_cluster c;
    struct err_msg msg = {""};

    if (bench_cluster_read(put(text), &c, &msg) != ERR_OK)
        fail_msg("%s", msg.text);
    return c;
}

/* A world whose load a test fills by hand or from a drawn trace. */
struct world {
    struct bench_cluster cluster;
    struct bench_load load;
    struct bench_sim_setup setup;
    struct bench_run *run;
    struct bench_sim_result result;
};

static void open_world(struct world *w)
{
    memset(w, 0, sizeof(*w));
    w->cluster = read_cluster(cluster_text);
    w->run = mem_try_calloc(1, sizeof(*w->run));
    assert_non_null(w->run);
    w->setup = (struct bench_sim_setup){
        .cluster = &w->cluster, .load = &w->load, .seed = 1, .bias = 1, .noise = 0, .check = true};
    sched_config_defaults(&w->setup.config);
    w->setup.config.local_prefill = false;
    w->setup.config.max_queued = 1000000;
    w->setup.config.max_queued_tokens = UINT64_MAX / 4;
}

static void arrive(struct world *w, double at_s, uint32_t n_prompt, uint32_t n_out, uint32_t tier)
{
    w->load.v = mem_try_realloc(w->load.v, (w->load.n + 1) * sizeof(*w->load.v));
    assert_non_null(w->load.v);
    w->load.v[w->load.n++] = (struct bench_arrival_row){.at_ns = (uint64_t)(at_s * 1e9),
                                                        .n_prompt = n_prompt,
                                                        .n_out = n_out,
                                                        .tier = (uint16_t)tier};
    w->load.max_out = n_out > w->load.max_out ? n_out : w->load.max_out;
    w->load.duration_s = at_s + 1;
}

/* A Poisson load of short prompts, the same in every call. */
static void arrive_many(struct world *w, uint32_t n, double rate)
{
    struct bench_rng rng = {5};
    double at = 0;

    for (uint32_t i = 0; i < n; i++) {
        at += bench_rng_exp(&rng) / rate;
        arrive(w, at, 200 + (uint32_t)(bench_rng_next(&rng) % 800),
               1 + (uint32_t)(bench_rng_next(&rng) % 100), (uint32_t)(bench_rng_next(&rng) % 3));
    }
}

static void run(struct world *w)
{
    struct err_msg msg = {""};

    bench_run_free(w->run);
    assert_int_equal(bench_run_init(w->run, w->cluster.n_tiers), ERR_OK);
    for (uint32_t i = 0; i < w->cluster.n_tiers; i++)
        snprintf(w->run->tier[i].name, sizeof(w->run->tier[i].name), "%s",
                 w->cluster.tiers[i].name);
    if (bench_sim_run(&w->setup, w->run, &w->result, &msg) != ERR_OK)
        fail_msg("%s", msg.text);
    assert_int_equal(w->result.unfinished, 0);
}

static void close_world(struct world *w)
{
    bench_run_free(w->run);
    mem_free(w->run);
    bench_load_free(&w->load);
}

static bool near(double x, double y)
{
    return fabs(x - y) <= 2e-6 + 1e-6 * fabs(y);
}

/* ---- times ---- */

static void a_lone_request_takes_what_the_laws_say(void **state)
{
    struct world w;
    double prefill, wire, left, decode = 0;

    (void)state;
    open_world(&w);
    arrive(&w, 1, 1024, 11, 1);
    run(&w);
    prefill = (2668 + 20.51 * 1024 + 0.00038491 * 1024 * 1024) / 1e6;
    assert_true(near(w.run->tier[1].ttft.max, prefill));
    /* the hand-over hides behind the prompt but for its last layer and the set-up */
    wire = 1024 * 131072.0 / 46e9;
    left = fmax(0, wire - prefill * 31 / 32) + wire / 32 + 0.002;
    for (int k = 0; k < 10; k++)
        decode += (7141 + 8.88 + 0.043198 * (1024 + k)) / 1e6;
    assert_true(near(w.run->tier[1].e2e.max, prefill + left + decode));
    assert_int_equal(w.run->tier[1].kept, 1);
    assert_true(near(w.run->tier[1].gap.max, left + (7141 + 8.88 + 0.043198 * 1024) / 1e6));
    close_world(&w);
}

static void a_long_prompt_is_computed_in_chunks_behind_each_other(void **state)
{
    struct world w;
    double t = 0;

    (void)state;
    open_world(&w);
    arrive(&w, 0, 5000, 1, 0);
    run(&w);
    for (int past = 0; past < 5000; past += 2048) {
        double n = 5000 - past < 2048 ? 5000 - past : 2048;

        t += 2668 + 20.51 * n + 0.00038491 * n * (n + 2 * past);
    }
    assert_true(near(w.run->tier[0].ttft.max, t / 1e6));
    assert_true(near(w.run->tier[0].e2e.max, t / 1e6));
    close_world(&w);
}

static void short_prompts_share_a_step(void **state)
{
    struct world w;
    double one = (2668 + 20.51 * 100 + 0.00038491 * 1e4 + 12.22 * 348) / 1e6;
    double two = (2668 + 20.51 * 200 + 0.00038491 * 2e4 + 12.22 * 248) / 1e6;

    (void)state;
    open_world(&w);
    arrive(&w, 0, 100, 1, 0);
    arrive(&w, 0.001, 100, 1, 0);
    arrive(&w, 0.002, 100, 1, 0);
    run(&w);
    assert_true(near(w.run->tier[0].ttft.min, one));
    assert_true(near(w.run->tier[0].ttft.max, one + two - 0.001));
    close_world(&w);
}

static void a_lie_about_speed_and_a_slow_worker_both_cost_time(void **state)
{
    struct world w;
    double honest;

    (void)state;
    open_world(&w);
    arrive(&w, 1, 1024, 1, 1);
    run(&w);
    honest = w.run->tier[1].ttft.max;
    w.setup.bias = 1.2;
    run(&w);
    assert_true(near(w.run->tier[1].ttft.max, 1.2 * honest));
    w.setup.bias = 1;
    w.setup.fault[0] = (struct bench_sim_fault){.worker = 1, .at_s = 0.5, .factor = 1.5};
    w.setup.n_faults = 1;
    run(&w);
    assert_true(near(w.run->tier[1].ttft.max, 1.5 * honest));
    w.setup.fault[0].until_s = 0.9;
    run(&w);
    assert_true(near(w.run->tier[1].ttft.max, honest));
    close_world(&w);
}

static void noise_scatters_steps_and_keeps_their_mean(void **state)
{
    struct world w;
    double sum = 0;

    (void)state;
    open_world(&w);
    w.setup.noise = 0.3;
    w.setup.check = false;
    for (int i = 0; i < 4000; i++)
        arrive(&w, i * 0.2, 1024, 1, 2);
    run(&w);
    sum = w.run->tier[2].ttft.sum / (double)w.run->tier[2].ttft.n;
    assert_true(fabs(sum / ((2668 + 20.51 * 1024 + 0.00038491 * 1024 * 1024) / 1e6) - 1) < 0.02);
    assert_true(w.run->tier[2].ttft.max > 1.8 * sum);
    close_world(&w);
}

/* ---- room, faults, repeatability ---- */

static void a_pool_that_is_too_small_makes_them_wait_and_loses_nobody(void **state)
{
    struct world w;

    (void)state;
    open_world(&w);
    w.cluster.klass[0].kv_tokens = 4096; /* of 200 .. 1000 tokens each */
    w.setup.max_new = 100;
    arrive_many(&w, 300, 15);
    run(&w);
    assert_int_equal(w.run->all.done + w.run->all.refused, 300);
    assert_true(w.run->all.done > 60);
    assert_true(w.run->all.failed + w.run->all.timeout == 0);
    close_world(&w);
}

static void requests_of_a_worker_that_dies_go_on_elsewhere(void **state)
{
    struct world w;
    struct err_msg msg = {""};

    (void)state;
    for (uint32_t victim = 1; victim <= 4; victim++) {
        open_world(&w);
        assert_int_equal(bench_cluster_resize(&w.cluster, 2, 2, &msg), ERR_OK);
        arrive_many(&w, 400, 100);
        w.setup.fault[0] = (struct bench_sim_fault){.worker = victim, .at_s = 2, .until_s = 3};
        w.setup.n_faults = 1;
        run(&w);
        assert_int_equal(w.run->all.done + w.run->all.refused, 400);
        assert_true(w.result.resumes > 0);
        close_world(&w);
    }
}

static void the_same_seed_gives_the_same_run_and_another_one_does_not(void **state)
{
    struct world w;
    struct bench_tier_figures first;
    uint64_t events;

    (void)state;
    open_world(&w);
    w.setup.noise = 0.1;
    w.setup.stale_s = 0.5;
    arrive_many(&w, 500, 25);
    run(&w);
    first = w.run->tier[0];
    events = w.result.events;
    run(&w);
    assert_int_equal(w.result.events, events);
    assert_memory_equal(&first, &w.run->tier[0], sizeof(first));
    w.setup.seed = 2;
    run(&w);
    assert_memory_not_equal(&first, &w.run->tier[0], sizeof(first));
    close_world(&w);
}

static void requests_of_the_warm_up_are_not_counted(void **state)
{
    struct world w;

    (void)state;
    open_world(&w);
    arrive(&w, 1, 100, 5, 0);
    arrive(&w, 3, 100, 5, 0);
    arrive(&w, 4, 100, 5, 2);
    w.setup.warmup_s = 2;
    run(&w);
    assert_int_equal(w.run->all.n, 2);
    assert_int_equal(w.run->tier[0].n, 1);
    close_world(&w);
}

static void a_fault_of_a_worker_that_is_not_there_is_refused(void **state)
{
    struct world w;
    struct err_msg msg = {""};

    (void)state;
    open_world(&w);
    arrive(&w, 1, 100, 5, 0);
    w.setup.fault[0] = (struct bench_sim_fault){.worker = 3, .at_s = 1};
    w.setup.n_faults = 1;
    assert_int_equal(bench_run_init(w.run, 3), ERR_OK);
    assert_int_equal(bench_sim_run(&w.setup, w.run, &w.result, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "worker 3"));
    close_world(&w);
}

static void running_out_of_memory_anywhere_ends_the_run_cleanly(void **state)
{
    struct world w;
    long at = 0;
    enum err err = ERR_NOMEM;

    (void)state;
    open_world(&w);
    w.setup.check = false;
    arrive_many(&w, 40, 40);
    for (; err == ERR_NOMEM && at < 5000; at += at < 60 ? 1 : 17) {
        struct err_msg msg = {""};
        size_t live;

        assert_int_equal(bench_run_init(w.run, 3), ERR_OK);
        live = mem_live();
        mem_fail_at(at);
        err = bench_sim_run(&w.setup, w.run, &w.result, &msg);
        mem_fail_at(-1);
        assert_int_equal(mem_live(), live);
        bench_run_free(w.run);
        if (err != ERR_OK)
            assert_int_equal(err, ERR_NOMEM);
    }
    assert_int_equal(err, ERR_OK);
    close_world(&w);
}

/* ---- load ---- */

static struct bench_load make_load(const struct bench_trace *t, double speedup, double seconds,
                                   double prefix_tokens)
{
    static const double share[] = {20, 30, 50};
    struct bench_load_plan p = {.trace = t,
                                .speedup = speedup,
                                .duration_s = seconds,
                                .share = share,
                                .n_tiers = 3,
                                .seed = 1,
                                .prefix_tokens = prefix_tokens,
                                .max_context = 1 << 20};
    struct bench_load l;
    struct err_msg msg = {""};

    if (bench_load_make(&p, &msg, &l) != ERR_OK)
        fail_msg("%s", msg.text);
    return l;
}

static void a_short_trace_is_repeated_with_conversations_of_its_own(void **state)
{
    struct bench_trace_row v[2] = {
        {.at_s = 0, .n_prompt = 1024, .n_out = 3, .session = 9, .first_block = 0, .n_blocks = 2},
        {.at_s = 1, .n_prompt = 1100, .n_out = 4, .session = 9, .first_block = 0, .n_blocks = 2}};
    uint64_t blocks[] = {1, 2};
    struct bench_trace t = {.v = v, .n = 2, .blocks = blocks, .n_blocks = 2, .seconds = 2};
    struct bench_load l = make_load(&t, 2, 3, 1e6);

    (void)state;
    assert_int_equal(l.n, 6);
    assert_int_equal(l.v[3].at_ns, 1500000000);
    assert_int_equal(l.v[0].n_hit, 0);
    assert_int_equal(l.v[1].n_hit, 1024);
    assert_int_equal(l.v[2].n_hit, 0); /* the second time, nothing of the first is known */
    assert_int_equal(l.v[0].session, l.v[1].session);
    assert_true(l.v[0].session != l.v[2].session);
    bench_load_free(&l);
}

static void a_prompt_is_never_cached_whole_and_a_small_pool_forgets(void **state)
{
    struct bench_trace_row v[3] = {{.n_prompt = 512, .n_out = 3, .first_block = 0, .n_blocks = 1},
                                   {.n_prompt = 512, .n_out = 3, .first_block = 1, .n_blocks = 1},
                                   {.n_prompt = 512, .n_out = 3, .first_block = 0, .n_blocks = 1}};
    uint64_t blocks[] = {1, 2};
    struct bench_trace t = {.v = v, .n = 3, .blocks = blocks, .n_blocks = 2, .seconds = 1};
    struct bench_load l;

    (void)state;
    v[1].at_s = 0.1;
    v[2].at_s = 0.2;
    l = make_load(&t, 1, 0.9, 1024);
    assert_int_equal(l.v[2].n_hit, 511);
    bench_load_free(&l);
    l = make_load(&t, 1, 0.9, 512);
    assert_int_equal(l.v[2].n_hit, 0);
    bench_load_free(&l);
}

/* Measured elsewhere on the same trace: share of prompt tokens found by an LRU of so many tokens. */
static void prefix_hits_of_the_published_trace_are_those_that_were_measured(void **state)
{
    static const double want[][2] = {{1e6, 0.054}, {3e6, 0.139}, {10e6, 0.291}, {50e6, 0.371}};
    const char *shared = getenv("BATON_SHARED");
    char path[512];
    struct err_msg msg = {""};
    struct bench_trace t;

    (void)state;
    snprintf(path, sizeof(path), "%s/traces/mooncake_conversation.jsonl.gz",
             shared != NULL ? shared : "../shared");
    if (access(path, R_OK) != 0) {
        print_message("%s is not here: skipped\n", path);
        skip();
    }
    assert_int_equal(bench_trace_load(path, 1, &msg, &t), ERR_OK);
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        struct bench_load l = make_load(&t, 1, t.seconds, want[i][0]);

        assert_true(fabs(l.hit_share - want[i][1]) < 0.012);
        bench_load_free(&l);
    }
    bench_trace_free(&t);
}

/* ---- cluster files ---- */

static void mistakes_in_a_cluster_file_are_named(void **state)
{
    static const char *const bad[][3] = {
        {"count: 1}\n  - {role: decode", "count: 0}\n  - {role: decode", "count"},
        {"role: decode", "role: deco", "deco"},
        {"class: small, count: 1}\n  - {role: dec", "class: big, count: 1}\n  - {role: dec", "big"},
        {"kv_tokens: 40000", "kv_tokens: 4", "kv_tokens"},
        {"layers: 32", "layer: 32", "layer"},
        {"name: small\nclasses", "nam: small\nclasses", "nam"},
        {"step_us: 7141", "step_us: -1", "step_us"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[2048];
        const char *at = strstr(cluster_text, bad[i][0]);
        struct bench_cluster c;
        struct err_msg msg = {""};

        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - cluster_text), cluster_text, bad[i][1],
                 at + strlen(bad[i][0]));
        assert_int_equal(bench_cluster_read(put(text), &c, &msg), ERR_INVALID);
        if (strstr(msg.text, bad[i][2]) == NULL)
            fail_msg("'%s' does not name '%s'", msg.text, bad[i][2]);
    }
}

static void the_shipped_clusters_are_the_published_ones(void **state)
{
    struct bench_cluster c;
    struct err_msg msg = {""};
    struct bench_arrival_row a = {.n_prompt = 8192};

    (void)state;
    if (bench_cluster_read("deploy/clusters/h100-8b.yaml", &c, &msg) != ERR_OK)
        fail_msg("%s", msg.text);
    assert_int_equal(bench_cluster_count(&c, SCHED_ROLE_PREFILL), 3);
    assert_int_equal(c.klass[0].kv_tokens, 400000);
    assert_string_equal(c.tiers[0].name, "gold");
    assert_true(fabs(bench_sim_isolated_ns(&c, &a) / 203e6 - 1) < 0.04); /* measured: 203 ms */
    if (bench_cluster_read("deploy/clusters/h100-70b-tp4.yaml", &c, &msg) != ERR_OK)
        fail_msg("%s", msg.text);
    assert_int_equal(bench_cluster_count(&c, SCHED_ROLE_DECODE), 3);
    assert_int_equal(c.tiers[0].tbt_ns, 50000000);
    assert_true(fabs(bench_sim_isolated_ns(&c, &a) / 590e6 - 1) < 0.04); /* measured: 590 ms */
}

/* ---- containers ---- */

static void the_largest_value_since_a_step_is_found_however_they_go_up_and_down(void **state)
{
    struct bench_rng rng = {3};
    struct sim_peak p = {.n = 0};
    int64_t v[2000], x = 0;

    (void)state;
    for (uint64_t s = 0; s < 2000; s++) {
        x += (int64_t)(bench_rng_next(&rng) % 21) - 12;
        v[s] = x;
        assert_true(sim_peak_push(&p, s + 1, x));
        for (int q = 0; q < 5; q++) {
            uint64_t since = bench_rng_next(&rng) % (s + 2);
            int64_t best = INT64_MIN;

            for (uint64_t k = since; k <= s; k++)
                best = v[k] > best ? v[k] : best;
            assert_true(sim_peak_since(&p, since) == best);
        }
    }
    sim_peak_forget(&p, 1990);
    assert_true(p.n <= 10);
    sim_peak_free(&p);
}

static void the_heap_gives_keys_in_order_and_ties_first_in_first_out(void **state)
{
    struct bench_rng rng = {3};
    struct sim_heap h = {.n = 0};
    struct sim_key last = {0};

    (void)state;
    for (uint32_t i = 0; i < 3000; i++)
        assert_true(sim_heap_push(&h, sim_key_of((int64_t)(bench_rng_next(&rng) % 50) - 25), i, 0));
    for (uint32_t i = 0; i < 3000; i++) {
        struct sim_key top = h.v[0];

        if (i > 0 && top.key == last.key)
            assert_true(top.slot > last.slot);
        else
            assert_true(i == 0 || sim_key_value(top.key) > sim_key_value(last.key));
        last = top;
        sim_heap_pop(&h);
    }
    assert_int_equal(h.n, 0);
    sim_heap_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lone_request_takes_what_the_laws_say),
        cmocka_unit_test(a_long_prompt_is_computed_in_chunks_behind_each_other),
        cmocka_unit_test(short_prompts_share_a_step),
        cmocka_unit_test(a_lie_about_speed_and_a_slow_worker_both_cost_time),
        cmocka_unit_test(noise_scatters_steps_and_keeps_their_mean),
        cmocka_unit_test(a_pool_that_is_too_small_makes_them_wait_and_loses_nobody),
        cmocka_unit_test(requests_of_a_worker_that_dies_go_on_elsewhere),
        cmocka_unit_test(the_same_seed_gives_the_same_run_and_another_one_does_not),
        cmocka_unit_test(requests_of_the_warm_up_are_not_counted),
        cmocka_unit_test(a_fault_of_a_worker_that_is_not_there_is_refused),
        cmocka_unit_test(running_out_of_memory_anywhere_ends_the_run_cleanly),
        cmocka_unit_test(a_short_trace_is_repeated_with_conversations_of_its_own),
        cmocka_unit_test(a_prompt_is_never_cached_whole_and_a_small_pool_forgets),
        cmocka_unit_test(prefix_hits_of_the_published_trace_are_those_that_were_measured),
        cmocka_unit_test(mistakes_in_a_cluster_file_are_named),
        cmocka_unit_test(the_shipped_clusters_are_the_published_ones),
        cmocka_unit_test(the_largest_value_since_a_step_is_found_however_they_go_up_and_down),
        cmocka_unit_test(the_heap_gives_keys_in_order_and_ties_first_in_first_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
