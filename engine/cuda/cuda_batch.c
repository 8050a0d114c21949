/* engine/cuda/cuda_batch.c - see the header. */
#include "engine/cuda/cuda_batch.h"

#include <string.h>

#include "base/mem.h"

/* ---- shapes ---- */

uint32_t cuda_bucket(uint32_t n, uint32_t max_slots)
{
    static const uint32_t small[] = {1, 2, 4, 8};
    uint32_t step = n <= 64 ? 8 : 32, b;

    for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++) {
        if (n <= small[i])
            return small[i] < max_slots ? small[i] : max_slots;
    }
    b = (n + step - 1) / step * step;
    return b < max_slots ? b : max_slots;
}

uint32_t cuda_blocks_class(uint32_t n, uint32_t max_blocks)
{
    uint64_t c = CUDA_BLOCKS_MIN;

    while (c < n)
        c *= 4;
    return c < max_blocks ? (uint32_t)c : max_blocks;
}

static uint32_t tile_rows(const struct cuda_limits *l)
{
    return attention_prefill_tile_rows(l->n_heads, l->n_kv_heads);
}

static size_t take(size_t *at, size_t bytes)
{
    size_t here = *at;

    *at += (bytes + CUDA_META_ALIGN - 1) / CUDA_META_ALIGN * CUDA_META_ALIGN;
    return here;
}

struct counts {
    size_t rows, slots, blocks, tiles, sampled;
};

static struct cuda_meta place(struct counts n)
{
    struct cuda_meta m;
    size_t at = 0;

    m.token = take(&at, n.rows * sizeof(int32_t));
    m.position = take(&at, n.rows * sizeof(int32_t));
    m.slot = take(&at, n.rows * sizeof(int32_t));
    m.blocks = take(&at, n.slots * n.blocks * sizeof(uint32_t));
    m.tiles = take(&at, n.tiles * sizeof(struct attention_chunk));
    m.last_row = take(&at, n.sampled * sizeof(int32_t));
    m.last_position = take(&at, n.sampled * sizeof(int32_t));
    m.last_slot = take(&at, n.sampled * sizeof(int32_t));
    m.sample = take(&at, n.sampled * sizeof(struct sample_row));
    m.edits = m.bytes = at;
    return m;
}

/* A tile may be short only at the end of its chunk. */
static size_t tiles_max(const struct cuda_limits *l)
{
    uint32_t rows = tile_rows(l);

    return rows == 0 ? 0 : l->max_rows / rows + l->max_slots;
}

size_t cuda_meta_bytes_max(const struct cuda_limits *l)
{
    struct counts n = {l->max_rows, l->max_slots, l->max_blocks, tiles_max(l), l->max_slots};

    return place(n).bytes + CUDA_EDITS_MAX * sizeof(struct sample_edit);
}

static void place_batch(struct cuda_batch *b)
{
    b->meta =
        place((struct counts){b->n_rows, b->n_slots, b->max_blocks, b->n_tiles, b->n_sampled});
}

enum err cuda_batch_create(struct cuda_batch *b, const struct cuda_limits *l)
{
    size_t tiles = tiles_max(l);

    *b = (struct cuda_batch){.tiles_max = (uint32_t)tiles};
    b->spans = mem_try_calloc(l->max_slots, sizeof(b->spans[0]));
    b->chunks = mem_try_calloc(l->max_slots, sizeof(b->chunks[0]));
    b->tiles = mem_try_calloc(tiles, sizeof(b->tiles[0]));
    b->sampled = mem_try_calloc(l->max_slots, sizeof(b->sampled[0]));
    b->on_host = mem_try_calloc(l->max_slots, sizeof(b->on_host[0]));
    if (b->spans != NULL && b->chunks != NULL && b->tiles != NULL && b->sampled != NULL &&
        b->on_host != NULL)
        return ERR_OK;
    cuda_batch_free(b);
    return ERR_NOMEM;
}

void cuda_batch_free(struct cuda_batch *b)
{
    mem_free(b->spans);
    mem_free(b->chunks);
    mem_free(b->tiles);
    mem_free(b->sampled);
    mem_free(b->on_host);
    *b = (struct cuda_batch){.spans = NULL};
}

/* ---- planning ---- */

static void add_spans(struct cuda_batch *b, const struct engine_slot *slots, uint32_t n,
                      bool single)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct engine_slot *s = &slots[i];

        if (s->result != ERR_OK || (s->n_tokens == 1) != single)
            continue;
        b->spans[b->n_spans++] = (struct cuda_span){i, b->n_rows, s->n_tokens, s->position};
        b->n_rows += s->n_tokens;
    }
}

static uint32_t blocks_needed(const struct cuda_batch *b, const struct cuda_limits *l)
{
    uint32_t most = 1;

    for (uint32_t i = 0; i < b->n_spans; i++) {
        uint32_t end = b->spans[i].position + b->spans[i].n_rows;
        uint32_t need = (end + l->block_tokens - 1) / l->block_tokens;

        most = need > most ? need : most;
    }
    return most;
}

static void list_sampled(struct cuda_batch *b, const struct engine_slot *slots)
{
    b->n_sampled = 0;
    for (uint32_t i = 0; i < b->n_spans; i++) {
        if (slots[b->spans[i].slot].sample)
            b->sampled[b->n_sampled++] = i;
    }
}

static void list_tiles(struct cuda_batch *b, const struct cuda_limits *l)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct cuda_span *s = &b->spans[i];

        if (s->n_rows > 1)
            b->chunks[n++] = (struct attention_chunk){i, s->row, s->n_rows, s->position};
    }
    b->n_tiles =
        n == 0 ? 0 : attention_prefill_tiles(b->chunks, n, tile_rows(l), b->tiles, b->tiles_max);
}

void cuda_batch_plan(struct cuda_batch *b, const struct cuda_limits *l,
                     const struct engine_slot *slots, uint32_t n)
{
    b->n_spans = 0;
    b->n_rows = 0;
    add_spans(b, slots, n, true);
    b->n_single = b->n_rows;
    add_spans(b, slots, n, false);
    b->n_slots = b->n_spans;
    b->max_blocks = cuda_blocks_class(blocks_needed(b, l), l->max_blocks);
    list_sampled(b, slots);
    b->bucket = b->n_sampled == b->n_rows;
    b->compact = !b->bucket;
    if (b->bucket) {
        b->n_rows = cuda_bucket(b->n_rows, l->max_slots);
        for (uint32_t i = b->n_sampled; i < b->n_rows; i++)
            b->sampled[i] = UINT32_MAX;
        b->n_single = b->n_slots = b->n_sampled = b->n_rows;
    }
    list_tiles(b, l);
    place_batch(b);
}

void cuda_batch_plan_bucket(struct cuda_batch *b, const struct cuda_limits *l, uint32_t rows,
                            uint32_t max_blocks)
{
    (void)l;
    b->n_spans = 0;
    b->n_rows = b->n_single = b->n_slots = b->n_sampled = rows;
    b->max_blocks = max_blocks;
    b->n_tiles = 0;
    b->bucket = true;
    b->compact = false;
    b->group_layers = 0;
    for (uint32_t i = 0; i < rows; i++)
        b->sampled[i] = UINT32_MAX;
    place_batch(b);
}

/* ---- writing ---- */

static void write_rows(const struct cuda_batch *b, const struct engine_slot *slots,
                       uint8_t *metadata)
{
    int32_t *token = (int32_t *)(void *)(metadata + b->meta.token);
    int32_t *position = (int32_t *)(void *)(metadata + b->meta.position);
    int32_t *slot = (int32_t *)(void *)(metadata + b->meta.slot);
    uint32_t row = 0;

    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct engine_slot *s = &slots[b->spans[i].slot];

        for (uint32_t t = 0; t < s->n_tokens; t++, row++) {
            token[row] = s->tokens[t];
            position[row] = (int32_t)(s->position + t);
            slot[row] = (int32_t)i;
        }
    }
    for (; row < b->n_rows; row++) {
        token[row] = position[row] = 0;
        slot[row] = -1;
    }
}

/* What lies behind a slot's last block is read by nobody. */
static void write_blocks(const struct cuda_batch *b, const struct cuda_limits *l,
                         const struct engine_slot *slots, uint8_t *metadata)
{
    uint32_t *table = (uint32_t *)(void *)(metadata + b->meta.blocks);

    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct cuda_span *s = &b->spans[i];
        uint32_t used = (s->position + s->n_rows + l->block_tokens - 1) / l->block_tokens;

        memcpy(table + (size_t)i * b->max_blocks, slots[s->slot].blocks, used * sizeof(table[0]));
    }
}

static void write_sampled(const struct cuda_batch *b, uint8_t *metadata)
{
    int32_t *row = (int32_t *)(void *)(metadata + b->meta.last_row);
    int32_t *position = (int32_t *)(void *)(metadata + b->meta.last_position);
    int32_t *slot = (int32_t *)(void *)(metadata + b->meta.last_slot);

    if (!b->compact)
        return;
    for (uint32_t i = 0; i < b->n_sampled; i++) {
        const struct cuda_span *s = &b->spans[b->sampled[i]];

        row[i] = (int32_t)(s->row + s->n_rows - 1);
        position[i] = (int32_t)(s->position + s->n_rows - 1);
        slot[i] = (int32_t)b->sampled[i];
    }
}

static void write_sampling(struct cuda_batch *b, const struct cuda_limits *l,
                           const struct engine_slot *slots, uint8_t *metadata)
{
    struct sample_row *rows = (struct sample_row *)(void *)(metadata + b->meta.sample);
    struct sample_edit *edits = (struct sample_edit *)(void *)(metadata + b->meta.edits);

    b->n_edits = 0;
    for (uint32_t i = 0; i < b->n_sampled; i++) {
        const struct engine_slot *s;

        b->on_host[i] = false;
        rows[i] = (struct sample_row){.mode = SAMPLE_SKIP};
        if (b->sampled[i] == UINT32_MAX)
            continue;
        s = &slots[b->spans[b->sampled[i]].slot];
        b->on_host[i] = !sample_row_make(&rows[i], s->sampling, s->history, s->sample_index,
                                         l->vocab, edits, &b->n_edits, CUDA_EDITS_MAX);
    }
}

void cuda_batch_write(struct cuda_batch *b, const struct cuda_limits *l,
                      const struct engine_slot *slots, uint8_t *metadata)
{
    write_rows(b, slots, metadata);
    write_blocks(b, l, slots, metadata);
    memcpy(metadata + b->meta.tiles, b->tiles, b->n_tiles * sizeof(b->tiles[0]));
    write_sampled(b, metadata);
    write_sampling(b, l, slots, metadata);
}
