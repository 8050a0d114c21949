/* kvtransfer/kvt_conn.c - one control connection: bytes to frames, the greeting, and its end.
 *
 * Failure is two steps.  kvt_conn_fail only records, because it is called from deep inside senders and
 * grants; the next turn reaps: fails what ran on the connection, closes the UCX endpoint, then the
 * socket, then frees.  That order is a promise to the acceptor: once it sees the end of the stream, no
 * put of this connector can land any more.  So an acceptor that itself gives up on a connection only
 * ends its own direction (CONN_MUTE) while slots are quarantined, and waits for the connector's end. */
#include <string.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kvtransfer/kvt_int.h"

enum { WRITE_QUEUE_MAX = 8 * 1024 * 1024, BACKLOG_KEEPALIVE_S = 15 };

struct write {
    uv_write_t req;
    struct kvt_conn *conn;
    uint8_t bytes[];
};

static bool conn_usable(const struct kvt_conn *c)
{
    return c->state < CONN_MUTE && !c->failing;
}

void kvt_conn_fail(struct kvt_conn *c, enum err err, bool proof, const char *why)
{
    if (c->state == CONN_CLOSING)
        return;
    if (!c->failing) {
        c->failing = true;
        c->fail_err = err;
        c->fail_why = why;
    }
    c->fail_proof |= proof;
}

void kvt_conn_malformed(struct kvt_conn *c, const char *what)
{
    c->node->counters.bad_messages++;
    kvt_conn_fail(c, ERR_BAD_FRAME, false, what);
}

/* ---- writing ---- */

static bool is_proof(ssize_t status)
{
    return status == UV_EOF || status == UV_ECONNRESET || status == UV_EPIPE;
}

static void write_done(uv_write_t *req, int status)
{
    struct write *w = (struct write *)(void *)req;
    struct kvt_conn *c = w->conn;

    mem_free(w);
    if (status < 0 && status != UV_ECANCELED)
        kvt_conn_fail(c, ERR_PEER_LOST, is_proof(status), "write failed");
}

static void write_rest(struct kvt_conn *c, const uint8_t *bytes, size_t len)
{
    struct write *w;
    uv_buf_t buf;
    int rc;

    if (uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) > WRITE_QUEUE_MAX) {
        kvt_conn_fail(c, ERR_TIMEOUT, false, "the peer does not read");
        return;
    }
    w = mem_try_alloc(sizeof(*w) + len);
    if (w == NULL) {
        kvt_conn_fail(c, ERR_NOMEM, false, "no memory");
        return;
    }
    w->conn = c;
    memcpy(w->bytes, bytes, len);
    buf = uv_buf_init((char *)w->bytes, (unsigned)len);
    rc = uv_write(&w->req, (uv_stream_t *)&c->tcp, &buf, 1, write_done);
    if (rc < 0) {
        mem_free(w);
        kvt_conn_fail(c, ERR_PEER_LOST, is_proof(rc), "write failed");
    }
}

void kvt_conn_write(struct kvt_conn *c, const uint8_t *frame, size_t len)
{
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)frame, (unsigned)len);
    int n;

    if (!conn_usable(c))
        return;
    n = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
    if (n == UV_EAGAIN)
        n = 0;
    if (n < 0)
        kvt_conn_fail(c, ERR_PEER_LOST, is_proof(n), "write failed");
    else if ((size_t)n < len)
        write_rest(c, frame + n, len - (size_t)n);
}

void kvt_conn_write_transfer(struct kvt_conn *c, enum kvt_wire_type type, uint64_t transfer,
                             uint32_t epoch, enum err err)
{
    struct kvt_wire_transfer t = {.transfer = transfer, .epoch = epoch, .err = err};
    uint8_t *frame = c->node->frame;

    kvt_conn_write(c, frame, kvt_wire_put_transfer(frame, type, &t));
}

/* ---- the greeting ---- */

/* In both directions: where UCX wires an endpoint up (RDMA) the acceptor connects too. */
static void let_through(struct kvt_conn *c)
{
    int len = sizeof(c->remote);
    enum err err = ERR_IO;

    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&c->remote, &len) == 0)
        err = kvt_fence_allow(&c->node->fence, &c->remote);
    c->allowed = err == ERR_OK;
    if (err != ERR_OK)
        kvt_conn_fail(c, err, false, "UCX's TCP port cannot be opened to the peer");
}

static void greeting_over(struct kvt_conn *c)
{
    if (!c->out && c->state == CONN_GREETING)
        c->node->greetings--;
}

static void send_challenge(struct kvt_conn *c)
{
    uint8_t *frame = c->node->frame;

    if (RAND_bytes(c->nonce_ours, KVT_WIRE_NONCE) != 1) {
        kvt_conn_fail(c, ERR_IO, false, "no randomness");
        return;
    }
    kvt_conn_write(c, frame, kvt_wire_put_challenge(frame, c->nonce_ours));
}

static void on_challenge(struct kvt_conn *c, const uint8_t *body, size_t len)
{
    struct kvt_wire_hello h = {.self = c->peer->self,
                               .peer = c->peer->id,
                               .instance = c->node->instance,
                               .layout = c->node->config.layout};
    uint8_t *frame = c->node->frame;
    size_t n;

    if (c->greeted || kvt_wire_get_challenge(body, len, c->nonce_theirs) != ERR_OK) {
        kvt_conn_malformed(c, "bad challenge");
        return;
    }
    c->greeted = true;
    if (RAND_bytes(c->nonce_ours, KVT_WIRE_NONCE) != 1) {
        kvt_conn_fail(c, ERR_IO, false, "no randomness");
        return;
    }
    memcpy(h.nonce, c->nonce_ours, KVT_WIRE_NONCE);
    n = kvt_wire_put_hello(frame, &h);
    if (kvt_wire_sign(frame, n, 'C', c->peer->token, KVT_TOKEN_BYTES, c->nonce_theirs) != ERR_OK) {
        kvt_conn_fail(c, ERR_IO, false, "cannot sign");
        return;
    }
    kvt_conn_write(c, frame, n);
}

static void on_welcome(struct kvt_conn *c, const uint8_t *frame, size_t len)
{
    struct kvt_wire_welcome *w = &c->node->scratch.welcome;
    struct err_msg msg;

    if (!c->greeted ||
        kvt_wire_get_welcome(frame + KVT_WIRE_HEADER, len - KVT_WIRE_HEADER, w) != ERR_OK) {
        kvt_conn_malformed(c, "bad welcome");
        return;
    }
    if (kvt_wire_check(frame, len, 'S', c->peer->token, KVT_TOKEN_BYTES, c->nonce_ours) != ERR_OK) {
        kvt_conn_fail(c, ERR_AUTH, false, "the peer does not know our token");
        return;
    }
    if (wire_kv_layout_same(&c->node->config.layout, &w->layout, &msg) != ERR_OK) {
        LOG_ERROR("kvt", "peer has another KV layout", "peer=%u %s", c->peer_id, msg.text);
        kvt_conn_fail(c, ERR_INVALID, false, "another KV layout");
        return;
    }
    c->instance = w->instance;
    let_through(c);
    if (c->allowed)
        kvt_link_start(c, w);
}

/* A new connection of a peer ends its older ones.  The same process reconnects only after it closed the
 * old endpoint, which is proof that nothing of it is outstanding. */
static void retire_older(struct kvt_conn *c)
{
    struct kvt_item *i;

    for (i = c->node->conns.next; i != &c->node->conns; i = i->next) {
        struct kvt_conn *old = KVT_OF(i, struct kvt_conn, item);

        if (old != c && !old->out && old->peer_id == c->peer_id && old->instance != 0)
            kvt_conn_fail(old, ERR_PEER_LOST, old->instance == c->instance, "the peer reconnected");
    }
    kvt_grant_release(c->node, c->peer_id, c->instance, c);
}

/* Where our pool is; the keys of its parts, unless they are too long together: then it is staged. */
static enum kvt_wire_memory describe_memory(const struct kvt_node *n, struct kvt_wire_welcome *w)
{
    enum kvt_wire_memory memory = kvt_link_our_memory(n);
    size_t at = 0;

    if (memory == KVT_WIRE_HOST || memory == KVT_WIRE_STAGED)
        return memory;
    for (uint32_t i = 0; i < kvt_ucx_parts(n->ucx); i++) {
        const void *key;
        size_t len;

        kvt_ucx_part_rkey(n->ucx, i, &key, &len);
        if (len > KVT_WIRE_RKEY_MAX - at)
            return KVT_WIRE_STAGED;
        memcpy(w->part_rkeys + at, key, len);
        w->part_rkey_len[i] = (uint16_t)len;
        at += len;
    }
    return memory;
}

static void send_welcome(struct kvt_conn *c)
{
    struct kvt_node *n = c->node;
    struct kvt_wire_welcome *w = &n->scratch.welcome;
    const void *rkey, *address;
    size_t rkey_len, address_len, len;

    kvt_ucx_rkey(n->ucx, &rkey, &rkey_len);
    kvt_ucx_address(n->ucx, &address, &address_len);
    if (rkey_len > KVT_WIRE_RKEY_MAX || address_len > KVT_WIRE_ADDRESS_MAX) {
        kvt_conn_fail(c, ERR_LIMIT, false, "our UCX address is too long; name fewer devices");
        return;
    }
    memset(w, 0, sizeof(*w));
    w->memory = describe_memory(n, w);
    w->instance = n->instance;
    w->cookie = c->cookie;
    for (uint32_t i = 0; i < n->config.layout.parts; i++)
        w->pool[i] = w->memory != KVT_WIRE_STAGED ? (uint64_t)(uintptr_t)n->part[i] : 0;
    w->probe = (uint64_t)(uintptr_t)n->probe;
    w->probe_len = KVT_PROBE_BYTES;
    w->n_blocks = n->config.n_blocks;
    w->layout = n->config.layout;
    w->rkey_len = (uint16_t)rkey_len;
    w->address_len = (uint16_t)address_len;
    memcpy(w->rkey, rkey, rkey_len);
    memcpy(w->address, address, address_len);
    len = kvt_wire_put_welcome(n->frame, w);
    if (kvt_wire_sign(n->frame, len, 'S', c->peer->token, KVT_TOKEN_BYTES, c->nonce_theirs) !=
        ERR_OK)
        kvt_conn_fail(c, ERR_IO, false, "cannot sign");
    else
        kvt_conn_write(c, n->frame, len);
}

/* How the connector counts.  One with another layout learns of it from WELCOME, and claims nothing. */
static void learn_shape(struct kvt_conn *c, const struct wire_kv_layout *theirs)
{
    const struct wire_kv_layout *ours = &c->node->config.layout;
    bool same = wire_kv_layout_same(ours, theirs, NULL) == ERR_OK;

    kvt_shape_init(&c->from, same ? theirs : ours);
    wire_kv_walk_init(&c->walk, &c->from.layout, ours);
}

static void on_hello(struct kvt_conn *c, const uint8_t *frame, size_t len)
{
    static const uint8_t nobody[KVT_TOKEN_BYTES];
    struct kvt_node *n = c->node;
    struct kvt_wire_hello h;
    struct kvt_peer *p;
    enum err err;

    if (kvt_wire_get_hello(frame + KVT_WIRE_HEADER, len - KVT_WIRE_HEADER, &h) != ERR_OK) {
        kvt_conn_malformed(c, "bad hello");
        return;
    }
    p = kvt_peer_find(n, h.self);
    if (p != NULL && p->self != h.peer)
        p = NULL;
    err = kvt_wire_check(frame, len, 'C', p != NULL ? p->token : nobody, KVT_TOKEN_BYTES,
                         c->nonce_ours);
    if (err != ERR_OK || p == NULL || h.instance == 0) {
        n->counters.refused++;
        kvt_conn_fail(c, ERR_AUTH, false, "not introduced, or another token");
        return;
    }
    greeting_over(c);
    memcpy(c->nonce_theirs, h.nonce, KVT_WIRE_NONCE);
    c->peer = p;
    c->peer_id = p->id;
    c->instance = h.instance;
    c->state = CONN_READY;
    c->deadline_ns = 0;
    if (RAND_bytes((unsigned char *)&c->cookie, sizeof(c->cookie)) != 1 || c->cookie == 0 ||
        map_get(&n->cookies, c->cookie) != NULL || map_put(&n->cookies, c->cookie, c) != ERR_OK) {
        c->cookie = 0;
        kvt_conn_fail(c, ERR_NOMEM, false, "no cookie");
        return;
    }
    learn_shape(c, &h.layout);
    retire_older(c);
    let_through(c);
    if (c->allowed)
        send_welcome(c);
}

/* ---- frames ---- */

static void on_link_frame(struct kvt_conn *c, const uint8_t *body, size_t len)
{
    struct kvt_wire_link l;

    if (kvt_wire_get_link(body, len, &l) != ERR_OK) {
        kvt_conn_malformed(c, "bad link report");
        return;
    }
    c->link.peer = c->peer_id;
    c->link.path = (enum kvt_path)l.path;
    c->link.one_sided = l.one_sided;
    c->link.bytes_per_s = (double)l.bytes_per_s;
    c->link.round_trip_ns = l.round_trip_ns;
    memcpy(c->link.lanes, l.lanes, sizeof(c->link.lanes));
    c->was_ready = true;
    c->node->counters.endpoints++;
    kvt_node_say_link(c->node, &c->link);
}

static void on_transfer(struct kvt_conn *c, uint16_t type, const uint8_t *body, size_t len)
{
    struct kvt_wire_transfer t;

    if (kvt_wire_get_transfer(body, len, &t) != ERR_OK) {
        kvt_conn_malformed(c, "bad transfer frame");
        return;
    }
    if (type == KVT_WIRE_CLAIM)
        kvt_grant_claimed(c, &t);
    else if (type == KVT_WIRE_STOPPED)
        kvt_grant_stopped(c, &t);
    else if (type == KVT_WIRE_ACCEPT)
        kvt_send_accepted(c, &t);
    else if (type == KVT_WIRE_REFUSE)
        kvt_send_refused(c, &t);
    else if (type == KVT_WIRE_ACK)
        kvt_send_acked(c, &t);
    else
        kvt_send_aborted(c, &t);
}

static void on_value(struct kvt_conn *c, uint16_t type, const uint8_t *body, size_t len)
{
    uint64_t value;

    if (kvt_wire_get_u64(body, len, &value) != ERR_OK)
        kvt_conn_malformed(c, "bad value frame");
    else
        kvt_link_answer(c, type, value);
}

static void on_acceptor_frame(struct kvt_conn *c, uint16_t type, const uint8_t *body, size_t len)
{
    struct kvt_node *n = c->node;

    if (type == KVT_WIRE_PING || type == KVT_WIRE_PROBE) {
        on_value(c, type, body, len);
    } else if (type == KVT_WIRE_LINK && !c->was_ready) {
        on_link_frame(c, body, len);
    } else if (!c->was_ready) {
        kvt_conn_malformed(c, "transfer before the link report");
    } else if (type == KVT_WIRE_CLAIM || type == KVT_WIRE_STOPPED) {
        on_transfer(c, type, body, len);
    } else if (type == KVT_WIRE_NOTIFY) {
        if (kvt_wire_get_notify(body, len, &n->scratch.notify) == ERR_OK)
            kvt_grant_notified(c, &n->scratch.notify);
        else
            kvt_conn_malformed(c, "bad notify");
    } else if (type == KVT_WIRE_DONE) {
        if (kvt_wire_get_done(body, len, &n->scratch.done) == ERR_OK)
            kvt_grant_done(c, &n->scratch.done);
        else
            kvt_conn_malformed(c, "bad done");
    } else {
        kvt_conn_malformed(c, "a frame that only an acceptor sends");
    }
}

static void on_connector_frame(struct kvt_conn *c, uint16_t type, const uint8_t *body, size_t len)
{
    if (type == KVT_WIRE_PONG || type == KVT_WIRE_PROBE_DONE)
        on_value(c, type, body, len);
    else if (c->state == CONN_READY && (type == KVT_WIRE_ACCEPT || type == KVT_WIRE_REFUSE ||
                                        type == KVT_WIRE_ACK || type == KVT_WIRE_ABORT))
        on_transfer(c, type, body, len);
    else
        kvt_conn_malformed(c, "a frame out of order");
}

static void on_frame(struct kvt_conn *c, uint16_t type, const uint8_t *frame, size_t len)
{
    const uint8_t *body = frame + KVT_WIRE_HEADER;
    size_t body_len = len - KVT_WIRE_HEADER;

    if (c->state == CONN_GREETING && c->out) {
        if (type == KVT_WIRE_CHALLENGE)
            on_challenge(c, body, body_len);
        else if (type == KVT_WIRE_WELCOME)
            on_welcome(c, frame, len);
        else
            kvt_conn_malformed(c, "a frame before the greeting");
    } else if (c->state == CONN_GREETING) {
        if (type == KVT_WIRE_HELLO)
            on_hello(c, frame, len);
        else
            kvt_conn_malformed(c, "a frame before the greeting");
    } else if (c->out) {
        on_connector_frame(c, type, body, body_len);
    } else {
        on_acceptor_frame(c, type, body, body_len);
    }
}

/* Before an acceptor has seen a proof it reads no longer frame than a greeting. */
static size_t body_limit(const struct kvt_conn *c)
{
    return c->state == CONN_GREETING && !c->out ? KVT_WIRE_GREETING_MAX : KVT_WIRE_BODY_MAX;
}

static void take_frames(struct kvt_conn *c)
{
    size_t at = 0;

    while (conn_usable(c) && c->rx_len - at >= KVT_WIRE_HEADER) {
        uint16_t type;
        uint32_t body_len;

        if (kvt_wire_get_header(c->rx + at, &type, &body_len) != ERR_OK ||
            body_len > body_limit(c)) {
            kvt_conn_malformed(c, "not a frame");
            break;
        }
        if (c->rx_len - at < KVT_WIRE_HEADER + body_len)
            break;
        on_frame(c, type, c->rx + at, KVT_WIRE_HEADER + body_len);
        at += KVT_WIRE_HEADER + body_len;
    }
    if (!conn_usable(c))
        at = c->rx_len;
    memmove(c->rx, c->rx + at, c->rx_len - at);
    c->rx_len -= at;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct kvt_conn *c = h->data;

    (void)hint;
    buf->base = (char *)c->rx + c->rx_len;
    buf->len = KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX - c->rx_len;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct kvt_conn *c = s->data;

    (void)buf;
    if (n < 0) {
        uv_read_stop(s);
        kvt_conn_fail(c, ERR_PEER_LOST, is_proof(n),
                      n == UV_EOF ? "closed by the peer" : uv_strerror((int)n));
        return;
    }
    c->last_rx_ns = clock_now_ns();
    c->rx_len += (size_t)n;
    take_frames(c);
}

/* ---- opening ---- */

static struct kvt_conn *conn_create(struct kvt_node *n, bool out)
{
    struct kvt_conn *c = mem_try_calloc(1, sizeof(*c));

    if (c == NULL)
        return NULL;
    c->rx = mem_try_alloc(KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX);
    if (c->rx == NULL || uv_tcp_init(n->config.loop, &c->tcp) != 0) {
        mem_free(c->rx);
        mem_free(c);
        return NULL;
    }
    c->node = n;
    c->out = out;
    c->tcp.data = c;
    c->last_rx_ns = clock_now_ns();
    item_append(&n->conns, &c->item);
    return c;
}

static void start_reading(struct kvt_conn *c)
{
    (void)uv_tcp_nodelay(&c->tcp, 1);
    (void)uv_tcp_keepalive(&c->tcp, 1, BACKLOG_KEEPALIVE_S);
    c->state = CONN_GREETING;
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        kvt_conn_fail(c, ERR_IO, false, "cannot read");
}

static void on_connected(uv_connect_t *req, int status)
{
    struct kvt_conn *c = req->data;

    if (status == UV_ECANCELED || c->state == CONN_CLOSING)
        return;
    if (status < 0)
        kvt_conn_fail(c, ERR_PEER_LOST, false, uv_strerror(status));
    else
        start_reading(c);
}

enum err kvt_conn_connect(struct kvt_node *n, struct kvt_peer *p)
{
    struct sockaddr_storage addr, from;
    struct kvt_conn *c;

    if (kvt_address_parse(p->host, p->port, &addr) != ERR_OK)
        return ERR_INVALID;
    c = conn_create(n, true);
    if (c == NULL)
        return ERR_NOMEM;
    c->peer = p;
    c->peer_id = p->id;
    p->out = c;
    c->deadline_ns = clock_now_ns() + n->config.connect_timeout_ns;
    c->connect.data = c;
    /* From the address that UCX uses too, because the peer lets through what it sees here. */
    if (kvt_address_parse(n->config.host, 0, &from) == ERR_OK && !kvt_address_any(&from) &&
        from.ss_family == addr.ss_family)
        (void)uv_tcp_bind(&c->tcp, (struct sockaddr *)&from, 0);
    if (uv_tcp_connect(&c->connect, &c->tcp, (struct sockaddr *)&addr, on_connected) != 0)
        kvt_conn_fail(c, ERR_PEER_LOST, false, "cannot connect");
    return ERR_OK;
}

/* Whoever holds connections open without a word does not keep others out. */
static void drop_oldest_greeting(struct kvt_node *n)
{
    struct kvt_item *i;

    for (i = n->conns.next; i != &n->conns; i = i->next) {
        struct kvt_conn *c = KVT_OF(i, struct kvt_conn, item);

        if (!c->out && c->state == CONN_GREETING && !c->failing) {
            kvt_conn_fail(c, ERR_LIMIT, false, "too many connections without a greeting");
            return;
        }
    }
}

void kvt_conn_accept(struct kvt_node *n)
{
    struct kvt_conn *c = conn_create(n, false);

    if (c == NULL)
        return;
    n->greetings++;
    c->state = CONN_GREETING;
    c->deadline_ns = clock_now_ns() + KVT_GREETING_NS;
    if (n->greetings > KVT_GREETINGS_MAX)
        drop_oldest_greeting(n);
    if (uv_accept((uv_stream_t *)&n->listener, (uv_stream_t *)&c->tcp) != 0) {
        kvt_conn_fail(c, ERR_IO, false, "cannot accept");
        return;
    }
    start_reading(c);
    send_challenge(c);
}

/* ---- the end ---- */

static void conn_free(uv_handle_t *h)
{
    struct kvt_conn *c = h->data;
    struct kvt_peer *p = c->peer;

    if (p != NULL && p->out == c) {
        p->out = NULL;
        p->retry_at_ns = clock_now_ns() + p->backoff_ns;
    }
    if (c->allowed)
        kvt_fence_disallow(&c->node->fence, &c->remote);
    item_unlink(&c->item);
    mem_free(c->rx);
    mem_free(c);
}

static void close_socket(void *arg)
{
    struct kvt_conn *c = arg;

    c->ep = NULL;
    uv_close((uv_handle_t *)&c->tcp, conn_free);
}

static void conn_close(struct kvt_conn *c)
{
    greeting_over(c);
    c->state = CONN_CLOSING;
    if (c->cookie != 0)
        (void)map_del(&c->node->cookies, c->cookie);
    kvt_link_free(c);
    if (c->ep != NULL)
        kvt_ep_close(c->ep, close_socket, c);
    else
        close_socket(c);
}

static void conn_log_end(const struct kvt_conn *c)
{
    if (c->fail_err == ERR_CANCELED)
        return;
    if (c->was_ready || c->fail_err == ERR_AUTH || c->fail_err == ERR_BAD_FRAME)
        LOG_WARN("kvt", "connection ended", "peer=%u direction=%s err=%s why=\"%s\"", c->peer_id,
                 c->out ? "out" : "in", err_name(c->fail_err), c->fail_why);
    else
        LOG_DEBUG("kvt", "connection ended", "peer=%u err=%s why=\"%s\"", c->peer_id,
                  err_name(c->fail_err), c->fail_why);
}

/* Returns true if the connection was closed, false if it was muted. */
static void conn_reap(struct kvt_conn *c)
{
    bool first = c->state != CONN_MUTE;

    c->failing = false;
    if (first)
        conn_log_end(c);
    if (c->out)
        kvt_send_fail_conn(c, c->fail_err);
    else
        kvt_grant_fail_conn(c, c->fail_err, c->fail_proof);
    /* Trying again does not make the layouts equal. */
    if (c->out && c->fail_err == ERR_INVALID && c->peer != NULL)
        kvt_peer_give_up(c->node, c->peer, ERR_INVALID);
    if (first && c->was_ready) {
        c->node->counters.endpoints--;
        if (c->fail_err != ERR_CANCELED)
            kvt_node_say_lost(c->node, c->peer_id, c->fail_err);
    }
    /* A socket that failed on its own (ETIMEDOUT) proves nothing and says nothing any more: its
     * grants then wait for a reconnect of the process, or for kvt_node_forget. */
    if (c->quarantined > 0 && !uv_is_closing((uv_handle_t *)&c->tcp) &&
        uv_is_readable((uv_stream_t *)&c->tcp) && uv_is_active((uv_handle_t *)&c->tcp) &&
        !c->node->closing) {
        greeting_over(c);
        c->state = CONN_MUTE;
        (void)uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, NULL);
        return;
    }
    kvt_grant_detach(c);
    conn_close(c);
}

void kvt_conn_unquarantine(struct kvt_conn *c)
{
    c->quarantined--;
    if (c->quarantined == 0 && (c->state == CONN_MUTE || c->peer == NULL))
        kvt_conn_fail(c, ERR_CANCELED, false, "nothing left to wait for");
}

void kvt_conn_reap_all(struct kvt_node *n)
{
    struct kvt_item *i, *next;

    for (i = n->conns.next; i != &n->conns; i = next) {
        struct kvt_conn *c = KVT_OF(i, struct kvt_conn, item);

        next = i->next;
        if (c->ep_failed != NULL && c->state != CONN_CLOSING)
            kvt_conn_fail(c, ERR_PEER_LOST, false, c->ep_failed);
        if (c->failing && c->state != CONN_CLOSING)
            conn_reap(c);
    }
}

void kvt_conn_sweep(struct kvt_node *n, uint64_t now)
{
    struct kvt_item *i;

    for (i = n->conns.next; i != &n->conns; i = i->next) {
        struct kvt_conn *c = KVT_OF(i, struct kvt_conn, item);

        if (c->state < CONN_READY && now >= c->deadline_ns)
            kvt_conn_fail(c, ERR_TIMEOUT, false,
                          c->state == CONN_PROBING ? "the probe did not end"
                                                   : "no greeting in time");
    }
}
