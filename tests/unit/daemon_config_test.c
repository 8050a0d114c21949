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
    write_file("model: /some/where\ntiers:\n  - {name: quick, ttft_ms: 100, tbt_ms: 10}\n"
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
    refused("host: localhost\npolicy: edge\n", "line 2", "edge", "baton, round-robin");
    refused("policy: baton-clairvoyant\n", "line 1", "know the future", "baton simulate");
    refused("log_format: xml\n", "line 1", "xml", "text, json");
    refused("log_level: all\n", "line 1", "all", "warn");
    refused("backend: tpu\n", "line 1", "tpu", "sim");
    refused("default_tier: platinum\n", "platinum", "tier", "");
    refused("port: 1\ngpu_memory: \"\"\n", "line 2", "gpu_memory is empty", "a share is wanted");
    refused("device: \"\"\n", "line 1", "device is empty", "a list is wanted");
    refused("weights: \"\"\n", "line 1", "weights is empty", "a name is wanted");
    refused("kv_blocks: \"\"\n", "line 1", "kv_blocks is ''", "whole numbers");
    refused("port: 1\n  bad: indent\n", "config", "", "");
    refused("\x01\x02\xff", "config", "", "");
}

static void a_tier_tighter_than_the_one_before_is_refused(void **state)
{
    static const char *const equal_or_looser =
        "tiers:\n  - {name: a, ttft_ms: 100, ttft_factor: 2, tbt_ms: 20}\n"
        "  - {name: b, ttft_ms: 100, ttft_factor: 2, tbt_ms: 20}\n"
        "  - {name: c, ttft_ms: 200, ttft_factor: 3, tbt_ms: 30}\n";
    struct err_msg msg = {""};

    (void)state;
    refused("tiers:\n  - {name: a, ttft_ms: 100, tbt_ms: 20}\n"
            "  - {name: b, ttft_ms: 99, tbt_ms: 20}\n",
            "line 3", "ttft_ms 99, tighter than the 100 of 'a'", "move it up");
    refused("tiers:\n  - {name: a, ttft_ms: 100, tbt_ms: 20}\n"
            "  - name: b\n    ttft_ms: 100\n    tbt_ms: 19.5\n",
            "line 5", "tbt_ms 19.5, tighter than the 20 of 'a'", "at least 20");
    refused("tiers:\n  - {name: a, ttft_ms: 100, ttft_factor: 2, tbt_ms: 20}\n"
            "  - {name: b, ttft_ms: 5000, tbt_ms: 200}\n",
            "line 3", "ttft_factor 0, tighter than the 2 of 'a'", "at least 2");
    write_file(equal_or_looser);
    assert_int_equal(daemon_config_check_file(path, &msg), ERR_OK);
    unlink(path);
}

static void a_tier_cannot_have_a_name_that_means_something_else_to_clients(void **state)
{
    static const char *const words[] = {"auto", "default", "scale", "priority", "fast", "flex"};
    struct err_msg msg = {""};
    char text[160];

    (void)state;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        snprintf(text, sizeof(text),
                 "tiers:\n  - {name: a, ttft_ms: 1, tbt_ms: 1}\n"
                 "  - {name: %s, ttft_ms: 1, tbt_ms: 1}\n",
                 words[i]);
        refused(text, "line 3", words[i], "service_tier");
        snprintf(text, sizeof(text), "tiers:\n  - {name: a, label: %s, ttft_ms: 1, tbt_ms: 1}\n",
                 words[i]);
        write_file(text);
        assert_int_equal(daemon_config_check_file(path, &msg), ERR_OK);
        unlink(path);
    }
}

static void a_tier_is_a_whole_contract(void **state)
{
    char file_flag[96], *argv[] = {file_flag};
    struct daemon_config *c;

    (void)state;
    write_file(
        "tiers:\n  - {name: quick, label: paying, ttft_ms: 250, ttft_factor: 1.5, tbt_ms: 12.5, "
        "percentile: 0.99, weight: 4, reserved: 0.25, starvation_ms: 1500, on_miss: downgrade, "
        "transfer_class: 1}\n"
        "  - {name: slow, ttft_ms: 9000, ttft_factor: 1.5, tbt_ms: 300}\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    c = load(1, argv);
    assert_string_equal(c->tier_labels[0], "paying");
    assert_string_equal(c->tier_labels[1], "slow");
    assert_true(c->tiers[0].ttft_ns == 250000000 && c->tiers[0].ttft_factor == 1.5);
    assert_true(c->tiers[0].tbt_ns == 12500000 && c->tiers[0].percentile == 0.99);
    assert_true(c->tiers[0].weight == 4 && c->tiers[0].reserved == 0.25);
    assert_true(c->tiers[0].starvation_ns == 1500000000);
    assert_int_equal(c->tiers[0].on_miss, SCHED_MISS_DOWNGRADE);
    assert_int_equal(c->tiers[0].transfer_class, 1);
    assert_true(c->tiers[1].weight == 1 && c->tiers[1].reserved == 0);
    assert_int_equal(c->tiers[1].on_miss, SCHED_MISS_REFUSE);
    daemon_config_free(c);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

static void what_is_printed_can_be_read_back(void **state)
{
    char file_flag[96], *argv[] = {file_flag}, *text = NULL;
    struct daemon_config *a, *b;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);

    (void)state;
    write_file("tiers:\n  - {name: a, label: x, ttft_ms: 0250.5, tbt_ms: 12.5, reserved: 0.5, "
               "on_miss: wait}\n"
               "  - {name: b, ttft_ms: 3e3, tbt_ms: 100}\n"
               "tenants:\n  - {name: \"o'hara: #1\", weight: 3, tokens_per_s: 1e6, burst_s: 2, "
               "max_live: 7}\n"
               "elastic: true\nscale_command: /bin/true\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    a = load(1, argv);
    daemon_config_print(a, to);
    fclose(to);
    unlink(path);
    write_file(text);
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    b = load(1, argv);
    assert_memory_equal(a->tiers, b->tiers, sizeof(a->tiers));
    assert_memory_equal(a->tier_labels, b->tier_labels, sizeof(a->tier_labels));
    assert_int_equal(b->n_tenants, 1);
    assert_memory_equal(a->tenants, b->tenants, sizeof(*a->tenants));
    assert_true(b->elastic);
    assert_string_equal(b->scale_command, "/bin/true");
    daemon_config_free(a);
    daemon_config_free(b);
    free(text);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

static void keys_name_tenants_and_unlisted_ones_have_no_quota(void **state)
{
    char file_flag[96], *argv[] = {file_flag};
    struct daemon_config *c;

    (void)state;
    write_file("keys:\n"
               "  - {name: a, tenant: acme, admin: true, sha256: "
               "0bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}\n"
               "  - {name: b, tenant: other, sha256: "
               "1bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}\n"
               "  - {name: c, tenant: other, sha256: "
               "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}\n"
               "  - {sha256: 3bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}\n"
               "tenants:\n  - {name: idle, weight: 2}\n  - {name: acme, tokens_per_s: 500.5, "
               "max_live: 3}\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    c = load(1, argv);
    assert_int_equal(c->n_tenants, 3);
    assert_int_equal(c->keys[0].tenant_id, 2);
    assert_true(c->tenants[1].t.tokens_per_s == 500.5 && c->tenants[1].t.burst_s == 10);
    assert_int_equal(c->tenants[1].t.max_live, 3);
    assert_int_equal(c->keys[1].tenant_id, 3);
    assert_int_equal(c->keys[2].tenant_id, 3);
    assert_string_equal(c->tenants[2].name, "other");
    assert_true(c->tenants[2].t.tokens_per_s == 0 && c->tenants[2].t.id == 3);
    assert_int_equal(c->keys[3].tenant_id, 0);
    assert_true(c->keys[0].admin && !c->keys[1].admin);
    daemon_config_free(c);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

static void a_contract_out_of_range_is_refused_with_its_line(void **state)
{
    static const char head[] = "tiers:\n  - name: a\n    ttft_ms: 1\n    tbt_ms: 1\n";
    static const struct {
        const char *line, *a, *b;
    } cases[] = {
        {"    ttft_factor: -1\n", "ttft_factor", "0 to 1000"},
        {"    percentile: 1\n", "percentile", "0.01 to 0.9999"},
        {"    percentile: nan\n", "percentile", "nan"},
        {"    weight: 0\n", "weight", "0.001"},
        {"    weight: 0x10\n", "weight", "0x10"},
        {"    reserved: 1\n", "reserved", "0 to 0.99"},
        {"    starvation_ms: 0\n", "starvation_ms", "1 to"},
        {"    on_miss: shrug\n", "on_miss", "downgrade"},
        {"    transfer_class: 1.5\n", "transfer_class", "whole numbers"},
        {"    label: 'a b'\n", "label", "letters"},
        {"    ttft_s: 1\n", "ttft_s", "config"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[256];

        snprintf(text, sizeof(text), "%s%s", head, cases[i].line);
        refused(text, "line 5", cases[i].a, cases[i].b);
    }
    refused("tiers:\n  - {name: a, ttft_ms: 1, tbt_ms: 0.9}\n", "line 2", "tbt_ms", "from 1 to");
    refused("tiers:\n  - {name: a, ttft_ms: 1, tbt_ms: 1, reserved: 0.6}\n"
            "  - {name: b, ttft_ms: 1, tbt_ms: 1, reserved: 0.4}\n",
            "line 3", "reserved", "less than 1");
    refused("tiers:\n  - {name: a, ttft_ms: 1, tbt_ms: 1, label: x}\n"
            "  - {name: x, ttft_ms: 1, tbt_ms: 1}\n",
            "line 3", "label", "x");
    refused("tenants:\n  - {name: a}\n  - {name: a}\n", "line 3", "two tenants", "a");
    refused("tenants:\n  - {name: a}\n  - {name: b, max_live: many}\n", "line 3", "max_live",
            "whole numbers");
    refused("tenants:\n  - {weight: 2}\n", "name", "line", "");
    refused("keys:\n  - {admin: maybe, sha256: "
            "0bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}\n",
            "line 2", "admin", "true and false");
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

/* One file may serve the whole cluster: what it says of other workers is nothing to this one. */
static void only_workers_that_the_command_starts_need_devices(void **state)
{
    char file_flag[96], *argv[] = {file_flag, (char *)(uintptr_t) "--device=3"};
    struct err_msg msg = {""};
    struct daemon_config *c = NULL;

    (void)state;
    write_file("tp: 1\nprefill_tp: 2\n");
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    assert_int_equal(daemon_config_load(DAEMON_CMD_SERVE, 2, argv, &msg, &c), ERR_INVALID);
    assert_non_null(strstr(msg.text, "device lists 1, but a worker has 2 ranks"));
    assert_int_equal(daemon_config_load(DAEMON_CMD_DECODE, 2, argv, &msg, &c), ERR_OK);
    daemon_config_free(c);
    unlink(path);
    write_file("tp: 4\nprefill_tp: 1\ndecode: 0\n"); /* nobody has four */
    snprintf(file_flag, sizeof(file_flag), "--config=%s", path);
    c = load(2, argv);
    daemon_config_free(c);
    unlink(path);
    assert_int_equal(mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flag_beats_environment_beats_file_beats_default),
        cmocka_unit_test(tiers_and_keys_come_from_the_file),
        cmocka_unit_test(a_bad_file_is_refused_with_line_and_range),
        cmocka_unit_test(a_tier_tighter_than_the_one_before_is_refused),
        cmocka_unit_test(a_tier_cannot_have_a_name_that_means_something_else_to_clients),
        cmocka_unit_test(a_tier_is_a_whole_contract),
        cmocka_unit_test(what_is_printed_can_be_read_back),
        cmocka_unit_test(only_workers_that_the_command_starts_need_devices),
        cmocka_unit_test(keys_name_tenants_and_unlisted_ones_have_no_quota),
        cmocka_unit_test(a_contract_out_of_range_is_refused_with_its_line),
        cmocka_unit_test(a_bad_flag_is_refused_with_a_hint),
        cmocka_unit_test(model_dir_on_the_command_line_replaces_the_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
