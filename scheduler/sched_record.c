/* scheduler/sched_record.c - what became of each request: outcome, times of its stages, the cause
 * of a miss, the counts of its tier, and the ring of records.
 *
 * What the client saw (FINISH) counts; where the front end does not say, the messages of the
 * workers do. */
#include <math.h>

#include "base/mem.h"
#include "scheduler/sched_core.h"

enum { RECORDS_DEFAULT = 1024 };
static const double TTFT_SD = 0.6; /* of its log, before anything is known */
/* Small: as many as wait at a time were forecast alike before any of them teaches. */
static const double TTFT_GAIN = 0.01, TTFT_FINEST = 1e-3, TTFT_IDLE = 0.03, TTFT_RECENT = 0.05,
                    TTFT_ALARM = 0.25;
static const double FRONT_GAIN = 0.02;

enum err sched_record_init(struct sched *s)
{
    if (s->cfg.records == 0)
        s->cfg.records = RECORDS_DEFAULT;
    for (uint32_t t = 0; t < SCHED_TIERS_MAX; t++)
        s->ttft[t] = (struct sched_ttft){
            .low = -1.6 * TTFT_SD, .high = 1.6 * TTFT_SD, .scale = TTFT_SD, .missed = 0.1};
    s->records = mem_try_calloc(s->cfg.records, sizeof(*s->records));
    return s->records == NULL ? ERR_NOMEM : ERR_OK;
}

void sched_record_free(struct sched *s)
{
    mem_free(s->records);
}

static uint64_t since(uint64_t from, uint64_t to)
{
    return from == 0 || to < from ? 0 : to - from;
}

/* ---- times ---- */

/* The waits are told apart by the grant: until then the decode worker had no room, after it the KV
 * moves. */
static struct sched_times stage_times(const struct sched *s, const struct sched_request *r)
{
    struct sched_times t = {.queue = r->worker_queue_ns,
                            .prefill = r->worker_prefill_ns,
                            .ttft = s->seen.ttft,
                            .step = s->seen.step};

    if (r->dispatched_ns != 0)
        t.queue += since(r->arrived_ns, r->dispatched_ns);
    if (t.prefill == 0 && r->first_ns != 0)
        t.prefill = since(r->dispatched_ns, r->first_ns);
    if (r->first_ns != 0 && t.ttft == 0)
        t.ttft = since(r->arrived_ns, r->first_ns);
    if (r->granted_ns > r->first_ns && r->first_ns != 0)
        t.decode_wait = since(r->first_ns, r->granted_ns);
    if (r->decoding_ns != 0 && r->mate != NULL)
        t.handover = since(r->first_ns + t.decode_wait, r->decoding_ns);
    t.total = since(r->arrived_ns, s->now);
    return t;
}

static double over(uint64_t actual, float forecast)
{
    return fmax(0, (double)actual - (double)forecast);
}

/* What comes after the first token cannot have made it late; and where it came in time, what went
 * before it is not to blame. */
static enum sched_cause cause_of(const struct sched_request *r, const struct sched_times *a)
{
    const struct sched_cast *f = &r->forecast;
    const struct {
        enum sched_cause cause;
        bool before_first;
        double cost, is;
    } stages[] = {{SCHED_CAUSE_QUEUE, true, over(a->queue, f->queue), (double)a->queue},
                  {SCHED_CAUSE_PREFILL, true, over(a->prefill, f->prefill), (double)a->prefill},
                  {SCHED_CAUSE_HANDOVER, false, over(a->handover, f->handover), 0},
                  {SCHED_CAUSE_DECODE_WAIT, false, over(a->decode_wait, f->decode_wait), 0},
                  {SCHED_CAUSE_DECODE, false, over(a->step, f->step) * r->delivered, 1}};
    bool first_late = a->ttft == 0 || a->ttft > since(r->arrived_ns, r->deadline_ns);
    enum sched_cause cause = SCHED_CAUSE_NONE;
    double most = -1, is = 0;

    if (r->lost)
        return SCHED_CAUSE_FAILURE;
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
        if (stages[i].before_first != first_late)
            continue;
        if (stages[i].cost > most || (!(stages[i].cost < most) && stages[i].is > is)) {
            most = stages[i].cost;
            is = stages[i].is; /* as forecast, and still too late: the longer one */
            cause = stages[i].cause;
        }
    }
    return cause;
}

/* ---- outcome ---- */

double sched_ttft_high(const struct sched *s, uint32_t tier, double ttft)
{
    return ttft * exp(s->ttft[tier].high);
}

/* A policy forecasts from what is known when the request is bound.  Who comes later and goes before
 * it is learned here, when the worker says that the first token is there: what the client says comes
 * with the last one, too late while queues grow. */
void sched_record_forecast(const struct sched *s, struct sched_request *r,
                           const struct sched_offer *o)
{
    double raw = o->forecast.ttft > 0 ? (double)o->forecast.ttft + s->front_ns : 0;
    const struct sched_ttft *t = &s->ttft[o->tier];

    r->ttft_raw = (float)raw;
    r->ttft_low = (float)(raw * exp(t->low));
    r->forecast.ttft = (float)(raw * exp(t->median));
    r->high.ttft = (float)(raw * exp(t->high));
}

void sched_record_first(struct sched *s, const struct sched_request *r)
{
    double raw = (double)r->ttft_raw, e, gain;
    struct sched_ttft *t = &s->ttft[r->tier];

    if (!(raw > 0) || r->lost)
        return;
    e = log(((double)since(r->arrived_ns, r->first_ns) + s->front_ns) / raw);
    if (!isfinite(e))
        return;
    t->n++;
    gain = fmax(TTFT_GAIN, 1 / ((double)t->n + 10));
    t->scale += gain * (fabs(e - t->median) - t->scale);
    t->missed += gain * ((e < t->low || e > t->high) - t->missed);
    t->recent += TTFT_RECENT * ((e < t->low || e > t->high) - t->recent);
    gain = fmax(TTFT_GAIN, 10 / ((double)t->n + 10)) * fmax(t->scale, TTFT_FINEST);
    if (t->recent > TTFT_ALARM)
        gain *= 7 * t->recent / TTFT_ALARM; /* the load has changed: all that wait are off alike */
    else if (t->missed < TTFT_IDLE)
        gain *= 5; /* far too wide */
    t->low += gain * (e < t->low ? -0.95 : 0.05);
    t->median += gain * (e < t->median ? -0.5 : 0.5);
    t->high += gain * (e > t->high ? 0.95 : -0.05);
    t->low = fmin(t->low, t->median);
    t->high = fmax(t->high, t->median);
}

static void score_ttft(struct sched *s, const struct sched_request *r, uint64_t ttft)
{
    double f = (double)r->forecast.ttft, low = (double)r->ttft_low, high = (double)r->high.ttft;
    double is = (double)ttft, front = is - (double)since(r->arrived_ns, r->first_ns);
    struct sched_scored o;

    if (!(f > 0) || !(is > 0) || r->lost)
        return;
    if (s->seen.ttft != 0 && r->first_ns != 0)
        s->front_ns = fmax(0, s->front_ns + FRONT_GAIN * (front - s->front_ns));
    o = sched_scored(is, f, low, high);
    sched_score_take(&s->score[r->tier_asked][SCHED_STAGE_TTFT], &o);
    sched_score_take(&s->score[SCHED_TIERS_MAX][SCHED_STAGE_TTFT], &o);
}

void sched_record_judge(struct sched *s, struct sched_request *r, const struct sched_event *finish)
{
    uint32_t tokens = r->delivered;

    if (finish != NULL && finish->u.finish.first_token_ns != 0) {
        uint64_t first = finish->u.finish.first_token_ns, last = finish->u.finish.last_token_ns;

        tokens = finish->u.finish.tokens;
        s->seen.late_ns = finish->u.finish.late_ns;
        s->seen.ttft = since(r->arrived_ns, first);
        s->seen.step = tokens > 1 ? since(first, last) / (tokens - 1) : 0;
        if (first > r->deadline_ns || s->seen.late_ns > 0)
            sched_request_late(s, r);
    } else if (r->first_ns != 0 && tokens > 1) {
        s->seen.step = since(r->first_ns, s->now) / (tokens - 1);
    }
    r->delivered = tokens > r->delivered && tokens <= r->max_new ? tokens : r->delivered;
    r->outcome = r->late ? SCHED_OUT_MISSED : SCHED_OUT_KEPT;
    sched_predictor_end(s, r, r->delivered);
}

static void count(struct sched *s, const struct sched_request *r)
{
    struct sched_tier_stats *t = &s->tier_stats[r->tier_asked];

    t->downgraded += r->tier != r->tier_asked && r->admitted;
    t->kept += r->outcome == SCHED_OUT_KEPT;
    t->canceled += r->outcome == SCHED_OUT_CANCELED;
    if (r->outcome == SCHED_OUT_REFUSED)
        t->refused[r->reason]++;
    t->broken += r->admitted && (r->late || r->outcome == SCHED_OUT_FAILED);
}

static struct sched_times times_of(const struct sched_cast *c)
{
    return (struct sched_times){.queue = (uint64_t)c->queue,
                                .prefill = (uint64_t)c->prefill,
                                .handover = (uint64_t)c->handover,
                                .decode_wait = (uint64_t)c->decode_wait,
                                .ttft = (uint64_t)c->ttft,
                                .step = (uint64_t)c->step,
                                .total = (uint64_t)c->total};
}

static struct sched_record *slot(struct sched *s)
{
    struct sched_record *rec = &s->records[s->next_record++ % s->cfg.records];

    *rec = (struct sched_record){.ended_ns = s->now};
    return rec;
}

/* Tokens of service, as quotas count them. */
static double used(const struct sched_request *r)
{
    return r->admitted ? (double)r->n_prompt + 2.0 * r->delivered : 0;
}

void sched_record_end(struct sched *s, struct sched_request *r)
{
    struct sched_record *rec = slot(s);
    struct sched_times t = stage_times(s, r);

    sched_tenants_end(s->tenants, r->tenant, r->tier, s->now, r->cost, used(r));
    if (r->outcome == SCHED_OUT_MISSED || r->outcome == SCHED_OUT_FAILED)
        r->cause = cause_of(r, &t);
    sched_elastic_end(s, r);
    count(s, r);
    score_ttft(s, r, t.ttft);
    rec->request = r->id;
    rec->arrived_ns = r->arrived_ns;
    rec->tenant = r->tenant;
    rec->tier_asked = r->tier_asked;
    rec->tier = r->tier;
    rec->n_prompt = r->n_prompt;
    rec->n_cached = r->cached;
    rec->max_new = r->max_new;
    rec->tokens = r->delivered;
    rec->epochs = r->admitted ? r->epoch : 0;
    rec->predicted_tokens = r->cast.q[SCHED_LENGTH_POINTS / 2];
    rec->predicted = times_of(&r->forecast);
    rec->high = times_of(&r->high);
    rec->actual = t;
    rec->chosen = (struct sched_pick){r->chosen.prefill, r->chosen.decode, r->chosen.score};
    rec->runner_up =
        (struct sched_pick){r->runner_up.prefill, r->runner_up.decode, r->runner_up.score};
    rec->outcome = r->outcome;
    rec->reason = r->reason;
    rec->refusal = (struct sched_refusal){.resource = r->lacks,
                                          .predicted_ns = r->lacks_predicted_ns,
                                          .target_ns = r->lacks_target_ns};
    rec->cause = r->cause;
    rec->ttft_target_ns = r->deadline_ns - r->arrived_ns;
    rec->tbt_target_ns = r->tbt_ns;
    rec->late_ns = s->seen.late_ns;
    s->seen.ttft = s->seen.step = 0;
    s->seen.late_ns = 0;
    rec->probe = r->probe;
}

void sched_record_reject(struct sched *s, const struct sched_event *e,
                         const struct sched_refused *why)
{
    struct sched_tier_stats *t = &s->tier_stats[e->u.arrive.tier];
    struct sched_record *rec = slot(s);

    t->arrived++;
    t->refused[why->reason]++;
    rec->request = e->request;
    rec->arrived_ns = e->u.arrive.arrived_ns;
    rec->tenant = e->u.arrive.tenant;
    rec->tier_asked = rec->tier = e->u.arrive.tier;
    rec->n_prompt = e->u.arrive.n_prompt;
    rec->max_new = e->u.arrive.max_new;
    rec->outcome = SCHED_OUT_REFUSED;
    rec->reason = why->reason;
    rec->refusal = why->refusal;
    rec->ttft_target_ns = s->cfg.tiers[e->u.arrive.tier].ttft_ns;
    rec->tbt_target_ns = s->cfg.tiers[e->u.arrive.tier].tbt_ns;
}
