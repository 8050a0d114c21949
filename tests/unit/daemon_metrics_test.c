/* tests/unit/daemon_metrics_test.c - metrics as a scraper reads them: the text is parsed back. */
#include <ctype.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "daemon/metrics.h"
#include "daemon/metrics_series.h"
#include "tests/unit/cpu_time.h"

/* ---- a scraper: exact about the text format, as Prometheus is ------------------------------------ */

enum { SAMPLES_MAX = 8192, KEY_MAX = 400 };

static struct sample {
    char key[KEY_MAX]; /* name{label="unescaped value",...} */
    double value;
} samples[SAMPLES_MAX];
static size_t n_samples;

static const char *parse_name(const char *at, char *key, size_t *n)
{
    while (isalnum((unsigned char)*at) || *at == '_' || *at == ':')
        key[(*n)++] = *at++;
    assert_true(*n > 0);
    return at;
}

static const char *parse_labels(const char *at, char *key, size_t *n)
{
    key[(*n)++] = *at++; /* { */
    while (*at != '}') {
        const char *name = at;

        at = parse_name(at, key, n);
        assert_true(at > name && at[0] == '=' && at[1] == '"');
        key[(*n)++] = '=';
        key[(*n)++] = '"';
        for (at += 2; *at != '"'; at++) {
            assert_true(*at != '\n' && *at != '\0' && *n < KEY_MAX - 40);
            if (*at == '\\') {
                at++;
                assert_true(*at == 'n' || *at == '"' || *at == '\\');
                key[(*n)++] = *at == 'n' ? '\n' : *at;
            } else {
                key[(*n)++] = *at;
            }
        }
        key[(*n)++] = '"';
        at++;
        assert_true(*at == ',' || *at == '}');
        if (*at == ',')
            key[(*n)++] = *at++;
    }
    key[(*n)++] = '}';
    return at + 1;
}

/* Comments come first and once per family; every sample belongs to the family announced last. */
static void scrape(struct buf *text)
{
    char family[128] = "", kind[32] = "";
    const char *at;

    assert_int_equal(buf_append(text, "", 1), ERR_OK);
    n_samples = 0;
    for (at = buf_bytes(text); *at != '\0';) {
        struct sample *s = &samples[n_samples];
        size_t n = 0;
        char *end;

        if (strncmp(at, "# HELP ", 7) == 0) {
            assert_int_equal(sscanf(at, "# HELP %127s ", family), 1);
            at = strchr(at, '\n') + 1;
            assert_int_equal(strncmp(at, "# TYPE ", 7), 0);
            assert_int_equal(strncmp(at + 7, family, strlen(family)), 0);
            assert_int_equal(sscanf(at + 7 + strlen(family), " %31s\n", kind), 1);
            at = strchr(at, '\n') + 1;
            continue;
        }
        assert_true(n_samples < SAMPLES_MAX);
        at = parse_name(at, s->key, &n);
        assert_int_equal(strncmp(s->key, family, strlen(family)), 0);
        if (*at == '{')
            at = parse_labels(at, s->key, &n);
        s->key[n] = '\0';
        assert_int_equal(*at, ' ');
        s->value = strtod(at + 1, &end);
        assert_true(end > at + 1 && *end == '\n');
        at = end + 1;
        for (size_t i = 0; i < n_samples; i++)
            assert_string_not_equal(samples[i].key, s->key);
        n_samples++;
    }
}

static double got(const char *key)
{
    for (size_t i = 0; i < n_samples; i++) {
        if (strcmp(samples[i].key, key) == 0)
            return samples[i].value;
    }
    fail_msg("no sample %s", key);
    return NAN;
}

static bool is_there(const char *start)
{
    for (size_t i = 0; i < n_samples; i++) {
        if (strncmp(samples[i].key, start, strlen(start)) == 0)
            return true;
    }
    return false;
}

static void assert_close(const char *key, double want)
{
    if (fabs(got(key) - want) > 1e-9 * (fabs(want) + 1))
        fail_msg("%s is %.12g, want %.12g", key, got(key), want);
}

/* ---- the registry ------------------------------------------------------------------------------- */

static const char *const two_labels[] = {"a", "b"};
static const double bounds[] = {0.001, 0.5, 2, 1e6};

static void a_registry_renders_what_was_counted_in_a_stable_order(void **state)
{
    struct daemon_metrics *m;
    struct daemon_family *c, *g;
    struct buf text = BUF_INIT;
    struct err_msg msg = {""};

    (void)state;
    assert_int_equal(daemon_metrics_create(&m), ERR_OK);
    assert_int_equal(daemon_metrics_add(m,
                                        &(struct daemon_family_config){.name = "x_total",
                                                                       .help = "back\\slash\nline",
                                                                       .kind = DAEMON_COUNTER,
                                                                       .labels = two_labels,
                                                                       .n_labels = 2},
                                        &msg, &c),
                     ERR_OK);
    assert_int_equal(
        daemon_metrics_add(
            m, &(struct daemon_family_config){.name = "g", .help = "h", .kind = DAEMON_GAUGE}, &msg,
            &g),
        ERR_OK);
    daemon_metrics_count(daemon_metrics_cell(c, (const char *const[]){"z", "1"}), 2);
    daemon_metrics_count(daemon_metrics_cell(c, (const char *const[]){"a", "q\"u\\o\nte"}), 1);
    daemon_metrics_count(daemon_metrics_cell(c, (const char *const[]){"z", "1"}), 3);
    daemon_metrics_set(daemon_metrics_cell(g, NULL), -0.25);
    assert_int_equal(daemon_metrics_render(m, &text), ERR_OK);
    assert_int_equal(buf_append(&text, "", 1), ERR_OK);
    assert_string_equal(buf_bytes(&text), "# HELP x_total back\\\\slash\\nline\n"
                                          "# TYPE x_total counter\n"
                                          "x_total{a=\"a\",b=\"q\\\"u\\\\o\\nte\"} 1\n"
                                          "x_total{a=\"z\",b=\"1\"} 5\n"
                                          "# HELP g h\n"
                                          "# TYPE g gauge\n"
                                          "g -0.25\n");
    daemon_metrics_forget(c);
    buf_clear(&text);
    assert_int_equal(daemon_metrics_render(m, &text), ERR_OK);
    scrape(&text);
    assert_int_equal(n_samples, 1);
    buf_free(&text);
    daemon_metrics_destroy(m);
    assert_int_equal(mem_live(), 0);
}

static void a_histogram_counts_each_value_in_every_bucket_that_covers_it(void **state)
{
    struct daemon_metrics *m;
    struct daemon_family *f;
    struct daemon_series_cell *c;
    struct buf text = BUF_INIT;

    (void)state;
    assert_int_equal(daemon_metrics_create(&m), ERR_OK);
    assert_int_equal(daemon_metrics_add(m,
                                        &(struct daemon_family_config){.name = "h",
                                                                       .help = "h",
                                                                       .kind = DAEMON_HISTOGRAM,
                                                                       .labels = two_labels,
                                                                       .n_labels = 1,
                                                                       .buckets = bounds,
                                                                       .n_buckets = 4},
                                        NULL, &f),
                     ERR_OK);
    c = daemon_metrics_cell(f, (const char *const[]){"v"});
    daemon_metrics_observe(c, -1, 1);
    daemon_metrics_observe(c, 0.001, 1); /* a bound belongs to its bucket */
    daemon_metrics_observe(c, 0.0010001, 1);
    daemon_metrics_observe(c, 1.5, 10);
    daemon_metrics_observe(c, INFINITY, 1);
    daemon_metrics_observe(c, NAN, 1); /* dropped */
    assert_int_equal(daemon_metrics_render(m, &text), ERR_OK);
    scrape(&text);
    assert_close("h_bucket{a=\"v\",le=\"0.001\"}", 2);
    assert_close("h_bucket{a=\"v\",le=\"0.5\"}", 3);
    assert_close("h_bucket{a=\"v\",le=\"2\"}", 13);
    assert_close("h_bucket{a=\"v\",le=\"1000000\"}", 13);
    assert_close("h_bucket{a=\"v\",le=\"+Inf\"}", 14);
    assert_close("h_count{a=\"v\"}", 14);
    assert_true(isinf(got("h_sum{a=\"v\"}")));
    buf_free(&text);
    daemon_metrics_destroy(m);
}

static void label_values_without_bound_end_up_as_other(void **state)
{
    struct daemon_metrics *m;
    struct daemon_family *f;
    struct buf text = BUF_INIT;
    double total = 0;

    (void)state;
    assert_int_equal(daemon_metrics_create(&m), ERR_OK);
    assert_int_equal(daemon_metrics_add(m,
                                        &(struct daemon_family_config){.name = "n_total",
                                                                       .help = "h",
                                                                       .kind = DAEMON_COUNTER,
                                                                       .labels = two_labels,
                                                                       .n_labels = 1,
                                                                       .max_series = 5},
                                        NULL, &f),
                     ERR_OK);
    for (int i = 0; i < 1000; i++) {
        char value[16];

        snprintf(value, sizeof(value), "%d", i);
        daemon_metrics_count(daemon_metrics_cell(f, (const char *const[]){value}), 1);
    }
    assert_int_equal(daemon_metrics_render(m, &text), ERR_OK);
    scrape(&text);
    assert_int_equal(n_samples, 5);
    for (size_t i = 0; i < n_samples; i++)
        total += samples[i].value;
    assert_true(total == 1000);
    assert_close("n_total{a=\"other\"}", 996);
    buf_free(&text);
    daemon_metrics_destroy(m);
}

static void mistakes_in_a_family_are_refused(void **state)
{
    static const double wrong_order[] = {1, 1};
    static const char *const bad_label[] = {"le"}, *const odd_label[] = {"a-b"};
    static const struct daemon_family_config bad[] = {
        {.name = "", .help = "", .kind = DAEMON_GAUGE},
        {.name = "9a", .help = "", .kind = DAEMON_GAUGE},
        {.name = "a b", .help = "", .kind = DAEMON_GAUGE},
        {.name = "taken", .help = "", .kind = DAEMON_GAUGE},
        {.name = "a", .help = "", .kind = DAEMON_HISTOGRAM},
        {.name = "a", .help = "", .kind = DAEMON_GAUGE, .buckets = bounds, .n_buckets = 4},
        {.name = "a", .help = "", .kind = DAEMON_HISTOGRAM, .buckets = wrong_order, .n_buckets = 2},
        {.name = "a", .help = "", .kind = DAEMON_GAUGE, .labels = bad_label, .n_labels = 1},
        {.name = "a", .help = "", .kind = DAEMON_GAUGE, .labels = odd_label, .n_labels = 1},
        {.name = "a", .help = "", .kind = DAEMON_GAUGE, .labels = two_labels, .n_labels = 9},
    };
    struct daemon_metrics *m;
    struct daemon_family *f;
    struct err_msg msg;

    (void)state;
    assert_int_equal(daemon_metrics_create(&m), ERR_OK);
    assert_int_equal(
        daemon_metrics_add(
            m, &(struct daemon_family_config){.name = "taken", .help = "", .kind = DAEMON_GAUGE},
            &msg, &f),
        ERR_OK);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(daemon_metrics_add(m, &bad[i], &msg, &f), ERR_INVALID);
    daemon_metrics_destroy(m);
}

/* ---- the list of series ------------------------------------------------------------------------- */

static const struct daemon_series_tier tiers[] = {
    {"gold", 500000000, 30000000}, {"silver", 2000000000, 100000000}, {"bronze", 0, 0}};
static const struct daemon_series_config config = {
    .model = "demo", .version = "1.2.3", .backend = "cpu", .tiers = tiers, .n_tiers = 3};

static struct daemon_series *open_series(void)
{
    struct daemon_series *s = NULL;
    struct err_msg msg = {""};

    if (daemon_series_create(&config, &msg, &s) != ERR_OK)
        fail_msg("%s", msg.text);
    return s;
}

static void scrape_series(struct daemon_series *s)
{
    struct buf text = BUF_INIT;

    assert_int_equal(daemon_series_render(s, &text), ERR_OK);
    scrape(&text);
    buf_free(&text);
}

static const uint64_t t0 = 1000 * CLOCK_NS_PER_S;

static struct daemon_request_record good_record(void)
{
    return (struct daemon_request_record){.tier = 0,
                                          .outcome = DAEMON_OUTCOME_STOP,
                                          .n_prompt = 100,
                                          .n_generated = 11,
                                          .max_new = 64,
                                          .attempts = 1,
                                          .received_at = t0,
                                          .placed_at = t0 + 2000000,
                                          .first_token_at = t0 + 52000000,
                                          .last_token_at = t0 + 252000000,
                                          .done_at = t0 + 253000000,
                                          .worker_queue_ns = 1000000,
                                          .prefill_ns = 40000000,
                                          .handed_over = true,
                                          .handover_wire_ns = 3000000,
                                          .handover_exposed_ns = 400000,
                                          .handover_verify_ns = 90000,
                                          .handover_bytes = 1 << 20,
                                          .path = 1};
}

static void a_finished_request_is_in_every_series_it_belongs_to(void **state)
{
    struct daemon_series *s = open_series();
    struct daemon_request_record r = good_record();

    (void)state;
    daemon_series_first_token(s, 0, 100, 52000000);
    daemon_series_next_tokens(s, 0, 10, 200000000);
    daemon_series_request_done(s, &r);
    scrape_series(s);
    assert_close("baton_requests_total{tier=\"gold\",outcome=\"stop\",reason=\"\"}", 1);
    assert_close("baton_ttft_seconds_sum{tier=\"gold\"}", 0.052);
    assert_close("baton_ttft_seconds_bucket{tier=\"gold\",le=\"0.05\"}", 0);
    assert_close("baton_ttft_seconds_bucket{tier=\"gold\",le=\"0.075\"}", 1);
    assert_close("baton_tbt_seconds_count{tier=\"gold\"}", 10);
    assert_close("baton_tbt_seconds_sum{tier=\"gold\"}", 0.2);
    assert_close("baton_tbt_seconds_count{tier=\"silver\"}", 0);
    assert_close("baton_queue_seconds_sum{tier=\"gold\"}", 0.002);
    assert_close("baton_prefill_queue_seconds_sum{tier=\"gold\"}", 0.001);
    assert_close("baton_prefill_seconds_sum{tier=\"gold\"}", 0.04);
    assert_close("baton_decode_seconds_sum{tier=\"gold\"}", 0.2);
    assert_close("baton_e2e_seconds_sum{tier=\"gold\"}", 0.253);
    assert_close("baton_handover_wire_seconds_sum{tier=\"gold\",transport=\"shm\"}", 0.003);
    assert_close("baton_handover_exposed_seconds_sum{tier=\"gold\",transport=\"shm\"}", 0.0004);
    assert_close("baton_handover_verify_seconds_sum{tier=\"gold\",transport=\"shm\"}", 0.00009);
    assert_close("baton_handover_bytes_total{tier=\"gold\",transport=\"shm\"}", 1 << 20);
    assert_close("baton_slo_attained_total{tier=\"gold\",slo=\"ttft\"}", 1);
    assert_close("baton_slo_attained_total{tier=\"gold\",slo=\"tbt\"}", 1);
    assert_close("baton_prompt_tokens_total{tier=\"gold\"}", 100);
    assert_close("baton_generated_tokens_total{tier=\"gold\"}", 11);
    assert_close("baton_build_info{version=\"1.2.3\",backend=\"cpu\",model=\"demo\"}", 1);
#define VLLM(name, more) "vllm:" name "{model_name=\"demo\",engine=\"0\"" more "}"
    assert_close(VLLM("prompt_tokens_total", ""), 100);
    assert_close(VLLM("generation_tokens_total", ""), 11);
    assert_close(VLLM("request_success_total", ",finished_reason=\"stop\""), 1);
    assert_close(VLLM("request_success_total", ",finished_reason=\"abort\""), 0);
    assert_close(VLLM("time_to_first_token_seconds_sum", ""), 0.052);
    assert_close(VLLM("inter_token_latency_seconds_count", ""), 10);
    assert_close(VLLM("e2e_request_latency_seconds_sum", ""), 0.253);
    assert_close(VLLM("request_queue_time_seconds_sum", ""), 0.002);
    assert_close(VLLM("request_prefill_time_seconds_sum", ""), 0.05);
    assert_close(VLLM("request_decode_time_seconds_sum", ""), 0.2);
    assert_close(VLLM("request_inference_time_seconds_sum", ""), 0.25);
    assert_close(VLLM("request_time_per_output_token_seconds_sum", ""), 0.02);
    assert_close(VLLM("request_prompt_tokens_sum", ""), 100);
    assert_close(VLLM("request_generation_tokens_sum", ""), 11);
    assert_close(VLLM("request_params_max_tokens_sum", ""), 64);
    assert_close(VLLM("num_preemptions_total", ""), 0);
    daemon_series_destroy(s);
    assert_int_equal(mem_live(), 0);
}

static void requests_that_got_no_token_are_counted_by_how_they_ended(void **state)
{
    struct daemon_series *s = open_series();
    struct daemon_request_record r = {.outcome = DAEMON_OUTCOME_REJECTED,
                                      .reason = "queue_full",
                                      .received_at = t0,
                                      .done_at = t0 + 1000000};

    (void)state;
    daemon_series_request_done(s, &r);
    r.outcome = DAEMON_OUTCOME_CANCELED; /* left before the target was missed: nobody's fault */
    r.reason = NULL;
    daemon_series_request_done(s, &r);
    r.outcome = DAEMON_OUTCOME_FAILED;
    r.reason = "attempts";
    r.attempts = 3;
    r.tier = 2; /* without targets */
    daemon_series_request_done(s, &r);
    scrape_series(s);
    assert_close("baton_requests_total{tier=\"gold\",outcome=\"rejected\",reason=\"queue_full\"}",
                 1);
    assert_close("baton_requests_total{tier=\"gold\",outcome=\"canceled\",reason=\"\"}", 1);
    assert_close("baton_requests_total{tier=\"bronze\",outcome=\"failed\",reason=\"attempts\"}", 1);
    assert_close("baton_requests_resumed_total{tier=\"bronze\"}", 1);
    assert_close("baton_slo_missed_total{tier=\"gold\",slo=\"ttft\"}", 1);
    assert_false(is_there("baton_slo_missed_total{tier=\"bronze\""));
    assert_close("baton_ttft_seconds_count{tier=\"gold\"}", 0);
    assert_close("baton_queue_seconds_count{tier=\"gold\"}", 0);
    assert_close("baton_e2e_seconds_count{tier=\"gold\"}", 2);
    assert_close(VLLM("request_success_total", ",finished_reason=\"abort\""), 1);
    assert_close(VLLM("request_success_total", ",finished_reason=\"error\""), 1);
    daemon_series_destroy(s);
}

static void slow_requests_miss_their_targets(void **state)
{
    struct daemon_series *s = open_series();
    struct daemon_request_record r = good_record();

    (void)state;
    r.first_token_at = t0 + 501000000;
    r.last_token_at = r.first_token_at + 10 * 31000000ull;
    r.done_at = r.last_token_at;
    daemon_series_request_done(s, &r);
    r = good_record();
    r.n_generated = 1; /* one token has no time between tokens */
    r.last_token_at = r.first_token_at;
    daemon_series_request_done(s, &r);
    scrape_series(s);
    assert_close("baton_slo_missed_total{tier=\"gold\",slo=\"ttft\"}", 1);
    assert_close("baton_slo_missed_total{tier=\"gold\",slo=\"tbt\"}", 1);
    assert_close("baton_slo_attained_total{tier=\"gold\",slo=\"ttft\"}", 1);
    assert_false(is_there("baton_slo_attained_total{tier=\"gold\",slo=\"tbt\"}"));
    assert_close("baton_decode_seconds_count{tier=\"gold\"}", 1);
    daemon_series_destroy(s);
}

static struct daemon_series_worker decode_worker(const char *name)
{
    return (struct daemon_series_worker){.name = name,
                                         .role = "decode",
                                         .up = true,
                                         .decodes = true,
                                         .tp = 4,
                                         .n_blocks = 100,
                                         .block_tokens = 16,
                                         .free_blocks = 70,
                                         .owned_blocks = 20,
                                         .granted_blocks = 7,
                                         .quarantined_blocks = 3,
                                         .live_grants = 2,
                                         .step_ns = 5000000,
                                         .steps = 9,
                                         .generated_tokens = 77,
                                         .bytes_received = {0, 5000, 6000, 0, 0}};
}

static void workers_and_state_are_those_of_the_last_scrape(void **state)
{
    struct daemon_series *s = open_series();
    struct daemon_series_worker d0 = decode_worker("decode-0"), d1 = decode_worker("decode-1");
    struct daemon_series_worker p = {.name = "prefill-0", .role = "prefill", .up = false};
    struct daemon_series_state st = {.queued = {1, 2, 3},
                                     .running = {4, 0, 1},
                                     .queued_tokens = 999,
                                     .requests = 11,
                                     .connections = 5,
                                     .resumes = 2};

    (void)state;
    d1.free_blocks = 90;
    daemon_series_workers_begin(s);
    daemon_series_worker(s, &p);
    daemon_series_worker(s, &d0);
    daemon_series_worker(s, &d1);
    daemon_series_link(s, "prefill-0", "decode-0", "tcp", "tcp/lo", 2.5e9, 30000);
    daemon_series_state(s, &st);
    scrape_series(s);
    assert_close("baton_worker_up{role=\"prefill\",worker=\"prefill-0\"}", 0);
    assert_close("baton_worker_up{role=\"decode\",worker=\"decode-0\"}", 1);
    assert_close("baton_worker_tp{role=\"decode\",worker=\"decode-0\"}", 4);
    assert_close("baton_kv_blocks{role=\"decode\",worker=\"decode-0\",state=\"quarantined\"}", 3);
    assert_false(is_there("baton_kv_blocks{role=\"prefill\""));
    assert_close(
        "baton_worker_kv_bytes_total{role=\"decode\",worker=\"decode-0\",transport=\"tcp\","
        "direction=\"received\"}",
        6000);
    assert_close("baton_kv_link_bytes_per_second{from=\"prefill-0\",to=\"decode-0\","
                 "transport=\"tcp\",lanes=\"tcp/lo\"}",
                 2.5e9);
    assert_close("baton_kv_link_round_trip_seconds{from=\"prefill-0\",to=\"decode-0\","
                 "transport=\"tcp\",lanes=\"tcp/lo\"}",
                 30e-6);
    assert_close("baton_live_objects{class=\"grants\"}", 4);
    assert_close("baton_live_objects{class=\"requests\"}", 11);
    assert_close("baton_queued_requests{tier=\"silver\"}", 2);
    assert_close("baton_running_requests{tier=\"gold\"}", 4);
    assert_close("baton_queued_prompt_tokens", 999);
    assert_close("baton_resumes_total", 2);
    assert_close(VLLM("num_requests_waiting", ""), 6);
    assert_close(VLLM("num_requests_running", ""), 5);
    assert_close(VLLM("kv_cache_usage_perc", ""), 0.2);
    assert_close(VLLM("cache_config_info", ",block_size=\"16\",num_gpu_blocks=\"200\""), 1);

    daemon_series_workers_begin(s); /* decode-1 has gone, decode-0 is free */
    d0.free_blocks = 100;
    daemon_series_worker(s, &d0);
    daemon_series_state(s, &st);
    scrape_series(s);
    assert_false(is_there("baton_worker_up{role=\"decode\",worker=\"decode-1\""));
    assert_false(is_there("baton_worker_tp{role=\"decode\",worker=\"decode-1\""));
    assert_false(is_there("baton_kv_link_bytes_per_second{"));
    assert_close(VLLM("kv_cache_usage_perc", ""), 0);
    assert_close(VLLM("cache_config_info", ",block_size=\"16\",num_gpu_blocks=\"100\""), 1);
    daemon_series_destroy(s);
}

static void promises_and_predictions_are_shown_per_tier(void **state)
{
    struct daemon_series *s = open_series();
    struct daemon_series_promises p = {.arrived = 100,
                                       .admitted = 80,
                                       .kept = 70,
                                       .broken = 6,
                                       .downgraded = 3,
                                       .canceled = 4,
                                       .margin = 0.5};
    struct daemon_series_prediction q = {
        .stage = "prefill", .n = 50, .bias = -0.1, .mape = 0.2, .coverage = 0.9, .worst = 0.8};
    struct daemon_series_state st = {
        .want_prefill = 3, .have_prefill = 2, .flips = 5, .fallback = true, .records_lost = 9};

    (void)state;
    for (int scrapes = 0; scrapes < 2;
         scrapes++) { /* totals are those of the last one, not summed */
        daemon_series_workers_begin(s);
        daemon_series_promises(s, 0, &p);
        daemon_series_refused(s, 0, "ttft", 12);
        daemon_series_refused(s, 0, "price", 8);
        daemon_series_prediction(s, 0, &q);
        daemon_series_prediction(s, DAEMON_SERIES_TIERS_MAX, &q);
        daemon_series_state(s, &st);
    }
    q = (struct daemon_series_prediction){.stage = "decode", .n = 499, .worst = NAN};
    daemon_series_prediction(s, 0, &q);
    daemon_series_forecast(s, 0, 1.02);
    scrape_series(s);
    assert_close("baton_tier_arrivals_total{tier=\"gold\"}", 100);
    assert_close("baton_promises_total{tier=\"gold\",result=\"kept\"}", 70);
    assert_close("baton_promises_total{tier=\"gold\",result=\"broken\"}", 6);
    assert_close("baton_promises_total{tier=\"gold\",result=\"refused\"}", 20);
    assert_close("baton_refusals_total{tier=\"gold\",reason=\"price\"}", 8);
    assert_close("baton_admission_margin{tier=\"gold\"}", 0.5);
    assert_close("baton_prediction_bias{tier=\"gold\",stage=\"prefill\"}", -0.1);
    assert_close("baton_prediction_worst_coverage{tier=\"all\",stage=\"prefill\"}", 0.8);
    assert_close("baton_predictions_total{tier=\"gold\",stage=\"decode\"}", 499);
    assert_false(is_there("baton_prediction_worst_coverage{tier=\"gold\",stage=\"decode\"}"));
    assert_close("baton_prediction_fallback", 1);
    assert_close("baton_planner_workers_wanted{role=\"prefill\"}", 3);
    assert_close("baton_planner_flips_total", 5);
    assert_close("baton_records_lost_total", 9);
    assert_close("baton_ttft_forecast_ratio_count{tier=\"gold\"}", 1);
    daemon_series_destroy(s);
}

static void http_exchanges_are_counted_by_route_and_status(void **state)
{
    struct daemon_series *s = open_series();

    (void)state;
    daemon_series_http_done(s, "/v1/chat/completions", 200, 5000000, 1234);
    daemon_series_http_done(s, "/v1/chat/completions", 200, 5000000, 1000);
    daemon_series_http_done(s, "/v1/chat/completions", 499, 1, 0);
    scrape_series(s);
    assert_close("baton_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}", 2);
    assert_close("baton_http_requests_total{route=\"/v1/chat/completions\",status=\"499\"}", 1);
    assert_close("baton_http_request_seconds_count{route=\"/v1/chat/completions\"}", 3);
    assert_close("baton_http_response_bytes_total{route=\"/v1/chat/completions\"}", 2234);
    daemon_series_destroy(s);
}

static void every_histogram_adds_up_after_random_traffic(void **state)
{
    struct daemon_series *s = open_series();
    uint64_t x = 1;
    struct buf text = BUF_INIT;

    (void)state;
    for (int i = 0; i < 3000; i++) {
        struct daemon_request_record r = good_record();

        x = x * 6364136223846793005u + 1442695040888963407u;
        r.tier = (uint32_t)(x >> 60) % 4; /* 3 is out of range: counted with the last tier */
        r.outcome = (enum daemon_outcome)((x >> 50) % 5);
        r.path = (uint32_t)(x >> 40) % 7;
        r.done_at += x >> 30;
        daemon_series_first_token(s, r.tier, 5, x >> 28);
        daemon_series_next_tokens(s, r.tier, 1 + (uint32_t)(x >> 20) % 3, x >> 33);
        daemon_series_request_done(s, &r);
    }
    scrape_series(s);
    for (size_t i = 1; i < n_samples; i++) { /* cumulative buckets never fall, +Inf is the count */
        const char *a = samples[i - 1].key, *b = samples[i].key;
        const char *la = strstr(a, "le=\""), *lb = strstr(b, "le=\"");

        if (la != NULL && lb != NULL && la - a == lb - b && strncmp(a, b, (size_t)(la - a)) == 0)
            assert_true(samples[i].value >= samples[i - 1].value);
        if (la != NULL && strncmp(la, "le=\"+Inf\"", 9) == 0) {
            assert_non_null(strstr(samples[i + 1].key, "_count"));
            assert_true(samples[i + 1].value == samples[i - 1].value);
        }
    }
    assert_int_equal(daemon_series_render(s, &text), ERR_OK);
    print_message("%zu samples, %zu bytes\n", n_samples, text.len);
    buf_free(&text);
    daemon_series_destroy(s);
}

static void creation_survives_every_failed_allocation(void **state)
{
    bool all_tried = false;

    (void)state;
    for (long n = 0; !all_tried; n++) {
        struct daemon_series *s = NULL;
        struct daemon_request_record r = good_record();
        void *probe;
        enum err err;

        mem_fail_at(n);
        err = daemon_series_create(&config, NULL, &s);
        if (err == ERR_OK) { /* a lost cell costs a figure, nothing else */
            daemon_series_first_token(s, 0, 1, 1);
            daemon_series_next_tokens(s, 0, 1, 1);
            daemon_series_request_done(s, &r);
            daemon_series_http_done(s, "/x", 200, 1, 1);
            daemon_series_workers_begin(s);
            daemon_series_worker(s, &(struct daemon_series_worker){
                                        .name = "w", .role = "decode", .up = true, .n_blocks = 1});
            daemon_series_state(s, &(struct daemon_series_state){.requests = 1});
        } else {
            assert_int_equal(err, ERR_NOMEM);
        }
        probe = mem_try_alloc(0); /* fails only if the switch was not used up before */
        all_tried = probe == NULL;
        mem_free(probe);
        mem_fail_at(-1);
        assert_true(n < 3000);
        daemon_series_destroy(s);
    }
}

/* Prints what counting and a scrape cost; it fails only far from what they should be. */
static void counting_is_cheap_enough_for_every_token(void **state)
{
    enum { TOKENS = 1000000 };
    struct daemon_series *s = open_series();
    struct buf text = BUF_INIT;
    uint64_t start = cpu_time_ns(), spent;

    (void)state;
    for (uint32_t i = 0; i < TOKENS; i++)
        daemon_series_next_tokens(s, i % 3, 1, (uint64_t)i * 37 % 50000000);
    spent = cpu_time_ns() - start;
    start = cpu_time_ns();
    assert_int_equal(daemon_series_render(s, &text), ERR_OK);
    print_message("%.1f ns a token; a scrape of %zu bytes takes %.0f us\n", (double)spent / TOKENS,
                  text.len, (double)(cpu_time_ns() - start) / 1e3);
    assert_true(spent / TOKENS < 5000);
    buf_free(&text);
    daemon_series_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_registry_renders_what_was_counted_in_a_stable_order),
        cmocka_unit_test(a_histogram_counts_each_value_in_every_bucket_that_covers_it),
        cmocka_unit_test(label_values_without_bound_end_up_as_other),
        cmocka_unit_test(mistakes_in_a_family_are_refused),
        cmocka_unit_test(a_finished_request_is_in_every_series_it_belongs_to),
        cmocka_unit_test(requests_that_got_no_token_are_counted_by_how_they_ended),
        cmocka_unit_test(slow_requests_miss_their_targets),
        cmocka_unit_test(workers_and_state_are_those_of_the_last_scrape),
        cmocka_unit_test(promises_and_predictions_are_shown_per_tier),
        cmocka_unit_test(http_exchanges_are_counted_by_route_and_status),
        cmocka_unit_test(every_histogram_adds_up_after_random_traffic),
        cmocka_unit_test(creation_survives_every_failed_allocation),
        cmocka_unit_test(counting_is_cheap_enough_for_every_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
