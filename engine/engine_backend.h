/* engine/engine_backend.h - private to the engine: what a backend provides behind engine.h.
 *
 * engine.c resolves the defaults of the configuration, checks every slot of a step against the model
 * and the pool (so that a backend sees only slots it can run) and hands the rest on.
 *
 *   open (config with defaults filled in) -> [attached] -> step ... -> close
 *
 * A backend embeds struct engine as its first member, and fills `info` in open. */
#ifndef ENGINE_ENGINE_BACKEND_H
#define ENGINE_ENGINE_BACKEND_H

#include "engine/engine.h"

enum { ENGINE_PARTS_MAX = WIRE_KV_PARTS_MAX };

struct engine_backend {
    const char *name;
    /* tp, block_tokens, max_batch and max_step_tokens are filled in and in range; max_context may be 0.
     * Sets (*out)->info; the dispatcher sets the rest of struct engine. */
    enum err (*open)(const struct engine_config *config, struct err_msg *msg, struct engine **out);
    /* The pool is known: e->kv_base, e->kv_blocks.  May be NULL. */
    enum err (*attached)(struct engine *e);
    /* The pool that open has made in device memory, attached already.  NULL: the pool is given. */
    const struct kv_memory *(*kv_memory)(const struct engine *e);
    /* Slots whose result is not ERR_OK on entry were refused and must be left alone. */
    enum err (*step)(struct engine *e, struct engine_slot *slots, uint32_t n, uint32_t group_layers,
                     engine_layers_fn layers_done, void *arg);
    /* The block is in range.  NULL: blocks cannot be copied to the host. */
    enum err (*kv_copy)(struct engine *e, uint32_t block, void *host, enum engine_kv_dir dir);
    bool (*failed)(const struct engine *e); /* any thread; NULL: it never does */
    void (*close)(struct engine *e);        /* frees e */
};

/* kv_copy of a backend whose pool is host memory. */
enum err engine_kv_copy_host(struct engine *e, uint32_t block, void *host, enum engine_kv_dir dir);

struct engine {
    const struct engine_backend *backend;
    struct engine_info info;
    uint8_t *kv_base[ENGINE_PARTS_MAX]; /* of each part; NULL until attached */
    uint32_t kv_blocks;
};

/* engine_open with the backend given instead of named. */
MUST_USE enum err engine_open_backend(const struct engine_backend *backend,
                                      const struct engine_config *config, struct err_msg *msg,
                                      struct engine **out);

extern const struct engine_backend engine_backend_cpu;  /* engine/cpu/cpu_backend.c */
extern const struct engine_backend engine_backend_sim;  /* engine/engine_sim.c */
extern const struct engine_backend engine_backend_cuda; /* engine/cuda/cuda_backend.c */

#endif
