/* scheduler/sched_batch.h - what a decode worker does next with the requests it holds: who steps, who is
 * skipped because its reader has tokens in hand, whose KV is parked to make room, who comes back, which hand-over
 * gets its blocks, and how many prompt tokens fit beside the batch.
 *
 * Pure functions: the decode role and the simulator's model of it call the same ones.
 *
 * Order of urgency: an item in danger (its next token would come after its deadline if it waited for one more
 * step, or it has to have shorter steps than a full one) before one that is not; then slack.  A request may displace only requests of a looser tier, or of its
 * own tier with more slack than both the move out and back cost; so nobody is parked and brought back in
 * turns.  Source: Andes (arXiv 2404.16283) for slack, scheduling by tier for who may displace whom.
 *
 * Thread: any; no state.  Units: ns, tokens, blocks. */
#ifndef SCHEDULER_SCHED_BATCH_H
#define SCHEDULER_SCHED_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/sched_law.h"

enum sched_batch_state {
    SCHED_BATCH_RESIDENT = 1, /* its KV is in the pool; it can step */
    SCHED_BATCH_PARKED,       /* its KV is in the park memory */
    SCHED_BATCH_WAITING,      /* a hand-over that asks for its blocks */
    SCHED_BATCH_ARRIVING      /* has its blocks, KV not yet here: holds room, cannot move */
};
enum sched_batch_do {
    SCHED_DO_NOTHING = 0, /* keep it as it is; a resident: skip this step */
    SCHED_DO_STEP,
    SCHED_DO_PARK,
    SCHED_DO_RESUME, /* bring it back, then it steps in a later plan */
    SCHED_DO_GRANT   /* give the waiting hand-over its blocks */
};

struct sched_batch_item {
    /* in */
    enum sched_batch_state state;
    uint32_t tier;
    uint32_t context; /* tokens of KV it has or will have on arrival */
    uint32_t blocks;  /* in the pool now: 0 when PARKED or WAITING */
    uint32_t need;    /* more blocks for its next step, to come back, or to be granted */
    int64_t slack_ns; /* deadline of its next token - now; PARKED and WAITING too */
    double pace_ns;   /* longest step that a RESIDENT can have (sched_pace_of); 0: any */
    uint64_t tbt_ns;
    uint64_t id; /* ties */
    /* out */
    enum sched_batch_do what;
};

struct sched_batch_pool {
    uint32_t free_blocks;
    uint32_t max_batch;        /* most in one step */
    uint32_t max_resident;     /* most RESIDENT + ARRIVING at a time; 0: no limit but blocks */
    double park_ns_per_block;  /* one way */
    uint64_t park_room_blocks; /* what the park memory can still take */
    const struct sched_law
        *decode; /* present law of this worker; all zero: unknown, nobody is skipped */
};

/* Fills `what` of all items.  O(n log n); n up to 65536.  scratch: n uint32_t of the caller's.
 * After it: blocks taken by STEP, RESUME and GRANT never exceed free_blocks plus those freed by PARK; steps never
 * exceed max_batch; RESUME and GRANT leave room for every holder of KV to grow by one block, and never exceed
 * max_resident.  Nobody steps although there are residents: the pool is too small for a single one of
 * them (or ARRIVING ones hold it), or nobody can be parked: the caller has to give one up. */
void sched_batch_plan(struct sched_batch_item *v, uint32_t n, const struct sched_batch_pool *pool,
                      uint32_t *scratch);

/* Would the plan be "everybody steps, nothing else"?  Cheap test from sums, so that the common step costs O(1):
 * no item PARKED or WAITING, growth of one step fits, iteration time within the tightest tbt. */
bool sched_batch_plain(uint32_t residents, double context, uint32_t growth_blocks,
                       uint32_t not_resident, uint64_t min_tbt_ns,
                       const struct sched_batch_pool *pool);

/* For callers whose steps are many: after a plan that left PARKED or WAITING ones where they are, it need not be
 * asked again about them (sched_batch_plain with not_resident 0 decides) until one of these happens: an
 * item came or left, free_blocks rose above what that plan left, or so many ns passed.  INT64_MAX: no such
 * items.  O(n). */
int64_t sched_batch_wake(const struct sched_batch_item *v, uint32_t n,
                         const struct sched_batch_pool *pool);

/* Until each of b sequences with ctx tokens has one more: they take turns where a step has not slots for all of them. */
static inline double sched_batch_round_ns(const struct sched_law *decode, double b, double ctx,
                                          uint32_t max_batch)
{
    double part = max_batch > 0 && b > max_batch ? max_batch / b : 1;

    return sched_law_decode(decode, part * b, part * ctx) / part;
}

/* Slack of a stream, for item.slack_ns: its next token, the k-th after the first, may come so much later that it
 * keeps its line (due_ns + k tbt_ns) and the mean time between its tokens is within tbt_ns when it ends.  A stream
 * that is behind its mean can catch up while its steps come faster than every tbt_ns (step_ns: sched_batch_round_ns), if rest_tokens still follow: a
 * caller that does not know gives a tenth of the mean length, which nine of ten streams have left at any
 * time.  first_ns: when its first token left; 0: not yet. */
static inline int64_t sched_batch_slack(uint64_t due_ns, uint64_t first_ns, uint64_t k,
                                        uint64_t tbt_ns, double step_ns, double rest_tokens,
                                        uint64_t now_ns)
{
    int64_t line = (int64_t)(due_ns + k * tbt_ns) - (int64_t)now_ns;
    double gain = (double)tbt_ns - step_ns;
    int64_t mean;

    if (first_ns == 0)
        return line;
    mean = (int64_t)(first_ns + k * tbt_ns) - (int64_t)now_ns;
    if (gain > 0)
        mean += (int64_t)(gain * rest_tokens);
    return mean < line ? mean : line;
}

/* Prompt tokens that may be computed in the next step beside a batch of b with ctx tokens so that nobody
 * with slack min_slack_ns or more (INT64_MAX: there is nobody) gets late: all of `want`, or a multiple of block_tokens; 0: none now.  While
 * the least slack is below two decode steps only chunks that are worth their fixed cost are given. */
uint32_t sched_batch_chunk(const struct sched_law *prefill, const struct sched_law *decode,
                           double b, double ctx, uint32_t past, uint32_t want, int64_t min_slack_ns,
                           uint32_t block_tokens);

/* For a prompt that sched_batch_chunk gives nothing, so that a batch without slack does not stop it for ever: how
 * much it gets, once *every_ns have passed since a prompt got something.  Whole pieces, since short ones cost nearly
 * as much, and so seldom that the batch gets slower by a fiftieth at most, where that is 2 s or less. */
uint32_t sched_batch_turn(const struct sched_law *prefill, const struct sched_law *decode,
                          uint32_t past, uint32_t want, uint32_t block_tokens, uint64_t *every_ns);

#endif
