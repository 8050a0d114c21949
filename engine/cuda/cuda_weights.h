/* engine/cuda/cuda_weights.h - the weights of one rank in device memory, and how they get there.
 *
 *   cuda_weights_shape -> _bytes -> cuda_weights_place -> cuda_weights_load -> cuda_weights_free
 *
 * Matrices are [outputs][inputs] of a 16-bit type, as in the files; those that multiply the same rows stand
 * one after the other as one: q k v, and gate up.  A rank holds its part of each (engine/tp/tp_shard.h).
 * Loading reads the mapping in pieces: several threads convert each its next piece into one of two pinned
 * buffers of their own while the other one is on its way to the device.
 *
 * With 8-bit weights each matrix of a layer goes to the device with 16 bits, is rounded there, and what that
 * costs is measured.
 *
 * Thread     load: the opening thread of the rank.
 * Ownership  everything points into the arena; staging is freed before load returns.
 * Blocking   load: until the weights are on the device. */
#ifndef ENGINE_CUDA_CUDA_WEIGHTS_H
#define ENGINE_CUDA_CUDA_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/cuda/gpu_blas.h"
#include "engine/engine_model.h"
#include "engine/gpu.h"
#include "engine/tp/tp_shard.h"

struct cuda_matrix {
    void *w;        /* [n][k] of `weight` */
    float *scale;   /* [n] with 8 bits, else NULL */
    uint16_t *bias; /* or NULL */
    uint32_t n, k;
    enum gpu_weight weight;
    bool has_bias;
};

struct cuda_layer {
    uint16_t *attention_norm, *mlp_norm;
    struct cuda_matrix qkv, o, gate_up, down;
};

struct cuda_weights {
    enum gpu_weight weight; /* of the layers' matrices; embedding and head have 16 bits */
    uint16_t *embedding;    /* [vocab][hidden] */
    uint16_t *final_norm;
    struct cuda_layer *layers;
    struct cuda_matrix head; /* this rank's rows; with tied weights those of the embedding */
};

/* What loading is told and tells. */
struct cuda_weights_load {
    struct gpu *gpu;
    gpu_stream stream;                /* of what runs on the device beside the copies */
    const struct engine_model *model; /* NULL: random numbers instead */
    uint64_t seed;                    /* of those */
    const struct engine_model_config *config;
    const struct tp_shard *shard;
    enum gpu_dtype dtype;
    void *scratch; /* cuda_weights_scratch_bytes() on the device, for 8 bits only */
    uint32_t threads;
    uint64_t deadline_ns;        /* how long one copy may take before the device counts as hung */
    uint64_t *loaded;            /* bytes on the device so far: added to atomically, by all ranks */
    void (*progress)(void *arg); /* called now and then on the calling thread; may be NULL */
    void *arg;
};

/* The type that the device holds them in: the files' own if it has 16 bits, else bfloat16. */
enum gpu_dtype cuda_weights_dtype(const struct engine_model *m);
/* The layer table, with every matrix's shape; w->weight is set before.  ERR_NOMEM. */
MUST_USE enum err cuda_weights_shape(struct cuda_weights *w, const struct engine_model_config *m,
                                     const struct tp_shard *s);
/* Bytes on the device of the rank's part. */
uint64_t cuda_weights_bytes(struct cuda_weights *w, const struct engine_model_config *m,
                            const struct tp_shard *s);
/* What loading needs beside that; 0 with 16 bits. */
uint64_t cuda_weights_scratch_bytes(const struct cuda_weights *w);
/* Point w into memory of that size, 256-byte aligned. */
void cuda_weights_place(struct cuda_weights *w, const struct engine_model_config *m,
                        const struct tp_shard *s, void *memory);
/* From the files; without a model random numbers of a size that keeps activations near 1, made on the
 * device: for measurements.  `report` becomes what 8 bits cost.  ERR_NOMEM: no pinned memory; ERR_INVALID: a
 * shape that 8 bits do not fit; ERR_DEVICE. */
MUST_USE enum err cuda_weights_load(struct cuda_weights *w, const struct cuda_weights_load *l,
                                    struct gpu_quantize_report *report, struct err_msg *msg);
void cuda_weights_free(struct cuda_weights *w);

#endif
