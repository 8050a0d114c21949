/* daemon/worker.c - see the header for the contract.
 *
 * Two things go on at once at the start: the model loads (worker_load.c) and the scheduler is connected.
 * JOIN is sent when both are there, the token links to all front ends of the WELCOME are up, and nothing of an
 * earlier connection is held any more; from then on the scheduler may give work.  check() is called
 * after everything that may have made that true, and at every tick.
 *
 * Losing the scheduler ends every request, every KV peer and every token link: the ids in them belong
 * to that connection.  The next one starts from nothing.
 */
#include "daemon/worker.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/device_list.h"
#include "daemon/link.h"
#include "daemon/link_addr.h"
#include "daemon/secret.h"
#include "daemon/hangup.h"
#include "daemon/worker_load.h"
#include "daemon/worker_role.h"
#include "proto/kv_memory.h"
#include "engine/engine.h"
#include "kvtransfer/kvt.h"

/* What the connection to the scheduler waits for. */
#define WORKER_LINK_MAP(X)                                                                      \
    X(DOWN)       /* the back-off timer */                                                      \
    X(CONNECTING) /* the handshake; the link's own deadline */                                  \
    X(GREETING)   /* WELCOME; the link's silence timeout */                                     \
    X(PREPARING)  /* model, token links, and the end of old requests; the tick looks at them */ \
    X(JOINED)     /* work */

enum worker_link_state {
#define X(NAME) WORKER_##NAME,
    WORKER_LINK_MAP(X)
#undef X
};

#define TO(NAME) (1u << WORKER_##NAME)
static const unsigned legal[] = {
    [WORKER_DOWN] = TO(CONNECTING),
    [WORKER_CONNECTING] = TO(DOWN) | TO(GREETING),
    [WORKER_GREETING] = TO(DOWN) | TO(PREPARING),
    [WORKER_PREPARING] = TO(DOWN) | TO(JOINED),
    [WORKER_JOINED] = TO(DOWN),
};
#undef TO

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 5000,
    TICK_MS = 100,
    DRAIN_MS = 30000,
    LEAVE_MS = 3000,
    FLUSH_MS = 100, /* with a lost device: for last words to peers */
    FRONTENDS_MAX = 64,
    EXIT_BROKEN = 3,
    EXIT_LOAD_STALLED = 4
};

/* Without --kv-mib a pool has room for a full batch, but takes no more than this, or than four requests of max
 * context (and those within an eighth of the machine's memory) where that is more. */
static const uint64_t kv_bytes_default = 256ull << 20;

struct worker;

struct frontend {
    struct worker *worker;
    uint32_t id;
    char address[DAEMON_ADDR_MAX + 16];
    struct daemon_link *link; /* NULL: waits for its back-off timer */
    bool up;
    bool gone; /* of an earlier scheduler connection: freed when link and timer are closed */
    bool retry_open;
    uv_timer_t retry;
    uint32_t backoff_ms;
    struct frontend *next;
};

struct worker {
    struct daemon_worker_config c;
    uv_loop_t loop;
    struct wire_secret secret;
    struct daemon_addr scheduler;
    char kv_host[DAEMON_ADDR_MAX];   /* listened on */
    char kv_public[DAEMON_ADDR_MAX]; /* told to peers */

    struct engine *engine;
    struct kvt_node *kvt;
    struct daemon_role *role;
    uint32_t n_blocks;
    uint64_t park_bytes;
    char worker_class[64]; /* as the scheduler names classes: not longer */
    char phase[64];
    uint64_t loaded, to_load;
    uint64_t load_moved_ns; /* when the load was last seen to get on */

    enum worker_link_state state; /* set_state alone writes */
    struct daemon_link *link;
    uint32_t backoff_ms;
    uint32_t id; /* given by WELCOME */
    uint64_t heartbeat_ns, peer_timeout_ns;
    struct frontend *frontends;
    uint32_t *peers; /* introduced over this connection */
    uint32_t n_peers, cap_peers;
    uint64_t reports, odd_messages, tokens_dropped;

    uv_timer_t tick, retry, deadline; /* deadline: of draining, then of leaving */
    uv_signal_t term, interrupt, hangup;
    enum daemon_hangup hangup_means;
    bool loading, draining, leaving, flipping;
    unsigned interrupts;
    int status;
    struct daemon_device_list devices;
};

static void check(struct worker *w);
static void leave(struct worker *w, int status);
static void start_connect(struct worker *w);

static const char *state_name(enum worker_link_state s)
{
    switch (s) {
#define X(NAME)         \
    case WORKER_##NAME: \
        return #NAME;
        WORKER_LINK_MAP(X)
#undef X
    }
    return "?";
}

static const char *role_name(enum daemon_worker_role r)
{
    return r == DAEMON_WORKER_PREFILL ? "prefill" : "decode";
}

static void set_state(struct worker *w, enum worker_link_state to)
{
    if ((legal[w->state] & 1u << to) == 0)
        LOG_ERROR("worker", "illegal state change", "%s -> %s", state_name(w->state),
                  state_name(to));
    LOG_DEBUG("worker", "state", "%s -> %s", state_name(w->state), state_name(to));
    w->state = to;
}

/* ---- front ends ---- */

static void frontend_connect(struct frontend *f);

static void frontend_maybe_free(struct frontend *f)
{
    if (f->gone && f->link == NULL && !f->retry_open)
        mem_free(f);
}

static void on_retry_closed(uv_handle_t *h)
{
    struct frontend *f = h->data;

    f->retry_open = false;
    frontend_maybe_free(f);
}

static void on_frontend_retry(uv_timer_t *t)
{
    frontend_connect(t->data);
}

static void frontend_retry(struct frontend *f)
{
    uv_timer_start(&f->retry, on_frontend_retry, f->backoff_ms, 0);
    f->backoff_ms = f->backoff_ms * 2 < BACKOFF_MAX_MS ? f->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static void on_frontend_ready(struct daemon_link *l, void *arg)
{
    struct frontend *f = arg;
    Baton__Attach m = BATON__ATTACH__INIT;

    /* Nothing comes back on this link: the control connection watches the other side. */
    daemon_link_set_timeout(l, UINT64_MAX / 2);
    m.worker = f->worker->id;
    daemon_link_send(l, WIRE_ATTACH, &m.base);
    f->up = true;
    f->backoff_ms = BACKOFF_FIRST_MS;
    check(f->worker);
}

static void on_frontend_frame(struct daemon_link *l, void *arg, enum wire_type t,
                              const ProtobufCMessage *m)
{
    struct frontend *f = arg;

    (void)m;
    LOG_WARN("worker", "unexpected frame on a token link", "frontend=%u frame=%s", f->id,
             wire_type_name(t));
    f->worker->odd_messages++;
    daemon_link_close(l);
}

/* Its tokens have nowhere to go: end its requests, so that the scheduler can place them again. */
static void on_frontend_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct frontend *f = arg;
    struct worker *w = f->worker;

    (void)l;
    f->link = NULL;
    f->up = false;
    if (f->gone) {
        frontend_maybe_free(f);
        return;
    }
    if (!w->draining && !w->leaving)
        LOG_WARN("worker", "token link lost", "frontend=%u address=%s why=%s: %s", f->id,
                 f->address, err_name(why), detail);
    if (w->role != NULL)
        daemon_role_cancel_frontend(w->role, f->id);
    frontend_retry(f);
}

static const struct daemon_link_hooks frontend_hooks = {
    .on_ready = on_frontend_ready, .on_frame = on_frontend_frame, .on_closed = on_frontend_closed};

static void frontend_connect(struct frontend *f)
{
    struct worker *w = f->worker;
    struct daemon_link_options o = {.loop = &w->loop, .secret = &w->secret};
    struct err_msg msg = {""};

    if (daemon_link_connect(&o, f->address, WIRE_ROLE_TOKENS, &frontend_hooks, f, &msg, &f->link) ==
        ERR_OK)
        return;
    f->link = NULL;
    LOG_WARN("worker", "cannot reach a front end", "frontend=%u: %s", f->id, msg.text);
    frontend_retry(f);
}

static void frontend_add(struct worker *w, const Baton__Frontend *m)
{
    struct frontend *f = mem_try_calloc(1, sizeof(*f));

    if (f == NULL) {
        daemon_link_close(w->link); /* the next connection tries again */
        return;
    }
    f->worker = w;
    f->id = m->id;
    f->backoff_ms = BACKOFF_FIRST_MS;
    snprintf(f->address, sizeof(f->address), "%s", m->address);
    uv_timer_init(&w->loop, &f->retry);
    f->retry.data = f;
    f->retry_open = true;
    f->next = w->frontends;
    w->frontends = f;
    frontend_connect(f);
}

static void frontends_drop(struct worker *w)
{
    struct frontend *f;

    while ((f = w->frontends) != NULL) {
        w->frontends = f->next;
        f->gone = true;
        f->up = false;
        if (f->link != NULL)
            daemon_link_close(f->link);
        uv_close((uv_handle_t *)&f->retry, on_retry_closed);
    }
}

static struct frontend *frontend_find(const struct worker *w, uint32_t id)
{
    for (struct frontend *f = w->frontends; f != NULL; f = f->next) {
        if (f->id == id)
            return f;
    }
    return NULL;
}

/* ---- what the role says ---- */

static void to_scheduler(void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    struct worker *w = arg;

    if (w->state == WORKER_JOINED)
        daemon_link_send(w->link, t, m);
}

static void to_frontend(void *arg, uint32_t id, const Baton__Tokens *m)
{
    struct worker *w = arg;
    struct frontend *f = frontend_find(w, id);

    if (f != NULL && f->up)
        daemon_link_send(f->link, WIRE_TOKENS, &m->base);
    else
        w->tokens_dropped += m->n_request; /* its requests have been canceled */
}

static void on_broken(void *arg, const char *why)
{
    struct worker *w = arg;

    LOG_ERROR("worker", "engine broken, leaving", "%s", why);
    leave(w, EXIT_BROKEN);
}

/* ---- what the KV node says ---- */

static void on_kv_link(void *arg, const struct kvt_link *link)
{
    struct worker *w = arg;
    Baton__Link m = BATON__LINK__INIT;

    LOG_INFO("worker", "kv link", "peer=%u path=%s one_sided=%d lanes=\"%s\" GB/s=%.2f", link->peer,
             kvt_path_name(link->path), link->one_sided, link->lanes, link->bytes_per_s / 1e9);
    m.peer = link->peer;
    m.path = link->path;
    m.one_sided = link->one_sided;
    m.lanes = (char *)(uintptr_t)link->lanes;
    m.bytes_per_s = link->bytes_per_s;
    m.round_trip_ns = link->round_trip_ns;
    to_scheduler(w, WIRE_LINK, &m.base);
}

static void on_kv_lost(void *arg, uint32_t peer, enum err err)
{
    const struct worker *w = arg;

    if (!w->draining && !w->leaving)
        LOG_WARN("worker", "kv peer lost", "peer=%u why=%s", peer, err_name(err));
}

/* ---- building the data plane, once the model is there ---- */

/* Peers are told an address they can use: if the operator asked for a wildcard, the one under which
 * the scheduler sees us. */
static bool choose_kv_host(struct worker *w)
{
    char local[DAEMON_LINK_ADDRESS_MAX];
    struct daemon_addr addr;
    bool near = w->scheduler.is_unix || daemon_addr_is_loopback(w->scheduler.host);
    const char *public = "127.0.0.1";

    if (w->c.kv_host != NULL && !daemon_addr_is_wildcard(w->c.kv_host)) {
        public = w->c.kv_host;
    } else if (!near) {
        if (w->state < WORKER_GREETING)
            return false; /* known when the connection is there */
        daemon_link_local(w->link, local);
        if (daemon_addr_parse(local, &addr, NULL) != ERR_OK || addr.is_unix)
            return false;
        public = addr.host;
    }
    snprintf(w->kv_public, sizeof(w->kv_public), "%s", public);
    snprintf(w->kv_host, sizeof(w->kv_host), "%s", w->c.kv_host != NULL ? w->c.kv_host : public);
    return true;
}

static uint64_t eighth_of_memory(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 8;
}

static uint64_t default_kv_bytes(uint64_t bytes_per_request)
{
    uint64_t memory = eighth_of_memory();
    uint64_t four = 4 * bytes_per_request;

    if (four > memory)
        four = memory;
    return four > kv_bytes_default ? four : kv_bytes_default;
}

static enum err size_pool(struct worker *w, struct err_msg *msg)
{
    const struct engine_info *info = engine_info(w->engine);
    uint64_t block = wire_kv_block_bytes(&info->kv);
    uint64_t per_request = (info->max_context + info->kv.block_tokens - 1) / info->kv.block_tokens;
    uint64_t want = per_request * info->max_batch;
    const struct kv_memory *memory = engine_kv_memory(w->engine);
    uint64_t room =
        (w->c.kv_bytes != 0 ? w->c.kv_bytes : default_kv_bytes(per_request * block)) / block;

    if (memory != NULL) /* the engine has made it */
        room = want = memory->n_blocks;
    if (room == 0)
        return err_set(msg, ERR_INVALID,
                       "the KV pool is too small: one block of %u tokens takes %" PRIu64 " bytes",
                       info->kv.block_tokens, block);
    w->n_blocks = (uint32_t)(room < want ? room : want);
    if (w->n_blocks > 1u << 28)
        w->n_blocks = 1u << 28;
    LOG_INFO("worker", "KV pool",
             "%" PRIu64 " tokens in %u blocks of %u, %.1f MiB; holds %" PRIu64
             " requests of max context %u",
             (uint64_t)w->n_blocks * info->kv.block_tokens, w->n_blocks, info->kv.block_tokens,
             (double)(w->n_blocks * block) / (1 << 20), w->n_blocks / per_request,
             info->max_context);
    if (w->n_blocks < per_request)
        LOG_WARN("worker", "KV pool below one request of max context",
                 memory != NULL ? "raise --kv-blocks or lower --max-context"
                                : "raise --kv-mib or lower --max-context");
    if (memory != NULL && w->c.kv_bytes != 0)
        LOG_WARN("worker", "--kv-mib is of no use here",
                 "the pool is in device memory: --kv-blocks or --gpu-memory set its size");
    w->park_bytes = w->c.park_bytes;
    if (w->park_bytes == 0) {
        w->park_bytes = w->n_blocks * block;
        if (w->park_bytes > eighth_of_memory())
            w->park_bytes = eighth_of_memory();
    }
    return ERR_OK;
}

static enum err create_role(struct worker *w, struct err_msg *msg)
{
    struct daemon_role_config r = {.role = w->c.role,
                                   .loop = &w->loop,
                                   .engine = w->engine,
                                   .kvt = w->kvt,
                                   .n_blocks = w->n_blocks,
                                   .park_bytes = w->park_bytes,
                                   .arg = w,
                                   .to_scheduler = to_scheduler,
                                   .to_frontend = to_frontend,
                                   .on_broken = on_broken};
    enum err err = daemon_role_create(&r, &w->role);

    return err == ERR_OK
               ? ERR_OK
               : err_set(msg, err, "the worker's role could not start: %s", err_text(err));
}

/* A UCX variable of the operator's wins over what kvtransfer would choose. */
static bool ucx_variable_set(const char *name)
{
    return getenv(name) != NULL;
}

static enum err build(struct worker *w, struct err_msg *msg)
{
    struct kvt_node_config k = {.loop = &w->loop,
                                .host = w->kv_host,
                                .port = w->c.kv_port,
                                .transports = w->c.kv_transports,
                                .user_set = ucx_variable_set,
                                .layout = engine_info(w->engine)->kv,
                                .memory = engine_kv_memory(w->engine),
                                .arg = w,
                                .on_link = on_kv_link,
                                .on_peer_lost = on_kv_lost};
    void *bases[WIRE_KV_PARTS_MAX];
    enum err err = size_pool(w, msg);

    if (err != ERR_OK)
        return err;
    k.n_blocks = w->n_blocks;
    err = kvt_node_create(&k, msg, &w->kvt);
    if (err != ERR_OK)
        return err;
    for (uint32_t i = 0; i < k.layout.parts; i++)
        bases[i] = kvt_node_pool(w->kvt, i);
    if (k.memory == NULL)
        err = engine_attach_kv(w->engine, bases, w->n_blocks);
    if (err != ERR_OK)
        return err_set(msg, err, "the engine does not take the KV pool: %s", err_text(err));
    err = create_role(w, msg);
    if (err != ERR_OK)
        return err;
    LOG_INFO("worker", "ready to join", "kv=%s:%u", w->kv_host, kvt_node_port(w->kvt));
    return ERR_OK;
}

static void on_load_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct worker *w = arg;

    snprintf(w->phase, sizeof(w->phase), "%s", phase);
    w->loaded = done;
    w->to_load = total;
    w->load_moved_ns = clock_now_ns();
}

static void on_loaded(void *arg, enum err err, const char *why, struct engine *engine)
{
    struct worker *w = arg;

    w->loading = false;
    w->engine = engine;
    if (w->leaving)
        return;
    if (err != ERR_OK) {
        LOG_ERROR("worker", "cannot load the model", "%s", why);
        leave(w, 1);
        return;
    }
    check(w);
}

static const struct daemon_load_hooks load_hooks = {.on_progress = on_load_progress,
                                                    .on_loaded = on_loaded};

/* ---- the scheduler ---- */

static void send_loading(struct worker *w)
{
    Baton__Loading m = BATON__LOADING__INIT;

    m.phase = w->phase;
    m.done_bytes = w->loaded;
    m.total_bytes = w->to_load;
    daemon_link_send(w->link, WIRE_LOADING, &m.base);
}

/* What workers that take equal time for equal steps have in common. */
static char *class_name(struct worker *w, const struct engine_info *info)
{
    char tp[16] = "";
    size_t room;

    if (info->kv.parts > 1)
        snprintf(tp, sizeof(tp), "/tp%u", info->kv.parts);
    room =
        sizeof(w->worker_class) - strlen(info->backend) - strlen(tp) - 2; /* the slash, the end */
    if (w->c.worker_class != NULL && w->c.worker_class[0] != '\0')
        snprintf(w->worker_class, sizeof(w->worker_class), "%s", w->c.worker_class);
    else
        snprintf(w->worker_class, sizeof(w->worker_class), "%.*s/%s%s", (int)room,
                 w->c.served_name != NULL ? w->c.served_name : "", info->backend, tp);
    return w->worker_class;
}

static void send_join(struct worker *w)
{
    const struct engine_info *info = engine_info(w->engine);
    Baton__Join m = BATON__JOIN__INIT;
    Baton__KvLayout layout = BATON__KV_LAYOUT__INIT;

    layout.n_layers = info->kv.n_layers;
    layout.n_kv_heads = info->kv.n_kv_heads;
    layout.head_dim = info->kv.head_dim;
    layout.block_tokens = info->kv.block_tokens;
    layout.dtype = info->kv.dtype;
    layout.model_id = info->kv.model_id;
    layout.parts = info->kv.parts;
    m.name = (char *)(uintptr_t)(w->c.name != NULL ? w->c.name : "");
    m.model = (char *)(uintptr_t)(w->c.served_name != NULL ? w->c.served_name : "");
    m.backend = (char *)(uintptr_t)info->backend;
    m.layout = &layout;
    m.n_blocks = w->n_blocks;
    m.max_batch = info->max_batch;
    m.max_context = info->max_context;
    m.max_step_tokens = info->max_step_tokens;
    m.vocab = info->vocab;
    m.kv_host = w->kv_public;
    m.kv_port = kvt_node_port(w->kvt);
    m.pid = (uint32_t)getpid();
    m.weight_bytes = info->weight_bytes;
    m.worker_class = class_name(w, info);
    m.can_flip = true;
    m.can_prefill = w->c.role == DAEMON_WORKER_DECODE;
    m.park_blocks = daemon_role_park_blocks(w->role);
    daemon_link_send(w->link, WIRE_JOIN, &m.base);
}

static void send_report(struct worker *w)
{
    const struct kvt_counters *k = kvt_node_counters(w->kvt);
    Baton__Report m = BATON__REPORT__INIT;
    Baton__DecodeProgress progress = BATON__DECODE_PROGRESS__INIT;
    uint64_t sent[KVT_PATHS], received[KVT_PATHS];

    memcpy(sent, k->bytes_sent, sizeof(sent));
    memcpy(received, k->bytes_received, sizeof(received));
    m.seq = ++w->reports;
    m.n_bytes_sent = m.n_bytes_received = KVT_PATHS;
    m.bytes_sent = sent;
    m.bytes_received = received;
    m.late_messages = k->late_messages + w->odd_messages;
    m.bad_messages = k->bad_messages;
    daemon_role_report(w->role, &m);
    daemon_link_send(w->link, WIRE_REPORT, &m.base);
    if (daemon_role_progress(w->role, &progress))
        daemon_link_send(w->link, WIRE_DECODE_PROGRESS, &progress.base);
}

/* ERR_OK, or no memory: then the peer would outlive the connection that introduced it. */
static enum err remember_peer(struct worker *w, uint32_t peer)
{
    for (uint32_t i = 0; i < w->n_peers; i++) {
        if (w->peers[i] == peer)
            return ERR_OK;
    }
    if (w->n_peers == w->cap_peers) {
        uint32_t cap = w->cap_peers > 0 ? w->cap_peers * 2 : 16;
        uint32_t *peers = mem_try_realloc(w->peers, cap * sizeof(*peers));

        if (peers == NULL)
            return ERR_NOMEM;
        w->peers = peers;
        w->cap_peers = cap;
    }
    w->peers[w->n_peers++] = peer;
    return ERR_OK;
}

static void on_introduce(struct worker *w, const Baton__Introduce *m)
{
    const char *host = m->host[0] != '\0' ? m->host : NULL;
    enum err err = remember_peer(w, m->peer);

    if (err == ERR_OK)
        err = kvt_node_introduce(w->kvt, w->id, m->peer, m->token.data, host, (uint16_t)m->port);
    if (err == ERR_OK && m->connect)
        err = kvt_node_connect(w->kvt, m->peer);
    if (err != ERR_OK)
        LOG_WARN("worker", "kv peer cannot be used", "peer=%u host=%s port=%u why=%s", m->peer,
                 m->host, m->port, err_name(err));
}

static void on_forget(struct worker *w, const Baton__Forget *m)
{
    for (uint32_t i = 0; i < w->n_peers; i++) {
        if (w->peers[i] == m->peer) {
            w->peers[i] = w->peers[--w->n_peers];
            break;
        }
    }
    kvt_node_forget(w->kvt, m->peer, m->process_gone);
}

static void on_welcome(struct worker *w, const Baton__Welcome *m)
{
    set_state(w, WORKER_PREPARING);
    w->id = m->worker;
    w->heartbeat_ns = m->heartbeat_ns;
    w->peer_timeout_ns = m->peer_timeout_ns;
    w->backoff_ms = BACKOFF_FIRST_MS;
    daemon_link_set_timeout(w->link, m->peer_timeout_ns);
    uv_timer_set_repeat(&w->tick, m->heartbeat_ns / CLOCK_NS_PER_MS);
    uv_timer_again(&w->tick);
    for (size_t i = 0; i < m->n_frontends && i < FRONTENDS_MAX; i++)
        frontend_add(w, m->frontends[i]);
    check(w);
}

static void start_drain(struct worker *w, const char *why);

static void on_work(struct worker *w, enum wire_type t, const ProtobufCMessage *m)
{
    uint32_t id;
    struct frontend *f;

    if (!daemon_role_on_frame(w->role, w->id, t, m, &id)) {
        LOG_WARN("worker", "unexpected frame", "frame=%s", wire_type_name(t));
        w->odd_messages++;
        return;
    }
    f = id != 0 ? frontend_find(w, id) : NULL;
    if ((t == WIRE_PREFILL || t == WIRE_RESERVE) && (f == NULL || !f->up))
        daemon_role_cancel_frontend(w->role, id);
}

/* The rest happens when the connection is closed: whoever is asked next has forgotten the old role by then. */
static void on_flip(struct worker *w, const Baton__Flip *m)
{
    uint32_t live = daemon_role_live(w->role);

    if ((enum daemon_worker_role)m->role == w->c.role)
        return;
    if (live > 0 || w->draining) {
        LOG_WARN("worker", "the role stays",
                 "asked=%s live=%u draining=%d: only an idle worker changes it",
                 role_name((enum daemon_worker_role)m->role), live, w->draining);
        return;
    }
    w->flipping = true;
    daemon_link_close(w->link);
}

static void on_drain(struct worker *w, const Baton__Drain *m)
{
    if (m->why[0] == '\0') {
        start_drain(w, "the scheduler asked for it");
        return;
    }
    LOG_ERROR("worker", "the scheduler has no use for this worker", "%s", m->why);
    leave(w, 1);
}

static void on_frame(struct daemon_link *l, void *arg, enum wire_type t, const ProtobufCMessage *m)
{
    struct worker *w = arg;

    (void)l;
    if (t == WIRE_PING)
        return;
    if (t == WIRE_WELCOME && w->state == WORKER_GREETING)
        on_welcome(w, (const Baton__Welcome *)m);
    else if (t == WIRE_DRAIN)
        on_drain(w, (const Baton__Drain *)m);
    else if (w->state != WORKER_JOINED)
        w->odd_messages++; /* nothing was promised yet */
    else if (t == WIRE_INTRODUCE)
        on_introduce(w, (const Baton__Introduce *)m);
    else if (t == WIRE_FORGET)
        on_forget(w, (const Baton__Forget *)m);
    else if (t == WIRE_FLIP)
        on_flip(w, (const Baton__Flip *)m);
    else
        on_work(w, t, m);
}

static void on_ready(struct daemon_link *l, void *arg)
{
    struct worker *w = arg;

    LOG_INFO("worker", "connected to the scheduler", "peer=%s", daemon_link_peer(l));
    set_state(w, WORKER_GREETING);
    send_loading(w);
    check(w);
}

static void on_retry(uv_timer_t *t)
{
    start_connect(t->data);
}

static void plan_connect(struct worker *w)
{
    uv_timer_start(&w->retry, on_retry, w->backoff_ms, 0);
    w->backoff_ms = w->backoff_ms * 2 < BACKOFF_MAX_MS ? w->backoff_ms * 2 : BACKOFF_MAX_MS;
}

/* What came over the connection ends with it. */
static void forget_everything(struct worker *w)
{
    frontends_drop(w);
    if (w->role != NULL)
        daemon_role_cancel_all(w->role);
    for (uint32_t i = 0; i < w->n_peers; i++)
        kvt_node_forget(w->kvt, w->peers[i], false);
    w->n_peers = 0;
}

/* Model, pool and KV node stay as they are; nothing of the old role holds a block. */
static void flip(struct worker *w)
{
    enum daemon_worker_role from = w->c.role;
    struct err_msg msg = {""};

    w->flipping = false;
    set_state(w, WORKER_DOWN);
    forget_everything(w);
    daemon_role_destroy(w->role);
    w->role = NULL;
    w->c.role = from == DAEMON_WORKER_PREFILL ? DAEMON_WORKER_DECODE : DAEMON_WORKER_PREFILL;
    if (create_role(w, &msg) != ERR_OK) {
        LOG_ERROR("worker", "cannot change the role", "%s", msg.text);
        leave(w, 1);
        return;
    }
    LOG_INFO("worker", "role changed", "from=%s to=%s", role_name(from), role_name(w->c.role));
    start_connect(w);
}

static void on_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct worker *w = arg;

    (void)l;
    w->link = NULL;
    if (w->leaving)
        return;
    if (w->flipping && !w->draining) {
        flip(w);
        return;
    }
    LOG_WARN("worker", "scheduler connection lost", "address=%s state=%s why=%s: %s",
             w->c.scheduler, state_name(w->state), err_name(why), detail);
    set_state(w, WORKER_DOWN);
    forget_everything(w);
    if (why == ERR_AUTH || why == ERR_UNSUPPORTED) {
        LOG_ERROR("worker", "the scheduler refuses this worker",
                  "%s; check --secret-file and versions", detail);
        leave(w, 1);
    } else if (w->c.exit_with_parent || w->draining) {
        leave(w, 0);
    } else {
        plan_connect(w);
    }
}

static const struct daemon_link_hooks scheduler_hooks = {
    .on_ready = on_ready, .on_frame = on_frame, .on_closed = on_closed};

static void start_connect(struct worker *w)
{
    struct daemon_link_options o = {.loop = &w->loop, .secret = &w->secret};
    enum wire_role role = w->c.role == DAEMON_WORKER_PREFILL ? WIRE_ROLE_PREFILL : WIRE_ROLE_DECODE;
    struct err_msg msg = {""};

    set_state(w, WORKER_CONNECTING);
    if (daemon_link_connect(&o, w->c.scheduler, role, &scheduler_hooks, w, &msg, &w->link) ==
        ERR_OK)
        return;
    w->link = NULL;
    set_state(w, WORKER_DOWN);
    LOG_WARN("worker", "cannot connect to the scheduler", "%s", msg.text);
    plan_connect(w);
}

/* ---- what follows from what is known ---- */

static bool frontends_up(const struct worker *w)
{
    for (const struct frontend *f = w->frontends; f != NULL; f = f->next) {
        if (!f->up)
            return false;
    }
    return true;
}

static void check(struct worker *w)
{
    struct err_msg msg = {""};

    if (w->leaving)
        return;
    if (w->engine != NULL && w->role == NULL && choose_kv_host(w) && build(w, &msg) != ERR_OK) {
        LOG_ERROR("worker", "cannot start", "%s", msg.text);
        leave(w, 1);
        return;
    }
    if (w->draining && (w->role == NULL || daemon_role_live(w->role) == 0)) {
        leave(w, 0);
        return;
    }
    if (w->state == WORKER_PREPARING && w->role != NULL && !w->draining && frontends_up(w) &&
        daemon_role_live(w->role) == 0) {
        set_state(w, WORKER_JOINED);
        send_join(w);
        send_report(w);
    }
}

/* A file server that does not answer holds the loading thread, which nobody can call back.  A new process may
 * have more luck. */
static void check_load(struct worker *w)
{
    uint64_t limit = w->c.load_timeout_s * CLOCK_NS_PER_S;

    if (!w->loading || limit == 0 || clock_now_ns() - w->load_moved_ns < limit)
        return;
    LOG_ERROR("worker", "the load of the model stands still",
              "phase=%s done=%.1f of %.1f MB for_s=%u; ends, to be started anew", w->phase,
              (double)w->loaded / 1e6, (double)w->to_load / 1e6, w->c.load_timeout_s);
    leave(w, EXIT_LOAD_STALLED);
}

static void on_tick(uv_timer_t *t)
{
    struct worker *w = t->data;

    check_load(w);
    check(w);
    if (!w->leaving && w->engine != NULL && engine_failed(w->engine))
        on_broken(w, "its device failed outside a step");
    if (w->leaving)
        return;
    if (w->state == WORKER_JOINED)
        send_report(w);
    else if (w->state == WORKER_GREETING || w->state == WORKER_PREPARING)
        send_loading(w);
}

/* ---- leaving ---- */

static uint32_t live(const struct worker *w)
{
    return w->role != NULL ? daemon_role_live(w->role) : 0;
}

static void on_drain_deadline(uv_timer_t *t)
{
    LOG_WARN("worker", "drain limit passed", "live=%u", live(t->data));
    leave(t->data, 0);
}

static void start_drain(struct worker *w, const char *why)
{
    if (w->draining || w->leaving)
        return;
    LOG_INFO("worker", "draining", "why=%s live=%u", why, live(w));
    w->draining = true;
    if (w->state == WORKER_JOINED) {
        Baton__Drain m = BATON__DRAIN__INIT; /* so that nothing more is placed here */

        daemon_link_send(w->link, WIRE_DRAIN, &m.base);
    }
    uv_timer_start(&w->deadline, on_drain_deadline, DRAIN_MS, 0);
    check(w);
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct worker *w = s->data;

    /* The terminal sends interrupts and hang-ups to the parent too, which tells its workers what to do. */
    if (signum != SIGTERM && w->c.exit_with_parent)
        return;
    if (signum == SIGHUP && w->hangup_means != DAEMON_HANGUP_ENDS) {
        LOG_INFO("worker", "hangup", "nothing to do: options are read at the start only");
        return;
    }
    if (signum == SIGINT && ++w->interrupts > 1)
        leave(w, 130);
    else
        start_drain(w, signum == SIGINT ? "interrupt" : signum == SIGHUP ? "hangup" : "terminated");
}

static void on_leave_deadline(uv_timer_t *t)
{
    struct worker *w = t->data;

    LOG_WARN("worker", "not everything closed in time", "status=%d", w->status);
    fflush(NULL);
    _exit(w->status);
}

static void on_kvt_closed(void *arg)
{
    struct worker *w = arg;

    engine_close(w->engine);
    w->engine = NULL;
}

/* A pool in host memory is the node's and is used by the engine; one in device memory is the engine's and is
 * used by the node. */
static void close_engine(struct worker *w, bool device)
{
    if (!device || w->kvt == NULL)
        on_kvt_closed(w);
    if (w->kvt != NULL)
        kvt_node_close(w->kvt, device ? on_kvt_closed : NULL, w);
    w->kvt = NULL;
}

static void finish_leave(struct worker *w)
{
    bool device = w->engine != NULL && engine_kv_memory(w->engine) != NULL;
    bool lost = device && w->status == EXIT_BROKEN;
    uv_handle_t *own[] = {(uv_handle_t *)&w->tick, (uv_handle_t *)&w->retry,
                          (uv_handle_t *)&w->term, (uv_handle_t *)&w->interrupt,
                          (uv_handle_t *)&w->hangup};

    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        uv_close(own[i], NULL);
    if (w->link != NULL)
        daemon_link_close(w->link);
    frontends_drop(w);
    daemon_role_destroy(w->role);
    w->role = NULL;
    /* A broken device may let go of nothing: then the end of the process has to do. */
    if (!lost)
        close_engine(w, device);
    /* Ends the process if a handle does not close; does not keep the loop alive itself. */
    uv_timer_start(&w->deadline, on_leave_deadline, lost ? FLUSH_MS : LEAVE_MS, 0);
    uv_unref((uv_handle_t *)&w->deadline);
}

static void on_leave_turn(uv_timer_t *t)
{
    finish_leave(t->data);
}

/* May be called from hooks of what it destroys, so the work waits for the next turn of the loop. */
static void leave(struct worker *w, int status)
{
    if (w->leaving)
        return;
    LOG_INFO("worker", "leaving", "status=%d", status);
    w->leaving = true;
    w->status = status;
    if (w->loading) {
        fflush(NULL);
        _exit(status); /* a load cannot be stopped; the process holds nothing else yet */
    }
    uv_timer_start(&w->deadline, on_leave_turn, 0, 0);
}

/* ---- start ---- */

static void init_handles(struct worker *w)
{
    uv_timer_init(&w->loop, &w->tick);
    uv_timer_init(&w->loop, &w->retry);
    uv_timer_init(&w->loop, &w->deadline);
    uv_signal_init(&w->loop, &w->term);
    uv_signal_init(&w->loop, &w->interrupt);
    uv_signal_init(&w->loop, &w->hangup);
    w->hangup.data = w;
    w->tick.data = w->retry.data = w->deadline.data = w->term.data = w->interrupt.data = w;
    uv_timer_start(&w->tick, on_tick, TICK_MS, TICK_MS);
    uv_signal_start(&w->term, on_signal, SIGTERM);
    uv_signal_start(&w->interrupt, on_signal, SIGINT);
    w->hangup_means = daemon_hangup_meaning();
    if (w->hangup_means != DAEMON_HANGUP_IGNORED)
        uv_signal_start(&w->hangup, on_signal, SIGHUP);
}

static enum err start_load(struct worker *w)
{
    struct engine_config e = {.backend = w->c.backend,
                              .model_dir = w->c.model_dir,
                              .sim_profile = w->c.sim_profile,
                              .threads = w->c.threads,
                              .tp = w->c.tp,
                              .kv_blocks = w->c.kv_blocks,
                              .random_seed = w->c.random_weights,
                              .step_timeout_ms = w->c.step_timeout_s * 1000,
                              .block_tokens = w->c.block_tokens,
                              .max_context = w->c.max_context,
                              .max_batch = w->c.max_batch,
                              .max_step_tokens = w->c.max_step_tokens};
    struct daemon_load *load;

    /* The configuration was checked; were one of these ignored, somebody else's device might be taken. */
    if ((w->c.device != NULL &&
         daemon_device_list_parse(w->c.device, &w->devices, NULL) != ERR_OK) ||
        (w->c.gpu_memory != NULL &&
         daemon_device_share_parse(w->c.gpu_memory, &e.device_memory, NULL) != ERR_OK))
        return ERR_INVALID;
    if (w->c.weights != NULL && !engine_weights_named(w->c.weights, &e.weights))
        return ERR_INVALID;
    if (w->c.device != NULL)
        e.devices = w->devices.v;
    if (e.devices != NULL && w->devices.n < (e.tp > 0 ? e.tp : 1))
        return ERR_INVALID;
    snprintf(w->phase, sizeof(w->phase), "opening");
    w->loading = true;
    w->load_moved_ns = clock_now_ns();
    return daemon_load_start(&e, &w->loop, &load_hooks, w, &load);
}

static enum err prepare(struct worker *w, struct err_msg *msg)
{
    enum err err = daemon_addr_parse(w->c.scheduler, &w->scheduler, msg);

    if (err == ERR_OK)
        err = daemon_secret_read("secret file", w->c.secret_file, &w->secret, msg);
    if (err == ERR_OK && uv_loop_init(&w->loop) != 0)
        err = err_set(msg, ERR_NOMEM, "cannot make an event loop");
    return err;
}

int daemon_worker_run(const struct daemon_worker_config *c)
{
    struct worker *w = mem_try_calloc(1, sizeof(*w));
    struct err_msg msg = {""};
    enum err err;
    int status = 1;

    /* If the parent ended before this call, the connection to it fails, and that ends us too. */
    if (c->exit_with_parent)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    if (w == NULL)
        return 1;
    w->c = *c;
    w->backoff_ms = BACKOFF_FIRST_MS;
    if (prepare(w, &msg) != ERR_OK) {
        LOG_ERROR("worker", "cannot start", "%s", msg.text);
        mem_free(w);
        return 1;
    }
    init_handles(w);
    start_connect(w);
    err = start_load(w);
    if (err != ERR_OK) {
        w->loading = false;
        LOG_ERROR("worker", "cannot start", "%s",
                  err == ERR_INVALID ? "device, gpu_memory or weights is not valid, or fewer "
                                       "devices are listed than the worker has ranks"
                                     : "no memory to load the model");
        leave(w, 1);
    }
    uv_run(&w->loop, UV_RUN_DEFAULT);
    /* The deadline timer is what remains. */
    uv_close((uv_handle_t *)&w->deadline, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_loop_close(&w->loop);
    status = w->status;
    if (w->engine != NULL) { /* of a lost device: exit handlers of its runtime would wait for it */
        fflush(NULL);
        _exit(status);
    }
    explicit_bzero(&w->secret, sizeof(w->secret));
    mem_free(w->peers);
    mem_free(w);
    return status;
}
