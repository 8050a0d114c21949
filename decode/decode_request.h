/* decode/decode_request.h - private: one request of the role and its states.
 * Thread: loop; what of it the engine thread uses is said in decode_batch.h. */
#ifndef DECODE_DECODE_REQUEST_H
#define DECODE_DECODE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "decode/decode_batch.h"
#include "engine/engine_attempts.h"
#include "engine/engine_params.h"
#include "proto/wire_frame.h"

struct decode;
struct engine_info;
struct kvt_grant;

/* What each state waits for; who ends the wait when it never comes. */
#define DECODE_STATE_MAP(X)                                                                   \
    X(WAITING)     /* its blocks, by plan; deadline_ns, watched by the tick */                \
    X(GRANTED)     /* a verified hand-over; the grant's deadline */                           \
    X(COMPUTING)   /* the pieces of its prompt; the scheduler's prefill timeout cancels it */ \
    X(RUNNING)     /* its last token; the scheduler's decode timeout cancels it */            \
    X(LEAVING)     /* ended: the running step; ends by itself */                              \
    X(QUARANTINED) /* ended: proof that nothing can write to its blocks; the KV node guarantees it */

enum decode_state {
#define X(NAME) DECODE_##NAME,
    DECODE_STATE_MAP(X)
#undef X
};
const char *decode_state_name(enum decode_state s);

struct decode_request {
    struct engine_attempt at;
    struct decode *owner;    /* NULL: the role is gone, only the grant's end is awaited */
    enum decode_state state; /* decode_request_set_state alone writes */
    uint32_t frontend, prefill_worker;
    bool local;                          /* came as PREFILL */
    bool one_only;                       /* local, and nothing is decoded after the first token */
    bool answered;                       /* GRANTED has been sent */
    uint64_t deadline_ns;                /* absolute: for the blocks, then for the hand-over */
    enum engine_block_state block_state; /* of all its blocks */
    int32_t *tokens;                     /* NULL unless a penalty or its own prefill needs them */
    struct engine_params params;
    struct kvt_grant *grant; /* NULL once safe */
    struct decode_run run;
    bool in_engine;
    uint32_t holds; /* callers up the stack */
    uint32_t index; /* of the latest token that went out */
    uint32_t generated;
    uint64_t arrived_ns, started_ns, progress_ns, running_ns;
    enum err end; /* first cause, once LEAVING or QUARANTINED */
    char why[160];
};

/* Copies of what came, checked against the model and a pool of n_blocks.  ERR_INVALID and ERR_LIMIT (it could
 * never have its blocks) with the reason, ERR_NOMEM. */
MUST_USE enum err decode_request_from_reserve(const Baton__Reserve *m,
                                              const struct engine_info *info, uint32_t n_blocks,
                                              struct err_msg *msg, struct decode_request **out);
MUST_USE enum err decode_request_from_prefill(const Baton__Prefill *m,
                                              const struct engine_info *info, uint32_t n_blocks,
                                              struct err_msg *msg, struct decode_request **out);
void decode_request_destroy(struct decode_request *r);
/* false: not a legal move (a bug here; logged, the state stays). */
bool decode_request_set_state(struct decode_request *r, enum decode_state to);

#endif
