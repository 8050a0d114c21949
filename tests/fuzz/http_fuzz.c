/* tests/fuzz/http_fuzz.c - HTTP requests from arbitrary bytes.
 *
 * Oracle: the same requests and the same verdict come out whether the bytes arrive whole, one by one or in
 * pieces; an error is final; each request that is accepted, written out again in its plainest form, is
 * parsed to the same request. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "daemon/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Small limits, so that the fuzzer can reach them. */
static const struct http_limits limits = {.request_line = 200,
                                          .header = 100,
                                          .headers = 400,
                                          .header_count = 12,
                                          .body = 300,
                                          .chunk_extensions = 40,
                                          .trailers = 80};

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "oracle broken: %s\n", what);
        abort();
    }
}

/* One line for each request, and one for the error that ended it. */
static void write_request(struct buf *out, const struct http_parse *p)
{
    must(buf_printf(out, "%s %s?%s keep=%d http10=%d\n", p->method, p->path, p->query,
                    p->keep_alive, p->http10) == ERR_OK,
         "memory");
    for (uint32_t i = 0; i < p->n_fields; i++) {
        must(strlen(p->fields[i].name) == p->fields[i].name_len &&
                 strlen(p->fields[i].value) == p->fields[i].value_len,
             "a field has a NUL inside");
        must(buf_printf(out, "%s=%s\n", p->fields[i].name, p->fields[i].value) == ERR_OK, "memory");
    }
    must(buf_append(out, buf_bytes(&p->body), p->body.len) == ERR_OK, "memory");
}

/* Feed pieces of 1 + seed % max bytes. */
static void parse(const uint8_t *data, size_t size, size_t max, uint64_t seed, struct buf *out)
{
    struct http_parse p;
    size_t at = 0, end = 0;

    http_parse_init(&p, &limits);
    while (at < size) {
        enum http_parse_event event;
        size_t used;

        if (at == end) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            end = at + 1 + (size_t)(seed >> 33) % max;
            end = end < size ? end : size;
        }
        do {
            event = http_parse_feed(&p, (const char *)data + at, end - at, &used);
            must(used <= end - at, "more was used than given");
            at += used;
        } while (event == HTTP_PARSE_HEAD);
        if (event == HTTP_PARSE_ERROR) {
            must(buf_printf(out, "error %d %s\n", p.status, p.why) == ERR_OK, "memory");
            must(http_parse_feed(&p, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 27, &used) ==
                         HTTP_PARSE_ERROR &&
                     used == 0,
                 "an error is not final");
            break;
        }
        if (event == HTTP_PARSE_MESSAGE) {
            write_request(out, &p);
            http_parse_next(&p);
        } else {
            must(at == end, "bytes were left unread");
        }
    }
    http_parse_fini(&p);
}

static bool rewrite(const uint8_t *data, size_t size, struct buf *plain)
{
    struct http_parse p;
    size_t at = 0, used;
    enum http_parse_event event;
    bool found = false;

    http_parse_init(&p, &limits);
    do {
        event = http_parse_feed(&p, (const char *)data + at, size - at, &used);
        at += used;
    } while (event == HTTP_PARSE_HEAD);
    if (event == HTTP_PARSE_MESSAGE && strchr(p.path, ' ') == NULL && strchr(p.path, '%') == NULL &&
        strchr(p.path, '?') == NULL && p.path[0] == '/') {
        found = true;
        for (const char *s = p.path; *s != '\0'; s++)
            found = found && *s > 0x20 && *s < 0x7f && strchr("\"#<>\\^`{|}", *s) == NULL;
    }
    if (found) {
        must(buf_printf(plain, "%s %s%s%s HTTP/1.%d\r\n", p.method, p.path, *p.query ? "?" : "",
                        p.query, !p.http10) == ERR_OK,
             "memory");
        for (uint32_t i = 0; i < p.n_fields; i++)
            must(buf_printf(plain, "%s: %s\r\n", p.fields[i].name, p.fields[i].value) == ERR_OK,
                 "memory");
        must(buf_puts(plain, "\r\n") == ERR_OK, "memory");
        if (p.chunked && p.body.len > 0)
            must(buf_printf(plain, "%zx\r\n%.*s\r\n", p.body.len, (int)p.body.len,
                            buf_bytes(&p.body)) == ERR_OK,
                 "memory");
        if (p.chunked)
            must(buf_puts(plain, "0\r\n\r\n") == ERR_OK, "memory");
        else
            must(buf_append(plain, buf_bytes(&p.body), p.body.len) == ERR_OK, "memory");
        found = memchr(p.body.data, '\0', p.body.len) == NULL || !p.chunked;
    }
    http_parse_fini(&p);
    return found;
}

static void same(const struct buf *a, const struct buf *b, const char *what)
{
    must(a->len == b->len && (a->len == 0 || memcmp(buf_bytes(a), buf_bytes(b), a->len) == 0),
         what);
}

static void check_rewritten(const uint8_t *data, size_t size, const struct buf *whole)
{
    struct buf plain = BUF_INIT, again = BUF_INIT;

    if (rewrite(data, size, &plain)) {
        parse((const uint8_t *)buf_bytes(&plain), plain.len, SIZE_MAX / 4, 1, &again);
        /* Lines get longer by a space at most, so only limits may say no. */
        if (again.len > 0 && strncmp(buf_bytes(&again), "error 4", 7) != 0)
            must(whole->len >= again.len &&
                     memcmp(buf_bytes(whole), buf_bytes(&again), again.len) == 0,
                 "a request changes when it is written out again");
    }
    buf_free(&plain);
    buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = BUF_INIT, other = BUF_INIT;
    size_t before = mem_live();

    parse(data, size, SIZE_MAX / 4, 1, &whole);
    parse(data, size, 1, 1, &other);
    same(&whole, &other, "byte by byte is not the same as whole");
    for (uint64_t seed = 2; seed < 5; seed++) {
        buf_clear(&other);
        parse(data, size, 40, seed * size, &other);
        same(&whole, &other, "pieces are not the same as whole");
    }
    check_rewritten(data, size, &whole);
    buf_free(&whole);
    buf_free(&other);
    must(mem_live() == before, "memory is left over");
    return 0;
}
