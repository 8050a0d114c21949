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
    e->u.arrive.tenant = d[2] % 3;
    e->u.arrive.length_key = d[5] % 5;
    e->u.arrive.n_prefix = d[0] % 3;
    for (uint32_t i = 0; i < e->u.arrive.n_prefix; i++)
        e->u.arrive.prefix[i] = (struct sched_prefix){
            .worker = (d[3] + i) % 5, .tokens = (uint32_t)d[4 + i] << i * 8, .bytes_per_s = d[2]};
}

static void fill_join(struct sched_event *e, const uint8_t *d)
{
    e->u.join.role = (enum sched_role)(1 + d[1] % 2);
    e->u.join.n_blocks = d[4] % 32;
    e->u.join.block_tokens = 1u << d[5] % 6;
    e->u.join.max_batch = 1 + d[2] % 4;
    e->u.join.max_context = d[2] > 200 ? 100 : 600;
    e->u.join.can_prefill = d[1] & 4;
    e->u.join.can_flip = d[1] & 8;
    e->u.join.klass = d[1] >> 4 & 1;
    e->u.join.max_step_tokens = d[1] & 32 ? 0 : 16;
}

static void fill_step(struct sched_event *e, const uint8_t *d)
{
    e->u.step.did =
        (struct sched_step){.n = d[1], .n2 = d[1] * d[1], .b = d[2], .ctx = d[2] * d[4]};
    e->u.step.ns = d[5] == 255 ? UINT64_MAX : d[5] * MS / 4;
}

static struct sched_event event_of(const uint8_t *d, uint64_t now)
{
    struct sched_event e = {.kind = (enum sched_event_kind)(d[0] % 18),
                            .request = d[1] % IDS,
                            .epoch = d[2] % 4,
                            .worker = d[3] % 8};

    if (e.kind == SCHED_EV_ARRIVE)
        fill_arrive(&e, d, now);
    else if (e.kind == SCHED_EV_WORKER_JOIN)
        fill_join(&e, d);
    else if (e.kind == SCHED_EV_STEP)
        fill_step(&e, d);
    else if (e.kind == SCHED_EV_LINK)
        e.u.link.peer = d[4] % 8, e.u.link.bytes_per_s = d[5] * 1e6;
    else if (e.kind == SCHED_EV_FINISH && d[4] > 100)
        e.u.finish.first_token_ns = now - d[4], e.u.finish.last_token_ns = now,
        e.u.finish.tokens = d[5], e.u.finish.late_ns = (int8_t)d[4] * (int64_t)MS;
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
        e.u.handover.bytes = (uint64_t)d[4] << 8;
        e.u.handover.wire_ns = (uint64_t)d[5] << 10;
    }
    return e;
}

static void choose_policy(char *out, size_t size, uint8_t shape)
{
    const char *at = sched_policy_names();

    for (int n = shape % 13; n > 0 && strchr(at, ',') != NULL; n--)
        at = strchr(at, ',') + 2;
    snprintf(out, size, "%.*s", (int)strcspn(at, ","), at);
}

static void open_run(struct run *r, uint8_t shape)
{
    static const struct sched_class fast = {.name = "fast",
                                            .prefill = {.c = {1e6, 1e4, 0.1, 0}},
                                            .decode = {.c = {5e6, 1e4, 10, 0}},
                                            .kv_bytes_per_token = 1000};
    static const struct sched_tenant tenant = {.id = 1, .tokens_per_s = 500, .max_live = 4};
    struct sched_config c;
    uint32_t klass = 0;

    sched_config_defaults(&c);
    c.max_queued = 1 + shape % 8;
    c.max_attempts = 1 + (shape >> 3) % 4;
    c.prefill_window_tokens = 1 + (shape >> 5) * 64u;
    c.queue_timeout_ns = c.request_timeout_ns = 5000 * MS;
    c.grant_timeout_ns = c.release_timeout_ns = 100 * MS;
    choose_policy(c.policy, sizeof(c.policy), shape);
    demand(sched_create(&c, NULL, &r->s) == ERR_OK, "the scheduler cannot be made");
    if (shape & 1)
        demand(sched_add_class(r->s, &fast, NULL, &klass) == ERR_OK && klass == 1, "no class");
    demand(sched_set_tenant(r->s, &tenant, NULL) == ERR_OK, "no tenant");
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
