/* engine/sim/engine_sim.c - the sim backend: no weights, tokens by hash, time by sleeping.
 *
 * What is verified when.  The engine notes for each block of the pool up to which position, with which
 * state and behind which other blocks it left it.  A slot that goes on from such a note is known, and
 * then one block of it is checked in every step, in turn (all with verify_all), so that foreign writes
 * into a running sequence show too.  Any other slot, a hand-over above all, is checked whole before it
 * runs. */
#include "engine/sim/engine_sim.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_backend.h"
#include "engine/engine_model.h"
#include "engine/sim/engine_sim_kv.h"
#include "engine/sim/engine_sim_profile.h"

enum {
    VOCAB_DEFAULT = 32000,
    CONTEXT_DEFAULT = 32768,
    GUARD_LARGE = 300, /* byte and special tokens below are not generated */
    GUARD_SMALL = 3,
    LARGE_VOCAB = 600,
    LOAD_SLICES = 20,
    TIMER_SLACK_NS = 1000,
    FOLLOWS_NS = 1000000, /* a step that begins so soon behind another was there in time */
    MADE_UP =
        16 /* so much of its time, as a divisor, may a step be shorter for what the last ones were late */
};

/* How the engine left a block: the last position of it that it wrote or checked. */
struct note {
    uint64_t state;
    uint64_t list; /* hash of the block list up to and including this block */
    uint32_t end;  /* positions of the sequence up to and including this block; 0: never seen */
};

struct sim_engine {
    struct engine base; /* first: see engine_backend.h */
    struct engine_sim_profile profile;
    struct engine_sim_range range;
    int32_t eos; /* -1: none known */
    struct sim_kv kv;
    struct note *notes;       /* [kv_blocks] */
    struct sim_run *runs;     /* [max_batch] of this step */
    uint64_t *states, *links; /* [max_step_tokens] of this step */
    uint64_t steps;
    uint64_t due_ns,
        returned_ns; /* end of the last step: as modelled, and when the caller had it */
    bool slack_set;
};

struct engine_sim_range engine_sim_range(uint32_t vocab, const int32_t *special, uint32_t n_special)
{
    uint32_t first = vocab > LARGE_VOCAB ? GUARD_LARGE : GUARD_SMALL, end = vocab;

    for (uint32_t i = 0; i < n_special; i++) {
        if (special[i] >= 0 && (uint32_t)special[i] > vocab / 2 && (uint32_t)special[i] < end)
            end = (uint32_t)special[i];
    }
    return (struct engine_sim_range){first, end - first};
}

/* ---- opening ----------------------------------------------------------------------------------- */

/* config.json if there is one: vocabulary, context, special ids. */
static enum err read_model(struct sim_engine *s, const char *dir, int32_t *special,
                           uint32_t *n_special, struct err_msg *msg)
{
    struct engine_model_config model;
    enum err err;

    s->base.info.vocab = VOCAB_DEFAULT;
    s->base.info.max_context = CONTEXT_DEFAULT;
    s->eos = -1;
    *n_special = 0;
    if (dir == NULL)
        return ERR_OK;
    err = engine_model_read_config(dir, &model, msg);
    if (err == ERR_NOT_FOUND)
        return ERR_OK;
    if (err != ERR_OK)
        return err;
    s->base.info.vocab = model.vocab;
    s->base.info.max_context = model.max_positions;
    for (uint32_t i = 0; i < model.n_eos; i++)
        special[(*n_special)++] = model.eos[i];
    if (model.n_eos > 0)
        s->eos = model.eos[0];
    special[(*n_special)++] = model.bos;
    return ERR_OK;
}

static void sleep_until(uint64_t at_ns)
{
    struct timespec t = {(time_t)(at_ns / CLOCK_NS_PER_S), (long)(at_ns % CLOCK_NS_PER_S)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* The modelled load time, in slices so that progress moves. */
static void pretend_to_load(const struct sim_engine *s, const struct engine_config *config)
{
    uint64_t start = clock_now_ns(), total = (uint64_t)(s->profile.load_ms * 1e6);

    if (total == 0)
        return;
    for (uint64_t i = 1; i <= LOAD_SLICES; i++) {
        if (config->progress != NULL)
            config->progress(config->progress_arg, "modelled load time", 0, 0);
        sleep_until(start + total / LOAD_SLICES * i);
    }
}

static enum err apply_limits(struct sim_engine *s, const struct engine_config *config,
                             struct err_msg *msg)
{
    struct engine_info *info = &s->base.info;

    if (s->profile.vocab > 0)
        info->vocab = (uint32_t)s->profile.vocab;
    if (s->profile.max_context > 0)
        info->max_context = (uint32_t)s->profile.max_context;
    if (config->tp > 1)
        return err_set(
            msg, ERR_UNSUPPORTED,
            "sim: tp is %u, but this backend holds no weights to split: model the time of "
            "tp ranks in its profile, and leave tp out",
            config->tp);
    if (info->vocab < 16)
        return err_set(msg, ERR_INVALID, "sim: a vocabulary of %u is too small, at least 16",
                       info->vocab);
    if (config->max_context > info->max_context)
        return err_set(msg, ERR_INVALID, "sim: max_context is %u, the model has %u",
                       config->max_context, info->max_context);
    if (config->max_context > 0)
        info->max_context = config->max_context;
    info->max_batch = config->max_batch;
    info->max_step_tokens = config->max_step_tokens;
    return ERR_OK;
}

static void set_layout(struct sim_engine *s, const struct engine_config *config)
{
    struct wire_kv_layout *kv = &s->base.info.kv;

    *kv = (struct wire_kv_layout){.n_layers = (uint32_t)s->profile.kv_layers,
                                  .n_kv_heads = (uint32_t)s->profile.kv_heads,
                                  .head_dim = (uint32_t)s->profile.kv_head_dim,
                                  .block_tokens = config->block_tokens,
                                  .dtype = WIRE_KV_U64,
                                  .parts = 1};
    kv->model_id = engine_sim_mix(engine_sim_mix(s->base.info.vocab) + s->range.first +
                                  ((uint64_t)s->range.count << 32));
    s->kv = (struct sim_kv){.layout = *kv,
                            .block_bytes = wire_kv_block_bytes(kv),
                            .layer_bytes = wire_kv_layer_bytes(kv),
                            .vocab = s->base.info.vocab};
}

static enum err sim_setup(struct sim_engine *s, const struct engine_config *config,
                          struct err_msg *msg)
{
    int32_t special[ENGINE_MODEL_EOS_MAX + 1];
    uint32_t n_special = 0;
    enum err err;

    engine_sim_profile_defaults(&s->profile);
    if (config->sim_profile != NULL) {
        err = engine_sim_profile_read(config->sim_profile, &s->profile, msg);
        if (err != ERR_OK)
            return err;
    }
    err = read_model(s, config->model_dir, special, &n_special, msg);
    if (err != ERR_OK)
        return err;
    err = apply_limits(s, config, msg);
    if (err != ERR_OK)
        return err;
    s->range = engine_sim_range(s->base.info.vocab, special, n_special);
    set_layout(s, config);
    err = wire_kv_layout_check(&s->base.info.kv, msg);
    if (err != ERR_OK)
        return err;
    memcpy(s->base.info.backend, "sim", sizeof("sim"));
    s->runs = mem_try_calloc(config->max_batch, sizeof(*s->runs));
    s->states = mem_try_calloc(config->max_step_tokens, sizeof(*s->states));
    s->links = mem_try_calloc(config->max_step_tokens, sizeof(*s->links));
    return s->runs == NULL || s->states == NULL || s->links == NULL ? ERR_NOMEM : ERR_OK;
}

static void sim_close(struct engine *e)
{
    struct sim_engine *s = (struct sim_engine *)e;

    mem_free(s->notes);
    mem_free(s->runs);
    mem_free(s->states);
    mem_free(s->links);
    mem_free(s);
}

static enum err sim_open(const struct engine_config *config, struct err_msg *msg,
                         struct engine **out)
{
    struct sim_engine *s = mem_try_calloc(1, sizeof(*s));
    enum err err;

    if (s == NULL)
        return ERR_NOMEM;
    err = sim_setup(s, config, msg);
    if (err != ERR_OK) {
        sim_close(&s->base);
        return err;
    }
    pretend_to_load(s, config);
    *out = &s->base;
    return ERR_OK;
}

static enum err sim_attached(struct engine *e)
{
    struct sim_engine *s = (struct sim_engine *)e;

    s->notes = mem_try_calloc(e->kv_blocks, sizeof(*s->notes));
    if (s->notes == NULL)
        return ERR_NOMEM;
    s->kv.base = e->kv_base[0];
    return ERR_OK;
}

/* ---- the step ---------------------------------------------------------------------------------- */

/* Of block number i in a list, to be summed up: cheap, as every step does it for every block. */
static uint64_t list_term(uint32_t block, uint32_t i)
{
    return (block + UINT64_C(1)) * (2 * i + UINT64_C(1)) * ENGINE_SIM_STEP ^ i;
}

static uint64_t list_hash(const uint32_t *blocks, uint32_t n)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += list_term(blocks[i], i);
    return sum;
}

static bool prefix_is_known(const struct sim_engine *s, const struct engine_slot *slot,
                            uint64_t state)
{
    uint32_t last = (slot->position - 1) / s->kv.layout.block_tokens;
    const struct note *note = &s->notes[slot->blocks[last]];

    return note->end == slot->position && note->state == state &&
           note->list == list_hash(slot->blocks, last + 1);
}

/* The state ahead of the slot's new tokens, from its KV. */
static enum err recover(const struct sim_engine *s, const struct engine_slot *slot, uint64_t *state)
{
    uint32_t per_block = s->kv.layout.block_tokens, first = 0, end;

    *state = ENGINE_SIM_START;
    if (slot->position == 0)
        return ERR_OK;
    *state = sim_kv_state(&s->kv, slot->blocks, slot->position - 1);
    end = (slot->position + per_block - 1) / per_block;
    if (s->profile.verify_all == 0 && prefix_is_known(s, slot, *state)) {
        first = (uint32_t)(s->steps % end);
        end = first + 1;
    }
    for (uint32_t i = first; i < end; i++) {
        if (!sim_kv_block_holds(&s->kv, slot->blocks, i, slot->position))
            return ERR_CORRUPT;
    }
    return ERR_OK;
}

static void leave_notes(struct sim_engine *s, const struct sim_run *run)
{
    uint32_t per_block = s->kv.layout.block_tokens;
    uint32_t end = run->first + run->n, i = run->first / per_block;
    uint64_t list = list_hash(run->blocks, i);

    for (; i * per_block < end; i++) {
        uint32_t upto = (i + 1) * per_block < end ? (i + 1) * per_block : end;

        list += list_term(run->blocks[i], i);
        s->notes[run->blocks[i]] =
            (struct note){.state = run->states[upto - run->first - 1], .list = list, .end = upto};
    }
}

/* Compute the chains of all slots and sum up their work. */
static void prepare(struct sim_engine *s, struct engine_slot *slots, uint32_t n,
                    struct engine_sim_load *load)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct engine_slot *slot = &slots[i];
        uint64_t before, state;

        if (slot->result != ERR_OK)
            continue;
        slot->result = recover(s, slot, &before);
        if (slot->result != ERR_OK)
            continue;
        state = before;
        for (uint32_t t = 0; t < slot->n_tokens; t++)
            s->states[at + t] = state = engine_sim_push(state, slot->tokens[t]);
        sim_kv_link(before, s->states + at, s->links + at, slot->n_tokens);
        s->runs[i] = (struct sim_run){.blocks = slot->blocks,
                                      .first = slot->position,
                                      .n = slot->n_tokens,
                                      .states = s->states + at,
                                      .links = s->links + at};
        at += slot->n_tokens;
        if (slot->n_tokens == 1 && slot->position > 0) {
            load->decode_slots++;
            load->decode_context += slot->position + 1.0;
        } else {
            load->prefill_tokens += slot->n_tokens;
            load->prefill_square += slot->n_tokens * (slot->n_tokens + 2.0 * slot->position);
        }
    }
}

static bool is_stop_id(const struct engine_sampling *g, int32_t token)
{
    for (uint32_t i = 0; i < g->n_stop_ids; i++) {
        if (g->stop_ids[i] == token)
            return true;
    }
    return false;
}

/* The closed form; below min_tokens the next ids that are no stop ids stand in for a banned one. */
static void choose(const struct sim_engine *s, uint64_t state, struct engine_slot *slot)
{
    const struct engine_sampling *g = slot->sampling;
    bool may_end = slot->sample_index >= g->min_tokens;
    int32_t eos = g->n_stop_ids > 0 ? g->stop_ids[0] : s->eos;
    int32_t token = engine_sim_next(state, s->range);

    for (uint32_t i = 0; !may_end && is_stop_id(g, token) && i <= ENGINE_STOP_IDS_MAX; i++)
        token = (int32_t)(s->range.first + ((uint32_t)token - s->range.first + 1) % s->range.count);
    if (may_end && eos >= 0 && engine_sim_ends(state, (uint32_t)s->profile.mean_output_tokens))
        token = eos;
    slot->out.token = token;
    slot->out.logprob = 0;
    slot->out.n_top = 0;
    if (!g->want_logprobs)
        return;
    slot->out.logprob = engine_sim_logprob(state);
    for (uint32_t i = 0; i < g->n_top && i < ENGINE_TOP_LOGPROBS_MAX; i++) {
        uint32_t id =
            i == 0 ? (uint32_t)token : s->range.first + ((uint32_t)token + i) % s->range.count;

        slot->out.top[i] = (struct engine_top){(int32_t)id, slot->out.logprob - (float)i};
        slot->out.n_top++;
    }
}

/* Layers [first, first + n) of all slots; the time that they take has passed by then. */
static void write_layers(struct sim_engine *s, const struct engine_slot *slots, uint32_t n_slots,
                         uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n_slots; i++) {
        for (uint32_t l = first; slots[i].result == ERR_OK && l < first + n; l++)
            sim_kv_write(&s->kv, &s->runs[i], l);
    }
}

/* The default slack of 50 us would be most of a short modelled step. */
static void sharpen_timer(struct sim_engine *s)
{
    if (!s->slack_set)
        prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    s->slack_set = true;
}

/* A modelled machine that has work goes on without a pause.  What the operating system wakes us too late by, and what
 * our callers do between two steps, is time of the machine that we run on, often a busy one: it is made up for, in
 * parts so small that no step looks like another. */
static uint64_t step_begins(const struct sim_engine *s, uint64_t now, uint64_t duration)
{
    uint64_t behind = now - s->due_ns, most = duration / MADE_UP;

    if (now - s->returned_ns >= FOLLOWS_NS)
        return now;
    return now - (behind < most ? behind : most);
}

static enum err sim_step(struct engine *e, struct engine_slot *slots, uint32_t n,
                         uint32_t group_layers, engine_layers_fn layers_done, void *arg)
{
    struct sim_engine *s = (struct sim_engine *)e;
    struct engine_sim_load load = {0};
    uint32_t n_layers = s->kv.layout.n_layers;
    uint64_t start = clock_now_ns(), duration;

    prepare(s, slots, n, &load);
    duration = engine_sim_profile_time(&s->profile, &load, s->steps++);
    start = step_begins(s, start, duration);
    if (duration > 0)
        sharpen_timer(s);
    for (uint32_t first = 0; first < n_layers; first += group_layers) {
        uint32_t group = n_layers - first < group_layers ? n_layers - first : group_layers;

        if (duration > 0)
            sleep_until(start + duration * (first + group) / n_layers);
        write_layers(s, slots, n, first, group);
        if (layers_done != NULL)
            layers_done(arg, first, group, 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (slots[i].result != ERR_OK)
            continue;
        leave_notes(s, &s->runs[i]);
        if (slots[i].sample)
            choose(s, s->runs[i].states[slots[i].n_tokens - 1], &slots[i]);
    }
    s->due_ns = start + duration;
    s->returned_ns = clock_now_ns();
    return ERR_OK;
}

const struct engine_backend engine_backend_sim = {
    .name = "sim",
    .open = sim_open,
    .attached = sim_attached,
    .step = sim_step,
    .kv_copy = engine_kv_copy_host,
    .close = sim_close,
};
