/* daemon/http_scan.c - see the header for the contract.
 *
 * One state per position in the grammar of RFC 9112; each function below handles one byte of one group of
 * states.  Only the two long runs, header values and bodies, are stepped over in a loop of their own. */
#include "daemon/http_scan.h"

#include <stdbool.h>
#include <string.h>

enum scan_state {
    S_START,    /* the first byte of a request line, or one empty line before it */
    S_START_LF, /* the LF of that empty line */
    S_START_2,  /* behind it: the request line must come */
    S_METHOD,
    S_TARGET,
    S_VERSION,
    S_REQUEST_LF,
    S_LINE, /* the first byte of a header line, or the CR of the empty one */
    S_NAME,
    S_VALUE,
    S_VALUE_LF,
    S_HEAD_LF,
    S_FRAMING, /* the head is done, the framing was not told yet */
    S_BODY,
    S_SIZE, /* chunk size */
    S_EXT_NAME_1,
    S_EXT_NAME,
    S_EXT_VALUE_1,
    S_EXT_TOKEN,
    S_EXT_QUOTED,
    S_EXT_QUOTED_END,
    S_SIZE_LF,
    S_DATA,
    S_DATA_CR,
    S_DATA_LF,
    S_TRAILER, /* the first byte of a trailer line, or the CR of the empty one */
    S_TRAILER_NAME,
    S_TRAILER_VALUE,
    S_TRAILER_LF,
    S_END_LF,
    S_DONE, /* the message is over; the next feed reports it without a byte */
    S_ERROR
};

enum { C_TOKEN = 1, C_TARGET = 2, C_VALUE = 4 };

/* clang-format off */
/* What a byte may be part of: a token (RFC 9110 5.6.2), a target (RFC 3986), a field value. */
#define V 4
#define VT 6
#define ALL 7
static const uint8_t class_of[256] = {
    0,0,0,0,0,0,0,0,0,V,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,
    /*      !    "  #  $    %    &    '    (   )   *    +    ,   -    .    /  */
    V,      ALL, V, 5, ALL, ALL, ALL, ALL, VT, VT, ALL, ALL, VT, ALL, ALL, VT,
    ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL, /* 0-9 */
    /* :  ;   <  =   >  ?   @ */
    VT,   VT, V, VT, V, VT, VT,
    ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,
    /* [  \  ]   ^  _    ` */
    VT,   V, VT, 5, ALL, 5,
    ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,ALL,
    /* {  |  }  ~    DEL */
    V,    5, V, ALL, 0,
    V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V, V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,
    V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V, V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,
    V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V, V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,
    V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V, V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,V,
};
#undef V
#undef VT
#undef ALL
/* clang-format on */

static inline bool is(uint8_t c, int class)
{
    return (class_of[c] & class) != 0;
}

void http_limits_fill(struct http_limits *l)
{
#define DEFAULT(field, value) l->field = l->field != 0 ? l->field : (value)
    DEFAULT(request_line, 8u << 10);
    DEFAULT(header, 8u << 10);
    DEFAULT(headers, 16u << 10);
    DEFAULT(header_count, 100);
    DEFAULT(body, 8u << 20);
    DEFAULT(chunk_extensions, 4u << 10);
    DEFAULT(trailers, 8u << 10);
    DEFAULT(header_timeout_ms, 10000);
    DEFAULT(body_timeout_ms, 30000);
    DEFAULT(idle_timeout_ms, 120000);
    DEFAULT(requests_per_connection, 100000);
    DEFAULT(connections, 16384);
    DEFAULT(connections_per_ip, 1024);
    DEFAULT(max_output, 256u << 10);
#undef DEFAULT
}

void http_scan_start(struct http_scan *s, const struct http_limits *limits)
{
    *s = (struct http_scan){.limits = limits, .state = S_START};
}

int http_scan_begun(const struct http_scan *s)
{
    return s->state != S_START;
}

static bool fail(struct http_scan *s, int status, const char *why)
{
    s->status = status;
    s->why = why;
    s->state = S_ERROR;
    return false;
}

static bool go(struct http_scan *s, enum scan_state next)
{
    s->state = (int)next;
    return true;
}

/* ---- request line ---- */
static bool count_request_line(struct http_scan *s)
{
    return ++s->at <= s->limits->request_line || fail(s, 414, "The request line is too long.");
}

/* "HTTP/" digit "." digit, one byte of it; s->count is the position. */
static bool version_byte(struct http_scan *s, uint8_t c)
{
    static const char prefix[] = "HTTP/";
    uint32_t at = s->count++;
    bool digit = c >= '0' && c <= '9';

    if (at == 8 && c == '\r') {
        if (s->major != 1 || s->minor > 1)
            return fail(s, 505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
        s->at = s->count = 0;
        return go(s, S_REQUEST_LF);
    }
    if (at < 5 ? c != (uint8_t)prefix[at] : at == 6 ? c != '.' : at > 7 || !digit)
        return fail(s, 400, "The HTTP version is malformed.");
    if (at == 5)
        s->major = (uint8_t)(c - '0');
    if (at == 7)
        s->minor = (uint8_t)(c - '0');
    return count_request_line(s);
}

static bool request_byte(struct http_scan *s, uint8_t c)
{
    switch (s->state) {
    case S_START:
    case S_START_2:
        if (c == '\r' && s->state == S_START)
            return go(s, S_START_LF);
        if (!is(c, C_TOKEN))
            return fail(s, 400, "The request line is malformed.");
        return count_request_line(s) && go(s, S_METHOD);
    case S_START_LF:
        return c == '\n' ? go(s, S_START_2) : fail(s, 400, "A CR without LF.");
    case S_METHOD:
        if (c == ' ') {
            s->count = 0;
            return count_request_line(s) && go(s, S_TARGET);
        }
        if (!is(c, C_TOKEN))
            return fail(s, 400, "The method is malformed.");
        return s->at < 32 ? count_request_line(s) : fail(s, 501, "The method is unknown.");
    case S_TARGET:
        if (c == ' ' && s->count > 0) {
            s->count = 0;
            return count_request_line(s) && go(s, S_VERSION);
        }
        if (!is(c, C_TARGET))
            return fail(s, 400, "The request target is malformed.");
        s->count = 1;
        return count_request_line(s);
    case S_VERSION:
        return version_byte(s, c);
    default: /* S_REQUEST_LF */
        return c == '\n' ? go(s, S_LINE) : fail(s, 400, "A CR without LF.");
    }
}

/* ---- header and trailer lines ---- */
static bool count_line(struct http_scan *s, bool in_line)
{
    uint32_t limit = s->state < S_BODY ? s->limits->headers : s->limits->trailers;

    if (in_line && ++s->at > s->limits->header)
        return fail(s, 431, "A header is too long.");
    return ++s->section <= limit || fail(s, 431, "The headers are too long.");
}

static bool line_start(struct http_scan *s, uint8_t c, enum scan_state end, enum scan_state name)
{
    if (c == '\r')
        return go(s, end);
    if (!is(c, C_TOKEN))
        return fail(s, 400,
                    c == ' ' || c == '\t' ? "A header line starts with a space."
                                          : "A header name is malformed.");
    if (s->count++ == s->limits->header_count)
        return fail(s, 431, "There are too many headers.");
    s->at = 0;
    s->name_len = 0;
    return count_line(s, true) && go(s, name);
}

static bool header_byte(struct http_scan *s, uint8_t c)
{
    switch (s->state) {
    case S_LINE:
        return line_start(s, c, S_HEAD_LF, S_NAME);
    case S_NAME:
        if (c != ':' && !is(c, C_TOKEN))
            return fail(s, 400, "A header name is malformed.");
        return count_line(s, true) && (c != ':' || go(s, S_VALUE));
    case S_VALUE:
        if (c == '\r')
            return count_line(s, false) && go(s, S_VALUE_LF);
        if (!is(c, C_VALUE))
            return fail(s, 400, "A header value has a character that is not allowed.");
        return count_line(s, true);
    case S_VALUE_LF:
        if (c != '\n')
            return fail(s, 400, "A CR without LF.");
        return count_line(s, false) && go(s, S_LINE);
    default: /* S_HEAD_LF */
        return c == '\n' ? go(s, S_FRAMING) : fail(s, 400, "A CR without LF.");
    }
}

/* Fields that frame, route or authenticate a message have no business behind its body. */
static bool trailer_allowed(struct http_scan *s)
{
    static const char *const banned[] = {"content-length", "transfer-encoding",
                                         "host",           "connection",
                                         "trailer",        "te",
                                         "upgrade",        "keep-alive",
                                         "authorization",  "x-api-key",
                                         "cookie",         "content-type",
                                         "content-range",  "content-encoding",
                                         "expect"};

    for (size_t i = 0; i < sizeof(banned) / sizeof(banned[0]); i++) {
        if (strlen(banned[i]) == s->name_len && memcmp(banned[i], s->name, s->name_len) == 0)
            return fail(s, 400, "A trailer carries a field that must be in the head.");
    }
    return true;
}

static void keep_name_byte(struct http_scan *s, uint8_t c)
{
    if (s->name_len < sizeof(s->name))
        s->name[s->name_len++] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
}

static bool trailer_byte(struct http_scan *s, uint8_t c)
{
    switch (s->state) {
    case S_TRAILER:
        if (!line_start(s, c, S_END_LF, S_TRAILER_NAME))
            return false;
        keep_name_byte(s, c);
        return true;
    case S_TRAILER_NAME:
        if (c == ':')
            return trailer_allowed(s) && count_line(s, true) && go(s, S_TRAILER_VALUE);
        if (!is(c, C_TOKEN))
            return fail(s, 400, "A trailer name is malformed.");
        keep_name_byte(s, c);
        return count_line(s, true);
    case S_TRAILER_VALUE:
        if (c == '\r')
            return count_line(s, false) && go(s, S_TRAILER_LF);
        if (!is(c, C_VALUE))
            return fail(s, 400, "A trailer value has a character that is not allowed.");
        return count_line(s, true);
    case S_TRAILER_LF:
        if (c != '\n')
            return fail(s, 400, "A CR without LF.");
        return count_line(s, false) && go(s, S_TRAILER);
    default: /* S_END_LF */
        return c == '\n' ? go(s, S_DONE) : fail(s, 400, "A CR without LF.");
    }
}

/* ---- chunks ---- */
static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The CR of a chunk line. */
static bool size_known(struct http_scan *s)
{
    if (s->left > s->limits->body || s->body + s->left > s->limits->body)
        return fail(s, 413, "The body is too large.");
    s->body += s->left;
    return go(s, S_SIZE_LF);
}

static bool size_byte(struct http_scan *s, uint8_t c)
{
    int digit = hex_value(c);

    if (digit >= 0) {
        if (s->size_digits++ == 16)
            return fail(s, 400, "A chunk size is too long.");
        s->left = s->left << 4 | (uint64_t)digit;
        return true;
    }
    if (s->size_digits == 0 || (c != '\r' && c != ';'))
        return fail(s, 400, "A chunk size is malformed.");
    return c == '\r' ? size_known(s) : go(s, S_EXT_NAME_1);
}

/* ext = *( ";" token [ "=" ( token | quoted-string ) ] ), without any space around.  llhttp 8.1 knows neither
 * backslashes in the string nor a second extension behind a token value; both are refused then. */
static bool extension_grammar(struct http_scan *s, uint8_t c)
{
    bool more = true;

    switch (s->state) {
    case S_EXT_NAME_1:
    case S_EXT_VALUE_1:
        if (s->state == S_EXT_VALUE_1 && c == '"')
            return go(s, S_EXT_QUOTED);
        if (is(c, C_TOKEN))
            return go(s, s->state == S_EXT_NAME_1 ? S_EXT_NAME : S_EXT_TOKEN);
        more = false;
        break;
    case S_EXT_NAME:
        if (c == '=')
            return go(s, S_EXT_VALUE_1);
        if (is(c, C_TOKEN))
            return true;
        break;
    case S_EXT_TOKEN:
        if (is(c, C_TOKEN))
            return true;
        break;
    case S_EXT_QUOTED:
        if (c == '"')
            return go(s, S_EXT_QUOTED_END);
        if (c != '\\' && is(c, C_VALUE))
            return true;
        more = false;
        break;
    default: /* S_EXT_QUOTED_END */
        break;
    }
    if (more && c == ';')
        return go(s, S_EXT_NAME_1);
    if (more && c == '\r')
        return size_known(s);
    return fail(s, 400, "A chunk extension is malformed.");
}

static bool extension_byte(struct http_scan *s, uint8_t c)
{
    if (c != '\r' && ++s->extensions > s->limits->chunk_extensions)
        return fail(s, 400, "The chunk extensions are too long.");
    return extension_grammar(s, c);
}

static bool chunk_byte(struct http_scan *s, uint8_t c)
{
    switch (s->state) {
    case S_SIZE:
        if (c == ';' && s->size_digits > 0 && ++s->extensions > s->limits->chunk_extensions)
            return fail(s, 400, "The chunk extensions are too long.");
        return size_byte(s, c);
    case S_SIZE_LF:
        if (c != '\n')
            return fail(s, 400, "A CR without LF.");
        s->section = s->count = 0;
        return go(s, s->left > 0 ? S_DATA : S_TRAILER);
    case S_DATA_CR:
        return c == '\r' ? go(s, S_DATA_LF) : fail(s, 400, "A chunk is longer than its size.");
    case S_DATA_LF:
        if (c != '\n')
            return fail(s, 400, "A CR without LF.");
        s->left = 0;
        s->size_digits = 0;
        return go(s, S_SIZE);
    default:
        return extension_byte(s, c);
    }
}

/* ---- feeding ---- */
static bool scan_byte(struct http_scan *s, uint8_t c)
{
    if (s->state <= S_REQUEST_LF)
        return request_byte(s, c);
    if (s->state <= S_HEAD_LF)
        return header_byte(s, c);
    if (s->state >= S_TRAILER)
        return trailer_byte(s, c);
    return chunk_byte(s, c);
}

/* Body bytes, as many as there are. */
static size_t skip_data(struct http_scan *s, size_t len)
{
    size_t n = s->left < len ? (size_t)s->left : len;

    s->left -= n;
    if (s->left == 0)
        s->state = s->state == S_BODY ? S_DONE : S_DATA_CR;
    return n;
}

/* The long run of plain value bytes of a header, without the per-byte dispatch; counts the same. */
static size_t skip_value(struct http_scan *s, const char *bytes, size_t len)
{
    uint32_t room_line = s->limits->header - s->at, room_all = s->limits->headers - s->section;
    size_t max = room_line < room_all ? room_line : room_all, n = 0;

    max = max < len ? max : len;
    while (n < max && is((uint8_t)bytes[n], C_VALUE))
        n++;
    s->at += (uint32_t)n;
    s->section += (uint32_t)n;
    return n;
}

enum http_scan_event http_scan_feed(struct http_scan *s, const char *bytes, size_t len,
                                    size_t *used)
{
    size_t i = 0;

    *used = 0;
    while (s->state != S_ERROR && s->state != S_DONE && s->state != S_FRAMING && i < len) {
        size_t run = 0;

        if (s->state == S_BODY || s->state == S_DATA)
            run = skip_data(s, len - i);
        else if (s->state == S_VALUE)
            run = skip_value(s, bytes + i, len - i);
        i += run;
        if (run == 0 && scan_byte(s, (uint8_t)bytes[i]))
            i++;
    }
    *used = i;
    if (s->state == S_ERROR)
        return HTTP_SCAN_ERROR;
    if (s->state == S_FRAMING)
        return HTTP_SCAN_HEAD;
    return s->state == S_DONE ? HTTP_SCAN_MESSAGE : HTTP_SCAN_MORE;
}

void http_scan_body_length(struct http_scan *s, uint64_t length)
{
    s->left = length;
    s->state = length > 0 ? S_BODY : S_DONE;
}

void http_scan_body_chunked(struct http_scan *s)
{
    s->left = 0;
    s->size_digits = 0;
    s->state = S_SIZE;
}
