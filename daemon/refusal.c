/* daemon/refusal.c - why a request is refused, in a sentence. */
#include "daemon/refusal.h"

#include <stdbool.h>

const char *daemon_refusal_words(const struct daemon_refusal *r)
{
    /* Some are refused though their own forecast keeps the target. */
    bool in_time = r->what.predicted_ns != 0 && r->what.predicted_ns <= r->what.target_ns;

    switch (r->reason) {
    case SCHED_REASON_TTFT:
        return in_time
                   ? "The first token would be in time, but too close to its target, or only by "
                     "making others late that were promised theirs."
                   : "The first token would come later than its target.";
    case SCHED_REASON_TBT:
        return in_time ? "Tokens would keep their target, but too close to it, or only by making "
                         "others late that were promised theirs."
                       : "Tokens would come slower than their target.";
    case SCHED_REASON_PRICE:
        return "The server is overloaded, and requests that are worth more need what this one "
               "would.";
    case SCHED_REASON_QUOTA:
        return "The quota of this tenant is used up.";
    case SCHED_REASON_SHARE:
        return "The tier is full, and this tenant has more than its share of it.";
    case SCHED_REASON_DISPLACED:
        return "Room that this request waited for went to requests that are worth more.";
    case SCHED_REASON_QUEUE_FULL:
    case SCHED_REASON_NONE:
    case SCHED_REASON_TOO_LARGE:
    case SCHED_REASON_STOPPING:
    case SCHED_REASON_QUEUE_TIMEOUT:
    case SCHED_REASON_REQUEST_TIMEOUT:
    case SCHED_REASON_ATTEMPTS:
        break;
    }
    return "Too many requests are waiting.";
}
