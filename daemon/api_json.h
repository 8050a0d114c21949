/* daemon/api_json.h - a strict JSON reader that turns a text into one flat array of nodes.
 *
 * Strict means RFC 8259 and nothing beside it: UTF-8 only, no byte order mark, no NaN, no comments, no
 * trailing commas or data, no lone surrogates, no duplicate keys; and bounded: depth, keys of one
 * object, nodes of one text.  Nothing recurses.  An array of integers costs 16 bytes and one push for
 * each, so that a prompt of token ids is read at the speed of its bytes.
 *
 *   api_json_parse -> api_json_* accessors -> api_json_free
 *
 * Node 0 is the root; the children of a container follow it in order (in an object: key, value, key,
 * value); api_json_next() steps over a whole value.
 *
 * Thread     any (no globals).
 * Ownership  the text must outlive the document: strings without escapes point into it.
 * Limits     the text is at most API_JSON_TEXT_MAX bytes. */
#ifndef DAEMON_API_JSON_H
#define DAEMON_API_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    API_JSON_DEPTH_MAX = 64,
    API_JSON_KEYS_MAX = 1024, /* of one object */
    API_JSON_NODES_MAX = 1000000,
    API_JSON_TEXT_MAX = 1 << 30
};

enum api_json_type {
    API_JSON_NULL = 0,
    API_JSON_BOOL,
    API_JSON_INT,  /* written as an integer and fits int64 */
    API_JSON_REAL, /* any other number */
    API_JSON_STRING,
    API_JSON_ARRAY,
    API_JSON_OBJECT
};

struct api_node {
    uint8_t type; /* enum api_json_type */
    bool decoded; /* string: lies in the document's own storage, not in the text */
    bool has_nul; /* string: contains U+0000 */
    bool too_big; /* real: an integer outside int64 */
    uint32_t n;   /* string, real: bytes; array: elements; object: keys */
    union {
        int64_t i; /* int; bool: 0 or 1 */
        struct {
            uint32_t at;  /* string, real: offset */
            uint32_t end; /* container: index of the node behind its last child */
        };
    };
};

struct api_json {
    /* read-only */
    struct api_node *nodes;
    uint32_t n_nodes;
    /* private */
    uint32_t cap;
    const char *text;
    char *decoded;
    size_t decoded_len;
};

/* Where and why a text was refused; why is a constant text of ours. */
enum api_json_fault {
    API_JSON_MALFORMED = 0, /* no JSON at all */
    API_JSON_DUPLICATE_KEY, /* JSON, but parsers differ in what it says */
    API_JSON_TOO_COMPLEX    /* JSON beyond the limits above */
};

struct api_json_error {
    enum api_json_fault fault;
    size_t at;
    const char *why;
};

/* ERR_INVALID: not (our) JSON, *error says why.  ERR_NOMEM.  On error nothing is allocated. */
MUST_USE enum err api_json_parse(const char *text, size_t len, struct api_json *out,
                                 struct api_json_error *error);
void api_json_free(struct api_json *doc);

/* Index of the value behind the one at i. */
uint32_t api_json_next(const struct api_json *doc, uint32_t i);
/* Bytes of a string node, not NUL-terminated; valid as long as document and text. */
const char *api_json_string(const struct api_json *doc, uint32_t i, size_t *len);
bool api_json_is(const struct api_json *doc, uint32_t i, const char *s); /* a string equal to s? */
/* Value of key in the object at i, or 0 (the root is nobody's value). */
uint32_t api_json_get(const struct api_json *doc, uint32_t object, const char *key);
/* A number's value.  ERR_LIMIT: beyond the range of a double.  ERR_INVALID: not a number. */
MUST_USE enum err api_json_double(const struct api_json *doc, uint32_t i, double *out);

#endif
