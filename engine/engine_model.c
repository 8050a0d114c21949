/* engine/engine_model.c - a model directory as a whole: configuration, shards, the tensors that the
 * architecture needs with the shapes it needs, and the identity of the result. */
#include "engine/engine_model_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"

enum {
    CONFIG_CAP = 1 << 20,
    INDEX_CAP = 32 << 20,
    SHARDS_MAX = 4096,
    PREFAULT_PIECE = 16 << 20,
    PAGE = 4096,
    SAMPLES = 16, /* pieces of each tensor that go into the identity */
    SAMPLE_BYTES = 64
};

struct shard {
    char *name;
    struct model_map map;
    struct model_header header;
};

struct model_tensor {
    struct engine_tensor t;
    const struct model_entry *entry;
    const struct shard *shard;
    void *copy; /* where the file does not align the data */
};

struct engine_model {
    struct engine_model_config config;
    struct shard *shards;
    size_t n_shards;
    struct model_tensor *tensors; /* by name */
    size_t n_tensors;
    uint64_t weight_bytes, n_params, id;
};

/* ---- configuration ---- */

static enum err read_config_in(const struct model_dir *d, struct engine_model_config *c,
                               struct err_msg *msg)
{
    struct err_msg why = {""};
    char *text = NULL;
    size_t len;
    enum err err = model_read_file(d, "config.json", CONFIG_CAP, false, &text, &len, msg);

    if (err != ERR_OK)
        return err;
    err = engine_model_parse_config(text, len, c, &why);
    mem_free(text);
    if (err == ERR_OK) {
        err = model_read_file(d, "generation_config.json", CONFIG_CAP, true, &text, &len, msg);
        if (err != ERR_OK)
            return err == ERR_NOT_FOUND ? ERR_OK : err;
        err = engine_model_parse_generation(text, len, c, &why);
        mem_free(text);
    }
    if (err != ERR_OK)
        return err_set(msg, err, "%.120s/%s", d->path, why.text);
    return ERR_OK;
}

enum err engine_model_read_config(const char *dir, struct engine_model_config *out,
                                  struct err_msg *msg)
{
    struct engine_model_config c;
    struct model_dir d;
    enum err err = model_dir_open(dir, &d, msg);

    if (err != ERR_OK)
        return err;
    err = read_config_in(&d, &c, msg);
    model_dir_close(&d);
    if (err == ERR_OK)
        *out = c;
    return err;
}

/* ---- shards ---- */

static enum err open_shard(struct engine_model *m, const struct model_dir *d, const char *name,
                           bool optional, struct err_msg *msg)
{
    struct shard *s = &m->shards[m->n_shards];
    char what[400];
    enum err err = model_map_open(d, name, optional, &s->map, msg);

    if (err != ERR_OK)
        return err;
    m->n_shards++; /* from here on engine_model_close undoes it */
    s->name = mem_try_strdup(name);
    if (s->name == NULL)
        return err_set(msg, ERR_NOMEM, "%s: no memory", d->path);
    snprintf(what, sizeof(what), "%.180s/%.200s", d->path, name);
    return model_header_parse(s->map.bytes, (size_t)s->map.len, s->map.len, what, &s->header, msg);
}

static const struct shard *find_shard(const struct engine_model *m, const char *name)
{
    for (size_t i = 0; i < m->n_shards; i++) {
        if (strcmp(m->shards[i].name, name) == 0)
            return &m->shards[i];
    }
    return NULL;
}

/* Open each file that the index names, once. */
static enum err open_indexed(struct engine_model *m, const struct model_dir *d, json_t *map,
                             struct err_msg *msg)
{
    const char *tensor;
    json_t *value;
    enum err err;

    json_object_foreach(map, tensor, value)
    {
        const char *file = json_string_value(value);

        if (file == NULL || !model_name_is_plain(file))
            return err_set(msg, ERR_INVALID,
                           "%s/model.safetensors.index.json: weight_map gives tensor '%.80s' the "
                           "file '%.80s', which is not a plain file name",
                           d->path, tensor, file != NULL ? file : "(not a string)");
        if (find_shard(m, file) != NULL)
            continue;
        if (m->n_shards == SHARDS_MAX)
            return err_set(msg, ERR_INVALID, "%s/model.safetensors.index.json: more than %d files",
                           d->path, SHARDS_MAX);
        err = open_shard(m, d, file, false, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err load_index(const struct model_dir *d, json_t **out, struct err_msg *msg)
{
    json_error_t error;
    char *text = NULL;
    size_t len;
    json_t *root;
    enum err err =
        model_read_file(d, "model.safetensors.index.json", INDEX_CAP, true, &text, &len, msg);

    if (err == ERR_NOT_FOUND)
        return err_set(msg, ERR_NOT_FOUND,
                       "%s: neither model.safetensors nor model.safetensors.index.json is there; "
                       "other weight formats are not read",
                       d->path);
    if (err != ERR_OK)
        return err;
    root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    mem_free(text);
    if (root == NULL)
        return err_set(msg, ERR_INVALID,
                       "%s/model.safetensors.index.json: not valid JSON, line %d: %.120s", d->path,
                       error.line, error.text);
    if (json_object_size(json_object_get(root, "weight_map")) == 0 ||
        json_object_size(json_object_get(root, "weight_map")) > MODEL_TENSORS_MAX) {
        json_decref(root);
        return err_set(msg, ERR_INVALID,
                       "%s/model.safetensors.index.json: weight_map must be an object of 1 to %d "
                       "tensors",
                       d->path, MODEL_TENSORS_MAX);
    }
    *out = root;
    return ERR_OK;
}

/* ---- the tensor table ---- */

static enum engine_dtype dtype_of(const char *name)
{
    if (strcmp(name, "F32") == 0)
        return ENGINE_F32;
    if (strcmp(name, "F16") == 0)
        return ENGINE_F16;
    return strcmp(name, "BF16") == 0 ? ENGINE_BF16 : (enum engine_dtype)0;
}

static int by_name(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;

    return strcmp(x->t.name, y->t.name);
}

static void add_tensor(struct engine_model *m, const struct shard *s, const struct model_entry *e)
{
    struct model_tensor *mt = &m->tensors[m->n_tensors++];

    mt->entry = e;
    mt->shard = s;
    mt->t.name = e->name;
    mt->t.dtype = dtype_of(e->dtype);
    mt->t.n_dims = e->n_dims;
    for (uint32_t i = 0; i < e->n_dims && i < 4; i++)
        mt->t.dims[i] = e->dims[i];
    mt->t.data = s->map.bytes + s->header.data_start + e->begin;
    mt->t.bytes = e->end - e->begin;
}

/* Tensors that a shard holds beyond what the index assigns to it are left out, as other readers do. */
static enum err build_table(struct engine_model *m, const struct model_dir *d, const json_t *map,
                            struct err_msg *msg)
{
    size_t total = 0;

    for (size_t i = 0; i < m->n_shards; i++)
        total += m->shards[i].header.n;
    m->tensors = mem_try_calloc(total + 1, sizeof(m->tensors[0]));
    if (m->tensors == NULL)
        return err_set(msg, ERR_NOMEM, "%s: no memory for the tensor table", d->path);
    for (size_t i = 0; i < m->n_shards; i++) {
        const struct shard *s = &m->shards[i];

        for (size_t k = 0; k < s->header.n; k++) {
            const struct model_entry *e = &s->header.entries[k];
            const char *file =
                map != NULL ? json_string_value(json_object_get(map, e->name)) : NULL;

            if (map == NULL || (file != NULL && strcmp(file, s->name) == 0))
                add_tensor(m, s, e);
        }
    }
    qsort(m->tensors, m->n_tensors, sizeof(m->tensors[0]), by_name);
    return ERR_OK;
}

static struct model_tensor *find_tensor(const struct engine_model *m, const char *name)
{
    struct model_tensor key = {.t.name = name};

    if (m->n_tensors == 0)
        return NULL;
    return bsearch(&key, m->tensors, m->n_tensors, sizeof(m->tensors[0]), by_name);
}

static enum err check_index_complete(const struct engine_model *m, const struct model_dir *d,
                                     json_t *map, struct err_msg *msg)
{
    const char *name;
    json_t *value;

    json_object_foreach(map, name, value)
    {
        if (find_tensor(m, name) == NULL)
            return err_set(msg, ERR_INVALID,
                           "%s: the index says that '%.80s' holds tensor '%.120s', but it does not",
                           d->path, json_string_value(value), name);
    }
    return ERR_OK;
}

static enum err load_tensors(struct engine_model *m, const struct model_dir *d, struct err_msg *msg)
{
    json_t *index = NULL, *map = NULL;
    enum err err;

    m->shards = mem_try_calloc(SHARDS_MAX, sizeof(m->shards[0]));
    if (m->shards == NULL)
        return err_set(msg, ERR_NOMEM, "%s: no memory", d->path);
    err = open_shard(m, d, "model.safetensors", true, msg);
    if (err == ERR_NOT_FOUND) {
        err = load_index(d, &index, msg);
        map = json_object_get(index, "weight_map");
        if (err == ERR_OK)
            err = open_indexed(m, d, map, msg);
    }
    if (err == ERR_OK)
        err = build_table(m, d, map, msg);
    if (err == ERR_OK && map != NULL)
        err = check_index_complete(m, d, map, msg);
    json_decref(index);
    return err;
}

/* ---- the tensors the architecture needs ---- */

static void shape_text(const struct model_entry *e, char *out, size_t cap)
{
    size_t at = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < e->n_dims && at < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s%" PRIu64, i > 0 ? "x" : "", e->dims[i]);
}

/* safetensors does not promise alignment; a loop over misaligned floats is undefined, so such a
 * tensor is copied.  Its size is that of a part of the file, so it is bounded by it. */
static enum err align_tensor(struct model_tensor *mt, struct err_msg *msg)
{
    size_t align = mt->t.dtype == ENGINE_F32 ? 4 : 2;

    if ((uintptr_t)mt->t.data % align == 0)
        return ERR_OK;
    mt->copy = mem_try_aligned(64, (size_t)mt->t.bytes + 64);
    if (mt->copy == NULL)
        return err_set(msg, ERR_NOMEM, "%s: no memory to align tensor '%.120s'", mt->shard->name,
                       mt->t.name);
    memcpy(mt->copy, mt->t.data, (size_t)mt->t.bytes);
    mt->t.data = mt->copy;
    return ERR_OK;
}

/* d1 = 0: a vector of d0. */
static enum err need(struct engine_model *m, const struct model_dir *d, const char *name,
                     uint64_t d0, uint64_t d1, struct err_msg *msg)
{
    struct model_tensor *mt = find_tensor(m, name);
    char expected[48], found[MODEL_DIMS_MAX * 21];

    if (mt == NULL)
        return err_set(msg, ERR_INVALID, "%s: tensor '%s' is missing from the weight files",
                       d->path, name);
    if (mt->t.dtype == 0)
        return err_set(msg, ERR_UNSUPPORTED,
                       "%s/%s: tensor '%s' is %s; supported are F32, F16 and BF16", d->path,
                       mt->shard->name, name, mt->entry->dtype);
    if (mt->entry->n_dims != (d1 == 0 ? 1 : 2) || mt->t.dims[0] != d0 ||
        (d1 != 0 && mt->t.dims[1] != d1)) {
        shape_text(mt->entry, found, sizeof(found));
        if (d1 == 0)
            snprintf(expected, sizeof(expected), "%" PRIu64, d0);
        else
            snprintf(expected, sizeof(expected), "%" PRIu64 "x%" PRIu64, d0, d1);
        return err_set(msg, ERR_INVALID,
                       "%s/%s: tensor '%s' has shape %s; config.json calls for %s", d->path,
                       mt->shard->name, name, found, expected);
    }
    m->weight_bytes += mt->t.bytes;
    m->n_params += mt->t.bytes / (mt->t.dtype == ENGINE_F32 ? 4 : 2);
    return align_tensor(mt, msg);
}

struct layer_need {
    const char *name;
    uint64_t d0, d1;
    bool wanted;
};

static enum err need_layer(struct engine_model *m, const struct model_dir *d, uint32_t layer,
                           struct err_msg *msg)
{
    const struct engine_model_config *c = &m->config;
    uint64_t h = c->hidden, f = c->ffn;
    uint64_t q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;
    bool ab = c->attention_bias, ob = c->attention_out_bias, mb = c->mlp_bias;
    const struct layer_need needs[] = {
        {"input_layernorm.weight", h, 0, true},   {"self_attn.q_proj.weight", q, h, true},
        {"self_attn.k_proj.weight", kv, h, true}, {"self_attn.v_proj.weight", kv, h, true},
        {"self_attn.o_proj.weight", h, q, true},  {"self_attn.q_proj.bias", q, 0, ab},
        {"self_attn.k_proj.bias", kv, 0, ab},     {"self_attn.v_proj.bias", kv, 0, ab},
        {"self_attn.o_proj.bias", h, 0, ob},      {"post_attention_layernorm.weight", h, 0, true},
        {"mlp.gate_proj.weight", f, h, true},     {"mlp.up_proj.weight", f, h, true},
        {"mlp.down_proj.weight", h, f, true},     {"mlp.gate_proj.bias", f, 0, mb},
        {"mlp.up_proj.bias", f, 0, mb},           {"mlp.down_proj.bias", h, 0, mb},
    };

    for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
        char name[96];
        enum err err;

        if (!needs[i].wanted)
            continue;
        snprintf(name, sizeof(name), "model.layers.%u.%s", layer, needs[i].name);
        err = need(m, d, name, needs[i].d0, needs[i].d1, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err need_all(struct engine_model *m, const struct model_dir *d, struct err_msg *msg)
{
    const struct engine_model_config *c = &m->config;
    enum err err = need(m, d, "model.embed_tokens.weight", c->vocab, c->hidden, msg);

    for (uint32_t i = 0; err == ERR_OK && i < c->n_layers; i++)
        err = need_layer(m, d, i, msg);
    if (err == ERR_OK)
        err = need(m, d, "model.norm.weight", c->hidden, 0, msg);
    if (err == ERR_OK && !c->tied_embeddings)
        err = need(m, d, "lm_head.weight", c->vocab, c->hidden, msg);
    return err;
}

/* ---- identity ---- */

static void hash_tensor(EVP_MD_CTX *md, const struct model_tensor *mt)
{
    const uint8_t *data = mt->t.data;
    char line[1024];
    int n =
        snprintf(line, sizeof(line), "%s %s %u", mt->t.name, mt->entry->dtype, mt->entry->n_dims);

    EVP_DigestUpdate(md, line, (size_t)n);
    EVP_DigestUpdate(md, mt->entry->dims, sizeof(mt->entry->dims));
    if (mt->t.bytes <= SAMPLES * SAMPLE_BYTES) {
        EVP_DigestUpdate(md, data, (size_t)mt->t.bytes);
        return;
    }
    for (uint64_t i = 0; i < SAMPLES; i++)
        EVP_DigestUpdate(md, data + (mt->t.bytes - SAMPLE_BYTES) * i / (SAMPLES - 1), SAMPLE_BYTES);
}

/* Names in order, so that the same tensors in other shards have the same identity. */
static enum err compute_id(struct engine_model *m, struct err_msg *msg)
{
    const struct engine_model_config *c = &m->config;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    char line[1024];
    int n;

    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return err_set(msg, ERR_NOMEM, "the model's identity could not be computed: no SHA-256");
    }
    n = snprintf(line, sizeof(line),
                 "%s %u %u %u %u %u %u %u %u %.9g %.17g %d %.17g %.17g %.17g %u %d %d %d %d\n",
                 c->architecture, c->hidden, c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim,
                 c->ffn, c->vocab, c->max_positions, (double)c->norm_eps, c->rope_theta,
                 (int)c->rope_kind, c->rope_factor, c->rope_low_freq_factor,
                 c->rope_high_freq_factor, c->rope_original_positions, c->tied_embeddings,
                 c->attention_bias, c->attention_out_bias, c->mlp_bias);
    EVP_DigestUpdate(md, line, (size_t)n);
    for (size_t i = 0; i < m->n_tensors; i++)
        hash_tensor(md, &m->tensors[i]);
    EVP_DigestFinal_ex(md, digest, NULL);
    EVP_MD_CTX_free(md);
    m->id = 0;
    for (int i = 0; i < 8; i++)
        m->id = m->id << 8 | digest[i];
    return ERR_OK;
}

/* ---- open, read, close ---- */

enum err engine_model_open(const char *dir, struct err_msg *msg, struct engine_model **out)
{
    struct engine_model *m;
    struct model_dir d;
    enum err err = model_dir_open(dir, &d, msg);

    if (err != ERR_OK)
        return err;
    m = mem_try_calloc(1, sizeof(*m));
    if (m == NULL)
        err = err_set(msg, ERR_NOMEM, "%s: no memory", dir);
    if (err == ERR_OK)
        err = read_config_in(&d, &m->config, msg);
    if (err == ERR_OK)
        err = load_tensors(m, &d, msg);
    if (err == ERR_OK)
        err = need_all(m, &d, msg);
    if (err == ERR_OK)
        err = compute_id(m, msg);
    model_dir_close(&d);
    if (err != ERR_OK) {
        engine_model_close(m);
        return err;
    }
    *out = m;
    return ERR_OK;
}

const struct engine_model_config *engine_model_config(const struct engine_model *m)
{
    return &m->config;
}

const struct engine_tensor *engine_model_tensor(const struct engine_model *m, const char *name)
{
    const struct model_tensor *mt = find_tensor(m, name);

    return mt != NULL && mt->t.dtype != 0 && mt->t.n_dims <= 4 ? &mt->t : NULL;
}

uint64_t engine_model_weight_bytes(const struct engine_model *m)
{
    return m->weight_bytes;
}

uint64_t engine_model_n_params(const struct engine_model *m)
{
    return m->n_params;
}

uint64_t engine_model_id(const struct engine_model *m)
{
    return m->id;
}

static void prefault_piece(const uint8_t *p, size_t len)
{
    volatile uint8_t sink;

#ifdef MADV_POPULATE_READ
    if (madvise((void *)((uintptr_t)p & ~(uintptr_t)(PAGE - 1)), len, MADV_POPULATE_READ) == 0)
        return;
#endif
    for (size_t i = 0; i < len; i += PAGE)
        sink = p[i];
    (void)sink;
}

void engine_model_prefault(const struct engine_model *m, engine_model_progress_fn fn, void *arg)
{
    uint64_t total = 0, done = 0;

    for (size_t i = 0; i < m->n_shards; i++)
        total += m->shards[i].map.len;
    for (size_t i = 0; i < m->n_shards; i++) {
        const struct model_map *map = &m->shards[i].map;

        for (uint64_t at = 0; at < map->len; at += PREFAULT_PIECE) {
            uint64_t n = map->len - at < PREFAULT_PIECE ? map->len - at : PREFAULT_PIECE;

            prefault_piece(map->bytes + at, (size_t)n);
            done += n;
            if (fn != NULL)
                fn(arg, done, total);
        }
    }
}

void engine_model_close(struct engine_model *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->n_tensors; i++)
        mem_free(m->tensors[i].copy);
    mem_free(m->tensors);
    for (size_t i = 0; i < m->n_shards; i++) {
        model_header_free(&m->shards[i].header);
        model_map_close(&m->shards[i].map);
        mem_free(m->shards[i].name);
    }
    mem_free(m->shards);
    mem_free(m);
}
