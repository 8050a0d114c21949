/* base/err.h - the one status type that every fallible function returns, and the text beside it.
 *
 * A code says how far the damage reaches, because that is what the caller has to decide on: CALL
 * (fix the call), REQUEST (fail this request), PEER (drop this connection), DEVICE (stop taking
 * work on this device).  Add a code to ERR_MAP and nowhere else; names and texts follow from it.
 *
 * A failure that a person has to act on also fills a struct err_msg: what was wrong, where, and
 * what to do.  The function that knows the cause fills it; those above pass it up untouched.
 *
 * Thread: any.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#ifdef __cplusplus
extern "C" {
#endif

#define MUST_USE __attribute__((warn_unused_result))

enum err_scope {
    ERR_SCOPE_NONE = 0,
    ERR_SCOPE_CALL,
    ERR_SCOPE_REQUEST,
    ERR_SCOPE_PEER,
    ERR_SCOPE_DEVICE
};

/* clang-format off */
/*    name          value  scope    text */
#define ERR_MAP(X)                                          \
    X(OK,              0,  NONE,    "ok")                   \
    X(INVALID,        -1,  CALL,    "invalid argument")     \
    X(BAD_STATE,      -2,  CALL,    "wrong state")          \
    X(UNSUPPORTED,    -3,  CALL,    "not supported")        \
    X(NOT_FOUND,      -4,  CALL,    "not found")            \
    X(LIMIT,          -5,  CALL,    "limit exceeded")       \
    X(IO,             -6,  CALL,    "input/output error")   \
    X(NOMEM,         -20,  REQUEST, "out of host memory")   \
    X(CANCELED,      -21,  REQUEST, "canceled")             \
    X(TIMEOUT,       -22,  REQUEST, "deadline passed")      \
    X(CORRUPT,       -23,  REQUEST, "digest mismatch")      \
    X(PEER_LOST,     -40,  PEER,    "peer went away")       \
    X(BAD_FRAME,     -41,  PEER,    "malformed frame")      \
    X(AUTH,          -42,  PEER,    "not authenticated")    \
    X(DEVICE,        -60,  DEVICE,  "device call failed")
/* clang-format on */

enum err {
#define X(name, value, scope, text) ERR_##name = value,
    ERR_MAP(X)
#undef X
};

const char *err_name(enum err e); /* "ERR_TIMEOUT"; "ERR_?" for a number that is no code */
const char *err_text(enum err e); /* "deadline passed" */
enum err_scope err_scope(enum err e);

/* Always NUL-terminated; longer texts are cut. */
struct err_msg {
    char text[480];
};

/* Format into msg (which may be NULL) and return e, so that a caller can write
 * `return err_set(msg, ERR_INVALID, "%s: ...", path)`. */
enum err err_set(struct err_msg *msg, enum err e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
