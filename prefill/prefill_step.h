/* prefill/prefill_step.h - private: the engine thread of the role, and the steps that travel to it and
 * back.
 *
 *   prefill_engine_start -> prefill_engine_take -> fill -> prefill_engine_submit -> on_layers ... -> on_done
 *   -> prefill_engine_give ... -> prefill_engine_stop
 *
 * While a step is submitted it belongs to the engine thread, save for slots[].tokens etc. which both
 * may read; on_done gives it back.  Finished layers are reported at most once per MARK_GAP_NS, and not at
 * all once the step's marks are used up: on_done stands for all of them.  A device reports its layers in one go, each
 * with its ticket, before they are final: each has a mark.
 *
 * Thread: the functions and hooks belong to the loop thread, except hook prepare. */
#ifndef PREFILL_PREFILL_STEP_H
#define PREFILL_PREFILL_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mbox.h"
#include "engine/engine.h"

struct uv_loop_s;
struct prefill_request;
struct prefill_engine;
struct prefill_step;

enum { PREFILL_STEPS = 3, PREFILL_MARKS = 32 };

struct prefill_mark {
    struct mbox_msg msg;
    struct prefill_step *step;
    uint32_t layers; /* [0, layers) are final */
    uint64_t ready;  /* once this is (engine_layers_fn) */
};

struct prefill_step {
    /* set by the taker */
    uint32_t n;
    uint32_t n_tokens;
    struct engine_slot *slots;         /* room for max_batch */
    struct prefill_request **requests; /* of slot i */
    bool report_layers;
    /* out, in on_done */
    enum err err;
    uint64_t started_ns, ended_ns;
    /* private */
    struct mbox_msg msg;
    struct prefill_engine *owner;
    bool taken;
    uint32_t n_marks, layers_final;
    uint64_t marked_ns;
    struct prefill_mark marks[PREFILL_MARKS];
};

struct prefill_step_hooks {
    /* On the engine thread, before the step: what is too long for the loop thread. */
    void (*prepare)(struct prefill_step *s);
    void (*on_layers)(void *arg, struct prefill_step *s, uint32_t layers, uint64_t ready);
    void (*on_done)(void *arg, struct prefill_step *s);
};

MUST_USE enum err prefill_engine_start(struct engine *engine, struct uv_loop_s *loop,
                                       const struct prefill_step_hooks *hooks, void *arg,
                                       struct prefill_engine **out);
struct prefill_step *prefill_engine_take(struct prefill_engine *e); /* NULL: all are in use */
void prefill_engine_submit(struct prefill_engine *e, struct prefill_step *s);
void prefill_engine_give(struct prefill_engine *e, struct prefill_step *s);
/* Waits for the step that runs; hooks run for what is submitted.  Freed in a later loop turn. */
void prefill_engine_stop(struct prefill_engine *e);

#endif
