/* daemon/http_wheel.h - deadlines for many connections at the price of one timer.
 *
 * A timer that is moved to a later time stays where it is and is looked at again when its old slot comes
 * up, so that a busy keep-alive connection touches no list.  Times are milliseconds of the loop's clock;
 * a timer fires at most one slot late, never early.
 *
 * Thread: the owner's.  A timer belongs to its connection and must be stopped before that is freed. */
#ifndef DAEMON_HTTP_WHEEL_H
#define DAEMON_HTTP_WHEEL_H

#include <stdint.h>

enum { HTTP_WHEEL_SLOTS = 256, HTTP_WHEEL_SLOT_MS = 50 };

struct http_timer {
    struct http_timer *prev, *next; /* NULL: not in the wheel */
    uint64_t at_ms;                 /* when it is due; 0 = never */
    uint64_t slot_ms;               /* start of the slot that it lies in */
};

struct http_wheel {
    struct http_timer slots[HTTP_WHEEL_SLOTS]; /* list heads */
    uint64_t next_ms;                          /* start of the first slot not yet looked at */
};

typedef void (*http_timer_fn)(struct http_timer *t, void *arg);

void http_wheel_init(struct http_wheel *w, uint64_t now_ms);
/* at_ms 0 stops it. */
void http_timer_set(struct http_wheel *w, struct http_timer *t, uint64_t at_ms);
void http_timer_stop(struct http_timer *t);
/* Call fire for each timer that is due; it is out of the wheel then, and may be set again. */
void http_wheel_advance(struct http_wheel *w, uint64_t now_ms, http_timer_fn fire, void *arg);

#endif
