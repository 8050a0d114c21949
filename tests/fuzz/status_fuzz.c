/* tests/fuzz/status_fuzz.c - any bytes as the answer of a server to `baton status`: what is shown is printable,
 * the object can be read again, and nothing stays allocated. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/status_show.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void show(struct status *s)
{
    struct buf out = BUF_INIT;
    struct status again;

    if (status_show_table(s, s, 1, &out) != ERR_OK)
        abort();
    for (size_t i = 0; i < out.len; i++) {
        unsigned char c = (unsigned char)buf_bytes(&out)[i];

        if (c != '\n' && (c < 0x20 || c > 0x7e))
            abort(); /* a terminal would obey it */
    }
    buf_clear(&out);
    if (status_show_json(s, &out) != ERR_OK ||
        status_parse_state(buf_bytes(&out), out.len, &again) != ERR_OK)
        abort();
    if (again.n_workers != s->n_workers || again.n_tiers != s->n_tiers)
        abort();
    status_free(&again);
    buf_free(&out);
    status_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t live = mem_live();
    struct status s;

    if (status_parse_state((const char *)data, size, &s) == ERR_OK)
        show(&s);
    if (status_parse_metrics((const char *)data, size, &s) == ERR_OK)
        show(&s);
    if (mem_live() != live)
        abort();
    return 0;
}
