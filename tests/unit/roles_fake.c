/* tests/unit/roles_fake.c - see the header. */
#include "tests/unit/roles_fake.h"

#include <pthread.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "proto/kv_memory.h"

/* ---- engine ---- */

struct engine {
    struct engine_info info;
};

static struct engine the_engine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    bool hold, waiting, quick, device, short_of_memory;
    uint32_t hold_layers, hold_step;
    uint64_t ticket;
    int32_t token;
    enum err whole, slot, copy;
    uint64_t tags[FAKE_BLOCKS];
    uint32_t n_steps;
    struct fake_step steps[512];
} eng;

void fake_engine_reset(uint32_t max_batch, uint32_t max_step_tokens)
{
    memset(&eng, 0, sizeof(eng));
    eng.token = -1;
    eng.hold_step = UINT32_MAX;
    the_engine.info = (struct engine_info){
        .kv = {FAKE_LAYERS, 1, 1, FAKE_BLOCK_TOKENS, WIRE_KV_F32, 7, 1},
        .vocab = FAKE_VOCAB,
        .max_context = 100,
        .max_batch = max_batch,
        .max_step_tokens = max_step_tokens,
    };
    /* Pieces of one layer, so that the tests see layers one by one. */
    the_engine.info.kv.head_dim = 1024;
    the_engine.info.kv.n_kv_heads = 8;
}

struct engine *fake_engine(void)
{
    return &the_engine;
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

void fake_engine_hold(bool hold)
{
    pthread_mutex_lock(&lock);
    eng.hold = hold;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void fake_engine_quick(void)
{
    eng.quick = true;
}

void fake_engine_device(void)
{
    eng.quick = eng.device = true;
}

/* Nobody reaches into it. */
const struct kv_memory *engine_kv_memory(const struct engine *e)
{
    static const struct kv_memory memory = {.kind = KV_MEMORY_DEVICE, .parts = 1};

    (void)e;
    return eng.device ? &memory : NULL;
}

void fake_short_of_memory(void)
{
    eng.short_of_memory = true;
}

void fake_engine_hold_step(uint32_t step)
{
    pthread_mutex_lock(&lock);
    eng.hold_step = step;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void fake_engine_hold_layers(uint32_t layers)
{
    pthread_mutex_lock(&lock);
    eng.hold_layers = layers;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

bool fake_engine_in_step(void)
{
    bool waiting;

    pthread_mutex_lock(&lock);
    waiting = eng.waiting;
    pthread_mutex_unlock(&lock);
    return waiting;
}

void fake_engine_set_token(int32_t token)
{
    pthread_mutex_lock(&lock);
    eng.token = token;
    pthread_mutex_unlock(&lock);
}

void fake_engine_fail(enum err whole, enum err slot)
{
    pthread_mutex_lock(&lock);
    eng.whole = whole;
    eng.slot = slot;
    pthread_mutex_unlock(&lock);
}

uint32_t fake_engine_steps(void)
{
    uint32_t n;

    pthread_mutex_lock(&lock);
    n = eng.n_steps;
    pthread_mutex_unlock(&lock);
    return n;
}

struct fake_step fake_engine_step_at(uint32_t i)
{
    struct fake_step s;

    pthread_mutex_lock(&lock);
    s = eng.steps[i % 512];
    pthread_mutex_unlock(&lock);
    return s;
}

static void record(const struct engine_slot *slots, uint32_t n)
{
    struct fake_step *s = &eng.steps[eng.n_steps % 512];

    s->n = n;
    for (uint32_t i = 0; i < n && i < 64; i++)
        s->slots[i] = (struct fake_step_slot){.position = slots[i].position,
                                              .n_tokens = slots[i].n_tokens,
                                              .sample_index = slots[i].sample_index,
                                              .first_token = slots[i].tokens[0],
                                              .sample = slots[i].sample,
                                              .has_history = slots[i].history != NULL};
    eng.n_steps++;
}

static void wait_while(const bool *flag, const uint32_t *layers, uint32_t at)
{
    eng.waiting = true;
    while (flag != NULL ? *flag : *layers == at)
        pthread_cond_wait(&changed, &lock);
    eng.waiting = false;
}

static void sample(struct engine_slot *slot)
{
    static float logits[FAKE_VOCAB];
    static uint64_t scratch[64 * FAKE_VOCAB]; /* far more than the sampler asks for */

    slot->out = (struct engine_sampled){.token = eng.token >= 0 ? eng.token
                                                                : 100 + (int32_t)slot->sample_index,
                                        .logprob = -0.5f,
                                        .n_top = 1,
                                        .top = {{7, -0.25f}}};
    if (!slot->sample || slot->history == NULL || !engine_sampling_uses_history(slot->sampling) ||
        engine_sample_scratch_bytes(FAKE_VOCAB) > sizeof(scratch))
        return;
    memset(logits, 0, sizeof(logits));
    engine_sample(logits, FAKE_VOCAB, slot->sampling, slot->history, slot->sample_index, scratch,
                  &slot->out);
}

enum err engine_step(struct engine *e, struct engine_slot *slots, uint32_t n, uint32_t group_layers,
                     engine_layers_fn layers_done, void *arg)
{
    enum err whole;
    bool quick;
    uint32_t group = group_layers > 0 ? group_layers : FAKE_LAYERS;

    (void)e;
    pthread_mutex_lock(&lock);
    record(slots, n);
    if (eng.hold)
        wait_while(&eng.hold, NULL, 0);
    if (eng.hold_step == eng.n_steps - 1)
        wait_while(NULL, &eng.hold_step, eng.n_steps - 1);
    whole = eng.whole;
    quick = eng.quick;
    for (uint32_t i = 0; i < n; i++) {
        slots[i].result = eng.slot;
        sample(&slots[i]);
    }
    for (uint32_t layer = 0; layer < FAKE_LAYERS; layer += group) {
        if (layers_done != NULL) {
            pthread_mutex_unlock(&lock);
            if (!quick)
                uv_sleep(1); /* above the gap at which marks are merged */
            layers_done(arg, layer, group, eng.device ? ++eng.ticket : 0);
            pthread_mutex_lock(&lock);
        }
        if (eng.hold_layers == layer + group)
            wait_while(NULL, &eng.hold_layers, layer + group);
    }
    pthread_mutex_unlock(&lock);
    return whole;
}

/* Nobody looks at the bytes here; tests/unit/roles_test.c parks real ones. */
enum err engine_kv_copy(struct engine *e, uint32_t block, void *host, enum engine_kv_dir dir)
{
    enum err err;

    (void)e;
    pthread_mutex_lock(&lock);
    err = eng.copy;
    if (err == ERR_OK && dir == ENGINE_KV_OUT)
        memcpy(host, &eng.tags[block], sizeof(eng.tags[block]));
    else if (err == ERR_OK)
        memcpy(&eng.tags[block], host, sizeof(eng.tags[block]));
    pthread_mutex_unlock(&lock);
    return err;
}

void fake_engine_fail_copy(enum err err)
{
    pthread_mutex_lock(&lock);
    eng.copy = err;
    pthread_mutex_unlock(&lock);
}

/* ---- KV node ---- */

struct kvt_node {
    int unused;
};
static struct kvt_node the_node;
static struct fake_send *sends[256];
static struct fake_grant *grants[256];
static uint32_t n_sends, n_grants;
static enum err refuse;

struct kvt_node *fake_kvt(void)
{
    return &the_node;
}

void fake_kvt_reset(void)
{
    for (uint32_t i = 0; i < n_sends; i++)
        mem_free(sends[i]);
    for (uint32_t i = 0; i < n_grants; i++)
        mem_free(grants[i]);
    n_sends = n_grants = 0;
    refuse = ERR_OK;
}

void fake_kvt_refuse(enum err err)
{
    refuse = err;
}

enum err kvt_send_open(struct kvt_node *n, const struct kvt_send_config *config,
                       struct kvt_send **out)
{
    struct fake_send *s;

    (void)n;
    if (refuse != ERR_OK)
        return refuse;
    s = mem_try_calloc(1, sizeof(*s));
    if (s == NULL)
        return ERR_NOMEM;
    s->c = *config;
    for (uint32_t i = 0; i < config->n_slots && i < 64; i++) {
        s->local[i] = config->local_slots[i];
        s->remote[i] = config->remote_slots[i];
    }
    sends[n_sends++] = s;
    *out = (struct kvt_send *)s;
    return ERR_OK;
}

void kvt_send_piece(struct kvt_send *send, uint32_t first, uint32_t n, uint32_t first_layer,
                    uint32_t n_layers, uint64_t ready)
{
    struct fake_send *s = (struct fake_send *)send;

    s->pieces[s->n_pieces++] = (struct fake_piece){first, n, first_layer, n_layers, ready};
}

void kvt_send_finish(struct kvt_send *send, const void *meta, size_t meta_len)
{
    struct fake_send *s = (struct fake_send *)send;

    s->finished = true;
    s->meta_len = meta_len;
    memcpy(s->meta, meta, meta_len);
}

void kvt_send_cancel(struct kvt_send *send)
{
    ((struct fake_send *)send)->canceled = true;
}

uint32_t fake_sends(void)
{
    return n_sends;
}

struct fake_send *fake_send_at(uint32_t i)
{
    return sends[i];
}

bool fake_send_complete(const struct fake_send *s)
{
    uint8_t seen[64][FAKE_LAYERS] = {{0}};

    for (uint32_t i = 0; i < s->n_pieces; i++) {
        for (uint32_t b = 0; b < s->pieces[i].n; b++) {
            for (uint32_t l = 0; l < s->pieces[i].n_layers; l++)
                seen[s->pieces[i].first + b][s->pieces[i].first_layer + l]++;
        }
    }
    for (uint32_t b = 0; b < s->c.n_slots; b++) {
        for (uint32_t l = 0; l < FAKE_LAYERS; l++) {
            if (seen[b][l] != 1)
                return false;
        }
    }
    return true;
}

void fake_send_done(struct fake_send *s, enum err err)
{
    struct kvt_send_result r = {.err = err, .bytes = 99, .path = KVT_PATH_SHM};

    s->done = true;
    s->c.on_done(s->c.arg, &r);
}

enum err kvt_grant_open(struct kvt_node *n, const struct kvt_grant_config *config,
                        struct kvt_grant **out)
{
    struct fake_grant *g;

    (void)n;
    if (refuse != ERR_OK)
        return refuse;
    g = mem_try_calloc(1, sizeof(*g));
    if (g == NULL)
        return ERR_NOMEM;
    g->c = *config;
    for (uint32_t i = 0; i < config->n_slots && i < 64; i++)
        g->slots[i] = config->slots[i];
    grants[n_grants++] = g;
    *out = (struct kvt_grant *)g;
    return ERR_OK;
}

void kvt_grant_cancel(struct kvt_grant *grant)
{
    ((struct fake_grant *)grant)->canceled = true;
}

uint32_t fake_grants(void)
{
    return n_grants;
}

struct fake_grant *fake_grant_at(uint32_t i)
{
    return grants[i];
}

void fake_grant_arrive(struct fake_grant *g, enum err err, const void *meta, size_t meta_len)
{
    struct kvt_arrival a = {.err = err, .bytes = 99, .path = KVT_PATH_SHM, .meta_len = meta_len};

    if (meta_len > 0)
        memcpy(a.meta, meta, meta_len);
    g->arrived = true;
    g->c.on_arrival(g->c.arg, &a);
}

void fake_grant_safe(struct fake_grant *g)
{
    g->safe = true;
    g->c.on_safe(g->c.arg);
}

/* ---- messages out ---- */

static struct fake_msg msgs[8192];
static uint32_t n_msgs, n_broken, n_released;

static void keep(enum wire_type t, uint32_t frontend, const ProtobufCMessage *m)
{
    struct buf b = BUF_INIT;
    struct fake_msg *slot = &msgs[n_msgs];
    enum err err;

    n_released += t == WIRE_RELEASED;
    if (n_msgs == sizeof(msgs) / sizeof(msgs[0]))
        return;
    slot->type = t;
    slot->frontend = frontend;
    slot->m = NULL;
    err = wire_pack(t, m, &b);
    if (err == ERR_OK)
        err = wire_unpack(t, (uint8_t *)buf_bytes(&b) + WIRE_FRAME_HEADER,
                          b.len - WIRE_FRAME_HEADER, &slot->m, NULL);
    if (err == ERR_OK)
        n_msgs++;
    else if (!eng.short_of_memory)
        n_broken += 1000; /* no test expects that */
    buf_free(&b);
}

void fake_to_scheduler(void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    (void)arg;
    keep(t, 0, m);
}

void fake_to_frontend(void *arg, uint32_t frontend, const Baton__Tokens *m)
{
    (void)arg;
    keep(WIRE_TOKENS, frontend, &m->base);
}

void fake_on_broken(void *arg, const char *why)
{
    (void)arg;
    (void)why;
    n_broken++;
}

uint32_t fake_released(void)
{
    return n_released;
}

uint32_t fake_broken(void)
{
    return n_broken;
}

void fake_msgs_reset(void)
{
    for (uint32_t i = 0; i < n_msgs; i++)
        wire_free(msgs[i].m);
    n_msgs = 0;
    n_broken = 0;
    n_released = 0;
}

uint32_t fake_msgs(void)
{
    return n_msgs;
}

const struct fake_msg *fake_msg_at(uint32_t i)
{
    return &msgs[i];
}

uint32_t fake_count(enum wire_type t)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < n_msgs; i++)
        n += msgs[i].type == t;
    return n;
}

uint32_t fake_where(enum wire_type t, uint32_t nth)
{
    for (uint32_t i = 0; i < n_msgs; i++) {
        if (msgs[i].type == t && nth-- == 0)
            return i;
    }
    return UINT32_MAX;
}

const void *fake_nth(enum wire_type t, uint32_t i)
{
    uint32_t at = fake_where(t, i);

    return at == UINT32_MAX ? NULL : msgs[at].m;
}

/* ---- loop ---- */

static uv_timer_t alive;

static void on_alive(uv_timer_t *t)
{
    (void)t;
}

void fake_loop_open(uv_loop_t *loop)
{
    uv_loop_init(loop);
    uv_timer_init(loop, &alive);
    uv_timer_start(&alive, on_alive, 3600000, 3600000);
}

bool fake_loop_close(uv_loop_t *loop)
{
    uv_close((uv_handle_t *)&alive, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    return uv_loop_close(loop) == 0;
}

bool fake_run_until(uv_loop_t *loop, bool (*done)(void))
{
    uint64_t until = clock_now_ns() + 5 * CLOCK_NS_PER_S;

    while (!done() && clock_now_ns() < until) {
        uv_run(loop, UV_RUN_NOWAIT);
        uv_sleep(1);
    }
    return done();
}

void fake_run_some(uv_loop_t *loop)
{
    for (int i = 0; i < 30; i++) {
        uv_run(loop, UV_RUN_NOWAIT);
        uv_sleep(1);
    }
}

void fake_sampling(Baton__Sampling *s)
{
    baton__sampling__init(s);
    s->top_p = 1;
    s->repetition_penalty = 1;
}
