/* engine/tp/tp_comm.c - see the header for the contract.
 *
 * A collective: publish where my data is - all meet - read what the others published - all meet, so that
 * nobody changes what is still being read.  Meeting is a counter and a word that the last one moves on;
 * its lowest bit is the abort, so that a rank about to sleep on the word cannot miss it. */
#include "engine/tp/tp_comm.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/tp/tp_shard.h"

enum {
    ABORTED = 1, /* bit of `phase`; a meeting adds PHASE_STEP */
    PHASE_STEP = 2,
    SPINS_MIN = 8,
    SPINS_MAX = 2000,
    WAIT_SLICES = 8 /* a wait is this many sleeps: a stopped process loses one of them, not all */
};

/* What a rank shows the others; written before a meeting, read after it. */
struct shown {
    _Alignas(64) void *data;
    size_t n;
    _Atomic uint32_t meetings; /* how many it came to, to name those who stay away */
    uint32_t spins;            /* how long it spins the next time; its own */
};

struct tp_comm {
    _Alignas(64) _Atomic uint32_t phase;
    _Alignas(64) _Atomic uint32_t n_here;
    uint32_t n_ranks, deadline_ms;
    bool spin;
    struct shown *shown;
};

enum err tp_comm_create(const struct tp_comm_config *config, struct tp_comm **out)
{
    struct tp_comm *c;

    if (config->n_ranks < 1 || config->n_ranks > TP_MAX || config->deadline_ms == 0)
        return ERR_INVALID;
    c = mem_try_aligned(64, sizeof(*c));
    if (c == NULL)
        return ERR_NOMEM;
    *c = (struct tp_comm){
        .n_ranks = config->n_ranks, .deadline_ms = config->deadline_ms, .spin = config->spin};
    c->shown = mem_try_aligned(64, config->n_ranks * sizeof(c->shown[0]));
    if (c->shown == NULL) {
        mem_free(c);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < config->n_ranks; i++)
        c->shown[i] = (struct shown){.spins = SPINS_MAX};
    *out = c;
    return ERR_OK;
}

void tp_comm_destroy(struct tp_comm *c)
{
    if (c == NULL)
        return;
    mem_free(c->shown);
    mem_free(c);
}

static void wake_all(struct tp_comm *c)
{
    (void)syscall(SYS_futex, (uint32_t *)&c->phase, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* false: the slice of time passed. */
static bool sleep_on(struct tp_comm *c, uint32_t phase)
{
    uint64_t ms = ((uint64_t)c->deadline_ms + WAIT_SLICES - 1) / WAIT_SLICES;
    struct timespec slice = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    return syscall(SYS_futex, (uint32_t *)&c->phase, FUTEX_WAIT_PRIVATE, phase, &slice, NULL, 0) ==
               0 ||
           errno != ETIMEDOUT;
}

void tp_comm_abort(struct tp_comm *c)
{
    atomic_fetch_or_explicit(&c->phase, ABORTED, memory_order_seq_cst);
    wake_all(c);
}

static void report_missing(struct tp_comm *c, uint32_t rank)
{
    uint32_t mine = atomic_load_explicit(&c->shown[rank].meetings, memory_order_relaxed);
    char missing[TP_MAX * 4] = "";
    size_t len = 0;

    for (uint32_t i = 0; i < c->n_ranks; i++) {
        if (atomic_load_explicit(&c->shown[i].meetings, memory_order_relaxed) != mine)
            len += (size_t)snprintf(missing + len, sizeof(missing) - len, "%s%u",
                                    len > 0 ? "," : "", i);
    }
    LOG_ERROR("engine", "a rank stays away from a collective",
              "rank=%u waited_ms=%u missing_ranks=%s", rank, c->deadline_ms, missing);
}

/* Spinning pays where the others are about to come.  Where they are not, because other work has their cores,
 * it only keeps them away longer: so a rank spins for half as long after each time that it was in vain, and
 * for twice as long after each that was not. */
static uint32_t spin_for_others(struct tp_comm *c, uint32_t rank, uint32_t phase)
{
    struct shown *mine = &c->shown[rank];
    uint32_t now = phase;

    if (!c->spin)
        return now;
    for (uint32_t i = 0; i < mine->spins && now == phase; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        now = atomic_load_explicit(&c->phase, memory_order_acquire);
    }
    mine->spins = now != phase ? mine->spins * 2 : mine->spins / 2;
    mine->spins = mine->spins < SPINS_MIN ? SPINS_MIN : mine->spins;
    mine->spins = mine->spins > SPINS_MAX ? SPINS_MAX : mine->spins;
    return now;
}

static enum err wait_for_others(struct tp_comm *c, uint32_t rank, uint32_t phase)
{
    uint32_t now = spin_for_others(c, rank, phase), slices = 0;

    while (now == phase) {
        if (!sleep_on(c, phase))
            slices++;
        now = atomic_load_explicit(&c->phase, memory_order_acquire);
        if (now == phase && slices == WAIT_SLICES) {
            report_missing(c, rank);
            tp_comm_abort(c);
            return ERR_DEVICE;
        }
    }
    return (now & ABORTED) != 0 ? ERR_DEVICE : ERR_OK;
}

enum err tp_barrier(struct tp_comm *c, uint32_t rank)
{
    uint32_t phase = atomic_load_explicit(&c->phase, memory_order_acquire);

    if ((phase & ABORTED) != 0)
        return ERR_DEVICE;
    atomic_fetch_add_explicit(&c->shown[rank].meetings, 1, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&c->n_here, 1, memory_order_acq_rel) + 1 < c->n_ranks)
        return wait_for_others(c, rank, phase);
    atomic_store_explicit(&c->n_here, 0, memory_order_relaxed);
    phase = atomic_fetch_add_explicit(&c->phase, PHASE_STEP, memory_order_acq_rel);
    if (c->n_ranks > 1)
        wake_all(c);
    return (phase & ABORTED) != 0 ? ERR_DEVICE : ERR_OK;
}

/* After a meeting.  false: the ranks do not agree on the size, and nobody may touch the data. */
static bool same_size(struct tp_comm *c, size_t n)
{
    for (uint32_t r = 0; r < c->n_ranks; r++) {
        if (c->shown[r].n != n) {
            LOG_ERROR("engine", "ranks differ in a collective", "rank=%u size=%zu other=%zu", r,
                      c->shown[r].n, n);
            tp_comm_abort(c);
            return false;
        }
    }
    return true;
}

static enum err show(struct tp_comm *c, uint32_t rank, void *data, size_t n)
{
    c->shown[rank].data = data;
    c->shown[rank].n = n;
    return tp_barrier(c, rank);
}

/* Each rank sums one stripe and writes it to all; a stripe is touched by one rank only. */
enum err tp_all_reduce(struct tp_comm *c, uint32_t rank, float *data, size_t n)
{
    enum { LINE = 16 /* floats: two ranks do not share a cache line */, CHUNK = 1024 };
    size_t each = ((n + c->n_ranks - 1) / c->n_ranks + LINE - 1) / LINE * LINE;
    size_t at = each * rank < n ? each * rank : n, end = n - at < each ? n : at + each;
    enum err err = show(c, rank, data, n);

    if (err != ERR_OK)
        return err;
    if (!same_size(c, n))
        return ERR_DEVICE;
    for (size_t len; at < end; at += len) {
        float sum[CHUNK];

        len = end - at < CHUNK ? end - at : CHUNK;
        memcpy(sum, (const float *)c->shown[0].data + at, len * sizeof(float));
        for (uint32_t r = 1; r < c->n_ranks; r++) {
            const float *from = (const float *)c->shown[r].data + at;

            for (size_t i = 0; i < len; i++)
                sum[i] += from[i];
        }
        for (uint32_t r = 0; r < c->n_ranks; r++)
            memcpy((float *)c->shown[r].data + at, sum, len * sizeof(float));
    }
    return tp_barrier(c, rank);
}

enum err tp_all_gather(struct tp_comm *c, uint32_t rank, struct tp_piece mine, size_t first_row,
                       size_t n_rows, float *out)
{
    size_t at = 0, width = 0;
    enum err err = show(c, rank, (void *)(uintptr_t)mine.data, mine.n_columns);

    if (err != ERR_OK)
        return err;
    for (uint32_t r = 0; r < c->n_ranks; r++)
        width += c->shown[r].n;
    for (uint32_t r = 0; r < c->n_ranks; at += c->shown[r].n, r++) {
        size_t n = c->shown[r].n;
        const float *from = (const float *)c->shown[r].data + first_row * n;

        for (size_t i = 0; i < n_rows; i++)
            memcpy(out + i * width + at, from + i * n, n * sizeof(float));
    }
    return tp_barrier(c, rank);
}

enum err tp_broadcast(struct tp_comm *c, uint32_t rank, uint32_t root, void *data, size_t bytes)
{
    enum err err = show(c, rank, data, bytes);

    if (err != ERR_OK)
        return err;
    if (!same_size(c, bytes))
        return ERR_DEVICE;
    if (rank != root)
        memcpy(data, c->shown[root].data, bytes);
    return tp_barrier(c, rank);
}
