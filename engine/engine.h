/* engine/engine.h - the one interface to a model that runs: open, attach a KV pool, step, close.
 *
 *   engine_open -> engine_attach_kv -> engine_step ... -> engine_close
 *
 * A step advances a batch of sequences together; each brings one or more new tokens (a prefill chunk
 * brings many, a decode brings one), all of them already known, and may ask for the next token to be
 * sampled after its last one.  Keys and values are written to and read from the paged blocks that the
 * slot names; the engine keeps nothing of a sequence between steps.  A sequence's result does not
 * depend on who shares the batch, nor on how its prompt was cut into chunks.
 *
 * Thread     one thread at a time calls engine_step and engine_close (the worker's engine thread);
 *            engine_info may be read from any thread.  Backends may use threads of their own inside.
 * Ownership  all arrays in a slot belong to the caller and must stay valid during the step.
 * Blocking   engine_step blocks until the step is done; engine_open loads weights (seconds, minutes).
 * Units      tokens, blocks (indices into the attached pool), nanoseconds. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine_sample.h"
#include "proto/wire_kv.h"

struct engine; /* opaque */
struct kv_memory;

/* Progress of engine_open, for /health and the terminal.  Called on the opening thread; `done` and
 * `total` are bytes of weights (both 0 for a backend without weights). */
typedef void (*engine_progress_fn)(void *arg, const char *phase, uint64_t done, uint64_t total);

/* What the weights are held as. */
enum engine_weights {
    ENGINE_WEIGHTS_STORED = 0, /* as in the files */
    ENGINE_WEIGHTS_FP8,        /* e4m3 with a scale per output; activations too, with one per row */
    ENGINE_WEIGHTS_INT8        /* with a scale per output; activations stay */
};
bool engine_weights_named(const char *name, enum engine_weights *out); /* "stored", "fp8", "int8" */

/* What an engine takes of its devices' memory unless told. */
#define ENGINE_DEVICE_SHARE 0.9

struct engine_config {
    const char *backend;     /* "cpu", "sim"; "cuda" where built in */
    const char *model_dir;   /* Hugging Face directory; sim reads only config.json from it */
    const char *sim_profile; /* sim: profile file, NULL = zero modelled time */
    uint32_t threads; /* compute threads of all ranks, 0 = as many as cores the process may use */
    uint32_t tp;      /* ranks that share the model (engine/tp/tp_shard.h), 0 = 1 */
    uint32_t block_tokens;    /* tokens per KV block, 0 = 16 */
    uint32_t max_context;     /* 0 = the model's own; larger than the model's is refused */
    uint32_t max_batch;       /* most slots in one step, 0 = 256 */
    uint32_t max_step_tokens; /* most new tokens in one step over all slots, 0 = 512 */
    /* Backends with devices of their own; the others refuse what is not zero. */
    const uint32_t *devices; /* one for each rank; NULL = 0, 1, ... */
    double device_memory; /* share of all of each device's memory, as far as it is free; 0 = 0.9 */
    uint32_t kv_blocks;   /* of the pool, 0 = what is left of that share */
    enum engine_weights weights;
    uint32_t step_timeout_ms; /* a step that takes longer means a broken device, 0 = a minute */
    uint64_t random_seed; /* not 0: random weights of config.json's shape, no other file is read */

    engine_progress_fn progress; /* may be NULL */
    void *progress_arg;
};

struct engine_info {
    char backend[16];
    struct wire_kv_layout kv;
    uint32_t vocab;
    uint32_t max_context;
    uint32_t max_batch;
    uint32_t max_step_tokens;
    uint64_t weight_bytes;
    uint64_t n_params;
};

/* Called on the stepping thread each time a group of layers of this step is complete for all slots:
 * the KV of layers [first, first + n) for the step's tokens stands in the slots' blocks and will
 * not be written again by this step.  ready: 0 = it stands there now; else the device's ticket for the
 * moment at which it will, which copies out of the pool wait for (proto/kv_memory.h). */
typedef void (*engine_layers_fn)(void *arg, uint32_t first, uint32_t n, uint64_t ready);

struct engine_slot {
    /* in */
    const int32_t *tokens;  /* the new tokens */
    uint32_t n_tokens;      /* >= 1 */
    uint32_t position;      /* of tokens[0]; KV of [0, position) is in the blocks */
    const uint32_t *blocks; /* block i holds positions [i*block_tokens, (i+1)*block_tokens) */
    uint32_t n_blocks;      /* must cover position + n_tokens */
    bool sample;            /* sample a token to follow the last new one */
    const struct engine_sampling *sampling; /* needed if sample */
    const struct engine_history *history;   /* needed if sample and penalties are on; else NULL */
    uint32_t sample_index; /* which generated token this would be, from 0: keys the generator */
    /* out, valid if sample and result == ERR_OK */
    struct engine_sampled out;
    enum err result; /* ERR_OK, or why this slot alone failed: ERR_INVALID (token or block out of
                        range, blocks too few), ERR_CORRUPT (sim: KV that is not this prefix's) */
};

/* ERR_NOT_FOUND no such file or backend; ERR_INVALID the model or an option is malformed;
 * ERR_UNSUPPORTED a model feature that is not built (named in msg); ERR_NOMEM; ERR_IO. */
MUST_USE enum err engine_open(const struct engine_config *config, struct err_msg *msg,
                              struct engine **out);
const struct engine_info *engine_info(const struct engine *e);

/* The pool: info->kv.parts memories of n_blocks * wire_kv_part_block_bytes(info->kv) bytes at bases[i],
 * each 64-byte aligned, which must outlive the engine.  Once, before the first step.  ERR_BAD_STATE:
 * attached already, or it came with the engine (engine_kv_memory); ERR_INVALID: no blocks, or a base that is NULL or not aligned. */
MUST_USE enum err engine_attach_kv(struct engine *e, void *const *bases, uint32_t n_blocks);
/* The same for who keeps all parts in one memory of engine_pool_bytes, one behind the other.  0: more than
 * there are bytes. */
size_t engine_pool_bytes(const struct engine *e, uint32_t n_blocks);
MUST_USE enum err engine_attach_pool(struct engine *e, void *memory, uint32_t n_blocks);

/* The pool of an engine whose KV lives in device memory: made by engine_open, attached from the start, and
 * reached by others through its operations only (proto/kv_memory.h).  NULL: engine_attach_kv it is. */
const struct kv_memory *engine_kv_memory(const struct engine *e);

/* Has the device failed, in a step or outside (a copy of KV)?  No step will succeed any more, and perhaps none
 * comes that would say so: the process has to start anew.  Thread: any. */
bool engine_failed(const struct engine *e);

/* Run one step.  group_layers (0 = all at once) and layers_done (may be NULL) say how often to report
 * finished layers.  Per-slot trouble is in slot.result; the return value is for the whole step:
 * ERR_INVALID: n is 0 or above max_batch, or the new tokens exceed max_step_tokens; ERR_BAD_STATE: no pool;
 * ERR_DEVICE: the backend is broken, stop using it. */
MUST_USE enum err engine_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                              uint32_t group_layers, engine_layers_fn layers_done, void *arg);

enum engine_kv_dir { ENGINE_KV_OUT = 1 /* pool to host */, ENGINE_KV_IN /* host to pool */ };

/* Copy the bytes of one block between the pool and host memory of wire_kv_block_bytes(info->kv) bytes
 * (part after part: only this engine can take them back), whole when it returns.  Thread: the stepping one.  ERR_BAD_STATE: no pool; ERR_INVALID: no such block;
 * ERR_UNSUPPORTED: this backend's blocks cannot leave its device; ERR_DEVICE: as for engine_step. */
MUST_USE enum err engine_kv_copy(struct engine *e, uint32_t block, void *host,
                                 enum engine_kv_dir dir);

void engine_close(struct engine *e); /* NULL is fine */

/* Comma-separated names of the backends built in, for messages. */
const char *engine_backends(void);

#endif
