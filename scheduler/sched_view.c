/* scheduler/sched_view.c - looking at the scheduler: names, counts, workers, requests, predictor
 * health. */
#include "scheduler/sched_view.h"

#include "base/mem.h"
#include "scheduler/sched_core.h"

/* ---- names ---- */

const char *sched_reason_name(enum sched_reason r)
{
    static const char *const name[] = {
        [SCHED_REASON_NONE] = "none",
        [SCHED_REASON_QUEUE_FULL] = "queue_full",
        [SCHED_REASON_TOO_LARGE] = "too_large",
        [SCHED_REASON_STOPPING] = "stopping",
        [SCHED_REASON_QUEUE_TIMEOUT] = "queue_timeout",
        [SCHED_REASON_REQUEST_TIMEOUT] = "request_timeout",
        [SCHED_REASON_ATTEMPTS] = "attempts",
        [SCHED_REASON_TTFT] = "ttft",
        [SCHED_REASON_TBT] = "tbt",
        [SCHED_REASON_PRICE] = "price",
        [SCHED_REASON_QUOTA] = "quota",
        [SCHED_REASON_SHARE] = "share",
        [SCHED_REASON_DISPLACED] = "displaced",
    };

    return (size_t)r < sizeof(name) / sizeof(name[0]) ? name[r] : "?";
}

const char *sched_resource_name(enum sched_resource r)
{
    static const char *const name[] = {
        [SCHED_RES_NONE] = "none",
        [SCHED_RES_PREFILL_TIME] = "prefill_time",
        [SCHED_RES_LINK_TIME] = "link_time",
        [SCHED_RES_DECODE_ROOM] = "decode_room",
        [SCHED_RES_DECODE_TIME] = "decode_time",
        [SCHED_RES_QUEUE] = "queue",
        [SCHED_RES_TENANT] = "tenant",
    };

    return (size_t)r < sizeof(name) / sizeof(name[0]) ? name[r] : "?";
}

const char *sched_resource_stage(enum sched_resource r)
{
    switch (r) {
    case SCHED_RES_PREFILL_TIME:
        return "prefill";
    case SCHED_RES_LINK_TIME:
        return "handover";
    case SCHED_RES_DECODE_ROOM:
    case SCHED_RES_DECODE_TIME:
        return "decode";
    case SCHED_RES_NONE:
    case SCHED_RES_QUEUE:
    case SCHED_RES_TENANT:
        break;
    }
    return "queue";
}

const char *sched_stage_name(enum sched_stage st)
{
    static const char *const name[] = {"prefill", "decode", "handover", "length", "ttft"};

    return (size_t)st < SCHED_STAGES ? name[st] : "?";
}

const char *sched_outcome_name(enum sched_outcome o)
{
    static const char *const name[] = {"?", "kept", "missed", "refused", "canceled", "failed"};

    return (size_t)o < sizeof(name) / sizeof(name[0]) ? name[o] : "?";
}

const char *sched_cause_name(enum sched_cause c)
{
    static const char *const name[] = {"none",        "queue",  "prefill", "handover",
                                       "decode_wait", "decode", "failure"};

    return (size_t)c < sizeof(name) / sizeof(name[0]) ? name[c] : "?";
}

/* ---- looking ---- */

void sched_get_stats(const struct sched *s, struct sched_stats *out)
{
    *out = s->stats;
}

uint32_t sched_flipping(const struct sched *s)
{
    return s->elastic.flipping;
}

static uint64_t backlog_of(const struct sched *s, const struct sched_worker *w)
{
    double ns = sched_worker_start(s, w) + sched_edf_work(&w->edf) - (double)s->now;

    return sched_edf_count(&w->edf) == 0 || ns < 0 ? 0 : (uint64_t)ns;
}

enum err sched_get_worker(const struct sched *s, uint32_t worker, struct sched_worker_view *out)
{
    const struct sched_worker *w = sched_ledger_worker(s, worker);

    if (w == NULL)
        return ERR_NOT_FOUND;
    *out = (struct sched_worker_view){.worker = w->id,
                                      .role = w->shape->role,
                                      .draining = w->draining,
                                      .n_blocks = w->shape->n_blocks,
                                      .claimed_blocks = w->claimed_blocks,
                                      .requests = w->claims,
                                      .queued = w->waiting.count,
                                      .outstanding_tokens = w->outstanding,
                                      .flipping = w->flipping,
                                      .backlog_ns = backlog_of(s, w),
                                      .bias = sched_bias_factor(w->shape->role == SCHED_ROLE_PREFILL
                                                                    ? &w->prefill_bias
                                                                    : &w->decode_bias)};
    return ERR_OK;
}

enum err sched_get_request(const struct sched *s, uint64_t request, enum sched_state *state,
                           uint32_t *epoch, uint32_t *prefill_worker, uint32_t *decode_worker)
{
    const struct sched_request *r = map_get(&s->requests, request);
    struct sched_attempt *a;

    if (r == NULL || r->state == SCHED_REQ_ENDED)
        return ERR_NOT_FOUND;
    a = r->current;
    *state = (enum sched_state)r->state;
    *epoch = r->epoch;
    *prefill_worker = a == NULL ? 0 : sched_attempt_prefill(a)->worker_id;
    *decode_worker = a == NULL ? 0 : a->side[SCHED_SIDE_DECODE].worker_id;
    return ERR_OK;
}

enum err sched_worker_requests(const struct sched *s, uint32_t worker, uint64_t **ids, size_t *n)
{
    const struct sched_worker *w = sched_ledger_worker(s, worker);
    uint64_t *v;
    size_t bytes, count = 0;

    if (w == NULL)
        return ERR_NOT_FOUND;
    if (!mem_mul(w->n_sides, sizeof(*v), &bytes))
        return ERR_NOMEM;
    v = mem_try_alloc(bytes);
    if (v == NULL)
        return ERR_NOMEM;
    for (const struct sched_side *side = w->first; side != NULL; side = side->next) {
        if (side->attempt->current)
            v[count++] = side->attempt->request->id;
    }
    *ids = v;
    *n = count;
    return ERR_OK;
}

/* ---- tiers and predictions ---- */

void sched_get_tier_stats(const struct sched *s, uint32_t tier, struct sched_tier_stats *out)
{
    *out = tier < s->cfg.n_tiers ? s->tier_stats[tier] : (struct sched_tier_stats){0};
}

void sched_get_health(const struct sched *s, uint32_t tier, enum sched_stage stage,
                      struct sched_health *out)
{
    *out = (struct sched_health){0};
    if (tier <= SCHED_TIERS_MAX && (size_t)stage < SCHED_STAGES)
        sched_score_health(&s->score[tier][stage], out);
}

const char *sched_fallback(const struct sched *s)
{
    return s->fallback;
}

/* ---- records ---- */

uint64_t sched_record_next(const struct sched *s)
{
    return s->next_record;
}

enum err sched_record_get(const struct sched *s, uint64_t number, struct sched_record *out)
{
    if (number >= s->next_record || s->next_record - number > s->cfg.records)
        return ERR_NOT_FOUND;
    *out = s->records[number % s->cfg.records];
    return ERR_OK;
}
