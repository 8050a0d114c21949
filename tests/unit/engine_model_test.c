/* tests/unit/engine_model_test.c - model directories: what is read, and that malformed or hostile files
 * get an error that names the cause. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_model.h"
#include "tests/unit/engine_fixture.h"
#include "tests/unit/cpu_time.h"

static const struct fixture_shape small = {.hidden = 4,
                                           .layers = 1,
                                           .heads = 2,
                                           .kv_heads = 1,
                                           .head_dim = 2,
                                           .ffn = 3,
                                           .vocab = 5,
                                           .positions = 64,
                                           .dtype = ENGINE_F32,
                                           .tied = true};
enum { TEXT_CAP = 8192, DATA_CAP = 4096 };

struct files {
    char config[TEXT_CAP], header[TEXT_CAP];
    size_t data_len;
};

static void base_files(struct files *f)
{
    fixture_config(&small, f->config, sizeof(f->config));
    f->data_len = fixture_header(&small, f->header, sizeof(f->header));
}

static void write_files(const struct files *f, const char *dir)
{
    static const uint8_t data[DATA_CAP];

    fixture_write(dir, "config.json", f->config, strlen(f->config));
    fixture_write_tensors(dir, "model.safetensors", f->header, data, f->data_len);
}

/* Open dir; the error must be `want` with `word` in its text. */
static void expect_error(const char *label, const char *dir, enum err want, const char *word)
{
    struct engine_model *m = NULL;
    struct err_msg msg = {""};
    size_t live = mem_live();
    enum err err = engine_model_open(dir, &msg, &m);

    if (err != want || strstr(msg.text, word) == NULL)
        fail_msg("%s: wanted %s with '%s', got %s: %s", label, err_name(want), word, err_name(err),
                 msg.text);
    assert_null(m);
    assert_int_equal(mem_live(), live);
}

/* Replace the first `find` in text; it must be there. */
static void replace(char *text, const char *find, const char *with)
{
    char *at = strstr(text, find);
    char rest[TEXT_CAP];

    if (at == NULL)
        fail_msg("the text to mutate does not hold '%s'", find);
    snprintf(rest, sizeof(rest), "%s", at + strlen(find));
    snprintf(at, TEXT_CAP - (size_t)(at - text), "%s%s", with, rest);
}

struct mutant {
    const char *find, *with;
    enum err want;
    const char *word;
};

/* ---- what is read ---- */

static void a_valid_directory_opens_with_its_tensors(void **state)
{
    struct engine_model *m = NULL;
    struct err_msg msg = {""};
    struct files f;
    char dir[FIXTURE_PATH];
    const struct engine_tensor *t;

    (void)state;
    base_files(&f);
    fixture_dir(dir);
    write_files(&f, dir);
    if (engine_model_open(dir, &msg, &m) != ERR_OK)
        fail_msg("%s", msg.text);
    t = engine_model_tensor(m, "model.layers.0.mlp.gate_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->dims[0], 3);
    assert_int_equal(t->dims[1], 4);
    assert_int_equal(t->bytes, 48);
    assert_null(engine_model_tensor(m, "model.layers.1.mlp.gate_proj.weight"));
    assert_int_equal(engine_model_weight_bytes(m), f.data_len);
    assert_int_equal(engine_model_n_params(m), f.data_len / 4);
    engine_model_close(m);
    fixture_remove(dir);
}

static void the_stop_set_is_the_union_of_both_files(void **state)
{
    struct engine_model_config c;
    struct err_msg msg = {""};
    struct files f;
    char dir[FIXTURE_PATH];
    const char *generation = "{\"eos_token_id\": [2, 4], \"temperature\": 0.6, \"top_k\": 50}";

    (void)state;
    base_files(&f);
    fixture_dir(dir);
    write_files(&f, dir);
    fixture_write(dir, "generation_config.json", generation, strlen(generation));
    assert_int_equal(engine_model_read_config(dir, &c, &msg), ERR_OK);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(c.eos[1], 4);
    assert_true(c.has_temperature && c.temperature == 0.6f);
    assert_true(c.has_top_k && c.top_k == 50);
    assert_false(c.has_top_p);
    fixture_remove(dir);
}

static void both_spellings_of_the_rope_parameters_are_read_alike(void **state)
{
    static const char older[] =
        "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
        "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
        "\"original_max_position_embeddings\": 8192}";
    static const char newer[] = "\"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": "
                                "\"llama3\", \"factor\": 8.0, "
                                "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                                "\"original_max_position_embeddings\": 8192}";
    struct engine_model_config a, b;
    struct err_msg msg = {""};
    struct files f;

    (void)state;
    base_files(&f);
    replace(f.config, "\"rope_theta\": 10000.0", older);
    assert_int_equal(engine_model_parse_config(f.config, strlen(f.config), &a, &msg), ERR_OK);
    base_files(&f);
    replace(f.config, "\"rope_theta\": 10000.0", newer);
    assert_int_equal(engine_model_parse_config(f.config, strlen(f.config), &b, &msg), ERR_OK);
    assert_int_equal(a.rope_kind, ENGINE_ROPE_LLAMA3);
    assert_true(a.rope_theta == 500000.0 && a.rope_factor == 8.0);
    assert_int_equal(a.rope_original_positions, 8192);
    assert_memory_equal(&a, &b, sizeof(a));
}

/* The same tensors in one file or in two are the same model; other weights are another one. */
static void the_identity_follows_the_weights_and_not_the_files(void **state)
{
    static const char index_text[] =
        "{\"weight_map\": {\"model.embed_tokens.weight\": \"a.safetensors\", "
        "\"model.layers.0.input_layernorm.weight\": \"b.safetensors\", "
        "\"model.layers.0.self_attn.q_proj.weight\": \"b.safetensors\", "
        "\"model.layers.0.self_attn.k_proj.weight\": \"b.safetensors\", "
        "\"model.layers.0.self_attn.v_proj.weight\": \"b.safetensors\", "
        "\"model.layers.0.self_attn.o_proj.weight\": \"b.safetensors\", "
        "\"model.layers.0.post_attention_layernorm.weight\": \"b.safetensors\", "
        "\"model.layers.0.mlp.gate_proj.weight\": \"b.safetensors\", "
        "\"model.layers.0.mlp.up_proj.weight\": \"b.safetensors\", "
        "\"model.layers.0.mlp.down_proj.weight\": \"b.safetensors\", "
        "\"model.norm.weight\": \"b.safetensors\"}}";
    static uint8_t data[DATA_CAP];
    char one[FIXTURE_PATH], two[FIXTURE_PATH], header[256];
    struct engine_model *m = NULL;
    struct err_msg msg = {""};
    struct files f;
    uint64_t id;

    (void)state;
    base_files(&f);
    fixture_dir(one);
    write_files(&f, one);
    assert_int_equal(engine_model_open(one, &msg, &m), ERR_OK);
    id = engine_model_id(m);
    engine_model_close(m);

    fixture_dir(two);
    fixture_write(two, "config.json", f.config, strlen(f.config));
    fixture_write(two, "model.safetensors.index.json", index_text, strlen(index_text));
    snprintf(header, sizeof(header),
             "{\"model.embed_tokens.weight\": {\"dtype\": \"F32\", \"shape\": [5, 4], "
             "\"data_offsets\": [0, 80]}}");
    fixture_write_tensors(two, "a.safetensors", header, data, 80);
    fixture_write_tensors(two, "b.safetensors", f.header, data, f.data_len);
    if (engine_model_open(two, &msg, &m) != ERR_OK)
        fail_msg("%s", msg.text);
    assert_int_equal(engine_model_id(m), id);
    engine_model_close(m);

    data[3] = 1; /* one byte of the embedding */
    fixture_write_tensors(two, "a.safetensors", header, data, 80);
    assert_int_equal(engine_model_open(two, &msg, &m), ERR_OK);
    assert_int_not_equal(engine_model_id(m), id);
    engine_model_close(m);
    data[3] = 0;
    fixture_remove(one);
    fixture_remove(two);
}

static void misaligned_data_is_still_served_aligned(void **state)
{
    struct engine_model *m = NULL;
    struct err_msg msg = {""};
    struct files f;
    char dir[FIXTURE_PATH];

    (void)state;
    base_files(&f);
    while ((strlen(f.header) + 8) % 4 != 1)
        memcpy(f.header + strlen(f.header), " ", 2);
    fixture_dir(dir);
    write_files(&f, dir);
    assert_int_equal(engine_model_open(dir, &msg, &m), ERR_OK);
    assert_int_equal((uintptr_t)engine_model_tensor(m, "model.norm.weight")->data % 4, 0);
    engine_model_close(m);
    fixture_remove(dir);
}

/* ---- what is refused ---- */

static void bad_configurations_are_refused_by_name(void **state)
{
    static const struct mutant mutants[] = {
        {"LlamaForCausalLM", "MixtralForCausalLM", ERR_UNSUPPORTED, "MixtralForCausalLM"},
        {"[\"LlamaForCausalLM\"]", "[]", ERR_INVALID, "architectures"},
        {"[\"LlamaForCausalLM\"]", "7", ERR_INVALID, "architectures"},
        {"\"hidden_size\": 4", "\"hidden_size\": 0", ERR_INVALID, "hidden_size"},
        {"\"hidden_size\": 4", "\"hidden_size\": -4", ERR_INVALID, "hidden_size"},
        {"\"hidden_size\": 4", "\"hidden_size\": 4.5", ERR_INVALID, "hidden_size"},
        {"\"hidden_size\": 4", "\"hidden_size\": \"4\"", ERR_INVALID, "hidden_size"},
        {"\"hidden_size\": 4", "\"hidden_size\": 4000000000", ERR_INVALID, "hidden_size"},
        {"\"hidden_size\": 4", "\"hidden_size\": 99999999999999999999999", ERR_INVALID, "JSON"},
        {"\"hidden_size\": 4, ", "", ERR_INVALID, "hidden_size is missing"},
        {"\"hidden_size\": 4", "\"hidden_size\": 4, \"hidden_size\": 4", ERR_INVALID, "JSON"},
        {"\"num_hidden_layers\": 1", "\"num_hidden_layers\": 100000", ERR_INVALID, "layers"},
        {"\"num_attention_heads\": 2", "\"num_attention_heads\": 3", ERR_INVALID, "q_proj"},
        {"\"num_key_value_heads\": 1", "\"num_key_value_heads\": 0", ERR_INVALID, "key_value"},
        {"\"num_attention_heads\": 2, \"num_key_value_heads\": 1",
         "\"num_attention_heads\": 3, \"num_key_value_heads\": 2", ERR_INVALID, "multiple"},
        {"\"head_dim\": 2", "\"head_dim\": 3", ERR_INVALID, "odd"},
        {"\"head_dim\": 2", "\"head_dim\": 4096", ERR_INVALID, "head_dim"},
        {"\"intermediate_size\": 3", "\"intermediate_size\": 1048577", ERR_INVALID, "intermediate"},
        {"\"vocab_size\": 5", "\"vocab_size\": 6", ERR_INVALID, "5x4"},
        {"\"vocab_size\": 5", "\"vocab_size\": 50000000", ERR_INVALID, "vocab_size"},
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", ERR_INVALID, "rms_norm_eps"},
        {"\"rope_theta\": 10000.0", "\"rope_theta\": 0", ERR_INVALID, "rope_theta"},
        {"\"rope_theta\": 10000.0", "\"rope_scaling\": {\"type\": \"yarn\"}", ERR_UNSUPPORTED,
         "yarn"},
        {"\"rope_theta\": 10000.0", "\"rope_scaling\": {\"type\": 4}", ERR_INVALID, "rope_type"},
        {"\"rope_theta\": 10000.0", "\"rope_scaling\": []", ERR_INVALID, "object"},
        {"\"rope_theta\": 10000.0", "\"rope_scaling\": {\"type\": \"linear\"}", ERR_INVALID,
         "lack factor"},
        {"\"rope_theta\": 10000.0", "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}",
         ERR_INVALID, "low_freq_factor"},
        {"\"rope_theta\": 10000.0", "\"partial_rotary_factor\": 0.5", ERR_UNSUPPORTED, "partial"},
        {"\"silu\"", "\"gelu\"", ERR_UNSUPPORTED, "gelu"},
        {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": 1", ERR_INVALID, "tie_word"},
        {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", ERR_INVALID, "lm_head"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": 5", ERR_INVALID, "eos_token_id"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": [1, \"x\"]", ERR_INVALID, "eos_token_id"},
        {"\"bos_token_id\": 1", "\"bos_token_id\": -7", ERR_INVALID, "bos_token_id"},
        {"\"bos_token_id\": 1", "\"quantization_config\": {\"quant_method\": \"gptq\"}",
         ERR_UNSUPPORTED, "gptq"},
        {"\"bos_token_id\": 1", "\"layer_types\": [\"sliding_attention\"]", ERR_UNSUPPORTED,
         "sliding_attention"},
        {"[\"LlamaForCausalLM\"]", "[\"MistralForCausalLM\"], \"sliding_window\": 32",
         ERR_UNSUPPORTED, "sliding_window"},
        {"[\"LlamaForCausalLM\"]",
         "[\"Qwen2ForCausalLM\"], \"use_sliding_window\": true, \"sliding_window\": 32",
         ERR_UNSUPPORTED, "sliding_window"},
        {"[\"LlamaForCausalLM\"]", "[\"Qwen2ForCausalLM\"]", ERR_INVALID, "q_proj.bias"},
        {"\"bos_token_id\": 1", "\"attention_bias\": true", ERR_INVALID, "q_proj.bias"},
        {"{\"architectures\"", "[\"architectures\"", ERR_INVALID, "JSON"},
        {"\"eos_token_id\": 2}", "\"eos_token_id\": 2", ERR_INVALID, "JSON"},
    };
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_dir(dir);
    for (size_t i = 0; i < sizeof(mutants) / sizeof(mutants[0]); i++) {
        struct files f;

        base_files(&f);
        replace(f.config, mutants[i].find, mutants[i].with);
        write_files(&f, dir);
        expect_error(mutants[i].with, dir, mutants[i].want, mutants[i].word);
    }
    fixture_remove(dir);
}

static void bad_tensor_headers_are_refused_by_tensor(void **state)
{
    static const struct mutant mutants[] = {
        {"\"F32\", \"shape\": [5, 4]", "\"F64\", \"shape\": [5, 4]", ERR_INVALID, "embed_tokens"},
        {"\"F32\", \"shape\": [5, 4]", "\"F99\", \"shape\": [5, 4]", ERR_UNSUPPORTED, "F99"},
        {"\"F32\", \"shape\": [5, 4]", "\"I32\", \"shape\": [5, 4]", ERR_UNSUPPORTED, "I32"},
        {"\"F32\", \"shape\": [5, 4]", "7, \"shape\": [5, 4]", ERR_INVALID, "dtype"},
        {"[5, 4]", "[4, 5]", ERR_INVALID, "4x5"},
        {"[5, 4]", "[20]", ERR_INVALID, "has shape 20"},
        {"[5, 4]", "[5, 1, 4]", ERR_INVALID, "5x1x4"},
        {"[5, 4]", "[5, 5]", ERR_INVALID, "do not make"},
        {"[5, 4]", "[-5, -4]", ERR_INVALID, "whole number"},
        {"[5, 4]", "[5.0, 4]", ERR_INVALID, "whole number"},
        {"[5, 4]", "[4294967296, 4294967297]", ERR_INVALID, "overflow"},
        {"[5, 4]", "[4611686018427387909, 4]", ERR_INVALID, "overflow"},
        {"[5, 4]", "[4611686018427387904, 1]", ERR_INVALID, "do not make"},
        {"[5, 4]", "[1,1,1,1,1,1,1,5,4]", ERR_INVALID, "at most"},
        {"[5, 4]", "\"5x4\"", ERR_INVALID, "list"},
        {"[0, 80]", "[0, 79]", ERR_INVALID, "do not make"},
        {"[0, 80]", "[80, 0]", ERR_INVALID, "data_offsets"},
        {"[0, 80]", "[-80, 0]", ERR_INVALID, "data_offsets"},
        {"[0, 80]", "[0]", ERR_INVALID, "data_offsets"},
        {"[0, 80]", "[0, 80, 80]", ERR_INVALID, "data_offsets"},
        {"[0, 80]", "[0, 80.0]", ERR_INVALID, "data_offsets"},
        {"[0, 80]", "[4, 84]", ERR_INVALID, "hole"},
        {"[0, 80]", "[9223372036854775727, 9223372036854775807]", ERR_INVALID, "truncated"},
        {"[80, 96]", "[76, 92]", ERR_INVALID, "overlap"},
        {"[80, 96]", "[0, 16]", ERR_INVALID, "overlap"},
        {"\"data_offsets\": [0, 80]", "\"data_offsets\": [0, 80], \"extra\": 1", ERR_INVALID,
         "exactly"},
        {", \"data_offsets\": [0, 80]", "", ERR_INVALID, "exactly"},
        {"model.embed_tokens.weight", "model.norm.weight", ERR_INVALID, "duplicate"},
        {"model.embed_tokens.weight", "model.embed_tokens.weigh", ERR_INVALID, "missing"},
        {"model.embed_tokens.weight", "a\\u0000b", ERR_INVALID, "JSON"},
        {"model.embed_tokens.weight", "\xff\xfe", ERR_INVALID, "JSON"},
        {"{\"model.embed", "{\"__metadata__\": 4, \"model.embed", ERR_INVALID, "__metadata__"},
        {"{\"model.embed", "{\"__metadata__\": {\"a\": 4}, \"model.embed", ERR_INVALID,
         "__metadata__"},
        {"{\"model.embed", "{\"x\": 4, \"model.embed", ERR_INVALID, "'x'"},
        {"{\"model.embed", " {\"model.embed", ERR_INVALID, "'{'"},
        {"{\"model.embed", "[\"model.embed", ERR_INVALID, "'{'"},
        {"{\"model.embed", "{{\"model.embed", ERR_INVALID, "JSON"},
    };
    char dir[FIXTURE_PATH];

    (void)state;
    fixture_dir(dir);
    for (size_t i = 0; i < sizeof(mutants) / sizeof(mutants[0]); i++) {
        struct files f;

        base_files(&f);
        replace(f.header, mutants[i].find, mutants[i].with);
        write_files(&f, dir);
        expect_error(mutants[i].with, dir, mutants[i].want, mutants[i].word);
    }
    fixture_remove(dir);
}

/* Every length of the file but the right one. */
static void a_file_cut_or_grown_by_any_amount_is_refused(void **state)
{
    static uint8_t bytes[DATA_CAP + TEXT_CAP];
    char dir[FIXTURE_PATH], path[FIXTURE_PATH + 32];
    struct err_msg msg = {""};
    struct files f;
    struct stat st;
    size_t total;
    FILE *in;

    (void)state;
    base_files(&f);
    fixture_dir(dir);
    write_files(&f, dir);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    assert_int_equal(stat(path, &st), 0);
    total = (size_t)st.st_size;
    in = fopen(path, "rb");
    assert_non_null(in);
    assert_int_equal(fread(bytes, 1, total, in), total);
    fclose(in);
    assert_int_equal(engine_model_check_header(bytes, total, total, &msg), ERR_OK);
    for (size_t n = 0; n < total; n++)
        assert_int_equal(engine_model_check_header(bytes, n, n, &msg), ERR_INVALID);
    for (size_t n = 1; n < 100; n++)
        assert_int_equal(engine_model_check_header(bytes, total, total + n, &msg), ERR_INVALID);
    fixture_write(dir, "model.safetensors", bytes, total - 1);
    expect_error("cut", dir, ERR_INVALID, "truncated");
    fixture_write(dir, "model.safetensors", bytes, 0);
    expect_error("empty", dir, ERR_INVALID, "empty");
    fixture_remove(dir);
}

static void a_header_length_beyond_the_cap_is_refused_unread(void **state)
{
    static const uint8_t huge[][9] = {
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{'},
        {0, 0, 0, 0, 0, 0, 0, 0x80, '{'},
        {1, 0, 0x80, 0, 0, 0, 0, 0, '{'},
    };
    struct err_msg msg;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(engine_model_check_header(huge[i], 9, UINT64_MAX, &msg), ERR_INVALID);
        assert_non_null(strstr(msg.text, "limit"));
    }
    assert_int_equal(engine_model_check_header((const uint8_t *)"\0\0\0\0\0\0\0\0", 8, 8, &msg),
                     ERR_INVALID);
}

static void too_many_tensors_are_refused_within_50_ms(void **state)
{
    enum { MANY = 65537, EACH = 80 };
    uint8_t *bytes = mem_try_alloc((size_t)MANY * EACH + 16);
    struct err_msg msg = {""};
    size_t at = 9, n;
    uint64_t start;

    (void)state;
    assert_non_null(bytes);
    bytes[8] = '{';
    for (int i = 0; i < MANY; i++)
        at += (size_t)snprintf((char *)bytes + at, EACH,
                               "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                               i > 0 ? "," : "", i);
    bytes[at++] = '}';
    n = at - 8;
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(n >> (8 * i));
    start = cpu_time_ns();
    assert_int_equal(engine_model_check_header(bytes, at, at, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "65536"));
#ifdef BATON_SANITIZED
    start = cpu_time_ns(); /* instrumented code is not timed */
#endif
    assert_true(cpu_time_ns() - start < 50 * CLOCK_NS_PER_MS);
    mem_free(bytes);
}

static void shard_names_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const names[] = {
        "../a.safetensors", "/etc/passwd", "x/a.safetensors", "..", ".", "", "./a.safetensors"};
    char dir[FIXTURE_PATH], text[256];
    struct files f;

    (void)state;
    base_files(&f);
    fixture_dir(dir);
    fixture_write(dir, "config.json", f.config, strlen(f.config));
    expect_error("no weights", dir, ERR_NOT_FOUND, "neither");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(text, sizeof(text), "{\"weight_map\": {\"model.norm.weight\": \"%s\"}}", names[i]);
        fixture_write(dir, "model.safetensors.index.json", text, strlen(text));
        expect_error(names[i], dir, ERR_INVALID, "plain file name");
    }
    snprintf(text, sizeof(text), "{\"weight_map\": {\"model.norm.weight\": \"absent\"}}");
    fixture_write(dir, "model.safetensors.index.json", text, strlen(text));
    expect_error("absent", dir, ERR_NOT_FOUND, "absent");
    fixture_write_tensors(dir, "absent", "{}", "", 0);
    expect_error("lost", dir, ERR_INVALID, "model.norm.weight");
    fixture_write(dir, "model.safetensors.index.json", "{\"weight_map\": []}", 18);
    expect_error("list", dir, ERR_INVALID, "weight_map");
    fixture_remove(dir);
}

static void links_and_pipes_are_not_followed_out_of_the_directory(void **state)
{
    char dir[FIXTURE_PATH], path[FIXTURE_PATH + 32];
    struct files f;

    (void)state;
    base_files(&f);
    fixture_dir(dir);
    write_files(&f, dir);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    expect_error("link", dir, ERR_INVALID, "leads out");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("../../blobs/../etc", path), 0);
    expect_error("odd blob", dir, ERR_INVALID, "leads out");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_error("pipe", dir, ERR_INVALID, "not a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    expect_error("directory", dir, ERR_INVALID, "not a regular file");
    rmdir(path);
    fixture_remove(dir);
    expect_error("no directory", dir, ERR_NOT_FOUND, "model directory");
}

/* The layout of the Hugging Face cache: snapshots/<rev>/file -> ../../blobs/<hash>. */
static void the_links_of_a_download_cache_are_followed(void **state)
{
    char root[FIXTURE_PATH], snapshots[FIXTURE_PATH + 16], dir[FIXTURE_PATH],
        blobs[FIXTURE_PATH + 16];
    char path[FIXTURE_PATH + 64], from[FIXTURE_PATH + 64];
    struct engine_model *m = NULL;
    struct err_msg msg = {""};
    struct files f;

    (void)state;
    base_files(&f);
    fixture_dir(root);
    snprintf(snapshots, sizeof(snapshots), "%s/snapshots", root);
    snprintf(dir, sizeof(dir), "%.70s/snapshots/rev", root);
    snprintf(blobs, sizeof(blobs), "%s/blobs", root);
    assert_int_equal(mkdir(snapshots, 0700) | mkdir(dir, 0700) | mkdir(blobs, 0700), 0);
    write_files(&f, dir);
    snprintf(from, sizeof(from), "%s/model.safetensors", dir);
    snprintf(path, sizeof(path), "%s/0123abcd", blobs);
    assert_int_equal(rename(from, path), 0);
    assert_int_equal(symlink("../../blobs/0123abcd", from), 0);
    if (engine_model_open(dir, &msg, &m) != ERR_OK)
        fail_msg("%s", msg.text);
    engine_model_close(m);
    fixture_remove(dir);
    fixture_remove(blobs);
    rmdir(snapshots);
    fixture_remove(root);
}

static void running_out_of_memory_anywhere_is_an_error_and_leaks_nothing(void **state)
{
    char dir[FIXTURE_PATH];
    struct files f;
    size_t live = mem_live();

    (void)state;
    base_files(&f);
    fixture_dir(dir);
    write_files(&f, dir);
    for (long n = 0;; n++) {
        struct engine_model *m = NULL;
        struct err_msg msg = {""};
        enum err err;

        mem_fail_at(n);
        err = engine_model_open(dir, &msg, &m);
        mem_fail_at(-1);
        if (err == ERR_OK) {
            assert_true(n > 5);
            engine_model_close(m);
            break;
        }
        assert_int_equal(err, ERR_NOMEM);
        assert_int_equal(mem_live(), live);
    }
    assert_int_equal(mem_live(), live);
    fixture_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_valid_directory_opens_with_its_tensors),
        cmocka_unit_test(the_stop_set_is_the_union_of_both_files),
        cmocka_unit_test(both_spellings_of_the_rope_parameters_are_read_alike),
        cmocka_unit_test(the_identity_follows_the_weights_and_not_the_files),
        cmocka_unit_test(misaligned_data_is_still_served_aligned),
        cmocka_unit_test(bad_configurations_are_refused_by_name),
        cmocka_unit_test(bad_tensor_headers_are_refused_by_tensor),
        cmocka_unit_test(a_file_cut_or_grown_by_any_amount_is_refused),
        cmocka_unit_test(a_header_length_beyond_the_cap_is_refused_unread),
        cmocka_unit_test(too_many_tensors_are_refused_within_50_ms),
        cmocka_unit_test(shard_names_that_lead_elsewhere_are_refused),
        cmocka_unit_test(links_and_pipes_are_not_followed_out_of_the_directory),
        cmocka_unit_test(the_links_of_a_download_cache_are_followed),
        cmocka_unit_test(running_out_of_memory_anywhere_is_an_error_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
