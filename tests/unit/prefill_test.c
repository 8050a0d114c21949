/* tests/unit/prefill_test.c - the prefill role over a fake engine and a fake KV node. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "prefill/prefill.h"
#include "proto/wire_meta.h"
#include "tests/unit/roles_fake.h"

enum { DECODE_WORKER = 9, FRONTEND = 3, STEP_TOKENS = 16, MAX_BATCH = 4 };

static uv_loop_t loop;
static struct prefill *role;

static int setup(void **state)
{
    struct prefill_config c = {.loop = &loop,
                               .n_blocks = FAKE_BLOCKS,
                               .grant_timeout_ns = 0,
                               .to_scheduler = fake_to_scheduler,
                               .to_frontend = fake_to_frontend,
                               .on_broken = fake_on_broken};

    (void)state;
    fake_engine_reset(MAX_BATCH, STEP_TOKENS);
    fake_kvt_reset();
    fake_msgs_reset();
    fake_loop_open(&loop);
    c.engine = fake_engine();
    c.kvt = fake_kvt();
    return prefill_create(&c, &role) == ERR_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    fake_engine_hold(false);
    fake_engine_hold_layers(0);
    fake_engine_hold_step(UINT32_MAX);
    prefill_destroy(role);
    for (uint32_t i = 0; i < fake_sends(); i++) {
        if (!fake_send_at(i)->done)
            fake_send_done(fake_send_at(i), ERR_CANCELED);
    }
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
    uint32_t max_new;  /* 0: 10 */
    uint64_t order;
    bool no_decode;
    bool penalty;
    bool logprobs;
    uint32_t stop_id; /* 0: none */
    uint32_t min_tokens;
    uint32_t first_token; /* 0: request id */
    uint32_t transfer_class;
    uint32_t handover_ms; /* 0: 10 s */
};

static void give(struct ask a)
{
    Baton__Prefill m = BATON__PREFILL__INIT;
    Baton__Sampling s;
    Baton__Terms t = BATON__TERMS__INIT;
    uint8_t tokens[4 * 200] = {0};
    uint8_t stop[4];

    fake_sampling(&s);
    t.transfer_class = a.transfer_class;
    for (uint32_t i = 0; i < a.n_tokens; i++)
        tokens[4 * i] = (uint8_t)(a.request + i);
    if (a.first_token != 0)
        memcpy(tokens, &a.first_token, 4);
    s.frequency_penalty = a.penalty ? 0.5f : 0;
    s.want_logprobs = a.logprobs;
    s.n_top = a.logprobs ? 1 : 0;
    s.min_tokens = a.min_tokens;
    memcpy(stop, &a.stop_id, 4);
    s.stop_ids.data = stop;
    s.stop_ids.len = a.stop_id != 0 ? 4 : 0;
    m.request = a.request;
    m.epoch = a.epoch != 0 ? a.epoch : 1;
    m.frontend = FRONTEND;
    m.decode_worker = a.no_decode ? 0 : DECODE_WORKER;
    m.tokens.data = tokens;
    m.tokens.len = (size_t)a.n_tokens * 4;
    m.n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;
    m.max_new = a.max_new != 0 ? a.max_new : 10;
    m.order = a.order;
    m.sampling = &s;
    m.deadline_ns = a.handover_ms != 0 ? a.handover_ms * CLOCK_NS_PER_MS : 10 * CLOCK_NS_PER_S;
    m.terms = a.transfer_class != 0 ? &t : NULL; /* an old scheduler sends none */
    prefill_on_prefill(role, &m);
}

static void grant(uint64_t request, uint32_t n_blocks, uint32_t worker)
{
    Baton__Grant m = BATON__GRANT__INIT;
    uint8_t blocks[4 * 64] = {0};

    for (uint32_t i = 0; i < n_blocks; i++)
        blocks[4 * i] = (uint8_t)(50 + i);
    m.request = request;
    m.epoch = 1;
    m.decode_worker = worker;
    m.transfer = 1000 + request;
    m.blocks.data = blocks;
    m.blocks.len = (size_t)n_blocks * 4;
    prefill_on_grant(role, &m);
}

static void cancel(uint64_t request)
{
    Baton__Cancel m = BATON__CANCEL__INIT;

    m.request = request;
    m.epoch = 1;
    prefill_on_cancel(role, &m);
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
static bool has_done(void)
{
    return fake_count(WIRE_PREFILL_DONE) >= 1;
}
static bool has_four_done(void)
{
    return fake_count(WIRE_PREFILL_DONE) >= 4;
}
static bool has_first_piece(void)
{
    return fake_sends() == 1 && fake_send_at(0)->n_pieces >= 1;
}
static bool is_broken(void)
{
    return fake_broken() == 1;
}

static const Baton__Released *released(uint32_t i)
{
    return fake_nth(WIRE_RELEASED, i);
}

static bool nothing_live(void)
{
    return prefill_live(role) == 0;
}

static void check_at_rest(uint32_t n_released)
{
    Baton__Report m = BATON__REPORT__INIT;

    assert_true(fake_run_until(&loop, nothing_live));
    fake_run_some(&loop);
    prefill_report(role, &m);
    assert_int_equal(fake_count(WIRE_RELEASED), n_released);
    assert_int_equal(m.free_blocks, FAKE_BLOCKS);
    assert_int_equal(m.blocks_owned, 0);
    assert_int_equal(m.live_requests, 0);
    assert_int_equal(m.live_sends, 0);
    assert_int_equal(prefill_live(role), 0);
    assert_true(fake_broken() < 1000); /* every message was valid */
}

static void first_token_is_out_before_the_hand_over_is_acknowledged(void **state)
{
    const Baton__Tokens *t;
    const Baton__PrefillDone *done;
    struct wire_meta meta;

    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10, .n_prompt = 8, .logprobs = true});
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_done));
    t = fake_nth(WIRE_TOKENS, 0);
    assert_non_null(t);
    assert_int_equal(fake_msg_at(fake_where(WIRE_TOKENS, 0))->frontend, FRONTEND);
    assert_int_equal(t->n_request, 1);
    assert_int_equal(t->request[0], 5);
    assert_int_equal(t->epoch[0], 1);
    assert_int_equal(t->index[0], 2); /* two were generated before */
    assert_int_equal(t->token[0], 102);
    assert_int_equal(t->finish[0], 0);
    assert_int_equal(t->n_logprob, 1);
    assert_float_equal(t->logprob[0], -0.5f, 0);
    assert_int_equal(t->top[0]->token[0], 7);
    assert_true(fake_where(WIRE_TOKENS, 0) < fake_where(WIRE_PREFILL_DONE, 0));
    done = fake_nth(WIRE_PREFILL_DONE, 0);
    assert_false(done->finished);
    assert_int_equal(fake_count(WIRE_HANDOVER_DONE), 0);

    assert_true(fake_send_at(0)->finished);
    assert_true(fake_send_complete(fake_send_at(0)));
    assert_int_equal(wire_meta_decode(fake_send_at(0)->meta, fake_send_at(0)->meta_len, &meta),
                     ERR_OK);
    assert_int_equal(meta.request, 5);
    assert_int_equal(meta.n_tokens, 10);
    assert_int_equal(meta.token, 102);
    assert_int_equal(meta.index, 2);
    fake_send_done(fake_send_at(0), ERR_OK);
    assert_int_equal(((const Baton__HandoverDone *)fake_nth(WIRE_HANDOVER_DONE, 0))->err, ERR_OK);
    assert_false(((const Baton__HandoverDone *)fake_nth(WIRE_HANDOVER_DONE, 0))->from_decode);
    assert_int_equal(released(0)->err, ERR_OK);
    assert_int_equal(released(0)->tokens, 1);
    check_at_rest(1);
}

static void long_prompt_is_computed_in_chunks_with_one_sample_at_its_end(void **state)
{
    uint32_t at = 0;

    (void)state;
    give((struct ask){.request = 5, .n_tokens = 42});
    assert_true(fake_run_until(&loop, has_done));
    assert_int_equal(fake_engine_steps(), 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct fake_step s = fake_engine_step_at(i);

        assert_int_equal(s.n, 1);
        assert_int_equal(s.slots[0].position, at);
        at += s.slots[0].n_tokens;
        assert_int_equal(s.slots[0].sample, i == 2);
    }
    assert_int_equal(at, 42);
    assert_int_equal(((const Baton__PrefillProgress *)fake_nth(
                          WIRE_PREFILL_PROGRESS, fake_count(WIRE_PREFILL_PROGRESS) - 1))
                         ->tokens_done,
                     42);
    cancel(5);
    check_at_rest(1);
}

static void smaller_order_runs_first_and_short_prompts_share_a_step(void **state)
{
    struct fake_step s;

    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 1, .n_tokens = 16, .no_decode = true}); /* holds the engine */
    give((struct ask){.request = 2, .n_tokens = 16, .no_decode = true}); /* and its queue place */
    give((struct ask){.request = 30, .n_tokens = 6, .order = 30, .no_decode = true});
    give((struct ask){.request = 10, .n_tokens = 6, .order = 10, .no_decode = true});
    give((struct ask){.request = 20, .n_tokens = 6, .order = 20, .no_decode = true});
    fake_run_some(&loop);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_three_released));
    fake_run_some(&loop);
    s = fake_engine_step_at(2);
    assert_int_equal(s.n, 3); /* 6 + 6 + the first 4 of the last */
    assert_int_equal(s.slots[0].first_token, 10);
    assert_int_equal(s.slots[1].first_token, 20);
    assert_int_equal(s.slots[2].first_token, 30);
    assert_int_equal(s.slots[2].n_tokens, 4);
    assert_false(s.slots[2].sample);
    s = fake_engine_step_at(3);
    assert_int_equal(s.slots[0].position, 4);
    assert_int_equal(s.slots[0].n_tokens, 2);
    check_at_rest(5);
}

static void urgent_request_overtakes_a_long_one_between_chunks(void **state)
{
    uint32_t urgent_at = 0;

    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 1, .n_tokens = 80, .order = 100});
    fake_run_some(&loop);
    give((struct ask){.request = 77, .n_tokens = 4, .order = 1, .no_decode = true});
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_done));
    assert_int_equal(((const Baton__PrefillDone *)fake_nth(WIRE_PREFILL_DONE, 0))->request, 77);
    while (fake_engine_step_at(urgent_at).slots[0].first_token != 77)
        urgent_at++;
    assert_in_range(urgent_at, 1, 2);
    cancel(1);
    check_at_rest(2);
}

static void layers_are_sent_while_later_ones_compute(void **state)
{
    (void)state;
    fake_engine_hold_layers(2);
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_first_piece));
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    fake_run_some(&loop);
    for (uint32_t i = 0; i < fake_send_at(0)->n_pieces; i++)
        assert_true(fake_send_at(0)->pieces[i].first_layer + fake_send_at(0)->pieces[i].n_layers <=
                    2);
    assert_false(fake_send_at(0)->finished);
    fake_engine_hold_layers(0);
    assert_true(fake_run_until(&loop, has_done));
    assert_true(fake_send_complete(fake_send_at(0)));
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(1);
}

static void at_their_tickets(const struct fake_send *s)
{
    assert_int_equal(s->n_pieces, FAKE_LAYERS);
    for (uint32_t i = 0; i < FAKE_LAYERS; i++) {
        assert_int_equal(s->pieces[i].first_layer, i);
        assert_int_equal(s->pieces[i].n_layers, 1);
        assert_int_equal(s->pieces[i].ready, i + 1);
    }
}

/* They are reported within a microsecond, and final milliseconds apart: a client waits for what is not sent by then. */
static void every_layer_of_a_device_is_sent_at_its_own_ticket(void **state)
{
    const struct fake_send *s;

    (void)state;
    fake_engine_device();
    fake_engine_hold(true);
    fake_engine_hold_layers(FAKE_LAYERS);
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_first_piece));
    fake_run_some(&loop);
    s = fake_send_at(0);
    at_their_tickets(s);
    fake_engine_hold_layers(0);
    assert_true(fake_run_until(&loop, has_done));
    assert_int_equal(s->n_pieces, FAKE_LAYERS);
    assert_true(fake_send_complete(s));
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(1);
}

static void late_grant_finds_the_tickets_of_the_running_step(void **state)
{
    const struct fake_send *s;

    (void)state;
    fake_engine_device();
    fake_engine_hold_layers(FAKE_LAYERS); /* all are reported, and the step runs */
    give((struct ask){.request = 5, .n_tokens = 10});
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    fake_run_some(&loop);
    grant(5, 3, DECODE_WORKER);
    s = fake_send_at(0);
    at_their_tickets(s);
    fake_engine_hold_layers(0);
    assert_true(fake_run_until(&loop, has_done));
    assert_true(fake_send_complete(s));
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(1);
}

static void grant_in_the_middle_of_a_step_sends_what_is_final_by_then(void **state)
{
    (void)state;
    fake_engine_hold_layers(3);
    give((struct ask){.request = 5, .n_tokens = 10});
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    fake_run_some(&loop);
    grant(5, 3, DECODE_WORKER);
    assert_int_equal(fake_send_at(0)->n_pieces, 1); /* the layers reported so far, in one piece */
    assert_int_equal(fake_send_at(0)->pieces[0].n, 3);
    assert_in_range(fake_send_at(0)->pieces[0].n_layers, 1, 3);
    fake_engine_hold_layers(0);
    assert_true(fake_run_until(&loop, has_done));
    assert_true(fake_send_complete(fake_send_at(0)));
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(1);
}

static void grant_after_the_prompt_sends_everything(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 42});
    assert_true(fake_run_until(&loop, has_done));
    assert_int_equal(fake_sends(), 0);
    grant(5, 11, DECODE_WORKER);
    assert_true(fake_send_at(0)->finished);
    assert_true(fake_send_complete(fake_send_at(0)));
    assert_int_equal(fake_send_at(0)->remote[3], 53);
    assert_int_equal(fake_send_at(0)->c.peer, DECODE_WORKER);
    assert_int_equal(fake_send_at(0)->c.transfer, 1005);
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(1);
}

static void block_shared_by_two_chunks_is_sent_once_and_only_when_full(void **state)
{
    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 1, .n_tokens = 16, .no_decode = true});
    give((struct ask){.request = 2, .n_tokens = 16, .no_decode = true});
    give((struct ask){.request = 4, .n_tokens = 6, .order = 1, .no_decode = true});
    give((struct ask){.request = 5, .n_tokens = 27, .order = 2}); /* chunks of 10, 16 and 1 */
    grant(5, 7, DECODE_WORKER);
    fake_engine_hold_step(3);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_first_piece));
    assert_true(fake_run_until(&loop, fake_engine_in_step));
    fake_run_some(&loop);
    for (uint32_t i = 0; i < fake_send_at(0)->n_pieces; i++) /* 10 tokens fill two blocks of four */
        assert_true(fake_send_at(0)->pieces[i].first + fake_send_at(0)->pieces[i].n <= 2);
    fake_engine_hold_step(UINT32_MAX);
    assert_true(fake_run_until(&loop, has_four_done));
    fake_run_some(&loop);
    assert_int_equal(fake_engine_step_at(2).slots[1].n_tokens, 10);
    assert_int_equal(fake_sends(), 1);
    assert_true(fake_send_complete(fake_send_at(0)));
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(4);
}

static void queued_request_is_canceled_at_once(void **state)
{
    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 1, .n_tokens = 16, .no_decode = true});
    give((struct ask){.request = 2, .n_tokens = 16, .no_decode = true});
    give((struct ask){.request = 5, .n_tokens = 10, .order = 9});
    cancel(5);
    assert_int_equal(fake_count(WIRE_RELEASED), 1);
    assert_int_equal(released(0)->request, 5);
    assert_int_equal(released(0)->err, ERR_CANCELED);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_three_released));
    check_at_rest(3);
    for (uint32_t i = 0; i < fake_engine_steps(); i++)
        assert_int_not_equal(fake_engine_step_at(i).slots[0].first_token, 5);
}

static void blocks_of_a_canceled_request_wait_for_the_running_step(void **state)
{
    Baton__Report m = BATON__REPORT__INIT;

    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 5, .n_tokens = 10});
    fake_run_some(&loop);
    cancel(5);
    cancel(5);
    fake_run_some(&loop);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    prefill_report(role, &m);
    assert_int_equal(m.free_blocks, FAKE_BLOCKS - 3);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_CANCELED);
    assert_int_equal(fake_count(WIRE_TOKENS), 0); /* nothing of it goes out any more */
    assert_int_equal(fake_count(WIRE_PREFILL_DONE), 0);
    check_at_rest(1);
}

static void cancel_while_waiting_for_a_grant_releases_at_once(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10});
    assert_true(fake_run_until(&loop, has_done));
    fake_run_some(&loop);
    cancel(5);
    assert_int_equal(released(0)->err, ERR_CANCELED);
    grant(5, 3, DECODE_WORKER); /* late */
    assert_int_equal(fake_sends(), 0);
    check_at_rest(1);
}

static void cancel_while_sending_waits_for_the_transfer_to_end(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_done));
    cancel(5);
    fake_run_some(&loop);
    assert_true(fake_send_at(0)->canceled);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    fake_send_done(fake_send_at(0), ERR_CANCELED);
    assert_int_equal(released(0)->err, ERR_CANCELED);
    assert_int_equal(fake_count(WIRE_HANDOVER_DONE), 0);
    check_at_rest(1);
}

static void failed_transfer_is_reported_and_ends_the_request(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_done));
    fake_send_done(fake_send_at(0), ERR_PEER_LOST);
    assert_int_equal(((const Baton__HandoverDone *)fake_nth(WIRE_HANDOVER_DONE, 0))->err,
                     ERR_PEER_LOST);
    assert_int_equal(released(0)->err, ERR_PEER_LOST);
    check_at_rest(1);
}

static void transfer_that_fails_while_computing_stops_the_computing(void **state)
{
    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 5, .n_tokens = 90});
    grant(5, 23, DECODE_WORKER);
    fake_run_some(&loop);
    fake_send_done(fake_send_at(0), ERR_TIMEOUT);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_TIMEOUT);
    assert_in_range(fake_engine_steps(), 1, 2);
    check_at_rest(1);
}

static void stop_token_ends_the_request_here(void **state)
{
    const Baton__Tokens *t;

    (void)state;
    fake_engine_set_token(42);
    give((struct ask){.request = 5, .n_tokens = 10, .stop_id = 42});
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_done));
    t = fake_nth(WIRE_TOKENS, 0);
    assert_int_equal(t->finish[0], 1);
    assert_true(((const Baton__PrefillDone *)fake_nth(WIRE_PREFILL_DONE, 0))->finished);
    assert_false(fake_send_at(0)->finished);
    assert_true(fake_send_at(0)->canceled);
    assert_int_equal(fake_count(WIRE_RELEASED), 0);
    fake_send_done(fake_send_at(0), ERR_CANCELED);
    assert_int_equal(released(0)->err, ERR_OK);
    check_at_rest(1);
}

static void stop_token_below_min_tokens_does_not_end_it(void **state)
{
    (void)state;
    fake_engine_set_token(42);
    give((struct ask){.request = 5, .n_tokens = 10, .stop_id = 42, .min_tokens = 2});
    assert_true(fake_run_until(&loop, has_done));
    assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, 0))->finish[0], 0);
    cancel(5);
    check_at_rest(1);
}

static void last_token_by_length_ends_the_request_here(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10, .n_prompt = 8, .max_new = 3});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, 0))->finish[0], 2);
    assert_true(((const Baton__PrefillDone *)fake_nth(WIRE_PREFILL_DONE, 0))->finished);
    assert_int_equal(released(0)->err, ERR_OK);
    check_at_rest(1);
}

static void penalty_sees_which_tokens_were_generated_before(void **state)
{
    static const uint32_t want[] = {0, 3, 0};

    (void)state;
    /* Tokens 0 .. 29, of which 26 .. 29 were generated before a failure. */
    give((struct ask){
        .request = 256, .n_tokens = 30, .n_prompt = 26, .penalty = true, .max_new = 6});
    assert_true(fake_run_until(&loop, has_done));
    assert_false(fake_engine_step_at(0).slots[0].has_history);
    assert_true(fake_engine_step_at(1).slots[0].has_history);
    /* Tokens 255, 0, 1, 2, of which 0, 1, 2 were. */
    give((struct ask){.request = 511, .n_tokens = 4, .n_prompt = 1, .penalty = true, .max_new = 4});
    assert_true(fake_run_until(&loop, has_released));
    /* Tokens 0 .. 3, all of the prompt. */
    give((struct ask){.request = 768, .n_tokens = 4, .penalty = true, .max_new = 1});
    assert_true(fake_run_until(&loop, has_two_released));
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(((const Baton__Tokens *)fake_nth(WIRE_TOKENS, i))->token[0], want[i]);
    cancel(256);
    check_at_rest(3);
}

static void request_that_cannot_run_here_is_released_with_the_reason(void **state)
{
    (void)state;
    give((struct ask){.request = 1, .n_tokens = 101});
    assert_int_equal(released(0)->err, ERR_INVALID);
    assert_non_null(strstr(released(0)->error, "100"));
    give((struct ask){.request = 2, .n_tokens = 4, .first_token = FAKE_VOCAB});
    assert_int_equal(released(1)->err, ERR_INVALID);
    give((struct ask){.request = 3, .n_tokens = 4, .stop_id = FAKE_VOCAB});
    assert_int_equal(released(2)->err, ERR_INVALID);
    give((struct ask){.request = 4, .n_tokens = 6, .n_prompt = 4, .max_new = 2});
    assert_int_equal(released(3)->err, ERR_INVALID);
    check_at_rest(4);
    assert_int_equal(fake_engine_steps(), 0);
}

static void request_without_free_blocks_is_refused_and_others_run_on(void **state)
{
    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 1, .n_tokens = 100});
    give((struct ask){.request = 2, .n_tokens = 100}); /* 25 of 32 blocks are gone */
    assert_int_equal(released(0)->request, 2);
    assert_int_equal(released(0)->err, ERR_LIMIT);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_done));
    cancel(1);
    check_at_rest(2);
}

static void engine_that_refuses_one_prompt_fails_it_alone(void **state)
{
    (void)state;
    fake_engine_fail(ERR_OK, ERR_CORRUPT);
    give((struct ask){.request = 1, .n_tokens = 8});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_CORRUPT);
    assert_int_equal(fake_count(WIRE_TOKENS), 0);
    fake_engine_fail(ERR_OK, ERR_OK);
    give((struct ask){.request = 2, .n_tokens = 8, .no_decode = true, .max_new = 1});
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(1)->err, ERR_OK);
    check_at_rest(2);
}

static void broken_engine_is_told_once_and_everything_is_released(void **state)
{
    (void)state;
    fake_engine_fail(ERR_DEVICE, ERR_OK);
    give((struct ask){.request = 1, .n_tokens = 8});
    assert_true(fake_run_until(&loop, is_broken));
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_DEVICE);
    give((struct ask){.request = 2, .n_tokens = 8});
    assert_int_equal(released(1)->err, ERR_DEVICE);
    assert_int_equal(fake_broken(), 1);
    check_at_rest(2);
}

static void grant_for_the_wrong_worker_or_size_opens_nothing(void **state)
{
    Baton__Report m = BATON__REPORT__INIT;

    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER + 1);
    grant(6, 3, DECODE_WORKER);
    assert_int_equal(fake_sends(), 0);
    prefill_report(role, &m);
    assert_int_equal(m.late_messages, 2);
    grant(5, 2, DECODE_WORKER); /* too few blocks: this attempt cannot work */
    assert_int_equal(fake_sends(), 0);
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_INVALID);
    check_at_rest(1);
}

static void second_grant_and_second_prefill_are_ignored(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10});
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_done));
    assert_int_equal(fake_sends(), 1);
    fake_send_done(fake_send_at(0), ERR_OK);
    check_at_rest(1);
}

static void unknown_peer_fails_the_hand_over(void **state)
{
    (void)state;
    fake_kvt_refuse(ERR_NOT_FOUND);
    give((struct ask){.request = 5, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(((const Baton__HandoverDone *)fake_nth(WIRE_HANDOVER_DONE, 0))->err,
                     ERR_NOT_FOUND);
    assert_int_equal(released(0)->err, ERR_NOT_FOUND);
    check_at_rest(1);
}

static void two_epochs_of_one_request_live_side_by_side(void **state)
{
    (void)state;
    fake_engine_hold(true);
    give((struct ask){.request = 5, .n_tokens = 10});
    fake_run_some(&loop);
    cancel(5); /* still in the step */
    give((struct ask){.request = 5, .epoch = 2, .n_tokens = 10, .max_new = 1, .no_decode = true});
    fake_engine_hold(false);
    assert_true(fake_run_until(&loop, has_two_released));
    assert_int_equal(released(0)->epoch, 1);
    assert_int_equal(released(0)->err, ERR_CANCELED);
    assert_int_equal(released(1)->epoch, 2);
    assert_int_equal(released(1)->err, ERR_OK);
    check_at_rest(2);
}

static void losing_the_scheduler_or_a_front_end_cancels_what_is_theirs(void **state)
{
    (void)state;
    give((struct ask){.request = 1, .n_tokens = 10});
    give((struct ask){.request = 2, .n_tokens = 10});
    fake_run_some(&loop);
    prefill_cancel_frontend(role, FRONTEND + 1);
    assert_int_equal(prefill_live(role), 2);
    prefill_cancel_frontend(role, FRONTEND);
    assert_true(fake_run_until(&loop, has_two_released));
    give((struct ask){.request = 3, .n_tokens = 10});
    prefill_cancel_all(role);
    check_at_rest(3);
}

static void role_can_go_while_a_step_and_a_transfer_run(void **state)
{
    (void)state;
    give((struct ask){.request = 1, .n_tokens = 10});
    grant(1, 3, DECODE_WORKER);
    assert_true(fake_run_until(&loop, has_done));
    give((struct ask){.request = 2, .n_tokens = 90});
    /* teardown destroys the role, then ends the transfer, and counts what stays allocated */
}

/* Any order of events: each request ends exactly once, and no block is lost. */
static void random_events_leave_nothing_behind(void **state)
{
    uint32_t seed = 12345, given = 0;

    (void)state;
    for (uint32_t i = 0; i < 400; i++) {
        uint32_t r;

        seed = seed * 1664525u + 1013904223u;
        r = seed >> 16;
        switch (r % 6) {
        case 0:
        case 1:
            given++;
            give((struct ask){.request = given,
                              .n_tokens = 1 + r % 40,
                              .order = r % 7,
                              .no_decode = r % 5 == 0,
                              .penalty = r % 3 == 0});
            break;
        case 2:
            grant(1 + r % (given + 1), 1 + (r >> 4) % 10, DECODE_WORKER);
            break;
        case 3:
            cancel(1 + r % (given + 1));
            break;
        case 4:
            for (uint32_t k = 0; k < fake_sends() && k < 256; k++) {
                if (!fake_send_at(k)->done && (fake_send_at(k)->finished || r % 2 == 0))
                    fake_send_done(fake_send_at(k), r % 3 == 0 ? ERR_TIMEOUT : ERR_OK);
            }
            break;
        default:
            uv_run(&loop, UV_RUN_NOWAIT);
            break;
        }
        if (fake_sends() > 200)
            break;
    }
    prefill_cancel_all(role);
    fake_run_some(&loop);
    for (uint32_t k = 0; k < fake_sends(); k++) {
        if (!fake_send_at(k)->done)
            fake_send_done(fake_send_at(k), ERR_CANCELED);
    }
    check_at_rest(given);
}

/* One allocation fails, each in turn: the request it belongs to may end, nothing else does. */
static void every_failed_allocation_ends_one_request_at_most(void **state)
{
    for (long fail = 0; fail < 60; fail++) {
        Baton__Report m = BATON__REPORT__INIT;
        bool bad = fail > 0 && setup(state) != 0; /* the first one ran already */

        assert_false(bad);
        fake_engine_quick();
        fake_short_of_memory();
        mem_fail_at(fail);
        give((struct ask){.request = 1, .n_tokens = 20, .stop_id = 9, .penalty = true});
        give((struct ask){.request = 2, .n_tokens = 6, .max_new = 1, .logprobs = true});
        grant(1, 5, DECODE_WORKER);
        fake_run_some(&loop);
        for (uint32_t i = 0; i < fake_sends(); i++)
            fake_send_done(fake_send_at(i), ERR_OK);
        mem_fail_at(-1);
        prefill_cancel_all(role);
        for (uint32_t i = 0; i < fake_sends(); i++) {
            if (!fake_send_at(i)->done)
                fake_send_done(fake_send_at(i), ERR_CANCELED);
        }
        assert_true(fake_run_until(&loop, nothing_live));
        prefill_report(role, &m);
        assert_int_equal(m.free_blocks, FAKE_BLOCKS);
        assert_int_equal(m.live_requests, 0);
        assert_int_equal(fake_released(), 2);
        if (fail < 59)
            teardown(state);
    }
}

static void role_that_cannot_start_says_so_and_leaves_nothing(void **state)
{
    struct prefill_config c = {.loop = &loop,
                               .engine = fake_engine(),
                               .kvt = fake_kvt(),
                               .n_blocks = FAKE_BLOCKS,
                               .to_scheduler = fake_to_scheduler,
                               .to_frontend = fake_to_frontend};
    enum err err = ERR_NOMEM;

    (void)state;
    for (long fail = 0; err != ERR_OK; fail++) {
        struct prefill *p;

        assert_true(fail < 100);
        mem_fail_at(fail);
        err = prefill_create(&c, &p);
        mem_fail_at(-1);
        assert_true(err == ERR_OK || err == ERR_NOMEM);
        if (err == ERR_OK) {
            assert_true(fail > 5);
            prefill_destroy(p);
        }
    }
    fake_run_some(&loop);
}

static int setup_short(void **state)
{
    struct prefill_config c = {.loop = &loop,
                               .n_blocks = FAKE_BLOCKS,
                               .grant_timeout_ns = 30 * CLOCK_NS_PER_MS,
                               .to_scheduler = fake_to_scheduler,
                               .to_frontend = fake_to_frontend,
                               .on_broken = fake_on_broken};

    (void)state;
    fake_engine_reset(MAX_BATCH, STEP_TOKENS);
    fake_kvt_reset();
    fake_msgs_reset();
    fake_loop_open(&loop);
    c.engine = fake_engine();
    c.kvt = fake_kvt();
    return prefill_create(&c, &role) == ERR_OK ? 0 : -1;
}

static void grant_that_never_comes_ends_the_wait(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_TIMEOUT);
    assert_int_equal(((const Baton__HandoverDone *)fake_nth(WIRE_HANDOVER_DONE, 0))->err,
                     ERR_TIMEOUT);
    check_at_rest(1);
}

/* A decode worker without room answers late; the wait is as long as the message allows, no longer. */
static void wait_for_a_grant_is_as_long_as_the_hand_over_may_take(void **state)
{
    uint64_t began = clock_now_ns();

    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10, .handover_ms = 150});
    assert_true(fake_run_until(&loop, has_released));
    assert_int_equal(released(0)->err, ERR_TIMEOUT);
    assert_true(clock_now_ns() - began >= 150 * CLOCK_NS_PER_MS);
    check_at_rest(1);
}

static void transfer_class_of_the_terms_reaches_the_hand_over(void **state)
{
    (void)state;
    give((struct ask){.request = 5, .n_tokens = 10, .transfer_class = 3});
    give((struct ask){.request = 6, .n_tokens = 10});
    grant(5, 3, DECODE_WORKER);
    grant(6, 3, DECODE_WORKER);
    assert_int_equal(fake_send_at(0)->c.transfer_class, 3);
    assert_int_equal(fake_send_at(1)->c.transfer_class, 0);
    prefill_cancel_all(role);
    fake_send_done(fake_send_at(0), ERR_CANCELED);
    fake_send_done(fake_send_at(1), ERR_CANCELED);
    check_at_rest(2);
}

static void report_holds_samples_of_the_steps_since_the_last_one(void **state)
{
    Baton__Report m = BATON__REPORT__INIT, again = BATON__REPORT__INIT;

    (void)state;
    give((struct ask){.request = 5, .n_tokens = 2 * STEP_TOKENS + 3, .no_decode = true});
    assert_true(fake_run_until(&loop, has_released));
    prefill_report(role, &m);
    assert_int_equal(m.n_sample, 3);
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t n = i < 2 ? STEP_TOKENS : 3;

        assert_int_equal(m.sample[i]->n, n);
        assert_int_equal(m.sample[i]->n2, n * (n + 2 * (uint64_t)i * STEP_TOKENS));
        assert_int_equal(m.sample[i]->b, 0);
        assert_true(m.sample[i]->ns > 0);
    }
    prefill_report(role, &again);
    assert_int_equal(again.n_sample, 0);
    check_at_rest(1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(first_token_is_out_before_the_hand_over_is_acknowledged),
        TEST(long_prompt_is_computed_in_chunks_with_one_sample_at_its_end),
        TEST(smaller_order_runs_first_and_short_prompts_share_a_step),
        TEST(urgent_request_overtakes_a_long_one_between_chunks),
        TEST(layers_are_sent_while_later_ones_compute),
        TEST(every_layer_of_a_device_is_sent_at_its_own_ticket),
        TEST(late_grant_finds_the_tickets_of_the_running_step),
        TEST(grant_in_the_middle_of_a_step_sends_what_is_final_by_then),
        TEST(grant_after_the_prompt_sends_everything),
        TEST(block_shared_by_two_chunks_is_sent_once_and_only_when_full),
        TEST(queued_request_is_canceled_at_once),
        TEST(blocks_of_a_canceled_request_wait_for_the_running_step),
        TEST(cancel_while_waiting_for_a_grant_releases_at_once),
        TEST(cancel_while_sending_waits_for_the_transfer_to_end),
        TEST(failed_transfer_is_reported_and_ends_the_request),
        TEST(transfer_that_fails_while_computing_stops_the_computing),
        TEST(stop_token_ends_the_request_here),
        TEST(stop_token_below_min_tokens_does_not_end_it),
        TEST(last_token_by_length_ends_the_request_here),
        TEST(penalty_sees_which_tokens_were_generated_before),
        TEST(request_that_cannot_run_here_is_released_with_the_reason),
        TEST(request_without_free_blocks_is_refused_and_others_run_on),
        TEST(engine_that_refuses_one_prompt_fails_it_alone),
        TEST(broken_engine_is_told_once_and_everything_is_released),
        TEST(grant_for_the_wrong_worker_or_size_opens_nothing),
        TEST(second_grant_and_second_prefill_are_ignored),
        TEST(unknown_peer_fails_the_hand_over),
        TEST(two_epochs_of_one_request_live_side_by_side),
        TEST(losing_the_scheduler_or_a_front_end_cancels_what_is_theirs),
        TEST(role_can_go_while_a_step_and_a_transfer_run),
        TEST(random_events_leave_nothing_behind),
        TEST(every_failed_allocation_ends_one_request_at_most),
        TEST(wait_for_a_grant_is_as_long_as_the_hand_over_may_take),
        TEST(transfer_class_of_the_terms_reaches_the_hand_over),
        TEST(report_holds_samples_of_the_steps_since_the_last_one),
        TEST(role_that_cannot_start_says_so_and_leaves_nothing),
        cmocka_unit_test_setup_teardown(grant_that_never_comes_ends_the_wait, setup_short,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
