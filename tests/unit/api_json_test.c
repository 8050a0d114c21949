/* tests/unit/api_json_test.c - the JSON reader against the JSON parsing suite, an independent reader, and its
 * own bounds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "daemon/api_json.h"

static enum err parse(const char *text, size_t len, struct api_json *doc,
                      struct api_json_error *error)
{
    /* Its own block, so that a read past the end is seen by the sanitizers. */
    char *exact = mem_try_strndup(text, len);
    char *tight = mem_try_alloc(len);
    enum err err;

    assert_non_null(exact);
    assert_non_null(tight);
    memcpy(tight, text, len);
    err = api_json_parse(tight, len, doc, error);
    mem_free(exact);
    if (err == ERR_OK)
        api_json_free(doc);
    mem_free(tight);
    return err;
}

static bool accepted(const char *text)
{
    struct api_json doc;
    struct api_json_error error;

    return parse(text, strlen(text), &doc, &error) == ERR_OK;
}

static enum api_json_fault fault_of(const char *text)
{
    struct api_json doc;
    struct api_json_error error;

    assert_int_equal(parse(text, strlen(text), &doc, &error), ERR_INVALID);
    assert_true(error.at <= strlen(text));
    assert_true(strlen(error.why) > 5);
    return error.fault;
}

/* ---- the suite ---- */
static char *suite_dir(char *path, size_t size)
{
    const char *shared = getenv("BATON_SHARED");
    char command[1200];

    snprintf(path, size, "%s/baton-json-suite-XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(path) == NULL)
        return NULL;
    snprintf(command, sizeof(command), "tar -xf '%s/corpora/json_test_suite.tar.xz' -C '%s'",
             shared != NULL ? shared : "../shared", path);
    return system(command) == 0 ? path : NULL;
}

static void suite_file_gets_the_verdict_its_name_says(const char *dir, const char *name,
                                                      unsigned count[3])
{
    static char bytes[1 << 20];
    char path[1500];
    struct api_json doc;
    struct api_json_error error;
    FILE *f;
    size_t n;
    enum err err;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    n = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    err = parse(bytes, n, &doc, &error);
    if (name[0] == 'y' && (err == ERR_OK || error.fault == API_JSON_DUPLICATE_KEY))
        count[0]++;
    else if (name[0] == 'n' && err == ERR_INVALID)
        count[1]++;
    else if (name[0] == 'i' && (err == ERR_OK) == (strncmp(name, "i_number", 8) == 0))
        count[2]++; /* numbers are taken, and judged where one is needed; all else is refused */
    else
        fail_msg("%s: wrong verdict: %s", name, err == ERR_OK ? "taken" : error.why);
}

static void every_file_of_the_suite_gets_its_verdict(void **state)
{
    char root[1100], dir[1150], command[1250];
    unsigned count[3] = {0, 0, 0};
    struct dirent *entry;
    DIR *d;

    (void)state;
    if (suite_dir(root, sizeof(root)) == NULL) {
        print_message("skipped: the JSON suite is not there; set BATON_SHARED\n");
        skip();
    }
    snprintf(dir, sizeof(dir), "%s/test_parsing", root);
    d = opendir(dir);
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        if (entry->d_name[0] != '.')
            suite_file_gets_the_verdict_its_name_says(dir, entry->d_name, count);
    }
    closedir(d);
    snprintf(command, sizeof(command), "rm -r '%s'", root);
    assert_int_equal(system(command), 0);
    assert_int_equal(count[0], 95);
    assert_int_equal(count[1], 188);
    assert_int_equal(count[2], 35);
}

/* ---- bounds ---- */
static struct buf nested(size_t depth)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < depth; i++)
        assert_int_equal(buf_puts(&b, i % 2 ? "{\"a\":" : "["), ERR_OK);
    assert_int_equal(buf_puts(&b, "1"), ERR_OK);
    for (size_t i = depth; i-- > 0;)
        assert_int_equal(buf_puts(&b, i % 2 ? "}" : "]"), ERR_OK);
    return b;
}

static void nesting_is_bounded_at_64(void **state)
{
    struct api_json doc;
    struct api_json_error error;

    (void)state;
    for (size_t depth = 63; depth <= 65; depth++) {
        struct buf b = nested(depth);

        assert_int_equal(parse(buf_bytes(&b), b.len, &doc, &error),
                         depth <= 64 ? ERR_OK : ERR_INVALID);
        if (depth > 64)
            assert_int_equal(error.fault, API_JSON_TOO_COMPLEX);
        buf_free(&b);
    }
}

static void keys_of_one_object_are_bounded_at_1024(void **state)
{
    struct api_json doc;
    struct api_json_error error;

    (void)state;
    for (unsigned n = 1023; n <= 1025; n++) {
        struct buf b = BUF_INIT;

        for (unsigned i = 0; i < n; i++)
            assert_int_equal(
                buf_printf(&b, "%c\"k%u\":%u", i == 0 ? '{' : ',', i * 7919 % 100003, i), ERR_OK);
        assert_int_equal(buf_puts(&b, "}"), ERR_OK);
        assert_int_equal(parse(buf_bytes(&b), b.len, &doc, &error),
                         n <= 1024 ? ERR_OK : ERR_INVALID);
        buf_free(&b);
    }
}

static void values_are_bounded_at_a_million(void **state)
{
    struct api_json doc;
    struct api_json_error error;

    (void)state;
    for (unsigned n = 999998; n <= 1000000; n++) { /* and the array itself */
        struct buf b = BUF_INIT;

        assert_int_equal(buf_puts(&b, "[0"), ERR_OK);
        for (unsigned i = 1; i < n; i++)
            assert_int_equal(buf_append(&b, ",0", 2), ERR_OK);
        assert_int_equal(buf_puts(&b, "]"), ERR_OK);
        assert_int_equal(parse(buf_bytes(&b), b.len, &doc, &error),
                         n <= 999999 ? ERR_OK : ERR_INVALID);
        buf_free(&b);
    }
}

static void same_key_is_found_wherever_and_however_it_is_written(void **state)
{
    struct buf b = BUF_INIT;

    (void)state;
    assert_int_equal(fault_of("{\"a\":1,\"b\":2,\"a\":3}"), API_JSON_DUPLICATE_KEY);
    assert_int_equal(fault_of("{\"a\":1,\"\\u0061\":3}"), API_JSON_DUPLICATE_KEY);
    assert_int_equal(fault_of("[{\"x\":{\"\":1,\"\":1}}]"), API_JSON_DUPLICATE_KEY);
    assert_true(accepted("{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":1}}"));
    for (unsigned twin = 0; twin < 200; twin += 13) {
        buf_clear(&b);
        for (unsigned i = 0; i < 200; i++)
            assert_int_equal(buf_printf(&b, "%c\"%u\":%u", i == 0 ? '{' : ',', i * 31 % 997, i),
                             ERR_OK);
        assert_int_equal(buf_printf(&b, ",\"%u\":[]}%c", twin * 31 % 997, '\0'), ERR_OK);
        assert_int_equal(fault_of(buf_bytes(&b)), API_JSON_DUPLICATE_KEY);
    }
    buf_free(&b);
}

static void what_is_not_json_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "nul",
                                      "nulll",
                                      "True",
                                      "[1,]",
                                      "[,1]",
                                      "{,}",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{a:1}",
                                      "{1:1}",
                                      "[1 2]",
                                      "\"a",
                                      "\"\\",
                                      "\"\\u12\"",
                                      "01",
                                      "1.",
                                      ".5",
                                      "+1",
                                      "-",
                                      "1e",
                                      "1e+",
                                      "0x1",
                                      "NaN",
                                      "Infinity",
                                      "-Infinity",
                                      "\"\t\"",
                                      "\"\\x\"",
                                      "[1]]",
                                      "{}{}",
                                      "//x\n1",
                                      "1/**/",
                                      "\xef\xbb\xbf[]",
                                      "'a'",
                                      "[\"a\",",
                                      "\"\x7f",
                                      "\"\x80\"",
                                      "\"\xc0\xaf\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xf4\x90\x80\x80\"",
                                      "\"\\ud800\"",
                                      "\"\\udc00\"",
                                      "\"\\ud800\\ud800\"",
                                      "\"\\ud800x\"",
                                      "1\v"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (accepted(bad[i]))
            fail_msg("taken: %s", bad[i]);
    }
}

static void strings_come_out_decoded(void **state)
{
    static const char text[] =
        "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"plain and long enough for eight\", "
        "\"\\u00e4\\u20ac\\ud83d\\ude00x\", \"\xc3\xa4\xf0\x9f\x98\x80\", \"a\\u0000b\"]";
    static const char *const want[] = {"\"\\/\b\f\n\r\t", "plain and long enough for eight",
                                       "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80x",
                                       "\xc3\xa4\xf0\x9f\x98\x80"};
    struct api_json doc;
    struct api_json_error error;
    size_t len;

    (void)state;
    assert_int_equal(api_json_parse(text, sizeof(text) - 1, &doc, &error), ERR_OK);
    for (uint32_t i = 0; i < 4; i++) {
        const char *s = api_json_string(&doc, i + 1, &len);

        assert_int_equal(len, strlen(want[i]));
        assert_memory_equal(s, want[i], len);
        assert_false(doc.nodes[i + 1].has_nul);
    }
    assert_true(doc.nodes[5].has_nul);
    assert_int_equal(doc.nodes[5].n, 3);
    api_json_free(&doc);
}

static void numbers_keep_their_exact_value(void **state)
{
    static const struct {
        const char *text;
        enum api_json_type type;
        int64_t i;
    } ints[] = {{"0", API_JSON_INT, 0},
                {"-0", API_JSON_INT, 0},
                {"9223372036854775807", API_JSON_INT, INT64_MAX},
                {"-9223372036854775808", API_JSON_INT, INT64_MIN},
                {"9223372036854775808", API_JSON_REAL, 0},
                {"-9223372036854775809", API_JSON_REAL, 0},
                {"18446744073709551616", API_JSON_REAL, 0},
                {"1.0", API_JSON_REAL, 0},
                {"1e2", API_JSON_REAL, 0}};
    struct api_json doc;
    struct api_json_error error;
    double d;

    (void)state;
    for (size_t i = 0; i < sizeof(ints) / sizeof(ints[0]); i++) {
        assert_int_equal(api_json_parse(ints[i].text, strlen(ints[i].text), &doc, &error), ERR_OK);
        assert_int_equal(doc.nodes[0].type, ints[i].type);
        if (ints[i].type == API_JSON_INT)
            assert_true(doc.nodes[0].i == ints[i].i);
        else
            assert_true(doc.nodes[0].too_big == (strpbrk(ints[i].text, ".e") == NULL));
        assert_int_equal(api_json_double(&doc, 0, &d), ERR_OK);
        assert_true(d == strtod(ints[i].text, NULL));
        api_json_free(&doc);
    }
    assert_int_equal(api_json_parse("1e309", 5, &doc, &error), ERR_OK);
    assert_int_equal(api_json_double(&doc, 0, &d), ERR_LIMIT);
    api_json_free(&doc);
    assert_int_equal(api_json_parse("\"1\"", 3, &doc, &error), ERR_OK);
    assert_int_equal(api_json_double(&doc, 0, &d), ERR_INVALID);
    api_json_free(&doc);
}

/* ---- against an independent reader ---- */
static uint32_t rng_state = 12345;

static uint32_t rng(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (rng_state >> 8) % n;
}

static json_t *to_jansson(const struct api_json *doc, uint32_t at)
{
    const struct api_node *node = &doc->nodes[at];
    json_t *out;
    double d;
    size_t len;

    switch ((enum api_json_type)node->type) {
    case API_JSON_NULL:
        return json_null();
    case API_JSON_BOOL:
        return json_boolean(node->i);
    case API_JSON_INT:
        return json_integer(node->i);
    case API_JSON_REAL:
        assert_int_equal(api_json_double(doc, at, &d), ERR_OK);
        return json_real(d);
    case API_JSON_STRING: {
        const char *s = api_json_string(doc, at, &len);

        return json_stringn(s, len);
    }
    case API_JSON_ARRAY:
        out = json_array();
        for (uint32_t i = at + 1; i < node->end; i = api_json_next(doc, i))
            json_array_append_new(out, to_jansson(doc, i));
        return out;
    case API_JSON_OBJECT:
        out = json_object();
        for (uint32_t i = at + 1; i < node->end; i = api_json_next(doc, i + 1)) {
            const char *key = api_json_string(doc, i, &len);
            char *copy = mem_try_strndup(key, len);

            json_object_set_new_nocheck(out, copy, to_jansson(doc, i + 1));
            mem_free(copy);
        }
        return out;
    }
    return NULL;
}

static void same_as_jansson(const char *text, size_t len)
{
    struct api_json doc;
    struct api_json_error fault;
    json_error_t error;
    json_t *other =
        json_loadb(text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    enum err err = api_json_parse(text, len, &doc, &fault);

    if (other == NULL && json_error_code(&error) == json_error_numeric_overflow) {
        if (err == ERR_OK) /* here a number is judged where one is needed */
            api_json_free(&doc);
        return;
    }
    if ((other != NULL) != (err == ERR_OK))
        fail_msg("verdicts differ on %.*s", (int)len, text);
    if (err == ERR_OK) {
        json_t *ours = to_jansson(&doc, 0);

        if (json_equal(ours, other) == 0)
            fail_msg("values differ on %.*s", (int)len, text);
        json_decref(ours);
        api_json_free(&doc);
    }
    json_decref(other);
}

static void mutated_texts_get_the_verdict_and_value_of_jansson(void **state)
{
    static const char *const seeds[] = {
        "{\"a\":[1,-2,3.5e-1,\"x\\n\\u00e4\",{\"b\":null,\"c\":true}],\"d\":{\"e\":false}}",
        "[[],{},[{}],\"\\ud83d\\ude00\",1e5,12345678901,\"\xe2\x82\xac\"]",
        "{\"model\":\"m\",\"prompt\":[1,2,3],\"n\":1,\"stop\":[\"a\",\"b\"]}"};
    static const char bytes[] = "{}[]\",:\\0123456789eE+-.tfnu \n\x01\xc3\xa4x";
    char text[200];

    (void)state;
    for (unsigned round = 0; round < 60000; round++) {
        const char *seed = seeds[rng(3)];
        size_t len = strlen(seed);

        memcpy(text, seed, len);
        for (unsigned m = rng(4); m > 0; m--) {
            size_t at = rng((uint32_t)len);

            switch (rng(3)) {
            case 0:
                text[at] = bytes[rng(sizeof(bytes) - 1)];
                break;
            case 1:
                memmove(text + at, text + at + 1, len - at - 1);
                len--;
                break;
            default:
                memmove(text + at + 1, text + at, len - at);
                text[at] = bytes[rng(sizeof(bytes) - 1)];
                len++;
                break;
            }
        }
        same_as_jansson(text, len);
    }
}

static void any_failed_allocation_is_reported_and_leaves_nothing(void **state)
{
    struct buf b = BUF_INIT;
    struct api_json doc;
    struct api_json_error error;
    size_t before;
    enum err err = ERR_NOMEM;

    (void)state;
    assert_int_equal(buf_puts(&b, "[\"\\n\""), ERR_OK);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(buf_puts(&b, ",1"), ERR_OK);
    assert_int_equal(buf_puts(&b, "]"), ERR_OK);
    before = mem_live();
    for (long n = 0; err != ERR_OK; n++) {
        mem_fail_at(n);
        err = api_json_parse(buf_bytes(&b), b.len, &doc, &error);
        mem_fail_at(-1);
        if (err == ERR_OK)
            api_json_free(&doc);
        else
            assert_int_equal(err, ERR_NOMEM);
        assert_int_equal(mem_live(), before);
        assert_true(n < 50);
    }
    buf_free(&b);
}

/* Token ids are read eight bytes at a time. */
static void ids_of_every_length_are_read_as_they_are(void **state)
{
    char text[1024];
    struct api_json doc;
    struct api_json_error error;
    int64_t want[64];
    size_t n = 0, len = 0;

    (void)state;
    text[len++] = '[';
    for (int64_t v = 1; v < 100000000000; v = 10 * v + v % 7) {
        for (int64_t add = 0; add < 2; add++) {
            want[n++] = v + add;
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%lld,%s", (long long)(v + add),
                                    n % 3 == 0 ? " " : "");
        }
    }
    want[n++] = 0;
    len += (size_t)snprintf(text + len, sizeof(text) - len, "0]");
    assert_int_equal(api_json_parse(text, len, &doc, &error), ERR_OK);
    assert_int_equal(doc.nodes[0].n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(doc.nodes[1 + i].type, API_JSON_INT);
        assert_true(doc.nodes[1 + i].i == want[i]);
    }
    api_json_free(&doc);
}

static void what_stands_behind_digits_is_seen_wherever_it_stands(void **state)
{
    (void)state;
    for (int digits = 1; digits <= 9; digits++) {
        for (int c = 1; c < 256; c++) {
            char text[64];
            struct api_json doc;
            struct api_json_error error;
            size_t len = (size_t)snprintf(text, sizeof(text), "[%.*s%c5,6,7,8,9,10,11]", digits,
                                          "987654321", c);
            bool good = (c >= '0' && c <= '9') || strchr(",.eE", c) != NULL;

            assert_int_equal(api_json_parse(text, len, &doc, &error) == ERR_OK, good);
            if (good) {
                assert_int_equal(doc.nodes[0].n, c == ',' ? 8 : 7);
                api_json_free(&doc);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_of_the_suite_gets_its_verdict),
        cmocka_unit_test(nesting_is_bounded_at_64),
        cmocka_unit_test(keys_of_one_object_are_bounded_at_1024),
        cmocka_unit_test(values_are_bounded_at_a_million),
        cmocka_unit_test(same_key_is_found_wherever_and_however_it_is_written),
        cmocka_unit_test(what_is_not_json_is_refused),
        cmocka_unit_test(strings_come_out_decoded),
        cmocka_unit_test(numbers_keep_their_exact_value),
        cmocka_unit_test(mutated_texts_get_the_verdict_and_value_of_jansson),
        cmocka_unit_test(ids_of_every_length_are_read_as_they_are),
        cmocka_unit_test(what_stands_behind_digits_is_seen_wherever_it_stands),
        cmocka_unit_test(any_failed_allocation_is_reported_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
