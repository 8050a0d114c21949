/* tests/sim/sched_rig.c - see the header. */
#include "tests/sim/sched_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

void rig_config(struct sched_config *cfg)
{
    sched_config_defaults(cfg);
    memcpy(cfg->policy, "distserve", sizeof("distserve"));
}

void rig_open(struct rig *r, const struct sched_config *cfg)
{
    *r = (struct rig){.now = 1000 * RIG_MS};
    if (cfg != NULL)
        r->cfg = *cfg;
    else
        rig_config(&r->cfg);
    assert_int_equal(sched_create(&r->cfg, NULL, &r->s), ERR_OK);
}

void rig_close(struct rig *r)
{
    sched_actions_free(&r->act);
    sched_destroy(r->s);
}

void rig_apply(struct rig *r, const struct sched_event *e)
{
    struct err_msg msg;

    r->act.n = 0;
    assert_int_equal(sched_apply(r->s, e, r->now, &r->act), ERR_OK);
    if (sched_check(r->s, &msg) != ERR_OK)
        fail_msg("after event %d: %s", (int)e->kind, msg.text);
}

void rig_join(struct rig *r, uint32_t id, enum sched_role role, uint32_t n_blocks,
              uint32_t max_batch)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = id};

    e.u.join.role = role;
    e.u.join.n_blocks = n_blocks;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = max_batch;
    e.u.join.max_context = 4096;
    rig_apply(r, &e);
}

void rig_join_can(struct rig *r, uint32_t id, enum sched_role role, uint32_t klass,
                  bool can_prefill)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = id};

    e.u.join.role = role;
    e.u.join.n_blocks = 1000;
    e.u.join.block_tokens = 16;
    e.u.join.max_batch = 64;
    e.u.join.max_context = 16384;
    e.u.join.klass = klass;
    e.u.join.can_prefill = can_prefill;
    rig_apply(r, &e);
}

void rig_leave(struct rig *r, uint32_t id)
{
    rig_apply(r, &(struct sched_event){.kind = SCHED_EV_WORKER_LEAVE, .worker = id});
}

void rig_drain(struct rig *r, uint32_t id)
{
    rig_apply(r, &(struct sched_event){.kind = SCHED_EV_WORKER_DRAIN, .worker = id});
}

void rig_arrive(struct rig *r, uint64_t id, uint32_t tier, uint32_t n_prompt, uint32_t max_new)
{
    struct sched_event e = {.kind = SCHED_EV_ARRIVE, .request = id};

    e.u.arrive.tier = tier;
    e.u.arrive.n_prompt = n_prompt;
    e.u.arrive.max_new = max_new;
    e.u.arrive.arrived_ns = r->now;
    rig_apply(r, &e);
}

void rig_cancel(struct rig *r, uint64_t id)
{
    rig_apply(r, &(struct sched_event){.kind = SCHED_EV_CANCEL, .request = id});
}

void rig_finish(struct rig *r, uint64_t id)
{
    rig_apply(r, &(struct sched_event){.kind = SCHED_EV_FINISH, .request = id});
}

void rig_tokens(struct rig *r, uint64_t id, uint32_t delivered)
{
    struct sched_event e = {.kind = SCHED_EV_TOKENS, .request = id};

    e.u.tokens.delivered = delivered;
    rig_apply(r, &e);
}

static struct sched_event from_worker(enum sched_event_kind kind, uint64_t id, uint32_t epoch,
                                      uint32_t worker)
{
    return (struct sched_event){.kind = kind, .request = id, .epoch = epoch, .worker = worker};
}

void rig_granted(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, bool ok)
{
    struct sched_event e = from_worker(SCHED_EV_GRANTED, id, epoch, worker);

    e.u.granted.ok = ok;
    rig_apply(r, &e);
}

void rig_progress(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, uint32_t done)
{
    struct sched_event e = from_worker(SCHED_EV_PREFILL_PROGRESS, id, epoch, worker);

    e.u.progress.tokens_done = done;
    rig_apply(r, &e);
}

void rig_prefilled(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, bool finished)
{
    struct sched_event e = from_worker(SCHED_EV_PREFILL_DONE, id, epoch, worker);

    e.u.prefilled.finished = finished;
    rig_apply(r, &e);
}

void rig_handover(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, bool from_decode,
                  enum err err)
{
    struct sched_event e = from_worker(SCHED_EV_HANDOVER_DONE, id, epoch, worker);

    e.u.handover.from_decode = from_decode;
    e.u.handover.err = err;
    rig_apply(r, &e);
}

void rig_released(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, enum err err)
{
    struct sched_event e = from_worker(SCHED_EV_RELEASED, id, epoch, worker);

    e.u.released.err = err;
    rig_apply(r, &e);
}

void rig_timer(struct rig *r, uint64_t at_ns)
{
    r->now = at_ns;
    rig_apply(r, &(struct sched_event){.kind = SCHED_EV_TIMER});
}

size_t rig_count(const struct rig *r, enum sched_action_kind kind)
{
    size_t n = 0;

    for (size_t i = 0; i < r->act.n; i++)
        n += r->act.v[i].kind == kind;
    return n;
}

const struct sched_action *rig_find(const struct rig *r, enum sched_action_kind kind)
{
    for (size_t i = 0; i < r->act.n; i++) {
        if (r->act.v[i].kind == kind)
            return &r->act.v[i];
    }
    return NULL;
}

bool rig_told(const struct rig *r, uint32_t worker, uint64_t request, uint32_t epoch)
{
    for (size_t i = 0; i < r->act.n; i++) {
        const struct sched_action *a = &r->act.v[i];

        if (a->kind == SCHED_ACT_CANCEL && a->worker == worker && a->request == request &&
            a->epoch == epoch)
            return true;
    }
    return false;
}

struct where {
    enum sched_state state;
    uint32_t epoch, prefill, decode;
    bool live;
};

static struct where look(const struct rig *r, uint64_t id)
{
    struct where w = {0};

    w.live = sched_get_request(r->s, id, &w.state, &w.epoch, &w.prefill, &w.decode) == ERR_OK;
    return w;
}

int rig_state(const struct rig *r, uint64_t id)
{
    struct where w = look(r, id);

    return w.live ? (int)w.state : 0;
}

uint32_t rig_epoch(const struct rig *r, uint64_t id)
{
    return look(r, id).epoch;
}

uint32_t rig_prefill_of(const struct rig *r, uint64_t id)
{
    return look(r, id).prefill;
}

uint32_t rig_decode_of(const struct rig *r, uint64_t id)
{
    return look(r, id).decode;
}

struct sched_worker_view rig_worker(const struct rig *r, uint32_t id)
{
    struct sched_worker_view v = {0};

    assert_int_equal(sched_get_worker(r->s, id, &v), ERR_OK);
    return v;
}

struct sched_stats rig_stats(const struct rig *r)
{
    struct sched_stats st;

    sched_get_stats(r->s, &st);
    return st;
}
