/* tests/unit/bench_load_test.c - the load generator without a network: streams, options, plans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "bench/load_options.h"
#include "bench/load_plan.h"
#include "bench/load_run.h"
#include "bench/load_sse.h"
#include "bench/run_file.h"

/* ---- streams ---- */

struct seen {
    uint32_t chunks, texts, choices, finished, ends, errors;
    uint32_t prompt, completion, cached;
    char error[LOAD_TEXT_MAX];
};

static void on_chunk(void *arg, const struct load_chunk *c)
{
    struct seen *s = arg;

    s->chunks++;
    s->texts += c->has_text;
    s->choices += c->has_choice;
    s->finished += c->finished;
    s->ends += c->is_end;
    s->errors += c->is_error;
    if (c->has_usage) {
        s->prompt = c->prompt_tokens;
        s->completion = c->completion_tokens;
        s->cached = c->cached_tokens;
    }
    if (c->is_error)
        snprintf(s->error, sizeof(s->error), "%s", c->error);
}

/* In pieces of `step` bytes. */
static enum err feed(const char *text, size_t len, size_t step, struct seen *out)
{
    struct load_sse s = {.after_cr = false};
    enum err err = ERR_OK;

    *out = (struct seen){0};
    for (size_t i = 0; i < len && err == ERR_OK; i += step)
        err = load_sse_feed(&s, text + i, len - i < step ? len - i : step, on_chunk, out);
    load_sse_fini(&s);
    return err;
}

static const char stream[] =
    ": a comment\n\n"
    "data: "
    "{\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
    "\"finish_reason\":null}]}\n\n"
    "event: message\nid: 7\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a "
    "\\\"quoted\\\" "
    "word\"}}],\"usage\":null}\n\n"
    "data:{\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"b\"}}]}\r\n\r\n"
    "data: {\"choices\":[{\"text\":\"c\",\ndata: \"index\":0,\"finish_reason\":\"length\"}]}\n\n"
    "data: "
    "{\"choices\":[],\"usage\":{\"prompt_tokens\":512,\"completion_tokens\":3,\"total_tokens\":515,"
    "\"prompt_tokens_details\":{\"cached_tokens\":64}}}\r\r"
    "data: [DONE]\n\n";

static void a_stream_reads_the_same_wherever_it_is_split(void **state)
{
    (void)state;
    for (size_t step = 1; step <= sizeof(stream); step++) {
        struct seen s;

        assert_int_equal(feed(stream, sizeof(stream) - 1, step, &s), ERR_OK);
        assert_int_equal(s.chunks, 6);
        assert_int_equal(s.texts, 3); /* the role alone is no token */
        assert_int_equal(s.choices, 4);
        assert_int_equal(s.finished, 1);
        assert_int_equal(s.ends, 1);
        assert_int_equal(s.errors, 0);
        assert_int_equal(s.prompt, 512);
        assert_int_equal(s.completion, 3);
        assert_int_equal(s.cached, 64);
    }
    assert_int_equal(mem_live(), 0);
}

static void an_error_event_is_told_with_its_text(void **state)
{
    static const char text[] = "data: {\"error\":{\"message\":\"worker \\\"x\\\" lost\\u0007\","
                               "\"type\":\"server_error\"}}\n\n";
    struct seen s;

    (void)state;
    assert_int_equal(feed(text, sizeof(text) - 1, 3, &s), ERR_OK);
    assert_int_equal(s.errors, 1);
    assert_non_null(strstr(s.error, "lost"));
}

static void broken_events_are_refused_and_never_read_past_their_end(void **state)
{
    static const char *const bad[] = {
        "data: \n\n",
        "data: hello\n\n",
        "data: {\n\n",
        "data: {\"a\n\n",
        "data: {\"a\\\n\n",
        "data: {\"a\":\n\n",
        "data: {\"a\":1\n\n",
        "data: {\"a\":1]\n\n",
        "data: {\"a\":1}}\n\n",
        "data: {\"a\":1,}\n\n",
        "data: {\"a\":[1,]}\n\n",
        "data: {\"a\":.}\n\n",
        "data: {a:1}\n\n",
        "data: [1]\n\n",
        "data: {\"choices\":[{\"text\":\"\x01\"}]}\n\n",
    };
    char deep[4 * LOAD_DEPTH_MAX];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct seen s;

        assert_int_equal(feed(bad[i], strlen(bad[i]), 1, &s), ERR_BAD_FRAME);
        assert_int_equal(s.chunks, 0);
    }
    memset(deep, '[', sizeof(deep));
    memcpy(deep, "{\"a\":", 5);
    assert_int_equal(load_chunk_read(deep, sizeof(deep), &(struct load_chunk){0}), ERR_BAD_FRAME);
    /* every cut of a good object is a broken one */
    for (size_t n = 0; n < 60; n++) {
        char *copy = mem_try_strndup(
            "{\"choices\":[{\"text\":\"abc\",\"finish_reason\":null}],\"u\":-1.5e3}", n);
        struct load_chunk c;

        assert_non_null(copy);
        assert_int_equal(load_chunk_read(copy, n, &c), ERR_BAD_FRAME);
        mem_free(copy);
    }
}

static void endless_lines_and_events_hit_a_bound(void **state)
{
    static char line[64 * 1024];
    struct load_sse s = {.after_cr = false};
    struct seen seen = {0};
    enum err err = ERR_OK;
    size_t fed = 0;

    (void)state;
    memset(line, 'x', sizeof(line));
    for (; err == ERR_OK && fed < 10u * LOAD_EVENT_MAX; fed += sizeof(line))
        err = load_sse_feed(&s, line, sizeof(line), on_chunk, &seen);
    assert_int_equal(err, ERR_LIMIT);
    assert_true(fed <= LOAD_EVENT_MAX + sizeof(line));
    load_sse_fini(&s);
    memcpy(line, "data: ", 6);
    line[sizeof(line) - 1] = '\n';
    for (fed = 0, err = ERR_OK; err == ERR_OK && fed < 10u * LOAD_EVENT_MAX; fed += sizeof(line))
        err = load_sse_feed(&s, line, sizeof(line), on_chunk, &seen);
    assert_int_equal(err, ERR_LIMIT);
    load_sse_fini(&s);
    assert_int_equal(mem_live(), 0);
}

/* ---- options ---- */

static enum err parse(struct load_options *o, struct err_msg *msg, int argc,
                      const char *const *argv)
{
    return load_options_parse(argc, (char **)(uintptr_t)argv, msg, o);
}

#define PARSE(o, msg, ...)                                                       \
    parse(o, msg, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), \
          (const char *[]){__VA_ARGS__})

static void tiers_have_their_known_targets_unless_told_otherwise(void **state)
{
    struct load_options o;
    struct err_msg msg = {""};

    (void)state;
    assert_int_equal(PARSE(&o, &msg, "--slo", "silver=900/45,mine=7000/70",
                           "--tiers=gold=20,silver=30,mine=50", "http://h:8000/v1/", "--rate",
                           "5,10.5", "--weight", "mine=3", "--key", "gold=s3cret", "--key",
                           "other"),
                     ERR_OK);
    assert_int_equal(o.n_tiers, 3);
    assert_true(o.tier[0].ttft_s == 0.5 && o.tier[0].tbt_s == 0.03 && o.tier[0].weight == 4);
    assert_true(fabs(o.tier[1].ttft_s - 0.9) < 1e-12 && fabs(o.tier[1].tbt_s - 0.045) < 1e-12);
    assert_true(o.tier[2].weight == 3 && fabs(o.tier[2].ttft_s - 7) < 1e-12);
    assert_string_equal(o.tier[0].key, "s3cret");
    assert_string_equal(o.key, "other");
    assert_string_equal(o.url.host, "h");
    assert_string_equal(o.url.port, "8000");
    assert_string_equal(o.url.base, "");
    assert_true(o.n_rates == 2 && o.rate[1] == 10.5);
    assert_true(fabs(o.lag_bound_s - 0.005) < 1e-12);
}

static void a_first_token_target_may_grow_with_the_prompt(void **state)
{
    struct load_options o;

    (void)state;
    assert_int_equal(PARSE(&o, NULL, "http://h", "--rate", "1", "--slo", "500/30", "--ttft-factor",
                           "3", "--isolated-ms", "2,0.02,0.000001"),
                     ERR_OK);
    assert_true(fabs(load_ttft_target(&o, &o.tier[0], 1000) - (0.5 + 3 * 0.023)) < 1e-9);
}

static void wrong_options_are_refused_with_their_name(void **state)
{
    static const struct {
        const char *a, *b, *says;
    } bad[] = {{"--rate", "0", "--rate"},
               {"--rate", "nan", "--rate"},
               {"--rate", "1,,2", "--rate"},
               {"--seed", "1.5", "--seed"},
               {"--arrival", "sometimes", "--arrival"},
               {"--tiers", "gold", "--tiers"},
               {"--tiers", "gold=1,gold=2", "--tiers"},
               {"--tiers", "go\"ld=1", "--tiers"},
               {"--tiers", "unknown=1", "--slo"},
               {"--slo", "gold=1/2", "--slo"},
               {"--slo", "100", "--slo"},
               {"--cancel-rate", "1.1", "--cancel-rate"},
               {"--key", "a\nb", "--key"},
               {"--extra-body", "[1]", "--extra-body"},
               {"--extra-body", "{}", "--extra-body"},
               {"--find-rate", "best", "--find-rate"},
               {"--endpoint", "chat", "--prompts"},
               {"--nonsense", "1", "--nonsense"},
               {"--warmup", "5", "--rate"}};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct load_options o;
        struct err_msg msg = {""};
        bool no_rate = strcmp(bad[i].a, "--warmup") == 0;

        assert_int_equal(
            PARSE(&o, &msg, "http://h:1", no_rate ? "--json" : "--rate=1", bad[i].a, bad[i].b),
            ERR_INVALID);
        assert_non_null(strstr(msg.text, bad[i].says));
    }
}

static void urls_are_http_with_host_and_port_alone(void **state)
{
    static const char *const bad[] = {"",
                                      "h:80",
                                      "http://",
                                      "http://:80",
                                      "http://h:",
                                      "http://h:0x1",
                                      "http://h:70000",
                                      "http://h/?a=b",
                                      "http://h/a b",
                                      "ftp://h",
                                      "http://h/a\r\nX: y"};
    struct load_url u;
    struct err_msg msg = {""};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(load_url_parse(bad[i], &u, NULL), ERR_INVALID);
    assert_int_equal(load_url_parse("https://h", &u, &msg), ERR_UNSUPPORTED);
    assert_non_null(strstr(msg.text, "https"));
    assert_int_equal(load_url_parse("http://[::1]:9000/team/v1", &u, NULL), ERR_OK);
    assert_string_equal(u.host, "::1");
    assert_string_equal(u.port, "9000");
    assert_string_equal(u.base, "/team");
}

/* ---- plans ---- */

static struct bench_trace_row rows[3] = {
    {.at_s = 0, .n_prompt = 1024, .n_out = 10, .first_block = 0, .n_blocks = 2},
    {.at_s = 1, .n_prompt = 1100, .n_out = 20, .first_block = 2, .n_blocks = 2},
    {.at_s = 2, .n_prompt = 30, .n_out = 1}};
static uint64_t blocks[4] = {7, 8, 7, 9};
static const struct bench_trace trace = {
    .name = "tiny", .v = rows, .n = 3, .blocks = blocks, .n_blocks = 4, .seconds = 3};
static const struct load_server server = {.model = "m\"x", .vocab = 5000, .max_context = 1090};

static void a_trace_is_sped_up_repeated_and_cut(void **state)
{
    struct load_options o;
    struct load_plan p;

    (void)state;
    assert_int_equal(PARSE(&o, NULL, "http://h", "--rate", "1"), ERR_OK);
    assert_int_equal(load_plan_make(&o, &server, &trace, 2, 2, false, NULL, &p), ERR_OK);
    assert_int_equal(p.n, 4); /* 0, 0.5, 1, and again 1.5 */
    assert_true(p.v[3].at_s == 1.5 && p.v[3].n_prompt == 1024);
    assert_true(p.rate == 2);
    assert_int_equal(p.n_too_long, 1);
    load_plan_free(&p);
    o.max_requests = 2;
    o.length_scale = 0.1;
    assert_int_equal(load_plan_make(&o, &server, &trace, 2, 0, false, NULL, &p), ERR_OK);
    assert_int_equal(p.n, 2);
    assert_int_equal(p.v[1].n_prompt, 110);
    assert_int_equal(p.v[1].n_out, 2);
    load_plan_free(&p);
    assert_int_equal(mem_live(), 0);
}

/* A trace that is quiet for its first half: a probe of its beginning would send almost nothing. */
static void a_probe_samples_all_of_a_trace_and_not_its_beginning(void **state)
{
    enum { N = 1010 };
    static struct bench_trace_row v[N];
    static const struct bench_trace uneven = {.name = "uneven", .v = v, .n = N, .seconds = 1000};
    struct load_options o;
    struct load_plan p;
    double last = 0;

    (void)state;
    for (int i = 0; i < N; i++)
        v[i] = (struct bench_trace_row){
            .at_s = i < 10 ? i * 50.0 : 500 + (i - 10) * 0.5, .n_prompt = 10, .n_out = 2};
    assert_int_equal(PARSE(&o, NULL, "http://h", "--rate", "1"), ERR_OK);
    assert_int_equal(load_plan_make(&o, &server, &uneven, 1, 100, false, NULL, &p), ERR_OK);
    assert_int_equal(p.n, 2);
    load_plan_free(&p);
    assert_int_equal(load_plan_make(&o, &server, &uneven, 1, 100, true, NULL, &p), ERR_OK);
    assert_true(p.n > 80 && p.n < 120); /* the mean is 1.01 a second */
    assert_int_equal(p.n_windows, 12);
    assert_true(fabs(p.share - 0.1) < 1e-9);
    for (size_t i = 0; i < p.n; i++) {
        assert_true(p.v[i].at_s >= last && p.v[i].at_s < 100);
        assert_true(i == 0 || p.v[i].line > p.v[i - 1].line); /* no row twice */
        last = p.v[i].at_s;
    }
    assert_int_equal(p.v[0].line, 0);
    assert_true(p.v[p.n - 1].line >= N - 3);
    load_plan_free(&p);
    assert_int_equal(load_plan_make(&o, &server, &uneven, 1, 2000, true, NULL, &p), ERR_OK);
    assert_int_equal(p.n, 2 * N); /* shorter than the run: all of it, twice */
    load_plan_free(&p);
    assert_int_equal(mem_live(), 0);
}

static char *body_of(struct load_plan *p, size_t i)
{
    struct buf b = BUF_INIT;
    char *copy, *blank;
    unsigned length = 0;

    assert_int_equal(load_plan_bytes(p, i, &b), ERR_OK);
    assert_int_equal(buf_append(&b, "", 1), ERR_OK);
    blank = strstr(buf_bytes(&b), "\r\n\r\n");
    assert_non_null(blank);
    assert_int_equal(
        sscanf(strstr(buf_bytes(&b), "Content-Length: "), "Content-Length: %u", &length), 1);
    assert_int_equal(length, strlen(blank + 4));
    copy = mem_try_strdup(blank + 4);
    buf_free(&b);
    return copy;
}

static size_t shared(const char *a, const char *b)
{
    size_t commas = 0;

    for (; *a != '\0' && *a == *b; a++, b++)
        commas += *a == ',';
    return commas;
}

static void prompts_share_the_blocks_that_the_trace_says_they_share(void **state)
{
    struct load_options o;
    struct load_plan p;
    char *a, *b, *again;

    (void)state;
    assert_int_equal(PARSE(&o, NULL, "http://h", "--rate", "1"), ERR_OK);
    assert_int_equal(load_plan_make(&o, &server, &trace, 1, 0, false, NULL, &p), ERR_OK);
    a = body_of(&p, 0);
    b = body_of(&p, 1);
    again = body_of(&p, 0);
    assert_string_equal(a, again); /* the same seed, the same bytes */
    assert_int_equal(strncmp(a, "{\"model\":\"m\\\"x\",\"prompt\":[", 25), 0);
    /* one comma behind the model, then 512 tokens of block 7 */
    assert_in_range(shared(a, b), 512, 514);
    assert_non_null(strstr(b, "],\"max_tokens\":20,"));
    assert_non_null(strstr(b, "\"ignore_eos\":true"));
    assert_null(strstr(b, "service_tier"));
    mem_free(a);
    mem_free(b);
    mem_free(again);
    load_plan_free(&p);
}

static void shared_prefixes_are_as_long_as_asked_and_tiers_are_named(void **state)
{
    struct load_options o;
    struct load_plan p;
    char *a, *b;

    (void)state;
    assert_int_equal(PARSE(&o, NULL, "http://h", "--rate", "1", "--prefix-tokens", "100", "--tiers",
                           "gold=1", "--extra-body", "{\"top_k\":1}"),
                     ERR_OK);
    assert_int_equal(load_plan_make(&o, &server, &trace, 1, 0, false, NULL, &p), ERR_OK);
    a = body_of(&p, 0);
    b = body_of(&p, 1);
    assert_in_range(shared(a, b), 100, 102);
    assert_non_null(strstr(a, "\"service_tier\":\"gold\""));
    assert_non_null(strstr(a, ",\"top_k\":1}"));
    mem_free(a);
    mem_free(b);
    load_plan_free(&p);
}

static void growth_of_requests_in_flight_is_told_from_noise(void **state)
{
    double x[40], flat[40], grows[40], half;

    (void)state;
    for (int i = 0; i < 40; i++) {
        x[i] = i * 0.25;
        flat[i] = 20 + (i * 7919 % 11) - 5;
        grows[i] = flat[i] + 6 * x[i];
    }
    assert_true(fabs(load_slope(x, flat, 40, &half)) < half + 0.2);
    assert_true(fabs(load_slope(x, grows, 40, &half) - 6) < 0.5);
    assert_true(load_slope(x, grows, 40, &half) - half > 4);
    assert_true(load_slope(x, grows, 3, &half) == 0);
}

/* ---- runs in files ---- */

static void figures_come_back_from_a_file_and_from_a_report_page(void **state)
{
    struct bench_run *r = mem_try_calloc(1, sizeof(*r)), *back[2] = {NULL, NULL};
    const struct bench_run *runs[1] = {r};
    char path[] = "/tmp/bench_load_test.XXXXXX";
    int fd = mkstemp(path);
    size_t n = 0;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(bench_run_init(r, 2), ERR_OK);
    snprintf(r->label, sizeof(r->label), "</script>\"x");
    snprintf(r->tier[1].name, sizeof(r->tier[1].name), "bronze");
    for (int i = 0; i < 100; i++) {
        struct bench_outcome o = {.tier = (uint32_t)i % 2,
                                  .fate = i % 5 == 0 ? BENCH_REFUSED : BENCH_DONE,
                                  .measured = true,
                                  .n_prompt = 10,
                                  .n_out = 3,
                                  .intended_s = i * 0.1,
                                  .sent_s = i * 0.1,
                                  .ttft_s = 0.01 * i,
                                  .e2e_s = 0.01 * i + 0.1,
                                  .ttft_target_s = 0.5,
                                  .tbt_target_s = 1};

        bench_run_add(r, &o);
    }
    bench_run_finish(r, 10);
    assert_int_equal(bench_runs_save(path, runs, 1, NULL), ERR_OK);
    assert_int_equal(bench_runs_load(path, back, 2, &n, NULL), ERR_OK);
    assert_int_equal(bench_html_write(path, &(struct bench_page){.title = "t"}, runs, 1, NULL),
                     ERR_OK);
    assert_int_equal(bench_runs_load(path, back, 2, &n, NULL), ERR_OK);
    assert_int_equal(n, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(back[i]->label, r->label);
        assert_string_equal(back[i]->tier[1].name, "bronze");
        assert_int_equal(back[i]->all.kept, r->all.kept);
        assert_true(bench_run_goodput(back[i]) == bench_run_goodput(r));
        assert_true(bench_hist_quantile(&back[i]->all.ttft, 0.9) ==
                    bench_hist_quantile(&r->all.ttft, 0.9));
        assert_int_equal(back[i]->n_bins, r->n_bins);
        assert_memory_equal(back[i]->bins, r->bins, r->n_bins * 4 * sizeof(double));
        bench_run_free(back[i]);
        mem_free(back[i]);
    }
    bench_run_free(r);
    mem_free(r);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

static void damaged_run_files_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "hello",
        "[]",
        "{\"runs\":3}",
        "{\"runs\":[{}]}",
        "{\"runs\":[{\"tiers\":[{\"n\":1,\"kept\":2}],\"bin_s\":1}]}",
        "{\"runs\":[{\"tiers\":[{}],\"bin_s\":0}]}",
        "{\"runs\":[{\"tiers\":[{}],\"bin_s\":1,\"bins\":[1,2,3]}]}",
        "{\"runs\":[{\"tiers\":[{\"ttft\":{\"count\":[99999,1]}}],\"bin_s\":1}]}",
        "{\"runs\":[{\"tiers\":[{\"ttft\":{\"count\":[-1,1]}}],\"bin_s\":1}]}",
        "{\"runs\":[{\"bin_s\":1,\"tiers\":[{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}]"
        "}"};
    char path[] = "/tmp/bench_load_test.XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct bench_run *back[1];
        struct err_msg msg = {""};
        size_t n = 0;

        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(pwrite(fd, bad[i], strlen(bad[i]), 0), strlen(bad[i]));
        assert_int_equal(bench_runs_load(path, back, 1, &n, &msg), ERR_INVALID);
        assert_int_equal(n, 0);
        assert_non_null(strstr(msg.text, path));
    }
    close(fd);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_reads_the_same_wherever_it_is_split),
        cmocka_unit_test(an_error_event_is_told_with_its_text),
        cmocka_unit_test(broken_events_are_refused_and_never_read_past_their_end),
        cmocka_unit_test(endless_lines_and_events_hit_a_bound),
        cmocka_unit_test(tiers_have_their_known_targets_unless_told_otherwise),
        cmocka_unit_test(a_first_token_target_may_grow_with_the_prompt),
        cmocka_unit_test(wrong_options_are_refused_with_their_name),
        cmocka_unit_test(urls_are_http_with_host_and_port_alone),
        cmocka_unit_test(a_trace_is_sped_up_repeated_and_cut),
        cmocka_unit_test(a_probe_samples_all_of_a_trace_and_not_its_beginning),
        cmocka_unit_test(prompts_share_the_blocks_that_the_trace_says_they_share),
        cmocka_unit_test(shared_prefixes_are_as_long_as_asked_and_tiers_are_named),
        cmocka_unit_test(growth_of_requests_in_flight_is_told_from_noise),
        cmocka_unit_test(figures_come_back_from_a_file_and_from_a_report_page),
        cmocka_unit_test(damaged_run_files_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
