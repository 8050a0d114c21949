/* tests/fuzz/tokenizer_fuzz.c - any bytes as a tokenizer.json: a clean error, or a tokenizer that turns
 * texts into ids of its vocabulary and back, the same way each time. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/engine_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONG_TEXT = 600 };

static void check(bool fine)
{
    if (!fine)
        abort();
}

static void check_text(const struct engine_tok *t, const char *text, size_t len, unsigned flags)
{
    struct engine_ids ids = {0}, again = {0};
    struct engine_detok d;
    struct buf out = BUF_INIT;

    check(engine_tok_encode(t, text, len, flags, &ids) == ERR_OK);
    check(engine_tok_encode(t, text, len, flags, &again) == ERR_OK);
    check(ids.n == again.n &&
          (ids.n == 0 || memcmp(ids.ids, again.ids, ids.n * sizeof(int32_t)) == 0));
    engine_detok_init(&d, t, false);
    for (size_t i = 0; i < ids.n; i++) {
        check(ids.ids[i] >= 0 && (uint32_t)ids.ids[i] < engine_tok_vocab(t));
        check(engine_detok_push(&d, t, ids.ids[i], true, &out) == ERR_OK);
    }
    check(engine_detok_finish(&d, &out) == ERR_OK);
    if (out.len > 0) { /* what comes out is UTF-8, so it goes in again */
        again.n = 0;
        check(engine_tok_encode(t, buf_bytes(&out), out.len, 0, &again) == ERR_OK);
    }
    engine_ids_free(&ids);
    engine_ids_free(&again);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char mixed[] =
        "Hello, w\xc3\xb6rld! It's  12345 <s>x</s> <|end|>\n\n \xf0\x9f\xa6\x99 "
        "e\xcc\x81\xcc\xa3 \xe2\x96\x81 ab<|end|>";
    char text[LONG_TEXT];
    size_t span[2] = {3, 30}, live = mem_live();
    struct engine_ids ids = {0};
    struct engine_tok *t = NULL;
    struct err_msg msg;

    msg.text[0] = '\0';
    if (engine_tok_open_json((const char *)data, size, &msg, &t) != ERR_OK) {
        check(t == NULL && msg.text[0] != '\0' && mem_live() == live);
        return 0;
    }
    for (unsigned flags = 0; flags < 4; flags++)
        check_text(t, mixed, sizeof(mixed) - 1, flags);
    check(engine_tok_encode_spans(t, mixed, sizeof(mixed) - 1, ENGINE_TOK_PARSE_SPECIAL, span, 1,
                                  &ids) == ERR_OK);
    engine_ids_free(&ids);
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "abababbaaab a"[i * (i / 7 + 1) % 13];
    check_text(t, text, sizeof(text), 0);
    memset(text, 'a', sizeof(text));
    check_text(t, text, sizeof(text), ENGINE_TOK_PARSE_SPECIAL);
    engine_tok_close(t);
    check(mem_live() == live);
    return 0;
}
