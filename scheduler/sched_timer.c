/* scheduler/sched_timer.c - a binary heap of deadlines; each timer knows its
 * place, so moving and removing one is O(log n).
 *
 * The array grows when an owner is made, never when a timer is armed: arming
 * cannot fail. */
#include "scheduler/sched_timer.h"

#include <stddef.h>

#include "base/mem.h"

void sched_timer_init(struct sched_timer *t, enum sched_timer_kind kind)
{
    *t = (struct sched_timer){.at = SCHED_NEVER, .kind = kind};
}

bool sched_timers_reserve(struct sched_timers *h)
{
    struct sched_timer_due *v;
    uint32_t cap;
    size_t bytes;

    if (h->owners < h->cap)
        return true;
    if (h->cap > UINT32_MAX / 4)
        return false;
    cap = h->cap + h->cap / 8 + 64;
    if (!mem_mul(cap, sizeof(*v), &bytes))
        return false;
    v = mem_try_realloc(h->v, bytes);
    if (v == NULL)
        return false;
    h->v = v;
    h->cap = cap;
    return true;
}

static void put(struct sched_timers *h, uint32_t pos, struct sched_timer_due d)
{
    h->v[pos] = d;
    d.timer->pos = pos;
}

static void sift_up(struct sched_timers *h, uint32_t pos)
{
    struct sched_timer_due d = h->v[pos];

    while (pos > 0 && d.at < h->v[(pos - 1) / 2].at) {
        put(h, pos, h->v[(pos - 1) / 2]);
        pos = (pos - 1) / 2;
    }
    put(h, pos, d);
}

static void sift_down(struct sched_timers *h, uint32_t pos)
{
    struct sched_timer_due d = h->v[pos];

    for (;;) {
        uint32_t child = 2 * pos + 1;

        if (child >= h->n)
            break;
        if (child + 1 < h->n && h->v[child + 1].at < h->v[child].at)
            child++;
        if (h->v[child].at >= d.at)
            break;
        put(h, pos, h->v[child]);
        pos = child;
    }
    put(h, pos, d);
}

void sched_timer_set(struct sched_timers *h, struct sched_timer *t, uint64_t at)
{
    uint32_t pos = t->pos;

    if (at == t->at)
        return;
    if (t->at == SCHED_NEVER) {
        t->at = at;
        h->v[h->n] = (struct sched_timer_due){at, t};
        sift_up(h, h->n++);
        return;
    }
    t->at = at;
    if (at == SCHED_NEVER) {
        struct sched_timer_due last = h->v[--h->n];

        if (last.timer == t)
            return;
        h->v[pos] = last;
        sift_up(h, pos);
        sift_down(h, last.timer->pos);
        return;
    }
    h->v[pos].at = at;
    sift_up(h, pos);
    sift_down(h, t->pos);
}

bool sched_timers_valid(const struct sched_timers *h)
{
    if (h->n > h->owners || h->owners > h->cap)
        return false;
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->v[i].timer->pos != i || h->v[i].at != h->v[i].timer->at || h->v[i].at == SCHED_NEVER)
            return false;
        if (i > 0 && h->v[i].at < h->v[(i - 1) / 2].at)
            return false;
    }
    return true;
}
