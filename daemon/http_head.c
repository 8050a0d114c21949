/* daemon/http_head.c - the fields that frame and route a message, and the request target.
 *
 * Stricter than RFC 9112 where clients never go but smugglers do: framing fields come once, in their
 * plainest spelling; Transfer-Encoding is exactly "chunked". */
#include <string.h>
#include <strings.h>

#include "daemon/http_parse.h"

static bool bad(struct http_parse *p, int status, const char *why)
{
    p->status = status;
    p->why = why;
    return false;
}

bool http_head_method_known(const char *method, size_t len)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strlen(known[i]) == len && memcmp(known[i], method, len) == 0)
            return true;
    }
    return false;
}

/* ---- fields ---- */
static const struct http_field *find(const struct http_parse *p, const char *name, uint32_t *count)
{
    const struct http_field *first = NULL;
    size_t len = strlen(name);

    *count = 0;
    for (uint32_t i = 0; i < p->n_fields; i++) {
        if (p->fields[i].name_len != len || memcmp(p->fields[i].name, name, len) != 0)
            continue;
        first = first != NULL ? first : &p->fields[i];
        ++*count;
    }
    return first;
}

/* Fields of which two would leave open which one counts. */
static bool check_single(struct http_parse *p)
{
    static const char *const once[] = {"content-type", "authorization",    "x-api-key",
                                       "expect",       "content-encoding", "origin"};
    uint32_t count;

    for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++) {
        find(p, once[i], &count);
        if (count > 1)
            return bad(p, 400, "A header that may come once comes twice.");
    }
    return true;
}

/* At most one space before the value and none behind: "leading space/trailing junk" has no honest sender. */
static bool is_plain(const struct http_field *f)
{
    const char *behind_name = f->name + f->name_len + 1; /* behind the colon */

    if (f->value_len == 0)
        return false;
    return f->value - behind_name <= 1 && behind_name[0] != '\t' &&
           f->value[f->value_len + 1] == '\n'; /* the NUL stands where the CR was */
}

static bool check_length(struct http_parse *p, const struct http_field *f)
{
    uint64_t length = 0;

    if (!is_plain(f))
        return bad(p, 400, "Content-Length is malformed.");
    for (size_t i = 0; i < f->value_len; i++) {
        if (f->value[i] < '0' || f->value[i] > '9')
            return bad(p, 400, "Content-Length is malformed.");
        if (length > (UINT64_MAX >> 1) / 10 - 1)
            return bad(p, 400, "Content-Length is out of range.");
        length = length * 10 + (uint64_t)(f->value[i] - '0');
    }
    if (length > p->limits.body)
        return bad(p, 413, "The body is too large.");
    p->content_length = length;
    p->has_body = length > 0;
    return true;
}

static bool check_framing(struct http_parse *p)
{
    uint32_t n_length, n_coding;
    const struct http_field *length = find(p, "content-length", &n_length);
    const struct http_field *coding = find(p, "transfer-encoding", &n_coding);

    if (n_length + n_coding > 1)
        return bad(p, 400, "The framing of the body is ambiguous.");
    if (length != NULL)
        return check_length(p, length);
    if (coding == NULL)
        return true;
    if (p->http10)
        return bad(p, 400, "Transfer-Encoding does not exist in HTTP/1.0.");
    if (!is_plain(coding) || strcasecmp(coding->value, "chunked") != 0 || coding->value_len != 7)
        return bad(p, 400, "The only Transfer-Encoding is chunked.");
    p->chunked = p->has_body = true;
    return true;
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

static bool is_address_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || c == ':' ||
           c == '.';
}

/* host [ ":" port ], where host is a name, an IPv4 address or an IPv6 address in brackets. */
static bool authority_valid(const char *s, size_t len)
{
    size_t i = 0;
    uint32_t port = 0;

    if (len > 0 && s[0] == '[') {
        for (i = 1; i < len && is_address_char(s[i]); i++)
            continue;
        if (i < 3 || i >= len || s[i++] != ']')
            return false;
    } else {
        while (i < len && is_name_char(s[i]))
            i++;
        if (i == 0 || i > 255)
            return false;
    }
    if (i == len)
        return true;
    if (s[i++] != ':' || i == len || len - i > 5)
        return false;
    for (; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        port = port * 10 + (uint32_t)(s[i] - '0');
    }
    return port <= 65535;
}

static bool check_host(struct http_parse *p, const struct http_field **host)
{
    uint32_t count;

    *host = find(p, "host", &count);
    if (count > 1)
        return bad(p, 400, "There is more than one Host.");
    if (count == 0)
        return p->http10 || bad(p, 400, "Host is missing.");
    return authority_valid((*host)->value, (*host)->value_len) || bad(p, 400, "Host is malformed.");
}

static bool check_expect(struct http_parse *p)
{
    const char *expect = http_parse_field(p, "expect");

    if (expect == NULL)
        return true;
    if (strcasecmp(expect, "100-continue") != 0)
        return bad(p, 417, "The only expectation that can be met is 100-continue.");
    p->expects_continue = !p->http10 && p->has_body;
    return true;
}

/* ---- the target ---- */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode path in place; a control character has no place in one, encoded or not. */
static bool decode_path(struct http_parse *p, char *path)
{
    char *to = path;

    for (const char *s = path; *s != '\0'; s++) {
        int high, low;

        if (*s != '%') {
            *to++ = *s;
            continue;
        }
        high = hex_value(s[1]);
        low = high < 0 ? -1 : hex_value(s[2]);
        if (low < 0 || high * 16 + low < 0x20 || high * 16 + low == 0x7f)
            return bad(p, 400, "The path has a malformed percent escape.");
        *to++ = (char)(high * 16 + low);
        s += 2;
    }
    *to = '\0';
    return true;
}

static bool check_origin_form(struct http_parse *p, char *target)
{
    char *query = strchr(target, '?');

    if (query != NULL) {
        *query = '\0';
        p->query = query + 1;
    }
    p->path = target;
    return decode_path(p, target);
}

/* http://authority/path, as proxies are asked: the authority must be what Host says. */
static bool check_absolute_form(struct http_parse *p, char *target, const struct http_field *host)
{
    size_t skip = strncasecmp(target, "http://", 7) == 0    ? 7
                  : strncasecmp(target, "https://", 8) == 0 ? 8
                                                            : 0;
    size_t len;

    if (skip == 0)
        return bad(p, 400, "The request target is malformed.");
    target += skip;
    len = strcspn(target, "/?");
    if (!authority_valid(target, len))
        return bad(p, 400, "The request target is malformed.");
    if (host != NULL && (host->value_len != len || strncasecmp(host->value, target, len) != 0))
        return bad(p, 400, "Host and the request target do not agree.");
    if (target[len] == '/')
        return check_origin_form(p, target + len);
    p->path = "/";
    p->query = target[len] == '?' ? target + len + 1 : "";
    return true;
}

static bool check_target(struct http_parse *p, char *target, size_t len,
                         const struct http_field *host)
{
    if (target[0] == '/')
        return check_origin_form(p, target);
    if (len == 1 && target[0] == '*') {
        if (strcmp(p->method, "OPTIONS") != 0)
            return bad(p, 400, "The request target is malformed.");
        p->path = "*";
        return true;
    }
    return check_absolute_form(p, target, host);
}

bool http_head_check(struct http_parse *p, char *target, size_t len)
{
    const struct http_field *host;

    return check_framing(p) && check_host(p, &host) && check_single(p) && check_expect(p) &&
           check_target(p, target, len, host);
}
