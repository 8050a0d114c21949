/* daemon/call.c - the life of a call: parse, tokenize, submit, take tokens, fail, cancel.
 *
 * A call that has been answered, or whose client has left, is freed at once unless a tokenizing job on the
 * pool still refers to it; then that job's completion frees it.
 */
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/frontend_impl.h"

static void call_free(struct call *call)
{
    struct daemon_frontend *f = call->f;

    for (uint32_t i = 0; i < call->n_gens; i++)
        daemon_gen_fini(&call->gens[i].g);
    for (size_t i = 0; call->prompts != NULL && i < call->n_prompts; i++) {
        engine_ids_free(&call->prompts[i].ids);
        buf_free(&call->prompts[i].text);
    }
    mem_free(call->gens);
    mem_free(call->prompts);
    api_request_free(call->r);
    *call->prev = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    f->n_calls--;
    mem_free(call);
}

/* The hub forgets what still runs; dirty entries of this call leave the list.  All generations are out of
 * the map before the hub hears of the first: what it does then can bring no hook back to this call. */
static void drop_gens(struct call *call)
{
    struct daemon_frontend *f = call->f;
    struct call_gen **at = &f->dirty;

    while (*at != NULL) {
        if ((*at)->call == call)
            *at = (*at)->next_dirty;
        else
            at = &(*at)->next_dirty;
    }
    for (uint32_t i = 0; i < call->n_gens; i++) {
        if (call->gens[i].submitted && !call->gens[i].ended)
            map_del(&f->gens, call->gens[i].g.id);
    }
    for (uint32_t i = 0; i < call->n_gens; i++) {
        struct call_gen *g = &call->gens[i];

        if (!g->submitted || g->ended)
            continue;
        g->ended = true;
        daemon_hub_cancel(f->hub, g->g.id);
    }
    call->n_running = 0;
}

/* The last step of every call. */
void call_end(struct call *call)
{
    drop_gens(call);
    call_record(call);
    call->state = CALL_DONE;
    call->x = NULL;
    if (call->pool_owns) /* not worth starting any more; if it runs, its completion frees the call */
        uv_cancel((uv_req_t *)&call->work);
    else
        call_free(call);
}

void call_fail(struct call *call, int status, const char *type, const char *code,
               const char *message, uint64_t retry_after_ns, bool should_retry)
{
    struct http_exchange *x = call->x;
    struct buf *out = &call->f->scratch;
    struct api_error e = {.status = status, .type = type, .code = code};
    char seconds[24];

    call->status = status;
    if (call->outcome == NULL)
        call->outcome = status == 429 ? "rejected" : status < 500 ? "invalid" : "failed";
    snprintf(e.message, sizeof(e.message), "%s", message);
    if (x != NULL && call->streaming) {
        buf_clear(out);
        if (api_render_error_event(out, &e) == ERR_OK &&
            http_stream_write(x, buf_bytes(out), out->len) == ERR_OK)
            http_stream_end(x);
        else
            http_stream_abort(x);
    } else if (x != NULL) {
        bool ok = true;

        if (retry_after_ns > 0) {
            snprintf(seconds, sizeof(seconds), "%llu",
                     (unsigned long long)((retry_after_ns + CLOCK_NS_PER_S - 1) / CLOCK_NS_PER_S));
            ok = http_add_header(x, "Retry-After", seconds) == ERR_OK;
        }
        if (ok && status >= 429)
            ok = http_add_header(x, "x-should-retry", should_retry ? "true" : "false") == ERR_OK;
        (void)ok; /* without memory for a header the answer itself still goes out */
        http_respond_error(x, status, type, call->error.param[0] != '\0' ? call->error.param : NULL,
                           code, message);
    }
    call_end(call);
}

void call_abandon(struct call *call)
{
    call->outcome = "canceled";
    call->status = 499;
    call_end(call);
}

static void on_client_left(struct http_exchange *x, void *context)
{
    (void)x;
    call_abandon(context);
}

/* ---- tokens in ---- */

static bool copy_top(struct daemon_token *t, const Baton__Tokens *m, size_t i)
{
    const Baton__TopLogprobs *top;

    if (m->n_top == 0 || m->top[i]->n_token == 0)
        return true;
    top = m->top[i];
    t->top = mem_try_alloc(top->n_token * sizeof(*t->top));
    if (t->top == NULL)
        return false;
    t->n_top = (uint8_t)top->n_token;
    for (size_t k = 0; k < top->n_token; k++)
        t->top[k] =
            (struct engine_top){.token = (int32_t)top->token[k], .logprob = top->logprob[k]};
    return true;
}

static void gen_ended(struct call_gen *g)
{
    struct daemon_frontend *f = g->call->f;
    struct daemon_seen seen = {.first_token_ns = g->times.first_ns,
                               .last_token_ns = g->times.last_ns,
                               .late_ns = call_lateness(g),
                               .tokens = g->g.n_log,
                               .runs_on = g->g.by_stop_string};

    g->ended = true;
    g->call->n_running--;
    map_del(&f->gens, g->g.id);
    daemon_hub_finish(f->hub, g->g.id, &seen);
}

static void take_item(struct daemon_frontend *f, const Baton__Tokens *m, size_t i, uint64_t now)
{
    struct call_gen *g = map_get(&f->gens, m->request[i]);
    struct daemon_token t = {.index = m->index[i],
                             .id = (int32_t)m->token[i],
                             .finish = (uint8_t)m->finish[i],
                             .logprob = m->n_logprob > 0 ? m->logprob[i] : 0};
    uint32_t accepted = 0;

    if (g == NULL)
        return;
    if (!copy_top(&t, m, i) || daemon_gen_take(&g->g, m->epoch[i], &t, &accepted) != ERR_OK) {
        call_fail(g->call, 500, "server_error", "internal_error", "Out of memory.", 0, true);
        return;
    }
    if (accepted == 0)
        return;
    call_note_lateness(g, g->g.n_log - accepted, now);
    if (g->times.first_ns == 0) {
        g->times.first_ns = now;
        daemon_series_first_token(f->series, g->tier, (uint32_t)g->call->prompts[g->prompt].ids.n,
                                  now - g->call->arrived_ns);
        if (accepted > 1)
            daemon_series_next_tokens(f->series, g->tier, accepted - 1, 0);
    } else {
        daemon_series_next_tokens(f->series, g->tier, accepted, now - g->times.last_ns);
    }
    g->times.last_ns = now;
    call_mark_dirty(g);
    if (g->g.finish != DAEMON_FINISH_NONE)
        gen_ended(g);
}

void call_on_tokens(struct daemon_frontend *f, const Baton__Tokens *m)
{
    uint64_t now = clock_now_ns();

    for (size_t i = 0; i < m->n_request; i++)
        take_item(f, m, i, now);
}

/* ---- start ---- */

static void submit_all(struct call *call)
{
    struct daemon_frontend *f = call->f;
    uint32_t n = call->n_gens;

    call->n_running = n;
    for (uint32_t i = 0; i < n; i++) {
        struct call_gen *g = &call->gens[i];
        struct daemon_hub_submit s;
        uint64_t id = g->g.id;

        if (map_put(&f->gens, id, g) != ERR_OK) {
            call_fail(call, 500, "server_error", "internal_error", "Out of memory.", 0, true);
            return;
        }
        g->submitted = true;
        call_begin_terms(g);
        call_fill_submit(g, &s);
        daemon_records_expect(f->records, id, call->id, call->request_id);
        daemon_hub_submit(f->hub, &s);
        if (map_get(&f->gens, id) == NULL)
            return; /* it was refused, and the whole call with it */
    }
}

static enum err seed_gen(const struct call *call, struct call_gen *g, uint32_t i)
{
    if (call->r->has_seed) {
        g->seed = call->r->sampling.seed + i * 0x9e3779b97f4a7c15u;
        return ERR_OK;
    }
    return RAND_bytes((unsigned char *)&g->seed, sizeof(g->seed)) == 1 ? ERR_OK : ERR_IO;
}

static enum err make_gens(struct call *call)
{
    const struct api_request *r = call->r;
    struct daemon_frontend *f = call->f;
    struct daemon_gen_config c = {.tok = f->c.tok,
                                  .with_special = !r->skip_special_tokens,
                                  .continues =
                                      r->kind == API_COMPLETION || r->continue_final_message,
                                  .keep_stop = r->include_stop_str_in_output,
                                  .min_tokens = r->min_tokens,
                                  .stop = r->stop,
                                  .stop_len = r->stop_len,
                                  .n_stop = r->n_stop};

    call->gens = mem_try_calloc(call->n_prompts * r->n, sizeof(*call->gens));
    if (call->gens == NULL)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < call->n_prompts * r->n; i++) {
        struct call_gen *g = &call->gens[i];

        daemon_gen_init(&g->g, f->next_gen++, &c);
        call->n_gens++;
        g->call = call;
        g->choice = i;
        g->prompt = i / r->n;
        if (seed_gen(call, g, i % r->n) != ERR_OK)
            return ERR_IO;
    }
    return ERR_OK;
}

/* How many tokens each generation may have, or a refusal in call->error. */
static bool size_gens(struct call *call)
{
    const struct api_request *r = call->r;
    uint32_t context = frontend_max_context(call->f);

    for (uint32_t i = 0; i < call->n_gens; i++) {
        size_t n = call->prompts[call->gens[i].prompt].ids.n;
        size_t want = r->has_max_tokens ? r->max_tokens : n < context ? context - n : 1;

        if (n == 0) {
            api_error_set(&call->error, 400, "invalid_request_error", "prompt", "invalid_value",
                          "The prompt has no tokens.");
            return false;
        }
        if (r->default_max_tokens && n < context && want > context - n)
            want = context - n;
        if (n + want > context) {
            api_error_context(r->kind, context, n, want, &call->error);
            return false;
        }
        call->gens[i].max_new = (uint32_t)want;
    }
    return true;
}

/* A tokenizer may know more ids than the model has rows: said here, not found out by a worker. */
static bool in_vocabulary(struct call *call)
{
    for (size_t p = 0; p < call->n_prompts; p++) {
        const struct engine_ids *ids = &call->prompts[p].ids;

        for (size_t i = 0; i < ids->n; i++) {
            if (ids->ids[i] >= 0 && (uint32_t)ids->ids[i] < call->f->c.vocab)
                continue;
            api_error_set(&call->error, 400, "invalid_request_error",
                          call->r->kind == API_CHAT ? "messages" : "prompt", "invalid_value",
                          "The prompt has token %d; this model's vocabulary ends at %u.",
                          (int)ids->ids[i], call->f->c.vocab - 1);
            return false;
        }
    }
    return true;
}

static void call_run(struct call *call)
{
    enum err err;

    if (call->error.status != 0) {
        call_fail(call, call->error.status, call->error.type, call->error.code, call->error.message,
                  0, false);
        return;
    }
    err = make_gens(call);
    if (err != ERR_OK) {
        call_fail(call, 500, "server_error", "internal_error", "Out of memory.", 0, true);
        return;
    }
    if (!in_vocabulary(call) || !size_gens(call)) {
        call_fail(call, call->error.status, call->error.type, call->error.code, call->error.message,
                  0, false);
        return;
    }
    call->state = CALL_RUNNING;
    if (call->r->has_max_tokens && call->r->max_tokens == 0) { /* completions: echo alone */
        for (uint32_t i = 0; i < call->n_gens; i++) {
            call->gens[i].g.finish = DAEMON_FINISH_LENGTH;
            call_mark_dirty(&call->gens[i]);
        }
        return;
    }
    submit_all(call);
}

/* ---- tokenizing ---- */

/* End the prompt right behind the content of the final message, so that the model goes on with it.  false:
 * the template did not put that content last. */
static bool cut_behind_final(const struct api_request *r, struct buf *text, const size_t *spans,
                             size_t n_spans)
{
    const struct engine_chat_message *last = &r->messages[r->n_messages - 1];
    size_t len = last->content_len, begin, end;

    while (len > 0 && strchr(" \t\r\n", last->content[len - 1]) != NULL)
        len--; /* templates trim */
    if (len == 0 || n_spans == 0)
        return false;
    begin = spans[2 * (n_spans - 1)];
    end = spans[2 * (n_spans - 1) + 1];
    while (end > begin && strchr(" \t\r\n", buf_bytes(text)[end - 1]) != NULL)
        end--;
    if (end - begin > len ||
        memcmp(buf_bytes(text) + begin, last->content + len - (end - begin), end - begin) != 0)
        return false;
    text->len = end;
    return true;
}

static enum err encode_chat(struct daemon_frontend *f, const struct api_request *r,
                            struct call_prompt *p, struct api_error *error)
{
    size_t *spans = NULL, n_spans = 0;
    struct err_msg msg = {""};
    enum err err;

    err = engine_chat_render(f->c.chat, r->messages, r->n_messages, r->add_generation_prompt,
                             (long long)(clock_wall_ns() / CLOCK_NS_PER_S), &p->text, &spans,
                             &n_spans, &msg);
    if (err == ERR_INVALID || err == ERR_LIMIT) {
        api_error_set(error, 400, "invalid_request_error", "messages", "invalid_value",
                      "The chat template refused the messages: %s", msg.text);
    }
    if (err == ERR_OK && r->continue_final_message &&
        !cut_behind_final(r, &p->text, spans, n_spans)) {
        api_error_set(
            error, 400, "invalid_request_error", "continue_final_message", "invalid_value",
            "The final message is empty, or this model's chat template changes it: it cannot "
            "be continued.");
        err = ERR_INVALID;
    }
    if (err == ERR_OK)
        err =
            engine_chat_encode(f->c.tok, buf_bytes(&p->text), p->text.len, spans, n_spans, &p->ids);
    mem_free(spans);
    return err;
}

static enum err encode_one(struct daemon_frontend *f, const struct api_request *r,
                           const struct api_prompt *from, struct call_prompt *to)
{
    unsigned flags = ENGINE_TOK_PARSE_SPECIAL;

    if (from->text == NULL) {
        to->ids.ids = mem_try_alloc(from->n_ids * sizeof(*to->ids.ids));
        if (to->ids.ids == NULL)
            return ERR_NOMEM;
        memcpy(to->ids.ids, from->ids, from->n_ids * sizeof(*to->ids.ids));
        to->ids.n = to->ids.cap = from->n_ids;
        return ERR_OK;
    }
    if (r->kind != API_TOKENIZE || r->add_special)
        flags |= ENGINE_TOK_ADD_SPECIAL;
    if (r->echo && buf_append(&to->text, from->text, from->text_len) != ERR_OK)
        return ERR_NOMEM;
    return engine_tok_encode(f->c.tok, from->text, from->text_len, flags, &to->ids);
}

enum err call_encode(struct daemon_frontend *f, const struct api_request *r,
                     struct call_prompt *prompts, struct api_error *error)
{
    enum err err = ERR_OK;

    if (r->n_messages > 0)
        err = encode_chat(f, r, &prompts[0], error);
    for (size_t i = 0; err == ERR_OK && r->n_messages == 0 && i < r->n_prompts; i++)
        err = encode_one(f, r, &r->prompts[i], &prompts[i]);
    if (err != ERR_OK && error->status == 0) {
        if (err == ERR_INVALID)
            api_error_set(error, 400, "invalid_request_error", "prompt", "invalid_value",
                          "The text is not valid UTF-8.");
        else
            api_error_set(error, 500, "server_error", NULL, "internal_error", "Out of memory.");
    }
    return err;
}

static void tokenize_job(uv_work_t *work)
{
    struct call *call = work->data;

    (void)!call_encode(call->f, call->r, call->prompts, &call->error); /* judged by call->error */
}

static void tokenize_done(uv_work_t *work, int status)
{
    struct call *call = work->data;
    struct daemon_frontend *f = call->f;

    call->pool_owns = false;
    if (call->state == CALL_DONE)
        call_free(call);
    else if (status != 0)
        call_fail(call, 503, "unavailable_error", "shutting_down", "The server is shutting down.",
                  CLOCK_NS_PER_S, true);
    else
        call_run(call);
    frontend_part_closed(f);
}

size_t call_text_bytes(const struct api_request *r)
{
    size_t sum = 0;

    for (size_t i = 0; i < r->n_messages; i++)
        sum += r->messages[i].content_len;
    for (size_t i = 0; i < r->n_prompts; i++)
        sum += r->prompts[i].text_len;
    return sum;
}

/* ---- the front door ---- */

static bool model_known(const struct daemon_frontend *f, const char *name)
{
    return name[0] == '\0' || strcmp(name, f->model_name) == 0;
}

static bool check_call(struct call *call)
{
    struct daemon_frontend *f = call->f;

    if (!model_known(f, call->r->model)) {
        api_error_set(&call->error, 404, "invalid_request_error", "model", "model_not_found",
                      "The model `%.200s` does not exist; this server has `%.100s`.",
                      call->r->model, f->model_name);
        return false;
    }
    if (call->r->n_messages > 0 && f->c.chat == NULL) {
        api_error_set(
            &call->error, 400, "invalid_request_error", "messages", "no_chat_template",
            "This model has no usable chat template; use /v1/completions."); /* the log says why */
        return false;
    }
    return call_pick_contract(call);
}

bool call_can_encode(struct call *call)
{
    const struct api_request *r = call->r;
    bool text = r->n_messages > 0;

    for (size_t i = 0; i < r->n_prompts; i++)
        text |= r->prompts[i].text != NULL;
    if (!text || call->f->c.tok != NULL)
        return true;
    api_error_set(&call->error, 400, "invalid_request_error",
                  r->n_messages > 0 ? "messages" : "prompt", "no_tokenizer",
                  "This server has no tokenizer: send the prompt as token ids to /v1/completions.");
    return false;
}

/* Refuse before any work: loading, without workers, draining. */
static bool is_open(struct daemon_frontend *f, struct http_exchange *x)
{
    if (f->draining) {
        if (http_add_header(x, "Retry-After", "5") == ERR_OK)
            http_respond_error(x, 503, "unavailable_error", NULL, "shutting_down",
                               "The server is shutting down.");
        else
            http_stream_abort(x);
        return false;
    }
    if (!f->was_ready) {
        const char *missing = frontend_missing(f);

        if (http_add_header(x, "Retry-After", "1") == ERR_OK)
            http_respond_error(x, 503, "unavailable_error", NULL,
                               missing != NULL ? "no_workers" : "loading_model",
                               missing != NULL ? missing : "Loading model");
        else
            http_stream_abort(x);
        return false;
    }
    return true;
}

static struct call *call_create(struct daemon_frontend *f, struct http_exchange *x,
                                struct api_request *r)
{
    struct call *call = mem_try_calloc(1, sizeof(*call));

    if (call == NULL)
        return NULL;
    call->n_prompts = r->n_messages > 0 ? 1 : r->n_prompts;
    call->prompts = mem_try_calloc(call->n_prompts, sizeof(*call->prompts));
    if (call->prompts == NULL) {
        mem_free(call);
        return NULL;
    }
    call->f = f;
    call->x = x;
    call->r = r;
    call->state = CALL_TOKENIZING;
    call->arrived_ns = http_received_ns(x);
    call->work.data = call;
    snprintf(call->request_id, sizeof(call->request_id), "%s", http_request_id(x));
    snprintf(
        call->id, sizeof(call->id), "%s%016llx", r->kind == API_CHAT ? "chatcmpl-" : "cmpl-",
        (unsigned long long)f->next_gen++); /* no generation has it: no two calls have the same */
    call->head = (struct api_head){.kind = r->kind,
                                   .id = call->id,
                                   .created = (int64_t)(clock_wall_ns() / CLOCK_NS_PER_S),
                                   .model = f->model_name,
                                   .fingerprint = "baton-" BATON_VERSION};
    call->next = f->calls;
    call->prev = &f->calls;
    if (f->calls != NULL)
        f->calls->prev = &call->next;
    f->calls = call;
    f->n_calls++;
    return call;
}

void call_start(struct daemon_frontend *f, struct http_exchange *x, enum api_kind kind)
{
    struct api_limits limits;
    struct api_error error = {0};
    struct api_request *r = NULL;
    struct call *call;
    const char *body;
    size_t len;

    if (!is_open(f, x))
        return;
    frontend_limits(f, &limits);
    body = http_body(x, &len);
    if (!api_request_parse(kind, body, len, &limits, &r, &error)) {
        http_respond_error(x, error.status, error.type, error.param[0] != '\0' ? error.param : NULL,
                           error.code, error.message);
        return;
    }
    call = call_create(f, x, r);
    if (call == NULL) {
        api_request_free(r);
        http_respond_error(x, 500, "server_error", NULL, "internal_error", "Out of memory.");
        return;
    }
    http_set_context(x, call, on_client_left);
    if (!check_call(call) || !call_can_encode(call)) {
        call_fail(call, call->error.status, call->error.type, call->error.code, call->error.message,
                  0, false);
        return;
    }
    if (call_text_bytes(r) > CALL_INLINE_TEXT_MAX &&
        uv_queue_work(f->c.loop, &call->work, tokenize_job, tokenize_done) == 0) {
        call->pool_owns = true;
        f->open_parts++; /* the job uses the tokenizer through it */
        return;
    }
    (void)!call_encode(f, r, call->prompts, &call->error); /* judged by call->error */
    call_run(call);
}
