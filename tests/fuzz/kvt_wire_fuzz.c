/* tests/fuzz/kvt_wire_fuzz.c - a stream of control frames, and a data header, of arbitrary bytes. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kvtransfer/kvt_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whatever decodes must encode again to the same bytes: nothing is dropped or made up on the way. */
static void check(const uint8_t *want, size_t len, const uint8_t *got, size_t got_len)
{
    if (len != got_len || memcmp(want, got, len) != 0)
        __builtin_trap();
}

static void one_frame(uint16_t type, const uint8_t *frame, size_t len)
{
    static uint8_t again[KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX];
    static union {
        uint8_t nonce[KVT_WIRE_NONCE];
        struct kvt_wire_hello hello;
        struct kvt_wire_welcome welcome;
        struct kvt_wire_link link;
        struct kvt_wire_transfer transfer;
        struct kvt_wire_notify notify;
        struct kvt_wire_done done;
        uint64_t value;
    } u;
    const uint8_t *body = frame + KVT_WIRE_HEADER;
    size_t n = len - KVT_WIRE_HEADER;

    if (type == KVT_WIRE_CHALLENGE) {
        if (kvt_wire_get_challenge(body, n, u.nonce) == ERR_OK)
            check(frame, len, again, kvt_wire_put_challenge(again, u.nonce));
    } else if (type == KVT_WIRE_HELLO) {
        if (kvt_wire_get_hello(body, n, &u.hello) == ERR_OK)
            check(frame, len, again, kvt_wire_put_hello(again, &u.hello));
    } else if (type == KVT_WIRE_WELCOME) {
        if (kvt_wire_get_welcome(body, n, &u.welcome) == ERR_OK)
            check(frame, len, again, kvt_wire_put_welcome(again, &u.welcome));
    } else if (type == KVT_WIRE_LINK) {
        if (kvt_wire_get_link(body, n, &u.link) == ERR_OK)
            check(frame, len, again, kvt_wire_put_link(again, &u.link));
    } else if (type == KVT_WIRE_NOTIFY) {
        if (kvt_wire_get_notify(body, n, &u.notify) == ERR_OK)
            check(frame, len, again, kvt_wire_put_notify(again, &u.notify));
    } else if (type == KVT_WIRE_DONE) {
        if (kvt_wire_get_done(body, n, &u.done) == ERR_OK)
            check(frame, len, again, kvt_wire_put_done(again, &u.done));
    } else if (type <= KVT_WIRE_PROBE_DONE) {
        if (kvt_wire_get_u64(body, n, &u.value) == ERR_OK)
            check(frame, len, again, kvt_wire_put_u64(again, (enum kvt_wire_type)type, u.value));
    } else if (kvt_wire_get_transfer(body, n, &u.transfer) == ERR_OK) {
        check(frame, len, again,
              kvt_wire_put_transfer(again, (enum kvt_wire_type)type, &u.transfer));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t again[KVT_WIRE_DATA_HEADER];
    struct kvt_wire_data d;
    size_t at = 0;

    if (kvt_wire_get_data(data, size, &d) == ERR_OK) {
        kvt_wire_put_data(again, &d);
        check(data, size, again, sizeof(again));
    }
    while (size - at >= KVT_WIRE_HEADER) {
        uint16_t type;
        uint32_t len;

        if (kvt_wire_get_header(data + at, &type, &len) != ERR_OK ||
            size - at - KVT_WIRE_HEADER < len)
            break;
        one_frame(type, data + at, KVT_WIRE_HEADER + len);
        at += KVT_WIRE_HEADER + len;
    }
    return 0;
}
