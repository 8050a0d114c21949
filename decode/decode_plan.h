/* decode/decode_plan.h - private: what the next step holds, decided over all runs.  The rules are those of
 * scheduler/sched_batch.h; here the runs are described to them, and the prompt pieces are cut.
 *
 * Thread: the engine's. */
#ifndef DECODE_DECODE_PLAN_H
#define DECODE_DECODE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "decode/decode_batch.h"
#include "decode/decode_fit.h"
#include "scheduler/sched_pace.h"

/* All zero is empty. */
struct decode_plan {
    struct decode_run **runs; /* all that are with the engine thread, in no order */
    uint32_t n;
    uint32_t count[DECODE_RUN_PARKED + 1]; /* by state */
    struct decode_fit fit;
    uint32_t block_tokens;
    uint32_t step_max, step_tokens; /* slots and tokens of one step */
    double mean_tokens;             /* of the sequences that ended here; 0: none did */
    struct sched_pace pace;         /* their lengths */
    /* private */
    uint32_t cap;
    struct sched_batch_item *items;
    uint32_t *scratch;
    uint64_t prompt_ns; /* when a piece of a prompt was computed last, or the first one came */
};

MUST_USE enum err decode_plan_add(struct decode_plan *p, struct decode_run *run); /* ERR_NOMEM */
void decode_plan_remove(struct decode_plan *p, struct decode_run *run);
void decode_plan_set_state(struct decode_plan *p, struct decode_run *run, enum decode_run_state to);
void decode_plan_free(struct decode_plan *p);

/* Blocks that the run lacks: for its next step, to come back, or to begin. */
uint32_t decode_plan_need(const struct decode_plan *p, const struct decode_run *run);
/* How much later than now its next token may come, when steps take step_ns (sched_batch_slack); one without a target
 * wants it at once. */
int64_t decode_plan_slack(const struct decode_plan *p, const struct decode_run *run, double step_ns,
                          uint64_t now);
/* A sequence ended that had so many. */
void decode_plan_note_length(struct decode_plan *p, uint32_t tokens);

/* Sets run->what of all.  headroom: blocks that all residents together may need for one step. */
void decode_plan_decide(struct decode_plan *p, struct decode_pool *pool, uint64_t now,
                        uint32_t *headroom);
/* The prompt to compute next, NULL if there is none, and how much of it beside `b` sequences with ctx
 * tokens; 0: not now. */
struct decode_run *decode_plan_prompt(struct decode_plan *p, const struct sched_step *beside,
                                      uint64_t now, uint32_t *chunk);
/* When nobody could move: the one to give up, so that the others can; NULL: somebody will move by itself. */
struct decode_run *decode_plan_victim(const struct decode_plan *p, struct decode_pool *pool,
                                      uint64_t now);
/* How long nothing needs to be looked at again if nothing happens. */
uint64_t decode_plan_wait(struct decode_plan *p, struct decode_pool *pool);

#endif
