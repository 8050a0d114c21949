/* tests/unit/proto_auth_test.c - the handshake that opens every control connection. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/wire_auth.h"

static struct wire_secret secret, other;

struct handshake {
    struct wire_auth client, server;
    uint8_t hello[WIRE_HELLO_LEN], challenge[WIRE_CHALLENGE_LEN], proof[WIRE_PROOF_LEN];
};

static int setup(void **state)
{
    (void)state;
    assert_int_equal(wire_secret_parse("0123456789abcdef", 16, &secret, NULL), ERR_OK);
    assert_int_equal(wire_secret_parse("fedcba9876543210", 16, &other, NULL), ERR_OK);
    return 0;
}

static void run(struct handshake *h, enum wire_role role)
{
    assert_int_equal(wire_auth_hello(&h->client, role, h->hello), ERR_OK);
    assert_int_equal(wire_auth_challenge(&h->server, &secret, h->hello, h->challenge), ERR_OK);
    assert_int_equal(wire_auth_prove(&h->client, &secret, h->challenge, h->proof), ERR_OK);
}

static void both_sides_agree_on_role_and_version(void **state)
{
    static const enum wire_role roles[] = {WIRE_ROLE_PREFILL, WIRE_ROLE_DECODE, WIRE_ROLE_TOKENS};
    struct handshake h;

    (void)state;
    for (int i = 0; i < 3; i++) {
        run(&h, roles[i]);
        assert_int_equal(wire_auth_check(&h.server, &secret, h.proof), ERR_OK);
        assert_int_equal(h.server.role, roles[i]);
        assert_int_equal(h.server.version, WIRE_VERSION_MAX);
        assert_int_equal(h.client.version, WIRE_VERSION_MAX);
    }
}

static void peer_without_the_secret_is_found_out_on_either_side(void **state)
{
    struct handshake h;

    (void)state;
    assert_int_equal(wire_auth_hello(&h.client, WIRE_ROLE_DECODE, h.hello), ERR_OK);
    assert_int_equal(wire_auth_challenge(&h.server, &other, h.hello, h.challenge), ERR_OK);
    assert_int_equal(wire_auth_prove(&h.client, &secret, h.challenge, h.proof), ERR_AUTH);

    assert_int_equal(wire_auth_challenge(&h.server, &secret, h.hello, h.challenge), ERR_OK);
    assert_int_equal(wire_auth_prove(&h.client, &secret, h.challenge, h.proof), ERR_OK);
    assert_int_equal(wire_auth_check(&h.server, &other, h.proof), ERR_AUTH);
}

/* Every byte counts: of the proof, and of everything that it binds. */
static void one_changed_bit_anywhere_fails_the_handshake(void **state)
{
    struct handshake h;

    (void)state;
    for (unsigned bit = 0; bit < 8 * WIRE_PROOF_LEN; bit++) {
        run(&h, WIRE_ROLE_PREFILL);
        h.proof[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (bit / 8 >= 4 && bit / 8 < 8)
            continue; /* reserved bytes */
        assert_int_not_equal(wire_auth_check(&h.server, &secret, h.proof), ERR_OK);
    }
    for (unsigned bit = 0; bit < 8 * WIRE_CHALLENGE_LEN; bit++) {
        run(&h, WIRE_ROLE_PREFILL);
        h.challenge[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(wire_auth_prove(&h.client, &secret, h.challenge, h.proof), ERR_OK);
    }
    for (unsigned bit = 0; bit < 8 * WIRE_HELLO_LEN; bit++) {
        assert_int_equal(wire_auth_hello(&h.client, WIRE_ROLE_PREFILL, h.hello), ERR_OK);
        h.hello[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (wire_auth_challenge(&h.server, &secret, h.hello, h.challenge) != ERR_OK)
            continue;
        assert_int_not_equal(wire_auth_prove(&h.client, &secret, h.challenge, h.proof), ERR_OK);
    }
}

static void proof_of_one_connection_does_not_open_another(void **state)
{
    struct handshake a, b;

    (void)state;
    run(&a, WIRE_ROLE_DECODE);
    run(&b, WIRE_ROLE_DECODE);
    assert_int_equal(wire_auth_check(&b.server, &secret, a.proof), ERR_AUTH);
    assert_int_equal(wire_auth_check(&a.server, &secret, a.proof), ERR_OK);
}

/* A server's own proof sent back at it as a client's. */
static void reflected_proof_is_refused(void **state)
{
    struct handshake h;
    uint8_t reflected[WIRE_PROOF_LEN];

    (void)state;
    run(&h, WIRE_ROLE_DECODE);
    memcpy(reflected, h.proof, WIRE_PROOF_LEN);
    memcpy(reflected + 8, h.challenge + WIRE_CHALLENGE_LEN - 32, 32);
    assert_int_equal(wire_auth_check(&h.server, &secret, reflected), ERR_AUTH);
}

static void versions_without_overlap_are_refused_by_name(void **state)
{
    struct handshake h;

    (void)state;
    assert_int_equal(wire_auth_hello(&h.client, WIRE_ROLE_DECODE, h.hello), ERR_OK);
    h.hello[4] = h.hello[6] = WIRE_VERSION_MAX + 1;
    assert_int_equal(wire_auth_challenge(&h.server, &secret, h.hello, h.challenge),
                     ERR_UNSUPPORTED);
    /* The refusal says so to a client that understands it. */
    assert_int_equal(wire_auth_prove(&h.client, &secret, h.challenge, h.proof), ERR_UNSUPPORTED);
    h.hello[4] = 2;
    h.hello[6] = 1;
    assert_int_equal(wire_auth_challenge(&h.server, &secret, h.hello, h.challenge), ERR_BAD_FRAME);
}

static void unknown_role_and_foreign_protocol_are_no_hello(void **state)
{
    struct handshake h;

    (void)state;
    assert_int_equal(wire_auth_hello(&h.client, WIRE_ROLE_DECODE, h.hello), ERR_OK);
    h.hello[8] = 0;
    assert_int_equal(wire_auth_challenge(&h.server, &secret, h.hello, h.challenge), ERR_BAD_FRAME);
    h.hello[8] = 4;
    assert_int_equal(wire_auth_challenge(&h.server, &secret, h.hello, h.challenge), ERR_BAD_FRAME);
    memset(h.hello, 0, sizeof(h.hello));
    memcpy(h.hello, "GET / HTTP/1.1\r\n", 16);
    assert_int_equal(wire_auth_challenge(&h.server, &secret, h.hello, h.challenge), ERR_BAD_FRAME);
}

static void secret_file_may_end_in_a_newline_but_not_be_short_or_long(void **state)
{
    static const char long_text[WIRE_SECRET_MAX + 1] = {0};
    struct wire_secret s;
    struct err_msg msg;
    char text[WIRE_SECRET_MAX + 8];

    (void)state;
    assert_int_equal(wire_secret_parse(" 0123456789abcdef\r\n", 19, &s, NULL), ERR_OK);
    assert_int_equal(s.len, 16);
    assert_memory_equal(s.bytes, secret.bytes, 16);
    assert_int_equal(wire_secret_parse("0123456789abcde\n", 16, &s, &msg), ERR_INVALID);
    assert_non_null(strstr(msg.text, "15 bytes"));
    assert_int_equal(wire_secret_parse("", 0, &s, &msg), ERR_INVALID);
    assert_int_equal(wire_secret_parse("   \n", 4, &s, &msg), ERR_INVALID);
    memset(text, 'x', sizeof(text));
    assert_int_equal(wire_secret_parse(text, WIRE_SECRET_MAX, &s, &msg), ERR_OK);
    assert_int_equal(wire_secret_parse(text, WIRE_SECRET_MAX + 1, &s, &msg), ERR_INVALID);
    assert_int_equal(wire_secret_parse(long_text, sizeof(long_text), &s, &msg), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_sides_agree_on_role_and_version),
        cmocka_unit_test(peer_without_the_secret_is_found_out_on_either_side),
        cmocka_unit_test(one_changed_bit_anywhere_fails_the_handshake),
        cmocka_unit_test(proof_of_one_connection_does_not_open_another),
        cmocka_unit_test(reflected_proof_is_refused),
        cmocka_unit_test(versions_without_overlap_are_refused_by_name),
        cmocka_unit_test(unknown_role_and_foreign_protocol_are_no_hello),
        cmocka_unit_test(secret_file_may_end_in_a_newline_but_not_be_short_or_long),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
