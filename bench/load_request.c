/* bench/load_request.c - the life of one request of a run: sent, first chunk, chunks, end; and what it counts as. */
#include "bench/load_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

enum { CHUNKS_MAX = 1 << 20, ERROR_BODY_MAX = 4096, ANSWER_MAX = 16 << 20 };

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

/* ---- what arrived ---- */

static void note_failure(struct load_request *q, const char *why)
{
    if (q->error[0] == '\0')
        snprintf(q->error, sizeof(q->error), "%s", why);
    q->failed = true;
}

static void count_chunk(struct load_runner *r, uint64_t now)
{
    size_t second = (size_t)((now - r->begin_ns) / CLOCK_NS_PER_S);

    if (second < r->n_seconds)
        r->per_second[second]++;
}

static bool keep_time(struct load_request *q, uint64_t now)
{
    uint64_t us = (now - q->intended_ns) / CLOCK_NS_PER_US;

    if (q->n_chunks == q->cap_chunks) {
        uint32_t cap = q->cap_chunks == 0 ? 64 : q->cap_chunks * 2;
        uint32_t *grown =
            cap <= CHUNKS_MAX ? mem_try_realloc(q->at_us, cap * sizeof(*grown)) : NULL;

        if (grown == NULL)
            return false;
        q->at_us = grown;
        q->cap_chunks = cap;
    }
    q->at_us[q->n_chunks++] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    return true;
}

static void on_text(struct load_request *q, uint64_t now)
{
    struct load_runner *r = q->runner;

    if (q->first_ns == 0) {
        q->first_ns = now;
        bench_hist_add(&r->first_token, seconds(q->intended_ns, now));
    } else if (now - q->previous_ns > q->max_gap_ns) {
        q->max_gap_ns = now - q->previous_ns;
    }
    q->previous_ns = now;
    if (!keep_time(q, now))
        note_failure(q, "more chunks than this client keeps");
    count_chunk(r, now);
    if (r->plan->v[q->index].cancel_after > 0 && q->n_chunks >= r->plan->v[q->index].cancel_after)
        q->must_cancel = true;
}

static void on_chunk(void *arg, const struct load_chunk *c)
{
    struct load_request *q = arg;
    uint64_t now = clock_now_ns();

    if (c->is_error)
        note_failure(q, c->error[0] != '\0' ? c->error : "error event without text");
    if (c->is_end)
        q->saw_end = true;
    if (c->has_usage)
        q->usage = *c;
    if (c->has_text && !q->saw_finish)
        on_text(q, now);
    if (c->finished)
        q->saw_finish = true;
    if (c->has_choice)
        q->last_ns = now;
}

/* ---- what it counts as ---- */

/* Chunk j of m stands for token j where each token has a chunk; where tokens share chunks they are spread evenly. */
static double worst_lateness(const struct load_request *q, const struct bench_outcome *o)
{
    double worst = -INFINITY, tokens = o->n_out > 1 ? (double)(o->n_out - 1) : 0;
    double per_chunk = q->n_chunks > 1 ? tokens / (double)(q->n_chunks - 1) : 0;

    for (uint32_t j = 0; j < q->n_chunks; j++) {
        double due = o->ttft_target_s + (double)j * per_chunk * o->tbt_target_s;

        worst = fmax(worst, (double)q->at_us[j] / 1e6 - due);
    }
    return isfinite(worst) ? worst : 0;
}

/* An answer in one piece: its last token against the time by which all of it should have been there. */
static void judge_whole(struct bench_outcome *o)
{
    double rest = o->n_out > 1 ? (double)(o->n_out - 1) : 0;

    o->whole = true;
    o->ttft_s = o->max_gap_s = 0;
    o->late_s = o->e2e_s > 0 ? o->e2e_s - o->ttft_target_s - rest * o->tbt_target_s : 0;
}

static void fill_record(const struct load_request *q, enum bench_fate fate, struct load_record *rec)
{
    struct load_runner *r = q->runner;
    const struct load_item *item = &r->plan->v[q->index];
    const struct load_tier *tier = &r->o->tier[item->tier];
    struct bench_outcome *o = &rec->outcome;
    double from = r->o->warmup_s, to = r->plan->duration_s - r->o->cooldown_s;

    *rec = (struct load_record){.index = q->index,
                                .item = item,
                                .status = q->status,
                                .queue_s = seconds(q->intended_ns, q->ready_ns),
                                .n_chunks = q->n_chunks,
                                .n_cached = q->usage.cached_tokens};
    snprintf(rec->error, sizeof(rec->error), "%s", q->error);
    o->tier = item->tier;
    o->fate = fate;
    o->intended_s = seconds(r->begin_ns, q->intended_ns);
    o->measured = o->intended_s >= from && o->intended_s < to;
    o->admitted = q->status == 200;
    o->n_prompt = q->usage.prompt_tokens > 0 ? q->usage.prompt_tokens : item->n_prompt;
    o->n_out = q->usage.completion_tokens > 0 ? q->usage.completion_tokens : q->n_chunks;
    o->sent_s = o->intended_s + seconds(q->ready_ns, q->sent_ns); /* waiting for a slot is no lag */
    o->ttft_s = q->first_ns > 0 ? seconds(q->intended_ns, q->first_ns) : 0;
    o->e2e_s = q->last_ns > 0 ? seconds(q->intended_ns, q->last_ns) : 0;
    o->max_gap_s = (double)q->max_gap_ns / 1e9;
    o->retry_after_s = q->retry_after_s > 0 ? q->retry_after_s : 0;
    o->ttft_target_s = load_ttft_target(r->o, tier, o->n_prompt);
    o->tbt_target_s = tier->tbt_s;
    o->late_s = worst_lateness(q, o);
    if (r->o->no_stream) {
        if (q->usage.completion_tokens == 0 && fate == BENCH_DONE)
            o->n_out = item->n_out; /* no usage came: what was asked for */
        judge_whole(o);
        return;
    }
    if (fate == BENCH_DONE && o->ttft_s <= 0)
        o->ttft_s = o->e2e_s; /* finished without any text: then is when the client knew */
    if (o->n_out > 1 && o->ttft_s > 0 && o->e2e_s > o->ttft_s)
        rec->mean_gap_s = (o->e2e_s - o->ttft_s) / (double)(o->n_out - 1);
}

static void count_done(const struct load_request *q, const struct load_record *rec)
{
    struct load_stats *s = q->runner->stats;
    const struct bench_outcome *o = &rec->outcome;

    s->tokens_in += o->n_prompt;
    s->tokens_out += o->n_out;
    s->cached_tokens += rec->n_cached;
    s->cut_short += !q->runner->o->stop_early && q->usage.completion_tokens > 0 &&
                    q->usage.completion_tokens < rec->item->n_out;
    if (!o->measured)
        return;
    bench_hist_add(&s->e2e, o->e2e_s);
    if (o->whole)
        return;
    bench_hist_add(&s->ttft, o->ttft_s);
    if (o->n_out > 1)
        bench_hist_add(&s->tpot, rec->mean_gap_s);
    for (uint32_t j = 1; j < q->n_chunks; j++)
        bench_hist_add(&s->itl, (double)(q->at_us[j] - q->at_us[j - 1]) / 1e6);
}

static void count(const struct load_request *q, enum bench_fate fate, const struct load_record *rec)
{
    struct load_stats *s = q->runner->stats;

    s->done += fate == BENCH_DONE;
    s->refused += fate == BENCH_REFUSED;
    s->failed += fate == BENCH_FAILED;
    s->timeout += fate == BENCH_TIMEOUT;
    s->canceled += fate == BENCH_CANCELED;
    s->retry_after_s = fmax(s->retry_after_s, rec->outcome.retry_after_s);
    bench_hist_add(&s->queue, rec->queue_s);
    if (fate == BENCH_FAILED && s->first_error[0] == '\0')
        snprintf(s->first_error, sizeof(s->first_error), "%s", rec->error);
    if (fate == BENCH_DONE)
        count_done(q, rec);
}

static void unlink_request(struct load_request *q)
{
    struct load_runner *r = q->runner;

    if (q->prev != NULL)
        q->prev->next = q->next;
    else
        r->first = q->next;
    if (q->next != NULL)
        q->next->prev = q->prev;
    else
        r->last = q->prev;
}

static void finish(struct load_request *q, enum bench_fate fate)
{
    struct load_runner *r = q->runner;
    struct load_record rec;

    r->last_ns = clock_now_ns();
    fill_record(q, fate, &rec);
    count(q, fate, &rec);
    bench_run_add(r->run, &rec.outcome);
    if (r->job->on_record != NULL)
        r->job->on_record(r->job->arg, &rec);
    unlink_request(q);
    load_sse_fini(&q->sse);
    buf_free(&q->body);
    mem_free(q->at_us);
    mem_free(q);
    load_runner_ended(r);
}

/* ---- callbacks ---- */

static void on_head(struct load_call *call, int status, double retry_after_s)
{
    struct load_request *q = (struct load_request *)call;

    q->status = status;
    q->retry_after_s = retry_after_s;
}

static void on_body(struct load_call *call, const char *bytes, size_t len)
{
    struct load_request *q = (struct load_request *)call;
    size_t room = ERROR_BODY_MAX - q->body.len;
    enum err err;

    if (q->status != 200) {
        (void)!buf_append(&q->body, bytes, len < room ? len : room);
        return;
    }
    if (q->runner->o->no_stream) {
        if (q->body.len + len > ANSWER_MAX || buf_append(&q->body, bytes, len) != ERR_OK)
            load_request_stop(q, BENCH_FAILED, "the answer is too long");
        return;
    }
    err = load_sse_feed(&q->sse, bytes, len, on_chunk, q);
    if (err != ERR_OK)
        note_failure(q, err == ERR_LIMIT ? "an event is too long" : "an event is not JSON");
    if (q->must_cancel && !q->failed)
        load_request_stop(q, BENCH_CANCELED, "canceled by the client");
    else if (q->failed)
        load_request_stop(q, BENCH_FAILED, q->error);
}

static void explain_status(struct load_request *q)
{
    struct load_chunk c;

    if (q->body.len > 0 && load_chunk_read(buf_bytes(&q->body), q->body.len, &c) == ERR_OK &&
        c.error[0] != '\0')
        snprintf(q->error, sizeof(q->error), "%.150s", c.error);
    else
        snprintf(q->error, sizeof(q->error), "HTTP status %d", q->status);
}

/* All of an answer in one piece, as it counts. */
static void read_whole(struct load_request *q)
{
    struct load_chunk c;

    if (load_chunk_read(buf_bytes(&q->body), q->body.len, &c) != ERR_OK) {
        note_failure(q, "the answer is not JSON");
        return;
    }
    on_chunk(q, &c);
    if (!c.is_error && !c.finished)
        note_failure(q, "the answer has no finish_reason");
}

static void on_end(struct load_call *call, enum err err, const char *why)
{
    struct load_request *q = (struct load_request *)call;
    enum bench_fate fate = BENCH_FAILED;

    if (q->status == 200 && q->runner->o->no_stream && err == ERR_OK)
        read_whole(q);
    if (q->status == 429 || q->status == 503) {
        fate = BENCH_REFUSED;
        q->last_ns = clock_now_ns(); /* when the client may go elsewhere */
    }
    if (q->status == 200 && !q->failed && (q->saw_end || q->saw_finish) && q->last_ns > 0)
        fate = BENCH_DONE; /* a connection that breaks behind the end is no failure */
    if (fate != BENCH_DONE && q->status != 200 && q->status != 0)
        explain_status(q);
    else if (fate == BENCH_FAILED)
        note_failure(q, err != ERR_OK ? why : "the stream ended without a finish_reason or [DONE]");
    finish(q, fate);
}

void load_request_stop(struct load_request *q, enum bench_fate fate, const char *why)
{
    load_call_cancel(&q->call);
    if (q->error[0] == '\0')
        snprintf(q->error, sizeof(q->error), "%s", why);
    finish(q, fate);
}

void load_request_start(struct load_runner *r, size_t index, uint64_t intended_ns,
                        uint64_t ready_ns)
{
    struct load_request *q = mem_try_calloc(1, sizeof(*q));
    struct buf bytes = BUF_INIT;
    enum err err = q != NULL ? load_plan_bytes(r->plan, index, &bytes) : ERR_NOMEM;

    if (q == NULL) {
        r->err = ERR_NOMEM;
        r->sending = false;
        return;
    }
    q->call = (struct load_call){.on_head = on_head, .on_body = on_body, .on_end = on_end};
    q->runner = r;
    q->index = index;
    q->intended_ns = intended_ns;
    q->ready_ns = ready_ns;
    q->prev = r->last;
    if (r->last != NULL)
        r->last->next = q;
    else
        r->first = q;
    r->last = q;
    r->in_flight++;
    r->stats->sent++;
    q->sent_ns = clock_now_ns();
    bench_hist_add(&r->lag, seconds(ready_ns, q->sent_ns));
    if (err == ERR_OK)
        err = load_call_start(r->client, &q->call, &bytes); /* may end it at once */
    if (err != ERR_OK) {
        r->stats->no_socket += err == ERR_IO;
        buf_free(&bytes);
        note_failure(q, err == ERR_IO ? "no socket for a new connection" : "out of memory");
        finish(q, BENCH_FAILED);
    }
}
