/* daemon/frontend_impl.h - what the files of the front end share: frontend.c (routes), frontend_tokenize.c, call.c (life of a
 * call), call_render.c (what the client gets).  Private to them. */
#ifndef DAEMON_FRONTEND_IMPL_H
#define DAEMON_FRONTEND_IMPL_H

#include <uv.h>

#include "base/map.h"
#include "daemon/api_render.h"
#include "daemon/api_request.h"
#include "daemon/frontend.h"
#include "daemon/gen.h"
#include "daemon/metrics_series.h"
#include "daemon/records.h"

struct call;

/* When each stage of a generation was reached (0: not yet) and how long it took. */
struct gen_times {
    uint64_t placed_ns, first_ns, last_ns;
    uint64_t worker_queue_ns, prefill_ns;
    uint64_t wire_ns, exposed_ns, verify_ns, handover_bytes;
    uint32_t path;
    uint32_t prefill_worker, decode_worker;
    uint32_t attempts;
};

struct call_gen {
    struct daemon_gen g;
    struct call *call;
    uint32_t choice; /* index in the response */
    uint32_t prompt; /* index of its prompt */
    uint64_t seed;
    uint32_t max_new;
    uint32_t tier;        /* it is served at */
    uint64_t deadline_ns; /* of its first token */
    uint64_t tbt_ns;
    int64_t late_ns;       /* the largest lateness so far; INT64_MIN: no token yet */
    bool submitted, ended; /* ended: the hub knows nothing of it any more */
    bool opened;           /* streaming: its first chunk is out */
    uint32_t n_sent;       /* tokens of the log whose text or logprobs are out */
    size_t text_offset;    /* characters sent so far, for completions logprobs */
    bool dirty;
    struct call_gen *next_dirty;
    struct gen_times times;
};

struct call_prompt {
    struct engine_ids ids;
    struct buf text; /* as rendered or given, for echo */
};

enum call_state {
    CALL_TOKENIZING = 1, /* waits for the pool */
    CALL_RUNNING,        /* waits for tokens */
    CALL_DONE            /* answered or abandoned; waits for the pool if that still has it */
};

struct call {
    struct daemon_frontend *f;
    struct http_exchange *x; /* NULL: the client has left or the answer is out */
    struct api_request *r;
    struct api_error error;
    enum call_state state;
    uint32_t tier;          /* the loosest that any of its generations is served at */
    const char *tier_label; /* as the response spells it */
    uint32_t tenant;
    uint64_t ttft_ns, tbt_ns; /* targets that the client asked for; 0: the tier's */
    char id[64];
    char request_id[136];
    struct api_head head;
    uint64_t arrived_ns;
    struct call_prompt *prompts;
    size_t n_prompts;
    struct call_gen *gens;
    uint32_t n_gens, n_running;
    bool streaming; /* the response has begun */
    bool pool_owns; /* a tokenizing job refers to it */
    const char *outcome;
    const char *reason; /* of a refusal or failure by the scheduler, or NULL */
    int status;
    uv_work_t work;
    struct call *next, **prev; /* all live calls */
};

struct daemon_frontend {
    struct daemon_frontend_config c;
    struct daemon_hub *hub;
    struct http_server *http;
    struct daemon_series *series;
    struct daemon_records *records;
    struct map gens; /* id -> struct call_gen */
    uint64_t next_gen;
    struct call *calls;
    uint32_t n_calls;
    struct call_gen *dirty;
    uv_check_t flush;   /* after the poll phase, before the prepare handles that write */
    struct buf scratch; /* events on their way out */
    struct buf ids;     /* token ids on their way to a worker */
    bool draining, was_ready;
    uint32_t default_tier;
    bool has_admin_key;
    struct daemon_key admin_key; /* of --admin-key-file */
    int64_t started_s;
    char trouble[256];
    const char *model_name;
    unsigned open_parts; /* HTTP server, flush handle, records, tokenizing jobs on the pool */
};

/* frontend.c */
/* One of open_parts is done; after daemon_frontend_close the last one frees the front end. */
void frontend_part_closed(struct daemon_frontend *f);
void frontend_limits(const struct daemon_frontend *f, struct api_limits *out);

/* The whole response, or 500 if err says that it could not be made. */
void frontend_answer(struct http_exchange *x, int status, const struct buf *body, enum err err);
/* The longest prompt + completion that is taken: of the configuration and the workers the least. */
uint32_t frontend_max_context(const struct daemon_frontend *f);
/* Before it is first ready: what nobody is starting, as a sentence; NULL: nothing, workers are on their way. */
const char *frontend_missing(const struct daemon_frontend *f);
void frontend_model_card(const struct daemon_frontend *f, struct api_model_card *m);

/* frontend_tokenize.c */
void frontend_on_tokenize(struct http_exchange *x, void *arg);
void frontend_on_detokenize(struct http_exchange *x, void *arg);

/* frontend_admin.c */
void frontend_on_admin_requests(struct http_exchange *x, void *arg);
void frontend_on_admin_state(struct http_exchange *x, void *arg);

/* call.c */
/* Beyond this many bytes of text tokenizing leaves the loop for the pool. */
enum { CALL_INLINE_TEXT_MAX = 8 * 1024 };
size_t call_text_bytes(const struct api_request *r);
void call_start(struct daemon_frontend *f, struct http_exchange *x, enum api_kind kind);
void call_on_tokens(struct daemon_frontend *f, const Baton__Tokens *m);
void call_fail(struct call *call, int status, const char *type, const char *code,
               const char *message, uint64_t retry_after_ns, bool should_retry);
void call_abandon(struct call *call); /* the client has left */
/* Without a tokenizer only token ids can be served: false, and call->error says so. */
bool call_can_encode(struct call *call);
/* Tokenize all prompts of a request with the flags of its kind; used by /tokenize too. */
MUST_USE enum err call_encode(struct daemon_frontend *f, const struct api_request *r,
                              struct call_prompt *prompts, struct api_error *error);

/* call_contract.c */
/* Tier, tenant and targets that the client asked for, never above what its key allows; false: call->error. */
bool call_pick_contract(struct call *call);
void call_fill_submit(const struct call_gen *g, struct daemon_hub_submit *s);
void call_begin_terms(struct call_gen *g); /* when it is submitted */
void call_take_terms(struct call_gen *g, const struct sched_terms *t);
/* Tokens from number `first` on have come now. */
void call_note_lateness(struct call_gen *g, uint32_t first, uint64_t now);
/* Of the ended generation as its client judges it: the latest token, or its mean time per token over its target. */
int64_t call_lateness(const struct call_gen *g);
/* What is used of what was asked for: tier, targets.  ERR_NOMEM. */
MUST_USE enum err call_add_contract_headers(struct call *call);
/* The scheduler will not serve it: answered, and ended. */
void call_refuse(struct call *call, const struct daemon_refusal *r);

/* call_render.c */
const char *call_piece(void *arg, int32_t token, size_t *len); /* arg: struct daemon_frontend */
void call_mark_dirty(struct call_gen *g);
void call_flush_all(struct daemon_frontend *f);
/* All generations have finished: the rest of the stream, or the whole response. */
void call_finish(struct call *call);

/* The last step of every call, after its answer: forgets its generations, writes its record, frees it. */
void call_end(struct call *call);

/* call_log.c: the request's record, once */
void call_record(struct call *call);

#endif
