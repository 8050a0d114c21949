/* engine/cuda/cuda_engine.h - private to engine/cuda: the CUDA backend's state.
 *
 *   cuda_backend.c   open and close: sizes, the arena, weights, plans
 *   cuda_weights*.c  weights to the device
 *   cuda_batch.c     a step's rows and metadata, written on the host
 *   cuda_forward.c   a step's kernels, enqueued
 *   cuda_graph.c     decode steps as graphs
 *   cuda_step.c      one step: batch, launch, wait, results
 *   cuda_profile.c   what each kind of kernel takes of a step
 *   cuda_ranks.c     a thread per device
 *   cuda_kv.c        blocks to and from host memory
 *
 * A rank is one device with its part of the model; without tensor parallelism there is one.  The stepping
 * thread writes a step's metadata once, for all ranks, into pinned memory; each rank copies it to its device
 * and enqueues the same step.  Rank 0 runs on the stepping thread and samples.
 *
 * Nothing is allocated after open. */
#ifndef ENGINE_CUDA_CUDA_ENGINE_H
#define ENGINE_CUDA_CUDA_ENGINE_H

#include <pthread.h>
#include <stdbool.h>

#include "base/clock.h"
#include "engine/cuda/cuda_arena.h"
#include "engine/cuda/cuda_batch.h"
#include "engine/cuda/cuda_weights.h"
#include "engine/cuda/cuda_times.h"
#include "engine/cuda/gpu_blas.h"
#include "engine/cuda/gpu_comm.h"
#include "engine/engine_backend.h"
#include "engine/engine_model.h"
#include "engine/gpu.h"
#include "engine/kernels/attention.h"
#include "engine/tp/tp_shard.h"

/* The products of a layer and the output head: one shape each. */
enum cuda_product { CUDA_QKV, CUDA_O, CUDA_GATE_UP, CUDA_DOWN, CUDA_HEAD, CUDA_PRODUCTS };

enum { CUDA_SETTLE_MS = 1000 };

struct cuda_engine;

struct cuda_rank {
    struct cuda_engine *engine;
    uint32_t index, device;
    struct gpu *gpu;
    struct tp_shard shard;
    gpu_stream stream;
    struct gpu_comm *comm; /* NULL without tensor parallelism */
    struct cuda_arena_need need;
    struct cuda_arena arena;
    struct cuda_weights weights;
    struct gpu_quantize_report quantized;
    struct gpu_blas *blas;
    struct gpu_blas_plan *plan[CUDA_PRODUCTS];

    /* in the arena; rows of 16-bit elements unless said */
    uint16_t *x;      /* [rows][hidden] residual stream */
    uint16_t *y;      /* [rows][hidden or the heads]: a product's input */
    uint16_t *wide;   /* [rows][q k v, or gate and up] */
    uint16_t *act;    /* [rows][ffn] */
    uint16_t *out;    /* [rows][hidden]: what o and down add to x */
    uint16_t *x_last; /* [slots][hidden]: x of the sampled rows */
    uint16_t *q_last; /* [slots][q k v]: their queries */
    float *rope;      /* [max_context][head_dim / 2][2] */
    float *logits;    /* [slots][logits_stride] */
    float
        *logits_part;  /* [slots][part_stride]: this rank's; == logits without tensor parallelism */
    float *logits_all; /* [ranks][slots][part_stride] */
    uint8_t *kv;       /* the pool */
    void *attend_scratch, *sample_scratch, *blas_scratch;
    size_t attend_bytes, blas_bytes;
    uint8_t *metadata;
    int32_t *tokens;     /* [slots]: what was sampled */
    uint64_t *kv_digest; /* [KV_MEMORY_JOBS_MAX] */

    gpu_event done;    /* of the step */
    gpu_event *layers; /* a ring: see cuda_engine.next_ticket */
    struct cuda_graphs *graphs;
    struct cuda_marks *marks; /* while a profiled step runs, on rank 0; else NULL */

    /* its thread; rank 0 has none */
    pthread_t thread;
    bool has_thread;
    enum err err;       /* of its last job */
    struct err_msg msg; /* why, while opening */
};

struct cuda_engine {
    struct engine base;
    struct engine_model_config config;
    enum gpu_dtype dtype;
    struct cuda_rank *ranks;
    uint32_t n_ranks;
    struct gpu_comm_group *group; /* of the ranks' comm */
    struct cuda_limits limits;
    uint32_t logits_stride, part_stride; /* floats from row to row, of all and of a rank's */
    struct engine_model *model;          /* while opening; NULL: random weights */
    double share;                        /* of each device's memory to take, as far as it is free */
    uint64_t deadline_ns; /* how long a step may take before the device counts as hung */
    bool broken;          /* atomic: the loop asks, and copies of KV may find it out */

    /* pinned; [turn] is written while the device may still read the other */
    uint8_t *metadata[2];
    uint32_t turn;
    int32_t *tokens; /* [slots] */
    float *logits;   /* [vocab]: of one row, for logprobs */
    void *sample_scratch;
    struct cuda_batch batch;

    /* Tickets count groups of layers from 1 on; ticket t is event t % n_tickets of every rank's ring. */
    uint64_t next_ticket;
    uint32_t n_tickets;
    uint64_t tickets_done; /* atomic: all up to here have passed */

    uint64_t loaded; /* atomic: bytes of weights on the devices, over all ranks */
    const struct engine_config *open_config; /* while opening */

    struct cuda_kv *kv;
    struct cuda_crew *crew;
    float *watch; /* see cuda_engine_watch_logits */

    uint64_t host_ns; /* see cuda_times.h */
    bool profile_next, has_profile;
    struct cuda_profile profile;
};

static inline bool cuda_engine_is_broken(const struct cuda_engine *e)
{
    return __atomic_load_n(&e->broken, __ATOMIC_ACQUIRE);
}

static inline void cuda_engine_set_broken(struct cuda_engine *e)
{
    __atomic_store_n(&e->broken, true, __ATOMIC_RELEASE);
}

/* On the way out, where a device that fails is no news. */
static inline void cuda_use_anyway(struct gpu *g)
{
    enum err err = gpu_use(g);

    (void)err;
}

/* Before frees on the way out, which would wait for work of this stream: if it does not end in CUDA_SETTLE_MS the
 * device hangs, and is abandoned. */
static inline void cuda_settle(struct gpu *g, gpu_stream s)
{
    uint64_t deadline = clock_now_ns() + CUDA_SETTLE_MS * CLOCK_NS_PER_MS;

    if (s == NULL || gpu_lost())
        return;
    cuda_use_anyway(g);
    if (gpu_stream_wait(s, deadline) == ERR_TIMEOUT)
        gpu_abandon();
}

/* ---- cuda_ranks.c ---- */

typedef enum err (*cuda_rank_fn)(struct cuda_rank *r, void *arg);
/* Threads for the ranks but the first.  ERR_NOMEM. */
MUST_USE enum err cuda_crew_start(struct cuda_engine *e);
/* fn on every rank, each on its thread; returns when all have.  The first rank's failure that was not an
 * echo of another's; a failure aborts the collectives, so that no rank waits for a dead one. */
MUST_USE enum err cuda_crew_run(struct cuda_engine *e, cuda_rank_fn fn, void *arg);
void cuda_crew_stop(struct cuda_engine *e);

/* ---- cuda_forward.c ---- */

/* Everything of a step but the copy of its metadata: kernels, products, events of layer groups. */
MUST_USE enum err cuda_forward(struct cuda_rank *r, const struct cuda_batch *b);

/* ---- cuda_profile.c ---- */

/* Marks for a step of so many layers.  ERR_NOMEM, ERR_DEVICE. */
MUST_USE enum err cuda_marks_create(struct gpu *g, uint32_t n_layers, struct cuda_marks **out);
/* What was enqueued since the mark before is `what`; the first mark (NULL) begins. */
MUST_USE enum err cuda_marks_add(struct cuda_marks *m, const char *what, gpu_stream stream);
/* The stream has passed all marks.  ERR_DEVICE. */
MUST_USE enum err cuda_marks_sum(const struct cuda_marks *m, struct cuda_profile *out);
void cuda_marks_free(struct cuda_marks *m); /* NULL is fine */

/* ---- cuda_graph.c ---- */

/* Graphs for every bucket and context class.  ERR_NOMEM, ERR_DEVICE. */
MUST_USE enum err cuda_graphs_capture(struct cuda_rank *r, struct err_msg *msg);
/* The graph for a batch, or NULL: then it is enqueued kernel by kernel. */
gpu_graph cuda_graphs_find(const struct cuda_rank *r, const struct cuda_batch *b);
void cuda_graphs_free(struct cuda_rank *r);

/* ---- cuda_step.c ---- */

enum err cuda_engine_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                          uint32_t group_layers, engine_layers_fn layers_done, void *arg);
/* The device failed while `what`: logged, and the engine refuses everything from here on.  ERR_DEVICE. */
enum err cuda_engine_break(struct cuda_engine *e, enum err why, const char *what);
/* For tests: copy the logits of slot i to dst + i * vocab after a step.  NULL: stop. */
void cuda_engine_watch_logits(struct engine *e, float *dst);
/* For tests: products of engines opened from here on are not timed, which takes long on an emulated device. */
void cuda_engine_time_products(bool on);
/* For tests: how long a step may take. */
void cuda_engine_deadline(struct engine *e, uint64_t ns);

#endif
