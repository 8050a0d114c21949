/* prefill/prefill_queue.h - private: the requests that still have tokens to compute, most urgent first
 * (a binary heap by order, then by arrival).  Thread: loop. */
#ifndef PREFILL_PREFILL_QUEUE_H
#define PREFILL_PREFILL_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct prefill_request;

/* All zero is empty. */
struct prefill_queue {
    uint32_t n; /* read-only */
    /* private */
    uint32_t cap;
    struct prefill_request **heap;
};

MUST_USE enum err prefill_queue_push(struct prefill_queue *q, struct prefill_request *r);
struct prefill_request *prefill_queue_first(const struct prefill_queue *q); /* NULL: empty */
/* Nothing happens if it is not in the queue. */
void prefill_queue_remove(struct prefill_queue *q, struct prefill_request *r);
void prefill_queue_free(struct prefill_queue *q);

#endif
