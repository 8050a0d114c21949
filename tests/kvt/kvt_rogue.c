/* tests/kvt/kvt_rogue.c - see the header. */
#include "tests/kvt/kvt_rogue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

struct rogue_op {
    struct kvt_op op;
    struct rogue *rogue;
};
static struct rogue_op shared_op;

static void op_done(struct kvt_op *op, enum err err)
{
    (void)err;
    ((struct rogue_op *)(void *)op)->rogue->pending--;
}

static void settle(struct rogue *r, enum kvt_op_state state)
{
    uint64_t until = clock_now_ns() + 2 * CLOCK_NS_PER_S;

    assert_int_not_equal(KVT_OP_FAILED, state);
    if (state == KVT_OP_PENDING)
        r->pending++;
    while (r->pending > 0 && clock_now_ns() < until) {
        kvt_ucx_progress(r->ucx, clock_now_ns());
        uv_run(&r->pair->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(0, r->pending);
}

void rogue_connect(struct rogue *r, struct pair *p)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(kvt_node_port(p->node[1]))};

    memset(r, 0, sizeof(*r));
    r->pair = p;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(r->fd >= 0);
    assert_int_equal(0, connect(r->fd, (struct sockaddr *)&addr, sizeof(addr)));
    pair_run_for(p, 5);
}

void rogue_write(struct rogue *r, const void *bytes, size_t len)
{
    (void)!send(r->fd, bytes, len, MSG_NOSIGNAL);
}

static bool whole_frame(const struct rogue *r, uint16_t *type, uint32_t *len)
{
    return r->rx_len >= KVT_WIRE_HEADER && kvt_wire_get_header(r->rx, type, len) == ERR_OK &&
           r->rx_len >= KVT_WIRE_HEADER + *len;
}

int rogue_read(struct rogue *r, unsigned ms, size_t *body_len)
{
    uint64_t until = clock_now_ns() + ms * CLOCK_NS_PER_MS;
    uint16_t type;
    uint32_t len;

    while (!whole_frame(r, &type, &len)) {
        ssize_t n = recv(r->fd, r->rx + r->rx_len, sizeof(r->rx) - r->rx_len, MSG_DONTWAIT);

        if (n > 0) {
            r->rx_len += (size_t)n;
            continue;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return 0;
        if (clock_now_ns() >= until)
            return -1;
        if (r->ucx != NULL)
            kvt_ucx_progress(r->ucx, clock_now_ns());
        pair_run_for(r->pair, 2);
    }
    if (body_len != NULL)
        *body_len = len;
    return type;
}

void rogue_drop(struct rogue *r)
{
    uint16_t type;
    uint32_t len;

    assert_true(whole_frame(r, &type, &len));
    len += KVT_WIRE_HEADER;
    memmove(r->rx, r->rx + len, r->rx_len - len);
    r->rx_len -= len;
}

bool rogue_greet(struct rogue *r, uint32_t self, uint32_t peer, const uint8_t *token)
{
    struct kvt_wire_hello h = {
        .self = self, .peer = peer, .instance = 4711, .layout = r->pair->config[1].layout};
    size_t len;

    if (r->parts != 0)
        h.layout.parts = r->parts;
    assert_int_equal(KVT_WIRE_CHALLENGE, rogue_read(r, 1000, &len));
    assert_int_equal(ERR_OK, kvt_wire_get_challenge(r->rx + KVT_WIRE_HEADER, len, r->theirs));
    rogue_drop(r);
    memset(h.nonce, 0x21, sizeof(h.nonce));
    memcpy(r->ours, h.nonce, sizeof(h.nonce));
    len = kvt_wire_put_hello(r->frame, &h);
    assert_int_equal(ERR_OK, kvt_wire_sign(r->frame, len, 'C', token, KVT_TOKEN_BYTES, r->theirs));
    rogue_write(r, r->frame, len);
    if (rogue_read(r, 1000, &len) != KVT_WIRE_WELCOME)
        return false;
    assert_int_equal(ERR_OK, kvt_wire_get_welcome(r->rx + KVT_WIRE_HEADER, len, &r->welcome));
    assert_int_equal(
        ERR_OK, kvt_wire_check(r->rx, KVT_WIRE_HEADER + len, 'S', token, KVT_TOKEN_BYTES, r->ours));
    rogue_drop(r);
    return true;
}

static void no_data(void *arg, const void *header, size_t header_len, const void *data, size_t len)
{
    (void)arg;
    (void)header;
    (void)header_len;
    (void)data;
    (void)len;
}

static void ep_failed(void *arg, const char *why)
{
    (void)arg;
    (void)why;
}

void rogue_link(struct rogue *r, const char *transports)
{
    struct kvt_ucx_config config = {
        .transports = transports, .net_device = "lo", .memory_bytes = 1 << 20, .on_data = no_data};
    struct kvt_wire_link l = {.path = KVT_PATH_TCP, .lanes = "rogue"};
    struct err_msg msg;

    assert_int_equal(ERR_OK, kvt_ucx_open(&config, &msg, &r->ucx));
    assert_int_equal(ERR_OK, kvt_ep_open(r->ucx, r->welcome.address, r->welcome.rkey,
                                         r->welcome.rkey_len, ep_failed, r, &r->ep));
    shared_op.op.done = op_done;
    shared_op.rogue = r;
    rogue_write(r, r->frame, kvt_wire_put_link(r->frame, &l));
}

int rogue_claim(struct rogue *r, uint64_t transfer, uint32_t epoch, const uint32_t *slots,
                uint32_t n, bool one_sided)
{
    struct kvt_wire_transfer t = {.transfer = transfer,
                                  .epoch = epoch,
                                  .n_slots = n,
                                  .slots_digest = kvt_wire_slots_digest(slots, n, transfer, epoch),
                                  .one_sided = one_sided};
    int type;

    rogue_write(r, r->frame, kvt_wire_put_transfer(r->frame, KVT_WIRE_CLAIM, &t));
    type = rogue_read(r, 1000, NULL);
    if (type > 0)
        rogue_drop(r);
    return type;
}

void rogue_put(struct rogue *r, uint32_t slot, const uint8_t *block)
{
    size_t len = pair_block_bytes(r->pair);

    memcpy(kvt_ucx_memory(r->ucx), block, len);
    settle(r, kvt_ep_put(r->ep, 0, kvt_ucx_memory(r->ucx), len, 0, r->welcome.pool[0] + slot * len,
                         &shared_op.op));
    settle(r, kvt_ep_flush(r->ep, &shared_op.op));
}

void rogue_notify(struct rogue *r, uint64_t transfer, uint32_t epoch,
                  const struct kvt_wire_record *records, uint32_t n)
{
    struct kvt_wire_notify m = {.transfer = transfer, .epoch = epoch, .n_records = n};

    memcpy(m.record, records, n * sizeof(*records));
    rogue_write(r, r->frame, kvt_wire_put_notify(r->frame, &m));
}

void rogue_data(struct rogue *r, uint64_t transfer, uint32_t epoch,
                const struct kvt_wire_record *record, const uint8_t *bytes, size_t len)
{
    struct kvt_wire_data d = {
        .cookie = r->welcome.cookie, .transfer = transfer, .epoch = epoch, .record = *record};
    uint8_t header[KVT_WIRE_DATA_HEADER];

    kvt_wire_put_data(header, &d);
    settle(r, kvt_ep_send(r->ep, header, sizeof(header), bytes, len, &shared_op.op));
    settle(r, kvt_ep_flush(r->ep, &shared_op.op));
}

void rogue_half(struct rogue *r)
{
    static uint8_t bytes[1024 * 1024];
    struct kvt_wire_data d = {.cookie = r->welcome.cookie, .transfer = UINT64_MAX};
    uint8_t header[KVT_WIRE_DATA_HEADER];
    enum kvt_op_state state = KVT_OP_DONE;

    kvt_wire_put_data(header, &d);
    for (int i = 0; i < 64 && state == KVT_OP_DONE; i++)
        state = kvt_ep_send(r->ep, header, sizeof(header), bytes, sizeof(bytes), &shared_op.op);
    assert_int_equal(KVT_OP_PENDING, state);
    kvt_ucx_progress(r->ucx, clock_now_ns());
}

void rogue_done(struct rogue *r, uint64_t transfer, uint32_t epoch, uint32_t n_records)
{
    struct kvt_wire_done d = {.transfer = transfer, .epoch = epoch, .n_records = n_records};

    rogue_write(r, r->frame, kvt_wire_put_done(r->frame, &d));
}

void rogue_stopped(struct rogue *r, uint64_t transfer, uint32_t epoch)
{
    struct kvt_wire_transfer t = {.transfer = transfer, .epoch = epoch, .err = ERR_CANCELED};

    rogue_write(r, r->frame, kvt_wire_put_transfer(r->frame, KVT_WIRE_STOPPED, &t));
}

struct kvt_wire_record rogue_record(const struct pair *p, uint64_t transfer, uint32_t epoch,
                                    uint32_t index, const uint8_t *block)
{
    size_t len = pair_block_bytes(p);
    struct kvt_wire_record rec = {
        .first = index,
        .n = 1,
        .n_grains = (uint32_t)(len / kvt_wire_grain(&p->config[0].layout)),
        .digest = wire_kv_digest(block, len, 0, kvt_wire_salt(transfer, epoch, index))};

    return rec;
}

static void ep_closed(void *arg)
{
    ((struct rogue *)arg)->ep = NULL;
}

void rogue_close(struct rogue *r)
{
    if (r->ep != NULL) {
        kvt_ep_close(r->ep, ep_closed, r);
        for (int i = 0; r->ep != NULL && i < 1000; i++)
            kvt_ucx_progress(r->ucx, clock_now_ns() + CLOCK_NS_PER_MS);
        assert_null(r->ep);
    }
    if (r->ucx != NULL)
        kvt_ucx_close(r->ucx);
    r->ucx = NULL;
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
}
