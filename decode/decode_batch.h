/* decode/decode_batch.h - private: the engine thread of the role, which plans and takes every step: who gets room,
 * who steps, who is parked and who comes back (scheduler/sched_batch.h), and how much of a prompt is
 * computed beside the batch.
 *
 *   decode_batch_start -> decode_batch_enter -> [on_room] -> [decode_batch_join] -> on_step ...
 *   -> (finished | on_gone | decode_batch_leave -> on_left) -> decode_batch_stop
 *
 * The engine thread goes on by itself as long as there is anything to step: it needs no permission.  Each
 * step's results travel to the loop thread in one of DECODE_RESULTS buffers, which come back when they have
 * been read; without a free one the thread waits, so a slow loop slows the steps instead of growing a
 * queue.
 *
 * Nobody waits here for ever: one that asks for room is taken out by the loop at its deadline; one that is
 * parked or stands still for want of a block gets its turn by plan, or is given up when nobody can move at all.
 *
 * Thread: functions and hooks: loop.  A run belongs to the engine thread from enter until its last result
 * (finished or failed) or on_left has been seen; params and known are read-only meanwhile, and so is
 * blocks while it is ARRIVING. */
#ifndef DECODE_DECODE_BATCH_H
#define DECODE_DECODE_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mbox.h"
#include "decode/decode_pool.h"
#include "engine/engine.h"
#include "engine/engine_params.h"
#include "scheduler/sched_batch.h"

struct uv_loop_s;
struct decode_batch;

enum { DECODE_RESULTS = 4 };

enum decode_run_state {
    DECODE_RUN_OUT = 0,  /* not with the engine thread */
    DECODE_RUN_WAITING,  /* for its blocks */
    DECODE_RUN_ARRIVING, /* has them; for the hand-over */
    DECODE_RUN_PROMPT,   /* has them; its prompt is being computed here */
    DECODE_RUN_RESIDENT, /* decodes */
    DECODE_RUN_PARKED    /* its KV is in the park memory */
};

/* One sequence. */
struct decode_run {
    /* set before enter */
    const struct engine_params *params;
    uint32_t *blocks;     /* room for all it can ever need; places while it is PARKED */
    const int32_t *known; /* tokens [0, n_tokens): for the penalties, and to compute; else NULL */
    uint32_t n_tokens, n_prompt, max_new;
    bool local;     /* the prompt is computed here */
    bool has_terms; /* of these three: */
    int64_t due_ns; /* of the first token, by clock_now_ns */
    uint64_t tbt_ns;
    uint32_t tier;
    /* set before join, or by the prompt's last step */
    int32_t token;     /* the latest token, not yet in the KV */
    uint32_t position; /* its position */
    uint32_t index;    /* its index among the generated ones */
    uint64_t first_ns; /* when the first of all left; 0: not yet, or nobody here knows */
    /* the engine thread's; 0 at first, n_blocks as entered */
    uint32_t n_blocks; /* of the pool */
    uint32_t n_parked;
    uint32_t done;   /* of the prompt */
    enum err gone;   /* in on_gone: why */
    const char *why; /* in on_gone */
    /* private */
    enum decode_run_state state, entered_as;
    struct decode_batch *batch;
    struct engine_history *history;
    enum sched_batch_do what;
    uint32_t at;       /* in the list */
    uint64_t asked_ns; /* when it came */
    uint64_t last_ns;  /* of its latest token, or when it came */
    uint64_t turn_ns;  /* the same before that: ties go to who waited longer then */
    struct mbox_msg enter, join, leave, room, out;
};

struct decode_result {
    uint32_t n;
    struct engine_slot *slots; /* below n_tokens of its run: a piece of the prompt */
    struct decode_run **runs;
    uint8_t
        *finish;  /* enum engine_finish per slot; such a run, and one whose slot failed, has left */
    enum err err; /* of the whole step; not OK: it was the last one */
    uint64_t started_ns, ended_ns;
    uint64_t
        pace_ns; /* what a stream waited for it: from the end of the step before, if that was just before */
    struct sched_step did;
    /* private */
    struct mbox_msg msg;
    struct decode_batch *batch;
    struct decode_result *next_free;
};

struct decode_batch_hooks {
    /* A WAITING run has its blocks; it is ARRIVING now, or PROMPT if it is local. */
    void (*on_room)(void *arg, struct decode_run *run);
    /* r ends with the call. */
    void (*on_step)(void *arg, const struct decode_result *r);
    /* The run was given up and steps no more; it still has to be told to leave. */
    void (*on_gone)(void *arg, struct decode_run *run);
    void (*on_left)(void *arg, struct decode_run *run);
};

/* pool outlives the batch. */
MUST_USE enum err decode_batch_start(struct engine *engine, struct decode_pool *pool,
                                     struct uv_loop_s *loop, const struct decode_batch_hooks *hooks,
                                     void *arg, struct decode_batch **out);
/* as: WAITING, or with blocks already taken ARRIVING or PROMPT.  A waiting one gets them in state GRANTED,
 * a local one OWNED. */
void decode_batch_enter(struct decode_batch *b, struct decode_run *run, enum decode_run_state as);
/* The hand-over of an ARRIVING run is verified: it decodes from now on. */
void decode_batch_join(struct decode_batch *b, struct decode_run *run);
/* Leave after the step that runs: on_left comes, after every other hook that names the run; its park
 * memory is free then. */
void decode_batch_leave(struct decode_batch *b, struct decode_run *run);
/* Blocks got free. */
void decode_batch_poke(struct decode_batch *b);
/* When nothing of the run is with the engine thread: frees what the batch kept of it. */
void decode_run_clear(struct decode_run *run);
/* Waits for the step that runs; hooks run for what is posted.  Freed in a later loop turn. */
void decode_batch_stop(struct decode_batch *b);

#endif
