/* tests/kvt/kvt_device.c - see the header. */
#include "tests/kvt/kvt_device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum { THREADS = 2, NEVER = 1 << 30 };

struct entry {
    struct entry *next;
    struct kv_memory_job *job;
    enum device_op op;
    bool aborted;
};

struct device {
    struct kv_memory memory;
    size_t part_bytes;
    uint8_t *window[WIRE_KV_PARTS_MAX];
    void *closed[WIRE_KV_PARTS_MAX]; /* the same without access */
    pthread_mutex_t lock;            /* of the queue and of what a test sets */
    pthread_mutex_t bytes;           /* of what is in the pool */
    pthread_cond_t change;
    pthread_t threads[THREADS];
    struct entry *queue; /* jobs that nobody works at */
    uint64_t passed;
    unsigned fail[DEVICE_OPS], refuse[DEVICE_OPS], corrupt[DEVICE_OPS]; /* jobs until then */
    bool hang[DEVICE_OPS];
    bool refuse_pin, closing;
    unsigned delay_us;
    uint32_t random;
    const uint8_t *pinned;
    size_t pinned_len;
    struct device_counts counts;
};

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "kvt_device: %s\n", what);
    _exit(1);
}

static uint32_t draw(struct device *d)
{
    return (d->random = d->random * 1664525u + 1013904223u) >> 8;
}

/* Counts down; true once, when it gets there. */
static bool due(unsigned *left)
{
    if (*left == NEVER)
        return false;
    if ((*left)-- > 0)
        return false;
    *left = NEVER;
    return true;
}

/* ---- the work ---- */

static bool run_is_right(const struct device *d, const struct kv_memory_job *job, enum device_op op,
                         const struct kv_memory_run *r)
{
    const uint8_t *host = job->host;

    if (r->part >= d->memory.parts || r->len == 0 || r->len > d->part_bytes ||
        r->at > d->part_bytes - r->len || (r->at | r->len | r->canonical) % 4 != 0)
        return false;
    return op == DEVICE_DIGEST || (host >= d->pinned && (uintptr_t)host % 64 == 0 &&
                                   r->host + r->len <= (size_t)(d->pinned + d->pinned_len - host));
}

static const char *work(struct device *d, struct kv_memory_job *job, enum device_op op, bool wrong)
{
    uint64_t digest = 0;

    if (job->n_runs == 0 || job->n_runs > KV_MEMORY_RUNS_MAX)
        return "a job of too many runs or of none";
    pthread_mutex_lock(&d->bytes);
    for (uint32_t i = 0; i < job->n_runs; i++) {
        const struct kv_memory_run *r = &job->runs[i];
        uint8_t *here, *host = (uint8_t *)job->host + (op == DEVICE_DIGEST ? 0 : r->host);

        if (!run_is_right(d, job, op, r)) {
            pthread_mutex_unlock(&d->bytes);
            return "a run outside the pool or the pinned memory";
        }
        here = d->window[r->part] + r->at;
        if (op == DEVICE_OUT)
            memcpy(host, here, r->len);
        else if (op == DEVICE_IN)
            memcpy(here, host, r->len);
        digest += wire_kv_digest(here, r->len, r->canonical, r->salt);
        if (wrong && op == DEVICE_OUT)
            host[0] ^= 1;
    }
    pthread_mutex_unlock(&d->bytes);
    job->digest = wrong && op != DEVICE_OUT ? digest + 1 : digest;
    return NULL;
}

/* A job that may run now, any of them; taken out of the queue. */
static struct entry *take(struct device *d)
{
    struct entry **at[KV_MEMORY_JOBS_MAX], **e;
    uint32_t n = 0;

    for (e = &d->queue; *e != NULL && n < KV_MEMORY_JOBS_MAX; e = &(*e)->next) {
        bool held = (*e)->op != DEVICE_IN && (*e)->job->ready > d->passed && !(*e)->aborted;

        if (!held && !d->hang[(*e)->op])
            at[n++] = e;
    }
    if (n == 0)
        return NULL;
    e = at[draw(d) % n];
    struct entry *taken = *e;

    *e = taken->next;
    return taken;
}

static void run(struct device *d, struct entry *e)
{
    struct kv_memory_job *job = e->job;
    bool fail = !e->aborted && due(&d->fail[e->op]);
    bool wrong = !e->aborted && due(&d->corrupt[e->op]);
    unsigned us = d->delay_us > 0 ? draw(d) % d->delay_us : 0;
    enum err err = fail ? ERR_DEVICE : e->aborted ? ERR_CANCELED : ERR_OK;
    const char *bad = NULL;
    uint64_t bytes = 0;

    pthread_mutex_unlock(&d->lock);
    if (err == ERR_OK) {
        if (us > 0)
            usleep(us);
        for (uint32_t i = 0; i < job->n_runs; i++)
            bytes += job->runs[i].len;
        bad = work(d, job, e->op, wrong);
    }
    memset(job->own, 0xee, sizeof(job->own));
    pthread_mutex_lock(&d->lock);
    d->counts.open--;
    if (err == ERR_OK && bad == NULL) {
        d->counts.jobs[e->op]++;
        d->counts.bytes[e->op] += bytes;
    }
    if (bad != NULL)
        d->counts.wrong = bad;
    pthread_mutex_unlock(&d->lock);
    job->done(job, bad != NULL ? ERR_DEVICE : err);
    mem_free(e);
    pthread_mutex_lock(&d->lock);
}

static void *thread_main(void *arg)
{
    struct device *d = arg;
    struct entry *e;

    pthread_mutex_lock(&d->lock);
    while (!d->closing || d->queue != NULL) {
        e = take(d);
        if (e != NULL)
            run(d, e);
        else
            pthread_cond_wait(&d->change, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* ---- what kvtransfer calls ---- */

static enum err start(struct device *d, struct kv_memory_job *job, enum device_op op)
{
    struct entry *e = mem_try_calloc(1, sizeof(*e));
    bool refused;

    if (e == NULL)
        return ERR_DEVICE;
    e->job = job;
    e->op = op;
    pthread_mutex_lock(&d->lock);
    refused = due(&d->refuse[op]);
    if (!refused) {
        e->next = d->queue;
        d->queue = e;
        if (++d->counts.open > d->counts.most)
            d->counts.most = d->counts.open;
        pthread_cond_signal(&d->change);
    }
    pthread_mutex_unlock(&d->lock);
    if (refused)
        mem_free(e);
    return refused ? ERR_DEVICE : ERR_OK;
}

static enum err copy_out(void *arg, struct kv_memory_job *job)
{
    return start(arg, job, DEVICE_OUT);
}

static enum err copy_in(void *arg, struct kv_memory_job *job)
{
    return start(arg, job, DEVICE_IN);
}

static enum err digest(void *arg, struct kv_memory_job *job)
{
    return start(arg, job, DEVICE_DIGEST);
}

static void abort_job(void *arg, struct kv_memory_job *job)
{
    struct device *d = arg;

    pthread_mutex_lock(&d->lock);
    d->counts.aborted++;
    for (struct entry *e = d->queue; e != NULL; e = e->next)
        e->aborted |= e->job == job;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->lock);
}

static enum err pin(void *arg, void *host, size_t len, struct err_msg *msg)
{
    struct device *d = arg;
    bool refused;

    pthread_mutex_lock(&d->lock);
    refused = d->refuse_pin;
    d->refuse_pin = false;
    if (!refused) {
        d->pinned = host;
        d->pinned_len = len;
        d->counts.pinned = true;
    }
    pthread_mutex_unlock(&d->lock);
    return refused ? err_set(msg, ERR_DEVICE, "the device pins nothing") : ERR_OK;
}

static void unpin(void *arg, void *host, size_t len)
{
    struct device *d = arg;

    pthread_mutex_lock(&d->lock);
    if (d->pinned != host || d->pinned_len != len || d->counts.open > 0)
        d->counts.wrong = "memory unpinned that was not pinned, or is in use";
    d->counts.pinned = false;
    pthread_mutex_unlock(&d->lock);
}

/* ---- life ---- */

/* Two mappings of the same bytes: one that nobody may touch, and the window. */
static void map_part(struct device *d, uint32_t part)
{
    int fd = memfd_create("kvt_device", MFD_CLOEXEC);

    need(fd >= 0 && ftruncate(fd, (off_t)d->part_bytes) == 0, "no memory for a part");
    d->closed[part] = mmap(NULL, d->part_bytes, PROT_NONE, MAP_SHARED, fd, 0);
    d->window[part] = mmap(NULL, d->part_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(d->closed[part] != MAP_FAILED && d->window[part] != MAP_FAILED, "cannot map a part");
    d->memory.base[part] = d->closed[part];
    close(fd);
}

struct device *device_open(const struct wire_kv_layout *layout, uint32_t n_blocks,
                           unsigned delay_us)
{
    struct device *d = mem_try_calloc(1, sizeof(*d));

    need(d != NULL, "no memory");
    d->memory = (struct kv_memory){.kind = KV_MEMORY_DEVICE,
                                   .parts = layout->parts,
                                   .n_blocks = n_blocks,
                                   .name = "none:0",
                                   .arg = d,
                                   .pin = pin,
                                   .unpin = unpin,
                                   .copy_out = copy_out,
                                   .copy_in = copy_in,
                                   .digest = digest,
                                   .abort = abort_job};
    d->part_bytes = wire_kv_part_block_bytes(layout) * n_blocks;
    d->passed = UINT64_MAX;
    d->delay_us = delay_us;
    d->random = 1;
    for (int op = 0; op < DEVICE_OPS; op++)
        d->fail[op] = d->refuse[op] = d->corrupt[op] = NEVER;
    for (uint32_t p = 0; p < layout->parts; p++)
        map_part(d, p);
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->bytes, NULL);
    pthread_cond_init(&d->change, NULL);
    for (int i = 0; i < THREADS; i++)
        need(pthread_create(&d->threads[i], NULL, thread_main, d) == 0, "no thread");
    return d;
}

void device_open_up(struct device *d)
{
    d->memory.kind = KV_MEMORY_COHERENT;
    for (uint32_t p = 0; p < d->memory.parts; p++)
        d->memory.base[p] = d->window[p];
}

void device_close(struct device *d)
{
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->lock);
    for (int i = 0; i < THREADS; i++)
        pthread_join(d->threads[i], NULL);
    need(d->counts.wrong == NULL, d->counts.wrong);
    need(!d->counts.pinned, "memory is still pinned");
    for (uint32_t p = 0; p < d->memory.parts; p++) {
        munmap(d->closed[p], d->part_bytes);
        munmap(d->window[p], d->part_bytes);
    }
    pthread_cond_destroy(&d->change);
    pthread_mutex_destroy(&d->bytes);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

const struct kv_memory *device_memory(const struct device *d)
{
    return &d->memory;
}

void device_lock(struct device *d)
{
    if (d != NULL)
        pthread_mutex_lock(&d->bytes);
}

void device_unlock(struct device *d)
{
    if (d != NULL)
        pthread_mutex_unlock(&d->bytes);
}

uint8_t *device_window(struct device *d, uint32_t part)
{
    return d->window[part];
}

static void set(struct device *d, unsigned *what, unsigned n)
{
    pthread_mutex_lock(&d->lock);
    *what = n;
    pthread_mutex_unlock(&d->lock);
}

void device_fail(struct device *d, enum device_op op, unsigned n)
{
    set(d, &d->fail[op], n);
}

void device_refuse(struct device *d, enum device_op op, unsigned n)
{
    set(d, &d->refuse[op], n);
}

void device_corrupt(struct device *d, enum device_op op, unsigned n)
{
    set(d, &d->corrupt[op], n);
}

void device_pass(struct device *d, uint64_t ticket)
{
    pthread_mutex_lock(&d->lock);
    d->passed = ticket;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->lock);
}

void device_hang(struct device *d, enum device_op op, bool hang)
{
    pthread_mutex_lock(&d->lock);
    d->hang[op] = hang;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->lock);
}

void device_refuse_pin(struct device *d)
{
    pthread_mutex_lock(&d->lock);
    d->refuse_pin = true;
    pthread_mutex_unlock(&d->lock);
}

struct device_counts device_counts(struct device *d)
{
    struct device_counts c;

    pthread_mutex_lock(&d->lock);
    c = d->counts;
    pthread_mutex_unlock(&d->lock);
    return c;
}
