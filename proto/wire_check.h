/* proto/wire_check.h - the rules every control message must obey, one function per type.  Private to
 * proto, but open for tests: wire_unpack applies it.  ERR_BAD_FRAME with the field named. */
#ifndef PROTO_WIRE_CHECK_H
#define PROTO_WIRE_CHECK_H

#include "proto/wire_frame.h"

enum {
    WIRE_NAME_MAX = 256, /* bytes of a name, address or error text */
    WIRE_FRONTENDS_MAX = 64,
    WIRE_ITEMS_MAX = 65536, /* of a repeated field */
    WIRE_STOP_IDS_MAX = 64,
    WIRE_BIAS_MAX = 1024,
    WIRE_TOP_MAX = 20,
    WIRE_SAMPLES_MAX = 16, /* step samples of one report */
    WIRE_TIERS_MAX = 256,
    WIRE_TRANSFER_CLASSES = 8
};

MUST_USE enum err wire_check(enum wire_type t, const ProtobufCMessage *m, struct err_msg *msg);

#endif
