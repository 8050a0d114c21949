/* scheduler/sched_tree.h - private to scheduler/: an ordered set of embedded
 * nodes, O(log n) each. Thread: the owner's.  Ownership: nodes belong to their
 * objects; nothing here allocates. */
#ifndef SCHEDULER_SCHED_TREE_H
#define SCHEDULER_SCHED_TREE_H

#include <stdbool.h>
#include <stdint.h>

struct sched_node {
    struct sched_node *left, *right, *parent;
    uint32_t weight; /* heap order: a mix of the owner's id, never part of a
                      decision */
    bool linked;
};
typedef bool (*sched_less_fn)(const struct sched_node *a, const struct sched_node *b);
struct sched_tree {
    struct sched_node *root;
    sched_less_fn less; /* strict and total */
    uint32_t count;
};
void sched_node_init(struct sched_node *n, uint64_t id);
void sched_tree_insert(struct sched_tree *t, struct sched_node *n);
void sched_tree_remove(struct sched_tree *t, struct sched_node *n); /* no-op when not linked */
struct sched_node *sched_tree_first(const struct sched_tree *t);
struct sched_node *sched_tree_next(const struct sched_node *n);
struct sched_node *sched_tree_last(const struct sched_tree *t);
struct sched_node *sched_tree_prev(const struct sched_node *n);
bool sched_tree_valid(const struct sched_tree *t);

#endif
