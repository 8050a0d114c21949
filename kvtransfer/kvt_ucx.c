/* kvtransfer/kvt_ucx.c - see the header for the contract.
 *
 * Peer error mode on every endpoint: without it UCX refuses a forced close and requests to a dead peer
 * never end.  Peer mode alone drops the shared-memory lanes, hence MM_ERROR_HANDLING.  Data messages
 * are always eager: on TCP a rendezvous is a put into the receiver's memory, which would have to be
 * cut off before a canceled slot could be reused, and it measured slower than single-fragment eager
 * messages (5.0 against 7.6 GB/s on loopback).  Protocols v2 stay off: they corrupt the stack in 1.13.
 *
 * Data messages are tagged, not UCX's active messages, because those ask the peer for an endpoint first,
 * and one that fails before it has answered aborts the peer's process (README.md). */
#include "kvtransfer/kvt_ucx.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include <ucp/api/ucp.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kvtransfer/kvt_fence.h"
#include "kvtransfer/kvt_inbox.h"

enum { PROGRESS_BATCH = 8 };

struct kvt_ucx {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_mem_h memory;
    void *base;
    ucp_address_t *address;
    size_t address_len;
    void *rkey;
    size_t rkey_len;
    struct {
        ucp_mem_h memory;
        void *rkey;
        size_t rkey_len;
    } part[WIRE_KV_PARTS_MAX]; /* of the device */
    uint32_t n_parts;
    ucs_memory_type_t part_type;
    int fd;
    struct kvt_inbox *inbox;
    uint32_t (*room)(void *arg);
    void *arg;
};

/* A message on its way. */
struct outgoing {
    struct kvt_op *op;
    ucp_dt_iov_t parts[2]; /* head, data */
    uint8_t head[KVT_INBOX_PREFIX + KVT_INBOX_HEADER_MAX];
};

struct kvt_ep {
    struct kvt_ucx *ucx;
    ucp_ep_h ep;
    ucp_rkey_h rkey;
    ucp_rkey_h part[WIRE_KV_PARTS_MAX];
    bool failed;
    void (*on_failed)(void *arg, const char *why);
    void *failed_arg;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* What a setting is for, since UCX warns of those that none of its transports reads. */
enum needs { NEEDS_NOTHING = 0, NEEDS_SHM, NEEDS_TCP };

struct setting {
    enum needs needs;
    const char *user; /* the environment variable, less UCX_ */
    const char
        *name; /* as ucp_config_modify of 1.13 wants it: transport tables without their prefix */
    const char *value;
};

static const struct setting settings[] = {
    {NEEDS_NOTHING, "PROTO_ENABLE", "PROTO_ENABLE", "n"},                 /* see above */
    {NEEDS_NOTHING, "RNDV_THRESH", "RNDV_THRESH", "inf"},                 /* see above */
    {NEEDS_NOTHING, "RESOLVE_REMOTE_EP_ID", "RESOLVE_REMOTE_EP_ID", "n"}, /* see above */
    {NEEDS_NOTHING, "KEEPALIVE_INTERVAL", "KEEPALIVE_INTERVAL", "1s"},
    {NEEDS_SHM, "MM_ERROR_HANDLING", "MM_ERROR_HANDLING", "y"}, /* see above */
    /* UCX's own connect() blocks the loop for minutes when the other host does not answer. */
    {NEEDS_TCP, "TCP_CONN_NB", "CONN_NB", "y"},
    {NEEDS_TCP, "TCP_SNDBUF", "SNDBUF", "4m"},
    {NEEDS_TCP, "TCP_RCVBUF", "RCVBUF", "4m"},
    /* One message of KVT_MESSAGE_MAX is one fragment, so it is not assembled in a copy first. */
    {NEEDS_TCP, "TCP_RX_SEG_SIZE", "RX_SEG_SIZE", "320k"},
};

static enum err translate(ucs_status_t status)
{
    switch ((int)status) {
    case UCS_OK:
        return ERR_OK;
    case UCS_ERR_NO_MEMORY:
        return ERR_NOMEM;
    case UCS_ERR_CANCELED:
        return ERR_CANCELED;
    case UCS_ERR_INVALID_PARAM:
        return ERR_INVALID;
    default:
        return ERR_PEER_LOST;
    }
}

static enum err ucx_error(struct err_msg *msg, const char *what, ucs_status_t status)
{
    return err_set(msg, status == UCS_ERR_NO_MEMORY ? ERR_NOMEM : ERR_IO, "UCX: %s: %s", what,
                   ucs_status_string(status));
}

static bool has_rdma(void)
{
    DIR *d = opendir("/sys/class/infiniband");
    bool found = false;

    if (d == NULL)
        return false;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.')
            found = true;
    }
    closedir(d);
    return found;
}

static bool user_has_set(const struct kvt_ucx_config *config, const char *name)
{
    char full[64];

    snprintf(full, sizeof(full), "UCX_%s", name);
    return config->user_set != NULL && config->user_set(full);
}

static void set_unless_user(const struct kvt_ucx_config *config, ucp_config_t *ucp,
                            const char *user, const char *name, const char *value)
{
    if (value == NULL || user_has_set(config, user))
        return;
    if (ucp_config_modify(ucp, name, value) != UCS_OK)
        LOG_WARN("kvt", "UCX does not know a setting", "name=%s value=%s", name, value);
}

/* Which kinds of transport the final UCX_TLS may use. */
static void transports_in(const ucp_config_t *ucp, bool has[NEEDS_TCP + 1])
{
    static const char *const shm[] = {"posix", "sysv", "sm", "shm", "mm"};
    char text[16384] = "";
    FILE *f = fmemopen(text, sizeof(text), "w");
    char *tls;

    has[NEEDS_NOTHING] = true;
    if (f == NULL)
        return;
    ucp_config_print(ucp, f, NULL, UCS_CONFIG_PRINT_CONFIG);
    fclose(f);
    tls = strstr(text, "UCX_TLS=");
    if (tls == NULL)
        return;
    tls[strcspn(tls, "\n")] = '\0';
    has[NEEDS_SHM] = has[NEEDS_TCP] = strstr(tls, "all") != NULL;
    has[NEEDS_TCP] |= strstr(tls, "tcp") != NULL;
    for (size_t i = 0; i < sizeof(shm) / sizeof(shm[0]); i++)
        has[NEEDS_SHM] |= strstr(tls, shm[i]) != NULL;
}

/* UCX knows CUDA memory only where it may use a transport for it. */
static bool wants_cuda(const struct kvt_ucx_config *config)
{
    return config->device != NULL && config->device->kind == KV_MEMORY_CUDA;
}

static enum err open_context(struct kvt_ucx *u, const struct kvt_ucx_config *config,
                             struct err_msg *msg)
{
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
                           .features = UCP_FEATURE_TAG | UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                           .name = "baton-kvt"};
    const char *tls = config->transports;
    bool has[NEEDS_TCP + 1] = {false};
    ucp_config_t *ucp;
    ucs_status_t status = ucp_config_read(NULL, NULL, &ucp);

    if (status != UCS_OK)
        return ucx_error(msg, "cannot read its configuration; check the UCX_* variables", status);
    if (tls == NULL)
        tls = !has_rdma()          ? "posix,sysv,tcp"
              : wants_cuda(config) ? "posix,sysv,tcp,rc,dc,ud,cuda"
                                   : "posix,sysv,tcp,rc,dc,ud";
    set_unless_user(config, ucp, "TLS", "TLS", tls);
    if (wants_cuda(config)) /* one without CUDA would warn of it, and the pool is staged then */
        set_unless_user(config, ucp, "WARN_INVALID_CONFIG", "WARN_INVALID_CONFIG", "n");
    set_unless_user(config, ucp, "NET_DEVICES", "NET_DEVICES", config->net_device);
    transports_in(ucp, has);
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (has[settings[i].needs])
            set_unless_user(config, ucp, settings[i].user, settings[i].name, settings[i].value);
    }
    status = ucp_init(&params, ucp, &u->context);
    ucp_config_release(ucp);
    if (status != UCS_OK)
        return ucx_error(msg, "ucp_init failed; check transports and network device", status);
    return ERR_OK;
}

static enum err open_worker(struct kvt_ucx *u, const struct kvt_ucx_config *config,
                            struct err_msg *msg)
{
    struct kvt_fence *fence = config->fence;
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucs_status_t status;
    enum err err;

    if (fence != NULL)
        kvt_fence_before(fence);
    status = ucp_worker_create(u->context, &params, &u->worker);
    if (status != UCS_OK)
        return ucx_error(msg, "ucp_worker_create failed", status);
    if (fence != NULL && (err = kvt_fence_close_all(fence, msg)) != ERR_OK)
        return err;
    if ((err = kvt_inbox_open(u->worker, config->on_data, config->arg, msg, &u->inbox)) != ERR_OK)
        return err;
    if ((status = ucp_worker_get_efd(u->worker, &u->fd)) != UCS_OK)
        return ucx_error(msg, "no event descriptor", status);
    if ((status = ucp_worker_get_address(u->worker, &u->address, &u->address_len)) != UCS_OK)
        return ucx_error(msg, "no worker address", status);
    return ERR_OK;
}

static enum err open_memory(struct kvt_ucx *u, size_t bytes, struct err_msg *msg)
{
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS |
                      UCP_MEM_MAP_PARAM_FIELD_ADDRESS,
        .address = NULL,
        .length = bytes,
        .flags = UCP_MEM_MAP_ALLOCATE,
    };
    ucp_mem_attr_t attr = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    ucs_status_t status = ucp_mem_map(u->context, &params, &u->memory);

    if (status != UCS_OK)
        return err_set(msg, ERR_NOMEM,
                       "the KV pool of %zu bytes cannot be allocated: %s; use fewer KV blocks or "
                       "allow more shared memory (/dev/shm, kernel.shmmax)",
                       bytes, ucs_status_string(status));
    if ((status = ucp_mem_query(u->memory, &attr)) != UCS_OK)
        return ucx_error(msg, "ucp_mem_query failed", status);
    u->base = attr.address;
    if ((status = ucp_rkey_pack(u->context, u->memory, &u->rkey, &u->rkey_len)) != UCS_OK)
        return ucx_error(msg, "ucp_rkey_pack failed", status);
    return ERR_OK;
}

static void close_parts(struct kvt_ucx *u)
{
    for (uint32_t i = 0; i < WIRE_KV_PARTS_MAX; i++) {
        if (u->part[i].rkey != NULL)
            ucp_rkey_buffer_release(u->part[i].rkey);
        if (u->part[i].memory != NULL)
            ucp_mem_unmap(u->context, u->part[i].memory);
    }
    memset(u->part, 0, sizeof(u->part));
    u->n_parts = 0;
}

static ucs_status_t open_part(struct kvt_ucx *u, uint32_t i, void *base, size_t bytes)
{
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
        .address = base,
        .length = bytes,
        .memory_type = u->part_type,
    };
    ucs_status_t status = ucp_mem_map(u->context, &params, &u->part[i].memory);

    if (status == UCS_OK)
        status =
            ucp_rkey_pack(u->context, u->part[i].memory, &u->part[i].rkey, &u->part[i].rkey_len);
    return status;
}

/* A UCX that cannot reach the device is no error: its pool is staged then. */
static void open_device(struct kvt_ucx *u, const struct kv_memory *device, size_t bytes)
{
    ucp_context_attr_t attr = {.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES};
    ucs_status_t status = UCS_OK;

    if (device == NULL || device->kind == KV_MEMORY_DEVICE)
        return;
    u->part_type = device->kind == KV_MEMORY_CUDA ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
    if (ucp_context_query(u->context, &attr) != UCS_OK ||
        (attr.memory_types & UCS_BIT(u->part_type)) == 0) {
        LOG_INFO("kvt", "UCX does not know the device's memory", "device=%s", device->name);
        return;
    }
    for (uint32_t i = 0; status == UCS_OK && i < device->parts; i++)
        status = open_part(u, i, device->base[i], bytes);
    if (status == UCS_OK) {
        u->n_parts = device->parts;
        return;
    }
    LOG_WARN("kvt", "UCX does not register the device's memory", "device=%s status=%s",
             device->name, ucs_status_string(status));
    close_parts(u);
}

enum err kvt_ucx_open(const struct kvt_ucx_config *config, struct err_msg *msg,
                      struct kvt_ucx **out)
{
    struct kvt_ucx *u = mem_try_calloc(1, sizeof(*u));
    enum err err;

    if (u == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the KV transport");
    u->room = config->room;
    u->arg = config->arg;
    if ((err = open_context(u, config, msg)) != ERR_OK ||
        (err = open_worker(u, config, msg)) != ERR_OK ||
        (err = open_memory(u, config->memory_bytes, msg)) != ERR_OK) {
        kvt_ucx_close(u);
        return err;
    }
    open_device(u, config->device, config->part_bytes);
    *out = u;
    return ERR_OK;
}

void kvt_ucx_close(struct kvt_ucx *u)
{
    close_parts(u);
    if (u->rkey != NULL)
        ucp_rkey_buffer_release(u->rkey);
    if (u->memory != NULL)
        ucp_mem_unmap(u->context, u->memory);
    if (u->address != NULL)
        ucp_worker_release_address(u->worker, u->address);
    if (u->inbox != NULL)
        kvt_inbox_stop(u->inbox);
    if (u->worker != NULL)
        ucp_worker_destroy(u->worker);
    if (u->inbox != NULL)
        kvt_inbox_free(u->inbox);
    if (u->context != NULL)
        ucp_cleanup(u->context);
    mem_free(u);
}

void *kvt_ucx_memory(const struct kvt_ucx *u)
{
    return u->base;
}

int kvt_ucx_fd(const struct kvt_ucx *u)
{
    return u->fd;
}

void kvt_ucx_address(const struct kvt_ucx *u, const void **bytes, size_t *len)
{
    *bytes = u->address;
    *len = u->address_len;
}

void kvt_ucx_rkey(const struct kvt_ucx *u, const void **bytes, size_t *len)
{
    *bytes = u->rkey;
    *len = u->rkey_len;
}

uint32_t kvt_ucx_parts(const struct kvt_ucx *u)
{
    return u->n_parts;
}

void kvt_ucx_part_rkey(const struct kvt_ucx *u, uint32_t part, const void **bytes, size_t *len)
{
    *bytes = u->part[part].rkey;
    *len = u->part[part].rkey_len;
}

static uint32_t room(const struct kvt_ucx *u)
{
    return u->room != NULL ? u->room(u->arg) : UINT32_MAX;
}

bool kvt_ucx_progress(struct kvt_ucx *u, uint64_t until_ns)
{
    do {
        for (int i = 0; i < PROGRESS_BATCH; i++) {
            unsigned did;

            if (room(u) == 0)
                return false;
            did = ucp_worker_progress(u->worker);
            if (!kvt_inbox_post(u->inbox, room(u)) && did == 0)
                return false;
        }
    } while (clock_now_ns() < until_ns);
    return true;
}

void kvt_ucx_sweep(struct kvt_ucx *u, uint64_t now, uint64_t limit_ns)
{
    kvt_inbox_sweep(u->inbox, now, limit_ns);
}

bool kvt_ucx_arm(struct kvt_ucx *u)
{
    return ucp_worker_arm(u->worker) == UCS_OK;
}

/* Only marks: using or closing the endpoint from inside this callback is what crashed others. */
static void ep_error(void *arg, ucp_ep_h handle, ucs_status_t status)
{
    struct kvt_ep *ep = arg;

    (void)handle;
    if (ep->failed || ep->closed != NULL)
        return;
    ep->failed = true;
    ep->on_failed(ep->failed_arg, ucs_status_string(status));
}

enum err kvt_ep_open(struct kvt_ucx *u, const void *address, const void *rkey, size_t rkey_len,
                     void (*failed)(void *arg, const char *why), void *arg, struct kvt_ep **out)
{
    struct kvt_ep *ep = mem_try_calloc(1, sizeof(*ep));
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = ep_error, .arg = ep},
    };
    char lanes[160];
    ucs_status_t status;

    if (ep == NULL)
        return ERR_NOMEM;
    ep->ucx = u;
    ep->on_failed = failed;
    ep->failed_arg = arg;
    if ((status = ucp_ep_create(u->worker, &params, &ep->ep)) != UCS_OK) {
        LOG_WARN("kvt", "UCX cannot reach the peer", "status=%s", ucs_status_string(status));
        mem_free(ep);
        return ERR_PEER_LOST;
    }
    /* The key belongs to this endpoint and dies with it.  Over TCP it is of no use, and unpacking it
     * would ask the peer for its endpoint. */
    if (rkey_len > 0 && kvt_ep_path(ep, lanes, sizeof(lanes)) != KVT_PATH_TCP &&
        (status = ucp_ep_rkey_unpack(ep->ep, rkey, &ep->rkey)) != UCS_OK)
        LOG_WARN("kvt", "no remote key", "status=%s", ucs_status_string(status));
    *out = ep;
    return ERR_OK;
}

enum err kvt_ep_add_key(struct kvt_ep *ep, uint32_t part, const void *rkey)
{
    ucs_status_t status = ucp_ep_rkey_unpack(ep->ep, rkey, &ep->part[part]);

    if (status == UCS_OK)
        return ERR_OK;
    LOG_WARN("kvt", "no remote key", "part=%u status=%s", part, ucs_status_string(status));
    ep->part[part] = NULL;
    return ERR_IO;
}

/* "lane[0]:  4:posix/memory.0 md[3] ..." -> "posix/memory" appended to lanes, each once. */
static void add_lane(const char *line, char *lanes, size_t len)
{
    const char *at = strstr(line, "lane[");
    const char *name = at != NULL ? strchr(at, ':') : NULL;
    char word[48];
    size_t n, used = strlen(lanes);

    name = name != NULL ? strchr(name + 1, ':') : NULL;
    if (name == NULL)
        return;
    name++;
    n = strcspn(name, ". \n");
    if (n == 0 || n >= sizeof(word))
        return;
    memcpy(word, name, n);
    word[n] = '\0';
    if (strstr(lanes, word) == NULL)
        snprintf(lanes + used, len - used, "%s%s", used > 0 ? "," : "", word);
}

enum kvt_path kvt_ep_path(const struct kvt_ep *ep, char *lanes, size_t len)
{
    char text[8192] = "";
    FILE *f = fmemopen(text, sizeof(text), "w");

    lanes[0] = '\0';
    if (f == NULL)
        return KVT_PATH_NONE;
    ucp_ep_print_info(ep->ep, f);
    fclose(f);
    for (char *line = text, *next; line != NULL && *line != '\0'; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        add_lane(line, lanes, len);
    }
    if (strstr(lanes, "posix") != NULL || strstr(lanes, "sysv") != NULL)
        return KVT_PATH_SHM;
    if (strstr(lanes, "rc_") != NULL || strstr(lanes, "dc_") != NULL)
        return KVT_PATH_RDMA;
    if (strstr(lanes, "self") != NULL)
        return KVT_PATH_SELF;
    return lanes[0] != '\0' ? KVT_PATH_TCP : KVT_PATH_NONE;
}

static void op_done(void *request, ucs_status_t status, void *user_data)
{
    struct kvt_op *op = user_data;

    ucp_request_free(request);
    op->done(op, translate(status));
}

static enum kvt_op_state op_state(ucs_status_ptr_t p)
{
    if (p == NULL)
        return KVT_OP_DONE;
    return UCS_PTR_IS_ERR(p) ? KVT_OP_FAILED : KVT_OP_PENDING;
}

static ucp_request_param_t op_params(struct kvt_op *op)
{
    ucp_request_param_t params = {.op_attr_mask =
                                      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                  .cb.send = op_done,
                                  .user_data = op};

    return params;
}

enum kvt_op_state kvt_ep_put(struct kvt_ep *ep, uint32_t from_part, const void *local, size_t len,
                             uint32_t to_part, uint64_t remote, struct kvt_op *op)
{
    const struct kvt_ucx *u = ep->ucx;
    ucp_request_param_t params = op_params(op);
    ucp_rkey_h key = to_part == 0 ? ep->rkey : ep->part[to_part - 1];

    if (ep->failed || key == NULL)
        return KVT_OP_FAILED;
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    params.memh = from_part == 0 ? u->memory : u->part[from_part - 1].memory;
    params.memory_type = from_part == 0 ? UCS_MEMORY_TYPE_HOST : u->part_type;
    return op_state(ucp_put_nbx(ep->ep, local, len, remote, key, &params));
}

enum kvt_op_state kvt_ep_flush(struct kvt_ep *ep, struct kvt_op *op)
{
    ucp_request_param_t params = op_params(op);

    if (ep->failed)
        return KVT_OP_FAILED;
    return op_state(ucp_ep_flush_nbx(ep->ep, &params));
}

static void outgoing_done(void *request, ucs_status_t status, void *user_data)
{
    struct outgoing *m = user_data;
    struct kvt_op *op = m->op;

    ucp_request_free(request);
    mem_free(m);
    op->done(op, translate(status));
}

enum kvt_op_state kvt_ep_send(struct kvt_ep *ep, const void *header, size_t header_len,
                              const void *data, size_t len, struct kvt_op *op)
{
    ucp_request_param_t params = {.op_attr_mask =
                                      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                                      UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                  .cb.send = outgoing_done,
                                  .datatype = UCP_DATATYPE_IOV,
                                  .memory_type = UCS_MEMORY_TYPE_HOST};
    enum kvt_op_state state;
    struct outgoing *m;

    if (ep->failed || header_len > KVT_INBOX_HEADER_MAX || len > KVT_INBOX_DATA_MAX ||
        (m = mem_try_alloc(sizeof(*m))) == NULL)
        return KVT_OP_FAILED;
    m->op = op;
    m->parts[0].buffer = m->head;
    m->parts[0].length = kvt_inbox_head(m->head, header, header_len, len);
    m->parts[1] = (ucp_dt_iov_t){.buffer = (void *)(uintptr_t)data, .length = len};
    params.user_data = m;
    state = op_state(ucp_tag_send_nbx(ep->ep, m->parts, len > 0 ? 2 : 1, KVT_INBOX_TAG, &params));
    if (state != KVT_OP_PENDING)
        mem_free(m);
    return state;
}

static void ep_free(struct kvt_ep *ep)
{
    void (*closed)(void *) = ep->closed;
    void *arg = ep->closed_arg;

    if (ep->rkey != NULL)
        ucp_rkey_destroy(ep->rkey);
    for (uint32_t i = 0; i < WIRE_KV_PARTS_MAX; i++) {
        if (ep->part[i] != NULL)
            ucp_rkey_destroy(ep->part[i]);
    }
    mem_free(ep);
    closed(arg);
}

static void close_done(void *request, ucs_status_t status, void *user_data)
{
    (void)status;
    ucp_request_free(request);
    ep_free(user_data);
}

void kvt_ep_close(struct kvt_ep *ep, void (*closed)(void *arg), void *arg)
{
    ucp_request_param_t params = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                  UCP_OP_ATTR_FIELD_USER_DATA |
                                                  UCP_OP_ATTR_FIELD_FLAGS,
                                  .flags = UCP_EP_CLOSE_FLAG_FORCE,
                                  .cb.send = close_done,
                                  .user_data = ep};
    ucs_status_ptr_t p;

    ep->closed = closed;
    ep->closed_arg = arg;
    p = ucp_ep_close_nbx(ep->ep, &params);
    if (p == NULL) {
        ep_free(ep);
    } else if (UCS_PTR_IS_ERR(p)) {
        LOG_WARN("kvt", "endpoint close failed", "status=%s", ucs_status_string(UCS_PTR_STATUS(p)));
        ep_free(ep);
    }
}
