/* daemon/status_read.c - see the header. */
#include "daemon/status_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/api_json.h"
#include "daemon/status_get.h"

enum { WORKERS_MAX = 8192 };

/* What a terminal would take for a command is not shown. */
static void copy_name(char *out, size_t room, const char *bytes, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len && n + 1 < room; i++) {
        unsigned char c = (unsigned char)bytes[i];

        out[n++] = (char)(c >= 0x20 && c < 0x7f ? c : '?');
    }
    out[n] = '\0';
}

double status_attainment(const struct status_tier *t)
{
    uint64_t judged = t->kept + t->broken + t->refused;

    return judged > 0 ? (double)t->kept / (double)judged : -1;
}

void status_free(struct status *s)
{
    mem_free(s->workers);
    memset(s, 0, sizeof(*s));
}

static struct status_worker *add_worker(struct status *s)
{
    struct status_worker *grown;

    if (s->n_workers == WORKERS_MAX)
        return NULL;
    grown = mem_try_realloc(s->workers, (s->n_workers + 1) * sizeof(*grown));
    if (grown == NULL)
        return NULL;
    s->workers = grown;
    memset(&grown[s->n_workers], 0, sizeof(*grown));
    return &grown[s->n_workers++];
}

/* ---- /admin/state ---- */

/* Nothing that a server would say is larger, and everything here can be printed and converted. */
static double bounded(double v)
{
    return v > -1e15 && v < 1e15 ? v : 0; /* not a number: 0 */
}

static double number_at(const struct api_json *d, uint32_t object, const char *key)
{
    uint32_t i = api_json_get(d, object, key);
    double v = 0;

    return i != 0 && api_json_double(d, i, &v) == ERR_OK ? bounded(v) : 0;
}

/* Counts from elsewhere: never negative, never beyond what the type holds. */
static uint64_t count_at(const struct api_json *d, uint32_t object, const char *key)
{
    double v = number_at(d, object, key);

    return v > 0 ? (uint64_t)v : 0;
}

static uint32_t small_at(const struct api_json *d, uint32_t object, const char *key)
{
    uint64_t v = count_at(d, object, key);

    return v < UINT32_MAX ? (uint32_t)v : UINT32_MAX;
}

static bool flag_at(const struct api_json *d, uint32_t object, const char *key)
{
    uint32_t i = api_json_get(d, object, key);

    return i != 0 && d->nodes[i].type == API_JSON_BOOL && d->nodes[i].i != 0;
}

static void name_at(const struct api_json *d, uint32_t object, const char *key, char *out,
                    size_t room)
{
    uint32_t i = api_json_get(d, object, key);
    size_t len = 0;
    const char *s =
        i != 0 && d->nodes[i].type == API_JSON_STRING ? api_json_string(d, i, &len) : "";

    copy_name(out, room, s, len);
}
#define NAME_AT(d, object, key, field) name_at(d, object, key, field, sizeof(field))

static uint64_t sum_of(const struct api_json *d, uint32_t object, const char *key)
{
    uint32_t at = api_json_get(d, object, key);
    uint64_t sum = 0;

    if (at == 0 || d->nodes[at].type != API_JSON_OBJECT)
        return 0;
    for (uint32_t i = at + 1; i < d->nodes[at].end; i = api_json_next(d, i + 1)) {
        double v;

        if (api_json_double(d, i + 1, &v) == ERR_OK && bounded(v) > 0)
            sum += (uint64_t)v;
    }
    return sum;
}

static void take_tier(const struct api_json *d, uint32_t at, struct status *s)
{
    struct status_tier *t = &s->tiers[s->n_tiers];

    if (s->n_tiers == SCHED_TIERS_MAX)
        return;
    s->n_tiers++;
    NAME_AT(d, at, "name", t->name);
    t->ttft_ms = number_at(d, at, "ttft_ms");
    t->tbt_ms = number_at(d, at, "tbt_ms");
    t->queued = small_at(d, at, "queued");
    t->running = small_at(d, at, "running");
    t->arrived = count_at(d, at, "arrived");
    t->admitted = count_at(d, at, "admitted");
    t->kept = count_at(d, at, "kept");
    t->broken = count_at(d, at, "broken");
    t->refused = sum_of(d, at, "refused");
    t->canceled = count_at(d, at, "canceled");
    t->downgraded = count_at(d, at, "downgraded");
    t->margin = number_at(d, at, "margin");
}

static void take_stage(const struct api_json *d, uint32_t at, struct status *s)
{
    struct status_stage *p = &s->stages[s->n_stages];
    uint32_t worst = api_json_get(d, at, "worst");
    double v = 0;

    if (s->n_stages == STATUS_STAGES_MAX)
        return;
    s->n_stages++;
    NAME_AT(d, at, "tier", p->tier);
    NAME_AT(d, at, "stage", p->stage);
    p->n = count_at(d, at, "n");
    p->bias = number_at(d, at, "bias");
    p->mape = number_at(d, at, "mape");
    p->coverage = number_at(d, at, "coverage");
    p->worst = worst != 0 && api_json_double(d, worst, &v) == ERR_OK ? bounded(v) : NAN;
    p->drift = flag_at(d, at, "drift");
    p->lost = flag_at(d, at, "lost");
}

static void take_worker(const struct api_json *d, uint32_t at, struct status *s)
{
    struct status_worker *w = add_worker(s);

    if (w == NULL)
        return;
    NAME_AT(d, at, "name", w->name);
    NAME_AT(d, at, "role", w->role);
    NAME_AT(d, at, "class", w->klass);
    NAME_AT(d, at, "state", w->state);
    NAME_AT(d, at, "kv_paths", w->kv_paths);
    w->tp = small_at(d, at, "tp");
    w->blocks = small_at(d, at, "blocks");
    w->free_blocks = small_at(d, at, "free_blocks");
    w->running = small_at(d, at, "running");
    w->waiting = small_at(d, at, "waiting");
    w->parked = small_at(d, at, "parked");
    w->backlog_ms = number_at(d, at, "backlog_ms");
    w->step_ms = number_at(d, at, "step_ms");
    w->bias = number_at(d, at, "bias");
}

static void each(const struct api_json *d, const char *key, struct status *s,
                 void (*take)(const struct api_json *, uint32_t, struct status *))
{
    uint32_t list = api_json_get(d, 0, key);

    if (list == 0 || d->nodes[list].type != API_JSON_ARRAY)
        return;
    for (uint32_t i = list + 1; i < d->nodes[list].end; i = api_json_next(d, i)) {
        if (d->nodes[i].type == API_JSON_OBJECT)
            take(d, i, s);
    }
}

enum err status_parse_state(const char *json, size_t len, struct status *out)
{
    struct api_json d;
    struct api_json_error error;
    uint32_t planner;
    enum err err = api_json_parse(json, len, &d, &error);

    memset(out, 0, sizeof(*out));
    if (err != ERR_OK)
        return err == ERR_NOMEM ? err : ERR_BAD_FRAME;
    if (d.nodes[0].type != API_JSON_OBJECT || api_json_get(&d, 0, "tiers") == 0) {
        api_json_free(&d);
        return ERR_BAD_FRAME;
    }
    out->whole = true;
    NAME_AT(&d, 0, "model", out->model);
    NAME_AT(&d, 0, "version", out->version);
    NAME_AT(&d, 0, "policy", out->policy);
    NAME_AT(&d, 0, "fallback", out->fallback);
    out->uptime_s = small_at(&d, 0, "uptime_s");
    out->draining = flag_at(&d, 0, "draining");
    out->records = count_at(&d, 0, "records");
    out->records_lost = count_at(&d, 0, "records_lost");
    planner = api_json_get(&d, 0, "planner");
    if (planner != 0 && d.nodes[planner].type == API_JSON_OBJECT) {
        out->elastic = flag_at(&d, planner, "elastic");
        out->prefill = small_at(&d, planner, "prefill");
        out->decode = small_at(&d, planner, "decode");
        out->want_prefill = small_at(&d, planner, "want_prefill");
        out->want_decode = small_at(&d, planner, "want_decode");
        out->flips = count_at(&d, planner, "flips");
        out->reversals = count_at(&d, planner, "reversals");
    }
    each(&d, "tiers", out, take_tier);
    each(&d, "predictor", out, take_stage);
    each(&d, "workers", out, take_worker);
    api_json_free(&d);
    return ERR_OK;
}

/* ---- /metrics ---- */

/* One sample: its name and labels as they stand, and the value. */
struct sample {
    const char *name, *labels;
    size_t name_len, labels_len;
    double value;
};

/* Our own labels hold no escapes where they are asked for here. */
static bool label_of(const struct sample *m, const char *key, char out[STATUS_NAME_MAX])
{
    char wanted[48];
    const char *at, *end;
    size_t n = (size_t)snprintf(wanted, sizeof(wanted), "%s=\"", key);

    at = m->labels_len > 0 ? memmem(m->labels, m->labels_len, wanted, n) : NULL;
    if (at == NULL)
        return false;
    at += n;
    end = memchr(at, '"', (size_t)(m->labels + m->labels_len - at));
    if (end == NULL)
        return false;
    copy_name(out, STATUS_NAME_MAX, at, (size_t)(end - at));
    return true;
}

static bool is(const struct sample *m, const char *name)
{
    return strlen(name) == m->name_len && memcmp(m->name, name, m->name_len) == 0;
}

static uint64_t whole(double v)
{
    return v > 0 ? (uint64_t)v : 0;
}

static uint32_t small(double v)
{
    return v > 0 && v < 4e9 ? (uint32_t)v : 0;
}

static struct status_tier *tier_named(struct status *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_tiers; i++) {
        if (strcmp(s->tiers[i].name, name) == 0)
            return &s->tiers[i];
    }
    if (s->n_tiers == SCHED_TIERS_MAX)
        return NULL;
    snprintf(s->tiers[s->n_tiers].name, STATUS_NAME_MAX, "%s", name);
    return &s->tiers[s->n_tiers++];
}

static struct status_stage *stage_named(struct status *s, const char *tier, const char *stage)
{
    struct status_stage *p;

    for (uint32_t i = 0; i < s->n_stages; i++) {
        p = &s->stages[i];
        if (strcmp(p->tier, tier) == 0 && strcmp(p->stage, stage) == 0)
            return p;
    }
    if (s->n_stages == STATUS_STAGES_MAX)
        return NULL;
    p = &s->stages[s->n_stages++];
    snprintf(p->tier, STATUS_NAME_MAX, "%s", tier);
    snprintf(p->stage, STATUS_NAME_MAX, "%s", stage);
    p->worst = NAN;
    return p;
}

static struct status_worker *find_worker(struct status *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_workers; i++) {
        if (strcmp(s->workers[i].name, name) == 0)
            return &s->workers[i];
    }
    return NULL;
}

static struct status_worker *worker_named(struct status *s, const char *name)
{
    struct status_worker *w = find_worker(s, name);

    if (w != NULL)
        return w;
    w = add_worker(s);
    if (w != NULL)
        snprintf(w->name, STATUS_NAME_MAX, "%s", name);
    return w;
}

static void take_promise(const struct sample *m, struct status_tier *t)
{
    char result[STATUS_NAME_MAX];
    uint64_t n = whole(m->value);

    if (!label_of(m, "result", result))
        return;
    if (strcmp(result, "kept") == 0)
        t->kept = n;
    else if (strcmp(result, "broken") == 0)
        t->broken = n;
    else if (strcmp(result, "refused") == 0)
        t->refused = n;
    else if (strcmp(result, "canceled") == 0)
        t->canceled = n;
    else if (strcmp(result, "downgraded") == 0)
        t->downgraded = n;
}

static void take_tier_sample(const struct sample *m, const char *name, struct status *s)
{
    struct status_tier *t = tier_named(s, name);

    if (t == NULL)
        return;
    if (is(m, "baton_promises_total"))
        take_promise(m, t);
    else if (is(m, "baton_tier_arrivals_total"))
        t->arrived = whole(m->value);
    else if (is(m, "baton_tier_admitted_total"))
        t->admitted = whole(m->value);
    else if (is(m, "baton_queued_requests"))
        t->queued = small(m->value);
    else if (is(m, "baton_running_requests"))
        t->running = small(m->value);
    else if (is(m, "baton_admission_margin"))
        t->margin = m->value;
    else if (is(m, "baton_tier_ttft_target_seconds"))
        t->ttft_ms = m->value * 1e3;
    else if (is(m, "baton_tier_tbt_target_seconds"))
        t->tbt_ms = m->value * 1e3;
}

static void take_stage_sample(const struct sample *m, const char *tier, const char *stage,
                              struct status *s)
{
    struct status_stage *p = stage_named(s, tier, stage);

    if (p == NULL)
        return;
    if (is(m, "baton_predictions_total"))
        p->n = whole(m->value);
    else if (is(m, "baton_prediction_bias"))
        p->bias = m->value;
    else if (is(m, "baton_prediction_mape"))
        p->mape = m->value;
    else if (is(m, "baton_prediction_coverage"))
        p->coverage = m->value;
    else if (is(m, "baton_prediction_worst_coverage"))
        p->worst = m->value;
    else if (is(m, "baton_prediction_drift"))
        p->drift = m->value > 0;
}

static void take_worker_sample(const struct sample *m, const char *name, const char *role,
                               struct status *s)
{
    struct status_worker *w = worker_named(s, name);
    char state[STATUS_NAME_MAX];

    if (w == NULL)
        return;
    snprintf(w->role, STATUS_NAME_MAX, "%s", role);
    if (is(m, "baton_worker_up")) {
        snprintf(w->state, STATUS_NAME_MAX, "%s", m->value > 0 ? "ready" : "loading");
    } else if (is(m, "baton_kv_blocks") && label_of(m, "state", state)) {
        w->blocks += small(m->value);
        if (strcmp(state, "free") == 0)
            w->free_blocks = small(m->value);
    } else if (is(m, "baton_worker_running_requests")) {
        w->running = small(m->value);
    } else if (is(m, "baton_worker_waiting_requests")) {
        w->waiting = small(m->value);
    } else if (is(m, "baton_worker_parked_requests")) {
        w->parked = small(m->value);
    } else if (is(m, "baton_worker_backlog_seconds")) {
        w->backlog_ms = m->value * 1e3;
    } else if (is(m, "baton_worker_step_seconds")) {
        w->step_ms = m->value * 1e3;
    } else if (is(m, "baton_worker_tp")) {
        w->tp = small(m->value);
    } else if (is(m, "baton_worker_bias")) {
        w->bias = m->value;
    }
}

/* One end of a link; the other may have left. */
static void add_path(struct status *s, const char *worker, const char *path)
{
    struct status_worker *w = find_worker(s, worker);
    size_t len = w != NULL ? strlen(w->kv_paths) : 0, n = strlen(path);

    if (w == NULL || n == 0)
        return;
    for (const char *at = w->kv_paths; (at = strstr(at, path)) != NULL; at += n) {
        if ((at == w->kv_paths || at[-1] == ',') && (at[n] == '\0' || at[n] == ','))
            return;
    }
    snprintf(w->kv_paths + len, sizeof(w->kv_paths) - len, "%s%s", len > 0 ? "," : "", path);
}

static void take_link_sample(const struct sample *m, struct status *s)
{
    char from[STATUS_NAME_MAX], to[STATUS_NAME_MAX], path[STATUS_NAME_MAX];

    if (!label_of(m, "from", from) || !label_of(m, "to", to) || !label_of(m, "transport", path))
        return;
    add_path(s, from, path);
    add_path(s, to, path);
}

static void take_pool_sample(const struct sample *m, const char *role, struct status *s)
{
    bool prefill = strcmp(role, "prefill") == 0;

    if (is(m, "baton_planner_workers"))
        *(prefill ? &s->prefill : &s->decode) = small(m->value);
    else if (is(m, "baton_planner_workers_wanted"))
        *(prefill ? &s->want_prefill : &s->want_decode) = small(m->value);
}

static void take_sample(const struct sample *m, struct status *s)
{
    char a[STATUS_NAME_MAX], b[STATUS_NAME_MAX];

    if (is(m, "baton_build_info")) {
        (void)label_of(m, "model", s->model);
        (void)label_of(m, "version", s->version);
    } else if (is(m, "baton_planner_flips_total")) {
        s->flips = whole(m->value);
    } else if (is(m, "baton_planner_reversals_total")) {
        s->reversals = whole(m->value);
    } else if (is(m, "baton_records_total")) {
        s->records = whole(m->value);
    } else if (is(m, "baton_records_lost_total")) {
        s->records_lost = whole(m->value);
    } else if (is(m, "baton_prediction_fallback")) {
        if (m->value > 0)
            snprintf(s->fallback, sizeof(s->fallback), "a heuristic decides");
    } else if (m->name_len > 16 && memcmp(m->name, "baton_prediction", 16) == 0) {
        if (label_of(m, "tier", a) && label_of(m, "stage", b))
            take_stage_sample(m, a, b, s);
    } else if (is(m, "baton_kv_link_bytes_per_second")) {
        take_link_sample(m, s);
    } else if (label_of(m, "worker", a) && label_of(m, "role", b)) {
        take_worker_sample(m, a, b, s);
    } else if (label_of(m, "role", a)) {
        take_pool_sample(m, a, s);
    } else if (m->name_len > 6 && memcmp(m->name, "baton_", 6) == 0 && label_of(m, "tier", a)) {
        take_tier_sample(m, a, s);
    }
}

static bool split_sample(const char *line, size_t len, struct sample *m)
{
    const char *brace = memchr(line, '{', len), *space = memrchr(line, ' ', len);
    char value[64];

    if (space == NULL || (size_t)(line + len - space - 1) >= sizeof(value))
        return false;
    if (brace != NULL && brace < space)
        *m = (struct sample){line, brace + 1, (size_t)(brace - line), (size_t)(space - brace - 1),
                             0};
    else
        *m = (struct sample){line, NULL, (size_t)(space - line), 0, 0};
    snprintf(value, sizeof(value), "%.*s", (int)(line + len - space - 1), space + 1);
    m->value = bounded(strtod(value, NULL));
    return m->name_len > 0;
}

/* Metrics come by name; the strictest tier is shown first. */
static void sort_tiers(struct status *s)
{
    for (uint32_t i = 1; i < s->n_tiers; i++) {
        struct status_tier t = s->tiers[i];
        uint32_t at = i;

        for (; at > 0 && s->tiers[at - 1].ttft_ms > t.ttft_ms; at--)
            s->tiers[at] = s->tiers[at - 1];
        s->tiers[at] = t;
    }
}

enum err status_parse_metrics(const char *text, size_t len, struct status *out)
{
    const char *end = text + len;

    memset(out, 0, sizeof(*out));
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop != NULL ? stop : end) - text);
        struct sample m;

        if (n > 0 && text[0] != '#' && split_sample(text, n, &m))
            take_sample(&m, out);
        text += n + 1;
    }
    sort_tiers(out);
    if (out->version[0] != '\0')
        return ERR_OK;
    status_free(out);
    return ERR_BAD_FRAME;
}

/* ---- both ---- */

/* Workers stay where they are on a screen that is drawn anew, whatever leaves and comes back. */
static int by_name(const void *a, const void *b)
{
    return strverscmp(((const struct status_worker *)a)->name,
                      ((const struct status_worker *)b)->name);
}

static enum err ask(const char *url, const char *path, const char *key, bool state, int *http,
                    struct status *out, struct err_msg *msg)
{
    struct buf body = BUF_INIT;
    enum err err = status_get(url, path, key, http, &body, msg);

    if (err == ERR_OK && *http == 200) {
        err = state ? status_parse_state(buf_bytes(&body), body.len, out)
                    : status_parse_metrics(buf_bytes(&body), body.len, out);
        if (err != ERR_OK)
            err_set(msg, err, "%.200s%s: the answer is not that of a Baton server", url, path);
        else if (out->n_workers > 0)
            qsort(out->workers, out->n_workers, sizeof(out->workers[0]), by_name);
    }
    buf_free(&body);
    return err;
}

enum err status_read(const char *url, const char *key, struct status *out, struct err_msg *msg)
{
    int http = 0;
    enum err err = ERR_OK;

    memset(out, 0, sizeof(*out));
    if (key != NULL)
        err = ask(url, "/admin/state", key, true, &http, out, msg);
    if (err != ERR_OK || http == 200)
        return err;
    if (http == 401)
        return err_set(msg, ERR_AUTH, "%.200s: the server does not know this key", url);
    /* No admin key, or one that may not look there: the public figures. */
    err = ask(url, "/metrics", key, false, &http, out, msg);
    if (err != ERR_OK || http == 200)
        return err;
    if (http == 401)
        return err_set(
            msg, ERR_AUTH,
            "%.200s: the server asks for a key: give --key-file FILE or set BATON_ADMIN_KEY", url);
    return err_set(msg, ERR_BAD_FRAME, "%.200s/metrics: status %d; is this a Baton server?", url,
                   http);
}
