/* daemon/call_contract.c - what a call is promised: its tier, targets of its own, and the answer when the
 * scheduler will not promise anything. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/frontend_impl.h"
#include "daemon/refusal.h"

enum { LENGTH_KEY_TOKENS = 1024 };

/* ---- asked ---- */

/* The words of the OpenAI field; UINT32_MAX: no tier of ours. */
static uint32_t tier_asked(const struct daemon_config *c, const char *word, uint32_t own)
{
    if (word[0] == '\0' || strcmp(word, "auto") == 0 || strcmp(word, "default") == 0 ||
        strcmp(word, "scale") == 0)
        return own;
    if (strcmp(word, "priority") == 0 || strcmp(word, "fast") == 0)
        return 0;
    if (strcmp(word, "flex") == 0)
        return c->n_tiers - 1;
    for (uint32_t i = 0; i < c->n_tiers; i++) {
        if (strcmp(word, c->tiers[i].name) == 0)
            return i;
    }
    return UINT32_MAX;
}

static bool is_openai_word(const char *word)
{
    static const char *const words[] = {"", "auto", "default", "scale", "priority", "fast", "flex"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(word, words[i]) == 0)
            return true;
    }
    return false;
}

/* A client that asked in OpenAI's words is answered in them. */
static void set_tier(struct call *call, uint32_t tier)
{
    const struct daemon_config *c = call->f->c.config;

    call->tier = tier;
    if (!is_openai_word(call->r->service_tier))
        call->tier_label = c->tiers[tier].name;
    else
        call->tier_label = tier == 0 ? "priority" : tier == c->n_tiers - 1 ? "flex" : "default";
    call->head.tier = call->tier_label;
}

static bool pick_tier(struct call *call)
{
    const struct daemon_config *c = call->f->c.config;
    const struct daemon_key *key = http_principal(call->x);
    uint32_t best = key != NULL ? key->tier : 0;
    uint32_t own = key != NULL ? key->tier : call->f->default_tier;
    uint32_t asked = tier_asked(c, call->r->service_tier, own);

    if (asked == UINT32_MAX) {
        api_error_set(
            &call->error, 400, "invalid_request_error", "service_tier", "invalid_value",
            "service_tier must be auto, default, priority, fast, flex, scale or the name of a "
            "configured tier.");
        return false;
    }
    call->tenant = key != NULL ? key->tenant_id : 0;
    set_tier(call, asked < best ? best : asked);
    return true;
}

/* A target of the request's own, in *ns; never tighter than the tier's.  An absent header leaves 0. */
static bool read_target(struct call *call, const char *header, uint64_t tier_ns, uint64_t *ns)
{
    const char *text = http_header(call->x, header);
    char *end = NULL;
    double ms = 0;

    *ns = 0;
    if (text == NULL)
        return true;
    if (strspn(text, "0123456789.") == strlen(text))
        ms = strtod(text, &end);
    if (end == NULL || end == text || *end != '\0' || !(ms > 0) || ms > 86400000) {
        api_error_set(
            &call->error, 400, "invalid_request_error", header, "invalid_value",
            "The header %s must be a number of milliseconds above 0 and at most 86400000.", header);
        return false;
    }
    *ns = (uint64_t)(ms * 1e6);
    /* The scheduler does the same; a request that ends before it said so is judged by this. */
    if (*ns < tier_ns)
        *ns = tier_ns;
    return true;
}

bool call_pick_contract(struct call *call)
{
    const struct sched_tier *t;

    if (!pick_tier(call))
        return false;
    t = &call->f->c.config->tiers[call->tier];
    return read_target(call, "x-slo-ttft-ms", t->ttft_ns, &call->ttft_ns) &&
           read_target(call, "x-slo-tpot-ms", t->tbt_ns, &call->tbt_ns);
}

/* Prompts that begin alike tend to have answers of like length. */
static uint64_t length_key(const struct engine_ids *ids, uint32_t tenant)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ tenant;

    for (size_t i = 0; i < ids->n && i < LENGTH_KEY_TOKENS; i++) {
        h ^= (uint32_t)ids->ids[i];
        h *= 0xd6e8feb86659fd93u;
        h ^= h >> 32;
    }
    return h != 0 ? h : 1;
}

void call_fill_submit(const struct call_gen *g, struct daemon_hub_submit *s)
{
    const struct call *call = g->call;
    const struct engine_ids *ids = &call->prompts[g->prompt].ids;

    *s = (struct daemon_hub_submit){.request = g->g.id,
                                    .tier = call->tier,
                                    .priority = call->r->priority,
                                    .n_prompt = (uint32_t)ids->n,
                                    .max_new = g->max_new,
                                    .arrived_ns = call->arrived_ns,
                                    .tenant = call->tenant,
                                    .length_key = length_key(ids, call->tenant),
                                    .ttft_ns = call->ttft_ns,
                                    .tbt_ns = call->tbt_ns};
}

/* ---- promised ---- */

/* Until the scheduler says more. */
void call_begin_terms(struct call_gen *g)
{
    const struct call *call = g->call;
    const struct sched_tier *t = &call->f->c.config->tiers[call->tier];

    g->tier = call->tier;
    g->deadline_ns = call->arrived_ns + (call->ttft_ns != 0 ? call->ttft_ns : t->ttft_ns);
    g->tbt_ns = call->tbt_ns != 0 ? call->tbt_ns : t->tbt_ns;
    g->late_ns = INT64_MIN;
}

void call_take_terms(struct call_gen *g, const struct sched_terms *t)
{
    struct call *call = g->call;
    uint32_t loosest = 0;

    if (t->tier < call->f->c.config->n_tiers)
        g->tier = t->tier;
    if (t->deadline_ns != 0) {
        g->deadline_ns = t->deadline_ns;
        g->tbt_ns = t->tbt_ns;
    }
    for (uint32_t i = 0; i < call->n_gens; i++) {
        if (call->gens[i].submitted && call->gens[i].tier > loosest)
            loosest = call->gens[i].tier;
    }
    if (loosest != call->tier && !call->streaming)
        set_tier(call, loosest);
}

void call_note_lateness(struct call_gen *g, uint32_t first, uint64_t now)
{
    int64_t late = (int64_t)(now - (g->deadline_ns + first * g->tbt_ns));

    if (late > g->late_ns)
        g->late_ns = late;
}

int64_t call_lateness(const struct call_gen *g)
{
    uint64_t n = g->g.n_log;
    int64_t over; /* what the mean time between tokens is over its target, all together */

    if (n < 2)
        return g->late_ns;
    over = (int64_t)(g->times.last_ns - g->times.first_ns) - (int64_t)((n - 1) * g->tbt_ns);
    return over > g->late_ns ? over : g->late_ns;
}

static enum err add_ms(struct http_exchange *x, const char *name, uint64_t ns)
{
    char text[32];

    snprintf(text, sizeof(text), "%.10g", (double)ns / 1e6);
    return http_add_header(x, name, text);
}

enum err call_add_contract_headers(struct call *call)
{
    const struct call_gen *g = &call->gens[0];
    enum err err =
        http_add_header(call->x, "x-baton-tier", call->f->c.config->tiers[call->tier].name);

    if (!g->submitted)
        return err;
    if (err == ERR_OK && call->ttft_ns != 0)
        err = add_ms(call->x, "x-slo-ttft-ms", g->deadline_ns - call->arrived_ns);
    if (err == ERR_OK && call->tbt_ns != 0)
        err = add_ms(call->x, "x-slo-tpot-ms", g->tbt_ns);
    return err;
}

/* ---- refused ---- */

static const char *code_of(enum sched_reason r)
{
    switch (r) {
    case SCHED_REASON_QUEUE_FULL:
        return "queue_full";
    case SCHED_REASON_TTFT:
        return "ttft_unreachable";
    case SCHED_REASON_TBT:
        return "tbt_unreachable";
    case SCHED_REASON_PRICE:
        return "no_capacity";
    case SCHED_REASON_QUOTA:
        return "quota_exceeded";
    case SCHED_REASON_SHARE:
        return "fair_share_exceeded";
    case SCHED_REASON_DISPLACED:
        return "displaced";
    case SCHED_REASON_NONE:
    case SCHED_REASON_TOO_LARGE:
    case SCHED_REASON_STOPPING:
    case SCHED_REASON_QUEUE_TIMEOUT:
    case SCHED_REASON_REQUEST_TIMEOUT:
    case SCHED_REASON_ATTEMPTS:
        break;
    }
    return "rate_limit_exceeded";
}

static enum err render_refusal(struct buf *out, const struct call *call,
                               const struct daemon_refusal *r)
{
    const char *stage = sched_resource_stage(r->what.resource);
    enum err err = buf_printf(
        out,
        "{\"error\":{\"message\":\"%s%s\",\"type\":\"rate_limit_error\",\"param\":null,"
        "\"code\":\"%s\",\"reason\":{\"stage\":\"%s\",\"resource\":\"%s\",\"tier\":\"%s\"",
        daemon_refusal_words(r),
        r->retry_after_ns > 0 ? " Try again later." : " Trying again would be no use.",
        code_of(r->reason), stage, sched_resource_name(r->what.resource),
        call->f->c.config->tiers[call->tier].name);

    if (err == ERR_OK && r->what.predicted_ns != 0)
        err = buf_printf(out, ",\"predicted_ms\":%.3f", (double)r->what.predicted_ns / 1e6);
    if (err == ERR_OK && r->what.target_ns != 0)
        err = buf_printf(out, ",\"target_ms\":%.3f", (double)r->what.target_ns / 1e6);
    return err == ERR_OK ? buf_puts(out, "}}}") : err;
}

static enum err add_retry_headers(struct call *call, uint64_t retry_after_ns)
{
    enum err err =
        http_add_header(call->x, "x-should-retry", retry_after_ns > 0 ? "true" : "false");
    char text[24];

    if (err != ERR_OK || retry_after_ns == 0)
        return err;
    snprintf(text, sizeof(text), "%llu",
             (unsigned long long)((retry_after_ns + CLOCK_NS_PER_S - 1) / CLOCK_NS_PER_S));
    err = http_add_header(call->x, "Retry-After", text);
    snprintf(text, sizeof(text), "%llu",
             (unsigned long long)((retry_after_ns + CLOCK_NS_PER_MS - 1) / CLOCK_NS_PER_MS));
    return err == ERR_OK ? http_add_header(call->x, "retry-after-ms", text) : err;
}

/* Nothing of the answer is out. */
static void answer_refusal(struct call *call, const struct daemon_refusal *r)
{
    struct buf *out = &call->f->scratch;

    buf_clear(out);
    if (render_refusal(out, call, r) != ERR_OK || call_add_contract_headers(call) != ERR_OK ||
        add_retry_headers(call, r->retry_after_ns) != ERR_OK) {
        call_fail(call, 429, "rate_limit_error", code_of(r->reason), daemon_refusal_words(r),
                  r->retry_after_ns, r->retry_after_ns > 0);
        return;
    }
    call->status = 429;
    call->outcome = "rejected";
    http_respond(call->x, 429, "application/json", buf_bytes(out), out->len);
    call_end(call);
}

void call_refuse(struct call *call, const struct daemon_refusal *r)
{
    call->reason = sched_reason_name(r->reason);
    if (r->reason == SCHED_REASON_TOO_LARGE)
        call_fail(
            call, 400, "invalid_request_error", "context_length_exceeded",
            "The request needs more KV blocks than any worker of this server has. Please reduce "
            "the length of the messages or of the completion.",
            0, false);
    else if (r->reason == SCHED_REASON_STOPPING)
        call_fail(call, 503, "unavailable_error", "shutting_down", "The server is shutting down.",
                  5 * CLOCK_NS_PER_S, true);
    else if (call->streaming || call->x == NULL) /* another choice of the call has begun */
        call_fail(call, 429, "rate_limit_error", code_of(r->reason), daemon_refusal_words(r), 0,
                  false);
    else
        answer_refusal(call, r);
}
