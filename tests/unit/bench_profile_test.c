/* Class files and the fit behind them: what is written is read back, what is wrong is named with its line. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench/law_fit.h"
#include "bench/profile_file.h"

static const char GOOD[] =
    "name: h100-8b\n"
    "prefill:\n"
    "  step_us: 2668\n"
    "  token_us: 20.51\n"
    "  token_pair_us: 0.00038491\n"
    "  below_knee_us: 12.22\n"
    "  knee_tokens: 448\n"
    "decode: {step_us: 7141, sequence_us: 8.88, context_token_us: 0.043198}\n"
    "kv_bytes_per_token: 131072\n"
    "link_bytes_per_s: 46e9\n"
    "link_setup_us: 2000\n"
    "park_bytes_per_s: 55e9\n";

static char path[] = "/tmp/baton-profile-XXXXXX";

static int set_up(void **arg)
{
    int fd = mkstemp(path);

    (void)arg;
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **arg)
{
    (void)arg;
    return unlink(path);
}

static void put(const char *text)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void a_class_file_says_what_its_keys_say(void **arg)
{
    struct sched_class c;
    struct err_msg msg = {""};

    (void)arg;
    put(GOOD);
    assert_int_equal(bench_profile_read(path, &c, &msg), ERR_OK);
    assert_string_equal(c.name, "h100-8b");
    assert_float_equal(c.prefill.c[0], 2668e3, 1e-3);
    assert_float_equal(c.prefill.c[1], 20510, 1e-3);
    assert_float_equal(c.prefill.c[2], 0.38491, 1e-9);
    assert_float_equal(c.prefill.c[3], 12220, 1e-3);
    assert_float_equal(c.prefill.knee, 448, 0);
    assert_float_equal(c.decode.c[2], 43.198, 1e-6);
    assert_float_equal(c.decode.c[3], 0, 0);
    assert_float_equal(c.link_bytes_per_s, 46e9, 1);
    assert_int_equal(c.link_setup_ns, 2000000);
    assert_float_equal(c.park_bytes_per_s, 55e9, 1);
    assert_false(c.frozen);
}

static void what_was_written_is_read_back(void **arg)
{
    struct sched_class c, again;
    struct err_msg msg = {""};

    (void)arg;
    put(GOOD);
    assert_int_equal(bench_profile_read(path, &c, &msg), ERR_OK);
    snprintf(c.name, sizeof(c.name), "%s", "a: name # with yaml in it");
    assert_int_equal(bench_profile_write(path, &c, "two\nlines", &msg), ERR_OK);
    assert_int_equal(bench_profile_read(path, &again, &msg), ERR_OK);
    assert_string_equal(again.name, c.name);
    for (int i = 0; i < 4; i++) {
        assert_true(fabs(again.prefill.c[i] - c.prefill.c[i]) <= 1e-8 * c.prefill.c[i]);
        assert_true(fabs(again.decode.c[i] - c.decode.c[i]) <= 1e-8 * c.decode.c[i]);
    }
    assert_int_equal(again.link_setup_ns, c.link_setup_ns);
}

static void an_unknown_law_is_left_out_and_stays_unknown(void **arg)
{
    struct sched_class c = {.name = "new"}, again;
    struct err_msg msg = {""};

    (void)arg;
    assert_int_equal(bench_profile_write(path, &c, NULL, &msg), ERR_OK);
    assert_int_equal(bench_profile_read(path, &again, &msg), ERR_OK);
    assert_false(sched_law_known(&again.prefill));
    assert_false(sched_law_known(&again.decode));
}

/* GOOD with `from` replaced, and what the message has to say. */
struct wrong {
    const char *from, *to, *says[3];
};

static void what_is_wrong_is_named_with_line_key_and_range(void **arg)
{
    static const struct wrong rows[] = {
        {"token_us: 20.51", "token_us: -1", {"line 4", "token_us", "0 to 1e+09"}},
        {"token_us: 20.51", "token_us: fast", {"line 4", "token_us: fast", "a number"}},
        {"token_us: 20.51", "token_us: nan", {"line 4", "token_us: nan", "0 to 1e+09"}},
        {"token_us: 20.51", "token_us: 0x10", {"line 4", "token_us: 0x10", ""}},
        {"token_us: 20.51", "token_us: [1]", {"line 4", "'token_us'", "one value"}},
        {"  token_us: 20.51\n", "", {"line 3", "token_us", "missing"}},
        {"token_pair_us", "token_square_us", {"line 5", "token_square_us", "prefill"}},
        {"link_setup_us: 2000", "link_setup_us: 1e10", {"line 11", "link_setup_us", "1e+09"}},
        {"link_bytes_per_s: 46e9",
         "link_bytes_per_s: 0",
         {"line 10", "link_bytes_per_s", "leave it out"}},
        {"link_setup_us", "link_setup_ms", {"line 11", "link_setup_ms", ""}},
        {"park_bytes_per_s: 55e9", "link_setup_us: 1", {"line 12", "link_setup_us", "twice"}},
        {"name: h100-8b\n", "", {"line 1", "name", "missing"}},
        {"name: h100-8b", "name: ''", {"line 1", "name", "1 to 63"}},
        {"prefill:\n", "prefill: 3\nx:\n", {"line 3", "'x'", ""}},
        {"  step_us: 2668\n", " \tstep_us: 2668\n", {"line 3", "", ""}},
        {"step_us: 7141, sequence_us: 8.88",
         "step_us: 0, sequence_us: 0",
         {"line 8", "decode", ""}},
    };

    (void)arg;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[sizeof(GOOD) + 100];
        const char *at = strstr(GOOD, rows[i].from);
        struct sched_class c = {.name = "untouched"};
        struct err_msg msg = {""};
        size_t live = mem_live();

        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - GOOD), GOOD, rows[i].to,
                 at + strlen(rows[i].from));
        put(text);
        assert_int_equal(bench_profile_read(path, &c, &msg), ERR_INVALID);
        assert_string_equal(c.name, "untouched");
        assert_int_equal(mem_live(), live);
        assert_non_null(strstr(msg.text, path));
        for (int k = 0; k < 3; k++) {
            if (strstr(msg.text, rows[i].says[k]) == NULL)
                fail_msg("row %zu: '%s' is not in: %s", i, rows[i].says[k], msg.text);
        }
    }
}

static void files_that_are_not_there_or_not_yaml_are_refused(void **arg)
{
    struct sched_class c;
    struct err_msg msg = {""};

    (void)arg;
    assert_int_equal(bench_profile_read("/tmp/no-such-class.yaml", &c, &msg), ERR_NOT_FOUND);
    put("");
    assert_int_equal(bench_profile_read(path, &c, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "empty"));
    put("- a\n- list\n");
    assert_int_equal(bench_profile_read(path, &c, &msg), ERR_INVALID);
    put("{ \x01\x02");
    assert_int_equal(bench_profile_read(path, &c, &msg), ERR_INVALID);
}

static void a_class_that_could_not_be_read_back_is_not_written(void **arg)
{
    struct sched_class c = {.name = "x", .decode = {{1, NAN, 0, 0}, 0}};
    struct err_msg msg = {""};

    (void)arg;
    assert_int_equal(bench_profile_write(path, &c, NULL, &msg), ERR_INVALID);
    c = (struct sched_class){.name = ""};
    assert_int_equal(bench_profile_write(path, &c, NULL, &msg), ERR_INVALID);
    c = (struct sched_class){.name = "x"};
    assert_int_equal(bench_profile_write("/no/such/folder/x.yaml", &c, NULL, &msg), ERR_IO);
    assert_non_null(strstr(msg.text, "/no/such/folder/x.yaml"));
}

/* Through a link, so that a mistake costs the link and not the device. */
static void a_device_is_written_to_and_never_replaced(void **arg)
{
    struct sched_class c = {.name = "x"};
    char link[sizeof(path) + 8];
    struct err_msg msg = {""};
    struct stat st;

    (void)arg;
    snprintf(link, sizeof(link), "%s.full", path);
    assert_int_equal(symlink("/dev/full", link), 0);
    assert_int_equal(bench_profile_writable(link, &msg), ERR_OK);
    assert_int_equal(bench_profile_write(link, &c, NULL, &msg), ERR_IO);
    assert_non_null(strstr(msg.text, link));
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    unlink(link);
}

/* ---- the fit ---- */

static void exact_steps_give_the_law_back(void **arg)
{
    static const struct sched_law prefill = {{2668e3, 20510, 0.38491, 12220}, 448};
    static const struct sched_law decode = {{7141e3, 8880, 43.198, 4780}, 128};
    static const double sizes[] = {16, 64, 128, 256, 448, 512, 1024, 2048};
    static const double batches[] = {1, 4, 16, 64, 128, 192, 256};
    struct bench_law_point v[64];
    struct bench_law_fit f;
    size_t n = 0;

    (void)arg;
    for (size_t i = 0; i < 8; i++) {
        for (double past = 0; past <= 8192; past += 4096) {
            v[n].did = (struct sched_step){.n = sizes[i], .n2 = sizes[i] * (sizes[i] + 2 * past)};
            v[n].ns = sched_law_prefill(&prefill, v[n].did.n, v[n].did.n2);
            n++;
        }
    }
    assert_int_equal(bench_law_fit(v, n, true, &f), ERR_OK);
    assert_true(f.max_error < 1e-6 && f.law.knee == 448);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(f.law.c[i] / prefill.c[i] - 1) < 1e-4);
    n = 0;
    for (size_t i = 0; i < 7; i++) {
        for (double context = 100; context <= 6400; context *= 8) {
            v[n].did = (struct sched_step){.b = batches[i], .ctx = batches[i] * context};
            v[n].ns = sched_law_decode(&decode, v[n].did.b, v[n].did.ctx);
            n++;
        }
    }
    assert_int_equal(bench_law_fit(v, n, false, &f), ERR_OK);
    assert_true(f.max_error < 1e-6 && f.law.knee == 128);
}

static void a_fit_has_no_negative_coefficient_and_refuses_what_no_law_fits(void **arg)
{
    struct bench_law_point v[20];
    struct bench_law_fit f;

    (void)arg;
    for (int i = 0; i < 20; i++) {
        v[i].did = (struct sched_step){.n = 10 * (i + 1), .n2 = 100 * (i + 1) * (i + 1)};
        v[i].ns = 1e9 / (i + 1); /* larger is faster */
    }
    assert_int_equal(bench_law_fit(v, 20, true, &f), ERR_OK);
    for (int i = 0; i < 4; i++)
        assert_true(f.law.c[i] >= 0);
    assert_int_equal(bench_law_fit(v, 1, true, &f), ERR_INVALID);
    v[3].ns = 0;
    assert_int_equal(bench_law_fit(v, 20, true, &f), ERR_INVALID);
    v[3].ns = NAN;
    assert_int_equal(bench_law_fit(v, 20, true, &f), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_class_file_says_what_its_keys_say),
        cmocka_unit_test(what_was_written_is_read_back),
        cmocka_unit_test(an_unknown_law_is_left_out_and_stays_unknown),
        cmocka_unit_test(what_is_wrong_is_named_with_line_key_and_range),
        cmocka_unit_test(files_that_are_not_there_or_not_yaml_are_refused),
        cmocka_unit_test(a_class_that_could_not_be_read_back_is_not_written),
        cmocka_unit_test(a_device_is_written_to_and_never_replaced),
        cmocka_unit_test(exact_steps_give_the_law_back),
        cmocka_unit_test(a_fit_has_no_negative_coefficient_and_refuses_what_no_law_fits),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
