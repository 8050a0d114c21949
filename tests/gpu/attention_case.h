/* tests/gpu/attention_case.h - operands for the tests of the attention kernels: paged KV in scattered blocks of one layer
 * of several, where everything that no row may see is poisoned (NaN), and tables whose other entries lead nowhere. */
#ifndef TESTS_GPU_ATTENTION_CASE_H
#define TESTS_GPU_ATTENTION_CASE_H

#include "engine/kernels/attention.h"

#include "tests/gpu/gpu_test.h"

enum { CASE_LAYERS = 3, CASE_LAYER = 1, CASE_MAX_SLOTS = 16, CASE_OUT_PAD = 8 };

struct attention_shape {
    enum gpu_dtype dtype;
    uint32_t head_dim, n_q_heads, n_kv_heads, block_tokens, window;
    uint32_t n_slots, n_rows;
    uint32_t first[CASE_MAX_SLOTS]; /* keys first .. end - 1 of each slot are there */
    uint32_t end[CASE_MAX_SLOTS];
};

struct attention_case {
    struct attention_shape shape;
    struct attention host, device; /* the same operands on both sides */
    struct gpu_batch host_batch, device_batch;
    uint8_t *pool, *device_pool;
    size_t pool_bytes, q_bytes, out_bytes, table_bytes, row_bytes;
    int32_t *slot, *position; /* [n_rows]: to be filled before case_rows */
    uint16_t *q;
    uint32_t *table;
    uint16_t *got; /* as it comes back, rows out_stride apart */
    float *want;
};

static inline uint8_t *case_key(const struct attention_case *c, uint32_t slot, uint32_t key,
                                uint32_t head)
{
    const struct gpu_kv *kv = &c->host.kv;
    uint32_t block = c->table[slot * c->host_batch.max_blocks + key / kv->block_tokens];

    return kv->k + block * kv->block_stride +
           (size_t)(head * kv->block_tokens + key % kv->block_tokens) * kv->head_dim * 2;
}

/* Poison everywhere but in the visible keys; blocks in random order. */
static inline void case_pool(struct attention_case *c, double key_size, double value_size)
{
    const struct attention_shape *s = &c->shape;
    struct gpu_kv *kv = &c->host.kv;
    uint32_t n_blocks = kv->n_blocks, *order = (uint32_t *)test_alloc(n_blocks * sizeof(*order)),
             used = 0;

    memset(c->pool, TEST_POISON, c->pool_bytes);
    memset(c->table, TEST_POISON, c->table_bytes);
    for (uint32_t i = 0; i < n_blocks; i++) {
        uint32_t j = test_below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t slot = 0; slot < s->n_slots; slot++) {
        for (uint32_t b = s->first[slot] / s->block_tokens; b * s->block_tokens < s->end[slot]; b++)
            c->table[slot * c->host_batch.max_blocks + b] = order[used++];
        for (uint32_t key = s->first[slot]; key < s->end[slot]; key++) {
            for (uint32_t head = 0; head < s->n_kv_heads; head++) {
                uint16_t *k = (uint16_t *)(void *)case_key(c, slot, key, head);
                for (uint32_t d = 0; d < s->head_dim; d++) {
                    k[d] = test_to16(s->dtype, test_normal() * key_size);
                    k[kv->v_offset / 2 + d] = test_to16(s->dtype, test_normal() * value_size);
                }
            }
        }
    }
    mem_free(order);
}

/* All but the rows' slots and positions. */
static inline void case_make(struct attention_case *c, const struct attention_shape *s)
{
    size_t run = (size_t)s->n_kv_heads * s->block_tokens * s->head_dim * 2;
    uint32_t longest = 1;
    struct gpu_kv *kv = &c->host.kv;

    memset(c, 0, sizeof(*c));
    c->shape = *s;
    for (uint32_t i = 0; i < s->n_slots; i++)
        longest = s->end[i] > longest ? s->end[i] : longest;
    c->host_batch.n_slots = s->n_slots;
    c->host_batch.n_rows = s->n_rows;
    c->host_batch.max_blocks = (longest + s->block_tokens - 1) / s->block_tokens;
    kv->n_blocks = s->n_slots * c->host_batch.max_blocks + 1;
    kv->v_offset = run;
    kv->block_stride = 2 * run * CASE_LAYERS;
    kv->block_tokens = s->block_tokens;
    kv->n_kv_heads = s->n_kv_heads;
    kv->head_dim = s->head_dim;
    kv->dtype = s->dtype;
    c->pool_bytes = kv->n_blocks * kv->block_stride;
    c->table_bytes = (size_t)s->n_slots * c->host_batch.max_blocks * sizeof(*c->table);
    c->pool = (uint8_t *)test_alloc(c->pool_bytes);
    c->table = (uint32_t *)test_alloc(c->table_bytes);
    kv->k = c->pool + 2 * run * CASE_LAYER;
    case_pool(c, 1, 1);

    c->host.n_q_heads = s->n_q_heads;
    c->host.window = s->window;
    c->host.scale = (float)(1 / sqrt((double)s->head_dim));
    c->host.q_stride = (s->n_q_heads + 2 * s->n_kv_heads) * s->head_dim;
    c->host.out_stride = s->n_q_heads * s->head_dim + CASE_OUT_PAD;
    c->q_bytes = (size_t)s->n_rows * c->host.q_stride * 2;
    c->out_bytes = (size_t)s->n_rows * c->host.out_stride * 2;
    c->row_bytes = s->n_rows * sizeof(int32_t);
    /* 3: scores of about -9 to 9, so that the highest one moves as keys go by */
    c->q = test_random16(s->dtype, (size_t)s->n_rows * c->host.q_stride, 3);
    c->slot = (int32_t *)test_alloc(c->row_bytes);
    c->position = (int32_t *)test_alloc(c->row_bytes);
    c->got = (uint16_t *)test_alloc(c->out_bytes);
    c->want = (float *)test_alloc((size_t)s->n_rows * s->n_q_heads * s->head_dim * sizeof(float));
}

/* The operands on the device, once the rows are set. */
static inline void case_upload(struct attention_case *c)
{
    c->host.q = c->q;
    c->host_batch.slot = c->slot;
    c->host_batch.position = c->position;
    c->host_batch.blocks = c->table;
    c->device = c->host;
    c->device_batch = c->host_batch;
    c->device_pool = (uint8_t *)test_upload(c->pool, c->pool_bytes);
    c->device.kv.k = c->device_pool + (c->host.kv.k - c->pool);
    c->device.q = (const uint16_t *)test_upload(c->q, c->q_bytes);
    c->device.out = (uint16_t *)test_device(c->out_bytes);
    c->device_batch.slot = (const int32_t *)test_upload(c->slot, c->row_bytes);
    c->device_batch.position = (const int32_t *)test_upload(c->position, c->row_bytes);
    c->device_batch.blocks = (const uint32_t *)test_upload(c->table, c->table_bytes);
}

static inline const uint16_t *case_row(const struct attention_case *c, uint32_t row)
{
    return c->got + (size_t)row * c->host.out_stride;
}

static inline bool case_poisoned(const void *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (((const uint8_t *)p)[i] != TEST_POISON)
            return false;
    }
    return true;
}

/* One rounding of the result, and of each weight before it meets its value: at most the rounding times the mean of
 * |value|, about 1, and as they go either way, less than one rounding in the mean square. */
static inline void case_check_row(const struct attention_case *c, uint32_t row)
{
    size_t n = (size_t)c->shape.n_q_heads * c->shape.head_dim;
    double unit = test_rounding(c->shape.dtype);
    double l2 = test_close16("attention", c->shape.dtype, case_row(c, row), c->want + row * n, n,
                             unit, unit);

    if (l2 > 0.8 * unit)
        fail_msg("row %u is off by %g in the mean square", row, l2);
}

/* got: rows against want, where a row was wanted; nothing else written. */
static inline void case_check(const struct attention_case *c)
{
    size_t n = (size_t)c->shape.n_q_heads * c->shape.head_dim;

    for (uint32_t r = 0; r < c->shape.n_rows; r++) {
        if (c->slot[r] >= 0)
            case_check_row(c, r);
        else
            assert_true(case_poisoned(case_row(c, r), n * 2));
        assert_true(case_poisoned(case_row(c, r) + n, CASE_OUT_PAD * 2));
    }
}

static inline void case_free(struct attention_case *c)
{
    test_device_free(c->device_pool, c->pool_bytes);
    test_device_free((void *)(uintptr_t)c->device.q, c->q_bytes);
    test_device_free(c->device.out, c->out_bytes);
    test_device_free((void *)(uintptr_t)c->device_batch.slot, c->row_bytes);
    test_device_free((void *)(uintptr_t)c->device_batch.position, c->row_bytes);
    test_device_free((void *)(uintptr_t)c->device_batch.blocks, c->table_bytes);
    mem_free(c->pool), mem_free(c->table), mem_free(c->q), mem_free(c->slot), mem_free(c->position);
    mem_free(c->got), mem_free(c->want);
}

#endif
