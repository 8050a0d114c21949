/* tests/unit/kvt_wire_test.c - the bytes between two kvt nodes.  The golden bytes are the contract:
 * change them only together with KVT_WIRE_VERSION. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "kvtransfer/kvt_wire.h"

static uint8_t frame[KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX];
static const struct wire_kv_layout layout = {2, 3, 4, 5, WIRE_KV_BF16, 0x1122334455667788u, 3};

static void claim_matches_golden_bytes(void **state)
{
    static const uint8_t golden[] = {32, 0, 0, 0, 9, 0, 0, 0, 8,    7,    6,    5,    4,    3,
                                     2,  1, 9, 0, 0, 0, 3, 0, 0,    0,    0xef, 0xbe, 0xad, 0xde,
                                     0,  0, 0, 0, 1, 0, 0, 0, 0xe9, 0xff, 0xff, 0xff};
    struct kvt_wire_transfer t = {.transfer = 0x0102030405060708u,
                                  .epoch = 9,
                                  .n_slots = 3,
                                  .slots_digest = 0xdeadbeef,
                                  .one_sided = true,
                                  .err = ERR_CORRUPT};
    struct kvt_wire_transfer back;

    (void)state;
    assert_int_equal(sizeof(golden), kvt_wire_put_transfer(frame, KVT_WIRE_CLAIM, &t));
    assert_memory_equal(golden, frame, sizeof(golden));
    assert_int_equal(ERR_OK, kvt_wire_get_transfer(golden + 8, sizeof(golden) - 8, &back));
    assert_true(back.transfer == t.transfer && back.epoch == 9 && back.n_slots == 3);
    assert_true(back.slots_digest == t.slots_digest && back.one_sided && back.err == ERR_CORRUPT);
}

static void data_header_matches_golden_bytes(void **state)
{
    static const uint8_t golden[KVT_WIRE_DATA_HEADER] = {
        1, 0, 0, 0, 0, 0, 0, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0,
        0, 0, 5, 0, 0, 0, 6, 0,    0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0};
    struct kvt_wire_data d = {
        .cookie = 0x8000000000000001u,
        .transfer = 2,
        .epoch = 3,
        .record = {.first = 4, .n = 5, .grain = 6, .n_grains = 7, .digest = 8}};
    struct kvt_wire_data back;
    uint8_t bytes[KVT_WIRE_DATA_HEADER];

    (void)state;
    kvt_wire_put_data(bytes, &d);
    assert_memory_equal(golden, bytes, sizeof(golden));
    assert_int_equal(ERR_OK, kvt_wire_get_data(bytes, sizeof(bytes), &back));
    assert_true(back.cookie == d.cookie && back.record.n_grains == 7 && back.record.digest == 8);
}

/* A frame of each type, with its decoder. */
static enum err decode(enum kvt_wire_type type, const uint8_t *body, size_t len)
{
    static union {
        uint8_t nonce[KVT_WIRE_NONCE];
        struct kvt_wire_hello hello;
        struct kvt_wire_welcome welcome;
        struct kvt_wire_link link;
        struct kvt_wire_transfer transfer;
        struct kvt_wire_notify notify;
        struct kvt_wire_done done;
        uint64_t value;
    } out;

    switch (type) {
    case KVT_WIRE_CHALLENGE:
        return kvt_wire_get_challenge(body, len, out.nonce);
    case KVT_WIRE_HELLO:
        return kvt_wire_get_hello(body, len, &out.hello);
    case KVT_WIRE_WELCOME:
        return kvt_wire_get_welcome(body, len, &out.welcome);
    case KVT_WIRE_LINK:
        return kvt_wire_get_link(body, len, &out.link);
    case KVT_WIRE_NOTIFY:
        return kvt_wire_get_notify(body, len, &out.notify);
    case KVT_WIRE_DONE:
        return kvt_wire_get_done(body, len, &out.done);
    case KVT_WIRE_PING:
    case KVT_WIRE_PONG:
    case KVT_WIRE_PROBE:
    case KVT_WIRE_PROBE_DONE:
        return kvt_wire_get_u64(body, len, &out.value);
    case KVT_WIRE_CLAIM:
    case KVT_WIRE_ACCEPT:
    case KVT_WIRE_REFUSE:
    case KVT_WIRE_ACK:
    case KVT_WIRE_ABORT:
    case KVT_WIRE_STOPPED:
        return kvt_wire_get_transfer(body, len, &out.transfer);
    }
    return ERR_INVALID;
}

static size_t encode(enum kvt_wire_type type)
{
    static const uint8_t nonce[KVT_WIRE_NONCE] = {1, 2, 3};
    static struct kvt_wire_welcome w;
    struct kvt_wire_hello h = {.self = 1, .peer = 2, .instance = 3, .layout = layout};
    struct kvt_wire_link l = {
        .path = 1, .one_sided = true, .bytes_per_s = 5, .lanes = "posix/memory"};
    struct kvt_wire_transfer t = {.transfer = 7, .epoch = 8};
    struct kvt_wire_done d = {
        .transfer = 7, .epoch = 8, .n_records = 9, .meta_len = 3, .meta = "abc"};
    struct kvt_wire_notify n = {.transfer = 7, .epoch = 8, .n_records = 2};

    for (uint32_t i = 0; i < 2; i++)
        n.record[i] = (struct kvt_wire_record){.first = i, .n = 1, .n_grains = 4, .digest = 99};
    w.layout = layout;
    w.memory = KVT_WIRE_COHERENT; /* with a key for each part */
    for (uint32_t i = 0; i < layout.parts; i++)
        w.part_rkey_len[i] = 5;
    w.rkey_len = 10;
    w.address_len = 100;
    switch (type) {
    case KVT_WIRE_CHALLENGE:
        return kvt_wire_put_challenge(frame, nonce);
    case KVT_WIRE_HELLO:
        return kvt_wire_put_hello(frame, &h);
    case KVT_WIRE_WELCOME:
        return kvt_wire_put_welcome(frame, &w);
    case KVT_WIRE_LINK:
        return kvt_wire_put_link(frame, &l);
    case KVT_WIRE_NOTIFY:
        return kvt_wire_put_notify(frame, &n);
    case KVT_WIRE_DONE:
        return kvt_wire_put_done(frame, &d);
    case KVT_WIRE_PING:
    case KVT_WIRE_PONG:
    case KVT_WIRE_PROBE:
    case KVT_WIRE_PROBE_DONE:
        return kvt_wire_put_u64(frame, type, 12345);
    case KVT_WIRE_CLAIM:
    case KVT_WIRE_ACCEPT:
    case KVT_WIRE_REFUSE:
    case KVT_WIRE_ACK:
    case KVT_WIRE_ABORT:
    case KVT_WIRE_STOPPED:
        return kvt_wire_put_transfer(frame, type, &t);
    }
    return 0;
}

static void every_frame_decodes_whole_and_at_no_other_length(void **state)
{
    (void)state;
    for (int type = KVT_WIRE_CHALLENGE; type <= KVT_WIRE_STOPPED; type++) {
        size_t len = encode((enum kvt_wire_type)type);
        uint16_t got;
        uint32_t body;

        assert_int_equal(ERR_OK, kvt_wire_get_header(frame, &got, &body));
        assert_int_equal(type, got);
        assert_int_equal(len, KVT_WIRE_HEADER + body);
        assert_int_equal(ERR_OK, decode((enum kvt_wire_type)type, frame + KVT_WIRE_HEADER, body));
        for (uint32_t k = 0; k < body; k++)
            assert_int_equal(ERR_BAD_FRAME,
                             decode((enum kvt_wire_type)type, frame + KVT_WIRE_HEADER, k));
        frame[len] = 0;
        assert_int_equal(ERR_BAD_FRAME,
                         decode((enum kvt_wire_type)type, frame + KVT_WIRE_HEADER, body + 1));
    }
}

static void headers_with_a_long_body_an_unknown_type_or_reserved_bits_are_refused(void **state)
{
    uint16_t type;
    uint32_t len;

    (void)state;
    (void)encode(KVT_WIRE_PING);
    assert_int_equal(ERR_OK, kvt_wire_get_header(frame, &type, &len));
    frame[6] = 1;
    assert_int_equal(ERR_BAD_FRAME, kvt_wire_get_header(frame, &type, &len));
    frame[6] = 0;
    frame[4] = 0;
    assert_int_equal(ERR_BAD_FRAME, kvt_wire_get_header(frame, &type, &len));
    frame[4] = KVT_WIRE_STOPPED + 1;
    assert_int_equal(ERR_BAD_FRAME, kvt_wire_get_header(frame, &type, &len));
    frame[4] = KVT_WIRE_PING;
    memcpy(frame, "\x01\x40\0\0", 4); /* 16 KiB + 1 */
    assert_int_equal(ERR_BAD_FRAME, kvt_wire_get_header(frame, &type, &len));
}

static void fields_out_of_range_are_refused(void **state)
{
    struct kvt_wire_notify n = {
        .transfer = 7, .n_records = 1, .record[0] = {.n = 1, .n_grains = 1}};
    size_t len;

    (void)state;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_OK, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.record[0].n = KVT_WIRE_NOTIFY_BLOCKS + 1;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.record[0].n = 0;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.record[0].n = 1;
    n.record[0].n_grains = 0;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.record[0].n_grains = 1;
    n.record[0].part = WIRE_KV_PARTS_MAX;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.record[0].part = WIRE_KV_PARTS_MAX - 1;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_OK, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.transfer = 0;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.transfer = 1;
    for (uint32_t i = 0; i < 3; i++)
        n.record[i] = (struct kvt_wire_record){.n = KVT_WIRE_NOTIFY_BLOCKS / 2, .n_grains = 1};
    n.n_records = 2;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_OK, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));
    n.n_records = 3;
    len = kvt_wire_put_notify(frame, &n);
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_NOTIFY, frame + 8, len - 8));

    len = encode(KVT_WIRE_LINK);
    frame[8] = KVT_WIRE_PATHS; /* no such path */
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_LINK, frame + 8, len - 8));
    len = encode(KVT_WIRE_LINK);
    frame[len - 1] = '\n'; /* would break a log line */
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_LINK, frame + 8, len - 8));
    len = encode(KVT_WIRE_HELLO);
    frame[8 + 24] = 0; /* n_layers */
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_HELLO, frame + 8, len - 8));
    len = encode(KVT_WIRE_HELLO);
    frame[8 + 52] = 2; /* parts, of 3 heads */
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_HELLO, frame + 8, len - 8));
    len = encode(KVT_WIRE_WELCOME);
    frame[8 + 32] = KVT_WIRE_MEMORIES; /* no such memory */
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_WELCOME, frame + 8, len - 8));
    len = encode(KVT_WIRE_ACK);
    frame[len - 4] = 100; /* no error code */
    assert_int_equal(ERR_BAD_FRAME, decode(KVT_WIRE_ACK, frame + 8, len - 8));
}

/* Layout and record as they were at version 3: whoever changes them changes the version. */
static void what_version_3_says_has_fixed_bytes(void **state)
{
    static const uint8_t head[] = {'B', 'K', 'V', '1', 3, 0, 0, 0};
    static const uint8_t golden_layout[] = {2,    0,    0,    0,    3,    0,    0, 0, 4, 0,    0,
                                            0,    5,    0,    0,    0,    3,    0, 0, 0, 0x88, 0x77,
                                            0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 3, 0, 0, 0};
    static const uint8_t golden_record[] = {1, 0, 0, 0, 2, 0, 3, 0, 4, 0, 0, 0,
                                            5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0};
    struct kvt_wire_data d = {
        .record = {.first = 1, .n = 2, .part = 3, .grain = 4, .n_grains = 5, .digest = 6}};
    uint8_t data[KVT_WIRE_DATA_HEADER];

    (void)state;
    (void)encode(KVT_WIRE_HELLO);
    assert_int_equal(3, KVT_WIRE_VERSION);
    assert_memory_equal(frame + 8, head, sizeof(head));
    assert_memory_equal(frame + 8 + 24, golden_layout, sizeof(golden_layout));
    kvt_wire_put_data(data, &d);
    assert_memory_equal(data + 20, golden_record, sizeof(golden_record));
}

static void a_proof_holds_for_its_frame_side_token_and_challenge_only(void **state)
{
    uint8_t token[16] = "0123456789abcde", challenge[KVT_WIRE_NONCE] = {9};
    size_t len = encode(KVT_WIRE_HELLO);

    (void)state;
    assert_int_equal(ERR_OK, kvt_wire_sign(frame, len, 'C', token, 16, challenge));
    assert_int_equal(ERR_OK, kvt_wire_check(frame, len, 'C', token, 16, challenge));
    assert_int_equal(ERR_AUTH, kvt_wire_check(frame, len, 'S', token, 16, challenge));
    frame[KVT_WIRE_HEADER + 9] ^= 1;
    assert_int_equal(ERR_AUTH, kvt_wire_check(frame, len, 'C', token, 16, challenge));
    frame[KVT_WIRE_HEADER + 9] ^= 1;
    token[15] ^= 1;
    assert_int_equal(ERR_AUTH, kvt_wire_check(frame, len, 'C', token, 16, challenge));
    token[15] ^= 1;
    challenge[31] ^= 1;
    assert_int_equal(ERR_AUTH, kvt_wire_check(frame, len, 'C', token, 16, challenge));
    challenge[31] ^= 1;
    for (size_t k = 1; k <= KVT_WIRE_PROOF; k++) {
        frame[len - k] ^= 0x80;
        assert_int_equal(ERR_AUTH, kvt_wire_check(frame, len, 'C', token, 16, challenge));
        frame[len - k] ^= 0x80;
    }
    assert_int_equal(ERR_BAD_FRAME, kvt_wire_check(frame, 39, 'C', token, 16, challenge));
}

static void a_salt_differs_by_transfer_epoch_and_place(void **state)
{
    (void)state;
    for (uint64_t a = 1; a < 20; a++) {
        assert_true(kvt_wire_salt(a, 1, 1) != kvt_wire_salt(a + 1, 1, 1));
        assert_true(kvt_wire_salt(1, (uint32_t)a, 1) != kvt_wire_salt(1, (uint32_t)a + 1, 1));
        assert_true(kvt_wire_salt(1, 1, (uint32_t)a) != kvt_wire_salt(1, 1, (uint32_t)a + 1));
    }
}

static void grains_divide_a_layer(void **state)
{
    struct wire_kv_layout l = layout;

    (void)state;
    for (l.n_kv_heads = 1; l.n_kv_heads < 40; l.n_kv_heads++) {
        for (l.head_dim = 1; l.head_dim < 140; l.head_dim += 3) {
            uint32_t g = kvt_wire_grain(&l);

            assert_true(g >= 4 && g <= 4096 && (g & (g - 1)) == 0);
            assert_int_equal(0, wire_kv_layer_bytes(&l) % g);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claim_matches_golden_bytes),
        cmocka_unit_test(data_header_matches_golden_bytes),
        cmocka_unit_test(every_frame_decodes_whole_and_at_no_other_length),
        cmocka_unit_test(headers_with_a_long_body_an_unknown_type_or_reserved_bits_are_refused),
        cmocka_unit_test(fields_out_of_range_are_refused),
        cmocka_unit_test(what_version_3_says_has_fixed_bytes),
        cmocka_unit_test(a_proof_holds_for_its_frame_side_token_and_challenge_only),
        cmocka_unit_test(a_salt_differs_by_transfer_epoch_and_place),
        cmocka_unit_test(grains_divide_a_layer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
