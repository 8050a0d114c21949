/* tests/fuzz/frame_fuzz.c - a peer that sends anything: frames one after the other, and what is valid of
 * them into the state machines of both worker roles.
 *
 * Oracles beyond "no crash": a message that was accepted packs to bytes that are accepted again and pack to
 * the same bytes; a role answers with valid messages only; every request it was given ends exactly once,
 * and afterwards no block, request, grant or send is left. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "decode/decode.h"
#include "prefill/prefill.h"
#include "proto/wire_frame.h"
#include "proto/wire_meta.h"
#include "tests/unit/roles_fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FRAMES_MAX = 256, ROLE_FRAMES_MAX = 48, SELF = 3 /* the decode worker's id */ };

#define MUST(condition)                                                     \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

static bool has_unknown_fields(const ProtobufCMessage *m)
{
    if (m->n_unknown_fields > 0)
        return true;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        const char *at = (const char *)m + f->offset;
        ProtobufCMessage *const *subs = (ProtobufCMessage *const *)(const void *)at;
        size_t n = 1;

        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            memcpy(&n, (const char *)m + f->quantifier_offset, sizeof(n));
            memcpy(&subs, at, sizeof(subs));
        }
        for (size_t k = 0; k < n; k++) {
            if (subs[k] != NULL && has_unknown_fields(subs[k]))
                return true;
        }
    }
    return false;
}

/* Unknown fields are kept as they came, and protobuf-c reads a few encodings of them that it does not
 * write (field 0 in an overlong tag); nobody here looks at them, so they are left out. */
static void check_round_trip(enum wire_type t, const ProtobufCMessage *m)
{
    struct buf first = BUF_INIT, second = BUF_INIT;
    ProtobufCMessage *again = NULL;
    enum err err;

    if (has_unknown_fields(m))
        return;
    err = wire_pack(t, m, &first);
    if (err == ERR_LIMIT)
        return; /* the canonical form of a hostile encoding may be longer */
    MUST(err == ERR_OK);
    MUST(wire_unpack(t, (uint8_t *)buf_bytes(&first) + WIRE_FRAME_HEADER,
                     first.len - WIRE_FRAME_HEADER, &again, NULL) == ERR_OK);
    MUST(wire_pack(t, again, &second) == ERR_OK);
    MUST(first.len == second.len && memcmp(buf_bytes(&first), buf_bytes(&second), first.len) == 0);
    wire_free(again);
    buf_free(&first);
    buf_free(&second);
}

struct roles {
    uv_loop_t loop;
    struct prefill *prefill;
    struct decode *decode;
    uint32_t frames;
};

static void open_roles(struct roles *r)
{
    struct prefill_config p = {.loop = &r->loop,
                               .engine = fake_engine(),
                               .kvt = fake_kvt(),
                               .n_blocks = FAKE_BLOCKS,
                               .to_scheduler = fake_to_scheduler,
                               .to_frontend = fake_to_frontend,
                               .on_broken = fake_on_broken};
    struct decode_config d = {.loop = &r->loop,
                              .engine = fake_engine(),
                              .kvt = fake_kvt(),
                              .n_blocks = FAKE_BLOCKS,
                              .park_bytes = 16 << 20, /* half of them */
                              .to_scheduler = fake_to_scheduler,
                              .to_frontend = fake_to_frontend,
                              .on_broken = fake_on_broken};

    fake_engine_reset(4, 16);
    fake_engine_quick();
    fake_kvt_reset();
    fake_msgs_reset();
    fake_loop_open(&r->loop);
    MUST(prefill_create(&p, &r->prefill) == ERR_OK);
    MUST(decode_create(&d, &r->decode) == ERR_OK);
}

/* Something happens to the open transfers: what, the frame's seq says. */
static void stir(struct roles *r, uint64_t seq)
{
    static const enum err ends[] = {ERR_OK, ERR_TIMEOUT, ERR_PEER_LOST, ERR_CORRUPT};
    enum err end = ends[seq % 4];
    uint8_t meta[WIRE_META_LEN];
    struct wire_meta m = {seq >> 8 & 0xff, 1, seq >> 16 & 0xff, seq >> 24 & 0xff, seq >> 32 & 0xff};

    wire_meta_encode(&m, meta);
    for (uint32_t i = 0; i < fake_sends(); i++) {
        struct fake_send *s = fake_send_at(i);

        if (!s->done && (s->finished || end != ERR_OK))
            fake_send_done(s, end);
    }
    for (uint32_t i = 0; i < fake_grants(); i++) {
        struct fake_grant *g = fake_grant_at(i);

        if (!g->arrived)
            fake_grant_arrive(g, end, meta, sizeof(meta));
        else if (!g->safe)
            fake_grant_safe(g);
    }
    uv_run(&r->loop, UV_RUN_NOWAIT);
}

static void close_roles(struct roles *r)
{
    Baton__Report a = BATON__REPORT__INIT, b = BATON__REPORT__INIT;

    prefill_cancel_all(r->prefill);
    decode_cancel_all(r->decode);
    for (int turn = 0; turn < 1000; turn++) {
        stir(r, 1);
        if (prefill_live(r->prefill) + decode_live(r->decode) == 0)
            break;
        uv_sleep(1);
    }
    prefill_report(r->prefill, &a);
    decode_report(r->decode, &b);
    MUST(a.free_blocks == FAKE_BLOCKS && b.free_blocks == FAKE_BLOCKS);
    MUST(a.live_requests + b.live_requests + a.live_sends + b.live_grants == 0);
    MUST(b.parked == 0 && b.blocks_parked == 0);
    MUST(fake_broken() == 0);
    prefill_destroy(r->prefill);
    decode_destroy(r->decode);
    MUST(fake_loop_close(&r->loop));
}

/* How often each request of the input was given and came back, over both roles. */
static void check_releases(uint32_t given, uint32_t repeated)
{
    uint32_t released = fake_count(WIRE_RELEASED);

    MUST(released <= given && released + repeated >= given);
}

static void to_roles(struct roles *r, enum wire_type t, const ProtobufCMessage *m, uint32_t *given,
                     uint32_t *repeated)
{
    uint32_t before = prefill_live(r->prefill) + decode_live(r->decode) + fake_count(WIRE_RELEASED);

    if (t == WIRE_PREFILL && ((const Baton__Prefill *)m)->decode_worker == SELF)
        decode_on_prefill(r->decode, SELF, (const Baton__Prefill *)m);
    else if (t == WIRE_PREFILL)
        prefill_on_prefill(r->prefill, (const Baton__Prefill *)m);
    else if (t == WIRE_RESERVE)
        decode_on_reserve(r->decode, (const Baton__Reserve *)m);
    else if (t == WIRE_GRANT)
        prefill_on_grant(r->prefill, (const Baton__Grant *)m);
    else if (t == WIRE_PING)
        stir(r, ((const Baton__Ping *)m)->seq);
    else if (t == WIRE_CANCEL) {
        prefill_on_cancel(r->prefill, (const Baton__Cancel *)m);
        decode_on_cancel(r->decode, (const Baton__Cancel *)m);
    }
    if (t != WIRE_PREFILL && t != WIRE_RESERVE)
        return;
    (*given)++;
    /* The same attempt once more is ignored. */
    *repeated +=
        prefill_live(r->prefill) + decode_live(r->decode) + fake_count(WIRE_RELEASED) == before;
}

/* Calls fn for every frame that is valid, until one is not. */
static uint32_t walk(const uint8_t *data, size_t size, struct roles *r)
{
    uint32_t work = 0, given = 0, repeated = 0;

    for (int i = 0; i < FRAMES_MAX; i++) {
        struct wire_header h;
        struct err_msg msg;
        ProtobufCMessage *m = NULL;
        int used = wire_header_decode(data, size, &h);

        if (used <= 0 || size - (size_t)used < h.len)
            break;
        if (wire_unpack((enum wire_type)h.type, data + used, h.len, &m, &msg) == ERR_OK) {
            work += h.type == WIRE_PREFILL || h.type == WIRE_RESERVE;
            if (r == NULL)
                check_round_trip((enum wire_type)h.type, m);
            else if (r->frames++ < ROLE_FRAMES_MAX)
                to_roles(r, (enum wire_type)h.type, m, &given, &repeated);
            wire_free(m);
        }
        data += (size_t)used + h.len;
        size -= (size_t)used + h.len;
    }
    if (r != NULL) {
        close_roles(r);
        check_releases(given, repeated);
    }
    return work;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct roles r = {.frames = 0};

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "fuzz");
    if (walk(data, size, NULL) == 0)
        return 0;
    open_roles(&r);
    walk(data, size, &r);
    fake_kvt_reset();
    fake_msgs_reset();
    return 0;
}
