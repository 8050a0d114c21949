/* daemon/frontend_metrics.c - see the header. */
#include "daemon/frontend_metrics.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/metrics_series.h"
#include "kvtransfer/kvt.h"

_Static_assert((int)DAEMON_SERIES_PATHS == (int)KVT_PATHS, "a series for every path");

enum err frontend_metrics_create(struct daemon_frontend *f, struct err_msg *msg)
{
    const struct daemon_config *c = f->c.config;
    struct daemon_series_tier tiers[DAEMON_SERIES_TIERS_MAX] = {{0}};
    struct daemon_series_config s = {.model = f->model_name,
                                     .version = BATON_VERSION,
                                     .backend = c->backend,
                                     .tiers = tiers,
                                     .n_tiers = c->n_tiers};

    for (uint32_t i = 0; i < c->n_tiers; i++)
        tiers[i] = (struct daemon_series_tier){.name = c->tier_labels[i],
                                               .ttft_ns = c->tiers[i].ttft_ns,
                                               .tbt_ns = c->tiers[i].tbt_ns};
    return daemon_series_create(&s, msg, &f->series);
}

void frontend_metrics_destroy(struct daemon_frontend *f)
{
    daemon_series_destroy(f->series);
    f->series = NULL;
}

/* ---- as things happen ---- */

void frontend_metrics_http(struct daemon_frontend *f, const struct http_route *route, int status,
                           uint64_t duration_ns, uint64_t bytes_out)
{
    daemon_series_http_done(f->series, route != NULL ? route->path : "other", status, duration_ns,
                            bytes_out);
}

static enum daemon_outcome outcome_of(const struct call *call, const struct call_gen *g)
{
    if (g->g.finish == DAEMON_FINISH_STOP)
        return DAEMON_OUTCOME_STOP;
    if (g->g.finish == DAEMON_FINISH_LENGTH)
        return DAEMON_OUTCOME_LENGTH;
    if (call->status == 499)
        return DAEMON_OUTCOME_CANCELED;
    return call->status == 429 || call->status == 400 ? DAEMON_OUTCOME_REJECTED
                                                      : DAEMON_OUTCOME_FAILED;
}

static void record_gen(const struct call *call, const struct call_gen *g, uint64_t now)
{
    const struct gen_times *t = &g->times;
    struct daemon_request_record r = {.tier = g->tier,
                                      .outcome = outcome_of(call, g),
                                      .reason = call->reason,
                                      .n_prompt = (uint32_t)call->prompts[g->prompt].ids.n,
                                      .n_generated = g->g.n_log,
                                      .max_new = g->max_new,
                                      .attempts = t->attempts,
                                      .received_at = call->arrived_ns,
                                      .placed_at = t->placed_ns,
                                      .first_token_at = t->first_ns,
                                      .last_token_at = t->last_ns,
                                      .done_at = now,
                                      .worker_queue_ns = t->worker_queue_ns,
                                      .prefill_ns = t->prefill_ns,
                                      .handed_over = t->handover_bytes > 0,
                                      .handover_wire_ns = t->wire_ns,
                                      .handover_exposed_ns = t->exposed_ns,
                                      .handover_verify_ns = t->verify_ns,
                                      .handover_bytes = t->handover_bytes,
                                      .path = t->path,
                                      .ttft_target_ns = g->deadline_ns - call->arrived_ns,
                                      .tbt_target_ns = g->tbt_ns};

    daemon_series_request_done(call->f->series, &r);
}

void frontend_metrics_call(const struct call *call)
{
    uint64_t now = clock_now_ns();

    for (uint32_t i = 0; i < call->n_gens; i++) {
        if (call->gens[i].submitted)
            record_gen(call, &call->gens[i], now);
    }
}

void frontend_metrics_record(struct daemon_frontend *f, const struct sched_record *r)
{
    if (r->predicted.ttft > 0 && r->actual.ttft > 0)
        daemon_series_forecast(f->series, r->tier,
                               (double)r->actual.ttft / (double)r->predicted.ttft);
}

/* ---- for a scrape ---- */

static void copy_report(struct daemon_series_worker *w, const Baton__Report *r)
{
    w->free_blocks = r->free_blocks;
    w->owned_blocks = r->blocks_owned;
    w->granted_blocks = r->blocks_granted;
    w->quarantined_blocks = r->blocks_quarantined;
    w->parked = r->parked;
    w->parks = r->parks;
    w->local_prefills = r->local_prefills;
    w->waiting = r->waiting;
    w->running = r->running;
    w->live_requests = r->live_requests;
    w->live_grants = r->live_grants;
    w->live_sends = r->live_sends;
    w->step_ns = r->step_ns;
    w->steps = r->steps;
    w->prompt_tokens = r->prompt_tokens;
    w->generated_tokens = r->generated_tokens;
    w->late_messages = r->late_messages;
    w->bad_messages = r->bad_messages;
    for (size_t i = 0; i < DAEMON_SERIES_PATHS && i < r->n_bytes_sent; i++)
        w->bytes_sent[i] = r->bytes_sent[i];
    for (size_t i = 0; i < DAEMON_SERIES_PATHS && i < r->n_bytes_received; i++)
        w->bytes_received[i] = r->bytes_received[i];
}

static void scrape_workers(struct daemon_frontend *f)
{
    struct daemon_worker_view view;
    struct sched_worker_view known;
    const char *from, *to;
    const Baton__Link *link;
    size_t at = 0;

    daemon_series_workers_begin(f->series);
    while (daemon_hub_next_worker(f->hub, &at, &view)) {
        struct daemon_series_worker w = {.name = view.name,
                                         .role =
                                             view.role == SCHED_ROLE_PREFILL ? "prefill" : "decode",
                                         .up = view.joined,
                                         .tp = view.tp,
                                         .decodes = view.role == SCHED_ROLE_DECODE,
                                         .n_blocks = view.n_blocks,
                                         .block_tokens = view.block_tokens};

        if (view.report != NULL)
            copy_report(&w, view.report);
        if (sched_get_worker(daemon_hub_sched(f->hub), view.id, &known) == ERR_OK) {
            w.backlog_ns = known.backlog_ns;
            w.bias = known.bias;
        }
        daemon_series_worker(f->series, &w);
    }
    for (at = 0; daemon_hub_next_link(f->hub, &at, &from, &to, &link);)
        daemon_series_link(f->series, from, to, kvt_path_name((enum kvt_path)link->path),
                           link->lanes, link->bytes_per_s, link->round_trip_ns);
}

static void scrape_tier(struct daemon_frontend *f, uint32_t tier)
{
    struct sched_tier_stats t;
    struct daemon_series_promises p;

    sched_get_tier_stats(daemon_hub_sched(f->hub), tier, &t);
    p = (struct daemon_series_promises){.arrived = t.arrived,
                                        .admitted = t.admitted,
                                        .kept = t.kept,
                                        .broken = t.broken,
                                        .downgraded = t.downgraded,
                                        .canceled = t.canceled,
                                        .margin = t.margin};
    daemon_series_promises(f->series, tier, &p);
    for (int r = SCHED_REASON_NONE + 1; r <= SCHED_REASON_DISPLACED; r++) {
        if (t.refused[r] > 0)
            daemon_series_refused(f->series, tier, sched_reason_name((enum sched_reason)r),
                                  t.refused[r]);
    }
}

static void scrape_predictor(struct daemon_frontend *f, uint32_t tier)
{
    for (int stage = 0; stage < SCHED_STAGES; stage++) {
        struct sched_health h;
        struct daemon_series_prediction p;

        sched_get_health(daemon_hub_sched(f->hub), tier, (enum sched_stage)stage, &h);
        if (h.n == 0)
            continue;
        p = (struct daemon_series_prediction){.stage = sched_stage_name((enum sched_stage)stage),
                                              .n = h.n,
                                              .bias = h.bias,
                                              .mape = h.mape,
                                              .coverage = h.coverage,
                                              .worst = h.windowed ? h.worst : NAN,
                                              .drift = h.drift};
        daemon_series_prediction(f->series, tier, &p);
    }
}

static void scrape_state(struct daemon_frontend *f)
{
    const struct http_stats *http = http_server_stats(f->http);
    struct daemon_series_state st = {.connections = http->connections,
                                     /* the one that scrapes is not counted: at rest this is 0 */
                                     .exchanges = http->exchanges > 0 ? http->exchanges - 1 : 0,
                                     .connections_total = http->connections_total,
                                     .bad_requests_total = http->bad_requests_total};
    struct daemon_records_stats records;
    struct sched_stats s;

    daemon_hub_stats(f->hub, &s);
    memcpy(st.queued, s.queued, sizeof(st.queued));
    memcpy(st.running, s.running, sizeof(st.running));
    st.queued_tokens = s.queued_tokens;
    st.requests = s.requests;
    st.claims = s.claims;
    st.resumes = s.resumes;
    st.ignored_events = s.ignored_events;
    st.want_prefill = s.want[SCHED_ROLE_PREFILL];
    st.want_decode = s.want[SCHED_ROLE_DECODE];
    st.have_prefill = s.workers[SCHED_ROLE_PREFILL];
    st.have_decode = s.workers[SCHED_ROLE_DECODE];
    st.flips = s.flips;
    st.reversals = s.reversals;
    st.fallback = sched_fallback(daemon_hub_sched(f->hub))[0] != '\0';
    daemon_records_stats(f->records, &records);
    st.records = records.taken;
    st.records_lost = records.lost;
    daemon_series_state(f->series, &st);
}

enum err frontend_metrics_render(struct daemon_frontend *f, struct buf *out)
{
    scrape_workers(f);
    scrape_state(f);
    for (uint32_t i = 0; i < f->c.config->n_tiers; i++) {
        scrape_tier(f, i);
        scrape_predictor(f, i);
    }
    scrape_predictor(f, SCHED_TIERS_MAX);
    return daemon_series_render(f->series, out);
}
