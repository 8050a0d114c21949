/* tests/sim/sim_impl.h - private to tests/sim: the world of sched_sim.h. */
#ifndef TESTS_SIM_SIM_IMPL_H
#define TESTS_SIM_SIM_IMPL_H

#include "scheduler/sched.h"
#include "scheduler/sched_view.h"
#include "tests/sim/sched_sim.h"

enum { SIM_REQUESTS = 64, SIM_WORKERS = 96, SIM_HOLDS = 1024, SIM_BLOCK = 16, SIM_TENANTS = 3 };
#define SIM_MS ((uint64_t)1000000)

enum sim_fault {
    SIM_KILL,          /* a worker dies; the scheduler hears of it a little later */
    SIM_DRAIN,         /* a worker drains and goes */
    SIM_CANCEL,        /* the client leaves */
    SIM_REFUSE,        /* decode worker refuses a reservation */
    SIM_GRANT_HANG,    /* ... or never answers */
    SIM_PREFILL_FAIL,  /* prefill worker gives up */
    SIM_PREFILL_HANG,  /* ... or stands still */
    SIM_SEND_FAIL,     /* hand-over fails on the sender's side */
    SIM_LATE_ERROR,    /* all arrived, and then the sender reports an error */
    SIM_VERIFY_FAIL,   /* digest wrong */
    SIM_HANDOVER_HANG, /* nobody says anything */
    SIM_DECODE_FAIL,
    SIM_DECODE_HANG,
    SIM_LOSE_CANCEL, /* a CANCEL gets lost */
    SIM_DOUBLE,      /* a message comes twice */
    SIM_REORDER,     /* messages of one worker overtake each other */
    SIM_LATE_TIMER,  /* the loop was busy */
    SIM_LATE_TOKENS, /* the front end tells its count only when it has to */
    SIM_LATE_FINISH, /* FINISH is slow */
    SIM_AFTER_LEAVE, /* messages of a dead worker still come */
    SIM_PARK,        /* a decode worker puts a stream aside for a while */
    SIM_CLOCK_JUMP,  /* the process stood still, or the machine slept */
    SIM_FAULTS
};

struct sim_worker {
    enum sched_role role;
    uint32_t n_blocks, max_batch;
    bool alive, joined, draining, can_prefill;
    uint64_t steps;             /* that it told */
    uint64_t last_in, last_out; /* its two streams are in order unless SIM_REORDER */
};

/* What a worker really holds: from the command until it says RELEASED. */
struct sim_hold {
    uint32_t worker;
    uint64_t request;
    uint32_t epoch;
    uint32_t blocks;
    uint32_t peer;
    uint32_t next; /* index of the next token, counted from 1 */
    uint32_t base;
    bool used;
    bool granted; /* decode: has its blocks; else on the worker's wait list */
    bool hangs;   /* never answers */
    uint64_t since, patience;
};

/* What the scheduler has promised, as the oracle counts it. */
struct sim_claim {
    uint64_t request;
    uint32_t epoch, worker, blocks;
    bool told;    /* CANCEL was said */
    bool silent;  /* the worker has not heard of it: it ends with its attempt, without a word */
    bool excused; /* the worker stops by itself */
    bool used;
};

/* The current attempt, as the messages that were applied describe it. */
struct sim_attempt {
    bool active;
    uint32_t epoch, prefill, decode;
    bool granted, prefilled, verified, finished;
    bool local;
};

enum sim_expect { SIM_KEEP = 0, SIM_CHANGE, SIM_END, SIM_MAY };

struct sim_request {
    uint64_t id;
    uint32_t tier;
    int32_t priority;
    uint32_t n_prompt, max_new, stop_at;
    uint32_t tenant; /* 0: none */
    uint64_t arrived;
    /* the front end */
    uint32_t delivered, epoch;
    bool over; /* the client has its end */
    /* the oracle */
    bool known; /* live in the scheduler */
    bool was_known;
    struct sim_attempt at;
    enum sim_expect expect;
    bool dispatched; /* once: it may not be refused any more */
    bool counts;     /* a change now would be a failed attempt, not a lost worker */
    uint32_t fails, resumes;
    uint64_t order;
};

enum sim_item_kind { SIM_EVENT = 1, SIM_COMMAND, SIM_TASK, SIM_WORLD };
enum sim_task { SIM_STEP = 1, SIM_FIRST, SIM_HANDOVER, SIM_DECODE };
enum sim_world { SIM_ARRIVAL = 1, SIM_FAULT_TICK, SIM_LEAVE, SIM_REJOIN };

struct sim_item {
    uint64_t at, seq;
    enum sim_item_kind kind;
    int what; /* sim_task, sim_world */
    uint32_t worker;
    uint64_t request;
    uint32_t epoch, arg;
    struct sched_event event;
    struct sched_action command;
};

struct sim {
    uint64_t rng, now, seq, horizon; /* no faults after the horizon */
    struct sched *s;
    struct sched_config cfg;
    struct sched_actions act;
    uint32_t klass;
    struct sched_tenant tenant[SIM_TENANTS + 1];
    double promised[SIM_TENANTS + 1]; /* prompt tokens of theirs that were dispatched */
    struct sched_event soon[256];     /* to apply right after the present event */
    size_t n_soon;
    uint32_t queued_before;
    uint32_t rate[SIM_FAULTS]; /* per thousand */
    struct sim_request req[SIM_REQUESTS];
    uint32_t n_req, arrivals;
    struct sim_worker worker[SIM_WORKERS + 1]; /* by id */
    uint32_t n_worker;
    struct sim_hold hold[SIM_HOLDS];
    struct sim_claim claim[SIM_HOLDS];
    uint32_t n_claim; /* used slots are below */
    uint32_t n_hold;
    bool introduced[SIM_WORKERS + 1][SIM_WORKERS + 1];
    struct sim_item *heap;
    size_t n_heap, cap_heap;
    struct sched_sim_result *out;
};

/* sched_sim.c */
uint64_t sim_random(struct sim *m);
uint32_t sim_pick(struct sim *m, uint32_t below);                 /* 0 .. below - 1 */
uint32_t sim_between(struct sim *m, uint32_t low, uint32_t high); /* both included */
bool sim_fault(struct sim *m, enum sim_fault f);
void sim_push(struct sim *m, const struct sim_item *item);
void sim_violation(struct sim *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_soon(struct sim *m, const struct sched_event *e);
struct sim_request *sim_request_of(struct sim *m, uint64_t id);

/* sim_workers.c: the fakes */
void sim_join(struct sim *m, enum sched_role role);
void sim_die(struct sim *m, uint32_t worker);
void sim_command(struct sim *m, const struct sim_item *item); /* an action reached its worker */
void sim_task(struct sim *m, const struct sim_item *item);
void sim_send(struct sim *m, uint32_t worker, const struct sched_event *e);
void sim_flip(struct sim *m, uint32_t worker);
void sim_client_leaves(struct sim *m, struct sim_request *r);

/* sim_oracle.c: what the scheduler owes */
void sim_oracle_before(struct sim *m, const struct sched_event *e);
void sim_oracle_action(struct sim *m, const struct sched_action *a);
void sim_oracle_after(struct sim *m, const struct sched_event *e);
void sim_oracle_rest(struct sim *m);

#endif
