/* bench/load_sse.c - lines to events. */
#include "bench/load_sse.h"

#include <string.h>

/* One field of an event.  Only data matters here; id, event and retry are allowed and ignored. */
static enum err take_line(struct load_sse *s)
{
    const char *p = s->line.len > 0 ? buf_bytes(&s->line) : "";
    size_t len = s->line.len;
    enum err err;

    if (len < 5 || memcmp(p, "data:", 5) != 0)
        return ERR_OK;
    p += 5;
    len -= 5;
    if (len > 0 && *p == ' ') {
        p++;
        len--;
    }
    if (s->data.len + len + 1 > LOAD_EVENT_MAX)
        return ERR_LIMIT;
    if (s->has_data) {
        err = buf_append(&s->data, "\n", 1);
        if (err != ERR_OK)
            return err;
    }
    s->has_data = true;
    return buf_append(&s->data, p, len);
}

static enum err take_event(struct load_sse *s, load_chunk_fn on_chunk, void *arg)
{
    struct load_chunk chunk = {0};
    enum err err = ERR_OK;

    if (!s->has_data)
        return ERR_OK;
    if (s->data.len >= 6 && memcmp(buf_bytes(&s->data), "[DONE]", 6) == 0)
        chunk.is_end = true;
    else if (s->data.len > 0)
        err = load_chunk_read(buf_bytes(&s->data), s->data.len, &chunk);
    else
        err = ERR_BAD_FRAME;
    buf_clear(&s->data);
    s->has_data = false;
    if (err == ERR_OK)
        on_chunk(arg, &chunk);
    return err;
}

static enum err end_line(struct load_sse *s, load_chunk_fn on_chunk, void *arg)
{
    enum err err = s->line.len == 0 ? take_event(s, on_chunk, arg) : take_line(s);

    buf_clear(&s->line);
    return err;
}

enum err load_sse_feed(struct load_sse *s, const char *bytes, size_t len, load_chunk_fn on_chunk,
                       void *arg)
{
    enum err err = ERR_OK;
    size_t from = 0;

    for (size_t i = 0; i <= len && err == ERR_OK; i++) {
        bool breaks = i < len && (bytes[i] == '\n' || bytes[i] == '\r');

        if (i < len && bytes[i] == '\n' && s->after_cr && i == from) {
            s->after_cr = false;
            from = i + 1;
            continue;
        }
        if (i < len && !breaks) {
            s->after_cr = false;
            continue;
        }
        if (s->line.len + (i - from) > LOAD_EVENT_MAX)
            return ERR_LIMIT;
        if (i > from)
            err = buf_append(&s->line, bytes + from, i - from);
        if (breaks && err == ERR_OK) {
            s->after_cr = bytes[i] == '\r';
            err = end_line(s, on_chunk, arg);
        }
        from = i + 1;
    }
    return err;
}

void load_sse_fini(struct load_sse *s)
{
    buf_free(&s->line);
    buf_free(&s->data);
}
