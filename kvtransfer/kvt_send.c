/* kvtransfer/kvt_send.c - the sender's side of a transfer.
 *
 *   WAITING -> CLAIMING -> STREAMING -> FINISHED -> (acknowledged) -> ENDED
 *        any of these -> STOPPING -> ENDED
 *
 * Nothing is written before the receiver has accepted the claim: so a grant that was canceled while its
 * sender did not know of it yet can be reused at once.  A send ends, in success and in failure, only
 * when UCX holds none of its operations any more; the STOPPED frame of a failed one therefore says that
 * nothing of it will be written, which is what lets the receiver reuse its slots.
 *
 * One-sided path: records are put; a batch of them is flushed, then notified.  Message path: a record
 * is one eager message that names itself; of a pool in device memory see kvt_send_staged.c. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kvtransfer/kvt_send_int.h"

/* Records that share one flush. */
struct batch {
    struct kvt_op put, flush;
    struct kvt_send *send;
    uint32_t pending; /* operations, and 1 while it is being filled */
    uint32_t n_records;
    size_t bytes;
    enum err err;
    struct kvt_wire_record record[KVT_BATCH_RECORDS];
};

struct message {
    struct kvt_op op;
    struct kvt_send *send;
    size_t bytes;
    uint8_t header[KVT_WIRE_DATA_HEADER];
    uint8_t gathered[]; /* where the blocks of the record are not contiguous */
};

/* ---- the end ---- */

static void send_free(struct kvt_send *s)
{
    mem_free(s->remote);
    mem_free(s->pieces);
    mem_free(s);
}

static void send_end(struct kvt_send *s)
{
    struct kvt_node *n = s->node;

    s->state = SEND_ENDED;
    item_unlink(&s->item);
    item_append(&n->ended_sends, &s->item);
}

/* Called whenever an operation ended or the state changed. */
void kvt_send_try_end(struct kvt_send *s)
{
    if (s->ops > 0 || s->open_batches > 0 || s->copying > 0)
        return;
    if (s->state == SEND_STOPPING) {
        if (s->conn != NULL)
            kvt_conn_write_transfer(s->conn, KVT_WIRE_STOPPED, s->config.transfer, s->config.epoch,
                                    s->err);
        send_end(s);
    } else if (s->state == SEND_FINISHED && s->acked) {
        send_end(s);
    }
}

static void batch_flush(struct batch *b);

void kvt_send_fail(struct kvt_send *s, enum err err)
{
    if (s->state >= SEND_STOPPING || s->acked)
        return;
    s->err = err;
    s->state = SEND_STOPPING;
    s->stop_by_ns = clock_now_ns() + KVT_STOP_NS;
    item_unlink(&s->item);
    if (s->batch != NULL)
        batch_flush(s->batch); /* what was put must have landed before STOPPED says so */
    kvt_send_stop_copies(s);
    kvt_send_try_end(s);
}

bool kvt_send_callbacks(struct kvt_node *n)
{
    bool any = false;

    while (item_linked(&n->ended_sends)) {
        struct kvt_send *s = KVT_OF(n->ended_sends.next, struct kvt_send, item);
        struct kvt_send_result r = {
            .err = s->err, .bytes = s->bytes, .wire_ns = s->wire_ns, .path = s->path};

        if (s->finish_ns != 0 && s->ack_ns > s->finish_ns)
            r.exposed_ns = s->ack_ns - s->finish_ns;
        item_unlink(&s->item);
        (void)map_del(&n->sends, s->config.transfer);
        n->counters.sends_open--;
        n->counters.bytes_sent[s->path] += s->bytes;
        if (s->err == ERR_OK)
            n->counters.sends_done++;
        else
            n->counters.sends_failed++;
        if (s->config.on_done != NULL)
            s->config.on_done(s->config.arg, &r);
        send_free(s);
        any = true;
    }
    return any;
}

/* ---- operations ---- */

void kvt_send_op_begin(struct kvt_send *s, size_t bytes)
{
    if (s->ops++ == 0)
        s->op_since_ns = clock_now_ns();
    s->op_conn->inflight += bytes;
}

void kvt_send_op_end(struct kvt_send *s, size_t bytes)
{
    uint64_t now = clock_now_ns();

    s->progress_ns = s->op_conn->progress_ns = now;
    if (--s->ops == 0)
        s->wire_ns += now - s->op_since_ns;
    s->op_conn->inflight -= bytes;
}

void kvt_send_maybe_done(struct kvt_send *s)
{
    struct kvt_node *n = s->node;
    struct kvt_wire_done *d = &n->scratch.done;

    if (s->state != SEND_STREAMING || !s->finish || s->head < s->n_pieces || s->open_batches > 0 ||
        s->copying > 0)
        return;
    if (s->n_records == 0) {
        kvt_send_fail(s, ERR_INVALID);
        return;
    }
    d->transfer = s->config.transfer;
    d->epoch = s->config.epoch;
    d->n_records = s->n_records;
    d->meta_len = (uint16_t)s->meta_len;
    memcpy(d->meta, s->meta, s->meta_len);
    kvt_conn_write(s->conn, n->frame, kvt_wire_put_done(n->frame, d));
    s->state = SEND_FINISHED;
    s->progress_ns = clock_now_ns();
}

static void batch_over(struct batch *b)
{
    struct kvt_send *s = b->send;
    struct kvt_node *n = s->node;
    struct kvt_wire_notify *m = &n->scratch.notify;
    enum err err = b->err;

    s->open_batches--;
    s->op_conn->inflight -= b->bytes;
    if (err == ERR_OK && s->state == SEND_STREAMING && s->conn != NULL) {
        m->transfer = s->config.transfer;
        m->epoch = s->config.epoch;
        m->n_records = b->n_records;
        memcpy(m->record, b->record, b->n_records * sizeof(b->record[0]));
        kvt_conn_write(s->conn, n->frame, kvt_wire_put_notify(n->frame, m));
    }
    mem_free(b);
    if (err != ERR_OK)
        kvt_send_fail(s, ERR_PEER_LOST);
    kvt_send_maybe_done(s);
    kvt_send_try_end(s);
}

static void batch_unref(struct batch *b)
{
    if (--b->pending == 0)
        batch_over(b);
}

static void batch_op_done(struct batch *b, enum err err)
{
    if (err != ERR_OK)
        b->err = err;
    kvt_send_op_end(b->send, 0);
    batch_unref(b);
}

/* What became of an operation that kvt_send_op_begin announced. */
static void batch_op_started(struct batch *b, enum kvt_op_state state)
{
    b->pending++;
    if (state != KVT_OP_PENDING)
        batch_op_done(b, state == KVT_OP_DONE ? ERR_OK : ERR_PEER_LOST);
}

static void batch_put_done(struct kvt_op *op, enum err err)
{
    batch_op_done(KVT_OF(op, struct batch, put), err);
}

static void batch_flush_done(struct kvt_op *op, enum err err)
{
    batch_op_done(KVT_OF(op, struct batch, flush), err);
}

/* The batch takes no more records.  Its own pending count keeps it until here. */
static void batch_flush(struct batch *b)
{
    struct kvt_send *s = b->send;

    s->batch = NULL;
    if (s->op_conn->ep != NULL && s->op_conn->state != CONN_CLOSING) {
        kvt_send_op_begin(s, 0);
        batch_op_started(b, kvt_ep_flush(s->op_conn->ep, &b->flush));
    } else {
        b->err = ERR_PEER_LOST;
    }
    batch_unref(b);
}

static struct batch *batch_get(struct kvt_send *s)
{
    struct batch *b = s->batch;

    if (b != NULL)
        return b;
    b = mem_try_calloc(1, sizeof(*b));
    if (b == NULL)
        return NULL;
    b->send = s;
    b->put.done = batch_put_done;
    b->flush.done = batch_flush_done;
    b->pending = 1;
    s->open_batches++;
    s->batch = b;
    return b;
}

/* ---- records ---- */

/* Progress has reached the end of a part of the first piece. */
static void part_over(struct kvt_send *s)
{
    s->block_at = 0;
    if (++s->part_at < s->node->shape.layout.parts)
        return;
    s->part_at = 0;
    if (++s->head == s->n_pieces)
        s->head = s->n_pieces = 0;
}

/* Take up to max bytes of the first piece, all of one part; as many whole runs of blocks as fit, else a
 * portion of one. */
struct kvt_wire_record kvt_send_next_record(struct kvt_send *s, size_t max)
{
    uint32_t grain = s->node->shape.grain;
    struct piece *p = &s->pieces[s->head];
    size_t run = (size_t)p->n_grains * grain;
    struct kvt_wire_record r = {.first = p->first + s->block_at, .part = (uint16_t)s->part_at};

    if (run <= max) {
        size_t fit = max / run;
        size_t cap = KVT_WIRE_NOTIFY_BLOCKS / KVT_BATCH_RECORDS;

        if (fit > cap)
            fit = cap;
        r.n = (uint16_t)(p->n - s->block_at < fit ? p->n - s->block_at : fit);
        r.grain = p->grain;
        r.n_grains = p->n_grains;
        s->block_at += r.n;
    } else {
        r.n = 1;
        r.grain = p->grain + s->grain_at;
        r.n_grains = p->n_grains - s->grain_at;
        if ((size_t)r.n_grains * grain > max)
            r.n_grains = (uint32_t)(max / grain);
        s->grain_at += r.n_grains;
        if (s->grain_at == p->n_grains) {
            s->grain_at = 0;
            s->block_at++;
        }
    }
    if (s->block_at == p->n)
        part_over(s);
    return r;
}

struct share kvt_send_share(const struct kvt_send *s, const struct kvt_wire_record *r, uint32_t i)
{
    const struct kvt_shape *shape = &s->node->shape;
    size_t begin = (size_t)r->grain * shape->grain;

    return (struct share){s->node->part[r->part] +
                              (size_t)s->local[r->first + i] * shape->block_bytes,
                          begin, begin + (size_t)r->n_grains * shape->grain};
}

static uint64_t share_digest(const struct kvt_send *s, const struct kvt_wire_record *r, uint32_t i)
{
    uint64_t salt = kvt_wire_salt(s->config.transfer, s->config.epoch, r->first + i);
    struct share share = kvt_send_share(s, r, i);
    struct wire_kv_walk walk = s->node->canonical;
    struct wire_kv_run run;
    uint64_t sum = 0;

    wire_kv_walk_over(&walk, r->part, share.begin, share.end);
    while (wire_kv_walk_run(&walk, &run))
        sum += wire_kv_digest(share.block + run.from, run.len, run.canonical, salt);
    return sum;
}

static void put_share(struct kvt_send *s, struct batch *b, const struct kvt_wire_record *r,
                      uint32_t i)
{
    struct kvt_conn *c = s->conn;
    uint64_t to = (uint64_t)s->remote[r->first + i] * c->remote_block_bytes;
    struct share share = kvt_send_share(s, r, i);
    struct wire_kv_walk walk = c->walk;
    struct wire_kv_run run;

    wire_kv_walk_over(&walk, r->part, share.begin, share.end);
    while (wire_kv_walk_move(&walk, &run)) {
        kvt_send_op_begin(s, 0);
        batch_op_started(b, kvt_ep_put(c->ep, s->node->stage != NULL ? r->part + 1u : 0,
                                       share.block + run.from, run.len,
                                       c->remote_memory != KVT_WIRE_HOST ? run.part + 1 : 0,
                                       c->remote_pool[run.part] + to + run.to, &b->put));
    }
}

void kvt_send_put(struct kvt_send *s, const struct kvt_wire_record *r, bool last)
{
    size_t bytes = (size_t)r->n * r->n_grains * s->node->shape.grain;
    struct batch *b = batch_get(s);

    if (b == NULL) {
        kvt_send_fail(s, ERR_NOMEM);
        return;
    }
    for (uint32_t i = 0; i < r->n; i++)
        put_share(s, b, r, i);
    b->record[b->n_records++] = *r;
    b->bytes += bytes;
    s->conn->inflight += bytes;
    s->bytes += bytes;
    if (b->n_records == KVT_BATCH_RECORDS || b->bytes >= KVT_PUT_MAX || last)
        batch_flush(b);
}

static void issue_put(struct kvt_send *s)
{
    struct kvt_wire_record r = kvt_send_next_record(s, s->conn->put_max);

    for (uint32_t i = 0; i < r.n; i++)
        r.digest += share_digest(s, &r, i);
    s->n_records++;
    kvt_send_put(s, &r, s->head == s->n_pieces);
}

static void message_over(struct message *m, enum err err)
{
    struct kvt_send *s = m->send;

    kvt_send_op_end(s, m->bytes);
    mem_free(m);
    if (err != ERR_OK)
        kvt_send_fail(s, ERR_PEER_LOST);
    kvt_send_try_end(s);
}

static void message_done(struct kvt_op *op, enum err err)
{
    message_over(KVT_OF(op, struct message, op), err);
}

static bool contiguous(const struct kvt_send *s, const struct kvt_wire_record *r)
{
    if (r->n == 1)
        return true;
    if (r->n_grains != s->node->shape.grains_per_block)
        return false;
    for (uint32_t i = 1; i < r->n; i++) {
        if (s->local[r->first + i] != s->local[r->first + i - 1] + 1)
            return false;
    }
    return true;
}

static void issue_message(struct kvt_send *s)
{
    struct kvt_wire_record r = kvt_send_next_record(s, KVT_MESSAGE_MAX);
    struct kvt_wire_data d = {
        .cookie = s->conn->remote_cookie, .transfer = s->config.transfer, .epoch = s->config.epoch};
    size_t run = (size_t)r.n_grains * s->node->shape.grain;
    bool direct = contiguous(s, &r);
    struct message *m = mem_try_alloc(sizeof(*m) + (direct ? 0 : run * r.n));
    const uint8_t *first = kvt_send_share(s, &r, 0).block + kvt_send_share(s, &r, 0).begin;
    enum kvt_op_state state;

    if (m == NULL) {
        kvt_send_fail(s, ERR_NOMEM);
        return;
    }
    m->op.done = message_done;
    m->send = s;
    m->bytes = run * r.n;
    for (uint32_t i = 0; i < r.n; i++) {
        struct share share = kvt_send_share(s, &r, i);

        r.digest += share_digest(s, &r, i);
        if (!direct)
            memcpy(m->gathered + i * run, share.block + share.begin, run);
    }
    d.record = r;
    kvt_wire_put_data(m->header, &d);
    s->bytes += m->bytes;
    s->n_records++;
    kvt_send_op_begin(s, m->bytes);
    state = kvt_ep_send(s->conn->ep, m->header, sizeof(m->header), direct ? first : m->gathered,
                        m->bytes, &m->op);
    if (state != KVT_OP_PENDING)
        message_over(m, state == KVT_OP_DONE ? ERR_OK : ERR_PEER_LOST);
}

static void send_issue(struct kvt_send *s)
{
    if (s->node->stage != NULL)
        kvt_send_issue_staged(s);
    else if (s->conn->link.one_sided)
        issue_put(s);
    else
        issue_message(s);
    s->progress_ns = clock_now_ns();
}

/* A send with pieces waits in the active list; it leaves it while its connection's window is full. */
void kvt_send_work_changed(struct kvt_send *s)
{
    if (s->state == SEND_STREAMING && s->head < s->n_pieces) {
        if (!item_linked(&s->item))
            item_append(&s->node->active_sends[s->config.transfer_class], &s->item);
    } else {
        kvt_send_maybe_done(s);
    }
}

/* There is room for a record; if not, something that ends makes some and wakes the loop. */
static bool may_issue(const struct kvt_send *s)
{
    return s->conn != NULL && !s->conn->failing && s->conn->inflight < KVT_WINDOW_BYTES &&
           (s->node->stage == NULL || kvt_send_may_stage(s));
}

/* What fills the window may be batches that wait for more records, this one among them. */
static bool window_full(struct kvt_send *s)
{
    if (!s->conn->failing && s->conn->inflight >= KVT_WINDOW_BYTES && s->batch != NULL)
        batch_flush(s->batch);
    if (s->node->stage != NULL && !s->conn->link.one_sided &&
        kvt_stage_stuck(s->node->stage, KVT_COPY_OUT))
        kvt_send_fail(s, ERR_DEVICE);
    return s->state != SEND_STREAMING || !may_issue(s);
}

/* The list whose turn it is: the tightest class, and every KVT_LOOSE_TURN-th time one of those behind it, in
 * turn.  NULL: nothing is left. */
static struct kvt_item *list_in_turn(struct kvt_node *n)
{
    uint32_t first = 0;

    while (first < KVT_CLASSES && !item_linked(&n->active_sends[first]))
        first++;
    if (first == KVT_CLASSES)
        return NULL;
    if (++n->send_turn % KVT_LOOSE_TURN != 0)
        return &n->active_sends[first];
    for (uint32_t i = 1; i <= KVT_CLASSES; i++) {
        uint32_t class = (n->loose_class + i) % KVT_CLASSES;

        if (class > first && item_linked(&n->active_sends[class])) {
            n->loose_class = class;
            return &n->active_sends[class];
        }
    }
    return &n->active_sends[first];
}

bool kvt_send_work(struct kvt_node *n, uint64_t until_ns)
{
    struct kvt_item blocked, *list;
    bool more = false;

    item_init(&blocked);
    while ((list = list_in_turn(n)) != NULL) {
        struct kvt_send *s = KVT_OF(list->next, struct kvt_send, item);

        item_unlink(&s->item);
        if (window_full(s)) {
            if (s->state == SEND_STREAMING)
                item_append(&blocked, &s->item);
            continue;
        }
        send_issue(s);
        if (s->state == SEND_STREAMING)
            kvt_send_work_changed(s);
        if (clock_now_ns() >= until_ns) {
            more = true;
            break;
        }
    }
    while (item_linked(&blocked)) {
        struct kvt_send *s = KVT_OF(blocked.next, struct kvt_send, item);

        more |= may_issue(s);
        item_unlink(&s->item);
        item_append(&n->active_sends[s->config.transfer_class], &s->item);
    }
    return more;
}

/* ---- from the connection ---- */

static void send_claim(struct kvt_send *s, struct kvt_conn *c)
{
    struct kvt_node *n = s->node;
    struct kvt_wire_transfer t = {
        .transfer = s->config.transfer,
        .epoch = s->config.epoch,
        .n_slots = s->config.n_slots,
        .slots_digest = kvt_wire_slots_digest(s->remote, s->config.n_slots, s->config.transfer,
                                              s->config.epoch),
        .one_sided = c->link.one_sided,
    };

    for (uint32_t i = 0; i < s->config.n_slots; i++) {
        if (s->remote[i] >= c->remote_blocks) {
            kvt_send_fail(s, ERR_INVALID);
            return;
        }
    }
    s->conn = s->op_conn = c;
    s->path = c->link.path;
    s->state = SEND_CLAIMING;
    s->progress_ns = clock_now_ns();
    kvt_conn_write(c, n->frame, kvt_wire_put_transfer(n->frame, KVT_WIRE_CLAIM, &t));
}

void kvt_send_connected(struct kvt_conn *c)
{
    size_t at = 0;
    struct kvt_send *s;

    while ((s = map_next(&c->node->sends, &at)) != NULL) {
        if (s->state == SEND_WAITING && s->config.peer == c->peer_id)
            send_claim(s, c);
    }
}

static struct kvt_send *send_of(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_send *s = map_get(&c->node->sends, t->transfer);

    if (s != NULL && s->conn == c && s->config.epoch == t->epoch)
        return s;
    c->node->counters.late_messages++;
    return NULL;
}

void kvt_send_accepted(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_send *s = send_of(c, t);

    if (s == NULL || s->state != SEND_CLAIMING)
        return;
    s->state = SEND_STREAMING;
    s->progress_ns = clock_now_ns();
    kvt_send_work_changed(s);
}

void kvt_send_refused(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_send *s = send_of(c, t);

    if (s == NULL || s->state != SEND_CLAIMING)
        return;
    s->conn = NULL; /* there is no grant to stop */
    kvt_send_fail(s, t->err != ERR_OK ? t->err : ERR_CANCELED);
}

void kvt_send_acked(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_send *s = send_of(c, t);

    if (s == NULL || s->state != SEND_FINISHED || s->acked)
        return;
    s->acked = true;
    s->ack_ns = clock_now_ns();
    kvt_send_try_end(s);
}

/* The receiver waits for STOPPED, which also goes out for a transfer that has ended here before. */
void kvt_send_aborted(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_send *s = map_get(&c->node->sends, t->transfer);

    if (s == NULL || s->conn != c || s->config.epoch != t->epoch) {
        c->node->counters.late_messages++;
        kvt_conn_write_transfer(c, KVT_WIRE_STOPPED, t->transfer, t->epoch, ERR_CANCELED);
        return;
    }
    kvt_send_fail(s, t->err != ERR_OK ? t->err : ERR_CANCELED);
}

void kvt_send_fail_conn(struct kvt_conn *c, enum err err)
{
    size_t at = 0;
    struct kvt_send *s;

    while ((s = map_next(&c->node->sends, &at)) != NULL) {
        if (s->conn != c)
            continue;
        s->conn = NULL;
        kvt_send_fail(s, err == ERR_CANCELED || err == ERR_TIMEOUT ? err : ERR_PEER_LOST);
    }
}

void kvt_send_fail_waiting(struct kvt_node *n, struct kvt_peer *p, enum err err)
{
    size_t at = 0;
    struct kvt_send *s;

    while ((s = map_next(&n->sends, &at)) != NULL) {
        if (s->state == SEND_WAITING && s->config.peer == p->id)
            kvt_send_fail(s, err);
    }
}

void kvt_send_fail_peer(struct kvt_node *n, uint32_t peer)
{
    size_t at = 0;
    struct kvt_send *s;

    while ((s = map_next(&n->sends, &at)) != NULL) {
        if (s->config.peer == peer)
            kvt_send_fail(s, ERR_PEER_LOST);
    }
}

void kvt_send_close_all(struct kvt_node *n)
{
    size_t at = 0;
    struct kvt_send *s;

    while ((s = map_next(&n->sends, &at)) != NULL)
        kvt_send_fail(s, ERR_CANCELED);
}

static bool waits_for_peer(const struct kvt_send *s)
{
    return s->state == SEND_CLAIMING || s->state == SEND_FINISHED || s->ops > 0 ||
           (s->state == SEND_STREAMING && s->head < s->n_pieces);
}

/* A transfer that queues behind others on its connection does not stand still. */
static uint64_t last_progress(const struct kvt_send *s)
{
    return s->conn != NULL && s->state == SEND_STREAMING && s->conn->progress_ns > s->progress_ns
               ? s->conn->progress_ns
               : s->progress_ns;
}

void kvt_send_sweep(struct kvt_node *n, uint64_t now)
{
    uint64_t limit = n->config.transfer_timeout_ns;
    size_t at = 0;
    struct kvt_send *s;

    while ((s = map_next(&n->sends, &at)) != NULL) {
        struct kvt_conn *c = s->conn;

        if (s->state == SEND_STOPPING && now >= s->stop_by_ns)
            kvt_send_leave_copies(s);
        if (s->state == SEND_STOPPING && now >= s->stop_by_ns && c != NULL)
            kvt_conn_fail(c, ERR_TIMEOUT, false, "operations of a failed transfer do not end");
        if (s->state >= SEND_STOPPING)
            continue;
        if (waits_for_peer(s) && now - last_progress(s) > limit) {
            if (c != NULL && now - c->last_rx_ns > limit)
                kvt_conn_fail(c, ERR_TIMEOUT, false, "the peer is silent");
            kvt_send_fail(s, ERR_TIMEOUT);
        } else if (now >= s->config.deadline_ns) {
            kvt_send_fail(s, ERR_TIMEOUT);
        }
    }
}

/* ---- the public part ---- */

static bool slots_in(const uint32_t *slots, uint32_t n, uint32_t n_blocks)
{
    for (uint32_t i = 0; i < n; i++) {
        if (slots[i] >= n_blocks)
            return false;
    }
    return true;
}

static struct kvt_send *send_create(struct kvt_node *n, const struct kvt_send_config *config)
{
    struct kvt_send *s = mem_try_calloc(1, sizeof(*s));
    size_t bytes = (size_t)config->n_slots * sizeof(uint32_t);

    if (s == NULL)
        return NULL;
    s->remote = mem_try_alloc(bytes * 2);
    if (s->remote == NULL) {
        mem_free(s);
        return NULL;
    }
    s->local = s->remote + config->n_slots;
    memcpy(s->remote, config->remote_slots, bytes);
    memcpy(s->local, config->local_slots, bytes);
    s->node = n;
    s->config = *config;
    s->config.remote_slots = s->config.local_slots = NULL;
    if (s->config.transfer_class >= KVT_CLASSES)
        s->config.transfer_class = KVT_CLASSES - 1;
    item_init(&s->item);
    item_init(&s->staged);
    return s;
}

enum err kvt_send_open(struct kvt_node *n, const struct kvt_send_config *config,
                       struct kvt_send **out)
{
    struct kvt_peer *p = kvt_peer_find(n, config->peer);
    struct kvt_send *s;

    if (p == NULL)
        return ERR_NOT_FOUND;
    if (n->closing || map_get(&n->sends, config->transfer) != NULL)
        return ERR_BAD_STATE;
    if (config->transfer == 0 || config->n_slots == 0 || p->host[0] == '\0' ||
        !slots_in(config->local_slots, config->n_slots, n->config.n_blocks))
        return ERR_INVALID;
    s = send_create(n, config);
    if (s == NULL)
        return ERR_NOMEM;
    if (map_put(&n->sends, config->transfer, s) != ERR_OK) {
        send_free(s);
        return ERR_NOMEM;
    }
    n->counters.sends_open++;
    if (p->out != NULL && p->out->state == CONN_READY && !p->out->failing)
        send_claim(s, p->out);
    else
        kvt_peer_want(n, p);
    kvt_node_hurry(n);
    *out = s;
    return ERR_OK;
}

static bool pieces_grow(struct kvt_send *s)
{
    uint32_t cap = s->cap_pieces == 0 ? 16 : s->cap_pieces * 2;
    struct piece *bigger;
    size_t bytes;

    if (s->n_pieces < s->cap_pieces)
        return true;
    if (cap <= s->cap_pieces || !mem_mul(cap, sizeof(*bigger), &bytes))
        return false;
    bigger = mem_try_realloc(s->pieces, bytes);
    if (bigger == NULL)
        return false;
    s->pieces = bigger;
    s->cap_pieces = cap;
    return true;
}

void kvt_send_piece(struct kvt_send *s, uint32_t first, uint32_t n, uint32_t first_layer,
                    uint32_t n_layers, uint64_t ready)
{
    const struct kvt_shape *shape = &s->node->shape;
    uint32_t layers = shape->layout.n_layers;
    if (s->state >= SEND_FINISHED || s->finish || n == 0 || n_layers == 0)
        return;
    if (first >= s->config.n_slots || n > s->config.n_slots - first || first_layer >= layers ||
        n_layers > layers - first_layer) {
        kvt_send_fail(s, ERR_INVALID);
        return;
    }
    if (!pieces_grow(s)) {
        kvt_send_fail(s, ERR_NOMEM);
        return;
    }
    s->pieces[s->n_pieces++] = (struct piece){first, n, first_layer * shape->grains_per_layer,
                                              n_layers * shape->grains_per_layer, ready};
    if (s->state == SEND_STREAMING && s->head + 1 == s->n_pieces)
        s->progress_ns = clock_now_ns();
    kvt_send_work_changed(s);
}

void kvt_send_finish(struct kvt_send *s, const void *meta, size_t meta_len)
{
    if (s->finish || s->state >= SEND_FINISHED)
        return;
    if (meta_len > KVT_META_MAX) {
        kvt_send_fail(s, ERR_INVALID);
        return;
    }
    s->finish = true;
    s->finish_ns = clock_now_ns();
    s->meta_len = meta_len;
    if (meta_len > 0)
        memcpy(s->meta, meta, meta_len);
    kvt_send_maybe_done(s);
}

void kvt_send_cancel(struct kvt_send *s)
{
    kvt_send_fail(s, ERR_CANCELED);
}
