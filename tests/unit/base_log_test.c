/* tests/unit/base_log_test.c - one line per event, whatever is in it; repeats are folded. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"

static int real_stderr, file;
static char text[1 << 20];

static void capture(void)
{
    char path[] = "/tmp/baton_log_XXXXXX";

    fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    file = mkstemp(path);
    assert_true(real_stderr >= 0 && file >= 0);
    unlink(path);
    dup2(file, STDERR_FILENO);
}

/* Back to the real standard error; what was written is in text.  Returns the number of lines. */
static size_t captured(void)
{
    ssize_t n;
    size_t lines = 0;

    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    n = pread(file, text, sizeof(text) - 1, 0);
    close(file);
    assert_true(n >= 0);
    text[n] = '\0';
    for (const char *c = text; *c != '\0'; c++)
        lines += *c == '\n';
    return lines;
}

static void next_second(void)
{
    uint64_t now = clock_now_ns(), wait = CLOCK_NS_PER_S - now % CLOCK_NS_PER_S + 1000000;
    struct timespec t = {(time_t)(wait / CLOCK_NS_PER_S), (long)(wait % CLOCK_NS_PER_S)};

    nanosleep(&t, NULL);
}

static void a_line_names_time_level_process_module_event_and_details(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "decode-3");
    capture();
    LOG_INFO("kvt", "peer connected", "peer=%d path=%s", 7, "shm");
    assert_int_equal(captured(), 1);
    assert_int_equal(text[4], '-');
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[23], 'Z');
    assert_non_null(strstr(text, "Z info  decode-3 kvt: peer connected peer=7 path=shm\n"));
}

static void levels_above_the_set_one_cost_nothing_and_write_nothing(void **state)
{
    int evaluated = 0;

    (void)state;
    log_setup(LOG_LEVEL_WARN, LOG_FORMAT_TEXT, "t");
    capture();
    LOG_DEBUG("m", "debug", "%d", ++evaluated);
    LOG_INFO("m", "info", "%d", ++evaluated);
    LOG_WARN("m", "warn", "%d", ++evaluated);
    LOG_ERROR("m", "error", "%d", ++evaluated);
    assert_int_equal(captured(), 2);
    assert_int_equal(evaluated, 2);
    assert_true(log_is_on(LOG_LEVEL_ERROR) && !log_is_on(LOG_LEVEL_INFO));
}

static void an_event_stays_one_line_whatever_a_peer_sent(void **state)
{
    static char long_text[5000];

    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "t");
    memset(long_text, '\n', sizeof(long_text) - 1);
    capture();
    LOG_INFO("m", "evil", "text=%s", "a\nb\rc\x1b[2Jd\x7f");
    LOG_INFO("m", "long", "text=%s", long_text);
    assert_int_equal(captured(), 2);
    assert_non_null(strstr(text, "evil text=a b c [2Jd \n"));
    assert_null(strchr(text, '\x1b'));
}

static void json_lines_escape_quotes_controls_and_what_is_no_utf8(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, "t");
    capture();
    LOG_INFO("m", "odd", "%s", "q\" b\\ n\n e\x1b");
    LOG_INFO("m", "utf8", "%s", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
    LOG_INFO("m", "broken", "%s", "\xff \xc3 \xc0\x80 \xed\xa0\x80 \xf5\x80\x80\x80 \xe2\x82");
    assert_int_equal(captured(), 3);
    assert_non_null(strstr(text, "\"detail\":\"q\\\" b\\\\ n\\u000a e\\u001b\"}\n"));
    assert_non_null(strstr(text, "\"detail\":\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"}\n"));
    assert_null(strchr(text, '\xff'));
    assert_null(strstr(text, "\xc0\x80"));
    assert_null(strstr(text, "\xed\xa0"));
    assert_non_null(strstr(text, "\"detail\":\"\xef\xbf\xbd \xef\xbf\xbd \xef\xbf\xbd"));
}

static void json_lines_stay_whole_when_the_text_is_too_long(void **state)
{
    static char long_text[5000];
    size_t lines;

    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, "t");
    memset(long_text, '\x01', sizeof(long_text) - 1);
    capture();
    LOG_INFO("m", "long", "text=%s", long_text);
    memset(long_text, '"', sizeof(long_text) - 1);
    LOG_INFO("m", "quotes", "text=%s", long_text);
    lines = captured();
    assert_int_equal(lines, 2);
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        assert_int_equal(line[0], '{');
        assert_memory_equal(end - 2, "\"}", 2);
        assert_int_not_equal(end[-3], '\\');
    }
}

static void repeats_within_a_second_are_held_back_and_counted(void **state)
{
    unsigned before, after;

    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "t");
    next_second();
    capture();
    for (int i = 0; i < LOG_BURST + 30; i++)
        LOG_WARN("m", "same", "i=%d", i);
    LOG_WARN("other", "same", "of another module");
    LOG_WARN("m", "different", "of the same module");
    before = (unsigned)captured();
    capture();
    next_second();
    LOG_WARN("m", "same", "later");
    after = (unsigned)captured();
    assert_int_equal(before, LOG_BURST + 2);
    assert_int_equal(after, 1);
    assert_non_null(strstr(text, "later (held back: 30)\n"));
}

static void two_busy_events_never_lift_each_others_limit(void **state)
{
    static const char *const events[] = {"e0", "e1", "e2", "e3", "e4",  "e5",  "e6",  "e7",
                                         "e8", "e9", "ea", "eb", "e10", "e11", "e12", "e13"};

    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "t");
    next_second();
    capture();
    for (int i = 0; i < 200; i++) {
        for (size_t e = 0; e < 16; e++)
            LOG_INFO("m", events[e], "%d", i);
    }
    assert_in_range(captured(), 16 * LOG_BURST, 2 * 16 * LOG_BURST); /* a second may have passed */
}

static void *write_lines(void *arg)
{
    static const char *const events[] = {"thread a", "thread b", "thread c", "thread d"};
    size_t id = (size_t)(uintptr_t)arg;

    for (int i = 0; i < LOG_BURST; i++)
        LOG_INFO("m", events[id], "%s", "0123456789012345678901234567890123456789");
    return NULL;
}

static void lines_of_several_threads_never_mix(void **state)
{
    pthread_t threads[4];

    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "t");
    capture();
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, (void *)(uintptr_t)i), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(captured(), 4 * LOG_BURST);
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        assert_true(end - line > 40);
        assert_memory_equal(end - 40, "0123456789012345678901234567890123456789", 40);
    }
}

static void level_names_parse_and_others_are_refused(void **state)
{
    enum log_level level = LOG_LEVEL_DEBUG;

    (void)state;
    assert_int_equal(log_level_parse("warn", &level), ERR_OK);
    assert_int_equal(level, LOG_LEVEL_WARN);
    assert_int_equal(log_level_parse("WARN", &level), ERR_INVALID);
    assert_int_equal(log_level_parse("", &level), ERR_INVALID);
    assert_int_equal(level, LOG_LEVEL_WARN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_names_time_level_process_module_event_and_details),
        cmocka_unit_test(levels_above_the_set_one_cost_nothing_and_write_nothing),
        cmocka_unit_test(an_event_stays_one_line_whatever_a_peer_sent),
        cmocka_unit_test(json_lines_escape_quotes_controls_and_what_is_no_utf8),
        cmocka_unit_test(json_lines_stay_whole_when_the_text_is_too_long),
        cmocka_unit_test(repeats_within_a_second_are_held_back_and_counted),
        cmocka_unit_test(two_busy_events_never_lift_each_others_limit),
        cmocka_unit_test(lines_of_several_threads_never_mix),
        cmocka_unit_test(level_names_parse_and_others_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
