/* bench/kernels/gpu_bench.c - see the header for the contract. */
#include "bench/kernels/gpu_bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
    COPIES_MAX = 64,
    SAMPLES = 15,
    BLOCKS_MAX = 256, /* allocations of one benchmark */
    RANDOM_VALUES = 1 << 20,
    COPIES_TIMED = 8,
};

/* Long enough for the clock of events (half a microsecond), short enough for many samples. */
static const double GRAPH_SECONDS = 400e-6, TOTAL_SECONDS = 0.5;
static const uint64_t DEADLINE_NS = 60 * CLOCK_NS_PER_S;
/* The first work of a run, on a card that was idle: its clocks take a while to rise. */
static const uint64_t COPY_NS = 300 * CLOCK_NS_PER_MS;

struct gpu_bench_memory {
    void *device[BLOCKS_MAX], *host[BLOCKS_MAX];
    uint32_t n_device, n_host;
    uint32_t copies;  /* asked for last */
    double copy_rate; /* of the whole run; 0: not measured yet */
};

#define X(name) extern const struct gpu_bench name##_bench;
#include "bench/kernels/gpu_bench_list.h"
#undef X
#define X(name) &name##_bench,
static const struct gpu_bench *const benches[] = {
#include "bench/kernels/gpu_bench_list.h"
};
#undef X

/* ---- memory and data ---- */

enum err gpu_bench_alloc(struct gpu_bench_run *r, size_t bytes, void **out)
{
    enum err err;

    if (r->memory->n_device == BLOCKS_MAX)
        return err_set(r->msg, ERR_LIMIT, "more than %d allocations in a benchmark", BLOCKS_MAX);
    err = gpu_alloc(r->gpu, bytes, out);
    if (err != ERR_OK)
        return err_set(r->msg, err, "%zu bytes of device memory: %s", bytes, gpu_trouble());
    r->memory->device[r->memory->n_device++] = *out;
    return ERR_OK;
}

enum err gpu_bench_host(struct gpu_bench_run *r, size_t bytes, void **out)
{
    enum err err;

    if (r->memory->n_host == BLOCKS_MAX)
        return err_set(r->msg, ERR_LIMIT, "more than %d allocations in a benchmark", BLOCKS_MAX);
    err = gpu_host_alloc(r->gpu, bytes, out);
    if (err != ERR_OK)
        return err_set(r->msg, err, "%zu bytes of pinned host memory: %s", bytes, gpu_trouble());
    r->memory->host[r->memory->n_host++] = *out;
    return ERR_OK;
}

static void free_memory(struct gpu_bench_run *r)
{
    while (r->memory->n_device > 0)
        gpu_free(r->gpu, r->memory->device[--r->memory->n_device]);
    while (r->memory->n_host > 0)
        gpu_host_free(r->gpu, r->memory->host[--r->memory->n_host]);
}

static enum err wait(struct gpu_bench_run *r)
{
    enum err err = gpu_stream_wait(r->stream, clock_now_ns() + DEADLINE_NS);

    if (err == ERR_TIMEOUT)
        gpu_abandon(); /* what was measured before is still to be printed */
    return err == ERR_OK ? err
                         : err_set(r->msg, err, "the device did not finish: %s", gpu_trouble());
}

enum err gpu_bench_copy(struct gpu_bench_run *r, void *dst, const void *src, size_t bytes,
                        enum gpu_copy_kind kind)
{
    enum err err = gpu_copy(dst, src, bytes, kind, r->stream);

    return err == ERR_OK ? wait(r) : err;
}

float gpu_bench_widen(enum gpu_dtype dtype, uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16, fraction = bits & 1023u, exponent = bits >> 10 & 31u;
    float f;

    if (dtype == GPU_F16) {
        if (exponent == 0)
            f = (float)fraction * 0x1p-24f;
        else if (exponent == 31)
            f = fraction != 0 ? NAN : INFINITY;
        else
            f = ldexpf((float)(1024 + fraction), (int)exponent - 25);
        return (bits & 0x8000) != 0 ? -f : f;
    }
    memcpy(&f, &word, sizeof(f));
    return f;
}

static uint16_t to_half(float value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    float size = fabsf(value);
    int exponent;

    if (!(size < 65520.0f))
        return (uint16_t)(sign | (isnan(value) ? 0x7e00 : 0x7c00));
    if (size == 0)
        return sign;
    (void)frexpf(size, &exponent);
    exponent = exponent < -13 ? -13 : exponent; /* below: denormal */
    /* A fraction that rounds up to the next power of two carries into the exponent. */
    return (uint16_t)(sign |
                      (((exponent + 13) << 10) + (int)nearbyintf(ldexpf(size, 11 - exponent))));
}

uint16_t gpu_bench_narrow(enum gpu_dtype dtype, float value)
{
    uint32_t word;

    if (dtype == GPU_F16)
        return to_half(value);
    memcpy(&word, &value, sizeof(word));
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

enum err gpu_bench_random(struct gpu_bench_run *r, enum gpu_dtype dtype, void *device, size_t n,
                          float size)
{
    size_t some = n < RANDOM_VALUES ? n : RANDOM_VALUES;
    uint64_t state = 1;
    void *staging;
    uint16_t *v;
    enum err err = gpu_host_alloc(r->gpu, some * sizeof(*v), &staging);

    if (err != ERR_OK)
        return err;
    v = staging;
    for (size_t i = 0; i < some; i++) {
        float sum = 0;
        for (int k = 0; k < 3; k++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            sum += (float)(int32_t)(state >> 32) * 0x1p-31f;
        }
        v[i] = gpu_bench_narrow(dtype, sum * size);
    }
    for (size_t at = 0; err == ERR_OK && at < n; at += some)
        err = gpu_copy((uint16_t *)device + at, v, (n - at < some ? n - at : some) * sizeof(*v),
                       GPU_TO_DEVICE, r->stream);
    if (err == ERR_OK)
        err = wait(r);
    gpu_host_free(r->gpu, staging);
    return err;
}

uint32_t gpu_bench_copies(const struct gpu_bench_run *r, size_t bytes)
{
    uint64_t room = 3 * gpu_info(r->gpu)->l2_bytes, n = bytes > 0 ? room / bytes + 1 : 1;

    if (r->small)
        n = n > 3 ? 3 : n;
    r->memory->copies = (uint32_t)(n > COPIES_MAX ? COPIES_MAX : n);
    return r->memory->copies;
}

enum err gpu_bench_check(struct gpu_bench_run *r, const char *what, enum gpu_dtype dtype,
                         const void *device, const float *want, size_t n, double relative,
                         double absolute)
{
    void *staging;
    enum err err = gpu_host_alloc(r->gpu, n * sizeof(uint16_t), &staging);

    if (err != ERR_OK)
        return err;
    err = gpu_bench_copy(r, staging, device, n * sizeof(uint16_t), GPU_TO_HOST);
    for (size_t i = 0; err == ERR_OK && i < n; i++) {
        double got = (double)gpu_bench_widen(dtype, ((const uint16_t *)staging)[i]),
               w = (double)want[i];
        if (!(fabs(got - w) <= relative * fabs(w) + absolute))
            err = err_set(r->msg, ERR_CORRUPT, "%s: element %zu is %g, not %g", what, i, got, w);
    }
    gpu_host_free(r->gpu, staging);
    return err;
}

/* ---- time ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct timing {
    gpu_event from, to;
    gpu_graph graph;
};

static enum err capture(struct gpu_bench_run *r,
                        enum err (*launch)(void *arg, uint32_t i, gpu_stream s), void *arg,
                        uint32_t n, gpu_graph *out)
{
    enum err err = gpu_capture_begin(r->stream), ended;

    if (err != ERR_OK)
        return err;
    for (uint32_t i = 0; err == ERR_OK && i < n; i++)
        err = launch(arg, i, r->stream);
    ended = gpu_capture_end(r->stream, out);
    return err != ERR_OK ? err : ended;
}

/* Seconds of the graph, n times. */
static enum err sample(struct gpu_bench_run *r, const struct timing *t, uint32_t n, double *seconds)
{
    enum err err = ERR_OK;

    for (uint32_t i = 0; err == ERR_OK && i < n; i++) {
        float ms = 0;
        if ((err = gpu_event_record(t->from, r->stream)) != ERR_OK ||
            (err = gpu_graph_launch(t->graph, r->stream)) != ERR_OK ||
            (err = gpu_event_record(t->to, r->stream)) != ERR_OK || (err = wait(r)) != ERR_OK)
            return err;
        err = gpu_event_ms(t->from, t->to, &ms);
        seconds[i] = (double)ms / 1e3;
    }
    return err;
}

static enum err measure(struct gpu_bench_run *r, struct timing *t,
                        enum err (*launch)(void *arg, uint32_t i, gpu_stream s), void *arg,
                        double *seconds)
{
    double v[SAMPLES];
    uint32_t n = r->memory->copies > 0 ? r->memory->copies : 1, samples = SAMPLES;
    enum err err;

    /* Once to warm up, once to see how often it has to stand in the graph. */
    if ((err = capture(r, launch, arg, n, &t->graph)) != ERR_OK ||
        (err = sample(r, t, 2, v)) != ERR_OK)
        return err;
    double each = v[1] / n;
    if (each > 0 && v[1] < GRAPH_SECONDS && !r->small) {
        uint32_t rounds = (uint32_t)fmin(GRAPH_SECONDS / v[1] + 1, 4096.0 / n + 1);
        n *= rounds;
        gpu_graph_destroy(t->graph);
        t->graph = NULL;
        if ((err = capture(r, launch, arg, n, &t->graph)) != ERR_OK ||
            (err = sample(r, t, 1, v)) != ERR_OK)
            return err;
        each = v[0] / n;
    }
    if (each * n * SAMPLES > TOTAL_SECONDS || r->small)
        samples = 3;
    if ((err = sample(r, t, samples, v)) != ERR_OK)
        return err;
    qsort(v, samples, sizeof(*v), by_value);
    *seconds = v[samples / 2] / n;
    return ERR_OK;
}

enum err gpu_bench_time(struct gpu_bench_run *r,
                        enum err (*launch)(void *arg, uint32_t i, gpu_stream s), void *arg,
                        double *seconds)
{
    struct timing t = {0};
    enum err err;

    if ((err = gpu_event_create(r->gpu, true, &t.from)) == ERR_OK &&
        (err = gpu_event_create(r->gpu, true, &t.to)) == ERR_OK)
        err = measure(r, &t, launch, arg, seconds);
    gpu_graph_destroy(t.graph);
    gpu_event_destroy(t.from);
    gpu_event_destroy(t.to);
    return err;
}

/* ---- rows ---- */

void gpu_bench_report(struct gpu_bench_run *r, const char *name, double value, const char *unit)
{
    bench_report_add(r->report, name, value, unit, BENCH_HIGHER);
}

void gpu_bench_report_bytes(struct gpu_bench_run *r, const char *name, double bytes, double seconds)
{
    gpu_bench_report(r, name, seconds > 0 ? bytes / seconds / 1e9 : 0, "GB/s");
    bench_report_reference(r->report, "copy in device memory", gpu_bench_copy_rate(r) / 1e9);
}

/* From the first to the second event: some copies, straight on the stream.  Those of a graph may go another way. */
static enum err time_copies(struct gpu_bench_run *r, const struct timing *t, void *dst,
                            const void *src, size_t bytes, double *rate)
{
    float ms = 0;
    enum err err = gpu_event_record(t->from, r->stream);

    for (int i = 0; err == ERR_OK && i < COPIES_TIMED; i++)
        err = gpu_copy(dst, src, bytes, GPU_ON_DEVICE, r->stream);
    if (err != ERR_OK || (err = gpu_event_record(t->to, r->stream)) != ERR_OK ||
        (err = wait(r)) != ERR_OK || (err = gpu_event_ms(t->from, t->to, &ms)) != ERR_OK)
        return err;
    *rate = ms > 0 ? COPIES_TIMED * 2.0 * (double)bytes / ((double)ms / 1e3) : 0;
    return ERR_OK;
}

/* The best that is seen in COPY_NS; 0: it failed. */
static double copy_rate(struct gpu_bench_run *r, void *dst, const void *src, size_t bytes)
{
    uint64_t begin = clock_now_ns();
    struct timing t = {0};
    double rate = 0, best = 0;
    enum err err = gpu_event_create(r->gpu, true, &t.from);

    if (err == ERR_OK)
        err = gpu_event_create(r->gpu, true, &t.to);
    do {
        if (err == ERR_OK)
            err = time_copies(r, &t, dst, src, bytes, &rate);
        best = fmax(best, rate);
    } while (err == ERR_OK && !r->small && clock_now_ns() - begin < COPY_NS);
    gpu_event_destroy(t.from);
    gpu_event_destroy(t.to);
    return err == ERR_OK ? best : 0;
}

double gpu_bench_copy_rate(struct gpu_bench_run *r)
{
    size_t bytes = r->small ? 1 << 16 : (size_t)500 << 20; /* far above the cache */
    void *dst = NULL, *src = NULL;

    if (r->memory->copy_rate > 0)
        return r->memory->copy_rate;
    if (gpu_alloc(r->gpu, bytes, &dst) == ERR_OK && gpu_alloc(r->gpu, bytes, &src) == ERR_OK &&
        gpu_fill(src, 1, bytes, r->stream) == ERR_OK)
        r->memory->copy_rate = copy_rate(r, dst, src, bytes);
    gpu_free(r->gpu, dst);
    gpu_free(r->gpu, src);
    return r->memory->copy_rate;
}

/* ---- all of them ---- */

static bool chosen(const char *name, const char *only)
{
    if (only == NULL)
        return true;
    for (;; only++) {
        size_t n = strcspn(only, ",");
        if (n > 0 && strncmp(name, only, n) == 0)
            return true;
        only += n;
        if (*only == '\0')
            return false;
    }
}

static enum err run_one(struct gpu_bench_run *r, const struct gpu_bench *b)
{
    struct err_msg msg = {{0}};
    struct err_msg *outer = r->msg;
    char name[96];
    enum err err;

    r->msg = &msg;
    r->memory->copies = 0;
    err = b->run(r);
    free_memory(r);
    r->msg = outer;
    if (err == ERR_OK)
        return ERR_OK;
    snprintf(name, sizeof(name), "%s.failed", b->name);
    bench_report_add(r->report, name, 1, "errors", BENCH_LOWER);
    return err_set(outer, err, "%s: %s", b->name, msg.text[0] != '\0' ? msg.text : err_text(err));
}

enum err gpu_benches_run(struct gpu *g, bool small, const char *only, struct bench_report *report,
                         struct err_msg *msg)
{
    struct gpu_bench_memory memory = {.copy_rate = 0};
    struct gpu_bench_run r = {.gpu = g, .small = small, .report = report, .memory = &memory};
    struct err_msg later;
    enum err err = gpu_stream_create(g, false, &r.stream), first = ERR_OK;

    if (err != ERR_OK)
        return err_set(msg, err, "no stream: %s", gpu_trouble());
    for (size_t i = 0; i < sizeof(benches) / sizeof(benches[0]) && !gpu_lost(); i++) {
        if (!chosen(benches[i]->name, only))
            continue;
        r.msg = first == ERR_OK ? msg : &later;
        err = run_one(&r, benches[i]);
        if (first == ERR_OK)
            first = err;
    }
    gpu_stream_destroy(r.stream);
    return first;
}
