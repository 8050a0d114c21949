/* kvtransfer/kvt_send_staged.c - pieces of a pool in device memory: each record is copied out to a pinned
 * buffer, its digest computed on the way, and goes from there as a message.  Where UCX reaches the
 * device's memory itself only the digest is computed, and the record is put.
 *
 *   kvt_send_issue_staged -> (device) -> copy_over -> (UCX) -> sent
 *
 * Copies of one send wait for the engine's ticket, perhaps for long, so no send may hold more than a few
 * buffers.  What counts in the connection's window is only what has been handed to UCX. */
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kvtransfer/kvt_send_int.h"

enum { COPYING_MAX = 16 }; /* of one send */

struct staged {
    struct kvt_item item; /* send->staged, until the copy is gone */
    struct kvt_op op;
    struct kvt_send *send;
    struct kvt_copy *copy;
    struct kvt_wire_data data;
    size_t bytes;
    unsigned refs; /* the copy that has not ended, and the message that is under way */
    bool left;     /* the send does not wait for the copy */
    uint8_t header[KVT_WIRE_DATA_HEADER];
};

static void staged_unref(struct staged *m)
{
    if (--m->refs == 0)
        mem_free(m);
}

/* ---- the message ---- */

static void sent(struct staged *m, enum err err)
{
    struct kvt_send *s = m->send;

    kvt_send_op_end(s, m->bytes);
    kvt_copy_free(m->copy);
    m->copy = NULL;
    staged_unref(m);
    if (err != ERR_OK)
        kvt_send_fail(s, ERR_PEER_LOST);
    kvt_send_try_end(s);
}

static void op_done(struct kvt_op *op, enum err err)
{
    sent(KVT_OF(op, struct staged, op), err);
}

static void send_message(struct staged *m)
{
    struct kvt_send *s = m->send;
    enum kvt_op_state state;

    m->data.record.digest = kvt_copy_digest(m->copy);
    kvt_wire_put_data(m->header, &m->data);
    m->op.done = op_done;
    m->refs++;
    s->bytes += m->bytes;
    kvt_send_op_begin(s, m->bytes);
    state = kvt_ep_send(s->conn->ep, m->header, sizeof(m->header), kvt_copy_buffer(m->copy),
                        m->bytes, &m->op);
    if (state != KVT_OP_PENDING)
        sent(m, state == KVT_OP_DONE ? ERR_OK : ERR_PEER_LOST);
}

/* The digest was all that the puts waited for. */
static void put(struct staged *m)
{
    m->data.record.digest = kvt_copy_digest(m->copy);
    kvt_copy_free(m->copy);
    m->copy = NULL;
    kvt_send_put(m->send, &m->data.record, m->send->copying == 1);
}

/* ---- the copy ---- */

static void copy_over(void *arg, struct kvt_copy *c, enum err err)
{
    struct staged *m = arg;
    struct kvt_send *s = m->send;

    if (err != ERR_OK) {
        m->copy = NULL;
        if (!m->left)
            kvt_send_fail(s, ERR_DEVICE);
    } else if (!m->left && s->state == SEND_STREAMING && s->conn != NULL && !s->conn->failing) {
        s->progress_ns = clock_now_ns();
        if (s->conn->link.one_sided)
            put(m);
        else
            send_message(m);
    } else {
        m->copy = NULL;
        kvt_copy_free(c);
    }
}

static void copy_gone(void *arg)
{
    struct staged *m = arg;
    struct kvt_send *s = m->send;
    bool left = m->left;

    item_unlink(&m->item);
    staged_unref(m);
    if (left)
        return; /* so may the send have */
    s->copying--;
    kvt_send_maybe_done(s);
    kvt_send_try_end(s);
}

void kvt_send_stop_copies(struct kvt_send *s)
{
    struct kvt_item *i, *next;

    for (i = s->staged.next; i != &s->staged; i = next) {
        struct staged *m = KVT_OF(i, struct staged, item);
        struct kvt_copy *c = m->copy;

        next = i->next;
        if (c != NULL && m->refs == 1) {
            m->copy = NULL;
            kvt_copy_abandon(c);
        }
    }
}

void kvt_send_leave_copies(struct kvt_send *s)
{
    while (item_linked(&s->staged)) {
        struct staged *m = KVT_OF(s->staged.next, struct staged, item);

        item_unlink(&m->item);
        m->left = true;
        s->copying--;
    }
    kvt_send_try_end(s);
}

bool kvt_send_may_stage(const struct kvt_send *s)
{
    return s->copying < COPYING_MAX &&
           (s->conn->link.one_sided || kvt_stage_room(s->node->stage, KVT_COPY_OUT) > 0);
}

/* ---- a record ---- */

static bool add_runs(struct kvt_send *s, struct kvt_copy *c, const struct kvt_wire_record *r)
{
    size_t len = (size_t)r->n_grains * s->node->shape.grain;

    for (uint32_t i = 0; i < r->n; i++) {
        size_t block = (size_t)s->local[r->first + i] * s->node->shape.block_bytes;
        struct share share = kvt_send_share(s, r, i);
        struct kv_memory_run out = {
            .part = r->part,
            .salt = kvt_wire_salt(s->config.transfer, s->config.epoch, r->first + i)};
        struct wire_kv_walk walk = s->node->canonical;
        struct wire_kv_run run;

        wire_kv_walk_over(&walk, r->part, share.begin, share.end);
        while (wire_kv_walk_run(&walk, &run)) {
            out.at = block + run.from;
            out.host = i * len + (run.from - share.begin);
            out.len = run.len;
            out.canonical = run.canonical;
            if (!kvt_copy_add(c, &out))
                return false;
        }
    }
    return true;
}

static enum err start(struct kvt_send *s, struct staged *m, uint64_t ready)
{
    const struct kvt_wire_record *r = &m->data.record;
    struct kvt_copy_owner owner = {.arg = m, .over = copy_over, .gone = copy_gone};
    uint64_t deadline = clock_now_ns() + s->node->config.transfer_timeout_ns;
    enum err err;

    if (!add_runs(s, m->copy, r)) {
        kvt_copy_free(m->copy);
        return ERR_NOMEM;
    }
    m->refs = 1;
    s->copying++;
    item_append(&s->staged, &m->item);
    err = kvt_copy_start(m->copy, ready, deadline, &owner);
    if (err != ERR_OK) {
        item_unlink(&m->item);
        s->copying--;
    }
    return err;
}

void kvt_send_issue_staged(struct kvt_send *s)
{
    uint64_t ready = s->pieces[s->head].ready;
    bool puts = s->conn->link.one_sided;
    struct staged *m = mem_try_calloc(1, sizeof(*m));
    enum err err = ERR_NOMEM;

    if (m != NULL) {
        item_init(&m->item);
        m->send = s;
        m->copy = kvt_copy_new(s->node->stage, puts ? KVT_COPY_DIGEST : KVT_COPY_OUT);
    }
    if (m != NULL && m->copy != NULL) {
        m->data = (struct kvt_wire_data){
            .cookie = s->conn->remote_cookie,
            .transfer = s->config.transfer,
            .epoch = s->config.epoch,
            .record = kvt_send_next_record(s, puts ? s->conn->put_max : KVT_MESSAGE_MAX)};
        m->bytes = (size_t)m->data.record.n * m->data.record.n_grains * s->node->shape.grain;
        s->n_records++;
        err = start(s, m, ready);
    }
    if (err == ERR_OK)
        return;
    mem_free(m);
    kvt_send_fail(s, err);
}
