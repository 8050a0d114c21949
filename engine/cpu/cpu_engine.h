/* engine/cpu/cpu_engine.h - private to engine/cpu: the CPU backend's state.
 *
 *   cpu_backend.c   open and close: weights bound to kernels, ranks and their threads
 *   cpu_rank.c      one rank: its slices of the weights, its scratch
 *   cpu_forward.c   one step of one rank through the layers
 *   cpu_step.c      a step on all ranks
 *   cpu_pool.c      the threads of a rank
 *   cpu_kernels*.c  the arithmetic, one table per instruction set
 *
 * With tensor parallelism (tp > 1) every rank is a group of threads that holds its heads, columns and rows of
 * the model (engine/tp/tp_shard.h), its part of the KV pool and a residual stream of its own; they meet in
 * the collectives of engine/tp/tp_comm.h.  Without it there is one rank and no collective.
 *
 * All scratch is allocated at open for max_step_tokens rows; a step allocates nothing. */
#ifndef ENGINE_CPU_CPU_ENGINE_H
#define ENGINE_CPU_CPU_ENGINE_H

#include "engine/cpu/cpu_kernels.h"
#include "engine/cpu/cpu_pool.h"
#include "engine/engine_backend.h"
#include "engine/engine_model.h"
#include "engine/tp/tp_comm.h"
#include "engine/tp/tp_shard.h"

/* Logits of so many rows are computed in one pass over the output matrix. */
enum { CPU_LOGIT_ROWS = 64 };

struct cpu_matrix {
    const void *w; /* in the model's mapping */
    uint32_t n, k;
    size_t ldw; /* elements from row to row: more than k where the rank has some columns only */
    enum engine_dtype dtype;
    cpu_gemm_fn gemm;
    const float *bias; /* or NULL */
};

struct cpu_layer {
    const float *attention_norm, *mlp_norm;
    struct cpu_matrix q, k, v, o, gate, up, down;
};

/* New tokens of one slot, consecutive rows of the step's matrices. */
struct cpu_span {
    uint32_t slot, row, n_tokens, position;
};

struct cpu_attend_job {
    uint32_t span, kv_head, first_head, first_token; /* heads as the rank counts its own */
};

struct cpu_rank {
    struct cpu_engine *engine;
    struct tp_shard shard;
    struct cpu_pool *pool;
    struct cpu_layer *layers; /* the rank's slices */
    struct cpu_matrix head;

    /* scratch, by row of the step */
    uint32_t act_stride, tmp_stride;
    float *x;         /* [rows][hidden] residual stream */
    float *part;      /* [rows][hidden] the rank's share of what is added to it; tp > 1 only */
    void *act;        /* [rows][act_stride] input of the next product, float or bf16 */
    float *q, *att;   /* [rows][heads * head_dim] */
    float *k, *v;     /* [rows][kv_heads * head_dim] */
    float *gate, *up; /* [rows][ffn] */
    float *rope;      /* [rows][head_dim]: cosines, then sines */
    float *logits;    /* [logit_rows][the rank's part of the vocabulary] */
    float *gathered;  /* [the rank's share of logit_rows][vocab]; tp > 1 only */
    struct cpu_attend_job *jobs;

    /* scratch, by thread */
    float *thread_tmp; /* [threads][tmp_stride] */
    float *thread_attend;
    size_t attend_stride;
    uint8_t *thread_sample;
    size_t sample_stride;

    /* the step that runs: all rows, in the end those that are sampled */
    uint32_t n_rows, n_spans;
    const struct cpu_span *spans;
};

struct cpu_engine {
    struct engine base;
    struct engine_model *model;
    const struct engine_model_config *config; /* the model's */
    const struct cpu_kernels *kernels;
    bool bf16_activations; /* products take activations rounded to bf16 */

    uint32_t tp;
    struct cpu_rank *ranks;    /* [tp] */
    struct cpu_pool *launcher; /* one thread per rank; NULL if tp is 1 */
    struct tp_comm *comm;      /* NULL if tp is 1 */

    /* the whole weights, which the ranks share */
    struct cpu_layer *layers;
    struct cpu_matrix head;
    const void *embedding;
    enum engine_dtype embedding_dtype;
    const float *final_norm;
    float *vectors;   /* norms and biases as float; all of the above point into it */
    double *inv_freq; /* head_dim / 2 */

    /* the step that runs; written before the ranks start, only read by them */
    uint32_t max_rows, logit_rows;
    struct engine_slot *slots;
    int32_t *row_token; /* by row */
    uint32_t *row_position;
    uint32_t *row_span;
    struct cpu_span *spans, *sampled; /* sampled: the last row of each slot that asks for a token */
    uint32_t n_rows, n_spans, n_sampled;
    float *watch; /* see cpu_engine_watch_logits */
};

/* The shard of rank->shard is set, the engine's weights are bound.  ERR_NOMEM: cpu_rank_close undoes
 * what was done.  *scratch grows by the bytes taken. */
MUST_USE enum err cpu_rank_open(struct cpu_rank *r, uint32_t n_threads, uint64_t *scratch);
void cpu_rank_close(struct cpu_rank *r);

/* How a step reports finished layers. */
struct cpu_report {
    uint32_t group_layers;
    engine_layers_fn fn; /* or NULL */
    void *arg;
};

/* The rank's part of the step in its engine.  here: the caller is the thread that called engine_step, so
 * this rank reports.  ERR_DEVICE: the ranks lost each other. */
MUST_USE enum err cpu_rank_step(struct cpu_rank *r, const struct cpu_report *report, bool here);

/* engine_open for tests and measurements, with the kernels chosen: ERR_UNSUPPORTED if this processor
 * cannot run them.  The result is an engine like any other. */
MUST_USE enum err cpu_engine_open_isa(const struct engine_config *config, enum cpu_isa isa,
                                      struct err_msg *msg, struct engine **out);

/* For tests: what a rank that fails does to the others.  Only if tp > 1. */
void cpu_engine_abort(struct engine *e);

/* For tests: copy the logits of slot i to dst + i * vocab before they are sampled from.  NULL: stop. */
void cpu_engine_watch_logits(struct engine *e, float *dst);

enum err cpu_engine_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                         uint32_t group_layers, engine_layers_fn layers_done, void *arg);

#endif
