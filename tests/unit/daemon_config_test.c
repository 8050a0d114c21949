/* daemon/config.h: one table, three sources, and errors that say where. */
#include "daemon/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

static char path[64];

static void write_file(const char *text)
{
    int fd;

    snprintf(path, sizeof(path), "/tmp/baton-config-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static struct daemon_config *load(int argc, char **argv)
{
    struct err_msg msg = {""};
    struct daemon_config *c = NULL;
    enum err err = daemon_config_load(DAEMON_CMD_SERVE, argc, argv, &msg, &c);

    if (err != ERR_OK)
        fail_msg("%s", msg.text);
    return c;
}

/* The file must be refused, with all of these words in the message. */
static void refused(const char *text, const char *a, const char *b, const char *c)
{
    struct err_msg msg = {""};

    write_file(text);
    assert_int_equal(daemon_config_check_file(path, &msg), ERR_INVALID);
    unlink(path);
    if (strstr(msg.text, a) == NULL || strstr(msg.text, b) == NULL || strstr(msg.text, c) == NULL)
        fail_msg("'%s' lacks '%s', '%s' or '%s'", msg.text, a, b, c);
    assert_int_equal(mem_live(), 0);
}

static void flag_beats_environment_beats_file_beats_default(void **state)
{
    char file_flag[96], *argv[] = {file_flag, (char *)(uintptr_t) "--max-batch=7"};
    struct daemon_config *c;

    (void)state;
    write_file("max_batch: 5\nkv_mib: 11\nblock_tokens: 32\nport: 9000\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    setenv("BATON_MAX_BATCH", "6", 1);
    setenv("BATON_KV_MIB", "12", 1);
    c = load(2, argv);
    assert_int_equal(c->max_batch, 7);
    assert_int_equal(c->kv_mib, 12);
    assert_int_equal(c->block_tokens, 32);
    assert_int_equal(c->max_step_tokens, 512);
    daemon_config_free(c);
    unsetenv("BATON_MAX_BATCH");
    unsetenv("BATON_KV_MIB");
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

static void tiers_and_keys_come_from_the_file(void **state)
{
    char file_flag[96], *argv[] = {file_flag};
    struct daemon_config *c;

    (void)state;
    write_file("model: /some/where\ntiers:\n  - {name: fast, ttft_ms: 100, tbt_ms: 10}\n"
               "  - {name: slow, ttft_ms: 5000, tbt_ms: 500}\n"
               "keys:\n  - name: alice\n    tenant: acme\n    tier: slow\n    sha256: "
               "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    c = load(1, argv);
    assert_string_equal(c->model_dir, "/some/where");
    assert_int_equal(c->n_tiers, 2);
    assert_string_equal(c->tiers[1].name, "slow");
    assert_true(c->tiers[1].ttft_ns == 5000000000ull);
    assert_int_equal(c->n_keys, 1);
    assert_string_equal(c->keys[0].tenant, "acme");
    assert_int_equal(c->keys[0].tier, 1);
    assert_int_equal(c->keys[0].sha256[0], 0x2b);
    daemon_config_free(c);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

static void a_bad_file_is_refused_with_line_and_range(void **state)
{
    (void)state;
    refused("port: 8000\nkv_mb: 3\n", "kv_mb", "line", "config");
    refused("host: localhost\n\nport: 70000\n", "line 3", "port", "0 to 65535");
    refused("port: eighty\n", "line 1", "eighty", "whole numbers");
    refused("cors: maybe\n", "line 1", "cors", "true and false");
    refused("port: [1, 2]\n", "line", "config", "");
    refused("tiers:\n  - {name: a, ttft_ms: 0, tbt_ms: 1}\n", "line 2", "ttft_ms", "1 to");
    refused("tiers:\n  - {name: a, ttft_ms: 1, tbt_ms: 1}\n  - {name: a, ttft_ms: 1, tbt_ms: 1}\n",
            "line 3", "two tiers", "a");
    refused("keys:\n  - {name: x, sha256: abc}\n", "line 2", "64 hex", "sha256");
    refused("keys:\n  - {name: x, tier: platinum, sha256: "
            "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}\n",
            "line 2", "platinum", "tier");
    refused("default_tier: platinum\n", "platinum", "tier", "");
    refused("port: 1\n  bad: indent\n", "config", "", "");
    refused("\x01\x02\xff", "config", "", "");
}

static void a_bad_flag_is_refused_with_a_hint(void **state)
{
    struct err_msg msg = {""};
    struct daemon_config *c = NULL;
    char *unknown[] = {(char *)(uintptr_t) "--kv-mb=3"},
         *range[] = {(char *)(uintptr_t) "--port", (char *)(uintptr_t) "99999"};
    char *valueless[] = {(char *)(uintptr_t) "--port"};

    (void)state;
    assert_int_equal(daemon_config_load(DAEMON_CMD_SERVE, 1, unknown, &msg, &c), ERR_INVALID);
    assert_non_null(strstr(msg.text, "did you mean --kv-mib"));
    assert_int_equal(daemon_config_load(DAEMON_CMD_SERVE, 2, range, &msg, &c), ERR_INVALID);
    assert_non_null(strstr(msg.text, "0 to 65535"));
    assert_int_equal(daemon_config_load(DAEMON_CMD_SERVE, 1, valueless, &msg, &c), ERR_INVALID);
    assert_non_null(strstr(msg.text, "needs a value"));
    /* an option of another command is unknown here */
    assert_int_equal(daemon_config_load(DAEMON_CMD_DECODE, 2, range, &msg, &c), ERR_INVALID);
    assert_int_equal(mem_live(), 0);
}

static void model_dir_on_the_command_line_replaces_the_files(void **state)
{
    char file_flag[96], *argv[] = {file_flag, (char *)(uintptr_t) "/mine"};
    struct daemon_config *c;

    (void)state;
    write_file("model: /theirs\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    c = load(2, argv);
    assert_string_equal(c->model_dir, "/mine");
    daemon_config_free(c);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flag_beats_environment_beats_file_beats_default),
        cmocka_unit_test(tiers_and_keys_come_from_the_file),
        cmocka_unit_test(a_bad_file_is_refused_with_line_and_range),
        cmocka_unit_test(a_bad_flag_is_refused_with_a_hint),
        cmocka_unit_test(model_dir_on_the_command_line_replaces_the_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
