/* kvtransfer/kvt_stage.c - see the header for the contract.
 *
 * A copy is cut into jobs of KV_MEMORY_RUNS_MAX runs, of which KV_MEMORY_JOBS_MAX are with the device at a
 * time; the rest waits in order.  The device's word comes from a thread of its own and passes through a
 * mailbox. */
#include "kvtransfer/kvt_stage.h"

#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mbox.h"
#include "base/mem.h"
#include "kvtransfer/kvt_int.h"

enum { BUFFERS_MIN = 2, RUNS_FIRST = 8 };

struct job {
    struct kv_memory_job job;
    struct mbox_msg msg;
    struct kvt_copy *copy;
    enum err err;
    bool started, over;
};

struct kvt_copy {
    struct kvt_item item; /* stage->copies, from start until it is gone */
    struct kvt_item turn; /* stage->waiting, while it has jobs to start */
    struct kvt_stage *stage;
    enum kvt_copy_dir dir;
    uint8_t *buffer;
    struct kv_memory_run *runs;
    uint32_t n_runs, cap_runs;
    struct job *jobs;
    uint32_t n_jobs, next, running;
    uint64_t deadline_ns;
    uint64_t digest;
    enum err err;
    bool told; /* over is done, or not wanted */
    bool late; /* it was told that the deadline has passed */
    struct kvt_copy_owner owner;
};

struct buffers {
    uint8_t **free; /* a stack */
    uint32_t n_free, n;
    uint32_t late; /* held by copies whose deadline has passed */
};

struct kvt_stage {
    const struct kv_memory *device;
    struct mbox *box;
    uint8_t *memory;
    size_t bytes;
    struct buffers buffers[KVT_COPY_DIRS];
    struct kvt_item copies, waiting;
    uint32_t jobs;      /* with the device */
    atomic_uint saying; /* threads inside job_done */
};

/* ---- the end of a copy ---- */

static void copy_release(struct kvt_copy *c)
{
    if (c->buffer != NULL) {
        struct buffers *b = &c->stage->buffers[c->dir];

        b->free[b->n_free++] = c->buffer;
        b->late -= c->late;
    }
    mem_free(c->runs);
    mem_free(c->jobs);
    mem_free(c);
}

static void copy_tell(struct kvt_copy *c, enum err err)
{
    if (c->told)
        return;
    c->told = true;
    c->owner.over(c->owner.arg, c, err);
}

/* The device is done with all jobs that it was given. */
static void copy_gone(struct kvt_copy *c)
{
    struct kvt_copy_owner owner = c->owner;
    enum err err = c->err;
    bool keep = err == ERR_OK && !c->told;

    item_unlink(&c->item);
    item_unlink(&c->turn);
    for (uint32_t i = 0; keep && i < c->n_jobs; i++)
        c->digest += c->jobs[i].job.digest;
    copy_tell(c, err);
    if (!keep)
        copy_release(c);
    if (owner.gone != NULL)
        owner.gone(owner.arg);
}

/* ---- jobs ---- */

static void stage_start_jobs(struct kvt_stage *st);

static void copy_fail(struct kvt_copy *c, enum err err)
{
    if (c->err == ERR_OK)
        c->err = err;
    c->next = c->n_jobs;
    item_unlink(&c->turn);
}

static void job_said(struct mbox_msg *msg)
{
    struct job *j = KVT_OF(msg, struct job, msg);
    struct kvt_copy *c = j->copy;
    struct kvt_stage *st = c->stage;

    j->over = true;
    c->running--;
    st->jobs--;
    if (j->err != ERR_OK)
        copy_fail(c, j->err);
    if (c->running == 0 && c->next == c->n_jobs)
        copy_gone(c);
    stage_start_jobs(st);
}

/* Any thread.  The stage goes away only when nobody is in here: the post may be taken, and everything
 * closed, before it returns. */
static void job_done(struct kv_memory_job *job, enum err err)
{
    struct job *j = KVT_OF(job, struct job, job);
    struct kvt_stage *st = j->copy->stage;

    atomic_fetch_add(&st->saying, 1);
    j->err = err;
    j->msg.run = job_said;
    mbox_post(st->box, &j->msg);
    atomic_fetch_sub(&st->saying, 1);
}

static void job_start(struct kvt_copy *c, struct job *j)
{
    const struct kv_memory *m = c->stage->device;
    enum err err;

    j->started = true;
    c->running++;
    c->stage->jobs++;
    err = c->dir == KVT_COPY_OUT  ? m->copy_out(m->arg, &j->job)
          : c->dir == KVT_COPY_IN ? m->copy_in(m->arg, &j->job)
                                  : m->digest(m->arg, &j->job);
    if (err != ERR_OK) /* as if it had been started: over is never called from here */
        job_done(&j->job, err);
}

static void stage_start_jobs(struct kvt_stage *st)
{
    while (st->jobs < KV_MEMORY_JOBS_MAX && item_linked(&st->waiting)) {
        struct kvt_copy *c = KVT_OF(st->waiting.next, struct kvt_copy, turn);
        struct job *j = &c->jobs[c->next++];

        if (c->next == c->n_jobs)
            item_unlink(&c->turn);
        job_start(c, j);
    }
}

static bool make_jobs(struct kvt_copy *c, uint64_t ready)
{
    c->n_jobs = (c->n_runs + KV_MEMORY_RUNS_MAX - 1) / KV_MEMORY_RUNS_MAX;
    c->jobs = mem_try_calloc(c->n_jobs, sizeof(*c->jobs));
    if (c->jobs == NULL)
        return false;
    for (uint32_t i = 0; i < c->n_jobs; i++) {
        uint32_t first = i * KV_MEMORY_RUNS_MAX, left = c->n_runs - first;

        c->jobs[i].copy = c;
        c->jobs[i].job =
            (struct kv_memory_job){.runs = c->runs + first,
                                   .n_runs = left < KV_MEMORY_RUNS_MAX ? left : KV_MEMORY_RUNS_MAX,
                                   .host = c->buffer,
                                   .ready = ready,
                                   .done = job_done};
    }
    return true;
}

/* ---- copies ---- */

struct kvt_copy *kvt_copy_new(struct kvt_stage *st, enum kvt_copy_dir dir)
{
    struct buffers *b = dir < KVT_COPY_DIRS ? &st->buffers[dir] : NULL;
    struct kvt_copy *c = b == NULL || b->n_free > 0 ? mem_try_calloc(1, sizeof(*c)) : NULL;

    if (c == NULL)
        return NULL;
    item_init(&c->item);
    item_init(&c->turn);
    c->stage = st;
    c->dir = dir;
    if (b != NULL)
        c->buffer = b->free[--b->n_free];
    return c;
}

uint8_t *kvt_copy_buffer(struct kvt_copy *c)
{
    return c->buffer;
}

bool kvt_copy_add(struct kvt_copy *c, const struct kv_memory_run *run)
{
    if (c->n_runs == c->cap_runs) {
        uint32_t cap = c->cap_runs == 0 ? RUNS_FIRST : c->cap_runs * 2;
        struct kv_memory_run *bigger = mem_try_realloc(c->runs, cap * sizeof(*bigger));

        if (bigger == NULL)
            return false;
        c->runs = bigger;
        c->cap_runs = cap;
    }
    c->runs[c->n_runs++] = *run;
    return true;
}

enum err kvt_copy_start(struct kvt_copy *c, uint64_t ready, uint64_t deadline_ns,
                        const struct kvt_copy_owner *owner)
{
    struct kvt_stage *st = c->stage;

    if (!make_jobs(c, ready)) {
        copy_release(c);
        return ERR_NOMEM;
    }
    c->owner = *owner;
    c->deadline_ns = deadline_ns;
    item_append(&st->copies, &c->item);
    item_append(&st->waiting, &c->turn);
    stage_start_jobs(st);
    return ERR_OK;
}

uint64_t kvt_copy_digest(const struct kvt_copy *c)
{
    return c->digest;
}

/* What the device has not been given yet it is not given any more. */
static void copy_stop(struct kvt_copy *c)
{
    const struct kv_memory *m = c->stage->device;

    copy_fail(c, ERR_CANCELED);
    for (uint32_t i = 0; i < c->n_jobs; i++) {
        if (c->jobs[i].started && !c->jobs[i].over)
            m->abort(m->arg, &c->jobs[i].job);
    }
}

void kvt_copy_abandon(struct kvt_copy *c)
{
    c->told = true;
    copy_stop(c);
    if (c->running == 0)
        copy_gone(c);
}

void kvt_copy_free(struct kvt_copy *c)
{
    copy_release(c);
}

/* ---- the stage ---- */

uint32_t kvt_stage_room(const struct kvt_stage *st, enum kvt_copy_dir dir)
{
    return st->buffers[dir].n_free;
}

bool kvt_stage_stuck(const struct kvt_stage *st, enum kvt_copy_dir dir)
{
    return st->buffers[dir].late == st->buffers[dir].n;
}

uint32_t kvt_stage_quarantined(const struct kvt_stage *st)
{
    return st->buffers[KVT_COPY_OUT].late + st->buffers[KVT_COPY_IN].late;
}

bool kvt_stage_idle(const struct kvt_stage *st)
{
    return !item_linked(&st->copies) && atomic_load(&st->saying) == 0;
}

static void copy_late(struct kvt_copy *c)
{
    static const char *const names[] = {"out", "in", "digest"};

    LOG_ERROR("kvt", "a copy of the device does not end", "device=%s direction=%s jobs=%u",
              c->stage->device->name, names[c->dir], c->running);
    c->late = true;
    if (c->buffer != NULL)
        c->stage->buffers[c->dir].late++;
    copy_stop(c);
    c->err = ERR_DEVICE;
    copy_tell(c, ERR_DEVICE);
    if (c->running == 0)
        copy_gone(c);
}

void kvt_stage_sweep(struct kvt_stage *st, uint64_t now)
{
    struct kvt_item *i = st->copies.next;

    while (i != &st->copies) {
        struct kvt_copy *c = KVT_OF(i, struct kvt_copy, item);

        if (c->late || now < c->deadline_ns) {
            i = i->next;
            continue;
        }
        copy_late(c);
        i = st->copies.next; /* whoever was told may have ended others */
    }
}

static void buffers_fini(struct kvt_stage *st)
{
    for (int dir = 0; dir < KVT_COPY_DIRS; dir++)
        mem_free(st->buffers[dir].free);
}

static enum err buffers_init(struct kvt_stage *st)
{
    uint32_t n = (uint32_t)(st->bytes / KVT_MESSAGE_MAX / KVT_COPY_DIRS);
    uint8_t *at = st->memory;

    for (int dir = 0; dir < KVT_COPY_DIRS; dir++) {
        struct buffers *b = &st->buffers[dir];

        b->free = mem_try_calloc(n, sizeof(*b->free));
        if (b->free == NULL)
            return ERR_NOMEM;
        b->n = n;
        for (uint32_t i = 0; i < n; i++, at += KVT_MESSAGE_MAX)
            b->free[b->n_free++] = at;
    }
    return ERR_OK;
}

enum err kvt_stage_open(struct uv_loop_s *loop, const struct kv_memory *device, uint8_t *memory,
                        size_t bytes, struct err_msg *msg, struct kvt_stage **out)
{
    struct kvt_stage *st;
    enum err err = ERR_NOMEM;

    if (bytes / KVT_MESSAGE_MAX / KVT_COPY_DIRS < BUFFERS_MIN ||
        bytes / KVT_MESSAGE_MAX > UINT32_MAX)
        return err_set(msg, ERR_INVALID, "KV staging: %zu bytes; at least %d are needed", bytes,
                       BUFFERS_MIN * KVT_COPY_DIRS * KVT_MESSAGE_MAX);
    st = mem_try_calloc(1, sizeof(*st));
    if (st == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for KV staging");
    st->device = device;
    st->memory = memory;
    st->bytes = bytes;
    item_init(&st->copies);
    item_init(&st->waiting);
    if (buffers_init(st) != ERR_OK || mbox_create_on_loop(loop, &st->box) != ERR_OK) {
        (void)err_set(msg, ERR_NOMEM, "no memory for KV staging");
        goto fail;
    }
    err = device->pin(device->arg, memory, bytes, msg);
    if (err != ERR_OK) {
        mbox_close(st->box);
        goto fail;
    }
    *out = st;
    return ERR_OK;
fail:
    buffers_fini(st);
    mem_free(st);
    return err;
}

void kvt_stage_close(struct kvt_stage *st)
{
    mbox_close(st->box);
    st->device->unpin(st->device->arg, st->memory, st->bytes);
    buffers_fini(st);
    mem_free(st);
}
