/* scheduler/sched_edf.c - the queue of one prefill worker: a treap whose nodes know, for their subtree, how
 * much work it is, the latest start at which all of it is in time, and its largest density.
 *
 * With W(i) the work of the subtree's items up to and including i, an item is in time when its work starts
 * at `start` and start + stretch * W(i) <= deadline(i).  So a subtree is in time iff
 *     start <= latest = min over its items of deadline(i) - stretch * W(i),
 * which follows from the two halves and the node between them: one question walks one path down.
 *
 * The heap weight comes from the item's id, so the shape is the same in every run. */
#include "scheduler/sched_edf.h"

#include <math.h>
#include <stddef.h>

#include "scheduler/sched_timer.h"

static bool edf_key_less(uint64_t key, uint64_t id, uint64_t key2, uint64_t id2)
{
    return key != key2 ? key < key2 : id < id2;
}

static bool edf_less(const struct sched_edf_item *a, const struct sched_edf_item *b)
{
    return edf_key_less(a->key, a->id, b->key, b->id);
}

static double edf_deadline(const struct sched_edf_item *i)
{
    return i->deadline_ns == SCHED_NEVER ? INFINITY : (double)i->deadline_ns;
}

static double edf_sum(const struct sched_edf_item *i)
{
    return i == NULL ? 0 : i->sum;
}

static double edf_latest(const struct sched_edf_item *i)
{
    return i == NULL ? INFINITY : i->latest;
}

static double edf_dense(const struct sched_edf_item *i)
{
    return i == NULL ? 0 : i->dense;
}

uint32_t sched_edf_count(const struct sched_edf *q)
{
    return q->root == NULL ? 0 : q->root->count;
}

double sched_edf_work(const struct sched_edf *q)
{
    return edf_sum(q->root);
}

static double edf_min(double a, double b)
{
    return a < b ? a : b;
}

static double edf_max(double a, double b)
{
    return a > b ? a : b;
}

/* The sums of a node from those of its children. */
static void edf_gather(const struct sched_edf *q, struct sched_edf_item *n)
{
    double through = edf_sum(n->left) + n->work; /* work up to and including n */
    double own = edf_deadline(n) - q->stretch * through;
    double right = edf_latest(n->right) - q->stretch * through;

    n->count =
        1 + (n->left == NULL ? 0 : n->left->count) + (n->right == NULL ? 0 : n->right->count);
    n->sum = through + edf_sum(n->right);
    n->latest = edf_min(edf_latest(n->left), edf_min(own, right));
    n->dense = edf_max(n->density, edf_max(edf_dense(n->left), edf_dense(n->right)));
}

static void edf_gather_up(const struct sched_edf *q, struct sched_edf_item *n)
{
    for (; n != NULL; n = n->parent)
        edf_gather(q, n);
}

/* Put `with` where n hangs on its parent. */
static void edf_replace_child(struct sched_edf *q, struct sched_edf_item *n,
                              struct sched_edf_item *with)
{
    if (n->parent == NULL)
        q->root = with;
    else if (n->parent->left == n)
        n->parent->left = with;
    else
        n->parent->right = with;
    if (with != NULL)
        with->parent = n->parent;
}

/* Lift n above its parent; the sums of both are made anew, those further up are unchanged. */
static void edf_rotate_up(struct sched_edf *q, struct sched_edf_item *n)
{
    struct sched_edf_item *p = n->parent;

    edf_replace_child(q, p, n);
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
    edf_gather(q, p);
    edf_gather(q, n);
}

static uint32_t edf_heap_weight(uint64_t id)
{
    uint64_t x = id + 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(x >> 32);
}

void sched_edf_insert(struct sched_edf *q, struct sched_edf_item *i)
{
    struct sched_edf_item **at = &q->root, *parent = NULL;

    while (*at != NULL) {
        parent = *at;
        at = edf_less(i, parent) ? &parent->left : &parent->right;
    }
    i->left = i->right = NULL;
    i->parent = parent;
    i->heap = edf_heap_weight(i->id);
    *at = i;
    edf_gather(q, i);
    while (i->parent != NULL && i->heap < i->parent->heap)
        edf_rotate_up(q, i);
    edf_gather_up(q, i->parent); /* after the rotations: sums of another shape round otherwise */
}

void sched_edf_remove(struct sched_edf *q, struct sched_edf_item *i)
{
    struct sched_edf_item *parent;

    if (i->count == 0)
        return;
    while (i->left != NULL || i->right != NULL) {
        struct sched_edf_item *up = i->left;

        if (up == NULL || (i->right != NULL && i->right->heap < up->heap))
            up = i->right;
        edf_rotate_up(q, up);
    }
    parent = i->parent;
    edf_replace_child(q, i, NULL);
    edf_gather_up(q, parent);
    i->parent = NULL;
    i->count = 0;
}

/* Children before parents; as deep as the treap. */
static void edf_gather_all(const struct sched_edf *q, struct sched_edf_item *n)
{
    if (n == NULL)
        return;
    edf_gather_all(q, n->left);
    edf_gather_all(q, n->right);
    edf_gather(q, n);
}

void sched_edf_stretch(struct sched_edf *q, double stretch)
{
    q->stretch = stretch;
    edf_gather_all(q, q->root);
}

void sched_edf_change(struct sched_edf *q, struct sched_edf_item *i, uint64_t deadline_ns,
                      double work, double density)
{
    i->deadline_ns = deadline_ns;
    i->work = work;
    i->density = density;
    edf_gather_up(q, i);
}

double sched_edf_before(const struct sched_edf *q, uint64_t key, uint64_t id)
{
    const struct sched_edf_item *n = q->root;
    double ahead = 0;

    while (n != NULL) {
        if (edf_key_less(n->key, n->id, key, id)) {
            ahead += edf_sum(n->left) + n->work;
            n = n->right;
        } else {
            n = n->left;
        }
    }
    return ahead;
}

struct sched_edf_answer sched_edf_try(const struct sched_edf *q, const struct sched_edf_item *c,
                                      double start)
{
    const struct sched_edf_item *n = q->root;
    double ahead = 0, behind = INFINITY; /* behind: latest start of those after c, without c */
    struct sched_edf_answer a;

    while (n != NULL) {
        double through = ahead + edf_sum(n->left) + n->work;

        if (edf_less(n, c)) {
            ahead = through;
            n = n->right;
        } else {
            behind = edf_min(behind, edf_deadline(n) - q->stretch * through);
            behind = edf_min(behind, edf_latest(n->right) - q->stretch * through);
            n = n->left;
        }
    }
    a.finish = start + ahead + c->work;
    a.self = start + q->stretch * (ahead + c->work) <= edf_deadline(c);
    a.others = start + q->stretch * c->work <= behind;
    return a;
}

struct sched_edf_item *sched_edf_first_late(const struct sched_edf *q, double start)
{
    struct sched_edf_item *n = q->root;
    double from = start; /* when the work of this subtree starts, stretched */

    while (n != NULL && n->latest < from) {
        double through = edf_sum(n->left) + n->work;

        if (edf_latest(n->left) < from) {
            n = n->left;
            continue;
        }
        if (edf_deadline(n) - q->stretch * through < from)
            return n;
        from += q->stretch * through;
        n = n->right;
    }
    return NULL;
}

/* Some item of the subtree has this density: it was computed as the maximum of them. */
static struct sched_edf_item *edf_find_dense(struct sched_edf_item *n, double dense)
{
    while (n->density < dense)
        n = edf_dense(n->left) >= dense ? n->left : n->right;
    return n;
}

struct sched_edf_item *sched_edf_densest(const struct sched_edf *q,
                                         const struct sched_edf_item *upto)
{
    struct sched_edf_item *n = q->root, *best = NULL;
    bool subtree = false; /* best stands for all below it, not for itself */
    double dense = 0;

    while (n != NULL) {
        if (upto != NULL && edf_less(upto, n)) {
            n = n->left;
            continue;
        }
        if (edf_dense(n->left) > dense) {
            dense = n->left->dense;
            best = n->left;
            subtree = true;
        }
        if (n->density > dense) {
            dense = n->density;
            best = n;
            subtree = false;
        }
        n = n->right;
    }
    return best != NULL && subtree ? edf_find_dense(best, dense) : best;
}

struct sched_edf_item *sched_edf_first(const struct sched_edf *q)
{
    struct sched_edf_item *n = q->root;

    while (n != NULL && n->left != NULL)
        n = n->left;
    return n;
}

struct sched_edf_item *sched_edf_next(const struct sched_edf_item *i)
{
    struct sched_edf_item *n = i->right;

    if (n != NULL) {
        while (n->left != NULL)
            n = n->left;
        return n;
    }
    n = i->parent;
    while (n != NULL && n->right == i) {
        i = n;
        n = n->parent;
    }
    return n;
}

/* The sums are made by the same operations in the same order, so they must be equal to the bit. */
static bool edf_node_valid(const struct sched_edf *q, const struct sched_edf_item *n)
{
    struct sched_edf_item again = *n;

    edf_gather(q, &again);
    if (again.count != n->count || again.sum < n->sum || again.sum > n->sum)
        return false;
    if (again.latest < n->latest || again.latest > n->latest || again.dense < n->dense ||
        again.dense > n->dense)
        return false;
    if (n->left != NULL && (n->left->parent != n || n->left->heap < n->heap))
        return false;
    return n->right == NULL || (n->right->parent == n && n->right->heap >= n->heap);
}

bool sched_edf_valid(const struct sched_edf *q)
{
    const struct sched_edf_item *i, *last = NULL;
    uint32_t n = 0;

    if (q->root != NULL && q->root->parent != NULL)
        return false;
    for (i = sched_edf_first(q); i != NULL; i = sched_edf_next(i)) {
        if ((last != NULL && !edf_less(last, i)) || !edf_node_valid(q, i))
            return false;
        last = i;
        n++;
    }
    return n == sched_edf_count(q);
}
