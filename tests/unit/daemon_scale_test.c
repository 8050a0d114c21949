/* tests/unit/daemon_scale_test.c - the planner's wish as a command: its words, one at a time, the last one wins. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/scale.h"

static struct {
    uv_loop_t loop;
    struct daemon_scale *scale;
    char dir[64], program[96], told[96];
    int closed;
} w;

static void on_closed(void *arg)
{
    (void)arg;
    w.closed++;
}

/* A program that appends its words to a file, after `before`. */
static void start(const char *before)
{
    struct err_msg msg = {""};
    FILE *f;

    memset(&w, 0, sizeof(w));
    snprintf(w.dir, sizeof(w.dir), "/tmp/baton-scale-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    snprintf(w.program, sizeof(w.program), "%s/run", w.dir);
    snprintf(w.told, sizeof(w.told), "%s/told", w.dir);
    f = fopen(w.program, "w");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\n%s\necho \"$# $@\" >> %s\n", before, w.told);
    fclose(f);
    chmod(w.program, 0700);
    uv_loop_init(&w.loop);
    assert_int_equal(daemon_scale_create(&w.loop, w.program, &msg, &w.scale), ERR_OK);
}

static void finish(void)
{
    daemon_scale_close(w.scale, on_closed, NULL);
    assert_int_equal(w.closed, 0); /* never from inside the call */
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(w.closed, 1);
    assert_int_equal(uv_loop_close(&w.loop), 0);
    unlink(w.program);
    unlink(w.told);
    rmdir(w.dir);
    assert_int_equal(mem_live(), 0);
}

static void want(uint32_t prefill, uint32_t decode)
{
    const uint32_t wanted[3] = {0, prefill, decode}, have[3] = {0, 1, 2};

    daemon_scale_want(w.scale, wanted, have);
}

/* Turn the loop until the file has so many lines, for at most 5 s. */
static void told(const char *expected)
{
    uint64_t until = clock_now_ns() + 5 * CLOCK_NS_PER_S;
    char text[256] = "";

    while (strcmp(text, expected) != 0 && clock_now_ns() < until) {
        FILE *f = fopen(w.told, "r");

        uv_run(&w.loop, UV_RUN_NOWAIT);
        usleep(1000);
        if (f == NULL)
            continue;
        text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
        fclose(f);
    }
    assert_string_equal(text, expected);
}

static void counts_are_the_arguments_and_no_shell_reads_them(void **state)
{
    (void)state;
    start("");
    want(3, 4);
    told("4 3 4 1 2\n");
    want(5, 6);
    told("4 3 4 1 2\n4 5 6 1 2\n");
    finish();
}

static void of_wishes_that_come_while_one_runs_the_last_follows(void **state)
{
    (void)state;
    start("sleep 0.3");
    want(1, 1);
    want(2, 2);
    want(3, 3);
    told("4 1 1 1 2\n4 3 3 1 2\n");
    finish();
}

static void a_program_that_fails_is_asked_again(void **state)
{
    (void)state;
    start("[ -e \"$0.once\" ] || { touch \"$0.once\"; exit 3; }; rm \"$0.once\"");
    want(1, 2);
    for (int i = 0; i < 200; i++) {
        uv_run(&w.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    want(3, 4);
    told("4 3 4 1 2\n");
    finish();
}

static void one_that_hangs_is_killed_with_us(void **state)
{
    uint64_t before = clock_now_ns();

    (void)state;
    start("exec sleep 60");
    want(1, 2);
    uv_run(&w.loop, UV_RUN_NOWAIT);
    finish();
    assert_true(clock_now_ns() - before < 10 * CLOCK_NS_PER_S);
}

static void a_program_that_is_none_is_refused_at_the_start(void **state)
{
    struct err_msg msg = {""};
    struct daemon_scale *s = NULL;
    uv_loop_t loop;

    (void)state;
    uv_loop_init(&loop);
    assert_int_equal(daemon_scale_create(&loop, "/no/such/program", &msg, &s), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "/no/such/program"));
    assert_int_equal(daemon_scale_create(&loop, "echo hello", &msg, &s), ERR_NOT_FOUND);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_the_arguments_and_no_shell_reads_them),
        cmocka_unit_test(of_wishes_that_come_while_one_runs_the_last_follows),
        cmocka_unit_test(a_program_that_fails_is_asked_again),
        cmocka_unit_test(one_that_hangs_is_killed_with_us),
        cmocka_unit_test(a_program_that_is_none_is_refused_at_the_start),
    };

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "test");
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
