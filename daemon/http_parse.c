/* daemon/http_parse.c - see the header for the contract.
 *
 * The head is collected until the scanner has seen its end, and only then given to llhttp, whole: so
 * llhttp's spans are single pieces that can be used in place, and the verdict cannot depend on how the
 * bytes arrived.  Bodies are given to llhttp as they come. */
#include "daemon/http_parse.h"

#include <string.h>

#include "base/mem.h"

enum { KEEP_HEAD = 4096, KEEP_BODY = 16384, RESERVE_BODY = 65536 };

/* ---- llhttp's callbacks ---- */
static int on_field(llhttp_t *l, const char *at, size_t n)
{
    struct http_parse *p = l->data;
    struct http_field *f;

    if (!p->in_body && p->n_fields == p->cap_fields) {
        uint32_t cap = p->cap_fields > 0 ? 2 * p->cap_fields : 16;
        struct http_field *grown = mem_try_realloc(p->fields, cap * sizeof(*grown));

        if (grown == NULL) {
            p->nomem = true;
            return HPE_USER;
        }
        p->fields = grown;
        p->cap_fields = cap;
    }
    if (p->in_body)
        return 0; /* a trailer: checked by the scanner, not kept */
    f = &p->fields[p->n_fields++];
    *f = (struct http_field){.name = at, .name_len = n, .value = ""};
    p->in_value = false;
    return 0;
}

static int on_value(llhttp_t *l, const char *at, size_t n)
{
    struct http_parse *p = l->data;
    struct http_field *f;

    if (p->in_body || p->n_fields == 0)
        return 0;
    f = &p->fields[p->n_fields - 1];
    if (!p->in_value)
        f->value = at;
    p->in_value = true;
    f->value_len = (size_t)(at + n - f->value);
    return 0;
}

static int on_headers_complete(llhttp_t *l)
{
    struct http_parse *p = l->data;

    p->head_seen = true;
    p->keep_alive = llhttp_should_keep_alive(l) != 0;
    l->upgrade =
        0; /* no other protocol is spoken here: Upgrade is ignored, as RFC 9110 7.8 allows */
    return 0;
}

static int on_body(llhttp_t *l, const char *at, size_t n)
{
    struct http_parse *p = l->data;

    p->body_bytes += n;
    if (p->discard_body)
        return 0;
    if (buf_append(&p->body, at, n) != ERR_OK) {
        p->nomem = true;
        return HPE_USER;
    }
    return 0;
}

static int on_complete(llhttp_t *l)
{
    ((struct http_parse *)l->data)->complete = true;
    return 0;
}

static const llhttp_settings_t settings = {.on_header_field = on_field,
                                           .on_header_value = on_value,
                                           .on_headers_complete = on_headers_complete,
                                           .on_body = on_body,
                                           .on_message_complete = on_complete};

/* ---- life ---- */
void http_parse_init(struct http_parse *p, const struct http_limits *limits)
{
    memset(p, 0, sizeof(*p));
    p->limits = *limits;
    http_limits_fill(&p->limits);
    http_parse_next(p);
}

void http_parse_fini(struct http_parse *p)
{
    buf_free(&p->head);
    buf_free(&p->body);
    mem_free(p->fields);
    p->fields = NULL;
    p->cap_fields = p->n_fields = 0;
}

static void forget(struct buf *b, size_t keep)
{
    if (b->cap > keep)
        buf_free(b);
    else
        buf_clear(b);
}

void http_parse_next(struct http_parse *p)
{
    forget(&p->head, KEEP_HEAD);
    forget(&p->body, KEEP_BODY);
    http_scan_start(&p->scan, &p->limits);
    llhttp_init(&p->llhttp, HTTP_REQUEST, &settings);
    p->llhttp.data = p;
    p->method = p->path = p->query = "";
    p->n_fields = 0;
    p->status = 0;
    p->why = NULL;
    p->content_length = p->body_bytes = 0;
    p->http10 = p->keep_alive = p->expects_continue = p->has_body = p->chunked = false;
    p->discard_body = p->in_body = p->head_seen = p->complete = p->in_value = p->nomem = false;
}

bool http_parse_idle(const struct http_parse *p)
{
    return http_scan_begun(&p->scan) == 0;
}

const char *http_parse_field(const struct http_parse *p, const char *name)
{
    size_t len = strlen(name);

    for (uint32_t i = 0; i < p->n_fields; i++) {
        if (p->fields[i].name_len == len && memcmp(p->fields[i].name, name, len) == 0)
            return p->fields[i].value;
    }
    return NULL;
}

/* ---- the head ---- */
static enum http_parse_event refuse(struct http_parse *p, int status, const char *why)
{
    p->status = status;
    p->why = why;
    return HTTP_PARSE_ERROR;
}

static enum http_parse_event refuse_nomem(struct http_parse *p)
{
    return refuse(p, 503, "The server is out of memory.");
}

/* Names to lower case, values without the space around them, both NUL-terminated.  The bytes written over
 * are the colon and the CR, which are part of the head and have been read. */
static void tidy_fields(struct http_parse *p)
{
    char *start = buf_bytes(&p->head);

    for (uint32_t i = 0; i < p->n_fields; i++) {
        struct http_field *f = &p->fields[i];
        char *name = start + (f->name - start);

        for (size_t k = 0; k < f->name_len; k++) {
            if (name[k] >= 'A' && name[k] <= 'Z')
                name[k] = (char)(name[k] | 0x20);
        }
        name[f->name_len] = '\0';
        while (f->value_len > 0 && (*f->value == ' ' || *f->value == '\t')) {
            f->value++;
            f->value_len--;
        }
        while (f->value_len > 0 &&
               (f->value[f->value_len - 1] == ' ' || f->value[f->value_len - 1] == '\t'))
            f->value_len--;
        if (f->value_len > 0)
            start[(size_t)(f->value - start) + f->value_len] = '\0';
        else
            f->value = "";
    }
}

/* The whole head is in p->head: METHOD SP target SP version CRLF ...; the scanner has vouched for it. */
static enum http_parse_event read_head(struct http_parse *p)
{
    char *line = buf_bytes(&p->head), *target, *end;
    size_t method_len;

    if (line[0] == '\r') /* the one empty line that may come before */
        line += 2;
    target = memchr(line, ' ', p->head.len);
    method_len = (size_t)(target - line);
    if (!http_head_method_known(line, method_len))
        return refuse(p, 501, "The method is unknown.");
    if (llhttp_execute(&p->llhttp, buf_bytes(&p->head), p->head.len) != HPE_OK || !p->head_seen)
        return p->nomem ? refuse_nomem(p) : refuse(p, 400, "The request head is malformed.");
    tidy_fields(p);
    *target++ = '\0';
    end = memchr(target, ' ', p->head.len - (size_t)(target - buf_bytes(&p->head)));
    p->method = line;
    p->http10 = end[8] == '0'; /* " HTTP/1.0" */
    *end = '\0';
    if (!http_head_check(p, target, (size_t)(end - target)))
        return HTTP_PARSE_ERROR;
    if (p->complete == p->has_body)
        return refuse(p, 400, "The framing of the body is ambiguous.");
    p->in_body = true;
    if (p->chunked)
        http_scan_body_chunked(&p->scan);
    else
        http_scan_body_length(&p->scan, p->has_body ? p->content_length : 0);
    return HTTP_PARSE_HEAD;
}

static enum http_parse_event feed_head(struct http_parse *p, const char *bytes, size_t len,
                                       size_t *used)
{
    enum http_scan_event event = http_scan_feed(&p->scan, bytes, len, used);

    if (event == HTTP_SCAN_ERROR)
        return refuse(p, p->scan.status, p->scan.why);
    if (buf_append(&p->head, bytes, *used) != ERR_OK)
        return refuse_nomem(p);
    return event == HTTP_SCAN_HEAD ? read_head(p) : HTTP_PARSE_MORE;
}

/* ---- the body ---- */
static enum http_parse_event end_body(struct http_parse *p)
{
    if (!p->complete || (!p->chunked && p->body_bytes != p->content_length))
        return refuse(p, 400, "The framing of the body is ambiguous.");
    if (buf_reserve(&p->body, 1) != ERR_OK)
        return refuse_nomem(p);
    buf_bytes(&p->body)[p->body.len] = '\0';
    return HTTP_PARSE_MESSAGE;
}

static enum http_parse_event feed_body(struct http_parse *p, const char *bytes, size_t len,
                                       size_t *used)
{
    enum http_scan_event event;

    if (p->has_body && p->body_bytes == 0 && !p->chunked && !p->discard_body &&
        p->content_length <= RESERVE_BODY &&
        buf_reserve(&p->body, (size_t)p->content_length + 1) != ERR_OK)
        return refuse_nomem(p);
    event = http_scan_feed(&p->scan, bytes, len, used);
    if (*used > 0 && llhttp_execute(&p->llhttp, bytes, *used) != HPE_OK)
        return p->nomem ? refuse_nomem(p) : refuse(p, 400, "The body is malformed.");
    if (event == HTTP_SCAN_ERROR)
        return refuse(p, p->scan.status, p->scan.why);
    if (event == HTTP_SCAN_MESSAGE)
        return end_body(p);
    return p->complete ? refuse(p, 400, "The framing of the body is ambiguous.") : HTTP_PARSE_MORE;
}

enum http_parse_event http_parse_feed(struct http_parse *p, const char *bytes, size_t len,
                                      size_t *used)
{
    *used = 0;
    if (p->status != 0)
        return HTTP_PARSE_ERROR;
    return p->in_body ? feed_body(p, bytes, len, used) : feed_head(p, bytes, len, used);
}
