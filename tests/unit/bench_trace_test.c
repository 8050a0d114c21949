/* Traces: what the known formats mean, what is said about files that are broken, and draws that keep
 * their statistics. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench/trace.h"

static char dir[64] = "/tmp/bench_trace_XXXXXX";

static const char *put(const char *name, const char *text)
{
    static char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
    return path;
}

static struct bench_trace load(const char *name, const char *text)
{
    struct bench_trace t;
    struct err_msg msg = {""};
    enum err err = bench_trace_load(put(name, text), 1, &msg, &t);

    if (err != ERR_OK)
        fail_msg("%s", msg.text);
    return t;
}

/* The file is refused, and the message says both words. */
static void refused(const char *name, const char *text, const char *row, const char *what)
{
    struct bench_trace t;
    struct err_msg msg = {""};
    size_t live = mem_live();

    assert_int_equal(bench_trace_load(put(name, text), 1, &msg, &t), ERR_INVALID);
    if (strstr(msg.text, row) == NULL || strstr(msg.text, what) == NULL)
        fail_msg("'%s' names neither '%s' nor '%s'", msg.text, row, what);
    assert_int_equal(mem_live(), live);
}

static void azure_dates_of_both_years_become_seconds_from_the_first_arrival(void **state)
{
    struct bench_trace t = load("conv.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                                            "2024-02-29 23:59:59.500000+00:00,374,44\r\n"
                                            "2024-03-01 00:00:01.7500000,396,0\n\n");

    (void)state;
    assert_int_equal(t.n, 2);
    assert_string_equal(t.name, "azure-conv");
    assert_true(t.v[0].at_s == 0);
    assert_true(fabs(t.v[1].at_s - 2.25) < 1e-6);
    assert_int_equal(t.v[0].n_prompt, 374);
    assert_int_equal(t.v[0].n_out, 44);
    assert_int_equal(t.v[1].n_out, 1);
    assert_true(fabs(t.seconds - 4.5) < 1e-6);
    bench_trace_free(&t);
}

static void burstgpt_columns_may_stand_in_any_order_and_failed_requests_are_no_load(void **state)
{
    struct bench_trace t =
        load("b.csv", "Session ID,Response tokens,Model,Timestamp,Request tokens\n"
                      "a,18,\"Chat, GPT\",45.0,472\n"
                      "b,0,GPT-4,46,1000\n"
                      "a,230,GPT-4,118,1087\n");

    (void)state;
    assert_int_equal(t.n, 2);
    assert_string_equal(t.name, "burstgpt");
    assert_int_equal(t.v[1].n_prompt, 1087);
    assert_true(fabs(t.v[1].at_s - 73) < 1e-9);
    assert_true(t.v[0].session != 0 && t.v[0].session == t.v[1].session);
    bench_trace_free(&t);
}

static void mooncake_keeps_its_blocks_and_names_conversations_by_the_second(void **state)
{
    struct bench_trace t = load(
        "m.jsonl",
        "{\"timestamp\": 0, \"input_length\": 1025, \"output_length\": 5, \"hash_ids\": [0, 7, "
        "9]}\n"
        "{\"timestamp\": 3000, \"input_length\": 700, \"output_length\": 6, \"hash_ids\": [0, 7]}\n"
        "{\"timestamp\": 9000, \"input_length\": 513, \"output_length\": 6, \"hash_ids\": [0, "
        "8]}\n");

    (void)state;
    assert_int_equal(t.n, 3);
    assert_string_equal(t.name, "mooncake");
    assert_int_equal(t.v[0].n_blocks, 3);
    assert_int_equal(t.blocks[t.v[0].first_block + 2], 9);
    assert_true(t.v[0].session == t.v[1].session);
    assert_true(t.v[0].session != t.v[2].session);
    bench_trace_free(&t);
}

static void coarse_stamps_are_spread_over_their_tick_and_no_further(void **state)
{
    char text[8192] = "", line[128];
    struct bench_trace t, again;
    double max_gap = 0;

    (void)state;
    for (int i = 0; i < 40; i++) {
        snprintf(line, sizeof(line),
                 "{\"timestamp\": %d, \"input_length\": 10, \"output_length\": 5}\n",
                 i / 10 * 3000);
        memcpy(text + strlen(text), line, strlen(line) + 1);
    }
    t = load("q.jsonl", text);
    again = load("q.jsonl", text);
    for (size_t i = 1; i < t.n; i++) {
        double gap = t.v[i].at_s - t.v[i - 1].at_s;

        assert_true(gap >= 0);
        assert_true(t.v[i].at_s == again.v[i].at_s);
        max_gap = gap > max_gap ? gap : max_gap;
    }
    assert_true(max_gap < 2);
    assert_true(t.v[39].at_s > 9 - 3 && t.v[39].at_s < 12);
    bench_trace_free(&t);
    bench_trace_free(&again);
}

static void datasets_give_texts_or_lengths(void **state)
{
    struct bench_trace t = load("d.jsonl", "{\"prompt\": \"twelve bytes\", \"output_tokens\": 9}\n"
                                           "{\"prompt_len\": 33, \"output_len\": 2}\n");

    (void)state;
    assert_int_equal(t.v[0].n_prompt, 3);
    assert_int_equal(t.v[0].n_out, 9);
    assert_memory_equal(t.text + t.v[0].text, "twelve bytes", t.v[0].text_len);
    assert_int_equal(t.v[1].n_prompt, 33);
    assert_int_equal(t.v[1].text_len, 0);
    assert_true(t.v[1].at_s == 1);
    bench_trace_free(&t);
    t = load("s.json",
             "[{\"id\": \"a\", \"conversations\": [{\"from\": \"human\", \"value\": \"12345678\"},"
             "{\"from\": \"gpt\", \"value\": \"1234\"}]},"
             "{\"id\": \"b\", \"conversations\": [{\"from\": \"gpt\", \"value\": \"x\"}]}]");
    assert_int_equal(t.n, 1);
    assert_string_equal(t.name, "sharegpt");
    assert_int_equal(t.v[0].n_prompt, 2);
    assert_int_equal(t.v[0].n_out, 1);
    bench_trace_free(&t);
}

static void compressed_files_read_like_plain_ones_and_say_when_they_are_cut(void **state)
{
    const char *text = "TIMESTAMP,ContextTokens,GeneratedTokens\n1,10,20\n2,11,21\n";
    const char *path = put("z.csv.gz", "");
    unsigned char whole[256];
    struct bench_trace t;
    struct err_msg msg = {""};
    gzFile gz = gzopen(path, "wb");
    FILE *f;
    size_t n;

    (void)state;
    assert_int_equal(gzwrite(gz, text, (unsigned)strlen(text)), (int)strlen(text));
    assert_int_equal(gzclose(gz), Z_OK);
    assert_int_equal(bench_trace_load(path, 1, &msg, &t), ERR_OK);
    assert_int_equal(t.n, 2);
    bench_trace_free(&t);
    f = fopen(path, "rb");
    n = fread(whole, 1, sizeof(whole), f);
    fclose(f);
    f = fopen(path, "wb");
    assert_int_equal(fwrite(whole, 1, n - 12, f), n - 12);
    fclose(f);
    assert_int_equal(bench_trace_load(path, 1, &msg, &t), ERR_IO);
}

static void broken_files_are_refused_with_row_and_field(void **state)
{
    const char *head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    static const char *const bad[][3] = {
        {"1,10,20\n2,x,3\n", "row 3", "ContextTokens"},
        {"1,10,-1\n", "row 2", "GeneratedTokens"},
        {"1,10,1.5\n", "row 2", "GeneratedTokens"},
        {"1,10\n", "row 2", "GeneratedTokens"},
        {"never,10,1\n", "row 2", "TIMESTAMP"},
        {"2023-13-01 00:00:00,10,1\n", "row 2", "TIMESTAMP"},
        {"nan,10,1\n", "row 2", "TIMESTAMP"},
        {"1,99999999999,1\n", "row 2", "ContextTokens"},
        {"", "", "no rows"},
    };
    static const char *const json[][3] = {
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n{\n", "row 2", "not JSON"},
        {"{\"timestamp\": 0, \"input_length\": -1, \"output_length\": 1}\n", "row 1",
         "input_length"},
        {"{\"timestamp\": 0, \"input_length\": 1}\n", "row 1", "output_length"},
        {"{\"timestamp\": \"x\", \"input_length\": 1, \"output_length\": 1}\n", "row 1",
         "timestamp"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n"
         "{\"input_length\": 1, \"output_length\": 1}\n",
         "row 2", "timestamp"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [\"a\"]}\n",
         "row 1", "hash_ids"},
        {"{\"output_len\": 3}\n", "row 1", "prompt"},
        {"[1, 2", "line", "not JSON"},
        {"[{\"conversations\": 3}]", "row 1", "conversations"},
    };
    char text[512];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(text, sizeof(text), "%s%s", head, bad[i][0]);
        refused("bad.csv", text, bad[i][1], bad[i][2]);
    }
    for (size_t i = 0; i < sizeof(json) / sizeof(json[0]); i++)
        refused("bad.jsonl", json[i][0], json[i][1], json[i][2]);
    refused("what.csv", "a,b,c\n1,2,3\n", "row 1", "not a known trace");
    refused("empty", "", "", "empty");
}

static void a_missing_file_is_said_to_be_missing(void **state)
{
    struct bench_trace t;
    struct err_msg msg = {""};

    (void)state;
    assert_int_equal(bench_trace_load("/nowhere/at/all", 1, &msg, &t), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "/nowhere/at/all"));
}

static void running_out_of_memory_anywhere_leaves_nothing_behind(void **state)
{
    char text[512];
    size_t live = mem_live();
    bool failed = true;

    (void)state;
    snprintf(text, sizeof(text),
             "{\"timestamp\": 0, \"prompt\": \"abc\", \"output_length\": 1, \"hash_ids\": [1]}\n");
    put("mem.jsonl", text);
    for (long at = 0; failed; at++) {
        struct bench_trace t;
        struct err_msg msg = {""};
        enum err err;

        mem_fail_at(at);
        err = bench_trace_load(put("mem.jsonl", text), 1, &msg, &t);
        mem_fail_at(-1);
        failed = err != ERR_OK;
        if (!failed)
            bench_trace_free(&t);
        else
            assert_int_equal(err, ERR_NOMEM);
        assert_int_equal(mem_live(), live);
    }
}

/* ---- draws ---- */

struct gaps {
    double rate, cv;
};
static struct gaps gaps_of(const struct bench_trace *t)
{
    double sum = 0, sum2 = 0, mean, n = (double)(t->n - 1);

    for (size_t i = 1; i < t->n; i++) {
        double g = t->v[i].at_s - t->v[i - 1].at_s;

        sum += g;
        sum2 += g * g;
    }
    mean = sum / n;
    return (struct gaps){1 / mean, sqrt(fmax(0, sum2 / n - mean * mean)) / mean};
}

static struct bench_draw plan(enum bench_arrival arrival)
{
    return (struct bench_draw){.arrival = arrival,
                               .rate = 50,
                               .seconds = 800,
                               .burstiness = 0.25,
                               .in_mean = 800,
                               .in_sigma = 1,
                               .out_mean = 200,
                               .out_pareto = 2.5,
                               .in_max = 1 << 20,
                               .out_max = 1 << 20,
                               .seed = 7};
}

static void arrivals_have_the_rate_and_burstiness_asked_for(void **state)
{
    static const struct {
        enum bench_arrival arrival;
        double cv;
    } want[] = {{BENCH_ARRIVE_POISSON, 1}, {BENCH_ARRIVE_CONSTANT, 0}, {BENCH_ARRIVE_GAMMA, 2}};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct bench_draw d = plan(want[i].arrival);
        struct err_msg msg = {""};
        struct bench_trace t;
        struct gaps g;

        assert_int_equal(bench_trace_draw(&d, &msg, &t), ERR_OK);
        g = gaps_of(&t);
        assert_true(fabs(g.rate / 50 - 1) < 0.04);
        assert_true(fabs(g.cv - want[i].cv) < 0.08);
        bench_trace_free(&t);
    }
}

static void a_changing_rate_is_followed_piece_by_piece(void **state)
{
    const double piece[] = {1, 3, 0, 4};
    struct bench_draw d = plan(BENCH_ARRIVE_NHPP);
    struct err_msg msg = {""};
    struct bench_trace t;
    double n[4] = {0};

    (void)state;
    d.piece = piece;
    d.n_pieces = 4;
    assert_int_equal(bench_trace_draw(&d, &msg, &t), ERR_OK);
    for (size_t i = 0; i < t.n; i++)
        n[(int)(t.v[i].at_s / 200)]++;
    for (int i = 0; i < 4; i++)
        assert_true(fabs(n[i] - piece[i] / 8 * 40000) < 400);
    bench_trace_free(&t);
}

static void lengths_keep_their_mean_and_their_tail(void **state)
{
    struct bench_draw d = plan(BENCH_ARRIVE_POISSON);
    struct err_msg msg = {""};
    struct bench_trace t;
    double in = 0, out = 0, tail = 0;

    (void)state;
    assert_int_equal(bench_trace_draw(&d, &msg, &t), ERR_OK);
    for (size_t i = 0; i < t.n; i++) {
        in += t.v[i].n_prompt;
        out += t.v[i].n_out;
        tail += t.v[i].n_out > 1200; /* Pareto: (120 / 1200)^2.5 = 0.32 % */
    }
    assert_true(fabs(in / (double)t.n / 800 - 1) < 0.04);
    assert_true(fabs(out / (double)t.n / 200 - 1) < 0.05);
    assert_true(fabs(tail / (double)t.n - 0.00316) < 0.001);
    bench_trace_free(&t);
}

static void a_redrawn_trace_keeps_lengths_and_blocks_and_lives_alone(void **state)
{
    struct bench_trace from = load(
        "r.jsonl",
        "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [3, 4]}\n");
    struct bench_draw d = plan(BENCH_ARRIVE_POISSON);
    struct err_msg msg = {""};
    struct bench_trace t;

    (void)state;
    assert_int_equal(bench_trace_redraw(&from, &d, &msg, &t), ERR_OK);
    bench_trace_free(&from);
    assert_string_equal(t.name, "mooncake-poisson");
    assert_true(t.n > 30000);
    assert_int_equal(t.v[t.n - 1].n_prompt, 600);
    assert_int_equal(t.blocks[t.v[t.n - 1].first_block + 1], 4);
    bench_trace_free(&t);
}

static void the_same_seed_gives_the_same_numbers_on_every_machine(void **state)
{
    struct bench_rng r = {42};
    const double share[] = {20, 30, 50};
    uint32_t n[3] = {0};

    (void)state;
    assert_int_equal(bench_rng_next(&r), 0xbdd732262feb6e95u);
    for (uint64_t i = 0; i < 100000; i++)
        n[bench_pick_tier(1, i, share, 3)]++;
    assert_in_range(n[0], 19500, 20500);
    assert_in_range(n[1], 29400, 30600);
    assert_int_equal(bench_pick_tier(1, 77, share, 3), bench_pick_tier(1, 77, share, 3));
}

/* ---- the real ones ---- */

static void the_published_traces_have_their_published_statistics(void **state)
{
    static const struct {
        const char *file, *name;
        size_t n;
        double in, out, blocks;
    } want[] = {{"azure_llm_2023_conv.csv.gz", "azure-conv", 19366, 1155, 211, 0},
                {"mooncake_conversation.jsonl.gz", "mooncake", 12031, 12035, 343, 288500}};
    const char *shared = getenv("BATON_SHARED");

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char path[512];
        struct err_msg msg = {""};
        struct bench_trace t;
        double in = 0, out = 0;

        snprintf(path, sizeof(path), "%s/traces/%s", shared != NULL ? shared : "../shared",
                 want[i].file);
        if (access(path, R_OK) != 0) {
            print_message("%s is not here: skipped\n", path);
            skip();
        }
        if (bench_trace_load(path, 1, &msg, &t) != ERR_OK)
            fail_msg("%s", msg.text);
        for (size_t k = 0; k < t.n; k++) {
            in += t.v[k].n_prompt;
            out += t.v[k].n_out;
        }
        assert_string_equal(t.name, want[i].name);
        assert_int_equal(t.n, want[i].n);
        assert_true(fabs(in / (double)t.n - want[i].in) < 6);
        assert_true(fabs(out / (double)t.n - want[i].out) < 1);
        assert_true(t.seconds > 3490 && t.seconds < 3550);
        if (want[i].blocks > 0)
            assert_true(fabs(gaps_of(&t).cv - 1) < 0.1); /* spread, so near Poisson */
        assert_true((t.n_blocks > 0) == (want[i].blocks > 0));
        bench_trace_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(azure_dates_of_both_years_become_seconds_from_the_first_arrival),
        cmocka_unit_test(burstgpt_columns_may_stand_in_any_order_and_failed_requests_are_no_load),
        cmocka_unit_test(mooncake_keeps_its_blocks_and_names_conversations_by_the_second),
        cmocka_unit_test(coarse_stamps_are_spread_over_their_tick_and_no_further),
        cmocka_unit_test(datasets_give_texts_or_lengths),
        cmocka_unit_test(compressed_files_read_like_plain_ones_and_say_when_they_are_cut),
        cmocka_unit_test(broken_files_are_refused_with_row_and_field),
        cmocka_unit_test(a_missing_file_is_said_to_be_missing),
        cmocka_unit_test(running_out_of_memory_anywhere_leaves_nothing_behind),
        cmocka_unit_test(arrivals_have_the_rate_and_burstiness_asked_for),
        cmocka_unit_test(a_changing_rate_is_followed_piece_by_piece),
        cmocka_unit_test(lengths_keep_their_mean_and_their_tail),
        cmocka_unit_test(a_redrawn_trace_keeps_lengths_and_blocks_and_lives_alone),
        cmocka_unit_test(the_same_seed_gives_the_same_numbers_on_every_machine),
        cmocka_unit_test(the_published_traces_have_their_published_statistics),
    };

    if (mkdtemp(dir) == NULL)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
