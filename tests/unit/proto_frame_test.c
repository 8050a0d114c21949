/* tests/unit/proto_frame_test.c - frames, the rules of every message, the meta of a hand-over, and the
 * builder of token frames. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "proto/wire_check.h"
#include "proto/wire_frame.h"
#include "proto/wire_meta.h"
#include "proto/wire_tokens.h"

static struct buf frame;

static int setup(void **state)
{
    (void)state;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_free(&frame);
    assert_int_equal(mem_live(), 0);
    return 0;
}

/* Pack and unpack; the verdict of the rules. */
static enum err trip(enum wire_type t, const void *m)
{
    ProtobufCMessage *out = NULL;
    struct wire_header h;
    enum err err;

    buf_clear(&frame);
    assert_int_equal(wire_pack(t, m, &frame), ERR_OK);
    assert_int_equal(wire_header_decode((uint8_t *)buf_bytes(&frame), frame.len, &h),
                     WIRE_FRAME_HEADER);
    assert_int_equal(h.type, t);
    assert_int_equal(h.len + WIRE_FRAME_HEADER, frame.len);
    err = wire_unpack(t, (uint8_t *)buf_bytes(&frame) + WIRE_FRAME_HEADER, h.len, &out, NULL);
    if (err == ERR_OK)
        assert_ptr_equal(out->descriptor, ((const ProtobufCMessage *)m)->descriptor);
    wire_free(out);
    return err;
}

/* The bytes on the wire are the contract with other versions of this program. */
static void frame_layout_is_fixed(void **state)
{
    static const uint8_t golden[] = {11,   0,    0,    0,    38,   0,    0,    0,    0x09, 0x88,
                                     0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x10, 0x05};
    Baton__Cancel m = BATON__CANCEL__INIT;

    (void)state;
    m.request = UINT64_C(0x0102030405060788);
    m.epoch = 5;
    assert_int_equal(wire_pack(WIRE_CANCEL, &m.base, &frame), ERR_OK);
    assert_int_equal(frame.len, sizeof(golden));
    assert_memory_equal(buf_bytes(&frame), golden, sizeof(golden));
}

static void header_waits_for_its_eight_bytes(void **state)
{
    static const uint8_t ping[WIRE_FRAME_HEADER] = {0, 0, 0, 0, WIRE_PING, 0, 0, 0};
    struct wire_header h;

    (void)state;
    for (size_t len = 0; len < WIRE_FRAME_HEADER; len++)
        assert_int_equal(wire_header_decode(ping, len, &h), 0);
    assert_int_equal(wire_header_decode(ping, WIRE_FRAME_HEADER, &h), WIRE_FRAME_HEADER);
    assert_int_equal(h.type, WIRE_PING);
}

static void header_out_of_range_is_refused(void **state)
{
    struct wire_header h;
    uint8_t bytes[WIRE_FRAME_HEADER] = {0, 0, 16, 0, WIRE_PING, 0, 0, 0}; /* 1 MiB: the limit */

    (void)state;
    assert_int_equal(wire_header_decode(bytes, sizeof(bytes), &h), WIRE_FRAME_HEADER);
    bytes[0] = 1;
    assert_int_equal(wire_header_decode(bytes, sizeof(bytes), &h), ERR_BAD_FRAME);
    bytes[0] = 0;
    bytes[3] = 0xff;
    assert_int_equal(wire_header_decode(bytes, sizeof(bytes), &h), ERR_BAD_FRAME);
    bytes[3] = 0;
    bytes[6] = 1; /* reserved */
    assert_int_equal(wire_header_decode(bytes, sizeof(bytes), &h), ERR_BAD_FRAME);
    bytes[6] = 0;
    for (unsigned type = 0; type < 65536; type++) {
        bool known = strcmp(wire_type_name((enum wire_type)type), "?") != 0;

        bytes[4] = (uint8_t)type;
        bytes[5] = (uint8_t)(type >> 8);
        assert_int_equal(wire_header_decode(bytes, sizeof(bytes), &h),
                         known ? WIRE_FRAME_HEADER : (int)ERR_BAD_FRAME);
    }
}

static void message_of_another_type_or_above_the_limit_is_not_packed(void **state)
{
    Baton__Ping ping = BATON__PING__INIT;
    Baton__Prefill big = BATON__PREFILL__INIT;
    uint8_t *bytes = mem_try_calloc(1, WIRE_FRAME_MAX);

    (void)state;
    assert_int_equal(wire_pack(WIRE_CANCEL, &ping.base, &frame), ERR_INVALID);
    big.tokens.data = bytes;
    big.tokens.len = WIRE_FRAME_MAX;
    assert_int_equal(wire_pack(WIRE_PREFILL, &big.base, &frame), ERR_LIMIT);
    assert_int_equal(frame.len, 0);
    mem_free(bytes);
}

static void truncated_body_is_refused_or_a_shorter_message(void **state)
{
    Baton__Link m = BATON__LINK__INIT;
    uint32_t refused = 0;

    (void)state;
    m.peer = 3;
    m.path = 1;
    m.lanes = (char *)(uintptr_t) "posix/memory";
    m.bytes_per_s = 1e10;
    m.round_trip_ns = 1234567;
    assert_int_equal(wire_pack(WIRE_LINK, &m.base, &frame), ERR_OK);
    for (size_t len = 0; len < frame.len - WIRE_FRAME_HEADER; len++) {
        ProtobufCMessage *out = NULL;
        struct err_msg msg = {""};
        enum err err = wire_unpack(WIRE_LINK, (uint8_t *)buf_bytes(&frame) + WIRE_FRAME_HEADER, len,
                                   &out, &msg);

        assert_true(err == ERR_OK || err == ERR_BAD_FRAME);
        refused += err != ERR_OK;
        if (err != ERR_OK)
            assert_non_null(strstr(msg.text, "LINK"));
        wire_free(out);
    }
    assert_true(refused > 10);
}

static void sampling(Baton__Sampling *s)
{
    baton__sampling__init(s);
    s->top_p = 1;
    s->repetition_penalty = 1;
}

#define REFUSED(type, m, field, value)                       \
    do {                                                     \
        __typeof__((m).field) kept_ = (m).field;             \
        (m).field = (value);                                 \
        assert_int_equal(trip((type), &(m)), ERR_BAD_FRAME); \
        (m).field = kept_;                                   \
        assert_int_equal(trip((type), &(m)), ERR_OK);        \
    } while (0)

static void sampling_out_of_range_never_reaches_an_engine(void **state)
{
    Baton__Prefill m = BATON__PREFILL__INIT;
    Baton__Sampling s;
    Baton__Bias bias = BATON__BIAS__INIT, *list[1] = {&bias};
    uint8_t tokens[8] = {1};
    uint8_t stop[4 * 65] = {0};

    (void)state;
    sampling(&s);
    m.request = m.epoch = 1;
    m.tokens = (ProtobufCBinaryData){8, tokens};
    m.n_prompt = 2;
    m.max_new = 1;
    m.sampling = &s;
    assert_int_equal(trip(WIRE_PREFILL, &m), ERR_OK);
    m.sampling = NULL;
    assert_int_equal(trip(WIRE_PREFILL, &m), ERR_BAD_FRAME);
    m.sampling = &s;
#define BAD(field, value)                                        \
    do {                                                         \
        __typeof__(s.field) kept_ = s.field;                     \
        s.field = (value);                                       \
        assert_int_equal(trip(WIRE_PREFILL, &m), ERR_BAD_FRAME); \
        s.field = kept_;                                         \
    } while (0)
    BAD(temperature, -0.1f);
    BAD(temperature, 101);
    BAD(temperature, NAN);
    BAD(temperature, INFINITY);
    BAD(top_p, 0);
    BAD(top_p, 1.1f);
    BAD(top_p, NAN);
    BAD(min_p, -0.1f);
    BAD(min_p, 1.1f);
    BAD(repetition_penalty, 0);
    BAD(repetition_penalty, NAN);
    BAD(presence_penalty, 2.1f);
    BAD(presence_penalty, NAN);
    BAD(frequency_penalty, -2.1f);
    BAD(frequency_penalty, NAN);
    BAD(n_top, 21);
#undef BAD
    s.stop_ids = (ProtobufCBinaryData){3, stop};
    assert_int_equal(trip(WIRE_PREFILL, &m), ERR_BAD_FRAME);
    s.stop_ids.len = 4 * 65;
    assert_int_equal(trip(WIRE_PREFILL, &m), ERR_BAD_FRAME);
    s.stop_ids.len = 4 * 64;
    assert_int_equal(trip(WIRE_PREFILL, &m), ERR_OK);
    s.n_bias = 1;
    s.bias = list;
    REFUSED(WIRE_PREFILL, m, sampling->bias[0]->value, NAN);
    REFUSED(WIRE_PREFILL, m, sampling->bias[0]->value, 100.5f);
    REFUSED(WIRE_PREFILL, m, sampling->bias[0]->token, 1u << 31);
}

static void prefill_and_reserve_bound_their_numbers(void **state)
{
    Baton__Prefill p = BATON__PREFILL__INIT;
    Baton__Reserve r = BATON__RESERVE__INIT;
    Baton__Sampling s;
    uint8_t tokens[8] = {1};

    (void)state;
    sampling(&s);
    p.request = p.epoch = p.n_prompt = p.max_new = 1;
    p.tokens = (ProtobufCBinaryData){8, tokens};
    p.sampling = &s;
    REFUSED(WIRE_PREFILL, p, request, 0);
    REFUSED(WIRE_PREFILL, p, epoch, 0);
    REFUSED(WIRE_PREFILL, p, n_prompt, 0);
    REFUSED(WIRE_PREFILL, p, n_prompt, 3);
    REFUSED(WIRE_PREFILL, p, max_new, 0);
    REFUSED(WIRE_PREFILL, p, max_new, (1u << 24) + 1);
    REFUSED(WIRE_PREFILL, p, tokens.len, 0);
    REFUSED(WIRE_PREFILL, p, tokens.len, 7);
    tokens[7] = 0x80; /* a negative id */
    assert_int_equal(trip(WIRE_PREFILL, &p), ERR_BAD_FRAME);
    tokens[7] = 0;

    r.request = r.epoch = r.n_prompt = r.max_new = r.prefill_worker = 1;
    r.n_tokens = 2;
    r.sampling = &s;
    REFUSED(WIRE_RESERVE, r, request, 0);
    REFUSED(WIRE_RESERVE, r, prefill_worker, 0);
    REFUSED(WIRE_RESERVE, r, n_tokens, 0);
    REFUSED(WIRE_RESERVE, r, n_tokens, WIRE_TOKENS_MAX + 1);
    REFUSED(WIRE_RESERVE, r, n_prompt, 3);
    REFUSED(WIRE_RESERVE, r, max_new, 0);
    r.tokens = (ProtobufCBinaryData){4, tokens}; /* not n_tokens of them */
    assert_int_equal(trip(WIRE_RESERVE, &r), ERR_BAD_FRAME);
    r.tokens.len = 8;
    assert_int_equal(trip(WIRE_RESERVE, &r), ERR_OK);
}

static void join_bounds_what_a_worker_says_of_itself(void **state)
{
    Baton__Join m = BATON__JOIN__INIT;
    Baton__KvLayout l = BATON__KV_LAYOUT__INIT;
    char name[300];

    (void)state;
    l.n_layers = l.n_kv_heads = l.head_dim = l.block_tokens = l.dtype = 1;
    m.layout = &l;
    m.n_blocks = m.max_batch = m.max_context = m.max_step_tokens = m.vocab = 1;
    REFUSED(WIRE_JOIN, m, layout, NULL);
    REFUSED(WIRE_JOIN, m, layout->n_layers, 0);
    REFUSED(WIRE_JOIN, m, layout->head_dim, 1025);
    REFUSED(WIRE_JOIN, m, layout->dtype, 5);
    REFUSED(WIRE_JOIN, m, layout->parts, 3);
    REFUSED(WIRE_JOIN, m, n_blocks, 0);
    REFUSED(WIRE_JOIN, m, n_blocks, (1u << 28) + 1);
    REFUSED(WIRE_JOIN, m, max_batch, 0);
    REFUSED(WIRE_JOIN, m, max_context, 0);
    REFUSED(WIRE_JOIN, m, vocab, 0);
    REFUSED(WIRE_JOIN, m, kv_port, 65536);
    REFUSED(WIRE_JOIN, m, park_blocks, (1u << 28) + 1);
    memset(name, 'n', sizeof(name));
    name[WIRE_NAME_MAX] = '\0';
    m.name = name;
    assert_int_equal(trip(WIRE_JOIN, &m), ERR_OK);
    name[WIRE_NAME_MAX] = 'n';
    name[WIRE_NAME_MAX + 1] = '\0';
    assert_int_equal(trip(WIRE_JOIN, &m), ERR_BAD_FRAME);
    m.name = m.model;
    m.worker_class = name;
    assert_int_equal(trip(WIRE_JOIN, &m), ERR_BAD_FRAME);
}

static void terms_are_bounded_and_may_be_absent(void **state)
{
    Baton__Prefill p = BATON__PREFILL__INIT;
    Baton__Reserve r = BATON__RESERVE__INIT;
    Baton__Terms t = BATON__TERMS__INIT;
    Baton__Sampling s;
    uint8_t tokens[4] = {1};
    int64_t day = INT64_C(86400) * 1000000000;

    (void)state;
    sampling(&s);
    p.request = p.epoch = p.n_prompt = p.max_new = 1;
    p.tokens = (ProtobufCBinaryData){4, tokens};
    p.sampling = &s;
    assert_int_equal(trip(WIRE_PREFILL, &p), ERR_OK); /* an old peer sends none */
    p.terms = &t;
    REFUSED(WIRE_PREFILL, p, terms->first_deadline_ns, day + 1);
    REFUSED(WIRE_PREFILL, p, terms->first_deadline_ns, -day - 1);
    REFUSED(WIRE_PREFILL, p, terms->tbt_ns, UINT64_MAX);
    REFUSED(WIRE_PREFILL, p, terms->tier, WIRE_TIERS_MAX);
    REFUSED(WIRE_PREFILL, p, terms->weight, -1.0);
    REFUSED(WIRE_PREFILL, p, terms->weight, (double)NAN);
    REFUSED(WIRE_PREFILL, p, terms->weight, (double)INFINITY);
    REFUSED(WIRE_PREFILL, p, terms->transfer_class, WIRE_TRANSFER_CLASSES);
    r.request = r.epoch = r.n_prompt = r.max_new = r.prefill_worker = r.n_tokens = 1;
    r.sampling = &s;
    r.terms = &t;
    t.first_deadline_ns = -day;
    REFUSED(WIRE_RESERVE, r, terms->tbt_ns, UINT64_MAX);
    REFUSED(WIRE_RESERVE, r, terms->tier, WIRE_TIERS_MAX);
}

/* A scheduler fits its laws to these: one number out of range would spoil all later predictions. */
static void step_samples_of_a_report_are_bounded(void **state)
{
    Baton__StepSample s = BATON__STEP_SAMPLE__INIT;
    Baton__StepSample *list[WIRE_SAMPLES_MAX + 1];
    Baton__Report r = BATON__REPORT__INIT;

    (void)state;
    for (int i = 0; i <= WIRE_SAMPLES_MAX; i++)
        list[i] = &s;
    r.sample = list;
    r.n_sample = WIRE_SAMPLES_MAX;
    s.n = 512;
    s.n2 = 512 * 512;
    s.b = 3;
    s.ctx = 3000;
    s.ns = 1000000;
    REFUSED(WIRE_REPORT, r, n_sample, WIRE_SAMPLES_MAX + 1);
    REFUSED(WIRE_REPORT, r, sample[0]->n, UINT64_C(1) << 40);
    REFUSED(WIRE_REPORT, r, sample[0]->n2, 511); /* less than n: no sum of n (n + 2p) */
    REFUSED(WIRE_REPORT, r, sample[0]->n2, UINT64_MAX);
    REFUSED(WIRE_REPORT, r, sample[0]->b, WIRE_ITEMS_MAX + 1);
    REFUSED(WIRE_REPORT, r, sample[0]->ctx, UINT64_MAX);
    REFUSED(WIRE_REPORT, r, sample[0]->ns, 0);
    REFUSED(WIRE_REPORT, r, sample[0]->ns, UINT64_MAX);
    REFUSED(WIRE_REPORT, r, context, UINT64_MAX);
    REFUSED(WIRE_REPORT, r, parked, WIRE_ITEMS_MAX + 1);
    s.n = s.n2 = s.b = 0; /* a step of nothing */
    assert_int_equal(trip(WIRE_REPORT, &r), ERR_BAD_FRAME);
}

static void a_worker_flips_only_to_a_role_there_is(void **state)
{
    Baton__Flip f = BATON__FLIP__INIT;

    (void)state;
    assert_int_equal(trip(WIRE_FLIP, &f), ERR_BAD_FRAME);
    for (f.role = 1; f.role <= 2; f.role++)
        assert_int_equal(trip(WIRE_FLIP, &f), ERR_OK);
    assert_int_equal(trip(WIRE_FLIP, &f), ERR_BAD_FRAME);
}

static void tokens_must_be_parallel(void **state)
{
    uint64_t request[2] = {1, 2};
    uint32_t epoch[2] = {1, 1}, index[2] = {0, 0}, token[2] = {5, 6}, finish[2] = {0, 2};
    float logprob[2] = {0, 0};
    Baton__TopLogprobs top = BATON__TOP_LOGPROBS__INIT, *tops[2] = {&top, &top};
    Baton__Tokens m = BATON__TOKENS__INIT;

    (void)state;
    m.n_request = m.n_epoch = m.n_index = m.n_token = m.n_finish = 2;
    m.request = request;
    m.epoch = epoch;
    m.index = index;
    m.token = token;
    m.finish = finish;
    REFUSED(WIRE_TOKENS, m, n_request, 1);
    REFUSED(WIRE_TOKENS, m, n_epoch, 1);
    REFUSED(WIRE_TOKENS, m, n_index, 1);
    REFUSED(WIRE_TOKENS, m, n_token, 1);
    REFUSED(WIRE_TOKENS, m, n_finish, 1);
    REFUSED(WIRE_TOKENS, m, finish[1], 3);
    REFUSED(WIRE_TOKENS, m, token[1], 1u << 31);
    m.logprob = logprob;
    m.top = tops;
    m.n_logprob = 1;
    assert_int_equal(trip(WIRE_TOKENS, &m), ERR_BAD_FRAME);
    m.n_logprob = 2;
    m.n_top = 1;
    assert_int_equal(trip(WIRE_TOKENS, &m), ERR_BAD_FRAME);
    m.n_top = 2;
    assert_int_equal(trip(WIRE_TOKENS, &m), ERR_OK);
    top.n_token = 1;
    top.token = token;
    assert_int_equal(trip(WIRE_TOKENS, &m), ERR_BAD_FRAME);
    m.n_request = m.n_epoch = m.n_index = m.n_token = m.n_finish = m.n_logprob = m.n_top = 0;
    assert_int_equal(trip(WIRE_TOKENS, &m), ERR_BAD_FRAME); /* an empty frame says nothing */
}

static void small_messages_bound_their_ids(void **state)
{
    Baton__Welcome w = BATON__WELCOME__INIT;
    Baton__Introduce i = BATON__INTRODUCE__INIT;
    Baton__Forget f = BATON__FORGET__INIT;
    Baton__Grant g = BATON__GRANT__INIT;
    Baton__Granted gd = BATON__GRANTED__INIT;
    Baton__Link l = BATON__LINK__INIT;
    Baton__Attach a = BATON__ATTACH__INIT;
    Baton__Cancel c = BATON__CANCEL__INIT;
    Baton__HandoverDone h = BATON__HANDOVER_DONE__INIT;
    Baton__Report r = BATON__REPORT__INIT;
    Baton__Frontend fe = BATON__FRONTEND__INIT, *fes[1] = {&fe};
    uint8_t bytes[16] = {0};
    uint64_t counters[10] = {0};

    (void)state;
    w.worker = 1;
    w.heartbeat_ns = 100000000;
    w.peer_timeout_ns = 500000000;
    fe.id = 1;
    w.n_frontends = 1;
    w.frontends = fes;
    REFUSED(WIRE_WELCOME, w, worker, 0);
    REFUSED(WIRE_WELCOME, w, heartbeat_ns, 1); /* would make the worker spin */
    REFUSED(WIRE_WELCOME, w, peer_timeout_ns, 1);
    REFUSED(WIRE_WELCOME, w, frontends[0]->id, 0);
    i.peer = 1;
    i.token = (ProtobufCBinaryData){16, bytes};
    REFUSED(WIRE_INTRODUCE, i, token.len, 15);
    REFUSED(WIRE_INTRODUCE, i, peer, 0);
    REFUSED(WIRE_INTRODUCE, i, port, 65536);
    f.peer = 1;
    REFUSED(WIRE_FORGET, f, peer, 0);
    g.request = g.transfer = 1;
    g.blocks = (ProtobufCBinaryData){8, bytes};
    REFUSED(WIRE_GRANT, g, request, 0);
    REFUSED(WIRE_GRANT, g, transfer, 0);
    REFUSED(WIRE_GRANT, g, blocks.len, 0);
    REFUSED(WIRE_GRANT, g, blocks.len, 6);
    gd.request = gd.transfer = 1;
    gd.ok = true;
    gd.blocks = g.blocks;
    REFUSED(WIRE_GRANTED, gd, transfer, 0);
    REFUSED(WIRE_GRANTED, gd, blocks.len, 0);
    REFUSED(WIRE_LINK, l, path, 9);
    REFUSED(WIRE_LINK, l, bytes_per_s, (double)NAN);
    REFUSED(WIRE_LINK, l, bytes_per_s, -1.0);
    a.worker = 1;
    REFUSED(WIRE_ATTACH, a, worker, 0);
    c.request = 1;
    REFUSED(WIRE_CANCEL, c, request, 0);
    h.request = 1;
    REFUSED(WIRE_HANDOVER_DONE, h, path, 9);
    r.bytes_sent = counters;
    REFUSED(WIRE_REPORT, r, n_bytes_sent, 10);
}

static void meta_of_a_hand_over_has_fixed_bytes(void **state)
{
    static const uint8_t golden[WIRE_META_LEN] = {
        'B',  'T',  'N',  'M',  1,  0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        0x04, 0x03, 0x02, 0x01, 10, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 3,    0,    0,    0};
    struct wire_meta m = {0x1122334455667788u, 0x01020304, 10, 0x7fffffff, 3}, out;
    uint8_t bytes[WIRE_META_LEN];

    (void)state;
    wire_meta_encode(&m, bytes);
    assert_memory_equal(bytes, golden, WIRE_META_LEN);
    assert_int_equal(wire_meta_decode(golden, WIRE_META_LEN, &out), ERR_OK);
    assert_memory_equal(&out, &m, sizeof(m));
}

static void meta_that_is_not_whole_is_refused(void **state)
{
    struct wire_meta m = {5, 1, 10, 100, 0}, out;
    uint8_t good[WIRE_META_LEN], bad[WIRE_META_LEN + 1];

    (void)state;
    wire_meta_encode(&m, good);
    for (size_t len = 0; len < WIRE_META_LEN; len++)
        assert_int_equal(wire_meta_decode(good, len, &out), ERR_BAD_FRAME);
    memcpy(bad, good, WIRE_META_LEN);
    bad[WIRE_META_LEN] = 0;
    assert_int_equal(wire_meta_decode(bad, WIRE_META_LEN + 1, &out), ERR_BAD_FRAME);
    for (unsigned bit = 0; bit < 64; bit++) { /* magic, version, reserved */
        memcpy(bad, good, WIRE_META_LEN);
        bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(wire_meta_decode(bad, WIRE_META_LEN, &out), ERR_BAD_FRAME);
    }
    m.request = 0;
    wire_meta_encode(&m, bad);
    assert_int_equal(wire_meta_decode(bad, WIRE_META_LEN, &out), ERR_BAD_FRAME);
    m = (struct wire_meta){5, 1, 10, 1u << 31, 0};
    wire_meta_encode(&m, bad);
    assert_int_equal(wire_meta_decode(bad, WIRE_META_LEN, &out), ERR_BAD_FRAME);
}

static uint32_t seen_frames, seen_items, seen_tops;

static void on_frame(void *arg, uint32_t frontend, const Baton__Tokens *m)
{
    (void)arg;
    seen_frames++;
    seen_items += (uint32_t)m->n_request;
    seen_tops += (uint32_t)m->n_top;
    for (size_t i = 0; i < m->n_request; i++) {
        assert_int_equal(m->request[i] % 3, frontend);
        if (m->n_top > 0)
            assert_int_equal(m->top[i]->n_token, m->request[i] % 2 == 0 ? 2 : 0);
    }
    assert_int_equal(trip(WIRE_TOKENS, m), ERR_OK);
}

static void token_builder_makes_one_valid_frame_per_front_end(void **state)
{
    struct wire_tokens t = {0};
    static const uint32_t top[2] = {7, 8};
    static const float top_logprob[2] = {-1, -2};

    (void)state;
    for (int round = 0; round < 3; round++) {
        uint32_t n = round == 1 ? 300 : 30; /* grows, then has room to spare */

        seen_frames = seen_items = seen_tops = 0;
        for (uint32_t i = 1; i <= n; i++) {
            struct wire_token item = {.request = i, .epoch = 1, .token = i};

            if (round > 0 && i % 2 == 0) { /* the first item of a frame may be one without */
                item.want_logprobs = true;
                item.n_top = 2;
                item.top_token = top;
                item.top_logprob = top_logprob;
            }
            assert_int_equal(wire_tokens_add(&t, (uint32_t)(item.request % 3), &item), ERR_OK);
        }
        wire_tokens_each(&t, on_frame, NULL);
        assert_int_equal(seen_frames, 3);
        assert_int_equal(seen_items, n);
        assert_int_equal(seen_tops, round == 0 ? 0 : n);
        wire_tokens_each(&t, on_frame, NULL); /* empty now */
        assert_int_equal(seen_frames, 3);
    }
    wire_tokens_free(&t);
}

static void token_builder_survives_every_failed_allocation(void **state)
{
    (void)state;
    for (long fail = 0; fail < 40; fail++) {
        struct wire_tokens t = {0};
        static const uint32_t top[1] = {7};
        static const float top_logprob[1] = {-1};
        uint32_t added = 0;

        mem_fail_at(fail);
        for (uint32_t i = 1; i <= 200; i++) {
            struct wire_token item = {.request = 2 * i,
                                      .epoch = 1,
                                      .want_logprobs = true,
                                      .n_top = 1,
                                      .top_token = top,
                                      .top_logprob = top_logprob};

            added += wire_tokens_add(&t, i % 2, &item) == ERR_OK;
        }
        mem_fail_at(-1);
        assert_true(added >= 198);
        wire_tokens_free(&t);
    }
}

static void every_type_has_a_name_and_survives_a_round_trip_when_valid(void **state)
{
    Baton__Ping ping = BATON__PING__INIT;
    Baton__Drain drain = BATON__DRAIN__INIT;
    char why[WIRE_NAME_MAX + 2] = "";
    Baton__Loading loading = BATON__LOADING__INIT;
    Baton__Released released = BATON__RELEASED__INIT;
    Baton__DecodeProgress progress = BATON__DECODE_PROGRESS__INIT;

    (void)state;
    assert_string_equal(wire_type_name(WIRE_RESERVE), "RESERVE");
    assert_int_equal(trip(WIRE_PING, &ping), ERR_OK);
    assert_int_equal(trip(WIRE_DRAIN, &drain), ERR_OK);
    memset(why, 'x', sizeof(why) - 1);
    drain.why = why;
    assert_int_equal(trip(WIRE_DRAIN, &drain), ERR_BAD_FRAME);
    drain.why++;
    assert_int_equal(trip(WIRE_DRAIN, &drain), ERR_OK);
    assert_int_equal(trip(WIRE_LOADING, &loading), ERR_OK);
    released.request = 1;
    assert_int_equal(trip(WIRE_RELEASED, &released), ERR_OK);
    assert_int_equal(trip(WIRE_DECODE_PROGRESS, &progress), ERR_OK);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frame_layout_is_fixed),
        TEST(header_waits_for_its_eight_bytes),
        TEST(header_out_of_range_is_refused),
        TEST(message_of_another_type_or_above_the_limit_is_not_packed),
        TEST(truncated_body_is_refused_or_a_shorter_message),
        TEST(sampling_out_of_range_never_reaches_an_engine),
        TEST(prefill_and_reserve_bound_their_numbers),
        TEST(join_bounds_what_a_worker_says_of_itself),
        TEST(terms_are_bounded_and_may_be_absent),
        TEST(step_samples_of_a_report_are_bounded),
        TEST(a_worker_flips_only_to_a_role_there_is),
        TEST(tokens_must_be_parallel),
        TEST(small_messages_bound_their_ids),
        TEST(meta_of_a_hand_over_has_fixed_bytes),
        TEST(meta_that_is_not_whole_is_refused),
        TEST(token_builder_makes_one_valid_frame_per_front_end),
        TEST(token_builder_survives_every_failed_allocation),
        TEST(every_type_has_a_name_and_survives_a_round_trip_when_valid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
