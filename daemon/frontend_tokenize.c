/* daemon/frontend_tokenize.c - /tokenize and /detokenize.  Long texts are tokenized on the pool, as in call.c: a
 * client that leaves meanwhile only takes the exchange away, the job's end frees the rest. */
#include <string.h>

#include "base/mem.h"
#include "daemon/frontend_impl.h"

struct tokenize_job {
    struct daemon_frontend *f;
    struct http_exchange *x; /* NULL: the client has left */
    struct api_request *r;
    struct call_prompt prompt;
    struct api_error error;
    uv_work_t work;
};

static void refuse(struct http_exchange *x, const struct api_error *e)
{
    http_respond_error(x, e->status, e->type, e->param[0] != '\0' ? e->param : NULL, e->code,
                       e->message);
}

static struct api_request *parse_body(struct daemon_frontend *f, struct http_exchange *x,
                                      enum api_kind kind)
{
    struct api_limits limits;
    struct api_error error = {0};
    struct api_request *r = NULL;
    size_t len;
    const char *body = http_body(x, &len);

    frontend_limits(f, &limits);
    if (api_request_parse(kind, body, len, &limits, &r, &error))
        return r;
    refuse(x, &error);
    return NULL;
}

static void no_tokenizer(struct http_exchange *x)
{
    http_respond_error(x, 400, "invalid_request_error", NULL, "no_tokenizer",
                       "This server has no tokenizer, or its model no chat template.");
}

static void job_free(struct tokenize_job *j)
{
    engine_ids_free(&j->prompt.ids);
    buf_free(&j->prompt.text);
    api_request_free(j->r);
    mem_free(j);
}

static void job_answer(struct tokenize_job *j)
{
    struct api_model_card m;
    struct buf out = BUF_INIT;
    enum err err;

    frontend_model_card(j->f, &m);
    if (j->error.status != 0) {
        refuse(j->x, &j->error);
    } else {
        err = api_render_tokens(&out, j->prompt.ids.ids, j->prompt.ids.n, m.max_context,
                                j->r->with_pieces, call_piece, j->f);
        frontend_answer(j->x, 200, &out, err);
    }
    buf_free(&out);
}

static void job_work(uv_work_t *work)
{
    struct tokenize_job *j = work->data;

    (void)!call_encode(j->f, j->r, &j->prompt, &j->error); /* judged by j->error */
}

static void job_done(uv_work_t *work, int status)
{
    struct tokenize_job *j = work->data;
    struct daemon_frontend *f = j->f;

    if (status != 0)
        api_error_set(&j->error, 503, "unavailable_error", NULL, "shutting_down",
                      "The server is shutting down.");
    if (j->x != NULL)
        job_answer(j);
    job_free(j);
    frontend_part_closed(f);
}

static void on_left(struct http_exchange *x, void *context)
{
    (void)x;
    ((struct tokenize_job *)context)->x = NULL;
}

void frontend_on_tokenize(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    struct api_request *r = parse_body(f, x, API_TOKENIZE);
    struct tokenize_job *j;

    if (r == NULL)
        return;
    j = mem_try_calloc(1, sizeof(*j));
    if (f->c.tok == NULL || (r->n_messages > 0 && f->c.chat == NULL) || j == NULL) {
        if (j == NULL)
            frontend_answer(x, 500, NULL, ERR_NOMEM);
        else
            no_tokenizer(x);
        mem_free(j);
        api_request_free(r);
        return;
    }
    *j = (struct tokenize_job){.f = f, .x = x, .r = r};
    j->work.data = j;
    if (call_text_bytes(r) > CALL_INLINE_TEXT_MAX &&
        uv_queue_work(f->c.loop, &j->work, job_work, job_done) == 0) {
        f->open_parts++; /* the job uses the tokenizer through it */
        http_set_context(x, j, on_left);
        return;
    }
    job_work(&j->work);
    job_answer(j);
    job_free(j);
}

void frontend_on_detokenize(struct http_exchange *x, void *arg)
{
    struct daemon_frontend *f = arg;
    struct api_request *r = parse_body(f, x, API_DETOKENIZE);
    struct buf text = BUF_INIT, out = BUF_INIT;
    struct engine_detok d;
    enum err err = ERR_OK;

    if (r == NULL)
        return;
    if (f->c.tok == NULL) {
        no_tokenizer(x);
    } else {
        engine_detok_init(&d, f->c.tok, false);
        for (size_t i = 0; err == ERR_OK && i < r->prompts[0].n_ids; i++)
            err = engine_detok_push(&d, f->c.tok, r->prompts[0].ids[i], !r->skip_special_tokens,
                                    &text);
        if (err == ERR_OK)
            err = engine_detok_finish(&d, &text);
        if (err == ERR_OK)
            err = api_render_text(&out, text.len > 0 ? buf_bytes(&text) : "", text.len);
        frontend_answer(x, 200, &out, err);
    }
    buf_free(&text);
    buf_free(&out);
    api_request_free(r);
}
