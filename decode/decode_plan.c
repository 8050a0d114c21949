/* decode/decode_plan.c - see the header. */
#include "decode/decode_plan.h"

#include "base/clock.h"
#include "base/mem.h"

/* What sequences without a target may wait for a piece of somebody's prompt. */
static const int64_t untimed_slack_ns = 100 * (int64_t)CLOCK_NS_PER_MS;
static const uint64_t poll_ns = CLOCK_NS_PER_MS;
/* As a step time: no stream catches up. */
static const double no_gain_ns = 1e18;

/* ---- the list ---- */

static enum err grow(struct decode_plan *p)
{
    uint32_t cap = p->cap > 0 ? p->cap * 2 : 64;
    void *runs, *items, *scratch;

    if (p->n < p->cap)
        return ERR_OK;
    if (cap > 65536)
        return ERR_NOMEM;
    runs = mem_try_realloc(p->runs, cap * sizeof(struct decode_run *));
    if (runs != NULL)
        p->runs = runs;
    items = mem_try_realloc(p->items, cap * sizeof(*p->items));
    if (items != NULL)
        p->items = items;
    scratch = mem_try_realloc(p->scratch, cap * sizeof(*p->scratch));
    if (scratch != NULL)
        p->scratch = scratch;
    if (runs == NULL || items == NULL || scratch == NULL)
        return ERR_NOMEM;
    p->cap = cap;
    return ERR_OK;
}

enum err decode_plan_add(struct decode_plan *p, struct decode_run *run)
{
    enum err err = grow(p);

    if (err != ERR_OK)
        return err;
    run->at = p->n;
    run->last_ns = run->turn_ns = run->asked_ns = clock_now_ns();
    p->runs[p->n++] = run;
    p->count[DECODE_RUN_OUT]++;
    decode_plan_set_state(p, run, run->entered_as);
    return ERR_OK;
}

void decode_plan_remove(struct decode_plan *p, struct decode_run *run)
{
    decode_plan_set_state(p, run, DECODE_RUN_OUT);
    p->count[DECODE_RUN_OUT]--;
    p->runs[run->at] = p->runs[--p->n];
    p->runs[run->at]->at = run->at;
}

void decode_plan_set_state(struct decode_plan *p, struct decode_run *run, enum decode_run_state to)
{
    if (to == DECODE_RUN_PROMPT && p->count[DECODE_RUN_PROMPT] == 0)
        p->prompt_ns = clock_now_ns();
    p->count[run->state]--;
    p->count[to]++;
    run->state = to;
}

void decode_plan_free(struct decode_plan *p)
{
    mem_free(p->runs);
    mem_free(p->items);
    mem_free(p->scratch);
}

/* ---- one run as the rules see it ---- */

uint32_t decode_plan_need(const struct decode_plan *p, const struct decode_run *run)
{
    uint32_t tokens = run->state == DECODE_RUN_RESIDENT || run->state == DECODE_RUN_PARKED
                          ? run->position + 1
                          : run->n_tokens;
    uint32_t blocks = (tokens + p->block_tokens - 1) / p->block_tokens;

    return blocks > run->n_blocks ? blocks - run->n_blocks : 0;
}

void decode_plan_note_length(struct decode_plan *p, uint32_t tokens)
{
    sched_pace_ended(&p->pace, tokens);
    p->mean_tokens += (tokens - p->mean_tokens) * (p->mean_tokens > 0 ? 0.02 : 1);
}

/* Tokens that follow for nine of ten streams. */
static double rest_tokens(const struct decode_plan *p)
{
    return p->mean_tokens > 0 ? 0.1 * p->mean_tokens : 10;
}

int64_t decode_plan_slack(const struct decode_plan *p, const struct decode_run *run, double step_ns,
                          uint64_t now)
{
    bool decodes = run->state == DECODE_RUN_RESIDENT || run->state == DECODE_RUN_PARKED;
    uint64_t next = run->n_tokens - run->n_prompt; /* index of the prompt's token */
    /* Until an ARRIVING run has joined, the loop may write this field. */
    uint64_t first_ns = run->state == DECODE_RUN_ARRIVING ? 0 : run->first_ns;

    if (!run->has_terms || run->tbt_ns == 0)
        return (int64_t)run->last_ns - (int64_t)now;
    if (decodes) {
        next = (uint64_t)run->index + 1;
    } else if (run->state == DECODE_RUN_WAITING) {
        /* Room is asked for when the first token is about two steps away. */
        first_ns = run->asked_ns + (uint64_t)(2 * step_ns);
        first_ns = first_ns > now ? first_ns : now;
        next++;
    } else if (!run->local) {
        next++; /* that one is sent by the prefill worker */
    }
    return sched_batch_slack((uint64_t)run->due_ns, next > 0 ? first_ns : 0, next, run->tbt_ns,
                             step_ns, rest_tokens(p), now);
}

/* Until everybody who decodes has one more token. */
static double step_ns_of(const struct decode_plan *p)
{
    double b = 0, ctx = 0;

    for (uint32_t i = 0; i < p->n; i++) {
        if (p->runs[i]->state == DECODE_RUN_RESIDENT) {
            b += 1;
            ctx += p->runs[i]->position;
        }
    }
    return b > 0 ? sched_batch_round_ns(&p->fit.decode, b, ctx, p->step_max) : 0;
}

static enum sched_batch_state state_of(const struct decode_run *run)
{
    switch (run->state) {
    case DECODE_RUN_RESIDENT:
        return SCHED_BATCH_RESIDENT;
    case DECODE_RUN_PARKED:
        return SCHED_BATCH_PARKED;
    case DECODE_RUN_WAITING:
        return SCHED_BATCH_WAITING;
    case DECODE_RUN_OUT:
    case DECODE_RUN_ARRIVING:
    case DECODE_RUN_PROMPT:
        break;
    }
    return SCHED_BATCH_ARRIVING;
}

static double pace_ns(const struct decode_plan *p, const struct decode_run *run, uint64_t now)
{
    if (run->state != DECODE_RUN_RESIDENT || !run->has_terms || run->first_ns == 0)
        return 0;
    return sched_pace_of(&p->pace, run->first_ns, (uint64_t)run->index + 1, run->tbt_ns, now);
}

static void describe(const struct decode_plan *p, const struct decode_run *run, double step_ns,
                     uint64_t now, struct sched_batch_item *item)
{
    bool decodes = run->state == DECODE_RUN_RESIDENT || run->state == DECODE_RUN_PARKED;

    *item = (struct sched_batch_item){.state = state_of(run),
                                      .tier = run->tier,
                                      .context = decodes ? run->position : run->n_tokens,
                                      .blocks = run->n_blocks,
                                      .need = decode_plan_need(p, run),
                                      .slack_ns = decode_plan_slack(p, run, step_ns, now),
                                      .pace_ns = pace_ns(p, run, now),
                                      .tbt_ns = run->has_terms ? run->tbt_ns : 0,
                                      .id = run->turn_ns};
}

static void describe_all(struct decode_plan *p, uint64_t now)
{
    double step_ns = step_ns_of(p);

    for (uint32_t i = 0; i < p->n; i++)
        describe(p, p->runs[i], step_ns, now, &p->items[i]);
}

/* ---- the step ---- */

static struct sched_batch_pool pool_of(const struct decode_plan *p, struct decode_pool *pool)
{
    struct sched_batch_pool s = {.free_blocks = decode_pool_count(pool, ENGINE_BLOCK_FREE),
                                 .max_batch = p->step_max,
                                 .park_ns_per_block = decode_pool_park_ns(pool),
                                 .park_room_blocks = decode_pool_park_room(pool),
                                 .decode = &p->fit.decode};

    if (p->count[DECODE_RUN_PROMPT] > 0 && s.max_batch > 1)
        s.max_batch--; /* a slot for a prompt */
    return s;
}

/* Does anybody need a shorter step than one with everybody? */
static bool hurried(const struct decode_plan *p, uint64_t now)
{
    double step_ns = step_ns_of(p);

    for (uint32_t i = 0; i < p->n; i++) {
        double pace = pace_ns(p, p->runs[i], now);

        if (pace > 0 && pace < step_ns)
            return true;
    }
    return false;
}

/* From sums alone: does everybody step, and nobody moves? */
static bool plain(const struct decode_plan *p, const struct sched_batch_pool *pool,
                  uint32_t *headroom)
{
    double context = 0;
    uint64_t tbt = 0;
    uint32_t growth = 0;

    for (uint32_t i = 0; i < p->n; i++) {
        const struct decode_run *run = p->runs[i];

        if (run->state != DECODE_RUN_RESIDENT)
            continue;
        context += run->position;
        growth += decode_plan_need(p, run);
        if (run->has_terms && run->tbt_ns > 0 && (tbt == 0 || run->tbt_ns < tbt))
            tbt = run->tbt_ns;
    }
    *headroom = growth;
    return sched_batch_plain(p->count[DECODE_RUN_RESIDENT], context, growth,
                             p->count[DECODE_RUN_WAITING] + p->count[DECODE_RUN_PARKED], tbt, pool);
}

void decode_plan_decide(struct decode_plan *p, struct decode_pool *pool, uint64_t now,
                        uint32_t *headroom)
{
    struct sched_batch_pool s = pool_of(p, pool);

    if (plain(p, &s, headroom) && !hurried(p, now)) {
        for (uint32_t i = 0; i < p->n; i++)
            p->runs[i]->what =
                p->runs[i]->state == DECODE_RUN_RESIDENT ? SCHED_DO_STEP : SCHED_DO_NOTHING;
        return;
    }
    describe_all(p, now);
    sched_batch_plan(p->items, p->n, &s, p->scratch);
    for (uint32_t i = 0; i < p->n; i++)
        p->runs[i]->what = p->items[i].what;
}

/* ---- prompts ---- */

/* Slack that is there, not what later steps would earn: while prompts fill the steps they earn none; and how long those
 * that are on their way can wait for the end of this step. */
static int64_t least_slack(const struct decode_plan *p, const struct sched_step *beside,
                           uint64_t now)
{
    double step = sched_law_decode(&p->fit.decode, beside->b + 1, beside->ctx);
    int64_t least = INT64_MAX;

    for (uint32_t i = 0; i < p->n; i++) {
        const struct decode_run *run = p->runs[i];
        int64_t slack = untimed_slack_ns;

        if (run->state == DECODE_RUN_WAITING || run->state == DECODE_RUN_ARRIVING)
            slack = sched_pace_before(&p->pace, run->has_terms ? run->tbt_ns : 0, step);
        else if (run->state != DECODE_RUN_RESIDENT)
            continue;
        else if (run->has_terms && run->tbt_ns > 0)
            slack = decode_plan_slack(p, run, no_gain_ns, now);
        if (slack <= 0) /* late already: a prompt that stands still for ever would not mend it */
            slack = (int64_t)run->tbt_ns / 2;
        if (slack < least)
            least = slack;
    }
    return least;
}

struct decode_run *decode_plan_prompt(struct decode_plan *p, const struct sched_step *beside,
                                      uint64_t now, uint32_t *chunk)
{
    struct decode_run *first = NULL;
    int64_t least = INT64_MAX;
    uint64_t every_ns;
    uint32_t left, turn;

    for (uint32_t i = 0; p->count[DECODE_RUN_PROMPT] > 0 && i < p->n; i++) {
        struct decode_run *run = p->runs[i];
        int64_t slack = decode_plan_slack(p, run, no_gain_ns, now);

        if (run->state != DECODE_RUN_PROMPT || run->what == SCHED_DO_STEP)
            continue;
        if (first == NULL || slack < least || (slack == least && run->turn_ns < first->turn_ns)) {
            first = run;
            least = slack;
        }
    }
    if (first == NULL)
        return NULL;
    left = first->n_tokens - first->done;
    *chunk = sched_batch_chunk(&p->fit.prefill, &p->fit.decode, beside->b, beside->ctx, first->done,
                               left, least_slack(p, beside, now), p->block_tokens);
    turn = sched_batch_turn(&p->fit.prefill, &p->fit.decode, first->done, left, p->block_tokens,
                            &every_ns);
    /* Where no resident can step, or those that come wait for their blocks, the prompts hold what they lack. */
    if (*chunk == 0 && ((beside->b <= 0 && (p->count[DECODE_RUN_RESIDENT] > 0 ||
                                            p->count[DECODE_RUN_ARRIVING] == 0)) ||
                        now >= p->prompt_ns + every_ns))
        *chunk = turn;
    return first;
}

/* ---- nobody moves ---- */

struct decode_run *decode_plan_victim(const struct decode_plan *p, struct decode_pool *pool,
                                      uint64_t now)
{
    uint32_t room = decode_pool_count(pool, ENGINE_BLOCK_FREE);
    struct decode_run *victim = NULL;

    for (uint32_t i = 0; i < p->n; i++) {
        struct decode_run *run = p->runs[i];

        if (run->state != DECODE_RUN_RESIDENT)
            continue;
        if (decode_plan_need(p, run) <= room)
            return NULL; /* it was left out of one step, no more */
        if (victim == NULL || run->tier > victim->tier ||
            (run->tier == victim->tier && decode_plan_slack(p, run, no_gain_ns, now) >
                                              decode_plan_slack(p, victim, no_gain_ns, now)))
            victim = run;
    }
    return victim;
}

uint64_t decode_plan_wait(struct decode_plan *p, struct decode_pool *pool)
{
    struct sched_batch_pool s = pool_of(p, pool);
    uint64_t now = clock_now_ns();
    int64_t wait;

    if (p->count[DECODE_RUN_RESIDENT] > 0 || p->count[DECODE_RUN_PROMPT] > 0)
        return poll_ns;
    if (p->count[DECODE_RUN_WAITING] + p->count[DECODE_RUN_PARKED] == 0)
        return UINT64_MAX;
    describe_all(p, now);
    wait = sched_batch_wake(p->items, p->n, &s);
    return wait < (int64_t)poll_ns ? poll_ns : (uint64_t)wait;
}
