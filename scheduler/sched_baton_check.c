/* scheduler/sched_baton_check.c - what the policy "baton" counts of requests and tiers, held against the requests
 * themselves, for sched_check.  Decayed sums cannot be made again; they must be within what they can be. */
#include <inttypes.h>
#include <math.h>

#include "scheduler/sched_baton_parts.h"
#include "scheduler/sched_core.h"

#define FAIL(msg, ...) return err_set(msg, ERR_BAD_STATE, __VA_ARGS__)

struct baton_seen {
    uint32_t held[SCHED_TIERS_MAX];
    uint32_t counted; /* in the load of a decode worker */
};

static enum err check_request(const struct sched *s, const struct sched_request *r,
                              struct baton_seen *seen, struct err_msg *msg)
{
    const struct sched_worker *on = r->baton.on;
    bool over = r->state == SCHED_REQ_ENDED;

    if (r->baton.was_held && (r->state != SCHED_STATE_QUEUED || r->waits_in == SCHED_WAITS_BOUND))
        FAIL(msg, "baton: request %" PRIu64 " got in or left and is counted among the held", r->id);
    if (on != NULL && (over || sched_ledger_worker(s, on->id) != on))
        FAIL(msg, "baton: request %" PRIu64 " is counted on a worker, but it or that is gone",
             r->id);
    seen->held[r->baton.held_tier] += r->baton.was_held;
    seen->counted += on != NULL;
    return ERR_OK;
}

static bool within(double v, double least, double most)
{
    return isfinite(v) && v >= least && v <= most;
}

static enum err check_tier(const struct sched *s, uint32_t i, const struct baton_seen *seen,
                           struct err_msg *msg)
{
    const struct baton_tier *t = &baton_of(s)->tier[i];

    if (t->held != seen->held[i])
        FAIL(msg, "baton, tier %u: %u are held, counted %u", i, seen->held[i], t->held);
    if (!within(t->credit, 0, INFINITY) || !within(t->held_rate, 0, INFINITY) ||
        !within(t->inflow, 0, INFINITY) || !within(t->stay, 0, INFINITY))
        FAIL(msg, "baton, tier %u: credit %g, inflow %g for %g, %g get in", i, t->credit, t->inflow,
             t->stay, t->held_rate);
    if (!within(t->margin, 0, baton_c.margin_max) || !within(t->pad, 0, baton_c.pad_max))
        FAIL(msg, "baton, tier %u: margin %g, %g steps", i, t->margin, t->pad);
    return ERR_OK;
}

static enum err check_learned(const struct sched_baton *b, struct err_msg *msg)
{
    bool ok = within(b->stretch, baton_c.stretch_min, baton_c.stretch_max) &&
              within(b->lift, 0, baton_c.floor_max) && within(b->asked, 0, INFINITY) &&
              within(b->hurt, 0, b->asked) && within(b->backlog, 0, INFINITY) &&
              within(b->crowd, 0, INFINITY) && within(b->mean_value, 0, INFINITY) &&
              within(b->share_full, baton_c.share_least, baton_c.share_most);

    for (int k = 0; k < 2; k++)
        ok = ok && within(b->offered[k], 0, INFINITY) && within(b->mean_work[k], 0, INFINITY) &&
             within(b->ended[k], 0, INFINITY) && within(b->kept[k], 0, b->ended[k]);
    for (int k = 0; k < 2 * SCHED_TIERS_MAX; k++)
        ok = ok && within(b->within[k / 2].work[k % 2], 0, INFINITY) &&
             within(b->over_asked[k / 2].work[k % 2], 0, INFINITY) &&
             within(b->over[k / 2].work[k % 2], 0, INFINITY);
    if (!ok)
        FAIL(msg, "baton: a price, a margin or a share is not within its bounds");
    return ERR_OK;
}

static enum err check_probes(const struct sched *s, struct err_msg *msg)
{
    const struct sched_baton *b = baton_of(s);

    for (int k = 0; k < 2; k++) {
        const struct sched_request *r =
            b->probe[k].request != 0 ? map_get(&s->requests, b->probe[k].request) : NULL;

        if (b->probe[k].request != 0 && (r == NULL || !r->probe || r->state == SCHED_REQ_ENDED))
            FAIL(msg, "baton: probe %" PRIu64 " is over and nobody noticed", b->probe[k].request);
    }
    return ERR_OK;
}

static enum err check_loads(const struct sched *s, uint32_t counted, struct err_msg *msg)
{
    uint32_t n = 0, listed = 0;
    enum err err = ERR_OK;

    for (int role = SCHED_ROLE_PREFILL; role <= SCHED_ROLE_DECODE; role++)
        for (const struct sched_worker *w = s->first_worker[role]; w != NULL && err == ERR_OK;
             w = w->next, listed += n)
            err = baton_load_check(w, &n, msg);
    if (err == ERR_OK && listed != counted)
        FAIL(msg, "baton: %u requests are in loads, %u say so", listed, counted);
    return err;
}

enum err baton_check(const struct sched *s, struct err_msg *msg)
{
    struct baton_seen seen = {.counted = 0};
    const struct sched_request *r;
    enum err err = ERR_OK;
    size_t at = 0;

    while (err == ERR_OK && (r = map_next(&s->requests, &at)) != NULL)
        err = check_request(s, r, &seen, msg);
    for (uint32_t t = 0; t < SCHED_TIERS_MAX && err == ERR_OK; t++)
        err = check_tier(s, t, &seen, msg);
    if (err == ERR_OK)
        err = check_loads(s, seen.counted, msg);
    if (err == ERR_OK)
        err = check_probes(s, msg);
    return err == ERR_OK ? check_learned(baton_of(s), msg) : err;
}
