/* tests/fuzz/load_sse_fuzz.c - any bytes as a server's event stream: the same events whether they come whole or in
 * pieces, and nothing left behind.  Byte 0: size of the pieces. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench/load_sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    uint32_t n, texts, ends, errors, counts;
};

static void on_chunk(void *arg, const struct load_chunk *c)
{
    struct seen *s = arg;

    s->n++;
    s->texts += c->has_text;
    s->ends += c->is_end;
    s->errors += c->is_error;
    s->counts += c->prompt_tokens + c->completion_tokens + c->cached_tokens;
    if (memchr(c->error, '\0', sizeof(c->error)) == NULL)
        abort();
}

static enum err feed(const char *p, size_t len, size_t step, struct seen *out)
{
    struct load_sse s = {.after_cr = false};
    enum err err = ERR_OK;

    for (size_t i = 0; i < len && err == ERR_OK; i += step)
        err = load_sse_feed(&s, p + i, len - i < step ? len - i : step, on_chunk, out);
    load_sse_fini(&s);
    return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole = {0}, pieces = {0};
    size_t live = mem_live(); /* the caller may hold some */
    enum err a, b;

    if (size < 2)
        return 0;
    a = feed((const char *)data + 1, size - 1, size, &whole);
    b = feed((const char *)data + 1, size - 1, (size_t)data[0] % 7 + 1, &pieces);
    if (a != b || memcmp(&whole, &pieces, sizeof(whole)) != 0 || mem_live() != live) {
        fprintf(stderr, "whole and in pieces differ\n");
        abort();
    }
    return 0;
}
