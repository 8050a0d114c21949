/* proto/wire_frame.h - frames on a control connection: a length, a type, one protobuf message.
 *
 *   offset  size  field   little-endian
 *        0     4  len     bytes after this header, 0 .. WIRE_FRAME_MAX
 *        4     2  type    enum wire_type
 *        6     2  zero    reserved, must be 0
 *        8     .  body    the packed message
 *
 * wire_unpack checks the body against every rule of wire_check.c before it hands the message out, so
 * that code above can use ids, sizes and arrays without looking again.  An unknown type is a protocol
 * error: versions are settled in the handshake (wire_auth.h).
 *
 * Pure code: bytes in, structs out; no sockets.  Thread: any.
 * Ownership: an unpacked message belongs to the caller, who frees it with wire_free. */
#ifndef PROTO_WIRE_FRAME_H
#define PROTO_WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "proto/baton.pb-c.h"

enum { WIRE_FRAME_HEADER = 8, WIRE_FRAME_MAX = 1 << 20, WIRE_TOKENS_MAX = 200000 };

/*    NAME              C message type        value  */
#define WIRE_TYPES(X)                                         \
    X(LOADING, Loading, loading, 1)                           \
    X(JOIN, Join, join, 2)                                    \
    X(REPORT, Report, report, 3)                              \
    X(GRANTED, Granted, granted, 4)                           \
    X(PREFILL_PROGRESS, PrefillProgress, prefill_progress, 5) \
    X(PREFILL_DONE, PrefillDone, prefill_done, 6)             \
    X(HANDOVER_DONE, HandoverDone, handover_done, 7)          \
    X(DECODE_PROGRESS, DecodeProgress, decode_progress, 8)    \
    X(RELEASED, Released, released, 9)                        \
    X(LINK, Link, link, 10)                                   \
    X(WELCOME, Welcome, welcome, 32)                          \
    X(INTRODUCE, Introduce, introduce, 33)                    \
    X(FORGET, Forget, forget, 34)                             \
    X(RESERVE, Reserve, reserve, 35)                          \
    X(PREFILL, Prefill, prefill, 36)                          \
    X(GRANT, Grant, grant, 37)                                \
    X(CANCEL, Cancel, cancel, 38)                             \
    X(DRAIN, Drain, drain, 39)                                \
    X(PING, Ping, ping, 40)                                   \
    X(FLIP, Flip, flip, 41)                                   \
    X(ATTACH, Attach, attach, 64)                             \
    X(TOKENS, Tokens, tokens, 65)

enum wire_type {
#define X(NAME, Type, field, value) WIRE_##NAME = value,
    WIRE_TYPES(X)
#undef X
};

const char *wire_type_name(enum wire_type t); /* "RESERVE"; "?" */

struct wire_header {
    uint32_t len;
    uint16_t type; /* one of enum wire_type */
};

/* Bytes used (WIRE_FRAME_HEADER), 0 if more are needed, or ERR_BAD_FRAME: length, type or reserved
 * field out of range. */
MUST_USE int wire_header_decode(const uint8_t *src, size_t len, struct wire_header *h);

/* Append the frame of message m, which must be of type t.  ERR_LIMIT: larger than WIRE_FRAME_MAX;
 * ERR_NOMEM.  On an error out is unchanged. */
MUST_USE enum err wire_pack(enum wire_type t, const ProtobufCMessage *m, struct buf *out);

/* ERR_BAD_FRAME: not a valid message of that type (msg says which field); ERR_NOMEM. */
MUST_USE enum err wire_unpack(enum wire_type t, const uint8_t *body, size_t len,
                              ProtobufCMessage **out, struct err_msg *msg);
void wire_free(ProtobufCMessage *m); /* NULL is fine */

/* Arrays of u32 as little-endian bytes. */
static inline uint32_t wire_u32_count(const ProtobufCBinaryData *b)
{
    return (uint32_t)(b->len / 4);
}
static inline uint32_t wire_u32_at(const ProtobufCBinaryData *b, uint32_t i)
{
    const uint8_t *p = b->data + (size_t)i * 4;

    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#endif
