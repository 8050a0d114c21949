/* engine/engine_params.h - the sampling parameters of one request as they came in a control message,
 * checked and in memory of their own.
 *
 * Thread: the owner's; read-only after engine_params_read, so a step on another thread may use it. */
#ifndef ENGINE_ENGINE_PARAMS_H
#define ENGINE_ENGINE_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine_sample.h"
#include "proto/wire_frame.h"

struct engine_params {
    struct engine_sampling sampling; /* its arrays point into this object's memory */
    /* private */
    int32_t *stop_ids;
    struct engine_bias *bias;
};

/* Zero-initialise p first.  ERR_INVALID with the field named, ERR_NOMEM; p is then empty. */
MUST_USE enum err engine_params_read(struct engine_params *p, const Baton__Sampling *m,
                                     uint32_t vocab, struct err_msg *msg);
void engine_params_free(struct engine_params *p);

enum engine_finish { ENGINE_FINISH_NO = 0, ENGINE_FINISH_STOP = 1, ENGINE_FINISH_LENGTH = 2 };

/* Does the generated token with this index (from 0) end a request that may have max_new of them? */
enum engine_finish engine_params_finish(const struct engine_params *p, int32_t token,
                                        uint32_t index, uint32_t max_new);

/* Little-endian token ids of a message into out[]; ERR_INVALID: one is not below vocab. */
MUST_USE enum err engine_params_tokens(const ProtobufCBinaryData *bytes, uint32_t vocab,
                                       int32_t *out);

#endif
