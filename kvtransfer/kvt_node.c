/* kvtransfer/kvt_node.c - the node: its listener, its peers, and the loop turn that does all work.
 *
 * The turn runs in a prepare handle, so before every sleep of the loop and after every callback that
 * may have queued something: UCX progress, failed connections, pieces to send, records to verify, then
 * the user's callbacks; each part within a budget.  If work is left an idle handle keeps the loop from
 * sleeping; else UCX is armed and its descriptor wakes the loop.  A timer looks after deadlines, often
 * while anything is open and once a second otherwise; that second also covers a lost wake-up. */
#include <stdio.h>
#include <string.h>

#include <ifaddrs.h>
#include <net/if.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <dirent.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kvtransfer/kvt_int.h"

enum {
    BACKLOG = 128,
    SWEEP_BUSY_MS = 20,
    SWEEP_IDLE_MS = 1000,
    NODE_HANDLES = 5,
    PART_ALIGN = 4096,
    STAGING_BYTES = 64 << 20
};
#define BACKOFF_MIN_NS (20 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS CLOCK_NS_PER_S
#define TRANSFER_TIMEOUT_NS (10 * CLOCK_NS_PER_S)
#define CONNECT_TIMEOUT_NS (5 * CLOCK_NS_PER_S)

struct event {
    struct kvt_item item;
    bool lost;
    enum err err;
    struct kvt_link link;
};

const char *kvt_path_name(enum kvt_path p)
{
    static const char *const names[KVT_PATHS] = {
        "none", "shm", "tcp", "rdma", "self", "staged-shm", "staged-tcp", "staged-rdma", "cuda"};

    return (unsigned)p < sizeof(names) / sizeof(names[0]) ? names[p] : "none";
}

enum err kvt_address_parse(const char *host, uint16_t port, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof(*out));
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)out) == 0 ||
        uv_ip6_addr(host, port, (struct sockaddr_in6 *)out) == 0)
        return ERR_OK;
    return ERR_INVALID;
}

bool kvt_address_any(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET
               ? ((const struct sockaddr_in *)a)->sin_addr.s_addr == htonl(INADDR_ANY)
               : IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

bool kvt_address_loopback(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET
               ? ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127
               : IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* ---- events ---- */

static void event_queue(struct kvt_node *n, const struct event *from)
{
    struct event *e = mem_try_alloc(sizeof(*e));

    if (e == NULL) {
        LOG_ERROR("kvt", "no memory for a link event", "peer=%u", from->link.peer);
        return;
    }
    *e = *from;
    item_append(&n->events, &e->item);
}

void kvt_node_say_link(struct kvt_node *n, const struct kvt_link *link)
{
    struct event e = {.link = *link};

    event_queue(n, &e);
}

void kvt_node_say_lost(struct kvt_node *n, uint32_t peer, enum err err)
{
    struct event e = {.lost = true, .err = err, .link.peer = peer};

    event_queue(n, &e);
}

static bool run_events(struct kvt_node *n)
{
    bool any = false;

    while (item_linked(&n->events)) {
        struct event *e = KVT_OF(n->events.next, struct event, item);
        const struct kvt_node_config *cfg = &n->config;

        any = true;
        item_unlink(&e->item);
        if (e->lost && cfg->on_peer_lost != NULL)
            cfg->on_peer_lost(cfg->arg, e->link.peer, e->err);
        else if (!e->lost && cfg->on_link != NULL)
            cfg->on_link(cfg->arg, &e->link);
        mem_free(e);
    }
    return any;
}

/* ---- the turn ---- */

static void node_try_close(struct kvt_node *n);

static bool node_busy(const struct kvt_node *n)
{
    return n->counters.sends_open > 0 || n->counters.grants_open > 0 || n->greetings > 0 ||
           n->wanted > 0 || n->closing;
}

void kvt_node_hurry(struct kvt_node *n)
{
    if (uv_timer_get_repeat(&n->sweep) != SWEEP_BUSY_MS) {
        uv_timer_set_repeat(&n->sweep, SWEEP_BUSY_MS);
        (void)uv_timer_again(&n->sweep);
    }
}

/* Messages that can be taken: each needs a buffer.  A device that gives none back is no reason to keep
 * everybody waiting: its transfers fail one by one. */
static uint32_t room(void *arg)
{
    const struct kvt_node *n = arg;

    if (n->stage == NULL || n->closing || kvt_stage_stuck(n->stage, KVT_COPY_IN))
        return UINT32_MAX;
    return kvt_stage_room(n->stage, KVT_COPY_IN);
}

/* Without room UCX does not progress, so its descriptor would keep the loop awake; the end of a copy wakes it. */
static void poll_while_room(struct kvt_node *n)
{
    bool stop = room(n) == 0;

    if (stop == n->poll_stopped || n->closing)
        return;
    n->poll_stopped = stop;
    if (stop)
        (void)uv_poll_stop(&n->poll);
    else
        (void)uv_poll_start(&n->poll, UV_READABLE, n->on_readable);
}

static void node_work(struct kvt_node *n)
{
    bool more = kvt_ucx_progress(n->ucx, clock_now_ns() + KVT_TURN_NS);

    kvt_conn_reap_all(n);
    poll_while_room(n);
    more |= kvt_send_work(n, clock_now_ns() + KVT_TURN_NS);
    more |= kvt_grant_work(n, clock_now_ns() + KVT_TURN_NS);
    more |= kvt_send_callbacks(n);
    more |= kvt_grant_callbacks(n);
    more |= run_events(n);
    /* The last question: nothing may be posted to UCX between arming and sleeping. */
    if (!more && item_linked(&n->conns) && !n->poll_stopped)
        more = !kvt_ucx_arm(n->ucx);
    if (more)
        (void)uv_idle_start(&n->idle, n->on_idle);
    else
        (void)uv_idle_stop(&n->idle);
}

static void on_prepare(uv_prepare_t *h)
{
    struct kvt_node *n = h->data;

    node_work(n);
    if (n->closing)
        node_try_close(n);
}

static void on_idle(uv_idle_t *h)
{
    (void)h; /* only keeps the loop awake */
}

static void on_readable(uv_poll_t *h, int status, int events)
{
    (void)h; /* the next prepare does the work */
    (void)status;
    (void)events;
}

/* ---- connecting ---- */

static bool still_closing(const struct kvt_node *n, uint32_t peer)
{
    struct kvt_item *i;

    for (i = n->conns.next; i != &n->conns; i = i->next) {
        const struct kvt_conn *c = KVT_OF(i, struct kvt_conn, item);

        if (c->out && c->peer_id == peer)
            return true;
    }
    return false;
}

static void peer_unwant(struct kvt_node *n, struct kvt_peer *p)
{
    if (p->connect_until_ns != 0)
        n->wanted--;
    p->connect_until_ns = 0;
    p->backoff_ns = 0;
}

void kvt_peer_connected(struct kvt_node *n, struct kvt_peer *p)
{
    peer_unwant(n, p);
}

/* One attempt, unless the connection before has not been taken down yet. */
static void peer_try(struct kvt_node *n, struct kvt_peer *p)
{
    if (p->out != NULL || still_closing(n, p->id))
        return;
    p->backoff_ns = p->backoff_ns == 0 ? BACKOFF_MIN_NS : p->backoff_ns * 2;
    if (p->backoff_ns > BACKOFF_MAX_NS)
        p->backoff_ns = BACKOFF_MAX_NS;
    p->retry_at_ns = clock_now_ns() + p->backoff_ns;
    if (kvt_conn_connect(n, p) != ERR_OK)
        LOG_DEBUG("kvt", "cannot start to connect", "peer=%u", p->id);
}

void kvt_peer_want(struct kvt_node *n, struct kvt_peer *p)
{
    if (p->connect_until_ns == 0) {
        n->wanted++;
        p->connect_until_ns = clock_now_ns() + n->config.connect_timeout_ns;
        p->backoff_ns = 0;
        peer_try(n, p);
    }
    kvt_node_hurry(n);
}

void kvt_peer_give_up(struct kvt_node *n, struct kvt_peer *p, enum err err)
{
    LOG_WARN("kvt", "peer cannot be reached", "peer=%u address=%s port=%u err=%s", p->id, p->host,
             p->port, err_name(err));
    peer_unwant(n, p);
    kvt_send_fail_waiting(n, p, err);
    kvt_node_say_lost(n, p->id, err);
}

static void peers_sweep(struct kvt_node *n, uint64_t now)
{
    size_t at = 0;
    struct kvt_peer *p;

    while ((p = map_next(&n->peers, &at)) != NULL) {
        if (p->connect_until_ns == 0)
            continue;
        if (now < p->connect_until_ns) {
            if (p->out == NULL && now >= p->retry_at_ns)
                peer_try(n, p);
            continue;
        }
        if (p->out != NULL)
            kvt_conn_fail(p->out, ERR_TIMEOUT, false, "connecting took too long");
        kvt_peer_give_up(n, p, ERR_PEER_LOST);
    }
}

static void on_sweep(uv_timer_t *h)
{
    struct kvt_node *n = h->data;
    uint64_t now = clock_now_ns();

    if (n->stage != NULL) {
        kvt_stage_sweep(n->stage, now);
        n->counters.buffers_quarantined = kvt_stage_quarantined(n->stage);
    }
    /* Its sender has long failed the transfer. */
    kvt_ucx_sweep(n->ucx, now, 2 * n->config.transfer_timeout_ns);
    kvt_send_sweep(n, now);
    kvt_grant_sweep(n, now);
    kvt_conn_sweep(n, now);
    peers_sweep(n, now);
    if (!node_busy(n) && uv_timer_get_repeat(&n->sweep) != SWEEP_IDLE_MS) {
        uv_timer_set_repeat(&n->sweep, SWEEP_IDLE_MS);
        (void)uv_timer_again(&n->sweep);
    }
}

static void on_connection(uv_stream_t *s, int status)
{
    struct kvt_node *n = s->data;

    if (status == 0 && !n->closing) {
        kvt_conn_accept(n);
        kvt_node_hurry(n);
    }
}

/* ---- data messages ---- */

static void on_data(void *arg, const void *header, size_t header_len, const void *data, size_t len)
{
    struct kvt_node *n = arg;
    struct kvt_wire_data d;
    struct kvt_conn *c;

    if (kvt_wire_get_data(header, header_len, &d) != ERR_OK) {
        n->counters.bad_messages++;
        return;
    }
    c = map_get(&n->cookies, d.cookie);
    if (c == NULL || c->state != CONN_READY || c->failing) {
        n->counters.late_messages++;
        return;
    }
    c->last_rx_ns = clock_now_ns();
    if (d.transfer != 0)
        kvt_grant_data(c, &d, data, len);
    else
        kvt_link_probe_bytes(c, data, len);
}

/* ---- creation ---- */

static bool same_address(const struct sockaddr *a, const struct sockaddr_storage *b)
{
    if (a == NULL || a->sa_family != b->ss_family)
        return false;
    if (a->sa_family == AF_INET)
        return memcmp(&((const struct sockaddr_in *)(const void *)a)->sin_addr,
                      &((const struct sockaddr_in *)(const void *)b)->sin_addr,
                      sizeof(struct in_addr)) == 0;
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr,
                  sizeof(struct in6_addr)) == 0;
}

/* The network interface that carries the address, "" for a wildcard; false if there is none.  Not
 * uv_interface_addresses: that leaves out interfaces whose carrier is not up yet. */
static bool device_of(const char *host, char *out, size_t len)
{
    struct sockaddr_storage addr;
    struct ifaddrs *all;
    bool found = false;

    out[0] = '\0';
    if (kvt_address_parse(host, 0, &addr) != ERR_OK)
        return false;
    if (kvt_address_any(&addr))
        return true;
    if (getifaddrs(&all) != 0)
        return false;
    for (const struct ifaddrs *a = all; a != NULL && !found; a = a->ifa_next) {
        if (same_address(a->ifa_addr, &addr)) {
            snprintf(out, len, "%s", a->ifa_name);
            found = true;
        }
    }
    freeifaddrs(all);
    if (!found && kvt_address_loopback(&addr)) {
        snprintf(out, len, "lo");
        found = true;
    }
    return found;
}

/* UCX names RDMA devices apart from the network interface that they share a port with. */
static void add_rdma_devices(char *devices, size_t len)
{
    DIR *d = devices[0] != '\0' ? opendir("/sys/class/infiniband") : NULL;
    char first[IF_NAMESIZE], path[600];
    struct stat st;

    if (d == NULL)
        return;
    snprintf(first, sizeof(first), "%.*s", IF_NAMESIZE - 1, devices);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t used = strlen(devices);

        snprintf(path, sizeof(path), "/sys/class/infiniband/%s/device/net/%s", e->d_name, first);
        if (e->d_name[0] != '.' && stat(path, &st) == 0 && used + strlen(e->d_name) + 4 < len)
            snprintf(devices + used, len - used, ",%.63s:1", e->d_name);
    }
    closedir(d);
}

static size_t staging_bytes(const struct kvt_node_config *config)
{
    size_t bytes = config->staging_bytes == 0 ? STAGING_BYTES : config->staging_bytes;

    return bytes - bytes % KVT_MESSAGE_MAX;
}

/* From part to part of a pool in host memory. */
static bool part_stride(const struct kvt_node_config *config, size_t *stride)
{
    if (!mem_mul(wire_kv_part_block_bytes(&config->layout), config->n_blocks, stride) ||
        !mem_add(*stride, PART_ALIGN - 1, stride))
        return false;
    *stride -= *stride % PART_ALIGN;
    return true;
}

static enum err check_device(const struct kvt_node_config *config, size_t *memory,
                             struct err_msg *msg)
{
    const struct kv_memory *m = config->memory;

    if (m->parts != config->layout.parts || m->n_blocks < config->n_blocks)
        return err_set(msg, ERR_INVALID,
                       "KV pool: %u blocks in %u parts are wanted, the device has %u in %u",
                       config->n_blocks, config->layout.parts, m->n_blocks, m->parts);
    return mem_add(staging_bytes(config), KVT_PROBE_BYTES, memory)
               ? ERR_OK
               : err_set(msg, ERR_NOMEM, "KV staging: %zu bytes are more than memory can hold",
                         config->staging_bytes);
}

static enum err check_config(const struct kvt_node_config *config, struct err_msg *msg,
                             size_t *memory)
{
    struct sockaddr_storage addr;
    enum err err = wire_kv_layout_check(&config->layout, msg);
    size_t pool;

    if (err != ERR_OK)
        return err;
    if (config->n_blocks == 0)
        return err_set(msg, ERR_INVALID, "KV pool: the number of blocks is 0");
    if (config->host == NULL || kvt_address_parse(config->host, config->port, &addr) != ERR_OK)
        return err_set(msg, ERR_INVALID,
                       "KV transfer: '%s' is not a numeric IPv4 or IPv6 address to listen on",
                       config->host != NULL ? config->host : "(null)");
    if (config->memory != NULL)
        return check_device(config, memory, msg);
    if (!part_stride(config, &pool) || !mem_mul(pool, config->layout.parts, &pool) ||
        !mem_add(pool, KVT_PROBE_BYTES, memory))
        return err_set(msg, ERR_NOMEM,
                       "KV pool: %u blocks of %zu bytes are more than memory can hold",
                       config->n_blocks, wire_kv_block_bytes(&config->layout));
    return ERR_OK;
}

static enum err open_ucx(struct kvt_node *n, size_t memory, struct err_msg *msg)
{
    struct kvt_ucx_config config = {.transports = n->config.transports,
                                    .net_device = n->config.net_device,
                                    .user_set = n->config.user_set,
                                    .memory_bytes = memory,
                                    .device = n->config.memory,
                                    .part_bytes = n->shape.block_bytes * n->config.n_blocks,
                                    .fence = &n->fence,
                                    .arg = n,
                                    .room = room,
                                    .on_data = on_data};
    struct sockaddr_storage addr;

    /* On loopback every peer is on this machine, and UCX needs no TCP port. */
    if (config.transports == NULL && kvt_address_parse(n->config.host, 0, &addr) == ERR_OK &&
        kvt_address_loopback(&addr))
        config.transports = "posix,sysv";
    if (config.net_device == NULL) {
        if (!device_of(n->config.host, n->device, sizeof(n->device)))
            return err_set(msg, ERR_INVALID, "KV transfer: no network interface has the address %s",
                           n->config.host);
        add_rdma_devices(n->device, sizeof(n->device));
        config.net_device = n->device[0] != '\0' ? n->device : NULL;
    }
    return kvt_ucx_open(&config, msg, &n->ucx);
}

static void on_handle_closed(uv_handle_t *h);

static enum err open_listener(struct kvt_node *n, struct err_msg *msg)
{
    struct sockaddr_storage addr;
    int len = sizeof(addr);
    int rc;

    if (kvt_address_parse(n->config.host, n->config.port, &addr) != ERR_OK)
        return err_set(msg, ERR_INVALID, "KV transfer: bad address %s", n->config.host);
    rc = uv_tcp_bind(&n->listener, (const struct sockaddr *)&addr, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&n->listener, BACKLOG, on_connection);
    if (rc == 0)
        rc = uv_tcp_getsockname(&n->listener, (struct sockaddr *)&addr, &len);
    if (rc != 0)
        return err_set(msg, ERR_IO, "KV transfer: cannot listen on %s port %u: %s", n->config.host,
                       n->config.port, uv_strerror(rc));
    n->port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                               : ((struct sockaddr_in *)&addr)->sin_port);
    return ERR_OK;
}

/* From here on the node can only be ended through the loop. */
static enum err start_handles(struct kvt_node *n)
{
    uv_loop_t *loop = n->config.loop;

    if (uv_tcp_init(loop, &n->listener) != 0 ||
        uv_poll_init(loop, &n->poll, kvt_ucx_fd(n->ucx)) != 0)
        return ERR_IO;
    (void)uv_prepare_init(loop, &n->prepare);
    (void)uv_idle_init(loop, &n->idle);
    (void)uv_timer_init(loop, &n->sweep);
    n->handles = NODE_HANDLES;
    n->listener.data = n->poll.data = n->prepare.data = n->idle.data = n->sweep.data = n;
    n->on_idle = on_idle;
    n->on_readable = on_readable;
    (void)uv_prepare_start(&n->prepare, on_prepare);
    (void)uv_poll_start(&n->poll, UV_READABLE, on_readable);
    (void)uv_timer_start(&n->sweep, on_sweep, SWEEP_IDLE_MS, SWEEP_IDLE_MS);
    uv_unref((uv_handle_t *)&n->prepare);
    uv_unref((uv_handle_t *)&n->poll);
    uv_unref((uv_handle_t *)&n->sweep);
    return ERR_OK;
}

void kvt_shape_init(struct kvt_shape *s, const struct wire_kv_layout *l)
{
    s->layout = *l;
    s->block_bytes = wire_kv_part_block_bytes(l);
    s->grain = kvt_wire_grain(l);
    s->grains_per_layer = (uint32_t)(s->block_bytes / l->n_layers / s->grain);
    s->grains_per_block = s->grains_per_layer * l->n_layers;
}

static void init_node(struct kvt_node *n, const struct kvt_node_config *config)
{
    struct wire_kv_layout whole = config->layout;

    n->config = *config;
    snprintf(n->host, sizeof(n->host), "%s", config->host);
    n->config.host = n->host;
    if (n->config.transfer_timeout_ns == 0)
        n->config.transfer_timeout_ns = TRANSFER_TIMEOUT_NS;
    if (n->config.connect_timeout_ns == 0)
        n->config.connect_timeout_ns = CONNECT_TIMEOUT_NS;
    kvt_shape_init(&n->shape, &config->layout);
    whole.parts = 1;
    wire_kv_walk_init(&n->canonical, &config->layout, &whole);
    item_init(&n->conns);
    for (int i = 0; i < KVT_CLASSES; i++)
        item_init(&n->active_sends[i]);
    item_init(&n->active_grants);
    item_init(&n->ended_sends);
    item_init(&n->ended_grants);
    item_init(&n->events);
}

/* In device memory; what we have of our own are the buffers to get there. */
static enum err place_device(struct kvt_node *n, struct err_msg *msg)
{
    uint8_t *buffers = kvt_ucx_memory(n->ucx);
    size_t bytes = staging_bytes(&n->config);

    memcpy(n->part, n->config.memory->base, sizeof(n->part));
    n->probe = buffers + bytes;
    return kvt_stage_open(n->config.loop, n->config.memory, buffers, bytes, msg, &n->stage);
}

static enum err place_parts(struct kvt_node *n, struct err_msg *msg)
{
    uint8_t *at = kvt_ucx_memory(n->ucx);
    size_t stride;

    if (n->config.memory != NULL)
        return place_device(n, msg);
    if (!part_stride(&n->config, &stride))
        return ERR_NOMEM; /* it was possible before */
    for (uint32_t i = 0; i < n->config.layout.parts; i++, at += stride)
        n->part[i] = at;
    n->probe = at;
    return ERR_OK;
}

/* Before there are handles. */
static void undo_create(struct kvt_node *n)
{
    if (n->stage != NULL)
        kvt_stage_close(n->stage);
    kvt_ucx_close(n->ucx);
    kvt_fence_fini(&n->fence);
    mem_free(n);
}

enum err kvt_node_create(const struct kvt_node_config *config, struct err_msg *msg,
                         struct kvt_node **out)
{
    struct kvt_node *n;
    size_t memory = 0;
    enum err err = check_config(config, msg, &memory);

    if (err != ERR_OK)
        return err;
    n = mem_try_calloc(1, sizeof(*n));
    if (n == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the KV node");
    init_node(n, config);
    if (RAND_bytes((unsigned char *)&n->instance, sizeof(n->instance)) != 1 || n->instance == 0) {
        mem_free(n);
        return err_set(msg, ERR_IO, "no randomness");
    }
    err = open_ucx(n, memory, msg);
    if (err != ERR_OK) {
        kvt_fence_fini(&n->fence);
        mem_free(n);
        return err;
    }
    err = place_parts(n, msg);
    if (err != ERR_OK) {
        undo_create(n);
        return err;
    }
    err = start_handles(n);
    if (err != ERR_OK) {
        undo_create(n);
        return err_set(msg, err, "KV transfer: the event loop refuses handles");
    }
    err = open_listener(n, msg);
    if (err != ERR_OK) {
        kvt_node_close(n, NULL, NULL);
        return err;
    }
    *out = n;
    return ERR_OK;
}

void *kvt_node_pool(struct kvt_node *n, uint32_t part)
{
    return n->part[part];
}

uint16_t kvt_node_port(const struct kvt_node *n)
{
    return n->port;
}

const struct kvt_counters *kvt_node_counters(const struct kvt_node *n)
{
    return &n->counters;
}

/* ---- closing ---- */

static void node_free(struct kvt_node *n)
{
    void (*closed)(void *) = n->closed;
    void *arg = n->closed_arg;
    size_t at = 0;
    struct kvt_peer *p;

    while ((p = map_next(&n->peers, &at)) != NULL)
        mem_free(p);
    map_free(&n->peers);
    map_free(&n->cookies);
    map_free(&n->grants);
    map_free(&n->sends);
    while (item_linked(&n->events)) {
        struct event *e = KVT_OF(n->events.next, struct event, item);

        item_unlink(&e->item);
        mem_free(e);
    }
    if (n->stage != NULL)
        kvt_stage_close(n->stage);
    kvt_ucx_close(n->ucx);
    kvt_fence_fini(&n->fence);
    mem_free(n);
    if (closed != NULL)
        closed(arg);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct kvt_node *n = h->data;

    if (--n->handles == 0)
        node_free(n);
}

/* Once connections have let go, so have all operations; copies end by themselves. */
static void node_try_close(struct kvt_node *n)
{
    if (item_linked(&n->conns) || n->counters.sends_open > 0 || n->counters.grants_open > 0 ||
        (n->stage != NULL && !kvt_stage_idle(n->stage)) || uv_is_closing((uv_handle_t *)&n->sweep))
        return;
    uv_close((uv_handle_t *)&n->poll, on_handle_closed);
    uv_close((uv_handle_t *)&n->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&n->idle, on_handle_closed);
    uv_close((uv_handle_t *)&n->sweep, on_handle_closed);
}

void kvt_node_close(struct kvt_node *n, void (*closed)(void *arg), void *arg)
{
    struct kvt_item *i;

    if (n->closing)
        return;
    n->closing = true;
    n->closed = closed;
    n->closed_arg = arg;
    kvt_send_close_all(n);
    kvt_grant_close_all(n);
    for (i = n->conns.next; i != &n->conns; i = i->next)
        kvt_conn_fail(KVT_OF(i, struct kvt_conn, item), ERR_CANCELED, false, "the node closes");
    uv_close((uv_handle_t *)&n->listener, on_handle_closed);
    uv_ref((uv_handle_t *)&n->sweep); /* keeps the loop alive until all is closed */
    kvt_node_hurry(n);
}

/* ---- peers ---- */

struct kvt_peer *kvt_peer_find(const struct kvt_node *n, uint32_t id)
{
    return map_get(&n->peers, (uint64_t)id + 1);
}

enum err kvt_node_introduce(struct kvt_node *n, uint32_t self, uint32_t peer,
                            const uint8_t token[KVT_TOKEN_BYTES], const char *host, uint16_t port)
{
    struct sockaddr_storage addr;
    struct kvt_peer *p;

    if (host != NULL && (strlen(host) >= sizeof(p->host) || port == 0 ||
                         kvt_address_parse(host, port, &addr) != ERR_OK))
        return ERR_INVALID;
    p = mem_try_calloc(1, sizeof(*p));
    if (p == NULL)
        return ERR_NOMEM;
    p->id = peer;
    p->self = self;
    p->port = port;
    memcpy(p->token, token, KVT_TOKEN_BYTES);
    if (host != NULL)
        snprintf(p->host, sizeof(p->host), "%s", host);
    kvt_node_forget(n, peer, false);
    if (map_put(&n->peers, (uint64_t)peer + 1, p) != ERR_OK) {
        mem_free(p);
        return ERR_NOMEM;
    }
    return ERR_OK;
}

enum err kvt_node_connect(struct kvt_node *n, uint32_t peer)
{
    struct kvt_peer *p = kvt_peer_find(n, peer);

    if (p == NULL)
        return ERR_NOT_FOUND;
    if (p->host[0] == '\0')
        return ERR_INVALID;
    if (p->out == NULL || p->out->failing || p->out->state != CONN_READY)
        kvt_peer_want(n, p);
    return ERR_OK;
}

/* An incoming connection with quarantined slots stays, without a peer, until the other side has
 * confirmed or ended; everything else ends now. */
static void conns_forget(struct kvt_node *n, uint32_t peer, bool process_gone)
{
    struct kvt_item *i;

    for (i = n->conns.next; i != &n->conns; i = i->next) {
        struct kvt_conn *c = KVT_OF(i, struct kvt_conn, item);

        if (c->peer_id != peer || c->peer == NULL)
            continue;
        c->peer = NULL;
        if (c->out || process_gone || c->quarantined == 0)
            kvt_conn_fail(c, ERR_CANCELED, process_gone, "the peer was forgotten");
    }
}

void kvt_node_forget(struct kvt_node *n, uint32_t peer, bool process_gone)
{
    struct kvt_peer *p = kvt_peer_find(n, peer);

    if (p != NULL) {
        peer_unwant(n, p);
        kvt_send_fail_waiting(n, p, ERR_PEER_LOST);
        kvt_send_fail_peer(n, peer);
        kvt_grant_fail_peer(n, peer, ERR_PEER_LOST);
        conns_forget(n, peer, process_gone);
        (void)map_del(&n->peers, (uint64_t)peer + 1);
        mem_free(p);
    }
    if (process_gone)
        kvt_grant_release(n, peer, 0, NULL);
}
