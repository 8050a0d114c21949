/* tests/unit/api_render_test.c - responses as clients read them: each text is parsed by an independent JSON
 * reader and looked at key by key. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "daemon/api_render.h"

static const struct api_head chat = {API_CHAT,  "chatcmpl-1", 1700000000,
                                     "m \"x\"", "default",    "b1"};
static const struct api_head completion = {API_COMPLETION, "cmpl-1", 1700000000, "m", NULL, NULL};

static const char *piece(void *arg, int32_t token, size_t *len)
{
    static const char *const pieces[] = {"a", "b\n", "\xe2\x82", "b\n", "\xe2\x82\xac"};

    (void)arg;
    if (token < 0 || token > 4)
        return NULL;
    *len = strlen(pieces[token]);
    return pieces[token];
}

static json_t *parsed(const char *text, size_t len)
{
    json_error_t error;
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);

    if (j == NULL)
        fail_msg("not JSON: %s in %.*s", error.text, (int)len, text);
    return j;
}

/* The JSON of one "data: ...\n\n" event; out is emptied. */
static json_t *event(struct buf *out)
{
    json_t *j;

    assert_true(out->len > 8);
    assert_memory_equal(buf_bytes(out), "data: ", 6);
    assert_memory_equal(buf_bytes(out) + out->len - 2, "\n\n", 2);
    assert_null(memchr(buf_bytes(out), '\n', out->len - 2));
    j = parsed(buf_bytes(out) + 6, out->len - 8);
    buf_clear(out);
    return j;
}

static bool has(const json_t *object, const char *key)
{
    return json_object_get(object, key) != NULL;
}

/* ---- strings ---- */
static void strings_survive_any_bytes(void **state)
{
    static const struct {
        const char *raw;
        size_t len;
        const char *want;
    } cases[] = {{"plain", 5, "\"plain\""},
                 {"\"\\/\b\f\n\r\t", 8, "\"\\\"\\\\/\\b\\f\\n\\r\\t\""},
                 {"\x01\x1f\x7f", 3, "\"\\u0001\\u001f\x7f\""},
                 {"\0x", 2, "\"\\u0000x\""},
                 {"\xc3\xa4\xf0\x9f\x98\x80", 6, "\"\xc3\xa4\xf0\x9f\x98\x80\""},
                 {"a\x80z", 3, "\"a\xef\xbf\xbdz\""},
                 {"\xe2\x82", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
                 {"\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
                 {"", 0, "\"\""}};
    struct buf out = BUF_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        buf_clear(&out);
        assert_int_equal(api_render_string(&out, cases[i].raw, cases[i].len), ERR_OK);
        assert_int_equal(out.len, strlen(cases[i].want));
        assert_memory_equal(buf_bytes(&out), cases[i].want, out.len);
    }
    buf_free(&out);
}

static void long_strings_are_never_cut_inside_a_character(void **state)
{
    struct buf raw = BUF_INIT, out = BUF_INIT;

    (void)state;
    for (size_t lead = 0; lead < 4; lead++) {
        json_t *j;

        buf_clear(&raw);
        buf_clear(&out);
        assert_int_equal(buf_append(&raw, "xxx", lead), ERR_OK);
        for (int i = 0; i < 5000; i++)
            assert_int_equal(buf_puts(&raw, "\xf0\x9f\x98\x80"), ERR_OK);
        assert_int_equal(api_render_string(&out, buf_bytes(&raw), raw.len), ERR_OK);
        j = parsed(buf_bytes(&out), out.len);
        assert_int_equal(json_string_length(j), raw.len);
        assert_memory_equal(json_string_value(j), buf_bytes(&raw), raw.len);
        json_decref(j);
    }
    buf_free(&raw);
    buf_free(&out);
}

/* ---- chat streams ---- */
static void first_chunk_has_role_and_content_together_later_ones_only_content(void **state)
{
    struct api_choice c = {.index = 2, .text = "Hi\n", .text_len = 3};
    struct buf out = BUF_INIT;
    json_t *j, *choice;

    (void)state;
    assert_int_equal(api_render_chunk(&out, &chat, &c, true, NULL, false), ERR_OK);
    j = event(&out);
    assert_string_equal(json_string_value(json_object_get(j, "id")), "chatcmpl-1");
    assert_string_equal(json_string_value(json_object_get(j, "object")), "chat.completion.chunk");
    assert_string_equal(json_string_value(json_object_get(j, "model")), "m \"x\"");
    assert_string_equal(json_string_value(json_object_get(j, "service_tier")), "default");
    assert_string_equal(json_string_value(json_object_get(j, "system_fingerprint")), "b1");
    assert_int_equal(json_integer_value(json_object_get(j, "created")), 1700000000);
    assert_false(has(j, "usage"));
    choice = json_array_get(json_object_get(j, "choices"), 0);
    assert_int_equal(json_integer_value(json_object_get(choice, "index")), 2);
    assert_true(json_is_null(json_object_get(choice, "finish_reason")));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(choice, "delta"), "role")), "assistant");
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(choice, "delta"), "content")), "Hi\n");
    json_decref(j);

    assert_int_equal(api_render_chunk(&out, &chat, &c, false, NULL, true), ERR_OK);
    j = event(&out);
    choice = json_array_get(json_object_get(j, "choices"), 0);
    assert_false(has(json_object_get(choice, "delta"), "role"));
    assert_true(has(json_object_get(choice, "delta"), "content"));
    assert_true(json_is_null(json_object_get(j, "usage")));
    json_decref(j);
    buf_free(&out);
}

static void last_chunk_has_the_reason_and_no_empty_content(void **state)
{
    struct api_choice c = {.text = "", .finish_reason = "stop"};
    struct buf out = BUF_INIT;
    json_t *j, *choice;

    (void)state;
    assert_int_equal(api_render_chunk(&out, &chat, &c, false, NULL, false), ERR_OK);
    j = event(&out);
    choice = json_array_get(json_object_get(j, "choices"), 0);
    assert_int_equal(json_object_size(json_object_get(choice, "delta")), 0);
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "stop");
    json_decref(j);
    /* A reply that ends at once still begins. */
    assert_int_equal(api_render_chunk(&out, &chat, &c, true, NULL, false), ERR_OK);
    j = event(&out);
    choice = json_array_get(json_object_get(j, "choices"), 0);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(choice, "delta"), "content")), "");
    json_decref(j);
    buf_free(&out);
}

static void usage_comes_in_a_chunk_of_its_own_or_in_each_when_asked(void **state)
{
    struct api_usage usage = {7, 3, 0};
    struct api_choice c = {.text = "x", .text_len = 1};
    struct buf out = BUF_INIT;
    json_t *j, *u;

    (void)state;
    assert_int_equal(api_render_usage_chunk(&out, &chat, &usage), ERR_OK);
    j = event(&out);
    assert_int_equal(json_array_size(json_object_get(j, "choices")), 0);
    u = json_object_get(j, "usage");
    assert_int_equal(json_integer_value(json_object_get(u, "prompt_tokens")), 7);
    assert_int_equal(json_integer_value(json_object_get(u, "completion_tokens")), 3);
    assert_int_equal(json_integer_value(json_object_get(u, "total_tokens")), 10);
    u = json_object_get(u, "prompt_tokens_details");
    assert_true(json_is_integer(json_object_get(u, "cached_tokens")));
    json_decref(j);
    assert_int_equal(api_render_chunk(&out, &completion, &c, false, &usage, false), ERR_OK);
    j = event(&out);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(j, "usage"), "total_tokens")), 10);
    assert_false(has(j, "service_tier"));
    assert_true(json_is_null(json_object_get(j, "system_fingerprint")));
    json_decref(j);
    assert_int_equal(api_render_done(&out), ERR_OK);
    assert_int_equal(out.len, 14);
    assert_memory_equal(buf_bytes(&out), "data: [DONE]\n\n", 14);
    buf_free(&out);
}

/* ---- log probabilities ---- */
static const struct engine_top top[] = {{1, -0.5f}, {0, -1.0f}, {3, -2.0f}};
static const struct api_token_logprob tokens[] = {
    {"b\n", 2, -0.5f, top, 3}, {"\xe2\x82", 2, -INFINITY, NULL, 0}, {"\xac", 1, -3.25f, top, 2}};

static void chat_logprobs_carry_the_exact_bytes_of_each_token(void **state)
{
    struct api_choice c = {.text = "b\n\xe2\x82\xac",
                           .text_len = 5,
                           .has_logprobs = true,
                           .logprobs = {.tokens = tokens, .n = 3, .piece = piece}};
    struct buf out = BUF_INIT;
    json_t *j, *content, *t;

    (void)state;
    assert_int_equal(api_render_response(&out, &chat, &c, 1, NULL), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    t = json_object_get(json_array_get(json_object_get(j, "choices"), 0), "logprobs");
    assert_true(json_is_null(json_object_get(t, "refusal")));
    content = json_object_get(t, "content");
    assert_int_equal(json_array_size(content), 3);
    t = json_array_get(content, 0);
    assert_string_equal(json_string_value(json_object_get(t, "token")), "b\n");
    assert_true(json_number_value(json_object_get(t, "logprob")) == -0.5);
    assert_int_equal(json_array_size(json_object_get(t, "top_logprobs")), 3);
    t = json_array_get(content, 1);
    assert_int_equal(json_array_size(json_object_get(t, "bytes")), 2);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "bytes"), 0)), 0xe2);
    assert_true(json_number_value(json_object_get(t, "logprob")) == -9999.0);
    assert_int_equal(json_array_size(json_object_get(t, "top_logprobs")), 0);
    json_decref(j);
    buf_free(&out);
}

static void completion_logprobs_have_four_arrays_of_one_length(void **state)
{
    static const char *const keys[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    struct api_choice c = {
        .text = "b\n\xe2\x82\xac",
        .text_len = 5,
        .has_logprobs = true,
        .logprobs = {.tokens = tokens, .n = 3, .text_offset = 10, .piece = piece}};
    struct buf out = BUF_INIT;
    json_t *j, *l, *map;

    (void)state;
    assert_int_equal(api_render_response(&out, &completion, &c, 1, NULL), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    l = json_object_get(json_array_get(json_object_get(j, "choices"), 0), "logprobs");
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(json_array_size(json_object_get(l, keys[i])), 3);
    assert_string_equal(json_string_value(json_array_get(json_object_get(l, "tokens"), 1)),
                        "bytes:\\xe2\\x82");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(l, "text_offset"), 0)), 10);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(l, "text_offset"), 1)), 12);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(l, "text_offset"), 2)), 13);
    /* Two alternatives with one spelling make one key, with the likelier value; the token drawn is there. */
    map = json_array_get(json_object_get(l, "top_logprobs"), 0);
    assert_int_equal(json_object_size(map), 2);
    assert_true(json_number_value(json_object_get(map, "b\n")) == -0.5);
    map = json_array_get(json_object_get(l, "top_logprobs"), 1);
    assert_int_equal(json_object_size(map), 1);
    map = json_array_get(json_object_get(l, "top_logprobs"), 2);
    assert_int_equal(json_object_size(map), 3);
    json_decref(j);
    buf_free(&out);
}

static void logprobs_key_is_null_when_not_asked_for(void **state)
{
    struct api_choice c = {.text = "x", .text_len = 1, .logprobs = {.tokens = tokens, .n = 3}};
    struct buf out = BUF_INIT;
    json_t *j;

    (void)state;
    assert_int_equal(api_render_chunk(&out, &completion, &c, false, NULL, false), ERR_OK);
    j = event(&out);
    assert_true(json_is_null(
        json_object_get(json_array_get(json_object_get(j, "choices"), 0), "logprobs")));
    json_decref(j);
    buf_free(&out);
}

/* ---- whole responses ---- */
static void whole_responses_have_the_shape_of_their_endpoint(void **state)
{
    static const int32_t ids[] = {5, 6};
    struct api_choice c[2] = {{.index = 0, .text = "one", .text_len = 3, .finish_reason = "length"},
                              {.index = 1,
                               .text = "two",
                               .text_len = 3,
                               .finish_reason = "stop",
                               .token_ids = ids,
                               .n_token_ids = 2}};
    struct api_usage usage = {1, 2, 0};
    struct buf out = BUF_INIT;
    json_t *j, *choice;

    (void)state;
    assert_int_equal(api_render_response(&out, &chat, c, 2, &usage), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_string_equal(json_string_value(json_object_get(j, "object")), "chat.completion");
    choice = json_array_get(json_object_get(j, "choices"), 1);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(choice, "message"), "content")), "two");
    assert_true(json_is_null(json_object_get(json_object_get(choice, "message"), "refusal")));
    assert_int_equal(json_array_size(json_object_get(choice, "token_ids")), 2);
    assert_false(has(json_array_get(json_object_get(j, "choices"), 0), "token_ids"));
    assert_true(has(j, "usage"));
    json_decref(j);
    buf_clear(&out);
    assert_int_equal(api_render_response(&out, &completion, c, 2, &usage), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_string_equal(json_string_value(json_object_get(j, "object")), "text_completion");
    choice = json_array_get(json_object_get(j, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(choice, "text")), "one");
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    json_decref(j);
    buf_free(&out);
}

static void errors_have_all_four_keys(void **state)
{
    struct api_error e;
    struct buf out = BUF_INIT;
    json_t *j, *error;

    (void)state;
    api_error_set(&e, 400, "invalid_request_error", NULL, NULL, "no \"%s\"", "good");
    assert_int_equal(api_render_error_event(&out, &e), ERR_OK);
    j = event(&out);
    error = json_object_get(j, "error");
    assert_int_equal(json_object_size(error), 4);
    assert_string_equal(json_string_value(json_object_get(error, "message")), "no \"good\"");
    assert_true(json_is_null(json_object_get(error, "param")));
    assert_true(json_is_null(json_object_get(error, "code")));
    json_decref(j);
    buf_free(&out);
}

static void small_endpoints_speak_both_dialects(void **state)
{
    static const int32_t ids[] = {0, 4, 99};
    struct api_model_card card = {"org/m", 17, 2048, 32000};
    struct buf out = BUF_INIT;
    json_t *j;

    (void)state;
    assert_int_equal(api_render_models(&out, &card, 1), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_string_equal(json_string_value(json_object_get(j, "object")), "list");
    json_decref(j);
    buf_clear(&out);
    assert_int_equal(api_render_model(&out, &card), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_int_equal(json_integer_value(json_object_get(j, "max_model_len")), 2048);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "meta"), "n_ctx")),
                     2048);
    json_decref(j);
    buf_clear(&out);
    assert_int_equal(api_render_tokens(&out, ids, 3, 2048, true, piece, NULL), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_int_equal(json_array_size(json_object_get(j, "tokens")), 3);
    assert_int_equal(json_integer_value(json_object_get(j, "count")), 3);
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "token_strs"), 1)),
                        "\xe2\x82\xac");
    json_decref(j);
    buf_clear(&out);
    assert_int_equal(api_render_tokens(&out, NULL, 0, 2048, false, NULL, NULL), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_true(json_is_null(json_object_get(j, "token_strs")));
    json_decref(j);
    buf_clear(&out);
    assert_int_equal(api_render_text(&out, "x", 1), ERR_OK);
    j = parsed(buf_bytes(&out), out.len);
    assert_string_equal(json_string_value(json_object_get(j, "prompt")), "x");
    assert_string_equal(json_string_value(json_object_get(j, "content")), "x");
    json_decref(j);
    buf_free(&out);
}

static enum err render_everything(struct buf *out)
{
    struct api_choice c = {.text = "b\n\xe2\x82\xac",
                           .text_len = 5,
                           .has_logprobs = true,
                           .logprobs = {.tokens = tokens, .n = 3, .piece = piece}};
    struct api_usage usage = {1, 2, 0};
    enum err err = api_render_chunk(out, &chat, &c, true, &usage, false);

    if (err == ERR_OK)
        err = api_render_response(out, &completion, &c, 1, &usage);
    return err;
}

static void any_failed_allocation_leaves_the_buffer_as_it_was(void **state)
{
    enum err err = ERR_NOMEM;

    (void)state;
    for (long n = 0; err != ERR_OK; n++) {
        struct buf out = BUF_INIT;
        size_t whole;

        assert_int_equal(buf_puts(&out, "before"), ERR_OK);
        mem_fail_at(n);
        err = render_everything(&out);
        mem_fail_at(-1);
        assert_memory_equal(buf_bytes(&out), "before", 6);
        whole = out.len;
        assert_true(err == ERR_OK || whole == 6 ||
                    memcmp(buf_bytes(&out) + whole - 2, "\n\n", 2) == 0);
        buf_free(&out);
        assert_int_equal(mem_live(), 0);
        assert_true(n < 40);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_survive_any_bytes),
        cmocka_unit_test(long_strings_are_never_cut_inside_a_character),
        cmocka_unit_test(first_chunk_has_role_and_content_together_later_ones_only_content),
        cmocka_unit_test(last_chunk_has_the_reason_and_no_empty_content),
        cmocka_unit_test(usage_comes_in_a_chunk_of_its_own_or_in_each_when_asked),
        cmocka_unit_test(chat_logprobs_carry_the_exact_bytes_of_each_token),
        cmocka_unit_test(completion_logprobs_have_four_arrays_of_one_length),
        cmocka_unit_test(logprobs_key_is_null_when_not_asked_for),
        cmocka_unit_test(whole_responses_have_the_shape_of_their_endpoint),
        cmocka_unit_test(errors_have_all_four_keys),
        cmocka_unit_test(small_endpoints_speak_both_dialects),
        cmocka_unit_test(any_failed_allocation_leaves_the_buffer_as_it_was),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
