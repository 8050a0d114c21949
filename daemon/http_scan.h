/* daemon/http_scan.h - a strict HTTP/1.x grammar, byte by byte: what a client may put on the wire.
 *
 *   http_scan_start -> feed ... HEAD -> http_scan_body_* -> feed ... MESSAGE -> http_scan_start
 *
 * It stands in front of llhttp and is stricter: no bare CR or LF, no folding, no space before a colon,
 * no byte outside the grammar in method, target, version, names, chunk sizes, extensions or trailers; and
 * it counts what http_limits bounds.  It knows where the head and the body end but not what headers mean:
 * http_head.h reads them and tells it the framing.  Its state is a few counters, so the verdict cannot
 * depend on how the bytes were cut.
 *
 * Pure code; allocates nothing.  Thread: the owner's. */
#ifndef DAEMON_HTTP_SCAN_H
#define DAEMON_HTTP_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/http.h"

enum http_scan_event {
    HTTP_SCAN_MORE = 0, /* all bytes used, the message goes on */
    HTTP_SCAN_HEAD,     /* used ends behind the empty line; say what body follows */
    HTTP_SCAN_MESSAGE,  /* used ends behind the last byte of the message */
    HTTP_SCAN_ERROR     /* used ends before the offending byte; final */
};

struct http_scan {
    /* read-only: on error */
    int status; /* 400, 413, 414, 431, 501 or 505 */
    const char *why;
    /* private */
    const struct http_limits *limits; /* all set, see http_limits_fill */
    int state;
    uint32_t at;         /* bytes of the current line, or of the part of it that is counted */
    uint32_t section;    /* bytes of all header lines, or of all trailer lines */
    uint32_t count;      /* headers, or trailers */
    uint32_t extensions; /* bytes of chunk extensions in this message */
    uint32_t size_digits;
    uint64_t left; /* of the body, or of the chunk */
    uint64_t body; /* bytes that the chunks so far declared */
    uint8_t major, minor;
    uint8_t name_len;
    char name[24]; /* of a trailer, lower case */
};

/* Replace zeros by the defaults. */
void http_limits_fill(struct http_limits *limits);

void http_scan_start(struct http_scan *s, const struct http_limits *limits);
/* Has anything of a message been seen? */
int http_scan_begun(const struct http_scan *s);
enum http_scan_event http_scan_feed(struct http_scan *s, const char *bytes, size_t len,
                                    size_t *used);
/* After HEAD, one of the two; length 0 says that no body follows. */
void http_scan_body_length(struct http_scan *s, uint64_t length);
void http_scan_body_chunked(struct http_scan *s);

#endif
