/* A libnccl.so.2 for the emulation, with non-blocking communicators only: everything is in progress for a while, sums wait
 * on the device's thread for those of the other ranks until their own communicator is aborted, and calls that NCCL
 * does not allow end the program: two threads in a communicator, use after abort, a rank twice.  An abort releases the
 * device at once and returns when the graphs with collectives in them are gone, as the real one does. */
#include "tests/gpu/gpu_test.h"

#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* A sum of so many elements fails some time later, as when a peer's process dies. */
enum { FAILS_LATER = 777, RANKS = 8, TURNS = 64, POLLS = 3 };

struct turn { /* one collective of a group */
    const void *in[RANKS];
    int arrived, left;
};

struct group {
    uint64_t id;
    int n, joined;
    bool is_rank[RANKS];
    struct turn turns[TURNS];
    struct group *next;
};

struct ncclComm {
    struct group *group;
    int rank;
    atomic_int polls; /* answers of "in progress" left */
    atomic_bool aborted, broken, inside, finalized;
    uint64_t turn; /* of the device's thread */
};

extern atomic_int fake_nccl_graphs; /* of the test */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct group *groups;
static uint64_t ids;

static void misuse(const char *what)
{
    fprintf(stderr, "fake NCCL: %s\n", what);
    abort();
}

static void enter(ncclComm_t c)
{
    if (c == NULL || atomic_load(&c->aborted))
        misuse("a call with a communicator that is gone");
    if (atomic_exchange(&c->inside, true))
        misuse("two threads in one communicator");
}

static ncclResult_t leave(ncclComm_t c, ncclResult_t r)
{
    atomic_store(&c->inside, false);
    return r;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r)
{
    return r == ncclRemoteError ? "remote process exited (fake)" : "an error (fake)";
}

const char *ncclGetLastError(ncclComm_t c)
{
    (void)c;
    return "details (fake)";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    struct group *g = mem_try_calloc(1, sizeof(*g));

    pthread_mutex_lock(&lock);
    g->id = ++ids;
    g->next = groups;
    groups = g;
    pthread_mutex_unlock(&lock);
    memset(id, 0, sizeof(*id));
    memcpy(id->internal, &g->id, sizeof(g->id));
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    struct ncclComm *c = mem_try_calloc(1, sizeof(*c));
    struct group *g;

    if (config->blocking != 0 || config->version != NCCL_VERSION_CODE || n < 2 || n > RANKS ||
        rank < 0 || rank >= n)
        misuse("a communicator that would block, or a wrong rank");
    pthread_mutex_lock(&lock);
    for (g = groups; memcmp(id.internal, &g->id, sizeof(g->id)) != 0;)
        g = g->next;
    if (g->is_rank[rank] || (g->joined > 0 && g->n != n))
        misuse("a rank twice, or another number of them");
    g->is_rank[rank] = true;
    g->n = n;
    g->joined++;
    pthread_mutex_unlock(&lock);
    c->group = g;
    c->rank = rank;
    atomic_store(&c->polls, POLLS);
    *out = c;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *r)
{
    bool all;

    enter(c);
    pthread_mutex_lock(&lock);
    all = c->group->joined == c->group->n;
    pthread_mutex_unlock(&lock);
    if (atomic_load(&c->broken))
        *r = ncclRemoteError;
    else if (!all || atomic_load(&c->polls) > 0)
        *r = ncclInProgress;
    else
        *r = ncclSuccess;
    if (all && atomic_load(&c->polls) > 0)
        atomic_fetch_sub(&c->polls, 1);
    return leave(c, ncclSuccess);
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    enter(c);
    pthread_mutex_lock(&lock);
    atomic_store(&c->aborted, true); /* never freed: its work may still stand in a stream */
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    (void)leave(c, ncclSuccess);
    while (atomic_load(&fake_nccl_graphs) > 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    enter(c);
    if (atomic_load(&fake_nccl_graphs) > 0)
        misuse("an end before that of the graphs with collectives in them");
    atomic_store(&c->finalized, true);
    atomic_store(&c->polls, POLLS);
    return leave(c, ncclInProgress);
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    enter(c);
    if (!atomic_load(&c->finalized) || atomic_load(&c->polls) > 0)
        misuse("destroyed before its end was waited for");
    atomic_store(&c->aborted, true);
    return leave(c, ncclSuccess);
}

/* ---- collectives ---- */

struct job { /* a graph may run it again */
    struct ncclComm *c;
    const void *in;
    void *out;
    size_t n;
    enum gpu_dtype dtype; /* 0: rows of floats */
};

/* Until *count is a multiple of the ranks again; false if the communicator was aborted. */
static bool meet(struct ncclComm *c, int *count)
{
    int until = (*count / c->group->n + 1) * c->group->n;

    (*count)++;
    pthread_cond_broadcast(&changed);
    while (*count < until && !atomic_load(&c->aborted)) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_sec++;
        pthread_cond_timedwait(&changed, &lock, &t);
    }
    return *count >= until;
}

static void add_up(const struct job *j, const struct turn *t, uint16_t *out)
{
    for (size_t i = 0; i < j->n; i++) {
        float sum = 0;

        for (int r = 0; r < j->c->group->n; r++)
            sum += test_from16(j->dtype, ((const uint16_t *)t->in[r])[i]);
        out[i] = test_to16(j->dtype, (double)sum);
    }
}

static void run(void *arg)
{
    const struct job *j = arg;
    struct ncclComm *c = j->c;
    size_t bytes = j->dtype == 0 ? j->n * 4 : j->n * 2;
    void *in = mem_try_alloc(bytes), *out = mem_try_alloc(bytes * (size_t)c->group->n);
    struct turn *t;

    memcpy(in, j->in, bytes);
    pthread_mutex_lock(&lock);
    t = &c->group->turns[c->turn++ % TURNS];
    t->in[c->rank] = in;
    if (meet(c, &t->arrived)) {
        if (j->dtype != 0)
            add_up(j, t, out);
        for (int r = 0; r < c->group->n && j->dtype == 0; r++)
            memcpy((char *)out + (size_t)r * bytes, t->in[r], bytes);
        memcpy(j->out, out, j->dtype == 0 ? bytes * (size_t)c->group->n : bytes);
        (void)meet(c, &t->left);
    }
    pthread_mutex_unlock(&lock);
    mem_free(out); /* `in` may still be read by a rank that was not aborted */
}

static ncclResult_t enqueue(struct job j, cudaStream_t stream)
{
    struct job *copy = mem_try_alloc(sizeof(*copy));

    enter(j.c);
    if (atomic_load(&j.c->polls) > 0)
        misuse("a collective before the last call was done");
    *copy = j;
    atomic_store(&j.c->polls, POLLS);
    if (j.dtype != 0 && j.n == FAILS_LATER)
        atomic_store(&j.c->broken, true), atomic_store(&j.c->polls, 0);
    else if (gpu_stream_call(stream, run, copy) != ERR_OK)
        return leave(j.c, ncclUnhandledCudaError);
    return leave(j.c, j.n == FAILS_LATER && j.dtype != 0 ? ncclSuccess : ncclInProgress);
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t stream)
{
    if (op != ncclSum || (type != ncclBfloat16 && type != ncclFloat16))
        misuse("a sum of another type");
    return enqueue((struct job){c, in, out, n, type == ncclBfloat16 ? GPU_BF16 : GPU_F16}, stream);
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t n, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream)
{
    if (type != ncclFloat32)
        misuse("rows of another type");
    return enqueue((struct job){c, in, out, n, 0}, stream);
}
