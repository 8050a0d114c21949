/* tests/unit/engine_fixture.h - random-weight models in temporary directories, for the engine tests. */
#ifndef TESTS_UNIT_ENGINE_FIXTURE_H
#define TESTS_UNIT_ENGINE_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine_model.h"

struct fixture_shape {
    uint32_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab, positions;
    enum engine_dtype dtype;
    bool tied;
    bool biases; /* on every matrix of the layers */
};

enum { FIXTURE_PATH = 96, FIXTURE_HEADER_MAX = 1 << 16 };

/* An empty directory under the system's place for temporary files. */
void fixture_dir(char dir[FIXTURE_PATH]);
void fixture_write(const char *dir, const char *name, const void *bytes, size_t len);
/* Removes the directory with the plain files and links in it. */
void fixture_remove(const char *dir);

/* The text of config.json and of the safetensors header; return the bytes of weights. */
void fixture_config(const struct fixture_shape *s, char *out, size_t cap);
size_t fixture_header(const struct fixture_shape *s, char *out, size_t cap);
/* A safetensors file: length, header, then the data (random numbers if data is NULL). */
void fixture_write_tensors(const char *dir, const char *name, const char *header, const void *data,
                           size_t data_len);
/* All of it.  Weights are of a size that keeps activations near 1. */
void fixture_model(const struct fixture_shape *s, char dir[FIXTURE_PATH]);

#endif
