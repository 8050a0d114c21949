/* tests/unit/bench_html_test.c - the report page: bench_html_write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "bench/outcome.h"

enum { RUNS = 6 };

/* Six runs: two policies at two simulated rates, one live run, one without any request. */
static struct bench_run *runs[RUNS];

static void fill(struct bench_run *r, const char *source, const char *policy, double rate)
{
    static const char *const names[] = {"gold", "silver", "bronze"};

    assert_int_equal(bench_run_init(r, 3), ERR_OK);
    snprintf(r->source, sizeof(r->source), "%s", source);
    snprintf(r->policy, sizeof(r->policy), "%s", policy);
    snprintf(r->trace, sizeof(r->trace), "azure-conv");
    r->rate = rate;
    for (uint32_t t = 0; t < 3; t++) {
        snprintf(r->tier[t].name, sizeof(r->tier[t].name), "%s", names[t]);
        r->tier[t].weight = t == 0 ? 4 : t == 1 ? 2 : 1;
        r->tier[t].ttft_s = t == 0 ? 0.5 : t == 1 ? 2 : 10;
        r->tier[t].tbt_s = 0.05;
    }
}

static void add_requests(struct bench_run *r, uint32_t n, uint32_t refused_of_ten)
{
    for (uint32_t i = 0; i < n; i++) {
        bool refused = i % 10 < refused_of_ten;
        struct bench_outcome o = {.tier = i % 3,
                                  .fate = refused ? BENCH_REFUSED : BENCH_DONE,
                                  .measured = true,
                                  .admitted = !refused,
                                  .n_prompt = 100 + i,
                                  .n_out = 20,
                                  .intended_s = i / r->rate,
                                  .sent_s = i / r->rate,
                                  .ttft_s = refused ? 0 : 0.05 + 0.001 * (i % 97),
                                  .e2e_s = refused ? 0 : 0.6 + 0.001 * (i % 97),
                                  .ttft_target_s = 0.5,
                                  .tbt_target_s = 0.05};

        bench_run_add(r, &o);
    }
    bench_run_finish(r, n / r->rate);
}

static int set_up(void **state)
{
    static const double rate[RUNS] = {10, 20, 10, 20, 10, 40};

    (void)state;
    for (int i = 0; i < RUNS; i++) {
        runs[i] = mem_try_calloc(1, sizeof(*runs[i]));
        assert_non_null(runs[i]);
        fill(runs[i], i == 4 ? "bench" : "simulate", i < 2 || i == 4 ? "baton" : "round-robin",
             rate[i]);
        add_requests(runs[i], i == 5 ? 0 : 300, (uint32_t)i);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < RUNS; i++) {
        bench_run_free(runs[i]);
        mem_free(runs[i]);
    }
    assert_int_equal(mem_live(), 0);
    return 0;
}

/* The page as text; mem_free. */
static char *write_page(const char *title, size_t n)
{
    char path[] = "/tmp/bench_html_test.XXXXXX";
    int fd = mkstemp(path);
    size_t room = 4u << 20, len;
    char *text = mem_try_calloc(1, room);
    FILE *f;

    assert_true(fd >= 0 && text != NULL);
    close(fd);
    assert_int_equal(bench_html_write(path, &(struct bench_page){.title = title},
                                      (const struct bench_run *const *)runs, n, NULL),
                     ERR_OK);
    f = fopen(path, "r");
    assert_non_null(f);
    len = fread(text, 1, room - 1, f);
    fclose(f);
    unlink(path);
    assert_true(len > 1000 && len < room - 1);
    assert_non_null(strstr(text, "</html>"));
    return text;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;

    for (const char *p = strstr(text, what); p != NULL; p = strstr(p + 1, what))
        n++;
    return n;
}

static void the_page_is_whole_and_reads_nothing_from_elsewhere(void **state)
{
    char *page = write_page("A run", RUNS);

    (void)state;
    assert_int_equal(count(page, "<section>"), count(page, "</section>"));
    assert_int_equal(count(page, "<table"), count(page, "</table>"));
    assert_int_equal(count(page, "<svg"), count(page, "</svg>"));
    assert_int_equal(count(page, "<details"), RUNS + RUNS - 1);
    assert_int_equal(count(page, "http"), 0);
    assert_int_equal(count(page, "src="), 0);
    assert_int_equal(count(page, "url("), 0);
    assert_int_equal(count(page, "<script"), 1); /* data, not a program */
    assert_int_equal(count(page, "<script type=\"application/json\""), 1);
    mem_free(page);
}

static void names_from_outside_are_escaped(void **state)
{
    char *page;

    (void)state;
    snprintf(runs[0]->label, sizeof(runs[0]->label), "<script>alert('1')</script>");
    snprintf(runs[0]->tier[0].name, sizeof(runs[0]->tier[0].name), "g\"o<l>d&");
    snprintf(runs[0]->trace, sizeof(runs[0]->trace), "a</em>b");
    snprintf(runs[0]->note, sizeof(runs[0]->note), "<b>note\x01");
    page = write_page("</title><script>", RUNS);
    assert_int_equal(count(page, "<script"), 1);
    assert_int_equal(count(page, "</em>b"), 0);
    assert_int_equal(count(page, "<b>note"), 0);
    assert_non_null(strstr(page, "g&quot;o&lt;l&gt;d&amp;"));
    mem_free(page);
}

static void runs_without_requests_show_no_nan(void **state)
{
    char *page = write_page("empty", RUNS);

    (void)state;
    assert_int_equal(count(page, "nan"), 0);
    assert_int_equal(count(page, ">inf"), 0);
    mem_free(page);
}

static void a_simulated_and_a_live_run_of_one_load_are_compared_and_others_are_not(void **state)
{
    char *page = write_page("pair", RUNS);

    (void)state;
    assert_int_equal(count(page, "Simulated and live</h2>"), 1);
    assert_int_equal(count(page, "baton (simulated) and baton (live)"), 1);
    assert_int_equal(count(page, "round-robin (simulated) and baton (live)"), 0);
    mem_free(page);
    snprintf(runs[4]->label, sizeof(runs[4]->label), "the staging cluster");
    page = write_page("no simulation of this name: all of them", RUNS);
    assert_int_equal(count(page, " and the staging cluster (live)"), 2);
    mem_free(page);
    page = write_page("no live run", 4);
    assert_int_equal(count(page, "Simulated and live</h2>"), 0);
    mem_free(page);
}

static void curves_are_drawn_only_where_rates_differ(void **state)
{
    char *page = write_page("curves", 4);

    (void)state;
    assert_int_equal(count(page, "Over the offered rate"), 1);
    assert_int_equal(count(page, "Side by side"), 1);
    mem_free(page);
    page = write_page("one", 1);
    assert_int_equal(count(page, "Over the offered rate"), 0);
    assert_int_equal(count(page, "Side by side"), 0);
    mem_free(page);
}

/* Ten policies at two loads, given in a bad order, the more the name says the less is kept. */
static void policies_stand_baton_first_then_by_what_they_kept_and_few_have_a_colour(void **state)
{
    enum { N = 20 };
    static const char *const names[N / 2] = {
        "p8", "p1", "p7", "baton-clairvoyant", "p2", "p6", "p3", "baton", "p5", "p4"};
    struct bench_run *v[N];
    char *page, *at, path[] = "/tmp/bench_html_test.XXXXXX";
    size_t room = 8u << 20;
    int fd = mkstemp(path);
    FILE *f;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    for (int i = 0; i < N; i++) {
        const char *name = names[i / 2];
        int missed = name[0] == 'p' ? 10 * (name[1] - '0') : 0;

        v[i] = mem_try_calloc(1, sizeof(*v[i]));
        assert_non_null(v[i]);
        fill(v[i], "simulate", name, i % 2 == 0 ? 20 : 10);
        snprintf(v[i]->label, sizeof(v[i]->label), "one-cluster");
        add_requests(v[i], 300, 0);
        for (uint32_t t = 0; t < v[i]->n_tiers; t++)
            v[i]->tier[t].kept = v[i]->tier[t].n - v[i]->tier[t].n * (uint64_t)missed / 100;
        bench_run_finish(v[i], 30);
    }
    assert_int_equal(bench_html_write(path,
                                      &(struct bench_page){.title = "t", .command = "baton <x>"},
                                      (const struct bench_run *const *)v, N, NULL),
                     ERR_OK);
    page = mem_try_calloc(1, room);
    f = fopen(path, "r");
    assert_true(page != NULL && f != NULL);
    assert_true(fread(page, 1, room - 1, f) > 1000);
    fclose(f);
    unlink(path);
    at = strstr(page, "At a glance");
    for (int k = 0; k < N / 2; k++) { /* in this table, and so everywhere */
        static const char *const order[N / 2] = {"<th>baton</th>", "<th>baton-clairvoyant</th>",
                                                 "<th>p1</th>",    "<th>p2</th>",
                                                 "<th>p3</th>",    "<th>p4</th>",
                                                 "<th>p5</th>",    "<th>p6</th>",
                                                 "<th>p7</th>",    "<th>p8</th>"};

        assert_non_null(at);
        at = strstr(at, order[k]);
        assert_non_null(at);
    }
    assert_non_null(strstr(page, "p7, p8</span>")); /* the crowd, under one key */
    assert_null(strstr(page, "baton, one-cluster</th>"));
    assert_non_null(strstr(page, "baton, one-cluster (simulated) on"));
    assert_non_null(strstr(page, "<code><span>baton</span> <span>&lt;x&gt;</span></code>"));
    assert_true(strstr(page, ", 10 requests/s</h3>") < strstr(page, ", 20 requests/s</h3>"));
    mem_free(page);
    for (int i = 0; i < N; i++) {
        bench_run_free(v[i]);
        mem_free(v[i]);
    }
}

static void the_same_runs_give_the_same_bytes(void **state)
{
    char *a = write_page("x", RUNS), *b = write_page("x", RUNS);

    (void)state;
    assert_string_equal(a, b);
    mem_free(a);
    mem_free(b);
}

static void a_path_that_cannot_be_written_is_said(void **state)
{
    struct err_msg msg = {""};

    (void)state;
    assert_int_equal(bench_html_write("/nonexistent/x.html", &(struct bench_page){.title = "x"},
                                      (const struct bench_run *const *)runs, 1, &msg),
                     ERR_IO);
    assert_non_null(strstr(msg.text, "/nonexistent/x.html"));
}

static void no_memory_is_an_error_and_leaks_nothing(void **state)
{
    size_t live = mem_live();

    (void)state;
    for (long i = 0; i < 12; i++) {
        mem_fail_at(i);
        (void)!bench_html_write("/dev/null", &(struct bench_page){.title = "x"},
                                (const struct bench_run *const *)runs, RUNS, NULL);
        mem_fail_at(-1);
        assert_int_equal(mem_live(), live);
    }
    mem_fail_at(0);
    assert_int_equal(bench_html_write("/dev/null", &(struct bench_page){.title = "x"},
                                      (const struct bench_run *const *)runs, RUNS, NULL),
                     ERR_NOMEM);
    mem_fail_at(-1);
}

#define PAGE_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        PAGE_TEST(the_page_is_whole_and_reads_nothing_from_elsewhere),
        PAGE_TEST(names_from_outside_are_escaped),
        PAGE_TEST(runs_without_requests_show_no_nan),
        PAGE_TEST(a_simulated_and_a_live_run_of_one_load_are_compared_and_others_are_not),
        PAGE_TEST(curves_are_drawn_only_where_rates_differ),
        PAGE_TEST(policies_stand_baton_first_then_by_what_they_kept_and_few_have_a_colour),
        PAGE_TEST(the_same_runs_give_the_same_bytes),
        PAGE_TEST(a_path_that_cannot_be_written_is_said),
        PAGE_TEST(no_memory_is_an_error_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
