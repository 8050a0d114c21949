/* engine/cuda/cuda_weights_copy.c - from mapped files through pinned staging to the device.
 *
 * One thread reads the page cache at a fraction of what the device's link takes, so several work side by
 * side; each has a stream and two buffers, and fills one while the device fetches the other. */
#include "engine/cuda/cuda_weights_copy.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"

enum { STAGE_BYTES = 8 << 20, THREADS_MAX = 16, BUFFERS = 2, ELEM = 2, POLL_NS = 20000000 };

/* ---- the list ---- */

static enum err append(struct cuda_copies *c, const struct cuda_copy *copy)
{
    if (c->n == c->cap) {
        size_t cap = c->cap == 0 ? 256 : 2 * c->cap;
        struct cuda_copy *list = mem_try_realloc(c->list, cap * sizeof(list[0]));

        if (list == NULL)
            return ERR_NOMEM;
        c->list = list;
        c->cap = cap;
    }
    c->list[c->n++] = *copy;
    return ERR_OK;
}

enum err cuda_copies_add(struct cuda_copies *c, const struct cuda_copy *copy)
{
    struct cuda_copy piece = *copy;
    uint32_t columns = copy->columns < STAGE_BYTES / ELEM ? copy->columns : STAGE_BYTES / ELEM;
    uint32_t rows = columns == copy->columns ? STAGE_BYTES / (ELEM * columns) : 1;
    size_t elem = copy->from_dtype == ENGINE_F32 ? 4 : 2;

    for (uint32_t r = 0; r < copy->rows; r += rows) {
        for (uint32_t at = 0; at < copy->columns; at += columns) {
            enum err err;

            piece.from = copy->from + r * copy->from_stride + at * elem;
            piece.rows = copy->rows - r < rows ? copy->rows - r : rows;
            piece.columns = copy->columns - at < columns ? copy->columns - at : columns;
            piece.to = (uint8_t *)copy->to + ((uint64_t)r * copy->columns + at) * ELEM;
            err = append(c, &piece);
            if (err != ERR_OK)
                return err;
        }
    }
    return ERR_OK;
}

/* ---- 16-bit types ---- */

static float float_of_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t bits_of_float(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* Round to nearest even; a NaN stays one. */
static uint16_t to_bf16(float f)
{
    uint32_t bits = bits_of_float(f);

    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t to_f16(float f)
{
    uint32_t bits = bits_of_float(f), sign = bits >> 16 & 0x8000, a = bits & 0x7fffffff;

    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (a >= 0x477ff000) /* rounds to 65,536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) { /* a subnormal: let the addition round it at the right place */
        float shifted = float_of_bits(a) + 0.5f;

        return (uint16_t)(sign | (bits_of_float(shifted) - 0x3f000000));
    }
    return (uint16_t)(sign | (((a + 0xfff + (a >> 13 & 1)) >> 13) - (112 << 10)));
}

static float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = h & 0x7fff;

    if (a >= 0x7c00)
        return float_of_bits(sign | 0x7f800000 | (a & 0x3ff) << 13);
    if (a < 0x400) /* zero or subnormal: a * 2^-24 */
        return (sign != 0 ? -1.0f : 1.0f) * (float)a * 0x1p-24f;
    return float_of_bits(sign | (a + (112 << 10)) << 13);
}

static float load_float(const uint8_t *from, size_t i, enum engine_dtype dtype)
{
    uint16_t h;
    float f;

    if (dtype == ENGINE_F32) {
        memcpy(&f, from + 4 * i, 4);
        return f;
    }
    memcpy(&h, from + 2 * i, 2);
    return dtype == ENGINE_F16 ? from_f16(h) : float_of_bits((uint32_t)h << 16);
}

static void convert_row(uint16_t *to, const uint8_t *from, size_t n, enum engine_dtype from_dtype,
                        enum gpu_dtype dtype)
{
    if (from_dtype == (dtype == GPU_F16 ? ENGINE_F16 : ENGINE_BF16)) {
        memcpy(to, from, n * ELEM);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float f = load_float(from, i, from_dtype);

        to[i] = dtype == GPU_F16 ? to_f16(f) : to_bf16(f);
    }
}

/* ---- the threads ---- */

struct stager {
    struct cuda_staging *g;
    gpu_stream stream;
    uint16_t *buffer[BUFFERS];
    gpu_event event[BUFFERS];
    uint64_t pending[BUFFERS]; /* bytes on their way */
};

struct cuda_staging {
    const struct cuda_weights_load *l;
    struct stager stagers[THREADS_MAX];
    uint32_t n;
    /* the run */
    const struct cuda_copies *copies;
    _Atomic size_t next;
    _Atomic int err; /* enum err: the first failure */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t running; /* under lock */
};

static enum err settle(struct stager *s, uint32_t i)
{
    const struct cuda_weights_load *l = s->g->l;
    enum err err;

    if (s->pending[i] == 0)
        return ERR_OK;
    err = gpu_event_wait(s->event[i], clock_now_ns() + l->deadline_ns);
    if (err == ERR_OK)
        (void)__atomic_fetch_add(l->loaded, s->pending[i], __ATOMIC_RELAXED);
    s->pending[i] = 0;
    return err;
}

static enum err stage(struct stager *s, const struct cuda_copy *c, uint32_t i)
{
    uint64_t bytes = (uint64_t)c->rows * c->columns * ELEM;
    enum err err = settle(s, i);

    if (err != ERR_OK)
        return err;
    for (uint32_t r = 0; r < c->rows; r++)
        convert_row(s->buffer[i] + (size_t)r * c->columns, c->from + r * c->from_stride, c->columns,
                    c->from_dtype, s->g->l->dtype);
    err = gpu_copy(c->to, s->buffer[i], bytes, GPU_TO_DEVICE, s->stream);
    if (err != ERR_OK)
        return err;
    s->pending[i] = bytes;
    return gpu_event_record(s->event[i], s->stream);
}

static enum err stage_all(struct stager *s)
{
    struct cuda_staging *g = s->g;
    uint32_t turn = 0;
    enum err err = gpu_use(g->l->gpu);

    while (err == ERR_OK && atomic_load(&g->err) == ERR_OK) {
        size_t i = atomic_fetch_add(&g->next, 1);

        if (i >= g->copies->n)
            break;
        err = stage(s, &g->copies->list[i], turn);
        turn = (turn + 1) % BUFFERS;
    }
    for (uint32_t i = 0; i < BUFFERS; i++) {
        enum err last = settle(s, i);

        err = err != ERR_OK ? err : last;
    }
    return err;
}

static void *stage_thread(void *arg)
{
    struct stager *s = arg;
    struct cuda_staging *g = s->g;
    enum err err = stage_all(s);
    int none = ERR_OK;

    if (err != ERR_OK)
        (void)atomic_compare_exchange_strong(&g->err, &none, (int)err);
    pthread_mutex_lock(&g->lock);
    g->running--;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* Wait for the threads, reporting as they go. */
static void await_threads(struct cuda_staging *g)
{
    pthread_mutex_lock(&g->lock);
    while (g->running > 0) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += POLL_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        (void)pthread_cond_timedwait(&g->changed, &g->lock, &until);
        pthread_mutex_unlock(&g->lock);
        if (g->l->progress != NULL)
            g->l->progress(g->l->arg);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
}

static bool start_thread(struct cuda_staging *g, uint32_t i, pthread_t *thread)
{
    bool started;

    pthread_mutex_lock(&g->lock);
    started = pthread_create(thread, NULL, stage_thread, &g->stagers[i]) == 0;
    g->running += started;
    pthread_mutex_unlock(&g->lock);
    return started;
}

enum err cuda_copies_run(const struct cuda_copies *c, struct cuda_staging *g, struct err_msg *msg)
{
    pthread_t threads[THREADS_MAX];
    uint32_t n = 0;
    enum err err;

    g->copies = c;
    atomic_store(&g->next, 0);
    while (n < g->n && n < c->n && start_thread(g, n, &threads[n]))
        n++;
    await_threads(g);
    for (uint32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (n == 0 && c->n > 0)
        return err_set(msg, ERR_NOMEM, "engine: no thread to load the weights with");
    err = (enum err)atomic_load(&g->err);
    if (err == ERR_OK)
        return ERR_OK;
    return err_set(msg, ERR_DEVICE, "engine: the weights did not reach the device: %s",
                   err == ERR_TIMEOUT ? "a copy did not end in time" : gpu_trouble());
}

/* ---- open and close ---- */

static enum err open_stager(struct cuda_staging *g, struct stager *s)
{
    enum err err;

    s->g = g;
    err = gpu_stream_create(g->l->gpu, false, &s->stream);
    for (int i = 0; i < BUFFERS && err == ERR_OK; i++) {
        err = gpu_host_alloc(g->l->gpu, STAGE_BYTES, (void **)&s->buffer[i]);
        if (err == ERR_OK)
            err = gpu_event_create(g->l->gpu, false, &s->event[i]);
    }
    return err;
}

enum err cuda_staging_open(const struct cuda_weights_load *l, struct cuda_staging **out,
                           struct err_msg *msg)
{
    struct cuda_staging *g = mem_try_calloc(1, sizeof(*g));
    enum err err = ERR_OK;

    *out = NULL;
    if (g == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory");
    g->l = l;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    g->n = l->threads < 1 ? 1 : l->threads < THREADS_MAX ? l->threads : THREADS_MAX;
    for (uint32_t i = 0; i < g->n && err == ERR_OK; i++)
        err = open_stager(g, &g->stagers[i]);
    *out = g;
    if (err == ERR_NOMEM)
        return err_set(msg, err, "engine: no pinned host memory to load the weights through");
    return err == ERR_OK ? ERR_OK : err_set(msg, err, "engine: staging: %s", gpu_trouble());
}

void cuda_staging_close(struct cuda_staging *g)
{
    if (g == NULL)
        return;
    for (uint32_t t = 0; t < g->n; t++) {
        struct stager *s = &g->stagers[t];

        for (int i = 0; i < BUFFERS; i++) {
            gpu_event_destroy(s->event[i]);
            gpu_host_free(g->l->gpu, s->buffer[i]);
        }
        gpu_stream_destroy(s->stream);
    }
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    mem_free(g);
}
