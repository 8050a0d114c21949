/* tests/unit/roles_decode.h - what the tests of the decode role share: one role over the fakes of roles_fake.h,
 * short ways to give it requests, and what must be true of it at rest. */
#ifndef TESTS_UNIT_ROLES_DECODE_H
#define TESTS_UNIT_ROLES_DECODE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "decode/decode.h"
#include "proto/wire_meta.h"
#include "tests/unit/roles_fake.h"

enum { DT_PREFILL_WORKER = 4, DT_FRONTEND = 3, DT_MAX_BATCH = 2, DT_SELF = 9 };

extern uv_loop_t dt_loop;
extern struct decode *dt_role;
extern uint32_t dt_local; /* requests of the test that came as PREFILL: they are granted nothing */

struct dt_ask {
    uint64_t request;
    uint32_t epoch;
    uint32_t n_tokens;
    uint32_t n_prompt; /* 0: all */
    uint32_t max_new;
    uint32_t frontend; /* 0: DT_FRONTEND */
    bool penalty, no_tokens;
    bool logprobs;
    uint32_t stop_id;
    uint32_t deadline_ms; /* 0: 10 s */
    /* terms; none if tbt_ms is 0 */
    uint32_t tier, tbt_ms;
    int32_t due_ms;
};

/* Fixtures: a roomy batch; two sequences a step; no park memory. */
int dt_setup(void **state);
int dt_setup_small(void **state);
int dt_setup_no_park(void **state);
/* Every grant that is open ends: canceled, and safe. */
void dt_end_grants(void);
int dt_teardown(void **state);
void dt_reserve(struct dt_ask a);
/* The same as a prompt to be computed here: tokens 5 6 3 4 5 ... */
void dt_prefill(struct dt_ask a);
void dt_cancel(uint64_t request);
void dt_arrive_with(uint32_t grant, struct wire_meta meta);
/* What a good prefill worker sends for request `a`: the first token has index n_tokens - n_prompt. */
void dt_arrive(uint32_t grant, struct dt_ask a);
bool dt_has_released(void);
bool dt_has_two_released(void);
bool dt_has_three_released(void);
bool dt_has_two_granted(void);
bool dt_has_three_granted(void);
bool dt_is_broken(void);
const Baton__Released *dt_released(uint32_t i);
const Baton__Granted *dt_granted(uint32_t i);
const Baton__HandoverDone *dt_handover(uint32_t i);
/* Checks that every block is in one state. */
Baton__Report dt_report(void);
bool dt_one_is_parked(void);
bool dt_nothing_live(void);
/* Nothing is left, and so many requests were released, each answered once. */
void dt_check_at_rest(uint32_t n_released);
/* All tokens of a request in the order they went out: index from `first` on, no gap, one finish at the end.
 * Returns how many. */
uint32_t dt_check_stream(uint64_t request, uint32_t first);

#define DT_TEST(f) cmocka_unit_test_setup_teardown(f, dt_setup, dt_teardown)

#endif
