/* decode/decode_batch.h - private: the continuous batch, on the engine thread of the role.
 *
 *   decode_batch_start -> decode_batch_join -> on_step ... -> (finished | decode_batch_leave -> on_left)
 *   -> decode_batch_stop
 *
 * The engine thread steps on its own as long as there is anything to step: it needs no permission.  Each
 * step's results travel to the loop thread in one of DECODE_RESULTS buffers, which come back when they have
 * been read; without a free one the thread waits, so a slow loop slows the steps instead of growing a
 * queue.  Sequences beyond what a step holds take turns.
 *
 * Thread: functions and hooks: loop.  A run belongs to the engine thread from join until its last result
 * (finished or failed) or on_left has been seen; params, blocks and known are read-only meanwhile. */
#ifndef DECODE_DECODE_BATCH_H
#define DECODE_DECODE_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mbox.h"
#include "engine/engine.h"
#include "engine/engine_params.h"

struct uv_loop_s;
struct decode_batch;

enum { DECODE_RESULTS = 4 };

/* One sequence in the batch. */
struct decode_run {
    /* set before join */
    const struct engine_params *params;
    const uint32_t *blocks;
    uint32_t n_blocks;
    const int32_t *known; /* tokens [0, n_known) for the penalties; NULL where none is on */
    uint32_t n_known, n_prompt;
    uint32_t max_new;
    int32_t token;     /* the latest token, not yet in the KV */
    uint32_t position; /* its position */
    uint32_t index;    /* its index among the generated ones */
    /* private */
    struct engine_history *history;
    struct decode_batch *batch;
    struct decode_run *next, *prev; /* in the batch */
    bool in_batch;
    struct mbox_msg join, leave;
};

struct decode_result {
    uint32_t n;
    struct engine_slot *slots;
    struct decode_run **runs;
    uint8_t
        *finish;  /* enum engine_finish per slot; such a run, and one whose slot failed, has left */
    enum err err; /* of the whole step; not OK: it was the last one */
    uint64_t started_ns, ended_ns;
    /* private */
    struct mbox_msg msg;
    struct decode_batch *batch;
    struct decode_result *next_free;
};

struct decode_batch_hooks {
    /* r ends with the call. */
    void (*on_step)(void *arg, const struct decode_result *r);
    void (*on_left)(void *arg, struct decode_run *run);
};

MUST_USE enum err decode_batch_start(struct engine *engine, struct uv_loop_s *loop,
                                     const struct decode_batch_hooks *hooks, void *arg,
                                     struct decode_batch **out);
void decode_batch_join(struct decode_batch *b, struct decode_run *run);
/* Leave after the step that runs: on_left comes, after every result that names the run. */
void decode_batch_leave(struct decode_batch *b, struct decode_run *run);
/* When nothing of the run is with the engine thread: frees what the batch kept of it. */
void decode_run_clear(struct decode_run *run);
/* Waits for the step that runs; hooks run for what is posted.  Freed in a later loop turn. */
void decode_batch_stop(struct decode_batch *b);

#endif
