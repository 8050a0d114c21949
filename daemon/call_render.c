/* daemon/call_render.c - what the client gets: chunks as tokens come, or one response at the end.
 *
 * Generations with something new are marked; once per loop turn, before the loop sleeps, each marked one
 * becomes one chunk.  Usually that is one token; if a client or the loop is behind it is several, so a
 * backlog costs less, not more. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/frontend_impl.h"

static const char *finish_name(enum daemon_finish f)
{
    switch (f) {
    case DAEMON_FINISH_STOP:
        return "stop";
    case DAEMON_FINISH_LENGTH:
        return "length";
    case DAEMON_FINISH_NONE:
        return NULL;
    }
    return NULL;
}

const char *call_piece(void *arg, int32_t token, size_t *len)
{
    struct daemon_frontend *f = arg;
    static char scratch[16]; /* loop thread only; used before the next call */

    return daemon_gen_piece(f->c.tok, token, true, scratch, len);
}

void call_mark_dirty(struct call_gen *g)
{
    struct daemon_frontend *f = g->call->f;

    if (g->dirty)
        return;
    g->dirty = true;
    g->next_dirty = f->dirty;
    f->dirty = g;
}

/* The stop token that ended a generation is not part of its text, nor of its logprobs. */
static uint32_t n_shown(const struct call_gen *g)
{
    uint32_t n = g->g.n_log;

    if (n > 0 && g->g.log[n - 1].finish == 1 && !g->call->r->include_stop_str_in_output)
        n--;
    return n;
}

/* Tokens [from, to) of the log as logprob entries; *storage is freed by the caller. */
static enum err fill_logprobs(struct call_gen *g, uint32_t from, uint32_t to,
                              struct api_choice *choice, struct api_token_logprob **storage)
{
    struct daemon_frontend *f = g->call->f;
    struct api_token_logprob *v;

    *storage = NULL;
    choice->has_logprobs = g->call->r->logprobs;
    if (!choice->has_logprobs || to <= from)
        return ERR_OK;
    v = mem_try_calloc(to - from, sizeof(*v));
    if (v == NULL)
        return ERR_NOMEM;
    for (uint32_t i = from; i < to; i++) {
        const struct daemon_token *t = &g->g.log[i];
        struct api_token_logprob *e = &v[i - from];

        e->piece = call_piece(f, t->id, &e->piece_len);
        e->logprob = t->logprob;
        e->top = t->top;
        e->n_top = t->n_top;
    }
    choice->logprobs = (struct api_logprobs){.tokens = v,
                                             .n = to - from,
                                             .text_offset = g->text_offset,
                                             .piece = call_piece,
                                             .piece_arg = f};
    *storage = v;
    return ERR_OK;
}

static enum err fill_ids(const struct call_gen *g, uint32_t from, uint32_t to,
                         struct api_choice *choice, int32_t **storage)
{
    *storage = NULL;
    if (!g->call->r->return_token_ids || to <= from)
        return ERR_OK;
    *storage = mem_try_alloc((to - from) * sizeof(**storage));
    if (*storage == NULL)
        return ERR_NOMEM;
    for (uint32_t i = from; i < to; i++)
        (*storage)[i - from] = g->g.log[i].id;
    choice->token_ids = *storage;
    choice->n_token_ids = to - from;
    return ERR_OK;
}

static size_t count_characters(const char *s, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

static void usage_of(const struct call *call, struct api_usage *u)
{
    *u = (struct api_usage){0};
    for (size_t i = 0; i < call->n_prompts; i++)
        u->prompt_tokens += call->prompts[i].ids.n;
    for (uint32_t i = 0; i < call->n_gens; i++)
        u->completion_tokens += call->gens[i].g.n_log;
}

/* Completions with echo start with the prompt; ids without text are shown as their pieces. */
static enum err put_echo(const struct call_gen *g, struct buf *out)
{
    const struct call_prompt *p = &g->call->prompts[g->prompt];
    struct engine_detok d;
    enum err err = ERR_OK;

    if (!g->call->r->echo)
        return ERR_OK;
    if (p->text.len > 0)
        return buf_append(out, buf_bytes(&p->text), p->text.len);
    if (g->call->f->c.tok == NULL) {
        for (size_t i = 0; err == ERR_OK && i < p->ids.n; i++)
            err = buf_printf(out, " %d", (int)p->ids.ids[i]);
        return err;
    }
    engine_detok_init(&d, g->call->f->c.tok, false);
    for (size_t i = 0; err == ERR_OK && i < p->ids.n; i++)
        err = engine_detok_push(&d, g->call->f->c.tok, p->ids.ids[i], false, out);
    return err == ERR_OK ? engine_detok_finish(&d, out) : err;
}

/* ---- streaming ---- */

static bool begin_stream(struct call *call)
{
    if (call->streaming)
        return true;
    if (call_add_contract_headers(call) != ERR_OK) {
        call_fail(call, 500, "server_error", "internal_error", "Out of memory.", 0, true);
        return false;
    }
    call->streaming = true;
    http_stream_begin(call->x, 200, "text/event-stream; charset=utf-8");
    return true;
}

/* Something of g can be shown: text, its end, or token ids and logprobs that wait for no text. */
static bool has_news(const struct call_gen *g)
{
    return g->g.text.len > 0 || g->g.finish != DAEMON_FINISH_NONE;
}

static enum err put_chunk(struct call_gen *g, struct buf *out)
{
    struct call *call = g->call;
    struct api_token_logprob *logprobs = NULL;
    int32_t *ids = NULL;
    struct api_choice choice = {.index = g->choice, .finish_reason = finish_name(g->g.finish)};
    struct api_usage usage;
    uint32_t to = n_shown(g);
    struct buf echoed = BUF_INIT;
    enum err err = ERR_OK;

    choice.text = buf_bytes(&g->g.text);
    choice.text_len = g->g.text.len;
    if (!g->opened && call->r->echo) {
        err = put_echo(g, &echoed);
        if (err == ERR_OK)
            err = buf_append(&echoed, choice.text, choice.text_len);
        choice.text = buf_bytes(&echoed);
        choice.text_len = echoed.len;
    }
    if (err == ERR_OK)
        err = fill_logprobs(g, g->n_sent, to, &choice, &logprobs);
    if (err == ERR_OK)
        err = fill_ids(g, g->n_sent, to, &choice, &ids);
    usage_of(call, &usage);
    if (err == ERR_OK)
        err = api_render_chunk(out, &call->head, &choice, !g->opened,
                               call->r->continuous_usage ? &usage : NULL, call->r->include_usage);
    mem_free(logprobs);
    mem_free(ids);
    g->opened = true;
    g->n_sent = to;
    g->text_offset += count_characters(choice.text, choice.text_len);
    buf_free(&echoed);
    buf_clear(&g->g.text);
    return err;
}

static void flush_stream(struct call_gen *g)
{
    struct call *call = g->call;
    struct buf *out = &call->f->scratch;
    enum err err;

    if (!has_news(g) || !begin_stream(call))
        return;
    buf_clear(out);
    err = put_chunk(g, out);
    if (err == ERR_OK)
        err = http_stream_write(call->x, buf_bytes(out), out->len);
    if (err == ERR_LIMIT)
        return; /* the client does not read: the server cuts it and on_close ends the call */
    if (err != ERR_OK)
        call_fail(call, 500, "server_error", "internal_error", "Out of memory.", 0, true);
    else if (call->n_running == 0)
        call_finish(call);
}

/* Only the last generation to be flushed may end the call, so that each one's last chunk is out. */
static bool others_dirty(const struct call *call)
{
    for (uint32_t i = 0; i < call->n_gens; i++) {
        if (call->gens[i].dirty)
            return true;
    }
    return false;
}

void call_flush_all(struct daemon_frontend *f)
{
    while (f->dirty != NULL) {
        struct call_gen *g = f->dirty;
        struct call *call = g->call;

        f->dirty = g->next_dirty;
        g->dirty = false;
        if (call->r->stream)
            flush_stream(g);
        else if (call->n_running == 0 && !others_dirty(call))
            call_finish(call);
    }
}

static enum err finish_stream(struct call *call, struct buf *out)
{
    struct api_usage usage;
    enum err err = ERR_OK;

    usage_of(call, &usage);
    if (call->r->include_usage)
        err = api_render_usage_chunk(out, &call->head, &usage);
    if (err == ERR_OK)
        err = api_render_done(out);
    if (err == ERR_OK)
        err = http_stream_write(call->x, buf_bytes(out), out->len);
    return err;
}

/* ---- the whole response ---- */

static enum err render_whole(struct call *call, struct buf *out)
{
    struct api_choice *choices = mem_try_calloc(call->n_gens, sizeof(*choices));
    struct api_token_logprob **logprobs = mem_try_calloc(call->n_gens, sizeof(*logprobs));
    int32_t **ids = mem_try_calloc(call->n_gens, sizeof(*ids));
    struct buf *texts = mem_try_calloc(call->n_gens, sizeof(*texts));
    struct api_usage usage;
    enum err err =
        choices != NULL && logprobs != NULL && ids != NULL && texts != NULL ? ERR_OK : ERR_NOMEM;

    for (uint32_t i = 0; err == ERR_OK && i < call->n_gens; i++) {
        struct call_gen *g = &call->gens[i];

        choices[i].index = g->choice;
        choices[i].finish_reason = finish_name(g->g.finish);
        err = put_echo(g, &texts[i]);
        if (err == ERR_OK)
            err = buf_append(&texts[i], buf_bytes(&g->g.text), g->g.text.len);
        choices[i].text = texts[i].len > 0 ? buf_bytes(&texts[i]) : "";
        choices[i].text_len = texts[i].len;
        if (err == ERR_OK)
            err = fill_logprobs(g, 0, n_shown(g), &choices[i], &logprobs[i]);
        if (err == ERR_OK)
            err = fill_ids(g, 0, n_shown(g), &choices[i], &ids[i]);
    }
    usage_of(call, &usage);
    if (err == ERR_OK)
        err = api_render_response(out, &call->head, choices, call->n_gens, &usage);
    for (uint32_t i = 0; i < call->n_gens; i++) {
        if (logprobs != NULL)
            mem_free(logprobs[i]);
        if (ids != NULL)
            mem_free(ids[i]);
        if (texts != NULL)
            buf_free(&texts[i]);
    }
    mem_free(choices);
    mem_free(logprobs);
    mem_free(ids);
    mem_free(texts);
    return err;
}

void call_finish(struct call *call)
{
    struct buf *out = &call->f->scratch;
    enum err err;

    for (uint32_t i = 0; call->r->stream && i < call->n_gens; i++) {
        if (call->gens[i].dirty)
            return; /* its chunk comes first */
    }
    buf_clear(out);
    if (call->r->stream) {
        if (!begin_stream(call))
            return;
        err = finish_stream(call, out);
        if (err == ERR_LIMIT)
            return;
    } else {
        err = render_whole(call, out);
        if (err == ERR_OK)
            err = call_add_contract_headers(call);
    }
    if (err != ERR_OK) {
        call_fail(call, 500, "server_error", "internal_error", "Out of memory.", 0, true);
        return;
    }
    call->outcome = "ok";
    call->status = 200;
    if (call->r->stream)
        http_stream_end(call->x);
    else
        http_respond(call->x, 200, "application/json", buf_bytes(out), out->len);
    call_end(call);
}
