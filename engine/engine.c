/* engine/engine.c - backend dispatch and the checks that all backends share. */
#include "engine/engine.h"

#include <string.h>

#include "base/mem.h"
#include "engine/engine_backend.h"
#include "proto/kv_memory.h"

enum { KV_ALIGN = 64 };
enum {
    BLOCK_TOKENS_DEFAULT = 16,
    BLOCK_TOKENS_MAX = 1024,
    BATCH_DEFAULT = 256,
    BATCH_MAX = 4096,
    STEP_TOKENS_DEFAULT = 512,
    STEP_TOKENS_MAX = 65536
};

static const struct engine_backend *const backends[] = {
    &engine_backend_cpu,
#ifdef BATON_ENGINE_SIM
    &engine_backend_sim,
#endif
#ifdef BATON_ENGINE_CUDA
    &engine_backend_cuda,
#endif
};

bool engine_weights_named(const char *name, enum engine_weights *out)
{
    static const char *const names[] = {[ENGINE_WEIGHTS_STORED] = "stored",
                                        [ENGINE_WEIGHTS_FP8] = "fp8",
                                        [ENGINE_WEIGHTS_INT8] = "int8"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum engine_weights)i;
            return true;
        }
    }
    return false;
}

const char *engine_backends(void)
{
    return "cpu"
#ifdef BATON_ENGINE_SIM
           ", sim"
#endif
#ifdef BATON_ENGINE_CUDA
           ", cuda"
#endif
        ;
}

static const struct engine_backend *find_backend(const char *name)
{
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    }
    return NULL;
}

static enum err resolve(const char *what, uint32_t *value, uint32_t dflt, uint32_t max,
                        struct err_msg *msg)
{
    if (*value == 0)
        *value = dflt;
    if (*value <= max)
        return ERR_OK;
    return err_set(msg, ERR_INVALID, "engine: %s is %u, allowed are 1 .. %u", what, *value, max);
}

/* What only a backend with devices of its own understands must not be lost on another. */
static enum err check_device_options(const struct engine_backend *backend,
                                     const struct engine_config *c, struct err_msg *msg)
{
    const char *what = NULL;

    if (backend->kv_memory != NULL)
        return ERR_OK;
    if (c->devices != NULL)
        what = "a list of devices";
    else if (c->device_memory != 0)
        what = "a share of device memory";
    else if (c->kv_blocks != 0)
        what = "a pool in device memory";
    else if (c->weights != ENGINE_WEIGHTS_STORED)
        what = "quantised weights";
    else if (c->random_seed != 0)
        what = "random weights";
    if (what == NULL)
        return ERR_OK;
    return err_set(msg, ERR_UNSUPPORTED,
                   "engine: the %s backend does not know %s; use --backend cuda", backend->name,
                   what);
}

/* A pool that came with the engine is attached already. */
static void attach_own(struct engine *e)
{
    const struct kv_memory *m = engine_kv_memory(e);

    memset(e->kv_base, 0, sizeof(e->kv_base));
    e->kv_blocks = 0;
    if (m == NULL)
        return;
    for (uint32_t i = 0; i < m->parts; i++)
        e->kv_base[i] = m->base[i];
    e->kv_blocks = m->n_blocks;
}

enum err engine_open_backend(const struct engine_backend *backend,
                             const struct engine_config *config, struct err_msg *msg,
                             struct engine **out)
{
    struct engine_config c = *config;
    struct engine *e = NULL;
    enum err err;

    if (c.model_dir == NULL && strcmp(backend->name, "sim") != 0)
        return err_set(msg, ERR_INVALID, "engine: a model directory is needed");
    if ((err = resolve("tp", &c.tp, 1, ENGINE_PARTS_MAX, msg)) != ERR_OK ||
        (err = resolve("block_tokens", &c.block_tokens, BLOCK_TOKENS_DEFAULT, BLOCK_TOKENS_MAX,
                       msg)) != ERR_OK ||
        (err = resolve("max_batch", &c.max_batch, BATCH_DEFAULT, BATCH_MAX, msg)) != ERR_OK ||
        (err = resolve("max_step_tokens", &c.max_step_tokens, STEP_TOKENS_DEFAULT, STEP_TOKENS_MAX,
                       msg)) != ERR_OK)
        return err;
    err = check_device_options(backend, &c, msg);
    if (err != ERR_OK)
        return err;
    err = backend->open(&c, msg, &e);
    if (err != ERR_OK)
        return err;
    e->backend = backend;
    attach_own(e);
    *out = e;
    return ERR_OK;
}

enum err engine_open(const struct engine_config *config, struct err_msg *msg, struct engine **out)
{
    const struct engine_backend *backend;

    if (config->backend == NULL)
        return err_set(msg, ERR_INVALID, "engine: a backend is needed; built in are: %s",
                       engine_backends());
    backend = find_backend(config->backend);
    if (backend == NULL)
        return err_set(msg, ERR_NOT_FOUND,
                       "engine: no backend '%.40s' in this build; built in are: %s",
                       config->backend, engine_backends());
    return engine_open_backend(backend, config, msg, out);
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

const struct kv_memory *engine_kv_memory(const struct engine *e)
{
    return e->backend->kv_memory != NULL ? e->backend->kv_memory(e) : NULL;
}

bool engine_failed(const struct engine *e)
{
    return e->backend->failed != NULL && e->backend->failed(e);
}

enum err engine_attach_kv(struct engine *e, void *const *bases, uint32_t n_blocks)
{
    if (e->kv_base[0] != NULL)
        return ERR_BAD_STATE;
    if (n_blocks == 0)
        return ERR_INVALID;
    for (uint32_t i = 0; i < e->info.kv.parts; i++) {
        if (bases[i] == NULL || (uintptr_t)bases[i] % KV_ALIGN != 0)
            return ERR_INVALID;
    }
    for (uint32_t i = 0; i < e->info.kv.parts; i++)
        e->kv_base[i] = bases[i];
    e->kv_blocks = n_blocks;
    return e->backend->attached != NULL ? e->backend->attached(e) : ERR_OK;
}

static size_t part_bytes(const struct engine *e, uint32_t n_blocks)
{
    size_t bytes;

    if (!mem_mul(wire_kv_part_block_bytes(&e->info.kv), n_blocks, &bytes) ||
        !mem_add(bytes, KV_ALIGN - 1, &bytes))
        return 0;
    return bytes / KV_ALIGN * KV_ALIGN;
}

size_t engine_pool_bytes(const struct engine *e, uint32_t n_blocks)
{
    size_t bytes;

    return mem_mul(part_bytes(e, n_blocks), e->info.kv.parts, &bytes) ? bytes : 0;
}

enum err engine_attach_pool(struct engine *e, void *memory, uint32_t n_blocks)
{
    void *bases[ENGINE_PARTS_MAX] = {NULL};

    for (uint32_t i = 0; memory != NULL && i < e->info.kv.parts; i++)
        bases[i] = (uint8_t *)memory + i * part_bytes(e, n_blocks);
    return engine_attach_kv(e, bases, n_blocks);
}

static bool blocks_valid(const struct engine *e, const struct engine_slot *s)
{
    uint64_t end = (uint64_t)s->position + s->n_tokens;
    uint64_t need = (end + e->info.kv.block_tokens - 1) / e->info.kv.block_tokens;

    if (s->blocks == NULL || s->n_blocks < need)
        return false;
    for (uint64_t i = 0; i < need; i++) {
        if (s->blocks[i] >= e->kv_blocks)
            return false;
    }
    return true;
}

static enum err check_slot(const struct engine *e, const struct engine_slot *s)
{
    if (s->tokens == NULL || s->n_tokens == 0 ||
        (uint64_t)s->position + s->n_tokens > e->info.max_context)
        return ERR_INVALID;
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= e->info.vocab)
            return ERR_INVALID;
    }
    if (!blocks_valid(e, s))
        return ERR_INVALID;
    if (!s->sample)
        return ERR_OK;
    if (s->sampling == NULL || (s->history == NULL && engine_sampling_uses_history(s->sampling)))
        return ERR_INVALID;
    return ERR_OK;
}

enum err engine_step(struct engine *e, struct engine_slot *slots, uint32_t n, uint32_t group_layers,
                     engine_layers_fn layers_done, void *arg)
{
    uint64_t total = 0;
    uint32_t runnable = 0;

    if (e->kv_base[0] == NULL)
        return ERR_BAD_STATE;
    if (n == 0 || n > e->info.max_batch)
        return ERR_INVALID;
    for (uint32_t i = 0; i < n; i++)
        total += slots[i].n_tokens;
    if (total > e->info.max_step_tokens)
        return ERR_INVALID;
    for (uint32_t i = 0; i < n; i++) {
        slots[i].result = check_slot(e, &slots[i]);
        runnable += slots[i].result == ERR_OK;
    }
    if (runnable == 0)
        return ERR_OK;
    if (group_layers == 0 || group_layers > e->info.kv.n_layers)
        group_layers = e->info.kv.n_layers;
    return e->backend->step(e, slots, n, group_layers, layers_done, arg);
}

enum err engine_kv_copy_host(struct engine *e, uint32_t block, void *host, enum engine_kv_dir dir)
{
    size_t bytes = wire_kv_part_block_bytes(&e->info.kv);

    for (uint32_t i = 0; i < e->info.kv.parts; i++) {
        uint8_t *at = e->kv_base[i] + block * bytes;
        uint8_t *there = (uint8_t *)host + i * bytes;

        if (dir == ENGINE_KV_OUT)
            memcpy(there, at, bytes);
        else
            memcpy(at, there, bytes);
    }
    return ERR_OK;
}

enum err engine_kv_copy(struct engine *e, uint32_t block, void *host, enum engine_kv_dir dir)
{
    if (e->kv_base[0] == NULL)
        return ERR_BAD_STATE;
    if (block >= e->kv_blocks || host == NULL)
        return ERR_INVALID;
    if (e->backend->kv_copy == NULL)
        return ERR_UNSUPPORTED;
    return e->backend->kv_copy(e, block, host, dir);
}

void engine_close(struct engine *e)
{
    if (e != NULL)
        e->backend->close(e);
}
