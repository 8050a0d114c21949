/* tests/fuzz/api_request_fuzz.c - request bodies from arbitrary bytes.  The first byte picks the endpoint
 * and the limits.
 *
 * Oracle: what is accepted satisfies api_request_check; what is refused has a whole error with our own
 * texts; nothing is left over; the JSON verdict is that of an independent reader where policies agree. */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "daemon/api_json.h"
#include "daemon/api_render.h"
#include "daemon/api_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "oracle broken: %s\n", what);
        abort();
    }
}

static void check_error(const struct api_error *e)
{
    struct buf out = BUF_INIT;
    json_t *parsed;

    must(e->status == 400 && e->type != NULL && e->message[0] != '\0', "the error is not whole");
    must(api_render_error(&out, e) == ERR_OK, "memory");
    parsed = json_loadb(buf_bytes(&out), out.len, 0, NULL);
    must(parsed != NULL && json_object_size(json_object_get(parsed, "error")) == 4,
         "the error is not rendered as JSON with four keys");
    json_decref(parsed);
    buf_free(&out);
}

/* jansson takes a NUL byte behind a word ("true\0"), which no grammar allows: those texts only have to be
 * refused here.  It refuses numbers beyond double and U+0000 in keys, and has its own depth limit but no
 * bound on keys and nodes.  Apart from that, both verdicts must be the same. */
static void check_json(const char *text, size_t size)
{
    struct api_json doc;
    struct api_json_error fault;
    json_error_t error;
    json_t *other =
        json_loadb(text, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    enum err err = api_json_parse(text, size, &doc, &fault);

    must(err == ERR_OK || err == ERR_INVALID, "memory");
    if (memchr(text, '\0', size) != NULL)
        must(err == ERR_INVALID, "a NUL byte was taken");
    else if (other != NULL && err != ERR_OK)
        must(fault.fault == API_JSON_TOO_COMPLEX, "a JSON text was refused");
    else if (other == NULL && err == ERR_OK)
        must(json_error_code(&error) == json_error_numeric_overflow ||
                 json_error_code(&error) == json_error_null_byte_in_key,
             "a text that is no JSON was taken");
    if (err == ERR_OK)
        api_json_free(&doc);
    json_decref(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum api_kind kinds[] = {API_CHAT, API_COMPLETION, API_TOKENIZE, API_DETOKENIZE};
    struct api_limits limits = {0};
    struct api_request *r;
    struct api_error e;
    size_t before = mem_live();

    if (size == 0)
        return 0;
    limits.vocab = data[0] & 16 ? 100 : 0;
    limits.n_max = data[0] & 32 ? 3 : 0;
    check_json((const char *)data + 1, size - 1);
    if (api_request_parse(kinds[data[0] & 3], (const char *)data + 1, size - 1, &limits, &r, &e)) {
        must(api_request_check(r, &limits), "an accepted request breaks a promise");
        must(mem_live() - before < 4 + size / 64, "too much memory for so small a body");
        api_request_free(r);
    } else {
        check_error(&e);
    }
    must(mem_live() == before, "memory is left over");
    return 0;
}
