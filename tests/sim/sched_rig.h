/* tests/sim/sched_rig.h - one scheduler on a hand-moved clock: events in one line, actions to look at,
 * sched_check() after each of them. */
#ifndef TESTS_SIM_SCHED_RIG_H
#define TESTS_SIM_SCHED_RIG_H

#include "scheduler/sched.h"
#include "scheduler/sched_view.h"

#define RIG_MS ((uint64_t)1000000)

struct rig {
    struct sched_config cfg;
    struct sched *s;
    struct sched_actions act; /* of the last event */
    uint64_t now;
};

/* The defaults with the policy "distserve": first come first served, no timer of its own. */
void rig_config(struct sched_config *cfg);
/* Each ends the test that runs when something is wrong. */
void rig_open(struct rig *r, const struct sched_config *cfg); /* NULL: rig_config */
void rig_close(struct rig *r);
void rig_apply(struct rig *r, const struct sched_event *e);

void rig_join(struct rig *r, uint32_t id, enum sched_role role, uint32_t n_blocks,
              uint32_t max_batch);
/* 1000 blocks of 16 tokens, a context of 16384, of that class. */
void rig_join_can(struct rig *r, uint32_t id, enum sched_role role, uint32_t klass,
                  bool can_prefill);
void rig_leave(struct rig *r, uint32_t id);
void rig_drain(struct rig *r, uint32_t id);
void rig_arrive(struct rig *r, uint64_t id, uint32_t tier, uint32_t n_prompt, uint32_t max_new);
void rig_cancel(struct rig *r, uint64_t id);
void rig_finish(struct rig *r, uint64_t id);
void rig_tokens(struct rig *r, uint64_t id, uint32_t delivered);
void rig_granted(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, bool ok);
void rig_progress(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, uint32_t done);
void rig_prefilled(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, bool finished);
void rig_handover(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, bool from_decode,
                  enum err err);
void rig_released(struct rig *r, uint64_t id, uint32_t epoch, uint32_t worker, enum err err);
void rig_timer(struct rig *r, uint64_t at_ns); /* moves the clock there */

/* Actions of the last event, by kind: how many, and the first (NULL: none). */
size_t rig_count(const struct rig *r, enum sched_action_kind kind);
const struct sched_action *rig_find(const struct rig *r, enum sched_action_kind kind);
/* Was worker told to drop (request, epoch)? */
bool rig_told(const struct rig *r, uint32_t worker, uint64_t request, uint32_t epoch);
/* 0: no such live request. */
int rig_state(const struct rig *r, uint64_t id);
uint32_t rig_epoch(const struct rig *r, uint64_t id);
uint32_t rig_prefill_of(const struct rig *r, uint64_t id);
uint32_t rig_decode_of(const struct rig *r, uint64_t id);
struct sched_worker_view rig_worker(const struct rig *r, uint32_t id);
struct sched_stats rig_stats(const struct rig *r);

#endif
