/* daemon/hub.h - the scheduler at work: owns the worker connections, feeds what they say to the pure
 * scheduler as events, and carries out its actions as messages.
 *
 *   daemon_hub_create -> submit / cancel / finish ... -> daemon_hub_stop -> daemon_hub_close
 *
 * A worker has two connections: control (role prefill or decode) and tokens.  It counts as lost when
 * its control connection ends or falls silent; its requests then go on elsewhere.  The front end of this
 * process is told through hooks; hooks may call back into the hub at any time.
 *
 * Thread     the loop's.  Ownership: the hub owns links and scheduler; requests belong to the front end,
 *            which names them by id.
 * Blocking   nothing. */
#ifndef DAEMON_HUB_H
#define DAEMON_HUB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvtransfer/kvt.h"
#include "proto/wire_auth.h"
#include "proto/wire_frame.h"
#include "scheduler/sched.h"
#include "scheduler/sched_view.h"

struct uv_loop_s;
struct daemon_hub;

/* Times and bytes of one stage, as the worker that did it measured them. */
struct daemon_stage {
    enum { DAEMON_STAGE_PLACED = 1, DAEMON_STAGE_PREFILLED, DAEMON_STAGE_HANDED_OVER } kind;
    uint32_t epoch;
    uint32_t worker;     /* PLACED, PREFILLED: the prefill worker; HANDED_OVER: the decode worker */
    uint32_t peer;       /* PLACED: the decode worker or 0 */
    uint64_t queue_ns;   /* PREFILLED: waited in the worker */
    uint64_t prefill_ns; /* PREFILLED */
    uint64_t wire_ns, exposed_ns, verify_ns,
        bytes; /* HANDED_OVER, the sender's view and the receiver's */
    bool from_decode;
    uint32_t path; /* enum kvt_path */
};

struct daemon_refusal {
    enum sched_reason reason;
    struct sched_refusal what;
    uint64_t retry_after_ns; /* 0: no use coming back */
};

/* What the client saw of a generation, when it has its last token. */
struct daemon_seen {
    uint64_t first_token_ns, last_token_ns;
    int64_t late_ns; /* the largest lateness of any token; negative: all were early */
    uint32_t tokens;
    bool runs_on; /* it ended at a stop string: its worker must be told */
};

struct daemon_hub_hooks {
    /* Fill tokens, n_prompt, max_new and sampling; pointers must stay valid until the hook returns to the
     * hub and the message is packed.  false: the request is unknown, nothing is sent. */
    bool (*fill_prefill)(void *arg, uint64_t request, Baton__Prefill *m);
    bool (*fill_reserve)(void *arg, uint64_t request, Baton__Reserve *m);
    uint32_t (*delivered)(void *arg, uint64_t request); /* tokens given to the client so far */
    void (*on_resume)(void *arg, uint64_t request, uint32_t epoch);
    void (*on_tokens)(void *arg, const Baton__Tokens *m);
    void (*on_reject)(void *arg, uint64_t request, const struct daemon_refusal *r);
    void (*on_fail)(void *arg, uint64_t request, enum sched_reason why);
    void (*on_stage)(void *arg, uint64_t request, const struct daemon_stage *s);
    /* The contract that the request is served under from now on. */
    void (*on_terms)(void *arg, uint64_t request, const struct sched_terms *t);
    /* A request has ended; its hooks are not called any more. */
    void (*on_record)(void *arg, const struct sched_record *r);
    /* The next three get supervisor_arg.
     * A worker of this machine was lost or has left, while pid is still not known to have ended: the
     * supervisor kills its own children.  why: ERR_TIMEOUT etc. */
    void (*on_worker_lost)(void *arg, uint32_t pid, enum err why);
    /* Joined, lost, loading progress: readiness may have changed. */
    void (*on_pool_change)(void *arg);
    /* The planner wants so many workers of each role. */
    void (*on_scale)(void *arg, const uint32_t want[3]);
};

struct daemon_hub_config {
    struct uv_loop_s *loop;
    const struct wire_secret *secret;
    struct sched_config sched;
    const struct sched_class *classes; /* what predictions of workers of these classes start from */
    uint32_t n_classes;
    uint64_t heartbeat_ns;    /* 0 = 100 ms */
    uint64_t peer_timeout_ns; /* 0 = 3 s */
    struct daemon_hub_hooks hooks;
    void *arg; /* for the hooks of the front end */
    void *supervisor_arg;
};

struct daemon_hub_submit {
    uint64_t request; /* unique for ever, non-zero */
    uint32_t tier;
    int32_t priority;
    uint32_t n_prompt, max_new;
    uint64_t arrived_ns;
    uint32_t tenant;          /* 0: none */
    uint64_t length_key;      /* prompts that begin alike; 0: unknown */
    uint64_t ttft_ns, tbt_ns; /* its own targets; 0: the tier's */
};

/* What is known of one worker, for /metrics, /health and the log. */
struct daemon_worker_view {
    uint32_t id;
    enum sched_role role;
    bool joined; /* else loading */
    const char *name, *backend, *phase;
    const char *klass; /* "" while loading */
    uint64_t loaded_bytes, total_bytes;
    uint32_t pid, n_blocks, block_tokens, max_context, max_batch;
    uint32_t tp;                 /* ranks that share its model; 0 while loading */
    const Baton__Report *report; /* the last one, or NULL */
    uint64_t report_age_ns;
};

MUST_USE enum err daemon_hub_create(const struct daemon_hub_config *c, struct err_msg *msg,
                                    struct daemon_hub **out);
/* Listen for workers; may be called for several addresses.  The first is what workers are told as the
 * address of this front end; *bound (may be NULL) points to the address with the real port. */
MUST_USE enum err daemon_hub_listen(struct daemon_hub *h, const char *address, const char **bound,
                                    struct err_msg *msg);
void daemon_hub_submit(struct daemon_hub *h, const struct daemon_hub_submit *s);
/* The front end wants no more of it. */
void daemon_hub_cancel(struct daemon_hub *h, uint64_t request);
/* The front end has the last token. */
void daemon_hub_finish(struct daemon_hub *h, uint64_t request, const struct daemon_seen *seen);
/* Add or replace.  Errors: those of sched_set_tenant. */
MUST_USE enum err daemon_hub_set_tenant(struct daemon_hub *h, const struct sched_tenant *t,
                                        struct err_msg *msg);
/* The process of this machine with this pid has ended: nothing of it can write to anybody's memory.
 * Workers of other hosts may have the same number; they are not meant. */
void daemon_hub_process_gone(struct daemon_hub *h, uint32_t pid);

/* At least one prefill and one decode worker have joined. */
bool daemon_hub_ready(const struct daemon_hub *h);
/* The smallest context any joined worker allows, and that fits a message; 0: none. */
uint32_t daemon_hub_max_context(const struct daemon_hub *h);
void daemon_hub_stats(const struct daemon_hub *h, struct sched_stats *out);
/* To look at (sched_view.h), until the next call that changes anything. */
const struct sched *daemon_hub_sched(const struct daemon_hub *h);
/* Into name: how metrics call this worker, "worker-7" when it has left; "" for 0. */
void daemon_hub_worker_name(const struct daemon_hub *h, uint32_t worker, char *name, size_t room);
/* Walk the workers in id order: *at starts at 0. false: no more. */
bool daemon_hub_next_worker(const struct daemon_hub *h, size_t *at, struct daemon_worker_view *out);
/* Links between KV peers as they were probed: *at starts at 0. */
bool daemon_hub_next_link(const struct daemon_hub *h, size_t *at, const char **from,
                          const char **to, const Baton__Link **link);

/* Admit nothing new; requests that run go on, and workers with them. */
void daemon_hub_stop(struct daemon_hub *h);
/* Close all links and free in a later loop turn. */
void daemon_hub_close(struct daemon_hub *h);

#endif
