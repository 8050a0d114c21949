/* tests/unit/daemon_status_test.c - what `baton status` makes of the answers of a server, and of other bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "daemon/status_get.h"
#include "daemon/status_show.h"

static const char state_text[] =
    "{\"model\":\"m\\u001b[2J\",\"version\":\"1\",\"policy\":\"baton\",\"uptime_s\":3725,"
    "\"draining\":false,"
    "\"planner\":{\"elastic\":true,\"prefill\":2,\"decode\":1,\"want_prefill\":1,\"want_decode\":2,"
    "\"flips\":3,\"reversals\":1},"
    "\"tiers\":[{\"name\":\"gold\",\"ttft_ms\":500,\"tbt_ms\":30,\"queued\":1,\"running\":2,"
    "\"arrived\":100,\"admitted\":90,\"kept\":80,\"broken\":10,\"refused\":{\"ttft\":7,\"price\":3}"
    ","
    "\"canceled\":0,\"downgraded\":0,\"margin\":0.25}],"
    "\"fallback\":\"token load: coverage of prefill was 0.62\","
    "\"predictor\":[{\"tier\":\"all\",\"stage\":\"prefill\",\"n\":900,\"bias\":-0.02,\"mape\":0.04,"
    "\"coverage\":0.91,\"worst\":0.84,\"drift\":true,\"lost\":false}],"
    "\"workers\":[{\"name\":\"decode-0\",\"role\":\"decode\",\"class\":\"k\",\"state\":"
    "\"flipping\","
    "\"tp\":4,\"kv_paths\":\"staged-shm,tcp\",\"blocks\":100,\"free_blocks\":25,\"running\":7,"
    "\"waiting\":1,\"parked\":2,\"step_"
    "ms\":12.5,"
    "\"bias\":1.2}]}";

static void the_state_of_a_server_is_shown_with_nothing_a_terminal_would_obey(void **state)
{
    struct status s;
    struct buf out = BUF_INIT;

    (void)state;
    assert_int_equal(status_parse_state(state_text, strlen(state_text), &s), ERR_OK);
    assert_string_equal(s.model, "m?[2J");
    assert_int_equal(s.tiers[0].refused, 10);
    assert_true(status_attainment(&s.tiers[0]) == 0.8);
    assert_int_equal(s.workers[0].parked, 2);
    assert_int_equal(s.workers[0].tp, 4);
    assert_int_equal(s.want_decode, 2);
    assert_int_equal(status_show_table(&s, NULL, 0, &out), ERR_OK);
    assert_int_equal(buf_append(&out, "", 1), ERR_OK);
    assert_null(strchr(buf_bytes(&out), '\x1b'));
    for (size_t i = 0; i < 9; i++) {
        static const char *const words[9] = {"80.0%",
                                             "up 1:02:05",
                                             "flipping",
                                             "75.0%",
                                             "12.5 ms",
                                             "decode 1 (wanted 2)",
                                             "NOT TRUSTED: token load",
                                             "DRIFT",
                                             "staged-shm,tcp  k"};

        if (strstr(buf_bytes(&out), words[i]) == NULL)
            fail_msg("'%s' is missing in\n%s", words[i], buf_bytes(&out));
    }
    buf_free(&out);
    status_free(&s);
    assert_int_equal(mem_live(), 0);
}

static void the_object_can_be_read_by_the_reader_of_the_state(void **state)
{
    struct status s, again;
    struct buf out = BUF_INIT;

    (void)state;
    assert_int_equal(status_parse_state(state_text, strlen(state_text), &s), ERR_OK);
    snprintf(s.workers[0].name, sizeof(s.workers[0].name), "a\"b\\c");
    assert_int_equal(status_show_json(&s, &out), ERR_OK);
    assert_int_equal(status_parse_state(buf_bytes(&out), out.len, &again), ERR_OK);
    assert_string_equal(again.workers[0].name, "a\"b\\c");
    assert_int_equal(again.workers[0].tp, 4);
    assert_string_equal(again.workers[0].kv_paths, "staged-shm,tcp");
    assert_int_equal(again.tiers[0].kept, 80);
    assert_true(again.stages[0].drift);
    buf_free(&out);
    status_free(&s);
    status_free(&again);
    assert_int_equal(mem_live(), 0);
}

#define LINK(from, to, path)                                                           \
    "baton_kv_link_bytes_per_second{from=\"" from "\",to=\"" to "\",transport=\"" path \
    "\",lanes=\"x\"} 1e9\n"

static void figures_are_found_among_the_metrics(void **state)
{
    static const char text[] =
        "# HELP baton_x y\n"
        "baton_build_info{version=\"1\",backend=\"sim\",model=\"m\"} 1\n"
        "baton_promises_total{tier=\"slow\",result=\"kept\"} 5\n"
        "baton_promises_total{tier=\"fast\",result=\"kept\"} 30\n"
        "baton_promises_total{tier=\"fast\",result=\"broken\"} 10\n"
        "baton_tier_ttft_target_seconds{tier=\"fast\"} 0.5\n"
        "baton_tier_ttft_target_seconds{tier=\"slow\"} 2\n"
        "baton_prediction_coverage{tier=\"all\",stage=\"decode\"} 0.88\n"
        "baton_kv_blocks{role=\"decode\",worker=\"d\",state=\"free\"} 30\n"
        "baton_kv_blocks{role=\"decode\",worker=\"d\",state=\"owned\"} 70\n" LINK(
            "p", "d", "staged-shm") LINK("p", "d", "staged-shm") LINK("q", "d", "shm")
            LINK("d", "gone", "tcp") "baton_worker_up{role=\"decode\",worker=\"d\"} 1\n"
                                     "baton_worker_tp{role=\"decode\",worker=\"d\"} 2\n"
                                     "baton_planner_workers{role=\"prefill\"} 3\n"
                                     "baton_ttft_seconds_bucket{tier=\"fast\",le=\"+Inf\"} 9\n";
    struct status s;

    (void)state;
    assert_int_equal(status_parse_metrics(text, sizeof(text) - 1, &s), ERR_OK);
    assert_int_equal(s.n_tiers, 2);
    assert_string_equal(s.tiers[0].name, "fast"); /* the strictest first */
    assert_true(status_attainment(&s.tiers[0]) == 0.75);
    assert_true(s.stages[0].coverage == 0.88);
    assert_int_equal(s.n_workers, 1);
    assert_int_equal(s.workers[0].blocks, 100);
    assert_string_equal(s.workers[0].state, "ready");
    assert_int_equal(s.workers[0].tp, 2);
    assert_string_equal(s.workers[0].kv_paths, "staged-shm,shm,tcp"); /* each once */
    assert_int_equal(s.prefill, 3);
    status_free(&s);
    assert_int_equal(mem_live(), 0);
}

static void answers_of_others_are_refused(void **state)
{
    static const char *const texts[] = {
        "", "<html>", "[]", "{}", "{\"tiers\":", "node_load1 0.5\n", "a{b=\"",
    };
    static const char odd[] =
        "{\"tiers\":[1,{\"name\":7,\"kept\":-5,\"refused\":[1],\"queued\":1e300}],"
        "\"workers\":{},\"planner\":3}";
    struct status s;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(status_parse_state(texts[i], strlen(texts[i]), &s), ERR_BAD_FRAME);
        assert_int_equal(status_parse_metrics(texts[i], strlen(texts[i]), &s), ERR_BAD_FRAME);
        assert_int_equal(mem_live(), 0);
    }
    /* shapes that do not fit leave zeros, never more */
    assert_int_equal(status_parse_state(odd, strlen(odd), &s), ERR_OK);
    assert_int_equal(s.n_tiers, 1);
    assert_int_equal(s.tiers[0].kept, 0);
    assert_int_equal(s.tiers[0].queued, 0);
    status_free(&s);
}

static void an_address_that_is_none_is_named(void **state)
{
    static const struct {
        const char *url, *word;
    } cases[] = {{"https://a", "TLS"},
                 {"ftp://a", "HOST:PORT"},
                 {"", "HOST:PORT"},
                 {"a:b", "number"},
                 {"a:123456", "number"},
                 {"[::1", "HOST:PORT"},
                 {"127.0.0.1:1", "127.0.0.1:1"}};
    struct buf out = BUF_INIT;
    int status;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err_msg msg = {""};

        assert_int_not_equal(status_get(cases[i].url, "/", NULL, &status, &out, &msg), ERR_OK);
        if (strstr(msg.text, cases[i].word) == NULL)
            fail_msg("'%s' lacks '%s'", msg.text, cases[i].word);
    }
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_state_of_a_server_is_shown_with_nothing_a_terminal_would_obey),
        cmocka_unit_test(the_object_can_be_read_by_the_reader_of_the_state),
        cmocka_unit_test(figures_are_found_among_the_metrics),
        cmocka_unit_test(answers_of_others_are_refused),
        cmocka_unit_test(an_address_that_is_none_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
