/* tests/fuzz/sched_fuzz.c - bytes become events for scheduler/sched.h, in any order and about anything.
 *
 *   byte 0         shape of the configuration
 *   then per event 8 bytes: kind, request, epoch, worker, a, b, milliseconds passed, failing allocation
 *
 * After every event sched_check() must be content, an event that was refused must have changed nothing,
 * and a due timer must not stay due.  At the end every worker leaves and every request is canceled, and
 * nothing may be left. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "scheduler/sched.h"
#include "scheduler/sched_view.h"

enum { EVENT_BYTES = 8, EVENTS_MAX = 2000, IDS = 16 };
#define MS ((uint64_t)1000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    struct sched *s;
    struct sched_actions act;
    uint64_t now;
};

static void demand(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "sched_fuzz: %s\n", what);
    __builtin_trap();
}

static void apply(struct run *r, const struct sched_event *e, long fail_at)
{
    struct sched_stats before, after;
    struct err_msg msg = {""};
    enum err err;

    sched_get_stats(r->s, &before);
    r->act.n = 0;
    mem_fail_at(fail_at);
    err = sched_apply(r->s, e, r->now, &r->act);
    mem_fail_at(-1);
    demand(sched_check(r->s, &msg) == ERR_OK, msg.text);
    demand(err == ERR_OK || err == ERR_INVALID || err == ERR_NOMEM, "an unknown error");
    if (err != ERR_OK) {
        sched_get_stats(r->s, &after);
        demand(memcmp(&before, &after, sizeof(before)) == 0, "a refused event changed something");
        demand(r->act.n == 0, "a refused event says something");
    }
    if (err == ERR_OK && e->kind == SCHED_EV_TIMER)
        demand(sched_next_timer(r->s) > r->now || fail_at >= 0, "a due timer stays due");
}

static void fill_arrive(struct sched_event *e, const uint8_t *d, uint64_t now)
{
    e->u.arrive.tier = d[3] % 4;
    e->u.arrive.priority = (int8_t)d[2];
    e->u.arrive.n_prompt = d[4] == 255 ? UINT32_MAX : d[4];
    e->u.arrive.max_new = d[5] == 255 ? UINT32_MAX : d[5];
    e->u.arrive.arrived_ns = now - (d[3] >> 4) * MS;
}

static void fill_join(struct sched_event *e, const uint8_t *d)
{
    e->u.join.role = (enum sched_role)(1 + d[1] % 2);
    e->u.join.n_blocks = d[4] % 32;
    e->u.join.block_tokens = 1u << d[5] % 6;
    e->u.join.max_batch = 1 + d[2] % 4;
    e->u.join.max_context = d[2] > 200 ? 100 : 600;
}

static struct sched_event event_of(const uint8_t *d, uint64_t now)
{
    struct sched_event e = {.kind = (enum sched_event_kind)(d[0] % 17),
                            .request = d[1] % IDS,
                            .epoch = d[2] % 4,
                            .worker = d[3] % 8};

    if (e.kind == SCHED_EV_ARRIVE)
        fill_arrive(&e, d, now);
    else if (e.kind == SCHED_EV_WORKER_JOIN)
        fill_join(&e, d);
    else if (e.kind == SCHED_EV_GRANTED)
        e.u.granted.ok = d[4] & 1;
    else if (e.kind == SCHED_EV_PREFILL_PROGRESS)
        e.u.progress.tokens_done = d[4];
    else if (e.kind == SCHED_EV_PREFILL_DONE)
        e.u.prefilled.finished = d[4] & 1;
    else if (e.kind == SCHED_EV_TOKENS)
        e.u.tokens.delivered = d[4];
    else if (e.kind == SCHED_EV_RELEASED)
        e.u.released.err = d[4] & 1 ? ERR_DEVICE : ERR_OK;
    else if (e.kind == SCHED_EV_HANDOVER_DONE) {
        e.u.handover.err = d[4] & 1 ? ERR_CORRUPT : ERR_OK;
        e.u.handover.from_decode = d[4] & 2;
    }
    return e;
}

static void open_run(struct run *r, uint8_t shape)
{
    struct sched_config c;

    sched_config_defaults(&c);
    c.max_queued = 1 + shape % 8;
    c.max_attempts = 1 + (shape >> 3) % 4;
    c.prefill_window_tokens = 1 + (shape >> 5) * 64u;
    c.queue_timeout_ns = c.request_timeout_ns = 5000 * MS;
    c.grant_timeout_ns = c.release_timeout_ns = 100 * MS;
    demand(sched_create(&c, NULL, &r->s) == ERR_OK, "the scheduler cannot be made");
}

static void close_run(struct run *r)
{
    struct sched_stats st;

    for (uint64_t id = 1; id < IDS; id++)
        apply(r, &(struct sched_event){.kind = SCHED_EV_CANCEL, .request = id}, -1);
    for (uint32_t w = 1; w < 8; w++)
        apply(r, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = w}, -1);
    sched_get_stats(r->s, &st);
    demand(st.requests == 0 && st.claims == 0 && st.workers[1] + st.workers[2] == 0,
           "something is left when all are gone");
    demand(sched_next_timer(r->s) == UINT64_MAX, "a timer is armed and nobody waits");
    sched_destroy(r->s);
    sched_actions_free(&r->act);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run r = {.now = 1000 * MS};
    size_t live = mem_live(), n;

    if (size < 1)
        return 0;
    open_run(&r, data[0]);
    n = (size - 1) / EVENT_BYTES;
    for (size_t i = 0; i < n && i < EVENTS_MAX; i++) {
        const uint8_t *d = data + 1 + i * EVENT_BYTES;
        struct sched_event e;

        r.now += d[6] * MS;
        e = event_of(d, r.now);
        apply(&r, &e, d[7] >= 250 ? d[7] - 250 : -1);
    }
    close_run(&r);
    demand(mem_live() == live, "memory is left");
    return 0;
}
