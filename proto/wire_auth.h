/* proto/wire_auth.h - the handshake that opens every control connection: both sides prove that they
 * hold the shared secret, and agree on a version, before a single protobuf byte is read.
 *
 *   client -> HELLO      magic "BTN1", version_min u16, version_max u16, role u8, 3 zero, nonce[32]
 *   server -> CHALLENGE  magic "BTN1", version u16, 6 zero, nonce[32], proof[32]
 *   client -> PROOF      magic "BTN1", 4 zero, proof[32]
 *
 * proof = HMAC-SHA256(secret, side || hello || challenge up to its proof), side = "S" or "C"; so a
 * proof is bound to the role, the versions, both nonces and its direction, and cannot be replayed or
 * reflected.  A server that shares no version answers version 0 and closes.
 *
 * Pure code.  Thread: any. */
#ifndef PROTO_WIRE_AUTH_H
#define PROTO_WIRE_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    WIRE_VERSION_MIN = 1,
    WIRE_VERSION_MAX = 1,
    WIRE_HELLO_LEN = 44,
    WIRE_CHALLENGE_LEN = 76,
    WIRE_PROOF_LEN = 40,
    WIRE_SECRET_MAX = 256,
    WIRE_SECRET_MIN = 16
};

enum wire_role {
    WIRE_ROLE_PREFILL = 1, /* a prefill worker to the scheduler */
    WIRE_ROLE_DECODE = 2,  /* a decode worker to the scheduler */
    WIRE_ROLE_TOKENS = 3   /* any worker to a front end */
};

struct wire_secret {
    uint8_t bytes[WIRE_SECRET_MAX];
    size_t len;
};

/* Either side's view of one handshake. */
struct wire_auth {
    uint16_t version; /* agreed, once known */
    enum wire_role role;
    /* private */
    uint8_t hello[WIRE_HELLO_LEN];
    uint8_t challenge[WIRE_CHALLENGE_LEN];
};

/* The content of a secret file: white space at the ends is dropped.  ERR_INVALID: shorter than
 * WIRE_SECRET_MIN or longer than WIRE_SECRET_MAX bytes. */
MUST_USE enum err wire_secret_parse(const char *text, size_t len, struct wire_secret *out,
                                    struct err_msg *msg);

/* Client: make HELLO; then, given CHALLENGE, make PROOF.
 * ERR_IO: no randomness.  ERR_AUTH: the server does not know the secret.  ERR_UNSUPPORTED: no common
 * version.  ERR_BAD_FRAME: not a challenge. */
MUST_USE enum err wire_auth_hello(struct wire_auth *a, enum wire_role role,
                                  uint8_t out[WIRE_HELLO_LEN]);
MUST_USE enum err wire_auth_prove(struct wire_auth *a, const struct wire_secret *secret,
                                  const uint8_t challenge[WIRE_CHALLENGE_LEN],
                                  uint8_t out[WIRE_PROOF_LEN]);

/* Server: given HELLO, make CHALLENGE; then check PROOF.
 * ERR_BAD_FRAME: not a hello.  ERR_UNSUPPORTED: no common version (out holds the refusal to send).
 * ERR_AUTH: wrong proof. */
MUST_USE enum err wire_auth_challenge(struct wire_auth *a, const struct wire_secret *secret,
                                      const uint8_t hello[WIRE_HELLO_LEN],
                                      uint8_t out[WIRE_CHALLENGE_LEN]);
MUST_USE enum err wire_auth_check(const struct wire_auth *a, const struct wire_secret *secret,
                                  const uint8_t proof[WIRE_PROOF_LEN]);

#endif
