/* tests/unit/roles_decode.c - see the header. */
#include "tests/unit/roles_decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"

uv_loop_t dt_loop;
struct decode *dt_role;
uint32_t dt_local;

static int dt_setup_with(uint32_t max_batch, uint64_t park_blocks)
{
    struct decode_config c = {.loop = &dt_loop,
                              .n_blocks = FAKE_BLOCKS,
                              .to_scheduler = fake_to_scheduler,
                              .to_frontend = fake_to_frontend,
                              .on_broken = fake_on_broken};

    dt_local = 0;
    fake_engine_reset(max_batch, 64);
    fake_kvt_reset();
    fake_msgs_reset();
    fake_loop_open(&dt_loop);
    c.engine = fake_engine();
    c.kvt = fake_kvt();
    c.park_bytes = park_blocks * wire_kv_block_bytes(&engine_info(c.engine)->kv);
    return decode_create(&c, &dt_role) == ERR_OK ? 0 : -1;
}

int dt_setup(void **state)
{
    (void)state;
    return dt_setup_with(64, FAKE_BLOCKS);
}

int dt_setup_small(void **state)
{
    (void)state;
    return dt_setup_with(DT_MAX_BATCH, FAKE_BLOCKS);
}

int dt_setup_no_park(void **state)
{
    (void)state;
    return dt_setup_with(64, 0);
}

void dt_end_grants(void)
{
    for (uint32_t i = 0; i < fake_grants(); i++) {
        if (!fake_grant_at(i)->arrived)
            fake_grant_arrive(fake_grant_at(i), ERR_CANCELED, NULL, 0);
        if (!fake_grant_at(i)->safe)
            fake_grant_safe(fake_grant_at(i));
    }
}

int dt_teardown(void **state)
{
    (void)state;
    fake_engine_hold(false);
    decode_destroy(dt_role);
    dt_end_grants();
    assert_true(fake_loop_close(&dt_loop));
    fake_kvt_reset();
    fake_msgs_reset();
    assert_int_equal(mem_live(), 0);
    return 0;
}

static Baton__Terms *dt_terms_of(const struct dt_ask *a, Baton__Terms *t)
{
    baton__terms__init(t);
    t->tier = a->tier;
    t->tbt_ns = a->tbt_ms * CLOCK_NS_PER_MS;
    t->first_deadline_ns = (int64_t)a->due_ms * (int64_t)CLOCK_NS_PER_MS;
    return a->tbt_ms > 0 ? t : NULL;
}

static uint64_t dt_deadline_of(const struct dt_ask *a)
{
    return a->deadline_ms != 0 ? a->deadline_ms * CLOCK_NS_PER_MS : 10 * CLOCK_NS_PER_S;
}

void dt_reserve(struct dt_ask a)
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
    m.frontend = a.frontend != 0 ? a.frontend : DT_FRONTEND;
    m.prefill_worker = DT_PREFILL_WORKER;
    m.n_tokens = a.n_tokens;
    m.n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;
    m.max_new = a.max_new;
    m.tokens.data = tokens;
    m.tokens.len = a.penalty && !a.no_tokens ? (size_t)a.n_tokens * 4 : 0;
    m.deadline_ns = dt_deadline_of(&a);
    m.terms = dt_terms_of(&a, &t);
    m.sampling = &s;
    decode_on_reserve(dt_role, &m);
}

/* The same as a prompt to be computed here: tokens 5 6 3 4 5 ... */
void dt_prefill(struct dt_ask a)
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
    m.frontend = DT_FRONTEND;
    m.decode_worker = DT_SELF;
    m.n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;
    m.max_new = a.max_new;
    m.tokens = (ProtobufCBinaryData){(size_t)a.n_tokens * 4, tokens};
    m.deadline_ns = dt_deadline_of(&a);
    m.terms = dt_terms_of(&a, &t);
    m.sampling = &s;
    dt_local++;
    decode_on_prefill(dt_role, DT_SELF, &m);
}

void dt_cancel(uint64_t request)
{
    Baton__Cancel m = BATON__CANCEL__INIT;

    m.request = request;
    m.epoch = 1;
    decode_on_cancel(dt_role, &m);
}

void dt_arrive_with(uint32_t grant, struct wire_meta meta)
{
    uint8_t bytes[WIRE_META_LEN];

    wire_meta_encode(&meta, bytes);
    fake_grant_arrive(fake_grant_at(grant), ERR_OK, bytes, sizeof(bytes));
    fake_grant_safe(fake_grant_at(grant));
}

/* What a good prefill worker sends for request `a`: the first token has index n_tokens - n_prompt. */
void dt_arrive(uint32_t grant, struct dt_ask a)
{
    uint32_t n_prompt = a.n_prompt != 0 ? a.n_prompt : a.n_tokens;

    dt_arrive_with(grant, (struct wire_meta){.request = a.request,
                                             .epoch = a.epoch != 0 ? a.epoch : 1,
                                             .n_tokens = a.n_tokens,
                                             .token = 100 + a.n_tokens - n_prompt,
                                             .index = a.n_tokens - n_prompt});
}

bool dt_has_released(void)
{
    return fake_count(WIRE_RELEASED) >= 1;
}
bool dt_has_two_released(void)
{
    return fake_count(WIRE_RELEASED) >= 2;
}
bool dt_has_three_released(void)
{
    return fake_count(WIRE_RELEASED) >= 3;
}
bool dt_has_two_granted(void)
{
    return fake_count(WIRE_GRANTED) >= 2;
}
bool dt_has_three_granted(void)
{
    return fake_count(WIRE_GRANTED) >= 3;
}
bool dt_is_broken(void)
{
    return fake_broken() == 1;
}

const Baton__Released *dt_released(uint32_t i)
{
    return fake_nth(WIRE_RELEASED, i);
}
const Baton__Granted *dt_granted(uint32_t i)
{
    return fake_nth(WIRE_GRANTED, i);
}
const Baton__HandoverDone *dt_handover(uint32_t i)
{
    return fake_nth(WIRE_HANDOVER_DONE, i);
}

Baton__Report dt_report(void)
{
    Baton__Report m = BATON__REPORT__INIT;

    decode_report(dt_role, &m);
    assert_int_equal(m.free_blocks + m.blocks_owned + m.blocks_granted + m.blocks_quarantined,
                     FAKE_BLOCKS);
    return m;
}

bool dt_one_is_parked(void)
{
    return dt_report().parked == 1;
}

bool dt_nothing_live(void)
{
    return decode_live(dt_role) == 0;
}

void dt_check_at_rest(uint32_t n_released)
{
    Baton__Report m;

    assert_true(fake_run_until(&dt_loop, dt_nothing_live));
    fake_run_some(&dt_loop);
    m = dt_report();
    assert_int_equal(fake_count(WIRE_RELEASED), n_released);
    assert_int_equal(fake_count(WIRE_GRANTED), n_released - dt_local);
    assert_int_equal(m.parked, 0);
    assert_int_equal(m.blocks_parked, 0);
    assert_int_equal(m.free_blocks, FAKE_BLOCKS);
    assert_int_equal(m.live_requests, 0);
    assert_int_equal(m.live_grants, 0);
    assert_int_equal(decode_live(dt_role), 0);
    assert_true(fake_broken() < 1000); /* every message was valid */
}

/* All tokens of a request in the order they went out: index from `first` on, no gap, one finish at the end. */
uint32_t dt_check_stream(uint64_t request, uint32_t first)
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
