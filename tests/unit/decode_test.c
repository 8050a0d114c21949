/* tests/unit/decode_test.c - the decode role over a fake engine and a fake KV node. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "decode/decode.h"
#include "proto/wire_meta.h"
#include "tests/unit/roles_fake.h"

enum { PREFILL_WORKER = 4, FRONTEND = 3, MAX_BATCH = 2, SELF = 9 };

static uv_loop_t loop;
static struct decode *role;
static uint32_t n_local; /* requests of the test that came as PREFILL: they are granted nothing */

static int setup_with(uint32_t max_batch, uint64_t park_blocks)
{
    struct decode_config c = {.loop = &loop,
                              .n_blocks = FAKE_BLOCKS,
                              .to_scheduler = fake_to_scheduler,
                              .to_frontend = fake_to_frontend,
                              .on_broken = fake_on_broken};

    n_local = 0;
    fake_engine_reset(max_batch, 64);
    fake_kvt_reset();
    fake_msgs_reset();
    fake_loop_open(&loop);
    c.engine = fake_engine();
    c.kvt = fake_kvt();
    c.park_bytes = park_blocks * wire_kv_block_bytes(&engine_info(c.engine)->kv);
    return decode_create(&c, &role) == ERR_OK ? 0 : -1;
}

static int setup(void **state)
{
    (void)state;
    return setup_with(64, FAKE_BLOCKS);
}

static int setup_small(void **state)
{
    (void)state;
    return setup_with(MAX_BATCH, FAKE_BLOCKS);
}

static int setup_no_park(void **state)
{
    (void)state;
    return setup_with(64, 0);
}

static void end_grants(void)
{
    for (uint32_t i = 0; i < fake_grants(); i++) {
        if (!fake_grant_at(i)->arrived)
            fake_grant_arrive(fake_grant_at(i), ERR_CANCELED, NULL, 0);
        if (!fake_grant_at(i)->safe)
            fake_grant_safe(fake_grant_at(i));
    }
}

static int teardown(void **state)
{
    (void)state;
    fake_engine_hold(false);
    decode_destroy(role);
    end_grants();
    assert_true(fake_loop_close(&loop));
    fake_kvt_reset();
    fake_msgs_reset();
    assert_int_equal(mem_live(), 0);
    return 0;
}

struct ask {
    uint64_t request;
    uint32_t epoch;
    uint32_t n_tokens;
    uint32_t n_prompt; /* 0: all */
    uint32_t max_new;
    uint32_t frontend; /* 0: FRONTEND */
    bool penalty, no_tokens;
    bool logprobs;
    uint32_t stop_id;
    uint32_t deadline_ms; /* 0: 10 s */
    /* terms; none if tbt_ms is 0 */
    uint32_t tier, tbt_ms;
    int32_t due_ms;
};

static Baton__Terms *terms_of(const struct ask *a, Baton__Terms *t)
{
    baton__terms__init(t);
    t->tier = a->tier;
    t->tbt_ns = a->tbt_ms * CLOCK_NS_PER_MS;
    t->first_deadline_ns = (int64_t)a->due_ms * (int64_t)CLOCK_NS_PER_MS;
    return a->tbt_ms > 0 ? t : NULL;
}

static uint64_t deadline_of(const struct ask *a)
{
    return a->deadline_ms != 0 ? a->deadline_ms * CLOCK_NS_PER_MS : 10 * CLOCK_NS_PER_S;
}

static void reserve(struct ask a)
{
    Baton__Reserve m = BATON__RESERVE__INIT;
    Baton__Sampling s;
    Baton__Terms t;
    uint8_t tokens[4 * 200] = {0};
    uint8_t stop[4];

    fake_sampling(&s);
    for (uint32_t i = 0; i < 200; i++) /* 5 6 3 4 5 ... */
        tokens[4 * i] = (uint8_t)(i < 2 ? 5 + i : 1 + i);
    s.presence_penalty = a.penalty ? 0.5f : 0;
    s.want_logprobs = a.logprobs;
    s.n_top = a.logprobs ? 1 : 0;
    memcpy(stop, &a.stop_id, 4);
    s.stop_ids.data = stop;
    s.stop_ids.len = a.stop_id != 0 ? 4 : 0;
    m.request = a.request;
    m.epoch = a.epoch != 0 ? a.epoch : 1;
    m.frontend = a.frontend != 0 ? a.frontend : FRONTEND;
    m.prefill_worker = PREFILL_WORKER;
    m.n_tokens = a.n_tokens;
    m.n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;
    m.max_new = a.max_new;
    m.tokens.data = tokens;
    m.tokens.len = a.penalty && !a.no_tokens ? (size_t)a.n_tokens * 4 : 0;
    m.deadline_ns = deadline_of(&a);
    m.terms = terms_of(&a, &t);
    m.sampling = &s;
    decode_on_reserve(role, &m);
}

/* The same as a prompt to be computed here: tokens 5 6 3 4 5 ... */
static void prefill(struct ask a)
{
    Baton__Prefill m = BATON__PREFILL__INIT;
    Baton__Sampling s;
    Baton__Terms t;
    uint8_t tokens[4 * 200] = {0};

    fake_sampling(&s);
    for (uint32_t i = 0; i < 200; i++)
        tokens[4 * i] = (uint8_t)(i < 2 ? 5 + i : 1 + i);
    s.presence_penalty = a.penalty ? 0.5f : 0;
    m.request = a.request;
    m.epoch = a.epoch != 0 ? a.epoch : 1;
    m.frontend = FRONTEND;
    m.decode_worker = SELF;
    m.n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;
    m.max_new = a.max_new;
    m.tokens = (ProtobufCBinaryData){(size_t)a.n_tokens * 4, tokens};
    m.deadline_ns = deadline_of(&a);
    m.terms = terms_of(&a, &t);
    m.sampling = &s;
    n_local++;
    decode_on_prefill(role, SELF, &m);
}

static void cancel(uint64_t request)
{
    Baton__Cancel m = BATON__CANCEL__INIT;

    m.request = request;
    m.epoch = 1;
    decode_on_cancel(role, &m);
}

static void arrive_with(uint32_t grant, struct wire_meta meta)
{
    uint8_t bytes[WIRE_META_LEN];

    wire_meta_encode(&meta, bytes);
    fake_grant_arrive(fake_grant_at(grant), ERR_OK, bytes, sizeof(bytes));
    fake_grant_safe(fake_grant_at(grant));
}

/* What a good prefill worker sends for request `a`: the first token has index n_tokens - n_prompt. */
static void arrive(uint32_t grant, struct ask a)
{
    uint32_t n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;

    arrive_with(grant, (struct wire_meta){.request = a.request,
                                          .epoch = a.epoch != 0 ? a.epoch : 1,
                                          .n_tokens = a.n_tokens,
                                          .token = 100 + a.n_tokens - n_prompt,
                                          .index = a.n_tokens - n_prompt});
}

static bool has_released(void)
{
    return fake_count(WIRE_RELEASED) >= 1;
}
static bool has_two_released(void)
{
    return fake_count(WIRE_RELEASED) >= 2;
}
static bool has_three_released(void)
{
    return fake_count(WIRE_RELEASED) >= 3;
}
static bool has_two_granted(void)
{
    return fake_count(WIRE_GRANTED) >= 2;
}
static bool has_three_granted(void)
{
    return fake_count(WIRE_GRANTED) >= 3;
}
static bool is_broken(void)
{
    return fake_broken() == 1;
}

static const Baton__Released *released(uint32_t i)
{
    return fake_nth(WIRE_RELEASED, i);
}
static const Baton__Granted *granted(uint32_t i)
{
    return fake_nth(WIRE_GRANTED, i);
}
static const Baton__HandoverDone *handover(uint32_t i)
{
    return fake_nth(WIRE_HANDOVER_DONE, i);
}

static Baton__Report report(void)
{
    Baton__Report m = BATON__REPORT__INIT;

    decode_report(role, &m);
    assert_int_equal(m.free_blocks + m.blocks_owned + m.blocks_granted + m.blocks_quarantined,
                     FAKE_BLOCKS);
    return m;
}

static bool one_is_parked(void)
{
    return report().parked == 1;
}

static bool nothing_live(void)
{
    return decode_live(role) == 0;
}

static void check_at_rest(uint32_t n_released)
{
    Baton__Report m;

    assert_true(fake_run_until(&loop, nothing_live));
    fake_run_some(&loop);
    m = report();
    assert_int_equal(fake_count(WIRE_RELEASED), n_released);
    assert_int_equal(fake_count(WIRE_GRANTED), n_released - n_local);
    assert_int_equal(m.parked, 0);
    assert_int_equal(m.blocks_parked, 0);
    assert_int_equal(m.free_blocks, FAKE_BLOCKS);
    assert_int_equal(m.live_requests, 0);
    assert_int_equal(m.live_grants, 0);
    assert_int_equal(decode_live(role), 0);
    assert_true(fake_broken() < 1000); /* every message was valid */
}

/* All tokens of a request in the order they went out: index from `first` on, no gap, one finish at the end. */
static uint32_t check_stream(uint64_t request, uint32_t first)
{
    uint32_t index = first;
    bool finished = false;

    for (uint32_t i = 0; i < fake_msgs(); i++) {
        const Baton__Tokens *t = (const Baton__Tokens *)fake_msg_at(i)->m;

        for (size_t k = 0; fake_msg_at(i)->type == WIRE_TOKENS && k < t->n_request; k++) {
            if (t->request[k] != request)
                continue;
            assert_false(finished);
            assert_int_equal(t->index[k], index);
            assert_int_equal(t->token[k], 100 + index);
            finished = t->finish[k] != 0;
            index++;
        }
    }
    return index - first;
}

static void reservation_takes_the_blocks_of_the_prompt_and_no_more(void **state)
{
    Baton__Report m;

    (void)state;
    reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 20});
    assert_true(granted(0)->ok);
    assert_int_not_equal(granted(0)->transfer, 0);
    assert_int_equal(granted(0)->blocks.len, 3 * 4);
    assert_int_equal(fake_grant_at(0)->c.peer, PREFILL_WORKER);
    assert_int_equal(fake_grant_at(0)->c.transfer, granted(0)->transfer);
    assert_int_equal(fake_grant_at(0)->c.n_slots, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(wire_u32_at(&granted(0)->blocks, i), fake_grant_at(0)->slots[i]);
    m = report();
    assert_int_equal(m.blocks_granted, 3);
    assert_int_equal(m.blocks_owned, 0);
    assert_int_equal(m.free_blocks, FAKE_BLOCKS - 3);
    assert_int_equal(m.waiting, 1);
    cancel(5);
    end_grants();
    check_at_rest(1);
}

static void nothing_is_decoded_before_the_hand_over_is_verified(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 4};

    (void)state;
    reserve(a);
    fake_run_some(&loop);
    assert_int_equal(fake_engine_steps(), 0);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    arrive(0, a);
    assert_int_equal(handover(0)->err, ERR_OK);
    assert_true(handover(0)->from_decode);
    assert_int_equal(handover(0)->path, KVT_PATH_SHM);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(fake_engine_step_at(0).slots[0].position, 10);
    assert_int_equal(fake_engine_step_at(0).slots[0].first_token, 100);
    assert_int_equal(fake_engine_step_at(0).slots[0].sample_index, 1);
    assert_int_equal(check_stream(5, 1), 3);
    assert_int_equal(released(0)->err, ERR_OK);
    assert_int_equal(released(0)->tokens, 3);
    assert_true(fake_where(WIRE_TOKENS, 2) < fake_where(WIRE_RELEASED, 0));
    assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, 2))->finish[0], 2);
    check_at_rest(1);
}

static void resumed_request_goes_on_with_the_next_index(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 13, .n_prompt = 10, .max_new = 6};

    (void)state;
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(check_stream(5, 4), 2);
    check_at_rest(1);
}

static void stop_token_ends_the_stream(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 50, .stop_id = 103};

    (void)state;
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(check_stream(5, 1), 3);
    assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, 2))->finish[0], 1);
    check_at_rest(1);
}

static void reservation_that_can_never_be_served_is_refused_at_once(void **state)
{
    (void)state;
    reserve((struct ask){.request = 3, .n_tokens = 10, .max_new = 91}); /* beyond the context */
    assert_false(granted(0)->ok);
    assert_int_equal(released(0)->err, ERR_INVALID);
    reserve((struct ask){.request = 4, .n_tokens = 4, .max_new = 4, .stop_id = FAKE_VOCAB});
    assert_int_equal(released(1)->err, ERR_INVALID);
    reserve(
        (struct ask){.request = 5, .n_tokens = 4, .max_new = 4, .penalty = true, .no_tokens = 1});
    assert_int_equal(released(2)->err, ERR_INVALID);
    reserve((struct ask){.request = 6, .n_tokens = 8, .n_prompt = 4, .max_new = 4});
    assert_int_equal(released(3)->err, ERR_INVALID);
    fake_kvt_refuse(ERR_NOT_FOUND);
    reserve((struct ask){.request = 7, .n_tokens = 4, .max_new = 4});
    assert_true(fake_run_until(&loop, nothing_live));
    assert_int_equal(released(4)->err, ERR_NOT_FOUND);
    assert_non_null(strstr(granted(4)->error, "could not be opened"));
    check_at_rest(5);
}

static void reservation_without_room_waits_and_is_granted_when_blocks_come_free(void **state)
{
    (void)state;
    reserve((struct ask){.request = 1, .n_tokens = 60, .max_new = 40});
    reserve((struct ask){.request = 2, .n_tokens = 60, .max_new = 40});
    reserve((struct ask){.request = 3, .n_tokens = 60, .max_new = 40});
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_GRANTED), 2);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(report().waiting, 3);
    cancel(1);
    fake_grant_arrive(fake_grant_at(0), ERR_CANCELED, NULL, 0);
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_GRANTED), 2); /* quarantined blocks are not free */
    fake_grant_safe(fake_grant_at(0));
    assert_true(fake_run_until(&loop, has_three_granted));
    assert_int_equal(granted(2)->request, 3);
    assert_true(granted(2)->ok);
    decode_cancel_all(role);
    end_grants();
    check_at_rest(3);
}

static void most_urgent_of_the_tightest_tier_gets_the_room_first(void **state)
{
    (void)state;
    reserve((struct ask){.request = 1, .n_tokens = 100 - 8, .max_new = 8});
    reserve((struct ask){
        .request = 2, .n_tokens = 70, .max_new = 8, .tier = 2, .tbt_ms = 200, .due_ms = 50});
    reserve((struct ask){
        .request = 3, .n_tokens = 70, .max_new = 8, .tier = 0, .tbt_ms = 30, .due_ms = 250});
    reserve((struct ask){
        .request = 4, .n_tokens = 70, .max_new = 8, .tier = 0, .tbt_ms = 30, .due_ms = 100});
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_GRANTED), 1);
    cancel(1);
    end_grants();
    assert_true(fake_run_until(&loop, has_two_granted));
    assert_int_equal(granted(1)->request, 4);
    cancel(4);
    end_grants();
    assert_true(fake_run_until(&loop, has_three_granted));
    assert_int_equal(granted(2)->request, 3);
    decode_cancel_all(role);
    end_grants();
    check_at_rest(4);
}

static void reservation_whose_time_passes_without_room_is_refused(void **state)
{
    (void)state;
    reserve((struct ask){.request = 1, .n_tokens = 90, .max_new = 10});
    reserve((struct ask){.request = 2, .n_tokens = 60, .max_new = 10, .deadline_ms = 80});
    assert_int_equal(fake_count(WIRE_GRANTED), 1);
    assert_true(fake_run_until(&loop, has_two_granted));
    assert_false(granted(1)->ok);
    assert_int_equal(released(0)->request, 2);
    assert_int_equal(released(0)->err, ERR_LIMIT);
    cancel(1);
    end_grants();
    check_at_rest(2);
}

static void cancel_of_one_that_waits_for_room_answers_and_releases_it(void **state)
{
    (void)state;
    reserve((struct ask){.request = 1, .n_tokens = 90, .max_new = 10});
    reserve((struct ask){.request = 2, .n_tokens = 60, .max_new = 10});
    cancel(2);
    cancel(2);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->request, 2);
    assert_int_equal(released(0)->err, ERR_CANCELED);
    assert_false(granted(1)->ok);
    /* Nothing waits any more: the next one gets the rest at once. */
    fake_run_some(&loop);
    reserve((struct ask){.request = 3, .n_tokens = 12, .max_new = 10});
    assert_true(granted(2)->ok);
    decode_cancel_all(role);
    end_grants();
    check_at_rest(3);
}

/* ---- growth and parking: the pool holds 128 tokens ---- */

static void text_takes_one_block_more_whenever_it_needs_one(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 7, .max_new = 20};

    (void)state;
    fake_engine_hold_step(1);
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    assert_int_equal(report().blocks_owned, 3); /* positions 0 .. 8 */
    fake_engine_hold_step(5);
    fake_run_some(&loop);
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    assert_int_equal(report().blocks_owned, 4); /* 0 .. 12 */
    fake_engine_hold_step(UINT32_MAX);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(check_stream(5, 1), 19);
    check_at_rest(1);
}

static void looser_one_is_parked_for_a_tighter_one_and_goes_on_later(void **state)
{
    struct ask gold = {.request = 1, .n_tokens = 60, .max_new = 40, .tbt_ms = 1, .due_ms = -1};
    struct ask bronze = {
        .request = 2, .n_tokens = 60, .max_new = 40, .tier = 2, .tbt_ms = 200, .due_ms = 10000};
    Baton__Report m;

    (void)state;
    reserve(bronze);
    reserve(gold);
    arrive(0, bronze);
    arrive(1, gold);
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(0)->request, 1); /* gold was not held back */
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(released(i)->err, ERR_OK);
        assert_int_equal(check_stream(i + 1, 1), 39);
    }
    m = report();
    assert_true(m.parks >= 1);
    assert_int_equal(m.parks, m.resumes);
    assert_int_equal(m.gave_up, 0);
    check_at_rest(2);
}

/* Leaves request 2 parked: 3 holds the room it had, and its hand-over does not come. */
static void park_one(void)
{
    struct ask bronze = {
        .request = 2, .n_tokens = 60, .max_new = 40, .tier = 2, .tbt_ms = 200, .due_ms = 10000};

    reserve((struct ask){.request = 1, .n_tokens = 60, .max_new = 40, .tbt_ms = 30, .due_ms = 50});
    fake_engine_hold_step(0);
    reserve(bronze);
    arrive(1, bronze);
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    reserve((struct ask){.request = 3, .n_tokens = 60, .max_new = 40, .tbt_ms = 30, .due_ms = 50});
    fake_engine_hold_step(UINT32_MAX);
    assert_true(fake_run_until(&loop, has_three_granted));
    assert_true(fake_run_until(&loop, one_is_parked));
    assert_true(report().blocks_parked >= 15);
}

static void parked_one_can_be_canceled(void **state)
{
    (void)state;
    park_one();
    cancel(2);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->request, 2);
    assert_int_equal(report().blocks_parked, 0);
    decode_cancel_all(role);
    end_grants();
    check_at_rest(3);
}

static void role_can_go_while_one_is_parked(void **state)
{
    (void)state;
    park_one();
    /* teardown destroys the role, then ends the grants, and counts what stays allocated */
}

static void parked_one_comes_back_when_there_is_room(void **state)
{
    (void)state;
    park_one();
    cancel(3);
    end_grants(); /* of 1 too: that one is lost */
    assert_true(fake_run_until(&loop, has_three_released));
    assert_int_equal(check_stream(2, 1), 39);
    assert_int_equal(report().resumes, 1);
    check_at_rest(3);
}

static void two_that_cannot_grow(struct ask *tight, struct ask *loose)
{
    *tight = (struct ask){.request = 1, .n_tokens = 60, .max_new = 40, .tbt_ms = 30, .due_ms = 50};
    *loose = *tight;
    loose->request = 2;
    loose->tier = 2;
    reserve(*loose);
    reserve(*tight);
    arrive(0, *loose);
    arrive(1, *tight);
}

static void loosest_one_is_given_up_when_nobody_can_grow_or_be_parked(void **state)
{
    struct ask tight, loose;

    (void)state;
    two_that_cannot_grow(&tight, &loose);
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(0)->request, 2);
    assert_int_equal(released(0)->err, ERR_LIMIT); /* to be tried elsewhere */
    assert_int_equal(released(1)->err, ERR_OK);
    assert_int_equal(check_stream(1, 1), 39);
    assert_int_equal(report().gave_up, 1);
    check_at_rest(2);
}

static void engine_that_cannot_copy_blocks_parks_nobody(void **state)
{
    struct ask tight, loose;

    (void)state;
    fake_engine_fail_copy(ERR_UNSUPPORTED);
    two_that_cannot_grow(&tight, &loose);
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(0)->err, ERR_LIMIT);
    assert_int_equal(released(1)->err, ERR_OK);
    assert_int_equal(report().parks, 0);
    check_at_rest(2);
}

static void block_that_does_not_come_back_ends_its_request_alone(void **state)
{
    (void)state;
    park_one();
    fake_engine_fail_copy(ERR_DEVICE);
    cancel(3);
    end_grants();
    assert_true(fake_run_until(&loop, has_three_released));
    assert_int_equal(report().resumes, 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(released(i)->err, released(i)->request == 2 ? ERR_DEVICE : ERR_CANCELED);
    check_at_rest(3);
}

/* ---- prompts computed here ---- */

static const Baton__PrefillDone *prompt_done(uint32_t i)
{
    return fake_nth(WIRE_PREFILL_DONE, i);
}

static void prompt_of_its_own_is_computed_then_decoded(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 80, .max_new = 6};
    const Baton__PrefillProgress *p;

    (void)state;
    prefill(a);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(check_stream(5, 0), 6);
    assert_int_equal(fake_engine_step_at(0).slots[0].n_tokens, 64); /* all that a step takes */
    assert_false(fake_engine_step_at(0).slots[0].sample);
    assert_int_equal(fake_engine_step_at(1).slots[0].position, 64);
    assert_true(fake_engine_step_at(1).slots[0].sample);
    assert_int_equal(prompt_done(0)->request, 5);
    assert_false(prompt_done(0)->finished);
    assert_true(prompt_done(0)->prefill_ns > 0);
    p = fake_nth(WIRE_PREFILL_PROGRESS, fake_count(WIRE_PREFILL_PROGRESS) - 1);
    assert_int_equal(p->tokens_done, 80);
    assert_true(fake_where(WIRE_TOKENS, 0) < fake_where(WIRE_PREFILL_DONE, 0));
    assert_int_equal(released(0)->err, ERR_OK);
    assert_int_equal(released(0)->tokens, 6);
    assert_int_equal(report().local_prefills, 1);
    check_at_rest(1);
}

static void resumed_prompt_of_its_own_goes_on_with_the_next_index(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 13, .n_prompt = 10, .max_new = 6};

    (void)state;
    prefill(a);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(check_stream(5, 3), 3);
    check_at_rest(1);
}

static void first_token_of_its_own_prompt_may_be_the_last(void **state)
{
    (void)state;
    prefill((struct ask){.request = 5, .n_tokens = 13, .max_new = 1});
    assert_true(fake_run_until(&loop, has_released));
    assert_true(prompt_done(0)->finished);
    assert_int_equal(check_stream(5, 0), 1);
    check_at_rest(1);
}

static void penalty_of_its_own_prompt_sees_generated_tokens_alone(void **state)
{
    /* 3 and 4 came before; 5 and 6 are of the prompt */
    static const uint32_t want[] = {0, 1, 2, 5};

    (void)state;
    prefill((struct ask){.request = 5, .n_tokens = 4, .n_prompt = 2, .max_new = 6, .penalty = 1});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(fake_count(WIRE_TOKENS), 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, i))->token[0], want[i]);
    check_at_rest(1);
}

/* A prompt is cut small beside a batch, so that nobody's next token gets late; the batch steps on. */
static void prompt_is_computed_in_pieces_beside_the_batch(void **state)
{
    struct ask a = {.request = 4, .n_tokens = 10, .max_new = 80};
    uint32_t beside = 0, largest = 0;

    (void)state;
    fake_engine_hold(true);
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    prefill((struct ask){.request = 5, .n_tokens = 20, .max_new = 4});
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_two_released));
    for (uint32_t i = 0; i < fake_engine_steps(); i++) {
        struct fake_step s = fake_engine_step_at(i);

        for (uint32_t k = 0; s.n == 2 && k < 2; k++) {
            if (s.slots[k].n_tokens > largest)
                largest = s.slots[k].n_tokens;
        }
        beside += s.n == 2;
    }
    assert_true(beside >= 3);
    assert_in_range(largest, 2, 20);
    assert_int_equal(check_stream(4, 1), 79);
    assert_int_equal(check_stream(5, 0), 4);
    check_at_rest(2);
}

static void prompt_without_room_waits_and_can_be_canceled_in_every_state(void **state)
{
    (void)state;
    reserve((struct ask){.request = 1, .n_tokens = 90, .max_new = 10});
    prefill((struct ask){.request = 2, .n_tokens = 60, .max_new = 10});
    prefill((struct ask){.request = 3, .n_tokens = 60, .max_new = 10});
    fake_run_some(&loop);
    assert_int_equal(fake_engine_steps(), 0);
    cancel(2); /* WAITING */
    assert_true(fake_run_until(&loop, has_released));
    fake_engine_hold(true);
    cancel(1);
    end_grants();
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    cancel(3); /* COMPUTING */
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 2);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_three_released));
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(released(i)->err, ERR_CANCELED);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    check_at_rest(3);
}

static void prompt_that_the_engine_refuses_ends_alone(void **state)
{
    (void)state;
    fake_engine_fail(ERR_OK, ERR_INVALID);
    prefill((struct ask){.request = 5, .n_tokens = 20, .max_new = 4});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_INVALID);
    assert_int_equal(fake_count(WIRE_PREFILL_DONE), 0);
    check_at_rest(1);
}

static void report_holds_samples_of_the_steps_since_the_last_one(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 80};
    Baton__Report m;

    (void)state;
    prefill(a);
    assert_true(fake_run_until(&loop, has_released));
    m = report();
    assert_int_equal(m.steps, 80);
    assert_int_equal(m.decode_steps, 79); /* the first computed the prompt */
    assert_in_range(m.n_sample, 9, 16);
    assert_int_equal(m.sample[0]->n, 10);
    assert_int_equal(m.sample[0]->n2, 100);
    for (size_t i = 1; i < m.n_sample; i++) {
        assert_int_equal(m.sample[i]->b, 1);
        assert_true(m.sample[i]->ctx > m.sample[i - 1]->ctx);
        assert_true(m.sample[i]->ns > 0);
    }
    assert_true(m.sample[m.n_sample - 1]->ctx > 70); /* of the whole time */
    assert_int_equal(report().n_sample, 0);
    check_at_rest(1);
}

static void hand_over_of_something_else_is_not_decoded(void **state)
{
    static const struct wire_meta wrong[] = {
        {.request = 6, .epoch = 1, .n_tokens = 10, .token = 100, .index = 0},
        {.request = 5, .epoch = 2, .n_tokens = 10, .token = 100, .index = 0},
        {.request = 5, .epoch = 1, .n_tokens = 9, .token = 100, .index = 0},
        {.request = 5, .epoch = 1, .n_tokens = 10, .token = FAKE_VOCAB, .index = 0},
        {.request = 5, .epoch = 1, .n_tokens = 10, .token = 100, .index = 1},
    };
    uint32_t n = sizeof(wrong) / sizeof(wrong[0]);

    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 4});
        arrive_with(i, wrong[i]);
        assert_int_equal(handover(i)->err, ERR_CORRUPT);
        assert_true(fake_run_until(&loop, nothing_live));
        assert_int_equal(released(i)->err, ERR_CORRUPT);
    }
    reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 4});
    fake_grant_arrive(fake_grant_at(n), ERR_OK, "short", 5);
    fake_grant_safe(fake_grant_at(n));
    assert_true(fake_run_until(&loop, nothing_live));
    assert_int_equal(released(n)->err, ERR_CORRUPT);
    check_at_rest(n + 1);
    assert_int_equal(fake_engine_steps(), 0);
}

static void failed_hand_over_keeps_its_blocks_until_nothing_can_write_to_them(void **state)
{
    (void)state;
    reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 20});
    fake_grant_arrive(fake_grant_at(0), ERR_TIMEOUT, NULL, 0);
    assert_int_equal(handover(0)->err, ERR_TIMEOUT);
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(report().blocks_quarantined, 3);
    cancel(5); /* changes nothing: the first cause counts */
    fake_grant_safe(fake_grant_at(0));
    assert_int_equal(released(0)->err, ERR_TIMEOUT);
    check_at_rest(1);
}

static void cancel_before_the_hand_over_waits_until_its_blocks_are_safe(void **state)
{
    (void)state;
    reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 20});
    cancel(5);
    cancel(5);
    assert_true(fake_grant_at(0)->canceled);
    assert_int_equal(report().blocks_quarantined, 3);
    fake_grant_arrive(fake_grant_at(0), ERR_CANCELED, NULL, 0);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(fake_count(WIRE_HANDOVER_DONE), 0);
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    fake_grant_safe(fake_grant_at(0));
    assert_int_equal(released(0)->err, ERR_CANCELED);
    check_at_rest(1);
}

static void hand_over_that_wins_the_race_with_a_cancel_is_not_decoded(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 20};

    (void)state;
    reserve(a);
    cancel(5);
    arrive(0, a); /* verified, but nobody wants it any more */
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_CANCELED);
    check_at_rest(1);
    assert_int_equal(fake_engine_steps(), 0);
}

static void cancel_while_a_step_runs_waits_for_it_and_sends_nothing_more(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 20};

    (void)state;
    fake_engine_hold(true);
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    cancel(5);
    cancel(5);
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    assert_int_equal(report().free_blocks, FAKE_BLOCKS - 3);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_CANCELED);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    check_at_rest(1);
}

static void cancel_during_the_last_step_still_releases_once(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 2};

    (void)state;
    fake_engine_hold(true);
    reserve(a);
    arrive(0, a);
    fake_run_some(&loop);
    cancel(5);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_CANCELED);
    check_at_rest(1);
}

static void first_token_that_was_the_last_needs_no_step(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 20, .stop_id = 100};

    (void)state;
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_OK);
    assert_int_equal(released(0)->tokens, 0);
    check_at_rest(1);
    assert_int_equal(fake_engine_steps(), 0);
}

static void tokens_of_a_step_go_out_in_one_frame_per_front_end(void **state)
{
    struct ask a[4] = {{.request = 1, .n_tokens = 4, .max_new = 5, .frontend = 1},
                       {.request = 2, .n_tokens = 4, .max_new = 5, .frontend = 2, .logprobs = true},
                       {.request = 3, .n_tokens = 4, .max_new = 5, .frontend = 1},
                       {.request = 4, .n_tokens = 4, .max_new = 5, .frontend = 2}};
    uint32_t full = 0;

    (void)state;
    fake_engine_hold(true);
    for (uint32_t i = 0; i < 4; i++) {
        reserve(a[i]);
        arrive(i, a[i]);
    }
    fake_run_some(&loop);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_three_released));
    fake_run_some(&loop);
    for (uint32_t i = 0; i < fake_msgs(); i++) {
        const Baton__Tokens *t = (const Baton__Tokens *)fake_msg_at(i)->m;

        if (fake_msg_at(i)->type != WIRE_TOKENS)
            continue;
        for (size_t k = 0; k < t->n_request; k++)
            assert_int_equal(fake_msg_at(i)->frontend, a[t->request[k] - 1].frontend);
        full += t->n_request == 2;
        if (fake_msg_at(i)->frontend == 1 || t->request[0] != 2)
            continue;
        assert_int_equal(t->n_top, t->n_request); /* parallel, empty for who did not ask */
        assert_int_equal(t->top[0]->n_token, 1);
        if (t->n_request == 2)
            assert_int_equal(t->top[1]->n_token, 0);
    }
    assert_in_range(full, 6, 8); /* two per step, save where one joined a step late */
    for (uint32_t i = 1; i <= 4; i++)
        assert_int_equal(check_stream(i, 1), 4);
    check_at_rest(4);
}

static void more_sequences_than_a_step_holds_take_turns(void **state)
{
    struct ask a[3] = {{.request = 1, .n_tokens = 4, .max_new = 12},
                       {.request = 2, .n_tokens = 4, .max_new = 12},
                       {.request = 3, .n_tokens = 4, .max_new = 12}};
    uint32_t turns[4] = {0};

    (void)state;
    fake_engine_hold(true);
    for (uint32_t i = 0; i < 3; i++) {
        reserve(a[i]);
        arrive(i, a[i]);
    }
    fake_run_some(&loop);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_three_released));
    for (uint32_t i = 1; i <= 3; i++)
        assert_int_equal(check_stream(i, 1), 11);
    for (uint32_t i = 0; i < 12; i++) { /* nobody starves among the first tokens out */
        const Baton__Tokens *t = fake_nth(WIRE_TOKENS, i);

        assert_in_range(t->n_request, 1, MAX_BATCH);
        for (size_t k = 0; k < t->n_request; k++)
            turns[t->request[k]]++;
    }
    for (uint32_t i = 1; i <= 3; i++)
        assert_in_range(turns[i], 6, 9);
    check_at_rest(3);
}

static void penalty_sees_every_generated_token_and_no_other(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 4, .n_prompt = 2, .max_new = 6, .penalty = true};
    static const uint32_t want[] = {1, 2, 5}; /* 5 and 6 are of the prompt, 3 and 4 came before */

    (void)state;
    reserve(a);
    arrive_with(0, (struct wire_meta){5, 1, 4, 0, 2});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(fake_count(WIRE_TOKENS), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, i))->token[0], want[i]);
    check_at_rest(1);
}

static void sequence_that_fails_in_a_step_ends_alone(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 4};

    (void)state;
    fake_engine_fail(ERR_OK, ERR_CORRUPT);
    reserve(a);
    arrive(0, a);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_CORRUPT);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    fake_engine_fail(ERR_OK, ERR_OK);
    a.request = 6;
    reserve(a);
    arrive(1, a);
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(1)->err, ERR_OK);
    check_at_rest(2);
}

static void broken_engine_is_told_once_and_everything_is_released(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 4};

    (void)state;
    fake_engine_fail(ERR_DEVICE, ERR_OK);
    reserve(a);
    reserve((struct ask){.request = 6, .n_tokens = 10, .max_new = 4});
    arrive(0, a);
    assert_true(fake_run_until(&loop, is_broken));
    end_grants();
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(0)->err, ERR_DEVICE);
    reserve((struct ask){.request = 7, .n_tokens = 10, .max_new = 4});
    assert_false(granted(2)->ok);
    assert_int_equal(fake_broken(), 1);
    check_at_rest(3);
}

static void late_and_unknown_messages_are_counted_and_ignored(void **state)
{
    (void)state;
    cancel(77);
    reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 4});
    reserve((struct ask){.request = 5, .n_tokens = 10, .max_new = 4});
    assert_int_equal(report().late_messages, 2);
    assert_int_equal(fake_grants(), 1);
    cancel(5);
    reserve((struct ask){.request = 5, .epoch = 2, .n_tokens = 10, .max_new = 4});
    assert_int_equal(fake_grants(), 2);
    assert_int_not_equal(fake_grant_at(0)->c.transfer, fake_grant_at(1)->c.transfer);
    assert_false(fake_grant_at(1)->canceled);
    decode_cancel_all(role);
    end_grants();
    check_at_rest(2);
}

static void progress_names_running_requests_with_their_token_counts(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 10, .max_new = 40};
    Baton__DecodeProgress m = BATON__DECODE_PROGRESS__INIT;

    (void)state;
    fake_engine_hold(true);
    reserve((struct ask){.request = 4, .n_tokens = 4, .max_new = 4}); /* waits: not listed */
    reserve(a);
    arrive(1, a);
    decode_progress(role, &m);
    assert_int_equal(m.n_request, 1);
    assert_int_equal(m.request[0], 5);
    assert_int_equal(m.tokens[0], 1);
    decode_cancel_frontend(role, FRONTEND);
    fake_engine_hold(false);
    end_grants();
    assert_true(fake_run_until(&loop, has_two_released));
    decode_progress(role, &m);
    assert_int_equal(m.n_request, 0);
    check_at_rest(2);
}

static void slow_loop_holds_the_engine_back(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 4, .max_new = 90};

    (void)state;
    reserve(a);
    arrive(0, a);
    for (int ms = 0; ms < 5000 && fake_engine_steps() < 4; ms++)
        uv_sleep(1); /* the loop does not run */
    uv_sleep(20);
    assert_int_equal(fake_engine_steps(), 4);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(check_stream(5, 1), 89);
    check_at_rest(1);
}

static void role_can_go_while_a_step_and_a_grant_are_open(void **state)
{
    struct ask a = {.request = 5, .n_tokens = 4, .max_new = 90};

    (void)state;
    reserve((struct ask){.request = 4, .n_tokens = 4, .max_new = 4});
    reserve(a);
    arrive(1, a);
    /* teardown destroys the role, then ends the grants, and counts what stays allocated */
}

/* The request that a grant is for: the answers to RESERVE say it. */
static uint64_t request_of_grant(const struct fake_grant *g)
{
    for (uint32_t i = 0; i < fake_count(WIRE_GRANTED); i++) {
        if (granted(i)->transfer == g->c.transfer)
            return granted(i)->request;
    }
    return 0;
}

static void random_grant_event(const struct ask *asks, uint32_t r)
{
    uint32_t i = r % fake_grants();
    struct fake_grant *g = fake_grant_at(i);

    if (g->safe)
        return;
    if (g->arrived)
        fake_grant_safe(g);
    else if (r % 7 == 0)
        fake_grant_arrive(g, ERR_PEER_LOST, NULL, 0);
    else
        arrive(i, asks[request_of_grant(g)]);
}

/* Any order of events: each request is answered once and released once, and no block is lost. */
static void random_events_leave_nothing_behind(void **state)
{
    static struct ask asks[600];
    uint32_t seed = 4242, given = 0;

    (void)state;
    for (uint32_t i = 0; i < 1500 && fake_grants() < 200 && given < 500; i++) {
        uint32_t r;

        seed = seed * 1664525u + 1013904223u;
        r = seed >> 16;
        switch ((r >> 8) % 6) {
        case 0:
        case 1:
            given++;
            asks[given] = (struct ask){.request = given,
                                       .n_tokens = 1 + r % 50,
                                       .max_new = 1 + r % 40,
                                       .penalty = r % 3 == 0,
                                       .stop_id = r % 4 == 0 ? 104 : 0,
                                       .deadline_ms = r % 16 == 0 ? 1 : 0,
                                       .tier = r % 3,
                                       .tbt_ms = r % 5 * 10,
                                       .due_ms = (int32_t)(r % 1000) - 200};
            if (r % 4 == 0)
                prefill(asks[given]);
            else
                reserve(asks[given]);
            break;
        case 2:
            if (given > 0 && r % 3 == 0)
                cancel(1 + r % given);
            break;
        case 3:
        case 4:
            if (fake_grants() > 0)
                random_grant_event(asks, r);
            break;
        default:
            uv_run(&loop, UV_RUN_NOWAIT);
            break;
        }
        report();
    }
    decode_cancel_all(role);
    for (int i = 0; i < 100 && decode_live(role) > 0; i++) {
        end_grants();
        fake_run_some(&loop);
    }
    check_at_rest(given);
}

/* One allocation fails, each in turn: the request it belongs to may end, nothing else does. */
static void every_failed_allocation_ends_one_request_at_most(void **state)
{
    for (long fail = 0; fail < 60; fail++) {
        struct ask a = {.request = 1, .n_tokens = 10, .max_new = 8, .penalty = true, .stop_id = 9};
        struct ask b = {.request = 2, .n_tokens = 10, .max_new = 8, .logprobs = true};
        Baton__DecodeProgress m = BATON__DECODE_PROGRESS__INIT;
        bool bad = fail > 0 && setup(state) != 0; /* the first one ran already */

        assert_false(bad);
        fake_short_of_memory();
        mem_fail_at(fail);
        reserve(a);
        reserve(b);
        for (uint32_t i = 0; i < fake_grants(); i++)
            arrive(i, fake_grants() == 2 && i == 0 ? a : b);
        decode_progress(role, &m);
        fake_run_some(&loop);
        mem_fail_at(-1);
        decode_cancel_all(role);
        assert_true(fake_run_until(&loop, nothing_live));
        assert_int_equal(report().free_blocks, FAKE_BLOCKS);
        assert_int_equal(decode_live(role), 0);
        assert_int_equal(fake_released(), 2);
        if (fail < 59)
            teardown(state);
    }
}

static void role_that_cannot_start_says_so_and_leaves_nothing(void **state)
{
    struct decode_config c = {.loop = &loop,
                              .engine = fake_engine(),
                              .kvt = fake_kvt(),
                              .n_blocks = FAKE_BLOCKS,
                              .to_scheduler = fake_to_scheduler,
                              .to_frontend = fake_to_frontend};
    enum err err = ERR_NOMEM;

    (void)state;
    for (long fail = 0; err != ERR_OK; fail++) {
        struct decode *d;

        assert_true(fail < 100);
        mem_fail_at(fail);
        err = decode_create(&c, &d);
        mem_fail_at(-1);
        assert_true(err == ERR_OK || err == ERR_NOMEM);
        if (err == ERR_OK) {
            assert_true(fail > 5);
            decode_destroy(d);
        }
    }
    fake_run_some(&loop);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reservation_takes_the_blocks_of_the_prompt_and_no_more),
        TEST(nothing_is_decoded_before_the_hand_over_is_verified),
        TEST(resumed_request_goes_on_with_the_next_index),
        TEST(stop_token_ends_the_stream),
        TEST(reservation_that_can_never_be_served_is_refused_at_once),
        TEST(reservation_without_room_waits_and_is_granted_when_blocks_come_free),
        TEST(most_urgent_of_the_tightest_tier_gets_the_room_first),
        TEST(reservation_whose_time_passes_without_room_is_refused),
        TEST(cancel_of_one_that_waits_for_room_answers_and_releases_it),
        TEST(text_takes_one_block_more_whenever_it_needs_one),
        TEST(looser_one_is_parked_for_a_tighter_one_and_goes_on_later),
        TEST(parked_one_can_be_canceled),
        TEST(role_can_go_while_one_is_parked),
        TEST(parked_one_comes_back_when_there_is_room),
        cmocka_unit_test_setup_teardown(loosest_one_is_given_up_when_nobody_can_grow_or_be_parked,
                                        setup_no_park, teardown),
        TEST(engine_that_cannot_copy_blocks_parks_nobody),
        TEST(block_that_does_not_come_back_ends_its_request_alone),
        TEST(prompt_of_its_own_is_computed_then_decoded),
        TEST(resumed_prompt_of_its_own_goes_on_with_the_next_index),
        TEST(first_token_of_its_own_prompt_may_be_the_last),
        TEST(penalty_of_its_own_prompt_sees_generated_tokens_alone),
        TEST(prompt_is_computed_in_pieces_beside_the_batch),
        TEST(prompt_without_room_waits_and_can_be_canceled_in_every_state),
        TEST(prompt_that_the_engine_refuses_ends_alone),
        TEST(report_holds_samples_of_the_steps_since_the_last_one),
        TEST(hand_over_of_something_else_is_not_decoded),
        TEST(failed_hand_over_keeps_its_blocks_until_nothing_can_write_to_them),
        TEST(cancel_before_the_hand_over_waits_until_its_blocks_are_safe),
        TEST(hand_over_that_wins_the_race_with_a_cancel_is_not_decoded),
        TEST(cancel_while_a_step_runs_waits_for_it_and_sends_nothing_more),
        TEST(cancel_during_the_last_step_still_releases_once),
        TEST(first_token_that_was_the_last_needs_no_step),
        TEST(tokens_of_a_step_go_out_in_one_frame_per_front_end),
        cmocka_unit_test_setup_teardown(more_sequences_than_a_step_holds_take_turns, setup_small,
                                        teardown),
        TEST(penalty_sees_every_generated_token_and_no_other),
        TEST(sequence_that_fails_in_a_step_ends_alone),
        TEST(broken_engine_is_told_once_and_everything_is_released),
        TEST(late_and_unknown_messages_are_counted_and_ignored),
        TEST(progress_names_running_requests_with_their_token_counts),
        TEST(slow_loop_holds_the_engine_back),
        TEST(role_can_go_while_a_step_and_a_grant_are_open),
        TEST(random_events_leave_nothing_behind),
        TEST(every_failed_allocation_ends_one_request_at_most),
        TEST(role_that_cannot_start_says_so_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
