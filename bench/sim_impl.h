/* bench/sim_impl.h - private to bench/sim_*.c: the world of one run.
 *
 * A request lives in a slot as long as its client waits or a worker holds something of it.  It is on at most one
 * prefill and one decode worker at a time; each side has its own epoch.  Handlers never call the scheduler:
 * they queue events with sim_say(), and the loop feeds them, so nothing is re-entered.
 *
 * A resident of a decode worker is counted by the steps of the worker: what it has done is the difference between
 * two step counts, so that a step costs the same for one resident as for a thousand.  Only when somebody is
 * skipped, parked or leaves is its `segment` closed and the difference written down. */
#ifndef BENCH_SIM_IMPL_H
#define BENCH_SIM_IMPL_H

#include "base/buf.h"
#include "bench/sim_engine.h"
#include "bench/sim_heap.h"
#include "scheduler/sched_batch.h"
#include "scheduler/sched_pace.h"

enum { SIM_TBTS = SCHED_TIERS_MAX, SIM_BLOCK_MAX = 1024 };
#define SIM_NONE UINT32_MAX
#define SIM_NEVER UINT64_MAX
#define SIM_MS ((uint64_t)1000000)

enum sim_p_state {
    SIM_P_NONE = 0,
    SIM_P_FETCH, /* cached prefix on its way */
    SIM_P_READY, /* in the queue, or in the running step */
    SIM_P_GRANT, /* computed; waits for the decode worker's blocks */
    SIM_P_LINK,  /* waits for the network cards */
    SIM_P_SEND
};
enum sim_d_state {
    SIM_D_NONE = 0,
    SIM_D_WAITING,
    SIM_D_ARRIVING, /* has its blocks; KV on its way, or back from the park memory */
    SIM_D_LOCAL,    /* has its blocks and computes its prompt */
    SIM_D_RESIDENT,
    SIM_D_PARKED
};

struct sim_req {
    uint64_t id; /* 0: the slot is free */
    uint64_t arrived_ns, deadline_ns, tbt_ns;
    uint64_t ask_ttft_ns, ask_tbt_ns; /* of the tier that was asked for */
    uint32_t n_prompt, n_out, n_hit, tier, tenant;
    bool over, measured, admitted, late_told;
    enum sched_reason reason; /* why it was not served */
    uint32_t epoch;
    uint32_t n0; /* tokens the client has, up to the start of the segment */
    uint64_t first_ns, last_ns;
    int64_t late_ns;
    uint64_t gap_ns;
    /* prefill side */
    enum sim_p_state p_state;
    uint32_t p_worker, p_epoch, p_gen, p_total, p_past, p_done, p_blocks;
    uint64_t p_order, p_given_ns, p_start_ns, p_end_ns;
    uint32_t tx_prev, tx_next, rx_prev, rx_next; /* SIM_P_LINK: on both cards' lists */
    uint32_t transfer_class;
    uint64_t link_seq, sent_ns; /* SIM_P_SEND: when its last byte is there */
    double wire_ns, exposed_ns; /* exposed: of what is left */
    /* decode side */
    enum sim_d_state d_state;
    uint32_t d_worker, d_epoch, d_gen, d_index, d_blocks, d_tier;
    bool d_local, d_fresh; /* fresh: no token in this segment yet */
    bool d_skipped;        /* by a step since the last report */
    uint64_t d_asked_ns, d_granted_ns, d_deadline_ns, d_tbt_ns;
    /* segment of a resident */
    uint64_t join; /* step count; its steps are those after it */
    uint32_t c0;   /* KV at the start */
    uint32_t phase, group;
};

struct sim_part {
    uint32_t slot, gen, take;
};

/* Residents with one tbt. */
struct sim_tbt {
    uint64_t tbt_ns;
    uint32_t count;
    struct sim_heap theta;  /* late once end of step - steps * tbt exceeds it */
    struct sim_heap late;   /* the same of those that were late once */
    struct sim_heap mean;   /* the same, for the mean time between tokens */
    struct sim_peak peak;   /* of end of step - steps * tbt */
    struct sim_part *young; /* their first tokens; some may be older, or gone */
    uint32_t n_young, cap_young;
};

struct sim_list {
    uint32_t first, last;
};

struct sim_worker {
    uint32_t id, klass, gen; /* gen: of its events */
    enum sched_role role;
    bool alive, busy, draining;
    double factor; /* on the time of steps */
    struct bench_rng rng;
    uint32_t n_blocks, free_blocks, block_tokens;
    struct sched_step did;
    double step_ns, busy_ns;
    uint64_t steps, last_end_ns, joined_ns;
    uint32_t tx_slot, rx_slot; /* of the request on its network cards; SIM_NONE */
    struct sim_list tx, rx;
    /* prefill; on a decode worker, prompts of its own */
    struct sim_heap ready;
    struct sim_part *part; /* of the running step */
    uint32_t n_part, cap_part;
    uint64_t prompt_ns; /* decode: when a prompt of its own last got a chunk */
    uint32_t n_prompts;
    uint64_t prompt_tokens;
    /* decode */
    uint32_t *member;   /* slots of all that it holds */
    uint32_t n_skipped; /* streams, since the last report */
    uint32_t n_member, cap_member;
    uint32_t n_res, n_step, n_wait, n_parked, n_arriving;
    uint64_t ctx; /* of residents, by the last step */
    uint32_t phase[SIM_BLOCK_MAX];
    struct sim_tbt tbt[SIM_TBTS];
    uint32_t n_tbt;
    struct sim_peak gaps;
    struct sim_heap finish;
    struct sched_pace pace;
    double mean_tokens;      /* of those that ended here, decayed; 0: none yet */
    struct sim_part *joiner; /* residents without a token in their segment */
    uint32_t n_joiner, cap_joiner;
    bool changed; /* since the last plan */
    uint64_t plan_wake_ns, plan_due_ns;
    uint32_t plan_free;
};

struct sim_line {
    uint64_t request;
    size_t end; /* of its text */
};

enum sim_event {
    SIM_EV_PREFILL = 1, /* step of worker `arg` ends */
    SIM_EV_DECODE,
    SIM_EV_FETCHED, /* request slot */
    SIM_EV_SENT,
    SIM_EV_RESUMED, /* back from the park memory */
    SIM_EV_REPORT,
    SIM_EV_DELAYED, /* a report that is late */
    SIM_EV_FAULT,
    SIM_EV_UNFAULT,
    SIM_EV_FLIPPED,
    SIM_EV_PLAN
};
struct sim_due {
    uint64_t at, seq;
    uint32_t kind, arg, gen;
};

struct sim {
    const struct bench_sim_setup *setup;
    const struct bench_cluster *cluster;
    struct bench_run *run;
    struct bench_sim_result *result;
    struct err_msg *msg;
    struct sched *sched;
    struct sched_actions act;
    enum err err; /* the first thing that went wrong */
    uint64_t now, seq;
    size_t next_arrival;
    uint32_t max_new, live;
    struct sim_due *due;
    uint32_t n_due, cap_due;
    struct sched_event *say, unsaid; /* unsaid: where there is no memory */
    uint32_t say_head, n_say, cap_say;
    struct sched_event *late; /* delayed reports */
    uint32_t n_late, cap_late;
    uint32_t *late_free, n_late_free;
    struct sim_req *req;
    uint32_t n_req, cap_req, *req_free, n_req_free;
    struct sim_worker *worker; /* by id, from 1 */
    uint32_t n_workers;
    struct sched_batch_item *item;
    uint32_t *scratch, cap_item;
    uint64_t serial, link_seq;
    uint64_t worked_ns; /* end of the last step; what comes later is waiting alone */
    double there_ns[3]; /* of workers that have left, by role */
    struct buf lines;   /* of records that wait for the scheduler's part */
    struct sim_line *line;
    uint32_t n_line, cap_line;
    uint64_t record;                      /* of the scheduler's, the next to read */
    uint64_t missed[SCHED_TIERS_MAX + 1]; /* measured requests; last: all */
    uint32_t class_id[SCHED_CLASSES_MAX]; /* as the scheduler numbers them */
};

/* ---- sim_engine.c ---- */

void sim_fail(struct sim *m, enum err err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void sim_at(struct sim *m, uint64_t at, enum sim_event kind, uint32_t arg, uint32_t gen);
/* One more event for the scheduler, all else 0: the caller fills it in at once, where it lies.  (A copy of what was just
 * written in other pieces waits for all of them.) */
struct sched_event *sim_say(struct sim *m, enum sched_event_kind kind, uint64_t request,
                            uint32_t worker, uint32_t epoch);
void sim_say_released(struct sim *m, const struct sim_req *r, uint32_t worker, uint32_t epoch,
                      enum err err);
struct sim_req *sim_find(struct sim *m, uint64_t id); /* NULL: gone */
static inline uint32_t sim_slot(const struct sim *m, const struct sim_req *r)
{
    return (uint32_t)(r - m->req);
}
/* The client has its last token. */
void sim_finish(struct sim *m, struct sim_req *r);
/* The client has its end: count it.  The slot goes when no worker holds anything. */
void sim_over(struct sim *m, struct sim_req *r, enum bench_fate fate, uint64_t retry_after_ns);
void sim_settle(struct sim *m, struct sim_req *r);
/* Time of a step: the law, the worker's factor, noise. */
double sim_step_time(struct sim *m, struct sim_worker *w, const struct sched_step *did);
void sim_say_progress(struct sim *m, const struct sim_worker *w, const struct sim_req *r,
                      uint32_t epoch, uint32_t tokens);
void sim_say_step(struct sim *m, const struct sim_worker *w);
void sim_say_tokens(struct sim *m, const struct sim_req *r);
uint32_t sim_delivered(struct sim *m,
                       const struct sim_req *r); /* what the client has, to the token */
static inline const struct bench_sim_class *sim_class(const struct sim *m,
                                                      const struct sim_worker *w)
{
    return &m->cluster->klass[w->klass];
}
static inline uint32_t sim_blocks(const struct sim_worker *w, uint64_t tokens)
{
    return (uint32_t)((tokens + w->block_tokens - 1) / w->block_tokens);
}
bool sim_grow(struct sim *m, void **p, uint32_t need, uint32_t *cap, size_t size);

/* ---- sim_record.c ---- */

/* With setup->records: the request's line, written once the events of the moment are done. */
void sim_record_over(struct sim *m, const struct sim_req *r, uint64_t number,
                     const struct bench_outcome *o);
void sim_record_write(struct sim *m);

/* ---- sim_prefill.c ---- */

void sim_prefill_command(struct sim *m, struct sim_worker *w, struct sim_req *r,
                         const struct sched_action *a);
/* Brings what is cached, then queues the prompt on the worker that computes it. */
void sim_prefill_fetch(struct sim *m, struct sim_worker *w, struct sim_req *r);
void sim_prefill_fetched(struct sim *m, struct sim_req *r);
void sim_prefill_end(struct sim *m, struct sim_worker *w);
/* The prompt is done: first token; says PREFILL_DONE. */
void sim_prefill_first_token(struct sim *m, struct sim_worker *w, struct sim_req *r);
/* Gives up what the prefill side holds; no message. */
void sim_prefill_drop(struct sim *m, struct sim_req *r);

/* ---- sim_link.c ---- */

void sim_link_ready(struct sim *m, struct sim_req *r); /* prompt computed, blocks granted */
void sim_link_sent(struct sim *m, struct sim_req *r);
void sim_link_drop(struct sim *m, struct sim_req *r); /* SIM_P_LINK or SIM_P_SEND */

/* ---- sim_decode.c: the worker; sim_batch.c: its residents ---- */

void sim_decode_reserve(struct sim *m, struct sim_worker *w, struct sim_req *r,
                        const struct sched_action *a, bool local);
void sim_decode_arrived(struct sim *m, struct sim_req *r); /* KV is here */
void sim_decode_resumed(struct sim *m, struct sim_req *r);
void sim_decode_start(struct sim *m, struct sim_worker *w);
void sim_decode_end(struct sim *m, struct sim_worker *w);
void sim_decode_drop(struct sim *m, struct sim_req *r);

uint32_t sim_batch_done(const struct sim_worker *w, const struct sim_req *r); /* in the segment */
bool sim_batch_open(struct sim *m, struct sim_worker *w, struct sim_req *r);
void sim_batch_close(struct sim *m, struct sim_worker *w, struct sim_req *r);
int64_t sim_batch_slack(struct sim *m, struct sim_worker *w, double step_ns); /* least of all */
bool sim_batch_hurried(struct sim *m, struct sim_worker *w, double step_ns); /* by anybody's pace */
double sim_batch_rest(const struct sim_worker *w); /* tokens that a stream here has yet to come */
uint64_t sim_batch_tightest(const struct sim_worker *w);
/* Everything that the end of one step means for the residents that stepped. */
void sim_batch_stepped(struct sim *m, struct sim_worker *w, uint64_t before_ns);
/* The step that starts now gives its first token of the segment to whoever has none. */
void sim_batch_joined(struct sim *m, struct sim_worker *w, uint64_t end_ns);

/* ---- sim_world.c ---- */

MUST_USE enum err sim_add_classes(struct sim *m);
MUST_USE enum err sim_add_workers(struct sim *m);
void sim_worker_join(struct sim *m, struct sim_worker *w);
void sim_worker_leave(struct sim *m, struct sim_worker *w);
void sim_worker_clear(struct sim_worker *w);
void sim_worker_report(struct sim *m, struct sim_worker *w);
void sim_worker_delayed(struct sim *m, uint32_t i, uint32_t gen);
void sim_worker_fault(struct sim *m, const struct bench_sim_fault *f, bool begins);

#endif
