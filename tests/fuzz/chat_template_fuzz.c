/* tests/fuzz/chat_template_fuzz.c - any bytes as a chat template: a clean error, or one that renders or
 * fails cleanly, with spans in order inside the output. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/engine_chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool fine)
{
    if (!fine)
        abort();
}

static void check_render(const struct engine_chat *c, const struct engine_chat_message *m, size_t n,
                         bool add)
{
    struct buf out = BUF_INIT;
    size_t *spans = NULL, n_spans = 0, at = 0;
    struct err_msg msg;
    enum err err = engine_chat_render(c, m, n, add, 1767323045, &out, &spans, &n_spans, &msg);

    check(err == ERR_OK || err == ERR_INVALID || err == ERR_LIMIT);
    check(err == ERR_OK || (out.len == 0 && spans == NULL && n_spans == 0));
    for (size_t i = 0; i < n_spans; i++) {
        check(spans[2 * i] >= at && spans[2 * i] < spans[2 * i + 1]);
        at = spans[2 * i + 1];
    }
    check(at <= out.len);
    mem_free(spans);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct engine_chat_message m[] = {{"system", " be brief\n", 10},
                                                   {"user", "h\xc3\xa9llo {{ x }}", 14},
                                                   {"assistant", "", 0},
                                                   {"user", "why?", 4}};
    size_t live = mem_live();
    struct engine_chat *c = NULL;
    struct err_msg msg;

    msg.text[0] = '\0';
    if (engine_chat_compile((const char *)data, size, "<s>", "</s>", &msg, &c) != ERR_OK) {
        check(c == NULL && msg.text[0] != '\0' && mem_live() == live);
        return 0;
    }
    check_render(c, m, 4, true);
    check_render(c, m + 1, 1, false);
    check_render(c, NULL, 0, true);
    engine_chat_close(c);
    check(mem_live() == live);
    return 0;
}
