/* proto/wire_meta.h - the bytes that travel with the last notify of a hand-over (at most KVT_META_MAX):
 * what the decode worker must know beside the KV.
 *
 *   offset  size  field     little-endian
 *        0     4  magic     "BTNM"
 *        4     2  version   1
 *        6     2  zero      must be 0
 *        8     8  request
 *       16     4  epoch
 *       20     4  n_tokens  positions handed over
 *       24     4  token     the first token sampled; its KV is not part of the hand-over
 *       28     4  index     of that token among the generated ones, from 0
 *
 * Pure code.  Thread: any. */
#ifndef PROTO_WIRE_META_H
#define PROTO_WIRE_META_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WIRE_META_LEN = 32 };

struct wire_meta {
    uint64_t request;
    uint32_t epoch;
    uint32_t n_tokens;
    uint32_t token; /* below 2^31 */
    uint32_t index;
};

void wire_meta_encode(const struct wire_meta *m, uint8_t out[WIRE_META_LEN]);
/* ERR_BAD_FRAME: other length, magic or version, a reserved bit set, request or epoch 0, or a token
 * out of range. */
MUST_USE enum err wire_meta_decode(const uint8_t *src, size_t len, struct wire_meta *out);

#endif
