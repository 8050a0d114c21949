/* daemon/stop.c - see the header for the contract. */
#include "daemon/stop.h"

#include <stdint.h>
#include <string.h>

/* The earliest complete stop string in text; of those that start together the longest. */
static bool find_first(const struct daemon_stop *s, const char *text, size_t len, size_t *at,
                       size_t *n)
{
    size_t best = SIZE_MAX;

    for (size_t i = 0; i < s->n; i++) {
        const char *hit = memmem(text, len, s->strings[i], s->lens[i]);

        if (hit == NULL)
            continue;
        if ((size_t)(hit - text) < best || ((size_t)(hit - text) == best && s->lens[i] > *n)) {
            best = (size_t)(hit - text);
            *n = s->lens[i];
        }
    }
    *at = best;
    return best != SIZE_MAX;
}

/* How many bytes at the end of text could still become a stop string. */
static size_t open_suffix(const struct daemon_stop *s, const char *text, size_t len)
{
    size_t longest = 0;

    for (size_t i = 0; i < s->n; i++) {
        size_t n = s->lens[i] - 1;

        if (n > len)
            n = len;
        while (n > longest && memcmp(text + len - n, s->strings[i], n) != 0)
            n--;
        if (n > longest)
            longest = n;
    }
    return longest;
}

enum err daemon_stop_push(struct daemon_stop *s, const char *text, size_t len, struct buf *out,
                          bool *hit)
{
    size_t at, n = 0, sure;
    enum err err;

    *hit = false;
    if (s->n == 0)
        return buf_append(out, text, len);
    err = buf_append(&s->held, text, len);
    if (err != ERR_OK || s->held.len == 0)
        return err;
    if (find_first(s, buf_bytes(&s->held), s->held.len, &at, &n)) {
        *hit = true;
        err = buf_append(out, buf_bytes(&s->held), s->keep ? at + n : at);
        buf_clear(&s->held);
        return err;
    }
    sure = s->held.len - open_suffix(s, buf_bytes(&s->held), s->held.len);
    err = buf_append(out, buf_bytes(&s->held), sure);
    if (err == ERR_OK)
        buf_consume(&s->held, sure);
    return err;
}

enum err daemon_stop_finish(struct daemon_stop *s, struct buf *out)
{
    enum err err = ERR_OK;

    if (s->held.len > 0)
        err = buf_append(out, buf_bytes(&s->held), s->held.len);
    if (err == ERR_OK)
        buf_clear(&s->held);
    return err;
}

void daemon_stop_free(struct daemon_stop *s)
{
    buf_free(&s->held);
}
