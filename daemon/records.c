/* daemon/records.c - see the header for the contract. */
#include "daemon/records.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "daemon/api_render.h"

enum {
    FLUSH_MS = 500,
    FLUSH_BYTES = 64 << 10,
    WAITING_BYTES_MAX = 8 << 20, /* behind a write that does not end */
    NAME_ROOM = 48,
    EXPECTED_MAX = 1 << 20 /* far more than can be live */
};

/* What the scheduler does not know of a request. */
struct naming {
    char call_id[40];
    char request_id[136];
};

struct entry {
    struct sched_record r;
    struct naming by;
    char workers[4][NAME_ROOM]; /* chosen and runner-up, prefill and decode */
    uint64_t arrived_wall_ns;
};

struct daemon_records {
    uv_loop_t *loop;
    const struct daemon_config *config;
    struct map expected; /* request -> struct naming */
    struct entry *ring;
    uint32_t kept;
    uint64_t taken, lost;
    /* the file */
    int fd; /* -1: none */
    struct buf waiting, writing;
    bool busy, failing, closing, reopen;
    uv_fs_t write;
    uv_timer_t timer;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void start_write(struct daemon_records *r);

/* ---- as JSON ---- */

static enum err put_ms(struct buf *out, const char *key, uint64_t ns)
{
    if (ns == 0)
        return ERR_OK;
    return buf_printf(out, ",\"%s\":%.3f", key, (double)ns / 1e6);
}

static enum err put_text(struct buf *out, const char *key, const char *text)
{
    enum err err = buf_printf(out, ",\"%s\":", key);

    return err == ERR_OK ? api_render_string(out, text, strlen(text)) : err;
}

/* {"predicted":{...}}: what did not happen is left out. */
static enum err put_times(struct buf *out, const char *key, const struct sched_times *t)
{
    const struct {
        const char *key;
        uint64_t ns;
    } v[] = {{"queue_ms", t->queue},       {"prefill_ms", t->prefill},
             {"handover_ms", t->handover}, {"decode_wait_ms", t->decode_wait},
             {"ttft_ms", t->ttft},         {"step_ms", t->step},
             {"total_ms", t->total}};
    enum err err = buf_printf(out, ",\"%s\":{", key);
    size_t start = out->len;

    for (size_t i = 0; i < sizeof(v) / sizeof(v[0]) && err == ERR_OK; i++) {
        if (v[i].ns != 0)
            err = buf_printf(out, "%s\"%s\":%.3f", out->len > start ? "," : "", v[i].key,
                             (double)v[i].ns / 1e6);
    }
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

static enum err put_pick(struct buf *out, const char *key, const struct sched_pick *p,
                         const char *prefill, const char *decode)
{
    enum err err;

    if (p->prefill == 0 && p->decode == 0)
        return ERR_OK;
    err = buf_printf(out, ",\"%s\":{\"score_ms\":%.3f", key, p->score / 1e6);
    if (err == ERR_OK)
        err = put_text(out, "prefill", prefill);
    if (err == ERR_OK)
        err = put_text(out, "decode", decode);
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

static const char *tier_name(const struct daemon_records *r, uint32_t tier)
{
    return tier < r->config->n_tiers ? r->config->tiers[tier].name : "?";
}

static enum err put_who(const struct daemon_records *r, const struct entry *e, struct buf *out)
{
    const struct sched_record *s = &e->r;
    enum err err = buf_printf(out, "{\"arrived\":%.6f", (double)e->arrived_wall_ns / 1e9);

    if (err == ERR_OK)
        err = put_text(out, "id", e->by.call_id);
    if (err == ERR_OK)
        err = put_text(out, "request_id", e->by.request_id);
    if (err == ERR_OK)
        err = buf_printf(out, ",\"request\":\"%016llx\"", (unsigned long long)s->request);
    if (err == ERR_OK && s->tenant >= 1 && s->tenant <= r->config->n_tenants)
        err = put_text(out, "tenant", r->config->tenants[s->tenant - 1].name);
    if (err == ERR_OK)
        err = buf_printf(
            out,
            ",\"tier_asked\":\"%s\",\"tier\":\"%s\",\"prompt_tokens\":%u,\"cached_tokens\":%u,"
            "\"max_tokens\":%u,\"completion_tokens\":%u,\"predicted_tokens\":%u,\"attempts\":%u",
            tier_name(r, s->tier_asked), tier_name(r, s->tier), s->n_prompt, s->n_cached,
            s->max_new, s->tokens, s->predicted_tokens, s->epochs);
    return err;
}

static enum err put_fate(const struct sched_record *s, struct buf *out)
{
    enum err err = buf_printf(out, ",\"outcome\":\"%s\"", sched_outcome_name(s->outcome));

    if (err == ERR_OK && s->reason != SCHED_REASON_NONE)
        err = put_text(out, "reason", sched_reason_name(s->reason));
    if (err == ERR_OK && s->refusal.resource != SCHED_RES_NONE) {
        err = buf_printf(out, ",\"refusal\":{\"stage\":\"%s\",\"resource\":\"%s\"",
                         sched_resource_stage(s->refusal.resource),
                         sched_resource_name(s->refusal.resource));
        if (err == ERR_OK)
            err = put_ms(out, "predicted_ms", s->refusal.predicted_ns);
        if (err == ERR_OK)
            err = put_ms(out, "target_ms", s->refusal.target_ns);
        if (err == ERR_OK)
            err = buf_puts(out, "}");
    }
    if (err == ERR_OK && s->cause != SCHED_CAUSE_NONE)
        err = put_text(out, "cause", sched_cause_name(s->cause));
    if (err == ERR_OK && s->late_ns != 0)
        err = buf_printf(out, ",\"late_ms\":%.3f", (double)s->late_ns / 1e6);
    if (err == ERR_OK && s->probe)
        err = buf_puts(out, ",\"probe\":true");
    if (err == ERR_OK)
        err = put_ms(out, "ttft_target_ms", s->ttft_target_ns);
    return err == ERR_OK ? put_ms(out, "tbt_target_ms", s->tbt_target_ns) : err;
}

static enum err render(const struct daemon_records *r, const struct entry *e, struct buf *out)
{
    const struct sched_record *s = &e->r;
    enum err err = put_who(r, e, out);

    if (err == ERR_OK)
        err = put_fate(s, out);
    if (err == ERR_OK)
        err = put_times(out, "predicted", &s->predicted);
    if (err == ERR_OK)
        err = put_times(out, "high", &s->high);
    if (err == ERR_OK)
        err = put_times(out, "actual", &s->actual);
    if (err == ERR_OK)
        err = put_pick(out, "chosen", &s->chosen, e->workers[0], e->workers[1]);
    if (err == ERR_OK)
        err = put_pick(out, "runner_up", &s->runner_up, e->workers[2], e->workers[3]);
    return err == ERR_OK ? buf_puts(out, "}") : err;
}

enum err daemon_records_render(const struct daemon_records *r, uint32_t max, uint32_t tier,
                               unsigned outcome, struct buf *out)
{
    uint64_t held = r->taken < r->kept ? r->taken : r->kept;
    uint32_t n = 0;
    enum err err = buf_puts(out, "[");

    for (uint64_t back = 1; back <= held && n < max && err == ERR_OK; back++) {
        const struct entry *e = &r->ring[(r->taken - back) % r->kept];

        if ((tier < SCHED_TIERS_MAX && e->r.tier != tier && e->r.tier_asked != tier) ||
            (outcome != 0 && (unsigned)e->r.outcome != outcome))
            continue;
        if (n++ > 0)
            err = buf_puts(out, ",");
        if (err == ERR_OK)
            err = render(r, e, out);
    }
    return err == ERR_OK ? buf_puts(out, "]") : err;
}

void daemon_records_stats(const struct daemon_records *r, struct daemon_records_stats *out)
{
    *out = (struct daemon_records_stats){.taken = r->taken, .lost = r->lost};
}

/* ---- the file ---- */

static void maybe_closed(struct daemon_records *r);

/* A torn line would spoil the one that follows it. */
static void cut_torn_line(struct daemon_records *r, size_t written)
{
    const char *bytes = buf_bytes(&r->writing);
    size_t torn = 0;
    off_t end = lseek(r->fd, 0, SEEK_END);

    while (torn < written && bytes[written - torn - 1] != '\n')
        torn++;
    if (torn > 0 && end >= (off_t)torn && ftruncate(r->fd, end - (off_t)torn) != 0)
        LOG_WARN("records", "a torn line stays in the file", "why=%s", strerror(errno));
}

static uint64_t count_lines(const struct buf *b)
{
    uint64_t n = 0;

    for (size_t i = 0; i < b->len; i++)
        n += buf_bytes(b)[i] == '\n';
    return n;
}

static void on_written(uv_fs_t *req)
{
    struct daemon_records *r = req->data;
    ssize_t n = req->result;

    uv_fs_req_cleanup(req);
    r->busy = false;
    if (n > 0 && (size_t)n < r->writing.len) {
        size_t whole = (size_t)n;

        cut_torn_line(r, whole); /* what is left begins with that line */
        while (whole > 0 && buf_bytes(&r->writing)[whole - 1] != '\n')
            whole--;
        buf_consume(&r->writing, whole);
        n = whole > 0 ? n : -ENOSPC; /* not even one line: there is no room */
    } else if (n > 0) {
        buf_clear(&r->writing);
    }
    if (n <= 0) {
        r->lost += count_lines(&r->writing);
        buf_clear(&r->writing);
        if (!r->failing)
            LOG_ERROR("records", "cannot write records",
                      "file=%s why=%s; lines are lost until it works", r->config->records,
                      uv_strerror((int)n));
        r->failing = true;
    } else if (r->failing && r->writing.len == 0) {
        LOG_INFO("records", "records are written again", "lost=%llu", (unsigned long long)r->lost);
        r->failing = false;
    }
    start_write(r);
    maybe_closed(r);
}

static int open_file(const struct daemon_config *c)
{
    return open(c->records, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600);
}

/* No write runs. */
static void open_anew(struct daemon_records *r)
{
    int fd = open_file(r->config);

    r->reopen = false;
    if (fd < 0) {
        LOG_ERROR("records", "cannot open the records file anew",
                  "file=%s why=%s; the old one stays", r->config->records, strerror(errno));
        return;
    }
    close(r->fd);
    r->fd = fd;
}

static void start_write(struct daemon_records *r)
{
    uv_buf_t b;

    if (r->busy || r->fd < 0)
        return;
    if (r->reopen)
        open_anew(r);
    if (r->writing.len == 0) {
        struct buf swap = r->writing;

        r->writing = r->waiting;
        r->waiting = swap;
    }
    if (r->writing.len == 0)
        return;
    b = uv_buf_init(buf_bytes(&r->writing), (unsigned)r->writing.len);
    r->write.data = r;
    r->busy = uv_fs_write(r->loop, &r->write, r->fd, &b, 1, -1, on_written) == 0;
}

static void on_flush(uv_timer_t *t)
{
    start_write(t->data);
}

static void write_line(struct daemon_records *r, const struct entry *e)
{
    size_t before = r->waiting.len;

    if (r->fd < 0)
        return;
    if (before < WAITING_BYTES_MAX && render(r, e, &r->waiting) == ERR_OK &&
        buf_puts(&r->waiting, "\n") == ERR_OK) {
        if (r->waiting.len >= FLUSH_BYTES)
            start_write(r);
        return;
    }
    r->waiting.len = before;
    r->lost++;
    if (!r->failing)
        LOG_ERROR("records", "records wait too long for the disk", "file=%s; lines are lost",
                  r->config->records);
    r->failing = true;
}

/* ---- public ---- */

enum err daemon_records_create(uv_loop_t *loop, const struct daemon_config *config,
                               struct err_msg *msg, struct daemon_records **out)
{
    struct daemon_records *r = mem_try_calloc(1, sizeof(*r));

    if (r != NULL) {
        r->kept = config->records_kept;
        r->ring = mem_try_calloc(r->kept, sizeof(*r->ring));
    }
    if (r == NULL || r->ring == NULL) {
        mem_free(r);
        return err_set(msg, ERR_NOMEM, "no memory for %u records", config->records_kept);
    }
    r->loop = loop;
    r->config = config;
    r->fd = -1;
    if (config->records != NULL) {
        r->fd = open_file(config);
        if (r->fd < 0) {
            enum err err = err_set(msg, ERR_IO, "cannot open the records file %.200s: %s",
                                   config->records, strerror(errno));

            mem_free(r->ring);
            mem_free(r);
            return err;
        }
    }
    uv_timer_init(loop, &r->timer);
    r->timer.data = r;
    if (r->fd >= 0)
        uv_timer_start(&r->timer, on_flush, FLUSH_MS, FLUSH_MS);
    uv_unref((uv_handle_t *)&r->timer);
    *out = r;
    return ERR_OK;
}

void daemon_records_expect(struct daemon_records *r, uint64_t request, const char *call_id,
                           const char *request_id)
{
    struct naming *by = r->expected.count < EXPECTED_MAX ? mem_try_alloc(sizeof(*by)) : NULL;

    if (by == NULL)
        return;
    snprintf(by->call_id, sizeof(by->call_id), "%s", call_id);
    snprintf(by->request_id, sizeof(by->request_id), "%s", request_id);
    if (map_put(&r->expected, request, by) != ERR_OK)
        mem_free(by);
}

static void name_workers(const struct daemon_hub *hub, struct entry *e)
{
    const uint32_t ids[4] = {e->r.chosen.prefill, e->r.chosen.decode, e->r.runner_up.prefill,
                             e->r.runner_up.decode};

    for (int i = 0; i < 4; i++)
        daemon_hub_worker_name(hub, ids[i], e->workers[i], sizeof(e->workers[i]));
}

void daemon_records_add(struct daemon_records *r, const struct daemon_hub *hub,
                        const struct sched_record *record)
{
    struct entry *e = &r->ring[r->taken++ % r->kept];
    struct naming *by = map_del(&r->expected, record->request);
    uint64_t now = clock_now_ns();

    memset(e, 0, sizeof(*e));
    e->r = *record;
    if (by != NULL)
        e->by = *by;
    mem_free(by);
    e->arrived_wall_ns = clock_wall_ns() - (now - record->arrived_ns);
    name_workers(hub, e);
    write_line(r, e);
}

void daemon_records_reopen(struct daemon_records *r)
{
    r->reopen = true;
    start_write(r);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct daemon_records *r = h->data;
    struct naming *by;
    size_t at = 0;

    if (r->fd >= 0)
        close(r->fd);
    while ((by = map_next(&r->expected, &at)) != NULL)
        mem_free(by);
    map_free(&r->expected);
    buf_free(&r->waiting);
    buf_free(&r->writing);
    mem_free(r->ring);
    r->closed(r->closed_arg);
    mem_free(r);
}

/* Once all is written, or was given up. */
static void maybe_closed(struct daemon_records *r)
{
    if (r->closing && !r->busy && !uv_is_closing((uv_handle_t *)&r->timer))
        uv_close((uv_handle_t *)&r->timer, on_timer_closed);
}

void daemon_records_close(struct daemon_records *r, void (*closed)(void *arg), void *arg)
{
    r->closing = true;
    r->closed = closed;
    r->closed_arg = arg;
    start_write(r);
    maybe_closed(r);
}
