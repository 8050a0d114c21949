/* scheduler/sched_edf.h - private to scheduler/: the queue of one prefill worker, in order of a key (a
 * deadline), that answers in O(log n): when would this one finish, would anybody become late if it came
 * in, and who would free most time for the least value.
 *
 * A treap whose nodes carry sums over their subtree: work, the latest start at which everybody in it is in
 * time (min over its items of deadline - stretch * work up to and including it), and the largest density.
 * An item that cannot be in time any more is given deadline SCHED_NEVER so that it spoils nobody's answer.
 * Source: earliest deadline first with the eviction rule of Moore (1968) and Hodgson, weighted.
 *
 * Thread: the owner's.  Ownership: items are embedded in their requests; nothing here allocates.
 * Units: ns, on the scheduler's clock; work as double. */
#ifndef SCHEDULER_SCHED_EDF_H
#define SCHEDULER_SCHED_EDF_H

#include <stdbool.h>
#include <stdint.h>

struct sched_edf_item {
    /* The owner's; constant while linked, save through sched_edf_change. */
    uint64_t key, id;     /* order: key, then id */
    uint64_t deadline_ns; /* SCHED_NEVER: none, or late already */
    double work;          /* predicted time still to be spent on it */
    double density;       /* work per weight: what evicting it frees; 0: may not be evicted */
    /* private */
    struct sched_edf_item *left, *right, *parent;
    uint32_t heap;
    uint32_t count; /* of its subtree; 0: not linked */
    double sum, latest, dense;
};

struct sched_edf {
    struct sched_edf_item *root;
    double
        stretch; /* read-only while there are items; >= 1: how much longer than predicted work is taken to last in feasibility */
};

void sched_edf_insert(struct sched_edf *q, struct sched_edf_item *i); /* not linked */
void sched_edf_remove(struct sched_edf *q, struct sched_edf_item *i); /* no-op when not linked */
/* Take another stretch: O(n) for what is in it. */
void sched_edf_stretch(struct sched_edf *q, double stretch);
/* Change deadline, work and density of a linked item; the key stays. */
void sched_edf_change(struct sched_edf *q, struct sched_edf_item *i, uint64_t deadline_ns,
                      double work, double density);
uint32_t sched_edf_count(const struct sched_edf *q);
double sched_edf_work(const struct sched_edf *q); /* of all */
/* Work of all that go before (key, id). */
double sched_edf_before(const struct sched_edf *q, uint64_t key, uint64_t id);
/* Work starts at `start` (absolute).  Would the not yet linked `c` be in time, and everybody behind it?
 * Both answers; *finish: when c would be done, unstretched. */
struct sched_edf_answer {
    bool self, others;
    double finish;
};
struct sched_edf_answer sched_edf_try(const struct sched_edf *q, const struct sched_edf_item *c,
                                      double start);
/* The first item in order that is late when work starts at `start`; NULL: none. */
struct sched_edf_item *sched_edf_first_late(const struct sched_edf *q, double start);
/* The item with the largest density (> 0) among those up to and including `upto`; NULL: none. */
struct sched_edf_item *sched_edf_densest(const struct sched_edf *q,
                                         const struct sched_edf_item *upto);
struct sched_edf_item *sched_edf_first(const struct sched_edf *q);
struct sched_edf_item *sched_edf_next(const struct sched_edf_item *i);
bool sched_edf_valid(const struct sched_edf *q); /* order, heap and all sums: for sched_check */

#endif
