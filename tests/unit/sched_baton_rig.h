/* tests/unit/sched_baton_rig.h - the worlds that tests of the policy "baton" begin with: one token of prompt takes a
 * millisecond, a decode step what the test says, so that every number is plain. */
#ifndef TESTS_UNIT_SCHED_BATON_RIG_H
#define TESTS_UNIT_SCHED_BATON_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sched_rig.h"

enum { P = 1, P2 = 2, D = 11, D2 = 12, GOLD = 0, SILVER = 1, BRONZE = 2 };

/* Gold 500 ms, silver 2 s, bronze 10 s to the first token, whatever the prompt; each refuses. */
static inline void plain_config(struct sched_config *cfg)
{
    sched_config_defaults(cfg);
    snprintf(cfg->policy, sizeof(cfg->policy), "baton");
    cfg->prefill_window_tokens = 100;
    for (uint32_t t = 0; t < cfg->n_tiers; t++) {
        cfg->tiers[t].ttft_factor = 0;
        cfg->tiers[t].reserved = 0;
        cfg->tiers[t].on_miss = SCHED_MISS_REFUSE;
    }
}

static inline uint32_t add_law(struct rig *r, double token_ns, double step_ms)
{
    struct sched_class c = {.name = "test", .frozen = true};
    struct err_msg msg;
    uint32_t id = 0;

    c.prefill.c[1] = token_ns;
    c.decode.c[0] = step_ms * 1e6;
    c.kv_bytes_per_token = 1;
    assert_int_equal(sched_add_class(r->s, &c, &msg, &id), ERR_OK);
    return id;
}

static inline uint32_t add_class(struct rig *r, double step_ms)
{
    return add_law(r, 1e6, step_ms);
}

/* One prefill and one decode worker. */
static inline void open_law(struct rig *r, const struct sched_config *cfg, double token_ns,
                            double step_ms)
{
    uint32_t k;

    rig_open(r, cfg);
    k = add_law(r, token_ns, step_ms);
    rig_join_can(r, P, SCHED_ROLE_PREFILL, k, true);
    rig_join_can(r, D, SCHED_ROLE_DECODE, k, false);
}

static inline void open_with(struct rig *r, const struct sched_config *cfg, double step_ms)
{
    open_law(r, cfg, 1e6, step_ms);
}

/* Prompts that cost next to nothing. */
static inline void open_quick(struct rig *r, const struct sched_config *cfg)
{
    open_law(r, cfg, 1e3, 10);
}

static inline void open_plain(struct rig *r)
{
    struct sched_config cfg;

    plain_config(&cfg);
    open_with(r, &cfg, 10);
}

static inline const struct sched_action *refusal(const struct rig *r, uint64_t id)
{
    for (size_t i = 0; i < r->act.n; i++)
        if (r->act.v[i].kind == SCHED_ACT_REJECT && r->act.v[i].request == id)
            return &r->act.v[i];
    return NULL;
}

#endif
