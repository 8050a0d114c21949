/* daemon/frontend_admin.c - what an operator may look at with an admin key: records of requests, and the state
 * of tiers, predictions, workers and planner at this moment. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/frontend_impl.h"

enum { RECORDS_DEFAULT = 100, RECORDS_MAX = 1000 };

/* Without the right to look, the routes are not there; without any key, one is asked for. */
static bool may_look(const struct daemon_frontend *f, struct http_exchange *x)
{
    const struct daemon_config *c = f->c.config;
    const struct daemon_key *key = http_principal(x);
    bool any = f->has_admin_key;

    if (key != NULL && key->admin)
        return true;
    for (uint32_t i = 0; i < c->n_keys; i++)
        any |= c->keys[i].admin;
    if (!any || key != NULL)
        http_respond_error(x, 404, "invalid_request_error", NULL, "not_found",
                           "There is no such path; or this key may not see it.");
    else if (http_add_header(x, "WWW-Authenticate", "Bearer") == ERR_OK)
        http_respond_error(x, 401, "authentication_error", NULL, "invalid_api_key",
                           "This needs an admin key. Send it as 'Authorization: Bearer KEY'.");
    else
        http_stream_abort(x);
    return false;
}

/* ---- /admin/requests ---- */

/* The value of a query parameter, or false.  Nothing that is asked for here needs an escape. */
static bool query_value(const char *query, const char *key, char *out, size_t room)
{
    size_t len = strlen(key);

    for (const char *at = query; *at != '\0'; at += strcspn(at, "&"), at += *at == '&') {
        if (strncmp(at, key, len) == 0 && at[len] == '=') {
            snprintf(out, room, "%.*s", (int)strcspn(at + len + 1, "&"), at + len + 1);
            return true;
        }
    }
    return false;
}

static bool read_count(const char *text, uint32_t *out)
{
    char *end = NULL;
    unsigned long v = 0;

    if (text[0] >= '0' && text[0] <= '9')
        v = strtoul(text, &end, 10);
    if (end == NULL || *end != '\0' || v < 1 || v > RECORDS_MAX)
        return false;
    *out = (uint32_t)v;
    return true;
}

struct wish {
    uint32_t n, tier;
    unsigned outcome;
};

static const char *read_wish(const struct daemon_config *c, const char *query, struct wish *w)
{
    char text[64];

    *w = (struct wish){.n = RECORDS_DEFAULT, .tier = SCHED_TIERS_MAX};
    if (query_value(query, "n", text, sizeof(text)) && !read_count(text, &w->n))
        return "n must be a whole number from 1 to 1000.";
    if (query_value(query, "tier", text, sizeof(text))) {
        for (w->tier = 0; w->tier < c->n_tiers; w->tier++) {
            if (strcmp(c->tiers[w->tier].name, text) == 0)
                break;
        }
        if (w->tier == c->n_tiers)
            return "tier must be the name of a configured tier.";
    }
    if (query_value(query, "outcome", text, sizeof(text))) {
        for (w->outcome = SCHED_OUT_KEPT; w->outcome <= SCHED_OUT_FAILED; w->outcome++) {
            if (strcmp(sched_outcome_name((enum sched_outcome)w->outcome), text) == 0)
                break;
        }
        if (w->outcome > SCHED_OUT_FAILED)
            return "outcome must be kept, missed, refused, canceled or failed.";
    }
    return NULL;
}

void frontend_on_admin_requests(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    struct daemon_records_stats s;
    struct buf out = BUF_INIT;
    struct wish w;
    const char *wrong;
    enum err err;

    if (!may_look(f, x))
        return;
    wrong = read_wish(f->c.config, http_query(x), &w);
    if (wrong != NULL) {
        http_respond_error(x, 400, "invalid_request_error", NULL, "invalid_value", wrong);
        return;
    }
    daemon_records_stats(f->records, &s);
    err = buf_printf(&out,
                     "{\"object\":\"list\",\"total\":%llu,\"data\":", (unsigned long long)s.taken);
    if (err == ERR_OK)
        err = daemon_records_render(f->records, w.n, w.tier, w.outcome, &out);
    if (err == ERR_OK)
        err = buf_puts(&out, "}");
    frontend_answer(x, 200, &out, err);
    buf_free(&out);
}

/* ---- /admin/state ---- */

static const char *miss_rule(enum sched_miss_rule r)
{
    switch (r) {
    case SCHED_MISS_REFUSE:
        return "refuse";
    case SCHED_MISS_WAIT:
        return "wait";
    case SCHED_MISS_DOWNGRADE:
        return "downgrade";
    }
    return "?";
}

static enum err put_refused(const struct sched_tier_stats *s, uint64_t *sum, struct buf *out)
{
    enum err err = buf_puts(out, ",\"refused\":{");
    bool first = true;

    *sum = 0;
    for (int r = SCHED_REASON_NONE + 1; r <= SCHED_REASON_DISPLACED && err == ERR_OK; r++) {
        if (s->refused[r] == 0)
            continue;
        *sum += s->refused[r];
        err =
            buf_printf(out, "%s\"%s\":%llu", first ? "" : ",",
                       sched_reason_name((enum sched_reason)r), (unsigned long long)s->refused[r]);
        first = false;
    }
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

static enum err put_tier(const struct daemon_frontend *f, uint32_t i, const struct sched_stats *all,
                         struct buf *out)
{
    const struct sched_tier *t = &f->c.config->tiers[i];
    struct sched_tier_stats s;
    uint64_t refused = 0, judged;
    enum err err;

    sched_get_tier_stats(daemon_hub_sched(f->hub), i, &s);
    err = buf_printf(out,
                     "{\"name\":\"%s\",\"label\":\"%s\",\"ttft_ms\":%.10g,\"ttft_factor\":%.10g,"
                     "\"tbt_ms\":%.10g,\"percentile\":%.10g,\"weight\":%.10g,\"reserved\":%.10g,"
                     "\"on_miss\":\"%s\","
                     "\"queued\":%u,\"running\":%u,\"arrived\":%llu,\"admitted\":%llu,"
                     "\"kept\":%llu,\"broken\":%llu,\"downgraded\":%llu,\"canceled\":%llu,"
                     "\"probes\":%llu,\"margin\":%.4f",
                     t->name, f->c.config->tier_labels[i], (double)t->ttft_ns / 1e6, t->ttft_factor,
                     (double)t->tbt_ns / 1e6, t->percentile, t->weight, t->reserved,
                     miss_rule(t->on_miss), all->queued[i], all->running[i],
                     (unsigned long long)s.arrived, (unsigned long long)s.admitted,
                     (unsigned long long)s.kept, (unsigned long long)s.broken,
                     (unsigned long long)s.downgraded, (unsigned long long)s.canceled,
                     (unsigned long long)s.probes, s.margin);
    if (err == ERR_OK)
        err = put_refused(&s, &refused, out);
    judged = s.kept + s.broken + refused;
    if (err == ERR_OK && judged > 0)
        err = buf_printf(out, ",\"attainment\":%.4f", (double)s.kept / (double)judged);
    else if (err == ERR_OK)
        err = buf_puts(out, ",\"attainment\":null");
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

static enum err put_tiers(const struct daemon_frontend *f, const struct sched_stats *all,
                          struct buf *out)
{
    enum err err = buf_puts(out, ",\"tiers\":[");

    for (uint32_t i = 0; i < f->c.config->n_tiers && err == ERR_OK; i++) {
        if (i > 0)
            err = buf_puts(out, ",");
        if (err == ERR_OK)
            err = put_tier(f, i, all, out);
    }
    return err == ERR_OK ? buf_puts(out, "]") : err;
}

/* One row per tier and stage of which anything is known, and one over all tiers. */
static enum err put_predictor(const struct daemon_frontend *f, struct buf *out)
{
    const struct sched *s = daemon_hub_sched(f->hub);
    const char *fallback = sched_fallback(s);
    enum err err = buf_puts(out, ",\"fallback\":");
    bool first = true;

    if (err == ERR_OK)
        err = api_render_string(out, fallback, strlen(fallback));
    if (err == ERR_OK)
        err = buf_puts(out, ",\"predictor\":[");
    for (uint32_t i = 0; i <= f->c.config->n_tiers; i++) {
        uint32_t tier = i < f->c.config->n_tiers ? i : SCHED_TIERS_MAX;

        for (int stage = 0; stage < SCHED_STAGES && err == ERR_OK; stage++) {
            char worst[16] = "null";
            struct sched_health h;

            sched_get_health(s, tier, (enum sched_stage)stage, &h);
            if (h.n == 0)
                continue;
            if (h.windowed)
                snprintf(worst, sizeof(worst), "%.4f", h.worst);
            err = buf_printf(
                out,
                "%s{\"tier\":\"%s\",\"stage\":\"%s\",\"n\":%llu,\"bias\":%.4f,"
                "\"mape\":%.4f,\"coverage\":%.4f,\"worst\":%s,\"drift\":%s,"
                "\"lost\":%s}",
                first ? "" : ",", i < f->c.config->n_tiers ? f->c.config->tiers[i].name : "all",
                sched_stage_name((enum sched_stage)stage), (unsigned long long)h.n, h.bias, h.mape,
                h.coverage, worst, h.drift ? "true" : "false", h.lost ? "true" : "false");
            first = false;
        }
    }
    return err == ERR_OK ? buf_puts(out, "]") : err;
}

static enum err put_report(const Baton__Report *r, struct buf *out)
{
    if (r == NULL)
        return ERR_OK;
    return buf_printf(out,
                      ",\"free_blocks\":%u,\"running\":%u,\"waiting\":%u,\"parked\":%u,"
                      "\"step_ms\":%.3f",
                      r->free_blocks, r->running, r->waiting, r->parked, (double)r->step_ns / 1e6);
}

/* How KV reaches it and leaves it, over all its links. */
static enum err put_kv_paths(const struct daemon_frontend *f, const char *worker, struct buf *out)
{
    enum err err = buf_puts(out, ",\"kv_paths\":\"");
    const char *from, *to;
    const Baton__Link *link;
    unsigned paths = 0;

    for (size_t at = 0; daemon_hub_next_link(f->hub, &at, &from, &to, &link);) {
        if (strcmp(from, worker) == 0 || strcmp(to, worker) == 0)
            paths |= 1u << link->path;
    }
    for (unsigned path = 0; path < KVT_PATHS && err == ERR_OK; path++) {
        if (paths & 1u << path)
            err = buf_printf(out, "%s%s", paths & ((1u << path) - 1) ? "," : "",
                             kvt_path_name((enum kvt_path)path));
    }
    return err == ERR_OK ? buf_puts(out, "\"") : err;
}

static enum err put_worker(const struct daemon_frontend *f, const struct daemon_worker_view *w,
                           struct buf *out)
{
    struct sched_worker_view v;
    bool known = sched_get_worker(daemon_hub_sched(f->hub), w->id, &v) == ERR_OK;
    enum err err = buf_printf(out, "{\"id\":%u,\"name\":", w->id);

    if (err == ERR_OK)
        err = api_render_string(out, w->name, strlen(w->name));
    if (err == ERR_OK)
        err = buf_puts(out, ",\"class\":");
    if (err == ERR_OK)
        err = api_render_string(out, w->klass, strlen(w->klass));
    if (err == ERR_OK)
        err = buf_printf(out, ",\"role\":\"%s\",\"state\":\"%s\",\"blocks\":%u",
                         w->role == SCHED_ROLE_PREFILL ? "prefill" : "decode",
                         !w->joined ? "loading"
                         : known && v.draining
                             ? v.flipping && v.requests == 0 ? "flipping" : "draining"
                             : "ready",
                         w->n_blocks);
    if (err == ERR_OK && w->tp > 0)
        err = buf_printf(out, ",\"tp\":%u", w->tp);
    if (err == ERR_OK)
        err = put_kv_paths(f, w->name, out);
    if (err == ERR_OK && known)
        err = buf_printf(out,
                         ",\"claimed_blocks\":%u,\"requests\":%u,\"queued\":%u,"
                         "\"outstanding_tokens\":%llu,\"backlog_ms\":%.3f,\"bias\":%.4f",
                         v.claimed_blocks, v.requests, v.queued,
                         (unsigned long long)v.outstanding_tokens, (double)v.backlog_ns / 1e6,
                         v.bias);
    if (err == ERR_OK)
        err = put_report(w->report, out);
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

static enum err put_workers(const struct daemon_frontend *f, struct buf *out)
{
    struct daemon_worker_view w;
    size_t at = 0;
    enum err err = buf_puts(out, ",\"workers\":[");

    while (err == ERR_OK && daemon_hub_next_worker(f->hub, &at, &w)) {
        if (at > 1)
            err = buf_puts(out, ",");
        if (err == ERR_OK)
            err = put_worker(f, &w, out);
    }
    return err == ERR_OK ? buf_puts(out, "]") : err;
}

static enum err put_whole(const struct daemon_frontend *f, struct buf *out)
{
    const struct daemon_config *c = f->c.config;
    struct sched_stats s;
    struct daemon_records_stats records;
    enum err err = buf_puts(out, "{\"model\":");

    daemon_hub_stats(f->hub, &s);
    daemon_records_stats(f->records, &records);
    if (err == ERR_OK)
        err = api_render_string(out, f->model_name, strlen(f->model_name));
    if (err == ERR_OK)
        err = buf_printf(out,
                         ",\"version\":\"%s\",\"policy\":\"%s\",\"uptime_s\":%lld,\"draining\":%s,"
                         "\"requests\":%u,\"claims\":%u,\"queued_tokens\":%llu,\"resumes\":%llu,"
                         "\"ignored_events\":%llu,\"records\":%llu,\"records_lost\":%llu",
                         BATON_VERSION, c->policy,
                         (long long)(clock_wall_ns() / CLOCK_NS_PER_S) - (long long)f->started_s,
                         f->draining ? "true" : "false", s.requests, s.claims,
                         (unsigned long long)s.queued_tokens, (unsigned long long)s.resumes,
                         (unsigned long long)s.ignored_events, (unsigned long long)records.taken,
                         (unsigned long long)records.lost);
    if (err == ERR_OK)
        err = buf_printf(
            out,
            ",\"planner\":{\"elastic\":%s,\"prefill\":%u,\"decode\":%u,\"want_prefill\":%u,"
            "\"want_decode\":%u,\"flips\":%llu,\"reversals\":%llu}",
            c->elastic ? "true" : "false", s.workers[SCHED_ROLE_PREFILL],
            s.workers[SCHED_ROLE_DECODE], s.want[SCHED_ROLE_PREFILL], s.want[SCHED_ROLE_DECODE],
            (unsigned long long)s.flips, (unsigned long long)s.reversals);
    if (err == ERR_OK)
        err = put_tiers(f, &s, out);
    if (err == ERR_OK)
        err = put_predictor(f, out);
    if (err == ERR_OK)
        err = put_workers(f, out);
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

void frontend_on_admin_state(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    struct buf out = BUF_INIT;

    if (!may_look(f, x))
        return;
    frontend_answer(x, 200, &out, put_whole(f, &out));
    buf_free(&out);
}
