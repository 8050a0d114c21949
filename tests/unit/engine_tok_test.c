/* tests/unit/engine_tok_test.c - the tokenizer against the reference library's ids (fixtures made by
 * tests/engine_ref/gen_text_tokenizers.py), the real vocabularies, PCRE2, and a plain model of merging. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_tok.h"
#include "engine/engine_tok_split.h"

static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
    rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((rng_state >> 33) % below);
}

/* ---- inputs --------------------------------------------------------------------------------------- */

/* The folder of real models, or NULL after saying so. */
static const char *shared_models(void)
{
    static char path[1024];
    const char *root = getenv("BATON_SHARED");
    FILE *f;

    snprintf(path, sizeof(path), "%s/models/README.md", root != NULL ? root : "../shared");
    f = fopen(path, "r");
    if (f == NULL) {
        fprintf(stderr, "SKIPPED: no real models at %s; set BATON_SHARED\n", path);
        return NULL;
    }
    fclose(f);
    path[strlen(path) - strlen("/README.md")] = '\0';
    return path;
}

static json_t *load_json(const char *path)
{
    json_error_t bad;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &bad);

    if (j == NULL)
        fail_msg("%s: %s", path, bad.text);
    return j;
}

static struct engine_tok *open_text(const char *json)
{
    struct engine_tok *t = NULL;
    struct err_msg msg = {""};

    if (engine_tok_open_json(json, strlen(json), &msg, &t) != ERR_OK)
        fail_msg("%s", msg.text);
    return t;
}

static struct engine_tok *open_value(const json_t *j)
{
    char *text = json_dumps(j, JSON_COMPACT);
    struct engine_tok *t = open_text(text);

    free(text);
    return t;
}

static struct engine_tok *open_fixture(const char *kind, json_t **fixture)
{
    char path[256];

    snprintf(path, sizeof(path), "tests/fixtures/text/tok_%s.json", kind);
    *fixture = load_json(path);
    return open_value(json_object_get(*fixture, "tokenizer"));
}

static struct engine_ids encode(const struct engine_tok *t, const char *s, size_t len,
                                unsigned flags)
{
    struct engine_ids ids = {0};

    assert_int_equal(engine_tok_encode(t, s, len, flags, &ids), ERR_OK);
    return ids;
}

static void check_ids(const char *what, const char *text, const json_t *want,
                      const struct engine_ids *got)
{
    bool same = json_array_size(want) == got->n;

    for (size_t i = 0; same && i < got->n; i++)
        same = json_integer_value(json_array_get(want, i)) == got->ids[i];
    if (same)
        return;
    fprintf(stderr, "%s: \"%s\"\n want", what, text);
    for (size_t i = 0; i < json_array_size(want); i++)
        fprintf(stderr, " %lld", (long long)json_integer_value(json_array_get(want, i)));
    fprintf(stderr, "\n got ");
    for (size_t i = 0; i < got->n; i++)
        fprintf(stderr, " %d", got->ids[i]);
    fprintf(stderr, "\n");
    fail();
}

static void decode(const struct engine_tok *t, const struct engine_ids *ids, bool special,
                   struct buf *out)
{
    struct engine_detok d;

    engine_detok_init(&d, t, false);
    for (size_t i = 0; i < ids->n; i++)
        assert_int_equal(engine_detok_push(&d, t, ids->ids[i], special, out), ERR_OK);
    assert_int_equal(engine_detok_finish(&d, out), ERR_OK);
}

/* ---- against the reference library --------------------------------------------------------------- */

static void check_fixture(const char *kind, bool round_trip)
{
    json_t *fixture, *one;
    struct engine_tok *t = open_fixture(kind, &fixture);
    size_t i;

    json_array_foreach(json_object_get(fixture, "cases"), i, one)
    {
        const char *text = json_string_value(json_array_get(one, 0));
        size_t len = json_string_length(json_array_get(one, 0));
        bool parse = json_integer_value(json_array_get(one, 1)) != 0;
        unsigned flags = parse ? ENGINE_TOK_ADD_SPECIAL | ENGINE_TOK_PARSE_SPECIAL : 0;
        struct engine_ids ids = encode(t, text, len, flags);
        struct buf back = BUF_INIT;

        check_ids(kind, text, json_array_get(one, 2), &ids);
        engine_ids_free(&ids);
        ids = encode(t, text, len, 0);
        decode(t, &ids, true, &back);
        if (round_trip) {
            assert_int_equal(back.len, len);
            assert_true(len == 0 || memcmp(buf_bytes(&back), text, len) == 0);
        }
        engine_ids_free(&ids);
        buf_free(&back);
    }
    assert_true(i > 150);
    engine_tok_close(t);
    json_decref(fixture);
}

static void every_kind_gives_the_ids_of_the_reference_library(void **state)
{
    (void)state;
    check_fixture("llama3", true);
    check_fixture("gpt2_flags", false); /* the prefix space stays */
    check_fixture("digits", true);
    check_fixture("qwen2", false); /* NFC changes texts */
    check_fixture("llama2", false);
    check_fixture("metaspace_first", false);
    check_fixture("metaspace_split", false);
    check_fixture("unk_fused", false);
    check_fixture("unk_single", false);
}

static void the_gpt2_vocabulary_gives_its_published_ids(void **state)
{
    const char *models = shared_models();
    char path[1200];
    struct err_msg msg = {""};
    struct engine_tok *t;
    json_t *vectors, *one;
    size_t i;

    (void)state;
    if (models == NULL)
        skip();
    snprintf(path, sizeof(path), "%s/tokenizer-gpt2", models);
    if (engine_tok_open(path, &msg, &t) != ERR_OK)
        fail_msg("%s", msg.text);
    assert_int_equal(engine_tok_vocab(t), 50257);
    snprintf(path, sizeof(path), "%s/tokenizer-gpt2/vectors.json", models);
    vectors = load_json(path);
    json_array_foreach(vectors, i, one)
    {
        const char *text = json_string_value(json_object_get(one, "text"));
        struct engine_ids ids = encode(t, text, strlen(text), 0);
        struct buf back = BUF_INIT;

        check_ids("gpt2", text, json_object_get(one, "ids"), &ids);
        decode(t, &ids, true, &back);
        assert_int_equal(back.len, strlen(text));
        assert_true(back.len == 0 || memcmp(buf_bytes(&back), text, back.len) == 0);
        buf_free(&back);
        engine_ids_free(&ids);
    }
    assert_int_equal(i, 46);
    json_decref(vectors);
    engine_tok_close(t);
}

static void the_stories_model_gives_the_ids_of_its_readme(void **state)
{
    static const int32_t want[] = {1, 403, 407, 261, 378};
    const char *models = shared_models();
    char path[1200];
    struct err_msg msg = {""};
    struct engine_tok *t;
    struct engine_ids ids;
    struct buf back = BUF_INIT;

    (void)state;
    if (models == NULL)
        skip();
    snprintf(path, sizeof(path), "%s/stories260K", models);
    if (engine_tok_open(path, &msg, &t) != ERR_OK)
        fail_msg("%s", msg.text);
    ids = encode(t, "Once upon a time", 16, ENGINE_TOK_ADD_SPECIAL);
    assert_int_equal(ids.n, 5);
    assert_memory_equal(ids.ids, want, sizeof(want));
    decode(t, &ids, false, &back);
    assert_int_equal(back.len, 16);
    assert_memory_equal(buf_bytes(&back), "Once upon a time", 16);
    buf_free(&back);
    engine_ids_free(&ids);
    engine_tok_close(t);
}

/* ---- the scanners against the expressions --------------------------------------------------------- */

static const char *const gpt2_regex =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char *const llama3_regex =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char *const qwen2_regex =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* Characters of every class and of every encoded length.  U+180E is left out: PCRE2 still counts it as
 * white space, Unicode and the reference library (see the fixtures) do not. */
static const char *const letters[] = {
    "a",
    "s",
    "S",
    "t",
    "re",
    "l",
    "L",
    "ve",
    "M",
    "d",
    "'",
    "'",
    "'",
    "1",
    "9",
    "0",
    " ",
    " ",
    " ",
    "\n",
    "\r",
    "\t",
    "\v",
    "\f",
    ".",
    ",",
    "!",
    "-",
    "_",
    "\x01",
    "\x7f",
    "\xc3\xa9",
    "\xc3\x9f",
    "\xc5\xbf",
    "\xce\xa3",
    "\xd1\x8f",
    "\xd8\xb4",
    "\xd7\x9f",
    "\xc2\xbd",
    "\xc2\xb2",
    "\xd9\xa3",
    "\xe2\x85\xa7",
    "\xe0\xa5\xa6",
    "\xe6\x97\xa5",
    "\xe6\x9c\xac",
    "\xed\x95\x9c",
    "\xe1\x84\x80",
    "\xe1\x85\xa1",
    "\xe0\xa4\xbf",
    "\xcc\x81",
    "\xe2\x80\x8d",
    "\xc2\xa0",
    "\xc2\x85",
    "\xe3\x80\x80",
    "\xe2\x80\x83",
    "\xe2\x80\xa8",
    "\xe2\x80\xa9",
    "\xe1\x9a\x80",
    "\xe2\x80\x8b",
    "\xef\xbb\xbf",
    "\xf0\x9f\xa6\x99",
    "\xf0\x9f\x91\x8d",
    "\xf0\x9d\x94\x98",
    "\xf0\x9d\x9f\x9c",
    "\xf4\x8f\xbf\xbf",
    "\xca\xb0",
    "\xc7\x85",
    "\xe2\x80\x94",
    "\xe2\x80\x9c",
    "\xe3\x80\x81",
    "\xe2\x82\xac",
    "\xc2\xad",
    "\xc3\xa0\xcc\x96",
};

static void compare_split(enum engine_tok_pattern pattern, const char *regex, const char *s,
                          size_t len)
{
    static pcre2_code *code;
    static const char *compiled;
    static pcre2_match_data *match;
    int number;
    PCRE2_SIZE at;

    if (compiled != regex) {
        pcre2_code_free(code);
        code = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                             &number, &at, NULL);
        assert_non_null(code);
        compiled = regex;
    }
    if (match == NULL)
        match = pcre2_match_data_create(8, NULL);
    for (size_t done = 0; done < len;) {
        size_t n = engine_tok_split_next(pattern, s + done, len - done);
        const PCRE2_SIZE *found;

        assert_true(pcre2_match(code, (PCRE2_SPTR)s, len, done, 0, match, NULL) > 0);
        found = pcre2_get_ovector_pointer(match);
        if (found[0] != done || found[1] != done + n)
            fail_msg("pattern %d cuts \"%.*s\" at %zu..%zu, the expression at %zu..%zu",
                     (int)pattern, (int)len, s, done, done + n, found[0], found[1]);
        done += n;
    }
    if (len == 0) { /* the last call: let go */
        pcre2_code_free(code);
        pcre2_match_data_free(match);
        code = NULL;
        match = NULL;
        compiled = NULL;
    }
}

static void compare_random(enum engine_tok_pattern pattern, const char *regex, int rounds)
{
    char text[512];
    enum engine_tok_pattern known;

    assert_true(engine_tok_pattern_known(regex, &known));
    assert_int_equal(known, pattern);
    rng_state = (uint64_t)pattern;
    for (int i = 0; i < rounds; i++) {
        size_t len = 0, n = 1 + rng(24);
        /* A few characters only, so that runs and their ends meet often. */
        size_t first = rng(sizeof(letters) / sizeof(letters[0])), few = 1 + rng(12);

        while (n-- > 0) {
            size_t pick =
                rng(3) == 0 ? rng(sizeof(letters) / sizeof(letters[0]))
                            : (first + rng((uint32_t)few)) % (sizeof(letters) / sizeof(letters[0]));

            memcpy(text + len, letters[pick], strlen(letters[pick]));
            len += strlen(letters[pick]);
        }
        compare_split(pattern, regex, text, len);
    }
    compare_split(pattern, regex, "", 0);
}

static void the_scanners_cut_where_the_expressions_do(void **state)
{
    (void)state;
    compare_random(ENGINE_TOK_GPT2, gpt2_regex, 60000);
    compare_random(ENGINE_TOK_LLAMA3, llama3_regex, 60000);
    compare_random(ENGINE_TOK_QWEN2, qwen2_regex, 60000);
}

/* ---- merging against the plain rule ---------------------------------------------------------------- */

enum { SYMBOLS_MAX = 1200, TOKENS_MAX = 400 };

struct plain {
    char names[TOKENS_MAX][64];
    size_t n_tokens;
    struct {
        int left, right, product;
    } merges[TOKENS_MAX];
    size_t n_merges;
};

static int plain_find(const struct plain *p, const char *name)
{
    for (size_t i = 0; i < p->n_tokens; i++)
        if (strcmp(p->names[i], name) == 0)
            return (int)i;
    return -1;
}

/* Enter the merge of two tokens unless it is known or its product too long. */
static void plain_add(struct plain *p, int left, int right)
{
    char name[128];
    int product;

    snprintf(name, sizeof(name), "%s%s", p->names[left], p->names[right]);
    if (strlen(name) > 12)
        return;
    for (size_t i = 0; i < p->n_merges; i++)
        if (p->merges[i].left == left && p->merges[i].right == right)
            return;
    product = plain_find(p, name);
    if (product < 0) {
        product = (int)p->n_tokens++;
        memcpy(p->names[product], name, strlen(name) + 1);
    }
    p->merges[p->n_merges].left = left;
    p->merges[p->n_merges].right = right;
    p->merges[p->n_merges++].product = product;
}

/* Random merges over a few letters.  Half of them are other ways to make a token that is there already,
 * and some change places, so that a product may rank before its parts. */
static void plain_make(struct plain *p, size_t letters_used, size_t n_merges)
{
    memset(p, 0, sizeof(*p));
    for (size_t i = 0; i < letters_used; i++)
        p->names[p->n_tokens++][0] = (char)('a' + i);
    for (int tries = 0; tries < 4000 && p->n_merges < n_merges; tries++) {
        int left = (int)rng((uint32_t)p->n_tokens), right = (int)rng((uint32_t)p->n_tokens);

        if (rng(2) == 0 && p->names[left][1] != '\0') {
            char head[64];
            size_t cut = 1 + rng((uint32_t)strlen(p->names[left]) - 1);

            snprintf(head, sizeof(head), "%.*s", (int)cut, p->names[left]);
            right = plain_find(p, p->names[left] + cut);
            left = plain_find(p, head);
        }
        if (left >= 0 && right >= 0)
            plain_add(p, left, right);
    }
    for (size_t i = rng(3) == 0 ? 0 : p->n_merges; i < p->n_merges; i++) {
        size_t j = rng((uint32_t)p->n_merges);
        int l = p->merges[i].left, r = p->merges[i].right, m = p->merges[i].product;

        p->merges[i] = p->merges[j];
        p->merges[j].left = l;
        p->merges[j].right = r;
        p->merges[j].product = m;
    }
}

static size_t plain_merge(const struct plain *p, int *sym, size_t n)
{
    for (;;) {
        size_t best = p->n_merges, where = 0;

        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < best; m++)
                if (p->merges[m].left == sym[i] && p->merges[m].right == sym[i + 1]) {
                    best = m;
                    where = i;
                }
        if (best == p->n_merges)
            return n;
        sym[where] = p->merges[best].product;
        memmove(sym + where + 1, sym + where + 2, (n - where - 2) * sizeof(*sym));
        n--;
    }
}

static struct engine_tok *plain_open(const struct plain *p)
{
    struct buf json = BUF_INIT;
    struct engine_tok *t;

    assert_int_equal(buf_puts(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{"), ERR_OK);
    for (size_t i = 0; i < p->n_tokens; i++)
        assert_int_equal(buf_printf(&json, "%s\"%s\":%zu", i > 0 ? "," : "", p->names[i], i),
                         ERR_OK);
    assert_int_equal(buf_puts(&json, "},\"merges\":["), ERR_OK);
    for (size_t i = 0; i < p->n_merges; i++)
        assert_int_equal(buf_printf(&json, "%s[\"%s\",\"%s\"]", i > 0 ? "," : "",
                                    p->names[p->merges[i].left], p->names[p->merges[i].right]),
                         ERR_OK);
    assert_int_equal(buf_append(&json, "]}}", 4), ERR_OK);
    t = open_text(buf_bytes(&json));
    buf_free(&json);
    return t;
}

static void merging_any_piece_follows_the_plain_rule(void **state)
{
    static struct plain p;
    static char text[SYMBOLS_MAX];
    static int sym[SYMBOLS_MAX];

    (void)state;
    rng_state = 7;
    for (int round = 0; round < 120; round++) {
        size_t alphabet = 1 + rng(4);
        struct engine_tok *t;

        plain_make(&p, alphabet, alphabet == 1 ? 8 : 10 + rng(60));
        t = plain_open(&p);
        for (int k = 0; k < 12; k++) {
            size_t n = k < 6 ? 1 + rng(70) : 60 + rng(k == 11 ? SYMBOLS_MAX - 60 : 240), kept;
            struct engine_ids ids;

            for (size_t i = 0; i < n; i++)
                text[i] = (char)('a' + (sym[i] = (int)rng((uint32_t)alphabet)));
            kept = plain_merge(&p, sym, n);
            ids = encode(t, text, n, 0);
            assert_int_equal(ids.n, kept);
            assert_memory_equal(ids.ids, sym, kept * sizeof(*sym));
            engine_ids_free(&ids);
        }
        engine_tok_close(t);
    }
}

/* ---- special tokens and spans ---------------------------------------------------------------------- */

static void text_that_spells_a_special_token_stays_text_without_the_flag(void **state)
{
    static const char text[] = "a<|end|>b";
    json_t *fixture;
    struct engine_tok *t = open_fixture("llama3", &fixture);
    int32_t end = engine_tok_find(t, "<|end|>");
    struct engine_ids plain = encode(t, text, strlen(text), 0);
    struct engine_ids parsed = encode(t, text, strlen(text), ENGINE_TOK_PARSE_SPECIAL);
    struct buf back = BUF_INIT;

    (void)state;
    assert_true(end >= 0 && engine_tok_is_special(t, end));
    for (size_t i = 0; i < plain.n; i++)
        assert_false(engine_tok_is_special(t, plain.ids[i]));
    assert_int_equal(parsed.n, 3);
    assert_int_equal(parsed.ids[1], end);
    decode(t, &parsed, false, &back);
    assert_int_equal(back.len, 2);
    buf_free(&back);
    engine_ids_free(&plain);
    engine_ids_free(&parsed);
    engine_tok_close(t);
    json_decref(fixture);
}

static void specials_inside_a_span_are_text_and_its_borders_leave_no_trace(void **state)
{
    static const char text[] = "<|begin|>the <|end|> quick<|end|>";
    size_t spans[] = {9, 20, 20, 24, 25, 26}; /* "the <|end|>", " qui", "k" */
    size_t straddling[] = {0, 2};
    json_t *fixture;
    struct engine_tok *t = open_fixture("llama3", &fixture);
    struct engine_ids got = {0}, first, middle = {0};
    int32_t begin = engine_tok_find(t, "<|begin|>"), end = engine_tok_find(t, "<|end|>");

    (void)state;
    assert_int_equal(
        engine_tok_encode_spans(t, text, strlen(text), ENGINE_TOK_PARSE_SPECIAL, spans, 3, &got),
        ERR_OK);
    first = encode(t, text + 9, 17, 0);
    assert_int_equal(got.n, first.n + 2);
    assert_int_equal(got.ids[0], begin);
    assert_memory_equal(got.ids + 1, first.ids, first.n * sizeof(int32_t));
    assert_int_equal(got.ids[got.n - 1], end);
    /* A name that a client's text only helps to spell is not the template's either. */
    assert_int_equal(
        engine_tok_encode_spans(t, text, 9, ENGINE_TOK_PARSE_SPECIAL, straddling, 1, &middle),
        ERR_OK);
    for (size_t i = 0; i < middle.n; i++)
        assert_false(engine_tok_is_special(t, middle.ids[i]));
    spans[1] = 8;
    assert_int_equal(
        engine_tok_encode_spans(t, text, strlen(text), ENGINE_TOK_PARSE_SPECIAL, spans, 3, &got),
        ERR_INVALID);
    engine_ids_free(&got);
    engine_ids_free(&first);
    engine_ids_free(&middle);
    engine_tok_close(t);
    json_decref(fixture);
}

/* ---- the stream decoder ---------------------------------------------------------------------------- */

static void a_stream_never_shows_half_a_character(void **state)
{
    static const char text[] = "x\xf0\x9f\xa6\x99\xe6\x97\xa5\xc3\xa9\xed\x95\x9cy";
    json_t *fixture;
    struct engine_tok *t = open_fixture("digits", &fixture);
    struct engine_ids ids = encode(t, text, strlen(text), 0);
    struct engine_detok d;
    struct buf out = BUF_INIT;

    (void)state;
    engine_detok_init(&d, t, false);
    for (size_t i = 0; i < ids.n; i++) {
        assert_int_equal(engine_detok_push(&d, t, ids.ids[i], false, &out), ERR_OK);
        assert_true(out.len <= strlen(text) && memcmp(buf_bytes(&out), text, out.len) == 0);
        assert_true(out.len == strlen(text) || ((unsigned char)text[out.len] & 0xc0) != 0x80);
    }
    assert_int_equal(out.len, strlen(text));
    engine_ids_free(&ids);
    buf_free(&out);
    engine_tok_close(t);
    json_decref(fixture);
}

/* Push bytes as single-byte tokens of a byte-fallback vocabulary. */
static void check_bytes(const struct engine_tok *t, const char *bytes, const char *want)
{
    struct engine_detok d;
    struct buf out = BUF_INIT;
    char name[8];

    engine_detok_init(&d, t, true);
    for (const char *p = bytes; *p != '\0'; p++) {
        snprintf(name, sizeof(name), "<0x%02X>", (unsigned)(unsigned char)*p);
        assert_int_equal(engine_detok_push(&d, t, engine_tok_find(t, name), false, &out), ERR_OK);
    }
    assert_int_equal(engine_detok_finish(&d, &out), ERR_OK);
    assert_int_equal(buf_append(&out, "", 1), ERR_OK);
    assert_string_equal(buf_bytes(&out), want);
    buf_free(&out);
}

static void bytes_that_are_no_utf8_come_out_as_replacement_characters(void **state)
{
    json_t *fixture;
    struct engine_tok *t = open_fixture("llama2", &fixture);

    (void)state;
    check_bytes(t, "ok", "ok");
    check_bytes(t, "\xe6\x97\xa5", "\xe6\x97\xa5");
    check_bytes(t, "\xff", "\xef\xbf\xbd");
    check_bytes(t, "a\xc3", "a\xef\xbf\xbd");               /* cut off at the end */
    check_bytes(t, "\xe6\x97z", "\xef\xbf\xbdz");           /* one for a broken-off start */
    check_bytes(t, "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"); /* overlong */
    check_bytes(t, "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* surrogate */
    check_bytes(t, "\xf0\x9f\xa6\xe6\x97\xa5", "\xef\xbf\xbd\xe6\x97\xa5");
    check_bytes(t, "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    engine_tok_close(t);
    json_decref(fixture);
}

static void only_the_first_piece_of_a_fresh_text_loses_its_space(void **state)
{
    json_t *fixture;
    struct engine_tok *t = open_fixture("llama2", &fixture);
    struct engine_ids ids = encode(t, "the the", 7, ENGINE_TOK_ADD_SPECIAL);
    struct engine_detok d;
    struct buf out = BUF_INIT;

    (void)state;
    assert_true(engine_tok_strips_first_space(t));
    engine_detok_init(&d, t, false);
    for (size_t i = 0; i < ids.n; i++)
        assert_int_equal(engine_detok_push(&d, t, ids.ids[i], false, &out), ERR_OK);
    assert_int_equal(out.len, 7);
    assert_memory_equal(buf_bytes(&out), "the the", 7);
    buf_clear(&out);
    engine_detok_init(&d, t, true);
    assert_int_equal(engine_detok_push(&d, t, ids.ids[ids.n - 1], false, &out), ERR_OK);
    assert_int_equal(buf_bytes(&out)[0], ' ');
    assert_int_equal(engine_detok_push(&d, t, -1, false, &out), ERR_OK); /* no such id: nothing */
    assert_int_equal(engine_detok_push(&d, t, 1 << 30, true, &out), ERR_OK);
    buf_free(&out);
    engine_ids_free(&ids);
    engine_tok_close(t);
    json_decref(fixture);
}

/* ---- bad input -------------------------------------------------------------------------------------- */

static void text_that_is_not_utf8_is_refused_and_leaves_the_ids_alone(void **state)
{
    static const char *const bad[] = {
        "a\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "abcdefgh\x80"};
    json_t *fixture;
    struct engine_tok *t = open_fixture("llama3", &fixture);
    struct engine_ids ids = encode(t, "the", 3, 0);
    size_t n = ids.n;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(engine_tok_encode(t, bad[i], strlen(bad[i]), 0, &ids), ERR_INVALID);
    assert_int_equal(ids.n, n);
    engine_ids_free(&ids);
    engine_tok_close(t);
    json_decref(fixture);
}

#define MODEL \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static void files_that_would_give_other_ids_are_refused_by_name(void **state)
{
    static const struct {
        const char *json;
        enum err err;
        const char *named;
    } cases[] = {
        {"", ERR_INVALID, ":1:"},
        {"[]", ERR_INVALID, "object"},
        {"{" MODEL ",", ERR_INVALID, ":1:"},
        {"{" MODEL ",\"model\":{}}", ERR_INVALID, "duplicate"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", ERR_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", ERR_INVALID, "empty"},
        {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", ERR_INVALID, "\"a\""},
        {"{\"model\":{\"vocab\":{\"a\":1048576},\"merges\":[]}}", ERR_INVALID, "\"a\""},
        {"{\"model\":{\"vocab\":{\"a\":1e3},\"merges\":[]}}", ERR_INVALID, "\"a\""},
        {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", ERR_INVALID, "id 0"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":{}}}", ERR_INVALID, "merges"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", ERR_INVALID, "merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b c\"]}}", ERR_INVALID, "merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", ERR_INVALID, "merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", ERR_INVALID, "merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", ERR_INVALID,
         "unk_token"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", ERR_UNSUPPORTED,
         "dropout"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         ERR_UNSUPPORTED, "end_of_word_suffix"},
        {"{" MODEL ",\"normalizer\":{\"type\":\"Lowercase\"}}", ERR_UNSUPPORTED, "Lowercase"},
        {"{" MODEL
         ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x\"},\"content\":\"\"}}",
         ERR_UNSUPPORTED, "Replace"},
        {"{" MODEL
         ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}}",
         ERR_INVALID, "Replace"},
        {"{" MODEL ",\"normalizer\":{}}", ERR_INVALID, "normalizer"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Whitespace\"}}", ERR_UNSUPPORTED, "Whitespace"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", ERR_INVALID, "byte 0x00"},
        {"{" MODEL
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+\"},\"behavior\":"
         "\"Isolated\",\"invert\":false}}",
         ERR_UNSUPPORTED, "(a+)+"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}}",
         ERR_UNSUPPORTED, "Metaspace"},
        {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", ERR_UNSUPPORTED, "WordPiece"},
        {"{" MODEL ",\"decoder\":{\"type\":\"ByteLevel\"}}", ERR_UNSUPPORTED, "ByteLevel"},
        {"{" MODEL ",\"post_processor\":{\"type\":\"RobertaProcessing\"}}", ERR_UNSUPPORTED,
         "RobertaProcessing"},
        {"{" MODEL
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{}},"
         "{\"SpecialToken\":{\"id\":\"x\"}}]}}",
         ERR_UNSUPPORTED, "\"x\""},
        {"{" MODEL
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
         "{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[99]}}}}",
         ERR_INVALID, "\"x\""},
        {"{" MODEL ",\"added_tokens\":[{\"id\":5}]}", ERR_INVALID, "added_tokens[0]"},
        {"{" MODEL ",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]}", ERR_INVALID, "\"x\""},
        {"{" MODEL ",\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]}", ERR_INVALID, "\"a\""},
        {"{" MODEL
         ",\"added_tokens\":[{\"id\":7,\"content\":\"x\",\"special\":true,\"normalized\":true}],"
         "\"normalizer\":{\"type\":\"NFC\"}}",
         ERR_UNSUPPORTED, "\"x\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err_msg msg = {""};
        struct engine_tok *t = NULL;
        enum err err = engine_tok_open_json(cases[i].json, strlen(cases[i].json), &msg, &t);

        if (err != cases[i].err || strstr(msg.text, cases[i].named) == NULL)
            fail_msg("%s: %s, \"%s\"", cases[i].json, err_name(err), msg.text);
        assert_null(t);
    }
    engine_tok_close(open_text("{" MODEL "}")); /* what the cases above vary is itself fine */
}

static void a_missing_model_folder_is_named(void **state)
{
    struct err_msg msg = {""};
    struct engine_tok *t = NULL;

    (void)state;
    assert_int_equal(engine_tok_open("tests/no-such-folder", &msg, &t), ERR_NOT_FOUND);
    assert_non_null(strstr(msg.text, "tests/no-such-folder/tokenizer.json"));
}

/* ---- out of memory ----------------------------------------------------------------------------------- */

/* An allocation that only asked for more room than needed may fail unnoticed; so many successes in a row
 * mean that the failure lay behind the last allocation. */
enum { OK_IN_A_ROW = 8 };

static void running_out_of_memory_anywhere_is_clean(void **state)
{
    static const char *const kinds[] = {"llama3", "qwen2", "llama2", "metaspace_first",
                                        "gpt2_flags"};

    (void)state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        char path[256], *json;
        json_t *fixture;
        long failed = 0, passed = 0;
        size_t live;

        snprintf(path, sizeof(path), "tests/fixtures/text/tok_%s.json", kinds[k]);
        fixture = load_json(path);
        json = json_dumps(json_object_get(fixture, "tokenizer"), JSON_COMPACT);
        live = mem_live();
        while (passed < OK_IN_A_ROW) {
            struct engine_tok *t = NULL;
            struct err_msg msg = {""};
            enum err err;

            mem_fail_at(failed + passed);
            err = engine_tok_open_json(json, strlen(json), &msg, &t);
            mem_fail_at(-1);
            assert_true(err == ERR_OK || (err == ERR_NOMEM && msg.text[0] != '\0'));
            engine_tok_close(t);
            assert_int_equal(mem_live(), live);
            failed += err == ERR_NOMEM ? 1 + passed : 0;
            passed = err == ERR_NOMEM ? 0 : passed + 1;
        }
        assert_true(failed > 10);
        free(json);
        json_decref(fixture);
    }
}

static void encoding_without_memory_keeps_the_ids_that_were_there(void **state)
{
    static char text[600];
    json_t *fixture;
    struct engine_tok *t = open_fixture("qwen2", &fixture);
    size_t live = mem_live();
    long failed = 0, passed = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "abb"[i % 3];
    memcpy(text, "e\xcc\x81 <|end|>", 11);
    while (passed < OK_IN_A_ROW) {
        struct engine_ids ids = {0};
        enum err err;

        assert_int_equal(engine_tok_encode(t, "the", 3, 0, &ids), ERR_OK);
        mem_fail_at(failed + passed);
        err = engine_tok_encode(t, text, sizeof(text), ENGINE_TOK_PARSE_SPECIAL, &ids);
        mem_fail_at(-1);
        if (err != ERR_OK) {
            assert_int_equal(err, ERR_NOMEM);
            assert_int_equal(ids.n, 1);
        }
        engine_ids_free(&ids);
        assert_int_equal(mem_live(), live);
        failed += err == ERR_NOMEM ? 1 + passed : 0;
        passed = err == ERR_NOMEM ? 0 : passed + 1;
    }
    assert_true(failed > 5);
    engine_tok_close(t);
    json_decref(fixture);
}

/* ---- cost --------------------------------------------------------------------------------------------- */

static void encode_and_drop(const struct engine_tok *t, const char *text, size_t len)
{
    struct engine_ids ids = encode(t, text, len, 0);

    assert_true(ids.n > 0);
    engine_ids_free(&ids);
}

#ifdef BATON_SANITIZED
enum { LONG_RUN = 1 << 16 };
#else
enum { LONG_RUN = 1 << 19 };
#endif

/* A quadratic merger needs minutes for any of these, and meets the time limit of the test program; how fast a
 * linear one is, `baton perf tok` says. */
static void a_long_run_costs_no_more_than_its_length(void **state)
{
    static const char *const units[] = {"a", "_", " ", "ab", "\xe6\x97\xa5", "\xcc\xa3\xcc\x81",
                                        "'"};
    static const char *const kinds[] = {"qwen2", "llama2", "metaspace_first"};
    size_t len = LONG_RUN;
    char *text = mem_try_alloc(len + 8);

    (void)state;
    assert_non_null(text);
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        json_t *fixture;
        struct engine_tok *t = open_fixture(kinds[k], &fixture);

        for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
            size_t unit = strlen(units[u]), n = 0;

            for (; n + unit <= len; n += unit)
                memcpy(text + n, units[u], unit);
            encode_and_drop(t, text, n);
        }
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + rng(26));
        encode_and_drop(t, text, len);
        engine_tok_close(t);
        json_decref(fixture);
    }
    mem_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_gives_the_ids_of_the_reference_library),
        cmocka_unit_test(the_gpt2_vocabulary_gives_its_published_ids),
        cmocka_unit_test(the_stories_model_gives_the_ids_of_its_readme),
        cmocka_unit_test(the_scanners_cut_where_the_expressions_do),
        cmocka_unit_test(merging_any_piece_follows_the_plain_rule),
        cmocka_unit_test(text_that_spells_a_special_token_stays_text_without_the_flag),
        cmocka_unit_test(specials_inside_a_span_are_text_and_its_borders_leave_no_trace),
        cmocka_unit_test(a_stream_never_shows_half_a_character),
        cmocka_unit_test(bytes_that_are_no_utf8_come_out_as_replacement_characters),
        cmocka_unit_test(only_the_first_piece_of_a_fresh_text_loses_its_space),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_and_leaves_the_ids_alone),
        cmocka_unit_test(files_that_would_give_other_ids_are_refused_by_name),
        cmocka_unit_test(a_missing_model_folder_is_named),
        cmocka_unit_test(running_out_of_memory_anywhere_is_clean),
        cmocka_unit_test(encoding_without_memory_keeps_the_ids_that_were_there),
        cmocka_unit_test(a_long_run_costs_no_more_than_its_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
