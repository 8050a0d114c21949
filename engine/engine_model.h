/* engine/engine_model.h - a model directory on disk: config.json, generation_config.json and the
 * (sharded) safetensors files, checked whole before anything is allocated from their sizes, and
 * memory-mapped read-only, so that the workers of one machine share the pages.
 *
 * Weight files are opened beneath the directory only: a name in the shard index that is not a plain
 * file name is refused, and so is a link that leads out (but the links of a Hugging Face cache
 * snapshot, ../../blobs/<hash>, are followed).
 * A file that is truncated by someone else while it is mapped raises SIGBUS on access; no reader of
 * mapped files can prevent that, so replace model files by rename, never in place.
 *
 * Thread     open and close: one thread; an open model is immutable.
 * Ownership  tensors point into the mapping (or into a copy, where the file does not align them) and
 *            live until engine_model_close.
 * Blocking   open reads the headers and a sample of the data, not the weights. */
#ifndef ENGINE_ENGINE_MODEL_H
#define ENGINE_ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum engine_dtype { ENGINE_F32 = 1, ENGINE_F16 = 2, ENGINE_BF16 = 3 };
enum engine_rope_kind { ENGINE_ROPE_PLAIN = 0, ENGINE_ROPE_LINEAR, ENGINE_ROPE_LLAMA3 };
enum { ENGINE_MODEL_EOS_MAX = 16 };

/* config.json and generation_config.json, checked. */
struct engine_model_config {
    char architecture[64];
    uint32_t hidden, n_layers, n_heads, n_kv_heads, head_dim, ffn, vocab, max_positions;
    float norm_eps;
    double rope_theta;
    enum engine_rope_kind rope_kind;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint32_t rope_original_positions;
    bool tied_embeddings;
    bool attention_bias;     /* bias on q, k, v (Qwen2; Llama with attention_bias) */
    bool attention_out_bias; /* bias on o (Llama with attention_bias) */
    bool mlp_bias;
    int32_t bos;                       /* -1: none */
    int32_t eos[ENGINE_MODEL_EOS_MAX]; /* union of both files: the stop set */
    uint32_t n_eos;
    bool has_temperature, has_top_p, has_top_k,
        has_repetition_penalty; /* generation defaults given */
    float temperature, top_p, repetition_penalty;
    int32_t top_k;
};

struct engine_tensor {
    const char *name;
    enum engine_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[4];
    const void *data; /* aligned to the element size at least */
    uint64_t bytes;
};

struct engine_model; /* opaque */

/* Only the configuration: no weights are looked at. */
MUST_USE enum err engine_model_read_config(const char *dir, struct engine_model_config *out,
                                           struct err_msg *msg);
/* Everything.  ERR_NOT_FOUND, ERR_INVALID (what, in which file), ERR_UNSUPPORTED (feature named),
 * ERR_IO, ERR_NOMEM. */
MUST_USE enum err engine_model_open(const char *dir, struct err_msg *msg,
                                    struct engine_model **out);
const struct engine_model_config *engine_model_config(const struct engine_model *m);
const struct engine_tensor *engine_model_tensor(const struct engine_model *m, const char *name);
uint64_t engine_model_weight_bytes(const struct engine_model *m);
uint64_t engine_model_n_params(const struct engine_model *m);
/* A 64-bit hash of the configuration and of the tensor headers and a sample of the data: equal on two
 * hosts that serve the same files. */
uint64_t engine_model_id(const struct engine_model *m);
/* Bring the weights into memory piece by piece, reporting as it goes; done == total at the end. */
typedef void (*engine_model_progress_fn)(void *arg, uint64_t done, uint64_t total);
void engine_model_prefault(const struct engine_model *m, engine_model_progress_fn fn, void *arg);
void engine_model_close(struct engine_model *m); /* NULL is fine */

/* The header of one safetensors file, for the fuzzer: bytes[0, len) is the start of a file of
 * file_bytes bytes, its 8-byte length field included; checks all rules (offsets tile the data exactly,
 * dtype x shape = bytes, no duplicates, caps) against file_bytes without touching the data. */
MUST_USE enum err engine_model_check_header(const uint8_t *bytes, size_t len, uint64_t file_bytes,
                                            struct err_msg *msg);
/* config.json from memory, for the fuzzer. */
MUST_USE enum err engine_model_parse_config(const char *json, size_t len,
                                            struct engine_model_config *out, struct err_msg *msg);
#endif
