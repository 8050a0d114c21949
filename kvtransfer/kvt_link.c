/* kvtransfer/kvt_link.c - the endpoint of an outgoing connection and the probe that measures it.
 *
 * The probe: PINGs for the round trip, then one small and a few large pieces into the acceptor's probe
 * area, on the same path that blocks will take.  The first piece also completes UCX's own wire-up, so
 * it counts only on a link so slow that large pieces would take too long. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kvtransfer/kvt_int.h"

enum { PINGS = 3, STEPS = 5, FIRST_BYTES = 32 * 1024, PUTS_MAX = 256 };
#define PROBE_SLOW_NS (20 * CLOCK_NS_PER_MS) /* for the first piece: 1.6 MB/s */

_Static_assert((int)KVT_WIRE_PATHS == (int)KVT_PATHS, "LINK carries every path");

struct kvt_probe {
    struct kvt_op put, flush, send; /* shared by the operations of one step */
    struct kvt_conn *conn;
    uint32_t pending; /* operations */
    bool failed;
    uint32_t pings, step;
    uint64_t ping_ns, step_ns, sent;
    size_t step_bytes;
    double best;
    uint8_t header[KVT_WIRE_DATA_HEADER];
};

static void probe_step(struct kvt_probe *p);

static bool same_host(const struct kvt_conn *c)
{
    const char *there = c->peer->host;

    return strcmp(there, c->node->host) == 0 || strncmp(there, "127.", 4) == 0 ||
           strcmp(there, "::1") == 0;
}

/* Where a pool can be reached by puts over this path.  CUDA memory only over RDMA: the other lanes would make
 * UCX emulate them, with answers from an endpoint that a receiver must not have (README.md). */
static bool reachable(enum kvt_wire_memory memory, enum kvt_path path)
{
    if (memory == KVT_WIRE_CUDA)
        return path == KVT_PATH_RDMA;
    return memory != KVT_WIRE_STAGED &&
           (path == KVT_PATH_SHM || path == KVT_PATH_RDMA || path == KVT_PATH_SELF);
}

enum kvt_wire_memory kvt_link_our_memory(const struct kvt_node *n)
{
    if (n->stage == NULL)
        return KVT_WIRE_HOST;
    if (kvt_ucx_parts(n->ucx) == 0)
        return KVT_WIRE_STAGED;
    return n->config.memory->kind == KV_MEMORY_CUDA ? KVT_WIRE_CUDA : KVT_WIRE_COHERENT;
}

static bool add_keys(struct kvt_conn *c, const struct kvt_wire_welcome *w)
{
    const uint8_t *key = w->part_rkeys;

    if (w->memory == KVT_WIRE_HOST)
        return true;
    for (uint32_t i = 0; i < w->layout.parts; key += w->part_rkey_len[i++]) {
        if (kvt_ep_add_key(c->ep, i, key) != ERR_OK)
            return false;
    }
    return true;
}

/* Puts where both pools can be reached, else messages, and through buffers if one is a device's. */
static void choose_path(struct kvt_conn *c, const struct kvt_wire_welcome *w)
{
    enum kvt_path path = kvt_ep_path(c->ep, c->link.lanes, sizeof(c->link.lanes));
    enum kvt_wire_memory here = kvt_link_our_memory(c->node), there = w->memory;

    c->remote_memory = there;
    c->link.path = path;
    c->link.one_sided = reachable(here, path) && reachable(there, path) && add_keys(c, w);
    if (c->link.one_sided) {
        if (here == KVT_WIRE_CUDA || there == KVT_WIRE_CUDA)
            c->link.path = KVT_PATH_CUDA;
        return;
    }
    if (here == KVT_WIRE_HOST && there == KVT_WIRE_HOST)
        return;
    c->link.path = path == KVT_PATH_TCP    ? KVT_PATH_STAGED_TCP
                   : path == KVT_PATH_RDMA ? KVT_PATH_STAGED_RDMA
                   : path == KVT_PATH_NONE ? KVT_PATH_NONE
                                           : KVT_PATH_STAGED_SHM;
}

static void link_ready(struct kvt_conn *c)
{
    struct kvt_node *n = c->node;
    struct kvt_wire_link l;

    memset(&l, 0, sizeof(l));
    l.path = (uint8_t)c->link.path;
    l.one_sided = c->link.one_sided;
    l.bytes_per_s = (uint64_t)c->link.bytes_per_s;
    l.round_trip_ns = c->link.round_trip_ns;
    memcpy(l.lanes, c->link.lanes, sizeof(l.lanes));
    kvt_conn_write(c, n->frame, kvt_wire_put_link(n->frame, &l));
    c->state = CONN_READY;
    c->was_ready = true;
    c->deadline_ns = 0;
    n->counters.endpoints++;
    LOG_INFO("kvt", "link ready", "peer=%u path=%s lanes=%s GB/s=%.2f round_trip_us=%.1f",
             c->peer_id, kvt_path_name(c->link.path), c->link.lanes, c->link.bytes_per_s / 1e9,
             (double)c->link.round_trip_ns / 1e3);
    if ((c->link.path == KVT_PATH_TCP || c->link.path == KVT_PATH_STAGED_TCP) && same_host(c) &&
        n->config.transports == NULL)
        LOG_WARN("kvt", "slow path: TCP although the peer is on this host",
                 "peer=%u lanes=%s; shared memory needs a common /dev/shm and IPC namespace, and "
                 "UCX_TLS with posix or sysv",
                 c->peer_id, c->link.lanes);
    if (c->peer != NULL)
        kvt_peer_connected(n, c->peer);
    kvt_node_say_link(n, &c->link);
    kvt_send_connected(c);
}

static void probe_end(struct kvt_probe *p)
{
    struct kvt_conn *c = p->conn;

    c->link.bytes_per_s = p->best;
    kvt_link_free(c);
    link_ready(c);
}

static void step_over(struct kvt_probe *p)
{
    uint64_t took = clock_now_ns() - p->step_ns;
    double rate = (double)p->step_bytes / ((double)(took > 0 ? took : 1) / 1e9);
    bool slow = p->step == 0 && took > PROBE_SLOW_NS;

    if ((p->step > 0 || slow) && rate > p->best)
        p->best = rate;
    p->step++;
    if (p->step == STEPS || slow)
        probe_end(p);
    else
        probe_step(p);
}

static void probe_op_over(struct kvt_probe *p, enum kvt_op_state state)
{
    if (state == KVT_OP_PENDING)
        p->pending++;
    else if (state == KVT_OP_FAILED)
        p->failed = true;
}

/* From kvt_ucx_progress.  On the message path the step ends with the acceptor's PROBE_DONE. */
static void probe_op_done(struct kvt_probe *p, enum err err)
{
    p->pending--;
    if (err != ERR_OK)
        p->failed = true;
    if (p->conn->state == CONN_CLOSING || p->conn->probe != p) {
        if (p->pending == 0)
            mem_free(p);
        return;
    }
    if (p->failed)
        kvt_conn_fail(p->conn, ERR_PEER_LOST, false, "the probe failed");
    else if (p->pending == 0 && p->conn->link.one_sided)
        step_over(p);
}

static void put_done(struct kvt_op *op, enum err err)
{
    probe_op_done(KVT_OF(op, struct kvt_probe, put), err);
}

static void flush_done(struct kvt_op *op, enum err err)
{
    probe_op_done(KVT_OF(op, struct kvt_probe, flush), err);
}

static void send_done(struct kvt_op *op, enum err err)
{
    probe_op_done(KVT_OF(op, struct kvt_probe, send), err);
}

static void step_put(struct kvt_probe *p, const uint8_t *from)
{
    struct kvt_conn *c = p->conn;

    p->pending = 1; /* ours, so that nothing ends early */
    probe_op_over(p, kvt_ep_put(c->ep, 0, from, p->step_bytes, 0, c->remote_probe, &p->put));
    probe_op_over(p, kvt_ep_flush(c->ep, &p->flush));
    probe_op_done(p, ERR_OK);
}

static void step_send(struct kvt_probe *p, const uint8_t *from)
{
    struct kvt_conn *c = p->conn;
    struct kvt_node *n = c->node;
    size_t len;

    for (size_t at = 0; at < p->step_bytes; at += len) {
        len = p->step_bytes - at < KVT_MESSAGE_MAX ? p->step_bytes - at : KVT_MESSAGE_MAX;
        probe_op_over(p,
                      kvt_ep_send(c->ep, p->header, sizeof(p->header), from + at, len, &p->send));
    }
    p->sent += p->step_bytes;
    if (p->failed)
        kvt_conn_fail(c, ERR_PEER_LOST, false, "the probe failed");
    else
        kvt_conn_write(c, n->frame, kvt_wire_put_u64(n->frame, KVT_WIRE_PROBE, p->sent));
}

static void probe_step(struct kvt_probe *p)
{
    struct kvt_node *n = p->conn->node;

    p->step_bytes = p->step == 0 ? FIRST_BYTES : KVT_PROBE_BYTES;
    if (p->step_bytes > p->conn->remote_probe_len)
        p->step_bytes = p->conn->remote_probe_len;
    p->step_ns = clock_now_ns();
    if (p->conn->link.one_sided)
        step_put(p, n->probe);
    else
        step_send(p, n->probe);
}

static void send_ping(struct kvt_probe *p)
{
    struct kvt_node *n = p->conn->node;

    p->ping_ns = clock_now_ns();
    kvt_conn_write(p->conn, n->frame, kvt_wire_put_u64(n->frame, KVT_WIRE_PING, p->ping_ns));
}

static void ep_failed(void *arg, const char *why)
{
    struct kvt_conn *c = arg;

    c->ep_failed = why;
}

/* Where parts differ a record becomes a put for each run; these cost time even if they are short. */
static size_t put_max(const struct kvt_shape *from, const struct wire_kv_layout *to)
{
    uint32_t parts = from->layout.parts > to->parts ? from->layout.parts : to->parts;
    size_t most = wire_kv_layer_bytes(to) / 2 / parts * PUTS_MAX;

    return from->layout.parts == to->parts || most > KVT_PUT_MAX ? KVT_PUT_MAX : most;
}

void kvt_link_start(struct kvt_conn *c, const struct kvt_wire_welcome *w)
{
    struct kvt_wire_data d = {.cookie = w->cookie, .record = {.n = 1, .n_grains = 1}};
    struct kvt_probe *p = mem_try_calloc(1, sizeof(*p));
    enum err err;

    if (p == NULL) {
        kvt_conn_fail(c, ERR_NOMEM, false, "no memory");
        return;
    }
    c->cookie = 0; /* theirs, not one of our own */
    c->remote_cookie = w->cookie;
    memcpy(c->remote_pool, w->pool, w->layout.parts * sizeof(w->pool[0]));
    c->remote_block_bytes = wire_kv_part_block_bytes(&w->layout);
    c->from = c->node->shape;
    wire_kv_walk_init(&c->walk, &c->from.layout, &w->layout);
    c->put_max = put_max(&c->from, &w->layout);
    c->remote_probe = w->probe;
    c->remote_probe_len = w->probe_len;
    c->remote_blocks = w->n_blocks;
    err = kvt_ep_open(c->node->ucx, w->address, w->rkey, w->rkey_len, ep_failed, c, &c->ep);
    if (err != ERR_OK) {
        mem_free(p);
        kvt_conn_fail(c, err, false, "UCX finds no path to the peer");
        return;
    }
    c->link.peer = c->peer_id;
    choose_path(c, w);
    c->link.round_trip_ns = UINT64_MAX;
    p->conn = c;
    p->put.done = put_done;
    p->flush.done = flush_done;
    p->send.done = send_done;
    kvt_wire_put_data(p->header, &d);
    c->probe = p;
    c->state = CONN_PROBING;
    send_ping(p);
}

static void on_pong(struct kvt_conn *c, uint64_t value)
{
    struct kvt_probe *p = c->probe;
    uint64_t took = clock_now_ns() - p->ping_ns;

    if (value != p->ping_ns || p->pings >= PINGS) {
        kvt_conn_malformed(c, "a pong that was not asked for");
        return;
    }
    if (took < c->link.round_trip_ns)
        c->link.round_trip_ns = took;
    if (++p->pings < PINGS)
        send_ping(p);
    else
        probe_step(p);
}

static void probe_answer(struct kvt_conn *c)
{
    struct kvt_node *n = c->node;

    if (c->probe_asked == 0 || c->probe_bytes < c->probe_asked)
        return;
    kvt_conn_write(c, n->frame, kvt_wire_put_u64(n->frame, KVT_WIRE_PROBE_DONE, c->probe_asked));
    c->probe_asked = 0;
}

/* Copied as blocks would be, so that the figure is that of a transfer. */
void kvt_link_probe_bytes(struct kvt_conn *c, const void *bytes, size_t len)
{
    struct kvt_node *n = c->node;

    if (len <= KVT_PROBE_BYTES)
        memcpy(n->probe, bytes, len);
    c->probe_bytes += len;
    probe_answer(c);
}

void kvt_link_answer(struct kvt_conn *c, uint16_t type, uint64_t value)
{
    struct kvt_node *n = c->node;

    if (type == KVT_WIRE_PING) {
        kvt_conn_write(c, n->frame, kvt_wire_put_u64(n->frame, KVT_WIRE_PONG, value));
    } else if (type == KVT_WIRE_PROBE) {
        c->probe_asked = value;
        probe_answer(c);
    } else if (c->probe == NULL) {
        kvt_conn_malformed(c, "a probe answer that was not asked for");
    } else if (type == KVT_WIRE_PONG) {
        on_pong(c, value);
    } else if (c->probe->pings < PINGS || c->link.one_sided || value != c->probe->sent) {
        kvt_conn_malformed(c, "a probe answer that was not asked for");
    } else {
        step_over(c->probe);
    }
}

/* Operations that are still pending keep the probe until they end. */
void kvt_link_free(struct kvt_conn *c)
{
    struct kvt_probe *p = c->probe;

    c->probe = NULL;
    if (p != NULL && p->pending == 0)
        mem_free(p);
}
