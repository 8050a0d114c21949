/* kvtransfer/kvt_grant.c - the receiver's side of a transfer.
 *
 *   OPEN -> CLAIMED -> VERIFIED
 *     |        `-> QUARANTINED -> SAFE      (one-sided path: the peer may still write)
 *     |        `-> SAFE                     (message path: only we write to our slots)
 *     |        `-> DRAINING -> SAFE         (device memory: once no copy writes to them any more)
 *     `-> SAFE                              (nobody was ever allowed to write)
 *
 * Every byte of every block must be covered by exactly one record, and every record's digest must come
 * out of our own memory.  On the message path that happens as each message is placed; on the one-sided
 * path notified records queue up and are read in slices, a bounded amount per loop turn. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kvtransfer/kvt_int.h"

enum grant_state {
    GRANT_OPEN = 0,    /* waits for a claim */
    GRANT_CLAIMED,     /* waits for records and DONE */
    GRANT_QUARANTINED, /* failed; waits for STOPPED, or the end of the peer's connection */
    GRANT_DRAINING,    /* failed; waits for copies into the slots to end */
    GRANT_SAFE         /* waits for its callbacks; verified or failed */
};

enum { VERIFY_SLICE = 256 * 1024 };

struct kvt_grant {
    struct kvt_item active; /* node->active_grants */
    struct kvt_item ended;  /* node->ended_grants */
    struct kvt_node *node;
    struct kvt_conn *conn; /* that claimed it; NULL: none, or it has ended */
    struct kvt_grant_config config;
    uint32_t *slots;
    enum grant_state state;
    bool arrived; /* on_arrival is due or done */
    bool told;    /* on_arrival is done */
    bool one_sided;
    uint64_t instance;        /* of the claiming process */
    struct kvt_shape from;    /* how the sender counts, once claimed */
    struct wire_kv_walk walk; /* from its parts to ours */
    uint64_t *covered;        /* a bit per grain of each of its parts of each block, once claimed */
    uint64_t grains_left;
    struct kvt_wire_record *queue; /* to verify */
    uint32_t n_queue, cap_queue, head;
    uint32_t block_at; /* progress inside queue[head] */
    size_t byte_at;
    uint64_t sum;
    uint32_t n_records, n_expected;
    struct kvt_item arriving; /* copies into the pool that have not ended, copying of them */
    uint32_t copying;
    uint64_t copying_ns; /* since when there are any */
    bool done_seen;
    uint64_t done_ns;
    struct kvt_arrival arrival;
};

bool kvt_record_fits(const struct kvt_shape *from, const struct kvt_wire_record *r,
                     uint32_t n_slots)
{
    return r->n > 0 && r->first < n_slots && r->n <= n_slots - r->first &&
           r->part < from->layout.parts && r->n_grains > 0 && r->grain < from->grains_per_block &&
           r->n_grains <= from->grains_per_block - r->grain;
}

/* ---- states ---- */

static void queue_callbacks(struct kvt_grant *g)
{
    if (!item_linked(&g->ended))
        item_append(&g->node->ended_grants, &g->ended);
}

static void grant_arrive(struct kvt_grant *g, enum err err)
{
    if (g->arrived)
        return;
    g->arrived = true;
    g->arrival.err = err;
    item_unlink(&g->active);
    queue_callbacks(g);
}

static void grant_safe(struct kvt_grant *g)
{
    struct kvt_conn *c = g->conn;
    bool held = g->state == GRANT_QUARANTINED || g->state == GRANT_DRAINING;

    if (g->state == GRANT_SAFE)
        return;
    g->conn = NULL;
    if (g->state == GRANT_QUARANTINED && c != NULL)
        kvt_conn_unquarantine(c);
    if (g->copying > 0) {
        g->node->counters.slots_quarantined += held ? 0 : g->config.n_slots;
        g->state = GRANT_DRAINING;
        return;
    }
    if (held)
        g->node->counters.slots_quarantined -= g->config.n_slots;
    g->state = GRANT_SAFE;
    queue_callbacks(g);
}

static void grant_quarantine(struct kvt_grant *g)
{
    g->state = GRANT_QUARANTINED;
    g->node->counters.slots_quarantined += g->config.n_slots;
    if (g->conn != NULL)
        g->conn->quarantined++;
}

/* One message on its way from a buffer into the pool. */
struct arriving {
    struct kvt_item item;
    struct kvt_grant *grant;
    struct kvt_copy *copy; /* NULL: it is over */
    uint64_t digest;       /* what the sender says */
    size_t bytes;
};

static void stop_copies(struct kvt_grant *g)
{
    struct kvt_item *i, *next;

    for (i = g->arriving.next; i != &g->arriving; i = next) {
        struct arriving *a = KVT_OF(i, struct arriving, item);
        struct kvt_copy *c = a->copy;

        next = i->next;
        a->copy = NULL;
        if (c != NULL)
            kvt_copy_abandon(c);
    }
}

/* confirmed: the peer has said, or its end has shown, that nothing more will be written. */
static void grant_fail(struct kvt_grant *g, enum err err, bool confirmed)
{
    bool claimed = g->state == GRANT_CLAIMED;

    if (g->arrived)
        return;
    grant_arrive(g, err);
    stop_copies(g);
    if (claimed && !confirmed && g->conn != NULL)
        kvt_conn_write_transfer(g->conn, KVT_WIRE_ABORT, g->config.transfer, g->config.epoch, err);
    if (claimed && !confirmed && g->one_sided)
        grant_quarantine(g);
    else
        grant_safe(g);
}

static void grant_verified(struct kvt_grant *g)
{
    kvt_conn_write_transfer(g->conn, KVT_WIRE_ACK, g->config.transfer, g->config.epoch, ERR_OK);
    g->node->counters.bytes_received[g->arrival.path] += g->arrival.bytes;
    grant_arrive(g, ERR_OK);
    grant_safe(g);
}

/* Records may overtake DONE and each other; their number decides. */
static void grant_check(struct kvt_grant *g)
{
    if (g->state != GRANT_CLAIMED || g->arrived || g->head < g->n_queue || !g->done_seen ||
        g->copying > 0)
        return;
    if (g->n_records > g->n_expected || (g->n_records == g->n_expected && g->grains_left > 0))
        grant_fail(g, ERR_CORRUPT, false);
    else if (g->n_records == g->n_expected)
        grant_verified(g);
}

static void grant_free(struct kvt_grant *g)
{
    mem_free(g->slots);
    mem_free(g->covered);
    mem_free(g->queue);
    mem_free(g);
}

/* Either callback may open, cancel or forget anything, this grant too. */
bool kvt_grant_callbacks(struct kvt_node *n)
{
    bool any = false;

    while (item_linked(&n->ended_grants)) {
        struct kvt_grant *g = KVT_OF(n->ended_grants.next, struct kvt_grant, ended);
        struct kvt_grant_config config = g->config;

        any = true;
        item_unlink(&g->ended);
        if (!g->told) {
            g->told = true;
            if (g->arrival.err == ERR_OK)
                n->counters.grants_verified++;
            else
                n->counters.grants_failed++;
            if (config.on_arrival != NULL)
                config.on_arrival(config.arg, &g->arrival);
        }
        if (g->state != GRANT_SAFE)
            continue;
        item_unlink(&g->ended);
        (void)map_del(&n->grants, config.transfer);
        n->counters.grants_open--;
        grant_free(g);
        if (config.on_safe != NULL)
            config.on_safe(config.arg);
    }
    return any;
}

/* ---- records ---- */

static size_t words_per_part(const struct kvt_shape *from)
{
    return (from->grains_per_block + 63u) / 64u;
}

/* Mark the record's grains.  false: one of them was marked before. */
static bool cover(struct kvt_grant *g, const struct kvt_wire_record *r)
{
    size_t words = words_per_part(&g->from);

    for (uint32_t i = 0; i < r->n; i++) {
        size_t block = (size_t)(r->first + i) * g->from.layout.parts;
        uint64_t *bits = g->covered + (block + r->part) * words;

        for (uint32_t k = r->grain; k < r->grain + r->n_grains; k++) {
            uint64_t bit = 1ull << (k % 64);

            if (bits[k / 64] & bit)
                return false;
            bits[k / 64] |= bit;
        }
    }
    g->grains_left -= (uint64_t)r->n * r->n_grains;
    g->n_records++;
    return true;
}

static void grant_seen(struct kvt_grant *g, uint64_t now)
{
    if (g->arrival.first_ns == 0)
        g->arrival.first_ns = now;
    g->arrival.last_ns = now;
}

/* The digest of what stands in our parts of the record's block i for bytes [begin, end) of the sender's
 * part; bytes: what to place there first, NULL: they are there. */
static uint64_t take(const struct kvt_grant *g, const struct kvt_wire_record *r, uint32_t i,
                     size_t begin, size_t end, const uint8_t *bytes)
{
    const struct kvt_node *n = g->node;
    uint64_t salt = kvt_wire_salt(g->config.transfer, g->config.epoch, r->first + i);
    size_t block = (size_t)g->slots[r->first + i] * n->shape.block_bytes;
    struct wire_kv_walk walk = g->walk;
    struct wire_kv_run run;
    uint64_t sum = 0;

    wire_kv_walk_over(&walk, r->part, begin, end);
    while (wire_kv_walk_run(&walk, &run)) {
        uint8_t *to = n->part[run.part] + block + run.to;

        if (bytes != NULL)
            memcpy(to, bytes + (run.from - begin), run.len);
        sum += wire_kv_digest(to, run.len, run.canonical, salt);
    }
    return sum;
}

/* The claimed grant that a frame or message of c speaks of; NULL: counted as late. */
static struct kvt_grant *grant_of(struct kvt_conn *c, uint64_t transfer, uint32_t epoch)
{
    struct kvt_grant *g = map_get(&c->node->grants, transfer);

    if (g != NULL && g->conn == c && g->config.epoch == epoch)
        return g;
    c->node->counters.late_messages++;
    return NULL;
}

/* ---- messages for device memory ---- */

static void copy_over(void *arg, struct kvt_copy *c, enum err err)
{
    struct arriving *a = arg;
    struct kvt_grant *g = a->grant;

    a->copy = NULL;
    if (err != ERR_OK) {
        grant_fail(g, ERR_DEVICE, false);
        return;
    }
    if (g->state == GRANT_CLAIMED) {
        g->arrival.bytes += a->bytes;
        if (kvt_copy_digest(c) != a->digest)
            grant_fail(g, ERR_CORRUPT, false);
    }
    kvt_copy_free(c);
}

static void copy_gone(void *arg)
{
    struct arriving *a = arg;
    struct kvt_grant *g = a->grant;

    item_unlink(&a->item);
    mem_free(a);
    if (--g->copying > 0)
        return;
    g->arrival.verify_ns += clock_now_ns() - g->copying_ns;
    if (g->state == GRANT_DRAINING)
        grant_safe(g);
    else
        grant_check(g);
}

static bool add_runs(struct kvt_grant *g, struct kvt_copy *c, const struct kvt_wire_record *r)
{
    size_t begin = (size_t)r->grain * g->from.grain, len = (size_t)r->n_grains * g->from.grain;

    for (uint32_t i = 0; i < r->n; i++) {
        size_t block = (size_t)g->slots[r->first + i] * g->node->shape.block_bytes;
        struct kv_memory_run in = {
            .salt = kvt_wire_salt(g->config.transfer, g->config.epoch, r->first + i)};
        struct wire_kv_walk walk = g->walk;
        struct wire_kv_run run;

        wire_kv_walk_over(&walk, r->part, begin, begin + len);
        while (wire_kv_walk_run(&walk, &run)) {
            in.part = run.part;
            in.at = block + run.to;
            in.host = i * len + (run.from - begin);
            in.len = run.len;
            in.canonical = run.canonical;
            if (!kvt_copy_add(c, &in))
                return false;
        }
    }
    return true;
}

static enum err start_copy(struct kvt_grant *g, struct arriving *a)
{
    struct kvt_copy_owner owner = {.arg = a, .over = copy_over, .gone = copy_gone};
    uint64_t now = clock_now_ns();
    enum err err;

    a->grant = g;
    item_append(&g->arriving, &a->item);
    if (g->copying++ == 0)
        g->copying_ns = now;
    err = kvt_copy_start(a->copy, 0, now + g->node->config.transfer_timeout_ns, &owner);
    if (err != ERR_OK) {
        item_unlink(&a->item);
        g->copying--;
    }
    return err;
}

/* bytes: what came in a message, which is UCX's and goes away, so it is kept in a pinned buffer; there is
 * one, unless the device gives none back: room() in kvt_node.c.  NULL: UCX has put it into the pool. */
static void device_take(struct kvt_grant *g, const struct kvt_wire_record *r, const uint8_t *bytes,
                        size_t len)
{
    enum kvt_copy_dir dir = bytes != NULL ? KVT_COPY_IN : KVT_COPY_DIGEST;
    struct kvt_stage *stage = g->node->stage;
    struct arriving *a = mem_try_calloc(1, sizeof(*a));
    enum err err = ERR_NOMEM;

    if (a != NULL && len <= KVT_MESSAGE_MAX) {
        if (bytes != NULL && kvt_stage_room(stage, KVT_COPY_IN) == 0)
            err = ERR_DEVICE;
        a->copy = kvt_copy_new(stage, dir);
        a->digest = r->digest;
        a->bytes = (size_t)r->n * r->n_grains * g->from.grain;
    }
    if (a != NULL && a->copy != NULL) {
        if (bytes != NULL)
            memcpy(kvt_copy_buffer(a->copy), bytes, len);
        if (add_runs(g, a->copy, r))
            err = start_copy(g, a);
        else
            kvt_copy_free(a->copy);
    }
    if (err == ERR_OK)
        return;
    mem_free(a);
    grant_fail(g, err, false);
}

void kvt_grant_data(struct kvt_conn *c, const struct kvt_wire_data *d, const uint8_t *bytes,
                    size_t len)
{
    struct kvt_grant *g = grant_of(c, d->transfer, d->epoch);
    const struct kvt_wire_record *r = &d->record;
    uint64_t start, sum = 0;
    size_t run, begin;

    if (g == NULL || g->state != GRANT_CLAIMED)
        return;
    begin = (size_t)r->grain * g->from.grain;
    run = (size_t)r->n_grains * g->from.grain;
    if (g->one_sided || !kvt_record_fits(&g->from, r, g->config.n_slots) || len != run * r->n) {
        kvt_conn_malformed(c, "data out of bounds");
        return;
    }
    start = clock_now_ns();
    grant_seen(g, start);
    if (!cover(g, r)) {
        grant_fail(g, ERR_CORRUPT, false);
        return;
    }
    if (g->node->stage != NULL) {
        device_take(g, r, bytes, len);
        return;
    }
    for (uint32_t i = 0; i < r->n; i++)
        sum += take(g, r, i, begin, begin + run, bytes + i * run);
    g->arrival.bytes += len;
    g->arrival.verify_ns += clock_now_ns() - start;
    if (sum != r->digest)
        grant_fail(g, ERR_CORRUPT, false);
    else
        grant_check(g);
}

static bool queue_push(struct kvt_grant *g, const struct kvt_wire_record *r)
{
    if (g->n_queue == g->cap_queue) {
        uint32_t cap = g->cap_queue == 0 ? 16 : g->cap_queue * 2;
        struct kvt_wire_record *bigger;
        size_t bytes;

        if (cap <= g->cap_queue || !mem_mul(cap, sizeof(*bigger), &bytes))
            return false;
        bigger = mem_try_realloc(g->queue, bytes);
        if (bigger == NULL)
            return false;
        g->queue = bigger;
        g->cap_queue = cap;
    }
    g->queue[g->n_queue++] = *r;
    return true;
}

void kvt_grant_notified(struct kvt_conn *c, const struct kvt_wire_notify *m)
{
    struct kvt_grant *g = grant_of(c, m->transfer, m->epoch);

    if (g == NULL || g->state != GRANT_CLAIMED)
        return;
    grant_seen(g, clock_now_ns());
    for (uint32_t i = 0; i < m->n_records; i++) {
        const struct kvt_wire_record *r = &m->record[i];

        if (!g->one_sided || !kvt_record_fits(&g->from, r, g->config.n_slots)) {
            kvt_conn_malformed(c, "a notify out of bounds");
            return;
        }
        if (!cover(g, r)) {
            grant_fail(g, ERR_CORRUPT, false);
            return;
        }
        if (g->node->stage != NULL) {
            device_take(g, r, NULL, 0);
            if (g->state != GRANT_CLAIMED)
                return;
            continue;
        }
        if (!queue_push(g, r)) {
            grant_fail(g, ERR_NOMEM, false);
            return;
        }
    }
    if (!item_linked(&g->active) && g->head < g->n_queue)
        item_append(&c->node->active_grants, &g->active);
}

/* Read one slice of the first queued record. */
static void verify_slice(struct kvt_grant *g)
{
    const struct kvt_wire_record *r = &g->queue[g->head];
    size_t begin = (size_t)r->grain * g->from.grain, run = (size_t)r->n_grains * g->from.grain;
    size_t budget = VERIFY_SLICE;

    while (budget > 0 && g->block_at < r->n) {
        size_t len = run - g->byte_at < budget ? run - g->byte_at : budget;

        g->sum += take(g, r, g->block_at, begin + g->byte_at, begin + g->byte_at + len, NULL);
        budget -= len;
        g->byte_at += len;
        if (g->byte_at == run) {
            g->byte_at = 0;
            g->block_at++;
        }
    }
    if (g->block_at < r->n)
        return;
    g->arrival.bytes += run * r->n;
    if (g->sum != r->digest) {
        grant_fail(g, ERR_CORRUPT, false);
        return;
    }
    g->block_at = 0;
    g->sum = 0;
    if (++g->head == g->n_queue)
        g->head = g->n_queue = 0;
}

bool kvt_grant_work(struct kvt_node *n, uint64_t until_ns)
{
    uint64_t now = clock_now_ns();

    while (item_linked(&n->active_grants)) {
        struct kvt_grant *g = KVT_OF(n->active_grants.next, struct kvt_grant, active);
        uint64_t start = now;

        item_unlink(&g->active);
        verify_slice(g);
        now = clock_now_ns();
        g->arrival.verify_ns += now - start;
        if (g->state == GRANT_CLAIMED && g->head < g->n_queue)
            item_append(&n->active_grants, &g->active);
        else
            grant_check(g);
        if (now >= until_ns)
            return item_linked(&n->active_grants);
    }
    return false;
}

/* ---- from the connection ---- */

static enum err claim_check(const struct kvt_grant *g, const struct kvt_conn *c,
                            const struct kvt_wire_transfer *t)
{
    if (g == NULL)
        return ERR_NOT_FOUND;
    if (g->config.peer != c->peer_id || g->config.epoch != t->epoch)
        return ERR_INVALID;
    if (g->state != GRANT_OPEN)
        return ERR_BAD_STATE;
    if (t->one_sided && g->node->stage != NULL && kvt_ucx_parts(g->node->ucx) == 0)
        return ERR_INVALID;
    if (t->n_slots != g->config.n_slots ||
        t->slots_digest !=
            kvt_wire_slots_digest(g->slots, g->config.n_slots, t->transfer, t->epoch))
        return ERR_INVALID;
    return ERR_OK;
}

/* From here on the sender's records make sense. */
static enum err learn_sender(struct kvt_grant *g, const struct kvt_conn *c)
{
    uint32_t parts = c->from.layout.parts;
    size_t words;

    if (!mem_mul(words_per_part(&c->from) * parts, g->config.n_slots, &words))
        return ERR_NOMEM;
    g->covered = mem_try_calloc(words, sizeof(uint64_t));
    if (g->covered == NULL)
        return ERR_NOMEM;
    g->from = c->from;
    g->walk = c->walk;
    g->grains_left = (uint64_t)g->config.n_slots * parts * c->from.grains_per_block;
    return ERR_OK;
}

void kvt_grant_claimed(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_grant *g = map_get(&c->node->grants, t->transfer);
    enum err err = c->peer == NULL ? ERR_NOT_FOUND : claim_check(g, c, t);

    if (err == ERR_OK)
        err = learn_sender(g, c);
    if (err != ERR_OK) {
        c->node->counters.late_messages++;
        kvt_conn_write_transfer(c, KVT_WIRE_REFUSE, t->transfer, t->epoch, err);
        return;
    }
    g->conn = c;
    g->instance = c->instance;
    g->one_sided = t->one_sided;
    g->arrival.path = c->link.path;
    g->state = GRANT_CLAIMED;
    kvt_conn_write_transfer(c, KVT_WIRE_ACCEPT, t->transfer, t->epoch, ERR_OK);
}

void kvt_grant_done(struct kvt_conn *c, const struct kvt_wire_done *d)
{
    struct kvt_grant *g = grant_of(c, d->transfer, d->epoch);

    if (g == NULL || g->state != GRANT_CLAIMED)
        return;
    if (g->done_seen) {
        kvt_conn_malformed(c, "a second done");
        return;
    }
    g->done_seen = true;
    g->done_ns = clock_now_ns();
    g->n_expected = d->n_records;
    memcpy(g->arrival.meta, d->meta, d->meta_len);
    g->arrival.meta_len = d->meta_len;
    grant_seen(g, g->done_ns);
    grant_check(g);
}

void kvt_grant_stopped(struct kvt_conn *c, const struct kvt_wire_transfer *t)
{
    struct kvt_grant *g = grant_of(c, t->transfer, t->epoch);

    if (g == NULL)
        return;
    if (g->state == GRANT_QUARANTINED)
        grant_safe(g);
    else
        grant_fail(g, t->err != ERR_OK ? t->err : ERR_CANCELED, true);
}

void kvt_grant_fail_conn(struct kvt_conn *c, enum err err, bool proof)
{
    size_t at = 0;
    struct kvt_grant *g;

    while ((g = map_next(&c->node->grants, &at)) != NULL) {
        if (g->conn != c)
            continue;
        if (g->state == GRANT_CLAIMED)
            grant_fail(g, err == ERR_CANCELED ? err : ERR_PEER_LOST, proof);
        else if (g->state == GRANT_QUARANTINED && proof)
            grant_safe(g);
    }
}

void kvt_grant_detach(struct kvt_conn *c)
{
    size_t at = 0;
    struct kvt_grant *g;

    while ((g = map_next(&c->node->grants, &at)) != NULL) {
        if (g->conn == c)
            g->conn = NULL;
    }
    c->quarantined = 0;
}

void kvt_grant_release(struct kvt_node *n, uint32_t peer, uint64_t instance,
                       const struct kvt_conn *except)
{
    size_t at = 0;
    struct kvt_grant *g;

    while ((g = map_next(&n->grants, &at)) != NULL) {
        if (g->state == GRANT_QUARANTINED && g->config.peer == peer &&
            (instance == 0 || g->instance == instance) && (g->conn == NULL || g->conn != except))
            grant_safe(g);
    }
}

void kvt_grant_fail_peer(struct kvt_node *n, uint32_t peer, enum err err)
{
    size_t at = 0;
    struct kvt_grant *g;

    while ((g = map_next(&n->grants, &at)) != NULL) {
        if (g->config.peer == peer)
            grant_fail(g, err, false);
    }
}

/* The pool goes away with the node, so its slots are not reused by anyone. */
void kvt_grant_close_all(struct kvt_node *n)
{
    size_t at = 0;
    struct kvt_grant *g;

    while ((g = map_next(&n->grants, &at)) != NULL) {
        grant_fail(g, ERR_CANCELED, false);
        grant_safe(g);
    }
}

/* A sender may pause as long as its computation takes; once it says DONE, everything is on its way. */
void kvt_grant_sweep(struct kvt_node *n, uint64_t now)
{
    size_t at = 0;
    struct kvt_grant *g;

    while ((g = map_next(&n->grants, &at)) != NULL) {
        bool stalled = g->state == GRANT_CLAIMED && g->done_seen && g->head == g->n_queue &&
                       g->copying == 0 && now - g->arrival.last_ns > n->config.transfer_timeout_ns;

        if (!g->arrived && (now >= g->config.deadline_ns || stalled))
            grant_fail(g, ERR_TIMEOUT, false);
    }
}

/* ---- the public part ---- */

static struct kvt_grant *grant_create(struct kvt_node *n, const struct kvt_grant_config *config)
{
    struct kvt_grant *g = mem_try_calloc(1, sizeof(*g));

    if (g == NULL)
        return NULL;
    g->slots = mem_try_alloc((size_t)config->n_slots * sizeof(uint32_t));
    if (g->slots == NULL) {
        grant_free(g);
        return NULL;
    }
    memcpy(g->slots, config->slots, (size_t)config->n_slots * sizeof(uint32_t));
    g->node = n;
    g->config = *config;
    g->config.slots = NULL;
    item_init(&g->active);
    item_init(&g->ended);
    item_init(&g->arriving);
    return g;
}

enum err kvt_grant_open(struct kvt_node *n, const struct kvt_grant_config *config,
                        struct kvt_grant **out)
{
    struct kvt_grant *g;

    if (kvt_peer_find(n, config->peer) == NULL)
        return ERR_NOT_FOUND;
    if (n->closing || map_get(&n->grants, config->transfer) != NULL)
        return ERR_BAD_STATE;
    if (config->transfer == 0 || config->n_slots == 0)
        return ERR_INVALID;
    for (uint32_t i = 0; i < config->n_slots; i++) {
        if (config->slots[i] >= n->config.n_blocks)
            return ERR_INVALID;
    }
    g = grant_create(n, config);
    if (g == NULL)
        return ERR_NOMEM;
    if (map_put(&n->grants, config->transfer, g) != ERR_OK) {
        grant_free(g);
        return ERR_NOMEM;
    }
    n->counters.grants_open++;
    kvt_node_hurry(n);
    *out = g;
    return ERR_OK;
}

void kvt_grant_cancel(struct kvt_grant *g)
{
    grant_fail(g, ERR_CANCELED, false);
}
