/* daemon/stop.h, daemon/gen.h and daemon/refusal.h: what reaches the client, whatever order and from however many workers
 * tokens come. */
#include "daemon/gen.h"
#include "daemon/refusal.h"
#include "daemon/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

/* Push text in pieces of `cut` bytes; returns what came out. */
static char *run_stop(struct daemon_stop *s, const char *text, size_t cut, bool *stopped)
{
    static char out[512];
    struct buf b = BUF_INIT;
    bool hit = false;

    for (size_t at = 0; at < strlen(text) && !hit; at += cut) {
        size_t n = strlen(text) - at < cut ? strlen(text) - at : cut;

        assert_int_equal(daemon_stop_push(s, text + at, n, &b, &hit), ERR_OK);
    }
    if (!hit)
        assert_int_equal(daemon_stop_finish(s, &b), ERR_OK);
    *stopped = hit;
    memcpy(out, b.len > 0 ? buf_bytes(&b) : "", b.len);
    out[b.len] = '\0';
    buf_free(&b);
    daemon_stop_free(s);
    return out;
}

static void stop_string_is_found_at_every_cut(void **state)
{
    char *strings[] = {"END", "\n\n", "aab"};
    size_t lens[] = {3, 2, 3};
    bool hit;

    (void)state;
    for (size_t cut = 1; cut < 20; cut++) {
        struct daemon_stop s = {.strings = strings, .lens = lens, .n = 3};

        assert_string_equal(run_stop(&s, "one EN two END three", cut, &hit), "one EN two ");
        assert_true(hit);
        s = (struct daemon_stop){.strings = strings, .lens = lens, .n = 3, .keep = true};
        assert_string_equal(run_stop(&s, "x\ny\n\nz", cut, &hit), "x\ny\n\n");
        assert_true(hit);
        s = (struct daemon_stop){.strings = strings, .lens = lens, .n = 3};
        assert_string_equal(run_stop(&s, "aaab", cut, &hit),
                            "a"); /* the match starts inside a failed one */
        assert_true(hit);
        s = (struct daemon_stop){.strings = strings, .lens = lens, .n = 3};
        assert_string_equal(run_stop(&s, "nothing here EN", cut, &hit), "nothing here EN");
        assert_false(hit);
    }
    assert_int_equal(mem_live(), 0);
}

static void possible_start_of_a_stop_string_is_held_back(void **state)
{
    char *strings[] = {"STOP"};
    size_t lens[] = {4};
    struct daemon_stop s = {.strings = strings, .lens = lens, .n = 1};
    struct buf b = BUF_INIT;
    bool hit;

    (void)state;
    assert_int_equal(daemon_stop_push(&s, "abcST", 5, &b, &hit), ERR_OK);
    assert_int_equal(b.len, 3);
    assert_int_equal(daemon_stop_push(&s, "x", 1, &b, &hit), ERR_OK);
    assert_int_equal(b.len, 6);
    assert_memory_equal(buf_bytes(&b), "abcSTx", 6);
    buf_free(&b);
    daemon_stop_free(&s);
}

static uint32_t give(struct daemon_gen *g, uint32_t epoch, uint32_t index, int32_t id,
                     uint8_t finish)
{
    struct daemon_token t = {.index = index, .id = id, .finish = finish};
    uint32_t accepted;

    assert_int_equal(daemon_gen_take(g, epoch, &t, &accepted), ERR_OK);
    return accepted;
}

static void assert_text(struct daemon_gen *g, const char *want)
{
    assert_int_equal(g->text.len, strlen(want));
    assert_memory_equal(buf_bytes(&g->text), want, strlen(want));
}

static void tokens_out_of_order_come_out_in_order_and_once(void **state)
{
    struct daemon_gen_config c = {0};
    struct daemon_gen g;

    (void)state;
    daemon_gen_init(&g, 1, &c);
    assert_int_equal(give(&g, 1, 2, 12, 0), 0);
    assert_int_equal(give(&g, 1, 1, 11, 0), 0);
    assert_int_equal(give(&g, 1, 1, 11, 0), 0); /* doubled while early */
    assert_int_equal(give(&g, 1, 0, 10, 0), 3);
    assert_int_equal(give(&g, 1, 1, 99, 0), 0); /* contradicts what was delivered: dropped */
    assert_int_equal(give(&g, 1, 3, 13, 2), 1);
    assert_int_equal(g.finish, DAEMON_FINISH_LENGTH);
    assert_int_equal(give(&g, 1, 4, 14, 0), 0); /* after the end */
    assert_text(&g, " 10 11 12 13");
    assert_int_equal(g.late, 3);
    daemon_gen_fini(&g);
    assert_int_equal(mem_live(), 0);
}

static void tokens_of_an_older_attempt_count_no_more(void **state)
{
    struct daemon_gen_config c = {0};
    struct daemon_gen g;

    (void)state;
    daemon_gen_init(&g, 1, &c);
    assert_int_equal(give(&g, 1, 0, 10, 0), 1);
    assert_int_equal(give(&g, 1, 2, 77, 0), 0); /* early, then the attempt dies */
    daemon_gen_set_epoch(&g, 2);
    assert_int_equal(give(&g, 1, 1, 11, 0), 0);
    assert_int_equal(give(&g, 2, 1, 21, 0), 1); /* the early 77 is not there any more */
    assert_int_equal(give(&g, 2, 2, 22, 1), 1);
    assert_int_equal(g.finish, DAEMON_FINISH_STOP);
    assert_false(g.by_stop_string);
    assert_text(&g, " 10 21"); /* the stop token itself is not shown */
    daemon_gen_fini(&g);
}

static void stop_string_ends_a_generation_before_the_worker_knows(void **state)
{
    char *strings[] = {"1 2"};
    size_t lens[] = {3};
    struct daemon_gen_config c = {.stop = strings, .stop_len = lens, .n_stop = 1};
    struct daemon_gen g;

    (void)state;
    daemon_gen_init(&g, 1, &c);
    assert_int_equal(give(&g, 1, 0, 31, 0), 1);
    assert_int_equal(g.finish, DAEMON_FINISH_NONE);
    assert_text(&g, " 3"); /* the 1 may be the start */
    assert_int_equal(give(&g, 1, 1, 24, 0), 1);
    assert_int_equal(g.finish, DAEMON_FINISH_STOP);
    assert_true(g.by_stop_string);
    assert_text(&g, " 3");
    daemon_gen_fini(&g);
    assert_int_equal(mem_live(), 0);
}

static void min_tokens_puts_stop_strings_off(void **state)
{
    char *strings[] = {" 1"};
    size_t lens[] = {2};
    struct daemon_gen_config c = {.stop = strings, .stop_len = lens, .n_stop = 1, .min_tokens = 2};
    struct daemon_gen g;

    (void)state;
    daemon_gen_init(&g, 1, &c);
    give(&g, 1, 0, 1, 0);
    give(&g, 1, 1, 1, 0);
    assert_int_equal(g.finish, DAEMON_FINISH_NONE);
    give(&g, 1, 2, 1, 0);
    assert_int_equal(g.finish, DAEMON_FINISH_STOP);
    assert_text(&g, " 1 1");
    daemon_gen_fini(&g);
}

static void a_refusal_does_not_call_late_what_is_forecast_in_time(void **state)
{
    static const enum sched_reason reasons[] = {SCHED_REASON_TTFT, SCHED_REASON_TBT};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct daemon_refusal r = {.reason = reasons[i],
                                   .what = {.predicted_ns = 1097, .target_ns = 1100}};

        assert_non_null(strstr(daemon_refusal_words(&r), "others late"));
        r.what.predicted_ns = 1101;
        assert_null(strstr(daemon_refusal_words(&r), "others"));
        assert_non_null(strstr(daemon_refusal_words(&r), "would come"));
        r.what.predicted_ns = 0; /* no forecast */
        assert_null(strstr(daemon_refusal_words(&r), "others"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_string_is_found_at_every_cut),
        cmocka_unit_test(possible_start_of_a_stop_string_is_held_back),
        cmocka_unit_test(tokens_out_of_order_come_out_in_order_and_once),
        cmocka_unit_test(tokens_of_an_older_attempt_count_no_more),
        cmocka_unit_test(stop_string_ends_a_generation_before_the_worker_knows),
        cmocka_unit_test(a_refusal_does_not_call_late_what_is_forecast_in_time),
        cmocka_unit_test(min_tokens_puts_stop_strings_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
