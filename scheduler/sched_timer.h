/* scheduler/sched_timer.h - private to scheduler/: a heap of embedded timers,
 * O(log n) each. Thread: the owner's.  Ownership: timers belong to their
 * objects, the array to the heap. */
#ifndef SCHEDULER_SCHED_TIMER_H
#define SCHEDULER_SCHED_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#define SCHED_NEVER UINT64_MAX

enum sched_timer_kind { SCHED_TIMER_REQUEST = 1, SCHED_TIMER_RELEASE };
struct sched_timer {
    uint64_t at;  /* SCHED_NEVER: not armed */
    uint32_t pos; /* in the heap while armed */
    enum sched_timer_kind kind;
};
struct sched_timers {
    struct sched_timer_due {
        uint64_t at; /* the timer's: comparing touches no owner, of which most are cold */
        struct sched_timer *timer;
    } * v;
    uint32_t n, cap;
    uint32_t owners; /* objects that may arm one: cap is never below */
};
void sched_timer_init(struct sched_timer *t, enum sched_timer_kind kind);
/* Room for one more owner; then owners++ is the caller's.  false: out of
 * memory, nothing changed. */
bool sched_timers_reserve(struct sched_timers *h);
void sched_timer_set(struct sched_timers *h, struct sched_timer *t, uint64_t at);
bool sched_timers_valid(const struct sched_timers *h);

#endif
