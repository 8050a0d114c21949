/* bench/perf_kv_bare.c - see the header for the contract.
 *
 * Settings are those of kvtransfer where they decide the path (peer error mode, shared memory allowed
 * in it, the loopback device), and UCX's own everywhere else.  The message loop is tried three ways,
 * UCX's default protocol, forced eager, and eager in fragments of 60 KiB, and the best is reported: the
 * reference is to be the most that a plain loop gets. */
#include "bench/perf_kv_bare.h"

#include <stdint.h>
#include <string.h>

#include <fcntl.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/perf_report.h"

enum { AM_BYTES = 1, AM_ANSWER = 2, WINDOW = 16, FRAGMENT = 60 * 1024, ADDRESS_MAX = 16384 };

enum way { WAY_PUT = 0, WAY_DEFAULT, WAY_EAGER, WAY_FRAGMENTS, WAY_COUNT };

struct bare {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_mem_h memory;
    uint8_t *base;
    size_t len;
    ucp_ep_h ep;
    ucp_rkey_h rkey;
    uint64_t remote;
    uint64_t received, place; /* receiver */
    uint64_t answers, wanted; /* sender: arrivals; receiver: bytes after which to answer */
    unsigned pending;
};

static double seconds_since(uint64_t begin)
{
    return (double)(clock_now_ns() - begin) / 1e9;
}

static bool write_all(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool read_all(int fd, void *bytes, size_t len)
{
    char *p = bytes;

    while (len > 0) {
        ssize_t n = read(fd, p, len);

        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool write_blob(int fd, const void *bytes, size_t len)
{
    uint32_t n = (uint32_t)len;

    return write_all(fd, &n, sizeof(n)) && write_all(fd, bytes, len);
}

static bool read_blob(int fd, void *bytes, size_t cap, size_t *len)
{
    uint32_t n;

    if (!read_all(fd, &n, sizeof(n)) || n > cap)
        return false;
    *len = n;
    return read_all(fd, bytes, n);
}

/* ---- callbacks ---- */

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    struct bare *b = arg;

    (void)status;
    ucp_request_free(request);
    b->pending--;
}

static void on_placed(void *request, ucs_status_t status, size_t len, void *arg)
{
    struct bare *b = arg;

    (void)status;
    ucp_request_free(request);
    b->received += len;
}

/* The receiver places: eager bytes are copied, a rendezvous is received where it belongs. */
static ucs_status_t on_bytes(void *arg, const void *header, size_t header_len, void *data,
                             size_t len, const ucp_am_recv_param_t *param)
{
    struct bare *b = arg;
    uint8_t *to;

    (void)header;
    (void)header_len;
    if (b->place + len > b->len)
        b->place = 0;
    to = b->base + b->place;
    b->place += len;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
        ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                 UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
                                 .cb.recv_am = on_placed,
                                 .user_data = b};

        (void)ucp_am_recv_data_nbx(b->worker, data, to, len, &p);
        return UCS_INPROGRESS;
    }
    memcpy(to, data, len);
    b->received += len;
    return UCS_OK;
}

static ucs_status_t on_answer(void *arg, const void *header, size_t header_len, void *data,
                              size_t len, const ucp_am_recv_param_t *param)
{
    struct bare *b = arg;

    (void)header_len;
    (void)data;
    (void)len;
    (void)param;
    memcpy(&b->wanted, header, sizeof(b->wanted));
    b->answers++;
    return UCS_OK;
}

/* ---- set-up ---- */

static bool set_handler(struct bare *b, unsigned id, ucp_am_recv_callback_t cb)
{
    ucp_am_handler_param_t p = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                              UCP_AM_HANDLER_PARAM_FIELD_CB |
                                              UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                .id = id,
                                .cb = cb,
                                .arg = b};

    return ucp_worker_set_am_recv_handler(b->worker, &p) == UCS_OK;
}

static bool open_ucx(struct bare *b, const struct perf_kv_cell *cell)
{
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_RMA};
    ucp_worker_params_t wp = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                              .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucp_mem_map_params_t mp = {.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                                             UCP_MEM_MAP_PARAM_FIELD_FLAGS |
                                             UCP_MEM_MAP_PARAM_FIELD_ADDRESS,
                               .length = cell->pool,
                               .flags = UCP_MEM_MAP_ALLOCATE};
    ucp_mem_attr_t attr = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    ucp_config_t *config;

    if (ucp_config_read(NULL, NULL, &config) != UCS_OK)
        return false;
    (void)ucp_config_modify(config, "TLS", cell->tcp ? "tcp" : "posix,sysv,tcp");
    (void)ucp_config_modify(config, "NET_DEVICES", "lo");
    if (!cell->tcp)
        (void)ucp_config_modify(config, "MM_ERROR_HANDLING", "y");
    if (ucp_init(&params, config, &b->context) != UCS_OK)
        return false;
    ucp_config_release(config);
    if (ucp_worker_create(b->context, &wp, &b->worker) != UCS_OK ||
        ucp_mem_map(b->context, &mp, &b->memory) != UCS_OK ||
        ucp_mem_query(b->memory, &attr) != UCS_OK)
        return false;
    b->base = attr.address;
    b->len = cell->pool;
    memset(b->base, 1, b->len);
    return set_handler(b, AM_BYTES, on_bytes) && set_handler(b, AM_ANSWER, on_answer);
}

static bool connect_ucx(struct bare *b, int fd)
{
    static uint8_t address[ADDRESS_MAX], rkey[ADDRESS_MAX];
    ucp_ep_params_t ep = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                        UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                          .address = (ucp_address_t *)address,
                          .err_mode = UCP_ERR_HANDLING_MODE_PEER};
    ucp_address_t *ours;
    void *key;
    size_t ours_len, key_len, len;
    uint64_t base = (uint64_t)(uintptr_t)b->base;

    if (ucp_worker_get_address(b->worker, &ours, &ours_len) != UCS_OK ||
        ucp_rkey_pack(b->context, b->memory, &key, &key_len) != UCS_OK)
        return false;
    if (!write_blob(fd, ours, ours_len) || !write_blob(fd, key, key_len) ||
        !write_all(fd, &base, sizeof(base)) || !read_blob(fd, address, sizeof(address), &len) ||
        !read_blob(fd, rkey, sizeof(rkey), &len) || !read_all(fd, &b->remote, sizeof(b->remote)))
        return false;
    ucp_worker_release_address(b->worker, ours);
    ucp_rkey_buffer_release(key);
    return ucp_ep_create(b->worker, &ep, &b->ep) == UCS_OK &&
           ucp_ep_rkey_unpack(b->ep, rkey, &b->rkey) == UCS_OK;
}

/* ---- operations ---- */

static ucp_request_param_t send_params(struct bare *b)
{
    ucp_request_param_t p = {.op_attr_mask =
                                 UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                             .cb.send = on_sent,
                             .user_data = b};

    return p;
}

static void started(struct bare *b, ucs_status_ptr_t p)
{
    if (p != NULL && !UCS_PTR_IS_ERR(p))
        b->pending++;
}

static void wait_pending(struct bare *b, unsigned most)
{
    while (b->pending > most)
        ucp_worker_progress(b->worker);
}

static void send_bytes(struct bare *b, const uint8_t *from, size_t len, uint32_t flags)
{
    ucp_request_param_t p = send_params(b);

    p.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    p.flags = flags;
    started(b, ucp_am_send_nbx(b->ep, AM_BYTES, NULL, 0, from, len, &p));
}

static void send_answer(struct bare *b, uint64_t value)
{
    ucp_request_param_t p = send_params(b);

    p.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    p.flags = UCP_AM_SEND_FLAG_EAGER;
    started(b, ucp_am_send_nbx(b->ep, AM_ANSWER, &value, sizeof(value), NULL, 0, &p));
    wait_pending(b, 0);
}

static void flush(struct bare *b)
{
    ucp_request_param_t p = send_params(b);

    started(b, ucp_ep_flush_nbx(b->ep, &p));
    wait_pending(b, 0);
}

static void move_piece(struct bare *b, enum way way, size_t at, size_t len)
{
    ucp_request_param_t p = send_params(b);

    if (way == WAY_PUT) {
        started(b, ucp_put_nbx(b->ep, b->base + at, len, b->remote + at, b->rkey, &p));
    } else if (way == WAY_FRAGMENTS) {
        for (size_t k = 0; k < len; k += FRAGMENT)
            send_bytes(b, b->base + at + k, len - k < FRAGMENT ? len - k : FRAGMENT,
                       UCP_AM_SEND_FLAG_EAGER);
    } else {
        send_bytes(b, b->base + at, len, way == WAY_EAGER ? UCP_AM_SEND_FLAG_EAGER : 0);
    }
}

/* Move the whole pool, `n` pieces, and wait until it is there. */
static double move(struct bare *b, enum way way, size_t size, size_t n)
{
    uint64_t begin = clock_now_ns();
    uint64_t seen = b->answers;

    if (way != WAY_PUT)
        send_answer(b, n * size); /* how many bytes to answer after */
    for (size_t i = 0; i < n; i++) {
        move_piece(b, way, i * size, size);
        wait_pending(b, WINDOW - 1);
    }
    flush(b);
    while (way != WAY_PUT && b->answers == seen)
        ucp_worker_progress(b->worker);
    return seconds_since(begin);
}

/* One piece there and an answer back: put + flush + message, or one message. */
static double ask(struct bare *b, enum way way, size_t size)
{
    uint64_t begin = clock_now_ns();
    uint64_t seen = b->answers;

    move_piece(b, way, 0, size);
    if (way == WAY_PUT) {
        flush(b);
        send_answer(b, 0);
    }
    while (b->answers == seen)
        ucp_worker_progress(b->worker);
    return seconds_since(begin);
}

static double best_move(struct bare *b, const struct perf_kv_cell *cell)
{
    double best = 0, v[32];
    enum way first = cell->tcp ? WAY_DEFAULT : WAY_PUT, last = cell->tcp ? WAY_FRAGMENTS : WAY_PUT;

    for (enum way w = first; w <= last; w++) {
        unsigned n = cell->rounds < 32 ? cell->rounds : 32;
        double median;

        (void)move(b, w, cell->size, cell->pool / cell->size);
        for (unsigned i = 0; i < n; i++)
            v[i] = move(b, w, cell->size, cell->pool / cell->size);
        median = bench_median(v, n);
        if (best == 0 || median < best)
            best = median;
    }
    return best;
}

enum err perf_kv_bare_send(const struct perf_kv_cell *cell, int fd, struct perf_kv_bare *out)
{
    struct bare b = {0};
    double v[201];
    enum way way = cell->tcp ? WAY_DEFAULT : WAY_PUT;

    if (!open_ucx(&b, cell) || !connect_ucx(&b, fd))
        return ERR_IO;
    /* The receiver answers each piece, until told with UINT64_MAX to count bytes instead. */
    for (unsigned i = 0; i < 201; i++)
        v[i] = ask(&b, way, cell->size);
    out->answer_s = bench_median(v, 201);
    send_answer(&b, UINT64_MAX);
    out->pool_s = best_move(&b, cell);
    flush(&b);
    return write_all(fd, "x", 1) ? ERR_OK : ERR_IO;
}

/* Answers pieces one by one at first, then pools. */
static void serve_one(struct bare *b, const struct perf_kv_cell *cell, bool *counting)
{
    static uint64_t answered;

    ucp_worker_progress(b->worker);
    if (!*counting && b->wanted == UINT64_MAX) {
        *counting = true;
        b->wanted = 0;
        b->received = 0;
        b->place = 0;
    } else if (!*counting && !cell->tcp && b->answers > answered) {
        answered = b->answers;
        send_answer(b, 0);
    } else if (!*counting && cell->tcp && b->received >= cell->size) {
        b->received -= cell->size;
        send_answer(b, 0);
    } else if (*counting && b->wanted > 0 && b->received >= b->wanted) {
        b->received -= b->wanted;
        b->wanted = 0;
        send_answer(b, 0);
    }
}

enum err perf_kv_bare_receive(const struct perf_kv_cell *cell, int fd)
{
    struct bare b = {0};
    bool counting = false;
    unsigned turns = 0;
    char end;

    if (!open_ucx(&b, cell) || !connect_ucx(&b, fd) || fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
        return ERR_IO;
    for (;;) {
        serve_one(&b, cell, &counting);
        if (++turns % 4096 == 0) {
            ssize_t n = read(fd, &end, 1);

            if (n >= 0)
                return ERR_OK;
        }
    }
}
