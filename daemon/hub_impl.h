/* daemon/hub_impl.h - what the files of the hub share: hub.c (the scheduler's events and actions),
 * hub_worker.c (worker connections and their messages).  Private to them. */
#ifndef DAEMON_HUB_IMPL_H
#define DAEMON_HUB_IMPL_H

#include <uv.h>

#include "base/map.h"
#include "daemon/hub.h"
#include "daemon/link.h"
#include "proto/wire_check.h"

enum { LISTENERS_MAX = 4, FRONTEND_ID = 1, LINKS_PER_WORKER_MAX = 4096, GRAVES = 256 };

/* A worker of this machine that left while its process may still run and write. */
struct grave {
    uint32_t worker, pid;
};

struct peer_link {
    uint32_t peer;
    Baton__Link *info;
};

struct worker {
    uint32_t id;
    enum sched_role role;
    bool joined, lost;
    bool flipping; /* told to leave and to come back in the other role */
    uint32_t pid;  /* as the kernel says; 0: of another host, whose ids mean nothing here */
    char name[WIRE_NAME_MAX + 16]; /* no two live workers have the same */
    struct daemon_hub *hub;
    struct daemon_link *control, *tokens;
    Baton__Join *join;
    Baton__Loading *loading;
    Baton__Report *report;
    uint64_t report_at, joined_at;
    struct peer_link *links; /* as this worker probed them */
    size_t n_links;
    struct worker *next;
};

struct daemon_hub {
    struct daemon_hub_config c;
    struct wire_secret secret;
    struct sched *sched;
    struct sched_actions actions;
    struct sched_event *events; /* queue */
    size_t n_events, cap_events;
    bool applying, closing;
    struct map workers;   /* id -> struct worker */
    struct worker *first; /* in id order */
    uint32_t next_worker;
    struct daemon_listener *listeners[LISTENERS_MAX];
    unsigned n_listeners;
    uv_timer_t timer, beat;
    struct unattached *unattached;
    struct grave graves[GRAVES]; /* a ring: older ones are forgotten */
    unsigned next_grave;
    uint64_t records; /* of the scheduler that were handed on */
    uint64_t pings;
    uint32_t
        flipping; /* worker that was last seen to run empty for a change of its role; 0: none */
    uint64_t flip_since;
    unsigned open_parts; /* timers and links that have not closed */
};

/* ---- hub.c ---- */

struct worker *hub_find_worker(struct daemon_hub *h, uint32_t id);
/* Dropped if that worker has no connection: it is about to be reported lost. */
void hub_send_to(struct daemon_hub *h, uint32_t id, enum wire_type t, const void *m);
/* Give an event to the scheduler and carry out what follows, now; or, from inside a hook, as soon as what
 * is being carried out is done. */
void hub_event(struct daemon_hub *h, const struct sched_event *e);
/* What was delivered must be known before an attempt may end. */
void hub_tell_delivered(struct daemon_hub *h, uint64_t request);
/* One of open_parts has closed; the last one after daemon_hub_close frees the hub. */
void hub_part_closed(struct daemon_hub *h);

/* ---- hub_worker.c ---- */

/* daemon_accept_fn of the listeners. */
bool hub_on_accept(void *arg, struct daemon_link *l, enum wire_role role,
                   const struct daemon_link_hooks **hooks, void **link_arg);
/* It is lost or has gone: its requests move on.  Once; later calls do nothing. */
void hub_worker_leave(struct worker *w, enum err why);
const char *hub_class_name(const Baton__Join *m);
/* Ranks that share the model of the worker that says so. */
uint32_t hub_tp(const Baton__Join *m);
/* Every worker drops what it has of this one. */
void hub_tell_forget(struct daemon_hub *h, uint32_t peer, bool process_gone);
/* Ask all to end, and close their connections. */
void hub_close_workers(struct daemon_hub *h);

#endif
