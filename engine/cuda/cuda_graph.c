/* engine/cuda/cuda_graph.c - decode steps captured once per bucket of rows and class of contexts.
 *
 * A decode step of one stream is some hundred small kernels: enqueued one by one they cost the host about as
 * much time as a small model's step takes.  All graphs are made at open, so that no step waits for one.  What
 * differs from step to step stands in the metadata, which lies at the same place for equal shapes. */
#include "base/mem.h"
#include "engine/cuda/cuda_engine.h"

enum { BUCKETS_MAX = 192, CLASSES_MAX = 16 };

struct cuda_graphs {
    uint32_t bucket[BUCKETS_MAX], n_buckets;
    uint32_t blocks[CLASSES_MAX], n_classes;
    gpu_graph graph[BUCKETS_MAX][CLASSES_MAX];
};

static void list_shapes(struct cuda_graphs *g, const struct cuda_limits *l)
{
    for (uint32_t n = 1; g->n_buckets < BUCKETS_MAX;) {
        uint32_t b = cuda_bucket(n, l->max_slots);

        g->bucket[g->n_buckets++] = b;
        if (b >= l->max_slots)
            break;
        n = b + 1;
    }
    for (uint32_t n = 1; g->n_classes < CLASSES_MAX;) {
        uint32_t c = cuda_blocks_class(n, l->max_blocks);

        g->blocks[g->n_classes++] = c;
        if (c >= l->max_blocks)
            break;
        n = c + 1;
    }
}

static enum err capture(struct cuda_rank *r, const struct cuda_batch *b, gpu_graph *out)
{
    enum err err = gpu_capture_begin(r->stream), ended;

    if (err != ERR_OK)
        return err;
    err = cuda_forward(r, b);
    ended = gpu_capture_end(r->stream, out); /* also after a failure: the stream must leave it */
    return err != ERR_OK ? err : ended;
}

enum err cuda_graphs_capture(struct cuda_rank *r, struct err_msg *msg)
{
    const struct cuda_limits *l = &r->engine->limits;
    struct cuda_graphs *g = mem_try_calloc(1, sizeof(*g));
    struct cuda_batch b;
    enum err err;

    if (g == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory for graphs");
    r->graphs = g;
    list_shapes(g, l);
    err = cuda_batch_create(&b, l);
    if (err != ERR_OK)
        return err_set(msg, err, "engine: no memory for graphs");
    for (uint32_t i = 0; i < g->n_buckets && err == ERR_OK; i++) {
        for (uint32_t k = 0; k < g->n_classes && err == ERR_OK; k++) {
            cuda_batch_plan_bucket(&b, l, g->bucket[i], g->blocks[k]);
            err = capture(r, &b, &g->graph[i][k]);
        }
        if (r->index == 0 && r->engine->open_config->progress != NULL)
            r->engine->open_config->progress(r->engine->open_config->progress_arg,
                                             "recording decode steps", 0, 0);
    }
    cuda_batch_free(&b);
    return err == ERR_OK ? ERR_OK
                         : err_set(msg, err, "engine: device %u: recording decode steps: %s",
                                   r->device, err == ERR_DEVICE ? gpu_trouble() : err_text(err));
}

gpu_graph cuda_graphs_find(const struct cuda_rank *r, const struct cuda_batch *b)
{
    const struct cuda_graphs *g = r->graphs;

    if (g == NULL || !b->bucket || b->group_layers != 0)
        return NULL;
    for (uint32_t i = 0; i < g->n_buckets; i++) {
        if (g->bucket[i] != b->n_rows)
            continue;
        for (uint32_t k = 0; k < g->n_classes; k++) {
            if (g->blocks[k] == b->max_blocks)
                return g->graph[i][k];
        }
    }
    return NULL;
}

void cuda_graphs_free(struct cuda_rank *r)
{
    struct cuda_graphs *g = r->graphs;

    if (g == NULL)
        return;
    for (uint32_t i = 0; i < g->n_buckets; i++) {
        for (uint32_t k = 0; k < g->n_classes; k++)
            gpu_graph_destroy(g->graph[i][k]);
    }
    mem_free(g);
    r->graphs = NULL;
}
