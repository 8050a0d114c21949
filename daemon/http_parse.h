/* daemon/http_parse.h - one HTTP/1.x request after another, from bytes: two parsers that must agree.
 *
 *   init -> feed ... HEAD -> feed ... MESSAGE -> next -> feed ...     fini at any time
 *
 * The strict scanner (http_scan.h) sees each byte first, llhttp what it let through; then the header
 * fields that frame and route a message are checked here.  Where scanner and llhttp do not agree on where
 * a head or a message ends, the request is refused: a disagreement between two parsers is how smuggling
 * starts.  After an error nothing is read.
 *
 * Thread     the owner's.  Ownership: all strings lie in the parser and live until next or fini.
 * Blocking   nothing. */
#ifndef DAEMON_HTTP_PARSE_H
#define DAEMON_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <llhttp.h>

#include "base/buf.h"
#include "daemon/http_scan.h"

enum http_parse_event {
    HTTP_PARSE_MORE = 0, /* all bytes used */
    HTTP_PARSE_HEAD,     /* the head is there; the next feed goes on with the body */
    HTTP_PARSE_MESSAGE,  /* the whole request is there */
    HTTP_PARSE_ERROR     /* final; status and why are set */
};

struct http_field {
    const char *name;  /* lower case */
    const char *value; /* without the space around it */
    size_t name_len, value_len;
};

struct http_parse {
    /* read-only: the request, from HEAD on */
    const char *method;
    const char *path; /* decoded */
    const char *query;
    struct http_field *fields;
    uint32_t n_fields;
    bool http10;
    bool keep_alive;
    bool expects_continue;
    bool has_body;
    bool chunked;
    uint64_t content_length; /* if has_body and not chunked */
    struct buf body;         /* NUL-terminated behind its end at MESSAGE */
    /* read-only: on error */
    int status;
    const char *why;
    /* the caller may set it at HEAD: the body is read but not kept */
    bool discard_body;
    /* private */
    struct http_limits limits;
    struct http_scan scan;
    llhttp_t llhttp;
    struct buf head;
    uint32_t cap_fields;
    uint64_t body_bytes; /* seen so far */
    bool in_body, head_seen, complete, in_value, nomem;
};

void http_parse_init(struct http_parse *p, const struct http_limits *limits);
void http_parse_fini(struct http_parse *p);
/* Forget the request, be ready for the next one.  Memory beyond a small amount is given back. */
void http_parse_next(struct http_parse *p);

enum http_parse_event http_parse_feed(struct http_parse *p, const char *bytes, size_t len,
                                      size_t *used);
/* Nothing of a message has been seen yet. */
bool http_parse_idle(const struct http_parse *p);
/* NULL if absent; name in lower case. */
const char *http_parse_field(const struct http_parse *p, const char *name);

/* http_head.c: the target and the fields that frame and route.  false: status and why are set. */
bool http_head_check(struct http_parse *p, char *target, size_t len);
/* Is the method one that this server knows?  Anything else is 501. */
bool http_head_method_known(const char *method, size_t len);

#endif
