/* engine/cuda/gpu_blas.c - plans: which of the ways of gpu_blas.h each class of row counts goes. */
#include "engine/cuda/gpu_blas.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/cuda/gpu_blas_lib.h"
#include "engine/kernels/dequantize.h"
#include "engine/kernels/gemv.h"

enum {
    MAX_CLASSES = 32, /* of row counts: powers of two */
    TIMED_LAUNCHES = 3,
    MAX_TIMED = 6,   /* candidates of the library that are timed */
    GEMV_PASSES = 4, /* of 16 rows: reading 8-bit weights so often costs less than widening them */
    SLAB_BYTES = 32 << 20, /* of a widened matrix at a time: it stays in the second-level cache */
    ALIGN = 256,
};
static const uint64_t plan_deadline_ns = 30 * CLOCK_NS_PER_S;
static const double trial_seconds = 300e-6; /* of repeated products that one timing consists of */

enum kind { NONE, GEMV, LIBRARY, QUANTIZED, WIDENED };
static const char *const kind_names[] = {"none", "gemv", "library", "quantized", "widened"};

struct way {
    enum kind kind;
    struct gpu_blas_call *call;     /* of all but gemv */
    uint32_t candidate, candidates; /* of the library */
    double seconds;                 /* 0: not timed */
};

struct gpu_blas {
    struct gpu *gpu;
    struct gpu_blas_lib *lib;
    uint8_t *scratch; /* rows in 8 bits and their scales, or a slab of a widened matrix */
    size_t scratch_bytes;
};

struct gpu_blas_plan {
    struct gpu_blas *b;
    struct gpu_blas_shape s;
    uint32_t slabs; /* a widened matrix is made and multiplied in so many equal parts */
    uint32_t n_classes;
    struct way ways[MAX_CLASSES];
};

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- memory ---- */

/* Equal parts of at least 8 rows that are small enough, if n has such a divisor. */
static uint32_t slabs_of(const struct gpu_blas_shape *s)
{
    size_t bytes = (size_t)s->n * s->k * 2;
    uint32_t parts = (uint32_t)((bytes + SLAB_BYTES - 1) / SLAB_BYTES);

    while (parts <= s->n / 8 && s->n % (parts * 8) != 0)
        parts++;
    return parts <= s->n / 8 ? parts : 1;
}

static size_t scratch_of(const struct gpu_blas_shape *s)
{
    size_t rows, slab;

    if (s->weight == GPU_WEIGHT_16)
        return 0;
    rows = aligned((size_t)s->max_rows * s->k) + aligned(s->max_rows * sizeof(float));
    slab = (size_t)s->n / slabs_of(s) * s->k * 2;
    return s->weight == GPU_WEIGHT_E4M3 && rows > slab ? rows : slab;
}

size_t gpu_blas_bytes(const struct gpu_blas_shape *shapes, uint32_t n)
{
    size_t most = 0;

    for (uint32_t i = 0; i < n; i++) {
        size_t bytes = scratch_of(&shapes[i]);
        most = bytes > most ? bytes : most;
    }
    return GPU_BLAS_WORKSPACE + aligned(most);
}

enum err gpu_blas_open(struct gpu *g, void *memory, size_t bytes, struct err_msg *msg,
                       struct gpu_blas **out)
{
    struct gpu_blas *b;
    enum err err;

    if (bytes < GPU_BLAS_WORKSPACE)
        return err_set(msg, ERR_LIMIT,
                       "products: %zu bytes of device memory, at least %d are needed", bytes,
                       GPU_BLAS_WORKSPACE);
    b = mem_try_calloc(1, sizeof(*b));
    if (b == NULL)
        return err_set(msg, ERR_NOMEM, "products: out of host memory");
    b->gpu = g;
    b->scratch = (uint8_t *)memory + GPU_BLAS_WORKSPACE;
    b->scratch_bytes = bytes - GPU_BLAS_WORKSPACE;
    err = gpu_blas_lib_open(g, memory, msg, &b->lib);
    if (err != ERR_OK) {
        mem_free(b);
        return err;
    }
    *out = b;
    return ERR_OK;
}

void gpu_blas_close(struct gpu_blas *b)
{
    if (b == NULL)
        return;
    gpu_blas_lib_close(b->lib);
    mem_free(b);
}

/* ---- the ways ---- */

struct run {
    const struct gpu_blas_plan *p;
    const struct gpu_matrix *m;
    uint8_t *y;
    const uint16_t *x;
    uint32_t rows;
    gpu_stream stream;
};

static enum err run_gemv(const struct run *r)
{
    const struct gpu_blas_shape *s = &r->p->s;
    enum err err = ERR_OK;

    for (uint32_t row = 0; row < r->rows && err == ERR_OK; row += GEMV_ROWS) {
        struct gemv_args a = {.y = r->y + row * s->y_stride * (s->y_f32 ? 4 : 2),
                              .x = r->x + row * s->x_stride,
                              .w = r->m->w,
                              .scale = r->m->scale,
                              .bias = s->bias ? r->m->bias : NULL,
                              .x_stride = s->x_stride,
                              .y_stride = s->y_stride,
                              .rows = r->rows - row < GEMV_ROWS ? r->rows - row : GEMV_ROWS,
                              .n = s->n,
                              .k = s->k,
                              .dtype = s->dtype,
                              .weight = s->weight,
                              .y_f32 = s->y_f32,
                              .add = s->add};
        err = gemv(&a, r->stream);
    }
    return err;
}

static enum err run_library(const struct run *r, struct gpu_blas_call *call)
{
    struct gpu_blas_operands o = {.y = r->y, .x = r->x, .w = r->m->w, .bias = r->m->bias};

    return gpu_blas_call_run(call, r->rows, &o, r->stream);
}

static enum err run_quantized(const struct run *r, struct gpu_blas_call *call)
{
    const struct gpu_blas_shape *s = &r->p->s;
    uint8_t *q = r->p->b->scratch;
    float *scale = (float *)(void *)(q + aligned((size_t)s->max_rows * s->k));
    struct gpu_blas_operands o = {.y = r->y,
                                  .x = q,
                                  .w = r->m->w,
                                  .x_scale = scale,
                                  .w_scale = r->m->scale,
                                  .bias = r->m->bias};
    enum err err = quantize(&(struct quantize_args){.q = q,
                                                    .scale = scale,
                                                    .x = r->x,
                                                    .x_stride = s->x_stride,
                                                    .rows = r->rows,
                                                    .cols = s->k,
                                                    .dtype = s->dtype,
                                                    .format = GPU_WEIGHT_E4M3},
                            r->stream);

    return err != ERR_OK ? err : gpu_blas_call_run(call, r->rows, &o, r->stream);
}

static enum err run_widened(const struct run *r, struct gpu_blas_call *call)
{
    const struct gpu_blas_shape *s = &r->p->s;
    uint32_t part = s->n / r->p->slabs;
    enum err err = ERR_OK;

    for (uint32_t n = 0; n < s->n && err == ERR_OK; n += part) {
        struct gpu_blas_operands o = {.y = r->y + (size_t)n * (s->y_f32 ? 4 : 2),
                                      .x = r->x,
                                      .w = r->p->b->scratch,
                                      .bias = r->m->bias == NULL ? NULL : r->m->bias + n};

        err = dequantize(&(struct dequantize_args){.y = (uint16_t *)(void *)r->p->b->scratch,
                                                   .q = (const uint8_t *)r->m->w + (size_t)n * s->k,
                                                   .scale = r->m->scale + n,
                                                   .rows = part,
                                                   .cols = s->k,
                                                   .dtype = s->dtype,
                                                   .format = s->weight},
                         r->stream);
        if (err == ERR_OK)
            err = gpu_blas_call_run(call, r->rows, &o, r->stream);
    }
    return err;
}

static enum err run_way(const struct run *r, const struct way *w)
{
    switch (w->kind) {
    case GEMV:
        return run_gemv(r);
    case LIBRARY:
        return run_library(r, w->call);
    case QUANTIZED:
        return run_quantized(r, w->call);
    case WIDENED:
        return run_widened(r, w->call);
    case NONE:
        break;
    }
    return ERR_UNSUPPORTED;
}

/* ---- choosing ---- */

static uint32_t class_of(uint32_t rows)
{
    return rows <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(rows - 1);
}

static uint32_t class_rows(const struct gpu_blas_shape *s, uint32_t class)
{
    return class < 31 && 1u << class < s->max_rows ? 1u << class : s->max_rows;
}

static bool gemv_can(const struct gpu_blas_shape *s, uint32_t rows)
{
    uint32_t passes = s->weight == GPU_WEIGHT_16 ? 1 : GEMV_PASSES;

    return s->k % (s->weight == GPU_WEIGHT_16 ? 8 : 16) == 0 && s->x_stride % 8 == 0 &&
           rows <= GEMV_ROWS * passes;
}

/* The ways by the library that this shape could go; ERR_UNSUPPORTED: none. */
static enum err library_way(const struct gpu_blas_plan *p, uint32_t rows, struct err_msg *msg,
                            struct way *w)
{
    const struct gpu_blas_shape *s = &p->s;
    bool rows8_fit = s->k % 16 == 0 && s->x_stride % 8 == 0;
    struct gpu_blas_product ask = {.n = s->n,
                                   .k = s->k,
                                   .rows = rows,
                                   .x_stride = s->x_stride,
                                   .y_stride = s->y_stride,
                                   .dtype = s->dtype,
                                   .y_f32 = s->y_f32,
                                   .add = s->add,
                                   .bias = s->bias};
    enum err err = ERR_UNSUPPORTED;

    w->kind = s->weight == GPU_WEIGHT_16 ? LIBRARY : QUANTIZED;
    if (s->weight == GPU_WEIGHT_16)
        return gpu_blas_call_create(p->b->lib, &ask, msg, &w->call, &w->candidates);
    if (!rows8_fit)
        return err_set(msg, ERR_UNSUPPORTED,
                       "products with 8-bit weights of %u x %u: rows of whole 16 bytes are needed",
                       s->n, s->k);
    if (s->weight == GPU_WEIGHT_E4M3 && s->n % 16 == 0) {
        ask.fp8 = true;
        ask.x_stride = s->k;
        err = gpu_blas_call_create(p->b->lib, &ask, msg, &w->call, &w->candidates);
    }
    if (err == ERR_UNSUPPORTED) {
        w->kind = WIDENED;
        ask.fp8 = false;
        ask.n = s->n / p->slabs;
        ask.x_stride = s->x_stride;
        err = gpu_blas_call_create(p->b->lib, &ask, msg, &w->call, &w->candidates);
    }
    return err;
}

/* Trials of one class stand in a graph, as the products of a step will: no time of the host is in them. */
struct timing {
    const struct gpu_blas_trial *trial;
    gpu_event from, to;
    uint64_t deadline_ns;
};

static enum err graph_of(const struct run *r, const struct way *w, const struct timing *t,
                         uint32_t repeat, gpu_graph *out)
{
    enum err err = gpu_capture_begin(r->stream), ended;

    if (err != ERR_OK)
        return err;
    for (uint32_t i = 0; i < repeat && err == ERR_OK; i++) {
        struct run one = *r;

        one.m = &t->trial->matrices[i % t->trial->n_matrices];
        err = run_way(&one, w);
    }
    ended = gpu_capture_end(r->stream, out);
    if (err != ERR_OK && ended == ERR_OK) {
        gpu_graph_destroy(*out);
        *out = NULL;
    }
    return err != ERR_OK ? err : ended;
}

static enum err time_launch(gpu_graph graph, gpu_stream stream, const struct timing *t, float *ms)
{
    enum err err = gpu_event_record(t->from, stream);

    if (err == ERR_OK)
        err = gpu_graph_launch(graph, stream);
    if (err == ERR_OK)
        err = gpu_event_record(t->to, stream);
    if (err == ERR_OK)
        err = gpu_event_wait(t->to, t->deadline_ns);
    return err == ERR_OK ? gpu_event_ms(t->from, t->to, ms) : err;
}

/* The shortest launch, in seconds for one product. */
static enum err time_repeated(const struct run *r, const struct way *w, const struct timing *t,
                              uint32_t repeat, double *seconds)
{
    gpu_graph graph = NULL;
    float ms = 0, least = INFINITY;
    enum err err = graph_of(r, w, t, repeat, &graph);

    for (int i = 0; i < TIMED_LAUNCHES && err == ERR_OK; i++) {
        err = time_launch(graph, r->stream, t, &ms);
        least = ms < least ? ms : least;
    }
    gpu_graph_destroy(graph);
    *seconds = (double)least * 1e-3 / repeat;
    return err;
}

/* ERR_UNSUPPORTED: it cannot run after all. */
static enum err time_way(const struct run *r, struct way *w, const struct timing *t)
{
    double seconds;
    uint32_t repeat = 2;
    enum err err = run_way(r, w);

    if (err == ERR_OK)
        err = time_repeated(r, w, t, repeat, &seconds);
    if (err == ERR_OK) {
        double more = seconds > 0 ? trial_seconds / seconds : 64;

        repeat = more < 2 ? 2 : more > 64 ? 64 : (uint32_t)more;
        err = time_repeated(r, w, t, repeat, &w->seconds);
    }
    return err;
}

/* Try w, and its candidates if it is of the library; leave the best in *best.  ERR_OK also if none can run. */
static enum err try_way(const struct run *r, struct way *w, const struct timing *t,
                        struct way *best)
{
    uint32_t n = w->candidates < 1 ? 1 : w->candidates < MAX_TIMED ? w->candidates : MAX_TIMED;

    for (uint32_t i = 0; i < n; i++) {
        enum err err;

        if (w->call != NULL)
            gpu_blas_call_choose(w->call, i);
        w->candidate = i;
        err = time_way(r, w, t);
        if (err == ERR_UNSUPPORTED)
            continue;
        if (err != ERR_OK)
            return err;
        if (best->kind == NONE || w->seconds < best->seconds)
            *best = *w;
    }
    return ERR_OK;
}

static enum err choose_by_time(struct gpu_blas_plan *p, uint32_t rows, struct way *library,
                               const struct timing *t, struct way *best)
{
    struct run r = {.p = p,
                    .m = t->trial->matrices,
                    .y = t->trial->y,
                    .x = t->trial->x,
                    .rows = rows,
                    .stream = t->trial->stream};
    struct way by_gemv = {.kind = GEMV};
    enum err err = ERR_OK;

    if (gemv_can(&p->s, rows))
        err = try_way(&r, &by_gemv, t, best);
    if (err == ERR_OK && library->kind != NONE)
        err = try_way(&r, library, t, best);
    if (err == ERR_OK && best->call != NULL)
        gpu_blas_call_choose(best->call, best->candidate);
    return err;
}

static enum err choose(struct gpu_blas_plan *p, uint32_t class, const struct timing *t,
                       struct err_msg *msg)
{
    uint32_t rows = class_rows(&p->s, class);
    bool gemv_way = gemv_can(&p->s, rows);
    struct way library = {.kind = NONE}, *best = &p->ways[class];
    struct err_msg why = {""};
    enum err err = library_way(p, rows, &why, &library);

    if (err != ERR_OK)
        library = (struct way){.kind = NONE};
    if (err != ERR_OK && (err != ERR_UNSUPPORTED || !gemv_way))
        return err_set(msg, err, "%s", why.text);
    err = ERR_OK;
    if (t->trial != NULL)
        err = choose_by_time(p, rows, &library, t, best);
    else if (gemv_way && (rows <= GEMV_ROWS || library.kind != QUANTIZED))
        best->kind = GEMV;
    else
        *best = library;
    if (best->call != library.call)
        gpu_blas_call_free(library.call);
    if (err != ERR_OK)
        return err_set(msg, err, "products of %u x %u with %u rows: %s", p->s.n, p->s.k, rows,
                       err == ERR_TIMEOUT ? "a trial takes longer than 30 s" : gpu_trouble());
    return best->kind != NONE
               ? ERR_OK
               : err_set(msg, ERR_UNSUPPORTED,
                         "products of %u x %u with %u rows: no candidate of the library runs",
                         p->s.n, p->s.k, rows);
}

/* ---- plans ---- */

static enum err check_shape(const struct gpu_blas *b, const struct gpu_blas_shape *s,
                            struct err_msg *msg)
{
    if (s->n == 0 || s->k == 0 || s->max_rows == 0 || s->max_rows > 1u << 30 ||
        s->x_stride < s->k || s->y_stride < s->n || (s->dtype != GPU_BF16 && s->dtype != GPU_F16) ||
        s->weight > GPU_WEIGHT_INT8)
        return err_set(msg, ERR_INVALID,
                       "products of %u x %u for %u rows: a zero, a stride or a type is wrong", s->n,
                       s->k, s->max_rows);
    if (scratch_of(s) > b->scratch_bytes)
        return err_set(msg, ERR_LIMIT,
                       "products of %u x %u: %zu bytes of scratch memory needed, %zu given", s->n,
                       s->k, scratch_of(s), b->scratch_bytes);
    return ERR_OK;
}

enum err gpu_blas_plan(struct gpu_blas *b, const struct gpu_blas_shape *shape,
                       const struct gpu_blas_trial *trial, struct err_msg *msg,
                       struct gpu_blas_plan **out)
{
    struct timing t = {.trial = trial, .deadline_ns = clock_now_ns() + plan_deadline_ns};
    struct gpu_blas_plan *p;
    enum err err = check_shape(b, shape, msg);

    if (err != ERR_OK)
        return err;
    if (trial != NULL && trial->n_matrices == 0)
        return err_set(msg, ERR_INVALID, "products: no matrix to try");
    p = mem_try_calloc(1, sizeof(*p));
    if (p == NULL)
        return err_set(msg, ERR_NOMEM, "products: out of host memory");
    p->b = b;
    p->s = *shape;
    p->slabs = slabs_of(shape);
    p->n_classes = class_of(shape->max_rows) + 1;
    if (trial != NULL && ((err = gpu_event_create(b->gpu, true, &t.from)) != ERR_OK ||
                          (err = gpu_event_create(b->gpu, true, &t.to)) != ERR_OK))
        (void)err_set(msg, err, "products: %s", gpu_trouble());
    /* The largest first: the device's clock is up when the short ones are timed. */
    for (uint32_t i = p->n_classes; i > 0 && err == ERR_OK; i--)
        err = choose(p, i - 1, &t, msg);
    gpu_event_destroy(t.from);
    gpu_event_destroy(t.to);
    if (err != ERR_OK) {
        gpu_blas_plan_free(p);
        return err;
    }
    *out = p;
    return ERR_OK;
}

void gpu_blas_plan_free(struct gpu_blas_plan *p)
{
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < p->n_classes; i++)
        gpu_blas_call_free(p->ways[i].call);
    mem_free(p);
}

/* The library refuses this number of rows to the candidate that was chosen for its class, which it says before it
 * launches anything (what was quantized or widened for it is made again): another one, then. */
static enum err run_other(const struct run *r, const struct way *w)
{
    enum err err = ERR_UNSUPPORTED;

    for (uint32_t i = 0; i < w->candidates && err == ERR_UNSUPPORTED; i++) {
        gpu_blas_call_choose(w->call, i);
        err = run_way(r, w);
    }
    gpu_blas_call_choose(w->call, w->candidate);
    return err;
}

enum err gpu_blas_run(struct gpu_blas_plan *p, uint32_t rows, void *y, const void *x,
                      const struct gpu_matrix *m, gpu_stream stream)
{
    struct run r = {.p = p, .m = m, .y = y, .x = x, .rows = rows, .stream = stream};
    const struct way *w;
    enum err err;

    if (rows > p->s.max_rows || (p->s.bias && m->bias == NULL))
        return ERR_INVALID;
    if (rows == 0)
        return ERR_OK;
    w = &p->ways[class_of(rows)];
    err = run_way(&r, w);
    return err == ERR_UNSUPPORTED && w->call != NULL ? run_other(&r, w) : err;
}

const char *gpu_blas_describe(const struct gpu_blas_plan *p, uint32_t rows, char *text, size_t cap)
{
    const struct way *w = &p->ways[class_of(rows < p->s.max_rows ? rows : p->s.max_rows)];
    int n = snprintf(text, cap, "%s", kind_names[w->kind]);

    if (w->call != NULL && (size_t)n < cap)
        n += snprintf(text + n, cap - (size_t)n, " %u of %u", w->candidate + 1, w->candidates);
    if (w->seconds > 0 && (size_t)n < cap)
        snprintf(text + n, cap - (size_t)n, " %.1f us", w->seconds * 1e6);
    return text;
}

/* ---- what quantizing weights cost ---- */

double gpu_quantize_report_add(struct gpu_quantize_report *r, const char *name, const float *error,
                               size_t rows)
{
    double wrong = 0, size = 0, relative;

    for (size_t i = 0; i < rows; i++) {
        wrong += (double)error[2 * i];
        size += (double)error[2 * i + 1];
    }
    relative = size > 0 ? sqrt(wrong / size) : 0;
    r->wrong += wrong;
    r->size += size;
    if (r->n++ == 0 || relative > r->worst) {
        r->worst = relative;
        snprintf(r->worst_name, sizeof(r->worst_name), "%s", name);
    }
    return relative;
}

double gpu_quantize_report_total(const struct gpu_quantize_report *r)
{
    return r->size > 0 ? sqrt(r->wrong / r->size) : 0;
}
