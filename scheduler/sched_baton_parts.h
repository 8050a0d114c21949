/* scheduler/sched_baton_parts.h - private to sched_baton*.c: the parts of the policy "baton" and what they
 * hand each other.
 *
 *   sched_baton.c          place(): the answer; facts; reaction to misses in progress; the constants
 *   sched_baton_plan.c     one question to all workers, at one tier (sched_baton_plan.h)
 *   sched_baton_prefill.c  can a prefill worker have it in time, and who would have to make way
 *   sched_baton_decode.c   the load model of a decode worker: how long would it wait for room, how long is a step
 *   sched_baton_probe.c    slow start of what is unknown; asks again what was believed too long
 *   sched_baton_check.c    for tests: are its counts and sums what they should be
 *   sched_baton_share.c    what tenants above their fair shares leave to the others
 *   sched_baton_price.c    weights, floors, margins and prices: all that learns from outcomes
 *
 * Thread: the scheduler's.  Units: ns as double unless said otherwise, tokens. */
#ifndef SCHEDULER_SCHED_BATON_PARTS_H
#define SCHEDULER_SCHED_BATON_PARTS_H

#include "scheduler/sched_ask.h"
#include "scheduler/sched_impl.h"

enum {
    BATON_HORIZONS = 8,
    BATON_SIZES = 96,       /* quarter octaves of prompt length: up to 2^24 tokens */
    BATON_EVICT_MAX = 8,    /* requests that one arrival may push out of one queue */
    BATON_COLD_STEPS = 8,   /* with prompts, after which their times are known */
    BATON_COLD_PROMPTS = 2, /* on a prefill worker of which nothing is known */
    BATON_COLD_STREAMS = 4, /* on such a decode worker */
    BATON_TRY_MAX = 3       /* queues in which eviction is tried */
};

/* One table for all loads; sched_baton.c says where each comes from. */
struct baton_constants {
    /* decode */
    double room_share, room_least, time_share, turn_room, tbt_share, wait_share, refresh_ns;
    /* prefill */
    double guard_ns, density_power, local_use, local_ahead, local_tbt, exposed, link_slow,
        link_busy;
    /* margins */
    double margin_step, margin_max, spare_step, spare_max, broken_part;
    double stretch_start, stretch_min, stretch_max, stretch_step;
    double pad_start, pad_max, pad_step, pad_share;
    /* prices */
    double rate_s, load_free, load_full, inflow_s, inflow_seen, inflow_swing, mean_step, price_s,
        value_power, price_prefill, price_decode, price_alike, room_free, local_gain, hurt_share,
        hurt_s, hurt_crowd;
    /* shares of tenants */
    double share_s, share_odds, share_full, share_least, share_most, share_step, share_hurt;
    /* floors */
    double floor_gain, floor_max, floor_s, floor_least, size_decay, credit_s;
    /* held ones */
    double held_s, held_hope, held_trial;
    /* probes */
    double probe_idle, probe_wait, probe_right;
    /* slow start */
    double cold_reach, cold_mute;
};
extern const struct baton_constants baton_c;

/* ---- sched_baton_price.c ------------------------------------------------------------------------ */

/* What is left at `now` of what was there at `from`: one event asks for it of many workers. */
struct baton_kept {
    uint64_t from, now;
    double share; /* 0: not worked out yet */
};

struct baton_tier {
    double margin;          /* m_q: decode waits are taken for this much longer */
    double spare;           /* part of a decode worker's room that it leaves free */
    double pad;             /* steps of prompts that a first token is taken to come later */
    double held_rate;       /* held ones that got in, 1/s, decayed */
    uint32_t held;          /* now */
    uint64_t held_since_ns; /* there has been one all the time */
    double credit;          /* ns of prefill time that are its own */
    uint64_t short_ns;      /* since when some ask in vain; 0: none since the last one got in */
    double inflow;          /* tokens of KV admitted, all workers, decayed over inflow_s */
    double stay;            /* the same times the ns that they will stay */
    double sent;            /* tokens of the inflow that go over a link */
    double work;            /* tokens of KV in all steps of what was admitted, decayed likewise */
    double streams;         /* how many those were, decayed likewise */
    uint64_t inflow_at;     /* ns */
    struct baton_kept kept; /* of the inflow */
};

/* A stage is asked again by running what would be refused; sched_baton_probe.c. */
struct baton_probe {
    uint64_t request; /* that does; 0: none */
    double predicted; /* time of its prompt, or of a step */
    double wait;      /* ns between them */
    uint64_t next_ns; /* not before */
};

/* Work, ns by side, decayed over share_s. */
struct baton_share {
    double work[2];
    uint64_t at;
};

struct sched_baton {
    struct baton_tier tier[SCHED_TIERS_MAX];
    /* margin on prefill queues, in parts of their work, steered by late first tokens */
    double stretch;
    /* prices */
    double mean_n, mean_value,
        mean_work[2];         /* of arrivals; decayed sums of one and the same weight */
    uint64_t began_at;        /* the first arrival */
    struct baton_kept unseen; /* of the inflow, had it been there from the start */
    double offered[2];        /* work that arrived, ns by side, decayed over rate_s */
    uint64_t offered_at;
    double backlog, crowd; /* as bills show them, decayed over price_s */
    uint64_t looked_at;
    double asked, hurt; /* new requests, and those of them that were turned away; decayed */
    double hurt_value;  /* of the latter */
    uint64_t hurt_at;
    /* tenants: what those within their shares ask for; what the others do, and what they got of it */
    struct baton_share within[SCHED_TIERS_MAX], over_asked[SCHED_TIERS_MAX], over[SCHED_TIERS_MAX];
    double share_full;
    /* sizes */
    double hist[BATON_SIZES]; /* decayed counts of prompt lengths by quarter octave */
    uint32_t hist_new;
    uint32_t large;           /* length where the largest tenth of prompts begins */
    double kept[2], ended[2]; /* of all others, of that tenth; decayed over floor_s */
    uint64_t sized_at;
    double lift;                 /* of that tenth's value, in values of the least tier */
    uint64_t settled_at;         /* credits are filled up to here */
    struct baton_probe probe[2]; /* of prompts, of decode steps */
};

static inline struct sched_baton *baton_of(const struct sched *s)
{
    return (struct sched_baton *)s->policy_state;
}

void baton_price_init(struct sched_baton *b);
/* A new request: its size class, the mean values, one step of the prices. */
void baton_price_arrive(struct sched *s, struct sched_request *r, double prefill, double decode);
/* What one kept promise to r at `tier` is worth now. */
double baton_weight(const struct sched *s, const struct sched_request *r, uint32_t tier);
/* Has the tier so much of its reserved share left, whatever that pushes out? */
bool baton_entitled(struct sched *s, uint32_t tier, double prefill);
/* One that asked for the tier was turned away or held; one of the tier was dispatched, so that nothing displaces it. */
void baton_in_vain(struct sched *s, uint32_t tier);
void baton_got_in(struct sched *s, const struct sched_request *r);
/* Was nobody of it for longer than its bound, since the first that asked in vain? */
bool baton_starves(const struct sched *s, uint32_t tier);
/* What it would take, and how full the pools are. */
struct baton_bill {
    double prefill, decode; /* ns of a worker */
    double
        backlog; /* prefill work before it, as a share of the loosest tier's time to first token */
    double room; /* KV that will be asked for when it is there, as a share of the room */
};
/* What the pools look like to one that asks. */
void baton_price_look(struct sched *s, const struct baton_bill *bill);
/* Once for each new request: it could be promised its targets, or could not, for whatever reason. */
void baton_price_hurt(struct sched *s, const struct sched_request *r, bool refused);
/* The part of the price, 0 to 1, that is more than r is worth; 0: it is worth it. */
double baton_price_over(const struct sched *s, const struct sched_request *r, double weight,
                        const struct baton_bill *bill);
/* More arrives than this pool (0 prompts, 1 decode) can do, and somebody was turned away. */
bool baton_price_scarce(const struct sched *s, int side);
/* What most of the bill is for: 0 prompts, 1 decode. */
int baton_price_of(const struct sched *s, const struct baton_bill *bill);
/* Tokens of KV per ns that come over links at a tier, to all workers, by what was admitted lately. */
double baton_sent(const struct sched *s, uint32_t tier);
void baton_price_bound(struct sched *s, struct sched_request *r, bool undo);
/* A promise was kept or broken in a stage. */
void baton_margin_decode(struct sched *s, uint32_t tier, bool broken);
void baton_margin_prefill(struct sched *s, uint32_t tier, bool broken);
/* ns that a first token of w may come later than its own prompt is done: at the end of a step with others'. */
double baton_margin_shared(const struct sched *s, uint32_t tier, const struct sched_worker *w);
void baton_floor(struct sched *s, const struct sched_request *r, bool kept);
/* weight to a power, as a measure of what r is worth; more for large prompts while they lag behind. */
double baton_value(const struct sched *s, const struct sched_request *r, double weight,
                   double power);
/* Of tiers tighter than `tier`, by what was admitted lately, on one decode worker: the tokens of KV that they
 * will hold if it goes on like that, and for how long each holds its own. */
void baton_inflow(const struct sched *s, uint32_t tier, double *kv, double *stay);

/* The same for the room in time: tokens of KV of theirs that steps of `tight` will have to hold. */
void baton_inflow_in_time(const struct sched *s, uint32_t tier, double tight, double *kv,
                          double *stay);

/* ---- sched_baton_share.c ------------------------------------------------------------------------ */

/* A new request and its work, ns by pool. */
void baton_share_arrive(struct sched *s, struct sched_request *r, double prefill, double decode);
void baton_share_bound(struct sched *s, const struct sched_request *r, bool undo);
/* A new request could be promised its targets, or could not. */
void baton_share_hurt(struct sched *s, const struct sched_request *r, bool refused);
/* false: its tenant asks for more than its fair share of the tier, has had it, and tenants that do not need the room. */
bool baton_share_ok(const struct sched *s, const struct sched_request *r, uint32_t tier,
                    const struct baton_bill *bill);
/* ns in which what its tenant asks for sinks to its share, if it asks for nothing more. */
double baton_share_eases(const struct sched *s, const struct sched_request *r, uint32_t tier);

/* ---- sched_baton_probe.c ------------------------------------------------------------------------ */

/* Is too little known of p or d to give them one more, with so many tokens of KV, now? */
bool baton_cold(const struct sched *s, const struct sched_worker *p, const struct sched_worker *d,
                double tokens);
void baton_probe_end(struct sched *s, const struct sched_request *r); /* if it is one */

/* ---- sched_baton_check.c ------------------------------------------------------------------------ */

MUST_USE enum err baton_check(const struct sched *s, struct err_msg *msg);

/* ---- sched_baton_decode.c ----------------------------------------------------------------------- */

/* One request that a decode worker is asked about. */
struct baton_need {
    uint32_t tier;
    double ready;    /* when its KV would be there, absolute */
    double deadline; /* of the first token, absolute */
    double tbt;
    double link;   /* ns that its KV is there later than that, for those before it on the link */
    double tokens; /* prompt and what was delivered */
    double out;    /* tokens still to come, median */
    double inflow, stay; /* of tighter tiers, by baton_inflow */
};

struct baton_decode {
    struct sched_worker *w;
    double wait, step;                 /* predicted */
    double link;                       /* of the wait, for KV on slow links */
    double limit;                      /* longest wait that keeps the promise */
    double over;                       /* part of the time of steps that would be missing */
    double used;                       /* share of its room at `ready`, all tiers */
    bool ok, hopeless;                 /* hopeless: an idle worker would not do either */
    enum sched_resource lacks, scarce; /* why not ok; what fills up first in any case */
};

MUST_USE enum err baton_load_create(struct sched_worker *w);
void baton_load_free(struct sched_worker *w);
/* Count r on w from now on, or no longer. */
void baton_load_add(struct sched *s, struct sched_worker *w, struct sched_request *r);
void baton_load_drop(struct sched_request *r);
/* Its state or place in time has changed. */
void baton_load_touch(struct sched *s, struct sched_request *r);
void baton_load_ask(struct sched *s, struct sched_worker *w, const struct baton_need *need,
                    struct baton_decode *out);
/* The KV of r is there. */
void baton_load_came(struct sched_request *r);
void baton_load_gone(struct sched *s, const struct sched_worker *from); /* it leaves */
/* Share of its room that is held now. */
double baton_load_use(struct sched *s, struct sched_worker *w);
/* Tokens of KV at half their lives, of the n that are there or promised. */
double baton_load_total(const struct sched_worker *w, uint32_t *n);
/* Present step time. */
double baton_load_step(struct sched *s, struct sched_worker *w);
/* *n: those counted there. */
MUST_USE enum err baton_load_check(const struct sched_worker *w, uint32_t *n, struct err_msg *msg);
/* Decode worker time that n tokens of output after n_prompt cost, its share of KV room included. */
double baton_decode_cost(const struct sched *s, const struct sched_worker *w, double n_prompt,
                         double out);
/* Quantile p of the tokens that are still to come. */
double baton_left(const struct sched *s, const struct sched_request *r, double so_far, double p);

/* ---- sched_baton_prefill.c ---------------------------------------------------------------------- */

struct baton_prefill {
    struct sched_worker *w;
    double work, begin, finish;
    double link;       /* ns later that its card is free for the KV; 0: links are not slow */
    uint64_t late_ns;  /* when it must be done, by the work in that queue */
    bool self, others; /* in time; all behind it too */
    bool local;        /* w is a decode worker that would compute it between its steps */
};

struct baton_victims {
    struct sched_request *v[BATON_EVICT_MAX];
    uint32_t n;
    double cost; /* weight */
};

/* late_ns: when it must be done, if alone in its steps. */
void baton_prefill_try(struct sched *s, const struct sched_request *r, struct sched_worker *w,
                       uint32_t tier, uint64_t key, uint64_t late_ns, struct baton_prefill *out);
/* Who would have to leave w's queue so that r is in time and nobody else late; all is as before when it
 * returns.  false: it cannot be, or it would cost more than `worth`. */
bool baton_prefill_evict(struct sched *s, const struct sched_request *r,
                         const struct baton_prefill *at, uint64_t key, double worth,
                         struct baton_victims *out);
/* The queue of w as it is: evict or give up on those that will be late. */
void baton_prefill_mend(struct sched *s, struct sched_worker *w);

#endif
