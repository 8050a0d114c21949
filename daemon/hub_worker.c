/* daemon/hub_worker.c - worker connections: who joins, what they say, and what follows from their end. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/hub_impl.h"

/* ---- workers ---- */

static void free_worker(struct worker *w)
{
    wire_free(w->join != NULL ? &w->join->base : NULL);
    wire_free(w->loading != NULL ? &w->loading->base : NULL);
    wire_free(w->report != NULL ? &w->report->base : NULL);
    for (size_t i = 0; i < w->n_links; i++)
        wire_free(&w->links[i].info->base);
    mem_free(w->links);
    mem_free(w);
}

static const char *role_name(enum sched_role r)
{
    return r == SCHED_ROLE_PREFILL ? "prefill" : "decode";
}

/* Names are labels of metrics; workers started by hand may all have the same. */
static void name_worker(struct worker *w, const char *wanted)
{
    bool taken = wanted == NULL;

    for (const struct worker *o = w->hub->first; o != NULL && !taken; o = o->next)
        taken = o != w && o->joined && !o->lost && strcmp(o->name, wanted) == 0;
    if (wanted == NULL)
        wanted = role_name(w->role);
    if (taken)
        snprintf(w->name, sizeof(w->name), "%.*s#%u", (int)WIRE_NAME_MAX, wanted, w->id);
    else
        snprintf(w->name, sizeof(w->name), "%.*s", (int)WIRE_NAME_MAX, wanted);
}

static void worker_remove(struct worker *w)
{
    struct daemon_hub *h = w->hub;

    if (w->control != NULL || w->tokens != NULL)
        return;
    for (struct worker **at = &h->first; *at != NULL; at = &(*at)->next) {
        if (*at == w) {
            *at = w->next;
            break;
        }
    }
    map_del(&h->workers, w->id);
    free_worker(w);
}

void hub_tell_forget(struct daemon_hub *h, uint32_t peer, bool process_gone)
{
    Baton__Forget m = BATON__FORGET__INIT;

    m.peer = peer;
    m.process_gone = process_gone;
    for (struct worker *w = h->first; w != NULL; w = w->next) {
        if (w->joined && w->control != NULL && w->id != peer)
            daemon_link_send(w->control, WIRE_FORGET, &m.base);
    }
}

/* What others measured towards a worker that left means nothing any more. */
static void forget_links(struct daemon_hub *h, uint32_t peer)
{
    for (struct worker *w = h->first; w != NULL; w = w->next) {
        for (size_t i = 0; i < w->n_links; i++) {
            if (w->links[i].peer != peer)
                continue;
            wire_free(&w->links[i].info->base);
            w->links[i] = w->links[--w->n_links];
            break;
        }
    }
}

/* Before the scheduler hears that a worker left, it must know what its requests have delivered. */
void hub_worker_leave(struct worker *w, enum err why)
{
    struct daemon_hub *h = w->hub;
    struct sched_event e = {.kind = SCHED_EV_WORKER_LEAVE, .worker = w->id};

    if (w->lost)
        return;
    w->lost = true;
    if (w->joined) {
        uint64_t *ids = NULL;
        size_t n = 0;

        if (sched_worker_requests(h->sched, w->id, &ids, &n) == ERR_OK) {
            for (size_t i = 0; i < n; i++)
                hub_tell_delivered(h, ids[i]);
            mem_free(ids);
        }
        hub_tell_forget(h, w->id, false);
        forget_links(h, w->id);
        hub_event(h, &e);
    }
    if (w->pid != 0)
        h->graves[h->next_grave++ % GRAVES] = (struct grave){w->id, w->pid};
    /* A worker that could not load ends by itself, with a status that says so; and one that changes its
     * role comes back. */
    if (w->pid != 0 && ((w->joined && !w->flipping) || why != ERR_PEER_LOST))
        h->c.hooks.on_worker_lost(h->c.supervisor_arg, w->pid, why);
    h->c.hooks.on_pool_change(h->c.supervisor_arg);
}

static void on_control_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct worker *w = arg;
    struct daemon_hub *h = w->hub;

    if (!h->closing && w->flipping && why == ERR_PEER_LOST)
        LOG_INFO("hub", "worker left to change its role", "worker=%u name=%s", w->id, w->name);
    else if (!h->closing)
        LOG_WARN("hub", "worker left", "worker=%u name=%s peer=%s why=%s: %s", w->id, w->name,
                 daemon_link_peer(l), err_name(why), detail);
    w->control = NULL;
    if (w->tokens != NULL)
        daemon_link_close(w->tokens);
    if (!h->closing)
        hub_worker_leave(w, why);
    worker_remove(w);
    hub_part_closed(h);
}

static void worker_welcome(struct worker *w)
{
    struct daemon_hub *h = w->hub;
    Baton__Welcome m = BATON__WELCOME__INIT;
    Baton__Frontend frontend = BATON__FRONTEND__INIT, *list[1] = {&frontend};
    char address[DAEMON_LINK_ADDRESS_MAX];

    /* A worker reaches the front end where it reached the scheduler: they are one process. */
    daemon_link_local(w->control, address);
    frontend.id = FRONTEND_ID;
    frontend.address = address;
    m.worker = w->id;
    m.heartbeat_ns = h->c.heartbeat_ns;
    m.peer_timeout_ns = h->c.peer_timeout_ns;
    m.n_frontends = 1;
    m.frontends = list;
    daemon_link_send(w->control, WIRE_WELCOME, &m.base);
}

static bool same_model(const Baton__Join *a, const Baton__Join *b)
{
    const Baton__KvLayout *x = a->layout, *y = b->layout;

    return a->vocab == b->vocab && x->n_layers == y->n_layers && x->n_kv_heads == y->n_kv_heads &&
           x->head_dim == y->head_dim && x->block_tokens == y->block_tokens &&
           x->dtype == y->dtype && x->model_id == y->model_id;
}

/* It ends, and says why where it runs: it would wait for work in vain, and if only its connection were closed it would
 * try again. */
static void refuse(struct worker *w, const struct worker *unlike)
{
    Baton__Drain m = BATON__DRAIN__INIT;
    char why[WIRE_NAME_MAX];

    snprintf(why, sizeof(why),
             "weights, vocabulary, number type of the KV (--backend) or --block-tokens differ from "
             "those of %.64s, which serves there",
             unlike->name);
    m.why = why;
    daemon_link_send(w->control, WIRE_DRAIN, &m.base);
}

/* Tokens of another model would be wrong answers.  A worker of this machine has the front end's model; who
 * joined before it from elsewhere with another one has to go. */
static bool fits_others(struct worker *w, const Baton__Join *m)
{
    for (struct worker *o = w->hub->first; o != NULL; o = o->next) {
        bool theirs = w->pid != 0 && o->pid == 0;

        if (o == w || !o->joined || o->lost || same_model(m, o->join))
            continue;
        LOG_ERROR(
            "hub", "worker has another model",
            "worker=%u name=%s peer=%s: its weights, vocabulary, number type of the KV "
            "(--backend) or --block-tokens differ from those of worker=%u name=%s; %s has to go",
            w->id, m->name, daemon_link_peer(w->control), o->id, o->name,
            theirs ? o->name : m->name);
        if (!theirs) {
            refuse(w, o);
            return false;
        }
        daemon_link_close(o->control); /* refused when it comes back */
    }
    return true;
}

const char *hub_class_name(const Baton__Join *m)
{
    return m->worker_class[0] != '\0' ? m->worker_class : "default";
}

uint32_t hub_tp(const Baton__Join *m)
{
    return m->layout->parts > 0 ? m->layout->parts : 1;
}

/* The scheduler's number of the worker's class, with what is known of it to start from.  Without room for one
 * more class the worker counts as one of "default". */
static uint32_t class_of(struct daemon_hub *h, const Baton__Join *m)
{
    struct sched_class k = {.name = ""};
    struct err_msg msg = {""};
    uint32_t id = 0;

    for (uint32_t i = 0; i < h->c.n_classes; i++) {
        if (strcmp(h->c.classes[i].name, hub_class_name(m)) == 0)
            k = h->c.classes[i];
    }
    snprintf(k.name, sizeof(k.name), "%.*s", (int)sizeof(k.name) - 1, hub_class_name(m));
    if (sched_add_class(h->sched, &k, &msg, &id) != ERR_OK) {
        LOG_WARN("hub", "class not taken", "class=%s: %s", k.name, msg.text);
        return 0;
    }
    return id;
}

/* true: the message is kept. */
static bool take_join(struct worker *w, Baton__Join *m)
{
    struct daemon_hub *h = w->hub;
    struct sched_event e = {.kind = SCHED_EV_WORKER_JOIN, .worker = w->id};
    uint32_t least;

    if (w->joined) {
        daemon_link_close(w->control);
        return false;
    }
    if (!fits_others(w, m))
        return false;
    name_worker(w, m->name);
    w->join = m;
    least = daemon_hub_max_context(h);
    if (least > 0 && m->max_context < least)
        LOG_WARN("hub", "worker lowers the context for all", "worker=%u name=%s from=%u to=%u",
                 w->id, w->name, least, m->max_context);
    w->joined = true;
    w->joined_at = clock_now_ns();
    daemon_link_set_timeout(w->control, h->c.peer_timeout_ns);
    e.u.join.role = w->role;
    e.u.join.n_blocks = m->n_blocks;
    e.u.join.block_tokens = m->layout->block_tokens;
    e.u.join.max_batch = m->max_batch;
    e.u.join.max_context = m->max_context;
    e.u.join.klass = class_of(h, m);
    e.u.join.max_step_tokens = m->max_step_tokens;
    e.u.join.can_flip = m->can_flip;
    e.u.join.can_prefill = m->can_prefill;
    LOG_INFO(
        "hub", "worker joined",
        "worker=%u name=%s role=%s backend=%s tp=%u pid=%u blocks=%u block_tokens=%u context=%u "
        "batch=%u class=%s kv=%s:%u",
        w->id, w->name, role_name(w->role), m->backend, hub_tp(m), m->pid, m->n_blocks,
        m->layout->block_tokens, m->max_context, m->max_batch, hub_class_name(m), m->kv_host,
        m->kv_port);
    hub_event(h, &e);
    h->c.hooks.on_pool_change(h->c.supervisor_arg);
    return true;
}

/* ---- messages of workers ---- */

static void on_granted(struct worker *w, const Baton__Granted *m)
{
    struct daemon_hub *h = w->hub;
    struct sched_event e = {
        .kind = SCHED_EV_GRANTED, .request = m->request, .epoch = m->epoch, .worker = w->id};
    Baton__Grant grant = BATON__GRANT__INIT;
    enum sched_state state;
    uint32_t epoch, prefill, decode;

    if (!m->ok && m->error[0] != '\0') /* a cancel has no reason */
        LOG_WARN("hub", "grant refused", "worker=%u req=%016llx why=%s", w->id,
                 (unsigned long long)m->request, m->error);
    e.u.granted.ok = m->ok;
    if (!m->ok)
        hub_tell_delivered(h, m->request);
    hub_event(h, &e);
    if (!m->ok ||
        sched_get_request(h->sched, m->request, &state, &epoch, &prefill, &decode) != ERR_OK ||
        epoch != m->epoch || decode != w->id)
        return;
    grant.request = m->request;
    grant.epoch = m->epoch;
    grant.decode_worker = w->id;
    grant.transfer = m->transfer;
    grant.blocks = m->blocks;
    hub_send_to(h, prefill, WIRE_GRANT, &grant);
}

static void on_progress(struct worker *w, const Baton__PrefillProgress *m)
{
    struct sched_event e = {.kind = SCHED_EV_PREFILL_PROGRESS,
                            .request = m->request,
                            .epoch = m->epoch,
                            .worker = w->id};

    e.u.progress.tokens_done = m->tokens_done;
    e.u.progress.step_ns = m->step_ns;
    e.u.progress.step_tokens = m->step_tokens;
    hub_event(w->hub, &e);
}

static void on_prefilled(struct worker *w, const Baton__PrefillDone *m)
{
    struct daemon_hub *h = w->hub;
    struct sched_event e = {
        .kind = SCHED_EV_PREFILL_DONE, .request = m->request, .epoch = m->epoch, .worker = w->id};
    struct daemon_stage stage = {.kind = DAEMON_STAGE_PREFILLED,
                                 .epoch = m->epoch,
                                 .worker = w->id,
                                 .queue_ns = m->queue_ns,
                                 .prefill_ns = m->prefill_ns};

    e.u.prefilled.finished = m->finished;
    e.u.prefilled.queue_ns = m->queue_ns;
    e.u.prefilled.prefill_ns = m->prefill_ns;
    h->c.hooks.on_stage(h->c.arg, m->request, &stage);
    hub_event(h, &e);
}

static void on_handover(struct worker *w, const Baton__HandoverDone *m)
{
    struct daemon_hub *h = w->hub;
    struct sched_event e = {
        .kind = SCHED_EV_HANDOVER_DONE, .request = m->request, .epoch = m->epoch, .worker = w->id};
    struct daemon_stage stage = {.kind = DAEMON_STAGE_HANDED_OVER,
                                 .epoch = m->epoch,
                                 .worker = w->id,
                                 .wire_ns = m->wire_ns,
                                 .exposed_ns = m->exposed_ns,
                                 .verify_ns = m->verify_ns,
                                 .bytes = m->bytes,
                                 .from_decode = m->from_decode,
                                 .path = m->path};

    e.u.handover.err = (enum err)m->err;
    e.u.handover.from_decode = m->from_decode;
    if (!m->from_decode) { /* the sender measures these */
        e.u.handover.bytes = m->bytes;
        e.u.handover.wire_ns = m->wire_ns;
        e.u.handover.exposed_ns = m->exposed_ns;
    }
    if (m->err == ERR_OK) {
        h->c.hooks.on_stage(h->c.arg, m->request, &stage);
    } else {
        if (m->err != ERR_CANCELED)
            LOG_WARN("hub", "hand-over failed", "req=%016llx epoch=%u worker=%u side=%s err=%s",
                     (unsigned long long)m->request, m->epoch, w->id,
                     m->from_decode ? "decode" : "prefill", err_name((enum err)m->err));
        hub_tell_delivered(h, m->request);
    }
    hub_event(h, &e);
}

static void on_released(struct worker *w, const Baton__Released *m)
{
    struct sched_event e = {
        .kind = SCHED_EV_RELEASED, .request = m->request, .epoch = m->epoch, .worker = w->id};

    if (m->err != ERR_OK && m->err != ERR_CANCELED) {
        LOG_WARN("hub", "worker gave a request up", "req=%016llx worker=%u err=%s: %s",
                 (unsigned long long)m->request, w->id, err_name((enum err)m->err), m->error);
        hub_tell_delivered(w->hub, m->request);
    }
    e.u.released.err = (enum err)m->err;
    hub_event(w->hub, &e);
}

static void on_decode_progress(struct worker *w, const Baton__DecodeProgress *m)
{
    for (size_t i = 0; i < m->n_request; i++)
        hub_tell_delivered(w->hub, m->request[i]);
}

static void tell_steps(struct worker *w, const Baton__Report *m)
{
    for (size_t i = 0; i < m->n_sample; i++) {
        const Baton__StepSample *from = m->sample[i];
        struct sched_event e = {.kind = SCHED_EV_STEP, .worker = w->id};

        e.u.step.did = (struct sched_step){.n = (double)from->n,
                                           .n2 = (double)from->n2,
                                           .b = (double)from->b,
                                           .ctx = (double)from->ctx};
        e.u.step.ns = from->ns;
        hub_event(w->hub, &e);
    }
}

/* It was told to end: it finishes what it has and takes nothing new. */
static void on_drain(struct worker *w)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_DRAIN, .worker = w->id};

    LOG_INFO("hub", "worker drains", "worker=%u name=%s", w->id, w->name);
    hub_event(w->hub, &e);
}

/* true: the message is kept. */
static bool take_report(struct worker *w, Baton__Report *m)
{
    struct sched_event e = {.kind = SCHED_EV_WORKER_REPORT, .worker = w->id};

    wire_free(w->report != NULL ? &w->report->base : NULL);
    w->report = m;
    w->report_at = clock_now_ns();
    e.u.report.free_blocks = m->free_blocks;
    e.u.report.waiting = m->waiting;
    e.u.report.running = m->running;
    e.u.report.parked = m->parked;
    e.u.report.step_ns = m->step_ns;
    e.u.report.steps = m->decode_steps;
    e.u.report.context = m->context;
    if (w->joined)
        hub_event(w->hub, &e);
    if (w->joined)
        tell_steps(w, m);
    return true;
}

static bool take_loading(struct worker *w, Baton__Loading *m)
{
    wire_free(w->loading != NULL ? &w->loading->base : NULL);
    w->loading = m;
    w->hub->c.hooks.on_pool_change(w->hub->c.supervisor_arg);
    return true;
}

/* KV flows from prefill to decode: what the other side measured is not asked for. */
static void tell_link(const struct worker *w, const struct worker *peer, const Baton__Link *m)
{
    struct sched_event e = {.kind = SCHED_EV_LINK, .worker = w->id};

    if (w->role != SCHED_ROLE_PREFILL || peer->role != SCHED_ROLE_DECODE || !w->joined)
        return;
    e.u.link.peer = peer->id;
    e.u.link.bytes_per_s = m->bytes_per_s;
    e.u.link.setup_ns = m->round_trip_ns;
    hub_event(w->hub, &e);
}

static bool take_link(struct worker *w, Baton__Link *m)
{
    const struct worker *peer = hub_find_worker(w->hub, m->peer);
    struct peer_link *grown;

    if (peer == NULL)
        return false;
    tell_link(w, peer, m);
    LOG_INFO("hub", "kv link",
             "from=%u to=%u path=%s one_sided=%d lanes=\"%s\" GB/s=%.2f rtt_us=%.1f", w->id,
             m->peer, kvt_path_name((enum kvt_path)m->path), m->one_sided, m->lanes,
             m->bytes_per_s / 1e9, (double)m->round_trip_ns / 1e3);
    for (size_t i = 0; i < w->n_links; i++) {
        if (w->links[i].peer == m->peer) {
            wire_free(&w->links[i].info->base);
            w->links[i].info = m;
            return true;
        }
    }
    if (w->n_links >= LINKS_PER_WORKER_MAX)
        return false;
    grown = mem_try_realloc(w->links, (w->n_links + 1) * sizeof(*grown));
    if (grown == NULL)
        return false;
    w->links = grown;
    w->links[w->n_links++] = (struct peer_link){m->peer, m};
    return true;
}

/* Messages are handed over whole where they are kept: the link frees what it gave us, so what is kept is
 * packed and unpacked again; these are the rare ones. */
static void *copy_message(enum wire_type t, const ProtobufCMessage *m)
{
    struct buf packed = BUF_INIT;
    ProtobufCMessage *copy = NULL;

    if (wire_pack(t, m, &packed) != ERR_OK ||
        wire_unpack(t, (const uint8_t *)buf_bytes(&packed) + WIRE_FRAME_HEADER,
                    packed.len - WIRE_FRAME_HEADER, &copy, NULL) != ERR_OK)
        copy = NULL;
    buf_free(&packed);
    return copy;
}

static void on_kept(struct worker *w, enum wire_type t, const ProtobufCMessage *m)
{
    void *copy = copy_message(t, m);
    bool kept;

    if (copy == NULL)
        return;
    if (t == WIRE_JOIN)
        kept = take_join(w, copy);
    else if (t == WIRE_REPORT)
        kept = take_report(w, copy);
    else if (t == WIRE_LOADING)
        kept = take_loading(w, copy);
    else
        kept = take_link(w, copy);
    if (!kept)
        wire_free(copy);
}

static void on_control_frame(struct daemon_link *l, void *arg, enum wire_type t,
                             const ProtobufCMessage *m)
{
    struct worker *w = arg;

    if (t == WIRE_JOIN || t == WIRE_REPORT || t == WIRE_LOADING || t == WIRE_LINK)
        on_kept(w, t, m);
    else if (!w->joined)
        daemon_link_close(l);
    else if (t == WIRE_GRANTED)
        on_granted(w, (const Baton__Granted *)m);
    else if (t == WIRE_PREFILL_PROGRESS)
        on_progress(w, (const Baton__PrefillProgress *)m);
    else if (t == WIRE_PREFILL_DONE)
        on_prefilled(w, (const Baton__PrefillDone *)m);
    else if (t == WIRE_HANDOVER_DONE)
        on_handover(w, (const Baton__HandoverDone *)m);
    else if (t == WIRE_RELEASED)
        on_released(w, (const Baton__Released *)m);
    else if (t == WIRE_DECODE_PROGRESS)
        on_decode_progress(w, (const Baton__DecodeProgress *)m);
    else if (t == WIRE_DRAIN)
        on_drain(w);
    else {
        LOG_WARN("hub", "unexpected frame", "worker=%u frame=%s", w->id, wire_type_name(t));
        daemon_link_close(l);
    }
}

static const struct daemon_link_hooks control_hooks = {.on_frame = on_control_frame,
                                                       .on_closed = on_control_closed};

/* ---- the token connection ---- */

/* Until ATTACH names the worker, arg is the hub; afterwards the link belongs to a worker. */
static void on_tokens_frame(struct daemon_link *l, void *arg, enum wire_type t,
                            const ProtobufCMessage *m)
{
    struct worker *w = arg;

    if (t == WIRE_TOKENS)
        w->hub->c.hooks.on_tokens(w->hub->c.arg, (const Baton__Tokens *)m);
    else
        daemon_link_close(l);
}

static void on_tokens_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct worker *w = arg;
    struct daemon_hub *h = w->hub;

    (void)l;
    w->tokens = NULL;
    if (!h->closing && w->control != NULL && !w->flipping) {
        /* Tokens may have been lost with it: the worker must start anew. */
        LOG_WARN("hub", "token connection lost", "worker=%u why=%s: %s", w->id, err_name(why),
                 detail);
        daemon_link_close(w->control);
    }
    worker_remove(w);
    hub_part_closed(h);
}

struct unattached {
    struct daemon_hub *hub;
    struct daemon_link *link;
    struct worker *worker; /* once attached */
    struct unattached *next;
};

static void unattached_remove(struct unattached *u)
{
    for (struct unattached **at = &u->hub->unattached; *at != NULL; at = &(*at)->next) {
        if (*at == u) {
            *at = u->next;
            return;
        }
    }
}

static void on_unattached_frame(struct daemon_link *l, void *arg, enum wire_type t,
                                const ProtobufCMessage *m)
{
    struct unattached *u = arg;
    struct worker *w;

    if (u->worker != NULL) {
        on_tokens_frame(l, u->worker, t, m);
        return;
    }
    w = t == WIRE_ATTACH ? hub_find_worker(u->hub, ((const Baton__Attach *)m)->worker) : NULL;
    if (w == NULL || w->tokens != NULL || w->lost) {
        daemon_link_close(l);
        return;
    }
    unattached_remove(u);
    u->worker = w;
    w->tokens = l;
    daemon_link_set_timeout(l, UINT64_MAX /
                                   2); /* silent while nothing is generated: control watches */
}

static void on_unattached_closed(struct daemon_link *l, void *arg, enum err why, const char *detail)
{
    struct unattached *u = arg;

    if (u->worker != NULL) {
        on_tokens_closed(l, u->worker, why, detail);
    } else {
        unattached_remove(u);
        hub_part_closed(u->hub);
    }
    mem_free(u);
}

static const struct daemon_link_hooks unattached_hooks = {.on_frame = on_unattached_frame,
                                                          .on_closed = on_unattached_closed};

static bool accept_tokens(struct daemon_hub *h, struct daemon_link *l,
                          const struct daemon_link_hooks **hooks, void **arg)
{
    struct unattached *u = mem_try_calloc(1, sizeof(*u));

    if (u == NULL)
        return false;
    u->hub = h;
    u->link = l;
    u->next = h->unattached;
    h->unattached = u;
    *hooks = &unattached_hooks;
    *arg = u;
    h->open_parts++;
    return true;
}

static bool accept_worker(struct daemon_hub *h, struct daemon_link *l, enum wire_role role,
                          const struct daemon_link_hooks **hooks, void **arg)
{
    struct worker *w = mem_try_calloc(1, sizeof(*w)), **at = &h->first;

    if (w == NULL)
        return false;
    w->id = ++h->next_worker;
    w->hub = h;
    w->role = role == WIRE_ROLE_PREFILL ? SCHED_ROLE_PREFILL : SCHED_ROLE_DECODE;
    w->control = l;
    w->pid = daemon_link_peer_pid(l);
    name_worker(w, NULL);
    if (map_put(&h->workers, w->id, w) != ERR_OK) {
        mem_free(w);
        return false;
    }
    while (*at != NULL)
        at = &(*at)->next;
    *at = w;
    *hooks = &control_hooks;
    *arg = w;
    h->open_parts++;
    worker_welcome(w);
    return true;
}

bool hub_on_accept(void *arg, struct daemon_link *l, enum wire_role role,
                   const struct daemon_link_hooks **hooks, void **link_arg)
{
    struct daemon_hub *h = arg;

    if (h->closing)
        return false;
    if (role == WIRE_ROLE_TOKENS)
        return accept_tokens(h, l, hooks, link_arg);
    return accept_worker(h, l, role, hooks, link_arg);
}

void hub_close_workers(struct daemon_hub *h)
{
    Baton__Drain drain = BATON__DRAIN__INIT;

    for (struct worker *w = h->first; w != NULL; w = w->next) {
        if (w->control != NULL) {
            daemon_link_send(w->control, WIRE_DRAIN, &drain.base);
            daemon_link_close(w->control);
        }
        if (w->tokens != NULL)
            daemon_link_close(w->tokens);
    }
    for (struct unattached *u = h->unattached; u != NULL; u = u->next)
        daemon_link_close(u->link);
}
