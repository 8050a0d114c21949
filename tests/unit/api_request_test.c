/* tests/unit/api_request_test.c - request bodies into typed values: the field table at its boundaries, what is
 * accepted, what is refused and how it is said. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "daemon/api_fields.h"
#include "daemon/api_request.h"

#define CHAT "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define COMPLETION "\"model\":\"m\",\"prompt\":\"hi\""

static const struct api_limits limits = {.vocab = 1000};

static const enum api_kind kinds[] = {API_CHAT, API_COMPLETION, API_TOKENIZE, API_DETOKENIZE};

/* The least that each endpoint takes. */
static const char *base_of(enum api_kind kind)
{
    switch (kind) {
    case API_CHAT:
        return CHAT;
    case API_COMPLETION:
        return COMPLETION;
    case API_TOKENIZE:
        return "\"prompt\":\"hi\"";
    case API_DETOKENIZE:
        return "\"tokens\":[1]";
    }
    return "";
}

/* The request, or NULL and *e; asserts what must hold in either case. */
static struct api_request *parse(enum api_kind kind, const char *body, struct api_error *e)
{
    struct api_request *r = NULL;
    size_t before = mem_live();

    if (api_request_parse(kind, body, strlen(body), &limits, &r, e)) {
        if (!api_request_check(r, &limits))
            fail_msg("a promise is broken by %s", body);
        return r;
    }
    assert_null(r);
    assert_int_equal(mem_live(), before);
    assert_int_equal(e->status, 400);
    assert_string_equal(e->type, "invalid_request_error");
    assert_non_null(e->code);
    assert_true(strlen(e->message) > 10);
    return NULL;
}

static struct api_request *good(enum api_kind kind, const char *body)
{
    struct api_error e;
    struct api_request *r = parse(kind, body, &e);

    if (r == NULL)
        fail_msg("refused: %.300s: %s", body, e.message);
    return r;
}

static struct api_error bad(enum api_kind kind, const char *body)
{
    struct api_error e;
    struct api_request *r = parse(kind, body, &e);

    if (r != NULL)
        fail_msg("taken: %.300s", body);
    return e;
}

static void taken(enum api_kind kind, const char *body)
{
    api_request_free(good(kind, body));
}

static void refused(enum api_kind kind, const char *body, const char *param, const char *code)
{
    struct api_error e = bad(kind, body);

    if (strcmp(e.param, param) != 0 || strcmp(e.code, code) != 0)
        fail_msg("%.300s: param %s code %s: %s", body, e.param, e.code, e.message);
}

static char *body_with(enum api_kind kind, const char *extra)
{
    static char body[4096];

    snprintf(body, sizeof(body), "{%s,%s}", base_of(kind), extra);
    return body;
}

/* ---- the table ---- */
static unsigned bit_of(enum api_kind kind)
{
    return kind == API_CHAT         ? API_FOR_CHAT
           : kind == API_COMPLETION ? API_FOR_COMPLETION
           : kind == API_TOKENIZE   ? API_FOR_TOKENIZE
                                    : API_FOR_DETOKENIZE;
}

static bool is_number(const struct api_field *f)
{
    return f->type == API_FIELD_UINT || f->type == API_FIELD_INT || f->type == API_FIELD_INT64 ||
           f->type == API_FIELD_FLOAT;
}

static bool in_range(const struct api_field *f, const char *text)
{
    double v = strtod(text, NULL);

    if (f->type == API_FIELD_INT64) /* the bounds themselves are not exact as doubles */
        return strcmp(text, "9223372036854775807") == 0 || (v >= f->min && v < f->max);
    return isfinite(v) && v <= f->max && (f->above_min ? v > f->min : v >= f->min);
}

/* What a field needs beside itself to be taken at all. */
static const char *company(const struct api_field *f)
{
    if (strcmp(f->name, "top_logprobs") == 0)
        return ",\"logprobs\":true";
    return strcmp(f->name, "min_tokens") == 0 ? ",\"max_tokens\":2147483647" : "";
}

static void number_gets_the_verdict_of_its_row(enum api_kind kind, const struct api_field *f,
                                               const char *value)
{
    char extra[200];
    struct api_error e;
    struct api_request *r;

    snprintf(extra, sizeof(extra), "\"%s\":%s%s", f->name, value, company(f));
    r = parse(kind, body_with(kind, extra), &e);
    if ((r != NULL) != in_range(f, value))
        fail_msg("%s = %s: %s", f->name, value, r != NULL ? "taken" : e.message);
    if (r == NULL) {
        assert_string_equal(e.param, f->name);
        assert_string_equal(e.code, "invalid_value");
    }
    api_request_free(r);
}

static void every_number_is_judged_at_every_boundary(void **state)
{
    static const char *const values[] = {"0",
                                         "1",
                                         "-1",
                                         "2147483647",
                                         "2147483648",
                                         "4294967295",
                                         "4294967296",
                                         "-2147483648",
                                         "-2147483649",
                                         "9223372036854775807",
                                         "9223372036854775808",
                                         "-9223372036854775808",
                                         "18446744073709551616",
                                         "1e309",
                                         "-1e309",
                                         "1e30",
                                         "99999999999999999999999999999999"};
    size_t n;
    const struct api_field *all = api_fields(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < 4; k++) {
            if (!is_number(&all[i]) || (all[i].kinds & bit_of(kinds[k])) == 0)
                continue;
            for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++)
                number_gets_the_verdict_of_its_row(kinds[k], &all[i], values[v]);
            if (all[i].type != API_FIELD_INT64) {
                char edge[3][32];

                snprintf(edge[0], sizeof(edge[0]), "%.0f", all[i].min);
                snprintf(edge[1], sizeof(edge[1]), "%.0f", all[i].max);
                snprintf(edge[2], sizeof(edge[2]), "%.0f", all[i].max + 1);
                for (size_t v = 0; v < 3; v++)
                    number_gets_the_verdict_of_its_row(kinds[k], &all[i], edge[v]);
            }
        }
    }
}

static bool fits(const struct api_field *f, const char *value)
{
    if (f->type == API_FIELD_BOOL)
        return value[0] == 't';
    return f->type == API_FIELD_STRING && value[0] == '"';
}

static void every_field_refuses_values_of_the_wrong_type_by_name(void **state)
{
    static const char *const values[] = {"true", "\"x\"", "[1]", "{\"a\":1}", "1.5", "[]", "{}"};
    size_t n;
    const struct api_field *all = api_fields(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        const struct api_field *f = &all[i];

        for (size_t k = 0; k < 4; k++) {
            for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
                char extra[200];
                struct api_error e;

                if ((f->kinds & bit_of(kinds[k])) == 0 || f->type == API_FIELD_SPECIAL ||
                    f->type == API_FIELD_IGNORED || f->type == API_FIELD_REFUSED ||
                    strcmp(f->name, "model") == 0 || fits(f, values[v]) ||
                    (f->type == API_FIELD_FLOAT && values[v][0] == '1'))
                    continue;
                snprintf(extra, sizeof(extra), "\"%s\":%s", f->name, values[v]);
                e = bad(kinds[k], body_with(kinds[k], extra));
                assert_string_equal(e.param, f->name);
                assert_string_equal(e.code, "invalid_type");
            }
        }
    }
}

static void null_is_the_same_as_absent_for_every_optional_field(void **state)
{
    size_t n;
    const struct api_field *all = api_fields(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < 4; k++) {
            char extra[200];

            if ((all[i].kinds & bit_of(kinds[k])) == 0 ||
                strstr(base_of(kinds[k]), all[i].name) != NULL)
                continue;
            snprintf(extra, sizeof(extra), "\"%s\":null", all[i].name);
            taken(kinds[k], body_with(kinds[k], extra));
        }
    }
    refused(API_CHAT, "{\"model\":null,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            "model", "missing_required_field");
    refused(API_CHAT, "{\"model\":\"m\",\"messages\":null}", "messages", "missing_required_field");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":null}", "prompt",
            "missing_required_field");
    refused(API_TOKENIZE, "{}", "prompt", "missing_required_field");
    refused(API_DETOKENIZE, "{}", "tokens", "missing_required_field");
}

static void fields_not_built_are_refused_by_name_unless_they_ask_for_nothing(void **state)
{
    static const char *const full[] = {"true", "1", "\"x\"", "[1]", "{\"a\":1}", "0"};
    static const char *const empty[] = {"null", "false", "\"\"", "[]", "{}"};
    size_t n;
    const struct api_field *all = api_fields(&n);
    unsigned seen = 0;

    (void)state;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < 4; k++) {
            char extra[200];

            if (all[i].type != API_FIELD_REFUSED || (all[i].kinds & bit_of(kinds[k])) == 0)
                continue;
            for (size_t v = 0; v < sizeof(full) / sizeof(full[0]); v++) {
                snprintf(extra, sizeof(extra), "\"%s\":%s", all[i].name, full[v]);
                refused(kinds[k], body_with(kinds[k], extra), all[i].name, "unsupported_parameter");
            }
            for (size_t v = 0; v < sizeof(empty) / sizeof(empty[0]); v++) {
                snprintf(extra, sizeof(extra), "\"%s\":%s", all[i].name, empty[v]);
                taken(kinds[k], body_with(kinds[k], extra));
            }
            seen++;
        }
    }
    assert_true(seen > 30);
}

static void the_printed_table_names_every_row(void **state)
{
    struct buf out = BUF_INIT;
    size_t n, rows = 0;
    const struct api_field *all = api_fields(&n);

    (void)state;
    assert_int_equal(api_request_describe(&out), ERR_OK);
    assert_int_equal(buf_append(&out, "", 1), ERR_OK);
    for (size_t i = 0; i < n; i++) {
        char cell[64];

        snprintf(cell, sizeof(cell), "\n| `%s` | ", all[i].name);
        assert_non_null(strstr(buf_bytes(&out), cell));
    }
    for (const char *s = buf_bytes(&out); (s = strstr(s, "\n| `")) != NULL; s++)
        rows++;
    assert_int_equal(rows, n);
    buf_free(&out);
}

/* ---- what is accepted, and what becomes of it ---- */
static void absent_fields_have_their_defaults(void **state)
{
    struct api_limits model = {.has_temperature = true,
                               .temperature = 0.25f,
                               .has_top_p = true,
                               .top_p = 0.75f,
                               .has_top_k = true,
                               .top_k = 7,
                               .has_repetition_penalty = true,
                               .repetition_penalty = 1.5f,
                               .max_new_default = 99};
    struct api_request *r = good(API_CHAT, "{" CHAT "}");
    struct api_error e;

    (void)state;
    assert_false(r->has_max_tokens);
    assert_int_equal(r->n, 1);
    assert_true(r->sampling.temperature == 1.0f && r->sampling.top_p == 1.0f);
    assert_true(r->sampling.repetition_penalty == 1.0f && r->sampling.top_k == 0);
    assert_true(r->skip_special_tokens && r->add_generation_prompt);
    assert_false(r->stream || r->has_seed || r->logprobs || r->echo || r->ignore_eos);
    assert_string_equal(r->service_tier, "");
    api_request_free(r);

    r = good(API_COMPLETION, "{" COMPLETION "}");
    assert_true(r->has_max_tokens);
    assert_int_equal(r->max_tokens, 16);
    api_request_free(r);

    assert_true(api_request_parse(API_COMPLETION, "{" COMPLETION "}", strlen("{" COMPLETION "}"),
                                  &model, &r, &e));
    assert_true(r->sampling.temperature == 0.25f && r->sampling.top_p == 0.75f);
    assert_true(r->sampling.repetition_penalty == 1.5f && r->sampling.top_k == 7);
    assert_int_equal(r->max_tokens, 99);
    api_request_free(r);
}

static void everything_a_client_may_ask_for_arrives(void **state)
{
    struct api_request *r =
        good(API_CHAT,
             "{\"model\":\"org/m-1\",\"messages\":[{\"role\":\"developer\",\"content\":\"d\"},"
             "{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"name\":\"joe\","
             "\"content\":[{\"type\":\"text\","
             "\"text\":\"one\"},{\"text\":\"tw\\u00f6\",\"type\":\"text\"}]},{\"role\":"
             "\"assistant\",\"content\":null,"
             "\"tool_calls\":[]},{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"t\"}],"
             "\"max_tokens\":5,\"max_completion_tokens\":7,\"temperature\":0,\"top_p\":0.5,\"top_"
             "k\":-1,\"min_p\":0.25,"
             "\"repetition_penalty\":1.25,\"presence_penalty\":-2,\"frequency_penalty\":2.0,\"min_"
             "tokens\":3,"
             "\"ignore_eos\":true,\"stop_token_ids\":[1,999],\"skip_special_tokens\":false,"
             "\"include_stop_str_in_output\":true,\"n\":2,\"stop\":[\"a\",\"\\n\"],\"seed\":-1,"
             "\"logprobs\":true,"
             "\"top_logprobs\":20,\"logit_bias\":{\"0\":-100,\"999\":1.5},\"stream\":true,\"stream_"
             "options\":"
             "{\"include_usage\":true,\"continuous_usage_stats\":true,\"include_obfuscation\":"
             "false},\"user\":\"u\","
             "\"priority\":-3,\"service_tier\":\"flex\",\"return_token_ids\":true,\"unknown\":{"
             "\"a\":[1]},"
             "\"metadata\":{\"k\":\"v\"},\"store\":true,\"parallel_tool_calls\":false,\"reasoning_"
             "effort\":\"low\","
             "\"tool_choice\":\"auto\",\"tools\":[],\"response_format\":{\"type\":\"text\"},"
             "\"modalities\":[\"text\"],"
             "\"chat_template_kwargs\":{\"enable_thinking\":false}}");

    (void)state;
    assert_string_equal(r->model, "org/m-1");
    assert_int_equal(r->n_messages, 5);
    assert_string_equal(r->messages[0].role, "system");
    assert_string_equal(r->messages[2].content, "one\ntw\xc3\xb6");
    assert_int_equal(r->messages[2].content_len, 8);
    assert_string_equal(r->messages[3].content, "");
    assert_true(r->has_max_tokens);
    assert_int_equal(r->max_tokens, 7);
    assert_true(r->sampling.temperature == 0 && r->sampling.top_p == 0.5f &&
                r->sampling.top_k == -1);
    assert_true(r->sampling.min_p == 0.25f && r->sampling.repetition_penalty == 1.25f);
    assert_true(r->sampling.presence_penalty == -2 && r->sampling.frequency_penalty == 2);
    assert_int_equal(r->sampling.min_tokens, 3);
    assert_true(r->ignore_eos && !r->skip_special_tokens && r->include_stop_str_in_output);
    assert_int_equal(r->sampling.n_stop_ids, 2);
    assert_int_equal(r->sampling.stop_ids[1], 999);
    assert_int_equal(r->n, 2);
    assert_int_equal(r->n_stop, 2);
    assert_string_equal(r->stop[1], "\n");
    assert_true(r->has_seed && r->sampling.seed == UINT64_MAX);
    assert_true(r->sampling.want_logprobs && r->sampling.n_top == 20);
    assert_int_equal(r->sampling.n_bias, 2);
    assert_int_equal(r->sampling.bias[1].token, 999);
    assert_true(r->sampling.bias[1].bias == 1.5f);
    assert_true(r->stream && r->include_usage && r->continuous_usage);
    assert_true(r->has_priority && r->priority == -3);
    assert_string_equal(r->service_tier, "flex");
    assert_string_equal(r->user, "u");
    assert_true(r->return_token_ids);
    api_request_free(r);
}

static void prompts_come_in_four_forms(void **state)
{
    struct api_request *r =
        good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",\"\",\"\\u00e4\"],\"n\":2}");

    (void)state;
    assert_int_equal(r->n_prompts, 3);
    assert_int_equal(r->prompts[2].text_len, 2);
    api_request_free(r);
    r = good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[5,0,999]}");
    assert_int_equal(r->n_prompts, 1);
    assert_null(r->prompts[0].text);
    assert_int_equal(r->prompts[0].n_ids, 3);
    assert_int_equal(r->prompts[0].ids[2], 999);
    api_request_free(r);
    r = good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1,2],[3]]}");
    assert_int_equal(r->n_prompts, 2);
    assert_int_equal(r->prompts[1].ids[0], 3);
    api_request_free(r);
    r = good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":\"\"}");
    assert_string_equal(r->prompts[0].text, "");
    api_request_free(r);
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[]]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1],[]]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", "prompt", "invalid_type");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",1]}", "prompt", "invalid_type");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1],\"a\"]}", "prompt", "invalid_type");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[[1]]]}", "prompt", "invalid_type");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":{}}", "prompt", "invalid_type");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,1000]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[-1]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1.5]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1e309]}", "prompt", "invalid_value");
    refused(API_COMPLETION, "{\"model\":\"m\",\"prompt\":\"a\\u0000b\"}", "prompt",
            "invalid_value");
}

static void list_lengths_are_bounded(void **state)
{
    static const struct {
        enum api_kind kind;
        const char *name, *element, *close;
        unsigned max;
    } lists[] = {{API_COMPLETION, "\"prompt\":[", "\"p\"", "]", API_PROMPTS_MAX},
                 {API_CHAT, "\"messages\":[", "{\"role\":\"user\",\"content\":\"x\"}", "]",
                  API_MESSAGES_MAX},
                 {API_CHAT, CHAT ",\"stop\":[", "\"s\"", "]", API_STOP_MAX},
                 {API_CHAT, CHAT ",\"stop_token_ids\":[", "1", "]", API_STOP_IDS_MAX}};
    struct buf b = BUF_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (unsigned n = lists[i].max - 1; n <= lists[i].max + 1; n++) {
            struct api_error e;
            struct api_request *r;

            buf_clear(&b);
            assert_int_equal(buf_printf(&b, "{%s%s",
                                        strstr(lists[i].name, "model") ? "" : "\"model\":\"m\",",
                                        lists[i].name),
                             ERR_OK);
            for (unsigned k = 0; k < n; k++)
                assert_int_equal(buf_printf(&b, "%s%s", k > 0 ? "," : "", lists[i].element),
                                 ERR_OK);
            assert_int_equal(buf_printf(&b, "%s}%c", lists[i].close, '\0'), ERR_OK);
            r = parse(lists[i].kind, buf_bytes(&b), &e);
            assert_int_equal(r != NULL, n <= lists[i].max);
            api_request_free(r);
        }
    }
    for (unsigned n = ENGINE_BIAS_MAX - 1; n <= ENGINE_BIAS_MAX + 1; n++) {
        static const struct api_limits big = {.vocab = 5000};
        struct api_error e;
        struct api_request *r = NULL;
        bool ok;

        buf_clear(&b);
        for (unsigned k = 0; k < n; k++)
            assert_int_equal(
                buf_printf(&b, "%s\"%u\":1", k > 0 ? "," : "{" CHAT ",\"logit_bias\":{", k),
                ERR_OK);
        assert_int_equal(buf_puts(&b, "}}"), ERR_OK);
        ok = api_request_parse(API_CHAT, buf_bytes(&b), b.len, &big, &r, &e);
        assert_int_equal(ok, n <= ENGINE_BIAS_MAX);
        if (ok)
            api_request_free(r);
    }
    buf_free(&b);
}

static void stop_strings_are_bounded_and_never_empty(void **state)
{
    char extra[600];

    (void)state;
    refused(API_CHAT, "{" CHAT ",\"stop\":\"\"}", "stop", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"stop\":[\"a\",\"\"]}", "stop", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"stop\":[1]}", "stop", "invalid_type");
    refused(API_CHAT, "{" CHAT ",\"stop\":{}}", "stop", "invalid_type");
    refused(API_CHAT, "{" CHAT ",\"stop\":\"\\u0000\"}", "stop", "invalid_value");
    taken(API_CHAT, "{" CHAT ",\"stop\":[]}");
    for (int n = API_STOP_BYTES_MAX - 1; n <= API_STOP_BYTES_MAX + 1; n++) {
        struct api_error e;
        struct api_request *r;

        snprintf(extra, sizeof(extra), "\"stop\":\"%0*d\"", n, 0);
        r = parse(API_CHAT, body_with(API_CHAT, extra), &e);
        assert_int_equal(r != NULL, n <= API_STOP_BYTES_MAX);
        api_request_free(r);
    }
}

static void bad_messages_are_refused_with_their_place(void **state)
{
    static const struct {
        const char *messages, *param, *code;
    } bads[] = {
        {"[]", "messages", "invalid_value"},
        {"{}", "messages", "invalid_type"},
        {"\"hi\"", "messages", "invalid_type"},
        {"[1]", "messages[0]", "invalid_type"},
        {"[{}]", "messages[0].role", "missing_required_field"},
        {"[{\"role\":\"user\"}]", "messages[0].content", "missing_required_field"},
        {"[{\"role\":\"user\",\"content\":null}]", "messages[0].content", "missing_required_field"},
        {"[{\"role\":\"function\",\"content\":\"x\"}]", "messages[0].role", "invalid_value"},
        {"[{\"role\":1,\"content\":\"x\"}]", "messages[0].role", "invalid_type"},
        {"[{\"role\":\"user\",\"content\":1}]", "messages[0].content", "invalid_type"},
        {"[{\"role\":\"user\",\"content\":[]}]", "messages[0].content", "invalid_value"},
        {"[{\"role\":\"user\",\"content\":[1]}]", "messages[0].content[0].type", "invalid_type"},
        {"[{\"role\":\"user\",\"content\":[{}]}]", "messages[0].content[0].type", "invalid_type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0].content[0].text",
         "invalid_type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\\u0000\"}]}]",
         "messages[0].content[0].text", "invalid_value"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[{\"type\":"
         "\"text\",\"text\":\"x\"},"
         "{\"type\":\"image_url\",\"image_url\":{\"url\":\"http://x\"}}]}]",
         "messages[1].content[1].type", "unsupported_parameter"},
        {"[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]",
         "messages[0].tool_calls", "unsupported_parameter"},
        {"[{\"role\":\"user\",\"content\":\"a\\u0000\"}]", "messages[0].content", "invalid_value"},
    };
    char body[1024];

    (void)state;
    for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"messages\":%s}", bads[i].messages);
        refused(API_CHAT, body, bads[i].param, bads[i].code);
    }
    snprintf(body, sizeof(body), "{\"model\":\"m\",\"messages\":%s}", bads[15].messages);
    assert_non_null(strstr(bad(API_CHAT, body).message, "image_url"));
}

static void fields_that_do_not_go_together_are_refused(void **state)
{
    (void)state;
    refused(API_CHAT, "{" CHAT ",\"top_logprobs\":1}", "top_logprobs", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"top_logprobs\":1,\"logprobs\":false}", "top_logprobs",
            "invalid_value");
    taken(API_CHAT, "{" CHAT ",\"top_logprobs\":0}");
    refused(API_COMPLETION, "{" COMPLETION ",\"echo\":true,\"logprobs\":0}", "logprobs",
            "unsupported_parameter");
    refused(API_COMPLETION, "{" COMPLETION ",\"min_tokens\":17}", "min_tokens", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"min_tokens\":2,\"max_tokens\":1}", "min_tokens",
            "invalid_value");
    taken(API_CHAT, "{" CHAT ",\"min_tokens\":17}");
    refused(API_COMPLETION, "{" COMPLETION ",\"best_of\":2}", "best_of", "unsupported_parameter");
    taken(API_COMPLETION, "{" COMPLETION ",\"best_of\":2,\"n\":2}");
    refused(API_CHAT, "{" CHAT ",\"continue_final_message\":true,\"add_generation_prompt\":true}",
            "continue_final_message", "invalid_value");
    refused(API_TOKENIZE, "{\"prompt\":\"a\",\"content\":\"b\"}", "content", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"max_tokens\":0}", "max_tokens", "invalid_value");
    taken(API_COMPLETION, "{" COMPLETION ",\"max_tokens\":0,\"echo\":true}");
    refused(API_CHAT, "{" CHAT ",\"tool_choice\":\"required\"}", "tool_choice",
            "unsupported_parameter");
    refused(API_CHAT, "{" CHAT ",\"tool_choice\":{\"type\":\"function\"}}", "tool_choice",
            "unsupported_parameter");
    refused(API_CHAT, "{" CHAT ",\"response_format\":{\"type\":\"json_object\"}}",
            "response_format", "unsupported_parameter");
    refused(API_CHAT, "{" CHAT ",\"modalities\":[\"text\",\"audio\"]}", "modalities",
            "unsupported_parameter");
    refused(API_CHAT, "{" CHAT ",\"chat_template_kwargs\":{\"tokenize\":true}}",
            "chat_template_kwargs", "unsupported_parameter");
    refused(API_CHAT, "{" CHAT ",\"stream_options\":{\"include_usage\":1}}",
            "stream_options.include_usage", "invalid_type");
}

static void too_many_choices_are_refused(void **state)
{
    static const struct api_limits three = {.n_max = 3};
    struct buf b = BUF_INIT;
    struct api_request *r;
    struct api_error e;

    (void)state;
    assert_true(api_request_parse(API_CHAT, "{" CHAT ",\"n\":3}", strlen("{" CHAT ",\"n\":3}"),
                                  &three, &r, &e));
    api_request_free(r);
    assert_false(api_request_parse(API_CHAT, "{" CHAT ",\"n\":4}", strlen("{" CHAT ",\"n\":4}"),
                                   &three, &r, &e));
    assert_string_equal(e.param, "n");
    for (unsigned n = 8; n <= 9; n++) { /* 16 prompts, 128 choices */
        buf_clear(&b);
        assert_int_equal(buf_printf(&b, "{\"model\":\"m\",\"n\":%u,\"prompt\":[\"x\"", n), ERR_OK);
        for (int i = 1; i < 16; i++)
            assert_int_equal(buf_puts(&b, ",\"x\""), ERR_OK);
        assert_int_equal(buf_printf(&b, "]}%c", '\0'), ERR_OK);
        r = parse(API_COMPLETION, buf_bytes(&b), &e);
        assert_int_equal(r != NULL, n == 8);
        api_request_free(r);
    }
    buf_free(&b);
}

static void stream_options_without_stream_do_nothing_and_do_no_harm(void **state)
{
    struct api_request *r =
        good(API_CHAT, "{" CHAT ",\"stream\":false,\"stream_options\":{\"include_usage\":true}}");

    (void)state;
    assert_false(r->include_usage);
    api_request_free(r);
    r = good(API_CHAT, "{\"stream_options\":{\"include_usage\":true},\"stream\":true," CHAT "}");
    assert_true(r->include_usage);
    api_request_free(r);
}

static void both_dialects_of_tokenize_are_read(void **state)
{
    struct api_request *r =
        good(API_TOKENIZE, "{\"model\":\"m\",\"prompt\":\"a\",\"return_token_strs\":true}");

    (void)state;
    assert_true(r->add_special && r->with_pieces);
    api_request_free(r);
    r = good(API_TOKENIZE, "{\"content\":\"a\",\"with_pieces\":true}");
    assert_true(!r->add_special && r->with_pieces);
    api_request_free(r);
    r = good(API_TOKENIZE, "{\"add_special\":true,\"content\":\"a\"}");
    assert_true(r->add_special && !r->with_pieces);
    api_request_free(r);
    r = good(API_TOKENIZE, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_true(!r->add_special && r->n_messages == 1 && r->add_generation_prompt);
    api_request_free(r);
    r = good(API_DETOKENIZE, "{\"tokens\":[]}");
    assert_int_equal(r->prompts[0].n_ids, 0);
    api_request_free(r);
    refused(API_TOKENIZE, "{\"prompt\":[\"a\"]}", "prompt", "invalid_type");
    refused(API_DETOKENIZE, "{\"tokens\":\"x\"}", "tokens", "invalid_type");
    refused(API_DETOKENIZE, "{\"tokens\":[1000]}", "tokens", "invalid_value");
}

static void values_on_the_edge_of_float_stay_inside_their_range(void **state)
{
    struct api_request *r =
        good(API_CHAT, "{" CHAT ",\"top_p\":1e-300,\"repetition_penalty\":1e-60}");

    (void)state;
    assert_true(r->sampling.top_p > 0 && r->sampling.repetition_penalty > 0);
    api_request_free(r);
    refused(API_CHAT, "{" CHAT ",\"top_p\":0}", "top_p", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"top_p\":1.0000001}", "top_p", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"temperature\":-0.0001}", "temperature", "invalid_value");
    taken(API_CHAT, "{" CHAT ",\"max_tokens\":16.0,\"n\":1e0}");
    refused(API_CHAT, "{" CHAT ",\"max_tokens\":16.5}", "max_tokens", "invalid_type");
}

static void bias_keys_are_token_ids_in_plain_decimal(void **state)
{
    static const char *const keys[] = {"1000", "-1", "01", "+1",          "1.0",
                                       "",     "x",  " 1", "99999999999", "2147483648"};
    char extra[100];

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        snprintf(extra, sizeof(extra), "\"logit_bias\":{\"%s\":1}", keys[i]);
        refused(API_CHAT, body_with(API_CHAT, extra), "logit_bias", "invalid_value");
    }
    refused(API_CHAT, "{" CHAT ",\"logit_bias\":{\"1\":100.5}}", "logit_bias", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"logit_bias\":{\"1\":\"x\"}}", "logit_bias", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"logit_bias\":{\"1\":null}}", "logit_bias", "invalid_value");
    refused(API_CHAT, "{" CHAT ",\"logit_bias\":[]}", "logit_bias", "invalid_type");
}

static void bodies_that_are_no_object_or_no_json_say_which(void **state)
{
    (void)state;
    refused(API_CHAT, "[]", "", "invalid_type");
    refused(API_CHAT, "null", "", "invalid_type");
    refused(API_CHAT, "{", "", "invalid_json");
    refused(API_CHAT, "", "", "invalid_json");
    refused(API_CHAT, "{" CHAT ",\"n\":NaN}", "", "invalid_json");
    refused(API_CHAT, "{" CHAT ",\"n\":1,\"n\":1}", "", "duplicate_key");
}

static void error_texts_carry_nothing_raw_from_the_client(void **state)
{
    struct api_error e = bad(
        API_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"\\u001b[31m\\n\xe2\x82\xac<script>"
                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"content\":\"x\"}]}");

    (void)state;
    for (const char *s = e.message; *s != '\0'; s++)
        assert_true(*s >= 0x20 && *s < 0x7f);
    assert_true(strlen(e.message) < 200);
}

static void context_overflow_is_said_in_the_words_that_clients_look_for(void **state)
{
    struct api_error e;

    (void)state;
    api_error_context(API_CHAT, 2048, 2000, 100, &e);
    assert_int_equal(e.status, 400);
    assert_string_equal(e.code, "context_length_exceeded");
    assert_string_equal(
        e.message,
        "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens "
        "(2000 in the messages, 100 in the completion). Please reduce the length of the messages "
        "or completion.");
}

static void any_failed_allocation_is_a_503_and_leaves_nothing(void **state)
{
    static const char body[] = "{" CHAT ",\"stop\":[\"a\\n\",\"b\"],\"logit_bias\":{\"1\":1},"
                               "\"stop_token_ids\":[1],\"user\":\"\\u00e4\"}";
    static const char ids[] = "{\"model\":\"m\",\"prompt\":[[1,2,3],[4]]}";
    bool done = false;
    size_t before = mem_live();

    (void)state;
    for (long n = 0; !done; n++) {
        struct api_request *r = NULL, *s = NULL;
        struct api_error e, f;
        bool first, second;

        mem_fail_at(n);
        first = api_request_parse(API_CHAT, body, sizeof(body) - 1, &limits, &r, &e);
        second = api_request_parse(API_COMPLETION, ids, sizeof(ids) - 1, &limits, &s, &f);
        mem_fail_at(-1);
        if (!first)
            assert_int_equal(e.status, 503);
        if (!second)
            assert_int_equal(f.status, 503);
        done = first && second;
        if (first)
            api_request_free(r);
        if (second)
            api_request_free(s);
        assert_int_equal(mem_live(), before);
        assert_true(n < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_is_judged_at_every_boundary),
        cmocka_unit_test(every_field_refuses_values_of_the_wrong_type_by_name),
        cmocka_unit_test(null_is_the_same_as_absent_for_every_optional_field),
        cmocka_unit_test(fields_not_built_are_refused_by_name_unless_they_ask_for_nothing),
        cmocka_unit_test(the_printed_table_names_every_row),
        cmocka_unit_test(absent_fields_have_their_defaults),
        cmocka_unit_test(everything_a_client_may_ask_for_arrives),
        cmocka_unit_test(prompts_come_in_four_forms),
        cmocka_unit_test(list_lengths_are_bounded),
        cmocka_unit_test(stop_strings_are_bounded_and_never_empty),
        cmocka_unit_test(bad_messages_are_refused_with_their_place),
        cmocka_unit_test(fields_that_do_not_go_together_are_refused),
        cmocka_unit_test(too_many_choices_are_refused),
        cmocka_unit_test(stream_options_without_stream_do_nothing_and_do_no_harm),
        cmocka_unit_test(both_dialects_of_tokenize_are_read),
        cmocka_unit_test(values_on_the_edge_of_float_stay_inside_their_range),
        cmocka_unit_test(bias_keys_are_token_ids_in_plain_decimal),
        cmocka_unit_test(bodies_that_are_no_object_or_no_json_say_which),
        cmocka_unit_test(error_texts_carry_nothing_raw_from_the_client),
        cmocka_unit_test(context_overflow_is_said_in_the_words_that_clients_look_for),
        cmocka_unit_test(any_failed_allocation_is_a_503_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
