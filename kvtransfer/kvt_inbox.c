/* kvtransfer/kvt_inbox.c - see the header for the contract.
 *
 * The receives are of a "generic" data type: UCX then hands over the bytes in its own buffer, and they
 * are copied once, to where they belong.  A message of one fragment, which is what we send, is read
 * in place; one of several, as shared memory makes them, is put together first. */
#include "kvtransfer/kvt_inbox.h"

#include <string.h>

#include <ucp/api/ucp.h>

#include "base/log.h"
#include "base/mem.h"

/* What comes beyond them in one turn is kept by UCX in copies. */
enum { RECEIVES = 32 };

struct receive {
    struct kvt_inbox *in;
    struct receive *next; /* of those given up */
    void *request;        /* NULL: not posted */
    uint8_t *whole;
    size_t total, have;
    bool posting, over; /* inside the call that posts it; it ended in there */
    bool begun, moved;  /* has a fragment; since it was looked at last */
    bool given_up;
    uint64_t since_ns; /* when it was found not to move */
};

struct kvt_inbox {
    ucp_worker_h worker;
    ucp_datatype_t in_place;
    uint32_t n_posted;
    void *arg;
    void (*on_data)(void *arg, const void *header, size_t header_len, const void *data, size_t len);
    struct receive *receives[RECEIVES];
    struct receive *given_up; /* UCX may still write to them: they stay until the worker is gone */
};

static void put_u32(uint8_t *to, size_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static size_t get_u32(const uint8_t *from)
{
    return (size_t)from[0] | (size_t)from[1] << 8 | (size_t)from[2] << 16 | (size_t)from[3] << 24;
}

size_t kvt_inbox_head(uint8_t *dst, const void *header, size_t header_len, size_t data_len)
{
    put_u32(dst, header_len);
    put_u32(dst + 4, data_len);
    memcpy(dst + KVT_INBOX_PREFIX, header, header_len);
    return KVT_INBOX_PREFIX + header_len;
}

/* Length of the whole message that starts with these bytes; 0 if it is none of ours. */
static size_t message_length(const uint8_t *bytes, size_t len)
{
    size_t header, data;

    if (len < KVT_INBOX_PREFIX)
        return 0;
    header = get_u32(bytes);
    data = get_u32(bytes + 4);
    if (header > KVT_INBOX_HEADER_MAX || data > KVT_INBOX_DATA_MAX)
        return 0;
    return KVT_INBOX_PREFIX + header + data;
}

static void deliver(struct kvt_inbox *in, const uint8_t *bytes, size_t len)
{
    size_t header = get_u32(bytes);
    const uint8_t *data = bytes + KVT_INBOX_PREFIX + header;

    in->on_data(in->arg, bytes + KVT_INBOX_PREFIX, header, data, len - KVT_INBOX_PREFIX - header);
}

static void deliver_malformed(struct kvt_inbox *in)
{
    static const uint8_t nothing[1];

    in->on_data(in->arg, nothing, 0, nothing, 0);
}

/* ---- what UCX calls ---- */

static void *unpack_start(void *context, void *buffer, size_t count)
{
    struct receive *r = buffer;

    (void)context;
    (void)count;
    r->total = r->have = 0;
    return r;
}

/* UCX drops what is longer. */
static size_t unpack_limit(void *state)
{
    (void)state;
    return KVT_INBOX_PREFIX + KVT_INBOX_HEADER_MAX + KVT_INBOX_DATA_MAX;
}

static ucs_status_t unpack(void *state, size_t offset, const void *src, size_t len)
{
    struct receive *r = state;

    r->begun = r->moved = true;
    if (r->given_up)
        return UCS_OK;
    if (offset == 0) {
        r->total = message_length(src, len);
        if (r->total == len && len > 0) {
            deliver(r->in, src, len);
            return UCS_OK;
        }
        if (r->total < len || len == 0) {
            deliver_malformed(r->in);
            return UCS_OK;
        }
        r->whole = mem_try_alloc(r->total);
        if (r->whole == NULL)
            LOG_WARN("kvt", "no memory for a message", "bytes=%zu", r->total);
    }
    if (r->whole == NULL || offset > r->total || len > r->total - offset)
        return UCS_OK;
    memcpy(r->whole + offset, src, len);
    r->have += len;
    if (r->have == r->total)
        deliver(r->in, r->whole, r->total);
    return UCS_OK;
}

static void unpack_finish(void *state)
{
    struct receive *r = state;

    mem_free(r->whole);
    r->whole = NULL;
}

static void receive_over(void *request, ucs_status_t status, const ucp_tag_recv_info_t *info,
                         void *user_data)
{
    struct receive *r = user_data;

    (void)info;
    if (status != UCS_OK && status != UCS_ERR_CANCELED && !r->given_up)
        deliver_malformed(r->in);
    ucp_request_free(request);
    r->request = NULL;
    r->over = true;
    if (!r->given_up && !r->posting)
        r->in->n_posted--;
}

/* ---- posting ---- */

/* Not from receive_over: a receive that finds its message waiting is over at once. */
static void post(struct receive *r, bool *found)
{
    struct kvt_inbox *in = r->in;
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        .cb.recv = receive_over,
        .user_data = r,
        .datatype = in->in_place,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    ucs_status_ptr_t p;

    r->begun = r->moved = r->over = false;
    r->posting = true;
    p = ucp_tag_recv_nbx(in->worker, r, 1, KVT_INBOX_TAG, 0, &params);
    r->posting = false;
    if (r->over) { /* all fragments were waiting: UCX returns the request that receive_over has freed */
        *found = true;
        return;
    }
    if (UCS_PTR_IS_PTR(p)) {
        r->request = p;
        in->n_posted++;
    } else if (p == NULL) {
        *found = true;
    } else {
        LOG_WARN("kvt", "UCX takes no receive", "status=%s", ucs_status_string(UCS_PTR_STATUS(p)));
    }
}

/* A message that was waiting takes room, so that what was said of it is no longer true. */
bool kvt_inbox_post(struct kvt_inbox *in, uint32_t room)
{
    uint32_t most = room < RECEIVES ? room : RECEIVES;
    bool found = false;

    for (uint32_t i = 0; in->n_posted < most && i < RECEIVES; i++) {
        if (found && room != UINT32_MAX)
            break;
        if (in->receives[i]->request == NULL)
            post(in->receives[i], &found);
    }
    return found;
}

/* The request cannot be taken back from UCX, which knows of no sender, so it is left there and another takes its place;
 * without memory for that, later. */
static void replace(struct kvt_inbox *in, struct receive **at)
{
    struct receive *r = *at, *fresh = mem_try_calloc(1, sizeof(*fresh));

    if (fresh == NULL)
        return;
    LOG_WARN("kvt", "a message was never finished", "bytes=%zu of=%zu", r->have, r->total);
    fresh->in = in;
    *at = fresh;
    mem_free(r->whole);
    r->whole = NULL;
    r->given_up = true;
    r->next = in->given_up;
    in->given_up = r;
    in->n_posted--;
}

void kvt_inbox_sweep(struct kvt_inbox *in, uint64_t now, uint64_t limit_ns)
{
    for (uint32_t i = 0; i < RECEIVES; i++) {
        struct receive *r = in->receives[i];

        if (r->request == NULL || !r->begun)
            continue;
        if (r->moved) {
            r->moved = false;
            r->since_ns = now;
        } else if (now - r->since_ns >= limit_ns) {
            replace(in, &in->receives[i]);
        }
    }
}

/* ---- life ---- */

static void free_receive(struct receive *r)
{
    if (r != NULL)
        mem_free(r->whole);
    mem_free(r);
}

static void free_receives(struct kvt_inbox *in)
{
    struct receive *next;

    for (uint32_t i = 0; i < RECEIVES; i++)
        free_receive(in->receives[i]);
    for (struct receive *r = in->given_up; r != NULL; r = next) {
        next = r->next;
        free_receive(r);
    }
    mem_free(in);
}

enum err kvt_inbox_open(ucp_worker_h worker,
                        void (*on_data)(void *arg, const void *header, size_t header_len,
                                        const void *data, size_t len),
                        void *arg, struct err_msg *msg, struct kvt_inbox **out)
{
    static const ucp_generic_dt_ops_t ops = {.start_unpack = unpack_start,
                                             .packed_size = unpack_limit,
                                             .unpack = unpack,
                                             .finish = unpack_finish};
    struct kvt_inbox *in = mem_try_calloc(1, sizeof(*in));
    ucs_status_t status;

    if (in == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the KV transport");
    in->worker = worker;
    in->on_data = on_data;
    in->arg = arg;
    for (uint32_t i = 0; i < RECEIVES; i++) {
        in->receives[i] = mem_try_calloc(1, sizeof(*in->receives[i]));
        if (in->receives[i] == NULL) {
            free_receives(in);
            return err_set(msg, ERR_NOMEM, "no memory for the KV transport");
        }
        in->receives[i]->in = in;
    }
    status = ucp_dt_create_generic(&ops, in, &in->in_place);
    if (status != UCS_OK) {
        free_receives(in);
        return err_set(msg, ERR_IO, "UCX: cannot describe a message: %s",
                       ucs_status_string(status));
    }
    *out = in;
    return ERR_OK;
}

static void ignore(void *arg, const void *header, size_t header_len, const void *data, size_t len)
{
    (void)arg;
    (void)header;
    (void)header_len;
    (void)data;
    (void)len;
}

void kvt_inbox_stop(struct kvt_inbox *in)
{
    in->on_data = ignore;
    for (uint32_t i = 0; i < RECEIVES; i++) {
        if (in->receives[i]->request != NULL)
            ucp_request_cancel(in->worker, in->receives[i]->request);
    }
    for (struct receive *r = in->given_up; r != NULL; r = r->next) {
        if (r->request != NULL)
            ucp_request_cancel(in->worker, r->request);
    }
}

void kvt_inbox_free(struct kvt_inbox *in)
{
    ucp_dt_destroy(in->in_place);
    free_receives(in);
}
