/* prefill/prefill_request.h - private: one request of the role and its states.
 * Thread: loop; during a step the engine thread reads tokens, blocks, params and writes
 * history. */
#ifndef PREFILL_PREFILL_REQUEST_H
#define PREFILL_PREFILL_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine_attempts.h"
#include "engine/engine_params.h"
#include "engine/engine_sample.h"
#include "prefill/prefill_pieces.h"
#include "proto/wire_frame.h"

struct engine_info;
struct kvt_send;
struct prefill;

#define PREFILL_NOT_QUEUED UINT32_MAX

/* What each state waits for; who ends the wait when it never comes. */
#define PREFILL_STATE_MAP(X)                                                                  \
    X(QUEUED)     /* its turn in a step; the scheduler's prefill timeout cancels it */        \
    X(COMPUTING)  /* the steps of its chunks; the scheduler's prefill timeout cancels it */   \
    X(WAIT_GRANT) /* the decode worker's blocks; deadline_ns, watched by the tick */          \
    X(SENDING)    /* the receiver's acknowledgement; deadline_ns, and that of the transfer */ \
    X(CLOSING)    /* the step and the transfer that still use its blocks; both end by themselves */

enum prefill_state {
#define X(NAME) PREFILL_##NAME,
    PREFILL_STATE_MAP(X)
#undef X
};
const char *prefill_state_name(enum prefill_state s);

struct prefill_request {
    struct engine_attempt at;
    struct prefill *owner;    /* NULL: the role is gone, only a transfer's end is awaited */
    enum prefill_state state; /* prefill_request_set_state alone writes */
    uint32_t frontend;
    uint32_t decode_worker; /* 0: no hand-over */
    uint32_t n_tokens, n_prompt, max_new;
    uint64_t order, arrival; /* queue key */
    uint32_t queue_at;
    uint32_t transfer_class;
    uint64_t handover_ns; /* most time from the end of prefill to the acknowledgement */

    struct engine_params params;
    struct engine_history *history; /* made on the engine thread, where a penalty needs it */
    int32_t *tokens;
    uint32_t *blocks;
    uint32_t n_blocks; /* ceil(n_tokens / block_tokens) */

    uint32_t submitted; /* tokens in steps, done or not */
    uint32_t done;
    uint32_t holds; /* steps that use it, and callers up the stack */
    struct kvt_send *send;
    bool granted;
    struct prefill_pieces pieces;

    bool sampled;
    int32_t first_token;
    uint32_t first_index;
    enum engine_finish finish;

    uint64_t arrived_ns, started_ns, progress_ns, deadline_ns;
    enum err end; /* first cause, once CLOSING */
    char why[160];
};

/* Copies m, checked against the model.  ERR_INVALID with the reason, ERR_NOMEM. */
MUST_USE enum err prefill_request_create(const Baton__Prefill *m, const struct engine_info *info,
                                         struct err_msg *msg, struct prefill_request **out);
void prefill_request_destroy(struct prefill_request *r);
/* false: not a legal move (a bug here; counted and logged, the state stays). */
bool prefill_request_set_state(struct prefill_request *r, enum prefill_state to);

#endif
