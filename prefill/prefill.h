/* prefill/prefill.h - the prefill role of a worker: computes prompts in chunks, samples the first token,
 * sends it to the front end at once, and hands the KV blocks over as layers become final.
 *
 *   prefill_create -> prefill_on_* (messages) -> prefill_destroy
 *
 * A request is in one state (PREFILL_STATE_MAP in prefill_request.h): QUEUED (waits for the engine), COMPUTING
 * (chunks run), WAIT_GRANT (computed, the decode worker's blocks are not known yet), SENDING (hand-over
 * runs), CLOSING (ended, but a step or a transfer still uses its blocks).  Each has a deadline; every request given by prefill_on_prefill ends with exactly one RELEASED
 * message, when none of its blocks is in use any more.
 *
 * The engine runs on a thread of its own, which this module starts; it computes the request with the
 * smallest order first, one chunk of at most max_step_tokens at a time, so a more urgent request
 * overtakes between chunks.  A grant may come before, while or after the prompt is computed: pieces that
 * are final by then are sent at once.
 *
 * Thread     all functions and the out hooks: the loop thread.
 * Ownership  the engine and the kvt node belong to the caller and outlive this object.
 * Blocking   prefill_destroy waits for the step that runs to end. */
#ifndef PREFILL_PREFILL_H
#define PREFILL_PREFILL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "kvtransfer/kvt.h"
#include "proto/wire_frame.h"

struct uv_loop_s;
struct prefill;

struct prefill_config {
    struct uv_loop_s *loop;
    struct engine *engine; /* pool attached */
    struct kvt_node *kvt;
    uint32_t n_blocks;
    uint64_t grant_timeout_ns; /* longest wait for a grant after the prompt is computed; 0 = the
                                  hand-over's own limit: the decode worker may have a queue for room */
    void *arg;
    /* To the scheduler.  m is only valid during the call. */
    void (*to_scheduler)(void *arg, enum wire_type t, const ProtobufCMessage *m);
    /* To the front end with this id: one frame per step. */
    void (*to_frontend)(void *arg, uint32_t frontend, const Baton__Tokens *m);
    /* The engine broke (device scope): the worker must leave.  Called once. */
    void (*on_broken)(void *arg, const char *why);
};

MUST_USE enum err prefill_create(const struct prefill_config *c, struct prefill **out);
void prefill_on_prefill(struct prefill *p, const Baton__Prefill *m);
void prefill_on_grant(struct prefill *p, const Baton__Grant *m);
void prefill_on_cancel(struct prefill *p, const Baton__Cancel *m);
/* Cancel everything: the scheduler connection is gone. */
void prefill_cancel_all(struct prefill *p);
/* Cancel what belongs to one front end: its connection is gone. */
void prefill_cancel_frontend(struct prefill *p, uint32_t frontend);
/* Fill the fields of a report that this role knows.  Moves the step samples out: each is reported once; its
 * arrays are valid until the next call. */
void prefill_report(struct prefill *p, Baton__Report *m);
uint32_t prefill_live(const struct prefill *p); /* requests not yet released */
void prefill_destroy(struct prefill *p);

#endif
