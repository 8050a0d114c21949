/* tests/unit/engine_fixture.c - see the header. */
#include "tests/unit/engine_fixture.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

static void die(const char *what)
{
    perror(what);
    exit(1);
}

void fixture_dir(char dir[FIXTURE_PATH])
{
    const char *base = getenv("TMPDIR");

    snprintf(dir, FIXTURE_PATH, "%.60s/baton-engine-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(dir) == NULL)
        die(dir);
}

static FILE *create(const char *dir, const char *name)
{
    char path[FIXTURE_PATH + 64];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    if (f == NULL)
        die(path);
    return f;
}

void fixture_write(const char *dir, const char *name, const void *bytes, size_t len)
{
    FILE *f = create(dir, name);

    if (fwrite(bytes, 1, len, f) != len || fclose(f) != 0)
        die(name);
}

void fixture_remove(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;

    while (d != NULL && (entry = readdir(d)) != NULL)
        (void)unlinkat(dirfd(d), entry->d_name, 0);
    if (d != NULL)
        closedir(d);
    (void)rmdir(dir);
}

static const char *dtype_name(enum engine_dtype dtype)
{
    return dtype == ENGINE_F32 ? "F32" : dtype == ENGINE_F16 ? "F16" : "BF16";
}

void fixture_config(const struct fixture_shape *s, char *out, size_t cap)
{
    snprintf(out, cap,
             "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": %u, "
             "\"num_hidden_layers\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u, "
             "\"head_dim\": %u, \"intermediate_size\": %u, \"vocab_size\": %u, "
             "\"max_position_embeddings\": %u, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
             "\"hidden_act\": \"silu\", \"tie_word_embeddings\": %s, %s\"bos_token_id\": 1, "
             "\"eos_token_id\": 2}",
             s->hidden, s->layers, s->heads, s->kv_heads, s->head_dim, s->ffn, s->vocab,
             s->positions, s->tied ? "true" : "false",
             s->biases ? "\"attention_bias\": true, \"mlp_bias\": true, " : "");
}

struct header_text {
    char *out;
    size_t cap, at, data;
    enum engine_dtype dtype;
};

/* d1 = 0: a vector. */
__attribute__((format(printf, 4, 5))) static void add_tensor(struct header_text *h, uint64_t d0,
                                                             uint64_t d1, const char *format, ...)
{
    size_t bytes = (size_t)(d0 * (d1 == 0 ? 1 : d1)) * (h->dtype == ENGINE_F32 ? 4 : 2);
    char name[96], shape[48];
    va_list args;

    va_start(args, format);
    vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    if (d1 == 0)
        snprintf(shape, sizeof(shape), "%" PRIu64, d0);
    else
        snprintf(shape, sizeof(shape), "%" PRIu64 ", %" PRIu64, d0, d1);
    h->at += (size_t)snprintf(h->out + h->at, h->cap - h->at,
                              "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%s], "
                              "\"data_offsets\": [%zu, %zu]}",
                              h->at > 1 ? ", " : "", name, dtype_name(h->dtype), shape, h->data,
                              h->data + bytes);
    h->data += bytes;
    if (h->at >= h->cap)
        die("fixture header too long");
}

static void add_biases(struct header_text *h, const struct fixture_shape *s, uint32_t layer)
{
    add_tensor(h, (uint64_t)s->heads * s->head_dim, 0, "model.layers.%u.self_attn.q_proj.bias",
               layer);
    add_tensor(h, (uint64_t)s->kv_heads * s->head_dim, 0, "model.layers.%u.self_attn.k_proj.bias",
               layer);
    add_tensor(h, (uint64_t)s->kv_heads * s->head_dim, 0, "model.layers.%u.self_attn.v_proj.bias",
               layer);
    add_tensor(h, s->hidden, 0, "model.layers.%u.self_attn.o_proj.bias", layer);
    add_tensor(h, s->ffn, 0, "model.layers.%u.mlp.gate_proj.bias", layer);
    add_tensor(h, s->ffn, 0, "model.layers.%u.mlp.up_proj.bias", layer);
    add_tensor(h, s->hidden, 0, "model.layers.%u.mlp.down_proj.bias", layer);
}

size_t fixture_header(const struct fixture_shape *s, char *out, size_t cap)
{
    struct header_text h = {out, cap, 1, 0, s->dtype};
    uint64_t q = (uint64_t)s->heads * s->head_dim, kv = (uint64_t)s->kv_heads * s->head_dim;

    out[0] = '{';
    add_tensor(&h, s->vocab, s->hidden, "model.embed_tokens.weight");
    for (uint32_t i = 0; i < s->layers; i++) {
        add_tensor(&h, s->hidden, 0, "model.layers.%u.input_layernorm.weight", i);
        add_tensor(&h, q, s->hidden, "model.layers.%u.self_attn.q_proj.weight", i);
        add_tensor(&h, kv, s->hidden, "model.layers.%u.self_attn.k_proj.weight", i);
        add_tensor(&h, kv, s->hidden, "model.layers.%u.self_attn.v_proj.weight", i);
        add_tensor(&h, s->hidden, q, "model.layers.%u.self_attn.o_proj.weight", i);
        add_tensor(&h, s->hidden, 0, "model.layers.%u.post_attention_layernorm.weight", i);
        add_tensor(&h, s->ffn, s->hidden, "model.layers.%u.mlp.gate_proj.weight", i);
        add_tensor(&h, s->ffn, s->hidden, "model.layers.%u.mlp.up_proj.weight", i);
        add_tensor(&h, s->hidden, s->ffn, "model.layers.%u.mlp.down_proj.weight", i);
        if (s->biases)
            add_biases(&h, s, i);
    }
    add_tensor(&h, s->hidden, 0, "model.norm.weight");
    if (!s->tied)
        add_tensor(&h, s->vocab, s->hidden, "lm_head.weight");
    snprintf(out + h.at, cap - h.at, "}");
    return h.data;
}

void fixture_write_tensors(const char *dir, const char *name, const char *header, const void *data,
                           size_t data_len)
{
    FILE *f = create(dir, name);
    uint64_t n = strlen(header);
    uint8_t length[8];

    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(n >> (8 * i));
    if (fwrite(length, 1, 8, f) != 8 || fwrite(header, 1, (size_t)n, f) != n ||
        fwrite(data, 1, data_len, f) != data_len || fclose(f) != 0)
        die(name);
}

static uint16_t to_half(float f)
{
    uint32_t u, sign, exponent;

    memcpy(&u, &f, sizeof(u));
    sign = u >> 16 & 0x8000;
    exponent = u >> 23 & 0xff;
    if (exponent < 113) /* smaller than the least normal half: close enough to zero for a test */
        return (uint16_t)sign;
    return (uint16_t)(sign | (exponent - 112) << 10 | (u >> 13 & 0x3ff));
}

static void put_weight(uint8_t *at, enum engine_dtype dtype, float f)
{
    uint16_t half;
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    switch (dtype) {
    case ENGINE_F32:
        memcpy(at, &f, 4);
        break;
    case ENGINE_BF16:
        half = (uint16_t)(u >> 16);
        memcpy(at, &half, 2);
        break;
    case ENGINE_F16:
        half = to_half(f);
        memcpy(at, &half, 2);
        break;
    }
}

void fixture_model(const struct fixture_shape *s, char dir[FIXTURE_PATH])
{
    size_t elem = s->dtype == ENGINE_F32 ? 4 : 2, bytes;
    char *header = mem_try_alloc(FIXTURE_HEADER_MAX), config[1024];
    uint64_t state = 88172645463325252u;
    uint8_t *data;

    if (header == NULL)
        die("fixture");
    bytes = fixture_header(s, header, FIXTURE_HEADER_MAX);
    data = mem_try_alloc(bytes);
    if (data == NULL)
        die("fixture");
    for (size_t i = 0; i < bytes / elem; i++) {
        float u;

        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u = (float)(state >> 40) / (float)(1 << 24) - 0.5f;
        put_weight(data + i * elem, s->dtype, u * 4.0f / sqrtf((float)s->hidden));
    }
    fixture_dir(dir);
    fixture_config(s, config, sizeof(config));
    fixture_write(dir, "config.json", config, strlen(config));
    fixture_write_tensors(dir, "model.safetensors", header, data, bytes);
    mem_free(data);
    mem_free(header);
}
