/* engine/cpu/cpu_pool.c - see the header for the contract.
 *
 * One 64-bit word holds the loop's generation (high half) and the next task (low half).  A thread
 * takes a task by compare-and-swap on the whole word, so it can never take one from a loop other than
 * the one whose description it has read: between reading the description and the swap the generation
 * would have changed.  The description may be read while the next loop is being written, hence its
 * fields are atomics; what was read is used only if the swap succeeds.  They are stored with release
 * and loaded with acquire, so whoever has seen a field of the next loop also sees the word closed.
 *
 *   publish:  state = (g, CLOSED)  ->  fn, arg, n  ->  state = (g, 0)  ->  wake
 */
#include "engine/cpu/cpu_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

enum { SPIN_IDLE = 2000, SPIN_WAIT = 4000, CLOSED = 0x7fffffff };

struct worker {
    struct cpu_pool *pool;
    pthread_t id;
    uint32_t number;
};

struct cpu_pool {
    _Alignas(64) _Atomic uint64_t state;
    _Atomic(cpu_task_fn) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t n_tasks;
    _Alignas(64) _Atomic uint32_t n_done;
    _Atomic bool waiting;                 /* the caller sleeps on n_done */
    _Alignas(64) _Atomic uint32_t posted; /* sleeping workers wait for it to change */
    _Atomic uint32_t n_asleep;
    _Atomic bool stop;
    uint32_t generation;
    uint32_t n_threads;
    uint32_t n_started;
    bool spin; /* a core for every thread: waiting on one takes it from nobody */
    struct worker *workers;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    (void)syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    (void)syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Take and run one task.  false: the current loop has none left. */
static bool take_task(struct cpu_pool *p, uint32_t thread)
{
    uint64_t s = atomic_load_explicit(&p->state, memory_order_acquire);
    cpu_task_fn fn;
    void *arg;
    uint32_t n, task;

    do {
        fn = atomic_load_explicit(&p->fn, memory_order_acquire);
        arg = atomic_load_explicit(&p->arg, memory_order_acquire);
        n = atomic_load_explicit(&p->n_tasks, memory_order_acquire);
        task = (uint32_t)s;
        if (task >= n)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&p->state, &s, s + 1, memory_order_acq_rel,
                                                    memory_order_acquire));
    fn(arg, task, thread);
    if (atomic_fetch_add_explicit(&p->n_done, 1, memory_order_seq_cst) + 1 == n &&
        atomic_load_explicit(&p->waiting, memory_order_seq_cst))
        futex_wake(&p->n_done, 1);
    return true;
}

static bool has_task(struct cpu_pool *p)
{
    uint32_t task = (uint32_t)atomic_load_explicit(&p->state, memory_order_acquire);

    return task < atomic_load_explicit(&p->n_tasks, memory_order_acquire);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct cpu_pool *p = w->pool;

    for (;;) {
        /* Before the look at `stop`: whoever sets it changes `posted` afterwards, so a thread that
         * missed it cannot go to sleep on the new value. */
        uint32_t posted = atomic_load_explicit(&p->posted, memory_order_seq_cst);
        bool found = false;

        if (atomic_load_explicit(&p->stop, memory_order_seq_cst))
            return NULL;
        for (int i = 0; i < (p->spin ? SPIN_IDLE : 1) && !found; i++) {
            found = has_task(p);
            if (!found)
                pause_cpu();
        }
        if (found) {
            while (take_task(p, w->number))
                ;
            continue;
        }
        atomic_fetch_add_explicit(&p->n_asleep, 1, memory_order_seq_cst);
        if (atomic_load_explicit(&p->posted, memory_order_seq_cst) == posted)
            futex_wait(&p->posted, posted);
        atomic_fetch_sub_explicit(&p->n_asleep, 1, memory_order_seq_cst);
    }
}

/* Signals are for the main thread. */
static bool start_worker(struct cpu_pool *p, uint32_t number)
{
    struct worker *w = &p->workers[p->n_started];
    sigset_t all, old;
    int rc;

    w->pool = p;
    w->number = number;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&w->id, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return false;
    p->n_started++;
    return true;
}

enum err cpu_pool_create(uint32_t n_threads, struct cpu_pool **out)
{
    struct cpu_pool *p = mem_try_aligned(64, sizeof(*p));

    if (p == NULL)
        return ERR_NOMEM;
    if (n_threads < 1)
        n_threads = 1;
    if (n_threads > CPU_POOL_THREADS_MAX)
        n_threads = CPU_POOL_THREADS_MAX;
    *p = (struct cpu_pool){.n_threads = n_threads, .spin = n_threads <= cpu_pool_cores()};
    p->workers = mem_try_calloc(n_threads, sizeof(p->workers[0]));
    if (p->workers == NULL) {
        mem_free(p);
        return ERR_NOMEM;
    }
    for (uint32_t i = 1; i < n_threads; i++) {
        if (!start_worker(p, i)) {
            cpu_pool_destroy(p);
            return ERR_NOMEM;
        }
    }
    *out = p;
    return ERR_OK;
}

uint32_t cpu_pool_threads(const struct cpu_pool *p)
{
    return p->n_threads;
}

static void post(struct cpu_pool *p, int wake)
{
    atomic_fetch_add_explicit(&p->posted, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&p->n_asleep, memory_order_seq_cst) > 0)
        futex_wake(&p->posted, wake);
}

static void wait_done(struct cpu_pool *p, uint32_t n_tasks)
{
    uint32_t done;

    for (int i = 0; p->spin && i < SPIN_WAIT; i++) {
        if (atomic_load_explicit(&p->n_done, memory_order_acquire) == n_tasks)
            return;
        pause_cpu();
    }
    atomic_store_explicit(&p->waiting, true, memory_order_seq_cst);
    while ((done = atomic_load_explicit(&p->n_done, memory_order_seq_cst)) != n_tasks)
        futex_wait(&p->n_done, done);
    atomic_store_explicit(&p->waiting, false, memory_order_seq_cst);
}

void cpu_pool_run(struct cpu_pool *p, cpu_task_fn fn, void *arg, uint32_t n_tasks)
{
    uint64_t high;

    if (p->n_threads == 1 || n_tasks <= 1) {
        for (uint32_t i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }
    high = (uint64_t)++p->generation << 32;
    atomic_store_explicit(&p->state, high | CLOSED, memory_order_seq_cst);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->arg, arg, memory_order_release);
    atomic_store_explicit(&p->n_tasks, n_tasks, memory_order_release);
    atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->state, high, memory_order_seq_cst);
    post(p, n_tasks > p->n_threads ? (int)p->n_threads : (int)n_tasks);
    while (take_task(p, 0))
        ;
    wait_done(p, n_tasks);
}

void cpu_pool_destroy(struct cpu_pool *p)
{
    if (p == NULL)
        return;
    atomic_store_explicit(&p->stop, true, memory_order_seq_cst);
    atomic_fetch_add_explicit(&p->posted, 1, memory_order_seq_cst);
    futex_wake(&p->posted, (int)p->n_threads);
    for (uint32_t i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].id, NULL);
    mem_free(p->workers);
    mem_free(p);
}

uint32_t cpu_pool_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    return 1;
}
