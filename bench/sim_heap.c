/* bench/sim_heap.c - see the header. */
#include "bench/sim_heap.h"

#include "base/mem.h"

static bool before(const struct sim_key *a, const struct sim_key *b)
{
    return a->key < b->key || (a->key == b->key && a->tie < b->tie);
}

bool sim_heap_push(struct sim_heap *h, uint64_t key, uint32_t slot, uint32_t gen)
{
    struct sim_key x = {key, h->ties++, slot, gen};
    uint32_t at = h->n;

    if (h->n == h->cap) {
        uint32_t cap = h->cap == 0 ? 64 : 2 * h->cap;
        struct sim_key *v = mem_try_realloc(h->v, cap * sizeof(*v));

        if (v == NULL)
            return false;
        h->v = v;
        h->cap = cap;
    }
    h->n++;
    while (at > 0 && before(&x, &h->v[(at - 1) / 4])) {
        h->v[at] = h->v[(at - 1) / 4];
        at = (at - 1) / 4;
    }
    h->v[at] = x;
    return true;
}

/* From `at` down, to the place of x. */
static void sift_down(struct sim_heap *h, uint32_t at, struct sim_key x)
{
    for (;;) {
        uint32_t first = 4 * at + 1, best = first, end = first + 4 < h->n ? first + 4 : h->n;

        if (first >= h->n)
            break;
        for (uint32_t c = first + 1; c < end; c++) {
            if (before(&h->v[c], &h->v[best]))
                best = c;
        }
        if (!before(&h->v[best], &x))
            break;
        h->v[at] = h->v[best];
        at = best;
    }
    h->v[at] = x;
}

void sim_heap_pop(struct sim_heap *h)
{
    h->n--;
    sift_down(h, 0, h->v[h->n]);
}

void sim_heap_keep(struct sim_heap *h, uint32_t n)
{
    h->n = n;
    for (uint32_t i = (n + 2) / 4; i-- > 0;)
        sift_down(h, i, h->v[i]);
}

void sim_heap_free(struct sim_heap *h)
{
    mem_free(h->v);
    *h = (struct sim_heap){.n = 0};
}

static struct sim_peak_at *peak_at(const struct sim_peak *p, size_t i)
{
    return &p->v[(p->head + i) & (p->cap - 1)];
}

bool sim_peak_push(struct sim_peak *p, uint64_t step, int64_t value)
{
    while (p->n > 0 && peak_at(p, p->n - 1)->value <= value)
        p->n--;
    if (p->n == p->cap) {
        size_t cap = p->cap == 0 ? 256 : 2 * p->cap;
        struct sim_peak_at *v = mem_try_alloc(cap * sizeof(*v));

        if (v == NULL)
            return false;
        for (size_t i = 0; i < p->n; i++)
            v[i] = *peak_at(p, i);
        mem_free(p->v);
        p->v = v;
        p->head = 0;
        p->cap = cap;
    }
    p->n++;
    *peak_at(p, p->n - 1) = (struct sim_peak_at){step, value};
    return true;
}

/* While steps are faster than the target every value is kept, and what is asked for lies where its step says; from
 * there back in doubling strides, since a ring of thousands is cold. */
int64_t sim_peak_since(const struct sim_peak *p, uint64_t step)
{
    size_t low, high;

    if (p->n == 0 || peak_at(p, p->n - 1)->step <= step)
        return INT64_MIN;
    if (peak_at(p, 0)->step > step)
        return peak_at(p, 0)->value;
    high = step - peak_at(p, 0)->step + 1; /* no later: a step has one value at most */
    high = high < p->n ? high : p->n - 1;
    low = high - 1;
    for (size_t stride = 1; peak_at(p, low)->step > step; stride *= 2) {
        high = low;
        low = low > stride ? low - stride : 0;
    }
    while (high - low > 1) {
        size_t mid = (low + high) / 2;

        if (peak_at(p, mid)->step > step)
            high = mid;
        else
            low = mid;
    }
    return peak_at(p, high)->value;
}

void sim_peak_forget(struct sim_peak *p, uint64_t step)
{
    while (p->n > 0 && peak_at(p, 0)->step <= step) {
        p->head = (p->head + 1) & (p->cap - 1);
        p->n--;
    }
}

void sim_peak_free(struct sim_peak *p)
{
    mem_free(p->v);
    *p = (struct sim_peak){.n = 0};
}
