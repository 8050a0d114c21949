/* scheduler/sched_tree.c - a treap: a search tree by less(), a heap by weight;
 * expected O(log n).
 *
 * The weight comes from the owner's id, so the shape is the same in every run;
 * it bears on the cost alone, never on the order. */
#include "scheduler/sched_tree.h"

#include <stddef.h>

void sched_node_init(struct sched_node *n, uint64_t id)
{
    uint64_t x = id + 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    *n = (struct sched_node){.weight = (uint32_t)(x >> 32)};
}

/* Put `with` where n hangs on its parent. */
static void replace_child(struct sched_tree *t, struct sched_node *n, struct sched_node *with)
{
    if (n->parent == NULL)
        t->root = with;
    else if (n->parent->left == n)
        n->parent->left = with;
    else
        n->parent->right = with;
    if (with != NULL)
        with->parent = n->parent;
}

/* Lift n above its parent. */
static void rotate_up(struct sched_tree *t, struct sched_node *n)
{
    struct sched_node *p = n->parent;

    replace_child(t, p, n);
    if (p->left == n) {
        p->left = n->right;
        if (n->right != NULL)
            n->right->parent = p;
        n->right = p;
    } else {
        p->right = n->left;
        if (n->left != NULL)
            n->left->parent = p;
        n->left = p;
    }
    p->parent = n;
}

void sched_tree_insert(struct sched_tree *t, struct sched_node *n)
{
    struct sched_node **at = &t->root, *parent = NULL;

    while (*at != NULL) {
        parent = *at;
        at = t->less(n, parent) ? &parent->left : &parent->right;
    }
    n->left = n->right = NULL;
    n->parent = parent;
    n->linked = true;
    *at = n;
    t->count++;
    while (n->parent != NULL && n->weight < n->parent->weight)
        rotate_up(t, n);
}

void sched_tree_remove(struct sched_tree *t, struct sched_node *n)
{
    if (!n->linked)
        return;
    while (n->left != NULL && n->right != NULL)
        rotate_up(t, n->left->weight < n->right->weight ? n->left : n->right);
    replace_child(t, n, n->left != NULL ? n->left : n->right);
    n->left = n->right = n->parent = NULL;
    n->linked = false;
    t->count--;
}

struct sched_node *sched_tree_first(const struct sched_tree *t)
{
    struct sched_node *n = t->root;

    while (n != NULL && n->left != NULL)
        n = n->left;
    return n;
}

struct sched_node *sched_tree_next(const struct sched_node *n)
{
    struct sched_node *next = n->right;

    if (next != NULL) {
        while (next->left != NULL)
            next = next->left;
        return next;
    }
    for (next = n->parent; next != NULL && next->right == n; next = next->parent)
        n = next;
    return next;
}

struct sched_node *sched_tree_last(const struct sched_tree *t)
{
    struct sched_node *n = t->root;

    while (n != NULL && n->right != NULL)
        n = n->right;
    return n;
}

struct sched_node *sched_tree_prev(const struct sched_node *n)
{
    struct sched_node *prev = n->left;

    if (prev != NULL) {
        while (prev->right != NULL)
            prev = prev->right;
        return prev;
    }
    for (prev = n->parent; prev != NULL && prev->left == n; prev = prev->parent)
        n = prev;
    return prev;
}

bool sched_tree_valid(const struct sched_tree *t)
{
    const struct sched_node *prev = NULL;
    uint32_t count = 0;

    for (const struct sched_node *n = sched_tree_first(t); n != NULL; n = sched_tree_next(n)) {
        if (!n->linked || (prev != NULL && !t->less(prev, n)))
            return false;
        if (n->parent != NULL && n->weight < n->parent->weight)
            return false;
        prev = n;
        if (++count > t->count)
            return false;
    }
    return count == t->count;
}
