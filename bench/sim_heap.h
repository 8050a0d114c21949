/* bench/sim_heap.h - two small ordered containers of the simulator: a heap whose entries may go stale, and
 * the largest value of a sliding run of steps.
 *
 * Thread: the owner's.  Ownership: zeroed is empty; free with the function of its kind. */
#ifndef BENCH_SIM_HEAP_H
#define BENCH_SIM_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Smallest key first, then first in.  slot and gen are the caller's: an entry whose gen is no longer that of
 * its slot is stale, and dropped when it comes to the top. */
struct sim_key {
    uint64_t key;
    uint32_t tie, slot, gen;
};
struct sim_heap {
    struct sim_key *v;
    uint32_t n, cap, ties;
};
/* false: out of memory, unchanged. */
bool sim_heap_push(struct sim_heap *h, uint64_t key, uint32_t slot, uint32_t gen);
void sim_heap_pop(struct sim_heap *h); /* n > 0 */
/* Its first n entries are what is left, in any order: puts them in theirs. */
void sim_heap_keep(struct sim_heap *h, uint32_t n);
void sim_heap_free(struct sim_heap *h);

/* Signed keys in the order of unsigned ones. */
static inline uint64_t sim_key_of(int64_t v)
{
    return (uint64_t)v ^ (UINT64_C(1) << 63);
}
static inline int64_t sim_key_value(uint64_t key)
{
    return (int64_t)(key ^ (UINT64_C(1) << 63));
}

/* Values at steps, given in order of steps.  Kept are only those that are larger than all after them, so
 * "the largest since step s" is one binary search, and a push costs O(1) on average. */
struct sim_peak {
    struct sim_peak_at {
        uint64_t step;
        int64_t value;
    } * v;
    size_t head, n, cap; /* cap: a power of two */
};
bool sim_peak_push(struct sim_peak *p, uint64_t step, int64_t value); /* false: out of memory */
/* Largest value at steps after `step`; INT64_MIN: none. */
int64_t sim_peak_since(const struct sim_peak *p, uint64_t step);
void sim_peak_forget(struct sim_peak *p, uint64_t step); /* values up to and at this step */
void sim_peak_free(struct sim_peak *p);

#endif
