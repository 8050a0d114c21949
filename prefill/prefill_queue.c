/* prefill/prefill_queue.c - see the header. */
#include "prefill/prefill_queue.h"

#include <string.h>

#include "base/mem.h"
#include "prefill/prefill_request.h"

static bool before(const struct prefill_request *a, const struct prefill_request *b)
{
    return a->order != b->order ? a->order < b->order : a->arrival < b->arrival;
}

static void put(struct prefill_queue *q, uint32_t at, struct prefill_request *r)
{
    q->heap[at] = r;
    r->queue_at = at;
}

static void sift(struct prefill_queue *q, uint32_t at)
{
    struct prefill_request *r = q->heap[at];

    while (at > 0 && before(r, q->heap[(at - 1) / 2])) {
        put(q, at, q->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child + 1 < q->n && before(q->heap[child + 1], q->heap[child]))
            child++;
        if (child >= q->n || !before(q->heap[child], r))
            break;
        put(q, at, q->heap[child]);
        at = child;
    }
    put(q, at, r);
}

enum err prefill_queue_push(struct prefill_queue *q, struct prefill_request *r)
{
    if (q->n == q->cap) {
        uint32_t cap = q->cap > 0 ? q->cap * 2 : 64;
        void *heap = mem_try_realloc(q->heap, cap * sizeof(struct prefill_request *));

        if (heap == NULL)
            return ERR_NOMEM;
        q->heap = heap;
        q->cap = cap;
    }
    put(q, q->n, r);
    q->n++;
    sift(q, q->n - 1);
    return ERR_OK;
}

struct prefill_request *prefill_queue_first(const struct prefill_queue *q)
{
    return q->n > 0 ? q->heap[0] : NULL;
}

void prefill_queue_remove(struct prefill_queue *q, struct prefill_request *r)
{
    uint32_t at = r->queue_at;

    if (at == PREFILL_NOT_QUEUED)
        return;
    r->queue_at = PREFILL_NOT_QUEUED;
    q->n--;
    if (at < q->n) {
        put(q, at, q->heap[q->n]);
        sift(q, at);
    }
}

void prefill_queue_free(struct prefill_queue *q)
{
    mem_free(q->heap);
    memset(q, 0, sizeof(*q));
}
