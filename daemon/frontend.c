/* daemon/frontend.c - routes, readiness, keys, and the hooks that tie calls to the hub. */
#include "daemon/frontend.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/frontend_impl.h"
#include "daemon/frontend_metrics.h"
#include "daemon/link_addr.h"
#include "daemon/secret.h"

/* ---- simple routes ---- */

void frontend_answer(struct http_exchange *x, int status, const struct buf *body, enum err err)
{
    if (err != ERR_OK)
        http_respond_error(x, 500, "server_error", NULL, "internal_error", "Out of memory.");
    else
        http_respond(x, status, "application/json", buf_bytes(body), body->len);
}

uint32_t frontend_max_context(const struct daemon_frontend *f)
{
    uint32_t workers = f->hub != NULL ? daemon_hub_max_context(f->hub) : 0;

    return workers > 0 && workers < f->c.max_context ? workers : f->c.max_context;
}

void frontend_model_card(const struct daemon_frontend *f, struct api_model_card *m)
{
    *m = (struct api_model_card){.id = f->model_name,
                                 .created = f->started_s,
                                 .max_context = frontend_max_context(f),
                                 .vocab = f->c.vocab};
}

static void on_models(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    struct api_model_card m;
    struct buf out = BUF_INIT;

    frontend_model_card(f, &m);
    frontend_answer(x, 200, &out, api_render_models(&out, &m, 1) == ERR_OK ? ERR_OK : ERR_NOMEM);
    buf_free(&out);
}

static void on_model(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    const char *name = http_path(x) + strlen("/v1/models/");
    struct api_model_card m;
    struct buf out = BUF_INIT;
    enum err err;

    if (strcmp(name, f->model_name) != 0) {
        http_respond_error(x, 404, "invalid_request_error", "model", "model_not_found",
                           "The model does not exist; GET /v1/models lists what is served.");
        return;
    }
    frontend_model_card(f, &m);
    err = api_render_model(&out, &m);
    frontend_answer(x, 200, &out, err);
    buf_free(&out);
}

/* Ready: both pools have a worker, and new work is taken. */
static bool is_ready(const struct daemon_frontend *f)
{
    return !f->draining && f->hub != NULL && daemon_hub_ready(f->hub);
}

/* Has that role a worker, or will it have one?  Ours are started until they are there. */
static bool is_manned(const struct daemon_frontend *f, enum sched_role role)
{
    struct daemon_worker_view w;
    size_t at = 0;

    if ((role == SCHED_ROLE_PREFILL ? f->c.config->prefill : f->c.config->decode) > 0)
        return true;
    while (f->hub != NULL && daemon_hub_next_worker(f->hub, &at, &w)) {
        if (w.role == role)
            return true;
    }
    return false;
}

/* Clients of llama.cpp know "Loading model" as what to wait for. */
const char *frontend_missing(const struct daemon_frontend *f)
{
    bool prefill = is_manned(f, SCHED_ROLE_PREFILL), decode = is_manned(f, SCHED_ROLE_DECODE);

    return prefill && decode ? NULL
           : prefill         ? "Loading model: no decode worker is connected yet"
           : decode          ? "Loading model: no prefill worker is connected yet"
                             : "Loading model: no worker is connected yet";
}

static enum err put_worker(struct buf *out, const struct daemon_worker_view *w, bool first)
{
    enum err err = buf_printf(out, "%s{\"name\":", first ? "" : ",");

    if (err == ERR_OK)
        err = api_render_string(out, w->name, strlen(w->name));
    if (err == ERR_OK)
        err = buf_printf(out, ",\"role\":\"%s\",\"state\":\"%s\"",
                         w->role == SCHED_ROLE_PREFILL ? "prefill" : "decode",
                         w->joined ? "ready" : "loading");
    if (err == ERR_OK && !w->joined && w->total_bytes > 0)
        err = buf_printf(out, ",\"loaded\":%.3f", (double)w->loaded_bytes / (double)w->total_bytes);
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

static void on_health(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    bool ready = is_ready(f);
    const char *status = ready                                         ? "ok"
                         : f->draining                                 ? "shutting_down"
                         : f->was_ready || frontend_missing(f) != NULL ? "no_workers"
                                                                       : "loading";
    struct daemon_worker_view w;
    struct buf out = BUF_INIT;
    size_t at = 0;
    bool first = true;
    enum err err = buf_printf(&out, "{\"status\":\"%s\",\"model\":", status);

    if (err == ERR_OK)
        err = api_render_string(&out, f->model_name, strlen(f->model_name));
    if (err == ERR_OK && f->trouble[0] != '\0') {
        err = buf_puts(&out, ",\"trouble\":");
        if (err == ERR_OK)
            err = api_render_string(&out, f->trouble, strlen(f->trouble));
    }
    if (err == ERR_OK)
        err = buf_puts(&out, ",\"workers\":[");
    while (err == ERR_OK && daemon_hub_next_worker(f->hub, &at, &w)) {
        err = put_worker(&out, &w, first);
        first = false;
    }
    if (err == ERR_OK)
        err = buf_puts(&out, "]}");
    if (!ready && err == ERR_OK)
        err = http_add_header(x, "Retry-After", "1");
    frontend_answer(x, ready ? 200 : 503, &out, err);
    buf_free(&out);
}

static void on_live(struct http_exchange *x, void *arg)
{
    static const char body[] = "{\"status\":\"ok\"}";

    (void)arg;
    http_respond(x, 200, "application/json", body, sizeof(body) - 1);
}

static void on_version(struct http_exchange *x, void *arg)
{
    static const char body[] = "{\"version\":\"" BATON_VERSION "\",\"server\":\"baton\"}";

    (void)arg;
    http_respond(x, 200, "application/json", body, sizeof(body) - 1);
}

static void on_metrics(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    struct buf out = BUF_INIT;

    if (frontend_metrics_render(f, &out) != ERR_OK)
        http_respond_error(x, 500, "server_error", NULL, "internal_error", "Out of memory.");
    else
        http_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", buf_bytes(&out), out.len);
    buf_free(&out);
}

static void on_chat(struct http_exchange *x, void *arg)
{
    call_start(arg, x, API_CHAT);
}

static void on_completion(struct http_exchange *x, void *arg)
{
    call_start(arg, x, API_COMPLETION);
}

/* Only liveness, readiness and the version need no key. */
static const struct http_route routes[] = {
    {"POST", "/v1/chat/completions", true, on_chat},
    {"POST", "/v1/completions", true, on_completion},
    {"GET", "/v1/models", true, on_models},
    {"GET", "/v1/models/*", true, on_model},
    {"POST", "/tokenize", true, frontend_on_tokenize},
    {"POST", "/detokenize", true, frontend_on_detokenize},
    {"GET", "/health", false, on_health},
    {"GET", "/ready", false, on_health},
    {"GET", "/live", false, on_live},
    {"GET", "/version", false, on_version},
    {"GET", "/metrics", true, on_metrics},
    {"GET", "/admin/requests", true, frontend_on_admin_requests},
    {"GET", "/admin/state", true, frontend_on_admin_state},
};

/* ---- keys ---- */

static bool authorize(void *arg, const char *key, size_t len, void **principal)
{
    struct daemon_frontend *f = arg;
    const struct daemon_config *c = f->c.config;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    struct daemon_key *found = NULL;

    if (key == NULL || (c->n_keys == 0 && !f->has_admin_key))
        return c->n_keys == 0;
    SHA256((const unsigned char *)key, len, digest);
    if (f->has_admin_key && CRYPTO_memcmp(digest, f->admin_key.sha256, sizeof(digest)) == 0)
        found = &f->admin_key;
    for (uint32_t i = 0; i < c->n_keys; i++) { /* all of them, so that time tells nothing */
        if (CRYPTO_memcmp(digest, c->keys[i].sha256, sizeof(digest)) == 0)
            found = &c->keys[i];
    }
    *principal = found;
    return found != NULL || c->n_keys == 0;
}

/* Is NAME, NAME:PORT, [V6] or [V6]:PORT this machine? */
static bool is_own_name(const struct daemon_frontend *f, const char *host)
{
    char name[128];
    size_t len = host[0] == '[' ? strcspn(++host, "]") : strcspn(host, ":/");

    if (len >= sizeof(name))
        return false;
    memcpy(name, host, len);
    name[len] = '\0';
    return daemon_addr_is_loopback(name) || strcmp(name, f->c.config->host) == 0;
}

/* Without keys only pages of this machine: else any page that the user visits could use the server. */
static bool origin_ok(void *arg, const char *origin)
{
    const struct daemon_frontend *f = arg;
    const char *host = strstr(origin, "://");

    return f->c.config->n_keys > 0 || f->c.config->cors || f->c.config->allow_open ||
           (host != NULL && is_own_name(f, host + 3));
}

/* --cors says which pages may read answers, not under which names: it makes no difference here. */
static bool host_ok(void *arg, const char *host)
{
    const struct daemon_frontend *f = arg;

    return f->c.config->n_keys > 0 || f->c.config->allow_open || is_own_name(f, host);
}

void frontend_limits(const struct daemon_frontend *f, struct api_limits *out)
{
    const struct engine_model_config *m = f->c.model;

    *out = (struct api_limits){.n_max = f->c.config->n_max, .vocab = f->c.vocab};
    if (m == NULL)
        return;
    out->has_temperature = m->has_temperature;
    out->has_top_p = m->has_top_p;
    out->has_top_k = m->has_top_k;
    out->has_repetition_penalty = m->has_repetition_penalty;
    out->temperature = m->temperature;
    out->top_p = m->top_p;
    out->top_k = m->top_k;
    out->repetition_penalty = m->repetition_penalty;
}

/* ---- hooks of the hub ---- */

/* What a Sampling message points into; the loop thread packs it before the next one is filled. */
struct sampling_scratch {
    Baton__Sampling m;
    Baton__Bias bias[ENGINE_BIAS_MAX], *bias_list[ENGINE_BIAS_MAX];
    uint8_t stop_ids[ENGINE_STOP_IDS_MAX * 4];
};
static struct sampling_scratch sampling_scratch;

static void put_u32(uint8_t *dst, uint32_t v)
{
    dst[0] = (uint8_t)v;
    dst[1] = (uint8_t)(v >> 8);
    dst[2] = (uint8_t)(v >> 16);
    dst[3] = (uint8_t)(v >> 24);
}

/* The model's own end tokens and the client's. */
static size_t fill_stop_ids(const struct daemon_frontend *f, const struct api_request *r,
                            uint8_t *out)
{
    size_t n = 0;

    for (uint32_t i = 0; f->c.model != NULL && !r->ignore_eos && i < f->c.model->n_eos; i++)
        put_u32(out + 4 * n++, (uint32_t)f->c.model->eos[i]);
    for (uint32_t i = 0; i < r->sampling.n_stop_ids && n < ENGINE_STOP_IDS_MAX; i++)
        put_u32(out + 4 * n++, (uint32_t)r->sampling.stop_ids[i]);
    return n;
}

static Baton__Sampling *fill_sampling(const struct call_gen *g)
{
    const struct api_request *r = g->call->r;
    const struct engine_sampling *s = &r->sampling;
    struct sampling_scratch *k = &sampling_scratch;

    baton__sampling__init(&k->m);
    k->m.temperature = s->temperature;
    k->m.top_p = s->top_p;
    k->m.min_p = s->min_p;
    k->m.top_k = s->top_k;
    k->m.repetition_penalty = s->repetition_penalty;
    k->m.presence_penalty = s->presence_penalty;
    k->m.frequency_penalty = s->frequency_penalty;
    k->m.seed = g->seed;
    k->m.want_logprobs = r->logprobs;
    k->m.n_top = r->top_logprobs;
    k->m.min_tokens = r->min_tokens;
    k->m.stop_ids.data = k->stop_ids;
    k->m.stop_ids.len = 4 * fill_stop_ids(g->call->f, r, k->stop_ids);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        baton__bias__init(&k->bias[i]);
        k->bias[i].token = (uint32_t)s->bias[i].token;
        k->bias[i].value = s->bias[i].bias;
        k->bias_list[i] = &k->bias[i];
    }
    k->m.n_bias = s->n_bias;
    k->m.bias = k->bias_list;
    return &k->m;
}

/* Prompt, then what the client has already been given. */
static bool fill_tokens(struct daemon_frontend *f, const struct call_gen *g,
                        ProtobufCBinaryData *out)
{
    const struct engine_ids *prompt = &g->call->prompts[g->prompt].ids;
    uint8_t *at;

    buf_clear(&f->ids);
    if (buf_reserve(&f->ids, 4 * (prompt->n + g->g.n_log)) != ERR_OK)
        return false;
    at = (uint8_t *)buf_bytes(&f->ids);
    for (size_t i = 0; i < prompt->n; i++, at += 4)
        put_u32(at, (uint32_t)prompt->ids[i]);
    for (uint32_t i = 0; i < g->g.n_log; i++, at += 4)
        put_u32(at, (uint32_t)g->g.log[i].id);
    out->data = (uint8_t *)buf_bytes(&f->ids);
    out->len = 4 * (prompt->n + g->g.n_log);
    return true;
}

static bool fill_prefill(void *arg, uint64_t request, Baton__Prefill *m)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    if (g == NULL || !fill_tokens(f, g, &m->tokens))
        return false;
    m->n_prompt = (uint32_t)g->call->prompts[g->prompt].ids.n;
    m->max_new = g->max_new;
    m->sampling = fill_sampling(g);
    return true;
}

static bool fill_reserve(void *arg, uint64_t request, Baton__Reserve *m)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    if (g == NULL)
        return false;
    m->n_prompt = (uint32_t)g->call->prompts[g->prompt].ids.n;
    m->n_tokens = m->n_prompt + g->g.n_log;
    m->max_new = g->max_new;
    m->sampling = fill_sampling(g);
    return !engine_sampling_uses_history(&g->call->r->sampling) || fill_tokens(f, g, &m->tokens);
}

static uint32_t delivered(void *arg, uint64_t request)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    return g != NULL ? g->g.n_log : 0;
}

static void on_resume(void *arg, uint64_t request, uint32_t epoch)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    if (g == NULL)
        return;
    daemon_gen_set_epoch(&g->g, epoch);
}

static void on_tokens(void *arg, const Baton__Tokens *m)
{
    call_on_tokens(arg, m);
}

static void on_reject(void *arg, uint64_t request, const struct daemon_refusal *r)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    if (g != NULL)
        call_refuse(g->call, r);
}

static void on_terms(void *arg, uint64_t request, const struct sched_terms *t)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    if (g != NULL)
        call_take_terms(g, t);
}

static void on_record(void *arg, const struct sched_record *r)
{
    struct daemon_frontend *f = arg;

    frontend_metrics_record(f, r);
    daemon_records_add(f->records, f->hub, r);
}

static void on_fail(void *arg, uint64_t request, enum sched_reason why)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);

    if (g == NULL)
        return;
    g->call->reason = sched_reason_name(why);
    if (why == SCHED_REASON_QUEUE_TIMEOUT)
        call_fail(g->call, 503, "timeout_error", "queue_timeout",
                  "The request waited too long for a free worker.", CLOCK_NS_PER_S, false);
    else if (why == SCHED_REASON_REQUEST_TIMEOUT)
        call_fail(g->call, 504, "timeout_error", "request_timeout",
                  "The request took longer than this server allows.", 0, false);
    else
        call_fail(g->call, 503, "server_error", "attempts_exhausted",
                  "Workers failed repeatedly while they served this request.", CLOCK_NS_PER_S,
                  true);
}

static void on_stage(void *arg, uint64_t request, const struct daemon_stage *s)
{
    struct daemon_frontend *f = arg;
    struct call_gen *g = map_get(&f->gens, request);
    struct gen_times *t;

    if (g == NULL)
        return;
    t = &g->times;
    switch (s->kind) {
    case DAEMON_STAGE_PLACED:
        t->attempts++;
        if (t->placed_ns == 0)
            t->placed_ns = clock_now_ns();
        t->prefill_worker = s->worker;
        t->decode_worker = s->peer;
        break;
    case DAEMON_STAGE_PREFILLED:
        t->worker_queue_ns += s->queue_ns;
        t->prefill_ns += s->prefill_ns;
        break;
    case DAEMON_STAGE_HANDED_OVER:
        if (s->from_decode) {
            t->verify_ns += s->verify_ns;
            t->path = s->path;
        } else {
            t->wire_ns += s->wire_ns;
            t->exposed_ns += s->exposed_ns;
            t->handover_bytes += s->bytes;
        }
        break;
    }
}

void daemon_frontend_hooks(struct daemon_hub_hooks *hooks)
{
    hooks->fill_prefill = fill_prefill;
    hooks->fill_reserve = fill_reserve;
    hooks->delivered = delivered;
    hooks->on_resume = on_resume;
    hooks->on_tokens = on_tokens;
    hooks->on_reject = on_reject;
    hooks->on_fail = on_fail;
    hooks->on_stage = on_stage;
    hooks->on_terms = on_terms;
    hooks->on_record = on_record;
}

/* ---- life ---- */

static void on_flush(uv_check_t *h)
{
    call_flush_all(h->data);
}

static void on_http_done(void *arg, const struct http_exchange *x, int status, uint64_t bytes_out,
                         uint64_t duration_ns)
{
    frontend_metrics_http(arg, http_route_of(x), status, duration_ns, bytes_out);
}

void frontend_part_closed(struct daemon_frontend *f)
{
    if (--f->open_parts > 0)
        return;
    frontend_metrics_destroy(f);
    buf_free(&f->scratch);
    buf_free(&f->ids);
    map_free(&f->gens);
    mem_free(f);
}

static void on_flush_closed(uv_handle_t *h)
{
    frontend_part_closed(h->data);
}

static void on_records_closed(void *arg)
{
    frontend_part_closed(arg);
}

/* The calls that were cut have their records by now. */
static void on_http_closed(void *arg)
{
    struct daemon_frontend *f = arg;

    daemon_records_close(f->records, on_records_closed, f);
    frontend_part_closed(f);
}

/* Without a name the second: above the one for bulk work, below the one that is sold dearest. */
static uint32_t find_tier(const struct daemon_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_tiers; i++) {
        if (name != NULL && strcmp(c->tiers[i].name, name) == 0)
            return i;
    }
    return c->n_tiers > 1 ? 1 : 0;
}

static enum err read_admin_key(struct daemon_frontend *f, struct err_msg *msg)
{
    struct wire_secret key;
    enum err err;

    if (f->c.config->admin_key_file == NULL)
        return ERR_OK;
    err = daemon_secret_read("admin key file", f->c.config->admin_key_file, &key, msg);
    if (err != ERR_OK)
        return err;
    SHA256(key.bytes, key.len, f->admin_key.sha256);
    explicit_bzero(&key, sizeof(key));
    f->admin_key.admin = f->has_admin_key = true;
    return ERR_OK;
}

static enum err create_http(struct daemon_frontend *f, struct err_msg *msg)
{
    const struct daemon_config *c = f->c.config;
    struct http_config h = {.loop = f->c.loop,
                            .routes = routes,
                            .n_routes = sizeof(routes) / sizeof(routes[0]),
                            .cors = c->cors,
                            .arg = f,
                            .authorize = authorize,
                            .origin_ok = origin_ok,
                            .host_ok = host_ok,
                            .on_done = on_http_done};
    enum err err;

    h.limits.body = (uint64_t)c->max_body_mib << 20;
    h.limits.connections = c->max_connections;
    err = http_server_create(&h, &f->http);
    return err == ERR_OK ? ERR_OK
                         : err_set(msg, err, "cannot create the HTTP server: %s", err_text(err));
}

static void on_http_unused(void *arg)
{
    (void)arg;
}

enum err daemon_frontend_create(const struct daemon_frontend_config *c, struct err_msg *msg,
                                struct daemon_frontend **out)
{
    struct daemon_frontend *f = mem_try_calloc(1, sizeof(*f));
    enum err err;

    if (f == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the front end");
    f->c = *c;
    f->model_name = c->config->served_name;
    f->started_s = (int64_t)(clock_wall_ns() / CLOCK_NS_PER_S);
    f->default_tier = find_tier(c->config, c->config->default_tier);
    /* Ids never repeat across restarts, so that a worker which outlived us cannot confuse them. */
    if (RAND_bytes((unsigned char *)&f->next_gen, sizeof(f->next_gen)) != 1)
        f->next_gen = clock_wall_ns();
    f->next_gen = (f->next_gen >> 1) | 1;
    err = read_admin_key(f, msg);
    if (err == ERR_OK)
        err = frontend_metrics_create(f, msg);
    if (err == ERR_OK)
        err = create_http(f, msg);
    if (err == ERR_OK)
        err = daemon_records_create(c->loop, c->config, msg, &f->records);
    if (err != ERR_OK) {
        if (f->http != NULL)
            http_server_close(f->http, on_http_unused, NULL);
        frontend_metrics_destroy(f);
        mem_free(f);
        return err;
    }
    uv_check_init(c->loop, &f->flush);
    f->flush.data = f;
    uv_check_start(&f->flush, on_flush);
    uv_unref((uv_handle_t *)&f->flush);
    f->open_parts = 3;
    *out = f;
    return ERR_OK;
}

void daemon_frontend_set_hub(struct daemon_frontend *f, struct daemon_hub *hub)
{
    f->hub = hub;
}

void daemon_frontend_pool_changed(struct daemon_frontend *f)
{
    bool ready = daemon_hub_ready(f->hub);

    if (ready && !f->was_ready)
        LOG_INFO("frontend", "ready", "model=%s context=%u", f->model_name,
                 frontend_max_context(f));
    f->was_ready |= ready;
}

enum err daemon_frontend_listen(struct daemon_frontend *f, const char *host, uint16_t port,
                                uint16_t *bound, struct err_msg *msg)
{
    return http_server_listen(f->http, host, port, bound, msg);
}

void daemon_frontend_set_trouble(struct daemon_frontend *f, const char *text)
{
    snprintf(f->trouble, sizeof(f->trouble), "%s", text != NULL ? text : "");
}

void daemon_frontend_reopen(struct daemon_frontend *f)
{
    daemon_records_reopen(f->records);
}

void daemon_frontend_drain(struct daemon_frontend *f)
{
    f->draining = true;
    http_server_drain(f->http);
}

uint32_t daemon_frontend_calls(const struct daemon_frontend *f)
{
    return f->n_calls;
}

uint64_t daemon_frontend_unsent(const struct daemon_frontend *f)
{
    return http_server_unsent(f->http);
}

void daemon_frontend_close(struct daemon_frontend *f)
{
    http_server_close(f->http, on_http_closed, f);
    uv_close((uv_handle_t *)&f->flush, on_flush_closed);
}
