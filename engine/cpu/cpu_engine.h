/* engine/cpu/cpu_engine.h - private to engine/cpu: the CPU backend's state.
 *
 *   cpu_backend.c   open and close: weights bound to kernels, scratch sized
 *   cpu_forward.c   one step through the layers
 *   cpu_pool.c      the threads
 *   cpu_kernels*.c  the arithmetic, one table per instruction set
 *
 * All scratch is allocated at open for max_step_tokens rows; a step allocates nothing. */
#ifndef ENGINE_CPU_CPU_ENGINE_H
#define ENGINE_CPU_CPU_ENGINE_H

#include "engine/cpu/cpu_kernels.h"
#include "engine/cpu/cpu_pool.h"
#include "engine/engine_backend.h"
#include "engine/engine_model.h"

/* Logits of so many rows are computed in one pass over the output matrix. */
enum { CPU_LOGIT_ROWS = 64 };

struct cpu_matrix {
    const void *w; /* in the model's mapping */
    uint32_t n, k;
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
    uint32_t span, kv_head, first_head, first_token;
};

struct cpu_engine {
    struct engine base;
    struct engine_model *model;
    const struct engine_model_config *config; /* the model's */
    const struct cpu_kernels *kernels;
    struct cpu_pool *pool;
    bool bf16_activations; /* products take activations rounded to bf16 */

    /* weights */
    struct cpu_layer *layers;
    struct cpu_matrix head;
    const void *embedding;
    enum engine_dtype embedding_dtype;
    const float *final_norm;
    float *vectors;   /* norms and biases as float; all of the above point into it */
    double *inv_freq; /* head_dim / 2 */

    /* scratch, by row of the step */
    uint32_t max_rows, act_stride, tmp_stride;
    float *x;         /* [rows][hidden] residual stream */
    void *act;        /* [rows][act_stride] input of the next product, float or bf16 */
    float *q, *att;   /* [rows][n_heads * head_dim] */
    float *k, *v;     /* [rows][n_kv_heads * head_dim] */
    float *gate, *up; /* [rows][ffn] */
    float *rope;      /* [rows][head_dim]: cosines, then sines */
    float *logits;    /* [CPU_LOGIT_ROWS or fewer][vocab] */
    uint32_t logit_rows;
    int32_t *row_token;
    uint32_t *row_position;
    uint32_t *row_span;
    struct cpu_span *spans;
    struct cpu_attend_job *jobs;
    uint32_t n_jobs_max;

    /* scratch, by thread */
    float *thread_tmp; /* [threads][tmp_stride] */
    float *thread_attend;
    size_t attend_stride;
    uint8_t *thread_sample;
    size_t sample_stride;

    /* the step that runs */
    struct engine_slot *slots;
    uint32_t n_rows, n_spans;
    float *watch; /* see cpu_engine_watch_logits */
};

/* engine_open for tests and measurements, with the kernels chosen: ERR_UNSUPPORTED if this processor
 * cannot run them.  The result is an engine like any other. */
MUST_USE enum err cpu_engine_open_isa(const struct engine_config *config, enum cpu_isa isa,
                                      struct err_msg *msg, struct engine **out);

/* For tests: copy the logits of slot i to dst + i * vocab before they are sampled from.  NULL: stop. */
void cpu_engine_watch_logits(struct engine *e, float *dst);

enum err cpu_engine_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                         uint32_t group_layers, engine_layers_fn layers_done, void *arg);

#endif
