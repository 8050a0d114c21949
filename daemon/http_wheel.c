/* daemon/http_wheel.c - see the header for the contract. */
#include "daemon/http_wheel.h"

#include <stddef.h>

static void unlink_timer(struct http_timer *t)
{
    if (t->next == NULL)
        return;
    t->prev->next = t->next;
    t->next->prev = t->prev;
    t->prev = t->next = NULL;
}

static uint64_t slot_start(uint64_t ms)
{
    return ms - ms % HTTP_WHEEL_SLOT_MS;
}

/* Into the slot that is looked at next after at_ms, or into the furthest there is. */
static void link_timer(struct http_wheel *w, struct http_timer *t)
{
    uint64_t last = w->next_ms + (HTTP_WHEEL_SLOTS - 1) * HTTP_WHEEL_SLOT_MS;
    uint64_t slot = slot_start(t->at_ms + HTTP_WHEEL_SLOT_MS - 1);
    struct http_timer *head;

    slot = slot < w->next_ms ? w->next_ms : slot > last ? last : slot;
    head = &w->slots[slot / HTTP_WHEEL_SLOT_MS % HTTP_WHEEL_SLOTS];
    t->slot_ms = slot;
    t->next = head;
    t->prev = head->prev;
    head->prev->next = t;
    head->prev = t;
}

void http_wheel_init(struct http_wheel *w, uint64_t now_ms)
{
    w->next_ms = slot_start(now_ms) + HTTP_WHEEL_SLOT_MS;
    for (size_t i = 0; i < HTTP_WHEEL_SLOTS; i++)
        w->slots[i].prev = w->slots[i].next = &w->slots[i];
}

void http_timer_stop(struct http_timer *t)
{
    unlink_timer(t);
    t->at_ms = 0;
}

void http_timer_set(struct http_wheel *w, struct http_timer *t, uint64_t at_ms)
{
    t->at_ms = at_ms;
    if (at_ms == 0 || (t->next != NULL && t->slot_ms <= at_ms))
        return; /* looked at early enough, and moved on then */
    unlink_timer(t);
    link_timer(w, t);
}

/* The slot is emptied into a list of its own first: fire may set timers into it again. */
static void run_slot(struct http_wheel *w, struct http_timer *slot, uint64_t now_ms,
                     http_timer_fn fire, void *arg)
{
    struct http_timer list;

    if (slot->next == slot)
        return;
    list = *slot;
    list.next->prev = list.prev->next = &list;
    slot->prev = slot->next = slot;
    while (list.next != &list) {
        struct http_timer *t = list.next;

        unlink_timer(t);
        if (t->at_ms == 0)
            continue;
        if (t->at_ms > now_ms) {
            link_timer(w, t);
            continue;
        }
        t->at_ms = 0;
        fire(t, arg);
    }
}

void http_wheel_advance(struct http_wheel *w, uint64_t now_ms, http_timer_fn fire, void *arg)
{
    uint64_t slots = 0;

    while (w->next_ms <= now_ms && slots++ < HTTP_WHEEL_SLOTS) {
        struct http_timer *slot = &w->slots[w->next_ms / HTTP_WHEEL_SLOT_MS % HTTP_WHEEL_SLOTS];

        w->next_ms += HTTP_WHEEL_SLOT_MS;
        run_slot(w, slot, now_ms, fire, arg);
    }
    if (w->next_ms <= now_ms) /* slept longer than the wheel is round: every slot was seen */
        w->next_ms = slot_start(now_ms) + HTTP_WHEEL_SLOT_MS;
}
