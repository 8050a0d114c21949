/* daemon/status_show.c - see the header. */
#include "daemon/status_show.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the table ---- */

/* 950 us, 12.5 ms, 1.20 s; "-" for nothing. */
static const char *time_text(double ms, char out[24])
{
    if (ms < 0.0005)
        snprintf(out, 24, "-");
    else if (ms < 1)
        snprintf(out, 24, "%.0f us", ms * 1e3);
    else if (ms < 1000)
        snprintf(out, 24, ms < 100 ? "%.1f ms" : "%.0f ms", ms);
    else
        snprintf(out, 24, ms < 100000 ? "%.2f s" : "%.0f s", ms / 1e3);
    return out;
}

static const char *share_text(double share, char out[24])
{
    if (share < 0)
        snprintf(out, 24, "-");
    else
        snprintf(out, 24, "%.1f%%", share * 100);
    return out;
}

static enum err put_head(const struct status *s, struct buf *out)
{
    enum err err = buf_printf(out, "%s  baton %s", s->model, s->version);

    if (err == ERR_OK && s->policy[0] != '\0')
        err = buf_printf(out, "  policy %s", s->policy);
    if (err == ERR_OK && s->uptime_s > 0)
        err = buf_printf(out, "  up %u:%02u:%02u", s->uptime_s / 3600, s->uptime_s / 60 % 60,
                         s->uptime_s % 60);
    if (err == ERR_OK && s->draining)
        err = buf_puts(out, "  DRAINING");
    if (err == ERR_OK)
        err = buf_printf(out, "\nprefill %u", s->prefill);
    if (err == ERR_OK && s->want_prefill > 0)
        err = buf_printf(out, " (wanted %u)", s->want_prefill);
    if (err == ERR_OK)
        err = buf_printf(out, "  decode %u", s->decode);
    if (err == ERR_OK && s->want_decode > 0)
        err = buf_printf(out, " (wanted %u)", s->want_decode);
    if (err == ERR_OK && (s->elastic || s->flips > 0))
        err = buf_printf(out, "  role changes %" PRIu64 ", taken back %" PRIu64, s->flips,
                         s->reversals);
    if (err == ERR_OK && s->records_lost > 0)
        err = buf_printf(out, "  RECORDS LOST %" PRIu64, s->records_lost);
    if (err == ERR_OK && s->fallback[0] != '\0')
        err = buf_printf(out, "\nPREDICTIONS NOT TRUSTED: %s", s->fallback);
    return err == ERR_OK ? buf_puts(out, "\n") : err;
}

static const struct status_tier *same_tier(const struct status *s, const char *name)
{
    for (uint32_t i = 0; s != NULL && i < s->n_tiers; i++) {
        if (strcmp(s->tiers[i].name, name) == 0)
            return &s->tiers[i];
    }
    return NULL;
}

/* Attainment of what was judged since `before`. */
static double recent_attainment(const struct status_tier *t, const struct status_tier *before)
{
    struct status_tier d = *t;

    if (before == NULL || before->kept > t->kept || before->broken > t->broken ||
        before->refused > t->refused)
        return -1;
    d.kept -= before->kept;
    d.broken -= before->broken;
    d.refused -= before->refused;
    return status_attainment(&d);
}

/* What matters most comes first: a narrow terminal cuts the rest. */
static enum err put_tiers(const struct status *s, const struct status *before, double seconds,
                          struct buf *out)
{
    enum err err = buf_printf(out, "\n%-12s %8s", "TIER", "ATTAINED");

    if (err == ERR_OK && before != NULL)
        err = buf_printf(out, " %8s %8s", "NOW", "REQ/S");
    if (err == ERR_OK)
        err = buf_printf(out, " %7s %7s %9s %9s %7s %8s %9s %9s %6s\n", "QUEUED", "RUNNING",
                         "ARRIVED", "KEPT", "BROKEN", "REFUSED", "TTFT", "TBT", "MARGIN");
    for (uint32_t i = 0; i < s->n_tiers && err == ERR_OK; i++) {
        const struct status_tier *t = &s->tiers[i], *b = same_tier(before, t->name);
        char ttft[24], tbt[24], share[24];

        err = buf_printf(out, "%-12s %8s", t->name, share_text(status_attainment(t), share));
        if (err == ERR_OK && before != NULL)
            err = buf_printf(out, " %8s %8.1f", share_text(recent_attainment(t, b), share),
                             b != NULL && b->arrived <= t->arrived && seconds > 0
                                 ? (double)(t->arrived - b->arrived) / seconds
                                 : 0);
        if (err == ERR_OK)
            err = buf_printf(
                out, " %7u %7u %9" PRIu64 " %9" PRIu64 " %7" PRIu64 " %8" PRIu64 " %9s %9s %6.2f\n",
                t->queued, t->running, t->arrived, t->kept, t->broken, t->refused,
                time_text(t->ttft_ms, ttft), time_text(t->tbt_ms, tbt), t->margin);
    }
    return err;
}

/* Over all tiers where that is known, so that the table stays short. */
static enum err put_stages(const struct status *s, struct buf *out)
{
    enum err err;

    if (s->n_stages == 0)
        return ERR_OK;
    err = buf_printf(out, "\n%-12s %-12s %10s %8s %8s %8s %8s  %s\n", "PREDICTION", "TIER", "SEEN",
                     "BIAS", "ERROR", "COVERED", "WORST", "(covered: 90% is right)");
    for (uint32_t i = 0; i < s->n_stages && err == ERR_OK; i++) {
        const struct status_stage *p = &s->stages[i];
        char worst[16] = "-";

        if (strcmp(p->tier, "all") != 0 && strcmp(p->stage, "ttft") != 0)
            continue;
        if (!isnan(p->worst))
            snprintf(worst, sizeof(worst), "%.1f%%", p->worst * 100);
        err = buf_printf(out, "%-12s %-12s %10" PRIu64 " %+7.1f%% %7.1f%% %7.1f%% %8s  %s%s\n",
                         p->stage, p->tier, p->n, p->bias * 100, p->mape * 100, p->coverage * 100,
                         worst, p->drift ? "DRIFT " : "", p->lost ? "NOT TRUSTED" : "");
    }
    return err;
}

static enum err put_workers(const struct status *s, struct buf *out)
{
    enum err err = buf_printf(out, "\n%-16s %-8s %-9s %3s %7s %7s %7s %7s %9s %9s %6s  %-10s  %s\n",
                              "WORKER", "ROLE", "STATE", "TP", "RUNNING", "WAITING", "PARKED",
                              "KV USED", "BACKLOG", "STEP", "BIAS", "KV PATH", "CLASS");

    for (uint32_t i = 0; i < s->n_workers && err == ERR_OK; i++) {
        const struct status_worker *w = &s->workers[i];
        uint32_t used = w->blocks > w->free_blocks ? w->blocks - w->free_blocks : 0;
        char backlog[24], step[24], share[24], bias[24] = "-", tp[12] = "-";

        if (w->bias > 0)
            snprintf(bias, sizeof(bias), "%.2f", w->bias);
        if (w->tp > 0)
            snprintf(tp, sizeof(tp), "%u", w->tp);
        err = buf_printf(out, "%-16.16s %-8.8s %-9.9s %3s %7u %7u %7u %7s %9s %9s %6s  %-10s  %s\n",
                         w->name, w->role, w->state, tp, w->running, w->waiting, w->parked,
                         share_text(w->blocks > 0 ? (double)used / w->blocks : -1, share),
                         time_text(w->backlog_ms, backlog), time_text(w->step_ms, step), bias,
                         w->kv_paths[0] != '\0' ? w->kv_paths : "-", w->klass);
    }
    return err;
}

enum err status_show_table(const struct status *s, const struct status *before, double seconds,
                           struct buf *out)
{
    enum err err = put_head(s, out);

    if (err == ERR_OK)
        err = put_tiers(s, before, seconds, out);
    if (err == ERR_OK)
        err = put_stages(s, out);
    if (err == ERR_OK)
        err = put_workers(s, out);
    if (err == ERR_OK && !s->whole)
        err =
            buf_puts(out, "\nFrom /metrics; with an admin key (baton serve --admin-key-file FILE) "
                          "there is more to see.\n");
    return err;
}

/* ---- the object ---- */

/* Names are printable ASCII. */
static enum err put_string(struct buf *out, const char *key, const char *text)
{
    enum err err = buf_printf(out, "\"%s\":\"", key);

    for (; err == ERR_OK && *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            err = buf_puts(out, "\\");
        if (err == ERR_OK)
            err = buf_append(out, text, 1);
    }
    return err == ERR_OK ? buf_puts(out, "\",") : err;
}

static enum err put_tier_object(const struct status_tier *t, struct buf *out)
{
    double share = status_attainment(t);
    enum err err = buf_puts(out, "{");

    if (err == ERR_OK)
        err = put_string(out, "name", t->name);
    if (err == ERR_OK)
        err = buf_printf(out,
                         "\"ttft_ms\":%.10g,\"tbt_ms\":%.10g,\"queued\":%u,\"running\":%u,"
                         "\"arrived\":%" PRIu64 ",\"admitted\":%" PRIu64 ",\"kept\":%" PRIu64
                         ",\"broken\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"canceled\":%" PRIu64
                         ",\"downgraded\":%" PRIu64 ",\"margin\":%.4f,\"attainment\":",
                         t->ttft_ms, t->tbt_ms, t->queued, t->running, t->arrived, t->admitted,
                         t->kept, t->broken, t->refused, t->canceled, t->downgraded, t->margin);
    if (err != ERR_OK)
        return err;
    return share < 0 ? buf_puts(out, "null}") : buf_printf(out, "%.4f}", share);
}

static enum err put_stage_object(const struct status_stage *p, struct buf *out)
{
    char worst[16] = "null";
    enum err err = buf_puts(out, "{");

    if (err == ERR_OK)
        err = put_string(out, "tier", p->tier);
    if (err == ERR_OK)
        err = put_string(out, "stage", p->stage);
    if (err != ERR_OK)
        return err;
    if (!isnan(p->worst))
        snprintf(worst, sizeof(worst), "%.4f", p->worst);
    return buf_printf(out,
                      "\"n\":%" PRIu64 ",\"bias\":%.4f,\"mape\":%.4f,\"coverage\":%.4f,"
                      "\"worst\":%s,\"drift\":%s,\"lost\":%s}",
                      p->n, p->bias, p->mape, p->coverage, worst, p->drift ? "true" : "false",
                      p->lost ? "true" : "false");
}

static enum err put_worker_object(const struct status_worker *w, struct buf *out)
{
    enum err err = buf_puts(out, "{");

    if (err == ERR_OK)
        err = put_string(out, "name", w->name);
    if (err == ERR_OK)
        err = put_string(out, "role", w->role);
    if (err == ERR_OK)
        err = put_string(out, "state", w->state);
    if (err == ERR_OK)
        err = put_string(out, "class", w->klass);
    if (err == ERR_OK)
        err = put_string(out, "kv_paths", w->kv_paths);
    if (err != ERR_OK)
        return err;
    return buf_printf(out,
                      "\"tp\":%u,\"blocks\":%u,\"free_blocks\":%u,\"running\":%u,"
                      "\"waiting\":%u,\"parked\":%u,\"backlog_ms\":%.3f,\"step_ms\":%.3f,"
                      "\"bias\":%.4f}",
                      w->tp, w->blocks, w->free_blocks, w->running, w->waiting, w->parked,
                      w->backlog_ms, w->step_ms, w->bias);
}

enum err status_show_json(const struct status *s, struct buf *out)
{
    enum err err = buf_puts(out, "{");

    if (err == ERR_OK)
        err = put_string(out, "model", s->model);
    if (err == ERR_OK)
        err = put_string(out, "version", s->version);
    if (err == ERR_OK)
        err = put_string(out, "policy", s->policy);
    if (err == ERR_OK)
        err = put_string(out, "fallback", s->fallback);
    if (err == ERR_OK)
        err = buf_printf(out,
                         "\"uptime_s\":%u,\"draining\":%s,\"elastic\":%s,\"prefill\":%u,"
                         "\"decode\":%u,\"want_prefill\":%u,\"want_decode\":%u,\"flips\":%" PRIu64
                         ",\"reversals\":%" PRIu64 ",\"records\":%" PRIu64
                         ",\"records_lost\":%" PRIu64 ",\"tiers\":[",
                         s->uptime_s, s->draining ? "true" : "false", s->elastic ? "true" : "false",
                         s->prefill, s->decode, s->want_prefill, s->want_decode, s->flips,
                         s->reversals, s->records, s->records_lost);
    for (uint32_t i = 0; i < s->n_tiers && err == ERR_OK; i++) {
        err = i > 0 ? buf_puts(out, ",") : ERR_OK;
        if (err == ERR_OK)
            err = put_tier_object(&s->tiers[i], out);
    }
    if (err == ERR_OK)
        err = buf_puts(out, "],\"predictor\":[");
    for (uint32_t i = 0; i < s->n_stages && err == ERR_OK; i++) {
        err = i > 0 ? buf_puts(out, ",") : ERR_OK;
        if (err == ERR_OK)
            err = put_stage_object(&s->stages[i], out);
    }
    if (err == ERR_OK)
        err = buf_puts(out, "],\"workers\":[");
    for (uint32_t i = 0; i < s->n_workers && err == ERR_OK; i++) {
        err = i > 0 ? buf_puts(out, ",") : ERR_OK;
        if (err == ERR_OK)
            err = put_worker_object(&s->workers[i], out);
    }
    return err == ERR_OK ? buf_puts(out, "]}\n") : err;
}
