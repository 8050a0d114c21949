/* proto/wire_frame.c - see the header for the contract. */
#include "proto/wire_frame.h"

#include <string.h>

#include "base/mem.h"
#include "proto/wire_check.h"

static void *pb_alloc(void *data, size_t size)
{
    (void)data;
    return mem_try_alloc(size);
}

static void pb_free(void *data, void *p)
{
    (void)data;
    mem_free(p);
}

static ProtobufCAllocator allocator = {.alloc = pb_alloc, .free = pb_free, .allocator_data = NULL};

const char *wire_type_name(enum wire_type t)
{
    switch (t) {
#define X(NAME, Type, field, value) \
    case WIRE_##NAME:               \
        return #NAME;
        WIRE_TYPES(X)
#undef X
    }
    return "?";
}

static const ProtobufCMessageDescriptor *descriptor_of(enum wire_type t)
{
    switch (t) {
#define X(NAME, Type, field, value) \
    case WIRE_##NAME:               \
        return &baton__##field##__descriptor;
        WIRE_TYPES(X)
#undef X
    }
    return NULL;
}

static void put_le(uint8_t *dst, uint32_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        dst[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_le(const uint8_t *src, int bytes)
{
    uint32_t v = 0;

    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)src[i] << (8 * i);
    return v;
}

int wire_header_decode(const uint8_t *src, size_t len, struct wire_header *h)
{
    if (len < WIRE_FRAME_HEADER)
        return 0;
    h->len = get_le(src, 4);
    h->type = (uint16_t)get_le(src + 4, 2);
    if (h->len > WIRE_FRAME_MAX || get_le(src + 6, 2) != 0 ||
        descriptor_of((enum wire_type)h->type) == NULL)
        return ERR_BAD_FRAME;
    return WIRE_FRAME_HEADER;
}

enum err wire_pack(enum wire_type t, const ProtobufCMessage *m, struct buf *out)
{
    size_t len;
    uint8_t *dst;
    enum err err;

    if (m->descriptor != descriptor_of(t))
        return ERR_INVALID;
    len = protobuf_c_message_get_packed_size(m);
    if (len > WIRE_FRAME_MAX)
        return ERR_LIMIT;
    err = buf_reserve(out, WIRE_FRAME_HEADER + len);
    if (err != ERR_OK)
        return err;
    dst = (uint8_t *)buf_bytes(out) + out->len;
    put_le(dst, (uint32_t)len, 4);
    put_le(dst + 4, (uint32_t)t, 2);
    put_le(dst + 6, 0, 2);
    protobuf_c_message_pack(m, dst + WIRE_FRAME_HEADER);
    buf_added(out, WIRE_FRAME_HEADER + len);
    return ERR_OK;
}

enum err wire_unpack(enum wire_type t, const uint8_t *body, size_t len, ProtobufCMessage **out,
                     struct err_msg *msg)
{
    const ProtobufCMessageDescriptor *descriptor = descriptor_of(t);
    ProtobufCMessage *m;
    enum err err;

    if (descriptor == NULL || len > WIRE_FRAME_MAX)
        return err_set(msg, ERR_BAD_FRAME, "frame of type %d with %zu bytes", (int)t, len);
    m = protobuf_c_message_unpack(descriptor, &allocator, len, body);
    if (m == NULL)
        return err_set(msg, ERR_BAD_FRAME, "%s: not a valid protobuf message", wire_type_name(t));
    err = wire_check(t, m, msg);
    if (err != ERR_OK) {
        wire_free(m);
        return err;
    }
    *out = m;
    return ERR_OK;
}

void wire_free(ProtobufCMessage *m)
{
    if (m != NULL)
        protobuf_c_message_free_unpacked(m, &allocator);
}
