/* proto/wire_auth.c - see the header for the contract. */
#include "proto/wire_auth.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

enum { NONCE_LEN = 32, DIGEST_LEN = 32, CHALLENGE_PROOF_AT = WIRE_CHALLENGE_LEN - DIGEST_LEN };

static const uint8_t magic[4] = {'B', 'T', 'N', '1'};

static void put_u16(uint8_t *dst, uint16_t v)
{
    dst[0] = (uint8_t)v;
    dst[1] = (uint8_t)(v >> 8);
}

static uint16_t get_u16(const uint8_t *src)
{
    return (uint16_t)(src[0] | src[1] << 8);
}

enum err wire_secret_parse(const char *text, size_t len, struct wire_secret *out,
                           struct err_msg *msg)
{
    while (len > 0 && isspace((unsigned char)text[0])) {
        text++;
        len--;
    }
    while (len > 0 && isspace((unsigned char)text[len - 1]))
        len--;
    if (len < WIRE_SECRET_MIN || len > WIRE_SECRET_MAX)
        return err_set(msg, ERR_INVALID, "the shared secret has %zu bytes; it needs %d to %d", len,
                       WIRE_SECRET_MIN, WIRE_SECRET_MAX);
    memcpy(out->bytes, text, len);
    out->len = len;
    return ERR_OK;
}

/* side || hello || challenge up to its proof */
static enum err make_proof(const struct wire_auth *a, const struct wire_secret *secret, char side,
                           uint8_t out[DIGEST_LEN])
{
    uint8_t text[1 + WIRE_HELLO_LEN + CHALLENGE_PROOF_AT];
    unsigned len = DIGEST_LEN;

    text[0] = (uint8_t)side;
    memcpy(text + 1, a->hello, WIRE_HELLO_LEN);
    memcpy(text + 1 + WIRE_HELLO_LEN, a->challenge, CHALLENGE_PROOF_AT);
    if (HMAC(EVP_sha256(), secret->bytes, (int)secret->len, text, sizeof(text), out, &len) == NULL)
        return ERR_IO;
    return ERR_OK;
}

enum err wire_auth_hello(struct wire_auth *a, enum wire_role role, uint8_t out[WIRE_HELLO_LEN])
{
    memset(a, 0, sizeof(*a));
    a->role = role;
    memcpy(a->hello, magic, sizeof(magic));
    put_u16(a->hello + 4, WIRE_VERSION_MIN);
    put_u16(a->hello + 6, WIRE_VERSION_MAX);
    a->hello[8] = (uint8_t)role;
    if (RAND_bytes(a->hello + 12, NONCE_LEN) != 1)
        return ERR_IO;
    memcpy(out, a->hello, WIRE_HELLO_LEN);
    return ERR_OK;
}

enum err wire_auth_prove(struct wire_auth *a, const struct wire_secret *secret,
                         const uint8_t challenge[WIRE_CHALLENGE_LEN], uint8_t out[WIRE_PROOF_LEN])
{
    uint8_t want[DIGEST_LEN];
    enum err err;

    if (memcmp(challenge, magic, sizeof(magic)) != 0)
        return ERR_BAD_FRAME;
    a->version = get_u16(challenge + 4);
    if (a->version < WIRE_VERSION_MIN || a->version > WIRE_VERSION_MAX)
        return ERR_UNSUPPORTED;
    memcpy(a->challenge, challenge, WIRE_CHALLENGE_LEN);
    err = make_proof(a, secret, 'S', want);
    if (err != ERR_OK)
        return err;
    if (CRYPTO_memcmp(want, challenge + CHALLENGE_PROOF_AT, DIGEST_LEN) != 0)
        return ERR_AUTH;
    memset(out, 0, WIRE_PROOF_LEN);
    memcpy(out, magic, sizeof(magic));
    return make_proof(a, secret, 'C', out + 8);
}

static bool role_known(uint8_t role)
{
    return role >= WIRE_ROLE_PREFILL && role <= WIRE_ROLE_TOKENS;
}

enum err wire_auth_challenge(struct wire_auth *a, const struct wire_secret *secret,
                             const uint8_t hello[WIRE_HELLO_LEN], uint8_t out[WIRE_CHALLENGE_LEN])
{
    uint16_t low, high;
    enum err err;

    memset(a, 0, sizeof(*a));
    memset(out, 0, WIRE_CHALLENGE_LEN);
    memcpy(out, magic, sizeof(magic));
    if (memcmp(hello, magic, sizeof(magic)) != 0 || !role_known(hello[8]))
        return ERR_BAD_FRAME;
    low = get_u16(hello + 4);
    high = get_u16(hello + 6);
    if (low > high)
        return ERR_BAD_FRAME;
    if (high < WIRE_VERSION_MIN || low > WIRE_VERSION_MAX)
        return ERR_UNSUPPORTED;
    a->version = high < WIRE_VERSION_MAX ? high : WIRE_VERSION_MAX;
    a->role = (enum wire_role)hello[8];
    memcpy(a->hello, hello, WIRE_HELLO_LEN);
    put_u16(out + 4, a->version);
    if (RAND_bytes(out + 12, NONCE_LEN) != 1)
        return ERR_IO;
    memcpy(a->challenge, out, WIRE_CHALLENGE_LEN);
    err = make_proof(a, secret, 'S', out + CHALLENGE_PROOF_AT);
    if (err != ERR_OK)
        return err;
    memcpy(a->challenge + CHALLENGE_PROOF_AT, out + CHALLENGE_PROOF_AT, DIGEST_LEN);
    return ERR_OK;
}

enum err wire_auth_check(const struct wire_auth *a, const struct wire_secret *secret,
                         const uint8_t proof[WIRE_PROOF_LEN])
{
    uint8_t want[DIGEST_LEN];
    enum err err;

    if (memcmp(proof, magic, sizeof(magic)) != 0)
        return ERR_BAD_FRAME;
    err = make_proof(a, secret, 'C', want);
    if (err != ERR_OK)
        return err;
    return CRYPTO_memcmp(want, proof + 8, DIGEST_LEN) == 0 ? ERR_OK : ERR_AUTH;
}
