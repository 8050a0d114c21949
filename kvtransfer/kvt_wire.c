/* kvtransfer/kvt_wire.c - see the header for the contract. */
#include "kvtransfer/kvt_wire.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/hmac.h>

enum { GRAIN_MAX = 4096 };

/* A cursor over bytes to write: the caller's buffer is large enough by contract. */
struct writer {
    uint8_t *at;
};

/* A cursor over bytes to read: past the end it yields zeros and remembers that it did. */
struct reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};

static void put_bytes(struct writer *w, const void *bytes, size_t len)
{
    memcpy(w->at, bytes, len);
    w->at += len;
}

static void put_int(struct writer *w, uint64_t value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        *w->at++ = (uint8_t)(value >> (8 * i));
}

static void put_layout(struct writer *w, const struct wire_kv_layout *l)
{
    put_int(w, l->n_layers, 4);
    put_int(w, l->n_kv_heads, 4);
    put_int(w, l->head_dim, 4);
    put_int(w, l->block_tokens, 4);
    put_int(w, l->dtype, 4);
    put_int(w, l->model_id, 8);
    put_int(w, l->parts, 4);
}

static void put_record(struct writer *w, const struct kvt_wire_record *r)
{
    put_int(w, r->first, 4);
    put_int(w, r->n, 2);
    put_int(w, r->part, 2);
    put_int(w, r->grain, 4);
    put_int(w, r->n_grains, 4);
    put_int(w, r->digest, 8);
}

static struct writer frame_begin(uint8_t *dst)
{
    struct writer w = {dst + KVT_WIRE_HEADER};

    return w;
}

static size_t frame_end(uint8_t *dst, const struct writer *w, enum kvt_wire_type type)
{
    size_t total = (size_t)(w->at - dst);
    struct writer head = {dst};

    put_int(&head, total - KVT_WIRE_HEADER, 4);
    put_int(&head, (uint64_t)type, 2);
    put_int(&head, 0, 2);
    return total;
}

static struct reader read_from(const uint8_t *bytes, size_t len)
{
    struct reader r = {bytes, len, false};

    return r;
}

static void get_bytes(struct reader *r, void *out, size_t len)
{
    if (len > r->left) {
        r->bad = true;
        r->left = 0;
        memset(out, 0, len);
        return;
    }
    memcpy(out, r->at, len);
    r->at += len;
    r->left -= len;
}

static uint64_t get_int(struct reader *r, size_t len)
{
    uint8_t bytes[8];
    uint64_t value = 0;

    get_bytes(r, bytes, len);
    for (size_t i = 0; i < len; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static uint32_t get_u32(struct reader *r)
{
    return (uint32_t)get_int(r, 4);
}

static void get_layout(struct reader *r, struct wire_kv_layout *l)
{
    l->n_layers = get_u32(r);
    l->n_kv_heads = get_u32(r);
    l->head_dim = get_u32(r);
    l->block_tokens = get_u32(r);
    l->dtype = get_u32(r);
    l->model_id = get_int(r, 8);
    l->parts = get_u32(r);
    if (wire_kv_layout_check(l, NULL) != ERR_OK)
        r->bad = true;
}

static void get_record(struct reader *r, struct kvt_wire_record *out)
{
    out->first = get_u32(r);
    out->n = (uint16_t)get_int(r, 2);
    out->part = (uint16_t)get_int(r, 2);
    out->grain = get_u32(r);
    out->n_grains = get_u32(r);
    out->digest = get_int(r, 8);
    if (out->n == 0 || out->n > KVT_WIRE_NOTIFY_BLOCKS || out->part >= WIRE_KV_PARTS_MAX ||
        out->n_grains == 0)
        r->bad = true;
}

static enum err read_end(const struct reader *r)
{
    return r->bad || r->left != 0 ? ERR_BAD_FRAME : ERR_OK;
}

static enum err get_err(struct reader *r)
{
    int32_t value = (int32_t)get_u32(r);

#define X(name, number, scope, text) \
    if (value == (number))           \
        return ERR_##name;
    ERR_MAP(X)
#undef X
    r->bad = true;
    return ERR_BAD_FRAME;
}

enum err kvt_wire_get_header(const uint8_t bytes[KVT_WIRE_HEADER], uint16_t *type,
                             uint32_t *body_len)
{
    struct reader r = read_from(bytes, KVT_WIRE_HEADER);
    uint32_t len = get_u32(&r);
    uint16_t t = (uint16_t)get_int(&r, 2);

    if (get_int(&r, 2) != 0 || len > KVT_WIRE_BODY_MAX || t < KVT_WIRE_CHALLENGE ||
        t > KVT_WIRE_STOPPED)
        return ERR_BAD_FRAME;
    *type = t;
    *body_len = len;
    return ERR_OK;
}

size_t kvt_wire_put_challenge(uint8_t *dst, const uint8_t nonce[KVT_WIRE_NONCE])
{
    struct writer w = frame_begin(dst);

    put_int(&w, KVT_WIRE_MAGIC, 4);
    put_int(&w, KVT_WIRE_VERSION, 2);
    put_int(&w, 0, 2);
    put_bytes(&w, nonce, KVT_WIRE_NONCE);
    return frame_end(dst, &w, KVT_WIRE_CHALLENGE);
}

enum err kvt_wire_get_challenge(const uint8_t *body, size_t len, uint8_t nonce[KVT_WIRE_NONCE])
{
    struct reader r = read_from(body, len);
    uint8_t bytes[KVT_WIRE_NONCE];

    if (get_u32(&r) != KVT_WIRE_MAGIC || get_int(&r, 2) != KVT_WIRE_VERSION || get_int(&r, 2) != 0)
        return ERR_BAD_FRAME;
    get_bytes(&r, bytes, sizeof(bytes));
    if (read_end(&r) != ERR_OK)
        return ERR_BAD_FRAME;
    memcpy(nonce, bytes, sizeof(bytes));
    return ERR_OK;
}

size_t kvt_wire_put_hello(uint8_t *dst, const struct kvt_wire_hello *h)
{
    struct writer w = frame_begin(dst);

    put_int(&w, KVT_WIRE_MAGIC, 4);
    put_int(&w, KVT_WIRE_VERSION, 2);
    put_int(&w, 0, 2);
    put_int(&w, h->self, 4);
    put_int(&w, h->peer, 4);
    put_int(&w, h->instance, 8);
    put_layout(&w, &h->layout);
    put_bytes(&w, h->nonce, KVT_WIRE_NONCE);
    put_bytes(&w, h->proof, KVT_WIRE_PROOF);
    return frame_end(dst, &w, KVT_WIRE_HELLO);
}

enum err kvt_wire_get_hello(const uint8_t *body, size_t len, struct kvt_wire_hello *out)
{
    struct reader r = read_from(body, len);
    struct kvt_wire_hello h;

    if (get_u32(&r) != KVT_WIRE_MAGIC || get_int(&r, 2) != KVT_WIRE_VERSION || get_int(&r, 2) != 0)
        return ERR_BAD_FRAME;
    h.self = get_u32(&r);
    h.peer = get_u32(&r);
    h.instance = get_int(&r, 8);
    get_layout(&r, &h.layout);
    get_bytes(&r, h.nonce, KVT_WIRE_NONCE);
    get_bytes(&r, h.proof, KVT_WIRE_PROOF);
    if (read_end(&r) != ERR_OK)
        return ERR_BAD_FRAME;
    *out = h;
    return ERR_OK;
}

static uint32_t part_keys(const struct kvt_wire_welcome *h)
{
    return h->memory == KVT_WIRE_CUDA || h->memory == KVT_WIRE_COHERENT ? h->layout.parts : 0;
}

static void put_part_keys(struct writer *w, const struct kvt_wire_welcome *h)
{
    size_t at = 0;

    for (uint32_t i = 0; i < part_keys(h); i++) {
        put_int(w, h->part_rkey_len[i], 2);
        put_bytes(w, h->part_rkeys + at, h->part_rkey_len[i]);
        at += h->part_rkey_len[i];
    }
}

static void get_part_keys(struct reader *r, struct kvt_wire_welcome *out)
{
    size_t at = 0;

    for (uint32_t i = 0; i < part_keys(out); i++) {
        uint16_t len = (uint16_t)get_int(r, 2);

        if (len == 0 || len > KVT_WIRE_RKEY_MAX - at) {
            r->bad = true;
            return;
        }
        out->part_rkey_len[i] = len;
        get_bytes(r, out->part_rkeys + at, len);
        at += len;
    }
}

size_t kvt_wire_put_welcome(uint8_t *dst, const struct kvt_wire_welcome *h)
{
    struct writer w = frame_begin(dst);

    put_int(&w, h->instance, 8);
    put_int(&w, h->cookie, 8);
    put_int(&w, h->probe, 8);
    put_int(&w, h->probe_len, 4);
    put_int(&w, h->n_blocks, 4);
    put_int(&w, h->memory, 4);
    put_layout(&w, &h->layout);
    for (uint32_t i = 0; i < h->layout.parts; i++)
        put_int(&w, h->pool[i], 8);
    put_int(&w, h->rkey_len, 2);
    put_int(&w, h->address_len, 2);
    put_bytes(&w, h->rkey, h->rkey_len);
    put_part_keys(&w, h);
    put_bytes(&w, h->address, h->address_len);
    put_bytes(&w, h->proof, KVT_WIRE_PROOF);
    return frame_end(dst, &w, KVT_WIRE_WELCOME);
}

enum err kvt_wire_get_welcome(const uint8_t *body, size_t len, struct kvt_wire_welcome *out)
{
    struct reader r = read_from(body, len);
    uint32_t memory;

    out->instance = get_int(&r, 8);
    out->cookie = get_int(&r, 8);
    out->probe = get_int(&r, 8);
    out->probe_len = get_u32(&r);
    out->n_blocks = get_u32(&r);
    memory = get_u32(&r);
    out->memory = memory < KVT_WIRE_MEMORIES ? (enum kvt_wire_memory)memory : KVT_WIRE_HOST;
    get_layout(&r, &out->layout);
    for (uint32_t i = 0; !r.bad && i < out->layout.parts; i++)
        out->pool[i] = get_int(&r, 8);
    out->rkey_len = (uint16_t)get_int(&r, 2);
    out->address_len = (uint16_t)get_int(&r, 2);
    if (r.bad || memory >= KVT_WIRE_MEMORIES || out->rkey_len > KVT_WIRE_RKEY_MAX ||
        out->address_len == 0 || out->address_len > KVT_WIRE_ADDRESS_MAX)
        return ERR_BAD_FRAME;
    get_bytes(&r, out->rkey, out->rkey_len);
    get_part_keys(&r, out);
    get_bytes(&r, out->address, out->address_len);
    get_bytes(&r, out->proof, KVT_WIRE_PROOF);
    return read_end(&r);
}

size_t kvt_wire_put_u64(uint8_t *dst, enum kvt_wire_type type, uint64_t value)
{
    struct writer w = frame_begin(dst);

    put_int(&w, value, 8);
    return frame_end(dst, &w, type);
}

enum err kvt_wire_get_u64(const uint8_t *body, size_t len, uint64_t *out)
{
    struct reader r = read_from(body, len);
    uint64_t value = get_int(&r, 8);

    if (read_end(&r) != ERR_OK)
        return ERR_BAD_FRAME;
    *out = value;
    return ERR_OK;
}

size_t kvt_wire_put_link(uint8_t *dst, const struct kvt_wire_link *l)
{
    struct writer w = frame_begin(dst);
    size_t n = strnlen(l->lanes, KVT_WIRE_LANES_MAX - 1);

    put_int(&w, l->path, 1);
    put_int(&w, l->one_sided, 1);
    put_int(&w, n, 2);
    put_int(&w, l->bytes_per_s, 8);
    put_int(&w, l->round_trip_ns, 8);
    put_bytes(&w, l->lanes, n);
    return frame_end(dst, &w, KVT_WIRE_LINK);
}

enum err kvt_wire_get_link(const uint8_t *body, size_t len, struct kvt_wire_link *out)
{
    struct reader r = read_from(body, len);
    struct kvt_wire_link l;
    uint64_t path, one_sided;
    size_t n;

    memset(&l, 0, sizeof(l));
    path = get_int(&r, 1);
    one_sided = get_int(&r, 1);
    n = (size_t)get_int(&r, 2);
    l.bytes_per_s = get_int(&r, 8);
    l.round_trip_ns = get_int(&r, 8);
    if (r.bad || path >= KVT_WIRE_PATHS || one_sided > 1 || n > KVT_WIRE_LANES_MAX - 1)
        return ERR_BAD_FRAME;
    get_bytes(&r, l.lanes, n);
    for (size_t i = 0; i < n; i++) {
        if (l.lanes[i] < ' ' || l.lanes[i] > '~')
            r.bad = true;
    }
    if (read_end(&r) != ERR_OK)
        return ERR_BAD_FRAME;
    l.path = (uint8_t)path;
    l.one_sided = one_sided != 0;
    *out = l;
    return ERR_OK;
}

size_t kvt_wire_put_transfer(uint8_t *dst, enum kvt_wire_type type,
                             const struct kvt_wire_transfer *t)
{
    struct writer w = frame_begin(dst);

    put_int(&w, t->transfer, 8);
    put_int(&w, t->epoch, 4);
    put_int(&w, t->n_slots, 4);
    put_int(&w, t->slots_digest, 8);
    put_int(&w, t->one_sided, 4);
    put_int(&w, (uint64_t)(int64_t)t->err, 4);
    return frame_end(dst, &w, type);
}

enum err kvt_wire_get_transfer(const uint8_t *body, size_t len, struct kvt_wire_transfer *out)
{
    struct reader r = read_from(body, len);
    struct kvt_wire_transfer t;
    uint32_t one_sided;

    t.transfer = get_int(&r, 8);
    t.epoch = get_u32(&r);
    t.n_slots = get_u32(&r);
    t.slots_digest = get_int(&r, 8);
    one_sided = get_u32(&r);
    t.one_sided = one_sided == 1;
    t.err = get_err(&r);
    if (read_end(&r) != ERR_OK || one_sided > 1 || t.transfer == 0)
        return ERR_BAD_FRAME;
    *out = t;
    return ERR_OK;
}

size_t kvt_wire_put_notify(uint8_t *dst, const struct kvt_wire_notify *n)
{
    struct writer w = frame_begin(dst);

    put_int(&w, n->transfer, 8);
    put_int(&w, n->epoch, 4);
    put_int(&w, n->n_records, 4);
    for (uint32_t i = 0; i < n->n_records; i++)
        put_record(&w, &n->record[i]);
    return frame_end(dst, &w, KVT_WIRE_NOTIFY);
}

enum err kvt_wire_get_notify(const uint8_t *body, size_t len, struct kvt_wire_notify *out)
{
    struct reader r = read_from(body, len);
    uint64_t blocks = 0;

    out->transfer = get_int(&r, 8);
    out->epoch = get_u32(&r);
    out->n_records = get_u32(&r);
    if (r.bad || out->transfer == 0 || out->n_records == 0 || out->n_records > KVT_WIRE_RECORDS_MAX)
        return ERR_BAD_FRAME;
    for (uint32_t i = 0; i < out->n_records; i++) {
        get_record(&r, &out->record[i]);
        blocks += out->record[i].n;
    }
    return blocks > KVT_WIRE_NOTIFY_BLOCKS ? ERR_BAD_FRAME : read_end(&r);
}

size_t kvt_wire_put_done(uint8_t *dst, const struct kvt_wire_done *d)
{
    struct writer w = frame_begin(dst);

    put_int(&w, d->transfer, 8);
    put_int(&w, d->epoch, 4);
    put_int(&w, d->n_records, 4);
    put_int(&w, d->meta_len, 2);
    put_bytes(&w, d->meta, d->meta_len);
    return frame_end(dst, &w, KVT_WIRE_DONE);
}

enum err kvt_wire_get_done(const uint8_t *body, size_t len, struct kvt_wire_done *out)
{
    struct reader r = read_from(body, len);

    out->transfer = get_int(&r, 8);
    out->epoch = get_u32(&r);
    out->n_records = get_u32(&r);
    out->meta_len = (uint16_t)get_int(&r, 2);
    if (r.bad || out->transfer == 0 || out->n_records == 0 || out->meta_len > KVT_WIRE_META_MAX)
        return ERR_BAD_FRAME;
    get_bytes(&r, out->meta, out->meta_len);
    return read_end(&r);
}

void kvt_wire_put_data(uint8_t dst[KVT_WIRE_DATA_HEADER], const struct kvt_wire_data *d)
{
    struct writer w = {dst};

    put_int(&w, d->cookie, 8);
    put_int(&w, d->transfer, 8);
    put_int(&w, d->epoch, 4);
    put_record(&w, &d->record);
}

enum err kvt_wire_get_data(const uint8_t *bytes, size_t len, struct kvt_wire_data *out)
{
    struct reader r = read_from(bytes, len);
    struct kvt_wire_data d;

    d.cookie = get_int(&r, 8);
    d.transfer = get_int(&r, 8);
    d.epoch = get_u32(&r);
    get_record(&r, &d.record);
    if (read_end(&r) != ERR_OK)
        return ERR_BAD_FRAME;
    *out = d;
    return ERR_OK;
}

static enum err proof_of(const uint8_t *frame, size_t frame_len, char side, const uint8_t *token,
                         size_t token_len, const uint8_t challenge[KVT_WIRE_NONCE],
                         uint8_t out[KVT_WIRE_PROOF])
{
    uint8_t text[1 + KVT_WIRE_NONCE + KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX];
    size_t signed_len = frame_len - KVT_WIRE_PROOF;
    unsigned int out_len = 0;

    if (frame_len < KVT_WIRE_HEADER + KVT_WIRE_PROOF ||
        frame_len > KVT_WIRE_HEADER + KVT_WIRE_BODY_MAX)
        return ERR_BAD_FRAME;
    text[0] = (uint8_t)side;
    memcpy(text + 1, challenge, KVT_WIRE_NONCE);
    memcpy(text + 1 + KVT_WIRE_NONCE, frame, signed_len);
    if (HMAC(EVP_sha256(), token, (int)token_len, text, 1 + KVT_WIRE_NONCE + signed_len, out,
             &out_len) == NULL ||
        out_len != KVT_WIRE_PROOF)
        return ERR_IO;
    return ERR_OK;
}

enum err kvt_wire_sign(uint8_t *frame, size_t frame_len, char side, const uint8_t *token,
                       size_t token_len, const uint8_t challenge[KVT_WIRE_NONCE])
{
    uint8_t proof[KVT_WIRE_PROOF];
    enum err err = proof_of(frame, frame_len, side, token, token_len, challenge, proof);

    if (err == ERR_OK)
        memcpy(frame + frame_len - KVT_WIRE_PROOF, proof, KVT_WIRE_PROOF);
    return err;
}

enum err kvt_wire_check(const uint8_t *frame, size_t frame_len, char side, const uint8_t *token,
                        size_t token_len, const uint8_t challenge[KVT_WIRE_NONCE])
{
    uint8_t proof[KVT_WIRE_PROOF];
    enum err err = proof_of(frame, frame_len, side, token, token_len, challenge, proof);

    if (err != ERR_OK)
        return err;
    return CRYPTO_memcmp(frame + frame_len - KVT_WIRE_PROOF, proof, KVT_WIRE_PROOF) == 0 ? ERR_OK
                                                                                         : ERR_AUTH;
}

static uint64_t spread(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t kvt_wire_salt(uint64_t transfer, uint32_t epoch, uint32_t index)
{
    return spread(spread(transfer + 0x9e3779b97f4a7c15u) ^ (((uint64_t)epoch << 32) | index));
}

uint64_t kvt_wire_slots_digest(const uint32_t *slots, uint32_t n, uint64_t transfer, uint32_t epoch)
{
    return wire_kv_digest(slots, (size_t)n * sizeof(*slots), 0, kvt_wire_salt(transfer, epoch, n));
}

uint32_t kvt_wire_grain(const struct wire_kv_layout *l)
{
    size_t layer = wire_kv_layer_bytes(l) / l->parts;
    uint32_t grain = 4;

    while (grain < GRAIN_MAX && layer % (grain * 2u) == 0)
        grain *= 2;
    return grain;
}
