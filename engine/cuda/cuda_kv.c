/* engine/cuda/cuda_kv.c - see the header.
 *
 * A job's runs are copied, sorted by part, into pinned memory of its place, from where the kernels read them;
 * each part's kernels run on its device and leave a digest, which comes back to the place as well.
 *
 * These streams go before the steps' own.  Their kernels are few blocks for microseconds, while a step has blocks that
 * wait for a processor at all times: behind those a copy would get its turn when the step is over. */
#include "engine/cuda/cuda_kv.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/kernels/kv_digest.h"
#include "engine/kernels/kv_move.h"

enum {
    DIGEST_BLOCKS = 16, /* of the grid: the step's kernels keep the other processors */
    CLOSE_POLL_MS = 100
};

enum job_kind { JOB_OUT, JOB_IN, JOB_DIGEST };
enum direction { DIR_OUT, DIR_IN, DIRS };

struct place {
    struct kv_memory_job *job;
    struct kv_memory_run *runs; /* [KV_MEMORY_RUNS_MAX], pinned */
    uint64_t *digest;           /* [parts], pinned */
    uint32_t n_runs[WIRE_KV_PARTS_MAX];
    uint64_t longest[WIRE_KV_PARTS_MAX];
    gpu_event *event; /* [parts] */
    bool failed;      /* not all of it could be enqueued */
    struct place *next;
};

struct part {
    gpu_stream stream[DIRS];
    uint64_t *digest; /* device: [KV_MEMORY_JOBS_MAX] */
};

struct lane {
    struct cuda_kv *kv;
    pthread_t thread;
    bool started;
    pthread_cond_t changed;
    struct place *head, **tail; /* jobs on the device, oldest first; under kv->lock */
};

struct cuda_kv {
    struct cuda_engine *engine;
    struct kv_memory memory;
    struct part *parts;
    struct place places[KV_MEMORY_JOBS_MAX];
    struct kv_memory_run *runs; /* pinned, of all places */
    uint64_t *digests;          /* pinned, of all places and parts */
    uint8_t *bounce;            /* pinned: one part of a block, for parking */
    pthread_mutex_t lock;
    bool closing;       /* under lock */
    struct place *free; /* under lock */
    struct lane lanes[DIRS];
};

/* ---- enqueuing ---- */

static enum direction direction_of(enum job_kind kind)
{
    return kind == JOB_IN ? DIR_IN : DIR_OUT;
}

static void sort_runs(struct place *p, const struct kv_memory_job *job, uint32_t parts)
{
    uint32_t n = 0;

    for (uint32_t part = 0; part < parts; part++) {
        p->n_runs[part] = 0;
        p->longest[part] = 0;
        p->digest[part] = 0;
        for (uint32_t i = 0; i < job->n_runs; i++) {
            if (job->runs[i].part != part)
                continue;
            p->runs[n++] = job->runs[i];
            p->n_runs[part]++;
            if (job->runs[i].len > p->longest[part])
                p->longest[part] = job->runs[i].len;
        }
    }
}

static enum err move_runs(const struct cuda_kv *k, const struct place *p, uint32_t part,
                          const struct kv_memory_run *runs, enum job_kind kind, gpu_stream s)
{
    const struct kv_move_args a = {.base = k->memory.base[part],
                                   .dense = p->job->host,
                                   .runs = runs,
                                   .n_runs = p->n_runs[part],
                                   .longest = p->longest[part]};

    if (kind == JOB_DIGEST)
        return ERR_OK;
    return kind == JOB_OUT ? kv_gather(&a, s) : kv_scatter(&a, s);
}

static enum err start_part(struct cuda_kv *k, struct place *p, uint32_t part,
                           const struct kv_memory_run *runs, enum job_kind kind)
{
    struct cuda_engine *e = k->engine;
    struct cuda_rank *r = &e->ranks[part];
    gpu_stream s = k->parts[part].stream[direction_of(kind)];
    uint64_t ready = kind == JOB_IN ? 0 : p->job->ready;
    struct kv_digest_args a = {.base = k->memory.base[part],
                               .runs = runs,
                               .n_runs = p->n_runs[part],
                               .blocks = DIGEST_BLOCKS,
                               .longest = p->longest[part],
                               .digest = k->parts[part].digest + (p - k->places)};
    enum err err = gpu_use(r->gpu);

    if (err == ERR_OK && ready > __atomic_load_n(&e->tickets_done, __ATOMIC_ACQUIRE))
        err = gpu_stream_await(s, r->layers[ready % e->n_tickets]);
    if (err == ERR_OK)
        err = move_runs(k, p, part, runs, kind, s);
    if (err == ERR_OK)
        err = kv_digest(&a, s);
    if (err == ERR_OK)
        err = gpu_copy(&p->digest[part], a.digest, sizeof(a.digest[0]), GPU_TO_HOST, s);
    return err == ERR_OK ? gpu_event_record(p->event[part], s) : err;
}

static enum err start_parts(struct cuda_kv *k, struct place *p, enum job_kind kind)
{
    const struct kv_memory_run *runs = p->runs;
    enum err err = ERR_OK;

    for (uint32_t part = 0; part < k->memory.parts && err == ERR_OK; part++) {
        if (p->n_runs[part] > 0)
            err = start_part(k, p, part, runs, kind);
        runs += p->n_runs[part];
    }
    return err;
}

/* ---- jobs ---- */

static struct place *take_place(struct cuda_kv *k)
{
    struct place *p;

    pthread_mutex_lock(&k->lock);
    p = k->free;
    if (p != NULL)
        k->free = p->next;
    pthread_mutex_unlock(&k->lock);
    return p;
}

static void give_place(struct cuda_kv *k, struct place *p)
{
    pthread_mutex_lock(&k->lock);
    p->next = k->free;
    k->free = p;
    pthread_mutex_unlock(&k->lock);
}

static void append(struct cuda_kv *k, struct lane *l, struct place *p)
{
    p->next = NULL;
    pthread_mutex_lock(&k->lock);
    *l->tail = p;
    l->tail = &p->next;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&k->lock);
}

static void not_started(const char *why)
{
    LOG_ERROR("engine", "a KV job was not started", "why=%s", why);
}

/* An engine whose hand-overs all fail never gets a step in which it would notice. */
static void note_failure(struct cuda_kv *k, enum err err)
{
    if (err == ERR_DEVICE)
        cuda_engine_set_broken(k->engine);
}

/* A job that was enqueued in part counts as started: the device may touch its buffer, so it ends when the
 * device has, or has failed. */
static enum err start(void *arg, struct kv_memory_job *job, enum job_kind kind)
{
    struct cuda_kv *k = arg;
    struct place *p;
    enum err err;

    if (job->n_runs == 0 || job->n_runs > KV_MEMORY_RUNS_MAX) {
        not_started("no runs, or more than a job may have");
        return ERR_DEVICE;
    }
    p = take_place(k);
    if (p == NULL) {
        not_started("more jobs at a time than there is room for");
        return ERR_DEVICE;
    }
    p->job = job;
    sort_runs(p, job, k->memory.parts);
    err = start_parts(k, p, kind);
    p->failed = err != ERR_OK;
    if (p->failed)
        not_started(err == ERR_DEVICE ? gpu_trouble() : err_text(err));
    note_failure(k, err);
    append(k, &k->lanes[direction_of(kind)], p);
    return ERR_OK;
}

static enum err start_out(void *arg, struct kv_memory_job *job)
{
    return start(arg, job, JOB_OUT);
}

static enum err start_in(void *arg, struct kv_memory_job *job)
{
    return start(arg, job, JOB_IN);
}

static enum err start_digest(void *arg, struct kv_memory_job *job)
{
    return start(arg, job, JOB_DIGEST);
}

/* What has begun is over sooner than it could be stopped. */
static void abort_job(void *arg, struct kv_memory_job *job)
{
    (void)arg, (void)job;
}

/* ---- their ends ---- */

static bool is_closing(struct cuda_kv *k)
{
    bool closing;

    pthread_mutex_lock(&k->lock);
    closing = k->closing;
    pthread_mutex_unlock(&k->lock);
    return closing;
}

/* A device that hangs keeps its jobs: whoever waits has deadlines of its own, and the buffers are not free.  The
 * oldest job has nothing to wait for but a step, so it may take no longer than one. */
static enum err await_part(struct cuda_kv *k, const struct place *p, uint32_t part)
{
    uint64_t hung_ns = clock_now_ns() + k->engine->deadline_ns;

    for (;;) {
        enum err err =
            gpu_event_wait(p->event[part], clock_now_ns() + CLOSE_POLL_MS * CLOCK_NS_PER_MS);

        if (err != ERR_TIMEOUT)
            return err;
        if (is_closing(k))
            return ERR_DEVICE;
        if (clock_now_ns() > hung_ns)
            note_failure(k, ERR_DEVICE);
    }
}

static void end_job(struct cuda_kv *k, struct place *p)
{
    struct kv_memory_job *job = p->job;
    enum err err = ERR_OK;
    uint64_t digest = 0;

    for (uint32_t part = 0; part < k->memory.parts; part++) {
        enum err ended = p->n_runs[part] > 0 ? await_part(k, p, part) : ERR_OK;

        err = err != ERR_OK ? err : ended;
        digest += p->digest[part];
    }
    if (!is_closing(k)) /* which ends jobs that hang */
        note_failure(k, err);
    if (p->failed)
        err = ERR_DEVICE;
    job->digest = digest;
    give_place(k, p);
    job->done(job, err);
}

static void *lane_thread(void *arg)
{
    struct lane *l = arg;
    struct cuda_kv *k = l->kv;

    cuda_use_anyway(k->engine->ranks[0].gpu);
    for (;;) {
        struct place *p;

        pthread_mutex_lock(&k->lock);
        while (l->head == NULL && !k->closing)
            pthread_cond_wait(&l->changed, &k->lock);
        p = l->head;
        if (p != NULL) {
            l->head = p->next;
            if (l->head == NULL)
                l->tail = &l->head;
        }
        pthread_mutex_unlock(&k->lock);
        if (p == NULL)
            return NULL;
        end_job(k, p);
    }
}

/* ---- host memory ---- */

static enum err pin(void *arg, void *host, size_t len, struct err_msg *msg)
{
    struct cuda_kv *k = arg;
    enum err err = gpu_use(k->engine->ranks[0].gpu);

    if (err == ERR_OK)
        err = gpu_host_register(k->engine->ranks[0].gpu, host, len);
    return err == ERR_OK
               ? ERR_OK
               : err_set(msg, ERR_DEVICE, "engine: %zu MiB of host memory cannot be pinned: %s",
                         len >> 20, err == ERR_DEVICE ? gpu_trouble() : err_text(err));
}

static void unpin(void *arg, void *host, size_t len)
{
    struct cuda_kv *k = arg;

    (void)len;
    cuda_use_anyway(k->engine->ranks[0].gpu);
    gpu_host_unregister(k->engine->ranks[0].gpu, host);
}

static enum err copy_part(struct cuda_kv *k, uint32_t part, uint32_t block, uint8_t *host,
                          enum engine_kv_dir dir)
{
    struct cuda_rank *r = &k->engine->ranks[part];
    size_t bytes = wire_kv_part_block_bytes(&k->engine->base.info.kv);
    uint8_t *at = r->kv + block * bytes;
    enum err err = gpu_use(r->gpu);

    if (dir == ENGINE_KV_IN)
        memcpy(k->bounce, host, bytes);
    if (err == ERR_OK)
        err = dir == ENGINE_KV_IN ? gpu_copy(at, k->bounce, bytes, GPU_TO_DEVICE, r->stream)
                                  : gpu_copy(k->bounce, at, bytes, GPU_TO_HOST, r->stream);
    if (err == ERR_OK)
        err = gpu_stream_wait(r->stream, clock_now_ns() + k->engine->deadline_ns);
    if (err == ERR_OK && dir == ENGINE_KV_OUT)
        memcpy(host, k->bounce, bytes);
    return err;
}

enum err cuda_kv_copy(struct engine *engine, uint32_t block, void *host, enum engine_kv_dir dir)
{
    struct cuda_engine *e = (struct cuda_engine *)engine;
    size_t bytes = wire_kv_part_block_bytes(&e->base.info.kv);
    enum err err = cuda_engine_is_broken(e) ? ERR_DEVICE : ERR_OK;

    for (uint32_t part = 0; part < e->n_ranks && err == ERR_OK; part++)
        err = copy_part(e->kv, part, block, (uint8_t *)host + part * bytes, dir);
    return err == ERR_OK ? ERR_OK : cuda_engine_break(e, err, "parking a block");
}

/* ---- open and close ---- */

static enum err make_part(struct cuda_kv *k, uint32_t i)
{
    struct gpu *g = k->engine->ranks[i].gpu;
    enum err err = gpu_use(g);

    for (int d = 0; d < DIRS && err == ERR_OK; d++)
        err = gpu_stream_create(g, true, &k->parts[i].stream[d]);
    for (int p = 0; p < KV_MEMORY_JOBS_MAX && err == ERR_OK; p++)
        err = gpu_event_create(g, false, &k->places[p].event[i]);
    k->parts[i].digest = k->engine->ranks[i].kv_digest;
    return err;
}

static enum err make_places(struct cuda_kv *k)
{
    struct gpu *g = k->engine->ranks[0].gpu;
    uint32_t parts = k->engine->n_ranks;
    enum err err = gpu_host_alloc(g, sizeof(k->runs[0]) * KV_MEMORY_RUNS_MAX * KV_MEMORY_JOBS_MAX,
                                  (void **)&k->runs);

    if (err == ERR_OK)
        err = gpu_host_alloc(g, sizeof(k->digests[0]) * parts * KV_MEMORY_JOBS_MAX,
                             (void **)&k->digests);
    if (err == ERR_OK)
        err = gpu_host_alloc(g, wire_kv_part_block_bytes(&k->engine->base.info.kv),
                             (void **)&k->bounce);
    for (uint32_t i = 0; i < KV_MEMORY_JOBS_MAX && err == ERR_OK; i++) {
        struct place *p = &k->places[i];

        p->runs = k->runs + (size_t)i * KV_MEMORY_RUNS_MAX;
        p->digest = k->digests + (size_t)i * parts;
        p->event = mem_try_calloc(parts, sizeof(p->event[0]));
        p->next = k->free;
        k->free = p;
        err = p->event == NULL ? ERR_NOMEM : ERR_OK;
    }
    return err;
}

static enum err start_lanes(struct cuda_kv *k)
{
    for (int i = 0; i < DIRS; i++) {
        struct lane *l = &k->lanes[i];

        if (pthread_create(&l->thread, NULL, lane_thread, l) != 0)
            return ERR_NOMEM;
        l->started = true;
    }
    return ERR_OK;
}

static void fill_memory(struct cuda_kv *k)
{
    struct cuda_engine *e = k->engine;
    size_t at = 0;

    k->memory = (struct kv_memory){.kind = KV_MEMORY_CUDA,
                                   .parts = e->n_ranks,
                                   .n_blocks = e->ranks[0].arena.kv_blocks,
                                   .arg = k,
                                   .pin = pin,
                                   .unpin = unpin,
                                   .copy_out = start_out,
                                   .copy_in = start_in,
                                   .digest = start_digest,
                                   .abort = abort_job};
    for (uint32_t i = 0; i < e->n_ranks; i++) {
        k->memory.base[i] = e->ranks[i].kv;
        if (at < sizeof(k->memory.name))
            at += (size_t)snprintf(k->memory.name + at, sizeof(k->memory.name) - at, "%s%u",
                                   i == 0 ? "cuda:" : ",", e->ranks[i].device);
    }
}

enum err cuda_kv_open(struct cuda_engine *e, struct cuda_kv **out, struct err_msg *msg)
{
    struct cuda_kv *k = mem_try_calloc(1, sizeof(*k));
    enum err err;

    *out = k;
    if (k == NULL)
        return err_set(msg, ERR_NOMEM, "engine: no memory");
    k->engine = e;
    pthread_mutex_init(&k->lock, NULL);
    for (int i = 0; i < DIRS; i++) {
        k->lanes[i].kv = k;
        k->lanes[i].tail = &k->lanes[i].head;
        pthread_cond_init(&k->lanes[i].changed, NULL);
    }
    k->parts = mem_try_calloc(e->n_ranks, sizeof(k->parts[0]));
    err = k->parts == NULL ? ERR_NOMEM : make_places(k);
    for (uint32_t i = 0; i < e->n_ranks && err == ERR_OK; i++)
        err = make_part(k, i);
    if (err == ERR_OK)
        err = start_lanes(k);
    fill_memory(k);
    return err == ERR_OK ? ERR_OK
                         : err_set(msg, err, "engine: the streams of the KV pool: %s",
                                   err == ERR_DEVICE ? gpu_trouble() : err_text(err));
}

const struct kv_memory *cuda_kv_memory(const struct cuda_kv *k)
{
    return k != NULL ? &k->memory : NULL;
}

static void stop_lanes(struct cuda_kv *k)
{
    pthread_mutex_lock(&k->lock);
    k->closing = true;
    for (int i = 0; i < DIRS; i++)
        pthread_cond_signal(&k->lanes[i].changed);
    pthread_mutex_unlock(&k->lock);
    for (int i = 0; i < DIRS; i++) {
        if (k->lanes[i].started)
            pthread_join(k->lanes[i].thread, NULL);
        pthread_cond_destroy(&k->lanes[i].changed);
    }
}

void cuda_kv_close(struct cuda_kv *k)
{
    struct gpu *g;

    if (k == NULL)
        return;
    g = k->engine->ranks[0].gpu;
    stop_lanes(k);
    for (uint32_t i = 0; k->parts != NULL && i < k->engine->n_ranks; i++) {
        for (int d = 0; d < DIRS; d++) {
            cuda_settle(k->engine->ranks[i].gpu, k->parts[i].stream[d]);
            gpu_stream_destroy(k->parts[i].stream[d]);
        }
        for (int p = 0; p < KV_MEMORY_JOBS_MAX && k->places[p].event != NULL; p++)
            gpu_event_destroy(k->places[p].event[i]);
    }
    for (int p = 0; p < KV_MEMORY_JOBS_MAX; p++)
        mem_free(k->places[p].event);
    gpu_host_free(g, k->runs);
    gpu_host_free(g, k->digests);
    gpu_host_free(g, k->bounce);
    mem_free(k->parts);
    pthread_mutex_destroy(&k->lock);
    mem_free(k);
}
