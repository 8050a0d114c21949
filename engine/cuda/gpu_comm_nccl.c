/* engine/cuda/gpu_comm_nccl.c - gpu_comm.h by NCCL.
 *
 * Communicators are of the non-blocking kind: no call of NCCL waits for another rank; it answers "in progress", and
 * settle() asks again until the deadline or until the group has ended.  A kernel of NCCL that waits on the device
 * for a rank that is gone ends when its own communicator is aborted.  NCCL allows no two threads in one communicator:
 * a rank that has begun to abort leaves its own to the thread that does it. */
#include "engine/cuda/gpu_comm.h"

#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/cuda/gpu_lib.h"

enum { ASK_NS = 10000, LOOK_NS = 5000000 };

static struct {
    GPU_LIB_NCCL(GPU_LIB_MEMBER)
} nccl;

struct gpu_comm_group {
    ncclUniqueId id;
    uint32_t n_ranks;
    uint64_t deadline_ns; /* of one wait */
    atomic_bool ended;
};

struct gpu_comm {
    struct gpu_comm_group *group;
    ncclComm_t comm; /* NULL: one rank alone, or aborted */
    pthread_t aborter;
    bool aborting; /* that thread was started */
};

/* ---- the group ---- */

static enum err load(struct err_msg *msg)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool loaded;
    enum err err = ERR_OK;

    pthread_mutex_lock(&lock);
    if (!loaded)
        err = gpu_lib_load(&gpu_lib_nccl, &nccl, sizeof(nccl), msg);
    loaded = err == ERR_OK;
    pthread_mutex_unlock(&lock);
    return err;
}

enum err gpu_comm_group_create(uint32_t n_ranks, uint32_t deadline_ms, struct err_msg *msg,
                               struct gpu_comm_group **out)
{
    struct gpu_comm_group *group;
    ncclResult_t result = ncclSuccess;
    enum err err = ERR_OK;

    if (n_ranks == 0 || n_ranks > GPU_COMM_MAX || deadline_ms == 0)
        return err_set(msg, ERR_INVALID, "collectives: %u ranks (1 to %d), deadline %u ms", n_ranks,
                       GPU_COMM_MAX, deadline_ms);
    group = mem_try_calloc(1, sizeof(*group));
    if (group == NULL)
        return err_set(msg, ERR_NOMEM, "collectives: out of host memory");
    group->n_ranks = n_ranks;
    group->deadline_ns = deadline_ms * CLOCK_NS_PER_MS;
    if (n_ranks > 1 && (err = load(msg)) == ERR_OK) {
        result = nccl.ncclGetUniqueId(&group->id);
        if (result != ncclSuccess)
            err = err_set(msg, ERR_DEVICE, "collectives: ncclGetUniqueId: %s (%s)",
                          nccl.ncclGetErrorString(result), nccl.ncclGetLastError(NULL));
    }
    if (err != ERR_OK) {
        mem_free(group);
        return err;
    }
    *out = group;
    return ERR_OK;
}

void gpu_comm_group_destroy(struct gpu_comm_group *group)
{
    mem_free(group);
}

void gpu_comm_abort(struct gpu_comm_group *group)
{
    if (group != NULL)
        atomic_store(&group->ended, true);
}

/* ---- one rank ---- */

static void *abort_comm(void *comm)
{
    (void)nccl.ncclCommAbort(comm);
    return NULL;
}

/* The group has ended: release this rank's device.  An abort ends the kernels at once, but the last rank's call returns
 * only when all graphs with collectives in them are destroyed, which comes later, so it has a thread of its own.
 * Without one the end of the process has to do. */
static enum err leave(struct gpu_comm *c)
{
    atomic_store(&c->group->ended, true);
    if (c->comm != NULL)
        c->aborting = pthread_create(&c->aborter, NULL, abort_comm, c->comm) == 0;
    c->comm = NULL;
    return ERR_DEVICE;
}

/* A device that hangs keeps the thread for ever: then it is left behind. */
static void await_abort(struct gpu_comm *c)
{
    struct timespec until;

    if (!c->aborting)
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(c->group->deadline_ns / CLOCK_NS_PER_S) + 1;
    if (pthread_clockjoin_np(c->aborter, NULL, CLOCK_MONOTONIC, &until) != 0)
        pthread_detach(c->aborter);
}

static enum err fail(struct gpu_comm *c, const char *call, ncclResult_t result)
{
    char text[256];

    snprintf(text, sizeof(text), "%s (%s)", nccl.ncclGetErrorString(result),
             nccl.ncclGetLastError(c->comm));
    (void)gpu_fail(call, text);
    return leave(c);
}

/* Until what was begun with this result is done on our side. */
static enum err settle(struct gpu_comm *c, const char *call, ncclResult_t result)
{
    uint64_t deadline_ns = clock_now_ns() + c->group->deadline_ns;

    while (result == ncclInProgress && c->comm != NULL) {
        ncclResult_t asked;

        if (atomic_load(&c->group->ended))
            return leave(c);
        if (clock_now_ns() >= deadline_ns) {
            (void)gpu_fail(call, "another rank stayed away until the deadline");
            return leave(c);
        }
        asked = nccl.ncclCommGetAsyncError(c->comm, &result);
        if (asked != ncclSuccess)
            result = asked;
        if (result == ncclInProgress)
            nanosleep(&(struct timespec){.tv_nsec = ASK_NS}, NULL);
    }
    return result == ncclSuccess ? ERR_OK : fail(c, call, result);
}

enum err gpu_comm_open(struct gpu_comm_group *group, uint32_t rank, struct gpu *g,
                       struct err_msg *msg, struct gpu_comm **out)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    struct gpu_comm *c;
    enum err err;
    int version = 0;

    if (rank >= group->n_ranks)
        return err_set(msg, ERR_INVALID, "collectives: rank %u of %u", rank, group->n_ranks);
    c = mem_try_calloc(1, sizeof(*c));
    if (c == NULL) {
        gpu_comm_abort(group);
        return err_set(msg, ERR_NOMEM, "collectives: out of host memory");
    }
    c->group = group;
    err = gpu_use(g);
    if (err == ERR_OK && group->n_ranks > 1) {
        config.blocking = 0;
        err = settle(c, "ncclCommInitRankConfig",
                     nccl.ncclCommInitRankConfig(&c->comm, (int)group->n_ranks, group->id,
                                                 (int)rank, &config));
        if (err == ERR_OK && rank == 0 && nccl.ncclGetVersion(&version) == ncclSuccess)
            LOG_INFO("gpu", "NCCL connected", "ranks=%u version=%d", group->n_ranks, version);
    }
    if (err != ERR_OK) {
        gpu_comm_abort(group);
        await_abort(c);
        mem_free(c);
        return err_set(msg, err, "collectives: rank %u of %u: %s", rank, group->n_ranks,
                       gpu_trouble()[0] != '\0' ? gpu_trouble() : "another rank failed");
    }
    *out = c;
    return ERR_OK;
}

void gpu_comm_close(struct gpu_comm *c)
{
    if (c == NULL)
        return;
    if (c->comm != NULL && !atomic_load(&c->group->ended) &&
        settle(c, "ncclCommFinalize", nccl.ncclCommFinalize(c->comm)) == ERR_OK) {
        (void)nccl.ncclCommDestroy(c->comm);
        c->comm = NULL;
    }
    if (c->comm != NULL)
        (void)leave(c);
    await_abort(c);
    mem_free(c);
}

/* ---- collectives ---- */

/* Whether there is something to do; *err is set if not. */
static bool may_run(struct gpu_comm *c, enum err *err)
{
    *err = atomic_load(&c->group->ended) ? leave(c) : ERR_OK;
    return *err == ERR_OK && c->comm != NULL;
}

enum err gpu_comm_all_reduce(struct gpu_comm *c, void *data, size_t n, enum gpu_dtype dtype,
                             gpu_stream stream)
{
    ncclDataType_t type = dtype == GPU_BF16 ? ncclBfloat16 : ncclFloat16;
    enum err err;

    if (!may_run(c, &err) || n == 0)
        return err;
    return settle(c, "ncclAllReduce",
                  nccl.ncclAllReduce(data, data, n, type, ncclSum, c->comm, stream));
}

enum err gpu_comm_all_gather(struct gpu_comm *c, void *out, const void *in, size_t bytes,
                             gpu_stream stream)
{
    enum err err;

    if (bytes % 4 != 0)
        return ERR_INVALID;
    if (!may_run(c, &err) || bytes == 0)
        return err != ERR_OK || in == out ? err : gpu_copy(out, in, bytes, GPU_ON_DEVICE, stream);
    return settle(c, "ncclAllGather",
                  nccl.ncclAllGather(in, out, bytes / 4, ncclFloat32, c->comm, stream));
}

enum err gpu_comm_wait(struct gpu_comm *c, gpu_event e, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now = clock_now_ns(), look = now + LOOK_NS;
        enum err err = gpu_event_wait(e, look < deadline_ns ? look : deadline_ns);
        ncclResult_t result = ncclSuccess;

        if (err == ERR_OK && !atomic_load(&c->group->ended))
            return ERR_OK;
        if (err != ERR_TIMEOUT || atomic_load(&c->group->ended))
            return leave(c);
        if (c->comm != NULL && (nccl.ncclCommGetAsyncError(c->comm, &result) != ncclSuccess ||
                                (result != ncclSuccess && result != ncclInProgress)))
            return fail(c, "a collective", result);
        if (clock_now_ns() >= deadline_ns) {
            (void)gpu_fail("a step with collectives",
                           "not done at its deadline: a rank or a device hangs");
            return leave(c);
        }
    }
}
