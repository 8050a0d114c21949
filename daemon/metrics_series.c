/* daemon/metrics_series.c - see the header for the contract.  metrics_list.c is the whole list. */
#include "daemon/metrics_series.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/metrics_list.h"

/* ---- create ------------------------------------------------------------------------------------ */

static const char *const path_names[DAEMON_SERIES_PATHS] = {
    "none", "shm", "tcp", "rdma", "self", "staged-shm", "staged-tcp", "staged-rdma", "cuda"};

/* The series of one tier that are counted per request or token. */
struct tier_cells {
    char *name;
    uint64_t ttft_ns, tbt_ns;
    struct daemon_series_cell *ttft, *tbt, *queue, *worker_queue, *prefill, *decode, *e2e;
    struct daemon_series_cell *prompt, *generated, *resumed, *forecast;
    uint64_t refused; /* summed over the reasons of this scrape */
};

struct daemon_series {
    struct daemon_metrics *metrics;
    struct daemon_family *families[S_COUNT];
    struct daemon_series_cell *vllm[S_COUNT]; /* of the families labelled MODEL and no more */
    struct tier_cells tiers[DAEMON_SERIES_TIERS_MAX];
    uint32_t n_tiers;
    char *model;
    /* Summed over the workers of this scrape. */
    uint64_t decode_blocks, decode_used, live_grants, live_sends, parks;
    uint32_t block_tokens;
};

const char *daemon_outcome_name(enum daemon_outcome o)
{
    switch (o) {
#define X(NAME, label, reason)  \
    case DAEMON_OUTCOME_##NAME: \
        return label;
        DAEMON_OUTCOMES(X)
#undef X
    }
    return "?";
}

static const char *vllm_reason(enum daemon_outcome o)
{
    switch (o) {
#define X(NAME, label, reason)  \
    case DAEMON_OUTCOME_##NAME: \
        return reason;
        DAEMON_OUTCOMES(X)
#undef X
    }
    return NULL;
}

static struct daemon_series_cell *cell1(struct daemon_series *s, enum series_id id, const char *a)
{
    return daemon_metrics_cell(s->families[id], (const char *const[]){a});
}

static struct daemon_series_cell *cell2(struct daemon_series *s, enum series_id id, const char *a,
                                        const char *b)
{
    return daemon_metrics_cell(s->families[id], (const char *const[]){a, b});
}

static struct daemon_series_cell *cell3(struct daemon_series *s, enum series_id id, const char *a,
                                        const char *b, const char *c)
{
    return daemon_metrics_cell(s->families[id], (const char *const[]){a, b, c});
}

static enum err add_families(struct daemon_series *s, struct err_msg *msg)
{
    for (int id = 0; id < S_COUNT; id++) {
        const struct daemon_series_def *d = &daemon_series_defs[id];
        struct daemon_family_config c = {.name = d->name,
                                         .help = d->help,
                                         .kind = d->kind,
                                         .labels = d->labels,
                                         .buckets = d->buckets,
                                         .n_buckets = d->n_buckets};
        enum err err;

        while (c.n_labels < DAEMON_METRICS_LABELS_MAX && d->labels[c.n_labels] != NULL)
            c.n_labels++;
        err = daemon_metrics_add(s->metrics, &c, msg, &s->families[id]);
        if (err != ERR_OK)
            return err;
        if (c.n_labels == 2 && strcmp(d->labels[0], "model_name") == 0)
            s->vllm[id] = cell2(s, (enum series_id)id, s->model, "0");
    }
    return ERR_OK;
}

/* So that every tier and reason is there from the start, with 0. */
static enum err add_tier(struct daemon_series *s, const struct daemon_series_tier *t)
{
    struct tier_cells *c = &s->tiers[s->n_tiers];

    c->name = mem_try_strdup(t->name);
    if (c->name == NULL)
        return ERR_NOMEM;
    s->n_tiers++;
    c->ttft_ns = t->ttft_ns;
    c->tbt_ns = t->tbt_ns;
    c->ttft = cell1(s, S_TTFT, c->name);
    c->tbt = cell1(s, S_TBT, c->name);
    c->queue = cell1(s, S_QUEUE, c->name);
    c->worker_queue = cell1(s, S_WORKER_QUEUE, c->name);
    c->prefill = cell1(s, S_PREFILL, c->name);
    c->decode = cell1(s, S_DECODE, c->name);
    c->e2e = cell1(s, S_E2E, c->name);
    c->prompt = cell1(s, S_PROMPT, c->name);
    c->generated = cell1(s, S_GENERATED, c->name);
    c->resumed = cell1(s, S_RESUMED, c->name);
    c->forecast = cell1(s, S_FORECAST, c->name);
    if (t->ttft_ns > 0)
        daemon_metrics_set(cell1(s, S_TTFT_TARGET, c->name), (double)t->ttft_ns / 1e9);
    if (t->tbt_ns > 0)
        daemon_metrics_set(cell1(s, S_TBT_TARGET, c->name), (double)t->tbt_ns / 1e9);
    for (enum daemon_outcome o = DAEMON_OUTCOME_STOP; o <= DAEMON_OUTCOME_CANCELED; o++)
        cell3(s, S_REQUESTS, c->name, daemon_outcome_name(o), "");
    return ERR_OK;
}

static enum err series_fill(struct daemon_series *s, const struct daemon_series_config *c,
                            struct err_msg *msg)
{
    enum err err = daemon_metrics_create(&s->metrics);

    if (err != ERR_OK)
        return err;
    s->model = mem_try_strdup(c->model);
    if (s->model == NULL)
        return ERR_NOMEM;
    err = add_families(s, msg);
    for (uint32_t i = 0; i < c->n_tiers && err == ERR_OK; i++)
        err = add_tier(s, &c->tiers[i]);
    if (err != ERR_OK)
        return err;
    daemon_metrics_set(cell3(s, S_BUILD, c->version, c->backend, c->model), 1);
    for (enum daemon_outcome o = DAEMON_OUTCOME_STOP; o <= DAEMON_OUTCOME_FAILED; o++) {
        if (vllm_reason(o) != NULL)
            cell3(s, S_V_SUCCESS, s->model, "0", vllm_reason(o));
    }
    return ERR_OK;
}

enum err daemon_series_create(const struct daemon_series_config *c, struct err_msg *msg,
                              struct daemon_series **out)
{
    struct daemon_series *s;
    enum err err;

    if (c->n_tiers == 0 || c->n_tiers > DAEMON_SERIES_TIERS_MAX)
        return err_set(msg, ERR_INVALID, "metrics: %u tiers, allowed are 1 .. %d", c->n_tiers,
                       DAEMON_SERIES_TIERS_MAX);
    s = mem_try_calloc(1, sizeof(*s));
    if (s == NULL)
        return ERR_NOMEM;
    err = series_fill(s, c, msg);
    if (err != ERR_OK) {
        daemon_series_destroy(s);
        return err;
    }
    *out = s;
    return ERR_OK;
}

void daemon_series_destroy(struct daemon_series *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->n_tiers; i++)
        mem_free(s->tiers[i].name);
    daemon_metrics_destroy(s->metrics);
    mem_free(s->model);
    mem_free(s);
}

/* ---- as things happen -------------------------------------------------------------------------- */

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

/* From one moment to a later one, if both came. */
static void observe_span(struct daemon_series_cell *c, uint64_t from, uint64_t to)
{
    if (from != 0 && to >= from)
        daemon_metrics_observe(c, seconds(to - from), 1);
}

static struct tier_cells *tier_at(struct daemon_series *s, uint32_t tier)
{
    return &s->tiers[tier < s->n_tiers ? tier : s->n_tiers - 1];
}

void daemon_series_first_token(struct daemon_series *s, uint32_t tier, uint32_t n_prompt,
                               uint64_t ttft_ns)
{
    struct tier_cells *t = tier_at(s, tier);

    daemon_metrics_observe(t->ttft, seconds(ttft_ns), 1);
    daemon_metrics_observe(s->vllm[S_V_TTFT], seconds(ttft_ns), 1);
    daemon_metrics_count(t->prompt, n_prompt);
    daemon_metrics_count(s->vllm[S_V_PROMPT], n_prompt);
    daemon_metrics_count(t->generated, 1);
    daemon_metrics_count(s->vllm[S_V_GENERATED], 1);
}

void daemon_series_next_tokens(struct daemon_series *s, uint32_t tier, uint32_t n, uint64_t gap_ns)
{
    struct tier_cells *t = tier_at(s, tier);

    if (n == 0)
        return;
    daemon_metrics_observe(t->tbt, seconds(gap_ns) / n, n);
    daemon_metrics_observe(s->vllm[S_V_ITL], seconds(gap_ns) / n, n);
    daemon_metrics_count(t->generated, n);
    daemon_metrics_count(s->vllm[S_V_GENERATED], n);
}

static void count_target(struct daemon_series *s, const struct tier_cells *t, const char *slo,
                         bool met)
{
    daemon_metrics_count(cell2(s, met ? S_ATTAINED : S_MISSED, t->name, slo), 1);
}

/* A request that never gave a token missed its target, unless its client left before it was due. */
static void judge(struct daemon_series *s, const struct tier_cells *t,
                  const struct daemon_request_record *r)
{
    uint64_t end = r->first_token_at != 0 ? r->first_token_at : r->done_at;
    uint64_t ttft_ns = r->ttft_target_ns != 0 ? r->ttft_target_ns : t->ttft_ns;
    uint64_t tbt_ns = r->tbt_target_ns != 0 ? r->tbt_target_ns : t->tbt_ns;
    bool in_time = end - r->received_at <= ttft_ns;

    if (ttft_ns > 0 && r->first_token_at != 0)
        count_target(s, t, "ttft", in_time);
    else if (ttft_ns > 0 && (r->outcome != DAEMON_OUTCOME_CANCELED || !in_time))
        count_target(s, t, "ttft", false);
    if (tbt_ns > 0 && r->n_generated > 1 && r->last_token_at >= r->first_token_at)
        count_target(s, t, "tbt",
                     (r->last_token_at - r->first_token_at) / (r->n_generated - 1) <= tbt_ns);
}

static void observe_handover(struct daemon_series *s, const struct tier_cells *t,
                             const struct daemon_request_record *r)
{
    const char *path = path_names[r->path < DAEMON_SERIES_PATHS ? r->path : 0];

    if (!r->handed_over)
        return;
    daemon_metrics_observe(cell2(s, S_WIRE, t->name, path), seconds(r->handover_wire_ns), 1);
    daemon_metrics_observe(cell2(s, S_EXPOSED, t->name, path), seconds(r->handover_exposed_ns), 1);
    daemon_metrics_observe(cell2(s, S_VERIFY, t->name, path), seconds(r->handover_verify_ns), 1);
    daemon_metrics_count(cell2(s, S_HANDOVERS, t->name, path), (double)r->handover_bytes);
}

static void observe_stages(const struct tier_cells *t, const struct daemon_request_record *r)
{
    observe_span(t->queue, r->received_at, r->placed_at);
    observe_span(t->e2e, r->received_at, r->done_at);
    if (r->first_token_at == 0)
        return;
    daemon_metrics_observe(t->worker_queue, seconds(r->worker_queue_ns), 1);
    daemon_metrics_observe(t->prefill, seconds(r->prefill_ns), 1);
    if (r->n_generated > 1)
        observe_span(t->decode, r->first_token_at, r->last_token_at);
}

static void observe_vllm(struct daemon_series *s, const struct daemon_request_record *r)
{
    const char *reason = vllm_reason(r->outcome);

    if (reason == NULL)
        return;
    daemon_metrics_count(cell3(s, S_V_SUCCESS, s->model, "0", reason), 1);
    observe_span(s->vllm[S_V_E2E], r->received_at, r->done_at);
    observe_span(s->vllm[S_V_QUEUE], r->received_at, r->placed_at);
    daemon_metrics_observe(s->vllm[S_V_PROMPT_SIZE], r->n_prompt, 1);
    daemon_metrics_observe(s->vllm[S_V_OUTPUT_SIZE], r->n_generated, 1);
    daemon_metrics_observe(s->vllm[S_V_MAX_TOKENS], r->max_new, 1);
    if (r->first_token_at == 0)
        return;
    observe_span(s->vllm[S_V_PREFILL], r->placed_at, r->first_token_at);
    observe_span(s->vllm[S_V_INFERENCE], r->placed_at, r->last_token_at);
    observe_span(s->vllm[S_V_DECODE], r->first_token_at, r->last_token_at);
    if (r->n_generated > 1 && r->last_token_at >= r->first_token_at)
        daemon_metrics_observe(s->vllm[S_V_TPOT],
                               seconds(r->last_token_at - r->first_token_at) / (r->n_generated - 1),
                               1);
}

void daemon_series_request_done(struct daemon_series *s, const struct daemon_request_record *r)
{
    struct tier_cells *t = tier_at(s, r->tier);

    daemon_metrics_count(cell3(s, S_REQUESTS, t->name, daemon_outcome_name(r->outcome),
                               r->reason != NULL ? r->reason : ""),
                         1);
    if (r->attempts > 1)
        daemon_metrics_count(t->resumed, 1);
    judge(s, t, r);
    observe_stages(t, r);
    observe_handover(s, t, r);
    observe_vllm(s, r);
}

void daemon_series_http_done(struct daemon_series *s, const char *route, int status,
                             uint64_t duration_ns, uint64_t bytes_out)
{
    char code[16];

    snprintf(code, sizeof(code), "%d", status);
    daemon_metrics_count(cell2(s, S_HTTP, route, code), 1);
    daemon_metrics_observe(cell1(s, S_HTTP_SECONDS, route), seconds(duration_ns), 1);
    daemon_metrics_count(cell1(s, S_HTTP_BYTES, route), (double)bytes_out);
}

/* ---- for a scrape ------------------------------------------------------------------------------ */

void daemon_series_workers_begin(struct daemon_series *s)
{
    static const enum series_id ids[] = {
        S_UP,      S_BLOCKS,     S_W_WAITING,  S_W_RUNNING, S_W_PARKED, S_W_PARKS,
        S_W_LOCAL, S_W_BACKLOG,  S_W_BIAS,     S_W_STEP,    S_W_STEPS,  S_W_TOKENS,
        S_W_BYTES, S_W_MESSAGES, S_LINK_SPEED, S_LINK_TRIP, S_W_TP};

    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        daemon_metrics_forget(s->families[ids[i]]);
    s->decode_blocks = s->decode_used = s->live_grants = s->live_sends = s->parks = 0;
    s->block_tokens = 0;
}

static void set_bytes(struct daemon_series *s, const struct daemon_series_worker *w,
                      const char *direction, const uint64_t bytes[DAEMON_SERIES_PATHS])
{
    for (int path = 1; path < DAEMON_SERIES_PATHS; path++) {
        const char *const values[] = {w->role, w->name, path_names[path], direction};

        if (bytes[path] > 0)
            daemon_metrics_set(daemon_metrics_cell(s->families[S_W_BYTES], values),
                               (double)bytes[path]);
    }
}

void daemon_series_worker(struct daemon_series *s, const struct daemon_series_worker *w)
{
    const char *r = w->role, *n = w->name;

    daemon_metrics_set(cell2(s, S_UP, r, n), w->up);
    if (!w->up)
        return;
    daemon_metrics_set(cell2(s, S_W_TP, r, n), w->tp);
    daemon_metrics_set(cell3(s, S_BLOCKS, r, n, "free"), w->free_blocks);
    daemon_metrics_set(cell3(s, S_BLOCKS, r, n, "owned"), w->owned_blocks);
    daemon_metrics_set(cell3(s, S_BLOCKS, r, n, "granted"), w->granted_blocks);
    daemon_metrics_set(cell3(s, S_BLOCKS, r, n, "quarantined"), w->quarantined_blocks);
    daemon_metrics_set(cell2(s, S_W_WAITING, r, n), w->waiting);
    daemon_metrics_set(cell2(s, S_W_RUNNING, r, n), w->running);
    daemon_metrics_set(cell2(s, S_W_PARKED, r, n), w->parked);
    if (w->decodes) {
        daemon_metrics_set(cell2(s, S_W_PARKS, r, n), (double)w->parks);
        daemon_metrics_set(cell2(s, S_W_LOCAL, r, n), (double)w->local_prefills);
    } else {
        daemon_metrics_set(cell2(s, S_W_BACKLOG, r, n), seconds(w->backlog_ns));
    }
    if (w->bias > 0)
        daemon_metrics_set(cell2(s, S_W_BIAS, r, n), w->bias);
    daemon_metrics_set(cell2(s, S_W_STEP, r, n), seconds(w->step_ns));
    daemon_metrics_set(cell2(s, S_W_STEPS, r, n), (double)w->steps);
    daemon_metrics_set(cell3(s, S_W_TOKENS, r, n, "prompt"), (double)w->prompt_tokens);
    daemon_metrics_set(cell3(s, S_W_TOKENS, r, n, "generated"), (double)w->generated_tokens);
    daemon_metrics_set(cell3(s, S_W_MESSAGES, r, n, "late"), (double)w->late_messages);
    daemon_metrics_set(cell3(s, S_W_MESSAGES, r, n, "malformed"), (double)w->bad_messages);
    set_bytes(s, w, "sent", w->bytes_sent);
    set_bytes(s, w, "received", w->bytes_received);
    s->live_grants += w->live_grants;
    s->live_sends += w->live_sends;
    s->parks += w->parks;
    if (w->decodes) {
        s->decode_blocks += w->n_blocks;
        s->decode_used +=
            w->n_blocks - (w->free_blocks < w->n_blocks ? w->free_blocks : w->n_blocks);
        s->block_tokens = w->block_tokens;
    }
}

/* The labels carry the numbers, so there is never more than one series. */
static void set_cache_config(struct daemon_series *s)
{
    char tokens[16], blocks[24];
    const char *const values[] = {s->model, "0", tokens, blocks};

    snprintf(tokens, sizeof(tokens), "%u", s->block_tokens);
    snprintf(blocks, sizeof(blocks), "%llu", (unsigned long long)s->decode_blocks);
    daemon_metrics_forget(s->families[S_V_CONFIG]);
    if (s->decode_blocks > 0)
        daemon_metrics_set(daemon_metrics_cell(s->families[S_V_CONFIG], values), 1);
}

void daemon_series_link(struct daemon_series *s, const char *from, const char *to,
                        const char *transport, const char *lanes, double bytes_per_s,
                        uint64_t round_trip_ns)
{
    const char *const values[] = {from, to, transport, lanes};

    daemon_metrics_set(daemon_metrics_cell(s->families[S_LINK_SPEED], values), bytes_per_s);
    daemon_metrics_set(daemon_metrics_cell(s->families[S_LINK_TRIP], values),
                       (double)round_trip_ns / 1e9);
}

void daemon_series_forecast(struct daemon_series *s, uint32_t tier, double ratio)
{
    daemon_metrics_observe(tier_at(s, tier)->forecast, ratio, 1);
}

void daemon_series_promises(struct daemon_series *s, uint32_t tier,
                            const struct daemon_series_promises *p)
{
    struct tier_cells *t = tier_at(s, tier);

    t->refused = 0;
    daemon_metrics_set(cell1(s, S_ARRIVALS, t->name), (double)p->arrived);
    daemon_metrics_set(cell1(s, S_ADMITTED, t->name), (double)p->admitted);
    daemon_metrics_set(cell2(s, S_PROMISES, t->name, "kept"), (double)p->kept);
    daemon_metrics_set(cell2(s, S_PROMISES, t->name, "broken"), (double)p->broken);
    daemon_metrics_set(cell2(s, S_PROMISES, t->name, "canceled"), (double)p->canceled);
    daemon_metrics_set(cell2(s, S_PROMISES, t->name, "downgraded"), (double)p->downgraded);
    daemon_metrics_set(cell2(s, S_PROMISES, t->name, "refused"), 0);
    daemon_metrics_set(cell1(s, S_MARGIN, t->name), p->margin);
}

void daemon_series_refused(struct daemon_series *s, uint32_t tier, const char *reason, uint64_t n)
{
    struct tier_cells *t = tier_at(s, tier);

    t->refused += n;
    daemon_metrics_set(cell2(s, S_REFUSALS, t->name, reason), (double)n);
    daemon_metrics_set(cell2(s, S_PROMISES, t->name, "refused"), (double)t->refused);
}

void daemon_series_prediction(struct daemon_series *s, uint32_t tier,
                              const struct daemon_series_prediction *p)
{
    const char *name = tier < s->n_tiers ? s->tiers[tier].name : "all";

    daemon_metrics_set(cell2(s, S_PREDICTIONS, name, p->stage), (double)p->n);
    daemon_metrics_set(cell2(s, S_P_BIAS, name, p->stage), p->bias);
    daemon_metrics_set(cell2(s, S_P_MAPE, name, p->stage), p->mape);
    daemon_metrics_set(cell2(s, S_P_COVERAGE, name, p->stage), p->coverage);
    if (!isnan(p->worst)) /* there is no cell, and so no sample, before there is a window */
        daemon_metrics_set(cell2(s, S_P_WORST, name, p->stage), p->worst);
    daemon_metrics_set(cell2(s, S_P_DRIFT, name, p->stage), p->drift);
}

static void set_alone(struct daemon_series *s, enum series_id id, double v)
{
    daemon_metrics_set(daemon_metrics_cell(s->families[id], NULL), v);
}

static void set_planner(struct daemon_series *s, const struct daemon_series_state *st)
{
    daemon_metrics_set(cell1(s, S_WANT, "prefill"), st->want_prefill);
    daemon_metrics_set(cell1(s, S_WANT, "decode"), st->want_decode);
    daemon_metrics_set(cell1(s, S_HAVE, "prefill"), st->have_prefill);
    daemon_metrics_set(cell1(s, S_HAVE, "decode"), st->have_decode);
    set_alone(s, S_FLIPS, (double)st->flips);
    set_alone(s, S_REVERSALS, (double)st->reversals);
    set_alone(s, S_FALLBACK, st->fallback);
    set_alone(s, S_RECORDS, (double)st->records);
    set_alone(s, S_RECORDS_LOST, (double)st->records_lost);
    daemon_metrics_set(s->vllm[S_V_PREEMPTED], (double)s->parks);
}

static void set_live(struct daemon_series *s, const char *what, uint64_t n)
{
    daemon_metrics_set(cell1(s, S_LIVE, what), (double)n);
}

void daemon_series_state(struct daemon_series *s, const struct daemon_series_state *st)
{
    uint64_t queued = 0, running = 0;

    for (uint32_t i = 0; i < s->n_tiers; i++) {
        daemon_metrics_set(cell1(s, S_QUEUED, s->tiers[i].name), st->queued[i]);
        daemon_metrics_set(cell1(s, S_RUNNING, s->tiers[i].name), st->running[i]);
        queued += st->queued[i];
        running += st->running[i];
    }
    set_alone(s, S_QUEUED_TOKENS, (double)st->queued_tokens);
    set_planner(s, st);
    set_live(s, "requests", st->requests);
    set_live(s, "claims", st->claims);
    set_live(s, "connections", st->connections);
    set_live(s, "exchanges", st->exchanges);
    set_live(s, "grants", s->live_grants);
    set_live(s, "sends", s->live_sends);
    set_alone(s, S_RESUMES, (double)st->resumes);
    set_alone(s, S_IGNORED, (double)st->ignored_events);
    set_alone(s, S_HTTP_CONNS, (double)st->connections_total);
    set_alone(s, S_HTTP_BAD, (double)st->bad_requests_total);
    daemon_metrics_set(s->vllm[S_V_RUNNING], (double)running);
    daemon_metrics_set(s->vllm[S_V_WAITING], (double)queued);
    daemon_metrics_set(s->vllm[S_V_KV], s->decode_blocks > 0
                                            ? (double)s->decode_used / (double)s->decode_blocks
                                            : 0);
    set_cache_config(s);
}

enum err daemon_series_render(struct daemon_series *s, struct buf *out)
{
    return daemon_metrics_render(s->metrics, out);
}
